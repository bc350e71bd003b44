//! The `hushswarm` command.
fn main() {}
