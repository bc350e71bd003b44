//! A hidden seed that keeps standing: a few introduction points, at different relays, taken up again when they are lost.
//!
//! What relays learn by the way in which it comes back is kept small. Relays that compared their times could put a seed's points together when
//! all are taken up at one moment, so any two of one seed are taken up some random seconds apart. A point is told on
//! for a while after it broke, so that who reads a contact does not see each break; and a relay
//! is looked for by a question that shows no key, so that one which refuses learns none.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hushswarm_circuits::keys::RelayId;
use hushswarm_circuits::rendezvous::contact::MAX_POINTS;
use hushswarm_circuits::rendezvous::message::Guests;
use hushswarm_circuits::rendezvous::{Contact, Cookie, IntroductionId, Point, SwarmKey};
use rand::RngExt as _;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, warn};

use super::identity::{Identity, Place};
use super::isolation;
use super::reception::{Counters, Keys, Limits, Lost, Reception, Standing};
use super::starts::{Start, Starts};
use super::stream::Sealed;
use crate::hush::SeedKey;
use crate::route::{At, Meet, Outside, RouteError};

/// Introduction points of a seed, unless told otherwise: one may go and one may lie.
const POINTS: usize = 3;
/// Points beyond those that are wanted, for relays that stand in while others are waited for. Also attempts. As many as are wanted as a
/// rule: after an outage nobody who stands in takes the place of one that the link names and that is about to come back.
const SPARE: usize = 3;
/// Any two points of a seed are taken up so far apart, and any two searches: no relays see them come at one moment.
const APART: Range<Duration> = Duration::from_secs(1)..Duration::from_secs(5);
/// After a point has stood for so long its relay is good: when it breaks, it is taken up again at once.
const STEADY: Duration = Duration::from_secs(60);
/// A point that broke is told on for so long: its relay is asked again in this time.
const NAMED: Duration = Duration::from_secs(60);
/// After so long without it, another relay stands in.
const STAND_IN_AFTER: Duration = Duration::from_secs(30);
/// After so long, while others stand, its relay is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10 * 60);
/// So long all stand when there are more than wanted: those who know the youngest hear of the others meanwhile.
const LINGER: Duration = Duration::from_secs(10 * 60);
/// The first wait between attempts; the next are twice as long each, up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// An attempt that takes longer hangs: three circuits may be tried in it.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(150);
/// So long a relay that refused is not asked again.
const REFUSED_FOR: Duration = Duration::from_secs(10 * 60);
/// And one that broke the protocol, or floods.
const BROKEN_FOR: Duration = Duration::from_secs(24 * 3600);
/// Relays that are remembered as such.
const MAX_SHUNNED: usize = 64;

/// How a seed stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostOptions {
    /// Introduction points, 1 to 5.
    pub points: usize,
    /// What it takes on.
    pub limits: Limits,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            points: POINTS,
            limits: Limits::default(),
        }
    }
}

/// How a seed stands now: counts alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostStatus {
    /// Introduction points that stand.
    pub standing: usize,
    /// How its visitors fared.
    pub counters: Counters,
}

/// A hidden seed that stands, until this is dropped.
pub struct Host {
    shared: Arc<Shared>,
    manager: AbortHandle,
}

impl Host {
    /// Stands, at the relays of the identity first, and goes on whatever becomes of them. Visitors come out of the receiver.
    pub fn start(
        outside: Arc<dyn Outside>,
        identity: Identity,
        swarm: SwarmKey,
        options: HostOptions,
    ) -> (Self, mpsc::Receiver<Sealed>) {
        Self::start_for(outside, identity, swarm, options, None, &Starts::default())
    }

