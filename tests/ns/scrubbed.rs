//! What a download shows of itself to trackers and peers, byte for byte: nothing that tells one user, session or torrent
//! from another but what it must (`L07`, `L08`, `L18` to `L24`, `L37`, `L43`, `L48` of the list of leaks).

use crate::support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};

use hushswarm::cli::connect::{OverlayArgs, Without};
use hushswarm::cli::routes::Loaded;
use hushswarm::cli::source::read_source;
use hushswarm::overlay::client::Client;
use hushswarm::route::circuits::CircuitRoute;
use hushswarm::route::{BoxFuture, BoxStream, Datagrams, Outside, RouteError};
use hushswarm::torrent::engine::{Engine, Job, Options, State};
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::relay_list::Proto;
use hushswarm_circuits::target::Target;
use serde_json::Value;
use support::PATIENCE;
use support::clients::{Torrent, Tracker};
use support::loopback::{Loopback, RecordPeer, with_peers};
use support::process::{Process, free_port};

/// Where the peer id and the infohash stand in a handshake (BEP 3), bytes.
const HASH: std::ops::Range<usize> = 28..48;
const ID: std::ops::Range<usize> = 48..68;
/// The whole of a canonical announce, in order.
const KEYS: [&str; 10] = [
    "info_hash",
    "peer_id",
    "port",
    "uploaded",
    "downloaded",
    "left",
    "key",
    "numwant",
    "compact",
    "no_peer_id",
];

fn bytes(hex: &Value) -> Vec<u8> {
    data_encoding::HEXLOWER
        .decode(hex.as_str().unwrap().as_bytes())
        .unwrap()
}

/// Value of a parameter of a recorded announce, as it was sent.
fn parameter(said: &Value, key: &str) -> String {
    let request = said["request"].as_str().unwrap();
    let query = request
        .split(' ')
        .nth(1)
        .unwrap()
        .split_once('?')
        .unwrap()
        .1;
    let pair = query
        .split('&')
        .find_map(|pair| pair.strip_prefix(&format!("{key}=")));
    pair.unwrap().to_owned()
}

/// Number of bytes that a percent-encoded value stands for.
fn decoded_len(value: &str) -> usize {
    value.len() - 2 * value.matches('%').count()
}

struct Scene {
    loopback: Loopback,
    torrents: Vec<Torrent>,
    trackers: [Tracker; 2],
    peer: RecordPeer,
}

impl Scene {
    /// Two torrents with two trackers each (both are asked only when the first fails), and a peer that has both.
    fn new(urls: impl Fn(&[Tracker; 2]) -> Vec<Vec<String>>) -> Self {
        let loopback = Loopback::start("off");
        let addr = SocketAddr::from(([127, 0, 9, 9], free_port([127, 0, 9, 9].into())));
        let trackers = [Tracker::start(None, &[addr]), Tracker::start(None, &[addr])];
        let torrents: Vec<Torrent> = (0..)
            .zip(urls(&trackers))
            .map(|(n, urls): (u64, _)| {
                let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
                loopback.torrent(&format!("t{n}.bin"), (1 << 20) + n, &urls)
            })
            .collect();
        let contents: Vec<_> = (0..torrents.len())
            .map(|n| loopback.content(&format!("t{n}.bin")))
            .collect();
        let shared: Vec<_> = torrents
            .iter()
            .zip(contents.iter().map(std::path::PathBuf::as_path))
            .collect();
        let peer = RecordPeer::start(Command::new("python3"), addr, &shared, "none");
        Self {
            torrents,
            trackers,
            peer,
            loopback,
        }
    }

    /// Downloads into a fresh folder with fresh state: another session, perhaps another user.
    fn session(&self, source: &str) {
        let fresh = tempfile::TempDir::new().unwrap();
        let mut command = Command::new(support::loopback::PROGRAM);
        command
            .args(["get", source, "--allow-private", "--json"])
            .arg("--network")
            .arg(&self.loopback.network.file)
            .arg("--output")
            .arg(fresh.path().join("out"))
            .arg("--state")
            .arg(fresh.path().join("state"));
        let mut get = Process::spawn("get", command);
        assert!(get.wait(PATIENCE).success(), "{}", get.tails());
    }
}

#[test]
fn handshakes_of_all_sessions_and_torrents_are_the_same_but_for_a_random_id() {
    let scene = Scene::new(|trackers| vec![vec![trackers[0].http.clone()]; 2]);
    for torrent in [0, 1, 0] {
        scene.session(&with_peers(&scene.torrents[torrent], &[scene.peer.addr]));
    }
    let hellos: Vec<Vec<u8>> = scene
        .peer
        .process
        .events("hello")
        .iter()
        .map(|hello| bytes(&hello["bytes"]))
        .collect();
    assert!(hellos.len() >= 3);
    let ids: BTreeSet<&[u8]> = hellos.iter().map(|hello| &hello[ID]).collect();
    assert_eq!(ids.len(), hellos.len(), "a peer id came twice");
    let starts: BTreeSet<&[u8]> = hellos.iter().map(|hello| &hello[..HASH.start]).collect();
    assert_eq!(starts.len(), 1, "reserved bits tell sessions apart");
    for id in ids {
        // Nothing that names a program: as Azureus (-XX1234-) or Shadow style would.
        assert!(!(id[0] == b'-' && id[7] == b'-'), "{id:?}");
    }
    let extended = scene.peer.process.events("extended");
    let shapes: BTreeSet<Vec<u8>> = extended.iter().map(|said| bytes(&said["bytes"])).collect();
    let expected = b"d1:md11:ut_metadatai1e6:ut_pexi3ee4:reqqi500ee".to_vec();
    assert_eq!(shapes, BTreeSet::from([expected]));
    assert!(extended.len() >= 3);
}

