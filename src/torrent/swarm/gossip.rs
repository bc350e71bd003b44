//! What onion peers of a swarm tell each other: whom we may name, to whom, and when (docs/onion-gossip.md).
//!
//! Only such a peer is named that offers the same itself, and that we dialled under the address in this session: an address
//! that somebody merely tells of costs its teller's listeners a few calls each, and goes no further. A peer is its service's
//! key: under two ports it is the same one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use crate::onion::OnionKey;
use crate::torrent::gossip::{MAX_ADDED, OnionPeer, Onions};
use crate::torrent::peer::CloseReason;
use crate::torrent::picker::PeerKey;

/// Most addresses told to, and believed from, one connection in all: a tenth of the table of peers, and more than anybody
/// connects to.
const MAX_TOLD: usize = 200;

/// The first message follows the extension handshake within this time, drawn at random, so that one who just came is not the
/// first that others hear of.
const FIRST_MS: std::ops::Range<u64> = 500..3000;

/// Time between messages to one peer.
const EVERY: Duration = Duration::from_secs(60);

/// Time until the list is renewed of which everybody is told, in ms, drawn at random: whoever comes again and again sees
/// changes only then, and not when each peer came.
const RENEW_MS: std::ops::Range<u64> = 60_000..90_000;

/// A peer that went is named for so long: it may be there for others, and two that are complete meet twice an hour.
const FRESH: Duration = Duration::from_secs(60 * 60);

/// Most addresses that may be named. More than can be connected within [`FRESH`], as a rule.
const MAX_PROVEN: usize = 500;

/// A connection both ends of which offered it.
struct Partner {
    /// Where we dialled it; `None` where it came to us.
    dialled: Option<OnionPeer>,
    /// Where it says to be, where it came to us.
    me: Option<OnionPeer>,
    /// What we told it.
    told: BTreeSet<OnionKey>,
    told_me: bool,
    /// What it told us.
    heard: BTreeSet<OnionKey>,
    /// When it may be told next.
    not_before: Instant,
}

impl Partner {
    fn is(&self, onion: OnionKey) -> bool {
        let names = [self.dialled, self.me];
        names.iter().flatten().any(|name| name.key() == onion)
    }
}

/// What is known of a swarm's onion peers.
#[derive(Default)]
pub(super) struct Gossip {
    /// Our own, of which the first is told.
    own: Vec<OnionPeer>,
    partners: BTreeMap<PeerKey, Partner>,
    /// Those we dialled, where, and when they were there last.
    proven: BTreeMap<OnionKey, (OnionPeer, Instant)>,
    /// Those of whom others are told, as it was when last renewed.
    list: Vec<OnionPeer>,
    /// When it is renewed; `None` before it is looked at first.
    renew_at: Option<Instant>,
}

impl Gossip {
    /// Our own addresses, from now on: others are told of the first.
    pub(super) fn set_own(&mut self, own: Vec<OnionPeer>) {
        self.own = own;
    }

    /// Whether this is an address of ours.
    pub(super) fn is_own(&self, onion: &OnionPeer) -> bool {
        self.own.iter().any(|own| own.key() == onion.key())
    }

    /// A connection has both extension handshakes, and both ends offer to gossip. `dialled` is where we called it.
    pub(super) fn opened(
        &mut self,
        now: Instant,
        key: PeerKey,
        dialled: Option<OnionPeer>,
        rng: &mut impl Rng,
    ) {
        if let Some(onion) = dialled {
            self.prove(now, onion);
        }
        let first = Duration::from_millis(rng.random_range(FIRST_MS));
        // A second extension handshake on the same connection changes nothing.
        self.partners.entry(key).or_insert(Partner {
            dialled,
            me: None,
            told: BTreeSet::new(),
            told_me: false,
            heard: BTreeSet::new(),
            not_before: now + first,
        });
    }

    /// This peer was dialled, and offers to gossip: others may hear of it.
    fn prove(&mut self, now: Instant, onion: OnionPeer) {
        if self.proven.len() < MAX_PROVEN || self.proven.contains_key(&onion.key()) {
            self.proven.insert(onion.key(), (onion, now));
        }
    }

