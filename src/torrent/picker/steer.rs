//! What the user steers: which pieces are wanted, and how much; whether they come in order; and what a reader waits for.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{Bits, BlockRef, PeerKey, Picker, Priority, State};

/// Most readers of a torrent at a time.
pub const MAX_READERS: usize = 16;

/// How far ahead of the first piece that is missing order counts, bytes: enough for the fastest peer's requests. Beyond it, the rarest
/// come first, from who has nothing nearer.
const ORDERED: u64 = 16 << 20;

/// The same in pieces, at least.
const ORDERED_PIECES: u32 = 4;

/// Blocks of a piece that a reader has waited for a while that one more peer is asked for at a time.
const URGENT_BLOCKS: usize = 4;

/// What readers wait for.
#[derive(Debug, Default)]
pub(super) struct Raised {
    /// By reader: the pieces from where it is on.
    ranges: Vec<(u32, Range<u32>)>,
    /// Pieces that held a reader up for a while.
    urgent: BTreeSet<u32>,
}

#[cfg(test)]
impl Raised {
    pub(super) fn ranges(&self) -> &[(u32, Range<u32>)] {
        &self.ranges
    }
}

impl Picker {
    /// How much a piece is wanted.
    pub fn priority(&self, piece: u32) -> Priority {
        let priority = self.priorities.get(piece as usize);
        priority.copied().unwrap_or(Priority::Skip)
    }

    /// Bytes of the pieces that are wanted.
    pub fn wanted_bytes(&self) -> u64 {
        self.wanted_bytes
    }

    /// Bytes of them that are verified.
    pub fn wanted_had_bytes(&self) -> u64 {
        self.wanted_had
    }

    /// Says how much a piece is wanted. What was asked of peers and is not wanted any more is named, to be taken back; what came of such a
    /// piece is kept, in case it is wanted again.
    pub fn set_priority(&mut self, piece: u32, priority: Priority) -> Vec<(PeerKey, BlockRef)> {
        let Some(own) = self.priorities.get_mut(piece as usize) else {
            return Vec::new();
        };
        let before = std::mem::replace(own, priority);
        if before == priority {
            return Vec::new();
        }
        self.unlist(piece);
        self.list(piece);
        let len = u64::from(self.geometry.len_of(piece));
        let had = if self.had.get(piece) { len } else { 0 };
        match (before, priority) {
            (Priority::Skip, _) => {
                self.wanted_bytes += len;
                self.wanted_had += had;
                self.resume(piece);
                Vec::new()
            }
            (_, Priority::Skip) => {
                self.wanted_bytes -= len;
                self.wanted_had -= had;
                self.park(piece)
            }
            (Priority::Low | Priority::Normal | Priority::High, _) => Vec::new(),
        }
    }

    /// Asks for nothing more of a begun piece.
    fn park(&mut self, piece: u32) -> Vec<(PeerKey, BlockRef)> {
        let mut back = Vec::new();
        let Some(partial) = self.partial.get_mut(&piece) else {
            return back;
        };
        if partial.here as usize == partial.blocks.len() {
            // Its verdict comes all the same.
            return back;
        }
        for (number, block) in (0..).zip(&mut partial.blocks) {
            if block.state == State::Asked {
                back.push((block.by, self.geometry.block(piece, number)));
                block.state = State::Free;
                partial.free += 1;
            }
        }
        for (number, peer) in std::mem::take(&mut partial.extra) {
            back.push((peer, self.geometry.block(piece, number)));
        }
        partial.only = None;
        partial.parked = true;
        if partial.here == 0 {
            self.partial.remove(&piece);
        }
        self.open.remove(&piece);
        back
    }

    /// Goes on with a piece that was begun before.
    fn resume(&mut self, piece: u32) {
        if let Some(partial) = self.partial.get_mut(&piece) {
            partial.parked = false;
            if partial.free > 0 {
                self.open.insert(piece);
            }
        }
    }

    /// Says whether pieces are to come in order.
    pub fn set_sequential(&mut self, on: bool) {
        self.sequential = on;
    }

    /// The end of the window in which order counts.
    pub(super) fn order_end(&self) -> u32 {
        let begun = self.partial.iter().find(|(_, partial)| !partial.parked);
        let begun = begun.map(|(piece, _)| *piece);
        let first = self.listing.first().into_iter().chain(begun).min();
        let bytes = ORDERED / u64::from(self.geometry.piece_len.max(1));
        let window = u32::try_from(bytes).unwrap_or(u32::MAX).max(ORDERED_PIECES);
        first.unwrap_or(0).saturating_add(window)
    }

    /// A reader is at the first of these pieces: they come before all others, in order. Empty: it is gone. Of skipped pieces none
    /// comes for it.
    pub fn raise(&mut self, reader: u32, pieces: Range<u32>) {
        self.raised.ranges.retain(|(who, _)| *who != reader);
        if !pieces.is_empty() && self.raised.ranges.len() < MAX_READERS {
            self.raised.ranges.push((reader, pieces));
        }
    }

    /// Readers have waited for these pieces for a while: of their blocks, one more peer each may be asked.
    pub fn set_urgent(&mut self, pieces: BTreeSet<u32>) {
        self.raised.urgent = pieces;
    }

    /// What readers wait for, the nearest of each first.
    pub(super) fn pick_raised(
        &mut self,
        peer: PeerKey,
        have: &Bits,
        goal: usize,
        out: &mut Vec<BlockRef>,
    ) {
        let ranges = self.raised.ranges.iter().map(|(_, range)| range);
        let longest = ranges.map(ExactSizeIterator::len).max().unwrap_or(0);
        for ahead in 0..longest {
            for reader in 0..self.raised.ranges.len() {
                if out.len() >= goal {
                    return;
                }
                let range = self.raised.ranges.get(reader);
                let piece = range.and_then(|(_, range)| range.clone().nth(ahead));
                let Some(piece) = piece.filter(|&piece| have.get(piece)) else {
                    continue;
                };
                if self.listing.has(piece) {
                    self.begin(piece, peer);
                }
                if self.is_open_to(piece, peer) {
                    self.take_free(piece, peer, goal, out);
                }
            }
        }
    }

    /// Blocks that hold a reader up, once more of this peer.
    pub(super) fn pick_urgent(
        &mut self,
        peer: PeerKey,
        have: &Bits,
        goal: usize,
        out: &mut Vec<BlockRef>,
    ) {
        let room = goal.saturating_sub(out.len()).min(URGENT_BLOCKS);
        if room > 0 && !self.raised.urgent.is_empty() {
            let urgent = std::mem::take(&mut self.raised.urgent);
            // The one that was asked, and one more.
            self.pick_again(peer, have, room, 2, |piece| urgent.contains(&piece), out);
            self.raised.urgent = urgent;
        }
    }
}
