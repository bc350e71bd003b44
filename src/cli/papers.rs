//! `hushswarm completions` and `hushswarm man`: what packages install beside the program, made of the command line itself.

use std::io::{self, Write};

use clap::Command;
use clap_complete::Shell;

use crate::error::{Error, Exit};

/// Arguments of `hushswarm completions`.
#[derive(clap::Args)]
pub struct Completions {
    /// For this shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of `hushswarm man`.
#[derive(clap::Args)]
pub struct Man {
    /// The page of this command, as in "hushswarm man get" [default: the page of hushswarm itself, which names all of them]
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

/// Prints what a shell needs to complete commands and options.
///
/// # Errors
/// The output can't be written.
pub fn completions(
    args: &Completions,
    mut command: Command,
    out: &mut dyn Write,
) -> Result<(), Error> {
    // The generator panics where it can't write.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "hushswarm", &mut text);
    out.write_all(&text).map_err(unwritten)
}

/// Prints a manual page, in roff.
///
/// # Errors
/// There is no such command, or the output can't be written.
pub fn man(args: &Man, command: &Command, out: &mut dyn Write) -> Result<(), Error> {
    let mut page = command.clone();
    // Gives each command its whole name, by which pages find each other.
    page.build();
    for word in &args.command {
        page = page
            .find_subcommand(word)
            .cloned()
            .ok_or_else(|| Error::local("there is no such command").with_exit(Exit::Usage))?;
    }
    clap_mangen::Man::new(page).render(out).map_err(unwritten)
}

fn unwritten(source: io::Error) -> Error {
    Error::local("can't write the output").with_source(source)
}
