//! Guests: BitTorrent clients that nobody here wrote, as hidden peers.
//!
//! A tracker at a loopback address ([`tracker`]) names hidden peers of a swarm to a client, by virtual addresses
//! ([`addresses`]); what the client opens to one of these meets that peer ([`Guests::route`]). And who announces there in
//! a jail becomes a hidden seed itself, for as long as it announces: what visitors say is carried to its loopback port ([`Doorstep`]),
//! from a loopback address of their own each. Outside of jails nobody is hosted. What the two say to each other of addresses, their own
//! and others', is taken out on the way ([`scrub`]).
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
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::rendezvous::{Contact, SwarmKey};
use rand::RngExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, interval, sleep, timeout};
use tracing::debug;

use self::addresses::{Addresses, CAPACITY, Peer};
pub use self::door::Doorstep;
use self::door::Watched;
use self::guest::Stay;
use self::route::GuestRoute;
use self::tracker::{Asked, INTERVAL, Tracker};
use crate::dht::Dht;
use crate::hidden::{
    Book, HiddenRoute, Host, HostOptions, Identity, Starts, publish, seek, target,
};
use crate::hush::SeedKey;
use crate::net::os::LocalListener;
use crate::net::{BoxStream, ByteStream as _};
use crate::route::carry::Buffers;
use crate::route::{Outside, RouteError};
use crate::torrent::infohash::InfoHash;
use crate::torrent::magnet::Magnet;
use crate::torrent::tracker::query::{Announce, MAX_HEAD};

/// Guests at once: each holds three circuits to introduction points.
pub const MAX_GUESTS: usize = 128;
/// Hidden peers of one swarm that are told of; so many a client has use for.
const MAX_KNOWN: usize = 200;
/// Who was silent for so long has gone: twice the interval, and time to ask. Who said that he goes is kept as long, and is the same
/// hidden seed when he comes again.
const GONE: Duration = Duration::from_secs(2 * INTERVAL.as_secs() + 60);
/// Hidden seeds that are made at once; then one after such a time each. Circuits are dear, for relays too.
const BEGINS: u32 = 30;
const BEGIN_EVERY: Duration = Duration::from_secs(2);
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
/// Of these, such to one swarm: its peers, who may be made up, don't keep other torrents waiting.
const MAX_CALLS_TO_SWARM: usize = 16;
/// Connections of programs that have met nobody yet; beyond these they are refused.
const MAX_WAITING: usize = 256;
/// Seconds until hidden peers are looked for again in the DHT: where none is known, and where some are.
const LOOK_AGAIN_SOON: Range<u64> = 2 * 60..4 * 60;
const LOOK_AGAIN: Range<u64> = 15 * 60..30 * 60;

/// What the user is told: how a guest is reached. It is for the user alone, who may pass it on.
pub type Tell = Arc<dyn Fn(&Magnet) + Send + Sync>;

/// How guests are served.
pub struct Options {
    /// The way to relays, past which nothing is known of guests.
    pub outside: Arc<dyn Outside>,
    /// How clients are reached; `None`: by nobody, they only get. Who announces is not made a hidden seed where the same client
    /// may be seen elsewhere: strangers could tell that both are one.
    pub hosting: Option<Hosting>,
    /// Where hidden peers are looked for, and where guests are published.
    pub dht: Option<Arc<Dht>>,
    /// The tracker.
    pub tracker: Tracker,
}

/// How visitors are led to the clients of programs.
pub struct Hosting {
    /// The way to the programs' ports.
    pub doorstep: Arc<dyn Doorstep>,
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
    /// It said that it goes, and may come again.
    left: bool,
    /// How others reach it; `None` where it listens nowhere, or too many have just begun.
    stay: Option<Hosted>,
}

/// A client as a hidden seed.
struct Hosted {
    key: SeedKey,
    /// Whether visitors are let in: not when it has left, or nobody listened at its port.
    open: Arc<AtomicBool>,
    _task: Task,
}

/// When the next hidden seed may be made, if none had come before its time.
struct Begins(Instant);

