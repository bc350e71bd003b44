//! The message that an introduction carries, and the answer to it (PROTOCOL.md §8.3): a handshake between a visitor and a
//! seed that only those take part in who know the swarm's infohash, and only the seed can answer. A seed may let in only those whose
//! keys it knows: then the visitor shows one, to the seed alone.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use blake2::{Blake2s256, Digest};
use rand::CryptoRng;
use ring::hkdf::{HKDF_SHA256, Salt};
use snow::HandshakeState;
use zeroize::Zeroizing;

use super::sealed::SessionKeys;
use super::wire::{COOKIE_LEN, Cookie, IntroductionId};
pub use crate::keys::noise::HandshakeError;
use crate::keys::noise::{self, Role};
use crate::keys::{DhSecret, Key32, RelayId};

/// Length of every message, bytes: half a small cell, and room for what later versions say.
pub const MESSAGE_LEN: usize = 512;
/// Length of the answer, bytes: ephemeral key and tag.
pub const ANSWER_LEN: usize = 32 + 16;
/// Messages that a seed remembers for one introduction key: 512 KiB of marks. Then it takes a new key.
pub const MAX_SEEN: usize = 32_768;

/// Most visitors' keys that a seed lets in.
pub const MAX_GUESTS: usize = 256;

/// Noise message 1 adds an ephemeral key and a tag.
const PAYLOAD_LEN: usize = MESSAGE_LEN - ANSWER_LEN;
/// And where the visitor shows who it is, its key and another tag.
const GUEST_PAYLOAD_LEN: usize = PAYLOAD_LEN - 32 - 16;
/// What a payload says before its padding, bytes.
const MEETING_LEN: usize = 1 + 32 + 32 + COOKIE_LEN;
const VERSION: u8 = 1;
/// Enough of a hash that nobody finds another message with the same.
const MARK_LEN: usize = 16;

const NOISE_NAME: &str = "Noise_NKpsk0_25519_ChaChaPoly_BLAKE2s";
const GUEST_NOISE_NAME: &str = "Noise_IKpsk0_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"hushswarm v1 introduce";
const PSK_SALT: &[u8] = b"hushswarm v1 hidden swarm";
const PSK_INFO: &[u8] = b"hushswarm v1 psk0";

/// What everybody knows who knows a swarm's infohash, and nobody else.
#[derive(Clone)]
pub struct SwarmKey(Key32);

impl SwarmKey {
    /// The key of the swarm with this infohash, of 20 or 32 bytes.
    ///
    /// # Errors
    /// Never: a mistake in the HKDF library.
    pub fn new(infohash: &[u8]) -> Result<Self, HandshakeError> {
        let mut psk = Zeroizing::new([0; 32]);
        Salt::new(HKDF_SHA256, PSK_SALT)
            .extract(infohash)
            .expand(&[PSK_INFO], HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut psk[..]))
            .map_err(|_| HandshakeError::Internal)?;
        Ok(Self(Key32::new(*psk)))
    }
}

impl fmt::Debug for SwarmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SwarmKey(..)")
    }
}

/// Where a visitor waits. A relay by its identity, never by an address: the seed finds it in its own signed list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Meeting {
    /// The rendezvous point.
    pub relay: RelayId,
    /// The digest of its descriptor, as the visitor knows it (§7.1).
    pub digest: [u8; 32],
    /// What the visitor registered there.
    pub cookie: Cookie,
}

impl fmt::Debug for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meeting").finish_non_exhaustive()
    }
}

impl Meeting {
    /// With zeros behind it, up to the longest payload.
    fn encode(&self) -> [u8; PAYLOAD_LEN] {
        let mut out = [0; PAYLOAD_LEN];
        out[0] = VERSION;
        out[1..33].copy_from_slice(&self.relay.0);
        out[33..65].copy_from_slice(&self.digest);
        out[65..MEETING_LEN].copy_from_slice(&self.cookie.0);
        out
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let (&version, rest) = payload.split_first()?;
        let (&relay, rest) = rest.split_first_chunk()?;
        let (&digest, rest) = rest.split_first_chunk()?;
        let (&cookie, padding) = rest.split_first_chunk()?;
        let good = version == VERSION && padding.iter().all(|byte| *byte == 0);
        good.then_some(Self {
            relay: RelayId(relay),
            digest,
            cookie: Cookie(cookie),
        })
    }
}

/// Whose keys a seed lets in. `Debug` tells how many.
#[derive(Clone, PartialEq, Eq)]
pub struct Guests(Arc<BTreeSet<[u8; 32]>>);

