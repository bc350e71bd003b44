//! Stream windows: how much one side may send before the other has read it (PROTOCOL.md §6.1).

use std::time::{Duration, Instant};

/// What either side may send on a new stream before it hears of WINDOW, bytes.
pub const FIRST_WINDOW: u32 = 256 * 1024;
/// What a window grows to, bytes: 16 MiB in a round trip of a second is more than a circuit carries.
pub const MAX_WINDOW: u32 = 16 * 1024 * 1024;
/// What the windows of one circuit may grow beyond their first size in all, bytes: two streams at the maximum, or
/// many at less, so that one circuit's readers who stop reading do not hold the memory of all the others.
pub const GROWTH_BUDGET: u32 = 32 * 1024 * 1024;
/// Longest round trip that counts for growth. A slow sender looks like a long round trip, and this keeps its window
/// below what it sends in four seconds.
pub const MAX_RTT: Duration = Duration::from_secs(1);

/// The shortest round trip seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rtt {
    best: Option<Duration>,
}

impl Rtt {
    /// Takes a measurement, which may be too long but not too short.
    pub fn sample(&mut self, rtt: Duration) {
        self.best = Some(self.best.map_or(rtt, |best| best.min(rtt)));
    }

    /// The round trip, once there was a measurement.
    pub fn get(&self) -> Option<Duration> {
        self.best
    }
}

/// The peer granted more than [`MAX_WINDOW`]: destroy the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("WINDOW grants more than a window may hold")]
pub struct WindowOverflow;

/// The peer sent more than it was granted: destroy the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("DATA beyond the window")]
pub struct WindowOverrun;

/// The sender's half: what may still be sent.
#[derive(Clone, Debug)]
pub struct SendWindow {
    left: u32,
}

impl SendWindow {
    /// The window of a new stream.
    pub fn new() -> Self {
        Self { left: FIRST_WINDOW }
    }

    /// Bytes that may still be sent.
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Counts bytes as sent. The caller has checked [`SendWindow::left`].
    pub fn take(&mut self, bytes: u32) {
        debug_assert!(bytes <= self.left, "checked by the caller");
        self.left = self.left.saturating_sub(bytes);
    }

    /// Takes in a WINDOW.
    ///
    /// # Errors
    /// Destroy the circuit.
    pub fn grant(&mut self, bytes: u32) -> Result<(), WindowOverflow> {
        let left = self
            .left
            .checked_add(bytes)
            .filter(|&left| left <= MAX_WINDOW);
        self.left = left.ok_or(WindowOverflow)?;
        Ok(())
    }
}

impl Default for SendWindow {
    fn default() -> Self {
        Self::new()
    }
}

/// The receiver's half: what the peer may still send, and when to grant more.
///
/// Always `left + (received, not yet read) + freed = size`, so what a stream holds in memory is at most `size`.
#[derive(Clone, Debug)]
pub struct RecvWindow {
    size: u32,
    left: u32,
    freed: u32,
    /// Bytes received since the stream began.
    received: u64,
    /// Since when, and how much of a whole window, was drained.
    drain: Option<Instant>,
    drained: u32,
    /// A byte at this offset can't come before the peer heard of the WINDOW that was due at that time.
    probe: Option<(u64, Instant)>,
}

impl RecvWindow {
    /// The window of a new stream.
    pub fn new() -> Self {
        Self {
            size: FIRST_WINDOW,
            left: FIRST_WINDOW,
            freed: 0,
            received: 0,
            drain: None,
            drained: 0,
            probe: None,
        }
    }

    /// Its size now, bytes: at least what the stream holds.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// By how much it has grown, bytes.
    pub fn growth(&self) -> u32 {
        self.size - FIRST_WINDOW
    }

    /// Counts received bytes, and learns the round trip where they show it.
    ///
    /// # Errors
    /// Destroy the circuit.
    pub fn received(
        &mut self,
        now: Instant,
        bytes: usize,
        rtt: &mut Rtt,
    ) -> Result<(), WindowOverrun> {
        let bytes = u32::try_from(bytes).map_err(|_| WindowOverrun)?;
        self.left = self.left.checked_sub(bytes).ok_or(WindowOverrun)?;
        self.received += u64::from(bytes);
        self.drain.get_or_insert(now);
        if let Some((offset, since)) = self.probe
            && self.received > offset
        {
            rtt.sample(now.saturating_duration_since(since));
            self.probe = None;
        }
        Ok(())
    }

    /// Counts bytes as read by the application. It doubles the window, out of `growth`, when a whole one was drained
    /// within two round trips. `true`: a WINDOW is due.
    pub fn consumed(&mut self, now: Instant, bytes: usize, rtt: Rtt, growth: &mut u32) -> bool {
        // What was never received can't be freed.
        let unread = self.size - self.left - self.freed;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(unread);
        self.freed += bytes;
        self.drained = self.drained.saturating_add(bytes);
        if self.drained >= self.size {
            let quick = self.drain.zip(rtt.get()).is_some_and(|(since, rtt)| {
                now.saturating_duration_since(since) <= 2 * rtt.min(MAX_RTT)
            });
            if quick && self.size < MAX_WINDOW && self.size <= *growth {
                *growth -= self.size;
                self.freed += self.size;
                self.size *= 2;
            }
            self.drained = 0;
            self.drain = None;
        }
        if self.is_due() && self.probe.is_none() {
            self.probe = Some((self.received + u64::from(self.left), now));
        }
        self.is_due()
    }

    /// Whether half the window waits to be granted again.
    pub fn is_due(&self) -> bool {
        self.freed >= self.size / 2
    }

