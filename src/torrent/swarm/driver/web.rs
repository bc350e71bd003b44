//! The driver's part in web seeds: which are asked, and when again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hushswarm_circuits::isolation::Isolation;
use rand::seq::SliceRandom;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::{Driver, Phase};
use crate::route::RouteError;
use crate::torrent::metainfo::WebSeed;
use crate::torrent::picker::PeerKey;
use crate::torrent::swarm::web::WebPeer;
use crate::torrent::webseed::place::Places;
use crate::torrent::webseed::{WebClient, WebError};

/// Most web seeds that are asked at once, each over one connection: more would outweigh the swarm.
const MAX_ASKED: usize = 4;

/// First wait after a failure; doubled for each in a row, up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Shortest wait for a server that has too much to do.
const SHORTEST_BUSY: Duration = Duration::from_secs(5);

/// Wait while there is no circuit, and before another is tried where one was lost: neither says anything about the seed.
const NETWORK_WAIT: Duration = Duration::from_secs(5);
const CIRCUIT_WAIT: Duration = Duration::from_secs(1);

/// Circuits lost in a row after which the seed itself is suspected.
const MAX_CIRCUITS_LOST: u32 = 5;

enum State {
    Idle {
        not_before: Instant,
    },
    Asked {
        task: AbortHandle,
        worked: Arc<AtomicBool>,
    },
    /// Never again.
    Gone,
}

struct Web {
    seed: WebSeed,
    state: State,
    failures: u32,
    circuits_lost: u32,
}

/// The web seeds of a torrent, in random order.
#[derive(Default)]
pub(super) struct Webs {
    all: Vec<Web>,
    tasks: JoinSet<(usize, Result<(), WebError>)>,
}

impl Webs {
    /// None is asked yet.
    pub(super) fn new(seeds: &[WebSeed], rng: &mut impl rand::Rng) -> Self {
        let now = Instant::now();
        let web = |seed: &WebSeed| Web {
            seed: seed.clone(),
            state: State::Idle { not_before: now },
            failures: 0,
            circuits_lost: 0,
        };
        let mut all: Vec<Web> = seeds.iter().map(web).collect();
        all.shuffle(rng);
        Self {
            all,
            tasks: JoinSet::new(),
        }
    }

    /// The name of one among peers, which the table counts from below.
    fn key(number: usize) -> PeerKey {
        // There are at most MAX_WEB_SEEDS.
        PeerKey(u32::MAX - number as u32)
    }

    /// Ends all of them.
    pub(super) async fn shutdown(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Ends all of them, to ask them again in a moment.
    pub(super) async fn rest(&mut self) {
        self.tasks.shutdown().await;
        let now = Instant::now();
        for web in &mut self.all {
            if let State::Asked { .. } = web.state {
                web.state = State::Idle { not_before: now };
            }
        }
    }

    /// One sent wrong data: it is never asked again.
    pub(super) fn ban(&mut self, key: PeerKey) {
        let number = u32::MAX - key.0;
        if let Some(web) = self.all.get_mut(number as usize) {
            if let State::Asked { task, .. } = &web.state {
                task.abort();
            }
            web.state = State::Gone;
        }
    }

    /// How many give something.
    pub(super) fn giving(&self) -> usize {
        let giving = |web: &&Web| match &web.state {
            State::Asked { worked, .. } => worked.load(Ordering::Relaxed),
            State::Idle { .. } | State::Gone => false,
        };
        self.all.iter().filter(giving).count()
    }

    fn ended(&mut self, number: usize, result: Result<(), WebError>) {
        let Some(web) = self.all.get_mut(number) else {
            return;
        };
        let worked = match &web.state {
            State::Asked { worked, .. } => worked.load(Ordering::Relaxed),
            State::Gone => return,
            State::Idle { .. } => false,
        };
        let now = Instant::now();
        // What it lacks, it lacks however much of the rest it gave.
        if worked && !result.as_ref().is_err_and(WebError::is_about_a_file) {
            (web.failures, web.circuits_lost) = (0, 0);
        }
        let Err(error) = result else {
            // There is nothing to ask for; should there be again, it may be asked at once.
            web.state = State::Idle { not_before: now };
            return;
        };
        tracing::debug!(number, %error, "a web seed fails");
        if error.is_permanent() {
            web.state = State::Gone;
            return;
        }
        let lost = error == WebError::Route(RouteError::CircuitLost);
        let wait = if let WebError::Route(RouteError::NoCircuit(_)) = error {
            NETWORK_WAIT
        } else if lost && web.circuits_lost < MAX_CIRCUITS_LOST {
            web.circuits_lost += 1;
            CIRCUIT_WAIT
        } else if let WebError::Busy(Some(wait)) = error {
            wait.max(SHORTEST_BUSY)
        } else {
            let wait = FIRST_WAIT.saturating_mul(1 << web.failures.min(7));
            web.failures = web.failures.saturating_add(1);
            wait.min(LONGEST_WAIT)
        };
        web.state = State::Idle {
            not_before: now + wait,
        };
    }
}

impl Driver {
    /// Asks web seeds while anything is missing. Once a second.
    pub(super) fn tend_webs(&mut self) {
        while let Some(ended) = self.webs.tasks.try_join_next() {
            match ended {
                Ok((number, result)) => self.webs.ended(number, result),
                // It was banned and is known as gone, or it panicked and stays as it is.
                Err(error) if error.is_cancelled() => {}
                Err(_) => tracing::warn!("a web seed's task failed; please report this"),
            }
        }
        let active = matches!(self.phase, Phase::Active { .. });
        if !active || !self.setup.storage.write || self.webs.all.is_empty() || self.is_complete() {
            return;
        }
        let now = Instant::now();
        for number in 0..self.webs.all.len() {
            if self.webs.tasks.len() >= MAX_ASKED {
                return;
            }
            self.ask_web(number, now);
        }
    }

    fn ask_web(&mut self, number: usize, now: Instant) {
        let (Some(torrent), Some(web)) = (self.shared.torrent(), self.webs.all.get_mut(number))
        else {
            return;
        };
        if !matches!(web.state, State::Idle { not_before } if not_before <= now) {
            return;
        }
        let owner = [&self.setup.hash.0, web.seed.url.as_bytes()].concat();
        let client = WebClient::new(
            Arc::clone(&self.setup.outside),
            Isolation::new("web seed", &owner, 0),
            &self.setup.tracker,
            &web.seed.url,
        );
        let Ok(client) = client else {
            web.state = State::Gone;
            return;
        };
        let places = Places::new(web.seed.kind, client.base(), Arc::clone(&torrent.info));
        let worked = Arc::new(AtomicBool::new(false));
        let peer = WebPeer::new(
            Arc::clone(&self.shared),
            Webs::key(number),
            torrent,
            client,
            places,
            Arc::clone(&worked),
        );
        let task = self
            .webs
            .tasks
            .spawn(async move { (number, peer.run().await) });
        web.state = State::Asked { task, worked };
    }
}
