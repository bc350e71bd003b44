//! `hushswarm onion-key`, or `visitor-key`: the key with which this computer finds a seed, an onion service or a hidden seed, that lets
//! in only some.

use std::io::Write as _;
use std::path::PathBuf;

use hushswarm_circuits::target::Host;

use super::source::{argument, read_source};
use super::tor::visitor_key;
use crate::error::{Error, Exit, Kind};
use crate::hidden::{GuestKey, make_key};
use crate::hush::SeedKey;
use crate::route::special::Place;
use crate::state::StateDir;
use crate::torrent::engine::Source;
use crate::torrent::magnet::Magnet;

/// Arguments of `hushswarm visitor-key`.
///
/// Whoever shares with "hushswarm seed --allow nobody" gives you a link; this command prints your public key for
/// it, which you send back, and keeps the other half in the state folder. Once the seed was started again with --allow and
/// your key, "hushswarm get" with the same link finds it, and nobody else does. You have another key for each seed, so that
/// nobody can tell by it that you visit two. Nothing is sent by this command.
#[derive(clap::Args)]
pub struct Args {
    /// Magnet link that names a hidden seed or an onion service, or such a service's address (56 characters and ".onion"); "-" reads it from standard
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
    let (seeds, addresses) = named(&text)?;
    let path = match args.state {
        Some(path) => path,
        None => StateDir::default_path()?,
    };
    let state = StateDir::open(&path)?;
    let mut keys = Vec::new();
    for seed in &seeds {
        let own = make_key(&state, seed, &mut rand::rng())?;
        keys.push((seed.host(), GuestKey::from(&own).to_string()));
    }
    for address in addresses {
        let key = visitor_key(&state, &address)?.ok_or_else(no_onion)?;
        keys.push((address, key.to_string()));
    }
    for (name, key) in &keys {
        let mut out = std::io::stdout().lock();
        let written = match keys.len() {
            1 => writeln!(out, "{key}"),
            // Each is for another.
            _ => writeln!(out, "{name} {key}"),
        };
        written.map_err(|source| Error::local("can't write the key").with_source(source))?;
    }
    Ok(())
}

/// The hidden seeds and the onion services that are named.
fn named(text: &str) -> Result<(Vec<SeedKey>, Vec<String>), Error> {
    if !Magnet::is_link(text) {
        // A port may stand behind it, as in the link.
        let address = text.split_once(':').map_or(text, |(address, _)| address);
        return Ok((Vec::new(), vec![address.to_ascii_lowercase()]));
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
    let seeds: Vec<_> = magnet.seeds.iter().map(|seed| SeedKey(seed.key)).collect();
    match names.is_empty() && seeds.is_empty() {
        true => Err(no_onion()),
        false => Ok((seeds, names)),
    }
}

fn no_onion() -> Error {
    Error::new(Kind::Local, "that names no hidden seed and no onion service")
        .with_exit(Exit::BadTorrent)
        .with_hint("give the magnet link that \"hushswarm seed --allow nobody\" printed, in quotes, or the address of an onion service: 56 characters and \".onion\"")
}
