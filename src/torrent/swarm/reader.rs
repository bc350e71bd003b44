//! Reading a file of a torrent while it comes: what is read next is asked for first.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Shared;
use crate::torrent::picker::MAX_READERS;
use crate::torrent::select::Span;
use crate::torrent::storage::{StorageError, lock};
use crate::torrent::wire::{BLOCK, BlockRef};

/// What is asked for ahead of a reader, bytes, and in pieces, at least.
const AHEAD: u64 = 8 << 20;
const AHEAD_PIECES: u32 = 4;

/// Bytes read from the disk at a time.
const CHUNK: u64 = 256 << 10;

/// Chunks that wait for whoever reads.
const WAITING: usize = 2;

/// Why there is no reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReaderError {
    /// It is not yet known what the torrent holds, or its files are being checked: wait for [`super::State::Downloading`].
    #[error("it is not known yet what the torrent holds")]
    NotYet,
    /// The torrent has no file of this number.
    #[error("no such file")]
    NoFile,
    /// Close another one first.
    #[error("too many readers")]
    TooMany,
    /// The torrent is over.
    #[error("the torrent is over")]
    Over,
}

/// The readers of a torrent.
#[derive(Debug, Default)]
pub(super) struct Readers {
    next: u32,
    /// Where each is: the pieces that it wants first.
    at: BTreeMap<u32, Range<u32>>,
    /// The piece that each waits for, and for how many ticks of the driver.
    waits: BTreeMap<u32, (u32, u32)>,
}

impl Readers {
    fn begin(&mut self) -> Option<u32> {
        if self.at.len() >= MAX_READERS {
            return None;
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        self.at.insert(id, 0..0);
        Some(id)
    }

    /// Where each is.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (u32, Range<u32>)> + '_ {
        self.at.iter().map(|(id, range)| (*id, range.clone()))
    }

    /// A second went by: gives the pieces for which somebody has waited for one at least.
    pub(super) fn tick(&mut self) -> BTreeSet<u32> {
        let waits = self.waits.values_mut().filter_map(|(piece, ticks)| {
            *ticks = ticks.saturating_add(1);
            (*ticks > 1).then_some(*piece)
        });
        waits.collect()
    }
}

/// A place among the readers, until it is dropped.
struct Place {
    shared: Arc<Shared>,
    id: u32,
}

impl Place {
    fn raise(&self, range: Range<u32>) {
        let work = &mut *lock(&self.shared.work);
        work.readers.at.insert(self.id, range.clone());
        if let Some(picker) = &mut work.picker {
            picker.raise(self.id, range);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let work = &mut *lock(&self.shared.work);
        work.readers.at.remove(&self.id);
        work.readers.waits.remove(&self.id);
        if let Some(picker) = &mut work.picker {
            picker.raise(self.id, 0..0);
        }
    }
}

/// Reads a file of a torrent that may still be on its way: waits for the pieces, and has those that come next asked for before all
/// others. A file that is skipped is not fetched for it: reading gives [`io::ErrorKind::NotFound`] where it is not there.
pub struct Reader {
    place: Arc<Place>,
    span: Span,
    at: u64,
    chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
    task: JoinHandle<()>,
    chunk: Vec<u8>,
    read: usize,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    /// Call within a tokio runtime.
    pub(super) fn new(shared: &Arc<Shared>, span: Span) -> Result<Self, ReaderError> {
        let id = lock(&shared.work).readers.begin();
        let place = Arc::new(Place {
            shared: Arc::clone(shared),
            id: id.ok_or(ReaderError::TooMany)?,
        });
        let (chunks, task) = begin(&place, span, 0);
        Ok(Self {
            place,
            span,
            at: 0,
            chunks,
            task,
            chunk: Vec::new(),
            read: 0,
        })
    }

