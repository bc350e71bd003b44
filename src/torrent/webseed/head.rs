//! The head of a web seed's answer: whether it is what was asked for, and which bytes of it are wanted (RFC 9110). Pure.

use std::time::Duration;

use super::WebError;
use super::place::Fetch;

/// Largest file that is taken whole where a part was asked for, bytes: what it costs beyond the part is little.
pub const MAX_WHOLE: u64 = 1 << 20;

/// Longest wait that a server can ask for.
pub const MAX_WAIT: Duration = Duration::from_secs(3600);

/// Longest URL that a server can redirect to, bytes: those of file stores carry signatures.
pub const MAX_LOCATION: usize = 8 << 10;

/// What `Content-Range` says (RFC 9110 §14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// First and last byte; `None` where the range that was asked for is not there.
    pub range: Option<(u64, u64)>,
    /// Length of the whole; `None` where the server does not say.
    pub whole: Option<u64>,
}

impl ContentRange {
    /// Reads a field's value.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?.trim();
        let (unit, rest) = text.split_once(' ')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (range, whole) = rest.trim_start().split_once('/')?;
        let whole = match whole {
            "*" => None,
            digits => Some(number(digits)?),
        };
        let range = match range {
            "*" => None,
            range => {
                let (first, last) = range.split_once('-')?;
                let (first, last) = (number(first)?, number(last)?);
                let fits = first <= last && whole.is_none_or(|whole| last < whole);
                Some(fits.then_some((first, last))?)
            }
        };
        (range.is_some() || whole.is_some()).then_some(Self { range, whole })
    }
}

/// A number as the RFC writes it: digits alone, without the sign that Rust would take.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// What is known of an answer from its head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    status: u16,
    /// `Some(None)` where it is there and says nothing.
    range: Option<Option<ContentRange>>,
    length: Option<u64>,
    encoded: bool,
    location: Option<String>,
    retry_after: Option<Duration>,
}

/// What to do with an answer.
#[derive(Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Pass over `skip` bytes of the body, then take `len`.
    Take {
        /// Bytes before those wanted.
        skip: u64,
        /// Bytes wanted, at least one and at most as many as were asked for.
        len: u64,
    },
    /// Ask there.
    Redirect(String),
}

