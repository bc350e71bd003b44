#![allow(clippy::unwrap_used)]
use super::super::TrackerClient;
use super::super::announce::{Event, MAX_INTERVAL, MIN_INTERVAL, NO_PORT};
use super::super::fake::{World, isolation, request, target};
use super::*;
use crate::route::BoxFuture;
use proptest::prelude::*;

const CONNECTION: u64 = 0x1122_3344_5566_7788;
const ADDRESS: &str = "1.2.3.4";

fn exchange(now: Instant) -> Exchange {
    let rng = StdRng::seed_from_u64(7);
    Exchange::new(
        now,
        target("tracker.example", 1337),
        "/announce?k=v",
        request(),
        rng,
    )
}

fn transaction(datagram: &[u8]) -> [u8; 4] {
    datagram[12..16].try_into().unwrap()
}

/// The tracker's answer to a datagram of ours.
fn reply(datagram: &[u8], interval: i32, peers: &[u8]) -> Vec<u8> {
    let action = &datagram[8..12];
    let mut out = [action, &transaction(datagram)].concat();
    if action == CONNECT.to_be_bytes() {
        out.extend_from_slice(&CONNECTION.to_be_bytes());
    } else {
        out.extend_from_slice(&interval.to_be_bytes());
        out.extend_from_slice(&[0, 0, 0, 5, 0, 0, 0, 6]);
        out.extend_from_slice(peers);
    }
    out
}

fn error(datagram: &[u8], text: &[u8]) -> Vec<u8> {
    [&ERROR.to_be_bytes(), &transaction(datagram)[..], text].concat()
}

#[test]
fn datagrams_have_the_bytes_of_bep_15() {
    let now = Instant::now();
    let mut exchange = exchange(now);
    exchange.request.event = Some(Event::Started);
    let first = exchange.datagram();
    assert_eq!(first.len(), 16);
    assert_eq!(first[..12], *b"\0\0\x04\x17\x27\x10\x19\x80\0\0\0\0");
    let tracker = target(ADDRESS, 1337);
    let step = exchange.handle_datagram(now, &tracker, &reply(&first, 0, &[]));
    assert_eq!(step, Ok(Step::Send));
    assert_eq!(
        *exchange.target(),
        tracker,
        "the machine that gave the connection id"
    );
    let second = exchange.datagram();
    assert_ne!(transaction(&first), transaction(&second));
    let mut expected = b"\x11\x22\x33\x44\x55\x66\x77\x88\0\0\0\x01....".to_vec();
    expected[12..].copy_from_slice(&transaction(&second));
    expected.extend_from_slice(&request().hash.0);
    expected.extend_from_slice(&[0x2e; 20]);
    expected.extend_from_slice(b"\0\0\0\0\x04\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\0\0\0\0");
    expected
        .extend_from_slice(b"\0\0\0\x02\0\0\0\0\0\0\0\xab\0\0\0\x50\0\x01\x02\x0d/announce?k=v");
    assert_eq!(
        second.escape_ascii().to_string(),
        expected.escape_ascii().to_string()
    );
    let peers = b"\x05\x06\x07\x08\x1a\xe1\x05\x06\x07\x08\0\0";
    let step = exchange
        .handle_datagram(now, &tracker, &reply(&second, 1800, peers))
        .unwrap();
    let Step::Done(answer) = step else {
        panic!("{step:?}")
    };
    assert_eq!(
        answer.peers,
        ["5.6.7.8:6881".parse().unwrap()],
        "port 0 is dropped"
    );
    assert_eq!((answer.leechers, answer.seeders), (Some(5), Some(6)));
    assert_eq!(answer.interval, Duration::from_secs(1800));
}

#[test]
fn answers_from_others_or_about_something_else_are_ignored() {
    let now = Instant::now();
    let mut exchange = exchange(now);
    let first = exchange.datagram();
    let good = reply(&first, 0, &[]);
    let mut other_transaction = good.clone();
    other_transaction[7] ^= 1;
    for (from, bytes) in [
        (target(ADDRESS, 1338), good.clone()),
        (target("other.example", 1337), good.clone()),
        (target(ADDRESS, 1337), other_transaction),
        (target(ADDRESS, 1337), good[..7].to_vec()),
        (target(ADDRESS, 1337), Vec::new()),
    ] {
        assert_eq!(exchange.handle_datagram(now, &from, &bytes), Ok(Step::Wait));
    }
    exchange
        .handle_datagram(now, &target(ADDRESS, 1337), &good)
        .unwrap();
    // From now on there is one address.
    let good = reply(&exchange.datagram(), 0, &[]);
    let step = exchange.handle_datagram(now, &target("5.6.7.8", 1337), &good);
    assert_eq!(step, Ok(Step::Wait));
    let step = exchange.handle_datagram(now, &target(ADDRESS, 1337), &good);
    assert!(matches!(step, Ok(Step::Done(_))));
}

