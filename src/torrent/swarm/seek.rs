//! Looking for peers in the DHT, for as long as the swarm lives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};

use crate::dht::{Found, Outcome, PeerFinder};
use crate::torrent::infohash::InfoHash;

/// Wait before the first lookup of a magnet link that names trackers or peers: they may tell first that the torrent is private
/// (BEP 27), and then the DHT never hears of it. Where none of them is there, it is not waited for.
const OTHERS_FIRST: Duration = Duration::from_secs(60);

/// Wait after a lookup by which nobody was reached; doubled for each, up to [`EVERY`].
const FIRST_WAIT: Duration = Duration::from_secs(30);

/// Wait after a lookup by which somebody was reached: those who announce do so every half hour.
const EVERY: Duration = Duration::from_secs(30 * 60);

/// Wait while there is no circuit, which says nothing about the torrent.
const NETWORK_WAIT: Duration = Duration::from_secs(5);

/// With so many connections nobody is looked for: each lookup tells an exit and some nodes of the torrent.
const ENOUGH: usize = 20;

/// How the swarm stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Need {
    /// Peers connected.
    pub(super) connected: usize,
    /// All trackers were asked, and nobody is known.
    pub(super) alone: bool,
}

/// What looking brought.
pub(super) struct Sighting {
    /// By which name they were looked for.
    pub(super) hash: InfoHash,
    pub(super) peers: Vec<SocketAddr>,
    /// For the user, without names; `None` where it says nothing new.
    pub(super) status: Option<String>,
}

/// Looks for peers.
pub(super) struct Seeker {
    pub(super) finder: Arc<dyn PeerFinder>,
    pub(super) hash: InfoHash,
    /// Others are asked first.
    pub(super) later: bool,
    pub(super) need: watch::Receiver<Need>,
    pub(super) sightings: mpsc::Sender<Sighting>,
    /// Changes when the user wants others to be looked for again.
    pub(super) again: watch::Receiver<u32>,
    pub(super) rng: StdRng,
}

impl Seeker {
    /// Runs until nobody listens.
    pub(super) async fn run(mut self) {
        if self.later {
            let alone = self.need.wait_for(|need| need.alone);
            let _ = tokio::time::timeout(OTHERS_FIRST, alone).await;
        }
        let (mut failures, mut attempt) = (0, 0_u16);
        loop {
            // An error: the swarm is gone, as what follows notices.
            let _ = self.need.wait_for(|need| need.connected < ENOUGH).await;
            let Some(outcome) = self.look(attempt).await else {
                return;
            };
            // Another circuit, and the other way to look: an exit may lie, and one that does would do it again.
            attempt = attempt.wrapping_add(1);
            let wait = if outcome == Some(Outcome::NoNetwork) {
                NETWORK_WAIT
            } else if self.need.borrow().connected > 0 {
                failures = 0;
                EVERY
            } else {
                // Whoever was named is still being called, or was no peer.
                failures = (failures + 1).min(6);
                FIRST_WAIT.saturating_mul(1 << (failures - 1)).min(EVERY)
            };
            // Spread, so that torrents that were added together don't stay together.
            let spread = self.rng.random_range(0.75..1.25);
            let asked = async {
                if self.again.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                // However often the user wants it.
                tokio::time::sleep(FIRST_WAIT).await;
            };
            let _ = tokio::time::timeout(wait.mul_f64(spread), asked).await;
        }
    }

    /// One lookup. `None`: nobody listens; inner `None`: too many wait.
    async fn look(&self, attempt: u16) -> Option<Option<Outcome>> {
        let mut finding = match self.finder.find(self.hash.0, attempt) {
            Ok(finding) => finding,
            Err(full) => {
                self.say(full.to_string()).await?;
                return Some(None);
            }
        };
        if finding.ahead > 0 {
            let others = finding.ahead;
            self.say(format!("waits its turn after {others} other lookups"))
                .await?;
        }
        loop {
            let found = tokio::select! {
                () = self.sightings.closed() => return None,
                found = finding.next() => found,
            };
            match found {
                Some(Found::Begun) => self.say("looking".to_owned()).await?,
                Some(Found::Peers(peers)) => {
                    let status = None;
                    let hash = self.hash;
                    let sighting = Sighting {
                        hash,
                        peers,
                        status,
                    };
                    self.sightings.send(sighting).await.ok()?;
                }
                // Nobody asked for one.
                Some(Found::Item(_)) => {}
                Some(Found::Over(outcome)) => {
                    self.say(outcome.to_string()).await?;
                    return Some(Some(outcome));
                }
                // It broke off. Where the finder is gone, nothing comes of the next one either.
                None => return Some(Some(Outcome::CircuitLost)),
            }
        }
    }

    async fn say(&self, status: String) -> Option<()> {
        let sighting = Sighting {
            hash: self.hash,
            peers: Vec::new(),
            status: Some(status),
        };
        self.sightings.send(sighting).await.ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rand::SeedableRng;

    use super::*;
    use crate::dht::{Counters, Finding, Full};

    /// Knows nobody, and counts.
    #[derive(Default)]
    struct Nobody(AtomicUsize);

    impl PeerFinder for Nobody {
        fn find(&self, _: [u8; 20], _: u16) -> Result<Finding, Full> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let (sender, found) = mpsc::channel(1);
            sender.try_send(Found::Over(Outcome::Peers(0))).unwrap();
            Ok(Finding::begun(found))
        }

        fn counters(&self) -> Counters {
            Counters::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_looked_for_while_there_are_peers_enough() {
        let finder = Arc::new(Nobody::default());
        let need = |connected| Need {
            connected,
            alone: false,
        };
        let (stands, seen) = watch::channel(need(ENOUGH));
        let (sightings, mut heard) = mpsc::channel(1);
        let seeker = Seeker {
            finder: finder.clone(),
            hash: InfoHash([1; 20]),
            later: false,
            need: seen,
            sightings,
            again: watch::channel(0).1,
            rng: StdRng::seed_from_u64(1),
        };
        let running = tokio::spawn(seeker.run());
        tokio::spawn(async move { while heard.recv().await.is_some() {} });
        let hours = Duration::from_secs(10 * 3600);
        tokio::time::sleep(hours).await;
        assert_eq!(finder.0.load(Ordering::Relaxed), 0);
        // Some are connected, and there could be more.
        stands.send_replace(need(ENOUGH - 1));
        tokio::time::sleep(hours).await;
        let some = finder.0.load(Ordering::Relaxed);
        assert!((15..30).contains(&some), "{some}");
        stands.send_replace(need(ENOUGH));
        tokio::time::sleep(hours).await;
        assert!(finder.0.load(Ordering::Relaxed) <= some + 1);
        running.abort();
    }
}
