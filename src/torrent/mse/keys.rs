//! The key exchange, and what is derived from it.

use num_bigint::BigUint;
use rand::{Rng, RngExt};
use rc4::{KeyInit, Rc4, StreamCipher};
use sha1::{Digest, Sha1};

use super::KEY_LEN;
use crate::torrent::infohash::InfoHash;

/// The group's prime, of 768 bits (RFC 2409 section 6.1 names it "First Oakley Group", but its last two words differ); the generator is 2.
const PRIME: [u8; KEY_LEN] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc9, 0x0f, 0xda, 0xa2, 0x21, 0x68, 0xc2, 0x34,
    0xc4, 0xc6, 0x62, 0x8b, 0x80, 0xdc, 0x1c, 0xd1, 0x29, 0x02, 0x4e, 0x08, 0x8a, 0x67, 0xcc, 0x74,
    0x02, 0x0b, 0xbe, 0xa6, 0x3b, 0x13, 0x9b, 0x22, 0x51, 0x4a, 0x08, 0x79, 0x8e, 0x34, 0x04, 0xdd,
    0xef, 0x95, 0x19, 0xb3, 0xcd, 0x3a, 0x43, 0x1b, 0x30, 0x2b, 0x0a, 0x6d, 0xf2, 0x5f, 0x14, 0x37,
    0x4f, 0xe1, 0x35, 0x6d, 0x6d, 0x51, 0xc2, 0x45, 0xe4, 0x85, 0xb5, 0x76, 0x62, 0x5e, 0x7e, 0xc6,
    0xf4, 0x4c, 0x42, 0xe9, 0xa6, 0x3a, 0x36, 0x21, 0x00, 0x00, 0x00, 0x00, 0x00, 0x09, 0x05, 0x63,
];

/// Length of a secret, bytes: 160 bits, as the specification asks for.
const SECRET_LEN: usize = 20;

/// What of each key stream is thrown away, bytes: RC4's first output tells of the key.
const DISCARDED: usize = 1024;

/// One side of the exchange.
pub(super) struct Exchange {
    secret: BigUint,
    pub(super) public: [u8; KEY_LEN],
}

impl Exchange {
    pub(super) fn new(rng: &mut impl Rng) -> Self {
        let secret = BigUint::from_bytes_be(&rng.random::<[u8; SECRET_LEN]>());
        let public = BigUint::from(2u8).modpow(&secret, &prime());
        Self {
            public: padded(&public),
            secret,
        }
    }

    /// What both sides know; none where the other's key would make it known to all.
    pub(super) fn agree(&self, theirs: &[u8; KEY_LEN]) -> Option<Shared> {
        let theirs = BigUint::from_bytes_be(theirs);
        let one = BigUint::from(1u8);
        if theirs <= one || theirs >= prime() - one {
            return None;
        }
        Some(Shared(padded(&theirs.modpow(&self.secret, &prime()))))
    }
}

/// What both sides know.
pub(super) struct Shared([u8; KEY_LEN]);

impl Shared {
    /// By which the answering side finds the end of the other's pad.
    pub(super) fn mark(&self) -> [u8; 20] {
        hash(&[b"req1", &self.0])
    }

    /// Names the torrent to whoever knows it.
    pub(super) fn veiled(&self, torrent: InfoHash) -> [u8; 20] {
        let mut veiled = hash(&[b"req2", &torrent.0]);
        let veil = hash(&[b"req3", &self.0]);
        veiled.iter_mut().zip(veil).for_each(|(a, b)| *a ^= b);
        veiled
    }

    /// Of the side that asked, and of the one that answers.
    pub(super) fn ciphers(&self, torrent: InfoHash) -> (Cipher, Cipher) {
        let cipher = |name: &[u8]| Cipher::new(&hash(&[name, &self.0, &torrent.0]));
        (cipher(b"keyA"), cipher(b"keyB"))
    }
}

/// One direction's key stream.
pub(super) struct Cipher(Rc4);

impl Cipher {
    fn new(key: &[u8; 20]) -> Self {
        let Ok(mut cipher) = Rc4::new_from_slice(key) else {
            unreachable!("RC4 takes keys of 1 to 256 bytes");
        };
        cipher.apply_keystream(&mut [0; DISCARDED]);
        Self(cipher)
    }

    /// Seals or opens what is next.
    pub(super) fn apply(&mut self, bytes: &mut [u8]) {
        self.0.apply_keystream(bytes);
    }
}

fn prime() -> BigUint {
    BigUint::from_bytes_be(&PRIME)
}

fn padded(number: &BigUint) -> [u8; KEY_LEN] {
    let bytes = number.to_bytes_be();
    let mut padded = [0; KEY_LEN];
    // Smaller than the prime, so never longer.
    padded[KEY_LEN - bytes.len()..].copy_from_slice(&bytes);
    padded
}

fn hash(parts: &[&[u8]]) -> [u8; 20] {
    let mut hasher = Sha1::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}
