#![allow(clippy::unwrap_used)]
mod fast;

use super::*;
use crate::torrent::v2::request::HashRequest;
use crate::torrent::wire::{self, BLOCK, EXTENSION_BIT, Message};
use proptest::prelude::*;
use rand::SeedableRng;

const HASH: InfoHash = InfoHash([7; 20]);
const GEOMETRY: Geometry = Geometry {
    piece_len: 4 * BLOCK,
    total: 10 * 4 * BLOCK as u64 - 5,
    pieces: 10,
    short: None,
};

fn peer(now: Instant, outgoing: bool) -> Peer {
    Peer::new(now, HASH, [1; 20], outgoing, StdRng::seed_from_u64(1))
}

/// The other side's handshake, with these bits in the last of the reserved bytes.
fn greet(now: Instant, peer: &mut Peer, reserved: u8) {
    let handshake = Handshake {
        hash: HASH,
        peer_id: [2; 20],
        reserved: [0, 0, 0, 0, 0, EXTENSION_BIT, 0, reserved],
    };
    peer.feed(now, &handshake.encode());
    drain(now, peer).unwrap();
}

/// A leech whose peer has everything and does not know the fast extension.
fn plain(now: Instant) -> Peer {
    let mut leech = peer(now, true);
    leech
        .set_torrent(GEOMETRY, Bits::new(10), Some(100))
        .unwrap();
    greet(now, &mut leech, 0);
    say(now, &mut leech, Message::Bitfield(vec![0xff, 0xc0])).unwrap();
    leech
}

/// A connected pair: one that has everything and one that has nothing.
fn pair(now: Instant) -> (Peer, Peer) {
    let mut seed = peer(now, false);
    let mut leech = peer(now, true);
    seed.set_torrent(GEOMETRY, Bits::full(10), Some(100))
        .unwrap();
    leech
        .set_torrent(GEOMETRY, Bits::new(10), Some(100))
        .unwrap();
    for _ in 0..3 {
        carry(now, &mut leech, &mut seed);
        carry(now, &mut seed, &mut leech);
    }
    (seed, leech)
}

/// Carries bytes one way; gives what the receiver's driver is told.
fn carry(now: Instant, from: &mut Peer, to: &mut Peer) -> Vec<String> {
    let mut bytes = Vec::new();
    from.transmit(now, &mut bytes);
    to.feed(now, &bytes);
    drain(now, to).unwrap()
}

fn drain(now: Instant, peer: &mut Peer) -> Result<Vec<String>, CloseReason> {
    let mut seen = Vec::new();
    while let Some(event) = peer.poll(now)? {
        if event == Event::Nothing {
            continue;
        }
        seen.push(if let Event::Block(block, data) = event {
            format!("Block({}, {})", block.index, data.len())
        } else {
            format!("{event:?}")
        });
    }
    Ok(seen)
}

fn say(now: Instant, peer: &mut Peer, message: Message) -> Result<Vec<String>, CloseReason> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    peer.feed(now, &bytes);
    drain(now, peer)
}

#[test]
fn a_block_is_asked_for_and_given() {
    let now = Instant::now();
    let (mut seed, mut leech) = pair(now);
    assert!(leech.pieces().unwrap().is_full());
    assert_eq!(leech.extensions().metadata_size, Some(100));
    leech.set_interested(true);
    assert_eq!(leech.wants(), 0, "choked");
    carry(now, &mut leech, &mut seed);
    assert!(seed.is_interested());
    seed.set_choking(false);
    assert_eq!(carry(now, &mut seed, &mut leech), ["Unchoked"]);
    assert_eq!(leech.wants(), 8);
    let block = GEOMETRY.block(3, 1);
    leech.request(now, &[block]);
    carry(now, &mut leech, &mut seed);
    assert_eq!(seed.take_uploads(1), [block]);
    let data = vec![9; BLOCK as usize];
    let given = Message::Piece {
        index: 3,
        begin: BLOCK,
        data,
    };
    assert_eq!(say(now, &mut leech, given).unwrap(), ["Block(3, 16384)"]);
    assert_eq!(leech.outstanding(), 0);
}