impl Guests {
    /// Those who hold the other halves of these keys (X25519); of nobody, where there are none. More than [`MAX_GUESTS`] are left out.
    pub fn new(keys: impl IntoIterator<Item = [u8; 32]>) -> Self {
        Self(Arc::new(keys.into_iter().take(MAX_GUESTS).collect()))
    }

    /// Their keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.0.iter()
    }

    fn has(&self, key: &[u8; 32]) -> bool {
        self.0.contains(key)
    }
}

impl fmt::Debug for Guests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guests").field(&self.0.len()).finish()
    }
}

/// What a handshake is called, and how long the payload of its first message is: one for who may be anybody, one for who shows a key.
/// The messages are equally long.
const ANYBODY: (&str, usize) = (NOISE_NAME, PAYLOAD_LEN);
const GUEST: (&str, usize) = (GUEST_NOISE_NAME, GUEST_PAYLOAD_LEN);

fn begin(
    name: &str,
    role: &Role<'_>,
    introduction: &IntroductionId,
    swarm: &SwarmKey,
    rng: &mut dyn CryptoRng,
) -> Result<HandshakeState, HandshakeError> {
    let prologue = [PROLOGUE, &introduction.0].concat();
    noise::begin(name, role, &prologue, Some(&swarm.0), rng)
}

/// A visitor that waits for a seed's answer.
pub struct Visitor(HandshakeState);

impl Visitor {
    /// Makes the message to the seed with this key (X25519), through the introduction point with that one.
    ///
    /// # Errors
    /// The seed's key is of low order: there is no such seed.
    pub fn start(
        seed: &[u8; 32],
        introduction: &IntroductionId,
        swarm: &SwarmKey,
        meeting: &Meeting,
        rng: &mut dyn CryptoRng,
    ) -> Result<(Self, [u8; MESSAGE_LEN]), HandshakeError> {
        let role = Role::Initiator(seed);
        Self::begin(ANYBODY, &role, introduction, swarm, meeting, rng)
    }

    /// The same to a seed that lets in only those whose keys it knows: `own` is ours, for this seed alone.
    ///
    /// # Errors
    /// The seed's key is of low order: there is no such seed.
    pub fn start_known(
        own: &DhSecret,
        seed: &[u8; 32],
        introduction: &IntroductionId,
        swarm: &SwarmKey,
        meeting: &Meeting,
        rng: &mut dyn CryptoRng,
    ) -> Result<(Self, [u8; MESSAGE_LEN]), HandshakeError> {
        let role = Role::Known(seed, own);
        Self::begin(GUEST, &role, introduction, swarm, meeting, rng)
    }

    fn begin(
        (name, length): (&str, usize),
        role: &Role<'_>,
        introduction: &IntroductionId,
        swarm: &SwarmKey,
        meeting: &Meeting,
        rng: &mut dyn CryptoRng,
    ) -> Result<(Self, [u8; MESSAGE_LEN]), HandshakeError> {
        let mut state = begin(name, role, introduction, swarm, rng)?;
        let mut message = [0; MESSAGE_LEN];
        let payload = meeting.encode();
        noise::write(&mut state, &payload[..length], &mut message)?;
        Ok((Self(state), message))
    }

    /// Reads the seed's answer, the first bytes that come through the rendezvous point.
    ///
    /// # Errors
    /// It is not the seed's answer to this message: close the stream.
    pub fn finish(mut self, answer: &[u8; ANSWER_LEN]) -> Result<SessionKeys, HandshakeError> {
        noise::read(&mut self.0, answer, &mut [])?;
        SessionKeys::new(noise::split(self.0)?)
    }
}

impl fmt::Debug for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visitor").finish_non_exhaustive()
    }
}

/// Why an introduction is dropped. Nobody is told: who sent it learns nothing, not even that the seed is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Dropped {
    /// Changed on the way, made for another key or swarm, or no message at all.
    #[error("an introduction that can't be read")]
    Unreadable,
    /// From somebody whose key is not among those that are let in.
    #[error("an introduction of somebody who is not let in")]
    Stranger,
    /// It came before.
    #[error("an introduction that came before")]
    Replayed,
    /// So many came that no more can be remembered: take a new introduction key.
    #[error("the introduction key is used up")]
    UsedUp,
}

