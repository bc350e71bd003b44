#![allow(clippy::unwrap_used)]
use super::super::TrackerClient;
use super::super::announce::{AnnounceError, AnnounceResponse};
use super::super::fake::{Answer, World, isolation, request};
use super::*;
use proptest::prelude::*;
use std::sync::{Arc, Mutex};

const INTERVAL: Duration = Duration::from_secs(600);
const HASH: [u8; 20] = [b'h'; 20];

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn head(id: char, port: u16, more: &str) -> String {
    let (hash, id) = ("h".repeat(20), id.to_string().repeat(20));
    format!(
        "GET /announce?info_hash={hash}&peer_id={id}&port={port}&{more} HTTP/1.1\r\nHost: t\r\n\r\n"
    )
}

/// What a client makes of a response.
fn read(response: &[u8]) -> Result<AnnounceResponse, AnnounceError> {
    let at = response.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    assert!(
        response.starts_with(b"HTTP/1.1 200 OK\r\n"),
        "{}",
        response.escape_ascii()
    );
    AnnounceResponse::parse(&response[at + 4..])
}

fn refusal(response: &[u8]) -> String {
    match read(response) {
        Err(AnnounceError::Failure(text)) => text.into_inner(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn peers_of_both_families_find_each_other() {
    let now = Instant::now();
    let mut tracker = Tracker::new(INTERVAL);
    let announce = |tracker: &mut Tracker, from: &str, id, port, more| {
        read(&tracker.handle(now, addr(from), head(id, port, more).as_bytes())).unwrap()
    };
    let first = announce(&mut tracker, "1.2.3.4:50000", 'a', 6881, "left=0");
    assert_eq!(
        (first.peers.len(), first.seeders, first.leechers),
        (0, Some(1), Some(0))
    );
    announce(&mut tracker, "[2606:4700::1]:50000", 'b', 6882, "left=5");
    announce(
        &mut tracker,
        "[::ffff:5.6.7.8]:50000",
        'c',
        6883,
        "left=5&event=started",
    );
    let found = announce(&mut tracker, "9.9.9.9:50000", 'd', NO_PORT, "left=5");
    assert_eq!(found.peers.len(), 3);
    for peer in ["1.2.3.4:6881", "[2606:4700::1]:6882", "5.6.7.8:6883"] {
        assert!(found.peers.contains(&addr(peer)), "{peer}");
    }
    assert_eq!(
        (found.seeders, found.leechers, found.interval),
        (Some(1), Some(3), INTERVAL)
    );
    // Nobody is told to call one who can't be reached.
    let again = announce(
        &mut tracker,
        "1.2.3.4:50001",
        'e',
        6881,
        "left=5&numwant=100",
    );
    assert!(again.peers.iter().all(|peer| peer.port() > NO_PORT));
    assert_eq!(
        announce(&mut tracker, "9.9.9.8:1", 'f', 9, "left=5&numwant=2")
            .peers
            .len(),
        2
    );
}

#[test]
fn seeds_are_not_told_of_seeds() {
    let now = Instant::now();
    let mut tracker = Tracker::new(INTERVAL);
    tracker.handle(now, addr("1.2.3.4:5"), head('a', 6881, "left=0").as_bytes());
    let answer = tracker.handle(now, addr("1.2.3.5:5"), head('b', 6881, "left=0").as_bytes());
    assert!(read(&answer).unwrap().peers.is_empty());
}

#[test]
fn who_stops_or_falls_silent_is_forgotten() {
    let now = Instant::now();
    let mut tracker = Tracker::new(INTERVAL);
    let from = addr("1.2.3.4:5");
    tracker.handle(now, from, head('a', 6881, "").as_bytes());
    assert_eq!(tracker.peer_count(&HASH), 1);
    // Another address can't sign it off.
    tracker.handle(
        now,
        addr("6.6.6.6:5"),
        head('a', 6881, "event=stopped").as_bytes(),
    );
    assert_eq!(tracker.peer_count(&HASH), 1);
    tracker.handle(now, from, head('a', 6881, "event=stopped").as_bytes());
    assert_eq!(tracker.peer_count(&HASH), 0);
    tracker.handle(now, from, head('a', 6881, "").as_bytes());
    let later = now + INTERVAL * 2;
    let answer = tracker.handle(later, addr("1.2.3.5:5"), head('b', 6881, "").as_bytes());
    assert!(read(&answer).unwrap().peers.is_empty());
}

#[test]
fn requests_that_are_no_announce_are_refused() {
    let now = Instant::now();
    let mut tracker = Tracker::new(INTERVAL);
    let long = format!("GET /announce?{} HTTP/1.1\r\n\r\n", "x".repeat(MAX_HEAD));
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "404"),
        ("GET /announce/../x?a HTTP/1.1\r\n\r\n", "404"),
        ("GET /scrape?info_hash=a HTTP/1.1\r\n\r\n", "404"),
        ("POST /announce? HTTP/1.1\r\n\r\n", "405"),
        (
            "GET /announce HTTP/1.1\r\nOrigin: http://evil.example\r\n\r\n",
            "403",
        ),
        (
            "GET /announce HTTP/1.1\r\nSec-Fetch-Site: cross-site\r\n\r\n",
            "403",
        ),
        ("GET /announce\r\n\r\n", "400"),
        ("GET /a b HTTP/1.1\r\n\r\n", "400"),
        ("", "400"),
        (&long, "431"),
    ] {
        let answer = tracker.handle(now, addr("1.2.3.4:5"), request.as_bytes());
        let start = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(start.as_bytes()), "{request:.60}");
    }
    assert_eq!(tracker.seen().count(), 0);
    for (query, word) in [
        ("", "info_hash"),
        ("info_hash=short&peer_id=x", "info_hash"),
        ("info_hash=%zz%20aaaaaaaaaaaaaaaaaa", "info_hash"),
        (
            "info_hash=hhhhhhhhhhhhhhhhhhhh&peer_id=hhhhhhhhhhhhhhhhhhhhh",
            "peer_id",
        ),
        (
            "info_hash=hhhhhhhhhhhhhhhhhhhh&peer_id=hhhhhhhhhhhhhhhhhhhh&port=65536",
            "port",
        ),
    ] {
        let request = format!("GET /announce?{query} HTTP/1.1\r\n\r\n");
        let answer = tracker.handle(now, addr("1.2.3.4:5"), request.as_bytes());
        assert!(refusal(&answer).contains(word), "{query}");
    }
}

