//! The peers a swarm knows: whom to try next, when, and whom never again.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use hushswarm_circuits::relay_list::is_global;
use hushswarm_circuits::target::{Host, Target};
use rand::{Rng, RngExt};

use crate::torrent::infohash::PeerName;
use crate::torrent::picker::PeerKey;

/// Most peers remembered: trackers name a few hundred at a time.
const MAX_KNOWN: usize = 2000;

/// Most banned addresses remembered, and most hosts.
const MAX_BANNED: usize = 4096;

/// First wait after a failure; doubled for each, up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(15);
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 60);

/// The same for a host that the user's link names and that can't be reached: often it is the only one, and somebody waits for it.
const LONGEST_WAIT_NAMED: Duration = Duration::from_secs(2 * 60);

/// Wait before the same peer is tried through another circuit.
const CIRCUIT_WAIT: Duration = Duration::from_secs(1);

/// Lost circuits in a row after which the peer itself is suspected.
const MAX_CIRCUITS_LOST: u32 = 5;

/// Most peers remembered of whom only other peers told and that never answered: a fifth of the table, so that liars leave
/// room for everybody else.
pub(super) const MAX_HEARSAY: usize = 400;

/// Most of them that one other peer told of: as many as one message holds. It may tell of more when these have shown what
/// they are.
pub(super) const MAX_HEARSAY_EACH: usize = 50;

/// Most of them at one IPv4 address or in one IPv6 /64: several users of one network may be there, and no more ports of one who
/// is to be bothered are called.
const MAX_HEARSAY_BLOCK: usize = 4;

/// Most calls to such peers at once, of the forty that a swarm has.
const MAX_HEARSAY_CALLS: usize = 10;

/// Calls that such a peer may miss until it is forgotten: a young onion service is not found for its first minute.
const HEARSAY_FAILURES: u32 = 4;

/// A service that hangs up sooner after its handshake is called later and later, as one that can't be reached: it does so
/// where another connection stays, which it tells nobody (docs/onion-gossip.md).
const STEADY: Duration = Duration::from_secs(30);

/// Wait while no circuit can be built at all.
const NETWORK_WAIT: Duration = Duration::from_secs(5);

/// How a peer is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// By its name in the swarm.
    Named(PeerName),
    /// By a host name from a magnet link.
    Host(Target),
    /// The same host once more, by its own circuit: one stream to an onion service is held to the window of Tor's circuit.
    Again(Target, u16),
    /// It came to us: it can't be called.
    Incoming,
}

/// How a connection, or the attempt at one, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Could not be reached.
    Unreached,
    /// The circuit broke: another may do.
    CircuitLost,
    /// There is no circuit for anybody.
    NoNetwork,
    /// Was connected; the stream ended or we ended it.
    Closed,
    /// Neither side needs the other, now and for long.
    Useless,
    /// Broke the protocol.
    Fault,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Idle { not_before: Instant },
    Busy,
    Banned,
}

#[derive(Debug)]
struct Known {
    way: Way,
    lane: u16,
    state: State,
    failures: u32,
    /// When it sent its handshake, while it is connected.
    answered: Option<Instant>,
    circuits_lost: u32,
    /// Only somebody told of it, and it never answered.
    hearsay: Option<Teller>,
    /// A host that nobody but the user's link told of.
    named: bool,
}

/// Who told of a peer that never answered: another peer, by its connection; or else a tracker.
pub(super) type Teller = Option<PeerKey>;

/// Whom to call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) key: PeerKey,
    pub(super) target: Target,
    /// Its circuit's.
    pub(super) lane: u16,
    /// Not one more stream to the same onion service.
    pub(super) first: bool,
}

/// All peers of one swarm.
#[derive(Debug)]
pub(super) struct PeerTable {
    known: BTreeMap<PeerKey, Known>,
    by_way: BTreeMap<Way, PeerKey>,
    banned: BTreeSet<IpAddr>,
    banned_hosts: BTreeSet<Host>,
    next_key: u32,
    lanes: u16,
}

impl PeerTable {
    /// An empty table whose peers are spread over this many circuits.
    pub(super) fn new(lanes: u16) -> Self {
        Self {
            known: BTreeMap::new(),
            by_way: BTreeMap::new(),
            banned: BTreeSet::new(),
            banned_hosts: BTreeSet::new(),
            next_key: 0,
            lanes: lanes.max(1),
        }
    }

