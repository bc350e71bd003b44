//! Lookups in the DHT that an exit makes for an origin (PROTOCOL.md §5.8): the request, and the records of the answer.
//!
//! Nothing here knows what a lookup is: an item's signature and a target's hash are checked by whoever uses them.

use std::fmt;
use std::net::SocketAddr;

use crate::target::{Target, TargetError};

/// Length of an infohash and of an item's target (SHA-1), bytes.
pub const ID_LEN: usize = 20;
/// Longest salt of a mutable item, bytes (BEP 44).
pub const MAX_SALT: usize = 64;
/// Longest value of an item, bencoded, bytes (BEP 44).
pub const MAX_VALUE: usize = 1000;
/// Highest sequence number: those of BEP 44 are signed, and none is negative.
pub const MAX_SEQ: u64 = i64::MAX as u64;
/// Most peers in a record: a cell holds three such records of IPv6, so none waits for others to come.
pub const MAX_PEERS: usize = 64;
/// Longest item, bytes.
pub const MAX_ITEM: usize = 1 + 32 + 1 + MAX_SALT + 8 + 64 + 2 + MAX_VALUE;
/// Longest request, bytes: an item to put, with what it replaces.
pub const MAX_REQUEST: usize = 2 + 1 + 8 + MAX_ITEM;
/// Longest payload of a record, bytes: peers of IPv6, or an item.
pub const MAX_RECORD: usize = {
    let peers = MAX_PEERS * (1 + 16 + 2);
    if peers > MAX_ITEM { peers } else { MAX_ITEM }
};
/// Length of what stands before a record's payload, bytes.
const RECORD_HEADER: usize = 3;
/// Longest answer, bytes: more than ten thousand peers, which no lookup finds; whoever sends more wants to fill memory.
pub const MAX_ANSWER: usize = 256 * 1024;

/// Which of the two DHTs (BEP 32).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Family {
    /// That of IPv4.
    V4 = 4,
    /// That of IPv6.
    V6 = 6,
}

impl Family {
    const fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            4 => Some(Self::V4),
            6 => Some(Self::V6),
            _ => None,
        }
    }
}

/// What is stored in the DHT (BEP 44). Nothing is checked but lengths. `Debug` hides all of it.
#[derive(Clone, PartialEq, Eq)]
pub enum Item {
    /// One that is named by the hash of its value.
    Immutable {
        /// Bencoded, 1 to [`MAX_VALUE`] bytes.
        value: Vec<u8>,
    },
    /// One that is named by a key and a salt, and signed.
    Mutable {
        /// Ed25519 key.
        key: [u8; 32],
        /// At most [`MAX_SALT`] bytes; empty: none.
        salt: Vec<u8>,
        /// The higher one is the newer, at most [`MAX_SEQ`].
        seq: u64,
        /// Ed25519 signature over salt, sequence number and value, as BEP 44 says.
        signature: [u8; 64],
        /// Bencoded, 1 to [`MAX_VALUE`] bytes.
        value: Vec<u8>,
    },
}

/// What an origin asks an exit for. `Debug` hides what it is about.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// In which DHT.
    pub family: Family,
    /// What for.
    pub op: Op,
}

/// What a lookup is for.
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    /// Peers of an infohash (BEP 5).
    Peers {
        /// The infohash.
        target: [u8; ID_LEN],
    },
    /// The item of this target (BEP 44).
    Get {
        /// SHA-1 of the value, or of key and salt.
        target: [u8; ID_LEN],
        /// Salt of a mutable item; empty: none.
        salt: Vec<u8>,
    },
    /// To store an item (BEP 44).
    Put {
        /// The item.
        item: Item,
        /// Stored only where the sequence number is this one. Of mutable items alone.
        cas: Option<u64>,
    },
}

/// A part of the answer. `Debug` hides addresses and items.
#[derive(Clone, PartialEq, Eq)]
pub enum Record {
    /// Peers, 1 to [`MAX_PEERS`], none with port 0.
    Peers(Vec<SocketAddr>),
    /// An item that was found. A later one is newer.
    Item(Item),
    /// The lookup is over; nothing comes after it.
    End(Summary),
}

/// How a lookup went. Numbers that are too large for the wire are cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Queries that were sent. 0: the exit could ask nobody, and another may.
    pub asked: u16,
    /// Queries that were answered.
    pub answered: u16,
    /// Nodes that took an item.
    pub stored: u16,
}

/// The sender broke §5.8: of a request, reset the stream; of a record, take another exit. Of an encoder: a field is
/// beyond its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DhtError {
    /// The bytes end early.
    #[error("a DHT message is cut off")]
    CutOff,
    /// The bytes go on after the end.
    #[error("a DHT message has bytes after its end")]
    Trailing,
    /// An operation, family, kind or type that the specification does not name.
    #[error("unknown value {0} in a DHT message")]
    Unknown(u8),
    /// A salt, value, sequence number or count out of its bounds, or a swap of an item that can't change.
    #[error("a field of a DHT message is out of its bounds")]
    Bounds,
    /// A peer that is no address, or has no port.
    #[error("a peer without address or port in a DHT record")]
    Peer,
    /// A peer that can't be read.
    #[error("bad peer in a DHT record")]
    Target(#[from] TargetError),
    /// A record that is longer than any, or more of them than an answer has.
    #[error("a DHT answer that is too long")]
    TooLong,
    /// A record after the last.
    #[error("a DHT record after the end")]
    AfterEnd,
}

