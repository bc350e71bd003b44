//! How a hidden seed is reached, as visitors tell each other (PROTOCOL.md §8.5): its key, and the introduction points that
//! it stands at.

use std::collections::BTreeSet;
use std::fmt;

use super::wire::IntroductionId;
use crate::keys::RelayId;

/// Most introduction points of one contact. A seed that stands at more names these first.
pub const MAX_POINTS: usize = 8;
/// Longest contact, bytes.
pub const MAX_CONTACT: usize = HEAD_LEN + MAX_POINTS * POINT_LEN;

const VERSION: u8 = 1;
/// Of a seed that lets in only those whose keys it knows: who can't show one need not try.
const CLOSED: u8 = 2;
/// `version u8 | key[32] | count u8`.
const HEAD_LEN: usize = 1 + 32 + 1;
/// `relay[32] | introduction key[32]`.
const POINT_LEN: usize = 32 + 32;

/// An introduction point of a seed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// The relay that it is at, by its identity: whoever wants to go there finds it in his own signed list.
    pub relay: RelayId,
    /// The key that it has there.
    pub introduction: IntroductionId,
}

/// How a seed is reached. All of it is public to who knows the swarm; `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Contact {
    /// The seed's key in this swarm (X25519): two contacts with one key are one seed.
    pub key: [u8; 32],
    points: Vec<Point>,
    closed: bool,
}

/// Not a contact. Leave it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContactError {
    /// Shorter or longer than it says, or of another version.
    #[error("not a contact of version {VERSION} or {CLOSED}")]
    Shape,
    /// No introduction point, more than [`MAX_POINTS`], or one named twice.
    #[error("a contact names 1 to {MAX_POINTS} different introduction points")]
    Points,
}

impl Contact {
    /// The contact of the seed with this key at these points.
    ///
    /// # Errors
    /// [`ContactError::Points`].
    pub fn new(key: [u8; 32], points: Vec<Point>) -> Result<Self, ContactError> {
        let different: BTreeSet<_> = points.iter().map(|point| point.introduction).collect();
        let all = different.len() == points.len();
        if points.is_empty() || points.len() > MAX_POINTS || !all {
            return Err(ContactError::Points);
        }
        Ok(Self {
            key,
            points,
            closed: false,
        })
    }

    /// The same of a seed that lets in only those whose keys it knows.
    #[must_use]
    pub fn closed(mut self, closed: bool) -> Self {
        self.closed = closed;
        self
    }

    /// Whether the seed lets in only those whose keys it knows.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Its introduction points, best first.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// `version u8 = 1, or 2 of a closed one | key[32] | count u8 | count × { relay[32] | introduction key[32] }`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_LEN + self.points.len() * POINT_LEN);
        out.push(if self.closed { CLOSED } else { VERSION });
        out.extend_from_slice(&self.key);
        out.push(u8::try_from(self.points.len()).unwrap_or(0));
        for point in &self.points {
            out.extend_from_slice(&point.relay.0);
            out.extend_from_slice(&point.introduction.0);
        }
        out
    }

    /// Reads a contact at the beginning; gives it and what follows.
    ///
    /// # Errors
    /// As said: leave it out, and what follows too.
    pub fn read(bytes: &[u8]) -> Result<(Self, &[u8]), ContactError> {
        let (&[version], rest) = bytes.split_first_chunk().ok_or(ContactError::Shape)?;
        let (key, rest) = rest.split_first_chunk::<32>().ok_or(ContactError::Shape)?;
        let (&[count], rest) = rest.split_first_chunk().ok_or(ContactError::Shape)?;
        let count = usize::from(count);
        if version != VERSION && version != CLOSED {
            return Err(ContactError::Shape);
        }
        if count > MAX_POINTS {
            return Err(ContactError::Points);
        }
        let (points, rest) = rest
            .split_at_checked(count * POINT_LEN)
            .ok_or(ContactError::Shape)?;
        let points = points
            .as_chunks::<POINT_LEN>()
            .0
            .iter()
            .filter_map(|point| {
                let (relay, introduction) = point.split_first_chunk::<32>()?;
                Some(Point {
                    relay: RelayId(*relay),
                    introduction: IntroductionId(introduction.try_into().ok()?),
                })
            });
        let contact = Self::new(*key, points.collect())?;
        Ok((contact.closed(version == CLOSED), rest))
    }

    /// Reads a contact, and nothing after it.
    ///
    /// # Errors
    /// As said: leave it out.
    pub fn parse(bytes: &[u8]) -> Result<Self, ContactError> {
        match Self::read(bytes)? {
            (contact, []) => Ok(contact),
            (_, [..]) => Err(ContactError::Shape),
        }
    }
}

