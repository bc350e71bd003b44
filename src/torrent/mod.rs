//! The embedded BitTorrent engine. It is given streams and has no way to open a socket.

pub mod by_url;
pub mod engine;
pub mod extension;
pub mod feed;
pub mod gossip;
pub mod infohash;
pub mod magnet;
pub mod metainfo;
pub mod mse;
pub mod pace;
pub mod peer;
pub mod pex;
pub mod picker;
pub mod resume;
pub mod select;
pub mod storage;
pub mod swarm;
pub mod tracker;
pub mod v2;
pub mod webseed;
pub mod wire;
