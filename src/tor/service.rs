//! Onion services: others come to us through Tor, and neither they nor its relays learn where we are.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arti_client::config::CfgPathResolver;
use fs_mistrust::Mistrust;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use safelog::DisplayRedacted as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tor_cell::relaycell::msg::{Connected, End};
use tor_config::mistrust::BuilderExt as _;
use tor_hsservice::config::{OnionServiceConfigBuilder, TokenBucketConfig};
use tor_hsservice::{OnionServiceConfig, RendRequest, RunningOnionService, StreamRequest};
use tor_keymgr::{
    ArtiEphemeralKeystore, ArtiNativeKeystore, KeyMgr, KeyMgrBuilder, Keystore, KeystoreSelector,
};
use tor_persist::state_dir::StateDirectory;
use tor_proto::stream::IncomingStreamRequest;

use super::client::{Client, KEYS, STATE};
use super::passing::Passing;
use super::uses::Use;
use super::{Tor, TorError, TorStream, VisitorKey};
use crate::onion::{OnionKey, Visitors};

/// Visitors that are met at the same time. More wait, as the introduction point lets them.
const MAX_VISITORS: usize = 128;
/// The same at a relay, each of whose clients is a visitor for as long as its link lives.
const MAX_LINK_VISITORS: usize = 1024;
/// Streams of one visitor: a peer needs one, and some for a second try.
const MAX_STREAMS: u32 = 8;
/// Streams that wait to be taken.
const MAX_WAITING: usize = 64;
/// Introductions a second, and at once, that each introduction point passes on.
const INTRODUCTIONS: (u32, u32) = (20, 60);
/// Introduction points: one more than usual, since relays of ours come and go no less than others'.
const INTRODUCTION_POINTS: u8 = 4;
/// A visitor without a stream keeps its place for so long. A service's places are few, and whoever is there for nothing takes one
/// from another.
const IDLE_VISITOR: Duration = Duration::from_secs(60);
/// How long meeting a visitor may take.
const MEETING_TIMEOUT: Duration = Duration::from_secs(60);

/// Most visitors' keys: each takes place in the service's descriptor, which has room for about 160.
pub const MAX_VISITOR_KEYS: usize = 100;

const WRONG: TorError = TorError::NoTor("its onion service can't be set up like this");

/// What an onion service is like; of visitors' keys at most [`MAX_VISITOR_KEYS`].
pub type OnionOptions = crate::onion::OnionOptions<VisitorKey>;

/// A running onion service. Dropping it ends it; its key stays in Tor's folder, unless it is ephemeral.
pub struct OnionService {
    address: String,
    streams: mpsc::Receiver<TorStream>,
    task: AbortHandle,
    _running: Arc<RunningOnionService>,
    /// Tor does not rest meanwhile.
    _used: Use,
    /// After the service, which writes there.
    _passing: Option<Passing>,
}

impl OnionService {
    /// `<56 characters>.onion`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The next stream that somebody opened to the service's port; `None` when the service has ended.
    pub async fn next(&mut self) -> Option<TorStream> {
        self.streams.recv().await
    }
}

impl Drop for OnionService {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for OnionService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnionService")
    }
}

impl Tor {
    /// Runs an onion service with one port. Services of different nicknames (letters and digits) have different addresses,
    /// and nothing links them; the same nickname finds its key again.
    ///
    /// # Errors
    /// Tor can't be started now, or another service of this name runs in this folder.
    pub async fn serve(&self, options: &OnionOptions) -> Result<OnionService, TorError> {
        let used = self.shared.uses.begin();
        let client = self.started().await?;
        launch(client, &self.shared.folder, options, used)
    }
}

/// The key of the onion service of this name in Tor's folder, which is its address: the one that is there, or a new one.
/// Nothing is sent, and no Tor has to run.
///
/// # Errors
/// The folder can't be used: tell the user.
pub fn service_key(folder: &Path, nickname: &str) -> Result<OnionKey, TorError> {
    let options = OnionOptions {
        nickname: nickname.to_owned(),
        // Only its key is asked for.
        port: 1,
        ephemeral: false,
        allow: Vec::new(),
        visitors: Visitors::Peers,
    };
    let config = config(&options)?;
    let keys = keys(folder, &options, &config)?;
    let service = service(config, keys, &folder.join(STATE))?;
    let made = service.generate_identity_key(KeystoreSelector::Primary);
    let made = made.map_err(|error| TorError::from_arti(&error))?;
    let address = made.display_unredacted().to_string();
    OnionKey::parse(&address).ok_or(WRONG)
}

