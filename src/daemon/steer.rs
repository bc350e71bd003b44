//! Between the daemon and a torrent that runs: what is asked of it beside starting and stopping, in its words.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::bytes;
use super::record::Record;
use crate::rpc::torrent::Priority as Wanted;
use crate::torrent::engine::{Handle, Limits, PeerKind, Priority, TrackerView};
use crate::torrent::metainfo::Info;

/// How long a torrent may take to say how it is. One that is checking a disk, or is just ending, is described without.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a running torrent says of itself beyond its progress.
#[derive(Default)]
pub(super) struct Seen {
    /// What it holds.
    pub(super) info: Option<Arc<Info>>,
    /// Its pieces, as a bitfield.
    pub(super) pieces: Option<Vec<u8>>,
    /// Its trackers that can be asked, in the order in which they are.
    pub(super) trackers: Vec<TrackerView>,
    /// Peers that give, and peers that take.
    pub(super) peers: (u64, u64),
}

/// Asks a torrent how it is.
pub(super) async fn look(handle: &Handle) -> Seen {
    let Ok(Some(view)) = timeout(PATIENCE, handle.view()).await else {
        return Seen::default();
    };
    let count = |rate: fn(&crate::torrent::engine::PeerView) -> u64| {
        let peers = view.peers.iter();
        peers.filter(|peer| rate(peer) > 0).count() as u64
    };
    Seen {
        peers: (count(|peer| peer.down_rate), count(|peer| peer.up_rate)),
        trackers: view.trackers,
        pieces: Some(view.pieces).filter(|pieces| !pieces.is_empty()),
        info: view.info,
    }
}

/// How many peers of each kind: public, onion services, hidden seeds.
pub(super) async fn kinds(handle: &Handle) -> [u64; 3] {
    let mut kinds = [0; 3];
    let view = timeout(PATIENCE, handle.view()).await.ok().flatten();
    for peer in view.iter().flat_map(|view| &view.peers) {
        let kind = match peer.kind {
            PeerKind::Onion => 1,
            PeerKind::Hidden => 2,
            PeerKind::Public => 0,
        };
        kinds[kind] += 1;
    }
    kinds
}

/// Tells a torrent that begins, or whose entry was changed, what the user wants of it.
pub(super) fn begin(handle: &Handle, record: &Record, info: Option<&Info>) {
    let limit = |on: bool, kilobytes: u64| on.then_some(kilobytes.saturating_mul(1000));
    handle.set_limits(Limits {
        down: limit(record.down_limited, record.down_limit),
        up: limit(record.up_limited, record.up_limit),
    });
    handle.set_sequential(record.sequential);
    if let Some(info) = info {
        let chosen = [&record.unwanted, &record.high, &record.low];
        if chosen.iter().any(|files| !files.is_empty()) {
            wish(handle, record, info);
        }
    }
}

/// Tells a torrent which of its files are wanted, and how much.
pub(super) fn wish(handle: &Handle, record: &Record, info: &Info) {
    let count = bytes::files(info).count();
    let priority = |file: usize| {
        let number = u32::try_from(file).unwrap_or(u32::MAX);
        if record.unwanted.binary_search(&number).is_ok() {
            return Priority::Skip;
        }
        match record.priority(number) {
            Wanted::Low => Priority::Low,
            Wanted::Normal => Priority::Normal,
            Wanted::High => Priority::High,
        }
    };
    handle.set_priorities((0..count).map(|file| (file, priority(file))).collect());
}

/// Has a torrent look at what is on the disk.
pub(super) fn verify(handle: &Handle) {
    handle.verify();
}

/// Has a torrent ask for peers again.
pub(super) fn reannounce(handle: &Handle) {
    handle.reannounce();
}