#[test]
fn a_choke_releases_requests_and_late_blocks_are_forgiven() {
    let now = Instant::now();
    let mut leech = plain(now);
    leech.set_interested(true);
    say(now, &mut leech, Message::Unchoke).unwrap();
    let blocks: Vec<BlockRef> = (0..4).map(|n| GEOMETRY.block(0, n)).collect();
    leech.request(now, &blocks);
    let told = say(now, &mut leech, Message::Choke).unwrap();
    assert_eq!(told, [format!("{:?}", Event::Released(blocks))]);
    let late = || Message::Piece {
        index: 0,
        begin: 0,
        data: vec![0; BLOCK as usize],
    };
    for _ in 0..4 + FORGIVEN {
        assert_eq!(say(now, &mut leech, late()), Ok(vec![]));
    }
    assert_eq!(say(now, &mut leech, late()), Err(CloseReason::Unasked));
}

#[test]
fn a_silent_peer_is_snubbed_then_closed() {
    let now = Instant::now();
    let (_, mut leech) = pair(now);
    leech.set_interested(true);
    say(now, &mut leech, Message::Unchoke).unwrap();
    leech.request(now, &[GEOMETRY.block(0, 0)]);
    let due = leech.poll_timeout();
    assert_eq!(due, now + SNUB_TIME);
    assert_eq!(leech.handle_timeout(due), Ok(vec![GEOMETRY.block(0, 0)]));
    assert!(leech.is_snubbing());
    assert_eq!(leech.wants(), 1);
    leech.request(due, &[GEOMETRY.block(0, 1)]);
    // A keep-alive may fall due first.
    let mut again = leech.poll_timeout();
    let closed = loop {
        match leech.handle_timeout(again) {
            Ok(_) => again = leech.poll_timeout(),
            Err(reason) => break reason,
        }
    };
    assert_eq!(
        (closed, again),
        (CloseReason::TimedOut("snubbed"), due + SNUB_TIME)
    );
}

#[test]
fn keep_alives_are_sent_at_irregular_times_and_silence_ends_the_connection() {
    let now = Instant::now();
    let (mut seed, mut leech) = pair(now);
    let due = seed.poll_timeout();
    let waited = due - now;
    assert!((Duration::from_secs(100)..Duration::from_secs(120)).contains(&waited));
    seed.handle_timeout(due).unwrap();
    let mut bytes = Vec::new();
    seed.transmit(due, &mut bytes);
    assert_eq!(bytes, [0; 4]);
    let mut at = leech.poll_timeout();
    let closed = loop {
        match leech.handle_timeout(at) {
            Ok(_) => at = leech.poll_timeout(),
            Err(reason) => break reason,
        }
    };
    assert_eq!(
        (closed, at),
        (CloseReason::TimedOut("idle"), now + IDLE_TIME)
    );
}

#[test]
fn the_handshake_must_come_in_time_and_name_our_torrent() {
    let now = Instant::now();
    let mut silent = peer(now, true);
    assert_eq!(silent.poll_timeout(), now + HANDSHAKE_TIME);
    let late = silent.handle_timeout(now + HANDSHAKE_TIME);
    assert_eq!(late, Err(CloseReason::TimedOut("handshake")));

    let mut other = peer(now, false);
    other.feed(now, &Handshake::new(InfoHash([8; 20]), [2; 20]).encode());
    assert_eq!(other.poll(now), Err(CloseReason::OtherTorrent));
    let mut answer = Vec::new();
    other.transmit(now, &mut answer);
    assert!(
        answer.is_empty(),
        "who asks for another torrent learns nothing"
    );
}

#[test]
fn a_late_bitfield_is_taken_as_the_haves_that_it_stands_for() {
    let now = Instant::now();
    let (mut seed, _) = pair(now);
    say(now, &mut seed, Message::Interested).unwrap();
    let first = say(now, &mut seed, Message::Bitfield(vec![0x22, 0])).unwrap();
    assert_eq!(first.len(), 2, "{first:?}");
    assert!(first.contains(&"Have(2)".to_owned()) && first.contains(&"Have(6)".to_owned()));
    let second = say(now, &mut seed, Message::Bitfield(vec![0x32, 0])).unwrap();
    assert_eq!(second, ["Have(3)"], "what is known is not told again");
    assert_eq!(seed.pieces().unwrap().count(), 3);
    let all = say(now, &mut seed, Message::Bitfield(vec![0xff, 0xc0]));
    assert_eq!(all, Err(CloseReason::BothComplete));
}

