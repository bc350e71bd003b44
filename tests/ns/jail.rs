//! `hushswarm run`: nothing gets out of the jail, and everything that a program expects of a terminal and a shell works. No
//! relay runs here, so whatever reaches somebody outside went past the circuits.

use crate::support;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;
use support::network::Network;
use support::process::Process;
use support::world::World;
use support::{PATIENCE, fixture, skip};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_hushswarm");

/// A network file of relays that don't run, and a folder for one user.
struct Place {
    dir: TempDir,
    network: Network,
}

impl Place {
    /// `None` where no jail can be had at all.
    fn new() -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let folder = dir.path().join("network");
        fs::create_dir(&folder).unwrap();
        let place = Self {
            network: Network::build(&folder, 3),
            dir,
        };
        let tried = place.run(&["true"]).output().unwrap();
        if tried.status.success() {
            return Some(place);
        }
        skip(&String::from_utf8_lossy(&tried.stderr));
        None
    }

    fn args(&self, program: &Path, state: &str) -> Vec<String> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        vec![
            text(program),
            "run".to_owned(),
            "--network".to_owned(),
            text(&self.network.file),
            "--state".to_owned(),
            text(&self.dir.path().join(state)),
        ]
    }

    fn run(&self, args: &[&str]) -> Command {
        let mut all = self.args(Path::new(PROGRAM), "state");
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        let mut command = Command::new(&all[0]);
        command.args(&all[1..]);
        command
    }

    fn code(&self, args: &[&str]) -> Option<i32> {
        self.run(args).output().unwrap().status.code()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn python(name: &str) -> [String; 2] {
    [
        "python3".to_owned(),
        fixture(name).to_str().unwrap().to_owned(),
    ]
}

/// Processes with these words next to each other in their command line.
fn processes(words: &[&str]) -> Vec<Pid> {
    let wanted = words.join("\0");
    let all = fs::read_dir("/proc").unwrap().flatten();
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.filter(|id| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        text(&line).contains(&wanted)
    })
    .filter_map(Pid::from_raw)
    .collect()
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_program_s_end_is_ours() {
    let Some(place) = Place::new() else { return };
    assert_eq!(place.code(&["--", "true"]), Some(0));
    assert_eq!(place.code(&["--", "sh", "-c", "exit 7"]), Some(7));
    assert_eq!(place.code(&["sh", "-c", "kill -TERM $$"]), Some(128 + 15));
    assert_eq!(place.code(&["sh", "-c", "kill -KILL $$"]), Some(128 + 9));
    assert_eq!(place.code(&["/no/such/program"]), Some(127));
    assert_eq!(place.code(&["/etc/passwd"]), Some(126));
}

#[test]
fn without_a_network_the_program_is_not_started() {
    let dir = TempDir::new().unwrap();
    let mark = dir.path().join("started");
    let output = Command::new(PROGRAM)
        .args(["run", "--", "touch"])
        .arg(&mark)
        .env("HOME", dir.path())
        .env_remove("XDG_CONFIG_HOME")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    let errors = text(&output.stderr);
    assert!(errors.starts_with("error: no relay list"), "{errors}");
    assert!(errors.contains("hint: "), "{errors}");
    assert!(!mark.exists());
}

#[test]
fn stages_called_by_hand_start_nothing() {
    let dir = TempDir::new().unwrap();
    let mark = dir.path().join("started");
    for stage in ["1", "2", "3", "4", ""] {
        let output = Command::new(PROGRAM)
            .args(["--inside-the-jail", stage, "touch"])
            .arg(&mark)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(125), "{stage}");
        assert!(!mark.exists(), "{stage}");
    }
}

