//! The peer wire protocol (BEP 3, the fast extension of BEP 6, hashes of BEP 52, reserved bits of BEP 10 and 52): handshake and messages.
//!
//! [`Decoder`] owns the receive buffer: the reader of the connection fills [`Decoder::space`], and blocks are handed out
//! as slices of that buffer. Messages of extensions that nobody here knows decode as [`MessageRef::Unknown`].

use super::infohash::InfoHash;
use super::metainfo::MAX_PIECES;
use super::v2::request::{HashRequest, MAX_ANSWER, REQUEST_LEN};

/// Length of a block, bytes: what everybody requests.
pub const BLOCK: u32 = 16 << 10;
/// Largest block that is given or taken, bytes: what other clients allow.
pub const MAX_BLOCK: u32 = 128 << 10;
/// Longest payload of an extended message, bytes: a metadata piece needs 16 KiB, some clients' PEX more.
pub const MAX_EXTENDED: u32 = 1 << 20;
/// Length of the handshake, bytes.
pub const HANDSHAKE_LEN: usize = 68;
/// Length of the handshake as far as it names the torrent, bytes: some send no more until they are answered.
pub const ASKED_LEN: usize = 48;

/// What a handshake starts with.
pub const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";
/// The bit of byte 5 of the reserved bytes that offers BEP 10.
pub const EXTENSION_BIT: u8 = 0x10;
/// The bit of byte 7 of the reserved bytes that offers BEP 6.
pub const FAST_BIT: u8 = 0x04;
/// The bit of byte 7 of the reserved bytes by which who names a hybrid torrent by its first hash says that the second will do too
/// (BEP 52).
pub const UPGRADE_BIT: u8 = 0x10;
/// Longest bitfield, bytes.
const MAX_BITFIELD: u32 = (MAX_PIECES as u32).div_ceil(8);
/// Longest message that nobody knows, bytes: dropped, but it passes through the buffer.
const MAX_UNKNOWN: u32 = 64 << 10;
/// Receive buffer of a connection, bytes: four blocks and their headers.
const BUFFER: usize = 68 << 10;
/// The same of a connection on which so much comes that it is filled at once: sixteen blocks, for fewer system calls.
const LARGE_BUFFER: usize = 260 << 10;
/// Reads in a row that would have fit half of the small buffer, after which it does again.
const QUIET_READS: u32 = 64;
/// Least free space to read into, bytes, before the buffer is rearranged.
const MIN_SPACE: usize = 4 << 10;

/// The peer broke BEP 3: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The handshake is of another protocol.
    #[error("not a BitTorrent handshake")]
    NotBitTorrent,
    /// A message whose length is wrong for its kind or beyond its limit.
    #[error("message {id} with a length of {len} bytes")]
    Length {
        /// Message id.
        id: u8,
        /// Its length, bytes, without the four that hold it.
        len: u32,
    },
}

/// The first bytes of a connection, in both directions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// The torrent.
    pub hash: InfoHash,
    /// The sender's random id.
    pub peer_id: [u8; 20],
    /// Extension bits.
    pub reserved: [u8; 8],
}

impl Handshake {
    /// Our handshake: it offers the extension protocol and the fast extension and nothing else, as everybody's of this
    /// program does. Only where the torrent is a hybrid one is [`UPGRADE_BIT`] set too, which says no more than that.
    pub fn new(hash: InfoHash, peer_id: [u8; 20]) -> Self {
        Self {
            hash,
            peer_id,
            reserved: [0, 0, 0, 0, 0, EXTENSION_BIT, 0, FAST_BIT],
        }
    }

    /// The handshake as it stands on the wire.
    pub fn encode(&self) -> [u8; HANDSHAKE_LEN] {
        let mut out = [0; HANDSHAKE_LEN];
        out[..20].copy_from_slice(PROTOCOL);
        out[20..28].copy_from_slice(&self.reserved);
        out[28..48].copy_from_slice(&self.hash.0);
        out[48..].copy_from_slice(&self.peer_id);
        out
    }

