//! The part of the driver about peer exchange (BEP 11): whom public peers tell of, and whom we tell.

use hushswarm_circuits::target::Target;
use tokio::time::Instant;

use super::Driver;
use super::early::Told;
use crate::torrent::extension::Exchange;
use crate::torrent::pex::PeerExchange;
use crate::torrent::picker::PeerKey;
use crate::torrent::swarm::Order;

impl Driver {
    /// Of whom a connection may tell. Hidden peers and public ones stay apart; `further` is one more stream to the same hidden
    /// peer, which would say everything again.
    pub(super) fn exchange(&self, hidden: bool, further: bool) -> Exchange {
        match (hidden, self.is_private()) {
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
        self.early_peers
            .hear(key, worth_a_call.into_iter().map(Target::ip).map(Told::At));
        self.take_early();
    }

    /// Tells those who are to be told now.
    pub(super) fn tell_peers(&mut self) {
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