#[test]
fn impossible_messages_close_the_connection() {
    let now = Instant::now();
    let block = |index, begin, len| BlockRef { index, begin, len };
    for (message, reason) in [
        (Message::Have(10), "piece number"),
        (Message::Bitfield(vec![0xff, 0xff]), "bitfield"),
        (Message::Bitfield(vec![0xff]), "bitfield"),
        (Message::Request(block(10, 0, 1)), "request"),
        (Message::Request(block(9, 4 * BLOCK - 5, 1)), "request"),
        (Message::Request(block(0, u32::MAX, 2)), "request"),
        (Message::Request(block(0, 0, 0)), "request"),
    ] {
        let (mut seed, _) = pair(now);
        say(now, &mut seed, Message::Interested).unwrap();
        assert_eq!(say(now, &mut seed, message), Err(CloseReason::Bad(reason)));
    }
    let mut leech = plain(now);
    let not_had = Message::Request(block(0, 0, 1));
    assert_eq!(
        say(now, &mut leech, not_had),
        Err(CloseReason::Bad("request"))
    );
}

#[test]
fn requests_beyond_the_queue_are_dropped_and_a_cancel_is_honoured() {
    let now = Instant::now();
    let (mut seed, _) = pair(now);
    seed.set_choking(false);
    for number in 0..serving::MAX_UPLOADS as u32 + 10 {
        let block = BlockRef {
            index: 0,
            begin: number,
            len: 1,
        };
        say(now, &mut seed, Message::Request(block)).unwrap();
    }
    let first = BlockRef {
        index: 0,
        begin: 0,
        len: 1,
    };
    say(now, &mut seed, Message::Cancel(first)).unwrap();
    let served = seed.take_uploads(u32::MAX);
    assert_eq!(served.len(), serving::MAX_UPLOADS - 1);
    assert!(!served.contains(&first));
}

#[test]
fn two_complete_peers_part() {
    let now = Instant::now();
    let (_, mut leech) = pair(now);
    let ends: Vec<bool> = (0..10).map(|piece| leech.have(piece).is_err()).collect();
    assert_eq!(ends.iter().position(|&end| end), Some(9));
}

#[test]
fn metadata_is_given_until_the_share_is_used_up() {
    let now = Instant::now();
    let (mut seed, mut leech) = pair(now);
    for round in 0..=METADATA_TIMES {
        leech.ask_metadata(0);
        assert_eq!(carry(now, &mut leech, &mut seed), ["MetadataWanted(0)"]);
        seed.give_metadata(0, Some(&[3; 100]));
        let told = carry(now, &mut seed, &mut leech);
        assert_eq!(
            told[0] == "MetadataRejected",
            round == METADATA_TIMES,
            "{told:?}"
        );
    }
    seed.give_metadata(1, Some(&[3; 100]));
    assert_eq!(carry(now, &mut seed, &mut leech), ["MetadataRejected"]);
}

#[test]
fn public_peers_are_told_of_where_both_offer_it_and_listened_to_once_a_minute() {
    let start = Instant::now();
    let offers = [Exchange::Public, Exchange::Onions, Exchange::Nobody];
    for (ours, theirs) in offers
        .iter()
        .flat_map(|o| offers.iter().map(move |t| (*o, *t)))
    {
        let (mut one, mut two) = (peer(start, true), peer(start, false));
        one.offer(ours);
        two.offer(theirs);
        for _ in 0..3 {
            carry(start, &mut one, &mut two);
            carry(start, &mut two, &mut one);
        }
        let both = (ours, theirs) == (Exchange::Public, Exchange::Public);
        assert_eq!(one.exchanges(), ours == theirs && ours != Exchange::Nobody);
        let told = PeerExchange {
            added: vec!["11.0.0.1:1".parse().unwrap()],
        };
        one.send_pex(&told);
        let heard = carry(start, &mut one, &mut two);
        assert_eq!(heard.len(), usize::from(both), "{ours:?} {theirs:?}");
        // Who did not offer it may speak; nobody listens.
        let mut later = start;
        let mut heard = 0;
        for _ in 0..180 {
            later += Duration::from_secs(1);
            let said = Message::Extended {
                id: extension::UT_PEX,
                payload: told.encode(),
            };
            heard += say(later, &mut two, said).unwrap().len();
        }
        assert_eq!(heard, if both { 4 } else { 0 }, "{ours:?} {theirs:?}");
    }
    let (mut one, mut two) = (peer(start, true), peer(start, false));
    one.offer(Exchange::Public);
    two.offer(Exchange::Public);
    for _ in 0..3 {
        carry(start, &mut one, &mut two);
        carry(start, &mut two, &mut one);
    }
    let said = Message::Extended {
        id: extension::UT_PEX,
        payload: b"d5:added1:xe".to_vec(),
    };
    assert!(say(start, &mut two, said).unwrap_err().is_fault());
}

