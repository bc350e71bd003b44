//! `hushswarm run`: runs a program where nothing but circuits can be reached.

use crate::error::Error;

/// Arguments of `hushswarm run`.
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
