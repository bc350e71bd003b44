//! The name of a torrent (BEP 3) and the names of peers in a swarm.

use std::fmt;
use std::net::SocketAddr;

/// SHA-1 of the info dictionary (BEP 3). Hidden in logs; [`InfoHash::hex`] is for the user alone.
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
