//! What peers of a hidden swarm tell each other: whom we may name, to whom, and when (docs/onion-gossip.md).
//!
//! Only such a peer is named that offers the same itself, and that we dialled under the address in this session: an address
//! that somebody merely tells of costs its teller's listeners a few calls each, and goes no further. A peer is its service's
//! key, or its seed's: under two ports, or at other introduction points, it is the same one.
//!
//! Where a hidden seed is introduced, only the seed itself can say: whoever we dialled by a meeting has proved its key. Nothing else is
//! passed on.

#[cfg(test)]
mod tests;

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
    /// What is closed is only ever the connection on which the claim came: who lies about his name closes nothing but his own. One by a
    /// meeting is first told where we are introduced: the other end believes that nowhere but on a connection which it dialled.
    pub(super) fn doubles(&self) -> Vec<PeerKey> {
        let dialled: BTreeSet<Name> = self.dialled().map(|peer| peer.name()).collect();
        let double =
            |me: Name| self.own_like(me).is_some_and(|own| own < me) && dialled.contains(&me);
        self.partners
            .iter()
            .filter(|(_, partner)| partner.me.is_some_and(|me| double(me.name())))
            .filter(|(_, partner)| partner.origin != Origin::ToSeed || partner.told_seed.is_some())
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
