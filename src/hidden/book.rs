//! Which hidden seeds are known, and where they are introduced: the address book of one program, in memory alone.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hushswarm_circuits::keys::DhSecret;
use hushswarm_circuits::rendezvous::contact::MAX_POINTS;
use hushswarm_circuits::rendezvous::{Contact, Point};
use hushswarm_circuits::target::{Host, HostName, Target};

use crate::hush::SeedKey;

/// Most seeds remembered, of all swarms: some hundred KiB. Swarms remember fewer each.
const MAX_SEEDS: usize = 4096;

/// Hidden seeds have no ports, but hosts have.
const PORT: u16 = 1;

struct Entry {
    swarm: [u8; 20],
    /// What the seed itself or the user's link says.
    contact: Option<Contact>,
    /// With what we visit it, where it lets in only some.
    guest: Option<DhSecret>,
    /// What others say, newest first.
    heard: Vec<Point>,
}

/// An address book of hidden seeds of one swarm, as a rule: a key that is another swarm's is not taken.
#[derive(Default)]
pub struct Book {
    seeds: Mutex<HashMap<SeedKey, Entry>>,
}

impl Book {
    /// Notes a contact that the seed itself or the user's link gave: its points take the place of those known before. Gives the
    /// name by which [`super::HiddenRoute`] reaches the seed; `None` where the book is full, or the key is another swarm's.
    pub fn learn(&self, swarm: [u8; 20], contact: Contact) -> Option<Target> {
        let key = SeedKey(contact.key);
        self.note(swarm, &key, |entry| {
            // Nobody's word opens a seed to those who can't show a key.
            let was = entry.contact.as_ref().is_some_and(Contact::is_closed);
            let closed = was || contact.is_closed();
            entry.contact = Some(contact.closed(closed));
        })
    }

    /// Notes a contact of which somebody told: its points are tried after those that the seed told itself, and push out only what
    /// others told before.
    pub fn hear(&self, swarm: [u8; 20], contact: Contact) -> Option<Target> {
        if contact.is_closed() {
            // Who is let in does not hear it from others.
            return None;
        }
        let key = SeedKey(contact.key);
        self.note(swarm, &key, |entry| {
            let new = contact.points().to_vec();
            let is_new = |old: &Point| !new.iter().any(|p| p.introduction == old.introduction);
            entry.heard.retain(is_new);
            entry.heard.splice(0..0, new);
            entry.heard.truncate(MAX_POINTS);
        })
    }

    fn note(
        &self,
        swarm: [u8; 20],
        key: &SeedKey,
        change: impl FnOnce(&mut Entry),
    ) -> Option<Target> {
        let mut seeds = self.lock();
        if seeds.len() >= MAX_SEEDS && !seeds.contains_key(key) {
            return None;
        }
        let entry = seeds.entry(*key).or_insert_with(|| Entry {
            swarm,
            contact: None,
            guest: None,
            heard: Vec::new(),
        });
        if entry.swarm != swarm {
            return None;
        }
        change(entry);
        target(key)
    }

    /// The points of this seed, its own words before others', how many are its own, and to which swarm it belongs.
    pub(super) fn points(&self, key: &SeedKey) -> Option<([u8; 20], Contact, usize)> {
        let seeds = self.lock();
        let entry = seeds.get(key)?;
        let own: &[Point] = entry.contact.as_ref().map_or(&[], Contact::points);
        let mut points = own.to_vec();
        for point in &entry.heard {
            if !own.iter().any(|p| p.introduction == point.introduction) {
                points.push(*point);
            }
        }
        points.truncate(MAX_POINTS);
        let closed = entry.contact.as_ref().is_some_and(Contact::is_closed);
        let contact = Contact::new(key.0, points).ok()?.closed(closed);
        Some((entry.swarm, contact, own.len()))
    }

    /// Notes our key for a seed that lets in only some.
    pub fn admit(&self, key: &SeedKey, own: DhSecret) {
        if let Some(entry) = self.lock().get_mut(key) {
            entry.guest = Some(own);
        }
    }

    /// With what we visit this seed, where it lets in only some.
    pub(super) fn guest(&self, key: &SeedKey) -> Option<DhSecret> {
        self.lock().get(key)?.guest.clone()
    }

