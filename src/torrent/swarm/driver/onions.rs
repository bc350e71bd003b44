//! The part of the driver about peers of a hidden swarm: whom they tell of, and whom we tell.

use std::time::Instant as Moment;

use tokio::time::Instant;

use super::early::Told;
use super::{Driver, Phase};
use crate::torrent::gossip::{Concealed, Onions};
use crate::torrent::peer::CloseReason;
use crate::torrent::picker::PeerKey;
use crate::torrent::swarm::Order;
use crate::torrent::swarm::gossip::{Origin, Word};
use crate::torrent::swarm::table::{Call, Ended};

/// Streams to the hidden peers of a link, shared among them. One stream is held to the window of a circuit: of Tor's, about 3 MB/s; eight gave two to
/// three times as much.
const ONION_STREAMS: u16 = 8;

/// Streams to each of so many onion services and hidden seeds.
pub(super) fn streams_each(services: usize) -> u16 {
    let services = u16::try_from(services).unwrap_or(u16::MAX);
    (ONION_STREAMS / services.max(1)).max(1)
}

impl Driver {
    /// Whether connections with hidden peers offer to gossip. Peers of a private torrent are its tracker's to name
    /// (BEP 27).
    pub(super) fn gossips(&self) -> bool {
        self.setup.gossip && !self.is_private()
    }

    pub(super) fn is_private(&self) -> bool {
        self.info.as_ref().is_some_and(|info| info.private)
    }

    /// Notes a call to a hidden peer, unless it is to ourselves.
    pub(super) fn may_call(&mut self, now: Moment, call: &Call) -> bool {
        let Some(peer) = Concealed::from_target(&call.target) else {
            return true;
        };
        self.note_own();
        if self.gossip.is_own(peer.name()) {
            self.table
                .ended(now, call.key, Ended::Useless, &mut self.rng);
            return false;
        }
        if call.first {
            self.origins.insert(call.key, Origin::Dialled(peer));
        }
        true
    }

    /// A connection or call ended.
    pub(super) fn onion_ended(&mut self, now: Moment, key: PeerKey) {
        self.origins.remove(&key);
        self.gossip.closed(now, key);
    }

    /// The extension handshake of a hidden peer came.
    pub(super) fn extensions_came(&mut self, key: PeerKey, gossips: bool) {
        if let Some(origin) = self.origins.get(&key).copied().filter(|_| gossips) {
            let now = Instant::now().into_std();
            self.gossip.opened(now, key, origin, &mut self.rng);
        }
        tracing::debug!(known = self.gossip.proven(), "hidden peers to tell of");
    }

    /// A hidden peer tells of others.
    pub(super) fn onions_came(&mut self, key: PeerKey, onions: Onions) {
        if !self.gossips() {
            return;
        }
        self.note_own();
        match self.gossip.heard(key, onions) {
            Ok(worth_a_call) => {
                tracing::debug!(worth_a_call = worth_a_call.len(), "told of hidden peers");
                let mut told = Vec::new();
                for word in worth_a_call {
                    match word {
                        Word::Onion(onion) => told.extend(onion.to_target().map(Told::At)),
                        Word::Seed(contact) => told.push(Told::Seed(contact)),
                        Word::Own(contact) => self.learn_seed(contact),
                    }
                }
                self.early_onions.hear(key, told.into_iter());
                self.take_early();
            }
            Err(reason) => self.shared.order(key, Order::Close(reason)),
        }
    }

    /// Tells those who are to be told now.
    pub(super) fn tell_onions(&mut self) {
        self.note_own();
        for key in self.gossip.doubles() {
            self.shared.order(key, Order::Close(CloseReason::Twice));
        }
        if self.info.is_none() || !self.gossips() {
            return;
        }
        let now = Instant::now().into_std();
        while let Some((key, onions)) = self.gossip.next(now, &mut self.rng) {
            self.shared.order(key, Order::Onions(onions));
        }
    }

    /// Notes where we are ourselves by now.
    fn note_own(&mut self) {
        let own = self.setup.own.borrow().clone();
        let seed = self.setup.own_seed.borrow().clone();
        self.gossip.set_own(own, seed);
    }

    /// Gives each of few hidden peers several streams, when something is missing.
    pub(super) fn share_streams(&mut self) {
        if !matches!(self.phase, Phase::Active { .. }) || self.is_complete() {
            return;
        }
        let dialled: Vec<Concealed> = self.gossip.dialled().collect();
        let streams = streams_each(dialled.len());
        let now = Instant::now().into_std();
        for target in dialled.iter().filter_map(Concealed::to_target) {
            self.table.add_onion(now, &target, streams);
        }
    }
}
