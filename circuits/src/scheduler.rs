//! What waits to leave one link: control frames, credits, and cells by deficit round robin (PROTOCOL.md §6.2, §6.3).
//!
//! Circuits take turns by bytes, as in FQ-CoDel (RFC 8290, without its dropping): one that has just become active goes before
//! those that send all the time, so a request does not wait behind other people's downloads.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::frame::{BULK_LEN, Class, FrameBuf, FrameType, Header, Pool};

/// DATA frames that either side of a link may send on a new circuit (§6.2).
pub const FIRST_CREDIT: u32 = 64;
/// DATA frames outstanding on one circuit in one direction, at the most (§6.2).
pub const MAX_CREDIT: u32 = 1024;
/// Frames that an end point queues on a circuit before it waits. What is queued can't be overtaken.
pub const OUT_QUEUE: usize = 64;
/// Control frames that may wait. A neighbour that asks for more without reading is cut off.
pub const MAX_CONTROL: usize = 4096;
/// Credits that are worth a frame of their own.
const CREDIT_FRAME: u32 = 16;
/// Bytes a circuit sends before the next has its turn: four bulk frames.
const QUANTUM: i64 = 4 * BULK_LEN as i64;

/// The control queue is full: close the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many control frames wait to be sent")]
pub struct Full;

/// A cell can't be queued: destroy the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// No such circuit on this link.
    #[error("no such circuit on this link")]
    Unknown,
    /// More cells wait than credits could ever have let in.
    #[error("too many cells wait on this circuit")]
    Full,
}

/// The neighbour granted more than §6.2 allows: destroy the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {MAX_CREDIT} credits outstanding")]
pub struct CreditOverflow;

/// The neighbour sent without credit: destroy the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("DATA without credit")]
pub struct CreditOverrun;

/// Where a circuit stands in the rounds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Idle,
    New,
    Old,
}

struct Circuit<T> {
    owner: T,
    cells: VecDeque<FrameBuf>,
    credit: u32,
    deficit: i64,
    turn: Turn,
    /// Credits that the neighbour has not been told of.
    owed: u32,
    /// Whether the circuit stands in the list of those that may need a CREDIT frame.
    in_owing: bool,
}

impl<T> Circuit<T> {
    fn is_sendable(&self) -> bool {
        self.credit > 0 && !self.cells.is_empty()
    }
}

/// The next frame to leave.
#[derive(Debug)]
pub struct Popped<'a, T> {
    /// Its header, with the credits that travel along.
    pub header: Header,
    /// The frame, not sealed yet.
    pub frame: FrameBuf,
    /// Whose cell it is; `None` for control frames.
    pub owner: Option<&'a T>,
}

/// Queues of one link. `T` says whose a circuit is.
pub struct Scheduler<T> {
    control: VecDeque<(Header, FrameBuf)>,
    circuits: HashMap<u32, Circuit<T>>,
    new: VecDeque<u32>,
    old: VecDeque<u32>,
    owing: VecDeque<u32>,
}

impl<T> Default for Scheduler<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Scheduler<T> {
    /// Makes empty queues.
    pub fn new() -> Self {
        Self {
            control: VecDeque::new(),
            circuits: HashMap::new(),
            new: VecDeque::new(),
            old: VecDeque::new(),
            owing: VecDeque::new(),
        }
    }

    /// Adds a circuit with its first credits.
    pub fn add(&mut self, circuit: u32, owner: T) {
        let fresh = Circuit {
            owner,
            cells: VecDeque::new(),
            credit: FIRST_CREDIT,
            deficit: 0,
            turn: Turn::Idle,
            owed: 0,
            in_owing: false,
        };
        self.circuits.insert(circuit, fresh);
    }

    /// Removes a circuit and the cells that wait in it.
    pub fn remove(&mut self, circuit: u32) -> Option<T> {
        // Its places in the rounds are found empty when their turn comes; an id may come back before that, which is
        // harmless: a circuit in the rounds that has nothing to send just leaves them.
        self.circuits.remove(&circuit).map(|removed| removed.owner)
    }

