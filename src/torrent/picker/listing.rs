//! Pieces that may be begun, by how much they are wanted and, among equals, by how rare they are.

use rand::RngExt;
use rand::rngs::StdRng;

use super::{Bits, CANDIDATES, SCAN};

/// A piece that stands in no bucket.
const UNLISTED: u32 = u32::MAX;

/// How much a file, or a piece of it, is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Not at all.
    Skip,
    /// After all others.
    Low,
    /// As usual.
    #[default]
    Normal,
    /// Before all others.
    High,
}

/// From what is wanted most on.
const LEVELS: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

/// Pieces that are wanted alike.
#[derive(Debug)]
struct Level {
    pieces: Bits,
    /// By availability.
    buckets: Vec<Vec<u32>>,
}

/// The pieces that may be begun.
#[derive(Debug)]
pub(super) struct Listing {
    levels: [Level; 3],
    /// A piece's index in its bucket.
    place: Vec<u32>,
}

/// How a piece is chosen.
pub(super) enum Order {
    /// At random: we have nothing yet.
    Random,
    /// The rarest.
    Rarest,
    /// The first, where it lies in front of this one; else the rarest.
    InOrder(u32),
}

impl Listing {
    /// An empty one.
    pub(super) fn new(pieces: u32) -> Self {
        let level = || Level {
            pieces: Bits::new(pieces),
            buckets: Vec::new(),
        };
        Self {
            levels: [level(), level(), level()],
            place: vec![UNLISTED; pieces as usize],
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.levels.iter().all(|level| level.pieces.is_empty())
    }

    pub(super) fn len(&self) -> usize {
        let lens = self.levels.iter().map(|level| level.pieces.count());
        lens.sum::<u32>() as usize
    }

    pub(super) fn has(&self, piece: u32) -> bool {
        self.level_of(piece).is_some()
    }

    fn level_of(&self, piece: u32) -> Option<usize> {
        let mut levels = self.levels.iter();
        levels.position(|level| level.pieces.get(piece))
    }

    /// Whether any of these may be begun.
    pub(super) fn has_any(&self, of: &Bits) -> bool {
        let mut levels = self.levels.iter();
        levels.any(|level| level.pieces.common(of, 0).next().is_some())
    }

    /// Pieces that no peer has of those that lack some.
    pub(super) fn unseen(&self) -> usize {
        let first = self.levels.iter().filter_map(|level| level.buckets.first());
        first.map(Vec::len).sum()
    }

    /// The first piece in order, of any level.
    pub(super) fn first(&self) -> Option<u32> {
        let firsts = self.levels.iter().map(|level| level.pieces.ones().next());
        firsts.flatten().min()
    }

    /// Adds a piece that stands nowhere.
    pub(super) fn add(&mut self, piece: u32, priority: Priority, availability: u16) {
        let Some(at) = LEVELS.iter().position(|level| *level == priority) else {
            return;
        };
        if !self.has(piece)
            && let Some(level) = self.levels.get_mut(at)
            && level.pieces.set(piece)
        {
            level.enter(&mut self.place, piece, availability);
        }
    }

    /// Takes a piece out, of which this many peers count.
    pub(super) fn remove(&mut self, piece: u32, availability: u16) {
        if let Some(at) = self.level_of(piece)
            && let Some(level) = self.levels.get_mut(at)
        {
            level.pieces.clear(piece);
            level.leave(&mut self.place, piece, availability);
        }
    }

    /// The count of a piece changed.
    pub(super) fn shift(&mut self, piece: u32, before: u16, now: u16) {
        if let Some(at) = self.level_of(piece)
            && let Some(level) = self.levels.get_mut(at)
        {
            level.leave(&mut self.place, piece, before);
            level.enter(&mut self.place, piece, now);
        }
    }

    /// A piece that a peer with `have` can give, of those that are wanted most.
    pub(super) fn choose(
        &self,
        have: &Bits,
        order: &Order,
        availability: &[u16],
        rng: &mut StdRng,
    ) -> Option<u32> {
        let mut levels = self.levels.iter().filter(|level| !level.pieces.is_empty());
        levels.find_map(|level| level.choose(have, order, availability, rng))
    }

    /// Whether what it holds agrees with itself.
    #[cfg(test)]
    pub(super) fn is_consistent(&self) -> bool {
        let listed = self.place.iter().filter(|at| **at != UNLISTED).count();
        let levels = self.levels.iter();
        listed == self.len()
            && levels.clone().all(|level| {
                let sum: usize = level.buckets.iter().map(Vec::len).sum();
                sum == level.pieces.count() as usize
            })
            && levels.flat_map(|level| &level.buckets).all(|bucket| {
                (0..)
                    .zip(bucket)
                    .all(|(at, p)| self.place[*p as usize] == at)
            })
    }
}

impl Level {
    fn choose(
        &self,
        have: &Bits,
        order: &Order,
        availability: &[u16],
        rng: &mut StdRng,
    ) -> Option<u32> {
        if let Order::InOrder(end) = order {
            let first = self.pieces.common(have, 0).next()?;
            if first < *end {
                return Some(first);
            }
        }
        let from = rng.random_range(0..self.pieces.len().max(1));
        let candidates = self.pieces.common(have, from);
        if matches!(order, Order::Random) {
            return candidates
                .take(CANDIDATES)
                .nth(rng.random_range(0..4))
                .or_else(|| self.pieces.common(have, from).next());
        }
        let first = usize::from(!have.is_full());
        let rarest = self.buckets.iter().skip(first.min(self.buckets.len()));
        let mut scanned = rarest.flatten().take(SCAN).copied();
        scanned.find(|&piece| have.get(piece)).or_else(|| {
            candidates.take(CANDIDATES).min_by_key(|&piece| {
                let count = availability.get(piece as usize).copied();
                count.unwrap_or(u16::MAX)
            })
        })
    }

    fn enter(&mut self, place: &mut [u32], piece: u32, count: u16) {
        let count = usize::from(count);
        if self.buckets.len() <= count {
            self.buckets.resize_with(count + 1, Vec::new);
        }
        if let (Some(bucket), Some(place)) =
            (self.buckets.get_mut(count), place.get_mut(piece as usize))
        {
            *place = bucket.len() as u32;
            bucket.push(piece);
        }
    }

    fn leave(&mut self, place: &mut [u32], piece: u32, count: u16) {
        let Some(own) = place.get_mut(piece as usize) else {
            return;
        };
        let at = std::mem::replace(own, UNLISTED) as usize;
        let Some(bucket) = self.buckets.get_mut(usize::from(count)) else {
            return;
        };
        if at < bucket.len() {
            bucket.swap_remove(at);
            let moved = bucket.get(at).copied();
            if let Some(place) = moved.and_then(|piece| place.get_mut(piece as usize)) {
                *place = at as u32;
            }
        }
    }
}
