//! `hushswarm network`: makes, signs and shows the documents of a network (PROTOCOL.md §7).
//!
//! A network starts with `new-authority` (once for each authority), `relay-keys` (on each relay), `sign` and `cosign`
//! (by the authorities, for the descriptors that relays sent them) and `file` (what users are given with the list).
//! Arguments have no `Debug`: they hold addresses, which must not reach a log.

mod fetch;
mod make;
mod relay_init;
mod show;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use hushswarm_circuits::keys::RelayId;

use super::table::parse_rate;
use super::tor::TorArgs;
use crate::config::{FirstLink, id_from_hex};
use crate::error::{Error, Exit};
use crate::state::StateDir;

pub(super) use fetch::keep_fresh;
pub use fetch::{Fetched, refresh, renew_if_old};
pub use relay_init::relay_init;

/// Arguments of `hushswarm network`.
#[derive(Args)]
pub struct NetworkArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the key of a new authority and print its public half
    NewAuthority(NewAuthorityArgs),
    /// Make a relay's keys and descriptor, or renew its descriptor
    RelayKeys(RelayInitArgs),
    /// Make a relay list of descriptors and sign it
    Sign(SignArgs),
    /// Check a relay list that others signed, show it, and sign it too
    Cosign(CosignArgs),
    /// Write a network file, which tells users whom to trust
    File(FileArgs),
    /// Check the relay list of a network file
    Verify(VerifyArgs),
    /// Show the relays of a network
    Show(ShowArgs),
    /// Fetch the newest relay list over a circuit, and replace the network file's list by it
    Fetch(FetchArgs),
}

#[derive(Args)]
struct NewAuthorityArgs {
    /// Folder for the key
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
}

/// Arguments of `hushswarm network relay-keys`.
#[derive(Args)]
pub struct RelayInitArgs {
    /// Folder for keys, configuration and descriptor [default: where hushswarm keeps its state]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Name of the relay: 1 to 19 letters, digits or '-'
    #[arg(long)]
    nickname: Option<String>,
    /// Address to listen on; may be given several times
    #[arg(long, value_name = "IP:PORT")]
    listen: Vec<std::net::SocketAddr>,
    /// Address at which others reach the relay, where it differs from --listen; may be given several times
    #[arg(long, value_name = "IP:PORT")]
    address: Vec<std::net::SocketAddr>,
    /// Take links at an onion service of Tor too: those who come there hide their address from this relay. Its key stays in the
    /// folder "tor" of the state folder
    #[arg(long)]
    onion: bool,
    /// Take first hops of clients
    #[arg(long)]
    guard: bool,
    /// Open connections to the world, as --policy says
    #[arg(long)]
    exit: bool,
    /// Exit rule, in order: "public", or like "accept tcp 127.0.0.0/8:*"; may be given several times [default: public]
    #[arg(long, value_name = "RULE", requires = "exit")]
    policy: Vec<String>,
    /// Look up in the DHT for others, from the usual nodes or those that the section [dht] of relay.toml names
    #[arg(long, requires = "exit")]
    dht: bool,
    /// Take introductions and meetings of hidden seeds and their visitors; limits: section [introductions] of relay.toml
    #[arg(long)]
    introduce: bool,
    /// What the relay may carry, in KiB/s, or like 10M or 1G
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    bandwidth: Option<u32>,
    /// Family: the same for all relays of one operator
    #[arg(long)]
    family: Option<String>,
    /// How long the descriptor lives, 1 to 400 days
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=400))]
    days: Option<u32>,
}

#[derive(Args)]
struct SignArgs {
    /// Folder with an authority's key; may be given several times
    #[arg(long, value_name = "DIR", required = true)]
    authority: Vec<PathBuf>,
    /// Name of the network
    #[arg(long, value_name = "NAME")]
    network: String,
    /// How long the list lives, 1 to 31 days
    #[arg(long, value_name = "N", default_value_t = 14, value_parser = clap::value_parser!(u32).range(1..=31))]
    days: u32,
    /// Where to write the list
    #[arg(long, value_name = "FILE", default_value = "relays.list")]
    out: PathBuf,
    /// Descriptors of the relays
    #[arg(required = true, value_name = "DESCRIPTOR")]
    descriptors: Vec<PathBuf>,
}

