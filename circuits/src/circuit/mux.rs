//! Streams of one circuit, at either end of it (PROTOCOL.md §5, §6.1).
//!
//! Opened cells go into [`Mux::handle`]; what the application should look at comes out of [`Mux::poll_event`], and
//! bodies to seal come out of [`Mux::poll_cell`]. The application writes with [`Mux::send`] or [`Mux::send_bytes`]
//! as far as [`Mux::send_room`] allows, reads with [`Mux::recv`], and says with [`Mux::consumed`] when read bytes
//! have left its hands: only then may the peer send more.
//!
//! A stream lives until both sides have said END 0 and the application has read everything, or until either side
//! resets it. An application that loses interest calls [`Mux::reset`].

mod notice;
mod stream;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::body::{
    BodyError, BodyHeader, Command, EndReason, ExtendRequest, Extended, OpenKind, OpenRequest,
    OpenStatus, Payload, Records, decode_window, write_body,
};
use crate::circuit::flow::{GROWTH_BUDGET, Rtt, WindowOverflow, WindowOverrun};
use crate::frame::{Class, FrameBuf, Pool};
use crate::target::Target;
use notice::Notices;
use stream::{Phase, Read, Sending, Stream};

/// Streams open at once in a circuit: bounds the exit's table (§1).
pub const MAX_STREAMS: usize = 256;
/// Bytes of a stream that wait to be sent: a few cells more than a link takes at once, for what waits here adds delay.
pub const SEND_QUEUE: usize = 64 * 1024;
/// Frames of a stream that wait to be sent, so that many short payloads do not hold many times [`SEND_QUEUE`].
pub const SEND_FRAMES: usize = 32;
/// Bytes of datagrams that wait in either direction of a flow; what comes beyond it is dropped. As much as a stream's first window: a
/// tenth of a second at 2.5 MB/s, which is the delay by which uTP sees that it is too fast (BEP 29).
pub const DATAGRAM_QUEUE: usize = 256 * 1024;
/// Datagrams that wait in either direction of a flow.
pub const DATAGRAM_RECORDS: usize = 512;
/// Answers that wait for streams which are gone: an honest origin can't cause more than one per stream it may open,
/// and this is twice that.
pub const MAX_FAREWELLS: usize = 2 * MAX_STREAMS;

/// Which end of a circuit this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The origin, which opens streams.
    Origin,
    /// A hop, which answers.
    Hop,
}

/// What the application should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MuxEvent {
    /// Origin: the answer to an OPEN. Any status but [`OpenStatus::Open`] ended the stream.
    Opened {
        /// The stream.
        stream: u32,
        /// How opening ended.
        status: OpenStatus,
    },
    /// Hop: the origin asks for a stream; answer with [`Mux::answer_open`].
    Open {
        /// The stream.
        stream: u32,
        /// What it asks for.
        kind: OpenKind,
        /// Where to, for [`OpenKind::Tcp`].
        target: Option<Target>,
    },
    /// More came, or the stream ended: read until [`Recv::Pending`].
    Readable {
        /// The stream.
        stream: u32,
    },
    /// There is room again after there was none, or the stream ended.
    Writable {
        /// The stream.
        stream: u32,
    },
    /// Hop: the origin asks for one more hop; answer with [`Mux::answer_extend`].
    Extend(ExtendRequest),
    /// Origin: the answer to an EXTEND.
    Extended(Extended),
}

/// What reading gives.
#[derive(Debug)]
pub enum Recv {
    /// The next bytes.
    Data(Payload),
    /// Nothing now.
    Pending,
    /// The peer has said END 0 and everything was read.
    Finished,
    /// The stream is gone: reset, or never opened.
    Ended(EndReason),
}

