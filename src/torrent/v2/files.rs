//! The trees of a torrent's files, as far as they are known: what a piece must hash to, and what others may ask for.

use std::collections::BTreeMap;
use std::ops::Range;

use super::merkle::{Hash, MAX_LEVELS, Tree, height_over};
use super::request::HashRequest;
use crate::bencode::{self, Value};
use crate::torrent::infohash::InfoHashV2;
use crate::torrent::wire::BLOCK;

/// Hashes of a piece layer in one request (BEP 52).
pub(super) const LAYER_AT_ONCE: u32 = 512;

/// The piece layers are not those of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the piece layers do not fit the files of the torrent")]
pub struct LayerError;

/// One file with content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHashes {
    /// Root of its tree.
    pub root: Hash,
    /// Its pieces.
    pub pieces: Range<u32>,
    /// Its blocks.
    blocks: u64,
    /// From the hashes of its pieces up, once these are known. Those of a file of one piece always are.
    tree: Option<Tree>,
}

impl FileHashes {
    /// Level of the root.
    pub fn top(&self) -> u32 {
        height_over(self.blocks)
    }

    /// Number of pieces.
    pub fn count(&self) -> u32 {
        self.pieces.end - self.pieces.start
    }
}

/// The trees of all files of one torrent.
#[derive(Clone, PartialEq, Eq)]
pub struct HashedFiles {
    /// SHA-256 of the info dictionary.
    pub hash: InfoHashV2,
    /// Level of the hashes of pieces.
    level: u32,
    /// In the order of their pieces.
    files: Vec<FileHashes>,
    /// The first file with each root.
    by_root: BTreeMap<Hash, usize>,
}

/// What becomes of a request for hashes.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Give these.
    Hashes(Vec<Hash>),
    /// Read this piece, and give what [`HashedFiles::answer_with`] makes of it.
    NeedsPiece(u32),
    /// There is no such thing, or it is not known.
    Reject,
}

impl HashedFiles {
    /// No files yet.
    pub fn new(hash: InfoHashV2, piece_len: u32) -> Self {
        Self {
            hash,
            level: height_over(u64::from(piece_len / BLOCK)),
            files: Vec::new(),
            by_root: BTreeMap::new(),
        }
    }

    /// Takes the next file, which has content. `first` is its first piece.
    pub fn push(&mut self, root: Hash, first: u32, len: u64) {
        let blocks = len.div_ceil(u64::from(BLOCK));
        // The caller bounds the number of pieces.
        let pieces = blocks.div_ceil(1 << self.level) as u32;
        let tree = (pieces == 1).then(|| Tree::new(height_over(blocks), vec![root]));
        self.by_root.entry(root).or_insert(self.files.len());
        self.files.push(FileHashes {
            root,
            pieces: first..first.saturating_add(pieces),
            blocks,
            tree,
        });
    }

    /// The files.
    pub fn files(&self) -> &[FileHashes] {
        &self.files
    }

    fn file_with(&self, root: &Hash) -> Option<&FileHashes> {
        self.files.get(*self.by_root.get(root)?)
    }

    /// The file of a piece.
    fn file_of(&self, piece: u32) -> Option<&FileHashes> {
        let after = self
            .files
            .partition_point(|file| file.pieces.start <= piece);
        let file = self.files.get(after.checked_sub(1)?)?;
        file.pieces.contains(&piece).then_some(file)
    }

    /// Level of a piece's hash, and the hash, where it is known.
    pub fn piece(&self, piece: u32) -> Option<(u32, Hash)> {
        let file = self.file_of(piece)?;
        let tree = file.tree.as_ref()?;
        let at = u64::from(piece - file.pieces.start);
        Some((tree.base(), tree.at(tree.base(), at)))
    }

    /// Whether the hash of every piece is known.
    pub fn is_complete(&self) -> bool {
        self.files.iter().all(|file| file.tree.is_some())
    }

    /// What to ask for, to know the hashes of all pieces.
    pub fn missing(&self) -> Vec<(usize, HashRequest)> {
        let mut out = Vec::new();
        for (number, file) in self.files.iter().enumerate() {
            if file.tree.is_some() {
                continue;
            }
            for index in (0..file.count()).step_by(LAYER_AT_ONCE as usize) {
                let rest = (file.count() - index).next_power_of_two();
                // A file of several pieces; two hashes are the fewest that may be asked for.
                let count = rest.clamp(2, LAYER_AT_ONCE);
                let proofs = file.top().saturating_sub(self.level).saturating_sub(1);
                let request = HashRequest {
                    root: file.root,
                    base: self.level,
                    index,
                    count,
                    proofs,
                };
                out.push((number, request));
            }
        }
        out
    }

