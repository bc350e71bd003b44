//! Onion seeds that only some find, and onion seeds whose key is never on the disk, on a private Tor network of Debian's
//! `tor`.

use crate::support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use data_encoding::{BASE32_NOPAD, BASE64};
use hushswarm::config::TorFile;
use hushswarm::net::os::TorSockets;
use hushswarm::tor::{Tor, TorError, Visit};
use hushswarm_circuits::isolation::Isolation;
use support::clients::installed;
use support::process::{Process, run};
use support::tor::{Size, TorNetwork, away_from_home};
use support::{hash_file, write_noise};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_hushswarm");
/// What is shared.
const NAME: &str = "file.bin";
const SIZE: u64 = 1 << 20;
const ONION_PORT: u16 = 6881;
/// How long anything may take: Tor starts, publishes, and looks for what is not there yet.
const PATIENCE: Duration = Duration::from_secs(400);

/// An address whose checksum holds. Nobody serves there: its key is all zeros.
const SOMEBODY: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaam2dqd.onion";

struct Place {
    dir: TempDir,
    network: TorNetwork,
    tor: PathBuf,
}

/// A running seed and its link.
struct Seed {
    process: Process,
    magnet: String,
}

impl Seed {
    fn address(&self) -> String {
        let peer = self.magnet.split("x.pe=").nth(1).unwrap();
        peer.chars().take(56).collect()
    }

    fn stop(mut self) {
        assert!(
            self.process.stop(PATIENCE).success(),
            "{}",
            self.process.tails()
        );
    }
}

impl Place {
    fn start() -> Self {
        let dir = TempDir::new().unwrap();
        write_noise(&dir.path().join(NAME), SIZE, 4);
        let network = TorNetwork::start(&Size::default());
        let tor = network.tor_file();
        Self { dir, network, tor }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, words: &[&str], state: &str) -> Command {
        let mut command = away_from_home(None, self.dir.path());
        command.args(words).arg("--state").arg(self.path(state));
        command
    }

    fn seed(&self, state: &str, options: &[&str]) -> Seed {
        let mut command = self.command(&["seed", "--over", "tor", "--json"], state);
        command.arg("--tor").arg(&self.tor).args(options);
        let mut process = Process::spawn("seed", {
            command.arg(self.path(NAME));
            command
        });
        let magnet = process.wait_for_event(PATIENCE, "seeding")["magnet"].clone();
        Seed {
            process,
            magnet: magnet.as_str().unwrap().to_owned(),
        }
    }

    /// Begins a download to a folder that is new.
    fn get(&self, magnet: &str, state: &str, output: &str) -> Process {
        fs::create_dir(self.path(output)).unwrap();
        let words = ["get", magnet, "--json", "--log", "debug"];
        let mut command = self.command(&words, state);
        command.arg("--tor").arg(&self.tor);
        command.arg("--output").arg(self.path(output));
        Process::spawn("get", command)
    }

    fn assert_gets(&self, seed: &Seed, state: &str, output: &str) {
        let mut get = self.get(&seed.magnet, state, output);
        assert!(
            get.wait(PATIENCE).success(),
            "{}{}",
            get.tails(),
            seed.process.tails()
        );
        let got = hash_file(&self.path(output).join(NAME));
        assert_eq!(got, hash_file(&self.path(NAME)));
        // What only some may have is not shared on to everybody.
        let closed = get.stderr().contains("sharing nothing");
        assert_eq!(closed, state == "friend", "{}", get.tails());
    }

