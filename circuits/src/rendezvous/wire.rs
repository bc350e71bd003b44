//! What introduction points and rendezvous points read (PROTOCOL.md §8.1, §8.2): requests, statuses, and the records in
//! which introductions reach a seed.

use std::fmt;

use rand::CryptoRng;

use super::work::{PROOF_LEN, Proof};
use crate::keys::{IdentityKey, Key32, RelayId, SIGNATURE_LEN};

/// Length of a cookie, bytes: nobody guesses one.
pub const COOKIE_LEN: usize = 20;
/// Length of the request for an introduction point, bytes: key and signature.
pub const ESTABLISH_LEN: usize = 32 + SIGNATURE_LEN;
/// Length of what stands before the message of an introduction, bytes: key and length.
pub const INTRODUCE_HEADER_LEN: usize = 32 + 2;
/// Longest message of an introduction, bytes: those of this version are 512 bytes long, and later ones may bring more.
pub const MAX_MESSAGE: usize = 2048;
/// Length of what stands before a message that reaches the seed, bytes: its length, how many were turned away, the proof.
const RECORD_HEADER_LEN: usize = 2 + 2 + PROOF_LEN;

/// Names what is signed (§8.1).
const ESTABLISH_LABEL: &[u8] = b"hushswarm v1 introduction";

/// The public key of an introduction point: of one seed, at one relay, for one period, and known for nothing else. `Debug`
/// hides it, for it names what is served.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntroductionId(pub [u8; 32]);

impl IntroductionId {
    /// Whether a relay answers alike for this key, whether or not anybody has it: who knows it can't find out whether its seed
    /// stands. One key in 256 is like this; a seed that wants one tries keys until it has it.
    pub fn is_quiet(&self) -> bool {
        self.0[0] == 0
    }
}

impl fmt::Debug for IntroductionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[introduction key]")
    }
}

/// What two know who meet at a rendezvous point. `Debug` hides it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cookie(pub [u8; COOKIE_LEN]);

impl Cookie {
    /// Draws a fresh one.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        let mut cookie = [0; COOKIE_LEN];
        rng.fill_bytes(&mut cookie);
        Self(cookie)
    }
}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[cookie]")
    }
}

/// What a relay answers in the stream (§8.1, §8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Registered, handed on, or joined.
    Done = 0,
    /// No introduction point has the key, or nobody waits with the cookie. Another relay may know better.
    Unknown = 1,
    /// Too many, or too fast: later, or elsewhere.
    Limit = 2,
    /// The signature is wrong, or somebody waits with this cookie already.
    Refused = 3,
    /// Nobody joined in time.
    Expired = 4,
    /// Work is asked for, and what it is follows (§8.8).
    Work = 5,
}

impl Status {
    /// Reads the byte of the wire.
    ///
    /// # Errors
    /// The relay broke §8: reset the stream, and use another.
    pub const fn from_wire(byte: u8) -> Result<Self, MeetError> {
        match byte {
            0 => Ok(Self::Done),
            1 => Ok(Self::Unknown),
            2 => Ok(Self::Limit),
            3 => Ok(Self::Refused),
            4 => Ok(Self::Expired),
            5 => Ok(Self::Work),
            other => Err(MeetError::UnknownStatus(other)),
        }
    }

    /// The byte of the wire.
    pub const fn wire(self) -> u8 {
        self as u8
    }
}

/// The sender broke §8: reset the stream. Of an encoder: the message does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MeetError {
    /// A status that the specification does not name.
    #[error("unknown status {0}")]
    UnknownStatus(u8),
    /// A message that is empty or longer than any.
    #[error("an introduction of {0} bytes")]
    Length(usize),
    /// Work that nobody asks for.
    #[error("an effort of {0}")]
    Effort(u32),
}

/// The request for an introduction point.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Establish {
    /// The key that introductions will name.
    pub key: IntroductionId,
    /// Ed25519 by it over `"hushswarm v1 introduction" || circuit binding` (§3.3).
    pub signature: [u8; SIGNATURE_LEN],
}

impl Establish {
    /// Asks for an introduction point at the last hop of the circuit with this binding.
    pub fn sign(key: &IdentityKey, binding: &Key32) -> Self {
        Self {
            key: IntroductionId(key.public().0),
            signature: key.sign(&[ESTABLISH_LABEL, binding.as_bytes()]),
        }
    }

    /// Whether the holder of the key made it for the circuit with this binding. Nobody else can, not with an older request
    /// nor with one for another relay.
    pub fn is_for(&self, binding: &Key32) -> bool {
        RelayId(self.key.0).verify(&[ESTABLISH_LABEL, binding.as_bytes()], &self.signature)
    }

    /// The bytes: `key[32] | signature[64]`.
    pub fn encode(&self) -> [u8; ESTABLISH_LEN] {
        let mut out = [0; ESTABLISH_LEN];
        out[..32].copy_from_slice(&self.key.0);
        out[32..].copy_from_slice(&self.signature);
        out
    }