    /// Peers known, each once, banned ones left out.
    pub(super) fn len(&self) -> usize {
        self.known
            .values()
            .filter(|known| known.state != State::Banned && !matches!(known.way, Way::Again(..)))
            .count()
    }

    /// Learns of a peer, from anybody. Tells whether it was new.
    pub(super) fn add(&mut self, now: Instant, way: Way) -> bool {
        let banned = ip_of(&way).is_some_and(|ip| self.banned.contains(&block_of(ip)))
            || host_of(&way).is_some_and(|host| self.banned_hosts.contains(host));
        let usable = match &way {
            Way::Named(PeerName::Public(addr)) => {
                addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast()
            }
            Way::Host(target) | Way::Again(target, _) => target.port != 0,
            Way::Incoming => false,
        };
        if banned || !usable || self.by_way.contains_key(&way) {
            return false;
        }
        if self.known.len() >= MAX_KNOWN && !self.forget_worst(now) {
            return false;
        }
        let key = self.insert(way.clone(), State::Idle { not_before: now });
        self.by_way.insert(way, key);
        true
    }

    /// Learns of an onion service or hidden seed, to which this many streams are opened at once, each by a circuit of its own.
    pub(super) fn add_onion(&mut self, now: Instant, target: &Target, streams: u16) {
        self.add(now, Way::Host(target.clone()));
        for number in 1..streams {
            self.add(now, Way::Again(target.clone(), number));
        }
    }

    /// Learns of a peer, by its address or onion service, from somebody who may lie. Tells whether it was new.
    pub(super) fn add_hearsay(&mut self, now: Instant, target: Target, teller: Teller) -> bool {
        if self.banned_hosts.contains(&target.host) || self.is_known_host(&target) {
            return false;
        }
        let way = match target.socket_addr() {
            Some(addr) => Way::Named(PeerName::Public(addr)),
            None => Way::Host(target),
        };
        if self.by_way.contains_key(&way) || self.is_crowded(&way) || !self.has_hearsay_room(teller)
        {
            return false;
        }
        if !self.add(now, way.clone()) {
            return false;
        }
        let key = self.by_way.get(&way);
        if let Some(known) = key.and_then(|key| self.known.get_mut(key)) {
            known.hearsay = Some(teller);
            known.named = false;
        }
        true
    }

    /// Whether this host is known, and may be called some time.
    pub(super) fn knows_host(&self, host: &Host) -> bool {
        let mut known = self.known.values();
        known.any(|known| known.state != State::Banned && host_of(&known.way) == Some(host))
    }

    /// Forgets a host that was heard of just now, and was not called yet.
    pub(super) fn withdraw(&mut self, host: &Host) {
        let known = self.known.iter();
        let of_host = known.filter(|(_, known)| host_of(&known.way) == Some(host));
        let idle = of_host.filter(|(_, known)| known.state != State::Busy);
        let keys: Vec<PeerKey> = idle.map(|(key, _)| *key).collect();
        for key in keys {
            self.forget(key);
        }
    }

    /// Whether as many are remembered at this address as may be, of whom only others told: nobody is called at many ports
    /// because somebody says so.
    fn is_crowded(&self, way: &Way) -> bool {
        let Some(block) = ip_of(way).map(block_of) else {
            return false;
        };
        let near = |known: &&Known| ip_of(&known.way).map(block_of) == Some(block);
        let hearsay = self.known.values().filter(|k| k.hearsay.is_some());
        hearsay.filter(near).count() >= MAX_HEARSAY_BLOCK
    }

    /// Whether a service is known, with any port: it is one peer. Where only others told of it, and it did not answer there,
    /// another port takes the place of the one it had; the calls in vain still count, so that nobody's service is called
    /// more often for having many ports.
    fn is_known_host(&mut self, target: &Target) -> bool {
        let host = Some(&target.host);
        let known = self.known.iter_mut();
        let Some((&key, known)) = known.into_iter().find(|(_, k)| host_of(&k.way) == host) else {
            return false;
        };
        let tried = known.failures > 0 && known.state != State::Busy;
        if known.hearsay.is_some() && tried {
            let way = Way::Host(target.clone());
            let before = std::mem::replace(&mut known.way, way.clone());
            self.by_way.remove(&before);
            self.by_way.insert(way, key);
        }
        true
    }

