//! `hushswarm check`: checks configuration files.

use crate::error::Error;

/// Arguments of `hushswarm check`.
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
