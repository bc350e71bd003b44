//! Hidden seeds over circuits: what anybody sees on any cable while one is visited, and what its visitors notice when relays or
//! the seed itself go away. Everything is the real program, each on a host of its own.

use crate::support;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use hushswarm::torrent::magnet::Magnet;
use hushswarm_circuits::path::PathRules;
use support::capture::{Capture, Captured};
use support::guards::draw;
use support::network::Network;
use support::process::{Process, run};
use support::world::{Host, World};
use support::{PATIENCE, hash_file, write_noise};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_hushswarm");
const NAME: &str = "quiet-archive.bin";
const SIZE: u64 = 16 << 20;
const RELAY_PORT: u16 = 9001;
const RELAYS: usize = 9;
/// Each end has three that it prefers.
const GUARDS: usize = 6;

struct Scene {
    seeder: Host,
    client: Host,
    relay_hosts: Vec<Host>,
    network: Network,
    relays: Vec<Option<Process>>,
    dir: TempDir,
    /// Last, so that programs end before their hosts.
    _world: World,
}

impl Scene {
    fn new(size: u64) -> Option<Self> {
        let mut world = World::build()?;
        let (client, seeder) = (world.host("client", 250), world.host("seeder", 21));
        let relay_hosts: Vec<Host> = (101..)
            .take(RELAYS)
            .map(|number| world.host(&format!("relay{number}"), number))
            .collect();
        let addrs: Vec<SocketAddr> = relay_hosts
            .iter()
            .map(|host| host.addr(RELAY_PORT))
            .collect();
        let dir = TempDir::new().unwrap();
        // All hosts share a prefix here, which relays of one path otherwise never do.
        let rules = PathRules {
            ipv4_prefix: 0,
            ipv6_prefix: 0,
        };
        // Nobody lets anything out: a hidden swarm needs no exit.
        let network = Network::edited(dir.path(), &addrs, GUARDS, 0, rules, |config| {
            config.roles.introduce = true;
        });
        write_noise(&dir.path().join(NAME), size, 11);
        let mut scene = Self {
            seeder,
            client,
            relay_hosts,
            network,
            relays: (0..RELAYS).map(|_| None).collect(),
            dir,
            _world: world,
        };
        // Each has guards of its own, so that no relay sees both ends.
        draw(&scene.network, &scene.state("seed"), 0..GUARDS / 2);
        draw(&scene.network, &scene.state("get"), GUARDS / 2..GUARDS);
        for n in 0..RELAYS {
            scene.start_relay(n);
        }
        Some(scene)
    }

    fn state(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("state-{name}"))
    }

    fn start_relay(&mut self, n: usize) {
        let mut command = self.relay_hosts[n].command(PROGRAM);
        command.args(self.network.relays[n].args());
        let mut process = Process::spawn("relay", command);
        process.wait_for_line(PATIENCE, |line| line.contains("listens on"));
        self.relays[n] = Some(process);
    }

    /// Seeds; gives the link too.
    fn seed(&self) -> (Process, String) {
        let mut command = self.seeder.command(PROGRAM);
        command
            .args(["seed", "--json", "--log", "debug"])
            .args([Path::new("--network"), &self.network.file])
            .args([Path::new("--state"), &self.state("seed")])
            .arg(self.dir.path().join(NAME));
        let mut process = Process::spawn("seed", command);
        let made = process.wait_for_event(PATIENCE, "seeding");
        (process, made["magnet"].as_str().unwrap().to_owned())
    }

    fn get(&self, link: &str, out: &Path) -> Process {
        let mut command = self.client.command(PROGRAM);
        command
            .args(["get", link, "--json", "--log", "debug", "--output"])
            .arg(out)
            .args([Path::new("--network"), &self.network.file])
            .args([Path::new("--state"), &self.state("get")]);
        Process::spawn("get", command)
    }

    /// The seeder's cable takes 5 MB/s from now on.
    fn slow_down(&self) {
        let mut command = self.seeder.command("tc");
        command.args("qdisc add dev eth0 root tbf rate 40mbit burst 64kb latency 100ms".split(' '));
        run(command);
    }

    fn assert_arrived(&self, out: &Path) {
        assert_eq!(
            hash_file(&out.join(NAME)),
            hash_file(&self.dir.path().join(NAME))
        );
    }

    fn guards(&self) -> Vec<SocketAddr> {
        let guards = self.relay_hosts[..GUARDS].iter();
        guards.map(|host| host.addr(RELAY_PORT)).collect()
    }
}

/// Waits until so many bytes have come.
fn wait_for_bytes(get: &mut Process, bytes: u64) {
    get.wait_until(4 * PATIENCE, |get| {
        let events = get.events("progress");
        let done = events.last()?["done"].as_u64()?;
        let downloads = events.last()?["state"] != "checking";
        (downloads && done >= bytes).then_some(())
    });
}

