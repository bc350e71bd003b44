//! The whole of §7.2 from outside is in `tests/network_documents.rs` of the package; here is what needs the inside.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::super::testing::{DAY, NOW, authority, key, list, signed, trust};
use super::*;

fn draft() -> Draft {
    let relays = (1..=3).map(|number| signed(number, |_| {})).collect();
    Draft::new("test", NOW - DAY, NOW + DAY, relays).unwrap()
}

/// Signs the content again after `change`, as an authority that doesn't keep to §7.2 would.
fn resigned(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = draft().signed_bytes();
    change(&mut bytes);
    let signature = authority().sign(&[SIGNATURE_CONTEXT, &bytes]);
    bytes.push(1);
    bytes.extend_from_slice(&authority().public().0);
    bytes.extend_from_slice(&signature);
    bytes
}

fn verdict(bytes: &[u8]) -> ListError {
    RelayList::decode_verified(bytes, &trust(), NOW).unwrap_err()
}

/// Where the descriptor count stands: after magic, version, "test" and two times.
const COUNT_AT: usize = 8 + 1 + 5 + 16;

#[test]
fn an_authority_that_breaks_the_order_is_refused() {
    let draft = draft();
    let rebuild = |order: &[usize]| {
        resigned(|bytes| {
            bytes.truncate(COUNT_AT);
            bytes.extend_from_slice(&(order.len() as u16).to_be_bytes());
            for &at in order {
                let relay = draft.relays[at].bytes();
                bytes.extend_from_slice(&(relay.len() as u16).to_be_bytes());
                bytes.extend_from_slice(relay);
            }
        })
    };
    assert!(RelayList::decode_verified(&rebuild(&[0, 1, 2]), &trust(), NOW).is_ok());
    for order in [&[1, 0, 2][..], &[0, 2, 1], &[0, 0, 1], &[0, 1, 1]] {
        assert!(
            matches!(verdict(&rebuild(order)), ListError::Malformed(what) if what.contains("order"))
        );
    }
    assert!(
        matches!(verdict(&rebuild(&[])), ListError::Malformed(what) if what.contains("no relay"))
    );
}

#[test]
fn an_authority_can_not_change_what_a_relay_said() {
    // The last byte of the content is in the last relay's signature, the first byte of a descriptor is its version.
    let forged = resigned(|bytes| *bytes.last_mut().unwrap() ^= 1);
    assert_eq!(verdict(&forged), ListError::Forged);
    let broken = resigned(|bytes| bytes[COUNT_AT + 4] = 9);
    let error = ListError::BadRelay {
        index: 1,
        error: DescriptorError::Version(9),
    };
    assert_eq!(verdict(&broken), error);
}

#[test]
fn signed_lists_out_of_bounds_are_refused() {
    assert_eq!(
        verdict(&resigned(|bytes| bytes[8] = 2)),
        ListError::Version(2)
    );
    assert!(matches!(
        verdict(&resigned(|bytes| bytes[0] = b'h')),
        ListError::Malformed(_)
    ));
    assert_eq!(
        verdict(&resigned(|bytes| bytes[10] = b'\n')),
        ListError::NetworkName
    );
    assert_eq!(
        verdict(&resigned(|bytes| bytes[10] = b'.')),
        ListError::NetworkName
    );
    let times = |from: u64, until: u64| {
        resigned(|bytes| {
            bytes[14..22].copy_from_slice(&from.to_be_bytes());
            bytes[22..30].copy_from_slice(&until.to_be_bytes());
        })
    };
    assert_eq!(verdict(&times(NOW, NOW)), ListError::Times);
    assert_eq!(verdict(&times(NOW, NOW - 1)), ListError::Times);
    assert_eq!(
        verdict(&times(NOW, NOW + MAX_LIST_LIFE + 1)),
        ListError::Times
    );
    assert!(RelayList::decode_verified(&times(NOW, NOW + MAX_LIST_LIFE), &trust(), NOW).is_ok());
    let too_many =
        resigned(|bytes| bytes[COUNT_AT..COUNT_AT + 2].copy_from_slice(&8193u16.to_be_bytes()));
    assert_eq!(verdict(&too_many), ListError::TooLarge);
}

#[test]
fn signatures_in_another_order_or_twice_are_refused() {
    let mut draft = draft();
    let others = [key(500), key(501)];
    others.iter().for_each(|other| draft.sign(other));
    draft.sign(&authority());
    let good = draft.encode().unwrap();
    assert!(RelayList::decode_verified(&good, &trust(), NOW).is_ok());
    let start = good.len() - 3 * 96;
    let entry = |at: usize| good[start + at * 96..start + (at + 1) * 96].to_vec();
    for order in [[1, 0, 2], [0, 2, 1], [0, 0, 1]] {
        let mut bent = good[..start].to_vec();
        order.into_iter().for_each(|at| bent.extend(entry(at)));
        assert!(
            matches!(verdict(&bent), ListError::Malformed(what) if what.contains("signatures"))
        );
    }
    for (count, error) in [
        (0, ListError::UnderSigned { have: 0, need: 1 }),
        (33, ListError::TooLarge),
    ] {
        let mut bent = good.clone();
        bent[start - 1] = count;
        assert_eq!(verdict(&bent), error);
    }
}

#[test]
fn lookups_find_each_relay_and_no_other() {
    let list = list((1..=20).map(|number| signed(number, |_| {})).collect());
    for number in 1..=20 {
        let id = key(number).public();
        assert_eq!(list.get(&id).map(|relay| relay.identity), Some(id));
    }
    assert!(list.get(&key(21).public()).is_none());
}

#[test]
fn signing_twice_is_the_same_as_once() {
    let mut draft = draft();
    draft.sign(&authority());
    let once = draft.encode().unwrap();
    draft.sign(&authority());
    assert_eq!(draft.encode().unwrap(), once);
    assert_eq!(Draft::decode(&once).unwrap().encode().unwrap(), once);
}

proptest! {
    #[test]
    fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), cut: bool) {
        let _ = RelayList::decode_verified(&bytes, &trust(), NOW);
        // The same bytes as a tail of what starts well, unsigned and signed.
        let mut tail = draft().signed_bytes();
        tail.truncate(if cut { COUNT_AT } else { COUNT_AT + 6 });
        tail.extend_from_slice(&bytes);
        let _ = Draft::decode(&tail);
        let signed = resigned(|content| {
            content.truncate(COUNT_AT);
            content.extend_from_slice(&bytes);
        });
        let _ = RelayList::decode_verified(&signed, &trust(), NOW);
    }

    #[test]
    fn a_change_of_any_byte_is_refused(at: prop::sample::Index, flip in 1u8..) {
        let mut bytes = resigned(|_| {});
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(RelayList::decode_verified(&bytes, &trust(), NOW).is_err());
    }
}
