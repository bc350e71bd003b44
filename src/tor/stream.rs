//! A stream through Tor. What arti gives gathers bytes until it is flushed, knows no end of one direction alone, and tells
//! the other side of an error when it is dropped; this one behaves as everybody else's streams do.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arti_client::{DataReader, DataStream, DataWriter};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, Sleep};
use tor_cell::relaycell::msg::EndReason;

use super::uses::Use;
use crate::net::{ByteStream, Transport};

/// How long the other side may be silent after our side has said its last. It does not know that we did, so what it would close on our
/// end (an idle keep-alive connection) it would hold for ever.
const LAST_WORDS: Duration = Duration::from_secs(30);
/// How long a stream that is dropped may take to tell the other side that it ended.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A stream through Tor.
pub struct TorStream {
    /// `None` only after the drop has begun.
    stream: Option<DataStream>,
    /// Bytes were written that may still lie here.
    unsent: bool,
    /// Our side has said its last: Tor has no half-closed streams, so the end is told when the other side is through too.
    finished: bool,
    /// From then on, when the other side's silence counts as its end.
    silence: Option<Pin<Box<Sleep>>>,
    reset: bool,
    /// The other side has ended it.
    ended: bool,
    /// Tor does not rest meanwhile. Those of an onion service need none of their own: the service is one use.
    used: Option<Use>,
    /// Whose it is, where it came to an onion service: shared with the visitor's other streams.
    visitor: Option<Arc<()>>,
}

impl TorStream {
    pub(super) fn new(stream: DataStream) -> Self {
        Self {
            stream: Some(stream),
            unsent: false,
            finished: false,
            silence: None,
            reset: false,
            ended: false,
            used: None,
            visitor: None,
        }
    }

    /// The same, of a visitor that has its place for as long as one of its streams is open.
    pub(super) fn of_visitor(mut self, visitor: Arc<()>) -> Self {
        self.visitor = Some(visitor);
        self
    }

    /// The same, counted until it is closed.
    pub(super) fn with_use(mut self, used: Use) -> Self {
        self.used = Some(used);
        self
    }

    /// The stream for a link: two halves that know nothing of each other, so that two tasks can use them. The end of one
    /// direction is the end of both, which suits a link, and the writer flushes when it has nothing more to say.
    pub(crate) fn into_transport(mut self) -> io::Result<Transport> {
        let (used, visitor) = (self.used.take(), self.visitor.take());
        let stream = self.stream.take().ok_or(io::ErrorKind::NotConnected)?;
        let (reader, writer) = stream.split();
        Ok(Transport {
            reader: Box::new(Reader {
                reader,
                _used: used,
                _visitor: visitor,
            }),
            writer: Box::new(Writer(writer)),
        })
    }

    fn inner(&mut self) -> io::Result<Pin<&mut DataStream>> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Ok(Pin::new(stream))
    }

    /// Moves gathered bytes on as far as that goes without waiting.
    fn push(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.unsent
            && let Poll::Ready(sent) = self.inner()?.poll_flush(cx)
        {
            self.unsent = false;
            sent?;
        }
        Ok(())
    }
}

impl AsyncRead for TorStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.push(cx)?;
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let mut polled = self.inner()?.poll_read(cx, buf);
        if let Poll::Ready(Err(error)) = &polled
            && is_artis_end(error)
        {
            self.ended = true;
            polled = Poll::Ready(Ok(()));
        }
        if !self.finished {
            return polled;
        }
        let silence = self
            .silence
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(LAST_WORDS)));
        if polled.is_ready() {
            silence.as_mut().reset(Instant::now() + LAST_WORDS);
            return polled;
        }
        // Nothing read is the end.
        silence.as_mut().poll(cx).map(Ok)
    }
}

/// Whether this is how a service or visitor that is arti (ours too) ends a stream: it gives no reason, where Debian's tor says
/// DONE (tor-spec, "Closing streams"). Tor itself takes either for the end; whether all bytes came is for those who speak.
fn is_artis_end(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(error, Some(tor_proto::Error::EndReceived(EndReason::MISC)))
}

impl AsyncWrite for TorStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let polled = self.inner()?.poll_write(cx, buf);
        if let Poll::Ready(Ok(_)) = polled {
            self.unsent = true;
            self.push(cx)?;
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.inner()?.poll_flush(cx);
        if polled.is_ready() {
            self.unsent = false;
        }
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished = true;
        let silence = self
            .silence
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(LAST_WORDS)));
        // So that whoever reads is woken for it, though they read before this.
        let _ = silence.as_mut().poll(cx);
        self.poll_flush(cx)
    }
}

impl ByteStream for TorStream {
    fn reset_on_drop(&mut self) {
        self.reset = true;
    }
}

impl Drop for TorStream {
    fn drop(&mut self) {
        let Some(mut stream) = self.stream.take() else {
            return;
        };
        if self.reset {
            return;
        }
        let used = self.used.take();
        // Without a runtime the program is ending, and the other side is told by that.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, stream.shutdown()).await;
                drop(used);
            });
        }
    }
}

/// The reading half of a link's stream. arti gives a cell of Tor at a time, an eighth of a frame: this takes all that are there.
struct Reader {
    reader: DataReader,
    /// Tor does not rest while there is the link.
    _used: Option<Use>,
    _visitor: Option<Arc<()>>,
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let begin = buf.filled().len();
        loop {
            let before = buf.filled().len();
            match Pin::new(&mut self.reader).poll_read(cx, buf) {
                Poll::Ready(Ok(())) if buf.filled().len() > before && buf.remaining() > 0 => {}
                // What was read is told first; that it ended or failed, when more is asked for.
                Poll::Ready(_) | Poll::Pending if before > begin => return Poll::Ready(Ok(())),
                nothing @ (Poll::Ready(_) | Poll::Pending) => return nothing,
            }
        }
    }
}

/// The writing half of a link's stream. It fills Tor's cells across the borders of frames: only the last one before a flush
/// is not full.
struct Writer(DataWriter);

impl AsyncWrite for Writer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut written = 0;
        for buf in bufs {
            let mut left: &[u8] = buf;
            while !left.is_empty() {
                match Pin::new(&mut self.0).poll_write(cx, left) {
                    Poll::Ready(Ok(n)) if n > 0 => {
                        written += n;
                        left = left.get(n..).unwrap_or_default();
                    }
                    // What was taken is told first; an error comes again when the rest is offered.
                    Poll::Ready(_) | Poll::Pending if written > 0 => {
                        return Poll::Ready(Ok(written));
                    }
                    nothing @ (Poll::Ready(_) | Poll::Pending) => return nothing,
                }
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl std::fmt::Debug for TorStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TorStream")
    }
}
