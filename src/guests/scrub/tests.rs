#![allow(clippy::unwrap_used)]
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::*;
use crate::route::carry::Buffers;
use crate::torrent::infohash::InfoHash;
use crate::torrent::wire::{Handshake, MAX_BLOCK};

/// All that a client could say of itself and others, and what it may.
const TALKATIVE: &[u8] = b"d1:ei1e4:ipv44:\x05\x06\x07\x084:ipv616:0123456789abcdef1:md11:lt_donthavei7e11:upload_onlyi3e\
    12:ut_holepunchi4e11:ut_metadatai2e6:ut_pexi1ee13:metadata_sizei31235e1:pi6881e4:reqqi500e11:upload_onlyi1e\
    1:v18:qBittorrent/4.5.2\x006:yourip16:fedcba9876543210e";
/// What is left of it.
const KEPT: &[u8] = b"d1:md11:lt_donthavei7e11:upload_onlyi3e11:ut_metadatai2ee13:metadata_sizei31235e4:reqqi500e11:upload_onlyi1ee";

fn handshake(reserved: [u8; 8]) -> Vec<u8> {
    let handshake = Handshake {
        hash: InfoHash([1; 20]),
        peer_id: *b"-qB4520-abcdefghijkl",
        reserved,
    };
    handshake.encode().to_vec()
}

fn message(id: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len() + 1).unwrap().to_be_bytes();
    [&len[..], &[id], payload].concat()
}

fn extended(id: u8, payload: &[u8]) -> Vec<u8> {
    message(20, &[&[id], payload].concat())
}

fn scrub(scrubber: &mut Scrubber, input: &[u8]) -> Result<Vec<u8>, ScrubError> {
    let mut out = Vec::new();
    scrubber.scrub(input, &mut out).map(|()| out)
}

/// Both directions after their handshakes.
fn begun() -> (Scrubber, Scrubber) {
    let (mut one, mut other) = Scrubber::pair();
    for scrubber in [&mut one, &mut other] {
        scrub(scrubber, &handshake([0; 8])).unwrap();
    }
    (one, other)
}

/// What the messages say that pass, each checked: length, id, extended id.
fn forbidden(mut passed: &[u8]) -> Option<u8> {
    while let Some((len, rest)) = passed.split_first_chunk::<4>() {
        let len = (u32::from_be_bytes(*len) as usize).min(rest.len());
        let (message, rest) = rest.split_at(len);
        passed = rest;
        match message {
            [9 | 17, ..] => return message.first().copied(),
            [20, 0, dict @ ..] if !dict.is_empty() => {
                let dict = Value::parse(dict).unwrap();
                let known = [&b"m"[..], b"metadata_size", b"reqq", b"upload_only"];
                let mut keys = dict.as_dict().unwrap();
                if !dict.keys_sorted() || !keys.all(|(key, _)| known.contains(&key)) {
                    return Some(20);
                }
            }
            [id, ..] if !matches!(id, 0..=8 | 13..=16 | 20..=23) => return Some(*id),
            _ => {}
        }
    }
    None
}

#[test]
fn a_handshake_offers_extensions_and_fast_messages_alone() {
    let (mut scrubber, _) = Scrubber::pair();
    let passed = scrub(&mut scrubber, &handshake([0xff; 8])).unwrap();
    assert_eq!(passed, handshake([0, 0, 0, 0, 0, 0x10, 0, 4]));
    let (mut scrubber, _) = Scrubber::pair();
    let passed = scrub(&mut scrubber, &handshake([0, 0, 0, 0, 0, 0, 0, 1])).unwrap();
    assert_eq!(passed, handshake([0; 8]));
}

#[test]
fn an_extension_handshake_keeps_what_names_nobody() {
    let (mut scrubber, _) = begun();
    let passed = scrub(&mut scrubber, &extended(0, TALKATIVE)).unwrap();
    assert_eq!(passed, extended(0, KEPT));
    // Out of order, with bytes behind it, and with values of other kinds.
    let odd = b"d1:v1:x4:reqq4:many1:md6:ut_pexi3e11:ut_metadatai6e11:lt_donthave1:xeetrailing";
    let passed = scrub(&mut scrubber, &extended(0, odd)).unwrap();
    assert_eq!(passed, extended(0, b"d1:md11:ut_metadatai6eee"));
    for (said, kept) in [(&b"de"[..], &b"de"[..]), (b"d1:mi1e1:pi1ee", b"de")] {
        let passed = scrub(&mut scrubber, &extended(0, said)).unwrap();
        assert_eq!(passed, extended(0, kept));
    }
}

