use std::collections::{BTreeMap, BTreeSet};

use hushswarm_circuits::keys::IdentityKey;

use super::*;
use crate::krpc::message::node::{Answer, Asked, refuse};

mod hostile;

const TARGET: Id = Id([0xa5; 20]);

/// A node in a network of its own that shares so many bits with the target. Its id does not fit.
fn node(n: u8, shared: usize) -> Contact {
    let mut id = Id([n; 20]);
    for bit in 0..=shared {
        let (at, mask) = (bit / 8, 0x80_u8 >> (bit % 8));
        let other = if bit == shared { mask } else { 0 };
        id.0[at] = (id.0[at] & !mask) | ((TARGET.0[at] & mask) ^ other);
    }
    Contact {
        id,
        addr: ([8, 8, n, 1], 6881).into(),
    }
}

fn begin(now: Instant, goal: Goal, contacts: Vec<Contact>, bootstraps: usize, seed: u64) -> Lookup {
    let start = Start {
        contacts,
        bootstraps,
    };
    Lookup::new(
        now,
        &Settings::default(),
        Family::V4,
        TARGET,
        goal,
        start,
        seed,
    )
}

fn sent(lookup: &mut Lookup, now: Instant) -> Vec<Transmit> {
    std::iter::from_fn(|| lookup.poll_transmit(now)).collect()
}

fn events(lookup: &mut Lookup) -> Vec<Event> {
    std::iter::from_fn(|| lookup.poll_event()).collect()
}

fn addr(transmit: &Transmit) -> SocketAddr {
    match transmit.to {
        To::Node(addr) => addr,
        To::Bootstrap(_) => panic!("a node"),
    }
}

/// Lets every one of these answer what it is asked, as long as anything is asked.
fn answer_all(
    lookup: &mut Lookup,
    now: Instant,
    nodes: &[Contact],
    answer: Answer<'_>,
) -> Vec<Transmit> {
    let mut all = Vec::new();
    loop {
        let transmits = sent(lookup, now);
        if transmits.is_empty() {
            return all;
        }
        for transmit in transmits {
            let from = addr(&transmit);
            let asked = Asked::decode(&transmit.bytes).unwrap();
            if let Some(node) = nodes.iter().find(|node| node.addr == from) {
                assert!(lookup.handle(now, from, &answer.encode(asked.transaction, &node.id)));
            }
            all.push(transmit);
        }
    }
}

fn target_of(transmit: &Transmit) -> Option<Id> {
    match Asked::decode(&transmit.bytes).unwrap().query {
        Query::FindNode { target } => Some(target),
        Query::Ping
        | Query::GetPeers { .. }
        | Query::AnnouncePeer { .. }
        | Query::Get { .. }
        | Query::Put { .. } => None,
    }
}

#[test]
fn nodes_of_the_walk_are_asked_for_what_they_share_and_a_little_more() {
    let now = Instant::now();
    let nodes: Vec<Contact> = (0..8).map(|n| node(n, usize::from(n) * 2)).collect();
    let mut seen = BTreeSet::new();
    let mut least: BTreeMap<usize, usize> = BTreeMap::new();
    for seed in 0..40 {
        let mut lookup = begin(now, Goal::Peers, nodes.clone(), 0, seed);
        for transmit in sent(&mut lookup, now) {
            let shared = nodes
                .iter()
                .find(|node| node.addr == addr(&transmit))
                .unwrap();
            let shared = shared.id.shared_bits(&TARGET);
            let asked = target_of(&transmit).expect("nobody is told before all have answered");
            let bits = asked.shared_bits(&TARGET);
            assert!(bits > shared, "its answers may be nearer");
            let least = least.entry(shared).or_insert(bits);
            *least = bits.min(*least);
            assert!(seen.insert(asked), "drawn anew for each query");
        }
    }
    assert_eq!(seen.len(), 40 * 8);
    // What is drawn beyond that is right by chance, but not in each of 40 queries.
    assert!(least.iter().all(|(shared, least)| *least == shared + 2));
}

