//! The arti client: its configuration, its start, and streams. Its type is generic, and costs compile time wherever it is used: here
//! and in `service.rs`, and behind neither of them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arti_client::config::pt::TransportConfigBuilder;
use arti_client::config::{BridgeConfigBuilder, CfgPath, TorClientConfigBuilder, dir::FallbackDir};
use arti_client::isolation::IsolationHelper;
use arti_client::status::BootstrapEvents;
use arti_client::{
    BootstrapBehavior, DormantMode, InertTorClient, StreamPrefs, TorClient, TorClientConfig,
};
use futures_util::StreamExt as _;
use hushswarm_circuits::isolation::Isolation;
use tokio::sync::watch;
use tor_config::{BoolOrAuto, ExplicitOrAuto, PaddingLevel};
use tor_guardmgr::VanguardMode;
use tor_hscrypto::pk::HsId;
use tor_llcrypto::pk::ed25519::Ed25519Identity;
use tor_llcrypto::pk::rsa::RsaIdentity;
use tor_rtcompat::{CompoundRuntime, PreferredRuntime};

use super::progress::Start;
use super::uses::Use;
use super::{TorError, TorStatus, TorStream, passing};
use crate::config::{OwnTorNetwork, TorFile, Vanguards};
use crate::net::os::TorSockets;
use crate::onion::OnionKey;

/// How long a stream may take to open: onion services need several circuits for one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait for the lock on the folder, which a process that ends may still hold.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// Arti's own state folder, below ours; its keys are in [`KEYS`] below it.
pub(super) const STATE: &str = "state";
/// Where arti keeps keys.
pub(super) const KEYS: &str = "keystore";
/// Memory for all queues, bytes.
const MAX_QUEUES: usize = 256 << 20;
/// Circuits are not given new streams after this time, seconds, unless their owner still uses them.
const DIRTY: Duration = Duration::from_secs(600);

/// How often it is looked whether a start gets any further.
const TICK: Duration = Duration::from_secs(2);

const NO_TOKIO: TorError = TorError::NoTor("it needs tokio");

type Own = PreferredRuntime;
/// Arti's runtime with our sockets instead of its own.
type Runtime = CompoundRuntime<Own, Own, Own, TorSockets, Own, Own, TorSockets>;
/// The arti client.
pub(super) type Client = Arc<TorClient<Runtime>>;

/// Whom a stream belongs to. Unlike arti's own tokens, it keeps a circuit for as long as it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner(Isolation);

impl IsolationHelper for Owner {
    fn compatible_same_type(&self, other: &Self) -> bool {
        self == other
    }

    fn join_same_type(&self, other: &Self) -> Option<Self> {
        (self == other).then_some(*self)
    }

    fn enables_long_lived_circuits(&self) -> bool {
        true
    }
}

/// Makes a client that has sent nothing yet, and tells its progress from now on.
pub(super) async fn open(
    file: &TorFile,
    folder: &Path,
    sockets: TorSockets,
    status: Arc<watch::Sender<TorStatus>>,
) -> Result<Client, TorError> {
    // Where several could be chosen, rustls panics unless one is installed. Somebody may have done so.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = config(file, folder)?;
    passing::sweep(folder);
    let bridges = !file.bridges.is_empty();
    let sockets = if bridges {
        to_bridges_alone(sockets, file)
    } else {
        sockets
    };
    let builder = TorClient::with_runtime(runtime(sockets)?)
        .config(config)
        .bootstrap_behavior(BootstrapBehavior::Manual)
        .local_resource_timeout(LOCK_TIMEOUT);
    let made = builder.create_unbootstrapped_async().await;
    let client: Client = made.map_err(|error| TorError::from_arti(&error))?;
    tokio::spawn(tell(client.bootstrap_events(), bridges, status));
    Ok(client)
}

/// Tells how far it is while it starts, also when nothing changes any more.
async fn tell(mut events: BootstrapEvents, bridges: bool, status: Arc<watch::Sender<TorStatus>>) {
    let starting = |status: &TorStatus| matches!(status, TorStatus::Starting { .. });
    let mut start = Start::new(bridges);
    let mut last = None;
    loop {
        let next = if starting(&status.borrow()) {
            tokio::time::timeout(TICK, events.next()).await
        } else {
            start.reset();
            Ok(events.next().await)
        };
        match next {
            Ok(Some(now)) => last = Some(now),
            Ok(None) => return,
            // Nothing has changed.
            Err(_) => {}
        }
        let Some(news) = last.as_ref().and_then(|now| start.tell(now)) else {
            continue;
        };
        status.send_if_modified(|status| {
            let changed = starting(status) && *status != news;
            if changed {
                *status = news;
            }
            changed
        });
    }
}

/// The keys alone: it can't connect, and needs no lock on the folder.
pub(super) fn inert(folder: &Path) -> Result<InertTorClient, TorError> {
    let own = PreferredRuntime::current().map_err(|_| NO_TOKIO)?;
    let builder = TorClient::with_runtime(own).config(config(&TorFile::default(), folder)?);
    let made = builder.create_inert();
    made.map_err(|error| TorError::from_arti(&error))
}

