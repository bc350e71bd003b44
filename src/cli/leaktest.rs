//! `hushswarm leaktest`: shows what a program leaks, plain and through hushswarm.

use crate::error::Error;

/// Arguments of `hushswarm leaktest`.
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
