//! Sealing keys, keystreams, the counter and the ratchet that links and onion layers share (PROTOCOL.md §1.1).
//!
//! Nothing here is `Clone`: a second owner of a sealing key could use a nonce twice.

use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::{Key32, Suite, derive_key};
use crate::frame::TAG_LEN;

#[cfg(test)]
use super::audit;

/// Items that one direction of a link or circuit may carry: 2^48. At a million a second that is nine years, and it
/// keeps 64-bit counters far from wrapping.
pub(crate) const MAX_COUNT: u64 = 1 << 48;

/// A tag did not open; the bytes it covered were wiped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forged;

/// A key of a suite, ready for use.
pub(crate) struct Aead {
    key: LessSafeKey,
    #[cfg(test)]
    id: audit::KeyId,
}

impl Aead {
    pub(crate) fn new(suite: Suite, key: &Key32) -> Self {
        Self {
            key: expand(suite, key.as_bytes()),
            #[cfg(test)]
            id: audit::key_id(suite.wire(), key.as_bytes()),
        }
    }

    /// Encrypts `bytes` in place and gives the tag. The caller never uses `nonce` again with this key.
    pub(crate) fn seal(&self, nonce: u64, aad: &[u8], bytes: &mut [u8]) -> [u8; TAG_LEN] {
        #[cfg(test)]
        audit::sealed(self.id, nonce);
        self.encrypt(nonce, aad, bytes)
    }

    /// Decrypts `bytes` in place.
    pub(crate) fn open(
        &self,
        nonce: u64,
        aad: &[u8],
        tag: &[u8; TAG_LEN],
        bytes: &mut [u8],
    ) -> Result<(), Forged> {
        let opened = self.key.open_in_place_separate_tag(
            wire_nonce(nonce),
            Aad::from(aad),
            (*tag).into(),
            bytes,
            0..,
        );
        opened
            .map(|_| ())
            .map_err(|ring::error::Unspecified| Forged)
    }

    fn encrypt(&self, nonce: u64, aad: &[u8], bytes: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = self
            .key
            .seal_in_place_separate_tag(wire_nonce(nonce), Aad::from(aad), bytes)
            .expect("frames are far shorter than the 64 GiB that one nonce can cover");
        let mut out = [0; TAG_LEN];
        out.copy_from_slice(tag.as_ref());
        out
    }
}

impl Drop for Aead {
    fn drop(&mut self) {
        // ring does not wipe its key schedules: overwrite this one, and keep the compiler from seeing a dead store.
        self.key = expand(Suite::ChaCha20Poly1305, &[0; 32]);
        std::hint::black_box(&mut self.key);
    }
}

fn expand(suite: Suite, key: &[u8; 32]) -> LessSafeKey {
    let algorithm = match suite {
        Suite::Aes256Gcm => &AES_256_GCM,
        Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
    };
    LessSafeKey::new(UnboundKey::new(algorithm, key).expect("both suites take 32-byte keys"))
}

/// Four zero bytes and the counter (§1.1).
fn wire_nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// A sealing key together with the raw key that the next one is derived from.
pub(crate) struct RatchetKey {
    suite: Suite,
    raw: Key32,
    pub(crate) aead: Aead,
}

impl RatchetKey {
    pub(crate) fn new(suite: Suite, raw: Key32) -> Self {
        Self {
            suite,
            aead: Aead::new(suite, &raw),
            raw,
        }
    }

    /// Replaces the key by the one derived from it; the old one is overwritten in place.
    pub(crate) fn ratchet(&mut self, context: &'static str) {
        self.raw = derive_key(context, &[self.raw.as_bytes()]);
        self.aead = Aead::new(self.suite, &self.raw);
    }
}

/// `Keystream(key, n, LEN)` of §1.1, cut into masks of `N` bytes for consecutive counters. It holds one block at a
/// time, and none before the first use, so that an idle circuit does not pay for it.
pub(crate) struct Keystream<const LEN: usize, const N: usize> {
    suite: Suite,
    key: Key32,
    block: Option<Box<Block<LEN>>>,
}

struct Block<const LEN: usize> {
    index: u64,
    bytes: Zeroizing<[u8; LEN]>,
}

impl<const LEN: usize, const N: usize> Keystream<LEN, N> {
    const MASKS: u64 = {
        assert!(N > 0 && LEN.is_multiple_of(N));
        (LEN / N) as u64
    };

