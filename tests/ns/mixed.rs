//! A swarm of the clients that people use, through circuits: what no one of them has in full comes together, and what we make is
//! taken by all of them.

use crate::support;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hushswarm::torrent::engine::{Created, create_as};
use hushswarm::torrent::metainfo::Version;
use hushswarm_circuits::path::PathRules;
use support::clients::{
    Aria2, Libtorrent, Place, QBittorrent, Torrent, Transmission, installed, libtorrent_python,
};
use support::loopback::PROGRAM;
use support::network::Network;
use support::process::Process;
use support::world::{Host, World};
use support::{PATIENCE, write_noise};
use tempfile::TempDir;

const PORT: u16 = 6881;

/// A downloader, four hosts for clients, a guard, a middle and an exit.
struct Scene {
    client: Host,
    peers: [Host; 4],
    network: Network,
    python: PathBuf,
    dir: TempDir,
    _relays: Vec<Process>,
    /// Last, so that programs end before their hosts.
    _world: World,
}

impl Scene {
    fn new() -> Option<Self> {
        let python = libtorrent_python()?;
        let all = ["qbittorrent-nox", "transmission-daemon", "aria2c"];
        if !all.into_iter().all(installed) {
            return None;
        }
        let mut world = World::build()?;
        let client = world.host("client", 250);
        let names = ["libtorrent", "qbittorrent", "transmission", "aria2"];
        let mut ip = 20;
        let peers = names.map(|name| {
            ip += 1;
            world.host(name, ip)
        });
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
        let relays = hosts.iter().zip(&network.relays).map(|(host, relay)| {
            let mut command = host.command(PROGRAM);
            command.args(relay.args());
            let mut process = Process::spawn("relay", command);
            process.wait_for_line(PATIENCE, |line| line.contains("listens on"));
            process
        });
        Some(Self {
            _relays: relays.collect(),
            client,
            peers,
            network,
            python,
            dir,
            _world: world,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A torrent that we make of a folder.
    fn make(&self, folder: &Path, version: Version) -> (Created, Torrent) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let made = create_as(folder.to_owned(), Vec::new(), version, Arc::default());
        let made = runtime.block_on(made).unwrap();
        let info = &made.metainfo.info;
        let file = self.path(&format!("{}-{version:?}.torrent", info.name));
        fs::write(&file, &made.file).unwrap();
        let torrent = Torrent {
            file,
            infohash: info.hash.hex(),
            magnet: String::new(),
        };
        (made, torrent)
    }

    fn qbittorrent(&self) -> QBittorrent {
        let settings = format!(
            "[BitTorrent]\nSession\\Port={PORT}\nSession\\DHTEnabled=false\nSession\\LSDEnabled=false\nSession\\PeXEnabled=false\n\
             Session\\QueueingSystemEnabled=false\n"
        );
        let place = Place::on(&self.peers[1]);
        QBittorrent::start(&place, &settings, self.dir.path(), 8080)
    }

    /// Has a qBittorrent give what of this torrent lies in `folder`, once that was checked.
    fn give(&self, client: &mut QBittorrent, torrent: &Torrent, folder: &Path) {
        let file = format!("torrents=@{}", torrent.file.display());
        let folder = format!("savepath={}", folder.display());
        let said = client.call("torrents/add", &[&file, &folder]);
        assert_eq!(said.as_deref(), Some("Ok."), "{}", client.process.tails());
        let mut last = Vec::new();
        let known = || {
            last = client.torrents();
            let checked = last.iter().find(|one| {
                let begun = one["completed"].as_u64() > Some(0);
                let state = one["state"].as_str().unwrap_or("checking");
                // Of a hybrid torrent, its first name is that of version 2.
                let names = [&one["hash"], &one["infohash_v1"]];
                let known = names.iter().any(|name| **name == torrent.infohash.as_str());
                known && begun && !state.starts_with("checking")
            });
            checked.map(|_| ())
        };
        let end = std::time::Instant::now() + PATIENCE;
        let mut known = known;
        while known().is_none() {
            assert!(
                std::time::Instant::now() < end,
                "qbittorrent-nox: {}",
                torrent.infohash
            );
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    /// Downloads from these peers to a folder.
    fn get(&self, made: &Created, peers: &[SocketAddr], out: &str) {
        let info = &made.metainfo.info;
        let mut link = match &info.v2 {
            Some(v2) if info.pieces.is_empty() => {
                format!("magnet:?xt=urn:btmh:1220{}", v2.hash.hex())
            }
            Some(_) | None => format!("magnet:?xt=urn:btih:{}", info.hash.hex()),
        };
        for peer in peers {
            link += &format!("&x.pe={peer}");
        }
        let mut command = self.client.command(PROGRAM);
        command
            .args(["get", &link, "--json", "--allow-private"])
            .args([Path::new("--network"), &self.network.file])
            .args([Path::new("--output"), &self.path(out)])
            .args([Path::new("--state"), &self.path("state")]);
        let mut get = Process::spawn("get", command);
        assert!(get.wait(PATIENCE).success(), "{}", get.tails());
    }

    fn assert_same(&self, out: &str, name: &str, content: &Path) {
        let same = files(&self.path(out).join(name)) == files(content);
        assert!(same, "{out}: the files differ");
    }
}

/// Every file below a folder, by its path.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() {
            let below = files(&path).into_iter();
            out.extend(below.map(|(path, bytes)| (name.join(path), bytes)));
        } else {
            out.insert(name, fs::read(path).unwrap());
        }
    }
    out
}

/// So many small files, in folders of a hundred.
fn small_files(top: &Path, count: usize) {
    for n in 0..count {
        let folder = top.join(format!("{:03}", n / 100));
        fs::create_dir_all(&folder).unwrap();
        let len = n * 7 % 211;
        let byte = (n % 251) as u8;
        fs::write(folder.join(format!("{n:05}.txt")), vec![byte; len]).unwrap();
    }
}

#[test]
fn what_four_clients_have_a_part_of_each_comes_together() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let content = scene.path("content/things");
    fs::create_dir_all(&content).unwrap();
    let parts = ["a", "b", "c", "d"];
    for (seed, part) in (1..).zip(parts) {
        write_noise(&content.join(part), 2 << 20, seed);
    }
    let (made, torrent) = scene.make(&content, Version::V1);
    let within = (2 << 20) % made.metainfo.info.piece_len;
    assert_eq!(within, 0, "no piece lies in two parts");
    let folders = parts.map(|part| {
        let folder = scene.path(&format!("part-{part}"));
        fs::create_dir_all(folder.join("things")).unwrap();
        fs::copy(content.join(part), folder.join("things").join(part)).unwrap();
        folder
    });
    let [libtorrent, qbittorrent, transmission, aria2] = &scene.peers;
    let _a = Libtorrent::hold(&scene.python, Some(libtorrent), &torrent, &folders[0]);
    let mut b = scene.qbittorrent();
    scene.give(&mut b, &torrent, &folders[1]);
    let c = Transmission::hold(Some(transmission), &torrent, &folders[2]);
    let d = Aria2::hold(Some(aria2), &torrent, &folders[3]);
    let peers = [
        libtorrent.addr(PORT),
        qbittorrent.addr(PORT),
        c.addr,
        d.addr,
    ];
    scene.get(&made, &peers, "out");
    scene.assert_same("out", "things", &content);
}

