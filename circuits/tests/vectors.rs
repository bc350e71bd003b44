//! Test vectors for other implementations, and against changes of the wire by accident (PROTOCOL.md §2 to §4, §5.8, §8).
//!
//! Every file is made anew from fixed secrets and compared, and everything in it is opened by the other end on the
//! way. After an intended change: `HUSHSWARM_WRITE_VECTORS=1 cargo test -p hushswarm-circuits --test vectors`.
#![allow(clippy::unwrap_used)]
#![allow(
    clippy::disallowed_methods,
    reason = "the vectors are files, for others to read"
)]

use std::convert::Infallible;
use std::fmt::Write as _;
use std::path::Path;

use data_encoding::HEXLOWER;
use hushswarm_circuits::dht::{Family, Item, Op, Reader, Record, Request, Summary};
use hushswarm_circuits::frame::{CELL_OFFSET, Class, FrameType, Header, SLOTS_LEN};
use hushswarm_circuits::handshake::{HopInitiator, HopKeys, HopPeer, hop_respond};
use hushswarm_circuits::keys::{DhSecret, IdentityKey, Key32, RelayId, Suite};
use hushswarm_circuits::layers::{BackwardHop, ForwardHop, LayerKeys, MARK_LEN, OriginLayers};
use hushswarm_circuits::link::{
    LinkInitiator, LinkKeys, LinkOpener, LinkPeer, LinkSealer, respond, sign_auth, verify_auth,
};
use hushswarm_circuits::rendezvous::item::{Entry, Period, SLOTS, Slot};
use hushswarm_circuits::rendezvous::message::Guests;
use hushswarm_circuits::rendezvous::sealed::{Opener, Read, Sealer};
use hushswarm_circuits::rendezvous::wire::{encode_introduce, encode_record};
use hushswarm_circuits::rendezvous::{
    Contact, Cookie, Establish, FeedKey, Handed, IntroductionId, Introductions, Issue, Meeting,
    Point, Proof, Puzzle, Solver, SwarmKey, Visitor,
};
use rand::{TryCryptoRng, TryRng};

/// Bytes that follow from a label; remembers what it gave, so that the file can name it.
struct Script {
    source: blake3::OutputReader,
    given: Vec<u8>,
}

impl Script {
    fn new(label: &str) -> Self {
        let source = blake3::Hasher::new_derive_key("hushswarm v1 vectors")
            .update(label.as_bytes())
            .finalize_xof();
        Self {
            source,
            given: Vec::new(),
        }
    }

    fn key(label: &str) -> [u8; 32] {
        let mut key = [0; 32];
        Self::new(label).source.fill(&mut key);
        key
    }
}

impl TryRng for Script {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        self.source.fill(dst);
        self.given.extend_from_slice(dst);
        Ok(())
    }
}

impl TryCryptoRng for Script {}

/// A file of vectors in the making.
struct Vectors(String);

impl Vectors {
    fn new(head: &str) -> Self {
        Self(head.lines().map(|line| format!("# {line}\n")).collect())
    }

    fn case(&mut self, name: &str) {
        writeln!(self.0, "\ncase={name}").unwrap();
    }

    fn put(&mut self, key: &str, bytes: &[u8]) {
        writeln!(self.0, "{key}={}", HEXLOWER.encode(bytes)).unwrap();
    }

    fn compare(&self, file: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/vectors")
            .join(file);
        if std::env::var_os("HUSHSWARM_WRITE_VECTORS").is_some() {
            std::fs::write(&path, &self.0).unwrap();
        }
        let stored = std::fs::read_to_string(&path).unwrap();
        for (number, (ours, theirs)) in self.0.lines().zip(stored.lines()).enumerate() {
            assert_eq!(ours, theirs, "{file}, line {}", number + 1);
        }
        assert_eq!(self.0.lines().count(), stored.lines().count(), "{file}");
    }
}

const SUITES: [(&str, Suite); 2] = [
    ("aes256gcm", Suite::Aes256Gcm),
    ("chacha20poly1305", Suite::ChaCha20Poly1305),
];