#[test]
fn what_names_others_is_dropped_and_the_rest_passes_as_it_is() {
    let (mut scrubber, _) = begun();
    let pass = [
        vec![0; 4],
        message(0, b""),
        message(4, b"aaaa"),
        message(5, b"bits"),
        message(6, &[1; 12]),
        message(7, &[7; 8 + MAX_BLOCK as usize]),
        message(13, b"aaaa"),
        message(14, b""),
        message(16, &[1; 12]),
        message(21, &[2; 48]),
        message(22, &[2; 480]),
        message(23, &[2; 48]),
    ];
    let (port, fast) = (message(9, &[0x1a, 0xe1]), message(17, b"aaaa"));
    let unknown = [message(99, b"203.0.113.7"), message(24, b""), port, fast];
    for message in &pass {
        for unknown in &unknown {
            let both = [&unknown[..], message].concat();
            assert_eq!(&scrub(&mut scrubber, &both).unwrap(), message);
        }
    }
}

#[test]
fn extended_messages_pass_under_ids_that_the_other_has_for_allowed_extensions() {
    let (mut one, mut other) = begun();
    // Nobody has announced anything: neither what is meant nor its name gets through.
    assert_eq!(scrub(&mut one, &extended(2, b"early")).unwrap(), b"");
    scrub(&mut other, &extended(0, TALKATIVE)).unwrap();
    for id in [2, 3, 7] {
        let sent = extended(id, b"piece");
        assert_eq!(scrub(&mut one, &sent).unwrap(), sent);
        assert_eq!(scrub(&mut other, &sent).unwrap(), b"", "its own ids");
    }
    for id in [1, 4, 5, 255] {
        assert_eq!(scrub(&mut one, &extended(id, b"added")).unwrap(), b"");
    }
    // It takes one back, and moves another.
    let moved = b"d1:md11:upload_onlyi0e11:ut_metadatai9eee";
    let passed = scrub(&mut other, &extended(0, moved)).unwrap();
    assert_eq!(passed, extended(0, moved));
    for (id, passes) in [(2, false), (3, false), (7, true), (9, true)] {
        let passed = scrub(&mut one, &extended(id, b"")).unwrap();
        assert_eq!(!passed.is_empty(), passes, "{id}");
    }
}

#[test]
fn an_id_that_a_client_has_for_peers_never_passes() {
    for said in [
        &[&b"d1:md11:ut_metadatai1e6:ut_pexi1eee"[..]][..],
        &[
            b"d1:md11:ut_metadatai1eee",
            b"d1:md11:ut_metadatai2e6:ut_pexi1eee",
            b"d1:md11:ut_metadatai1eee",
        ],
    ] {
        let (mut one, mut other) = begun();
        for said in said {
            scrub(&mut other, &extended(0, said)).unwrap();
        }
        assert_eq!(scrub(&mut one, &extended(1, b"added")).unwrap(), b"");
    }
}

#[test]
fn it_does_not_matter_where_the_bytes_are_cut() {
    let said = [
        handshake([0xff; 8]),
        extended(0, TALKATIVE),
        message(9, &[1, 2]),
        vec![0; 4],
        extended(2, b"request"),
        extended(1, b"peers"),
        message(5, b"bits"),
    ]
    .concat();
    let kept = [
        handshake([0, 0, 0, 0, 0, 0x10, 0, 4]),
        extended(0, KEPT),
        vec![0; 4],
        extended(2, b"request"),
        message(5, b"bits"),
    ]
    .concat();
    let fresh = || {
        let (one, mut other) = Scrubber::pair();
        scrub(&mut other, &handshake([0; 8])).unwrap();
        scrub(&mut other, &extended(0, TALKATIVE)).unwrap();
        one
    };
    for cut in 0..=said.len() {
        let mut scrubber = fresh();
        let mut passed = scrub(&mut scrubber, &said[..cut]).unwrap();
        passed.extend(scrub(&mut scrubber, &said[cut..]).unwrap());
        assert_eq!(passed, kept, "cut at {cut}");
    }
    let mut scrubber = fresh();
    let bytes = said
        .iter()
        .map(|byte| scrub(&mut scrubber, &[*byte]).unwrap());
    assert_eq!(bytes.collect::<Vec<_>>().concat(), kept, "one by one");
}

#[test]
fn a_handshake_passes_as_far_as_it_was_sent() {
    let (mut scrubber, _) = Scrubber::pair();
    let said = handshake([0; 8]);
    assert_eq!(scrub(&mut scrubber, &said[..48]).unwrap(), said[..48]);
    assert_eq!(scrub(&mut scrubber, &said[48..]).unwrap(), said[48..]);
}

