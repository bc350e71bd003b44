//! Onion layers: one AEAD pass per hop over cells of constant length, with three rotating tag slots (PROTOCOL.md §4).
//!
//! A cell is the slots S0, S1 and S2 (16 bytes each) and the body, as [`FrameBuf::cell_mut`] gives them. Every hop and
//! the origin count the cells of each direction; the counter is the nonce, so a cell that was changed, dropped,
//! replayed or reordered opens nowhere, and nothing opens after it.
//!
//! [`FrameBuf::cell_mut`]: crate::frame::FrameBuf::cell_mut

use rand::CryptoRng;
use subtle::ConstantTimeEq;

use crate::frame::{Class, SLOTS_LEN, TAG_LEN};
use crate::keys::aead::{Counter, Keystream, MAX_COUNT, RatchetKey};
use crate::keys::{Key32, Suite};

#[cfg(test)]
mod tests;

/// Most hops of a circuit: one per tag slot.
pub const MAX_HOPS: usize = SLOTS_LEN / TAG_LEN;
/// Cells of one direction at one hop between two ratchets of its keys (§4.4).
pub const CELLS_PER_RATCHET: u64 = 256;
/// Cells after which a direction ends and the circuit is destroyed (§4.4).
pub const MAX_CELLS: u64 = MAX_COUNT;
/// Zero bytes at the start of a body that has reached its reader (§4.1).
pub const MARK_LEN: usize = 8;

/// Keystream computed at a time for pads, bytes: 16 cells.
const PAD_BLOCK: usize = 16 * SLOTS_LEN;

type Slot = [u8; TAG_LEN];

/// A cell can't be sealed or opened: destroy the circuit. Every later call for that direction fails with
/// [`LayerError::Ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The bytes are not slots and body of either class: a bug of the caller.
    #[error("{0} bytes are not a cell")]
    Length(usize),
    /// A tag does not open. At the origin, `hop` is the 0-based hop whose layer it is; at a hop it is 0.
    #[error("tag of layer {hop} does not open")]
    Forged {
        /// Whose layer.
        hop: usize,
    },
    /// The cell opened at 0-based hop `hop`, but carries slots that an honest hop does not send.
    #[error("slots behind layer {hop} are not empty")]
    BadSlots {
        /// Whose layer.
        hop: usize,
    },
    /// All layers opened and the body is for nobody.
    #[error("no hop sent this cell")]
    Unrecognised,
    /// The circuit has no such hop, or all of [`MAX_HOPS`]: a bug of the caller.
    #[error("no such hop")]
    NoSuchHop,
    /// The direction failed before or carried [`MAX_CELLS`] cells.
    #[error("this direction of the circuit has ended")]
    Ended,
}

/// The keys of one direction at one hop (§3.3).
pub struct LayerKeys {
    suite: Suite,
    aead: Key32,
    pad: Key32,
}

impl LayerKeys {
    /// Takes the keys that a hop handshake gave.
    pub fn new(suite: Suite, aead: Key32, pad: Key32) -> Self {
        Self { suite, aead, pad }
    }
}

/// One direction at one hop.
struct Layer {
    key: RatchetKey,
    pads: Keystream<PAD_BLOCK, SLOTS_LEN>,
    counter: Counter,
}

impl Layer {
    fn new(keys: LayerKeys) -> Self {
        Self {
            key: RatchetKey::new(keys.suite, keys.aead),
            pads: Keystream::new(keys.suite, keys.pad),
            counter: Counter::new(),
        }
    }

    fn count(&self) -> Result<u64, LayerError> {
        self.counter.get().ok_or(LayerError::Ended)
    }

    /// P0, P1 and P2 of the cell with this number.
    fn pads(&mut self, count: u64) -> [&Slot; MAX_HOPS] {
        let (slots, _) = self.pads.mask(count).as_chunks::<TAG_LEN>();
        std::array::from_fn(|i| &slots[i])
    }

    fn advance(&mut self) {
        if self.counter.advance(CELLS_PER_RATCHET) {
            self.key.ratchet("hushswarm v1 ratchet aead");
            self.pads.ratchet("hushswarm v1 ratchet pad");
        }
    }
}

/// The slots and the body of a cell.
fn split(cell: &mut [u8]) -> Result<(&mut [u8; SLOTS_LEN], &mut [u8]), LayerError> {
    let len = cell.len();
    match cell.split_first_chunk_mut() {
        Some((slots, body))
            if [Class::Bulk, Class::Small]
                .iter()
                .any(|c| c.body_len() == body.len()) =>
        {
            Ok((slots, body))
        }
        Some(_) | None => Err(LayerError::Length(len)),
    }
}

