//! Link frames: fixed-length units between neighbours (PROTOCOL.md §2.1).
//! Two lengths only, so an observer can count frames but not measure messages.

use std::sync::{Arc, Mutex, PoisonError};

/// Encoded length of a bulk frame, bytes.
pub const BULK_LEN: usize = 4096;
/// Encoded length of a small frame, bytes.
pub const SMALL_LEN: usize = 1024;
/// Length of the masked frame header, bytes.
pub const HEADER_LEN: usize = 16;
/// Length of every AEAD tag, bytes.
pub const TAG_LEN: usize = 16;
/// Length of the three onion tag slots together, bytes.
pub const SLOTS_LEN: usize = 3 * TAG_LEN;
/// Where the cell (slots and body) starts in a frame; also where the link's AEAD starts.
pub const CELL_OFFSET: usize = HEADER_LEN + TAG_LEN;
/// Where the body starts in a frame.
pub const BODY_OFFSET: usize = CELL_OFFSET + SLOTS_LEN;

/// Which of the two lengths a frame has (§2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// 4096 bytes.
    Bulk = 0,
    /// 1024 bytes.
    Small = 1,
}

impl Class {
    /// Length of a whole frame of this class, bytes.
    pub const fn frame_len(self) -> usize {
        match self {
            Self::Bulk => BULK_LEN,
            Self::Small => SMALL_LEN,
        }
    }

    /// Length of the body in a frame of this class, bytes.
    pub const fn body_len(self) -> usize {
        self.frame_len() - BODY_OFFSET
    }
}

/// What a frame is for (§2.1). An unknown value closes the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameType {
    /// Link padding, dropped.
    Pad = 0,
    /// First message of a hop handshake.
    Create = 1,
    /// Its answer.
    Created = 2,
    /// A cell of a circuit.
    Data = 3,
    /// The end of a circuit.
    Destroy = 4,
    /// Credits for a circuit.
    Credit = 5,
    /// The initiator says which relay it is.
    Auth = 6,
    /// Keep-alive.
    Ping = 7,
}

impl FrameType {
    const ALL: [Self; 8] = [
        Self::Pad,
        Self::Create,
        Self::Created,
        Self::Data,
        Self::Destroy,
        Self::Credit,
        Self::Auth,
        Self::Ping,
    ];

    /// Whether frames of this type name a circuit (id not 0).
    pub const fn names_circuit(self) -> bool {
        match self {
            Self::Create | Self::Created | Self::Data | Self::Destroy | Self::Credit => true,
            Self::Pad | Self::Auth | Self::Ping => false,
        }
    }

    /// Whether frames of this type may have this length (the class column of §2.1).
    pub const fn allows(self, class: Class) -> bool {
        match (self, class) {
            (Self::Pad | Self::Data, _) | (Self::Create | Self::Created, Class::Bulk) => true,
            (Self::Create | Self::Created, Class::Small) => false,
            (Self::Destroy | Self::Credit | Self::Auth | Self::Ping, Class::Small) => true,
            (Self::Destroy | Self::Credit | Self::Auth | Self::Ping, Class::Bulk) => false,
        }
    }
}

/// The plain header of a frame (§2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Circuit id on this link; 0 where the type names none.
    pub circuit: u32,
    /// What the frame is for.
    pub kind: FrameType,
    /// Its length.
    pub class: Class,
    /// DATA frames that the neighbour may send more on this circuit.
    pub credit: u16,
}

/// The neighbour broke §2.1: close the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// No such type.
    #[error("unknown frame type {0:#04x}")]
    UnknownType(u8),
    /// No such class, or not one for this type.
    #[error("frame class {0:#04x} is unknown or does not fit the type")]
    BadClass(u8),
    /// A circuit id where none belongs, or none where one does.
    #[error("{0:?} frame with a circuit id that does not fit")]
    BadCircuitId(FrameType),
    /// Reserved bytes in use, or credit without a circuit.
    #[error("reserved header bytes are not zero")]
    Reserved,
}

