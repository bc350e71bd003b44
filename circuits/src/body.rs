//! Bodies: what stands in a cell once its last onion layer is off (PROTOCOL.md §5).
//!
//! Encoders write every byte that can leave: slots and padding are zeroed, for a pooled buffer still holds what
//! somebody else's circuit carried.

use std::ops::{Deref, Range};

use crate::frame::{BODY_OFFSET, CELL_OFFSET, Class, FrameBuf};
use crate::target::{Host, Target, TargetError};

/// Length of the header of a body, bytes.
pub const BODY_HEADER_LEN: usize = 16;
/// Where the payload starts in a frame.
pub const PAYLOAD_OFFSET: usize = BODY_OFFSET + BODY_HEADER_LEN;
/// Length of the zeros a recognised body starts with, bytes (§4.1).
pub const MARK_LEN: usize = 8;

impl Class {
    /// Most payload bytes in a cell of this class: 4000 or 928.
    pub const fn payload_capacity(self) -> usize {
        self.body_len() - BODY_HEADER_LEN
    }
}

/// Defines an enum whose values are bytes of the wire.
macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$note:meta])* $variant:ident = $value:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$note])* $variant = $value),+ }

        impl $name {
            /// Reads the byte of the wire; `None` where the specification names no such value.
            pub const fn from_wire(byte: u8) -> Option<Self> {
                match byte {
                    $($value => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

wire_enum! {
    /// What a body is for (§5).
    Command {
        /// The origin asks for a stream.
        Open = 1,
        /// The answer.
        Opened = 2,
        /// Bytes of a stream.
        Data = 3,
        /// The end of one direction, or of a stream.
        End = 4,
        /// More bytes may be sent on a stream.
        Window = 5,
        /// Datagrams.
        Dgram = 6,
        /// The origin asks the last hop for one more.
        Extend = 7,
        /// The answer.
        Extended = 8,
        /// Padding.
        Drop = 9,
    }
}

impl Command {
    /// Whether bodies with this command name a stream (number not 0).
    pub const fn names_stream(self) -> bool {
        match self {
            Self::Open | Self::Opened | Self::Data | Self::End | Self::Window | Self::Dgram => true,
            Self::Extend | Self::Extended | Self::Drop => false,
        }
    }
}

wire_enum! {
    /// What kind of stream OPEN asks for (§5).
    OpenKind {
        /// A TCP connection to a target.
        Tcp = 1,
        /// A datagram flow (§5.4).
        Datagrams = 2,
        /// The hop's newest relay list (§7.2), as a byte stream.
        RelayList = 3,
        /// The addresses of a name (§5.7), as a byte stream.
        Resolve = 4,
        /// The name of an address (§5.7), as a byte stream.
        ResolvePtr = 5,
        /// A lookup in the DHT (§5.8), as a byte stream.
        Dht = 6,
        /// An introduction point (§8.1): the origin takes introductions here.
        IntroductionPoint = 7,
        /// An introduction to whoever holds a key here (§8.1).
        Introduce = 8,
        /// To wait at this rendezvous point (§8.2).
        RendezvousWait = 9,
        /// To join who waits at this rendezvous point (§8.2).
        RendezvousJoin = 10,
    }
}

wire_enum! {
    /// How an OPEN ended (§5.2). Any status but [`OpenStatus::Open`] ends the stream.
    OpenStatus {
        /// The stream is open.
        Open = 0,
        /// The exit's policy forbids it.
        Refused = 1,
        /// The name does not exist.
        NameNotFound = 2,
        /// Nobody listens there.
        ConnectionRefused = 3,
        /// The exit could not reach it.
        Unreachable = 4,
        /// No answer in time.
        TimedOut = 5,
        /// The exit has too much open already.
        Limit = 6,
        /// The exit failed for a reason of its own.
        Failed = 7,
    }
}

wire_enum! {
    /// Why a stream, or one direction of it, ended (§5.3).
    EndReason {
        /// No more data from this side; the other direction goes on.
        Done = 0,
        /// Cut off.
        Reset = 1,
        /// Nothing came for too long.
        TimedOut = 2,
        /// A limit was reached.
        Limit = 3,
        /// The end point is going away.
        ShuttingDown = 4,
    }
}

wire_enum! {
    /// Why a circuit ended (§5.6).
    DestroyReason {
        /// Nobody needs it any more.
        Finished = 0,
        /// Somebody broke the protocol.
        Protocol = 1,
        /// A hop failed for a reason of its own.
        Internal = 2,
        /// The next hop could not be reached.
        Unreachable = 3,
        /// Something took too long.
        TimedOut = 4,
        /// A limit was reached.
        Limit = 5,
        /// A hop is going away.
        ShuttingDown = 6,
        /// A link of the circuit closed.
        LinkLost = 7,
    }
}

impl DestroyReason {
    /// Reads the reason of a DESTROY frame. One that §5.6 does not name counts as [`DestroyReason::Protocol`]: the
    /// circuit is gone in any case.
    pub fn from_frame(byte: u8) -> Self {
        Self::from_wire(byte).unwrap_or(Self::Protocol)
    }
}

wire_enum! {
    /// How an EXTEND ended (§5.5).
    ExtendStatus {
        /// The next hop answered.
        Done = 0,
        /// The relay is not in the hop's list, or has another descriptor there.
        NotListed = 1,
        /// It could not be reached.
        Unreachable = 2,
        /// It did not answer in time.
        TimedOut = 3,
        /// The hop, or the relay, does not want to.
        Refused = 4,
    }
}

/// The sender broke §5: destroy the circuit. Of an encoder: the payload does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The body does not start with eight zeros.
    #[error("body does not start with the recognised mark")]
    NotRecognised,
    /// No such command.
    #[error("unknown command {0:#04x}")]
    UnknownCommand(u8),
    /// More payload than a body holds, or none where some must be.
    #[error("{0} bytes of payload do not fit")]
    Length(usize),
    /// A stream number where none belongs, or none where one does.
    #[error("{0:?} with a stream number that does not fit")]
    BadStream(Command),
    /// A payload that ends early.
    #[error("{0:?} is cut off")]
    CutOff(Command),
    /// Bytes after the end of a payload.
    #[error("{0:?} has bytes after its end")]
    Trailing(Command),
    /// A kind, status or reason that the specification does not name.
    #[error("{0:?} with unknown value {1}")]
    UnknownValue(Command, u8),
    /// A target that can't be read.
    #[error("bad target")]
    Target(#[from] TargetError),
    /// A target where none belongs, or none where one does.
    #[error("{0:?} with or without a target, unlike its kind")]
    TargetMismatch(Command),
}

/// The header of a body (§5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyHeader {
    /// What the body is for.
    pub command: Command,
    /// Payload length, bytes.
    pub length: u16,
    /// Stream number; 0 where the command names none.
    pub stream: u32,
}

impl BodyHeader {
    /// Writes the header around a payload that already stands at [`PAYLOAD_OFFSET`], and zeroes slots and padding.
    ///
    /// # Errors
    /// The payload is longer than a body of this class holds: the caller has a bug, nothing was written.
    pub fn encode(self, frame: &mut FrameBuf) -> Result<(), BodyError> {
        let length = usize::from(self.length);
        if length > frame.class().payload_capacity() {
            return Err(BodyError::Length(length));
        }
        let bytes = frame.bytes_mut();
        bytes[CELL_OFFSET..BODY_OFFSET + MARK_LEN].fill(0);
        let header = &mut bytes[BODY_OFFSET + MARK_LEN..PAYLOAD_OFFSET];
        header[0] = self.command as u8;
        header[1] = 0;
        header[2..4].copy_from_slice(&self.length.to_be_bytes());
        header[4..].copy_from_slice(&self.stream.to_be_bytes());
        bytes[PAYLOAD_OFFSET + length..].fill(0);
        Ok(())
    }

    /// Reads the header of a plain body; gives it and where the payload stands in `body`.
    ///
    /// # Errors
    /// The sender broke §5: destroy the circuit.
    pub fn decode(body: &[u8]) -> Result<(Self, Range<usize>), BodyError> {
        let Some((header, rest)) = body.split_first_chunk::<BODY_HEADER_LEN>() else {
            return Err(BodyError::Length(body.len()));
        };
        let [mark @ .., command, _flags, l0, l1, s0, s1, s2, s3] = *header;
        let mark: [u8; MARK_LEN] = mark;
        if mark != [0; MARK_LEN] {
            return Err(BodyError::NotRecognised);
        }
        let command = Command::from_wire(command).ok_or(BodyError::UnknownCommand(command))?;
        let length = u16::from_be_bytes([l0, l1]);
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        let end = usize::from(length);
        if end > rest.len() || (command == Command::Data && end == 0) {
            return Err(BodyError::Length(end));
        }
        if command.names_stream() != (stream != 0) {
            return Err(BodyError::BadStream(command));
        }
        Ok((
            Self {
                command,
                length,
                stream,
            },
            BODY_HEADER_LEN..BODY_HEADER_LEN + end,
        ))
    }
}

/// Writes a whole body: header, payload and padding.
///
/// # Errors
/// The payload is longer than a body of this class holds: the caller has a bug, nothing was written.
pub fn write_body(
    frame: &mut FrameBuf,
    command: Command,
    stream: u32,
    payload: &[u8],
) -> Result<(), BodyError> {
    let length = u16::try_from(payload.len()).map_err(|_| BodyError::Length(payload.len()))?;
    let room = &mut frame.bytes_mut()[PAYLOAD_OFFSET..];
    room.get_mut(..payload.len())
        .ok_or(BodyError::Length(payload.len()))?
        .copy_from_slice(payload);
    BodyHeader {
        command,
        length,
        stream,
    }
    .encode(frame)
}

/// Reads a payload that is one byte.
fn one_byte(command: Command, payload: &[u8]) -> Result<u8, BodyError> {
    match payload {
        [byte] => Ok(*byte),
        [] => Err(BodyError::CutOff(command)),
        [_, _, ..] => Err(BodyError::Trailing(command)),
    }
}

impl OpenStatus {
    /// Reads the payload of OPENED.
    ///
    /// # Errors
    /// The sender broke §5: destroy the circuit.
    pub fn decode(payload: &[u8]) -> Result<Self, BodyError> {
        let byte = one_byte(Command::Opened, payload)?;
        Self::from_wire(byte).ok_or(BodyError::UnknownValue(Command::Opened, byte))
    }
}

impl EndReason {
    /// Reads the payload of END.
    ///
    /// # Errors
    /// The sender broke §5: destroy the circuit.
    pub fn decode(payload: &[u8]) -> Result<Self, BodyError> {
        let byte = one_byte(Command::End, payload)?;
        Self::from_wire(byte).ok_or(BodyError::UnknownValue(Command::End, byte))
    }
}

/// Reads the payload of WINDOW: how many more bytes may be sent.
///
/// # Errors
/// The sender broke §5: destroy the circuit.
pub fn decode_window(payload: &[u8]) -> Result<u32, BodyError> {
    match payload.split_first_chunk() {
        Some((bytes, [])) => Ok(u32::from_be_bytes(*bytes)),
        Some(_) => Err(BodyError::Trailing(Command::Window)),
        None => Err(BodyError::CutOff(Command::Window)),
    }
}

/// The payload of OPEN (§5, §5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    /// What kind of stream.
    pub kind: OpenKind,
    /// Where to, for [`OpenKind::Tcp`]; what to look up, for the lookups; absent for the others.
    pub target: Option<Target>,
}

impl OpenRequest {
    /// Whether there is a target exactly where the kind has one, and of the sort that it has (§5.2).
    pub fn is_consistent(&self) -> bool {
        let is_lookup_of = |named: bool| {
            self.target.as_ref().is_some_and(|target| {
                target.port == 0 && matches!(target.host, Host::Name(_)) == named
            })
        };
        match self.kind {
            OpenKind::Tcp => self.target.is_some(),
            OpenKind::Datagrams
            | OpenKind::RelayList
            | OpenKind::Dht
            | OpenKind::IntroductionPoint
            | OpenKind::Introduce
            | OpenKind::RendezvousWait
            | OpenKind::RendezvousJoin => self.target.is_none(),
            OpenKind::Resolve => is_lookup_of(true),
            OpenKind::ResolvePtr => is_lookup_of(false),
        }
    }

    /// The payload: `kind u8 | target`, at most 260 bytes, so it fits a small cell.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.kind as u8];
        match &self.target {
            Some(target) => target.encode(&mut out),
            None => out.push(0),
        }
        out
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// The sender broke §5: destroy the circuit.
    pub fn decode(payload: &[u8]) -> Result<Self, BodyError> {
        let (&kind, rest) = payload
            .split_first()
            .ok_or(BodyError::CutOff(Command::Open))?;
        let kind = OpenKind::from_wire(kind).ok_or(BodyError::UnknownValue(Command::Open, kind))?;
        let (target, rest) = Target::decode(rest)?;
        if !rest.is_empty() {
            return Err(BodyError::Trailing(Command::Open));
        }
        let request = Self { kind, target };
        if !request.is_consistent() {
            return Err(BodyError::TargetMismatch(Command::Open));
        }
        Ok(request)
    }
}

/// Reads `length u16 | bytes[length]` (also the bodies of CREATE and CREATED, §2.1); gives the bytes and what follows.
pub fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// As [`counted`], with nothing after it.
fn counted_to_end(command: Command, bytes: &[u8]) -> Result<&[u8], BodyError> {
    match counted(bytes) {
        Some((counted, [])) => Ok(counted),
        Some(_) => Err(BodyError::Trailing(command)),
        None => Err(BodyError::CutOff(command)),
    }
}

/// Appends `length u16 | bytes`. What does not fit a `u16` would not fit a cell either, so encoding into one fails.
pub fn put_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// The payload of EXTEND (§5.5). The hop hands `message` on as it is: only the next one can check it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtendRequest {
    /// Ed25519 identity of the relay to extend to.
    pub identity: [u8; 32],
    /// Digest of its descriptor, as the origin knows it.
    pub digest: [u8; 32],
    /// Message 1 of the hop handshake (§3.1).
    pub message: Vec<u8>,
}

impl ExtendRequest {
    /// The payload: `identity[32] | descriptor digest[32] | length u16 | message 1`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = [self.identity, self.digest].concat();
        put_counted(&mut out, &self.message);
        out
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// The sender broke §5.5: destroy the circuit.
    pub fn decode(payload: &[u8]) -> Result<Self, BodyError> {
        let cut_off = BodyError::CutOff(Command::Extend);
        let (&identity, rest) = payload.split_first_chunk().ok_or(cut_off)?;
        let (&digest, rest) = rest.split_first_chunk().ok_or(cut_off)?;
        let message = counted_to_end(Command::Extend, rest)?.to_vec();
        Ok(Self {
            identity,
            digest,
            message,
        })
    }
}

/// The payload of EXTENDED (§5.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extended {
    /// How it ended.
    pub status: ExtendStatus,
    /// The next hop's handshake answer (§3.2); empty unless the status is [`ExtendStatus::Done`].
    pub answer: Vec<u8>,
}

