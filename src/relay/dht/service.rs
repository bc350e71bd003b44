//! One stream of a lookup (PROTOCOL.md §5.8): the origin's request in, records out as they come.
//!
//! The stream's end is the walk's: whoever stops reading ends it, and what waits for a slow reader is bounded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hushswarm_circuits::body::{EndReason, OpenStatus};
use hushswarm_circuits::circuit::mux::Recv;
use hushswarm_circuits::dht::{
    Family as WireFamily, MAX_ANSWER, MAX_PEERS, MAX_REQUEST, Op, Record, Request,
    Summary as WireSummary,
};
use hushswarm_circuits::frame::Pool;
use hushswarm_circuits::switch::HopCircuit;
use tokio::time::timeout;

use super::node::DhtNode;
use super::walk::Walk;
use crate::krpc::{Event, Family, Goal, Id, Item, ItemName, Summary};
use crate::relay::exit::Ended;
use crate::relay::node::{Node, Signals};

/// The request is whole within this time: it is a single cell.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);
/// A walk ends by itself within a minute; an answer that is not read by then is cut off.
const LOOKUP_LIMIT: Duration = Duration::from_secs(90);
/// Bytes of records that wait for a slow reader. With more the walk asks nobody until there is room.
const MAX_WAITING: usize = 16 * 1024;
/// What an answer leaves for its last record.
const END_ROOM: usize = 16;

/// Looks up for an origin, where the relay offers it and the limits allow it.
pub(in crate::relay) async fn run(
    node: &Node,
    circuit: &Arc<HopCircuit>,
    stream: u32,
    signals: &Signals,
) -> Result<(), Ended> {
    let dht = node.dht().ok_or(Ended::Refused(OpenStatus::Refused))?;
    let link = circuit.link();
    let place = dht
        .keeper
        .admit(link.number(), node.is_listed(link), circuit.number());
    let _place = place.ok_or(Ended::Refused(OpenStatus::Limit))?;
    circuit.with(|mux| mux.answer_open(stream, OpenStatus::Open));
    let read = timeout(REQUEST_LIMIT, read_request(circuit, stream, signals)).await;
    let request = read.unwrap_or(Err(Ended::Reset(EndReason::TimedOut)))?;
    // It can't be read, or its item is not signed by whom it says: nobody would take it.
    let (family, target, goal) = goal(request).ok_or(Ended::Reset(EndReason::Reset))?;
    let answering = Answering {
        dht,
        circuit,
        stream,
        signals,
        pool: circuit.link().pool().clone(),
        waiting: Vec::new(),
        sent: 0,
    };
    let answered = answering.run(Walk::begin(dht, family, target, goal));
    let ended = timeout(LOOKUP_LIMIT, answered).await;
    ended.unwrap_or(Err(Ended::Reset(EndReason::TimedOut)))
}

/// Reads the whole request, which the origin's END 0 ends.
async fn read_request(
    circuit: &Arc<HopCircuit>,
    stream: u32,
    signals: &Signals,
) -> Result<Request, Ended> {
    let mut bytes = Vec::new();
    loop {
        let came = circuit.with(|mux| {
            let came = mux.recv(stream);
            if let Recv::Data(payload) = &came {
                mux.consumed(Instant::now(), stream, payload.len());
            }
            came
        });
        match came {
            Recv::Data(payload) => bytes.extend_from_slice(&payload),
            Recv::Pending => signals.readable.notified().await,
            Recv::Finished => break,
            Recv::Ended(_) => return Err(Ended::ByOrigin),
        }
        if bytes.len() > MAX_REQUEST {
            break;
        }
    }
    Request::decode(&bytes).map_err(|_| Ended::Reset(EndReason::Reset))
}

/// What to look up; `None` for an item that is none.
fn goal(request: Request) -> Option<(Family, Id, Goal)> {
    let family = match request.family {
        WireFamily::V4 => Family::V4,
        WireFamily::V6 => Family::V6,
    };
    let (target, goal) = match request.op {
        Op::Peers { target } => (Id(target), Goal::Peers),
        Op::Get { target, salt } => {
            let name = ItemName::new(Id(target), &salt).ok()?;
            (Id(target), Goal::Get(name))
        }
        Op::Put { item, cas } => {
            let item = Item::from_carried(&item).ok()?;
            let cas = cas.map(i64::try_from).transpose().ok()?;
            (item.target(), Goal::Put(item.with_cas(cas)))
        }
    };
    Some((family, target, goal))
}

fn write_summary(summary: &Summary) -> WireSummary {
    let cut = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    WireSummary {
        asked: cut(summary.asked),
        answered: cut(summary.answered),
        stored: cut(summary.stored),
    }
}

/// An answer on its way.
struct Answering<'a> {
    dht: &'a Arc<DhtNode>,
    circuit: &'a Arc<HopCircuit>,
    stream: u32,
    signals: &'a Signals,
    pool: Pool,
    /// Records that the origin's window has no room for yet.
    waiting: Vec<u8>,
    /// Bytes of records so far.
    sent: usize,
}

impl Answering<'_> {
    async fn run(mut self, walk: Option<Walk>) -> Result<(), Ended> {
        let Some(mut walk) = walk else {
            self.put(&Record::End(WireSummary::default()));
            return self.finish().await;
        };
        loop {
            while self.waiting.len() < MAX_WAITING
                && let Some(event) = walk.event()
            {
                if let Event::Finished(summary) = &event {
                    self.put(&Record::End(write_summary(summary)));
                    drop(walk);
                    return self.finish().await;
                }
                self.tell(event);
            }
            let blocked = self.send()?;
            if self.waiting.len() < MAX_WAITING {
                walk.ask().await;
            }
            tokio::select! {
                () = walk.wait() => {}
                // A stream that ends wakes both.
                () = self.signals.readable.notified() => {}
                () = self.signals.writable.notified(), if blocked => {}
            }
        }
    }

    /// Puts what was found behind what waits.
    fn tell(&mut self, event: Event) {
        match event {
            Event::Peers(peers) => {
                let told = peers.into_iter().filter(|peer| self.dht.may_tell(*peer));
                let told: Vec<SocketAddr> = told.collect();
                for peers in told.chunks(MAX_PEERS) {
                    self.put(&Record::Peers(peers.to_vec()));
                }
            }
            Event::Item(item) => {
                self.put(&Record::Item(item.to_carried()));
            }
            // The end says it.
            Event::Stored(_) | Event::Finished(_) => {}
        }
    }

    fn put(&mut self, record: &Record) {
        let Ok(bytes) = record.encode() else {
            return;
        };
        let is_end = matches!(record, Record::End(_));
        if is_end || self.sent + bytes.len() + END_ROOM <= MAX_ANSWER {
            self.sent += bytes.len();
            self.waiting.extend_from_slice(&bytes);
        }
    }

    /// Sends what there is room for; whether something still waits.
    fn send(&mut self) -> Result<bool, Ended> {
        let (n, over) = self.circuit.with(|mux| {
            let n = mux.send_bytes(&self.pool, self.stream, &self.waiting);
            (n, !mux.is_sending(self.stream))
        });
        if over {
            return Err(Ended::ByOrigin);
        }
        self.waiting.drain(..n);
        Ok(!self.waiting.is_empty())
    }

    /// Sends the rest and the end.
    async fn finish(mut self) -> Result<(), Ended> {
        while self.send()? {
            self.signals.writable.notified().await;
        }
        self.circuit.with(|mux| mux.finish(self.stream));
        Ok(())
    }
}