    /// Reads the bytes. Nothing is checked before [`Establish::is_for`].
    pub fn decode(bytes: &[u8; ESTABLISH_LEN]) -> Self {
        let (mut key, mut signature) = ([0; 32], [0; SIGNATURE_LEN]);
        key.copy_from_slice(&bytes[..32]);
        signature.copy_from_slice(&bytes[32..]);
        Self {
            key: IntroductionId(key),
            signature,
        }
    }
}

impl fmt::Debug for Establish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Establish").finish_non_exhaustive()
    }
}

fn checked(length: usize) -> Result<usize, MeetError> {
    if (1..=MAX_MESSAGE).contains(&length) {
        Ok(length)
    } else {
        Err(MeetError::Length(length))
    }
}

/// What an introduction begins with: whom it is for, and how long its message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntroduceHeader {
    /// The introduction point's key.
    pub key: IntroductionId,
    /// Length of the message that follows, bytes: 1 to [`MAX_MESSAGE`].
    pub length: usize,
}

impl IntroduceHeader {
    /// Reads `key[32] | length u16`.
    ///
    /// # Errors
    /// The origin broke §8.1: reset the stream.
    pub fn decode(bytes: &[u8; INTRODUCE_HEADER_LEN]) -> Result<Self, MeetError> {
        let mut key = [0; 32];
        key.copy_from_slice(&bytes[..32]);
        Ok(Self {
            key: IntroductionId(key),
            length: checked(usize::from(u16::from_be_bytes([bytes[32], bytes[33]])))?,
        })
    }
}

/// The bytes of an introduction: `key[32] | length u16 | message`.
///
/// # Errors
/// The message is empty or too long.
pub fn encode_introduce(key: &IntroductionId, message: &[u8]) -> Result<Vec<u8>, MeetError> {
    let length = checked(message.len())? as u16;
    Ok([&key.0[..], &length.to_be_bytes(), message].concat())
}

/// A message as it reaches the seed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Handed<'a> {
    /// Messages for this key that the introduction point turned away since the one before, for there were too many.
    pub refused: u16,
    /// The work that was done for it.
    pub proof: Proof,
    /// What the visitor says.
    pub message: &'a [u8],
}

impl Handed<'_> {
    /// The bytes in which it reaches the seed: `length u16 | refused u16 | proof[40] | message`.
    ///
    /// # Errors
    /// The message is empty or too long.
    pub fn encode(&self) -> Result<Vec<u8>, MeetError> {
        let length = checked(self.message.len())? as u16;
        let (length, refused) = (length.to_be_bytes(), self.refused.to_be_bytes());
        Ok([&length[..], &refused, &self.proof.encode(), self.message].concat())
    }
}

impl fmt::Debug for Handed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handed")
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

/// The bytes of a message that nothing was asked for.
///
/// # Errors
/// The message is empty or too long.
pub fn encode_record(message: &[u8]) -> Result<Vec<u8>, MeetError> {
    let handed = Handed {
        refused: 0,
        proof: Proof::NONE,
        message,
    };
    handed.encode()
}

/// Reads the records of an introduction point as their bytes come. Holds one message that is not whole, and what was
/// pushed.
#[derive(Default)]
pub struct MessageReader {
    bytes: Vec<u8>,
    /// Where the next record begins in `bytes`.
    at: usize,
}

impl MessageReader {
    /// Takes what came; then call [`MessageReader::next`] until it gives `None`.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message that is whole; `None`: more must come.
    ///
    /// # Errors
    /// The relay broke §8.1: give up this introduction point.
    #[allow(
        clippy::should_implement_trait,
        reason = "`None` is not the end of the messages"
    )]
    pub fn next(&mut self) -> Result<Option<Handed<'_>>, MeetError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some(length) = rest.first_chunk() else {
            return Ok(None);
        };
        let length = checked(usize::from(u16::from_be_bytes(*length)))?;
        let Some((header, rest)) = rest.split_first_chunk::<RECORD_HEADER_LEN>() else {
            return Ok(None);
        };
        let Some(message) = rest.get(..length) else {
            return Ok(None);
        };
        let Some(proof) = header.last_chunk() else {
            return Ok(None);
        };
        self.at += RECORD_HEADER_LEN + length;
        Ok(Some(Handed {
            refused: u16::from_be_bytes([header[2], header[3]]),
            proof: Proof::decode(proof),
            message,
        }))
    }
}

#[cfg(test)]
impl MessageReader {
    pub(super) fn bytes_held(&self) -> usize {
        self.bytes.len() - self.at
    }
}

impl fmt::Debug for MessageReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageReader")
            .field("bytes", &(self.bytes.len() - self.at))
            .finish()
    }
}
