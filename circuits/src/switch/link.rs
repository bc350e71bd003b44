//! One link of the switch: its table of circuits, its queue, its reader's and its writer's half.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use rand::{CryptoRng, RngExt};

use super::hop::{Direction, HopCircuit};
use super::origin::OriginCircuit;
use super::run::Run;
use super::{Handler, OriginHandler, Wake, lock};
use crate::body::DestroyReason;
use crate::circuit::origin::Origin;
use crate::frame::{
    BODY_OFFSET, CELL_OFFSET, Class, DecodeError, FrameBuf, FrameType, HEADER_LEN, Header, Pool,
};
use crate::handshake::{CREATE_LEN, CREATED_LEN, HandshakeError, HopPeer, hop_respond};
use crate::keys::{DhSecret, RelayId};
use crate::link::{AuthError, LinkError, LinkKeys, LinkOpener, LinkSealer, verify_auth};
use crate::scheduler::{CreditBudget, CreditGate, Full, SHORT_LEN, Scheduler};

/// Circuits that one link carries at the most, whoever the neighbour is: bounds the table.
/// Owners set lower limits for neighbours that are not relays.
pub const MAX_CIRCUITS: usize = 65_536;

/// Frames sealed in one go: enough to fill a socket's buffer, few enough that a fresh control frame soon gets its turn.
const BATCH: usize = 64;

