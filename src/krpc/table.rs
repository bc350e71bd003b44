//! The nodes from which a relay's lookups begin, kept by liveness.
//!
//! Not quite BEP 5's table: that one is dense around a node's own id, since others ask it for what is near. This one is asked by
//! nobody, and its lookups go anywhere, so it is as dense everywhere; a walk that begins near its target is shorter and tells fewer
//! nodes even the first bits of it.
//!
//! Only nodes that answered come in. A full bucket keeps whom it has, as the old are likelier to stay than the new, unless one
//! was silent, or has an id that does not fit its address (BEP 42) where the new one's does. One network has few places in
//! a bucket, so nobody fills a table from one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::contact::{Contact, Family, Network, is_usable};
use super::id::{ID_LEN, Id};
use super::settings::Settings;

/// Nodes in a bucket (BEP 5's K).
const BUCKET: usize = 8;
/// Leading bits that the nodes of a bucket share: 128 buckets, 1024 nodes.
const BITS: u32 = 7;
/// Places of a bucket for nodes whose ids do not fit their addresses, which anybody can have any number of.
const UNFIT: usize = BUCKET / 2;
/// After this many queries without an answer, a node is forgotten: a single one may have been lost on the way.
const MAX_SILENT: u8 = 2;
/// A bucket in which nobody answered for so long is looked up (BEP 5).
const REFRESH: Duration = Duration::from_secs(15 * 60);
/// Between two such lookups: a table is warm in minutes, and its upkeep costs a few queries a second at most.
const PACE: Duration = Duration::from_secs(5);

struct Entry {
    contact: Contact,
    seen: Instant,
    silent: u8,
}

#[derive(Default)]
struct Bucket {
    entries: Vec<Entry>,
    refreshed: Option<Instant>,
}

/// A routing table of one address family. Its owner tells it who answered and who did not, and looks up
/// ([`super::Goal::Nodes`]) what [`RoutingTable::refresh`] gives.
pub struct RoutingTable {
    family: Family,
    per_network: usize,
    allow_private: bool,
    buckets: Vec<Bucket>,
    refreshed: Option<Instant>,
    rng: StdRng,
}

impl RoutingTable {
    /// An empty table. `own` is drawn at random and nobody is told it: what is looked up to fill the table comes from it.
    pub fn new(own: Id, family: Family, settings: &Settings) -> Self {
        let mut seed = [0; 32];
        seed[..ID_LEN].copy_from_slice(&own.0);
        Self {
            family,
            per_network: settings.nodes_per_network,
            allow_private: settings.allow_private,
            buckets: (0..1 << BITS).map(|_| Bucket::default()).collect(),
            refreshed: None,
            rng: StdRng::from_seed(seed),
        }
    }

    /// A node answered.
    pub fn answered(&mut self, now: Instant, contact: Contact) {
        if !is_usable(self.family, contact.addr, self.allow_private) {
            return;
        }
        // A node that has another id now has left its old place.
        for bucket in &mut self.buckets {
            let moved = |entry: &Entry| {
                entry.contact.addr == contact.addr && entry.contact.id != contact.id
            };
            bucket.entries.retain(|entry| !moved(entry));
        }
        let per_network = self.per_network;
        let Some(bucket) = self.buckets.get_mut(index(&contact.id)) else {
            return;
        };
        let entry = Entry {
            contact,
            seen: now,
            silent: 0,
        };
        if let Some(old) = bucket
            .entries
            .iter_mut()
            .find(|old| old.contact.id == contact.id)
        {
            // Who has an id keeps it for as long as he answers.
            if old.contact == contact || old.silent > 0 {
                *old = entry;
            }
            return;
        }
        // Whose place it may take: one of its own network where that has all of its own, one as unfit where those have all of
        // theirs, else anybody's.
        let (network, fits) = (Network::of(contact.addr.ip()), contact.is_valid());
        let near = |old: &Entry| Network::of(old.contact.addr.ip()) == network;
        let alike = |old: &Entry| old.contact.is_valid() == fits;
        let crowded = bucket.entries.iter().filter(|old| near(old)).count() >= per_network;
        let unfit = !fits && bucket.entries.iter().filter(|old| alike(old)).count() >= UNFIT;
        if !crowded && !unfit && bucket.entries.len() < BUCKET {
            bucket.entries.push(entry);
            return;
        }
        let worse = |old: &&mut Entry| {
            (!crowded || near(old))
                && (!unfit || alike(old))
                && (old.silent > 0 || (fits && !old.contact.is_valid()))
        };
        let rank = |old: &&mut Entry| (u8::MAX - old.silent, old.contact.is_valid(), old.seen);
        if let Some(old) = bucket.entries.iter_mut().filter(worse).min_by_key(rank) {
            *old = entry;
        }
    }

