#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::keys::Exchange;
use super::*;
use crate::torrent::infohash::InfoHash;
use crate::torrent::wire::Handshake;

const HASH: InfoHash = InfoHash([7; 20]);

/// Both sides over a pipe that holds so many bytes.
async fn pair(seed: u64, room: usize) -> (MseStream, MseStream) {
    let (near, far) = duplex(room);
    let ask = async move {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut stream = initiate(Box::new(near), HASH, &mut rng).await.unwrap();
        stream.write_all(b"first").await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
        stream
    };
    let answered = async move {
        let known = [InfoHash([1; 20]), HASH].into_iter();
        let mut rng = StdRng::seed_from_u64(seed + 1);
        let (hash, mut stream) = answer(Box::new(far), Vec::new(), known, &mut rng)
            .await
            .unwrap();
        assert_eq!(hash, HASH);
        let mut first = [0; 5];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"first");
        stream.write_all(b"answer").await.unwrap();
        stream.flush().await.unwrap();
        stream
    };
    tokio::join!(ask, answered)
}

#[tokio::test]
async fn what_one_side_writes_the_other_reads() {
    // Every seed pads otherwise; a pipe that holds little more than a key and its pad cuts everything.
    for (seed, room) in [(0, 700), (1, 1000), (2, 4096), (3, 1 << 16)] {
        let (mut near, mut far) = pair(seed, room).await;
        let data: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        let sent = data.clone();
        let write = async move {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap();
            let mut back = Vec::new();
            near.read_to_end(&mut back).await.unwrap();
            back
        };
        let read = async move {
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            far.write_all(&got[..70_000]).await.unwrap();
            far.shutdown().await.unwrap();
            got
        };
        let (back, got) = tokio::join!(write, read);
        assert!(got == data && back == data[..70_000]);
    }
}

#[tokio::test]
async fn who_carries_it_sees_neither_handshake_nor_infohash() {
    let (near, mut carrier) = duplex(1 << 16);
    let (mut other, far) = duplex(1 << 16);
    let ask = async move {
        let mut rng = StdRng::seed_from_u64(1);
        let mut stream = initiate(Box::new(near), HASH, &mut rng).await.unwrap();
        let handshake = Handshake::new(HASH, [9; 20]).encode();
        stream.write_all(&handshake).await.unwrap();
        let mut answer = [0; 68];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, handshake);
    };
    let answered = async move {
        let mut rng = StdRng::seed_from_u64(2);
        let answered = answer(Box::new(far), Vec::new(), [HASH].into_iter(), &mut rng).await;
        let (_, mut stream) = answered.unwrap();
        let mut said = [0; 68];
        stream.read_exact(&mut said).await.unwrap();
        stream.write_all(&said).await.unwrap();
        stream.flush().await.unwrap();
    };
    let carried = async move {
        let mut seen: Vec<u8> = Vec::new();
        let (mut up, mut down) = ([0; 999], [0; 999]);
        loop {
            let (from, to) = tokio::select! {
                len = carrier.read(&mut up) => (&up[..len.unwrap()], &mut other),
                len = other.read(&mut down) => (&down[..len.unwrap()], &mut carrier),
            };
            seen.extend(from);
            if from.is_empty() || to.write_all(from).await.is_err() {
                return seen;
            }
        }
    };
    let ((), (), seen) = tokio::join!(ask, answered, carried);
    assert!(seen.len() > 2 * (96 + 68));
    assert!(
        !seen
            .windows(8)
            .any(|part| part == [7; 8] || part == *b"BitTorre")
    );
}

#[tokio::test]
async fn who_asks_for_another_torrent_or_knows_no_encryption_is_refused() {
    let ask = async |said: Vec<u8>| {
        let (mut near, far) = duplex(1 << 16);
        near.write_all(&said).await.unwrap();
        near.shutdown().await.unwrap();
        let mut rng = StdRng::seed_from_u64(2);
        answer(Box::new(far), Vec::new(), [HASH].into_iter(), &mut rng)
            .await
            .err()
    };
    assert!(
        ask(Handshake::new(HASH, [9; 20]).encode().to_vec())
            .await
            .is_some()
    );
    assert!(ask(vec![0; 96]).await.is_some(), "a key known to all");
    assert!(
        ask(vec![5; 2000]).await.is_some(),
        "no mark within the longest pad"
    );

    let (near, far) = duplex(1 << 16);
    let other = async move {
        let mut rng = StdRng::seed_from_u64(1);
        let mut stream = initiate(Box::new(near), InfoHash([8; 20]), &mut rng)
            .await
            .unwrap();
        stream.write_all(b"first").await.unwrap();
        stream.read(&mut [0]).await.map_err(|error| error.kind())
    };
    let answered = async move {
        let mut rng = StdRng::seed_from_u64(2);
        answer(Box::new(far), Vec::new(), [HASH].into_iter(), &mut rng)
            .await
            .err()
            .unwrap()
            .kind()
    };
    let (other, answered) = tokio::join!(other, answered);
    assert_eq!(answered, std::io::ErrorKind::NotFound);
    assert_eq!(other, Err(std::io::ErrorKind::UnexpectedEof));
}

#[test]
fn both_sides_agree_and_keys_that_all_know_are_refused() {
    let mut rng = StdRng::seed_from_u64(3);
    let (one, two) = (Exchange::new(&mut rng), Exchange::new(&mut rng));
    let (at_one, at_two) = (
        one.agree(&two.public).unwrap(),
        two.agree(&one.public).unwrap(),
    );
    assert_eq!(at_one.mark(), at_two.mark());
    assert_eq!(at_one.veiled(HASH), at_two.veiled(HASH));
    assert_ne!(at_one.veiled(HASH), at_one.veiled(InfoHash([8; 20])));
    let mut least = [0; KEY_LEN];
    assert!(one.agree(&least).is_none());
    least[KEY_LEN - 1] = 1;
    assert!(one.agree(&least).is_none());
    assert!(one.agree(&[0xff; KEY_LEN]).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Neither side takes what is no answer, nor panics, nor waits for more than the longest pads.
    #[test]
    fn noise_is_refused(said in proptest::collection::vec(any::<u8>(), 0..3000), asks: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut near, far) = duplex(1 << 16);
            near.write_all(&said).await.unwrap();
            near.shutdown().await.unwrap();
            let mut rng = StdRng::seed_from_u64(2);
            if asks {
                if let Ok(mut stream) = initiate(Box::new(far), HASH, &mut rng).await {
                    stream.write_all(b"first").await.unwrap();
                    assert!(stream.read(&mut [0]).await.is_err());
                }
            } else {
                assert!(answer(Box::new(far), said.clone(), [HASH].into_iter(), &mut rng).await.is_err());
            }
        });
    }
}
