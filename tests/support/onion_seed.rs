//! `seed --over tor` and those who `get` from it, each in a folder of its own.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::hash_file;
use super::process::Process;
use super::tor::away_from_home;

/// The file that is seeded.
pub const NAME: &str = "archive.bin";
/// The port that links name.
pub const PORT: u16 = 6881;
/// For what needs several circuits, on a busy machine.
pub const LONG: Duration = Duration::from_secs(300);

/// The folders of a test, and where Tor is.
pub struct Place {
    dir: TempDir,
    tor: PathBuf,
}

impl Place {
    /// An empty one, with this Tor file.
    pub fn new(tor: PathBuf) -> Self {
        let dir = TempDir::new().unwrap();
        Self { dir, tor }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a command.
    pub fn spawn(&self, command: &str, words: &[&str]) -> Process {
        let mut program = away_from_home(None, self.dir.path());
        program.args([command, "--log", "debug", "--tor"]);
        program.arg(&self.tor).args(words);
        Process::spawn(command, program)
    }

    /// Seeds the content; the same state is the same seed.
    pub fn seed(&self, more: &[&str]) -> Process {
        let (content, state) = (self.path(NAME), self.path("seed"));
        let words = [content.to_str().unwrap(), "--over", "tor"];
        let state = ["--state", state.to_str().unwrap()];
        self.spawn("seed", &[&words[..], &state, more].concat())
    }

    /// Downloads to the folder `name`, with a state of its own beside it.
    pub fn get(&self, magnet: &str, name: &str, more: &[&str]) -> Process {
        let (out, state) = (self.path(name), self.path(&format!("{name}.state")));
        let words = [magnet, "--output", out.to_str().unwrap()];
        let state = ["--state", state.to_str().unwrap()];
        self.spawn("get", &[&words[..], &state, more].concat())
    }

    /// The download ends well, and is what was seeded.
    pub fn assert_arrived(&self, name: &str, get: &mut Process) {
        let status = get.wait(LONG);
        assert!(status.success(), "{status}{}", get.tails());
        self.assert_content(name);
    }

    /// What lies in the folder is what was seeded.
    pub fn assert_content(&self, name: &str) {
        let (got, wanted) = (self.path(name).join(NAME), self.path(NAME));
        assert_eq!(hash_file(&got), hash_file(&wanted));
    }
}

/// The magnet link of a seed, and its parts: infohash and onion address.
pub struct Link {
    /// All of it.
    pub magnet: String,
    /// The infohash.
    pub hash: [u8; 20],
    /// `<56 characters>.onion`.
    pub onion: String,
}

/// Waits for the link of a seed over Tor that announces to no tracker.
pub fn link(seed: &mut Process) -> Link {
    let said = seed.wait_for_event(LONG, "seeding");
    Link::read(said["magnet"].as_str().unwrap())
}

impl Link {
    /// Reads one that names no tracker.
    pub fn read(magnet: &str) -> Self {
        let part = |before: &str, len: usize| {
            let at = magnet.find(before).unwrap() + before.len();
            magnet[at..at + len].to_owned()
        };
        let hash = data_encoding::HEXLOWER_PERMISSIVE
            .decode(part("urn:btih:", 40).as_bytes())
            .unwrap();
        let onion = part("x.pe=", 56 + ".onion".len());
        assert!(magnet.contains(&format!("x.pe={onion}:{PORT}")), "{magnet}");
        assert!(!magnet.contains("tr="), "{magnet}");
        Self {
            hash: hash.try_into().unwrap(),
            magnet: magnet.to_owned(),
            onion,
        }
    }

    /// What a program writes for its operator names neither the service nor the torrent.
    pub fn assert_discreet(&self, process: &Process) {
        let log = process.stderr();
        let hash = data_encoding::HEXLOWER.encode(&self.hash);
        for secret in [&self.onion[..16], &hash, NAME] {
            assert!(!log.contains(secret), "{secret} in the log:\n{log}");
        }
        assert!(!log.contains("panicked"), "{log}");
    }
}
