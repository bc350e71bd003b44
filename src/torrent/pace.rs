//! How fast payload may go: limits of one torrent and of all together. Pure: it is told the time and says when it is somebody's turn.
//!
//! Who wants to move bytes takes a `Turn` for them and waits until it has come. Turns are given in the order in which they are
//! taken, so that of many connections none starves, and each direction has its own. What is given back makes room for the next.
//! Only blocks count: messages are never held up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::storage::lock;
use super::wire::BLOCK;

/// Most bytes of one turn: what a connection reads and sends at a time.
pub const MAX_TURN: u32 = 256 << 10;

/// A turn takes this part of a second of the whole rate, but a block at least.
const TURNS_A_SECOND: u64 = 8;

/// Time that nobody used and that may be used later: clocks wake a little late.
const CATCH_UP: Duration = Duration::from_millis(200);

/// No turn lies further ahead: who waits longer asks again, as limits change.
const FAR: Duration = Duration::from_secs(3600);

/// Limits on payload, bytes per second; `None` is no limit. A limit below one block (16 KiB) per second still moves, block by block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// What comes.
    pub down: Option<u64>,
    /// What is given.
    pub up: Option<u64>,
}

/// What may move in one direction.
#[derive(Debug)]
struct Meter {
    /// Bytes per second; `u64::MAX` is no limit.
    rate: AtomicU64,
    /// When everything that was promised will have moved.
    free_at: Mutex<Option<Instant>>,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            rate: AtomicU64::new(u64::MAX),
            free_at: Mutex::new(None),
        }
    }
}

impl Meter {
    fn rate(&self) -> Option<u64> {
        Some(self.rate.load(Ordering::Relaxed)).filter(|&rate| rate != u64::MAX)
    }

    /// Tells whether the limit changed.
    fn set(&self, limit: Option<u64>) -> bool {
        // At least a byte, so that no turn lies beyond all time.
        let rate = limit.map_or(u64::MAX, |rate| rate.clamp(1, u64::MAX - 1));
        let changed = self.rate.swap(rate, Ordering::Relaxed) != rate;
        if changed {
            // What was promised at the old rate does not count against the new one.
            *lock(&self.free_at) = None;
        }
        changed
    }

    /// When these bytes may move.
    fn take(&self, now: Instant, bytes: u64) -> Instant {
        let Some(rate) = self.rate() else {
            return now;
        };
        let mut free_at = lock(&self.free_at);
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        let start = free_at.map_or(now, |at| at.max(earliest));
        let end = start + time_of(bytes, rate);
        // Beyond that nobody is let in, and nothing is promised.
        if start > now + FAR {
            return now + FAR;
        }
        *free_at = Some(end);
        start.max(now)
    }

    fn give_back(&self, bytes: u64) {
        if let Some(rate) = self.rate() {
            let mut free_at = lock(&self.free_at);
            *free_at = free_at.map(|at| at.checked_sub(time_of(bytes, rate)).unwrap_or(at));
        }
    }
}

/// How long this takes.
fn time_of(bytes: u64, rate: u64) -> Duration {
    let seconds = bytes as f64 / rate.max(1) as f64;
    Duration::from_secs_f64(seconds.min(FAR.as_secs_f64()))
}

/// Limits that are shared, and what of them is used.
#[derive(Debug, Default)]
pub struct Budget {
    down: Meter,
    up: Meter,
    /// Counts changes, so that who waits by an old limit asks again.
    changes: AtomicU64,
}

impl Budget {
    /// A budget with these limits.
    pub fn new(limits: Limits) -> Arc<Self> {
        let budget = Self::default();
        budget.set(limits);
        Arc::new(budget)
    }

    /// Sets the limits, from now on. What was asked of peers before comes all the same.
    pub fn set(&self, limits: Limits) {
        let changed = [self.down.set(limits.down), self.up.set(limits.up)];
        if changed.contains(&true) {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        Limits {
            down: self.down.rate(),
            up: self.up.rate(),
        }
    }

    fn meter(&self, way: Direction) -> &Meter {
        match way {
            Direction::Down => &self.down,
            Direction::Up => &self.up,
        }
    }
}

/// Which way payload goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Down,
    Up,
}

/// The limits that count for one torrent: its own, and that of all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace {
    pub(crate) torrent: Arc<Budget>,
    pub(crate) all: Arc<Budget>,
}

/// A promise: so many bytes may move from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) at: Instant,
    pub(crate) bytes: u64,
    changes: u64,
}

impl Pace {
    fn budgets(&self) -> [&Budget; 2] {
        [&self.torrent, &self.all]
    }

    /// Whether this direction is limited at all.
    pub(crate) fn is_limited(&self, way: Direction) -> bool {
        let mut budgets = self.budgets().into_iter();
        budgets.any(|budget| budget.meter(way).rate().is_some())
    }

    /// Bytes to take a turn for: few where little may move, so that others have theirs soon.
    pub(crate) fn turn_len(&self, way: Direction) -> u32 {
        let rates = self.budgets().map(|budget| budget.meter(way).rate());
        let Some(least) = rates.into_iter().flatten().min() else {
            return MAX_TURN;
        };
        let part = (least / TURNS_A_SECOND).min(u64::from(MAX_TURN)) as u32;
        (part / BLOCK * BLOCK).max(BLOCK)
    }

    fn changes(&self) -> u64 {
        let changes = self.budgets().map(|b| b.changes.load(Ordering::Relaxed));
        changes.iter().fold(0, |sum, n| sum.wrapping_add(*n))
    }

    /// Takes a turn for these bytes. Where nothing is limited it has come already.
    pub(crate) fn take(&self, now: Instant, way: Direction, bytes: u64) -> Turn {
        let changes = self.changes();
        let turns = self.budgets().map(|b| b.meter(way).take(now, bytes));
        Turn {
            at: turns.into_iter().max().unwrap_or(now),
            bytes,
            changes,
        }
    }