    /// Reads a handshake. Whether its infohash is wanted is for the caller to compare.
    ///
    /// # Errors
    /// Another protocol, or message stream encryption, which looks like noise: close the connection.
    pub fn decode(bytes: &[u8; HANDSHAKE_LEN]) -> Result<Self, WireError> {
        let error = WireError::NotBitTorrent;
        let (asked, rest) = bytes.split_first_chunk::<ASKED_LEN>().ok_or(error)?;
        let peer_id = <[u8; 20]>::try_from(rest).map_err(|_| error)?;
        let (_, rest) = asked.split_first_chunk::<20>().ok_or(error)?;
        let (reserved, _) = rest.split_first_chunk::<8>().ok_or(error)?;
        Ok(Self {
            hash: Self::asked(asked)?,
            peer_id,
            reserved: *reserved,
        })
    }

    /// The torrent that a handshake names, from its first bytes.
    ///
    /// # Errors
    /// As [`Handshake::decode`].
    pub fn asked(bytes: &[u8; ASKED_LEN]) -> Result<InfoHash, WireError> {
        let error = WireError::NotBitTorrent;
        let rest = bytes.strip_prefix(PROTOCOL).ok_or(error)?;
        let hash = rest.last_chunk::<20>().ok_or(error)?;
        Ok(InfoHash(*hash))
    }

    /// Whether the sender may be answered by the second hash of a hybrid torrent (BEP 52).
    pub fn takes_upgrade(&self) -> bool {
        self.reserved[7] & UPGRADE_BIT != 0
    }

    /// Whether the sender speaks the extension protocol (BEP 10).
    pub fn supports_extensions(&self) -> bool {
        self.reserved[5] & EXTENSION_BIT != 0
    }

    /// Whether the sender speaks the fast extension (BEP 6).
    pub fn supports_fast(&self) -> bool {
        self.reserved[7] & FAST_BIT != 0
    }
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handshake").finish_non_exhaustive()
    }
}

/// Names a block: part of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockRef {
    /// Number of the piece.
    pub index: u32,
    /// Where the block starts in the piece, bytes.
    pub begin: u32,
    /// Its length, bytes.
    pub len: u32,
}

impl BlockRef {
    /// Whether this is a block, and one inside a piece of that many bytes. Check it before serving a request.
    pub fn fits(self, piece_size: u32) -> bool {
        let end = self.begin.checked_add(self.len);
        (1..=MAX_BLOCK).contains(&self.len) && end.is_some_and(|end| end <= piece_size)
    }

    fn encode(self, id: u8, out: &mut Vec<u8>) {
        put_header(out, id, 12);
        for field in [self.index, self.begin, self.len] {
            out.extend_from_slice(&field.to_be_bytes());
        }
    }
}

