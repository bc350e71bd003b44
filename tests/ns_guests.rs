//! BitTorrent clients that nobody here wrote, as hidden peers: inside `hushswarm run --tracker` they serve and get what hidden seeds
//! have, no relay lets anything out, and their hosts speak to guards alone.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hushswarm::config::unix_now;
use hushswarm::overlay::guards;
use hushswarm::state::StateDir;
use hushswarm_circuits::path::{Guard, GuardSample, PathRules};
use support::capture::Capture;
use support::clients::{Place, QBittorrent, Torrent, aria2_get, installed};
use support::network::Network;
use support::process::Process;
use support::settings::documented;
use support::world::{Host, World};
use support::{PATIENCE, hash_file, write_noise};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_hushswarm");
const NAME: &str = "quiet-archive.bin";
const SIZE: u64 = 8 << 20;
const RELAY_PORT: u16 = 9001;
const RELAYS: usize = 9;
/// Each end has three that it prefers.
const GUARDS: usize = 6;
/// What `run` says of a guest before its link.
const REACHED: &str = "whom others reach by ";

/// Two hosts and relays of which none is an exit.
struct Scene {
    seeder: Host,
    client: Host,
    relay_hosts: Vec<Host>,
    network: Network,
    _relays: Vec<Process>,
    dir: TempDir,
    /// Last, so that programs end before their hosts.
    _world: World,
}

impl Scene {
    fn new() -> Option<Self> {
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
        let network = Network::edited(dir.path(), &addrs, GUARDS, 0, rules, |config| {
            config.roles.introduce = true;
        });
        std::fs::create_dir(dir.path().join("content")).unwrap();
        write_noise(&dir.path().join("content").join(NAME), SIZE, 11);
        let relays = relay_hosts
            .iter()
            .zip(&network.relays)
            .map(|(host, relay)| {
                let mut command = host.command(PROGRAM);
                command.args(relay.args());
                let mut process = Process::spawn("relay", command);
                process.wait_for_line(PATIENCE, |line| line.contains("listens on"));
                process
            });
        let scene = Self {
            _relays: relays.collect(),
            seeder,
            client,
            relay_hosts,
            network,
            dir,
            _world: world,
        };
        // Each has guards of its own, so that no relay sees both ends.
        scene.draw("seed", 0..GUARDS / 2);
        scene.draw("get", GUARDS / 2..GUARDS);
        Some(scene)
    }

    /// Sets the first guards of whoever has this state folder.
    fn draw(&self, state: &str, relays: std::ops::Range<usize>) {
        let guards = relays.map(|n| {
            let addr = self.network.relays[n].addr;
            let mut listed = self.network.list.relays().iter();
            let relay = listed.find(|relay| relay.addresses.contains(&addr));
            Guard {
                id: relay.unwrap().identity,
                added_at: unix_now(),
                last_ok: Some(unix_now()),
                failures: 0,
                retry_at: 0,
                unlisted_since: None,
            }
        });
        let dir = StateDir::open(self.state(state)).unwrap();
        let sample = GuardSample::from_guards(guards);
        guards::store(&dir, self.network.list.network(), &sample).unwrap();
    }

    fn state(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("state-{name}"))
    }

    fn content(&self) -> PathBuf {
        self.dir.path().join("content")
    }

    fn overlay(&self, state: &str) -> Vec<String> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        vec![
            "--network".to_owned(),
            text(&self.network.file),
            "--state".to_owned(),
            text(&self.state(state)),
            "--log".to_owned(),
            "debug".to_owned(),
        ]
    }

    /// Seeds with hushswarm itself; gives the link too.
    fn seed(&self) -> (Process, String) {
        let mut command = self.seeder.command(PROGRAM);
        command
            .args(["seed", "--json"])
            .args(self.overlay("seed"))
            .arg(self.content().join(NAME));
        let mut process = Process::spawn("seed", command);
        let made = process.wait_for_event(PATIENCE, "seeding");
        (process, made["magnet"].as_str().unwrap().to_owned())
    }

    /// The inside of `hushswarm run` on a host.
    fn jail(&self, host: &Host, state: &str, options: &[&str]) -> Place {
        let mut words = vec![PROGRAM.to_owned(), "run".to_owned()];
        words.extend(self.overlay(state));
        words.extend(options.iter().map(|&word| word.to_owned()));
        words.push("--".to_owned());
        Place::inside(host, words)
    }

    /// A qBittorrent that seeds inside, and is reached by this link.
    fn qbittorrent_seeds(&self) -> (QBittorrent, String) {
        let options = ["--tracker", "--publish", "8080"];
        let place = self.jail(&self.seeder, "seed", &options);
        let folder = self.content();
        let mut client = QBittorrent::start(&place, "", &folder, 8080);
        let tracker = said(&mut client.process, "the program's tracker: ");
        let file = self.torrent(&tracker);
        client.add(file.to_str().unwrap());
        client.wait_done();
        let link = said(&mut client.process, REACHED);
        (client, link)
    }

    /// The torrent of what is there, with this tracker.
    fn torrent(&self, tracker: &str) -> PathBuf {
        let file = self.dir.path().join("t.torrent");
        Torrent::make(&self.content().join(NAME), &file, &[tracker], 256 << 10);
        file
    }

    fn assert_arrived(&self, out: &Path) {
        assert_eq!(
            hash_file(&out.join(NAME)),
            hash_file(&self.content().join(NAME))
        );
    }

    fn captures(&self) -> [Capture; 2] {
        [&self.seeder, &self.client].map(|host| Capture::start(host, &[NAME.as_bytes()]))
    }

    /// Both hosts spoke to guards alone, and not of what they had.
    fn assert_silent(&self, captures: [Capture; 2]) {
        let guards = self.relay_hosts[..GUARDS].iter();
        let guards: Vec<SocketAddr> = guards.map(|host| host.addr(RELAY_PORT)).collect();
        for captured in captures.map(Capture::stop) {
            captured.assert_only_to(&guards);
            assert!(captured.found(0).is_empty(), "a name in the clear");
            let bytes: u64 = captured.flows.iter().map(|flow| flow.bytes).sum();
            assert!(bytes > SIZE, "it came by these cables");
        }
    }
}

