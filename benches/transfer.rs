//! One or several TCP streams through a client, 1 to 3 relay processes and an exit on loopback, beside bare forwarding
//! over the same number of TCP connections in the same run.
//!
//! `cargo bench --bench transfer [-- [--mib N] [--rounds N] [--hops N] [--hidden | --get [--no-lines]]]`. Machines are noisy: read the ratios and the
//! processor time. `ends` is this process (the client, and the server that it reads from); `relays` are the processes in
//! between; `kernel` is the part of both that system calls take. With `--hidden` it is a hidden seed's stream beside one through an
//! exit: see [`hidden`]; with `--get`, what a torrent's download reaches of a circuit's bare speed: see [`get`].
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used
)]

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hushswarm::net::os::OsDialer;
use hushswarm::overlay::client::{Client, ClientConfig};
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::path::{ExitNeed, GuardSample};
use hushswarm_circuits::relay_list::Proto;
use hushswarm_circuits::target::Target;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

mod get;
mod hidden;
#[path = "../tests/support/network.rs"]
mod network;

const CHUNK: usize = 256 * 1024;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    if args.get(1).is_some_and(|arg| arg == "--forward") {
        runtime.block_on(forward(args[2].parse().unwrap()));
        return;
    }
    let value = |name: &str, default: u64| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1))
            .and_then(|v| v.parse().ok())
            .unwrap_or(default)
    };
    let (mib, rounds) = (value("--mib", 512), value("--rounds", 3));
    if args.iter().any(|arg| arg == "--hidden") {
        runtime.block_on(hidden::bench(mib, rounds));
        return;
    }
    if args.iter().any(|arg| arg == "--get") {
        let lines = !args.iter().any(|arg| arg == "--no-lines");
        runtime.block_on(get::bench(mib, rounds, lines));
        return;
    }
    let hops = match value("--hops", 0) {
        0 => 1..=3,
        only => only as usize..=only as usize,
    };
    runtime.block_on(bench(mib, rounds, hops));
}

/// A process that is ended with us.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Forwards every connection to `next`, as plainly as user space can. Prints its own address.
async fn forward(next: SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let onward = TcpStream::connect(next).await.unwrap();
            stream.set_nodelay(true).unwrap();
            onward.set_nodelay(true).unwrap();
            let (up, down) = (stream.into_split(), onward.into_split());
            tokio::spawn(pump(up.0, down.1));
            pump(down.0, up.1).await;
        });
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut buf = vec![0; CHUNK];
    while let Ok(n) = from.read(&mut buf).await {
        if n == 0 || to.write_all(&buf[..n]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// A server that sends as many bytes as it is asked for.
async fn source() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(give(stream));
        }
    });
    addr
}

/// Sends as many bytes as it is asked for.
async fn give(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let data = vec![0x5a; CHUNK];
    let mut left = stream.read_u64().await.unwrap_or(0);
    while left > 0 {
        let n = left.min(CHUNK as u64);
        if stream.write_all(&data[..n as usize]).await.is_err() {
            return;
        }
        left -= n;
    }
    let _ = stream.shutdown().await;
    // Who drops a stream to which somebody may still speak cuts it off.
    let _ = stream.read_u8().await;
}

/// Processor seconds so far.
#[derive(Clone, Copy, Default)]
struct Cpu {
    user: f64,
    kernel: f64,
}

impl Cpu {
    fn of(pids: &[u32]) -> Self {
        let mut sum = Self::default();
        for pid in pids {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
            // USER_HZ is 100 on every Linux that user space sees.
            sum.user += fields[11].parse::<f64>().unwrap() / 100.0;
            sum.kernel += fields[12].parse::<f64>().unwrap() / 100.0;
        }
        sum
    }

    fn all(self) -> f64 {
        self.user + self.kernel
    }

    fn since(self, before: Self) -> Self {
        Self {
            user: self.user - before.user,
            kernel: self.kernel - before.kernel,
        }
    }
}

fn rss_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<f64>()
        .unwrap()
        / 1024.0
}

struct Figures {
    mb_per_s: f64,
    ends_per_gb: f64,
    relays_per_gb: f64,
    kernel_per_gb: f64,
    first_byte_ms: f64,
}