impl Head {
    /// Reads status and fields, whose names may be of any case.
    pub fn read<'a>(status: u16, fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut head = Self {
            status,
            ..Self::default()
        };
        for (name, value) in fields {
            let text = || std::str::from_utf8(value).ok().map(str::trim);
            match name.to_ascii_lowercase().as_str() {
                "content-range" => {
                    // Two of them are two answers.
                    let before = head.range.is_some();
                    head.range = Some(ContentRange::parse(value).filter(|_| !before));
                }
                "content-length" => head.length = text().and_then(number),
                "content-encoding" => {
                    head.encoded |= !text().is_some_and(|text| {
                        text.is_empty() || text.eq_ignore_ascii_case("identity")
                    });
                }
                "location" => {
                    let fit = text().filter(|text| text.len() <= MAX_LOCATION);
                    head.location = fit.map(str::to_owned);
                }
                // As a date it says nothing here: our clock stays ours.
                "retry-after" => {
                    let seconds = text().and_then(number).map(Duration::from_secs);
                    head.retry_after = seconds.map(|wait| wait.min(MAX_WAIT));
                }
                _ => {}
            }
        }
        head
    }

    /// What the answer is worth to who asked for this.
    ///
    /// # Errors
    /// It is not what was asked for; the error says what that means for the seed.
    pub fn judge(self, fetch: &Fetch) -> Result<Verdict, WebError> {
        match self.status {
            200 | 206 if self.encoded => Err(WebError::Encoded),
            206 => self.partial(fetch),
            200 => self.whole(fetch),
            301 | 302 | 303 | 307 | 308 => self
                .location
                .map(Verdict::Redirect)
                .ok_or(WebError::Redirect),
            401 | 403 | 404 | 410 | 416 => Err(WebError::Missing),
            429 | 503 => Err(WebError::Busy(self.retry_after)),
            status => Err(WebError::Status(status)),
        }
    }

    fn partial(&self, fetch: &Fetch) -> Result<Verdict, WebError> {
        let range = self.range.flatten().ok_or(WebError::Malformed)?;
        let (first, last) = range.range.ok_or(WebError::Malformed)?;
        if range.whole.is_some_and(|whole| whole != fetch.whole) {
            // Another file, by the same name.
            return Err(WebError::Missing);
        }
        let len = (last - first).checked_add(1).ok_or(WebError::Malformed)?;
        // Less than was asked for is allowed; something else is not.
        let fits = first == fetch.first && len <= fetch.len;
        if !fits || self.length.is_some_and(|length| length != len) {
            return Err(WebError::Malformed);
        }
        Ok(Verdict::Take { skip: 0, len })
    }

    fn whole(&self, fetch: &Fetch) -> Result<Verdict, WebError> {
        if self.length.is_some_and(|length| length != fetch.whole) {
            return Err(WebError::Missing);
        }
        if fetch.len < fetch.whole && fetch.whole > MAX_WHOLE {
            return Err(WebError::NoRanges);
        }
        Ok(Verdict::Take {
            skip: fetch.first,
            len: fetch.len,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn wanted(first: u64, len: u64, whole: u64) -> Fetch {
        Fetch {
            path: "/".to_owned(),
            file: Some(0),
            first,
            len,
            whole,
        }
    }

    fn judge(status: u16, fields: &[(&str, &str)], fetch: &Fetch) -> Result<(u64, u64), WebError> {
        let fields = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
        match Head::read(status, fields).judge(fetch)? {
            Verdict::Take { skip, len } => Ok((skip, len)),
            Verdict::Redirect(_) => panic!("a redirect"),
        }
    }

    #[test]
    fn ranges_read_and_others_do_not() {
        let range = |range, whole| Some(ContentRange { range, whole });
        for (text, read) in [
            ("bytes 0-499/1234", range(Some((0, 499)), Some(1234))),
            ("Bytes 7-7/*", range(Some((7, 7)), None)),
            ("bytes */1234", range(None, Some(1234))),
            ("bytes */*", None),
            ("bytes 5-4/9", None),
            ("bytes 5-9/9", None),
            ("bytes +5-9/19", None),
            ("bytes 5-/19", None),
            ("bytes -5/19", None),
            ("items 0-1/2", None),
            ("bytes=0-1/2", None),
            ("bytes 0-18446744073709551616/*", None),
            ("", None),
        ] {
            assert_eq!(ContentRange::parse(text.as_bytes()), read, "{text}");
        }
    }

    #[test]
    fn only_what_was_asked_for_is_taken() {
        let fetch = wanted(100, 50, 1000);
        let range = |value: &str| judge(206, &[("Content-Range", value)], &fetch);
        assert_eq!(range("bytes 100-149/1000"), Ok((0, 50)));
        assert_eq!(range("bytes 100-149/*"), Ok((0, 50)));
        assert_eq!(range("bytes 100-119/1000"), Ok((0, 20)), "less is allowed");
        for (value, error) in [
            ("bytes 100-150/1000", WebError::Malformed),
            ("bytes 0-49/1000", WebError::Malformed),
            ("bytes 101-149/1000", WebError::Malformed),
            ("bytes 0-18446744073709551615/*", WebError::Malformed),
            ("bytes */1000", WebError::Malformed),
            ("bytes 100-149/1001", WebError::Missing),
            ("multipart", WebError::Malformed),
        ] {
            assert_eq!(range(value), Err(error), "{value}");
        }
        assert_eq!(judge(206, &[], &fetch), Err(WebError::Malformed));
        let good = ("content-range", "bytes 100-149/1000");
        assert_eq!(judge(206, &[good, good], &fetch), Err(WebError::Malformed));
        let longer = judge(206, &[good, ("content-length", "51")], &fetch);
        assert_eq!(longer, Err(WebError::Malformed));
        let zipped = judge(206, &[good, ("content-encoding", "gzip")], &fetch);
        assert_eq!(zipped, Err(WebError::Encoded));
        let plain = judge(206, &[good, ("content-encoding", "identity")], &fetch);
        assert_eq!(plain, Ok((0, 50)));
    }

    #[test]
    fn a_whole_file_is_taken_where_that_costs_little() {
        assert_eq!(judge(200, &[], &wanted(100, 50, 1000)), Ok((100, 50)));
        let large = 100 << 20;
        assert_eq!(judge(200, &[], &wanted(0, large, large)), Ok((0, large)));
        for (first, len) in [(1, large - 1), (0, large - 1)] {
            let answer = judge(200, &[], &wanted(first, len, large));
            assert_eq!(answer, Err(WebError::NoRanges));
        }
        let length = [("content-length", "999")];
        assert_eq!(
            judge(200, &length, &wanted(0, 5, 1000)),
            Err(WebError::Missing)
        );
    }

    #[test]
    fn other_statuses_say_what_to_do() {
        let fetch = wanted(0, 1, 1);
        let wait = |value: &str| judge(503, &[("retry-after", value)], &fetch);
        let seconds = |n| Err(WebError::Busy(Some(Duration::from_secs(n))));
        assert_eq!(wait("120"), seconds(120));
        assert_eq!(wait("999999999"), seconds(3600));
        assert_eq!(
            wait("Fri, 31 Dec 1999 23:59:59 GMT"),
            Err(WebError::Busy(None))
        );
        assert_eq!(judge(429, &[], &fetch), Err(WebError::Busy(None)));
        for status in [401, 403, 404, 410, 416] {
            assert_eq!(judge(status, &[], &fetch), Err(WebError::Missing));
        }
        assert_eq!(judge(500, &[], &fetch), Err(WebError::Status(500)));
        assert_eq!(judge(204, &[], &fetch), Err(WebError::Status(204)));
        assert_eq!(judge(302, &[], &fetch), Err(WebError::Redirect));
        let long = "x".repeat(MAX_LOCATION + 1);
        assert_eq!(
            judge(302, &[("location", &long)], &fetch),
            Err(WebError::Redirect)
        );
    }

    proptest! {
        #[test]
        fn whatever_is_taken_was_asked_for(
            status in prop_oneof![Just(200_u16), Just(206), 100_u16..600],
            fields in prop::collection::vec(
                ("content-(range|length|encoding)|location|retry-after", "(bytes )?[0-9*/-]{0,30}"),
                0..4,
            ),
            first in 0_u64..2000, len in 1_u64..2000, more in 0_u64..(4 << 20),
        ) {
            let fetch = wanted(first, len, first + len + more);
            let pairs: Vec<(&str, &str)> =
                fields.iter().map(|(name, value)| (&**name, &**value)).collect();
            let pairs = pairs.iter().map(|(name, value)| (*name, value.as_bytes()));
            if let Ok(Verdict::Take { skip, len }) = Head::read(status, pairs).judge(&fetch) {
                prop_assert!(len >= 1 && len <= fetch.len);
                prop_assert!(skip == 0 || skip == fetch.first);
                prop_assert!(skip + len <= fetch.whole && skip <= MAX_WHOLE);
            }
        }
    }
}