#[test]
fn forbidden_namespaces_are_named_with_what_to_do() {
    let Some(place) = Place::new() else { return };
    let mark = place.dir.path().join("started");
    let mark = mark.to_str().unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["-U", "-r", "sh", "-ec"])
        .arg("echo 0 >/proc/sys/user/max_user_namespaces; exec \"$@\"")
        .arg("sh")
        .args(place.args(Path::new(PROGRAM), "state"))
        .args(["touch", mark]);
    let output = command.output().unwrap();
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{errors}");
    assert!(errors.contains("the program was not started"), "{errors}");
    assert!(errors.contains("user.max_user_namespaces="), "{errors}");
    assert!(!Path::new(mark).exists());
}

#[test]
fn each_signal_reaches_the_program_once() {
    let Some(place) = Place::new() else { return };
    let [python, count] = python("count_signals.py");
    for (signal, group) in [
        (Signal::TERM, false),
        (Signal::INT, false),
        (Signal::HUP, false),
        (Signal::USR1, false),
        (Signal::USR2, false),
        (Signal::INT, true),
        (Signal::TERM, true),
    ] {
        let mut command = place.run(&[&python, &count]);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut run = Process::spawn("run", command);
        run.wait_for_line(PATIENCE, |line| line == "ready");
        let id = Pid::from_raw(i32::try_from(run.id()).unwrap()).unwrap();
        if group {
            kill_process_group(id, signal).unwrap();
        } else {
            kill_process(id, signal).unwrap();
        }
        let status = run.wait(PATIENCE);
        assert_eq!(status.code(), Some(41), "{signal:?} {group}{}", run.tails());
    }
}

#[test]
fn the_terminal_passes_through_with_job_control() {
    let Some(place) = Place::new() else { return };
    let [python, terminal] = python("terminal.py");
    let inside = "test -t 0 && test -t 1 && tty && trap 'echo interrupted; exit 9' INT; echo ready; \
                  while :; do sleep 0.1; done";
    let mut command = Command::new(python);
    command
        .arg(terminal)
        .args(place.args(Path::new(PROGRAM), "state"))
        .args(["--", "sh", "-c", inside]);
    let seen = text(&command.output().unwrap().stdout);
    for word in ["/dev/console", "STOPPED", "CONTINUED", "ENDED 9"] {
        assert!(seen.contains(word), "no {word}: {seen}");
    }
    assert!(!seen.contains("NOT STOPPED"), "{seen}");
    assert_eq!(seen.matches("interrupted").count(), 1, "{seen}");
}

