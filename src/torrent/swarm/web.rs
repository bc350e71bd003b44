//! The task of one web seed: asks it for runs of pieces, gives what comes to storage as a connection does.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::take_block;
use super::{Shared, Torrent};
use crate::torrent::pace::Direction;
use crate::torrent::picker::{Bits, PeerKey, Picker};
use crate::torrent::storage::lock;
use crate::torrent::webseed::place::{Part, Places};
use crate::torrent::webseed::{Patience, WebClient, WebError};
use crate::torrent::wire::BlockRef;

/// Bytes of the first run: little is lost where the seed gives nothing.
const FIRST_RUN: u64 = 1 << 20;

/// Bytes of the longest run: so much may be held back from others while it comes.
const LONGEST_RUN: u64 = 16 << 20;

/// A run is to take this long: then the round trip before it costs little.
const RUN_TIME: Duration = Duration::from_secs(10);

/// Wait where nothing is to be asked for.
const IDLE: Duration = Duration::from_secs(1);

/// Waits in a row after which the connection is ended: circuits are for those who use them.
const MAX_IDLE: u32 = 15;

/// One web seed at work.
pub(super) struct WebPeer {
    shared: Arc<Shared>,
    key: PeerKey,
    torrent: Torrent,
    client: WebClient,
    places: Places,
    /// What it has: everything, but for files that it turned out not to have.
    have: Bits,
    missing: BTreeSet<usize>,
    /// Asked for, in order.
    held: VecDeque<BlockRef>,
    /// What has come of the first of these.
    block: Vec<u8>,
    run: u64,
    /// It gave something.
    worked: Arc<AtomicBool>,
    patience: Patience,
}

/// How it went.
type Step = Result<(), WebError>;

impl WebPeer {
    /// `key` is a peer's that nobody else has.
    pub(super) fn new(
        shared: Arc<Shared>,
        key: PeerKey,
        torrent: Torrent,
        client: WebClient,
        places: Places,
        worked: Arc<AtomicBool>,
    ) -> Self {
        let have = Bits::full(places.geometry().pieces);
        if let Some(picker) = &mut lock(&shared.work).picker {
            picker.add_peer(&have);
        }
        Self {
            shared,
            key,
            torrent,
            client,
            places,
            have,
            missing: BTreeSet::new(),
            held: VecDeque::new(),
            block: Vec::new(),
            run: FIRST_RUN,
            worked,
            patience: Patience::default(),
        }
    }

    /// Runs until everything is there.
    ///
    /// # Errors
    /// The seed fails: the error says whether and when to ask it again.
    pub(super) async fn run(mut self) -> Step {
        let mut idle = 0;
        loop {
            self.torrent.storage.ready().await;
            match self.pick() {
                None => return Ok(()),
                Some(false) => {
                    idle += 1;
                    if idle == MAX_IDLE {
                        // Perhaps what is missing is there later.
                        if !self.missing.is_empty() {
                            return Err(WebError::Missing);
                        }
                        self.client.rest();
                    }
                    tokio::time::sleep(IDLE).await;
                }
                Some(true) => {
                    idle = 0;
                    self.take().await?;
                }
            }
        }
    }

    /// Chooses what to ask for. `None`: nothing any more; `Some(false)`: nothing now.
    fn pick(&mut self) -> Option<bool> {
        let mut work = lock(&self.shared.work);
        let paused = work.paused;
        let picker = work.picker.as_mut()?;
        if picker.is_done() {
            return None;
        }
        let mut picked = Vec::new();
        if !paused {
            picker.pick_run(self.key, &self.have, self.run, &mut picked);
        }
        self.held.extend(picked);
        Some(!self.held.is_empty())
    }

