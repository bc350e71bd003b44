//! Which block to ask whom for: rarest pieces first, begun pieces before new ones, each block from one peer until the end game.
//! Pure: no clock, no streams. It also knows who gave which block, so that liars can be named.

mod bits;
mod listing;
mod short;
mod steer;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

pub use bits::Bits;
pub use listing::Priority;
use listing::{Listing, Order};
pub use short::Short;
pub use steer::MAX_READERS;
use steer::Raised;

use super::metainfo::Info;
use super::wire::{BLOCK, BlockRef};

/// The first pieces are picked at random, so that a newcomer soon has something that others lack.
const RANDOM_PIECES: u32 = 4;

/// Entries of the rarest-first order that a pick looks at before it searches the peer's own set instead. Keeps a pick
/// cheap when the peer has little of what is rare.
const SCAN: usize = 512;

/// Candidates compared by rarity in that second search.
const CANDIDATES: usize = 64;

/// Most peers that are asked for one block in the end game.
const MAX_ASKED: usize = 3;

/// Most outstanding requests of a peer that the end game fills up to.
const END_GAME_WINDOW: usize = 16;

/// Most pieces with failed attempts that are remembered, and attempts for each: liars are found long before.
const MAX_FAILED: usize = 64;
const MAX_ATTEMPTS: usize = 4;

/// Names a peer of one swarm for as long as the swarm lives, whatever connections come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey(pub u32);

/// A short digest of a block, to compare two versions of it: the first bytes of its SHA-256.
pub type BlockDigest = [u8; 16];

/// How a torrent's bytes are cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of every piece but the last.
    pub piece_len: u32,
    /// Bytes of all pieces.
    pub total: u64,
    /// Number of pieces.
    pub pieces: u32,
    /// Pieces that end in padding (BEP 47, 52), which is not asked for.
    pub short: Option<Short>,
}

impl Geometry {
    /// How this torrent is cut.
    pub fn of(info: &Info) -> Self {
        Self {
            piece_len: info.piece_len,
            total: info.total,
            pieces: info.piece_count(),
            short: info.short.clone(),
        }
    }

    /// Bytes of a piece without padding at its end; 0 beyond the last.
    pub fn len_of(&self, piece: u32) -> u32 {
        let short = self.short.as_ref().and_then(|short| short.len_of(piece));
        short.unwrap_or_else(|| self.full_len_of(piece))
    }

    /// The same with that padding: what peers of version 1 may ask for, and what its hashes are of.
    pub fn full_len_of(&self, piece: u32) -> u32 {
        let start = u64::from(piece) * u64::from(self.piece_len);
        // At most piece_len, so it fits.
        self.total
            .saturating_sub(start)
            .min(u64::from(self.piece_len)) as u32
    }

    /// Blocks of a piece.
    pub fn blocks_of(&self, piece: u32) -> u32 {
        self.len_of(piece).div_ceil(BLOCK)
    }

    /// The block with number `block` of a piece.
    pub fn block(&self, piece: u32, block: u32) -> BlockRef {
        let begin = block * BLOCK;
        let len = self.len_of(piece).saturating_sub(begin).min(BLOCK);
        BlockRef {
            index: piece,
            begin,
            len,
        }
    }

    /// The number of a block within its piece; `None` when it is not one of the blocks that we cut.
    pub fn number_of(&self, block: BlockRef) -> Option<u32> {
        let number = block.begin / BLOCK;
        (block.index < self.pieces
            && block.begin.is_multiple_of(BLOCK)
            && block.len > 0
            && number < self.blocks_of(block.index)
            && self.block(block.index, number) == block)
            .then_some(number)
    }

    /// Tells whether a request lies within its piece and the padding at its end.
    pub fn contains(&self, block: BlockRef) -> bool {
        block.index < self.pieces
            && block
                .begin
                .checked_add(block.len)
                .is_some_and(|end| end <= self.full_len_of(block.index))
    }
}

