//! What peers of the public swarm tell each other (BEP 11): whom we name, to whom, when, and whom we believe.
//!
//! Only such a peer is named that we called at this address in this swarm, that gave the handshake and is connected: never one
//! that came to us, never one of whom others merely told, and never ourselves, who have no address. What is told changes at
//! random times, the same for everybody, so that nobody sees when each peer came or went.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hushswarm_circuits::relay_list::is_global;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use crate::torrent::pex::{MAX_ADDED, PeerExchange};
use crate::torrent::picker::PeerKey;

/// Most addresses told to, and believed from, one connection in all: a tenth of the table of peers.
const MAX_TOLD: usize = 200;

/// Time between messages to one peer (BEP 11: one a minute at the most), with what is added at random, ms.
const EVERY_MS: std::ops::Range<u64> = 60_000..90_000;

/// Time until the list is renewed of which everybody is told, drawn at random, ms.
const RENEW_MS: std::ops::Range<u64> = 30_000..60_000;

/// A connection both ends of which offered it.
struct Partner {
    /// What we told it.
    told: BTreeSet<SocketAddr>,
    /// What it told us.
    heard: BTreeSet<SocketAddr>,
    /// When it may be told next.
    not_before: Instant,
}

/// What is known of a swarm's public peers beside where to call them.
#[derive(Default)]
pub(super) struct Pex {
    partners: BTreeMap<PeerKey, Partner>,
    /// Those we call or called, where.
    called: BTreeMap<PeerKey, SocketAddr>,
    /// Those of them that gave the handshake.
    reached: BTreeSet<PeerKey>,
    /// Those of whom others are told, as it was when last renewed.
    list: Vec<SocketAddr>,
    /// When it is renewed; `None` before it is looked at first.
    renew_at: Option<Instant>,
}

impl Pex {
    /// We call somebody at this address.
    pub(super) fn calls(&mut self, key: PeerKey, addr: SocketAddr) {
        self.called.insert(key, addr);
    }

    /// A connection has the handshake; of one that came to us nothing is kept.
    pub(super) fn ready(&mut self, key: PeerKey) {
        if self.called.contains_key(&key) {
            self.reached.insert(key);
        }
    }

    /// A connection has both extension handshakes, and both ends offer to tell of others.
    pub(super) fn opened(&mut self, now: Instant, key: PeerKey) {
        // A second extension handshake on the same connection changes nothing.
        self.partners.entry(key).or_insert(Partner {
            told: BTreeSet::new(),
            heard: BTreeSet::new(),
            not_before: now,
        });
    }

    /// A call or connection ended.
    pub(super) fn closed(&mut self, key: PeerKey) {
        self.partners.remove(&key);
        self.called.remove(&key);
        self.reached.remove(&key);
    }

    /// Takes a message; gives the addresses that are worth a call. Private ones are told of only to be called where nobody else
    /// may call them.
    pub(super) fn heard(
        &mut self,
        key: PeerKey,
        peers: PeerExchange,
        allow_private: bool,
    ) -> Vec<SocketAddr> {
        let Some(partner) = self.partners.get_mut(&key) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        for addr in peers.added {
            let usable = allow_private || is_global(addr.ip());
            if usable && partner.heard.len() < MAX_TOLD && partner.heard.insert(addr) {
                out.push(addr);
            }
        }
        out
    }

    /// The next message that is due; `None` when nobody is to be told anything now.
    pub(super) fn next(
        &mut self,
        now: Instant,
        allow_private: bool,
        rng: &mut impl Rng,
    ) -> Option<(PeerKey, PeerExchange)> {
        let renewal = now + random(RENEW_MS, rng);
        if now >= *self.renew_at.get_or_insert(renewal) {
            self.renew_at = Some(renewal);
            let reached = self.reached.iter().filter_map(|key| self.called.get(key));
            let named = reached.filter(|addr| allow_private || is_global(addr.ip()));
            self.list = named.copied().collect();
        }
        for (key, partner) in &mut self.partners {
            if now < partner.not_before {
                continue;
            }
            let itself = self.called.get(key);
            let news = self.list.iter().filter(|addr| {
                let known = partner.told.contains(addr) || partner.heard.contains(addr);
                !known && Some(*addr) != itself
            });
            let mut added: Vec<SocketAddr> = news.copied().collect();
            added.shuffle(rng);
            added.truncate(MAX_TOLD.saturating_sub(partner.told.len()).min(MAX_ADDED));
            if added.is_empty() {
                continue;
            }
            partner.told.extend(&added);
            partner.not_before = now + random(EVERY_MS, rng);
            return Some((*key, PeerExchange { added }));
        }
        None
    }
}

