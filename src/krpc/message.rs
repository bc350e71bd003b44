//! KRPC messages (BEP 5, 32, 43, 44): the queries that we send and the answers that we read.
//!
//! A query is the same for everybody who asks the same thing, but for its node id, its transaction id and its token: keys in
//! canonical order, `ro` 1 (BEP 43), no `v`, no `want`, never `implied_port`. Of an answer, what claims to be our own
//! address (`ip`, BEP 42) is not even read.

use std::borrow::Cow;
use std::net::SocketAddr;

use super::contact::{Contact, Family, read_compact, read_nodes};
use super::id::Id;
use super::item::{Item, ItemError, ItemName};
use crate::bencode::{self, BencodeError, DictWriter, Items, Value};

pub mod node;

/// Longest message that is read, bytes: more than one datagram of the internet carries whole, and than any answer of BEP 5
/// and 44 needs.
pub const MAX_MESSAGE: usize = 2048;
/// Longest token that is kept and sent back, bytes. Known nodes give 4 to 20.
pub const MAX_TOKEN: usize = 64;
/// Length of our transaction ids, bytes: nobody guesses one of them while it is open.
pub const TRANSACTION_LEN: usize = 4;

/// Says which query an answer is to.
pub type Transaction = [u8; TRANSACTION_LEN];

/// The message is not KRPC: drop it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Longer than [`MAX_MESSAGE`].
    #[error("the message is too long")]
    TooLong,
    /// Not bencode.
    #[error("not bencode")]
    Bencode(#[from] BencodeError),
    /// A key is missing, or holds something else than BEP 5 says.
    #[error("no KRPC message")]
    Malformed,
    /// A query where an answer was awaited, or the reverse.
    #[error("another kind of message")]
    OtherKind,
}

/// What a node is asked.
#[derive(Clone, PartialEq, Eq)]
pub enum Query<'a> {
    /// Whether it is there.
    Ping,
    /// For the nodes that are closest to this id.
    FindNode {
        /// The id.
        target: Id,
    },
    /// For peers.
    GetPeers {
        /// Of this torrent.
        info_hash: Id,
    },
    /// To remember us as a peer.
    AnnouncePeer {
        /// Of this torrent.
        info_hash: Id,
        /// At this port of the address that the query comes from.
        port: u16,
        /// What the node gave us before.
        token: &'a [u8],
    },
    /// For an item.
    Get {
        /// Its target.
        target: Id,
    },
    /// To keep an item.
    Put {
        /// What the node gave us before.
        token: &'a [u8],
        /// The item.
        item: Cow<'a, Item>,
    },
}

impl Query<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::FindNode { .. } => "find_node",
            Self::GetPeers { .. } => "get_peers",
            Self::AnnouncePeer { .. } => "announce_peer",
            Self::Get { .. } => "get",
            Self::Put { .. } => "put",
        }
    }

    /// The message, from a read-only node with this id.
    pub fn encode(&self, transaction: &Transaction, own: &Id) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        bencode::put_dict(&mut out, |dict| {
            bencode::put_dict(dict.key("a"), |a| self.put_arguments(a, own));
            bencode::put_bytes(dict.key("q"), self.name());
            bencode::put_int(dict.key("ro"), 1);
            bencode::put_bytes(dict.key("t"), transaction);
            bencode::put_bytes(dict.key("y"), b"q");
        });
        out
    }

    fn put_arguments(&self, a: &mut DictWriter<'_>, own: &Id) {
        if let Self::Put { item, .. } = self
            && let Some(cas) = item.signed().and_then(|signed| signed.cas)
        {
            bencode::put_int(a.key("cas"), cas);
        }
        bencode::put_bytes(a.key("id"), own.0);
        match self {
            Self::Ping => {}
            Self::FindNode { target } | Self::Get { target } => {
                bencode::put_bytes(a.key("target"), target.0);
            }
            Self::GetPeers { info_hash } => bencode::put_bytes(a.key("info_hash"), info_hash.0),
            Self::AnnouncePeer {
                info_hash,
                port,
                token,
            } => {
                bencode::put_bytes(a.key("info_hash"), info_hash.0);
                bencode::put_int(a.key("port"), *port);
                bencode::put_bytes(a.key("token"), token);
            }
            Self::Put { token, item } => {
                if let Some(signed) = item.signed() {
                    bencode::put_bytes(a.key("k"), signed.key);
                    if !signed.salt.is_empty() {
                        bencode::put_bytes(a.key("salt"), &signed.salt);
                    }
                    bencode::put_int(a.key("seq"), signed.seq);
                    bencode::put_bytes(a.key("sig"), signed.signature);
                }
                bencode::put_bytes(a.key("token"), token);
                a.key("v").extend_from_slice(item.value());
            }
        }
    }
}

/// What a node answered, read where it stands.
#[derive(Clone)]
pub struct Response<'a> {
    /// The node that answers.
    pub id: Id,
    /// What it wants to see again with an announce or a put.
    pub token: Option<&'a [u8]>,
    nodes: Option<&'a [u8]>,
    nodes6: Option<&'a [u8]>,
    values: Option<Items<'a>>,
    item: Option<RawItem<'a>>,
}

