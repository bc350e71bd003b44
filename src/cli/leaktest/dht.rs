//! The world's DHT (BEP 5): nodes that know each other and the seeding peer, and note what they are asked. One datagram
//! in, one out. Node ids fit the nodes' addresses (BEP 42), since clients may ignore others.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::bencode::{self, DictWriter, Value};
use crate::krpc;
use crate::krpc::contact::put_compact;
use crate::krpc::message::node::refuse;

/// A node id or infohash.
pub type Id = [u8; 20];

/// Longest query that is read, bytes: what fits a packet.
pub const MAX_QUERY: usize = 1500;
/// Nodes in an answer.
const K: usize = 8;
/// Peers kept; those of one program are few.
const MAX_PEERS: usize = 64;

/// Whether a node id was computed from this address (BEP 42). A random id passes once in two million (L09).
pub fn is_from(id: &Id, ip: IpAddr) -> bool {
    krpc::Id(*id).is_computed_from(ip)
}

/// The id of a node at this address, from 20 random bytes.
pub fn id_for(ip: IpAddr, random: Id) -> Id {
    krpc::Id(random).made_valid_for(ip).0
}

/// Where a node is found.
#[derive(Clone, PartialEq, Eq)]
pub struct Contact {
    /// Its id.
    pub id: Id,
    /// Its address.
    pub addr: SocketAddr,
}

/// A query as it came: all that a node learns.
#[derive(Clone, PartialEq, Eq)]
pub struct Asked {
    /// Id of the asking node.
    pub id: Id,
    /// The method.
    pub method: String,
    /// The infohash, where it names one.
    pub hash: Option<Id>,
    /// The asking program's version, four bytes by custom.
    pub version: Option<Vec<u8>>,
    /// The port that an announce names.
    pub port: Option<u16>,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[query]")
    }
}

/// All nodes of one address family, and the peers they know.
pub struct Nodes {
    secret: [u8; 32],
    nodes: Vec<Contact>,
    hash: Id,
    peers: BTreeSet<SocketAddr>,
}

impl Nodes {
    /// Nodes that know of `peers` for `hash`. `secret` makes tokens that nobody guesses.
    pub fn new(secret: [u8; 32], nodes: Vec<Contact>, hash: Id, peers: &[SocketAddr]) -> Self {
        Self {
            secret,
            nodes,
            hash,
            peers: peers.iter().copied().collect(),
        }
    }

    /// The nodes.
    pub fn contacts(&self) -> &[Contact] {
        &self.nodes
    }

    fn token(&self, ip: IpAddr) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(ip.to_string().as_bytes());
        let mut token = [0; 8];
        hasher.finalize_xof().fill(&mut token);
        token
    }

    fn closest(&self, target: &Id) -> Vec<u8> {
        let mut nodes: Vec<&Contact> = self.nodes.iter().collect();
        nodes
            .sort_by_key(|node| -> [u8; 20] { std::array::from_fn(|at| node.id[at] ^ target[at]) });
        let mut out = Vec::new();
        for node in nodes.iter().take(K) {
            out.extend_from_slice(&node.id);
            put_compact(&mut out, canonical(node.addr));
        }
        out
    }

    /// Answers a datagram to node number `node`: the response, and what was asked.
    pub fn handle(
        &mut self,
        node: usize,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Option<(Vec<u8>, Option<Asked>)> {
        let message = Value::parse(bytes).ok()?;
        let [kind, transaction, method, args, version] =
            message.fields(["y", "t", "q", "a", "v"]).ok()?;
        let transaction = transaction?.as_bytes()?;
        if kind?.as_bytes()? != b"q" {
            // A response or an error: we ask nobody.
            return None;
        }
        let (method, args) = (method?.as_str()?, args?);
        let [id, target, info_hash, token, port, implied] = args
            .fields(["id", "target", "info_hash", "token", "port", "implied_port"])
            .ok()?;
        let as_id = |value: Option<Value<'_>>| -> Option<Id> {
            <[u8; 20]>::try_from(value?.as_bytes()?).ok()
        };
        let (sender, hash) = (as_id(id)?, as_id(info_hash));
        let implied = implied.and_then(Value::as_int) == Some(1);
        let port = match port.and_then(Value::as_uint) {
            _ if implied => Some(from.port()),
            Some(port) => u16::try_from(port).ok(),
            None => None,
        };
        let asked = Asked {
            id: sender,
            method: method.chars().take(32).collect(),
            hash,
            version: version
                .and_then(Value::as_bytes)
                .map(|version| version.iter().take(8).copied().collect()),
            port: port.filter(|_| method == "announce_peer"),
        };
        let own = self.nodes.get(node)?.id;
        let token_ok = token.and_then(Value::as_bytes) == Some(&self.token(from.ip())[..]);
        let family = if from.ip().to_canonical().is_ipv4() {
            "nodes"
        } else {
            "nodes6"
        };
        let response = match method {
            "ping" => respond(from, transaction, &own, |_| {}),
            "find_node" => {
                let nodes = self.closest(&as_id(target)?);
                respond(from, transaction, &own, |dict| {
                    bencode::put_bytes(dict.key(family), &nodes);
                })
            }
            "get_peers" => {
                let hash = hash?;
                let (nodes, token) = (self.closest(&hash), self.token(from.ip()));
                respond(from, transaction, &own, |dict| {
                    bencode::put_bytes(dict.key(family), &nodes);
                    bencode::put_bytes(dict.key("token"), token);
                    if hash == self.hash {
                        bencode::put_list(dict.key("values"), |list| {
                            for peer in self.peers.iter().filter(|peer| {
                                peer.is_ipv4() == from.is_ipv4() && peer.ip() != from.ip()
                            }) {
                                let mut value = Vec::new();
                                put_compact(&mut value, canonical(*peer));
                                bencode::put_bytes(list, &value);
                            }
                        });
                    }
                })
            }
            "announce_peer" if token_ok => {
                if let Some(port) = port.filter(|_| hash == Some(self.hash))
                    && self.peers.len() < MAX_PEERS
                {
                    self.peers.insert(SocketAddr::new(from.ip(), port));
                }
                respond(from, transaction, &own, |_| {})
            }
            "announce_peer" => refuse(transaction, 203, "bad token"),
            _ => refuse(transaction, 204, "method unknown"),
        };
        Some((response, Some(asked)))
    }
}

/// An IPv4 address that came by a socket for both families is one.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// A response. It tells the asker its address, as BEP 42 wants: so a client can make its id from it (L09).
fn respond(
    from: SocketAddr,
    transaction: &[u8],
    own: &Id,
    fill: impl FnOnce(&mut DictWriter<'_>),
) -> Vec<u8> {
    let (mut out, mut ip) = (Vec::new(), Vec::new());
    put_compact(&mut ip, canonical(from));
    bencode::put_dict(&mut out, |dict| {
        bencode::put_bytes(dict.key("ip"), &ip);
        bencode::put_dict(dict.key("r"), |r| {
            bencode::put_bytes(r.key("id"), own);
            fill(r);
        });
        bencode::put_bytes(dict.key("t"), transaction);
        bencode::put_bytes(dict.key("y"), b"r");
    });
    out
}

#[cfg(test)]
mod tests;
