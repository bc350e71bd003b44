//! Fetching the hashes of pieces from several peers at once, where a magnet link brought only the roots of files. Each answer proves
//! itself, so who lies shows at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::files::HashedFiles;
use super::merkle::Hash;
use super::request::HashRequest;
use crate::torrent::infohash::InfoHash;
use crate::torrent::picker::PeerKey;

/// A request that is not answered by then is sent to somebody else.
const PATIENCE: Duration = Duration::from_secs(20);

/// Requests that one peer has at a time: 128 KiB of hashes.
const AT_ONCE: usize = 8;

/// A peer that refused or was silent is asked again after this: it may have learnt them itself. Who was silent, for one at a time, until
/// it answers.
const REFUSED: Duration = Duration::from_secs(60);

/// What came of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// More is needed.
    More,
    /// The hashes of all pieces are known.
    Done(Box<HashedFiles>),
    /// The peer lied.
    Liar,
}

/// The fetch of one torrent's piece layers.
#[derive(Debug)]
pub struct LayerFetch {
    files: HashedFiles,
    /// By number: of which file, what, and the answer.
    slots: Vec<(usize, HashRequest, Option<Vec<Hash>>)>,
    todo: VecDeque<usize>,
    asked: BTreeMap<usize, (PeerKey, Instant)>,
    refused: BTreeMap<PeerKey, Instant>,
    /// What peers did not answer in time, and still may.
    late: BTreeMap<PeerKey, BTreeSet<usize>>,
    left: usize,
}

impl LayerFetch {
    /// Fetches what is missing of these.
    pub fn new(files: HashedFiles) -> Self {
        let missing = files.missing();
        Self {
            todo: (0..missing.len()).collect(),
            left: missing.len(),
            slots: missing
                .into_iter()
                .map(|(file, request)| (file, request, None))
                .collect(),
            files,
            asked: BTreeMap::new(),
            refused: BTreeMap::new(),
            late: BTreeMap::new(),
        }
    }

    /// The name by which the torrent goes where hashes may be asked for.
    pub fn name(&self) -> InfoHash {
        self.files.hash.truncated()
    }

    /// The next to ask of a peer.
    pub fn next(&mut self, now: Instant, peer: PeerKey) -> Option<HashRequest> {
        self.put_late_aside(now);
        let refused = self.refused.get(&peer);
        if refused.is_some_and(|at| now < *at + REFUSED) {
            return None;
        }
        let silent = self.late.contains_key(&peer);
        let at_once = if silent { 1 } else { AT_ONCE };
        if self.asked.values().filter(|(who, _)| *who == peer).count() >= at_once {
            return None;
        }
        let slot = self.todo.pop_front()?;
        self.asked.insert(slot, (peer, now));
        self.slots.get(slot).map(|(_, request, _)| *request)
    }

    /// What was not answered in time goes to others: who was silent is passed over for a while, though it ask first.
    fn put_late_aside(&mut self, now: Instant) {
        let late = |(_, (_, at)): &(&usize, &(PeerKey, Instant))| now >= *at + PATIENCE;
        let late = self.asked.iter().filter(late);
        let late: Vec<(usize, PeerKey)> = late.map(|(slot, (who, _))| (*slot, *who)).collect();
        for (slot, who) in late {
            self.asked.remove(&slot);
            self.todo.push_back(slot);
            self.refused.insert(who, now);
            self.late.entry(who).or_default().insert(slot);
        }
    }

    fn take(&mut self, peer: PeerKey, request: &HashRequest) -> Option<usize> {
        let of_peer = self.asked.iter().filter(|(_, (who, _))| *who == peer);
        let mut numbers = of_peer.map(|(slot, _)| *slot);
        let same = |slot: &usize| self.slots.get(*slot).is_some_and(|(_, r, _)| r == request);
        let slot = numbers.find(same)?;
        self.asked.remove(&slot);
        Some(slot)
    }

