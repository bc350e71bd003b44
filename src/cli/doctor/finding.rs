//! What the doctor finds: how bad it is, where, what it means, and what to do.

/// How bad a finding is, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Danger {
    /// Shows who or where the user is, or lets strangers confirm it.
    Leak,
    /// Nothing works, or not safely, until it is mended.
    Broken,
    /// Safe, but worth knowing.
    Note,
    /// As it should be.
    Fine,
}

impl Danger {
    /// One word for a table.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Leak => "LEAK",
            Self::Broken => "BROKEN",
            Self::Note => "note",
            Self::Fine => "fine",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// How bad.
    pub danger: Danger,
    /// What was looked at: `network`, `proxy`, `run`, a client's name, or a client's name and process id.
    pub place: String,
    /// What is the matter.
    pub what: String,
    /// What to do; empty where there is nothing to do.
    pub remedy: String,
}

impl Finding {
    /// A finding with a remedy.
    pub(super) fn new(
        danger: Danger,
        place: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            danger,
            place: place.to_owned(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// Something that is as it should be.
    pub(super) fn fine(place: &str, what: impl Into<String>) -> Self {
        Self::new(Danger::Fine, place, what, "")
    }
}
