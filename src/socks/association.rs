//! A UDP association (RFC 1928 §7): datagrams between one program and a flow at an exit, for as long as the connection
//! that asked for it lives.
//!
//! The flow is opened at once, and again when it broke and the program sends more; what the program sends meanwhile
//! waits in a short queue. No datagram costs a task.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::Target;
use tokio::io::AsyncReadExt;
use tracing::debug;

use super::limits::AssociationPlace;
use super::udp;
use crate::net::MANY_DATAGRAMS;
use crate::net::os::LocalUdp;
use crate::route::{BoxStream, Datagrams, Outside, RouteError};

/// Longest datagram of a program that is read, bytes; no cell carries so much, so what fills it is dropped.
const MAX_DATAGRAM: usize = 8 * 1024;
/// Datagrams that wait for a flow; beyond it the oldest are dropped.
const WAITING: usize = 64;
/// Bytes of the program's datagrams that are worked in one go; one more may begin below this.
const BATCH_BYTES: usize = 16 * 1024;
/// Pauses after a flow could not be opened: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Failures in a row after which the association ends, so that the program notices: about five minutes.
const MAX_FAILURES: u32 = 14;

/// An association that the program has been told of.
pub(super) struct Begun {
    /// What the program sends to.
    pub(super) socket: LocalUdp,
    /// The program's address.
    pub(super) client: IpAddr,
    /// The program's port, where it said so.
    pub(super) port: Option<u16>,
    /// Its place in the count.
    pub(super) place: AssociationPlace,
}

/// Serves an association until its connection ends.
pub(super) async fn run(
    mut control: BoxStream,
    begun: Begun,
    outside: &Arc<dyn Outside>,
    isolation: Isolation,
) {
    let association = Association {
        socket: begun.socket,
        client: begun.client,
        port: AtomicU16::new(begun.port.unwrap_or(0)),
        _place: begun.place,
    };
    tokio::select! {
        () = ended(&mut control) => {}
        () = association.pump(outside, isolation) => {}
    }
    debug!("association ended");
}

/// Waits for the end of the connection; what is sent on it means nothing.
async fn ended(control: &mut BoxStream) {
    let mut ignored = [0; 256];
    while matches!(control.read(&mut ignored).await, Ok(1..)) {}
}

struct Association {
    socket: LocalUdp,
    client: IpAddr,
    /// The program's port; 0 until it is known.
    port: AtomicU16,
    _place: AssociationPlace,
}

type Waiting = VecDeque<(Target, Vec<u8>)>;

impl Association {
    async fn pump(&self, outside: &Arc<dyn Outside>, isolation: Isolation) {
        let mut buf = vec![0; BATCH_BYTES + MAX_DATAGRAM];
        let mut waiting = Waiting::new();
        loop {
            let opening = self.open(outside, isolation);
            let flow = tokio::select! {
                flow = opening => flow,
                () = self.gather(&mut buf, &mut waiting) => None,
            };
            let Some(flow) = flow else { return };
            for (target, payload) in waiting.drain(..) {
                // A lost datagram is no error.
                let _ = flow.send(&target, &payload);
            }
            let error = tokio::select! {
                error = self.up(&mut buf, &*flow) => error,
                error = self.down(&*flow) => error,
            };
            debug!(kind = %error.kind(), "datagram flow ended");
            drop(flow);
            // A new one is worth it when there is something to send.
            while waiting.is_empty() {
                if self.socket.readable().await.is_err() {
                    return;
                }
                self.gather_ready(&mut buf, &mut waiting);
            }
        }
    }

