//! Targets of introduction and rendezvous: what relays read, what seeds and visitors read of each other.

use hushswarm::torrent::feed::FeedLink;
use hushswarm_circuits::keys::{DhSecret, IdentityKey, Key32, RelayId};
use hushswarm_circuits::rendezvous::feed::{FeedError, FeedKey, Issue};
use hushswarm_circuits::rendezvous::item::{self, MAX_ENTRIES, PLAIN_LEN, Period, Slot};
use hushswarm_circuits::rendezvous::message::{ANSWER_LEN, Guests, MESSAGE_LEN};
use hushswarm_circuits::rendezvous::sealed::{MAX_DATA, Opener, Read, Sealer};
use hushswarm_circuits::rendezvous::wire::{
    ESTABLISH_LEN, INTRODUCE_HEADER_LEN, IntroduceHeader, MAX_MESSAGE, MessageReader,
    encode_introduce,
};
use hushswarm_circuits::rendezvous::work::{PROOF_LEN, PUZZLE_LEN};
use hushswarm_circuits::rendezvous::{
    Challenge, Cookie, Establish, Handed, IntroductionId, Introductions, Meeting, Proof, Puzzle,
    SwarmKey, Toll, Verdict, Visitor,
};

use super::super::{HASH, NOW, disturb, rng};

/// Feeds (§8.7): the input as a link, as what somebody put in an item's place, and as what a publisher sealed.
pub fn feed(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(Some(link)) = FeedLink::parse(text)
    {
        assert_eq!(FeedLink::parse(&link.to_string()), Ok(Some(link)));
    }
    let public = IdentityKey::from_seed([5; 32]).public();
    let feed = FeedKey::new(public, Key32::new([6; 32]));
    let place = feed.place(&feed.period(NOW));
    assert_eq!(place.open(input), Err(FeedError::Sealed));
    let mut plain = [0; PLAIN_LEN];
    let len = input.len().min(PLAIN_LEN);
    plain[..len].copy_from_slice(&input[..len]);
    if let Ok(issue) = Issue::decode(&plain) {
        assert_eq!(issue.encode()[..], plain);
        assert_eq!(place.open(&place.seal(&issue, &mut rng())), Ok(issue));
    }
}

/// What members of a swarm write into the DHT (§8.6): as a stranger's value, and as what a member sealed.
pub fn hidden_item(input: &[u8]) {
    let slot = Slot::new(&HASH, &Period::at(&HASH, NOW), 1);
    assert!(slot.open(input).is_err(), "nobody sealed this");
    let mut plain = [0; PLAIN_LEN];
    let len = input.len().min(PLAIN_LEN);
    plain[..len].copy_from_slice(&input[..len]);
    let Ok(entries) = item::decode(&plain) else {
        return;
    };
    assert_eq!(item::encode(&entries)[..], plain);
    let sealed = slot.seal(&entries, &mut rng());
    assert_eq!(slot.open(&sealed).as_ref(), Ok(&entries));
    if let Some(first) = entries.first() {
        let merged = item::merge(first.contact.clone(), first.written, entries.clone());
        assert!(merged.len() <= MAX_ENTRIES && item::decode(&item::encode(&merged)).is_ok());
    }
}

/// Requests that relays read (§8.1): those for introduction points, and introductions.
pub fn meeting_request(input: &[u8]) {
    if let Ok(request) = <&[u8; ESTABLISH_LEN]>::try_from(input) {
        let request = Establish::decode(request);
        assert_eq!(request.encode(), input);
        assert!(!request.is_for(&Key32::new([7; 32])));
    }
    let Some((header, message)) = input.split_first_chunk::<INTRODUCE_HEADER_LEN>() else {
        return;
    };
    if let Ok(header) = IntroduceHeader::decode(header)
        && let Some(message) = message.get(..header.length)
    {
        let again = encode_introduce(&header.key, message).expect("what was read is in bounds");
        assert!(input.starts_with(&again));
    }
}

/// What is said of work (§8.8): the input as a puzzle and a challenge, and as the proof of a message, which a seed that asks for much has not
/// asked for.
pub fn meeting_work(input: &[u8]) {
    if let Ok(bytes) = <&[u8; PUZZLE_LEN]>::try_from(input) {
        if let Ok(puzzle) = Puzzle::decode(bytes) {
            assert_eq!(puzzle.encode(), input);
        }
        if let Ok(challenge) = Challenge::decode(bytes) {
            assert!(challenge.effort() > 0);
            assert_eq!(challenge.encode(), input);
        }
    }
    let Some((proof, message)) = input.split_first_chunk::<PROOF_LEN>() else {
        return;
    };
    let proof = Proof::decode(proof);
    assert_eq!(&proof.encode(), &input[..PROOF_LEN]);
    let puzzle = Puzzle::generate(u32::MAX, &mut rng());
    let key = IntroductionId([7; 32]);
    assert!(!proof.holds(&puzzle, &key, message));
    let now = std::time::Instant::now();
    let handed = Handed {
        refused: u16::from(input[0]),
        proof,
        message,
    };
    let verdict = Toll::new(key, now).judge(now, &handed);
    let bare = proof.names(&Puzzle::NONE);
    assert_eq!(verdict == Verdict::Good, bare);
}

