//! What peers of a hidden swarm tell each other: whom we may name, to whom, and when (docs/onion-gossip.md).
//!
//! Only such a peer is named that offers the same itself, and that we dialled under the address in this session: an address
//! that somebody merely tells of costs its teller's listeners a few calls each, and goes no further. A peer is its service's
//! key, or its seed's: under two ports, or at other introduction points, it is the same one.
//!
//! Where a hidden seed is introduced, only the seed itself can say: whoever we dialled by a meeting has proved its key. Nothing else is
//! passed on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hushswarm_circuits::rendezvous::Contact;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use crate::hush::SeedKey;
use crate::torrent::gossip::{
    Concealed, MAX_ADDED, MAX_SEEDS, MAX_SEEDS_LEN, Name, OnionPeer, Onions,
};
use crate::torrent::peer::CloseReason;
use crate::torrent::picker::PeerKey;

/// Most peers told to, and believed from, one connection in all: a tenth of the table of peers, and more than anybody
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

/// Most peers that may be named. More than can be connected within [`FRESH`], as a rule.
const MAX_PROVEN: usize = 500;

/// Most keys of hidden seeds that are known as our own: one torrent has one at a time, and another when it is started anew.
const MAX_OWN: usize = 16;

/// How a connection came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// We called.
    Dialled(Concealed),
    /// It came to an onion service of ours.
    ToOnion,
    /// It came by a meeting, to our key.
    ToSeed,
}

/// Whom a message is worth a call to, or better knowledge of; in this order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Somebody says that there is an onion service.
    Onion(OnionPeer),
    /// Somebody says that there is a hidden seed. It may have been said before, of other introduction points.
    Seed(Contact),
    /// A seed that we dialled says itself where it is introduced.
    Own(Contact),
}

/// A connection both ends of which offered it.
struct Partner {
    origin: Origin,
    /// Where it says to be, where it came to us.
    me: Option<Concealed>,
    /// Whom we told it of.
    told: BTreeSet<Name>,
    told_me: bool,
    /// How it was told that our hidden seed is reached.
    told_seed: Option<Contact>,
    /// Of whom it told us.
    heard: BTreeSet<Name>,
    /// When it may be told next.
    not_before: Instant,
}

impl Partner {
    /// Where we dialled it.
    fn dialled(&self) -> Option<Concealed> {
        match self.origin {
            Origin::Dialled(peer) => Some(peer),
            Origin::ToOnion | Origin::ToSeed => None,
        }
    }

    fn is(&self, name: Name) -> bool {
        let names = [self.dialled(), self.me];
        names.iter().flatten().any(|peer| peer.name() == name)
    }

    /// Whether it may hear of our hidden seed: who came to it, and whom we called as it calls seeds. Nobody else, for he may know
    /// our onion service, and would know that both are one.
    fn hears_of_our_seed(&self) -> bool {
        match self.origin {
            Origin::Dialled(Concealed::Seed(_)) | Origin::ToSeed => true,
            Origin::Dialled(Concealed::Onion(_)) | Origin::ToOnion => false,
        }
    }
}

/// A peer that we dialled.
struct Proven {
    peer: Concealed,
    /// Where it says itself to be introduced, where it is a hidden seed.
    word: Option<Contact>,
    /// When it was there last.
    seen: Instant,
}

/// One of whom others are told.
#[derive(Clone)]
enum Listed {
    Onion(OnionPeer),
    Seed(Contact),
}

impl Listed {
    fn name(&self) -> Name {
        match self {
            Self::Onion(onion) => Name::Onion(onion.key()),
            Self::Seed(contact) => Name::Seed(SeedKey(contact.key)),
        }
    }
}

