//! Streams that come to a door of several torrents, each led to the torrent that it asks for.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::OnionDoor;
use crate::route::{BoxStream, ByteStream};
use crate::torrent::infohash::InfoHash;
use crate::torrent::wire::{ASKED_LEN, Handshake};

/// Streams that have not yet said what they want, at most. Whoever says nothing holds one of these places for [`PATIENCE`].
const MAX_UNSORTED: usize = 128;

/// How long a stream may take to say it: a peer's handshake is the first thing that it sends.
const PATIENCE: Duration = Duration::from_secs(30);

/// Several torrents behind one door.
pub struct Sorter {
    doors: Arc<BTreeMap<InfoHash, OnionDoor>>,
    unsorted: JoinSet<()>,
}

impl Sorter {
    /// A door to all of these.
    pub fn new(doors: impl IntoIterator<Item = (InfoHash, OnionDoor)>) -> Self {
        Self {
            doors: Arc::new(doors.into_iter().collect()),
            unsorted: JoinSet::new(),
        }
    }

    /// Hands in a stream that a peer opened. It is dropped when too many have not said what they want, and when it asks for
    /// none of these torrents: then nothing was said to it. Call within a tokio runtime.
    pub fn accept(&mut self, stream: BoxStream) {
        while self.unsorted.try_join_next().is_some() {}
        if self.unsorted.len() >= MAX_UNSORTED {
            return;
        }
        let doors = Arc::clone(&self.doors);
        self.unsorted.spawn(async move {
            if let Ok(Ok(Some((hash, stream)))) = timeout(PATIENCE, asked(stream)).await
                && let Some(door) = doors.get(&hash)
            {
                door.accept(stream);
            }
        });
    }
}

impl std::fmt::Debug for Sorter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sorter")
    }
}

/// What the stream asks for, and the stream as it was.
async fn asked(mut stream: BoxStream) -> io::Result<Option<(InfoHash, BoxStream)>> {
    let mut said = [0; ASKED_LEN];
    stream.read_exact(&mut said).await?;
    let hash = Handshake::asked(&said).ok();
    Ok(hash.map(|hash| {
        let again: BoxStream = Box::new(Again {
            said,
            read: 0,
            stream,
        });
        (hash, again)
    }))
}

/// A stream whose first bytes are read once more.
struct Again {
    said: [u8; ASKED_LEN],
    read: usize,
    stream: BoxStream,
}

impl AsyncRead for Again {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.said.get(self.read..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let n = left.len().min(buf.remaining());
        buf.put_slice(left.get(..n).unwrap_or_default());
        self.read += n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Again {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl ByteStream for Again {
    fn reset_on_drop(&mut self) {
        self.stream.reset_on_drop();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::sync::{mpsc, watch};

    use super::super::Command;
    use super::*;

    /// Two torrents behind one door, and what comes to each.
    fn two() -> (Sorter, [mpsc::Receiver<Command>; 2]) {
        let (one, at_one) = mpsc::channel(4);
        let (two, at_two) = mpsc::channel(4);
        let doors = [(1, one), (2, two)].map(|(n, commands)| {
            let own = watch::Sender::new(Vec::new());
            (InfoHash([n; 20]), OnionDoor { commands, own })
        });
        (Sorter::new(doors), [at_one, at_two])
    }

    fn visitor(sorter: &mut Sorter) -> DuplexStream {
        let (far, near) = duplex(1000);
        sorter.accept(Box::new(near));
        far
    }

    fn handshake(hash: u8) -> Vec<u8> {
        let said = Handshake::new(InfoHash([hash; 20]), [9; 20]);
        said.encode().to_vec()
    }

    #[tokio::test]
    async fn a_stream_comes_whole_to_the_torrent_that_it_asks_for() {
        let (mut sorter, [_one, mut two]) = two();
        let mut far = visitor(&mut sorter);
        // In pieces, and with what follows, as it comes over a network.
        for part in [&handshake(2)[..7], &handshake(2)[7..], b"more"] {
            far.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        let Some(Command::Accept(mut stream, _)) = two.recv().await else {
            panic!("another command");
        };
        let mut said = vec![0; 72];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(said, [&handshake(2)[..], b"more"].concat());
        stream.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        far.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_nothing_of_ours_learns_nothing() {
        let (mut sorter, _doors) = two();
        for said in [&handshake(3)[..], &[7; 68], b"", b"\x13BitTorrent protocol"] {
            let mut far = visitor(&mut sorter);
            far.write_all(said).await.unwrap();
            let mut answer = Vec::new();
            far.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_say_nothing_are_bounded_and_give_their_places_back() {
        let (mut sorter, [mut one, _two]) = two();
        let silent: Vec<_> = (0..MAX_UNSORTED).map(|_| visitor(&mut sorter)).collect();
        let mut beyond = visitor(&mut sorter);
        assert_eq!(beyond.read(&mut [0]).await.unwrap(), 0, "no place");
        tokio::time::sleep(PATIENCE * 2).await;
        let mut far = visitor(&mut sorter);
        far.write_all(&handshake(1)).await.unwrap();
        assert!(one.recv().await.is_some());
        drop(silent);
    }
}
