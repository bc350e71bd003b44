//! Circuits over Tor (PROTOCOL.md §2.7): the first link runs through a private Tor network, to a relay's onion service or to
//! its address, and what the wire, the relay and its log see of the client.
#![allow(clippy::print_stderr)]

use crate::support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::capture::{Capture, Captured, Direction};
use support::clients::{Torrent, installed};
use support::loopback::{PROGRAM, RecordPeer, has_done, with_peers};
use support::process::{Process, run};
use support::tor::{Size, TorNetwork, away_from_home};
use support::world::{Host, World};
use support::{PATIENCE, hash_file, write_noise};
use tempfile::TempDir;

const NAME: &str = "archive.bin";
const SIZE: u64 = 16 << 20;
const RELAY_PORT: u16 = 9001;
const PEER_PORT: u16 = 6881;
/// Guard, middle, exit: each circuit has all of them, and begins at the first.
const RELAYS: [&str; 3] = ["guard", "middle", "exit"];
/// For what needs several circuits of Tor, on a busy machine.
const LONG: Duration = Duration::from_secs(300);
/// How long the downloader is watched while there is no Tor.
const OUTAGE: Duration = Duration::from_secs(15);

/// A Tor network, three relays and a peer, each on a host of its own, and the host of a client that could reach all of them.
struct Scene {
    client: Host,
    tor: TorNetwork,
    hosts: Vec<Host>,
    relays: Vec<Process>,
    torrent: Torrent,
    peer: RecordPeer,
    dir: TempDir,
    /// Last, so that programs end before their hosts.
    _world: World,
}

