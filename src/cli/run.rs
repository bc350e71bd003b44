//! `hushswarm run`: runs a program where nothing but circuits can be reached.

use std::ffi::OsString;
use std::process::ExitCode;

use super::connect::OverlayArgs;
use super::dht::DhtArgs;
use super::guests::{TRACKER_PORT, hidden_link, port_in_jail};
use super::routes::RoutesArgs;
use crate::error::Error;
use crate::jail::publish::Publish;
use crate::torrent::magnet::Magnet;

#[cfg(target_os = "linux")]
mod jailed;

/// The code that a failure of ours ends with, told apart from the program's own (as `env` and containers do).
const FAILED: u8 = 125;

/// Arguments of `hushswarm run`.
#[derive(clap::Args)]
pub struct Args {
    /// The program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM"
    )]
    program: Vec<OsString>,
    /// Catch nothing: only programs that use the proxy (ALL_PROXY is set) reach anything
    #[arg(long)]
    no_catch: bool,
    /// When the program ends, wait for those that it has left behind (daemons), instead of ending them
    #[arg(long)]
    linger: bool,
    /// Lead a port of this computer's loopback to the same, or another, port of loopback inside: 8080, 8081:8080 or
    /// 127.0.0.2:8080:8080; may be repeated
    #[arg(long, value_name = "[ADDR:]PORT[:INSIDE]")]
    publish: Vec<Publish>,
    /// Let the program's BitTorrent client be a hidden peer: a tracker at 127.0.0.1:PORT inside [default: 6969] names hidden peers to it,
    /// and who announces there is reached as a hidden seed. HUSHSWARM_TRACKER tells the program its URL, and links that
    /// name hidden seeds are turned into such as any client knows where they stand among the program's arguments
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true, default_missing_value = TRACKER_PORT, value_parser = port_in_jail)]
    tracker: Option<u16>,
    /// Magnet link that names hidden seeds: one that any client knows is printed for it. May be repeated
    #[arg(long, value_name = "LINK", requires = "tracker", value_parser = hidden_link)]
    magnet: Vec<Magnet>,
    /// Besides hidden peers, let the program reach public peers and trackers too: then these learn of its torrents, though not whose
    /// they are. Without this it reaches hidden peers and nothing else
    #[arg(long, requires = "tracker")]
    public_too: bool,
    #[command(flatten)]
    dht: DhtArgs,
    #[command(flatten)]
    routes: RoutesArgs,
    #[command(flatten)]
    overlay: OverlayArgs,
}

impl Args {
    /// Whether the program reaches anything but hidden peers. Its own DHT, PEX and trackers would tell the public of hidden torrents.
    #[cfg(target_os = "linux")]
    fn reaches_public(&self) -> bool {
        self.tracker.is_none() || self.public_too
    }
}

/// Runs the program, and ends as it ended: with its code, or 128 and the signal; with 126 where it can't be executed, 127
/// where there is none, and 125 where the jail or the network could not be had.
pub fn run(args: Args) -> ExitCode {
    #[cfg(target_os = "linux")]
    let ended = jailed::run(args);
    #[cfg(not(target_os = "linux"))]
    let ended = {
        let _ = args;
        Err(Error::local("jails are made of Linux namespaces, and this is not Linux")
            .with_hint("set the program up to use \"hushswarm proxy\", and look at it with \"hushswarm doctor\""))
    };
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            told(&error);
            ExitCode::from(FAILED)
        }
    }
}

fn told(error: &Error) {
    // When even this can't be written, the exit code still tells.
    let _ = error.report(&mut std::io::stderr().lock());
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Run {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn with_the_tracker_a_program_reaches_the_public_only_where_the_user_says_so() {
        let reaches = |options: &[&str]| {
            let words = [&["run"][..], options, &["aria2c"]].concat();
            Run::try_parse_from(words).map(|run| run.args.reaches_public())
        };
        assert!(reaches(&[]).unwrap());
        assert!(!reaches(&["--tracker"]).unwrap());
        assert!(!reaches(&["--tracker=7000"]).unwrap());
        assert!(reaches(&["--tracker", "--public-too"]).unwrap());
        assert!(reaches(&["--public-too"]).is_err());
    }
}
