//! Sealing and opening the frames of a link, in place (PROTOCOL.md §2.3, §2.4).

use crate::frame::{CELL_OFFSET, DecodeError, HEADER_LEN, Header, TAG_LEN};
use crate::keys::aead::{Counter, Keystream, MAX_COUNT, RatchetKey};
use crate::keys::{Key32, Suite, derive_key};

/// Frames in one direction between two ratchets of its key (§2.4).
pub const FRAMES_PER_RATCHET: u64 = 65_536;
/// Frames after which a direction ends and the link is closed (§2.4).
pub const MAX_FRAMES: u64 = MAX_COUNT;

/// Keystream computed at a time for header masks, bytes: 64 headers.
const MASK_BLOCK: usize = 64 * HEADER_LEN;

/// A frame can't be sealed or opened: close the link. Every later frame of that direction fails with
/// [`LinkError::Ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The header breaks §2.1, or is not from the neighbour.
    #[error("frame header does not decode")]
    Header(#[from] DecodeError),
    /// The bytes are fewer or more than a frame of the header's class has. As a sealer's error: a bug of the caller.
    #[error("{0} bytes are not a frame of its class")]
    Length(usize),
    /// The tag does not open: a frame was changed, dropped, reordered or replayed.
    #[error("frame tag does not open")]
    Forged,
    /// The direction failed before or carried [`MAX_FRAMES`] frames.
    #[error("this direction of the link has ended")]
    Ended,
}

/// One direction of a link.
struct Direction {
    key: RatchetKey,
    mask: Keystream<MASK_BLOCK, HEADER_LEN>,
    counter: Counter,
}

impl Direction {
    fn new(suite: Suite, k: &Key32, hash: &[u8; 32]) -> Box<Self> {
        let derive = |context| derive_key(context, &[k.as_bytes(), hash]);
        Box::new(Self {
            key: RatchetKey::new(suite, derive("hushswarm v1 link aead")),
            mask: Keystream::new(suite, derive("hushswarm v1 link mask")),
            counter: Counter::new(),
        })
    }

    fn advance(&mut self) {
        if self.counter.advance(FRAMES_PER_RATCHET) {
            self.key.ratchet("hushswarm v1 link ratchet");
        }
    }
}

/// Seals the frames that this end of a link sends, in the order in which they leave.
pub struct LinkSealer(Box<Direction>);

impl LinkSealer {
    pub(super) fn new(suite: Suite, k: &Key32, hash: &[u8; 32]) -> Self {
        Self(Direction::new(suite, k, hash))
    }

    /// Seals a frame in place. `frame` is as long as the header's class says and holds plain slots and body from
    /// [`CELL_OFFSET`] on; the masked header and the tag are written before them.
    ///
    /// # Errors
    /// Nothing was sealed: close the link. The frame was wiped, so that it can't leave in plain.
    pub fn seal(&mut self, header: Header, frame: &mut [u8]) -> Result<(), LinkError> {
        let sealed = self.try_seal(header, frame);
        if sealed.is_err() {
            frame.fill(0);
        }
        sealed
    }

    fn try_seal(&mut self, header: Header, frame: &mut [u8]) -> Result<(), LinkError> {
        let Direction { key, mask, counter } = &mut *self.0;
        let count = counter.get().ok_or(LinkError::Ended)?;
        let len = frame.len();
        let split = frame
            .split_first_chunk_mut::<HEADER_LEN>()
            .and_then(|(head, rest)| Some((head, rest.split_first_chunk_mut::<TAG_LEN>()?)));
        let Some((head, (tag, cell))) = split.filter(|_| len == header.class.frame_len()) else {
            return Err(LinkError::Length(len));
        };
        *head = header.encode();
        *tag = key.aead.seal(count, &head[..], cell);
        xor(head, mask.mask(count));
        self.0.advance();
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn set_count(&mut self, count: u64) {
        self.0.counter.set(count);
    }
}

/// Opens the frames that the other end of a link sent, in the order in which they come.
pub struct LinkOpener(Box<Direction>);

impl LinkOpener {
    pub(super) fn new(suite: Suite, k: &Key32, hash: &[u8; 32]) -> Self {
        Self(Direction::new(suite, k, hash))
    }

    /// Unmasks the header of the next frame, for a reader that needs the frame's length. The header is not yet
    /// authenticated: act on nothing but the class before [`LinkOpener::open`].
    ///
    /// # Errors
    /// Close the link.
    pub fn peek(&mut self, masked: &[u8; HEADER_LEN]) -> Result<Header, DecodeError> {
        let mut head = *masked;
        // A direction that has ended refuses in `open`; here it has no mask left to give.
        xor(
            &mut head,
            self.0.mask.mask(self.0.counter.get().unwrap_or(MAX_FRAMES)),
        );
        Header::decode(&head)
    }

    /// Opens the next frame in place; gives its header. Slots and body are plain from [`CELL_OFFSET`] on.
    ///
    /// # Errors
    /// Close the link; what the frame held was wiped.
    pub fn open(&mut self, frame: &mut [u8]) -> Result<Header, LinkError> {
        let opened = self.try_open(frame);
        match opened {
            Ok(_) => self.0.advance(),
            Err(_) => {
                self.0.counter.end();
                frame.fill(0);
            }
        }
        opened
    }

    fn try_open(&mut self, frame: &mut [u8]) -> Result<Header, LinkError> {
        let len = frame.len();
        let count = self.0.counter.get().ok_or(LinkError::Ended)?;
        let (head, rest) = frame
            .split_first_chunk_mut::<HEADER_LEN>()
            .ok_or(LinkError::Length(len))?;
        let (tag, cell) = rest
            .split_first_chunk_mut::<TAG_LEN>()
            .ok_or(LinkError::Length(len))?;
        xor(head, self.0.mask.mask(count));
        let header = Header::decode(head)?;
        if len != header.class.frame_len() {
            return Err(LinkError::Length(len));
        }
        let opened = self.0.key.aead.open(count, &head[..], tag, cell);
        opened.map(|()| header).map_err(|_| LinkError::Forged)
    }

    #[cfg(test)]
    pub(super) fn set_count(&mut self, count: u64) {
        self.0.counter.set(count);
    }
}

fn xor(bytes: &mut [u8; HEADER_LEN], mask: &[u8; HEADER_LEN]) {
    for (byte, mask) in bytes.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

const _: () = assert!(CELL_OFFSET == HEADER_LEN + TAG_LEN);
