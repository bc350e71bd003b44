//! The blocking half of storage: writes segments, hashes pieces, reports.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::digest::PieceHasher;
use super::{
    BLOCK, Report, SEGMENT, SEGMENT_BLOCKS, Segment, Storage, StorageError, Suspects, full_mask,
    lock, short,
};
use crate::torrent::picker::BlockDigest;

/// Work for a shard, done in order, so that a check comes after all writes of its piece.
pub(super) enum Job {
    /// Write a segment, or the part of it that is there.
    Write {
        piece: u32,
        at: u32,
        segment: Segment,
    },
    /// All blocks were written: hash and report.
    Check { piece: u32 },
    /// Memory is short: give back what was kept for hashing, which is on disk.
    Shed,
}

/// A piece that is hashed while its segments come in.
struct Hashing {
    sha: PieceHasher,
    /// The next segment to hash.
    next: u32,
    /// Written segments that wait for earlier ones, as far as the budget allows.
    kept: BTreeMap<u32, Vec<u8>>,
}

/// What the one running worker of a shard owns.
#[derive(Default)]
pub(super) struct Worker {
    hashing: BTreeMap<u32, Hashing>,
    suspects: Suspects,
    scratch: Vec<u8>,
}

impl Worker {
    /// Whether it keeps anything that it could read back.
    pub(super) fn keeps(&self) -> bool {
        let mut pieces = self.hashing.values();
        pieces.any(|hashing| !hashing.kept.is_empty())
    }
}

impl Storage {
    /// Drains a shard's jobs.
    pub(super) fn work(self: Arc<Self>, shard: u32) {
        let Some(slot) = self.shards.get(shard as usize) else {
            return;
        };
        let mut worker = lock(&slot.worker);
        loop {
            let job = {
                let mut state = lock(&slot.state);
                let Some(job) = state.jobs.pop_front() else {
                    state.running = false;
                    drop(state);
                    self.settled.notify_waiters();
                    return;
                };
                job
            };
            match job {
                Job::Write { piece, at, segment } => self.write(&mut worker, piece, at, segment),
                Job::Check { piece } => self.check_piece(&mut worker, piece),
                Job::Shed => self.shed(&mut worker),
            }
        }
    }

    fn write(&self, worker: &mut Worker, piece: u32, at: u32, segment: Segment) {
        let done = self
            .shards
            .get((piece % super::SHARDS) as usize)
            .is_none_or(|slot| lock(&slot.state).done.get(piece));
        if done || self.closed.load(Ordering::Acquire) {
            return self.recycle(segment.data);
        }
        if let Err(error) = self.write_runs(piece, at, &segment) {
            self.recycle(segment.data);
            return self.lose(worker, piece, error);
        }
        let blocks = self.geometry().blocks_of(piece);
        let hashing = worker.hashing.entry(piece).or_insert_with(|| Hashing {
            sha: self.files.layout.hasher(piece),
            next: 0,
            kept: BTreeMap::new(),
        });
        if at < hashing.next {
            // What was hashed is not what is on disk now: start over, from the disk.
            hashing.sha = self.files.layout.hasher(piece);
            hashing.next = 0;
        }
        if let Some(old) = hashing.kept.remove(&at) {
            self.recycle(old);
        }
        if segment.mask != full_mask(blocks, at) {
            return self.recycle(segment.data);
        }
        if at > hashing.next && self.share.is_short() {
            return self.recycle(segment.data);
        }
        hashing.kept.insert(at, segment.data);
        while let Some(data) = hashing.kept.remove(&hashing.next) {
            hashing.sha.update(
                data.get(..self.segment_bytes(piece, hashing.next))
                    .unwrap_or(&[]),
            );
            hashing.next += 1;
            self.recycle(data);
        }
    }

    /// Gives back the memory of segments that wait for earlier ones: they are read back when their piece is complete.
    fn shed(&self, worker: &mut Worker) {
        for hashing in worker.hashing.values_mut() {
            let kept = std::mem::take(&mut hashing.kept);
            kept.into_values().for_each(|data| self.recycle(data));
        }
    }

