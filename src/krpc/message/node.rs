//! The other side of KRPC: what a node that answers reads and writes. We run no such node; networks of tests do.

use std::borrow::Cow;
use std::net::SocketAddr;

use super::{MAX_TOKEN, MessageError, Query, RawItem, parse};
use crate::bencode::{self, Value};
use crate::krpc::contact::{Contact, Family, put_compact, put_node};
use crate::krpc::id::Id;
use crate::krpc::item::Item;

/// A query as it came.
#[derive(Clone)]
pub struct Asked<'a> {
    /// To be sent back.
    pub transaction: &'a [u8],
    /// Who asks.
    pub id: Id,
    /// Whether the asker answers nobody (BEP 43).
    pub read_only: bool,
    /// What is asked.
    pub query: Query<'a>,
}

impl<'a> Asked<'a> {
    /// Reads a query. An item in it is checked.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let [arguments, name, read_only, transaction, kind] =
            parse(bytes)?.fields(["a", "q", "ro", "t", "y"])?;
        if kind.and_then(Value::as_bytes) != Some(b"q") {
            return Err(MessageError::OtherKind);
        }
        let (Some(arguments), Some(name), Some(transaction)) = (
            arguments,
            name.and_then(Value::as_bytes),
            transaction.and_then(Value::as_bytes),
        ) else {
            return Err(MessageError::Malformed);
        };
        let [id] = arguments.fields(["id"])?;
        let id = id.and_then(Value::as_bytes).and_then(Id::from_bytes);
        Ok(Self {
            transaction,
            id: id.ok_or(MessageError::Malformed)?,
            read_only: read_only.and_then(Value::as_int) == Some(1),
            query: read_query(name, arguments)?.ok_or(MessageError::Malformed)?,
        })
    }
}

fn read_query<'a>(name: &[u8], arguments: Value<'a>) -> Result<Option<Query<'a>>, MessageError> {
    let [target, info_hash, port, token] =
        arguments.fields(["target", "info_hash", "port", "token"])?;
    let id = |value: Option<Value<'a>>| value.and_then(Value::as_bytes).and_then(Id::from_bytes);
    let (target, info_hash) = (id(target), id(info_hash));
    let port = port
        .and_then(Value::as_uint)
        .and_then(|port| u16::try_from(port).ok());
    let token = token
        .and_then(Value::as_bytes)
        .filter(|token| token.len() <= MAX_TOKEN);
    Ok(match name {
        b"ping" => Some(Query::Ping),
        b"find_node" => target.map(|target| Query::FindNode { target }),
        b"get_peers" => info_hash.map(|info_hash| Query::GetPeers { info_hash }),
        b"get" => target.map(|target| Query::Get { target }),
        b"announce_peer" => info_hash
            .zip(port)
            .zip(token)
            .map(|((info_hash, port), token)| Query::AnnouncePeer {
                info_hash,
                port,
                token,
            }),
        b"put" => {
            let item = read_put(arguments)?;
            item.zip(token).map(|(item, token)| Query::Put {
                token,
                item: Cow::Owned(item),
            })
        }
        _ => None,
    })
}

fn read_put(arguments: Value<'_>) -> Result<Option<Item>, MessageError> {
    let [cas, key, salt, seq, signature, value] =
        arguments.fields(["cas", "k", "salt", "seq", "sig", "v"])?;
    let Some(value) = value else {
        return Ok(None);
    };
    let raw = RawItem {
        key: key.and_then(Value::as_bytes),
        seq: seq.and_then(Value::as_int),
        signature: signature.and_then(Value::as_bytes),
        value: value.raw(),
    };
    let item = raw.read(salt.and_then(Value::as_bytes).unwrap_or_default());
    Ok(item
        .ok()
        .map(|item| item.with_cas(cas.and_then(Value::as_int))))
}

/// What a node answers.
#[derive(Clone, Copy, Default)]
pub struct Answer<'a> {
    /// Nodes, all of one family.
    pub nodes: &'a [Contact],
    /// Peers.
    pub peers: &'a [SocketAddr],
    /// For an announce or put.
    pub token: Option<&'a [u8]>,
    /// An item.
    pub item: Option<&'a Item>,
}

impl Answer<'_> {
    /// The message, from the node with this id.
    pub fn encode(&self, transaction: &[u8], own: &Id) -> Vec<u8> {
        let of = |family: Family| {
            let mut out = Vec::new();
            let nodes = self.nodes.iter().filter(|node| family.has(node.addr.ip()));
            nodes.for_each(|node| put_node(&mut out, node));
            out
        };
        let (v4, v6) = (of(Family::V4), of(Family::V6));
        let mut out = Vec::with_capacity(512);
        bencode::put_dict(&mut out, |dict| {
            bencode::put_dict(dict.key("r"), |r| {
                let signed = self.item.and_then(Item::signed);
                bencode::put_bytes(r.key("id"), own.0);
                if let Some(signed) = signed {
                    bencode::put_bytes(r.key("k"), signed.key);
                }
                if !v4.is_empty() {
                    bencode::put_bytes(r.key("nodes"), &v4);
                }
                if !v6.is_empty() {
                    bencode::put_bytes(r.key("nodes6"), &v6);
                }
                if let Some(signed) = signed {
                    bencode::put_int(r.key("seq"), signed.seq);
                    bencode::put_bytes(r.key("sig"), signed.signature);
                }
                if let Some(token) = self.token {
                    bencode::put_bytes(r.key("token"), token);
                }
                if let Some(item) = self.item {
                    r.key("v").extend_from_slice(item.value());
                }
                if !self.peers.is_empty() {
                    bencode::put_list(r.key("values"), |list| {
                        for peer in self.peers {
                            let mut value = Vec::new();
                            put_compact(&mut value, *peer);
                            bencode::put_bytes(list, &value);
                        }
                    });
                }
            });
            bencode::put_bytes(dict.key("t"), transaction);
            bencode::put_bytes(dict.key("y"), b"r");
        });
        out
    }
}

/// A refusal.
pub fn refuse(transaction: &[u8], code: u32, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    bencode::put_dict(&mut out, |dict| {
        bencode::put_list(dict.key("e"), |list| {
            bencode::put_int(list, code);
            bencode::put_bytes(list, text);
        });
        bencode::put_bytes(dict.key("t"), transaction);
        bencode::put_bytes(dict.key("y"), b"e");
    });
    out
}
