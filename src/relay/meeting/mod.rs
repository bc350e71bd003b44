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
use hushswarm_circuits::rendezvous::{Cookie, IntroductionId, Status};
use tokio::sync::{mpsc, oneshot};

use crate::config::MeetingLimits;
use limits::Keeper;
use splice::Joiner;

/// A request is whole within this time: it is a single cell.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);
/// Who waits is joined within this time, or a new cookie is needed (PROTOCOL.md §8.2).
pub(super) const COOKIE_LIFE: Duration = Duration::from_secs(60);
/// Introductions that wait for a seed which does not read: 32 KiB. With more the relay says that they are too many.
const MAX_WAITING: usize = 16;

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
    messages: mpsc::Sender<Vec<u8>>,
    rate: DefaultDirectRateLimiter,
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
    fn register(self: &Arc<Self>, key: IntroductionId) -> (Registered, mpsc::Receiver<Vec<u8>>) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (messages, receiver) = mpsc::channel(MAX_WAITING);
        let point = Point {
            number,
            messages,
            rate: RateLimiter::direct(Quota::per_second(self.per_key)),
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

    /// Hands a message to whoever holds the key. For a quiet key it says that it did, whether or not it could.
    fn introduce(&self, key: &IntroductionId, message: Vec<u8>) -> Status {
        let status = self.hand_on(key, message);
        if key.is_quiet() { Status::Done } else { status }
    }

    fn hand_on(&self, key: &IntroductionId, message: Vec<u8>) -> Status {
        let points = lock(&self.points);
        let Some(point) = points.get(key) else {
            return Status::Unknown;
        };
        let in_rate = point.rate.check().is_ok();
        let status = if !in_rate {
            Status::Limit
        } else {
            match point.messages.try_send(message) {
                Ok(()) => Status::Done,
                Err(mpsc::error::TrySendError::Full(_)) => Status::Limit,
                Err(mpsc::error::TrySendError::Closed(_)) => Status::Unknown,
            }
        };
        drop(points);
        match status {
            Status::Done => {
                self.introduced.fetch_add(1, Ordering::Relaxed);
            }
            Status::Limit => self.keeper.note_refused(),
            Status::Unknown | Status::Refused | Status::Expired => {}
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
