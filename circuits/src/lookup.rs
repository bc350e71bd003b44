//! The answers of lookups (PROTOCOL.md §5.7): what the exit found out about a name or an address.

use std::fmt;
use std::net::IpAddr;

use crate::target::{Host, HostName, MAX_NAME, TargetError};

/// Most addresses in an answer. A program tries a few of them; a name may have hundreds.
pub const MAX_ADDRESSES: usize = 16;
/// Longest time an answer may be kept, seconds: what an exit says must not outlive a day.
pub const MAX_TTL: u32 = 86_400;
/// Longest answer, bytes: 16 IPv6 addresses. One name of the longest kind is shorter.
pub const MAX_ANSWER: usize = {
    let addresses = 1 + MAX_ADDRESSES * (1 + 16 + 4);
    let name = 1 + (2 + MAX_NAME + 4);
    if addresses > name { addresses } else { name }
};

/// What was found, and for how many seconds it may be kept each (0: not beyond this use).
#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    /// The addresses of a name, 1 to [`MAX_ADDRESSES`].
    Addresses(Vec<(IpAddr, u32)>),
    /// The name of an address.
    Name(HostName, u32),
}

/// The exit broke §5.7: take another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// No entry, or too many.
    #[error("an answer with {0} entries")]
    Count(usize),
    /// A name among addresses, or more than one.
    #[error("an answer that is neither addresses nor one name")]
    Mixed,
    /// An entry that may be kept for too long.
    #[error("an answer that may be kept for {0} s")]
    Ttl(u32),
    /// The bytes end early.
    #[error("an answer that is cut off")]
    CutOff,
    /// The bytes go on after the end.
    #[error("an answer with bytes after its end")]
    Trailing,
    /// A host that can't be read.
    #[error("bad host in an answer")]
    Host(#[from] TargetError),
}

impl Answer {
    /// The bytes of the stream: `count u8 | count x { host | ttl u32 }`, at most [`MAX_ANSWER`]. Addresses beyond
    /// [`MAX_ADDRESSES`] are left out, and times are cut to [`MAX_TTL`].
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |host: &Host, ttl: u32| {
            host.encode(&mut out);
            out.extend_from_slice(&ttl.min(MAX_TTL).to_be_bytes());
        };
        let count = match self {
            Self::Addresses(found) => {
                let found = &found[..found.len().min(MAX_ADDRESSES)];
                found.iter().for_each(|&(ip, ttl)| put(&Host::Ip(ip), ttl));
                found.len()
            }
            Self::Name(name, ttl) => {
                put(&Host::Name(name.clone()), *ttl);
                1
            }
        };
        // At most 16.
        out.insert(0, count as u8);
        out
    }

    /// Reads the whole stream.
    ///
    /// # Errors
    /// The exit broke §5.7: take another one.
    pub fn decode(bytes: &[u8]) -> Result<Self, AnswerError> {
        let (&count, mut rest) = bytes.split_first().ok_or(AnswerError::CutOff)?;
        let count = usize::from(count);
        if !(1..=MAX_ADDRESSES).contains(&count) {
            return Err(AnswerError::Count(count));
        }
        let mut addresses = Vec::with_capacity(count);
        let mut name = None;
        for _ in 0..count {
            let (host, after) = Host::decode(rest)?;
            let (ttl, after) = after.split_first_chunk().ok_or(AnswerError::CutOff)?;
            rest = after;
            let ttl = u32::from_be_bytes(*ttl);
            if ttl > MAX_TTL {
                return Err(AnswerError::Ttl(ttl));
            }
            match host.ok_or(AnswerError::Mixed)? {
                Host::Ip(ip) => addresses.push((ip, ttl)),
                Host::Name(_) if count > 1 => return Err(AnswerError::Mixed),
                Host::Name(found) => name = Some((found, ttl)),
            }
        }
        if !rest.is_empty() {
            return Err(AnswerError::Trailing);
        }
        Ok(match name {
            Some((name, ttl)) => Self::Name(name, ttl),
            None => Self::Addresses(addresses),
        })
    }
}

