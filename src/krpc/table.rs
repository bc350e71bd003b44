//! The nodes from which a relay's lookups begin (BEP 5's routing table, kept by liveness).
//!
//! Only nodes that answered come in. A full bucket keeps whom it has, as the old are likelier to stay than the new, unless one
//! was silent, or has an id that does not fit its address (BEP 42) where the new one's does. One network has few places in
//! a bucket, so nobody fills a table from one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::contact::{Contact, Family, Network, is_usable};
use super::id::{ID_BITS, ID_LEN, Id};
use super::settings::Settings;

/// Nodes in a bucket (BEP 5's K).
const BUCKET: usize = 8;
/// Buckets that are kept, and the last of them holds all that are nearer: a network of 2^40 nodes has no more.
const BUCKETS: usize = 40;
/// After this many queries without an answer, a node is forgotten: a single one may have been lost on the way.
const MAX_SILENT: u8 = 2;
/// A bucket in which nobody answered for so long is looked up (BEP 5).
const REFRESH: Duration = Duration::from_secs(15 * 60);
/// Between two attempts to fill an empty table.
const RETRY: Duration = Duration::from_secs(60);

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
    own: Id,
    family: Family,
    per_network: usize,
    allow_private: bool,
    buckets: Vec<Bucket>,
    /// When nearest nodes were last looked up.
    filled: Option<Instant>,
    rng: StdRng,
}

impl RoutingTable {
    /// An empty table around an id of one's own, drawn at random, which nobody is told.
    pub fn new(own: Id, family: Family, settings: &Settings) -> Self {
        let mut seed = [0; 32];
        seed[..ID_LEN].copy_from_slice(&own.0);
        Self {
            own,
            family,
            per_network: settings.nodes_per_network,
            allow_private: settings.allow_private,
            buckets: (0..BUCKETS).map(|_| Bucket::default()).collect(),
            filled: None,
            rng: StdRng::from_seed(seed),
        }
    }

    fn index(&self, id: &Id) -> usize {
        self.own.shared_bits(id).min(BUCKETS - 1)
    }

    /// A node answered.
    pub fn answered(&mut self, now: Instant, contact: Contact) {
        if !is_usable(self.family, contact.addr, self.allow_private) {
            return;
        }
        let (at, per_network) = (self.index(&contact.id), self.per_network);
        // A node that has another id now has left its old place.
        for (index, bucket) in self.buckets.iter_mut().enumerate() {
            let moved = |entry: &Entry| {
                entry.contact.addr == contact.addr && entry.contact.id != contact.id
            };
            if index != at || bucket.entries.iter().any(moved) {
                bucket.entries.retain(|entry| !moved(entry));
            }
        }
        let Some(bucket) = self.buckets.get_mut(at) else {
            return;
        };
        let same = |entry: &&mut Entry| entry.contact.id == contact.id;
        if let Some(entry) = bucket.entries.iter_mut().find(same) {
            // Who has an id keeps it for as long as he answers.
            if entry.contact == contact || entry.silent > 0 {
                *entry = Entry {
                    contact,
                    seen: now,
                    silent: 0,
                };
            }
            return;
        }
        let network = Network::of(contact.addr.ip());
        let near = |entry: &Entry| Network::of(entry.contact.addr.ip()) == network;
        let entry = Entry {
            contact,
            seen: now,
            silent: 0,
        };
        // Whose place it may take: in its own network where that has all of its places, else anybody's.
        let crowded = bucket.entries.iter().filter(|entry| near(entry)).count() >= per_network;
        if !crowded && bucket.entries.len() < BUCKET {
            bucket.entries.push(entry);
            return;
        }
        let worse = |old: &&mut Entry| {
            (!crowded || near(old))
                && (old.silent > 0 || (contact.is_valid() && !old.contact.is_valid()))
        };
        let rank = |old: &&mut Entry| (u8::MAX - old.silent, old.contact.is_valid(), old.seen);
        if let Some(old) = bucket.entries.iter_mut().filter(worse).min_by_key(rank) {
            *old = entry;
        }
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
        all.sort_by_key(|entry| (entry.silent > 0, entry.contact.id.distance(target)));
        all.iter().take(n).map(|entry| entry.contact).collect()
    }

