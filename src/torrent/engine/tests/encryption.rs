//! Streams to public peers are encrypted, so that an exit sees no infohash in what it carries.

use std::sync::Mutex;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, duplex, split};

use super::*;

/// What the exits carry to a peer of ours, in both directions.
type Carried = Arc<Mutex<Vec<u8>>>;

/// A seed of ours, and an exit before it that writes down what it carries: also when it calls itself, since the tracker names it.
fn watched_seed(bench: &Bench, addr: &str, encryption: Encryption) -> (Handle, Carried) {
    let handle = bench
        .engine_that(addr, encryption)
        .seed(bench.metainfo.clone(), bench.path("source"));
    let carried = Carried::default();
    let (commands, seen) = (handle.commands.clone(), Arc::clone(&carried));
    bench.world.listen_with(addr, move |stream| {
        let (near, far) = duplex(64 << 10);
        let _ = commands.try_send(Command::Accept(Visitor::by_address(Box::new(far))));
        let (mut from, mut to) = split(stream);
        let (mut back, mut on) = split(near);
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            tokio::join!(
                carry(&mut from, &mut on, &seen),
                carry(&mut back, &mut to, &seen),
            );
        });
    });
    (handle, carried)
}

async fn carry(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    seen: &Carried,
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(len) = from.read(&mut bytes).await
        && len > 0
    {
        seen.lock().unwrap().extend_from_slice(&bytes[..len]);
        if to.write_all(&bytes[..len]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

fn shows(carried: &Carried, needle: &[u8]) -> bool {
    let carried = carried.lock().unwrap();
    assert!(!carried.is_empty());
    carried.windows(needle.len()).any(|part| part == needle)
}

#[tokio::test(start_paused = true)]
async fn an_exit_sees_neither_handshake_nor_infohash_nor_content() {
    for (encryption, clear) in [
        (Encryption::Preferred, false),
        (Encryption::Required, false),
        (Encryption::Off, true),
    ] {
        let bench = Bench::new().await;
        let (seed, carried) = watched_seed(&bench, "11.0.0.1:7000", encryption);
        // Before, it answers nobody.
        until(&seed, |progress| progress.state == State::Seeding).await;
        let download = bench
            .engine_that("get", encryption)
            .download(bench.job("out"));
        done(&download).await;
        bench.assert_complete("out");
        assert_eq!(shows(&carried, b"BitTorrent protocol"), clear);
        assert_eq!(shows(&carried, &bench.metainfo.info.hash.0), clear);
        assert_eq!(shows(&carried, &bench.content[..64]), clear);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_knows_no_encryption_is_called_again_in_the_clear_unless_it_is_required() {
    let bench = Bench::new().await;
    bench.world.script("11.0.0.1:7000", bench.honest());
    let download = bench
        .engine_that("any", Encryption::Preferred)
        .download(bench.job("out"));
    done(&download).await;
    bench.assert_complete("out");
    assert_eq!(bench.world.calls_to("11.0.0.1:7000"), 2);

    let refuses = bench
        .engine_that("all", Encryption::Required)
        .download(bench.job("none"));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(
        bench.world.calls_to("11.0.0.1:7000") > 3,
        "it tries again, and never in the clear"
    );
    assert_eq!(refuses.progress().borrow().downloaded, 0);
}