#[test]
fn announces_are_canonical_and_share_no_id_or_key() {
    let dead = "http://127.0.0.1:9/announce";
    let scene = Scene::new(|trackers| {
        // The second torrent's first tracker is dead, so that its other one is asked too.
        let [a, b] = trackers;
        vec![vec![a.http.clone()], vec![dead.to_owned(), b.http.clone()]]
    });
    for torrent in [0, 1, 0] {
        scene.session(&scene.torrents[torrent].magnet);
    }
    let said: Vec<Value> = scene.trackers.iter().flat_map(Tracker::announces).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    for said in &said {
        let keys: Vec<&str> = said["keys"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(keys, KEYS, "{said}");
        assert_eq!(parameter(said, "port"), "1");
        assert_eq!(decoded_len(&parameter(said, "peer_id")), 20);
        assert!(!parameter(said, "peer_id").starts_with('-'), "{said}");
        // Coarse steps of 64 MiB, not what is left.
        assert_eq!(parameter(said, "left"), "67108864");
        assert_eq!(parameter(said, "downloaded"), "0");
        let headers: Vec<&str> = said["headers"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert!(headers[0].starts_with("Host: 127.0.0.1:"), "{headers:?}");
        let rest = [
            "User-Agent: curl/7.81.0",
            "Accept-Encoding: identity",
            "Connection: close",
        ];
        assert_eq!(headers[1..], rest);
    }
    for key in ["peer_id", "key"] {
        let values: BTreeSet<String> = said.iter().map(|said| parameter(said, key)).collect();
        assert_eq!(values.len(), said.len(), "{key} came twice");
    }
}

#[test]
fn udp_announces_hold_no_address_and_no_event() {
    let scene = Scene::new(|trackers| trackers.iter().map(|t| vec![t.udp.clone()]).collect());
    for torrent in [0, 1] {
        scene.session(&scene.torrents[torrent].magnet);
    }
    let said: Vec<Value> = scene.trackers.iter().flat_map(Tracker::announces).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    for said in &said {
        assert_eq!(said["transport"], "udp");
        assert_eq!(said["told_ip"], "00000000");
        assert_eq!(said["told_port"], 1);
        assert_eq!(said["told_event"], 0);
        assert_eq!(
            (&said["uploaded"], &said["downloaded"]),
            (&0.into(), &0.into())
        );
        assert_eq!(said["left"], 64 << 20);
        assert_eq!(bytes(&said["peer_id"]).len(), 20);
    }
    assert_ne!(said[0]["key"], said[1]["key"]);
    assert_ne!(said[0]["peer_id"], said[1]["peer_id"]);
}

/// The route of one torrent, which writes down the port of each target and the number of the circuit to it.
struct Recorder {
    client: Client,
    seen: Arc<Mutex<Vec<(u16, u64)>>>,
}

impl Outside for Recorder {
    fn connect<'a>(
        &'a self,
        target: &'a Target,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        Box::pin(async move {
            let route = CircuitRoute::new(self.client.clone());
            let stream = route.connect(target, isolation).await?;
            // The same key gives the circuit that the stream is in.
            let circuit = self
                .client
                .circuit(isolation, Proto::Tcp, Some(target), &[]);
            let number = circuit.await.unwrap().number();
            self.seen.lock().unwrap().push((target.port, number));
            Ok(stream)
        })
    }

    fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        Box::pin(async { Err(RouteError::Refused) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn torrents_and_their_trackers_share_no_circuit() {
    let scene = tokio::task::block_in_place(|| {
        Scene::new(|trackers| trackers.iter().map(|t| vec![t.http.clone()]).collect())
    });
    let dir = tempfile::TempDir::new().unwrap();
    let overlay = OverlayArgs {
        network: Some(scene.loopback.network.file.clone()),
        no_padding: false,
        hops: 3,
        first_link: None,
        state: Some(dir.path().join("state")),
    };
    let routes = Loaded::default();
    let connected = overlay.connect(Without::Fails, &routes).unwrap();
    // All at once, with one client.
    let downloads: Vec<_> = scene
        .torrents
        .iter()
        .map(|torrent| {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let outside = Arc::new(Recorder {
                client: connected.client.clone(),
                seen: Arc::clone(&seen),
            });
            let mut options = Options::new(dir.path().join("state"));
            options.allow_private = true;
            let job = Job {
                source: read_source(&torrent.magnet).unwrap(),
                output: dir.path().join("out"),
                seed_after: false,
                overwrite: false,
                info: None,
            };
            (Engine::new(outside, options).download(job), seen)
        })
        .collect();
    let mut groups: Vec<BTreeSet<u64>> = Vec::new();
    for (handle, seen) in &downloads {
        let last = tokio::time::timeout(PATIENCE, handle.finished()).await;
        assert_eq!(last.unwrap().state, State::Done);
        let seen = seen.lock().unwrap();
        let peer = scene.peer.addr.port();
        let (peers, trackers): (Vec<_>, Vec<_>) = seen.iter().partition(|(port, _)| *port == peer);
        for group in [peers, trackers] {
            assert!(!group.is_empty());
            groups.push(group.into_iter().map(|(_, number)| number).collect());
        }
    }
    let all: BTreeSet<u64> = groups.iter().flatten().copied().collect();
    let sum: usize = groups.iter().map(BTreeSet::len).sum();
    assert_eq!(all.len(), sum, "a circuit serves two purposes: {groups:?}");
}
