//! Introduction points, and the introductions that go through them (PROTOCOL.md §8.1).

use std::sync::Arc;

use hushswarm_circuits::body::{EndReason, OpenStatus};
use hushswarm_circuits::circuit::mux::Recv;
use hushswarm_circuits::rendezvous::wire::{
    ESTABLISH_LEN, INTRODUCE_HEADER_LEN, IntroduceHeader, encode_record,
};
use hushswarm_circuits::rendezvous::{Establish, Status};
use hushswarm_circuits::switch::HopCircuit;
use tracing::debug;

use super::REQUEST_LIMIT;
use super::end::End;
use crate::relay::exit::Ended;
use crate::relay::node::{Node, Signals};

const BROKEN: Ended = Ended::Reset(EndReason::Reset);

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
    let (_registered, mut messages) = meetings.register(request.key);
    end.say(Status::Done).await?;
    debug!(circuit = circuit.number(), stream, "introduction point");
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => {
                    let record = encode_record(&message).map_err(|_| BROKEN)?;
                    end.write(&record).await?;
                }
                // Its holder has registered it elsewhere.
                None => {
                    circuit.with(|mux| mux.finish(stream));
                    return Ok(());
                }
            },
            ended = no_more(&end) => return ended,
        }
    }
}

/// Waits until the seed ends its stream. It has nothing more to say.
async fn no_more(end: &End) -> Result<(), Ended> {
    if end.rest.is_some() {
        return Err(BROKEN);
    }
    loop {
        match end.circuit.with(|mux| mux.recv(end.stream)) {
            Recv::Pending => end.signals.readable.notified().await,
            Recv::Finished => {
                end.circuit.with(|mux| mux.finish(end.stream));
                return Ok(());
            }
            Recv::Data(_) => return Err(BROKEN),
            Recv::Ended(_) => return Err(Ended::ByOrigin),
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
    let status = meetings.introduce(&header.key, message);
    debug!(circuit = circuit.number(), stream, ?status, "introduction");
    end.conclude(status).await
}
