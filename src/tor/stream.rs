//! A stream through Tor. What arti gives gathers bytes until it is flushed, knows no end of one direction alone, and tells
//! the other side of an error when it is dropped; this one behaves as everybody else's streams do.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use arti_client::DataStream;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::uses::Use;
use crate::net::ByteStream;

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
    /// Tor does not rest meanwhile. Those of an onion service need none of their own: the service is one use.
    used: Option<Use>,
}

impl TorStream {
    pub(super) fn new(stream: DataStream) -> Self {
        Self {
            stream: Some(stream),
            unsent: false,
            finished: false,
            silence: None,
            reset: false,
            used: None,
        }
    }

    /// The same, counted until it is closed.
    pub(super) fn with_use(mut self, used: Use) -> Self {
        self.used = Some(used);
        self
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
        let polled = self.inner()?.poll_read(cx, buf);
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

impl std::fmt::Debug for TorStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TorStream")
    }
}
