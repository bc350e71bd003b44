//! A circuit at its origin: built hop by hop, then a multiplexer of streams (PROTOCOL.md §3.4, §5.5, §5.6).
//!
//! The link's frames of the circuit go into `handle_created`, `handle_cell` and `handle_destroy`, and time into
//! [`Origin::handle_timeout`]; then [`Origin::poll_event`] and [`Origin::poll_transmit`] are polled until `None`, and
//! [`Origin::poll_timeout`] says when to come back. Streams may be opened, and written to, before the circuit is
//! ready: what they send leaves once it is.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{CryptoRng, SeedableRng};

use crate::body::{
    BodyHeader, Command, DestroyReason, ExtendRequest, ExtendStatus, Extended, counted,
    put_counted, write_body,
};
use crate::circuit::mux::{End, Mux, MuxEvent};
use crate::frame::{Class, FrameBuf, FrameType, Pool};
use crate::handshake::{CREATE_LEN, CREATED_LEN, HopInitiator, HopPeer};
use crate::keys::{Key32, RelayId};
use crate::layers::{LayerError, MAX_HOPS, OriginLayers};

/// How long a hop has to answer: a handshake takes it milliseconds, so more than this is a broken or loaded path.
pub const HOP_TIMEOUT: Duration = Duration::from_secs(10);
/// DROP cells that wait to be sent; padding that piles up serves nobody.
pub const MAX_DROPS: usize = 16;

/// One hop of a path.
#[derive(Clone, Copy, Debug)]
pub struct HopSpec {
    /// Its identity, by which the hop before it finds it.
    pub id: RelayId,
    /// Its keys, as its descriptor has them.
    pub peer: HopPeer,
}

/// A circuit that can't be built: choose another path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// None, or more than [`MAX_HOPS`].
    #[error("a path has 1 to 3 hops, not {0}")]
    Hops(usize),
    /// The first hop's onion key is not to be used.
    #[error("the first hop's onion key is of low order")]
    BadKey,
}

/// Why a circuit closed. Hops count from 0; with one named, another path without it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The hop did not answer within [`HOP_TIMEOUT`].
    HopTimeout {
        /// Which.
        hop: usize,
    },
    /// What came is not the hop's answer: it has other keys, or somebody before it lied.
    HandshakeFailed {
        /// Which.
        hop: usize,
    },
    /// The hop before it could not extend to this one.
    ExtendFailed {
        /// Which could not be reached.
        hop: usize,
        /// What the hop before it said.
        status: ExtendStatus,
    },
    /// A cell did not open, or none can be sealed any more.
    LayerFailed {
        /// Whose layer, where it is known: this hop or one before it changed the cell.
        hop: Option<usize>,
    },
    /// A hop broke the protocol.
    Protocol,
    /// A hop ended the circuit.
    Destroyed(DestroyReason),
    /// We did.
    Local(DestroyReason),
}

/// What happened to the circuit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginEvent {
    /// All hops are there.
    Ready {
        /// From the start to here.
        build_time: Duration,
        /// The round trip to the last hop, its handshake included.
        rtt: Duration,
    },
    /// The circuit is gone, with its streams. The last event.
    Closed(CloseReason),
    /// Something about a stream.
    Mux(MuxEvent),
}

enum State {
    /// Waits for the answer of 0-based hop `hop`.
    Building {
        hop: usize,
        handshake: Box<HopInitiator>,
        /// Its first message, until that has left.
        message: Option<Box<[u8; CREATE_LEN]>>,
        asked: Instant,
    },
    Ready,
    /// `destroy`: what is still to be told the first hop.
    Closed {
        destroy: Option<DestroyReason>,
    },
}

impl State {
    /// Starts the handshake with a hop.
    fn building(now: Instant, hop: usize, peer: &HopPeer, rng: &mut StdRng) -> Option<Self> {
        let (handshake, message) = HopInitiator::start(peer, rng).ok()?;
        let (handshake, message) = (Box::new(handshake), Some(Box::new(message)));
        Some(Self::Building {
            hop,
            handshake,
            message,
            asked: now,
        })
    }
}

/// One circuit at its origin.
pub struct Origin {
    state: State,
    path: Vec<HopSpec>,
    layers: OriginLayers,
    /// Of the last hop, once it is there.
    binding: Option<Key32>,
    mux: Mux,
    /// For keys and for what stands in slots that carry nothing.
    rng: StdRng,
    started: Instant,
    /// Hops to send DROP cells to.
    drops: VecDeque<usize>,
    /// [`OriginEvent::Ready`] and [`OriginEvent::Closed`], each at most once.
    events: VecDeque<OriginEvent>,
}

impl Origin {
    /// Starts to build a circuit along a path of 1 to 3 hops.
    ///
    /// # Errors
    /// Choose another path.
    pub fn new(
        now: Instant,
        path: Vec<HopSpec>,
        mut rng: &mut dyn CryptoRng,
    ) -> Result<Self, PathError> {
        let first = path.first().ok_or(PathError::Hops(0))?;
        if path.len() > MAX_HOPS {
            return Err(PathError::Hops(path.len()));
        }
        let mut rng = StdRng::from_rng(&mut rng);
        let state = State::building(now, 0, &first.peer, &mut rng).ok_or(PathError::BadKey)?;
        Ok(Self {
            state,
            path,
            layers: OriginLayers::new(),
            binding: None,
            mux: Mux::new(End::Origin),
            rng,
            started: now,
            drops: VecDeque::new(),
            events: VecDeque::new(),
        })
    }

