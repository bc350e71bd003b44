//! Asks one web seed of one torrent, over one connection at a time that is kept while it is used.
//!
//! Every request of this program looks the same: one order of headers, nothing of ours, no cookie, no referrer (L27).

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::Target;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{ACCEPT_ENCODING, CONNECTION, HOST, RANGE, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::WebError;
use super::head::{Head, MAX_LOCATION, Verdict};
use super::place::Fetch;
use crate::route::Outside;
use crate::torrent::tracker::http::{AGENT, MAX_HEAD, secure};
use crate::torrent::tracker::{Endpoint, Scheme, TrackerClient};

/// Most redirects followed for one request.
pub(super) const MAX_REDIRECTS: usize = 5;

/// Time until the head of an answer is there, with the connection before it: that of a circuit, of TLS and of a slow server.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(60);

/// At least [`SLOW_BYTES`] come in each such time of waiting: who drips keeps others from giving what was asked of it.
const SLOW_TIME: Duration = Duration::from_secs(60);

/// Bytes: what the slowest circuit brings in that time.
const SLOW_BYTES: u64 = 64 << 10;

/// Asks a web seed.
pub struct WebClient {
    outside: Arc<dyn Outside>,
    isolation: Isolation,
    tls: TlsConnector,
    allow_private: bool,
    base: Endpoint,
    open: Option<Open>,
    /// Where the last request was led, by its path: asked first there the next time.
    moved: Option<(String, Endpoint)>,
}

impl std::fmt::Debug for WebClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebClient").finish_non_exhaustive()
    }
}

