//! A small HTTP tracker (BEP 3, 7, 23) without a socket: bytes of a request go in, bytes of a response come out.
//!
//! For the demonstration, tests, and swarms of one's own. It keeps what it saw, to show what a tracker can see.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::super::gossip::OnionPeer;
use super::announce::NO_PORT;
use super::query::{Announce, Head, response};
pub use super::query::{MAX_HEAD, MAX_NUMWANT};
use crate::bencode;

/// Most torrents.
pub const MAX_SWARMS: usize = 1024;
/// Most peers of a torrent.
pub const MAX_SWARM_PEERS: usize = 1000;
/// Most requests remembered; the oldest go first.
pub const MAX_SEEN: usize = 4096;

/// A request as the tracker saw it: all that a tracker ever learns. For the user's own report, never for a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Seen {
    /// When it came.
    pub at: Instant,
    /// Where it came from.
    pub from: SocketAddr,
    /// Its query string.
    pub query: String,
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[announce]")
    }
}

/// Keyed by address too, so that nobody takes over another's entry by its peer id.
type PeerKey = (IpAddr, [u8; 20]);

/// Where a peer is.
#[derive(Clone, Copy)]
enum At {
    Address(SocketAddr),
    Onion(OnionPeer),
}

impl At {
    /// Whether anybody can reach it.
    fn is_reached(&self) -> bool {
        match self {
            Self::Address(addr) => !matches!(addr.port(), 0 | NO_PORT),
            Self::Onion(_) => true,
        }
    }
}

struct Peer {
    at: At,
    is_seed: bool,
    expires: Instant,
}

/// A tracker. Any infohash is welcome, up to the limits.
pub struct Tracker {
    interval: Duration,
    swarms: BTreeMap<[u8; 20], BTreeMap<PeerKey, Peer>>,
    seen: VecDeque<Seen>,
    /// Counts answers, so that in a large swarm each names other peers.
    turn: usize,
    /// Peers may say that they are onion services.
    onions: bool,
}

/// Why a request is refused.
enum Refusal {
    /// An HTTP error.
    Http(&'static str),
    /// A tracker error (BEP 3), which clients show.
    Reason(&'static str),
}

impl Tracker {
    /// A tracker that asks for an announce every `interval` and forgets who is silent for two.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            swarms: BTreeMap::new(),
            seen: VecDeque::new(),
            turn: 0,
            onions: false,
        }
    }

    /// Believes those who say, by `ip`, that they are an onion service: for a tracker that is one itself, so that all come
    /// from nowhere. What else a peer says of its own address is passed over.
    pub fn take_onions(&mut self) {
        self.onions = true;
    }

    /// Requests seen, the oldest first.
    pub fn seen(&self) -> impl Iterator<Item = &Seen> {
        self.seen.iter()
    }

    /// Number of peers known for an infohash.
    pub fn peer_count(&self, hash: &[u8; 20]) -> usize {
        self.swarms.get(hash).map_or(0, BTreeMap::len)
    }

    /// Answers one request. `head` is all up to the empty line; send the response and close the connection.
    pub fn handle(&mut self, now: Instant, from: SocketAddr, head: &[u8]) -> Vec<u8> {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        match self.answer(now, from, head) {
            Ok(body) => response("200 OK", &body),
            Err(Refusal::Reason(reason)) => {
                let mut body = Vec::new();
                bencode::put_dict(&mut body, |dict| {
                    bencode::put_bytes(dict.key("failure reason"), reason);
                });
                response("200 OK", &body)
            }
            Err(Refusal::Http(status)) => response(status, status.as_bytes()),
        }
    }

    fn answer(&mut self, now: Instant, from: SocketAddr, head: &[u8]) -> Result<Vec<u8>, Refusal> {
        let query = announce_query(head)?;
        if self.seen.len() == MAX_SEEN {
            self.seen.pop_front();
        }
        self.seen.push_back(Seen {
            at: now,
            from,
            query: query.to_owned(),
        });
        let announce = Announce::parse(query).map_err(Refusal::Reason)?;
        self.store(now, from, &announce).map_err(Refusal::Reason)?;
        Ok(self.body(now, from, &announce))
    }

