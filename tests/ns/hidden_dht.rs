//! Hidden seeds that no link names any more, found through a DHT of a hundred real foreign nodes: the items that seeds keep there,
//! sealed to who knows the infohash. What those nodes and everybody's cables learn while 256 MiB are downloaded, and that nobody
//! there hears of a seed that lets in only some.

use crate::support;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hushswarm::config::{RelayDht, unix_now};
use hushswarm::krpc::ItemName;
use hushswarm::torrent::magnet::Magnet;
use hushswarm_circuits::path::PathRules;
use hushswarm_circuits::rendezvous::item::{Period, SLOTS, Slot};
use hushswarm_circuits::rendezvous::{Contact, IntroductionId, Point};
use hushswarm_circuits::target::Target;
use support::capture::{Capture, Captured};
use support::clients::libtorrent_python;
use support::dht::{NETWORKS, PORT, PrivateDht, Record};
use support::guards::draw;
use support::network::Network;
use support::process::{Process, run};
use support::world::{Host, World};
use support::{PATIENCE, hash_file, write_noise};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_hushswarm");
const NAME: &str = "quiet-library.bin";
const SIZE: u64 = 256 << 20;
/// What a seed has that lets in only some, and what is had where little is enough.
const LITTLE_NAME: &str = "quiet-letters.bin";
const LITTLE: u64 = 1 << 20;
const RELAY_PORT: u16 = 9001;
/// The first are guards, the last exits; all but the exits introduce.
const RELAYS: usize = 9;
/// Each end has three that it prefers.
const GUARDS: usize = 6;
const EXITS: usize = 2;
/// The DHT's host.
const DHT: u8 = 30;
/// How often the nodes are asked what came.
const ASK_AGAIN: Duration = Duration::from_secs(3);

struct Scene {
    seeder: Host,
    client: Host,
    relay_hosts: Vec<Host>,
    dht_host: Host,
    network: Network,
    relays: Vec<Process>,
    dht: PrivateDht,
    /// Whether the exits look up for others; else all is asked by datagrams.
    lookups: bool,
    dir: TempDir,
    /// Last, so that programs end before their hosts.
    _world: World,
}

impl Scene {
    fn new(lookups: bool, size: u64) -> Option<Self> {
        let python = libtorrent_python()?;
        let mut world = World::build()?;
        let (client, seeder) = (world.host("client", 250), world.host("seeder", 21));
        let dht_host = world.host("dht", DHT);
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
        let known = SocketAddr::from(([10, 77, *NETWORKS.start() + 2, DHT], PORT));
        let network = Network::edited(dir.path(), &addrs, GUARDS, EXITS, rules, |config| {
            config.roles.introduce = !config.roles.exit;
            config.dht = (lookups && config.roles.exit).then(|| RelayDht {
                bootstrap: vec![Target::ip(known)],
                ..RelayDht::default()
            });
        });
        write_noise(&dir.path().join(NAME), size, 12);
        write_noise(&dir.path().join(LITTLE_NAME), LITTLE, 13);
        let start = |(host, relay): (&Host, &support::network::RelayDir)| {
            let mut command = host.command(PROGRAM);
            command.args(relay.args());
            let mut process = Process::spawn("relay", command);
            process.wait_for_line(PATIENCE, |line| line.contains("listens on"));
            process
        };
        let dht = PrivateDht::start_on(&python, &dht_host);
        let relays = relay_hosts.iter().zip(&network.relays).map(start).collect();
        let scene = Self {
            seeder,
            client,
            relay_hosts,
            dht_host,
            network,
            relays,
            dht,
            lookups,
            dir,
            _world: world,
        };
        // Each has guards of its own, so that no relay sees both ends.
        for state in ["seed", "closed"] {
            draw(&scene.network, &scene.state(state), 0..GUARDS / 2);
        }
        for state in ["get", "get-blind", "get-closed"] {
            draw(&scene.network, &scene.state(state), GUARDS / 2..GUARDS);
        }
        Some(scene)
    }

