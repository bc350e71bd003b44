//! Noise (revision 34) through snow, with randomness that the caller gives and with low-order keys refused.

use rand::CryptoRng;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroize;

use super::{DhSecret, Key32, Suite};

/// A handshake failed: close the transport, or give up the circuit. Nothing is told to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The message was made for another key, descriptor, suite or pre-shared key, or was changed on the way.
    #[error("handshake message does not open")]
    Unreadable,
    /// An X25519 key of low order: the shared secret would be known to everyone (§2.2).
    #[error("a key of low order was offered")]
    LowOrder,
    /// Not an ML-KEM-768 encapsulation key (FIPS 203, section 7.2).
    #[error("not an ML-KEM encapsulation key")]
    BadKemKey,
    /// The Noise library refused a step that the types here rule out: a bug.
    #[error("the Noise state machine refused a step")]
    Internal,
}

impl From<snow::Error> for HandshakeError {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "snow's other errors are all its misuse"
    )]
    fn from(error: snow::Error) -> Self {
        match error {
            snow::Error::Dh => Self::LowOrder,
            snow::Error::Decrypt => Self::Unreadable,
            _ => Self::Internal,
        }
    }
}

/// Which end of a handshake this is.
pub(crate) enum Role<'a> {
    /// Knows the responder's public key.
    Initiator(&'a [u8; 32]),
    /// The same, and shows who it is by a key of its own.
    Known(&'a [u8; 32], &'a DhSecret),
    /// Holds the secret of it.
    Responder(&'a DhSecret),
}

/// A Noise handshake whose ephemeral key comes from `rng`.
pub(crate) fn begin(
    name: &str,
    role: &Role<'_>,
    prologue: &[u8],
    psk0: Option<&Key32>,
    rng: &mut dyn CryptoRng,
) -> Result<HandshakeState, HandshakeError> {
    let resolver = Resolver {
        ephemeral: Key32::generate(rng),
    };
    let params = name.parse().map_err(HandshakeError::from)?;
    let mut builder = Builder::with_resolver(params, Box::new(resolver)).prologue(prologue)?;
    if let Some(psk) = psk0 {
        builder = builder.psk(0, psk.as_bytes())?;
    }
    Ok(match role {
        Role::Initiator(peer) => builder.remote_public_key(&peer[..])?.build_initiator()?,
        Role::Known(peer, own) => builder
            .local_private_key(&own.as_bytes()[..])?
            .remote_public_key(&peer[..])?
            .build_initiator()?,
        Role::Responder(secret) => builder
            .local_private_key(&secret.as_bytes()[..])?
            .build_responder()?,
    })
}

/// `label || suite || descriptor digest`: what both ends must agree on before the first byte.
pub(crate) fn prologue(label: &[u8], suite: Suite, digest: &[u8; 32]) -> Vec<u8> {
    [label, &[suite.wire()], digest].concat()
}

/// Writes the next message, which fills `message`.
pub(crate) fn write(
    state: &mut HandshakeState,
    payload: &[u8],
    message: &mut [u8],
) -> Result<(), HandshakeError> {
    let written = state.write_message(payload, message)?;
    if written == message.len() {
        Ok(())
    } else {
        Err(HandshakeError::Internal)
    }
}

/// Reads the next message; its payload fills `payload`.
pub(crate) fn read(
    state: &mut HandshakeState,
    message: &[u8],
    payload: &mut [u8],
) -> Result<(), HandshakeError> {
    let read = state.read_message(message, payload)?;
    if read == payload.len() {
        Ok(())
    } else {
        Err(HandshakeError::Internal)
    }
}

/// The initiator's own key, which it has shown to a responder that has read its message.
pub(crate) fn shown(state: &HandshakeState) -> Option<[u8; 32]> {
    state.get_remote_static()?.first_chunk().copied()
}

/// The raw keys k1 (initiator's) and k2 (responder's) and the handshake hash of a finished handshake.
pub(crate) fn split(mut state: HandshakeState) -> Result<(Key32, Key32, [u8; 32]), HandshakeError> {
    if !state.is_handshake_finished() {
        return Err(HandshakeError::Internal);
    }
    let (mut k1, mut k2) = state.dangerously_get_raw_split();
    let keys = (Key32::new(k1), Key32::new(k2));
    k1.zeroize();
    k2.zeroize();
    let hash = state
        .get_handshake_hash()
        .first_chunk()
        .ok_or(HandshakeError::Internal)?;
    Ok((keys.0, keys.1, *hash))
}

/// snow's own primitives, except for randomness and X25519.
struct Resolver {
    ephemeral: Key32,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(self.ephemeral.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(X25519::unset())),
            DHChoice::Curve448 => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        let cipher = DefaultResolver.resolve_cipher(choice)?;
        #[cfg(test)]
        let cipher = Box::new(audited::Audited::new(cipher));
        Some(cipher)
    }
}

