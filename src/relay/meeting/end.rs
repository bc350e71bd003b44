//! One end of a meeting: a stream of somebody, read and written piece by piece.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hushswarm_circuits::body::{EndReason, Payload};
use hushswarm_circuits::circuit::mux::Recv;
use hushswarm_circuits::rendezvous::Status;
use hushswarm_circuits::switch::HopCircuit;
use tokio::time::timeout;

use crate::relay::exit::Ended;
use crate::relay::node::Signals;

/// A stream that ends here.
pub(super) struct End {
    pub(super) circuit: Arc<HopCircuit>,
    pub(super) stream: u32,
    pub(super) signals: Arc<Signals>,
    /// What came behind what was read. It counts as not consumed.
    pub(super) rest: Option<Payload>,
}

impl End {
    pub(super) fn new(circuit: &Arc<HopCircuit>, stream: u32, signals: &Arc<Signals>) -> Self {
        Self {
            circuit: Arc::clone(circuit),
            stream,
            signals: Arc::clone(signals),
            rest: None,
        }
    }

    /// Reads so many bytes, and leaves what comes behind them.
    pub(super) async fn read(&mut self, len: usize, limit: Duration) -> Result<Vec<u8>, Ended> {
        let read = timeout(limit, self.read_all(len)).await;
        read.unwrap_or(Err(Ended::Reset(EndReason::TimedOut)))
    }

    async fn read_all(&mut self, len: usize) -> Result<Vec<u8>, Ended> {
        let mut bytes = Vec::with_capacity(len);
        loop {
            if let Some(mut cell) = self.rest.take() {
                let n = cell.len().min(len - bytes.len());
                bytes.extend_from_slice(&cell[..n]);
                if n < cell.len() {
                    cell.advance(n);
                    self.rest = Some(cell);
                }
                self.circuit
                    .with(|mux| mux.consumed(Instant::now(), self.stream, n));
            }
            if bytes.len() == len {
                return Ok(bytes);
            }
            match self.circuit.with(|mux| mux.recv(self.stream)) {
                Recv::Data(cell) => self.rest = Some(cell),
                Recv::Pending => self.signals.readable.notified().await,
                Recv::Finished => return Err(Ended::Reset(EndReason::Reset)),
                Recv::Ended(_) => return Err(Ended::ByOrigin),
            }
        }
    }

    /// Sends all of this.
    pub(super) async fn write(&self, mut bytes: &[u8]) -> Result<(), Ended> {
        let pool = self.circuit.link().pool().clone();
        loop {
            let (n, over) = self.circuit.with(|mux| {
                let n = mux.send_bytes(&pool, self.stream, bytes);
                (n, !mux.is_sending(self.stream))
            });
            bytes = &bytes[n..];
            if bytes.is_empty() {
                return Ok(());
            }
            if over {
                return Err(Ended::ByOrigin);
            }
            self.signals.writable.notified().await;
        }
    }

    /// Says how a request stands.
    pub(super) async fn say(&self, status: Status) -> Result<(), Ended> {
        self.write(&[status.wire()]).await
    }

    /// Says how a request ended, and ends the stream.
    pub(super) async fn conclude(self, status: Status) -> Result<(), Ended> {
        self.say(status).await?;
        self.circuit.with(|mux| mux.finish(self.stream));
        Ok(())
    }

    /// Waits until the stream is cut off.
    pub(super) async fn cut_off(&self) {
        while self.circuit.with(|mux| mux.cut_off(self.stream)).is_none() {
            self.signals.readable.notified().await;
        }
    }
}
