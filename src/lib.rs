//! hushswarm: a privacy-first anonymous transfer router.
//!
//! Three flows are worth following; ARCHITECTURE.md draws them.
//!
//! - A download: [`cli::get`] starts a [`torrent::engine`], whose swarm asks [`route::Outside`] for streams to trackers and
//!   peers. [`route::circuits`] takes a circuit from the [`overlay::client`], which chose its path and built it over a link
//!   that [`overlay::link`] pumps between a socket of [`net`] and the switch of `hushswarm_circuits`.
//! - A relay: [`relay`] answers links; the switch passes cells on, and what ends here becomes a connection of the exit.
//! - A piece: bytes of a stream go through the peer's state machine to the picker and the storage, and a resume record
//!   is written when they are safe on the disk.

pub mod bencode;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod dht;
pub mod error;
pub mod guests;
pub mod hidden;
pub mod hush;
pub mod jail;
pub mod krpc;
pub mod net;
pub mod onion;
pub mod overlay;
pub mod redact;
pub mod relay;
pub mod route;
pub mod rpc;
pub mod socks;
pub mod state;
pub mod stream;
#[cfg(feature = "tor")]
pub mod tor;
pub mod torrent;
