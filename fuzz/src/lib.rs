//! Fuzz targets; `fuzz/run` builds and runs them on stable Rust.

pub mod targets;
