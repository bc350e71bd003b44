//! The nodes that a walk knows, how far each was asked, and who is next.
//!
//! What a node says of others is hearsay, and some say it to lead the walk astray. So: a contact counts when it has answered
//! itself; one network holds few of the nodes that are asked; a chain of hearsay has an end; and where most of the
//! closest have ids that do not fit their addresses (BEP 42), which anybody can make up, the closest of those that do fit are
//! walked to beside them, since nobody can have many of these near a target of his choice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::krpc::contact::{Contact, Network};
use crate::krpc::id::Id;
use crate::krpc::settings::Settings;

/// Most nodes that are remembered. The closest 8 are found among a few dozen; the rest is room for those that lie and are silent.
const MAX_KNOWN: usize = 512;
/// Longest chain of hearsay: an honest step brings some bits nearer, and 2^24 nodes are told apart by 24.
const MAX_DEPTH: u8 = 24;
/// Nodes that are taken from one answer, which BEP 5 gives K of.
const MAX_PER_ANSWER: usize = 8;
/// How often one address is asked under different ids: more than once, since one who lies about an honest node's id must not
/// silence it.
const MAX_PER_ADDRESS: u8 = 2;
/// The same for an id that the address itself gave: one that gives another each time is left after a few.
const MAX_PER_PROVEN: u8 = 4;
/// Silent nodes of one network that are asked for each that may answer. Whoever is named by liars is not flooded.
const SILENT_PER_NODE: usize = 3;
/// Wait after our own limits refused a query, doubled each time up to [`MAX_REFUSALS`] times.
const REFUSED_WAIT: Duration = Duration::from_millis(100);
const MAX_REFUSALS: u8 = 5;

/// Bits that a node is asked with beyond those that it shares with the target. One is enough where tables are as BEP 5 has them;
/// nodes that know more of their own half can use another. Each gives a chain of liars as much more at every step.
const BLIND_STEP: usize = 2;
/// Bits by which a node may be nearer than the closest 8 and be asked with all that it shares.
const LUCK: usize = 2;
/// Most bits that are true for that: whoever shares more in a DHT of less than 2^26 nodes made his id so.
const MAX_TRUE_BITS: usize = 26;

/// How far a node was asked.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// Heard of.
    New,
    /// Asked for nodes near a blinded target. One that is slow holds up nobody.
    Asked { slow: bool },
    /// Did not answer, or answered as another node.
    Silent,
    /// Answered.
    Answered,
    /// Asked with the true target.
    Telling,
    /// Answered that, or not; with the token that it gave.
    Told(Option<Box<[u8]>>),
    /// Asked to store, with this token.
    Storing(Box<[u8]>),
    /// Did, or did not.
    Stored,
}

impl Stage {
    fn has_answered(&self) -> bool {
        match self {
            Self::New | Self::Asked { .. } | Self::Silent => false,
            Self::Answered | Self::Telling | Self::Told(_) | Self::Storing(_) | Self::Stored => {
                true
            }
        }
    }

    /// From told to storing: the token.
    pub(super) fn start_storing(&mut self) -> Option<&[u8]> {
        let Self::Told(token) = self else {
            return None;
        };
        *self = Self::Storing(token.take()?);
        let Self::Storing(token) = self else {
            return None;
        };
        Some(token)
    }

    /// From storing back to told: it was not asked after all.
    pub(super) fn stop_storing(&mut self) {
        if let Self::Storing(token) = self {
            *self = Self::Told(Some(std::mem::take(token)));
        }
    }
}

/// A node that the walk knows.
pub(super) struct Known {
    pub(super) contact: Contact,
    pub(super) stage: Stage,
    distance: Id,
    fits: bool,
    depth: u8,
    /// Its address gave this id itself.
    proven: bool,
    refusals: u8,
    not_before: Option<Instant>,
}

/// Of one network.
#[derive(Clone, Copy, Default)]
struct Tally {
    /// Asked and not found silent.
    live: usize,
    /// Asked.
    asked: usize,
}

/// Of one address.
#[derive(Clone, Copy, Default)]
struct Address {
    /// Asked and not found silent: it is one node, and has told its id or will.
    live: bool,
    /// How often it was asked.
    asked: u8,
}

/// The nodes of one walk, closest first.
pub(super) struct Walk {
    target: Id,
    closest: usize,
    per_network: usize,
    known: Vec<Known>,
    networks: BTreeMap<Network, Tally>,
    addresses: BTreeMap<SocketAddr, Address>,
    /// Queries left for nodes whose ids do not fit.
    unfit_left: usize,
}

impl Walk {
    /// A walk that may ask so many nodes.
    pub(super) fn new(target: Id, settings: &Settings, queries: usize) -> Self {
        Self {
            target,
            closest: settings.closest.max(1),
            per_network: settings.nodes_per_network.max(1),
            known: Vec::new(),
            networks: BTreeMap::new(),
            addresses: BTreeMap::new(),
            // Those that fit have the other half to themselves.
            unfit_left: queries / 2,
        }
    }