/// What became of a block that arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Nobody needs it (any more): throw it away.
    Unneeded,
    /// Store it, and take back the request from these peers.
    Taken {
        /// Peers that were asked for the same block.
        cancel: Vec<PeerKey>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Asked,
    Here,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    state: State,
    /// Who was asked first, or who gave it.
    by: PeerKey,
}

#[derive(Debug)]
struct Partial {
    blocks: Vec<Block>,
    /// Further peers asked in the end game.
    extra: Vec<(u32, PeerKey)>,
    free: u32,
    here: u32,
    /// Only this peer may give blocks: the piece failed before.
    only: Option<PeerKey>,
    /// It is not wanted any more: nothing of it is asked for.
    parked: bool,
}

#[derive(Debug)]
struct Attempt {
    by: Vec<PeerKey>,
    digests: Vec<BlockDigest>,
}

/// The picker of one torrent.
#[derive(Debug)]
pub struct Picker {
    geometry: Geometry,
    had: Bits,
    priorities: Vec<Priority>,
    /// Not had, wanted, not begun.
    listing: Listing,
    /// Peers without all pieces that have a piece.
    availability: Vec<u16>,
    /// Peers that have all pieces.
    seeds: u32,
    partial: BTreeMap<u32, Partial>,
    /// Begun pieces with free blocks.
    open: BTreeSet<u32>,
    failed: BTreeMap<u32, Vec<Attempt>>,
    had_bytes: u64,
    wanted_bytes: u64,
    wanted_had: u64,
    sequential: bool,
    raised: Raised,
    rng: StdRng,
}

impl Picker {
    /// A picker for a torrent of which `had` is already verified. `seed` feeds the random order.
    pub fn new(geometry: Geometry, had: Bits, seed: u64) -> Self {
        let pieces = geometry.pieces;
        debug_assert_eq!(had.len(), pieces);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut order: Vec<u32> = (0..pieces).filter(|&piece| !had.get(piece)).collect();
        order.shuffle(&mut rng);
        let mut listing = Listing::new(pieces);
        for &piece in &order {
            listing.add(piece, Priority::Normal, 0);
        }
        let len = |piece: u32| u64::from(geometry.len_of(piece));
        let had_bytes = had.ones().map(len).sum();
        let wanted_bytes = (0..pieces).map(len).sum();
        Self {
            geometry,
            had,
            priorities: vec![Priority::Normal; pieces as usize],
            listing,
            availability: vec![0; pieces as usize],
            seeds: 0,
            partial: BTreeMap::new(),
            open: BTreeSet::new(),
            failed: BTreeMap::new(),
            had_bytes,
            wanted_bytes,
            wanted_had: had_bytes,
            sequential: false,
            raised: Raised::default(),
            rng,
        }
    }

    /// How the torrent is cut.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The verified pieces.
    pub fn had(&self) -> &Bits {
        &self.had
    }

    /// Bytes of the verified pieces.
    pub fn had_bytes(&self) -> u64 {
        self.had_bytes
    }

    /// Tells whether every wanted piece is verified.
    pub fn is_done(&self) -> bool {
        self.listing.is_empty() && self.partial.values().all(|partial| partial.parked)
    }

    /// Tells whether a peer has anything that is still needed.
    pub fn is_interesting(&self, have: &Bits) -> bool {
        let mut begun = self.partial.iter().filter(|(_, partial)| !partial.parked);
        self.listing.has_any(have) || begun.any(|(&piece, _)| have.get(piece))
    }

    /// Tells whether one piece is still needed.
    pub fn needs(&self, piece: u32) -> bool {
        let begun = self.partial.get(&piece);
        self.listing.has(piece) || begun.is_some_and(|partial| !partial.parked)
    }

    /// Counts a peer's pieces, once, when its bitfield is known.
    pub fn add_peer(&mut self, have: &Bits) {
        if have.is_full() {
            self.seeds += 1;
        } else {
            have.ones().for_each(|piece| self.shift(piece, true));
        }
    }

    /// Takes a peer's pieces back; `have` is its set at the end.
    pub fn remove_peer(&mut self, have: &Bits) {
        if have.is_full() && self.seeds > 0 {
            self.seeds -= 1;
        } else {
            have.ones().for_each(|piece| self.shift(piece, false));
        }
    }

