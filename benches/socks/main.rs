//! The SOCKS proxy over three relay processes, beside Debian's `tor` as SOCKS client of a private three-relay Tor network,
//! and bare forwarding through four processes, in the same run on loopback.
//!
//! `cargo bench --bench socks [-- [--mib N] [--rounds N] [--quick]]`. One program downloads through all of them: it speaks
//! SOCKS5 CONNECT to a source that sends a known pattern, and compares every byte. Processor time is that of the processes on
//! the way (SOCKS client or proxy, and relays), from /proc/PID/stat; the source and the program that downloads are left out
//! for all alike. tor carries a quarter of the bytes, for it takes long. Machines are noisy: read the ratios.
//!
//! `--quick` only shows that everything works. Debian's `tor` must be installed (`tests/run --prepare`).
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used
)]

#[path = "../../tests/support/mod.rs"]
mod support;

mod contender;
mod cpu;
mod datagrams;
mod streams;

use std::time::Duration;

use contender::Contender;
use cpu::median;
use streams::{Download, Source};

/// As many times less processor time than tor is what we promise.
const BAR: f64 = 8.0;
/// tor carries this part of the bytes.
const TOR_SHARE: u64 = 4;

struct Args {
    mib: u64,
    rounds: usize,
    /// Streams opened for the time to first byte.
    openings: usize,
    /// How long each step of the datagram part takes.
    step: Duration,
    tor: bool,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, part, next] = args.as_slice() {
        match part.as_str() {
            "--forward" => return streams::forward(next.parse().unwrap()),
            "--forward-udp" => return datagrams::forward(next.parse().unwrap()),
            _ => {}
        }
    }
    let has = |name: &str| args.iter().any(|arg| arg == name);
    let value = |name: &str, default: u64| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1))
            .and_then(|v| v.parse().ok())
            .unwrap_or(default)
    };
    let quick = has("--quick");
    let args = Args {
        mib: value("--mib", if quick { 16 } else { 512 }),
        rounds: value("--rounds", if quick { 1 } else { 3 }) as usize,
        openings: if quick { 3 } else { 30 },
        step: Duration::from_millis(if quick { 200 } else { 1500 }),
        tor: !has("--no-tor"),
    };
    if !has("--only-datagrams") {
        transfers(&args);
    }
    if !has("--only-streams") {
        datagrams::bench(args.step, args.rounds);
    }
}

fn transfers(args: &Args) {
    let source = Source::start();
    let mut contenders = vec![Contender::forwarders(source.addr), Contender::hushswarm()];
    if args.tor {
        assert!(
            support::clients::installed("tor"),
            "install tor, or pass --no-tor"
        );
        contenders.push(Contender::tor());
    }
    let total = args.mib << 20;
    println!(
        "SOCKS CONNECT through three relays, median of {} rounds of {} MiB (tor: {} MiB); processor time of proxy and relays",
        args.rounds,
        args.mib,
        args.mib / TOR_SHARE
    );
    for contender in &contenders {
        if let Some(cold) = contender.cold_start(&source) {
            println!("{}: {cold}", contender.name);
        }
    }
    println!(
        "{:<28} {:>8} {:>13} {:>8} {:>14}",
        "", "MB/s", "CPU s per GB", "kernel", "first byte ms"
    );
    for streams in [1, 16] {
        let mut rounds: Vec<Vec<Download>> = contenders.iter().map(|_| Vec::new()).collect();
        for _ in 0..args.rounds {
            for (contender, rounds) in contenders.iter().zip(&mut rounds) {
                let share = if contender.is_tor() { TOR_SHARE } else { 1 };
                rounds.push(source.download(contender, total / share, streams));
            }
        }
        let mut costs = Vec::new();
        for (contender, rounds) in contenders.iter().zip(&rounds) {
            let of = |get: fn(&Download) -> f64| median(rounds.iter().map(get).collect());
            let first = if streams == 1 {
                source.first_byte_ms(contender, args.openings)
            } else {
                of(|d| d.first_byte_ms)
            };
            println!(
                "{:<28} {:>8.1} {:>13.2} {:>8.2} {:>14.2}",
                format!("{}, {streams} streams", contender.name),
                of(|d| d.mb_per_s),
                of(|d| d.cpu_per_gb),
                of(|d| d.kernel_per_gb),
                first
            );
            costs.push(of(|d| d.cpu_per_gb));
        }
        if let [bare, ours, tor] = costs[..] {
            let times = tor / ours;
            let verdict = if times >= BAR { "met" } else { "NOT MET" };
            println!(
                "{:<28} tor takes {times:.1} x our processor time: the bar of {BAR} is {verdict}; we take {:.1} x bare forwarding",
                "",
                ours / bare
            );
        }
    }
    println!("(first byte: of new streams on warm circuits one by one, and of 16 at once)");
}
