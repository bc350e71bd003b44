//! Lookups in a simulated DHT: 10,000 nodes with tables of their own, 30 % of them dead and 10 % hostile, in virtual time. What
//! holds here holds for the same code on a real network as far as the network is like this one.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // what is missing fails the test; the figures are for the reader

#[path = "dht_simulation/askers.rs"]
mod askers;
#[path = "dht_simulation/hostile.rs"]
mod hostile;
#[path = "dht_simulation/network.rs"]
mod network;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use askers::{Ours, Plain};
use hushswarm::krpc::{Family, Goal, Id, Item, Lookup, RoutingTable, Settings, Start};
use hushswarm_circuits::keys::IdentityKey;
use hushswarm_circuits::relay_list::is_global;
use network::{Kind, Mix, Network, Noticed, run};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// What most tests run in.
const HARSH: Mix = Mix {
    nodes: 10_000,
    dead: 30,
    hostile: 10,
    round_trip: (20, 300),
};

/// Nodes that a relay's table gives a lookup to begin with.
const START: usize = 16;

fn ours(network: &Network, now: Instant, goal: Goal, target: Id, seed: u64) -> Ours {
    let contacts = network.known_to(network.honest(seed as usize * 31), &target, START);
    let start = Start {
        contacts,
        bootstraps: 0,
    };
    let settings = Settings::default();
    Ours::new(Lookup::new(
        now,
        &settings,
        Family::V4,
        target,
        goal,
        start,
        seed,
    ))
}

fn targets(n: usize, seed: u64) -> Vec<Id> {
    let mut rng = StdRng::seed_from_u64(seed);
    // Not the stream that a lookup with the same seed draws its blinding from.
    rng.random::<u64>();
    let mut rng = StdRng::seed_from_u64(rng.random());
    (0..n).map(|_| Id::random(&mut rng)).collect()
}

/// What a lookup of ours may cost at most.
fn assert_bounded(ours: &Ours, noticed: &Noticed) {
    let summary = ours.summary.unwrap();
    let settings = Settings::default();
    assert!(
        noticed.told.len() <= settings.told,
        "{} nodes were told",
        noticed.told.len()
    );
    assert_eq!(summary.told, noticed.told.len());
    assert!(noticed.queries <= settings.queries);
    assert_eq!(summary.asked, noticed.queries);
    assert_eq!(noticed.ids.len(), 1, "one node id for one lookup");
    assert_eq!(
        noticed.transactions.len(),
        noticed.queries,
        "fresh transaction ids"
    );
    assert!(noticed.read_only);
}

#[test]
fn announced_infohashes_are_found_among_dead_and_hostile_nodes() {
    let (mut network, now) = (Network::new(HARSH, 1), Instant::now());
    let targets = targets(400, 2);
    targets
        .iter()
        .for_each(|target| network.announce(*target, 100));
    let (mut found, mut queries, mut told, mut bits, mut seconds) =
        (0, vec![], vec![], vec![], vec![]);
    for (target, seed) in targets.iter().zip(0..) {
        let mut ours = ours(&network, now, Goal::Peers, *target, seed);
        let noticed = run(&mut network, &mut ours, now, target);
        assert_bounded(&ours, &noticed);
        assert!(noticed.ports.is_empty());
        let announced = network.announced(target);
        found += usize::from(ours.peers.iter().any(|(_, peer)| announced.contains(peer)));
        queries.push(noticed.queries);
        told.push(noticed.told.len());
        bits.push(noticed.bits);
        seconds.push(
            ours.peers
                .first()
                .map_or(99.0, |(at, _)| (*at - now).as_secs_f64()),
        );
    }
    println!("found {found} of {}", targets.len());
    show("queries", &queries);
    show("told", &told);
    show("bits that others read", &bits);
    // The nearest of 10,000 nodes share 13 bits with a target; some more are told, and some are right by chance.
    let much = bits.iter().filter(|bits| **bits > 28).count();
    assert!(much * 50 <= targets.len(), "{much} learned more");
    seconds.sort_by(f64::total_cmp);
    println!(
        "first peer: median {:.2} s, 95 % {:.2} s",
        seconds[seconds.len() / 2],
        seconds[seconds.len() * 95 / 100]
    );
    assert!(
        found * 100 >= targets.len() * 99,
        "{found} of {}",
        targets.len()
    );
}

