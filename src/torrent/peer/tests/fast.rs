use super::*;

/// What a peer says now.
fn said(now: Instant, peer: &mut Peer) -> Vec<Message> {
    let mut bytes = Vec::new();
    peer.transmit(now, &mut bytes);
    let mut decoder = Decoder::new();
    decoder.feed(&bytes);
    let mut messages = Vec::new();
    while let Some(message) = decoder.next().unwrap() {
        messages.push(message.to_message());
    }
    messages
}

/// A leech whose peer has everything, and does not choke it.
fn unchoked(now: Instant) -> Peer {
    let (_, mut leech) = pair(now);
    leech.set_interested(true);
    say(now, &mut leech, Message::Unchoke).unwrap();
    said(now, &mut leech);
    leech
}

fn given(block: BlockRef) -> Message {
    Message::Piece {
        index: block.index,
        begin: block.begin,
        data: vec![0; block.len as usize],
    }
}

#[test]
fn who_has_all_or_nothing_says_so_in_a_word_where_that_is_understood() {
    let now = Instant::now();
    let mut some = Bits::new(10);
    some.set(3);
    for (ours, fast, plain) in [
        (
            Bits::full(10),
            Some(Message::HaveAll),
            Some(vec![0xff, 0xc0]),
        ),
        (Bits::new(10), Some(Message::HaveNone), None),
        (
            some,
            Some(Message::Bitfield(vec![0x10, 0])),
            Some(vec![0x10, 0]),
        ),
    ] {
        for (reserved, first) in [(wire::FAST_BIT, fast), (0, plain.map(Message::Bitfield))] {
            let mut seed = peer(now, false);
            seed.set_torrent(GEOMETRY, ours.clone(), None).unwrap();
            greet(now, &mut seed, reserved);
            let mut bytes = Vec::new();
            seed.transmit(now, &mut bytes);
            let mut decoder = Decoder::new();
            decoder.feed(&bytes[HANDSHAKE_LEN..]);
            let message = decoder.next().unwrap().unwrap().to_message();
            let extended = matches!(message, Message::Extended { .. });
            assert_eq!(Some(message).filter(|_| !extended), first);
        }
    }
}

#[test]
fn what_was_asked_before_a_choke_comes_or_is_rejected_or_is_given_up() {
    let now = Instant::now();
    let mut leech = unchoked(now);
    let blocks: Vec<BlockRef> = (0..4).map(|n| GEOMETRY.block(0, n)).collect();
    leech.request(now, &blocks);
    assert_eq!(say(now, &mut leech, Message::Choke), Ok(vec![]));
    assert_eq!(leech.wants(), 0);
    let told = say(now, &mut leech, Message::Reject(blocks[0])).unwrap();
    assert_eq!(told, [format!("{:?}", Event::Released(vec![blocks[0]]))]);
    let told = say(now, &mut leech, given(blocks[1])).unwrap();
    assert_eq!(told, ["Block(0, 16384)"]);
    let due = leech.poll_timeout();
    assert_eq!(due, now + Duration::from_secs(10));
    assert_eq!(leech.handle_timeout(due), Ok(blocks[2..].to_vec()));
    assert_eq!(leech.outstanding(), 0);
    // Too late, but the answers to what was asked; and then more than was asked.
    say(due, &mut leech, Message::Reject(blocks[2])).unwrap();
    say(due, &mut leech, given(blocks[3])).unwrap();
    for _ in 0..FORGIVEN {
        say(due, &mut leech, Message::Reject(blocks[0])).unwrap();
    }
    let more = say(due, &mut leech, Message::Reject(blocks[0]));
    assert_eq!(more, Err(CloseReason::Unasked));
}

#[test]
fn what_is_asked_after_a_choke_is_over_is_not_given_up_with_it() {
    let now = Instant::now();
    let mut leech = unchoked(now);
    leech.request(now, &[GEOMETRY.block(0, 0)]);
    say(now, &mut leech, Message::Choke).unwrap();
    let later = now + Duration::from_secs(5);
    say(later, &mut leech, Message::Unchoke).unwrap();
    leech.request(later, &[GEOMETRY.block(0, 1)]);
    let due = leech.poll_timeout();
    assert_eq!(leech.handle_timeout(due), Ok(vec![GEOMETRY.block(0, 0)]));
    assert_eq!(leech.outstanding(), 1);
}

#[test]
fn an_allowed_piece_is_asked_for_while_choked_until_it_is_rejected() {
    let now = Instant::now();
    let (_, mut leech) = pair(now);
    leech.set_interested(true);
    assert_eq!((leech.wants(), leech.askable()), (0, None));
    let told = say(now, &mut leech, Message::AllowedFast(3)).unwrap();
    assert_eq!(told, ["Allowed"]);
    assert!(leech.askable().unwrap().ones().eq([3]));
    assert_eq!(leech.wants(), 8);
    let block = GEOMETRY.block(3, 0);
    leech.request(now, &[block]);
    say(now, &mut leech, Message::Choke).unwrap();
    let due = now + Duration::from_secs(10);
    assert_eq!(leech.handle_timeout(due), Ok(vec![]), "not given up");
    let told = say(due, &mut leech, Message::Reject(block)).unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!((leech.wants(), leech.askable()), (0, None));
    say(due, &mut leech, Message::Unchoke).unwrap();
    assert_eq!(leech.askable().unwrap().count(), 10);
}

