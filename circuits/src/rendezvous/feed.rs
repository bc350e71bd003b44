//! Feeds (PROTOCOL.md §8.7): one link that follows what a publisher puts out. The newest stands in the DHT, signed by the publisher and sealed to
//! those who have the link, under a name that changes every day.
//!
//! Only the publisher can write it, whoever has the link; and nobody can show an old item after its day, since the name is signed
//! with it.

use std::fmt;

use rand::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::contact::{Contact, MAX_CONTACT};
use super::item::{PLAIN_LEN, Period, VALUE_LEN, open_plain, seal_plain};
use crate::keys::{Key32, RelayId, derive_key};

/// Length of what a link holds, bytes.
pub const LINK_LEN: usize = 1 + 32 + 32 + CHECK_LEN;
/// Length of an item's salt (BEP 44), bytes.
pub const SALT_LEN: usize = 32;
/// Longest name, bytes.
pub const MAX_NAME: usize = 255;

/// Enough to notice a character that was lost or changed.
const CHECK_LEN: usize = 4;
const LINK_VERSION: u8 = 1;
const ISSUE_VERSION: u8 = 1;

const CHECK: &str = "hushswarm v1 feed link";
const ROOT: &str = "hushswarm v1 feed";
const SALT: &str = "hushswarm v1 feed salt";
const SEAL: &str = "hushswarm v1 feed seal";
const VALUE: &str = "hushswarm v1 feed value";

/// Why something is no link to a feed, or no item of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// A character was lost or changed, or a later version made it: ask for it again.
    #[error("not the link of a feed, or not all of it")]
    Link,
    /// Sealed for another feed or day, or by who has not the link's secret: leave it out.
    #[error("not sealed for this feed and period")]
    Sealed,
    /// Sealed, but it says something else than [`Issue`]: a later version made it.
    #[error("not an issue of version {ISSUE_VERSION}")]
    Shape,
}

/// What a feed's link holds: who signs, and the secret that lets read. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct FeedKey {
    /// The publisher's key (Ed25519).
    pub public: RelayId,
    secret: Key32,
}

impl FeedKey {
    /// The feed of this publisher with this secret.
    pub fn new(public: RelayId, secret: Key32) -> Self {
        Self { public, secret }
    }

    /// `version u8 = 1 | public key[32] | secret[32] | check[4]`.
    pub fn encode(&self) -> Zeroizing<[u8; LINK_LEN]> {
        let mut out = Zeroizing::new([0; LINK_LEN]);
        let (head, check) = out.split_at_mut(LINK_LEN - CHECK_LEN);
        let (version, keys) = head.split_at_mut(1);
        let (public, secret) = keys.split_at_mut(32);
        version.copy_from_slice(&[LINK_VERSION]);
        public.copy_from_slice(&self.public.0);
        secret.copy_from_slice(self.secret.as_bytes());
        check.copy_from_slice(&check_of(head));
        out
    }

    /// Reads what a link holds.
    ///
    /// # Errors
    /// [`FeedError::Link`], and also where nothing can be signed by the key.
    pub fn parse(bytes: &[u8]) -> Result<Self, FeedError> {
        let bytes: &[u8; LINK_LEN] = bytes.try_into().map_err(|_| FeedError::Link)?;
        let (head, check) = bytes.split_at(LINK_LEN - CHECK_LEN);
        let right: bool = check_of(head).ct_eq(check).into();
        let [LINK_VERSION, keys @ ..] = head else {
            return Err(FeedError::Link);
        };
        let (public, secret) = keys.split_first_chunk::<32>().ok_or(FeedError::Link)?;
        let secret: [u8; 32] = secret.try_into().map_err(|_| FeedError::Link)?;
        let key = Self::new(RelayId(*public), Key32::new(secret));
        (right && key.public.is_sound())
            .then_some(key)
            .ok_or(FeedError::Link)
    }

    /// The periods in which there may be an item at this time (seconds since 1970), this one first.
    pub fn around(&self, now: u64) -> Vec<Period> {
        Period::around(self.root().as_bytes(), now)
    }

    /// The period that this time (seconds since 1970) is in.
    pub fn period(&self, now: u64) -> Period {
        Period::at(self.root().as_bytes(), now)
    }

    /// Where the newest stands in this period.
    pub fn place(&self, period: &Period) -> FeedPlace {
        let (root, number) = (self.root(), period.number().to_be_bytes());
        let material = [&root.as_bytes()[..], &number];
        FeedPlace {
            salt: *derive_key(SALT, &material).as_bytes(),
            seal: derive_key(SEAL, &material),
        }
    }

    /// The secret, for storing.
    pub const fn secret(&self) -> &Key32 {
        &self.secret
    }

    fn root(&self) -> Key32 {
        derive_key(ROOT, &[self.secret.as_bytes(), &self.public.0])
    }
}

impl fmt::Debug for FeedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[feed]")
    }
}

