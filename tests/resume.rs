//! A download that is interrupted, repeated, or whose files change in between, as its user sees it. Those that are killed: `kills.rs`.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

mod support;

use std::os::unix::fs::FileExt;

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
