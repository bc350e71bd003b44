//! Onion service to visitor, side by side in one run on one private Tor network of Debian's `tor`: Debian's `tor` on both sides,
//! the program `arti` on both sides, and hushswarm on both sides; then a download of `hushswarm get` from `hushswarm seed --over tor`.
//!
//! `cargo bench --bench onion [-- [--mib N] [--rounds N] [--quick]]`. Each pair forwards to the same source of a known pattern, of
//! which every byte is compared. With several streams each has its own SOCKS user, so that each of the three gives it circuits of
//! its own. Processor time is that of the two ends, and of all processes with the network's relays, from /proc/PID/stat; the
//! source and the program that downloads are left out for all alike. Everything shares this computer's processors: read the ratios.
//!
//! `--quick` only shows that it works. Needs Debian's `tor` (`tests/run --prepare`); `arti` is taken from the path or from
//! target/tools/bin (`cargo install --locked --features onion-service-service --root target/tools arti`), and left out where it is not.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used
)]

#[path = "../../tests/support/mod.rs"]
mod support;

#[path = "../socks/cpu.rs"]
mod cpu;
mod pair;
mod service;
#[path = "../socks/streams.rs"]
#[allow(dead_code, reason = "its forwarder serves the other bench")]
mod streams;
mod torrent;

use cpu::median;
use pair::Pair;
use streams::{Download, Source};
use support::tor::{Size, TorNetwork};

/// As many streams at once as `get` opens to an onion seed.
const STREAMS: u64 = 8;
/// The port of every onion service here.
pub(crate) const PORT: u16 = 6881;

struct Args {
    mib: u64,
    rounds: usize,
    /// Streams opened for the time to first byte.
    openings: usize,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, part, rest @ ..] = args.as_slice()
        && part == "--service"
    {
        return service::run(rest);
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
        mib: value("--mib", if quick { 4 } else { 64 }),
        rounds: value("--rounds", if quick { 1 } else { 3 }) as usize,
        openings: if quick { 1 } else { 10 },
    };
    assert!(
        support::clients::installed("tor"),
        "install tor: tests/run --prepare"
    );
    let source = Source::start();
    let network = TorNetwork::start(&Size {
        onions: vec![format!("{PORT}:{}", source.addr)],
        ..Size::default()
    });
    println!(
        "onion service to visitor, median of {} rounds of {} MiB; processor time of both ends, and with the {} relays",
        args.rounds,
        args.mib,
        network.relays().len()
    );
    let mut pairs = vec![Pair::tor(&network)];
    match pair::arti() {
        Some(program) => pairs.push(Pair::arti(&program, &network, source.addr)),
        None => println!("arti is not installed and left out"),
    }
    pairs.push(Pair::hushswarm(&network, source.addr));
    for pair in &pairs {
        let first = pair.first_contact(&source);
        println!("{}: first byte of the first visit {first:.0} ms", pair.name);
    }
    println!(
        "{:<26} {:>8} {:>13} {:>13} {:>14} {:>14}",
        "", "MB/s", "ends s per GB", "all s per GB", "new circuit ms", "new stream ms"
    );
    for streams in [1, STREAMS] {
        table(&args, &source, &pairs, streams);
    }
    drop(pairs);
    // Long enough that it is not over when it is first looked at.
    torrent::bench(&network, (args.mib * 2).max(32), args.rounds);
    println!(
        "(new circuit: first byte of a stream of a new user; new stream: of one by a circuit that is there)"
    );
}

fn table(args: &Args, source: &Source, pairs: &[Pair], streams: u64) {
    let mut rounds: Vec<Vec<(Download, f64)>> = pairs.iter().map(|_| Vec::new()).collect();
    for _ in 0..args.rounds {
        for (pair, rounds) in pairs.iter().zip(&mut rounds) {
            rounds.push(pair.download(source, args.mib << 20, streams));
        }
    }
    for (pair, rounds) in pairs.iter().zip(&rounds) {
        let of = |get: fn(&(Download, f64)) -> f64| median(rounds.iter().map(get).collect());
        let (fresh, warm) = if streams == 1 {
            let (fresh, warm) = pair.first_bytes(source, args.openings);
            (fresh, format!("{warm:.0}"))
        } else {
            (of(|(d, _)| d.first_byte_ms), String::new())
        };
        println!(
            "{:<26} {:>8.2} {:>13.1} {:>13.1} {:>14.0} {:>14}",
            format!("{}, {streams} streams", pair.name),
            of(|(d, _)| d.mb_per_s),
            of(|(d, _)| d.cpu_per_gb),
            of(|(_, all)| *all),
            fresh,
            warm,
        );
    }
}
