//! A hidden seed's side: introduction points that it stands at, and the visitors who come through them.
//!
//! Introductions come from strangers. What is over the rate, can't be read, came before or finds the queue full is
//! dropped and counted, and nobody is told; only what opened costs a circuit, and of these a bounded number is built at once. Where too many come,
//! the introduction point is told to ask for work first ([`Toll`]), and what comes without is dropped before anything else is done with it.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::keys::{DhSecret, IdentityKey, RelayId};
use hushswarm_circuits::rendezvous::message::{Dropped, Guests, Introduced};
use hushswarm_circuits::rendezvous::wire::MessageReader;
use hushswarm_circuits::rendezvous::{
    Handed, IntroductionId, Introductions, Proof, Puzzle, SwarmKey, Toll, Verdict,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::isolation;
use super::stream::{Sealed, Side};
use crate::route::{At, BoxStream, Meet, Outside, RouteError};

/// Bytes read at once from an introduction point: a cell.
const READ: usize = 4096;
/// Introductions beyond its rate within [`FLOOD_TIME`] after which an introduction point is given up: it floods. Relays hand on ten a
/// second for one key, unless they are told otherwise.
pub(super) const FLOOD: usize = 1000;
const FLOOD_TIME: Duration = Duration::from_secs(60);
/// An introduction point takes what it is told within this time: it is a single cell.
const TELL_LIMIT: Duration = Duration::from_secs(30);
/// A visitor is met within this time, or not: who names relays that stall keeps others waiting no longer.
const JOIN_LIMIT: Duration = Duration::from_secs(20);
/// Visitors that are met at one relay at once. Who names a relay that stalls keeps those who named others waiting no longer.
const MET_AT_ONE_RELAY: usize = 2;
/// Who has waited for so long is not met any more: its cookie is good for a minute, and to join takes some seconds.
const WAIT_LIMIT: Duration = Duration::from_secs(40);

/// Introduction keys whose introductions are remembered after their point is lost, so that a point that ends and comes back can't
/// say them again: more than a seed has points. Each holds 512 KiB of marks at the most.
const MAX_REMEMBERED: usize = 16;

/// The clock that all other waiting here goes by, so that rates hold in virtual time too.
#[derive(Clone, Debug)]
struct Elapsed(Instant);

impl Clock for Elapsed {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

type Rate = RateLimiter<NotKeyed, InMemoryState, Elapsed, NoOpMiddleware<Duration>>;

fn rate(per_second: NonZeroU32) -> Rate {
    let quota = Quota::per_second(per_second);
    RateLimiter::direct_with_clock(quota, Elapsed(Instant::now()))
}

/// What a seed takes on, for all its introduction points together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Introductions per second that are looked at: each costs two multiplications on a curve, about 0.1 ms.
    pub introductions_per_second: NonZeroU32,
    /// The same, for one introduction point, so that one that floods leaves room for the others.
    pub introductions_per_second_per_point: NonZeroU32,
    /// Visitors that wait to be met.
    pub waiting: usize,
    /// Visitors met at once: each is a circuit that is built.
    pub at_once: usize,
    /// Streams of visitors that nobody has taken yet.
    pub untaken: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let limit = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Self {
            introductions_per_second: limit(50),
            introductions_per_second_per_point: limit(20),
            waiting: 64,
            at_once: 8,
            untaken: 16,
        }
    }
}

/// The keys of a seed at one introduction point.
pub struct Keys {
    /// Of this point alone.
    pub introduction: IdentityKey,
    /// The seed's, of this swarm alone.
    pub secret: DhSecret,
    /// The swarm's.
    pub swarm: SwarmKey,
}

/// How it went so far: counts alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Introductions that opened, and had room.
    pub taken: usize,
    /// Visitors that were met.
    pub met: usize,
    /// Visitors' streams that are open now: one who downloads may have several.
    pub open: usize,
    /// Introductions that could not be read, came before, or are from who is not let in.
    pub foreign: usize,
    /// Introductions that were dropped by a limit.
    pub refused: usize,
    /// The most work that visitors are asked for now, at any of the introduction points: tries on average; 0 while there is no need.
    pub effort: u32,
}

#[derive(Default)]
struct Counts {
    taken: AtomicUsize,
    met: AtomicUsize,
    open: Arc<AtomicUsize>,
    foreign: AtomicUsize,
    refused: AtomicUsize,
    /// What is asked for at each introduction point that stands.
    efforts: Mutex<Vec<Weak<AtomicU32>>>,
}

impl Counts {
    /// Where it stands what is asked for at an introduction point, as long as this is held.
    fn effort(&self) -> Arc<AtomicU32> {
        let effort = Arc::default();
        let mut efforts = lock(&self.efforts);
        efforts.retain(|held| held.strong_count() > 0);
        efforts.push(Arc::downgrade(&effort));
        effort
    }

