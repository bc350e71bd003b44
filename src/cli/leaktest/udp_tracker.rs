//! The world's UDP tracker (BEP 15): one datagram in, one out. It names the seeding peer to whoever asks for its torrent.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// First eight bytes of a connect request.
const MAGIC: u64 = 0x0417_2710_1980;
const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const ERROR: u32 = 3;
/// Longest datagram that is read, bytes: an announce with as much URL data (BEP 41) as goes into a packet.
pub const MAX_DATAGRAM: usize = 1500;
/// Seconds between announces.
const INTERVAL: u32 = 60;

/// An announce as it came: all that the tracker learns.
#[derive(Clone, PartialEq, Eq)]
pub struct Announce {
    /// Peer id.
    pub peer_id: [u8; 20],
    /// The address that the client says it has; zero where it says none (L07).
    pub ip: Ipv4Addr,
    /// The client's key.
    pub key: u32,
    /// Where it says it listens.
    pub port: u16,
}

impl std::fmt::Debug for Announce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[announce]")
    }
}

/// A tracker for one torrent with fixed peers.
pub struct UdpTracker {
    secret: [u8; 32],
    hash: [u8; 20],
    peers: Vec<SocketAddr>,
}

impl UdpTracker {
    /// Names `peers` to whoever announces `hash`. `secret` makes connection ids that nobody guesses.
    pub fn new(secret: [u8; 32], hash: [u8; 20], peers: Vec<SocketAddr>) -> Self {
        Self {
            secret,
            hash,
            peers,
        }
    }

    /// The id belongs to the sender, so that nobody announces for another (BEP 15).
    fn connection(&self, from: SocketAddr) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        match from.ip() {
            IpAddr::V4(ip) => hasher.update(&ip.octets()),
            IpAddr::V6(ip) => hasher.update(&ip.octets()),
        };
        hasher.update(&from.port().to_be_bytes());
        let mut id = [0; 8];
        hasher.finalize_xof().fill(&mut id);
        u64::from_be_bytes(id)
    }

    /// Answers a datagram; gives the response and, where it was one, the announce.
    pub fn handle(&self, from: SocketAddr, bytes: &[u8]) -> Option<(Vec<u8>, Option<Announce>)> {
        let u32_at = |at: usize| {
            let word = bytes.get(at..at + 4)?.first_chunk::<4>()?;
            Some(u32::from_be_bytes(*word))
        };
        let connection = u64::from_be_bytes(*bytes.first_chunk::<8>()?);
        let (action, transaction) = (u32_at(8)?, u32_at(12)?);
        let answer = |action: u32, rest: &[u8]| {
            [&action.to_be_bytes()[..], &transaction.to_be_bytes(), rest].concat()
        };
        if action == CONNECT && connection == MAGIC {
            let id = self.connection(from).to_be_bytes();
            return Some((answer(CONNECT, &id), None));
        }
        if action != ANNOUNCE {
            return Some((answer(ERROR, b"not here"), None));
        }
        let hash = bytes.get(16..36)?;
        let announce = Announce {
            peer_id: *bytes.get(36..56)?.first_chunk()?,
            ip: Ipv4Addr::from(u32_at(84)?),
            key: u32_at(88)?,
            port: u16::from_be_bytes(*bytes.get(96..98)?.first_chunk()?),
        };
        if connection != self.connection(from) {
            return Some((answer(ERROR, b"connect first"), Some(announce)));
        }
        if hash != self.hash {
            return Some((answer(ERROR, b"unknown torrent"), Some(announce)));
        }
        let mut rest = INTERVAL.to_be_bytes().to_vec();
        // Nobody is missing anything, and the peers have all.
        rest.extend(0_u32.to_be_bytes());
        rest.extend(1_u32.to_be_bytes());
        for peer in &self.peers {
            match (peer.ip(), from.ip().to_canonical()) {
                (IpAddr::V4(ip), IpAddr::V4(_)) => rest.extend(ip.octets()),
                (IpAddr::V6(ip), IpAddr::V6(_)) => rest.extend(ip.octets()),
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => continue,
            }
            rest.extend(peer.port().to_be_bytes());
        }
        Some((answer(ANNOUNCE, &rest), Some(announce)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tracker() -> UdpTracker {
        let peers = vec![
            "22.2.0.1:6881".parse().unwrap(),
            "[2a77::2]:6881".parse().unwrap(),
        ];
        UdpTracker::new([3; 32], [1; 20], peers)
    }

    fn from() -> SocketAddr {
        "33.1.0.2:4000".parse().unwrap()
    }

    fn connect(tracker: &UdpTracker, from: SocketAddr) -> [u8; 8] {
        let request = [&MAGIC.to_be_bytes()[..], &[0, 0, 0, 0, 9, 9, 9, 9]].concat();
        let (answer, announce) = tracker.handle(from, &request).unwrap();
        assert_eq!(answer[..8], [0, 0, 0, 0, 9, 9, 9, 9]);
        assert!(announce.is_none());
        answer[8..].try_into().unwrap()
    }

    fn announce(connection: [u8; 8], hash: u8) -> Vec<u8> {
        let mut out = connection.to_vec();
        out.extend([0, 0, 0, 1, 7, 7, 7, 7]);
        out.extend([hash; 20]);
        out.extend([b'p'; 20]);
        out.extend([0; 28]);
        out.extend([33, 1, 0, 2]);
        out.extend([0, 0, 0, 5, 255, 255, 255, 255, 0x1a, 0xe1]);
        out
    }

    #[test]
    fn peers_of_the_askers_family_are_named() {
        let tracker = tracker();
        let id = connect(&tracker, from());
        let (answer, seen) = tracker.handle(from(), &announce(id, 1)).unwrap();
        assert_eq!(answer[..8], [0, 0, 0, 1, 7, 7, 7, 7]);
        assert_eq!(answer[20..], [22, 2, 0, 1, 0x1a, 0xe1]);
        let seen = seen.unwrap();
        assert_eq!(
            (seen.ip, seen.key, seen.port),
            ([33, 1, 0, 2].into(), 5, 6881)
        );
        let six: SocketAddr = "[2a77::9]:1".parse().unwrap();
        let id = connect(&tracker, six);
        let (answer, _) = tracker.handle(six, &announce(id, 1)).unwrap();
        assert_eq!(answer.len(), 20 + 18);
    }

    #[test]
    fn strangers_ids_and_other_torrents_are_refused_but_seen() {
        let tracker = tracker();
        let id = connect(&tracker, "33.1.0.2:4001".parse().unwrap());
        for request in [announce(id, 1), announce(connect(&tracker, from()), 2)] {
            let (answer, seen) = tracker.handle(from(), &request).unwrap();
            assert_eq!(answer[..4], [0, 0, 0, 3]);
            assert!(seen.is_some());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_or_dropped(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some((answer, _)) = tracker().handle(from(), &bytes) {
                prop_assert_eq!(&answer[4..8], &bytes[12..16]);
            }
        }
    }
}
