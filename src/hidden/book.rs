//! Which hidden seeds are known, and where they are introduced: the address book of one program, in memory alone.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    contact: Contact,
}

/// An address book of hidden seeds. It never tells of one swarm's seeds in another.
#[derive(Default)]
pub struct Book {
    seeds: Mutex<HashMap<SeedKey, Entry>>,
}

impl Book {
    /// Notes a contact that the seed itself or the user's link gave: its points take the place of those known before. Gives the
    /// name by which [`super::HiddenRoute`] reaches the seed; `None` where the book is full, or the key is another swarm's.
    pub fn learn(&self, swarm: [u8; 20], contact: Contact) -> Option<Target> {
        self.note(swarm, contact, |_, new| new)
    }

    /// Notes a contact of which somebody told: points that were not known are tried after the others, so that who lies
    /// displaces none.
    pub fn hear(&self, swarm: [u8; 20], contact: Contact) -> Option<Target> {
        self.note(swarm, contact, |known, new| {
            let mut points: Vec<Point> = known.points().to_vec();
            for point in new.points() {
                let is_new = !points.iter().any(|p| p.introduction == point.introduction);
                if is_new && points.len() < MAX_POINTS {
                    points.push(*point);
                }
            }
            Contact::new(known.key, points).unwrap_or_else(|_| known.clone())
        })
    }

    fn note(
        &self,
        swarm: [u8; 20],
        contact: Contact,
        merge: impl FnOnce(&Contact, Contact) -> Contact,
    ) -> Option<Target> {
        let key = SeedKey(contact.key);
        let mut seeds = self.lock();
        let full = seeds.len() >= MAX_SEEDS;
        match seeds.get_mut(&key) {
            Some(entry) if entry.swarm != swarm => return None,
            Some(entry) => entry.contact = merge(&entry.contact, contact),
            None if full => return None,
            None => {
                seeds.insert(key, Entry { swarm, contact });
            }
        }
        target(&key)
    }

    /// Forgets a seed, for example one that is ours.
    pub fn forget(&self, key: &SeedKey) {
        self.lock().remove(key);
    }

    /// Where this seed is introduced, and to which swarm it belongs.
    pub fn find(&self, key: &SeedKey) -> Option<([u8; 20], Contact)> {
        let seeds = self.lock();
        let entry = seeds.get(key)?;
        Some((entry.swarm, entry.contact.clone()))
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
        assert_eq!(heard.points(), contact(9, 0..8).points());
        book.learn([1; 20], contact(9, 4..6));
        assert_eq!(book.find(&key).unwrap().1, contact(9, 4..6));
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
