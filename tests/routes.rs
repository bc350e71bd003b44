//! What may leave, as the user sees it: `hushswarm check`, and routes files that `get` obeys.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::loopback::{Loopback, PROGRAM, RecordPeer, outcome, with_peers};
use tempfile::TempDir;

/// A home folder of its own.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write_routes(&self, text: &str) -> PathBuf {
        let path = self.path(".config/hushswarm/routes.toml");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn check(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(PROGRAM);
        command
            .arg("check")
            .args(args)
            .current_dir(self.0.path())
            .env("HOME", self.0.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_STATE_HOME");
        outcome(command)
    }

    fn findings(&self, args: &[&str]) -> (i32, Vec<Value>) {
        let (code, out, _) = self.check(&[args, &["--json"]].concat());
        (code, lines(&out))
    }
}

fn lines(out: &str) -> Vec<Value> {
    out.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn finding<'a>(findings: &'a [Value], what: &str) -> &'a Value {
    findings.iter().find(|one| one["what"] == what).unwrap()
}

#[test]
fn check_says_where_a_target_goes_and_which_rule_decides() {
    let home = Home::new();
    let (code, out, _) = home.check(&["example.org:443"]);
    assert_eq!(code, 0);
    assert!(out.contains("goes through a circuit"), "{out}");
    assert!(
        out.contains("the default, as there is no routes file"),
        "{out}"
    );
    home.write_routes(
        "# mine\n[[rule]]\nhost = '*.example.org'\naction = 'refuse'\n\
         [[rule]]\nport = '6881-6999'\nproto = 'udp'\naction = 'circuit'\nhops = 1\n",
    );
    for (args, expected, says, by) in [
        (&["example.org:443"][..], 0, "through a circuit", "default"),
        (
            &["a.example.org:443"],
            1,
            "is refused",
            "the rule in line 2 of",
        ),
        (&["8.8.8.8:6881", "--udp"], 0, "through one relay", "line 5"),
        (&["8.8.8.8:6881"], 0, "through a circuit", "default"),
        (&["8.8.8.8:25"], 1, "is refused", "refuse_ports"),
        (&["192.168.1.1:80"], 1, "private", "no file can change"),
        (
            &["192.168.1.1:80", "--allow-private"],
            0,
            "through a circuit",
            "default",
        ),
        (&["[::1]:80"], 1, "private", "no file can change"),
        (&["[2606:4700::1]:80"], 0, "through a circuit", "default"),
        (&["0x7f.1:80"], 1, "spelled", "no file can change"),
        (
            &["abc.onion:80"],
            if cfg!(feature = "tor") { 0 } else { 1 },
            "Tor",
            "no file can change",
        ),
    ] {
        let (code, out, errors) = home.check(args);
        assert_eq!(code, expected, "{args:?}: {out}{errors}");
        assert!(out.contains(says) && out.contains(by), "{args:?}: {out}");
        let (code, found) = home.findings(args);
        assert_eq!(code, expected);
        let way = found[0]["way"].as_str().unwrap();
        assert_eq!(
            ["circuit", "tor"].contains(&way),
            expected == 0,
            "{found:?}"
        );
    }
    for bad in [
        "example.org",
        "example.org:x",
        "2606:4700::1:80",
        "a b:80",
        "example.org:99999",
    ] {
        let (code, out, errors) = home.check(&[bad]);
        assert_eq!((code, out.as_str()), (2, ""), "{bad}");
        assert!(errors.starts_with("error: "), "{errors}");
    }
}

#[test]
fn check_names_the_line_of_a_wrong_routes_file() {
    let home = Home::new();
    let path =
        home.write_routes("default = 'circuit'\n[[rule]]\nhost = 'a.example'\naction = 'direct'\n");
    let (code, found) = home.findings(&[]);
    // Without a network file that is the first thing that is wrong.
    assert_eq!(code, 3);
    let routes = finding(&found, "routes");
    assert_eq!(routes["outcome"], "bad");
    let says = routes["says"].as_str().unwrap();
    assert!(says.contains("routes.toml, line 4: an action is"), "{says}");
    // No command runs with it.
    let (code, _, errors) = home.check(&["example.org:443"]);
    assert_eq!(code, 1);
    assert!(errors.contains("line 4"), "{errors}");
    let mut get = Command::new(PROGRAM);
    get.args([
        "get",
        "magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567",
    ]);
    get.arg("--routes").arg(&path).env("HOME", home.0.path());
    let (code, _, errors) = outcome(get);
    assert_eq!(code, 1);
    assert!(errors.contains("line 4"), "{errors}");
}

