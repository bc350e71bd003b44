//! TCP streams that leave the network here, and bytes of the relay's own as a stream.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hushswarm_circuits::body::{EndReason, OpenStatus, PAYLOAD_OFFSET, Payload};
use hushswarm_circuits::circuit::mux::Recv;
use hushswarm_circuits::frame::{Class, FrameBuf};
use hushswarm_circuits::relay_list::Proto;
use hushswarm_circuits::switch::HopCircuit;
use hushswarm_circuits::target::{Host, Target};

use tokio::time::timeout;

use super::lookup;
use super::node::{Node, Signals, reset_reason};
use crate::net::os::{ExitReader, ExitStream, ExitWriter};

/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;
/// A stream is open or refused within this time, resolving and all addresses included: origins wait for 25 s.
const OPEN_LIMIT: Duration = Duration::from_secs(15);
/// Frames filled by one read of a busy target: 125 KiB.
const READ_FRAMES: usize = 32;
/// Frames for the first read after a pause.
const FIRST_FRAMES: usize = 4;
/// Cells written to the target at once.
const WRITE_CELLS: usize = 64;

/// Why a stream's task ended before both directions were done.
pub(super) enum Ended {
    /// It could not be opened.
    Refused(OpenStatus),
    /// It broke; the origin must be told.
    Reset(EndReason),
    /// The origin ended it.
    ByOrigin,
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Reset(reset_reason(&error))
    }
}

/// Opens a TCP stream where the policy allows it, and carries it until both directions are done.
pub(super) async fn run(
    node: &Node,
    circuit: &Arc<HopCircuit>,
    stream: u32,
    target: &Target,
    signals: &Signals,
) -> Result<(), Ended> {
    let ExitStream { reader, writer } = connect(node, circuit, target)
        .await
        .map_err(Ended::Refused)?;
    circuit.with(|mux| mux.answer_open(stream, OpenStatus::Open));
    tokio::try_join!(
        to_target(circuit, stream, writer, signals),
        from_target(circuit, stream, &reader, signals),
    )
    .map(drop)
}

/// The addresses of a target that the policy lets out.
pub(super) async fn addresses(
    node: &Node,
    circuit: &Arc<HopCircuit>,
    proto: Proto,
    target: &Target,
) -> Result<Vec<SocketAddr>, OpenStatus> {
    if !node.policy().may_allow_port(proto, target.port) {
        return Err(OpenStatus::Refused);
    }
    let ips: Vec<IpAddr> = match &target.host {
        Host::Ip(ip) => vec![ip.to_canonical()],
        Host::Name(name) => lookup::addresses(node, circuit, name.as_str()).await?,
    };
    let allowed: Vec<SocketAddr> = ips
        .into_iter()
        .map(|ip| SocketAddr::new(ip, target.port))
        .filter(|addr| node.allows(proto, *addr))
        .take(MAX_ADDRESSES)
        .collect();
    if allowed.is_empty() {
        Err(OpenStatus::Refused)
    } else {
        Ok(allowed)
    }
}

async fn connect(
    node: &Node,
    circuit: &Arc<HopCircuit>,
    target: &Target,
) -> Result<ExitStream, OpenStatus> {
    let begun = Instant::now();
    let addrs = addresses(node, circuit, Proto::Tcp, target).await?;
    let mut status = OpenStatus::Unreachable;
    for (tried, addr) in addrs.iter().enumerate() {
        // What is left is shared, so that an address that never answers does not use up the time of the next.
        let left = OPEN_LIMIT.saturating_sub(begun.elapsed());
        let share = left / u32::try_from(addrs.len() - tried).unwrap_or(1);
        let connected = timeout(share, node.permit().connect(*addr)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                status = if error.kind() == io::ErrorKind::ConnectionRefused {
                    OpenStatus::ConnectionRefused
                } else if error.kind() == io::ErrorKind::TimedOut {
                    OpenStatus::TimedOut
                } else {
                    OpenStatus::Unreachable
                };
            }
        }
    }
    Err(status)
}

