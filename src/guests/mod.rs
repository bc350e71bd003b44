//! Guests: BitTorrent clients that nobody here wrote, as hidden peers.
//!
//! A tracker at a loopback address ([`tracker`]) names hidden peers of a swarm to a client, by virtual addresses
//! ([`addresses`]); what the client opens to one of these meets that peer ([`Guests::route`]). And who announces there becomes
//! a hidden seed itself, for as long as it announces: what visitors say is carried to its loopback port ([`Doorstep`]), from
//! a loopback address of their own each. What the two say to each other of addresses, their own and others', is taken out on
//! the way ([`scrub`]).
//!
//! What the client does besides, with other trackers and the DHT, is no business of this module.

pub mod addresses;
mod door;
mod guest;
mod route;
pub mod scrub;
#[cfg(test)]
mod tests;
pub mod tracker;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::rendezvous::{Contact, SwarmKey};
use rand::RngExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, interval, sleep, timeout};
use tracing::debug;

use self::addresses::{Addresses, CAPACITY, Peer};
pub use self::door::Doorstep;
use self::guest::Stay;
use self::route::GuestRoute;
use self::tracker::{Asked, INTERVAL, Tracker};
use crate::dht::Dht;
use crate::hidden::{Book, HiddenRoute, Host, HostOptions, Identity, publish, seek, target};
use crate::hush::SeedKey;
use crate::net::os::LocalListener;
use crate::net::{BoxStream, ByteStream as _};
use crate::route::Outside;
use crate::route::carry::Buffers;
use crate::torrent::infohash::InfoHash;
use crate::torrent::magnet::Magnet;
use crate::torrent::tracker::query::{Announce, MAX_HEAD};

/// Guests at once: each holds three circuits to introduction points.
pub const MAX_GUESTS: usize = 128;
/// Hidden peers of one swarm that are told of; so many a client has use for.
const MAX_KNOWN: usize = 200;
/// Who was silent for so long has gone: twice the interval, and time to ask.
const GONE: Duration = Duration::from_secs(2 * INTERVAL.as_secs() + 60);
/// How often it is looked who has gone.
const LOOK: Duration = Duration::from_secs(30);
/// Requests to the tracker at once.
const MAX_REQUESTS: usize = 64;
/// How long a request may take to come.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// How long to wait when no connection can be accepted.
const PAUSE: Duration = Duration::from_millis(200);
/// Meetings that are on their way for programs of this computer: each takes two circuits.
const MAX_CALLS: usize = 64;
/// Seconds until hidden peers are looked for again in the DHT: where none is known, and where some are.
const LOOK_AGAIN_SOON: Range<u64> = 2 * 60..4 * 60;
const LOOK_AGAIN: Range<u64> = 15 * 60..30 * 60;

/// What the user is told: how a guest is reached. It is for the user alone, who may pass it on.
pub type Tell = Arc<dyn Fn(&Magnet) + Send + Sync>;

/// How guests are served.
pub struct Options {
    /// The way to relays, past which nothing is known of guests.
    pub outside: Arc<dyn Outside>,
    /// The way to the programs' ports.
    pub doorstep: Arc<dyn Doorstep>,
    /// Where hidden peers are looked for, and where guests are published.
    pub dht: Option<Arc<Dht>>,
    /// The tracker.
    pub tracker: Tracker,
    /// Ports that no visitor is led to, besides the tracker's own.
    pub closed: Vec<u16>,
    /// Told of each guest when it can be reached, and when it can be reached elsewhere alone.
    pub tell: Tell,
}

/// Ends a task when it is dropped.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Guest {
    last: Instant,
    /// How others reach it; `None` where it listens nowhere.
    stay: Option<(SeedKey, Task)>,
}

#[derive(Default)]
struct Swarm {
    /// By the port that the client listens at.
    guests: BTreeMap<u16, Guest>,
    /// Hidden peers, in the order in which they were heard of.
    known: Vec<SeedKey>,
    /// So that each answer begins with another.
    turn: usize,
    looking: Option<Task>,
}