#[derive(Args)]
struct CosignArgs {
    /// Folder with an authority's key; may be given several times
    #[arg(long, value_name = "DIR", required = true)]
    authority: Vec<PathBuf>,
    /// Name of the network that the list must be for
    #[arg(long, value_name = "NAME")]
    network: String,
    /// Where to write the list [default: in its place]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The relay list
    #[arg(value_name = "LIST")]
    list: PathBuf,
}

#[derive(Args)]
struct FileArgs {
    /// Name of the network
    #[arg(long)]
    name: String,
    /// Public key of an authority; may be given several times
    #[arg(long, value_name = "HEX", required = true, value_parser = parse_id)]
    authority: Vec<RelayId>,
    /// How many authorities must have signed a list
    #[arg(long, value_name = "N")]
    threshold: usize,
    /// The relay list, relative to the network file's folder
    #[arg(long, value_name = "PATH")]
    list: PathBuf,
    /// No two relays of a circuit share this many bits of an IPv4 address; 0 turns the rule off, for networks on
    /// one machine
    #[arg(long, value_name = "BITS", default_value_t = 16)]
    ipv4_prefix: u8,
    /// The same for IPv6
    #[arg(long, value_name = "BITS", default_value_t = 32)]
    ipv6_prefix: u8,
    /// Where to write the network file
    #[arg(long, value_name = "FILE", default_value = "network.toml")]
    out: PathBuf,
}

#[derive(Args)]
struct VerifyArgs {
    /// The network file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Args)]
struct FetchArgs {
    /// The network file; its relay list must still be valid
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Folder with this client's guards [default: where hushswarm keeps its state]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// How the first relay is reached: by a connection of this computer's own, or through Tor [default: as the routes file
    /// says, else tcp]
    #[arg(long, value_name = "WAY", value_enum)]
    first_link: Option<FirstLink>,
    /// Routes file, of which only its first_link counts here [default: ~/.config/hushswarm/routes.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    routes: Option<PathBuf>,
    #[command(flatten)]
    tor: TorArgs,
}

#[derive(Args)]
struct ShowArgs {
    /// The network file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

fn parse_id(text: &str) -> Result<RelayId, String> {
    id_from_hex(text).ok_or_else(|| "a public key has 64 hexadecimal digits".to_owned())
}

/// Runs `hushswarm network`; what it has to say goes to `out`.
///
/// # Errors
/// Report it and end with its exit code.
pub fn run(args: NetworkArgs, out: &mut dyn Write) -> Result<(), Error> {
    let text = match args.command {
        Command::NewAuthority(args) => make::new_authority(&args)?,
        Command::RelayKeys(args) => return relay_init(args, out),
        Command::Sign(args) => make::sign(&args)?,
        Command::Cosign(args) => make::cosign(&args)?,
        Command::File(args) => make::file(&args)?,
        Command::Verify(args) => show::verify(&args)?,
        Command::Show(args) => show::show(&args)?,
        Command::Fetch(args) => fetch::fetch(&args)?,
    };
    say(out, &text)
}

/// Writes the whole of what a command has to say.
fn say(out: &mut dyn Write, text: &str) -> Result<(), Error> {
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Error::local("can't write the output").with_source(error))
}

fn usage(message: impl Into<String>) -> Error {
    Error::local(message).with_exit(Exit::Usage)
}

/// Opens a folder that must exist: to sign with a key that is not there must not make an empty folder.
fn open_existing(path: &std::path::Path) -> Result<StateDir, Error> {
    if !path.exists() {
        let what = format!("there is no folder {}", path.display());
        return Err(Error::local(what).with_exit(Exit::Disk));
    }
    Ok(StateDir::open(path)?)
}
