//! The half of the driver that goes by the clock: rates, choking, records, snapshots.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Driver, Phase};
use crate::redact::Redacted;
use crate::torrent::picker::{PeerKey, Picker};
use crate::torrent::resume::{self, Record};
use crate::torrent::storage::{Storage, StorageError, lock};
use crate::torrent::swarm::announce::Counters;
use crate::torrent::swarm::choker::Candidate;
use crate::torrent::swarm::progress::{Progress, State};
use crate::torrent::swarm::{Order, Seat};

/// Seconds between rounds of the choker (BEP 3).
const CHOKE_EVERY: u64 = 10;

/// Seconds until a note of what is verified is tried again, after it could not be written.
const RECORD_AGAIN: u64 = 5;

/// Seconds between notes of what the files look like while blocks come, though no piece is complete: on a slow way one takes minutes,
/// and after a kill files that are newer than the last note are checked in full.
const NOTE_EVERY: u64 = 10;

/// How long to rest between two notes, as a multiple of what the last one took, and within which bounds: on a slow disk, noting takes
/// a part of the time that is left for writing; on a quick one, a power cut costs what came in a moment.
const REST: u32 = 4;
const LEAST_REST: Duration = Duration::from_millis(200);
const MOST_REST: Duration = Duration::from_secs(5);

/// A note that is being written, or the rest after it.
pub(super) struct Recording {
    pub(super) task: JoinHandle<Result<(), StorageError>>,
    /// Ends the rest when it is dropped.
    _rest: oneshot::Sender<()>,
}

impl Recording {
    fn start(save: impl FnOnce() -> Result<(), StorageError> + Send + 'static) -> Self {
        let (rest, woken) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let begun = Instant::now();
            let saved = tokio::task::spawn_blocking(save).await;
            let rest = (begun.elapsed() * REST).clamp(LEAST_REST, MOST_REST);
            let _ = tokio::time::timeout(rest, woken).await;
            saved.unwrap_or(Err(StorageError::Io(std::io::ErrorKind::Other)))
        });
        Self { task, _rest: rest }
    }

    /// Waits for what is being written, without the rest.
    pub(super) async fn settle(self) {
        let Self { task, _rest } = self;
        drop(_rest);
        let _ = task.await;
    }
}

impl Driver {
    pub(super) fn tick(&mut self) {
        self.seconds += 1;
        let downloaded = self.shared.downloaded.load(Ordering::Relaxed);
        let uploaded = self.shared.uploaded.load(Ordering::Relaxed);
        self.rates = (self.down.tick(downloaded), self.up.tick(uploaded));
        self.measure_peers();
        self.hurry_readers();
        if self.seconds.is_multiple_of(CHOKE_EVERY) {
            self.choke();
            self.share_streams();
            self.forget_rumours();
        }
        self.take_early();
        self.tend_webs();
        self.tell_onions();
        self.tell_peers();
        if self.seconds.is_multiple_of(NOTE_EVERY) && self.noted != downloaded {
            self.noted = downloaded;
            self.unrecorded = true;
        }
        self.record();
        let now = Instant::now();
        if self.paused.is_some_and(|(_, until)| until <= now) {
            self.retry();
        }
        let work = lock(&self.shared.work);
        let left = match (&self.info, &work.picker) {
            (Some(info), Some(picker)) => info.content().saturating_sub(picker.had_bytes()),
            (Some(_) | None, None) | (None, Some(_)) => 1,
        };
        drop(work);
        self.counters.send_replace(Counters {
            uploaded,
            downloaded,
            left,
        });
    }

    fn choke(&mut self) {
        let complete = self.is_complete();
        let seats: Vec<(PeerKey, Arc<Seat>)> = {
            let work = lock(&self.shared.work);
            work.seats
                .iter()
                .map(|(key, seat)| (*key, Arc::clone(seat)))
                .collect()
        };
        let pieces = self.info.as_ref().map_or(0, |info| info.piece_count());
        let mut candidates = Vec::new();
        for (key, seat) in &seats {
            let given = seat.downloaded.load(Ordering::Relaxed);
            let taken = seat.uploaded.load(Ordering::Relaxed);
            let before = self.merits.insert(*key, (given, taken)).unwrap_or((0, 0));
            let has = u64::from(seat.pieces.load(Ordering::Relaxed)) * 1000;
            candidates.push(Candidate {
                key: *key,
                interested: seat.ready.load(Ordering::Relaxed)
                    && seat.interested.load(Ordering::Relaxed),
                snubbing: seat.snubbing.load(Ordering::Relaxed),
                given: given.saturating_sub(before.0),
                taken: taken.saturating_sub(before.1),
                // At most a thousand, as no peer has more than all.
                has: (has / u64::from(pieces.max(1))) as u32,
            });
        }
        let chosen: BTreeSet<PeerKey> = self
            .choker
            .round(complete, &candidates, &mut self.rng)
            .into_iter()
            .collect();
        for (key, seat) in &seats {
            let unchoke = chosen.contains(key);
            if unchoke != self.unchoked.contains(key) {
                seat.order(Order::Choke(!unchoke));
            }
        }
        self.unchoked = chosen;
    }

