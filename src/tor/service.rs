//! Onion services: others come to us through Tor, and neither they nor its relays learn where we are.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use safelog::DisplayRedacted as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tor_cell::relaycell::msg::{Connected, End};
use tor_hsservice::config::{OnionServiceConfigBuilder, TokenBucketConfig};
use tor_hsservice::{RendRequest, RunningOnionService, StreamRequest};
use tor_proto::stream::IncomingStreamRequest;

use super::client::Client;
use super::{Tor, TorError, TorStream};

/// Visitors that are met at the same time. More wait, as the introduction point lets them.
const MAX_VISITORS: usize = 128;
/// Streams of one visitor: a peer needs one, and some for a second try.
const MAX_STREAMS: u32 = 8;
/// Streams that wait to be taken.
const MAX_WAITING: usize = 64;
/// Introductions a second, and at once, that each introduction point passes on.
const INTRODUCTIONS: (u32, u32) = (20, 60);
/// Introduction points: one more than usual, since relays of ours come and go no less than others'.
const INTRODUCTION_POINTS: u8 = 4;
/// How long meeting a visitor may take.
const MEETING_TIMEOUT: Duration = Duration::from_secs(60);

/// A running onion service. Dropping it ends it; its key stays in Tor's folder, unless that is kept in memory.
pub struct OnionService {
    address: String,
    streams: mpsc::Receiver<TorStream>,
    task: AbortHandle,
    _running: Arc<RunningOnionService>,
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
    pub async fn serve(&self, nickname: &str, port: u16) -> Result<OnionService, TorError> {
        let client = self.started().await?;
        launch(client, nickname, port)
    }
}

fn launch(client: &Client, nickname: &str, port: u16) -> Result<OnionService, TorError> {
    const WRONG: TorError = TorError::NoTor("its onion service can't be set up like this");
    let (rate, burst) = INTRODUCTIONS;
    let mut config = OnionServiceConfigBuilder::default();
    config
        .nickname(nickname.parse().map_err(|_| WRONG)?)
        .num_intro_points(INTRODUCTION_POINTS)
        .max_concurrent_streams_per_circuit(MAX_STREAMS)
        .rate_limit_at_intro(Some(TokenBucketConfig::new(rate, burst)));
    let config = config.build().map_err(|_| WRONG)?;
    let launched = client.launch_onion_service(config);
    let launched = launched.map_err(|error| TorError::from_arti(&error))?;
    let (running, visitors) = launched.ok_or(WRONG)?;
    let address = running.onion_address().ok_or(WRONG)?;
    let (sender, streams) = mpsc::channel(MAX_WAITING);
    let task = tokio::spawn(meet(visitors.boxed(), port, sender)).abort_handle();
    Ok(OnionService {
        address: address.display_unredacted().to_string(),
        streams,
        task,
        _running: running,
    })
}

/// Meets visitors, a bounded number at a time, for as long as the service runs.
async fn meet(
    mut visitors: BoxStream<'static, RendRequest>,
    port: u16,
    sender: mpsc::Sender<TorStream>,
) {
    let places = Arc::new(Semaphore::new(MAX_VISITORS));
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

/// Takes a visitor's streams until it leaves.
async fn take(
    streams: impl Stream<Item = StreamRequest>,
    port: u16,
    sender: &mpsc::Sender<TorStream>,
) {
    let mut streams = std::pin::pin!(streams);
    while let Some(request) = streams.next().await {
        let asked = request.request();
        let fits = matches!(asked, IncomingStreamRequest::Begin(begin) if begin.port() == port);
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
            Ok(stream) => waiting.send(TorStream::new(stream)),
            Err(_) => return,
        }
    }
}
