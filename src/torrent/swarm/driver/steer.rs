//! The part of the driver that the user steers: what is wished while a torrent is at work, and what it looks like.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::{Driver, Phase, Via};
use crate::redact::Redacted;
use crate::torrent::metainfo::Info;
use crate::torrent::picker::{Bits, PeerKey, Priority};
use crate::torrent::select::{Span, piece_priorities, spans};
use crate::torrent::storage::lock;
use crate::torrent::swarm::progress::Rate;
use crate::torrent::swarm::reader::{Reader, ReaderError};
use crate::torrent::swarm::table::Ended;
use crate::torrent::swarm::view::{FileView, PeerKind, PeerView, View};
use crate::torrent::swarm::{Order, Shared};

/// What the driver knows of a call or connection besides its seat.
#[derive(Debug)]
pub(super) struct Contacted {
    kind: PeerKind,
    address: Option<SocketAddr>,
    incoming: bool,
    down: Rate,
    up: Rate,
    rates: (u64, u64),
}

impl Contacted {
    /// One that is called.
    pub(super) fn called(kind: PeerKind, address: Option<SocketAddr>) -> Self {
        Self {
            kind,
            address,
            incoming: false,
            down: Rate::default(),
            up: Rate::default(),
            rates: (0, 0),
        }
    }

    /// One that came.
    pub(super) fn came(via: Via) -> Self {
        let kind = match via {
            Via::Address => PeerKind::Public,
            Via::Onion => PeerKind::Onion,
            Via::Hidden => PeerKind::Hidden,
        };
        Self {
            incoming: true,
            ..Self::called(kind, None)
        }
    }
}

/// What is steered.
#[derive(Debug, Default)]
pub(super) struct Steered {
    /// How much each file is wanted, without padding; empty while they are unknown.
    files: Vec<Priority>,
    /// Whether each was chosen at the start, which never changes; empty while that is unknown.
    chosen: Vec<bool>,
    /// Wishes that were heard.
    verified: u32,
    announced: u32,
    /// Everything is to be verified.
    pub(super) verify: bool,
}

impl Driver {
    /// Takes what is wished by now.
    pub(super) fn take_wishes(&mut self) {
        let wishes = self.setup.wishes.borrow_and_update();
        let (verify, again) = (wishes.verify, wishes.reannounce);
        if let Some(on) = wishes.seed_after {
            self.setup.seed_after = on;
        }
        drop(wishes);
        self.steered.verify |= std::mem::replace(&mut self.steered.verified, verify) != verify;
        if std::mem::replace(&mut self.steered.announced, again) != again {
            self.again.send_replace(again);
        }
        if self.steered.verify && matches!(self.phase, Phase::Waiting) {
            self.check();
        }
        self.steer();
    }

    /// How much each file is wanted; `None` where none was chosen at the start.
    pub(super) fn choose_files(&mut self, info: &Info) -> Option<()> {
        if self.steered.chosen.is_empty() {
            self.steered.chosen = self.setup.select.files(info)?;
        }
        let wishes = self.setup.wishes.borrow();
        let priority = |(number, &wanted): (usize, &bool)| {
            let wished = wishes.priorities.get(&number).copied();
            wished.unwrap_or(if wanted {
                Priority::Normal
            } else {
                Priority::Skip
            })
        };
        let chosen = self.steered.chosen.iter().enumerate();
        self.steered.files = chosen.map(priority).collect();
        Some(())
    }

    /// The pieces that are wanted of a torrent whose files are about to be opened.
    pub(super) fn wanted_pieces(&mut self, info: &Info) -> Bits {
        let mut wanted = Bits::new(info.piece_count());
        if self.choose_files(info).is_none() {
            return wanted;
        }
        for (piece, priority) in (0..).zip(piece_priorities(info, &self.steered.files)) {
            if priority != Priority::Skip {
                wanted.set(piece);
            }
        }
        wanted
    }

    /// Tells the picker what is wanted, and takes back requests for what is not any more.
    pub(super) fn steer(&mut self) {
        let Some(info) = self.info.clone() else {
            return;
        };
        if self.choose_files(&info).is_none() {
            return;
        }
        let work = &mut *lock(&self.shared.work);
        let Some(picker) = &mut work.picker else {
            return;
        };
        picker.set_sequential(self.setup.wishes.borrow().sequential);
        for (piece, priority) in (0..).zip(piece_priorities(&info, &self.steered.files)) {
            for (peer, block) in picker.set_priority(piece, priority) {
                if let Some(seat) = work.seats.get(&peer) {
                    seat.order(Order::Cancel(block));
                }
            }
        }
        for (reader, pieces) in work.readers.ranges() {
            picker.raise(reader, pieces);
        }
        // A reader may wait for what is skipped now.
        self.shared.news.notify_waiters();
    }

