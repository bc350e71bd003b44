//! What goes over the streams of peers: messages, and the exchange that encrypts them.

use hushswarm::torrent::extension::{self, Exchange};
use hushswarm::torrent::infohash::InfoHash;
use hushswarm::torrent::mse;
use hushswarm::torrent::wire::{BlockRef, MessageRef};
use hushswarm_fuzz::targets::{HASH, rng};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::{Seeds, some_peers};

/// What either side says to one that the target plays: the target's first byte names that side.
pub fn encrypted() -> Seeds {
    let (to_answerer, _) = exchanged(StdRng::seed_from_u64(8), rng());
    let (_, to_asker) = exchanged(rng(), StdRng::seed_from_u64(8));
    vec![
        ("asks", [vec![0], to_answerer].concat()),
        ("answers", [vec![1], to_asker].concat()),
    ]
}

/// What the one who asks says, and the one who answers.
fn exchanged(mut asks: StdRng, mut answers: StdRng) -> (Vec<u8>, Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(async {
        let (near, mut up) = duplex(1 << 16);
        let (mut down, far) = duplex(1 << 16);
        let ask = async move {
            let stream = mse::initiate(Box::new(near), InfoHash(HASH), &mut asks);
            let mut stream = stream.await.expect("a key");
            stream.write_all(b"first").await.expect("room");
            stream.read_exact(&mut [0; 6]).await.expect("an answer");
        };
        let answer = async move {
            let known = std::iter::once(InfoHash(HASH));
            let answered = mse::answer(Box::new(far), Vec::new(), known, &mut answers);
            let (_, mut stream) = answered.await.expect("a request");
            stream.read_exact(&mut [0; 5]).await.expect("first bytes");
            stream.write_all(b"answer").await.expect("room");
            stream.flush().await.expect("room");
        };
        let carry = async move {
            let (mut said, mut answered) = (Vec::new(), Vec::new());
            let (mut one, mut other) = ([0; 999], [0; 999]);
            loop {
                tokio::select! {
                    Ok(len) = up.read(&mut one) => {
                        said.extend(&one[..len]);
                        if len == 0 || down.write_all(&one[..len]).await.is_err() {
                            return (said, answered);
                        }
                    }
                    Ok(len) = down.read(&mut other) => {
                        answered.extend(&other[..len]);
                        if len == 0 || up.write_all(&other[..len]).await.is_err() {
                            return (said, answered);
                        }
                    }
                }
            }
        };
        tokio::join!(ask, answer, carry).2
    })
}

/// Messages of the peer wire, as two peers exchange them.
pub fn messages() -> Vec<u8> {
    let mut out = Vec::new();
    let block = BlockRef {
        index: 0,
        begin: 0,
        len: 16384,
    };
    let handshake = extension::handshake(Some(20_000), Exchange::Public);
    for message in [
        MessageRef::Bitfield(&[0xf0]),
        MessageRef::Extended {
            id: 0,
            payload: &handshake,
        },
        MessageRef::Extended {
            id: extension::UT_PEX,
            payload: &some_peers().encode(),
        },
        MessageRef::Unchoke,
        MessageRef::Interested,
        MessageRef::Have(2),
        MessageRef::Request(block),
        MessageRef::Cancel(block),
        MessageRef::KeepAlive,
        MessageRef::Piece {
            index: 0,
            begin: 0,
            data: &[1; 64],
        },
        MessageRef::Choke,
    ] {
        message.encode(&mut out);
    }
    out
}

/// Of the fast extension (BEP 6).
pub fn fast_messages() -> Vec<u8> {
    let mut out = Vec::new();
    let block = |index, begin| BlockRef {
        index,
        begin,
        len: 16384,
    };
    for message in [
        MessageRef::HaveAll,
        MessageRef::AllowedFast(0),
        MessageRef::AllowedFast(2),
        MessageRef::Suggest(1),
        MessageRef::Interested,
        MessageRef::Request(block(0, 0)),
        MessageRef::Request(block(1, 16384)),
        MessageRef::Cancel(block(1, 16384)),
        MessageRef::Reject(block(0, 0)),
        MessageRef::Unchoke,
        MessageRef::Choke,
        MessageRef::Reject(block(3, 0)),
        MessageRef::HaveNone,
    ] {
        message.encode(&mut out);
    }
    out
}

/// What players ask of `hushswarm stream`, where the token is of zeros.
pub fn players() -> Seeds {
    let path = "/AAAAAAAAAAAAAAAAAAAAAA/film.mkv";
    let head =
        |method: &str, lines: &str| format!("{method} {path} HTTP/1.1\r\n{lines}").into_bytes();
    vec![
        (
            "part",
            head(
                "GET",
                "Host: 127.0.0.1:4000\r\nUser-Agent: player\r\nRange: bytes=10-99\r\nIf-Range: \"tag\"",
            ),
        ),
        (
            "rest",
            head("HEAD", "Host: localhost:4000\r\nRange: bytes=-5"),
        ),
        (
            "page",
            head(
                "GET",
                "Host: 127.0.0.1:4000\r\nOrigin: http://a.test\r\nSec-Fetch-Site: cross-site",
            ),
        ),
    ]
}
