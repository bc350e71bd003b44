//! A circuit of somebody else of which we are a hop: its layers, its end point here, and its two sides.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::link::{Link, copy_cell};
use super::lock;
use super::run::Run;
use crate::body::{DestroyReason, ExtendStatus, Extended};
use crate::circuit::mux::{End, Mux};
use crate::frame::CELL_OFFSET;
use crate::handshake::{CREATED_LEN, HopKeys};
use crate::keys::Key32;
use crate::layers::{BackwardHop, ForwardHop};
use crate::scheduler::CreditGate;

static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// Which way of a hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Towards the origin.
    Origin,
    /// Away from it.
    Onward,
}

/// The link away from the origin.
enum Next {
    /// The circuit ends here.
    None,
    /// CREATE was sent.
    Creating(Arc<Link>, u32),
    /// The next hop answered.
    Linked(Arc<Link>, u32),
    /// The circuit is gone.
    Gone,
}

struct Forward {
    layer: ForwardHop,
    next: Next,
}

struct EndPoint {
    layer: BackwardHop,
    mux: Mux,
}

/// A circuit that has us as a hop.
pub struct HopCircuit {
    link: Arc<Link>,
    id: u32,
    forward: Mutex<Forward>,
    end: Mutex<EndPoint>,
    origin_gate: Mutex<CreditGate>,
    onward_gate: Mutex<CreditGate>,
    /// The end point has cells to send that wait for room in the link's queue.
    starved: AtomicBool,
    gone: AtomicBool,
    number: u64,
    binding: Key32,
}

impl HopCircuit {
    pub(super) fn new(link: Arc<Link>, id: u32, keys: HopKeys) -> Arc<Self> {
        Arc::new(Self {
            origin_gate: link.gate(),
            onward_gate: link.gate(),
            link,
            id,
            forward: Mutex::new(Forward {
                layer: ForwardHop::new(keys.forward),
                next: Next::None,
            }),
            end: Mutex::new(EndPoint {
                layer: BackwardHop::new(keys.backward),
                mux: Mux::new(End::Hop),
            }),
            starved: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            binding: keys.binding,
        })
    }

    /// A number for logs, unique in this process.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What names this circuit to its origin and to us alone (§3.3).
    pub fn binding(&self) -> &Key32 {
        &self.binding
    }

