//! Memory for blocks that are not on disk yet, shared by all torrents of a process.
//!
//! A torrent waits when everything is used, or its own share: an equal part for each torrent that uses any, and never all of it,
//! so that one whose disk hangs does not stop the others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Notify;

use super::{SEGMENT, Storage, lock};

/// The usual limit, bytes.
pub const DEFAULT_BUDGET: usize = 32 << 20;

/// The least limit, bytes: below this, peers would wait for each other's segments.
const LEAST: usize = 4 * SEGMENT as usize;

/// One part of so many is never given to one torrent alone.
const KEPT: usize = 4;

/// The memory of several torrents.
pub struct WriteBudget {
    limit: usize,
    used: AtomicUsize,
    /// Torrents that use any.
    users: AtomicUsize,
    /// Some was given back.
    room: Notify,
    torrents: Mutex<Vec<Weak<Storage>>>,
    /// Buffers of one segment for later; with what is used, they stay below the limit.
    pool: Mutex<Vec<Vec<u8>>>,
}

impl std::fmt::Debug for WriteBudget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteBudget")
            .field("limit", &self.limit)
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

impl WriteBudget {
    /// Memory of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.max(LEAST),
            used: AtomicUsize::new(0),
            users: AtomicUsize::new(0),
            room: Notify::new(),
            torrents: Mutex::default(),
            pool: Mutex::default(),
        })
    }

    /// Bytes in use, of all torrents.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Counts in a torrent that may be asked to write what it gathers.
    pub(super) fn join(&self, storage: &Arc<Storage>) {
        let mut torrents = lock(&self.torrents);
        torrents.retain(|torrent| torrent.strong_count() > 0);
        torrents.push(Arc::downgrade(storage));
    }

    /// Has every torrent write what it gathers, complete or not: memory that waits for a slow peer helps nobody.
    fn write_gathered(&self) {
        let torrents: Vec<_> = lock(&self.torrents).iter().map(Weak::upgrade).collect();
        for storage in torrents.into_iter().flatten() {
            storage.write_gathered();
        }
    }
}

/// What one torrent uses of it.
pub(super) struct Share {
    budget: Arc<WriteBudget>,
    used: AtomicUsize,
}

impl Share {
    pub(super) fn new(budget: Arc<WriteBudget>) -> Self {
        let used = AtomicUsize::new(0);
        Self { budget, used }
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Takes memory, beyond the limit too: what was read from a peer is kept.
    fn take(&self, bytes: usize) {
        if self.used.fetch_add(bytes, Ordering::AcqRel) == 0 {
            self.budget.users.fetch_add(1, Ordering::AcqRel);
        }
        self.budget.used.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Gives it back.
    fn give_back(&self, bytes: usize) {
        self.budget.used.fetch_sub(bytes, Ordering::AcqRel);
        if self.used.fetch_sub(bytes, Ordering::AcqRel) == bytes {
            self.budget.users.fetch_sub(1, Ordering::AcqRel);
        }
        self.budget.room.notify_waiters();
    }

    /// Tells whether more may be read from peers.
    pub(super) fn has_room(&self) -> bool {
        let own = self.used.load(Ordering::Acquire);
        self.budget.used() < self.budget.limit && own < self.most(own)
    }

    /// Tells whether memory is short, so that nothing should be kept that is not needed.
    pub(super) fn is_short(&self) -> bool {
        let own = self.used.load(Ordering::Acquire);
        self.budget.used() > self.budget.limit / 2 || own > self.most(own) / 2
    }

    /// Takes memory for a segment.
    pub(super) fn buffer(&self, len: usize) -> Vec<u8> {
        self.take(len);
        let kept = if len == SEGMENT as usize {
            lock(&self.budget.pool).pop()
        } else {
            None
        };
        kept.unwrap_or_else(|| vec![0; len])
    }

    /// Gives a segment's memory back.
    pub(super) fn recycle(&self, buffer: Vec<u8>) {
        let len = buffer.len();
        let mut pool = lock(&self.budget.pool);
        let all = pool.len() * SEGMENT as usize + self.budget.used();
        if len == SEGMENT as usize && all <= self.budget.limit {
            pool.push(buffer);
        }
        drop(pool);
        self.give_back(len);
    }

    /// What this torrent may use while so many do.
    fn most(&self, own: usize) -> usize {
        let limit = self.budget.limit;
        let users = self.budget.users.load(Ordering::Acquire) + usize::from(own == 0);
        match users {
            0 | 1 => limit - limit / KEPT,
            more => (limit / more).max(1),
        }
    }

    /// Waits until there is room.
    pub(super) async fn ready(&self) {
        while !self.has_room() {
            let mut room = std::pin::pin!(self.budget.room.notified());
            room.as_mut().enable();
            self.budget.write_gathered();
            if !self.has_room() {
                room.await;
            }
        }
    }
}

/// What a torrent that is gone held is free again.
impl Drop for Share {
    fn drop(&mut self) {
        let left = *self.used.get_mut();
        if left > 0 {
            self.give_back(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_equal_never_all_of_it_and_given_back() {
        let budget = WriteBudget::new(1 << 30);
        let part = 1 << 20;
        let [a, b, c] = [(); 3].map(|()| Share::new(Arc::clone(&budget)));
        while a.has_room() {
            a.take(part);
        }
        assert_eq!(a.used(), (1 << 30) / 4 * 3, "a part is kept for others");
        assert!(b.has_room() && c.has_room());
        while b.has_room() {
            b.take(part);
        }
        assert_eq!(budget.used(), 1 << 30);
        assert!(!c.has_room(), "all of it is used");
        // As the first gives back, which it must as it writes, those with less come first.
        a.give_back(200 * part);
        assert!(!a.has_room(), "more than its half");
        assert!(b.has_room() && c.has_room());
        c.take(part);
        a.give_back(a.used() - 342 * part);
        assert!(!a.has_room(), "more than its third");
        a.give_back(part);
        assert!(a.has_room());
        drop((a, b));
        assert_eq!(budget.used(), part);
        c.give_back(part);
        assert_eq!(budget.used(), 0);
        assert_eq!(budget.users.load(Ordering::Acquire), 0);
    }
}