#[test]
fn peers_of_hostile_nodes_are_few_and_public() {
    let (mut network, now) = (
        Network::new(
            Mix {
                hostile: 40,
                dead: 10,
                ..HARSH
            },
            3,
        ),
        Instant::now(),
    );
    let (mut lies, mut found) = (0, 0);
    for (target, seed) in targets(60, 4).iter().zip(0..) {
        network.announce(*target, 100);
        let mut ours = ours(&network, now, Goal::Peers, *target, seed);
        let noticed = run(&mut network, &mut ours, now, target);
        assert_bounded(&ours, &noticed);
        let announced = network.announced(target);
        let of_them = ours
            .peers
            .iter()
            .filter(|(_, peer)| !announced.contains(peer));
        let count = of_them.clone().count();
        // All lies that Poison tells with public addresses name one network.
        assert!(count <= Settings::default().peers_per_network, "{count}");
        assert!(
            of_them
                .clone()
                .all(|(_, peer)| is_global(peer.ip()) && peer.port() != 0)
        );
        lies += count;
        found += usize::from(ours.peers.len() > count);
    }
    println!("40 % hostile: found {found} of 60, peers that are lies: {lies}");
    assert!(lies > 0, "nobody lied");
}

#[test]
fn what_is_announced_is_found_by_others_at_the_exits_port() {
    let (mut network, now) = (Network::new(HARSH, 5), Instant::now());
    let (mut kept, mut stored, mut found) = (0, 0, 0);
    for (target, seed) in targets(50, 6).iter().zip(0..) {
        let goal = Goal::Announce { port: 51_000 };
        let mut announcer = ours(&network, now, goal, *target, seed);
        let noticed = run(&mut network, &mut announcer, now, target);
        assert_bounded(&announcer, &noticed);
        assert_eq!(noticed.ports, [51_000].into());
        let peer = "9.9.9.9:51000".parse().unwrap();
        kept += network.keepers(target, &peer);
        stored += announcer.stored;
        assert_eq!(announcer.stored, announcer.summary.unwrap().stored);
        let mut finder = ours(&network, now, Goal::Peers, *target, seed + 1000);
        run(&mut network, &mut finder, now, target);
        found += usize::from(finder.peers.iter().any(|(_, found)| *found == peer));
    }
    println!("announced 50: {stored} said that they store, {kept} do, {found} found");
    assert!(stored >= kept && kept >= 50 * 4, "{stored}, {kept}");
    assert!(found >= 49, "{found}");
}

#[test]
fn items_that_are_put_are_got_and_the_newest_wins() {
    let (mut network, now) = (Network::new(HARSH, 7), Instant::now());
    let put = |network: &mut Network, item: &Item, seed: u64| {
        let target = item.target();
        let mut ours = ours(network, now, Goal::Put(item.clone()), target, seed);
        let noticed = run(network, &mut ours, now, &target);
        assert_bounded(&ours, &noticed);
        ours
    };
    let mut got = 0;
    for n in 0..30_u8 {
        let key = IdentityKey::from_seed([n; 32]);
        let seed = u64::from(n) * 10;
        let old = Item::sign(&key, b"salt", 1, b"3:old").unwrap();
        let new = Item::sign(&key, b"salt", 2, b"3:new").unwrap();
        let fixed = Item::immutable(format!("i{n}e").as_bytes()).unwrap();
        assert!(put(&mut network, &old, seed).stored >= 4);
        assert!(put(&mut network, &fixed, seed + 1).stored >= 4);
        // Put where the stored one is 7: nowhere. Then where it is 1.
        let keepers = network.keeping(&old);
        let misfit = put(&mut network, &new.clone().with_cas(Some(7)), seed + 2);
        assert_eq!(
            misfit.items.first(),
            Some(&old),
            "what stands there is told"
        );
        assert_eq!(
            network.keeping(&old),
            keepers,
            "nobody swapped what did not compare"
        );
        assert!(put(&mut network, &new.clone().with_cas(Some(1)), seed + 3).stored >= 4);
        let mut get = |item: &Item, seed: u64| {
            let target = item.target();
            let goal = Goal::Get(item.name());
            let mut ours = ours(&network, now, goal, target, seed);
            let noticed = run(&mut network, &mut ours, now, &target);
            assert_bounded(&ours, &noticed);
            ours.items.last().cloned()
        };
        got += usize::from(get(&new, seed + 4) == Some(new.clone()));
        got += usize::from(get(&fixed, seed + 5) == Some(fixed.clone()));
        // Putting the old one again stores it nowhere that matters, and tells of the new one.
        let again = put(&mut network, &old, seed + 6);
        assert_eq!(again.items.last(), Some(&new));
    }
    assert!(got >= 59, "{got} of 60");
}