/// A message whose data stands elsewhere: in the decoder's buffer, or where it is sent from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum MessageRef<'a> {
    /// Nothing; keeps the connection open.
    KeepAlive,
    /// Requests will not be answered.
    Choke,
    /// Requests will be answered.
    Unchoke,
    /// The sender would request if unchoked.
    Interested,
    /// The sender would not.
    NotInterested,
    /// The sender has this piece.
    Have(u32),
    /// The pieces that the sender has, one bit each, the first in the highest bit. Its length and spare bits are for
    /// the receiver to check, who may not know the number of pieces yet.
    Bitfield(&'a [u8]),
    /// Asks for a block.
    Request(BlockRef),
    /// Gives a block. Never empty.
    Piece {
        /// Number of the piece.
        index: u32,
        /// Where the block starts in the piece, bytes.
        begin: u32,
        /// The block.
        data: &'a [u8],
    },
    /// Takes a request back.
    Cancel(BlockRef),
    /// The sender's DHT port (BEP 5). We never send it and never use it.
    Port(u16),
    /// The sender would like to give this piece (BEP 6).
    Suggest(u32),
    /// The sender has every piece (BEP 6).
    HaveAll,
    /// The sender has no piece (BEP 6).
    HaveNone,
    /// A request that will not be answered (BEP 6).
    Reject(BlockRef),
    /// Requests for this piece are answered also while the sender chokes (BEP 6).
    AllowedFast(u32),
    /// A message of an extension (BEP 10).
    Extended {
        /// Extended message id, 0 for the extension handshake.
        id: u8,
        /// Its payload.
        payload: &'a [u8],
    },
    /// Asks for hashes of a file (BEP 52).
    HashRequest(HashRequest),
    /// Gives them, 32 bytes each.
    Hashes(HashRequest, &'a [u8]),
    /// Does not.
    HashReject(HashRequest),
    /// A message of an extension that we did not offer: to be ignored.
    Unknown(u8),
}

impl MessageRef<'_> {
    /// Appends the encoded message. [`MessageRef::Unknown`] has no content to send and appends nothing.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::KeepAlive => out.extend_from_slice(&[0; 4]),
            Self::Choke => put_header(out, 0, 0),
            Self::Unchoke => put_header(out, 1, 0),
            Self::Interested => put_header(out, 2, 0),
            Self::NotInterested => put_header(out, 3, 0),
            Self::Have(index) => {
                put_header(out, 4, 4);
                out.extend_from_slice(&index.to_be_bytes());
            }
            Self::Bitfield(bits) => {
                put_header(out, 5, bits.len());
                out.extend_from_slice(bits);
            }
            Self::Request(block) => block.encode(6, out),
            Self::Piece { index, begin, data } => {
                put_header(out, 7, 8 + data.len());
                out.extend_from_slice(&index.to_be_bytes());
                out.extend_from_slice(&begin.to_be_bytes());
                out.extend_from_slice(data);
            }
            Self::Cancel(block) => block.encode(8, out),
            Self::Port(port) => {
                put_header(out, 9, 2);
                out.extend_from_slice(&port.to_be_bytes());
            }
            Self::Suggest(index) => {
                put_header(out, 13, 4);
                out.extend_from_slice(&index.to_be_bytes());
            }
            Self::HaveAll => put_header(out, 14, 0),
            Self::HaveNone => put_header(out, 15, 0),
            Self::Reject(block) => block.encode(16, out),
            Self::AllowedFast(index) => {
                put_header(out, 17, 4);
                out.extend_from_slice(&index.to_be_bytes());
            }
            Self::Extended { id, payload } => {
                put_header(out, 20, 1 + payload.len());
                out.push(id);
                out.extend_from_slice(payload);
            }
            Self::HashRequest(request) => put_request(21, &request, &[], out),
            Self::Hashes(request, hashes) => put_request(22, &request, hashes, out),
            Self::HashReject(request) => put_request(23, &request, &[], out),
            Self::Unknown(_) => {}
        }
    }

    /// Copies the data, so that the message outlives the buffer.
    pub fn to_message(self) -> Message {
        match self {
            Self::KeepAlive => Message::KeepAlive,
            Self::Choke => Message::Choke,
            Self::Unchoke => Message::Unchoke,
            Self::Interested => Message::Interested,
            Self::NotInterested => Message::NotInterested,
            Self::Have(index) => Message::Have(index),
            Self::Bitfield(bits) => Message::Bitfield(bits.to_vec()),
            Self::Request(block) => Message::Request(block),
            Self::Piece { index, begin, data } => Message::Piece {
                index,
                begin,
                data: data.to_vec(),
            },
            Self::Cancel(block) => Message::Cancel(block),
            Self::Port(port) => Message::Port(port),
            Self::Suggest(index) => Message::Suggest(index),
            Self::HaveAll => Message::HaveAll,
            Self::HaveNone => Message::HaveNone,
            Self::Reject(block) => Message::Reject(block),
            Self::AllowedFast(index) => Message::AllowedFast(index),
            Self::Extended { id, payload } => Message::Extended {
                id,
                payload: payload.to_vec(),
            },
            Self::HashRequest(request) => Message::HashRequest(request),
            Self::Hashes(request, hashes) => Message::Hashes(request, hashes.to_vec()),
            Self::HashReject(request) => Message::HashReject(request),
            Self::Unknown(id) => Message::Unknown(id),
        }
    }
}

