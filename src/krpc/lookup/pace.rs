//! When a query is slow: from the round trips of this lookup (as RFC 6298 does for TCP).

use std::time::Duration;

use crate::krpc::settings::Settings;

/// Least time before a query is slow: below it, a busy processor looks like a slow node.
const MIN_SLOW: Duration = Duration::from_millis(50);

/// Round trips, smoothed.
pub(super) struct Pace {
    first: Duration,
    smoothed: Option<(Duration, Duration)>,
}

impl Pace {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            first: settings.slow,
            smoothed: None,
        }
    }

    /// An answer came after this long.
    pub(super) fn measured(&mut self, rtt: Duration) {
        self.smoothed = Some(match self.smoothed {
            None => (rtt, rtt / 2),
            Some((mean, deviation)) => (
                mean - mean / 8 + rtt / 8,
                deviation - deviation / 4 + mean.abs_diff(rtt) / 4,
            ),
        });
    }

    /// After this a query holds up nobody.
    pub(super) fn slow(&self) -> Duration {
        let Some((mean, deviation)) = self.smoothed else {
            return self.first;
        };
        let usual = (mean + deviation * 2).max(mean * 5 / 4);
        usual.clamp(MIN_SLOW.min(self.first), self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_is_what_is_slower_than_most() {
        let mut pace = Pace::new(&Settings::default());
        assert_eq!(pace.slow(), Settings::default().slow);
        for _ in 0..50 {
            pace.measured(Duration::from_millis(80));
        }
        let slow = pace.slow();
        assert!(
            slow > Duration::from_millis(80) && slow < Duration::from_millis(120),
            "{slow:?}"
        );
        pace.measured(Duration::from_secs(30));
        assert_eq!(
            pace.slow(),
            Settings::default().slow,
            "never slower than without a measure"
        );
        for _ in 0..100 {
            pace.measured(Duration::ZERO);
        }
        assert_eq!(pace.slow(), MIN_SLOW);
    }
}
