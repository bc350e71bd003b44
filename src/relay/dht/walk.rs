//! A walk: one lookup of `krpc`, driven by the relay's node within its limits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::limits::PutOff;
use super::node::{Answer, Asked, DhtNode};
use crate::krpc::{Event, Family, Goal, Id, Lookup, Settings, Start, To};

/// Queries put off in one go before a walk waits a little: it may have more nodes to ask than the limits allow.
const MANY_PUT_OFF: usize = 16;
/// How long it waits then.
const PUT_OFF_REST: Duration = Duration::from_millis(250);
/// However often a lookup wants to be woken, it is not more often than this.
const SHORTEST_WAIT: Duration = Duration::from_millis(5);
/// A walk looks at itself so often at least.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A lookup that runs. Dropping it ends it at once.
pub(super) struct Walk {
    node: Arc<DhtNode>,
    number: u64,
    inbox: mpsc::Receiver<Answer>,
    family: Family,
    lookup: Lookup,
    bootstraps: Arc<[SocketAddr]>,
    /// Until then nobody is asked, because of our own limits.
    rests: Option<Instant>,
    /// When time last passed for the lookup.
    woken: Option<Instant>,
}

impl Walk {
    /// Begins a lookup; `None` where the machine has no such addresses, or nobody is known to begin from.
    pub(super) fn begin(
        node: &Arc<DhtNode>,
        family: Family,
        target: Id,
        goal: Goal,
    ) -> Option<Self> {
        Self::begin_within(node, node.settings(), family, target, goal)
    }

    /// The same, within other bounds than lookups for others have.
    pub(super) fn begin_within(
        node: &Arc<DhtNode>,
        settings: &Settings,
        family: Family,
        target: Id,
        goal: Goal,
    ) -> Option<Self> {
        if !node.has(family) {
            return None;
        }
        let (contacts, bootstraps) = node.start(family, &target);
        if contacts.is_empty() && bootstraps.is_empty() {
            return None;
        }
        let start = Start {
            contacts,
            bootstraps: bootstraps.len(),
        };
        let seed = rand::random();
        let now = Instant::now();
        let lookup = Lookup::new(now, settings, family, target, goal, start, seed);
        let (number, inbox) = node.enter();
        Some(Self {
            node: Arc::clone(node),
            number,
            inbox,
            family,
            lookup,
            bootstraps,
            rests: None,
            woken: None,
        })
    }

    /// What happened; poll until `None`. [`Event::Finished`] is the last.
    pub(super) fn event(&mut self) -> Option<Event> {
        self.lookup.poll_event()
    }

    /// Asks whom it is time to ask.
    pub(super) async fn ask(&mut self) {
        let mut put_off = 0;
        loop {
            let now = Instant::now();
            if self.rests.is_some_and(|until| now < until) {
                return;
            }
            self.rests = None;
            let Some(transmit) = self.lookup.poll_transmit(now) else {
                return;
            };
            let to = match transmit.to {
                To::Node(addr) => Some(addr),
                To::Bootstrap(n) => self.bootstraps.get(n).copied(),
            };
            let Some(to) = to else {
                // Does not happen: it stays unanswered.
                continue;
            };
            let asked = self
                .node
                .ask(self.number, to, transmit.transaction, &transmit.bytes)
                .await;
            let Asked::PutOff(why) = asked else {
                continue;
            };
            self.lookup.refused(Instant::now(), &transmit.to);
            put_off += 1;
            match why {
                PutOff::Everybody(wait) => self.rests = Some(Instant::now() + wait),
                PutOff::Node if put_off >= MANY_PUT_OFF => {
                    self.rests = Some(Instant::now() + PUT_OFF_REST);
                }
                PutOff::Node => {}
            }
        }
    }

    /// Waits for an answer or for time to pass, and takes it in. Safe to drop while it waits.
    pub(super) async fn wait(&mut self) {
        let now = Instant::now();
        let due = [self.lookup.poll_timeout(), self.rests];
        let due = due.into_iter().flatten().min();
        let due = due.unwrap_or(now + LONGEST_WAIT).min(now + LONGEST_WAIT);
        let due = self
            .woken
            .map_or(due, |woken| due.max(woken + SHORTEST_WAIT));
        let answer = tokio::select! {
            answer = self.inbox.recv() => answer,
            () = tokio::time::sleep_until(due.into()) => None,
        };
        let now = Instant::now();
        if let Some((from, bytes)) = answer {
            self.lookup.handle(now, from, &bytes);
        }
        if self.lookup.poll_timeout().is_some_and(|due| due <= now) {
            self.lookup.handle_timeout(now);
            self.woken = Some(now);
        }
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        let (lived, silent) = (self.lookup.contacts(), self.lookup.silent());
        self.node.leave(self.number, self.family, lived, &silent);
    }
}
