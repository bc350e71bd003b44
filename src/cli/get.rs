//! `hushswarm get`: downloads a torrent through circuits, or what a feed names.

mod feed;

use std::path::PathBuf;
use std::sync::Arc;

use indicatif::BinaryBytes;
use serde::Serialize;

use super::compose::{Plan, Surroundings, compose};
use super::connect::{Connected, OverlayArgs};
use super::dht::DhtArgs;
use super::limits::LimitArgs;
use super::progress::{Progress as Display, duration, json_line};
use super::routes::{Loaded, RoutesArgs};
use super::source::{Named, argument};
use super::stream::Serve;
use super::transfer::follow;
use crate::error::{Error, Exit, Kind};
use crate::overlay::client::Client;
use crate::state::StateDir;
use crate::torrent::engine::{Encryption, Job, Limits, Options, Progress, Source, State};
use crate::torrent::feed::FeedLink;
use crate::torrent::select::Selection;

/// When streams to public peers are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum When {
    /// Where the peer knows it
    #[default]
    Preferred,
    /// Always: other peers are left out
    Required,
    /// Never
    Off,
}

impl From<When> for Encryption {
    fn from(when: When) -> Self {
        match when {
            When::Preferred => Self::Preferred,
            When::Required => Self::Required,
            When::Off => Self::Off,
        }
    }
}

/// Arguments of `hushswarm get`.
#[derive(clap::Args)]
pub struct Args {
    /// Magnet link, .torrent file or its https address, or the link of a feed, of which the newest version is downloaded; "-" reads a magnet link from standard input, where no other user of this computer
    /// sees it in the list of processes
    #[arg(value_name = "MAGNET-OR-FILE")]
    source: String,
    /// Folder to download to. Each version of a feed gets a folder of its own in it, NUMBER-HASH: the number rises with each version (with our
    /// own feeds it is when it was published, in seconds since 1970), and the hash is the beginning of the torrent's. No version
    /// touches the files of another
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// With the link of a feed: stay, look for a newer version every 15 to 30 minutes (and at once on the signal USR1), and download each
    /// when it comes. What has come is shared, unless --no-share is given, until a newer one comes; a version that is not
    /// complete then stays as it is, since its publisher gives the newer one
    #[arg(long)]
    follow: bool,
    /// Go on sharing after the download until interrupted
    #[arg(long)]
    seed: bool,
    /// Take only. By default, what comes from hidden seeds or onion services is shared while it comes, by a hidden seed or onion
    /// service of its own whose key is kept in memory alone; other such peers hear of it, and nobody learns where you are
    #[arg(long)]
    no_share: bool,
    /// Only from hidden peers: trackers and public peers are left out, whatever the link says, and the torrent is looked up nowhere in
    /// public. Where the link names no hidden seed, they are looked for in the DHT, under sealed names. By default this is done
    /// where the link names hidden seeds
    #[arg(long)]
    hidden_only: bool,
    /// With the link of a feed: take a version from public peers though the one before was a hidden seed's. Without this such a
    /// version is refused, since its publisher may have forgotten to hide it; with --hidden-only it is looked for among hidden peers
    #[arg(long, conflicts_with = "hidden_only")]
    public: bool,
    /// Whether streams to public peers are encrypted, so that an exit sees no infohash in what it carries: "preferred" calls a peer that
    /// does not know the encryption once more in the clear, "required" leaves such peers out. Hidden peers are always sealed from end to end
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    encryption: When,
    /// Only these files: numbers, the first one being 0, as in "0,2,4-8"; or a pattern for the whole path below the torrent's name, in
    /// which "*" is any text and "?" any character. May be given several times; a link may choose too (so=), which this overrules.
    /// Files that share a piece with a chosen one come in part
    #[arg(long, value_name = "FILES")]
    only: Vec<String>,
    /// Take pieces in order, as far as peers have them
    #[arg(long)]
    sequential: bool,
    /// Take the room on the disk before the download begins, so that it can't become full meanwhile. By default files take up what has
    /// come of them
    #[arg(long)]
    preallocate: bool,
    /// Overwrite files of the same name that are not this torrent's
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    limits: LimitArgs,
    /// Write progress as JSON lines to standard output
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    overlay: OverlayArgs,
    #[command(flatten)]
    routes: RoutesArgs,
    #[command(flatten)]
    dht: DhtArgs,
}

