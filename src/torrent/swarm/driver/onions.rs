//! The part of the driver about onion peers: whom they tell of, and whom we tell.

use std::time::Instant as Moment;

use tokio::time::Instant;

use super::{Driver, Phase};
use crate::torrent::gossip::{OnionPeer, Onions};
use crate::torrent::peer::CloseReason;
use crate::torrent::picker::PeerKey;
use crate::torrent::swarm::Order;
use crate::torrent::swarm::table::{Call, Ended};

/// Streams to the onion services of a link, shared among them. One stream is held to the window of Tor's circuit, about 3 MB/s; eight gave two to
/// three times as much.
const ONION_STREAMS: u16 = 8;

/// Streams to each of so many onion services.
pub(super) fn streams_each(services: usize) -> u16 {
    let services = u16::try_from(services).unwrap_or(u16::MAX);
    (ONION_STREAMS / services.max(1)).max(1)
}

impl Driver {
    /// Whether connections through onion services offer to gossip. Peers of a private torrent are its tracker's to name
    /// (BEP 27).
    pub(super) fn gossips(&self) -> bool {
        self.setup.gossip && !self.is_private()
    }

    pub(super) fn is_private(&self) -> bool {
        self.info.as_ref().is_some_and(|info| info.private)
    }

    /// Notes a call to an onion service, unless it is to ourselves.
    pub(super) fn may_call(&mut self, now: Moment, call: &Call) -> bool {
        let Some(onion) = OnionPeer::from_target(&call.target).filter(|_| call.first) else {
            return true;
        };
        if self.gossip.is_own(&onion) {
            self.table
                .ended(now, call.key, Ended::Useless, &mut self.rng);
            return false;
        }
        self.onions.insert(call.key, onion);
        true
    }

    /// A connection or call ended.
    pub(super) fn onion_ended(&mut self, now: Moment, key: PeerKey) {
        self.onions.remove(&key);
        self.gossip.closed(now, key);
    }

    /// The extension handshake of an onion peer came.
    pub(super) fn extensions_came(&mut self, key: PeerKey, gossips: bool) {
        if gossips {
            let now = Instant::now().into_std();
            let dialled = self.onions.get(&key).copied();
            self.gossip.opened(now, key, dialled, &mut self.rng);
        }
        tracing::debug!(known = self.gossip.proven(), "onion peers to tell of");
    }

    /// An onion peer tells of others.
    pub(super) fn onions_came(&mut self, key: PeerKey, onions: Onions) {
        if !self.gossips() {
            return;
        }
        match self.gossip.heard(key, onions) {
            Ok(worth_a_call) => {
                tracing::debug!(worth_a_call = worth_a_call.len(), "told of onion peers");
                let targets = worth_a_call.iter().filter_map(OnionPeer::to_target);
                self.early_onions.hear(key, targets);
                self.take_early();
            }
            Err(reason) => self.shared.order(key, Order::Close(reason)),
        }
    }

    /// Tells those who are to be told now.
    pub(super) fn tell_onions(&mut self) {
        let own = self.setup.own.borrow().clone();
        self.gossip.set_own(own);
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

    /// Gives each of few onion services several streams, when something is missing.
    pub(super) fn share_streams(&mut self) {
        if !matches!(self.phase, Phase::Active { .. }) || self.is_complete() {
            return;
        }
        let dialled: Vec<OnionPeer> = self.gossip.dialled().collect();
        let streams = streams_each(dialled.len());
        let now = Instant::now().into_std();
        for target in dialled.iter().filter_map(OnionPeer::to_target) {
            self.table.add_onion(now, &target, streams);
        }
    }
}