impl fmt::Debug for Answer {
    /// What was asked for is nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[answer]")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn ip() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(IpAddr::from)
        ]
    }

    proptest! {
        #[test]
        fn addresses_read_back(found in vec((ip(), 0..=MAX_TTL), 1..=MAX_ADDRESSES)) {
            let answer = Answer::Addresses(found);
            let bytes = answer.encode();
            prop_assert!(bytes.len() <= MAX_ANSWER);
            prop_assert_eq!(Answer::decode(&bytes), Ok(answer));
        }

        #[test]
        fn names_read_back(name in "[a-z0-9._-]{1,255}", ttl in 0..=MAX_TTL) {
            let answer = Answer::Name(HostName::new(&name).unwrap(), ttl);
            let bytes = answer.encode();
            prop_assert!(bytes.len() <= MAX_ANSWER);
            prop_assert_eq!(Answer::decode(&bytes), Ok(answer));
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(
            count in 0u8..18, kind in 0u8..5, rest in vec(prop_oneof![Just(0u8), 0u8..5, any::<u8>()], 0..400),
        ) {
            let bytes = [&[count, kind][..], &rest].concat();
            if let Ok(answer) = Answer::decode(&bytes) {
                prop_assert_eq!(answer.encode(), bytes);
            }
        }

        #[test]
        fn an_answer_that_is_cut_or_goes_on_is_refused(
            found in vec((ip(), 0..=MAX_TTL), 1..=MAX_ADDRESSES), cut in 0usize..400,
        ) {
            let mut bytes = Answer::Addresses(found).encode();
            let cut = cut % bytes.len();
            prop_assert!(Answer::decode(&bytes[..cut]).is_err());
            bytes.push(0);
            prop_assert_eq!(Answer::decode(&bytes), Err(AnswerError::Trailing));
        }
    }

    #[test]
    fn too_many_addresses_and_times_that_are_too_long_are_not_sent() {
        let found = vec![(IpAddr::from([192, 0, 2, 1]), u32::MAX); 40];
        let kept = vec![(IpAddr::from([192, 0, 2, 1]), MAX_TTL); MAX_ADDRESSES];
        let bytes = Answer::Addresses(found).encode();
        assert_eq!(Answer::decode(&bytes), Ok(Answer::Addresses(kept)));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        const V4: [u8; 9] = [1, 192, 0, 2, 1, 0, 0, 0, 60];
        const NAME: [u8; 7] = [3, 1, b'a', 0, 0, 0, 60];
        let answer = |parts: &[&[u8]]| Answer::decode(&parts.concat());
        assert!(answer(&[&[2], &V4, &V4]).is_ok() && answer(&[&[1], &NAME]).is_ok());
        assert_eq!(answer(&[&[]]), Err(AnswerError::CutOff));
        assert_eq!(answer(&[&[0]]), Err(AnswerError::Count(0)));
        let many = V4.repeat(17);
        assert_eq!(answer(&[&[17], &many]), Err(AnswerError::Count(17)));
        assert_eq!(answer(&[&[2], &NAME, &NAME]), Err(AnswerError::Mixed));
        assert_eq!(answer(&[&[2], &V4, &NAME]), Err(AnswerError::Mixed));
        assert_eq!(answer(&[&[1], &[0]]), Err(AnswerError::CutOff));
        assert_eq!(answer(&[&[1], &[0; 5]]), Err(AnswerError::Mixed));
        let ttl = [1, 192, 0, 2, 1, 0, 1, 0x51, 0x81];
        assert_eq!(answer(&[&[1], &ttl]), Err(AnswerError::Ttl(86_401)));
        let bad = AnswerError::Host(TargetError::BadName);
        let name = [3, 1, b' ', 0, 0, 0, 0];
        assert_eq!(answer(&[&[1], &name]), Err(bad));
    }

    #[test]
    fn nothing_shows_in_debug_output() {
        let answer = Answer::Addresses(vec![([192, 0, 2, 77].into(), 5)]);
        assert!(!format!("{answer:?}").contains("77"));
    }
}