impl Begins {
    fn allow(&mut self, now: Instant) -> bool {
        let next = self.0.max(now);
        if next.saturating_duration_since(now) >= BEGIN_EVERY * BEGINS {
            return false;
        }
        self.0 = next + BEGIN_EVERY;
        true
    }
}

struct Known {
    key: SeedKey,
    /// The user's link names it; others are told of by strangers.
    named: bool,
}

struct Swarm {
    /// By the port that the client listens at.
    guests: BTreeMap<u16, Guest>,
    /// Hidden peers, in the order in which they were heard of.
    known: Vec<Known>,
    /// So that each answer begins with another.
    turn: usize,
    looking: Option<Task>,
    /// For meetings that are on their way.
    calls: Arc<Semaphore>,
    /// Of this swarm alone: which key is in another one is nobody's business here.
    book: Arc<Book>,
    hidden: Arc<HiddenRoute>,
}

impl Swarm {
    fn new(outside: &Arc<dyn Outside>) -> Self {
        let book = Arc::new(Book::default());
        let hidden = HiddenRoute::new(Arc::clone(outside), Arc::clone(&book));
        Self {
            book,
            hidden: Arc::new(hidden),
            guests: BTreeMap::new(),
            known: Vec::new(),
            turn: 0,
            looking: None,
            calls: Arc::new(Semaphore::new(MAX_CALLS_TO_SWARM)),
        }
    }
}

struct State {
    addresses: Addresses,
    swarms: BTreeMap<[u8; 20], Swarm>,
    begins: Begins,
}

/// All guests of one program, or of all programs that use one proxy.
pub struct Guests {
    options: Options,
    state: Mutex<State>,
    calls: Semaphore,
    waiting: Arc<Semaphore>,
    buffers: Buffers,
    starts: Starts,
    /// This, for tasks that end with it.
    own: Weak<Self>,
}

