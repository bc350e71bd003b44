//! Which names from a torrent may become names of files.
//!
//! One rule for every system: a torrent that is safe here is safe where its files are copied to. A name that is not
//! fit is refused and never changed, since two programs that change it differently no longer share the files.

/// Longest component, bytes: what common file systems take.
pub const MAX_COMPONENT: usize = 255;
/// Most components of a path, the torrent's name included: keeps whole paths under what systems take.
pub const MAX_COMPONENTS: usize = 64;

/// Why a path is refused. Says what is wrong, never the name itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// No components, or one without characters.
    #[error("a file name is empty")]
    Empty,
    /// `.` or `..`.
    #[error("a path contains \".\" or \"..\"")]
    Dots,
    /// `/` or `\` inside a component.
    #[error("a file name contains a path separator")]
    Separator,
    /// A control character, NUL among them.
    #[error("a file name contains a control character")]
    Control,
    /// Characters that turn the direction of text, by which `exe` is made to look like `jpg`.
    #[error("a file name contains characters that reorder how it is shown")]
    Reordering,
    /// One of `< > : " | ? *`.
    #[error("a file name contains a character that some systems reserve (< > : \" | ? *)")]
    ReservedCharacter,
    /// `CON`, `NUL`, `COM1` and the like, with or without an extension.
    #[error("a file name is the name of a device on some systems")]
    DeviceName,
    /// A dot or a space at the end, which some systems drop.
    #[error("a file name ends with a dot or a space")]
    TrailingDotOrSpace,
    /// Longer than [`MAX_COMPONENT`].
    #[error("a file name is longer than 255 bytes")]
    TooLong,
    /// More than [`MAX_COMPONENTS`].
    #[error("a path has more than 64 components")]
    TooDeep,
    /// Two files of one name, or a file named as another's directory, where systems ignore case.
    #[error("two paths are the same, or differ only in case")]
    Clash,
}

/// Refuses a component that is not fit to name a file or directory.
///
/// # Errors
/// The torrent can't be stored: tell the user why.
pub(super) fn check_component(name: &str) -> Result<(), PathError> {
    if name.is_empty() {
        return Err(PathError::Empty);
    }
    if name == "." || name == ".." {
        return Err(PathError::Dots);
    }
    if name.len() > MAX_COMPONENT {
        return Err(PathError::TooLong);
    }
    for c in name.chars() {
        match c {
            '/' | '\\' => return Err(PathError::Separator),
            '<' | '>' | ':' | '"' | '|' | '?' | '*' => return Err(PathError::ReservedCharacter),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => return Err(PathError::Reordering),
            // Line and paragraph separators break a line of output as a control character would.
            '\u{2028}' | '\u{2029}' => return Err(PathError::Control),
            c if c.is_control() => return Err(PathError::Control),
            _ => {}
        }
    }
    if name.ends_with(['.', ' ']) {
        return Err(PathError::TrailingDotOrSpace);
    }
    if is_device(name) {
        return Err(PathError::DeviceName);
    }
    Ok(())
}

/// Whether Windows takes the name for a device: it looks at what stands before the first dot.
fn is_device(name: &str) -> bool {
    let stem = name
        .split('.')
        .next()
        .unwrap_or(name)
        .trim_end()
        .to_ascii_uppercase();
    if matches!(
        stem.as_str(),
        "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$"
    ) {
        return true;
    }
    let Some(number) = stem
        .strip_prefix("COM")
        .or_else(|| stem.strip_prefix("LPT"))
    else {
        return false;
    };
    let mut chars = number.chars();
    matches!(
        (chars.next(), chars.next()),
        (Some('0'..='9' | '¹' | '²' | '³'), None)
    )
}