#[test]
fn torrents_peers_and_memory_are_bounded() {
    let now = Instant::now();
    let mut tracker = Tracker::new(INTERVAL);
    let announce = |tracker: &mut Tracker, now, hash: u32, id: u32| {
        let request =
            format!("GET /announce?info_hash={hash:020}&peer_id={id:020}&port=99 HTTP/1.1\r\n\r\n");
        tracker.handle(now, addr("1.2.3.4:5"), request.as_bytes())
    };
    for n in 0..MAX_SWARM_PEERS as u32 {
        announce(&mut tracker, now, 0, n);
    }
    assert_eq!(
        refusal(&announce(&mut tracker, now, 0, 9999)),
        "the torrent has too many peers"
    );
    assert!(
        read(&announce(&mut tracker, now, 0, 5)).is_ok(),
        "those who are in stay in"
    );
    for n in 1..MAX_SWARMS as u32 {
        announce(&mut tracker, now, n, 0);
    }
    let full = announce(&mut tracker, now, 5000, 0);
    assert_eq!(refusal(&full), "the tracker has too many torrents");
    assert!(read(&announce(&mut tracker, now + INTERVAL * 2, 5000, 0)).is_ok());
    for n in 0..MAX_SEEN as u32 + 1 {
        announce(&mut tracker, now, 5000, n % 3);
    }
    assert_eq!(tracker.seen().count(), MAX_SEEN);
}

#[test]
fn onion_services_are_named_where_they_are_believed() {
    let now = Instant::now();
    let name = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";
    let here = addr("127.0.0.1:5");
    for believed in [false, true] {
        let mut tracker = Tracker::new(INTERVAL);
        if believed {
            tracker.take_onions();
        }
        let mut announce = |id, port, more: &str| {
            read(&tracker.handle(now, here, head(id, port, more).as_bytes())).unwrap()
        };
        let own = announce('a', 6881, &format!("left=0&ip={name}"));
        assert_eq!(own.onions, [], "nobody is told of itself");
        announce('b', 6882, "left=5&ip=1.2.3.4");
        let wrong = name.replace("2gz", "3gz");
        announce('c', 6883, &format!("left=5&ip={wrong}"));
        let found = announce('d', 6884, "left=5");
        let onions: Vec<_> = found.onions.iter().map(OnionPeer::host).collect();
        assert_eq!(onions.len(), usize::from(believed));
        assert!(onions.iter().all(|host| host == name));
        assert_eq!(
            found.onions.iter().filter(|o| o.port() == 6881).count(),
            onions.len()
        );
        let others = [6881, 6882, 6883].map(|port| SocketAddr::new(here.ip(), port));
        let others = &others[usize::from(believed)..];
        assert_eq!(found.peers, others);
    }
}

#[tokio::test]
async fn our_client_and_our_tracker_understand_each_other() {
    let tracker = Arc::new(Mutex::new(Tracker::new(INTERVAL)));
    let exit = addr("8.8.4.4:40000");
    let hash = request().hash.0;
    let other = {
        let mut text = String::from("GET /announce?info_hash=");
        hash.iter()
            .for_each(|byte| text.push_str(&format!("%{byte:02x}")));
        text + "&peer_id=oooooooooooooooooooo&port=6881&left=0 HTTP/1.1\r\n\r\n"
    };
    tracker
        .lock()
        .unwrap()
        .handle(Instant::now(), addr("1.2.3.4:5"), other.as_bytes());
    let served = tracker.clone();
    let world = World::http(move |_, head| {
        Answer::Bytes(
            served
                .lock()
                .unwrap()
                .handle(Instant::now(), exit, head.as_bytes()),
        )
    });
    let client = TrackerClient::new(false);
    let url = "http://tracker.example/announce";
    let answer = client
        .announce(&world, isolation(), url, &request())
        .await
        .unwrap();
    assert_eq!(answer.peers, [addr("1.2.3.4:6881")]);
    assert_eq!((answer.seeders, answer.leechers), (Some(1), Some(1)));
    let tracker = tracker.lock().unwrap();
    let seen = tracker.seen().last().unwrap();
    assert_eq!(seen.from, exit);
    assert!(seen.query.starts_with("info_hash=%00%01%20") && seen.query.ends_with("&no_peer_id=1"));
}

proptest! {
    #[test]
    fn hostile_requests_never_panic(
        head in prop::collection::vec(any::<u8>(), 0..100),
        query in "([a-z_]{1,9}=|info_hash=|peer_id=|port=|numwant=|&|%|[%0-9a-f]{3}|\\PC){0,40}",
    ) {
        let mut tracker = Tracker::new(INTERVAL);
        let request = format!("GET /announce?{query} HTTP/1.1\r\n\r\n");
        for head in [&head[..], request.as_bytes()] {
            let answer = tracker.handle(Instant::now(), addr("1.2.3.4:5"), head);
            prop_assert!(answer.starts_with(b"HTTP/1.1 "));
        }
    }
}