    /// Whether a node at this address is in it.
    pub fn has(&self, addr: SocketAddr) -> bool {
        let mut entries = self.buckets.iter().flat_map(|bucket| &bucket.entries);
        entries.any(|entry| entry.contact.addr == addr)
    }

    /// A node at this address did not answer.
    pub fn silent(&mut self, _now: Instant, addr: SocketAddr) {
        for bucket in &mut self.buckets {
            for entry in bucket
                .entries
                .iter_mut()
                .filter(|entry| entry.contact.addr == addr)
            {
                entry.silent = entry.silent.saturating_add(1);
            }
            bucket.entries.retain(|entry| entry.silent < MAX_SILENT);
        }
    }

    /// The `n` known nodes that are closest to a target, closest first; those that were silent come after all others.
    pub fn closest(&self, target: &Id, n: usize) -> Vec<Contact> {
        let mut all: Vec<&Entry> = self
            .buckets
            .iter()
            .flat_map(|bucket| &bucket.entries)
            .collect();
        all.sort_by_cached_key(|entry| (entry.silent > 0, entry.contact.id.distance(target)));
        all.iter().take(n).map(|entry| entry.contact).collect()
    }

    /// A target to look up now, so that the table stays full: `None` where nothing is due. What it gave is not due again
    /// before its time, found or not.
    pub fn refresh(&mut self, now: Instant) -> Option<Id> {
        if self.next().is_some_and(|next| next > now) {
            return None;
        }
        let due = self.buckets.iter().enumerate();
        let due = due.filter(|(_, bucket)| bucket.due().is_none_or(|due| due <= now));
        // The emptiest first.
        let (at, _) = due.min_by_key(|(_, bucket)| (bucket.entries.len(), bucket.refreshed))?;
        self.buckets.get_mut(at)?.refreshed = Some(now);
        self.refreshed = Some(now);
        let mut prefix = Id([0; ID_LEN]);
        prefix.0[0] = u8::try_from(at << (8 - BITS)).ok()?;
        Some(prefix.blinded(BITS as usize, &mut self.rng))
    }

    /// When [`RoutingTable::refresh`] is to be asked next; `None`: now.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.buckets
            .iter()
            .map(Bucket::due)
            .min()
            .flatten()
            .max(self.next())
    }

    /// Before this nothing is due.
    fn next(&self) -> Option<Instant> {
        self.refreshed.map(|at| at + PACE)
    }

    /// How many nodes it holds.
    pub fn len(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.entries.len()).sum()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn index(id: &Id) -> usize {
    usize::from(id.0[0] >> (8 - BITS))
}