/// A relay's table that has been up for a quarter of an hour, filled through a bootstrap name; and the queries it took.
fn warm_table(network: &mut Network, start: Instant) -> (RoutingTable, usize) {
    let settings = Settings::default();
    let mut table = RoutingTable::new(Id([0x5c; 20]), Family::V4, &settings);
    let (mut queries, end) = (0, start + Duration::from_secs(15 * 60 - 1));
    let mut now = start;
    for seed in 0.. {
        let Some(target) = table.refresh(now) else {
            now = table.poll_timeout().unwrap();
            if now > end {
                break;
            }
            continue;
        };
        let begin = Start {
            contacts: table.closest(&target, START),
            bootstraps: 2,
        };
        let lookup = Lookup::new(now, &settings, Family::V4, target, Goal::Nodes, begin, seed);
        let mut ours = Ours::new(lookup);
        let noticed = run(network, &mut ours, now, &target);
        assert_eq!(noticed.told.len(), 0, "nobody gets a true target");
        queries += noticed.queries;
        ours.lookup
            .silent()
            .into_iter()
            .for_each(|addr| table.silent(now, addr));
        ours.lookup
            .contacts()
            .into_iter()
            .for_each(|contact| table.answered(now, contact));
    }
    (table, queries)
}

#[test]
fn a_relays_table_fills_itself_from_a_bootstrap_name() {
    let (mut network, now) = (Network::new(HARSH, 8), Instant::now());
    let (table, queries) = warm_table(&mut network, now);
    let alive = network.nodes.iter().filter(|node| node.kind != Kind::Dead);
    let alive: BTreeSet<_> = alive.map(|node| node.contact).collect();
    let all = table.closest(&Id([0; 20]), usize::MAX);
    let real = all.iter().filter(|contact| alive.contains(contact)).count();
    println!(
        "the table holds {} nodes after {queries} queries, {real} of them real",
        all.len()
    );
    assert!(all.len() >= 900, "{}", all.len());
    assert!(
        real * 10 >= all.len() * 8,
        "{real} of {} are no lies",
        all.len()
    );
    // And it serves.
    let targets = targets(100, 9);
    let mut found = 0;
    for (target, seed) in targets.iter().zip(0..) {
        network.announce(*target, 20);
        let begin = Start {
            contacts: table.closest(target, START),
            bootstraps: 2,
        };
        let settings = Settings::default();
        let lookup = Lookup::new(
            now,
            &settings,
            Family::V4,
            *target,
            Goal::Peers,
            begin,
            seed,
        );
        let mut ours = Ours::new(lookup);
        let noticed = run(&mut network, &mut ours, now, target);
        assert_bounded(&ours, &noticed);
        let announced = network.announced(target);
        found += usize::from(ours.peers.iter().any(|(_, peer)| announced.contains(peer)));
    }
    assert!(found >= 99, "{found} of 100");
}

/// What a client took.
#[derive(Default)]
struct Took {
    told: Vec<usize>,
    queries: Vec<usize>,
    first: Vec<f64>,
    fifty: Vec<f64>,
}

impl Took {
    fn add(
        &mut self,
        noticed: &Noticed,
        peers: &[(Instant, SocketAddr)],
        start: Instant,
        more: Duration,
    ) {
        let seconds = |n: usize| {
            peers
                .get(n)
                .map(|(at, _)| (*at - start + more).as_secs_f64())
        };
        self.told.push(noticed.told.len());
        self.queries.push(noticed.queries);
        self.first.extend(seconds(0));
        self.fifty.extend(seconds(49));
    }

    fn print(&self, who: &str) {
        let mean = |values: &[usize]| values.iter().sum::<usize>() as f64 / values.len() as f64;
        let late = |seconds: &[f64]| quantile(seconds, 95);
        println!(
            "{who:28} told {:5.1}  queries {:5.1}  first peer {:.3} s (95 % {:.3})  50 peers {:.3} s (95 % {:.3})",
            mean(&self.told),
            mean(&self.queries),
            average(&self.first),
            late(&self.first),
            average(&self.fifty),
            late(&self.fifty),
        );
    }
}

