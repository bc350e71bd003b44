//! The command line: what a person types, and what they are told.

mod allow;
pub mod check;
mod compose;
pub mod connect;
pub mod daemon;
pub mod demo;
pub mod dht;
pub mod doctor;
mod feed;
pub mod get;
mod guests;
pub mod leaktest;
mod limits;
pub mod log;
pub mod network;
pub mod onion_key;
pub mod papers;
pub mod progress;
pub mod proxy;
pub mod relay;
pub mod reload;
pub mod remote;
mod rendezvous;
pub mod routes;
pub mod run;
pub mod seed;
pub mod source;
pub mod stream;
mod table;
pub mod tor;
mod transfer;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::error::Error;

/// Anonymous transfers: BitTorrent through Noise-encrypted circuits of relays.
#[derive(Parser)]
#[command(name = "hushswarm", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What goes to the log on standard error; addresses, infohashes and names never do
    #[arg(long, global = true, value_enum, default_value_t = log::Level::Warn)]
    log: log::Level,
}

#[derive(Subcommand)]
enum Command {
    /// Download a torrent anonymously
    Get(get::Args),
    /// Play a file of a torrent while it downloads anonymously
    Stream(stream::Args),
    /// Share files or folders while nobody can tell from where: with those who meet this computer at a relay or an onion service
    Seed(seed::Args),
    /// Make the key with which you find a seed that lets in only some
    #[command(visible_alias = "visitor-key")]
    OnionKey(onion_key::Args),
    /// Keep torrents over restarts, and be steered by the programs that know Transmission
    Daemon(daemon::Args),
    /// Give the daemon a torrent
    Add(remote::Add),
    /// Show the daemon's torrents
    List(remote::List),
    /// Take torrents from the daemon
    Remove(remote::Remove),
    /// See a download through three relays, all on this computer, and what each of them saw
    Demo(demo::Args),
    /// Be a SOCKS and HTTP proxy for the programs of this computer
    Proxy(proxy::Args),
    /// Run a program in a jail from which only circuits lead out
    Run(run::Args),
    /// Check the network file and the routing policy
    Check(check::Args),
    /// Look at a running set-up, and say what is wrong with it
    Doctor(doctor::Args),
    /// See what a program leaks, plain and through hushswarm, in a world of its own
    Leaktest(leaktest::Args),
    /// Run a relay (its keys: hushswarm network relay-keys)
    Relay(relay::Args),
    /// Make and check the documents of a network of relays
    Network(network::NetworkArgs),
    /// Print what a shell needs to complete commands and options
    Completions(papers::Completions),
    /// Print a manual page
    Man(papers::Man),
}

/// Runs the command that was typed.
pub fn main() -> ExitCode {
    // A process of the leak test is no command of a person.
    if let Some(code) = leaktest::stage_main() {
        return code;
    }
    let cli = Cli::parse();
    log::init(cli.log);
    let done = match cli.command {
        Command::Get(args) => block_on(get::run(args)),
        Command::Stream(args) => block_on(stream::run(args)),
        Command::Seed(args) => block_on(seed::run(args)),
        Command::OnionKey(args) => block_on_one(onion_key::run(args)),
        Command::Daemon(args) => block_on(daemon::run(args)),
        Command::Add(args) => block_on_one(remote::add(args)),
        Command::List(args) => block_on_one(remote::list(args)),
        Command::Remove(args) => block_on_one(remote::remove(args)),
        Command::Demo(args) => block_on(demo::run(args)),
        Command::Proxy(args) => block_on_one(proxy::run(args)),
        Command::Run(args) => return run::run(args),
        Command::Check(args) => block_on(check::run(args)),
        Command::Doctor(args) => block_on(doctor::run(args)),
        Command::Leaktest(args) => block_on(leaktest::run(args)),
        Command::Network(args) => network::run(args, &mut std::io::stdout().lock()),
        Command::Completions(args) => {
            papers::completions(&args, Cli::command(), &mut std::io::stdout().lock())
        }
        Command::Man(args) => papers::man(&args, &Cli::command(), &mut std::io::stdout().lock()),
        Command::Relay(args) => block_on(relay::run(args, &mut std::io::stdout())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // When even this can't be written, the exit code still tells.
            let _ = error.report(&mut std::io::stderr().lock());
            let _ = std::io::stdout().flush();
            ExitCode::from(error.exit_code())
        }
    }
}

/// On all processors.
fn block_on<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    finish(tokio::runtime::Builder::new_multi_thread(), work)
}

/// On one: what only passes bytes on costs less where nothing is woken across processors, and one carries several
/// gigabits a second.
fn block_on_one<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    finish(tokio::runtime::Builder::new_current_thread(), work)
}

fn finish<T>(
    mut runtime: tokio::runtime::Builder,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|source| Error::local("can't start").with_source(source))?;
    let done = runtime.block_on(work);
    // Blocking file work was waited for where it matters; nothing else may hold up the exit.
    runtime.shutdown_background();
    done
}
