//! `hushswarm get` as its user sees it: exit codes, sentences, what lies on the disk; beside liars and with a full disk.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use sha1::{Digest, Sha1};
use support::PATIENCE;
use support::clients::{Libtorrent, Torrent, Tracker, libtorrent_python};
use support::loopback::{Loopback, PROGRAM, RecordPeer, SmallDisk, has_done, outcome, with_peers};
use support::process::Process;
use tempfile::TempDir;

const NAME: &str = "archive.bin";
const MAGNET: &str = "magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567";

fn seed(loopback: &Loopback, torrent: &Torrent, rate: Option<u64>) -> Option<Libtorrent> {
    let python = libtorrent_python()?;
    let folder = loopback.dir.path().join("content");
    Some(Libtorrent::seed(&python, None, torrent, &folder, rate))
}

/// Runs `get` where no network is configured, in a folder that is given back.
fn get_alone(source: &str) -> (i32, String, TempDir) {
    let dir = TempDir::new().unwrap();
    let mut command = Command::new(PROGRAM);
    command
        .args(["get", source])
        .current_dir(dir.path())
        .env("HOME", dir.path())
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("XDG_STATE_HOME");
    let (code, _, errors) = outcome(command);
    (code, errors, dir)
}

#[test]
fn without_a_network_nothing_is_done() {
    let (code, errors, dir) = get_alone(MAGNET);
    assert_eq!(code, 3, "{errors}");
    assert!(errors.starts_with("error: no relay list"), "{errors}");
    assert!(errors.contains("hint: pass --network FILE"), "{errors}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_is_no_torrent_is_refused_with_a_sentence_that_does_not_repeat_it() {
    let v2 = format!("magnet:?xt=urn:btmh:1220{}", "ab".repeat(31));
    let secret = "c0ffee".repeat(9);
    let bad = format!("magnet:?xt=urn:btih:{secret}");
    for source in [
        "magnet:?dn=x",
        &bad,
        &v2,
        "no-such-file.torrent",
        "/",
        "/dev/zero",
    ] {
        let (code, errors, _dir) = get_alone(source);
        assert_eq!(code, 5, "{source}: {errors}");
        assert!(errors.starts_with("error: "), "{errors}");
        assert!(!errors.contains(&secret), "{errors}");
        assert!(!errors.contains("panicked"), "{errors}");
    }
    let (_, errors, _dir) = get_alone(&v2);
    assert!(errors.contains("urn:btmh"), "{errors}");
}

/// A torrent file by hand: `files` are path lists, or none for a single file called `name`.
fn bencoded(name: &str, files: &[&[&str]]) -> Vec<u8> {
    let text = |text: &str| format!("{}:{text}", text.len());
    let hash = Sha1::digest([b'x']);
    let list: String = files
        .iter()
        .map(|path| {
            let path: String = path.iter().map(|part| text(part)).collect();
            format!("d6:lengthi1e4:pathl{path}ee")
        })
        .collect();
    let size = if files.is_empty() {
        "6:lengthi1e".to_owned()
    } else {
        format!("5:filesl{list}e")
    };
    let mut out = format!(
        "d4:infod{size}4:name{}12:piece lengthi16384e6:pieces20:",
        text(name)
    )
    .into_bytes();
    out.extend_from_slice(&hash);
    out.extend_from_slice(b"ee");
    out
}

#[test]
fn torrents_that_name_files_outside_the_folder_are_refused_and_write_nothing() {
    let loopback = Loopback::start("off");
    let bad: [(&str, Vec<u8>); 9] = [
        ("parent", bencoded("..", &[])),
        ("parent inside", bencoded("a", &[&["..", "..", "evil"]])),
        ("slash", bencoded("../evil", &[])),
        ("absolute", bencoded("/tmp/hushswarm-evil", &[])),
        (
            "absolute inside",
            bencoded("a", &[&["/tmp", "hushswarm-evil"]]),
        ),
        ("empty", bencoded("", &[])),
        ("zero byte", bencoded("a\0b", &[])),
        ("one file twice", bencoded("a", &[&["b"], &["b"]])),
        ("file as folder", bencoded("a", &[&["b"], &["b", "c"]])),
    ];
    let file = loopback.content("bad.torrent");
    for (what, torrent) in &bad {
        fs::write(&file, torrent).unwrap();
        let (code, _, errors) = outcome(loopback.command(file.to_str().unwrap()));
        assert_eq!(code, 5, "{what}: {errors}");
        assert!(errors.starts_with("error: "), "{what}: {errors}");
    }
    for garbage in [&b""[..], b"d", b"<html>", b"d4:infoi5ee", &[b'l'; 100_000]] {
        fs::write(&file, garbage).unwrap();
        let (code, _, errors) = outcome(loopback.command(file.to_str().unwrap()));
        assert_eq!(code, 5, "{errors}");
        assert!(!errors.contains("panicked"), "{errors}");
    }
    assert!(!loopback.out("").exists(), "something was written");
    assert!(!Path::new("/tmp/hushswarm-evil").exists());
    assert!(!loopback.dir.path().join("evil").exists());
}

#[test]
fn a_device_name_of_another_system_does_no_harm_here() {
    // Refused, or a plain file in the folder: what the parser decides, but never a device.
    let loopback = Loopback::start("off");
    let file = loopback.content("bad.torrent");
    fs::write(&file, bencoded("CON", &[])).unwrap();
    let (code, _, errors) = outcome(loopback.command(file.to_str().unwrap()));
    assert_eq!(code, 5, "{errors}");
}

#[test]
fn a_folder_that_is_missing_is_made_and_one_that_can_not_be_written_ends_it() {
    let loopback = Loopback::start("off");
    let torrent = loopback.torrent(NAME, 1 << 20, &[]);
    let Some(seed) = seed(&loopback, &torrent, None) else {
        return;
    };
    let source = with_peers(&torrent, &[seed.addr]);
    let deep = loopback.out("a/b/c");
    let (code, _, errors) = outcome(loopback.command_to(&source, &deep));
    assert_eq!(code, 0, "{errors}");
    assert_eq!(
        fs::read(deep.join(NAME)).unwrap(),
        fs::read(loopback.content(NAME)).unwrap()
    );
    // Not a terminal: plain lines, and the last says where it is.
    let last = errors.lines().last().unwrap();
    assert!(
        last.contains("verified in") && last.contains(NAME),
        "{errors}"
    );
    assert!(
        !errors.contains('\x1b') && !errors.contains('\r'),
        "{errors:?}"
    );

    let in_the_way = loopback.out("file");
    fs::write(&in_the_way, "x").unwrap();
    let (code, _, errors) = outcome(loopback.command_to(&source, &in_the_way.join("below")));
    assert_eq!(code, 6, "{errors}");
    let Some(disk) = SmallDisk::mount("size=1m,ro") else {
        return;
    };
    let (code, _, errors) = outcome(loopback.command_to(&source, disk.path.path()));
    assert_eq!(code, 6, "{errors}");
    assert!(errors.contains("read-only file system"), "{errors}");
    assert!(errors.contains("hint: "), "{errors}");
}

#[test]
fn a_full_disk_is_named_and_the_download_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::mount("size=3m") else {
        return;
    };
    let loopback = Loopback::start("off");
    let torrent = loopback.torrent(NAME, 8 << 20, &[]);
    let Some(seed) = seed(&loopback, &torrent, None) else {
        return;
    };
    let source = with_peers(&torrent, &[seed.addr]);
    let mut command = loopback.command_to(&source, disk.path.path());
    command.arg("--json");
    let mut get = Process::spawn("get", command);
    let paused = get.wait_until(PATIENCE, |get| {
        let seen = get.events("progress");
        seen.into_iter().find(|view| view["state"] == "paused")
    });
    assert_eq!(paused["reason"], "the disk is full");
    disk.remount("size=32m");
    assert!(get.wait(PATIENCE * 2).success(), "{}", get.tails());
    let views = get.events("progress");
    let done: Vec<u64> = views
        .iter()
        .filter(|view| view["state"] != "checking")
        .map(|view| view["done"].as_u64().unwrap())
        .collect();
    assert!(done.is_sorted(), "something verified was lost: {done:?}");
    assert_eq!(
        support::hash_file(&disk.path.path().join(NAME)),
        support::hash_file(&loopback.content(NAME))
    );
}

