//! How much of introductions and meetings a relay takes on: for everybody, a client, a circuit. What one key gets is
//! limited where it is registered.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::config::MeetingLimits;
use crate::relay::limits::{Owner, Place, Shares, claim};

/// A rate for everybody, for a client, and for a circuit.
struct Rate {
    all: DefaultDirectRateLimiter,
    by_circuit: DefaultKeyedRateLimiter<u64>,
    by_link: DefaultKeyedRateLimiter<u64>,
}

impl Rate {
    fn new(all: NonZeroU32, circuit: NonZeroU32, link: NonZeroU32) -> Self {
        Self {
            all: RateLimiter::direct(Quota::per_second(all)),
            by_circuit: RateLimiter::keyed(Quota::per_second(circuit)),
            by_link: RateLimiter::keyed(Quota::per_second(link)),
        }
    }

    fn allows(&self, link: u64, listed: bool, circuit: u64) -> bool {
        // The own limits first: who is over them takes nothing of what is for all.
        self.by_circuit.check_key(&circuit).is_ok()
            && (listed || self.by_link.check_key(&link).is_ok())
            && self.all.check().is_ok()
    }

    fn tidy(&self) {
        for keyed in [&self.by_circuit, &self.by_link] {
            keyed.retain_recent();
            keyed.shrink_to_fit();
        }
    }
}

/// Places at once, for everybody, a client, and a circuit.
struct Places {
    total: Arc<AtomicUsize>,
    by_circuit: Arc<Shares>,
    by_link: Arc<Shares>,
    most: [usize; 3],
}

impl Places {
    fn new(all: NonZeroU32, circuit: NonZeroU32, link: NonZeroU32) -> Self {
        Self {
            total: Arc::default(),
            by_circuit: Arc::default(),
            by_link: Arc::default(),
            most: [all, circuit, link].map(|most| most.get() as usize),
        }
    }

    fn take(&self, link: u64, listed: bool, circuit: u64) -> Option<Place> {
        let [all, per_circuit, per_link] = self.most;
        let place = claim(&self.total, all)?.within(
            &self.by_circuit,
            Owner::Circuit(circuit),
            per_circuit,
        )?;
        if listed {
            return Some(place);
        }
        place.within(&self.by_link, Owner::Link(link), per_link)
    }
}

/// Keeps [`MeetingLimits`].
pub(super) struct Keeper {
    points: Places,
    rendezvous: Places,
    requests: Rate,
    introductions: Rate,
    refused: AtomicUsize,
}

impl Keeper {
    pub(super) fn new(limits: MeetingLimits) -> Self {
        Self {
            points: Places::new(
                limits.introduction_points,
                limits.introduction_points_per_circuit,
                limits.introduction_points_per_client,
            ),
            rendezvous: Places::new(
                limits.rendezvous_points,
                limits.rendezvous_points_per_circuit,
                limits.rendezvous_points_per_client,
            ),
            requests: Rate::new(
                limits.requests_per_second,
                limits.requests_per_second_per_circuit,
                limits.requests_per_second_per_client,
            ),
            introductions: Rate::new(
                limits.introductions_per_second,
                limits.introductions_per_second_per_circuit,
                limits.introductions_per_second_per_client,
            ),
            refused: AtomicUsize::new(0),
        }
    }

    /// Whether a circuit that came on this link may have an introduction point; the place is for as long as it stands.
    pub(super) fn point(&self, link: u64, listed: bool, circuit: u64) -> Option<Place> {
        let place = self.points.take(link, listed, circuit);
        self.note(place.filter(|_| self.requests.allows(link, listed, circuit)))
    }

    /// Whether somebody may wait; the place is for as long as it does, and for those who have met.
    pub(super) fn rendezvous(&self, link: u64, listed: bool, circuit: u64) -> Option<Place> {
        let place = self.rendezvous.take(link, listed, circuit);
        self.note(place.filter(|_| self.requests.allows(link, listed, circuit)))
    }