    /// Whether one more may be remembered of whom this one told. Where there are too many, one makes room whose teller has
    /// told of more, or that was called in vain; so who tells much loses his own, however many there are of him.
    fn has_hearsay_room(&mut self, teller: Teller) -> bool {
        let mut shares: BTreeMap<Teller, usize> = BTreeMap::new();
        for told in self.known.values().filter_map(|known| known.hearsay) {
            *shares.entry(told).or_default() += 1;
        }
        let share = |teller: &Teller| shares.get(teller).copied().unwrap_or(0);
        let own = share(&teller);
        if teller.is_some() && own >= MAX_HEARSAY_EACH {
            return false;
        }
        if shares.values().sum::<usize>() < MAX_HEARSAY {
            return true;
        }
        let worst = self
            .known
            .iter()
            .filter(|(_, known)| known.state != State::Busy)
            .filter_map(|(key, known)| Some((share(&known.hearsay?), known.failures, *key)))
            .filter(|(share, failures, _)| *share > own || *failures > 0)
            .max();
        match worst {
            Some((_, _, key)) => self.forget(key),
            None => false,
        }
    }

    /// Takes in a peer that came to us. It is remembered while it is connected, so that the number of connections bounds
    /// these; a full table keeps nobody out.
    pub(super) fn add_incoming(&mut self) -> PeerKey {
        self.insert(Way::Incoming, State::Busy)
    }

    /// The peer to call now; it counts as busy from now on.
    pub(super) fn next(&mut self, now: Instant) -> Option<Call> {
        let busy = |known: &&Known| known.hearsay.is_some() && known.state == State::Busy;
        let hearsay = self.known.values().filter(busy).count() < MAX_HEARSAY_CALLS;
        let (&key, known) = self
            .known
            .iter_mut()
            .filter(|(_, k)| matches!(k.state, State::Idle { not_before } if not_before <= now))
            .filter(|(_, k)| hearsay || k.hearsay.is_none())
            .min_by_key(|(key, k)| (k.failures, **key))?;
        let target = match &known.way {
            Way::Named(PeerName::Public(addr)) => Target::ip(*addr),
            Way::Host(target) | Way::Again(target, _) => target.clone(),
            Way::Incoming => return None,
        };
        known.state = State::Busy;
        Some(Call {
            key,
            target,
            lane: known.lane,
            first: !matches!(known.way, Way::Again(..)),
        })
    }

    /// A peer showed that it works: its failures are forgiven, a host's when it stays.
    pub(super) fn worked(&mut self, now: Instant, key: PeerKey) {
        if let Some(known) = self.known.get_mut(&key) {
            known.answered = Some(now);
            if !matches!(known.way, Way::Host(_)) {
                known.failures = 0;
            }
            known.circuits_lost = 0;
            known.hearsay = None;
        }
    }

    /// A call or connection ended: sets when to try again.
    pub(super) fn ended(&mut self, now: Instant, key: PeerKey, how: Ended, rng: &mut impl Rng) {
        let Some(known) = self.known.get_mut(&key) else {
            return;
        };
        if known.way == Way::Incoming {
            self.known.remove(&key);
            return;
        }
        if known.state == State::Banned {
            return;
        }
        let stayed = |at: Instant| how == Ended::Useless || now >= at + STEADY;
        if known.answered.take().is_some_and(stayed) {
            known.failures = 0;
        }
        let wait = match how {
            Ended::CircuitLost if known.circuits_lost < MAX_CIRCUITS_LOST => {
                known.circuits_lost += 1;
                CIRCUIT_WAIT
            }
            Ended::NoNetwork => NETWORK_WAIT,
            Ended::Useless | Ended::Fault => LONGEST_WAIT,
            Ended::Unreached | Ended::CircuitLost | Ended::Closed => {
                known.failures = known.failures.saturating_add(1);
                let longest = if known.named && how != Ended::Closed {
                    LONGEST_WAIT_NAMED
                } else {
                    LONGEST_WAIT
                };
                (FIRST_WAIT * 2_u32.pow(known.failures.min(8) - 1)).min(longest)
            }
        };
        if known.hearsay.is_some() {
            if matches!(how, Ended::Useless | Ended::Fault) {
                // It is not what it was said to be. Remembered while there is room, so that it is not called again.
                known.hearsay = None;
                known.state = State::Banned;
                return;
            }
            if known.failures >= HEARSAY_FAILURES {
                self.forget(key);
                return;
            }
        }
        // A quarter more at random, so that peers are not called in step.
        let jitter = wait.mul_f64(rng.random_range(0.0..0.25));
        known.state = State::Idle {
            not_before: now + wait + jitter,
        };
    }