#[test]
fn pipes_carry_megabytes_both_ways() {
    let Some(place) = Place::new() else { return };
    let input = place.dir.path().join("input");
    support::write_noise(&input, 16 << 20, 5);
    let mut run = place
        .run(&["--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut to, content) = (run.stdin.take().unwrap(), fs::read(&input).unwrap());
    let writing = std::thread::spawn(move || to.write_all(&content).unwrap());
    let output = run.wait_with_output().unwrap();
    writing.join().unwrap();
    assert!(output.status.success());
    assert!(output.stdout == fs::read(&input).unwrap());
}

/// A program that leaves a sleeping grandchild behind and sleeps itself.
fn sleepers(place: &Place, seconds: &str) -> Process {
    let script = format!("(setsid sleep {seconds} &) ; setsid sleep {seconds} & sleep {seconds}");
    let run = Process::spawn("run", place.run(&["sh", "-c", &script]));
    wait_until("three sleepers", || {
        processes(&["sleep", seconds]).len() == 3
    });
    run
}

#[test]
fn everything_inside_ends_with_the_outer_side_and_with_the_warden() {
    let Some(place) = Place::new() else { return };
    let mut run = sleepers(&place, "98761");
    run.kill();
    wait_until("nothing left of the first", || {
        processes(&["sleep", "98761"]).is_empty()
    });
    wait_until("no stage left", || {
        processes(&["--inside-the-jail"])
            .iter()
            .all(|id| !text(&cmdline(*id)).contains("98761"))
    });
    let mut run = sleepers(&place, "98762");
    let warden = processes(&["--inside-the-jail", "2"]);
    let warden = warden
        .iter()
        .find(|id| text(&cmdline(**id)).contains("98762"));
    kill_process(*warden.unwrap(), Signal::KILL).unwrap();
    assert_eq!(run.wait(PATIENCE).code(), Some(125), "{}", run.tails());
    wait_until("nothing left of the second", || {
        processes(&["sleep", "98762"]).is_empty()
    });
}

fn cmdline(id: Pid) -> Vec<u8> {
    fs::read(format!("/proc/{}/cmdline", id.as_raw_nonzero())).unwrap_or_default()
}

#[test]
fn what_a_program_leaves_behind_ends_with_it_unless_waited_for() {
    let Some(place) = Place::new() else { return };
    let begun = Instant::now();
    let output = place
        .run(&["sh", "-c", "(setsid sleep 98763 &); exit 3"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("--linger"));
    wait_until("the daemon's end", || {
        processes(&["sleep", "98763"]).is_empty()
    });
    assert!(begun.elapsed() < PATIENCE);
    let mark = place.dir.path().join("done");
    let script = format!(
        "(setsid sh -c 'sleep 1; touch {}' &); exit 4",
        mark.display()
    );
    assert_eq!(place.code(&["--linger", "sh", "-c", &script]), Some(4));
    assert!(mark.exists());
}

#[test]
fn files_of_the_user_stay_and_settings_of_the_machine_don_t_change() {
    let Some(place) = Place::new() else { return };
    let before = fs::read("/etc/resolv.conf").unwrap_or_default();
    let script = "echo x >download; cat /etc/hostname >/dev/null; echo bad >/etc/resolv.conf; hostname; env; pwd";
    let output = place
        .run(&["sh", "-c", script])
        .current_dir(place.dir.path())
        .env("SSH_CLIENT", "203.0.113.9 1 2")
        .output()
        .unwrap();
    let out = text(&output.stdout);
    assert_eq!(fs::read(place.dir.path().join("download")).unwrap(), b"x\n");
    assert_eq!(fs::read("/etc/resolv.conf").unwrap_or_default(), before);
    assert!(out.starts_with("localhost\n"), "{out}");
    assert!(out.contains("ALL_PROXY=socks5h://127.0.0.1:1080"), "{out}");
    assert!(!out.contains("203.0.113.9"), "{out}");
    assert!(out.contains(place.dir.path().to_str().unwrap()), "{out}");
}

#[test]
fn everyday_programs_run() {
    let Some(place) = Place::new() else { return };
    let asyncio = "import asyncio, socket, subprocess, threading\n\
        async def f():\n await asyncio.sleep(0)\n return (await asyncio.create_subprocess_exec('true'))\n\
        asyncio.run(f()); threading.Thread(target=print).start()\n\
        socket.getaddrinfo('example.com', 80)";
    for command in [
        vec!["python3", "-c", asyncio],
        vec!["curl", "--version"],
        vec!["aria2c", "--version"],
        vec!["transmission-daemon", "--version"],
    ] {
        let output = place.run(&command).output().unwrap();
        assert!(
            output.status.success(),
            "{command:?}: {}",
            text(&output.stderr)
        );
    }
}

/// Who listens outside, and what reached it.
struct Canary {
    process: Child,
    _input: ChildStdin,
    log: std::path::PathBuf,
}

impl Drop for Canary {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Canary {
    fn start(mut command: Command, log: &Path) -> Self {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(fs::File::create(log).unwrap())
            .spawn()
            .unwrap();
        Self {
            _input: process.stdin.take().unwrap(),
            process,
            log: log.to_owned(),
        }
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

/// What each attempt came to.
fn attempts(output: &Output) -> Vec<(String, bool)> {
    let out = text(&output.stdout);
    let attempts: Vec<_> = out
        .lines()
        .filter_map(|line| {
            let (name, said) = line.split_once(' ')?;
            Some((name.to_owned(), said.starts_with("escaped")))
        })
        .collect();
    assert!(attempts.len() > 40, "{out}{}", text(&output.stderr));
    attempts
}

/// Attempts that this kernel may refuse outside too: their success outside is not asked for.
const MAY_FAIL_OUTSIDE: &[&str] = &[
    "ping_socket",
    "kernel_cryptography_socket",
    "vsock",
    "io_uring",
    "key_request",
    "keyring",
];

#[test]
fn no_attempt_to_escape_succeeds_and_each_of_them_would_outside() {
    let Some(mut world) = World::build() else {
        return;
    };
    let Some(place) = Place::new() else { return };
    let root = rustix::process::geteuid().is_root();
    let host = world.host("host", 2);
    let mode: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    for path in [place.dir.path(), &place.dir.path().join("network")] {
        fs::set_permissions(path, mode.clone()).unwrap();
    }
    // For a user who may not read this folder.
    let program = place.dir.path().join("hushswarm");
    fs::copy(PROGRAM, &program).unwrap();
    let script = place.dir.path().join("escape.py");
    fs::copy(fixture("escape.py"), &script).unwrap();
    let script = script.to_str().unwrap();
    let folder = place.dir.path().join("sockets");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, mode).unwrap();
    let mut command = host.command("python3");
    command
        .args([
            script,
            "canary",
            &host.ip4.to_string(),
            &host.ip6.to_string(),
        ])
        .arg(&folder);
    let canary = Canary::start(command, &place.dir.path().join("canary.log"));
    wait_until("the canary", || !canary.lines().is_empty());
    let mut outside: Value = serde_json::from_str(&canary.lines()[0]).unwrap();
    outside["from4"] = host.ip4.to_string().into();
    outside["broadcast"] = "10.77.255.255".into();
    let outside = outside.to_string();

    // Outside, as root of that host: every door is open.
    let wrapped = ["python3", script, "inherit", &outside];
    let tried = ["python3", script, "try", &outside];
    let mut command = host.command(wrapped[0]);
    command.args(&wrapped[1..]).args(tried);
    for (name, escaped) in attempts(&command.output().unwrap()) {
        let may_fail = MAY_FAIL_OUTSIDE.contains(&name.as_str());
        assert!(escaped || may_fail, "{name} proves nothing here");
    }
    for door in [
        "tcp",
        "tcp6",
        "udp",
        "udp6",
        "unix",
        "unix-dgram",
        "abstract",
        "multicast",
    ] {
        let line = format!("HIT {door} ");
        let heard = || canary.lines().iter().any(|hit| hit.starts_with(&line));
        wait_until(door, heard);
    }

    let users: &[&[&str]] = if root {
        &[
            &[],
            &[
                "setpriv",
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
            ],
        ]
    } else {
        &[&[]]
    };
    for (n, user) in users.iter().enumerate() {
        let before = canary.lines().len();
        let mut words: Vec<String> = user.iter().map(|word| (*word).to_owned()).collect();
        words.extend(wrapped.map(str::to_owned));
        words.extend(place.args(&program, &format!("state{n}")));
        words.push("--".to_owned());
        words.extend(tried.map(str::to_owned));
        let mut command = host.command(&words[0]);
        // Another user may not look into this one's folder of programs.
        let programs = "/usr/local/bin:/usr/bin:/bin";
        command
            .args(&words[1..])
            .env("HOME", place.dir.path())
            .env("PATH", programs);
        let found = attempts(&command.output().unwrap());
        // That the packet could be handed to the kernel means nothing; whether it arrived is asked below.
        let escaped: Vec<_> = found
            .iter()
            .filter(|(name, escaped)| *escaped && name != "multicast")
            .collect();
        assert!(escaped.is_empty(), "{user:?}: {escaped:?}");
        // The wrapper's own connection, which stood before the jail did.
        let hits = canary.lines().split_off(before);
        let others: Vec<_> = hits
            .iter()
            .filter(|hit| !hit.starts_with("HIT tcp "))
            .collect();
        assert!(others.is_empty(), "{user:?}: {others:?}");
        assert!(hits.len() <= 1, "{user:?}: {hits:?}");
    }
}
