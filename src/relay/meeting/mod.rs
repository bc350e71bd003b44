//! Introduction points and rendezvous points (PROTOCOL.md §8): a seed waits here for introductions, and visitors and
//! seeds meet here. Nothing leaves the relay, and nothing that is passed on is read.

mod end;
pub(super) mod introduction;
mod limits;
pub(super) mod rendezvous;
mod splice;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hushswarm_circuits::rendezvous::{Cookie, Handed, IntroductionId, Proof, Puzzle, Status};
use tokio::sync::{mpsc, oneshot};

use crate::config::MeetingLimits;
use limits::Keeper;
use splice::Joiner;

/// A request is whole within this time: it is a single cell.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);
/// Who waits is joined within this time, or a new cookie is needed (PROTOCOL.md §8.2).
pub(super) const COOKIE_LIFE: Duration = Duration::from_secs(60);
/// A visitor who is asked for work does it within this time (PROTOCOL.md §8.8): a cookie waits no longer than [`COOKIE_LIFE`].
const WORK_LIMIT: Duration = Duration::from_secs(45);
/// Introductions that wait for a seed which does not read: 32 KiB. With more the relay says that they are too many.
const MAX_WAITING: usize = 16;
/// Work that is checked for one key, for each introduction that is handed on for it: some of it does not fit, and who sends such loses a
/// circuit each time.
const CHECKS: NonZeroU32 = NonZeroU32::new(4).unwrap();

/// What a relay can tell of its meetings: counts, never keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeetingCounters {
    /// Introduction points that stand.
    pub points: usize,
    /// Who waits at a rendezvous.
    pub waiting: usize,
    /// Pairs who have met, and whose streams are open.
    pub joined: usize,
    /// Introductions that were handed on since the start.
    pub introduced: usize,
    /// Requests and introductions that were refused by a limit since the start.
    pub refused: usize,
}

struct Point {
    number: u64,
    messages: mpsc::Sender<Message>,
    /// Messages that are handed on.
    rate: DefaultDirectRateLimiter,
    /// Work that is checked.
    checks: DefaultDirectRateLimiter,
    /// What its holder asks of visitors.
    puzzle: Puzzle,
    /// Messages that were turned away since the last one that was handed on.
    refused: u16,
}

impl Point {
    /// One was turned away.
    fn refuse(&mut self) -> Status {
        self.refused = self.refused.saturating_add(1);
        Status::Limit
    }

    /// Hands on what is within the rates.
    fn hand_on(&mut self, message: Message) -> Status {
        match self.messages.try_send(message) {
            Ok(()) => {
                self.refused = 0;
                Status::Done
            }
            Err(mpsc::error::TrySendError::Full(_)) => self.refuse(),
            Err(mpsc::error::TrySendError::Closed(_)) => Status::Unknown,
        }
    }
}

/// What is asked of a visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    puzzle: Puzzle,
    /// Of the point that asks. Who holds the key may be another by the time that the work is done, or the same who has begun anew: then
    /// nobody knows the puzzle.
    point: u64,
}

/// A message on its way to the seed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    refused: u16,
    proof: Proof,
    bytes: Vec<u8>,
}

impl Message {
    fn handed(&self) -> Handed<'_> {
        Handed {
            refused: self.refused,
            proof: self.proof,
            message: &self.bytes,
        }
    }
}

/// What a relay knows of who waits here.
pub(super) struct Meetings {
    keeper: Keeper,
    points: Mutex<HashMap<IntroductionId, Point>>,
    waiting: Mutex<HashMap<Cookie, oneshot::Sender<Joiner>>>,
    numbers: AtomicU64,
    joined: AtomicUsize,
    introduced: AtomicUsize,
    per_key: NonZeroU32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Meetings {
    pub(super) fn new(limits: MeetingLimits) -> Self {
        Self {
            keeper: Keeper::new(limits),
            points: Mutex::default(),
            waiting: Mutex::default(),
            numbers: AtomicU64::new(0),
            joined: AtomicUsize::new(0),
            introduced: AtomicUsize::new(0),
            per_key: limits.introductions_per_second_per_key,
        }
    }

    pub(super) fn counters(&self) -> MeetingCounters {
        MeetingCounters {
            points: lock(&self.points).len(),
            waiting: lock(&self.waiting).len(),
            joined: self.joined.load(Ordering::Relaxed),
            introduced: self.introduced.load(Ordering::Relaxed),
            refused: self.keeper.refused(),
        }
    }

    /// Forgets who has not been seen for a while. Call it every minute or so.
    pub(super) fn tidy(&self) {
        self.keeper.tidy();
    }

    /// Registers a key whose holder has asked for it. Who had registered it before hears no more.
    fn register(self: &Arc<Self>, key: IntroductionId) -> (Registered, mpsc::Receiver<Message>) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (messages, receiver) = mpsc::channel(MAX_WAITING);
        let point = Point {
            number,
            messages,
            rate: RateLimiter::direct(Quota::per_second(self.per_key)),
            checks: RateLimiter::direct(Quota::per_second(self.per_key.saturating_mul(CHECKS))),
            puzzle: Puzzle::NONE,
            refused: 0,
        };
        lock(&self.points).insert(key, point);
        let meetings = Arc::clone(self);
        let registered = Registered {
            meetings,
            key,
            number,
        };
        (registered, receiver)
    }

