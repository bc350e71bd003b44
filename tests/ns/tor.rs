//! `hushswarm get` of an onion seed, and the seed itself, on hosts that could reach the whole world directly: what the wire sees of
//! them, also when Tor goes away in the middle.
#![cfg(feature = "tor")]

use crate::support;

use std::time::Duration;

use rustix::process::Signal;
use support::capture::{Capture, Captured, Direction};
use support::clients::installed;
use support::loopback::has_done;
use support::process::Process;
use support::tor::{Size, TorNetwork, away_from_home};
use support::world::{Host, World};
use support::{PATIENCE, hash_file, write_noise};
use tempfile::TempDir;

const NAME: &str = "archive.bin";
const SIZE: u64 = 32 << 20;
/// A tracker whose name would have to be looked up.
const TRACKER: &str = "http%3A%2F%2Ftracker.example.org%2Fannounce";
/// For what needs several circuits, on a busy machine.
const LONG: Duration = Duration::from_secs(300);
/// How long the downloader is watched while there is no Tor.
const OUTAGE: Duration = Duration::from_secs(10);

struct Scene {
    client: Host,
    seeder: Host,
    tor: Host,
    network: TorNetwork,
    dir: TempDir,
    /// Last, so that programs end before their hosts.
    _world: World,
}

impl Scene {
    fn new() -> Option<Self> {
        if !installed("tor") {
            return None;
        }
        let mut world = World::build()?;
        let (client, seeder) = (world.host("client", 250), world.host("seeder", 21));
        let tor = world.host("tor", 30);
        let network = TorNetwork::start_on(&tor, &Size::default());
        let dir = TempDir::new().unwrap();
        write_noise(&dir.path().join(NAME), SIZE, 5);
        Some(Self {
            client,
            seeder,
            tor,
            network,
            dir,
            _world: world,
        })
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn spawn(&self, host: &Host, words: &[&str]) -> Process {
        let mut command = away_from_home(Some(host), self.dir.path());
        command.args(words).args(["--json", "--tor"]);
        command.arg(self.network.tor_file());
        Process::spawn(words[0], command)
    }

    /// Downloads to the folder `name`. The link also names a peer and trackers that could be reached, or asked for, without
    /// Tor.
    fn get(&self, magnet: &str, name: &str) -> Process {
        let (peer, tracker) = (self.seeder.addr(6881), self.seeder.addr(6969));
        let bait = format!(
            "{magnet}&x.pe={peer}&tr=http%3A%2F%2F{tracker}%2Fannounce&tr=udp%3A%2F%2F{tracker}&tr={TRACKER}"
        );
        let (out, state) = (self.path(name), self.path("get"));
        let words = ["get", &bait, "--output", &out, "--state", &state];
        self.spawn(&self.client, &[&words[..], &["--allow-private"]].concat())
    }

    /// Relays of Tor saw the host, nobody else did, and nothing on its cable names anything.
    fn assert_only_tor(&self, captured: &Captured, needles: &[&str]) {
        let relays = self.network.relays();
        captured.assert_only_to(&relays);
        for (number, what) in needles.iter().enumerate() {
            assert!(captured.found(number).is_empty(), "{what} in the clear");
        }
        let met = captured.flows.iter().any(|flow| {
            let relay = flow.remote().is_some_and(|to| relays.contains(&to));
            relay && flow.dir == Direction::Out
        });
        assert!(met, "it did not even talk to a relay");
        let flows = captured.flows.iter();
        let others: Vec<_> = flows.filter(|flow| flow.proto == "udp").collect();
        assert!(others.is_empty(), "{others:#?}");
    }
}

#[test]
fn get_of_an_onion_seed_talks_to_tors_relays_alone_also_when_tor_is_gone() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let (content, state) = (scene.path(NAME), scene.path("seed"));
    let words = ["seed", &content, "--over", "tor", "--state", &state];
    let mut seed = scene.spawn(&scene.seeder, &words);
    let said = seed.wait_for_event(LONG, "seeding");
    let magnet = said["magnet"].as_str().unwrap();
    let after = |text: &str, len: usize| {
        let at = magnet.find(text).unwrap() + text.len();
        magnet[at..at + len].to_owned()
    };
    let (hash, onion) = (after("urn:btih:", 40), after("x.pe=", 56));
    let infohash = data_encoding::HEXLOWER.decode(hash.as_bytes()).unwrap();
    let needles: [&[u8]; 4] = [&infohash, onion.as_bytes(), NAME.as_bytes(), b"example"];
    let names = ["infohash", "onion address", "file name", "tracker"];