#[test]
fn a_node_that_claims_to_be_nearer_than_any_can_be_learns_no_more_than_the_nearest_would() {
    let now = Instant::now();
    let bits = (0..40).map(|seed| {
        let mut lookup = begin(now, Goal::Peers, vec![node(1, 100)], 0, seed);
        let transmit = lookup.poll_transmit(now).unwrap();
        target_of(&transmit).unwrap().shared_bits(&TARGET)
    });
    assert_eq!(bits.min(), Some(28));
}

#[test]
fn the_closest_are_told_when_they_have_answered_and_nobody_else_is() {
    let now = Instant::now();
    let near: Vec<Contact> = (0..8).map(|n| node(n, 10)).collect();
    let far: Vec<Contact> = (8..20).map(|n| node(n, 3)).collect();
    let all = [near.clone(), far].concat();
    let mut lookup = begin(now, Goal::Peers, all.clone(), 0, 1);
    let transmits = answer_all(&mut lookup, now, &all, Answer::default());
    let told = transmits
        .iter()
        .filter(|transmit| target_of(transmit).is_none());
    let told: BTreeSet<SocketAddr> = told.map(addr).collect();
    assert_eq!(told, near.iter().map(|node| node.addr).collect());
    let walk = transmits
        .iter()
        .take_while(|transmit| target_of(transmit).is_some());
    assert!(walk.count() >= 8, "first they answer, then they are told");
    let events = events(&mut lookup);
    let Some(Event::Finished(summary)) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!(
        (summary.told, summary.asked, summary.answered),
        (8, transmits.len(), transmits.len())
    );
    assert_eq!(lookup.poll_timeout(), None);
    assert!(sent(&mut lookup, now).is_empty());
}

#[test]
fn one_silent_node_among_the_closest_is_replaced_by_the_next() {
    let start = Instant::now();
    let mut now = start;
    let nodes: Vec<Contact> = (0..12).map(|n| node(n, 12 - usize::from(n))).collect();
    let mut lookup = begin(now, Goal::Peers, nodes.clone(), 0, 1);
    let mut told = BTreeSet::new();
    loop {
        let transmits = answer_all(&mut lookup, now, &nodes[1..], Answer::default());
        told.extend(
            transmits
                .iter()
                .filter(|transmit| target_of(transmit).is_none())
                .map(addr),
        );
        let Some(due) = lookup.poll_timeout() else {
            break;
        };
        now = due;
        lookup.handle_timeout(now);
    }
    assert_eq!(told, nodes[1..9].iter().map(|node| node.addr).collect());
    assert_eq!(lookup.silent(), [nodes[0].addr]);
    assert!(lookup.contacts().iter().all(|contact| *contact != nodes[0]));
    assert!(
        now < start + Settings::default().timeout,
        "nobody waited for it"
    );
}

#[test]
fn nothing_ties_two_lookups_together() {
    let now = Instant::now();
    let nodes: Vec<Contact> = (0..8).map(|n| node(n, 5)).collect();
    let of = |seed| -> Vec<(Id, Vec<u8>)> {
        let mut lookup = begin(now, Goal::Peers, nodes.clone(), 0, seed);
        let transmits = answer_all(&mut lookup, now, &nodes, Answer::default());
        let asked = transmits.iter().map(|transmit| {
            let asked = Asked::decode(&transmit.bytes).unwrap();
            assert!(asked.read_only);
            assert_eq!(asked.transaction.len(), TRANSACTION_LEN);
            (asked.id, asked.transaction.to_vec())
        });
        asked.collect()
    };
    let (one, other) = (of(1), of(2));
    assert!(
        one.iter().all(|(id, _)| *id == one[0].0),
        "within one lookup a node is one node"
    );
    assert_ne!(one[0].0, other[0].0);
    let transactions: BTreeSet<_> = one.iter().chain(&other).map(|(_, t)| t).collect();
    assert_eq!(transactions.len(), one.len() + other.len());
}

