//! Circuits: what an origin and a hop do with cells (PROTOCOL.md §5, §6).

pub mod flow;
pub mod mux;
pub mod origin;
pub mod padding;
