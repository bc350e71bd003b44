//! `hushswarm seed`: makes a torrent of a file or folder, and serves those who can be reached through circuits.

use std::path::PathBuf;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use hushswarm_circuits::target::Target;

use super::connect::{Connected, OverlayArgs};
use super::progress::{Progress as Display, json_line};
use super::relay::Signals;
use super::routes::{RoutesArgs, Way};
use super::tor::{MAX_VISITOR_KEYS, Onion, OnionOptions, VisitorKey};
use super::transfer::follow;
use crate::config::Vanguards;
use crate::error::{Error, Exit, Kind};
use crate::torrent::engine::{Engine, Options, create};
use crate::torrent::infohash::InfoHash;
use crate::torrent::magnet::Magnet;

/// Arguments of `hushswarm seed`.
#[derive(clap::Args)]
pub struct Args {
    /// File or folder to share
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// How downloaders come: through circuits to the peers of a tracker, or to an onion service of Tor, which the magnet link
    /// names
    #[arg(long, value_name = "WAY", value_enum, default_value_t = Over::Circuits)]
    over: Over,
    /// With --over tor: keep the onion service's key in memory alone, so that each start has another address and nothing on
    /// the disk tells which it was
    #[arg(long, conflicts_with = "allow")]
    ephemeral: bool,
    /// With --over tor: only the holder of this key finds the onion service; may be given several times; "nobody" lets nobody
    /// in yet. Start with "--allow nobody" and hand out the link, with which the downloader runs "hushswarm onion-key" and
    /// sends you the public key that it prints. Then start again with --allow and that key: the link is the same, since the
    /// service's own key is kept
    #[arg(long, value_name = "KEY")]
    allow: Vec<VisitorKey>,
    /// Tracker to announce to, where downloaders are found; may be given several times
    #[arg(long, value_name = "URL", required_if_eq("over", "circuits"))]
    tracker: Vec<String>,
    /// Write the torrent file here too
    #[arg(long, value_name = "FILE")]
    torrent: Option<PathBuf>,
    /// Write progress as JSON lines to standard output
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    overlay: OverlayArgs,
    #[command(flatten)]
    routes: RoutesArgs,
}

/// How downloaders come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Over {
    /// Circuits to those whom a tracker names.
    Circuits,
    /// An onion service.
    Tor,
}

/// The port of onion services, as the magnet link names it.
const ONION_PORT: u16 = 6881;

#[derive(serde::Serialize)]
struct Made {
    magnet: String,
}

/// Seeds until a signal.
///
/// # Errors
/// What went wrong and what to do.
pub async fn run(mut args: Args) -> Result<(), Error> {
    if args.over == Over::Tor {
        // Its trackers are reached the same way, unless told otherwise.
        args.routes.route.get_or_insert(Way::Tor);
    }
    check(&args)?;
    let mut loaded = args.routes.load()?;
    if args.over == Over::Tor && !args.ephemeral {
        // A service that is up for long is worth the patience of whoever wants to find it.
        loaded.tor.vanguards.get_or_insert(Vanguards::Full);
    }
    let Connected {
        client,
        state,
        lock: _lock,
        fresh: _fresh,
    } = args.overlay.connect_alone(loaded.without())?;
    let mut display = Display::new(args.json);
    display.say("hashing");
    let trackers = args.tracker.iter().map(|url| vec![url.clone()]).collect();
    let created = create(args.path.clone(), trackers, Arc::default())
        .await
        .map_err(|error| Error::local("can't make a torrent of that").with_source(error))?;
    if let Some(file) = &args.torrent {
        crate::state::write_public(file, &created.file)?;
    }
    let metainfo = created.metainfo;
    let tor = loaded.tor(&state);
    let onion = match args.over {
        Over::Circuits => None,
        Over::Tor => {
            display.say("waiting for Tor; Ctrl-C stops");
            let mut signals = Signals::new()?;
            let options = OnionOptions {
                nickname: nickname(&metainfo.info.hash),
                port: ONION_PORT,
                ephemeral: args.ephemeral,
                allow: args.allow,
            };
            tokio::select! {
                onion = tor.serve(&options) => Some(onion?),
                () = signals.stop() => return Ok(()),
            }
        }
    };
    let peer = |onion: &Onion| Target::parse(onion.address(), ONION_PORT);
    let peer = onion.as_ref().map(peer).transpose();
    let peer = peer.map_err(|error| Error::local("Tor gave no address").with_source(error))?;
    let magnet = Magnet {
        hash: metainfo.info.hash,
        name: Some(metainfo.info.name.clone()),
        trackers: args.tracker,
        peers: peer.into_iter().collect(),
        select: None,
    }
    .to_string();
    let mut options = Options::new(state.path().to_owned());
    options.allow_private = loaded.policy.allows_private();
    let outside = loaded.gate(&client, &tor);
    let handle = Engine::new(outside, options).seed(metainfo, created.folder);
    if args.json {
        json_line("seeding", &Made { magnet });
    } else {
        display.say(&magnet);
        display.say(match args.over {
            Over::Circuits => "serving those whom a circuit can reach; Ctrl-C stops",
            Over::Tor => "serving those who come to its onion service, from about a minute from now; Ctrl-C stops",
        });
    }
    let door = handle.door();
    let serving = async {
        if let Some(mut onion) = onion {
            while let Some(stream) = onion.next().await {
                door.accept(stream);
            }
        }
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = follow(handle, &client, &tor, &mut display, |_| false) => ended,
        ended = serving => ended,
    };
    client.close();
    match ended {
        // The way to end a seed.
        Err(error) if error.exit() == Exit::Interrupted => Ok(()),
        other => other.map(drop),
    }
}

/// What the parser of arguments does not see.
fn check(args: &Args) -> Result<(), Error> {
    let wrong = |what: &str| Err(Error::new(Kind::Local, what).with_exit(Exit::Usage));
    if args.over != Over::Tor && (args.ephemeral || !args.allow.is_empty()) {
        return wrong("--ephemeral and --allow are about an onion service: add --over tor");
    }
    if args.allow.len() > MAX_VISITOR_KEYS {
        return wrong(&format!(
            "more than {MAX_VISITOR_KEYS} keys: an onion service has no room for them"
        ));
    }
    Ok(())
}

/// The name of a torrent's onion service in Tor's folder. It tells nobody which torrent it is.
fn nickname(hash: &InfoHash) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("hushswarm v1 onion service of a torrent");
    hasher.update(&hash.0);
    let digest = hasher.finalize();
    let (short, _) = digest.as_bytes().split_at(16);
    format!("seed{}", HEXLOWER.encode(short))
}
