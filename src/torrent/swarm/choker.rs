//! Whom to give blocks: those who give us most, and one more by turns (BEP 3).

use rand::Rng;
use rand::seq::IndexedRandom;

use crate::torrent::picker::PeerKey;

/// Peers unchoked for their rate.
const SLOTS: usize = 8;

/// Rounds that the optimistic peer keeps its turn: of 10 s each, so 30 s.
const OPTIMISTIC_ROUNDS: u32 = 3;

/// A peer that may be unchoked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) key: PeerKey,
    /// Wants something and is not snubbing us.
    pub(super) eligible: bool,
    /// What it gave us in the last round, or took when we are complete; bytes.
    pub(super) merit: u64,
}

/// Chooses whom to unchoke, round by round.
#[derive(Debug, Default)]
pub(super) struct Choker {
    optimistic: Option<PeerKey>,
    rounds: u32,
}

impl Choker {
    /// The peers to be unchoked in the round that begins.
    pub(super) fn round(&mut self, peers: &[Candidate], rng: &mut impl Rng) -> Vec<PeerKey> {
        let mut eligible: Vec<&Candidate> = peers.iter().filter(|peer| peer.eligible).collect();
        // Stable: among equals, who has been there longest stays.
        eligible.sort_by_key(|peer| std::cmp::Reverse(peer.merit));
        let mut chosen: Vec<PeerKey> = eligible.iter().take(SLOTS).map(|peer| peer.key).collect();
        let rest = eligible.get(SLOTS..).unwrap_or(&[]);
        let stays = !self.rounds.is_multiple_of(OPTIMISTIC_ROUNDS)
            && self
                .optimistic
                .is_some_and(|key| rest.iter().any(|peer| peer.key == key));
        if !stays {
            self.optimistic = rest.choose(rng).map(|peer| peer.key);
            self.rounds = 0;
        }
        self.rounds += 1;
        chosen.extend(self.optimistic);
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use std::collections::BTreeSet;

    fn peers(count: u32) -> Vec<Candidate> {
        (0..count)
            .map(|n| Candidate {
                key: PeerKey(n),
                eligible: n != 0,
                merit: u64::from(n),
            })
            .collect()
    }

    #[test]
    fn the_best_are_unchoked_and_one_by_turns() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut choker = Choker::default();
        let mut lucky = Vec::new();
        for _ in 0..300 {
            let chosen = choker.round(&peers(20), &mut rng);
            assert_eq!(chosen.len(), SLOTS + 1);
            assert!((12..20).all(|n| chosen.contains(&PeerKey(n))));
            lucky.push(chosen[SLOTS]);
        }
        assert!(
            lucky
                .chunks(3)
                .all(|turn| turn.iter().all(|key| *key == turn[0]))
        );
        let all: BTreeSet<PeerKey> = lucky.into_iter().collect();
        assert!(
            all.iter().eq(&(1..12).map(PeerKey).collect::<Vec<_>>()),
            "each has a turn, 0 never"
        );
    }

    #[test]
    fn few_peers_are_all_unchoked() {
        let chosen = Choker::default().round(&peers(5), &mut StdRng::seed_from_u64(1));
        assert_eq!(chosen.len(), 4);
    }
}
