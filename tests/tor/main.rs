//! hushswarm on a private Tor network of Debian's `tor`: one program, since building one is quicker than building eight.
#![cfg(feature = "tor")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/relays.rs"]
mod world;

mod bridges;
mod care;
mod keys;
mod links;
mod network;
mod onion;
mod seed;
mod swarm;
mod trouble;
