//! Redaction: what must not reach a log or an error shows as `[scrubbed]` (design: rule 4).

use std::fmt;

/// A value that shows as `[scrubbed]` in `Debug` and `Display`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Redacted<T>(T);

impl<T> Redacted<T> {
    /// Hides a value from logs.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself. Never give it to a log or an error.
    pub fn expose(&self) -> &T {
        &self.0
    }

    /// The value itself. Never give it to a log or an error.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[scrubbed]")
    }
}

impl<T> fmt::Display for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[scrubbed]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_debug_nor_display_shows_the_value() {
        let secret = Redacted::new("203.0.113.7");
        assert_eq!(format!("{secret} {secret:?}"), "[scrubbed] [scrubbed]");
    }
}