/// Reads `total` bytes over streams that `connect` opens, and accounts for everybody's processor time.
async fn measure<S, F>(
    total: u64,
    streams: u64,
    pids: &[u32],
    connect: impl Fn(u64) -> F,
) -> Figures
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = S> + Send + 'static,
{
    let cpu = || (Cpu::of(&[std::process::id()]), Cpu::of(pids));
    let (before, begun) = (cpu(), Instant::now());
    let mut tasks = Vec::new();
    for n in 0..streams {
        let (share, connecting) = (total / streams, connect(n));
        tasks.push(tokio::spawn(async move {
            let asked = Instant::now();
            let mut stream = connecting.await;
            stream.write_u64(share).await.unwrap();
            let (mut buf, mut left, mut first) = (vec![0; CHUNK], share, None);
            while left > 0 {
                let n = stream.read(&mut buf).await.unwrap();
                assert!(n > 0, "the stream ended {left} bytes early");
                first.get_or_insert_with(|| asked.elapsed());
                left -= n as u64;
            }
            first.unwrap()
        }));
    }
    let mut first = Duration::ZERO;
    for task in tasks {
        first = first.max(task.await.unwrap());
    }
    let (seconds, gb) = (begun.elapsed().as_secs_f64(), total as f64 / 1e9);
    let after = cpu();
    let (ends, relays) = (after.0.since(before.0), after.1.since(before.1));
    Figures {
        mb_per_s: gb * 1e3 / seconds,
        ends_per_gb: ends.all() / gb,
        relays_per_gb: relays.all() / gb,
        kernel_per_gb: (ends.kernel + relays.kernel) / gb,
        first_byte_ms: first.as_secs_f64() * 1e3,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn row(name: &str, rounds: &[Figures]) -> f64 {
    let of = |get: fn(&Figures) -> f64| median(rounds.iter().map(get).collect());
    let cpu = of(|f| f.ends_per_gb + f.relays_per_gb);
    println!(
        "{name:<28} {:>9.0} {cpu:>13.2} {:>7.2} {:>7.2} {:>7.2} {:>14.2}",
        of(|f| f.mb_per_s),
        of(|f| f.ends_per_gb),
        of(|f| f.relays_per_gb),
        of(|f| f.kernel_per_gb),
        of(|f| f.first_byte_ms)
    );
    cpu
}

fn heading(mib: u64, rounds: u64) {
    println!(
        "{mib} MiB a run, median of {rounds}; all processes summed; time to first byte with a circuit ready"
    );
    println!(
        "{:<28} {:>9} {:>13} {:>7} {:>7} {:>7} {:>14}",
        "", "MB/s", "CPU s per GB", "ends", "relays", "kernel", "first byte ms"
    );
}

async fn bench(mib: u64, rounds: u64, hops: std::ops::RangeInclusive<usize>) {
    let total = mib * 1024 * 1024;
    let target = source().await;
    heading(mib, rounds);
    let dir = tempfile::tempdir().unwrap();
    let net = network::Network::build(dir.path(), 3);
    let relays: Vec<Process> = net.relays.iter().map(spawn_relay).collect();
    let relay_pids: Vec<u32> = relays.iter().map(|relay| relay.0.id()).collect();
    let rss = || {
        let each = relay_pids.iter().map(|pid| format!("{:.1}", rss_mib(*pid)));
        each.collect::<Vec<_>>().join(", ")
    };
    let rss_before = rss();
    for hops in hops {
        let mut forwarders: Vec<Process> = Vec::new();
        let mut next = target;
        for _ in 0..hops {
            let (process, addr) = spawn_forwarder(next);
            forwarders.push(process);
            next = addr;
        }
        let pids: Vec<u32> = forwarders.iter().map(|process| process.0.id()).collect();
        let client = client(&net, hops);
        let exit = Target::ip(target);
        for streams in [1, 8] {
            let (mut ours, mut bare) = (Vec::new(), Vec::new());
            for round in 0..rounds {
                bare.push(
                    measure(total, streams, &pids, |_| async move {
                        TcpStream::connect(next).await.unwrap()
                    })
                    .await,
                );
                let key = Isolation::new("bench", &round.to_be_bytes(), 0);
                let circuit = client
                    .circuit(key, Proto::Tcp, Some(&exit), &[])
                    .await
                    .unwrap();
                ours.push(
                    measure(total, streams, &relay_pids, |_| {
                        let (circuit, exit) = (Arc::clone(&circuit), exit.clone());
                        async move {
                            circuit
                                .connect(&exit, Duration::from_secs(10))
                                .await
                                .unwrap()
                        }
                    })
                    .await,
                );
                circuit.close();
            }
            let base = row(&format!("forward, {hops} hops, {streams} streams"), &bare);
            let cost = row(&format!("hushswarm, {hops} hops, {streams} streams"), &ours);
            println!("{:<28} {:>23.2} x bare forwarding", "", cost / base);
        }
        println!(
            "circuit build, {hops} hops: {:.2} ms (median of 50)",
            build_time(&client).await
        );
        client.close();
    }
    println!(
        "RSS of the relays: {rss_before} MiB before, {} MiB after",
        rss()
    );
}

fn client(net: &network::Network, hops: usize) -> Client {
    let config = ClientConfig {
        hops,
        prebuilt: 0,
        ..ClientConfig::default()
    };
    let dialer = Arc::new(OsDialer::new(None));
    Client::new(
        Arc::clone(&net.list),
        GuardSample::default(),
        None,
        dialer,
        config,
    )
}

async fn build_time(client: &Client) -> f64 {
    let mut times = Vec::new();
    for _ in 0..50 {
        let begun = Instant::now();
        let circuit = client.fresh_circuit(ExitNeed::Any).await.unwrap();
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        circuit.close();
    }
    median(times)
}

fn spawn_forwarder(next: SocketAddr) -> (Process, SocketAddr) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--forward", &next.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let out = child.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
    (Process(child), line.trim().parse().unwrap())
}

fn spawn_relay(relay: &network::RelayDir) -> Process {
    network::spawn_relay(Path::new(env!("CARGO_BIN_EXE_hushswarm")), relay, Process)
}
