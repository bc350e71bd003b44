//! Streams that come to a door of several torrents, each led to the torrent that it asks for.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::OnionDoor;
use crate::route::BoxStream;
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
    pub fn accept(&mut self, mut stream: BoxStream) {
        while self.unsorted.try_join_next().is_some() {}
        if self.unsorted.len() >= MAX_UNSORTED {
            return;
        }
        let doors = Arc::clone(&self.doors);
        self.unsorted.spawn(async move {
            if let Ok(Ok(Some((hash, said)))) = timeout(PATIENCE, asked(&mut stream)).await
                && let Some(door) = doors.get(&hash)
            {
                door.accept_begun(stream, said);
            }
        });
    }
}

impl std::fmt::Debug for Sorter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sorter")
    }
}

/// What the stream asks for, and what it said so far: the handshake's first bytes.
async fn asked(stream: &mut BoxStream) -> io::Result<Option<(InfoHash, Vec<u8>)>> {
    let mut said = [0; ASKED_LEN];
    stream.read_exact(&mut said).await?;
    let hash = Handshake::asked(&said).ok();
    Ok(hash.map(|hash| (hash, said.to_vec())))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::sync::{mpsc, watch};

    use super::super::{Command, Via};
    use super::*;

    /// Two torrents behind one door, and what comes to each.
    fn two() -> (Sorter, [mpsc::Receiver<Command>; 2]) {
        let (one, at_one) = mpsc::channel(4);
        let (two, at_two) = mpsc::channel(4);
        let doors = [(1, one), (2, two)].map(|(n, commands)| {
            let own = watch::Sender::new(Vec::new());
            let door = OnionDoor {
                commands,
                own,
                own_seed: watch::Sender::new(None),
                via: Via::Onion,
            };
            (InfoHash([n; 20]), door)
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
        let Some(Command::Accept(visitor)) = two.recv().await else {
            panic!("another command");
        };
        let (mut stream, mut said) = (visitor.stream, visitor.said);
        let mut rest = vec![0; 72 - said.len()];
        stream.read_exact(&mut rest).await.unwrap();
        said.extend(rest);
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
