//! How much of lookups a relay takes on: for everybody, a client, a circuit; and how much of it any one node is asked.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::config::DhtLimits;
use crate::relay::limits::{Owner, Place, Shares, claim, source};

/// Queries after which the pace is looked at: some seconds of a busy node.
const PACE_WINDOW: u32 = 64;
/// How often the rate of queries is halved at the most: one sixteenth is left, so that recovery is noticed.
const SLOWEST: u32 = 4;
/// Addresses whose rate is remembered, at the most: ten seconds of queries at forty times the usual rate.
const MAX_ADDRESSES: usize = 16_384;
/// How long nobody is asked where that many are remembered. They are forgotten sooner.
const FULL_REST: Duration = Duration::from_secs(1);

/// Why a query may not leave now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PutOff {
    /// This node was asked enough just now; others may be.
    Node,
    /// Nobody may be asked for so long.
    Everybody(Duration),
}

/// Keeps [`DhtLimits`].
pub(super) struct Keeper {
    limits: DhtLimits,
    lookups: Arc<AtomicUsize>,
    shares: Arc<Shares>,
    begun: DefaultDirectRateLimiter,
    begun_by_circuit: DefaultKeyedRateLimiter<u64>,
    begun_by_link: DefaultKeyedRateLimiter<u64>,
    queries: DefaultDirectRateLimiter,
    queries_by_address: DefaultKeyedRateLimiter<IpAddr>,
    pace: Mutex<Pace>,
    admitted: AtomicUsize,
    refused: AtomicUsize,
    put_off: AtomicUsize,
}

impl Keeper {
    pub(super) fn new(limits: DhtLimits) -> Self {
        Self {
            limits,
            lookups: Arc::default(),
            shares: Arc::default(),
            begun: RateLimiter::direct(Quota::per_second(limits.lookups_per_second)),
            begun_by_circuit: RateLimiter::keyed(Quota::per_second(
                limits.lookups_per_second_per_circuit,
            )),
            begun_by_link: RateLimiter::keyed(Quota::per_second(
                limits.lookups_per_second_per_client,
            )),
            queries: RateLimiter::direct(Quota::per_second(limits.queries_per_second)),
            queries_by_address: RateLimiter::keyed(Quota::per_second(
                limits.queries_per_second_per_node,
            )),
            pace: Mutex::default(),
            admitted: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            put_off: AtomicUsize::new(0),
        }
    }

    /// Whether a lookup may begin for a circuit that came on this link; the place is for as long as it runs.
    pub(super) fn admit(&self, link: u64, listed: bool, circuit: u64) -> Option<Place> {
        let place = self.place(link, listed, circuit).filter(|_| {
            // The own limits first: who is over them takes nothing of what is for all.
            self.begun_by_circuit.check_key(&circuit).is_ok()
                && (listed || self.begun_by_link.check_key(&link).is_ok())
                && self.begun.check().is_ok()
        });
        let count = if place.is_some() {
            &self.admitted
        } else {
            &self.refused
        };
        count.fetch_add(1, Ordering::Relaxed);
        place
    }

    fn place(&self, link: u64, listed: bool, circuit: u64) -> Option<Place> {
        let most = |limit: NonZeroU32| limit.get() as usize;
        let place = claim(&self.lookups, most(self.limits.lookups))?.within(
            &self.shares,
            Owner::Circuit(circuit),
            most(self.limits.lookups_per_circuit),
        )?;
        if listed {
            return Some(place);
        }
        let share = most(self.limits.lookups_per_client);
        place.within(&self.shares, Owner::Link(link), share)
    }

    /// Whether a query may leave now for a node at this address.
    pub(super) fn query(&self, to: IpAddr) -> Result<(), PutOff> {
        let allowed = self.may_ask(to);
        if allowed.is_err() {
            self.put_off.fetch_add(1, Ordering::Relaxed);
        }
        allowed
    }