    /// Opens a flow; `None` when that failed too often, or is not allowed.
    async fn open(
        &self,
        outside: &Arc<dyn Outside>,
        isolation: Isolation,
    ) -> Option<Box<dyn Datagrams>> {
        let mut pause = PAUSE.0;
        for _ in 0..MAX_FAILURES {
            match outside.datagrams(isolation).await {
                Ok(flow) => return Some(flow),
                Err(error) => {
                    debug!(%error, "datagram flow not opened");
                    if matches!(error, RouteError::Refused | RouteError::Forbidden(_)) {
                        return None;
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
        None
    }

    /// The next datagram of the program: where to, and where in `buf` what it carries stands. `None` when there is none now.
    fn next(&self, buf: &mut [u8]) -> Option<Option<(Target, Range<usize>)>> {
        let (len, from) = match self.socket.try_recv_from(buf) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            // Where the program does not listen any more, that is told here; it may again.
            Err(_) => return Some(None),
        };
        if !self.is_client(from) || len == buf.len() {
            return Some(None);
        }
        let Some((target, payload)) = udp::decode(&buf[..len]) else {
            return Some(None);
        };
        // Only what is well formed settles whose association it is.
        self.port.store(from.port(), Ordering::Relaxed);
        Some(Some((target, len - payload.len()..len)))
    }

    fn is_client(&self, from: SocketAddr) -> bool {
        let port = self.port.load(Ordering::Relaxed);
        from.ip().to_canonical() == self.client && (port == 0 || port == from.port())
    }

    /// Puts what has come into the queue.
    fn gather_ready(&self, buf: &mut [u8], waiting: &mut Waiting) {
        for _ in 0..MANY_DATAGRAMS {
            let Some(datagram) = self.next(&mut buf[..MAX_DATAGRAM]) else {
                return;
            };
            let Some((target, payload)) = datagram else {
                continue;
            };
            if waiting.len() == WAITING {
                waiting.pop_front();
            }
            waiting.push_back((target, buf[payload].to_vec()));
        }
    }

    /// Puts what comes into the queue, until the socket breaks.
    async fn gather(&self, buf: &mut [u8], waiting: &mut Waiting) {
        while self.socket.readable().await.is_ok() {
            self.gather_ready(buf, waiting);
            tokio::task::yield_now().await;
        }
    }

    async fn up(&self, buf: &mut [u8], flow: &dyn Datagrams) -> io::Error {
        let mut batch: Vec<(Target, Range<usize>)> = Vec::new();
        loop {
            if let Err(error) = self.socket.readable().await {
                return error;
            }
            let mut begin = 0;
            // Strangers' datagrams count too: a flood of them must not keep others from their turn.
            for _ in 0..MANY_DATAGRAMS {
                if begin >= BATCH_BYTES {
                    break;
                }
                match self.next(&mut buf[begin..begin + MAX_DATAGRAM]) {
                    None => break,
                    Some(None) => {}
                    Some(Some((target, payload))) => {
                        let (start, end) = (begin + payload.start, begin + payload.end);
                        batch.push((target, start..end));
                        begin = end;
                    }
                }
            }
            // What has come together leaves together, in few cells. One that is too long for a cell is lost.
            let mut datagrams = batch.iter().map(|(to, at)| (to, &buf[at.clone()]));
            match flow.send_many(&mut datagrams) {
                Err(error) if error.kind() != io::ErrorKind::InvalidInput => return error,
                _ => {}
            }
            batch.clear();
            tokio::task::yield_now().await;
        }
    }

    async fn down(&self, flow: &dyn Datagrams) -> io::Error {
        let mut batch = Vec::new();
        let mut datagram = Vec::with_capacity(MAX_DATAGRAM);
        loop {
            if let Err(error) = flow.recv_many(&mut batch).await {
                return error;
            }
            let port = self.port.load(Ordering::Relaxed);
            for (from, payload) in batch.drain(..) {
                if port == 0 {
                    // Nobody is known to want it.
                    continue;
                }
                udp::encode(&mut datagram, &from, &payload);
                let to = SocketAddr::new(self.client, port);
                // A full socket loses it, as a network would.
                let _ = self.socket.try_send_to(&datagram, to);
            }
        }
    }
}
