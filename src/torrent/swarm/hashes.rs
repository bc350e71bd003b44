//! A connection's part in hashes of trees (BEP 52): asking for what is missing, and giving what is known.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::connection::{Connection, News};
use super::{Shared, Torrent};
use crate::torrent::peer::{CloseReason, Peer};
use crate::torrent::picker::PeerKey;
use crate::torrent::storage::{lock, short};
use crate::torrent::v2::Answer;
use crate::torrent::v2::fetch::Outcome;
use crate::torrent::v2::merkle::Hash;
use crate::torrent::v2::request::HashRequest;

/// Requests for which a piece has to be read that wait, at most; those beyond are refused. One is begun each second: reading a piece
/// costs us a thousand times what asking costs the peer.
const MAX_WAITING: usize = 8;

/// Pieces of one torrent that are read at a time for such requests, whoever asks: no number of peers makes it more.
pub(super) const READ_AT_ONCE: usize = 1;

/// Requests of one peer for which a piece has to be read.
#[derive(Default)]
pub(super) struct Hashing {
    waiting: VecDeque<(u32, HashRequest)>,
    /// The next may begin.
    pub(super) due: bool,
}

/// One of them at work.
pub(super) type Job = JoinHandle<(HashRequest, Option<Vec<Hash>>)>;

impl Connection {
    /// Asks for the hashes of pieces, while they are not known.
    pub(super) fn ask_layers(&mut self) {
        if self.torrent.is_some() {
            return;
        }
        let mut work = lock(&self.shared.work);
        let Some(layers) = &mut work.layers else {
            return;
        };
        let now = tokio::time::Instant::now().into_std();
        while self.peer.name() == Some(layers.name())
            && let Some(request) = layers.next(now, self.key)
        {
            self.peer.ask_hashes(request);
        }
    }

    /// Asks for the hashes of the blocks of pieces that failed.
    pub(super) fn ask_blocks(&mut self) {
        let v2 = self.torrent.as_ref().and_then(|t| t.info.v2.as_ref());
        let name = v2.map(|v2| v2.hash.truncated());
        let mut work = lock(&self.shared.work);
        let (Some(have), true) = (
            self.peer.pieces(),
            name.is_some() && self.peer.name() == name,
        ) else {
            return;
        };
        let now = tokio::time::Instant::now().into_std();
        if let Some(request) = work.doubts.next(now, self.key, |piece| have.get(piece)) {
            self.peer.ask_hashes(request);
        }
    }

    /// Begins with the next request for which a piece has to be read, unless one is read for another peer.
    ///
    /// # Errors
    /// Too many were refused.
    pub(super) fn hash_next(&mut self, job: &mut Option<Job>) -> Result<(), CloseReason> {
        if job.is_some() || !self.hashing.due {
            return Ok(());
        }
        let (Some(torrent), Some(&(piece, request))) =
            (self.torrent.clone(), self.hashing.waiting.front())
        else {
            self.hashing.due = false;
            return Ok(());
        };
        let had = lock(&self.shared.work)
            .picker
            .as_ref()
            .is_some_and(|picker| picker.had().get(piece));
        if had {
            *job = begin(&self.shared.hashing, move || {
                let v2 = torrent.info.v2.as_ref();
                let hashes = v2
                    .zip(torrent.storage.block_hashes(piece).ok())
                    .and_then(|(v2, leaves)| v2.answer_with(&request, leaves));
                (request, hashes)
            });
            if job.is_none() {
                // Tried again at the next turn.
                return Ok(());
            }
        }
        self.hashing.due = false;
        self.hashing.waiting.pop_front();
        if had {
            return Ok(());
        }
        self.peer.give_hashes(request, None)
    }
}