/// Records of an introduction point (§8.1), in pieces: the first byte says how long they are.
pub fn meeting_records(input: &[u8]) {
    let Some((&piece, records)) = input.split_first() else {
        return;
    };
    let (mut reader, mut again) = (MessageReader::default(), Vec::new());
    'all: for piece in records.chunks(usize::from(piece) + 1) {
        reader.push(piece);
        loop {
            match reader.next() {
                Ok(Some(handed)) => {
                    assert!(handed.message.len() <= MAX_MESSAGE);
                    again.extend(handed.encode().expect("what was read is in bounds"));
                }
                Ok(None) => break,
                Err(_) => break 'all,
            }
        }
    }
    assert!(records.starts_with(&again));
}

/// Messages and answers (§8.3) that were changed on the way, by exclusive or with the input: none opens.
pub fn introduction(input: &[u8]) {
    let secret = DhSecret::from_bytes([3; 32]);
    let key = IntroductionId([7; 32]);
    let swarm = SwarmKey::new(&[5; 20]).expect("any infohash has a key");
    let meeting = Meeting {
        relay: RelayId([1; 32]),
        digest: [2; 32],
        cookie: Cookie([9; 20]),
    };
    let mut rng = rng();
    let started = Visitor::start(&secret.public(), &key, &swarm, &meeting, &mut rng);
    let (visitor, right) = started.expect("a good key");
    let own = DhSecret::from_bytes([4; 32]);
    let started = Visitor::start_known(&own, &secret.public(), &key, &swarm, &meeting, &mut rng);
    let (guest, shown) = started.expect("a good key");
    let closed = Introductions::new(key, secret.clone(), swarm.clone());
    closed_introduction(
        input,
        guest,
        shown,
        closed.only(Guests::new([own.public()])),
    );
    let mut introductions = Introductions::new(key, secret, swarm);
    let mut message = right;
    let (first, rest) = input.split_at(input.len().min(MESSAGE_LEN));
    if disturb(&mut message, first) {
        assert!(introductions.open(&message, &mut rng).is_err());
        assert_eq!(introductions.seen(), 0);
    }
    assert!(introductions.open(input, &mut rng).is_err());
    let introduced = introductions.open(&right, &mut rng);
    let introduced = introduced.expect("nobody changed it");
    assert_eq!(*introduced.meeting(), meeting);
    let (mut answer, _) = introduced.answer().expect("a good key");
    let changed = disturb(&mut answer, &rest[..rest.len().min(ANSWER_LEN)]);
    assert_eq!(visitor.finish(&answer).is_err(), changed);
}

/// The same of a seed that lets in only some.
fn closed_introduction(
    input: &[u8],
    visitor: Visitor,
    right: [u8; MESSAGE_LEN],
    mut closed: Introductions,
) {
    let mut rng = rng();
    let mut message = right;
    let (first, rest) = input.split_at(input.len().min(MESSAGE_LEN));
    if disturb(&mut message, first) {
        assert!(closed.open(&message, &mut rng).is_err());
    }
    assert!(closed.open(input, &mut rng).is_err());
    assert_eq!(closed.seen(), 0);
    let introduced = closed.open(&right, &mut rng).expect("nobody changed it");
    let (mut answer, _) = introduced.answer().expect("a good key");
    let changed = disturb(&mut answer, &rest[..rest.len().min(ANSWER_LEN)]);
    assert_eq!(visitor.finish(&answer).is_err(), changed);
}

/// Records from end to end (§8.4): the input is what somebody put in their place, or changes them by exclusive or.
pub fn sealed_records(input: &[u8]) {
    let secret = DhSecret::from_bytes([3; 32]);
    let key = IntroductionId([7; 32]);
    let swarm = SwarmKey::new(&[5; 20]).expect("any infohash has a key");
    let meeting = Meeting {
        relay: RelayId([1; 32]),
        digest: [2; 32],
        cookie: Cookie([9; 20]),
    };
    let Some((&how, input)) = input.split_first() else {
        return;
    };
    let mut rng = rng();
    let started = Visitor::start(&secret.public(), &key, &swarm, &meeting, &mut rng);
    let (visitor, message) = started.expect("a good key");
    let mut introductions = Introductions::new(key, secret, swarm);
    let introduced = introductions
        .open(&message, &mut rng)
        .expect("a good message");
    let (answer, seeds) = introduced.answer().expect("a good key");
    let keys = visitor.finish(&answer).expect("a good answer");
    let (mut sealer, mut opener) = (Sealer::new(keys.to_seed), Opener::new(seeds.to_seed));
    let (data, mut wire) = (vec![7; MAX_DATA], Vec::new());
    let mut sent = 0;
    for len in [10, 2000, MAX_DATA] {
        sent += sealer
            .seal(&data[..len], &mut wire)
            .expect("nothing has ended");
    }
    sealer.last(&mut wire).expect("nothing has ended");
    let changed = if how & 1 == 0 {
        disturb(&mut wire, input)
    } else {
        wire = input.to_vec();
        true
    };
    let (mut rest, mut came, mut some) = (&wire[..], 0, [0; 3000]);
    let whole = loop {
        match opener.read(&mut some) {
            Ok(Read::Data(n)) => {
                assert!(some[..n].iter().all(|byte| *byte == 7));
                came += n;
            }
            Ok(Read::Pending | Read::End) if rest.is_empty() => break opener.is_ended(),
            Ok(Read::Pending | Read::End) => {
                let space = opener.space();
                let n = (usize::from(how) * 16 + 1).min(space.len()).min(rest.len());
                assert!(n > 0, "there is always space");
                space[..n].copy_from_slice(&rest[..n]);
                opener.filled(n);
                rest = &rest[n..];
            }
            Err(_) => break false,
        }
    };
    assert_eq!(whole && came == sent, !changed);
}
