//! Peers come, fail, are told of and banned.
#![allow(clippy::unwrap_used)]
use super::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn named(text: &str) -> Way {
    Way::Named(PeerName::Public(text.parse().unwrap()))
}

#[test]
fn a_peer_that_fails_is_tried_again_later_and_later() {
    let (mut table, mut rng, mut now) =
        (PeerTable::new(4), StdRng::seed_from_u64(1), Instant::now());
    assert!(table.add(now, named("192.0.2.1:5")));
    assert!(!table.add(now, named("192.0.2.1:5")), "known");
    let mut waits = Vec::new();
    for _ in 0..9 {
        let key = table.next(now).unwrap().key;
        assert!(table.next(now).is_none(), "busy");
        table.ended(now, key, Ended::Unreached, &mut rng);
        let start = now;
        while table.known[&key].state != (State::Idle { not_before: now }) {
            let State::Idle { not_before } = table.known[&key].state else {
                panic!()
            };
            now = not_before;
        }
        waits.push((now - start).as_secs());
    }
    assert!(
        (15..19).contains(&waits[0]) && (30..38).contains(&waits[1]),
        "{waits:?}"
    );
    assert!((1800..2250).contains(&waits[8]), "{waits:?}");
}

#[test]
fn a_lost_circuit_is_not_the_peers_fault_until_it_happens_often() {
    let (mut table, mut rng, mut now) =
        (PeerTable::new(4), StdRng::seed_from_u64(1), Instant::now());
    table.add(now, named("192.0.2.1:5"));
    for round in 0..=MAX_CIRCUITS_LOST {
        let key = table.next(now).unwrap().key;
        table.ended(now, key, Ended::CircuitLost, &mut rng);
        now += Duration::from_secs(2);
        assert_eq!(table.next(now).is_some(), round < MAX_CIRCUITS_LOST);
        table.known.get_mut(&key).unwrap().state = State::Idle { not_before: now };
        if round == MAX_CIRCUITS_LOST {
            assert_eq!(table.known[&key].failures, 1);
        }
    }
}

#[test]
fn a_liar_is_banned_with_its_address() {
    let (mut table, now) = (PeerTable::new(4), Instant::now());
    for way in ["1.2.3.4:5", "1.2.3.4:6", "[2a00::1]:5"] {
        table.add(now, named(way));
    }
    let key = table.next(now).unwrap().key;
    table.ban(key);
    table.ended(now, key, Ended::Closed, &mut StdRng::seed_from_u64(1));
    assert_eq!(table.known[&key].state, State::Banned);
    assert!(!table.add(now, named("1.2.3.4:7")));
    let v6 = table.next(now).unwrap().key;
    table.ban(v6);
    assert!(!table.add(now, named("[2a00::2]:5")), "the same /64");
    assert!(table.next(now).is_none());
    assert_eq!(table.len(), 0);
}

#[test]
fn an_onion_service_gets_several_streams_by_circuits_of_their_own_and_one_ban_for_all() {
    let (mut table, now) = (PeerTable::new(4), Instant::now());
    let onion = Target::parse("seed.onion", 6881).unwrap();
    table.add_onion(now, &onion, 8);
    table.add_onion(now, &onion, 8);
    assert_eq!(table.len(), 1);
    let calls: Vec<_> = std::iter::from_fn(|| table.next(now)).collect();
    assert_eq!(calls.len(), 8);
    assert!(calls.iter().all(|call| call.target == onion));
    assert_eq!(calls.iter().filter(|call| call.first).count(), 1);
    let lanes: BTreeSet<u16> = calls.iter().map(|call| call.lane).collect();
    assert_eq!(lanes.len(), 8);
    table.ban(calls[3].key);
    assert_eq!(table.len(), 0);
}

#[test]
fn a_full_table_shuts_out_nobody_who_comes_and_forgets_who_is_not_wanted_now() {
    let (mut table, mut rng, now) = (PeerTable::new(4), StdRng::seed_from_u64(1), Instant::now());
    for n in 0..MAX_KNOWN {
        let onion = Target::parse(&format!("a{n}.onion"), 6881).unwrap();
        table.add_hearsay(now, onion, Some(PeerKey(n as u32)));
        let call = table.next(now).unwrap();
        // It answers, and then breaks a rule, or needs nothing.
        table.worked(now, call.key);
        let how = [Ended::Fault, Ended::Useless][n % 2];
        table.ended(now, call.key, how, &mut rng);
    }
    assert_eq!(table.len(), MAX_KNOWN);
    let visitor = table.add_incoming();
    assert!(table.known.contains_key(&visitor));
    assert!(table.add(now, named("192.0.2.1:5")), "a tracker's");
    assert!(table.next(now).is_some());
    assert!(table.known.len() <= MAX_KNOWN + 1);
    table.ended(now, visitor, Ended::Closed, &mut rng);
    assert!(table.known.len() <= MAX_KNOWN);
}

