//! A stream between a visitor and a seed, sealed from end to end (PROTOCOL.md §8.4).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use hushswarm_circuits::rendezvous::sealed::{
    MAX_DATA, Opener, RECORD_LENS, Read, Sealer, SessionKeys,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::route::{BoxStream, ByteStream};

/// Which end this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who came.
    Visitor,
    /// Who was visited.
    Seed,
}

/// A byte stream that nobody on the way can read or change. What does not open ends it at once, both ways, at both ends; so does
/// an end that the other side did not say.
pub struct Sealed {
    /// Gone once the stream has failed: dropping it resets it.
    inner: Option<BoxStream>,
    sealer: Sealer,
    opener: Opener,
    /// Records that wait to be written.
    out: Vec<u8>,
    written: usize,
    ending: Ending,
    /// Who counts it while it is open.
    _counted: Option<Counted>,
}

/// One of so many; it counts itself out.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How far our own end has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// The last record is in `out`.
    Said,
    Done,
}

impl Sealed {
    /// Seals a stream with the keys of a meeting.
    pub fn new(inner: BoxStream, keys: SessionKeys, side: Side) -> Self {
        let (to_other, from_other) = match side {
            Side::Visitor => (keys.to_seed, keys.to_visitor),
            Side::Seed => (keys.to_visitor, keys.to_seed),
        };
        Self {
            inner: Some(inner),
            sealer: Sealer::new(to_other),
            opener: Opener::new(from_other),
            out: Vec::new(),
            written: 0,
            ending: Ending::No,
            _counted: None,
        }
    }

    /// The same, which is counted as long as it is held.
    pub(super) fn counted(self, open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self {
            _counted: Some(Counted(Arc::clone(open))),
            ..self
        }
    }

    /// Ends both directions at once. The other side sees that something is missing.
    fn fail(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.reset_on_drop();
        }
        self.inner = None;
        self.out = Vec::new();
        self.written = 0;
    }

    /// Writes the records that wait.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let inner = self.inner.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
            let written = ready!(Pin::new(inner).poll_write(cx, &self.out[self.written..]));
            match written {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => self.written += n,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.out.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl ByteStream for Sealed {
    fn reset_on_drop(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.reset_on_drop();
        }
    }
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed").finish_non_exhaustive()
    }
}

fn forged() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "what came was not sealed by the other side",
    )
}

impl AsyncRead for Sealed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let this = &mut *self;
            match this.opener.read(buf.initialize_unfilled()) {
                Ok(Read::Data(n)) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Ok(Read::End | Read::Pending) => {}
                Err(_) => {
                    this.fail();
                    return Poll::Ready(Err(forged()));
                }
            }
            let Some(inner) = &mut this.inner else {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            };
            let mut space = ReadBuf::new(this.opener.space());
            let came = match ready!(Pin::new(inner).poll_read(cx, &mut space)) {
                Ok(()) => space.filled().len(),
                Err(error) => {
                    this.fail();
                    return Poll::Ready(Err(error));
                }
            };
            if came > 0 {
                this.opener.filled(came);
                continue;
            }
            if this.opener.is_ended() {
                return Poll::Ready(Ok(()));
            }
            // Cut off, by whoever carries it.
            this.fail();
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

impl AsyncWrite for Sealed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let this = &mut *self;
        if this.inner.is_none() || this.ending != Ending::No {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // One record waits at the most.
        ready!(this.poll_out(cx))?;
        let sealed = this.sealer.seal(data, &mut this.out);
        let taken = sealed.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        // What can't leave now is written by who writes, flushes or shuts down next.
        match this.poll_out(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        match &mut self.inner {
            Some(inner) => Pin::new(inner).poll_flush(cx),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.inner.is_none() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(this.poll_out(cx))?;
        if this.ending == Ending::No {
            let said = this.sealer.last(&mut this.out);
            said.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            this.ending = Ending::Said;
            ready!(this.poll_out(cx))?;
        }
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        ready!(Pin::new(inner).poll_shutdown(cx))?;
        this.ending = Ending::Done;
        Poll::Ready(Ok(()))
    }
}

const _: () = assert!(MAX_DATA < RECORD_LENS[2]);