impl Scene {
    /// With an onion service at the guard, or without.
    fn new(onion: bool) -> Option<Self> {
        if !installed("tor") {
            return None;
        }
        let mut world = World::build()?;
        let (client, seeder) = (world.host("client", 250), world.host("seeder", 21));
        let hosts: Vec<Host> = (101..)
            .zip(RELAYS)
            .map(|(number, name)| world.host(name, number))
            .collect();
        let tor = TorNetwork::start_on(&world.host("tor", 30), &Size::default());
        let dir = TempDir::new().unwrap();
        let content = dir.path().join(NAME);
        write_noise(&content, SIZE, 5);
        let torrent = Torrent::make(&content, &dir.path().join("t.torrent"), &[], 256 << 10);
        let peer = RecordPeer::start(
            seeder.command("python3"),
            seeder.addr(PEER_PORT),
            &[(&torrent, &content)],
            "none",
        );
        let mut scene = Self {
            client,
            tor,
            hosts,
            relays: Vec::new(),
            torrent,
            peer,
            dir,
            _world: world,
        };
        scene.make_network(onion);
        scene.relays = (0..RELAYS.len()).map(|n| scene.start_relay(n)).collect();
        if onion {
            scene.wait_for_onion();
        }
        Some(scene)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// By the commands that operators type.
    fn make_network(&self, onion: bool) {
        let words = |words: &[&str]| {
            let mut command = away_from_home(None, self.dir.path());
            command.arg("network").args(words);
            run(command)
        };
        let text = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let mut descriptors = Vec::new();
        for (name, host) in RELAYS.iter().zip(&self.hosts) {
            let (state, listen) = (text(name), host.addr(RELAY_PORT).to_string());
            let mut made = vec!["relay-keys", "--state", &state, "--nickname", name];
            made.extend(["--listen", &listen]);
            match *name {
                "guard" if onion => made.extend(["--guard", "--onion"]),
                "guard" => made.push("--guard"),
                "exit" => made.extend(["--exit", "--policy", "accept tcp 10.0.0.0/8:*"]),
                _ => {}
            }
            words(&made);
            descriptors.push(text(&format!("{name}/descriptor")));
        }
        let authority = text("authority");
        let said = words(&["new-authority", "--state", &authority]);
        let is_key = |word: &&str| word.len() == 64;
        let key = said.split_whitespace().find(is_key).unwrap();
        let (list, file) = (text("relays.list"), text("network.toml"));
        let mut sign = vec!["sign", "--authority", &authority, "--network", "test"];
        sign.extend(["--out", &list]);
        sign.extend(descriptors.iter().map(String::as_str));
        words(&sign);
        let mut network = vec!["file", "--name", "test", "--authority", key];
        network.extend(["--threshold", "1", "--list", "relays.list", "--out", &file]);
        // All hosts share a prefix here, which relays of one path otherwise never do.
        network.extend(["--ipv4-prefix", "0", "--ipv6-prefix", "0"]);
        words(&network);
    }

    /// With everything in its log.
    fn start_relay(&self, n: usize) -> Process {
        let mut command = away_from_home(Some(&self.hosts[n]), self.dir.path());
        command.args(["relay", "--log", "trace", "--grace", "1"]);
        command.args([Path::new("--state"), &self.path(RELAYS[n])]);
        command.args([Path::new("--network"), &self.path("network.toml")]);
        command.args([Path::new("--tor"), &self.tor.tor_file()]);
        let mut relay = Process::spawn(RELAYS[n], command);
        relay.wait_for_line(PATIENCE, |line| line.contains("listens on"));
        relay
    }

    fn wait_for_onion(&mut self) {
        self.relays[0].wait_for_line(LONG, |line| line.contains("takes links at its onion"));
    }

    /// Downloads to the folder `name`, with a state folder for the first link of this kind.
    fn get(&self, first_link: &str, name: &str) -> Process {
        let mut command = away_from_home(Some(&self.client), self.dir.path());
        let magnet = with_peers(&self.torrent, &[self.peer.addr]);
        command.args(["get", &magnet, "--json", "--allow-private"]);
        command.args(["--first-link", first_link]);
        command.args([Path::new("--output"), &self.path(name)]);
        command.args([Path::new("--state"), &self.state(first_link)]);
        command.args([Path::new("--network"), &self.path("network.toml")]);
        command.args([Path::new("--tor"), &self.tor.tor_file()]);
        Process::spawn("get", command)
    }

    fn state(&self, first_link: &str) -> PathBuf {
        self.path(&format!("state-{first_link}"))
    }

    /// Downloads all of it; nobody is told how fast.
    fn fetch(&self, first_link: &str, name: &str) {
        let begun = Instant::now();
        let mut get = self.get(first_link, name);
        let status = get.wait(LONG);
        assert!(
            status.success(),
            "{status}{}{}",
            get.tails(),
            self.relays[0].tails()
        );
        let got = self.path(name).join(NAME);
        assert_eq!(hash_file(&got), hash_file(&self.path(NAME)));
        eprintln!("{first_link}: {SIZE} bytes in {:?}", begun.elapsed());
    }

    /// What must not stand on a cable in the clear.
    fn capture(&self, host: &Host) -> Capture {
        let infohash = self.torrent.infohash_bytes();
        Capture::start(host, &[&infohash, NAME.as_bytes()])
    }

    /// Tor's relays saw the client's host, nobody else did, and nothing on its cable names anything.
    fn assert_only_tor(&self, captured: &Captured) {
        let relays = self.tor.relays();
        captured.assert_only_to(&relays);
        for (number, what) in ["infohash", "file name"].iter().enumerate() {
            assert!(captured.found(number).is_empty(), "{what} in the clear");
        }
        let met = captured.flows.iter().any(|flow| {
            let relay = flow.remote().is_some_and(|to| relays.contains(&to));
            relay && flow.dir == Direction::Out
        });
        assert!(met, "it did not even talk to a relay of Tor");
    }

    /// Neither on the guard's cable nor in any relay's log is the client's address.
    fn assert_client_unknown(&self, at_guard: &Captured) {
        let client = [self.client.ip4.to_string(), self.client.ip6.to_string()];
        let guard = &self.hosts[0];
        let own = [guard.ip4.to_string(), guard.ip6.to_string()];
        let between = at_guard.flows.iter().filter(|flow| {
            let ends = [&flow.src, &flow.dst];
            ends.iter().any(|end| client.contains(end)) && ends.iter().any(|end| own.contains(end))
        });
        let between: Vec<_> = between.collect();
        assert!(between.is_empty(), "the guard met {between:#?}");
        for relay in &self.relays {
            let log = relay.stderr() + &relay.stdout();
            for address in &client {
                assert!(!log.contains(address), "{log}");
            }
        }
    }

    /// How often the guards of this state folder have failed.
    fn guard_failures(&self, first_link: &str) -> u64 {
        let file = self.state(first_link).join("guards-test.toml");
        let text = fs::read_to_string(file).unwrap();
        let table: toml::Table = toml::from_str(&text).unwrap();
        let guards = table["guard"].as_array().unwrap().iter();
        let failures = guards.map(|guard| guard["failures"].as_integer().unwrap());
        failures.sum::<i64>().try_into().unwrap()
    }
}

/// Also: what a client does while Tor is gone, and that the relay keeps its name.
#[test]
fn a_circuit_through_the_guards_onion_service_carries_a_download_and_no_relay_meets_the_client() {
    let Some(mut scene) = Scene::new(true) else {
        return;
    };
    let (client, guard) = (scene.client.clone(), scene.hosts[0].clone());

    let (at_client, at_guard) = (scene.capture(&client), scene.capture(&guard));
    scene.fetch("tor", "one");
    scene.assert_only_tor(&at_client.stop());
    scene.assert_client_unknown(&at_guard.stop());

    // The relay comes back under the same name, without a new list.
    assert!(scene.relays[0].stop(PATIENCE).success());
    scene.relays[0] = scene.start_relay(0);
    scene.wait_for_onion();
    let at_client = scene.capture(&client);
    scene.fetch("tor", "two");
    scene.assert_only_tor(&at_client.stop());

    // Tor goes away in the middle, for good.
    let at_client = scene.capture(&client);
    let failures = scene.guard_failures("tor");
    let mut get = scene.get("tor", "three");
    get.wait_until(LONG, |get| has_done(get, SIZE / 8));
    scene.tor.stop();
    std::thread::sleep(OUTAGE);
    assert!(get.events("done").is_empty(), "it was over before that");
    get.signal(Signal::INT);
    assert_eq!(get.wait(PATIENCE).code(), Some(130), "{}", get.tails());
    scene.assert_only_tor(&at_client.stop());
    assert_eq!(scene.guard_failures("tor"), failures);

    // What the captures would show of a client that is not hidden from its guard. Last, since the two hosts ask for each
    // other's hardware address for some time after it.
    let (at_client, at_guard) = (scene.capture(&client), scene.capture(&guard));
    scene.fetch("tcp", "control");
    let (at_client, at_guard) = (at_client.stop(), at_guard.stop());
    let met = |captured: &Captured, other: &Host| {
        let mut remotes = captured.flows.iter().filter_map(|flow| flow.remote());
        remotes.any(|remote| other.owns(remote.ip()))
    };
    assert!(met(&at_client, &guard) && met(&at_guard, &client));
}

#[test]
fn a_guard_without_an_onion_service_is_reached_through_an_exit_of_tor_and_without_tor_by_nothing() {
    let Some(mut scene) = Scene::new(false) else {
        return;
    };
    let (client, guard) = (scene.client.clone(), scene.hosts[0].clone());
    let (at_client, at_guard) = (scene.capture(&client), scene.capture(&guard));
    scene.fetch("tor", "one");
    scene.assert_only_tor(&at_client.stop());
    scene.assert_client_unknown(&at_guard.stop());

    // Another client, when there is no Tor: it says what it waits for, and blames no guard.
    scene.tor.stop();
    fs::rename(scene.state("tor"), scene.path("state-before")).unwrap();
    let at_client = scene.capture(&client);
    let mut get = scene.get("tor", "two");
    get.wait_until(LONG, |get| {
        let progress = get.events("progress");
        let reason = progress.last()?["reason"].as_str()?;
        (reason.contains("Tor") && reason.contains("nothing leaves")).then_some(())
    });
    std::thread::sleep(OUTAGE);
    get.signal(Signal::INT);
    assert_eq!(get.wait(PATIENCE).code(), Some(130), "{}", get.tails());
    let captured = at_client.stop();
    captured.assert_only_to(&scene.tor.relays());
    assert_eq!(scene.guard_failures("tor"), 0);
}

#[test]
fn relay_keys_keep_the_name_of_the_onion_service() {
    let dir = TempDir::new().unwrap();
    let state = dir.path().join("relay");
    let onion = |words: &[&str]| {
        let mut command = away_from_home(None, dir.path());
        command.args(["network", "relay-keys"]).args(words);
        command.args([Path::new("--state"), &state]);
        run(command);
        let text = fs::read_to_string(state.join("relay.toml")).unwrap();
        let table: toml::Table = toml::from_str(&text).unwrap();
        let name = table
            .get("onion")
            .map(|name| name.as_str().unwrap().to_owned());
        let descriptor = fs::read(state.join("descriptor")).unwrap();
        let descriptor = hushswarm_circuits::relay_list::Descriptor::decode(&descriptor).unwrap();
        let told = descriptor.link_service;
        let told = told.map(|service| hushswarm::onion::OnionKey(service.key).address());
        assert_eq!(name, told);
        name
    };
    let first = onion(&["--nickname", "a", "--listen", "127.0.0.1:9001"]);
    assert_eq!(first, None);
    let made = onion(&["--onion"]).unwrap();
    assert_eq!(support::tor::onion_of(&key_of(&made)), made);
    // Asked for again, and not mentioned.
    assert_eq!(onion(&["--onion"]).as_ref(), Some(&made));
    assert_eq!(onion(&["--days", "10"]).as_ref(), Some(&made));
    let other = dir.path().join("other");
    let mut command = away_from_home(None, dir.path());
    command.args(["network", "relay-keys", "--nickname", "b", "--onion"]);
    command.args(["--listen", "127.0.0.1:9001"]);
    command.args([Path::new("--state"), &other]);
    run(command);
    let text = fs::read_to_string(other.join("relay.toml")).unwrap();
    assert!(text.contains(".onion") && !text.contains(&made), "{text}");
    // No key is open to others.
    let mut found = std::process::Command::new("find");
    found
        .arg(&state)
        .args(["-perm", "/077", "-not", "-type", "l"]);
    let open = run(found);
    let public = ["relay.toml", "descriptor"].map(|name| state.join(name));
    let open: Vec<&str> = open
        .lines()
        .filter(|path| !public.iter().any(|public| public == Path::new(path)))
        .collect();
    assert!(open.is_empty(), "{open:?}");
}

fn key_of(address: &str) -> [u8; 32] {
    hushswarm::onion::OnionKey::parse(address).unwrap().0
}

/// The program is the one that was built with this test.
#[test]
fn the_first_link_is_one_of_two_ways() {
    let mut command = std::process::Command::new(PROGRAM);
    command.args(["get", "x", "--first-link", "direct"]);
    let (code, _, errors) = support::loopback::outcome(command);
    assert_eq!(code, 2, "{errors}");
}
