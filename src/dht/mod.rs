//! Peers from the DHT, without showing who asks (BEP 5, design of the walk in `krpc::lookup`).
//!
//! A lookup waits its turn (`queue`), gets a circuit of its own, and runs there in one of two ways (`walk`): the exit looks up
//! and sends back what it finds (PROTOCOL.md §5.8), or the walk is made from here by datagrams that leave at the exit. Nothing
//! is kept from one lookup to the next: neither nodes, ids nor circuits.

mod pace;
mod queue;
mod sieve;
mod walk;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use tokio::sync::{mpsc, oneshot};

pub use queue::{Counters, Dht, Options};

use crate::krpc::Item;

/// Finds peers of a torrent.
pub trait PeerFinder: Send + Sync {
    /// Begins to look for peers of this infohash; a lookup that has no place yet waits. `attempt` counts up after one that found
    /// nobody: each has a circuit and an exit of its own, and they take turns at the ways to look up, since an exit may lie.
    ///
    /// # Errors
    /// Too many wait already: try again later, and tell the user.
    fn find(&self, infohash: [u8; 20], attempt: u16) -> Result<Finding, Full>;

    /// What it did so far, for all who ask it together.
    fn counters(&self) -> Counters;
}

/// Too many lookups wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} DHT lookups wait already; this one is tried again later")]
pub struct Full(pub usize);

/// What a lookup brings. Dropping it ends the lookup.
#[derive(Debug)]
pub struct Finding {
    turn: Turn,
    /// Lookups that wait before this one.
    pub ahead: usize,
}

/// One that waits has no channel yet, which takes more than a thousand bytes.
#[derive(Debug)]
enum Turn {
    Waits(oneshot::Receiver<mpsc::Receiver<Found>>),
    Came(mpsc::Receiver<Found>),
    Over,
}

impl Finding {
    fn waiting(turn: oneshot::Receiver<mpsc::Receiver<Found>>, ahead: usize) -> Self {
        let turn = Turn::Waits(turn);
        Self { turn, ahead }
    }

    /// One that has its turn, and brings this.
    #[cfg(test)]
    pub(crate) fn begun(found: mpsc::Receiver<Found>) -> Self {
        let turn = Turn::Came(found);
        Self { turn, ahead: 0 }
    }

    /// What comes next; `None` when it is over. What was not awaited to its end is not lost.
    pub async fn next(&mut self) -> Option<Found> {
        if let Turn::Waits(turn) = &mut self.turn {
            self.turn = turn.await.map_or(Turn::Over, Turn::Came);
        }
        match &mut self.turn {
            Turn::Came(found) => found.recv().await,
            Turn::Waits(_) | Turn::Over => None,
        }
    }
}

/// A part of what a lookup brings.
#[derive(Clone, PartialEq, Eq)]
pub enum Found {
    /// It has its turn now.
    Begun,
    /// Somebody says that these are peers. Each is given once.
    Peers(Vec<SocketAddr>),
    /// An item that was asked for, checked. A later one is newer.
    Item(Item),
    /// It is over.
    Over(Outcome),
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Begun => f.write_str("Begun"),
            Self::Peers(peers) => write!(f, "Peers({})", peers.len()),
            Self::Item(_) => f.write_str("Item"),
            Self::Over(outcome) => outcome.fmt(f),
        }
    }
}

/// How a lookup ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Outcome {
    /// It found so many peers; there may be none.
    #[error("{0} peers")]
    Peers(usize),
    /// It found so many versions of an item, the newest last; there may be none.
    #[error("{0} items")]
    Items(usize),
    /// So many nodes keep the item now.
    #[error("{0} nodes keep it")]
    Stored(usize),
    /// There is no circuit: wait.
    #[error("no circuit")]
    NoNetwork,
    /// The circuit broke, or the exit did not do its part: another is used next time.
    #[error("the circuit was lost")]
    CircuitLost,
    /// No exit carries datagrams or looks up: try again much later.
    #[error("no exit offers it")]
    NoExit,
    /// The exits that offer it do as much as they want to: try again later.
    #[error("the exits are busy")]
    Busy,
    /// No node of the DHT answered.
    #[error("no node answers")]
    Silence,
    /// Our own rules refuse all of it.
    #[error("refused by the routes file")]
    Forbidden,
    /// There is no node to begin at.
    #[error("no node to begin at: name one with --dht-bootstrap")]
    NoBootstrap,
}
