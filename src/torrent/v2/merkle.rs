//! Merkle trees (BEP 52): SHA-256 of blocks of 16 KiB, joined in pairs up to the root of a file.
//!
//! Levels count from the leaves: a hash of level `n` covers `2^n` blocks. What lies beyond a file's end are leaves of zeros.

use std::sync::OnceLock;

use ring::digest::{Context, SHA256, digest};

/// A hash of a tree.
pub type Hash = [u8; 32];

/// Levels that a tree can have: 2^48 blocks are more than any length holds.
pub const MAX_LEVELS: u32 = 50;

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> Hash {
    finish(digest(&SHA256, bytes).as_ref())
}

/// The hash of two that stand side by side.
pub fn join(left: &Hash, right: &Hash) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(left);
    context.update(right);
    finish(context.finish().as_ref())
}

fn finish(digest: &[u8]) -> Hash {
    let mut out = [0; 32];
    out.copy_from_slice(digest);
    out
}

/// The hash at `level` of a part that lies beyond the end of its file.
pub fn padding(level: u32) -> Hash {
    static TABLE: OnceLock<Vec<Hash>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut table = vec![[0; 32]];
        for _ in 0..MAX_LEVELS {
            let last = table.last().copied().unwrap_or_default();
            table.push(join(&last, &last));
        }
        table
    });
    // No tree is higher.
    table.get(level as usize).copied().unwrap_or_default()
}

/// Levels between one hash and a layer of this many: the logarithm, rounded up.
pub fn height_over(count: u64) -> u32 {
    count.max(1).next_power_of_two().trailing_zeros()
}

/// The hash that lies `height` levels above `layer`, whose hashes are of `level` and begin at its left edge.
pub fn climb(level: u32, layer: &[Hash], height: u32) -> Hash {
    let mut here = layer.to_vec();
    for up in 0..height {
        let step = |pair: &[Hash]| match pair {
            [left, right] => join(left, right),
            [left, ..] => join(left, &padding(level + up)),
            [] => padding(level + up + 1),
        };
        here = here.chunks(2).map(step).collect();
    }
    here.first()
        .copied()
        .unwrap_or_else(|| padding(level + height))
}

/// A tree from one of its layers up to its root.
#[derive(Clone, PartialEq, Eq)]
pub struct Tree {
    /// Level of the lowest layer.
    base: u32,
    /// From the lowest up, without what lies beyond the end; the last has one hash.
    layers: Vec<Vec<Hash>>,
}

impl Tree {
    /// Builds a tree of a layer of `base` level, which is not empty.
    pub fn new(base: u32, layer: Vec<Hash>) -> Self {
        Self::below(base, base + height_over(layer.len() as u64), layer)
    }

    /// The same where the root is at `top`, higher than the layer needs.
    pub fn below(base: u32, top: u32, layer: Vec<Hash>) -> Self {
        let mut layers = vec![layer];
        for level in base..top {
            let last = layers.last().map_or(&[][..], Vec::as_slice);
            let next = last.chunks(2).map(|pair| climb(level, pair, 1)).collect();
            layers.push(next);
        }
        Self { base, layers }
    }

    /// The hash of everything.
    pub fn root(&self) -> Hash {
        self.at(self.top(), 0)
    }

    /// Level of the lowest layer.
    pub fn base(&self) -> u32 {
        self.base
    }

    /// Level of the root.
    pub fn top(&self) -> u32 {
        // At most MAX_LEVELS layers.
        self.base + self.layers.len().saturating_sub(1) as u32
    }

    /// The lowest layer.
    pub fn layer(&self) -> &[Hash] {
        self.layers.first().map_or(&[], Vec::as_slice)
    }

    /// A hash; that of padding where the file ends before.
    pub fn at(&self, level: u32, index: u64) -> Hash {
        let layer = level
            .checked_sub(self.base)
            .and_then(|at| self.layers.get(at as usize));
        let hash = layer.and_then(|layer| layer.get(usize::try_from(index).ok()?));
        hash.copied().unwrap_or_else(|| padding(level))
    }
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree")
            .field("base", &self.base)
            .field("len", &self.layer().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, by recursion over all leaves.
    fn plain(leaves: &[Hash], width: usize) -> Hash {
        if width == 1 {
            return leaves.first().copied().unwrap_or([0; 32]);
        }
        let half = width / 2;
        let (left, right) = leaves.split_at(half.min(leaves.len()));
        join(&plain(left, half), &plain(right, half))
    }

    #[test]
    fn the_hash_of_nothing_at_all_is_that_of_the_standard() {
        let hex = data_encoding::HEXLOWER.encode(&sha256(b""));
        assert_eq!(
            hex,
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(padding(0), [0; 32]);
        assert_eq!(padding(2), plain(&[], 4));
    }

    proptest! {
        #[test]
        fn a_tree_of_any_layer_has_the_root_of_its_leaves(count in 1_usize..70, base in 0_u32..4) {
            let leaves: Vec<Hash> = (0..count).map(|n| sha256(&n.to_be_bytes())).collect();
            let whole = Tree::new(0, leaves.clone());
            prop_assert_eq!(whole.root(), plain(&leaves, count.next_power_of_two()));
            prop_assert_eq!(whole.root(), climb(0, &leaves, whole.top()));
            let base = base.min(whole.top());
            let layer: Vec<Hash> = leaves.chunks(1 << base).map(|part| climb(0, part, base)).collect();
            let upper = Tree::new(base, layer);
            prop_assert_eq!(upper.root(), whole.root());
            prop_assert_eq!(upper.top(), whole.top());
            for level in base..=upper.top() {
                for index in 0..1_u64 << (upper.top() - level) {
                    prop_assert_eq!(upper.at(level, index), whole.at(level, index));
                }
            }
        }
    }
}