/// Takes bytes off the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], DhtError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(DhtError::CutOff)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DhtError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(DhtError::CutOff)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, DhtError> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, DhtError> {
        self.array().map(u16::from_be_bytes)
    }

    fn seq(&mut self) -> Result<u64, DhtError> {
        let seq = u64::from_be_bytes(self.array()?);
        (seq <= MAX_SEQ).then_some(seq).ok_or(DhtError::Bounds)
    }

    fn salt(&mut self) -> Result<Vec<u8>, DhtError> {
        let len = usize::from(self.u8()?);
        if len > MAX_SALT {
            return Err(DhtError::Bounds);
        }
        Ok(self.take(len)?.to_vec())
    }

    fn value(&mut self) -> Result<Vec<u8>, DhtError> {
        let len = usize::from(self.u16()?);
        if !(1..=MAX_VALUE).contains(&len) {
            return Err(DhtError::Bounds);
        }
        Ok(self.take(len)?.to_vec())
    }

    fn end(self) -> Result<(), DhtError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(DhtError::Trailing)
        }
    }
}

fn put_salt(out: &mut Vec<u8>, salt: &[u8]) -> Result<(), DhtError> {
    if salt.len() > MAX_SALT {
        return Err(DhtError::Bounds);
    }
    out.push(salt.len() as u8);
    out.extend_from_slice(salt);
    Ok(())
}

fn put_seq(out: &mut Vec<u8>, seq: u64) -> Result<(), DhtError> {
    if seq > MAX_SEQ {
        return Err(DhtError::Bounds);
    }
    out.extend_from_slice(&seq.to_be_bytes());
    Ok(())
}

fn put_value(out: &mut Vec<u8>, value: &[u8]) -> Result<(), DhtError> {
    if !(1..=MAX_VALUE).contains(&value.len()) {
        return Err(DhtError::Bounds);
    }
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
    Ok(())
}

impl Item {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), DhtError> {
        match self {
            Self::Immutable { value } => {
                out.push(1);
                put_value(out, value)
            }
            Self::Mutable {
                key,
                salt,
                seq,
                signature,
                value,
            } => {
                out.push(2);
                out.extend_from_slice(key);
                put_salt(out, salt)?;
                put_seq(out, *seq)?;
                out.extend_from_slice(signature);
                put_value(out, value)
            }
        }
    }

    fn decode(bytes: &mut Bytes<'_>) -> Result<Self, DhtError> {
        match bytes.u8()? {
            1 => Ok(Self::Immutable {
                value: bytes.value()?,
            }),
            2 => Ok(Self::Mutable {
                key: bytes.array()?,
                salt: bytes.salt()?,
                seq: bytes.seq()?,
                signature: bytes.array()?,
                value: bytes.value()?,
            }),
            other => Err(DhtError::Unknown(other)),
        }
    }
}

impl Request {
    /// The bytes of the request: all that the origin sends in the stream. At most [`MAX_REQUEST`].
    ///
    /// # Errors
    /// A salt, value or sequence number is out of its bounds, or an item that can't change should be swapped.
    pub fn encode(&self) -> Result<Vec<u8>, DhtError> {
        let family = self.family as u8;
        match &self.op {
            Op::Peers { target } => Ok([&[1, family][..], target].concat()),
            Op::Get { target, salt } => {
                let mut out = [&[2, family][..], target].concat();
                put_salt(&mut out, salt)?;
                Ok(out)
            }
            Op::Put { item, cas } => {
                let mut out = vec![3, family, u8::from(cas.is_some())];
                if let Some(cas) = cas {
                    put_seq(&mut out, *cas)?;
                }
                check_swap(item, *cas)?;
                item.encode(&mut out)?;
                Ok(out)
            }
        }
    }

    /// Reads a whole request.
    ///
    /// # Errors
    /// The origin broke §5.8: reset the stream.
    pub fn decode(bytes: &[u8]) -> Result<Self, DhtError> {
        let mut bytes = Bytes(bytes);
        let op = bytes.u8()?;
        let family = bytes.u8()?;
        let family = Family::from_wire(family).ok_or(DhtError::Unknown(family))?;
        let op = match op {
            1 => Op::Peers {
                target: bytes.array()?,
            },
            2 => Op::Get {
                target: bytes.array()?,
                salt: bytes.salt()?,
            },
            3 => {
                let cas = match bytes.u8()? {
                    0 => None,
                    1 => Some(bytes.seq()?),
                    other => return Err(DhtError::Unknown(other)),
                };
                let item = Item::decode(&mut bytes)?;
                check_swap(&item, cas)?;
                Op::Put { item, cas }
            }
            other => return Err(DhtError::Unknown(other)),
        };
        bytes.end()?;
        Ok(Self { family, op })
    }
}

