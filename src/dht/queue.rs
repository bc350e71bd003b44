//! Lookups that wait, in order, and those that run.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hushswarm_circuits::target::Target;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use super::pace::Pace;
use super::walk::{self, What, World};
use super::{Finding, Found, Full, Outcome, PeerFinder};
use crate::config::LookupLimits;
use crate::krpc::{Goal, Id, Item, ItemName};
use crate::route::Outside;

/// Parts of an answer that wait for whoever asked; a lookup whose asker is slower waits too.
const MAX_FOUND: usize = 8;

/// What lookups need to know.
#[derive(Clone)]
pub struct Options {
    /// Nodes at which lookups by datagrams begin.
    pub bootstrap: Vec<Target>,
    /// Limits of all lookups together.
    pub limits: LookupLimits,
    /// Nodes and peers may be at private addresses: for test networks only (leaks L49).
    pub allow_private: bool,
}

/// Looks for peers in the DHT. Dropping it ends all lookups.
pub struct Dht {
    shared: Arc<Shared>,
    limit: usize,
    task: AbortHandle,
}

struct Job {
    what: What,
    /// Takes where the answer will come.
    turn: oneshot::Sender<mpsc::Receiver<Found>>,
}

/// Bytes of one that waits, in the queue.
#[cfg(test)]
pub(super) const WAITING_SIZE: usize = size_of::<Job>();

struct Shared {
    waiting: Mutex<VecDeque<Job>>,
    came: Notify,
    running: AtomicUsize,
    ended: AtomicU64,
    found: AtomicU64,
    queries: AtomicU64,
    full: AtomicU64,
}

/// What the lookups of this process did: counts, never what for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Wait their turn.
    pub waiting: usize,
    /// Run now.
    pub running: usize,
    /// Have ended, with or without peers.
    pub ended: u64,
    /// Peers found.
    pub found: u64,
    /// Queries sent as datagrams.
    pub queries: u64,
    /// Lookups that found too many waiting.
    pub full: u64,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first whom somebody still waits for.
    fn pop(&self) -> Option<Job> {
        let mut waiting = self.waiting();
        while let Some(job) = waiting.pop_front() {
            if !job.turn.is_closed() {
                return Some(job);
            }
        }
        None
    }
}

impl Dht {
    /// Looks up through `outside`. Call within a tokio runtime.
    pub fn new(outside: Arc<dyn Outside>, options: Options) -> Self {
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            came: Notify::new(),
            running: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
            found: AtomicU64::new(0),
            queries: AtomicU64::new(0),
            full: AtomicU64::new(0),
        });
        let number = |number: std::num::NonZeroU32| usize::try_from(number.get());
        let limit = number(options.limits.waiting).unwrap_or(usize::MAX);
        let at_once = number(options.limits.at_once).unwrap_or(1);
        let dispatcher = Dispatcher {
            shared: Arc::clone(&shared),
            pace: Arc::new(Pace::new(&options.limits)),
            places: Arc::new(Semaphore::new(at_once)),
            world: Arc::new(World {
                outside,
                bootstrap: options.bootstrap,
                allow_private: options.allow_private,
            }),
        };
        let task = tokio::spawn(dispatcher.run()).abort_handle();
        Self {
            shared,
            limit,
            task,
        }
    }
}

impl PeerFinder for Dht {
    fn find(&self, infohash: [u8; 20], attempt: u16) -> Result<Finding, Full> {
        self.begin(What {
            target: Id(infohash),
            goal: Goal::Peers,
            attempt,
        })
    }

    fn counters(&self) -> Counters {
        let shared = &self.shared;
        Counters {
            waiting: shared.waiting().len(),
            running: shared.running.load(Ordering::Relaxed),
            ended: shared.ended.load(Ordering::Relaxed),
            found: shared.found.load(Ordering::Relaxed),
            queries: shared.queries.load(Ordering::Relaxed),
            full: shared.full.load(Ordering::Relaxed),
        }
    }
}