fn touches(captured: &Captured, host: &Host) -> bool {
    let owns = |ip: &str| ip.parse().is_ok_and(|ip: IpAddr| host.owns(ip));
    let flows = captured.flows.iter();
    // Who is where is asked of every cable.
    let mut flows = flows.filter(|flow| !matches!(flow.class.as_str(), "arp" | "nd"));
    flows.any(|flow| owns(&flow.src) || owns(&flow.dst))
}

#[test]
fn a_hidden_download_shows_both_ends_to_nobody_and_names_nothing() {
    // Sixteen times as much comes in `ns_hidden_dht`.
    let Some(scene) = Scene::new(SIZE) else {
        return;
    };
    // The link is made before anything is captured, so that what to look for is known.
    let (mut first, link) = scene.seed();
    assert!(first.stop(PATIENCE).success(), "{}", first.tails());
    let magnet = Magnet::parse(&link).unwrap();
    assert_eq!(
        magnet.seeds[0].points().len(),
        3,
        "three introduction points"
    );
    assert!(magnet.peers.is_empty() && magnet.trackers.is_empty());
    let ips = [&scene.seeder, &scene.client].map(|host| host.ip4.to_string());
    let needles: Vec<&[u8]> = vec![
        &magnet.hash.0,
        NAME.as_bytes(),
        b"BitTorrent protocol",
        ips[0].as_bytes(),
        ips[1].as_bytes(),
        &magnet.seeds[0].key,
    ];
    let hosts = [&scene.seeder, &scene.client].into_iter();
    let captures: Vec<Capture> = hosts
        .chain(&scene.relay_hosts)
        .map(|host| Capture::start(host, &needles))
        .collect();

    // Restarted, it has the same link.
    let (mut seed, again) = scene.seed();
    let points = |link: &str| {
        let contact = Magnet::parse(link).unwrap().seeds.remove(0);
        let mut points = contact.points().to_vec();
        points.sort();
        (contact.key, points)
    };
    assert!(points(&again) == points(&link), "its place is another");
    let out = TempDir::new().unwrap();
    let mut get = scene.get(&link, out.path());
    let status = get.wait(8 * PATIENCE);
    assert!(status.success(), "{}\n{}", get.tails(), seed.tails());
    scene.assert_arrived(out.path());
    assert!(seed.stop(PATIENCE).success());

    let mut captured: Vec<Captured> = captures.into_iter().map(Capture::stop).collect();
    for (number, seen) in captured.iter().enumerate() {
        for needle in 0..needles.len() {
            let found = seen.found(needle);
            assert!(
                found.is_empty(),
                "capture {number}, needle {needle}: {found:?}"
            );
        }
    }
    let relays = captured.split_off(2);
    for ends in &captured {
        ends.assert_only_to(&scene.guards());
    }
    let bytes = |seen: &Captured| seen.flows.iter().map(|flow| flow.bytes).sum::<u64>();
    assert!(
        captured.iter().all(|ends| bytes(ends) > SIZE),
        "it came by these cables"
    );
    for relay in &relays {
        let both = touches(relay, &scene.seeder) && touches(relay, &scene.client);
        assert!(!both, "a relay sees both ends");
    }
    // Nor do the programs write down what was served or where.
    let hash = data_encoding::HEXLOWER.encode(&magnet.hash.0);
    let logs = scene.relays.iter().flatten().map(Process::stderr);
    for log in logs.chain([seed.stderr(), get.stderr()]) {
        for word in [&hash, NAME] {
            assert!(!log.to_lowercase().contains(word), "{word} in a log");
        }
    }
}

#[test]
fn a_hidden_download_goes_on_when_any_relay_or_the_seed_goes_and_comes_back() {
    let Some(mut scene) = Scene::new(96 << 20) else {
        return;
    };
    let (mut seed, link) = scene.seed();
    let out = TempDir::new().unwrap();
    // So slow that all this happens while it lasts.
    scene.slow_down();
    let mut get = scene.get(&link, out.path());
    wait_for_bytes(&mut get, 1);
    // The guards of both ends last, since everything waits for them.
    for n in (0..RELAYS).rev() {
        scene.relays[n] = None;
        sleep(Duration::from_millis(500));
        scene.start_relay(n);
    }
    seed.kill();
    assert!(get.exit_status().is_none(), "it was over before");
    let (_seed, again) = scene.seed();
    assert_eq!(
        Magnet::parse(&again).unwrap().seeds[0].key,
        Magnet::parse(&link).unwrap().seeds[0].key
    );
    let status = get.wait(8 * PATIENCE);
    assert!(status.success(), "{}", get.tails());
    scene.assert_arrived(out.path());
}
