//! Whatever nodes say, a lookup keeps to its bounds.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Answers drawn at random, some of them built to be taken: near ids, known ids, tokens, items.
fn anything(rng: &mut StdRng, asked: &Asked<'_>, own: &Id, item: &Item) -> Vec<u8> {
    let aim = match &asked.query {
        Query::FindNode { target } | Query::Get { target } => *target,
        Query::GetPeers { info_hash } | Query::AnnouncePeer { info_hash, .. } => *info_hash,
        Query::Put { .. } | Query::Ping => TARGET,
    };
    let count = rng.random_range(0..30);
    let nodes: Vec<Contact> = (0..count)
        .map(|_| {
            let bits = rng.random_range(0..=160);
            let ip: [u8; 4] = rng.random();
            let id = aim.blinded(bits, rng);
            let ip = std::net::IpAddr::from(ip);
            let id = if rng.random() {
                id
            } else {
                id.made_valid_for(ip)
            };
            Contact {
                id,
                addr: SocketAddr::new(ip, rng.random()),
            }
        })
        .collect();
    let count = rng.random_range(0..200);
    let peers: Vec<SocketAddr> = (0..count)
        .map(|_| SocketAddr::from((rng.random::<[u8; 4]>(), rng.random::<u16>())))
        .collect();
    let token = vec![7; rng.random_range(0..100)];
    let answer = Answer {
        nodes: &nodes,
        peers: if rng.random() { &peers } else { &[] },
        token: rng.random::<bool>().then_some(&token[..]),
        item: rng.random::<bool>().then_some(item),
    };
    let own = if rng.random_range(0..8) == 0 {
        Id::random(rng)
    } else {
        *own
    };
    match rng.random_range(0..10) {
        0 => refuse(asked.transaction, 201, "no"),
        1 => {
            let mut bytes = answer.encode(asked.transaction, &own);
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
            bytes
        }
        _ => answer.encode(asked.transaction, &own),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Every node says anything, as a node of any id: whatever comes, the bounds hold and there is an end.
    #[test]
    fn nobody_makes_a_lookup_exceed_its_bounds(seed: u64, kind in 0..5_u8, silent in 0..10_u32, refused in 0..4_u32, slow in 0..8_000_u64) {
        let start = Instant::now();
        let mut rng = StdRng::seed_from_u64(seed);
        let key = IdentityKey::from_seed([1; 32]);
        let item = Item::sign(&key, b"", 7, b"2:hi").unwrap();
        let goal = match kind {
            0 => Goal::Nodes,
            1 => Goal::Peers,
            2 => Goal::Announce { port: 1 },
            3 => Goal::Get(item.name()),
            _ => Goal::Put(item.clone()),
        };
        let target = match kind { 0..=2 => TARGET, _ => item.target() };
        let contacts: Vec<Contact> = (0..rng.random_range(0..100)).map(|n| node(n, rng.random_range(0..150))).collect();
        let mut lookup = begin(start, goal, contacts, 3, seed);
        let settings = Settings::default();
        let mut coming: Vec<(Instant, SocketAddr, Vec<u8>)> = Vec::new();
        let (mut now, mut queries, mut told, mut peers, mut finished) = (start, 0, BTreeSet::new(), BTreeSet::new(), 0);
        for step in 0.. {
            prop_assert!(step < 5_000, "no end");
            while let Some(transmit) = lookup.poll_transmit(now) {
                prop_assert!(transmit.bytes.len() < 1500);
                if rng.random_range(0..10) < refused {
                    lookup.refused(now, &transmit.to);
                    continue;
                }
                queries += 1;
                let asked = Asked::decode(&transmit.bytes).unwrap();
                let named = transmit.bytes.windows(20).any(|bytes| bytes == target.0);
                let from = match transmit.to {
                    To::Node(addr) => addr,
                    To::Bootstrap(n) => { prop_assert!(n < 3 && !named); ([7, 7, 7, 7], 7).into() }
                };
                // A put of an item carries its key and value instead.
                if named || matches!(asked.query, Query::Put { .. }) {
                    told.insert(from);
                }
                // Hostile nodes know by which id they were named.
                let own = lookup.pending.last().and_then(|pending| match pending.errand {
                    Errand::Walk(contact) | Errand::Tell(contact) | Errand::Store(contact) => Some(contact.id),
                    Errand::Bootstrap(_) => None,
                });
                if rng.random_range(0..10) >= silent {
                    let bytes = anything(&mut rng, &asked, &own.unwrap_or(TARGET), &item);
                    let wait = std::time::Duration::from_millis(rng.random_range(0..=slow));
                    coming.push((now + wait, from, bytes));
                }
            }
            while let Some(event) = lookup.poll_event() {
                prop_assert_eq!(finished, 0, "nothing comes after the end");
                match event {
                    Event::Peers(new) => {
                        for peer in new {
                            prop_assert!(is_usable(Family::V4, peer, false));
                            prop_assert!(peers.insert(peer), "each once");
                        }
                    }
                    Event::Item(found) => prop_assert_eq!(&found, &item),
                    Event::Stored(nodes) => prop_assert!(nodes <= settings.told),
                    Event::Finished(summary) => {
                        finished += 1;
                        prop_assert_eq!((summary.asked, summary.told, summary.peers), (queries, told.len(), peers.len()));
                        prop_assert!(summary.answered <= summary.asked);
                    }
                }
            }
            prop_assert!(queries <= settings.queries && told.len() <= settings.told);
            prop_assert!(lookup.walk.known().count() <= 512 && peers.len() <= 1024);
            prop_assert!(lookup.pending.len() <= settings.queries);
            let Some(due) = lookup.poll_timeout() else {
                break;
            };
            prop_assert!(due > now, "time goes on");
            coming.sort_by_key(|(at, ..)| *at);
            if coming.first().is_some_and(|(at, ..)| *at <= due) {
                let (at, from, bytes) = coming.remove(0);
                now = now.max(at);
                lookup.handle(now, from, &bytes);
            } else {
                now = due;
                lookup.handle_timeout(now);
            }
        }
        prop_assert!(finished == 1 && now <= start + settings.total);
        prop_assert!(kind != 0 || told.is_empty());
    }
}

/// Every node names eight that are a bit nearer, all of them there, with ids that fit.
#[test]
fn an_endless_chain_leaves_queries_for_those_who_are_told() {
    let start = Instant::now();
    // So few that the chain uses up its part of them before it is too long.
    let settings = Settings {
        queries: 40,
        told: 8,
        ..Settings::private_network()
    };
    let mut rng = StdRng::seed_from_u64(1);
    let first = Contact {
        id: node(1, 0).id,
        addr: ([10, 0, 0, 1], 1).into(),
    };
    let begin = Start {
        contacts: vec![first],
        bootstraps: 0,
    };
    let goal = Goal::Announce { port: 7 };
    let mut lookup = Lookup::new(start, &settings, Family::V4, TARGET, goal, begin, 1);
    let (mut count, mut queries) = (1_u32, 0);
    while let Some(transmit) = lookup.poll_transmit(start) {
        queries += 1;
        let (from, asked) = (addr(&transmit), Asked::decode(&transmit.bytes).unwrap());
        let own = match lookup.pending.last().map(|pending| pending.errand) {
            Some(Errand::Walk(contact) | Errand::Tell(contact) | Errand::Store(contact)) => {
                contact.id
            }
            Some(Errand::Bootstrap(_)) | None => panic!("a node was asked"),
        };
        let nodes: Vec<Contact> = (0..8)
            .map(|_| {
                count += 1;
                let [_, b, c, d] = count.to_be_bytes();
                let id = TARGET.blinded(own.shared_bits(&TARGET) + 1, &mut rng);
                Contact {
                    id,
                    addr: ([10, b, c, d], 1).into(),
                }
            })
            .collect();
        let answer = Answer {
            nodes: &nodes,
            token: Some(b"t"),
            ..Answer::default()
        };
        lookup.handle(start, from, &answer.encode(asked.transaction, &own));
    }
    let events = events(&mut lookup);
    let Some(Event::Finished(summary)) = events.last() else {
        panic!("no end");
    };
    assert!(queries <= settings.queries && summary.asked == queries);
    assert!(
        summary.told >= settings.closest && summary.told <= settings.told,
        "{summary:?}"
    );
    assert_eq!(summary.stored, summary.told);
}

/// Our own limits let the walk pass and refuse to tell anybody, for ever.
#[test]
fn what_is_never_told_ends_when_its_time_is_over() {
    let start = Instant::now();
    let nodes: Vec<Contact> = (0..8).map(|n| node(n, 5)).collect();
    let mut lookup = begin(start, Goal::Peers, nodes.clone(), 0, 1);
    let mut now = start;
    for _ in 0..5_000 {
        while let Some(transmit) = lookup.poll_transmit(now) {
            let (from, asked) = (addr(&transmit), Asked::decode(&transmit.bytes).unwrap());
            if target_of(&transmit).is_none() {
                lookup.refused(now, &transmit.to);
                continue;
            }
            let own = nodes.iter().find(|node| node.addr == from).unwrap().id;
            lookup.handle(
                now,
                from,
                &Answer::default().encode(asked.transaction, &own),
            );
        }
        let Some(due) = lookup.poll_timeout() else {
            break;
        };
        now = due;
        lookup.handle_timeout(now);
    }
    assert_eq!(now, start + Settings::default().total);
    let events = events(&mut lookup);
    assert!(
        matches!(
            events[..],
            [Event::Finished(Summary {
                asked: 8,
                told: 0,
                ..
            })]
        ),
        "{events:?}"
    );
}
