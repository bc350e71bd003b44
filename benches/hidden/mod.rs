//! `cargo bench --bench transfer -- --hidden`: a hidden seed's stream, which two clients meet for at a relay, beside a stream through three
//! hops and an exit, over the same relays in the same run. The six hops of a meeting are five relays, since both
//! circuits end at one; and each byte is sealed once more, from end to end. Then how long a download stands still when the seeder or
//! a relay is gone: see [`outage`].

mod outage;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hushswarm::hidden::{Keys, Limits, Reception, Sealed, Seed, visit};
use hushswarm::route::At;
use hushswarm::route::circuits::CircuitRoute;
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::keys::{DhSecret, IdentityKey};
use hushswarm_circuits::path::PathRules;
use hushswarm_circuits::relay_list::Proto;
use hushswarm_circuits::rendezvous::SwarmKey;
use hushswarm_circuits::target::Target;

use crate::{
    Cpu, Process, client, give, heading, measure, median, network, row, source, spawn_relay,
};

/// Enough for two paths that share nobody but the relay where they meet, and for the seed's introduction point.
const RELAYS: usize = 8;

/// Streams at once; each visit has circuits of its own.
const STREAMS: [u64; 2] = [1, 4];

pub(crate) async fn bench(mib: u64, rounds: u64) {
    let total = mib * 1024 * 1024;
    let target = Target::ip(source().await);
    let dir = tempfile::tempdir().unwrap();
    let addrs: Vec<_> = (0..RELAYS)
        .map(|n| network::free_port(hushswarm::cli::demo::network::relay_ip(n)))
        .collect();
    let rules = PathRules::default();
    let net = network::Network::edited(dir.path(), &addrs, RELAYS, 2, rules, |config| {
        config.roles.introduce = true;
    });
    let mut relays: Vec<Process> = net.relays.iter().map(spawn_relay).collect();
    let pids: Vec<u32> = relays.iter().map(|relay| relay.0.id()).collect();
    let (seeder, visitor) = (client(&net, 3), client(&net, 3));
    let swarm = SwarmKey::new(b"an infohash of twent").unwrap();
    let (reception, mut visitors) = Reception::open(
        Arc::new(CircuitRoute::new(seeder.clone())),
        Limits::default(),
    );
    let secret = DhSecret::generate(&mut rand::rng());
    let keys = Keys {
        introduction: IdentityKey::generate(&mut rand::rng()),
        secret: secret.clone(),
        swarm: swarm.clone(),
    };
    let standing = reception
        .stand(At::Any { but: Vec::new() }, keys)
        .await
        .unwrap();
    let seed = Seed {
        key: secret.public(),
        introduction: standing.introduction(),
        at: standing.relay(),
    };
    let serving = tokio::spawn(async move {
        while let Some(stream) = visitors.recv().await {
            tokio::spawn(give(stream));
        }
    });
    let route = CircuitRoute::new(visitor.clone());
    heading(mib, rounds);
    for streams in STREAMS {
        let (mut exit, mut hidden, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let mut meetings = Vec::new();
        for round in 0..rounds {
            let key = Isolation::new("bench", &round.to_be_bytes(), streams as u16);
            let circuit = visitor
                .circuit(key, Proto::Tcp, Some(&target), &[])
                .await
                .unwrap();
            let by_exit = measure(total, streams, &pids, |_| {
                let (circuit, target) = (Arc::clone(&circuit), target.clone());
                async move {
                    circuit
                        .connect(&target, Duration::from_secs(10))
                        .await
                        .unwrap()
                }
            });
            exit.push(by_exit.await);
            circuit.close();
            let mut met = VecDeque::new();
            for _ in 0..streams {
                let begun = Instant::now();
                met.push_back(visit(&route, &seed, &swarm).await.unwrap());
                meetings.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            let met: Arc<Mutex<VecDeque<Sealed>>> = Arc::new(Mutex::new(met));
            let by_meeting = measure(total, streams, &pids, |_| {
                let met = Arc::clone(&met);
                async move { met.lock().unwrap().pop_front().unwrap() }
            });
            hidden.push(by_meeting.await);
            ratios.push(hidden.last().unwrap().mb_per_s / exit.last().unwrap().mb_per_s);
        }
        let base = row(&format!("exit, {streams} streams"), &exit);
        let cost = row(&format!("hidden, {streams} streams"), &hidden);
        println!(
            "hidden beside exit, pairs of one round: {:.2} of the pace, {:.2} x the processor time; a meeting takes {:.1} ms",
            median(ratios),
            cost / base,
            median(meetings)
        );
    }
    println!("processor time of all: {:.1} s", Cpu::of(&pids).all());
    serving.abort();
    seeder.close();
    visitor.close();
    outage::bench(&net, dir.path(), &mut relays, rounds);
}
