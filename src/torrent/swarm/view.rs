//! What is wished of a torrent at work, and what it looks like from outside.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::redact::Redacted;
use crate::torrent::metainfo::Info;
use crate::torrent::pace::Limits;
use crate::torrent::picker::Priority;

/// What is wished, as it stands: later wishes take the place of earlier ones, so that nothing queues up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    /// By the number of the file.
    pub(crate) priorities: BTreeMap<usize, Priority>,
    pub(crate) sequential: bool,
    pub(crate) seed_after: Option<bool>,
    /// How often it was asked for that everything be verified.
    pub(crate) verify: u32,
    /// How often it was asked for that others be looked for again.
    pub(crate) reannounce: u32,
}

/// A torrent at work, as it is now.
#[derive(Clone, Debug)]
pub struct View {
    /// What it is; `None` while that is unknown.
    pub info: Option<Arc<Info>>,
    /// Its files, without padding; none while they are unknown.
    pub files: Vec<FileView>,
    /// The verified pieces, as the bitfield of BEP 3: the first is the highest bit of the first byte.
    pub pieces: Vec<u8>,
    /// Its trackers, in order.
    pub trackers: Vec<TrackerView>,
    /// Its connections.
    pub peers: Vec<PeerView>,
    /// Its own limits; those of all torrents together are in [`super::super::engine::Options::limits`].
    pub limits: Limits,
    /// Whether pieces are to come in order.
    pub sequential: bool,
    /// Whether it goes on once everything has come.
    pub seed_after: bool,
}

/// A file of a torrent. `Debug` hides its path.
#[derive(Clone)]
pub struct FileView {
    /// Its path, with the torrent's name in front.
    pub path: Vec<String>,
    /// Its bytes.
    pub len: u64,
    /// Bytes of it that are verified.
    pub done: u64,
    /// How much it is wanted.
    pub priority: Priority,
}

impl std::fmt::Debug for FileView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileView")
            .field("len", &self.len)
            .field("done", &self.done)
            .field("priority", &self.priority)
            .finish_non_exhaustive()
    }
}

/// A tracker of a torrent.
#[derive(Clone, Debug)]
pub struct TrackerView {
    /// Its URL, for the user alone.
    pub url: Redacted<String>,
    /// Its tier, from 0.
    pub tier: usize,
}

/// What a connection leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerKind {
    /// A public peer.
    Public,
    /// An onion service, or who came to ours.
    Onion,
    /// A hidden seed, or who came to ours.
    Hidden,
}

/// A connection. What program the peer runs is neither asked nor kept.
#[derive(Clone, Debug)]
pub struct PeerView {
    /// What it leads to.
    pub kind: PeerKind,
    /// Where a public peer is that we called, for the user alone.
    pub address: Option<Redacted<SocketAddr>>,
    /// It came to us.
    pub incoming: bool,
    /// Bytes per second that come, smoothed over some seconds.
    pub down_rate: u64,
    /// The same, given.
    pub up_rate: u64,
    /// The part of the torrent that it says to have, from 0 to 1.
    pub progress: f32,
    /// The way there does not see what is said.
    pub encrypted: bool,
    /// It refuses our requests.
    pub choking: bool,
    /// It wants something of us.
    pub interested: bool,
    /// We answer its requests.
    pub unchoked: bool,
}