    // Tor stands still in the middle, and goes on.
    let capture = Capture::start(&scene.client, &needles);
    let mut get = scene.get(magnet, "one");
    get.wait_until(LONG, |get| has_done(get, SIZE / 8));
    scene.network.signal(Signal::STOP);
    std::thread::sleep(OUTAGE);
    let paused = get.events("done").is_empty();
    scene.network.signal(Signal::CONT);
    assert!(paused, "it was over before the outage");
    let status = get.wait(LONG);
    assert!(status.success(), "{status}{}", get.tails());
    let got = scene.dir.path().join("one").join(NAME);
    assert_eq!(hash_file(&got), hash_file(&scene.dir.path().join(NAME)));
    scene.assert_only_tor(&capture.stop(), &names);

    // Tor is gone in the middle, for good.
    let capture = Capture::start(&scene.client, &needles);
    let mut get = scene.get(magnet, "two");
    get.wait_until(LONG, |get| has_done(get, SIZE / 8));
    scene.network.stop();
    std::thread::sleep(OUTAGE);
    assert!(get.events("done").is_empty(), "it was over before that");
    get.signal(Signal::INT);
    assert_eq!(get.wait(PATIENCE).code(), Some(130), "{}", get.tails());
    scene.assert_only_tor(&capture.stop(), &names);
}

#[test]
fn an_onion_seed_talks_to_tors_relays_alone_also_when_tor_is_gone_and_back() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    // What the seeding host must not show: a tracker of its own is reached the same way.
    let (content, state) = (scene.path(NAME), scene.path("seed"));
    let needles: [&[u8]; 2] = [NAME.as_bytes(), b"example"];
    let names = ["file name", "tracker"];
    let capture = Capture::start(&scene.seeder, &needles);
    let words = ["seed", &content, "--over", "tor", "--state", &state];
    let tracker = ["--tracker", "http://tracker.example.org/announce"];
    let mut seed = scene.spawn(&scene.seeder, &[&words[..], &tracker].concat());
    let said = seed.wait_for_event(LONG, "seeding");
    let magnet = said["magnet"].as_str().unwrap();

    // Nobody of Tor's answers any more in the middle, and all find back.
    let mut get = scene.get(magnet, "one");
    get.wait_until(LONG, |get| has_done(get, SIZE / 8));
    scene.tor.plug(false);
    std::thread::sleep(OUTAGE);
    let paused = get.events("done").is_empty();
    scene.tor.plug(true);
    assert!(paused, "it was over before the outage");
    let status = get.wait(LONG);
    assert!(status.success(), "{status}{}", get.tails());
    let got = scene.dir.path().join("one").join(NAME);
    assert_eq!(hash_file(&got), hash_file(&scene.dir.path().join(NAME)));

    // Tor is gone in the middle, for good.
    let mut get = scene.get(magnet, "two");
    get.wait_until(LONG, |get| has_done(get, SIZE / 8));
    scene.network.stop();
    std::thread::sleep(OUTAGE);
    assert!(get.events("done").is_empty(), "it was over before that");
    assert!(seed.exit_status().is_none(), "{}", seed.tails());
    seed.signal(Signal::INT);
    assert_eq!(seed.wait(PATIENCE).code(), Some(0), "{}", seed.tails());
    scene.assert_only_tor(&capture.stop(), &names);
}
