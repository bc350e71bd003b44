//! `hushswarm get` on a host that could reach the whole world directly: what a real BitTorrent client, a tracker and
//! the wire see of it. Relays are processes of their own, each on a host of its own.

use crate::support;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hushswarm_circuits::path::PathRules;
use support::capture::Capture;
use support::clients::{
    Aria2, Libtorrent, Torrent, Tracker, Transmission, installed, libtorrent_python,
};
use support::network::{Network, RelayDir};
use support::process::Process;
use support::world::{Host, World};
use support::{PATIENCE, hash_file, write_noise};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_hushswarm");
const NAME: &str = "archive.bin";
const RELAY_PORT: u16 = 9001;
/// Three guards, two middles, two exits.
const RELAYS: u8 = 7;
const GUARDS: usize = 3;
const EXITS: usize = 2;

struct Scene {
    client: Host,
    seeder: Host,
    relay_hosts: Vec<Host>,
    network: Network,
    relays: Vec<Option<Process>>,
    tracker: Tracker,
    torrent: Torrent,
    content: TempDir,
    out: TempDir,
    state: PathBuf,
    python: PathBuf,
    /// Last, so that programs end before their hosts.
    _world: World,
}

impl Scene {
    fn new(size: u64, transport: &str) -> Option<Self> {
        let python = libtorrent_python()?;
        let mut world = World::build()?;
        let (client, seeder) = (world.host("client", 250), world.host("seeder", 21));
        let tracker = Tracker::start(Some(&world.host("tracker", 20)), &[]);
        let relay_hosts: Vec<Host> = (0..RELAYS)
            .map(|n| world.host(&format!("relay{n}"), 101 + n))
            .collect();
        let addrs: Vec<SocketAddr> = relay_hosts
            .iter()
            .map(|host| host.addr(RELAY_PORT))
            .collect();
        let content = TempDir::new().unwrap();
        // All hosts share a prefix here, which relays of one path otherwise never do.
        let rules = PathRules {
            ipv4_prefix: 0,
            ipv6_prefix: 0,
        };
        let network = Network::at(content.path(), &addrs, GUARDS, EXITS, rules);
        let file = content.path().join(NAME);
        write_noise(&file, size, 7);
        let url = if transport == "udp" {
            &tracker.udp
        } else {
            &tracker.http
        };
        let torrent = Torrent::make(&file, &content.path().join("t.torrent"), &[url], 1 << 20);
        let out = TempDir::new().unwrap();
        let state = out.path().join("state");
        let mut scene = Self {
            client,
            seeder,
            relay_hosts,
            network,
            relays: (0..RELAYS).map(|_| None).collect(),
            tracker,
            torrent,
            content,
            out,
            state,
            python,
            _world: world,
        };
        (0..usize::from(RELAYS)).for_each(|n| scene.start_relay(n));
        Some(scene)
    }

    fn start_relay(&mut self, n: usize) {
        let relay: &RelayDir = &self.network.relays[n];
        let mut command = self.relay_hosts[n].command(PROGRAM);
        command.args(relay.args());
        let mut process = Process::spawn("relay", command);
        process.wait_for_line(PATIENCE, |line| line.contains("listens on"));
        self.relays[n] = Some(process);
    }

    fn kill_relay(&mut self, n: usize) {
        self.relays[n].take().unwrap().kill();
    }

    fn guards(&self) -> Vec<SocketAddr> {
        self.relay_hosts[..GUARDS]
            .iter()
            .map(|host| host.addr(RELAY_PORT))
            .collect()
    }

    fn is_exit(&self, ip: IpAddr) -> bool {
        let exits = &self.relay_hosts[usize::from(RELAYS) - EXITS..];
        exits.iter().any(|host| host.owns(ip))
    }

    fn seed(&self, upload_rate: Option<u64>) -> Libtorrent {
        let folder = self.content.path();
        Libtorrent::seed(
            &self.python,
            Some(&self.seeder),
            &self.torrent,
            folder,
            upload_rate,
        )
    }

    fn get(&self, source: &str) -> Process {
        let mut command = self.client.command(PROGRAM);
        command
            .args(["get", source, "--json", "--allow-private", "--log", "debug"])
            .args([Path::new("--network"), &self.network.file])
            .args([Path::new("--output"), self.out.path()])
            .args([Path::new("--state"), &self.state]);
        Process::spawn("get", command)
    }

    fn assert_arrived(&self) {
        let file = self.out.path().join(NAME);
        assert_eq!(hash_file(&file), hash_file(&self.content.path().join(NAME)));
    }

    /// The client's addresses, as they would stand in a message.
    fn needles(&self) -> Vec<Vec<u8>> {
        let ip4 = self.client.ip4;
        vec![
            self.torrent.infohash_bytes(),
            self.torrent.infohash.clone().into_bytes(),
            ip4.to_string().into_bytes(),
            NAME.as_bytes().to_vec(),
        ]
    }

    /// No tracker was told anything of the client.
    fn assert_tracker_knows_nothing(&self) {
        let announces = self.tracker.announces();
        let ours: Vec<_> = announces
            .iter()
            .filter(|said| said["ip"] != self.seeder.ip4.to_string())
            .collect();
        assert!(!ours.is_empty(), "the download never announced");
        for said in &ours {
            let from: IpAddr = said["ip"].as_str().unwrap().parse().unwrap();
            assert!(self.is_exit(from), "announced from elsewhere: {said}");
            let text = said.to_string();
            assert!(!text.contains(&self.client.ip4.to_string()), "{text}");
            assert!(!text.contains(&self.client.ip6.to_string()), "{text}");
        }
    }
}