    /// The same for these guests alone; `None`: for all who know the swarm. Nobody else can tell whether it stands: at the relays it has
    /// keys for which they answer alike whether or not anybody holds them (PROTOCOL.md §8.1). Its circuits wait for their turn among those of all
    /// seeds with these `starts`.
    pub fn start_for(
        outside: Arc<dyn Outside>,
        identity: Identity,
        swarm: SwarmKey,
        options: HostOptions,
        guests: Option<Guests>,
        starts: &Starts,
    ) -> (Self, mpsc::Receiver<Sealed>) {
        let closed = guests.is_some();
        let identity = identity.quiet(closed);
        let (reception, visitors) =
            Reception::open_to(Arc::clone(&outside), options.limits, guests);
        let points = options.points.clamp(1, MAX_POINTS - SPARE);
        let shared = Arc::new(Shared {
            outside,
            reception,
            swarm,
            key: identity.key(),
            closed,
            identity: Mutex::new(identity),
            points,
            table: Mutex::default(),
            changed: Notify::new(),
            contact: watch::channel(None).0,
            attempts: Semaphore::new(points + SPARE),
            starts: starts.clone(),
            searches: Turn::default(),
            points_taken: Turn::default(),
        });
        let manager = tokio::spawn(manage(Arc::clone(&shared))).abort_handle();
        (Self { shared, manager }, visitors)
    }

    /// How it is reached: the points that stand, or broke within the last minute, oldest first. `None` until one stands, and when none does.
    pub fn contact(&self) -> watch::Receiver<Option<Contact>> {
        self.shared.contact.subscribe()
    }

    /// How it stands.
    pub fn status(&self) -> HostStatus {
        self.shared.status()
    }

    /// Says the same for as long as it stands, to whoever does not hold it.
    pub fn gauge(&self) -> Gauge {
        Gauge(Arc::downgrade(&self.shared))
    }
}

/// How a seed stands, told to whoever does not hold it.
#[derive(Clone)]
pub struct Gauge(Weak<Shared>);

impl Gauge {
    /// How it stands; `None` once it is gone.
    pub fn read(&self) -> Option<HostStatus> {
        Some(self.0.upgrade()?.status())
    }
}

impl std::fmt::Debug for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Gauge").field(&self.read()).finish()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.manager.abort();
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

/// A relay where the seed stands, or wants to. Its task ends when this is dropped.
struct Entry {
    place: Place,
    introduction: IntroductionId,
    /// Since when it does not stand; `None`: it does.
    down: Option<Instant>,
    /// It stood once: its number among those that did.
    stood: Option<u64>,
    _holder: oneshot::Sender<Infallible>,
}

impl Entry {
    fn stood_within(&self, time: Duration) -> bool {
        self.stood.is_some() && self.down.is_none_or(|since| since.elapsed() < time)
    }
}

#[derive(Default)]
struct Table {
    entries: Vec<Entry>,
    /// Tasks that look for a relay.
    searching: usize,
    /// Entries that have stood so far.
    stood: u64,
    shunned: Vec<(RelayId, Instant)>,
    /// Since when more stand than are wanted.
    surplus: Option<Instant>,
}

impl Table {
    /// Points that stand, or are expected back at once.
    fn usable(&self) -> usize {
        let usable = |entry: &&Entry| entry.stood_within(STAND_IN_AFTER);
        self.entries.iter().filter(usable).count()
    }

    fn entry(&mut self, relay: &RelayId) -> Option<&mut Entry> {
        let own = |entry: &&mut Entry| entry.place.relay == *relay;
        self.entries.iter_mut().find(own)
    }

    fn remove(&mut self, relay: &RelayId) {
        self.entries.retain(|entry| entry.place.relay != *relay);
    }

    fn shun(&mut self, relay: RelayId, time: Duration) {
        let now = Instant::now();
        self.shunned
            .retain(|(other, until)| *until > now && *other != relay);
        if self.shunned.len() >= MAX_SHUNNED {
            self.shunned.remove(0);
        }
        self.shunned.push((relay, now + time));
    }

    fn is_shunned(&self, relay: &RelayId) -> bool {
        let now = Instant::now();
        let shunned = |(other, until): &(RelayId, Instant)| other == relay && *until > now;
        self.shunned.iter().any(shunned)
    }

    /// The oldest first.
    fn stood(&self) -> Vec<&Entry> {
        let mut stood: Vec<_> = self
            .entries
            .iter()
            .filter(|entry| entry.stood.is_some())
            .collect();
        stood.sort_by_key(|entry| entry.stood);
        stood
    }

