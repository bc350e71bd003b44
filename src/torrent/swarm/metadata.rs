//! Fetching the metadata of a magnet link from several peers at once (BEP 9), believing none of them.
//!
//! At first all peers that name the same length share the work. When what they gave together is wrong, each is asked
//! for the whole alone, so that who lies shows.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::torrent::extension::{MAX_METADATA, metadata_piece_count, metadata_piece_len};
use crate::torrent::infohash::{InfoHash, InfoHashV2};
use crate::torrent::metainfo::is_named;
use crate::torrent::picker::PeerKey;

/// A piece that did not come by then is asked of somebody else.
const PATIENCE: Duration = Duration::from_secs(20);

/// Pieces that one peer is asked for at a time.
const AT_ONCE: usize = 4;

/// Most attempts at a time: lengths that peers claim, or peers that are asked alone. Bounds memory.
const MAX_ATTEMPTS: usize = 4;

/// Whose attempt: all that claim this length, or one peer's alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Length(u32),
    Alone(PeerKey),
}

#[derive(Debug, Default)]
struct Slot {
    asked: Option<(PeerKey, Instant)>,
    data: Option<(PeerKey, Vec<u8>)>,
}

#[derive(Debug)]
struct Attempt {
    size: u32,
    slots: Vec<Slot>,
}

/// What came of a piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// More is needed.
    More,
    /// The metadata: its hash is right.
    Done(Vec<u8>),
    /// This peer alone gave metadata that is wrong.
    Liar(PeerKey),
}

/// The fetch of one torrent's metadata.
#[derive(Debug)]
pub(super) struct Fetch {
    hash: InfoHash,
    v2: Option<InfoHashV2>,
    alone: bool,
    attempts: BTreeMap<Group, Attempt>,
}

impl Fetch {
    pub(super) fn new(hash: InfoHash, v2: Option<InfoHashV2>) -> Self {
        Self {
            hash,
            v2,
            alone: false,
            attempts: BTreeMap::new(),
        }
    }

    /// The next piece to ask of a peer that claims this length.
    pub(super) fn next(&mut self, now: Instant, peer: PeerKey, size: u32) -> Option<u32> {
        if size == 0 || size > MAX_METADATA {
            return None;
        }
        let group = self.group(peer, size);
        if !self.attempts.contains_key(&group) {
            if self.attempts.len() >= MAX_ATTEMPTS {
                return None;
            }
            let count = metadata_piece_count(size) as usize;
            let slots = std::iter::repeat_with(Slot::default).take(count).collect();
            self.attempts.insert(group, Attempt { size, slots });
        }
        let attempt = self
            .attempts
            .get_mut(&group)
            .filter(|attempt| attempt.size == size)?;
        let waits = |slot: &Slot| {
            slot.data.is_none()
                && slot
                    .asked
                    .is_some_and(|(_, at)| now.duration_since(at) < PATIENCE)
        };
        let busy = attempt
            .slots
            .iter()
            .filter(|slot| waits(slot) && slot.asked.is_some_and(|(who, _)| who == peer))
            .count();
        if busy >= AT_ONCE {
            return None;
        }
        let piece = attempt
            .slots
            .iter()
            .position(|slot| slot.data.is_none() && !waits(slot))?;
        if let Some(slot) = attempt.slots.get_mut(piece) {
            slot.asked = Some((peer, now));
        }
        u32::try_from(piece).ok()
    }

    /// A peer gave a piece.
    pub(super) fn received(
        &mut self,
        peer: PeerKey,
        piece: u32,
        size: u32,
        data: &[u8],
    ) -> Outcome {
        let group = self.group(peer, size);
        let Some(attempt) = self.attempts.get_mut(&group).filter(|a| a.size == size) else {
            return Outcome::More;
        };
        let Some(slot) = attempt.slots.get_mut(piece as usize) else {
            return Outcome::More;
        };
        let expected = slot.asked.is_some_and(|(who, _)| who == peer) && slot.data.is_none();
        if !expected || data.len() != metadata_piece_len(piece, size) {
            return Outcome::More;
        }
        slot.data = Some((peer, data.to_vec()));
        if attempt.slots.iter().any(|slot| slot.data.is_none()) {
            return Outcome::More;
        }
        let given = self
            .attempts
            .remove(&group)
            .map(|a| a.slots)
            .unwrap_or_default();
        let given: Vec<(PeerKey, Vec<u8>)> =
            given.into_iter().filter_map(|slot| slot.data).collect();
        let alone = given.iter().all(|(who, _)| *who == peer);
        let bytes: Vec<u8> = given.into_iter().flat_map(|(_, data)| data).collect();
        if is_named(&bytes, self.hash, self.v2) {
            return Outcome::Done(bytes);
        }
        if alone {
            return Outcome::Liar(peer);
        }
        self.alone = true;
        self.attempts.clear();
        Outcome::More
    }

    /// A peer refused or went away: others may be asked for its pieces.
    pub(super) fn gone(&mut self, peer: PeerKey) {
        self.attempts.remove(&Group::Alone(peer));
        for slot in self
            .attempts
            .values_mut()
            .flat_map(|attempt| &mut attempt.slots)
        {
            if slot.asked.is_some_and(|(who, _)| who == peer) {
                slot.asked = None;
            }
        }
        // An attempt that nobody works at must not keep others out.
        self.attempts.retain(|_, attempt| {
            attempt
                .slots
                .iter()
                .any(|slot| slot.asked.is_some() || slot.data.is_some())
        });
    }