/// Fills slots and body, or a body alone, as the heads of the files say.
fn pattern(number: u64, bytes: &mut [u8]) {
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = ((number + i as u64) % 251) as u8;
    }
}

#[test]
fn link_vectors_are_unchanged() {
    let mut out = Vectors::new(
        "Links: the handshake, AUTH and frames (PROTOCOL.md 2). Values are hexadecimal.\n\
         initiator_random and responder_random are the X25519 ephemeral secrets.\n\
         initiator_N and responder_N are frame N of a direction. Frame 0 is bulk and named by its BLAKE3 hash, as\n\
         are all later ones; frame 1 is small and stands here whole; the others are small.\n\
         Frame N is DATA with circuit 0x01020304 and credit N mod 65536; byte i from offset 32 on is (N + i) mod 251.",
    );
    for (name, suite) in SUITES {
        for psk in [false, true] {
            let case = format!("{name}{}", if psk { "_psk" } else { "" });
            out.case(&case);
            link_case(&mut out, &case, suite, psk);
        }
    }
    out.compare("link.txt");
}

fn link_case(out: &mut Vectors, case: &str, suite: Suite, psk: bool) {
    let secret = DhSecret::from_bytes(Script::key(&format!("{case} link secret")));
    let peer = LinkPeer {
        link_key: secret.public(),
        suite,
        digest: Script::key(&format!("{case} digest")),
        psk: psk.then(|| Key32::new(Script::key(&format!("{case} psk")))),
    };
    out.put("suite", &[suite.wire()]);
    out.put("link_secret", &secret.to_bytes()[..]);
    out.put("link_key", &peer.link_key);
    out.put("digest", &peer.digest);
    if let Some(psk) = &peer.psk {
        out.put("psk", psk.as_bytes());
    }
    let mut rngs = ["initiator", "responder"].map(|end| Script::new(&format!("{case} {end}")));
    let [a, b] = &mut rngs;
    let (initiator, message) = LinkInitiator::start(&peer, a).unwrap();
    let (answer, theirs) = respond(&secret, &peer, &message, b).unwrap();
    let ours = initiator.finish(&answer).unwrap();
    assert_eq!(ours.hash, theirs.hash);
    out.put("initiator_random", &a.given);
    out.put("responder_random", &b.given);
    out.put("message_1", &message);
    out.put("message_2", &answer);
    out.put("hash", &ours.hash);

    let identity = IdentityKey::from_seed(Script::key(&format!("{case} identity")));
    let auth = sign_auth(&identity, &ours.hash);
    assert_eq!(verify_auth(&auth, &theirs.hash), Ok(identity.public()));
    out.put("identity_seed", identity.seed().as_bytes());
    out.put("auth", &auth);

    let LinkKeys { sealer, opener, .. } = ours;
    frames(out, "initiator", sealer, theirs.opener);
    frames(out, "responder", theirs.sealer, opener);
}

fn frames(out: &mut Vectors, end: &str, mut sealer: LinkSealer, mut opener: LinkOpener) {
    for number in 0..=65_537_u64 {
        let class = if number == 0 {
            Class::Bulk
        } else {
            Class::Small
        };
        let credit = (number % 65_536) as u16;
        let header = Header {
            circuit: 0x0102_0304,
            kind: FrameType::Data,
            class,
            credit,
        };
        let mut frame = vec![0; class.frame_len()];
        pattern(number, &mut frame[CELL_OFFSET..]);
        let plain = frame[CELL_OFFSET..].to_vec();
        sealer.seal(header, &mut frame).unwrap();
        match number {
            1 => out.put(&format!("{end}_{number}"), &frame),
            0 | 63..=65 | 65_535..=65_537 => {
                out.put(
                    &format!("{end}_{number}_blake3"),
                    blake3::hash(&frame).as_bytes(),
                );
            }
            _ => {}
        }
        assert_eq!(opener.open(&mut frame), Ok(header));
        assert_eq!(frame[CELL_OFFSET..], plain);
    }
}