/// What a program said after these words.
fn said(process: &mut Process, words: &str) -> String {
    let line = process.wait_for_line(2 * PATIENCE, |line| line.contains(words));
    line.split_once(words).unwrap().1.trim().to_owned()
}

#[test]
fn aria2_gets_what_a_hidden_seed_has() {
    let (true, Some(scene)) = (installed("aria2c"), Scene::new()) else {
        return;
    };
    let captures = scene.captures();
    let (seed, link) = scene.seed();
    let out = TempDir::new().unwrap();
    // The link stands among its arguments as anybody would give it.
    let place = scene.jail(&scene.client, "get", &["--tracker"]);
    let mut client = aria2_get(&place, "", &link, out.path());
    let status = client.wait(4 * PATIENCE);
    assert!(status.success(), "{}\n{}", client.tails(), seed.tails());
    scene.assert_arrived(out.path());
    scene.assert_silent(captures);
}

#[test]
fn qbittorrent_is_a_hidden_seed_to_get() {
    let (true, Some(scene)) = (installed("qbittorrent-nox"), Scene::new()) else {
        return;
    };
    let captures = scene.captures();
    let (seed, link) = scene.qbittorrent_seeds();
    let out = TempDir::new().unwrap();
    let mut command = scene.client.command(PROGRAM);
    command
        .args(["get", &link, "--json", "--output"])
        .arg(out.path())
        .args(scene.overlay("get"));
    let mut get = Process::spawn("get", command);
    let status = get.wait(4 * PATIENCE);
    let logs = format!("{}\n{}", get.tails(), seed.process.tails());
    assert!(status.success(), "{logs}");
    scene.assert_arrived(out.path());
    scene.assert_silent(captures);
}

#[test]
fn qbittorrent_gets_what_another_has_and_both_are_hidden() {
    let (true, Some(scene)) = (installed("qbittorrent-nox"), Scene::new()) else {
        return;
    };
    let captures = scene.captures();
    let (_seed, link) = scene.qbittorrent_seeds();
    let out = TempDir::new().unwrap();
    let options = ["--tracker=7000", "--publish", "8080", "--magnet", &link];
    let place = scene.jail(&scene.client, "get", &options);
    let mut client = QBittorrent::start(&place, "", out.path(), 8080);
    let link = said(&mut client.process, "for the program: ");
    assert!(link.contains("127.0.0.1%3A7000") && !link.contains("x.hush"));
    client.add(&link);
    client.wait_done();
    scene.assert_arrived(out.path());
    scene.assert_silent(captures);
}

#[test]
fn qbittorrent_that_uses_the_proxy_gets_what_a_hidden_seed_has() {
    let (true, Some(scene)) = (installed("qbittorrent-nox"), Scene::new()) else {
        return;
    };
    let captures = scene.captures();
    let (_seed, link) = scene.seed();
    let mut command = scene.client.command(PROGRAM);
    command
        .args(["proxy", "--json", "--tracker", "127.0.0.1:6969"])
        .args(["--magnet", &link])
        .args(scene.overlay("get"));
    let mut proxy = Process::spawn("proxy", command);
    let tracker = proxy.wait_for_event(PATIENCE, "tracker");
    let out = TempDir::new().unwrap();
    let place = Place::on(&scene.client);
    let settings = documented("qbittorrent", "proxy");
    let mut client = QBittorrent::start(&place, &settings, out.path(), 8080);
    client.add(tracker["magnets"][0].as_str().unwrap());
    client.wait_done();
    scene.assert_arrived(out.path());
    let warnings = proxy.events("warning");
    let said = |event: &serde_json::Value| {
        let text = event["text"].as_str().unwrap_or_default();
        text.contains("DHT, PEX, local discovery and all other trackers")
    };
    assert!(
        warnings.iter().any(said),
        "the client's own DHT is no business of the proxy"
    );
    scene.assert_silent(captures);
}
