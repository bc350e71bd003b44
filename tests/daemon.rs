//! `hushswarm daemon` as other programs see it: Debian's transmission-remote steers it, curl asks it what it may not tell, and it comes
//! back as it was after a stop and after a kill.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::disallowed_types)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hushswarm::cli::demo::network::relay_ip;
use rustix::process::Signal;
use serde_json::Value;
use support::clients::{Libtorrent, Torrent, libtorrent_python};
use support::loopback::{Loopback, PROGRAM, outcome, with_peers};
use support::process::Process;
use support::{PATIENCE, fixture, hash_file, write_noise};

/// A running daemon, and how it is spoken to.
struct Daemon<'a> {
    world: &'a Loopback,
    process: Process,
    at: String,
    who: String,
}

impl<'a> Daemon<'a> {
    fn start(world: &'a Loopback) -> Self {
        let mut command = Command::new(PROGRAM);
        let state = world.dir.path().join("state");
        command
            .args(["daemon", "--listen", "127.0.0.1:0", "--json"])
            .args(["--allow-private", "--no-dht"])
            .args([Path::new("--network"), &world.network.file])
            .args([Path::new("--state"), &state])
            .args([Path::new("--download-dir"), &world.out("")]);
        let mut process = Process::spawn("daemon", command);
        let said = process.wait_for_event(PATIENCE, "listening");
        let who = fs::read_to_string(state.join("rpc-credentials")).unwrap();
        Self {
            world,
            process,
            at: said["address"].as_str().unwrap().to_owned(),
            who: who.trim().to_owned(),
        }
    }

    /// Runs transmission-remote; fails where it does.
    fn remote(&self, args: &[&str]) -> String {
        let mut command = Command::new("transmission-remote");
        command.arg(&self.at).args(["-n", &self.who]).args(args);
        let (code, out, errors) = outcome(command);
        assert_eq!(code, 0, "{args:?}: {out}{errors}");
        out
    }

    /// The same for an order, which is answered by one line.
    fn order(&self, args: &[&str]) {
        let out = self.remote(args);
        assert!(out.contains("success"), "{args:?}: {out}");
    }