impl Header {
    /// The header as it stands on the wire before masking.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..4].copy_from_slice(&self.circuit.to_be_bytes());
        out[4] = self.kind as u8;
        out[5] = self.class as u8;
        out[6..8].copy_from_slice(&self.credit.to_be_bytes());
        out
    }

    /// Reads a header after unmasking.
    ///
    /// # Errors
    /// The neighbour broke §2.1, or the bytes are not from it: close the link.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, DecodeError> {
        let [c0, c1, c2, c3, kind, class, k0, k1, rest @ ..] = *bytes;
        let circuit = u32::from_be_bytes([c0, c1, c2, c3]);
        let credit = u16::from_be_bytes([k0, k1]);
        let kind = *FrameType::ALL
            .get(usize::from(kind))
            .ok_or(DecodeError::UnknownType(kind))?;
        let class = match class {
            0 => Class::Bulk,
            1 => Class::Small,
            other => return Err(DecodeError::BadClass(other)),
        };
        if !kind.allows(class) {
            return Err(DecodeError::BadClass(class as u8));
        }
        if kind.names_circuit() != (circuit != 0) {
            return Err(DecodeError::BadCircuitId(kind));
        }
        if rest != [0; 8] || (circuit == 0 && credit != 0) {
            return Err(DecodeError::Reserved);
        }
        Ok(Self {
            circuit,
            kind,
            class,
            credit,
        })
    }
}

/// One page, so that a bulk frame never straddles two.
#[repr(C, align(4096))]
struct Page([u8; BULK_LEN]);

/// A free list of frame buffers. Clones share it.
#[derive(Clone)]
pub struct Pool {
    free: Arc<Mutex<Vec<Box<Page>>>>,
    keep: usize,
}

impl Pool {
    /// Makes a pool that keeps at most `keep` unused buffers of 4096 bytes.
    pub fn new(keep: usize) -> Self {
        Self {
            free: Arc::default(),
            keep,
        }
    }

    /// Takes a buffer for a frame of this class. Its content is unspecified: the caller writes all that leaves.
    pub fn take(&self, class: Class) -> FrameBuf {
        let page = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let page = page.unwrap_or_else(|| Box::new(Page([0; BULK_LEN])));
        FrameBuf {
            page: Some(page),
            class,
            pool: self.clone(),
        }
    }

    /// Takes a buffer whose cell (slots and body) is all zero.
    pub fn take_zeroed(&self, class: Class) -> FrameBuf {
        let mut frame = self.take(class);
        frame.bytes_mut().fill(0);
        frame
    }

    fn put(&self, page: Box<Page>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.keep {
            free.push(page);
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("keep", &self.keep)
            .finish_non_exhaustive()
    }
}

/// A page-aligned buffer that holds one frame of either length; it returns to its [`Pool`] when dropped.
pub struct FrameBuf {
    page: Option<Box<Page>>,
    class: Class,
    pool: Pool,
}

impl FrameBuf {
    /// The length class of the frame.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The whole frame.
    pub fn bytes(&self) -> &[u8] {
        self.page
            .as_ref()
            .map_or(&[], |page| &page.0[..self.class.frame_len()])
    }

    /// The whole frame.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.class.frame_len();
        self.page
            .as_mut()
            .map_or(&mut [], |page| &mut page.0[..len])
    }

    /// Slots and body: what onion layers are made of.
    pub fn cell_mut(&mut self) -> &mut [u8] {
        &mut self.bytes_mut()[CELL_OFFSET..]
    }

    /// Slots and body.
    pub fn cell(&self) -> &[u8] {
        &self.bytes()[CELL_OFFSET..]
    }

    /// The body alone.
    pub fn body(&self) -> &[u8] {
        &self.bytes()[BODY_OFFSET..]
    }

    /// The body alone.
    pub fn body_mut(&mut self) -> &mut [u8] {
        &mut self.bytes_mut()[BODY_OFFSET..]
    }
}

impl Drop for FrameBuf {
    fn drop(&mut self) {
        if let Some(page) = self.page.take() {
            self.pool.put(page);
        }
    }
}

impl std::fmt::Debug for FrameBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameBuf")
            .field("class", &self.class)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_header_that_decodes_encodes_to_the_same_bytes(bytes: [u8; HEADER_LEN]) {
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }

    #[test]
    fn small_create_is_refused() {
        let header = Header {
            circuit: 1,
            kind: FrameType::Create,
            class: Class::Small,
            credit: 0,
        };
        assert_eq!(
            Header::decode(&header.encode()),
            Err(DecodeError::BadClass(1))
        );
    }

    #[test]
    fn dropped_buffers_are_taken_again() {
        let pool = Pool::new(1);
        let (first, second) = (pool.take(Class::Bulk), pool.take(Class::Small));
        drop((first, second));
        assert_eq!(pool.free.lock().map(|free| free.len()).ok(), Some(1));
    }
}
