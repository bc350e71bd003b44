//! Targets of the DHT: bencode, KRPC messages, items, and a running lookup that gets bytes from anybody.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hushswarm::bencode::Value;
use hushswarm::krpc::contact::is_usable;
use hushswarm::krpc::item::{MAX_SALT, MAX_VALUE};
use hushswarm::krpc::message::node::Asked;
use hushswarm::krpc::message::{MAX_MESSAGE, MAX_TOKEN, Query, Reply, transaction_of};
use hushswarm::krpc::{
    Contact, Event, Family, Goal, Id, Item, ItemName, Lookup, Settings, Start, To,
};
use hushswarm_circuits::keys::IdentityKey;

use super::first;

/// Bencode (BEP 3).
pub fn bencode(input: &[u8]) {
    fn walk(value: Value<'_>, budget: &mut usize) {
        *budget = budget.saturating_sub(1);
        if *budget == 0 {
            return;
        }
        if let Some(list) = value.as_list() {
            list.for_each(|item| walk(item, budget));
        }
        if let Some(entries) = value.as_dict() {
            entries.for_each(|(_, item)| walk(item, budget));
        }
    }
    if let Ok((value, rest)) = Value::parse_prefix(input) {
        assert_eq!(value.raw().len() + rest.len(), input.len());
        assert_eq!(Value::parse(input).is_ok(), rest.is_empty());
        value.keys_sorted();
        walk(value, &mut 10_000);
    }
}

/// KRPC messages of both directions (BEP 5, 32, 43, 44).
pub fn krpc_message(input: &[u8]) {
    if let Ok((transaction, reply)) = Reply::decode(input) {
        assert!(input.len() <= MAX_MESSAGE);
        assert_eq!(transaction_of(input), transaction.try_into().ok());
        if let Reply::Response(response) = reply {
            assert!(response.token.is_none_or(|token| token.len() <= MAX_TOKEN));
            for family in [Family::V4, Family::V6] {
                assert!(
                    response
                        .nodes(family)
                        .all(|node| family.has(node.addr.ip()) || family == Family::V6)
                );
                assert!(response.peers(family).count() * family.compact_len() <= input.len());
            }
            let name = ItemName::immutable(b"4:spam");
            if let Some(Ok(item)) = response.item(&name) {
                assert!(item.value() == b"4:spam");
            }
        }
    }
    if let Ok(asked) = Asked::decode(input) {
        let again = asked.query.encode(b"aabb", &asked.id);
        if again.len() <= MAX_MESSAGE {
            let read = Asked::decode(&again).unwrap();
            assert!(read.read_only && read.id == asked.id && read.query == asked.query);
        }
        assert_eq!(transaction_of(input), None);
    }
}

/// Items (BEP 44): `salt length u8 | salt | seq i64 | value`, put as immutable, signed, and with somebody's signature.
pub fn krpc_item(input: &[u8]) {
    let (len, rest) = first(input);
    let (salt, rest) = rest.split_at(rest.len().min(usize::from(len)));
    let Some((seq, value)) = rest.split_first_chunk() else {
        return;
    };
    let seq = i64::from_be_bytes(*seq);
    if let Ok(item) = Item::immutable(value) {
        assert!(value.len() <= MAX_VALUE && item.name() == ItemName::immutable(value));
        assert!(item.clone().named(&item.name()).is_ok() && item.seq().is_none());
    }
    let key = IdentityKey::from_seed([9; 32]);
    if let Ok(item) = Item::sign(&key, salt, seq, value) {
        assert!(salt.len() <= MAX_SALT && seq >= 0);
        let signed = item.signed().unwrap();
        let again = Item::mutable(&signed.key, salt, seq, value, &signed.signature);
        assert!(again.as_ref() == Ok(&item) && item.clone().named(&item.name()).is_ok());
        let other = Item::mutable(&signed.key, salt, seq ^ 1, value, &signed.signature);
        assert!(other.is_err(), "another number has another signature");
    }
    if let Some((key, signature)) = value.split_first_chunk::<32>()
        && let Some(signature) = signature.first_chunk::<64>()
    {
        assert!(
            Item::mutable(key, salt, seq, b"i1e", signature).is_err(),
            "a forgery"
        );
    }
}

/// What the input of [`krpc_lookup`] writes where the id of the asked node belongs, so that its answers count; the transaction
/// id belongs where it writes the first four of these.
pub const ASKED: &[u8; 20] = b"ASKEDaskedASKEDasked";