#[test]
fn the_example_routes_file_changes_nothing() {
    let home = Home::new();
    let (code, example, _) = home.check(&["--example"]);
    assert_eq!(code, 0);
    home.write_routes(&example);
    let (_, found) = home.findings(&[]);
    assert_eq!(finding(&found, "routes")["outcome"], "good");
}

#[test]
fn check_looks_at_network_list_state_and_clock_and_changes_nothing() {
    let home = Home::new();
    let (code, found) = home.findings(&[]);
    assert_eq!(code, 3);
    assert_eq!(finding(&found, "network")["outcome"], "bad");
    assert!(
        finding(&found, "network")["hint"]
            .as_str()
            .unwrap()
            .contains("--network FILE")
    );
    assert_eq!(finding(&found, "state")["outcome"], "good");
    assert_eq!(fs::read_dir(home.0.path()).unwrap().count(), 0);

    let loopback = Loopback::start("off");
    let network = loopback.network.file.clone();
    let network = network.to_str().unwrap();
    let state = home.path("state");
    let args = ["--network", network, "--state", state.to_str().unwrap()];
    let (code, found) = home.findings(&args);
    assert_eq!(code, 0, "{found:?}");
    for what in ["network", "routes", "state", "clock"] {
        assert_eq!(finding(&found, what)["outcome"], "good", "{found:?}");
    }
    let list = finding(&found, "relay list");
    assert!(
        list["says"].as_str().unwrap().contains("3 relays"),
        "{list}"
    );
    assert!(!state.exists());
    let (code, text, _) = home.check(&args);
    assert_eq!(code, 0);
    assert!(
        text.starts_with("WHAT") && text.contains("relay list"),
        "{text}"
    );

    // A folder that others may look into.
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    let (code, found) = home.findings(&args);
    assert_eq!(code, 6);
    assert!(
        finding(&found, "state")["hint"]
            .as_str()
            .unwrap()
            .contains("chmod 700")
    );
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();

    // A relay list of the future: a clock that is behind.
    let list_path = list_of(Path::new(network));
    let list = fs::File::options().append(true).open(&list_path).unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(86_400);
    list.set_modified(later).unwrap();
    let (code, found) = home.findings(&args);
    assert_eq!(code, 0);
    assert_eq!(finding(&found, "clock")["outcome"], "note");

    // A relay list that somebody changed.
    let mut bytes = fs::read(&list_path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&list_path, bytes).unwrap();
    let (code, found) = home.findings(&args);
    assert_eq!(code, 3);
    assert_eq!(finding(&found, "relay list")["outcome"], "bad");
}

/// The relay list that a network file names.
fn list_of(network: &Path) -> PathBuf {
    let text = fs::read_to_string(network).unwrap();
    let file: toml::Table = toml::from_str(&text).unwrap();
    network
        .parent()
        .unwrap()
        .join(file["list"].as_str().unwrap())
}

/// A peer that a rule refuses is not reached, while the same download goes on with another.
#[test]
fn get_obeys_the_routes_file() {
    let loopback = Loopback::start("off");
    let torrent = loopback.torrent("archive.bin", 1 << 20, &[]);
    let refused = TcpListener::bind("127.0.9.77:0").unwrap();
    refused.set_nonblocking(true).unwrap();
    let honest = RecordPeer::on_loopback(1, &torrent, &loopback.content("archive.bin"), "none");
    let refused_addr = refused.local_addr().unwrap();
    let source = with_peers(&torrent, &[refused_addr, honest.addr]);
    let routes = loopback.out("routes.toml");
    fs::create_dir_all(routes.parent().unwrap()).unwrap();
    let text = format!(
        "[[rule]]\nhost = '127.0.9.77'\nport = {}\naction = 'refuse'\n",
        refused_addr.port()
    );
    fs::write(&routes, text).unwrap();
    let mut command = loopback.command(&source);
    command.arg("--routes").arg(&routes);
    let (code, _, errors) = outcome(command);
    assert_eq!(code, 0, "{errors}");
    loopback.assert_arrived("archive.bin");
    let nobody = refused.accept().map(|_| ()).map_err(|error| error.kind());
    assert_eq!(nobody, Err(std::io::ErrorKind::WouldBlock));
}
