//! Onion peers that know only the seed, or only a tracker, find each other, give to each other, and go on when the seed is gone:
//! on a private network of Debian's `tor`.

use crate::support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hushswarm::torrent::tracker::server::Tracker;
use support::clients::installed;
use support::onion_seed::{LONG, NAME, Place, link};
use support::process::Process;
use support::tor::{Size, TorNetwork};
use support::{PATIENCE, write_noise};

/// Long enough that the seed can be ended in the middle of a download.
const SIZE: u64 = 96 << 20;

/// Verified bytes.
fn done(process: &Process) -> u64 {
    let events = process.events("progress");
    events
        .last()
        .and_then(|last| last["done"].as_u64())
        .unwrap()
}

/// It dialled so many onion peers that tell of others, and each was there.
fn wait_for_peers(process: &mut Process, count: usize) {
    process.wait_for_line(LONG, |line| {
        line.contains("hidden peers to tell of") && line.contains(&format!("known={count}"))
    });
}

fn is_seeding(process: &Process) -> Option<()> {
    let events = process.events("progress");
    (events.last()?["state"] == "seeding").then_some(())
}

/// No log names an onion service, whoever's: neither by address nor by a long part of it.
fn assert_names_no_onion(process: &Process) {
    let log = process.stderr();
    let base32 = |c: char| c.is_ascii_lowercase() || ('2'..='7').contains(&c);
    let long = log.split(|c| !base32(c)).find(|word| word.len() >= 52);
    assert_eq!(long, None, "{log}");
    assert!(!log.contains(".onion"), "{log}");
}

#[test]
fn a_swarm_of_onion_peers_goes_on_without_its_first_seed() {
    if !installed("tor") {
        return;
    }
    let network = TorNetwork::start(&Size::default());
    let place = Place::new(network.tor_file());
    write_noise(&place.path(NAME), SIZE, 6);
    let mut seed = place.seed(&["--json"]);
    let link = link(&mut seed);
    let more = ["--json", "--seed"];
    let mut early = ["first", "second"].map(|name| place.get(&link.magnet, name, &more));
    for get in &mut early {
        get.wait_until(LONG, is_seeding);
    }
    // The seed met both where they say to be, so that it names them to others.
    wait_for_peers(&mut seed, 2);
    // It names those who were on its list when that was last renewed: every 90 seconds at the latest.
    std::thread::sleep(Duration::from_secs(95));

    let mut late = place.get(&link.magnet, "third", &more);
    late.wait_for_line(LONG, |line| {
        line.contains("told of hidden peers worth_a_call=2")
    });
    seed.kill();
    assert!(done(&late) < SIZE, "it was over before the seed was gone");
    late.wait_until(LONG, is_seeding);
    // Only those of whom the seed told can have given the rest.
    let gives = |get: &Process| get.events("progress").iter().any(|said| said["up"] != 0);
    assert!(early.iter().any(gives));
    for process in early.iter_mut().chain([&mut late]) {
        assert_names_no_onion(process);
        link.assert_discreet(process);
        assert_eq!(process.stop(PATIENCE).code(), Some(130));
    }
    for name in ["first", "second", "third"] {
        place.assert_content(name);
    }
}

/// Our own tracker, which believes those who say that they are onion services.
fn serve_tracker() -> (SocketAddr, Arc<Mutex<Tracker>>) {
    let mut tracker = Tracker::new(Duration::from_secs(60));
    tracker.take_onions();
    let tracker = Arc::new(Mutex::new(tracker));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    let served = Arc::clone(&tracker);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream, &served);
        }
    });
    (addr, tracker)
}

fn answer(mut stream: TcpStream, tracker: &Mutex<Tracker>) {
    let Ok(from) = stream.peer_addr() else { return };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|len| len == 1) {
        head.extend(byte);
    }
    let answer = tracker.lock().unwrap().handle(Instant::now(), from, &head);
    let _ = stream.write_all(&answer);
}

#[test]
fn peers_that_know_only_an_onion_tracker_find_each_other() {
    if !installed("tor") {
        return;
    }
    let (addr, tracker) = serve_tracker();
    let network = TorNetwork::start(&Size {
        onions: vec![format!("80:{addr}")],
        ..Size::default()
    });
    let place = Place::new(network.tor_file());
    write_noise(&place.path(NAME), 4 << 20, 7);
    let url = format!("http://{}/announce", network.onions()[0]);
    let mut seed = place.seed(&["--json", "--tracker", &url]);
    let said = seed.wait_for_event(LONG, "seeding");
    let magnet = said["magnet"].as_str().unwrap();
    // Without the seed's address.
    let (front, rest) = magnet.split_once("&x.pe=").unwrap();
    let magnet = format!("{front}{}", rest.find('&').map_or("", |at| &rest[at..]));
    assert!(magnet.contains("&tr=") && !magnet.contains("x.pe"));
    let mut get = place.get(&magnet, "out", &["--json"]);
    place.assert_arrived("out", &mut get);
    let queries = || -> Vec<String> {
        let tracker = tracker.lock().unwrap();
        tracker.seen().map(|seen| seen.query.clone()).collect()
    };
    let told = queries();
    let mut named = told.iter().filter(|query| query.contains(".onion"));
    assert!(named.clone().count() > 0);
    assert!(named.all(|query| query.contains("&port=6881&")));
    for process in [&seed, &get] {
        assert_names_no_onion(process);
    }
    assert_eq!(seed.stop(PATIENCE).code(), Some(0), "{}", seed.tails());

    // A seed that lets in only some announces too, and tells nothing of itself.
    let before = queries().len();
    let state = place.path("closed");
    let words = ["--allow", "nobody", "--tracker", &url, "--over", "tor"];
    let more = ["--state", state.to_str().unwrap(), "--json"];
    let content = place.path(NAME);
    let mut closed = place.spawn(
        "seed",
        &[&[content.to_str().unwrap()], &words[..], &more].concat(),
    );
    closed.wait_until(LONG, |_| (queries().len() > before).then_some(()));
    let told = queries();
    assert!(told[before..].iter().all(|query| !query.contains(".onion")));
}