impl Guests {
    /// Nobody is a guest yet.
    pub fn new(options: Options) -> Arc<Self> {
        let state = State {
            addresses: Addresses::new(CAPACITY),
            swarms: BTreeMap::new(),
            begins: Begins(Instant::now()),
        };
        Arc::new_cyclic(|own| Self {
            options,
            state: Mutex::new(state),
            calls: Semaphore::new(MAX_CALLS),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            buffers: Buffers::default(),
            starts: Starts::default(),
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
        let hosting = self.options.hosting.as_ref();
        let closed = hosting.map_or(&[][..], |hosting| &hosting.closed);
        match self.options.tracker.read(closed, head) {
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
            leave(&mut state, &announce.hash, announce.port);
            return tracker::announced(announce, &[], 0);
        }
        if !self.stay(&mut state, announce) {
            return tracker::failure("there are too many torrents: stop some");
        }
        for seed in seeds {
            note(&mut state, &announce.hash, &seed, true);
        }
        let State {
            addresses, swarms, ..
        } = &mut *state;
        let Some(swarm) = swarms.get_mut(&announce.hash) else {
            return tracker::announced(announce, &[], 0);
        };
        let known = swarm.known.len();
        let wanted = announce.numwant.min(known);
        let begin = swarm.turn % known.max(1);
        swarm.turn = swarm.turn.wrapping_add(wanted);
        let keys = swarm.known.iter().cycle().skip(begin).take(wanted);
        let mut rng = rand::rng();
        let given = keys.filter_map(|known| addresses.give(&mut rng, (announce.hash, known.key)));
        let peers: Vec<Ipv6Addr> = given.collect();
        tracker::announced(announce, &peers, known)
    }

    /// Makes whoever announces a guest, or lets it stay one; `false` where there are too many.
    fn stay(&self, state: &mut State, announce: &Announce) -> bool {
        let (hash, port, now) = (announce.hash, announce.port, Instant::now());
        let swarm = state.swarms.get(&hash);
        let is_guest = swarm.is_some_and(|swarm| swarm.guests.contains_key(&port));
        if !is_guest && !make_room(state) {
            return false;
        }
        let swarm = state.swarms.entry(hash);
        let swarm = swarm.or_insert_with(|| Swarm::new(&self.options.outside));
        let guest = swarm.guests.entry(port).or_insert(Guest {
            last: now,
            left: false,
            stay: None,
        });
        (guest.last, guest.left) = (now, false);
        match (&guest.stay, &self.options.hosting) {
            (Some(stay), _) => stay.open.store(true, Ordering::Relaxed),
            // Where too many have begun, it is one when it asks again.
            (None, Some(hosting)) if tracker::is_reached(announce) && state.begins.allow(now) => {
                guest.stay = self.begin(hosting, hash, port);
            }
            (None, _) => {}
        }
        if let (None, Some(dht)) = (&swarm.looking, &self.options.dht) {
            let looking = look(Weak::clone(&self.own), Arc::clone(dht), hash);
            swarm.looking = Some(Task(tokio::spawn(looking).abort_handle()));
        }
        true
    }

    /// Makes the client at this port a hidden seed.
    fn begin(&self, hosting: &Hosting, hash: [u8; 20], port: u16) -> Option<Hosted> {
        let swarm = SwarmKey::new(&hash).ok()?;
        let identity = Identity::ephemeral(&mut rand::rng());
        let key = identity.key();
        let outside = Arc::clone(&self.options.outside);
        let options = HostOptions::default();
        let (host, visitors) =
            Host::start_for(outside, identity, swarm, options, None, &self.starts);
        let contact = host.contact();
        let dht = self.options.dht.clone();
        let open = Arc::new(AtomicBool::new(true));
        let stay = Stay {
            _notice: dht.map(|dht| publish(dht, hash, contact.clone())),
            _host: host,
            hash: InfoHash(hash),
            port,
            visitors,
            contact,
            doorstep: Arc::new(Watched {
                doorstep: Arc::clone(&hosting.doorstep),
                open: Arc::clone(&open),
            }),
            open: Arc::clone(&open),
            tell: Arc::clone(&hosting.tell),
            buffers: self.buffers.clone(),
        };
        Some(Hosted {
            key,
            open,
            _task: Task(tokio::spawn(stay.run()).abort_handle()),
        })
    }

    fn expire(&self, now: Instant) {
        let mut state = self.state();
        for swarm in state.swarms.values_mut() {
            let stays = |guest: &Guest| now.saturating_duration_since(guest.last) < GONE;
            swarm.guests.retain(|_, guest| stays(guest));
        }
        forget_deserted(&mut state);
    }

    /// Whose address this is.
    fn who(&self, ip: IpAddr) -> Option<Peer> {
        match ip {
            IpAddr::V6(ip) => self.state().addresses.who(ip),
            IpAddr::V4(_) => None,
        }
    }

    /// Leads what a program says to a hidden peer, once it has begun to speak to that peer's swarm.
    async fn call(
        self: Arc<Self>,
        mut near: BoxStream,
        (hash, key): Peer,
        waits: OwnedSemaphorePermit,
    ) {
        let Some(mut said) = door::asked(&mut near, &hash).await else {
            debug!("a program said something else than a handshake to a hidden peer");
            return;
        };
        let met = tokio::select! {
            // Dropped, the meeting gives back what it has taken.
            () = door::gone(&mut near, &mut said) => {
                debug!("a program did not wait for a hidden peer");
                return;
            }
            met = self.meet(&hash, &key) => met,
        };
        drop(waits);
        match met {
            Ok(far) => {
                let carried = scrub::carry(near, far, &said, &self.buffers).await;
                debug!(ok = carried.is_ok(), "stream to a hidden peer ended");
            }
            Err(error) => debug!(%error, "a hidden peer was not met"),
        }
    }

    /// Meets a hidden peer, when it is this call's turn.
    async fn meet(&self, hash: &[u8; 20], key: &SeedKey) -> Result<BoxStream, RouteError> {
        let swarm = self.state().swarms.get(hash).map(|swarm| {
            let (calls, hidden) = (&swarm.calls, &swarm.hidden);
            (Arc::clone(calls), Arc::clone(hidden))
        });
        let (Some((calls, hidden)), Some(target)) = (swarm, target(key)) else {
            return Err(RouteError::Refused);
        };
        // Neither is ever closed.
        let closed = |_| RouteError::Refused;
        let _of_swarm = calls.acquire().await.map_err(closed)?;
        let _of_all = self.calls.acquire().await.map_err(closed)?;
        // It is not used: a meeting has circuits of its own.
        let isolation = Isolation::new("guests", b"", 0);
        hidden.connect(&target, isolation).await
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

/// Makes room for a guest: one that has left gives way. `false` where all are there.
fn make_room(state: &mut State) -> bool {
    let guests = state.swarms.values().map(|swarm| swarm.guests.len());
    if guests.sum::<usize>() < MAX_GUESTS {
        return true;
    }
    let all = state.swarms.iter().flat_map(|(hash, swarm)| {
        let guests = swarm.guests.iter();
        guests.map(move |(port, guest)| (*hash, *port, guest))
    });
    let left = all.filter(|(_, _, guest)| guest.left);
    let oldest = left.min_by_key(|(_, _, guest)| guest.last);
    let Some((hash, port)) = oldest.map(|(hash, port, _)| (hash, port)) else {
        return false;
    };
    if let Some(swarm) = state.swarms.get_mut(&hash) {
        swarm.guests.remove(&port);
    }
    forget_deserted(state);
    true
}

/// A guest leaves, and is the same hidden seed if it comes again soon; with the last one is forgotten who else is of its swarm.
fn leave(state: &mut State, hash: &[u8; 20], port: u16) {
    let swarm = state.swarms.get_mut(hash);
    if let Some(swarm) = swarm
        && let Some(guest) = swarm.guests.get_mut(&port)
    {
        (guest.last, guest.left) = (Instant::now(), true);
        match &guest.stay {
            Some(stay) => stay.open.store(false, Ordering::Relaxed),
            None => drop(swarm.guests.remove(&port)),
        }
        forget_deserted(state);
    }
}

/// Forgets what is known of swarms that have no guest any more, and those to which none will come again.
fn forget_deserted(state: &mut State) {
    let State {
        addresses, swarms, ..
    } = state;
    swarms.retain(|hash, swarm| {
        if swarm.guests.values().all(|guest| guest.left) {
            swarm.looking = None;
            for Known { key, .. } in swarm.known.drain(..) {
                addresses.forget(&(*hash, key));
                swarm.book.forget(&key);
            }
        }
        !swarm.guests.is_empty()
    });
}

/// Notes a hidden peer of a swarm that has a guest, unless it is one. One that the user's link names is always taken; where there is
/// no room, the oldest that strangers told of gives way.
fn note(state: &mut State, hash: &[u8; 20], contact: &Contact, named: bool) {
    let key = SeedKey(contact.key);
    let State {
        addresses, swarms, ..
    } = state;
    let Some(swarm) = swarms.get_mut(hash) else {
        return;
    };
    let keys = swarm
        .guests
        .values()
        .filter_map(|guest| guest.stay.as_ref());
    let own = keys.into_iter().any(|own| own.key == key);
    if own {
        return;
    }
    let known = swarm.known.iter().position(|known| known.key == key);
    if known.is_none() && swarm.known.len() >= MAX_KNOWN {
        let heard = swarm.known.iter().position(|known| !known.named);
        // Where all are named, the link that was used last counts.
        let Some(oldest) = heard.or(named.then_some(0)) else {
            return;
        };
        let Known { key, .. } = swarm.known.remove(oldest);
        addresses.forget(&(*hash, key));
        swarm.book.forget(&key);
    }
    let contact = contact.clone();
    let noted = if named {
        swarm.book.learn(*hash, contact)
    } else {
        swarm.book.hear(*hash, contact)
    };
    // What lets in only some is not heard of.
    if noted.is_none() {
        return;
    }
    match known.and_then(|at| swarm.known.get_mut(at)) {
        Some(known) => known.named |= named,
        None => swarm.known.push(Known { key, named }),
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
            note(&mut state, &hash, &contact, false);
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
