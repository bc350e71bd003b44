//! Rendezvous points (PROTOCOL.md §8.2): who waits with a cookie, and who joins with it.

use std::sync::Arc;

use hushswarm_circuits::body::{EndReason, OpenStatus};
use hushswarm_circuits::rendezvous::wire::COOKIE_LEN;
use hushswarm_circuits::rendezvous::{Cookie, Status};
use hushswarm_circuits::switch::HopCircuit;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::debug;

use super::end::End;
use super::splice::{Joiner, splice};
use super::{COOKIE_LIFE, REQUEST_LIMIT};
use crate::relay::exit::Ended;
use crate::relay::node::{Node, Signals};

const BROKEN: Ended = Ended::Reset(EndReason::Reset);

async fn read_cookie(end: &mut End) -> Result<Cookie, Ended> {
    let cookie = end.read(COOKIE_LEN, REQUEST_LIMIT).await?;
    Ok(Cookie(cookie.try_into().map_err(|_| BROKEN)?))
}

/// Lets somebody wait, and carries what both say when they have met.
pub(in crate::relay) async fn wait(
    node: &Node,
    circuit: &Arc<HopCircuit>,
    stream: u32,
    signals: &Arc<Signals>,
) -> Result<(), Ended> {
    let meetings = node.meetings().ok_or(Ended::Refused(OpenStatus::Refused))?;
    let link = circuit.link();
    let place = meetings
        .keeper
        .rendezvous(link.number(), node.is_listed(link), circuit.number());
    let _place = place.ok_or(Ended::Refused(OpenStatus::Limit))?;
    circuit.with(|mux| mux.answer_open(stream, OpenStatus::Open));
    let mut end = End::new(circuit, stream, signals);
    let cookie = read_cookie(&mut end).await?;
    let Some(mut waiting) = meetings.wait(cookie) else {
        return end.conclude(Status::Refused).await;
    };
    end.say(Status::Done).await?;
    let joined = async {
        tokio::select! {
            joiner = &mut waiting.joined => Ok(joiner.ok()),
            () = end.cut_off() => Err(Ended::ByOrigin),
        }
    };
    let joiner = timeout(COOKIE_LIFE, joined).await.unwrap_or(Ok(None))?;
    drop(waiting);
    debug!(
        circuit = circuit.number(),
        stream,
        joined = joiner.is_some(),
        "rendezvous"
    );
    let Some(joiner) = joiner else {
        return end.conclude(Status::Expired).await;
    };
    splice(&meetings.joined, end, joiner).await
}

/// Lets somebody join who waits. Their streams are carried by the task of the one who waited; this one says that its
/// own is still there, and hears how it ended.
pub(in crate::relay) async fn join(
    node: &Node,
    circuit: &Arc<HopCircuit>,
    stream: u32,
    signals: &Arc<Signals>,
) -> Result<(), Ended> {
    let meetings = node.meetings().ok_or(Ended::Refused(OpenStatus::Refused))?;
    let link = circuit.link();
    let allowed = meetings
        .keeper
        .request(link.number(), node.is_listed(link), circuit.number());
    if !allowed {
        return Err(Ended::Refused(OpenStatus::Limit));
    }
    circuit.with(|mux| mux.answer_open(stream, OpenStatus::Open));
    let mut end = End::new(circuit, stream, signals);
    let cookie = read_cookie(&mut end).await?;
    let Some(waiting) = meetings.take(&cookie) else {
        return end.conclude(Status::Unknown).await;
    };
    let (alive, gone) = oneshot::channel();
    let (done, ended) = oneshot::channel();
    if let Err(joiner) = waiting.send(Joiner { end, gone, done }) {
        return joiner.end.conclude(Status::Unknown).await;
    }
    // The other is gone with its circuit where it does not say how it ended.
    let ended = ended.await.unwrap_or(Err(BROKEN));
    drop(alive);
    ended
}