#[test]
fn hop_vectors_are_unchanged() {
    let mut out = Vectors::new(
        "The hop handshake (PROTOCOL.md 3). Values are hexadecimal.\n\
         initiator_random is the X25519 ephemeral secret, then d and z of ML-KEM key generation.\n\
         responder_random is the X25519 ephemeral secret, then m of ML-KEM encapsulation (FIPS 203).\n\
         forward_0 and backward_0 are the first cells of a circuit of this hop alone: slots and body of a small\n\
         frame. The body starts with 8 zero bytes; after them byte i of the body is i mod 251. In forward_0, S1 and\n\
         S2 are as drawn.",
    );
    for (case, suite) in SUITES {
        out.case(case);
        let secret = DhSecret::from_bytes(Script::key(&format!("{case} onion secret")));
        let digest = Script::key(&format!("{case} hop digest"));
        let peer = HopPeer {
            onion_key: secret.public(),
            suite,
            digest,
        };
        out.put("suite", &[suite.wire()]);
        out.put("onion_secret", &secret.to_bytes()[..]);
        out.put("onion_key", &peer.onion_key);
        out.put("digest", &peer.digest);
        let mut rngs = ["origin", "hop"].map(|end| Script::new(&format!("{case} {end}")));
        let [a, b] = &mut rngs;
        let (initiator, message) = HopInitiator::start(&peer, a).unwrap();
        let (answer, theirs) = hop_respond(&secret, &peer, &message, b).unwrap();
        let mut origin = OriginLayers::new();
        let ours = initiator.finish(&answer).unwrap();
        assert_eq!(ours.binding, theirs.binding);
        let binding = ours.binding.clone();
        origin.push_hop(ours).unwrap();
        out.put("initiator_random", &a.given);
        out.put("responder_random", &b.given);
        out.put("message_1", &message);
        out.put("message_2", &answer);
        out.put("binding", binding.as_bytes());

        let mut cell = cell(Class::Small, 0);
        let plain = cell[SLOTS_LEN..].to_vec();
        origin.seal(0, &mut cell, a).unwrap();
        out.put("forward_0", &cell);
        assert_eq!(ForwardHop::new(theirs.forward).open(&mut cell), Ok(true));
        assert_eq!(cell[SLOTS_LEN..], plain);
        BackwardHop::new(theirs.backward)
            .originate(&mut cell)
            .unwrap();
        out.put("backward_0", &cell);
        assert_eq!(origin.open(&mut cell), Ok(0));
        assert_eq!(cell[SLOTS_LEN..], plain);
    }
    out.compare("hop.txt");
}

fn cell(class: Class, number: u64) -> Vec<u8> {
    let mut cell = vec![0; SLOTS_LEN + class.body_len()];
    pattern(number, &mut cell[SLOTS_LEN..]);
    cell[SLOTS_LEN..SLOTS_LEN + MARK_LEN].fill(0);
    cell
}

/// Counters at the edges of pad blocks and of a ratchet.
const COUNTERS: [u64; 6] = [0, 1, 15, 16, 255, 256];

#[test]
fn layer_vectors_are_unchanged() {
    let mut out = Vectors::new(
        "Onion layers at three hops (PROTOCOL.md 4). Values are hexadecimal.\n\
         Hop H (0 is the first) has the keys forward_aead_H, forward_pad_H, backward_aead_H and backward_pad_H and\n\
         the suite suite_H.\n\
         Cell N (from 0) is for hop 2, and comes from hop 2. Cell 0 is bulk, the others are small. Its body starts\n\
         with 8 zero bytes; after them byte i of the body is (N + i) mod 251.\n\
         forward_N_H is cell N as hop H receives it; backward_N_H is cell N as hop H sends it on. Small cells at\n\
         counter 1 stand whole; the others are their slots and the BLAKE3 hash of their body.",
    );
    let (aes, chacha) = (Suite::Aes256Gcm, Suite::ChaCha20Poly1305);
    for (case, suites) in [
        ("aes256gcm", [aes; 3]),
        ("chacha20poly1305", [chacha; 3]),
        ("mixed", [aes, chacha, aes]),
    ] {
        out.case(case);
        layer_case(&mut out, case, suites);
    }
    out.compare("layers.txt");
}

