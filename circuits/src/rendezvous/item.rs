//! What hidden seeds write into the DHT (PROTOCOL.md §8.6): their contacts, sealed to the swarm, under names that change every day
//! and that only those can find who know the infohash.
//!
//! The keys are the swarm's, and no seed's: every member can write every slot, and so overwrite it. Whoever does not know the infohash
//! can neither find, read nor write one.

use std::fmt;

use rand::CryptoRng;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use zeroize::Zeroizing;

use super::contact::Contact;
use crate::frame::TAG_LEN;
use crate::keys::aead::Aead;
use crate::keys::{IdentityKey, Key32, Suite, derive_key};

/// Items of one swarm in one period.
pub const SLOTS: u8 = 4;
/// Contacts in one item.
pub const MAX_ENTRIES: usize = 4;
/// Introduction points of one contact in an item. A seed that stands at more names these first.
pub const MAX_POINTS: usize = 3;
/// Length of every value, bytes: with its length before it, as bencode writes it, less than the 1000 of BEP 44.
pub const VALUE_LEN: usize = SALT_LEN + PLAIN_LEN + TAG_LEN;
/// Length of what is sealed, bytes.
pub const PLAIN_LEN: usize = 2 + MAX_ENTRIES * ENTRY_LEN;

/// Names change after so long, seconds.
const PERIOD: u64 = 24 * 3600;
/// After a change the names before it are looked at for so long, seconds: as long as nodes keep items, and some.
const AFTER: u64 = 2 * 3600 + 900;
/// Clocks may be wrong by so much, seconds.
const SKEW: u32 = 600;
/// A contact that is older, seconds, is not passed on: nodes keep items for two hours, and seeds write them anew before.
const LIFE: u32 = 2 * 3600;

const SALT_LEN: usize = 24;
/// `written u32 | contact`.
const ENTRY_LEN: usize = 4 + 34 + MAX_POINTS * 64;
const VERSION: u8 = 1;

const ROOT: &[u8] = b"hushswarm hidden v1";
const OFFSET: &str = "hushswarm v1 hidden period";
const SIGNER: &str = "hushswarm v1 hidden item";
const SEAL: &str = "hushswarm v1 hidden item seal";
const VALUE: &str = "hushswarm v1 hidden item value";

/// A day of one swarm, which begins at a second of its own, so that not all swarms change at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    number: u64,
    /// When it begins, seconds since 1970; before that for the first.
    begins: i64,
}

impl Period {
    /// The one that this time (seconds since 1970) is in.
    pub fn at(infohash: &[u8], now: u64) -> Self {
        let offset = offset(infohash);
        let number = now.saturating_add(offset) / PERIOD;
        let begins = i64::try_from(number * PERIOD).unwrap_or(i64::MAX);
        Self {
            number,
            begins: begins.saturating_sub_unsigned(offset),
        }
    }

    /// Those in which there may be items now, this one first: for a while those of the one before live on, and somebody's clock may have begun the next.
    pub fn around(infohash: &[u8], now: u64) -> Vec<Self> {
        let mut out = vec![Self::at(infohash, now)];
        for other in [now.saturating_sub(AFTER), now.saturating_add(SKEW.into())] {
            let other = Self::at(infohash, other);
            if !out.contains(&other) {
                out.push(other);
            }
        }
        out
    }

    /// Seconds from its beginning to this time (seconds since 1970); 0 for what came before.
    pub fn since(&self, now: u64) -> u32 {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let since = now.saturating_sub(self.begins).max(0);
        u32::try_from(since).unwrap_or(u32::MAX)
    }

    /// Counts periods; goes into what is derived for one.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Seconds from this time (seconds since 1970) to its end; 0 after it.
    pub fn left(&self, now: u64) -> u64 {
        PERIOD.saturating_sub(self.since(now).into())
    }
}

impl fmt::Debug for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its beginning would tell the swarm.
        f.write_str("[period]")
    }
}

fn offset(infohash: &[u8]) -> u64 {
    let derived = derive_key(OFFSET, &[infohash]);
    let (first, _) = derived.as_bytes().split_at(8);
    first
        .iter()
        .fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
        % PERIOD
}

/// Not an item of this slot. Leave it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// It was not sealed by somebody who knows the swarm, or is another slot's.
    #[error("not sealed for this swarm, period and slot")]
    Forged,
    /// It says something else than contacts.
    #[error("not a list of at most {MAX_ENTRIES} contacts")]
    Shape,
}

/// A contact, and when it was written.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Seconds since the period began.
    pub written: u32,
    /// How the seed is reached.
    pub contact: Contact,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[entry]")
    }
}