    fn check_piece(&self, worker: &mut Worker, piece: u32) {
        let hashing = worker.hashing.remove(&piece);
        let (mut sha, next, mut kept) = match hashing {
            Some(h) => (h.sha, h.next, h.kept),
            None => (self.files.layout.hasher(piece), 0, BTreeMap::new()),
        };
        let segments = self.geometry().blocks_of(piece).div_ceil(SEGMENT_BLOCKS);
        let mut result = Ok(());
        for at in next..segments {
            let len = self.segment_bytes(piece, at);
            if let Some(data) = kept.remove(&at) {
                sha.update(data.get(..len).unwrap_or(&[]));
                self.recycle(data);
            } else if result.is_ok() {
                worker.scratch.resize(SEGMENT as usize, 0);
                let room = worker.scratch.get_mut(..len).unwrap_or(&mut []);
                result = self.files.read_at(self.segment_start(piece, at), room);
                sha.update(room);
            }
        }
        kept.into_values().for_each(|data| self.recycle(data));
        if let Err(error) = result {
            return self.lose(worker, piece, error);
        }
        let right = self.files.layout.is_right(piece, sha);
        let report = if right {
            if let Some(slot) = self.shards.get((piece % super::SHARDS) as usize) {
                lock(&slot.state).done.set(piece);
            }
            let digests = match worker.suspects.remove(&piece) {
                true => self.digests(piece),
                false => Vec::new(),
            };
            Report::Passed { piece, digests }
        } else {
            worker.suspects.insert(piece);
            Report::Failed {
                piece,
                digests: self.digests(piece),
            }
        };
        self.report(report);
    }

    /// Forgets a piece that the disk did not take.
    fn lose(&self, worker: &mut Worker, piece: u32, error: StorageError) {
        if let Some(hashing) = worker.hashing.remove(&piece) {
            hashing
                .kept
                .into_values()
                .for_each(|data| self.recycle(data));
        }
        let mut freed = Vec::new();
        if let Some(slot) = self.shards.get((piece % super::SHARDS) as usize) {
            let mut state = lock(&slot.state);
            if let Some(gathering) = state.gathering.remove(&piece) {
                freed.extend(gathering.segments.into_values().map(|s| s.data));
            }
            let jobs = std::mem::take(&mut state.jobs);
            for job in jobs {
                match job {
                    Job::Write {
                        piece: other,
                        segment,
                        ..
                    } if other == piece => {
                        freed.push(segment.data);
                    }
                    Job::Check { piece: other } if other == piece => {}
                    Job::Write { .. } | Job::Check { .. } | Job::Shed => state.jobs.push_back(job),
                }
            }
        }
        freed.into_iter().for_each(|data| self.recycle(data));
        self.report(Report::Lost { piece, error });
    }

    fn report(&self, report: Report) {
        // Nobody listens any more when the swarm was dropped: what is on disk is found by the next check.
        let _ = self.reports.blocking_send(report);
    }

    fn segment_start(&self, piece: u32, at: u32) -> u64 {
        self.files.layout.start_of(piece) + u64::from(at) * u64::from(SEGMENT)
    }

    fn segment_bytes(&self, piece: u32, at: u32) -> usize {
        self.geometry()
            .len_of(piece)
            .saturating_sub(at.saturating_mul(SEGMENT))
            .min(SEGMENT) as usize
    }

    fn write_runs(&self, piece: u32, at: u32, segment: &Segment) -> Result<(), StorageError> {
        let start = self.segment_start(piece, at);
        let bytes = self.segment_bytes(piece, at);
        let mut from = 0;
        while from < SEGMENT_BLOCKS {
            if segment.mask & (1 << from) == 0 {
                from += 1;
                continue;
            }
            let mut to = from;
            while to < SEGMENT_BLOCKS && segment.mask & (1 << to) != 0 {
                to += 1;
            }
            let first = (from * BLOCK) as usize;
            let last = ((to * BLOCK) as usize).min(bytes);
            let run = segment.data.get(first..last).unwrap_or(&[]);
            self.files.write_at(start + first as u64, run)?;
            from = to;
        }
        Ok(())
    }

    /// Digests of a piece's blocks as they are on disk; empty when it can't be read.
    fn digests(&self, piece: u32) -> Vec<BlockDigest> {
        short(&self.block_hashes(piece).unwrap_or_default())
    }
}
