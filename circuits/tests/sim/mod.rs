//! A network of relays in virtual time: links with delay, bandwidth and breakage, relays that serve, stay silent or
//! refuse. The switch under test is the one that the program runs; only sockets and the clock are replaced. Everything
//! random comes from one seed, so a run replays.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm
)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hushswarm_circuits::body::{DestroyReason, ExtendStatus, OpenKind, OpenStatus};
use hushswarm_circuits::circuit::mux::{MuxEvent, Recv};
use hushswarm_circuits::circuit::origin::{HopSpec, Origin, OriginEvent};
use hushswarm_circuits::frame::Pool;
use hushswarm_circuits::handshake::{CREATE_LEN, HopPeer};
use hushswarm_circuits::keys::{DhSecret, RelayId, Suite};
use hushswarm_circuits::link::{LinkInitiator, LinkPeer, respond};
use hushswarm_circuits::scheduler::CreditBudget;
use hushswarm_circuits::switch::{
    Handler, HopCircuit, Link, LinkConfig, OriginCircuit, OriginHandler, Receiver, Transmitter,
};
use hushswarm_circuits::target::Target;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What an application at an exit does, chosen by the port that a stream asks for.
pub const ECHO: u16 = 7;
/// Sends zeros without end.
pub const SOURCE: u16 = 19;
/// Reads nothing.
pub const DEAF: u16 = 9;
/// Refuses.
pub const CLOSED: u16 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Behaviour {
    Honest,
    /// Takes links and never answers a CREATE.
    Silent,
    /// Refuses every circuit.
    Refusing,
    /// Answers with an onion key that is not the listed one.
    Impostor,
}

enum Request {
    Create(Arc<Link>, u32, Box<[u8; CREATE_LEN]>),
    Event(Arc<HopCircuit>, MuxEvent),
}

#[derive(Default)]
struct Inbox(Mutex<VecDeque<Request>>);

impl Handler for Inbox {
    fn create(&self, link: &Arc<Link>, circuit: u32, message: &[u8; CREATE_LEN]) {
        let request = Request::Create(Arc::clone(link), circuit, Box::new(*message));
        self.0.lock().unwrap().push_back(request);
    }

    fn hop_event(&self, circuit: &Arc<HopCircuit>, event: MuxEvent) {
        self.0
            .lock()
            .unwrap()
            .push_back(Request::Event(Arc::clone(circuit), event));
    }
}

struct App {
    circuit: Arc<HopCircuit>,
    stream: u32,
    port: u16,
    finished: bool,
    left: VecDeque<u8>,
}

struct Relay {
    id: RelayId,
    onion: DhSecret,
    link: DhSecret,
    hop_peer: HopPeer,
    link_peer: LinkPeer,
    behaviour: Behaviour,
    inbox: Arc<Inbox>,
    config: LinkConfig,
    /// Links to other relays, by their index.
    links: BTreeMap<usize, Arc<Link>>,
    apps: BTreeMap<(u64, u32), App>,
}

/// How a pipe between two nodes behaves.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    pub delay: Duration,
    /// Bytes a second.
    pub rate: u64,
}

impl Wire {
    pub const FAST: Self = Self {
        delay: Duration::from_millis(1),
        rate: 1 << 30,
    };
}

struct End {
    link: Arc<Link>,
    receiver: Receiver,
    transmitter: Transmitter,
    dirty: Arc<AtomicBool>,
    buffer: Vec<u8>,
    wire: Wire,
    free_at: Duration,
    peer: usize,
    /// The relay whose end this is; `None` for the client's.
    node: Option<usize>,
    initiator: bool,
    broken: bool,
    /// XORed into the next bytes that leave.
    tamper: Option<u8>,
    /// Does not take bytes from its peer.
    stalled: bool,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Deliver(usize, Vec<u8>),
    Pump(usize),
    Extend(usize, u64),
}

/// The events of a circuit of ours, in order.
#[derive(Default)]
pub struct Log(Mutex<Vec<OriginEvent>>);

impl OriginHandler for Log {
    fn event(&self, event: OriginEvent) {
        self.0.lock().unwrap().push(event);
    }
}

impl Log {
    pub fn any(&self, test: impl Fn(&OriginEvent) -> bool) -> bool {
        self.0.lock().unwrap().iter().any(test)
    }