/// A connection that is kept.
struct Open {
    scheme: Scheme,
    target: Target,
    sender: SendRequest<Empty<Bytes>>,
    task: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a web seed gives: the bytes that were wanted, or the first of them.
pub struct Body {
    incoming: Incoming,
    skip: u64,
    left: u64,
}

/// How long one waits for a web seed that hardly gives anything: over all its answers, since it may make each as short as it likes.
#[derive(Debug, Default)]
pub struct Patience {
    waited: Duration,
    came: u64,
}

impl Patience {
    /// Counts time spent waiting, and bytes that came in it.
    ///
    /// # Errors
    /// It hardly moves: ask another.
    pub fn spend(&mut self, waited: Duration, came: usize) -> Result<(), WebError> {
        self.waited += waited;
        self.came += came as u64;
        if self.waited >= SLOW_TIME {
            if self.came < SLOW_BYTES {
                return Err(WebError::TimedOut);
            }
            *self = Self::default();
        }
        Ok(())
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl Body {
    /// The next bytes; `None` when all are there.
    ///
    /// # Errors
    /// It ended early, or hardly moves: ask another.
    pub async fn next(&mut self, patience: &mut Patience) -> Result<Option<Bytes>, WebError> {
        while self.left > 0 {
            let begun = Instant::now();
            let rest = SLOW_TIME.saturating_sub(patience.waited);
            let frame = timeout(rest, self.incoming.frame()).await;
            let data = match frame {
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                Ok(Some(Err(_)) | None) => return Err(WebError::Lost),
                Err(_) => Bytes::new(),
            };
            patience.spend(begun.elapsed(), data.len())?;
            let data = self.wanted(data);
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    fn wanted(&mut self, mut data: Bytes) -> Bytes {
        let skip = self.skip.min(data.len() as u64);
        self.skip -= skip;
        // Both are at most the length of the data, which fits.
        drop(data.split_to(skip as usize));
        data.truncate(self.left.min(data.len() as u64) as usize);
        self.left -= data.len() as u64;
        data
    }
}

impl WebClient {
    /// A client of the web seed at `url`, which trusts whom the tracker's trusts. `isolation` is the torrent's and this seed's: nobody
    /// else may be asked on the same circuit (L24, L48).
    ///
    /// # Errors
    /// The URL can't be asked, now or later.
    pub fn new(
        outside: Arc<dyn Outside>,
        isolation: Isolation,
        trust: &TrackerClient,
        url: &str,
    ) -> Result<Self, WebError> {
        let allow_private = trust.allows_private();
        let base = Endpoint::parse(url, allow_private)?;
        if base.scheme == Scheme::Udp {
            return Err(WebError::BadUrl);
        }
        Ok(Self {
            outside,
            isolation,
            tls: trust.tls(),
            allow_private,
            base,
            open: None,
            moved: None,
        })
    }

    /// Path and query of its URL: what [`super::place::Places`] starts from.
    pub fn base(&self) -> &str {
        &self.base.request
    }

    /// Ends the connection, where one is kept.
    pub fn rest(&mut self) {
        self.open = None;
    }

    /// Asks for a part of a file or piece.
    ///
    /// # Errors
    /// It does not give it; the error says what that means for the seed. The connection is closed.
    pub async fn get(&mut self, fetch: &Fetch) -> Result<Body, WebError> {
        let first = Endpoint {
            request: fetch.path.clone(),
            ..self.base.clone()
        };
        let moved = self.moved.take().filter(|(path, _)| *path == fetch.path);
        if let Some((_, to)) = moved
            && let Ok(Ok(body)) = timeout(HEAD_TIME, self.follow(&first, to, fetch)).await
        {
            return Ok(body);
        }
        // Or it leads elsewhere by now.
        let asking = self.follow(&first, first.clone(), fetch);
        let result = timeout(HEAD_TIME, asking).await;
        let result = result.unwrap_or(Err(WebError::TimedOut));
        if result.is_err() {
            self.open = None;
        }
        result
    }

    async fn follow(
        &mut self,
        first: &Endpoint,
        mut to: Endpoint,
        fetch: &Fetch,
    ) -> Result<Body, WebError> {
        for _ in 0..=MAX_REDIRECTS {
            let response = self.ask(&to, fetch).await?;
            let (parts, incoming) = response.into_parts();
            let fields = parts.headers.iter();
            let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
            match Head::read(parts.status.as_u16(), fields).judge(fetch)? {
                Verdict::Take { skip, len } => {
                    if to != *first {
                        self.moved = Some((fetch.path.clone(), to));
                    }
                    return Ok(Body {
                        incoming,
                        skip,
                        left: len,
                    });
                }
                Verdict::Redirect(location) => {
                    to = to.redirected(&to.request, &location, self.allow_private, MAX_LOCATION)?;
                }
            }
        }
        Err(WebError::Redirect)
    }

    /// One request and the head of its answer. A server may end a connection that waits at any time, so a kept one is tried once.
    async fn ask(&mut self, to: &Endpoint, fetch: &Fetch) -> Result<Response<Incoming>, WebError> {
        if let Some(mut kept) = self.open.take().filter(|kept| kept.leads_to(to))
            && kept.sender.ready().await.is_ok()
            && let Ok(response) = kept.sender.send_request(request(to, fetch)?).await
        {
            self.open = Some(kept);
            return Ok(response);
        }
        let mut open = self.connect(to).await?;
        let response = open.sender.send_request(request(to, fetch)?).await;
        self.open = Some(open);
        response.map_err(|error| classify(&error))
    }

    async fn connect(&self, to: &Endpoint) -> Result<Open, WebError> {
        let stream = self.outside.connect(&to.target, self.isolation).await?;
        let (sender, task) = match to.scheme {
            Scheme::Http => converse(stream).await?,
            Scheme::Https => converse(secure(&self.tls, to, stream).await?).await?,
            Scheme::Udp => return Err(WebError::BadUrl),
        };
        Ok(Open {
            scheme: to.scheme,
            target: to.target.clone(),
            sender,
            task,
        })
    }
}

impl Open {
    fn leads_to(&self, to: &Endpoint) -> bool {
        self.scheme == to.scheme && self.target == to.target
    }
}

/// Speaks HTTP on a stream, by a task that ends with it.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<(SendRequest<Empty<Bytes>>, AbortHandle), WebError> {
    let (sender, connection) = hyper::client::conn::http1::Builder::new()
        .title_case_headers(true)
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| classify(&error))?;
    let task = tokio::spawn(async move {
        // What goes wrong, the request says too.
        let _ = connection.await;
    });
    Ok((sender, task.abort_handle()))
}

fn request(to: &Endpoint, fetch: &Fetch) -> Result<Request<Empty<Bytes>>, WebError> {
    // hyper keeps the order in which headers are added.
    let mut request = Request::get(&to.request)
        .header(HOST, &to.authority)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT_ENCODING, "identity")
        .header(CONNECTION, "keep-alive");
    if fetch.file.is_some() {
        let last = fetch.first.saturating_add(fetch.len.saturating_sub(1));
        request = request.header(RANGE, format!("bytes={}-{last}", fetch.first));
    }
    request.body(Empty::new()).map_err(|_| WebError::BadUrl)
}

fn classify(error: &hyper::Error) -> WebError {
    if error.is_parse() {
        WebError::Malformed
    } else {
        WebError::Lost
    }
}
