//! Introduction points, and the introductions that go through them (PROTOCOL.md §8.1, §8.8).

use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hushswarm_circuits::body::{DestroyReason, EndReason, OpenStatus};
use hushswarm_circuits::circuit::mux::Recv;
use hushswarm_circuits::rendezvous::wire::{ESTABLISH_LEN, INTRODUCE_HEADER_LEN, IntroduceHeader};
use hushswarm_circuits::rendezvous::work::{NONCE_LEN, PUZZLE_LEN, SALT_LEN};
use hushswarm_circuits::rendezvous::{Establish, IntroductionId, Proof, Puzzle, Status};
use hushswarm_circuits::switch::HopCircuit;
use rand::Rng as _;
use tracing::debug;

use super::end::End;
use super::{Asked, Meetings, REQUEST_LIMIT, WORK_LIMIT};
use crate::relay::exit::Ended;
use crate::relay::node::{Node, Signals};

const BROKEN: Ended = Ended::Reset(EndReason::Reset);

/// A seed names a puzzle every 15 s at the most; what comes faster is no seed's.
const PUZZLE_EVERY: Duration = Duration::from_secs(5);
/// Some at once, for what was under way.
const PUZZLES_AT_ONCE: std::num::NonZeroU32 = std::num::NonZeroU32::new(8).unwrap();

/// Stands as an introduction point for a seed, as long as its stream does.
pub(in crate::relay) async fn stand(
    node: &Node,
    circuit: &Arc<HopCircuit>,
    stream: u32,
    signals: &Arc<Signals>,
) -> Result<(), Ended> {
    let meetings = node.meetings().ok_or(Ended::Refused(OpenStatus::Refused))?;
    let link = circuit.link();
    let place = meetings
        .keeper
        .point(link.number(), node.is_listed(link), circuit.number());
    let _place = place.ok_or(Ended::Refused(OpenStatus::Limit))?;
    circuit.with(|mux| mux.answer_open(stream, OpenStatus::Open));
    let mut end = End::new(circuit, stream, signals);
    let request = end.read(ESTABLISH_LEN, REQUEST_LIMIT).await?;
    let request: [u8; ESTABLISH_LEN] = request.try_into().map_err(|_| BROKEN)?;
    let request = Establish::decode(&request);
    if !request.is_for(circuit.binding()) {
        return end.conclude(Status::Refused).await;
    }
    let (registered, mut messages) = meetings.register(request.key);
    end.say(Status::Done).await?;
    debug!(circuit = circuit.number(), stream, "introduction point");
    let mut puzzles = Puzzles::new(&mut end)?;
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => {
                    let record = message.handed().encode().map_err(|_| BROKEN)?;
                    end.write(&record).await?;
                }
                // Its holder has registered it elsewhere.
                None => {
                    circuit.with(|mux| mux.finish(stream));
                    return Ok(());
                }
            },
            puzzle = puzzles.next(&end) => match puzzle? {
                Some(_) if request.key.is_quiet() => return Err(BROKEN),
                Some(puzzle) => registered.ask(puzzle),
                None => {
                    circuit.with(|mux| mux.finish(stream));
                    return Ok(());
                }
            },
        }
    }
}

/// What a seed says after its request: what it asks of visitors from now on.
struct Puzzles {
    /// The beginning of one.
    bytes: Vec<u8>,
    rate: DefaultDirectRateLimiter,
}

impl Puzzles {
    fn new(end: &mut End) -> Result<Self, Ended> {
        // It speaks when it has been answered.
        if end.rest.is_some() {
            return Err(BROKEN);
        }
        let quota = Quota::with_period(PUZZLE_EVERY).ok_or(BROKEN)?;
        Ok(Self {
            bytes: Vec::new(),
            rate: RateLimiter::direct(quota.allow_burst(PUZZLES_AT_ONCE)),
        })
    }