    /// Whether a turn counts by limits that are not the present ones: take another.
    pub(crate) fn is_stale(&self, turn: &Turn) -> bool {
        turn.changes != self.changes()
    }

    /// Gives back what of a turn was not or will not be used.
    pub(crate) fn give_back(&self, way: Direction, bytes: u64) {
        if bytes > 0 {
            self.budgets()
                .into_iter()
                .for_each(|budget| budget.meter(way).give_back(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace(torrent: Option<u64>, all: Option<u64>) -> Pace {
        let limits = |down| Limits { down, up: None };
        Pace {
            torrent: Budget::new(limits(torrent)),
            all: Budget::new(limits(all)),
        }
    }

    /// Bytes that these move in so many seconds, each by turns that it takes one behind the other.
    fn moved(paces: &[&Pace], seconds: u32) -> Vec<u64> {
        let start = Instant::now();
        let mut now = vec![start; paces.len()];
        let mut moved = vec![0; paces.len()];
        let end = start + SECOND * seconds;
        while let Some((n, at)) = (now.iter().enumerate().min_by_key(|(_, at)| **at))
            .map(|(n, at)| (n, *at))
            .filter(|(_, at)| *at < end)
        {
            let bytes = u64::from(paces[n].turn_len(Direction::Down));
            let turn = paces[n].take(at, Direction::Down, bytes);
            // A clock that wakes a little late.
            now[n] = turn.at + Duration::from_millis(1);
            moved[n] += if turn.at < end { bytes } else { 0 };
        }
        moved
    }

    #[test]
    fn a_limit_is_kept_and_reached() {
        for limit in [1_000_u64, 50_000, 3_000_000, 100_000_000] {
            let pace = pace(Some(limit), None);
            let sum = moved(&[&pace], 100)[0];
            let turn = u64::from(pace.turn_len(Direction::Down));
            assert!(sum >= limit * 99, "{limit}: {sum}");
            assert!(sum <= limit * 101 + turn, "{limit}: {sum}");
        }
    }

    #[test]
    fn what_all_may_is_shared_by_turns_and_the_own_limit_counts_too() {
        let all = Budget::new(Limits {
            down: Some(1_000_000),
            up: None,
        });
        let free = |_| Pace {
            torrent: Arc::default(),
            all: Arc::clone(&all),
        };
        let paces: Vec<Pace> = (0..10).map(free).collect();
        let slow = Pace {
            torrent: pace(Some(20_000), None).torrent,
            all: Arc::clone(&all),
        };
        let mut each: Vec<&Pace> = paces.iter().collect();
        each.push(&slow);
        let sums = moved(&each, 60);
        let sum: u64 = sums.iter().sum();
        assert!((58_000_000..=61_500_000).contains(&sum), "{sum}");
        let (least, most) = (sums[..10].iter().min(), sums[..10].iter().max());
        assert!(most.unwrap_or(&0) - least.unwrap_or(&0) <= 256 << 10);
        assert!(sums[10] <= 20_000 * 61 + 32_768, "{}", sums[10]);
    }

    #[test]
    fn less_than_a_block_a_second_still_moves_and_so_does_nearly_nothing() {
        let slow = pace(Some(100), None);
        let sum = moved(&[&slow], 1000)[0];
        assert!((98_304..=131_072).contains(&sum), "{sum}");
        let pace = pace(Some(0), None);
        assert_eq!(moved(&[&pace], 1000)[0], 16_384);
    }

    #[test]
    fn the_other_direction_is_free_and_no_limit_is_no_wait() {
        let pace = pace(Some(1), None);
        let now = Instant::now();
        for _ in 0..1000 {
            assert_eq!(pace.take(now, Direction::Up, 1 << 20).at, now);
        }
        assert!(!pace.is_limited(Direction::Up) && pace.is_limited(Direction::Down));
        assert_eq!(pace.turn_len(Direction::Up), MAX_TURN);
    }

    #[test]
    fn what_is_given_back_is_for_the_next() {
        let pace = pace(Some(16_384), None);
        let now = Instant::now();
        pace.take(now, Direction::Down, 16_384);
        pace.give_back(Direction::Down, 16_384);
        assert_eq!(pace.take(now, Direction::Down, 16_384).at, now);
        assert_eq!(pace.take(now, Direction::Down, 1).at, now + SECOND);
    }

    #[test]
    fn a_new_limit_makes_old_turns_stale_and_forgets_what_they_promised() {
        let pace = pace(Some(1), None);
        let now = Instant::now();
        pace.take(now, Direction::Down, 1 << 20);
        let turn = pace.take(now, Direction::Down, 1 << 20);
        assert!(turn.at > now + SECOND * 60 && !pace.is_stale(&turn));
        let limits = Limits {
            down: Some(1 << 20),
            up: Some(5),
        };
        pace.all.set(limits);
        assert!(pace.is_stale(&turn));
        pace.torrent.set(Limits::default());
        assert_eq!(pace.take(now, Direction::Down, 1).at, now);
        assert_eq!(pace.all.limits(), limits);
        // Setting what stands already disturbs nobody.
        let turn = pace.take(now, Direction::Up, 1);
        pace.all.set(limits);
        assert!(!pace.is_stale(&turn));
    }

    #[test]
    fn no_turn_lies_beyond_an_hour_however_many_wait() {
        let pace = pace(Some(1), None);
        let now = Instant::now();
        for _ in 0..100 {
            let turn = pace.take(now, Direction::Down, u64::MAX);
            assert!(turn.at <= now + FAR);
        }
    }
}