impl fmt::Debug for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[point]")
    }
}

impl fmt::Debug for Contact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[contact]")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn point(byte: u8) -> Point {
        Point {
            relay: RelayId([byte; 32]),
            introduction: IntroductionId([byte ^ 0x80; 32]),
        }
    }

    #[test]
    fn a_contact_has_the_bytes_of_its_description() {
        let contact = Contact::new([7; 32], vec![point(1), point(2)]).unwrap();
        let mut bytes = vec![1];
        bytes.extend([7; 32]);
        bytes.push(2);
        bytes.extend([1; 32]);
        bytes.extend([0x81; 32]);
        bytes.extend([2; 32]);
        bytes.extend([0x82; 32]);
        assert_eq!(contact.encode(), bytes);
        assert_eq!(Contact::parse(&bytes), Ok(contact.clone()));
        let closed = contact.clone().closed(true);
        bytes[0] = 2;
        assert_eq!(closed.encode(), bytes);
        assert_eq!(Contact::parse(&bytes), Ok(closed.clone()));
        assert!(closed.is_closed() && !contact.is_closed() && closed != contact);
        assert_eq!(format!("{contact:?} {:?}", point(1)), "[contact] [point]");
    }

    #[test]
    fn contacts_that_break_a_limit_are_refused() {
        let points = |count: u8| (0..count).map(point).collect::<Vec<_>>();
        assert!(Contact::new([7; 32], points(8)).is_ok());
        for wrong in [points(0), points(9), vec![point(1), point(1)]] {
            assert_eq!(Contact::new([7; 32], wrong), Err(ContactError::Points));
        }
        let good = Contact::new([7; 32], points(3)).unwrap().encode();
        for cut in 0..good.len() {
            assert_eq!(Contact::parse(&good[..cut]), Err(ContactError::Shape));
        }
        let longer = [&good[..], &[0]].concat();
        assert_eq!(Contact::parse(&longer), Err(ContactError::Shape));
        assert_eq!(Contact::read(&longer).unwrap().1, [0]);
        for (at, byte, error) in [
            (0, 0, ContactError::Shape),
            (0, 3, ContactError::Shape),
            (33, 0, ContactError::Points),
            (33, 9, ContactError::Points),
            (33, 2, ContactError::Shape),
        ] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            assert_eq!(Contact::parse(&bytes), Err(error), "{at}: {byte}");
        }
    }

    proptest! {
        #[test]
        fn contacts_read_back_and_disturbed_ones_never_panic(
            key: [u8; 32],
            keys in prop::collection::btree_set(any::<[u8; 32]>(), 1..=MAX_POINTS),
            closed: bool,
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        ) {
            let points = keys.into_iter().map(|key| Point { relay: RelayId(key), introduction: IntroductionId(key) });
            let contact = Contact::new(key, points.collect()).unwrap().closed(closed);
            let mut bytes = contact.encode();
            prop_assert!(bytes.len() <= MAX_CONTACT);
            prop_assert_eq!(Contact::parse(&bytes), Ok(contact));
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(read) = Contact::parse(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }
    }
}
