//! hushswarm: a privacy-first anonymous transfer router.

pub mod cli;
pub mod config;
pub mod error;
pub mod net;
pub mod overlay;
pub mod redact;
pub mod relay;
pub mod route;
pub mod state;
pub mod torrent;