    /// What is asked for before a message to this key is handed on. Of quiet keys it tells nothing: nothing is.
    fn asks(&self, key: &IntroductionId) -> Option<Asked> {
        let points = lock(&self.points);
        let point = points.get(key)?;
        let asked = Asked {
            puzzle: point.puzzle,
            point: point.number,
        };
        (asked.puzzle.effort() > 0 && !key.is_quiet()).then_some(asked)
    }

    /// Hands a message that nothing was asked for to whoever holds the key. For a quiet key it says that it did, whether or not it could.
    fn introduce(&self, key: &IntroductionId, bytes: Vec<u8>) -> Status {
        if key.is_quiet() {
            // Before it is known whether somebody stands there.
            let allowed = self.keeper.quiet();
            self.try_hand_on(key, None, Proof::NONE, bytes, |_| allowed);
            return Status::Done;
        }
        self.try_hand_on(key, None, Proof::NONE, bytes, Keeper::unasked)
    }

    /// Whether what a visitor did may be checked now; if not, what it is told.
    fn check(&self, key: &IntroductionId, asked: &Asked) -> Result<(), Status> {
        let mut points = lock(&self.points);
        let point = points.get_mut(key);
        let point = point.filter(|point| point.number == asked.point);
        let point = point.ok_or(Status::Unknown)?;
        if point.checks.check().is_ok() && self.keeper.check() {
            return Ok(());
        }
        self.keeper.note_refused();
        Err(point.refuse())
    }

    /// Hands a message on with work that was checked, to who asked for it.
    fn introduce_worked(
        &self,
        key: &IntroductionId,
        asked: &Asked,
        proof: Proof,
        bytes: Vec<u8>,
    ) -> Status {
        self.try_hand_on(key, Some(asked.point), proof, bytes, |_| true)
    }

    /// Hands a message on to who holds the key, if that is the point with this number, its own rate allows it, and then the share of all.
    fn try_hand_on(
        &self,
        key: &IntroductionId,
        number: Option<u64>,
        proof: Proof,
        bytes: Vec<u8>,
        share: impl FnOnce(&Keeper) -> bool,
    ) -> Status {
        let mut points = lock(&self.points);
        let point = points.get_mut(key);
        let Some(point) = point.filter(|point| number.is_none_or(|n| n == point.number)) else {
            return Status::Unknown;
        };
        let status = if point.rate.check().is_ok() && share(&self.keeper) {
            let refused = point.refused;
            point.hand_on(Message {
                refused,
                proof,
                bytes,
            })
        } else {
            point.refuse()
        };
        drop(points);
        match status {
            Status::Done => {
                self.introduced.fetch_add(1, Ordering::Relaxed);
            }
            Status::Limit => self.keeper.note_refused(),
            Status::Unknown | Status::Refused | Status::Expired | Status::Work => {}
        }
        status
    }

    /// Begins to wait with a cookie; `None` where somebody does already.
    fn wait(self: &Arc<Self>, cookie: Cookie) -> Option<Waiting> {
        use std::collections::hash_map::Entry;
        let (sender, joined) = oneshot::channel();
        match lock(&self.waiting).entry(cookie) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(entry) => entry.insert(sender),
        };
        Some(Waiting {
            meetings: Arc::clone(self),
            cookie,
            joined,
        })
    }

    /// Takes the way to who waits with a cookie. It is used up by that.
    fn take(&self, cookie: &Cookie) -> Option<oneshot::Sender<Joiner>> {
        lock(&self.waiting).remove(cookie)
    }
}

/// A key that is registered, until this is dropped.
struct Registered {
    meetings: Arc<Meetings>,
    key: IntroductionId,
    number: u64,
}

impl Registered {
    /// Its holder asks for this from now on.
    fn ask(&self, puzzle: Puzzle) {
        let mut points = lock(&self.meetings.points);
        // Another may have it by now.
        let own = points.get_mut(&self.key);
        if let Some(point) = own.filter(|point| point.number == self.number) {
            point.puzzle = puzzle;
            // Who was turned away before tells nothing of whether this helps.
            point.refused = 0;
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut points = lock(&self.meetings.points);
        // Another may have it by now.
        if points
            .get(&self.key)
            .is_some_and(|point| point.number == self.number)
        {
            points.remove(&self.key);
        }
        if points.is_empty() {
            points.shrink_to_fit();
        }
    }
}

/// A cookie that waits, until this is dropped or somebody has joined.
struct Waiting {
    meetings: Arc<Meetings>,
    cookie: Cookie,
    joined: oneshot::Receiver<Joiner>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Closed first: where the sender has been taken, the cookie may be somebody else's by now.
        self.joined.close();
        let mut waiting = lock(&self.meetings.waiting);
        if waiting
            .get(&self.cookie)
            .is_some_and(oneshot::Sender::is_closed)
        {
            waiting.remove(&self.cookie);
        }
        if waiting.is_empty() {
            waiting.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests;
