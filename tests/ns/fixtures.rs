//! The fixtures work, before anything is concluded from them: real clients transfer between namespaces, and each says
//! truly whom it saw.
#![allow(clippy::unwrap_used)] // a broken set-up is a failed test

use crate::support;

use std::path::{Path, PathBuf};

use support::capture::Capture;
use support::clients::{
    Aria2, DhtNode, Libtorrent, Place, QBittorrent, SeenPeer, Torrent, Tracker, Transmission,
    aria2_get, installed, libtorrent_python,
};
use support::world::{Host, World};
use support::{PATIENCE, hash_file, write_noise};
use tempfile::TempDir;

const SIZE: u64 = 4 << 20;
const NAME: &str = "content.bin";

struct Swarm {
    client: Host,
    seeder: Host,
    tracker: Tracker,
    torrent: Torrent,
    folder: TempDir,
    python: PathBuf,
    // Last, so that programs end before their hosts.
    _world: World,
}

/// A client, a seeder's host with 4 MiB to seed, and a tracker whose URL of one kind the torrent names.
fn swarm(transport: &str) -> Option<Swarm> {
    let python = libtorrent_python()?;
    let mut world = World::build()?;
    let (client, seeder) = (world.host("client", 2), world.host("seeder", 21));
    let tracker = Tracker::start(Some(&world.host("tracker", 20)), &[]);
    let folder = TempDir::new().unwrap();
    let content = folder.path().join(NAME);
    write_noise(&content, SIZE, 1);
    let url = if transport == "udp" {
        &tracker.udp
    } else {
        &tracker.http
    };
    let torrent = Torrent::make(&content, &folder.path().join("t.torrent"), &[url], 65536);
    Some(Swarm {
        client,
        seeder,
        tracker,
        torrent,
        folder,
        python,
        _world: world,
    })
}

fn assert_same(swarm: &Swarm, got: &Path) {
    assert_eq!(
        hash_file(&got.join(NAME)),
        hash_file(&swarm.folder.path().join(NAME))
    );
}

#[test]
fn libtorrent_downloads_from_libtorrent_by_magnet_and_http_tracker() {
    let Some(swarm) = swarm("http") else { return };
    let capture = Capture::start(&swarm.client, &[&swarm.torrent.infohash_bytes()]);
    let mut seed = Libtorrent::seed(
        &swarm.python,
        Some(&swarm.seeder),
        &swarm.torrent,
        swarm.folder.path(),
        None,
    );
    let got = TempDir::new().unwrap();
    let source = &swarm.torrent.magnet;
    let mut get = Libtorrent::get(
        &swarm.python,
        Some(&swarm.client),
        source,
        got.path(),
        &[],
        None,
    );
    get.wait_done();
    assert_same(&swarm, got.path());

    let client = seed.wait_for_peer(|peer| peer.uploaded.unwrap() >= SIZE);
    assert!(client.client.contains("libtorrent"), "{client:?}");
    assert!(
        seed.peers()
            .iter()
            .all(|peer| swarm.client.owns(peer.addr.ip())),
        "{:?}",
        seed.peers()
    );
    get.process.stop(PATIENCE);
    seed.process.stop(PATIENCE);

    let announces = swarm.tracker.announces();
    let from = |host: &Host| {
        announces
            .iter()
            .any(|said| said["ip"] == host.ip4.to_string())
    };
    assert!(from(&swarm.client) && from(&swarm.seeder), "{announces:#?}");
    assert!(
        announces
            .iter()
            .all(|said| said["infohash"] == swarm.torrent.infohash.as_str())
    );

    let captured = capture.stop();
    assert!(!captured.sent("peer-tcp").is_empty(), "{captured:#?}");
    assert!(!captured.sent("http-tracker").is_empty(), "{captured:#?}");
    assert!(
        !captured.found(0).is_empty(),
        "the handshake carries the infohash in clear"
    );
}

#[test]
fn libtorrent_downloads_by_torrent_file_and_udp_tracker() {
    let Some(swarm) = swarm("udp") else { return };
    let seed = Libtorrent::seed(
        &swarm.python,
        Some(&swarm.seeder),
        &swarm.torrent,
        swarm.folder.path(),
        Some(8 << 20),
    );
    let got = TempDir::new().unwrap();
    let source = swarm.torrent.file.to_str().unwrap();
    let mut get = Libtorrent::get(
        &swarm.python,
        Some(&swarm.client),
        source,
        got.path(),
        &[],
        None,
    );
    get.wait_done();
    assert_same(&swarm, got.path());
    let announces = swarm.tracker.announces();
    assert!(
        announces
            .iter()
            .any(|said| said["transport"] == "udp" && said["left"] == SIZE)
    );
    assert!(
        seed.peers()
            .iter()
            .any(|peer| swarm.client.owns(peer.addr.ip()))
    );
}

/// Downloads from a seeder that is not libtorrent and gives the peers that it saw.
fn download_from(swarm: &Swarm, addr: std::net::SocketAddr, peers: impl Fn() -> Vec<SeenPeer>) {
    let got = TempDir::new().unwrap();
    let source = swarm.torrent.file.to_str().unwrap();
    let python = &swarm.python;
    let mut get = Libtorrent::get(
        python,
        Some(&swarm.client),
        source,
        got.path(),
        &[addr],
        Some(2 << 20),
    );
    // The seeder lists only those who are connected now, so the download is slow enough to ask meanwhile.
    let seen = get
        .process
        .wait_until(PATIENCE, |_| Some(peers()).filter(|seen| !seen.is_empty()));
    assert!(
        seen.iter().all(|peer| swarm.client.owns(peer.addr.ip())),
        "{seen:?}"
    );
    get.wait_done();
    assert_same(swarm, got.path());
}

