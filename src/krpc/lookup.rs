//! One lookup: a walk to the nodes that are closest to a target, which tells as few as can be what it is for.
//!
//! 1. *Walk*: nodes are asked (`find_node`) for ids near a **blinded** target: the bits of the true one that the asked node
//!    shares with it, a few more, and the rest random and fresh each time. It ends when the closest 8 that are known
//!    have all answered. Slow and silent nodes hold up nobody.
//! 2. *Telling*: these get the true target (`get_peers`, `get`), at most [`Settings::told`] of them. What they know of closer
//!    nodes is walked to as before, blinded.
//! 3. *Storing*, where something is announced or put: those that gave a token get it.
//!
//! Nothing that comes is believed further than it can be checked, and everything has a bound: nodes, peers, bytes,
//! chains of hearsay, queries, time.

use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::contact::{Contact, Family, is_usable};
use super::id::Id;
use super::item::Item;
use super::message::{Query, Reply, TRANSACTION_LEN, Transaction, transaction_of};
use super::settings::Settings;

mod answers;
mod found;
mod pace;
mod phases;
mod terms;
mod walk;

use found::Found;
use pace::Pace;
pub use terms::{Event, Goal, Start, Summary, To, Transmit};
use walk::{Stage, Walk};

/// Most bootstrap names that are asked.
const MAX_BOOTSTRAPS: usize = 8;
/// Wait after our own limits refused a query to a bootstrap name.
const BOOTSTRAP_WAIT: Duration = Duration::from_millis(500);

/// What a query was for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Errand {
    Bootstrap(usize),
    Walk(Contact),
    Tell(Contact),
    Store(Contact),
}

impl Errand {
    fn to(&self) -> To {
        match self {
            Self::Bootstrap(n) => To::Bootstrap(*n),
            Self::Walk(contact) | Self::Tell(contact) | Self::Store(contact) => {
                To::Node(contact.addr)
            }
        }
    }
}

/// A query that waits for its answer.
struct Pending {
    transaction: Transaction,
    errand: Errand,
    sent: Instant,
    slow_at: Instant,
    lost_at: Instant,
    slow: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Walking,
    Telling,
    Storing,
    Finished,
}

/// A bootstrap name.
#[derive(Clone, Copy)]
struct Bootstrap {
    asked: bool,
    not_before: Option<Instant>,
}

/// One lookup, of one address family. Its owner calls, in any order:
/// - [`Lookup::poll_transmit`] until `None`, after any other call, and sends what it gives;
/// - [`Lookup::handle`] with each datagram that comes;
/// - [`Lookup::handle_timeout`] when [`Lookup::poll_timeout`] is due;
/// - [`Lookup::poll_event`] until `None`. [`Event::Finished`] is the last.
pub struct Lookup {
    settings: Settings,
    family: Family,
    target: Id,
    goal: Goal,
    own: Id,
    rng: StdRng,
    phase: Phase,
    walk: Walk,
    bootstraps: Vec<Bootstrap>,
    pending: Vec<Pending>,
    pace: Pace,
    found: Found,
    newest: Option<Item>,
    events: VecDeque<Event>,
    summary: Summary,
    /// The latest time that it was told.
    now: Instant,
    /// When the walk ends with what it has, and when all does.
    told_at: Instant,
    ends_at: Instant,
}

impl Lookup {
    /// Begins a lookup of `target`; for items it is their own name that counts. `seed` is drawn anew for each lookup: its node
    /// id, its transaction ids and the blinding come from it.
    pub fn new(
        now: Instant,
        settings: &Settings,
        family: Family,
        target: Id,
        goal: Goal,
        start: Start,
        seed: u64,
    ) -> Self {
        let target = match &goal {
            Goal::Nodes | Goal::Peers | Goal::Announce { .. } => target,
            Goal::Get(name) => name.target(),
            Goal::Put(item) => item.target(),
        };
        let mut rng = StdRng::seed_from_u64(seed);
        let mut walk = Walk::new(target, settings, settings.queries);
        let usable = |contact: &Contact| is_usable(family, contact.addr, settings.allow_private);
        walk.start(start.contacts.into_iter().filter(usable));
        let bootstrap = Bootstrap {
            asked: false,
            not_before: None,
        };
        Self {
            family,
            target,
            goal,
            own: Id::random(&mut rng),
            rng,
            phase: Phase::Walking,
            walk,
            bootstraps: vec![bootstrap; start.bootstraps.min(MAX_BOOTSTRAPS)],
            pending: Vec::new(),
            pace: Pace::new(settings),
            found: Found::new(family, settings),
            newest: None,
            events: VecDeque::new(),
            summary: Summary::default(),
            now,
            told_at: now + settings.total / 2,
            ends_at: now + settings.total,
            settings: settings.clone(),
        }
    }

