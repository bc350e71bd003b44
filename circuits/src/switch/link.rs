//! One link of the switch: its table of circuits, its queue, its reader's and its writer's half.

mod receiver;
mod transmitter;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use rand::{CryptoRng, RngExt};

use super::hop::{Direction, HopCircuit};
use super::origin::OriginCircuit;
use super::{Handler, OriginHandler, Wake, lock};
use transmitter::BATCH;

use crate::body::DestroyReason;
use crate::circuit::origin::Origin;
use crate::frame::{Class, DecodeError, FrameBuf, FrameType, Header, Pool};
use crate::handshake::{CREATE_LEN, HandshakeError, HopPeer, hop_respond};
use crate::keys::{DhSecret, RelayId};
use crate::link::{AuthError, LinkError, LinkKeys};
use crate::scheduler::{CreditBudget, CreditGate, Full, SHORT_LEN, Scheduler};
pub use receiver::Receiver;
pub(super) use receiver::copy_cell;
pub use transmitter::Transmitter;

/// Circuits that one link carries at the most, whoever the neighbour is: bounds the table.
/// Owners set lower limits for neighbours that are not relays.
pub const MAX_CIRCUITS: usize = 65_536;

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
        self.handshake_frame(FrameType::Create, id, message)?;
        if circuit.is_closed() {
            // It was torn in between, when there was nothing to take out of the queue yet, and the neighbour heard its
            // end before its beginning.
            self.drop_circuit(id, Some(DestroyReason::Finished));
            return Err(OpenError::Closed);
        }
        Ok(())
    }

    /// Answers a CREATE: the neighbour's circuit now has us as a hop. Costs the handshake's
    /// processor time. `register` is called before the circuit can have events; where it is gone already,
    /// [`Handler::hop_closed`] follows at once.
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
        register(&hop);
        let wanted = {
            // From one to the other in one step: a DESTROY or CREATE of this id that comes meanwhile must find it in
            // one of them, and a link that closes must find it here or have taken it.
            let mut table = lock(&self.table);
            let wanted = lock(&self.pending).remove(&circuit) && !self.is_closed();
            if wanted {
                table.insert(circuit, Entry::Hop(Arc::clone(&hop)));
            }
            wanted
        };
        if !wanted {
            hop.discard();
            return Ok(hop);
        }
        let sent = self
            .schedule(circuit, Entry::Hop(Arc::clone(&hop)))
            .and_then(|()| self.handshake_frame(FrameType::Created, circuit, &answer));
        if sent.is_err() {
            hop.close(DestroyReason::LinkLost);
        } else if hop.is_closed() {
            // Torn in between, when there was nothing to take out of the queue yet.
            self.drop_circuit(circuit, None);
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
        // From here on no circuit comes into the table: who adds one looks at `closed` under its lock.
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

    pub(super) fn handshake_frame(
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

    /// Circuits that its queue knows.
    #[cfg(test)]
    pub(super) fn scheduled(&self) -> usize {
        lock(&self.queue).scheduler.circuits()
    }

    /// Keeps everybody away from its queue.
    #[cfg(test)]
    pub(super) fn hold_queue(&self) -> impl Sized + '_ {
        lock(&self.queue)
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