/// The ephemeral secret, given out once: a second draw would reuse it.
struct Once(Option<Key32>);

impl Random for Once {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        let key = self.0.take().ok_or(snow::Error::Rng)?;
        if dest.len() != key.as_bytes().len() {
            return Err(snow::Error::Rng);
        }
        dest.copy_from_slice(key.as_bytes());
        Ok(())
    }
}

/// X25519 that refuses an all-zero result; snow's own accepts it. Wiped on drop.
struct X25519 {
    secret: StaticSecret,
    public: PublicKey,
}

impl X25519 {
    /// What snow asks for before it sets or generates a key, and sometimes instead: no public key is computed for it.
    fn unset() -> Self {
        Self {
            secret: StaticSecret::from([0; 32]),
            public: PublicKey::from([0; 32]),
        }
    }
}

impl From<[u8; 32]> for X25519 {
    fn from(secret: [u8; 32]) -> Self {
        let secret = StaticSecret::from(secret);
        Self {
            public: PublicKey::from(&secret),
            secret,
        }
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, privkey: &[u8]) {
        let mut secret = Key32::new([0; 32]);
        secret.as_mut_bytes().copy_from_slice(privkey);
        *self = Self::from(*secret.as_bytes());
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        let mut secret = Key32::new([0; 32]);
        rng.try_fill_bytes(secret.as_mut_bytes())?;
        *self = Self::from(*secret.as_bytes());
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn privkey(&self) -> &[u8] {
        self.secret.as_bytes()
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        // snow passes buffers that are as long as the longest key it knows.
        let theirs: [u8; 32] = *pubkey.first_chunk().ok_or(snow::Error::Dh)?;
        let out = out.first_chunk_mut::<32>().ok_or(snow::Error::Dh)?;
        let shared = self.secret.diffie_hellman(&PublicKey::from(theirs));
        if !shared.was_contributory() {
            return Err(snow::Error::Dh);
        }
        *out = *shared.as_bytes();
        Ok(())
    }
}

#[cfg(test)]
mod audited {
    use super::super::audit;
    use super::Cipher;

    /// The algorithm byte of the ledger: no suite has it.
    const NOISE: u8 = 0;

    /// Writes what the handshake itself seals into the ledger of the tests.
    pub(super) struct Audited {
        cipher: Box<dyn Cipher>,
        id: audit::KeyId,
    }

    impl Audited {
        pub(super) fn new(cipher: Box<dyn Cipher>) -> Self {
            Self {
                cipher,
                id: audit::key_id(NOISE, &[0; 32]),
            }
        }
    }

    impl Cipher for Audited {
        fn name(&self) -> &'static str {
            self.cipher.name()
        }

        fn set(&mut self, key: &[u8; 32]) {
            self.id = audit::key_id(NOISE, key);
            self.cipher.set(key);
        }

        fn encrypt(&self, nonce: u64, ad: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
            audit::sealed(self.id, nonce);
            self.cipher.encrypt(nonce, ad, plaintext, out)
        }

        fn decrypt(
            &self,
            nonce: u64,
            ad: &[u8],
            ciphertext: &[u8],
            out: &mut [u8],
        ) -> Result<usize, snow::Error> {
            self.cipher.decrypt(nonce, ad, ciphertext, out)
        }
    }
}