#[test]
fn a_file_of_somebody_else_is_kept_unless_the_user_says_otherwise() {
    let loopback = Loopback::start("off");
    let torrent = loopback.torrent(NAME, 1 << 20, &[]);
    let Some(seed) = seed(&loopback, &torrent, None) else {
        return;
    };
    let source = with_peers(&torrent, &[seed.addr]);
    fs::create_dir(loopback.out("")).unwrap();
    fs::write(loopback.out(NAME), "my diary").unwrap();
    let (code, _, errors) = outcome(loopback.command(&source));
    assert_eq!(code, 6, "{errors}");
    assert!(
        errors.contains("does not belong to this torrent"),
        "{errors}"
    );
    assert_eq!(fs::read(loopback.out(NAME)).unwrap(), b"my diary");
    let mut command = loopback.command(&source);
    command.arg("--overwrite");
    let (code, _, errors) = outcome(command);
    assert_eq!(code, 0, "{errors}");
    loopback.assert_arrived(NAME);
}

#[test]
fn the_magnet_link_may_come_by_standard_input_and_every_line_of_json_reads() {
    let loopback = Loopback::start("off");
    let torrent = loopback.torrent(NAME, 1 << 20, &[]);
    let Some(seed) = seed(&loopback, &torrent, None) else {
        return;
    };
    let mut command = loopback.command("-");
    command.arg("--json").stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut get = command.spawn().unwrap();
    let link = format!("  {}\n", with_peers(&torrent, &[seed.addr]));
    get.stdin
        .take()
        .unwrap()
        .write_all(link.as_bytes())
        .unwrap();
    let output = get.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    loopback.assert_arrived(NAME);
    assert!(output.stderr.is_empty(), "{output:?}");

    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (last, progress) = lines.split_last().unwrap();
    assert!(!progress.is_empty());
    let numbers = [
        "done", "total", "down", "up", "peers", "known", "hops", "circuits",
    ];
    for view in progress {
        assert_eq!(view["event"], "progress");
        assert!(view["state"].is_string(), "{view}");
        assert!(numbers.iter().all(|key| view[key].is_u64()), "{view}");
        if let Some(lookups) = view.get("lookups") {
            let counts = lookups.as_object().unwrap();
            assert!(counts.values().all(Value::is_u64), "{view}");
        }
        let documented = |key: &String| {
            let others = ["event", "state", "reason", "left", "lookups"];
            numbers.contains(&key.as_str()) || others.contains(&key.as_str())
        };
        assert!(view.as_object().unwrap().keys().all(documented), "{view}");
    }
    let looked_up = progress.last().unwrap().get("lookups");
    assert!(looked_up.is_some(), "counted once the torrent runs");
    assert_eq!(last["event"], "done");
    assert_eq!(last["bytes"], 1 << 20);
    assert_eq!(
        PathBuf::from(last["path"].as_str().unwrap()),
        loopback.out(NAME)
    );
    assert!(last["seconds"].is_f64());
}