fn launch(
    client: &Client,
    tor: &Path,
    options: &OnionOptions,
    used: Use,
) -> Result<OnionService, TorError> {
    let config = config(options)?;
    // Where a service was met before it was closed is known to whoever asked: that must not lead to it afterwards, so that
    // it begins anew, as Debian's tor does at each start.
    let passing = options.ephemeral || !options.allow.is_empty();
    let passing = passing.then(|| Passing::make(tor)).transpose()?;
    let keys = keys(tor, options, &config)?;
    let state = match &passing {
        Some(passing) => passing.path().to_owned(),
        None => tor.join(STATE),
    };
    let service = service(config, keys, &state)?;
    let directory = client.dirmgr();
    let directory = directory.map_err(|error| TorError::from_arti(&error))?;
    let circuits = client.hs_circ_pool();
    let circuits = circuits.map_err(|error| TorError::from_arti(&error))?;
    let runtime = client.runtime().clone();
    let launched = service.launch(
        runtime,
        directory,
        circuits,
        Arc::new(CfgPathResolver::default()),
    );
    let launched = launched.map_err(|error| TorError::from_arti(&error))?;
    let (running, visitors) = launched.ok_or(WRONG)?;
    let address = running.onion_address().ok_or(WRONG)?;
    let (sender, streams) = mpsc::channel(MAX_WAITING);
    let at_once = match options.visitors {
        Visitors::Peers => MAX_VISITORS,
        Visitors::Links => MAX_LINK_VISITORS,
    };
    let meeting = meet(visitors.boxed(), at_once, options.port, sender);
    let task = tokio::spawn(meeting).abort_handle();
    Ok(OnionService {
        address: address.display_unredacted().to_string(),
        streams,
        task,
        _running: running,
        _used: used,
        _passing: passing,
    })
}

fn config(options: &OnionOptions) -> Result<OnionServiceConfig, TorError> {
    if options.allow.len() > MAX_VISITOR_KEYS {
        return Err(WRONG);
    }
    let (rate, burst) = INTRODUCTIONS;
    let mut config = OnionServiceConfigBuilder::default();
    config
        .nickname(options.nickname.parse().map_err(|_| WRONG)?)
        .num_intro_points(INTRODUCTION_POINTS)
        .max_concurrent_streams_per_circuit(MAX_STREAMS)
        .rate_limit_at_intro(Some(TokenBucketConfig::new(rate, burst)));
    if !options.allow.is_empty() {
        let discovery = config.restricted_discovery();
        discovery.enabled(true);
        for (number, key) in options.allow.iter().enumerate() {
            let name = format!("visitor{number}").parse().map_err(|_| WRONG)?;
            let keys = discovery.static_keys().access();
            keys.push((name, key.tor().clone()));
        }
    }
    config.build().map_err(|_| WRONG)
}

fn service(
    config: OnionServiceConfig,
    keys: KeyMgr,
    state: &Path,
) -> Result<tor_hsservice::OnionService, TorError> {
    let state = StateDirectory::new(state, &mistrust()?);
    let state = state.map_err(|error| TorError::from_arti(&error))?;
    let service = tor_hsservice::OnionService::builder()
        .config(config)
        .keymgr(Arc::new(keys))
        .state_dir(state)
        .build();
    service.map_err(|error| TorError::from_arti(&error))
}

/// What arti's client itself asks of folders.
fn mistrust() -> Result<Mistrust, TorError> {
    Mistrust::builder().build_for_arti().map_err(|_| WRONG)
}

