//! `hushswarm doctor`: looks at a running set-up and says what is wrong.

use crate::error::Error;

/// Arguments of `hushswarm doctor`.
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