    /// Asks for what is held, part by part.
    async fn take(&mut self) -> Step {
        let (begun, before) = (Instant::now(), self.pending());
        while let Some((at, end)) = self.stretch() {
            match self.places.part(at, end) {
                None => return Err(WebError::Malformed),
                Some(Part::Zeros(len)) => {
                    // At most a piece, which fits.
                    self.give(&vec![0; len as usize]);
                }
                Some(Part::Fetch(fetch)) => {
                    let result = self.fetch(&fetch).await;
                    if let (Err(error), Some(file)) = (&result, fetch.file)
                        && error.is_about_a_file()
                    {
                        self.lacks(file, error.clone())?;
                        return Ok(());
                    }
                    result?;
                }
            }
        }
        let rate = before as f64 / begun.elapsed().as_secs_f64().max(0.001);
        let run = (rate * RUN_TIME.as_secs_f64()) as u64;
        self.run = run.clamp(FIRST_RUN, LONGEST_RUN).min(self.run * 4);
        Ok(())
    }

    async fn fetch(&mut self, fetch: &crate::torrent::webseed::place::Fetch) -> Step {
        let begun = Instant::now();
        let mut body = self.client.get(fetch).await?;
        self.patience.spend(begun.elapsed(), 0)?;
        while let Some(bytes) = body.next(&mut self.patience).await? {
            self.worked.store(true, Ordering::Relaxed);
            self.give(&bytes);
            // Who waits for the disk, or for his turn, does not wait for the server.
            self.torrent.storage.ready().await;
            self.turn(bytes.len() as u64).await;
        }
        Ok(())
    }

    /// Waits as long as so many bytes may take: what is not read is not sent.
    async fn turn(&self, bytes: u64) {
        let (pace, way) = (&self.shared.pace, Direction::Down);
        if !pace.is_limited(way) {
            return;
        }
        let turn = pace.take(Instant::now().into_std(), way, bytes);
        while !pace.is_stale(&turn) && Instant::now().into_std() < turn.at {
            let soon = Instant::now() + IDLE;
            tokio::time::sleep_until(soon.min(turn.at.into())).await;
        }
    }

    /// Bytes that are held.
    fn pending(&self) -> u64 {
        self.held.iter().map(|block| u64::from(block.len)).sum()
    }

    fn start_of(&self, block: &BlockRef) -> u64 {
        self.places.start_of(block.index) + u64::from(block.begin)
    }

    /// The first bytes of the torrent that are held and not there yet, as far as they follow each other.
    fn stretch(&self) -> Option<(u64, u64)> {
        let first = self.start_of(self.held.front()?);
        let mut end = first;
        for block in &self.held {
            if self.start_of(block) != end {
                break;
            }
            end += u64::from(block.len);
        }
        Some((first + self.block.len() as u64, end))
    }

    /// Takes the next bytes of the torrent.
    fn give(&mut self, mut bytes: &[u8]) {
        while let (Some(&block), false) = (self.held.front(), bytes.is_empty()) {
            let room = (block.len as usize).saturating_sub(self.block.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            bytes = later;
            self.block.extend_from_slice(now);
            if self.block.len() < block.len as usize {
                return;
            }
            self.held.pop_front();
            let count = u64::from(block.len);
            self.shared.downloaded.fetch_add(count, Ordering::Relaxed);
            take_block(
                &self.shared,
                Some(&self.torrent),
                self.key,
                block,
                &self.block,
            );
            self.block.clear();
        }
    }

    /// The seed does not have a file: what holds something of it is asked of others.
    fn lacks(&mut self, file: usize, error: WebError) -> Step {
        self.release();
        // Not known before, or it would not have been asked for.
        self.missing.insert(file);
        let mut have = self.have.clone();
        for piece in self.places.pieces_of(file) {
            have.clear(piece);
        }
        if let Some(picker) = &mut lock(&self.shared.work).picker {
            picker.remove_peer(&self.have);
            picker.add_peer(&have);
        }
        self.have = have;
        if self.have.is_empty() {
            Err(error)
        } else {
            Ok(())
        }
    }

    /// Leaves what was asked for to others.
    fn release(&mut self) {
        self.block.clear();
        let blocks: Vec<BlockRef> = self.held.drain(..).collect();
        if let Some(picker) = &mut lock(&self.shared.work).picker {
            picker.release(self.key, blocks);
        }
    }
}

/// Gives back what was asked for and what it has, however the task ended.
impl Drop for WebPeer {
    fn drop(&mut self) {
        self.release();
        let picker: &mut Option<Picker> = &mut lock(&self.shared.work).picker;
        if let Some(picker) = picker {
            picker.remove_peer(&self.have);
        }
    }
}
