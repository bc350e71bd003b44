//! `hushswarm seed`: makes torrents of files or folders, and serves those who come to a hidden seed or an onion service, or who
//! can be reached through circuits.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use futures_util::future::try_join_all;
use hushswarm_circuits::rendezvous::Contact;
use hushswarm_circuits::target::Target;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::allow::{self, Allowed};
use super::connect::{Connected, OverlayArgs};
use super::dht::{DhtArgs, is_hidden};
use super::feed::{self, Published};
use super::limits::LimitArgs;
use super::progress::{Progress as Display, json_line};
use super::relay::Signals;
use super::rendezvous::{self, HiddenSeed, News};
use super::routes::{RoutesArgs, Way};
use super::tor::{ONION_PORT, Onion, OnionOptions, OurTor, service_of_url};
use super::transfer::{Seed, follow_all};
use crate::config::Vanguards;
use crate::dht::Dht;
use crate::error::{Error, Exit, Kind};
use crate::hidden::{DoorChange, Identity, Starts};
use crate::onion::Visitors;
use crate::route::{BoxStream, Outside};
use crate::state::StateDir;
use crate::torrent::engine::{Created, Engine, OnionDoor, Options, Recipe, Sorter, create_with};
use crate::torrent::gossip::OnionPeer;
use crate::torrent::infohash::InfoHash;
use crate::torrent::magnet::Magnet;
use crate::torrent::metainfo::Version;

/// Arguments of `hushswarm seed`.
#[derive(clap::Args)]
pub struct Args {
    /// Files or folders to share, each as a torrent of its own
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// How downloaders and this computer find each other, when neither is to know where the other is: at a relay, or at an onion
    /// service of Tor, which the magnet link names; or by circuits to those whom a tracker or the DHT names, who have to be
    /// reachable [default: rendezvous; with --tracker, circuits]
    #[arg(long, value_name = "WAY", value_enum)]
    over: Option<Over>,
    #[command(flatten)]
    limits: LimitArgs,
    /// With --over rendezvous or tor: keep the keys in memory alone, so that each start has another link and nothing on the disk
    /// tells which it was
    #[arg(long, conflicts_with = "allow")]
    ephemeral: bool,
    /// With --over rendezvous or tor: only the holder of this key finds the seed; may be given several times; "nobody" lets nobody
    /// in yet. Start with "--allow nobody" and hand out the link, with which the downloader runs "hushswarm visitor-key" and
    /// sends you the public key that it prints. Then start again with --allow and that key: the link is the same, since the
    /// seed's own keys are kept. Where a key is left out later, the link is another, which those who are still let in need. It stands in no DHT, and its downloaders share nothing on
    #[arg(long, value_name = "KEY")]
    allow: Vec<Allowed>,
    /// With --over tor: an onion service for each torrent, so that nobody can tell that one host shares them. This is the default
    #[arg(long, conflicts_with = "one_service")]
    unlinkable: bool,
    /// With --over tor: all torrents behind one address. Who has two of the links knows that one host shares both
    #[arg(long)]
    one_service: bool,
    /// With --over tor: as many onion services for each torrent (or for all, with --one-service), all named in its link, so that
    /// it is not held to the introduction points and the pace of one
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    services: u8,
    /// Publish this under a feed of this name: its link stays the same, and leads its readers ("hushswarm get --follow") to whatever was
    /// published under the name last, from this state folder. The feed's keys are made at the first time and kept there; the name is for you alone, and
    /// nobody learns it. With --over rendezvous or circuits, and without --allow
    #[arg(long, value_name = "NAME")]
    feed: Option<String>,
    /// Tracker to announce to, where downloaders are found; may be given several times. Without one, those are found who say in
    /// the DHT that they are downloading
    #[arg(long, value_name = "URL")]
    tracker: Vec<String>,
    /// A server that has the same content, at this URL: it is named in the torrent and its link, and downloaders ask it too, each through a
    /// circuit of its own; may be given several times. That of a folder is the one that holds it, and ends with a slash
    #[arg(long, value_name = "URL", value_parser = web_seed)]
    web_seed: Vec<String>,
    /// For which version of the protocol: v1, which every program takes, and by which the same files have the same link as ever; v2, which
    /// Transmission and aria2 refuse; or hybrid, for both kinds of peers, which Transmission before 4 refuses, and with which some programs
    /// leave files of padding in the folder
    #[arg(long, value_name = "VERSION", value_enum, default_value_t = TorrentVersion::V1)]
    torrent_version: TorrentVersion,
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
    #[command(flatten)]
    dht: DhtArgs,
}

