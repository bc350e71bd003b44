//! `hushswarm get` beside peers that mean harm, through circuits: its memory stays bounded, they are left alone, and it completes.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::PATIENCE;
use support::clients::{Libtorrent, libtorrent_python};
use support::loopback::{Loopback, with_peers};

const NAME: &str = "archive.bin";
const SIZE: u64 = 12 << 20;
/// Peers of each kind.
const EACH: u8 = 4;
/// Most memory that the downloader may ever have taken, MiB: with no hostile peer it takes some 40.
const MEMORY: u64 = 110;

/// What a hostile peer says for ever, after what it says first.
type Says = (Vec<u8>, Vec<u8>);

fn message(id: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len() + 1).unwrap();
    [&len.to_be_bytes()[..], &[id], payload].concat()
}

fn numbers(id: u8, numbers: &[u32]) -> Vec<u8> {
    let payload: Vec<u8> = numbers.iter().flat_map(|n| n.to_be_bytes()).collect();
    message(id, &payload)
}

/// One of each kind, for a torrent of so many pieces.
fn kinds(pieces: u32) -> Vec<(&'static str, Says)> {
    let bytes = pieces.div_ceil(8) as usize;
    let spare = bytes * 8 - pieces as usize;
    let mut all = vec![0xff; bytes];
    all[bytes - 1] <<= spare;
    let has_all = message(5, &all);
    let start = [has_all.clone(), message(1, &[])].concat();
    let wants = [message(5, &vec![0; bytes]), message(2, &[])].concat();
    // Says that it brings a message of the longest kind and then another one.
    let dict = [&b"d1:a1000000:"[..], &vec![b'x'; 1_000_000], b"e"].concat();
    let handshake = message(20, &[&[0][..], &dict].concat());
    let ask = numbers(6, &[0, 0, 1 << 14]);
    let unasked = [&numbers(7, &[0, 0])[..8], &[0; 5]].concat();
    let mut block = numbers(7, &[0, 0]);
    block[..4].copy_from_slice(&(9 + (1_u32 << 14)).to_be_bytes());
    block.extend_from_slice(&[0; 1 << 14]);
    let changing = [message(5, &vec![0; bytes]), has_all.clone()].concat();
    let longest = [&(1_u32 << 30).to_be_bytes()[..], &[7; 4096]].concat();
    vec![
        ("introduces itself", (start.clone(), handshake)),
        ("asks and never reads", (wants, ask.repeat(1000))),
        ("gives what nobody asked", (start.clone(), block)),
        ("changes its pieces", (start.clone(), changing.repeat(500))),
        (
            "has piece nothing",
            (start.clone(), numbers(4, &[9]).repeat(1000)),
        ),
        ("says too long a message", (start.clone(), longest)),
        ("says half a message", (start.clone(), unasked)),
        (
            "opens and closes",
            (
                start,
                [message(2, &[]), message(3, &[])].concat().repeat(1000),
            ),
        ),
    ]
}

/// Listens at an address of its own. The number of connections that it had.
fn hostile(addr: SocketAddr, infohash: Vec<u8>, says: Says) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(addr).unwrap();
    let came = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&came);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (infohash, says) = (infohash.clone(), says.clone());
            count.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || harm(stream.unwrap(), &infohash, &says));
        }
    });
    came
}

/// Ends when we are closed; who listens is somebody else's thread.
fn harm(mut stream: TcpStream, infohash: &[u8], says: &Says) {
    let mut theirs = [0; 68];
    // In the clear: --encryption off.
    if stream.read_exact(&mut theirs).is_err() {
        return;
    }
    let reserved = [0, 0, 0, 0, 0, 0x10, 0, 0];
    let hello = [
        &b"\x13BitTorrent protocol"[..],
        &reserved,
        infohash,
        &[b'x'; 20],
    ]
    .concat();
    let said = stream
        .write_all(&hello)
        .and_then(|()| stream.write_all(&says.0));
    if said.is_err() {
        return;
    }
    while stream.write_all(&says.1).is_ok() {}
}

/// Most memory that a process ever had, MiB.
fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib >> 10)
}

#[test]
fn hostile_peers_cost_bounded_memory_and_the_download_completes() {
    let Some(python) = libtorrent_python() else {
        return;
    };
    let loopback = Loopback::start("warn");
    let torrent = loopback.torrent(NAME, SIZE, &[]);
    let folder = loopback.dir.path().join("content");
    let seed = Libtorrent::seed(&python, None, &torrent, &folder, Some(2 << 20));
    let pieces = u32::try_from(SIZE / (256 << 10)).unwrap();
    let mut peers = vec![seed.addr];
    let mut hostiles = Vec::new();
    for (kind, (what, says)) in (1..).zip(kinds(pieces)) {
        for n in 0..EACH {
            let ip = Ipv4Addr::new(127, 0, 30 + kind, n + 1);
            let addr = SocketAddr::new(ip.into(), 6881);
            let came = hostile(addr, torrent.infohash_bytes(), says.clone());
            peers.push(addr);
            hostiles.push((what, came));
        }
    }
    // The file is given, so that all connections are about pieces.
    let source = with_peers(&torrent, &peers);
    let mut command = loopback.command(&source);
    command.args(["--json", "--encryption", "off"]);
    let mut get = support::process::Process::spawn("get", command);
    let pid = get.id();
    let mut most = 0;
    let end = std::time::Instant::now() + PATIENCE;
    while get.events("done").is_empty() {
        most = most.max(peak(pid).unwrap_or(0));
        assert!(std::time::Instant::now() < end, "{}", get.tails());
        assert!(
            get.exit_status().is_none_or(|s| s.success()),
            "{}",
            get.tails()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(get.wait(PATIENCE).success(), "{}", get.tails());
    loopback.assert_arrived(NAME);
    eprintln!("{most} MiB at most");
    assert!((1..MEMORY).contains(&most), "{most} MiB");
    let mut called = 0;
    for (what, came) in hostiles {
        let came = came.load(Ordering::Relaxed);
        called += usize::from(came > 0);
        assert!(came <= 3, "{what}: {came} times");
    }
    assert!(called >= 24, "{called} hostile peers were called");
}