    fn onion_key(&self, source: &str, state: &str) -> String {
        let key = run(self.command(&["onion-key", source], state));
        assert!(key.starts_with("descriptor:x25519:"), "{key}");
        key.trim().to_owned()
    }
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

/// Files that tell which onion service this was: by its address, or by its public key, which stands beside every secret one
/// (in OpenSSH's format, as arti writes keys).
fn tells(folder: &Path, address: &str) -> Vec<PathBuf> {
    let decoded = BASE32_NOPAD
        .decode(address.to_ascii_uppercase().as_bytes())
        .unwrap();
    let public = &decoded[..32];
    let holds = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).any(|part| part == what);
    let mut found = files(folder);
    found.retain(|path| {
        // It may have gone since.
        let bytes = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let body = text.lines().filter(|line| !line.starts_with("-----"));
        let body = BASE64.decode(body.collect::<String>().as_bytes());
        path.to_string_lossy().contains(address)
            || holds(&bytes, address.as_bytes())
            || holds(&bytes, public)
            || holds(&body.unwrap_or_default(), public)
    });
    found
}

#[test]
fn only_the_allowed_find_a_closed_seed_and_nothing_tells_of_an_ephemeral_one() {
    if !installed("tor") {
        return;
    }
    let place = Place::start();

    // A stranger comes to an open seed: it could come.
    let open = place.seed("seed", &[]);
    place.assert_gets(&open, "stranger", "open");
    let (magnet, address) = (open.magnet.clone(), open.address());
    open.stop();
    // Its key is there, so that the search for it is one that can find.
    assert!(!tells(&place.path("seed"), &address).is_empty());

    // The same seed, closed: its link stays, and a friend with a key finds it.
    let key = place.onion_key(&magnet, "friend");
    assert_eq!(key, place.onion_key(&format!("{address}.onion"), "friend"));
    let closed = place.seed("seed", &["--allow", "nobody", "--allow", &key]);
    assert_eq!(closed.magnet, magnet);
    place.assert_gets(&closed, "friend", "friends");

    // The stranger is told what to do, with no key as with one that was not given to the seed.
    for round in ["keyless", "unknown"] {
        if round == "unknown" {
            assert_ne!(place.onion_key(&magnet, "stranger"), key);
        }
        let mut stranger = place.get(&magnet, "stranger", round);
        stranger.wait_for_line(PATIENCE, |line| line.contains("hushswarm onion-key"));
        stranger.wait_for_line(PATIENCE, |line| line.contains("sharing nothing"));
        assert_eq!(files(&place.path(round)), [] as [PathBuf; 0]);
        assert!(stranger.events("done").is_empty());
        stranger.stop(PATIENCE);
    }
    only_a_chosen_service_is_visited_with_a_key(&place, &format!("{address}.onion"));
    closed.stop();

    // An ephemeral seed serves, and nothing on the disk tells which it was, not even while it runs.
    let first = place.seed("passing", &["--ephemeral"]);
    place.assert_gets(&first, "stranger", "ephemeral");
    let passing = place.path("passing").join("tor/passing");
    assert_ne!(files(&passing), [] as [PathBuf; 0]);
    let nothing: [PathBuf; 0] = [];
    let folder = place.path("passing");
    assert_eq!(tells(&folder, &first.address()), nothing);
    let keys = |folder: &Path| {
        let mut keys = files(folder);
        keys.retain(|path| path.to_string_lossy().contains("_private"));
        keys
    };
    assert!(!keys(&place.path("seed")).is_empty());
    assert_eq!(keys(&folder), nothing);
    let old = first.address();
    first.stop();
    assert_eq!(tells(&folder, &old), nothing);
    assert_eq!(fs::read_dir(&passing).unwrap().count(), 0);

    // The next one has another address. What it leaves when it is killed goes with the next start.
    let mut second = place.seed("passing", &["--ephemeral"]);
    assert_ne!(second.address(), old);
    second.process.kill();
    let left: Vec<_> = fs::read_dir(&passing).unwrap().flatten().collect();
    assert_eq!(left.len(), 1);
    assert_eq!(tells(&folder, &second.address()), nothing);
    let third = place.seed("passing", &["--ephemeral"]);
    assert!(!left[0].path().exists());
    third.stop();
    assert_eq!(fs::read_dir(&passing).unwrap().count(), 0);
    drop(place.network);
}