    /// Queues a frame that needs no credit.
    ///
    /// # Errors
    /// Close the link.
    pub fn push_control(&mut self, header: Header, frame: FrameBuf) -> Result<(), Full> {
        if self.control.len() >= MAX_CONTROL {
            return Err(Full);
        }
        self.control.push_back((header, frame));
        Ok(())
    }

    /// Queues a cell.
    ///
    /// # Errors
    /// Destroy the circuit.
    pub fn push_data(&mut self, circuit: u32, frame: FrameBuf) -> Result<(), PushError> {
        let queue = self.circuits.get_mut(&circuit).ok_or(PushError::Unknown)?;
        if queue.cells.len() >= MAX_CREDIT as usize {
            return Err(PushError::Full);
        }
        queue.cells.push_back(frame);
        self.activate(circuit);
        Ok(())
    }

    /// Cells that an end point may queue on a circuit now.
    pub fn room(&self, circuit: u32) -> usize {
        self.circuits
            .get(&circuit)
            .map_or(0, |queue| OUT_QUEUE.saturating_sub(queue.cells.len()))
    }

    /// The neighbour lets us send `credits` more cells on a circuit. One that is not there may have crossed its end.
    ///
    /// # Errors
    /// Destroy the circuit.
    pub fn grant_received(&mut self, circuit: u32, credits: u16) -> Result<(), CreditOverflow> {
        let Some(queue) = self.circuits.get_mut(&circuit) else {
            return Ok(());
        };
        let credit = queue.credit + u32::from(credits);
        if credit > MAX_CREDIT {
            return Err(CreditOverflow);
        }
        queue.credit = credit;
        self.activate(circuit);
        Ok(())
    }

    /// Tells the neighbour, with the next frame of the circuit or soon in one of its own, that it may send more.
    pub fn owe(&mut self, circuit: u32, credits: u32) {
        let Some(queue) = self.circuits.get_mut(&circuit) else {
            return;
        };
        queue.owed = queue.owed.saturating_add(credits);
        if queue.owed >= CREDIT_FRAME && !queue.in_owing {
            queue.in_owing = true;
            self.owing.push_back(circuit);
        }
    }

    fn activate(&mut self, circuit: u32) {
        if let Some(queue) = self.circuits.get_mut(&circuit)
            && queue.turn == Turn::Idle
            && queue.is_sendable()
        {
            queue.turn = Turn::New;
            queue.deficit = QUANTUM;
            self.new.push_back(circuit);
        }
    }

    /// Takes the next frame to leave: control first, then credits, then cells.
    pub fn pop(&mut self, pool: &Pool) -> Option<Popped<'_, T>> {
        if let Some((mut header, frame)) = self.control.pop_front() {
            header.credit = self.take_owed(header.circuit);
            return Some(Popped {
                header,
                frame,
                owner: None,
            });
        }
        while let Some(circuit) = self.owing.pop_front() {
            let Some(queue) = self.circuits.get_mut(&circuit) else {
                continue;
            };
            queue.in_owing = false;
            // One that can send takes its credits along with its next cell.
            if queue.owed == 0 || queue.is_sendable() {
                continue;
            }
            let credit = self.take_owed(circuit);
            let frame = pool.take_zeroed(Class::Small);
            let header = Header {
                circuit,
                kind: FrameType::Credit,
                class: Class::Small,
                credit,
            };
            return Some(Popped {
                header,
                frame,
                owner: None,
            });
        }
        let circuit = self.next_circuit()?;
        let credit = self.take_owed(circuit);
        let queue = self.circuits.get_mut(&circuit)?;
        let frame = queue.cells.pop_front()?;
        queue.credit -= 1;
        queue.deficit -= frame.class().frame_len() as i64;
        let header = Header {
            circuit,
            kind: FrameType::Data,
            class: frame.class(),
            credit,
        };
        Some(Popped {
            header,
            frame,
            owner: Some(&queue.owner),
        })
    }

    fn take_owed(&mut self, circuit: u32) -> u16 {
        let Some(queue) = self.circuits.get_mut(&circuit) else {
            return 0;
        };
        let credit = u16::try_from(queue.owed).unwrap_or(u16::MAX);
        queue.owed -= u32::from(credit);
        credit
    }

    /// The circuit whose turn it is; it stays at the front of its list.
    fn next_circuit(&mut self) -> Option<u32> {
        loop {
            let (list, turn) = if self.new.is_empty() {
                (&mut self.old, Turn::Old)
            } else {
                (&mut self.new, Turn::New)
            };
            let circuit = *list.front()?;
            let Some(queue) = self
                .circuits
                .get_mut(&circuit)
                .filter(|queue| queue.turn == turn)
            else {
                list.pop_front();
                continue;
            };
            if queue.is_sendable() && queue.deficit > 0 {
                return Some(circuit);
            }
            list.pop_front();
            // A new circuit goes once round with the old ones even when it is empty, or one that sends a cell at a time
            // would always go first.
            if queue.is_sendable() || turn == Turn::New {
                queue.deficit = (queue.deficit + QUANTUM).min(QUANTUM);
                queue.turn = Turn::Old;
                self.old.push_back(circuit);
            } else {
                queue.turn = Turn::Idle;
            }
        }
    }
}