#[test]
fn what_is_not_the_protocol_ends_the_connection_for_good() {
    let long = |id: u8, len: u32| [&len.to_be_bytes()[..], &[id, 0]].concat();
    let (mut web, _) = Scrubber::pair();
    assert!(scrub(&mut web, b"GET / HTTP/1.1\r\n\r\n").is_err());
    for said in [
        long(7, MAX_MESSAGE + 1),
        long(99, u32::MAX),
        long(20, MAX_EXTENSION_HANDSHAKE + 3),
        long(20, 2),
        message(20, b""),
        message(1, b"x"),
        message(4, b"aaaaa"),
        message(16, b""),
        extended(0, b"le"),
        extended(0, b"d1:v"),
        extended(0, b"d1:md1:ai1e1:ai2eee"),
    ] {
        let (mut scrubber, _) = begun();
        let error = scrub(&mut scrubber, &said).unwrap_err();
        assert_eq!(scrub(&mut scrubber, &message(0, b"")), Err(error));
    }
    // The longest that there may be.
    let (mut scrubber, _) = begun();
    let mut handshake = b"d1:v16000:".to_vec();
    handshake.resize(MAX_EXTENSION_HANDSHAKE as usize, b'x');
    handshake.truncate(10 + 16000);
    handshake.push(b'e');
    handshake.resize(MAX_EXTENSION_HANDSHAKE as usize, b'x');
    let passed = scrub(&mut scrubber, &extended(0, &handshake)).unwrap();
    assert_eq!(passed, extended(0, b"de"));
    let longest = message(7, &vec![1; MAX_MESSAGE as usize - 1]);
    assert!(scrub(&mut scrubber, &longest).unwrap() == longest);
}

#[tokio::test]
async fn streams_are_scrubbed_both_ways_and_end_where_the_protocol_does() {
    let begin = || {
        let (visitor, near) = duplex(64);
        let (far, client) = duplex(64);
        let carried = tokio::spawn(async move {
            let said = handshake([0xff; 8]);
            let buffers = Buffers::default();
            carry(Box::new(near), Box::new(far), &said[..48], &buffers).await
        });
        (visitor, client, carried)
    };
    let (mut visitor, mut client, carried) = begin();
    let dropped = message(9, &[0; 400]);
    let said = [
        &handshake([0xff; 8])[48..],
        &dropped,
        &extended(0, TALKATIVE),
    ]
    .concat();
    let answer = [handshake([0xff; 8]), extended(0, TALKATIVE), dropped].concat();
    let kept = [handshake([0, 0, 0, 0, 0, 0x10, 0, 4]), extended(0, KEPT)].concat();
    let (mut at_client, mut at_visitor) = (Vec::new(), Vec::new());
    let (mut from_visitor, mut to_visitor) = tokio::io::split(&mut visitor);
    let (mut from_client, mut to_client) = tokio::io::split(&mut client);
    let (up, down, _, _) = tokio::join!(
        async {
            to_visitor.write_all(&said).await?;
            to_visitor.shutdown().await
        },
        async {
            to_client.write_all(&answer).await?;
            to_client.shutdown().await
        },
        from_client.read_to_end(&mut at_client),
        from_visitor.read_to_end(&mut at_visitor),
    );
    assert!(up.is_ok() && down.is_ok());
    assert_eq!(at_client, kept);
    assert_eq!(at_visitor, kept);
    assert_eq!(carried.await.unwrap().unwrap().up, kept.len() as u64);

    let (mut visitor, _client, carried) = begin();
    visitor.write_all(&handshake([0; 8])[48..]).await.unwrap();
    visitor.write_all(&message(0, b"too much")).await.unwrap();
    let error = carried.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
}

/// Messages as clients send them, and some as nobody should.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..30);
    let id = prop_oneof![0..26u8, any::<u8>()];
    prop_oneof![
        (id.clone(), payload.clone()).prop_map(|(id, payload)| message(id, &payload)),
        (0..12u8, payload.clone()).prop_map(|(id, payload)| extended(id, &payload)),
        Just(extended(0, TALKATIVE)),
        prop_oneof![Just(0u8), Just(14), Just(9), Just(24)].prop_map(|id| message(id, b"")),
        prop_oneof![Just(4u8), Just(13), Just(17)].prop_map(|id| message(id, b"aaaa")),
        payload,
    ]
}

proptest! {
    #[test]
    fn whatever_is_said_nothing_forbidden_passes(
        said in prop::collection::vec((any::<bool>(), messages()), 0..20),
        cut in 1..50usize,
    ) {
        let (mut one, mut other) = begun();
        let (mut passed, mut back) = (Vec::new(), Vec::new());
        let mut sent = [0, 0];
        for (turned, said) in &said {
            let (scrubber, out) = if *turned { (&mut other, &mut back) } else { (&mut one, &mut passed) };
            sent[usize::from(*turned)] += said.len();
            for said in said.chunks(cut) {
                let _ = scrubber.scrub(said, out);
            }
        }
        prop_assert!(passed.len() <= sent[0] && back.len() <= sent[1]);
        prop_assert_eq!(forbidden(&passed), None);
        prop_assert_eq!(forbidden(&back), None);
    }

    #[test]
    fn no_bytes_break_it(said in prop::collection::vec(any::<u8>(), 0..300), begin in any::<bool>()) {
        let (mut scrubber, _) = if begin { begun() } else { Scrubber::pair() };
        let mut out = Vec::new();
        let _ = scrubber.scrub(&said, &mut out);
        prop_assert!(out.len() <= said.len());
    }
}