fn random(range: std::ops::Range<u64>, rng: &mut impl Rng) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn addr(n: u32) -> SocketAddr {
        SocketAddr::new(std::net::Ipv4Addr::from(0x0b00_0000 + n).into(), 6881)
    }

    struct Test {
        pex: Pex,
        now: Instant,
        rng: StdRng,
    }

    impl Test {
        fn new() -> Self {
            Self {
                pex: Pex::default(),
                now: Instant::now(),
                rng: StdRng::seed_from_u64(1),
            }
        }

        /// We called it, and it is there.
        fn reach(&mut self, key: u32, addr: SocketAddr) {
            self.pex.calls(PeerKey(key), addr);
            self.come(key);
        }

        /// It has the handshakes.
        fn come(&mut self, key: u32) {
            self.pex.ready(PeerKey(key));
            self.pex.opened(self.now, PeerKey(key));
        }

        /// What is sent in the next `seconds`.
        fn sent(&mut self, seconds: u64) -> Vec<(u32, Vec<SocketAddr>)> {
            let mut out = Vec::new();
            for _ in 0..seconds {
                self.now += Duration::from_secs(1);
                while let Some((key, peers)) = self.pex.next(self.now, false, &mut self.rng) {
                    out.push((key.0, peers.added));
                }
            }
            out
        }

        fn hear(&mut self, key: u32, added: Vec<SocketAddr>) -> Vec<SocketAddr> {
            self.pex.heard(PeerKey(key), PeerExchange { added }, false)
        }
    }

    #[test]
    fn only_who_was_called_and_answered_is_named_and_to_the_others_alone() {
        let mut test = Test::new();
        test.reach(1, addr(1));
        test.reach(2, addr(2));
        // A visitor, one that never answered, and hearsay.
        test.come(3);
        test.pex.calls(PeerKey(4), addr(4));
        assert_eq!(test.hear(1, vec![addr(5)]), [addr(5)]);
        let mut sent = test.sent(61);
        sent.iter_mut().for_each(|(_, added)| added.sort());
        let both = vec![addr(1), addr(2)];
        assert_eq!(
            sent,
            [(1, vec![addr(2)]), (2, vec![addr(1)]), (3, both)],
            "nobody is told of himself"
        );
        assert_eq!(test.sent(600), [], "once");
    }

    #[test]
    fn private_addresses_are_neither_named_nor_believed() {
        let mut test = Test::new();
        let private = ["10.0.0.1:1", "127.0.0.1:1", "[fd00::1]:1", "[::1]:1"];
        let private: Vec<SocketAddr> = private.iter().map(|a| a.parse().unwrap()).collect();
        for (key, at) in (10..).zip(&private) {
            test.reach(key, *at);
        }
        test.come(1);
        assert_eq!(test.hear(1, private.clone()), []);
        assert_eq!(test.sent(600), []);
        let peers = PeerExchange { added: private };
        let heard = test.pex.heard(PeerKey(1), peers.clone(), true);
        assert_eq!(heard, peers.added, "but where the user says so");
        test.now += Duration::from_secs(60);
        assert!(test.pex.next(test.now, true, &mut test.rng).is_some());
    }

    #[test]
    fn one_peer_is_told_once_a_minute_at_most_fifty_and_a_bounded_number_in_all() {
        let mut test = Test::new();
        test.come(0);
        let (start, mut times, mut told) = (test.now, Vec::new(), Vec::new());
        for n in 1..=400 {
            test.reach(n, addr(n));
            let sent = test.sent(2);
            for (_, added) in sent.into_iter().filter(|(key, _)| *key == 0) {
                times.push((test.now - start).as_secs());
                assert!(added.len() <= MAX_ADDED);
                told.extend(added);
            }
        }
        assert!(times.windows(2).all(|t| t[1] - t[0] >= 59), "{times:?}");
        let gaps: BTreeSet<u64> = times.windows(2).map(|t| t[1] - t[0]).collect();
        assert!(gaps.len() > 1, "at random: {gaps:?}");
        assert!(!told.is_sorted(), "in no order");
        assert_eq!(told.len(), MAX_TOLD);
        assert_eq!(told.iter().collect::<BTreeSet<_>>().len(), MAX_TOLD);
    }

    #[test]
    fn one_peer_is_believed_a_bounded_number_and_each_once() {
        let mut test = Test::new();
        test.come(1);
        let mut believed = 0;
        for n in 0..500 {
            believed += test.hear(1, vec![addr(n), addr(n), addr(0)]).len();
        }
        assert_eq!(believed, MAX_TOLD);
        assert_eq!(test.hear(9, vec![addr(1)]), [], "who did not offer it");
    }

    #[test]
    fn who_went_is_named_no_more() {
        let mut test = Test::new();
        test.reach(1, addr(1));
        test.sent(61);
        test.pex.closed(PeerKey(1));
        test.sent(61);
        test.come(2);
        assert_eq!(test.sent(600), []);
        assert!(test.pex.called.is_empty() && test.pex.reached.is_empty());
    }

    #[test]
    fn one_who_comes_again_and_again_does_not_see_when_each_peer_came() {
        let mut test = Test::new();
        let (start, mut seen, mut changes) = (test.now, BTreeSet::new(), Vec::new());
        for n in 0..MAX_ADDED as u32 {
            test.reach(2 * n, addr(n));
            test.come(2 * n + 1);
            let before = seen.len();
            for (key, added) in test.sent(10) {
                if key == 2 * n + 1 {
                    seen.extend(added);
                }
            }
            if seen.len() > before {
                changes.push((test.now - start).as_secs());
            }
            test.pex.closed(PeerKey(2 * n + 1));
        }
        assert!(seen.len() > 40, "{}", seen.len());
        assert!((8..=17).contains(&changes.len()), "{changes:?}");
    }
}