    fn may_ask(&self, to: IpAddr) -> Result<(), PutOff> {
        if self.queries_by_address.len() >= MAX_ADDRESSES {
            return Err(PutOff::Everybody(FULL_REST));
        }
        let address = source(to);
        if self.queries_by_address.check_key(&address).is_err() {
            return Err(PutOff::Node);
        }
        let cost = self.pace().cost().min(self.limits.queries_per_second);
        match self.queries.check_n(cost) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(wait)) => {
                let wait = wait.wait_time_from(DefaultClock::default().now());
                Err(PutOff::Everybody(wait))
            }
            // Never: it costs no more than a second's worth.
            Err(_) => Err(PutOff::Everybody(FULL_REST)),
        }
    }

    /// Says how a query ended, for the pace.
    pub(super) fn ended(&self, answered: bool) {
        self.pace().ended(answered);
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets who has not been seen for a while. Call it every ten seconds or so.
    pub(super) fn tidy(&self) {
        self.begun_by_circuit.retain_recent();
        self.begun_by_circuit.shrink_to_fit();
        self.begun_by_link.retain_recent();
        self.begun_by_link.shrink_to_fit();
        self.queries_by_address.retain_recent();
        self.queries_by_address.shrink_to_fit();
    }

    /// Lookups that run.
    pub(super) fn lookups(&self) -> usize {
        self.lookups.load(Ordering::Relaxed)
    }

    /// Lookups that were begun, and that were refused, since the start.
    pub(super) fn lookups_so_far(&self) -> (usize, usize) {
        let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        (read(&self.admitted), read(&self.refused))
    }

    /// Queries that were put off since the start.
    pub(super) fn put_off(&self) -> usize {
        self.put_off.load(Ordering::Relaxed)
    }
}

/// Slows down while most queries stay unanswered: the network is down, or what we ask is not there. A node that is flooded
/// by others is not helped by our asking faster, and one that does not exist never will be.
#[derive(Debug, Default)]
struct Pace {
    /// How often the rate is halved.
    halved: u32,
    ended: u32,
    answered: u32,
}

impl Pace {
    /// What a query costs, where all are a second's queries.
    fn cost(&self) -> NonZeroU32 {
        NonZeroU32::MIN.saturating_mul(NonZeroU32::new(1 << self.halved).unwrap_or(NonZeroU32::MIN))
    }

