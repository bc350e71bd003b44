//! Proof of work for introductions (PROTOCOL.md §8.8): what a seed asks for, what an introduction point makes of it for each visitor, and what
//! the visitor finds.
//!
//! The work is Argon2id with little memory, tried until a result is small enough: as many tries as the effort says, on average, and one
//! to check. It is done for one message at one introduction point, in one stream: nobody can use it for another, nor do it before.

use std::fmt;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use blake2::{Blake2s256, Digest};
use rand::CryptoRng;

use super::wire::{IntroductionId, MeetError};
use crate::keys::derive_key;

/// Memory of one try, KiB: more than the fast memory that a core of a graphics card has to itself, and a check is 0.2 ms.
pub const MEMORY_KIB: u32 = 256;
/// Passes over it.
const PASSES: u32 = 1;
/// The bytes of a try that are looked at.
const RESULT_LEN: usize = 8;

/// Length of a puzzle, bytes.
pub const PUZZLE_LEN: usize = 32 + 4;
/// Length of a challenge, bytes.
pub const CHALLENGE_LEN: usize = 32 + 4;
/// Length of what an introduction point draws for each visitor, bytes: none comes twice.
pub const SALT_LEN: usize = 16;
/// Length of what a visitor finds, bytes.
pub const NONCE_LEN: usize = 16;
/// Bytes that name a puzzle to who made it.
const MARK_LEN: usize = 8;
/// Length of a proof, bytes.
pub const PROOF_LEN: usize = MARK_LEN + SALT_LEN + NONCE_LEN;

/// Most work that an honest seed asks for, and that a visitor does: about six seconds of one core on average, and 98 visitors of 100 are done
/// in 25, within the time for which a cookie waits.
pub const MAX_EFFORT: u32 = 1 << 15;

const WORK_LABEL: &[u8] = b"hushswarm v1 work";
const CHALLENGE_CONTEXT: &str = "hushswarm v1 work challenge";

/// What visitors bring to find: the nonce.
pub type Nonce = [u8; NONCE_LEN];

/// What a seed asks for at one introduction point. No two points have the same, so that these can't be put together by it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Puzzle {
    seed: [u8; 32],
    effort: u32,
}

impl Puzzle {
    /// No work is asked for.
    pub const NONE: Self = Self {
        seed: [0; 32],
        effort: 0,
    };

    /// Draws one of this effort; of none it is [`Puzzle::NONE`].
    pub fn generate(effort: u32, rng: &mut dyn CryptoRng) -> Self {
        if effort == 0 {
            return Self::NONE;
        }
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        Self { seed, effort }
    }

    /// How many tries it costs on average; 0: no work is asked for.
    pub fn effort(&self) -> u32 {
        self.effort
    }

    /// The bytes: `seed[32] | effort u32`.
    pub fn encode(&self) -> [u8; PUZZLE_LEN] {
        joined(&self.seed, self.effort)
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// No effort, and a seed: whoever made it broke §8.8.
    pub fn decode(bytes: &[u8; PUZZLE_LEN]) -> Result<Self, MeetError> {
        let (seed, effort) = parted(bytes);
        if effort == 0 && seed != [0; 32] {
            return Err(MeetError::Effort(effort));
        }
        Ok(Self { seed, effort })
    }

    /// What a visitor with this salt has to do. It tells nothing of the puzzle.
    pub fn challenge(&self, salt: &[u8; SALT_LEN]) -> Challenge {
        let value = derive_key(CHALLENGE_CONTEXT, &[&self.seed, salt]);
        Challenge {
            value: *value.as_bytes(),
            effort: self.effort,
        }
    }

    /// What names it; zeros where no work is asked for.
    fn mark(&self) -> [u8; MARK_LEN] {
        let mut mark = [0; MARK_LEN];
        mark.copy_from_slice(&self.seed[..MARK_LEN]);
        mark
    }
}

impl fmt::Debug for Puzzle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Puzzle")
            .field("effort", &self.effort)
            .finish_non_exhaustive()
    }
}

/// What one visitor has to do, in one stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    value: [u8; 32],
    effort: u32,
}

impl Challenge {
    /// How many tries it costs on average.
    pub fn effort(&self) -> u32 {
        self.effort
    }

    /// The bytes: `challenge[32] | effort u32`.
    pub fn encode(&self) -> [u8; CHALLENGE_LEN] {
        joined(&self.value, self.effort)
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// It asks for nothing, which nobody asks for: the relay broke §8.8.
    pub fn decode(bytes: &[u8; CHALLENGE_LEN]) -> Result<Self, MeetError> {
        match parted(bytes) {
            (_, 0) => Err(MeetError::Effort(0)),
            (value, effort) => Ok(Self { value, effort }),
        }
    }

    /// Whether this was found for the message to who has the key: one try.
    pub fn is_met(&self, key: &IntroductionId, message: &[u8], nonce: &Nonce) -> bool {
        Trial::new(self, key, message).is_some_and(|mut trial| trial.fits(nonce))
    }
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge")
            .field("effort", &self.effort)
            .finish_non_exhaustive()
    }
}