    /// The circuit's streams.
    pub fn mux(&mut self) -> &mut Mux {
        &mut self.mux
    }

    /// What names this circuit to its last hop and to us alone (§3.3); `None` before that hop is there.
    pub fn binding(&self) -> Option<&Key32> {
        self.binding.as_ref()
    }

    /// Whether all hops are there.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready)
    }

    /// Whether the circuit is gone.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// Number of hops that are there so far.
    pub fn hops(&self) -> usize {
        self.layers.hops()
    }

    /// Ends the circuit with all its streams.
    pub fn close(&mut self, reason: DestroyReason) {
        self.fail(CloseReason::Local(reason));
    }

    /// Sends a DROP cell to a 0-based hop, if there is one and not too many wait already.
    pub fn send_drop(&mut self, hop: usize) {
        if hop < self.hops() && !self.is_closed() && self.drops.len() < MAX_DROPS {
            self.drops.push_back(hop);
        }
    }

    /// Closes. The first hop is told why only when we say so ourselves: what else went wrong is not the hops' business.
    fn fail(&mut self, reason: CloseReason) {
        let known_to_hop = match &self.state {
            State::Building { hop, message, .. } => *hop > 0 || message.is_none(),
            State::Ready => true,
            State::Closed { .. } => return,
        };
        let destroy = match reason {
            CloseReason::Destroyed(_) => None,
            CloseReason::Local(reason) => Some(reason),
            CloseReason::HopTimeout { .. }
            | CloseReason::HandshakeFailed { .. }
            | CloseReason::ExtendFailed { .. }
            | CloseReason::LayerFailed { .. }
            | CloseReason::Protocol => Some(DestroyReason::Finished),
        };
        self.state = State::Closed {
            destroy: destroy.filter(|_| known_to_hop),
        };
        self.mux = Mux::new(End::Origin);
        self.drops.clear();
        self.events.push_back(OriginEvent::Closed(reason));
    }

    // ---- what comes ----

    /// Takes the body of a CREATED frame.
    pub fn handle_created(&mut self, now: Instant, body: &[u8]) {
        match &self.state {
            State::Building {
                hop: 0,
                message: None,
                ..
            } => {}
            State::Building { .. } | State::Ready => return self.fail(CloseReason::Protocol),
            State::Closed { .. } => return,
        }
        // `length u16 | answer`, then bytes that are not looked at.
        match counted(body) {
            Some((answer, _)) => self.hop_answered(now, answer),
            None => self.fail(CloseReason::HandshakeFailed { hop: 0 }),
        }
    }

    /// Takes a DATA frame.
    pub fn handle_cell(&mut self, now: Instant, mut frame: FrameBuf) {
        if self.is_closed() {
            return;
        }
        let from = match self.layers.open(frame.cell_mut()) {
            Ok(hop) => hop,
            Err(error) => return self.layer_failed(error),
        };
        let Ok((header, range)) = BodyHeader::decode(frame.body()) else {
            return self.fail(CloseReason::Protocol);
        };
        match header.command {
            Command::Drop => {}
            Command::Extended => {
                match Extended::decode(frame.body().get(range).unwrap_or_default()) {
                    Ok(extended) => self.on_extended(now, from, &extended),
                    Err(_) => self.fail(CloseReason::Protocol),
                }
            }
            // Streams are with the last hop alone: another could only pretend to be it.
            Command::Open
            | Command::Opened
            | Command::Data
            | Command::End
            | Command::Window
            | Command::Dgram
            | Command::Extend => {
                let good = self.is_ready() && from + 1 == self.path.len();
                if !good || self.mux.handle(now, frame).is_err() {
                    self.fail(CloseReason::Protocol);
                }
            }
        }
    }

    fn on_extended(&mut self, now: Instant, from: usize, extended: &Extended) {
        match self.state {
            State::Building {
                hop, message: None, ..
            } if from + 1 == hop => {
                if extended.status == ExtendStatus::Done {
                    self.hop_answered(now, &extended.answer);
                } else {
                    self.fail(CloseReason::ExtendFailed {
                        hop,
                        status: extended.status,
                    });
                }
            }
            State::Building { .. } | State::Ready => self.fail(CloseReason::Protocol),
            State::Closed { .. } => {}
        }
    }

    /// Takes the handshake answer of the hop that was asked, and asks the next.
    fn hop_answered(&mut self, now: Instant, answer: &[u8]) {
        // The handshake is used up; every way out of here sets the next state. The hops there are know the circuit.
        let asked_state = std::mem::replace(&mut self.state, State::Ready);
        let State::Building {
            hop,
            handshake,
            asked,
            ..
        } = asked_state
        else {
            return;
        };
        let keys = <&[u8; CREATED_LEN]>::try_from(answer).ok();
        let keys = keys.and_then(|answer| handshake.finish(answer).ok());
        let Some(keys) = keys else {
            return self.fail(CloseReason::HandshakeFailed { hop });
        };
        let binding = keys.binding.clone();
        if let Err(error) = self.layers.push_hop(keys) {
            return self.layer_failed(error);
        }
        let Some(next) = self.path.get(hop + 1) else {
            self.binding = Some(binding);
            let rtt = now.saturating_duration_since(asked);
            let build_time = now.saturating_duration_since(self.started);
            self.mux.set_rtt(rtt);
            self.events
                .push_back(OriginEvent::Ready { build_time, rtt });
            return;
        };
        match State::building(now, hop + 1, &next.peer, &mut self.rng) {
            Some(building) => self.state = building,
            None => self.fail(CloseReason::HandshakeFailed { hop: hop + 1 }),
        }
    }

    /// Takes a DESTROY frame.
    pub fn handle_destroy(&mut self, _now: Instant, reason: u8) {
        self.fail(CloseReason::Destroyed(DestroyReason::from_frame(reason)));
    }

    /// Looks at the time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let State::Building { hop, .. } = self.state
            && self.poll_timeout().is_some_and(|due| due <= now)
        {
            self.fail(CloseReason::HopTimeout { hop });
        }
    }

    /// When to call [`Origin::handle_timeout`]; `None`: not for now.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Building { asked, .. } => Some(asked + HOP_TIMEOUT),
            State::Ready | State::Closed { .. } => None,
        }
    }

    // ---- what goes ----

    /// What happened. Poll until `None` after everything else.
    pub fn poll_event(&mut self) -> Option<OriginEvent> {
        self.events
            .pop_front()
            .or_else(|| self.mux.poll_event().map(OriginEvent::Mux))
    }

    /// The next frame of this circuit: CREATE, DATA with a sealed cell, or DESTROY, after which nothing comes. DATA costs
    /// a credit, so a caller without room leaves it for later.
    pub fn poll_transmit(&mut self, pool: &Pool) -> Option<(FrameType, FrameBuf)> {
        let (hop, frame) = match &mut self.state {
            State::Closed { destroy } => {
                let reason = destroy.take()?;
                let mut frame = pool.take_zeroed(Class::Small);
                frame.body_mut()[0] = reason as u8;
                return Some((FrameType::Destroy, frame));
            }
            State::Building { hop, message, .. } if message.is_some() => {
                let (hop, message) = (*hop, message.take()?);
                let Some(before) = hop.checked_sub(1) else {
                    return Some((FrameType::Create, create_frame(pool, &message[..])));
                };
                let HopSpec { id, peer } = self.path.get(hop)?;
                let request = ExtendRequest {
                    identity: id.0,
                    digest: peer.digest,
                    message: message.to_vec(),
                };
                let mut frame = pool.take(Class::Bulk);
                write_body(&mut frame, Command::Extend, 0, &request.encode()).ok()?;
                (before, frame)
            }
            State::Building { .. } | State::Ready => self.padding_or_stream(pool)?,
        };
        self.seal(hop, frame)
    }

    /// A DROP that waits, or once the circuit is ready a body of its streams, and the hop it is for.
    fn padding_or_stream(&mut self, pool: &Pool) -> Option<(usize, FrameBuf)> {
        if let Some(hop) = self.drops.pop_front() {
            let mut frame = pool.take(Class::Small);
            write_body(&mut frame, Command::Drop, 0, &[]).ok()?;
            return Some((hop, frame));
        }
        if !self.is_ready() {
            return None;
        }
        Some((self.path.len() - 1, self.mux.poll_cell(pool)?))
    }

    fn seal(&mut self, hop: usize, mut frame: FrameBuf) -> Option<(FrameType, FrameBuf)> {
        match self.layers.seal(hop, frame.cell_mut(), &mut self.rng) {
            Ok(()) => Some((FrameType::Data, frame)),
            Err(error) => {
                self.layer_failed(error);
                None
            }
        }
    }

    fn layer_failed(&mut self, error: LayerError) {
        let hop = match error {
            LayerError::Forged { hop } | LayerError::BadSlots { hop } => Some(hop),
            LayerError::Length(_)
            | LayerError::Unrecognised
            | LayerError::NoSuchHop
            | LayerError::Ended => None,
        };
        self.fail(CloseReason::LayerFailed { hop });
    }
}

/// A CREATE frame: `length u16 | message 1`, the rest zero.
fn create_frame(pool: &Pool, message: &[u8]) -> FrameBuf {
    let mut frame = pool.take_zeroed(Class::Bulk);
    let mut body = Vec::with_capacity(2 + message.len());
    put_counted(&mut body, message);
    frame.body_mut()[..body.len()].copy_from_slice(&body);
    frame
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Building { .. } => "building",
            State::Ready => "ready",
            State::Closed { .. } => "closed",
        };
        f.debug_struct("Origin")
            .field("state", &state)
            .field("hops", &self.hops())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