fn layer_case(out: &mut Vectors, case: &str, suites: [Suite; 3]) {
    let mut origin = OriginLayers::new();
    let (mut forward, mut backward) = (Vec::new(), Vec::new());
    for (hop, suite) in suites.into_iter().enumerate() {
        out.put(&format!("suite_{hop}"), &[suite.wire()]);
        let key = |name: &str| Script::key(&format!("{case} {name}_{hop}"));
        for name in [
            "forward_aead",
            "forward_pad",
            "backward_aead",
            "backward_pad",
        ] {
            out.put(&format!("{name}_{hop}"), &key(name));
        }
        let layer = |direction: &str| {
            let part = |part| Key32::new(key(&format!("{direction}_{part}")));
            LayerKeys::new(suite, part("aead"), part("pad"))
        };
        let keys = HopKeys {
            forward: layer("forward"),
            backward: layer("backward"),
            binding: Key32::new([0; 32]),
        };
        origin.push_hop(keys).unwrap();
        forward.push(ForwardHop::new(layer("forward")));
        backward.push(BackwardHop::new(layer("backward")));
    }
    let mut rng = Script::new(case);
    for number in 0..=256 {
        let class = if number == 0 {
            Class::Bulk
        } else {
            Class::Small
        };
        let mut cell = cell(class, number);
        let plain = cell[SLOTS_LEN..].to_vec();
        origin.seal(2, &mut cell, &mut rng).unwrap();
        for (at, hop) in forward.iter_mut().enumerate() {
            put_cell(out, "forward", number, at, &cell);
            assert_eq!(hop.open(&mut cell), Ok(at == 2));
        }
        assert_eq!(cell[SLOTS_LEN..], plain);
        backward[2].originate(&mut cell).unwrap();
        put_cell(out, "backward", number, 2, &cell);
        for at in [1, 0] {
            backward[at].relay(&mut cell).unwrap();
            put_cell(out, "backward", number, at, &cell);
        }
        assert_eq!(origin.open(&mut cell), Ok(2));
        assert_eq!(cell[SLOTS_LEN..], plain);
    }
    assert!(
        rng.given.is_empty(),
        "no slot is random in a cell for the third hop"
    );
}

fn put_cell(out: &mut Vectors, direction: &str, number: u64, hop: usize, cell: &[u8]) {
    if !COUNTERS.contains(&number) {
        return;
    }
    let name = format!("{direction}_{number}_{hop}");
    if number == 1 {
        out.put(&name, cell);
    } else {
        out.put(&format!("{name}_slots"), &cell[..SLOTS_LEN]);
        out.put(
            &format!("{name}_body_blake3"),
            blake3::hash(&cell[SLOTS_LEN..]).as_bytes(),
        );
    }
}