/// A key says whose it is: where others merely tell of the closed seed, its friend does not go there, and a stranger who is turned
/// away is not taken for one who was invited.
fn only_a_chosen_service_is_visited_with_a_key(place: &Place, onion: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let tor = |state: &str| {
            let file = TorFile::load(Some(&place.tor)).unwrap();
            Tor::new(file, place.path(state).join("tor"), TorSockets::for_tor())
        };
        let (friend, stranger) = (tor("friend"), tor("nobody"));
        fs::create_dir_all(place.path("nobody")).unwrap();
        let owner = Isolation::new("test", &[], 0);
        for name in [onion.to_owned(), format!("www.{onion}")] {
            let told = friend.connect(&name, ONION_PORT, owner, Visit::Told).await;
            assert_eq!(told.unwrap_err(), TorError::NotFound, "{name}");
        }
        let chosen = friend.connect(onion, ONION_PORT, owner, Visit::Chosen);
        chosen.await.unwrap();
        let told = stranger.connect(onion, ONION_PORT, owner, Visit::Told);
        assert_eq!(told.await.unwrap_err(), TorError::KeyNeeded);
        assert!(stranger.closed().borrow().is_empty());
        let chosen = stranger.connect(onion, ONION_PORT, owner, Visit::Chosen);
        assert_eq!(chosen.await.unwrap_err(), TorError::KeyNeeded);
        assert_eq!(stranger.closed().borrow().len(), 1);
    });
}

/// Runs a command that must fail, where nothing is configured, and gives its exit code and errors.
fn refused(words: &[&str]) -> (i32, String) {
    let home = TempDir::new().unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(words).env("HOME", home.path());
    command
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("XDG_STATE_HOME");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), errors)
}

#[test]
fn what_is_no_key_and_no_onion_service_is_refused_with_what_to_do() {
    let seed = ["seed", "/etc/hostname", "--over", "tor"];
    let key = format!("descriptor:x25519:{}", "a".repeat(52));
    for wrong in ["", "x", "descriptor:x25519:abc", &key] {
        let (code, errors) = refused(&[&seed[..], &["--allow", wrong]].concat());
        assert_eq!(code, 2, "{errors}");
        assert!(errors.contains("hushswarm onion-key"), "{errors}");
    }
    let both = ["--ephemeral", "--allow", "nobody"];
    let (code, errors) = refused(&[&seed[..], &both].concat());
    assert_eq!(code, 2, "{errors}");
    let (code, errors) = refused(&[
        "seed",
        "/etc/hostname",
        "--tracker",
        "http://t.test/",
        "--ephemeral",
    ]);
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("--over tor"), "{errors}");
    let (code, errors) = refused(&["seed", "/etc/hostname", "--unlinkable"]);
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("add --over tor"), "{errors}");

    let magnet = "magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567&x.pe=192.0.2.1:1";
    let mistyped = SOMEBODY.replace("m2dqd", "m2dqe");
    for wrong in ["", "example.org", magnet, &mistyped, "magnet:?x"] {
        let (code, errors) = refused(&["onion-key", wrong]);
        assert_eq!(code, 5, "{wrong}: {errors}");
        assert!(errors.starts_with("error: "), "{errors}");
    }
}

#[test]
fn a_key_is_made_once_for_a_service_without_any_network() {
    if !installed("strace") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let trace = dir.path().join("trace");
    let key = |traced: bool| {
        let mut command = Command::new(if traced { "strace" } else { PROGRAM });
        if traced {
            command.args(["-f", "-e", "trace=socket,openat", "-o"]);
            command.arg(&trace).arg(PROGRAM);
        }
        command
            .args(["onion-key", SOMEBODY, "--state"])
            .arg(dir.path().join("state"));
        run(command)
    };
    let made = key(true);
    assert_eq!(made, key(false));
    let calls = fs::read_to_string(&trace).unwrap();
    assert!(calls.contains("openat("), "nothing was traced");
    // The C library may ask its cache of users by a Unix socket.
    for family in ["AF_INET", "AF_NETLINK", "AF_PACKET"] {
        assert!(!calls.contains(family), "{calls}");
    }
}