/// A place in the DHT that a swarm has for one period. `Debug` hides it.
pub struct Slot {
    signer: IdentityKey,
    seal: Key32,
}

impl Slot {
    /// The slot with this number, below [`SLOTS`].
    pub fn new(infohash: &[u8], period: &Period, number: u8) -> Self {
        let mut root = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        let count = period.number.to_be_bytes();
        root.update(ROOT);
        root.update(&count);
        root.update(infohash);
        let root = root.finish();
        let material = [root.as_ref(), infohash, &count, &[number]];
        Self {
            signer: IdentityKey::from_seed(derive_key(SIGNER, &material)),
            seal: derive_key(SEAL, &material),
        }
    }

    /// Signs the slot's item (BEP 44), which has no salt; its public key names it.
    pub fn signer(&self) -> &IdentityKey {
        &self.signer
    }

    /// Seals contacts; those beyond [`MAX_ENTRIES`] are left out. Each value has a key of its own, from a random salt: two members who
    /// write at the same time, even with the same sequence number, never seal two values under one key and nonce.
    pub fn seal(&self, entries: &[Entry], rng: &mut dyn CryptoRng) -> [u8; VALUE_LEN] {
        seal_plain(VALUE, &self.seal, &encode(entries), rng)
    }

    /// Opens what somebody wrote.
    ///
    /// # Errors
    /// As said: leave it out.
    pub fn open(&self, value: &[u8]) -> Result<Vec<Entry>, ItemError> {
        let plain = open_plain(VALUE, &self.seal, value).ok_or(ItemError::Forged)?;
        decode(&plain)
    }
}

/// `salt[24] | sealed | tag[16]`, with a key for this value alone, from `seal` and a random salt; `context` names what it is for.
pub(super) fn seal_plain(
    context: &'static str,
    seal: &Key32,
    plain: &[u8; PLAIN_LEN],
    rng: &mut dyn CryptoRng,
) -> [u8; VALUE_LEN] {
    let mut out = [0; VALUE_LEN];
    let (salt, rest) = out.split_at_mut(SALT_LEN);
    let (sealed, tag) = rest.split_at_mut(PLAIN_LEN);
    rng.fill_bytes(salt);
    sealed.copy_from_slice(plain);
    let made = aead(context, seal, salt).seal(0, &[], sealed);
    tag.copy_from_slice(&made);
    out
}

/// Opens what [`seal_plain`] made; `None` for anything else.
pub(super) fn open_plain(
    context: &'static str,
    seal: &Key32,
    value: &[u8],
) -> Option<Zeroizing<[u8; PLAIN_LEN]>> {
    let value: &[u8; VALUE_LEN] = value.try_into().ok()?;
    let (salt, rest) = value.split_at(SALT_LEN);
    let (sealed, tag) = rest.split_at(PLAIN_LEN);
    let mut plain = Zeroizing::new([0; PLAIN_LEN]);
    plain.copy_from_slice(sealed);
    let tag = tag.try_into().ok()?;
    let opened = aead(context, seal, salt).open(0, &[], tag, &mut plain[..]);
    opened.ok().map(|()| plain)
}

fn aead(context: &'static str, seal: &Key32, salt: &[u8]) -> Aead {
    let key = derive_key(context, &[seal.as_bytes(), salt]);
    Aead::new(Suite::ChaCha20Poly1305, &key)
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[slot]")
    }
}

/// `version u8 | count u8 | count × { written u32 | contact } | zeros`. A contact has its first [`MAX_POINTS`] points.
pub fn encode(entries: &[Entry]) -> Zeroizing<[u8; PLAIN_LEN]> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(PLAIN_LEN));
    let count = entries.len().min(MAX_ENTRIES);
    bytes.push(VERSION);
    bytes.push(u8::try_from(count).unwrap_or(0));
    for entry in entries.iter().take(count) {
        bytes.extend_from_slice(&entry.written.to_be_bytes());
        bytes.extend_from_slice(&short(&entry.contact).encode());
    }
    let mut out = Zeroizing::new([0; PLAIN_LEN]);
    out[..bytes.len()].copy_from_slice(&bytes);
    out
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`ItemError::Shape`].
pub fn decode(plain: &[u8; PLAIN_LEN]) -> Result<Vec<Entry>, ItemError> {
    let [VERSION, count, rest @ ..] = plain else {
        return Err(ItemError::Shape);
    };
    let (count, mut rest) = (usize::from(*count), &rest[..]);
    if count > MAX_ENTRIES {
        return Err(ItemError::Shape);
    }
    let mut out: Vec<Entry> = Vec::with_capacity(count);
    for _ in 0..count {
        let (written, after) = rest.split_first_chunk().ok_or(ItemError::Shape)?;
        let (contact, after) = Contact::read(after).map_err(|_| ItemError::Shape)?;
        let twice = out.iter().any(|entry| entry.contact.key == contact.key);
        // A closed seed tells nobody of itself who is not let in.
        if twice || contact.is_closed() || contact.points().len() > MAX_POINTS {
            return Err(ItemError::Shape);
        }
        let written = u32::from_be_bytes(*written);
        out.push(Entry { written, contact });
        rest = after;
    }
    let padded = rest.iter().all(|byte| *byte == 0);
    padded.then_some(out).ok_or(ItemError::Shape)
}

