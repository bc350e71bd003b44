//! What real programs and hushswarm send over their cables, in network namespaces of each test's own: one program, since building one is
//! quicker than building thirty.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

#[path = "../support/mod.rs"]
mod support;

mod capture_control;
mod dht;
mod feed;
mod fixtures;
mod get;
mod guests;
mod hidden;
mod hidden_dht;
mod jail;
mod jail_traffic;
mod leaktest;
mod lookups;
mod mixed;
mod pex;
mod proxy;
mod run;
mod scrubbed;
mod seed;
mod tor;
