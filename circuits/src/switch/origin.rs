//! A circuit of ours, on the link to its first hop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::link::{Link, copy_cell};
use super::run::Run;
use super::{OriginHandler, lock};
use crate::body::DestroyReason;
use crate::circuit::origin::Origin;
use crate::frame::FrameType;
use crate::scheduler::CreditGate;

static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// A circuit that we built, or are building.
pub struct OriginCircuit {
    link: Arc<Link>,
    id: u32,
    state: Mutex<Origin>,
    handler: Arc<dyn OriginHandler>,
    gate: Mutex<CreditGate>,
    /// It has cells to send that wait for room in the link's queue.
    starved: AtomicBool,
    gone: AtomicBool,
    number: u64,
}

impl OriginCircuit {
    pub(super) fn new(
        link: Arc<Link>,
        id: u32,
        origin: Origin,
        handler: Arc<dyn OriginHandler>,
    ) -> Arc<Self> {
        Arc::new(Self {
            gate: link.gate(),
            link,
            id,
            state: Mutex::new(origin),
            handler,
            starved: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// A number for logs, unique in this process.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The link to the first hop.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Does something with the circuit's state, sends what comes of it and tells the handler what happened.
    pub fn with<R>(self: &Arc<Self>, act: impl FnOnce(&mut Origin) -> R) -> R {
        let mut state = lock(&self.state);
        let result = act(&mut state);
        self.pump(&mut state);
        if state.is_closed()
            && let Some((kind, frame)) = state.poll_transmit(self.link.pool())
        {
            // DESTROY, which needs no room: the queue may be full of cells that wait for credit, and is dropped now.
            let _ = self.link.push_control(kind, self.id, frame);
        }
        let mut events = Vec::new();
        while let Some(event) = state.poll_event() {
            events.push(event);
        }
        let closed = state.is_closed();
        drop(state);
        for event in events {
            self.handler.event(event);
        }
        if closed && !self.gone.swap(true, Ordering::AcqRel) {
            self.link.drop_circuit(self.id, None);
        }
        result
    }

    /// When [`OriginCircuit::expire`] wants to be called.
    pub fn deadline(&self) -> Option<Instant> {
        lock(&self.state).poll_timeout()
    }

    /// Lets deadlines pass.
    pub fn expire(self: &Arc<Self>, now: Instant) {
        self.with(|state| state.handle_timeout(now));
    }

    /// Ends the circuit, and tells its hops.
    pub fn close(self: &Arc<Self>, reason: DestroyReason) {
        self.with(|state| state.close(reason));
    }

    /// The neighbour, or the loss of the link, ended it.
    pub(super) fn destroyed(self: &Arc<Self>, now: Instant, reason: u8) {
        self.with(|state| state.handle_destroy(now, reason));
    }

    /// DATA frames came from the first hop; their cells are still under the onion layers.
    pub(super) fn from_hop(self: &Arc<Self>, now: Instant, run: &mut Run<'_>) {
        let taken = self.with(|state| {
            let mut taken = 0;
            while let Some((class, frame)) = run.next() {
                if lock(&self.gate).take().is_err() {
                    state.close(DestroyReason::Protocol);
                    break;
                }
                taken += 1;
                state.handle_cell(now, copy_cell(self.link.pool(), class, frame));
            }
            taken
        });
        // What a circuit takes in is bounded by its streams' windows, so the credit goes back at once.
        self.link.give_back(now, self.id, &self.gate, taken);
    }

    /// Frames of this circuit were taken from the link's queue.
    pub(super) fn left(self: &Arc<Self>) {
        if self.starved.swap(false, Ordering::SeqCst) {
            self.with(|_| ());
        }
    }

    /// Moves cells into the link's queue while it has room for them.
    fn pump(&self, state: &mut Origin) {
        loop {
            let mut room = self.link.room(self.id);
            if room == 0 {
                // Say so before the last look, or a writer that empties the queue in between would not call us.
                self.starved.store(true, Ordering::SeqCst);
                room = self.link.room(self.id);
                if room == 0 {
                    return;
                }
                self.starved.store(false, Ordering::SeqCst);
            }
            let mut cells = Vec::new();
            let mut control = None;
            while cells.len() < room && control.is_none() {
                match state.poll_transmit(self.link.pool()) {
                    Some((FrameType::Data, cell)) => cells.push(cell),
                    Some(other) => control = Some(other),
                    None => break,
                }
            }
            let full = cells.len() == room;
            // Where either fails, the link is gone or its queue full: nothing of this circuit can leave any more.
            if self.link.push_data(self.id, cells).is_err() {
                return;
            }
            match control {
                Some((kind, frame)) => {
                    if self.link.push_control(kind, self.id, frame).is_err() {
                        return;
                    }
                }
                None if full => {}
                None => return,
            }
        }
    }
}

impl std::fmt::Debug for OriginCircuit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OriginCircuit")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}