struct State {
    addresses: Addresses,
    swarms: BTreeMap<[u8; 20], Swarm>,
}

/// All guests of one program, or of all programs that use one proxy.
pub struct Guests {
    options: Options,
    book: Arc<Book>,
    hidden: HiddenRoute,
    state: Mutex<State>,
    calls: Semaphore,
    buffers: Buffers,
    /// This, for tasks that end with it.
    own: Weak<Self>,
}

impl Guests {
    /// Nobody is a guest yet.
    pub fn new(options: Options) -> Arc<Self> {
        let book = Arc::new(Book::default());
        let state = State {
            addresses: Addresses::new(&mut rand::rng(), CAPACITY),
            swarms: BTreeMap::new(),
        };
        Arc::new_cyclic(|own| Self {
            hidden: HiddenRoute::new(Arc::clone(&options.outside), Arc::clone(&book)),
            options,
            book,
            state: Mutex::new(state),
            calls: Semaphore::new(MAX_CALLS),
            buffers: Buffers::default(),
            own: Weak::clone(own),
        })
    }

    /// Where the tracker listens.
    pub fn at(&self) -> SocketAddr {
        self.options.tracker.at()
    }

    /// A way out that leads to hidden peers by their virtual addresses, and for the rest where `outside` does.
    pub fn route(self: &Arc<Self>, outside: Arc<dyn Outside>) -> Arc<dyn Outside> {
        Arc::new(GuestRoute {
            guests: Arc::clone(self),
            outside,
        })
    }

    /// Serves the tracker until the future is dropped.
    pub async fn serve(self: Arc<Self>, listener: LocalListener) {
        let mut requests = JoinSet::new();
        let mut clock = interval(LOOK);
        loop {
            while requests.try_join_next().is_some() {}
            tokio::select! {
                _ = clock.tick() => self.expire(Instant::now()),
                accepted = listener.accept() => match accepted {
                    Ok(mut accepted) if requests.len() >= MAX_REQUESTS => accepted.stream.reset_on_drop(),
                    Ok(accepted) => {
                        requests.spawn(Arc::clone(&self).answer(accepted.stream));
                    }
                    Err(error) => {
                        debug!(kind = %error.kind(), "no connection accepted");
                        sleep(PAUSE).await;
                    }
                },
            }
        }
    }

    /// Answers one request.
    async fn answer(self: Arc<Self>, mut stream: BoxStream) {
        let answered = timeout(REQUEST_TIME, async {
            let head = read_head(&mut stream).await?;
            let response = self.handle(&head);
            stream.write_all(&response).await.ok()?;
            stream.shutdown().await.ok()
        });
        // A client that can't be answered asks again.
        let _ = answered.await;
    }

    /// Answers the head of a request.
    fn handle(&self, head: &[u8]) -> Vec<u8> {
        match self.options.tracker.read(&self.options.closed, head) {
            Ok(Asked::Announce(announce, seeds)) => self.announce(&announce, seeds),
            Ok(Asked::Scrape(torrents)) => {
                let state = self.state();
                let known = |hash| state.swarms.get(hash).map_or(0, |swarm| swarm.known.len());
                let torrents = torrents.iter().map(|hash| (*hash, known(hash)));
                tracker::counted(&torrents.collect::<Vec<_>>())
            }
            Err(response) => response,
        }
    }

