//! Feeds: one link that leads to whatever its publisher puts out, through a DHT of real foreign nodes, and what those nodes see of
//! it. Everything of ours is the real program, each on a host of its own.

use crate::support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use data_encoding::HEXLOWER;
use hushswarm::config::RelayDht;
use hushswarm::torrent::feed::FeedLink;
use hushswarm::torrent::magnet::Magnet;
use hushswarm_circuits::path::PathRules;
use hushswarm_circuits::target::Target;
use rustix::process::Signal;
use support::capture::Capture;
use support::clients::libtorrent_python;
use support::dht::PrivateDht;
use support::network::Network;
use support::process::Process;
use support::world::{Host, World};
use support::{PATIENCE, hash_file, write_noise};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_hushswarm");
const FEED: &str = "weekly-letter";
const NAME: &str = "quiet-archive.bin";
const SIZE: u64 = 2 << 20;
const RELAY_PORT: u16 = 9001;
/// The last two are exits, which look up in the DHT for others.
const RELAYS: usize = 8;
const EXITS: usize = 2;

struct Scene {
    publisher: Host,
    reader: Host,
    network: Network,
    _relays: Vec<Process>,
    dht_host: Host,
    _dht: PrivateDht,
    dir: TempDir,
    /// Last, so that programs end before their hosts.
    _world: World,
}

impl Scene {
    fn new() -> Option<Self> {
        let python = libtorrent_python()?;
        let mut world = World::build()?;
        let (reader, publisher) = (world.host("reader", 250), world.host("publisher", 21));
        let dht_host = world.host("dht", 30);
        let hosts: Vec<Host> = (101..)
            .take(RELAYS)
            .map(|number| world.host(&format!("relay{number}"), number))
            .collect();
        let addrs: Vec<SocketAddr> = hosts.iter().map(|host| host.addr(RELAY_PORT)).collect();
        let dir = TempDir::new().unwrap();
        // All hosts share a prefix here, which relays of one path otherwise never do.
        let rules = PathRules {
            ipv4_prefix: 0,
            ipv6_prefix: 0,
        };
        let dht = PrivateDht::start_on(&python, &dht_host);
        let known: Vec<Target> = dht.nodes[..3].iter().copied().map(Target::ip).collect();
        let network = Network::edited(dir.path(), &addrs, RELAYS, EXITS, rules, |config| {
            config.roles.introduce = true;
            if config.roles.exit {
                config.dht = Some(RelayDht {
                    bootstrap: known.clone(),
                    ..RelayDht::default()
                });
            }
        });
        let relays = hosts.iter().zip(&network.relays).map(|(host, relay)| {
            let mut command = host.command(PROGRAM);
            command.args(relay.args()).args(["--log", "debug"]);
            let mut process = Process::spawn("relay", command);
            process.wait_for_line(PATIENCE, |line| line.contains("listens on"));
            process
        });
        let mut relays: Vec<Process> = relays.collect();
        for exit in &mut relays[RELAYS - EXITS..] {
            exit.wait_for_line(2 * PATIENCE, |line| line.contains("the table is filled"));
        }
        for (version, seed) in [("one", 11), ("two", 12), ("three", 13)] {
            let folder = dir.path().join(version);
            std::fs::create_dir(&folder).unwrap();
            write_noise(&folder.join(NAME), SIZE, seed);
        }
        Some(Self {
            publisher,
            reader,
            network,
            _relays: relays,
            dht_host,
            _dht: dht,
            dir,
            _world: world,
        })
    }

    fn content(&self, version: &str) -> PathBuf {
        self.dir.path().join(version).join(NAME)
    }

    fn with_network(&self, mut command: Command, state: &str) -> Process {
        let state_dir = self.dir.path().join(format!("state-{state}"));
        command
            .args(["--json", "--log", "debug"])
            .args([Path::new("--network"), &self.network.file])
            .args([Path::new("--state"), &state_dir]);
        Process::spawn(state, command)
    }

