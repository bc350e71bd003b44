//! The world's name server (RFC 1035): one datagram in, one out. It knows the names of the world and no others.

use std::net::IpAddr;

/// Longest query that is read, bytes: more than one question with EDNS options needs.
pub const MAX_QUERY: usize = 1232;
const HEADER: usize = 12;
/// Longest name, bytes (RFC 1035 §2.3.4).
const MAX_NAME: usize = 255;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
/// How long an answer may be kept, seconds: not at all, so that every use of a name is seen.
const TTL: u32 = 0;
/// The name exists not.
const NXDOMAIN: u8 = 3;

/// A question.
#[derive(Clone, PartialEq, Eq)]
pub struct Question {
    /// The name in lower case, without the last dot.
    pub name: String,
    /// Record type.
    pub kind: u16,
    class: u16,
    id: [u8; 2],
    recursion: bool,
    /// The question as it came, for the answer.
    raw: Vec<u8>,
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl Question {
    /// Reads a query with one question. Anything else is no query.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..HEADER).filter(|_| bytes.len() <= MAX_QUERY)?;
        // A standard query (not a response, opcode 0) with one question.
        if header[2] & 0xf8 != 0 || header[4..6] != [0, 1] {
            return None;
        }
        let (mut at, mut name) = (HEADER, String::new());
        loop {
            let len = usize::from(*bytes.get(at)?);
            at += 1;
            if len == 0 {
                break;
            }
            // No compression in a first name.
            let label = bytes.get(at..at + len).filter(|_| len < 64)?;
            at += len;
            if !name.is_empty() {
                name.push('.');
            }
            // A byte that is no text is shown as one that is; such a name is unknown anyway.
            name.extend(label.iter().map(|byte| match byte {
                0x21..=0x7e => char::from(byte.to_ascii_lowercase()),
                _ => '?',
            }));
            if name.len() > MAX_NAME {
                return None;
            }
        }
        let pair = |at: usize| {
            let pair = bytes.get(at..at + 2)?.first_chunk::<2>()?;
            Some(u16::from_be_bytes(*pair))
        };
        Some(Self {
            name,
            kind: pair(at)?,
            class: pair(at + 2)?,
            id: [header[0], header[1]],
            recursion: header[2] & 1 == 1,
            raw: bytes[HEADER..at + 4].to_vec(),
        })
    }

    /// The response. `ips` are the name's addresses; `None` where it does not exist.
    pub fn answer(&self, ips: Option<&[IpAddr]>) -> Vec<u8> {
        let fits = |ip: &&IpAddr| {
            self.class == CLASS_IN
                && match ip {
                    IpAddr::V4(_) => self.kind == TYPE_A,
                    IpAddr::V6(_) => self.kind == TYPE_AAAA,
                }
        };
        let records: Vec<&IpAddr> = ips.unwrap_or_default().iter().filter(fits).collect();
        let code = if ips.is_some() { 0 } else { NXDOMAIN };
        let mut out = Vec::with_capacity(HEADER + self.raw.len() + records.len() * 28);
        out.extend(self.id);
        // A response, authoritative; recursion is what resolvers expect to be offered.
        out.extend([0x84 | u8::from(self.recursion), 0x80 | code, 0, 1]);
        out.extend(u16::try_from(records.len()).unwrap_or(0).to_be_bytes());
        out.extend([0; 4]);
        out.extend_from_slice(&self.raw);
        for ip in records {
            // The name is that of the question, at byte 12.
            out.extend([0xc0, 0x0c]);
            out.extend(self.kind.to_be_bytes());
            out.extend(CLASS_IN.to_be_bytes());
            out.extend(TTL.to_be_bytes());
            match ip {
                IpAddr::V4(ip) => {
                    out.extend([0, 4]);
                    out.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.extend([0, 16]);
                    out.extend(ip.octets());
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut out = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            out.push(label.len() as u8);
            out.extend(label.bytes());
        }
        out.push(0);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out
    }

    #[test]
    fn addresses_of_the_asked_family_are_given() {
        let ips = ["22.1.0.1".parse().unwrap(), "2a77::1".parse().unwrap()];
        let question = Question::parse(&query("Tracker.Example.NET", TYPE_A)).unwrap();
        assert_eq!(question.name, "tracker.example.net");
        let answer = question.answer(Some(&ips));
        assert_eq!(answer[..8], [7, 9, 0x85, 0x80, 0, 1, 0, 1]);
        assert!(answer.ends_with(&[0, 4, 22, 1, 0, 1]));
        let six = Question::parse(&query("a.b", TYPE_AAAA)).unwrap();
        let answer = six.answer(Some(&ips));
        assert_eq!(answer[6..8], [0, 1]);
        assert!(answer.ends_with(&[0x2a, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]));
    }

    #[test]
    fn unknown_names_and_other_types_have_no_records() {
        let ips = ["22.1.0.1".parse().unwrap()];
        let unknown = Question::parse(&query("a.b", TYPE_A)).unwrap().answer(None);
        assert_eq!(unknown[2..8], [0x85, 0x83, 0, 1, 0, 0]);
        let other = Question::parse(&query("a.b", 16))
            .unwrap()
            .answer(Some(&ips));
        assert_eq!(other[2..8], [0x85, 0x80, 0, 1, 0, 0]);
    }

    #[test]
    fn what_is_no_query_gets_no_answer() {
        let good = query("a.b", TYPE_A);
        assert!(Question::parse(&good[..good.len() - 1]).is_none());
        let mut response = good.clone();
        response[2] |= 0x80;
        assert!(Question::parse(&response).is_none());
        let mut two = good.clone();
        two[5] = 2;
        assert!(Question::parse(&two).is_none());
        let mut pointer = good;
        pointer[HEADER] = 0xc0;
        assert!(Question::parse(&pointer).is_none());
        let long = ["a".repeat(60).as_str(); 5].join(".");
        assert!(Question::parse(&query(&long, TYPE_A)).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(question) = Question::parse(&bytes) {
                let answer = question.answer(Some(&["22.1.0.1".parse().unwrap()]));
                prop_assert_eq!(&answer[..2], &bytes[..2]);
            }
        }

        #[test]
        fn names_come_back_in_lower_case(name in "[a-zA-Z0-9-]{1,20}(\\.[a-zA-Z0-9-]{1,20}){0,4}") {
            let question = Question::parse(&query(&name, TYPE_A)).unwrap();
            prop_assert_eq!(question.name, name.to_ascii_lowercase());
        }
    }
}