#[test]
fn dht_vectors_are_unchanged() {
    let mut out = Vectors::new(
        "Lookups in the DHT (PROTOCOL.md 5.8). Values are hexadecimal.\n\
         target is 00 to 13, key 20 to 3f, signature 40 to 7f, salt \"salt\", value the bencoded \"12:Hello World!\";\n\
         seq is 4 and cas 3. The signature is none: who carries an item does not look at it.\n\
         answer is three records in a row: peers, an item, the end.",
    );
    let run = |first: u8| std::array::from_fn(|n| first + n as u8);
    let target = std::array::from_fn(|n| n as u8);
    let salt = b"salt".to_vec();
    let immutable = Item::Immutable {
        value: b"12:Hello World!".to_vec(),
    };
    let mutable = Item::Mutable {
        key: run(0x20),
        salt: salt.clone(),
        seq: 4,
        signature: std::array::from_fn(|n| 0x40 + n as u8),
        value: b"12:Hello World!".to_vec(),
    };
    let put = |item: &Item, cas| Op::Put {
        item: item.clone(),
        cas,
    };
    let unsalted = Vec::new();
    let requests = [
        ("peers_v4", Family::V4, Op::Peers { target }),
        ("peers_v6", Family::V6, Op::Peers { target }),
        (
            "get",
            Family::V4,
            Op::Get {
                target,
                salt: unsalted,
            },
        ),
        ("get_salted", Family::V4, Op::Get { target, salt }),
        ("put_immutable", Family::V4, put(&immutable, None)),
        ("put_mutable", Family::V6, put(&mutable, None)),
        ("put_mutable_cas", Family::V4, put(&mutable, Some(3))),
    ];
    out.case("requests");
    for (name, family, op) in requests {
        let request = Request { family, op };
        let bytes = request.encode().unwrap();
        assert_eq!(Request::decode(&bytes), Ok(request));
        out.put(name, &bytes);
    }
    let peers = ["192.0.2.1:6881", "[2001:db8::1]:51413"];
    let records = [
        Record::Peers(peers.map(|peer| peer.parse().unwrap()).to_vec()),
        Record::Item(mutable),
        Record::End(Summary {
            asked: 40,
            answered: 31,
            stored: 8,
        }),
    ];
    out.case("records");
    let (mut reader, mut answer) = (Reader::default(), Vec::new());
    for record in &records {
        answer.extend_from_slice(&record.encode().unwrap());
    }
    out.put("answer", &answer);
    reader.push(&answer);
    for record in records {
        assert_eq!(reader.next(), Ok(Some(record)));
    }
    assert!(reader.is_ended());
    out.compare("dht.txt");
}

#[test]
fn item_vectors_are_unchanged() {
    let mut out = Vectors::new(
        "Items of hidden seeds in the DHT (PROTOCOL.md 8.6). Values are hexadecimal.\n\
         now is seconds since 1970, since the seconds from the beginning of its period. Public keys are those of the four slots.\n\
         value is what the slot 2 has, sealed with this salt: one contact, written at since.",
    );
    let infohash: [u8; 20] = std::array::from_fn(|n| n as u8);
    let now: u64 = 1_800_000_000;
    let period = Period::at(&infohash, now);
    out.case("item");
    out.put("infohash", &infohash);
    out.put("now", &now.to_be_bytes());
    out.put("since", &period.since(now).to_be_bytes());
    for number in 0..SLOTS {
        let slot = Slot::new(&infohash, &period, number);
        out.put(&format!("public_{number}"), &slot.signer().public().0);
    }
    let point = Point {
        relay: RelayId(Script::key("relay")),
        introduction: IntroductionId(Script::key("introduction point")),
    };
    let contact = Contact::new(Script::key("hidden seed"), vec![point]).unwrap();
    let entries = [Entry {
        written: period.since(now),
        contact,
    }];
    let slot = Slot::new(&infohash, &period, 2);
    let mut salt = Script::new("item salt");
    let value = slot.seal(&entries, &mut salt);
    assert_eq!(slot.open(&value).unwrap(), entries);
    out.put("salt", &salt.given);
    out.put("contact", &entries[0].contact.encode());
    out.put("value", &value);
    out.compare("item.txt");
}