    /// Publishes a version; gives the links of the torrent and of the feed too, once it stands in the DHT.
    fn publish(&self, version: &str) -> (Process, Magnet, String) {
        let mut command = self.publisher.command(PROGRAM);
        command
            .args(["seed", "--feed", FEED])
            .arg(self.content(version));
        let mut process = self.with_network(command, "publisher");
        let made = process.wait_for_event(2 * PATIENCE, "seeding");
        let link = process.wait_for_event(PATIENCE, "feed")["link"].clone();
        process.wait_for_event(4 * PATIENCE, "published");
        let magnet = Magnet::parse(made["magnet"].as_str().unwrap()).unwrap();
        (process, magnet, link.as_str().unwrap().to_owned())
    }

    fn get(&self, link: &str, out: &Path, more: &[&str]) -> Process {
        let mut command = self.reader.command(PROGRAM);
        command.args(["get", link]).args(more);
        command.arg("--output").arg(out);
        self.with_network(command, "reader")
    }

    fn assert_arrived(&self, version: &str, folder: &Path) {
        let (came, content) = (folder.join(NAME), self.content(version));
        assert_eq!(hash_file(&came), hash_file(&content), "{version}");
    }
}

/// Waits until the reader has noticed so many versions.
fn until_version(follow: &mut Process, count: usize) {
    follow.wait_until(6 * PATIENCE, |follow| {
        let noticed = follow.events("version").len() >= count;
        if !noticed {
            // Instead of waiting for half an hour.
            let id = follow.id().to_string();
            Command::new("kill").args(["-USR1", &id]).status().unwrap();
            sleep(Duration::from_secs(5));
        }
        noticed.then_some(())
    });
}

fn folder(event: &serde_json::Value) -> PathBuf {
    PathBuf::from(event["folder"].as_str().unwrap())
}

