//! `hushswarm onion-key`: the key with which this computer finds an onion seed that lets in only some.

use std::io::Write as _;
use std::path::PathBuf;

use hushswarm_circuits::target::Host;

use super::get::{argument, read_source};
use super::tor::visitor_key;
use crate::error::{Error, Exit, Kind};
use crate::route::special::Place;
use crate::state::StateDir;
use crate::torrent::engine::Source;

/// Arguments of `hushswarm onion-key`.
///
/// Whoever shares with "hushswarm seed --over tor --allow nobody" gives you a link; this command prints your public key for
/// it, which you send back, and keeps the other half in the state folder. Once the seed was started again with --allow and
/// your key, "hushswarm get" with the same link finds it, and nobody else does. Nothing is sent by this command.
#[derive(clap::Args)]
pub struct Args {
    /// Magnet link that names an onion service, or its address (56 characters and ".onion"); "-" reads it from standard
    /// input, where no other user of this computer sees it in the list of processes
    #[arg(value_name = "MAGNET-OR-ONION")]
    source: String,
    /// Folder that holds the key; "hushswarm get" must be given the same [default: ~/.local/state/hushswarm]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// Prints the key, and makes it where there is none.
///
/// # Errors
/// What went wrong and what to do.
pub async fn run(args: Args) -> Result<(), Error> {
    let text = argument(&args.source)?;
    let addresses = addresses(&text)?;
    let path = match args.state {
        Some(path) => path,
        None => StateDir::default_path()?,
    };
    let state = StateDir::open(&path)?;
    for address in &addresses {
        let key = visitor_key(&state, address)?.ok_or_else(no_onion)?;
        let mut out = std::io::stdout().lock();
        let written = match addresses.len() {
            1 => writeln!(out, "{key}"),
            // Each is for another service.
            _ => writeln!(out, "{address} {key}"),
        };
        written.map_err(|source| Error::local("can't write the key").with_source(source))?;
    }
    Ok(())
}

/// The onion services that are named.
fn addresses(text: &str) -> Result<Vec<String>, Error> {
    if !text.to_ascii_lowercase().starts_with("magnet:") {
        // A port may stand behind it, as in the link.
        let address = text.split_once(':').map_or(text, |(address, _)| address);
        return Ok(vec![address.to_ascii_lowercase()]);
    }
    let Source::Magnet(magnet) = read_source(text)? else {
        return Err(no_onion());
    };
    let onions = magnet.peers.iter().filter(|peer| Place::is_onion(peer));
    let names = onions.filter_map(|peer| match &peer.host {
        Host::Name(name) => Some(name.as_str().to_owned()),
        Host::Ip(_) => None,
    });
    let mut names: Vec<_> = names.collect();
    names.dedup();
    match names.is_empty() {
        true => Err(no_onion()),
        false => Ok(names),
    }
}

fn no_onion() -> Error {
    Error::new(Kind::Local, "that names no onion service")
        .with_exit(Exit::BadTorrent)
        .with_hint("give the magnet link that \"hushswarm seed --over tor\" printed, in quotes, or the address in it: 56 characters and \".onion\"")
}
