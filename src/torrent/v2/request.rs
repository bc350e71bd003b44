//! Requests for hashes of a tree (BEP 52, messages 21 to 23), and whether what answers one is true.

use super::merkle::{Hash, MAX_LEVELS, climb, height_over, join};

/// Length of a request, bytes: `pieces root[32] | base layer u32 | index u32 | length u32 | proof layers u32`.
pub const REQUEST_LEN: usize = 48;

/// Most hashes of one layer in one message: those of the blocks of 128 MiB, as others have it.
pub const MAX_HASHES: u32 = 8192;

/// Longest answer, bytes: a request, its hashes, and one of each layer above.
pub const MAX_ANSWER: usize = REQUEST_LEN + 32 * (MAX_HASHES + MAX_LEVELS) as usize;

/// Asks for hashes of one file's tree, and for what proves them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HashRequest {
    /// The file, by the root of its tree.
    pub root: Hash,
    /// Level of the hashes; 0 for those of blocks.
    pub base: u32,
    /// The first of them.
    pub index: u32,
    /// How many.
    pub count: u32,
    /// Levels above `base` up to which there is to be proof, those within the hashes themselves counted.
    pub proofs: u32,
}

/// Says nothing of the file.
impl std::fmt::Debug for HashRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            base,
            index,
            count,
            proofs,
            ..
        } = self;
        write!(f, "HashRequest({base}, {index}, {count}, {proofs})")
    }
}

impl HashRequest {
    /// Reads the front of a message; gives the rest, which is empty but for an answer.
    pub fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (root, mut rest) = bytes.split_first_chunk::<32>()?;
        let mut field = || {
            let (value, more) = rest.split_first_chunk::<4>()?;
            rest = more;
            Some(u32::from_be_bytes(*value))
        };
        let (base, index, count, proofs) = (field()?, field()?, field()?, field()?);
        let request = Self {
            root: *root,
            base,
            index,
            count,
            proofs,
        };
        Some((request, rest))
    }

    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.root);
        for field in [self.base, self.index, self.count, self.proofs] {
            out.extend_from_slice(&field.to_be_bytes());
        }
    }

    /// Whether a tree whose root is at level `top` has what this asks for, within our limits.
    pub fn fits(&self, top: u32) -> bool {
        let Some(height) = top.checked_sub(self.base).filter(|_| top <= MAX_LEVELS) else {
            return false;
        };
        let width = 1_u64 << height;
        let end = u64::from(self.index) + u64::from(self.count);
        (1..=MAX_HASHES).contains(&self.count)
            && self.index.is_multiple_of(self.count.next_power_of_two())
            && end <= width
            && self.proofs < height
    }

    /// Levels of the hashes that prove those asked for: one of each.
    pub fn uncles(&self) -> std::ops::Range<u32> {
        let own = self.own_height();
        let first = self.base.saturating_add(own);
        // Counted from the first level above the base; where that is within the hashes, nothing more is needed.
        first..self.base.saturating_add(self.proofs).saturating_add(1)
    }

    /// Bytes of hashes that answer it.
    pub fn answer_len(&self) -> u64 {
        (u64::from(self.count) + self.uncles().len() as u64) * 32
    }

    /// Levels that the hashes themselves span.
    fn own_height(&self) -> u32 {
        height_over(u64::from(self.count))
    }

    /// The hashes that this asks for, where `at` gives a hash by its level and number.
    pub fn gather(&self, at: impl Fn(u32, u64) -> Hash) -> Vec<Hash> {
        let first = u64::from(self.index);
        let mut out: Vec<Hash> = (first..first + u64::from(self.count))
            .map(|index| at(self.base, index))
            .collect();
        for level in self.uncles() {
            let over = first >> (level - self.base).min(63);
            out.push(at(level, over ^ 1));
        }
        out
    }

    /// Whether `hashes` answer this, in a tree whose root is at `top`. They have to be proved up to the root.
    pub fn proves(&self, top: u32, hashes: &[Hash]) -> bool {
        if !self.fits(top) {
            return false;
        }
        let Some((own, uncles)) = hashes.split_at_checked(self.count as usize) else {
            return false;
        };
        let levels = self.uncles();
        if uncles.len() != levels.len() {
            return false;
        }
        let height = self.own_height();
        let mut here = climb(self.base, own, height);
        let mut index = u64::from(self.index) >> height;
        for uncle in uncles {
            here = if index & 1 == 0 {
                join(&here, uncle)
            } else {
                join(uncle, &here)
            };
            index >>= 1;
        }
        levels.end.max(levels.start) == top && here == self.root
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::merkle::{Tree, sha256};
    use super::*;
    use proptest::prelude::*;

    fn tree(leaves: usize) -> Tree {
        let leaves = (0..leaves).map(|n| sha256(&n.to_be_bytes())).collect();
        Tree::new(0, leaves)
    }

    proptest! {
        #[test]
        fn what_a_tree_gives_proves_itself_and_nothing_else_does(
            leaves in 2_usize..70,
            base in 0_u32..7,
            size in 0_u32..7,
            at in any::<prop::sample::Index>(),
            flip in any::<prop::sample::Index>(),
        ) {
            let tree = tree(leaves);
            let top = tree.top();
            let base = base.min(top - 1);
            let size = size.min(top - base);
            let index = (at.index(1 << (top - base - size)) as u32) << size;
            let request = HashRequest {
                root: tree.root(),
                base,
                index,
                count: 1 << size,
                proofs: (top - base).saturating_sub(1),
            };
            prop_assert!(request.fits(top));
            let mut hashes = request.gather(|level, index| tree.at(level, index));
            prop_assert!(request.proves(top, &hashes), "{request:?} {top}");
            let number = flip.index(hashes.len());
            hashes[number][31] ^= 1;
            prop_assert!(!request.proves(top, &hashes));
            hashes[number][31] ^= 1;
            hashes.pop();
            prop_assert!(!request.proves(top, &hashes));
        }

        #[test]
        fn a_request_reads_back_and_any_bytes_are_one_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..100), top in 0_u32..60) {
            let Some((request, rest)) = HashRequest::parse(&bytes) else {
                prop_assert!(bytes.len() < REQUEST_LEN);
                return Ok(());
            };
            let mut again = Vec::new();
            request.encode(&mut again);
            prop_assert_eq!(&again[..], &bytes[..REQUEST_LEN]);
            prop_assert_eq!(rest.len(), bytes.len() - REQUEST_LEN);
            if request.fits(top) {
                prop_assert!(request.gather(|_, _| [0; 32]).len() <= (MAX_HASHES + MAX_LEVELS) as usize);
            }
        }
    }

    #[test]
    fn what_no_tree_has_is_refused() {
        let good = HashRequest {
            root: [1; 32],
            base: 2,
            index: 4,
            count: 4,
            proofs: 2,
        };
        assert!(good.fits(5));
        for bad in [
            HashRequest { base: 6, ..good },
            HashRequest { index: 2, ..good },
            HashRequest { index: 8, ..good },
            HashRequest {
                index: u32::MAX - 3,
                ..good
            },
            HashRequest { count: 0, ..good },
            HashRequest {
                count: 8193,
                index: 0,
                ..good
            },
            HashRequest { proofs: 3, ..good },
            HashRequest {
                proofs: u32::MAX,
                ..good
            },
        ] {
            assert!(!bad.fits(5), "{bad:?}");
        }
        assert!(!good.fits(u32::MAX));
    }
}