/// Makes text of a name. Bytes that are not UTF-8 become `%XX`, and then `%` itself `%25`, so that no two names meet.
pub(super) fn to_text(name: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(name) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(name.len() * 2);
    for chunk in name.utf8_chunks() {
        out.push_str(&chunk.valid().replace('%', "%25"));
        for byte in chunk.invalid() {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Refuses paths of which one is another, or another's directory, when case is ignored.
///
/// # Errors
/// [`PathError::Clash`]: the torrent can't be stored.
pub(super) fn check_distinct<'a>(
    paths: impl Iterator<Item = &'a [String]>,
) -> Result<(), PathError> {
    // NUL can't occur in a component and sorts first, so a path is followed at once by what would lie below it.
    let mut folded: Vec<String> = paths.map(|path| path.join("\0").to_lowercase()).collect();
    folded.sort_unstable();
    for (first, second) in folded.iter().zip(folded.iter().skip(1)) {
        if let Some(below) = second.strip_prefix(first.as_str())
            && (below.is_empty() || below.starts_with('\0'))
        {
            return Err(PathError::Clash);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn unfit_components_are_refused_with_the_reason() {
        let long = "x".repeat(256);
        for (name, error) in [
            ("", PathError::Empty),
            (".", PathError::Dots),
            ("..", PathError::Dots),
            ("/etc", PathError::Separator),
            ("a\\b", PathError::Separator),
            ("a\0b", PathError::Control),
            ("a\nb", PathError::Control),
            ("a\u{1b}[2J", PathError::Control),
            ("a\u{85}b", PathError::Control),
            ("a\u{2028}b", PathError::Control),
            ("photo\u{202e}gpj.exe", PathError::Reordering),
            ("C:", PathError::ReservedCharacter),
            ("what?", PathError::ReservedCharacter),
            ("CON", PathError::DeviceName),
            ("nul.txt", PathError::DeviceName),
            ("aux .tar.gz", PathError::DeviceName),
            ("Com1", PathError::DeviceName),
            ("lpt³.log", PathError::DeviceName),
            ("name.", PathError::TrailingDotOrSpace),
            ("...", PathError::TrailingDotOrSpace),
            ("name ", PathError::TrailingDotOrSpace),
            (&long, PathError::TooLong),
        ] {
            assert_eq!(check_component(name), Err(error), "{name:?}");
        }
    }

    #[test]
    fn ordinary_components_are_taken() {
        let longest = "x".repeat(255);
        for name in [
            "a",
            ".hidden",
            "..almost",
            "console",
            "com10",
            "COM",
            "null.txt",
            "日本語 (1).mkv",
            &longest,
        ] {
            assert_eq!(check_component(name), Ok(()), "{name:?}");
        }
    }

    fn distinct(paths: &[&[&str]]) -> Result<(), PathError> {
        let owned: Vec<Vec<String>> = paths
            .iter()
            .map(|p| p.iter().map(|&c| c.to_owned()).collect())
            .collect();
        check_distinct(owned.iter().map(Vec::as_slice))
    }

    #[test]
    fn paths_that_would_meet_on_disk_are_refused() {
        assert_eq!(distinct(&[&["t", "a"], &["t", "A"]]), Err(PathError::Clash));
        assert_eq!(distinct(&[&["t", "É"], &["t", "é"]]), Err(PathError::Clash));
        // A file where another needs a directory, with a name sorted between them by other rules.
        let paths: &[&[&str]] = &[&["t", "a"], &["t", "a b"], &["t", "A", "c"]];
        assert_eq!(distinct(paths), Err(PathError::Clash));
        assert_eq!(
            distinct(&[&["t", "a"], &["t", "ab"], &["t", "b", "a"]]),
            Ok(())
        );
    }

    proptest! {
        #[test]
        fn names_stay_apart_when_they_become_text(
            a in prop::collection::vec(any::<u8>(), 0..8),
            b in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            // Within one kind: text stays as it is, and escaped names differ wherever their bytes do.
            if a != b && std::str::from_utf8(&a).is_ok() == std::str::from_utf8(&b).is_ok() {
                prop_assert_ne!(to_text(&a), to_text(&b));
            }
        }
    }
}
