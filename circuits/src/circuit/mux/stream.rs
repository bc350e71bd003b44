//! One stream's queues and windows.

use std::collections::VecDeque;
use std::time::Instant;

use super::{DATAGRAM_QUEUE, DATAGRAM_RECORDS, MuxError, SEND_FRAMES, SEND_QUEUE};
use crate::body::{BodyError, OpenKind, OpenRequest, PAYLOAD_OFFSET, Payload, put_record};
use crate::circuit::flow::{RecvWindow, Rtt, SendWindow, WindowOverrun};
use crate::frame::{Class, FrameBuf, Pool};
use crate::target::Target;

/// Payloads below this many bytes are gathered. Cells that carry little must not make a stream hold many times its
/// window in frames: with this, what is held is at most about twice the bytes.
const GATHER_BELOW: usize = Class::Bulk.payload_capacity() / 2;

/// How far opening has come.
#[derive(Debug)]
pub(super) enum Phase {
    /// Origin: OPEN has not left.
    Unsent(OpenRequest),
    /// Origin: no OPENED yet. DATA may be sent, none may come.
    Asked,
    /// Hop: the application has not answered. DATA may come, none may be sent.
    Unanswered,
    /// Hop: OPENED has not left.
    Answered,
    /// Both know.
    Open,
}

/// How far sending has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// More may come from the application.
    Running,
    /// END follows what is queued.
    Finishing,
    /// END has left.
    Finished,
}

/// A datagram queue that takes no more when full: what a sender repeats stands at the head of its next burst, and must not be what is
/// dropped again. `T`: what a datagram is.
#[derive(Debug)]
pub(super) struct DatagramQueue<T> {
    queue: VecDeque<(T, usize)>,
    bytes: usize,
}

impl<T> DatagramQueue<T> {
    fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
        }
    }

    fn push(&mut self, item: T, bytes: usize) {
        if self.bytes + bytes <= DATAGRAM_QUEUE && self.queue.len() < DATAGRAM_RECORDS {
            self.queue.push_back((item, bytes));
            self.bytes += bytes;
        }
    }

    fn pop(&mut self) -> Option<T> {
        let (item, bytes) = self.queue.pop_front()?;
        self.bytes -= bytes;
        Some(item)
    }

    fn front(&self) -> Option<&T> {
        self.queue.front().map(|(item, _)| item)
    }

    fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// What the application gets from a stream it reads.
#[derive(Debug)]
pub(super) enum Read {
    Data(Payload),
    Pending,
    Finished,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) kind: OpenKind,
    pub(super) phase: Phase,
    pub(super) sending: Sending,
    /// The peer said END 0.
    pub(super) peer_finished: bool,
    /// Stands in the list of streams with OPEN, OPENED or WINDOW to send.
    pub(super) in_urgent: bool,
    /// Stands in the list of streams with DATA, DGRAM or END to send.
    pub(super) in_ready: bool,
    pub(super) recv_window: RecvWindow,
    pub(super) send_window: SendWindow,
    /// The application found no room.
    blocked: bool,
    queue: VecDeque<(FrameBuf, usize)>,
    queued: usize,
    received: VecDeque<Payload>,
    received_bytes: usize,
    datagrams_out: DatagramQueue<Vec<u8>>,
    datagrams_in: DatagramQueue<(Target, Vec<u8>)>,
}

impl Stream {
    pub(super) fn new(kind: OpenKind, phase: Phase) -> Self {
        Self {
            kind,
            phase,
            sending: Sending::Running,
            peer_finished: false,
            in_urgent: false,
            in_ready: false,
            recv_window: RecvWindow::new(),
            send_window: SendWindow::new(),
            blocked: false,
            queue: VecDeque::new(),
            queued: 0,
            received: VecDeque::new(),
            received_bytes: 0,
            datagrams_out: DatagramQueue::new(),
            datagrams_in: DatagramQueue::new(),
        }
    }

    pub(super) fn wants_urgent(&self) -> bool {
        match self.phase {
            Phase::Unsent(_) | Phase::Answered => true,
            Phase::Asked | Phase::Unanswered => false,
            Phase::Open => self.recv_window.is_due() && !self.peer_finished,
        }
    }

    pub(super) fn wants_ready(&self) -> bool {
        match self.phase {
            Phase::Unanswered | Phase::Answered => false,
            Phase::Unsent(_) | Phase::Asked | Phase::Open => {
                !self.queue.is_empty()
                    || !self.datagrams_out.is_empty()
                    || self.sending == Sending::Finishing
            }
        }
    }

    /// Whether both sides have said END 0 and the application has everything.
    pub(super) fn is_over(&self) -> bool {
        self.peer_finished
            && self.sending == Sending::Finished
            && self.received.is_empty()
            && self.datagrams_in.is_empty()
    }

    /// Whether the application may still write.
    pub(super) fn is_sending(&self) -> bool {
        self.sending == Sending::Running
    }

    /// Bytes the application may hand over now.
    pub(super) fn room(&self) -> usize {
        let running = self.sending == Sending::Running && self.kind != OpenKind::Datagrams;
        if !running || matches!(self.phase, Phase::Unanswered) || self.queue.len() >= SEND_FRAMES {
            return 0;
        }
        let window = usize::try_from(self.send_window.left()).unwrap_or(usize::MAX);
        window.min(SEND_QUEUE.saturating_sub(self.queued))
    }

