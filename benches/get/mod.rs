//! `cargo bench --bench transfer -- --get`: what a torrent's download reaches of the bare speed of the circuit that it comes through. A
//! stream and a download from one peer in turn, over the same three relays, to servers in this process: as fast as the machine goes,
//! where the engine at both ends takes processor time from the relays; and through a line with a rate and a delay of its own, as circuits
//! have them, where it shows whether enough is asked for in time.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hushswarm::overlay::client::Client;
use hushswarm::route::Nowhere;
use hushswarm::route::circuits::CircuitRoute;
use hushswarm::torrent::engine::{
    Created, Encryption, Engine, Job, Options, Source, State, create,
};
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::relay_list::Proto;
use hushswarm_circuits::target::Target;
use rand::Rng as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::{Cpu, Process, client, measure, median, network, source, spawn_relay};

/// Bytes that a line takes in at once.
const PART: usize = 64 << 10;

/// A line between the exit and the server.
#[derive(Clone, Copy)]
struct Line {
    /// Bytes per second.
    rate: f64,
    /// Each way.
    delay: Duration,
}

pub(crate) async fn bench(mib: u64, rounds: u64, lines: bool) {
    let total = mib << 20;
    let dir = tempfile::tempdir().unwrap();
    let net = network::Network::build(dir.path(), 3);
    let relays: Vec<Process> = net.relays.iter().map(spawn_relay).collect();
    let pids: Vec<u32> = relays.iter().map(|relay| relay.0.id()).collect();
    let client = client(&net, 3);
    let stream_server = source().await;
    let made = make(dir.path(), total).await;
    let peer = peer(&made, dir.path()).await;
    println!("{mib} MiB through three hops, one stream and one peer, median of {rounds}");
    println!("processor seconds per GB, of both ends and of the relays, in brackets");
    println!("{:<30} {:>24} {:>24} {:>6}", "", "stream", "get", "part");
    let rc4 = Encryption::Preferred;
    let all = [
        ("as fast as the machine goes", Encryption::Off, None),
        ("the same, encrypted (RC4)", rc4, None),
        ("20 MB/s, 50 ms each way", rc4, Some((20e6, 50))),
        ("5 MB/s, 150 ms each way", rc4, Some((5e6, 150))),
        ("50 MB/s, 100 ms each way", rc4, Some((50e6, 100))),
    ];
    let count = if lines { all.len() } else { 2 };
    for (name, encryption, line) in all.into_iter().take(count) {
        let line = line.map(|(rate, ms)| Line {
            rate,
            delay: Duration::from_millis(ms),
        });
        // So long that its begin does not count for much, and not for minutes.
        let share = line.map_or(total, |line| total.min((line.rate * 15.0) as u64));
        let (mut bare, mut got) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let (server, peer) = (shaped(stream_server, line).await, shaped(peer, line).await);
            bare.push(stream(&client, server, round, share, &pids).await);
            let came = download(&client, &made, encryption, peer, share, &pids);
            got.push(came.await);
        }
        let (bare, got) = (Speed::median(&bare), Speed::median(&got));
        println!(
            "{name:<30} {:>24} {:>24} {:>5.0}%",
            bare.text(),
            got.text(),
            got.rate / bare.rate * 100.0
        );
    }
    client.close();
}

/// How fast, and what it took.
#[derive(Clone, Copy)]
struct Speed {
    /// MB/s.
    rate: f64,
    /// Processor seconds per GB, of this process, which is both ends, and of the relays.
    ends: f64,
    relays: f64,
}

impl Speed {
    fn median(all: &[Self]) -> Self {
        let of = |get: fn(&Self) -> f64| median(all.iter().map(get).collect());
        Self {
            rate: of(|speed| speed.rate),
            ends: of(|speed| speed.ends),
            relays: of(|speed| speed.relays),
        }
    }

    fn text(self) -> String {
        let Self { rate, ends, relays } = self;
        format!("{rate:.1} MB/s ({ends:.2} + {relays:.2})")
    }
}

