//! Who asks: our lookup, and a plain client beside it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hushswarm::krpc::message::{Query, Reply};
use hushswarm::krpc::{Contact, Event, Family, Id, Item, Lookup, Summary, To, Transmit};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::network::{Asker, K};

/// A lookup of ours, and what it gave.
pub(crate) struct Ours {
    pub(crate) lookup: Lookup,
    /// Peers, with the time at which each came.
    pub(crate) peers: Vec<(Instant, SocketAddr)>,
    pub(crate) items: Vec<Item>,
    pub(crate) stored: usize,
    pub(crate) summary: Option<Summary>,
}

impl Ours {
    pub(crate) fn new(lookup: Lookup) -> Self {
        Self {
            lookup,
            peers: Vec::new(),
            items: Vec::new(),
            stored: 0,
            summary: None,
        }
    }
}

impl Asker for Ours {
    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        self.lookup.poll_transmit(now)
    }

    fn handle(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        self.lookup.handle(now, from, bytes);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.lookup.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.lookup.handle_timeout(now);
    }

    fn poll(&mut self, now: Instant) -> bool {
        while let Some(event) = self.lookup.poll_event() {
            assert!(self.summary.is_none(), "nothing comes after the end");
            match event {
                Event::Peers(peers) => self.peers.extend(peers.into_iter().map(|peer| (now, peer))),
                Event::Item(item) => self.items.push(item),
                Event::Stored(nodes) => self.stored = nodes,
                Event::Finished(summary) => self.summary = Some(summary),
            }
        }
        self.summary.is_some()
    }
}

/// After this a plain client asks another beside a slow one, and gives a silent one up (as libtorrent does).
const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(15);
/// Queries of a plain client at a time (BEP 5 clients after Kademlia's paper: alpha).
const ALPHA: usize = 3;

struct Candidate {
    contact: Contact,
    asked: Option<(Instant, [u8; 4])>,
    answered: bool,
    failed: bool,
}

/// A client as most are: it asks every node for the infohash itself, three at a time, until the closest 8 have answered.
pub(crate) struct Plain {
    target: Id,
    own: Id,
    rng: StdRng,
    candidates: Vec<Candidate>,
    pub(crate) peers: Vec<(Instant, SocketAddr)>,
    seen: BTreeSet<SocketAddr>,
    now: Instant,
}

impl Plain {
    pub(crate) fn new(now: Instant, target: Id, start: Vec<Contact>, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut plain = Self {
            target,
            own: Id::random(&mut rng),
            rng,
            candidates: Vec::new(),
            peers: Vec::new(),
            seen: BTreeSet::new(),
            now,
        };
        start.into_iter().for_each(|contact| plain.add(contact));
        plain
    }

    fn add(&mut self, contact: Contact) {
        if self
            .candidates
            .iter()
            .any(|known| known.contact.addr == contact.addr)
        {
            return;
        }
        self.candidates.push(Candidate {
            contact,
            asked: None,
            answered: false,
            failed: false,
        });
        self.candidates
            .sort_by_key(|known| known.contact.id.distance(&self.target));
        self.candidates.truncate(100);
    }

    fn slow(&self, at: Instant) -> bool {
        self.now >= at + SHORT
    }
}

impl Asker for Plain {
    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        self.now = now;
        let open = |known: &&Candidate| !known.answered && !known.failed;
        let waiting = self.candidates.iter().filter(open);
        let waiting = waiting.filter(|known| known.asked.is_some_and(|(at, _)| !self.slow(at)));
        if waiting.count() >= ALPHA {
            return None;
        }
        let transaction: [u8; 4] = self.rng.random();
        let passed = |known: &&mut Candidate| {
            let slow = known.asked.is_some_and(|(at, _)| now >= at + SHORT);
            known.failed || (slow && !known.answered)
        };
        let mut top = self
            .candidates
            .iter_mut()
            .filter(|known| !passed(known))
            .take(K);
        let next = top.find(|known| known.asked.is_none())?;
        next.asked = Some((now, transaction));
        let query = Query::GetPeers {
            info_hash: self.target,
        };
        let bytes = query.encode(&transaction, &self.own);
        Some(Transmit {
            to: To::Node(next.contact.addr),
            transaction,
            bytes,
        })
    }

    fn handle(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        self.now = now;
        let Ok((transaction, Reply::Response(response))) = Reply::decode(bytes) else {
            return;
        };
        let asked = |known: &&mut Candidate| {
            let same = known.asked.is_some_and(|(_, own)| own[..] == *transaction);
            same && known.contact.addr == from && !known.failed
        };
        let Some(known) = self.candidates.iter_mut().find(asked) else {
            return;
        };
        known.answered = true;
        for peer in response.peers(Family::V4) {
            if self.seen.insert(peer) {
                self.peers.push((now, peer));
            }
        }
        let nodes: Vec<Contact> = response.nodes(Family::V4).take(K).collect();
        nodes.into_iter().for_each(|contact| self.add(contact));
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let open = self
            .candidates
            .iter()
            .filter(|known| !known.answered && !known.failed);
        let asked = open.filter_map(|known| known.asked.map(|(at, _)| at));
        asked
            .map(|at| if self.slow(at) { at + LONG } else { at + SHORT })
            .min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        for known in &mut self.candidates {
            known.failed |= !known.answered && known.asked.is_some_and(|(at, _)| now >= at + LONG);
        }
    }

    fn poll(&mut self, _: Instant) -> bool {
        let slow = |known: &Candidate| known.asked.is_some_and(|(at, _)| self.slow(at));
        let open = |known: &&Candidate| known.answered || !(known.failed || slow(known));
        let mut top = self.candidates.iter().filter(open).take(K);
        top.all(|known| known.answered)
    }
}