    fn store(
        &mut self,
        now: Instant,
        from: SocketAddr,
        announce: &Announce,
    ) -> Result<(), &'static str> {
        let key = (from.ip(), announce.peer_id);
        if announce.stopped {
            if let Some(swarm) = self.swarms.get_mut(&announce.hash) {
                swarm.remove(&key);
            }
            return Ok(());
        }
        if !self.swarms.contains_key(&announce.hash) && self.swarms.len() == MAX_SWARMS {
            for swarm in self.swarms.values_mut() {
                swarm.retain(|_, peer| now < peer.expires);
            }
            self.swarms.retain(|_, swarm| !swarm.is_empty());
            if self.swarms.len() == MAX_SWARMS {
                return Err("the tracker has too many torrents");
            }
        }
        let swarm = self.swarms.entry(announce.hash).or_default();
        swarm.retain(|_, peer| now < peer.expires);
        if !swarm.contains_key(&key) && swarm.len() == MAX_SWARM_PEERS {
            return Err("the torrent has too many peers");
        }
        let peer = Peer {
            at: match announce.onion.filter(|_| self.onions) {
                Some(onion) => At::Onion(onion),
                None => At::Address(SocketAddr::new(from.ip(), announce.port)),
            },
            is_seed: announce.is_seed,
            expires: now + self.interval * 2,
        };
        swarm.insert(key, peer);
        Ok(())
    }

    fn body(&mut self, now: Instant, from: SocketAddr, announce: &Announce) -> Vec<u8> {
        let own = (from.ip(), announce.peer_id);
        let empty = BTreeMap::new();
        let swarm = self.swarms.get(&announce.hash).unwrap_or(&empty);
        let alive = || swarm.iter().filter(|(_, peer)| now < peer.expires);
        let seeds = alive().filter(|(_, peer)| peer.is_seed).count();
        // Seeds have no use for each other, and nobody for those who can't be reached.
        let mut wanted: Vec<At> = alive()
            .filter(|(key, peer)| **key != own && !(peer.is_seed && announce.is_seed))
            .map(|(_, peer)| peer.at)
            .filter(At::is_reached)
            .collect();
        if !wanted.is_empty() {
            let turn = self.turn % wanted.len();
            wanted.rotate_left(turn);
        }
        wanted.truncate(if announce.stopped {
            0
        } else {
            announce.numwant
        });
        let listed = wanted.iter().any(|at| matches!(at, At::Onion(_)));
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for at in &wanted {
            let At::Address(addr) = at else { continue };
            let out = match addr.ip() {
                IpAddr::V4(ip) => {
                    v4.extend_from_slice(&ip.octets());
                    &mut v4
                }
                IpAddr::V6(ip) => {
                    v6.extend_from_slice(&ip.octets());
                    &mut v6
                }
            };
            out.extend_from_slice(&addr.port().to_be_bytes());
        }
        let mut body = Vec::new();
        bencode::put_dict(&mut body, |dict| {
            // Both are at most MAX_SWARM_PEERS.
            bencode::put_int(dict.key("complete"), seeds as u64);
            bencode::put_int(dict.key("incomplete"), (alive().count() - seeds) as u64);
            bencode::put_int(dict.key("interval"), self.interval.as_secs());
            if listed {
                // The compact form has no room for names.
                bencode::put_list(dict.key("peers"), |list| {
                    wanted.iter().for_each(|at| put_listed(list, at));
                });
                return;
            }
            bencode::put_bytes(dict.key("peers"), &v4);
            if !v6.is_empty() {
                bencode::put_bytes(dict.key("peers6"), &v6);
            }
        });
        self.turn = self.turn.wrapping_add(wanted.len());
        body
    }
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracker")
            .field("swarms", &self.swarms.len())
            .finish_non_exhaustive()
    }
}

/// Appends a peer in the older form.
fn put_listed(out: &mut Vec<u8>, at: &At) {
    let (host, port) = match at {
        At::Address(addr) => (addr.ip().to_string(), addr.port()),
        At::Onion(onion) => (onion.host(), onion.port()),
    };
    bencode::put_dict(out, |dict| {
        bencode::put_bytes(dict.key("ip"), host);
        bencode::put_int(dict.key("port"), port);
    });
}

/// The query string of a request for `/announce`.
fn announce_query(head: &[u8]) -> Result<&str, Refusal> {
    let head = Head::parse(head).map_err(Refusal::Http)?;
    match head.path {
        "/announce" => Ok(head.query),
        _ => Err(Refusal::Http("404 Not Found")),
    }
}

#[cfg(test)]
mod tests;
