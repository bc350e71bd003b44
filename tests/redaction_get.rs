//! The logs of a whole download, at their most talkative, name nobody and nothing: not what is downloaded, not from whom,
//! not through whom, not by whom. Neither does what stays in the state folder.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

mod support;

use std::path::{Path, PathBuf};

use support::PATIENCE;
use support::clients::{Libtorrent, Tracker, libtorrent_python};
use support::loopback::{Loopback, RecordPeer, with_peers};
use support::process::Process;

const NAME: &str = "very-secret-name.bin";

/// What may stand nowhere, with a name for each.
fn needles(infohash: &str, out: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let raw = data_encoding::HEXLOWER.decode(infohash.as_bytes()).unwrap();
    let escaped: String = raw.iter().map(|byte| format!("%{byte:02x}")).collect();
    let listed = format!("{raw:?}");
    vec![
        ("infohash", infohash.as_bytes().to_vec()),
        ("infohash's beginning", infohash.as_bytes()[..12].to_vec()),
        (
            "infohash in base 32",
            data_encoding::BASE32.encode(&raw).into_bytes(),
        ),
        ("infohash as sent to trackers", escaped.into_bytes()),
        ("infohash as Debug shows bytes", listed.into_bytes()),
        ("infohash, raw", raw),
        ("name", b"very-secret".to_vec()),
        // All addresses: own, relays, peers, tracker.
        ("address", b"127.".to_vec()),
        ("address in brackets", b"::1".to_vec()),
        ("announce path", b"/announce".to_vec()),
        ("output folder", out.as_os_str().as_encoded_bytes().to_vec()),
    ]
}

fn assert_clean(text: &[u8], what: &str, needles: &[(&str, Vec<u8>)]) {
    let lower = text.to_ascii_lowercase();
    for (name, needle) in needles {
        let needle = needle.to_ascii_lowercase();
        let found = lower.windows(needle.len()).position(|at| at == needle);
        if let Some(at) = found {
            let near = &text[at.saturating_sub(120)..(at + 120).min(text.len())];
            panic!("{what} holds the {name}: {}", String::from_utf8_lossy(near));
        }
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files_below(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn no_log_of_a_download_names_anything() {
    let Some(python) = libtorrent_python() else {
        return;
    };
    let mut loopback = Loopback::start("trace");
    let tracker = Tracker::start(None, &[]);
    // One that answers, one that answers nothing, one whose name does not resolve, and one of a scheme nobody knows.
    let trackers = [
        &tracker.http,
        "udp://127.0.0.1:9/announce",
        "http://tracker.invalid/announce",
        "wss://127.0.0.1:9/announce",
    ];
    let torrent = loopback.torrent(NAME, 4 << 20, &trackers);
    let liar = RecordPeer::on_loopback(1, &torrent, &loopback.content(NAME), "blocks");
    let folder = loopback.dir.path().join("content");
    let seed = Libtorrent::seed(&python, None, &torrent, &folder, Some(1 << 20));
    let nobody = "127.0.0.1:9".parse().unwrap();
    let source = with_peers(&torrent, &[liar.addr, nobody, seed.addr]);

    let mut command = loopback.command(&source);
    command.args(["--json", "--log", "trace"]);
    let mut get = Process::spawn("get", command);
    assert!(get.wait(PATIENCE * 2).success(), "{}", get.tails());
    loopback.assert_arrived(NAME);

    let needles = needles(&torrent.infohash, &loopback.out(""));
    let log = std::fs::read(get.stderr_path()).unwrap();
    assert!(
        String::from_utf8_lossy(&log).contains("circuit built"),
        "nothing was logged: nothing was tested"
    );
    assert_clean(&log, "the log of get", &needles);
    for view in get.events("progress") {
        assert_clean(view.to_string().as_bytes(), "progress", &needles);
    }
    let mut logged = 0;
    for relay in &mut loopback.relays {
        relay.stop(PATIENCE);
        let log = std::fs::read(relay.stderr_path()).unwrap();
        logged += log.len();
        assert_clean(&log, "the log of a relay", &needles);
    }
    assert!(logged > 0, "no relay logged anything: nothing was tested");
    // The guards are stored by identity, not by address.
    let state = loopback.dir.path().join("state");
    let files = files_below(&state);
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        assert_clean(&std::fs::read(&file).unwrap(), "the state folder", &needles);
        let name = file
            .strip_prefix(&state)
            .unwrap()
            .as_os_str()
            .as_encoded_bytes();
        assert_clean(name, "a name in the state folder", &needles);
    }
    // Which guard a client has tells where it comes from, so a relay's identity is an address by another name.
    let mut command = loopback.command_to(&source, &loopback.out("again"));
    command.args(["--json", "--log", "trace"]);
    let mut get = Process::spawn("get", command);
    get.wait_for_line(PATIENCE, |line| line.contains("guard not reached"));
    get.kill();
    let log = std::fs::read(get.stderr_path()).unwrap();
    assert_clean(&log, "the log of get without relays", &needles);
    for relay in loopback.network.list.relays() {
        let id = data_encoding::HEXLOWER.encode(&relay.identity.0[..4]);
        assert_clean(
            &log,
            "the log of get",
            &[("relay's identity", id.into_bytes())],
        );
    }
}
