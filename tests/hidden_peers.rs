//! `seed` and `get` with hidden seeds over relays on loopback: who is served, who is not, and what is never asked.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hushswarm::cli::demo::network::relay_ip;
use hushswarm::net::os::OsDialer;
use hushswarm::overlay::circuit::Meet;
use hushswarm::overlay::client::{Client, ClientConfig, Wanted};
use hushswarm::torrent::magnet::Magnet;
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::path::{ExitNeed, GuardSample, PathRules};
use hushswarm_circuits::rendezvous::{Point, Status};
use support::loopback::{PROGRAM, outcome};
use support::network::Network;
use support::process::{Process, free_port};
use support::{PATIENCE, hash_file, write_noise};
use tempfile::TempDir;

const NAME: &str = "quiet-archive.bin";
const RELAYS: usize = 8;

/// Relays that introduce, and something to share.
struct Place {
    network: Network,
    relays: Vec<Process>,
    dir: TempDir,
}

impl Place {
    fn start() -> Self {
        let dir = TempDir::new().unwrap();
        write_noise(&dir.path().join(NAME), 3 << 20, 11);
        let addr = |n| {
            let ip = relay_ip(n);
            SocketAddr::new(ip, free_port(ip))
        };
        let addrs: Vec<_> = (0..RELAYS).map(addr).collect();
        let rules = PathRules::default();
        let network = Network::edited(dir.path(), &addrs, 4, 2, rules, |config| {
            config.roles.introduce = true;
        });
        let relays = network.relays.iter().map(|relay| {
            let mut command = Command::new(PROGRAM);
            command.args(relay.args()).args(["--log", "debug"]);
            let mut process = Process::spawn("relay", command);
            process.wait_for_line(PATIENCE, |line| line.contains("listens on"));
            process
        });
        Self {
            relays: relays.collect(),
            network,
            dir,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command of somebody with this state folder.
    fn command(&self, words: &[&str], state: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(words);
        command.arg("--network").arg(&self.network.file);
        command.arg("--state").arg(self.path(state));
        command
    }

    /// Seeds; gives the link too.
    fn seed(&self, options: &[&str]) -> (Process, String) {
        let mut command = self.command(&["seed", "--json", "--log", "debug", "--no-dht"], "seed");
        command.args(options).arg(self.path(NAME));
        let mut process = Process::spawn("seed", command);
        let made = process.wait_for_event(PATIENCE, "seeding");
        (process, made["magnet"].as_str().unwrap().to_owned())
    }

    fn get(&self, link: &str, state: &str, options: &[&str]) -> Process {
        let mut command = self.command(&["get", link, "--log", "debug"], state);
        command.args(options);
        command
            .arg("--output")
            .arg(self.path(&format!("out-{state}")));
        Process::spawn("get", command)
    }

    fn assert_arrived(&self, state: &str) {
        let out = self.path(&format!("out-{state}")).join(NAME);
        assert_eq!(hash_file(&out), hash_file(&self.path(NAME)));
    }
}

/// A public peer and tracker at which nobody is to call.
fn canary() -> (TcpListener, SocketAddr) {
    let ip = IpAddr::from(Ipv4Addr::new(127, 0, 9, 77));
    let listener = TcpListener::bind((ip, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

#[test]
fn a_hidden_seed_counts_whom_it_serves_and_its_visitors_ask_nobody_in_public() {
    let place = Place::start();
    let (mut seed, link) = place.seed(&[]);
    let (listener, addr) = canary();
    let link = format!("{link}&x.pe={addr}&tr=http://{addr}/announce");
    for (state, only) in [("usual", &[][..]), ("only", &["--hidden-only"])] {
        let options = [&["--allow-private", "--no-dht"][..], only].concat();
        let mut get = place.get(&link, state, &options);
        assert!(get.wait(PATIENCE).success(), "{}", get.tails());
        place.assert_arrived(state);
        let said = get.stderr();
        assert!(said.contains("peers: hidden ones only"), "{said}");
        assert!(
            said.contains("trackers and public peers are left out"),
            "{said}"
        );
    }
    assert!(listener.accept().is_err(), "somebody called in public");

    let counted = |seed: &Process, key: &str| {
        let last = seed.events("progress").pop()?;
        last["hidden"][key].as_u64()
    };
    // A visitor that stays is seen as one, however quickly all has come.
    let mut stays = place.get(&link, "stays", &["--allow-private", "--no-dht", "--seed"]);
    seed.wait_until(PATIENCE, |seed| {
        (counted(seed, "visitors") >= Some(1)).then_some(())
    });
    stays.stop(PATIENCE);
    seed.wait_until(PATIENCE, |seed| {
        let gone = counted(seed, "visitors") == Some(0);
        (gone && counted(seed, "met") >= Some(3)).then_some(())
    });
    let served = seed.events("progress");
    let last = served.last().unwrap()["hidden"].as_object().unwrap();
    let keys: Vec<_> = last.keys().map(String::as_str).collect();
    assert_eq!(keys, ["met", "points", "refused", "visitors"]);
    assert_eq!((&last["points"], &last["refused"]), (&3.into(), &0.into()));
    assert!(seed.stop(PATIENCE).success());
    assert_eq!(place.relays.len(), RELAYS);
}

/// Takes a query of the DHT, and answers as a node that is next to this torrent and knows nobody but itself.
fn answered(node: &UdpSocket, hash: &[u8; 20]) -> Vec<u8> {
    let mut packet = vec![0; 2000];
    let (length, from) = node.recv_from(&mut packet).unwrap();
    packet.truncate(length);
    let mut id = *hash;
    id[19] ^= 1;
    let at = packet.windows(5).position(|part| part == b"1:t4:");
    if let Some(tag) = at.and_then(|at| packet.get(at + 5..at + 9)) {
        let SocketAddr::V4(own) = node.local_addr().unwrap() else {
            panic!("it is one of IPv4");
        };
        let (ip, port) = (own.ip().octets(), own.port().to_be_bytes());
        let nodes = [&b"5:nodes26:"[..], &id, &ip, &port].concat();
        let head = [&b"d1:rd2:id20:"[..], &id, &nodes, b"5:token4:abcde"].concat();
        let answer = [&head[..], b"1:t4:", tag, b"1:y1:re"].concat();
        node.send_to(&answer, from).unwrap();
    }
    packet
}

#[test]
fn who_wants_hidden_peers_only_looks_a_bare_link_up_under_sealed_names_alone() {
    let place = Place::start();
    let (mut seed, link) = place.seed(&[]);
    seed.stop(PATIENCE);
    let hash = Magnet::parse(&link).unwrap().hash;
    let (listener, addr) = canary();
    let bare = format!("magnet:?xt=urn:btih:{}&x.pe={addr}", hash.hex());

    // A node of the DHT that says it is the closest to the torrent of all, so that it is asked for it.
    let node = UdpSocket::bind((Ipv4Addr::new(127, 0, 9, 78), 0)).unwrap();
    node.set_read_timeout(Some(PATIENCE)).unwrap();
    let at = node.local_addr().unwrap().to_string();
    let options = ["--allow-private", "--dht-bootstrap", &at];
    let has = |packet: &[u8], what: &[u8]| packet.windows(what.len()).any(|part| part == what);

    let mut usual = place.get(&bare, "usual", &options);
    while !has(&answered(&node, &hash.0), b"1:q9:get_peers") {}
    usual.wait_for_line(PATIENCE, |line| {
        line.contains("peers: public ones, through circuits")
    });
    listener.set_nonblocking(false).unwrap();
    drop(listener.accept().unwrap());
    usual.kill();
    listener.set_nonblocking(true).unwrap();
    node.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut left = [0; 2000];
    while node.recv_from(&mut left).is_ok() || listener.accept().is_ok() {}

    node.set_read_timeout(Some(PATIENCE)).unwrap();
    let options = [&options[..], &["--hidden-only"]].concat();
    let mut only = place.get(&bare, "only", &options);
    let mut asked = 0;
    while asked < 4 {
        let packet = answered(&node, &hash.0);
        let shown = String::from_utf8_lossy(&packet);
        assert!(
            !has(&packet, b"get_peers") && !has(&packet, &hash.0),
            "{shown}"
        );
        asked += usize::from(has(&packet, b"1:q3:get"));
    }
    assert!(only.stderr().contains("peers: hidden ones only"));
    assert!(listener.accept().is_err(), "a public peer was called");
    assert!(only.exit_status().is_none(), "{}", only.tails());
    only.kill();

    // Where the DHT is off, nobody could be found.
    let command = place.command(&["get", &bare, "--hidden-only", "--no-dht"], "none");
    let (code, _, errors) = outcome(command);
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("no hidden peer is named"), "{errors}");
    assert!(errors.contains("hint:"), "{errors}");
}

#[test]
fn a_closed_seed_serves_whom_it_lets_in_and_nobody_else_can_tell_that_it_stands() {
    let place = Place::start();
    // Nobody is let in yet: there is a link, with which a friend makes a key.
    let (mut seed, link) = place.seed(&["--allow", "nobody"]);
    assert!(seed.stop(PATIENCE).success());
    let contact = |link: &str| Magnet::parse(link).unwrap().seeds.remove(0);
    assert!(contact(&link).is_closed());
    let points = contact(&link).points().to_vec();
    assert!(points.iter().all(|point| point.introduction.is_quiet()));
    let key = |state: &str| {
        let mut command = Command::new(PROGRAM);
        command.args(["visitor-key", &link, "--state"]);
        let (code, key, errors) = outcome({
            command.arg(place.path(state));
            command
        });
        assert_eq!(code, 0, "{errors}");
        key.trim().to_owned()
    };
    let friend = key("friend");
    assert!(friend.starts_with("hush:x25519:"), "{friend}");
    assert_eq!(key("friend"), friend, "it is made once");
    assert_ne!(key("unknown"), friend);

    let (mut seed, again) = place.seed(&["--allow", &friend]);
    let sorted = |link: &str| {
        let mut points = contact(link).points().to_vec();
        points.sort();
        (contact(link).key, points)
    };
    assert!(sorted(&again) == sorted(&link), "the link is another");

    // Without a key, nobody is asked at all.
    let mut stranger = place.get(&link, "stranger", &["--no-dht"]);
    let status = stranger.wait(PATIENCE);
    let said = stranger.stderr();
    assert_eq!(status.code(), Some(4), "{said}");
    assert!(
        said.contains("lets in only those whose keys it knows"),
        "{said}"
    );
    assert!(said.contains("hushswarm visitor-key"), "{said}");
    // With one that the seed doesn't know, there is no answer.
    let mut unknown = place.get(&link, "unknown", &["--no-dht"]);
    let refused = |seed: &Process, at_least: u64| {
        let last = seed.events("progress").pop()?;
        (last["hidden"]["refused"].as_u64()? >= at_least).then_some(last)
    };
    let counted = seed.wait_until(4 * PATIENCE, |seed| refused(seed, 1));
    assert_eq!(counted["hidden"]["met"], 0);
    unknown.wait_for_line(4 * PATIENCE, |line| {
        line.contains("has not let in your key")
    });
    assert!(!place.path("out-unknown").join(NAME).exists());

    let mut get = place.get(&link, "friend", &["--no-dht"]);
    assert!(
        get.wait(4 * PATIENCE).success(),
        "{}{}",
        get.tails(),
        seed.tails()
    );
    place.assert_arrived("friend");
    assert!(get.stderr().contains("sharing nothing"), "{}", get.tails());
    unknown.kill();

    // The link names nobody who is let in, and nobody wrote down who came.
    assert!(!link.contains(&friend["hush:x25519:".len()..]));
    let public = data_encoding::BASE32_NOPAD
        .decode(friend["hush:x25519:".len()..].to_uppercase().as_bytes())
        .unwrap();
    let hexes = [&public[..4], &public[28..]].map(|part| data_encoding::HEXLOWER.encode(part));
    let logs = place.relays.iter().map(Process::stderr);
    for log in logs.chain([seed.stderr(), seed.stdout(), get.stderr(), unknown.stderr()]) {
        for word in [&friend["hush:x25519:".len()..], &hexes[0], &hexes[1]] {
            assert!(!log.contains(word), "{word} in a log");
        }
    }

    // Whoever knows the link alone is answered alike, whether the seed stands or not.
    let told = || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async { place.ask(&points[0]).await })
    };
    let standing = told();
    assert!(seed.stop(PATIENCE).success());
    assert_eq!(told(), standing);
    assert_eq!(standing, Status::Done);

    // Who is let in no more knows none of its points, and the user is told that he has to give the others a new link.
    let (mut seed, moved) = place.seed(&["--allow", "nobody"]);
    let warnings = seed.events("warning");
    let said = |event: &serde_json::Value| event["text"].as_str().unwrap().contains("fewer");
    assert!(warnings.iter().any(said), "{warnings:?}");
    assert_eq!(contact(&moved).key, contact(&link).key);
    let old: std::collections::BTreeSet<_> = points.iter().map(|p| p.introduction).collect();
    let new = contact(&moved).points().to_vec();
    assert!(new.iter().all(|point| !old.contains(&point.introduction)));
    assert!(seed.stop(PATIENCE).success());
}

impl Place {
    /// What the relay says to an introduction of somebody who knows nothing but the link.
    async fn ask(&self, point: &Point) -> Status {
        let config = ClientConfig {
            prebuilt: 0,
            ..ClientConfig::default()
        };
        let (list, dialer) = (
            Arc::clone(&self.network.list),
            Arc::new(OsDialer::new(None)),
        );
        let client = Client::new(list, GuardSample::default(), None, dialer, config);
        let wanted = Wanted {
            exit: ExitNeed::IntroduceAt(point.relay),
            hops: None,
            not_last: &[],
        };
        let owner = Isolation::new("test", &[], 0);
        let circuit = client.circuit_for(owner, wanted).await.unwrap();
        let meet = Meet::Introduce(&point.introduction, &[9; 512]);
        let (_stream, status) = circuit.meet(meet, PATIENCE).await.unwrap();
        status
    }
}