#[test]
fn a_peer_that_gives_wrong_blocks_is_banned_and_its_pieces_come_from_elsewhere() {
    let loopback = Loopback::start("off");
    let torrent = loopback.torrent(NAME, 4 << 20, &[]);
    let Some(seed) = seed(&loopback, &torrent, Some(1 << 20)) else {
        return;
    };
    let liar = RecordPeer::on_loopback(1, &torrent, &loopback.content(NAME), "blocks");
    let mut command = loopback.command(&with_peers(&torrent, &[liar.addr, seed.addr]));
    command.args(["--json", "--log", "debug"]);
    let mut get = Process::spawn("get", command);
    assert!(get.wait(PATIENCE).success(), "{}", get.tails());
    loopback.assert_arrived(NAME);
    assert!(
        !liar.process.events("served").is_empty(),
        "the liar was never asked: nothing was tested"
    );
    let log = get.stderr();
    assert!(log.contains("sent wrong data and is banned"), "{log}");
    assert!(
        !log.contains("127.0.0.1") && !log.contains("127.0.9.1"),
        "{log}"
    );
}

#[test]
fn peers_that_lie_about_the_metadata_do_not_stop_the_download() {
    let loopback = Loopback::start("off");
    let torrent = loopback.torrent(NAME, 1 << 20, &[]);
    let liars = ["metadata", "size", "shape"];
    let liars = [1, 2, 3].map(|n: u8| {
        let lie = liars[usize::from(n) - 1];
        RecordPeer::on_loopback(n, &torrent, &loopback.content(NAME), lie)
    });
    let addrs: Vec<SocketAddr> = liars.iter().map(|liar| liar.addr).collect();
    // The liars first, alone: it knows nothing, and goes on asking.
    let mut get = loopback.get(&with_peers(&torrent, &addrs));
    let mut asked = |n: usize| {
        get.wait_until(PATIENCE, |_| {
            (!liars[n].process.events("metadata").is_empty()).then_some(())
        });
    };
    asked(0);
    asked(1);
    assert!(get.exit_status().is_none(), "{}", get.tails());
    get.kill();
    // Beside an honest one, it succeeds.
    let Some(seed) = seed(&loopback, &torrent, None) else {
        return;
    };
    let all: Vec<SocketAddr> = addrs.into_iter().chain([seed.addr]).collect();
    let mut get = loopback.get(&with_peers(&torrent, &all));
    assert!(get.wait(PATIENCE).success(), "{}", get.tails());
    loopback.assert_arrived(NAME);
}

/// A tracker that answers every request with what `answer` gives for the number of the request.
fn lying_tracker(answer: impl Fn() -> Vec<u8> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            // It hangs up on what is too much: that is what is tested.
            let _ = stream.write_all(&answer());
        }
    });
    addr
}

