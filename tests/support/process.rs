//! Programs under test: started with their output in files, awaited by a line of it, ended with the fixture.

use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How often a waiting fixture looks again.
const POLL: Duration = Duration::from_millis(20);
/// What a failure shows of each log, bytes.
const TAIL: usize = 4000;

/// A running program, killed when dropped. Its output and errors go to files.
pub struct Process {
    name: String,
    child: Child,
    logs: TempDir,
}

impl Process {
    /// Starts `command`; `name` is for messages.
    pub fn spawn(name: &str, command: Command) -> Self {
        Self::spawn_with(name, command, Stdio::null())
    }

    /// The same for a program that can be told something: see [`Process::tell`].
    pub fn spawn_listening(name: &str, command: Command) -> Self {
        Self::spawn_with(name, command, Stdio::piped())
    }

    /// The same with this input.
    pub fn spawn_with(name: &str, mut command: Command, input: Stdio) -> Self {
        let logs = TempDir::new().unwrap();
        let child = command
            .stdin(input)
            .stdout(File::create(logs.path().join("out")).unwrap())
            .stderr(File::create(logs.path().join("err")).unwrap())
            .spawn()
            .unwrap_or_else(|e| panic!("{name} does not start ({command:?}): {e}"));
        Self {
            name: name.to_owned(),
            child,
            logs,
        }
    }

    /// Writes a line to its input. It must have been started by [`Process::spawn_listening`].
    pub fn tell(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        writeln!(input, "{line}").unwrap_or_else(|e| panic!("{}: {e}", self.name));
    }

    /// Id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// File with its standard output.
    pub fn stdout_path(&self) -> PathBuf {
        self.logs.path().join("out")
    }

    /// File with its standard error.
    pub fn stderr_path(&self) -> PathBuf {
        self.logs.path().join("err")
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout_path())
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr_path())
    }

    /// How it ended, where it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the first line of output or errors that `wanted` accepts, and gives it. Fails when the program ends
    /// before or takes longer than `patience`, and then shows the logs.
    pub fn wait_for_line(&mut self, patience: Duration, wanted: impl Fn(&str) -> bool) -> String {
        self.wait_until(patience, |process| {
            let logs = process.stdout() + "\n" + &process.stderr();
            logs.lines().find(|line| wanted(line)).map(str::to_owned)
        })
    }

    /// Waits until `look` gives something.
    pub fn wait_until<T>(&mut self, patience: Duration, look: impl Fn(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + patience;
        loop {
            // Read first whether it lives, so that its last words still count.
            let ended = self.exit_status();
            if let Some(found) = look(self) {
                return found;
            }
            if let Some(status) = ended {
                panic!(
                    "{} ended ({status}) before what we waited for{}",
                    self.name,
                    self.tails()
                );
            }
            assert!(
                Instant::now() < deadline,
                "{}: waited too long{}",
                self.name,
                self.tails()
            );
            std::thread::sleep(POLL);
        }
    }

    /// JSON lines of the output whose `event` is this one. Lines that are no JSON, or half written, don't count.
    pub fn events(&self, event: &str) -> Vec<Value> {
        let output = self.stdout();
        let lines = output
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["event"] == event).collect()
    }

    /// Waits for the first JSON line with this `event`.
    pub fn wait_for_event(&mut self, patience: Duration, event: &str) -> Value {
        self.wait_until(patience, |process| process.events(event).into_iter().next())
    }

    /// Waits for its end.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.exit_status() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{}: does not end{}",
                self.name,
                self.tails()
            );
            std::thread::sleep(POLL);
        }
    }

    /// Sends a signal, where it still runs.
    pub fn signal(&mut self, signal: Signal) {
        if self.exit_status().is_none() {
            let id = i32::try_from(self.child.id())
                .ok()
                .and_then(Pid::from_raw)
                .unwrap();
            kill_process(id, signal).unwrap();
        }
    }

    /// Asks it to end (SIGTERM) and waits for that.
    pub fn stop(&mut self, patience: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(patience)
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&mut self) {
        // It may have ended by itself: nothing to do then.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// The ends of both logs, for a failure's message.
    pub fn tails(&self) -> String {
        let tail = |text: String| {
            let start = text.len().saturating_sub(TAIL);
            let start = (start..=text.len())
                .find(|at| text.is_char_boundary(*at))
                .unwrap_or(0);
            text[start..].to_owned()
        };
        format!(
            "\n--- {} output\n{}\n--- errors\n{}",
            self.name,
            tail(self.stdout()),
            tail(self.stderr())
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end and gives its output; fails with its errors when it fails.
pub fn run(mut command: Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{errors}",
        output.status
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A TCP and UDP port of `ip` that was free a moment ago.
pub fn free_port(ip: IpAddr) -> u16 {
    for _ in 0..100 {
        let tcp = std::net::TcpListener::bind(SocketAddr::new(ip, 0)).unwrap();
        let addr = tcp.local_addr().unwrap();
        if std::net::UdpSocket::bind(addr).is_ok() {
            return addr.port();
        }
    }
    panic!("no port of this machine is free for both TCP and UDP");
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