/// Sockets for these bridges and for the programs of their transports, and for nothing else.
fn to_bridges_alone(sockets: TorSockets, file: &TorFile) -> TorSockets {
    let plain = file
        .bridges
        .iter()
        .filter(|bridge| bridge.transport.is_none());
    let plain = plain.filter_map(|bridge| bridge.address).collect();
    sockets.only_to(plain, !file.transports.is_empty())
}

fn runtime(sockets: TorSockets) -> Result<Runtime, TorError> {
    let own = PreferredRuntime::current().map_err(|_| NO_TOKIO)?;
    Ok(CompoundRuntime::new(
        own.clone(),
        own.clone(),
        own.clone(),
        sockets.clone(),
        own.clone(),
        own,
        sockets,
    ))
}

/// Connects and fetches the directory.
pub(super) async fn start(client: &Client) -> Result<(), TorError> {
    let started = client.bootstrap().await;
    started.map_err(|error| TorError::from_arti(&error))
}

/// Lets it rest: its periodic tasks, its padding. It is woken by [`wake`].
pub(super) fn rest(client: &Client) {
    client.set_dormant(DormantMode::Soft);
}

/// Ends its rest.
pub(super) fn wake(client: &Client) {
    client.set_dormant(DormantMode::Normal);
}

/// Opens a stream.
pub(super) async fn connect(
    client: &Client,
    host: &str,
    port: u16,
    isolation: Isolation,
    used: Use,
) -> Result<TorStream, TorError> {
    let mut prefs = StreamPrefs::new();
    prefs.connect_to_onion_services(BoolOrAuto::Explicit(true));
    prefs.set_isolation(Owner(isolation));
    let opened = client.connect_with_prefs((host, port), &prefs).await;
    opened
        .map(|stream| TorStream::new(stream).with_use(used))
        .map_err(|error| TorError::from_arti(&error))
}

/// Whether we have a key for the onion service of this host. One that can't be read counts.
pub(super) fn has_key(client: &Client, host: &str) -> bool {
    OnionKey::of_host(host).is_some_and(|service| {
        let key = client.get_service_discovery_key(HsId::from(service.0));
        !matches!(key, Ok(None))
    })
}

fn config(file: &TorFile, folder: &Path) -> Result<TorClientConfig, TorError> {
    const WRONG: TorError = TorError::NoTor(
        "~/.config/hushswarm/tor.toml names something that Tor does not know: a bridge line?",
    );
    let mut config =
        TorClientConfigBuilder::from_directories(folder.join(STATE), folder.join("cache"));
    if let Some(network) = &file.network {
        own_network(&mut config, network);
    }
    if !file.bridges.is_empty() {
        config.bridges().enabled(BoolOrAuto::Explicit(true));
    }
    for bridge in &file.bridges {
        let bridge: BridgeConfigBuilder = bridge.line.parse().map_err(|_| WRONG)?;
        config.bridges().bridges().push(bridge);
    }
    for transport in &file.transports {
        let protocols = transport.protocols.iter().map(|name| name.parse());
        let protocols = protocols
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| WRONG)?;
        let path = CfgPath::new_literal(&transport.path);
        let mut made = TransportConfigBuilder::default();
        made.protocols(protocols)
            .path(path)
            .arguments(transport.arguments.clone())
            .run_on_startup(false);
        config.bridges().transports().push(made);
    }
    let vanguards = match file.vanguards {
        Some(Vanguards::Off) => VanguardMode::Disabled,
        Some(Vanguards::Lite) | None => VanguardMode::Lite,
        Some(Vanguards::Full) => VanguardMode::Full,
    };
    let vanguards = ExplicitOrAuto::Explicit(vanguards);
    config.vanguards().mode(vanguards);
    config.channel().padding(PaddingLevel::Normal);
    config.system().memory().max(MAX_QUEUES);
    config
        .circuit_timing()
        .max_dirtiness(DIRTY)
        .request_timeout(CONNECT_TIMEOUT);
    config.stream_timeouts().connect_timeout(CONNECT_TIMEOUT);
    config.build().map_err(|_| WRONG)
}

/// A network whose relays are all on this computer, as tests make it.
fn own_network(config: &mut TorClientConfigBuilder, network: &OwnTorNetwork) {
    let authorities = network.authorities.iter().map(|id| RsaIdentity::from(*id));
    config
        .tor_network()
        .authorities()
        .set_v3idents(authorities.collect());
    let fallbacks = network.fallbacks.iter().map(|fallback| {
        let mut made = FallbackDir::builder();
        made.rsa_identity(fallback.rsa.into());
        made.ed_identity(Ed25519Identity::from(fallback.ed25519));
        made.orports().push(fallback.address);
        made
    });
    config
        .tor_network()
        .set_fallback_caches(fallbacks.collect());
    // Its relays may share an address: prefixes longer than an address switch the rule off.
    config
        .path_rules()
        .ipv4_subnet_family_prefix(33)
        .ipv6_subnet_family_prefix(129);
    config.address_filter().allow_local_addrs(true);
    let params = network
        .params
        .iter()
        .map(|(name, value)| (name.clone(), *value));
    config.override_net_params().extend(params);
}