fn average(seconds: &[f64]) -> f64 {
    seconds.iter().sum::<f64>() / seconds.len() as f64
}

fn quantile(seconds: &[f64], percent: usize) -> f64 {
    let mut seconds = seconds.to_vec();
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() * percent / 100]
}

/// One hop.
const HOP: u64 = 20;
/// Lookups of the comparison.
const COMPARED: usize = 100;

/// The same lookups by a plain client, by ours at an exit for a client three hops away, and by ours in datagrams through
/// three relays.
fn compare(what: &str, dead: usize, hostile: usize) {
    let (start, targets) = (Instant::now(), targets(COMPARED, 11));
    let network = |hops: u64| {
        let round_trip = (2 * hops * HOP, 2 * hops * HOP);
        let mut network = Network::new(
            Mix {
                nodes: 10_000,
                dead,
                hostile,
                round_trip,
            },
            10,
        );
        targets
            .iter()
            .for_each(|target| network.announce(*target, 100));
        network
    };
    let (mut near, mut far) = (network(1), network(4));
    let (table, _) = warm_table(&mut near, start);
    let (mut plain, mut service, mut datagrams) =
        (Took::default(), Took::default(), Took::default());
    for (target, seed) in targets.iter().zip(0..) {
        // Its own table, as one that has run for long has it.
        let known = near.known_to(near.honest(seed as usize * 31), target, START);
        let mut asker = Plain::new(start, *target, known, seed);
        let noticed = run(&mut near, &mut asker, start, target);
        plain.add(&noticed, &asker.peers, start, Duration::ZERO);

        let settings = Settings::default();
        let begin = Start {
            contacts: table.closest(target, START),
            bootstraps: 0,
        };
        let lookup = Lookup::new(
            start,
            &settings,
            Family::V4,
            *target,
            Goal::Peers,
            begin,
            seed,
        );
        let mut asker = Ours::new(lookup);
        let noticed = run(&mut near, &mut asker, start, target);
        assert_bounded(&asker, &noticed);
        // There and back again over three hops.
        service.add(
            &noticed,
            &asker.peers,
            start,
            Duration::from_millis(2 * 3 * HOP),
        );

        // No table: it begins at bootstrap names, resolved at the exit.
        let begin = Start {
            contacts: Vec::new(),
            bootstraps: 3,
        };
        let settings = Settings::default();
        let lookup = Lookup::new(
            start,
            &settings,
            Family::V4,
            *target,
            Goal::Peers,
            begin,
            seed,
        );
        let mut asker = Ours::new(lookup);
        let noticed = run(&mut far, &mut asker, start, target);
        assert_bounded(&asker, &noticed);
        datagrams.add(&noticed, &asker.peers, start, Duration::ZERO);
    }
    println!("{what}, {HOP} ms a hop:");
    plain.print("plain client");
    service.print("ours, looked up by the exit");
    datagrams.print("ours, by datagrams");
    for (what, of) in [
        (
            "first",
            (|took: &Took| average(&took.first)) as fn(&Took) -> f64,
        ),
        ("fifty", |took| average(&took.fifty)),
    ] {
        println!(
            "{what}: by the exit {:.2} times plain, by datagrams {:.2} times",
            of(&service) / of(&plain),
            of(&datagrams) / of(&plain)
        );
        assert!(of(&service) <= 3.0 * of(&plain), "{what}");
    }
    assert!(service.told.iter().sum::<usize>() < plain.told.iter().sum());
}

#[test]
fn by_the_exit_peers_come_in_three_times_a_plain_clients_time_at_most() {
    compare("All nodes alive and honest", 0, 0);
    compare("30 % dead, 10 % hostile", 30, 10);
}

fn show(what: &str, values: &[usize]) {
    let mut values = values.to_vec();
    values.sort_unstable();
    let mean = values.iter().sum::<usize>() as f64 / values.len() as f64;
    let at = |percent: usize| values[(values.len() - 1) * percent / 100];
    println!(
        "{what}: mean {mean:.1}, median {}, 95 % {}, most {}",
        at(50),
        at(95),
        at(100)
    );
}