/// What is known of a hidden swarm's peers.
#[derive(Default)]
pub(super) struct Gossip {
    /// Our own onion services, of which the first is told.
    own: Vec<OnionPeer>,
    /// How our own hidden seed is reached.
    own_seed: Option<Contact>,
    /// Its key, and those that it had.
    own_keys: BTreeSet<SeedKey>,
    partners: BTreeMap<PeerKey, Partner>,
    /// Those we dialled.
    proven: BTreeMap<Name, Proven>,
    /// Those of whom others are told, as it was when last renewed.
    list: Vec<Listed>,
    /// When it is renewed; `None` before it is looked at first.
    renew_at: Option<Instant>,
}

impl Gossip {
    /// Our own onion services, from now on, of which others are told of the first, and our hidden seed. One that is introduced
    /// nowhere for a while is still ours.
    pub(super) fn set_own(&mut self, own: Vec<OnionPeer>, seed: Option<Contact>) {
        self.own = own;
        if let Some(seed) = seed.as_ref().filter(|_| self.own_keys.len() < MAX_OWN) {
            self.own_keys.insert(SeedKey(seed.key));
        }
        self.own_seed = seed;
    }

    /// Whether this is one of ours.
    pub(super) fn is_own(&self, name: Name) -> bool {
        match name {
            Name::Onion(key) => self.own.iter().any(|own| own.key() == key),
            Name::Seed(key) => self.own_keys.contains(&key),
        }
    }

    /// The one that others are told of, where this one is of the same kind.
    fn own_like(&self, name: Name) -> Option<Name> {
        match name {
            Name::Onion(_) => self.own.first().map(|own| Name::Onion(own.key())),
            Name::Seed(_) => self
                .own_seed
                .as_ref()
                .map(|own| Name::Seed(SeedKey(own.key))),
        }
    }

    /// A connection has both extension handshakes, and both ends offer to gossip.
    pub(super) fn opened(
        &mut self,
        now: Instant,
        key: PeerKey,
        origin: Origin,
        rng: &mut impl Rng,
    ) {
        if let Origin::Dialled(peer) = origin {
            self.prove(now, peer);
        }
        let first = Duration::from_millis(rng.random_range(FIRST_MS));
        // A second extension handshake on the same connection changes nothing.
        self.partners.entry(key).or_insert(Partner {
            origin,
            me: None,
            told: BTreeSet::new(),
            told_me: false,
            told_seed: None,
            heard: BTreeSet::new(),
            not_before: now + first,
        });
    }

    /// This peer was dialled, and offers to gossip: others may hear of it.
    fn prove(&mut self, now: Instant, peer: Concealed) {
        let before = self.proven.remove(&peer.name());
        if self.proven.len() < MAX_PROVEN {
            let word = before.and_then(|before| before.word);
            let seen = now;
            self.proven.insert(peer.name(), Proven { peer, word, seen });
        }
    }

    /// Takes a message; gives what is worth a call: where the peer itself is first, then others.
    ///
    /// # Errors
    /// The peer contradicts itself: close the connection.
    pub(super) fn heard(&mut self, key: PeerKey, onions: Onions) -> Result<Vec<Word>, CloseReason> {
        let Some(partner) = self.partners.get_mut(&key) else {
            return Ok(Vec::new());
        };
        let mut out = Vec::new();
        match (partner.origin, onions.me, onions.seed) {
            // Who was dialled needs not say where it is, but only the seed itself knows where it is introduced by now.
            (Origin::Dialled(Concealed::Seed(dialled)), _, Some(seed)) => {
                if dialled != SeedKey(seed.key) {
                    return Err(CloseReason::Bad("address"));
                }
                if let Some(proven) = self.proven.get_mut(&Name::Seed(dialled)) {
                    proven.word = Some(seed.clone());
                }
                out.push(Word::Own(seed));
            }
            (Origin::Dialled(_), ..) | (_, None, None) => {}
            (Origin::ToOnion | Origin::ToSeed, Some(me), _) => {
                if partner.claims(Concealed::Onion(me))? {
                    out.push(Word::Onion(me));
                }
            }
            (Origin::ToOnion | Origin::ToSeed, None, Some(seed)) => {
                partner.claims(Concealed::Seed(SeedKey(seed.key)))?;
                out.push(Word::Seed(seed));
            }
        }
        let onions_told = onions.added.into_iter().map(Word::Onion);
        for word in onions_told.chain(onions.seeds.into_iter().map(Word::Seed)) {
            if partner.heard.len() < MAX_TOLD && partner.heard.insert(word.name()) {
                out.push(word);
            }
        }
        let connected: BTreeSet<Name> = self.dialled().map(|peer| peer.name()).collect();
        out.retain(|word| match word {
            Word::Own(_) => true,
            Word::Onion(onion) => !self.is_own(Name::Onion(onion.key())),
            // Who is connected says itself where it is introduced.
            Word::Seed(_) => !self.is_own(word.name()) && !connected.contains(&word.name()),
        });
        Ok(out)
    }