    /// What the next WINDOW grants, bytes; counts as granted.
    pub fn take_grant(&mut self) -> u32 {
        self.left += self.freed;
        std::mem::take(&mut self.freed)
    }
}

impl Default for RecvWindow {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    #![allow(clippy::disallowed_methods)] // tests choose when time starts

    use super::*;
    use proptest::prelude::*;

    const HALF: usize = FIRST_WINDOW as usize / 2;

    fn rtt_of(millis: u64) -> Rtt {
        let mut rtt = Rtt::default();
        rtt.sample(Duration::from_millis(millis));
        rtt
    }

    /// Receives and reads a whole window; it takes `millis`. Gives what was granted.
    fn drain(window: &mut RecvWindow, now: Instant, millis: u64, rtt: Rtt) -> u32 {
        let (size, mut growth) = (window.size() as usize, GROWTH_BUDGET);
        window.received(now, size, &mut Rtt::default()).unwrap();
        let later = now + Duration::from_millis(millis);
        assert!(window.consumed(later, size, rtt, &mut growth));
        window.take_grant()
    }

    #[test]
    fn a_window_is_granted_again_when_half_is_read() {
        let (now, mut window, mut growth) = (Instant::now(), RecvWindow::new(), 0);
        window.received(now, HALF + 5, &mut Rtt::default()).unwrap();
        assert!(!window.consumed(now, HALF - 1, Rtt::default(), &mut growth));
        assert!(window.consumed(now, 1, Rtt::default(), &mut growth));
        assert_eq!(window.take_grant() as usize, HALF);
        assert!(!window.is_due());
    }

    #[test]
    fn it_doubles_only_when_drained_within_two_round_trips() {
        let (now, mut window) = (Instant::now(), RecvWindow::new());
        assert_eq!(drain(&mut window, now, 201, rtt_of(100)), FIRST_WINDOW);
        assert_eq!(drain(&mut window, now, 200, rtt_of(100)), 2 * FIRST_WINDOW);
        assert_eq!(window.size(), 2 * FIRST_WINDOW);
        assert_eq!(
            drain(&mut window, now, 0, Rtt::default()),
            2 * FIRST_WINDOW,
            "unknown rtt"
        );
        assert_eq!(
            drain(&mut window, now, 2001, rtt_of(60_000)),
            2 * FIRST_WINDOW,
            "capped rtt"
        );
    }

    #[test]
    fn it_stops_growing_at_the_maximum_and_without_budget() {
        let (now, mut window, rtt) = (Instant::now(), RecvWindow::new(), rtt_of(100));
        for _ in 0..10 {
            drain(&mut window, now, 0, rtt);
        }
        assert_eq!(window.size(), MAX_WINDOW);
        let (mut window, mut growth) = (RecvWindow::new(), FIRST_WINDOW - 1);
        window.received(now, 2 * HALF, &mut Rtt::default()).unwrap();
        window.consumed(now, 2 * HALF, rtt, &mut growth);
        assert_eq!((window.size(), growth), (FIRST_WINDOW, FIRST_WINDOW - 1));
    }

    #[test]
    fn the_round_trip_shows_when_bytes_come_that_a_window_allowed() {
        let (now, mut window, mut rtt) = (Instant::now(), RecvWindow::new(), Rtt::default());
        window.received(now, HALF, &mut rtt).unwrap();
        assert!(window.consumed(now, HALF, rtt, &mut 0));
        window.take_grant();
        let later = now + Duration::from_millis(70);
        window.received(later, HALF, &mut rtt).unwrap();
        assert_eq!(rtt.get(), None, "the first window allowed these");
        window.received(later, 1, &mut rtt).unwrap();
        assert_eq!(rtt.get(), Some(Duration::from_millis(70)));
    }

    #[test]
    fn more_than_granted_is_an_overrun_and_more_than_the_maximum_an_overflow() {
        let mut window = RecvWindow::new();
        let (now, mut rtt) = (Instant::now(), Rtt::default());
        assert_eq!(
            window.received(now, 2 * HALF + 1, &mut rtt),
            Err(WindowOverrun)
        );
        assert_eq!(
            window.received(now, usize::MAX, &mut rtt),
            Err(WindowOverrun)
        );
        let mut send = SendWindow::new();
        assert_eq!(send.grant(MAX_WINDOW - FIRST_WINDOW), Ok(()));
        assert_eq!(send.grant(1), Err(WindowOverflow));
        assert_eq!(send.grant(u32::MAX), Err(WindowOverflow));
    }

    proptest! {
        #[test]
        fn what_may_come_and_what_is_unread_never_exceed_the_window(
            steps in prop::collection::vec((0u8..3, 0usize..400_000, 0u64..100), 0..200),
        ) {
            let (mut now, mut rtt) = (Instant::now(), rtt_of(80));
            let (mut window, mut growth, mut unread) = (RecvWindow::new(), GROWTH_BUDGET, 0u64);
            for (step, bytes, millis) in steps {
                now += Duration::from_millis(millis);
                match step {
                    0 => if window.received(now, bytes, &mut rtt).is_ok() { unread += bytes as u64 },
                    1 => {
                        window.consumed(now, bytes, rtt, &mut growth);
                        unread = unread.saturating_sub(bytes as u64);
                    }
                    _ => { window.take_grant(); }
                }
                let whole = u64::from(window.left) + u64::from(window.freed) + unread;
                prop_assert_eq!(whole, u64::from(window.size()));
                prop_assert_eq!(window.growth() + growth, GROWTH_BUDGET);
            }
        }
    }
}