    /// Counts a piece that a peer newly has. `have` is its set with the piece in it.
    pub fn add_piece(&mut self, have: &Bits, piece: u32) {
        self.shift(piece, true);
        if have.is_full() {
            // From now on it is counted as a seed.
            have.ones().for_each(|piece| self.shift(piece, false));
            self.seeds += 1;
        }
    }

    /// Chooses up to `count` blocks to ask of `peer`, which has `have` and `busy` outstanding requests, and appends them.
    pub fn pick(
        &mut self,
        peer: PeerKey,
        have: &Bits,
        busy: usize,
        count: usize,
        out: &mut Vec<BlockRef>,
    ) {
        let goal = out.len() + count;
        self.pick_urgent(peer, have, goal, out);
        self.pick_raised(peer, have, goal, out);
        self.pick_begun(peer, have, goal, out);
        while out.len() < goal {
            let Some(piece) = self.choose(have) else {
                break;
            };
            self.begin(piece, peer);
            self.take_free(piece, peer, goal, out);
        }
        if out.len() + count == goal && self.all_asked() {
            let room = END_GAME_WINDOW.saturating_sub(busy).min(count);
            self.pick_again(peer, have, room, MAX_ASKED, |_| true, out);
        }
    }

    /// Notes a block that arrived from `peer`, asked or not.
    pub fn received(&mut self, peer: PeerKey, block: BlockRef) -> Received {
        let Some(number) = self.geometry.number_of(block) else {
            return Received::Unneeded;
        };
        let Some(partial) = self.partial.get_mut(&block.index) else {
            return Received::Unneeded;
        };
        if partial.only.is_some_and(|only| only != peer) {
            return Received::Unneeded;
        }
        let Some(slot) = partial.blocks.get_mut(number as usize) else {
            return Received::Unneeded;
        };
        let mut cancel = Vec::new();
        match slot.state {
            State::Here => return Received::Unneeded,
            State::Free => partial.free -= 1,
            State::Asked if slot.by != peer => cancel.push(slot.by),
            State::Asked => {}
        }
        *slot = Block {
            state: State::Here,
            by: peer,
        };
        partial.here += 1;
        partial.extra.retain(|&(at, who)| {
            if at == number && who != peer {
                cancel.push(who);
            }
            at != number
        });
        if partial.free == 0 {
            self.open.remove(&block.index);
        }
        Received::Taken { cancel }
    }

    /// Frees blocks that `peer` was asked for and will not give: it choked us, went away or fell silent. To be called then
    /// even without any.
    pub fn release(&mut self, peer: PeerKey, blocks: impl IntoIterator<Item = BlockRef>) {
        // A piece that only this peer was to give is anybody's now, also where nothing of it was outstanding. The
        // digests of the attempts will name the liar.
        for piece in &self.open {
            if let Some(partial) = self.partial.get_mut(piece)
                && partial.only == Some(peer)
            {
                partial.only = None;
            }
        }
        let mut touched = BTreeSet::new();
        for block in blocks {
            let Some(number) = self.geometry.number_of(block) else {
                continue;
            };
            let Some(partial) = self.partial.get_mut(&block.index) else {
                continue;
            };
            let Some(slot) = partial.blocks.get_mut(number as usize) else {
                continue;
            };
            if let Some(at) = partial
                .extra
                .iter()
                .position(|&extra| extra == (number, peer))
            {
                partial.extra.swap_remove(at);
            } else if slot.state == State::Asked && slot.by == peer {
                if let Some(at) = partial.extra.iter().position(|&(at, _)| at == number) {
                    slot.by = partial.extra.swap_remove(at).1;
                } else {
                    slot.state = State::Free;
                    partial.free += 1;
                    touched.insert(block.index);
                }
            }
        }
        for piece in touched {
            let Some(partial) = self.partial.get_mut(&piece) else {
                continue;
            };
            if partial.only == Some(peer) {
                partial.only = None;
            }
            if partial.here == 0 && partial.free as usize == partial.blocks.len() {
                self.partial.remove(&piece);
                self.open.remove(&piece);
                self.list(piece);
            } else {
                self.open.insert(piece);
            }
        }
    }

