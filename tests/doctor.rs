//! `hushswarm doctor` on real set-ups: files that the real clients wrote, proxies that run, clients that run.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::PATIENCE;
use support::clients::{Place, QBittorrent, installed};
use support::loopback::{Loopback, PROGRAM};
use support::process::{Process, free_port};
use support::scene::Scene;
use support::settings::documented;
use tempfile::TempDir;

/// Runs the doctor by this command and gives its findings; the exit code has to agree with them.
fn findings(mut command: Command) -> Vec<Value> {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let said: Value = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    let findings = said["findings"].as_array().unwrap().clone();
    let order = ["leak", "broken", "note", "fine"];
    let dangers: Vec<usize> = findings
        .iter()
        .map(|finding| {
            order
                .iter()
                .position(|word| finding["danger"] == *word)
                .unwrap()
        })
        .collect();
    assert!(dangers.is_sorted(), "not worst first: {text}");
    let wrong = dangers.iter().any(|danger| *danger < 2);
    assert_eq!(output.status.code(), Some(i32::from(wrong)), "{text}");
    for finding in &findings {
        let helps = finding["danger"] == "fine" || finding["remedy"] != "";
        assert!(
            helps || finding["what"].as_str().unwrap().starts_with("and "),
            "{finding}"
        );
    }
    findings
}

fn doctor(home: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["doctor", "--json"]).env("HOME", home);
    command
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("XDG_STATE_HOME");
    // Where nobody listens, unless a test says otherwise later on the command line.
    command
}

fn nobody() -> String {
    SocketAddr::new(
        Ipv4Addr::LOCALHOST.into(),
        free_port(Ipv4Addr::LOCALHOST.into()),
    )
    .to_string()
}

/// What it finds in one configuration file.
fn leaks_of(file: &Path, place: &str) -> Vec<String> {
    let home = TempDir::new().unwrap();
    let mut command = doctor(home.path());
    command.args(["--proxy", &nobody(), "--config"]).arg(file);
    let found = findings(command).into_iter();
    found
        .filter(|finding| finding["place"] == place && finding["danger"] == "leak")
        .map(|finding| finding["what"].as_str().unwrap().to_owned())
        .collect()
}

fn assert_named(found: &[String], wanted: &[&str]) {
    for wanted in wanted {
        assert!(
            found.iter().any(|what| what.contains(wanted)),
            "{wanted} is not in {found:#?}"
        );
    }
}

#[test]
fn files_that_transmission_and_deluge_wrote_are_read_and_their_leaks_named() {
    if !installed("transmission-daemon") || !installed("deluged") {
        return;
    }
    let folder = TempDir::new().unwrap();
    let port = free_port(Ipv4Addr::LOCALHOST.into()).to_string();
    let mut command = Command::new("transmission-daemon");
    command
        .args(["--foreground", "--port", &port, "--config-dir"])
        .arg(folder.path());
    command.env("HOME", folder.path());
    let mut transmission = Process::spawn("transmission", command);
    transmission.wait_for_line(PATIENCE, |line| line.contains("Serving RPC"));
    transmission.stop(PATIENCE);
    let found = leaks_of(&folder.path().join("settings.json"), "Transmission");
    assert_named(
        &found,
        &[
            "no proxy for peers",
            "DHT is on",
            "uTP is on",
            "UPnP",
            "bind-address-ipv4",
            "bind-address-ipv6",
        ],
    );

    let port = free_port(Ipv4Addr::LOCALHOST.into()).to_string();
    let mut command = Command::new("deluged");
    command
        .args(["--do-not-daemonize", "--port", &port, "--config"])
        .arg(folder.path());
    command.env("HOME", folder.path());
    let mut deluge = Process::spawn("deluged", command);
    let file = folder.path().join("core.conf");
    deluge.wait_until(PATIENCE, |_| file.exists().then_some(()));
    deluge.stop(PATIENCE);
    let found = leaks_of(&file, "Deluge");
    assert_named(
        &found,
        &[
            "no SOCKS5",
            "anonymous mode",
            "DHT is on",
            "L11",
            "L12",
            "listens on all",
        ],
    );
}

#[test]
fn qbittorrents_own_file_leaks_and_the_documented_one_does_not_also_when_it_has_rewritten_it() {
    if !installed("qbittorrent-nox") {
        return;
    }
    // In a world of its own, since it goes out as it comes.
    let Some(scene) = Scene::new(1 << 20, "none") else {
        return;
    };
    let place = Place::on(&scene.client);
    for (settings, leaks) in [
        (String::new(), true),
        (documented("qbittorrent", "proxy"), false),
    ] {
        let out = TempDir::new().unwrap();
        let mut client = QBittorrent::start(&place, &settings, out.path(), 8080);
        client.process.stop(PATIENCE);
        let text = fs::read_to_string(client.config()).unwrap();
        assert!(
            text.contains("MigrationVersion"),
            "it has not written its file: {text}"
        );
        let found = leaks_of(&client.config(), "qBittorrent");
        if leaks {
            assert_named(
                &found,
                &[
                    "no SOCKS5",
                    "DHT is on",
                    "L11",
                    "L12",
                    "L10",
                    "L19",
                    "web page",
                ],
            );
        } else {
            assert_eq!(found, Vec::<String>::new(), "{text}");
        }
    }
}