    /// The next one; `None` once the seed ends its stream. Nothing is lost when this is dropped before it is done.
    async fn next(&mut self, end: &End) -> Result<Option<Puzzle>, Ended> {
        loop {
            if let Some((first, rest)) = self.bytes.split_first_chunk::<PUZZLE_LEN>() {
                let puzzle = Puzzle::decode(first).map_err(|_| BROKEN)?;
                self.bytes = rest.to_vec();
                self.rate.check().map_err(|_| BROKEN)?;
                return Ok(Some(puzzle));
            }
            match end.circuit.with(|mux| mux.recv(end.stream)) {
                Recv::Pending => end.signals.readable.notified().await,
                Recv::Finished => return Ok(None),
                Recv::Data(cell) => {
                    self.bytes.extend_from_slice(&cell);
                    let (now, n) = (Instant::now(), cell.len());
                    end.circuit.with(|mux| mux.consumed(now, end.stream, n));
                }
                Recv::Ended(_) => return Err(Ended::ByOrigin),
            }
        }
    }
}

/// Hands an introduction on.
pub(in crate::relay) async fn introduce(
    node: &Node,
    circuit: &Arc<HopCircuit>,
    stream: u32,
    signals: &Arc<Signals>,
) -> Result<(), Ended> {
    let meetings = node.meetings().ok_or(Ended::Refused(OpenStatus::Refused))?;
    let link = circuit.link();
    let allowed =
        meetings
            .keeper
            .introduction(link.number(), node.is_listed(link), circuit.number());
    if !allowed {
        return Err(Ended::Refused(OpenStatus::Limit));
    }
    circuit.with(|mux| mux.answer_open(stream, OpenStatus::Open));
    let mut end = End::new(circuit, stream, signals);
    let header = end.read(INTRODUCE_HEADER_LEN, REQUEST_LIMIT).await?;
    let header: [u8; INTRODUCE_HEADER_LEN] = header.try_into().map_err(|_| BROKEN)?;
    let header = IntroduceHeader::decode(&header).map_err(|_| BROKEN)?;
    let message = end.read(header.length, REQUEST_LIMIT).await?;
    let status = match meetings.asks(&header.key) {
        None => meetings.introduce(&header.key, message),
        Some(asked) => {
            let place = meetings.keeper.working(
                link.number(),
                node.is_listed(link),
                circuit.number(),
                asked.point,
            );
            let Some(_place) = place else {
                return end.conclude(Status::Limit).await;
            };
            worked(meetings, &mut end, &asked, header.key, message).await?
        }
    };
    debug!(circuit = circuit.number(), stream, ?status, "introduction");
    end.conclude(status).await
}

/// Asks a visitor for work, and hands the message on with what it did. Each is asked for something else, so nobody can do it before, or use it
/// twice.
async fn worked(
    meetings: &Meetings,
    end: &mut End,
    asked: &Asked,
    key: IntroductionId,
    message: Vec<u8>,
) -> Result<Status, Ended> {
    let mut salt = [0; SALT_LEN];
    rand::rng().fill_bytes(&mut salt);
    let challenge = asked.puzzle.challenge(&salt);
    end.write(&[&[Status::Work.wire()][..], &challenge.encode()].concat())
        .await?;
    let nonce = end.read(NONCE_LEN, WORK_LIMIT).await?;
    let nonce: [u8; NONCE_LEN] = nonce.try_into().map_err(|_| BROKEN)?;
    if let Err(status) = meetings.check(&key, asked) {
        return Ok(status);
    }
    if !challenge.is_met(&key, &message, &nonce) {
        // No honest visitor says what it did not find. A check costs us less than a circuit, and so who wants many has to build as many.
        end.circuit.close(DestroyReason::Protocol);
        return Err(Ended::ByOrigin);
    }
    let proof = Proof::new(&asked.puzzle, salt, nonce);
    Ok(meetings.introduce_worked(&key, asked, proof, message))
}
