//! A bare magnet link, an infohash and nothing else: peers are found in a private DHT of a hundred real foreign nodes. What
//! those nodes learn of a plain client, and what of `hushswarm get`.
#![allow(clippy::print_stdout)]

use crate::support;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use data_encoding::HEXLOWER;
use hushswarm::config::RelayDht;
use hushswarm::krpc::{Item, ItemName};
use hushswarm_circuits::keys::IdentityKey;
use hushswarm_circuits::target::Target;
use serde_json::json;
use support::capture::{Capture, Captured};
use support::clients::{Aria2, Libtorrent, Transmission, installed};
use support::dht::{Learned, NETWORKS, PORT, PrivateDht, Record, learned};
use support::process::Process;
use support::scene::Scene;
use support::world::Host;
use support::{PATIENCE, fixture};
use tempfile::TempDir;

const SIZE: u64 = 2 << 20;
/// Tells the feeds of one publisher apart.
const SALT: &[u8] = b"letters";
/// The DHT's host.
const DHT: u8 = 30;

struct DhtScene {
    scene: Scene,
    dht: PrivateDht,
    host: Host,
}

impl DhtScene {
    /// `lookups`: the exits look up in the DHT for others.
    fn new(lookups: bool) -> Option<Self> {
        // It begins at the third node, as others do.
        let known = SocketAddr::from(([10, 77, *NETWORKS.start() + 2, DHT], PORT));
        let mut scene = Scene::edited(
            SIZE,
            "none",
            |_| Vec::new(),
            |config| {
                if lookups && config.roles.exit {
                    config.dht = Some(RelayDht {
                        bootstrap: vec![Target::ip(known)],
                        ..RelayDht::default()
                    });
                }
            },
        )?;
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
    fn seed(&mut self) -> Libtorrent {
        let known = self.dht.nodes[50].to_string();
        let seed = self.scene.seed(None, &["--dht", &known]);
        let infohash = self.scene.torrent.infohash.clone();
        self.dht.wait_for_announce(&infohash, &self.scene.seeder);
        seed
    }

    /// Downloads with ours. Where no exit looks up, it must know some nodes.
    fn get(&self, out: &Path, knows_nodes: bool) {
        let mut more = Vec::new();
        for node in self.known().iter().filter(|_| knows_nodes) {
            more.extend(["--dht-bootstrap".to_owned(), node.to_string()]);
        }
        let mut get = self.scene.get(&self.magnet(), out, &more);
        let status = get.wait(4 * PATIENCE);
        assert!(status.success(), "{}", get.tails());
        self.scene.assert_arrived(out);
    }

    fn learned(&self, records: &[Record], who: impl Fn(IpAddr) -> bool) -> Learned {
        learned(records, &self.scene.torrent.infohash, who)
    }
}

/// Flows between this host and the one whose cable was captured, but who is where, which is asked of every cable.
fn meetings(captured: &Captured, host: &Host) -> usize {
    let met = captured.flows.iter().filter(|flow| {
        let owned = |ip: &str| ip.parse().is_ok_and(|ip: IpAddr| host.owns(ip));
        !matches!(flow.class.as_str(), "arp" | "nd") && (owned(&flow.src) || owned(&flow.dst))
    });
    met.count()
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
    let Some(mut world) = DhtScene::new(false) else {
        return;
    };
    let _seed = world.seed();
    let (capture, nodes) = (world.scene.capture(), Capture::start(&world.host, &[]));
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
    let (captured, nodes) = (capture.stop(), nodes.stop());
    assert!(meetings(&nodes, &world.scene.client) >= 8);

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
}

/// Downloads with ours and checks what everybody saw; gives what the nodes learned through exits.
fn hushswarm_get_shows_no_node_who_asks(lookups: bool) {
    let Some(mut world) = DhtScene::new(lookups) else {
        return;
    };
    let seed = world.seed();
    let (capture, nodes) = (world.scene.capture(), Capture::start(&world.host, &[]));
    let out = TempDir::new().unwrap();
    world.get(out.path(), !lookups);
    let (captured, nodes) = (capture.stop(), nodes.stop());

    // To the guard, and nothing else; and the other ends never saw the client.
    world.scene.assert_silent(&captured);
    world.scene.assert_only_exits_came(&seed);
    let client = &world.scene.client;
    assert_eq!(
        meetings(&nodes, client),
        0,
        "the nodes' host met the client"
    );
    let records = world.dht.records();
    assert!(records.iter().all(|record| !client.owns(record.from.ip())));

    let learned = world.learned(&records, |ip| world.scene.is_exit(ip));
    let way = if lookups {
        "by the exit's service"
    } else {
        "by datagrams"
    };
    report(&format!("hushswarm get, {way}"), &learned, 0, &captured);
    assert!((1..=16).contains(&learned.told.len()), "{learned:?}");
    assert_queries_tell_nothing(&world, &records);
}

/// What exits asked names no user, client or session, and announces nobody.
fn assert_queries_tell_nothing(world: &DhtScene, records: &[Record]) {
    let asked = records
        .iter()
        .filter(|r| world.scene.is_exit(r.from.ip()) && r.said.kind == "q");
    let infohash = world.scene.torrent.infohash_bytes();
    let (mut ids, mut walked) = (BTreeSet::new(), 0);
    for record in asked {
        let said = &record.said;
        assert!(said.ro, "not read-only: {said:?}");
        assert_eq!(said.v, "", "it names its program: {said:?}");
        assert_eq!(said.announced, None, "it announces");
        assert_eq!(said.keys[0], ["a", "q", "ro", "t", "y"]);
        let target = data_encoding::HEXLOWER
            .decode(said.target.as_bytes())
            .unwrap();
        match said.query.as_str() {
            "find_node" => {
                assert_ne!(target, infohash, "the walk names it to all");
                walked += 1;
            }
            "get_peers" => assert_eq!(target, infohash),
            "ping" => {}
            other => panic!("an exit asks {other}"),
        }
        if said.target == world.scene.torrent.infohash {
            ids.insert(said.id.clone());
        }
    }
    assert_eq!(ids.len(), 1, "one id for one lookup");
    assert!(walked > 0, "it did not walk");
}

#[test]
fn hushswarm_get_finds_a_seeder_by_bare_magnet_through_datagrams_and_no_node_learns_who_asks() {
    hushswarm_get_shows_no_node_who_asks(false);
}

#[test]
fn hushswarm_get_finds_a_seeder_by_bare_magnet_through_an_exits_lookups_and_no_node_learns_who_asks()
 {
    hushswarm_get_shows_no_node_who_asks(true);
}

/// Has every node keep that this publisher's newest is this torrent (BEP 46).
fn put_feed(world: &DhtScene, publisher: &IdentityKey, seq: i64, infohash: &[u8]) {
    let value = [b"d2:ih20:", infohash, b"e"].concat();
    let item = Item::sign(publisher, SALT, seq, &value).unwrap();
    let signature = item.signed().unwrap().signature;
    let hex = |bytes: &[u8]| HEXLOWER.encode(bytes);
    let mut command = world.host.command(&world.scene.python);
    command
        .arg(fixture("dht_put.py"))
        .args(["--key", &hex(&publisher.public().0), "--salt", &hex(SALT)])
        .args(["--seq", &seq.to_string(), "--signature", &hex(&signature)])
        .args(["--value", &hex(&value), "--target", &hex(&item.target().0)])
        .args(world.dht.nodes.iter().map(SocketAddr::to_string));
    let mut put = Process::spawn("put", command);
    let told = put.wait_for_event(PATIENCE, "put");
    assert_eq!(told["nodes"], world.dht.nodes.len(), "{told}");
}

#[test]
fn the_feed_of_another_publisher_is_read_and_no_node_learns_who_reads_it() {
    let Some(mut world) = DhtScene::new(true) else {
        return;
    };
    let _seed = world.seed();
    let publisher = IdentityKey::generate(&mut rand::rng());
    let (key, salt) = (
        HEXLOWER.encode(&publisher.public().0),
        HEXLOWER.encode(SALT),
    );
    let link = format!("magnet:?xs=urn:btpk:{key}&s={salt}");
    put_feed(&world, &publisher, 4, &[0xee; 20]);
    put_feed(&world, &publisher, 5, &world.scene.torrent.infohash_bytes());
    let capture = world.scene.capture();
    let out = TempDir::new().unwrap();
    let mut get = world.scene.get(&link, out.path(), &[]);
    let status = get.wait(4 * PATIENCE);
    assert!(status.success(), "{}", get.tails());
    let version = get.events("version").remove(0);
    assert_eq!(version["number"], 5);
    let folder = format!("5-{}", &world.scene.torrent.infohash[..8]);
    world.scene.assert_arrived(&out.path().join(folder));
    // To the guard, and nothing else.
    world.scene.assert_silent(&capture.stop());
    let target = ItemName::mutable(&publisher.public().0, SALT)
        .unwrap()
        .target();
    let target = HEXLOWER.encode(&target.0);
    let records = world.dht.records();
    let asked = |record: &&Record| record.said.target == target && record.said.query == "get";
    let mut askers = records.iter().filter(asked).map(|record| record.from.ip());
    assert!(
        askers.any(|ip| world.scene.is_exit(ip)),
        "an exit asked for it"
    );
    let client = &world.scene.client;
    assert!(records.iter().all(|record| !client.owns(record.from.ip())));
}

#[test]
fn what_aria2_and_transmission_announce_is_found_too() {
    if !installed("aria2c") || !installed("transmission-daemon") {
        return;
    }
    let Some(mut world) = DhtScene::new(true) else {
        return;
    };
    let other = world.scene.host("other", 22);
    let infohash = world.scene.torrent.infohash.clone();
    let (torrent, content) = (&world.scene.torrent, world.scene.content.path());
    let (known, capture) = (Some(world.dht.nodes[20]), world.scene.capture());
    let aria2 = Aria2::seed_known_to(Some(&world.scene.seeder), torrent, content, known);
    world.dht.wait_for_announce(&infohash, &world.scene.seeder);
    world.get(TempDir::new().unwrap().path(), false);
    drop(aria2);
    let _transmission = Transmission::seed_known_to(Some(&other), torrent, content, known);
    world.dht.wait_for_announce(&infohash, &other);
    world.get(TempDir::new().unwrap().path(), false);
    world.scene.assert_silent(&capture.stop());
}