    /// Never again, though it did nothing wrong. Gives its connection, where there is one.
    pub(super) fn leave(&mut self, way: &Way) -> Option<PeerKey> {
        let key = *self.by_way.get(way)?;
        let known = self.known.get_mut(&key)?;
        let state = std::mem::replace(&mut known.state, State::Banned);
        (state == State::Busy).then_some(key)
    }

    /// Never again: it lied. Its address or host too, whatever the port (IPv6: its /64), unless that is private and so
    /// may stand for anybody.
    pub(super) fn ban(&mut self, key: PeerKey) {
        let Some(known) = self.known.get_mut(&key) else {
            return;
        };
        known.state = State::Banned;
        let host = host_of(&known.way).cloned();
        let ip = ip_of(&known.way).filter(|&ip| is_global(ip));
        let block = ip.map(block_of);
        if let Some(block) = block.filter(|_| self.banned.len() < MAX_BANNED) {
            self.banned.insert(block);
        }
        if let Some(host) = host
            .clone()
            .filter(|_| self.banned_hosts.len() < MAX_BANNED)
        {
            self.banned_hosts.insert(host);
        }
        for known in self.known.values_mut() {
            let near = block.is_some() && ip_of(&known.way).map(block_of) == block;
            let same = host.is_some() && host_of(&known.way) == host.as_ref();
            if near || same {
                known.state = State::Banned;
            }
        }
    }

    fn insert(&mut self, way: Way, state: State) -> PeerKey {
        let key = PeerKey(self.next_key);
        self.next_key = self.next_key.wrapping_add(1);
        let lane = match way {
            Way::Again(_, number) => self.lanes.saturating_add(number),
            // The remainder fits a u16, as the number of lanes does.
            Way::Named(_) | Way::Host(_) | Way::Incoming => (key.0 % u32::from(self.lanes)) as u16,
        };
        let named = matches!(way, Way::Host(_));
        self.known.insert(
            key,
            Known {
                way,
                lane,
                state,
                failures: 0,
                answered: None,
                circuits_lost: 0,
                hearsay: None,
                named,
            },
        );
        key
    }

    /// Makes room: forgets a banned peer, or the one that failed most, or else one that is not wanted now. Tells whether
    /// there was any.
    fn forget_worst(&mut self, now: Instant) -> bool {
        let worst = self
            .known
            .iter()
            .filter(|(_, known)| match known.state {
                State::Busy => false,
                State::Banned => true,
                State::Idle { not_before } => known.failures > 0 || not_before > now,
            })
            // Of equals the last that came: the first are those of the link.
            .max_by_key(|(key, known)| (known.state == State::Banned, known.failures, **key))
            .map(|(key, _)| *key);
        worst.is_some_and(|key| self.forget(key))
    }

    fn forget(&mut self, key: PeerKey) -> bool {
        let Some(known) = self.known.remove(&key) else {
            return false;
        };
        self.by_way.remove(&known.way);
        true
    }
}

/// The host by which it is called, where that is not its address.
fn host_of(way: &Way) -> Option<&Host> {
    match way {
        Way::Host(target) | Way::Again(target, _) => Some(&target.host),
        Way::Named(_) | Way::Incoming => None,
    }
}

fn ip_of(way: &Way) -> Option<IpAddr> {
    match way {
        Way::Named(PeerName::Public(addr)) => Some(addr.ip()),
        Way::Host(Target {
            host: Host::Ip(ip), ..
        }) => Some(*ip),
        Way::Host(Target {
            host: Host::Name(_),
            ..
        })
        | Way::Again(..)
        | Way::Incoming => None,
    }
}

/// What one user commands: an IPv4 address, or an IPv6 /64.
fn block_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            octets[8..].fill(0);
            IpAddr::from(octets)
        }
    }
}