    pub fn is_ready(&self) -> bool {
        self.any(|event| matches!(event, OriginEvent::Ready { .. }))
    }

    pub fn closed(&self) -> Option<String> {
        self.0.lock().unwrap().iter().find_map(|event| match event {
            OriginEvent::Closed(reason) => Some(format!("{reason:?}")),
            _ => None,
        })
    }
}

pub struct Circuit {
    pub origin: Arc<OriginCircuit>,
    pub log: Arc<Log>,
}

impl Circuit {
    /// Opens a stream to an application at the exit.
    pub fn open(&self, port: u16) -> u32 {
        let target = Target::ip(format!("198.51.100.1:{port}").parse().unwrap());
        self.origin
            .with(|origin| origin.mux().open(OpenKind::Tcp, Some(target)).unwrap())
    }

    /// Reads up to `max` bytes that have come.
    pub fn read(&self, now: Instant, stream: u32, max: usize) -> Vec<u8> {
        self.origin.with(|origin| {
            let mut bytes = Vec::new();
            while bytes.len() < max {
                let Recv::Data(cell) = origin.mux().recv(stream) else {
                    break;
                };
                bytes.extend_from_slice(&cell);
            }
            if !bytes.is_empty() {
                origin.mux().consumed(now, stream, bytes.len());
            }
            bytes
        })
    }

    pub fn write(&self, pool: &Pool, stream: u32, bytes: &[u8]) -> usize {
        self.origin
            .with(|origin| origin.mux().send_bytes(pool, stream, bytes))
    }
}

/// The network.
pub struct Sim {
    base: Instant,
    now: Duration,
    sequence: u64,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    ends: Vec<End>,
    relays: Vec<Relay>,
    rng: StdRng,
    wire: Wire,
    pub pool: Pool,
    client: LinkConfig,
    client_links: BTreeMap<usize, Arc<Link>>,
    circuits: Vec<Arc<OriginCircuit>>,
    pending_extends: BTreeMap<u64, Arc<HopCircuit>>,
    /// A digest of all that was delivered, in order.
    pub trace: u64,
    pub delivered: u64,
}