impl Dht {
    /// Looks for an item (BEP 44). `attempt` is as in [`PeerFinder::find`].
    ///
    /// # Errors
    /// Too many wait already: try again later.
    pub fn get(&self, name: ItemName, attempt: u16) -> Result<Finding, Full> {
        self.begin(What {
            target: name.target(),
            goal: Goal::Get(name),
            attempt,
        })
    }

    /// Puts an item where it is looked for (BEP 44). Nodes forget it after two hours.
    ///
    /// # Errors
    /// Too many wait already: try again later.
    pub fn put(&self, item: Item, attempt: u16) -> Result<Finding, Full> {
        self.begin(What {
            target: item.target(),
            goal: Goal::Put(item),
            attempt,
        })
    }

    fn begin(&self, what: What) -> Result<Finding, Full> {
        let (turn, comes) = oneshot::channel();
        let mut waiting = self.shared.waiting();
        if waiting.len() >= self.limit {
            // Whoever gave up makes room.
            waiting.retain(|job| !job.turn.is_closed());
        }
        if waiting.len() >= self.limit {
            self.shared.full.fetch_add(1, Ordering::Relaxed);
            return Err(Full(waiting.len()));
        }
        let ahead = waiting.len();
        waiting.push_back(Job { what, turn });
        drop(waiting);
        self.shared.came.notify_one();
        Ok(Finding::waiting(comes, ahead))
    }
}

impl Drop for Dht {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for Dht {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dht")
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

/// Begins one lookup after another.
struct Dispatcher {
    shared: Arc<Shared>,
    pace: Arc<Pace>,
    places: Arc<Semaphore>,
    world: Arc<World>,
}

impl Dispatcher {
    async fn run(self) {
        // They end with this task.
        let mut lookups = JoinSet::new();
        loop {
            while self.shared.waiting().is_empty() {
                self.shared.came.notified().await;
            }
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                return;
            };
            while lookups.try_join_next().is_some() {}
            let alone = self.shared.running.load(Ordering::Relaxed) == 0
                && self.shared.waiting().len() == 1;
            self.pace.begin(alone).await;
            // Only now, since somebody may have given up meanwhile.
            let Some(job) = self.shared.pop() else {
                continue;
            };
            let (shared, pace) = (Arc::clone(&self.shared), Arc::clone(&self.pace));
            let world = Arc::clone(&self.world);
            lookups.spawn(async move {
                let _place = place;
                shared.running.fetch_add(1, Ordering::Relaxed);
                let _running = Running(&shared);
                job.run(&world, &pace, &shared).await;
            });
        }
    }
}

/// Counts down, however the lookup ends.
struct Running<'a>(&'a Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

impl Job {
    async fn run(self, world: &World, pace: &Pace, shared: &Shared) {
        let (found, receiver) = mpsc::channel(MAX_FOUND);
        if self.turn.send(receiver).is_err() || found.send(Found::Begun).await.is_err() {
            return;
        }
        let walk = walk::run(world, pace, &self.what, &found, &shared.queries);
        let outcome = tokio::select! {
            outcome = walk => outcome,
            // Nobody waits for it any more.
            () = found.closed() => return,
        };
        match outcome {
            Outcome::Peers(found) => {
                pace.ended(true);
                shared.found.fetch_add(found as u64, Ordering::Relaxed);
            }
            Outcome::Items(_) | Outcome::Stored(_) => pace.ended(true),
            Outcome::NoNetwork
            | Outcome::CircuitLost
            | Outcome::NoExit
            | Outcome::Busy
            | Outcome::Silence => pace.ended(false),
            // Says nothing about the network.
            Outcome::Forbidden | Outcome::NoBootstrap => {}
        }
        tracing::debug!(
            ?outcome,
            waiting = shared.waiting().len(),
            running = shared.running.load(Ordering::Relaxed),
            queries = shared.queries.load(Ordering::Relaxed),
            "DHT lookup ended"
        );
        let _ = found.send(Found::Over(outcome)).await;
    }
}
