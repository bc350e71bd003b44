//! Ten thousand nodes in virtual time. Each has a Kademlia table of its own, of nodes that live, are dead, or lie.

use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hushswarm::krpc::message::node::{Answer, Asked, refuse};
use hushswarm::krpc::message::{Query, Transaction};
use hushswarm::krpc::{Contact, Id, Item, To, Transmit};
use hushswarm_circuits::relay_list::is_global;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::hostile::{Hostile, Trick};

/// Nodes of a bucket, and of an answer (BEP 5).
pub(crate) const K: usize = 8;
/// Peers that a node puts into one answer.
const PEERS_PER_ANSWER: usize = 50;
/// Of a hundred honest nodes, those whose ids fit their addresses (BEP 42).
const FITTING: u32 = 75;

/// What a node is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Honest,
    Dead,
    Hostile(Trick),
}

/// What a network is made of.
#[derive(Clone, Copy)]
pub(crate) struct Mix {
    pub(crate) nodes: usize,
    /// Of a hundred.
    pub(crate) dead: usize,
    /// Of a hundred.
    pub(crate) hostile: usize,
    /// Shortest and longest round trip to a node, milliseconds.
    pub(crate) round_trip: (u64, u64),
}

/// A node.
pub(crate) struct Node {
    pub(crate) contact: Contact,
    pub(crate) kind: Kind,
    table: Vec<u32>,
}

/// What nodes noticed of one lookup.
#[derive(Default)]
pub(crate) struct Noticed {
    /// Who read the true target somewhere in a query.
    pub(crate) told: BTreeSet<SocketAddr>,
    /// Most leading bits of it that anybody else read.
    pub(crate) bits: usize,
    /// Queries that were sent.
    pub(crate) queries: usize,
    /// Node ids under which was asked.
    pub(crate) ids: BTreeSet<Id>,
    /// Transaction ids.
    pub(crate) transactions: BTreeSet<Vec<u8>>,
    /// Of those queries that came, whether each was read-only.
    pub(crate) read_only: bool,
    /// Ports that were announced.
    pub(crate) ports: BTreeSet<u16>,
}

/// The nodes, and what they keep.
pub(crate) struct Network {
    pub(crate) nodes: Vec<Node>,
    mix: Mix,
    by_addr: HashMap<SocketAddr, u32>,
    peers: HashMap<(u32, Id), Vec<SocketAddr>>,
    items: HashMap<(u32, Id), Item>,
    hostile: Hostile,
    rng: StdRng,
}

/// A public address.
pub(crate) fn public_ip(rng: &mut StdRng) -> IpAddr {
    loop {
        let ip = IpAddr::from(Ipv4Addr::from(rng.random::<u32>()));
        if is_global(ip) && !Hostile::owns(ip) {
            return ip;
        }
    }
}

impl Network {
    pub(crate) fn new(mix: Mix, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut nodes: Vec<Node> = (0..mix.nodes)
            .map(|n| {
                let kind = match n % 100 {
                    at if at < mix.dead => Kind::Dead,
                    at if at < mix.dead + mix.hostile => {
                        Kind::Hostile(Trick::ALL[n / 100 % Trick::ALL.len()])
                    }
                    _ => Kind::Honest,
                };
                let ip = public_ip(&mut rng);
                let fits = rng.random_range(0..100) < FITTING;
                let id = Id::random(&mut rng);
                let id = if fits { id.made_valid_for(ip) } else { id };
                let addr = SocketAddr::new(ip, rng.random_range(1024..=u16::MAX));
                Node {
                    contact: Contact { id, addr },
                    kind,
                    table: Vec::new(),
                }
            })
            .collect();
        nodes.sort_by_key(|node| node.contact.id);
        let ids: Vec<Id> = nodes.iter().map(|node| node.contact.id).collect();
        for (at, node) in nodes.iter_mut().enumerate() {
            node.table = table(&ids, at, &mut rng);
        }
        let numbered = nodes.iter().zip(0..);
        let by_addr = numbered.map(|(node, n)| (node.contact.addr, n)).collect();
        Self {
            nodes,
            mix,
            by_addr,
            peers: HashMap::new(),
            items: HashMap::new(),
            hostile: Hostile::new(&mut rng),
            rng,
        }
    }

    /// All nodes that answer, closest first.
    fn alive(&self, target: &Id) -> Vec<u32> {
        let numbered = self.nodes.iter().zip(0..);
        let alive = numbered.filter(|(node, _)| node.kind != Kind::Dead);
        let mut alive: Vec<(Id, u32)> = alive
            .map(|(node, n)| (node.contact.id.distance(target), n))
            .collect();
        alive.select_nth_unstable(K);
        alive.truncate(K);
        alive.sort_unstable();
        alive.into_iter().map(|(_, n)| n).collect()
    }

    /// Peers announce themselves at the closest nodes, as any client does: honest ones keep them.
    pub(crate) fn announce(&mut self, hash: Id, peers: usize) {
        let peers: Vec<SocketAddr> = (0..peers)
            .map(|_| SocketAddr::new(public_ip(&mut self.rng), 6881))
            .collect();
        for n in self.alive(&hash) {
            if self.nodes[n as usize].kind == Kind::Honest {
                self.peers.insert((n, hash), peers.clone());
            }
        }
    }

