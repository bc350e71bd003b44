//! A bare magnet link, an infohash and nothing else: peers are found in a private DHT of a hundred real foreign nodes. What
//! those nodes learn of a plain client, and what of `hushswarm get`.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

mod support;

use std::net::{IpAddr, SocketAddr};

use serde_json::json;
use support::capture::Captured;
use support::clients::Libtorrent;
use support::dht::{Learned, PrivateDht, Record, learned};
use support::scene::Scene;
use support::world::Host;
use tempfile::TempDir;

const SIZE: u64 = 2 << 20;
/// The DHT's host.
const DHT: u8 = 30;

struct DhtScene {
    scene: Scene,
    dht: PrivateDht,
    host: Host,
}

impl DhtScene {
    fn new() -> Option<Self> {
        let mut scene = Scene::new(SIZE, "none")?;
        let host = scene.host("dht", DHT);
        let dht = PrivateDht::start_on(&scene.python, &host);
        Some(Self { scene, dht, host })
    }

    /// The infohash and nothing else.
    fn magnet(&self) -> String {
        format!("magnet:?xt=urn:btih:{}", self.scene.torrent.infohash)
    }

    /// A few nodes that a newcomer knows.
    fn known(&self) -> Vec<SocketAddr> {
        self.dht.nodes[..3].to_vec()
    }

    /// A libtorrent that has the content and says so in the DHT alone.
    fn seed(&self) -> Libtorrent {
        let known = self.dht.nodes[50].to_string();
        self.scene.seed(None, &["--dht", &known])
    }

    fn learned(&self, records: &[Record], who: impl Fn(IpAddr) -> bool) -> Learned {
        learned(records, &self.scene.torrent.infohash, who)
    }
}

/// One line of the comparison, which `--nocapture` shows.
fn report(who: &str, learned: &Learned, asker: usize, captured: &Captured) {
    let sent: u64 = captured.sent("dht").iter().map(|flow| flow.packets).sum();
    let line = json!({
        "who": who, "nodes_asked": learned.asked.len(), "nodes_told_infohash": learned.told.len(),
        "nodes_told_asker": asker, "packets_to_nodes": learned.packets, "dht_packets_of_client": sent,
    });
    println!("{line}");
}

#[test]
fn a_plain_client_finds_a_seeder_by_bare_magnet_and_shows_itself_to_all_whom_it_asks() {
    let Some(mut world) = DhtScene::new() else {
        return;
    };
    let _seed = world.seed();
    let capture = world.scene.capture();
    let out = TempDir::new().unwrap();
    let mut more = Vec::new();
    let known: Vec<_> = world.known().iter().map(SocketAddr::to_string).collect();
    known.iter().for_each(|node| more.extend(["--dht", node]));
    let place = world.scene.outside();
    let (python, magnet) = (&world.scene.python, world.magnet());
    let mut get = Libtorrent::download(&place, python, "{}", &magnet, out.path(), &more);
    get.wait_done();
    world.scene.assert_arrived(out.path());
    drop(get);
    let captured = capture.stop();

    let records = world.dht.records();
    let client = world.learned(&records, |ip| world.scene.client.owns(ip));
    report("plain libtorrent", &client, client.asked.len(), &captured);
    // Who is asked learns who asks, and most learn what for.
    assert!(client.asked.len() >= 8, "{client:?}");
    assert!(client.told.len() >= 8, "{client:?}");
    let seen = captured.sent("dht");
    let nodes = seen
        .iter()
        .filter(|flow| flow.dst.ends_with(&format!(".{DHT}")));
    assert_eq!(
        nodes.count(),
        client.asked.len(),
        "the cable and the nodes' records tell the same"
    );
    assert!(!captured.found(0).is_empty(), "the infohash in the clear");
    let _ = &world.host;
}
