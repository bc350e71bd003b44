//! One lookup on a circuit of its own: by the exit's service, else by datagrams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hushswarm_circuits::dht::{self as wire, Op, Reader, Record, Request};
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::Target;
use rand::RngExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::pace::Pace;
use super::sieve::Sieve;
use super::{Found, Outcome};
use crate::krpc::{Event, Family, Goal, Id, Item, Lookup, Settings, Start, To};
use crate::route::{BoxStream, Datagrams, Outside, RouteError};

/// A circuit is there within this time, or it is tried again later.
const OPEN_TIME: Duration = Duration::from_secs(60);

/// A whole lookup takes no longer: an exit that trickles must not hold a place for ever.
const LOOKUP_TIME: Duration = Duration::from_secs(120);

/// Bytes read from the exit at once.
const READ: usize = 4096;

/// What all lookups have in common.
pub(super) struct World {
    pub(super) outside: Arc<dyn Outside>,
    pub(super) bootstrap: Vec<Target>,
    pub(super) allow_private: bool,
}

/// What is looked up.
pub(super) struct What {
    pub(super) target: Id,
    pub(super) goal: Goal,
    /// How often nothing was found before.
    pub(super) attempt: u16,
}

impl What {
    /// Whether it is the datagrams' turn, where both ways can be had.
    fn prefers_datagrams(&self) -> bool {
        self.attempt % 2 == 1
    }

    /// The circuit's: nothing else ever uses it, neither another target nor the peers of this one.
    fn isolation(&self) -> Isolation {
        Isolation::new("dht", &self.target.0, self.attempt)
    }

    /// As an exit is asked for it.
    fn request(&self, family: wire::Family) -> Result<Vec<u8>, Outcome> {
        let target = self.target.0;
        let op = match &self.goal {
            Goal::Peers => Op::Peers { target },
            Goal::Get(name) => Op::Get {
                target,
                salt: name.salt().to_vec(),
            },
            Goal::Put(item) => {
                let cas = item.signed().and_then(|signed| signed.cas);
                let cas = cas.map(u64::try_from).transpose();
                Op::Put {
                    cas: cas.map_err(|_| Outcome::Forbidden)?,
                    item: item.to_carried(),
                }
            }
            // A client announces nothing and keeps no table.
            Goal::Nodes | Goal::Announce { .. } => return Err(Outcome::Forbidden),
        };
        let request = Request { family, op }.encode();
        request.map_err(|_| Outcome::Forbidden)
    }
}

/// Looks something up, and sends what it finds; the outcome is left to the caller to send.
pub(super) async fn run(
    world: &World,
    pace: &Pace,
    what: &What,
    found: &mpsc::Sender<Found>,
    queries: &AtomicU64,
) -> Outcome {
    let mut taken = Taken {
        what,
        sieve: Sieve::new(world.allow_private),
        newest: None,
        items: 0,
        stored: 0,
        found,
    };
    let lookup = look(world, pace, what, queries, &mut taken);
    let ended = timeout(LOOKUP_TIME, lookup).await;
    match ended {
        // What came counts, however it ended.
        Ok(Err(outcome)) if taken.count() == 0 => outcome,
        Ok(_) | Err(_) => taken.outcome(),
    }
}

/// Somebody answered, or the error says what went wrong.
type Looked = Result<(), Outcome>;

async fn look(
    world: &World,
    pace: &Pace,
    what: &What,
    queries: &AtomicU64,
    taken: &mut Taken<'_>,
) -> Looked {
    let (outside, isolation) = (&world.outside, what.isolation());
    let mut missing = Outcome::NoBootstrap;
    if !what.prefers_datagrams() || world.bootstrap.is_empty() {
        let request = what.request(wire::Family::V4)?;
        match timeout(OPEN_TIME, outside.dht(&request, isolation)).await {
            Ok(Ok(stream)) => return by_service(world, what, stream, taken).await,
            // Nobody offers it.
            Ok(Err(RouteError::Refused)) => {}
            // Those who offer it may be gone, or silent; others still carry datagrams.
            Ok(Err(error)) => missing = outcome_of(&error),
            Err(_) => missing = Outcome::NoNetwork,
        }
    }
    if world.bootstrap.is_empty() {
        return Err(missing);
    }
    let flow = timeout(OPEN_TIME, outside.datagrams(isolation)).await;
    let flow = flow
        .map_err(|_| Outcome::NoNetwork)?
        .map_err(|error| outcome_of(&error))?;
    let walk = Walk {
        world,
        pace,
        flow: &*flow,
        queries,
    };
    walk.run(what, taken).await
}

