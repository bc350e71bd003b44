//! The hop handshake: Noise with an ML-KEM-768 secret mixed in (PROTOCOL.md §3).
//!
//! Traffic that is recorded today stays closed to a quantum computer of tomorrow, and to whoever later takes the
//! relay's onion key.

use blake2::{Blake2s256, Digest};
use ml_kem::{Ciphertext, Decapsulate, Encapsulate, KeyExport, MlKem768, Seed, SharedKey};
use rand::CryptoRng;
use ring::hkdf::{HKDF_SHA256, Salt};
use snow::HandshakeState;
use zeroize::{Zeroize, Zeroizing};

pub use crate::keys::noise::HandshakeError;
use crate::keys::noise::{self, Role};
use crate::keys::{DhSecret, Key32, Suite, derive_key};
use crate::layers::LayerKeys;

/// Length of message 1, bytes: ephemeral key, encapsulation key, tag.
pub const CREATE_LEN: usize = 32 + KEM_KEY_LEN + 16;
/// Length of the answer, bytes: ML-KEM ciphertext, ephemeral key, tag.
pub const CREATED_LEN: usize = KEM_CIPHERTEXT_LEN + ANSWER_LEN;

/// ML-KEM-768 encapsulation key, bytes (FIPS 203, table 3).
const KEM_KEY_LEN: usize = 1184;
/// ML-KEM-768 ciphertext, bytes (FIPS 203, table 3).
const KEM_CIPHERTEXT_LEN: usize = 1088;
/// Noise message 2 with an empty payload, bytes.
const ANSWER_LEN: usize = 32 + 16;
/// Where Noise keeps the pre-shared key of `NKpsk2`.
const PSK_PLACE: usize = 2;

const NOISE_NAME: &str = "Noise_NKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"hushswarm v1 hop";
const PSK_INFO: &[u8] = b"hushswarm v1 psk2";

type EncapsulationKey = ml_kem::EncapsulationKey<MlKem768>;
type DecapsulationKey = ml_kem::DecapsulationKey<MlKem768>;

/// What an origin knows of a hop, and a hop of itself.
#[derive(Clone, Copy, Debug)]
pub struct HopPeer {
    /// The onion key of the descriptor (X25519).
    pub onion_key: [u8; 32],
    /// The suite of the descriptor.
    pub suite: Suite,
    /// BLAKE3 of the descriptor (§7.1).
    pub digest: [u8; 32],
}

impl HopPeer {
    fn begin(
        &self,
        role: &Role<'_>,
        rng: &mut dyn CryptoRng,
    ) -> Result<HandshakeState, HandshakeError> {
        let prologue = noise::prologue(PROLOGUE, self.suite, &self.digest);
        noise::begin(NOISE_NAME, role, &prologue, None, rng)
    }
}

/// An origin that waits for a hop's answer.
pub struct HopInitiator {
    state: HandshakeState,
    suite: Suite,
    kem: DecapsulationKey,
    /// Has taken in the encapsulation key.
    transcript: Blake2s256,
}

impl HopInitiator {
    /// Starts a handshake; gives message 1, for CREATE or EXTEND.
    ///
    /// # Errors
    /// The hop's onion key is of low order: it is not to be used.
    pub fn start(
        peer: &HopPeer,
        rng: &mut dyn CryptoRng,
    ) -> Result<(Self, [u8; CREATE_LEN]), HandshakeError> {
        let mut state = peer.begin(&Role::Initiator(&peer.onion_key), rng)?;
        let mut seed = Seed::default();
        rng.fill_bytes(&mut seed);
        let kem = DecapsulationKey::from_seed(seed);
        seed.zeroize();
        let public = kem.encapsulation_key().to_bytes();
        let mut message = [0; CREATE_LEN];
        noise::write(&mut state, &public, &mut message)?;
        let transcript = Blake2s256::new_with_prefix(public);
        Ok((
            Self {
                state,
                suite: peer.suite,
                kem,
                transcript,
            },
            message,
        ))
    }

