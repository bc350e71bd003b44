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
use crate::torrent::tracker::{
    AnnounceError, AnnounceRequest, NO_PORT, Scraped, TierList, TrackerClient, TrackerView,
};

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

/// Counts are asked for apart at most so often, of each tracker that does not tell them with its peers.
const SCRAPE_EVERY: Duration = Duration::from_secs(30 * 60);

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
    /// Trackers that have neither answered nor failed yet.
    pub(super) unasked: usize,
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
    /// How the trackers stand, for the user.
    pub(super) views: watch::Sender<Vec<TrackerView>>,
    /// Changes when the user wants to be announced again.
    pub(super) again: watch::Receiver<u32>,
}

impl Announcer {
    /// Runs until nobody listens, or no tracker is left.
    pub(super) async fn run(mut self) {
        let mut rng = StdRng::from_rng(&mut rand::rng());
        let mut ids: BTreeMap<String, ([u8; 20], u32)> = BTreeMap::new();
        let mut scraped: BTreeMap<String, Instant> = BTreeMap::new();
        let mut circuits_lost = 0;
        loop {
            self.views.send_replace(self.tiers.views());
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
            let mut uncounted = false;
            let answer = match result {
                Ok(answer) => {
                    circuits_lost = 0;
                    self.tiers.succeeded(&url, now, answer.interval);
                    self.tiers
                        .left_alone(answer.min_interval.unwrap_or_default());
                    let status = format!("{} peers", answer.peers.len() + answer.onions.len());
                    self.tiers.note(&url, now, &status);
                    let counts = Scraped {
                        seeders: answer.seeders,
                        leechers: answer.leechers,
                        completed: None,
                    };
                    self.tiers.note_counts(&url, counts);
                    uncounted = !counts.is_known();
                    Answer {
                        hash: self.hash,
                        peers: answer.peers,
                        onions: answer.onions,
                        status,
                        no_network: false,
                        unasked: self.tiers.unasked(),
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
                    let status = error.to_string();
                    self.tiers.note(&url, now, &status);
                    let mut answer = Answer {
                        hash: self.hash,
                        peers: Vec::new(),
                        onions: Vec::new(),
                        status,
                        no_network,
                        unasked: self.tiers.unasked(),
                    };
                    if let Some(wait) = wait {
                        self.views.send_replace(self.tiers.views());
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
                    answer.unasked = self.tiers.unasked();
                    answer
                }
            };
            if self.answers.send(answer).await.is_err() {
                return;
            }
            if uncounted
                && scraped
                    .get(&url)
                    .is_none_or(|at| at.elapsed() >= SCRAPE_EVERY)
            {
                scraped.insert(url.clone(), Instant::now());
                self.views.send_replace(self.tiers.views());
                self.scrape(&url, isolation).await;
            }
        }
    }

    /// Asks a tracker that named peers without counting them how many there are. What goes wrong says nothing of its announces.
    async fn scrape(&mut self, url: &str, isolation: Isolation) {
        let scrape = self
            .client
            .scrape(&*self.outside, isolation, url, self.hash);
        match tokio::time::timeout(SHORT_PATIENCE, scrape).await {
            Ok(Ok(counts)) => self.tiers.note_counts(url, counts),
            Ok(Err(error)) => tracing::debug!(%error, "a tracker does not tell its counts"),
            Err(_) => tracing::debug!("a tracker does not tell its counts in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hushswarm_circuits::target::{Host, Target};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::route::{BoxFuture, BoxStream, Datagrams};

    /// Answers heads of requests by their first lines; what gets none is silent.
    type Answers = fn(&str) -> Option<&'static str>;

    /// Trackers, and what was said to them.
    struct Trackers(mpsc::Sender<String>, Answers);

    impl Outside for Trackers {
        fn connect<'a>(
            &'a self,
            target: &'a Target,
            _: Isolation,
        ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
            let (near, mut far) = tokio::io::duplex(16 << 10);
            let (heads, answers) = (self.0.clone(), self.1);
            let name = match &target.host {
                Host::Name(name) => name.as_str().to_owned(),
                Host::Ip(ip) => ip.to_string(),
            };
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(far.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let answer = answers(&format!("{name} {head}"));
                heads.send(head).await.unwrap();
                let Some(answer) = answer else {
                    return std::future::pending().await;
                };
                let answer = format!("HTTP/1.1 200 OK\r\n\r\n{answer}");
                far.write_all(answer.as_bytes()).await.unwrap();
            });
            Box::pin(async { Ok(Box::new(near) as BoxStream) })
        }

        fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
            Box::pin(async { Err(RouteError::Refused) })
        }
    }

    /// An announcer to these trackers; what it tells, and what trackers hear.
    struct Running {
        answers: mpsc::Receiver<Answer>,
        heads: mpsc::Receiver<String>,
        views: watch::Receiver<Vec<TrackerView>>,
        task: tokio::task::JoinHandle<()>,
    }

    fn run(tiers: &[&str], says: Answers) -> Running {
        let (sender, heads) = mpsc::channel(64);
        let (answers, heard) = mpsc::channel(64);
        let (views, seen) = watch::channel(Vec::new());
        let tiers: Vec<Vec<String>> = tiers.iter().map(|url| vec![(*url).to_owned()]).collect();
        let announcer = Announcer {
            outside: Arc::new(Trackers(sender, says)),
            client: TrackerClient::new(false),
            hash: InfoHash([b'h'; 20]),
            second: false,
            tiers: TierList::new(&tiers, false, &mut StdRng::seed_from_u64(1)),
            counters: watch::channel(Counters::default()).1,
            answers,
            own: watch::channel(Vec::new()).1,
            again: watch::channel(0).1,
            views,
        };
        Running {
            answers: heard,
            heads,
            views: seen,
            task: tokio::spawn(announcer.run()),
        }
    }

    const A: &str = "http://a.example/announce";
    const B: &str = "http://b.example/announce";

    #[tokio::test(start_paused = true)]
    async fn a_tracker_that_does_not_count_is_asked_for_its_counts_now_and_then() {
        let mut running = run(&[A], |head| {
            let scrape = head.contains("GET /scrape?info_hash=hhhhhhhhhhhhhhhhhhhh HTTP");
            Some(if scrape {
                "d5:filesd20:hhhhhhhhhhhhhhhhhhhhd8:completei4e10:incompletei6eeee"
            } else {
                "d8:intervali600e5:peers0:e"
            })
        });
        let views = running.views.wait_for(|views| {
            let counts = views.first().map(|view| view.counts);
            counts.is_some_and(|counts| counts.is_known())
        });
        let view = views.await.unwrap()[0].clone();
        assert_eq!(
            (view.counts.seeders, view.counts.leechers),
            (Some(4), Some(6))
        );
        assert_eq!(view.status.as_deref(), Some("0 peers"));
        tokio::time::sleep(Duration::from_secs(59 * 60)).await;
        running.task.abort();
        running.heads.close();
        let (mut announces, mut scrapes) = (0, 0);
        while let Some(head) = running.heads.recv().await {
            let scrape = head.starts_with("GET /scrape?");
            announces += usize::from(!scrape);
            scrapes += usize::from(scrape);
        }
        assert_eq!(
            (announces, scrapes),
            (6, 2),
            "each ten minutes, each half hour"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_tracker_that_counts_is_not_asked_apart() {
        let mut running = run(&[A], |_| {
            Some("d8:completei4e10:incompletei6e8:intervali600e5:peers0:e")
        });
        running.answers.recv().await.unwrap();
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(running.views.borrow()[0].counts.leechers, Some(6));
        running.task.abort();
        running.heads.close();
        assert!(running.heads.recv().await.is_some());
        assert!(running.heads.recv().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_often_counts_once_among_those_that_were_asked() {
        // The first answers what is no answer, at once; the second never does.
        let mut running = run(&[A, B], |head| {
            head.starts_with("a.example").then_some("no")
        });
        let mut unasked = Vec::new();
        for _ in 0..6 {
            unasked.push(running.answers.recv().await.unwrap().unasked);
        }
        assert_eq!(unasked[0], 1, "one has failed: {unasked:?}");
        assert_eq!(unasked[1..], [0; 5], "both have");
        running.task.abort();
        let mut only = run(&[A, "http://c.example/x", B], |head| {
            let fails = head.starts_with("a.example") || head.starts_with("c.example");
            fails.then_some("no")
        });
        assert_eq!(only.answers.recv().await.unwrap().unasked, 2);
        assert_eq!(only.answers.recv().await.unwrap().unasked, 1);
        only.task.abort();
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
                outside: Arc::new(Trackers(sender, |_| None)),
                client: TrackerClient::new(false),
                hash: InfoHash([1; 20]),
                second,
                tiers: TierList::new(&[vec![url.clone()]], false, &mut StdRng::seed_from_u64(1)),
                counters: watch::channel(counters).1,
                answers,
                own: watch::channel(vec![OnionPeer::parse(host, 5).unwrap()]).1,
                views: watch::channel(Vec::new()).0,
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