    /// The next datagram to send; `None`: nothing now.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        self.advance(now);
        let waiting = self.pending.iter().filter(|pending| !pending.slow).count();
        if self.phase == Phase::Finished
            || waiting >= self.settings.concurrency.max(1)
            || self.summary.asked >= self.settings.queries
        {
            return None;
        }
        let errand = self.next_errand(now)?;
        self.send(now, errand)
    }

    fn next_errand(&mut self, now: Instant) -> Option<Errand> {
        if self.phase == Phase::Storing {
            return self.next_store(now).map(Errand::Store);
        }
        if self.phase == Phase::Telling
            && let Some(contact) = self.next_told(now)
        {
            return Some(Errand::Tell(contact));
        }
        if let Some(n) = self.next_bootstrap(now) {
            return Some(Errand::Bootstrap(n));
        }
        self.may_walk(now)
            .then(|| self.walk.next(now))?
            .map(Errand::Walk)
    }

    /// Whether there are queries and time left for the walk: what is told and stored has its own.
    fn may_walk(&self, now: Instant) -> bool {
        let kept = self.settings.told.saturating_mul(2);
        self.summary.asked + kept < self.settings.queries && now < self.told_at
    }

    /// A bootstrap name to ask: all of them, where too few nodes are known or answer.
    fn next_bootstrap(&self, now: Instant) -> Option<usize> {
        if self.phase != Phase::Walking || self.walk.has_enough() || !self.may_walk(now) {
            return None;
        }
        let may = |bootstrap: &Bootstrap| {
            !bootstrap.asked && bootstrap.not_before.is_none_or(|at| at <= now)
        };
        self.bootstraps.iter().position(may)
    }

    /// Who is told next.
    fn next_told(&self, now: Instant) -> Option<Contact> {
        self.untold()
            .find(|known| known.may_now(now))
            .map(|known| known.contact)
    }

    /// The closest that answered and were not told.
    fn untold(&self) -> impl Iterator<Item = &walk::Known> {
        let left = self.summary.told < self.settings.told;
        let found = left.then(|| self.walk.found()).into_iter().flatten();
        found.filter(|known| known.stage == Stage::Answered)
    }

    /// Who is to store next.
    fn next_store(&self, now: Instant) -> Option<Contact> {
        let mut ready = self
            .walk
            .known()
            .filter(|known| matches!(known.stage, Stage::Told(Some(_))));
        ready
            .find(|known| known.may_now(now))
            .map(|known| known.contact)
    }

    fn send(&mut self, now: Instant, errand: Errand) -> Option<Transmit> {
        let transaction = self.draw_transaction();
        let query = match &errand {
            // Everybody asks it, so it learns nothing: any nodes will do.
            Errand::Bootstrap(n) => {
                self.bootstraps.get_mut(*n)?.asked = true;
                Query::FindNode {
                    target: Id::random(&mut self.rng),
                }
            }
            Errand::Walk(contact) => {
                let bits = self.walk.true_bits(contact);
                self.walk.ask(contact);
                Query::FindNode {
                    target: self.target.blinded(bits, &mut self.rng),
                }
            }
            Errand::Tell(contact) => {
                self.walk.find(contact)?.stage = Stage::Telling;
                self.summary.told += 1;
                match self.goal {
                    Goal::Nodes => return None,
                    Goal::Peers | Goal::Announce { .. } => Query::GetPeers {
                        info_hash: self.target,
                    },
                    Goal::Get(_) | Goal::Put(_) => Query::Get {
                        target: self.target,
                    },
                }
            }
            Errand::Store(contact) => {
                let known = self.walk.find(contact)?;
                let token = known.stage.start_storing()?;
                match &self.goal {
                    Goal::Put(item) => Query::Put {
                        token,
                        item: Cow::Borrowed(item),
                    },
                    Goal::Announce { port } => Query::AnnouncePeer {
                        info_hash: self.target,
                        port: *port,
                        token,
                    },
                    Goal::Nodes | Goal::Peers | Goal::Get(_) => return None,
                }
            }
        };
        let bytes = query.encode(&transaction, &self.own);
        self.summary.asked += 1;
        self.pending.push(Pending {
            transaction,
            errand,
            sent: now,
            slow_at: now + self.pace.slow(),
            lost_at: now + self.settings.timeout,
            slow: false,
        });
        Some(Transmit {
            to: errand.to(),
            transaction,
            bytes,
        })
    }

    fn draw_transaction(&mut self) -> Transaction {
        loop {
            let mut transaction = [0; TRANSACTION_LEN];
            self.rng.fill_bytes(&mut transaction);
            if self
                .pending
                .iter()
                .all(|pending| pending.transaction != transaction)
            {
                return transaction;
            }
        }
    }

    /// Takes a datagram. Whether it was for this lookup; if not, it changed nothing.
    pub fn handle(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) -> bool {
        let Some(transaction) = transaction_of(bytes) else {
            return false;
        };
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let asked = |pending: &Pending| {
            pending.transaction == transaction
                && match pending.errand.to() {
                    To::Node(addr) => addr == from,
                    // Resolved far away: its transaction id is all that is known of it.
                    To::Bootstrap(_) => true,
                }
        };
        let Some(at) = self.pending.iter().position(asked) else {
            return false;
        };
        let pending = self.pending.swap_remove(at);
        self.pace
            .measured(now.saturating_duration_since(pending.sent));
        match Reply::decode(bytes) {
            Ok((_, Reply::Response(response))) => self.answered(&pending.errand, &response),
            // It is there, but does not serve us.
            Ok((_, Reply::Error(_))) | Err(_) => self.failed(&pending.errand),
        }
        self.advance(now);
        true
    }

    /// The last datagram for `to` was not sent, because of limits of our own: it will be asked later, or another.
    pub fn refused(&mut self, now: Instant, to: &To) {
        let Some(at) = self
            .pending
            .iter()
            .rposition(|pending| pending.errand.to() == *to)
        else {
            return;
        };
        let pending = self.pending.remove(at);
        self.summary.asked = self.summary.asked.saturating_sub(1);
        match &pending.errand {
            Errand::Bootstrap(n) => {
                if let Some(bootstrap) = self.bootstraps.get_mut(*n) {
                    *bootstrap = Bootstrap {
                        asked: false,
                        not_before: Some(now + BOOTSTRAP_WAIT),
                    };
                }
            }
            Errand::Walk(contact) => self.walk.take_back(contact, now),
            Errand::Tell(contact) => {
                self.summary.told = self.summary.told.saturating_sub(1);
                if let Some(known) = self.walk.find(contact) {
                    known.stage = Stage::Answered;
                    known.wait(now);
                }
            }
            Errand::Store(contact) => {
                if let Some(known) = self.walk.find(contact) {
                    known.stage.stop_storing();
                    known.wait(now);
                }
            }
        }
        self.advance(now);
    }

    /// When [`Lookup::handle_timeout`] is due; `None` once it is finished.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.phase == Phase::Finished {
            return None;
        }
        let due = |pending: &Pending| {
            if pending.slow {
                pending.lost_at
            } else {
                pending.slow_at
            }
        };
        let pending = self.pending.iter().map(due);
        let bootstraps = self.bootstraps.iter().filter(|bootstrap| !bootstrap.asked);
        let refused = bootstraps.filter_map(|bootstrap| bootstrap.not_before);
        let waiting = self.walk.known().filter_map(walk::Known::waits_until);
        let ends = [self.told_at, self.ends_at];
        let all = pending.chain(refused).chain(waiting).chain(ends);
        // What is past was seen to, or waits for something else.
        all.filter(|at| *at > self.now).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The nodes that answered: for a relay's table, never kept by a client.
    pub fn contacts(&self) -> Vec<Contact> {
        self.walk.answered().map(|known| known.contact).collect()
    }

    /// The addresses from which nothing came, or nothing yet where it has ended: for a relay's table. One that answered under
    /// another id than it was told of by is not among them.
    pub fn silent(&self) -> Vec<SocketAddr> {
        let there: BTreeSet<SocketAddr> = self.walk.there().collect();
        let silent = self
            .walk
            .known()
            .filter(|known| known.stage == Stage::Silent);
        let silent = silent.map(|known| known.contact.addr);
        silent.filter(|addr| !there.contains(addr)).collect()
    }
}

#[cfg(test)]
mod tests;