#[test]
fn aria2_seeds_and_lists_its_peers() {
    let Some(swarm) = installed("aria2c").then(|| swarm("http")).flatten() else {
        return;
    };
    let seed = Aria2::seed(Some(&swarm.seeder), &swarm.torrent, swarm.folder.path());
    download_from(&swarm, seed.addr, || seed.peers());
}

#[test]
fn transmission_seeds_and_lists_its_peers() {
    let Some(swarm) = installed("transmission-daemon")
        .then(|| swarm("http"))
        .flatten()
    else {
        return;
    };
    let seed = Transmission::seed(Some(&swarm.seeder), &swarm.torrent, swarm.folder.path());
    download_from(&swarm, seed.addr, || seed.peers());
}

#[test]
fn a_cable_that_is_pulled_carries_nothing_until_it_is_plugged_in() {
    let Some(mut world) = World::build() else {
        return;
    };
    let (client, other) = (world.host("client", 2), world.host("other", 11));
    let ping = || {
        let connect = "import socket, sys\ns = socket.socket(); s.settimeout(1)\ntry: s.connect((sys.argv[1], 9))\nexcept ConnectionRefusedError: sys.exit(0)\nexcept OSError: sys.exit(1)";
        let mut python = client.command("python3");
        python
            .args(["-c", connect, &other.ip4.to_string()])
            .status()
            .unwrap()
            .success()
    };
    assert!(ping());
    client.plug(false);
    assert!(!ping());
    client.plug(true);
    let deadline = std::time::Instant::now() + PATIENCE;
    while !ping() {
        assert!(std::time::Instant::now() < deadline, "the cable stays dead");
    }
}

#[test]
fn qbittorrent_downloads_by_magnet_and_file() {
    let Some(swarm) = installed("qbittorrent-nox")
        .then(|| swarm("http"))
        .flatten()
    else {
        return;
    };
    let seed = Libtorrent::seed(
        &swarm.python,
        Some(&swarm.seeder),
        &swarm.torrent,
        swarm.folder.path(),
        None,
    );
    for source in [&swarm.torrent.magnet, swarm.torrent.file.to_str().unwrap()] {
        let got = TempDir::new().unwrap();
        let place = Place::on(&swarm.client);
        let mut client = QBittorrent::start(&place, "", got.path(), 8080);
        client.add(source);
        client.wait_done();
        assert_same(&swarm, got.path());
    }
    let seen = seed.peers();
    assert!(
        seen.iter().any(|peer| peer.client.contains("qBittorrent")),
        "{seen:?}"
    );
}

#[test]
fn transmission_and_aria2_download() {
    if !installed("aria2c") || !installed("transmission-daemon") {
        return;
    }
    let Some(swarm) = swarm("http") else { return };
    let _seed = Libtorrent::seed_with(
        &swarm.python,
        Some(&swarm.seeder),
        &swarm.torrent,
        swarm.folder.path(),
        None,
        &["--utp"],
    );
    let place = Place::on(&swarm.client);
    let got = TempDir::new().unwrap();
    let mut client = Transmission::download(
        &place,
        "{\"dht-enabled\":false,\"port-forwarding-enabled\":false,\"utp-enabled\":false}",
        &swarm.torrent.magnet,
        got.path(),
    );
    client.wait_done();
    assert_same(&swarm, got.path());
    drop(client);
    let got = TempDir::new().unwrap();
    let mut client = aria2_get(&place, "", &swarm.torrent.magnet, got.path());
    assert!(client.wait(PATIENCE).success(), "{}", client.tails());
    assert_same(&swarm, got.path());
}

#[test]
fn a_private_dht_of_real_nodes_brings_peers_together_over_utp() {
    let Some(mut world) = World::build() else {
        return;
    };
    let Some(python) = libtorrent_python() else {
        return;
    };
    let (client, seeder) = (world.host("client", 2), world.host("seeder", 21));
    let mut nodes: Vec<DhtNode> = Vec::new();
    for number in 31..35 {
        let others: Vec<_> = nodes.iter().map(|node| node.addr).collect();
        let host = world.host("node", number);
        nodes.push(DhtNode::start(&python, &host, &others));
    }
    let folder = TempDir::new().unwrap();
    let content = folder.path().join(NAME);
    write_noise(&content, SIZE, 1);
    let torrent = Torrent::make(&content, &folder.path().join("t.torrent"), &[], 65536);
    let known = nodes[0].addr.to_string();
    let _seed = Libtorrent::seed_with(
        &python,
        Some(&seeder),
        &torrent,
        folder.path(),
        None,
        &["--no-tcp", "--dht", &known],
    );
    let got = TempDir::new().unwrap();
    let place = Place::on(&client);
    let capture = Capture::start(&client, &[]);
    let mut get = Libtorrent::download(
        &place,
        &python,
        "{}",
        &torrent.magnet,
        got.path(),
        &["--dht", &known],
    );
    get.wait_done();
    assert_eq!(hash_file(&got.path().join(NAME)), hash_file(&content));
    let asked = |node: &DhtNode| node.askers().iter().any(|from| client.owns(from.ip()));
    assert!(nodes.iter().any(asked), "no node was asked by the client");
    let captured = capture.stop();
    // uTP to the seeder runs between the very ports of the DHT messages, and counts as those.
    assert!(!captured.sent("dht").is_empty(), "{captured:#?}");
    assert!(captured.sent("peer-tcp").is_empty(), "{captured:#?}");
}