    fn announce(&self, announce: &Announce, seeds: Vec<Contact>) -> Vec<u8> {
        let mut state = self.state();
        if announce.stopped {
            self.leave(&mut state, &announce.hash, announce.port);
            return tracker::announced(announce, &[], 0);
        }
        if !self.stay(&mut state, announce) {
            return tracker::failure("there are too many torrents: stop some");
        }
        for seed in seeds {
            self.note(&mut state, &announce.hash, &seed, Book::learn);
        }
        let State { addresses, swarms } = &mut *state;
        let Some(swarm) = swarms.get_mut(&announce.hash) else {
            return tracker::announced(announce, &[], 0);
        };
        let known = swarm.known.len();
        let wanted = announce.numwant.min(known);
        let begin = swarm.turn % known.max(1);
        swarm.turn = swarm.turn.wrapping_add(wanted);
        let keys = swarm.known.iter().cycle().skip(begin).take(wanted);
        let mut rng = rand::rng();
        let given = keys.filter_map(|key| addresses.give(&mut rng, (announce.hash, *key)));
        let peers: Vec<Ipv6Addr> = given.collect();
        tracker::announced(announce, &peers, known)
    }

    /// Makes whoever announces a guest, or lets it stay one; `false` where there are too many.
    fn stay(&self, state: &mut State, announce: &Announce) -> bool {
        let (hash, now) = (announce.hash, Instant::now());
        let swarm = state.swarms.get_mut(&hash);
        if let Some(guest) = swarm.and_then(|swarm| swarm.guests.get_mut(&announce.port)) {
            guest.last = now;
            return true;
        }
        let guests = state.swarms.values().map(|swarm| swarm.guests.len());
        if guests.sum::<usize>() >= MAX_GUESTS {
            return false;
        }
        let stay = if tracker::is_reached(announce) {
            let Some(stay) = self.begin(hash, announce.port) else {
                return false;
            };
            Some(stay)
        } else {
            None
        };
        let guest = Guest { last: now, stay };
        let swarm = state.swarms.entry(hash).or_default();
        swarm.guests.insert(announce.port, guest);
        if let (None, Some(dht)) = (&swarm.looking, &self.options.dht) {
            let looking = look(Weak::clone(&self.own), Arc::clone(dht), hash);
            swarm.looking = Some(Task(tokio::spawn(looking).abort_handle()));
        }
        true
    }

    /// Makes the client at this port a hidden seed.
    fn begin(&self, hash: [u8; 20], port: u16) -> Option<(SeedKey, Task)> {
        let swarm = SwarmKey::new(&hash).ok()?;
        let identity = Identity::ephemeral(&mut rand::rng());
        let key = identity.key();
        let outside = Arc::clone(&self.options.outside);
        let (host, visitors) = Host::start(outside, identity, swarm, HostOptions::default());
        let contact = host.contact();
        let dht = self.options.dht.clone();
        let stay = Stay {
            _notice: dht.map(|dht| publish(dht, hash, contact.clone())),
            _host: host,
            hash: InfoHash(hash),
            port,
            visitors,
            contact,
            doorstep: Arc::clone(&self.options.doorstep),
            tell: Arc::clone(&self.options.tell),
            buffers: self.buffers.clone(),
        };
        Some((key, Task(tokio::spawn(stay.run()).abort_handle())))
    }

    /// A guest is none any more; with the last one its swarm is forgotten.
    fn leave(&self, state: &mut State, hash: &[u8; 20], port: u16) {
        if let Some(swarm) = state.swarms.get_mut(hash) {
            swarm.guests.remove(&port);
            if swarm.guests.is_empty() {
                self.forget(state, hash);
            }
        }
    }

    fn forget(&self, state: &mut State, hash: &[u8; 20]) {
        let swarm = state.swarms.remove(hash).unwrap_or_default();
        for key in swarm.known {
            state.addresses.forget(&(*hash, key));
            self.book.forget(&key);
        }
    }

    fn expire(&self, now: Instant) {
        let mut state = self.state();
        for swarm in state.swarms.values_mut() {
            let stays = |guest: &Guest| now.saturating_duration_since(guest.last) < GONE;
            swarm.guests.retain(|_, guest| stays(guest));
        }
        let empty = state.swarms.iter().filter(|(_, s)| s.guests.is_empty());
        let empty: Vec<[u8; 20]> = empty.map(|(hash, _)| *hash).collect();
        for hash in empty {
            self.forget(&mut state, &hash);
        }
    }

