//! The overlay: circuits pumped over links, and for clients a pool of circuits kept ready.

pub mod circuit;
pub mod client;
pub mod directory;
mod failure;
pub mod guards;
pub mod link;
pub mod links;
pub mod middles;
pub mod stream;