impl Extended {
    /// The payload: `status u8 | length u16 | answer`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.status as u8];
        put_counted(&mut out, &self.answer);
        out
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// The sender broke §5.5: destroy the circuit.
    pub fn decode(payload: &[u8]) -> Result<Self, BodyError> {
        let (&status, rest) = payload
            .split_first()
            .ok_or(BodyError::CutOff(Command::Extended))?;
        let status = ExtendStatus::from_wire(status)
            .ok_or(BodyError::UnknownValue(Command::Extended, status))?;
        Ok(Self {
            status,
            answer: counted_to_end(Command::Extended, rest)?.to_vec(),
        })
    }
}

/// Length of a datagram's record (§5.4), bytes.
pub fn record_len(target: &Target, payload: &[u8]) -> usize {
    2 + target.encoded_len() + payload.len()
}

/// Appends a datagram's record: `length u16 | target | payload[length]`.
///
/// # Errors
/// No cell holds a record this long: drop the datagram.
pub fn put_record(out: &mut Vec<u8>, target: &Target, payload: &[u8]) -> Result<(), BodyError> {
    let len = record_len(target, payload);
    let length = u16::try_from(payload.len()).map_err(|_| BodyError::Length(len))?;
    if len > Class::Bulk.payload_capacity() {
        return Err(BodyError::Length(len));
    }
    out.extend_from_slice(&length.to_be_bytes());
    target.encode(out);
    out.extend_from_slice(payload);
    Ok(())
}

