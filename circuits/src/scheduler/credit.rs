//! Hop credits, the receiver's half: what the neighbour may still send on one circuit (PROTOCOL.md §6.2).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{FIRST_CREDIT, MAX_CREDIT};
use crate::frame::BULK_LEN;

/// In what time all frames of a circuit's limit must have passed for the limit to double. So a limit stays below what
/// passes in a second, the round trip of a very long link.
pub const GROW_WITHIN: Duration = Duration::from_millis(500);

/// Memory that the circuits of a process may promise beyond their first credits. Clones share it.
#[derive(Clone, Debug)]
pub struct CreditBudget(Arc<AtomicUsize>);

impl CreditBudget {
    /// A budget of this many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Bytes that nobody has taken.
    pub fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes room for this many frames, or nothing.
    fn take(&self, frames: u32) -> bool {
        let bytes = bytes_of(frames);
        // A plain counter: it guards no other memory, so no ordering is needed.
        let took = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            });
        took.is_ok()
    }

    fn give_back(&self, frames: u32) {
        self.0.fetch_add(bytes_of(frames), Ordering::Relaxed);
    }
}

fn bytes_of(frames: u32) -> usize {
    usize::try_from(frames)
        .unwrap_or(usize::MAX)
        .saturating_mul(BULK_LEN)
}

/// The neighbour sent DATA without credit: destroy the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("DATA without credit")]
pub struct CreditOverrun;

/// Counts what the neighbour may still send on one direction of a circuit.
///
/// Always `granted, not yet come + come, not yet gone + gone, not yet granted again = limit`; the limit grows out of
/// a [`CreditBudget`], which gets it back when the gate is dropped.
#[derive(Debug)]
pub struct CreditGate {
    /// Frames that the neighbour may still send, those on their way included.
    open: u32,
    /// Frames that came and have not gone on.
    held: u32,
    limit: u32,
    /// Frames that went on since then.
    gone: u32,
    since: Option<Instant>,
    budget: CreditBudget,
}

impl CreditGate {
    /// The gate of a new circuit, with [`FIRST_CREDIT`] open.
    pub fn new(budget: CreditBudget) -> Self {
        Self {
            open: FIRST_CREDIT,
            held: 0,
            limit: FIRST_CREDIT,
            gone: 0,
            since: None,
            budget,
        }
    }

    /// Frames that may be held or come: at most [`MAX_CREDIT`].
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Frames that came and have not gone on.
    pub fn held(&self) -> u32 {
        self.held
    }

    /// Frames that the neighbour may still send.
    pub fn open(&self) -> u32 {
        self.open
    }

    /// Counts a DATA frame that came.
    ///
    /// # Errors
    /// The neighbour had no credit: destroy the circuit.
    pub fn take(&mut self) -> Result<(), CreditOverrun> {
        self.open = self.open.checked_sub(1).ok_or(CreditOverrun)?;
        self.held += 1;
        Ok(())
    }

    /// Counts a frame as gone on: written to the next link, or taken in by the end point. Gives the credits that the
    /// neighbour is now owed (for [`super::Scheduler::owe`]), which count as granted from here on. While the circuit
    /// drains quickly these are more than one.
    pub fn departed(&mut self, now: Instant) -> u32 {
        if self.held == 0 {
            return 0;
        }
        self.held -= 1;
        self.gone += 1;
        let since = *self.since.get_or_insert(now);
        let mut owed = 1;
        if self.gone >= self.limit {
            let quick = now.saturating_duration_since(since) <= GROW_WITHIN;
            let more = self.limit.min(MAX_CREDIT - self.limit);
            // One that holds half its limit waits for the next link, not for credit.
            if quick && more > 0 && self.held <= self.limit / 2 && self.budget.take(more) {
                self.limit += more;
                owed += more;
            }
            self.gone = 0;
            self.since = None;
        }
        self.granted(owed);
        owed
    }

    /// Counts credits as granted.
    fn granted(&mut self, credits: u32) {
        self.open += credits;
        debug_assert!(
            self.open + self.held <= self.limit,
            "granted beyond the limit"
        );
    }
}

impl Drop for CreditGate {
    fn drop(&mut self) {
        self.budget.give_back(self.limit - FIRST_CREDIT);
    }
}