fn captured(scene: &Scene) -> Capture {
    let needles = scene.needles();
    let needles: Vec<&[u8]> = needles.iter().map(Vec::as_slice).collect();
    Capture::start(&scene.client, &needles)
}

/// Downloads 512 MiB from libtorrent and checks what everybody saw.
fn download_shows_only_exits(source: impl Fn(&Scene) -> String, transport: &str) {
    let Some(scene) = Scene::new(512 << 20, transport) else {
        return;
    };
    let capture = captured(&scene);
    let seed = scene.seed(None);
    let mut get = scene.get(&source(&scene));
    let status = get.wait(Duration::from_secs(600));
    assert!(status.success(), "{}", get.tails());
    scene.assert_arrived();

    let seen = seed.peers();
    assert!(!seen.is_empty());
    for peer in &seen {
        assert!(scene.is_exit(peer.addr.ip()), "the seeder saw {peer:?}");
    }
    scene.assert_tracker_knows_nothing();

    let captured = capture.stop();
    captured.assert_only_to(&scene.guards());
    for (needle, what) in ["infohash", "infohash in text", "own address", "name"]
        .iter()
        .enumerate()
    {
        assert!(captured.found(needle).is_empty(), "{what} in the clear");
    }
}

#[test]
fn a_magnet_download_from_libtorrent_reaches_nothing_but_its_guard() {
    download_shows_only_exits(|scene| scene.torrent.magnet.clone(), "http");
}

#[test]
fn a_torrent_file_download_over_a_udp_tracker_reaches_nothing_but_its_guard() {
    download_shows_only_exits(
        |scene| {
            scene
                .content
                .path()
                .join("t.torrent")
                .to_str()
                .unwrap()
                .to_owned()
        },
        "udp",
    );
}

#[test]
fn killing_a_relay_every_ten_seconds_neither_stops_the_download_nor_lets_a_packet_out() {
    let Some(mut scene) = Scene::new(64 << 20, "http") else {
        return;
    };
    let capture = captured(&scene);
    let _seed = scene.seed(Some(2 << 20));
    let mut get = scene.get(&scene.torrent.magnet.clone());
    get.wait_until(PATIENCE, |get| {
        let progress = get.events("progress");
        progress
            .iter()
            .any(|view| view["done"].as_u64() > Some(0))
            .then_some(())
    });
    // A guard, a middle, an exit, and so on; each is back ten seconds later.
    let mut kills = 0;
    let mut down: Option<usize> = None;
    while get.exit_status().is_none() {
        let victim = [0, 5, 3, 1, 6, 4, 2][kills % 7];
        scene.kill_relay(victim);
        kills += 1;
        if let Some(back) = down.replace(victim) {
            scene.start_relay(back);
        }
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until && get.exit_status().is_none() {
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(kills < 40, "no end in sight: {}", get.tails());
    }
    assert!(get.wait(PATIENCE).success(), "{}", get.tails());
    assert!(
        kills >= 3,
        "only {kills} relays were killed during the download"
    );
    scene.assert_arrived();
    capture.stop().assert_only_to(&scene.guards());
}

#[test]
fn with_all_relays_dead_it_waits_and_says_so_and_nothing_leaves() {
    let Some(mut scene) = Scene::new(1 << 20, "http") else {
        return;
    };
    let capture = captured(&scene);
    let _seed = scene.seed(None);
    (0..usize::from(RELAYS)).for_each(|n| scene.kill_relay(n));
    let mut get = scene.get(&scene.torrent.magnet.clone());
    let waiting = get.wait_until(PATIENCE, |get| {
        get.events("progress")
            .into_iter()
            .find(|view| view["state"] == "waiting")
    });
    let reason = waiting["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("guard"), "{reason}");
    std::thread::sleep(Duration::from_secs(20));
    assert!(get.exit_status().is_none(), "it gave up: {}", get.tails());
    assert!(
        scene
            .tracker
            .announces()
            .iter()
            .all(|said| said["ip"] == scene.seeder.ip4.to_string())
    );
    // When they are back, it goes on by itself.
    (0..usize::from(RELAYS)).for_each(|n| scene.start_relay(n));
    assert!(
        get.wait(Duration::from_secs(300)).success(),
        "{}",
        get.tails()
    );
    scene.assert_arrived();
    capture.stop().assert_only_to(&scene.guards());
}

#[test]
fn aria2_and_transmission_serve_it_as_libtorrent_does() {
    if !installed("aria2c") || !installed("transmission-daemon") {
        return;
    }
    let Some(scene) = Scene::new(24 << 20, "http") else {
        return;
    };
    let capture = captured(&scene);
    let aria2 = Aria2::seed(Some(&scene.seeder), &scene.torrent, scene.content.path());
    let mut get = scene.get(&scene.torrent.magnet);
    assert!(
        get.wait(Duration::from_secs(300)).success(),
        "{}",
        get.tails()
    );
    scene.assert_arrived();
    drop(aria2);

    std::fs::remove_file(scene.out.path().join(NAME)).unwrap();
    std::fs::remove_dir_all(&scene.state).unwrap();
    let _transmission =
        Transmission::seed(Some(&scene.seeder), &scene.torrent, scene.content.path());
    let mut get = scene.get(&scene.torrent.magnet);
    assert!(
        get.wait(Duration::from_secs(300)).success(),
        "{}",
        get.tails()
    );
    scene.assert_arrived();
    capture.stop().assert_only_to(&scene.guards());
}