#[test]
fn answers_from_elsewhere_and_to_other_queries_change_nothing() {
    let now = Instant::now();
    let mut lookup = begin(now, Goal::Peers, vec![node(1, 5)], 0, 1);
    let [transmit] = &sent(&mut lookup, now)[..] else {
        panic!("one is known");
    };
    let asked = Asked::decode(&transmit.bytes).unwrap();
    let answer = |transaction: &[u8]| {
        Answer {
            nodes: &[node(2, 9)],
            ..Answer::default()
        }
        .encode(transaction, &node(1, 5).id)
    };
    let good = answer(asked.transaction);
    let before = lookup.poll_timeout();
    for (from, bytes) in [
        ("8.8.1.2:6881", good.clone()),
        ("8.8.1.1:6882", good.clone()),
        ("8.8.1.1:6881", answer(b"zzzz")),
        ("8.8.1.1:6881", answer(&asked.transaction[..3])),
        ("8.8.1.1:6881", transmit.bytes.clone()),
        ("8.8.1.1:6881", b"junk".to_vec()),
        ("8.8.1.1:6881", vec![b'd'; 5000]),
    ] {
        assert!(!lookup.handle(now, from.parse().unwrap(), &bytes));
        assert!(sent(&mut lookup, now).is_empty() && lookup.contacts().is_empty());
        assert_eq!(lookup.poll_timeout(), before);
    }
    assert!(
        lookup.handle(now, "[::ffff:8.8.1.1]:6881".parse().unwrap(), &good),
        "as some sockets give it"
    );
    assert!(
        !lookup.handle(now, addr(transmit), &good),
        "an answer is one answer"
    );
    assert_eq!(lookup.contacts(), [node(1, 5)]);
    assert_eq!(sent(&mut lookup, now).len(), 1, "its contact is asked");
}

/// Answers the one query that is due, under this id; gives to whom it went.
fn answer_as(lookup: &mut Lookup, now: Instant, id: &Id, nodes: &[Contact]) -> SocketAddr {
    let transmits = sent(lookup, now);
    assert_eq!(transmits.len(), 1);
    let asked = Asked::decode(&transmits[0].bytes).unwrap();
    let bytes = Answer {
        nodes,
        ..Answer::default()
    }
    .encode(asked.transaction, id);
    let to = addr(&transmits[0]);
    assert!(lookup.handle(now, to, &bytes));
    to
}

#[test]
fn what_a_node_says_under_another_id_than_it_was_named_by_leads_nowhere() {
    let now = Instant::now();
    let mut lookup = begin(now, Goal::Peers, vec![node(1, 5)], 0, 1);
    // Each time another: it is left after a few.
    for n in 0..4 {
        let to = answer_as(&mut lookup, now, &node(3, 20 + n).id, &[node(2, 9)]);
        assert_eq!(to, node(1, 5).addr);
    }
    assert!(sent(&mut lookup, now).is_empty());
    assert_eq!(lookup.contacts(), []);
    let events = events(&mut lookup);
    assert!(
        matches!(events[..], [Event::Finished(Summary { told: 0, .. })]),
        "{events:?}"
    );
}

#[test]
fn an_honest_node_that_liars_told_of_under_false_ids_is_asked_under_its_own() {
    let now = Instant::now();
    let honest = node(1, 12);
    let false_one = |shared| Contact {
        addr: honest.addr,
        ..node(9, shared)
    };
    let told = vec![false_one(30), false_one(31)];
    let mut lookup = begin(now, Goal::Peers, told, 0, 1);
    for _ in 0..3 {
        answer_as(&mut lookup, now, &honest.id, &[]);
    }
    assert_eq!(lookup.contacts(), [honest]);
    assert_eq!(lookup.silent(), [], "it answered, each time");
}