/// Runs the download.
///
/// # Errors
/// What went wrong and what to do.
pub async fn run(args: Args) -> Result<(), Error> {
    let text = argument(&args.source)?;
    if let Some(link) = feed::link_of(&text, args.follow, args.public)? {
        return feed::run(args, link).await;
    }
    let named = Named::read(&text)?;
    let select = selection(&args.only)?;
    let routes = args.routes.load()?;
    let Connected {
        client,
        state,
        lock: _lock,
        fresh: _fresh,
    } = args
        .overlay
        .connect_alone(named.without(&routes), &routes)?;
    let mut display = Display::new(args.json);
    if FeedLink::is_beside_torrent(&text) {
        display.say("the link names a torrent and the feed that it is from: the torrent is taken, and the feed is not followed; for its newest version, leave \"xt=\" out of the link");
    }
    if let Some(warning) = args.overlay.warning() {
        display.say(warning);
    }
    let say = |text: &str| display.say(text);
    let source = named.obtain(&client, &state, &routes, args.hidden_only, say);
    let source = source.await?;
    let work = Work {
        source,
        output: args.output,
        seed: args.seed,
        share: !args.no_share,
        hidden_only: args.hidden_only,
        select,
        overwrite: args.overwrite,
        encryption: args.encryption.into(),
        preallocate: args.preallocate,
        routes,
        dht: Some(args.dht),
        limits: args.limits.limits(),
        sequential: args.sequential,
        serve: None,
    };
    let done = download(work, &client, &state, &mut display).await?;
    if args.json {
        json_line("done", &done);
    } else {
        display.say(&format!("{}: {}", done.path.display(), done.summary()));
    }
    Ok(())
}

/// What is to be downloaded, and where to.
pub struct Work {
    /// The torrent.
    pub source: Source,
    /// Folder to download to.
    pub output: PathBuf,
    /// Whether to go on sharing.
    pub seed: bool,
    /// Whether to share by an onion service, or as a hidden seed, where others are reached that way.
    pub share: bool,
    /// Whether public peers are refused, even where the source names no hidden one.
    pub hidden_only: bool,
    /// Which files.
    pub select: Selection,
    /// Whether files that stand in the way may be overwritten.
    pub overwrite: bool,
    /// Of streams to public peers.
    pub encryption: Encryption,
    /// Take the room on the disk first.
    pub preallocate: bool,
    /// Which trackers and peers may be asked, and through what.
    pub routes: Loaded,
    /// Whether and where peers are looked for in the DHT; `None`: not.
    pub dht: Option<DhtArgs>,
    /// How fast blocks may go.
    pub limits: Limits,
    /// Whether pieces are to come in order.
    pub sequential: bool,
    /// Where one of its files is served while it comes.
    pub serve: Option<Serve>,
}

/// A download that is complete; what `--json` says at the end.
#[derive(Debug, Serialize)]
pub struct Done {
    /// The file or folder.
    pub path: PathBuf,
    /// Its verified bytes.
    pub bytes: u64,
    /// Bytes that came over the network this time.
    pub received: u64,
    /// How long it took this time.
    pub seconds: f64,
}

impl Done {
    /// `64.00 MiB verified in 2 s, 32.00 MiB/s`.
    pub fn summary(&self) -> String {
        let rate = BinaryBytes((self.received as f64 / self.seconds.max(0.001)) as u64);
        let bytes = BinaryBytes(self.bytes);
        let time = if self.seconds < 10.0 {
            format!("{:.1} s", self.seconds)
        } else {
            duration(self.seconds.round() as u64)
        };
        format!("{bytes} verified in {time}, {rate}/s")
    }
}

