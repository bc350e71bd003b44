//! Bridges and pluggable transports, really run: on a host that could reach every relay of a private Tor network, the program with
//! bridges in its Tor file talks to the bridge alone, plainly or through Debian's `obfs4proxy`; with a wrong bridge, to nobody else.

use crate::support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::capture::Capture;
use support::clients::installed;
use support::loopback::has_done;
use support::process::Process;
use support::tor::{Bridge, Size, TorNetwork, away_from_home};
use support::world::{Host, World};
use support::{PATIENCE, hash_file, write_noise};
use tempfile::TempDir;

const NAME: &str = "archive.bin";
const SIZE: u64 = 16 << 20;
/// For what needs several circuits, on a busy machine.
const LONG: Duration = Duration::from_secs(300);
/// Debian's program for obfs4.
const OBFS4: &str = "/usr/bin/obfs4proxy";

/// A seed that came to Tor by itself, and a host that will come by a bridge.
struct Scene {
    client: Host,
    network: TorNetwork,
    bridge: Bridge,
    magnet: String,
    dir: TempDir,
    _seed: Process,
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
        let size = Size {
            bridges: 1,
            ..Size::default()
        };
        let network = TorNetwork::start_on(&world.host("tor", 30), &size);
        let dir = TempDir::new().unwrap();
        let content = dir.path().join(NAME);
        write_noise(&content, SIZE, 5);
        let mut seed = away_from_home(Some(&seeder), dir.path());
        seed.arg("seed")
            .arg(&content)
            .args(["--over", "tor", "--json"]);
        seed.args(["--ephemeral", "--tor"]).arg(network.tor_file());
        seed.arg("--state").arg(dir.path().join("seed"));
        let mut seed = Process::spawn("seed", seed);
        let said = seed.wait_for_event(LONG, "seeding");
        let magnet = said["magnet"].as_str().unwrap().to_owned();
        let bridge = network.bridges().remove(0);
        Some(Self {
            client,
            network,
            bridge,
            magnet,
            dir,
            _seed: seed,
            _world: world,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A Tor file with this bridge line, and this program for obfs4.
    fn tor_file(&self, name: &str, line: &str, program: Option<&str>) -> PathBuf {
        let mut head = format!("bridges = [{line:?}]\n");
        if let Some(program) = program {
            head += &format!("[[transport]]\nprotocols = [\"obfs4\"]\npath = {program:?}\n");
        }
        self.network.tor_file_with(&format!("{name}.toml"), &head)
    }

    /// Downloads to the folder `name`, with a state of its own.
    fn get(&self, name: &str, tor: &Path) -> Process {
        let mut get = away_from_home(Some(&self.client), self.dir.path());
        get.args(["get", &self.magnet, "--json", "--log", "debug", "--tor"]);
        get.arg(tor).arg("--output").arg(self.path(name));
        get.arg("--state").arg(self.path(&format!("{name}.state")));
        Process::spawn("get", get)
    }

    fn assert_arrived(&self, name: &str, get: &mut Process) {
        let status = get.wait(LONG);
        assert!(status.success(), "{status}{}", get.tails());
        let (got, wanted) = (self.path(name).join(NAME), self.path(NAME));
        assert_eq!(hash_file(&got), hash_file(&wanted));
    }

    /// Stops it, and looks at what it wrote: where the bridge is, is a secret.
    fn stop(&self, get: &mut Process) {
        get.signal(Signal::INT);
        assert_eq!(get.wait(PATIENCE).code(), Some(130), "{}", get.tails());
        self.assert_discreet(get);
    }

    fn assert_discreet(&self, get: &Process) {
        let said = get.stderr() + &get.stdout();
        let ip = self.bridge.addr.ip().to_string();
        assert!(!said.contains(&ip), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

/// The reasons why a download waits, as it tells them.
fn reasons(get: &Process) -> Vec<String> {
    let seen = get.events("progress").into_iter();
    let reasons = seen.filter_map(|seen| seen["reason"].as_str().map(str::to_owned));
    reasons.collect()
}

/// Waits until the download says such a reason why it waits.
fn wait_for_reason(get: &mut Process, text: &str) {
    get.wait_until(LONG, |get| {
        let told = reasons(get).iter().any(|reason| reason.contains(text));
        told.then_some(())
    });
}

/// The programs that this process has started and that run, with their ids.
fn children(of: u32) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // pid (name) state parent ...
        let Some((head, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        let words: Vec<&str> = rest.split_whitespace().collect();
        if words[1] == of.to_string() && words[0] != "Z" {
            let name = head.split_once('(').unwrap().1;
            found.push((pid, name.to_owned()));
        }
    }
    found
}

fn transport(get: &Process) -> Option<u32> {
    let children = children(get.id()).into_iter();
    let mut transports = children.filter(|(_, name)| name == "obfs4proxy");
    transports.next().map(|(pid, _)| pid)
}

fn wait_gone(pid: u32) {
    let begun = Instant::now();
    while Path::new(&format!("/proc/{pid}/fd/0"))
        .symlink_metadata()
        .is_ok()
    {
        assert!(begun.elapsed() < PATIENCE, "the transport still runs");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn with_a_bridge_nothing_but_the_bridge_is_talked_to() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let bridge = scene.bridge.clone();
    let only = |to: SocketAddr, capture: Capture| capture.stop().assert_only_to(&[to]);

    let capture = Capture::start(&scene.client, &[]);
    let mut get = scene.get("one", &scene.tor_file("one", &bridge.line, None));
    scene.assert_arrived("one", &mut get);
    scene.assert_discreet(&get);
    only(bridge.addr, capture);

    // Another relay's fingerprint, or a port where nobody is: it says so, and tries nobody else.
    let (at, _) = bridge.line.split_once(' ').unwrap();
    let wrong = format!("{at} {}", "AB".repeat(20));
    let capture = Capture::start(&scene.client, &[]);
    let mut get = scene.get("two", &scene.tor_file("two", &wrong, None));
    wait_for_reason(&mut get, "no bridge answers as it should");
    scene.stop(&mut get);
    only(bridge.addr, capture);

    let nobody = SocketAddr::new(bridge.addr.ip(), 9);
    let line = bridge.line.replace(at, &nobody.to_string());
    let capture = Capture::start(&scene.client, &[]);
    let mut get = scene.get("three", &scene.tor_file("three", &line, None));
    wait_for_reason(&mut get, "no bridge can be reached");
    scene.stop(&mut get);
    only(nobody, capture);
}

#[test]
fn with_obfs4_nothing_but_the_bridges_obfs4_is_talked_to_and_its_program_ends_with_ours() {
    if !installed("obfs4proxy") {
        return;
    }
    let Some(scene) = Scene::new() else {
        return;
    };
    let (addr, line) = scene.bridge.obfs4.clone().unwrap();
    let good = scene.tor_file("obfs4", &line, Some(OBFS4));

    // Its program dies in the middle, and another one is started.
    let capture = Capture::start(&scene.client, &[]);
    let mut get = scene.get("one", &good);
    let first = get.wait_until(LONG, |get| {
        has_done(get, SIZE / 8)?;
        transport(get)
    });
    let environment = std::fs::read(format!("/proc/{first}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    let place = format!(
        "TOR_PT_STATE_LOCATION={}/",
        scene.path("one.state").display()
    );
    assert!(environment.contains(&place), "{environment}");
    let raw = Pid::from_raw(i32::try_from(first).unwrap()).unwrap();
    kill_process(raw, Signal::KILL).unwrap();
    let second = get.wait_until(LONG, |get| transport(get).filter(|pid| *pid != first));
    scene.assert_arrived("one", &mut get);
    scene.assert_discreet(&get);
    wait_gone(second);

    // The program is killed, and the transport sees that.
    let mut get = scene.get("two", &good);
    let running = get.wait_until(LONG, |get| {
        has_done(get, SIZE / 8)?;
        transport(get)
    });
    get.kill();
    wait_gone(running);

    // A program that is no transport: nothing leaves.
    let mut get = scene.get("three", &scene.tor_file("three", &line, Some("/bin/false")));
    wait_for_reason(&mut get, "programs of their transports");
    scene.stop(&mut get);
    capture.stop().assert_only_to(&[addr]);

    // No program for it: an error at once.
    let mut get = scene.get("four", &scene.tor_file("four", &line, None));
    assert_eq!(get.wait(PATIENCE).code(), Some(1), "{}", get.tails());
    assert!(get.stderr().contains("no [[transport]] serves"));
}
