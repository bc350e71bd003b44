//! `hushswarm relay`: runs the relay whose keys `hushswarm network relay-keys` made.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hushswarm_circuits::relay_list::{Descriptor, RelayList};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use super::tor::{OnionOptions, OurTor, TorArgs};
use crate::config::{
    LINK_SERVICE_PORT, MAX_RELAY_FILE_LEN, NetworkFile, RELAY_CONFIG_FILE, RelayConfig, TorFile,
    unix_now,
};
use crate::error::{Error, Exit};
use crate::net::os::{LinkListener, OsDialer};
use crate::onion::{OnionKey, Visitors};
use crate::relay::limits::Limits;
use crate::relay::{Door, Keys, Options, Relay};
use crate::state::{RelayKeys, StateDir};

/// Circuits get this long to end by themselves after the first signal.
const GRACE: Duration = Duration::from_secs(30);
/// How often the relay list's file is looked at for a newer one.
const LIST_LOOK: Duration = Duration::from_secs(60);
/// How long to wait before an onion service that ended is started again.
const ONION_REST: Duration = Duration::from_secs(10);
/// The descriptor's file in the state folder.
pub const DESCRIPTOR_FILE: &str = "descriptor";

/// How long to wait where Tor needs the operator.
const ONION_RETRY: Duration = Duration::from_secs(60);
/// The name of a relay's onion service in Tor's folder.
pub const LINK_SERVICE: &str = "link";

/// Arguments of `hushswarm relay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder with the relay's keys, descriptor and relay.toml
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Network file, as made by "hushswarm network file"
    #[arg(long, value_name = "FILE")]
    network: PathBuf,
    /// Address that connections to other relays and to targets leave from
    #[arg(long, value_name = "IP")]
    source: Option<IpAddr>,
    /// Seconds that circuits get to end by themselves when the relay is told to stop
    #[arg(long, value_name = "SECONDS", default_value_t = GRACE.as_secs())]
    grace: u64,
    #[command(flatten)]
    tor: TorArgs,
}

