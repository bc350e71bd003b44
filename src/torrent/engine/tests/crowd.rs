//! Many who come and want nothing good.

use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::torrent::wire::{BlockRef, Handshake, MessageRef};

/// Connections that are offered.
const CROWD: usize = 10_000;

#[tokio::test(start_paused = true)]
async fn ten_thousand_who_take_nothing_keep_out_nobody_who_does() {
    let bench = Bench::new().await;
    let seed = bench.seed("11.0.0.1:1000");
    until(&seed, |progress| progress.state == State::Seeding).await;
    // Each says that it wants everything, and never reads.
    let mut said = Handshake::new(bench.metainfo.info.hash, [9; 20])
        .encode()
        .to_vec();
    MessageRef::HaveNone.encode(&mut said);
    MessageRef::Interested.encode(&mut said);
    for begin in 0..4 {
        let block = BlockRef {
            index: 0,
            begin: begin << 14,
            len: 1 << 14,
        };
        MessageRef::Request(block).encode(&mut said);
    }
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let (mut near, far) = tokio::io::duplex(1 << 10);
        near.write_all(&said).await.unwrap();
        seed.accept(Box::new(far));
        crowd.push(near);
        tokio::task::yield_now().await;
    }
    // They stay, and say so.
    let squatting = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(50)).await;
            let mut open = Vec::new();
            for mut near in std::mem::take(&mut crowd) {
                if near.write_all(&[0; 4]).await.is_ok() {
                    open.push(near);
                }
            }
            assert!(open.len() <= 128, "{} are connected", open.len());
            crowd = open;
        }
    });
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert!(seed.progress().borrow().connected >= 50, "the door is held");
    let get = bench.engine("get").download(bench.job("get"));
    // Before any of them is found to be stuck.
    let inside = until(&get, |progress| progress.connected > 0);
    let waited = tokio::time::timeout(Duration::from_secs(10), inside).await;
    assert!(waited.is_ok(), "kept out");
    // Its turn comes when all of them have let theirs pass.
    let waited = tokio::time::timeout(Duration::from_secs(300), done(&get)).await;
    assert!(waited.is_ok(), "not served");
    bench.assert_complete("get");
    assert!(!squatting.is_finished(), "{:?}", squatting.await);
    squatting.abort();
}
