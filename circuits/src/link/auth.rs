//! AUTH: a relay that opened a link says who it is (PROTOCOL.md §2.5).

use crate::keys::{IdentityKey, RelayId, SIGNATURE_LEN};

/// Length of what an AUTH frame carries, bytes: `identity[32] | signature[64]`.
pub const AUTH_LEN: usize = 32 + SIGNATURE_LEN;

const CONTEXT: &[u8] = b"hushswarm v1 auth";

/// The neighbour's AUTH is not good: close the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The body is shorter than [`AUTH_LEN`].
    #[error("AUTH is cut off")]
    CutOff,
    /// The signature is not the identity's over this link's handshake hash.
    #[error("AUTH signature does not verify")]
    Forged,
}

/// Signs a link's handshake hash: the first bytes of an AUTH body, of which the rest is zero.
pub fn sign_auth(identity: &IdentityKey, hash: &[u8; 32]) -> [u8; AUTH_LEN] {
    let mut out = [0; AUTH_LEN];
    let (id, signature) = out.split_at_mut(32);
    id.copy_from_slice(&identity.public().0);
    signature.copy_from_slice(&identity.sign(&[CONTEXT, hash]));
    out
}

/// Reads an AUTH body; gives the identity that signed this link's handshake hash. Whether it is a relay's is for the
/// caller to look up.
///
/// # Errors
/// The neighbour is not who it says: close the link.
pub fn verify_auth(body: &[u8], hash: &[u8; 32]) -> Result<RelayId, AuthError> {
    let (id, rest) = body.split_first_chunk::<32>().ok_or(AuthError::CutOff)?;
    let signature = rest
        .first_chunk::<SIGNATURE_LEN>()
        .ok_or(AuthError::CutOff)?;
    let id = RelayId(*id);
    if id.verify(&[CONTEXT, hash], signature) {
        Ok(id)
    } else {
        Err(AuthError::Forged)
    }
}