/// Begins to read a piece, where there is a permit. It is held until the reading is over, whatever became of the connection: who
/// comes again and again starts no more.
fn begin(
    permits: &Arc<Semaphore>,
    work: impl FnOnce() -> (HashRequest, Option<Vec<Hash>>) + Send + 'static,
) -> Option<Job> {
    let permit = Arc::clone(permits).try_acquire_owned().ok()?;
    Some(tokio::task::spawn_blocking(move || {
        let done = work();
        drop(permit);
        done
    }))
}

/// Waits for a job, if there is one. Inner `None`: it broke, and the peer waits in vain.
pub(super) async fn hashed(job: &mut Option<Job>) -> Option<(HashRequest, Option<Vec<Hash>>)> {
    match job {
        Some(handle) => handle.await.ok(),
        None => std::future::pending().await,
    }
}

/// Answers a request, or lets it wait for [`Connection::hash_next`]. A piece that has to be read costs the peer as much of its share as
/// the hashes of all its blocks, however few it asks for.
///
/// # Errors
/// Too many were refused.
pub(super) fn answer_hashes(
    hashing: &mut Hashing,
    peer: &mut Peer,
    torrent: Option<&Torrent>,
    request: HashRequest,
) -> Result<(), CloseReason> {
    let Some(torrent) = torrent.filter(|_| peer.may_have_hashes(&request)) else {
        return peer.give_hashes(request, None);
    };
    let v2 = torrent.info.v2.as_ref();
    match v2.map_or(Answer::Reject, |v2| v2.answer(&request)) {
        Answer::Hashes(hashes) => peer.give_hashes(request, Some(&hashes)),
        Answer::NeedsPiece(piece) if hashing.waiting.len() < MAX_WAITING => {
            let blocks = torrent.storage.geometry().blocks_of(piece);
            if !peer.charge_hashes(u64::from(blocks) * 32) {
                return peer.give_hashes(request, None);
            }
            hashing.waiting.push_back((piece, request));
            Ok(())
        }
        Answer::NeedsPiece(_) | Answer::Reject => peer.give_hashes(request, None),
    }
}

/// Takes in hashes; what nobody asked for is passed over.
pub(super) fn hashes_came(
    shared: &Shared,
    torrent: Option<&Torrent>,
    key: PeerKey,
    request: &HashRequest,
    hashes: &[Hash],
) -> Option<News> {
    let mut work = lock(&shared.work);
    let v2 = torrent.and_then(|torrent| torrent.info.v2.as_ref());
    if let Some(v2) = v2 {
        let piece = work.doubts.take(key, request)?;
        if !v2.proves(request, hashes) {
            return Some(News::Liars(vec![key]));
        }
        let right = short(hashes);
        let liars = work.picker.as_mut()?.blame(piece, &right);
        return Some(News::Liars(liars));
    }
    match work.layers.as_mut()?.received(key, request, hashes) {
        Outcome::More => None,
        Outcome::Done(files) => Some(News::Layers(files)),
        Outcome::Liar => Some(News::Liars(vec![key])),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn one_piece_is_read_at_a_time_though_who_asked_is_gone() {
        let request = HashRequest {
            root: [1; 32],
            base: 0,
            index: 0,
            count: 2,
            proofs: 0,
        };
        let permits = Arc::new(Semaphore::new(READ_AT_ONCE));
        let (go, going) = std::sync::mpsc::sync_channel::<()>(1);
        let (begun, begins) = tokio::sync::oneshot::channel();
        let slow = move || {
            begun.send(()).unwrap();
            going.recv().unwrap();
            (request, None)
        };
        let first = begin(&permits, slow).unwrap();
        begins.await.unwrap();
        assert!(begin(&permits, move || (request, None)).is_none());
        // The connection ends.
        first.abort();
        drop(first);
        tokio::task::yield_now().await;
        assert!(begin(&permits, move || (request, None)).is_none());
        go.send(()).unwrap();
        drop(permits.acquire().await.unwrap());
        let next = begin(&permits, move || (request, None)).unwrap();
        assert_eq!(next.await.unwrap(), (request, None));
    }
}
