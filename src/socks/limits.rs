//! How many programs are served at once, so that one of them, or a web page, can't shut the others out.
//!
//! A connection first says what it wants; so far it is a *newcomer*. There is room for a fixed number of newcomers, and
//! when one more comes, the oldest has to go: an honest program says what it wants within milliseconds, so a flood of
//! connections that say nothing pushes out its own. Then it takes a *seat*, if one is free, and keeps it to its end.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// What a server takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections that are served at once: a BitTorrent client has some hundreds.
    pub connections: usize,
    /// Connections that have not said what they want.
    pub newcomers: usize,
    /// Connections of one address that is not this computer's, in each of the two.
    pub per_source: usize,
    /// UDP associations, each of which is a flow of its own at an exit.
    pub associations: usize,
    /// Time to say what is wanted.
    pub handshake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            newcomers: 512,
            per_source: 256,
            associations: 256,
            handshake: Duration::from_secs(15),
        }
    }
}

impl Limits {
    /// The same for a process that may have so many files open: below what that allows.
    #[must_use]
    pub fn for_files(mut self, files: u64) -> Self {
        /// For links to relays, listeners, logs and the runtime.
        const OTHERS: usize = 256;
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let left = files.saturating_sub(OTHERS).max(64);
        self.newcomers = self.newcomers.min(left / 8);
        self.associations = self.associations.min(left / 8);
        self.connections = self.connections.min(left / 2);
        self
    }
}

/// Whose connection it is, where that matters: everything on this computer counts as one, and is not limited as such.
fn source(from: Option<IpAddr>) -> Option<IpAddr> {
    from.map(|ip| ip.to_canonical())
        .filter(|ip| !ip.is_loopback())
}

#[derive(Default)]
struct Table {
    next: u64,
    newcomers: BTreeMap<u64, (Option<IpAddr>, Arc<Notify>)>,
    seats: usize,
    associations: usize,
    /// Seats of each source.
    sources: HashMap<IpAddr, usize>,
}

/// Counts everybody. Clones count together.
#[derive(Clone)]
pub struct Doorkeeper {
    limits: Arc<Limits>,
    table: Arc<Mutex<Table>>,
}

impl Doorkeeper {
    /// Begins to count.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits: Arc::new(limits),
            table: Arc::default(),
        }
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets somebody in, for whom the oldest newcomer may have to go: that of the same source where it has too many.
    pub fn enter(&self, from: Option<IpAddr>) -> Newcomer {
        let source = source(from);
        let mut table = self.lock();
        let number = table.next;
        table.next += 1;
        let leave = Arc::new(Notify::new());
        let of_source = |held: &Option<IpAddr>| source.is_some() && *held == source;
        let alike = table
            .newcomers
            .values()
            .filter(|(held, _)| of_source(held))
            .count();
        let oldest = if alike >= self.limits.per_source {
            let mut all = table.newcomers.iter();
            all.find(|(_, (held, _))| of_source(held))
                .map(|(number, _)| *number)
        } else if table.newcomers.len() >= self.limits.newcomers {
            table.newcomers.keys().next().copied()
        } else {
            None
        };
        if let Some((_, leave)) = oldest.and_then(|oldest| table.newcomers.remove(&oldest)) {
            leave.notify_one();
        }
        table.newcomers.insert(number, (source, Arc::clone(&leave)));
        Newcomer {
            door: self.clone(),
            number,
            leave,
        }
    }

    /// Makes room for one newcomer when there is no file left to open.
    pub fn make_room(&self) {
        if let Some((_, (_, leave))) = self.lock().newcomers.pop_first() {
            leave.notify_one();
        }
    }

    /// A seat, where one is free.
    pub fn seat(&self, from: Option<IpAddr>) -> Option<Seat> {
        let source = source(from);
        let mut table = self.lock();
        if table.seats >= self.limits.connections {
            return None;
        }
        if let Some(source) = source {
            let held = table.sources.entry(source).or_default();
            if *held >= self.limits.per_source {
                return None;
            }
            *held += 1;
        }
        table.seats += 1;
        Some(Seat {
            door: self.clone(),
            source,
        })
    }

    /// A place for a UDP association, where one is free.
    pub fn association(&self) -> Option<AssociationPlace> {
        let mut table = self.lock();
        if table.associations >= self.limits.associations {
            return None;
        }
        table.associations += 1;
        Some(AssociationPlace(self.clone()))
    }

    /// Newcomers, seats and associations taken now.
    pub fn counts(&self) -> (usize, usize, usize) {
        let table = self.lock();
        (table.newcomers.len(), table.seats, table.associations)
    }
}