#[test]
fn what_we_make_of_many_files_is_given_by_every_client_that_knows_its_version() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let [libtorrent, qbittorrent, transmission, aria2] = &scene.peers;
    let mut second = scene.qbittorrent();
    let second_addr = qbittorrent.addr(PORT);
    // Transmission 3.00 and aria2 1.36 know version 1 alone.
    let many = scene.path("content/many");
    small_files(&many, 10_000);
    let (made, torrent) = scene.make(&many, Version::V1);
    scene.give(&mut second, &torrent, &scene.path("content"));
    let third = Transmission::seed(Some(transmission), &torrent, &scene.path("content"));
    let fourth = Aria2::seed(Some(aria2), &torrent, &scene.path("content"));
    let peers = [second_addr, third.addr, fourth.addr];
    scene.get(&made, &peers, "out-many");
    scene.assert_same("out-many", "many", &many);

    let few = scene.path("content/few");
    small_files(&few, 300);
    write_noise(&few.join("large"), 3 << 20, 5);
    for version in [Version::Hybrid, Version::V2] {
        let (made, torrent) = scene.make(&few, version);
        scene.give(&mut second, &torrent, &scene.path("content"));
        let first = Libtorrent::seed(
            &scene.python,
            Some(libtorrent),
            &torrent,
            &scene.path("content"),
            None,
        );
        let out = format!("out-{version:?}");
        scene.get(&made, &[first.addr, second_addr], &out);
        scene.assert_same(&out, "few", &few);
    }
}