    /// Takes a message; gives the addresses that are worth a call: where the peer itself is first, then others.
    ///
    /// # Errors
    /// The peer contradicts itself: close the connection.
    pub(super) fn heard(
        &mut self,
        key: PeerKey,
        onions: Onions,
    ) -> Result<Vec<OnionPeer>, CloseReason> {
        let Some(partner) = self.partners.get_mut(&key) else {
            return Ok(Vec::new());
        };
        let mut out = Vec::new();
        // Who was dialled needs not say where it is.
        if let Some(me) = onions.me.filter(|_| partner.dialled.is_none()) {
            match partner.me {
                None => {
                    partner.me = Some(me);
                    out.push(me);
                }
                Some(before) if before == me => {}
                Some(_) => return Err(CloseReason::Bad("address")),
            }
        }
        for onion in onions.added {
            if partner.heard.len() < MAX_TOLD && partner.heard.insert(onion.key()) {
                out.push(onion);
            }
        }
        out.retain(|onion| !self.is_own(onion));
        Ok(out)
    }

    /// A connection ended.
    pub(super) fn closed(&mut self, now: Instant, key: PeerKey) {
        let dialled = self.partners.remove(&key).and_then(|p| p.dialled);
        // Where it came to us, nothing shows that it was who it said to be.
        if let Some((_, seen)) = dialled.and_then(|onion| self.proven.get_mut(&onion.key())) {
            *seen = now;
        }
    }

    /// Connections that came to us from peers that we dialled too, where the one that we dialled is to stay: of two between
    /// a pair that is the one which the lesser key dialled, as both see it alike.
    ///
    /// What is closed is only ever the connection on which the claim came: who lies about his name closes nothing but his own.
    pub(super) fn doubles(&self) -> Vec<PeerKey> {
        let Some(own) = self.own.first().map(OnionPeer::key) else {
            return Vec::new();
        };
        let dialled: BTreeSet<OnionKey> = self.dialled().map(|onion| onion.key()).collect();
        let double = |me: OnionKey| own < me && dialled.contains(&me);
        self.partners
            .iter()
            .filter(|(_, partner)| partner.me.is_some_and(|me| double(me.key())))
            .map(|(key, _)| *key)
            .collect()
    }

    /// How many may be named.
    pub(super) fn proven(&self) -> usize {
        self.proven.len()
    }

    /// Those we dialled that are connected.
    pub(super) fn dialled(&self) -> impl Iterator<Item = OnionPeer> + '_ {
        self.partners.values().filter_map(|partner| partner.dialled)
    }

    /// The next message that is due; `None` when nobody is to be told anything now.
    pub(super) fn next(&mut self, now: Instant, rng: &mut impl Rng) -> Option<(PeerKey, Onions)> {
        let partners = &self.partners;
        self.proven.retain(|onion, (_, seen)| {
            let dialled = |partner: &Partner| partner.dialled.is_some_and(|d| d.key() == *onion);
            now < *seen + FRESH || partners.values().any(dialled)
        });
        if now >= *self.renew_at.get_or_insert(now + renewal(rng)) {
            self.renew_at = Some(now + renewal(rng));
            self.list = self.proven.values().map(|(onion, _)| *onion).collect();
        }
        for (key, partner) in &mut self.partners {
            if now < partner.not_before {
                continue;
            }
            let me = self.own.first().copied();
            let me = me.filter(|_| partner.dialled.is_some() && !partner.told_me);
            let room = MAX_TOLD.saturating_sub(partner.told.len()).min(MAX_ADDED);
            let own = &self.own;
            let news = self.list.iter().filter(|onion| {
                let onion = onion.key();
                let known = partner.told.contains(&onion) || partner.heard.contains(&onion);
                !known && !partner.is(onion) && own.iter().all(|own| own.key() != onion)
            });
            let mut added: Vec<OnionPeer> = news.copied().collect();
            added.shuffle(rng);
            added.truncate(room);
            if me.is_none() && added.is_empty() {
                continue;
            }
            partner.told.extend(added.iter().map(OnionPeer::key));
            partner.told_me |= me.is_some();
            partner.not_before = now + EVERY;
            return Some((*key, Onions { me, added }));
        }
        None
    }
}