fn check_of(head: &[u8]) -> [u8; CHECK_LEN] {
    let digest = derive_key(CHECK, &[head]);
    let mut out = [0; CHECK_LEN];
    out.copy_from_slice(&digest.as_bytes()[..CHECK_LEN]);
    out
}

/// A feed's place in the DHT for one period. `Debug` hides it.
pub struct FeedPlace {
    salt: [u8; SALT_LEN],
    seal: Key32,
}

impl FeedPlace {
    /// The item's salt (BEP 44); its key is [`FeedKey::public`].
    pub fn salt(&self) -> &[u8; SALT_LEN] {
        &self.salt
    }

    /// Seals an issue; each value with a key of its own, so that a renewed one looks like a new one.
    pub fn seal(&self, issue: &Issue, rng: &mut dyn CryptoRng) -> [u8; VALUE_LEN] {
        seal_plain(VALUE, &self.seal, &issue.encode(), rng)
    }

    /// Opens what the publisher wrote.
    ///
    /// # Errors
    /// [`FeedError::Sealed`] or [`FeedError::Shape`].
    pub fn open(&self, value: &[u8]) -> Result<Issue, FeedError> {
        let plain = open_plain(VALUE, &self.seal, value).ok_or(FeedError::Sealed)?;
        Issue::decode(&plain)
    }
}

impl fmt::Debug for FeedPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[feed's place]")
    }
}

/// What a publisher puts out. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Issue {
    /// The newest has the highest: the time at which it was put out first (seconds since 1970), or one more than the one before.
    pub number: u64,
    /// Of the torrent.
    pub infohash: [u8; 20],
    /// Its name, for display; empty where there is none. What is longer than [`MAX_NAME`] is cut.
    pub name: String,
    /// How its hidden seed is reached; `None` where it is no hidden one.
    pub contact: Option<Contact>,
}

impl Issue {
    /// `version u8 | number u64 | infohash[20] | length u8 | name | count u8 (0 or 1) | count × contact | zeros`.
    pub fn encode(&self) -> Zeroizing<[u8; PLAIN_LEN]> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(PLAIN_LEN));
        bytes.push(ISSUE_VERSION);
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.extend_from_slice(&self.infohash);
        let mut end = self.name.len().min(MAX_NAME);
        while !self.name.is_char_boundary(end) {
            end -= 1;
        }
        let name = &self.name[..end];
        bytes.push(u8::try_from(name.len()).unwrap_or(0));
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(u8::from(self.contact.is_some()));
        if let Some(contact) = &self.contact {
            bytes.extend_from_slice(&contact.encode());
        }
        let mut out = Zeroizing::new([0; PLAIN_LEN]);
        out[..bytes.len()].copy_from_slice(&bytes);
        out
    }

    /// Reads what [`Issue::encode`] wrote.
    ///
    /// # Errors
    /// [`FeedError::Shape`].
    pub fn decode(plain: &[u8; PLAIN_LEN]) -> Result<Self, FeedError> {
        Self::read(plain).ok_or(FeedError::Shape)
    }

    fn read(plain: &[u8]) -> Option<Self> {
        let (&[ISSUE_VERSION], rest) = plain.split_first_chunk()? else {
            return None;
        };
        let (number, rest) = rest.split_first_chunk()?;
        let (infohash, rest) = rest.split_first_chunk()?;
        let (&[length], rest) = rest.split_first_chunk()?;
        let (name, rest) = rest.split_at_checked(length.into())?;
        let name = std::str::from_utf8(name).ok()?.to_owned();
        let (&[count], rest) = rest.split_first_chunk()?;
        let (contact, rest) = match count {
            0 => (None, rest),
            1 => {
                let (contact, rest) = Contact::read(rest).ok()?;
                // Those of closed seeds stand in links alone (§8.5).
                (!contact.is_closed()).then_some((Some(contact), rest))?
            }
            _ => return None,
        };
        let padded = rest.iter().all(|byte| *byte == 0);
        padded.then_some(Self {
            number: u64::from_be_bytes(*number),
            infohash: *infohash,
            name,
            contact,
        })
    }
}

impl fmt::Debug for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[issue]")
    }
}