/// For which versions of the protocol a torrent is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum TorrentVersion {
    /// BEP 3.
    V1,
    /// BEP 52.
    V2,
    /// Both.
    Hybrid,
}

impl TorrentVersion {
    fn version(self) -> Version {
        match self {
            Self::V1 => Version::V1,
            Self::V2 => Version::V2,
            Self::Hybrid => Version::Hybrid,
        }
    }
}

/// How downloaders come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Over {
    /// They meet us at a relay, each behind a circuit of three.
    Rendezvous,
    /// Circuits to those whom a tracker or the DHT names.
    Circuits,
    /// An onion service.
    Tor,
}

/// Most hidden seeds of one command: each keeps three circuits to its introduction points, and a guard grants a client 1024 as a rule.
const MAX_HIDDEN: usize = 256;

/// News of hidden seeds that wait to be shown: more than one of each at once says little.
const MAX_NEWS: usize = 2 * MAX_HIDDEN;

/// How often the user is told that there is nothing yet.
const STILL: Duration = Duration::from_secs(30);

/// Most onion services of one command: each keeps circuits to its introduction points.
const MAX_SERVICES: usize = 64;

#[derive(serde::Serialize)]
struct Made {
    magnet: String,
}

#[derive(serde::Serialize)]
struct Warning {
    text: String,
}

impl Args {
    /// How downloaders come. Who names a tracker wants to be found by its peers.
    fn over(&self) -> Over {
        let usual = if self.tracker.is_empty() {
            Over::Rendezvous
        } else {
            Over::Circuits
        };
        self.over.unwrap_or(usual)
    }
}

