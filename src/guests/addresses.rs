//! Virtual addresses of hidden peers: a program that knows nothing but addresses gets one for each hidden peer of a swarm. Pure.
//!
//! They are addresses for one's own networks (RFC 4193 §3.1), and all that follows the first octet is drawn at random for each. Clients
//! tell peers such addresses (BEP 10 `yourip`, BEP 11): what a program tells others of them is of no use to anybody, leads nowhere from
//! anywhere else, and no two have a part in common by which two torrents could be known to be of one program.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};

use rand::{CryptoRng, RngExt as _};

use crate::hush::SeedKey;

/// Peers that have an address at once: as many as a book of hidden seeds holds.
pub const CAPACITY: usize = 4096;
/// The first octet of locally assigned unique local addresses (fd00::/8).
const LOCAL: u8 = 0xfd;
/// What every jail's own address begins with: never ours.
const OF_JAILS: [u8; 6] = [0xfd, 0xfe, 0x68, 0x75, 0x73, 0x68];
/// Draws before one gives up: each hits a taken address once in 2^52.
const DRAWS: usize = 8;

/// A hidden peer of one swarm, by the infohash and its key.
pub type Peer = ([u8; 20], SeedKey);

struct Entry {
    peer: Peer,
    /// Its place in the order of use.
    place: u64,
}

/// Which hidden peer has which address.
pub struct Addresses {
    capacity: usize,
    entries: HashMap<Ipv6Addr, Entry>,
    by_peer: HashMap<Peer, Ipv6Addr>,
    /// Least recently used first.
    order: BTreeMap<u64, Ipv6Addr>,
    next_place: u64,
}

impl Addresses {
    /// No addresses yet, with room for so many.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            entries: HashMap::new(),
            by_peer: HashMap::new(),
            order: BTreeMap::new(),
            next_place: 0,
        }
    }

    /// Whether an address may be one of these, given out or not: whatever goes there must not leave. All of fd00::/8 that no jail
    /// has, which nobody reaches by circuits anyway.
    pub fn covers(ip: IpAddr) -> bool {
        match ip {
            IpAddr::V6(ip) => {
                let octets = ip.octets();
                octets[0] == LOCAL && !octets.starts_with(&OF_JAILS)
            }
            IpAddr::V4(_) => false,
        }
    }

    /// The address of a peer: the one that it has, or a new one, for which the one that was not used for longest is taken back where
    /// all are given. `None` where chance has it so: ask again.
    pub fn give(&mut self, rng: &mut dyn CryptoRng, peer: Peer) -> Option<Ipv6Addr> {
        if let Some(&ip) = self.by_peer.get(&peer) {
            self.touch(ip);
            return Some(ip);
        }
        let ip = (0..DRAWS)
            .map(|_| draw(rng))
            .find(|ip| Self::covers((*ip).into()) && !self.entries.contains_key(ip))?;
        if self.entries.len() >= self.capacity
            && let Some((_, oldest)) = self.order.pop_first()
            && let Some(former) = self.entries.remove(&oldest)
        {
            self.by_peer.remove(&former.peer);
        }
        let place = self.next_place;
        self.next_place += 1;
        self.entries.insert(ip, Entry { peer, place });
        self.by_peer.insert(peer, ip);
        self.order.insert(place, ip);
        Some(ip)
    }

    /// Whose address this is, which counts as a use. `None`: nobody's, so refuse.
    pub fn who(&mut self, ip: Ipv6Addr) -> Option<Peer> {
        self.touch(ip);
        self.entries.get(&ip).map(|entry| entry.peer)
    }

    /// Takes an address back, for example of a peer that has turned out to be oneself.
    pub fn forget(&mut self, peer: &Peer) {
        if let Some(ip) = self.by_peer.remove(peer)
            && let Some(entry) = self.entries.remove(&ip)
        {
            self.order.remove(&entry.place);
        }
    }

    fn touch(&mut self, ip: Ipv6Addr) {
        if let Some(entry) = self.entries.get_mut(&ip) {
            self.order.remove(&entry.place);
            entry.place = self.next_place;
            self.next_place += 1;
            self.order.insert(entry.place, ip);
        }
    }

    /// How many are given.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is given.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn draw(rng: &mut dyn CryptoRng) -> Ipv6Addr {
    let mut octets: [u8; 16] = rng.random();
    octets[0] = LOCAL;
    // As an address is that no card's number is in (RFC 4291 §2.5.1), and never the subnet's own.
    octets[8] &= !0x02;
    octets[15] |= 1;
    Ipv6Addr::from(octets)
}

