//! `hushswarm get`: downloads a torrent through circuits, or what a feed names.

mod feed;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hushswarm_circuits::path::MAX_HOPS;
use hushswarm_circuits::target::{Host, Target};
use indicatif::BinaryBytes;
use serde::Serialize;

use super::connect::{Connected, OverlayArgs, Without};
use super::dht::{DhtArgs, is_hidden};
use super::progress::{Progress as Display, duration, json_line};
use super::rendezvous::{self, Meetings};
use super::routes::{Loaded, RoutesArgs};
use super::tor::{HAS_TOR, ONION_PORT, OnionOptions, OurTor, has_visitor_key, service_of_url};
use super::transfer::follow;
use crate::config::RouteAction;
use crate::error::{Error, Exit, Kind};
use crate::onion::{Chosen, OnionKey, Visitors};
use crate::overlay::client::Client;
use crate::route::Outside;
use crate::route::special::Place;
use crate::state::StateDir;
use crate::torrent::engine::{
    Encryption, Engine, Job, OnionDoor, Options, Progress, Source, State,
};
use crate::torrent::feed::FeedLink;
use crate::torrent::gossip::OnionPeer;
use crate::torrent::magnet::Magnet;
use crate::torrent::metainfo::{MAX_TORRENT, Metainfo};
use crate::torrent::select::Selection;

/// When streams to public peers are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum When {
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
    /// Magnet link or .torrent file, or the link of a feed, of which the newest version is downloaded; "-" reads a magnet link from standard input, where no other user of this computer
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
    /// Take the room on the disk before the download begins, so that it can't become full meanwhile. By default files take up what has
    /// come of them
    #[arg(long)]
    preallocate: bool,
    /// Overwrite files of the same name that are not this torrent's
    #[arg(long)]
    overwrite: bool,
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
    let source = read_source(&text)?;
    let select = selection(&args.only)?;
    let routes = args.routes.load()?;
    let Connected {
        client,
        state,
        lock: _lock,
        fresh: _fresh,
    } = args
        .overlay
        .connect_alone(without(&source, &routes), &routes)?;
    let mut display = Display::new(args.json);
    if FeedLink::is_beside_torrent(&text) {
        display.say("the link names a torrent and the feed that it is from: the torrent is taken, and the feed is not followed; for its newest version, leave \"xt=\" out of the link");
    }
    if args.overlay.hops == 1 {
        display.say("with one hop, that relay sees both your address and whom you download from");
    }
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
    };
    let done = download(work, &client, &state, &mut display).await?;
    if args.json {
        json_line("done", &done);
    } else {
        display.say(&format!("{}: {}", done.path.display(), done.summary()));
    }
    Ok(())
}

/// What names onion services needs no relay list.
fn without(source: &Source, routes: &Loaded) -> Without {
    match source {
        Source::Magnet(magnet) if magnet.peers.iter().any(Place::is_onion) => Without::Tor,
        _ if trackers(source).any(|url| service_of_url(url).is_some()) => Without::Tor,
        Source::Magnet(_) | Source::Metainfo(_) => routes.without(),
    }
}

fn trackers(source: &Source) -> Box<dyn Iterator<Item = &str> + '_> {
    match source {
        Source::Magnet(magnet) => Box::new(magnet.trackers.iter().map(String::as_str)),
        Source::Metainfo(metainfo) => {
            Box::new(metainfo.trackers.iter().flatten().map(String::as_str))
        }
    }
}

fn peers(source: &Source) -> &[Target] {
    match source {
        Source::Magnet(magnet) => &magnet.peers,
        Source::Metainfo(_) => &[],
    }
}

