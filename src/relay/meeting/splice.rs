//! Two streams that have met: what comes from one goes to the other, each way, and so does what ends them.
//!
//! Memory is bounded by both windows: what was taken from one counts as consumed when the other has it, and a batch of cells
//! is held in between.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hushswarm_circuits::body::{EndReason, Payload};
use hushswarm_circuits::circuit::mux::Recv;
use hushswarm_circuits::rendezvous::Status;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::end::End;
use crate::relay::exit::Ended;

/// Cells taken at once: as many bytes as a stream's queue takes.
const BATCH: usize = 16;

/// A pair that says nothing for so long is parted, so that nobody holds places for nothing: peers say something every two minutes (BEP 3).
const IDLE: Duration = Duration::from_secs(600);

/// Who joins.
pub(super) struct Joiner {
    pub(super) end: End,
    /// Closed when the joiner's circuit is gone.
    pub(super) gone: oneshot::Receiver<()>,
    /// Told how its stream ended.
    pub(super) done: oneshot::Sender<Result<(), Ended>>,
}

/// Which end was cut off, and how.
enum CutOff {
    From(EndReason),
    To(EndReason),
}

/// Counts a pair as long as it is there.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells both that they have met, and carries what they say until both have ended. Gives how the waiter's stream ended.
pub(super) async fn splice(
    count: &AtomicUsize,
    mut waiter: End,
    joiner: Joiner,
) -> Result<(), Ended> {
    let Joiner {
        end: mut joiner,
        gone,
        done,
    } = joiner;
    let _counted = Counted::new(count);
    let early = (waiter.rest.take(), joiner.rest.take());
    let passed = AtomicU64::new(0);
    let carried = async {
        let said = async {
            waiter
                .say(Status::Done)
                .await
                .map_err(|_| lost(&waiter, true))?;
            joiner
                .say(Status::Done)
                .await
                .map_err(|_| lost(&joiner, false))
        };
        said.await?;
        let onward = async {
            let carried = pass(early.0, &waiter, &joiner, &passed).await;
            carried.map_err(|cut| match cut {
                CutOff::From(reason) => (true, reason),
                CutOff::To(reason) => (false, reason),
            })
        };
        let back = async {
            let carried = pass(early.1, &joiner, &waiter, &passed).await;
            carried.map_err(|cut| match cut {
                CutOff::From(reason) => (false, reason),
                CutOff::To(reason) => (true, reason),
            })
        };
        tokio::try_join!(onward, back).map(drop)
    };
    let carried = tokio::select! {
        carried = carried => carried,
        // Its circuit was destroyed.
        _ = gone => Err((false, EndReason::Reset)),
        () = idle(&passed) => {
            let timed_out = || Err(Ended::Reset(EndReason::TimedOut));
            let _ = done.send(timed_out());
            return timed_out();
        }
    };
    // Who was not cut off is told what happened to the other.
    let (waiters, joiners) = match carried {
        Ok(()) => (Ok(()), Ok(())),
        Err((true, reason)) => (Err(Ended::ByOrigin), Err(Ended::Reset(reason))),
        Err((false, reason)) => (Err(Ended::Reset(reason)), Err(Ended::ByOrigin)),
    };
    // Where nobody hears it, the joiner's circuit is gone.
    let _ = done.send(joiners);
    waiters
}

/// Waits until nothing has passed for a while.
async fn idle(passed: &AtomicU64) {
    let mut before = passed.load(Ordering::Relaxed);
    loop {
        sleep(IDLE).await;
        let now = passed.load(Ordering::Relaxed);
        if now == before {
            return;
        }
        before = now;
    }
}

/// How a stream was cut off that takes nothing any more.
fn lost(end: &End, waiter: bool) -> (bool, EndReason) {
    let reason = end.circuit.with(|mux| mux.cut_off(end.stream));
    (waiter, reason.unwrap_or(EndReason::Reset))
}

/// Passes on what comes from one end, until that ends, and counts it.
async fn pass(
    early: Option<Payload>,
    from: &End,
    to: &End,
    passed: &AtomicU64,
) -> Result<(), CutOff> {
    let pool = to.circuit.link().pool().clone();
    let mut cells: VecDeque<Payload> = early.into_iter().collect();
    loop {
        let state = from.circuit.with(|mux| {
            while cells.len() < BATCH {
                match mux.recv(from.stream) {
                    Recv::Data(cell) => cells.push_back(cell),
                    other @ (Recv::Pending | Recv::Finished | Recv::Ended(_)) => return other,
                }
            }
            match mux.cut_off(from.stream) {
                Some(reason) => Recv::Ended(reason),
                None => Recv::Pending,
            }
        });
        if let Recv::Ended(reason) = state {
            return Err(CutOff::From(reason));
        }
        let (sent, cut_off) = to.circuit.with(|mux| {
            let mut sent = 0;
            while let Some(cell) = cells.front_mut() {
                let n = mux.send_bytes(&pool, to.stream, cell);
                sent += n;
                if n < cell.len() {
                    cell.advance(n);
                    break;
                }
                cells.pop_front();
            }
            (sent, mux.cut_off(to.stream))
        });
        if let Some(reason) = cut_off {
            return Err(CutOff::To(reason));
        }
        if sent > 0 {
            passed.fetch_add(sent as u64, Ordering::Relaxed);
            from.circuit
                .with(|mux| mux.consumed(Instant::now(), from.stream, sent));
        }
        if cells.is_empty() && matches!(state, Recv::Finished) {
            to.circuit.with(|mux| mux.finish(to.stream));
            return Ok(());
        }
        if sent > 0 {
            // The other direction is in the same task.
            tokio::task::yield_now().await;
            continue;
        }
        // An end that is cut off wakes both of its own.
        tokio::select! {
            () = from.signals.readable.notified() => {}
            () = to.signals.writable.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pair_is_parted_when_it_has_said_nothing_for_a_while_and_not_before() {
        let passed = AtomicU64::new(7);
        let begun = tokio::time::Instant::now();
        let says = async {
            for _ in 0..5 {
                sleep(IDLE - Duration::from_secs(1)).await;
                passed.fetch_add(1, Ordering::Relaxed);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = says => {}
            () = idle(&passed) => {}
        }
        let last = (IDLE - Duration::from_secs(1)) * 5;
        let after = begun.elapsed();
        assert!(
            after >= last + IDLE && after <= last + 2 * IDLE,
            "{after:?}"
        );
    }
}
