//! Verified storage: blocks are gathered in memory, written in runs, hashed, and only then count as had.
//!
//! [`Storage::put`] copies a block once, into its segment. Full segments go to the shard's worker on a blocking thread,
//! which writes them and hashes them while they are warm. When the last block of a piece is in, the worker compares the
//! hash and sends a [`Report`]. Memory is bounded by a budget: [`Storage::ready`] makes readers wait.

mod budget;
mod digest;
mod error;
mod files;
mod hash;
mod holes;
mod read;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};

use budget::Share;
pub use budget::{DEFAULT_BUDGET, WriteBudget};
pub use digest::short;
pub use error::StorageError;
pub use files::FileMark;
use files::{Files, Layout};
pub use hash::hash_files;
use worker::{Job, Worker};

use super::metainfo::Info;
use super::picker::{Bits, BlockDigest, Geometry};
use super::v2::merkle::{Hash, sha256};
use super::wire::{BLOCK, BlockRef};

/// Blocks of a segment, the unit of memory and of writes: 256 KiB is large enough to make system calls cheap and
/// small enough that many peers can each fill one.
const SEGMENT_BLOCKS: u32 = 16;
const SEGMENT: u32 = SEGMENT_BLOCKS * BLOCK;

/// Pieces are spread over this many locks and workers.
const SHARDS: u32 = 4;

/// What the workers tell the swarm.
#[derive(Debug)]
pub enum Report {
    /// A piece is on disk and right. `digests` of its blocks when an earlier attempt had failed.
    Passed {
        /// The piece.
        piece: u32,
        /// Of its blocks, in order; else empty.
        digests: Vec<BlockDigest>,
    },
    /// A piece is wrong.
    Failed {
        /// The piece.
        piece: u32,
        /// Of its blocks, in order.
        digests: Vec<BlockDigest>,
    },
    /// A piece could not be written or read back; its blocks are gone.
    Lost {
        /// The piece.
        piece: u32,
        /// Why.
        error: StorageError,
    },
}

/// How storage is opened.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    /// The output folder.
    pub root: PathBuf,
    /// Memory for blocks that are not on disk yet; torrents may share it.
    pub budget: Arc<WriteBudget>,
    /// Whether files may be created and written.
    pub write: bool,
    /// Take the room on the disk before anything comes, where the file system can; else it is taken as blocks come.
    pub preallocate: bool,
}

struct Segment {
    data: Vec<u8>,
    mask: u16,
}

#[derive(Default)]
struct Gathering {
    /// Blocks that were put.
    here: Option<Bits>,
    segments: BTreeMap<u32, Segment>,
}

struct ShardState {
    gathering: BTreeMap<u32, Gathering>,
    jobs: VecDeque<Job>,
    running: bool,
    /// Verified pieces, which nothing may overwrite.
    done: Bits,
}

struct Shard {
    state: Mutex<ShardState>,
    /// Held by the one running worker of the shard.
    worker: Mutex<Worker>,
}

/// The storage of one torrent.
pub struct Storage {
    files: Files,
    shards: Vec<Shard>,
    /// Memory of segments.
    share: Share,
    /// A worker came to its end.
    settled: Notify,
    reports: mpsc::Sender<Report>,
    segment_len: usize,
    preallocate: bool,
    /// The swarm is gone: what waits is not written any more.
    closed: AtomicBool,
    /// Held as long as anything may still be written.
    _lock: Option<File>,
}