/// The first points of a contact, as many as an item has room for.
fn short(contact: &Contact) -> Contact {
    let points = contact.points();
    let first = points.iter().take(MAX_POINTS).copied().collect();
    let short = Contact::new(contact.key, first).unwrap_or_else(|_| contact.clone());
    short.closed(contact.is_closed())
}

/// What a seed writes: its own contact, and the newest of others that it read in this slot and that are not too old. `now` is in seconds since the
/// period began.
pub fn merge(own: Contact, now: u32, mut others: Vec<Entry>) -> Vec<Entry> {
    let oldest = now.saturating_sub(LIFE);
    let newest = now.saturating_add(SKEW);
    others
        .retain(|entry| entry.contact.key != own.key && (oldest..=newest).contains(&entry.written));
    others.sort_by_key(|entry| std::cmp::Reverse(entry.written));
    let mut out = vec![Entry {
        written: now,
        contact: short(&own),
    }];
    for entry in others {
        let known = out
            .iter()
            .any(|known| known.contact.key == entry.contact.key);
        if out.len() < MAX_ENTRIES && !known {
            out.push(entry);
        }
    }
    out
}

const _: () = assert!(VALUE_LEN + 4 <= 1000);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::super::{IntroductionId, Point};
    use super::*;
    use crate::keys::RelayId;

    const SWARM: &[u8] = b"an infohash of twent";
    const NOW: u64 = 1_790_000_000;

    fn contact(key: u8, points: u8) -> Contact {
        let points = (0..points).map(|n| Point {
            relay: RelayId([n; 32]),
            introduction: IntroductionId([key ^ n; 32]),
        });
        Contact::new([key; 32], points.collect()).unwrap()
    }

    fn entry(key: u8, written: u32) -> Entry {
        let contact = contact(key, 3);
        Entry { written, contact }
    }

    fn rng() -> StdRng {
        StdRng::seed_from_u64(1)
    }

    #[test]
    fn every_value_is_as_long_as_every_other_and_no_two_have_one_key() {
        let slot = Slot::new(SWARM, &Period::at(SWARM, NOW), 0);
        let mut rng = rng();
        let mut seen = BTreeSet::new();
        for count in [0, 1, 4, 6] {
            let entries: Vec<_> = (0..count).map(|n| entry(n, 7)).collect();
            for _ in 0..2 {
                let value = slot.seal(&entries, &mut rng);
                let opened = slot.open(&value).unwrap();
                assert_eq!(opened, entries[..entries.len().min(4)]);
                // Nothing of one shows in another, though they say the same.
                assert!(seen.insert(value[SALT_LEN..SALT_LEN + 32].to_vec()));
            }
        }
    }

    #[test]
    fn a_closed_seed_stands_in_no_item() {
        let mut closed = entry(1, 7);
        closed.contact = closed.contact.closed(true);
        assert_eq!(
            decode(&encode(&[entry(2, 7), closed])),
            Err(ItemError::Shape)
        );
        assert_eq!(decode(&encode(&[entry(2, 7)])), Ok(vec![entry(2, 7)]));
    }

    #[test]
    fn only_who_knows_swarm_period_and_slot_opens_an_item_or_finds_it() {
        let period = Period::at(SWARM, NOW);
        let slot = Slot::new(SWARM, &period, 1);
        let value = slot.seal(&[entry(1, 7)], &mut rng());
        let tomorrow = Period::at(SWARM, NOW + PERIOD);
        let mut keys = BTreeSet::from([slot.signer().public()]);
        for other in [
            Slot::new(SWARM, &period, 2),
            Slot::new(SWARM, &tomorrow, 1),
            Slot::new(b"an infohash of twens", &period, 1),
        ] {
            assert_eq!(other.open(&value), Err(ItemError::Forged));
            assert!(keys.insert(other.signer().public()));
        }
        for at in [0, SALT_LEN, VALUE_LEN - 1] {
            let mut changed = value;
            changed[at] ^= 1;
            assert_eq!(slot.open(&changed), Err(ItemError::Forged));
        }
        assert_eq!(slot.open(&value[1..]), Err(ItemError::Forged));
        assert_eq!(slot.open(&[]), Err(ItemError::Forged));
        assert_eq!(format!("{slot:?} {period:?}"), "[slot] [period]");
    }

    #[test]
    fn a_period_is_a_day_that_begins_when_the_swarm_says() {
        let period = Period::at(SWARM, NOW);
        let begins = NOW - u64::from(period.since(NOW));
        assert_eq!(Period::at(SWARM, begins), period);
        assert_eq!(Period::at(SWARM, begins + PERIOD - 1), period);
        assert_ne!(Period::at(SWARM, begins + PERIOD), period);
        assert_ne!(Period::at(SWARM, begins - 1), period);
        assert_eq!((period.since(begins), period.left(begins)), (0, PERIOD));
        assert_eq!(
            (period.since(begins - 5), period.left(begins + 2 * PERIOD)),
            (0, 0)
        );
        let offsets: BTreeSet<_> = (0..100_u8).map(|n| offset(&[n; 20])).collect();
        assert!(offsets.len() > 95 && offsets.iter().all(|offset| *offset < PERIOD));
        // No time breaks it.
        for now in [0, 1, u64::MAX] {
            let period = Period::at(SWARM, now);
            let _ = (
                period.since(0),
                period.left(u64::MAX),
                Period::around(SWARM, now),
            );
        }
    }

    #[test]
    fn near_a_change_the_period_on_its_other_side_is_looked_at_too() {
        let period = Period::at(SWARM, NOW);
        let begins = NOW - u64::from(period.since(NOW));
        let before = Period::at(SWARM, begins - 1);
        let after = Period::at(SWARM, begins + PERIOD);
        for (into, wanted) in [
            (0, vec![period, before]),
            (AFTER - 1, vec![period, before]),
            (AFTER, vec![period]),
            (PERIOD / 2, vec![period]),
            (PERIOD - 601, vec![period]),
            (PERIOD - 600, vec![period, after]),
            (PERIOD - 1, vec![period, after]),
        ] {
            assert!(Period::around(SWARM, begins + into) == wanted, "{into}");
        }
    }

    #[test]
    fn a_seed_writes_itself_first_and_keeps_the_newest_of_others() {
        let now = 30_000;
        let others = vec![
            entry(1, now - 100),
            entry(2, now - LIFE - 1),
            entry(3, now + SKEW + 1),
            entry(4, now - 50),
            entry(9, now - 1),
            entry(5, now - LIFE),
            entry(6, now + SKEW),
            entry(4, now - 10),
        ];
        let merged = merge(contact(9, 5), now, others);
        let said: Vec<_> = merged
            .iter()
            .map(|e| (e.contact.key[0], e.written))
            .collect();
        assert_eq!(
            said,
            [(9, now), (6, now + SKEW), (4, now - 10), (1, now - 100)]
        );
        assert_eq!(merged[0].contact.points(), &contact(9, 5).points()[..3]);
    }

    #[test]
    fn what_is_no_list_of_contacts_is_refused() {
        let good = encode(&[entry(1, 1), entry(2, 2)]);
        assert_eq!(decode(&good).unwrap().len(), 2);
        for (at, byte) in [
            (0, 2),
            (1, 1),
            (1, 3),
            (1, 5),
            (6, 2),
            (39, 4),
            (PLAIN_LEN - 1, 1),
        ] {
            let mut bytes = *good;
            bytes[at] = byte;
            assert_eq!(decode(&bytes), Err(ItemError::Shape), "{at}");
        }
        assert_eq!(
            decode(&encode(&[entry(1, 1), entry(1, 2)])),
            Err(ItemError::Shape)
        );
    }

    proptest! {
        #[test]
        fn lists_read_back_and_disturbed_ones_never_panic(
            keys in prop::collection::btree_map(any::<[u8; 32]>(), (any::<u32>(), 1..=3_u8), 0..=4),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        ) {
            let entries: Vec<_> = keys.into_iter().map(|(key, (written, points))| Entry {
                written,
                contact: Contact::new(key, contact(1, points).points().to_vec()).unwrap(),
            }).collect();
            let mut plain = encode(&entries);
            prop_assert_eq!(decode(&plain), Ok(entries));
            for (at, byte) in edits {
                let at = at.index(PLAIN_LEN);
                plain[at] = byte;
            }
            if let Ok(read) = decode(&plain) {
                prop_assert_eq!(encode(&read), plain);
            }
        }
    }
}
