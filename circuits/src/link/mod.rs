//! Links: encrypted connections between neighbours (PROTOCOL.md §2).
//!
//! A link starts with a handshake of two messages of 1024 bytes; it then carries frames, which one [`LinkSealer`]
//! seals and one [`LinkOpener`] opens, in order. There is no input or output here.

mod auth;
mod codec;
mod handshake;
#[cfg(test)]
mod tests;

pub use auth::{AUTH_LEN, AuthError, sign_auth, verify_auth};
pub use codec::{FRAMES_PER_RATCHET, LinkError, LinkOpener, LinkSealer, MAX_FRAMES};
pub use handshake::{HANDSHAKE_LEN, LinkInitiator, LinkKeys, LinkPeer, respond};

pub use crate::keys::noise::HandshakeError;