/// Downloads a torrent.
///
/// # Errors
/// What went wrong and what to do.
pub async fn download(
    work: Work,
    client: &Client,
    state: &Arc<StateDir>,
    display: &mut Display,
) -> Result<Done, Error> {
    let seeding = work.seed;
    let done = transfer(work, client, state, display, |progress| {
        !seeding && is_complete(progress)
    });
    let done = done.await;
    client.close();
    done
}

/// Whether everything has come.
fn is_complete(progress: &Progress) -> bool {
    matches!(progress.state, State::Done | State::Seeding)
}

/// The same until this is true of it, or it is interrupted; then the client can be used for another one.
async fn transfer(
    work: Work,
    client: &Client,
    state: &Arc<StateDir>,
    display: &mut Display,
    until: impl Fn(&Progress) -> bool,
) -> Result<Done, Error> {
    let begun = std::time::Instant::now();
    let tor = work.routes.tor(state);
    let plan = Plan {
        source: work.source,
        info: None,
        share: work.share,
        hidden_only: work.hidden_only,
        encryption: work.encryption,
    };
    // By Tor alone, no datagrams and no lookups leave.
    let dht = work.dht.filter(|_| !client.list().is_none());
    let routes = &work.routes;
    let find = |outside| dht.and_then(|dht| dht.finder(routes, outside));
    let mut options = Options::new(state.path().to_owned());
    options.preallocate = work.preallocate;
    options.limits.set(work.limits);
    let place = Surroundings {
        client,
        state,
        tor: &tor,
        routes,
    };
    let composed = compose(plan, place, options, find, &|text| display.say(text))?;
    let job = Job {
        source: composed.source,
        output: work.output.clone(),
        seed_after: work.seed,
        overwrite: work.overwrite,
        info: None,
    };
    let handle = composed.engine.download_only(job, work.select);
    handle.set_sequential(work.sequential);
    let control = handle.control();
    let serving = async {
        if let Some(serve) = work.serve {
            serve.run(control).await;
        }
        std::future::pending().await
    };
    let beside = composed.beside.run(&handle);
    let followed = follow(handle, client, &tor, display, until);
    let ended = tokio::select! {
        ended = followed => ended,
        ended = serving => ended,
        never = beside => match never {},
    };
    let last = ended?;
    let name = last.name.as_ref().map(|name| name.expose().clone());
    let path = work.output.join(name.unwrap_or_default());
    Ok(Done {
        path,
        bytes: last.total,
        received: last.downloaded,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// The files that `--only` names.
pub(super) fn selection(only: &[String]) -> Result<Selection, Error> {
    Selection::parse(only.iter().map(String::as_str)).ok_or_else(|| {
        let what = "--only takes numbers as in 0,2,4-8, the first file being 0, or a pattern such as \"*.txt\"";
        Error::new(Kind::Local, what).with_exit(Exit::Usage)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::compose::chosen;
    use crate::onion::OnionKey;
    use crate::torrent::magnet::Magnet;

    #[test]
    fn the_onion_services_of_a_link_are_chosen_and_no_others() {
        let name = |byte: u8| OnionKey([byte; 32]).address();
        let [peer, tracker, udp, other] = [1, 2, 3, 4].map(name);
        let link = format!(
            "magnet:?xt=urn:btih:{}&x.pe={peer}:6881&x.pe=192.0.2.1:5&tr=http://www.{tracker}/a&tr=udp://{udp}:1/a&tr=http://t.test/",
            "07".repeat(20)
        );
        let chosen = chosen(&Source::Magnet(Magnet::parse(&link).unwrap()));
        assert!(chosen.has(&peer) && chosen.has(&tracker));
        assert!(!chosen.has(&udp) && !chosen.has(&other) && !chosen.has("t.test"));
    }
}
