//! Keys, suites and identities (PROTOCOL.md §1.1): the only module that names a cipher.
//!
//! A secret lives in a newtype that is wiped on drop and prints nothing. Sealing keys live in `aead`, where each is
//! owned by the one direction that counts its nonces, so no (key, nonce) pair can be used twice.

use std::fmt;

use curve25519_dalek::edwards::CompressedEdwardsY;
use rand::CryptoRng;
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

pub(crate) mod aead;
#[cfg(test)]
pub(crate) mod audit;
pub(crate) mod noise;

/// Length of an Ed25519 signature, bytes (RFC 8032).
pub const SIGNATURE_LEN: usize = 64;

/// The AEAD of a relay's links and of its onion layer (§1.1); its descriptor fixes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Suite {
    /// AES-256-GCM, for processors with AES instructions.
    Aes256Gcm = 1,
    /// ChaCha20-Poly1305 (RFC 8439), for all others.
    ChaCha20Poly1305 = 2,
}

impl Suite {
    /// Reads the byte of a descriptor; `None` for a suite that this version does not know.
    pub const fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// The byte that stands for the suite in descriptors and prologues.
    pub const fn wire(self) -> u8 {
        self as u8
    }

    /// The faster suite on this machine: AES where the processor has instructions for it and for GHASH.
    pub fn preferred() -> Self {
        if has_aes() {
            Self::Aes256Gcm
        } else {
            Self::ChaCha20Poly1305
        }
    }
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull")
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

/// A secret of 32 bytes, wiped on drop. `Debug` shows nothing; equality takes constant time.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Key32([u8; 32]);

impl Key32 {
    /// Takes the bytes of a secret.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Draws a fresh secret.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        let mut key = Self([0; 32]);
        rng.fill_bytes(&mut key.0);
        key
    }

    /// The bytes. Whoever copies them wipes the copy.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) const fn as_mut_bytes(&mut self) -> &mut [u8; 32] {
        &mut self.0
    }
}

impl From<[u8; 32]> for Key32 {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl PartialEq for Key32 {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Key32 {}

impl fmt::Debug for Key32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key32(..)")
    }
}

/// Derives a key with BLAKE3 `derive_key` from the concatenation of `material`. `context` names the one use of the
/// result; the contexts of the protocol are in PROTOCOL.md §2.3, §2.4, §3.3 and §4.4.
pub fn derive_key(context: &'static str, material: &[&[u8]]) -> Key32 {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in material {
        hasher.update(part);
    }
    let mut output = hasher.finalize_xof();
    let mut key = Key32([0; 32]);
    output.fill(key.as_mut_bytes());
    // Both still hold the end of the material.
    output.zeroize();
    hasher.zeroize();
    key
}

/// An X25519 secret (RFC 7748): a relay's link or onion key. Wiped on drop.
#[derive(Clone)]
pub struct DhSecret(StaticSecret);

impl DhSecret {
    /// Draws a fresh secret.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        Self::from_bytes(Key32::generate(rng))
    }

    /// Takes a stored secret: 32 bytes as [`DhSecret::to_bytes`] gave them.
    pub fn from_bytes(bytes: impl Into<Key32>) -> Self {
        Self(StaticSecret::from(bytes.into().0))
    }

    /// The secret for storing.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        PublicKey::from(&self.0).to_bytes()
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for DhSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DhSecret(..)")
    }
}

/// The public Ed25519 key by which a relay or an authority is known. `Debug` shows the first four bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId(pub [u8; 32]);

impl RelayId {
    /// Whether `signature` is this identity's over the concatenation of `parts`.
    ///
    /// An identity of small order signs nothing: RFC 8032 alone lets anybody make signatures that it accepts, without
    /// any secret, and one of them for many messages.
    pub fn verify(&self, parts: &[&[u8]], signature: &[u8; SIGNATURE_LEN]) -> bool {
        if !self.is_sound() {
            return false;
        }
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(&parts.concat(), signature)
            .is_ok()
    }
}

impl RelayId {
    /// Whether it is a point of the curve, and not one of small order.
    pub(crate) fn is_sound(&self) -> bool {
        let point = CompressedEdwardsY(self.0).decompress();
        point.is_some_and(|point| !point.is_small_order())
    }
}

impl fmt::Debug for RelayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "RelayId({a:02x}{b:02x}{c:02x}{d:02x})")
    }
}

/// A relay's or an authority's Ed25519 signing key (RFC 8032).
pub struct IdentityKey {
    seed: Key32,
    pair: Ed25519KeyPair,
}