#[test]
fn pieces_named_before_the_metadata_is_known_count_later() {
    let now = Instant::now();
    let mut leech = peer(now, true);
    leech.feed(now, &Handshake::new(HASH, [2; 20]).encode());
    drain(now, &mut leech).unwrap();
    say(now, &mut leech, Message::Bitfield(vec![0x80, 0])).unwrap();
    say(now, &mut leech, Message::Have(9)).unwrap();
    assert!(leech.pieces().is_none());
    leech.set_torrent(GEOMETRY, Bits::new(10), None).unwrap();
    assert!(leech.pieces().unwrap().ones().eq([0, 9]));

    let mut fooled = peer(now, true);
    fooled.feed(now, &Handshake::new(HASH, [2; 20]).encode());
    say(now, &mut fooled, Message::Have(10)).unwrap();
    let result = fooled.set_torrent(GEOMETRY, Bits::new(10), None);
    assert_eq!(result, Err(CloseReason::Bad("piece number")));
}

fn messages() -> impl Strategy<Value = Message> {
    let block = (
        0_u32..12,
        prop_oneof![0_u32..70_000, any::<u32>()],
        0_u32..20_000,
    )
        .prop_map(|(index, begin, len)| BlockRef { index, begin, len });
    prop_oneof![
        Just(Message::KeepAlive),
        Just(Message::Choke),
        Just(Message::Unchoke),
        Just(Message::Interested),
        Just(Message::NotInterested),
        (0_u32..12).prop_map(Message::Have),
        prop::collection::vec(any::<u8>(), 1..4).prop_map(Message::Bitfield),
        block.clone().prop_map(Message::Request),
        block.clone().prop_map(Message::Cancel),
        Just(Message::HaveAll),
        Just(Message::HaveNone),
        (0_u32..12).prop_map(Message::Suggest),
        (0_u32..12).prop_map(Message::AllowedFast),
        block.prop_map(Message::Reject),
        (0_u32..10, 0_u32..4).prop_map(|(index, n)| Message::Reject(GEOMETRY.block(index, n))),
        (0_u32..12, 0_u32..5, 1_usize..20).prop_map(|(index, n, len)| Message::Piece {
            index,
            begin: n * BLOCK,
            data: vec![0; len]
        }),
        (0_u8..3, prop::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(id, payload)| Message::Extended { id, payload }),
    ]
}

proptest! {
    #[test]
    fn random_bytes_never_panic(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8), greet: bool) {
        let now = Instant::now();
        let mut peer = peer(now, true);
        peer.set_torrent(GEOMETRY, Bits::new(10), None).unwrap();
        if greet {
            peer.feed(now, &Handshake::new(HASH, [2; 20]).encode());
        }
        for chunk in chunks {
            peer.feed(now, &chunk);
            if drain(now, &mut peer).is_err() {
                break;
            }
        }
    }

    #[test]
    fn random_messages_leave_a_bounded_and_consistent_connection(
        script in prop::collection::vec((messages(), 0_u64..90), 0..60),
    ) {
        let mut now = Instant::now();
        let (_, mut peer) = pair(now);
        peer.set_interested(true);
        for (message, seconds) in script {
            if say(now, &mut peer, message).is_err() {
                break;
            }
            let want = peer.wants();
            prop_assert!(peer.outstanding() + want <= pipeline::MAX_WINDOW as usize);
            if want > 0 {
                let blocks: Vec<BlockRef> = (0..want.min(40) as u32).map(|n| GEOMETRY.block(n / 4, n % 4)).collect();
                peer.request(now, &blocks);
            }
            now += Duration::from_secs(seconds);
            if peer.poll_timeout() <= now && peer.handle_timeout(now).is_err() {
                break;
            }
        }
    }
}

