//! The engine beside libtorrent on loopback, without circuits: what each costs as the one who gives and as the one who takes.
//!
//! `cargo bench --no-default-features --bench engine [-- [--gib N] [--rounds N] [--folder PATH] [--pair N] [--runtime one|many]]`. Needs
//! a Python with libtorrent (`tests/run` makes one in `target/venv`). Four pairings, each once a round, by turns; medians of the rounds.
//! Whoever takes calls whoever gives, by one TCP connection. Both sides store real files in the same folder: by default in `/dev/shm`, so
//! that processors are compared and not disks. Processor time counts from the call to the end of the download (verified and written), so
//! without the check of the files that a seed begins with. Each copy is compared with the original.
//!
//! Peak memory is what is private to the process (`RssAnon`), looked at each 20 ms: libtorrent maps the files that it serves, and those
//! pages are the system's cache.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used
)]

mod data;
mod ours;
mod side;

use std::path::{Path, PathBuf};
use std::process::Command;

use side::{Figures, Kind, Pair};

/// What the program has, so that memory and time are the program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Who gives, and who takes.
const PAIRS: [Pair; 4] = [
    Pair::of(Kind::Libtorrent, Kind::Libtorrent),
    Pair::of(Kind::Libtorrent, Kind::Ours),
    Pair::of(Kind::Ours, Kind::Libtorrent),
    Pair::of(Kind::Ours, Kind::Ours),
];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "--side") {
        ours::run(&args[2..]);
        return;
    }
    let text = |name: &str| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)).cloned()
    };
    let number = |name: &str, default: f64| text(name).map_or(default, |v| v.parse().unwrap());
    let bytes = (number("--gib", 4.0) * f64::from(1 << 30)) as u64;
    let rounds = number("--rounds", 3.0) as usize;
    let shm = Path::new("/dev/shm");
    let base = text("--folder").map_or_else(
        || match shm.is_dir() {
            true => shm.to_owned(),
            false => std::env::temp_dir(),
        },
        PathBuf::from,
    );
    let pairs: Vec<Pair> = match text("--pair") {
        Some(n) => vec![PAIRS[n.parse::<usize>().unwrap()]],
        None => PAIRS.to_vec(),
    };
    let folder = tempfile::tempdir_in(&base).unwrap();
    let threads = text("--runtime").unwrap_or_else(|| "many".to_owned());
    bench(folder.path(), &pairs, bytes, rounds, &threads);
}

fn bench(folder: &Path, pairs: &[Pair], bytes: u64, rounds: usize, threads: &str) {
    let python = python();
    let made = data::make(folder, bytes);
    println!(
        "{:.2} GiB in {}, pieces of {} KiB, {rounds} rounds; {}; one connection on loopback",
        bytes as f64 / f64::from(1 << 30),
        folder.parent().unwrap().display(),
        made.piece_len >> 10,
        side::version(&python),
    );
    let mut figures: Vec<Vec<Figures>> = pairs.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for (pair, figures) in pairs.iter().zip(&mut figures) {
            figures.push(side::run(pair, &made, &python, threads));
            let last = figures.last().unwrap();
            println!("round {round}, {pair}: {last}");
        }
    }
    println!("medians:");
    println!(
        "{:<26} {:>7} {:>19} {:>19} {:>12} {:>12}",
        "", "MB/s", "giver CPU s per GB", "taker CPU s per GB", "giver MiB", "taker MiB"
    );
    for (pair, figures) in pairs.iter().zip(&figures) {
        println!("{:<26} {}", pair.to_string(), Figures::median(figures));
    }
}

/// A Python that has libtorrent.
fn python() -> PathBuf {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
    let chosen = std::env::var_os("HUSHSWARM_PYTHON").map(PathBuf::from);
    let python = chosen.unwrap_or(made);
    let works = Command::new(&python)
        .args(["-c", "import libtorrent"])
        .status();
    assert!(
        works.is_ok_and(|status| status.success()),
        "no python with libtorrent: run tests/run once"
    );
    python
}