#[test]
fn one_link_brings_each_new_version_and_the_dhts_nodes_see_neither_torrent_nor_name() {
    let Some(scene) = Scene::new() else {
        return;
    };
    // For their links alone, so that it is known what to look for.
    let (mut first, one, link) = scene.publish("one");
    assert!(first.stop(PATIENCE).success(), "{}", first.tails());
    let Ok(Some(FeedLink::Sealed(feed))) = FeedLink::parse(&link) else {
        panic!("not a feed's link: {link}");
    };
    let hex = HEXLOWER.encode(&one.hash.0);
    let needles: Vec<&[u8]> = vec![
        &feed.public.0,
        &one.hash.0,
        hex.as_bytes(),
        NAME.as_bytes(),
        FEED.as_bytes(),
        &one.seeds[0].key,
        &one.seeds[0].points()[0].introduction.0,
        feed.secret().as_bytes(),
    ];
    let nodes = Capture::start(&scene.dht_host, &needles);
    let (mut first, _, again) = scene.publish("one");
    assert_eq!(again, link, "the feed's link is another after a restart");

    let out = TempDir::new().unwrap();
    let mut get = scene.get(&link, out.path(), &[]);
    let status = get.wait(8 * PATIENCE);
    assert!(status.success(), "{}\n{}", get.tails(), first.tails());
    let folder_one = folder(&get.events("version")[0]);
    scene.assert_arrived("one", &folder_one);
    let seen = nodes.stop();
    assert!(!seen.found(0).is_empty(), "the item goes by this cable");
    for needle in 1..needles.len() {
        let found = seen.found(needle);
        assert!(found.is_empty(), "needle {needle}: {found:?}");
    }

    // The reader stays, with what it has.
    let mut follow = scene.get(&link, out.path(), &["--follow"]);
    follow.wait_for_event(4 * PATIENCE, "complete");
    assert_eq!(folder(&follow.events("version")[0]), folder_one);
    // Who has something of his own under that name keeps it.
    let own = out.path().join(NAME);
    std::fs::write(&own, "the reader's").unwrap();
    assert!(first.stop(PATIENCE).success());
    let (second, two, same) = scene.publish("two");
    assert_eq!(same, link, "the new version has another link");
    assert_ne!(two.hash, one.hash);
    until_version(&mut follow, 2);
    follow.wait_until(6 * PATIENCE, |follow| {
        (follow.events("complete").len() == 2).then_some(())
    });
    let versions = follow.events("version");
    let folder_two = folder(&versions[1]);
    assert_ne!(folder_one, folder_two);
    assert!(versions[1]["number"].as_u64() > versions[0]["number"].as_u64());
    scene.assert_arrived("one", &folder_one);
    scene.assert_arrived("two", &folder_two);
    assert_eq!(std::fs::read_to_string(&own).unwrap(), "the reader's");

    // It goes on sharing the newest.
    follow.wait_until(PATIENCE, |follow| {
        let progress = follow.events("progress");
        (progress.last()?["state"] == "seeding").then_some(())
    });
    assert!(follow.exit_status().is_none());

    // A version whose publisher goes before it has come does not keep the reader from the next one.
    drop(second);
    let (mut third, _, _) = scene.publish("three");
    third.kill();
    until_version(&mut follow, 3);
    let (_fourth, again, _) = scene.publish("two");
    assert_eq!(again.hash, two.hash);
    until_version(&mut follow, 4);
    let patience = 6 * PATIENCE;
    follow.wait_until(patience, |follow| {
        (follow.events("complete").len() == 3).then_some(())
    });
    let versions = follow.events("version");
    let (three, four) = (folder(&versions[2]), folder(&versions[3]));
    assert!(!three.join(NAME).exists(), "it came from nowhere");
    scene.assert_arrived("two", &four);
    scene.assert_arrived("two", &folder_two);
    assert_ne!(four, folder_two);
    follow.signal(Signal::INT);
    assert_eq!(
        follow.wait(PATIENCE).code(),
        Some(130),
        "{}",
        follow.tails()
    );
    for log in [follow.stderr(), get.stderr()] {
        for word in [&hex[..], NAME, FEED] {
            assert!(!log.to_lowercase().contains(word), "{word} in a log");
        }
    }
}

fn ours(args: &[&str]) -> (i32, String) {
    let dir = TempDir::new().unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(args).env("HOME", dir.path());
    for name in ["XDG_CONFIG_HOME", "XDG_STATE_HOME"] {
        command.env_remove(name);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), said)
}

#[test]
fn what_can_not_be_followed_or_published_is_refused_and_says_why() {
    let torrent = format!("magnet:?xt=urn:btih:{}", "ab".repeat(20));
    let feed = format!("magnet:?xs=urn:btpk:{}", "85".repeat(32));
    for (args, code, words) in [
        (vec!["get", "--follow", &torrent], 2, "names one torrent"),
        (
            vec!["get", "--follow", "magnet:?x.feed=AYq"],
            5,
            "copy it again",
        ),
        (
            vec!["get", &feed[..feed.len() - 1]],
            5,
            "copy the link again",
        ),
        (vec!["get", "--no-dht", &feed], 2, "leave --no-dht out"),
        (
            vec!["seed", "--feed", "a", "--no-dht", "/dev/null"],
            2,
            "leave --no-dht out",
        ),
        // Nothing is sent any other way.
        (vec!["get", &feed], 3, "no relay list"),
        (
            vec!["seed", "--feed", "a", "--ephemeral", "/dev/null"],
            2,
            "keeps no key",
        ),
        (
            vec!["seed", "--feed", "a", "--over", "tor", "/dev/null"],
            2,
            "--over tor",
        ),
        (
            vec!["seed", "--feed", "a", "/dev/null", "/dev/zero"],
            2,
            "one PATH",
        ),
    ] {
        let (exit, said) = ours(&args);
        assert_eq!(exit, code, "{args:?}: {said}");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(words), "{args:?}: {said}");
    }
}
