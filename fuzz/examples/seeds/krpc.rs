//! Seeds of the DHT's targets.

use std::borrow::Cow;
use std::net::SocketAddr;

use hushswarm::krpc::message::Query;
use hushswarm::krpc::message::node::{Answer, refuse};
use hushswarm::krpc::{Contact, Id, Item};
use hushswarm_circuits::keys::IdentityKey;
use hushswarm_fuzz::targets::krpc::ASKED;

use super::Seeds;

const TRANSACTION: &[u8; 4] = b"ASKE";

fn item() -> Item {
    Item::sign(&IdentityKey::from_seed([9; 32]), b"", 7, b"4:spam").expect("an item")
}

fn nodes() -> Vec<Contact> {
    let node = |n: u8| Contact {
        id: Id([0x5a ^ (n >> 4); 20]),
        addr: SocketAddr::from(([9, 9, n, 1], 6881)),
    };
    vec![node(1), node(2), node(0x13)]
}

fn answer(answer: &Answer<'_>) -> Vec<u8> {
    answer.encode(TRANSACTION, &Id(*ASKED))
}

/// `what u8 | length u8 | bytes`.
fn record(what: u8, bytes: &[u8]) -> Vec<u8> {
    let len = u8::try_from(bytes.len()).expect("a short one");
    [&[what, len], bytes].concat()
}

pub fn lookups() -> Seeds {
    let peers = [SocketAddr::from(([9, 9, 9, 9], 51_413))];
    let (nodes, item) = (nodes(), item());
    let walk = record(
        0,
        &answer(&Answer {
            nodes: &nodes,
            ..Answer::default()
        }),
    );
    let told = record(
        0,
        &answer(&Answer {
            peers: &peers,
            token: Some(b"t"),
            ..Answer::default()
        }),
    );
    let held = record(
        0,
        &answer(&Answer {
            item: Some(&item),
            token: Some(b"t"),
            ..Answer::default()
        }),
    );
    let run = |goal: u8, records: &[&[u8]]| [&[goal], &records.concat()[..]].concat();
    let walked = walk.repeat(12);
    vec![
        ("nodes", run(0, &[&walked])),
        ("peers", run(1, &[&walked, &told.repeat(10)])),
        ("announce", run(2, &[&walked, &told.repeat(24)])),
        ("get", run(3, &[&walked, &held.repeat(10)])),
        ("put", run(5, &[&walked, &held.repeat(24)])),
        (
            "trouble",
            run(
                1,
                &[
                    &record(3, &[0; 2]),
                    &walk,
                    &record(0x83, &[0; 90]),
                    &record(2, b"junk"),
                    &walked,
                    &record(0, b""),
                ],
            ),
        ),
    ]
}

pub fn messages() -> Seeds {
    let (nodes, item, id) = (nodes(), item(), Id([0x5a; 20]));
    let peers = [SocketAddr::from(([9, 9, 9, 9], 51_413))];
    let ask = |query: Query<'_>| query.encode(TRANSACTION, &id);
    vec![
        ("ping", ask(Query::Ping)),
        ("find_node", ask(Query::FindNode { target: id })),
        ("get_peers", ask(Query::GetPeers { info_hash: id })),
        (
            "announce_peer",
            ask(Query::AnnouncePeer {
                info_hash: id,
                port: 1,
                token: b"t",
            }),
        ),
        ("get", ask(Query::Get { target: id })),
        (
            "put",
            ask(Query::Put {
                token: b"t",
                item: Cow::Owned(item.clone().with_cas(Some(3))),
            }),
        ),
        (
            "answer",
            answer(&Answer {
                nodes: &nodes,
                peers: &peers,
                token: Some(b"t"),
                item: Some(&item),
            }),
        ),
        (
            "spam",
            answer(&Answer {
                item: Item::immutable(b"4:spam").ok().as_ref(),
                ..Answer::default()
            }),
        ),
        ("error", refuse(TRANSACTION, 203, "bad token")),
    ]
}

pub fn items() -> Seeds {
    let of = |salt: &[u8], seq: i64, value: &[u8]| {
        let len = u8::try_from(salt.len()).expect("a short one");
        [&[len], salt, &seq.to_be_bytes(), value].concat()
    };
    vec![
        ("number", of(b"", 1, b"i1e")),
        ("salted", of(b"salt", 9, b"d1:al1:bee")),
        ("forged", of(b"", 1, &[1; 96])),
    ]
}