#[test]
fn who_answers_hearsay_with_another_torrent_gives_its_place_back() {
    let (mut table, mut rng, now) = (PeerTable::new(4), StdRng::seed_from_u64(1), Instant::now());
    let onion = |n: usize| Target::parse(&format!("a{n}.onion"), 6881).unwrap();
    for n in 0..2 * MAX_HEARSAY {
        table.add_hearsay(now, onion(n), Some(PeerKey(9)));
        let call = table.next(now).unwrap();
        table.ended(now, call.key, Ended::Fault, &mut rng);
    }
    assert_eq!(table.len(), 0);
    table.add_hearsay(now, onion(0), Some(PeerKey(9)));
    let later = now + 2 * LONGEST_WAIT;
    assert!(table.next(later).is_none(), "it is not called again");
    table.add_hearsay(now, onion(2 * MAX_HEARSAY), Some(PeerKey(9)));
    assert!(table.next(now).is_some());
}

#[test]
fn one_teller_has_a_share_and_many_that_tell_much_lose_theirs_to_one_that_tells_little() {
    let (mut table, now) = (PeerTable::new(4), Instant::now());
    let onion = |n: u32| Target::parse(&format!("a{n}.onion"), 6881).unwrap();
    for n in 0..1000 {
        table.add_hearsay(now, onion(n), Some(PeerKey(n / 100)));
    }
    assert_eq!(table.len(), MAX_HEARSAY);
    let honest = onion(5000);
    table.add_hearsay(now, honest.clone(), Some(PeerKey(100)));
    let way = Way::Host(honest);
    assert!(table.by_way.contains_key(&way));
    for n in 2000..3000 {
        table.add_hearsay(now, onion(n), Some(PeerKey(n / 100)));
    }
    assert!(table.by_way.contains_key(&way), "liars displace each other");
    assert_eq!(table.len(), MAX_HEARSAY);
    let shares = table.known.values().filter_map(|known| known.hearsay);
    let liar = shares.filter(|teller| *teller == Some(PeerKey(0))).count();
    assert!(liar <= MAX_HEARSAY_EACH, "{liar}");
}

#[test]
fn one_onion_service_is_one_peer_whatever_ports_it_is_said_to_have() {
    let (mut table, mut rng, mut now) =
        (PeerTable::new(4), StdRng::seed_from_u64(1), Instant::now());
    let at = |name: &str, port| Target::parse(&format!("{name}.onion"), port).unwrap();
    let mut calls = 0;
    for port in 1..=200 {
        table.add_hearsay(now, at("third", port), Some(PeerKey(1)));
        assert!(table.len() <= 1);
        while let Some(call) = table.next(now) {
            calls += 1;
            table.ended(now, call.key, Ended::Unreached, &mut rng);
        }
    }
    assert_eq!(calls, 1);
    // Who knows better is believed, for the calls that are left.
    table.add_hearsay(now, at("third", 6881), Some(PeerKey(2)));
    now += 2 * FIRST_WAIT;
    let call = table.next(now).unwrap();
    assert_eq!(call.target, at("third", 6881));
    table.worked(now, call.key);
    now += STEADY;
    table.ended(now, call.key, Ended::Closed, &mut rng);
    table.add_hearsay(now, at("third", 1), Some(PeerKey(1)));
    now += 2 * FIRST_WAIT;
    let call = table.next(now).unwrap();
    assert_eq!(call.target, at("third", 6881), "it answered there");
    // Banned, it comes back under no port, even when it was forgotten.
    table.ban(call.key);
    table.forget(call.key);
    table.add_hearsay(now, at("third", 2), Some(PeerKey(1)));
    assert!(!table.add(now, Way::Host(at("third", 3))));
    table.add_onion(now, &at("third", 4), 8);
    assert_eq!(table.known.len(), 0);
    // A ban meets all that is known of the service.
    table.add_onion(now, &at("other", 4), 8);
    assert!(table.add(now, Way::Host(at("other", 5))));
    let call = table.next(now).unwrap();
    table.ban(call.key);
    assert!(table.next(now).is_none());
}

#[test]
fn nobody_is_called_at_many_ports_because_somebody_says_so() {
    let (mut table, now) = (PeerTable::new(4), Instant::now());
    for n in 1..=50 {
        for addr in [format!("1.2.3.4:{n}"), format!("[2a00::{n}]:5")] {
            table.add_hearsay(now, Target::ip(addr.parse().unwrap()), Some(PeerKey(n)));
        }
    }
    assert_eq!(table.len(), 2 * MAX_HEARSAY_BLOCK);
    // A tracker may, and what it named is not said again.
    assert!(table.add(now, named("1.2.3.4:99")));
    let known = Target::ip("1.2.3.4:99".parse().unwrap());
    table.add_hearsay(now, known, Some(PeerKey(99)));
    assert_eq!(table.len(), 2 * MAX_HEARSAY_BLOCK + 1);
}