    /// A connection ended.
    pub(super) fn closed(&mut self, now: Instant, key: PeerKey) {
        let dialled = self.partners.remove(&key).and_then(|p| p.dialled());
        // Where it came to us, nothing shows that it was who it said to be.
        if let Some(proven) = dialled.and_then(|peer| self.proven.get_mut(&peer.name())) {
            proven.seen = now;
        }
    }

    /// Connections that came to us from peers that we dialled too, where the one that we dialled is to stay: of two between
    /// a pair that is the one which the lesser key dialled, as both see it alike.
    ///
    /// What is closed is only ever the connection on which the claim came: who lies about his name closes nothing but his own.
    pub(super) fn doubles(&self) -> Vec<PeerKey> {
        let dialled: BTreeSet<Name> = self.dialled().map(|peer| peer.name()).collect();
        let double =
            |me: Name| self.own_like(me).is_some_and(|own| own < me) && dialled.contains(&me);
        self.partners
            .iter()
            .filter(|(_, partner)| partner.me.is_some_and(|me| double(me.name())))
            .map(|(key, _)| *key)
            .collect()
    }

    /// How many may be named.
    pub(super) fn proven(&self) -> usize {
        self.proven.len()
    }

    /// Those we dialled that are connected.
    pub(super) fn dialled(&self) -> impl Iterator<Item = Concealed> + '_ {
        self.partners.values().filter_map(Partner::dialled)
    }

    /// The next message that is due; `None` when nobody is to be told anything now.
    pub(super) fn next(&mut self, now: Instant, rng: &mut impl Rng) -> Option<(PeerKey, Onions)> {
        self.renew(now, rng);
        for (key, partner) in &mut self.partners {
            if now < partner.not_before {
                continue;
            }
            let is_onion = matches!(partner.origin, Origin::Dialled(Concealed::Onion(_)));
            let me = self.own.first().copied();
            let me = me.filter(|_| is_onion && !partner.told_me);
            let seed = self.own_seed.as_ref();
            let seed = seed.filter(|seed| {
                partner.hears_of_our_seed() && partner.told_seed.as_ref() != Some(*seed)
            });
            let (own, own_keys) = (&self.own, &self.own_keys);
            let is_own = |name| match name {
                Name::Onion(key) => own.iter().any(|own| own.key() == key),
                Name::Seed(key) => own_keys.contains(&key),
            };
            let mut news: Vec<&Listed> = self
                .list
                .iter()
                .filter(|listed| {
                    let name = listed.name();
                    let known = partner.told.contains(&name) || partner.heard.contains(&name);
                    !known && !partner.is(name) && !is_own(name)
                })
                .collect();
            news.shuffle(rng);
            news.truncate(MAX_TOLD.saturating_sub(partner.told.len()));
            let mut message = Onions {
                me,
                seed: seed.cloned(),
                ..Onions::default()
            };
            fill(&mut message, &news);
            if message == Onions::default() {
                continue;
            }
            let onions = message.added.iter().map(|onion| Name::Onion(onion.key()));
            let seeds = message
                .seeds
                .iter()
                .map(|seed| Name::Seed(SeedKey(seed.key)));
            partner.told.extend(onions.chain(seeds));
            partner.told_me |= me.is_some();
            if message.seed.is_some() {
                partner.told_seed.clone_from(&message.seed);
            }
            partner.not_before = now + EVERY;
            return Some((*key, message));
        }
        None
    }

    /// Forgets whom nobody met for long, and draws up the list anew when it is time.
    fn renew(&mut self, now: Instant, rng: &mut impl Rng) {
        let partners = &self.partners;
        self.proven.retain(|name, proven| {
            let dialled = |partner: &Partner| partner.dialled().is_some_and(|d| d.name() == *name);
            now < proven.seen + FRESH || partners.values().any(dialled)
        });
        if now >= *self.renew_at.get_or_insert(now + renewal(rng)) {
            self.renew_at = Some(now + renewal(rng));
            let listed = |proven: &Proven| match proven.peer {
                Concealed::Onion(onion) => Some(Listed::Onion(onion)),
                Concealed::Seed(_) => proven.word.clone().map(Listed::Seed),
            };
            self.list = self.proven.values().filter_map(listed).collect();
        }
    }
}

