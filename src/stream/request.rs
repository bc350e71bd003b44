//! Requests of players as they come in (RFC 9110, 9112): bytes in, values out.

use std::ops::Range;

use data_encoding::BASE64URL_NOPAD;

/// Longest request head, bytes.
pub const MAX_HEAD: usize = 8 << 10;

/// Bytes of randomness in a token.
pub const TOKEN_LEN: usize = 16;

/// What is served, and to whom: where it is called so, and for who has the token.
pub struct Site {
    token: String,
    name: String,
    port: u16,
}

/// It holds what lets in, and a name.
impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Site")
    }
}

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// More than the head of the answer.
    pub body: bool,
    /// Of which bytes.
    pub range: Option<&'a str>,
    /// Only if the file is still this one; else all of it.
    pub if_range: Option<&'a str>,
}

impl std::fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[request]")
    }
}

impl Site {
    /// A file with this name at this port of loopback, for who knows these random bytes.
    pub fn new(random: [u8; TOKEN_LEN], name: &str, port: u16) -> Self {
        Self {
            token: BASE64URL_NOPAD.encode(&random),
            name: name.to_owned(),
            port,
        }
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same as it stands in a path.
    pub fn path_name(&self) -> String {
        let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let mut path = String::new();
        for byte in self.name.bytes() {
            if unreserved(byte) {
                path.push(char::from(byte));
            } else {
                path.push_str(&format!("%{byte:02X}"));
            }
        }
        path
    }

    fn path(&self) -> String {
        format!("/{}/{}", self.token, self.path_name())
    }

    /// Where it is, for the user's player.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}{}", self.port, self.path())
    }

    /// Reads the head of a request, without the empty line at its end.
    ///
    /// # Errors
    /// The status to answer with.
    pub fn read<'a>(&self, head: &'a [u8]) -> Result<Request<'a>, &'static str> {
        const BAD: &str = "400 Bad Request";
        const FORBIDDEN: &str = "403 Forbidden";
        if head.len() > MAX_HEAD {
            return Err("431 Request Header Fields Too Large");
        }
        let head = std::str::from_utf8(head).map_err(|_| BAD)?;
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(BAD);
        };
        let (mut host, mut range, mut if_range) = (None, None, None);
        for line in lines {
            let (name, value) = line.split_once(':').ok_or(BAD)?;
            let value = value.trim_matches([' ', '\t']);
            let once = match name.to_ascii_lowercase().as_str() {
                "host" => host.replace(value),
                "range" => range.replace(value),
                "if-range" => if_range.replace(value),
                // A page asks. What the user types into the browser comes from nowhere (L50).
                "origin" => return Err(FORBIDDEN),
                "sec-fetch-site" if !matches!(value, "none" | "same-origin") => {
                    return Err(FORBIDDEN);
                }
                _ => None,
            };
            // Two of them are read one way here and another way elsewhere.
            if once.is_some() {
                return Err(BAD);
            }
        }
        // A name that leads to loopback by a trick is another's (DNS rebinding).
        if !host.is_some_and(|host| self.is_called(host)) {
            return Err(FORBIDDEN);
        }
        // Hashes are compared: how far a guess is right does not show.
        if blake3::hash(target.as_bytes()) != blake3::hash(self.path().as_bytes()) {
            return Err("404 Not Found");
        }
        let body = match method {
            "GET" => true,
            "HEAD" => false,
            _ => return Err("405 Method Not Allowed"),
        };
        Ok(Request {
            body,
            range,
            if_range,
        })
    }

    fn is_called(&self, host: &str) -> bool {
        let Some((name, port)) = host.rsplit_once(':') else {
            return false;
        };
        // As programs write it, and in no other way.
        let is_ours = port == self.port.to_string();
        is_ours && (name == "127.0.0.1" || name.eq_ignore_ascii_case("localhost"))
    }
}

/// Which bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All: no range that can be read, or several, which nobody has to serve (RFC 9110 §14.2).
    All,
    /// These; never none.
    Bytes(Range<u64>),
    /// None of those that were asked for is there.
    None,
}

/// Reads a `Range` of a file with so many bytes.
pub fn part(range: &str, len: u64) -> Part {
    let Some((unit, set)) = range.split_once('=') else {
        return Part::All;
    };
    if !unit.eq_ignore_ascii_case("bytes") {
        return Part::All;
    }
    let Some((first, last)) = set.trim_matches([' ', '\t']).split_once('-') else {
        return Part::All;
    };
    let wanted = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(len),
        (Some(first), None) if last.is_empty() => first..len,
        (None, Some(suffix)) if first.is_empty() => len.saturating_sub(suffix)..len,
        (Some(_) | None, _) => return Part::All,
    };
    if wanted.is_empty() {
        Part::None
    } else {
        Part::Bytes(wanted)
    }
}