#[test]
fn a_file_of_nobody_knows_what_is_refused() {
    let home = TempDir::new().unwrap();
    let mut command = doctor(home.path());
    command.args(["--config", "/etc/hostname"]);
    assert_eq!(command.output().unwrap().status.code(), Some(2));
}

#[test]
fn a_good_proxy_is_fine_and_none_or_another_one_is_not() {
    let world = Loopback::start("warn");
    let home = TempDir::new().unwrap();
    let state = world.dir.path().join("state");
    let network = world.network.file.to_str().unwrap().to_owned();
    let about = |listen: &str, more: &[&str]| {
        let mut command = doctor(home.path());
        command
            .args(["--network", &network, "--proxy", listen, "--state"])
            .arg(&state)
            .args(more);
        let found = findings(command).into_iter();
        let ours = ["network", "state", "proxy"];
        found
            .filter(|finding| ours.iter().any(|place| finding["place"] == *place))
            .collect::<Vec<_>>()
    };
    let is = |found: &[Value], danger: &str, what: &str| {
        let hit = |finding: &Value| {
            finding["danger"] == danger && finding["what"].as_str().unwrap().contains(what)
        };
        assert!(
            found.iter().any(hit),
            "no {danger} with {what:?} in {found:#?}"
        );
    };
    let listen = nobody();
    is(&about(&listen, &[]), "broken", "nothing listens");

    let mut command = Command::new(PROGRAM);
    command
        .args([
            "proxy",
            "--listen",
            &listen,
            "--network",
            &network,
            "--state",
        ])
        .arg(&state);
    let mut proxy = Process::spawn("proxy", command);
    proxy.wait_for_line(PATIENCE, |line| line.contains(&listen));
    let found = about(&listen, &[]);
    for what in [
        "network file",
        "closed to others",
        "answers SOCKS5",
        "it is hushswarm",
        "takes UDP",
    ] {
        is(&found, "fine", what);
    }
    assert!(
        found
            .iter()
            .all(|finding| finding["danger"] == "fine" || finding["danger"] == "note"),
        "{found:#?}"
    );
    // A private address is let out by nobody, and that is said.
    let found = about(&listen, &["--target", "192.168.1.1:80"]);
    is(&found, "broken", "a connection to the target fails");
    proxy.stop(PATIENCE);

    // Somebody else's proxy, which says yes to everything.
    let stranger = "import socket, sys\ns = socket.create_server(('127.0.0.1', int(sys.argv[1])))\nprint('ready', flush=True)\nwhile True:\n c, _ = s.accept(); c.recv(99); c.sendall(bytes([5, 0])); c.close()";
    let mut command = Command::new("python3");
    command.args(["-c", stranger, listen.rsplit(':').next().unwrap()]);
    let mut other = Process::spawn("other proxy", command);
    other.wait_for_line(PATIENCE, |line| line == "ready");
    is(&about(&listen, &[]), "leak", "another proxy");
}

#[test]
fn a_client_that_strangers_can_find_is_named_and_one_in_a_jail_is_fine() {
    if !installed("qbittorrent-nox") {
        return;
    }
    let Some(scene) = Scene::new(1 << 20, "none") else {
        return;
    };
    let home = TempDir::new().unwrap();
    let found_of = |id: u32| {
        let mut command = scene.client.command(PROGRAM);
        command.args(["doctor", "--json"]).env("HOME", home.path());
        let place = format!("(pid {id})");
        let found = findings(command).into_iter();
        found
            .filter(|finding| finding["place"].as_str().unwrap().ends_with(&place))
            .collect::<Vec<_>>()
    };
    let out = TempDir::new().unwrap();
    let client = QBittorrent::start(&Place::on(&scene.client), "", out.path(), 8080);
    let found = found_of(client.process.id());
    let strangers = |finding: &Value| {
        finding["danger"] == "leak"
            && finding["what"]
                .as_str()
                .unwrap()
                .contains("strangers can find it")
    };
    assert!(found.iter().any(strangers), "{found:#?}");
    drop(client);

    let place = scene.jail("run", &["--publish", "8080"]);
    let client = QBittorrent::start(&place, "", out.path(), 8080);
    let jailed = descendant(client.process.id(), "qbittorrent-nox").unwrap();
    let found = found_of(jailed);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0]["danger"], "fine");
}

/// The process of this name below another one, by its id outside.
fn descendant(ancestor: u32, name: &str) -> Option<u32> {
    let children = |id: u32| {
        let tasks = fs::read_dir(format!("/proc/{id}/task"))
            .into_iter()
            .flatten()
            .flatten();
        let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        lists.collect::<Vec<_>>().join(" ")
    };
    for child in children(ancestor).split_whitespace() {
        let id: u32 = child.parse().unwrap();
        let comm = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        if comm.trim() == name {
            return Some(id);
        }
        if let Some(found) = descendant(id, name) {
            return Some(found);
        }
    }
    None
}