    fn most_effort(&self) -> u32 {
        let efforts = lock(&self.efforts);
        let held = efforts.iter().filter_map(Weak::upgrade);
        held.map(|effort| effort.load(Ordering::Relaxed))
            .max()
            .unwrap_or(0)
    }
}

/// A visitor that waits to be met.
struct Visit {
    introduced: Introduced,
    since: Instant,
    /// What it came with, and who is told when it is not met.
    proof: Proof,
    turned_away: mpsc::Sender<Proof>,
    _room: OwnedSemaphorePermit,
}

struct Desk {
    outside: Arc<dyn Outside>,
    rate: Rate,
    per_point: NonZeroU32,
    /// Visitors that may wait.
    room: Arc<Semaphore>,
    most_waiting: usize,
    waiting: mpsc::Sender<Visit>,
    /// Who is let in; `None`: who knows the swarm.
    guests: Option<Guests>,
    /// What was opened for the keys that stood last, oldest first.
    remembered: Mutex<VecDeque<(IntroductionId, Arc<Mutex<Introductions>>)>>,
    counts: Counts,
}

/// Where visitors of a seed, or of several, come in. What was begun ends when this and all [`Standing`]s are dropped.
pub struct Reception {
    desk: Arc<Desk>,
    worker: AbortHandle,
}

impl Reception {
    /// Opens; streams of visitors come out of the receiver. Who does not take them has no new ones after a few.
    pub fn open(outside: Arc<dyn Outside>, limits: Limits) -> (Self, mpsc::Receiver<Sealed>) {
        Self::open_to(outside, limits, None)
    }

    /// The same to these guests alone; `None`: to all who know the swarm. Nothing is built or sent for anybody else.
    pub fn open_to(
        outside: Arc<dyn Outside>,
        limits: Limits,
        guests: Option<Guests>,
    ) -> (Self, mpsc::Receiver<Sealed>) {
        let most_waiting = limits.waiting.max(1);
        let (waiting, queue) = mpsc::channel(most_waiting);
        let (visitors, receiver) = mpsc::channel(limits.untaken.max(1));
        let desk = Arc::new(Desk {
            outside,
            rate: rate(limits.introductions_per_second),
            per_point: limits.introductions_per_second_per_point,
            room: Arc::new(Semaphore::new(most_waiting)),
            most_waiting,
            waiting,
            guests,
            remembered: Mutex::default(),
            counts: Counts::default(),
        });
        let at_once = limits.at_once.max(1);
        let worker = tokio::spawn(work(Arc::clone(&desk), queue, visitors, at_once));
        let reception = Self {
            desk,
            worker: worker.abort_handle(),
        };
        (reception, receiver)
    }

    /// How it went so far.
    pub fn counters(&self) -> Counters {
        let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let counts = &self.desk.counts;
        Counters {
            taken: read(&counts.taken),
            met: read(&counts.met),
            open: read(&counts.open),
            foreign: read(&counts.foreign),
            refused: read(&counts.refused),
            effort: counts.most_effort(),
        }
    }

    /// Takes up an introduction point at a relay. In a circuit of its own: who knows one of a seed's points can't tell that
    /// another is the same seed's.
    ///
    /// # Errors
    /// As [`Outside::meet`] says: another relay, or later.
    pub async fn stand(&self, at: At, keys: Keys) -> Result<Standing, RouteError> {
        let introduction = IntroductionId(keys.introduction.public().0);
        let isolation = Isolation::new("hidden introduction point", &introduction.0, 0);
        let meet = Meet::Introduction(&keys.introduction);
        let met = self.desk.outside.meet(at, meet, isolation).await?;
        // What came before does not come again because its point was lost meanwhile.
        let introductions = self.desk.introductions(introduction, keys);
        let (lost, is_lost) = watch::channel(None);
        let desk = Arc::clone(&self.desk);
        let task = tokio::spawn(async move {
            let why = desk.listen(met.stream, introduction, &introductions).await;
            debug!(?why, "an introduction point is lost");
            lost.send_replace(Some(why));
        });
        Ok(Standing {
            relay: met.relay,
            introduction,
            lost: is_lost,
            task: task.abort_handle(),
        })
    }
}

impl Drop for Reception {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

/// Why an introduction point is no more. Take another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The stream to it broke or ended.
    Ended,
    /// It broke the protocol, or floods us.
    Broken,
    /// So many introductions came that its key is used up.
    UsedUp,
}

/// An introduction point that stands, until this is dropped.
pub struct Standing {
    relay: RelayId,
    introduction: IntroductionId,
    lost: watch::Receiver<Option<Lost>>,
    task: AbortHandle,
}

