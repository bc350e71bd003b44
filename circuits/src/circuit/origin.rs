//! The origin of a circuit: it builds it hop by hop and owns the streams inside (PROTOCOL.md §3.4, §4.2, §4.3).
//!
//! Order of calls: after any `handle_*`, [`Origin::close`] or use of [`Origin::mux`], poll [`Origin::poll_transmit`] and
//! [`Origin::poll_event`] until they are empty, then arm a timer for [`Origin::poll_timeout`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{CryptoRng, SeedableRng};

use crate::body::{
    BodyHeader, Command, DestroyReason, ExtendRequest, ExtendStatus, Extended, write_body,
};
use crate::circuit::mux::{End, Mux, MuxEvent};
use crate::frame::{Class, FrameBuf, FrameType, Pool};
use crate::handshake::{CREATE_LEN, CREATED_LEN, HandshakeError, HopInitiator, HopPeer};
use crate::keys::RelayId;
use crate::layers::{MAX_HOPS, OriginLayers};

/// A hop that has not answered within this time is given up. The hop before it has 10 s of its own (§5.5).
pub const HOP_TIMEOUT: Duration = Duration::from_secs(12);
/// DROP cells that may wait: padding must not pile up on a circuit that is stuck.
const MAX_DROPS: usize = 8;

/// A relay of a path.
#[derive(Clone, Debug)]
pub struct HopSpec {
    /// Its identity.
    pub id: RelayId,
    /// What the handshake with it needs.
    pub peer: HopPeer,
}

/// Why a circuit ended. Hops are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// A hop did not answer: leave it out for a while.
    #[error("hop {hop} did not answer in time")]
    HopTimeout {
        /// Which.
        hop: usize,
    },
    /// A hop is not who the relay list says, or lies: leave it out for a while.
    #[error("the handshake with hop {hop} failed")]
    HandshakeFailed {
        /// Which.
        hop: usize,
    },
    /// The hop before it could not reach a hop.
    #[error("hop {hop} could not be added: {status:?}")]
    ExtendFailed {
        /// Which.
        hop: usize,
        /// What the hop before it says.
        status: ExtendStatus,
    },
    /// A cell was changed, replayed or left out on its way here.
    #[error("a cell did not open")]
    LayerFailed,
    /// A hop broke the protocol.
    #[error("a hop broke the protocol")]
    Protocol,
    /// The first hop, or the loss of its link, ended it, with the reason of §5.6.
    #[error("destroyed, reason {0}")]
    Destroyed(u8),
    /// We ended it.
    #[error("closed here")]
    Local(DestroyReason),
}

/// What happened at a circuit.
#[derive(Debug)]
pub enum OriginEvent {
    /// All hops are there.
    Ready {
        /// How long building took.
        took: Duration,
    },
    /// The circuit is gone. Nothing follows.
    Closed(CloseReason),
    /// Something happened at a stream.
    Mux(MuxEvent),
}

enum State {
    /// Waits for a hop's answer.
    Building {
        hop: usize,
        initiator: Box<HopInitiator>,
        deadline: Instant,
    },
    /// All hops are there.
    Ready,
    /// Nothing more comes in; DESTROY may have to go out.
    Closed,
}

/// A circuit at its origin.
pub struct Origin {
    state: State,
    path: Vec<HopSpec>,
    layers: OriginLayers,
    mux: Mux,
    rng: StdRng,
    begun: Instant,
    /// A handshake message that has not been sent.
    message: Option<Box<[u8; CREATE_LEN]>>,
    destroy: Option<DestroyReason>,
    drops: VecDeque<usize>,
    events: VecDeque<OriginEvent>,
}

impl Origin {
    /// Begins a circuit through 1 to 3 relays.
    ///
    /// # Errors
    /// The first relay's key can't be used, or the path has no or too many relays: choose another path.
    pub fn new(
        now: Instant,
        path: Vec<HopSpec>,
        rng: &mut dyn CryptoRng,
    ) -> Result<Self, HandshakeError> {
        let mut rng = StdRng::from_rng(rng);
        let first = path.first().filter(|_| path.len() <= MAX_HOPS);
        let first = first.ok_or(HandshakeError::Internal)?;
        let (initiator, message) = HopInitiator::start(&first.peer, &mut rng)?;
        let initiator = Box::new(initiator);
        Ok(Self {
            state: State::Building {
                hop: 0,
                initiator,
                deadline: now + HOP_TIMEOUT,
            },
            path,
            layers: OriginLayers::new(),
            mux: Mux::new(End::Origin),
            rng,
            begun: now,
            message: Some(Box::new(message)),
            destroy: None,
            drops: VecDeque::new(),
            events: VecDeque::new(),
        })
    }

