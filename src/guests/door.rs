//! The door between a program's BitTorrent client and a hidden swarm. Both ways only a handshake (BEP 3) that names the swarm gets through:
//! who visits one torrent of a client can't ask for another through the same door, and so can't learn that both are one
//! client's. A handshake that hides what it asks for (message stream encryption) names nothing, and so is turned away; clients
//! then try the plain one. Nobody reads it on the way: a meeting is sealed from end to end.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use crate::net::{BoxFuture, BoxStream};
use crate::torrent::wire::{ASKED_LEN, Handshake};

/// How long who connects may take to say what it wants: a handshake is the first thing that a peer sends.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that a program may say before the peer is met; a handshake and what most send with it. Who says more is not waited for with
/// more memory: that he goes is seen later.
const MAX_SAID: usize = 16 << 10;

/// Reaches a program's listening port.
pub trait Doorstep: Send + Sync + 'static {
    /// Connects to this port of the loopback that the program has, from this address, which is a loopback one.
    ///
    /// # Errors
    /// Nobody listens there.
    fn connect(&self, from: Ipv4Addr, port: u16) -> BoxFuture<'_, io::Result<BoxStream>>;
}

/// A program's port, until nobody listens there. What a program opens there later may be anything.
pub(super) struct Watched {
    pub(super) doorstep: Arc<dyn Doorstep>,
    pub(super) open: Arc<AtomicBool>,
}

impl Doorstep for Watched {
    fn connect(&self, from: Ipv4Addr, port: u16) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let connected = self.doorstep.connect(from, port).await;
            let kind = connected.as_ref().err().map(io::Error::kind);
            if kind == Some(io::ErrorKind::ConnectionRefused) {
                self.open.store(false, Ordering::Relaxed);
            }
            connected
        })
    }
}

/// Reads the beginning of a handshake; gives it where it names this torrent.
pub(super) async fn asked(
    stream: &mut (impl AsyncRead + Unpin),
    hash: &[u8; 20],
) -> Option<Vec<u8>> {
    let mut said = [0; ASKED_LEN];
    let read = timeout(PATIENCE, stream.read_exact(&mut said)).await;
    read.ok()?.ok()?;
    let named = Handshake::asked(&said).ok()?;
    (named.0 == *hash).then(|| said.to_vec())
}

/// Waits until a program has gone, and keeps what it says meanwhile.
pub(super) async fn gone(stream: &mut (impl AsyncRead + Unpin), said: &mut Vec<u8>) {
    let mut chunk = [0; 1024];
    while said.len() < MAX_SAID {
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(n) => said.extend_from_slice(&chunk[..n]),
        }
    }
    std::future::pending().await
}

/// An address for a visitor: clients take one peer of an address. Not of 127.0.0.0/10, where services stand.
pub(super) fn visitors_address() -> Ipv4Addr {
    let mut rng = rand::rng();
    Ipv4Addr::new(
        127,
        rng.random_range(64..128),
        rng.random_range(0..=255),
        rng.random_range(1..255),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::torrent::infohash::InfoHash;

    #[tokio::test]
    async fn only_a_handshake_for_this_torrent_is_let_through() {
        let handshake = |hash| {
            let handshake = Handshake {
                hash: InfoHash([hash; 20]),
                peer_id: [9; 20],
                reserved: [0; 8],
            };
            handshake.encode()
        };
        let said = handshake(1);
        let mut stream = &said[..];
        let begun = asked(&mut stream, &[1; 20]).await.unwrap();
        assert_eq!([&begun[..], stream].concat(), said, "not a byte is lost");
        assert_eq!(asked(&mut &handshake(2)[..], &[1; 20]).await, None);
        assert_eq!(
            asked(&mut &[0xa5; 96][..], &[1; 20]).await,
            None,
            "encrypted"
        );
        assert_eq!(asked(&mut &said[..47], &[1; 20]).await, None, "cut off");
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_not_waited_for() {
        let (mut near, _far) = tokio::io::duplex(64);
        assert_eq!(asked(&mut near, &[1; 20]).await, None);
    }

    #[tokio::test]
    async fn who_goes_is_noticed_and_what_it_said_is_kept() {
        use tokio::io::AsyncWriteExt as _;
        let (mut near, mut far) = tokio::io::duplex(64 << 10);
        far.write_all(&[7; 3000]).await.unwrap();
        drop(far);
        let mut said = vec![1; 48];
        gone(&mut near, &mut said).await;
        assert_eq!(said, [vec![1; 48], vec![7; 3000]].concat());
    }

    #[test]
    fn visitors_come_from_loopback_and_from_no_service() {
        for _ in 0..1000 {
            let ip = visitors_address();
            assert!(ip.is_loopback() && ip.octets()[1] >= 64);
        }
    }
}
