//! What of the peers that strangers name is taken: each once, few of one network, none where nobody should be led.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::krpc::contact::is_usable;
use crate::krpc::{Family, Network};

/// Most peers of one lookup: a quarter of what a swarm remembers, so that lies of the DHT leave room for others.
pub(super) const MAX_PEERS: usize = 500;

/// Most peers of one source network (an IPv4 /24 or an IPv6 /56): a liar has few networks.
pub(super) const MAX_EACH: usize = 8;

/// Lets peers through, or not.
pub(super) struct Sieve {
    allow_private: bool,
    seen: BTreeSet<SocketAddr>,
    networks: BTreeMap<Network, usize>,
}

impl Sieve {
    pub(super) fn new(allow_private: bool) -> Self {
        Self {
            allow_private,
            seen: BTreeSet::new(),
            networks: BTreeMap::new(),
        }
    }

    /// Peers let through so far.
    pub(super) fn passed(&self) -> usize {
        self.seen.len()
    }

    /// Those of these peers that are new and may be called.
    pub(super) fn take(&mut self, peers: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let mut taken = Vec::new();
        for peer in peers {
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            if self.seen.len() >= MAX_PEERS || !self.may_be(peer) || self.seen.contains(&peer) {
                continue;
            }
            if !self.allow_private {
                let count = self.networks.entry(Network::of(peer.ip())).or_default();
                if *count >= MAX_EACH {
                    continue;
                }
                *count += 1;
            }
            self.seen.insert(peer);
            taken.push(peer);
        }
        taken
    }

    fn may_be(&self, peer: SocketAddr) -> bool {
        let family = if peer.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        is_usable(family, peer, self.allow_private)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::IpAddr;

    use super::*;

    fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn nobody_is_led_to_private_addresses_or_nowhere() {
        let named = [
            "8.8.8.8:1",
            "10.0.0.1:1",
            "127.0.0.1:1",
            "169.254.1.1:1",
            "192.168.0.1:1",
            "224.0.0.1:1",
            "0.0.0.0:1",
            "8.8.4.4:0",
            "[::1]:1",
            "[fe80::1]:1",
            "[fd00::1]:1",
            "[::ffff:10.0.0.1]:1",
            "[2606:4700::1]:1",
        ];
        let mut sieve = Sieve::new(false);
        let taken = sieve.take(addrs(&named));
        assert_eq!(taken, addrs(&["8.8.8.8:1", "[2606:4700::1]:1"]));
        // Where the user says so, private ones are as good.
        let taken = Sieve::new(true).take(addrs(&named));
        assert!(taken.contains(&"10.0.0.1:1".parse().unwrap()));
        assert!(
            !taken
                .iter()
                .any(|peer| peer.port() == 0 || peer.ip().is_unspecified())
        );
    }

    #[test]
    fn a_peer_is_taken_once_and_a_network_a_few_times() {
        let mut sieve = Sieve::new(false);
        let one: Vec<_> = (0..200)
            .map(|n| SocketAddr::from(([8, 8, 8, n], 1)))
            .collect();
        assert_eq!(sieve.take(one.clone()).len(), MAX_EACH);
        assert_eq!(sieve.take(one), []);
        let six =
            |n: u128| SocketAddr::new(IpAddr::from((0x2606_4700_u128 << 96 | n).to_be_bytes()), 1);
        assert_eq!(sieve.take((0..200).map(six).collect()).len(), MAX_EACH);
        let many =
            (0..200_u8).flat_map(|a| (0..200_u8).map(move |b| SocketAddr::from(([9, a, b, 1], 1))));
        sieve.take(many.collect());
        assert_eq!(sieve.passed(), MAX_PEERS);
    }
}
