#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::message::{
    ANSWER_LEN, Dropped, Guests, HandshakeError, MAX_GUESTS, MAX_SEEN, MESSAGE_LEN,
};
use super::sealed::{
    MAX_DATA, Opener, RECORD_LENS, RECORDS_PER_RATCHET, Read, SealedError, Sealer, SessionKeys,
};
use super::wire::{
    ESTABLISH_LEN, INTRODUCE_HEADER_LEN, IntroduceHeader, MAX_MESSAGE, MeetError, MessageReader,
    encode_introduce, encode_record,
};
use super::*;
use crate::keys::{DhSecret, IdentityKey, Key32, RelayId, audit};

const HASH: [u8; 20] = [0x5a; 20];
const KEY: IntroductionId = IntroductionId([7; 32]);

fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

fn swarm() -> SwarmKey {
    SwarmKey::new(&HASH).unwrap()
}

fn seed() -> DhSecret {
    DhSecret::from_bytes([3; 32])
}

fn introductions() -> Introductions {
    Introductions::new(KEY, seed(), swarm())
}

fn meeting() -> Meeting {
    Meeting {
        relay: RelayId([1; 32]),
        digest: [2; 32],
        cookie: Cookie([9; 20]),
    }
}

fn visit(rng_seed: u64) -> (Visitor, [u8; MESSAGE_LEN]) {
    Visitor::start(
        &seed().public(),
        &KEY,
        &swarm(),
        &meeting(),
        &mut rng(rng_seed),
    )
    .unwrap()
}

/// Keys of a visitor and of the seed that it meets.
fn met() -> [SessionKeys; 2] {
    let (visitor, message) = visit(1);
    let introduced = introductions().open(&message, &mut rng(2)).unwrap();
    let (answer, seeds) = introduced.answer().unwrap();
    [visitor.finish(&answer).unwrap(), seeds]
}

fn pair() -> (Sealer, Opener) {
    let [visitor, seed] = met();
    (Sealer::new(visitor.to_seed), Opener::new(seed.to_seed))
}

/// Gives bytes to an opener in pieces, and takes what comes out.
fn feed(
    opener: &mut Opener,
    mut bytes: &[u8],
    piece: usize,
) -> Result<(Vec<u8>, Read), SealedError> {
    let (mut out, mut some) = (Vec::new(), vec![0; 5000]);
    loop {
        match opener.read(&mut some)? {
            Read::Data(n) => out.extend_from_slice(&some[..n]),
            end @ (Read::Pending | Read::End) if bytes.is_empty() => return Ok((out, end)),
            Read::Pending | Read::End => {
                let space = opener.space();
                let n = piece.min(bytes.len()).min(space.len());
                assert!(n > 0, "there is always space");
                space[..n].copy_from_slice(&bytes[..n]);
                opener.filled(n);
                bytes = &bytes[n..];
            }
        }
    }
}

// ---- what relays read ----

#[test]
fn only_the_holder_of_a_key_registers_it_and_only_in_the_circuit_it_was_signed_for() {
    let (key, other) = (
        IdentityKey::from_seed([1; 32]),
        IdentityKey::from_seed([2; 32]),
    );
    let (here, there) = (Key32::new([1; 32]), Key32::new([2; 32]));
    let request = Establish::sign(&key, &here);
    assert!(request.is_for(&here));
    assert!(!request.is_for(&there), "a relay can't use it at another");
    let stolen = Establish {
        key: IntroductionId(other.public().0),
        ..request
    };
    assert!(!stolen.is_for(&here));
    let small = Establish {
        key: IntroductionId([0; 32]),
        signature: [0; 64],
    };
    assert!(!small.is_for(&here), "a key of small order is nobody's");
}

#[test]
fn statuses_are_six() {
    for byte in 0..=u8::MAX {
        match Status::from_wire(byte) {
            Ok(status) => assert!(byte < 6 && status.wire() == byte),
            Err(error) => assert!(byte >= 6 && error == MeetError::UnknownStatus(byte)),
        }
    }
}