/// An immutable item is never another one.
fn check_swap(item: &Item, cas: Option<u64>) -> Result<(), DhtError> {
    match (item, cas) {
        (Item::Immutable { .. }, Some(_)) => Err(DhtError::Bounds),
        (Item::Immutable { .. }, None) | (Item::Mutable { .. }, _) => Ok(()),
    }
}

impl Record {
    /// The bytes of the record: `type u8 | length u16 | payload`.
    ///
    /// # Errors
    /// No peer or too many, a peer with port 0, or an item that is out of its bounds.
    pub fn encode(&self) -> Result<Vec<u8>, DhtError> {
        let mut out = vec![0; RECORD_HEADER];
        out[0] = match self {
            Self::Peers(peers) => {
                if !(1..=MAX_PEERS).contains(&peers.len()) {
                    return Err(DhtError::Bounds);
                }
                for peer in peers {
                    if peer.port() == 0 {
                        return Err(DhtError::Peer);
                    }
                    Target::ip(*peer).encode(&mut out);
                }
                1
            }
            Self::Item(item) => {
                item.encode(&mut out)?;
                2
            }
            Self::End(summary) => {
                for number in [summary.asked, summary.answered, summary.stored] {
                    out.extend_from_slice(&number.to_be_bytes());
                }
                3
            }
        };
        // At most MAX_RECORD, which a test holds below 65,536.
        let length = (out.len() - RECORD_HEADER) as u16;
        out[1..RECORD_HEADER].copy_from_slice(&length.to_be_bytes());
        Ok(out)
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Self, DhtError> {
        let mut bytes = Bytes(payload);
        let record = match kind {
            1 => Self::Peers(decode_peers(&mut bytes)?),
            2 => Self::Item(Item::decode(&mut bytes)?),
            3 => Self::End(Summary {
                asked: bytes.u16()?,
                answered: bytes.u16()?,
                stored: bytes.u16()?,
            }),
            other => return Err(DhtError::Unknown(other)),
        };
        bytes.end()?;
        Ok(record)
    }
}

fn decode_peers(bytes: &mut Bytes<'_>) -> Result<Vec<SocketAddr>, DhtError> {
    let mut peers = Vec::new();
    while !bytes.0.is_empty() {
        if peers.len() == MAX_PEERS {
            return Err(DhtError::Bounds);
        }
        let (target, rest) = Target::decode(bytes.0)?;
        bytes.0 = rest;
        let peer = target.as_ref().and_then(Target::socket_addr);
        let peer = peer.filter(|peer| peer.port() != 0).ok_or(DhtError::Peer)?;
        peers.push(peer);
    }
    if peers.is_empty() {
        return Err(DhtError::Bounds);
    }
    Ok(peers)
}

/// Reads the records of an answer as its bytes come. Holds one record that is not whole, and what was pushed.
#[derive(Default)]
pub struct Reader {
    bytes: Vec<u8>,
    /// Where the next record begins in `bytes`.
    at: usize,
    /// Bytes that came in all.
    total: usize,
    ended: bool,
}

impl Reader {
    /// Takes what came; then call [`Reader::next`] until it gives `None`.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.total = self.total.saturating_add(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// The next record that is whole; `None`: more must come.
    ///
    /// # Errors
    /// The exit broke §5.8: what came before may be used, as a DHT node's word may; ask no more of this exit.
    #[allow(
        clippy::should_implement_trait,
        reason = "`None` is not the end of the records"
    )]
    pub fn next(&mut self) -> Result<Option<Record>, DhtError> {
        let mut rest = Bytes(self.bytes.get(self.at..).unwrap_or_default());
        if self.ended && !rest.0.is_empty() {
            return Err(DhtError::AfterEnd);
        }
        if self.total > MAX_ANSWER {
            return Err(DhtError::TooLong);
        }
        let Ok([kind, high, low]) = rest.array() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_RECORD {
            return Err(DhtError::TooLong);
        }
        let Ok(payload) = rest.take(length) else {
            return Ok(None);
        };
        let record = Record::decode(kind, payload)?;
        self.at += RECORD_HEADER + length;
        self.ended = matches!(record, Record::End(_));
        Ok(Some(record))
    }

    /// Whether the last record has come. A stream that ends before was cut off.
    pub fn is_ended(&self) -> bool {
        self.ended
    }
}

impl fmt::Debug for Item {
    /// What is stored is nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[item]")
    }
}

impl fmt::Debug for Op {
    /// Never what it is about.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peers { .. } => "Peers",
            Self::Get { .. } => "Get",
            Self::Put { .. } => "Put",
        })
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {:?}", self.op, self.family)
    }
}

impl fmt::Debug for Record {
    /// Counts, never addresses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peers(peers) => write!(f, "Peers({})", peers.len()),
            Self::Item(item) => item.fmt(f),
            Self::End(summary) => summary.fmt(f),
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("bytes", &self.bytes.len())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
