//! Datagram flows that leave the network here: one UDP socket for each address family, for the life of the flow.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hushswarm_circuits::body::{EndReason, OpenStatus};
use hushswarm_circuits::circuit::mux::{DATAGRAM_QUEUE, Recv};
use hushswarm_circuits::relay_list::Proto;
use hushswarm_circuits::switch::HopCircuit;
use hushswarm_circuits::target::Target;
use tokio::time::timeout;
use tracing::debug;

use super::exit::{Ended, addresses};
use super::node::{Node, Signals};
use crate::net::MANY_DATAGRAMS;
use crate::net::os::ExitDatagrams;

/// A flow without a datagram in either direction ends after this time (RFC 4787, REQ-5 asks for more than two minutes).
const IDLE: Duration = Duration::from_secs(300);
/// The longest UDP payload.
const MAX_DATAGRAM: usize = 65_535;
/// Bytes of datagrams that are queued in one go: little of what the queue holds.
const BATCH_BYTES: usize = DATAGRAM_QUEUE / 8;

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
    let mut batch: Vec<(Target, Vec<u8>)> = Vec::new();
    loop {
        let end = circuit.with(|mux| {
            let waiting = std::iter::from_fn(|| mux.recv_datagram(stream));
            batch.extend(waiting.take(MANY_DATAGRAMS));
            mux.recv(stream)
        });
        if batch.is_empty() {
            match end {
                Recv::Finished => {
                    circuit.with(|mux| mux.finish(stream));
                    return Ok(());
                }
                Recv::Ended(_) => return Err(Ended::ByOrigin),
                Recv::Pending | Recv::Data(_) => {
                    if timeout(IDLE, signals.readable.notified()).await.is_err() {
                        return Err(Ended::Reset(EndReason::TimedOut));
                    }
                }
            }
        }
        for (target, payload) in batch.drain(..) {
            // What can't be sent is lost, as datagrams are; the origin's own retry is its answer.
            let Ok(addrs) = addresses(node, circuit, Proto::Udp, &target).await else {
                continue;
            };
            // A UDP tracker's answer is laid out by the family it came by (BEP 15), and who names its target can't know
            // which it is: IPv4 where there is one.
            let addr = addrs.iter().find(|addr| addr.is_ipv4()).or(addrs.first());
            if let Some(addr) = addr
                && let Err(error) = sockets.send(*addr, &payload).await
            {
                debug!(circuit = circuit.number(), kind = %error.kind(), "datagram not sent");
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
    let mut bytes = vec![0; BATCH_BYTES + MAX_DATAGRAM];
    let mut batch: Vec<(SocketAddr, std::ops::Range<usize>)> = Vec::new();
    loop {
        // An unreachable target answers with an error, here and below; the flow has others.
        let _ = sockets.readable().await;
        let mut begin = 0;
        for n in 0..MANY_DATAGRAMS {
            match sockets.try_recv(n % 2 == 1, &mut bytes[begin..]) {
                Ok((len, from)) => {
                    if node.allows(Proto::Udp, from) {
                        batch.push((from, begin..begin + len));
                        begin += len;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {}
            }
            if begin >= BATCH_BYTES {
                break;
            }
        }
        if batch.is_empty() {
            continue;
        }
        circuit.with(|mux| {
            for (from, range) in batch.drain(..) {
                // One that is too long for a cell, or a full queue: lost, as datagrams are.
                let _ = mux.send_datagram(stream, &Target::ip(from), &bytes[range]);
            }
        });
        // A flow that never runs dry leaves the others their turn.
        tokio::task::yield_now().await;
    }
}
