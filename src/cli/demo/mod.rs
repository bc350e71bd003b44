//! `hushswarm demo`.
pub mod network;
pub mod witness;
