//! The tracker for programs of this computer (BEP 3, 7, 23, 48), without a socket: it reads what a BitTorrent client asks, and writes
//! answers that name hidden peers by virtual addresses.
//!
//! Only who has the token is answered: no web page in the user's browser, no other user of this computer, and no tracker in
//! the world that sends a client on to this one.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use hushswarm_circuits::rendezvous::Contact;
use hushswarm_circuits::rendezvous::contact::MAX_CONTACT;

use crate::bencode;
use crate::torrent::magnet::Magnet;
use crate::torrent::tracker::NO_PORT;
use crate::torrent::tracker::query::{Announce, Head, parameters, response, scraped};

/// Where clients announce. It begins so, and without anything after it, since libtorrent asks nothing else of trackers at loopback
/// addresses (`ssrf_mitigation`).
const ANNOUNCE: &str = "/announce";
/// Where they scrape (BEP 48).
const SCRAPE: &str = "/scrape";
/// The parameter that holds the token. Not `key`, which clients have one of (BEP 7).
const TOKEN: &str = "token";
/// The parameter that holds the contact of a hidden seed, in base64url as in a link's `x.hush` (PROTOCOL.md §8.5).
const SEED: &str = "seed";
/// Contacts that one announce or URL holds at most: with more, a URL is too long for some clients.
pub const MAX_SEEDS: usize = 4;
/// Longest text of a contact.
const MAX_SEED: usize = MAX_CONTACT.div_ceil(3) * 4;
/// Torrents that one scrape asks about.
const MAX_SCRAPED: usize = 16;
/// Lowest port that visitors are led to: below stand services of the system.
pub const LOWEST_PORT: u16 = 1024;
/// The port of every virtual address: any would do, and this one no client thinks odd.
pub const PEER_PORT: u16 = 6881;
/// How often a client that knows some peers asks.
pub const INTERVAL: Duration = Duration::from_secs(120);
/// How often one does that knows none: others may be found any moment.
pub const SOON: Duration = Duration::from_secs(20);
/// What a torrent's own token is derived by.
const OF_TORRENT: &str = "hushswarm 2026-11 token of one torrent at the tracker for clients";
/// Bytes of a token.
const TOKEN_LEN: usize = 16;

/// What lets a client in. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token from random bytes.
    pub fn new(random: [u8; TOKEN_LEN]) -> Self {
        Self(BASE64URL_NOPAD.encode(&random))
    }

    /// As it stands in a URL.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// What lets a client in for this torrent alone: clients put the URLs of trackers into links that users pass on. Two links that
    /// have different ones are not known by them to be one user's.
    fn of(&self, hash: &[u8; 20]) -> Self {
        let key = blake3::derive_key(OF_TORRENT, self.0.as_bytes());
        let hash = blake3::keyed_hash(&key, hash);
        Self(BASE64URL_NOPAD.encode(&hash.as_bytes()[..TOKEN_LEN]))
    }

    /// Hashes are compared, in constant time.
    fn is(&self, said: &str) -> bool {
        blake3::hash(self.0.as_bytes()) == blake3::hash(said.as_bytes())
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[token]")
    }
}

/// Where the tracker is, and what lets clients in.
#[derive(Clone, Debug)]
pub struct Tracker {
    at: SocketAddr,
    token: Token,
}

impl Tracker {
    /// A tracker at this address.
    pub fn new(at: SocketAddr, token: Token) -> Self {
        Self { at, token }
    }

    /// Where it listens.
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// Where a client announces.
    pub fn url(&self) -> String {
        url(self.at, &self.token, &[])
    }

    /// A link for a client that knows no hidden seeds: this tracker, which is told of those that the link names, takes the place of all
    /// others. Nobody in public is to hear of a hidden torrent.
    pub fn link(&self, magnet: &Magnet) -> Magnet {
        Magnet {
            trackers: vec![url(self.at, &self.token.of(&magnet.hash.0), &magnet.seeds)],
            peers: Vec::new(),
            seeds: Vec::new(),
            // The client would ask them itself, for what hidden peers have.
            web_seeds: Vec::new(),
            ..magnet.clone()
        }
    }

