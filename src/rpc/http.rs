//! Just enough HTTP/1.1 (RFC 9110, 9112) for one request on a connection: its head, its body by `Content-Length`, a response after which
//! the connection ends. Without sockets: bytes are pushed in.

/// Longest head of a request, bytes.
pub const MAX_HEAD: usize = 16 << 10;
/// Largest body, bytes: a torrent file of the largest size in base64, and what stands around it.
pub const MAX_BODY: usize = 66 << 20;
/// Most header fields.
const MAX_HEADERS: usize = 64;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`.
    Get,
    /// `POST`.
    Post,
    /// Anything else.
    Other,
}

/// The head of a request: what we look at of it. `Debug` hides what lets somebody in.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    /// What is asked for.
    pub method: Method,
    /// The path, without a query.
    pub path: String,
    /// `Host`.
    pub host: Option<String>,
    /// `Origin`.
    pub origin: Option<String>,
    /// `Referer`.
    pub referer: Option<String>,
    /// `Sec-Fetch-Site`.
    pub fetch_site: Option<String>,
    /// `Authorization`.
    pub authorization: Option<String>,
    /// `X-Transmission-Session-Id`.
    pub session: Option<String>,
    /// `Content-Length`, bytes; 0 without one.
    pub length: usize,
    /// The client waits to be told to send its body (RFC 9110 §10.1.1).
    pub waits: bool,
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Head")
            .field("method", &self.method)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// Why a request is not read. The connection ends with the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Not HTTP/1.1, or something is said twice that may be said once.
    #[error("the request is not HTTP as it should be")]
    Malformed,
    /// More than [`MAX_HEAD`].
    #[error("the head of the request is too long")]
    HeadTooLong,
    /// More than [`MAX_BODY`].
    #[error("the body of the request is too long")]
    BodyTooLong,
    /// A body in chunks: none of the programs that we know sends one.
    #[error("the request needs a Content-Length")]
    NoLength,
}

impl BadRequest {
    /// Its response.
    pub fn response(self) -> Response {
        let status = match self {
            Self::Malformed => "400 Bad Request",
            Self::HeadTooLong => "431 Request Header Fields Too Large",
            Self::BodyTooLong => "413 Content Too Large",
            Self::NoLength => "411 Length Required",
        };
        Response::text(status, &self.to_string())
    }
}

/// Reads the head of a request. `None`: more is needed. Otherwise also how many bytes it took; the body follows them.
///
/// # Errors
/// Answer with [`BadRequest::response`], and end the connection.
pub fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, BadRequest> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let used = match request.parse(&bytes[..bytes.len().min(MAX_HEAD)]) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) if bytes.len() >= MAX_HEAD => {
            return Err(BadRequest::HeadTooLong);
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(BadRequest::HeadTooLong),
        Err(_) => return Err(BadRequest::Malformed),
    };
    let method = match request.method {
        Some("GET") => Method::Get,
        Some("POST") => Method::Post,
        Some(_) | None => Method::Other,
    };
    let target = request.path.ok_or(BadRequest::Malformed)?;
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let mut head = Head {
        method,
        path: path.to_owned(),
        host: None,
        origin: None,
        referer: None,
        fetch_site: None,
        authorization: None,
        session: None,
        length: 0,
        waits: false,
    };
    let mut length = None;
    for header in request.headers.iter() {
        let name = header.name.to_ascii_lowercase();
        let slot = match name.as_str() {
            "host" => &mut head.host,
            "origin" => &mut head.origin,
            "referer" => &mut head.referer,
            "sec-fetch-site" => &mut head.fetch_site,
            "authorization" => &mut head.authorization,
            "x-transmission-session-id" => &mut head.session,
            "content-length" => &mut length,
            "transfer-encoding" => return Err(BadRequest::NoLength),
            "expect" => {
                head.waits = header.value.eq_ignore_ascii_case(b"100-continue");
                continue;
            }
            _ => continue,
        };
        let value = std::str::from_utf8(header.value).map_err(|_| BadRequest::Malformed)?;
        // Said twice, it could mean one thing to us and another to whoever passed it on.
        if slot.replace(value.trim().to_owned()).is_some() {
            return Err(BadRequest::Malformed);
        }
    }
    if let Some(length) = length {
        let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        if !digits {
            return Err(BadRequest::Malformed);
        }
        head.length = length.parse().unwrap_or(usize::MAX);
    }
    if head.length > MAX_BODY {
        return Err(BadRequest::BodyTooLong);
    }
    Ok(Some((head, used)))
}

/// A response; the connection ends with it.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    status: &'static str,
    kind: &'static str,
    extra: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Response({})", self.status)
    }
}

impl Response {
    /// A sentence.
    pub fn text(status: &'static str, text: &str) -> Self {
        Self {
            status,
            kind: "text/plain; charset=utf-8",
            extra: Vec::new(),
            body: format!("{text}\n").into_bytes(),
        }
    }

    /// JSON.
    pub fn json(body: Vec<u8>) -> Self {
        Self {
            status: "200 OK",
            kind: "application/json; charset=UTF-8",
            extra: Vec::new(),
            body,
        }
    }

    /// Prometheus' text format, version 0.0.4.
    pub fn metrics(body: String) -> Self {
        Self {
            status: "200 OK",
            kind: "text/plain; version=0.0.4; charset=utf-8",
            extra: Vec::new(),
            body: body.into_bytes(),
        }
    }

    /// The same with one more header field.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.extra.push((name, value.into()));
        self
    }

    /// The status line's code.
    pub fn code(&self) -> &'static str {
        self.status.get(..3).unwrap_or_default()
    }

    /// What is sent. It names no program and no date, may not be kept, framed or read by another site.
    pub fn encode(&self) -> Vec<u8> {
        let Self {
            status, kind, body, ..
        } = self;
        let mut out = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nCross-Origin-Resource-Policy: same-origin\r\n",
            body.len()
        );
        for (name, value) in &self.extra {
            out.extend([name, ": ", value, "\r\n"]);
        }
        out.push_str("Connection: close\r\n\r\n");
        let mut out = out.into_bytes();
        out.extend_from_slice(body);
        out
    }
}

/// Lets a client send its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
