//! `hushswarm seed` on a host that could reach the whole world directly: a real client gets the content, and sees only
//! exits.

use crate::support;

use std::net::SocketAddr;
use std::path::Path;

use hushswarm_circuits::path::PathRules;
use rustix::process::Signal;
use support::capture::Capture;
use support::clients::{Libtorrent, Tracker, libtorrent_python};
use support::loopback::PROGRAM;
use support::network::Network;
use support::process::{Process, run};
use support::world::{Host, World};
use support::{PATIENCE, hash_file, write_noise};
use tempfile::TempDir;

const NAME: &str = "archive.bin";

#[test]
fn a_real_client_gets_a_seeds_content_and_meets_only_exits() {
    let Some(python) = libtorrent_python() else {
        return;
    };
    let Some(mut world) = World::build() else {
        return;
    };
    let (seeder, leecher) = (world.host("seeder", 250), world.host("leecher", 22));
    let tracker = Tracker::start(Some(&world.host("tracker", 20)), &[]);
    // A guard, a middle, an exit.
    let hosts: Vec<Host> = (0..3)
        .map(|n| world.host(&format!("relay{n}"), 101 + n))
        .collect();
    let addrs: Vec<SocketAddr> = hosts.iter().map(|host| host.addr(9001)).collect();
    let dir = TempDir::new().unwrap();
    let rules = PathRules {
        ipv4_prefix: 0,
        ipv6_prefix: 0,
    };
    let network = Network::at(dir.path(), &addrs, 1, 1, rules);
    let _relays: Vec<Process> = hosts
        .iter()
        .zip(&network.relays)
        .map(|(host, relay)| {
            let mut command = host.command(PROGRAM);
            command.args(relay.args());
            let mut process = Process::spawn("relay", command);
            process.wait_for_line(PATIENCE, |line| line.contains("listens on"));
            process
        })
        .collect();
    let content = dir.path().join(NAME);
    write_noise(&content, 16 << 20, 5);
    let file = dir.path().join("made.torrent");
    let seed = || {
        let mut command = seeder.command(PROGRAM);
        command
            .args([
                "seed",
                "--tracker",
                &tracker.http,
                "--allow-private",
                "--json",
            ])
            .args(["--log", "debug"])
            .args([Path::new("--torrent"), &file])
            .args([Path::new("--network"), &network.file])
            .args([Path::new("--state"), &dir.path().join("state")])
            .arg(&content);
        let mut process = Process::spawn("seed", command);
        let made = process.wait_for_event(PATIENCE, "seeding");
        (process, made["magnet"].as_str().unwrap().to_owned())
    };
    let capture = Capture::start(
        &seeder,
        &[NAME.as_bytes(), seeder.ip4.to_string().as_bytes()],
    );

    // The first run is for the link, and for its end.
    let (mut first, magnet) = seed();
    first.wait_until(PATIENCE, |_| {
        (!tracker.announces().is_empty()).then_some(())
    });
    first.signal(Signal::INT);
    assert_eq!(first.wait(PATIENCE).code(), Some(0), "{}", first.tails());

    // The second finds a client that already waits, and calls it.
    let out = TempDir::new().unwrap();
    let mut client = Libtorrent::get(&python, Some(&leecher), &magnet, out.path(), &[], None);
    let ip = leecher.ip4.to_string();
    client.process.wait_until(PATIENCE, |_| {
        let announces = tracker.announces();
        announces.iter().any(|said| said["ip"] == ip).then_some(())
    });
    let (mut second, again) = seed();
    assert_eq!(magnet, again, "the same content has another link");
    client.wait_done();
    assert_eq!(hash_file(&out.path().join(NAME)), hash_file(&content));
    let seen = client.peers();
    assert!(!seen.is_empty());
    for peer in &seen {
        assert!(hosts[2].owns(peer.addr.ip()), "the client saw {peer:?}");
        assert!(!peer.client.to_lowercase().contains("hush"), "{peer:?}");
    }
    for said in tracker.announces() {
        let from = said["ip"].as_str().unwrap().parse().unwrap();
        assert!(hosts[2].owns(from) || leecher.owns(from), "{said}");
        let text = said.to_string();
        assert!(!text.contains(&seeder.ip4.to_string()), "{text}");
    }
    second.signal(Signal::INT);
    assert_eq!(second.wait(PATIENCE).code(), Some(0), "{}", second.tails());
    let captured = capture.stop();
    captured.assert_only_to(&addrs[..1]);
    assert!(captured.found(0).is_empty() && captured.found(1).is_empty());

    // libtorrent reads the file, and it is the torrent of the link.
    let mut read = std::process::Command::new(&python);
    let script = "import sys, libtorrent as lt; t = lt.torrent_info(sys.argv[1]); \
                  print(t.info_hash(), t.total_size(), repr(t.creator()), repr(t.comment()), t.creation_date())";
    read.args(["-c", script]).arg(&file);
    let said = run(read);
    let said: Vec<&str> = said.split_whitespace().collect();
    assert!(magnet.contains(said[0]), "{said:?} and {magnet}");
    assert_eq!(said[1..4], ["16777216", "''", "''"]);
    // Nor does it say who made it, when, or where.
    let bytes = std::fs::read(&file).unwrap();
    let folder = dir.path().to_str().unwrap().to_owned();
    for absent in [
        "created by",
        "creation date",
        "comment",
        "hushswarm",
        &folder,
    ] {
        let found = bytes
            .windows(absent.len())
            .any(|at| at == absent.as_bytes());
        assert!(!found, "the torrent file holds {absent:?}");
    }
}