/// Two ends of a torrent with these names of version 2, where the caller names it by `said`: what each calls it afterwards.
fn names(said: u8, v2: [Option<u8>; 2]) -> Result<[InfoHash; 2], CloseReason> {
    let now = Instant::now();
    let hash = InfoHash([said; 20]);
    let mut caller = Peer::new(now, hash, [1; 20], true, StdRng::seed_from_u64(1));
    let mut called = peer(now, false);
    for (end, name) in [&mut caller, &mut called].into_iter().zip(v2) {
        if let Some(name) = name {
            end.also_named(InfoHash([name; 20]));
        }
    }
    assert_eq!(caller.name(), None);
    for _ in 0..2 {
        let mut bytes = Vec::new();
        caller.transmit(now, &mut bytes);
        called.feed(now, &bytes);
        drain(now, &mut called)?;
        bytes.clear();
        called.transmit(now, &mut bytes);
        caller.feed(now, &bytes);
        drain(now, &mut caller)?;
    }
    Ok([caller.name().unwrap(), called.name().unwrap()])
}

#[test]
fn two_who_can_go_on_under_the_second_name_of_a_hybrid_torrent() {
    let [first, second] = [InfoHash([7; 20]), InfoHash([8; 20])];
    let hybrid = Some(8);
    assert_eq!(names(7, [hybrid, hybrid]), Ok([second; 2]));
    assert_eq!(names(8, [hybrid, hybrid]), Ok([second; 2]));
    // Who knows one name only is spoken to by that.
    assert_eq!(names(7, [None, hybrid]), Ok([first; 2]));
    assert_eq!(names(7, [hybrid, None]), Ok([first; 2]));
    assert_eq!(names(8, [None, hybrid]), Ok([second; 2]));
    assert_eq!(names(8, [None, None]), Err(CloseReason::OtherTorrent));
    assert_eq!(names(9, [hybrid, hybrid]), Err(CloseReason::OtherTorrent));
    // Of version 2 alone, there is one name.
    assert_eq!(names(7, [Some(7), Some(7)]), Ok([first; 2]));
}

#[test]
fn hashes_are_given_or_refused() {
    let now = Instant::now();
    let (mut seed, mut leech) = pair(now);
    let request = HashRequest {
        root: [1; 32],
        base: 0,
        index: 0,
        count: 2,
        proofs: 0,
    };
    leech.ask_hashes(request);
    let wanted = format!("HashesWanted({request:?})");
    assert_eq!(carry(now, &mut leech, &mut seed), [wanted]);
    seed.give_hashes(request, Some(&[[3; 32], [4; 32]]))
        .unwrap();
    let given = format!("{:?}", Event::Hashes(request, &[[3; 32], [4; 32]]));
    assert_eq!(carry(now, &mut seed, &mut leech), [given]);
    seed.give_hashes(request, None).unwrap();
    let refused = format!("HashesRefused({request:?})");
    assert_eq!(carry(now, &mut seed, &mut leech), [refused]);
    // Who asks for more than there is, and again, is refused.
    let mut given = 0;
    for _ in 0..100 {
        seed.give_hashes(request, Some(&[[3; 32]; 1000])).unwrap();
        given += carry(now, &mut seed, &mut leech)
            .iter()
            .filter(|event| event.starts_with("Hashes("))
            .count();
    }
    assert_eq!(given, 2, "64 KiB");
    // What is left of that, by what the answer will take and what it costs besides.
    let left = (64 << 10) - 64 - 2 * 32_000;
    let wants = |count| HashRequest { count, ..request };
    assert_eq!(wants(4).answer_len(), 4 * 32);
    assert!(seed.may_have_hashes(&wants(left / 32)));
    assert!(!seed.may_have_hashes(&wants(left / 32 + 1)));
    assert!(!seed.charge_hashes(u64::from(left) + 1));
    assert!(seed.charge_hashes(u64::from(left) - 64));
    assert!(seed.may_have_hashes(&request));
    assert!(!seed.may_have_hashes(&wants(3)));
    // An answer lets it ask on; else who is refused and refused is a flood.
    seed.give_hashes(request, Some(&[[3; 32]; 2])).unwrap();
    let mut refused = 0;
    let reason = loop {
        match seed.give_hashes(request, None) {
            Ok(()) => refused += 1,
            Err(reason) => break reason,
        }
    };
    assert_eq!(
        (refused, reason),
        (12_000, CloseReason::Floods("hash requests"))
    );
}
