//! `hushswarm seed`: makes a torrent of a file or folder, and serves those who can be reached through circuits.

use std::path::PathBuf;
use std::sync::Arc;

use super::connect::{Connected, OverlayArgs};
use super::progress::{Progress as Display, json_line};
use super::routes::RoutesArgs;
use super::transfer::follow;
use crate::error::{Error, Exit};
use crate::torrent::engine::{Engine, Options, create};
use crate::torrent::magnet::Magnet;

/// Arguments of `hushswarm seed`.
#[derive(clap::Args)]
pub struct Args {
    /// File or folder to share
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Tracker to announce to, where downloaders are found; may be given several times
    #[arg(long, value_name = "URL", required = true)]
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

#[derive(serde::Serialize)]
struct Made {
    magnet: String,
}

/// Seeds until a signal.
///
/// # Errors
/// What went wrong and what to do.
pub async fn run(args: Args) -> Result<(), Error> {
    let loaded = args.routes.load()?;
    let Connected {
        client,
        state,
        lock: _lock,
        fresh: _fresh,
    } = args.overlay.connect_alone()?;
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
    let magnet = Magnet {
        hash: metainfo.info.hash,
        name: Some(metainfo.info.name.clone()),
        trackers: args.tracker,
        peers: Vec::new(),
        select: None,
    }
    .to_string();
    let mut options = Options::new(state.path().to_owned());
    options.allow_private = loaded.policy.allows_private();
    let handle = Engine::new(loaded.gate(&client), options).seed(metainfo, created.folder);
    if args.json {
        json_line("seeding", &Made { magnet });
    } else {
        display.say(&magnet);
        display.say("serving those whom a circuit can reach; Ctrl-C stops");
    }
    let ended = follow(handle, &client, &mut display, |_| false).await;
    client.close();
    match ended {
        // The way to end a seed.
        Err(error) if error.exit() == Exit::Interrupted => Ok(()),
        other => other.map(drop),
    }
}
