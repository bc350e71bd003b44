//! Being written.

pub mod guards;
