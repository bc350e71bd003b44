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
        self.allows_one(link, listed, circuit) && self.all.check().is_ok()
    }

    /// Whether the circuit and the client are within theirs.
    fn allows_one(&self, link: u64, listed: bool, circuit: u64) -> bool {
        self.by_circuit.check_key(&circuit).is_ok()
            && (listed || self.by_link.check_key(&link).is_ok())
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
        Self::of([all, circuit, link].map(|most| most.get() as usize))
    }

    fn of(most: [usize; 3]) -> Self {
        Self {
            total: Arc::default(),
            by_circuit: Arc::default(),
            by_link: Arc::default(),
            most,
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

/// Visitors who work at once, for everybody, a circuit and a client: each holds a message and a stream for 45 s at the most. An honest one
/// has a circuit for each seed.
const WORKING: [usize; 3] = [4096, 2, 64];
/// The same, for one introduction point: who fills its places leaves the other points theirs.
const WORKING_PER_POINT: usize = WORKING[0] / 8;

/// Keeps [`MeetingLimits`].
pub(super) struct Keeper {
    points: Places,
    rendezvous: Places,
    working: Places,
    working_by_point: Arc<Shares>,
    requests: Rate,
    introductions: Rate,
    /// Introductions for quiet keys, whether or not anybody stands there: what is left for others does not tell it.
    quiet: DefaultDirectRateLimiter,
    /// Work that is checked. Apart from the introductions that are not worked for: who floods one key leaves room for who works for another.
    checks: DefaultDirectRateLimiter,
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
            working: Places::of(WORKING),
            working_by_point: Arc::default(),
            quiet: RateLimiter::direct(Quota::per_second(limits.introductions_per_second)),
            checks: RateLimiter::direct(Quota::per_second(limits.introductions_per_second)),
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

    /// Whether somebody may say whom it comes to.
    pub(super) fn introduction(&self, link: u64, listed: bool, circuit: u64) -> bool {
        let allowed = self.introductions.allows_one(link, listed, circuit);
        self.note(allowed.then_some(())).is_some()
    }

    /// Whether an introduction that no work is asked for is handed on to who stands. Ask it once the key is known and within its own
    /// rate: what is for nobody, or too much for one, takes nothing of what is for all. Those that work is asked for take nothing of it
    /// either. Note it where it is refused.
    pub(super) fn unasked(&self) -> bool {
        self.introductions.all.check().is_ok()
    }

    /// The same for a quiet key. Ask it before anything else, whether or not anybody stands there.
    pub(super) fn quiet(&self) -> bool {
        self.quiet.check().is_ok()
    }

    /// Whether somebody may work for an introduction at the point with this number; the place is for as long as it does.
    pub(super) fn working(
        &self,
        link: u64,
        listed: bool,
        circuit: u64,
        point: u64,
    ) -> Option<Place> {
        let place = self.working.take(link, listed, circuit);
        let (shares, owner) = (&self.working_by_point, Owner::Point(point));
        self.note(place.and_then(|place| place.within(shares, owner, WORKING_PER_POINT)))
    }

    /// Whether work may be checked now. Ask it as [`Self::unasked`].
    pub(super) fn check(&self) -> bool {
        self.checks.check().is_ok()
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
            each.filter(|circuit| keeper.introduction(link, listed, *circuit) && keeper.unasked())
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
    fn who_works_has_a_share_of_its_own() {
        let keeper = Keeper::new(limits());
        let unasked = (0..100).filter(|_| keeper.unasked()).count();
        assert!((12..15).contains(&unasked), "{unasked}");
        assert!(
            keeper.introduction(1, true, 1),
            "whom it comes to may be said still"
        );
        let checked = (0..100).filter(|_| keeper.check()).count();
        assert!((12..15).contains(&checked), "{checked}");
        let work = |circuit, point| keeper.working(1, true, circuit, point);
        let working: Vec<_> = (0..9).filter_map(|_| work(1, 1)).collect();
        assert_eq!(working.len(), 2, "of one circuit");
        drop(working);
        // Many circuits to one point leave room for those to another.
        let working: Vec<_> = (0..4096).filter_map(|circuit| work(circuit, 1)).collect();
        assert_eq!(working.len(), 512);
        assert!(work(0, 1).is_none() && work(9999, 1).is_none() && work(9999, 2).is_some());
        drop(working);
        assert!(work(1, 1).is_some());
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
