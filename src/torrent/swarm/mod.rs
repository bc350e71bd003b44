//! One torrent's swarm at work: a driver, and a task for each connection.
//!
//! The tasks share a `Shared`: the picker behind a lock that is held for a moment at a time, the storage, counters.
//! The driver owns who is known, connects through [`crate::route::Outside`], takes reports of storage and answers of
//! trackers, unchokes, records. Orders go to connections through their `Seat`; news come back by a bounded channel.

mod announce;
mod choker;
mod connection;
mod doubts;
mod driver;
mod gossip;
mod hashes;
mod metadata;
mod open;
mod pex;
mod prepare;
mod progress;
mod reader;
mod seek;
mod table;
mod view;
mod web;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, Semaphore};

pub(crate) use driver::{Command, Driver, Setup, Via, Visitor};
pub use open::Encryption;
pub(crate) use prepare::threads;
pub use progress::{Failure, Progress, State};
pub use reader::{Reader, ReaderError};
pub(crate) use view::Wishes;
pub use view::{FileView, PeerKind, PeerView, TrackerView, View};

use super::gossip::Onions;
use super::infohash::InfoHash;
use super::metainfo::Info;
use super::pace::Pace;
use super::peer::CloseReason;
use super::pex::PeerExchange;
use super::picker::{PeerKey, Picker};
use super::storage::{Storage, lock};
use super::v2::fetch::LayerFetch;
use super::wire::BlockRef;
use doubts::Doubts;
use metadata::Fetch;
use reader::Readers;

/// Most orders that wait for a connection: a peer that can't take its HAVE messages is closed.
const MAX_ORDERS: usize = 1 << 16;

/// What all tasks of a swarm share.
pub(super) struct Shared {
    hash: InfoHash,
    /// Gone while everything is verified anew.
    torrent: Mutex<Option<Torrent>>,
    work: Mutex<Work>,
    /// Held by who reads a piece to answer a request for hashes.
    hashing: Arc<Semaphore>,
    downloaded: AtomicU64,
    uploaded: AtomicU64,
    pace: Pace,
    /// For readers: a piece was verified, or may never come.
    news: Notify,
}

/// The torrent, once its metadata is known and its files were checked.
#[derive(Clone)]
struct Torrent {
    info: Arc<Info>,
    storage: Arc<Storage>,
}

/// What the tasks change together. Never held across an await or a disk access.
#[derive(Default)]
struct Work {
    picker: Option<Picker>,
    fetch: Option<Fetch>,
    /// Of a torrent of version 2 whose link brought no hashes of pieces.
    layers: Option<LayerFetch>,
    /// Pieces of version 2 that failed.
    doubts: Doubts,
    readers: Readers,
    /// Nothing comes any more, not even from the disk.
    over: bool,
    seats: BTreeMap<PeerKey, Arc<Seat>>,
    /// Nothing is asked for: the disk takes nothing.
    paused: bool,
}

/// What the driver and other connections know of a connection.
#[derive(Default)]
struct Seat {
    orders: Mutex<Vec<Order>>,
    notify: Notify,
    downloaded: AtomicU64,
    uploaded: AtomicU64,
    /// The handshakes are exchanged.
    ready: AtomicBool,
    interested: AtomicBool,
    snubbing: AtomicBool,
    /// It refuses our requests.
    choking: AtomicBool,
    encrypted: AtomicBool,
    /// Pieces that it has.
    pieces: AtomicU32,
}

/// What a connection is told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Order {
    /// The torrent is known now: [`Shared::torrent`].
    Torrent,
    /// A piece was verified.
    Have(u32),
    /// Another peer gave this block.
    Cancel(BlockRef),
    /// Choke or unchoke.
    Choke(bool),
    /// Take back all requests: the disk takes nothing.
    Pause,
    /// Tell of onion peers.
    Onions(Onions),
    /// Tell of public peers.
    Peers(PeerExchange),
    /// End, for this reason.
    Close(CloseReason),
}

impl Seat {
    fn order(&self, order: Order) {
        let mut orders = lock(&self.orders);
        if orders.len() < MAX_ORDERS {
            orders.push(order);
        } else {
            // Far behind: it is closed as soon as it looks.
            orders.clear();
            orders.push(Order::Close(CloseReason::Lied));
        }
        drop(orders);
        self.notify.notify_one();
    }

    fn take_orders(&self) -> Vec<Order> {
        std::mem::take(&mut *lock(&self.orders))
    }
}

impl Shared {
    fn new(hash: InfoHash, pace: Pace) -> Arc<Self> {
        Arc::new(Self {
            hash,
            torrent: Mutex::default(),
            work: Mutex::default(),
            hashing: Arc::new(Semaphore::new(hashes::READ_AT_ONCE)),
            downloaded: AtomicU64::new(0),
            uploaded: AtomicU64::new(0),
            pace,
            news: Notify::new(),
        })
    }

    fn torrent(&self) -> Option<Torrent> {
        lock(&self.torrent).clone()
    }

    /// Tells every connection.
    fn broadcast(&self, order: &Order) {
        let seats: Vec<Arc<Seat>> = lock(&self.work).seats.values().cloned().collect();
        seats.iter().for_each(|seat| seat.order(order.clone()));
    }

    /// Tells one connection, where it is there.
    fn order(&self, key: PeerKey, order: Order) {
        let seat = lock(&self.work).seats.get(&key).cloned();
        if let Some(seat) = seat {
            seat.order(order);
        }
    }
}
