//! `hushswarm get` and its world on loopback: relay processes, content, and what a run of the program leaves behind.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::clients::Torrent;
use super::network::Network;
use super::process::{Process, free_port, run};
use super::{PATIENCE, fixture, hash_file, write_noise};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_hushswarm");

/// Relays that run on loopback, and folders for one downloader.
pub struct Loopback {
    /// Documents of the network.
    pub network: Network,
    /// The running relays.
    pub relays: Vec<Process>,
    /// Holds content and torrents (below `content`), downloads (`out`), the downloader's state (`state`).
    pub dir: TempDir,
}

impl Loopback {
    /// Starts three relays; `log` is what they log.
    pub fn start(log: &str) -> Self {
        let dir = TempDir::new().unwrap();
        for name in ["content", "network"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let network = Network::build(&dir.path().join("network"), 3);
        let relays = network.relays.iter().map(|relay| {
            let mut command = Command::new(PROGRAM);
            command.args(relay.args()).args(["--log", log]);
            let mut process = Process::spawn("relay", command);
            process.wait_for_line(PATIENCE, |line| line.contains("listens on"));
            process
        });
        Self {
            relays: relays.collect(),
            network,
            dir,
        }
    }

    /// A path in the folder of content.
    pub fn content(&self, name: &str) -> PathBuf {
        self.dir.path().join("content").join(name)
    }

    /// A path in the folder of downloads.
    pub fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join("out").join(name)
    }

    /// Makes a file of noise and a torrent of it.
    pub fn torrent(&self, name: &str, size: u64, trackers: &[&str]) -> Torrent {
        let file = self.content(name);
        write_noise(&file, size, 11);
        let torrent = self.content(&format!("{name}.torrent"));
        Torrent::make(&file, &torrent, trackers, 256 << 10)
    }

    /// The command line of a download to `out`. A peer stands in the magnet link, so no tracker is needed.
    pub fn command(&self, source: &str) -> Command {
        self.command_to(source, &self.out(""))
    }

    /// The same with another output folder.
    pub fn command_to(&self, source: &str, out: &Path) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(["get", source, "--allow-private"])
            .args([Path::new("--network"), &self.network.file])
            .args([Path::new("--output"), out])
            .args([Path::new("--state"), &self.dir.path().join("state")]);
        command
    }

    /// Starts a download that reports in JSON.
    pub fn get(&self, source: &str) -> Process {
        let mut command = self.command(source);
        command.arg("--json");
        Process::spawn("get", command)
    }

    /// Fails unless the download is what was shared.
    pub fn assert_arrived(&self, name: &str) {
        assert_eq!(hash_file(&self.out(name)), hash_file(&self.content(name)));
    }
}

/// The torrent's magnet link with these peers, which BEP 9 calls `x.pe`.
pub fn with_peers(torrent: &Torrent, peers: &[SocketAddr]) -> String {
    peers.iter().fold(torrent.magnet.clone(), |link, peer| {
        link + &format!("&x.pe={peer}")
    })
}

/// Whether a download has verified at least so many bytes.
pub fn has_done(get: &Process, bytes: u64) -> Option<()> {
    let seen = get.events("progress");
    let done = seen.last()?["done"].as_u64()?;
    (done >= bytes).then_some(())
}

/// A peer of `tests/fixtures/record_peer.py`: it has everything, writes down what it hears, and lies as told.
pub struct RecordPeer {
    /// The program.
    pub process: Process,
    /// Where it listens.
    pub addr: SocketAddr,
}

impl RecordPeer {
    /// Starts one by this command (`python3`, perhaps on another host) at `addr`.
    pub fn start(
        mut command: Command,
        addr: SocketAddr,
        torrents: &[(&Torrent, &Path)],
        lie: &str,
    ) -> Self {
        command
            .arg(fixture("record_peer.py"))
            .args(["--listen", &addr.to_string(), "--lie", lie]);
        for (torrent, content) in torrents {
            command.arg("--torrent").arg(&torrent.file).arg(content);
        }
        let mut process = Process::spawn("recording peer", command);
        process.wait_for_event(PATIENCE, "ready");
        Self { process, addr }
    }

    /// One on this machine, at an address of its own: bans are by address.
    pub fn on_loopback(number: u8, torrent: &Torrent, content: &Path, lie: &str) -> Self {
        let ip = Ipv4Addr::new(127, 0, 9, number).into();
        let addr = SocketAddr::new(ip, free_port(ip));
        Self::start(Command::new("python3"), addr, &[(torrent, content)], lie)
    }
}

/// Runs the program to its end: exit code, output, errors.
pub fn outcome(mut command: Command) -> (i32, String, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(output.stdout),
        text(output.stderr),
    )
}

/// A tmpfs of a size, unmounted with its drop. Root only.
pub struct SmallDisk {
    /// Where it is mounted.
    pub path: TempDir,
}

impl SmallDisk {
    /// Mounts one; `None` after a skip where that is not allowed.
    pub fn mount(options: &str) -> Option<Self> {
        let path = TempDir::new().unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(path.path());
        let done = mount.output().unwrap();
        if !done.status.success() {
            super::skip("a file system can't be mounted here (not root)");
            return None;
        }
        Some(Self { path })
    }

    /// Changes its size or mode.
    pub fn remount(&self, options: &str) {
        let mut mount = Command::new("mount");
        mount
            .args(["-o", &format!("remount,{options}")])
            .arg(self.path.path());
        run(mount);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.path.path())
            .status();
    }
}