    /// Whether this peer was announced.
    pub(crate) fn is_announced(&self, hash: &Id, peer: &SocketAddr) -> bool {
        self.alive(hash).iter().any(|n| {
            self.peers
                .get(&(*n, *hash))
                .is_some_and(|peers| peers.contains(peer))
        })
    }

    /// How many honest nodes keep this peer.
    pub(crate) fn keepers(&self, hash: &Id, peer: &SocketAddr) -> usize {
        let all = self
            .peers
            .iter()
            .filter(|((_, kept), peers)| kept == hash && peers.contains(peer));
        all.count()
    }

    /// The honest nodes that keep this very item.
    pub(crate) fn keeping(&self, item: &Item) -> BTreeSet<u32> {
        let kept = self.items.iter().filter(|(_, kept)| *kept == item);
        kept.map(|((n, _), _)| *n).collect()
    }

    /// Nodes that some honest node knows nearest to a target: what a program that has run for a while begins with.
    pub(crate) fn known_to(&self, node: usize, target: &Id, n: usize) -> Vec<Contact> {
        let table = &self.nodes[node].table;
        let mut contacts: Vec<Contact> = table
            .iter()
            .map(|n| self.nodes[*n as usize].contact)
            .collect();
        contacts.sort_by_key(|contact| contact.id.distance(target));
        contacts.truncate(n);
        contacts
    }

    /// The number of an honest node.
    pub(crate) fn honest(&self, from: usize) -> usize {
        let order = (0..self.nodes.len()).map(|n| (n + from) % self.nodes.len());
        order
            .into_iter()
            .find(|n| self.nodes[*n].kind == Kind::Honest)
            .unwrap()
    }

    fn closest(&self, n: u32, target: &Id) -> Vec<Contact> {
        self.known_to(n as usize, target, K)
    }

    /// What comes back for a datagram from `from`: from where, when, and what.
    fn answer(
        &mut self,
        from: SocketAddr,
        transmit: &Transmit,
    ) -> Option<(SocketAddr, Duration, Vec<u8>)> {
        let addr = match transmit.to {
            To::Node(addr) => addr,
            // A bootstrap node is any honest one.
            To::Bootstrap(n) => self.nodes[self.honest(n * 997)].contact.addr,
        };
        let (least, most) = self.mix.round_trip;
        let wait = Duration::from_millis(self.rng.random_range(least..=most));
        let asked = Asked::decode(&transmit.bytes).expect("a query as BEP 5 has it");
        if Hostile::owns(addr.ip()) {
            return Some((addr, wait, self.hostile.lead_on(addr, &asked)));
        }
        let n = *self.by_addr.get(&addr)?;
        let (kind, own) = (
            self.nodes[n as usize].kind,
            self.nodes[n as usize].contact.id,
        );
        let honest = |network: &mut Self| network.serve(n, from, &asked);
        let bytes = match kind {
            Kind::Dead => return None,
            Kind::Honest => honest(self),
            Kind::Hostile(trick) => {
                let bytes = honest(self);
                self.hostile
                    .play(trick, &own, &asked, &transmit.bytes, bytes)
            }
        };
        Some((addr, wait, bytes))
    }

    /// What an honest node says.
    fn serve(&mut self, n: u32, from: SocketAddr, asked: &Asked<'_>) -> Vec<u8> {
        let own = self.nodes[n as usize].contact.id;
        let token: Transaction = (n ^ u32::from(from.port())).to_be_bytes();
        let target = match &asked.query {
            Query::Ping => own,
            Query::FindNode { target } | Query::Get { target } => *target,
            Query::GetPeers { info_hash } | Query::AnnouncePeer { info_hash, .. } => *info_hash,
            Query::Put { item, .. } => item.target(),
        };
        let nodes = self.closest(n, &target);
        let mut answer = Answer {
            nodes: &nodes,
            ..Answer::default()
        };
        let mut peers = Vec::new();
        match &asked.query {
            Query::Ping => answer.nodes = &[],
            Query::FindNode { .. } => {}
            Query::GetPeers { .. } => {
                let kept = self.peers.get(&(n, target)).map_or(&[][..], Vec::as_slice);
                let skip = if kept.len() > PEERS_PER_ANSWER {
                    self.rng.random_range(0..kept.len())
                } else {
                    0
                };
                peers.extend(
                    kept.iter()
                        .cycle()
                        .skip(skip)
                        .take(PEERS_PER_ANSWER.min(kept.len())),
                );
                answer.peers = &peers;
                answer.token = Some(&token);
            }
            Query::Get { .. } => {
                answer.token = Some(&token);
                answer.item = self.items.get(&(n, target));
            }
            Query::AnnouncePeer { token: given, .. } | Query::Put { token: given, .. }
                if *given != token =>
            {
                return refuse(asked.transaction, 203, "bad token");
            }
            Query::AnnouncePeer { port, .. } => {
                let peers = self.peers.entry((n, target)).or_default();
                peers.insert(0, SocketAddr::new(from.ip(), *port));
                answer.nodes = &[];
            }
            Query::Put { item, .. } => {
                let kept = self.items.get(&(n, target)).and_then(Item::seq);
                let cas = item.signed().and_then(|signed| signed.cas);
                if cas.is_some_and(|cas| kept.is_some_and(|kept| kept != cas)) {
                    return refuse(asked.transaction, 301, "the CAS hash mismatched");
                }
                if kept > item.seq() {
                    return refuse(asked.transaction, 302, "sequence number less than current");
                }
                self.items
                    .insert((n, target), item.as_ref().clone().with_cas(None));
                answer.nodes = &[];
            }
        }
        answer.encode(asked.transaction, &own)
    }
}