    /// Whether somebody may join.
    pub(super) fn request(&self, link: u64, listed: bool, circuit: u64) -> bool {
        let allowed = self.requests.allows(link, listed, circuit);
        self.note(allowed.then_some(())).is_some()
    }

    /// Whether somebody may introduce itself.
    pub(super) fn introduction(&self, link: u64, listed: bool, circuit: u64) -> bool {
        let allowed = self.introductions.allows(link, listed, circuit);
        self.note(allowed.then_some(())).is_some()
    }

    fn note<T>(&self, allowed: Option<T>) -> Option<T> {
        if allowed.is_none() {
            self.note_refused();
        }
        allowed
    }

    /// A limit that is kept elsewhere was met.
    pub(super) fn note_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// How often a limit was met.
    pub(super) fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Forgets who has not been seen for a while.
    pub(super) fn tidy(&self) {
        self.requests.tidy();
        self.introductions.tidy();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> MeetingLimits {
        let limit = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        MeetingLimits {
            introduction_points: limit(6),
            introduction_points_per_circuit: limit(2),
            introduction_points_per_client: limit(3),
            rendezvous_points: limit(5),
            rendezvous_points_per_circuit: limit(2),
            rendezvous_points_per_client: limit(3),
            requests_per_second: limit(1000),
            requests_per_second_per_circuit: limit(1000),
            requests_per_second_per_client: limit(1000),
            introductions_per_second: limit(12),
            introductions_per_second_per_circuit: limit(3),
            introductions_per_second_per_client: limit(6),
            introductions_per_second_per_key: limit(1),
        }
    }

    #[test]
    fn one_circuit_and_one_client_cannot_take_all_places() {
        type Take = fn(&Keeper, u64, bool, u64) -> Option<Place>;
        let kinds: [(Take, usize); 2] = [(Keeper::point, 6), (Keeper::rendezvous, 5)];
        for (take, total) in kinds {
            let keeper = Keeper::new(limits());
            let of_a_circuit: Vec<_> = (0..9).filter_map(|_| take(&keeper, 1, false, 1)).collect();
            assert_eq!(of_a_circuit.len(), 2);
            let of_a_client: Vec<_> = (2..9).filter_map(|n| take(&keeper, 1, false, n)).collect();
            assert_eq!(of_a_client.len(), 1, "three of this link");
            let of_relays: Vec<_> = (10..30).filter_map(|n| take(&keeper, 2, true, n)).collect();
            assert_eq!(
                of_relays.len(),
                total - 3,
                "relays are bounded by the total alone"
            );
            assert!(take(&keeper, 3, true, 99).is_none());
            assert_eq!(keeper.refused(), 7 + 6 + (20 - (total - 3)) + 1);
            drop(of_a_circuit);
            assert!(take(&keeper, 1, false, 1).is_some(), "places come back");
        }
    }

    #[test]
    fn introductions_are_limited_by_circuit_client_and_in_total() {
        let keeper = Keeper::new(limits());
        let count = |link, listed, circuits: std::ops::Range<u64>| {
            let each = circuits.flat_map(|circuit| [circuit; 5]);
            each.filter(|circuit| keeper.introduction(link, listed, *circuit))
                .count()
        };
        assert_eq!(count(1, false, 1..2), 3);
        assert!(
            (3..5).contains(&count(1, false, 2..9)),
            "six of this link, or one more in time"
        );
        assert!(
            (5..8).contains(&count(2, true, 20..60)),
            "twelve in total, or one or two more in time"
        );
    }

    #[test]
    fn requests_to_join_are_limited_too() {
        let one = NonZeroU32::MIN;
        let keeper = Keeper::new(MeetingLimits {
            requests_per_second_per_circuit: one,
            ..limits()
        });
        assert!(keeper.request(1, true, 1));
        assert!(!keeper.request(1, true, 1) && keeper.request(1, true, 2));
        assert!(keeper.point(1, true, 1).is_none() && keeper.rendezvous(1, true, 2).is_none());
        assert_eq!(keeper.refused(), 3);
        let place = keeper.point(1, true, 3);
        assert!(place.is_some());
    }
}
