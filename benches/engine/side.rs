//! Both ends of a transfer as processes of their own, and what they cost.

use std::fmt;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::data::Made;

/// Memory is looked at this often.
const LOOK: Duration = Duration::from_millis(20);

/// Whose engine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Libtorrent,
    Ours,
}

/// Who gives, and who takes.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    gives: Kind,
    takes: Kind,
}

impl Pair {
    pub(crate) const fn of(gives: Kind, takes: Kind) -> Self {
        Self { gives, takes }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |kind| match kind {
            Kind::Libtorrent => "libtorrent",
            Kind::Ours => "hushswarm",
        };
        write!(f, "{} to {}", name(self.gives), name(self.takes))
    }
}

/// What one transfer took.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    mb_per_s: f64,
    giver: Cost,
    taker: Cost,
}

/// Of one process.
#[derive(Clone, Copy)]
struct Cost {
    /// Processor seconds for each GB, in all and of the kernel.
    cpu: f64,
    kernel: f64,
    peak_mib: f64,
}

impl Figures {
    pub(crate) fn median(all: &[Self]) -> Self {
        let of = |get: &dyn Fn(&Self) -> f64| {
            let mut values: Vec<f64> = all.iter().map(get).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let cost = |get: &dyn Fn(&Self) -> Cost| Cost {
            cpu: of(&|f| get(f).cpu),
            kernel: of(&|f| get(f).kernel),
            peak_mib: of(&|f| get(f).peak_mib),
        };
        Self {
            mb_per_s: of(&|f| f.mb_per_s),
            giver: cost(&|f| f.giver),
            taker: cost(&|f| f.taker),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = |cost: Cost| format!("{:.2} (kernel {:.2})", cost.cpu, cost.kernel);
        write!(
            f,
            "{:>7.0} {:>19} {:>19} {:>12.0} {:>12.0}",
            self.mb_per_s,
            cpu(self.giver),
            cpu(self.taker),
            self.giver.peak_mib,
            self.taker.peak_mib
        )
    }
}

/// A process that gives or takes. It says `port N` when it is ready, takes a port to call on a line, and says `done`.
struct Side {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    port: u16,
}

impl Side {
    fn start(
        kind: Kind,
        role: &str,
        made: &Made,
        folder: &Path,
        python: &Path,
        threads: &str,
    ) -> Self {
        let mut command = match kind {
            Kind::Ours => {
                let mut command = Command::new(std::env::current_exe().unwrap());
                command.arg("--side");
                command
            }
            Kind::Libtorrent => {
                let mut command = Command::new(python);
                let here = Path::new(env!("CARGO_MANIFEST_DIR"));
                command.arg(here.join("benches/engine/libtorrent_side.py"));
                command
            }
        };
        let mut child = command
            .args([role.as_ref(), made.torrent.as_os_str(), folder.as_os_str()])
            .arg(threads)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut side = Self {
            child,
            input,
            output,
            port: 0,
        };
        let line = side.line();
        side.port = line.strip_prefix("port ").unwrap().parse().unwrap();
        side
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "a side ended early");
        line.trim().to_owned()
    }

    /// Processor seconds so far: all, and the kernel's.
    fn cpu(&self) -> (f64, f64) {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        // USER_HZ is 100 on every Linux that user space sees.
        let seconds = |at: usize| fields[at].parse::<f64>().unwrap() / 100.0;
        (seconds(11) + seconds(12), seconds(12))
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Carries everything once.
pub(crate) fn run(pair: &Pair, made: &Made, python: &Path, threads: &str) -> Figures {
    let copy = made.folder.join("copy");
    std::fs::create_dir(&copy).unwrap();
    let giver = Side::start(pair.gives, "give", made, &made.source(), python, threads);
    let mut taker = Side::start(pair.takes, "take", made, &copy, python, threads);
    let over = Arc::new(AtomicBool::new(false));
    let watch = |pid| {
        let over = Arc::clone(&over);
        std::thread::spawn(move || watch_memory(pid, &over))
    };
    let memory = (watch(giver.child.id()), watch(taker.child.id()));
    let (before, begun) = ((giver.cpu(), taker.cpu()), Instant::now());
    writeln!(taker.input, "{}", giver.port).unwrap();
    let said = taker.line();
    assert_eq!(said, "done");
    let seconds = begun.elapsed().as_secs_f64();
    let after = (giver.cpu(), taker.cpu());
    over.store(true, Ordering::Relaxed);
    let gb = made.bytes as f64 / 1e9;
    let cost = |before: (f64, f64), after: (f64, f64), peak: u64| Cost {
        cpu: (after.0 - before.0) / gb,
        kernel: (after.1 - before.1) / gb,
        peak_mib: peak as f64 / 1024.0,
    };
    let figures = Figures {
        mb_per_s: gb * 1e3 / seconds,
        giver: cost(before.0, after.0, memory.0.join().unwrap()),
        taker: cost(before.1, after.1, memory.1.join().unwrap()),
    };
    drop((giver, taker));
    assert!(made.is_in(&copy), "the copy differs");
    std::fs::remove_dir_all(&copy).unwrap();
    figures
}

/// The most private memory that a process has, KiB.
fn watch_memory(pid: u32, over: &AtomicBool) -> u64 {
    let peak = AtomicU64::new(0);
    while !over.load(Ordering::Relaxed) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("RssAnon:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        peak.fetch_max(kib.unwrap_or(0), Ordering::Relaxed);
        std::thread::sleep(LOOK);
    }
    peak.into_inner()
}

/// What the other engine calls itself.
pub(crate) fn version(python: &PathBuf) -> String {
    let code = "import libtorrent; print('libtorrent', libtorrent.__version__)";
    let output = Command::new(python).args(["-c", code]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