    /// Reads the hop's answer, from CREATED or EXTENDED.
    ///
    /// # Errors
    /// The answer is not from the holder of the onion key, or was changed: give up the circuit.
    pub fn finish(mut self, answer: &[u8; CREATED_LEN]) -> Result<HopKeys, HandshakeError> {
        let (ciphertext, message) = answer.split_at(KEM_CIPHERTEXT_LEN);
        let ciphertext =
            Ciphertext::<MlKem768>::try_from(ciphertext).map_err(|_| HandshakeError::Internal)?;
        // A wrong ciphertext gives another secret, not an error (FIPS 203): then message 2 does not open.
        let mut shared = self.kem.decapsulate(&ciphertext);
        let psk = psk2(self.transcript, &ciphertext, &shared)?;
        shared.zeroize();
        self.state.set_psk(PSK_PLACE, psk.as_bytes())?;
        noise::read(&mut self.state, message, &mut [])?;
        HopKeys::new(self.suite, self.state)
    }
}

/// Reads message 1 as the hop that `own` describes; gives the answer and the keys.
///
/// # Errors
/// Refuse the circuit.
pub fn hop_respond(
    secret: &DhSecret,
    own: &HopPeer,
    message: &[u8; CREATE_LEN],
    rng: &mut dyn CryptoRng,
) -> Result<([u8; CREATED_LEN], HopKeys), HandshakeError> {
    let mut state = own.begin(&Role::Responder(secret), rng)?;
    let mut public = ml_kem::kem::Key::<EncapsulationKey>::default();
    noise::read(&mut state, message, &mut public)?;
    let kem = EncapsulationKey::new(&public).map_err(|_| HandshakeError::BadKemKey)?;
    let (ciphertext, mut shared) = kem.encapsulate_with_rng(rng);
    let psk = psk2(Blake2s256::new_with_prefix(public), &ciphertext, &shared)?;
    shared.zeroize();
    state.set_psk(PSK_PLACE, psk.as_bytes())?;
    let mut answer = [0; CREATED_LEN];
    let (head, tail) = answer.split_at_mut(KEM_CIPHERTEXT_LEN);
    head.copy_from_slice(&ciphertext);
    noise::write(&mut state, &[], tail)?;
    Ok((answer, HopKeys::new(own.suite, state)?))
}

/// The pre-shared key of §3.2. `transcript` has taken in the encapsulation key.
fn psk2(
    mut transcript: Blake2s256,
    ciphertext: &Ciphertext<MlKem768>,
    shared: &SharedKey,
) -> Result<Key32, HandshakeError> {
    transcript.update(ciphertext);
    let salt = Salt::new(HKDF_SHA256, &transcript.finalize());
    let mut psk = Zeroizing::new([0; 32]);
    salt.extract(shared)
        .expand(&[PSK_INFO], HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut psk[..]))
        .map_err(|_| HandshakeError::Internal)?;
    Ok(Key32::new(*psk))
}

/// The keys that an origin and one hop share.
pub struct HopKeys {
    /// From the origin to the hop.
    pub forward: LayerKeys,
    /// From the hop to the origin.
    pub backward: LayerKeys,
    /// Names this hop of this circuit to its two ends, and to nobody else (§3.3): what is signed over it can't be used elsewhere.
    pub binding: Key32,
}

impl HopKeys {
    fn new(suite: Suite, state: HandshakeState) -> Result<Self, HandshakeError> {
        let (k1, k2, hash) = noise::split(state)?;
        let derive = |context, k: &Key32| derive_key(context, &[k.as_bytes(), &hash]);
        Ok(Self {
            forward: LayerKeys::new(
                suite,
                derive("hushswarm v1 forward aead", &k1),
                derive("hushswarm v1 forward pad", &k1),
            ),
            backward: LayerKeys::new(
                suite,
                derive("hushswarm v1 backward aead", &k2),
                derive("hushswarm v1 backward pad", &k2),
            ),
            binding: derive_key(
                "hushswarm v1 circuit binding",
                &[k1.as_bytes(), k2.as_bytes(), &hash],
            ),
        })
    }
}

const _: () = assert!(CREATE_LEN == 1232 && CREATED_LEN == 1136);

#[cfg(test)]
pub(crate) mod tests;