/// Digits alone. What is beyond all numbers is beyond the end of every file.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn site() -> Site {
        Site::new([7; TOKEN_LEN], "a film (1).mkv", 4000)
    }

    fn head(method: &str, lines: &[&str]) -> Vec<u8> {
        let path = site().path();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:4000");
        for line in lines {
            head.push_str("\r\n");
            head.push_str(line);
        }
        head.into_bytes()
    }

    #[test]
    fn ranges_are_read_as_the_rfc_has_them() {
        for (range, wanted) in [
            ("bytes=0-0", Part::Bytes(0..1)),
            ("bytes=10-", Part::Bytes(10..100)),
            ("bytes=10-19", Part::Bytes(10..20)),
            ("Bytes= 90-1000 ", Part::Bytes(90..100)),
            ("bytes=-10", Part::Bytes(90..100)),
            ("bytes=-1000", Part::Bytes(0..100)),
            ("bytes=0-99999999999999999999999", Part::Bytes(0..100)),
            ("bytes=100-", Part::None),
            ("bytes=99999999999999999999999-", Part::None),
            ("bytes=-0", Part::None),
            ("bytes=2-1", Part::All),
            ("bytes=-", Part::All),
            ("bytes=0-1,3-4", Part::All),
            ("bytes=+1-2", Part::All),
            ("bytes=1-2-3", Part::All),
            ("lines=1-2", Part::All),
            ("bytes", Part::All),
        ] {
            assert_eq!(part(range, 100), wanted, "{range}");
        }
        assert_eq!(part("bytes=0-", 0), Part::None);
    }

    #[test]
    fn only_who_was_told_the_address_is_answered() {
        let site = site();
        let url = site.url();
        assert!(
            url.starts_with("http://127.0.0.1:4000/") && url.ends_with("/a%20film%20%281%29.mkv")
        );
        let asked = head("GET", &["Range: bytes=1-", "If-Range: \"x\""]);
        let request = Request {
            body: true,
            range: Some("bytes=1-"),
            if_range: Some("\"x\""),
        };
        assert_eq!(site.read(&asked), Ok(request));
        assert!(!site.read(&head("HEAD", &[])).unwrap().body);
        let says = |bytes: &[u8]| site.read(bytes).unwrap_err().get(..3).unwrap().to_owned();
        assert_eq!(says(&head("POST", &[])), "405");
        for foreign in [
            "Origin: null",
            "Origin: http://evil.test",
            "Sec-Fetch-Site: cross-site",
            "Sec-Fetch-Site: same-site",
        ] {
            assert_eq!(says(&head("GET", &[foreign])), "403", "{foreign}");
        }
        assert!(site.read(&head("GET", &["Sec-Fetch-Site: none"])).is_ok());
        let text = String::from_utf8(head("GET", &[])).unwrap();
        for host in [
            "evil.test",
            "evil.test:4000",
            "127.0.0.1",
            "127.0.0.1:4001",
            "localhost:+4000",
            "localhost:04000",
            "[::1]:4000",
        ] {
            let other = text.replace("127.0.0.1:4000", host);
            assert_eq!(says(other.as_bytes()), "403", "{host}");
        }
        assert!(
            site.read(text.replace("127.0.0.1", "localhost").as_bytes())
                .is_ok()
        );
        let other = Site::new([8; TOKEN_LEN], "a film (1).mkv", 4000);
        assert_eq!(other.read(text.as_bytes()).unwrap_err(), "404 Not Found");
        assert_eq!(says(&head("GET", &["Host: 127.0.0.1:4000"])), "400");
        assert_eq!(says(&head("GET", &["no header"])), "400");
        assert_eq!(says(b"GET / HTTP/2"), "400");
        let long = format!("X: {}", "x".repeat(MAX_HEAD));
        assert_eq!(says(&head("GET", &[&long])), "431");
        assert!(!format!("{site:?}").contains("film"));
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_file_and_any_bytes_are_answered(
            range in "(bytes=)?[0-9]{0,21}-?[0-9]{0,21}.{0,3}",
            len: u64,
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            match part(&range, len) {
                Part::Bytes(part) => prop_assert!(part.start < part.end && part.end <= len),
                Part::All | Part::None => {}
            }
            let _ = site().read(&bytes);
        }

        #[test]
        fn what_is_asked_for_is_what_is_given(a in 0_u64..1000, b in 0_u64..1000, len in 1_u64..1000) {
            let (first, last) = (a.min(b), a.max(b));
            let wanted = part(&format!("bytes={first}-{last}"), len);
            if first >= len {
                prop_assert_eq!(wanted, Part::None);
            } else {
                prop_assert_eq!(wanted, Part::Bytes(first..(last + 1).min(len)));
            }
        }
    }
}
