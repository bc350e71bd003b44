//! When to pad: keep-alives of a link and DROP cells of a circuit (PROTOCOL.md §2.6, §5).
//!
//! Pure policy: it says when, the caller sends. All times are random, so that they tell nothing of a program's own.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use rand::{CryptoRng, RngExt};

/// After how long without sending a link sends a keep-alive (§2.6).
pub const KEEP_ALIVE: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(20);
/// Most early DROP cells of a circuit, so that a configuration can't flood it.
pub const MAX_EARLY: u32 = 32;
/// Least time between two later DROP cells, for the same reason.
pub const MIN_LATER: Duration = Duration::from_secs(1);
/// Longest time that a configuration may name: no circuit lives longer, and times can't overflow.
pub const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Says when a link must send a keep-alive.
#[derive(Clone, Debug)]
pub struct KeepAlive {
    last_sent: Instant,
    quiet: Duration,
}

impl KeepAlive {
    /// A link that has just sent something.
    pub fn new(now: Instant, rng: &mut dyn CryptoRng) -> Self {
        Self {
            last_sent: now,
            quiet: rng.random_range(KEEP_ALIVE),
        }
    }

    /// Notes that a frame was sent, whatever it was.
    pub fn sent(&mut self, now: Instant) {
        self.last_sent = self.last_sent.max(now);
    }

    /// When to call [`KeepAlive::handle_timeout`].
    pub fn poll_timeout(&self) -> Instant {
        self.last_sent + self.quiet
    }

    /// Whether to send a keep-alive now; counts it as sent.
    pub fn handle_timeout(&mut self, now: Instant, rng: &mut dyn CryptoRng) -> bool {
        let due = now >= self.poll_timeout();
        if due {
            *self = Self::new(now, rng);
        }
        due
    }
}

/// How a circuit is padded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitPaddingConfig {
    /// Whether there is any.
    pub enabled: bool,
    /// How many DROP cells leave while the circuit is young, when its cells would show what it is for; at most
    /// [`MAX_EARLY`].
    pub early: RangeInclusive<u32>,
    /// For how long it is young.
    pub young: Duration,
    /// Time between two later ones; at least [`MIN_LATER`].
    pub later: RangeInclusive<Duration>,
}

impl Default for CircuitPaddingConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            early: 2..=6,
            young: Duration::from_secs(5),
            later: Duration::from_secs(60)..=Duration::from_secs(300),
        }
    }
}

impl CircuitPaddingConfig {
    /// No padding at all.
    pub fn off() -> Self {
        Self {
            enabled: false,
            ..Self::default()
        }
    }
}

/// Says when a circuit's origin sends DROP cells, and to which hop.
#[derive(Clone, Debug)]
pub struct CircuitPadding {
    later: RangeInclusive<Duration>,
    /// Times to come, earliest first; empty when padding is off.
    due: VecDeque<Instant>,
}

/// A number from a range that the user wrote: one that is the wrong way round counts as its lower end.
fn pick<T: Copy + PartialOrd + rand::distr::uniform::SampleUniform>(
    range: &RangeInclusive<T>,
    rng: &mut dyn CryptoRng,
) -> T {
    if range.is_empty() {
        *range.start()
    } else {
        rng.random_range(range.clone())
    }
}

impl CircuitPadding {
    /// Plans the padding of a circuit that is ready now.
    pub fn new(config: &CircuitPaddingConfig, now: Instant, rng: &mut dyn CryptoRng) -> Self {
        let mut padding = Self {
            later: config.later.clone(),
            due: VecDeque::new(),
        };
        if config.enabled {
            let early = pick(&config.early, rng).min(MAX_EARLY);
            let young = config.young.min(MAX_TIME);
            let mut times: Vec<Instant> = (0..early)
                .map(|_| now + rng.random_range(Duration::ZERO..=young))
                .collect();
            times.sort_unstable();
            padding.due.extend(times);
            padding.plan_later(now + young, rng);
        }
        padding
    }