#[test]
fn peers_count_from_those_alone_who_were_told() {
    let now = Instant::now();
    let nodes: Vec<Contact> = (0..8).map(|n| node(n, 5)).collect();
    let mut lookup = begin(now, Goal::Peers, nodes.clone(), 0, 1);
    let peers = [([9, 9, 9, 9], 1).into(), ([10, 0, 0, 1], 1).into()];
    let answer = Answer {
        peers: &peers,
        token: Some(b"t"),
        ..Answer::default()
    };
    for transmit in sent(&mut lookup, now) {
        let asked = Asked::decode(&transmit.bytes).unwrap();
        let own = nodes
            .iter()
            .find(|node| node.addr == addr(&transmit))
            .unwrap()
            .id;
        lookup.handle(
            now,
            addr(&transmit),
            &answer.encode(asked.transaction, &own),
        );
    }
    assert_eq!(events(&mut lookup), [], "nobody was asked for peers yet");
    answer_all(&mut lookup, now, &nodes, answer);
    let events = events(&mut lookup);
    assert_eq!(events[0], Event::Peers(vec![peers[0]]));
    assert!(matches!(
        events[1..],
        [Event::Finished(Summary {
            peers: 1,
            stored: 0,
            ..
        })]
    ));
}

#[test]
fn bootstrap_names_are_asked_where_few_nodes_are_known_and_learn_nothing() {
    let now = Instant::now();
    let enough: Vec<Contact> = (0..8).map(|n| node(n, 5)).collect();
    let mut lookup = begin(now, Goal::Peers, enough, 2, 1);
    assert!(
        sent(&mut lookup, now)
            .iter()
            .all(|transmit| matches!(transmit.to, To::Node(_)))
    );

    let mut lookup = begin(now, Goal::Peers, vec![], 2, 1);
    let transmits = sent(&mut lookup, now);
    assert_eq!(
        transmits
            .iter()
            .map(|transmit| transmit.to)
            .collect::<Vec<_>>(),
        [To::Bootstrap(0), To::Bootstrap(1)]
    );
    for transmit in &transmits {
        assert!(target_of(transmit).unwrap().shared_bits(&TARGET) < 24);
    }
    let asked = Asked::decode(&transmits[0].bytes).unwrap();
    let answer = Answer {
        nodes: &[node(1, 1)],
        ..Answer::default()
    };
    assert!(lookup.handle(
        now,
        "7.7.7.7:9".parse().unwrap(),
        &answer.encode(asked.transaction, &Id([1; 20]))
    ));
    assert_eq!(sent(&mut lookup, now).len(), 1);
    assert_eq!(
        lookup.contacts(),
        [],
        "a bootstrap node is no node of the walk"
    );
}

#[test]
fn one_network_has_two_nodes_of_a_walk() {
    let now = Instant::now();
    let same = |n: u8| Contact {
        addr: ([8, 8, 8, n], 6881).into(),
        ..node(n, 9)
    };
    let mut lookup = begin(
        now,
        Goal::Peers,
        (0..8).map(same).chain([node(99, 1)]).collect(),
        0,
        1,
    );
    let asked: Vec<SocketAddr> = sent(&mut lookup, now).iter().map(addr).collect();
    assert_eq!(
        asked
            .iter()
            .filter(|addr| addr.ip() != node(99, 1).addr.ip())
            .count(),
        2
    );
    assert_eq!(asked.len(), 3, "and another is asked beside them");
}

