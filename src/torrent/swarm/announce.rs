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
    /// By which name they were asked for.
    pub(super) hash: InfoHash,
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

impl Counters {
    /// What is told by one of the names. What is missing goes with both: whoever misses nothing is told of nobody who has everything.
    fn told(self, second: bool) -> Self {
        let left = self.left;
        if second {
            return Self {
                left,
                ..Self::default()
            };
        }
        self
    }
}

/// Announces a torrent.
pub(super) struct Announcer {
    pub(super) outside: Arc<dyn Outside>,
    pub(super) client: TrackerClient,
    pub(super) hash: InfoHash,
    /// It is the second name of a torrent whose first is announced too: what was given and taken is reported by that alone, and so is
    /// where our onion service is.
    pub(super) second: bool,
    pub(super) tiers: TierList,
    pub(super) counters: watch::Receiver<Counters>,
    pub(super) answers: mpsc::Sender<Answer>,
    /// Where our own onion services are, once they are.
    pub(super) own: watch::Receiver<Vec<OnionPeer>>,
    /// Changes when the user wants to be announced again.
    pub(super) again: watch::Receiver<u32>,
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
                Ok(()) = self.own.changed(), if !self.second => {
                    self.tiers.hurry(Instant::now().into_std());
                    continue;
                }
                Ok(()) = self.again.changed() => {
                    self.tiers.again(Instant::now().into_std());
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
            } = self.counters.borrow().told(self.second);
            let own = self.own.borrow_and_update().first().copied();
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
                onion: own.filter(|_| !self.second),
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
                        hash: self.hash,
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
                        hash: self.hash,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hushswarm_circuits::target::Target;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::route::{BoxFuture, BoxStream, Datagrams};

    /// Trackers that say nothing, and what was said to them.
    struct Trackers(mpsc::Sender<String>);

    impl Outside for Trackers {
        fn connect<'a>(
            &'a self,
            _: &'a Target,
            _: Isolation,
        ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
            let (near, mut far) = tokio::io::duplex(16 << 10);
            let heads = self.0.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(far.read_u8().await.unwrap());
                }
                heads.send(String::from_utf8(head).unwrap()).await.unwrap();
            });
            Box::pin(async { Ok(Box::new(near) as BoxStream) })
        }

        fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
            Box::pin(async { Err(RouteError::Refused) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_name_reports_nothing_twice_and_no_onion_service() {
        let host = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";
        let url = format!("http://{host}/announce");
        for second in [false, true] {
            let (sender, mut heads) = mpsc::channel(4);
            let counters = Counters {
                uploaded: 64 << 20,
                downloaded: 128 << 20,
                left: 192 << 20,
            };
            let (answers, _listens) = mpsc::channel(4);
            let announcer = Announcer {
                outside: Arc::new(Trackers(sender)),
                client: TrackerClient::new(false),
                hash: InfoHash([1; 20]),
                second,
                tiers: TierList::new(&[vec![url.clone()]], false, &mut StdRng::seed_from_u64(1)),
                counters: watch::channel(counters).1,
                answers,
                own: watch::channel(vec![OnionPeer::parse(host, 5).unwrap()]).1,
                again: watch::channel(0).1,
            };
            let running = tokio::spawn(announcer.run());
            let head = heads.recv().await.unwrap();
            let has = |part: &str| head.contains(part);
            assert!(has(&format!("left={}", 192 << 20)), "{head}");
            assert_eq!(has(&format!("uploaded={}", 64 << 20)), !second);
            assert_eq!(has(&format!("downloaded={}", 128 << 20)), !second);
            assert_eq!(has("uploaded=0") && has("downloaded=0"), second);
            assert_eq!(has("ip="), !second, "{head}");
            running.abort();
        }
    }
}
