//! Items of a hidden swarm as the DHT keeps them (PROTOCOL.md §8.6, BEP 44): the slots of a period, signed, and read with care.

use hushswarm_circuits::rendezvous::item::{Entry, Slot};
use rand::CryptoRng;

use crate::bencode::{self, Value};
use crate::krpc::{Item, ItemError, ItemName};

/// Under what a slot is found.
///
/// # Errors
/// Never: it has no salt.
pub(super) fn name(slot: &Slot) -> Result<ItemName, ItemError> {
    ItemName::mutable(&slot.signer().public().0, &[])
}

/// What a slot says; nothing where somebody wrote what is not sealed for it.
pub(super) fn read(slot: &Slot, item: &Item) -> Vec<Entry> {
    let value = Value::parse(item.value()).ok();
    let sealed = value.and_then(Value::as_bytes).unwrap_or_default();
    slot.open(sealed).unwrap_or_default()
}

/// The sequence number of what replaces an item: the time (seconds since 1970), or one more than the item's. `None` where
/// somebody took the highest there is: nobody can write there any more.
pub(super) fn next_seq(old: Option<&Item>, now: u64) -> Option<i64> {
    let now = i64::try_from(now).ok()?;
    match old.and_then(Item::seq) {
        Some(seq) => Some(seq.checked_add(1)?.max(now)),
        None => Some(now),
    }
}

/// The item that says this in a slot, to be put only where `old` still is.
///
/// # Errors
/// Never: all is within the bounds of BEP 44.
pub(super) fn write(
    slot: &Slot,
    entries: &[Entry],
    seq: i64,
    old: Option<&Item>,
    rng: &mut dyn CryptoRng,
) -> Result<Item, ItemError> {
    let mut value = Vec::with_capacity(1000);
    bencode::put_bytes(&mut value, slot.seal(entries, rng));
    let item = Item::sign(slot.signer(), &[], seq, &value)?;
    Ok(item.with_cas(old.and_then(Item::seq)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hushswarm_circuits::keys::RelayId;
    use hushswarm_circuits::rendezvous::item::Period;
    use hushswarm_circuits::rendezvous::{Contact, IntroductionId, Point};

    use super::*;

    const SWARM: &[u8] = b"an infohash of twent";

    fn slot(number: u8) -> Slot {
        Slot::new(SWARM, &Period::at(SWARM, 1_800_000_000), number)
    }

    fn entries(count: u8) -> Vec<Entry> {
        let point = |n: u8| Point {
            relay: RelayId([n; 32]),
            introduction: IntroductionId([n; 32]),
        };
        let contact = |n| Contact::new([n; 32], (0..3).map(point).collect()).unwrap();
        let entry = |n| Entry {
            written: 5,
            contact: contact(n),
        };
        (0..count).map(entry).collect()
    }

    #[test]
    fn an_item_is_found_by_its_slots_name_and_says_what_was_written() {
        let mut lengths = Vec::new();
        for count in 0..=4 {
            let item = write(&slot(1), &entries(count), 7, None, &mut rand::rng()).unwrap();
            let item = item.named(&name(&slot(1)).unwrap()).unwrap();
            assert_eq!(read(&slot(1), &item), entries(count));
            assert_eq!(read(&slot(2), &item), [], "another slot's is none");
            assert!(item.clone().named(&name(&slot(2)).unwrap()).is_err());
            lengths.push(item.value().len());
        }
        assert_eq!(lengths, [966; 5], "how many there are does not show");
    }

    #[test]
    fn what_a_member_wrote_that_is_no_item_of_ours_says_nothing() {
        let slot = slot(0);
        for value in [&b"i7e"[..], b"0:", b"le", b"3:abc"] {
            let item = Item::sign(slot.signer(), &[], 7, value).unwrap();
            assert_eq!(read(&slot, &item), []);
        }
    }

    #[test]
    fn the_sequence_number_is_the_time_or_one_more_and_replaces_only_what_was_read() {
        let slot = slot(0);
        let with = |seq| Item::sign(slot.signer(), &[], seq, b"le").unwrap();
        assert_eq!(next_seq(None, 100), Some(100));
        assert_eq!(next_seq(Some(&with(90)), 100), Some(100));
        assert_eq!(next_seq(Some(&with(100)), 100), Some(101));
        assert_eq!(next_seq(Some(&with(500)), 100), Some(501));
        assert_eq!(next_seq(Some(&with(i64::MAX)), 100), None);
        let cas = |old: Option<&Item>| {
            let item = write(&slot, &[], 7, old, &mut rand::rng()).unwrap();
            item.signed().unwrap().cas
        };
        assert_eq!((cas(None), cas(Some(&with(6)))), (None, Some(6)));
    }
}
