//! The relay's node: one datagram flow, a routing table for each family, and the walks whose answers come in.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hushswarm_circuits::relay_list::{ExitPolicy, Proto};
use hushswarm_circuits::target::Target;
use tokio::sync::mpsc;

use super::DhtCounters;
use super::limits::{Keeper, PutOff};
use super::pending::Pending;
use crate::config::{RelayDht, at_least_one};
use crate::krpc::{Contact, Family, Id, RoutingTable, Settings, Transaction, transaction_of};
use crate::net::MANY_DATAGRAMS;
use crate::net::os::{ExitDatagrams, ExitPermit};
use crate::relay::own::Own;

/// Longest datagram that is looked at: an answer with two hundred peers. Longer ones are dropped.
const MAX_MESSAGE: usize = 4096;
/// Answers that wait for a walk: it asks a few nodes at a time. More are lost, as datagrams are.
const INBOX: usize = 64;
/// Datagrams a second that nobody waits for. Beyond it the socket rests, and the system drops what its buffer can't hold.
const STRANGERS: NonZeroU32 = at_least_one(50_000);
/// How long the socket rests.
const STRANGERS_REST: Duration = Duration::from_millis(5);
/// The port of many nodes.
const USUAL_PORT: u16 = 6881;
/// Nodes from which a walk begins.
const START: usize = 16;

/// A datagram for a walk, and who sent it.
pub(super) type Answer = (SocketAddr, Vec<u8>);

/// Which addresses the relay sends to and tells of.
pub(super) struct Rules {
    policy: ExitPolicy,
    own: Own,
}

impl Rules {
    /// What the exit policy says; never the relay itself.
    pub(super) fn new(policy: ExitPolicy, own: Own) -> Self {
        Self { policy, own }
    }

    fn allow(&self, proto: Proto, addr: SocketAddr) -> bool {
        let ip = addr.ip().to_canonical();
        self.policy.allows(proto, ip, addr.port()) && !self.own.is_at(addr)
    }

    /// Whether the policy lets strangers' datagrams into private networks: a network of one's own, all of whose nodes may be
    /// neighbours.
    fn reach_inside(&self) -> bool {
        const INSIDE: [Ipv4Addr; 4] = [
            Ipv4Addr::LOCALHOST,
            Ipv4Addr::new(10, 0, 0, 1),
            Ipv4Addr::new(172, 16, 0, 1),
            Ipv4Addr::new(192, 168, 1, 1),
        ];
        let mut inside = INSIDE.into_iter();
        inside.any(|ip| self.policy.allows(Proto::Udp, ip.into(), USUAL_PORT))
    }
}

/// What is known of one family.
struct Of {
    table: RoutingTable,
    /// Where the nodes to begin from are.
    bootstraps: Arc<[SocketAddr]>,
}

struct State {
    pending: Pending,
    inboxes: HashMap<u64, mpsc::Sender<Answer>>,
    next: u64,
    v4: Of,
    v6: Of,
}

