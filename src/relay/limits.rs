//! What one neighbour may ask of a relay, and what all may together. Rates are kept by `governor`, counts here.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::config::at_least_one;

/// Limits of a relay. Each protects the relay's memory, processor or descriptors from one neighbour or from all.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Links open or in their handshake at once, from anybody.
    pub links: usize,
    /// The same, from one source (an IPv4 address or an IPv6 /64).
    pub links_per_source: usize,
    /// The same, through the relay's onion service, where nobody can be told from another: what is left is for those who come
    /// by TCP, whatever strangers do there.
    pub links_by_onion: usize,
    /// Link handshakes a second, from anybody.
    pub handshakes: NonZeroU32,
    /// Link handshakes a second, from one source.
    pub handshakes_per_source: NonZeroU32,
    /// Link handshakes a second, through the relay's onion service.
    pub handshakes_by_onion: NonZeroU32,
    /// Circuits that pass or end here at once, from anybody.
    pub circuits: usize,
    /// Circuits on a link that is not a listed relay's.
    pub circuits_per_client: usize,
    /// New circuits a second, from anybody: each costs a millisecond of processor at the most.
    pub creates: NonZeroU32,
    /// New circuits a second on a link that is not a listed relay's.
    pub creates_per_client: NonZeroU32,
    /// Exit streams and datagram flows open at once: each is a descriptor or two.
    pub streams: usize,
    /// The same, on one link that is not a listed relay's.
    pub streams_per_client: usize,
    /// New exit streams a second on one circuit.
    pub opens_per_circuit: NonZeroU32,
    /// Names looked up at once, for anybody: each occupies a thread of the runtime's 512, and names can be made that take
    /// half a minute.
    pub lookups: usize,
    /// The same, for one circuit.
    pub lookups_per_circuit: usize,
    /// Bytes a second that are read from all links together; `None` is as fast as it goes.
    pub bytes: Option<NonZeroU32>,
    /// Bytes a second that are read from one link that is not a listed relay's.
    pub bytes_per_client: Option<NonZeroU32>,
    /// Memory for credits beyond each circuit's first 64, bytes.
    pub credit_memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            links: 8192,
            links_per_source: 64,
            links_by_onion: 1024,
            handshakes: at_least_one(500),
            handshakes_per_source: at_least_one(20),
            handshakes_by_onion: at_least_one(50),
            circuits: 16_384,
            circuits_per_client: 1024,
            creates: at_least_one(1000),
            creates_per_client: at_least_one(100),
            streams: 8192,
            streams_per_client: 1024,
            opens_per_circuit: at_least_one(50),
            lookups: 256,
            lookups_per_circuit: 16,
            bytes: None,
            bytes_per_client: None,
            credit_memory: 64 * 1024 * 1024,
        }
    }
}

/// Whose share a place counts against.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    Source(IpAddr),
    /// Everybody who comes through the onion service.
    Onion,
    Link(u64),
    Circuit(u64),
    /// Whoever comes to one introduction point.
    Point(u64),
}

/// A place among a bounded number; given back when dropped.
pub struct Place {
    total: Arc<AtomicUsize>,
    shares: Vec<(Arc<Shares>, Owner)>,
}

impl Place {
    /// Counts the place against its owner's share too, where that has room.
    pub(super) fn within(mut self, shares: &Arc<Shares>, owner: Owner, max: usize) -> Option<Self> {
        if !shares.claim(owner, max) {
            return None;
        }
        self.shares.push((Arc::clone(shares), owner));
        Some(self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.total.fetch_sub(1, Ordering::AcqRel);
        for (shares, owner) in self.shares.drain(..) {
            shares.release(owner);
        }
    }
}

/// Places held by each owner.
#[derive(Default)]
pub(super) struct Shares(Mutex<HashMap<Owner, usize>>);

impl Shares {
    fn claim(&self, key: Owner, max: usize) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key).or_insert(0);
        let free = *count < max;
        if free {
            *count += 1;
        } else if *count == 0 {
            counts.remove(&key);
        }
        free
    }

    fn release(&self, key: Owner) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&key);
            }
        }
    }
}

/// The address that stands for a source: a whole /64 counts as one, since one customer has at least that.
pub(super) fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Keeps [`Limits`].
pub struct Gatekeeper {
    limits: Limits,
    links: Arc<AtomicUsize>,
    shares: Arc<Shares>,
    streams: Arc<AtomicUsize>,
    lookups: Arc<AtomicUsize>,
    handshakes: DefaultDirectRateLimiter,
    handshakes_by_source: DefaultKeyedRateLimiter<IpAddr>,
    handshakes_by_onion: DefaultDirectRateLimiter,
    creates: DefaultDirectRateLimiter,
    creates_by_link: DefaultKeyedRateLimiter<u64>,
    opens_by_circuit: DefaultKeyedRateLimiter<u64>,
    bytes: Option<DefaultDirectRateLimiter>,
    refused: AtomicUsize,
}