    /// Learns the hashes of a file's pieces.
    ///
    /// # Errors
    /// They are wrong, or wrong in number.
    pub fn learn(&mut self, file: usize, layer: Vec<Hash>) -> Result<(), LayerError> {
        let level = self.level;
        let file = self.files.get_mut(file).ok_or(LayerError)?;
        if layer.len() != file.count() as usize || file.top() > MAX_LEVELS {
            return Err(LayerError);
        }
        if file.count() == 1 {
            return Ok(());
        }
        let tree = Tree::new(level, layer);
        if tree.root() != file.root || tree.top() != file.top() {
            return Err(LayerError);
        }
        file.tree = Some(tree);
        Ok(())
    }

    /// Reads `piece layers`, of which more may be there than are needed.
    ///
    /// # Errors
    /// Those of a file are wrong: refuse the torrent.
    pub(crate) fn learn_all(&mut self, layers: Value<'_>) -> Result<(), LayerError> {
        let given = layers.as_dict().ok_or(LayerError)?;
        let given: BTreeMap<&[u8], Value<'_>> = given.collect();
        for number in 0..self.files.len() {
            let Some(file) = self.files.get(number) else {
                continue;
            };
            let Some(layer) = given.get(&file.root[..]).filter(|_| file.tree.is_none()) else {
                continue;
            };
            let (hashes, []) = layer.as_bytes().ok_or(LayerError)?.as_chunks::<32>() else {
                return Err(LayerError);
            };
            self.learn(number, hashes.to_vec())?;
        }
        Ok(())
    }

    /// Appends `piece layers`, as far as they are known.
    pub(crate) fn encode_layers(&self, out: &mut Vec<u8>) {
        let known: BTreeMap<&Hash, &Tree> = self
            .files
            .iter()
            .filter(|file| file.count() > 1)
            .filter_map(|file| Some((&file.root, file.tree.as_ref()?)))
            .collect();
        out.push(b'd');
        for (root, tree) in known {
            bencode::put_bytes(out, root);
            bencode::put_bytes(out, tree.layer().as_flattened());
        }
        out.push(b'e');
    }

    /// Looks up what answers a request.
    pub fn answer(&self, request: &HashRequest) -> Answer {
        let file = self.file_with(&request.root);
        let Some((file, tree)) = file.and_then(|file| Some((file, file.tree.as_ref()?))) else {
            return Answer::Reject;
        };
        if !request.fits(file.top()) {
            return Answer::Reject;
        }
        if request.base >= tree.base() {
            return Answer::Hashes(request.gather(|level, index| tree.at(level, index)));
        }
        let piece = u64::from(request.index) >> tree.base();
        let last = u64::from(request.index) + u64::from(request.count) - 1;
        if request.base != 0 || last >> tree.base() != piece || piece >= u64::from(file.count()) {
            return Answer::Reject;
        }
        // Below the file's number of pieces.
        Answer::NeedsPiece(file.pieces.start + piece as u32)
    }

    /// Answers a request for which a piece was read: `leaves` are the hashes of its blocks.
    pub fn answer_with(&self, request: &HashRequest, leaves: Vec<Hash>) -> Option<Vec<Hash>> {
        let Answer::NeedsPiece(piece) = self.answer(request) else {
            return None;
        };
        let file = self.file_of(piece)?;
        let upper = file.tree.as_ref()?;
        let lower = Tree::below(0, upper.base(), leaves);
        let at = u64::from(piece - file.pieces.start);
        // What is on disk may have changed.
        if lower.root() != upper.at(upper.base(), at) {
            return None;
        }
        Some(request.gather(|level, index| {
            if level >= upper.base() {
                return upper.at(level, index);
            }
            let first = at << (upper.base() - level);
            index
                .checked_sub(first)
                .map_or_else(Default::default, |index| lower.at(level, index))
        }))
    }

    /// What to ask for, to know which blocks of a piece are wrong; `None` where its hash says it already, or nothing can.
    pub fn blocks_of(&self, piece: u32) -> Option<HashRequest> {
        let file = self.file_of(piece)?;
        let base = file.tree.as_ref()?.base();
        let at = piece - file.pieces.start;
        let request = HashRequest {
            root: file.root,
            base: 0,
            index: first_block(at, base)?,
            count: 1_u32.checked_shl(base)?,
            proofs: file.top().checked_sub(1)?,
        };
        request.fits(file.top()).then_some(request)
    }