impl<T> std::fmt::Debug for Scheduler<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler")
            .field("circuits", &self.circuits.len())
            .finish_non_exhaustive()
    }
}

/// Memory that all circuits of a node may use beyond their first credits. Clones share it.
#[derive(Clone, Debug)]
pub struct CreditBudget(Arc<AtomicUsize>);

impl CreditBudget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes / BULK_LEN)))
    }

    fn claim(&self, frames: u32) -> bool {
        let wanted = frames as usize;
        let take = |left: usize| left.checked_sub(wanted);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take)
            .is_ok()
    }

    fn release(&self, frames: u32) {
        self.0.fetch_add(frames as usize, Ordering::AcqRel);
    }
}

/// What the neighbour may still send on a circuit, and when it gets more (§6.2).
#[derive(Debug)]
pub struct CreditGate {
    budget: CreditBudget,
    /// Frames that the neighbour may send now.
    left: u32,
    /// Frames that came and have not left again.
    held: u32,
    /// `left + held`, but for grants that were kept back.
    window: u32,
    /// Frames that have left since the window last grew.
    passed: u32,
}

impl CreditGate {
    /// The gate of a new circuit.
    pub fn new(budget: CreditBudget) -> Self {
        Self {
            budget,
            left: FIRST_CREDIT,
            held: 0,
            window: FIRST_CREDIT,
            passed: 0,
        }
    }

    /// A DATA frame has come.
    ///
    /// # Errors
    /// The neighbour had no credit left: destroy the circuit.
    pub fn take(&mut self) -> Result<(), CreditOverrun> {
        self.left = self.left.checked_sub(1).ok_or(CreditOverrun)?;
        self.held += 1;
        Ok(())
    }

    /// Frames have left; gives how many credits to grant for them: mostly as many, more while the circuit drains and the
    /// budget lasts, fewer when they pile up here.
    pub fn returned(&mut self, frames: u32) -> u32 {
        let frames = frames.min(self.held);
        self.held -= frames;
        self.passed = self.passed.saturating_add(frames);
        let mut grant = frames;
        if self.held > self.window / 2 && self.window > FIRST_CREDIT {
            let kept = grant.min(self.window - FIRST_CREDIT);
            grant -= kept;
            self.window -= kept;
            self.passed = 0;
            self.budget.release(kept);
        } else if self.passed >= self.window && self.held <= self.window / 8 {
            self.passed = 0;
            let more = self.window.min(MAX_CREDIT - self.window);
            if more > 0 && self.budget.claim(more) {
                self.window += more;
                grant += more;
            }
        }
        self.left += grant;
        grant
    }
}

impl Drop for CreditGate {
    fn drop(&mut self) {
        self.budget.release(self.window - FIRST_CREDIT);
    }
}

#[cfg(test)]
mod tests;