    /// Notes that a piece was verified and written. Where earlier attempts failed, `digests` of the right blocks name
    /// the peers that lied then.
    pub fn passed(&mut self, piece: u32, digests: &[BlockDigest]) -> Vec<PeerKey> {
        if self.had.set(piece) {
            let len = u64::from(self.geometry.len_of(piece));
            self.had_bytes += len;
            if self.priority(piece) != Priority::Skip {
                self.wanted_had += len;
            }
        }
        self.unlist(piece);
        self.partial.remove(&piece);
        self.open.remove(&piece);
        let mut liars = BTreeSet::new();
        for attempt in self.failed.remove(&piece).unwrap_or_default() {
            for ((wrong, right), &by) in attempt.digests.iter().zip(digests).zip(&attempt.by) {
                if wrong != right {
                    liars.insert(by);
                }
            }
        }
        liars.into_iter().collect()
    }

    /// Notes that a piece failed its hash. Gives who lied where that is certain: the one peer that gave all blocks.
    /// Otherwise the piece is fetched again from one peer alone, and `digests` of its blocks are kept to compare.
    pub fn failed(&mut self, piece: u32, digests: Vec<BlockDigest>) -> Option<PeerKey> {
        let partial = self.partial.remove(&piece)?;
        self.open.remove(&piece);
        self.list(piece);
        let by: Vec<PeerKey> = partial.blocks.iter().map(|block| block.by).collect();
        let first = *by.first()?;
        if by.iter().all(|&who| who == first) {
            return Some(first);
        }
        if self.failed.len() < MAX_FAILED || self.failed.contains_key(&piece) {
            let attempts = self.failed.entry(piece).or_default();
            if attempts.len() < MAX_ATTEMPTS {
                attempts.push(Attempt { by, digests });
            }
        }
        None
    }

    /// Names who lied in the attempts at a piece that failed, where the digests of its right blocks are known before it came. From then
    /// on anybody may give it again.
    pub fn blame(&mut self, piece: u32, right: &[BlockDigest]) -> Vec<PeerKey> {
        let mut liars = BTreeSet::new();
        for attempt in self.failed.remove(&piece).unwrap_or_default() {
            let blocks = attempt.digests.iter().zip(right).zip(&attempt.by);
            liars.extend(blocks.filter(|((was, is), _)| was != is).map(|(_, by)| *by));
        }
        if let Some(partial) = self.partial.get_mut(&piece) {
            partial.only = None;
        }
        liars.into_iter().collect()
    }

    /// Forgets the blocks of a piece that could not be written; nobody is to blame.
    pub fn lost(&mut self, piece: u32) {
        if self.partial.remove(&piece).is_some() {
            self.open.remove(&piece);
            self.list(piece);
        }
    }

    /// Tells whether every block of a piece arrived, so that it waits for its verdict.
    pub fn is_waiting(&self, piece: u32) -> bool {
        self.partial
            .get(&piece)
            .is_some_and(|p| p.here as usize == p.blocks.len())
    }

    fn pick_begun(&mut self, peer: PeerKey, have: &Bits, goal: usize, out: &mut Vec<BlockRef>) {
        while out.len() < goal {
            let mut open = self.open.iter().copied();
            let Some(piece) = open.find(|&piece| have.get(piece) && self.is_open_to(piece, peer))
            else {
                return;
            };
            self.take_free(piece, peer, goal, out);
        }
    }

    /// Whether a begun piece has free blocks that this peer may be asked for.
    fn is_open_to(&self, piece: u32, peer: PeerKey) -> bool {
        let partial = self.partial.get(&piece);
        self.open.contains(&piece)
            && partial.is_some_and(|p| p.only.is_none_or(|only| only == peer))
    }