    /// Lets the youngest go when more stand than wanted, for long.
    fn trim(&mut self, wanted: usize) {
        let up = self.entries.iter().filter(|entry| entry.down.is_none());
        if up.clone().count() <= wanted {
            self.surplus = None;
            return;
        }
        let since = *self.surplus.get_or_insert_with(Instant::now);
        let youngest = up.max_by_key(|entry| entry.stood);
        if since.elapsed() >= LINGER
            && let Some(relay) = youngest.map(|entry| entry.place.relay)
        {
            self.remove(&relay);
            self.surplus = None;
        }
    }

    /// When something is to be looked at that no task says.
    fn deadline(&self) -> Option<Instant> {
        let now = Instant::now();
        let down = self.entries.iter().filter_map(|entry| entry.down);
        let due = down.flat_map(|since| [since + STAND_IN_AFTER, since + NAMED]);
        let due = due.chain(self.surplus.map(|since| since + LINGER));
        due.filter(|at| *at > now).min()
    }
}

struct Shared {
    outside: Arc<dyn Outside>,
    reception: Reception,
    swarm: SwarmKey,
    key: SeedKey,
    /// It lets in only some.
    closed: bool,
    identity: Mutex<Identity>,
    points: usize,
    table: Mutex<Table>,
    changed: Notify,
    contact: watch::Sender<Option<Contact>>,
    attempts: Semaphore,
    /// Shared with other seeds.
    starts: Starts,
    /// When the next search may begin.
    searches: Turn,
    /// When the next point may be taken up.
    points_taken: Turn,
}

/// When one seed may begin the next of its attempts; `None`: at once. Held by whoever waits for it.
type Turn = tokio::sync::Mutex<Option<Instant>>;

/// An attempt may begin. Keep it until that is done.
struct Attempt<'a> {
    _permit: Option<SemaphorePermit<'a>>,
    _start: Start,
}

