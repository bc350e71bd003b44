//! The exchange that encrypts a stream.

use hushswarm::torrent::infohash::InfoHash;
use hushswarm::torrent::mse;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::{HASH, first, rng};

/// Message stream encryption: what a peer says to the side that answers, or, where the first byte is odd, to the one that asked.
pub fn encrypted_stream(input: &[u8]) {
    let (side, said) = first(input);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(async {
        let (mut near, far) = duplex(1 << 16);
        near.write_all(said).await.unwrap();
        near.shutdown().await.unwrap();
        let (mut rng, mut got) = (rng(), Vec::new());
        if side & 1 == 0 {
            let known = std::iter::once(InfoHash(HASH));
            let answered = mse::answer(Box::new(far), Vec::new(), known, &mut rng);
            if let Ok((torrent, mut stream)) = answered.await {
                assert_eq!(torrent, InfoHash(HASH));
                stream.read_to_end(&mut got).await.unwrap();
            }
        } else if let Ok(mut stream) = mse::initiate(Box::new(far), InfoHash(HASH), &mut rng).await
        {
            stream.write_all(b"first").await.unwrap();
            let _ = stream.read_to_end(&mut got).await;
        }
        // Keys at least go before.
        assert!(got.is_empty() || got.len() + 96 < said.len());
    });
}