    /// Where this seed is introduced, and to which swarm it belongs.
    pub fn find(&self, key: &SeedKey) -> Option<([u8; 20], Contact)> {
        let (swarm, contact, _) = self.points(key)?;
        Some((swarm, contact))
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Forgets a seed, for example one that is ours.
    pub fn forget(&self, key: &SeedKey) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SeedKey, Entry>> {
        self.seeds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Book").finish_non_exhaustive()
    }
}

/// The name by which a seed is called in this program.
pub fn target(key: &SeedKey) -> Option<Target> {
    let host = HostName::new(&key.host()).ok()?;
    Some(Target {
        host: Host::Name(host),
        port: PORT,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hushswarm_circuits::keys::RelayId;
    use hushswarm_circuits::rendezvous::IntroductionId;

    use super::*;

    fn contact(key: u8, points: std::ops::Range<u8>) -> Contact {
        let points = points.map(|n| Point {
            relay: RelayId([n; 32]),
            introduction: IntroductionId([n; 32]),
        });
        Contact::new([key; 32], points.collect()).unwrap()
    }

    #[test]
    fn who_lies_about_a_seed_displaces_none_of_its_points() {
        let book = Book::default();
        let key = SeedKey([9; 32]);
        let name = book.learn([1; 20], contact(9, 0..2)).unwrap();
        assert_eq!(target(&key), Some(name.clone()));
        assert_eq!(book.hear([1; 20], contact(9, 1..9)), Some(name));
        let (swarm, heard) = book.find(&key).unwrap();
        assert_eq!(swarm, [1; 20]);
        assert_eq!(heard.points()[..2], *contact(9, 0..2).points());
        assert_eq!(heard.points().len(), MAX_POINTS);
        // The newest word of others comes before older ones, and after the seed's own.
        book.hear([1; 20], contact(9, 20..22));
        let (_, heard, own) = book.points(&key).unwrap();
        assert_eq!(
            heard.points()[..4],
            [contact(9, 0..2).points(), contact(9, 20..22).points()].concat()
        );
        assert_eq!(own, 2);
        book.learn([1; 20], contact(9, 4..6));
        assert_eq!(
            book.find(&key).unwrap().1.points()[..2],
            *contact(9, 4..6).points()
        );
        book.forget(&key);
        assert!(book.find(&key).is_none());
    }

    #[test]
    fn a_seed_belongs_to_the_swarm_where_it_was_first() {
        let book = Book::default();
        book.learn([1; 20], contact(9, 0..2)).unwrap();
        assert_eq!(book.learn([2; 20], contact(9, 4..6)), None);
        assert_eq!(book.hear([2; 20], contact(9, 4..6)), None);
        assert_eq!(book.find(&SeedKey([9; 32])).unwrap().1, contact(9, 0..2));
    }

    #[test]
    fn nobodys_word_opens_a_closed_seed_and_nobody_tells_of_one() {
        let (book, key) = (Book::default(), SeedKey([9; 32]));
        assert_eq!(book.hear([1; 20], contact(9, 0..2).closed(true)), None);
        book.learn([1; 20], contact(9, 0..2).closed(true)).unwrap();
        assert!(book.guest(&key).is_none());
        let own = DhSecret::from_bytes([5; 32]);
        book.admit(&key, own.clone());
        book.learn([1; 20], contact(9, 4..6)).unwrap();
        book.hear([1; 20], contact(9, 6..8)).unwrap();
        let (_, known) = book.find(&key).unwrap();
        assert!(known.is_closed());
        assert_eq!(known.points().len(), 4);
        assert_eq!(book.guest(&key).unwrap().public(), own.public());
    }

    #[test]
    fn a_full_book_takes_no_more_and_keeps_what_it_has() {
        let book = Book::default();
        let of = |n: usize| {
            let mut one = contact(0, 0..1);
            one.key[..8].copy_from_slice(&(n as u64 + 1).to_be_bytes());
            one
        };
        for n in 0..MAX_SEEDS {
            assert!(book.learn([1; 20], of(n)).is_some());
        }
        assert_eq!(book.learn([1; 20], of(MAX_SEEDS)), None);
        assert!(book.learn([1; 20], of(0)).is_some());
    }
}