/// The onion services that this names: whoever takes it has chosen them.
fn chosen(source: &Source) -> Chosen {
    let peers = peers(source).iter().filter_map(|peer| match &peer.host {
        Host::Name(name) => OnionKey::of_host(name.as_str()),
        Host::Ip(_) => None,
    });
    peers
        .chain(trackers(source).filter_map(service_of_url))
        .collect()
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
    let onions = onions(&work, state)?;
    let chosen = chosen(&work.source);
    let mut source = work.source;
    let may_share = work.share && rendezvous::is_possible(client);
    let mut meetings = Meetings::of(&mut source, may_share, work.hidden_only);
    let concealed = is_hidden(peers(&source), trackers(&source));
    meetings.admit(&mut source, state)?;
    // Nor is what comes from those who let in only some shared by an onion service.
    let onions = if onions != Onions::None && meetings.is_closed() {
        Onions::Closed
    } else {
        onions
    };
    display.say(which_peers(
        meetings.only(),
        concealed,
        client.list().is_none(),
    ));
    if meetings.left_out() > 0 {
        display.say("trackers and public peers are left out, so that nobody in public hears of it");
    }
    if meetings.only() && client.hops() != MAX_HOPS {
        display.say("hidden seeds are met behind three relays: leave --hops out, or none of them is reached");
    }
    if meetings.shares() {
        display.say("sharing what has come, as a hidden seed of its own; --no-share stops that");
    }
    match onions {
        Onions::None if meetings.is_closed() => {
            tracing::warn!(
                "sharing nothing: a peer of this link lets in only those whose key it knows"
            );
        }
        Onions::None | Onions::Taken => {}
        Onions::Shared => display
            .say("sharing what has come, as an onion service of its own; --no-share stops that"),
        Onions::Closed => tracing::warn!(
            "sharing nothing: a peer of this link lets in only those whose key it knows"
        ),
    }
    let job = Job {
        source,
        output: work.output.clone(),
        seed_after: work.seed,
        overwrite: work.overwrite,
    };
    let mut options = Options::new(state.path().to_owned());
    options.allow_private = work.routes.policy.allows_private();
    options.encryption = work.encryption;
    options.preallocate = work.preallocate;
    options.gossip = match onions {
        Onions::Shared | Onions::Taken => true,
        Onions::Closed => false,
        Onions::None => meetings.only() && !meetings.is_closed(),
    };
    let gate = work.routes.gate(client, &tor, chosen);
    // By Tor alone, no datagrams and no lookups leave.
    let dht = work.dht.filter(|_| !client.list().is_none());
    let outside: Arc<dyn Outside> = gate;
    let dht = dht.and_then(|dht| dht.finder(&work.routes, Arc::clone(&outside)));
    meetings.look_in(dht.clone(), client)?;
    // Who looks a torrent up in public tells the public swarm of a hidden one.
    let finder = dht.filter(|_| onions == Onions::None && !concealed && !meetings.only());
    options.seeds = Some(meetings.book());
    let outside = meetings.route(outside);
    let mut engine = Engine::new(Arc::clone(&outside), options);
    if let Some(finder) = finder {
        engine = engine.with_finder(finder);
    }
    let handle = engine.download_only(job, work.select);
    let (door, hidden_door) = (handle.onion_door(), handle.hidden_door());
    let followed = follow(handle, client, &tor, display, until);
    let sharing = async {
        if onions == Onions::Shared {
            share(&tor, &door).await;
        }
        std::future::pending().await
    };
    let meeting = async {
        meetings.run(outside, hidden_door).await;
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = followed => ended,
        ended = sharing => ended,
        ended = meeting => ended,
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

/// Whom a download has to do with, for the user.
fn which_peers(only_hidden: bool, hidden: bool, by_tor: bool) -> &'static str {
    match (only_hidden, hidden, by_tor) {
        (true, _, _) => "peers: hidden ones only",
        (false, true, _) => {
            "peers: hidden ones, and public ones where they are named; --hidden-only leaves those out"
        }
        (false, false, true) => "peers: public ones, through Tor",
        (false, false, false) => "peers: public ones, through circuits",
    }
}

/// What a download has to do with onion peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Onions {
    /// Nothing.
    None,
    /// It takes from them.
    Taken,
    /// It takes from them, and is one.
    Shared,
    /// It takes from one that lets in only some: others are not let in by us, nor told of it.
    Closed,
}