    /// The same for what was asked of the peer long ago and nobody answered since.
    fn take_late(&mut self, peer: PeerKey, request: &HashRequest) -> Option<usize> {
        let wanted = |slot: &&usize| {
            let slot = self.slots.get(**slot);
            slot.is_some_and(|(_, r, answer)| r == request && answer.is_none())
        };
        let slot = *self.late.get(&peer)?.iter().find(wanted)?;
        self.asked.remove(&slot);
        self.todo.retain(|other| *other != slot);
        Some(slot)
    }

    /// A peer answered. What was not asked of it is passed over.
    pub fn received(&mut self, peer: PeerKey, request: &HashRequest, hashes: &[Hash]) -> Outcome {
        let taken = self.take(peer, request);
        let Some(number) = taken.or_else(|| self.take_late(peer, request)) else {
            return Outcome::More;
        };
        if !self.files.proves(request, hashes) {
            self.todo.push_front(number);
            return Outcome::Liar;
        }
        if self.late.remove(&peer).is_some() {
            self.refused.remove(&peer);
        }
        if let Some((_, _, answer)) = self.slots.get_mut(number) {
            let own = hashes.get(..request.count as usize).unwrap_or(&[]);
            *answer = Some(own.to_vec());
            self.left -= 1;
        }
        if self.left > 0 {
            return Outcome::More;
        }
        let mut layers: BTreeMap<usize, Vec<Hash>> = BTreeMap::new();
        for (file, _, hashes) in &self.slots {
            let layer = layers.entry(*file).or_default();
            layer.extend(hashes.iter().flatten());
        }
        for (file, mut layer) in layers {
            let count = self.files.files().get(file).map_or(0, |file| file.count());
            // The last ones may lie beyond the end.
            layer.truncate(count as usize);
            if self.files.learn(file, layer).is_err() {
                // Each part was proved, so this can't be.
                return Outcome::Liar;
            }
        }
        Outcome::Done(Box::new(self.files.clone()))
    }

    /// A peer refused.
    pub fn refused(&mut self, now: Instant, peer: PeerKey, request: &HashRequest) {
        if let Some(slot) = self.take(peer, request) {
            self.todo.push_back(slot);
            self.refused.insert(peer, now);
        }
    }

