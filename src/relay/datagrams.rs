//! Datagram flows that leave the network here: one UDP socket for each address family, for the life of the flow.

use std::sync::Arc;
use std::time::Duration;

use hushswarm_circuits::body::{EndReason, OpenStatus};
use hushswarm_circuits::circuit::mux::Recv;
use hushswarm_circuits::relay_list::Proto;
use hushswarm_circuits::switch::HopCircuit;
use hushswarm_circuits::target::Target;
use tokio::time::timeout;
use tracing::debug;

use super::exit::{Ended, addresses};
use super::node::{Node, Signals};
use crate::net::os::ExitDatagrams;

/// A flow without a datagram in either direction ends after this time (RFC 4787, REQ-5 asks for more than two minutes).
const IDLE: Duration = Duration::from_secs(300);
/// The longest UDP payload.
const MAX_DATAGRAM: usize = 65_535;

/// Carries a datagram flow until the origin ends it or it falls idle.
pub(super) async fn run(
    node: &Node,
    circuit: &Arc<HopCircuit>,
    stream: u32,
    signals: &Signals,
) -> Result<(), Ended> {
    let sockets = node
        .permit()
        .datagrams()
        .map_err(|_| Ended::Refused(OpenStatus::Failed))?;
    circuit.with(|mux| mux.answer_open(stream, OpenStatus::Open));
    tokio::select! {
        ended = to_targets(node, circuit, stream, &sockets, signals) => ended,
        ended = from_targets(node, circuit, stream, &sockets) => ended,
    }
}

async fn to_targets(
    node: &Node,
    circuit: &Arc<HopCircuit>,
    stream: u32,
    sockets: &ExitDatagrams,
    signals: &Signals,
) -> Result<(), Ended> {
    loop {
        let (datagram, end) = circuit.with(|mux| (mux.recv_datagram(stream), mux.recv(stream)));
        match (datagram, end) {
            (Some((target, payload)), _) => {
                // What can't be sent is lost, as datagrams are; the origin's own retry is its answer.
                let Ok(addrs) = addresses(node, circuit, Proto::Udp, &target).await else {
                    continue;
                };
                if let Some(addr) = addrs.first()
                    && let Err(error) = sockets.send(*addr, &payload).await
                {
                    debug!(circuit = circuit.number(), kind = %error.kind(), "datagram not sent");
                }
            }
            (None, Recv::Finished) => {
                circuit.with(|mux| mux.finish(stream));
                return Ok(());
            }
            (None, Recv::Ended(_)) => return Err(Ended::ByOrigin),
            (None, Recv::Pending | Recv::Data(_)) => {
                if timeout(IDLE, signals.readable.notified()).await.is_err() {
                    return Err(Ended::Reset(EndReason::TimedOut));
                }
            }
        }
    }
}

async fn from_targets(
    node: &Node,
    circuit: &Arc<HopCircuit>,
    stream: u32,
    sockets: &ExitDatagrams,
) -> Result<(), Ended> {
    let mut buf = vec![0; MAX_DATAGRAM];
    loop {
        // An unreachable target answers with an error here; the flow has others.
        let Ok((len, from)) = sockets.recv(&mut buf).await else {
            continue;
        };
        if !node.allows(Proto::Udp, from) {
            continue;
        }
        // One that is too long for a cell, or a full queue: lost, as datagrams are.
        let _ = circuit.with(|mux| mux.send_datagram(stream, &Target::ip(from), &buf[..len]));
    }
}
