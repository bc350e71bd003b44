//! Serves one file of a torrent on loopback while it comes, so that a player begins before the download ends: HTTP/1.1 with ranges
//! (RFC 9110), for programs of this computer that were told the address.
//!
//! Who has no token gets nothing: no web page in the user's browser, and no other user of this computer. Nothing in an answer lets a page
//! of another origin read it, and what a browser would run is served as bytes.

mod kind;
pub mod request;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::request::{MAX_HEAD, Part, Site, part};
use crate::net::os::LocalListener;
use crate::route::BoxStream;

/// Most requests at a time: a player has two or three. Each holds one reader of the torrent.
const MAX_REQUESTS: usize = 12;
/// Time for the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// After a connection could not be taken, the next is tried.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes moved at a time.
const BUFFER: usize = 64 << 10;

/// What is served.
pub trait Content: Send + Sync + 'static {
    /// The bytes from this one on. It may wait for them.
    fn open(
        &self,
        from: u64,
    ) -> impl Future<Output = io::Result<impl AsyncRead + Send + Unpin>> + Send;
}

/// Serves one file.
pub struct Server<C> {
    site: Site,
    /// The file's bytes.
    len: u64,
    /// Stands for the file as it is served now.
    tag: String,
    content: C,
}

impl<C: Content> Server<C> {
    /// `tag` is random text, which names this file to who asks for a part of it again.
    pub fn new(site: Site, len: u64, tag: &str, content: C) -> Arc<Self> {
        Arc::new(Self {
            site,
            len,
            tag: format!("\"{tag}\""),
            content,
        })
    }

    /// Serves until the future is dropped.
    pub async fn serve(self: Arc<Self>, listener: LocalListener) {
        let mut requests = JoinSet::new();
        loop {
            while requests.try_join_next().is_some() {}
            match listener.accept().await {
                Ok(mut accepted) if requests.len() >= MAX_REQUESTS => {
                    accepted.stream.reset_on_drop();
                }
                Ok(accepted) => {
                    requests.spawn(Arc::clone(&self).answer(accepted.stream));
                }
                Err(error) => {
                    tracing::debug!(kind = %error.kind(), "no connection accepted");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Answers one request. Who hangs up, or never reads, is dropped with it.
    async fn answer(self: Arc<Self>, mut stream: BoxStream) {
        if let Ok(Some(head)) = timeout(HEAD_TIME, read_head(&mut stream)).await {
            // A player that seeks hangs up on the rest.
            let _ = self.give(&head, &mut stream).await;
            let _ = stream.shutdown().await;
        }
    }

    async fn give(&self, head: &[u8], stream: &mut BoxStream) -> io::Result<()> {
        let asked = match self.site.read(head) {
            Ok(asked) => asked,
            Err(status) => return stream.write_all(&refusal(status, "")).await,
        };
        // A range of what was another file is none (RFC 9110 §13.1.5).
        let same = asked.if_range.is_none_or(|tag| tag == self.tag);
        let range = asked.range.filter(|_| same && asked.body);
        let wanted = match range.map_or(Part::All, |range| part(range, self.len)) {
            Part::All => 0..self.len,
            Part::Bytes(range) => range,
            Part::None => {
                let of = format!("Content-Range: bytes */{}\r\n", self.len);
                return stream
                    .write_all(&refusal("416 Range Not Satisfiable", &of))
                    .await;
            }
        };
        let is_part = wanted != (0..self.len);
        let response = self.response(&wanted, is_part || range.is_some_and(|_| self.len > 0));
        if !asked.body || wanted.is_empty() {
            return stream.write_all(response.as_bytes()).await;
        }
        let opening = self.content.open(wanted.start);
        let mut content = match while_there(stream, opening).await? {
            Ok(content) => content,
            Err(_) => {
                let refused = refusal("503 Service Unavailable", "Retry-After: 5\r\n");
                return stream.write_all(&refused).await;
            }
        };
        stream.write_all(response.as_bytes()).await?;
        copy(&mut content, stream, wanted.end - wanted.start).await
    }

    fn response(&self, bytes: &Range<u64>, partial: bool) -> String {
        let (status, of) = if partial {
            let last = bytes.end.saturating_sub(1);
            let of = format!(
                "Content-Range: bytes {}-{last}/{}\r\n",
                bytes.start, self.len
            );
            ("206 Partial Content", of)
        } else {
            ("200 OK", String::new())
        };
        let (kind, name) = (kind::of(self.site.name()), self.site.path_name());
        let (len, tag) = (bytes.end - bytes.start, &self.tag);
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\n{of}Accept-Ranges: bytes\r\nETag: {tag}\r\n\
             Content-Disposition: inline; filename*=UTF-8''{name}\r\n{GUARDS}\r\n"
        )
    }
}

/// What keeps pages of others from it, and it from others, whatever it holds.
const GUARDS: &str = "X-Content-Type-Options: nosniff\r\nCross-Origin-Resource-Policy: same-origin\r\n\
    Content-Security-Policy: default-src 'none'; media-src 'self'; img-src 'self'; sandbox\r\n\
    Referrer-Policy: no-referrer\r\nCache-Control: no-store\r\nConnection: close\r\n";

fn refusal(status: &str, more: &str) -> Vec<u8> {
    let allow = if status.starts_with("405") {
        "Allow: GET, HEAD\r\n"
    } else {
        ""
    };
    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n{more}{allow}{GUARDS}\r\n").into_bytes()
}

/// The head of a request; `None`: it is too long, or broke off.
async fn read_head(stream: &mut BoxStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    loop {
        let mut buffer = [0; 1024];
        let read = stream
            .read(&mut buffer)
            .await
            .ok()
            .filter(|&read| read > 0)?;
        head.extend_from_slice(buffer.get(..read)?);
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            head.truncate(end);
            return Some(head);
        }
        if head.len() > MAX_HEAD {
            return None;
        }
    }
}

/// Waits for this while the player is there. One that seeks hangs up, and what it wanted must not be waited for any more: its place
/// would be wanted above others, and its connection count. What else it says is passed over: there is one request to a connection.
async fn while_there<T>(stream: &mut BoxStream, work: impl Future<Output = T>) -> io::Result<T> {
    let mut work = std::pin::pin!(work);
    let mut more = [0; 256];
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            got = stream.read(&mut more) => if got? == 0 {
                return Err(io::ErrorKind::BrokenPipe.into());
            },
        }
    }
}

/// Moves so many bytes.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut BoxStream,
    mut len: u64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    while len > 0 {
        let most = usize::try_from(len).unwrap_or(BUFFER).min(BUFFER);
        let room = buffer.get_mut(..most).unwrap_or(&mut []);
        let read = while_there(to, from.read(room)).await??;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all(room.get(..read).unwrap_or(&[])).await?;
        len -= read as u64;
    }
    Ok(())
}