    /// A peer went away: others may be asked.
    pub fn gone(&mut self, peer: PeerKey) {
        let of_peer = self.asked.iter().filter(|(_, (who, _))| *who == peer);
        let slots: BTreeSet<usize> = of_peer.map(|(slot, _)| *slot).collect();
        for slot in slots {
            self.asked.remove(&slot);
            self.todo.push_back(slot);
        }
        self.refused.remove(&peer);
        self.late.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Answer;
    use super::super::merkle::{Tree, sha256};
    use super::*;
    use crate::torrent::infohash::InfoHashV2;
    use crate::torrent::wire::BLOCK;

    const A: PeerKey = PeerKey(1);
    const B: PeerKey = PeerKey(2);

    /// Two files, one of many pieces and one of two; what a newcomer knows of them, and what a seed does.
    fn both() -> (HashedFiles, HashedFiles) {
        let mut newcomer = HashedFiles::new(InfoHashV2([1; 32]), BLOCK);
        let layer = |count: u32| {
            (0..count)
                .map(|n| sha256(&n.to_be_bytes()))
                .collect::<Vec<_>>()
        };
        for (first, count) in [(0, 1300), (1300, 2)] {
            let root = Tree::new(0, layer(count)).root();
            newcomer.push(root, first, u64::from(count * BLOCK));
        }
        let mut seed = newcomer.clone();
        seed.learn(0, layer(1300)).unwrap();
        seed.learn(1, layer(2)).unwrap();
        (newcomer, seed)
    }

    fn answer(seed: &HashedFiles, request: &HashRequest) -> Vec<Hash> {
        let Answer::Hashes(hashes) = seed.answer(request) else {
            panic!("no answer");
        };
        hashes
    }

    #[test]
    fn several_peers_share_the_work_and_a_liar_is_named() {
        let (newcomer, seed) = both();
        let (mut fetch, now) = (LayerFetch::new(newcomer), Instant::now());
        let first = fetch.next(now, A).unwrap();
        let mut lie = answer(&seed, &first);
        lie[0][0] ^= 1;
        assert_eq!(fetch.received(A, &first, &lie), Outcome::Liar);
        fetch.gone(A);
        let mut done = None;
        while let Some(request) = fetch.next(now, B) {
            assert_eq!(
                fetch.received(A, &request, &answer(&seed, &request)),
                Outcome::More,
                "not asked"
            );
            match fetch.received(B, &request, &answer(&seed, &request)) {
                Outcome::More => {}
                Outcome::Done(files) => done = Some(files),
                Outcome::Liar => panic!(),
            }
        }
        assert_eq!(done.as_deref(), Some(&seed));
    }

    #[test]
    fn who_refuses_or_is_silent_does_not_hold_the_others_up() {
        let (newcomer, _) = both();
        let (mut fetch, now) = (LayerFetch::new(newcomer), Instant::now());
        let mut asked = Vec::new();
        while let Some(request) = fetch.next(now, A) {
            asked.push(request);
        }
        assert_eq!(asked.len(), 4);
        assert_eq!(fetch.next(now, B), None);
        fetch.refused(now, A, &asked[0]);
        assert_eq!(fetch.next(now, A), None);
        let later = now + Duration::from_secs(1);
        assert_eq!(fetch.next(later, B), Some(asked[0]));
        // Who was silent asks first, and gets nothing: others do.
        let late = now + PATIENCE;
        assert_eq!(fetch.next(late, A), None);
        for request in &asked[1..] {
            assert_eq!(fetch.next(late, B), Some(*request));
        }
        fetch.gone(A);
        fetch.gone(B);
        assert!(fetch.next(late, B).is_some());
    }

    #[test]
    fn a_late_answer_is_taken_and_who_gives_none_is_asked_for_one_at_a_time() {
        let (newcomer, seed) = both();
        let (mut fetch, now) = (LayerFetch::new(newcomer), Instant::now());
        let asked: Vec<_> = std::iter::from_fn(|| fetch.next(now, A)).collect();
        let late = now + PATIENCE;
        assert_eq!(fetch.next(late, A), None);
        let again = late + REFUSED;
        let one = fetch.next(again, A).unwrap();
        assert_eq!(fetch.next(again, A), None);
        assert_eq!(one, asked[0]);
        // The answer to another comes at last.
        assert_eq!(fetch.next(again, B), Some(asked[1]));
        let hashes = answer(&seed, &asked[1]);
        assert_eq!(fetch.received(A, &asked[1], &hashes), Outcome::More);
        assert_eq!(fetch.left, 3);
        assert_eq!(fetch.received(B, &asked[1], &hashes), Outcome::More);
        assert_eq!(fetch.received(A, &asked[1], &hashes), Outcome::More);
        assert_eq!(fetch.left, 3, "it counts once");
        let rest: Vec<_> = std::iter::from_fn(|| fetch.next(again, A)).collect();
        assert_eq!(rest, asked[2..]);
        for request in [one].iter().chain(&rest[1..]) {
            let hashes = answer(&seed, request);
            assert_eq!(fetch.received(A, request, &hashes), Outcome::More);
        }
        let mut hashes = answer(&seed, &rest[0]);
        hashes[0][0] ^= 1;
        assert_eq!(fetch.received(A, &rest[0], &hashes), Outcome::Liar);
        assert_eq!(fetch.next(again, B), Some(rest[0]));
        hashes[0][0] ^= 1;
        let last = fetch.received(B, &rest[0], &hashes);
        assert_eq!(last, Outcome::Done(Box::new(seed)));
    }
}