    /// Notes a hidden peer of a swarm that has a guest, unless it is one.
    fn note(
        &self,
        state: &mut State,
        hash: &[u8; 20],
        contact: &Contact,
        how: impl Fn(&Book, [u8; 20], Contact) -> Option<hushswarm_circuits::target::Target>,
    ) {
        let key = SeedKey(contact.key);
        let Some(swarm) = state.swarms.get_mut(hash) else {
            return;
        };
        let known = swarm.known.contains(&key);
        let keys = swarm
            .guests
            .values()
            .filter_map(|guest| guest.stay.as_ref());
        let own = keys.into_iter().any(|(own, _)| *own == key);
        if own || (!known && swarm.known.len() >= MAX_KNOWN) {
            return;
        }
        // A key that is another swarm's is not taken.
        if how(&self.book, *hash, contact.clone()).is_some() && !known {
            swarm.known.push(key);
        }
    }

    /// Whether this address is virtual, given out or not.
    fn covers(&self, ip: IpAddr) -> bool {
        self.state().addresses.covers(ip)
    }

    /// Whose address this is.
    fn who(&self, ip: IpAddr) -> Option<Peer> {
        match ip {
            IpAddr::V6(ip) => self.state().addresses.who(ip),
            IpAddr::V4(_) => None,
        }
    }

    /// Leads what a program says to a hidden peer, once it has begun to speak to that peer's swarm.
    async fn call(self: Arc<Self>, mut near: BoxStream, (hash, key): Peer) {
        let Some(said) = door::asked(&mut near, &hash).await else {
            debug!("a program said something else than a handshake to a hidden peer");
            return;
        };
        let Some(target) = target(&key) else { return };
        // Never closed.
        let Ok(place) = self.calls.acquire().await else {
            return;
        };
        // It is not used: a meeting has circuits of its own.
        let isolation = Isolation::new("guests", b"", 0);
        let met = self.hidden.connect(&target, isolation).await;
        drop(place);
        match met {
            Ok(far) => {
                let carried = scrub::carry(near, far, &said, &self.buffers).await;
                debug!(ok = carried.is_ok(), "stream to a hidden peer ended");
            }
            Err(error) => debug!(%error, "a hidden peer was not met"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Guests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guests").finish_non_exhaustive()
    }
}

/// Looks in the DHT for hidden peers of a swarm, again and again.
async fn look(guests: Weak<Guests>, dht: Arc<Dht>, hash: [u8; 20]) {
    loop {
        let mut seeking = seek(Arc::clone(&dht), hash);
        while let Some(contact) = seeking.next().await {
            let Some(guests) = guests.upgrade() else {
                return;
            };
            let mut state = guests.state();
            guests.note(&mut state, &hash, &contact, Book::hear);
        }
        let Some(alone) = guests.upgrade().map(|guests| {
            let state = guests.state();
            let swarm = state.swarms.get(&hash);
            swarm.is_none_or(|swarm| swarm.known.is_empty())
        }) else {
            return;
        };
        let again = if alone { LOOK_AGAIN_SOON } else { LOOK_AGAIN };
        let wait = rand::rng().random_range(again);
        sleep(Duration::from_secs(wait)).await;
    }
}

/// Reads up to the empty line; nothing where that does not come.
async fn read_head(stream: &mut BoxStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let mut chunk = [0; 2048];
    loop {
        let n = stream.read(&mut chunk).await.ok().filter(|n| *n > 0)?;
        // The end may stand across two reads.
        let from = head.len().saturating_sub(3);
        head.extend_from_slice(&chunk[..n]);
        let end = head[from..].windows(4).position(|end| end == b"\r\n\r\n");
        if let Some(end) = end {
            head.truncate(from + end);
            return Some(head);
        }
        // Too long: it is answered so.
        if head.len() > MAX_HEAD {
            return Some(head);
        }
    }
}
