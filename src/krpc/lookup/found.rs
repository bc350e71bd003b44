//! The peers that a lookup found.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::krpc::contact::{Family, Network, is_usable};
use crate::krpc::settings::Settings;

/// Peers that are taken from one answer: as many as all that are told may give together before a swarm has enough, so that one
/// who lies leaves room for the others.
const MAX_PER_ANSWER: usize = 32;
/// Peers of one lookup: more than a swarm dials.
const MAX_PEERS: usize = 1024;

/// Peers, each once, few of one network.
pub(super) struct Found {
    family: Family,
    allow_private: bool,
    per_network: usize,
    peers: BTreeSet<SocketAddr>,
    networks: BTreeMap<Network, usize>,
}

impl Found {
    pub(super) fn new(family: Family, settings: &Settings) -> Self {
        Self {
            family,
            allow_private: settings.allow_private,
            per_network: settings.peers_per_network,
            peers: BTreeSet::new(),
            networks: BTreeMap::new(),
        }
    }

    /// Takes the peers of one answer; gives those that are new.
    pub(super) fn add(&mut self, peers: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
        let mut new = Vec::new();
        for peer in peers.take(MAX_PER_ANSWER) {
            if self.peers.len() >= MAX_PEERS {
                break;
            }
            if !is_usable(self.family, peer, self.allow_private) || self.peers.contains(&peer) {
                continue;
            }
            let count = self.networks.entry(Network::of(peer.ip())).or_default();
            if *count < self.per_network {
                *count += 1;
                self.peers.insert(peer);
                new.push(peer);
            }
        }
        new
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(range: std::ops::Range<u32>, network: [u8; 2]) -> impl Iterator<Item = SocketAddr> {
        range.map(move |n| {
            let [.., c, d] = n.to_be_bytes();
            SocketAddr::from(([network[0], network[1], c, d], 6881))
        })
    }

    #[test]
    fn one_network_gives_few_and_one_answer_not_thousands() {
        let mut found = Found::new(Family::V4, &Settings::default());
        assert_eq!(found.add(peers(0..256, [8, 8])).len(), 8);
        assert_eq!(
            found.add(peers(0..256, [8, 8])).len(),
            0,
            "the network is full"
        );
        let spread = |a: u8| (0..=255).map(move |c| SocketAddr::from(([9, a, c, 1], 1)));
        assert_eq!(found.add(spread(0)).len(), MAX_PER_ANSWER);
        (1..=40).for_each(|a| drop(found.add(spread(a))));
        assert_eq!(found.len(), MAX_PEERS);
    }

    #[test]
    fn private_addresses_and_known_peers_are_passed_over() {
        let mut found = Found::new(Family::V4, &Settings::default());
        let addrs = [
            "10.0.0.1:1",
            "127.0.0.1:80",
            "8.8.8.8:0",
            "8.8.8.8:1",
            "[2606:4700::1]:1",
        ];
        let addrs = addrs.map(|addr| addr.parse().unwrap());
        assert_eq!(found.add(addrs.into_iter()), [addrs[3]]);
        assert_eq!(found.add(addrs.into_iter()), []);
        let mut own = Found::new(Family::V4, &Settings::private_network());
        assert_eq!(own.add(addrs.into_iter()).len(), 3);
    }
}