    fn ended(&mut self, answered: bool) {
        self.ended += 1;
        self.answered += u32::from(answered);
        if self.ended < PACE_WINDOW {
            return;
        }
        if self.answered * 3 < self.ended {
            self.halved = (self.halved + 1).min(SLOWEST);
        } else if self.answered * 2 >= self.ended {
            self.halved = self.halved.saturating_sub(1);
        }
        (self.ended, self.answered) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rate(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    /// Limits that nobody reaches, but for those that a test sets.
    fn wide() -> DhtLimits {
        let wide = rate(100_000);
        DhtLimits {
            lookups: wide,
            lookups_per_circuit: wide,
            lookups_per_client: wide,
            lookups_per_second: wide,
            lookups_per_second_per_circuit: wide,
            lookups_per_second_per_client: wide,
            queries_per_second: wide,
            queries_per_second_per_node: wide,
        }
    }

    fn ip(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0x0808_0000 + n).into()
    }

    #[test]
    fn a_circuit_a_client_and_all_have_their_share_of_lookups_at_once() {
        let keeper = Keeper::new(DhtLimits {
            lookups: rate(6),
            lookups_per_circuit: rate(2),
            lookups_per_client: rate(3),
            ..wide()
        });
        let of_one: Vec<_> = (0..5).filter_map(|_| keeper.admit(1, false, 10)).collect();
        assert_eq!(of_one.len(), 2, "one circuit");
        let of_client: Vec<_> = (11..15).filter_map(|n| keeper.admit(1, false, n)).collect();
        assert_eq!(of_client.len(), 1, "one client");
        let of_relay: Vec<_> = (20..30).filter_map(|n| keeper.admit(2, true, n)).collect();
        assert_eq!(of_relay.len(), 3, "all together");
        assert_eq!(keeper.lookups(), 6);
        assert_eq!(keeper.lookups_so_far(), (6, 3 + 3 + 7));
        drop((of_one, of_client, of_relay));
        assert_eq!(keeper.lookups(), 0);
        assert!(keeper.admit(1, false, 10).is_some());
    }

    #[test]
    fn a_circuit_a_client_and_all_have_their_share_of_lookups_a_second() {
        let begin = |keeper: &Keeper, link, listed, circuits: std::ops::Range<u64>| {
            let begun = circuits.filter_map(|circuit| keeper.admit(link, listed, circuit));
            begun.count()
        };
        let keeper = Keeper::new(DhtLimits {
            lookups_per_second_per_circuit: rate(2),
            ..wide()
        });
        let of_one = (0..50).filter_map(|_| keeper.admit(1, true, 1)).count();
        assert!((2..6).contains(&of_one), "{of_one}");
        assert_eq!(begin(&keeper, 1, true, 2..20), 18);
        let keeper = Keeper::new(DhtLimits {
            lookups_per_second_per_client: rate(3),
            ..wide()
        });
        let of_client = begin(&keeper, 1, false, 0..50);
        assert!((3..9).contains(&of_client), "{of_client}");
        assert_eq!(begin(&keeper, 2, true, 50..100), 50, "a relay is no client");
        let keeper = Keeper::new(DhtLimits {
            lookups_per_second: rate(4),
            ..wide()
        });
        let of_all = begin(&keeper, 2, true, 0..50);
        assert!((4..12).contains(&of_all), "{of_all}");
    }

    #[test]
    fn a_node_is_asked_rarely_and_others_meanwhile() {
        let keeper = Keeper::new(DhtLimits {
            queries_per_second_per_node: rate(3),
            ..wide()
        });
        let asked = (0..50).filter(|_| keeper.query(ip(1)).is_ok()).count();
        assert!((3..9).contains(&asked), "{asked}");
        assert_eq!(keeper.query(ip(1)), Err(PutOff::Node));
        assert!((2..50).all(|n| keeper.query(ip(n)).is_ok()));
        assert_eq!(keeper.put_off(), 50 - asked + 1);
        // A whole /64 is one.
        let v6 = |n: u32| keeper.query(format!("2a00::{n}").parse().unwrap()).is_ok();
        assert!((1..50).filter(|n| v6(*n)).count() < 9);
    }

    #[test]
    fn all_nodes_together_are_asked_no_faster_than_the_limit_says() {
        let keeper = Keeper::new(DhtLimits {
            queries_per_second: rate(40),
            ..wide()
        });
        let asked = (0..500).filter(|n| keeper.query(ip(*n)).is_ok()).count();
        assert!((40..120).contains(&asked), "{asked}");
        let put_off = keeper.query(ip(1000));
        let short = |wait: Duration| wait <= Duration::from_secs(1);
        assert!(matches!(put_off, Err(PutOff::Everybody(wait)) if short(wait)));
    }

    #[test]
    fn the_rate_falls_while_most_stay_unanswered_and_rises_again() {
        let cost = |keeper: &Keeper| keeper.pace().cost().get();
        let keeper = Keeper::new(wide());
        let window = |answered: u32| {
            (0..PACE_WINDOW).for_each(|n| keeper.ended(n < answered));
        };
        for wanted in [2, 4, 8, 16, 16] {
            window(PACE_WINDOW / 4);
            assert_eq!(cost(&keeper), wanted);
        }
        // Between the two it stays.
        window(PACE_WINDOW * 2 / 5);
        assert_eq!(cost(&keeper), 16);
        for wanted in [8, 4, 2, 1, 1] {
            window(PACE_WINDOW * 2 / 3);
            assert_eq!(cost(&keeper), wanted);
        }
        let slowed = Keeper::new(DhtLimits {
            queries_per_second: rate(160),
            ..wide()
        });
        (0..PACE_WINDOW * SLOWEST).for_each(|_| slowed.ended(false));
        let asked = (0..500).filter(|n| slowed.query(ip(*n)).is_ok()).count();
        assert!((10..40).contains(&asked), "a sixteenth, not {asked}");
    }

    #[test]
    fn addresses_are_forgotten_and_never_too_many() {
        let keeper = Keeper::new(DhtLimits {
            queries_per_second_per_node: rate(1_000_000_000),
            queries_per_second: rate(1_000_000_000),
            ..wide()
        });
        let all = MAX_ADDRESSES as u32;
        assert!((0..all).all(|n| keeper.query(ip(n)).is_ok()));
        assert_eq!(
            keeper.query(ip(all)),
            Err(PutOff::Everybody(FULL_REST)),
            "one more would be too many"
        );
        keeper.tidy();
        assert_eq!(keeper.queries_by_address.len(), 0);
        assert!(keeper.query(ip(all)).is_ok());
    }
}
