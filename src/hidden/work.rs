//! A visitor's work for its introductions (PROTOCOL.md §8.8): on threads of its own, a bounded number at once, as much as is reasonable and
//! no more, and none any more once nobody waits for it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use hushswarm_circuits::rendezvous::work::MAX_EFFORT;
use hushswarm_circuits::rendezvous::{Challenge, IntroductionId, Nonce, Solver};
use tokio::sync::Semaphore;
use tracing::warn;

/// Introductions worked for at once in this process, whatever torrents they are for: each takes a core.
const AT_ONCE: usize = 2;
static PLACES: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(AT_ONCE)));
/// Tries between looks at whether somebody still waits: 10 ms.
const BATCH: u32 = 64;

/// What the user is told.
const WORKING: &str = "a hidden seed has more visitors than it can take, and asks for work of this computer before it lets anybody in: until that is over, to reach it takes up to half a minute more";
const TOO_MUCH: &str = "where a hidden seed is to be reached, more work is asked for than any seed needs: it is not done, and the seed is looked for elsewhere";

/// Why none was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoWork {
    /// More is asked for than we do.
    TooMuch,
    /// It broke off.
    Failed,
}

/// Does the work of one visitor, whatever it visits.
pub(super) struct Worker {
    places: Arc<Semaphore>,
    /// The user knows that it works, and that more was asked for.
    said: Arc<[AtomicBool; 2]>,
    /// What it works for now, or waits to.
    busy: AtomicUsize,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            places: Arc::clone(&PLACES),
            said: Arc::default(),
            busy: AtomicUsize::new(0),
        }
    }
}

/// Tells the work that nobody waits for it any more.
struct Waits(Arc<AtomicBool>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Counts as busy, until this is dropped.
struct Busy<'a>(&'a AtomicUsize);

impl<'a> Busy<'a> {
    fn new(busy: &'a AtomicUsize) -> Self {
        busy.fetch_add(1, Ordering::Relaxed);
        Self(busy)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    /// The same for one visit: what that works for is told apart.
    pub(super) fn for_one(&self) -> Self {
        Self {
            places: Arc::clone(&self.places),
            said: Arc::clone(&self.said),
            busy: AtomicUsize::new(0),
        }
    }

    /// Whether it works, or waits to.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    /// Finds what meets the challenge for this message to who has the key. When this is dropped the work ends soon.
    pub(super) async fn find(
        &self,
        challenge: &Challenge,
        key: &IntroductionId,
        message: &[u8],
    ) -> Result<Nonce, NoWork> {
        if challenge.effort() > MAX_EFFORT {
            self.say(1, TOO_MUCH);
            return Err(NoWork::TooMuch);
        }
        let solver = Solver::new(challenge, key, message, &mut rand::rng());
        self.solve(solver).await
    }

    async fn solve(&self, mut solver: Solver) -> Result<Nonce, NoWork> {
        let _busy = Busy::new(&self.busy);
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|_| NoWork::Failed)?;
        self.say(0, WORKING);
        let over = Arc::new(AtomicBool::new(false));
        let _waits = Waits(Arc::clone(&over));
        let found = tokio::task::spawn_blocking(move || {
            // A place is free when the thread is.
            let _place = place;
            while !over.load(Ordering::Relaxed) {
                if let Some(found) = solver.attempt(BATCH) {
                    return Some(found);
                }
            }
            None
        });
        found.await.ok().flatten().ok_or(NoWork::Failed)
    }

    fn say(&self, which: usize, what: &str) {
        if !self.said[which].swap(true, Ordering::Relaxed) {
            warn!("{what}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use hushswarm_circuits::rendezvous::Puzzle;

    use super::*;

    const KEY: IntroductionId = IntroductionId([7; 32]);

    fn challenge(effort: u32) -> Challenge {
        Puzzle::generate(effort, &mut rand::rng()).challenge(&[1; 16])
    }

    #[tokio::test]
    async fn what_is_found_meets_the_challenge_and_more_than_is_reasonable_is_not_begun() {
        let worker = Worker::default();
        let easy = challenge(20);
        let found = worker.find(&easy, &KEY, b"message").await.unwrap();
        assert!(easy.is_met(&KEY, b"message", &found));
        let absurd = challenge(MAX_EFFORT + 1);
        let refused = worker.find(&absurd, &KEY, b"message").await;
        assert_eq!(refused, Err(NoWork::TooMuch));
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_ends_and_gives_its_place_back() {
        // Of one torrent and of another: they have the same places.
        let workers = [Worker::default(), Worker::default()];
        // So hard that it would take days, but for one in millions.
        let hard = challenge(u32::MAX);
        for n in 0..2 * AT_ONCE {
            let solver = Solver::new(&hard, &KEY, b"message", &mut rand::rng());
            let worker = &workers[n % 2];
            let solving = worker.solve(solver);
            let limit = Duration::from_millis(50);
            assert!(tokio::time::timeout(limit, solving).await.is_err());
            assert!(!worker.is_busy());
        }
        // A batch of tries at the most; otherwise never.
        let all = workers[0].places.acquire_many(AT_ONCE as u32);
        let all = tokio::time::timeout(Duration::from_secs(30), all).await;
        assert!(all.is_ok(), "the threads work on for nobody");
        let solver = Solver::new(&challenge(1), &KEY, b"message", &mut rand::rng());
        let waits = workers[1].solve(solver);
        let waits = tokio::time::timeout(Duration::from_millis(50), waits).await;
        assert!(waits.is_err(), "more work than there are places for");
        drop(all);
        let easy = challenge(1);
        assert!(workers[1].find(&easy, &KEY, b"message").await.is_ok());
    }
}
