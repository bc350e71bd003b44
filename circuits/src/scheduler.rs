//! What waits to leave one link, and in which order it goes (PROTOCOL.md §6.2, §6.3).
//!
//! Control frames go first, then credits that are overdue, then DATA by deficit round robin over the circuits that
//! have both frames and credit, where circuits that have just become active and hold little go first (the scheme of
//! RFC 8290 without its queue drops). Every operation takes constant time, however many circuits there are.

mod credit;
mod list;

use std::collections::{HashMap, VecDeque};

pub use credit::{CreditBudget, CreditGate, CreditOverrun, GROW_WITHIN};
use list::List;

use crate::body::DestroyReason;
use crate::frame::{BULK_LEN, Class, FrameBuf, FrameType, Header, Pool};

/// DATA frames that may be sent on a new circuit, each direction of each link (§6.2).
pub const FIRST_CREDIT: u32 = 64;
/// Credits that may be outstanding at most (§6.2).
pub const MAX_CREDIT: u32 = 1024;
/// Frames that an end point queues for one circuit: about what a link takes at once, for what waits here adds delay.
pub const OUT_QUEUE: usize = 64;
/// Control frames that wait in one link, DESTROY aside: 4 MiB. A neighbour that causes more without reading is broken.
pub const MAX_CONTROL: usize = 1024;
/// DESTROYs and control frames that wait in one link. A DESTROY takes a few bytes here, and a lost link may end all
/// circuits of a relay at once.
pub const MAX_WAITING: usize = 65_536;
/// Credits that are owed before a CREDIT frame is made for them: a quarter of the first credits, so that the neighbour
/// hears of them before it runs dry.
pub const CREDIT_BATCH: u32 = 16;
/// Bytes that a circuit sends in its turn.
pub const QUANTUM: usize = 4 * BULK_LEN;

/// The queue is full: close the link, whose neighbour does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many control frames wait for the link")]
pub struct Full;

/// DATA frames can't be queued: destroy the circuit. The frames are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The circuit is not in this scheduler.
    #[error("no such circuit")]
    UnknownCircuit,
    /// It would hold more than [`MAX_CREDIT`] frames.
    #[error("the circuit's queue is full")]
    Full,
}

/// The neighbour granted more than [`MAX_CREDIT`]: destroy the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more credit than may be outstanding")]
pub struct CreditOverflow;

/// A frame to seal and write.
#[derive(Debug)]
pub struct Popped<'a, T> {
    /// Its header, the circuit's owed credit included.
    pub header: Header,
    /// The frame; its header bytes are not written.
    pub frame: FrameBuf,
    /// The circuit's owner. `None` for control frames that name no circuit of this scheduler.
    pub owner: Option<&'a T>,
    /// Whether it came from [`Scheduler::push_data`]: it has left the circuit's queue, so the owner may refill it, or
    /// return a credit upstream.
    pub was_data: bool,
}

/// What a short control frame carries at the most: DESTROY and PING need 1 and 9 bytes.
pub const SHORT_LEN: usize = 9;

#[derive(Debug)]
enum Control {
    Frame(Header, FrameBuf),
    Short(Header, [u8; SHORT_LEN]),
}

#[derive(Debug)]
struct Slot<T> {
    circuit: u32,
    owner: T,
    queue: VecDeque<FrameBuf>,
    /// DATA frames that the neighbour takes.
    credit: u32,
    /// Credits for the other direction that the neighbour has not heard of.
    owed: u32,
    /// Bytes it may still send in this turn; below zero after a frame that was longer.
    deficit: i64,
}

impl<T> Slot<T> {
    fn is_ready(&self) -> bool {
        self.credit > 0 && !self.queue.is_empty()
    }

    /// Takes as much of the owed credit as a header holds.
    fn take_owed(&mut self) -> u16 {
        let credit = u16::try_from(self.owed).unwrap_or(u16::MAX);
        self.owed -= u32::from(credit);
        credit
    }
}