fn is_recognised(body: &[u8]) -> bool {
    body.starts_with(&[0; MARK_LEN])
}

fn is_zero(slot: &Slot) -> bool {
    slot.ct_eq(&[0; TAG_LEN]).into()
}

fn xor(a: &Slot, b: &Slot) -> Slot {
    std::array::from_fn(|i| a[i] ^ b[i])
}

fn read(slots: &[u8; SLOTS_LEN]) -> [Slot; MAX_HOPS] {
    let (slots, _) = slots.as_chunks::<TAG_LEN>();
    std::array::from_fn(|i| slots[i])
}

fn write(slots: &mut [u8; SLOTS_LEN], values: [Slot; MAX_HOPS]) {
    let (slots, _) = slots.as_chunks_mut::<TAG_LEN>();
    slots.copy_from_slice(&values);
}

/// A hop's part in the forward direction (§4.1). Boxed, so that a circuit table that grows leaves no copies of keys.
pub struct ForwardHop(Box<Layer>);

impl ForwardHop {
    /// Starts at cell 0 with [`HopKeys::forward`](crate::handshake::HopKeys::forward).
    pub fn new(keys: LayerKeys) -> Self {
        Self(Box::new(Layer::new(keys)))
    }

    /// Takes this hop's layer off the next cell, in place. True: the body is for this hop. False: the cell, as it is
    /// now, goes to the next hop.
    ///
    /// # Errors
    /// Destroy the circuit; what the cell held was wiped.
    pub fn open(&mut self, cell: &mut [u8]) -> Result<bool, LayerError> {
        let opened = self.try_open(cell);
        if opened.is_err() {
            self.0.counter.end();
            cell.fill(0);
        }
        opened
    }

    fn try_open(&mut self, cell: &mut [u8]) -> Result<bool, LayerError> {
        let layer = &mut *self.0;
        let count = layer.count()?;
        let (slots, body) = split(cell)?;
        let [s0, s1, s2] = read(slots);
        let opened = layer.key.aead.open(count, &slots[TAG_LEN..], &s0, body);
        opened.map_err(|_| LayerError::Forged { hop: 0 })?;
        let [p0, p1, p2] = layer.pads(count);
        write(slots, [xor(&s1, p0), xor(&s2, p1), *p2]);
        layer.advance();
        Ok(is_recognised(body))
    }
}

/// A hop's part in the backward direction (§4.3).
pub struct BackwardHop(Box<Layer>);

impl BackwardHop {
    /// Starts at cell 0 with [`HopKeys::backward`](crate::handshake::HopKeys::backward).
    pub fn new(keys: LayerKeys) -> Self {
        Self(Box::new(Layer::new(keys)))
    }

    /// Puts this hop's layer on a cell that came from the next hop, in place.
    ///
    /// # Errors
    /// Nothing was sealed and the cell was wiped: destroy the circuit.
    pub fn relay(&mut self, cell: &mut [u8]) -> Result<(), LayerError> {
        let sealed = self.try_relay(cell);
        wipe_unless_sealed(cell, sealed)
    }

    fn try_relay(&mut self, cell: &mut [u8]) -> Result<(), LayerError> {
        let layer = &mut *self.0;
        let count = layer.count()?;
        let (slots, body) = split(cell)?;
        let tag = layer.key.aead.seal(count, &[], body);
        let [s0, s1, _] = read(slots);
        let [p0, p1, _] = layer.pads(count);
        write(slots, [tag, xor(&s0, p0), xor(&s1, p1)]);
        layer.advance();
        Ok(())
    }

    /// Puts this hop's layer on a cell of its own, in place: the body is plain and starts with the mark, the slots may
    /// hold anything.
    ///
    /// # Errors
    /// Nothing was sealed and the cell was wiped: destroy the circuit.
    pub fn originate(&mut self, cell: &mut [u8]) -> Result<(), LayerError> {
        // Too few bytes for slots are too few for a cell: relay says so.
        if let Some(slots) = cell.first_chunk_mut::<SLOTS_LEN>() {
            slots.fill(0);
        }
        self.relay(cell)
    }
}

/// The origin's part in both directions (§4.2, §4.3): all layers of a circuit.
pub struct OriginLayers {
    forward: Vec<Layer>,
    backward: Vec<Layer>,
}

impl OriginLayers {
    /// Starts without a hop.
    pub fn new() -> Self {
        // All room at once: growing would leave copies of keys in freed memory.
        Self {
            forward: Vec::with_capacity(MAX_HOPS),
            backward: Vec::with_capacity(MAX_HOPS),
        }
    }