impl Bucket {
    /// When it is to be looked up; `None`: now. A full one in which somebody answered of late needs it later.
    fn due(&self) -> Option<Instant> {
        let seen = self.entries.iter().map(|entry| entry.seen).max();
        let full = self.entries.len() >= BUCKET;
        let fresh = seen.filter(|_| full).max(self.refreshed);
        fresh.map(|at| at + REFRESH)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    const OWN: Id = Id([0; ID_LEN]);

    fn table() -> RoutingTable {
        RoutingTable::new(OWN, Family::V4, &Settings::default())
    }

    /// A node in a network of its own; its id begins with 0x80 and does not fit.
    fn node(n: u8) -> Contact {
        let ip = IpAddr::from([8, n, 1, 1]);
        let mut id = Id([n; ID_LEN]);
        id.0[0] = 0x80;
        Contact {
            id,
            addr: SocketAddr::new(ip, 6881),
        }
    }

    /// Nodes of that bucket whose ids fit.
    fn fitting() -> impl Iterator<Item = Contact> {
        (0..=u16::MAX).filter_map(|n| {
            let [b, c] = n.to_be_bytes();
            let ip = IpAddr::from([9, b, c, 1]);
            let id = Id([c; ID_LEN]).made_valid_for(ip);
            let contact = Contact {
                id,
                addr: SocketAddr::new(ip, 6881),
            };
            (index(&id) == 0x40).then_some(contact)
        })
    }

    #[test]
    fn a_full_bucket_keeps_whom_it_has_until_one_is_silent() {
        let (mut table, now) = (table(), Instant::now());
        let nodes: Vec<Contact> = fitting().take(BUCKET + 1).collect();
        nodes.iter().for_each(|node| table.answered(now, *node));
        assert_eq!(table.len(), BUCKET);
        assert!(!table.closest(&OWN, 99).contains(&nodes[BUCKET]));
        table.silent(now, nodes[3].addr);
        assert_eq!(
            table.closest(&OWN, 99).last(),
            Some(&nodes[3]),
            "it comes last"
        );
        table.answered(now, nodes[BUCKET]);
        let kept = table.closest(&OWN, 99);
        assert!(kept.contains(&nodes[BUCKET]) && !kept.contains(&nodes[3]));
        (0..MAX_SILENT).for_each(|_| table.silent(now, nodes[0].addr));
        assert_eq!(table.len(), BUCKET - 1);
    }

    #[test]
    fn ids_that_fit_their_addresses_take_the_places_of_others() {
        let (mut table, now) = (table(), Instant::now());
        (1..=8).for_each(|n| table.answered(now, node(n)));
        assert_eq!(table.len(), UNFIT, "they have half of the places");
        let fits: Vec<Contact> = fitting().take(BUCKET + 1).collect();
        fits.iter().for_each(|node| table.answered(now, *node));
        let mut kept = table.closest(&OWN, 99);
        kept.sort();
        let mut wanted = fits[..BUCKET].to_vec();
        wanted.sort();
        assert_eq!(kept, wanted);
    }

    #[test]
    fn one_network_has_two_places_in_a_bucket() {
        let (mut table, now) = (table(), Instant::now());
        for n in 1..=200 {
            let id = node(n).id;
            table.answered(
                now,
                Contact {
                    id,
                    addr: ([8, 8, 8, n], 1).into(),
                },
            );
        }
        assert_eq!(table.len(), 2);
        table.answered(
            now,
            Contact {
                id: Id([0xf0; ID_LEN]),
                addr: ([10, 0, 0, 1], 1).into(),
            },
        );
        table.answered(
            now,
            Contact {
                id: Id([0xf0; ID_LEN]),
                addr: ([8, 8, 9, 1], 0).into(),
            },
        );
        assert_eq!(table.len(), 2, "no private address, no port zero");
    }

    #[test]
    fn a_node_is_known_by_one_id_and_an_id_by_one_node() {
        let (mut table, now) = (table(), Instant::now());
        let first = node(1);
        table.answered(now, first);
        let renamed = Contact {
            id: Id([0x0f; ID_LEN]),
            ..first
        };
        table.answered(now, renamed);
        assert_eq!(table.closest(&OWN, 9), [renamed]);
        let thief = Contact {
            addr: ([9, 9, 9, 9], 1).into(),
            ..renamed
        };
        table.answered(now, thief);
        assert_eq!(
            table.closest(&OWN, 9),
            [renamed],
            "an id stays with who answers"
        );
        table.silent(now, renamed.addr);
        table.answered(now, thief);
        assert_eq!(table.closest(&OWN, 9), [thief]);
    }

    #[test]
    fn what_is_due_is_looked_up_once_and_again_after_its_time() {
        let (mut table, start) = (table(), Instant::now());
        assert_eq!(table.poll_timeout(), None, "now");
        let (mut now, mut looked_up) = (start, Vec::new());
        for _ in 0..1 << BITS {
            looked_up.push(index(&table.refresh(now).unwrap()));
            assert_eq!(table.refresh(now), None, "one at a time");
            assert!(table.poll_timeout() >= Some(now + PACE));
            now += PACE;
        }
        looked_up.sort_unstable();
        assert!(looked_up.into_iter().eq(0..1 << BITS), "each once");
        assert_eq!(table.refresh(now), None);
        assert_eq!(table.poll_timeout(), Some(start + REFRESH));
        assert!(table.refresh(start + REFRESH).is_some());
    }

    #[test]
    fn a_full_bucket_that_answers_is_not_looked_up() {
        let (mut table, now) = (table(), Instant::now());
        fitting()
            .take(BUCKET)
            .for_each(|node| table.answered(now, node));
        let full = index(&fitting().next().unwrap().id);
        let due = (0..=1 << BITS).filter_map(|n| table.refresh(now + PACE * n));
        let due: Vec<usize> = due.map(|id| index(&id)).collect();
        assert!(due.len() == (1 << BITS) - 1 && !due.contains(&full));
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_gives_the_closest_whatever_is_told(nodes in prop::collection::vec((any::<[u8; 20]>(), any::<[u8; 4]>(), any::<bool>()), 0..400), target: [u8; 20], n in 0..20_usize) {
            let (mut table, now) = (table(), Instant::now());
            for (id, ip, answers) in nodes {
                let contact = Contact { id: Id(id), addr: (ip, 6881).into() };
                if answers { table.answered(now, contact) } else { table.silent(now, contact.addr) }
            }
            prop_assert!(table.buckets.iter().all(|bucket| bucket.entries.len() <= BUCKET));
            let (target, all) = (Id(target), table.closest(&OWN, usize::MAX));
            prop_assert_eq!(all.len(), table.len());
            let closest = table.closest(&target, n);
            prop_assert_eq!(closest.len(), n.min(all.len()));
            let farthest = closest.iter().map(|contact| contact.id.distance(&target)).max();
            let nearer = all.iter().filter(|contact| farthest.is_some_and(|far| contact.id.distance(&target) < far)).count();
            prop_assert!(nearer < n.max(1));
        }
    }
}