    /// Begins to note what is verified, where anything is new; what comes meanwhile waits for the next.
    pub(super) fn record(&mut self) {
        let Phase::Active { storage } = &self.phase else {
            return;
        };
        let waits = self.recording.is_some() || self.seconds < self.record_after;
        if waits || !self.unrecorded || !self.setup.storage.write {
            return;
        }
        let Some(save) = self.saver(Arc::clone(storage), false) else {
            return;
        };
        self.unrecorded = false;
        self.recording = Some(Recording::start(save));
    }

    /// What notes the pieces that are verified now. When nothing will be written any more, as at the end of a run, as a record in full.
    pub(super) fn saver(
        &self,
        storage: Arc<Storage>,
        over: bool,
    ) -> Option<impl FnOnce() -> Result<(), StorageError> + Send + 'static> {
        let mut had = lock(&self.shared.work)
            .picker
            .as_ref()
            .map(|picker| picker.had().clone())?;
        let torrent = Arc::clone(self.info.as_ref()?);
        let store = Arc::clone(&self.store);
        Some(move || {
            // Only what survives a power cut may be claimed.
            let changed = storage.sync_and_claim(&mut had)?;
            let (open, at) = (!over && !had.is_full(), resume::now());
            if open && store.add(&had, &changed, at)? {
                return Ok(());
            }
            store.save(&Record {
                info: Arc::clone(&torrent.bytes),
                had,
                marks: storage.marks_to_claim()?,
                layers: torrent.layers(),
                open,
                at,
            })
        })
    }

    pub(super) fn recorded(&mut self, result: Option<Result<(), StorageError>>) {
        self.recording = None;
        if let Some(Err(error)) = result {
            // The old record stays true. Said to the user, since a kill would now cost a check of all files.
            tracing::warn!(%error, "can't record the progress: {}", error.hint());
            self.unrecorded = true;
            self.record_after = self.seconds + RECORD_AGAIN;
        }
        self.record();
    }

    fn state(&self) -> State {
        match (&self.phase, self.paused) {
            (Phase::Waiting | Phase::Active { .. }, Some((error, _))) => State::Paused(error),
            (Phase::Starting(_) | Phase::Checking(_) | Phase::Waiting, _) => State::Checking,
            (Phase::Active { .. }, None) if self.is_complete() => State::Seeding,
            (Phase::Metadata | Phase::Active { .. }, _) if self.cut_off() => {
                State::WaitingForNetwork
            }
            (Phase::Metadata, _) => State::FetchingMetadata,
            (Phase::Active { .. }, None) => State::Downloading,
            (Phase::Over, _) => State::Stopped,
        }
    }

    /// The last thing tried found no circuit, and no connection is left.
    fn cut_off(&self) -> bool {
        self.no_network && lock(&self.shared.work).seats.is_empty()
    }

    pub(super) fn publish(&mut self) {
        let state = self.state();
        self.set_state(state);
    }

    pub(super) fn set_state(&mut self, state: State) {
        let (pieces_done, done, total, connected) = {
            let work = lock(&self.shared.work);
            let ready = |seat: &&Arc<Seat>| seat.ready.load(Ordering::Relaxed);
            let picker = work.picker.as_ref();
            let of = |p: &Picker| (p.had().count(), p.wanted_had_bytes(), p.wanted_bytes());
            let before = self.info.as_ref().map_or(0, |info| info.content());
            let (pieces, bytes, total) = picker.map_or((0, 0, before), of);
            let ready = work.seats.values().filter(ready).count();
            (pieces, bytes, total, ready)
        };
        let known = self.table.len();
        self.tell_need(connected, known);
        let left = total.saturating_sub(done);
        let (down_rate, up_rate) = self.rates;
        let (seeders, leechers) = self.swarm_size();
        let eta = (state == State::Downloading && down_rate > 0)
            .then(|| Duration::from_secs(left / down_rate.max(1)));
        let next = Progress {
            state,
            total,
            done,
            pieces: self.info.as_ref().map_or(0, |info| info.piece_count()),
            pieces_done,
            checked: self.checked.load(Ordering::Relaxed),
            downloaded: self.shared.downloaded.load(Ordering::Relaxed),
            uploaded: self.shared.uploaded.load(Ordering::Relaxed),
            down_rate,
            up_rate,
            connected,
            known,
            web_seeds: self.webs.giving(),
            seeders,
            leechers,
            name: self
                .info
                .as_ref()
                .map(|info| Redacted::new(info.name.clone())),
            tracker: self.tracker_status.clone(),
            dht: self.dht_status.clone(),
            lookups: self.setup.finder.as_ref().map(|finder| finder.counters()),
            eta,
        };
        self.progress.send_if_modified(|progress| {
            let changed = *progress != next;
            *progress = next;
            changed
        });
    }
}