#[test]
fn feed_vectors_are_unchanged() {
    let mut out = Vectors::new(
        "Feeds (PROTOCOL.md 8.7). Values are hexadecimal.\n\
         link is what stands in base64url in a feed's link; now is seconds since 1970, item_salt the salt of the item at that time.\n\
         value is what stands there, sealed with value_salt: plain, without its zeros.",
    );
    let signer = IdentityKey::from_seed(Script::key("publisher"));
    let feed = FeedKey::new(signer.public(), Key32::new(Script::key("feed secret")));
    let now: u64 = 1_800_000_000;
    out.case("feed");
    out.put("public", &feed.public.0);
    out.put("secret", feed.secret().as_bytes());
    out.put("link", &*feed.encode());
    out.put("now", &now.to_be_bytes());
    let place = feed.place(&feed.period(now));
    out.put("item_salt", place.salt());
    let point = Point {
        relay: RelayId(Script::key("relay")),
        introduction: IntroductionId(Script::key("introduction point")),
    };
    let issue = Issue {
        number: now,
        infohash: std::array::from_fn(|n| n as u8),
        name: "name".to_owned(),
        contact: Contact::new(Script::key("hidden seed"), vec![point]).ok(),
    };
    let mut salt = Script::new("value salt");
    let value = place.seal(&issue, &mut salt);
    assert_eq!(place.open(&value), Ok(issue.clone()));
    out.put("plain", &issue.encode()[..1 + 8 + 20 + 1 + 4 + 1 + 98]);
    out.put("value_salt", &salt.given);
    out.put("value", &value);
    out.compare("feed.txt");
}

