//! A set of pieces, as the peer wire writes it: the first piece is the highest bit of the first byte (BEP 3).

/// A set of piece numbers below a fixed length.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Bits {
    words: Vec<u64>,
    len: u32,
    ones: u32,
}

impl Bits {
    /// An empty set over `len` pieces.
    pub fn new(len: u32) -> Self {
        Self {
            words: vec![0; (len as usize).div_ceil(64)],
            len,
            ones: 0,
        }
    }

    /// The set of all `len` pieces.
    pub fn full(len: u32) -> Self {
        let mut bits = Self {
            words: vec![u64::MAX; (len as usize).div_ceil(64)],
            len,
            ones: len,
        };
        let spare = (64 - len % 64) % 64;
        if let Some(last) = bits.words.last_mut() {
            *last <<= spare;
        }
        bits
    }

    /// Reads the bitfield of a message: `None` when its length is wrong or a spare bit is set.
    pub fn from_bytes(len: u32, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != (len as usize).div_ceil(8) {
            return None;
        }
        let mut words = Vec::with_capacity((len as usize).div_ceil(64));
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            words.push(u64::from_be_bytes(word));
        }
        let spare = (64 - len % 64) % 64;
        if spare > 0
            && words
                .last()
                .is_some_and(|last| last.trailing_zeros() < spare)
        {
            return None;
        }
        let ones = words.iter().map(|w| w.count_ones()).sum();
        Some(Self { words, len, ones })
    }

    /// The bitfield as a message carries it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|w| w.to_be_bytes()).collect();
        bytes.truncate((self.len as usize).div_ceil(8));
        bytes
    }

    /// How many pieces there are, in the set or not.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// How many pieces are in the set.
    pub fn count(&self) -> u32 {
        self.ones
    }

    /// Tells whether no piece is in the set.
    pub fn is_empty(&self) -> bool {
        self.ones == 0
    }

    /// Tells whether every piece is in the set (and there is at least one).
    pub fn is_full(&self) -> bool {
        self.len > 0 && self.ones == self.len
    }

    /// Tells whether `piece` is in the set; false beyond its length.
    pub fn get(&self, piece: u32) -> bool {
        piece < self.len
            && self
                .words
                .get(piece as usize / 64)
                .is_some_and(|w| w & mask(piece) != 0)
    }

    /// Adds `piece`; tells whether it was new. Beyond the length nothing happens.
    pub fn set(&mut self, piece: u32) -> bool {
        if piece >= self.len || self.get(piece) {
            return false;
        }
        if let Some(word) = self.words.get_mut(piece as usize / 64) {
            *word |= mask(piece);
            self.ones += 1;
        }
        true
    }

    /// Takes `piece` out; tells whether it was in.
    pub fn clear(&mut self, piece: u32) -> bool {
        if !self.get(piece) {
            return false;
        }
        if let Some(word) = self.words.get_mut(piece as usize / 64) {
            *word &= !mask(piece);
            self.ones -= 1;
        }
        true
    }

    /// The pieces of the set, in order.
    pub fn ones(&self) -> impl Iterator<Item = u32> + '_ {
        self.words
            .iter()
            .enumerate()
            .flat_map(|(at, &word)| WordOnes {
                base: at as u32 * 64,
                word,
            })
    }

    /// Pieces that are in both sets, starting at the word that holds `from` and going round once.
    pub fn common<'a>(&'a self, other: &'a Self, from: u32) -> impl Iterator<Item = u32> + 'a {
        let words = self.words.len().min(other.words.len());
        let first = if words == 0 {
            0
        } else {
            from as usize / 64 % words
        };
        (first..words).chain(0..first).flat_map(move |at| WordOnes {
            base: at as u32 * 64,
            word: self.words[at] & other.words[at],
        })
    }
}

impl std::fmt::Debug for Bits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bits({}/{})", self.ones, self.len)
    }
}

fn mask(piece: u32) -> u64 {
    1 << (63 - piece % 64)
}

struct WordOnes {
    base: u32,
    word: u64,
}

impl Iterator for WordOnes {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        if self.word == 0 {
            return None;
        }
        let bit = self.word.leading_zeros();
        self.word &= !(1 << (63 - bit));
        Some(self.base + bit)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bitfield_with_spare_bits_or_a_wrong_length_is_refused() {
        assert!(Bits::from_bytes(10, &[0xff, 0xc0]).unwrap().is_full());
        assert!(Bits::from_bytes(10, &[0xff, 0xe0]).is_none());
        assert!(Bits::from_bytes(10, &[0xff]).is_none());
        assert!(Bits::from_bytes(10, &[0xff, 0xc0, 0]).is_none());
        assert!(Bits::from_bytes(64, &[0xff; 8]).unwrap().is_full());
    }

    proptest! {
        #[test]
        fn bits_agree_with_a_plain_set(len in 1u32..300, picks in prop::collection::vec(0u32..320, 0..200)) {
            let mut bits = Bits::new(len);
            let mut set = std::collections::BTreeSet::new();
            for piece in picks {
                prop_assert_eq!(bits.set(piece), piece < len && set.insert(piece));
            }
            prop_assert_eq!(bits.count() as usize, set.len());
            prop_assert!(bits.ones().eq(set.iter().copied()));
            prop_assert_eq!(Bits::from_bytes(len, &bits.to_bytes()), Some(bits.clone()));
            let both: std::collections::BTreeSet<u32> = bits.common(&Bits::full(len), len / 2).collect();
            prop_assert_eq!(both, set);
        }

        #[test]
        fn any_bytes_either_are_a_bitfield_or_are_refused(len in 0u32..100, bytes in prop::collection::vec(any::<u8>(), 0..16)) {
            if let Some(bits) = Bits::from_bytes(len, &bytes) {
                prop_assert_eq!(bits.to_bytes(), bytes);
                prop_assert!(bits.count() <= len);
            }
        }
    }
}