/// A lookup that runs: `goal u8`, then records `what u8 | length u8 | bytes`. What: an answer of the node that was asked first
/// or last, with its id and transaction id filled in; bytes from anybody; time that passes; a query refused.
pub fn krpc_lookup(input: &[u8]) {
    let (goal, mut rest) = first(input);
    let key = IdentityKey::from_seed([9; 32]);
    let item = Item::sign(&key, b"", 7, b"4:spam").unwrap();
    let fixed = Item::immutable(b"4:spam").unwrap();
    let goal = match goal % 6 {
        0 => Goal::Nodes,
        1 => Goal::Peers,
        2 => Goal::Announce { port: 7 },
        3 => Goal::Get(item.name()),
        4 => Goal::Get(fixed.name()),
        _ => Goal::Put(item.clone()),
    };
    let target = match &goal {
        Goal::Nodes | Goal::Peers | Goal::Announce { .. } => Id([0x5a; 20]),
        Goal::Get(name) => name.target(),
        Goal::Put(item) => item.target(),
    };
    let contacts = (0..9).map(|n| Contact {
        id: Id([0x5a ^ n; 20]),
        addr: SocketAddr::from(([8, 8, n, 1], 6881)),
    });
    let contacts: Vec<Contact> = contacts.collect();
    let start = Start {
        contacts: contacts.clone(),
        bootstraps: 2,
    };
    let settings = Settings::default();
    let mut now = Instant::now();
    let end = now + settings.total;
    let mut lookup = Lookup::new(now, &settings, Family::V4, target, goal, start, 7);
    // Who was asked, by which transaction, and waits; and who got the true target.
    let mut open: VecDeque<(SocketAddr, Vec<u8>)> = VecDeque::new();
    let (mut told, mut asked, mut refuse, mut finished) = (BTreeSet::new(), 0, 0, false);
    // The ids by which nodes are known: the input names more.
    let mut ids: Vec<Contact> = contacts;
    loop {
        while let Some(transmit) = lookup.poll_transmit(now) {
            if refuse > 0 {
                refuse -= 1;
                lookup.refused(now, &transmit.to);
                continue;
            }
            let query = Asked::decode(&transmit.bytes).unwrap();
            let to = match transmit.to {
                To::Node(addr) => addr,
                To::Bootstrap(_) => SocketAddr::from(([7, 7, 7, 7], 7)),
            };
            let named = transmit.bytes.windows(20).any(|bytes| bytes == target.0);
            let tells = matches!(query.query, Query::GetPeers { .. } | Query::Get { .. });
            assert!(tells || !named || told.contains(&to), "it was told before");
            if tells {
                assert!(told.insert(to), "each once");
            }
            asked += 1;
            open.push_back((to, query.transaction.to_vec()));
        }
        while let Some(event) = lookup.poll_event() {
            assert!(!finished, "nothing comes after the end");
            match event {
                Event::Peers(peers) => {
                    assert!(peers.iter().all(|peer| is_usable(Family::V4, *peer, false)));
                }
                Event::Item(found) => assert!(found == item || found == fixed),
                Event::Stored(nodes) => assert!(nodes <= settings.told),
                Event::Finished(summary) => {
                    finished = true;
                    assert!(summary.told == told.len() && summary.asked == asked);
                }
            }
        }
        assert!(told.len() <= settings.told && asked <= settings.queries);
        let Some(due) = lookup.poll_timeout() else {
            break;
        };
        assert!(due > now && due <= end);
        let Some((&[what, len], bytes)) = rest.split_first_chunk() else {
            now = due;
            lookup.handle_timeout(now);
            continue;
        };
        let (bytes, after) = bytes.split_at(bytes.len().min(usize::from(len)));
        rest = after;
        let last = what & 0x80 != 0;
        match what & 3 {
            0 | 1 => {
                let next = if last {
                    open.pop_back()
                } else {
                    open.pop_front()
                };
                let Some((from, transaction)) = next else {
                    continue;
                };
                let known = ids
                    .iter()
                    .find(|contact| contact.addr == from)
                    .map(|contact| contact.id);
                let bytes = fill(bytes, &known.unwrap_or(Id([0; 20])), &transaction);
                if let Ok((_, Reply::Response(response))) = Reply::decode(&bytes) {
                    ids.extend(response.nodes(Family::V4).take(16));
                }
                lookup.handle(now, from, &bytes);
            }
            2 => {
                let from = SocketAddr::from(([8, 8, len % 9, 1], 6881));
                assert!(!lookup.handle(now, from, bytes) || transaction_of(bytes).is_some());
            }
            _ if last => {
                now += Duration::from_millis(u64::from(len) * 16);
                lookup.handle_timeout(now);
            }
            // What is asked next does not leave.
            _ => refuse = len,
        }
    }
    assert!(finished);
}

/// Puts an id and a transaction id where [`ASKED`] stands.
fn fill(bytes: &[u8], id: &Id, transaction: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let at = |out: &[u8], what: &[u8]| out.windows(what.len()).position(|bytes| bytes == what);
    if let Some(at) = at(&out, ASKED) {
        out[at..at + 20].copy_from_slice(&id.0);
    }
    if let Some(at) = at(&out, &ASKED[..4])
        && transaction.len() == 4
    {
        out[at..at + 4].copy_from_slice(transaction);
    }
    out
}
