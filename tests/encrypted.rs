//! Streams to real clients that speak nothing but encrypted: they stay so to the end.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

mod support;

use support::PATIENCE;
use support::clients::{Libtorrent, libtorrent_python};
use support::loopback::{Loopback, with_peers};
use support::process::Process;

const NAME: &str = "archive.bin";

#[test]
fn a_client_that_forces_encryption_gives_everything_and_is_out_of_reach_without_it() {
    let Some(python) = libtorrent_python() else {
        return;
    };
    let loopback = Loopback::start("warn");
    let torrent = loopback.torrent(NAME, 4 << 20, &[]);
    let folder = loopback.dir.path().join("content");
    let only = ["--encrypted-only"];
    let mut seed = Libtorrent::seed_with(&python, None, &torrent, &folder, None, &only);
    let source = with_peers(&torrent, &[seed.addr]);
    let get = |when: &str| {
        let mut command = loopback.command(&source);
        command.args(["--json", "--encryption", when]);
        // So slowly that the client is looked at while it gives.
        command.args(["--limit-down", "1024"]);
        Process::spawn("get", command)
    };
    // The control: the client means it.
    let mut clear = get("off");
    let is_refused = |line: &serde_json::Value| line["rc4"] != true;
    seed.process.wait_until(PATIENCE, |seed| {
        seed.events("peer").iter().any(is_refused).then_some(())
    });
    clear.kill();
    assert!(clear.events("done").is_empty());
    for when in ["required", "preferred"] {
        let mut get = get(when);
        assert!(get.wait(PATIENCE).success(), "{}", get.tails());
        loopback.assert_arrived(NAME);
        std::fs::remove_dir_all(loopback.out("")).unwrap();
    }
    let seen = seed.process.events("peer");
    let given = seen
        .iter()
        .filter(|peer| peer["uploaded"].as_u64() > Some(0));
    let (given, clear): (Vec<_>, Vec<_>) = given.partition(|peer| peer["rc4"] == true);
    assert!(given.len() >= 2 && clear.is_empty(), "{seen:#?}");
}
