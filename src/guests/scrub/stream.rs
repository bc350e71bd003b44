//! A stream that is scrubbed as it is read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{ScrubError, Scrubber};
use crate::net::{BoxStream, ByteStream};
use crate::route::carry::{self, Buffers, Carried};

/// Carries what two peers say to each other, scrubbed both ways. `said` is what `near` has said already, since its beginning.
pub(in crate::guests) async fn carry(
    near: BoxStream,
    far: BoxStream,
    said: &[u8],
    buffers: &Buffers,
) -> io::Result<Carried> {
    let (up, down) = Scrubber::pair();
    let near = Scrubbed::new(near, up, said).map_err(broken)?;
    let far = Scrubbed::new(far, down, &[]).map_err(broken)?;
    carry::carry(Box::new(near), Box::new(far), Vec::new(), buffers).await
}

fn broken(error: ScrubError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What is read from it has passed a [`Scrubber`]; what is written goes as it is.
struct Scrubbed {
    stream: BoxStream,
    scrubber: Scrubber,
    /// What has passed and was not read yet: no more than was read from the stream at once, and one extension handshake.
    ready: Vec<u8>,
    /// How much of it was read.
    at: usize,
}

impl Scrubbed {
    fn new(stream: BoxStream, mut scrubber: Scrubber, said: &[u8]) -> Result<Self, ScrubError> {
        let mut ready = Vec::new();
        scrubber.scrub(said, &mut ready)?;
        Ok(Self {
            stream,
            scrubber,
            ready,
            at: 0,
        })
    }
}

impl AsyncRead for Scrubbed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let held = this.ready.get(this.at..).unwrap_or_default();
            if !held.is_empty() || buf.remaining() == 0 {
                let n = held.len().min(buf.remaining());
                buf.put_slice(&held[..n]);
                this.at += n;
                return Poll::Ready(Ok(()));
            }
            this.ready.clear();
            this.at = 0;
            // Read to where it will be read from; then what passes takes its place.
            let before = buf.filled().len();
            let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, buf) else {
                // Nothing to hold memory for while it waits.
                this.ready = Vec::new();
                return Poll::Pending;
            };
            read?;
            let raw = &buf.filled()[before..];
            if raw.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let scrubbed = this.scrubber.scrub(raw, &mut this.ready);
            buf.set_filled(before);
            scrubbed.map_err(broken)?;
        }
    }
}

impl AsyncWrite for Scrubbed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl ByteStream for Scrubbed {
    fn reset_on_drop(&mut self) {
        self.stream.reset_on_drop();
    }
}
