//! The part of the driver about peer exchange (BEP 11): whom public peers tell of, and whom we tell.

use std::net::SocketAddr;

use hushswarm_circuits::target::Target;
use tokio::time::Instant;

use super::Driver;
use crate::torrent::extension::Exchange;
use crate::torrent::pex::PeerExchange;
use crate::torrent::picker::PeerKey;
use crate::torrent::swarm::Order;
use crate::torrent::swarm::table::{MAX_HEARSAY, MAX_HEARSAY_EACH};

impl Driver {
    /// Of whom a connection may tell. Hidden peers and public ones stay apart; `further` is one more stream to the same onion
    /// service, which would say everything again.
    pub(super) fn exchange(&self, onion: bool, further: bool) -> Exchange {
        match (onion, self.is_private()) {
            (true, _) if self.gossips() && !further => Exchange::Onions,
            (false, false) => Exchange::Public,
            (true | false, _) => Exchange::Nobody,
        }
    }

    /// A public peer tells of others.
    pub(super) fn peers_came(&mut self, key: PeerKey, peers: PeerExchange) {
        if self.is_private() {
            return;
        }
        let worth_a_call = self.pex.heard(key, peers, self.setup.allow_private);
        tracing::debug!(worth_a_call = worth_a_call.len(), "told of peers");
        let told = self.told.iter().filter(|(teller, _)| *teller == key);
        // As the table would.
        let room = MAX_HEARSAY_EACH.saturating_sub(told.count());
        let room = room.min(MAX_HEARSAY.saturating_sub(self.told.len()));
        let told = worth_a_call.into_iter().map(|addr| (key, addr));
        self.told.extend(told.take(room));
        self.take_told();
    }

    /// Takes whom others told of, once the torrent is known not to be private (BEP 27).
    fn take_told(&mut self) {
        if self.info.is_none() {
            return;
        }
        let told: Vec<(PeerKey, SocketAddr)> = std::mem::take(&mut self.told);
        if self.is_private() {
            return;
        }
        let now = Instant::now().into_std();
        for (teller, addr) in told {
            self.table.add_hearsay(now, Target::ip(addr), Some(teller));
        }
    }

    /// Tells those who are to be told now.
    pub(super) fn tell_peers(&mut self) {
        self.take_told();
        if self.info.is_none() || self.is_private() {
            return;
        }
        let now = Instant::now().into_std();
        let private = self.setup.allow_private;
        while let Some((key, peers)) = self.pex.next(now, private, &mut self.rng) {
            self.shared.order(key, Order::Peers(peers));
        }
    }
}