    /// The streams. They may be opened before the circuit is ready and leave when it is.
    pub fn mux(&mut self) -> &mut Mux {
        &mut self.mux
    }

    /// Whether all hops are there.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready)
    }

    /// Whether the circuit has ended.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Hops that the path has.
    pub fn hops(&self) -> usize {
        self.path.len()
    }

    /// The first hop answered CREATE; `body` is that of the CREATED frame.
    pub fn handle_created(&mut self, now: Instant, body: &[u8]) {
        match self.state {
            State::Building { hop: 0, .. } => {}
            State::Building { .. } | State::Ready => return self.fail(CloseReason::Protocol),
            State::Closed => return,
        }
        let answer = body
            .split_first_chunk()
            .and_then(|(len, rest)| rest.get(..usize::from(u16::from_be_bytes(*len))));
        match answer {
            Some(answer) => self.finish_hop(now, answer),
            None => self.fail(CloseReason::HandshakeFailed { hop: 0 }),
        }
    }

    fn finish_hop(&mut self, now: Instant, answer: &[u8]) {
        let State::Building { hop, initiator, .. } =
            std::mem::replace(&mut self.state, State::Closed)
        else {
            return;
        };
        let keys = <&[u8; CREATED_LEN]>::try_from(answer)
            .map_err(|_| HandshakeError::Unreadable)
            .and_then(|answer| initiator.finish(answer));
        let added = keys.is_ok_and(|keys| self.layers.push_hop(keys).is_ok());
        if !added {
            return self.fail_from(CloseReason::HandshakeFailed { hop });
        }
        match self.path.get(hop + 1) {
            None => {
                self.state = State::Ready;
                let took = now.saturating_duration_since(self.begun);
                self.events.push_back(OriginEvent::Ready { took });
            }
            Some(next) => match HopInitiator::start(&next.peer, &mut self.rng) {
                Ok((initiator, message)) => {
                    self.message = Some(Box::new(message));
                    let (initiator, deadline) = (Box::new(initiator), now + HOP_TIMEOUT);
                    self.state = State::Building {
                        hop: hop + 1,
                        initiator,
                        deadline,
                    };
                }
                Err(_) => self.fail_from(CloseReason::HandshakeFailed { hop: hop + 1 }),
            },
        }
    }

    /// A cell came from the first hop.
    pub fn handle_cell(&mut self, now: Instant, mut frame: FrameBuf) {
        if self.is_closed() {
            return;
        }
        let Ok(spoke) = self.layers.open(frame.cell_mut()) else {
            return self.fail(CloseReason::LayerFailed);
        };
        let Ok((BodyHeader { command, .. }, range)) = BodyHeader::decode(frame.body()) else {
            return self.fail(CloseReason::Protocol);
        };
        let last = spoke + 1 == self.layers.hops();
        match (&self.state, command) {
            (_, Command::Drop) => {}
            (State::Building { hop, .. }, Command::Extended) if last => {
                let hop = *hop;
                let payload = frame.body().get(range).unwrap_or_default();
                match Extended::decode(payload) {
                    Ok(Extended {
                        status: ExtendStatus::Done,
                        answer,
                    }) => {
                        self.finish_hop(now, &answer);
                    }
                    Ok(Extended { status, .. }) => {
                        self.fail(CloseReason::ExtendFailed { hop, status });
                    }
                    Err(_) => self.fail(CloseReason::Protocol),
                }
            }
            // Only the last hop has streams; what another says is not what anybody asked it for.
            (State::Ready, _) if last && command != Command::Extended => {
                if self.mux.handle(now, frame).is_err() {
                    self.fail(CloseReason::Protocol);
                }
            }
            (State::Building { .. } | State::Ready, _) => self.fail(CloseReason::Protocol),
            (State::Closed, _) => {}
        }
    }

    /// The first hop destroyed the circuit, or its link closed. `reason` is that of §5.6.
    pub fn handle_destroy(&mut self, _now: Instant, reason: u8) {
        if !self.is_closed() {
            let hop = match self.state {
                State::Building { hop: 0, .. } => Some(0),
                State::Building { .. } | State::Ready | State::Closed => None,
            };
            self.end(match hop {
                Some(hop) if reason != DestroyReason::LinkLost as u8 => CloseReason::ExtendFailed {
                    hop,
                    status: ExtendStatus::Refused,
                },
                Some(_) | None => CloseReason::Destroyed(reason),
            });
        }
    }

    /// Lets deadlines pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let State::Building { hop, deadline, .. } = self.state
            && deadline <= now
        {
            self.fail_with(CloseReason::HopTimeout { hop }, DestroyReason::TimedOut);
        }
    }

    /// When [`Origin::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Building { deadline, .. } => Some(deadline),
            State::Ready | State::Closed => None,
        }
    }

    /// Ends the circuit.
    pub fn close(&mut self, reason: DestroyReason) {
        if !self.is_closed() {
            self.fail_with(CloseReason::Local(reason), reason);
        }
    }

    /// Sends a padding cell to a hop (from 0) when the circuit is ready.
    pub fn send_drop(&mut self, hop: usize) {
        if self.is_ready() && hop < self.path.len() && self.drops.len() < MAX_DROPS {
            self.drops.push_back(hop);
        }
    }

    fn fail(&mut self, reason: CloseReason) {
        self.fail_with(reason, DestroyReason::Protocol);
    }

    /// As [`Origin::fail`], where the state was taken out already.
    fn fail_from(&mut self, reason: CloseReason) {
        self.fail(reason);
    }

    fn fail_with(&mut self, reason: CloseReason, destroy: DestroyReason) {
        self.destroy = Some(destroy);
        self.end(reason);
    }

    fn end(&mut self, reason: CloseReason) {
        self.state = State::Closed;
        self.message = None;
        self.drops.clear();
        self.events.push_back(OriginEvent::Closed(reason));
    }

    /// The next frame to send to the first hop: CREATE, sealed DATA, or DESTROY as the last.
    pub fn poll_transmit(&mut self, pool: &Pool) -> Option<(FrameType, FrameBuf)> {
        if let Some(reason) = self.destroy.take() {
            let mut frame = pool.take_zeroed(Class::Small);
            frame.body_mut()[0] = reason as u8;
            return Some((FrameType::Destroy, frame));
        }
        match self.state {
            State::Closed => None,
            State::Building { hop, .. } => self.poll_handshake(hop, pool),
            State::Ready => {
                let last = self.path.len() - 1;
                let (hop, frame) = match self.drops.pop_front() {
                    Some(hop) => {
                        let mut frame = pool.take(Class::Small);
                        write_body(&mut frame, Command::Drop, 0, &[]).ok()?;
                        (hop, frame)
                    }
                    None => (last, self.mux.poll_cell(pool)?),
                };
                self.seal(hop, frame)
            }
        }
    }

    fn poll_handshake(&mut self, hop: usize, pool: &Pool) -> Option<(FrameType, FrameBuf)> {
        let message = self.message.take()?;
        if hop == 0 {
            let mut frame = pool.take_zeroed(Class::Bulk);
            let body = frame.body_mut();
            body[..2].copy_from_slice(&(CREATE_LEN as u16).to_be_bytes());
            body[2..2 + CREATE_LEN].copy_from_slice(&message[..]);
            return Some((FrameType::Create, frame));
        }
        let next = self.path.get(hop)?;
        let request = ExtendRequest {
            identity: next.id.0,
            digest: next.peer.digest,
            message: message.to_vec(),
        };
        let mut frame = pool.take(Class::Bulk);
        write_body(&mut frame, Command::Extend, 0, &request.encode()).ok()?;
        self.seal(hop - 1, frame)
    }

    fn seal(&mut self, hop: usize, mut frame: FrameBuf) -> Option<(FrameType, FrameBuf)> {
        if self
            .layers
            .seal(hop, frame.cell_mut(), &mut self.rng)
            .is_err()
        {
            // A direction that has used up its counter: the circuit must be replaced.
            self.fail_with(
                CloseReason::Local(DestroyReason::Finished),
                DestroyReason::Finished,
            );
            return self.poll_transmit_destroy(frame);
        }
        Some((FrameType::Data, frame))
    }

    fn poll_transmit_destroy(&mut self, mut frame: FrameBuf) -> Option<(FrameType, FrameBuf)> {
        let reason = self.destroy.take()?;
        frame.set_class(Class::Small);
        frame.bytes_mut().fill(0);
        frame.body_mut()[0] = reason as u8;
        Some((FrameType::Destroy, frame))
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<OriginEvent> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        if self.is_closed() {
            return None;
        }
        self.mux.poll_event().map(OriginEvent::Mux)
    }
}