fn renewal(rng: &mut impl Rng) -> Duration {
    Duration::from_millis(rng.random_range(RENEW_MS))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn onion(n: u32) -> OnionPeer {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        OnionPeer::new(crate::onion::OnionKey(key), 6881).unwrap()
    }

    struct Test {
        gossip: Gossip,
        now: Instant,
        rng: StdRng,
    }

    impl Test {
        fn new() -> Self {
            Self {
                gossip: Gossip::default(),
                now: Instant::now(),
                rng: StdRng::seed_from_u64(1),
            }
        }

        fn open(&mut self, key: u32, dialled: Option<OnionPeer>) {
            self.gossip
                .opened(self.now, PeerKey(key), dialled, &mut self.rng);
        }

        /// What is sent in the next `seconds`.
        fn sent(&mut self, seconds: u64) -> Vec<(u32, Onions)> {
            let mut out = Vec::new();
            for _ in 0..seconds {
                self.now += Duration::from_secs(1);
                while let Some((key, onions)) = self.gossip.next(self.now, &mut self.rng) {
                    out.push((key.0, onions));
                }
            }
            out
        }

        fn hear(&mut self, key: u32, me: Option<u32>, added: &[u32]) -> Vec<OnionPeer> {
            let onions = Onions {
                me: me.map(onion),
                added: added.iter().copied().map(onion).collect(),
            };
            self.gossip.heard(PeerKey(key), onions).unwrap()
        }
    }

    #[test]
    fn who_was_dialled_is_named_to_the_others_once_and_within_two_minutes() {
        let mut test = Test::new();
        test.open(1, Some(onion(1)));
        test.open(2, None);
        let sent = test.sent(91);
        let expected = Onions {
            me: None,
            added: vec![onion(1)],
        };
        assert_eq!(
            sent,
            [(2, expected)],
            "the one that was dialled knows itself"
        );
        assert_eq!(test.sent(600), []);
    }

    #[test]
    fn what_somebody_merely_tells_of_goes_no_further() {
        let mut test = Test::new();
        test.open(1, None);
        test.open(2, None);
        let worth_a_call = test.hear(1, Some(7), &[8, 9]);
        assert_eq!(worth_a_call, [onion(7), onion(8), onion(9)]);
        assert_eq!(test.sent(600), []);
        // Only what answers a call.
        test.gossip.prove(test.now, onion(7));
        let sent = test.sent(91);
        assert_eq!(sent.len(), 1);
        assert_eq!((sent[0].0, &sent[0].1.added[..]), (2, &[onion(7)][..]));
        assert_eq!(
            test.sent(600),
            [],
            "nobody is told of itself, nor what it told"
        );
    }

    #[test]
    fn our_own_address_is_told_to_those_we_dialled_and_never_called() {
        let mut test = Test::new();
        test.open(1, Some(onion(1)));
        test.open(2, None);
        assert_eq!(test.sent(91).len(), 1);
        // A further service of ours is not told, and not called when others tell of it.
        test.gossip.set_own(vec![onion(5), onion(8)]);
        let sent = test.sent(60);
        let expected = Onions {
            me: Some(onion(5)),
            added: Vec::new(),
        };
        assert_eq!(sent, [(1, expected)]);
        assert_eq!(test.hear(1, None, &[5, 6, 8]), [onion(6)]);
        assert_eq!(test.hear(2, Some(5), &[]), []);
        assert!(test.gossip.is_own(&onion(5)) && test.gossip.is_own(&onion(8)));
        assert_eq!(test.sent(600), []);
    }

    #[test]
    fn one_peer_hears_of_news_once_a_minute_and_of_a_bounded_number_in_all() {
        let mut test = Test::new();
        test.open(0, None);
        let start = test.now;
        let mut times = Vec::new();
        let mut told = Vec::new();
        for n in 1..=400 {
            test.gossip.prove(test.now, onion(n));
            for (_, onions) in test.sent(2) {
                times.push((test.now - start).as_secs());
                assert!(onions.added.len() <= MAX_ADDED);
                told.extend(onions.added);
            }
        }
        assert!(
            times.windows(2).all(|pair| pair[1] - pair[0] >= 59),
            "{times:?}"
        );
        assert!(!told.is_sorted(), "in no order");
        assert_eq!(told.len(), MAX_TOLD);
        assert_eq!(told.iter().collect::<BTreeSet<_>>().len(), MAX_TOLD);
    }

    #[test]
    fn one_service_is_told_and_heard_of_once_whatever_its_ports() {
        let at = |n: u32, port| OnionPeer::new(onion(n).key(), port).unwrap();
        let mut test = Test::new();
        test.open(1, None);
        test.gossip.set_own(vec![onion(7)]);
        for port in 1..=MAX_TOLD as u16 {
            let onions = Onions {
                me: None,
                added: vec![at(7, port), at(8, port), at(9, port)],
            };
            let heard = test.gossip.heard(PeerKey(1), onions).unwrap();
            assert_eq!(heard.len(), if port == 1 { 2 } else { 0 });
        }
        // Proven under many ports, it is named once.
        test.open(2, None);
        for port in 1..=2 * MAX_PROVEN as u16 {
            test.gossip.prove(test.now, at(5, port));
        }
        assert_eq!(test.gossip.proven(), 1);
        let sent = test.sent(600);
        assert!(sent.iter().all(|(_, onions)| onions.added.len() == 1));
        assert_eq!(sent.len(), 2);
        test.gossip.prove(test.now, at(5, 6882));
        assert_eq!(test.sent(600), []);
    }

    #[test]
    fn one_peer_can_not_fill_the_table_nor_change_its_name() {
        let mut test = Test::new();
        test.open(1, None);
        let many: Vec<u32> = (0..500).collect();
        let mut worth_a_call = 0;
        for part in many.chunks(MAX_ADDED) {
            worth_a_call += test.hear(1, Some(1000), part).len();
            assert_eq!(test.hear(1, Some(1000), part), [], "known");
        }
        assert_eq!(worth_a_call, MAX_TOLD + 1);
        let other = Onions {
            me: Some(onion(1001)),
            added: Vec::new(),
        };
        let error = test.gossip.heard(PeerKey(1), other).unwrap_err();
        assert!(error.is_fault());
    }

    #[test]
    fn whoever_comes_again_and_again_does_not_see_when_each_peer_came() {
        let mut test = Test::new();
        let mut seen = BTreeSet::new();
        let mut changes = Vec::new();
        let start = test.now;
        // Every ten seconds a peer comes, and somebody who looks and is told of all: there are no more than a message holds.
        for n in 0..MAX_ADDED as u32 {
            test.open(2 * n, Some(onion(n)));
            test.open(2 * n + 1, None);
            let before = seen.len();
            for (key, onions) in test.sent(10) {
                if key == 2 * n + 1 {
                    seen.extend(onions.added);
                }
            }
            if seen.len() > before {
                changes.push((test.now - start).as_secs());
            }
            test.gossip.closed(test.now, PeerKey(2 * n + 1));
            test.gossip.closed(test.now, PeerKey(2 * n));
        }
        assert!(seen.len() > 35, "{}", seen.len());
        assert!((5..=8).contains(&changes.len()), "{changes:?}");
        let gaps: BTreeSet<u64> = changes.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.len() > 1, "at random: {gaps:?}");
    }

    #[test]
    fn of_two_connections_between_a_pair_both_see_the_same_one_as_too_many() {
        for (ours, theirs, closed) in [(1, 2, vec![PeerKey(2)]), (2, 1, vec![])] {
            let mut test = Test::new();
            test.gossip.set_own(vec![onion(ours)]);
            test.open(1, Some(onion(theirs)));
            test.open(2, None);
            test.open(3, None);
            test.hear(3, Some(7), &[]);
            assert_eq!(test.gossip.doubles(), []);
            test.hear(2, Some(theirs), &[]);
            assert_eq!(test.gossip.doubles(), closed);
            test.gossip.closed(test.now, PeerKey(1));
            assert_eq!(test.gossip.doubles(), [], "nobody loses the only one");
        }
    }

    #[test]
    fn who_says_to_be_somebody_does_not_keep_him_named() {
        let mut test = Test::new();
        test.open(1, Some(onion(1)));
        test.open(2, None);
        test.hear(2, Some(1), &[]);
        test.gossip.closed(test.now, PeerKey(1));
        test.sent(61 * 60);
        assert_eq!(test.gossip.proven(), 0);
    }

    #[test]
    fn who_went_is_named_for_a_while() {
        let mut test = Test::new();
        test.open(1, Some(onion(1)));
        assert_eq!(test.sent(3 * 3600), []);
        assert!(test.gossip.proven() == 1, "still connected");
        test.gossip.closed(test.now, PeerKey(1));
        test.sent(59 * 60);
        test.open(2, None);
        assert_eq!(test.sent(5).len(), 1);
        test.sent(4 * 60);
        test.open(3, None);
        assert_eq!(test.sent(60), []);
        assert_eq!(test.gossip.proven(), 0);
    }
}
