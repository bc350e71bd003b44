//! One download that is killed fifty times: nothing that was right on the disk is fetched again.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

mod support;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use support::PATIENCE;
use support::clients::{Libtorrent, libtorrent_python};
use support::loopback::{Loopback, with_peers};
use support::process::Process;

const NAME: &str = "archive.bin";
const PIECE: u64 = 256 << 10;
const SIZE: u64 = 72 * PIECE;
const KILLS: u64 = 50;
/// What the seed may give each second, bytes: a run that is killed brings a few pieces.
const RATE: u64 = 768 << 10;
/// Most that a run is left to take, bytes: all of them together take less than there is.
const PART: u64 = 3 * PIECE / 2;

/// What may be on its way when a process dies, bytes: the piece in flight. With one peer at this rate it is a third of it on average.
const IN_FLIGHT: u64 = PIECE;

fn given(seed: &Libtorrent) -> u64 {
    seed.peers().iter().filter_map(|peer| peer.uploaded).sum()
}

/// Bytes of pieces that are right on the disk.
fn right(loopback: &Loopback, content: &[u8]) -> u64 {
    let there = std::fs::read(loopback.out(NAME)).unwrap_or_default();
    let whole = content.chunks(PIECE as usize);
    let pairs = whole.zip(there.chunks(PIECE as usize));
    pairs
        .filter(|(a, b)| a == b)
        .map(|(a, _)| a.len() as u64)
        .sum()
}

/// What a run that took over began with, bytes, once it says so.
fn resumed(get: &Process) -> Option<u64> {
    let seen = get.events("progress");
    let first = seen.iter().find(|view| view["state"] == "downloading")?;
    first["done"].as_u64()
}

#[test]
fn a_download_killed_fifty_times_fetches_nothing_again_but_what_was_on_its_way() {
    let Some(python) = libtorrent_python() else {
        return;
    };
    let loopback = Loopback::start("warn");
    let torrent = loopback.torrent(NAME, SIZE, &[]);
    let content = std::fs::read(loopback.content(NAME)).unwrap();
    let folder = loopback.dir.path().join("content");
    let seed = Libtorrent::seed(&python, None, &torrent, &folder, Some(RATE));
    let source = with_peers(&torrent, &[seed.addr]);
    let mut rng = StdRng::seed_from_u64(0x00C0_FFEE);
    let (mut checked, mut cut) = (0, 0);
    for kill in 0..KILLS {
        let had = right(&loopback, &content);
        let before = given(&seed);
        let mut get = loopback.get(&source);
        // Some die as soon as they said what they began with, some while they start or check, most in the middle of the transfer.
        if kill % 5 == 4 {
            get.wait_until(PATIENCE, |get| {
                let over = !get.events("done").is_empty();
                (over || resumed(get).is_some()).then_some(())
            });
        } else if rng.random_range(0..3) > 0 {
            let part = rng.random_range(1..PART);
            get.wait_until(PATIENCE, |get| {
                let went_on = given(&seed) > before + part;
                (went_on || !get.events("done").is_empty()).then_some(())
            });
            cut += 1;
        } else {
            std::thread::sleep(Duration::from_millis(rng.random_range(0..400)));
        }
        assert!(
            get.exit_status().is_none(),
            "the download was over after {kill} kills: nothing was tested"
        );
        get.kill();
        if let Some(done) = resumed(&get) {
            // It may have got further before it said so for the first time.
            assert!(done >= had, "kill {kill}: of {had} bytes {done} were kept");
            checked += 1;
        }
    }
    assert!(cut >= 20 && checked >= 10, "{cut} cut, {checked} looked at");
    let had = right(&loopback, &content);
    assert!(
        (PIECE..SIZE).contains(&had),
        "{had} bytes after the last kill"
    );
    let mut get = loopback.get(&source);
    assert!(get.wait(PATIENCE).success(), "{}", get.tails());
    assert!(resumed(&get).unwrap_or(SIZE) >= had);
    loopback.assert_arrived(NAME);
    let mut seed = seed;
    assert!(seed.process.stop(PATIENCE).success());
    let end = seed.process.wait_for_event(PATIENCE, "end");
    let given = end["uploaded"].as_u64().unwrap();
    let twice = given.saturating_sub(SIZE);
    eprintln!(
        "{twice} bytes were given twice, {} for each kill",
        twice / KILLS
    );
    assert!(given >= SIZE, "{given} bytes can't be all of it");
    assert!(twice <= KILLS * IN_FLIGHT, "{twice} bytes came twice");
}
