//! From a torrent to storage that knows what is already there. All of it blocks.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use rand::seq::IteratorRandom;
use tokio::sync::mpsc;

use crate::torrent::metainfo::Info;
use crate::torrent::picker::{Bits, Geometry};
use crate::torrent::resume::{Record, Store};
use crate::torrent::storage::{Report, Storage, StorageError, StorageOptions};

/// Pieces of a trusted record that are hashed all the same: enough to notice a disk or a hand that changed many without
/// touching the times.
const SAMPLE: usize = 16;

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
        let had = match record
            .and_then(|record| self.trusted(&storage, &record))
            .filter(|_| !self.verify)
        {
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
            let record = Record {
                info: Arc::clone(&self.info.bytes),
                had: had.clone(),
                marks: storage.marks()?,
                layers: self.info.layers(),
            };
            self.store.save(&record)?;
        }
        if self.options.write {
            storage.prepare()?;
        }
        storage.set_done(&had);
        Ok((storage, had))
    }

    /// What the record claims, if no file was touched since and a sample is right.
    fn trusted(&self, storage: &Storage, record: &Record) -> Option<Bits> {
        if storage.marks().ok()? != record.marks {
            return None;
        }
        let mut sample = Bits::new(record.had.len());
        for piece in record.had.ones().sample(&mut rand::rng(), SAMPLE) {
            sample.set(piece);
        }
        (self.check(storage, &sample) == sample).then(|| record.had.clone())
    }

    fn check(&self, storage: &Storage, pieces: &Bits) -> Bits {
        storage.check(pieces, threads(), &self.checked)
    }
}

/// Threads for hashing: all processors, as nothing else can go on.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