#[test]
fn what_our_limits_refuse_is_asked_later_and_counts_when_it_leaves() {
    let mut now = Instant::now();
    let nodes: Vec<Contact> = (0..3).map(|n| node(n, 5)).collect();
    let mut lookup = begin(now, Goal::Peers, nodes.clone(), 0, 1);
    let mut left = Vec::new();
    // Every other one is refused.
    let mut odd = false;
    for _ in 0..200 {
        while let Some(transmit) = lookup.poll_transmit(now) {
            odd = !odd;
            if odd {
                lookup.refused(now, &transmit.to);
                continue;
            }
            let (from, asked) = (addr(&transmit), Asked::decode(&transmit.bytes).unwrap());
            let own = nodes.iter().find(|node| node.addr == from).unwrap().id;
            let bytes = Answer {
                token: Some(b"t"),
                ..Answer::default()
            }
            .encode(asked.transaction, &own);
            assert!(lookup.handle(now, from, &bytes));
            left.push(transmit);
        }
        let Some(due) = lookup.poll_timeout() else {
            break;
        };
        assert!(due > now);
        now = due;
        lookup.handle_timeout(now);
    }
    let events = events(&mut lookup);
    let Some(Event::Finished(summary)) = events.last() else {
        panic!("it waits for ever");
    };
    assert_eq!((summary.asked, summary.told, left.len()), (6, 3, 6));
}

#[test]
fn what_is_always_refused_ends_in_time() {
    let start = Instant::now();
    let mut lookup = begin(start, Goal::Peers, vec![node(1, 5)], 1, 1);
    let (mut now, mut tries) = (start, 0);
    loop {
        while let Some(transmit) = lookup.poll_transmit(now) {
            tries += 1;
            lookup.refused(now, &transmit.to);
        }
        let Some(due) = lookup.poll_timeout() else {
            break;
        };
        assert!(due > now);
        now = due;
        lookup.handle_timeout(now);
    }
    assert!(now <= start + Settings::default().total);
    assert!(tries < 100, "{tries}");
    assert!(matches!(
        events(&mut lookup)[..],
        [Event::Finished(Summary { asked: 0, .. })]
    ));
}

#[test]
fn a_lookup_without_anybody_to_ask_ends_at_once() {
    let now = Instant::now();
    let mut lookup = begin(now, Goal::Peers, vec![], 0, 1);
    assert!(sent(&mut lookup, now).is_empty());
    assert!(
        matches!(events(&mut lookup)[..], [Event::Finished(summary)] if summary == Summary::default())
    );
}

#[test]
fn an_announce_names_the_port_and_gives_each_node_its_own_token() {
    let now = Instant::now();
    let nodes: Vec<Contact> = (0..8).map(|n| node(n, 5)).collect();
    let mut lookup = begin(now, Goal::Announce { port: 51_413 }, nodes.clone(), 0, 1);
    let mut announced = 0;
    loop {
        let transmits = sent(&mut lookup, now);
        if transmits.is_empty() {
            break;
        }
        for transmit in transmits {
            let (from, asked) = (addr(&transmit), Asked::decode(&transmit.bytes).unwrap());
            let node = nodes.iter().find(|node| node.addr == from).unwrap();
            let token = &node.id.0[..7];
            let mut answer = Answer {
                token: Some(token),
                ..Answer::default()
            }
            .encode(asked.transaction, &node.id);
            if let Query::AnnouncePeer {
                info_hash,
                port,
                token: given,
            } = asked.query
            {
                assert_eq!((info_hash, port, given), (TARGET, 51_413, token));
                announced += 1;
                if announced == 8 {
                    answer = refuse(asked.transaction, 203, "bad token");
                }
            }
            lookup.handle(now, from, &answer);
        }
    }
    let events = events(&mut lookup);
    assert_eq!(events[..7], (1..=7).map(Event::Stored).collect::<Vec<_>>());
    assert!(matches!(
        events[7..],
        [Event::Finished(Summary {
            stored: 7,
            told: 8,
            ..
        })]
    ));
}