async fn to_target(
    circuit: &Arc<HopCircuit>,
    stream: u32,
    mut writer: ExitWriter,
    signals: &Signals,
) -> Result<(), Ended> {
    let mut cells: Vec<Payload> = Vec::new();
    loop {
        let end = circuit.with(|mux| {
            while cells.len() < WRITE_CELLS {
                match mux.recv(stream) {
                    Recv::Data(payload) => cells.push(payload),
                    other @ (Recv::Pending | Recv::Finished | Recv::Ended(_)) => return other,
                }
            }
            Recv::Pending
        });
        if cells.is_empty() {
            match end {
                Recv::Pending => signals.readable.notified().await,
                Recv::Finished => return Ok(writer.finish().await?),
                Recv::Ended(_) => return Err(Ended::ByOrigin),
                Recv::Data(_) => {}
            }
            continue;
        }
        let bytes = cells.iter().map(|cell| cell.len()).sum();
        let mut slices: Vec<IoSlice<'_>> = cells.iter().map(|cell| IoSlice::new(cell)).collect();
        writer.write_all(&mut slices).await?;
        cells.clear();
        circuit.with(|mux| mux.consumed(Instant::now(), stream, bytes));
    }
}

async fn from_target(
    circuit: &Arc<HopCircuit>,
    stream: u32,
    reader: &ExitReader,
    signals: &Signals,
) -> Result<(), Ended> {
    let pool = circuit.link().pool().clone();
    let mut frames: Vec<FrameBuf> = Vec::new();
    let mut want = FIRST_FRAMES;
    loop {
        let (room, sending) = circuit.with(|mux| (mux.send_room(stream), mux.is_sending(stream)));
        if !sending {
            // Noticed here too: when the origin has no more to send, nobody else looks any more.
            return Err(Ended::ByOrigin);
        }
        if room == 0 {
            signals.writable.notified().await;
            continue;
        }
        tokio::select! {
            ready = reader.ready() => ready?,
            () = signals.writable.notified() => continue,
        }
        let payload = Class::Bulk.frame_len() - PAYLOAD_OFFSET;
        while frames.len() < want.min(room.div_ceil(payload)) {
            frames.push(pool.take(Class::Bulk));
        }
        let mut left = room;
        let mut slices: Vec<IoSliceMut<'_>> = frames
            .iter_mut()
            .map_while(|frame| {
                let len = payload.min(left);
                left -= len;
                let bytes = &mut frame.bytes_mut()[PAYLOAD_OFFSET..PAYLOAD_OFFSET + len];
                (len > 0).then(|| IoSliceMut::new(bytes))
            })
            .collect();
        let n = match reader.try_read(&mut slices) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Nothing to hold buffers for while it waits.
                frames.clear();
                want = FIRST_FRAMES;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if n == 0 {
            circuit.with(|mux| mux.finish(stream));
            return Ok(());
        }
        want = if n >= payload * want {
            READ_FRAMES
        } else {
            want
        };
        let used = n.div_ceil(payload);
        let mut lens = n;
        let sent = circuit.with(|mux| {
            for frame in frames.drain(..used) {
                let len = lens.min(payload);
                lens -= len;
                mux.send(stream, frame, len)?;
            }
            Ok::<_, hushswarm_circuits::circuit::mux::MuxError>(())
        });
        // The origin ended the stream in between.
        sent.map_err(|_| Ended::ByOrigin)?;
    }
}

/// Opens a stream that brings these bytes and ends.
pub(super) async fn serve_bytes(
    bytes: &[u8],
    circuit: &Arc<HopCircuit>,
    stream: u32,
    signals: &Signals,
) -> Result<(), Ended> {
    let pool = circuit.link().pool().clone();
    circuit.with(|mux| mux.answer_open(stream, OpenStatus::Open));
    let mut left = bytes;
    while !left.is_empty() {
        let (n, over) = circuit.with(|mux| {
            let n = mux.send_bytes(&pool, stream, left);
            (n, !mux.is_sending(stream))
        });
        if over {
            return Err(Ended::ByOrigin);
        }
        left = &left[n..];
        if n == 0 {
            signals.writable.notified().await;
        }
    }
    circuit.with(|mux| mux.finish(stream));
    Ok(())
}
