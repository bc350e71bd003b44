//! What is said of hidden seeds: where they are introduced, by themselves and by others (docs/onion-gossip.md).

use std::collections::BTreeMap;

use hushswarm_circuits::rendezvous::contact::MAX_POINTS;
use hushswarm_circuits::rendezvous::{Contact, Point};
use tokio::time::Instant;

use super::Driver;
use crate::hush::SeedKey;
use crate::torrent::gossip::Concealed;
use crate::torrent::picker::PeerKey;

/// Most tellers believed about one seed that never answered: each has a share of the introduction points of a contact.
const MAX_TELLERS: usize = 4;

/// What was said of seeds that only others told of, by whom. No more are kept than the table of peers remembers.
#[derive(Default)]
pub(super) struct Rumours(BTreeMap<SeedKey, Vec<(PeerKey, Contact)>>);

impl Rumours {
    /// Notes one more; gives what is to be believed now: of what each teller said the first point, then the second, and so on.
    /// So who tells wrong points, and tells them first, leaves room for the right ones.
    fn add(&mut self, teller: PeerKey, contact: Contact) -> Option<Contact> {
        let key = contact.key;
        let told = self.0.entry(SeedKey(key)).or_default();
        if let Some((_, before)) = told.iter_mut().find(|(other, _)| *other == teller) {
            *before = contact;
        } else if told.len() < MAX_TELLERS {
            told.push((teller, contact));
        }
        let mut points: Vec<Point> = Vec::new();
        for at in 0..MAX_POINTS {
            for point in told.iter().filter_map(|(_, said)| said.points().get(at)) {
                let is_new = !points.iter().any(|p| p.introduction == point.introduction);
                if is_new && points.len() < MAX_POINTS {
                    points.push(*point);
                }
            }
        }
        Contact::new(key, points).ok()
    }
}

impl Driver {
    /// A seed that we dialled says where it is introduced by now.
    pub(super) fn learn_seed(&mut self, contact: Contact) {
        self.rumours.0.remove(&SeedKey(contact.key));
        if let Some(book) = &self.setup.seeds {
            book.learn(self.setup.hash, contact);
        }
    }

    /// Somebody tells of a seed, of this torrent, which is not private.
    pub(super) fn hear_seed(&mut self, teller: PeerKey, contact: Contact) {
        let key = SeedKey(contact.key);
        let (Some(book), Some(target)) =
            (self.setup.seeds.clone(), Concealed::Seed(key).to_target())
        else {
            return;
        };
        let hash = self.setup.hash;
        let now = Instant::now().into_std();
        let is_new = self.table.add_hearsay(now, target.clone(), Some(teller));
        if !is_new && !self.table.knows_host(&target.host) {
            // There is no room, or it lied.
            return;
        }
        // Whom the link names, and who said it himself, is known otherwise.
        let only_rumours = self.rumours.0.contains_key(&key) || book.contact(hash, &key).is_none();
        let noted = if only_rumours {
            let believed = self.rumours.add(teller, contact);
            believed.and_then(|contact| book.learn(hash, contact))
        } else {
            book.hear(hash, contact)
        };
        if noted.is_none() {
            self.rumours.0.remove(&key);
        }
        if noted.is_none() && is_new {
            // No room in the book, or a seed of another torrent, which must not see that we want this one too.
            self.table.withdraw(&target.host);
        }
    }

    /// Forgets what was said of seeds that the table has forgotten since.
    pub(super) fn forget_rumours(&mut self) {
        let (table, setup) = (&self.table, &self.setup);
        self.rumours.0.retain(|key, _| {
            let target = Concealed::Seed(*key).to_target();
            let known = target.is_some_and(|target| table.knows_host(&target.host));
            if let Some(book) = setup.seeds.as_ref().filter(|_| !known) {
                book.forget(setup.hash, key);
            }
            known
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hushswarm_circuits::keys::RelayId;
    use hushswarm_circuits::rendezvous::IntroductionId;

    use super::*;

    fn contact(points: std::ops::Range<u8>) -> Contact {
        let points = points.map(|n| Point {
            relay: RelayId([n; 32]),
            introduction: IntroductionId([n; 32]),
        });
        Contact::new([9; 32], points.collect()).unwrap()
    }

    #[test]
    fn each_teller_has_a_share_of_what_is_believed_of_a_seed() {
        let mut rumours = Rumours::default();
        assert_eq!(
            rumours.add(PeerKey(1), contact(10..18)),
            Some(contact(10..18))
        );
        let believed = rumours.add(PeerKey(2), contact(1..4)).unwrap();
        assert_eq!(believed.points().len(), MAX_POINTS);
        for right in contact(1..4).points() {
            assert!(believed.points().contains(right));
        }
        // One teller may correct itself, and gets no more room by telling more.
        for n in 20..100 {
            let believed = rumours.add(PeerKey(1), contact(n..n + 8)).unwrap();
            for right in contact(1..4).points() {
                assert!(believed.points().contains(right));
            }
        }
        for teller in 3..100 {
            let from = teller as u8 + 20;
            let believed = rumours
                .add(PeerKey(teller), contact(from..from + 8))
                .unwrap();
            let kept = contact(1..4)
                .points()
                .iter()
                .filter(|p| believed.points().contains(p))
                .count();
            assert!(kept >= 2, "{kept}");
        }
    }
}
