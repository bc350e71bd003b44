//! Seeds of what hidden seeds and feeds say.

use hushswarm::torrent::feed::FeedLink;
use hushswarm_circuits::keys::{IdentityKey, Key32, RelayId};
use hushswarm_circuits::rendezvous::item::{self, Entry};
use hushswarm_circuits::rendezvous::wire::{encode_introduce, encode_record};
use hushswarm_circuits::rendezvous::{
    Contact, Establish, FeedKey, IntroductionId, Issue, Point, Proof, Puzzle,
};
use hushswarm_fuzz::targets::{HASH, NOW, rng};

use super::Seeds;

pub(super) fn hidden_items() -> Seeds {
    let point = |n| Point {
        relay: RelayId([n; 32]),
        introduction: IntroductionId([n + 1; 32]),
    };
    let entry = |n: u8, points: u8| Entry {
        written: 1000 * u32::from(n),
        contact: Contact::new([n; 32], (0..points).map(point).collect()).expect("in bounds"),
    };
    let four = [entry(1, 3), entry(2, 3), entry(3, 3), entry(4, 3)];
    let long = [entry(1, 4)];
    let mut trailing = item::encode(&four[..1]);
    trailing[600] = 1;
    vec![
        ("four", item::encode(&four).to_vec()),
        ("none", item::encode(&[]).to_vec()),
        ("one", item::encode(&[entry(1, 1)]).to_vec()),
        ("trailing", trailing.to_vec()),
        (
            "twice",
            item::encode(&[long[0].clone(), long[0].clone()]).to_vec(),
        ),
    ]
}

pub(super) fn feeds() -> Seeds {
    let point = |n| Point {
        relay: RelayId([n; 32]),
        introduction: IntroductionId([n + 1; 32]),
    };
    let issue = |name: &str, points: u8| Issue {
        number: NOW,
        infohash: HASH,
        name: name.to_owned(),
        contact: Contact::new([7; 32], (0..points).map(point).collect()).ok(),
    };
    let public = IdentityKey::from_seed([5; 32]).public();
    let link = FeedLink::Sealed(FeedKey::new(public, Key32::new([6; 32])));
    let plain = FeedLink::Plain {
        key: [7; 32],
        salt: b"salt".to_vec(),
    };
    vec![
        ("hidden", issue("a name", 3).encode().to_vec()),
        ("link", link.to_string().into_bytes()),
        ("plain", plain.to_string().into_bytes()),
        ("public", issue("", 0).encode().to_vec()),
    ]
}

pub(super) fn meeting_requests() -> Seeds {
    let establish = Establish::sign(&IdentityKey::from_seed([5; 32]), &Key32::new([1; 32]));
    let introduce = encode_introduce(&IntroductionId([7; 32]), &[9; 512]).expect("in bounds");
    vec![
        ("establish", establish.encode().to_vec()),
        ("introduce", introduce),
    ]
}

pub(super) fn meeting_works() -> Seeds {
    let puzzle = Puzzle::generate(256, &mut rng());
    let proof = Proof::new(&puzzle, [1; 16], [2; 16]).encode();
    vec![
        ("puzzle", puzzle.encode().to_vec()),
        ("none", Puzzle::NONE.encode().to_vec()),
        ("challenge", puzzle.challenge(&[1; 16]).encode().to_vec()),
        ("proof", [&proof[..], b"message"].concat()),
        ("bare", [&Proof::NONE.encode()[..], b"message"].concat()),
    ]
}

pub(super) fn meeting_records() -> Seeds {
    let record = |len: usize| encode_record(&vec![9; len]).expect("in bounds");
    let records = [record(512), record(1), record(2048)].concat();
    vec![
        ("small", [&[3][..], &records].concat()),
        ("whole", [&[255][..], &records].concat()),
    ]
}
