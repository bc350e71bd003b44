//! Asking trackers for peers, for as long as the swarm lives.
//!
//! Each tracker has its own circuit, peer id and key. Nothing marks the begin or end of a session (leaks L37).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hushswarm_circuits::isolation::Isolation;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::route::{Outside, RouteError};
use crate::torrent::extension::random_peer_id;
use crate::torrent::gossip::OnionPeer;
use crate::torrent::infohash::InfoHash;
use crate::torrent::tracker::{AnnounceError, AnnounceRequest, NO_PORT, TierList, TrackerClient};

/// Peers asked for at once.
const NUMWANT: u16 = 100;

/// Wait when there is no circuit, which says nothing about the tracker.
const NETWORK_WAIT: Duration = Duration::from_secs(5);

/// Wait before the same tracker is asked through another circuit.
const CIRCUIT_WAIT: Duration = Duration::from_secs(1);

/// Time for a tracker while others were not asked yet: UDP trackers, many of which are dead, may else take minutes.
const SHORT_PATIENCE: Duration = Duration::from_secs(20);

/// Circuits lost under one tracker in a row before it counts as its failure.
const MAX_CIRCUITS_LOST: u32 = 3;

/// What an announce brought.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) peers: Vec<SocketAddr>,
    pub(super) onions: Vec<OnionPeer>,
    /// For the user, without names.
    pub(super) status: String,
    /// There was no circuit at all.
    pub(super) no_network: bool,
}

/// The counters that announces carry; rounded before they are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) uploaded: u64,
    pub(super) downloaded: u64,
    pub(super) left: u64,
}

/// Announces a torrent.
pub(super) struct Announcer {
    pub(super) outside: Arc<dyn Outside>,
    pub(super) client: TrackerClient,
    pub(super) hash: InfoHash,
    pub(super) tiers: TierList,
    pub(super) counters: watch::Receiver<Counters>,
    pub(super) answers: mpsc::Sender<Answer>,
    /// Where our own onion services are, once they are.
    pub(super) own: watch::Receiver<Vec<OnionPeer>>,
}

impl Announcer {
    /// Runs until nobody listens, or no tracker is left.
    pub(super) async fn run(mut self) {
        let mut rng = StdRng::from_rng(&mut rand::rng());
        let mut ids: BTreeMap<String, ([u8; 20], u32)> = BTreeMap::new();
        let mut circuits_lost = 0;
        loop {
            let now = Instant::now();
            let Some(at) = self.tiers.next_at(now.into_std()) else {
                return;
            };
            tokio::select! {
                () = tokio::time::sleep_until(at.into()) => {}
                Ok(()) = self.own.changed() => {
                    self.tiers.hurry(Instant::now().into_std());
                    continue;
                }
                () = self.answers.closed() => return,
            }
            let now = Instant::now().into_std();
            let Some(url) = self.tiers.next_url(now).map(str::to_owned) else {
                continue;
            };
            let (peer_id, key) = *ids
                .entry(url.clone())
                .or_insert_with(|| (random_peer_id(&mut rng), rng.random()));
            let Counters {
                uploaded,
                downloaded,
                left,
            } = *self.counters.borrow();
            let request = AnnounceRequest {
                hash: self.hash,
                peer_id,
                event: None,
                uploaded,
                downloaded,
                left,
                key,
                numwant: NUMWANT,
                port: NO_PORT,
                onion: self.own.borrow_and_update().first().copied(),
            };
            let owner = [&self.hash.0, url.as_bytes()].concat();
            let isolation = Isolation::new("tracker", &owner, 0);
            let announce = self
                .client
                .announce(&*self.outside, isolation, &url, &request);
            let result = if self.tiers.has_untried_besides(&url) {
                let result = tokio::time::timeout(SHORT_PATIENCE, announce).await;
                result.unwrap_or(Err(AnnounceError::TimedOut))
            } else {
                announce.await
            };
            let now = Instant::now().into_std();
            let answer = match result {
                Ok(answer) => {
                    circuits_lost = 0;
                    self.tiers.succeeded(&url, now, answer.interval);
                    let status = format!("{} peers", answer.peers.len() + answer.onions.len());
                    Answer {
                        peers: answer.peers,
                        onions: answer.onions,
                        status,
                        no_network: false,
                    }
                }
                Err(error) => {
                    let no_network =
                        matches!(error, AnnounceError::Route(RouteError::NoCircuit(_)));
                    let lost = error == AnnounceError::Route(RouteError::CircuitLost);
                    let wait = if no_network {
                        Some(NETWORK_WAIT)
                    } else if lost && circuits_lost < MAX_CIRCUITS_LOST {
                        circuits_lost += 1;
                        Some(CIRCUIT_WAIT)
                    } else {
                        None
                    };
                    let answer = Answer {
                        peers: Vec::new(),
                        onions: Vec::new(),
                        status: error.to_string(),
                        no_network,
                    };
                    if let Some(wait) = wait {
                        if self.answers.send(answer).await.is_err() {
                            return;
                        }
                        tokio::time::sleep(wait).await;
                        continue;
                    }
                    circuits_lost = 0;
                    if error.is_permanent() {
                        self.tiers.remove(&url);
                    } else {
                        self.tiers.failed(&url, now);
                    }
                    answer
                }
            };
            if self.answers.send(answer).await.is_err() {
                return;
            }
        }
    }
}
