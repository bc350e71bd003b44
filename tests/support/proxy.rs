//! `hushswarm proxy` as a process of its own, over the relays of a [`World`].
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_types
)]

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::world::{PROGRAM, World};

/// Longer than anything here takes on a busy machine.
pub const LONG: Duration = Duration::from_secs(60);

/// A proxy that runs.
pub struct Proxy {
    pub child: Child,
    /// What it listens on, as it says.
    pub listen: Vec<String>,
    pub dir: TempDir,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
}

fn keep(from: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let kept = Arc::new(Mutex::new(String::new()));
    let into = Arc::clone(&kept);
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut into = into.lock().unwrap();
            into.push_str(&line);
            into.push('\n');
        }
    });
    kept
}

impl Proxy {
    /// The command line of a proxy for a world, with its own state folder.
    pub fn command(world: &World, dir: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(["proxy", "--log", "debug", "--json"])
            .arg("--network")
            .arg(&world.file)
            .arg("--state")
            .arg(dir.join("state"))
            .args(args);
        command
    }

    /// Starts one on a port of its own, with further arguments, and waits until it listens.
    pub fn start(world: &World, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut all = vec!["--allow-private"];
        if !args.contains(&"--listen") {
            all.extend(["--listen", "127.0.0.1:0"]);
        }
        all.extend(args);
        let command = Self::command(world, dir.path(), &all);
        Self::run(command, dir)
    }

    pub fn run(mut command: Command, dir: TempDir) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = keep(child.stdout.take().unwrap());
        let err = keep(child.stderr.take().unwrap());
        let mut proxy = Self {
            child,
            listen: Vec::new(),
            dir,
            out,
            err,
        };
        let event = proxy.wait_for("listening");
        proxy.listen = event["listen"]
            .as_array()
            .unwrap()
            .iter()
            .map(|place| place.as_str().unwrap().to_owned())
            .collect();
        proxy
    }

    /// The events of a name so far.
    pub fn events(&self, name: &str) -> Vec<serde_json::Value> {
        let out = self.out.lock().unwrap();
        out.lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|line| line["event"] == name)
            .collect()
    }

    /// Waits for the first event of a name.
    pub fn wait_for(&mut self, name: &str) -> serde_json::Value {
        let begun = Instant::now();
        loop {
            if let Some(event) = self.events(name).into_iter().next() {
                return event;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the proxy ended\n{}", self.log());
            assert!(begun.elapsed() < LONG, "no {name}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.listen[0].parse().unwrap()
    }

    /// The path of the first Unix socket.
    pub fn unix(&self) -> PathBuf {
        let found = self
            .listen
            .iter()
            .find_map(|place| place.strip_prefix("unix:"));
        found.unwrap().into()
    }

    /// All it wrote.
    pub fn log(&self) -> String {
        format!("{}{}", self.out.lock().unwrap(), self.err.lock().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// A number of /proc/PID/status.
    pub fn status(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(path).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Open files, sockets among them.
    pub fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            assert!(!self.log().contains("panicked"), "{}", self.log());
        }
    }
}