/// A bare stream.
async fn stream(
    client: &Client,
    server: SocketAddr,
    round: u64,
    total: u64,
    relays: &[u32],
) -> Speed {
    let exit = Target::ip(server);
    let key = Isolation::new("bench", &round.to_be_bytes(), 0);
    let circuit = client.circuit(key, Proto::Tcp, Some(&exit), &[]).await;
    let circuit = circuit.unwrap();
    let figures = measure(total, 1, relays, |_| {
        let (circuit, exit) = (Arc::clone(&circuit), exit.clone());
        async move {
            let patience = Duration::from_secs(10);
            circuit.connect(&exit, patience).await.unwrap()
        }
    });
    let figures = figures.await;
    circuit.close();
    Speed {
        rate: figures.mb_per_s,
        ends: figures.ends_per_gb,
        relays: figures.relays_per_gb,
    }
}

/// A download until `total` bytes are verified and on disk.
async fn download(
    client: &Client,
    made: &Created,
    encryption: Encryption,
    peer: SocketAddr,
    total: u64,
    relays: &[u32],
) -> Speed {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path().join("state"));
    options.allow_private = true;
    options.encryption = encryption;
    let engine = Engine::new(Arc::new(CircuitRoute::new(client.clone())), options);
    let handle = engine.download(Job {
        source: Source::Metainfo(made.metainfo.clone()),
        output: dir.path().join("out"),
        seed_after: true,
        overwrite: false,
        info: None,
    });
    let mut progress = handle.progress();
    let ready = progress.wait_for(|now| now.state == State::Downloading);
    ready.await.unwrap();
    let cpu = || (Cpu::of(&[std::process::id()]), Cpu::of(relays));
    let (before, begun) = (cpu(), Instant::now());
    handle.onion_door().tell(Target::ip(peer));
    let enough = progress.wait_for(|now| now.done >= total);
    let done = enough.await.unwrap().done;
    let (seconds, gb, after) = (begun.elapsed().as_secs_f64(), done as f64 / 1e9, cpu());
    handle.stop().await;
    Speed {
        rate: gb * 1e3 / seconds,
        ends: after.0.since(before.0).all() / gb,
        relays: after.1.since(before.1).all() / gb,
    }
}

async fn make(dir: &Path, total: u64) -> Created {
    let path: PathBuf = dir.join("content.bin");
    let mut block = vec![0; 1 << 20];
    let mut content = Vec::new();
    for _ in 0..total >> 20 {
        rand::rng().fill_bytes(&mut block);
        content.extend_from_slice(&block);
    }
    std::fs::write(&path, content).unwrap();
    create(path, Vec::new(), Arc::default()).await.unwrap()
}

/// A peer that has everything.
async fn peer(made: &Created, dir: &Path) -> SocketAddr {
    let options = Options::new(dir.join("seed"));
    let engine = Engine::new(Arc::new(Nowhere), options);
    let handle = engine.seed(made.metainfo.clone(), made.folder.clone());
    let mut progress = handle.progress();
    let ready = progress.wait_for(|now| now.state == State::Seeding);
    ready.await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            handle.accept(Box::new(stream));
        }
    });
    addr
}

/// Where `to` is reached through a line.
async fn shaped(to: SocketAddr, line: Option<Line>) -> SocketAddr {
    let Some(line) = line else {
        return to;
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to).await.unwrap();
            for stream in [&near, &far] {
                stream.set_nodelay(true).unwrap();
            }
            let (near, far) = (near.into_split(), far.into_split());
            carry(near.0, far.1, line);
            carry(far.0, near.1, line);
        }
    });
    addr
}

/// Carries bytes one way: as many a second, so late. What is under way takes as much room as such a line has.
fn carry(
    mut from: impl AsyncRead + Unpin + Send + 'static,
    mut to: impl AsyncWrite + Unpin + Send + 'static,
    line: Line,
) {
    let under_way = (line.rate * line.delay.as_secs_f64()) as usize / PART + 4;
    let (sender, mut parts) = mpsc::channel::<(Instant, Vec<u8>)>(under_way);
    tokio::spawn(async move {
        let mut free = Instant::now();
        let mut part = vec![0; PART];
        while let Ok(len @ 1..) = from.read(&mut part).await {
            free = free.max(Instant::now()) + Duration::from_secs_f64(len as f64 / line.rate);
            tokio::time::sleep_until(free.into()).await;
            let sent = (free + line.delay, part[..len].to_vec());
            if sender.send(sent).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some((due, part)) = parts.recv().await {
            tokio::time::sleep_until(due.into()).await;
            if to.write_all(&part).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    });
}