/// Shows kinds and numbers, never data: metadata holds names.
impl std::fmt::Debug for MessageRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::KeepAlive => f.write_str("KeepAlive"),
            Self::Choke => f.write_str("Choke"),
            Self::Unchoke => f.write_str("Unchoke"),
            Self::Interested => f.write_str("Interested"),
            Self::NotInterested => f.write_str("NotInterested"),
            Self::Have(index) => write!(f, "Have({index})"),
            Self::Bitfield(bits) => write!(f, "Bitfield({} bytes)", bits.len()),
            Self::Request(block) => write!(f, "Request({block:?})"),
            Self::Piece { index, begin, data } => {
                write!(f, "Piece({index}, {begin}, {} bytes)", data.len())
            }
            Self::Cancel(block) => write!(f, "Cancel({block:?})"),
            Self::Port(_) => f.write_str("Port"),
            Self::Suggest(index) => write!(f, "Suggest({index})"),
            Self::HaveAll => f.write_str("HaveAll"),
            Self::HaveNone => f.write_str("HaveNone"),
            Self::Reject(block) => write!(f, "Reject({block:?})"),
            Self::AllowedFast(index) => write!(f, "AllowedFast({index})"),
            Self::Extended { id, payload } => write!(f, "Extended({id}, {} bytes)", payload.len()),
            Self::HashRequest(request) => write!(f, "{request:?}"),
            Self::Hashes(request, hashes) => {
                write!(f, "Hashes({request:?}, {} bytes)", hashes.len())
            }
            Self::HashReject(request) => write!(f, "HashReject({request:?})"),
            Self::Unknown(id) => write!(f, "Unknown({id})"),
        }
    }
}

/// A message that owns its data: for queues. See [`MessageRef`] for what each means.
#[derive(Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the same as in MessageRef")]
pub enum Message {
    KeepAlive,
    Choke,
    Unchoke,
    Interested,
    NotInterested,
    Have(u32),
    Bitfield(Vec<u8>),
    Request(BlockRef),
    Piece {
        index: u32,
        begin: u32,
        data: Vec<u8>,
    },
    Cancel(BlockRef),
    Port(u16),
    Suggest(u32),
    HaveAll,
    HaveNone,
    Reject(BlockRef),
    AllowedFast(u32),
    Extended {
        id: u8,
        payload: Vec<u8>,
    },
    HashRequest(HashRequest),
    Hashes(HashRequest, Vec<u8>),
    HashReject(HashRequest),
    Unknown(u8),
}

impl Message {
    /// Lends the message.
    pub fn as_ref(&self) -> MessageRef<'_> {
        match self {
            Self::KeepAlive => MessageRef::KeepAlive,
            Self::Choke => MessageRef::Choke,
            Self::Unchoke => MessageRef::Unchoke,
            Self::Interested => MessageRef::Interested,
            Self::NotInterested => MessageRef::NotInterested,
            Self::Have(index) => MessageRef::Have(*index),
            Self::Bitfield(bits) => MessageRef::Bitfield(bits),
            Self::Request(block) => MessageRef::Request(*block),
            Self::Piece { index, begin, data } => MessageRef::Piece {
                index: *index,
                begin: *begin,
                data,
            },
            Self::Cancel(block) => MessageRef::Cancel(*block),
            Self::Port(port) => MessageRef::Port(*port),
            Self::Suggest(index) => MessageRef::Suggest(*index),
            Self::HaveAll => MessageRef::HaveAll,
            Self::HaveNone => MessageRef::HaveNone,
            Self::Reject(block) => MessageRef::Reject(*block),
            Self::AllowedFast(index) => MessageRef::AllowedFast(*index),
            Self::Extended { id, payload } => MessageRef::Extended { id: *id, payload },
            Self::HashRequest(request) => MessageRef::HashRequest(*request),
            Self::Hashes(request, hashes) => MessageRef::Hashes(*request, hashes),
            Self::HashReject(request) => MessageRef::HashReject(*request),
            Self::Unknown(id) => MessageRef::Unknown(*id),
        }
    }

    /// Appends the encoded message, as [`MessageRef::encode`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.as_ref().encode(out);
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_ref().fmt(f)
    }
}

/// Length of what stands before the data of a PIECE message, bytes.
pub const PIECE_HEADER_LEN: usize = 13;

