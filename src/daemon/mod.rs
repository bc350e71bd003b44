//! The daemon: torrents that stay over restarts, steered by the Transmission RPC ([`crate::rpc`]).
//!
//! One task, the [`session`], owns all torrents and takes calls in turn; [`serve`] reads them from a loopback listener that it is given.
//! What has to be known again is written by `record` at once when somebody changed it, counters once a minute. How a torrent reaches
//! the world is not known here: a [`Starter`] starts it.

mod bytes;
mod files;
mod metrics;
mod queue;
mod record;
pub mod serve;
pub mod session;
mod steer;
mod torrent;

use std::path::PathBuf;
use std::sync::Arc;

use crate::route::BoxFuture;
use crate::torrent::by_url::Found;
use crate::torrent::engine::{Handle, Source};
use crate::torrent::metainfo::Info;
use crate::torrent::select::Selection;

/// A torrent that runs.
pub struct Running {
    /// The torrent.
    pub handle: Handle,
    /// What belongs to it (its hidden seed, the search for others); ends when dropped.
    pub beside: Beside,
}

/// A task that ends when this is dropped.
#[derive(Debug)]
pub struct Beside(pub tokio::task::AbortHandle);

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A torrent to be started.
#[derive(Clone, Debug)]
pub struct Start {
    /// Which.
    pub source: Source,
    /// What it is, where a link says only which and that is known.
    pub info: Option<Arc<Info>>,
    /// The folder that takes it.
    pub output: PathBuf,
    /// Which files.
    pub select: Selection,
}

/// Starts torrents, and knows how the ways out are.
pub trait Starter: Send + Sync {
    /// Starts a torrent. Call within a runtime.
    ///
    /// # Errors
    /// Why it can't be started, and what to do, for the user. It names nothing of the torrent.
    fn start(&self, start: Start) -> Result<Running, String>;

    /// Fetches the torrent file that stands at a web address, or the magnet link to which that leads.
    ///
    /// # Errors
    /// Why it can't be had, for the user. It names nothing of the address.
    fn fetch<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Found, String>>;

    /// Lets all torrents together use so many bytes per second in each direction; `None`: as many as there are.
    fn limit(&self, down: Option<u64>, up: Option<u64>);

    /// How the ways out are.
    fn ways(&self) -> Ways;
}

/// How the ways out are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Circuits that stand.
    pub circuits: usize,
    /// Whether one can be used.
    pub ready: bool,
    /// Whether peers are looked for in the DHT.
    pub dht: bool,
}
