//! How far Tor's start is, told for people: what arti says of itself, and where it gets no further, what that may be and what to do
//! about it. Arti notices some of this only after a minute, some with a directory's worth of relays alone, and some never.

use std::time::Duration;

use arti_client::status::{BlockageKind, BootstrapStatus};
use tokio::time::Instant;

use super::TorStatus;

/// How long nothing gets further before the user hears what it may be. A slow connection takes less for each of its steps.
const SLOW: Duration = Duration::from_secs(15);
/// The same for the directory, which comes in large parts.
const SLOW_DIRECTORY: Duration = Duration::from_secs(45);
/// Arti's share of the whole when a relay was connected to, and when one has shown that it is one.
const CONNECTED: f32 = 0.07;
const SHOWN: f32 = 0.14;

/// What may hold Tor up.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trouble {
    /// Nothing can be connected to.
    Unreachable,
    /// What is connected to does not show that it is a relay.
    Foreign,
    /// The directory can't be had.
    Directory,
    /// Relays say that the clock is wrong, and by how much.
    Clock(Option<String>),
}

/// Watches a start.
pub(super) struct Start {
    bridges: bool,
    furthest: f32,
    /// When it got there.
    since: Instant,
}

impl Start {
    /// Of a client with bridges or without.
    pub(super) fn new(bridges: bool) -> Self {
        Self {
            bridges,
            furthest: 0.0,
            since: Instant::now(),
        }
    }

    /// Before it begins (again).
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.bridges);
    }

    /// How it stands; `None` while there is nothing to tell.
    pub(super) fn tell(&mut self, now: &BootstrapStatus) -> Option<TorStatus> {
        let blocked = now.blocked().map(|blocked| blocked.kind());
        // Whether it is ready is told by whoever asked it to start; and that it was not asked is no news.
        if now.ready_for_traffic() || matches!(blocked, Some(BlockageKind::Disabled)) {
            return None;
        }
        let share = now.as_frac();
        if share > self.furthest {
            (self.furthest, self.since) = (share, Instant::now());
        }
        // Their texts name no address.
        let text = now.to_string();
        let trouble = trouble(blocked.as_ref(), &text, share, self.since.elapsed());
        let what = match trouble {
            Some(trouble) => format!("held up: {}", advice(&trouble, self.bridges)),
            // Its own percentage stands before it.
            None => without_percent(&text).to_owned(),
        };
        let percent = (share * 100.0).clamp(0.0, 100.0) as u8;
        Some(TorStatus::Starting { percent, what })
    }
}

/// What may be wrong, after standing `still` at this share of the whole.
fn trouble(
    blocked: Option<&BlockageKind>,
    text: &str,
    share: f32,
    still: Duration,
) -> Option<Trouble> {
    if let Some(skew) = skew(text) {
        return Some(Trouble::Clock(Some(skew)));
    }
    let slow = if share < SHOWN { SLOW } else { SLOW_DIRECTORY };
    match blocked {
        Some(BlockageKind::ClockSkewed) => Some(Trouble::Clock(None)),
        Some(BlockageKind::Offline) => Some(Trouble::Unreachable),
        Some(BlockageKind::Filtering) => Some(Trouble::Foreign),
        Some(BlockageKind::CantBootstrap) => Some(Trouble::Directory),
        _ if still < slow => None,
        _ if share < CONNECTED => Some(Trouble::Unreachable),
        _ if share < SHOWN => Some(Trouble::Foreign),
        _ => Some(Trouble::Directory),
    }
}

/// `slow by around 5days`, where arti is fairly sure of it. It tells this in its text alone.
fn skew(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("Clock is ")?;
    let (skew, _) = rest.split_once(" (")?;
    (skew.starts_with("slow") || skew.starts_with("fast")).then(|| skew.to_owned())
}

fn advice(trouble: &Trouble, bridges: bool) -> String {
    let text = match (trouble, bridges) {
        (Trouble::Clock(Some(skew)), _) => {
            return format!("this computer's clock is {skew}: set it");
        }
        (Trouble::Clock(None), _) => "this computer's clock is wrong: set it",
        (Trouble::Unreachable, false) => {
            "none of Tor's relays can be reached: check the connection; where Tor is blocked, set bridges in ~/.config/hushswarm/tor.toml"
        }
        (Trouble::Unreachable, true) => {
            "no bridge can be reached: check the connection, the bridge lines in tor.toml, and that the programs of their transports work"
        }
        (Trouble::Foreign, false) => {
            "Tor's relays don't answer as they should: is this computer's clock right? where Tor is blocked, set bridges in ~/.config/hushswarm/tor.toml"
        }
        (Trouble::Foreign, true) => {
            "no bridge answers as it should: are the bridge lines in tor.toml right, and is this computer's clock?"
        }
        (Trouble::Directory, _) => {
            "Tor's directory can't be fetched, or does not fit the time: is this computer's clock right? it goes on trying"
        }
    };
    text.to_owned()
}

/// `45%: connecting` without what stands before the colon.
fn without_percent(text: &str) -> &str {
    match text.split_once("%: ") {
        Some((_, rest)) => rest,
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_gets_no_further_hears_why_that_may_be() {
        let at = |share, still| trouble(None, "7%: connecting", share, still);
        let long = SLOW + SLOW_DIRECTORY;
        for (share, wanted) in [
            (0.0, Trouble::Unreachable),
            (0.075, Trouble::Foreign),
            (0.15, Trouble::Directory),
        ] {
            assert_eq!(at(share, Duration::ZERO), None);
            assert_eq!(at(share, long), Some(wanted));
        }
        assert_eq!(at(0.5, SLOW), None);
        for (kind, wanted) in [
            (BlockageKind::Offline, Trouble::Unreachable),
            (BlockageKind::Filtering, Trouble::Foreign),
            (BlockageKind::ClockSkewed, Trouble::Clock(None)),
            (BlockageKind::CantBootstrap, Trouble::Directory),
        ] {
            assert_eq!(trouble(Some(&kind), "", 0.1, Duration::ZERO), Some(wanted));
        }
    }

    #[test]
    fn how_wrong_the_clock_is_comes_before_all_else() {
        let text = "Stuck at 15%: x. Clock is fast by around 4days 23h (based on 9 recent observations, with high confidence)";
        let wanted = Trouble::Clock(Some("fast by around 4days 23h".to_owned()));
        let found = trouble(
            Some(&BlockageKind::CantBootstrap),
            text,
            0.15,
            Duration::ZERO,
        );
        assert_eq!(found, Some(wanted.clone()));
        assert!(advice(&wanted, true).contains("4days"));
        let right = "15%: x. Clock is not skewed by more than 15m (based on 9 recent observations, with high confidence)";
        assert_eq!(trouble(None, right, 0.15, Duration::ZERO), None);
    }
}