    /// One of our commands on this host, in a world where everything has a private address.
    fn command(
        &self,
        host: &Host,
        words: &[&str],
        state: &str,
        looks: bool,
    ) -> std::process::Command {
        let mut command = host.command(PROGRAM);
        command
            .args(words)
            .args(["--json", "--log", "debug", "--allow-private"])
            .args([Path::new("--network"), &self.network.file])
            .args([Path::new("--state"), &self.state(state)]);
        if !looks {
            command.arg("--no-dht");
        } else if !self.lookups {
            for node in &self.dht.nodes[..3] {
                command.args(["--dht-bootstrap".to_owned(), node.to_string()]);
            }
        }
        command
    }

    fn state(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("state-{name}"))
    }

    /// Seeds with keys that are this run's alone; gives the link too.
    fn seed(&self) -> (Process, String) {
        let content = self.dir.path().join(NAME);
        let words = ["seed", "--ephemeral", content.to_str().unwrap()];
        let command = self.command(&self.seeder, &words, "seed", true);
        let mut process = Process::spawn("seed", command);
        let made = process.wait_for_event(PATIENCE, "seeding");
        (process, made["magnet"].as_str().unwrap().to_owned())
    }

    /// Seeds something else, for these alone; gives the link too.
    fn seed_closed(&self, allowed: &str) -> (Process, String) {
        let content = self.dir.path().join(LITTLE_NAME);
        let words = ["seed", "--allow", allowed, content.to_str().unwrap()];
        let command = self.command(&self.seeder, &words, "closed", true);
        let mut process = Process::spawn("closed", command);
        let made = process.wait_for_event(PATIENCE, "seeding");
        (process, made["magnet"].as_str().unwrap().to_owned())
    }

    /// The same for a visitor, who has a key of his own for it.
    fn seed_closed_to_visitor(&self) -> (Process, String) {
        let (mut nobody, link) = self.seed_closed("nobody");
        assert!(nobody.stop(PATIENCE).success(), "{}", nobody.tails());
        let mut command = self.client.command(PROGRAM);
        command.args(["visitor-key", &link, "--state"]);
        command.arg(self.state("get-closed"));
        let key = run(command);
        self.seed_closed(key.trim())
    }

    fn get(&self, link: &str, out: &Path, state: &str) -> Process {
        let words = ["get", link, "--output", out.to_str().unwrap()];
        let looks = state != "get-blind";
        Process::spawn("get", self.command(&self.client, &words, state, looks))
    }

    /// Waits until this many items were put that can be found under this infohash; gives who was told to keep them.
    fn wait_for_items(&mut self, hash: &[u8], writers: usize) -> Vec<Record> {
        // A seed waits for up to 90 s, so that nobody can tell when it came.
        let deadline = Instant::now() + 5 * PATIENCE;
        loop {
            let mut records = self.dht.records();
            let names = names(hash);
            records.retain(|r| r.said.query == "put" && names.contains(&r.said.target));
            // Each lookup has an id of its own.
            let ids: BTreeSet<_> = records.iter().map(|r| r.said.id.clone()).collect();
            if ids.len() >= writers {
                return records;
            }
            assert!(
                Instant::now() < deadline,
                "{} of {writers} are written",
                ids.len()
            );
            sleep(ASK_AGAIN);
        }
    }

    fn assert_arrived(&self, out: &Path, name: &str) {
        assert_eq!(
            hash_file(&out.join(name)),
            hash_file(&self.dir.path().join(name))
        );
    }

    fn is_exit(&self, ip: IpAddr) -> bool {
        let exits = &self.relay_hosts[RELAYS - EXITS..];
        exits.iter().any(|host| host.owns(ip))
    }

    /// Only exits talked to the nodes, and what they said names neither a torrent, nor a user or program.
    fn assert_nodes_learned_nothing(&mut self, hash: &[u8]) {
        let records = self.dht.records();
        let own: BTreeSet<IpAddr> = self.dht.nodes.iter().map(SocketAddr::ip).collect();
        let infohash = data_encoding::HEXLOWER.encode(hash);
        let names = names(hash);
        let mut asked = BTreeSet::new();
        for record in records.iter().filter(|r| !own.contains(&r.from.ip())) {
            let said = &record.said;
            assert!(self.is_exit(record.from.ip()), "a node met {}", record.from);
            assert_ne!(said.target, infohash, "a node was told the infohash");
            if said.kind != "q" {
                continue;
            }
            assert!(said.ro, "not read-only: {said:?}");
            assert_eq!(said.v, "", "it names its program: {said:?}");
            match said.query.as_str() {
                // An exit's own node refreshes its table too.
                "ping" | "find_node" => assert!(!names.contains(&said.target), "not blinded"),
                "get" => drop(asked.insert(said.target.clone())),
                "put" => {
                    assert!(names.contains(&said.target));
                    let mut keys = said.keys[1].clone();
                    keys.retain(|key| key != "cas");
                    assert_eq!(keys, ["id", "k", "seq", "sig", "token", "v"]);
                }
                other => panic!("an exit asks {other}"),
            }
        }
        assert!(
            asked.is_superset(&names_now(hash)),
            "all slots are looked at"
        );
        // Nor is anything of a closed seed written or looked for.
        assert!(asked.is_subset(&names), "something else is looked for");
    }
}