/// Locks, also after a panic elsewhere: all guarded data stays consistent between statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Storage {
    /// Opens the output folder. Blocks. Nothing in it is trusted until [`Storage::set_done`]. `lock` is kept until the
    /// last write is over.
    ///
    /// # Errors
    /// The folder can't be used: tell the user, with the hint.
    pub fn open(
        info: &Info,
        options: &StorageOptions,
        reports: mpsc::Sender<Report>,
        lock: Option<File>,
    ) -> Result<Arc<Self>, StorageError> {
        let layout = Layout::new(info)?;
        let geometry = layout.geometry.clone();
        let files = Files::new(&options.root, layout, options.write)?;
        let shard = || Shard {
            state: Mutex::new(ShardState {
                gathering: BTreeMap::new(),
                jobs: VecDeque::new(),
                running: false,
                done: Bits::new(geometry.pieces),
            }),
            worker: Mutex::default(),
        };
        let storage = Arc::new(Self {
            files,
            shards: (0..SHARDS).map(|_| shard()).collect(),
            share: Share::new(Arc::clone(&options.budget)),
            settled: Notify::new(),
            reports,
            segment_len: SEGMENT.min(geometry.piece_len.next_multiple_of(BLOCK)) as usize,
            preallocate: options.preallocate,
            closed: AtomicBool::new(false),
            _lock: lock,
        });
        options.budget.join(&storage);
        Ok(storage)
    }

    /// Says which pieces are verified; they are never written again.
    pub fn set_done(&self, done: &Bits) {
        for shard in &self.shards {
            lock(&shard.state).done = done.clone();
        }
    }

    /// How the torrent is cut.
    pub fn geometry(&self) -> &Geometry {
        &self.files.layout.geometry
    }

    /// Takes in a block that the picker accepted. Copies it; never blocks on the disk. Call within a tokio runtime.
    pub fn put(self: &Arc<Self>, block: BlockRef, data: &[u8]) {
        let geometry = self.geometry();
        let Some(number) = geometry.number_of(block) else {
            return;
        };
        let shard = block.index % SHARDS;
        let Some(slot) = self.shards.get(shard as usize) else {
            return;
        };
        let blocks = geometry.blocks_of(block.index);
        let mut state = lock(&slot.state);
        let state = &mut *state;
        if state.done.get(block.index) || data.len() != block.len as usize {
            return;
        }
        let gathering = state.gathering.entry(block.index).or_default();
        let here = gathering.here.get_or_insert_with(|| Bits::new(blocks));
        here.set(number);
        let complete = here.is_full();
        let at = number / SEGMENT_BLOCKS;
        let segment = gathering.segments.entry(at).or_insert_with(|| Segment {
            data: self.buffer(),
            mask: 0,
        });
        let start = (number % SEGMENT_BLOCKS * BLOCK) as usize;
        if let Some(room) = segment.data.get_mut(start..start + data.len()) {
            room.copy_from_slice(data);
            segment.mask |= 1 << (number % SEGMENT_BLOCKS);
        }
        if segment.mask == full_mask(blocks, at)
            && let Some(segment) = gathering.segments.remove(&at)
        {
            state.jobs.push_back(Job::Write {
                piece: block.index,
                at,
                segment,
            });
        }
        if complete {
            let rest = state.gathering.remove(&block.index).unwrap_or_default();
            for (at, segment) in rest.segments {
                state.jobs.push_back(Job::Write {
                    piece: block.index,
                    at,
                    segment,
                });
            }
            state.jobs.push_back(Job::Check { piece: block.index });
        }
        self.start(shard, state);
    }

    /// Tells whether more may be read from peers. If not, wait for [`Storage::ready`].
    pub fn has_room(&self) -> bool {
        self.share.has_room()
    }

    /// Waits until there is room in the memory budget. Call before reading more from a peer, within a tokio runtime.
    pub async fn ready(&self) {
        self.share.ready().await;
    }

    /// Sends what is gathered to the disk, complete or not, to free its memory, and has what is kept in memory only to be hashed
    /// dropped.
    fn write_gathered(self: &Arc<Self>) {
        for (number, slot) in (0..).zip(&self.shards) {
            let mut state = lock(&slot.state);
            let state = &mut *state;
            for (&piece, gathering) in &mut state.gathering {
                for (at, segment) in std::mem::take(&mut gathering.segments) {
                    state.jobs.push_back(Job::Write { piece, at, segment });
                }
            }
            // A worker that is at work may keep something by the time it is through.
            let keeps = !state.jobs.is_empty()
                || slot.worker.try_lock().map_or(true, |worker| worker.keeps());
            if keeps && !matches!(state.jobs.back(), Some(Job::Shed)) {
                state.jobs.push_back(Job::Shed);
            }
            self.start(number, state);
        }
    }

    /// Reads a block of a verified piece to the end of `out`. Blocks.
    ///
    /// # Errors
    /// The file is gone or can't be read: do not serve it.
    pub fn read(&self, block: BlockRef, out: &mut Vec<u8>) -> Result<(), StorageError> {
        if !self.geometry().contains(block) {
            return Err(StorageError::Missing);
        }
        let start = out.len();
        out.resize(start + block.len as usize, 0);
        let at = self.files.layout.start_of(block.index) + u64::from(block.begin);
        let result = match out.get_mut(start..) {
            Some(room) => self.files.read_at(at, room),
            None => Ok(()),
        };
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    /// Makes everything written so far survive a power cut, and says what the files look like that this concerns. Blocks.
    ///
    /// # Errors
    /// Nothing new may be recorded as had; pause and tell the user.
    pub fn sync(&self) -> Result<Vec<(usize, FileMark)>, StorageError> {
        self.files.sync()
    }

    /// The same, and takes from the pieces that are to be claimed those of files of which it once failed: what was lost then is
    /// told once, and the next attempt succeeds without it. Nor is it said what such files look like. Blocks.
    ///
    /// # Errors
    /// Nothing new may be recorded as had; pause and tell the user.
    pub fn sync_and_claim(&self, had: &mut Bits) -> Result<Vec<(usize, FileMark)>, StorageError> {
        let mut changed = self.files.sync()?;
        let lost = self.files.unsynced();
        for piece in lost.iter().flat_map(|&file| self.pieces_of(file)) {
            had.clear(piece);
        }
        changed.retain(|(file, _)| !lost.contains(file));
        Ok(changed)
    }

    /// Makes everything that was found in the files survive a power cut, whoever wrote it. Blocks.
    ///
    /// # Errors
    /// What was found may not be recorded as had; tell the user.
    pub fn sync_found(&self) -> Result<(), StorageError> {
        self.files.sync_found()
    }

    /// SHA-256 of each block of a piece as it is on disk: of version 2, the leaves of its tree. Blocks.
    ///
    /// # Errors
    /// The file is gone or can't be read.
    pub fn block_hashes(&self, piece: u32) -> Result<Vec<Hash>, StorageError> {
        let geometry = self.geometry();
        let mut buffer = Vec::with_capacity(BLOCK as usize);
        let hash = |number| {
            buffer.clear();
            self.read(geometry.block(piece, number), &mut buffer)?;
            Ok(sha256(&buffer))
        };
        (0..geometry.blocks_of(piece)).map(hash).collect()
    }

    /// The pieces that hold a part of a file.
    pub fn pieces_of(&self, file: usize) -> Range<u32> {
        self.files.layout.pieces_of(file)
    }

    /// What the files look like now. Blocks.
    ///
    /// # Errors
    /// The folder can't be read: tell the user.
    pub fn marks(&self) -> Result<Vec<Option<FileMark>>, StorageError> {
        self.files.marks()
    }

    /// The same for a record: a file of which writing to the disk once failed has no mark, so that it is checked next time. Blocks.
    ///
    /// # Errors
    /// The folder can't be read: tell the user.
    pub fn marks_to_claim(&self) -> Result<Vec<Option<FileMark>>, StorageError> {
        let mut marks = self.files.marks()?;
        for file in self.files.unsynced() {
            if let Some(mark) = marks.get_mut(file) {
                *mark = None;
            }
        }
        Ok(marks)
    }

    /// Creates what no piece brings (empty files), cuts what is too long, and takes the room for files of which all pieces are
    /// `wanted`, where that was asked for. The files must be known to be this torrent's. Blocks.
    ///
    /// # Errors
    /// The folder can't be used: tell the user, with the hint.
    pub fn prepare(&self, wanted: impl Fn(u32) -> bool) -> Result<(), StorageError> {
        let whole = |file| self.preallocate && self.pieces_of(file).all(&wanted);
        self.files.prepare(whole)
    }

    /// Tells whether any of the torrent's files exists with content. Blocks.
    ///
    /// # Errors
    /// The folder can't be read: tell the user.
    pub fn any_exists(&self) -> Result<bool, StorageError> {
        self.files.any_exists()
    }

    /// Tells whether a file stands there that is not this torrent's: nothing in it verified, or it is longer. Blocks.
    ///
    /// # Errors
    /// The folder can't be read: tell the user.
    pub fn has_foreign(&self, had: &Bits) -> Result<bool, StorageError> {
        self.files.has_foreign(|piece| had.get(piece))
    }

    /// Hashes `pieces` from disk on `threads` threads and gives those that are right. `progress` counts pieces looked at.
    /// Blocks. Pieces that can't be read are not had.
    pub fn check(&self, pieces: &Bits, threads: usize, progress: &AtomicU32) -> Bits {
        hash::check(&self.files, pieces, threads, progress)
    }

    /// Drops what waits to be written: the swarm is gone.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Waits until everything put so far is written and checked.
    pub async fn idle(&self) {
        loop {
            let mut settled = std::pin::pin!(self.settled.notified());
            settled.as_mut().enable();
            if self.shards.iter().all(|shard| !lock(&shard.state).running) {
                return;
            }
            settled.await;
        }
    }

    fn buffer(&self) -> Vec<u8> {
        self.share.buffer(self.segment_len)
    }

    fn recycle(&self, buffer: Vec<u8>) {
        self.share.recycle(buffer);
    }

    /// Starts the shard's worker if there is work and none runs.
    fn start(self: &Arc<Self>, shard: u32, state: &mut ShardState) {
        if !state.running && !state.jobs.is_empty() {
            state.running = true;
            let storage = Arc::clone(self);
            tokio::task::spawn_blocking(move || storage.work(shard));
        }
    }
}

/// All blocks of segment `at` of a piece of `blocks` blocks.
fn full_mask(blocks: u32, at: u32) -> u16 {
    let count = blocks
        .saturating_sub(at * SEGMENT_BLOCKS)
        .min(SEGMENT_BLOCKS);
    // count is at most 16.
    ((1_u32 << count) - 1) as u16
}

/// Makes every write below an output folder fail, or work again.
#[cfg(test)]
pub(crate) fn set_fault(root: &std::path::Path, fault: Option<StorageError>) {
    let mut faults = lock(&files::FAULTS);
    match fault {
        Some(error) => faults.insert(root.to_owned(), error),
        None => faults.remove(root),
    };
}

/// Makes every attempt to bring an output folder's files to the disk fail, or work again.
#[cfg(test)]
pub(crate) fn set_sync_fault(root: &std::path::Path, fault: bool) {
    let mut faults = lock(&files::SYNC_FAULTS);
    if fault {
        faults.insert(root.to_owned());
    } else {
        faults.remove(root);
    }
}

/// Pieces that failed before and whose digests are wanted when they pass.
type Suspects = BTreeSet<u32>;