/// Runs until a signal.
///
/// # Errors
/// What is missing or wrong, and what to do.
pub async fn run(args: Args, out: &mut (dyn Write + Send)) -> Result<(), Error> {
    let dir = StateDir::open(&args.state)?;
    let _lock = dir.lock()?;
    let keys = RelayKeys::load(&dir)?.ok_or_else(|| not_made(&args.state))?;
    let config = load_config(&dir)?;
    let descriptor = load_descriptor(&dir, &args.state)?;
    let service = descriptor.link_service;
    let tor_file = TorFile::load(args.tor.tor.as_deref())?;
    let (network, list) = NetworkFile::load(&args.network, unix_now())?;
    let list = Arc::new(list);
    if list
        .get(&descriptor.identity)
        .is_none_or(|own| own.digest() != descriptor.digest())
    {
        warn!(
            "this relay's descriptor is not in the relay list, so nobody can use it: have the list signed with it"
        );
    }
    let listeners = config
        .listen
        .iter()
        .map(|addr| {
            LinkListener::bind(*addr).map_err(|source| {
                Error::local(format!("can't listen on {addr}: {source}")).with_hint(
                    "is another relay running there? the address must be this computer's own",
                )
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let options = Options {
        descriptor,
        keys: Keys {
            identity: Arc::new(keys.identity),
            onion: keys.onion,
            link: keys.link,
        },
        list: Arc::clone(&list),
        listeners,
        exit_source: args.source,
        limits: limits(&config),
        dht: config.dht.clone(),
        meetings: config.introductions,
    };
    // Listened for before anybody is told that the relay is there: a signal must not kill it from then on.
    let mut signals = Signals::new()?;
    let relay = Relay::start(options, Arc::new(OsDialer::new(args.source)));
    let places: Vec<String> = relay.addrs().iter().map(ToString::to_string).collect();
    let said = writeln!(
        out,
        "relay {} listens on {}",
        config.nickname,
        places.join(", ")
    )
    .and_then(|()| out.flush());
    said.map_err(|source| Error::local("can't write to the terminal").with_source(source))?;
    if let Some(service) = service {
        let tor = OurTor::new(tor_file, &dir);
        // It runs to the end: when the relay stops, its door is closed, and links that came through it go on for a while as
        // all others do.
        tokio::spawn(serve_onion(tor, OnionKey(service.key), relay.door()));
    }
    serve(&relay, &network, &list, &args.network, &mut signals).await;
    info!("stopping: new circuits are refused");
    tokio::select! {
        () = relay.stop(Duration::from_secs(args.grace)) => {}
        // A second signal means now.
        () = signals.stop() => {}
    }
    Ok(())
}

/// Answers links that come through the onion service whose key the descriptor names. What is wrong with it is told, and the
/// relay goes on serving those who come by TCP.
async fn serve_onion(tor: OurTor, key: OnionKey, door: Door) {
    let options = OnionOptions {
        nickname: LINK_SERVICE.to_owned(),
        port: LINK_SERVICE_PORT,
        ephemeral: false,
        allow: Vec::new(),
        visitors: Visitors::Links,
    };
    loop {
        let mut onion = match tor.serve(&options).await {
            Ok(onion) => onion,
            Err(error) => {
                // A clock, a full disk: the operator mends it, and need not start the relay again for it.
                warn!(%error, "no links come through Tor, which is tried again every minute; those by TCP do");
                tokio::time::sleep(ONION_RETRY).await;
                continue;
            }
        };
        if OnionKey::parse(onion.address()) != Some(key) {
            warn!(
                "the descriptor names another onion service than the one whose key is in the state folder, so nobody finds it: make a descriptor anew with \"hushswarm network relay-keys --onion\", or put the folder \"tor\" back"
            );
        }
        info!("takes links at its onion service");
        while let Some(transport) = onion.next_link().await {
            door.accept(transport);
        }
        warn!("the onion service has ended: it is started again");
        tokio::time::sleep(ONION_REST).await;
    }
}

/// Keeps the list fresh until the relay is told to stop.
async fn serve(
    relay: &Relay,
    network: &NetworkFile,
    first: &Arc<RelayList>,
    path: &Path,
    signals: &mut Signals,
) {
    let mut held = Arc::clone(first);
    let mut seen = modified(&network.list);
    loop {
        let told = tokio::select! {
            _ = signals.term.recv() => return,
            _ = signals.int.recv() => return,
            _ = signals.hangup.recv() => true,
            () = tokio::time::sleep(LIST_LOOK) => false,
        };
        let now = modified(&network.list);
        if !told && now == seen {
            continue;
        }
        seen = now;
        match NetworkFile::load(path, unix_now()) {
            Ok((_, list)) if list.replaces(&held) && list.bytes() != held.bytes() => {
                held = Arc::new(list);
                relay.set_list(Arc::clone(&held));
                info!(relays = held.relays().len(), "took a newer relay list");
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "the new relay list is not used"),
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|meta| meta.modified()).ok()
}

/// The signals that a relay acts on.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self, Error> {
        let listen = |kind| {
            signal(kind)
                .map_err(|source| Error::local("can't listen for signals").with_source(source))
        };
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits until the relay is told to stop.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

fn not_made(state: &Path) -> Error {
    Error::local(format!("{} holds no relay", state.display()))
        .with_hint("make its keys first: hushswarm network relay-keys --state DIR --nickname NAME --listen IP:PORT")
}

fn load_config(dir: &StateDir) -> Result<RelayConfig, Error> {
    let path = dir.path_of(RELAY_CONFIG_FILE)?;
    let text = dir
        .read(RELAY_CONFIG_FILE, MAX_RELAY_FILE_LEN)?
        .ok_or_else(|| not_made(dir.path()))?;
    let text = String::from_utf8(text)
        .map_err(|_| Error::local(format!("{} is not text", path.display())))?;
    Ok(RelayConfig::parse(&text, &path)?)
}

fn load_descriptor(dir: &StateDir, state: &Path) -> Result<Descriptor, Error> {
    let bytes = dir
        .read(DESCRIPTOR_FILE, MAX_RELAY_FILE_LEN)?
        .ok_or_else(|| not_made(state))?;
    let descriptor = Descriptor::decode(&bytes).map_err(|error| {
        Error::local(format!(
            "the descriptor in {} is damaged: {error}",
            state.display()
        ))
    })?;
    if descriptor.expires <= unix_now() {
        return Err(Error::local("this relay's descriptor has expired")
            .with_exit(Exit::NoNetwork)
            .with_hint("make a fresh one with \"hushswarm network relay-keys\" and have the list signed with it"));
    }
    Ok(descriptor)
}

fn limits(config: &RelayConfig) -> Limits {
    let defaults = Limits::default();
    let links = config.limits.links.get() as usize;
    Limits {
        links,
        // However few there are: half of them stay with those who come by TCP.
        links_by_onion: defaults.links_by_onion.min(links.div_ceil(2)),
        circuits: config.limits.circuits.get() as usize,
        streams: config.limits.streams.get() as usize,
        handshakes: config.limits.handshakes_per_second,
        ..defaults
    }
}
