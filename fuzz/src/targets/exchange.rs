//! What peers tell each other of more peers.

use std::collections::BTreeSet;

use hushswarm::torrent::pex::{MAX_ADDED, PeerExchange};

/// What public peers tell each other (BEP 11).
pub fn peer_exchange(input: &[u8]) {
    if let Ok(peers) = PeerExchange::parse(input) {
        assert!(peers.added.len() <= MAX_ADDED);
        let again = PeerExchange::parse(&peers.encode()).unwrap();
        // IPv4 in IPv6 goes to the others of its kind.
        let set = |peers: &PeerExchange| peers.added.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(set(&again), set(&peers));
        assert_eq!(set(&peers).len(), peers.added.len());
        assert!(peers.added.iter().all(|addr| addr.port() != 0));
        let shown = format!("{peers:?}");
        for addr in peers.added {
            assert!(!shown.contains(&addr.to_string()));
        }
    }
}