impl Standing {
    /// The relay that it is at.
    pub fn relay(&self) -> RelayId {
        self.relay
    }

    /// Its key.
    pub fn introduction(&self) -> IntroductionId {
        self.introduction
    }

    /// Waits until it is lost.
    pub async fn lost(&mut self) -> Lost {
        match self.lost.wait_for(Option::is_some).await {
            Ok(why) => why.unwrap_or(Lost::Ended),
            Err(_) => Lost::Ended,
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Desk {
    /// What was opened for this key, in this process.
    fn introductions(&self, key: IntroductionId, keys: Keys) -> Arc<Mutex<Introductions>> {
        let mut remembered = lock(&self.remembered);
        if let Some((_, known)) = remembered.iter().find(|(known, _)| *known == key) {
            return Arc::clone(known);
        }
        if remembered.len() >= MAX_REMEMBERED {
            // Never one that stands.
            let gone = remembered
                .iter()
                .position(|(_, held)| Arc::strong_count(held) == 1);
            gone.and_then(|at| remembered.remove(at));
        }
        let mut fresh = Introductions::new(key, keys.secret, keys.swarm);
        if let Some(guests) = &self.guests {
            fresh = fresh.only(guests.clone());
        }
        let fresh = Arc::new(Mutex::new(fresh));
        remembered.push_back((key, Arc::clone(&fresh)));
        fresh
    }

    /// Takes introductions until the point is lost.
    async fn listen(
        &self,
        mut stream: BoxStream,
        key: IntroductionId,
        introductions: &Mutex<Introductions>,
    ) -> Lost {
        let (mut reader, mut buffer) = (MessageReader::default(), vec![0; READ]);
        let rate = rate(self.per_point);
        let (mut over, mut since) = (0, Instant::now());
        let mut toll = Toll::new(key, since.into_std());
        let effort = self.counts.effort();
        // Those who waited for too long: as many as wait at the most.
        let (turned_away, mut too_late) = mpsc::channel(self.most_waiting);
        loop {
            let due = toll.due();
            let due = async {
                match due {
                    Some(due) => sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            let came = tokio::select! {
                came = stream.read(&mut buffer) => came,
                // It does not end before this does.
                Some(proof) = too_late.recv() => {
                    toll.turn_away(Instant::now().into_std(), &proof);
                    continue;
                }
                () = due => {
                    let puzzle = toll.turn(Instant::now().into_std(), &mut rand::rng());
                    effort.store(toll.effort(), Ordering::Relaxed);
                    if let Some(puzzle) = puzzle
                        && let Err(why) = tell(&mut stream, &puzzle).await
                    {
                        return why;
                    }
                    continue;
                }
            };
            let came = match came {
                Ok(0) | Err(_) => return Lost::Ended,
                Ok(n) => n,
            };
            reader.push(&buffer[..came]);
            loop {
                let handed = match reader.next() {
                    Ok(Some(handed)) => handed,
                    Ok(None) => break,
                    Err(_) => return Lost::Broken,
                };
                if rate.check().is_err() {
                    self.counts.refused.fetch_add(1, Ordering::Relaxed);
                    toll.turn_away(Instant::now().into_std(), &handed.proof);
                    if since.elapsed() >= FLOOD_TIME {
                        (over, since) = (0, Instant::now());
                    }
                    over += 1;
                    if over > FLOOD {
                        return Lost::Broken;
                    }
                    continue;
                }
                if let Err(why) = self.take(introductions, &handed, &mut toll, &turned_away) {
                    return why;
                }
            }
        }
    }

    /// Takes a message that is within the rate of its point.
    fn take(
        &self,
        introductions: &Mutex<Introductions>,
        handed: &Handed<'_>,
        toll: &mut Toll,
        turned_away: &mpsc::Sender<Proof>,
    ) -> Result<(), Lost> {
        let count = |count: &AtomicUsize| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let now = Instant::now().into_std();
        match toll.judge(now, handed) {
            Verdict::Good => {}
            Verdict::Stale => {
                count(&self.counts.refused);
                return Ok(());
            }
            Verdict::Forged => {
                count(&self.counts.foreign);
                return Err(Lost::Broken);
            }
        }
        // After its own point has counted it: a flood of some other is no calm of this one.
        if self.rate.check().is_err() {
            count(&self.counts.refused);
            return Ok(());
        }
        // Before it is opened: what was opened and dropped then could not come again.
        let room = Arc::clone(&self.room).try_acquire_owned();
        let (Ok(room), Ok(place)) = (room, self.waiting.try_reserve()) else {
            count(&self.counts.refused);
            toll.turn_away(now, &handed.proof);
            return Ok(());
        };
        let opened = lock(introductions).open(handed.message, &mut rand::rng());
        match opened {
            Ok(introduced) => {
                count(&self.counts.taken);
                place.send(Visit {
                    introduced,
                    since: Instant::now(),
                    proof: handed.proof,
                    turned_away: turned_away.clone(),
                    _room: room,
                });
                Ok(())
            }
            Err(Dropped::Unreadable | Dropped::Stranger | Dropped::Replayed) => {
                count(&self.counts.foreign);
                Ok(())
            }
            Err(Dropped::UsedUp) => {
                count(&self.counts.refused);
                Err(Lost::UsedUp)
            }
            Err(_) => {
                count(&self.counts.refused);
                Ok(())
            }
        }
    }

    /// Meets a visitor where it waits; `None` where it can't be met, which it is not told.
    async fn meet(&self, introduced: Introduced) -> Option<Sealed> {
        let meeting = *introduced.meeting();
        let at = At::Relay {
            id: meeting.relay,
            digest: Some(meeting.digest),
        };
        let join = Meet::Join(&meeting.cookie);
        let isolation = isolation("hidden meeting", &meeting.cookie);
        let met = self.outside.meet(at, join, isolation).await;
        let mut stream = met
            .inspect_err(|error| debug!(%error, "a visitor was not met"))
            .ok()?
            .stream;
        let (answer, keys) = introduced.answer().ok()?;
        stream.write_all(&answer).await.ok()?;
        self.counts.met.fetch_add(1, Ordering::Relaxed);
        Some(Sealed::new(stream, keys, Side::Seed).counted(&self.counts.open))
    }
}

/// Tells an introduction point what to ask of visitors.
async fn tell(stream: &mut BoxStream, puzzle: &Puzzle) -> Result<(), Lost> {
    debug!(
        effort = puzzle.effort(),
        "an introduction point asks for work"
    );
    let telling = async {
        stream.write_all(&puzzle.encode()).await?;
        stream.flush().await
    };
    match timeout(TELL_LIMIT, telling).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Lost::Ended),
        Err(_) => Err(Lost::Broken),
    }
}

/// Meets those who wait, a few at once, and of these a few at one relay.
async fn work(
    desk: Arc<Desk>,
    mut queue: mpsc::Receiver<Visit>,
    visitors: mpsc::Sender<Sealed>,
    at_once: usize,
) {
    let mut meetings = JoinSet::new();
    let mut relays = HashMap::new();
    let mut waiting = Waiting::default();
    loop {
        for late in waiting.late() {
            desk.counts.refused.fetch_add(1, Ordering::Relaxed);
            // There is room, or its point is gone.
            let _ = late.turned_away.try_send(late.proof);
        }
        let next = (relays.len() < at_once)
            .then(|| waiting.next(&relays))
            .flatten();
        tokio::select! {
            came = queue.recv() => match came {
                Some(visit) => waiting.visits.push_back(visit),
                None => return,
            },
            Some(over) = meetings.join_next_with_id(), if !meetings.is_empty() => {
                let id = over.map_or_else(|error| error.id(), |(id, ())| id);
                relays.remove(&id);
                waiting.blocked = 0;
            }
            // No visitor is met whom nobody would take.
            place = visitors.clone().reserve_owned(), if next.is_some() => {
                let Ok(place) = place else { return };
                let Some(visit) = next.and_then(|next| waiting.visits.remove(next)) else {
                    continue;
                };
                let relay = visit.introduced.meeting().relay;
                let desk = Arc::clone(&desk);
                let meeting = meetings.spawn(async move {
                    let met = desk.meet(visit.introduced);
                    if let Ok(Some(stream)) = timeout(JOIN_LIMIT, met).await {
                        place.send(stream);
                    }
                });
                relays.insert(meeting.id(), relay);
            }
        }
    }
}

/// Visitors that wait, in the order in which they came.
#[derive(Default)]
struct Waiting {
    visits: VecDeque<Visit>,
    /// So many of the first are to be met at relays where others are met now.
    blocked: usize,
}

impl Waiting {
    /// Takes out those who have waited for too long.
    fn late(&mut self) -> Vec<Visit> {
        let is_late = |visit: &&Visit| visit.since.elapsed() >= WAIT_LIMIT;
        let late = self.visits.iter().take_while(is_late).count();
        self.blocked = self.blocked.saturating_sub(late);
        self.visits.drain(..late).collect()
    }

    /// Who is to be met next, while others are met at these relays.
    fn next(&mut self, relays: &HashMap<Id, RelayId>) -> Option<usize> {
        let may = |visit: &Visit| {
            let own = visit.introduced.meeting().relay;
            relays.values().filter(|relay| **relay == own).count() < MET_AT_ONE_RELAY
        };
        let next = self.visits.iter().skip(self.blocked).position(may);
        self.blocked = next.map_or(self.visits.len(), |next| self.blocked + next);
        next.map(|_| self.blocked)
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