#[test]
fn of_items_the_newest_valid_one_is_given() {
    let now = Instant::now();
    let nodes: Vec<Contact> = (0..8).map(|n| node(n, 5)).collect();
    let key = IdentityKey::from_seed([1; 32]);
    let item = |seq| Item::sign(&key, b"s", seq, b"2:hi").unwrap();
    let foreign = Item::sign(&IdentityKey::from_seed([2; 32]), b"s", 99, b"2:hi").unwrap();
    let start = Start {
        contacts: nodes.clone(),
        bootstraps: 0,
    };
    let mut lookup = Lookup::new(
        now,
        &Settings::default(),
        Family::V4,
        Id([0; 20]),
        Goal::Get(item(1).name()),
        start,
        1,
    );
    let mut given = [item(3), item(1), foreign, item(5), item(5), item(4)]
        .into_iter()
        .cycle();
    loop {
        let transmits = sent(&mut lookup, now);
        if transmits.is_empty() {
            break;
        }
        for transmit in transmits {
            let (from, asked) = (addr(&transmit), Asked::decode(&transmit.bytes).unwrap());
            let own = nodes.iter().find(|node| node.addr == from).unwrap().id;
            let got = matches!(asked.query, Query::Get { target } if target == item(1).target());
            let item = got.then(|| given.next()).flatten();
            let answer = Answer {
                item: item.as_ref(),
                ..Answer::default()
            };
            lookup.handle(now, from, &answer.encode(asked.transaction, &own));
        }
    }
    let events = events(&mut lookup);
    assert_eq!(events[..2], [Event::Item(item(3)), Event::Item(item(5))]);
    assert!(matches!(events[2..], [Event::Finished(_)]));
}

#[test]
fn an_immutable_item_ends_the_lookup_that_found_it() {
    let now = Instant::now();
    let nodes: Vec<Contact> = (0..8).map(|n| node(n, 5)).collect();
    let item = Item::immutable(b"2:hi").unwrap();
    let mut lookup = begin(now, Goal::Get(item.name()), nodes.clone(), 0, 1);
    let answer = Answer {
        item: Some(&item),
        ..Answer::default()
    };
    let mut told = 0;
    'all: loop {
        for transmit in sent(&mut lookup, now) {
            let (from, asked) = (addr(&transmit), Asked::decode(&transmit.bytes).unwrap());
            let own = nodes.iter().find(|node| node.addr == from).unwrap().id;
            told += usize::from(matches!(asked.query, Query::Get { .. }));
            lookup.handle(now, from, &answer.encode(asked.transaction, &own));
            if told == 1 {
                break 'all;
            }
        }
    }
    let events = events(&mut lookup);
    assert!(matches!(&events[..], [Event::Item(found), Event::Finished(_)] if *found == item));
}

#[test]
fn over_ipv6_nodes_and_peers_are_those_of_ipv6() {
    let now = Instant::now();
    let contact = |n: u16| Contact {
        id: node(7, usize::from(n)).id,
        addr: (
            std::net::Ipv6Addr::new(0x2606, 0x4700, n, 0, 0, 0, 0, 1),
            6881,
        )
            .into(),
    };
    let start = Start {
        contacts: vec![contact(1), node(3, 3)],
        bootstraps: 0,
    };
    let mut lookup = Lookup::new(
        now,
        &Settings::default(),
        Family::V6,
        TARGET,
        Goal::Peers,
        start,
        1,
    );
    let nodes: Vec<Contact> = [contact(1), contact(2), node(4, 9)].to_vec();
    let peers = [
        "[2606:4700:9::1]:5".parse().unwrap(),
        "9.9.9.9:5".parse().unwrap(),
    ];
    let answer = Answer {
        nodes: &nodes,
        peers: &peers,
        ..Answer::default()
    };
    let transmits = answer_all(&mut lookup, now, &nodes[..2], answer);
    assert!(transmits.iter().all(|transmit| addr(transmit).is_ipv6()));
    assert_eq!(transmits.len(), 4, "two nodes, walked to and told");
    assert_eq!(events(&mut lookup)[0], Event::Peers(vec![peers[0]]));
}
