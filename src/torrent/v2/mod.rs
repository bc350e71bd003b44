//! Version 2 torrents (BEP 52): merkle trees of files, requests for their hashes, and the fetch of those that a magnet link does
//! not bring. No I/O.

pub mod fetch;
mod files;
pub mod merkle;
pub mod request;

pub use files::{Answer, FileHashes, HashedFiles, LayerError};