/// Somebody who has not said what is wanted.
pub struct Newcomer {
    door: Doorkeeper,
    number: u64,
    leave: Arc<Notify>,
}

impl Newcomer {
    /// Waits until it has to go, for others who came.
    pub async fn must_leave(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.door.lock().newcomers.remove(&self.number);
    }
}

/// A connection that is served.
pub struct Seat {
    door: Doorkeeper,
    source: Option<IpAddr>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.door.lock();
        table.seats -= 1;
        if let Some(source) = self.source
            && let Some(held) = table.sources.get_mut(&source)
        {
            *held -= 1;
            if *held == 0 {
                table.sources.remove(&source);
            }
        }
    }
}

/// A UDP association that is served.
pub struct AssociationPlace(Doorkeeper);

impl Drop for AssociationPlace {
    fn drop(&mut self) {
        self.0.lock().associations -= 1;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn door() -> Doorkeeper {
        Doorkeeper::new(Limits {
            connections: 3,
            newcomers: 3,
            per_source: 2,
            associations: 1,
            handshake: Duration::from_secs(1),
        })
    }

    const HERE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    fn other(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([203, 0, 113, last]))
    }

    fn must_leave(newcomer: &Newcomer) -> bool {
        newcomer.must_leave().now_or_never().is_some()
    }

    #[test]
    fn the_oldest_newcomer_makes_room() {
        let door = door();
        let held: Vec<_> = (0..4).map(|_| door.enter(HERE)).collect();
        let leaving: Vec<_> = held.iter().map(must_leave).collect();
        assert_eq!(leaving, [true, false, false, false]);
        assert_eq!(door.counts().0, 3);
        drop(held);
        assert_eq!(door.counts().0, 0);
        let late = door.enter(None);
        door.make_room();
        assert!(must_leave(&late));
    }

    #[test]
    fn a_source_elsewhere_pushes_out_its_own() {
        let door = door();
        let held = [other(1), other(2), other(2), other(2)].map(|from| door.enter(from));
        let leaving = held.each_ref().map(must_leave);
        assert_eq!(leaving, [false, true, false, false]);
    }

    #[test]
    fn seats_are_bounded_in_all_and_for_a_source_elsewhere() {
        let door = door();
        let first = door.seat(other(1)).unwrap();
        let _second = door.seat(other(1)).unwrap();
        assert!(door.seat(other(1)).is_none());
        let mapped: IpAddr = "::ffff:203.0.113.1".parse().unwrap();
        assert!(door.seat(Some(mapped)).is_none());
        let _third = door.seat(HERE).unwrap();
        assert!(door.seat(None).is_none());
        drop(first);
        assert!(door.seat(other(1)).is_some());
        assert_eq!(door.counts(), (0, 2, 0));
    }

    #[test]
    fn associations_are_bounded() {
        let door = door();
        let held = door.association().unwrap();
        assert!(door.association().is_none());
        drop(held);
        assert!(door.association().is_some());
    }

    #[test]
    fn limits_stay_below_what_files_allow() {
        for files in [0, 256, 1024, 20_000, u64::MAX] {
            let limits = Limits::default().for_files(files);
            let used = limits.connections + limits.newcomers + limits.associations;
            assert!(used as u64 <= files.max(512), "{files}");
            assert!(limits.connections >= 32);
        }
    }
}
