//! `hushswarm proxy`: a SOCKS and HTTP proxy for programs of this computer.

use crate::error::Error;

/// Arguments of `hushswarm proxy`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// What went wrong and what to do.
pub async fn run(args: Args) -> Result<(), Error> {
    let Args {} = args;
    Err(Error::local("not built yet"))
}