    /// The link towards the origin.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Whether the circuit is gone.
    pub fn is_closed(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Does something with the streams that end here, sends what comes of it and tells the handler what happened.
    pub fn with<R>(self: &Arc<Self>, act: impl FnOnce(&mut Mux) -> R) -> R {
        let mut end = lock(&self.end);
        let result = act(&mut end.mux);
        self.settle(end);
        result
    }

    fn settle(self: &Arc<Self>, mut end: MutexGuard<'_, EndPoint>) {
        if self.is_closed() {
            return;
        }
        let pumped = self.pump(&mut end);
        let mut events = Vec::new();
        while let Some(event) = end.mux.poll_event() {
            events.push(event);
        }
        drop(end);
        for event in events {
            self.link.handler().hop_event(self, event);
        }
        if let Err(reason) = pumped {
            self.close(reason);
        }
    }

    /// Moves cells of the end point into the queue of the link towards the origin while that has room.
    fn pump(&self, end: &mut EndPoint) -> Result<(), DestroyReason> {
        loop {
            let mut room = self.link.room(self.id);
            if room == 0 {
                if !end.mux.has_cells() {
                    return Ok(());
                }
                // Say so before the last look, or a writer that empties the queue in between would not call us.
                self.starved.store(true, Ordering::SeqCst);
                room = self.link.room(self.id);
                if room == 0 {
                    return Ok(());
                }
                self.starved.store(false, Ordering::SeqCst);
            }
            let mut cells = Vec::new();
            while cells.len() < room
                && let Some(mut cell) = end.mux.poll_cell(self.link.pool())
            {
                end.layer
                    .originate(cell.cell_mut())
                    .map_err(|_| DestroyReason::Finished)?;
                cells.push(cell);
            }
            let over = cells.len() < room;
            self.link.push_data(self.id, cells)?;
            if over {
                return Ok(());
            }
        }
    }

    /// DATA frames came on the link towards the origin.
    pub(super) fn from_origin_side(self: &Arc<Self>, now: Instant, run: &mut Run<'_>) {
        if let Err(reason) = self.forward(now, run) {
            self.close(reason);
        }
    }

    fn forward(self: &Arc<Self>, now: Instant, run: &mut Run<'_>) -> Result<(), DestroyReason> {
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        let mut forward = lock(&self.forward);
        while let Some((class, frame)) = run.next() {
            lock(&self.origin_gate)
                .take()
                .map_err(|_| DestroyReason::Protocol)?;
            let is_ours = forward
                .layer
                .open(&mut frame[CELL_OFFSET..])
                .map_err(|_| DestroyReason::Protocol)?;
            let mut cell = copy_cell(self.link.pool(), class, frame);
            if is_ours {
                ours.push(cell);
            } else {
                cell.owed = true;
                others.push(cell);
            }
        }
        if !others.is_empty() {
            match &forward.next {
                Next::Linked(link, id) => link.push_data(*id, others)?,
                Next::None | Next::Creating(..) => return Err(DestroyReason::Protocol),
                Next::Gone => {}
            }
        }
        drop(forward);
        let taken = u32::try_from(ours.len()).unwrap_or(u32::MAX);
        if taken > 0 {
            let mut end = lock(&self.end);
            let handled = ours
                .into_iter()
                .try_for_each(|cell| end.mux.handle(now, cell));
            self.settle(end);
            handled.map_err(|_| DestroyReason::Protocol)?;
            // What an end point takes in is bounded by its streams' windows, so the credit goes back at once.
            self.link.give_back(now, self.id, &self.origin_gate, taken);
        }
        Ok(())
    }

    /// DATA frames came on the link away from the origin.
    pub(super) fn from_onward_side(self: &Arc<Self>, run: &mut Run<'_>) {
        if let Err(reason) = self.backward(run) {
            self.close(reason);
        }
    }

    fn backward(&self, run: &mut Run<'_>) -> Result<(), DestroyReason> {
        let mut cells = Vec::new();
        // Sealing and queueing under one lock: cells must leave in the order of their counters.
        let mut end = lock(&self.end);
        while let Some((class, frame)) = run.next() {
            lock(&self.onward_gate)
                .take()
                .map_err(|_| DestroyReason::Protocol)?;
            let mut cell = copy_cell(self.link.pool(), class, frame);
            cell.owed = true;
            end.layer
                .relay(cell.cell_mut())
                .map_err(|_| DestroyReason::Finished)?;
            cells.push(cell);
        }
        self.link.push_data(self.id, cells)
    }

    /// Frames of this circuit, `owed` of them relayed ones, were taken from the queue of the link in this direction.
    pub(super) fn left(self: &Arc<Self>, now: Instant, direction: Direction, owed: u32) {
        match direction {
            Direction::Onward => {
                if owed > 0 {
                    self.link.give_back(now, self.id, &self.origin_gate, owed);
                }
            }
            Direction::Origin => {
                if owed > 0 {
                    let next = match &lock(&self.forward).next {
                        Next::Linked(link, id) => Some((Arc::clone(link), *id)),
                        Next::None | Next::Creating(..) | Next::Gone => None,
                    };
                    if let Some((link, id)) = next {
                        link.give_back(now, id, &self.onward_gate, owed);
                    }
                }
                if self.starved.swap(false, Ordering::SeqCst) {
                    self.with(|_| ());
                }
            }
        }
    }

    /// CREATE is about to be sent on `link`. Whether the circuit can still be extended.
    pub(super) fn creating(&self, link: &Arc<Link>, id: u32) -> bool {
        let mut forward = lock(&self.forward);
        let free = matches!(forward.next, Next::None) && !self.is_closed();
        if free {
            forward.next = Next::Creating(Arc::clone(link), id);
        }
        free
    }

    /// Tells the origin that the circuit could not be extended, where it still waits for that.
    pub fn extend_failed(self: &Arc<Self>, status: ExtendStatus) {
        let next = {
            let mut forward = lock(&self.forward);
            match &forward.next {
                Next::Linked(..) | Next::Gone => return,
                Next::None => None,
                Next::Creating(link, id) => {
                    let next = (Arc::clone(link), *id);
                    forward.next = Next::None;
                    Some(next)
                }
            }
        };
        if let Some((link, id)) = next {
            link.drop_circuit(id, Some(DestroyReason::TimedOut));
        }
        self.with(|mux| {
            mux.answer_extend(Extended {
                status,
                answer: Vec::new(),
            })
        });
    }

    /// The next hop answered.
    pub(super) fn extended(self: &Arc<Self>, answer: &[u8; CREATED_LEN]) {
        {
            let mut forward = lock(&self.forward);
            // What is linked stays so until it is torn: the next hop's link must forget the circuit then.
            let Next::Creating(link, id) = &forward.next else {
                drop(forward);
                // CREATED that nobody waits for.
                return self.close(DestroyReason::Protocol);
            };
            forward.next = Next::Linked(Arc::clone(link), *id);
        }
        let (status, answer) = (ExtendStatus::Done, answer.to_vec());
        self.with(|mux| mux.answer_extend(Extended { status, answer }));
    }

    /// The neighbour on this side destroyed the circuit.
    pub(super) fn destroyed(self: &Arc<Self>, direction: Direction, reason: u8) {
        if direction == Direction::Onward {
            let waiting = matches!(lock(&self.forward).next, Next::Creating(..));
            if waiting {
                return self.extend_failed(ExtendStatus::Refused);
            }
        }
        self.torn(direction, DestroyReason::from_frame(reason));
    }

    /// One side is gone: the other is told.
    pub(super) fn torn(self: &Arc<Self>, gone: Direction, reason: DestroyReason) {
        self.tear(reason, gone != Direction::Origin, gone != Direction::Onward);
    }

    /// Ends the circuit, and tells both neighbours.
    pub fn close(self: &Arc<Self>, reason: DestroyReason) {
        self.tear(reason, true, true);
    }

    /// Ends a circuit that never came into its link's table.
    pub(super) fn discard(self: &Arc<Self>) {
        if !self.gone.swap(true, Ordering::AcqRel) {
            self.link.handler().hop_closed(self);
        }
    }

    fn tear(self: &Arc<Self>, reason: DestroyReason, tell_origin: bool, tell_next: bool) {
        if self.gone.swap(true, Ordering::AcqRel) {
            return;
        }
        let next = std::mem::replace(&mut lock(&self.forward).next, Next::Gone);
        self.link
            .drop_circuit(self.id, tell_origin.then_some(reason));
        match next {
            Next::Creating(link, id) | Next::Linked(link, id) => {
                link.drop_circuit(id, tell_next.then_some(reason));
            }
            Next::None | Next::Gone => {}
        }
        self.link.handler().hop_closed(self);
    }
}

impl std::fmt::Debug for HopCircuit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HopCircuit")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}
