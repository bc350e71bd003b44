//! Being written.

pub mod network;
mod table;