/// A node's table: of each half, quarter and so on of the network that is not its own, up to K nodes.
fn table(ids: &[Id], at: usize, rng: &mut StdRng) -> Vec<u32> {
    let own = ids[at];
    let (mut low, mut high) = (0, ids.len());
    let mut out = Vec::new();
    let mut bit = 0;
    while high - low > 1 {
        let set = |id: &Id| id.0[bit / 8] & (0x80 >> (bit % 8)) != 0;
        let middle = low + ids[low..high].partition_point(|id| !set(id));
        let other = if set(&own) { low..middle } else { middle..high };
        if set(&own) {
            low = middle;
        } else {
            high = middle;
        }
        let len = other.len();
        let picks: BTreeSet<usize> = if len <= K {
            other.collect()
        } else {
            let mut picks = BTreeSet::new();
            while picks.len() < K {
                picks.insert(other.start + rng.random_range(0..len));
            }
            picks
        };
        out.extend(picks.into_iter().map(|n| n as u32));
        bit += 1;
    }
    out
}

/// Whatever looks up in the network: ours, or a plain client.
pub(crate) trait Asker {
    fn poll_transmit(&mut self, now: Instant) -> Option<Transmit>;
    fn handle(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]);
    fn poll_timeout(&self) -> Option<Instant>;
    fn handle_timeout(&mut self, now: Instant);
    /// Takes what it found; whether it is done.
    fn poll(&mut self, now: Instant) -> bool;
}

/// A datagram on its way back. The first to come is the greatest.
struct Coming {
    at: Instant,
    number: usize,
    from: SocketAddr,
    bytes: Vec<u8>,
}

impl Ord for Coming {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Coming {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Coming {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Coming {}

/// Most steps of one lookup: it ends long before, or never would.
const MAX_STEPS: usize = 20_000;

/// Runs a lookup of `target` from `start` to its end, from an address of its own. Gives what nodes noticed.
pub(crate) fn run(
    network: &mut Network,
    asker: &mut dyn Asker,
    start: Instant,
    target: &Id,
) -> Noticed {
    let from = SocketAddr::from(([9, 9, 9, 9], 4242));
    let mut noticed = Noticed {
        read_only: true,
        ..Noticed::default()
    };
    let mut coming: BinaryHeap<Coming> = BinaryHeap::new();
    let mut now = start;
    for _ in 0..MAX_STEPS {
        while let Some(transmit) = asker.poll_transmit(now) {
            notice(&mut noticed, &transmit, target);
            let number = noticed.queries;
            if let Some((from, wait, bytes)) = network.answer(from, &transmit) {
                coming.push(Coming {
                    at: now + wait,
                    number,
                    from,
                    bytes,
                });
            }
        }
        if asker.poll(now) {
            return noticed;
        }
        let due = asker.poll_timeout();
        let next = coming.peek().map(|coming| coming.at);
        match (next, due) {
            (Some(next), due) if due.is_none_or(|due| next <= due) => {
                let datagram = coming.pop().unwrap();
                now = now.max(datagram.at);
                asker.handle(now, datagram.from, &datagram.bytes);
            }
            (_, Some(due)) => {
                assert!(due >= now, "time goes on");
                now = due;
                asker.handle_timeout(now);
            }
            (_, None) => panic!("it waits for nothing and is not done"),
        }
    }
    panic!("a lookup that does not end");
}

fn notice(noticed: &mut Noticed, transmit: &Transmit, target: &Id) {
    noticed.queries += 1;
    let asked = Asked::decode(&transmit.bytes).expect("a query");
    let named = transmit.bytes.windows(20).any(|bytes| bytes == target.0);
    match (&asked.query, transmit.to) {
        (_, To::Node(addr)) if named => {
            noticed.told.insert(addr);
        }
        (Query::FindNode { target: blinded }, _) => {
            noticed.bits = noticed.bits.max(blinded.shared_bits(target));
        }
        _ => assert!(!named, "a bootstrap node is told"),
    }
    if let Query::AnnouncePeer { port, .. } = asked.query {
        noticed.ports.insert(port);
    }
    noticed.ids.insert(asked.id);
    noticed.transactions.insert(asked.transaction.to_vec());
    noticed.read_only &= asked.read_only;
}
