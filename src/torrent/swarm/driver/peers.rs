//! The part of the driver that calls peers and takes in those who come.

use std::net::SocketAddr;
use std::sync::Arc;

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::Target;
use tokio::time::Instant;

use super::steer::Contacted;
use super::{Driver, Phase, Via, Visitor};
use crate::route::special::Place;
use crate::torrent::infohash::PeerName;
use crate::torrent::peer::CloseReason;
use crate::torrent::picker::PeerKey;
use crate::torrent::swarm::Order;
use crate::torrent::swarm::connection::Connection;
use crate::torrent::swarm::gossip::Origin;
use crate::torrent::swarm::open::{accepted, open};
use crate::torrent::swarm::table::{Call, Ended, Way};
use crate::torrent::swarm::view::PeerKind;

/// Most connections and calls that we open ourselves.
const MAX_CONNECTED: usize = 40;

/// Most connections in all, with those that came to us.
const MAX_CONNECTIONS: usize = 60;

/// Streams that came while files were being checked and wait, at most.
const MAX_WAITING: usize = 16;

impl Driver {
    /// Opens connections, as many as there is room for.
    pub(super) fn call_peers(&mut self) {
        match self.phase {
            Phase::Metadata | Phase::Active { .. } => {}
            Phase::Starting(_) | Phase::Checking(_) | Phase::Waiting | Phase::Over => return,
        }
        let now = Instant::now().into_std();
        while self.calling.len() < MAX_CONNECTED {
            let Some(call) = self.table.next(now) else {
                return;
            };
            let concealed = Place::is_concealed(&call.target);
            if concealed && !self.may_call(now, &call) {
                continue;
            }
            let exchange = self.exchange(concealed, !call.first);
            let names = self.names_for(call.target.socket_addr());
            if let Some(addr) = call.target.socket_addr() {
                self.pex.calls(call.key, addr);
            }
            let Call {
                key, target, lane, ..
            } = call;
            let isolation = Isolation::new("swarm", &self.setup.hash.0, lane);
            let outside = Arc::clone(&self.setup.outside);
            let shared = Arc::clone(&self.shared);
            let news = self.news_sender.clone();
            self.calling.insert(key);
            let kind = match (concealed, Place::is_onion(&target)) {
                (_, true) => PeerKind::Onion,
                (true, false) => PeerKind::Hidden,
                (false, false) => PeerKind::Public,
            };
            let contacted = Contacted::called(kind, target.socket_addr());
            self.contacted.insert(key, contacted);
            let torrent = names.call.unwrap_or(self.setup.hash);
            let encryption = self.setup.encryption;
            self.calls.spawn(async move {
                let opened = match open(&*outside, &target, isolation, torrent, encryption).await {
                    Ok(opened) => opened,
                    Err(ended) => return (key, ended, None),
                };
                let connection = Connection::new(shared, key, true, names, news);
                let connection = connection.offer(exchange).encrypted(opened.encrypted);
                let reason = connection.run(opened.stream).await;
                (key, how_ended(reason), Some(reason))
            });
        }
    }

    pub(super) fn accept(&mut self, visitor: Visitor) {
        match self.phase {
            Phase::Metadata | Phase::Active { .. } => {}
            Phase::Starting(_) | Phase::Checking(_) | Phase::Waiting => {
                if self.waiting.len() < MAX_WAITING {
                    self.waiting.push_back(visitor);
                }
                return;
            }
            Phase::Over => return,
        }
        if self.calls.len() >= MAX_CONNECTIONS && !self.make_room() {
            return;
        }
        let key = self.table.add_incoming();
        self.contacted.insert(key, Contacted::came(visitor.via));
        let origin = match visitor.via {
            Via::Address => None,
            Via::Onion => Some(Origin::ToOnion),
            Via::Hidden => Some(Origin::ToSeed),
        };
        let exchange = self.exchange(origin.is_some(), false);
        if let Some(origin) = origin {
            self.origins.insert(key, origin);
        }
        let (shared, news) = (Arc::clone(&self.shared), self.news_sender.clone());
        let names = self.names_for(None);
        let torrents = [Some(self.setup.hash), names.v2].into_iter().flatten();
        self.calls.spawn(async move {
            let heard = match visitor.via {
                Via::Address => accepted(visitor.stream, torrents).await,
                Via::Onion | Via::Hidden => Some((visitor.stream, visitor.said)),
            };
            let Some((stream, said)) = heard else {
                return (key, Ended::Closed, None);
            };
            let connection = Connection::new(shared, key, false, names, news);
            // What speaks encrypted said nothing that could be read.
            let encrypted = visitor.via != Via::Address || said.is_empty();
            let mut connection = connection.offer(exchange).encrypted(encrypted);
            connection.feed(&said);
            let reason = connection.run(stream).await;
            (key, how_ended(reason), Some(reason))
        });
    }

    /// Ends the connection of a visitor on which nothing has moved for a while, so that many who only hold the door don't keep
    /// others out. Those whom we called have places of their own.
    fn make_room(&mut self) -> bool {
        let visitor = |key| !self.calling.contains(&key);
        let Some(key) = self.choker.stillest(visitor) else {
            return false;
        };
        self.choker.forget(key);
        self.shared.order(key, Order::Close(CloseReason::ByUs));
        true
    }

    pub(super) fn connection_ended(
        &mut self,
        ended: Result<(PeerKey, Ended, Option<CloseReason>), tokio::task::JoinError>,
    ) {
        let Ok((key, how, reason)) = ended else {
            // A panic: its peer stays busy, which keeps it from doing it again.
            tracing::warn!("a connection failed; please report this");
            return;
        };
        tracing::debug!(peer = key.0, ?how, reason = ?reason, "connection ended");
        self.calling.remove(&key);
        self.contacted.remove(&key);
        self.unchoked.remove(&key);
        self.merits.remove(&key);
        self.choker.forget(key);
        self.no_network = how == Ended::NoNetwork;
        if reason == Some(CloseReason::Lied) {
            self.table.ban(key);
        }
        let now = Instant::now().into_std();
        self.table.ended(now, key, how, &mut self.rng);
        self.onion_ended(now, key);
        self.pex.closed(key);
    }

    /// Takes in those who came while it was not yet known what is there.
    pub(super) fn accept_waiting(&mut self) {
        for visitor in std::mem::take(&mut self.waiting) {
            self.accept(visitor);
        }
    }
}

fn how_ended(reason: CloseReason) -> Ended {
    if reason.is_fault() {
        Ended::Fault
    } else if matches!(reason, CloseReason::BothComplete | CloseReason::Twice) {
        Ended::Useless
    } else {
        Ended::Closed
    }
}

/// An address is a peer's name; a host name is looked up at the exit.
pub(super) fn way_to(target: &Target) -> Way {
    match target.socket_addr() {
        Some(addr) => Way::Named(PeerName::Public(SocketAddr::new(addr.ip(), addr.port()))),
        None => Way::Host(target.clone()),
    }
}