/// Seeds until a signal.
///
/// # Errors
/// What went wrong and what to do.
pub async fn run(mut args: Args) -> Result<(), Error> {
    let over = args.over();
    if over == Over::Tor {
        // Its trackers are reached the same way, unless told otherwise.
        args.routes.route.get_or_insert(Way::Tor);
    }
    check(&args)?;
    let mut loaded = args.routes.load()?;
    if over == Over::Circuits && args.tracker.is_empty() && args.dht.is_off(&loaded) {
        let what = "nobody would be found: name a --tracker, or look in the DHT, or seed --over rendezvous or tor";
        return Err(Error::new(Kind::Local, what).with_exit(Exit::Usage));
    }
    if args.feed.is_some() && args.dht.is_off(&loaded) {
        return Err(feed::no_dht());
    }
    if over == Over::Tor && !args.ephemeral {
        // A service that is up for long is worth the patience of whoever wants to find it.
        loaded.tor.vanguards.get_or_insert(Vanguards::Full);
    }
    let Connected {
        client,
        state,
        lock: _lock,
        fresh: _fresh,
    } = args.overlay.connect_alone(loaded.without(), &loaded)?;
    if over == Over::Rendezvous {
        rendezvous::require(&client)?;
    }
    let publisher = feed::keep(args.feed.as_deref(), &state)?;
    let mut display = Display::new(args.json);
    display.say("hashing");
    let torrents = make(&args).await?;
    let tor = loaded.tor(&state);
    let services = match over {
        Over::Circuits | Over::Rendezvous => Vec::new(),
        Over::Tor => {
            display.say("waiting for Tor; Ctrl-C stops");
            let mut signals = Signals::new()?;
            tokio::select! {
                services = serve(&args, &torrents, &tor) => services?,
                () = signals.stop() => return Ok(()),
            }
        }
    };
    let mut options = Options::new(state.path().to_owned());
    options.allow_private = loaded.policy.allows_private();
    options.limits.set(args.limits.limits());
    // A service that lets in only some stays among them.
    let open = over != Over::Circuits && args.allow.is_empty();
    options.gossip = open;
    let chosen = args
        .tracker
        .iter()
        .map(String::as_str)
        .filter_map(service_of_url);
    let gate = loaded.gate(&client, &tor, chosen.collect());
    let outside: Arc<dyn Outside> = gate;
    let dht = args.dht.finder(&loaded, Arc::clone(&outside));
    let mut hidden = Vec::new();
    if over == Over::Rendezvous {
        let identities = identities(&args, &torrents, &state, &display)?;
        display.say("taking up introduction points; Ctrl-C stops");
        let mut signals = Signals::new()?;
        let hiding = hide(&args, &torrents, identities, &outside, dht.as_ref());
        tokio::pin!(hiding);
        hidden = loop {
            tokio::select! {
                taken = &mut hiding => break taken?,
                () = signals.stop() => return Ok(()),
                () = sleep(STILL) => display.say("still no introduction point: is this computer online, and does the routes file let circuits be used?"),
            }
        };
    }
    let contact = hidden.first().map(|(seed, _)| seed.contact());
    let publish = |publisher| Published::start(publisher, &torrents, contact, dht.clone());
    let mut published = publisher.map(publish).transpose()?;
    let contacts: Vec<_> = hidden.iter().map(|(_, contact)| contact.clone()).collect();
    let magnets: Vec<Magnet> = magnets(&args, &torrents, &services, &contacts).collect();
    let mut engine = Engine::new(Arc::clone(&outside), options.clone());
    // Who looks a torrent up in public tells the public swarm of a hidden one.
    let concealed = is_hidden(&[], args.tracker.iter().map(String::as_str));
    if over == Over::Circuits
        && !concealed
        && let Some(finder) = dht
    {
        engine = engine.with_finder(finder);
    }
    let named = |torrent: &Created| torrent.metainfo.info.name.clone();
    let names: Vec<String> = torrents.iter().map(named).collect();
    let (mut seeds, mut doors, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
    let mut hidden = hidden.into_iter();
    let mut serving = JoinSet::new();
    let (news, mut came) = mpsc::channel(MAX_NEWS);
    for (number, torrent) in torrents.into_iter().enumerate() {
        let info = &torrent.metainfo.info;
        let (hash, second, name) = (info.hash, info.second_hash(), info.name.clone());
        if over == Over::Rendezvous {
            // What is known in one swarm is not known in another: who tells of one seed in both could see whether they are one's.
            engine = rendezvous::engine(Arc::clone(&outside), options.clone());
        }
        let handle = engine.seed(torrent.metainfo, torrent.folder);
        let door = handle.onion_door();
        // Neither peers nor trackers hear of one that lets in only some.
        let own = services
            .iter()
            .filter(|service| open && service.leads_to(number));
        let own = own.filter_map(|own| OnionPeer::from_target(&own.address));
        door.open(own.collect());
        seconds.extend(second.map(|second| (second, door.clone())));
        doors.push((hash, door));
        let mut gauge = None;
        if let Some((seed, _)) = hidden.next() {
            gauge = Some(seed.gauge());
            let news = news.clone();
            let tell = move |what| {
                // Who reads it reads all of it, unless the program ends.
                let _ = news.try_send((number, what));
            };
            serving.spawn(seed.lead(handle.hidden_door(), tell));
        }
        seeds.push(Seed {
            name,
            handle,
            hidden: gauge,
        });
    }
    for magnet in &magnets {
        show_link(&args, &display, magnet);
    }
    if let Some(published) = &published {
        published.show_link(args.json, &display);
    }
    display.say(match over {
        Over::Rendezvous => "serving those who meet it at a relay; Ctrl-C stops",
        Over::Circuits => "serving those whom a circuit can reach; Ctrl-C stops",
        Over::Tor => "serving those who come to its onion service, from about a minute from now; Ctrl-C stops",
    });
    // Behind those that torrents find by their number.
    doors.extend(seconds);
    for service in services {
        serving.spawn(service.lead(&doors));
    }
    let hear = |display: &mut Display| {
        if let Some(published) = &mut published {
            published.hear(args.json, display);
        }
        while let Ok((number, what)) = came.try_recv() {
            let Some((magnet, name)) = magnets.get(number).zip(names.get(number)) else {
                continue;
            };
            match what {
                News::Moved(contact) => {
                    let mut moved = magnet.clone();
                    moved.seeds = vec![contact];
                    display.say(&format!("{name} is introduced elsewhere now: who has the old link may not find it; the new one:"));
                    show_link(&args, display, &moved);
                }
                News::Nowhere => display.say(&format!(
                    "{name} stands at no introduction point: nobody new can come; it goes on trying"
                )),
                News::Again => display.say(&format!("{name} can be found again")),
            }
        }
    };
    let ended = follow_all(seeds, &client, &tor, &mut display, hear).await;
    // Waited for: what an ephemeral service leaves on the disk goes with it.
    serving.shutdown().await;
    client.close();
    ended
}

/// Tells the user, or the program that reads the output, where a torrent is.
fn show_link(args: &Args, display: &Display, magnet: &Magnet) {
    let magnet = magnet.to_string();
    if args.json {
        json_line("seeding", &Made { magnet });
    } else {
        display.say(&magnet);
    }
}

/// Makes a torrent of each path.
async fn make(args: &Args) -> Result<Vec<Created>, Error> {
    let trackers: Vec<_> = args.tracker.iter().map(|url| vec![url.clone()]).collect();
    let mut torrents: Vec<Created> = Vec::with_capacity(args.paths.len());
    for path in &args.paths {
        let recipe = Recipe {
            trackers: trackers.clone(),
            web_seeds: args.web_seed.clone(),
            version: args.torrent_version.version(),
        };
        let created = create_with(path.clone(), recipe, Arc::default())
            .await
            .map_err(|error| Error::local("can't make a torrent of that").with_source(error))?;
        if let Some(file) = &args.torrent {
            crate::state::write_public(file, &created.file)?;
        }
        let hash = created.metainfo.info.hash;
        if torrents
            .iter()
            .any(|other| other.metainfo.info.hash == hash)
        {
            let same = "two of these are the same torrent";
            return Err(Error::new(Kind::Local, same).with_exit(Exit::Usage));
        }
        torrents.push(created);
    }
    Ok(torrents)
}

/// An onion service, and whose it is.
struct Service {
    onion: Onion,
    address: Target,
    /// Number of its torrent; `None`: of all of them.
    torrent: Option<usize>,
}

impl Service {
    /// Whether who comes to it can have this torrent.
    fn leads_to(&self, torrent: usize) -> bool {
        self.torrent.is_none_or(|own| own == torrent)
    }

    /// Leads those who come to the torrents, for as long as the service runs.
    fn lead(mut self, doors: &[(InfoHash, OnionDoor)]) -> impl Future<Output = ()> + Send + use<> {
        let own = self.torrent.and_then(|number| doors.get(number));
        let mut accept: Box<dyn FnMut(BoxStream) + Send> = match own {
            Some((_, door)) => {
                let door = door.clone();
                Box::new(move |stream| door.accept(stream))
            }
            None => {
                let mut sorter = Sorter::new(doors.iter().cloned());
                Box::new(move |stream| sorter.accept(stream))
            }
        };
        async move {
            while let Some(stream) = self.onion.next().await {
                accept(stream);
            }
        }
    }
}

/// Who the hidden seeds of these torrents are, and whom they let in. The user is told which links are dead for it.
fn identities(
    args: &Args,
    torrents: &[Created],
    state: &StateDir,
    display: &Display,
) -> Result<Vec<Identity>, Error> {
    let guests = allow::of_hidden(&args.allow)?;
    let mut identities = Vec::with_capacity(torrents.len());
    for torrent in torrents {
        let info = &torrent.metainfo.info;
        let mut identity = if args.ephemeral {
            Identity::ephemeral(&mut rand::rng())
        } else {
            Identity::keep(state, &info.hash.0, &mut rand::rng())?
        };
        let what = match identity.let_in(guests.as_ref())? {
            DoorChange::None => None,
            DoorChange::Closed => Some(
                "was open to all, and lets in only those named by --allow from now on: the old link is dead, and they need the new one",
            ),
            DoorChange::Opened => Some(
                "let in only some, and is open to all who have its new link from now on: the old link is dead",
            ),
            DoorChange::Taken => Some(
                "lets in fewer than before, and so stands at other introduction points: the old link is dead, and those who are still let in need the new one",
            ),
        };
        if let Some(what) = what {
            let text = format!("{} {what}", info.name);
            if args.json {
                json_line("warning", &Warning { text });
            } else {
                display.say(&text);
            }
        }
        identities.push(identity);
    }
    Ok(identities)
}

/// Takes up introduction points for each of these torrents, with keys and circuits of its own; gives how each is reached.
async fn hide(
    args: &Args,
    torrents: &[Created],
    identities: Vec<Identity>,
    outside: &Arc<dyn Outside>,
    dht: Option<&Arc<Dht>>,
) -> Result<Vec<(HiddenSeed, Contact)>, Error> {
    let guests = allow::of_hidden(&args.allow)?;
    // Who is let in was told of it; nobody else is to hear.
    let dht = dht.filter(|_| guests.is_none());
    let (mut seeds, starts) = (Vec::with_capacity(torrents.len()), Starts::default());
    for (torrent, identity) in torrents.iter().zip(identities) {
        let hash = &torrent.metainfo.info.hash;
        seeds.push(HiddenSeed::start(
            Arc::clone(outside),
            identity,
            hash,
            dht.cloned(),
            guests.clone(),
            &starts,
        )?);
    }
    let found = seeds.into_iter().map(|mut seed| async {
        let contact = seed.found().await;
        let gone = || Error::new(Kind::Bug, "a hidden seed ended by itself");
        Ok((seed, contact.ok_or_else(gone)?))
    });
    try_join_all(found).await
}

/// Runs the onion services of these torrents.
async fn serve(args: &Args, torrents: &[Created], tor: &OurTor) -> Result<Vec<Service>, Error> {
    let owners: Vec<(String, Option<usize>)> = if args.one_service {
        vec![("seeds".to_owned(), None)]
    } else {
        let torrents = torrents.iter().enumerate();
        let names = torrents.map(|(n, torrent)| (nickname(&torrent.metainfo.info.hash), Some(n)));
        names.collect()
    };
    let mut services = Vec::new();
    for (name, torrent) in owners {
        for number in 0..args.services {
            let nickname = match number {
                0 => name.clone(),
                _ => format!("{name}x{number}"),
            };
            let options = OnionOptions {
                nickname,
                port: ONION_PORT,
                ephemeral: args.ephemeral,
                allow: allow::of_onion(&args.allow)?,
                visitors: Visitors::Peers,
            };
            let onion = tor.serve(&options).await?;
            let address = Target::parse(onion.address(), ONION_PORT);
            let address =
                address.map_err(|error| Error::local("Tor gave no address").with_source(error))?;
            services.push(Service {
                onion,
                address,
                torrent,
            });
        }
    }
    Ok(services)
}

/// A URL that programs can ask for files; whether anybody is there is not looked at.
fn web_seed(url: &str) -> Result<String, String> {
    let parsed = url::Url::parse(url).map_err(|error| error.to_string())?;
    let plain = parsed.username().is_empty() && parsed.password().is_none();
    if !matches!(parsed.scheme(), "http" | "https") || !plain {
        return Err("web seeds have http or https URLs without a user name".to_owned());
    }
    Ok(url.to_owned())
}

/// The magnet links of these torrents.
fn magnets<'a>(
    args: &'a Args,
    torrents: &'a [Created],
    services: &'a [Service],
    hidden: &'a [Contact],
) -> impl Iterator<Item = Magnet> + 'a {
    torrents.iter().enumerate().map(|(number, torrent)| {
        let own = services
            .iter()
            .filter(move |service| service.leads_to(number));
        let info = &torrent.metainfo.info;
        Magnet {
            hash: info.hash,
            v2: info.v2.as_ref().map(|v2| v2.hash),
            name: Some(info.name.clone()),
            trackers: args.tracker.clone(),
            peers: own.map(|service| service.address.clone()).collect(),
            seeds: hidden.get(number).cloned().into_iter().collect(),
            select: None,
            web_seeds: args.web_seed.clone(),
        }
    })
}