/// The records of a DGRAM payload, in order. After an error there are no more.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// Reads the records of this payload.
    pub fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    fn read(&mut self) -> Result<(Target, &'a [u8]), BodyError> {
        let cut_off = BodyError::CutOff(Command::Dgram);
        let (length, rest) = self.rest.split_first_chunk().ok_or(cut_off)?;
        let (target, rest) = Target::decode(rest)?;
        let target = target.ok_or(BodyError::TargetMismatch(Command::Dgram))?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (payload, rest) = rest.split_at_checked(length).ok_or(cut_off)?;
        self.rest = rest;
        Ok((target, payload))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(Target, &'a [u8]), BodyError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = self.read();
        if record.is_err() {
            self.rest = &[];
        }
        Some(record)
    }
}

/// Where the bytes of a [`Payload`] stand.
#[derive(Debug)]
enum Store {
    Frame(FrameBuf),
    Bytes(Vec<u8>),
}

/// Received bytes of a stream: a slice of the cell that brought them, or of several small ones gathered.
#[derive(Debug)]
pub struct Payload {
    store: Store,
    start: usize,
    end: usize,
}

impl Payload {
    /// Takes the payload that stands at `range` in the body of `frame`; a range that leaves the body gives nothing.
    pub fn from_frame(frame: FrameBuf, range: Range<usize>) -> Self {
        let (start, end) = (BODY_OFFSET + range.start, BODY_OFFSET + range.end);
        Self {
            store: Store::Frame(frame),
            start,
            end,
        }
    }

    /// Takes bytes of their own.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let end = bytes.len();
        Self {
            store: Store::Bytes(bytes),
            start: 0,
            end,
        }
    }

    /// Takes the first `n` bytes off, or all of them.
    pub fn advance(&mut self, n: usize) {
        self.start = self.start.saturating_add(n).min(self.end);
    }

    /// Adds bytes to a payload that does not hold a frame, up to `limit` in all. `false`: nothing was added.
    pub(crate) fn try_append(&mut self, bytes: &[u8], limit: usize) -> bool {
        match &mut self.store {
            Store::Bytes(own) if own.len() + bytes.len() <= limit => {
                own.extend_from_slice(bytes);
                self.end = own.len();
                true
            }
            Store::Bytes(_) | Store::Frame(_) => false,
        }
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all = match &self.store {
            Store::Frame(frame) => frame.bytes(),
            Store::Bytes(bytes) => bytes,
        };
        all.get(self.start..self.end).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests;
