//! Pieces of version 2 that failed and came from several peers: the hashes of their blocks name the liar, without another attempt.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::torrent::picker::PeerKey;
use crate::torrent::v2::request::HashRequest;

/// Most pieces that are in doubt; of those beyond, only another attempt tells.
const MAX_DOUBTS: usize = 64;

/// Who does not answer by then is passed over: others may know.
const PATIENCE: Duration = Duration::from_secs(20);

/// Peers that are asked about one piece, at most.
const MAX_ASKED: usize = 4;

#[derive(Debug)]
struct Doubt {
    request: HashRequest,
    asked: Option<(PeerKey, Instant)>,
    /// Whom it was asked of: nobody twice, for who is silent may be the liar.
    tried: Vec<PeerKey>,
}

/// The pieces that are in doubt.
#[derive(Debug, Default)]
pub(super) struct Doubts(BTreeMap<u32, Doubt>);

impl Doubts {
    /// A piece failed; this asks for the hashes of its blocks.
    pub(super) fn add(&mut self, piece: u32, request: HashRequest) {
        if self.0.len() < MAX_DOUBTS {
            let doubt = Doubt {
                request,
                asked: None,
                tried: Vec::new(),
            };
            self.0.insert(piece, doubt);
        }
    }

    /// The piece is right now: nothing is to be asked about it any more.
    pub(super) fn passed(&mut self, piece: u32) {
        self.0.remove(&piece);
    }

    /// What to ask of a peer that has what `has` says.
    pub(super) fn next(
        &mut self,
        now: Instant,
        peer: PeerKey,
        has: impl Fn(u32) -> bool,
    ) -> Option<HashRequest> {
        let waits = |doubt: &Doubt| doubt.asked.is_some_and(|(_, at)| now < at + PATIENCE);
        self.0
            .retain(|_, doubt| doubt.tried.len() < MAX_ASKED || waits(doubt));
        let mut open = self.0.iter_mut();
        let (_, doubt) = open.find(|(piece, doubt)| {
            let more = doubt.tried.len() < MAX_ASKED && !doubt.tried.contains(&peer);
            more && !waits(doubt) && has(**piece)
        })?;
        doubt.asked = Some((peer, now));
        doubt.tried.push(peer);
        Some(doubt.request)
    }

    /// A peer answered: gives the piece, where that was asked of it.
    pub(super) fn take(&mut self, peer: PeerKey, request: &HashRequest) -> Option<u32> {
        let mut all = self.0.iter();
        let of_peer = |doubt: &Doubt| doubt.asked.is_some_and(|(who, _)| who == peer);
        let found = all.find(|(_, doubt)| of_peer(doubt) && doubt.request == *request);
        let piece = *found?.0;
        self.0.remove(&piece);
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_peer_at_a_time_is_asked_and_only_who_has_the_piece() {
        let [a, b] = [PeerKey(1), PeerKey(2)];
        let request = |index| HashRequest {
            root: [1; 32],
            base: 0,
            index,
            count: 4,
            proofs: 3,
        };
        let mut doubts = Doubts::default();
        doubts.add(5, request(20));
        let now = Instant::now();
        assert_eq!(doubts.next(now, a, |piece| piece == 4), None);
        assert_eq!(doubts.next(now, a, |piece| piece == 5), Some(request(20)));
        assert_eq!(doubts.next(now, b, |_| true), None);
        assert_eq!(doubts.take(b, &request(20)), None, "not asked");
        let later = now + PATIENCE;
        assert_eq!(doubts.next(later, b, |_| true), Some(request(20)));
        assert_eq!(doubts.take(a, &request(20)), None, "too late");
        assert_eq!(doubts.take(b, &request(24)), None);
        assert_eq!(doubts.take(b, &request(20)), Some(5));
        assert_eq!(doubts.take(b, &request(20)), None);
        // Whom nobody answers about is forgotten.
        doubts.add(6, request(24));
        let asked = (1..9).filter(|n| {
            let (at, peer) = (now + PATIENCE * *n, PeerKey(*n));
            doubts.next(at, peer, |_| true).is_some()
                && doubts.next(at + PATIENCE, peer, |_| true).is_none()
        });
        assert_eq!(asked.count(), MAX_ASKED, "and nobody twice");
        assert!(doubts.0.is_empty());
        // A piece that passed meanwhile is asked about no more.
        doubts.add(6, request(24));
        doubts.add(7, request(28));
        doubts.passed(6);
        assert_eq!(doubts.next(now, a, |_| true), Some(request(28)));
        for piece in 0..100 {
            doubts.add(piece, request(0));
        }
        assert_eq!(doubts.0.len(), MAX_DOUBTS);
    }
}
