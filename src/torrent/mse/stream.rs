//! The asking side's handshake, and the sealed stream of both.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rand::{Rng, RngExt};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::keys::{Cipher, Exchange};
use super::{KEY_LEN, MAX_PAD, RC4, ZEROS};
use crate::route::{BoxStream, ByteStream};
use crate::torrent::infohash::InfoHash;

/// Sealed at a time, bytes: a few blocks.
const MAX_SEALED: usize = 64 << 10;

/// Most first bytes that go with the handshake: their length has two bytes.
const MAX_FIRST: usize = 16 << 10;

/// Exchanges keys with a peer of this torrent. What is written first goes with the rest of the handshake, so that it costs one round trip more
/// than none; whether the peer knows the torrent shows when something comes back. The stream must take a key and its pad, 608 bytes, without waiting for
/// a reader.
///
/// # Errors
/// The peer hung up, or what it said is no key: it may not know this encryption.
pub async fn initiate(
    mut stream: BoxStream,
    torrent: InfoHash,
    rng: &mut (impl Rng + Send),
) -> io::Result<MseStream> {
    let exchange = Exchange::new(rng);
    let mut said = exchange.public.to_vec();
    said.extend(pad(rng));
    stream.write_all(&said).await?;
    stream.flush().await?;
    let mut theirs = [0; KEY_LEN];
    stream.read_exact(&mut theirs).await?;
    let shared = exchange.agree(&theirs).ok_or(io::ErrorKind::InvalidData)?;
    let (send, mut receive) = shared.ciphers(torrent);
    let mut marker = ZEROS;
    receive.apply(&mut marker);
    Ok(MseStream {
        stream,
        send,
        receive,
        opening: Some(Opening {
            marker,
            request: [shared.mark(), shared.veiled(torrent)].concat(),
            pad: pad(rng).len(),
            heard: Vec::new(),
            found: false,
            asked: false,
        }),
        ahead: Vec::new(),
        taken: 0,
        out: Vec::new(),
        written: 0,
    })
}

/// A pad of random length.
pub(super) fn pad(rng: &mut impl Rng) -> Vec<u8> {
    let mut pad = vec![0; rng.random_range(0..=MAX_PAD)];
    rng.fill(&mut pad[..]);
    pad
}

/// A stream of which those who carry it can't read anything.
pub struct MseStream {
    stream: BoxStream,
    send: Cipher,
    receive: Cipher,
    /// Until the answer to our request came.
    opening: Option<Opening>,
    /// Opened and not yet read.
    ahead: Vec<u8>,
    taken: usize,
    /// Sealed and not yet written.
    out: Vec<u8>,
    written: usize,
}

/// What the asking side waits for.
struct Opening {
    /// How the answer begins, sealed.
    marker: [u8; 8],
    /// How our request begins.
    request: Vec<u8>,
    /// Length of our pad.
    pad: usize,
    /// Before the marker as it came, after it opened.
    heard: Vec<u8>,
    found: bool,
    asked: bool,
}

impl Opening {
    /// The request, with the stream's first bytes.
    fn ask(&mut self, send: &mut Cipher, first: &[u8]) -> Vec<u8> {
        self.asked = true;
        let mut request = std::mem::take(&mut self.request);
        let sealed = request.len();
        request.extend(ZEROS);
        request.extend(RC4.to_be_bytes());
        request.extend(u16::try_from(self.pad).unwrap_or(0).to_be_bytes());
        request.resize(request.len() + self.pad, 0);
        request.extend(u16::try_from(first.len()).unwrap_or(0).to_be_bytes());
        request.extend(first);
        send.apply(&mut request[sealed..]);
        request
    }

    /// Takes more of the answer; once it is whole, what follows it, opened.
    fn hear(&mut self, receive: &mut Cipher, bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
        // The choice, and the length of the pad.
        const HEAD: usize = 6;
        let before = self.heard.len();
        self.heard.extend(bytes);
        if self.found {
            receive.apply(&mut self.heard[before..]);
        } else {
            let window = &self.heard[..self.heard.len().min(MAX_PAD + ZEROS.len())];
            let Some(at) = window.windows(ZEROS.len()).position(|w| w == self.marker) else {
                let full = window.len() == MAX_PAD + ZEROS.len();
                return if full { Err(refused()) } else { Ok(None) };
            };
            self.heard.drain(..at + ZEROS.len());
            receive.apply(&mut self.heard);
            self.found = true;
        }
        let [c0, c1, c2, c3, p0, p1, ..] = self.heard[..] else {
            return Ok(None);
        };
        let pad = usize::from(u16::from_be_bytes([p0, p1]));
        if u32::from_be_bytes([c0, c1, c2, c3]) != RC4 || pad > MAX_PAD {
            return Err(refused());
        }
        if self.heard.len() < HEAD + pad {
            return Ok(None);
        }
        Ok(Some(self.heard.split_off(HEAD + pad)))
    }
}

fn refused() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the peer does not answer this encryption",
    )
}

impl MseStream {
    /// The answering side's, once the request was answered; `said` follows the request and is opened already.
    pub(super) fn answered(
        stream: BoxStream,
        send: Cipher,
        receive: Cipher,
        said: Vec<u8>,
    ) -> Self {
        Self {
            stream,
            send,
            receive,
            opening: None,
            ahead: said,
            taken: 0,
            out: Vec::new(),
            written: 0,
        }
    }

    /// Writes what is sealed.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let rest = &self.out[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.written += len,
            }
        }
        self.out.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for MseStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.taken < this.ahead.len() {
                let rest = &this.ahead[this.taken..];
                let len = rest.len().min(buf.remaining());
                buf.put_slice(&rest[..len]);
                this.taken += len;
                return Poll::Ready(Ok(()));
            }
            this.ahead = Vec::new();
            this.taken = 0;
            let Some(opening) = &mut this.opening else {
                let before = buf.filled().len();
                ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
                this.receive.apply(&mut buf.filled_mut()[before..]);
                return Poll::Ready(Ok(()));
            };
            let mut bytes = [0; 1024];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if let Some(ahead) = opening.hear(&mut this.receive, read.filled())? {
                this.ahead = ahead;
                this.opening = None;
            }
        }
    }
}

impl AsyncWrite for MseStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_drain(cx))?;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let len = match &mut this.opening {
            Some(opening) if !opening.asked => {
                let first = &bytes[..bytes.len().min(MAX_FIRST)];
                this.out = opening.ask(&mut this.send, first);
                first.len()
            }
            _ => {
                let next = &bytes[..bytes.len().min(MAX_SEALED)];
                this.out.extend_from_slice(next);
                this.send.apply(&mut this.out);
                next.len()
            }
        };
        // They are taken, whether or not they can be written yet: a flush or the next write goes on.
        match this.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(len)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl ByteStream for MseStream {
    fn reset_on_drop(&mut self) {
        self.stream.reset_on_drop();
    }
}

impl std::fmt::Debug for MseStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MseStream")
    }
}
