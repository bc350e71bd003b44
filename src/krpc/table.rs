//! The nodes from which a relay's lookups begin.

use std::net::SocketAddr;
use std::time::Instant;

use super::contact::{Contact, Family};
use super::id::Id;
use super::settings::Settings;

/// A routing table of one address family (BEP 5). Its owner tells it who answered and who did not, and looks up
/// ([`super::Goal::Nodes`]) what [`RoutingTable::refresh`] gives.
pub struct RoutingTable {
    _private: (),
}

impl RoutingTable {
    /// An empty table around an id of one's own, which nobody is told.
    pub fn new(_own: Id, _family: Family, _settings: &Settings) -> Self {
        Self { _private: () }
    }

    /// A node answered.
    pub fn answered(&mut self, _now: Instant, _contact: Contact) {}

    /// A node at this address did not answer.
    pub fn silent(&mut self, _now: Instant, _addr: SocketAddr) {}

    /// The `n` known nodes that are closest to a target, closest first.
    pub fn closest(&self, _target: &Id, _n: usize) -> Vec<Contact> {
        Vec::new()
    }

    /// A target to look up now, so that the table stays full: `None` where nothing is due. Each is given once.
    pub fn refresh(&mut self, _now: Instant) -> Option<Id> {
        None
    }

    /// When [`RoutingTable::refresh`] is to be asked next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// How many nodes it holds.
    pub fn len(&self) -> usize {
        0
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
