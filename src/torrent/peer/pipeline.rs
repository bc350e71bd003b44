//! How many blocks to have asked for: enough to cover a peer's rate times its round trip and a second more.

use std::time::{Duration, Instant};

use crate::torrent::wire::BLOCK;

/// Blocks asked for at first; doubled for each window that was answered, until the rate stops growing.
const FIRST_WINDOW: u32 = 8;

/// Never fewer than this, so that a slow peer still overlaps answers and questions.
const MIN_WINDOW: u32 = 4;

/// Never more than this: 8 MiB in flight for circuits with long round trips.
pub(super) const MAX_WINDOW: u32 = 500;

/// What a peer takes that did not say (`reqq`, BEP 10); the common value.
const DEFAULT_REQQ: u32 = 250;

/// Beyond the round trip, so that short stalls on either side cost nothing.
const SLACK: Duration = Duration::from_secs(1);

/// A window that is not answered for so long is measured as it is.
const LONGEST_SPAN: Duration = Duration::from_secs(2);

/// Sizes the request window of one peer.
#[derive(Debug)]
pub(super) struct Pipeline {
    window: u32,
    limit: u32,
    /// Bytes per second, smoothed; `None` before the first measurement.
    rate: Option<f64>,
    rtt: Option<Duration>,
    /// The next answer is to a question asked while nothing else was outstanding.
    fresh: bool,
    span_start: Option<Instant>,
    span_blocks: u32,
    span_bytes: u64,
}

impl Pipeline {
    pub(super) fn new() -> Self {
        Self {
            window: FIRST_WINDOW,
            limit: DEFAULT_REQQ,
            rate: None,
            rtt: None,
            fresh: false,
            span_start: None,
            span_blocks: 0,
            span_bytes: 0,
        }
    }

    /// Requests to have outstanding.
    pub(super) fn window(&self) -> usize {
        self.window as usize
    }

    /// The peer says how many requests it holds.
    pub(super) fn set_limit(&mut self, reqq: u32) {
        self.limit = reqq.clamp(MIN_WINDOW, MAX_WINDOW);
        self.window = self.window.min(self.limit);
    }

    /// Requests went out while none were outstanding: measuring starts now.
    pub(super) fn started(&mut self, now: Instant) {
        self.fresh = true;
        self.new_span(now);
    }

    fn new_span(&mut self, now: Instant) {
        self.span_start = Some(now);
        self.span_blocks = 0;
        self.span_bytes = 0;
    }

    /// Starts over slowly, after silence.
    pub(super) fn reset(&mut self) {
        self.window = MIN_WINDOW.min(self.limit);
        self.rate = None;
        self.span_start = None;
    }

    /// A block came that was asked for at `sent`.
    pub(super) fn answered(&mut self, now: Instant, sent: Instant, bytes: u32) {
        let took = now.saturating_duration_since(sent);
        // The least of all, since most answers waited in a queue that we filled ourselves. A question asked into an
        // empty pipe sees the path as it is now.
        let fresh = std::mem::take(&mut self.fresh);
        self.rtt = Some(
            self.rtt
                .filter(|&least| least < took && !fresh)
                .unwrap_or(took),
        );
        let start = *self.span_start.get_or_insert(sent);
        self.span_blocks += 1;
        self.span_bytes += u64::from(bytes);
        let span = now.saturating_duration_since(start);
        if self.span_blocks >= self.window || span >= LONGEST_SPAN {
            self.measure(span);
            self.new_span(now);
        }
    }

    fn measure(&mut self, span: Duration) {
        // A span of no time (a clock that stands) counts as a millisecond.
        let seconds = span.as_secs_f64().max(0.001);
        let measured = self.span_bytes as f64 / seconds;
        let rate = self.rate.map_or(measured, |old| (old + measured) / 2.0);
        self.rate = Some(rate);
        let rtt = self.rtt.unwrap_or_default();
        let goal = measured.max(rate) * (rtt + SLACK).as_secs_f64() / f64::from(BLOCK);
        // `as` saturates; the clamp makes it small.
        let goal = (goal.ceil() as u32).clamp(MIN_WINDOW, MAX_WINDOW);
        self.window = goal
            .min(self.window.saturating_mul(2))
            .min(self.limit)
            .max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a peer with this rate and round trip for a while, and gives the window.
    fn settle(blocks_per_second: u32, rtt: Duration) -> usize {
        let mut pipe = Pipeline::new();
        pipe.set_limit(2000);
        let mut now = Instant::now();
        let mut sent = std::collections::VecDeque::new();
        let gap = Duration::from_secs(1) / blocks_per_second;
        pipe.started(now);
        for _ in 0..5000 {
            while sent.len() < pipe.window() {
                sent.push_back(now);
            }
            let Some(asked) = sent.pop_front() else { break };
            now = (now + gap).max(asked + rtt);
            pipe.answered(now, asked, BLOCK);
        }
        pipe.window()
    }

    #[test]
    fn the_window_covers_rate_times_round_trip_and_a_second() {
        let slow = settle(10, Duration::from_millis(100));
        assert!((9..=30).contains(&slow), "{slow}");
        let far = settle(200, Duration::from_millis(800));
        assert!((300..=500).contains(&far), "{far}");
        assert_eq!(
            settle(60_000, Duration::from_micros(50)),
            MAX_WINDOW as usize
        );
    }

    #[test]
    fn a_peer_that_takes_few_requests_gets_few() {
        let mut pipe = Pipeline::new();
        pipe.set_limit(5);
        assert_eq!(pipe.window(), 5);
        pipe.set_limit(0);
        assert_eq!(pipe.window(), MIN_WINDOW as usize);
    }
}