    /// Adds nodes to begin with.
    pub(super) fn start(&mut self, contacts: impl Iterator<Item = Contact>) {
        let mut contacts: Vec<Contact> = contacts.collect();
        contacts.sort_by_key(|contact| contact.id.distance(&self.target));
        contacts
            .iter()
            .take(MAX_KNOWN / 8)
            .for_each(|contact| self.add(*contact, 0));
    }

    /// Adds what a node told, or a bootstrap name where there is none.
    pub(super) fn heard(&mut self, of: Option<&Contact>, contacts: impl Iterator<Item = Contact>) {
        let depth = match of {
            None => 0,
            Some(of) => self
                .find(of)
                .map_or(0, |known| known.depth.saturating_add(1)),
        };
        for contact in contacts.take(MAX_PER_ANSWER) {
            self.add(contact, depth);
        }
    }

    /// Somebody answered as another than he was told to be: `there`.
    pub(super) fn proven(&mut self, told: &Contact, there: Contact) {
        let depth = self.find(told).map_or(0, |known| known.depth);
        self.add(there, depth.saturating_add(1));
        if let Some(known) = self.find(&there) {
            known.proven = true;
        }
    }

    fn add(&mut self, contact: Contact, depth: u8) {
        if depth > MAX_DEPTH {
            return;
        }
        let distance = contact.id.distance(&self.target);
        let Err(at) = self.search(&distance, contact.addr) else {
            return;
        };
        let fits = contact.is_valid();
        let known = Known {
            contact,
            stage: Stage::New,
            distance,
            fits,
            depth,
            proven: false,
            refusals: 0,
            not_before: None,
        };
        self.known.insert(at, known);
        if self.known.len() > MAX_KNOWN {
            // The farthest that was never asked goes; first those that fit nothing.
            let unasked = |fits: bool| {
                let of = move |known: &Known| known.stage == Stage::New && known.fits == fits;
                self.known.iter().rposition(of)
            };
            let last = unasked(false).or_else(|| unasked(true));
            self.known.remove(last.unwrap_or(self.known.len() - 1));
        }
    }

    fn search(&self, distance: &Id, addr: SocketAddr) -> Result<usize, usize> {
        self.known.binary_search_by(|known| {
            known
                .distance
                .cmp(distance)
                .then_with(|| known.contact.addr.cmp(&addr))
        })
    }

    /// This node, if it is known.
    pub(super) fn find(&mut self, contact: &Contact) -> Option<&mut Known> {
        let at = self
            .search(&contact.id.distance(&self.target), contact.addr)
            .ok()?;
        self.known.get_mut(at)
    }

    /// All that are known, closest first.
    pub(super) fn known(&self) -> impl Iterator<Item = &Known> {
        self.known.iter()
    }

    /// The nodes that answered, closest first.
    pub(super) fn answered(&self) -> impl Iterator<Item = &Known> {
        self.known.iter().filter(|known| known.stage.has_answered())
    }

    /// Addresses from which something came.
    pub(super) fn there(&self) -> impl Iterator<Item = SocketAddr> {
        let there = |known: &&Known| known.proven || known.stage.has_answered();
        self.known
            .iter()
            .filter(there)
            .map(|known| known.contact.addr)
    }

    /// The closest that have answered or may yet: of all, or of those whose ids fit. `unasked`: also those that were not asked.
    fn top(&self, fitting: bool, unasked: bool) -> impl Iterator<Item = &Known> {
        let may = move |known: &&Known| match known.stage {
            Stage::New => unasked && self.may_ask(known),
            Stage::Asked { slow } => !slow,
            Stage::Silent => false,
            Stage::Answered
            | Stage::Telling
            | Stage::Told(_)
            | Stage::Storing(_)
            | Stage::Stored => true,
        };
        let of = move |known: &&Known| known.fits || !fitting;
        self.known.iter().filter(of).filter(may).take(self.closest)
    }

    fn may_ask(&self, known: &Known) -> bool {
        let addr = known.contact.addr;
        let tally = self
            .networks
            .get(&Network::of(addr.ip()))
            .copied()
            .unwrap_or_default();
        let asked = if known.proven {
            MAX_PER_PROVEN
        } else {
            MAX_PER_ADDRESS
        };
        tally.live < self.per_network
            && tally.asked < self.per_network.saturating_mul(SILENT_PER_NODE)
            && self
                .addresses
                .get(&addr)
                .is_none_or(|of| !of.live && of.asked < asked)
            && (known.fits || self.unfit_left > 0)
    }

    /// Whether most of the closest have ids that fit nothing.
    fn is_doubtful(&self, unasked: bool) -> bool {
        self.top(false, unasked).filter(|known| !known.fits).count() > self.closest / 2
    }

    /// The closest, `unasked` ones among them or not: those that fit come twice where both kinds are walked to.
    fn lists(&self, unasked: bool) -> impl Iterator<Item = &Known> {
        let fitting = self.is_doubtful(unasked).then(|| self.top(true, unasked));
        fitting
            .into_iter()
            .flatten()
            .chain(self.top(false, unasked))
    }