    /// Reads a request's head. `closed` are ports that nobody may be led to, such as those of this program itself.
    ///
    /// # Errors
    /// The response.
    pub fn read(&self, closed: &[u16], head: &[u8]) -> Result<Asked, Vec<u8>> {
        let refused = |status: &'static str| response(status, status.as_bytes());
        let head = Head::parse(head).map_err(refused)?;
        // A name that leads to loopback by a trick is another's (DNS rebinding).
        if head.host.is_some_and(|host| !is_loopback(host)) {
            return Err(refused("403 Forbidden"));
        }
        let mut tokens = parameters(head.query).filter(|(key, _)| *key == TOKEN);
        let said = tokens.next().map_or("", |(_, said)| said);
        let is_ours = self.token.is(said);
        let lets_in = |hash: &[u8; 20]| is_ours || self.token.of(hash).is(said);
        let announce = match head.path {
            ANNOUNCE => Announce::parse(head.query),
            SCRAPE => {
                let asked = scraped(head.query, MAX_SCRAPED);
                let all = asked.iter().all(lets_in) && (is_ours || !asked.is_empty());
                return if all {
                    Ok(Asked::Scrape(asked))
                } else {
                    Err(refused("403 Forbidden"))
                };
            }
            _ if is_ours => return Err(refused("404 Not Found")),
            _ => return Err(refused("403 Forbidden")),
        };
        let known = announce
            .as_ref()
            .map_or(is_ours, |announce| lets_in(&announce.hash));
        if !known {
            return Err(refused("403 Forbidden"));
        }
        let announce = announce.map_err(failure)?;
        if (announce.port < LOWEST_PORT && is_reached(&announce))
            || closed.contains(&announce.port)
            || announce.port == self.at.port()
        {
            return Err(failure(
                "nobody can be led to this port: choose another one to listen on",
            ));
        }
        let seeds = seeds(head.query);
        // Who could not be visited is not told on, and whoever asks for him does not become a seed of what he has for some alone.
        if seeds.iter().any(Contact::is_closed) {
            return Err(failure(
                "the hidden seed lets in only some: get it with hushswarm get",
            ));
        }
        Ok(Asked::Announce(announce, seeds))
    }
}

fn url(at: SocketAddr, token: &Token, seeds: &[Contact]) -> String {
    let token = token.text();
    let mut url = format!("http://{at}{ANNOUNCE}?{TOKEN}={token}");
    for seed in seeds.iter().take(MAX_SEEDS) {
        let contact = BASE64URL_NOPAD.encode(&seed.encode());
        url.extend(["&", SEED, "=", &contact]);
    }
    url
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It announces itself, and names these hidden seeds of the swarm.
    Announce(Announce, Vec<Contact>),
    /// It asks how many there are.
    Scrape(Vec<[u8; 20]>),
}

/// Whether a client can be reached at all: some that use a proxy say that they listen nowhere, which is no fault. They find
/// others, and nobody finds them.
pub fn is_reached(announce: &Announce) -> bool {
    !matches!(announce.port, 0 | NO_PORT)
}

/// The hidden seeds that a query names; what is none is passed over.
fn seeds(query: &str) -> Vec<Contact> {
    let values = parameters(query).filter(|(key, _)| *key == SEED);
    values
        .filter(|(_, text)| text.len() <= MAX_SEED)
        .filter_map(|(_, text)| BASE64URL_NOPAD.decode(text.as_bytes()).ok())
        .filter_map(|bytes| Contact::parse(&bytes).ok())
        .take(MAX_SEEDS)
        .collect()
}

/// Whether `Host` names this computer's loopback, with or without a port.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(ip, _)| ip),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// A tracker error, which clients show.
pub fn failure(reason: &str) -> Vec<u8> {
    let mut body = Vec::new();
    bencode::put_dict(&mut body, |dict| {
        bencode::put_bytes(dict.key("failure reason"), reason);
    });
    response("200 OK", &body)
}

/// Answers an announce: these peers, of so many.
pub fn announced(announce: &Announce, peers: &[Ipv6Addr], known: usize) -> Vec<u8> {
    let none = known == 0 && !announce.is_seed && !announce.stopped;
    let interval = if none { SOON } else { INTERVAL };
    let mut body = Vec::new();
    bencode::put_dict(&mut body, |dict| {
        // Nobody knows who of them has all.
        bencode::put_int(dict.key("complete"), known as u64);
        bencode::put_int(dict.key("incomplete"), u64::from(!announce.stopped));
        bencode::put_int(dict.key("interval"), interval.as_secs());
        if announce.listed {
            bencode::put_list(dict.key("peers"), |list| {
                for peer in peers {
                    bencode::put_dict(list, |dict| {
                        bencode::put_bytes(dict.key("ip"), peer.to_string());
                        bencode::put_int(dict.key("port"), PEER_PORT);
                    });
                }
            });
            return;
        }
        bencode::put_bytes(dict.key("peers"), b"");
        // BEP 7: 18 bytes each.
        let mut compact = Vec::with_capacity(peers.len() * 18);
        for peer in peers {
            compact.extend_from_slice(&peer.octets());
            compact.extend_from_slice(&PEER_PORT.to_be_bytes());
        }
        bencode::put_bytes(dict.key("peers6"), &compact);
    });
    response("200 OK", &body)
}

/// Answers a scrape: how many hidden peers of each torrent are known.
pub fn counted(torrents: &[([u8; 20], usize)]) -> Vec<u8> {
    let mut torrents = torrents.to_vec();
    // Keys of a dictionary stand in order, each once (BEP 3).
    torrents.sort_unstable();
    torrents.dedup_by_key(|(hash, _)| *hash);
    let mut body = b"d5:filesd".to_vec();
    for (hash, known) in torrents {
        bencode::put_bytes(&mut body, hash);
        bencode::put_dict(&mut body, |dict| {
            bencode::put_int(dict.key("complete"), known as u64);
            bencode::put_int(dict.key("downloaded"), 0_u8);
            bencode::put_int(dict.key("incomplete"), 0_u8);
        });
    }
    body.extend_from_slice(b"ee");
    response("200 OK", &body)
}

#[cfg(test)]
mod tests;
