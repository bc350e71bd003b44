//! From a torrent to storage that knows what is already there. All of it blocks.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rand::seq::IteratorRandom;
use tokio::sync::mpsc;

use crate::torrent::metainfo::Info;
use crate::torrent::picker::{Bits, Geometry};
use crate::torrent::resume::{self, Record, Store};
use crate::torrent::storage::{FileMark, Report, Storage, StorageError, StorageOptions};

/// Pieces of a trusted record that are hashed all the same: enough to notice a disk or a hand that changed many without
/// touching the times.
const SAMPLE: usize = 16;

/// A run that is killed has written for at most this long since its last record, which it makes anew every few seconds. Files that
/// are newer were changed by somebody else, and are checked.
const GRACE: Duration = Duration::from_secs(30);

/// What is prepared.
pub(super) struct Job {
    pub(super) info: Arc<Info>,
    pub(super) options: StorageOptions,
    /// Everything is hashed, whatever the record says.
    pub(super) verify: bool,
    /// Files that do not belong to the torrent may be overwritten.
    pub(super) overwrite: bool,
    pub(super) store: Arc<Store>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) checked: Arc<AtomicU32>,
    /// The pieces that are wanted.
    pub(super) wanted: Bits,
}

impl Job {
    /// Opens the files, checks what is there as far as needed, and records that the files are this torrent's.
    ///
    /// # Errors
    /// The files can't be used: tell the user, try again later.
    pub(super) fn run(self) -> Result<(Arc<Storage>, Bits), StorageError> {
        let lock = self.store.lock()?;
        let storage = Storage::open(&self.info, &self.options, self.reports.clone(), Some(lock))?;
        let pieces = Geometry::of(&self.info).pieces;
        let record = self
            .store
            .load()
            .filter(|record| record.info == self.info.bytes && record.had.len() == pieces);
        let ours = record.is_some();
        let record = record.filter(|_| !self.verify);
        let claimed = record.as_ref().map(|record| record.had.clone());
        let had = match record.and_then(|record| self.resume(&storage, &record)) {
            Some(had) => had,
            None if storage.any_exists()? => self.check(&storage, &Bits::full(pieces)),
            None => Bits::new(pieces),
        };
        if !self.options.write && !had.is_full() {
            return Err(StorageError::Missing);
        }
        if !ours && !self.overwrite && self.options.write && storage.has_foreign(&had)? {
            return Err(StorageError::Foreign);
        }
        // First the claim, then the files: a crash in between must not make our own files look foreign. What is only
        // seeded is recorded too, to be trusted next time, but not if a download may later take it for its own.
        if self.options.write || !storage.has_foreign(&had)? {
            // What was found by hashing may be in the system's memory alone: only what survives a power cut may be claimed.
            let is_claimed = |piece| claimed.as_ref().is_some_and(|had| had.get(piece));
            if !had.ones().all(is_claimed) {
                storage.sync_found()?;
            }
            let record = Record {
                info: Arc::clone(&self.info.bytes),
                had: had.clone(),
                marks: storage.marks()?,
                layers: self.info.layers(),
                open: self.options.write && !had.is_full(),
                at: resume::now(),
            };
            self.store.save(&record)?;
        }
        if self.options.write {
            storage.prepare(|piece| self.wanted.get(piece))?;
        }
        storage.set_done(&had);
        Ok((storage, had))
    }

    /// What the record claims, and what was written after it. A file that was touched since is checked; where that was the end of
    /// the run that wrote the record, only what the record does not claim. `None`: a sample was wrong.
    fn resume(&self, storage: &Storage, record: &Record) -> Option<Bits> {
        let now = storage.marks().ok()?;
        if now.len() != record.marks.len() {
            return None;
        }
        let mut had = record.had.clone();
        let mut doubtful = Bits::new(had.len());
        for (file, (now, then)) in now.iter().zip(&record.marks).enumerate() {
            if now == then {
                continue;
            }
            let by_us = is_by_us(record, *now, *then);
            for piece in storage.pieces_of(file) {
                if !by_us {
                    had.clear(piece);
                }
                if !had.get(piece) {
                    doubtful.set(piece);
                }
            }
        }
        let mut sample = Bits::new(had.len());
        for piece in had.ones().sample(&mut rand::rng(), SAMPLE) {
            sample.set(piece);
        }
        if self.check(storage, &sample) != sample {
            return None;
        }
        for piece in self.check(storage, &doubtful).ones() {
            had.set(piece);
        }
        Some(had)
    }

    fn check(&self, storage: &Storage, pieces: &Bits) -> Bits {
        storage.check(pieces, threads(), &self.checked)
    }
}

/// Tells whether a file changed as it does while its download goes on: soon after the record, by what was not recorded any more.
fn is_by_us(record: &Record, now: Option<FileMark>, then: Option<FileMark>) -> bool {
    let (Some(now), Some(then)) = (now, then) else {
        return false;
    };
    let soon = then.mtime <= now.mtime && now.mtime <= record.at + GRACE.as_nanos() as i128;
    record.open && soon && then.len <= now.len
}

/// Threads for hashing: all processors, as nothing else can go on.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests;
