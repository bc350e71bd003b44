//! The names of a torrent (BEP 3, 52) and the names of peers in a swarm.

use std::fmt;
use std::net::SocketAddr;

/// What names a swarm at trackers, in the DHT and in handshakes: SHA-1 of the info dictionary (BEP 3), or the first 20 bytes of its
/// SHA-256 (BEP 52). A torrent with both (a hybrid) is named by the former wherever one name stands for it (its record, its lock, its
/// hidden seeds, its onion service), unless it was reached by the latter alone: a link that names no other is followed under that name to
/// the end, with a record and lock of its own, and finds none of the hidden seeds under the first. Hidden in logs; [`InfoHash::hex`] is for the user alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InfoHash(pub [u8; 20]);

impl InfoHash {
    /// Lower-case hexadecimal, 40 characters. Never for a log.
    pub fn hex(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.0)
    }
}

impl fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[infohash]")
    }
}

/// SHA-256 of the info dictionary (BEP 52). Hidden in logs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InfoHashV2(pub [u8; 32]);

impl InfoHashV2 {
    /// The hash of an info dictionary.
    pub fn of(info: &[u8]) -> Self {
        Self(super::v2::merkle::sha256(info))
    }

    /// What stands for it where there is room for 20 bytes.
    pub fn truncated(&self) -> InfoHash {
        let mut short = [0; 20];
        short.copy_from_slice(&self.0[..20]);
        InfoHash(short)
    }

    /// Lower-case hexadecimal, 64 characters. Never for a log.
    pub fn hex(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.0)
    }
}

impl fmt::Debug for InfoHashV2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[infohash]")
    }
}

/// Whom a peer is reached as. Never just an address: later kinds have none.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum PeerName {
    /// A peer of the public swarm, reached through an exit.
    Public(SocketAddr),
}

impl fmt::Debug for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[peer]")
    }
}