    /// Bytes of the file.
    #[expect(
        clippy::len_without_is_empty,
        reason = "an empty file is read like any other"
    )]
    pub fn len(&self) -> u64 {
        self.span.len
    }

    /// Where it is in the file.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Goes on from this byte of the file; beyond its end nothing comes.
    pub fn seek(&mut self, at: u64) {
        self.task.abort();
        self.at = at;
        (self.chunk, self.read) = (Vec::new(), 0);
        (self.chunks, self.task) = begin(&self.place, self.span, at);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.read >= this.chunk.len() {
            match std::task::ready!(this.chunks.poll_recv(cx)) {
                Some(Ok(chunk)) => (this.chunk, this.read) = (chunk, 0),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Ok(())),
            }
        }
        let rest = this.chunk.get(this.read..).unwrap_or(&[]);
        let part = rest.get(..rest.len().min(buf.remaining())).unwrap_or(rest);
        buf.put_slice(part);
        this.read += part.len();
        this.at += part.len() as u64;
        Poll::Ready(Ok(()))
    }
}

fn begin(
    place: &Arc<Place>,
    span: Span,
    at: u64,
) -> (mpsc::Receiver<io::Result<Vec<u8>>>, JoinHandle<()>) {
    let (sender, chunks) = mpsc::channel(WAITING);
    let pump = Pump {
        place: Arc::clone(place),
        span,
        at,
    };
    (chunks, tokio::spawn(pump.run(sender)))
}

/// Reads ahead of a [`Reader`].
struct Pump {
    place: Arc<Place>,
    span: Span,
    at: u64,
}

impl Pump {
    async fn run(mut self, chunks: mpsc::Sender<io::Result<Vec<u8>>>) {
        while self.at < self.span.len {
            // A place in the queue first: what nobody takes yet is not asked for either.
            let Ok(permit) = chunks.reserve().await else {
                return;
            };
            let chunk = self.next().await;
            let failed = chunk.is_err();
            if let Ok(chunk) = &chunk {
                self.at += chunk.len() as u64;
            }
            permit.send(chunk);
            if failed {
                return;
            }
        }
    }

    /// Waits for the next bytes, and reads them.
    async fn next(&self) -> io::Result<Vec<u8>> {
        let shared = &self.place.shared;
        let (piece, begin, len, geometry_len) = loop {
            let mut news = std::pin::pin!(shared.news.notified());
            news.as_mut().enable();
            if lock(&shared.work).over {
                return Err(io::ErrorKind::NotConnected.into());
            }
            if let Some(torrent) = shared.torrent() {
                let geometry = torrent.storage.geometry();
                let piece_len = u64::from(geometry.piece_len.max(1));
                let from = self.span.start + self.at;
                // Below the number of pieces.
                let piece = (from / piece_len) as u32;
                let pieces = u32::try_from(AHEAD / piece_len).unwrap_or(u32::MAX);
                let end = piece.saturating_add(pieces.max(AHEAD_PIECES));
                let end = end.min(self.span.pieces(geometry.piece_len).end);
                self.place.raise(piece..end);
                let begin = from % piece_len;
                let rest = (piece_len - begin).min(self.span.len - self.at).min(CHUNK);
                let work = &mut *lock(&shared.work);
                let id = self.place.id;
                if let Some(picker) = &work.picker {
                    if picker.had().get(piece) {
                        work.readers.waits.remove(&id);
                        break (piece, begin, rest, torrent);
                    }
                    if !picker.needs(piece) {
                        return Err(io::ErrorKind::NotFound.into());
                    }
                }
                let wait = work.readers.waits.entry(id).or_insert((piece, 0));
                if wait.0 != piece {
                    *wait = (piece, 0);
                }
            }
            news.await;
        };
        let storage = geometry_len.storage;
        let read = move || {
            let mut out = Vec::new();
            let mut at = begin;
            // In parts of a block, which is what storage reads.
            while at < begin + len {
                let part = (begin + len - at).min(u64::from(BLOCK));
                let block = BlockRef {
                    index: piece,
                    // Within a piece.
                    begin: at as u32,
                    len: part as u32,
                };
                storage.read(block, &mut out)?;
                at += part;
            }
            Ok(out)
        };
        let done = tokio::task::spawn_blocking(read).await;
        let read: Result<Vec<u8>, StorageError> = done.map_err(io::Error::other)?;
        read.map_err(io::Error::other)
    }
}
