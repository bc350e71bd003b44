//! Records between a visitor and a seed (PROTOCOL.md §8.4). The rendezvous point passes them on, and can neither read them
//! nor change, repeat, swap or cut them off unnoticed.
//!
//! Three lengths, so that what is said does not show in how long it is.

use std::fmt;
use std::ops::Range;

use crate::frame::TAG_LEN;
use crate::keys::aead::{Counter, RatchetKey};
use crate::keys::noise::HandshakeError;
use crate::keys::{Key32, Suite, derive_key};

/// Lengths of records, bytes: a small cell's payload, a bulk cell's, and four of these.
pub const RECORD_LENS: [usize; 3] = [928, 4000, 16_000];
/// Most data in one record, bytes.
pub const MAX_DATA: usize = capacity(RECORD_LENS[2]);
/// Records under one key: at most 64 MB of data.
pub const RECORDS_PER_RATCHET: u64 = 4096;

/// Class byte, kind byte, length.
const HEADER_LEN: usize = 4;
/// The class byte is not sealed.
const SEALED_FROM: usize = 1;
/// One record may be waited for while the next is read with it.
const BUFFER: usize = 2 * RECORD_LENS[2];

const KIND_DATA: u8 = 0;
const KIND_LAST: u8 = 1;

/// Everybody's, so that nothing tells what machine a seed is.
const SUITE: Suite = Suite::ChaCha20Poly1305;
const RATCHET: &str = "hushswarm v1 hidden ratchet";

const fn capacity(record: usize) -> usize {
    record - HEADER_LEN - TAG_LEN
}

/// The keys of a meeting.
pub struct SessionKeys {
    /// From the visitor to the seed.
    pub to_seed: StreamKey,
    /// From the seed to the visitor.
    pub to_visitor: StreamKey,
}

impl SessionKeys {
    pub(super) fn new((k1, k2, hash): (Key32, Key32, [u8; 32])) -> Result<Self, HandshakeError> {
        let derive =
            |context, key: &Key32| StreamKey(derive_key(context, &[key.as_bytes(), &hash]));
        Ok(Self {
            to_seed: derive("hushswarm v1 hidden to seed", &k1),
            to_visitor: derive("hushswarm v1 hidden to visitor", &k2),
        })
    }
}

impl fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKeys(..)")
    }
}

/// The key of one direction; used up by the sealer or opener that is made of it, so that none seals twice.
pub struct StreamKey(Key32);

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamKey(..)")
    }
}

/// Why a stream ends early: close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealedError {
    /// Changed, repeated, swapped, or made by somebody else.
    #[error("a record that does not open")]
    Forged,
    /// Not the beginning of a record, or a record that its maker must not make.
    #[error("not a record")]
    Malformed,
    /// Bytes after the last record.
    #[error("records after the last")]
    AfterEnd,
    /// The stream has ended, or its counter has.
    #[error("the stream has ended")]
    Ended,
}

/// Seals one direction.
pub struct Sealer {
    key: RatchetKey,
    counter: Counter,
}

impl Sealer {
    /// Begins with record 0.
    pub fn new(key: StreamKey) -> Self {
        Self {
            key: RatchetKey::new(SUITE, key.0),
            counter: Counter::new(),
        }
    }

