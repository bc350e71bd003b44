//! Whom to give blocks (BEP 3). While we lack something: those who give us most, and one more by turns, newcomers first. Once we are
//! complete: everybody for a minute at a time, those first who will soon pass on what they take. Pure: it is told what happened in the
//! round that ends, and says who is unchoked in the next.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use rand::Rng;
use rand::seq::IndexedRandom;

use crate::torrent::picker::PeerKey;

/// Peers unchoked for what they do.
pub(super) const SLOTS: usize = 8;

/// Rounds that the optimistic peer keeps its turn: of 10 s each, so 30 s.
const OPTIMISTIC_ROUNDS: u32 = 3;

/// Rounds for which a peer counts as new: a minute. A newcomer has nothing to give back yet.
const NEW_ROUNDS: u32 = 6;

/// How much likelier than others a newcomer is the optimistic one (BEP 3).
const NEW_WEIGHT: f64 = 3.0;

/// Rounds of a turn that a peer gets of a seed: a minute, so that a piece or more comes through.
const TURN_ROUNDS: u32 = 6;

/// Rounds after which a peer that waits comes first, whatever it says it has: so that nobody shuts others out by lying about that.
const STARVED_ROUNDS: u32 = 18;

/// Rounds after which a peer that takes nothing of a seed, though it may and says that it wants, loses its place.
const IDLE_TURN: u32 = 2;

/// Rounds after which a connection on which nothing moves makes room for another: a minute.
const IDLE_ROUNDS: u32 = 6;

/// A connection, and what it did in the round that ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) key: PeerKey,
    /// Wants something.
    pub(super) interested: bool,
    /// Owes us blocks and has been silent for a minute.
    pub(super) snubbing: bool,
    /// Bytes that it gave us.
    pub(super) given: u64,
    /// Bytes that it took.
    pub(super) taken: u64,
    /// How much of the torrent it says to have, in thousandths.
    pub(super) has: u32,
}

/// What is remembered of a connection.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    /// Rounds for which it has been there.
    rounds: u32,
    /// Rounds for which it has been unchoked, without a break.
    turn: u32,
    /// Rounds for which it has waited.
    waited: u32,
    /// Rounds for which nothing has moved.
    still: u32,
    /// It took nothing when it could.
    idle: bool,
}

/// Chooses whom to unchoke, round by round.
#[derive(Debug, Default)]
pub(super) struct Choker {
    peers: BTreeMap<PeerKey, Standing>,
    optimistic: Option<PeerKey>,
    rounds: u32,
}

impl Choker {
    /// The peers to be unchoked in the round that begins. `complete`: we lack nothing.
    pub(super) fn round(
        &mut self,
        complete: bool,
        peers: &[Candidate],
        rng: &mut impl Rng,
    ) -> Vec<PeerKey> {
        self.note(peers);
        let interested = peers.iter().filter(|peer| peer.interested);
        let mut order: Vec<&Candidate> = if complete {
            interested.collect()
        } else {
            interested.filter(|peer| !peer.snubbing).collect()
        };
        // Stable: among equals, who has been there longest stays.
        if complete {
            order.sort_by_key(|peer| self.seeding_order(peer));
        } else {
            order.sort_by_key(|peer| Reverse(peer.given));
        }
        let mut chosen: Vec<PeerKey> = order.iter().take(SLOTS).map(|peer| peer.key).collect();
        let lucky = self.choose_optimistic(peers, &chosen, rng);
        for (key, standing) in &mut self.peers {
            // Luck is no turn.
            (standing.turn, standing.waited) = if chosen.contains(key) {
                (standing.turn + 1, 0)
            } else if lucky == Some(*key) {
                (0, 0)
            } else {
                (0, standing.waited + 1)
            };
        }
        chosen.extend(lucky);
        chosen
    }

    /// A peer was unchoked between two rounds, since there was a place.
    pub(super) fn admit(&mut self, key: PeerKey) {
        let standing = self.peers.entry(key).or_default();
        (standing.turn, standing.waited) = (1, 0);
    }

    /// The one of these connections on which nothing has moved for longest, where that is a while: it makes room.
    pub(super) fn stillest(&mut self, of: impl Fn(PeerKey) -> bool) -> Option<PeerKey> {
        let still = self.peers.iter().filter(|(key, _)| of(**key));
        let (key, standing) = still.max_by_key(|(_, standing)| standing.still)?;
        (standing.still >= IDLE_ROUNDS).then_some(*key)
    }

    /// A connection ended.
    pub(super) fn forget(&mut self, key: PeerKey) {
        self.peers.remove(&key);
    }

    fn note(&mut self, peers: &[Candidate]) {
        let before = std::mem::take(&mut self.peers);
        for peer in peers {
            let mut now = before.get(&peer.key).copied().unwrap_or_default();
            now.rounds += 1;
            if peer.given == 0 && peer.taken == 0 {
                now.still += 1;
            } else {
                now.still = 0;
            }
            if peer.taken > 0 {
                now.idle = false;
            } else if now.turn >= IDLE_TURN {
                now.idle = true;
            }
            self.peers.insert(peer.key, now);
        }
    }

    /// Who comes first when we are complete: the least.
    fn seeding_order(&self, peer: &Candidate) -> impl Ord + use<> {
        let standing = self.peers.get(&peer.key).copied().unwrap_or_default();
        let holds = (1..TURN_ROUNDS).contains(&standing.turn);
        let starved = Some(standing.waited).filter(|waited| *waited >= STARVED_ROUNDS);
        // Who has nothing needs something to give, and who lacks little will be a seed: both pass on what they get. Who is in
        // the middle has enough to be served by others.
        let from_middle = peer.has.abs_diff(500) / 100;
        (
            standing.idle,
            !holds,
            Reverse(starved),
            Reverse(from_middle),
            Reverse(standing.waited),
            Reverse(peer.taken),
        )
    }

    /// One of those who are not chosen, by turns; also one who snubs us, since the fault may have been the circuit's.
    fn choose_optimistic(
        &mut self,
        peers: &[Candidate],
        chosen: &[PeerKey],
        rng: &mut impl Rng,
    ) -> Option<PeerKey> {
        let rest: Vec<PeerKey> = peers
            .iter()
            .filter(|peer| peer.interested && !chosen.contains(&peer.key))
            .map(|peer| peer.key)
            .collect();
        let stays = !self.rounds.is_multiple_of(OPTIMISTIC_ROUNDS)
            && self.optimistic.is_some_and(|key| rest.contains(&key));
        if !stays {
            let weight = |key: &PeerKey| {
                let known = self.peers.get(key).map_or(0, |standing| standing.rounds);
                if known <= NEW_ROUNDS { NEW_WEIGHT } else { 1.0 }
            };
            // Fails where there is nobody.
            self.optimistic = rest.choose_weighted(rng, weight).ok().copied();
            self.rounds = 0;
        }
        self.rounds += 1;
        self.optimistic
    }
}

#[cfg(test)]
mod tests;