/// Why a link must be closed. Its circuits are torn down with reason 7 (link lost).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkClosed {
    /// The neighbour broke §2.1.
    #[error("the neighbour sent a bad frame header: {0}")]
    Header(#[from] DecodeError),
    /// A frame was changed on its way, or is not from the neighbour.
    #[error("a frame did not open: {0}")]
    Frame(#[from] LinkError),
    /// The proof in AUTH is wrong.
    #[error("the neighbour's proof of identity is wrong: {0}")]
    Auth(#[from] AuthError),
    /// The neighbour broke §2.
    #[error("the neighbour broke the protocol: {0}")]
    Protocol(&'static str),
    /// The queue of control frames is full: the neighbour asks for more than it takes away.
    #[error("the neighbour does not read what it asks for")]
    Flooded,
    /// The owner closed it.
    #[error("the link was closed")]
    Closed,
}

/// A circuit could not be begun on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The link is gone: use another.
    #[error("the link is closed")]
    Closed,
    /// The link carries too many circuits or control frames: use another or wait.
    #[error("the link is full")]
    Full,
}

/// What a link shares with its node.
#[derive(Clone)]
pub struct LinkConfig {
    /// Whom it tells.
    pub handler: Arc<dyn Handler>,
    /// Where its buffers come from.
    pub pool: Pool,
    /// Memory that all circuits of the node may use beyond their first credits.
    pub budget: CreditBudget,
    /// Circuits that the neighbour may have open at once.
    pub max_circuits: usize,
}

#[derive(Clone)]
pub(super) enum Entry {
    /// We are a hop, and the origin is this way.
    Hop(Arc<HopCircuit>),
    /// We are a hop, and the next one is this way.
    Onward(Arc<HopCircuit>),
    /// We are the origin.
    Origin(Arc<OriginCircuit>),
}

/// Whose frames leave in a queue of the scheduler.
pub(super) type Owner = Entry;

struct Queue {
    scheduler: Scheduler<Owner>,
    closed: bool,
}

/// A link, as circuits and its owner see it.
pub struct Link {
    queue: Mutex<Queue>,
    table: Mutex<BTreeMap<u32, Entry>>,
    /// A CREATE that waits for its answer counts as a circuit.
    pending: Mutex<std::collections::BTreeSet<u32>>,
    config: LinkConfig,
    wake: Wake,
    initiator: bool,
    max_circuits: AtomicU64,
    relay: OnceLock<RelayId>,
    closed: AtomicBool,
    number: u64,
}

/// The reading half of a link.
pub struct Receiver {
    link: Arc<Link>,
    opener: LinkOpener,
    hash: [u8; 32],
    first: bool,
}

/// The writing half of a link.
pub struct Transmitter {
    link: Arc<Link>,
    sealer: LinkSealer,
    headers: Vec<Header>,
}

static NUMBERS: AtomicU64 = AtomicU64::new(1);

impl Link {
    /// Makes a link of the keys that a handshake gave.
    pub fn new(
        keys: LinkKeys,
        initiator: bool,
        config: LinkConfig,
        wake: Wake,
    ) -> (Arc<Self>, Receiver, Transmitter) {
        let link = Arc::new(Self {
            queue: Mutex::new(Queue {
                scheduler: Scheduler::new(),
                closed: false,
            }),
            table: Mutex::default(),
            pending: Mutex::default(),
            max_circuits: AtomicU64::new(config.max_circuits as u64),
            config,
            wake,
            initiator,
            relay: OnceLock::new(),
            closed: AtomicBool::new(false),
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
        });
        let LinkKeys {
            sealer,
            opener,
            hash,
        } = keys;
        let receiver = Receiver {
            link: Arc::clone(&link),
            opener,
            hash,
            first: true,
        };
        let transmitter = Transmitter {
            link: Arc::clone(&link),
            sealer,
            headers: Vec::with_capacity(BATCH),
        };
        (link, receiver, transmitter)
    }

    /// A number for logs, unique in this process.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The relay at the other end, where it proved who it is (§2.5).
    pub fn relay(&self) -> Option<RelayId> {
        self.relay.get().copied()
    }

    /// Circuits on this link now, with those being built.
    pub fn circuits(&self) -> usize {
        lock(&self.table).len() + lock(&self.pending).len()
    }

    /// Whether the link was closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Lets the neighbour have this many circuits at once (up to [`MAX_CIRCUITS`]).
    pub fn set_max_circuits(&self, max: usize) {
        self.max_circuits
            .store(max.min(MAX_CIRCUITS) as u64, Ordering::Relaxed);
    }

    pub(super) fn handler(&self) -> &Arc<dyn Handler> {
        &self.config.handler
    }

    /// Where the link's buffers come from.
    pub fn pool(&self) -> &Pool {
        &self.config.pool
    }

    pub(super) fn gate(&self) -> Mutex<CreditGate> {
        Mutex::new(CreditGate::new(self.config.budget.clone()))
    }

    /// Sends AUTH; must come before anything else (§2.5).
    ///
    /// # Errors
    /// The link is closed.
    pub fn send_auth(&self, body: &[u8; 96]) -> Result<(), OpenError> {
        let mut frame = self.config.pool.take_zeroed(Class::Small);
        frame.body_mut()[..body.len()].copy_from_slice(body);
        self.push_control(FrameType::Auth, 0, frame)
    }

    /// Asks the neighbour for a sign of life (§2.6).
    ///
    /// # Errors
    /// The link is closed.
    pub fn ping(&self, nonce: u64) -> Result<(), OpenError> {
        let mut body = [0; SHORT_LEN];
        body[1..].copy_from_slice(&nonce.to_be_bytes());
        self.short(FrameType::Ping, 0, body)
    }

    /// Sends a padding frame (§2.6).
    ///
    /// # Errors
    /// The link is closed.
    pub fn pad(&self) -> Result<(), OpenError> {
        self.short(FrameType::Pad, 0, [0; SHORT_LEN])
    }

    /// Begins a circuit of ours whose first hop is the neighbour.
    ///
    /// # Errors
    /// Use another link.
    pub fn open_origin(
        self: &Arc<Self>,
        origin: Origin,
        handler: Arc<dyn OriginHandler>,
        rng: &mut dyn CryptoRng,
    ) -> Result<Arc<OriginCircuit>, OpenError> {
        let mut table = lock(&self.table);
        let id = self.fresh_id(&table, rng)?;
        let circuit = OriginCircuit::new(Arc::clone(self), id, origin, handler);
        table.insert(id, Entry::Origin(Arc::clone(&circuit)));
        drop(table);
        self.schedule(id, Entry::Origin(Arc::clone(&circuit)))?;
        circuit.with(|_| ());
        Ok(circuit)
    }

    /// Asks the neighbour to become the next hop of a circuit that ends here so far (§5.5).
    ///
    /// # Errors
    /// Tell the origin that the relay could not be reached.
    pub fn open_onward(
        self: &Arc<Self>,
        circuit: &Arc<HopCircuit>,
        message: &[u8; CREATE_LEN],
        rng: &mut dyn CryptoRng,
    ) -> Result<(), OpenError> {
        let mut table = lock(&self.table);
        let id = self.fresh_id(&table, rng)?;
        if !circuit.creating(self, id) {
            return Err(OpenError::Closed);
        }
        table.insert(id, Entry::Onward(Arc::clone(circuit)));
        drop(table);
        self.schedule(id, Entry::Onward(Arc::clone(circuit)))?;
        self.handshake_frame(FrameType::Create, id, message)
    }

    /// Answers a CREATE: the neighbour's circuit now has us as a hop. Costs the handshake's
    /// processor time. `register` is called before the circuit can have events, unless it is gone already.
    ///
    /// # Errors
    /// The message is not for us or broken (the neighbour was told), or the link is gone.
    pub fn accept(
        self: &Arc<Self>,
        circuit: u32,
        message: &[u8; CREATE_LEN],
        secret: &DhSecret,
        own: &HopPeer,
        rng: &mut dyn CryptoRng,
        register: impl FnOnce(&Arc<HopCircuit>),
    ) -> Result<Arc<HopCircuit>, HandshakeError> {
        let (answer, keys) = match hop_respond(secret, own, message, rng) {
            Ok(done) => done,
            Err(error) => {
                self.refuse(circuit, DestroyReason::Protocol);
                return Err(error);
            }
        };
        let hop = HopCircuit::new(Arc::clone(self), circuit, keys);
        if lock(&self.pending).remove(&circuit) {
            register(&hop);
            lock(&self.table).insert(circuit, Entry::Hop(Arc::clone(&hop)));
            let sent = self
                .schedule(circuit, Entry::Hop(Arc::clone(&hop)))
                .and_then(|()| self.handshake_frame(FrameType::Created, circuit, &answer));
            if sent.is_err() {
                hop.close(DestroyReason::LinkLost);
            }
        }
        Ok(hop)
    }

    /// Refuses a CREATE.
    pub fn refuse(&self, circuit: u32, reason: DestroyReason) {
        if lock(&self.pending).remove(&circuit) {
            self.send_destroy(circuit, reason);
        }
    }

    /// Tears down all circuits. The owner then closes the transport.
    pub fn close(&self, now: Instant) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let entries = std::mem::take(&mut *lock(&self.table));
        lock(&self.pending).clear();
        {
            let mut queue = lock(&self.queue);
            queue.closed = true;
            queue.scheduler = Scheduler::new();
        }
        for entry in entries.into_values() {
            match entry {
                Entry::Hop(circuit) => circuit.torn(Direction::Origin, DestroyReason::LinkLost),
                Entry::Onward(circuit) => circuit.torn(Direction::Onward, DestroyReason::LinkLost),
                Entry::Origin(circuit) => circuit.destroyed(now, DestroyReason::LinkLost as u8),
            }
        }
        (self.wake)();
    }

    fn fresh_id(
        &self,
        table: &BTreeMap<u32, Entry>,
        rng: &mut dyn CryptoRng,
    ) -> Result<u32, OpenError> {
        if !self.initiator || self.is_closed() {
            return Err(OpenError::Closed);
        }
        if table.len() >= MAX_CIRCUITS {
            return Err(OpenError::Full);
        }
        loop {
            let id: u32 = rng.random();
            if id != 0 && !table.contains_key(&id) {
                return Ok(id);
            }
        }
    }

    fn schedule(&self, circuit: u32, owner: Owner) -> Result<(), OpenError> {
        let mut queue = lock(&self.queue);
        if queue.closed {
            return Err(OpenError::Closed);
        }
        queue.scheduler.add(circuit, owner);
        Ok(())
    }

    fn handshake_frame(
        &self,
        kind: FrameType,
        circuit: u32,
        message: &[u8],
    ) -> Result<(), OpenError> {
        let mut frame = self.config.pool.take_zeroed(Class::Bulk);
        let body = frame.body_mut();
        // Both messages are shorter than a body (§3).
        body[..2].copy_from_slice(&(message.len() as u16).to_be_bytes());
        body[2..2 + message.len()].copy_from_slice(message);
        self.push_control(kind, circuit, frame)
    }

    fn short(&self, kind: FrameType, circuit: u32, body: [u8; SHORT_LEN]) -> Result<(), OpenError> {
        let header = Header {
            circuit,
            kind,
            class: Class::Small,
            credit: 0,
        };
        self.queue_control(|scheduler| scheduler.push_short(header, body))
    }

    pub(super) fn push_control(
        &self,
        kind: FrameType,
        circuit: u32,
        frame: FrameBuf,
    ) -> Result<(), OpenError> {
        let header = Header {
            circuit,
            kind,
            class: frame.class(),
            credit: 0,
        };
        self.queue_control(|scheduler| scheduler.push_control(header, frame))
    }

    fn queue_control(
        &self,
        push: impl FnOnce(&mut Scheduler<Owner>) -> Result<(), Full>,
    ) -> Result<(), OpenError> {
        {
            let mut queue = lock(&self.queue);
            if queue.closed {
                return Err(OpenError::Closed);
            }
            push(&mut queue.scheduler).map_err(|_| OpenError::Full)?;
        }
        (self.wake)();
        Ok(())
    }

    /// Queues cells of a circuit, in this order.
    pub(super) fn push_data(
        &self,
        circuit: u32,
        frames: Vec<FrameBuf>,
    ) -> Result<(), DestroyReason> {
        if frames.is_empty() {
            return Ok(());
        }
        let sendable = {
            let mut queue = lock(&self.queue);
            if queue.closed {
                return Err(DestroyReason::LinkLost);
            }
            queue
                .scheduler
                .push_data(circuit, frames)
                .map_err(|_| DestroyReason::Limit)?;
            queue.scheduler.sendable()
        };
        self.wake_if(sendable);
        Ok(())
    }

    /// Wakes the writer, unless all that waits waits for credit: then the frame that brings it does.
    fn wake_if(&self, sendable: bool) {
        if sendable {
            (self.wake)();
        }
    }

    pub(super) fn room(&self, circuit: u32) -> usize {
        lock(&self.queue).scheduler.room(circuit)
    }

    /// Gives credits back to the neighbour for frames of this circuit that have left us.
    pub(super) fn give_back(
        &self,
        now: Instant,
        circuit: u32,
        gate: &Mutex<CreditGate>,
        frames: u32,
    ) {
        let grant: u32 = {
            let mut gate = lock(gate);
            (0..frames).map(|_| gate.departed(now)).sum()
        };
        if grant == 0 {
            return;
        }
        let sendable = {
            let mut queue = lock(&self.queue);
            queue.scheduler.owe(circuit, grant);
            queue.scheduler.sendable()
        };
        self.wake_if(sendable);
    }

    /// Forgets a circuit, and tells the neighbour.
    pub(super) fn drop_circuit(&self, circuit: u32, reason: Option<DestroyReason>) {
        lock(&self.table).remove(&circuit);
        let removed = lock(&self.queue).scheduler.remove(circuit);
        drop(removed);
        if let Some(reason) = reason {
            self.send_destroy(circuit, reason);
        }
    }

    fn send_destroy(&self, circuit: u32, reason: DestroyReason) {
        // A link whose control queue is full is closed by its reader, which tells the neighbour as much.
        let mut body = [0; SHORT_LEN];
        body[0] = reason as u8;
        let _ = self.short(FrameType::Destroy, circuit, body);
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Receiver {
    /// The link.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Takes what has come, and works all whole frames at the front of `bytes`, in place. Gives how many bytes those were;
    /// the caller shows the rest again with more behind it.
    ///
    /// # Errors
    /// Close the transport and call [`Link::close`].
    pub fn process(&mut self, now: Instant, bytes: &mut [u8]) -> Result<usize, LinkClosed> {
        let mut at = 0;
        while let Some(masked) = bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk::<HEADER_LEN>())
        {
            let peeked = self.opener.peek(masked)?;
            let Some(frame) = bytes.get_mut(at..at + peeked.class.frame_len()) else {
                break;
            };
            if self.link.is_closed() {
                return Err(LinkClosed::Closed);
            }
            if peeked.kind == FrameType::Data {
                at += self.data(now, peeked.circuit, &mut bytes[at..])?;
            } else {
                let header = self.opener.open(frame)?;
                at += frame.len();
                self.dispatch(now, header, frame)?;
            }
        }
        Ok(at)
    }

    /// Works the DATA frames of one circuit at the front of `bytes`; gives how many bytes those were.
    fn data(&mut self, now: Instant, circuit: u32, bytes: &mut [u8]) -> Result<usize, LinkClosed> {
        self.first = false;
        let entry = lock(&self.link.table).get(&circuit).cloned();
        let mut run = Run::new(&mut self.opener, circuit, bytes);
        match &entry {
            Some(Entry::Hop(hop)) => hop.from_origin_side(now, &mut run),
            Some(Entry::Onward(hop)) => hop.from_onward_side(&mut run),
            Some(Entry::Origin(origin)) => origin.from_hop(now, &mut run),
            None => while run.next().is_some() {},
        }
        let (taken, credit) = run.finish()?;
        if credit != 0 {
            self.credited(circuit, credit, entry.as_ref());
        }
        Ok(taken)
    }

    fn dispatch(
        &mut self,
        now: Instant,
        header: Header,
        frame: &mut [u8],
    ) -> Result<(), LinkClosed> {
        let first = std::mem::replace(&mut self.first, false);
        let Header {
            circuit,
            kind,
            credit,
            ..
        } = header;
        let entry = if circuit == 0 {
            None
        } else {
            lock(&self.link.table).get(&circuit).cloned()
        };
        if credit != 0 && entry.is_some() {
            self.credited(circuit, credit.into(), entry.as_ref());
        }
        match kind {
            FrameType::Create => return self.create(circuit, entry.is_some(), frame),
            FrameType::Created => match entry {
                Some(Entry::Origin(origin)) => {
                    origin.with(|state| state.handle_created(now, &frame[BODY_OFFSET..]));
                }
                Some(Entry::Onward(hop)) => match answer(frame) {
                    Some(answer) => hop.extended(answer),
                    None => hop.torn(Direction::Onward, DestroyReason::Protocol),
                },
                Some(Entry::Hop(_)) => return Err(LinkClosed::Protocol("CREATED from an origin")),
                None => {}
            },
            FrameType::Destroy => {
                let reason = frame[BODY_OFFSET];
                match entry {
                    Some(Entry::Hop(hop)) => hop.destroyed(Direction::Origin, reason),
                    Some(Entry::Onward(hop)) => hop.destroyed(Direction::Onward, reason),
                    Some(Entry::Origin(origin)) => origin.destroyed(now, reason),
                    None => {
                        lock(&self.link.pending).remove(&circuit);
                    }
                }
            }
            // DATA does not come here.
            FrameType::Data | FrameType::Credit | FrameType::Pad => {}
            FrameType::Auth => {
                if !first || self.link.initiator {
                    return Err(LinkClosed::Protocol("AUTH out of place"));
                }
                let relay = verify_auth(&frame[BODY_OFFSET..], &self.hash)?;
                if self.link.relay.set(relay).is_ok() {
                    self.link.handler().authenticated(&self.link, relay);
                }
            }
            FrameType::Ping => {
                let body = &frame[BODY_OFFSET..BODY_OFFSET + SHORT_LEN];
                if body[0] == 0 {
                    let mut pong = [0; SHORT_LEN];
                    pong.copy_from_slice(body);
                    pong[0] = 1;
                    self.link
                        .short(FrameType::Ping, 0, pong)
                        .map_err(|_| LinkClosed::Flooded)?;
                }
            }
        }
        Ok(())
    }

    fn credited(&self, circuit: u32, credit: u32, entry: Option<&Entry>) {
        let (granted, sendable) = {
            let mut queue = lock(&self.link.queue);
            let granted = queue.scheduler.grant_received(circuit, credit);
            (granted, queue.scheduler.sendable())
        };
        match (granted, entry) {
            (Ok(()), _) => self.link.wake_if(sendable),
            (Err(_), Some(Entry::Hop(hop) | Entry::Onward(hop))) => {
                hop.close(DestroyReason::Protocol);
            }
            (Err(_), Some(Entry::Origin(origin))) => origin.close(DestroyReason::Protocol),
            (Err(_), None) => {}
        }
    }

    fn create(&self, circuit: u32, in_use: bool, frame: &[u8]) -> Result<(), LinkClosed> {
        let link = &self.link;
        if link.initiator {
            return Err(LinkClosed::Protocol("CREATE from a link's responder"));
        }
        if in_use || !lock(&link.pending).insert(circuit) {
            return Err(LinkClosed::Protocol("CREATE with a circuit id in use"));
        }
        if link.circuits() as u64 > link.max_circuits.load(Ordering::Relaxed) {
            link.refuse(circuit, DestroyReason::Limit);
            return Ok(());
        }
        match handshake_body::<CREATE_LEN>(frame) {
            Some(message) => link.handler().create(link, circuit, message),
            None => link.refuse(circuit, DestroyReason::Protocol),
        }
        Ok(())
    }
}

fn answer(frame: &[u8]) -> Option<&[u8; CREATED_LEN]> {
    handshake_body(frame)
}

fn handshake_body<const N: usize>(frame: &[u8]) -> Option<&[u8; N]> {
    let (len, rest) = frame.get(BODY_OFFSET..)?.split_first_chunk::<2>()?;
    if usize::from(u16::from_be_bytes(*len)) != N {
        return None;
    }
    rest.first_chunk()
}

impl Transmitter {
    /// The link.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Adds sealed frames, ready to be written in this order, until `batch` holds 64 or nothing more may leave.
    /// Whether more may be had at once.
    ///
    /// # Errors
    /// The link is closed: close the transport.
    pub fn fill(&mut self, now: Instant, batch: &mut Vec<FrameBuf>) -> Result<bool, LinkClosed> {
        let begin = batch.len();
        let mut left: Vec<(Owner, u32)> = Vec::new();
        let more;
        {
            let mut queue = lock(&self.link.queue);
            if queue.closed {
                return Err(LinkClosed::Closed);
            }
            while batch.len() < BATCH {
                let Some(popped) = queue.scheduler.pop(&self.link.config.pool) else {
                    break;
                };
                if let Some(owner) = popped.owner {
                    let owed = u32::from(popped.frame.owed);
                    match left.last_mut() {
                        Some((last, frames)) if same(last, owner) => *frames += owed,
                        _ => left.push((owner.clone(), owed)),
                    }
                }
                self.headers.push(popped.header);
                batch.push(popped.frame);
            }
            more = batch.len() >= BATCH;
        }
        for (header, frame) in self.headers.drain(..).zip(&mut batch[begin..]) {
            self.sealer.seal(header, frame.bytes_mut())?;
        }
        for (owner, frames) in left {
            match owner {
                Entry::Hop(hop) => hop.left(now, Direction::Origin, frames),
                Entry::Onward(hop) => hop.left(now, Direction::Onward, frames),
                Entry::Origin(origin) => origin.left(),
            }
        }
        Ok(more)
    }
}

fn same(a: &Owner, b: &Owner) -> bool {
    match (a, b) {
        (Entry::Hop(a), Entry::Hop(b)) | (Entry::Onward(a), Entry::Onward(b)) => Arc::ptr_eq(a, b),
        (Entry::Origin(a), Entry::Origin(b)) => Arc::ptr_eq(a, b),
        (Entry::Hop(_) | Entry::Onward(_) | Entry::Origin(_), _) => false,
    }
}

/// Copies the cell of a frame in a read buffer into a pooled one.
pub(super) fn copy_cell(pool: &Pool, class: Class, frame: &[u8]) -> FrameBuf {
    let mut copy = pool.take(class);
    copy.cell_mut().copy_from_slice(&frame[CELL_OFFSET..]);
    copy
}