impl Sim {
    pub fn new(seed: u64, behaviours: &[Behaviour], wire: Wire) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let pool = Pool::new(256);
        let relays = behaviours
            .iter()
            .map(|&b| Relay::new(b, &pool, &mut rng))
            .collect();
        let client = config(Arc::new(Inbox::default()), &pool);
        Self {
            base: Instant::now(),
            now: Duration::ZERO,
            sequence: 0,
            events: BinaryHeap::new(),
            ends: Vec::new(),
            relays,
            rng,
            wire,
            pool,
            client,
            client_links: BTreeMap::new(),
            circuits: Vec::new(),
            pending_extends: BTreeMap::new(),
            trace: 0,
            delivered: 0,
        }
    }

    pub fn honest(seed: u64) -> Self {
        Self::new(seed, &[Behaviour::Honest; 3], Wire::FAST)
    }

    pub fn now(&self) -> Instant {
        self.base + self.now
    }

    pub fn elapsed(&self) -> Duration {
        self.now
    }

    fn at(&mut self, when: Duration, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((when, self.sequence, event)));
    }

    /// Makes a link from the client or a relay to a relay; the handshake is done at once.
    fn connect(&mut self, from: Option<usize>, to: usize) -> Arc<Link> {
        let (initiator, message) =
            LinkInitiator::start(&self.relays[to].link_peer, &mut self.rng).unwrap();
        let relay = &self.relays[to];
        let (answer, theirs) =
            respond(&relay.link, &relay.link_peer, &message, &mut self.rng).unwrap();
        let ours = initiator.finish(&answer).unwrap();
        let (a, b) = (self.ends.len(), self.ends.len() + 1);
        let near = match from {
            None => self.client.clone(),
            Some(from) => self.relays[from].config.clone(),
        };
        let far = self.relays[to].config.clone();
        let mut first = None;
        let sides = [
            (ours, true, near, b, from),
            (theirs, false, far, a, Some(to)),
        ];
        for (keys, initiator, config, peer, node) in sides {
            let dirty = Arc::new(AtomicBool::new(false));
            let flag = Arc::clone(&dirty);
            let wake = Box::new(move || flag.store(true, Ordering::SeqCst));
            let (link, receiver, transmitter) = Link::new(keys, initiator, config, wake);
            first.get_or_insert_with(|| Arc::clone(&link));
            self.ends.push(End {
                link,
                receiver,
                transmitter,
                dirty,
                buffer: Vec::new(),
                wire: self.wire,
                free_at: Duration::ZERO,
                peer,
                node,
                initiator,
                broken: false,
                tamper: None,
                stalled: false,
            });
        }
        first.unwrap()
    }

    /// Begins a circuit of the client through these relays.
    pub fn circuit(&mut self, path: &[usize]) -> Circuit {
        let link = match self.client_links.get(&path[0]) {
            Some(link) if !link.is_closed() => Arc::clone(link),
            _ => {
                let link = self.connect(None, path[0]);
                self.client_links.insert(path[0], Arc::clone(&link));
                link
            }
        };
        let specs = path
            .iter()
            .map(|&n| HopSpec {
                id: self.relays[n].id,
                peer: self.relays[n].hop_peer,
            })
            .collect();
        let origin = Origin::new(self.now(), specs, &mut self.rng).unwrap();
        let log = Arc::new(Log::default());
        let handler = Arc::clone(&log) as Arc<dyn OriginHandler>;
        let origin = link.open_origin(origin, handler, &mut self.rng).unwrap();
        self.circuits.push(Arc::clone(&origin));
        Circuit { origin, log }
    }

    /// A circuit that is ready.
    pub fn ready_circuit(&mut self, path: &[usize]) -> Circuit {
        let circuit = self.circuit(path);
        let log = Arc::clone(&circuit.log);
        assert!(
            self.run_until(Duration::from_secs(60), |_| log.is_ready()),
            "not built"
        );
        circuit
    }

    /// The number of the link end at which the client, or a relay, speaks to a relay.
    pub fn end(&self, from: Option<usize>, to: usize) -> usize {
        let link = match from {
            None => &self.client_links[&to],
            Some(from) => &self.relays[from].links[&to],
        };
        self.ends
            .iter()
            .position(|end| Arc::ptr_eq(&end.link, link))
            .unwrap()
    }

    /// Cuts a link: both ends notice.
    pub fn cut(&mut self, end: usize) {
        let now = self.now();
        for end in [end, self.ends[end].peer] {
            self.ends[end].broken = true;
            self.ends[end].link.close(now);
        }
    }

    /// Changes a byte in what leaves this end next.
    pub fn tamper(&mut self, end: usize, xor: u8) {
        self.ends[end].tamper = Some(xor);
    }

    /// Makes an end stop (or go on) taking bytes from its peer.
    pub fn stall(&mut self, end: usize, stalled: bool) {
        self.ends[end].stalled = stalled;
        let peer = self.ends[end].peer;
        self.at(self.now, Event::Pump(peer));
    }

    pub fn slow(&mut self, end: usize, rate: u64) {
        self.ends[end].wire.rate = rate;
    }

    /// Circuits that pass or end at a relay.
    pub fn circuits_at(&self, relay: usize) -> usize {
        let mut count = 0;
        for end in &self.ends {
            if end.node == Some(relay) && !end.initiator {
                count += end.link.circuits();
            }
        }
        count
    }

    /// Runs until `done` or until `limit` has passed from now; whether it was done.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let deadline = self.now + limit;
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            // What the caller just wrote leaves now.
            self.settle();
            let next_event = self.events.peek().map(|Reverse((when, ..))| *when);
            let next_timer = self
                .circuits
                .iter()
                .filter_map(|circuit| circuit.deadline())
                .min()
                .map(|at| at.saturating_duration_since(self.base));
            let next = match (next_event, next_timer) {
                (None, None) => return false,
                (a, b) => a.into_iter().chain(b).min().unwrap(),
            };
            if next > deadline {
                self.now = deadline;
                return false;
            }
            self.now = self.now.max(next);
            if next_timer.is_some_and(|timer| timer <= self.now) {
                let now = self.now();
                for circuit in self.circuits.clone() {
                    if circuit.deadline().is_some_and(|at| at <= now) {
                        circuit.expire(now);
                    }
                }
            }
            if next_event.is_some_and(|event| event <= self.now)
                && let Some(Reverse((_, _, event))) = self.events.pop()
            {
                self.handle(event);
            }
        }
    }

    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Pump(end) => self.ends[end].dirty.store(true, Ordering::SeqCst),
            Event::Extend(relay, circuit) => {
                let _ = relay;
                if let Some(circuit) = self.pending_extends.remove(&circuit) {
                    circuit.extend_failed(ExtendStatus::TimedOut);
                }
            }
            Event::Deliver(end, bytes) => {
                let now = self.now();
                if self.ends[end].broken {
                    return;
                }
                self.delivered += bytes.len() as u64;
                for chunk in bytes.chunks(8) {
                    let mut word = [0; 8];
                    word[..chunk.len()].copy_from_slice(chunk);
                    self.trace = self.trace.rotate_left(5) ^ u64::from_le_bytes(word);
                }
                let state = &mut self.ends[end];
                state.buffer.extend_from_slice(&bytes);
                match state.receiver.process(now, &mut state.buffer) {
                    Ok(done) => {
                        state.buffer.drain(..done);
                    }
                    Err(_) => self.cut(end),
                }
            }
        }
    }

    /// Lets relays act and links send until nothing more happens at this instant.
    fn settle(&mut self) {
        loop {
            let mut busy = false;
            for relay in 0..self.relays.len() {
                loop {
                    let request = self.relays[relay].inbox.0.lock().unwrap().pop_front();
                    let Some(request) = request else { break };
                    busy = true;
                    self.serve(relay, request);
                }
            }
            for end in 0..self.ends.len() {
                busy |= self.send(end);
            }
            if !busy {
                return;
            }
        }
    }

    fn send(&mut self, n: usize) -> bool {
        let peer_stalled = self.ends[self.ends[n].peer].stalled;
        let now = self.now;
        let end = &mut self.ends[n];
        if end.broken || peer_stalled || !end.dirty.swap(false, Ordering::SeqCst) {
            return false;
        }
        if end.free_at > now {
            let when = end.free_at;
            self.at(when, Event::Pump(n));
            return false;
        }
        let mut batch = Vec::new();
        let Ok(more) = end.transmitter.fill(self.base + now, &mut batch) else {
            return false;
        };
        if batch.is_empty() {
            return false;
        }
        let mut bytes: Vec<u8> = batch
            .iter()
            .flat_map(|frame| frame.bytes().iter().copied())
            .collect();
        if let Some(xor) = end.tamper.take() {
            let at = self.rng.random_range(0..bytes.len());
            bytes[at] ^= xor;
        }
        let end = &mut self.ends[n];
        end.free_at = now + Duration::from_secs_f64(bytes.len() as f64 / end.wire.rate as f64);
        let (arrival, peer) = (end.free_at + end.wire.delay, end.peer);
        if more {
            end.dirty.store(true, Ordering::SeqCst);
        }
        self.at(arrival, Event::Deliver(peer, bytes));
        true
    }

    fn serve(&mut self, relay: usize, request: Request) {
        match request {
            Request::Create(link, circuit, message) => match self.relays[relay].behaviour {
                Behaviour::Silent => {}
                Behaviour::Refusing => link.refuse(circuit, DestroyReason::Limit),
                Behaviour::Honest | Behaviour::Impostor => {
                    let Relay {
                        onion, hop_peer, ..
                    } = &self.relays[relay];
                    let _ = link.accept(circuit, &message, onion, hop_peer, &mut self.rng, |_| ());
                }
            },
            Request::Event(circuit, event) => self.hop_event(relay, circuit, event),
        }
    }

    fn hop_event(&mut self, relay: usize, circuit: Arc<HopCircuit>, event: MuxEvent) {
        match event {
            MuxEvent::Extend(request) => {
                let next = self
                    .relays
                    .iter()
                    .position(|relay| relay.id.0 == request.identity);
                let Some(next) = next else {
                    return circuit.extend_failed(ExtendStatus::NotListed);
                };
                let link = match self.relays[relay].links.get(&next) {
                    Some(link) if !link.is_closed() => Arc::clone(link),
                    _ => {
                        let link = self.connect(Some(relay), next);
                        self.relays[relay].links.insert(next, Arc::clone(&link));
                        link
                    }
                };
                if open_onward(&link, &circuit, &request.message, &mut self.rng).is_none() {
                    return circuit.extend_failed(ExtendStatus::Unreachable);
                }
                let number = circuit.number();
                self.pending_extends.insert(number, circuit);
                self.at(
                    self.now + Duration::from_secs(10),
                    Event::Extend(relay, number),
                );
            }
            MuxEvent::Open { stream, target, .. } => {
                let port = target.map_or(0, |target| target.port);
                if port == CLOSED {
                    circuit.with(|mux| mux.answer_open(stream, OpenStatus::ConnectionRefused));
                    return;
                }
                circuit.with(|mux| mux.answer_open(stream, OpenStatus::Open));
                let key = (circuit.number(), stream);
                let app = App {
                    circuit,
                    stream,
                    port,
                    finished: false,
                    left: VecDeque::new(),
                };
                self.relays[relay].apps.insert(key, app);
                self.run_app(relay, key);
            }
            MuxEvent::Readable { stream } | MuxEvent::Writable { stream } => {
                self.run_app(relay, (circuit.number(), stream));
            }
            MuxEvent::Opened { .. } | MuxEvent::Extended(_) => {
                circuit.close(DestroyReason::Protocol);
            }
        }
    }

    fn run_app(&mut self, relay: usize, key: (u64, u32)) {
        let (now, pool) = (self.now(), self.pool.clone());
        let Some(app) = self.relays[relay].apps.get_mut(&key) else {
            return;
        };
        let stream = app.stream;
        match app.port {
            ECHO => {
                let App {
                    circuit,
                    left,
                    finished,
                    ..
                } = app;
                circuit.with(|mux| {
                    loop {
                        while !left.is_empty() {
                            let bytes = left.make_contiguous();
                            let n = mux.send_bytes(&pool, stream, bytes);
                            if n == 0 {
                                return;
                            }
                            left.drain(..n);
                        }
                        match mux.recv(stream) {
                            Recv::Data(cell) => {
                                left.extend(cell.iter());
                                mux.consumed(now, stream, cell.len());
                            }
                            Recv::Finished if !*finished => {
                                *finished = true;
                                mux.finish(stream);
                                return;
                            }
                            _ => return,
                        }
                    }
                });
            }
            SOURCE => app
                .circuit
                .with(|mux| while mux.send_bytes(&pool, stream, &[0; 64_000]) > 0 {}),
            _ => {}
        }
    }
}