impl State {
    fn of(&mut self, family: Family) -> &mut Of {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// The relay's node in the DHT. It is read-only (BEP 43): it asks, and answers nobody.
pub(in crate::relay) struct DhtNode {
    sockets: ExitDatagrams,
    pub(super) permit: ExitPermit,
    rules: Rules,
    settings: Settings,
    pub(super) names: Vec<Target>,
    pub(super) keeper: Keeper,
    state: Mutex<State>,
    strangers: DefaultDirectRateLimiter,
    queries: AtomicUsize,
    answered: AtomicUsize,
}

/// What came of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// It left, or was lost as datagrams are.
    Sent,
    /// A limit says: later.
    PutOff(PutOff),
}

impl DhtNode {
    /// Opens the flow; nothing is sent yet.
    ///
    /// # Errors
    /// The system gives no socket.
    pub(in crate::relay) fn new(
        config: RelayDht,
        permit: ExitPermit,
        policy: ExitPolicy,
        own: Own,
    ) -> std::io::Result<Arc<Self>> {
        let rules = Rules::new(policy, own);
        let settings = if rules.reach_inside() {
            Settings::private_network()
        } else {
            Settings::default()
        };
        let of = |family| Of {
            table: RoutingTable::new(Id::random(&mut rand::rng()), family, &settings),
            bootstraps: Arc::default(),
        };
        let state = State {
            pending: Pending::default(),
            inboxes: HashMap::new(),
            next: 0,
            v4: of(Family::V4),
            v6: of(Family::V6),
        };
        Ok(Arc::new(Self {
            sockets: permit.datagrams()?,
            permit,
            rules,
            settings,
            names: config.bootstrap,
            keeper: Keeper::new(config.limits),
            state: Mutex::new(state),
            strangers: RateLimiter::direct(Quota::per_second(STRANGERS)),
            queries: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a walk may do.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether this machine has such addresses.
    pub(super) fn has(&self, family: Family) -> bool {
        self.sockets.has(family == Family::V4)
    }

    /// Whether origins may be told of this peer.
    pub(super) fn may_tell(&self, peer: SocketAddr) -> bool {
        self.rules.allow(Proto::Tcp, peer)
    }

    /// Whether this node may be asked.
    pub(super) fn may_ask(&self, node: SocketAddr) -> bool {
        self.rules.allow(Proto::Udp, node)
    }

    // ---- walks ----

    /// Begins to take what comes for a walk; gives its number and its inbox.
    pub(super) fn enter(&self) -> (u64, mpsc::Receiver<Answer>) {
        let (sender, receiver) = mpsc::channel(INBOX);
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        state.inboxes.insert(number, sender);
        (number, receiver)
    }

    /// A walk is over: what still comes for it is dropped. Its nodes are remembered.
    pub(super) fn leave(
        &self,
        number: u64,
        family: Family,
        lived: Vec<Contact>,
        silent: &[SocketAddr],
    ) {
        let now = Instant::now();
        let mut state = self.state();
        state.inboxes.remove(&number);
        let table = &mut state.of(family).table;
        for addr in silent {
            table.silent(now, *addr);
        }
        for contact in lived {
            table.answered(now, contact);
        }
    }

    /// The known nodes that are closest to a target, and where else a walk may begin.
    pub(super) fn start(&self, family: Family, target: &Id) -> (Vec<Contact>, Arc<[SocketAddr]>) {
        let mut state = self.state();
        let of = state.of(family);
        (of.table.closest(target, START), Arc::clone(&of.bootstraps))
    }

    /// Sends a walk's query, where the limits allow it now.
    pub(super) async fn ask(
        &self,
        walk: u64,
        to: SocketAddr,
        transaction: Transaction,
        bytes: &[u8],
    ) -> Asked {
        if !self.may_ask(to) {
            // As if it were dead: the walk goes on without it.
            return Asked::Sent;
        }
        if let Err(put_off) = self.keeper.query(to.ip()) {
            return Asked::PutOff(put_off);
        }
        let room = self
            .state()
            .pending
            .add(Instant::now(), to, transaction, walk);
        if !room {
            return Asked::PutOff(PutOff::Everybody(Duration::from_secs(1)));
        }
        self.queries.fetch_add(1, Ordering::Relaxed);
        // What can't be sent is lost, as datagrams are. Why is not logged: it would say to whom.
        let _ = self.sockets.send(to, bytes).await;
        Asked::Sent
    }

    // ---- what comes ----

    /// Hands out what comes, until it is dropped.
    pub(super) async fn receive(&self) {
        let mut bytes = vec![0; MAX_MESSAGE + 1];
        loop {
            // An unreachable node answers with an error, here and below; there are others.
            let _ = self.sockets.readable().await;
            let mut flooded = false;
            for n in 0..MANY_DATAGRAMS {
                match self.sockets.try_recv(n % 2 == 1, &mut bytes) {
                    Ok((len, from)) => {
                        let message = bytes.get(..len).filter(|_| len <= MAX_MESSAGE);
                        let wanted = message.is_some_and(|message| self.take(from, message));
                        flooded |= !wanted && self.strangers.check().is_err();
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(_) => {}
                }
            }
            if flooded {
                tokio::time::sleep(STRANGERS_REST).await;
            }
            // One that never runs dry leaves the others their turn.
            tokio::task::yield_now().await;
        }
    }

    /// Gives an answer to the walk that waits for it. Whether one does.
    fn take(&self, from: SocketAddr, message: &[u8]) -> bool {
        // Nothing is parsed that comes from somebody who was not asked.
        if !self.state().pending.has(from) {
            return false;
        }
        let Some(transaction) = transaction_of(message) else {
            return false;
        };
        let inbox = {
            let mut state = self.state();
            let Some(walk) = state.pending.take(from, transaction) else {
                return false;
            };
            state.inboxes.get(&walk).cloned()
        };
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.pace(from, true);
        if let Some(inbox) = inbox {
            // Full: a walk that does not read loses it.
            let _ = inbox.try_send((from, message.to_vec()));
        }
        true
    }

    /// Counts what stayed unanswered, and forgets who was not seen for long. Call it every second or so.
    pub(super) fn expire(&self) {
        let unanswered = self.state().pending.expire(Instant::now());
        unanswered.into_iter().for_each(|to| self.pace(to, false));
    }

    /// Says how a query ended, where it was to a node of the table: what strangers tell of can be made up, so that all of it stays
    /// unanswered.
    fn pace(&self, node: SocketAddr, answered: bool) {
        let known = {
            let state = self.state();
            state.v4.table.has(node) || state.v6.table.has(node)
        };
        if known {
            self.keeper.ended(answered);
        }
    }

    // ---- tables ----

    /// How many nodes are known.
    pub(super) fn known(&self, family: Family) -> usize {
        self.state().of(family).table.len()
    }

    /// What the table wants looked up now, or when it wants to be asked again.
    pub(super) fn refresh(&self, family: Family) -> Result<Id, Option<Instant>> {
        let mut state = self.state();
        let table = &mut state.of(family).table;
        let due = table.refresh(Instant::now());
        due.ok_or_else(|| table.poll_timeout())
    }

    /// Puts what the names to begin from were resolved to.
    pub(super) fn set_bootstraps(&self, found: &[IpAddr], port: u16, into: &mut Vec<SocketAddr>) {
        let addrs = found
            .iter()
            .map(|ip| SocketAddr::new(ip.to_canonical(), port));
        into.extend(addrs.filter(|addr| self.may_ask(*addr)));
    }

    /// Where walks of a family may begin from now on.
    pub(super) fn begin_from(&self, family: Family, nodes: Vec<SocketAddr>) {
        self.state().of(family).bootstraps = nodes.into();
    }

    /// How it stands.
    pub(in crate::relay) fn counters(&self) -> DhtCounters {
        let (begun, refused) = self.keeper.lookups_so_far();
        DhtCounters {
            lookups: self.keeper.lookups(),
            begun,
            refused,
            queries: self.queries.load(Ordering::Relaxed),
            answered: self.answered.load(Ordering::Relaxed),
            put_off: self.keeper.put_off(),
            nodes: self.known(Family::V4) + self.known(Family::V6),
        }
    }
}
