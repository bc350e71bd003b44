//! The overlay: circuits pumped over links, and for clients a pool of circuits kept ready.

pub mod circuit;
pub mod client;
pub mod directory;
pub mod guards;
pub mod link;
pub mod links;
pub mod stream;