impl IdentityKey {
    /// Draws a fresh identity.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        Self::from_seed(Key32::generate(rng))
    }

    /// Takes a stored identity: its 32-byte seed.
    ///
    /// # Panics
    /// Never: any 32 bytes are a seed.
    pub fn from_seed(seed: impl Into<Key32>) -> Self {
        let seed = seed.into();
        let pair =
            Ed25519KeyPair::from_seed_unchecked(seed.as_bytes()).expect("any 32 bytes are a seed");
        Self { seed, pair }
    }

    /// The seed for storing.
    pub const fn seed(&self) -> &Key32 {
        &self.seed
    }

    /// The public identity.
    pub fn public(&self) -> RelayId {
        use ring::signature::KeyPair as _;
        let mut id = [0; 32];
        id.copy_from_slice(self.pair.public_key().as_ref());
        RelayId(id)
    }

    /// Signs the concatenation of `parts`, the first of which names what is signed.
    pub fn sign(&self, parts: &[&[u8]]) -> [u8; SIGNATURE_LEN] {
        let mut signature = [0; SIGNATURE_LEN];
        signature.copy_from_slice(self.pair.sign(&parts.concat()).as_ref());
        signature
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IdentityKey").field(&self.public()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_suites_are_refused() {
        for byte in 0..=u8::MAX {
            assert_eq!(
                Suite::from_wire(byte).map(Suite::wire),
                (1..=2).contains(&byte).then_some(byte)
            );
        }
    }

    #[test]
    fn an_identity_of_small_order_signs_nothing() {
        // The points of order 4 and 1 with a signature of zeros or the neutral element: RFC 8032 accepts one message
        // in four, or all.
        let neutral = {
            let mut point = [0; 32];
            point[0] = 1;
            point
        };
        for (identity, point) in [([0; 32], [0; 32]), (neutral, neutral)] {
            let mut signature = [0; SIGNATURE_LEN];
            signature[..32].copy_from_slice(&point);
            for message in 0..=u8::MAX {
                assert!(!RelayId(identity).verify(&[&[message]], &signature));
            }
        }
        let key = IdentityKey::from_seed([5; 32]);
        assert!(key.public().verify(&[b"a", b"b"], &key.sign(&[b"ab"])));
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let secret = [0xab; 32];
        let shown = format!(
            "{:?} {:?} {:?}",
            Key32::new(secret),
            DhSecret::from_bytes(secret),
            IdentityKey::from_seed(secret)
        );
        assert!(
            !shown.contains("171") && !shown.to_lowercase().contains("abab"),
            "{shown}"
        );
    }

    #[test]
    fn an_identity_shows_its_first_four_bytes_only() {
        let mut bytes = [0xee; 32];
        bytes[..4].copy_from_slice(&[1, 2, 0xa0, 0xff]);
        assert_eq!(format!("{:?}", RelayId(bytes)), "RelayId(0102a0ff)");
    }

    #[test]
    fn signatures_hold_for_the_same_bytes_and_identity_only() {
        let (ours, other) = (
            IdentityKey::from_seed([1; 32]),
            IdentityKey::from_seed([2; 32]),
        );
        let signature = ours.sign(&[b"context", b"message"]);
        assert!(ours.public().verify(&[b"contextmessage"], &signature));
        assert!(!ours.public().verify(&[b"context", b"massage"], &signature));
        assert!(!other.public().verify(&[b"context", b"message"], &signature));
        let mut bent = signature;
        bent[63] ^= 1;
        assert!(!ours.public().verify(&[b"context", b"message"], &bent));
    }

    #[test]
    fn stored_keys_come_back() {
        let secret = DhSecret::from_bytes([7; 32]);
        assert_eq!(
            DhSecret::from_bytes(*secret.to_bytes()).public(),
            secret.public()
        );
        let identity = IdentityKey::from_seed([7; 32]);
        assert_eq!(
            IdentityKey::from_seed(identity.seed().clone()).public(),
            identity.public()
        );
    }

    #[test]
    fn derived_keys_depend_on_context_and_material() {
        let base = derive_key("hushswarm test one", &[b"a", b"b"]);
        assert_eq!(base, derive_key("hushswarm test one", &[b"ab"]));
        assert_eq!(
            *base.as_bytes(),
            blake3::derive_key("hushswarm test one", b"ab")
        );
        assert_ne!(base, derive_key("hushswarm test two", &[b"ab"]));
        assert_ne!(base, derive_key("hushswarm test one", &[b"ac"]));
    }
}