impl std::fmt::Debug for Addresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Addresses")
            .field("given", &self.entries.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    fn peer(n: u8) -> Peer {
        ([n / 4; 20], SeedKey([n; 32]))
    }

    #[test]
    fn a_peer_of_two_swarms_has_two_addresses_and_keeps_each() {
        let rng = &mut StdRng::seed_from_u64(1);
        let mut addresses = Addresses::new(CAPACITY);
        let (one, other) = (([1; 20], SeedKey([7; 32])), ([2; 20], SeedKey([7; 32])));
        let first = addresses.give(rng, one).unwrap();
        let second = addresses.give(rng, other).unwrap();
        assert_ne!(first, second);
        assert_eq!(addresses.give(rng, one), Some(first));
        assert_eq!(addresses.who(second), Some(other));
        assert!(first.is_unique_local() && Addresses::covers(first.into()));
        addresses.forget(&one);
        assert_eq!(addresses.who(first), None);
        assert_eq!(addresses.len(), 1);
    }

    #[test]
    fn no_two_addresses_have_anything_in_common_and_none_is_a_jails_own() {
        let rng = &mut StdRng::seed_from_u64(1);
        let mut addresses = Addresses::new(CAPACITY);
        let mut seen = std::collections::HashSet::new();
        for n in 0..=255 {
            let ip = addresses.give(rng, peer(n)).unwrap();
            assert!(seen.insert(ip.octets()[1..6].to_vec()));
        }
        let covers = |ip: &str| Addresses::covers(ip.parse().unwrap());
        assert!(covers("fd00::1") && covers("fdfe:6875:7369::1"));
        for other in ["fdfe:6875:7368::1", "fc00::1", "2001:db8::1", "198.18.1.1"] {
            assert!(!covers(other), "{other}");
        }
    }

    proptest! {
        #[test]
        fn addresses_and_peers_belong_together_whatever_happens(seed: u64, steps in prop::collection::vec((0..3u8, 0..16u8), 0..80)) {
            let rng = &mut StdRng::seed_from_u64(seed);
            let mut addresses = Addresses::new(4);
            // What was used, the latest last.
            let mut model: Vec<(Peer, Ipv6Addr)> = Vec::new();
            for (step, n) in steps {
                let peer = peer(n);
                let at = model.iter().position(|(known, _)| *known == peer);
                match step {
                    0 => {
                        let ip = addresses.give(rng, peer).unwrap();
                        prop_assert!(Addresses::covers(ip.into()));
                        match at {
                            Some(at) => prop_assert_eq!(model.remove(at), (peer, ip)),
                            None if model.len() == 4 => drop(model.remove(0)),
                            None => {}
                        }
                        model.push((peer, ip));
                    }
                    1 => {
                        if let Some(at) = at {
                            let entry = model.remove(at);
                            prop_assert_eq!(addresses.who(entry.1), Some(peer));
                            model.push(entry);
                        }
                    }
                    _ => {
                        addresses.forget(&peer);
                        model.retain(|(known, _)| *known != peer);
                    }
                }
                prop_assert_eq!(addresses.len(), model.len());
                prop_assert_eq!(addresses.order.len(), model.len());
                prop_assert_eq!(addresses.by_peer.len(), model.len());
            }
            for (peer, ip) in model {
                prop_assert_eq!(addresses.who(ip), Some(peer));
            }
        }
    }
}