fn outcome_of(error: &RouteError) -> Outcome {
    match error {
        RouteError::NoCircuit(_) | RouteError::TimedOut => Outcome::NoNetwork,
        RouteError::Forbidden(_) => Outcome::Forbidden,
        RouteError::Refused => Outcome::NoExit,
        RouteError::Busy => Outcome::Busy,
        RouteError::NameNotFound
        | RouteError::ConnectionRefused
        | RouteError::Unreachable
        | RouteError::CircuitLost => Outcome::CircuitLost,
    }
}

/// What was found, on its way to whoever asked.
struct Taken<'a> {
    what: &'a What,
    sieve: Sieve,
    /// The number of the newest item, where it has one.
    newest: Option<Option<i64>>,
    items: usize,
    /// Nodes that keep what was put.
    stored: usize,
    found: &'a mpsc::Sender<Found>,
}

impl Taken<'_> {
    async fn peers(&mut self, peers: Vec<SocketAddr>) {
        let peers = self.sieve.take(peers);
        if !peers.is_empty() {
            // Nobody listens any more: the lookup is ended by whoever runs it.
            let _ = self.found.send(Found::Peers(peers)).await;
        }
    }

    /// Takes an item that was checked, if it is the one that was asked for and newer than what came before.
    async fn item(&mut self, item: Item) {
        let Goal::Get(name) = &self.what.goal else {
            return;
        };
        let Ok(item) = item.named(name) else {
            return;
        };
        let number = item.seq();
        if self.newest.is_none_or(|newest| number > newest) {
            self.newest = Some(number);
            self.items += 1;
            let _ = self.found.send(Found::Item(item)).await;
        }
    }

    /// How much was found or done.
    fn count(&self) -> usize {
        self.sieve.passed() + self.items + self.stored
    }

    fn outcome(&self) -> Outcome {
        match self.what.goal {
            Goal::Get(_) => Outcome::Items(self.items),
            Goal::Put(_) => Outcome::Stored(self.stored),
            Goal::Peers | Goal::Nodes | Goal::Announce { .. } => {
                Outcome::Peers(self.sieve.passed())
            }
        }
    }
}

/// Asks the exit, which walks with a table that is warm: first the DHT of IPv4, in which most are, then that of IPv6.
async fn by_service(
    world: &World,
    what: &What,
    stream: BoxStream,
    taken: &mut Taken<'_>,
) -> Looked {
    let looked = read(stream, what, taken).await;
    if looked == Err(Outcome::CircuitLost) {
        return looked;
    }
    let request = what.request(wire::Family::V6)?;
    let opened = timeout(OPEN_TIME, world.outside.dht(&request, what.isolation())).await;
    let Ok(Ok(stream)) = opened else {
        return looked;
    };
    // An exit without IPv6 says so at once.
    looked.or(read(stream, what, taken).await)
}

/// Reads what the exit found.
async fn read(mut stream: BoxStream, what: &What, taken: &mut Taken<'_>) -> Looked {
    let lost = Err(Outcome::CircuitLost);
    let (mut reader, mut bytes) = (Reader::default(), vec![0; READ]);
    loop {
        match reader.next() {
            Ok(Some(Record::Peers(peers))) if what.goal == Goal::Peers => taken.peers(peers).await,
            Ok(Some(Record::Item(item))) => match Item::from_carried(&item) {
                Ok(item) => taken.item(item).await,
                Err(_) => return lost,
            },
            // Nobody asked for any.
            Ok(Some(Record::Peers(_))) | Err(_) => return lost,
            Ok(Some(Record::End(summary))) => {
                if matches!(what.goal, Goal::Put(_)) {
                    taken.stored += usize::from(summary.stored);
                }
                return match (summary.asked, summary.answered) {
                    (0, _) => Err(Outcome::NoExit),
                    (_, 0) => Err(Outcome::Silence),
                    _ => Ok(()),
                };
            }
            Ok(None) => match stream.read(&mut bytes).await {
                Ok(len @ 1..) => reader.push(&bytes[..len]),
                // It ended without saying so.
                Ok(0) | Err(_) => return lost,
            },
        }
    }
}

