//! Streams and datagram flows inside a circuit, as the rest of the program uses them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use hushswarm_circuits::body::{EndReason, Payload};
use hushswarm_circuits::circuit::mux::Recv;
use hushswarm_circuits::target::Target;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::circuit::{Circuit, Side};
use crate::net::{BoxFuture, ByteStream, Datagrams, MANY_DATAGRAMS};

/// A byte stream through a circuit. Dropping it resets what has not ended; where both sides have ended, what is queued
/// still leaves.
pub struct CircuitStream {
    circuit: Arc<Circuit>,
    id: u32,
    /// What of the last cell did not fit the reader's buffer.
    rest: Option<Payload>,
    /// We said that no more will come.
    finished: bool,
    /// The other side did, and everything was read.
    read_out: bool,
}

impl ByteStream for CircuitStream {
    fn reset_on_drop(&mut self) {
        self.finished = false;
    }
}

impl CircuitStream {
    pub(super) fn new(circuit: Arc<Circuit>, id: u32) -> Self {
        Self {
            circuit,
            id,
            rest: None,
            finished: false,
            read_out: false,
        }
    }

    /// Queues all that will ever be sent, at once. `false`: the first window does not hold it, or the stream is gone.
    pub(super) fn send_all(&mut self, data: &[u8]) -> bool {
        let sent = self.circuit.with(|origin| {
            let pool = self.circuit.pool().clone();
            let mux = origin.mux();
            let sent = mux.send_bytes(&pool, self.id, data) == data.len();
            if sent {
                mux.finish(self.id);
            }
            sent
        });
        self.finished |= sent;
        sent
    }

    /// Fills `buf` from what has come; gives how much, and how it stands then.
    fn take(&mut self, buf: &mut ReadBuf<'_>) -> (usize, Recv) {
        let (id, rest) = (self.id, &mut self.rest);
        self.circuit.with(|origin| {
            let mux = origin.mux();
            let begin = buf.filled().len();
            let mut state = Recv::Pending;
            while buf.remaining() > 0 {
                let mut cell = match rest.take() {
                    Some(cell) => cell,
                    None => match mux.recv(id) {
                        Recv::Data(cell) => cell,
                        other @ (Recv::Pending | Recv::Finished | Recv::Ended(_)) => {
                            state = other;
                            break;
                        }
                    },
                };
                let n = cell.len().min(buf.remaining());
                buf.put_slice(&cell[..n]);
                if n < cell.len() {
                    cell.advance(n);
                    *rest = Some(cell);
                }
            }
            let n = buf.filled().len() - begin;
            if n > 0 {
                mux.consumed(Instant::now(), id, n);
            }
            (n, state)
        })
    }
}

fn broken(reason: EndReason) -> io::Error {
    match reason {
        EndReason::TimedOut => io::ErrorKind::TimedOut.into(),
        EndReason::Done | EndReason::Reset | EndReason::Limit | EndReason::ShuttingDown => {
            io::ErrorKind::ConnectionReset.into()
        }
    }
}

impl AsyncRead for CircuitStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        for registered in [false, true] {
            match self.take(buf) {
                (0, Recv::Pending | Recv::Data(_)) if buf.remaining() > 0 => {}
                (0, Recv::Ended(reason)) => return Poll::Ready(Err(broken(reason))),
                (_, end) => {
                    self.read_out |= matches!(end, Recv::Finished);
                    return Poll::Ready(Ok(()));
                }
            }
            if self.circuit.is_closed() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            if !registered {
                // Looks once more after leaving the waker, for what came in between.
                self.circuit.register(self.id, Side::Read, cx.waker());
            }
        }
        Poll::Pending
    }
}

impl AsyncWrite for CircuitStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        for registered in [false, true] {
            let (n, over) = self.circuit.with(|origin| {
                let pool = self.circuit.pool().clone();
                let mux = origin.mux();
                let n = mux.send_bytes(&pool, self.id, data);
                (n, n == 0 && !mux.is_sending(self.id))
            });
            if n > 0 {
                return Poll::Ready(Ok(n));
            }
            if over || self.circuit.is_closed() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if !registered {
                self.circuit.register(self.id, Side::Write, cx.waker());
            }
        }
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Cells leave as soon as the link has room; nothing waits for more to come.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            self.finished = true;
            self.circuit.with(|origin| origin.mux().finish(self.id));
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for CircuitStream {
    fn drop(&mut self) {
        if self.finished && self.read_out {
            self.circuit.leave_stream(self.id);
        } else {
            self.circuit.end_stream(self.id);
        }
    }
}

/// A datagram flow through a circuit.
pub struct CircuitDatagrams {
    circuit: Arc<Circuit>,
    id: u32,
}

impl CircuitDatagrams {
    pub(super) fn new(circuit: Arc<Circuit>, id: u32) -> Self {
        Self { circuit, id }
    }

    /// Gives `take` up to `most` datagrams; ready when there was one, or can't be.
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        most: usize,
        take: &mut dyn FnMut((Target, Vec<u8>)),
    ) -> Poll<io::Result<()>> {
        for registered in [false, true] {
            let (taken, state) = self.circuit.with(|origin| {
                let mux = origin.mux();
                let waiting = std::iter::from_fn(|| mux.recv_datagram(self.id));
                let taken = waiting.take(most).map(&mut *take).count();
                (taken, mux.recv(self.id))
            });
            match state {
                _ if taken > 0 => return Poll::Ready(Ok(())),
                Recv::Ended(reason) => return Poll::Ready(Err(broken(reason))),
                Recv::Finished => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Recv::Pending | Recv::Data(_) => {}
            }
            if self.circuit.is_closed() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            if !registered {
                self.circuit.register(self.id, Side::Read, cx.waker());
            }
        }
        Poll::Pending
    }
}

impl Datagrams for CircuitDatagrams {
    fn send(&self, to: &Target, payload: &[u8]) -> io::Result<()> {
        if self.circuit.is_closed() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let sent = self
            .circuit
            .with(|origin| origin.mux().send_datagram(self.id, to, payload));
        sent.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }

    fn send_many<'a>(
        &self,
        datagrams: &mut dyn Iterator<Item = (&'a Target, &'a [u8])>,
    ) -> io::Result<()> {
        if self.circuit.is_closed() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        // Cells are made when all are queued, so that one carries many.
        let sent = self.circuit.with(|origin| {
            let mux = origin.mux();
            let mut sent = Ok(());
            for (to, payload) in datagrams {
                let one = mux.send_datagram(self.id, to, payload);
                sent = sent.and(one);
            }
            sent
        });
        sent.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }

    fn recv(&self) -> BoxFuture<'_, io::Result<(Target, Vec<u8>)>> {
        Box::pin(std::future::poll_fn(|cx| {
            let mut one = None;
            ready!(self.poll_recv(cx, 1, &mut |datagram| one = Some(datagram)))?;
            Poll::Ready(one.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()))
        }))
    }

    fn recv_many<'a>(
        &'a self,
        into: &'a mut Vec<(Target, Vec<u8>)>,
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(std::future::poll_fn(move |cx| {
            self.poll_recv(cx, MANY_DATAGRAMS, &mut |datagram| into.push(datagram))
        }))
    }
}

impl Drop for CircuitDatagrams {
    fn drop(&mut self) {
        self.circuit.end_stream(self.id);
    }
}