#[test]
fn those_of_whom_liars_told_leave_room_and_calls_for_others_and_are_forgotten() {
    let (mut table, mut rng, mut now) =
        (PeerTable::new(4), StdRng::seed_from_u64(1), Instant::now());
    let onion = |n: usize| Target::parse(&format!("a{n}.onion"), 6881).unwrap();
    for n in 0..MAX_KNOWN {
        table.add_hearsay(now, onion(n), None);
    }
    assert_eq!(table.len(), MAX_HEARSAY);
    let calls: Vec<_> = std::iter::from_fn(|| table.next(now)).collect();
    assert_eq!(calls.len(), MAX_HEARSAY_CALLS);
    assert!(table.add(now, named("192.0.2.1:5")));
    assert!(table.next(now).is_some(), "others have their own");
    // One of them answers, and counts as everybody else.
    table.worked(now, calls[0].key);
    assert!(table.next(now).is_some());
    for _ in 0..2000 {
        now += Duration::from_secs(60);
        while let Some(call) = table.next(now) {
            table.ended(now, call.key, Ended::Unreached, &mut rng);
        }
        for call in &calls[1..] {
            table.ended(now, call.key, Ended::Unreached, &mut rng);
        }
    }
    assert!(table.len() < 5, "{}", table.len());
    table.add_hearsay(now, onion(MAX_KNOWN + 1), None);
    assert!(table.next(now).is_some());
}

#[test]
fn a_service_that_hangs_up_at_once_is_called_later_and_later_and_one_that_stayed_soon() {
    let (mut table, mut rng, mut now) =
        (PeerTable::new(4), StdRng::seed_from_u64(1), Instant::now());
    let onion = Target::parse("seed.onion", 6881).unwrap();
    table.add_hearsay(now, onion, Some(PeerKey(9)));
    let mut calls = 0;
    for _ in 0..2 * 3600 {
        now += Duration::from_secs(1);
        if let Some(call) = table.next(now) {
            calls += 1;
            table.worked(now, call.key);
            table.ended(now, call.key, Ended::Closed, &mut rng);
        }
    }
    assert!((5..=11).contains(&calls), "{calls}");
    now += 2 * LONGEST_WAIT;
    let call = table.next(now).unwrap();
    table.worked(now, call.key);
    now += STEADY;
    table.ended(now, call.key, Ended::Closed, &mut rng);
    assert!(table.next(now + 2 * FIRST_WAIT).is_some());
}

#[test]
fn the_host_of_a_link_is_called_every_few_minutes_for_as_long_as_it_takes_and_one_of_hearsay_is_not()
 {
    let calls_of = |add: fn(&mut PeerTable, Instant, Target)| {
        let (mut table, mut rng, mut now) =
            (PeerTable::new(4), StdRng::seed_from_u64(1), Instant::now());
        add(&mut table, now, Target::parse("seed.onion", 6881).unwrap());
        let mut calls = 0;
        for _ in 0..2 * 3600 {
            now += Duration::from_secs(1);
            if let Some(call) = table.next(now) {
                calls += 1;
                table.ended(now, call.key, Ended::Unreached, &mut rng);
            }
        }
        calls
    };
    let linked = calls_of(|table, now, seed| {
        table.add(now, Way::Host(seed));
    });
    let told = calls_of(|table, now, seed| {
        table.add_hearsay(now, seed, None);
    });
    assert!((40..=80).contains(&linked), "{linked}");
    assert!(told <= 4, "{told}");
}

#[test]
fn peers_are_spread_over_the_lanes_and_the_table_is_bounded() {
    let (mut table, mut rng, now) = (PeerTable::new(4), StdRng::seed_from_u64(1), Instant::now());
    for n in 0..MAX_KNOWN as u32 {
        let addr = std::net::Ipv4Addr::from(0x0b00_0000 + n);
        assert!(table.add(now, named(&format!("{addr}:1"))));
    }
    assert!(!table.add(now, named("192.0.2.1:5")), "all are as good");
    let lanes: BTreeSet<u16> = (0..8).map(|_| table.next(now).unwrap().lane).collect();
    assert_eq!(lanes.len(), 4);
    let failed = *table.known.keys().next().unwrap();
    table.ended(now, failed, Ended::Unreached, &mut rng);
    assert!(
        table.add(now, named("192.0.2.1:5")),
        "one that failed makes room"
    );
    for nowhere in ["0.0.0.0:1", "224.0.0.1:1", "192.0.2.9:0"] {
        assert!(!table.add(now, named(nowhere)));
    }
}