/// What stands before the data of a PIECE message: to write a block from where it lies, without a copy.
///
/// `data_len` is at most [`MAX_BLOCK`].
pub fn piece_header(index: u32, begin: u32, data_len: u32) -> [u8; PIECE_HEADER_LEN] {
    let mut out = [0; PIECE_HEADER_LEN];
    out[..4].copy_from_slice(&data_len.saturating_add(9).to_be_bytes());
    out[4] = 7;
    out[5..9].copy_from_slice(&index.to_be_bytes());
    out[9..].copy_from_slice(&begin.to_be_bytes());
    out
}

fn put_header(out: &mut Vec<u8>, id: u8, payload: usize) {
    // Payloads are ours: blocks, bitfields and metadata, all far below 4 GiB.
    let len = u32::try_from(payload + 1).unwrap_or(u32::MAX);
    out.reserve(payload + 5);
    out.extend_from_slice(&len.to_be_bytes());
    out.push(id);
}

fn put_request(id: u8, request: &HashRequest, hashes: &[u8], out: &mut Vec<u8>) {
    put_header(out, id, REQUEST_LEN + hashes.len());
    request.encode(out);
    out.extend_from_slice(hashes);
}

/// Whether a message of this kind may have this payload length, bytes.
fn check_len(id: u8, len: u32) -> Result<(), WireError> {
    let payload = len.saturating_sub(1);
    let good = match id {
        0..=3 | 14 | 15 => payload == 0,
        4 | 13 | 17 => payload == 4,
        5 => (1..=MAX_BITFIELD).contains(&payload),
        6 | 8 | 16 => payload == 12,
        7 => (9..=8 + MAX_BLOCK).contains(&payload),
        9 => payload == 2,
        20 => (1..=1 + MAX_EXTENDED).contains(&payload),
        21 | 23 => payload as usize == REQUEST_LEN,
        22 => {
            let hashes = (payload as usize).checked_sub(REQUEST_LEN);
            hashes.is_some_and(|len| len.is_multiple_of(32)) && payload as usize <= MAX_ANSWER
        }
        _ => payload <= MAX_UNKNOWN,
    };
    if good {
        Ok(())
    } else {
        Err(WireError::Length { id, len })
    }
}

/// Cuts a byte stream into messages. After an error it gives nothing more: close the connection.
///
/// Loop: read into [`Decoder::space`], say how much by [`Decoder::filled`], then take messages by [`Decoder::next`]
/// until it gives `None`.
pub struct Decoder {
    buf: Vec<u8>,
    start: usize,
    end: usize,
    /// Length of the buffer at most, but for longer messages.
    size: usize,
    /// Small reads in a row.
    quiet: u32,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder with an empty buffer; memory is taken at the first read.
    pub fn new() -> Self {
        Self {
            buf: Vec::new(),
            start: 0,
            end: 0,
            size: BUFFER,
            quiet: 0,
        }
    }