    fn group(&self, peer: PeerKey, size: u32) -> Group {
        if self.alone {
            Group::Alone(peer)
        } else {
            Group::Length(size)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::torrent::extension::METADATA_PIECE;
    use proptest::prelude::*;
    use sha1::{Digest, Sha1};

    const A: PeerKey = PeerKey(1);
    const B: PeerKey = PeerKey(2);

    fn metadata() -> (Vec<u8>, InfoHash) {
        let bytes: Vec<u8> = (0..3 * METADATA_PIECE - 9).map(|n| (n / 7) as u8).collect();
        let hash = InfoHash(Sha1::digest(&bytes).into());
        (bytes, hash)
    }

    fn part(bytes: &[u8], piece: u32) -> &[u8] {
        bytes.chunks(METADATA_PIECE).nth(piece as usize).unwrap()
    }

    #[test]
    fn two_peers_share_the_work() {
        let (bytes, hash) = metadata();
        let size = bytes.len() as u32;
        let (mut fetch, now) = (Fetch::new(hash, None), Instant::now());
        let asked = [A, B, A].map(|peer| (peer, fetch.next(now, peer, size).unwrap()));
        assert_eq!(asked.map(|(_, piece)| piece), [0, 1, 2]);
        assert_eq!(fetch.next(now, B, size), None);
        let last = asked.map(|(peer, n)| fetch.received(peer, n, size, part(&bytes, n)));
        assert_eq!(last, [Outcome::More, Outcome::More, Outcome::Done(bytes)]);
    }

    #[test]
    fn when_peers_together_gave_wrong_metadata_each_is_asked_alone_and_the_liar_shows() {
        let (bytes, hash) = metadata();
        let size = bytes.len() as u32;
        let (mut fetch, now) = (Fetch::new(hash, None), Instant::now());
        let lie = vec![9; METADATA_PIECE];
        let asked = [A, B, A].map(|peer| (peer, fetch.next(now, peer, size).unwrap()));
        for (peer, piece) in asked {
            let data = if peer == B {
                &lie[..]
            } else {
                part(&bytes, piece)
            };
            assert_eq!(fetch.received(peer, piece, size, data), Outcome::More);
        }
        for (peer, liar) in [(B, true), (A, false)] {
            let mut outcome = Outcome::More;
            for _ in 0..3 {
                let piece = fetch.next(now, peer, size).unwrap();
                let honest = part(&bytes, piece);
                let data = if liar { &lie[..honest.len()] } else { honest };
                outcome = fetch.received(peer, piece, size, data);
            }
            let expected = if liar {
                Outcome::Liar(B)
            } else {
                Outcome::Done(bytes.clone())
            };
            assert_eq!(outcome, expected);
        }
    }

    #[test]
    fn a_wrong_length_does_not_stop_those_who_know_better() {
        let (bytes, hash) = metadata();
        let (mut fetch, now) = (Fetch::new(hash, None), Instant::now());
        assert_eq!(fetch.next(now, B, 5), Some(0));
        assert_eq!(fetch.received(B, 0, 5, b"wrong"), Outcome::Liar(B));
        assert_eq!(fetch.next(now, A, bytes.len() as u32), Some(0));
        assert_eq!(fetch.next(now, B, u32::MAX), None);
    }

    #[test]
    fn a_silent_peers_piece_is_asked_of_another() {
        let (bytes, hash) = metadata();
        let size = bytes.len() as u32;
        let (mut fetch, now) = (Fetch::new(hash, None), Instant::now());
        for piece in 0..3 {
            assert_eq!(fetch.next(now, A, size), Some(piece));
        }
        assert_eq!(fetch.next(now, B, size), None);
        assert_eq!(fetch.next(now + PATIENCE, B, size), Some(0));
        fetch.gone(A);
        assert_eq!(fetch.next(now + PATIENCE, B, size), Some(1));
    }

    #[test]
    fn many_claimed_lengths_cost_little() {
        let (mut fetch, now) = (Fetch::new(metadata().1, None), Instant::now());
        let started = (1..100).filter(|&n| fetch.next(now, PeerKey(n), n * 1000).is_some());
        assert_eq!(started.count(), MAX_ATTEMPTS);
        (1..=MAX_ATTEMPTS as u32).for_each(|n| fetch.gone(PeerKey(n)));
        assert_eq!(fetch.next(now, A, 77), Some(0));
    }

    proptest! {
        #[test]
        fn any_answers_end_well(answers in prop::collection::vec((0_u32..3, 0_u32..5, 0_usize..3), 0..60)) {
            let (bytes, hash) = metadata();
            let size = bytes.len() as u32;
            let (mut fetch, now) = (Fetch::new(hash, None), Instant::now());
            for (peer, piece, kind) in answers {
                let peer = PeerKey(peer);
                let _ = fetch.next(now, peer, size);
                let data = match kind {
                    0 => vec![1; METADATA_PIECE],
                    1 => vec![1; 5],
                    _ => bytes.chunks(METADATA_PIECE).nth(piece as usize).unwrap_or(&[]).to_vec(),
                };
                if let Outcome::Done(done) = fetch.received(peer, piece, size, &data) {
                    prop_assert_eq!(done, bytes);
                    return Ok(());
                }
            }
        }
    }
}