    /// Asks again and again until this is in the answer.
    fn until(&mut self, args: &[&str], wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let out = self.remote(args);
            if wanted(&out) {
                return out;
            }
            if Instant::now() >= deadline || self.process.exit_status().is_some() {
                let metrics = self.curl("/metrics", &["-u", &self.who]).1;
                panic!("{args:?}: {out}\n{metrics}{}", self.process.tails());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Runs a command of the program beside the daemon; gives what it printed.
    fn command(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(PROGRAM);
        let state = self.world.dir.path().join("state");
        command.args(args).args([Path::new("--state"), &state]);
        outcome(command)
    }

    /// The torrents, as `hushswarm list --json` gives them.
    fn list(&self) -> Vec<Value> {
        let (code, out, errors) = self.command(&["list", "--json"]);
        assert_eq!(code, 0, "{errors}");
        serde_json::from_str(&out).unwrap()
    }

    /// The status and the answer of a request by curl.
    fn curl(&self, path: &str, args: &[&str]) -> (String, String) {
        let mut command = Command::new("curl");
        command
            .args(["-s", "-i", "--max-time", "20"])
            .args(args)
            .arg(format!("http://{}{path}", self.at));
        let (_, out, _) = outcome(command);
        // Behind what let it send its body.
        let mut lines = out
            .lines()
            .filter_map(|line| line.strip_prefix("HTTP/1.1 "));
        let status = lines.next_back().and_then(|line| line.get(..3));
        let status = status.unwrap_or_default().to_owned();
        (status, out)
    }
}

fn have(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        support::skip(&format!("{program} is not here"));
    }
    found
}

/// A folder of two files, and a torrent of it.
fn album(world: &Loopback) -> Torrent {
    let folder = world.content("album");
    fs::create_dir(&folder).unwrap();
    write_noise(&folder.join("one.flac"), 700_000, 1);
    write_noise(&folder.join("two.flac"), 600_000, 2);
    let file = world.content("album.torrent");
    Torrent::make(&folder, &file, &[], 64 << 10)
}

#[test]
fn transmission_remote_drives_it_and_all_stays_over_a_stop_and_a_kill() {
    let (true, Some(python)) = (have("transmission-remote"), libtorrent_python()) else {
        return;
    };
    let world = Loopback::start("off");
    let torrent = world.torrent("archive.bin", 3 << 20, &[]);
    let seed = Libtorrent::seed(&python, None, &torrent, &world.content(""), None);
    let album = album(&world);
    let album_seed = Libtorrent::seed(&python, None, &album, &world.content(""), None);

    let mut daemon = Daemon::start(&world);
    // By link, from a peer behind three relays.
    daemon.order(&["-a", &with_peers(&torrent, &[seed.addr])]);
    let list = daemon.until(&["-l"], |out| out.contains("100%"));
    assert!(list.contains("archive.bin"), "{list}");
    assert_eq!(
        hash_file(&world.out("archive.bin")),
        hash_file(&world.content("archive.bin"))
    );
    let info = daemon.remote(&["-t", "1", "-i"]);
    for wanted in ["Name: archive.bin", &torrent.infohash, "Percent Done: 100"] {
        assert!(info.contains(wanted), "{wanted}: {info}");
    }
    let files = daemon.until(&["-t", "1", "-f"], |out| out.contains("archive.bin"));
    assert!(
        files.contains("100%") && files.contains("3.15 MB"),
        "{files}"
    );
    // It rests and goes on, and is looked at.
    daemon.order(&["-t", "1", "-S"]);
    daemon.until(&["-l"], |out| out.contains("Stopped"));
    daemon.order(&["-t", "1", "-s"]);
    daemon.until(&["-l"], |out| {
        out.contains("Idle") || out.contains("Seeding")
    });
    daemon.order(&["-t", "1", "-v"]);
    daemon.order(&["-t", "1", "--reannounce"]);
    daemon.until(&["-l"], |out| {
        out.contains("100%") && !out.contains("Verifying")
    });

    // By file, resting, and only one of its files.
    daemon.order(&["-a", album.file.to_str().unwrap()]);
    daemon.order(&["-t", "2", "-G", "0"]);
    daemon.order(&["-t", "2", "-S"]);
    daemon.order(&["-t", "2", "-L", "music,test"]);
    let files = daemon.remote(&["-t", "2", "-f"]);
    let line = |name: &str| {
        files
            .lines()
            .find(|line| line.contains(name))
            .unwrap()
            .to_owned()
    };
    assert!(
        line("one.flac").contains("No") && line("two.flac").contains("Yes"),
        "{files}"
    );
    assert!(daemon.remote(&["-t", "2", "-i"]).contains("music"));
    // The same again is the same.
    let again = daemon.remote(&["-a", album.file.to_str().unwrap()]);
    assert!(
        again.contains("duplicate") || again.contains("success"),
        "{again}"
    );
    assert_eq!(daemon.list().len(), 2);
    let si = daemon.remote(&["-si"]);
    assert!(si.contains("hushswarm"), "{si}");
    assert!(daemon.remote(&["-st"]).contains("Started 1 times"));
    assert!(daemon.remote(&["-pt"]).contains("Port is open: No"));
    daemon.order(&["-gsr", "1.5"]);
    daemon.order(&["-d", "900"]);

    // It comes back after a stop, and after a kill.
    let plain = |list: Vec<Value>| {
        let pick = |torrent: &Value| {
            let names = [
                "hashString",
                "name",
                "labels",
                "downloadDir",
                "sizeWhenDone",
            ];
            names.map(|name| torrent[name].clone()).to_vec()
        };
        list.iter().map(pick).collect::<Vec<_>>()
    };
    let before = plain(daemon.list());
    assert!(
        daemon.process.stop(PATIENCE).success(),
        "{}",
        daemon.process.tails()
    );
    let mut daemon = Daemon::start(&world);
    assert_eq!(plain(daemon.list()), before);
    daemon.until(&["-l"], |out| {
        out.contains("100%") && out.contains("Stopped")
    });
    daemon.process.kill();
    let mut daemon = Daemon::start(&world);
    assert_eq!(plain(daemon.list()), before);
    let si = daemon.remote(&["-si"]);
    assert!(si.contains("1.5") && si.contains("900"), "{si}");

    // The one wanted file comes. The seed is told by a link, since the torrent names nobody.
    drop(album_seed);
    let (code, _, errors) = daemon.command(&["remove", &album.infohash.to_uppercase()]);
    assert_eq!(code, 0, "{errors}");
    let album_seed = Libtorrent::seed(&python, None, &album, &world.content(""), None);
    let link = with_peers(&album, &[album_seed.addr]);
    let (code, out, errors) = daemon.command(&["add", &link, "--label", "music"]);
    assert_eq!(code, 0, "{errors}");
    assert!(out.contains("added"), "{out}");
    daemon.until(&["-l"], |out| out.matches("100%").count() == 2);
    let (_, table, _) = daemon.command(&["list"]);
    assert!(
        table.contains("album") && table.contains("100%") && table.contains("RATIO"),
        "{table}"
    );

    // Only what is the torrent's goes with it.
    fs::write(world.out("album/notes.txt"), "mine").unwrap();
    let id = daemon.list().iter().find(|t| t["name"] == "album").unwrap()["id"].to_string();
    daemon.order(&["-t", &id, "--remove-and-delete"]);
    daemon.until(&["-l"], |_| !world.out("album/two.flac").exists());
    assert!(!world.out("album/one.flac").exists());
    assert_eq!(fs::read(world.out("album/notes.txt")).unwrap(), b"mine");
    let (code, out, errors) = daemon.command(&["remove", "1"]);
    assert_eq!((code, daemon.list().len()), (0, 0), "{out}{errors}");
    assert!(world.out("archive.bin").exists());
    let (code, _, errors) = daemon.command(&["remove", "1"]);
    assert_eq!(code, 2, "{errors}");
    daemon.process.signal(Signal::HUP);
    daemon.order(&["--exit"]);
    assert!(daemon.process.wait(PATIENCE).success());
    let (code, _, errors) = daemon.command(&["list"]);
    assert_eq!(code, 4, "{errors}");
    assert!(errors.contains("hint: start it"), "{errors}");
}

#[test]
fn transmission_remote_adds_a_torrent_by_its_web_address_and_the_server_sees_the_exit() {
    if !have("transmission-remote") {
        return;
    }
    let world = Loopback::start("off");
    let torrent = world.torrent("archive.bin", 1 << 20, &[]);
    let mut command = Command::new("python3");
    command.arg(fixture("web_server.py"));
    command.arg("--folder").arg(world.content(""));
    let mut server = Process::spawn("web server", command);
    let port = server.wait_for_event(PATIENCE, "ready")["port"].clone();
    let daemon = Daemon::start(&world);
    daemon.order(&[
        "-a",
        &format!("http://127.0.0.1:{port}/archive.bin.torrent"),
    ]);
    let info = daemon.remote(&["-t", "1", "-i"]);
    assert!(info.contains(&torrent.infohash), "{info}");
    let requests = server.events("request");
    assert_eq!(requests.len(), 1, "{requests:#?}");
    assert_eq!(requests[0]["ip"], relay_ip(2).to_string());
}

#[test]
fn who_may_not_ask_is_told_nothing() {
    if !have("curl") {
        return;
    }
    let world = Loopback::start("off");
    let daemon = Daemon::start(&world);
    let rpc = "/transmission/rpc";
    let auth = ["-u", daemon.who.as_str()];
    assert_eq!(daemon.curl(rpc, &[]).0, "401");
    assert_eq!(daemon.curl(rpc, &["-u", "hushswarm:wrong"]).0, "401");
    assert_eq!(daemon.curl("/metrics", &[]).0, "401");
    let with = |more: &[&str]| daemon.curl(rpc, &[&auth, more].concat());
    assert_eq!(with(&["-H", "Host: evil.example"]).0, "421");
    assert_eq!(with(&["-H", "Origin: https://evil.example"]).0, "403");
    let (status, said) = with(&[]);
    assert_eq!(status, "409");
    let lower = said.to_lowercase();
    assert!(!lower.contains("x-transmission-rpc-version"), "{said}");
    let id = said
        .lines()
        .find_map(|line| line.strip_prefix("X-Transmission-Session-Id: "))
        .unwrap();
    let id = format!("X-Transmission-Session-Id: {}", id.trim());
    let call = |body: &str| with(&["-H", &id, "--data-binary", body]);
    let (status, said) = call("{\"method\":\"torrent-fly\",\"tag\":3}");
    assert_eq!(status, "200");
    assert!(
        said.contains("method name not recognized") && said.contains("\"tag\":3"),
        "{said}"
    );
    // A page's request comes without the id, whoever sends it.
    assert_eq!(
        with(&["--data-binary", "{\"method\":\"session-close\"}"]).0,
        "409"
    );
    // Ten megabytes of nothing, with and without the right to send them, and more than is ever read.
    let big = world.content("big");
    fs::write(&big, vec![b'['; 10 << 20]).unwrap();
    let file = format!("@{}", big.display());
    assert_eq!(daemon.curl(rpc, &["--data-binary", &file]).0, "401");
    let (status, said) = with(&["-H", &id, "--data-binary", &file]);
    assert_eq!(status, "200");
    assert!(said.contains("no JSON object"), "{said}");
    let huge = fs::File::create(&big).unwrap();
    huge.set_len(200 << 20).unwrap();
    assert_eq!(
        with(&[
            "-H",
            &id,
            "-H",
            "Transfer-Encoding: chunked",
            "--data-binary",
            "x"
        ])
        .0,
        "411"
    );
    assert_eq!(
        with(&["-H", &id, "-T", big.to_str().unwrap(), "-X", "POST"]).0,
        "413"
    );
    let (status, said) = daemon.curl("/metrics", &auth);
    assert_eq!(status, "200");
    assert!(
        said.contains("hushswarm_torrents{state=\"seeding\"} 0"),
        "{said}"
    );
    // Nobody who could be elsewhere is listened to.
    let mut command = Command::new(PROGRAM);
    command.args(["daemon", "--listen", "0.0.0.0:0"]);
    let (code, _, errors) = outcome(command);
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("ssh -L"), "{errors}");
}

#[test]
fn packages_get_completions_and_manual_pages() {
    let said = |args: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(args);
        let (code, out, errors) = outcome(command);
        assert_eq!(code, 0, "{errors}");
        out
    };
    for shell in ["bash", "zsh", "fish"] {
        let text = said(&["completions", shell]);
        assert!(
            text.contains("hushswarm") && text.contains("daemon"),
            "{shell}"
        );
    }
    assert!(said(&["man"]).contains("hushswarm\\-daemon"));
    let page = said(&["man", "daemon"]);
    assert!(
        page.contains(".TH") && page.contains("rpc\\-host"),
        "{page}"
    );
    let mut command = Command::new(PROGRAM);
    command.args(["man", "fly"]);
    assert_eq!(outcome(command).0, 2);
}