    /// Where to read into; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buf.len() > self.size {
                // A long message or a rush has passed; its buffer is not kept for each peer.
                self.buf = Vec::new();
            }
        }
        let held = self.end - self.start;
        let needed = self.announced().map_or(0, |len| len.saturating_sub(held));
        let free = self.buf.len() - self.end;
        if free < MIN_SPACE.max(needed) && self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, held);
        }
        let free = self.buf.len() - self.end;
        if self.start == 0 && !self.buf.is_empty() && self.buf.len() < self.size {
            self.buf.resize(self.size, 0);
        } else if free < MIN_SPACE.max(needed) {
            // Grows with what has come, not with what was announced: a header alone costs us no memory.
            let wanted = held + MIN_SPACE.max(needed);
            let grown = wanted
                .min(held.saturating_mul(2))
                .max(BUFFER)
                .max(held + MIN_SPACE);
            self.buf.resize(grown.max(self.buf.len()), 0);
        }
        &mut self.buf[self.end..]
    }

    /// Says that the first `len` bytes of [`Decoder::space`] were read.
    pub fn filled(&mut self, len: usize) {
        let space = self.buf.len() - self.end;
        if len >= space && space > BUFFER / 2 {
            (self.size, self.quiet) = (LARGE_BUFFER, 0);
        } else if len < BUFFER / 2 && self.size > BUFFER {
            self.quiet += 1;
            if self.quiet >= QUIET_READS {
                (self.size, self.quiet) = (BUFFER, 0);
            }
        } else {
            self.quiet = 0;
        }
        self.end = self.end.saturating_add(len).min(self.buf.len());
    }

    /// Takes bytes that were read elsewhere (with the handshake, say), at the cost of a copy.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.space();
            let len = space.len().min(bytes.len());
            space[..len].copy_from_slice(&bytes[..len]);
            self.filled(len);
            bytes = &bytes[len..];
        }
    }

    /// Bytes received but not yet handed out.
    pub fn buffered(&self) -> usize {
        self.end - self.start
    }

    /// Length of the message at the front, its length field included, once that is there.
    fn announced(&self) -> Option<usize> {
        let (len, _) = self
            .buf
            .get(self.start..self.end)?
            .split_first_chunk::<4>()?;
        usize::try_from(u32::from_be_bytes(*len))
            .ok()?
            .checked_add(4)
    }

    /// Takes the next message; `None` when its bytes have not all come.
    ///
    /// # Errors
    /// The peer broke BEP 3: close the connection.
    #[allow(
        clippy::should_implement_trait,
        reason = "what it gives borrows from the decoder"
    )]
    pub fn next(&mut self) -> Result<Option<MessageRef<'_>>, WireError> {
        let held = &self.buf[self.start..self.end];
        let Some((&len, rest)) = held.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(len);
        if len == 0 {
            self.start += 4;
            return Ok(Some(MessageRef::KeepAlive));
        }
        let Some(&id) = rest.first() else {
            return Ok(None);
        };
        // Before the rest has come, so that no limit is passed even in the buffer.
        check_len(id, len)?;
        let total = 4 + len as usize;
        if held.len() < total {
            return Ok(None);
        }
        let from = self.start + 5;
        self.start += total;
        let payload = &self.buf[from..self.start];
        decode(id, payload)
            .ok_or(WireError::Length { id, len })
            .map(Some)
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("buffered", &self.buffered())
            .finish_non_exhaustive()
    }
}

/// Reads a payload whose length [`check_len`] has checked.
fn decode(id: u8, payload: &[u8]) -> Option<MessageRef<'_>> {
    let block = || {
        let (index, rest) = take_u32(payload)?;
        let (begin, rest) = take_u32(rest)?;
        let (len, _) = take_u32(rest)?;
        Some(BlockRef { index, begin, len })
    };
    Some(match id {
        0 => MessageRef::Choke,
        1 => MessageRef::Unchoke,
        2 => MessageRef::Interested,
        3 => MessageRef::NotInterested,
        4 => MessageRef::Have(take_u32(payload)?.0),
        5 => MessageRef::Bitfield(payload),
        6 => MessageRef::Request(block()?),
        7 => {
            let (index, rest) = take_u32(payload)?;
            let (begin, data) = take_u32(rest)?;
            MessageRef::Piece { index, begin, data }
        }
        8 => MessageRef::Cancel(block()?),
        9 => MessageRef::Port(u16::from_be_bytes(*payload.first_chunk()?)),
        13 => MessageRef::Suggest(take_u32(payload)?.0),
        14 => MessageRef::HaveAll,
        15 => MessageRef::HaveNone,
        16 => MessageRef::Reject(block()?),
        17 => MessageRef::AllowedFast(take_u32(payload)?.0),
        20 => {
            let (&id, payload) = payload.split_first()?;
            MessageRef::Extended { id, payload }
        }
        21 => MessageRef::HashRequest(HashRequest::parse(payload)?.0),
        22 => {
            let (request, hashes) = HashRequest::parse(payload)?;
            MessageRef::Hashes(request, hashes)
        }
        23 => MessageRef::HashReject(HashRequest::parse(payload)?.0),
        other => MessageRef::Unknown(other),
    })
}

fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (value, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*value), rest))
}

#[cfg(test)]
mod tests;