    fn take_free(&mut self, piece: u32, peer: PeerKey, goal: usize, out: &mut Vec<BlockRef>) {
        let geometry = &self.geometry;
        let Some(partial) = self.partial.get_mut(&piece) else {
            return;
        };
        for (number, block) in partial.blocks.iter_mut().enumerate() {
            if out.len() >= goal || partial.free == 0 {
                break;
            }
            if block.state == State::Free {
                *block = Block {
                    state: State::Asked,
                    by: peer,
                };
                partial.free -= 1;
                out.push(geometry.block(piece, number as u32));
            }
        }
        if partial.free == 0 {
            self.open.remove(&piece);
        }
    }

    fn begin(&mut self, piece: u32, peer: PeerKey) {
        self.unlist(piece);
        let blocks = self.geometry.blocks_of(piece);
        let only = self.failed.contains_key(&piece).then_some(peer);
        let block = Block {
            state: State::Free,
            by: peer,
        };
        self.partial.insert(
            piece,
            Partial {
                blocks: vec![block; blocks as usize],
                extra: Vec::new(),
                free: blocks,
                here: 0,
                only,
                parked: false,
            },
        );
        self.open.insert(piece);
    }

    /// A new piece, of those that are wanted most: random at first, then the rarest that the peer has, or the next in order.
    fn choose(&mut self, have: &Bits) -> Option<u32> {
        let order = if self.sequential {
            Order::InOrder(self.order_end())
        } else if self.had.count() < RANDOM_PIECES {
            Order::Random
        } else {
            Order::Rarest
        };
        self.listing
            .choose(have, &order, &self.availability, &mut self.rng)
    }

    /// Every block that anybody could give is asked for.
    fn all_asked(&self) -> bool {
        let hidden = if self.seeds == 0 {
            self.listing.unseen()
        } else {
            0
        };
        self.listing.len() == hidden
            && self
                .open
                .iter()
                .all(|piece| self.partial.get(piece).is_none_or(|p| p.only.is_some()))
    }

    /// Blocks that were asked of others, of whom there are `most` in the end, of these pieces.
    fn pick_again(
        &mut self,
        peer: PeerKey,
        have: &Bits,
        room: usize,
        most: usize,
        of: impl Fn(u32) -> bool,
        out: &mut Vec<BlockRef>,
    ) {
        if room == 0 {
            return;
        }
        // Fewest askers first; the random part spreads several idle peers over the blocks.
        let mut found: Vec<(usize, u32, u32, u32)> = Vec::new();
        for (&piece, partial) in &self.partial {
            if !have.get(piece) || partial.only.is_some() || !of(piece) {
                continue;
            }
            for (number, block) in partial.blocks.iter().enumerate() {
                let number = number as u32;
                if block.state != State::Asked || block.by == peer {
                    continue;
                }
                let more = partial
                    .extra
                    .iter()
                    .filter(|&&(at, _)| at == number)
                    .count();
                if more + 1 < most && !partial.extra.contains(&(number, peer)) {
                    found.push((more, self.rng.random(), piece, number));
                }
            }
        }
        found.sort_unstable();
        for (_, _, piece, number) in found.into_iter().take(room) {
            if let Some(partial) = self.partial.get_mut(&piece) {
                partial.extra.push((number, peer));
                out.push(self.geometry.block(piece, number));
            }
        }
    }

    fn shift(&mut self, piece: u32, up: bool) {
        let Some(count) = self.availability.get_mut(piece as usize) else {
            return;
        };
        let new = if up {
            count.saturating_add(1)
        } else {
            count.saturating_sub(1)
        };
        let old = std::mem::replace(count, new);
        if old != new {
            self.listing.shift(piece, old, new);
        }
    }

    fn list(&mut self, piece: u32) {
        if !self.had.get(piece) && !self.partial.contains_key(&piece) {
            let (priority, count) = (self.priority(piece), self.count(piece));
            self.listing.add(piece, priority, count);
        }
    }

    fn unlist(&mut self, piece: u32) {
        let count = self.count(piece);
        self.listing.remove(piece, count);
    }

    fn count(&self, piece: u32) -> u16 {
        let count = self.availability.get(piece as usize);
        count.copied().unwrap_or(0)
    }
}
