//! What a lookup and its owner say to each other.

use std::fmt;
use std::net::SocketAddr;

use crate::krpc::contact::Contact;
use crate::krpc::item::{Item, ItemName};
use crate::krpc::message::Transaction;

/// Whom a datagram is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum To {
    /// A node at this address.
    Node(SocketAddr),
    /// The n-th of the caller's bootstrap names, which is resolved far away.
    Bootstrap(usize),
}

impl fmt::Debug for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(_) => f.write_str("Node([scrubbed])"),
            Self::Bootstrap(n) => write!(f, "Bootstrap({n})"),
        }
    }
}

/// A datagram to send.
#[derive(Clone, PartialEq, Eq)]
pub struct Transmit {
    /// To whom.
    pub to: To,
    /// The transaction id that stands in it: whoever runs many lookups on one socket tells by it whose an answer is.
    pub transaction: Transaction,
    /// The message.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Transmit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transmit")
            .field("to", &self.to)
            .field("len", &self.bytes.len())
            .finish()
    }
}

/// What a lookup is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The nodes that are closest to the target; nobody gets the true target. For a routing table.
    Nodes,
    /// Peers of the torrent whose infohash the target is.
    Peers,
    /// Peers; and the exit, with this port, becomes one of them.
    Announce {
        /// The port that peers are told; its address is the one that the datagrams come from.
        port: u16,
    },
    /// An item.
    Get(ItemName),
    /// Puts an item where it is looked for.
    Put(Item),
}

/// What a lookup found or did.
#[derive(Clone, PartialEq, Eq)]
pub enum Event {
    /// Peers that were not found before.
    Peers(Vec<SocketAddr>),
    /// An item, checked: of a mutable one the newest so far.
    Item(Item),
    /// So many nodes have stored by now what was announced or put.
    Stored(usize),
    /// The end; nothing comes after it.
    Finished(Summary),
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peers(peers) => write!(f, "Peers({})", peers.len()),
            Self::Item(_) => f.write_str("Item([item])"),
            Self::Stored(nodes) => write!(f, "Stored({nodes})"),
            Self::Finished(summary) => f.debug_tuple("Finished").field(summary).finish(),
        }
    }
}

/// What a lookup took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Queries that were sent.
    pub asked: usize,
    /// Answers that came.
    pub answered: usize,
    /// Nodes that got the true target.
    pub told: usize,
    /// Peers that were found.
    pub peers: usize,
    /// Nodes that stored what was announced or put.
    pub stored: usize,
}

/// From where a lookup begins.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Nodes that are known.
    pub contacts: Vec<Contact>,
    /// How many bootstrap names the caller has; they are asked where the known nodes are few or silent.
    pub bootstraps: usize,
}
