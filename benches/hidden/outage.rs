//! How long a download by `get` from `seed` stands still when the seeder is started again, or when a relay is gone: the real programs, over
//! relays on loopback. A run says what one path had to do with it: which relays are on it is by chance.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::network::Network;
use crate::{Process, median, spawn_relay};

const PROGRAM: &str = env!("CARGO_BIN_EXE_hushswarm");
const NAME: &str = "content.bin";
/// Enough that a download lasts for some seconds on the fastest machine.
const MIB: u64 = 768;
/// So much has come when something happens, bytes on the disk.
const BEGUN: u64 = 8 << 20;
/// How often it is looked whether more has come.
const LOOK: Duration = Duration::from_millis(10);
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(120);
/// After a relay is gone it is looked for so long how it goes on: circuits that nobody hears of are given up sooner.
const WATCHED: Duration = Duration::from_secs(45);

struct Scene<'a> {
    net: &'a Network,
    dir: PathBuf,
}

/// Measures both over this network, whose relays are `relays`.
pub(super) fn bench(net: &Network, dir: &Path, relays: &mut [Process], rounds: u64) {
    let scene = Scene {
        net,
        dir: dir.to_owned(),
    };
    scene.fill();
    let mut restarts = Vec::new();
    for round in 0..rounds {
        let (seed, link) = scene.seed();
        let get = scene.get(&link, &format!("restart{round}"));
        get.wait_until(BEGUN);
        drop(seed);
        let begun = Instant::now();
        let (seed, _) = scene.seed();
        let before = get.blocks();
        if let Some(paused) = get.next_after(before, begun) {
            restarts.push(paused.as_secs_f64());
        }
        drop((get, seed));
    }
    print("the seeder's restart to the first new byte", &restarts);
    let (_seed, link) = scene.seed();
    let mut pauses = Vec::new();
    for (n, relay) in relays.iter_mut().enumerate() {
        let get = scene.get(&link, &format!("relay{n}"));
        get.wait_until(BEGUN);
        relay.0.kill().unwrap();
        relay.0.wait().unwrap();
        pauses.push(get.longest_pause().as_secs_f64());
        drop(get);
        *relay = spawn_relay(&net.relays[n]);
    }
    print("longest pause after one relay was killed", &pauses);
}

fn print(what: &str, seconds: &[f64]) {
    let longest = seconds.iter().copied().fold(0.0, f64::max);
    if seconds.is_empty() {
        println!("{what}: nothing was measured, all had come before");
        return;
    }
    println!(
        "{what}: median {:.1} s, longest {longest:.1} s of {}",
        median(seconds.to_vec()),
        seconds.len()
    );
}

/// A download that runs.
struct Get {
    _process: Process,
    file: PathBuf,
}

impl Get {
    /// Bytes that are on the disk, or about to be.
    fn blocks(&self) -> u64 {
        std::fs::metadata(&self.file).map_or(0, |meta| meta.blocks() * 512)
    }

    fn is_whole(&self) -> bool {
        self.blocks() >= MIB << 20
    }

    fn wait_until(&self, bytes: u64) {
        let begun = Instant::now();
        while self.blocks() < bytes {
            assert!(begun.elapsed() < PATIENCE, "nothing comes");
            std::thread::sleep(LOOK);
        }
    }

    /// How long after `since` there is more than there was; `None` where all was there.
    fn next_after(&self, before: u64, since: Instant) -> Option<Duration> {
        if self.is_whole() {
            return None;
        }
        self.wait_until(before + 1);
        Some(since.elapsed())
    }

    /// The longest time for which nothing came, until all has come or it was watched long enough.
    fn longest_pause(&self) -> Duration {
        let (begun, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
        let mut had = self.blocks();
        while !self.is_whole() && begun.elapsed() < WATCHED {
            std::thread::sleep(LOOK);
            let now = self.blocks();
            longest = longest.max(last.elapsed());
            if now > had {
                (had, last) = (now, Instant::now());
            }
        }
        longest
    }
}

impl Drop for Get {
    fn drop(&mut self) {
        // So that no more than one download is on the disk.
        let _ = std::fs::remove_file(&self.file);
    }
}

impl Scene<'_> {
    /// Writes content that does not repeat.
    fn fill(&self) {
        let mut noise = blake3::Hasher::new().finalize_xof();
        let mut file = std::fs::File::create(self.dir.join(NAME)).unwrap();
        let mut block = vec![0; 1 << 20];
        for _ in 0..MIB {
            noise.fill(&mut block);
            file.write_all(&block).unwrap();
        }
    }

    fn command(&self, words: &[&str], state: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(words)
            .args(["--json", "--no-dht"])
            .args([Path::new("--network"), &self.net.file])
            .args([Path::new("--state"), &self.dir.join(state)])
            .stdin(Stdio::null());
        command
    }

    /// Seeds; gives the link too.
    fn seed(&self) -> (Process, String) {
        let content = self.dir.join(NAME);
        let mut command = self.command(&["seed", content.to_str().unwrap()], "seed");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let process = Process(child);
        let mut line = String::new();
        let link = loop {
            line.clear();
            assert_ne!(out.read_line(&mut line).unwrap(), 0, "the seeder ended");
            let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if said["event"] == "seeding" {
                break said["magnet"].as_str().unwrap().to_owned();
            }
        };
        // What it prints later must not block it.
        std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
        (process, link)
    }

    fn get(&self, link: &str, name: &str) -> Get {
        let folder = self.dir.join(name);
        let words = ["get", link, "--output", folder.to_str().unwrap()];
        let mut command = self.command(&words, "get");
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        Get {
            _process: Process(child),
            file: folder.join(NAME),
        }
    }
}
