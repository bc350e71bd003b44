//! Peers of the public swarm that mean harm, all of them at once beside one that is honest.

use std::sync::atomic::AtomicUsize;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::route::BoxStream;
use crate::torrent::wire::{BlockRef, HANDSHAKE_LEN, Handshake, MessageRef};

/// Bytes that one sends before it is given up that it will ever be closed.
const FLOOD: usize = 64 << 20;

/// What became of a peer that floods.
#[derive(Default)]
struct Fate {
    /// Its connections that we closed.
    closed: AtomicUsize,
    /// Bytes that we took from it.
    taken: AtomicU64,
}

/// Greets, then says `first` once and `again` for ever. Reads or does not.
async fn flood(
    mut stream: BoxStream,
    hash: InfoHash,
    [first, again]: [Vec<u8>; 2],
    reads: bool,
    fate: Arc<Fate>,
) {
    let mut theirs = [0; HANDSHAKE_LEN];
    stream.read_exact(&mut theirs).await.unwrap();
    let hello = Handshake::new(hash, [8; 20]).encode();
    stream.write_all(&hello).await.unwrap();
    let (mut from, mut to) = tokio::io::split(stream);
    let reading = tokio::spawn(async move {
        if reads {
            while matches!(from.read(&mut [0; 4096]).await, Ok(1..)) {}
            return;
        }
        // Holds its end open.
        std::future::pending::<()>().await;
    });
    let mut sent = 0;
    let mut next = &first;
    while sent < FLOOD {
        if to.write_all(next).await.is_err() {
            fate.closed.fetch_add(1, Ordering::Relaxed);
            break;
        }
        sent += next.len();
        fate.taken.fetch_add(next.len() as u64, Ordering::Relaxed);
        next = &again;
        tokio::task::yield_now().await;
    }
    reading.abort();
}

/// So many times the same message or messages.
fn said(count: usize, messages: &[MessageRef<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..count {
        messages.iter().for_each(|message| message.encode(&mut out));
    }
    out
}

fn request(index: u32, begin: u32) -> MessageRef<'static> {
    let len = 1 << 14;
    MessageRef::Request(BlockRef { index, begin, len })
}

#[tokio::test(start_paused = true)]
async fn who_floods_is_closed_and_left_alone_and_the_download_completes() {
    let bench = Bench::new().await;
    let pieces = bench.metainfo.info.piece_count();
    let bits = pieces.div_ceil(8) as usize;
    let (mut all, none, mut some) = (vec![0xff; bits], vec![0; bits], vec![0; bits]);
    // What lies beyond the last piece stays clear.
    all[bits - 1] = 0xff << (bits as u32 * 8 - pieces);
    some[0] = 0x80;
    let large = vec![0; 100_000];
    let dict = [&b"d1:a100000:"[..], &large, b"e"].concat();
    let huge = [&(64_u32 << 20).to_be_bytes()[..], &large].concat();
    let start = said(1, &[MessageRef::Bitfield(&all), MessageRef::Unchoke]);
    let asks = said(1, &[MessageRef::Bitfield(&none), MessageRef::Interested]);
    let block = &large[..1 << 14];
    let unasked = MessageRef::Piece {
        index: 1,
        begin: 0,
        data: block,
    };
    let (handshake, unknown) = (
        MessageRef::Extended {
            id: 0,
            payload: &dict,
        },
        MessageRef::Extended {
            id: 77,
            payload: b"de",
        },
    );
    let floods: [(&str, &[u8], Vec<u8>); 12] = [
        ("says nothing", &start, vec![0; 4096]),
        ("has it", &start, said(500, &[MessageRef::Have(1)])),
        ("has none", &[], said(500, &[MessageRef::HaveNone])),
        (
            "changes its mind",
            &start,
            said(300, &[MessageRef::Interested, MessageRef::NotInterested]),
        ),
        (
            "chokes",
            &start,
            said(300, &[MessageRef::Choke, MessageRef::Unchoke]),
        ),
        (
            "changes its pieces",
            &start,
            said(
                200,
                &[MessageRef::Bitfield(&none), MessageRef::Bitfield(&some)],
            ),
        ),
        ("introduces itself", &start, said(1, &[handshake])),
        ("extends", &start, said(300, &[unknown])),
        ("asks while choked", &asks, said(300, &[request(0, 0)])),
        ("gives what nobody wants", &start, said(8, &[unasked])),
        (
            "takes back",
            &start,
            said(
                300,
                &[MessageRef::Cancel(BlockRef {
                    index: 0,
                    begin: 0,
                    len: 1 << 14,
                })],
            ),
        ),
        ("says too much", &start, huge),
    ];
    let mut fates = Vec::new();
    let hash = bench.metainfo.info.hash;
    for (n, (what, first, again)) in floods.into_iter().enumerate() {
        for reads in [true, false] {
            let addr = format!("11.0.{}.{}:7000", u8::from(reads), n + 1);
            let fate: Arc<Fate> = Arc::default();
            fates.push((what, addr.clone(), Arc::clone(&fate)));
            let says = [first.to_vec(), again.clone()];
            bench.world.listen_with(&addr, move |stream| {
                tokio::spawn(flood(stream, hash, says.clone(), reads, Arc::clone(&fate)));
            });
        }
    }
    let slow = Script {
        delay: Duration::from_millis(300),
        ..bench.honest()
    };
    bench.world.script("11.0.9.1:7000", slow);
    let job = Job {
        seed_after: true,
        ..bench.job("out")
    };
    let handle = bench.engine("a").download(job);
    until(&handle, |p| p.state == State::Seeding).await;
    bench.assert_complete("out");
    // Who was not heard out while it lasted is by now.
    tokio::time::sleep(Duration::from_secs(400)).await;
    for (what, addr, fate) in fates {
        let calls = bench.world.calls_to(&addr);
        let closed = fate.closed.load(Ordering::Relaxed);
        assert!(calls > 0 && closed == calls, "{what}: {closed} of {calls}");
        assert!(calls <= 2, "{what}: called {calls} times");
        let taken = fate.taken.load(Ordering::Relaxed);
        assert!(taken < 8 << 20, "{what}: {taken} bytes were read");
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_fewer_pieces_than_it_said_costs_time_and_nothing_else() {
    let bench = Bench::new().await;
    // Says to have all, gives a little, then says to have none, and is silent.
    let fickle = Script {
        rest: Some(Arc::new(AtomicU64::new(20))),
        ..bench.honest()
    };
    for n in 1..8 {
        bench
            .world
            .script(&format!("11.0.0.{n}:7000"), fickle.clone());
    }
    let slow = Script {
        delay: Duration::from_secs(2),
        ..bench.honest()
    };
    bench.world.script("11.0.9.1:7000", slow);
    let handle = bench.engine("a").download(bench.job("out"));
    let start = tokio::time::Instant::now();
    done(&handle).await;
    bench.assert_complete("out");
    assert!(start.elapsed() < Duration::from_secs(300));
}