fn joined(value: &[u8; 32], effort: u32) -> [u8; 36] {
    let mut out = [0; 36];
    out[..32].copy_from_slice(value);
    out[32..].copy_from_slice(&effort.to_be_bytes());
    out
}

fn parted(bytes: &[u8; 36]) -> ([u8; 32], u32) {
    let (mut value, mut effort) = ([0; 32], [0; 4]);
    value.copy_from_slice(&bytes[..32]);
    effort.copy_from_slice(&bytes[32..]);
    (value, u32::from_be_bytes(effort))
}

/// What tries need.
struct Trial {
    argon2: Argon2<'static>,
    memory: Vec<Block>,
    challenge: Challenge,
    /// `label || key || hash of the message`, then the nonce.
    input: Vec<u8>,
}

impl Trial {
    fn new(challenge: &Challenge, key: &IntroductionId, message: &[u8]) -> Option<Self> {
        let params = Params::new(MEMORY_KIB, PASSES, 1, Some(RESULT_LEN)).ok()?;
        let memory = vec![Block::default(); params.block_count()];
        let hash = Blake2s256::digest(message);
        Some(Self {
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            memory,
            challenge: *challenge,
            input: [WORK_LABEL, &key.0, &hash, &[0; NONCE_LEN]].concat(),
        })
    }

    fn fits(&mut self, nonce: &Nonce) -> bool {
        let at = self.input.len() - NONCE_LEN;
        self.input[at..].copy_from_slice(nonce);
        let mut result = [0; RESULT_LEN];
        let tried = self.argon2.hash_password_into_with_memory(
            &self.input,
            &self.challenge.value,
            &mut result,
            &mut self.memory,
        );
        // One result of `effort` is so small.
        let most = u64::MAX / u64::from(self.challenge.effort.max(1));
        tried.is_ok() && u64::from_be_bytes(result) <= most
    }
}

/// Looks for what meets a challenge. It takes a core: not on a thread that others wait for.
pub struct Solver {
    trial: Option<Trial>,
    next: u128,
}

impl Solver {
    /// For the message to who has the key.
    pub fn new(
        challenge: &Challenge,
        key: &IntroductionId,
        message: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> Self {
        let mut first = [0; NONCE_LEN];
        rng.fill_bytes(&mut first);
        Self {
            trial: Trial::new(challenge, key, message),
            next: u128::from_be_bytes(first),
        }
    }

    /// Tries so often; `None`: not found yet.
    pub fn attempt(&mut self, times: u32) -> Option<Nonce> {
        let trial = self.trial.as_mut()?;
        for _ in 0..times {
            let nonce = self.next.to_be_bytes();
            self.next = self.next.wrapping_add(1);
            if trial.fits(&nonce) {
                return Some(nonce);
            }
        }
        None
    }
}

impl fmt::Debug for Solver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Solver").finish_non_exhaustive()
    }
}

/// What an introduction point hands on with a message: that it was worked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    mark: [u8; MARK_LEN],
    salt: [u8; SALT_LEN],
    nonce: Nonce,
}

impl Proof {
    /// No work was asked for.
    pub const NONE: Self = Self {
        mark: [0; MARK_LEN],
        salt: [0; SALT_LEN],
        nonce: [0; NONCE_LEN],
    };

    /// What was found for the challenge of this puzzle with this salt.
    pub fn new(puzzle: &Puzzle, salt: [u8; SALT_LEN], nonce: Nonce) -> Self {
        Self {
            mark: puzzle.mark(),
            salt,
            nonce,
        }
    }

    /// Whether it names this puzzle. That alone proves nothing.
    pub fn names(&self, puzzle: &Puzzle) -> bool {
        self.mark == puzzle.mark()
    }

    /// Whether it was found for the message to who has the key: one try, and none where no work is asked for.
    pub fn holds(&self, puzzle: &Puzzle, key: &IntroductionId, message: &[u8]) -> bool {
        let met = || {
            let challenge = puzzle.challenge(&self.salt);
            challenge.is_met(key, message, &self.nonce)
        };
        self.names(puzzle) && (puzzle.effort == 0 || met())
    }

    /// The bytes: `mark[8] | salt[16] | nonce[16]`.
    pub fn encode(&self) -> [u8; PROOF_LEN] {
        let mut out = [0; PROOF_LEN];
        out[..MARK_LEN].copy_from_slice(&self.mark);
        out[MARK_LEN..MARK_LEN + SALT_LEN].copy_from_slice(&self.salt);
        out[MARK_LEN + SALT_LEN..].copy_from_slice(&self.nonce);
        out
    }

    /// Reads the bytes. Nothing is checked before [`Proof::holds`].
    pub fn decode(bytes: &[u8; PROOF_LEN]) -> Self {
        let mut proof = Self::NONE;
        let (mark, rest) = bytes.split_at(MARK_LEN);
        let (salt, nonce) = rest.split_at(SALT_LEN);
        proof.mark.copy_from_slice(mark);
        proof.salt.copy_from_slice(salt);
        proof.nonce.copy_from_slice(nonce);
        proof
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof").finish_non_exhaustive()
    }
}
