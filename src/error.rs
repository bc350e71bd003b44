//! The error that the command line shows: a sentence, a hint, and an exit code for scripts.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

/// Whose doing an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A rule forbade it: ours, or a relay's.
    Policy,
    /// No way through: no relay, no circuit, no connection.
    Network,
    /// The other side answered wrongly or refused.
    Remote,
    /// This machine: files, configuration, arguments.
    Local,
    /// A mistake in hushswarm.
    Bug,
}

/// Whether to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// It would fail again until somebody changes something.
    Never,
    /// At once, through another circuit.
    NewCircuit,
    /// After this time.
    After(Duration),
}

/// How the process ends, for scripts. Success is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// 1: something failed that has no code of its own.
    Failed,
    /// 2: wrong arguments (what clap uses too).
    Usage,
    /// 3: no network file or no good relay list.
    NoNetwork,
    /// 4: nothing could be reached.
    Unreachable,
    /// 5: not a torrent or magnet link that can be used.
    BadTorrent,
    /// 6: the disk is full, or a file can't be read or written.
    Disk,
    /// 130: interrupted by the user (128 + SIGINT).
    Interrupted,
}

impl Exit {
    /// The code that the process ends with.
    pub const fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NoNetwork => 3,
            Self::Unreachable => 4,
            Self::BadTorrent => 5,
            Self::Disk => 6,
            Self::Interrupted => 130,
        }
    }
}

/// An error for the user. `Display` gives the sentence, without cause and hint; [`Error::report`] gives all.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    exit: Exit,
    retry: Retry,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Makes an error that ends the process with code 1. The message names what failed, not why, and no address,
    /// infohash or host name.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let retry = match kind {
            Kind::Network | Kind::Remote => Retry::NewCircuit,
            Kind::Policy | Kind::Local | Kind::Bug => Retry::Never,
        };
        Self {
            kind,
            exit: Exit::Failed,
            retry,
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    /// An error of this machine.
    pub fn local(message: impl Into<String>) -> Self {
        Self::new(Kind::Local, message)
    }

    /// Says what the user can do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Sets how the process ends.
    #[must_use]
    pub fn with_exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Sets whether to try again.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Whose doing it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether to try again.
    pub fn retry(&self) -> Retry {
        self.retry
    }

    /// How the process should end.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// The code that the process should end with.
    pub fn exit_code(&self) -> u8 {
        self.exit.code()
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Writes the whole story: `error: what: why`, and the hint below it.
    ///
    /// # Errors
    /// The writer failed: nothing more can be told.
    pub fn report(&self, out: &mut dyn io::Write) -> io::Result<()> {
        write!(out, "error: {self}")?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(out, ": {error}")?;
            cause = error.source();
        }
        writeln!(out)?;
        match &self.hint {
            Some(hint) => writeln!(out, "  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(error: &Error) -> String {
        let mut out = Vec::new();
        assert!(error.report(&mut out).is_ok());
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn a_report_has_what_why_and_what_to_do() {
        let cause = io::Error::other("disk on fire");
        let error = Error::local("can't save")
            .with_source(cause)
            .with_hint("buy a new disk");
        assert_eq!(
            shown(&error),
            "error: can't save: disk on fire\n  hint: buy a new disk\n"
        );
        assert_eq!(shown(&Error::local("can't save")), "error: can't save\n");
    }

    #[test]
    fn exit_codes_are_those_of_the_manual() {
        let codes = [
            (Exit::Failed, 1),
            (Exit::Usage, 2),
            (Exit::NoNetwork, 3),
            (Exit::Unreachable, 4),
            (Exit::BadTorrent, 5),
            (Exit::Disk, 6),
            (Exit::Interrupted, 130),
        ];
        for (exit, code) in codes {
            assert_eq!(Error::local("x").with_exit(exit).exit_code(), code);
        }
        assert_eq!(Error::local("x").exit_code(), 1);
    }

    #[test]
    fn only_errors_of_others_are_worth_another_circuit() {
        let table = [
            (Kind::Policy, Retry::Never),
            (Kind::Network, Retry::NewCircuit),
            (Kind::Remote, Retry::NewCircuit),
            (Kind::Local, Retry::Never),
            (Kind::Bug, Retry::Never),
        ];
        for (kind, retry) in table {
            let error = Error::new(kind, "x");
            assert_eq!((error.kind(), error.retry()), (kind, retry));
        }
        let wait = Retry::After(Duration::from_secs(60));
        assert_eq!(
            Error::new(Kind::Network, "x").with_retry(wait).retry(),
            wait
        );
    }
}