fn onions(work: &Work, state: &StateDir) -> Result<Onions, Error> {
    let tracker = trackers(&work.source).any(|url| service_of_url(url).is_some());
    let mut peers = Vec::new();
    match &work.source {
        Source::Magnet(magnet) => {
            peers.extend(magnet.peers.iter().filter_map(OnionPeer::from_target));
        }
        // Only its tracker tells who its peers are.
        Source::Metainfo(metainfo) if metainfo.info.private && !tracker => {
            return Ok(Onions::None);
        }
        Source::Metainfo(_) => {}
    }
    let any =
        !peers.is_empty() || tracker || work.routes.policy.default_action() == RouteAction::Tor;
    if !any || !HAS_TOR {
        return Ok(Onions::None);
    }
    for peer in &peers {
        if has_visitor_key(state, &peer.host())? {
            return Ok(Onions::Closed);
        }
    }
    Ok(if work.share {
        Onions::Shared
    } else {
        Onions::Taken
    })
}

/// Runs an onion service until one is met that lets in only some, or for ever. What goes wrong stops no download.
async fn share(tor: &OurTor, door: &OnionDoor) {
    let options = OnionOptions {
        nickname: "share".to_owned(),
        port: ONION_PORT,
        ephemeral: true,
        allow: Vec::new(),
        visitors: Visitors::Peers,
    };
    let serving = async {
        let mut onion = match tor.serve(&options).await {
            Ok(onion) => onion,
            Err(error) => {
                tracing::warn!(%error, "nothing is shared, since no onion service of its own can be had");
                return;
            }
        };
        if let Some(own) = OnionPeer::parse(onion.address(), ONION_PORT) {
            door.open(vec![own]);
        }
        while let Some(stream) = onion.next().await {
            door.accept(stream);
        }
    };
    tokio::select! {
        () = serving => {}
        () = tor.key_needed() => tracing::warn!("sharing nothing any more: an onion peer lets in only some"),
    }
    door.close();
}

/// This argument; where it is "-", the first line of standard input.
///
/// # Errors
/// There is none: tell the user.
pub fn argument(text: &str) -> Result<String, Error> {
    if text != "-" {
        return Ok(text.to_owned());
    }
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|source| Error::local("can't read standard input").with_source(source))?;
    Ok(line.trim().to_owned())
}

/// The files that `--only` names.
fn selection(only: &[String]) -> Result<Selection, Error> {
    Selection::parse(only.iter().map(String::as_str)).ok_or_else(|| {
        let what = "--only takes numbers as in 0,2,4-8, the first file being 0, or a pattern such as \"*.txt\"";
        Error::new(Kind::Local, what).with_exit(Exit::Usage)
    })
}

/// Reads a magnet link or a torrent file.
///
/// # Errors
/// It is neither: tell the user.
pub fn read_source(text: &str) -> Result<Source, Error> {
    let bad = |message: String| Error::new(Kind::Local, message).with_exit(Exit::BadTorrent);
    let text = &argument(text)?;
    if text
        .get(..7)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("magnet:"))
    {
        let magnet = Magnet::parse(text).map_err(|error| bad(error.to_string()))?;
        return Ok(Source::Magnet(magnet));
    }
    let bytes = crate::config::read_file(Path::new(text), MAX_TORRENT).map_err(|error| {
        bad("that is no magnet link, and no torrent file that can be read".to_owned())
            .with_source(error)
            .with_hint("quote the magnet link, since \"&\" means something to the shell: hushswarm get \"magnet:?xt=...\"")
    })?;
    let metainfo = Metainfo::parse(&bytes).map_err(|error| bad(error.to_string()))?;
    Ok(Source::Metainfo(metainfo))
}

#[cfg(test)]
mod tests {
    use super::*;

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
