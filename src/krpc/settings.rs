//! What a lookup may do.

use std::time::Duration;

/// Limits and times of a lookup. `Settings::default()` is the usual.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Queries that wait for an answer at a time. One that is slow no longer counts.
    pub concurrency: usize,
    /// How many of the closest nodes are asked for what is looked for, and keep what is announced or put (BEP 5's K).
    pub closest: usize,
    /// Most nodes that ever get the true target.
    pub told: usize,
    /// Most queries of a lookup, all kinds together.
    pub queries: usize,
    /// After this a query no longer holds up others, before there is an answer to measure.
    pub slow: Duration,
    /// After this a node is taken for silent.
    pub timeout: Duration,
    /// After this a lookup ends with what it has.
    pub total: Duration,
    /// Nodes of a walk in one network (/24 of IPv4, /56 of IPv6).
    pub nodes_per_network: usize,
    /// Peers found in one network.
    pub peers_per_network: usize,
    /// Whether private, loopback and documentation addresses are taken: in a network of one's own.
    pub allow_private: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            concurrency: 8,
            closest: 8,
            told: 16,
            queries: 192,
            slow: Duration::from_secs(1),
            timeout: Duration::from_secs(6),
            total: Duration::from_secs(60),
            nodes_per_network: 2,
            peers_per_network: 8,
            allow_private: false,
        }
    }
}

impl Settings {
    /// For a network of one's own, whose nodes and peers have private addresses, many of them in one network.
    pub fn private_network() -> Self {
        Self {
            nodes_per_network: usize::MAX,
            peers_per_network: usize::MAX,
            allow_private: true,
            ..Self::default()
        }
    }
}