/// Where the service's keys are: all on the disk; where it begins anew each time, its identity alone; or none.
fn keys(
    tor: &Path,
    options: &OnionOptions,
    config: &OnionServiceConfig,
) -> Result<KeyMgr, TorError> {
    let memory = || Box::new(ArtiEphemeralKeystore::new("ephemeral".to_owned()));
    let disk = || -> Result<Box<dyn Keystore>, TorError> {
        let path = tor.join(STATE).join(KEYS);
        let store = ArtiNativeKeystore::from_path_and_mistrust(path, &mistrust()?);
        Ok(Box::new(
            store.map_err(|error| TorError::from_arti(&error))?,
        ))
    };
    let mut keys = KeyMgrBuilder::default();
    if options.ephemeral {
        keys = keys.primary_store(memory());
    } else if options.allow.is_empty() {
        keys = keys.primary_store(disk()?);
    } else {
        let kept = KeyMgrBuilder::default().primary_store(disk()?).build();
        let kept = service(config.clone(), kept.map_err(|_| WRONG)?, &tor.join(STATE))?;
        let made = kept.generate_identity_key(KeystoreSelector::Primary);
        made.map_err(|error| TorError::from_arti(&error))?;
        keys = keys.primary_store(memory());
        keys.secondary_stores().push(disk()?);
    }
    keys.build().map_err(|_| WRONG)
}

/// Meets visitors, a bounded number at a time, for as long as the service runs.
async fn meet(
    mut visitors: BoxStream<'static, RendRequest>,
    at_once: usize,
    port: u16,
    sender: mpsc::Sender<TorStream>,
) {
    let places = Arc::new(Semaphore::new(at_once));
    // Ends them with the service.
    let mut meetings = JoinSet::new();
    while let Some(visitor) = visitors.next().await {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        while meetings.try_join_next().is_some() {}
        let sender = sender.clone();
        meetings.spawn(async move {
            let _place = place;
            let met = tokio::time::timeout(MEETING_TIMEOUT, visitor.accept()).await;
            match met {
                Ok(Ok(streams)) => take(streams, port, &sender).await,
                Ok(Err(_)) => tracing::debug!("a visitor of the onion service was not met"),
                Err(_) => tracing::debug!("a visitor of the onion service did not come"),
            }
        });
    }
}

/// The next stream that a visitor opens; `None` when it has left, or held its place with none open for [`IDLE_VISITOR`]. `open`
/// is shared with each of its streams.
async fn next_of<T>(streams: &mut (impl Stream<Item = T> + Unpin), open: &Arc<()>) -> Option<T> {
    loop {
        match tokio::time::timeout(IDLE_VISITOR, streams.next()).await {
            Ok(next) => return next,
            Err(_) if Arc::strong_count(open) > 1 => {}
            Err(_) => return None,
        }
    }
}

/// Takes a visitor's streams until it leaves, or is of no use.
async fn take(
    streams: impl Stream<Item = StreamRequest>,
    port: u16,
    sender: &mpsc::Sender<TorStream>,
) {
    let mut streams = std::pin::pin!(streams);
    let open = Arc::new(());
    while let Some(request) = next_of(&mut streams, &open).await {
        let fits = matches!(
            request.request(),
            IncomingStreamRequest::Begin(begin) if begin.port() == port
        );
        if !fits {
            // What Debian's tor does: the visitor is gone with whatever else it tries.
            let _ = request.shutdown_circuit();
            return;
        }
        let Ok(waiting) = sender.try_reserve() else {
            // More than are served: this one may try again.
            if request.reject(End::new_misc()).await.is_err() {
                return;
            }
            continue;
        };
        match request.accept(Connected::new_empty()).await {
            Ok(stream) => waiting.send(TorStream::new(stream).of_visitor(Arc::clone(&open))),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_visitor_keeps_its_place_while_a_stream_of_it_is_open_and_not_much_longer() {
        let open = Arc::new(());
        let held = Arc::clone(&open);
        let begun = tokio::time::Instant::now();
        tokio::spawn(async move {
            tokio::time::sleep(IDLE_VISITOR * 5).await;
            drop(held);
        });
        let mut silent = stream::pending::<()>();
        assert_eq!(next_of(&mut silent, &open).await, None);
        assert!((IDLE_VISITOR * 5..=IDLE_VISITOR * 6).contains(&begun.elapsed()));
        let mut busy = stream::iter([1, 2]);
        assert_eq!(next_of(&mut busy, &open).await, Some(1));
        assert_eq!(next_of(&mut busy, &open).await, Some(2));
        assert_eq!(next_of(&mut busy, &open).await, None, "it left");
    }
}