/// Keeps as many points standing as are wanted.
async fn manage(shared: Arc<Shared>) {
    let mut tasks = JoinSet::new();
    let places = shared.identity().places().to_vec();
    for place in places {
        if let Some(held) = shared.enter(place, true) {
            let shared = Arc::clone(&shared);
            tasks.spawn(async move {
                shared.stay(place, held).await;
            });
        }
    }
    loop {
        for _ in 0..shared.missing() {
            let shared = Arc::clone(&shared);
            tasks.spawn(async move { shared.fill().await });
        }
        shared.tell().await;
        let deadline = shared.table().deadline();
        let due = async {
            match deadline {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.changed.notified() => {}
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            () = due => {}
        }
    }
}

/// How one who stands at a relay is told that it no longer should: the other end is gone.
type Held = oneshot::Receiver<Infallible>;

/// How it ended at a relay.
enum Left {
    /// It never stood there.
    Never,
    /// It did.
    Over,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> HostStatus {
        let up = |entry: &&Entry| entry.down.is_none();
        HostStatus {
            standing: self.table().entries.iter().filter(up).count(),
            counters: self.reception.counters(),
        }
    }

    fn identity(&self) -> MutexGuard<'_, Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place in the table; `None` where the relay has one, is shunned, or there is no room.
    fn enter(&self, place: Place, stood: bool) -> Option<Held> {
        let introduction = IntroductionId(self.identity().introduction(&place).public().0);
        let mut table = self.table();
        if table.entry(&place.relay).is_some() || table.is_shunned(&place.relay) {
            return None;
        }
        if table.entries.len() >= self.points + SPARE {
            // Who is missed for longest makes room.
            let down = table.entries.iter().filter(|entry| entry.stood.is_some());
            let longest = down.filter_map(|entry| Some((entry.down?, entry.place.relay)));
            let (_, relay) = longest.min()?;
            table.remove(&relay);
        }
        let (holder, held) = oneshot::channel();
        let number = table.stood;
        table.stood += u64::from(stood);
        table.entries.push(Entry {
            place,
            introduction,
            down: Some(Instant::now()),
            stood: stood.then_some(number),
            _holder: holder,
        });
        Some(held)
    }

    /// How many relays are to be looked for; they count as looked for from now on.
    fn missing(&self) -> usize {
        let mut table = self.table();
        table.trim(self.points);
        let missing = self.points.saturating_sub(table.usable() + table.searching);
        table.searching += missing;
        missing
    }

    /// Stores what is new, then says it.
    async fn tell(&self) {
        let (stood, named) = {
            let table = self.table();
            let stood = table.stood();
            let ever = self.contact.borrow().is_some() || stood.iter().any(|e| e.down.is_none());
            let named = stood.iter().filter(|entry| entry.stood_within(NAMED));
            let points = named.map(|entry| Point {
                relay: entry.place.relay,
                introduction: entry.introduction,
            });
            let points: Vec<_> = points.take(MAX_POINTS).collect();
            let places: Vec<_> = stood.iter().map(|entry| entry.place).collect();
            (places, ever.then_some(points))
        };
        let writing = self.identity().stands_at(stood);
        if let Some(writing) = writing {
            let written = tokio::task::spawn_blocking(move || writing.write()).await;
            if let Ok(Err(error)) = written {
                self.identity().was_not_written();
                warn!(%error, "where the hidden seed stands is not stored: after a restart its link may lead nowhere");
            }
        }
        let contact = named.and_then(|points| Contact::new(self.key.0, points).ok());
        let contact = contact.map(|contact| contact.closed(self.closed));
        self.contact.send_if_modified(|told| {
            let new = *told != contact;
            *told = contact;
            new
        });
    }

    /// Waits until this attempt is far enough from the seed's last one of its kind, and it is its turn among those of all seeds. One after
    /// the other, so that who waited for the turn of all does not begin in one moment with the next of its own seed.
    async fn turn(&self, kind: &Turn) -> Attempt<'_> {
        // It is never closed.
        let permit = self.attempts.acquire().await.ok();
        let mut next = kind.lock().await;
        if let Some(at) = *next {
            sleep_until(at).await;
        }
        let start = self.starts.turn().await;
        *next = Some(Instant::now() + rand::rng().random_range(APART));
        Attempt {
            _permit: permit,
            _start: start,
        }
    }

    /// Looks for a relay, and stays there for as long as it goes well.
    async fn fill(&self) {
        let mut wait = FIRST_WAIT;
        loop {
            {
                let mut table = self.table();
                if table.usable() >= self.points {
                    table.searching = table.searching.saturating_sub(1);
                    return;
                }
            }
            if let Some((place, held)) = self.find().await {
                match self.stay(place, held).await {
                    Left::Never => {}
                    Left::Over => return,
                }
            }
            sleep(jittered(wait)).await;
            wait = LONGEST_WAIT.min(wait * 2);
        }
    }

    /// Finds a relay that takes meetings and is none of ours, nor of the operators of those, so that none of them has all points of a seed
    /// in its hand. It is asked for a meeting that nobody comes to: no key of ours is
    /// shown to a relay that then is not taken.
    async fn find(&self) -> Option<(Place, Held)> {
        let attempt = self.turn(&self.searches).await;
        let cookie = Cookie::generate(&mut rand::rng());
        let but = {
            let table = self.table();
            let now = Instant::now();
            let entries = table.entries.iter().map(|entry| entry.place.relay);
            let shunned = table.shunned.iter().filter(|(_, until)| *until > now);
            entries.chain(shunned.map(|(relay, _)| *relay)).collect()
        };
        let relay = {
            let isolation = isolation("hidden search", &cookie);
            let meet = Meet::Wait(&cookie);
            let asked = self.outside.meet(At::Any { but }, meet, isolation);
            let met = timeout(ATTEMPT_LIMIT, asked).await.ok()?;
            met.inspect_err(|error| debug!(%error, "no relay for an introduction point"))
                .ok()?
                .relay
        };
        drop(attempt);
        if self.table().entry(&relay).is_some() {
            return None;
        }
        let generation = self.identity().next_generation();
        let place = Place { relay, generation };
        Some((place, self.enter(place, false)?))
    }

    /// Stands at a relay until it is left.
    async fn stay(&self, place: Place, held: Held) -> Left {
        let left = tokio::select! {
            biased;
            // Let go: the entry is gone already.
            _ = held => return Left::Over,
            left = self.hold(place) => left,
        };
        self.table().remove(&place.relay);
        self.changed.notify_one();
        left
    }

    async fn hold(&self, mut place: Place) -> Left {
        let relay = place.relay;
        let (mut wait, mut missed) = (FIRST_WAIT, Duration::ZERO);
        loop {
            let attempt = self.turn(&self.points_taken).await;
            // That others were before us is not held against the relay.
            let begun = Instant::now();
            match self.stand(&place, attempt).await {
                Ok(mut standing) => {
                    self.stands(&relay);
                    let since = Instant::now();
                    let why = standing.lost().await;
                    drop(standing);
                    let steady = since.elapsed() >= STEADY;
                    if steady {
                        (wait, missed) = (FIRST_WAIT, Duration::ZERO);
                    }
                    match why {
                        Lost::Broken => {
                            self.table().shun(relay, BROKEN_FOR);
                            return Left::Over;
                        }
                        Lost::UsedUp => {
                            self.renew(&mut place);
                            continue;
                        }
                        Lost::Ended => {
                            self.is_down(&relay);
                            if steady {
                                continue;
                            }
                        }
                    }
                }
                Err(error) => {
                    debug!(%error, "an introduction point is not taken up");
                    let refused = matches!(error, RouteError::Refused | RouteError::Forbidden(_));
                    let never = self.table().entry(&relay).is_none_or(|e| e.stood.is_none());
                    if refused || (never && error == RouteError::Busy) {
                        self.table().shun(relay, REFUSED_FOR);
                    }
                    if never {
                        return Left::Never;
                    }
                    if refused {
                        return Left::Over;
                    }
                }
            }
            sleep(jittered(wait)).await;
            wait = LONGEST_WAIT.min(wait * 2);
            // While none stands it is us who are cut off, and not the relay.
            if self.others_stand(&relay) {
                missed += begun.elapsed();
            }
            if missed >= GIVE_UP_AFTER {
                return Left::Over;
            }
        }
    }

    /// Takes up an introduction point.
    async fn stand(&self, place: &Place, _attempt: Attempt<'_>) -> Result<Standing, RouteError> {
        let keys = {
            let identity = self.identity();
            Keys {
                introduction: identity.introduction(place),
                secret: identity.secret().clone(),
                swarm: self.swarm.clone(),
            }
        };
        let at = At::Relay {
            id: place.relay,
            digest: None,
        };
        let standing = timeout(ATTEMPT_LIMIT, self.reception.stand(at, keys)).await;
        standing.unwrap_or(Err(RouteError::TimedOut))
    }

    fn stands(&self, relay: &RelayId) {
        let mut table = self.table();
        let number = table.stood;
        if let Some(entry) = table.entry(relay) {
            entry.down = None;
            if entry.stood.is_none() {
                entry.stood = Some(number);
                table.stood += 1;
                table.searching = table.searching.saturating_sub(1);
            }
        }
        drop(table);
        self.changed.notify_one();
    }

    fn is_down(&self, relay: &RelayId) {
        if let Some(entry) = self.table().entry(relay) {
            entry.down = Some(Instant::now());
        }
        self.changed.notify_one();
    }

    /// Takes the next key at the same relay: the one that it had is no longer told.
    fn renew(&self, place: &mut Place) {
        let introduction = {
            let mut identity = self.identity();
            place.generation = identity.next_generation();
            IntroductionId(identity.introduction(place).public().0)
        };
        if let Some(entry) = self.table().entry(&place.relay) {
            entry.place = *place;
            entry.introduction = introduction;
            entry.down = Some(Instant::now());
        }
        self.changed.notify_one();
    }

    fn others_stand(&self, relay: &RelayId) -> bool {
        let other = |entry: &Entry| entry.place.relay != *relay && entry.down.is_none();
        self.table().entries.iter().any(other)
    }
}

/// Up to half as long again, so that nobody recognises the rhythm.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(1.0..1.5))
}