/// What the parser of arguments does not see.
fn check(args: &Args) -> Result<(), Error> {
    let wrong = |what: &str| Err(Error::new(Kind::Local, what).with_exit(Exit::Usage));
    let over = args.over();
    let onion = args.unlinkable || args.one_service || args.services > 1;
    if over != Over::Tor && onion {
        return wrong(
            "--unlinkable, --one-service and --services are about an onion service: add --over tor",
        );
    }
    match over {
        Over::Rendezvous => drop(allow::of_hidden(&args.allow)?),
        Over::Tor => drop(allow::of_onion(&args.allow)?),
        Over::Circuits if args.allow.is_empty() => {}
        Over::Circuits => {
            return wrong(
                "--allow is about who comes to a hidden seed or an onion service: add --over rendezvous or --over tor",
            );
        }
    }
    if over == Over::Circuits && args.ephemeral {
        return wrong("--ephemeral is about keys: add --over rendezvous or --over tor");
    }
    if over == Over::Rendezvous && !args.tracker.is_empty() {
        return wrong(
            "a hidden seed tells no tracker of itself: leave --tracker out, or seed --over circuits",
        );
    }
    if over == Over::Rendezvous && args.overlay.hops != 3 {
        return wrong(
            "a hidden seed stands behind three relays: leave --hops out, or choose another --over",
        );
    }
    if over == Over::Rendezvous && args.paths.len() > MAX_HIDDEN {
        return wrong(&format!(
            "more than {MAX_HIDDEN} hidden seeds: share fewer torrents at a time"
        ));
    }
    if over == Over::Tor
        && !args.one_service
        && args.paths.len().saturating_mul(usize::from(args.services)) > MAX_SERVICES
    {
        return wrong(&format!(
            "more than {MAX_SERVICES} onion services: share fewer torrents, or put them behind one address with --one-service"
        ));
    }
    if args.feed.is_some() {
        let closed = !args.allow.is_empty();
        feed::check(over == Over::Tor, args.ephemeral, closed, args.paths.len())?;
    }
    if args.paths.len() > 1 && args.torrent.is_some() {
        return wrong("--torrent names one file: share one PATH at a time with it");
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn web_seeds_are_urls_that_programs_can_ask_for_files() {
        for url in ["http://a.example/", "https://b.example/x/y.iso"] {
            assert_eq!(web_seed(url).unwrap(), url);
        }
        for url in [
            "",
            "a.example",
            "ftp://a.example/",
            "http://user:pass@a.example/",
        ] {
            assert!(web_seed(url).is_err(), "{url}");
        }
    }
}