    pub(crate) fn new(suite: Suite, key: Key32) -> Self {
        Self {
            suite,
            key,
            block: None,
        }
    }

    /// The mask for `counter`. Counters may be asked for again and may skip, but never go back by a block.
    pub(crate) fn mask(&mut self, counter: u64) -> &[u8; N] {
        let index = counter / Self::MASKS;
        let block = self.block.get_or_insert_with(|| {
            Box::new(Block {
                index: u64::MAX,
                bytes: Zeroizing::new([0; LEN]),
            })
        });
        if block.index != index {
            let aead = Aead::new(self.suite, &self.key);
            #[cfg(test)]
            audit::keystream(aead.id, index);
            block.bytes.fill(0);
            aead.encrypt(index, &[], &mut block.bytes[..]);
            block.index = index;
        }
        let (masks, _) = block.bytes.as_chunks::<N>();
        // The remainder is below MASKS, the number of chunks.
        &masks[(counter % Self::MASKS) as usize]
    }

    /// Replaces the key by the one derived from it, and forgets the block that was computed under the old one.
    pub(crate) fn ratchet(&mut self, context: &'static str) {
        self.key = derive_key(context, &[self.key.as_bytes()]);
        if let Some(block) = &mut self.block {
            // Masks of before are gone too. No counter has this block index: the next mask is computed anew.
            block.bytes.fill(0);
            block.index = u64::MAX;
        }
    }
}

/// Counts what one direction has handled, from 0; it ends at [`MAX_COUNT`] or on the first failure.
pub(crate) struct Counter(u64);

impl Counter {
    pub(crate) const fn new() -> Self {
        Self(0)
    }

    /// The number of the next item; `None` when the direction has ended.
    pub(crate) fn get(&self) -> Option<u64> {
        (self.0 < MAX_COUNT).then_some(self.0)
    }

    /// Counts one item. True when `period` divides the new count: then a ratchet is due, at once, so that the key of
    /// the items before is gone as soon as they are.
    pub(crate) fn advance(&mut self, period: u64) -> bool {
        self.0 = self.0.saturating_add(1).min(MAX_COUNT);
        self.0.is_multiple_of(period)
    }

    /// Ends the direction: nothing more is sealed or opened.
    pub(crate) fn end(&mut self) {
        self.0 = MAX_COUNT;
    }

    #[cfg(test)]
    pub(crate) fn set(&mut self, count: u64) {
        self.0 = count;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_counter_ends_at_its_limit_and_stays_there() {
        let mut counter = Counter::new();
        counter.set(MAX_COUNT - 1);
        assert_eq!(counter.get(), Some(MAX_COUNT - 1));
        counter.advance(256);
        assert_eq!(counter.get(), None);
        counter.advance(256);
        assert_eq!(counter.get(), None);
    }

    #[test]
    fn masks_are_the_pieces_of_one_keystream_per_block() {
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            let key = Key32::new([9; 32]);
            let mut stream = Keystream::<64, 16>::new(suite, key.clone());
            for counter in 0..9_u64 {
                let mut block = [0; 64];
                Aead::new(suite, &key).encrypt(counter / 4, &[], &mut block);
                let start = (counter % 4) as usize * 16;
                assert_eq!(stream.mask(counter)[..], block[start..start + 16]);
                assert_eq!(stream.mask(counter)[..], block[start..start + 16]);
            }
        }
    }

    #[test]
    fn a_ratchet_forgets_the_masks_before_it() {
        let mut stream = Keystream::<64, 16>::new(Suite::Aes256Gcm, Key32::new([9; 32]));
        let before = *stream.mask(0);
        stream.ratchet("hushswarm test ratchet");
        let block = stream.block.as_ref().unwrap();
        assert_eq!(*block.bytes, [0; 64]);
        assert_ne!(*stream.mask(0), before);
        let key = derive_key("hushswarm test ratchet", &[&[9; 32]]);
        assert_eq!(
            stream.mask(0),
            Keystream::<64, 16>::new(Suite::Aes256Gcm, key).mask(0)
        );
    }

    #[test]
    fn failed_opens_leave_no_plaintext_behind() {
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            let aead = Aead::new(suite, &Key32::new([3; 32]));
            let mut bytes = [0x55; 100];
            let mut tag = aead.seal(0, b"header", &mut bytes);
            tag[0] ^= 1;
            assert_eq!(aead.open(0, b"header", &tag, &mut bytes), Err(Forged));
            assert_eq!(bytes, [0; 100]);
        }
    }
}
