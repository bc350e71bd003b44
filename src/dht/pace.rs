//! How fast this user's lookups go, all together, so that a thousand magnet links don't become a flood.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use rand::RngExt as _;
use tokio::time::Instant;

use crate::config::{LookupLimits, at_least_one};
use crate::krpc::To;

/// Lookups that may begin without a wait, after a rest.
const BURST: NonZeroU32 = at_least_one(4);

/// Queries that one node gets without a wait, and then in a second: a lookup asks a node twice at most, so what exceeds this
/// is many lookups at the same node.
const PER_NODE: NonZeroU32 = at_least_one(4);

/// Node addresses remembered for it; beyond that, those that were quiet are forgotten.
const MAX_NODES: usize = 10_000;

/// A lookup begins up to so long after it could, drawn at random: who sees them begin at several exits can't tell by the time
/// that they were added together.
const JITTER: Duration = Duration::from_millis(1500);

/// The same for one that is alone: there is nobody to be told apart from, and the user waits.
const ALONE_JITTER: Duration = Duration::from_millis(50);

/// The longest pause between lookups, while they keep failing.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The pause after the first that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The time as tokio sees it, which tests can hold.
#[derive(Clone, Debug)]
pub(super) struct Ticks(Instant);

impl Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}

type Direct = RateLimiter<NotKeyed, InMemoryState, Ticks, NoOpMiddleware<Nanos>>;
/// A node, or the number of one to begin at.
type Node = Result<SocketAddr, usize>;
type ByNode = RateLimiter<Node, DefaultKeyedStateStore<Node>, Ticks, NoOpMiddleware<Nanos>>;

/// The pace of all lookups of a user.
pub(super) struct Pace {
    clock: Ticks,
    begins: Direct,
    queries: Direct,
    by_node: ByNode,
    /// Lookups that failed in a row, for reasons that other lookups share.
    failures: Mutex<u32>,
}

impl Pace {
    pub(super) fn new(limits: &LookupLimits) -> Self {
        let clock = Ticks(Instant::now());
        let begins = Quota::per_minute(limits.per_minute).allow_burst(BURST.min(limits.per_minute));
        Self {
            begins: RateLimiter::direct_with_clock(begins, clock.clone()),
            queries: RateLimiter::direct_with_clock(
                Quota::per_second(limits.queries_per_second),
                clock.clone(),
            ),
            by_node: RateLimiter::new(
                Quota::per_second(PER_NODE),
                DefaultKeyedStateStore::default(),
                clock.clone(),
            ),
            clock,
            failures: Mutex::new(0),
        }
    }

    /// Waits until the next lookup may begin; `alone`: no other waits or runs.
    pub(super) async fn begin(&self, alone: bool) {
        while let Err(not_yet) = self.begins.check() {
            let wait = not_yet.wait_time_from(self.clock.now());
            tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
        }
        let most = if alone { ALONE_JITTER } else { JITTER };
        let jitter = rand::rng().random_range(Duration::ZERO..most);
        tokio::time::sleep(jitter + self.pause()).await;
    }

    /// Whether a query to this node may leave now.
    pub(super) fn query(&self, to: &To) -> bool {
        if self.by_node.len() > MAX_NODES {
            self.by_node.retain_recent();
        }
        let node = match to {
            To::Node(addr) => Ok(*addr),
            To::Bootstrap(number) => Err(*number),
        };
        self.queries.check().is_ok() && self.by_node.check_key(&node).is_ok()
    }

    /// A lookup ended; `well` where somebody answered.
    pub(super) fn ended(&self, well: bool) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures = if well { 0 } else { failures.saturating_add(1) };
    }

    /// How long to wait besides, since lookups fail.
    fn pause(&self) -> Duration {
        let failures = *self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match failures {
            0 => Duration::ZERO,
            n => FIRST_PAUSE
                .saturating_mul(1 << n.min(6).saturating_sub(1))
                .min(LONGEST_PAUSE),
        }
    }
}
