//! The Transmission RPC in its older form, as transmission-daemon 3.00 and 4.0 speak it: bytes in, bytes out, no socket, clock or file.
//!
//! [`http`] reads a request and writes a response, [`access`] says who may ask, [`call`] turns a body into a [`Call`], and
//! [`torrent`], [`session`] give what is told of torrents and of the session. Source of what is spoken: docs/rpc-spec.md of
//! transmission/transmission, version 17.
//!
//! What we don't know or don't tell is a constant that is true: nobody listens for peers, so no port is open; peers have no addresses here.

pub mod access;
mod args;
pub mod call;
pub mod http;
pub mod session;
#[cfg(test)]
mod tests;
pub mod torrent;

pub use call::{Call, Id, Ids, Message};

/// The version that we speak (`rpc-version`): of transmission 4.0, since programs ask for labels only from there on.
pub const RPC_VERSION: u32 = 17;
/// The oldest that we understand (`rpc-version-minimum`).
pub const RPC_VERSION_MINIMUM: u32 = 14;
/// What stands for [`RPC_VERSION`] in newer texts (`rpc-version-semver`).
pub const RPC_SEMVER: &str = "5.3.0";
/// Begins `version`: Sonarr and Radarr want a number there, 2.40 at least, and take it for that of Transmission.
pub const SPOKEN: &str = "4.0.0";
