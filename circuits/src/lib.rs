//! The hushswarm circuit protocol without input and output ([PROTOCOL.md] is the specification).
//!
//! Bytes and the time go in; bytes, events and deadlines come out. There is no socket, clock, file or runtime
//! here, so the same code runs over TCP, over Tor, in a simulation under virtual time and under a fuzzer.
//!
//! [PROTOCOL.md]: https://github.com/hushswarm/hushswarm/blob/main/circuits/PROTOCOL.md

// Beside the methods that clippy.toml names, a plain loop over a map: its order differs between runs.
#![warn(clippy::iter_over_hash_type)]

pub mod body;
pub mod circuit;
pub mod dht;
pub mod frame;
pub mod handshake;
pub mod isolation;
pub mod keys;
pub mod layers;
pub mod link;
pub mod lookup;
pub mod path;
pub mod relay_list;
pub mod rendezvous;
pub mod scheduler;
pub mod switch;
pub mod target;