    /// Whom to ask next.
    pub(super) fn next(&self, now: Instant) -> Option<Contact> {
        let askable = |known: &&Known| {
            known.stage == Stage::New && known.not_before.is_none_or(|at| at <= now)
        };
        // Of equally near ones those that fit come first.
        let rank = |known: &&Known| {
            let far = crate::krpc::id::ID_BITS - known.contact.id.shared_bits(&self.target);
            (far, !known.fits, known.distance)
        };
        let fitting = self.is_doubtful(true).then(|| self.top(true, true));
        let of_fitting = fitting
            .into_iter()
            .flatten()
            .filter(askable)
            .min_by_key(rank);
        let of_all = || self.top(false, true).filter(askable).min_by_key(rank);
        of_fitting.or_else(of_all).map(|known| known.contact)
    }

    /// Whether nobody is left to ask or to wait for. `unasked`: whether there are queries left.
    pub(super) fn is_quiet(&self, unasked: bool) -> bool {
        self.lists(unasked).all(|known| known.stage.has_answered())
    }

    /// Whether as many as are wanted are known, and not found silent.
    pub(super) fn has_enough(&self) -> bool {
        let hoped = self
            .known
            .iter()
            .filter(|known| known.stage != Stage::Silent);
        hoped.count() >= self.closest
    }

    /// Whether as many as are wanted have answered.
    pub(super) fn is_full(&self) -> bool {
        self.answered().nth(self.closest - 1).is_some()
    }

    /// The closest that answered, closest first: those to be told.
    pub(super) fn found(&self) -> Vec<&Known> {
        let answered = self.lists(false).filter(|known| known.stage.has_answered());
        let mut found: Vec<&Known> = answered.collect();
        found.sort_by_key(|known| (known.distance, known.contact.addr));
        found.dedup_by_key(|known| known.contact);
        found
    }

    /// How many leading bits of the target this node is asked with: those that it shares, as far as others share them too, and
    /// [`BLIND_STEP`] more.
    pub(super) fn true_bits(&self, contact: &Contact) -> usize {
        let shared = contact.id.shared_bits(&self.target);
        // Whoever is nearer than the 8 closest of whom nobody can have made many is nearer by luck or by design.
        let fitting = self.answered().filter(|known| known.fits);
        let near = fitting
            .take(self.closest)
            .map(|known| known.contact.id.shared_bits(&self.target));
        let (count, least) = near.fold((0, MAX_TRUE_BITS), |(n, least), bits| {
            (n + 1, least.min(bits))
        });
        let depth = if count < self.closest {
            MAX_TRUE_BITS
        } else {
            least + LUCK
        };
        shared.min(depth).min(MAX_TRUE_BITS) + BLIND_STEP
    }

    /// A node is asked.
    pub(super) fn ask(&mut self, contact: &Contact) {
        let tally = self
            .networks
            .entry(Network::of(contact.addr.ip()))
            .or_default();
        tally.live += 1;
        tally.asked += 1;
        let address = self.addresses.entry(contact.addr).or_default();
        address.live = true;
        address.asked += 1;
        if let Some(known) = self.find(contact) {
            known.stage = Stage::Asked { slow: false };
            if !known.fits {
                self.unfit_left = self.unfit_left.saturating_sub(1);
            }
        }
    }

    /// It was not asked after all.
    pub(super) fn take_back(&mut self, contact: &Contact, now: Instant) {
        self.free(contact, true);
        if let Some(known) = self.find(contact) {
            known.stage = Stage::New;
            known.wait(now);
            if !known.fits {
                self.unfit_left += 1;
            }
        }
    }

    /// It answered.
    pub(super) fn answers(&mut self, contact: &Contact) {
        if let Some(known) = self.find(contact) {
            known.stage = Stage::Answered;
        }
    }

    /// It did not answer, or as another.
    pub(super) fn silent(&mut self, contact: &Contact) {
        self.free(contact, false);
        if let Some(known) = self.find(contact) {
            known.stage = Stage::Silent;
        }
    }

    fn free(&mut self, contact: &Contact, unasked: bool) {
        if let Some(tally) = self.networks.get_mut(&Network::of(contact.addr.ip())) {
            tally.live = tally.live.saturating_sub(1);
            tally.asked = tally.asked.saturating_sub(usize::from(unasked));
        }
        if let Some(address) = self.addresses.get_mut(&contact.addr) {
            address.live = false;
            address.asked = address.asked.saturating_sub(u8::from(unasked));
        }
    }
}

impl Known {
    /// Our own limits refused the query: not again so soon.
    pub(super) fn wait(&mut self, now: Instant) {
        self.not_before = Some(now + REFUSED_WAIT * (1 << self.refusals));
        self.refusals = (self.refusals + 1).min(MAX_REFUSALS);
    }

    /// Whether limits of our own let it be asked now.
    pub(super) fn may_now(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// Until when it waits for our own limits.
    pub(super) fn waits_until(&self) -> Option<Instant> {
        self.not_before
    }
}