    /// Whether the application, which found no room, should look again: once half the queue has left, so that it
    /// does not wake for every cell.
    pub(super) fn unblock(&mut self) -> bool {
        let unblocked = self.blocked && self.room() > 0 && self.queued <= SEND_QUEUE / 2;
        self.blocked &= !unblocked;
        unblocked
    }

    fn count_queued(&mut self, bytes: usize) {
        self.queued += bytes;
        self.send_window
            .take(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.blocked |= self.room() == 0;
    }

    /// Copies what fits behind the last queued payload; gives how much.
    fn fill_tail(&mut self, data: &[u8]) -> usize {
        let Some((frame, len)) = self.queue.back_mut() else {
            return 0;
        };
        let taken = data.len().min(frame.class().payload_capacity() - *len);
        let at = PAYLOAD_OFFSET + *len;
        frame.bytes_mut()[at..at + taken].copy_from_slice(&data[..taken]);
        *len += taken;
        taken
    }

    pub(super) fn send(&mut self, frame: FrameBuf, len: usize) -> Result<(), MuxError> {
        if len == 0 || len > frame.class().payload_capacity() {
            return Err(MuxError::Length);
        }
        if self.sending != Sending::Running {
            return Err(MuxError::Ended);
        }
        if len > self.room() {
            return Err(MuxError::NoRoom);
        }
        let fits = self.queue.back().is_some_and(|(tail, used)| {
            len <= Class::Small.payload_capacity() && used + len <= tail.class().payload_capacity()
        });
        if fits {
            self.fill_tail(&frame.bytes()[PAYLOAD_OFFSET..PAYLOAD_OFFSET + len]);
        } else {
            self.queue.push_back((frame, len));
        }
        self.count_queued(len);
        Ok(())
    }

    pub(super) fn send_bytes(&mut self, pool: &Pool, data: &[u8]) -> usize {
        let fits = data.len().min(self.room());
        let mut rest = &data[..fits];
        rest = &rest[self.fill_tail(rest)..];
        while !rest.is_empty() && self.queue.len() < SEND_FRAMES {
            self.queue.push_back((pool.take(Class::Bulk), 0));
            rest = &rest[self.fill_tail(rest)..];
        }
        let taken = fits - rest.len();
        self.count_queued(taken);
        self.blocked |= taken < data.len() && self.sending == Sending::Running;
        taken
    }

    /// The next payload to send, in a frame of the class that suits its length.
    pub(super) fn next_data(&mut self, pool: &Pool) -> Option<(FrameBuf, usize)> {
        let (frame, len) = self.queue.pop_front()?;
        self.queued -= len;
        if frame.class() == Class::Small || len > Class::Small.payload_capacity() {
            return Some((frame, len));
        }
        let mut small = pool.take(Class::Small);
        let payload = PAYLOAD_OFFSET..PAYLOAD_OFFSET + len;
        small.bytes_mut()[payload.clone()].copy_from_slice(&frame.bytes()[payload]);
        Some((small, len))
    }

    pub(super) fn send_datagram(&mut self, to: &Target, payload: &[u8]) -> Result<(), BodyError> {
        let mut record = Vec::new();
        put_record(&mut record, to, payload)?;
        let bytes = record.len();
        self.datagrams_out.push(record, bytes);
        Ok(())
    }

    /// As many queued records as one cell holds.
    pub(super) fn next_datagrams(&mut self) -> Option<Vec<u8>> {
        let mut records = self.datagrams_out.pop()?;
        while self
            .datagrams_out
            .front()
            .is_some_and(|next| records.len() + next.len() <= Class::Bulk.payload_capacity())
        {
            records.extend(self.datagrams_out.pop().unwrap_or_default());
        }
        Some(records)
    }

    pub(super) fn receive(
        &mut self,
        now: Instant,
        payload: Payload,
        rtt: &mut Rtt,
    ) -> Result<(), WindowOverrun> {
        self.recv_window.received(now, payload.len(), rtt)?;
        self.received_bytes += payload.len();
        if payload.len() >= GATHER_BELOW {
            self.received.push_back(payload);
            return Ok(());
        }
        let limit = Class::Bulk.payload_capacity();
        let gathered = self
            .received
            .back_mut()
            .is_some_and(|t| t.try_append(&payload, limit));
        if !gathered {
            self.received.push_back(Payload::from_vec(payload.to_vec()));
        }
        Ok(())
    }

    pub(super) fn read(&mut self) -> Read {
        match self.received.pop_front() {
            Some(payload) => {
                self.received_bytes -= payload.len();
                Read::Data(payload)
            }
            None if self.peer_finished => Read::Finished,
            None => Read::Pending,
        }
    }

    pub(super) fn receive_datagram(&mut self, from: Target, payload: &[u8]) {
        // What a datagram costs in memory is more than its bytes; an empty one is not free.
        let cost = payload.len() + size_of::<(Target, Vec<u8>)>();
        self.datagrams_in.push((from, payload.to_vec()), cost);
    }

    pub(super) fn read_datagram(&mut self) -> Option<(Target, Vec<u8>)> {
        self.datagrams_in.pop()
    }

    /// Received bytes that the application has not read.
    pub(super) fn unread(&self) -> usize {
        self.received_bytes + self.datagrams_in.bytes
    }
}