/// What the nodes know the slots of a swarm by, in hexadecimal digits, in this period and those beside it.
fn names(hash: &[u8]) -> BTreeSet<String> {
    let day = 86_400;
    let times = [unix_now() - day, unix_now(), unix_now() + day];
    times.iter().flat_map(|at| names_at(hash, *at)).collect()
}

fn names_now(hash: &[u8]) -> BTreeSet<String> {
    names_at(hash, unix_now())
}

fn names_at(hash: &[u8], at: u64) -> BTreeSet<String> {
    let period = Period::at(hash, at);
    let name = |number| {
        let key = Slot::new(hash, &period, number).signer().public().0;
        let name = ItemName::mutable(&key, &[]).unwrap();
        data_encoding::HEXLOWER.encode(&name.target().0)
    };
    (0..SLOTS).map(name).collect()
}

fn touches(captured: &Captured, host: &Host) -> bool {
    let owns = |ip: &str| ip.parse().is_ok_and(|ip: IpAddr| host.owns(ip));
    let flows = captured.flows.iter();
    // Who is where is asked of every cable.
    let mut flows = flows.filter(|flow| !matches!(flow.class.as_str(), "arp" | "nd"));
    flows.any(|flow| owns(&flow.src) || owns(&flow.dst))
}

/// What a download has got, bytes.
fn done(get: &Process) -> u64 {
    let events = get.events("progress");
    let done = events.iter().filter_map(|event| event["done"].as_u64());
    done.max().unwrap_or(0)
}