#[test]
fn a_piece_that_is_allowed_counts_from_when_the_peer_has_it() {
    let now = Instant::now();
    let mut leech = peer(now, true);
    greet(now, &mut leech, wire::FAST_BIT);
    for piece in [2, 9] {
        say(now, &mut leech, Message::AllowedFast(piece)).unwrap();
    }
    leech.set_torrent(GEOMETRY, Bits::new(10), None).unwrap();
    assert_eq!(leech.askable(), None);
    say(now, &mut leech, Message::Have(9)).unwrap();
    assert!(leech.askable().unwrap().ones().eq([9]));
    // No more of them are remembered than are of use.
    let later = |n| now + n * Duration::from_millis(100);
    for n in 0..10_u32.pow(5) {
        let _ = say(later(n), &mut leech, Message::AllowedFast(n % 10)).unwrap();
    }
    let now = later(10_u32.pow(5));
    let beyond = say(now, &mut leech, Message::AllowedFast(10));
    assert_eq!(beyond, Err(CloseReason::Bad("piece number")));
}

#[test]
fn who_rejects_everything_is_left_alone_for_a_while() {
    let now = Instant::now();
    let mut leech = unchoked(now);
    let mut rejected = 0;
    while leech.wants() > 0 {
        let block = GEOMETRY.block(0, 0);
        leech.request(now, &[block]);
        say(now, &mut leech, Message::Reject(block)).unwrap();
        rejected += 1;
        assert!(rejected < 100, "asked again and again");
    }
    let due = leech.poll_timeout();
    assert_eq!(due, now + Duration::from_secs(20));
    leech.handle_timeout(due).unwrap();
    assert!(leech.wants() > 0);
}

#[test]
fn every_request_is_answered() {
    let now = Instant::now();
    let (mut seed, _) = pair(now);
    said(now, &mut seed);
    let block = |begin| BlockRef {
        index: 0,
        begin,
        len: 1,
    };
    say(now, &mut seed, Message::Request(block(0))).unwrap();
    assert_eq!(said(now, &mut seed), [Message::Reject(block(0))], "choked");
    seed.set_choking(false);
    said(now, &mut seed);
    for begin in 0..=serving::MAX_UPLOADS as u32 {
        say(now, &mut seed, Message::Request(block(begin))).unwrap();
    }
    let last = block(serving::MAX_UPLOADS as u32);
    assert_eq!(said(now, &mut seed), [Message::Reject(last)], "too many");
    say(now, &mut seed, Message::Cancel(block(7))).unwrap();
    assert_eq!(said(now, &mut seed), [Message::Reject(block(7))]);
    let served = seed.take_uploads(400);
    seed.set_choking(true);
    let rest = said(now, &mut seed);
    assert_eq!(rest[0], Message::Choke);
    assert_eq!(rest.len() - 1, serving::MAX_UPLOADS - 1 - served.len());
    // Of a piece that we don't have.
    let (_, mut leech) = pair(now);
    said(now, &mut leech);
    say(now, &mut leech, Message::Request(block(0))).unwrap();
    assert_eq!(said(now, &mut leech), [Message::Reject(block(0))]);
}

#[test]
fn who_did_not_offer_it_is_not_spoken_to_in_it() {
    let now = Instant::now();
    let mut seed = peer(now, false);
    seed.set_torrent(GEOMETRY, Bits::full(10), None).unwrap();
    greet(now, &mut seed, 0);
    let mut out = Vec::new();
    seed.transmit(now, &mut out);
    let block = GEOMETRY.block(0, 0);
    say(now, &mut seed, Message::Request(block)).unwrap();
    for message in [
        Message::HaveAll,
        Message::AllowedFast(1),
        Message::Reject(block),
    ] {
        assert_eq!(say(now, &mut seed, message), Ok(vec![]));
    }
    assert_eq!(said(now, &mut seed), []);
    assert!(seed.pieces().unwrap().is_empty());
}

#[test]
fn who_asks_on_though_refused_is_closed() {
    let now = Instant::now();
    for reserved in [wire::FAST_BIT, 0] {
        let mut seed = peer(now, false);
        seed.set_torrent(GEOMETRY, Bits::full(10), None).unwrap();
        greet(now, &mut seed, reserved);
        let request = Message::Request(GEOMETRY.block(0, 0));
        let mut asked = 0;
        let closed = loop {
            let mut out = Vec::new();
            seed.transmit(now, &mut out);
            match say(now, &mut seed, request.clone()) {
                Ok(_) => asked += 1,
                Err(reason) => break reason,
            }
        };
        assert_eq!(
            (asked, closed),
            (2 * serving::MAX_UPLOADS, CloseReason::Floods("requests"))
        );
    }
}

#[test]
fn all_pieces_are_had_also_where_their_number_is_known_later_and_only_as_the_first_word() {
    let now = Instant::now();
    let mut leech = peer(now, true);
    greet(now, &mut leech, wire::FAST_BIT);
    say(now, &mut leech, Message::HaveAll).unwrap();
    leech.set_torrent(GEOMETRY, Bits::new(10), None).unwrap();
    assert!(leech.pieces().unwrap().is_full());
    let again = say(now, &mut leech, Message::HaveAll);
    assert_eq!(again, Err(CloseReason::Bad("have all")));
    let (_, mut leech) = pair(now);
    let none = say(now, &mut leech, Message::HaveNone);
    assert_eq!(none, Err(CloseReason::Bad("have none")));
    let (_, mut leech) = pair(now);
    assert_eq!(say(now, &mut leech, Message::Suggest(9)), Ok(vec![]));
    let beyond = say(now, &mut leech, Message::Suggest(10));
    assert_eq!(beyond, Err(CloseReason::Bad("piece number")));
}