    fn plan_later(&mut self, after: Instant, rng: &mut dyn CryptoRng) {
        self.due
            .push_back(after + pick(&self.later, rng).clamp(MIN_LATER, MAX_TIME));
    }

    /// When to call [`CircuitPadding::handle_timeout`]; `None`: never.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due.front().copied()
    }

    /// The 0-based hop, of `hops`, to send a DROP cell to now. Poll the timeout again after it.
    pub fn handle_timeout(
        &mut self,
        now: Instant,
        hops: usize,
        rng: &mut dyn CryptoRng,
    ) -> Option<usize> {
        if self.poll_timeout().is_none_or(|due| due > now) {
            return None;
        }
        self.due.pop_front();
        if self.due.is_empty() {
            self.plan_later(now, rng);
        }
        (hops > 0).then(|| rng.random_range(0..hops))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)] // tests choose when time starts

    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    /// Runs a circuit's padding for a while; gives when, after the start, which hop got a cell.
    fn run(config: &CircuitPaddingConfig, seed: u64, secs: u64) -> Vec<(Duration, usize)> {
        let (start, mut rng) = (Instant::now(), StdRng::seed_from_u64(seed));
        let mut padding = CircuitPadding::new(config, start, &mut rng);
        let mut sent = Vec::new();
        while let Some(due) = padding.poll_timeout() {
            if due > start + Duration::from_secs(secs) {
                break;
            }
            let early = due.checked_sub(Duration::from_nanos(1));
            assert_eq!(
                early.and_then(|early| padding.handle_timeout(early, 3, &mut rng)),
                None
            );
            sent.extend(
                padding
                    .handle_timeout(due, 3, &mut rng)
                    .map(|hop| (due - start, hop)),
            );
        }
        sent
    }

    proptest! {
        #[test]
        fn a_circuit_gets_a_few_cells_while_young_and_rare_ones_later(seed: u64) {
            let sent = run(&CircuitPaddingConfig::default(), seed, 3605);
            let young = sent.iter().filter(|(at, _)| *at <= Duration::from_secs(5)).count();
            prop_assert!((2..=6).contains(&young));
            prop_assert!((12..=60).contains(&(sent.len() - young)), "one in 60 to 300 s: {sent:?}");
            prop_assert!((0..3).all(|hop| sent.iter().any(|&(_, to)| to == hop)) || sent.len() < 40);
            prop_assert!(sent.iter().all(|&(_, hop)| hop < 3));
        }

        #[test]
        fn a_keep_alive_is_due_10_to_20_seconds_after_the_last_frame(seed: u64, busy in 0u64..10_000) {
            let (start, mut rng) = (Instant::now(), StdRng::seed_from_u64(seed));
            let mut link = KeepAlive::new(start, &mut rng);
            let last = start + Duration::from_millis(busy);
            link.sent(last);
            let due = link.poll_timeout();
            prop_assert!(KEEP_ALIVE.contains(&(due - last)));
            prop_assert!(!link.handle_timeout(due - Duration::from_millis(1), &mut rng));
            prop_assert!(link.handle_timeout(due, &mut rng));
            prop_assert!(KEEP_ALIVE.contains(&(link.poll_timeout() - due)));
        }
    }

    #[test]
    fn padding_that_is_off_never_sends() {
        assert_eq!(run(&CircuitPaddingConfig::off(), 1, 1_000_000), []);
    }

    #[test]
    fn a_configuration_can_not_flood_a_circuit() {
        let zero = Duration::ZERO;
        let config = CircuitPaddingConfig {
            enabled: true,
            early: u32::MAX..=u32::MAX,
            young: zero,
            later: zero..=zero,
        };
        assert_eq!(run(&config, 1, 100).len(), MAX_EARLY as usize + 100);
        let endless = Duration::MAX;
        let config = CircuitPaddingConfig {
            young: endless,
            later: endless..=zero,
            ..config
        };
        assert!(run(&config, 1, 60 * 60 * 24 * 10).len() > MAX_EARLY as usize);
    }
}