/// The seed's side of one introduction key.
pub struct Introductions {
    introduction: IntroductionId,
    secret: DhSecret,
    swarm: SwarmKey,
    /// Who is let in; `None`: who knows the swarm.
    guests: Option<Guests>,
    /// Marks of the messages that were opened. What can't be opened leaves nothing.
    seen: BTreeSet<[u8; MARK_LEN]>,
    most: usize,
}

impl Introductions {
    /// Takes what comes for this introduction key. `secret` is the seed's, of this swarm alone.
    pub fn new(introduction: IntroductionId, secret: DhSecret, swarm: SwarmKey) -> Self {
        Self {
            introduction,
            secret,
            swarm,
            guests: None,
            seen: BTreeSet::new(),
            most: MAX_SEEN,
        }
    }

    /// The same, which lets in only these. What anybody else says is as unreadable as what is no message.
    #[must_use]
    pub fn only(mut self, guests: Guests) -> Self {
        self.guests = Some(guests);
        self
    }

    #[cfg(test)]
    pub(crate) fn with_room(mut self, most: usize) -> Self {
        self.most = most;
        self
    }

    /// How many messages are remembered.
    pub fn seen(&self) -> usize {
        self.seen.len()
    }

    /// Opens a message.
    ///
    /// # Errors
    /// Drop it. Nothing has changed.
    pub fn open(&mut self, message: &[u8], rng: &mut dyn CryptoRng) -> Result<Introduced, Dropped> {
        let message: &[u8; MESSAGE_LEN] = message.try_into().map_err(|_| Dropped::Unreadable)?;
        let role = Role::Responder(&self.secret);
        let (name, length) = self.guests.as_ref().map_or(ANYBODY, |_| GUEST);
        let state = begin(name, &role, &self.introduction, &self.swarm, rng);
        let mut state = state.map_err(|_| Dropped::Unreadable)?;
        let mut payload = Zeroizing::new([0; PAYLOAD_LEN]);
        let payload = &mut payload[..length];
        noise::read(&mut state, message, payload).map_err(|_| Dropped::Unreadable)?;
        if let Some(guests) = &self.guests
            && !noise::shown(&state).is_some_and(|key| guests.has(&key))
        {
            return Err(Dropped::Stranger);
        }
        let meeting = Meeting::decode(payload).ok_or(Dropped::Unreadable)?;
        let mut mark = [0; MARK_LEN];
        mark.copy_from_slice(&Blake2s256::digest(message)[..MARK_LEN]);
        if self.seen.contains(&mark) {
            return Err(Dropped::Replayed);
        }
        if self.seen.len() >= self.most {
            return Err(Dropped::UsedUp);
        }
        self.seen.insert(mark);
        Ok(Introduced { meeting, state })
    }
}

impl fmt::Debug for Introductions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introductions")
            .field("seen", &self.seen.len())
            .finish_non_exhaustive()
    }
}

/// A visitor that waits to be met.
pub struct Introduced {
    meeting: Meeting,
    state: HandshakeState,
}

impl Introduced {
    /// Where.
    pub fn meeting(&self) -> &Meeting {
        &self.meeting
    }

    /// The answer, to be sent first through the rendezvous point, and the keys for what follows.
    ///
    /// # Errors
    /// The visitor's key is of low order, which only a broken visitor has: leave it.
    pub fn answer(mut self) -> Result<([u8; ANSWER_LEN], SessionKeys), HandshakeError> {
        let mut answer = [0; ANSWER_LEN];
        noise::write(&mut self.state, &[], &mut answer)?;
        Ok((answer, SessionKeys::new(noise::split(self.state)?)?))
    }
}

impl fmt::Debug for Introduced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introduced").finish_non_exhaustive()
    }
}

const _: () = assert!(MEETING_LEN <= GUEST_PAYLOAD_LEN && PAYLOAD_LEN == 464);

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use rand::SeedableRng;

    use super::*;

    /// A message with a payload that no visitor of this version makes.
    pub(in crate::rendezvous) fn with_payload(
        seed: &[u8; 32],
        introduction: &IntroductionId,
        swarm: &SwarmKey,
        make: impl FnOnce(&mut [u8; PAYLOAD_LEN]),
    ) -> [u8; MESSAGE_LEN] {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let role = Role::Initiator(seed);
        let mut state = begin(NOISE_NAME, &role, introduction, swarm, &mut rng).unwrap();
        let (mut payload, mut message) = ([0; PAYLOAD_LEN], [0; MESSAGE_LEN]);
        make(&mut payload);
        noise::write(&mut state, &payload, &mut message).unwrap();
        message
    }
}