    /// Appends one record with the beginning of `data` to `out`; gives how much of it. Of much data it takes as much as
    /// the longest record holds, of little data little.
    ///
    /// # Errors
    /// Nothing more can be sealed.
    pub fn seal(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<usize, SealedError> {
        let class = match data.len() {
            len if len <= capacity(RECORD_LENS[0]) => 0,
            len if len < MAX_DATA => 1,
            _ => 2,
        };
        let taken = data.len().min(capacity(RECORD_LENS[class]));
        self.record(class, KIND_DATA, &data[..taken], out)?;
        Ok(taken)
    }

    /// Appends the record that says that nothing follows.
    ///
    /// # Errors
    /// It was said before.
    pub fn last(&mut self, out: &mut Vec<u8>) -> Result<(), SealedError> {
        self.record(0, KIND_LAST, &[], out)?;
        self.counter.end();
        Ok(())
    }

    fn record(
        &mut self,
        class: usize,
        kind: u8,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealedError> {
        let nonce = self.counter.get().ok_or(SealedError::Ended)?;
        let (start, len) = (out.len(), RECORD_LENS[class]);
        out.resize(start + len, 0);
        let record = &mut out[start..];
        let [length_high, length_low] = (data.len() as u16).to_be_bytes();
        record[..HEADER_LEN].copy_from_slice(&[class as u8, kind, length_high, length_low]);
        record[HEADER_LEN..HEADER_LEN + data.len()].copy_from_slice(data);
        let (body, tag) = record.split_at_mut(len - TAG_LEN);
        let (class, body) = body.split_at_mut(SEALED_FROM);
        tag.copy_from_slice(&self.key.aead.seal(nonce, class, body));
        if self.counter.advance(RECORDS_PER_RATCHET) {
            self.key.ratchet(RATCHET);
        }
        Ok(())
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

/// What reading gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes.
    Data(usize),
    /// More must come first.
    Pending,
    /// The other side has said that nothing follows.
    End,
}

/// Opens one direction. Bytes go into [`Opener::space`], data comes out of [`Opener::read`].
pub struct Opener {
    key: RatchetKey,
    counter: Counter,
    /// Empty until bytes come.
    buffer: Vec<u8>,
    /// What came and was not opened.
    came: Range<usize>,
    /// What was opened and not read.
    plain: Range<usize>,
    state: State,
}

enum State {
    Open,
    Ended,
    Failed(SealedError),
}

impl Opener {
    /// Begins with record 0.
    pub fn new(key: StreamKey) -> Self {
        Self {
            key: RatchetKey::new(SUITE, key.0),
            counter: Counter::new(),
            buffer: Vec::new(),
            came: 0..0,
            plain: 0..0,
            state: State::Open,
        }
    }

    /// Where bytes that come go, never empty once [`Opener::read`] has said [`Read::Pending`]. Say then with [`Opener::filled`] how many they were.
    pub fn space(&mut self) -> &mut [u8] {
        self.buffer.resize(BUFFER, 0);
        if self.plain.is_empty() {
            self.buffer.copy_within(self.came.clone(), 0);
            self.came = 0..self.came.len();
            self.plain = 0..0;
        }
        &mut self.buffer[self.came.end..]
    }

    /// So many bytes were put into [`Opener::space`].
    pub fn filled(&mut self, bytes: usize) {
        self.came.end = (self.came.end + bytes).min(self.buffer.len());
    }

    /// Puts data that came and is right into `out`.
    ///
    /// # Errors
    /// Close the stream: whoever carries it meddles with it. It gives the same error from now on.
    pub fn read(&mut self, out: &mut [u8]) -> Result<Read, SealedError> {
        while self.plain.is_empty() {
            match self.state {
                State::Failed(error) => return Err(error),
                State::Ended if self.came.is_empty() => return Ok(Read::End),
                State::Ended => {
                    self.state = State::Failed(SealedError::AfterEnd);
                    continue;
                }
                State::Open => {}
            }
            match self.open_next() {
                Ok(true) => {}
                Ok(false) => {
                    if self.came.is_empty() {
                        // Who waits holds no buffer.
                        self.buffer = Vec::new();
                        self.came = 0..0;
                        self.plain = 0..0;
                    }
                    return Ok(Read::Pending);
                }
                Err(error) => {
                    // What was taken for records is nobody's.
                    self.buffer = Vec::new();
                    self.came = 0..0;
                    self.plain = 0..0;
                    self.state = State::Failed(error);
                }
            }
        }
        let n = self.plain.len().min(out.len());
        out[..n].copy_from_slice(&self.buffer[self.plain.start..self.plain.start + n]);
        self.plain.start += n;
        Ok(Read::Data(n))
    }

    /// Whether the last record came, and nothing after it. A stream that ends before was cut off.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended) && self.came.is_empty()
    }

    #[cfg(test)]
    pub(super) fn buffer_len(&self) -> usize {
        self.buffer.len()
    }

    /// Opens the next record where it is whole; whether it was.
    fn open_next(&mut self) -> Result<bool, SealedError> {
        let came = &mut self.buffer[self.came.clone()];
        let Some(&class) = came.first() else {
            return Ok(false);
        };
        let len = *RECORD_LENS
            .get(usize::from(class))
            .ok_or(SealedError::Malformed)?;
        let Some(record) = came.get_mut(..len) else {
            return Ok(false);
        };
        let nonce = self.counter.get().ok_or(SealedError::Ended)?;
        let (body, tag) = record.split_at_mut(len - TAG_LEN);
        let tag: [u8; TAG_LEN] = (&*tag).try_into().map_err(|_| SealedError::Malformed)?;
        let (aad, body) = body.split_at_mut(SEALED_FROM);
        let opened = self.key.aead.open(nonce, aad, &tag, body);
        opened.map_err(|_| SealedError::Forged)?;
        if self.counter.advance(RECORDS_PER_RATCHET) {
            self.key.ratchet(RATCHET);
        }
        let &mut [kind, high, low, ..] = body else {
            return Err(SealedError::Malformed);
        };
        let data = usize::from(u16::from_be_bytes([high, low]));
        match kind {
            KIND_DATA if data <= capacity(len) => {}
            KIND_LAST if data == 0 => self.state = State::Ended,
            _ => return Err(SealedError::Malformed),
        }
        let start = self.came.start + HEADER_LEN;
        self.plain = start..start + data;
        self.came.start += len;
        // An empty record is read as nothing.
        Ok(true)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("came", &self.came.len())
            .field("plain", &self.plain.len())
            .finish_non_exhaustive()
    }
}