#[test]
fn messages_of_no_length_or_too_much_are_none() {
    for length in [0, MAX_MESSAGE + 1, 70_000] {
        let message = vec![0; length];
        assert_eq!(encode_record(&message), Err(MeetError::Length(length)));
        assert!(encode_introduce(&KEY, &message).is_err());
    }
    for (length, good) in [
        (0_u16, false),
        (1, true),
        (2048, true),
        (2049, false),
        (65_535, false),
    ] {
        let mut header = [7; INTRODUCE_HEADER_LEN];
        header[32..].copy_from_slice(&length.to_be_bytes());
        assert_eq!(IntroduceHeader::decode(&header).is_ok(), good, "{length}");
        let mut reader = MessageReader::default();
        reader.push(&length.to_be_bytes());
        assert_eq!(reader.next().is_ok(), good, "{length}");
    }
}

#[test]
fn nothing_of_a_meeting_shows_in_debug_output() {
    let (visitor, message) = visit(1);
    let mut introductions = introductions();
    let introduced = introductions.open(&message, &mut rng(2)).unwrap();
    let establish = Establish::sign(&IdentityKey::from_seed([1; 32]), &Key32::new([1; 32]));
    let header = IntroduceHeader {
        key: KEY,
        length: 5,
    };
    let shown = format!(
        "{visitor:?} {introductions:?} {introduced:?} {establish:?} {header:?} {:?} {:?} {:?} {:?} {:?}",
        meeting(),
        swarm(),
        met(),
        pair(),
        Cookie([9; 20]),
    );
    for secret in ["9, 9", "7, 7", "[1, ", "90, 90", "0909", "5a5a"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

proptest! {
    #[test]
    fn requests_come_back_as_they_went(bytes in vec(any::<u8>(), ESTABLISH_LEN), message in vec(any::<u8>(), 1..=MAX_MESSAGE)) {
        let bytes: [u8; ESTABLISH_LEN] = bytes.try_into().unwrap();
        prop_assert_eq!(Establish::decode(&bytes).encode(), bytes);
        let encoded = encode_introduce(&KEY, &message).unwrap();
        let (header, rest) = encoded.split_first_chunk().unwrap();
        let header = IntroduceHeader::decode(header).unwrap();
        prop_assert_eq!((header.key, header.length), (KEY, message.len()));
        prop_assert_eq!(rest, &message[..]);
    }

    #[test]
    fn records_come_out_whole_in_whatever_pieces_they_come(
        messages in vec(vec(any::<u8>(), 1..600), 0..8),
        piece in 1_usize..700,
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| encode_record(message).unwrap()).collect();
        let (mut reader, mut came) = (MessageReader::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            reader.push(piece);
            while let Some(handed) = reader.next().unwrap() {
                came.push(handed.message.to_vec());
            }
        }
        prop_assert_eq!(came, messages);
        prop_assert!(reader.bytes_held() == 0);
    }

    #[test]
    fn what_is_sealed_comes_out_whatever_the_pieces(
        writes in vec(0..40_000_usize, 0..6),
        piece in 1..40_000_usize,
    ) {
        let (mut sealer, mut opener) = pair();
        let (mut wire, mut sent) = (Vec::new(), Vec::new());
        for (n, len) in writes.into_iter().enumerate() {
            let data: Vec<u8> = (0..len).map(|at| (at * 7 + n) as u8).collect();
            let mut rest = &data[..];
            while !rest.is_empty() {
                let taken = sealer.seal(rest, &mut wire).unwrap();
                prop_assert!(taken > 0);
                rest = &rest[taken..];
            }
            sent.extend_from_slice(&data);
        }
        sealer.last(&mut wire).unwrap();
        prop_assert_eq!(feed(&mut opener, &wire, piece), Ok((sent, Read::End)));
        prop_assert!(opener.is_ended());
    }

    #[test]
    fn a_changed_byte_anywhere_gives_no_byte_of_its_record_and_ends_the_stream(
        at in 0..(928 + 4000 + 16_000_usize),
        change in 1..=u8::MAX,
    ) {
        let (mut sealer, mut opener) = pair();
        let mut wire = Vec::new();
        for data in [&[1; 900][..], &[2; 3900], &[3; MAX_DATA]] {
            prop_assert_eq!(sealer.seal(data, &mut wire), Ok(data.len()));
        }
        prop_assert_eq!(wire.len(), 928 + 4000 + 16_000);
        // What follows, so that a record that claims to be longer than it is has its bytes.
        for _ in 0..3 {
            sealer.seal(&[4; MAX_DATA], &mut wire).unwrap();
        }
        wire[at] ^= change;
        let mut out = Vec::new();
        let mut some = [0; 1000];
        let mut rest = &wire[..];
        let failed = loop {
            match opener.read(&mut some) {
                Ok(Read::Data(n)) => out.extend_from_slice(&some[..n]),
                Ok(Read::Pending) => {
                    let space = opener.space();
                    let n = space.len().min(rest.len());
                    prop_assert!(n > 0, "it fails before the bytes are over");
                    space[..n].copy_from_slice(&rest[..n]);
                    opener.filled(n);
                    rest = &rest[n..];
                }
                Ok(Read::End) => prop_assert!(false, "no end was sent"),
                Err(error) => break error,
            }
        };
        let whole = [0, 900, 4800].into_iter().zip([928, 4928, 20_928]).find(|(_, end)| at < *end);
        prop_assert_eq!(out.len(), whole.unwrap().0);
        prop_assert!(matches!(failed, SealedError::Forged | SealedError::Malformed));
        prop_assert_eq!(opener.read(&mut some), Err(failed), "it stays failed");
        prop_assert!(!opener.is_ended());
    }

    #[test]
    fn bytes_of_strangers_never_open_and_never_panic(bytes in vec(any::<u8>(), 0..40_000)) {
        let (_, mut opener) = pair();
        let fed = feed(&mut opener, &bytes, 1000);
        if let Ok((data, end)) = fed {
            prop_assert!(data.is_empty() && end == Read::Pending);
        }
        prop_assert_eq!(introductions().open(&bytes, &mut rng(1)).err(), Some(Dropped::Unreadable));
        prop_assert_eq!(closed(&[11]).open(&bytes, &mut rng(1)).err(), Some(Dropped::Unreadable));
    }
}

// ---- the message and its answer ----

#[test]
fn a_visitor_and_a_seed_get_the_same_keys_and_the_place_to_meet() {
    let (visitor, message) = visit(1);
    let mut introductions = introductions();
    let introduced = introductions.open(&message, &mut rng(2)).unwrap();
    assert_eq!(*introduced.meeting(), meeting());
    let (answer, ours) = introduced.answer().unwrap();
    let theirs = visitor.finish(&answer).unwrap();
    for (from, to) in [
        (ours.to_seed, theirs.to_seed),
        (theirs.to_visitor, ours.to_visitor),
    ] {
        let (mut sealer, mut opener, mut wire) = (Sealer::new(from), Opener::new(to), Vec::new());
        sealer.seal(b"hello", &mut wire).unwrap();
        let read = feed(&mut opener, &wire, 100);
        assert_eq!(read, Ok((b"hello".to_vec(), Read::Pending)));
    }
}

#[test]
fn the_two_directions_have_different_keys() {
    let [visitor, seed] = met();
    let (mut sealer, mut wire) = (Sealer::new(visitor.to_seed), Vec::new());
    sealer.seal(b"hello", &mut wire).unwrap();
    // Sent back to its maker.
    let mut reflected = Opener::new(visitor.to_visitor);
    assert_eq!(feed(&mut reflected, &wire, 928), Err(SealedError::Forged));
    drop(seed);
}

#[test]
fn who_lacks_the_infohash_the_key_or_the_point_is_not_answered_and_leaves_no_trace() {
    let mut introductions = introductions();
    let other_swarm = SwarmKey::new(&[0x5b; 20]).unwrap();
    let (public, other) = (seed().public(), DhSecret::from_bytes([4; 32]).public());
    for (seed, key, swarm) in [
        (public, KEY, &other_swarm),
        (other, KEY, &swarm()),
        (public, IntroductionId([8; 32]), &swarm()),
    ] {
        let started = Visitor::start(&seed, &key, swarm, &meeting(), &mut rng(1));
        let (_, message) = started.unwrap();
        let opened = introductions.open(&message, &mut rng(2));
        assert_eq!(opened.err(), Some(Dropped::Unreadable));
    }
    let (_, message) = visit(1);
    for at in 0..MESSAGE_LEN {
        let mut changed = message;
        changed[at] ^= 1;
        // The highest bit of an X25519 key is not read (RFC 7748), but what was sent is part of what is agreed on.
        assert_eq!(
            introductions.open(&changed, &mut rng(2)).err(),
            Some(Dropped::Unreadable),
            "{at}"
        );
    }
    let mut changed = message;
    changed[31] ^= 0x80;
    assert!(introductions.open(&changed, &mut rng(2)).is_err());
    assert_eq!(introductions.seen(), 0);
    assert!(introductions.open(&message, &mut rng(2)).is_ok());
}

#[test]
fn a_message_opens_once() {
    let mut introductions = introductions();
    let (_, message) = visit(1);
    assert!(introductions.open(&message, &mut rng(2)).is_ok());
    for _ in 0..3 {
        let again = introductions.open(&message, &mut rng(3));
        assert_eq!(again.err(), Some(Dropped::Replayed));
    }
    assert!(introductions.open(&visit(2).1, &mut rng(4)).is_ok());
    assert_eq!(introductions.seen(), 2);
}

#[test]
fn when_no_more_can_be_remembered_none_is_opened_twice_for_it() {
    let mut introductions = introductions().with_room(3);
    let messages: Vec<_> = (0..5).map(|n| visit(n).1).collect();
    let opened = messages
        .iter()
        .map(|message| introductions.open(message, &mut rng(9)).err());
    let opened: Vec<_> = opened.collect();
    let full = Some(Dropped::UsedUp);
    assert_eq!(opened, [None, None, None, full, full]);
    let again = introductions.open(&messages[0], &mut rng(9));
    assert_eq!(again.err(), Some(Dropped::Replayed));
    assert_eq!((introductions.seen(), MAX_SEEN), (3, 32_768));
}

#[test]
fn a_payload_of_another_version_or_with_anything_behind_it_is_unreadable() {
    // Made by somebody who has all keys, so that it opens.
    let mut introductions = introductions();
    for at in [0, 85, MESSAGE_LEN - ANSWER_LEN - 1] {
        let message = message::tests::with_payload(&seed().public(), &KEY, &swarm(), |payload| {
            payload[0] = 1;
            payload[at] ^= 4;
        });
        let opened = introductions.open(&message, &mut rng(1));
        assert_eq!(opened.err(), Some(Dropped::Unreadable), "{at}");
    }
    let message = message::tests::with_payload(&seed().public(), &KEY, &swarm(), |payload| {
        payload[0] = 1;
    });
    assert!(introductions.open(&message, &mut rng(1)).is_ok());
}

#[test]
fn only_the_seeds_answer_to_this_message_is_taken() {
    let (_, message) = visit(1);
    let introduced = introductions().open(&message, &mut rng(2)).unwrap();
    let (answer, _) = introduced.answer().unwrap();
    for at in 0..ANSWER_LEN {
        let mut changed = answer;
        changed[at] ^= 1;
        let finished = visit(1).0.finish(&changed).err();
        assert_eq!(finished, Some(HandshakeError::Unreadable), "{at}");
    }
    // The answer to somebody else.
    assert!(visit(5).0.finish(&answer).is_err());
    assert!(visit(1).0.finish(&answer).is_ok());
    // Somebody who knows the infohash, but is not the seed.
    let mut impostor = Introductions::new(KEY, DhSecret::from_bytes([4; 32]), swarm());
    assert!(impostor.open(&message, &mut rng(2)).is_err());
}

/// The secret of a visitor that is let in.
fn guest(number: u8) -> DhSecret {
    DhSecret::from_bytes([number; 32])
}

fn closed(guests: &[u8]) -> Introductions {
    let keys = guests.iter().map(|number| guest(*number).public());
    introductions().only(Guests::new(keys))
}

fn visit_as(own: &DhSecret, rng_seed: u64) -> (Visitor, [u8; MESSAGE_LEN]) {
    let (key, rng) = (seed().public(), &mut rng(rng_seed));
    Visitor::start_known(own, &key, &KEY, &swarm(), &meeting(), rng).unwrap()
}

#[test]
fn a_closed_seed_meets_its_guests_and_they_agree_on_keys() {
    let mut introductions = closed(&[11, 12]);
    for number in [11, 12] {
        let (visitor, message) = visit_as(&guest(number), number.into());
        let introduced = introductions.open(&message, &mut rng(2)).unwrap();
        assert_eq!(*introduced.meeting(), meeting());
        let (answer, ours) = introduced.answer().unwrap();
        let theirs = visitor.finish(&answer).unwrap();
        let (mut sealer, mut opener) =
            (Sealer::new(ours.to_visitor), Opener::new(theirs.to_visitor));
        let mut wire = Vec::new();
        sealer.seal(b"hello", &mut wire).unwrap();
        let read = feed(&mut opener, &wire, 100);
        assert_eq!(read, Ok((b"hello".to_vec(), Read::Pending)));
        // Who says it again is no more than who does so to an open seed.
        let again = introductions.open(&message, &mut rng(3));
        assert_eq!(again.err(), Some(Dropped::Replayed));
    }
}

#[test]
fn a_stranger_to_a_closed_seed_is_dropped_whatever_he_shows_and_leaves_no_trace() {
    let mut introductions = closed(&[11]);
    let (_, keyless) = visit(1);
    let opened = introductions.open(&keyless, &mut rng(2));
    assert_eq!(opened.err(), Some(Dropped::Unreadable), "without any key");
    let (_, unknown) = visit_as(&guest(13), 1);
    let opened = introductions.open(&unknown, &mut rng(2));
    assert_eq!(
        opened.err(),
        Some(Dropped::Stranger),
        "with a key of his own"
    );
    let mut nobody = closed(&[]);
    let (_, known) = visit_as(&guest(11), 1);
    assert_eq!(
        nobody.open(&known, &mut rng(2)).err(),
        Some(Dropped::Stranger)
    );
    // Who knows a guest's public key alone.
    let mut shown = known;
    for at in 0..MESSAGE_LEN {
        shown[at] ^= 1;
        let opened = introductions.open(&shown, &mut rng(2));
        assert_eq!(opened.err(), Some(Dropped::Unreadable), "{at}");
        shown[at] ^= 1;
    }
    assert_eq!(introductions.seen() + nobody.seen(), 0);
    assert!(introductions.open(&known, &mut rng(2)).is_ok());
    // Nor is a guest's message any to an open seed.
    let opened = self::introductions().open(&known, &mut rng(2));
    assert_eq!(opened.err(), Some(Dropped::Unreadable));
}

#[test]
fn what_a_guest_shows_is_read_by_nobody_without_the_infohash() {
    let (key, own) = (seed().public(), guest(11));
    let other = SwarmKey::new(&[0x5b; 20]).unwrap();
    let started = Visitor::start_known(&own, &key, &KEY, &other, &meeting(), &mut rng(1));
    let opened = closed(&[11]).open(&started.unwrap().1, &mut rng(2));
    assert_eq!(opened.err(), Some(Dropped::Unreadable));
    let (_, message) = visit_as(&own, 1);
    let holds = |what: &[u8]| message.windows(what.len()).any(|part| part == what);
    assert!(!holds(&own.public()) && !holds(&meeting().cookie.0));
    // Two messages have nothing in common by which to tell that they are one's.
    let (_, again) = visit_as(&own, 2);
    let same = message.iter().zip(&again).filter(|(a, b)| a == b).count();
    assert!(same < 20, "{same}");
}

#[test]
fn a_guests_key_of_low_order_lets_nobody_in() {
    let mut introductions = introductions().only(Guests::new([[0; 32]]));
    let (_, message) = visit_as(&guest(11), 1);
    assert!(introductions.open(&message, &mut rng(2)).is_err());
    let many = (0..MAX_GUESTS as u64 + 9).map(|n| {
        let mut key = [7; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        key
    });
    assert_eq!(
        format!("{:?}", Guests::new(many)),
        format!("Guests({MAX_GUESTS})")
    );
}

#[test]
fn a_quiet_key_is_known_by_its_first_byte() {
    let mut key = [7; 32];
    assert!(!IntroductionId(key).is_quiet());
    key[0] = 0;
    assert!(IntroductionId(key).is_quiet());
}

#[test]
fn a_seed_key_of_low_order_is_refused() {
    let started = Visitor::start(&[0; 32], &KEY, &swarm(), &meeting(), &mut rng(1));
    assert_eq!(started.err(), Some(HandshakeError::LowOrder));
}

// ---- records ----

#[test]
fn records_have_three_lengths_whatever_is_in_them() {
    let (mut sealer, _) = pair();
    for (len, record) in [
        (0, 928),
        (1, 928),
        (908, 928),
        (909, 4000),
        (3980, 4000),
        (3981, 4000),
        (15_979, 4000),
        (MAX_DATA, 16_000),
        (100_000, 16_000),
    ] {
        let mut wire = Vec::new();
        sealer.seal(&vec![1; len], &mut wire).unwrap();
        assert_eq!(wire.len(), record, "{len}");
        assert!(RECORD_LENS.contains(&wire.len()));
    }
}

#[test]
fn repeated_swapped_and_missing_records_end_the_stream() {
    let (mut sealer, _) = pair();
    let mut records = Vec::new();
    for n in 0..3 {
        let mut record = Vec::new();
        sealer.seal(&[n; 10], &mut record).unwrap();
        records.push(record);
    }
    for (order, right) in [([0, 0], 10), ([1, 0], 0), ([0, 2], 10)] {
        let (_, mut opener) = pair();
        let wire = order.map(|n: usize| records[n].clone()).concat();
        let mut out = vec![0; 100];
        let mut total = 0;
        let space = opener.space();
        space[..wire.len()].copy_from_slice(&wire);
        opener.filled(wire.len());
        let end = loop {
            match opener.read(&mut out) {
                Ok(Read::Data(n)) => total += n,
                other => break other,
            }
        };
        assert_eq!((end, total), (Err(SealedError::Forged), right), "{order:?}");
    }
}

#[test]
fn an_end_is_the_seeds_own_and_nothing_comes_after_it() {
    let (mut sealer, mut opener) = pair();
    let mut wire = Vec::new();
    sealer.seal(b"all", &mut wire).unwrap();
    let fed = feed(&mut opener, &wire, 928);
    assert_eq!(fed, Ok((b"all".to_vec(), Read::Pending)));
    assert!(!opener.is_ended(), "cut off, as far as anybody knows");
    let mut last = Vec::new();
    sealer.last(&mut last).unwrap();
    assert_eq!(sealer.last(&mut Vec::new()), Err(SealedError::Ended));
    assert_eq!(
        sealer.seal(b"more", &mut Vec::new()),
        Err(SealedError::Ended)
    );
    assert_eq!(feed(&mut opener, &last, 928), Ok((Vec::new(), Read::End)));
    assert!(opener.is_ended());
    assert_eq!(feed(&mut opener, &[0], 1), Err(SealedError::AfterEnd));
    assert!(!opener.is_ended());
}

#[test]
fn keys_change_and_no_nonce_comes_twice() {
    let ledger = audit::record(|| {
        let [visitor, seed] = met();
        let directions = [
            (visitor.to_seed, seed.to_seed),
            (seed.to_visitor, visitor.to_visitor),
        ];
        for (from, to) in directions {
            let (mut sealer, mut opener) = (Sealer::new(from), Opener::new(to));
            for n in 0..RECORDS_PER_RATCHET * 2 + 10 {
                let mut wire = Vec::new();
                sealer.seal(&n.to_be_bytes(), &mut wire).unwrap();
                let fed = feed(&mut opener, &wire, 928).unwrap().0;
                assert_eq!(fed, n.to_be_bytes());
            }
        }
    });
    let keys: std::collections::BTreeSet<_> = ledger.seals.keys().map(|(key, _)| key).collect();
    // Three of each direction; the handshake's own are counted elsewhere, or come on top.
    assert!(keys.len() >= 6, "{}", keys.len());
    assert!(ledger.seals.values().all(|times| *times == 1));
}

#[test]
fn who_waits_holds_no_buffer() {
    let (mut sealer, mut opener) = pair();
    let mut wire = Vec::new();
    sealer.seal(b"hello", &mut wire).unwrap();
    feed(&mut opener, &wire, 928).unwrap();
    assert_eq!(opener.buffer_len(), 0);
}