// The longest name and contact fit.
const _: () = assert!(1 + 8 + 20 + 1 + MAX_NAME + 1 + MAX_CONTACT <= PLAIN_LEN);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::super::{IntroductionId, Point};
    use super::*;
    use crate::keys::IdentityKey;

    const NOW: u64 = 1_790_000_000;
    const DAY: u64 = 86_400;

    fn feed(key: u8, secret: u8) -> FeedKey {
        let public = IdentityKey::from_seed([key; 32]).public();
        FeedKey::new(public, Key32::new([secret; 32]))
    }

    fn contact(points: u8) -> Contact {
        let point = |n| Point {
            relay: RelayId([n; 32]),
            introduction: IntroductionId([n; 32]),
        };
        Contact::new([7; 32], (0..points).map(point).collect()).unwrap()
    }

    fn issue(name: &str, contact: Option<Contact>) -> Issue {
        Issue {
            number: NOW,
            infohash: [3; 20],
            name: name.to_owned(),
            contact,
        }
    }

    #[test]
    fn every_value_is_as_long_as_every_other_and_a_renewed_one_looks_new() {
        let place = feed(1, 2).place(&feed(1, 2).period(NOW));
        let mut rng = StdRng::seed_from_u64(1);
        let mut seen = BTreeSet::new();
        for issue in [
            issue("", None),
            issue("a name", Some(contact(1))),
            issue(&"n".repeat(MAX_NAME), Some(contact(8))),
        ] {
            for _ in 0..2 {
                let value = place.seal(&issue, &mut rng);
                assert_eq!(place.open(&value), Ok(issue.clone()));
                // No 16 bytes of one show in another at one place.
                assert!(
                    value
                        .chunks(16)
                        .enumerate()
                        .all(|part| seen.insert((part.0, part.1.to_vec())))
                );
            }
        }
    }

    #[test]
    fn only_who_has_the_link_finds_or_opens_it_and_only_on_its_day() {
        let here = feed(1, 2);
        let (period, tomorrow) = (here.period(NOW), here.period(NOW + DAY));
        let place = here.place(&period);
        let value = place.seal(&issue("name", None), &mut StdRng::seed_from_u64(1));
        let mut salts = BTreeSet::from([*place.salt()]);
        for (feed, period) in [
            (feed(1, 3), &period),
            (feed(2, 2), &period),
            (here.clone(), &tomorrow),
        ] {
            let other = feed.place(period);
            assert_eq!(other.open(&value), Err(FeedError::Sealed));
            assert!(salts.insert(*other.salt()));
        }
        for at in [0, 24, VALUE_LEN - 1] {
            let mut changed = value;
            changed[at] ^= 1;
            assert_eq!(place.open(&changed), Err(FeedError::Sealed));
        }
        for wrong in [&value[1..], &[], &[0; 2000]] {
            assert_eq!(place.open(wrong), Err(FeedError::Sealed));
        }
        let shown = format!("{here:?} {place:?} {:?}", issue("name", None));
        assert_eq!(shown, "[feed] [feed's place] [issue]");
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let long = issue(&format!("a{}", "é".repeat(200)), None);
        let read = Issue::decode(&long.encode()).unwrap();
        assert_eq!(read.name, format!("a{}", "é".repeat(127)));
    }

    #[test]
    fn what_is_no_issue_is_refused() {
        let good = issue("name", Some(contact(1))).encode();
        // Version, a name that is too long for the rest or no text, two contacts, another contact's version, what follows.
        for (at, byte) in [(0, 2), (30, 0xff), (34, 2), (35, 9), (PLAIN_LEN - 1, 1)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(Issue::decode(&bad), Err(FeedError::Shape), "{at}");
        }
        assert_eq!(Issue::decode(&[0; PLAIN_LEN]), Err(FeedError::Shape));
        let closed = issue("name", Some(contact(1).closed(true)));
        assert_eq!(Issue::decode(&closed.encode()), Err(FeedError::Shape));
    }

    #[test]
    fn a_link_with_any_other_character_is_refused() {
        let feed = feed(1, 2);
        let bytes = feed.encode();
        assert_eq!(FeedKey::parse(&bytes[..]), Ok(feed));
        for at in 0..LINK_LEN {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert_eq!(FeedKey::parse(&bad[..]), Err(FeedError::Link), "{at}");
        }
        assert_eq!(FeedKey::parse(&bytes[1..]), Err(FeedError::Link));
        // Anybody can sign for this key.
        let weak = FeedKey::new(RelayId([0; 32]), Key32::new([1; 32]));
        assert_eq!(FeedKey::parse(&weak.encode()[..]), Err(FeedError::Link));
    }

    proptest! {
        #[test]
        fn issues_come_back_and_anything_else_is_read_or_refused(
            number: u64,
            infohash: [u8; 20],
            name in "\\PC{0,60}",
            points in 0_u8..=8,
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let contact = (points > 0).then(|| contact(points));
            let issue = Issue { number, infohash, name, contact };
            let mut plain = issue.encode();
            prop_assert_eq!(&Issue::decode(&plain).unwrap(), &issue);
            for (at, byte) in edits {
                plain[at.index(PLAIN_LEN)] = byte;
            }
            if let Ok(read) = Issue::decode(&plain) {
                prop_assert_eq!(read.encode(), plain);
            }
        }

        #[test]
        fn links_come_back(key: [u8; 32], secret: [u8; 32]) {
            let feed = FeedKey::new(IdentityKey::from_seed(key).public(), Key32::new(secret));
            prop_assert_eq!(FeedKey::parse(&feed.encode()[..]), Ok(feed));
        }
    }
}