#[test]
fn meeting_vectors_are_unchanged() {
    let mut out = Vectors::new(
        "Introduction and rendezvous (PROTOCOL.md 8). Values are hexadecimal.\n\
         establish is made with introduction_seed for the circuit with this binding; introduce and record carry message.\n\
         visitor_random and seed_random are the X25519 ephemeral secrets. to_seed_0 is the record of \"hello\",\n\
         to_seed_1 the last; to_visitor_0 has 1,000 bytes and to_visitor_1 20,000 to choose from, byte i of them i mod 251.\n\
         Of the longer ones there is the BLAKE3. closed is the same meeting with a seed that lets in visitor_key alone.\n\
         work is the message of meeting to a seed that asks for work; three were turned away before it.",
    );
    out.case("establish");
    let introduction = IdentityKey::from_seed(Script::key("introduction"));
    let binding = Key32::new(Script::key("binding"));
    let establish = Establish::sign(&introduction, &binding);
    assert!(Establish::decode(&establish.encode()).is_for(&binding));
    out.put("introduction_seed", introduction.seed().as_bytes());
    out.put("binding", binding.as_bytes());
    out.put("establish", &establish.encode());

    out.case("meeting");
    let infohash: [u8; 20] = std::array::from_fn(|n| n as u8);
    let swarm = SwarmKey::new(&infohash).unwrap();
    let secret = DhSecret::from_bytes(Script::key("seed"));
    let introduction = IntroductionId(introduction.public().0);
    let meeting = Meeting {
        relay: RelayId(Script::key("relay")),
        digest: Script::key("relay digest"),
        cookie: Cookie(std::array::from_fn(|n| 0x40 + n as u8)),
    };
    let [mut a, mut b] = ["visitor", "seed"].map(|end| Script::new(&format!("meeting {end}")));
    let (visitor, message) =
        Visitor::start(&secret.public(), &introduction, &swarm, &meeting, &mut a).unwrap();
    let mut introductions = Introductions::new(introduction, secret.clone(), swarm);
    let introduced = introductions.open(&message, &mut b).unwrap();
    assert_eq!(*introduced.meeting(), meeting);
    let (answer, seeds) = introduced.answer().unwrap();
    let visitors = visitor.finish(&answer).unwrap();
    out.put("infohash", &infohash);
    out.put("seed_secret", &secret.to_bytes()[..]);
    out.put("seed_key", &secret.public());
    out.put("relay", &meeting.relay.0);
    out.put("digest", &meeting.digest);
    out.put("cookie", &meeting.cookie.0);
    out.put("visitor_random", &a.given);
    out.put("seed_random", &b.given);
    out.put("message", &message);
    out.put(
        "introduce",
        &encode_introduce(&introduction, &message).unwrap(),
    );
    out.put("record", &encode_record(&message).unwrap());
    out.put("answer", &answer);

    // The same with a seed that lets in only this visitor.
    let own = DhSecret::from_bytes(Script::key("visitor"));
    let [mut a, mut b] = ["visitor", "seed"].map(|end| Script::new(&format!("closed {end}")));
    let seed_key = secret.public();
    let swarm = SwarmKey::new(&infohash).unwrap();
    let (known, shown) =
        Visitor::start_known(&own, &seed_key, &introduction, &swarm, &meeting, &mut a).unwrap();
    let closed = Introductions::new(introduction, secret.clone(), swarm);
    let mut closed = closed.only(Guests::new([own.public()]));
    let introduced = closed.open(&shown, &mut b).unwrap();
    assert_eq!(*introduced.meeting(), meeting);
    let (told, keys) = introduced.answer().unwrap();
    let (mut sealer, mut sealed) = (Sealer::new(keys.to_visitor), Vec::new());
    assert_eq!(sealer.seal(b"hello", &mut sealed), Ok(5));
    let mut opener = Opener::new(known.finish(&told).unwrap().to_visitor);
    opener.space()[..sealed.len()].copy_from_slice(&sealed);
    opener.filled(sealed.len());
    let mut hello = [0; 5];
    assert_eq!(opener.read(&mut hello).unwrap(), Read::Data(5));
    assert_eq!(&hello, b"hello");

    let mut data = vec![0; 20_000];
    pattern(0, &mut data);
    let mut to_seed = Sealer::new(visitors.to_seed);
    let mut to_visitor = Sealer::new(seeds.to_visitor);
    let (mut first, mut last, mut medium, mut long) = (vec![], vec![], vec![], vec![]);
    assert_eq!(to_seed.seal(b"hello", &mut first), Ok(5));
    to_seed.last(&mut last).unwrap();
    assert_eq!(to_visitor.seal(&data[..1000], &mut medium), Ok(1000));
    assert_eq!(to_visitor.seal(&data, &mut long), Ok(15_980));
    out.put("to_seed_0", &first);
    out.put("to_seed_1", &last);
    out.put("to_visitor_0_blake3", blake3::hash(&medium).as_bytes());
    out.put("to_visitor_1_blake3", blake3::hash(&long).as_bytes());
    let came = [
        (
            Opener::new(seeds.to_seed),
            [first, last].concat(),
            Read::End,
        ),
        (
            Opener::new(visitors.to_visitor),
            [medium, long].concat(),
            Read::Pending,
        ),
    ]
    .map(|(mut opener, wire, end)| {
        opener.space()[..wire.len()].copy_from_slice(&wire);
        opener.filled(wire.len());
        let (mut all, mut some) = (Vec::new(), [0; 1000]);
        loop {
            match opener.read(&mut some).unwrap() {
                Read::Data(n) => all.extend_from_slice(&some[..n]),
                other @ (Read::Pending | Read::End) => {
                    assert_eq!(other, end);
                    return all;
                }
            }
        }
    });
    assert_eq!(came[0], b"hello");
    assert_eq!(came[1], [&data[..1000], &data[..15_980]].concat());

    out.case("closed");
    out.put("visitor_secret", &own.to_bytes()[..]);
    out.put("visitor_key", &own.public());
    out.put("visitor_random", &a.given);
    out.put("seed_random", &b.given);
    out.put("message", &shown);
    out.put("answer", &told);
    out.put("to_visitor_0", &sealed);

    // The same message to a seed that asks for work.
    out.case("work");
    let puzzle = Puzzle::generate(16, &mut Script::new("puzzle"));
    let salt = std::array::from_fn(|n| 0x60 + n as u8);
    let challenge = puzzle.challenge(&salt);
    let mut solver = Solver::new(
        &challenge,
        &introduction,
        &message,
        &mut Script::new("work"),
    );
    let nonce = solver.attempt(1000).unwrap();
    let proof = Proof::new(&puzzle, salt, nonce);
    assert!(challenge.is_met(&introduction, &message, &nonce));
    assert!(proof.holds(&puzzle, &introduction, &message));
    let handed = Handed {
        refused: 3,
        proof,
        message: &message,
    };
    out.put("puzzle", &puzzle.encode());
    out.put("salt", &salt);
    out.put("challenge", &challenge.encode());
    out.put("nonce", &nonce);
    out.put("record", &handed.encode().unwrap());
    out.compare("meeting.txt");
}