#[test]
fn lies_are_refused_or_brought_within_limits() {
    let now = Instant::now();
    let tracker = target(ADDRESS, 1337);
    let connected = || {
        let mut exchange = exchange(now);
        let hello = reply(&exchange.datagram(), 0, &[]);
        exchange.handle_datagram(now, &tracker, &hello).unwrap();
        exchange
    };
    for (seconds, interval) in [(-1, MIN_INTERVAL), (i32::MAX, MAX_INTERVAL)] {
        let mut exchange = connected();
        let bytes = reply(&exchange.datagram(), seconds, &[]);
        let step = exchange.handle_datagram(now, &tracker, &bytes).unwrap();
        assert!(matches!(step, Step::Done(answer) if answer.interval == interval));
    }
    let mut exchange = connected();
    let datagram = exchange.datagram();
    for bytes in [
        reply(&datagram, 9, b"1234567"),
        reply(&datagram, 9, &[])[..19].to_vec(),
        [&9_u32.to_be_bytes(), &transaction(&datagram)[..]].concat(),
        [&CONNECT.to_be_bytes(), &transaction(&datagram)[..], &[0; 8]].concat(),
    ] {
        let result = exchange.handle_datagram(now, &tracker, &bytes);
        assert_eq!(result, Err(AnnounceError::Malformed));
    }
    let refused = exchange.handle_datagram(now, &tracker, &error(&datagram, b"go\x07 away"));
    let Err(AnnounceError::Failure(text)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(text.expose(), "go away");
}

#[test]
fn ipv6_trackers_give_ipv6_peers() {
    let now = Instant::now();
    let rng = StdRng::seed_from_u64(7);
    let tracker = target("2606:4700::1", 1337);
    let mut exchange = Exchange::new(now, tracker.clone(), "/", request(), rng);
    let hello = reply(&exchange.datagram(), 0, &[]);
    exchange.handle_datagram(now, &tracker, &hello).unwrap();
    let datagram = exchange.datagram();
    assert_eq!(datagram.len(), 98, "nothing to say about the URL");
    let peers = b"\x26\x06\x47\0\0\0\0\0\0\0\0\0\0\0\0\x09\x1a\xe1";
    let step = exchange
        .handle_datagram(now, &tracker, &reply(&datagram, 60, peers))
        .unwrap();
    let Step::Done(answer) = step else {
        panic!("{step:?}")
    };
    assert_eq!(answer.peers, ["[2606:4700::9]:6881".parse().unwrap()]);
}

#[test]
fn a_connection_id_is_not_used_beyond_its_life() {
    let mut now = Instant::now();
    let mut exchange = exchange(now);
    let hello = reply(&exchange.datagram(), 0, &[]);
    exchange
        .handle_datagram(now, &target(ADDRESS, 1337), &hello)
        .unwrap();
    let first = exchange.datagram();
    now = exchange.deadline();
    assert_eq!(exchange.handle_timeout(now), Ok(Step::Send));
    assert_eq!(exchange.datagram(), first, "a repetition, 15 s old");
    now = exchange.deadline();
    assert_eq!(exchange.handle_timeout(now), Ok(Step::Send));
    assert_eq!(exchange.datagram(), first, "45 s old");
    now = exchange.deadline();
    assert_eq!(exchange.handle_timeout(now), Ok(Step::Send));
    assert_eq!(
        exchange.datagram()[..12],
        *b"\0\0\x04\x17\x27\x10\x19\x80\0\0\0\0"
    );
}

#[test]
fn long_urls_are_split_and_bounded() {
    let url = format!("/{}", "x".repeat(2000));
    let now = Instant::now();
    let rng = StdRng::seed_from_u64(7);
    let mut exchange = Exchange::new(now, target(ADDRESS, 1337), &url, request(), rng);
    let hello = reply(&exchange.datagram(), 0, &[]);
    exchange
        .handle_datagram(now, &target(ADDRESS, 1337), &hello)
        .unwrap();
    let datagram = exchange.datagram();
    assert_eq!(datagram.len(), 98 + 3 * 257);
    assert_eq!(datagram[98..101], [2, 255, b'/']);
    assert_eq!(datagram[98 + 257..98 + 259], [2, 255]);
}

#[tokio::test]
async fn a_tracker_is_announced_to_through_the_flow() {
    let world = World::udp(|_, datagram| {
        vec![(
            target(ADDRESS, 1337),
            reply(
                datagram,
                900,
                b"\x05\x06\x07\x08\x1a\xe1\x0a\0\0\x01\x1a\xe1",
            ),
        )]
    });
    let client = TrackerClient::new(false);
    let url = "udp://tracker.example:1337/announce";
    let answer = client
        .announce(&world, isolation(), url, &request())
        .await
        .unwrap();
    assert_eq!(
        answer.peers,
        ["5.6.7.8:6881".parse().unwrap()],
        "none at a private address"
    );
    assert_eq!(
        world.targets(),
        [target("tracker.example", 1337), target(ADDRESS, 1337)]
    );
    assert_eq!(request().port, NO_PORT);
}

#[tokio::test(start_paused = true)]
async fn a_silent_tracker_is_given_up_after_four_tries() {
    let world = World::udp(|_, _| Vec::new());
    let start = tokio::time::Instant::now();
    let client = TrackerClient::new(false);
    let url = "udp://tracker.example:1337";
    let result = client.announce(&world, isolation(), url, &request()).await;
    assert_eq!(result, Err(AnnounceError::TimedOut));
    assert_eq!(world.targets().len(), 4);
    assert_eq!(start.elapsed().as_secs(), 15 + 30 + 60 + 60);
    let asked = world.asked.lock().unwrap();
    assert!(asked.iter().all(|(_, datagram)| *datagram == asked[0].1));
}

#[tokio::test(start_paused = true)]
async fn lost_datagrams_are_sent_again() {
    let dropped = std::sync::atomic::AtomicUsize::new(0);
    let world = World::udp(move |_, datagram| {
        let nth = dropped.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // The first of each kind is lost, and noise comes instead.
        let bytes = if nth.is_multiple_of(2) {
            b"noise".to_vec()
        } else {
            reply(datagram, 900, &[])
        };
        vec![(target(ADDRESS, 1337), bytes)]
    });
    let client = TrackerClient::new(false);
    let url = "udp://tracker.example:1337";
    assert!(
        client
            .announce(&world, isolation(), url, &request())
            .await
            .is_ok()
    );
    assert_eq!(world.targets().len(), 4);
}

/// Always has a datagram, each half a second after the one before.
struct Flood(std::sync::atomic::AtomicUsize);

impl Datagrams for Flood {
    fn send(&self, _: &Target, _: &[u8]) -> std::io::Result<()> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    fn recv(&self) -> BoxFuture<'_, std::io::Result<(Target, Vec<u8>)>> {
        Box::pin(async {
            tokio::time::advance(Duration::from_millis(500)).await;
            Ok((target(ADDRESS, 1337), vec![0; 20]))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_datagrams_does_not_hold_an_announce_open() {
    let flood = Flood(0.into());
    let result = announce(&flood, target(ADDRESS, 1337), "/", &request()).await;
    assert_eq!(result, Err(AnnounceError::TimedOut));
    assert_eq!(flood.0.into_inner(), 4);
}

proptest! {
    #[test]
    fn hostile_datagrams_never_panic(
        datagrams in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..60), any::<bool>(), 0..4_u32), 1..20),
    ) {
        let now = Instant::now();
        let mut exchange = exchange(now);
        for (mut bytes, ours, action) in datagrams {
            if ours && bytes.len() >= 8 {
                bytes[..4].copy_from_slice(&action.to_be_bytes());
                bytes[4..8].copy_from_slice(&transaction(&exchange.datagram()));
            }
            let _ = exchange.handle_datagram(now, &target(ADDRESS, 1337), &bytes);
            prop_assert!(exchange.datagram().len() < 1024);
        }
    }
}