/// An item as it stands in a message: `k`, `salt`, `seq`, `sig`, `v`.
#[derive(Clone, Copy)]
struct RawItem<'a> {
    key: Option<&'a [u8]>,
    seq: Option<i64>,
    signature: Option<&'a [u8]>,
    value: &'a [u8],
}

impl RawItem<'_> {
    fn read(&self, salt: &[u8]) -> Result<Item, ItemError> {
        let (key, seq, signature) = match (self.key, self.seq, self.signature) {
            (None, _, _) => return Item::immutable(self.value),
            (Some(key), Some(seq), Some(signature)) => (key, seq, signature),
            _ => return Err(ItemError::Forged),
        };
        let (Ok(key), Ok(signature)) = (key.try_into(), signature.try_into()) else {
            return Err(ItemError::Forged);
        };
        Item::mutable(key, salt, seq, self.value, signature)
    }
}

impl<'a> Response<'a> {
    /// The nodes that it tells of. Where they are, nobody has checked.
    pub fn nodes(&self, family: Family) -> impl Iterator<Item = Contact> + use<'a> {
        let nodes = match family {
            Family::V4 => self.nodes,
            Family::V6 => self.nodes6,
        };
        read_nodes(family, nodes.unwrap_or_default())
    }

    /// The peers that it tells of. Where they are, nobody has checked.
    pub fn peers(&self, family: Family) -> impl Iterator<Item = SocketAddr> + use<'a> {
        let values = self.values.clone().into_iter().flatten();
        values.filter_map(move |value| {
            let bytes = value.as_bytes()?;
            (bytes.len() == family.compact_len()).then(|| read_compact(family, bytes))?
        })
    }

    /// The item of this name that it holds. `None` where it holds none.
    ///
    /// # Errors
    /// What it gave is not that item.
    pub fn item(&self, name: &ItemName) -> Option<Result<Item, ItemError>> {
        let raw = self.item?;
        Some(raw.read(name.salt()).and_then(|item| item.named(name)))
    }

    fn read(message: Value<'a>) -> Result<Self, MessageError> {
        let [id, key, nodes, nodes6, seq, signature, token, value, values] = message.fields([
            "id", "k", "nodes", "nodes6", "seq", "sig", "token", "v", "values",
        ])?;
        let bytes = |value: Option<Value<'a>>| value.and_then(Value::as_bytes);
        Ok(Self {
            id: bytes(id)
                .and_then(Id::from_bytes)
                .ok_or(MessageError::Malformed)?,
            token: bytes(token).filter(|token| token.len() <= MAX_TOKEN),
            nodes: bytes(nodes),
            nodes6: bytes(nodes6),
            values: values.and_then(Value::as_list),
            item: value.map(|value| RawItem {
                key: bytes(key),
                seq: seq.and_then(Value::as_int),
                signature: bytes(signature),
                value: value.raw(),
            }),
        })
    }
}

/// What came back.
#[derive(Clone)]
pub enum Reply<'a> {
    /// An answer.
    Response(Response<'a>),
    /// A refusal, with its code (BEP 5, 44).
    Error(i64),
}

impl<'a> Reply<'a> {
    /// Reads an answer or error: its transaction id, which may be anybody's, and what it says.
    ///
    /// # Errors
    /// It is neither.
    pub fn decode(bytes: &'a [u8]) -> Result<(&'a [u8], Self), MessageError> {
        let [error, response, transaction, kind] = parse(bytes)?.fields(["e", "r", "t", "y"])?;
        let transaction = transaction
            .and_then(Value::as_bytes)
            .ok_or(MessageError::Malformed)?;
        let reply = match kind.and_then(Value::as_bytes) {
            Some(b"r") => Self::Response(Response::read(response.ok_or(MessageError::Malformed)?)?),
            Some(b"e") => {
                let code = error.and_then(|error| error.as_list()?.next()?.as_int());
                Self::Error(code.ok_or(MessageError::Malformed)?)
            }
            Some(b"q") => return Err(MessageError::OtherKind),
            _ => return Err(MessageError::Malformed),
        };
        Ok((transaction, reply))
    }
}

fn parse(bytes: &[u8]) -> Result<Value<'_>, MessageError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(MessageError::TooLong);
    }
    Ok(Value::parse(bytes)?)
}

/// The transaction id of an answer or error, for whoever runs many lookups on one socket. `None` where it can be to none of
/// our queries. Whether the rest is sound, [`super::Lookup::handle`] finds out.
pub fn transaction_of(bytes: &[u8]) -> Option<Transaction> {
    let [kind, transaction] = parse(bytes).ok()?.fields(["y", "t"]).ok()?;
    if !matches!(kind?.as_bytes()?, b"r" | b"e") {
        return None;
    }
    transaction?.as_bytes()?.try_into().ok()
}

#[cfg(test)]
mod tests;