impl Gatekeeper {
    /// Begins with nobody in.
    pub fn new(limits: Limits) -> Self {
        Self {
            links: Arc::default(),
            shares: Arc::default(),
            streams: Arc::default(),
            lookups: Arc::default(),
            handshakes: RateLimiter::direct(Quota::per_second(limits.handshakes)),
            handshakes_by_source: RateLimiter::keyed(Quota::per_second(
                limits.handshakes_per_source,
            )),
            handshakes_by_onion: RateLimiter::direct(Quota::per_second(limits.handshakes_by_onion)),
            creates: RateLimiter::direct(Quota::per_second(limits.creates)),
            creates_by_link: RateLimiter::keyed(Quota::per_second(limits.creates_per_client)),
            opens_by_circuit: RateLimiter::keyed(Quota::per_second(limits.opens_per_circuit)),
            bytes: limits
                .bytes
                .map(|bytes| RateLimiter::direct(Quota::per_second(bytes))),
            refused: AtomicUsize::new(0),
            limits,
        }
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How often a limit was met.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Streams open now.
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Links open now.
    pub fn links(&self) -> usize {
        self.links.load(Ordering::Relaxed)
    }

    /// Whether somebody may begin a link handshake; the place is for the whole life of the link.
    pub fn link(&self, from: IpAddr) -> Option<Place> {
        let key = source(from);
        let in_rate =
            self.handshakes_by_source.check_key(&key).is_ok() && self.handshakes.check().is_ok();
        let place = in_rate
            .then(|| {
                claim(&self.links, self.limits.links)?.within(
                    &self.shares,
                    Owner::Source(key),
                    self.limits.links_per_source,
                )
            })
            .flatten();
        self.note(place)
    }

    /// Whether somebody who came through the onion service may begin a link handshake; the place is for the whole life of the
    /// link.
    pub fn link_by_onion(&self) -> Option<Place> {
        let in_rate = self.handshakes_by_onion.check().is_ok() && self.handshakes.check().is_ok();
        let place = in_rate
            .then(|| {
                claim(&self.links, self.limits.links)?.within(
                    &self.shares,
                    Owner::Onion,
                    self.limits.links_by_onion,
                )
            })
            .flatten();
        self.note(place)
    }

    /// Whether a link may have a new circuit beside the `circuits` that pass or end here now.
    pub fn create(&self, link: u64, listed: bool, circuits: usize) -> bool {
        let allowed = circuits < self.limits.circuits
            && (listed || self.creates_by_link.check_key(&link).is_ok())
            && self.creates.check().is_ok();
        self.note(allowed.then_some(())).is_some()
    }

    /// Whether a circuit that came on this link may have a new stream.
    pub fn open(&self, link: u64, listed: bool, circuit: u64) -> Option<Place> {
        let place = (self.opens_by_circuit.check_key(&circuit).is_ok())
            .then(|| claim(&self.streams, self.limits.streams))
            .flatten()
            .and_then(|place| {
                if listed {
                    return Some(place);
                }
                place.within(
                    &self.shares,
                    Owner::Link(link),
                    self.limits.streams_per_client,
                )
            });
        self.note(place)
    }

    /// Whether a name may be looked up for a circuit; the place is for as long as that takes.
    pub fn lookup(&self, circuit: u64) -> Option<Place> {
        let place = claim(&self.lookups, self.limits.lookups).and_then(|place| {
            place.within(
                &self.shares,
                Owner::Circuit(circuit),
                self.limits.lookups_per_circuit,
            )
        });
        self.note(place)
    }

    fn note<T>(&self, allowed: Option<T>) -> Option<T> {
        if allowed.is_none() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        allowed
    }

    /// Forgets who has not been seen for a while. Call it every minute or so.
    pub fn tidy(&self) {
        self.handshakes_by_source.retain_recent();
        self.creates_by_link.retain_recent();
        self.opens_by_circuit.retain_recent();
    }

    /// A brake for one link, which keeps the link's place as long as it lives.
    pub fn brake(self: &Arc<Self>, place: Place) -> Brake {
        let own = self.limits.bytes_per_client;
        Brake {
            keeper: Arc::clone(self),
            own: own.map(|bytes| Arc::new(RateLimiter::direct(Quota::per_second(bytes)))),
            _place: place,
        }
    }
}

pub(super) fn claim(count: &Arc<AtomicUsize>, max: usize) -> Option<Place> {
    let place = Place {
        total: Arc::clone(count),
        shares: Vec::new(),
    };
    // Counted first and looked at then, so that two at once can't both take the last place; dropping gives it back.
    (count.fetch_add(1, Ordering::AcqRel) < max).then_some(place)
}

/// Slows down the reader of one link to its share, and ends with it.
pub struct Brake {
    keeper: Arc<Gatekeeper>,
    own: Option<Arc<DefaultDirectRateLimiter>>,
    _place: Place,
}

impl crate::overlay::link::Meter for Brake {
    async fn read(&self, bytes: usize) {
        for limiter in [self.own.as_deref(), self.keeper.bytes.as_ref()]
            .into_iter()
            .flatten()
        {
            slow(limiter, bytes).await;
        }
    }
}

async fn slow(limiter: &DefaultDirectRateLimiter, bytes: usize) {
    let mut left = u32::try_from(bytes).unwrap_or(u32::MAX);
    while let Some(part) = NonZeroU32::new(left.min(4096)) {
        match limiter.check_n(part) {
            Ok(Ok(())) => left -= part.get(),
            Ok(Err(wait)) => {
                tokio::time::sleep(wait.wait_time_from(DefaultClock::default().now())).await;
            }
            // The rate is below 4096 bytes a second: one frame at a time is as slow as it gets.
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn keeper() -> Gatekeeper {
        Gatekeeper::new(Limits {
            links: 3,
            links_per_source: 2,
            handshakes_per_source: at_least_one(1000),
            ..Limits::default()
        })
    }

    #[test]
    fn one_source_cannot_take_all_places() {
        let keeper = keeper();
        let [a, b]: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        let held = [keeper.link(a).unwrap(), keeper.link(a).unwrap()];
        assert!(keeper.link(a).is_none());
        let other = keeper.link(b).unwrap();
        assert!(keeper.link(b).is_none(), "the total is 3");
        drop(held);
        assert!(keeper.link(a).is_some());
        assert_eq!((keeper.refused(), keeper.links()), (2, 1));
        drop(other);
        assert!(keeper.shares.0.lock().unwrap().is_empty());
    }

    #[test]
    fn visitors_of_the_onion_service_leave_room_for_others() {
        let keeper = Gatekeeper::new(Limits {
            links: 4,
            links_by_onion: 2,
            ..Limits::default()
        });
        let held: Vec<_> = (0..9).filter_map(|_| keeper.link_by_onion()).collect();
        assert_eq!(held.len(), 2);
        let a = keeper.link("192.0.2.1".parse().unwrap());
        assert!(a.is_some());
        drop(held);
        assert!(keeper.link_by_onion().is_some());
        let keeper = Gatekeeper::new(Limits {
            handshakes_by_onion: at_least_one(3),
            ..Limits::default()
        });
        let held: Vec<_> = (0..50).filter_map(|_| keeper.link_by_onion()).collect();
        assert!((3..10).contains(&held.len()), "{}", held.len());
        assert!(keeper.link("192.0.2.1".parse().unwrap()).is_some());
    }

    #[test]
    fn a_whole_slash_64_is_one_source() {
        let keeper = keeper();
        let places: Vec<_> = (1..=3)
            .map(|n| keeper.link(format!("2001:db8::{n}").parse().unwrap()))
            .collect();
        assert_eq!(places.iter().flatten().count(), 2);
    }

    #[test]
    fn a_client_that_opens_circuits_too_fast_is_refused_and_a_relay_is_not() {
        let keeper = Gatekeeper::new(Limits {
            creates_per_client: at_least_one(5),
            ..Limits::default()
        });
        let made = (0..50).filter(|_| keeper.create(1, false, 0)).count();
        assert!((5..10).contains(&made), "{made}");
        assert!((0..50).all(|_| keeper.create(2, true, 0)));
    }

    #[test]
    fn all_relays_together_cannot_make_more_circuits_than_the_relay_takes() {
        let keeper = Gatekeeper::new(Limits {
            circuits: 10,
            ..Limits::default()
        });
        assert!(keeper.create(1, true, 9));
        assert!(!keeper.create(1, true, 10));
    }

    #[test]
    fn one_circuit_cannot_occupy_the_resolver() {
        let keeper = Gatekeeper::new(Limits {
            lookups: 5,
            lookups_per_circuit: 3,
            ..Limits::default()
        });
        let held: Vec<_> = (0..9).filter_map(|_| keeper.lookup(1)).collect();
        assert_eq!(held.len(), 3);
        let others: Vec<_> = (2..9).filter_map(|n| keeper.lookup(n)).collect();
        assert_eq!(others.len(), 2, "the total is 5");
        drop(held);
        assert!(keeper.lookup(1).is_some());
    }

    #[test]
    fn one_client_cannot_take_all_streams_by_opening_circuits() {
        let keeper = Gatekeeper::new(Limits {
            streams_per_client: 3,
            ..Limits::default()
        });
        let held: Vec<_> = (0..5)
            .map(|circuit| keeper.open(1, false, circuit))
            .collect();
        assert_eq!(held.iter().flatten().count(), 3);
        assert!(
            keeper.open(2, false, 9).is_some(),
            "another client has its own share"
        );
        let of_a_relay: Vec<_> = (10..20).filter_map(|n| keeper.open(3, true, n)).collect();
        assert_eq!(of_a_relay.len(), 10);
        drop(held);
        assert!(keeper.open(1, false, 6).is_some());
    }
}