#[test]
fn lying_trackers_do_not_keep_the_download_from_an_honest_one() {
    let loopback = Loopback::start("off");
    let huge = lying_tracker(|| {
        let mut out = b"HTTP/1.1 200 OK\r\n\r\nd5:peers99999999:".to_vec();
        out.resize(out.len() + (4 << 20), b'x');
        out
    });
    let garbage = lying_tracker(|| b"\0\xff<html>\r\n\r\n".to_vec());
    let circle = lying_tracker(|| b"HTTP/1.1 302 Found\r\nLocation: /announce\r\n\r\n".to_vec());
    let elsewhere =
        lying_tracker(|| b"HTTP/1.1 301 M\r\nLocation: udp://127.0.0.1:9/x\r\n\r\n".to_vec());
    let bombs = lying_tracker(|| {
        let head = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        [head, vec![b'l'; 1 << 20]].concat()
    });
    let tracker = Tracker::start(None, &[]);
    let liars =
        [huge, garbage, circle, elsewhere, bombs].map(|addr| format!("http://{addr}/announce"));
    let nobody = "udp://127.0.0.1:9/announce".to_owned();
    let all: Vec<&str> = liars
        .iter()
        .chain([&nobody, &tracker.http])
        .map(String::as_str)
        .collect();
    let torrent = loopback.torrent(NAME, 1 << 20, &all);
    let Some(_seed) = seed(&loopback, &torrent, None) else {
        return;
    };
    let mut get = loopback.get(&torrent.magnet);
    assert!(get.wait(PATIENCE * 2).success(), "{}", get.tails());
    loopback.assert_arrived(NAME);
}

#[test]
fn a_folder_with_empty_and_tiny_files_arrives_whole() {
    let loopback = Loopback::start("off");
    let folder = loopback.content("many");
    fs::create_dir_all(folder.join("deep/er")).unwrap();
    fs::write(folder.join("empty"), "").unwrap();
    fs::write(folder.join("deep/er/empty"), "").unwrap();
    for n in 0..200_usize {
        let text = format!("file {n} ").repeat(n * 37);
        fs::write(folder.join(format!("deep/{n:03}.txt")), text).unwrap();
    }
    let file = loopback.content("many.torrent");
    let torrent = Torrent::make(&folder, &file, &[], 64 << 10);
    let Some(seed) = seed(&loopback, &torrent, None) else {
        return;
    };
    let mut get = loopback.get(&with_peers(&torrent, &[seed.addr]));
    assert!(get.wait(PATIENCE).success(), "{}", get.tails());
    let mut diff = Command::new("diff");
    diff.arg("-r").arg(&folder).arg(loopback.out("many"));
    support::process::run(diff);
    assert!(has_done(&get, 1).is_some());
}

/// What curl gets of a range of bytes.
fn curl(url: &str, range: &str) -> Vec<u8> {
    let mut command = Command::new("curl");
    let output = command.args(["-sf", "--max-time", "60", "-r", range, url]);
    let output = output.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

#[test]
fn a_file_is_played_before_it_has_come() {
    const LEN: u64 = 8 << 20;
    let loopback = Loopback::start("off");
    let torrent = loopback.torrent(NAME, LEN, &[]);
    let Some(seed) = seed(&loopback, &torrent, Some(1 << 20)) else {
        return;
    };
    let mut command = Command::new(PROGRAM);
    command
        .args(["stream", "--json", "--allow-private"])
        .arg(with_peers(&torrent, &[seed.addr]))
        .args([Path::new("--network"), &loopback.network.file])
        .args([Path::new("--output"), &loopback.out("")])
        .args([Path::new("--state"), &loopback.dir.path().join("state")]);
    let mut stream = Process::spawn("stream", command);
    let playable = stream.wait_for_event(PATIENCE, "stream");
    assert_eq!(playable["bytes"], LEN);
    let url = playable["url"].as_str().unwrap();
    assert!(
        url.starts_with("http://127.0.0.1:") && url.ends_with(NAME),
        "{url}"
    );
    let content = fs::read(loopback.content(NAME)).unwrap();
    // A player looks at the end, then plays from the middle on.
    let tail = curl(url, "-100000");
    assert!(tail == content[content.len() - 100_000..]);
    let middle = curl(url, "4000000-4499999");
    assert!(middle == content[4_000_000..4_500_000]);
    let seen = stream.events("progress");
    let done = seen.last().unwrap()["done"].as_u64().unwrap();
    assert!(done < LEN - (2 << 20), "it had come anyway: {done}");
    assert!(curl(url, "0-") == content);
    loopback.assert_arrived(NAME);
    assert!(!stream.stderr().contains("archive"), "{}", stream.tails());
    stream.stop(PATIENCE);
}