/// The application asked for something that can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MuxError {
    /// As many streams as a circuit may have: use another circuit.
    #[error("the circuit has as many streams as it may")]
    TooManyStreams,
    /// Every stream number was used: use another circuit.
    #[error("the circuit has used every stream number")]
    NumbersUsedUp,
    /// A kind of stream with a target it can't have, or opened by the wrong end: a bug of the caller.
    #[error("no such stream can be opened here")]
    BadRequest,
    /// The stream has ended for writing: stop.
    #[error("the stream has ended")]
    Ended,
    /// More than [`Mux::send_room`] gives: a bug of the caller.
    #[error("the stream has no room for this")]
    NoRoom,
    /// Empty, or more than a cell holds: drop the datagram; of a byte stream, a bug of the caller.
    #[error("the length does not fit a cell")]
    Length,
    /// Bytes on a datagram flow, or datagrams on a byte stream: a bug of the caller.
    #[error("the stream is of another kind")]
    WrongKind,
}

/// The peer broke §5 or §6.1: destroy the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A body that can't be read.
    #[error("bad body")]
    Body(#[from] BodyError),
    /// A command that only the other end may send.
    #[error("{0:?} from the wrong end")]
    WrongEnd(Command),
    /// A stream that was never opened.
    #[error("{0:?} for a stream that was never opened")]
    UnknownStream(Command),
    /// A stream number that is not higher than all before it.
    #[error("stream numbers do not go upward")]
    StreamOrder,
    /// A command before OPENED, or a second OPENED or EXTEND.
    #[error("{0:?} in the wrong state")]
    WrongState(Command),
    /// DATA or WINDOW on a datagram flow, or DGRAM on a byte stream.
    #[error("{0:?} on a stream of another kind")]
    WrongKind(Command),
    /// A command that END 0 ruled out.
    #[error("{0:?} after END")]
    AfterEnd(Command),
    /// DATA beyond the window.
    #[error(transparent)]
    Overrun(#[from] WindowOverrun),
    /// WINDOW beyond the maximum.
    #[error(transparent)]
    Overflow(#[from] WindowOverflow),
    /// More OPENs than answers could be sent to.
    #[error("too many streams asked for at once")]
    Flood,
}

/// The last word on a stream that is gone here.
#[derive(Clone, Copy, Debug)]
enum Farewell {
    Opened(OpenStatus),
    End(EndReason),
}

/// The streams of a circuit at one of its ends.
#[derive(Debug)]
pub struct Mux {
    end: End,
    /// Highest stream number used so far.
    last_stream: u32,
    streams: BTreeMap<u32, Stream>,
    /// How the latest of the streams that are gone ended, for readers who ask later. At most [`MAX_STREAMS`].
    ended: BTreeMap<u32, EndReason>,
    notices: Notices,
    farewells: VecDeque<(u32, Farewell)>,
    /// Streams with OPEN, OPENED or WINDOW to send.
    urgent: VecDeque<u32>,
    /// Streams with DATA, DGRAM or END to send.
    ready: VecDeque<u32>,
    /// Hop: an EXTEND came. A hop extends once.
    extend_seen: bool,
    extension: Option<MuxEvent>,
    extended: Option<Extended>,
    rtt: Rtt,
    /// What is left of [`GROWTH_BUDGET`], bytes.
    growth: u32,
}

impl Mux {
    /// A circuit's end without streams.
    pub fn new(end: End) -> Self {
        Self {
            end,
            last_stream: 0,
            streams: BTreeMap::new(),
            ended: BTreeMap::new(),
            notices: Notices::default(),
            farewells: VecDeque::new(),
            urgent: VecDeque::new(),
            ready: VecDeque::new(),
            extend_seen: false,
            extension: None,
            extended: None,
            rtt: Rtt::default(),
            growth: GROWTH_BUDGET,
        }
    }

    /// Number of streams, those included that have ended on one side only.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Received bytes that the application has not read; frames hold at most about twice as much.
    pub fn unread(&self) -> usize {
        self.streams.values().map(Stream::unread).sum()
    }

    /// Takes a round trip through the circuit that was measured elsewhere.
    pub fn set_rtt(&mut self, rtt: Duration) {
        self.rtt.sample(rtt);
    }

    // ---- what comes from the peer ----

    /// Takes an opened, recognised cell, whose body is plain.
    ///
    /// # Errors
    /// The peer broke the protocol: destroy the circuit.
    pub fn handle(&mut self, now: Instant, frame: FrameBuf) -> Result<(), ProtocolError> {
        let (
            BodyHeader {
                command, stream, ..
            },
            range,
        ) = BodyHeader::decode(frame.body())?;
        self.check_end(command)?;
        if command == Command::Data {
            return self.on_data(now, stream, Payload::from_frame(frame, range));
        }
        let payload = frame.body().get(range).unwrap_or_default();
        match command {
            Command::Open => self.on_open(stream, OpenRequest::decode(payload)?),
            Command::Opened => self.on_opened(stream, OpenStatus::decode(payload)?),
            Command::End => self.on_end(stream, EndReason::decode(payload)?),
            Command::Window => self.on_window(stream, decode_window(payload)?),
            Command::Dgram => self.on_datagrams(stream, payload),
            Command::Extend => self.on_extend(ExtendRequest::decode(payload)?),
            Command::Extended => self.on_extended(Extended::decode(payload)?),
            Command::Data | Command::Drop => Ok(()),
        }
    }

    fn check_end(&self, command: Command) -> Result<(), ProtocolError> {
        let to = match command {
            Command::Open | Command::Extend => Some(End::Hop),
            Command::Opened | Command::Extended => Some(End::Origin),
            Command::Data | Command::End | Command::Window | Command::Dgram | Command::Drop => None,
        };
        match to {
            Some(end) if end != self.end => Err(ProtocolError::WrongEnd(command)),
            Some(_) | None => Ok(()),
        }
    }

    /// The stream a command is for; `None` where it is gone and the command may have crossed its end.
    fn live(
        &mut self,
        stream: u32,
        command: Command,
    ) -> Result<Option<&mut Stream>, ProtocolError> {
        if stream > self.last_stream {
            return Err(ProtocolError::UnknownStream(command));
        }
        let Some(live) = self.streams.get_mut(&stream) else {
            return Ok(None);
        };
        match live.phase {
            Phase::Unsent(_) => Err(ProtocolError::WrongState(command)),
            Phase::Asked if command != Command::Opened => Err(ProtocolError::WrongState(command)),
            Phase::Asked | Phase::Unanswered | Phase::Answered | Phase::Open => Ok(Some(live)),
        }
    }

    fn on_open(&mut self, stream: u32, request: OpenRequest) -> Result<(), ProtocolError> {
        if stream <= self.last_stream {
            return Err(ProtocolError::StreamOrder);
        }
        self.last_stream = stream;
        if self.streams.len() + self.farewells.len() < MAX_STREAMS {
            self.streams
                .insert(stream, Stream::new(request.kind, Phase::Unanswered));
            self.notices.open(stream, request);
        } else if self.farewells.len() < MAX_FAREWELLS {
            self.farewells
                .push_back((stream, Farewell::Opened(OpenStatus::Limit)));
        } else {
            return Err(ProtocolError::Flood);
        }
        Ok(())
    }

    fn on_opened(&mut self, stream: u32, status: OpenStatus) -> Result<(), ProtocolError> {
        let Some(live) = self.live(stream, Command::Opened)? else {
            return Ok(());
        };
        if !matches!(live.phase, Phase::Asked) {
            return Err(ProtocolError::WrongState(Command::Opened));
        }
        live.phase = Phase::Open;
        self.notices.opened(stream, status);
        if status != OpenStatus::Open {
            self.ended_by_peer(stream, EndReason::Reset);
        }
        Ok(())
    }

    fn on_data(
        &mut self,
        now: Instant,
        stream: u32,
        payload: Payload,
    ) -> Result<(), ProtocolError> {
        let mut rtt = self.rtt;
        let Some(live) = self.live(stream, Command::Data)? else {
            return Ok(());
        };
        if live.kind == OpenKind::Datagrams {
            return Err(ProtocolError::WrongKind(Command::Data));
        }
        if live.peer_finished {
            return Err(ProtocolError::AfterEnd(Command::Data));
        }
        live.receive(now, payload, &mut rtt)?;
        self.rtt = rtt;
        self.notices.readable(stream);
        Ok(())
    }

    fn on_datagrams(&mut self, stream: u32, payload: &[u8]) -> Result<(), ProtocolError> {
        let Some(live) = self.live(stream, Command::Dgram)? else {
            return Ok(());
        };
        if live.kind != OpenKind::Datagrams {
            return Err(ProtocolError::WrongKind(Command::Dgram));
        }
        if live.peer_finished {
            return Err(ProtocolError::AfterEnd(Command::Dgram));
        }
        for record in Records::new(payload) {
            let (from, payload) = record?;
            live.receive_datagram(from, payload);
        }
        self.notices.readable(stream);
        Ok(())
    }

    fn on_window(&mut self, stream: u32, bytes: u32) -> Result<(), ProtocolError> {
        let Some(live) = self.live(stream, Command::Window)? else {
            return Ok(());
        };
        if live.kind == OpenKind::Datagrams {
            return Err(ProtocolError::WrongKind(Command::Window));
        }
        live.send_window.grant(bytes)?;
        if live.unblock() {
            self.notices.writable(stream);
        }
        Ok(())
    }

    fn on_end(&mut self, stream: u32, reason: EndReason) -> Result<(), ProtocolError> {
        let Some(live) = self.live(stream, Command::End)? else {
            return Ok(());
        };
        if reason != EndReason::Done {
            self.ended_by_peer(stream, reason);
            return Ok(());
        }
        if live.peer_finished {
            return Err(ProtocolError::AfterEnd(Command::End));
        }
        live.peer_finished = true;
        // A WINDOW that was due would grant what nobody will use.
        if live.in_urgent && !live.wants_urgent() {
            live.in_urgent = false;
            self.urgent.retain(|&other| other != stream);
        }
        self.notices.readable(stream);
        self.close_if_over(stream);
        Ok(())
    }

    fn on_extend(&mut self, request: ExtendRequest) -> Result<(), ProtocolError> {
        if std::mem::replace(&mut self.extend_seen, true) {
            return Err(ProtocolError::WrongState(Command::Extend));
        }
        self.extension = Some(MuxEvent::Extend(request));
        Ok(())
    }

    fn on_extended(&mut self, answer: Extended) -> Result<(), ProtocolError> {
        // Whether it was asked for, the caller knows; that one waits unread already is never right.
        if self.extension.is_some() {
            return Err(ProtocolError::WrongState(Command::Extended));
        }
        self.extension = Some(MuxEvent::Extended(answer));
        Ok(())
    }

    // ---- the application's side ----

    /// What the application should look at next. Poll until `None` after every [`Mux::handle`] and
    /// [`Mux::poll_cell`].
    pub fn poll_event(&mut self) -> Option<MuxEvent> {
        self.extension.take().or_else(|| self.notices.poll())
    }

    /// Origin: opens a stream; gives its number. Bytes may be sent at once (§5.2).
    ///
    /// # Errors
    /// As [`MuxError`] says.
    pub fn open(&mut self, kind: OpenKind, target: Option<Target>) -> Result<u32, MuxError> {
        let request = OpenRequest { kind, target };
        if self.end != End::Origin || !request.is_consistent() {
            return Err(MuxError::BadRequest);
        }
        if self.streams.len() >= MAX_STREAMS {
            return Err(MuxError::TooManyStreams);
        }
        self.last_stream = self
            .last_stream
            .checked_add(1)
            .ok_or(MuxError::NumbersUsedUp)?;
        self.streams
            .insert(self.last_stream, Stream::new(kind, Phase::Unsent(request)));
        self.schedule(self.last_stream);
        Ok(self.last_stream)
    }

    /// Hop: answers [`MuxEvent::Open`]. A stream that is gone by now is not answered.
    pub fn answer_open(&mut self, stream: u32, status: OpenStatus) {
        let Some(live) = self.streams.get_mut(&stream) else {
            return;
        };
        if !matches!(live.phase, Phase::Unanswered) {
            return;
        }
        if status == OpenStatus::Open {
            live.phase = Phase::Answered;
            if live.unblock() {
                self.notices.writable(stream);
            }
            self.schedule(stream);
        } else {
            self.remove(stream);
            self.farewells.push_back((stream, Farewell::Opened(status)));
        }
    }

    /// Hop: answers [`MuxEvent::Extend`].
    pub fn answer_extend(&mut self, answer: Extended) {
        self.extended = Some(answer);
    }

    /// How a stream was cut off; `None` while it is there, and where both sides have ended it.
    pub fn cut_off(&self, stream: u32) -> Option<EndReason> {
        if self.streams.contains_key(&stream) {
            return None;
        }
        match self.ended.get(&stream) {
            Some(EndReason::Done) => None,
            Some(&reason) => Some(reason),
            None => Some(EndReason::Reset),
        }
    }

    /// Bytes the application may hand over now: what the peer's window and our queue leave. 0 once writing has ended;
    /// where it is 0 only for a time, [`MuxEvent::Writable`] follows.
    pub fn send_room(&self, stream: u32) -> usize {
        self.streams.get(&stream).map_or(0, Stream::room)
    }

    /// Whether the application may still write, now or when there is room again.
    pub fn is_sending(&self, stream: u32) -> bool {
        self.streams.get(&stream).is_some_and(Stream::is_sending)
    }

    /// Queues a frame whose first `len` payload bytes, from [`crate::body::PAYLOAD_OFFSET`], the caller has filled.
    ///
    /// # Errors
    /// As [`MuxError`] says; the frame is dropped.
    pub fn send(&mut self, stream: u32, frame: FrameBuf, len: usize) -> Result<(), MuxError> {
        let live = self.streams.get_mut(&stream).ok_or(MuxError::Ended)?;
        if live.kind == OpenKind::Datagrams {
            return Err(MuxError::WrongKind);
        }
        live.send(frame, len)?;
        self.schedule(stream);
        Ok(())
    }

    /// Queues as many of these bytes as there is room for; gives how many.
    pub fn send_bytes(&mut self, pool: &Pool, stream: u32, data: &[u8]) -> usize {
        let Some(live) = self.streams.get_mut(&stream) else {
            return 0;
        };
        let taken = live.send_bytes(pool, data);
        self.schedule(stream);
        taken
    }

    /// Says that nothing more will be sent; END 0 follows what is queued.
    pub fn finish(&mut self, stream: u32) {
        let Some(live) = self.streams.get_mut(&stream) else {
            return;
        };
        if live.sending == Sending::Running {
            live.sending = Sending::Finishing;
            self.schedule(stream);
        }
    }

    /// Ends both directions at once; what is queued in either is lost. [`EndReason::Done`] counts as
    /// [`EndReason::Reset`], for it would leave the other direction open.
    pub fn reset(&mut self, stream: u32, reason: EndReason) {
        let Some(gone) = self.remove(stream) else {
            return;
        };
        self.notices.forget(stream);
        match gone.phase {
            // The hop has not heard of it.
            Phase::Unsent(_) => {}
            Phase::Unanswered | Phase::Answered => {
                let status = match reason {
                    EndReason::TimedOut => OpenStatus::TimedOut,
                    EndReason::Limit => OpenStatus::Limit,
                    EndReason::Done | EndReason::Reset | EndReason::ShuttingDown => {
                        OpenStatus::Failed
                    }
                };
                self.farewells.push_back((stream, Farewell::Opened(status)));
            }
            Phase::Asked | Phase::Open => {
                let reason = if reason == EndReason::Done {
                    EndReason::Reset
                } else {
                    reason
                };
                self.farewells.push_back((stream, Farewell::End(reason)));
            }
        }
    }

    /// Reads the next bytes of a stream.
    pub fn recv(&mut self, stream: u32) -> Recv {
        let Some(live) = self.streams.get_mut(&stream) else {
            return match self.ended.get(&stream) {
                Some(EndReason::Done) => Recv::Finished,
                Some(&reason) => Recv::Ended(reason),
                None => Recv::Ended(EndReason::Reset),
            };
        };
        match live.read() {
            Read::Data(payload) => {
                self.close_if_over(stream);
                Recv::Data(payload)
            }
            Read::Pending => Recv::Pending,
            Read::Finished => Recv::Finished,
        }
    }

    /// Says that the application is done with this many bytes it has read, so that the peer may send more.
    pub fn consumed(&mut self, now: Instant, stream: u32, bytes: usize) {
        let Some(live) = self.streams.get_mut(&stream) else {
            return;
        };
        if live
            .recv_window
            .consumed(now, bytes, self.rtt, &mut self.growth)
        {
            self.schedule(stream);
        }
    }

    /// Queues a datagram; a full queue drops it.
    ///
    /// # Errors
    /// As [`MuxError`] says; the datagram is dropped.
    pub fn send_datagram(
        &mut self,
        stream: u32,
        to: &Target,
        payload: &[u8],
    ) -> Result<(), MuxError> {
        let live = self.streams.get_mut(&stream).ok_or(MuxError::Ended)?;
        if live.kind != OpenKind::Datagrams {
            return Err(MuxError::WrongKind);
        }
        if live.sending != Sending::Running {
            return Err(MuxError::Ended);
        }
        live.send_datagram(to, payload)
            .map_err(|_| MuxError::Length)?;
        self.schedule(stream);
        Ok(())
    }

    /// The next datagram that came, and who sent it.
    pub fn recv_datagram(&mut self, stream: u32) -> Option<(Target, Vec<u8>)> {
        let datagram = self.streams.get_mut(&stream)?.read_datagram();
        self.close_if_over(stream);
        datagram
    }

    // ---- what goes to the peer ----

    /// Whether [`Mux::poll_cell`] has something.
    pub fn has_cells(&self) -> bool {
        self.extended.is_some()
            || !(self.farewells.is_empty() && self.urgent.is_empty() && self.ready.is_empty())
    }

    /// The next body to seal: control first, then one cell of each stream in turn.
    pub fn poll_cell(&mut self, pool: &Pool) -> Option<FrameBuf> {
        if let Some(extended) = self.extended.take() {
            return cell(pool, Command::Extended, 0, &extended.encode());
        }
        if let Some((stream, farewell)) = self.farewells.pop_front() {
            return match farewell {
                Farewell::Opened(status) => cell(pool, Command::Opened, stream, &[status as u8]),
                Farewell::End(reason) => cell(pool, Command::End, stream, &[reason as u8]),
            };
        }
        while let Some(stream) = self.urgent.pop_front() {
            if let Some(frame) = self.urgent_cell(pool, stream) {
                return Some(frame);
            }
        }
        while let Some(stream) = self.ready.pop_front() {
            if let Some(frame) = self.ready_cell(pool, stream) {
                return Some(frame);
            }
        }
        None
    }

    /// OPEN, OPENED or WINDOW of a stream just taken off `urgent`.
    fn urgent_cell(&mut self, pool: &Pool, stream: u32) -> Option<FrameBuf> {
        let live = self.streams.get_mut(&stream)?;
        live.in_urgent = false;
        let frame = match &live.phase {
            Phase::Unsent(request) => {
                let payload = request.encode();
                live.phase = Phase::Asked;
                cell(pool, Command::Open, stream, &payload)
            }
            Phase::Answered => {
                live.phase = Phase::Open;
                cell(pool, Command::Opened, stream, &[OpenStatus::Open as u8])
            }
            Phase::Open if live.wants_urgent() => {
                let grant = live.recv_window.take_grant();
                cell(pool, Command::Window, stream, &grant.to_be_bytes())
            }
            Phase::Asked | Phase::Unanswered | Phase::Open => None,
        };
        self.schedule(stream);
        frame
    }

    /// DATA, DGRAM or END of a stream just taken off `ready`.
    fn ready_cell(&mut self, pool: &Pool, stream: u32) -> Option<FrameBuf> {
        let live = self.streams.get_mut(&stream)?;
        live.in_ready = false;
        let frame = if let Some((mut frame, len)) = live.next_data(pool) {
            let length = u16::try_from(len).ok()?;
            BodyHeader {
                command: Command::Data,
                length,
                stream,
            }
            .encode(&mut frame)
            .ok()?;
            if live.unblock() {
                self.notices.writable(stream);
            }
            Some(frame)
        } else if let Some(records) = live.next_datagrams() {
            cell(pool, Command::Dgram, stream, &records)
        } else if live.sending == Sending::Finishing {
            live.sending = Sending::Finished;
            self.close_if_over(stream);
            cell(pool, Command::End, stream, &[EndReason::Done as u8])
        } else {
            None
        };
        self.schedule(stream);
        frame
    }

    /// Puts a stream on the lists it belongs on. Nothing is on a list that has nothing to send.
    fn schedule(&mut self, stream: u32) {
        let Some(live) = self.streams.get_mut(&stream) else {
            return;
        };
        if !live.in_urgent && live.wants_urgent() {
            live.in_urgent = true;
            self.urgent.push_back(stream);
        }
        if !live.in_ready && live.wants_ready() {
            live.in_ready = true;
            self.ready.push_back(stream);
        }
    }

    // ---- endings ----

    /// Takes a stream out of every table but the notices.
    fn remove(&mut self, stream: u32) -> Option<Stream> {
        let gone = self.streams.remove(&stream)?;
        self.growth += gone.recv_window.growth();
        if gone.in_urgent {
            self.urgent.retain(|&other| other != stream);
        }
        if gone.in_ready {
            self.ready.retain(|&other| other != stream);
        }
        Some(gone)
    }

    /// Remembers how a stream ended; the oldest memory goes when there are too many.
    fn remember(&mut self, stream: u32, reason: EndReason) {
        self.ended.insert(stream, reason);
        if self.ended.len() > MAX_STREAMS
            && let Some((oldest, _)) = self.ended.pop_first()
        {
            self.notices.forget(oldest);
        }
    }

    fn close_if_over(&mut self, stream: u32) {
        if self.streams.get(&stream).is_some_and(Stream::is_over) {
            self.remove(stream);
            self.remember(stream, EndReason::Done);
        }
    }

    /// The peer cut a stream off: readers and writers are woken to find that out.
    fn ended_by_peer(&mut self, stream: u32, reason: EndReason) {
        self.remove(stream);
        if self.notices.is_unannounced(stream) {
            self.notices.forget(stream);
            return;
        }
        self.remember(stream, reason);
        self.notices.readable(stream);
        self.notices.writable(stream);
    }
}

/// A cell with a payload of its own, small where it fits. `None` is a payload no cell holds, which no caller has.
fn cell(pool: &Pool, command: Command, stream: u32, payload: &[u8]) -> Option<FrameBuf> {
    let small = payload.len() <= Class::Small.payload_capacity();
    let mut frame = pool.take(if small { Class::Small } else { Class::Bulk });
    write_body(&mut frame, command, stream, payload).ok()?;
    Some(frame)
}

#[cfg(test)]
mod tests;