    /// Hashes everything again. Peers stay away meanwhile.
    pub(super) async fn verify(&mut self) {
        let Phase::Active { .. } = self.phase else {
            return;
        };
        self.calls.abort_all();
        while let Some(ended) = self.calls.join_next().await {
            if ended.is_ok() {
                self.connection_ended(ended);
            }
        }
        self.webs.rest().await;
        // They are called again in a moment: nothing was their fault.
        for key in self.contacted.keys().copied().collect::<Vec<PeerKey>>() {
            self.connection_ended(Ok((key, Ended::CircuitLost, None)));
        }
        if let Phase::Active { storage } = std::mem::replace(&mut self.phase, Phase::Waiting) {
            self.settle_down(storage).await;
        }
        *lock(&self.shared.torrent) = None;
        let mut work = lock(&self.shared.work);
        work.picker = None;
        drop(work);
        self.check();
    }

    /// Follows the rates of connections, once a second.
    pub(super) fn measure_peers(&mut self) {
        let work = lock(&self.shared.work);
        for (key, contacted) in &mut self.contacted {
            if let Some(seat) = work.seats.get(key) {
                let (down, up) = (&mut contacted.down, &mut contacted.up);
                contacted.rates = (
                    down.tick(seat.downloaded.load(Ordering::Relaxed)),
                    up.tick(seat.uploaded.load(Ordering::Relaxed)),
                );
            }
        }
    }

    /// Lets more be asked for what holds readers up, once a second.
    pub(super) fn hurry_readers(&mut self) {
        let work = &mut *lock(&self.shared.work);
        let urgent = work.readers.tick();
        if let Some(picker) = &mut work.picker {
            picker.set_urgent(urgent);
        }
    }

    /// Begins to read a file.
    pub(super) fn read_file(
        &self,
        number: usize,
        answer: oneshot::Sender<Result<Reader, ReaderError>>,
    ) {
        let info = self.info.as_ref();
        let info = info.filter(|_| self.shared.torrent().is_some());
        let reader = match info.map(|info| spans(info).nth(number)) {
            Some(Some(span)) => Reader::new(&self.shared, span),
            Some(None) => Err(ReaderError::NoFile),
            None => Err(ReaderError::NotYet),
        };
        let _ = answer.send(reader);
    }

    /// What it looks like.
    pub(super) fn view(&self) -> View {
        let (files, pieces) = self.look_at_files();
        View {
            info: self.info.clone(),
            files,
            pieces,
            trackers: self.trackers.borrow().clone(),
            peers: self.look_at_peers(),
            limits: self.shared.pace.torrent.limits(),
            sequential: self.setup.wishes.borrow().sequential,
            seed_after: self.setup.seed_after,
        }
    }

    fn look_at_files(&self) -> (Vec<FileView>, Vec<u8>) {
        let Some(info) = &self.info else {
            return (Vec::new(), Vec::new());
        };
        let had = had(&self.shared);
        let had = had.unwrap_or_else(|| Bits::new(info.piece_count()));
        // Matching many rules with many files takes long, and is of use only until it was done once.
        let chosen = if self.steered.files.is_empty() {
            self.setup.select.files(info).unwrap_or_default()
        } else {
            Vec::new()
        };
        let view = |(number, span): (usize, Span)| {
            let first = match chosen.get(number) {
                Some(false) => Priority::Skip,
                Some(true) | None => Priority::Normal,
            };
            let priority = self.steered.files.get(number).copied();
            let path = info.files.get(span.index).map(|file| file.path.clone());
            FileView {
                path: path.unwrap_or_default(),
                len: span.len,
                done: done_of(&span, &had, info.piece_len),
                priority: priority.unwrap_or(first),
            }
        };
        let files = spans(info).enumerate().map(view).collect();
        (files, had.to_bytes())
    }

    fn look_at_peers(&self) -> Vec<PeerView> {
        let pieces = self.info.as_ref().map_or(0, |info| info.piece_count());
        let work = lock(&self.shared.work);
        let mut views = Vec::new();
        for (key, contacted) in &self.contacted {
            let seat = work.seats.get(key);
            let Some(seat) = seat.filter(|seat| seat.ready.load(Ordering::Relaxed)) else {
                continue;
            };
            let has = seat.pieces.load(Ordering::Relaxed);
            views.push(PeerView {
                kind: contacted.kind,
                address: contacted.address.map(Redacted::new),
                incoming: contacted.incoming,
                down_rate: contacted.rates.0,
                up_rate: contacted.rates.1,
                progress: has as f32 / pieces.max(1) as f32,
                encrypted: seat.encrypted.load(Ordering::Relaxed),
                choking: seat.choking.load(Ordering::Relaxed),
                interested: seat.interested.load(Ordering::Relaxed),
                unchoked: self.unchoked.contains(key),
            });
        }
        views
    }
}

/// Those that are called or connected.
pub(super) type Contacts = BTreeMap<PeerKey, Contacted>;

fn had(shared: &Arc<Shared>) -> Option<Bits> {
    let work = lock(&shared.work);
    work.picker.as_ref().map(|picker| picker.had().clone())
}

/// Bytes of a file in verified pieces.
fn done_of(span: &Span, had: &Bits, piece_len: u32) -> u64 {
    let of_piece = |piece: u32| {
        let start = u64::from(piece) * u64::from(piece_len);
        let end = start + u64::from(piece_len);
        let (from, to) = (start.max(span.start), end.min(span.start + span.len));
        to.saturating_sub(from)
    };
    let pieces = span.pieces(piece_len).filter(|piece| had.get(*piece));
    pieces.map(of_piece).sum()
}