impl Partner {
    /// It says to be this one. Tells whether that is new.
    fn claims(&mut self, me: Concealed) -> Result<bool, CloseReason> {
        match self.me {
            None => {
                self.me = Some(me);
                Ok(true)
            }
            Some(before) if before == me => Ok(false),
            Some(_) => Err(CloseReason::Bad("address")),
        }
    }
}

impl Word {
    fn name(&self) -> Name {
        match self {
            Self::Onion(onion) => Name::Onion(onion.key()),
            Self::Seed(contact) | Self::Own(contact) => Name::Seed(SeedKey(contact.key)),
        }
    }
}

/// Puts as many of these into a message as it may hold.
fn fill(message: &mut Onions, news: &[&Listed]) {
    let mut room = MAX_SEEDS_LEN;
    for listed in news {
        match listed {
            Listed::Onion(onion) if message.added.len() < MAX_ADDED => message.added.push(*onion),
            Listed::Seed(contact) if message.seeds.len() < MAX_SEEDS => {
                let len = contact.encode().len();
                if len <= room {
                    room -= len;
                    message.seeds.push(contact.clone());
                }
            }
            Listed::Onion(_) | Listed::Seed(_) => {}
        }
    }
}

fn renewal(rng: &mut impl Rng) -> Duration {
    Duration::from_millis(rng.random_range(RENEW_MS))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hushswarm_circuits::keys::RelayId;
    use hushswarm_circuits::rendezvous::{IntroductionId, Point};
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
            let dialled = dialled.map(|onion| Origin::Dialled(Concealed::Onion(onion)));
            self.open_as(key, dialled.unwrap_or(Origin::ToOnion));
        }

        fn open_as(&mut self, key: u32, origin: Origin) {
            self.gossip
                .opened(self.now, PeerKey(key), origin, &mut self.rng);
        }

        fn prove(&mut self, onion: OnionPeer) {
            self.gossip.prove(self.now, Concealed::Onion(onion));
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
                ..Onions::default()
            };
            let words = self.gossip.heard(PeerKey(key), onions).unwrap();
            let onions = words.into_iter().map(|word| match word {
                Word::Onion(onion) => onion,
                Word::Seed(_) | Word::Own(_) => panic!("no seed was told of"),
            });
            onions.collect()
        }
    }

    #[test]
    fn who_was_dialled_is_named_to_the_others_once_and_within_two_minutes() {
        let mut test = Test::new();
        test.open(1, Some(onion(1)));
        test.open(2, None);
        let sent = test.sent(91);
        let expected = Onions {
            added: vec![onion(1)],
            ..Onions::default()
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
        test.prove(onion(7));
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
        test.gossip.set_own(vec![onion(5), onion(8)], None);
        let sent = test.sent(60);
        let expected = Onions {
            me: Some(onion(5)),
            ..Onions::default()
        };
        assert_eq!(sent, [(1, expected)]);
        assert_eq!(test.hear(1, None, &[5, 6, 8]), [onion(6)]);
        assert_eq!(test.hear(2, Some(5), &[]), []);
        for n in [5, 8] {
            assert!(test.gossip.is_own(Name::Onion(onion(n).key())));
        }
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
            test.prove(onion(n));
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
        test.gossip.set_own(vec![onion(7)], None);
        for port in 1..=MAX_TOLD as u16 {
            let onions = Onions {
                added: vec![at(7, port), at(8, port), at(9, port)],
                ..Onions::default()
            };
            let heard = test.gossip.heard(PeerKey(1), onions).unwrap();
            assert_eq!(heard.len(), if port == 1 { 2 } else { 0 });
        }
        // Proven under many ports, it is named once.
        test.open(2, None);
        for port in 1..=2 * MAX_PROVEN as u16 {
            test.prove(at(5, port));
        }
        assert_eq!(test.gossip.proven(), 1);
        let sent = test.sent(600);
        assert!(sent.iter().all(|(_, onions)| onions.added.len() == 1));
        assert_eq!(sent.len(), 2);
        test.prove(at(5, 6882));
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
            ..Onions::default()
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
            test.gossip.set_own(vec![onion(ours)], None);
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

    /// The seed `n` at these introduction points.
    fn contact(n: u8, points: std::ops::Range<u8>) -> Contact {
        let points = points.map(|n| Point {
            relay: RelayId([n; 32]),
            introduction: IntroductionId([n; 32]),
        });
        Contact::new([n; 32], points.collect()).unwrap()
    }

    fn dialled(n: u8) -> Origin {
        Origin::Dialled(Concealed::Seed(SeedKey([n; 32])))
    }

    impl Test {
        fn hear_seeds(&mut self, key: u32, seed: Option<Contact>, seeds: &[Contact]) -> Vec<Word> {
            let seeds = seeds.to_vec();
            let onions = Onions {
                seed,
                seeds,
                ..Onions::default()
            };
            self.gossip.heard(PeerKey(key), onions).unwrap()
        }
    }

    #[test]
    fn a_hidden_seed_is_named_with_the_points_that_it_says_itself_and_no_others() {
        let mut test = Test::new();
        test.open_as(1, dialled(1));
        test.open_as(2, Origin::ToSeed);
        test.open_as(3, Origin::ToOnion);
        // Others say something of it, and it says nothing: it is not named.
        let wrong = contact(1, 50..58);
        let heard = test.hear_seeds(2, None, std::slice::from_ref(&wrong));
        assert_eq!(heard, [], "it is connected, and knows better");
        assert_eq!(test.sent(200), []);
        let right = contact(1, 1..4);
        assert_eq!(
            test.hear_seeds(1, Some(right.clone()), &[]),
            [Word::Own(right.clone())]
        );
        let told = |key| {
            let seeds = vec![right.clone()];
            let message = Onions {
                seeds,
                ..Onions::default()
            };
            (key, message)
        };
        assert_eq!(test.sent(91), [told(3)], "the other one told of it");
        // Its points change: who comes later hears of the new ones.
        let moved = contact(1, 4..6);
        test.hear_seeds(1, Some(moved.clone()), &[]);
        test.sent(91);
        test.open_as(4, Origin::ToSeed);
        assert_eq!(test.sent(91)[0].1.seeds, [moved]);
    }

    #[test]
    fn a_seed_that_says_to_be_another_than_it_proved_is_closed_and_believed_nothing() {
        let mut test = Test::new();
        test.open_as(1, dialled(1));
        test.open_as(2, dialled(2));
        test.open_as(3, Origin::ToSeed);
        test.hear_seeds(2, Some(contact(2, 1..3)), &[]);
        let onions = Onions {
            seed: Some(contact(2, 50..53)),
            ..Onions::default()
        };
        let error = test.gossip.heard(PeerKey(1), onions.clone()).unwrap_err();
        assert!(error.is_fault());
        // Whom we did not dial proves nothing by saying it, nor does an onion service.
        test.open_as(4, Origin::ToOnion);
        test.open(5, Some(onion(5)));
        for key in [3, 4, 5] {
            assert_eq!(test.gossip.heard(PeerKey(key), onions.clone()), Ok(vec![]));
        }
        let changed = test.gossip.heard(
            PeerKey(3),
            Onions {
                seed: Some(contact(9, 1..3)),
                ..Onions::default()
            },
        );
        assert!(changed.unwrap_err().is_fault(), "it has one name");
        test.open_as(6, Origin::ToSeed);
        let sent = test.sent(91);
        let to_last = sent.iter().find(|(key, _)| *key == 6).unwrap();
        assert_eq!(to_last.1.seeds, [contact(2, 1..3)]);
    }

    #[test]
    fn our_own_seed_is_told_where_it_is_met_and_never_where_our_onion_service_is_known() {
        let mut test = Test::new();
        test.open_as(1, dialled(1));
        test.open_as(2, Origin::ToSeed);
        test.open_as(3, Origin::ToOnion);
        test.open(4, Some(onion(4)));
        let own = contact(7, 1..3);
        test.gossip.set_own(vec![onion(5)], Some(own.clone()));
        let mut sent = test.sent(5);
        sent.sort_by_key(|(key, _)| *key);
        let seed = |contact: &Contact| Onions {
            seed: Some(contact.clone()),
            ..Onions::default()
        };
        let me = Onions {
            me: Some(onion(5)),
            ..Onions::default()
        };
        assert_eq!(sent, [(1, seed(&own)), (2, seed(&own)), (4, me)]);
        // Its points change, and then it is introduced nowhere: it is still ours, and not called.
        let moved = contact(7, 2..5);
        test.gossip.set_own(vec![onion(5)], Some(moved.clone()));
        let mut sent = test.sent(60);
        sent.retain(|(_, message)| message.seed.is_some());
        sent.sort_by_key(|(key, _)| *key);
        assert_eq!(sent, [(1, seed(&moved)), (2, seed(&moved))]);
        test.gossip.set_own(vec![onion(5)], None);
        assert_eq!(test.hear_seeds(1, None, &[contact(7, 1..3)]), []);
        assert!(test.gossip.is_own(Name::Seed(SeedKey([7; 32]))));
        assert!(test.sent(300).iter().all(|(_, m)| m.seed.is_none()));
    }

    #[test]
    fn one_message_holds_no_more_of_seeds_than_its_reader_takes() {
        let mut test = Test::new();
        for n in 1..=20 {
            test.open_as(u32::from(n), dialled(n));
            let points = if n % 2 == 0 { 1..9 } else { 1..4 };
            test.hear_seeds(u32::from(n), Some(contact(n, points)), &[]);
            test.gossip.closed(test.now, PeerKey(u32::from(n)));
        }
        test.open_as(100, Origin::ToSeed);
        let sent = test.sent(10 * 60);
        for (_, message) in &sent {
            assert_eq!(Onions::parse(&message.encode()).as_ref(), Ok(message));
        }
        let told = sent.iter().flat_map(|(_, message)| &message.seeds);
        let told: BTreeSet<[u8; 32]> = told.map(|seed| seed.key).collect();
        assert_eq!(told.len(), 20, "all, one after another");
    }

    #[test]
    fn of_two_meetings_between_a_pair_of_seeds_both_see_the_same_one_as_too_many() {
        for (ours, theirs, closed) in [(1, 2, vec![PeerKey(2)]), (2, 1, vec![])] {
            let mut test = Test::new();
            // An onion service's key says nothing here.
            test.gossip
                .set_own(vec![onion(0)], Some(contact(ours, 1..3)));
            test.open_as(1, dialled(theirs));
            test.open_as(2, Origin::ToSeed);
            test.open_as(3, Origin::ToSeed);
            test.hear_seeds(3, Some(contact(9, 1..3)), &[]);
            assert_eq!(test.gossip.doubles(), []);
            test.hear_seeds(2, Some(contact(theirs, 1..3)), &[]);
            assert_eq!(test.gossip.doubles(), closed);
        }
    }
}