/// The frames that wait to leave one link. `T` is a token by which the caller knows a circuit's owner.
#[derive(Debug)]
pub struct Scheduler<T> {
    index: HashMap<u32, usize>,
    slots: Vec<Option<Slot<T>>>,
    free: Vec<usize>,
    control: VecDeque<Control>,
    control_frames: usize,
    /// Circuits that have just become active.
    sparse: List,
    /// The other active circuits, and those that were until their turn comes: a circuit that stops for a moment is
    /// not sparse when it goes on.
    bulk: List,
    /// Circuits that owe a batch of credits and have no frame to put them in.
    owing: List,
    /// Circuits with both frames and credit.
    ready: usize,
    /// DATA frames of all circuits.
    data_frames: usize,
}

impl<T> Default for Scheduler<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Scheduler<T> {
    /// A link without circuits.
    pub fn new() -> Self {
        Self {
            index: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            control: VecDeque::new(),
            control_frames: 0,
            sparse: List::default(),
            bulk: List::default(),
            owing: List::default(),
            ready: 0,
            data_frames: 0,
        }
    }

    /// Adds a circuit, with [`FIRST_CREDIT`] to send. One that was there under this id is replaced.
    pub fn add(&mut self, circuit: u32, owner: T) {
        self.remove(circuit);
        let slot = Slot {
            circuit,
            owner,
            queue: VecDeque::new(),
            credit: FIRST_CREDIT,
            owed: 0,
            deficit: 0,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at] = Some(slot);
                at
            }
            None => {
                self.slots.push(Some(slot));
                self.slots.len() - 1
            }
        };
        self.index.insert(circuit, at);
    }

    /// Takes a circuit out with its queued DATA; gives its owner. Control frames for it stay.
    pub fn remove(&mut self, circuit: u32) -> Option<T> {
        let at = self.index.remove(&circuit)?;
        for list in [&mut self.sparse, &mut self.bulk, &mut self.owing] {
            list.remove(at);
        }
        let slot = self.slots.get_mut(at)?.take()?;
        self.free.push(at);
        self.ready -= usize::from(slot.is_ready());
        self.data_frames -= slot.queue.len();
        Some(slot.owner)
    }

    /// Number of circuits.
    pub fn circuits(&self) -> usize {
        self.index.len()
    }

    /// The owner of a circuit.
    pub fn owner(&self, circuit: u32) -> Option<&T> {
        self.slot(circuit).map(|slot| &slot.owner)
    }

    /// The owner of a circuit.
    pub fn owner_mut(&mut self, circuit: u32) -> Option<&mut T> {
        let at = *self.index.get(&circuit)?;
        self.slots.get_mut(at)?.as_mut().map(|slot| &mut slot.owner)
    }

    fn slot(&self, circuit: u32) -> Option<&Slot<T>> {
        self.slots.get(*self.index.get(&circuit)?)?.as_ref()
    }

    /// Changes a circuit and puts it on the lists where it then belongs.
    fn change<R>(&mut self, circuit: u32, change: impl FnOnce(&mut Slot<T>) -> R) -> Option<R> {
        let at = *self.index.get(&circuit)?;
        let slot = self.slots.get_mut(at)?.as_mut()?;
        let was_ready = slot.is_ready();
        let result = change(slot);
        match (was_ready, slot.is_ready()) {
            (false, true) => {
                self.ready += 1;
                if !self.sparse.contains(at) && !self.bulk.contains(at) {
                    slot.deficit = QUANTUM as i64;
                    let sendable = slot.queue.len().min(slot.credit as usize);
                    let list = if sendable * BULK_LEN <= QUANTUM {
                        &mut self.sparse
                    } else {
                        &mut self.bulk
                    };
                    list.push_back(at);
                }
            }
            (true, false) => self.ready -= 1,
            (true, true) | (false, false) => {}
        }
        // A frame that can leave takes the credits along; nothing else would.
        if slot.owed >= CREDIT_BATCH && !slot.is_ready() {
            self.owing.push_back(at);
        }
        Some(result)
    }

    /// Queues a frame that is not DATA. If its circuit is in this scheduler, it takes owed credits along.
    ///
    /// # Errors
    /// Close the link.
    pub fn push_control(&mut self, header: Header, frame: FrameBuf) -> Result<(), Full> {
        if self.control_frames >= MAX_CONTROL || self.control.len() >= MAX_WAITING {
            return Err(Full);
        }
        self.control_frames += 1;
        self.control.push_back(Control::Frame(header, frame));
        Ok(())
    }

    /// Queues a small frame with a short body; the frame is made when it leaves. So a neighbour that causes many and takes
    /// none away, and a lost link whose circuits all end at once, hold some bytes for each, not a page.
    ///
    /// # Errors
    /// Close the link.
    pub fn push_short(&mut self, header: Header, body: [u8; SHORT_LEN]) -> Result<(), Full> {
        if self.control.len() >= MAX_WAITING {
            return Err(Full);
        }
        self.control.push_back(Control::Short(header, body));
        Ok(())
    }

    /// Queues a DESTROY.
    ///
    /// # Errors
    /// Close the link.
    pub fn push_destroy(&mut self, circuit: u32, reason: DestroyReason) -> Result<(), Full> {
        let mut body = [0; SHORT_LEN];
        body[0] = reason as u8;
        let header = Header {
            circuit,
            kind: FrameType::Destroy,
            class: Class::Small,
            credit: 0,
        };
        self.push_short(header, body)
    }

    /// Queues DATA frames; they leave in this order when there is credit.
    ///
    /// # Errors
    /// None was queued: destroy the circuit.
    pub fn push_data(&mut self, circuit: u32, frames: Vec<FrameBuf>) -> Result<(), PushError> {
        let count = frames.len();
        let pushed = self.change(circuit, |slot| {
            if slot.queue.len() + count > MAX_CREDIT as usize {
                return Err(PushError::Full);
            }
            slot.queue.extend(frames);
            Ok(())
        });
        pushed.unwrap_or(Err(PushError::UnknownCircuit))?;
        self.data_frames += count;
        Ok(())
    }

    /// Frames that an end point may queue for a circuit before it should wait; 0 for a circuit that is not here.
    pub fn room(&self, circuit: u32) -> usize {
        self.slot(circuit)
            .map_or(0, |slot| OUT_QUEUE.saturating_sub(slot.queue.len()))
    }

    /// DATA frames that wait in a circuit's queue.
    pub fn queued(&self, circuit: u32) -> usize {
        self.slot(circuit).map_or(0, |slot| slot.queue.len())
    }

    /// DATA frames that the neighbour takes on a circuit.
    pub fn credit(&self, circuit: u32) -> u32 {
        self.slot(circuit).map_or(0, |slot| slot.credit)
    }

    /// Takes in credit from the headers of received frames. A circuit that is not here is none of ours any more.
    ///
    /// # Errors
    /// Destroy the circuit.
    pub fn grant_received(&mut self, circuit: u32, credits: u32) -> Result<(), CreditOverflow> {
        let granted = self.change(circuit, |slot| {
            let credit = slot.credit.saturating_add(credits);
            slot.credit = credit.min(MAX_CREDIT);
            if credit > MAX_CREDIT {
                Err(CreditOverflow)
            } else {
                Ok(())
            }
        });
        granted.unwrap_or(Ok(()))
    }

    /// Notes that the neighbour is owed credits on a circuit (from [`CreditGate::departed`]). They leave with its next
    /// frame, or on their own once [`CREDIT_BATCH`] are owed and no frame of it can leave.
    pub fn owe(&mut self, circuit: u32, credits: u32) {
        self.change(circuit, |slot| {
            slot.owed = slot.owed.saturating_add(credits)
        });
    }

    /// Whether nothing waits at all, not even for credit. Owed credits below a batch do not count.
    pub fn is_empty(&self) -> bool {
        !self.sendable()
            && self
                .slots
                .iter()
                .flatten()
                .all(|slot| slot.queue.is_empty())
    }

    /// Whether [`Scheduler::pop`] has something.
    pub fn sendable(&self) -> bool {
        !self.control.is_empty() || !self.owing.is_empty() || self.ready > 0
    }

    /// The next frame to seal and write.
    pub fn pop(&mut self, pool: &Pool) -> Option<Popped<'_, T>> {
        if let Some(control) = self.control.pop_front() {
            return Some(self.popped_control(pool, control));
        }
        if let Some(at) = self.owing.front() {
            self.owing.remove(at);
            let slot = self.slots.get_mut(at)?.as_mut()?;
            return Some(Popped {
                header: Header {
                    circuit: slot.circuit,
                    kind: FrameType::Credit,
                    class: Class::Small,
                    credit: slot.take_owed(),
                },
                frame: pool.take_zeroed(Class::Small),
                owner: Some(&slot.owner),
                was_data: false,
            });
        }
        let at = self.next_circuit()?;
        let slot = self.slots.get_mut(at)?.as_mut()?;
        let frame = slot.queue.pop_front()?;
        self.data_frames -= 1;
        slot.credit -= 1;
        slot.deficit -= frame.class().frame_len() as i64;
        self.ready -= usize::from(!slot.is_ready());
        let header = Header {
            circuit: slot.circuit,
            kind: FrameType::Data,
            class: frame.class(),
            credit: slot.take_owed(),
        };
        if slot.owed >= CREDIT_BATCH && !slot.is_ready() {
            self.owing.push_back(at);
        }
        Some(Popped {
            header,
            frame,
            owner: Some(&slot.owner),
            was_data: true,
        })
    }

    fn popped_control(&mut self, pool: &Pool, control: Control) -> Popped<'_, T> {
        let (mut header, frame) = match control {
            Control::Frame(header, frame) => {
                self.control_frames -= 1;
                (header, frame)
            }
            Control::Short(header, body) => {
                let mut frame = pool.take_zeroed(Class::Small);
                frame.body_mut()[..SHORT_LEN].copy_from_slice(&body);
                (header, frame)
            }
        };
        let at = self.index.get(&header.circuit).copied();
        // One that waits for its CREDIT frame gets it next, and credits of a circuit that ends are of no use.
        let takes_credit =
            header.kind != FrameType::Destroy && !at.is_some_and(|at| self.owing.contains(at));
        let slot = at.and_then(|at| self.slots.get_mut(at)?.as_mut());
        let owner = slot.map(|slot| {
            if takes_credit {
                header.credit = slot.take_owed();
            }
            &slot.owner
        });
        Popped {
            header,
            frame,
            owner,
            was_data: false,
        }
    }

    /// The circuit whose turn it is.
    fn next_circuit(&mut self) -> Option<usize> {
        if self.ready == 0 {
            return None;
        }
        loop {
            let sparse = self.sparse.front();
            let at = sparse.or_else(|| self.bulk.front())?;
            let slot = self.slots.get_mut(at)?.as_mut()?;
            if slot.is_ready() && slot.deficit > 0 {
                return Some(at);
            }
            // It has nothing, or its turn is over. One that was sparse is no longer, even if it has nothing now.
            let stays = slot.is_ready() || (sparse.is_some() && !self.bulk.is_empty());
            if slot.deficit <= 0 {
                slot.deficit += QUANTUM as i64;
            }
            self.sparse.remove(at);
            self.bulk.remove(at);
            if stays {
                self.bulk.push_back(at);
            }
        }
    }
}

#[cfg(test)]
mod tests;
