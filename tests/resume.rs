//! A download that is killed, interrupted, repeated, or whose files change in between, as its user sees it.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

mod support;

use std::os::unix::fs::FileExt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use support::PATIENCE;
use support::clients::{Libtorrent, Torrent, libtorrent_python};
use support::loopback::{Loopback, has_done, with_peers};

const NAME: &str = "archive.bin";
const SIZE: u64 = 24 << 20;
/// What may be asked for and not yet verified when a process dies, bytes: requests on the way, pieces begun and blocks
/// not yet hashed. A bound on the waste of one kill, far below the size.
const IN_FLIGHT: u64 = 2 << 20;

fn seed(loopback: &Loopback, torrent: &Torrent, rate: Option<u64>) -> Option<Libtorrent> {
    let python = libtorrent_python()?;
    let folder = loopback.dir.path().join("content");
    Some(Libtorrent::seed(&python, None, torrent, &folder, rate))
}

/// What the seed has given away in all, bytes, once it has ended.
fn given(mut seed: Libtorrent) -> u64 {
    assert!(seed.process.stop(PATIENCE).success());
    seed.process.wait_for_event(PATIENCE, "end")["uploaded"]
        .as_u64()
        .unwrap()
}

#[test]
fn a_download_killed_at_random_moments_goes_on_and_fetches_little_twice() {
    const KILLS: u64 = 8;
    let loopback = Loopback::start("warn");
    let torrent = loopback.torrent(NAME, SIZE, &[]);
    let Some(seed) = seed(&loopback, &torrent, Some(3 << 20)) else {
        return;
    };
    let source = with_peers(&torrent, &[seed.addr]);
    let mut rng = StdRng::seed_from_u64(0x00C0_FFEE);
    let mut kills = 0;
    while kills < KILLS {
        let mut get = loopback.get(&source);
        // Some die while they start or check, most in the middle of the transfer.
        let more = rng.random_range(0..3) > 0;
        if more {
            let before = given_so_far(&seed);
            let part = rng.random_range(1..SIZE / 12);
            get.wait_until(PATIENCE, |get| {
                let went_on = given_so_far(&seed) > before + part;
                (went_on || !get.events("done").is_empty()).then_some(())
            });
        } else {
            std::thread::sleep(Duration::from_millis(rng.random_range(0..400)));
        }
        assert!(
            get.exit_status().is_none(),
            "the download was over after {kills} kills: nothing was tested"
        );
        get.kill();
        kills += 1;
    }
    let mut get = loopback.get(&source);
    assert!(get.wait(PATIENCE).success(), "{}", get.tails());
    loopback.assert_arrived(NAME);
    let given = given(seed);
    assert!(given >= SIZE, "{given} bytes can't be all of it");
    assert!(
        given <= SIZE + KILLS * IN_FLIGHT,
        "{} bytes came twice",
        given - SIZE
    );
}

fn given_so_far(seed: &Libtorrent) -> u64 {
    seed.peers().iter().filter_map(|peer| peer.uploaded).sum()
}

#[test]
fn an_interrupted_download_says_how_to_go_on_and_does() {
    let loopback = Loopback::start("warn");
    let torrent = loopback.torrent(NAME, SIZE, &[]);
    let Some(seed) = seed(&loopback, &torrent, Some(4 << 20)) else {
        return;
    };
    let source = with_peers(&torrent, &[seed.addr]);
    let mut get = loopback.get(&source);
    get.wait_until(PATIENCE, |get| has_done(get, SIZE / 4));
    get.signal(Signal::INT);
    assert_eq!(get.wait(PATIENCE).code(), Some(130), "{}", get.tails());
    let errors = get.stderr();
    assert!(errors.contains("error: interrupted"), "{errors}");
    assert!(errors.contains("the same command goes on"), "{errors}");
    let kept = get.events("progress").pop().unwrap()["done"]
        .as_u64()
        .unwrap();
    assert!((SIZE / 4..SIZE).contains(&kept), "{kept}");

    let mut get = loopback.get(&source);
    assert!(get.wait(PATIENCE).success(), "{}", get.tails());
    let first = get
        .events("progress")
        .into_iter()
        .find(|view| view["state"] == "downloading")
        .unwrap();
    assert!(first["done"].as_u64().unwrap() >= kept, "{first}");
    loopback.assert_arrived(NAME);
    let given = given(seed);
    assert!(
        given <= SIZE + IN_FLIGHT,
        "{} bytes came twice",
        given - SIZE
    );
}

#[test]
fn what_is_complete_is_not_fetched_again_and_what_was_damaged_is_repaired() {
    let mut loopback = Loopback::start("warn");
    let torrent = loopback.torrent(NAME, 8 << 20, &[]);
    let Some(seed) = seed(&loopback, &torrent, None) else {
        return;
    };
    let source = with_peers(&torrent, &[seed.addr]);
    let mut get = loopback.get(&source);
    assert!(get.wait(PATIENCE).success(), "{}", get.tails());
    loopback.assert_arrived(NAME);

    // One byte in the middle, and the end is cut.
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(loopback.out(NAME))
        .unwrap();
    file.write_all_at(b"?", 5 << 20).unwrap();
    file.set_len((8 << 20) - 10).unwrap();
    drop(file);
    let mut get = loopback.get(&source);
    assert!(get.wait(PATIENCE).success(), "{}", get.tails());
    loopback.assert_arrived(NAME);
    let given = given(seed);
    // Two pieces of 256 KiB were wrong; no other came twice.
    let twice = given - (8 << 20);
    assert!(
        (2 << 18..=4 << 18).contains(&twice),
        "{twice} bytes came twice"
    );

    // With nobody left to ask, and no relay: it is all there.
    loopback.relays.clear();
    let mut get = loopback.get(&source);
    assert!(get.wait(PATIENCE).success(), "{}", get.tails());
    loopback.assert_arrived(NAME);
    let done = get.events("done");
    assert_eq!(done[0]["bytes"], 8 << 20);
}
