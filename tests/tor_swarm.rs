//! Onion peers that know only the seed find each other, give to each other, and go on when the seed is gone: on a private network
//! of Debian's `tor`.
#![cfg(feature = "tor")]
#![allow(clippy::unwrap_used, clippy::disallowed_types)]

mod support;

use support::clients::installed;
use support::onion_seed::{LONG, NAME, Place, link};
use support::process::Process;
use support::tor::{Size, TorNetwork};
use support::{PATIENCE, write_noise};

/// Long enough that the seed can be ended in the middle of two downloads.
const SIZE: u64 = 64 << 20;

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
        line.contains("onion peers to tell of") && line.contains(&format!("known={count}"))
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
    let mut first = place.get(&link.magnet, "first", &more);
    first.wait_until(LONG, is_seeding);
    // The seed met the first where it says to be, so that it names it to others.
    wait_for_peers(&mut seed, 1);

    let mut others = ["second", "third"].map(|name| place.get(&link.magnet, name, &more));
    for other in &mut others {
        // The seed, and somebody of whom it told.
        wait_for_peers(other, 2);
    }
    seed.kill();
    for other in &others {
        assert!(done(other) < SIZE, "it was over before the seed was gone");
    }
    for other in &mut others {
        other.wait_until(LONG, is_seeding);
    }
    for process in [&mut first].into_iter().chain(&mut others) {
        let log = process.stderr();
        assert!(log.contains("sharing what has come"), "{log}");
        assert_names_no_onion(process);
        link.assert_discreet(process);
        assert_eq!(process.stop(PATIENCE).code(), Some(130));
    }
    for name in ["first", "second", "third"] {
        place.assert_content(name);
    }
}
