//! What keeps Tor from starting is told to the user, in the progress of a download and on standard error, with what to do about it;
//! and Ctrl-C ends the wait.

use crate::support;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use support::PATIENCE;
use support::clients::installed;
use support::process::{Process, run};
use support::tor::{NOBODY, Size, TorNetwork, away_from_home, onion_of};
use tempfile::TempDir;

/// Long enough on a busy machine.
const LONG: Duration = Duration::from_secs(300);

/// A download of what nobody has from an onion service that is not there.
fn get(dir: &TempDir, name: &str, tor: &Path, json: bool) -> Command {
    let onion = onion_of(&NOBODY);
    let magnet = format!("magnet:?xt=urn:btih:{}&x.pe={onion}:6881", "07".repeat(20));
    let mut get = away_from_home(None, dir.path());
    get.args(["get", &magnet, "--tor"]).arg(tor);
    get.arg("--output").arg(dir.path().join("out"));
    get.arg("--state").arg(dir.path().join(name));
    if json {
        get.arg("--json");
    }
    get
}

/// Runs it until it says this about Tor both ways, and stops it.
fn assert_told(mut get: Process, text: &str) {
    get.wait_until(LONG, |get| {
        let seen = get.events("progress").into_iter();
        let mut reasons = seen.filter_map(|seen| Some(seen["reason"].as_str()?.to_owned()));
        reasons.find(|reason| reason.contains(text))
    });
    get.wait_for_line(LONG, |line| {
        line.starts_with("Tor: ") && line.contains(text)
    });
    get.signal(Signal::INT);
    let status = get.wait(PATIENCE);
    assert_eq!(status.code(), Some(130), "{}", get.tails());
    assert!(!get.stderr().contains("panicked"), "{}", get.tails());
}

/// The library that Debian's faketime preloads; a program that was started with it has another clock.
fn faketime() -> String {
    let mut command = Command::new("faketime");
    command.args(["-f", "+1d", "printenv", "LD_PRELOAD"]);
    run(command).trim().to_owned()
}

#[test]
fn whoever_has_a_wrong_clock_is_asked_whether_it_is_right() {
    if !installed("tor") || !installed("faketime") {
        return;
    }
    let network = TorNetwork::start(&Size::default());
    let dir = TempDir::new().unwrap();
    let library = faketime();
    // All at once: each waits for something else.
    let started = ["+5d", "-5d"].map(|offset| {
        let mut get = get(&dir, offset, &network.tor_file(), true);
        get.env("LD_PRELOAD", &library).env("FAKETIME", offset);
        Process::spawn("get", get)
    });
    for get in started {
        assert_told(get, "clock right?");
    }
    // With this computer's own clock it gets on.
    let get = get(&dir, "right", &network.tor_file(), true);
    let mut get = Process::spawn("get", get);
    get.wait_for_line(LONG, |line| line == "Tor is ready");
}

#[test]
fn a_directory_that_nobody_known_has_signed_is_none() {
    if !installed("tor") {
        return;
    }
    let network = TorNetwork::start(&Size::three_relays());
    let dir = TempDir::new().unwrap();
    let file = std::fs::read_to_string(network.tor_file()).unwrap();
    let (_, rest) = file.split_once("authorities = [\"").unwrap();
    let wrong = file.replace(&rest[..40], &"AB".repeat(20));
    let path = dir.path().join("wrong.toml");
    std::fs::write(&path, wrong).unwrap();
    let get = get(&dir, "state", &path, true);
    assert_told(Process::spawn("get", get), "directory can't be fetched");
}

/// A Tor file of a network whose only relay is there.
fn relay_at(dir: &TempDir, addr: SocketAddr) -> PathBuf {
    let (id, key) = ("AB".repeat(20), data_encoding::BASE64_NOPAD.encode(&NOBODY));
    let text = format!(
        "[network]\nauthorities = [\"{id}\"]\n[[network.fallback]]\nrsa = \"{id}\"\ned25519 = \"{key}\"\naddress = \"{addr}\"\n"
    );
    let path = dir.path().join(format!("{}.toml", addr.port()));
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn where_tor_is_blocked_the_user_hears_of_bridges() {
    let dir = TempDir::new().unwrap();
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    // One refuses; one takes the connection, and then is silent.
    let refusing = bind().local_addr().unwrap();
    let silent = bind();
    let silent_addr = silent.local_addr().unwrap();
    for (addr, text) in [
        (refusing, "none of Tor's relays can be reached"),
        (silent_addr, "Tor's relays don't answer as they should"),
    ] {
        let get = get(&dir, &addr.port().to_string(), &relay_at(&dir, addr), true);
        assert_told(Process::spawn("get", get), text);
    }
    // Who reads lines sees it there.
    let get = get(&dir, "lines", &relay_at(&dir, refusing), false);
    let mut get = Process::spawn("get", get);
    let bridges = |line: &str| line.starts_with("waiting") && line.contains("set bridges");
    get.wait_for_line(LONG, bridges);
    get.signal(Signal::TERM);
    assert_eq!(get.wait(PATIENCE).code(), Some(130), "{}", get.tails());
}
