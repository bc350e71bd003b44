//! How much memory a thousand hidden seeds take that wait for visitors. Alone in its file, so that nothing else is in the process.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_types)]

#[path = "support/network.rs"]
mod network;

use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use hushswarm::cli::demo::network::relay_ip;
use hushswarm::hidden::{Host, HostOptions, Identity, Sealed, Seed, visit};
use hushswarm::net::os::OsDialer;
use hushswarm::overlay::client::{Client, ClientConfig};
use hushswarm::route::Outside;
use hushswarm::route::circuits::CircuitRoute;
use hushswarm_circuits::path::{GuardSample, PathRules};
use hushswarm_circuits::rendezvous::{Contact, SwarmKey};
use network::{Network, free_port, spawn_relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

/// What the program has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SEEDS: usize = 1000;
/// A guard grants a client 1,024 circuits, and a seed has three.
const SEEDS_PER_CLIENT: usize = 250;
/// So many are on their way to their points at one time.
const AT_ONCE: usize = 100;
const RELAYS: usize = 8;
/// All of the process, KiB: with its code, its runtime and its links.
const LIMIT: u64 = 256 * 1024;
/// Three thousand circuits, on a busy machine.
const LONG: Duration = Duration::from_secs(480);
/// All that was held to come here has been given back.
const SETTLE: Duration = Duration::from_secs(5);

struct Waiting {
    host: Host,
    contact: watch::Receiver<Option<Contact>>,
    visitors: mpsc::Receiver<Sealed>,
    swarm: SwarmKey,
}

impl Waiting {
    fn start(number: usize, outside: Arc<dyn Outside>) -> Self {
        let mut infohash = [7; 20];
        infohash[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let swarm = SwarmKey::new(&infohash).unwrap();
        let identity = Identity::ephemeral(&mut rand::rng());
        let (host, visitors) =
            Host::start(outside, identity, swarm.clone(), HostOptions::default());
        Self {
            contact: host.contact(),
            host,
            visitors,
            swarm,
        }
    }

    /// Somebody comes, and both hear each other.
    async fn is_visited(&mut self, visitor: &CircuitRoute) {
        let contact = self.contact.borrow().clone().unwrap();
        let point = contact.points()[0];
        let seed = Seed {
            key: contact.key,
            introduction: point.introduction,
            at: point.relay,
        };
        let visiting = visit(visitor, &seed, &self.swarm);
        let (came, visited) = tokio::join!(self.visitors.recv(), visiting);
        let (mut came, mut visited) = (came.unwrap(), visited.unwrap());
        came.write_all(b"here").await.unwrap();
        came.flush().await.unwrap();
        let mut said = [0; 4];
        visited.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"here");
    }
}

/// What this process holds now, KiB.
fn rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_whitespace().nth(1);
    number.unwrap().parse().unwrap()
}

/// A relay, ended with the test. It logs nothing, which this process would have to keep.
struct Relay(Child);

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn client(net: &Network) -> Client {
    let config = ClientConfig {
        prebuilt: 0,
        ..ClientConfig::default()
    };
    let (list, dialer) = (Arc::clone(&net.list), Arc::new(OsDialer::new(None)));
    Client::new(list, GuardSample::default(), None, dialer, config)
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_hidden_seeds_wait_in_one_process_within_256_mib() {
    let dir = tempfile::tempdir().unwrap();
    let addrs: Vec<_> = (0..RELAYS).map(|n| free_port(relay_ip(n))).collect();
    let rules = PathRules::default();
    let net = Network::edited(dir.path(), &addrs, RELAYS, 0, rules, |config| {
        config.roles.introduce = true;
    });
    let program = Path::new(env!("CARGO_BIN_EXE_hushswarm"));
    let relays = net
        .relays
        .iter()
        .map(|relay| spawn_relay(program, relay, Relay));
    let _relays: Vec<Relay> = relays.collect();
    let before = rss();
    let count = SEEDS.div_ceil(SEEDS_PER_CLIENT);
    let clients: Vec<Client> = (0..count).map(|_| client(&net)).collect();
    let routes = clients
        .iter()
        .map(|client| CircuitRoute::new(client.clone()));
    let routes: Vec<Arc<dyn Outside>> = routes.map(|route| Arc::new(route) as _).collect();
    let points = HostOptions::default().points;
    let all = |contact: &Option<Contact>| {
        let contact = contact.as_ref();
        contact.is_some_and(|contact| contact.points().len() >= points)
    };
    let mut seeds: Vec<Waiting> = Vec::new();
    let stand = async {
        for n in 0..SEEDS {
            seeds.push(Waiting::start(n, Arc::clone(&routes[n % count])));
            // Guards let a client build so many circuits a second and no more.
            if let Some(before) = n.checked_sub(AT_ONCE) {
                seeds[before].contact.wait_for(all).await.unwrap();
            }
        }
        for seed in &mut seeds {
            seed.contact.wait_for(all).await.unwrap();
        }
    };
    timeout(LONG, stand).await.expect("all stand");
    sleep(SETTLE).await;
    let after = rss();
    let circuits: usize = clients.iter().map(Client::circuits).sum();
    println!(
        "{SEEDS} seeds wait at {points} points each, in {circuits} circuits: {} MiB, {} KiB a seed",
        after / 1024,
        (after - before) / SEEDS as u64
    );
    assert!(after < LIMIT, "{after} KiB");
    // They all stand still, and are not only remembered.
    let standing = |seed: &Waiting| seed.host.status().standing;
    let standing: usize = seeds.iter().map(standing).sum();
    assert!(
        standing >= SEEDS * points * 99 / 100,
        "{standing} points stand"
    );
    let visitor = CircuitRoute::new(client(&net));
    for number in [0, SEEDS / 2, SEEDS - 1] {
        timeout(LONG, seeds[number].is_visited(&visitor))
            .await
            .unwrap();
    }
    println!("{} MiB after three visits", rss() / 1024);
}
