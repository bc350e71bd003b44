//! The link handshake (PROTOCOL.md §2.2) and the keys that come of it (§2.3).

use rand::CryptoRng;
use snow::HandshakeState;

use super::codec::{LinkOpener, LinkSealer};
use crate::keys::noise::{self, HandshakeError, Role};
use crate::keys::{DhSecret, Key32, Suite};

/// Length of both handshake messages, bytes.
pub const HANDSHAKE_LEN: usize = 1024;

/// What is left of a message beside the ephemeral key and the payload's tag, bytes.
const PAYLOAD_LEN: usize = HANDSHAKE_LEN - 32 - 16;

const NOISE_NAME: &str = "Noise_NK_25519_ChaChaPoly_BLAKE2s";
const NOISE_NAME_PSK: &str = "Noise_NKpsk0_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"hushswarm v1 link";

/// What an initiator knows of the responder, and a responder of itself.
#[derive(Clone, Debug)]
pub struct LinkPeer {
    /// The link key of the descriptor (X25519).
    pub link_key: [u8; 32],
    /// The suite of the descriptor.
    pub suite: Suite,
    /// BLAKE3 of the descriptor (§7.1).
    pub digest: [u8; 32],
    /// The pre-shared key of an unlisted relay.
    pub psk: Option<Key32>,
}

impl LinkPeer {
    fn begin(
        &self,
        role: &Role<'_>,
        rng: &mut dyn CryptoRng,
    ) -> Result<HandshakeState, HandshakeError> {
        let name = if self.psk.is_some() {
            NOISE_NAME_PSK
        } else {
            NOISE_NAME
        };
        let prologue = noise::prologue(PROLOGUE, self.suite, &self.digest);
        noise::begin(name, role, &prologue, self.psk.as_ref(), rng)
    }
}

/// An initiator that waits for the answer.
pub struct LinkInitiator {
    state: HandshakeState,
    suite: Suite,
}

impl LinkInitiator {
    /// Starts a handshake; gives message 1.
    ///
    /// # Errors
    /// The responder's link key is of low order: it is not to be used.
    pub fn start(
        peer: &LinkPeer,
        rng: &mut dyn CryptoRng,
    ) -> Result<(Self, [u8; HANDSHAKE_LEN]), HandshakeError> {
        let mut state = peer.begin(&Role::Initiator(&peer.link_key), rng)?;
        let mut message = [0; HANDSHAKE_LEN];
        noise::write(&mut state, &[0; PAYLOAD_LEN], &mut message)?;
        Ok((
            Self {
                state,
                suite: peer.suite,
            },
            message,
        ))
    }

    /// Reads the answer.
    ///
    /// # Errors
    /// The answer is not from the holder of the link key, or was changed: close the transport.
    pub fn finish(mut self, answer: &[u8; HANDSHAKE_LEN]) -> Result<LinkKeys, HandshakeError> {
        // Padding: nobody looks at it.
        let mut payload = [0; PAYLOAD_LEN];
        noise::read(&mut self.state, answer, &mut payload)?;
        let (k1, k2, hash) = noise::split(self.state)?;
        Ok(LinkKeys::new(self.suite, &k1, &k2, hash))
    }
}

/// Reads message 1 as the relay that `own` describes; gives the answer and the keys.
///
/// # Errors
/// Close the transport without an answer.
pub fn respond(
    secret: &DhSecret,
    own: &LinkPeer,
    message: &[u8; HANDSHAKE_LEN],
    rng: &mut dyn CryptoRng,
) -> Result<([u8; HANDSHAKE_LEN], LinkKeys), HandshakeError> {
    let mut state = own.begin(&Role::Responder(secret), rng)?;
    let mut payload = [0; PAYLOAD_LEN];
    noise::read(&mut state, message, &mut payload)?;
    let mut answer = [0; HANDSHAKE_LEN];
    noise::write(&mut state, &[0; PAYLOAD_LEN], &mut answer)?;
    let (k1, k2, hash) = noise::split(state)?;
    Ok((answer, LinkKeys::new(own.suite, &k2, &k1, hash)))
}

/// What a finished handshake leaves: the two directions of the link.
pub struct LinkKeys {
    /// Seals what this end sends.
    pub sealer: LinkSealer,
    /// Opens what the other end sends.
    pub opener: LinkOpener,
    /// The handshake hash, which AUTH signs.
    pub hash: [u8; 32],
}

impl LinkKeys {
    fn new(suite: Suite, send: &Key32, receive: &Key32, hash: [u8; 32]) -> Self {
        Self {
            sealer: LinkSealer::new(suite, send, &hash),
            opener: LinkOpener::new(suite, receive, &hash),
            hash,
        }
    }
}