#[test]
fn a_hidden_seed_that_no_link_names_is_found_through_foreign_nodes_that_learn_nothing() {
    let Some(mut scene) = Scene::new(true, SIZE) else {
        return;
    };
    // One seed comes, is written down, and goes for ever with its keys. The link that names it is all that anybody has.
    let (mut gone, link) = scene.seed();
    let magnet = Magnet::parse(&link).unwrap();
    let hash = magnet.hash.0;
    // Meanwhile one that lets in only some: its visitors find it by its link.
    let (closed, closed_link) = scene.seed_closed_to_visitor();
    let closed_hash = Magnet::parse(&closed_link).unwrap().hash.0;
    scene.wait_for_items(&hash, 1);
    assert!(gone.stop(PATIENCE).success(), "{}", gone.tails());

    let ips = [&scene.seeder, &scene.client].map(|host| host.ip4);
    let told = ips.map(|ip| ip.to_string());
    let bytes = ips.map(|ip| ip.octets());
    let mut needles: Vec<&[u8]> = vec![
        &hash,
        NAME.as_bytes(),
        &closed_hash,
        LITTLE_NAME.as_bytes(),
        b"BitTorrent protocol",
        &magnet.seeds[0].key,
        told[0].as_bytes(),
        told[1].as_bytes(),
    ];
    for point in magnet.seeds[0].points() {
        needles.extend([&point.introduction.0[..], &point.relay.0]);
    }
    let words = needles.len();
    // Their addresses in messages; packets of their own have them in the headers.
    needles.extend([&bytes[0][..], &bytes[1]]);
    let ends = [&scene.seeder, &scene.client].into_iter();
    let mut captures: Vec<Capture> = ends
        .chain(&scene.relay_hosts)
        .map(|host| Capture::start(host, &needles[..words]))
        .collect();
    captures.push(Capture::start(&scene.dht_host, &needles));

    // Another seed of the same content comes. Who does not look in the DHT never hears of it.
    let (mut seed, another) = scene.seed();
    assert_ne!(
        Magnet::parse(&another).unwrap().seeds[0].key,
        magnet.seeds[0].key
    );
    let out = TempDir::new().unwrap();
    let mut blind = scene.get(&link, &out.path().join("blind"), "get-blind");
    let mut letters = scene.get(&closed_link, out.path(), "get-closed");
    let status = letters.wait(4 * PATIENCE);
    assert!(status.success(), "{}\n{}", letters.tails(), closed.tails());
    scene.assert_arrived(out.path(), LITTLE_NAME);
    let kept = scene.wait_for_items(&hash, 2);
    let nodes: BTreeSet<_> = kept.iter().map(|record| record.node).collect();
    assert!(nodes.len() >= 4, "few nodes keep it: {nodes:?}");
    let mut get = scene.get(&link, out.path(), "get");
    let status = get.wait(8 * PATIENCE);
    assert!(status.success(), "{}\n{}", get.tails(), seed.tails());
    scene.assert_arrived(out.path(), NAME);
    assert!(blind.exit_status().is_none(), "{}", blind.tails());
    assert_eq!(done(&blind), 0, "it came by another way");
    drop(blind);
    assert!(seed.stop(PATIENCE).success());
    drop((letters, closed));

    let mut captured: Vec<Captured> = captures.into_iter().map(Capture::stop).collect();
    for (number, seen) in captured.iter().enumerate() {
        for needle in 0..needles.len() {
            let mut found = seen.found(needle);
            // Who asks every cable who is where says where he is.
            found.retain(|flow| !matches!(flow.class.as_str(), "arp" | "nd"));
            assert!(
                found.is_empty(),
                "capture {number}, needle {needle}: {found:?}"
            );
        }
    }
    let guards = scene.relay_hosts[..GUARDS].iter();
    let guards: Vec<_> = guards.map(|host| host.addr(RELAY_PORT)).collect();
    for end in &captured[..2] {
        end.assert_only_to(&guards);
        let bytes: u64 = end.flows.iter().map(|flow| flow.bytes).sum();
        assert!(bytes > SIZE, "it came by these cables");
    }
    let nodes = captured.pop().unwrap();
    for relay in &captured[2..] {
        let both = touches(relay, &scene.seeder) && touches(relay, &scene.client);
        assert!(!both, "a relay sees both ends");
    }
    assert!(!nodes.sent("dht").is_empty(), "the nodes answered");
    for host in [&scene.seeder, &scene.client] {
        assert!(!touches(&nodes, host), "the nodes met {}", host.name);
    }
    scene.assert_nodes_learned_nothing(&hash);
    let infohash = data_encoding::HEXLOWER.encode(&hash);
    let logs = scene.relays.iter().map(Process::stderr);
    for log in logs.chain([seed.stderr(), get.stderr()]) {
        for word in [&infohash, NAME] {
            assert!(!log.to_lowercase().contains(word), "{word} in a log");
        }
    }
}

#[test]
fn a_hidden_seed_that_stands_elsewhere_is_found_by_datagrams_to_foreign_nodes() {
    let Some(mut scene) = Scene::new(false, LITTLE) else {
        return;
    };
    let (seed, link) = scene.seed();
    let mut magnet = Magnet::parse(&link).unwrap();
    let hash = magnet.hash.0;
    // The same seed, at points where it does not stand any more.
    let points = magnet.seeds[0]
        .points()
        .iter()
        .zip(1..)
        .map(|(point, n)| Point {
            relay: point.relay,
            introduction: IntroductionId([n; 32]),
        });
    magnet.seeds = vec![Contact::new(magnet.seeds[0].key, points.collect()).unwrap()];
    scene.wait_for_items(&hash, 1);
    let out = TempDir::new().unwrap();
    let mut get = scene.get(&magnet.to_string(), out.path(), "get");
    let status = get.wait(4 * PATIENCE);
    assert!(status.success(), "{}\n{}", get.tails(), seed.tails());
    scene.assert_arrived(out.path(), NAME);
    scene.assert_nodes_learned_nothing(&hash);
}