    /// Adds the hop after the last one.
    ///
    /// # Errors
    /// The circuit has [`MAX_HOPS`] already.
    pub fn push_hop(&mut self, keys: crate::handshake::HopKeys) -> Result<(), LayerError> {
        if self.hops() == MAX_HOPS {
            return Err(LayerError::NoSuchHop);
        }
        self.forward.push(Layer::new(keys.forward));
        self.backward.push(Layer::new(keys.backward));
        Ok(())
    }

    /// How many hops there are.
    pub fn hops(&self) -> usize {
        self.forward.len()
    }

    /// Seals a cell for the 0-based hop `hop`, in place. The body is plain and starts with the mark; the slots may
    /// hold anything.
    ///
    /// # Errors
    /// Nothing was sealed and the cell was wiped: destroy the circuit.
    pub fn seal(
        &mut self,
        hop: usize,
        cell: &mut [u8],
        rng: &mut dyn CryptoRng,
    ) -> Result<(), LayerError> {
        let sealed = self.try_seal(hop, cell, rng);
        wipe_unless_sealed(cell, sealed)
    }

    fn try_seal(
        &mut self,
        hop: usize,
        cell: &mut [u8],
        rng: &mut dyn CryptoRng,
    ) -> Result<(), LayerError> {
        let layers = self.forward.get_mut(..=hop).ok_or(LayerError::NoSuchHop)?;
        let (slots, body) = split(cell)?;
        let mut counts = [0; MAX_HOPS];
        for (count, layer) in counts.iter_mut().zip(layers.iter()) {
            // All at once, before anything is sealed: either all layers move on or none.
            *count = layer.count()?;
        }

        // X_t as the addressed hop is to receive it: what the hops before it will have left in the slots.
        let mut pad = |back: usize, which: usize| -> Option<Slot> {
            let at = hop.checked_sub(back)?;
            Some(*layers[at].pads(counts[at])[which])
        };
        let s1 = pad(2, 2).zip(pad(1, 1)).map(|(a, b)| xor(&a, &b));
        let s2 = pad(1, 2);
        let mut or_random = |slot: Option<Slot>| slot.unwrap_or_else(|| random_slot(rng));
        write(slots, [[0; TAG_LEN], or_random(s1), or_random(s2)]);

        for at in (0..=hop).rev() {
            let tag = layers[at]
                .key
                .aead
                .seal(counts[at], &slots[TAG_LEN..], body);
            layers[at].advance();
            let [_, s1, s2] = read(slots);
            // From X_at to what the hop before it receives.
            let before = match at.checked_sub(1) {
                Some(at) => {
                    let [p0, p1, _] = layers[at].pads(counts[at]);
                    [[0; TAG_LEN], xor(&tag, p0), xor(&s1, p1)]
                }
                None => [tag, s1, s2],
            };
            write(slots, before);
        }
        Ok(())
    }

    /// Takes the layers off a cell that came from the first hop, in place; gives the 0-based hop that spoke.
    ///
    /// # Errors
    /// Destroy the circuit; what the cell held was wiped.
    pub fn open(&mut self, cell: &mut [u8]) -> Result<usize, LayerError> {
        let opened = self.try_open(cell);
        if opened.is_err() {
            for layer in &mut self.backward {
                layer.counter.end();
            }
            cell.fill(0);
        }
        opened
    }

    fn try_open(&mut self, cell: &mut [u8]) -> Result<usize, LayerError> {
        let (slots, body) = split(cell)?;
        let mut slots = read(slots);
        for (hop, layer) in self.backward.iter_mut().enumerate() {
            let count = layer.count()?;
            let [s0, s1, s2] = slots;
            let opened = layer.key.aead.open(count, &[], &s0, body);
            opened.map_err(|_| LayerError::Forged { hop })?;
            let [p0, p1, _] = layer.pads(count);
            slots = [xor(&s1, p0), xor(&s2, p1), [0; TAG_LEN]];
            layer.advance();
            if is_recognised(body) {
                // Each layer taken off has shifted one slot out; those that were received are empty.
                let received = MAX_HOPS - 1 - hop;
                let empty = slots.iter().take(received).all(is_zero);
                return if empty {
                    Ok(hop)
                } else {
                    Err(LayerError::BadSlots { hop })
                };
            }
        }
        Err(LayerError::Unrecognised)
    }
}

impl Default for OriginLayers {
    fn default() -> Self {
        Self::new()
    }
}

/// A caller that overlooks the error still has nothing plain to send.
fn wipe_unless_sealed(cell: &mut [u8], sealed: Result<(), LayerError>) -> Result<(), LayerError> {
    if sealed.is_err() {
        cell.fill(0);
    }
    sealed
}

fn random_slot(rng: &mut dyn CryptoRng) -> Slot {
    let mut slot = [0; TAG_LEN];
    rng.fill_bytes(&mut slot);
    slot
}