    /// Whether these hashes answer a request of ours truly.
    pub fn proves(&self, request: &HashRequest, hashes: &[Hash]) -> bool {
        let file = self.file_with(&request.root);
        file.is_some_and(|file| request.proves(file.top(), hashes))
    }
}

/// Number of the first block of a file's piece `at`, where pieces are at level `base`; `None` where a request can't name it.
fn first_block(at: u32, base: u32) -> Option<u32> {
    u32::try_from(u64::from(at).checked_shl(base)?).ok()
}

impl std::fmt::Debug for HashedFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HashedFiles")
            .field("files", &self.files.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::merkle::{climb, sha256};
    use super::*;
    use proptest::prelude::*;

    const LEVEL: u32 = 2;

    fn leaves(blocks: usize) -> Vec<Hash> {
        (0..blocks).map(|n| sha256(&n.to_be_bytes())).collect()
    }

    /// A torrent of one file of so many blocks, in pieces of four, and the hashes of its pieces.
    fn files(blocks: usize) -> (HashedFiles, Vec<Hash>) {
        let piece_len = BLOCK << LEVEL;
        let mut files = HashedFiles::new(InfoHashV2([1; 32]), piece_len);
        let root = Tree::new(0, leaves(blocks)).root();
        files.push(root, 7, blocks as u64 * u64::from(BLOCK) - 5);
        let leaves = leaves(blocks);
        let layer = leaves.chunks(4).map(|part| climb(0, part, LEVEL));
        (files, layer.collect())
    }

    proptest! {
        #[test]
        fn who_knows_the_pieces_answers_what_others_ask(blocks in 5_usize..9000, wrong in any::<prop::sample::Index>()) {
            let (mut newcomer, layer) = files(blocks);
            let (mut seed, _) = files(blocks);
            prop_assert!(!newcomer.is_complete());
            prop_assert_eq!(newcomer.piece(7), None);
            let mut lie = layer.clone();
            lie[wrong.index(layer.len())][0] ^= 1;
            prop_assert_eq!(seed.learn(0, lie), Err(LayerError));
            prop_assert_eq!(seed.learn(0, layer[1..].to_vec()), Err(LayerError));
            seed.learn(0, layer.clone()).unwrap();
            let mut got = Vec::new();
            for (file, request) in newcomer.missing() {
                prop_assert_eq!(newcomer.answer(&request), Answer::Reject);
                let Answer::Hashes(hashes) = seed.answer(&request) else { panic!() };
                prop_assert!(newcomer.proves(&request, &hashes));
                prop_assert_eq!(file, 0);
                got.extend_from_slice(&hashes[..request.count as usize]);
            }
            got.truncate(layer.len());
            newcomer.learn(0, got).unwrap();
            prop_assert!(newcomer.is_complete());
            prop_assert_eq!(newcomer.piece(7), Some((LEVEL, layer[0])));
            prop_assert_eq!(newcomer.piece(6), None);
            let mut text = Vec::new();
            newcomer.encode_layers(&mut text);
            let (mut third, _) = files(blocks);
            third.learn_all(Value::parse(&text).unwrap()).unwrap();
            prop_assert_eq!(third, newcomer);
        }

        #[test]
        fn the_blocks_of_a_piece_are_proved_by_who_has_it(blocks in 2_usize..70, piece in any::<prop::sample::Index>()) {
            let (mut seed, layer) = files(blocks);
            seed.learn(0, layer.clone()).unwrap();
            let piece = piece.index(layer.len());
            let request = seed.blocks_of(7 + piece as u32).unwrap();
            prop_assert_eq!(seed.answer(&request), Answer::NeedsPiece(7 + piece as u32));
            let own: Vec<Hash> = leaves(blocks).chunks(4).nth(piece).unwrap().to_vec();
            let hashes = seed.answer_with(&request, own.clone()).unwrap();
            prop_assert!(seed.proves(&request, &hashes));
            prop_assert_eq!(&hashes[..own.len()], &own[..]);
            let mut changed = own;
            changed[0][0] ^= 1;
            prop_assert_eq!(seed.answer_with(&request, changed), None);
        }
    }

    #[test]
    fn a_block_beyond_what_a_request_can_name_is_asked_for_by_no_other_number() {
        assert_eq!(first_block(5, 3), Some(40));
        // Pieces of 128 MiB.
        assert_eq!(first_block((1 << 19) - 1, 13), Some(u32::MAX - 8191));
        assert_eq!(first_block((1 << 19) + 1, 13), None);
        assert_eq!(first_block(1, 64), None);
    }
}
