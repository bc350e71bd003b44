//! What a piece hashes to, for whichever versions its torrent has.

use sha1::{Digest, Sha1};

use super::files::Layout;
use crate::torrent::picker::BlockDigest;
use crate::torrent::v2::merkle::{Hash, climb, height_over, sha256};
use crate::torrent::wire::BLOCK;

/// Zeros at a time that stand for padding.
const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// What the picker compares blocks by.
pub fn short(hashes: &[Hash]) -> Vec<BlockDigest> {
    let short = |hash: &Hash| hash.first_chunk().copied().unwrap_or_default();
    hashes.iter().map(short).collect()
}

/// Hashes one piece as it comes. Each part but the last is of whole blocks.
#[derive(Clone, Debug)]
pub(super) struct PieceHasher {
    v1: Option<Sha1>,
    /// Hashes of blocks.
    v2: Option<Vec<Hash>>,
}

impl PieceHasher {
    pub(super) fn update(&mut self, part: &[u8]) {
        if let Some(sha) = &mut self.v1 {
            sha.update(part);
        }
        if let Some(leaves) = &mut self.v2 {
            leaves.extend(part.chunks(BLOCK as usize).map(sha256));
        }
    }

    /// The hash of version 1, which counts the padding at the piece's end.
    fn finish_v1(&mut self, padding: u32) -> Option<[u8; 20]> {
        let mut sha = self.v1.take()?;
        let mut left = padding as usize;
        while let Some(zeros) = ZEROS.get(..left.min(ZEROS.len())).filter(|z| !z.is_empty()) {
            sha.update(zeros);
            left -= zeros.len();
        }
        Some(sha.finalize().into())
    }
}

impl Layout {
    /// For a piece of this torrent.
    pub(super) fn hasher(&self, piece: u32) -> PieceHasher {
        // Of a hybrid torrent the hashes of version 2 may not be known; those of version 1 do.
        let v2 = match &self.v2 {
            Some(v2) if self.unhashed || v2.piece(piece).is_some() => Some(Vec::new()),
            Some(_) | None => None,
        };
        PieceHasher {
            v1: self.has_v1.then(Sha1::new),
            v2,
        }
    }

    fn padding_of(&self, piece: u32) -> u32 {
        let full = self.geometry.full_len_of(piece);
        full.saturating_sub(self.geometry.len_of(piece))
    }

    /// Whether the piece is what every hash that is known of it says, one at least.
    pub(super) fn is_right(&self, piece: u32, mut hasher: PieceHasher) -> bool {
        let v1 = hasher.finish_v1(self.padding_of(piece)).map(|found| {
            let wanted = self.hashes.get(piece as usize);
            wanted == Some(&found)
        });
        let v2 = hasher.v2.map(|leaves| {
            let wanted = self.v2.as_ref().and_then(|v2| v2.piece(piece));
            wanted.is_some_and(|(level, hash)| climb(0, &leaves, level) == hash)
        });
        match (v1, v2) {
            (Some(v1), Some(v2)) => v1 && v2,
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => false,
        }
    }

    /// What a torrent that is being made says of the piece.
    pub(super) fn hash_of(&self, piece: u32, mut hasher: PieceHasher) -> ([u8; 20], Hash) {
        let v1 = hasher.finish_v1(self.padding_of(piece));
        let v2 = hasher.v2.map(|leaves| {
            // The tree of a file of one piece is as high as its blocks need.
            let alone = self.v2.as_ref().and_then(|v2| v2.piece(piece));
            let whole = height_over(u64::from(self.geometry.piece_len / BLOCK));
            climb(0, &leaves, alone.map_or(whole, |(level, _)| level))
        });
        (v1.unwrap_or_default(), v2.unwrap_or_default())
    }
}
