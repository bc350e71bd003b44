//! Lookups in the DHT for others (PROTOCOL.md §5.8): one warm node for all of them, and a walk for each stream.
//!
//! - [`node`] owns the one datagram flow and the routing tables, and hands what comes to the walk whose query it answers.
//! - [`upkeep`] keeps the tables filled.
//! - [`walk`] runs one `krpc::Lookup`, within the limits.
//! - [`service`] is one stream: a request in, records out.
//! - [`limits`] says how much of it all; [`pending`] remembers who was asked what.
//!
//! Nothing here logs an address, an infohash, an item or a name. The node answers nobody and stores nothing (BEP 43).

mod limits;
mod node;
mod pending;
pub(super) mod service;
mod upkeep;
mod walk;

pub(super) use node::DhtNode;
pub(super) use upkeep::run;

/// What a relay tells of its lookups: counts, never addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DhtCounters {
    /// Lookups that run for others.
    pub lookups: usize,
    /// Lookups begun for others since the start.
    pub begun: usize,
    /// Lookups refused by a limit since the start.
    pub refused: usize,
    /// Queries sent since the start, those of the node's own upkeep among them.
    pub queries: usize,
    /// Queries answered since the start.
    pub answered: usize,
    /// Queries that a limit put off since the start: they are asked later, or another node is.
    pub put_off: usize,
    /// Nodes in both tables.
    pub nodes: usize,
}