    /// A target to look up now, so that the table stays full: `None` where nothing is due. What it gave is not due again
    /// before its time, found or not.
    pub fn refresh(&mut self, now: Instant) -> Option<Id> {
        if self.fill_due().is_none_or(|due| due <= now) {
            self.filled = Some(now);
            return Some(self.own);
        }
        let last = self.last();
        let due = |bucket: &Bucket| bucket.due().is_none_or(|due| due <= now);
        let at = self.buckets.iter().take(last).position(due)?;
        self.buckets.get_mut(at)?.refreshed = Some(now);
        // In the bucket: the bits before its own as ours, its own flipped, the rest drawn.
        let mut id = self.own.blinded(at + 1, &mut self.rng);
        id.0[at / 8] ^= 0x80 >> (at % 8);
        Some(id)
    }

    /// When [`RoutingTable::refresh`] is to be asked next; `None`: now.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let buckets = self.buckets.iter().take(self.last()).map(Bucket::due);
        buckets.chain([self.fill_due()]).min().flatten()
    }

    fn fill_due(&self) -> Option<Instant> {
        let every = if self.is_empty() { RETRY } else { REFRESH };
        self.filled.map(|filled| filled + every)
    }

    /// Behind the deepest bucket that has somebody.
    fn last(&self) -> usize {
        let deepest = self
            .buckets
            .iter()
            .rposition(|bucket| !bucket.entries.is_empty());
        deepest.map_or(0, |at| (at + 1).min(ID_BITS))
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

    /// A node in the far half, in network `8.n.x`, whose id fits its address where `fits`.
    fn node(n: u8, fits: bool) -> Contact {
        let ip = IpAddr::from([8, n, 1, 1]);
        let mut id = Id([n; ID_LEN]);
        if fits {
            // The last byte changes what fits: find one in the far half.
            let found = (0..=u8::MAX).map(|last| {
                id.0[ID_LEN - 1] = last;
                id.made_valid_for(ip)
            });
            id = found
                .into_iter()
                .find(|id| id.0[0] & 0x80 != 0)
                .unwrap_or(id);
        } else {
            id.0[0] |= 0x80;
        }
        Contact {
            id,
            addr: SocketAddr::new(ip, 6881),
        }
    }

    /// Nodes of bucket 0 whose ids fit.
    fn fitting() -> impl Iterator<Item = Contact> {
        (1..=u8::MAX)
            .map(|n| node(n, true))
            .filter(|node| node.id.0[0] & 0x80 != 0)
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
        (1..=8).for_each(|n| table.answered(now, node(n, false)));
        assert_eq!(table.len(), BUCKET);
        table.answered(now, node(9, false));
        assert!(!table.closest(&OWN, 99).contains(&node(9, false)));
        let fits: Vec<Contact> = fitting().skip(20).take(BUCKET + 1).collect();
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
            let id = Id([0x80 | n; ID_LEN]);
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
        let first = node(1, false);
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
        let (mut table, now) = (table(), Instant::now());
        assert_eq!(table.poll_timeout(), None, "now");
        assert_eq!(table.refresh(now), Some(OWN));
        assert_eq!(table.refresh(now), None);
        assert_eq!(table.poll_timeout(), Some(now + RETRY));
        assert_eq!(
            table.refresh(now + RETRY),
            Some(OWN),
            "an empty table is tried again"
        );
        let now = now + RETRY;
        // Somebody in bucket 2: the buckets before it are looked up too.
        let mut id = Id([0x20; ID_LEN]);
        id.0[0] = 0x20;
        table.answered(
            now,
            Contact {
                id,
                addr: ([8, 8, 8, 8], 1).into(),
            },
        );
        let due: Vec<usize> = std::iter::from_fn(|| table.refresh(now))
            .map(|id| id.shared_bits(&OWN))
            .collect();
        assert_eq!(due, [0, 1, 2]);
        assert_eq!(table.poll_timeout(), Some(now + REFRESH));
        assert_eq!(
            std::iter::from_fn(|| table.refresh(now + REFRESH)).count(),
            4
        );
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
