//! Message stream encryption, as nearly all BitTorrent clients speak it (no BEP; the field's specification is Vuze's "Message Stream
//! Encryption"): whoever carries a stream sees neither the handshake nor the infohash, but bytes without a form.
//!
//! It hides from those who listen, such as an exit, and is no more than that: nothing is authenticated, so one who stands between can take
//! part in both halves and test infohashes that he knows already. The keys come from a Diffie-Hellman exchange in a group of 768 bits and
//! from the infohash, the cipher is RC4: neither is ours to choose. Hidden peers don't need it, their streams are sealed from end to end.
//!
//! ```text
//! A -> B  public key (96), 0..=512 random bytes
//! B -> A  public key (96), 0..=512 random bytes
//! A -> B  SHA1("req1" S), SHA1("req2" infohash) xor SHA1("req3" S), sealed: zeros (8), offers (4), pad (2 + n), first bytes (2 + n)
//! B -> A  sealed: zeros (8), choice (4), pad (2 + n)
//! ```
//!
//! We offer, and take, RC4 for the whole stream alone: what follows in the clear would name the infohash.

mod answer;
mod keys;
mod stream;
#[cfg(test)]
mod tests;

pub use answer::answer;
pub use stream::{MseStream, initiate};

/// Longest pad of either side, bytes.
const MAX_PAD: usize = 512;

/// Length of a public key, bytes.
const KEY_LEN: usize = 96;

/// The known plaintext by which the asking side finds the end of the other's pad.
const ZEROS: [u8; 8] = [0; 8];

/// The choice of RC4 for the whole stream, among the bits that are offered.
const RC4: u32 = 2;
