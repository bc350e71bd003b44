//! Between the daemon and a torrent that runs: what is asked of it beside starting and stopping.

use std::sync::Arc;

use super::record::Record;
use crate::rpc::torrent::Tracker;
use crate::torrent::engine::Handle;
use crate::torrent::metainfo::Info;

/// What a running torrent says of itself beyond its progress.
#[derive(Default)]
pub(super) struct Seen {
    /// What it holds.
    pub(super) info: Option<Arc<Info>>,
    /// Its pieces, as a bitfield.
    pub(super) pieces: Option<Vec<u8>>,
    /// Its trackers.
    pub(super) trackers: Option<Vec<Tracker>>,
    /// Peers that give, and peers that take.
    pub(super) peers: (u64, u64),
}

/// Asks a torrent how it is.
pub(super) async fn look(_handle: &Handle) -> Seen {
    Seen::default()
}

/// Tells a torrent that begins, or whose entry was changed, what the user wants of it.
pub(super) fn begin(_handle: &Handle, _record: &Record, _info: Option<&Info>) {}

/// Tells a torrent which of its files are wanted.
pub(super) fn wish(_handle: &Handle, _record: &Record, _info: &Info) {}

/// Has a torrent look at what is on the disk.
pub(super) fn verify(_handle: &Handle) {}

/// Has a torrent ask for peers again.
pub(super) fn reannounce(_handle: &Handle) {}
