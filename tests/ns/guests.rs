//! BitTorrent clients that nobody here wrote, as hidden peers: inside `hushswarm run --tracker` they serve and get what hidden seeds
//! have, no relay lets anything out, and their hosts speak to guards alone. Where one relay does, nobody out there hears of it either.

use crate::support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hushswarm_circuits::path::PathRules;
use support::capture::Capture;
use support::clients::{Place, QBittorrent, Torrent, Transmission, aria2_get, installed};
use support::guards::draw;
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
const CANARY_PORT: u16 = 6881;
const RELAYS: usize = 9;
/// Each end has three that it prefers.
const GUARDS: usize = 6;
/// What `run` says of a guest before its link.
const REACHED: &str = "whom others reach by ";

/// Two hosts and relays of which none is an exit, unless the last is. A third host that nobody has a reason to call.
struct Scene {
    seeder: Host,
    client: Host,
    public: Host,
    relay_hosts: Vec<Host>,
    network: Network,
    _relays: Vec<Process>,
    dir: TempDir,
    /// Last, so that programs end before their hosts.
    _world: World,
}

impl Scene {
    fn new() -> Option<Self> {
        Self::with_exits(0)
    }

    fn with_exits(exits: usize) -> Option<Self> {
        let mut world = World::build()?;
        let (client, seeder) = (world.host("client", 250), world.host("seeder", 21));
        let public = world.host("public", 31);
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
        let network = Network::edited(dir.path(), &addrs, GUARDS, exits, rules, |config| {
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
            public,
            relay_hosts,
            network,
            dir,
            _world: world,
        };
        // Each has guards of its own, so that no relay sees both ends.
        draw(&scene.network, &scene.state("seed"), 0..GUARDS / 2);
        draw(&scene.network, &scene.state("get"), GUARDS / 2..GUARDS);
        Some(scene)
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

    /// A public peer and tracker, whom the client's host could reach through the exit.
    fn canary(&self) -> (Process, SocketAddr) {
        let addr = self.public.addr(CANARY_PORT);
        let mut command = self.public.command("python3");
        command.args(["-um", "http.server", "--bind", &addr.ip().to_string()]);
        command.arg(CANARY_PORT.to_string());
        let mut process = Process::spawn("canary", command);
        process.wait_for_line(PATIENCE, |line| line.contains("Serving HTTP"));
        let options = ["--tracker", "--public-too", "--allow-private"];
        let place = self.jail(&self.client, "control", &options);
        let url = format!("http://{addr}/control");
        let answer = place.output("curl", &["--silent", "--max-time", "60", &url]);
        assert!(answer.status.success(), "{answer:?}\n{}", process.tails());
        process.wait_for_line(PATIENCE, |line| line.contains("GET /control"));
        (process, addr)
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

    /// Downloads with hushswarm itself, from this seed.
    fn get(&self, link: &str, seed: &Process) {
        let out = TempDir::new().unwrap();
        let mut command = self.client.command(PROGRAM);
        command
            .args(["get", link, "--json", "--output"])
            .arg(out.path())
            .args(self.overlay("get"));
        let mut get = Process::spawn("get", command);
        let status = get.wait(4 * PATIENCE);
        assert!(status.success(), "{}\n{}", get.tails(), seed.tails());
        self.assert_arrived(out.path());
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
    let (true, Some(scene)) = (installed("aria2c"), Scene::with_exits(1)) else {
        return;
    };
    let (_canary, public) = scene.canary();
    let calls = Capture::start(&scene.public, &[]);
    let captures = scene.captures();
    let (seed, link) = scene.seed();
    let out = TempDir::new().unwrap();
    // The link stands among its arguments as anybody would give it, and names others too.
    let link = format!("{link}&x.pe={public}&tr=http://{public}/announce&tr=udp://{public}");
    let place = scene.jail(&scene.client, "get", &["--tracker", "--allow-private"]);
    let mut client = aria2_get(&place, "", &link, out.path());
    let status = client.wait(4 * PATIENCE);
    assert!(status.success(), "{}\n{}", client.tails(), seed.tails());
    scene.assert_arrived(out.path());
    scene.assert_silent(captures);
    let calls = calls.stop().flows.into_iter();
    let calls: Vec<_> = calls
        .filter(|flow| flow.proto == "tcp" || flow.proto == "udp")
        .collect();
    assert!(calls.is_empty(), "somebody called in public: {calls:?}");
}

#[test]
fn transmission_is_a_hidden_seed_to_get() {
    let (true, Some(scene)) = (installed("transmission-daemon"), Scene::new()) else {
        return;
    };
    let captures = scene.captures();
    let options = ["--tracker=7000", "--publish", "9091"];
    let place = scene.jail(&scene.seeder, "seed", &options);
    // The tracker is the same each time, so that the torrent can name it before the client starts.
    let told = String::from_utf8(place.output("true", &[]).stderr).unwrap();
    let words = "the program's tracker: ";
    let (_, tracker) = told.split_once(words).unwrap_or_else(|| panic!("{told}"));
    let file = scene.torrent(tracker.lines().next().unwrap().trim());
    let settings = documented("transmission", "run");
    let folder = scene.content();
    let mut seed = Transmission::download(&place, &settings, file.to_str().unwrap(), &folder);
    seed.wait_done();
    let link = said(&mut seed.process, REACHED);
    scene.get(&link, &seed.process);
    scene.assert_silent(captures);
}

#[test]
fn qbittorrent_is_a_hidden_seed_to_get() {
    let (true, Some(scene)) = (installed("qbittorrent-nox"), Scene::new()) else {
        return;
    };
    let captures = scene.captures();
    let (seed, link) = scene.qbittorrent_seeds();
    scene.get(&link, &seed.process);
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
