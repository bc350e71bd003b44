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

use hushswarm::cli::demo::network::relay_ip;
use hushswarm::torrent::magnet::Magnet;
use hushswarm_circuits::path::PathRules;
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
    seed.wait_until(PATIENCE, |seed| {
        let gone = counted(seed, "visitors") == Some(0);
        (gone && counted(seed, "met") >= Some(2)).then_some(())
    });
    let served = seed.events("progress");
    let most = served
        .iter()
        .filter_map(|view| view["hidden"]["visitors"].as_u64());
    assert!(most.max() >= Some(1), "no visitor was ever counted");
    let last = served.last().unwrap()["hidden"].as_object().unwrap();
    let keys: Vec<_> = last.keys().map(String::as_str).collect();
    assert_eq!(keys, ["met", "points", "refused", "visitors"]);
    assert_eq!((&last["points"], &last["refused"]), (&3.into(), &0.into()));
    assert!(seed.stop(PATIENCE).success());
    assert_eq!(place.relays.len(), RELAYS);
}

#[test]
fn who_wants_hidden_peers_only_looks_a_bare_link_up_under_sealed_names_alone() {
    let place = Place::start();
    let (mut seed, link) = place.seed(&[]);
    seed.stop(PATIENCE);
    let hash = Magnet::parse(&link).unwrap().hash;
    let (listener, addr) = canary();
    let bare = format!("magnet:?xt=urn:btih:{}&x.pe={addr}", hash.hex());

    // A node of the DHT that writes down what it is asked, and never answers.
    let node = UdpSocket::bind((Ipv4Addr::new(127, 0, 9, 78), 0)).unwrap();
    let at = node.local_addr().unwrap().to_string();
    let options = ["--allow-private", "--dht-bootstrap", &at];
    let has = |packet: &[u8], what: &[u8]| packet.windows(what.len()).any(|part| part == what);
    let public = b"9:get_peers";
    for only in [false, true] {
        let options = [&options[..], if only { &["--hidden-only"] } else { &[] }].concat();
        let mut get = place.get(&bare, if only { "only" } else { "usual" }, &options);
        node.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut packet = [0; 2000];
        for _ in 0..8 {
            let (length, _) = node.recv_from(&mut packet).unwrap();
            let packet = &packet[..length];
            assert_eq!(
                has(packet, public),
                !only,
                "{:?}",
                String::from_utf8_lossy(packet)
            );
            assert!(only || has(packet, &hash.0[..2]));
        }
        if only {
            get.wait_for_line(PATIENCE, |line| {
                line.contains("no hidden seed of this torrent")
            });
            assert!(get.stderr().contains("peers: hidden ones only"));
        } else {
            get.wait_for_line(PATIENCE, |line| {
                line.contains("peers: public ones, through circuits")
            });
            listener.set_nonblocking(false).unwrap();
            drop(listener.accept().unwrap());
            listener.set_nonblocking(true).unwrap();
        }
        get.kill();
        drop(get);
        node.set_read_timeout(Some(std::time::Duration::from_secs(1)))
            .unwrap();
        while node.recv_from(&mut packet).is_ok() {}
        while listener.accept().is_ok() && !only {}
    }
    assert!(listener.accept().is_err(), "a public peer was called");

    // Where the DHT is off, nobody could be found.
    let command = place.command(&["get", &bare, "--hidden-only", "--no-dht"], "none");
    let (code, _, errors) = outcome(command);
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("no hidden peer is named"), "{errors}");
    assert!(errors.contains("hint:"), "{errors}");
}