fn open_onward(
    link: &Arc<Link>,
    circuit: &Arc<HopCircuit>,
    message: &[u8],
    rng: &mut StdRng,
) -> Option<()> {
    link.open_onward(circuit, message.try_into().ok()?, rng)
        .ok()
}

impl Relay {
    fn new(behaviour: Behaviour, pool: &Pool, rng: &mut StdRng) -> Self {
        let (onion, link) = (DhSecret::generate(rng), DhSecret::generate(rng));
        let (mut id, mut digest) = ([0; 32], [0; 32]);
        rng.fill(&mut id);
        rng.fill(&mut digest);
        let suite = if rng.random() {
            Suite::Aes256Gcm
        } else {
            Suite::ChaCha20Poly1305
        };
        let listed = match behaviour {
            Behaviour::Impostor => DhSecret::generate(rng).public(),
            Behaviour::Honest | Behaviour::Silent | Behaviour::Refusing => onion.public(),
        };
        let inbox = Arc::new(Inbox::default());
        Self {
            id: RelayId(id),
            hop_peer: HopPeer {
                onion_key: listed,
                suite,
                digest,
            },
            link_peer: LinkPeer {
                link_key: link.public(),
                suite,
                digest,
                psk: None,
            },
            onion,
            link,
            behaviour,
            config: config(Arc::clone(&inbox), pool),
            inbox,
            links: BTreeMap::new(),
            apps: BTreeMap::new(),
        }
    }
}

fn config(handler: Arc<Inbox>, pool: &Pool) -> LinkConfig {
    LinkConfig {
        handler,
        pool: pool.clone(),
        budget: CreditBudget::new(16 * 1024 * 1024),
        max_circuits: 10_000,
    }
}