/// Walks by datagrams that leave at the exit.
struct Walk<'a> {
    world: &'a World,
    pace: &'a Pace,
    flow: &'a dyn Datagrams,
    queries: &'a AtomicU64,
}

impl Walk<'_> {
    async fn run(&self, what: &What, taken: &mut Taken<'_>) -> Looked {
        let now = Instant::now().into_std();
        let settings = if self.world.allow_private {
            Settings::private_network()
        } else {
            Settings::default()
        };
        let start = || Start {
            contacts: Vec::new(),
            bootstraps: self.world.bootstrap.len(),
        };
        let lookup = |family| {
            let seed = rand::rng().random();
            let goal = what.goal.clone();
            Lookup::new(now, &settings, family, what.target, goal, start(), seed)
        };
        let mut lookups = vec![lookup(Family::V4)];
        // Names to begin at are looked up as IPv4 addresses where they have one.
        let six = |node: &Target| node.socket_addr().is_some_and(|addr| addr.is_ipv6());
        if self.world.bootstrap.iter().any(six) {
            lookups.push(lookup(Family::V6));
        }
        let (mut over, mut answered, mut came) = (0, 0, Vec::new());
        loop {
            let now = Instant::now().into_std();
            for lookup in &mut lookups {
                if lookup.poll_timeout().is_some_and(|at| at <= now) {
                    lookup.handle_timeout(now);
                }
                self.send(now, lookup);
                while let Some(event) = lookup.poll_event() {
                    match event {
                        Event::Peers(peers) => taken.peers(peers).await,
                        Event::Item(item) => taken.item(item).await,
                        Event::Finished(summary) => {
                            over += 1;
                            answered += summary.answered;
                            taken.stored += summary.stored;
                        }
                        // The end says it.
                        Event::Stored(_) => {}
                    }
                }
            }
            if over == lookups.len() {
                return if answered == 0 {
                    Err(Outcome::Silence)
                } else {
                    Ok(())
                };
            }
            let next = lookups.iter().filter_map(Lookup::poll_timeout).min();
            // Without a deadline there would be nothing to wait for.
            let next = next.map_or_else(|| Instant::now() + Duration::from_secs(1), Into::into);
            tokio::select! {
                result = self.flow.recv_many(&mut came) => {
                    if result.is_err() {
                        return Err(Outcome::CircuitLost);
                    }
                }
                () = tokio::time::sleep_until(next) => {}
            }
            let now = Instant::now().into_std();
            for (from, bytes) in came.drain(..) {
                let Some(from) = from.socket_addr() else {
                    continue;
                };
                for lookup in &mut lookups {
                    if lookup.handle(now, from, &bytes) {
                        break;
                    }
                }
            }
        }
    }

    /// Sends what the lookup wants to send and the limits allow.
    fn send(&self, now: std::time::Instant, lookup: &mut Lookup) {
        let mut batch: Vec<(Target, Vec<u8>)> = Vec::new();
        while let Some(transmit) = lookup.poll_transmit(now) {
            if !self.pace.query(&transmit.to) {
                lookup.refused(now, &transmit.to);
                continue;
            }
            let to = match transmit.to {
                To::Node(addr) => Some(Target::ip(addr)),
                To::Bootstrap(number) => self.world.bootstrap.get(number).cloned(),
            };
            batch.extend(to.map(|to| (to, transmit.bytes)));
        }
        if batch.is_empty() {
            return;
        }
        self.queries
            .fetch_add(batch.len() as u64, Ordering::Relaxed);
        let mut datagrams = batch.iter().map(|(to, bytes)| (to, bytes.as_slice()));
        // A flow that has ended says so when it is received from.
        let _ = self.flow.send_many(&mut datagrams);
    }
}
