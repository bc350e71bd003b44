//! What HTTP clients of a proxy say: CONNECT (RFC 9110 §9.3.6), and requests for `http://` pages in absolute form
//! (RFC 9112 §3.2.2), which are rewritten for the server and carry one request per connection.
//!
//! Everything else is refused, above all what a web page can make a browser send to this port: such a request is in
//! origin form, and nothing of it is ever repeated in an answer.

use data_encoding::BASE64;
use hushswarm_circuits::target::Target;

use super::request::Credentials;
use crate::route::RouteError;

/// Longest request line and header fields together, bytes: twice what web servers commonly take.
pub const MAX_HEAD: usize = 16 * 1024;
/// Most header fields of a request.
const MAX_FIELDS: usize = 100;
/// Port of `http://` where none is named.
const HTTP_PORT: u16 = 80;

/// A request head that a proxy serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// What is asked for.
    pub wish: Wish,
    /// Who asks, where the client says so.
    pub user: Option<Credentials>,
}

/// What an HTTP client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A tunnel.
    Connect(Target),
    /// One request, to be sent on.
    Forward(Forward),
}

/// A request as it is sent on.
#[derive(Clone, PartialEq, Eq)]
pub struct Forward {
    /// The server.
    pub target: Target,
    /// Request line and header fields for the server.
    pub head: Vec<u8>,
    /// Bytes of content that follow; what comes behind them is another request, and is not sent on.
    pub content: u64,
}

impl std::fmt::Debug for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[request]")
    }
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadHead {
    /// Not HTTP/1, or not well formed.
    #[error("not a request that this proxy understands")]
    Malformed,
    /// A request as to a web server: a person who is curious, or a web page that is too curious.
    #[error("this is a proxy, and not a web server")]
    NotForProxy,
    /// A host that can't be one.
    #[error("no such host can be")]
    Target,
    /// Not `http://`.
    #[error("only http:// is sent on; ask with CONNECT for everything else")]
    Scheme,
    /// Content of unknown length.
    #[error("content must come with its length")]
    LengthRequired,
    /// A head above [`MAX_HEAD`].
    #[error("the request is too long")]
    TooLarge,
}

/// Whether a head is complete: its end is in `bytes`, at or after `from`.
pub fn is_complete(bytes: &[u8], from: usize) -> bool {
    let tail = bytes.get(from.saturating_sub(2)..).unwrap_or_default();
    // A line may end without CR (RFC 9112 §2.2).
    tail.windows(3).any(|end| end == b"\n\r\n") || tail.windows(2).any(|end| end == b"\n\n")
}

/// Reads a request head; gives it and its length, or `None` while bytes are missing.
///
/// # Errors
/// What to answer; then close.
pub fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, BadHead> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let used = match request.parse(bytes) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(BadHead::TooLarge);
        }
        Err(_) => return Err(BadHead::Malformed),
    };
    let (Some(method), Some(uri), Some(version)) = (request.method, request.path, request.version)
    else {
        return Err(BadHead::Malformed);
    };
    let user = user(request.headers);
    let wish = if method == "CONNECT" {
        Wish::Connect(authority(uri, None)?)
    } else {
        Wish::Forward(forward(method, uri, version, request.headers)?)
    };
    Ok(Some((Head { wish, user }, used)))
}

/// `HOST:PORT`; without a port only where there is a default.
fn authority(text: &str, default: Option<u16>) -> Result<Target, BadHead> {
    let bracket = text.rfind(']').unwrap_or(0);
    let (host, port) = match text.get(bracket..).and_then(|rest| rest.rfind(':')) {
        Some(colon) => {
            let (host, port) = text.split_at(bracket + colon);
            let port = port.get(1..).unwrap_or_default();
            if port.is_empty() {
                (host, default)
            } else if port.bytes().all(|digit| digit.is_ascii_digit()) {
                (host, port.parse().ok())
            } else {
                (host, None)
            }
        }
        None => (text, default),
    };
    // RFC 3986 §3.2.2: an IPv6 address stands in brackets.
    if host.contains(':') && !host.starts_with('[') {
        return Err(BadHead::Target);
    }
    Target::parse(host, port.ok_or(BadHead::Target)?).map_err(|_| BadHead::Target)
}

/// Who asks: `Proxy-Authorization: Basic` (RFC 7617). One that can't be read counts as none.
fn user(fields: &[httparse::Header<'_>]) -> Option<Credentials> {
    let field = fields
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case("proxy-authorization"))?;
    let (scheme, encoded) = field.value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = BASE64.decode(encoded.trim_ascii()).ok()?;
    let colon = decoded.iter().position(|&byte| byte == b':')?;
    let (user, password) = decoded.split_at(colon);
    Some(Credentials::new(user, &password[1..]))
}

/// Fields for the next machine only, which a proxy must not pass on (RFC 9110 §7.6.1), and `Host`, which it must
/// replace (RFC 9112 §3.2.2).
const NOT_PASSED_ON: [&str; 6] = [
    "connection",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
];
/// What all fields that are meant for a proxy begin with. One that nobody knows may hold a password as well.
const FOR_PROXIES: &str = "proxy-";

fn is_for_proxies(name: &str) -> bool {
    let start = name.get(..FOR_PROXIES.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(FOR_PROXIES))
}

fn forward(
    method: &str,
    uri: &str,
    version: u8,
    fields: &[httparse::Header<'_>],
) -> Result<Forward, BadHead> {
    if uri.starts_with('/') || uri == "*" {
        return Err(BadHead::NotForProxy);
    }
    let (scheme, rest) = uri.split_once("://").ok_or(BadHead::NotForProxy)?;
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(BadHead::Scheme);
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    // A name or password before an "@" would have to be hidden from the server, and clients send it in a field.
    let target = authority(host, Some(HTTP_PORT))?;
    let path = path.split('#').next().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let content = content_length(fields)?;
    let named: Vec<&[u8]> = fields
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("connection"))
        .flat_map(|field| field.value.split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .collect();
    let mut head =
        format!("{method} {slash}{path} HTTP/1.{version}\r\nHost: {host}\r\n").into_bytes();
    for field in fields {
        let dropped = is_for_proxies(field.name)
            || NOT_PASSED_ON
                .iter()
                .any(|name| field.name.eq_ignore_ascii_case(name));
        let own = named
            .iter()
            .any(|name| field.name.as_bytes().eq_ignore_ascii_case(name));
        // The length was read already: no client can have it taken off.
        if dropped || (own && !field.name.eq_ignore_ascii_case("content-length")) {
            continue;
        }
        head.extend_from_slice(field.name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(field.value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    Ok(Forward {
        target,
        head,
        content,
    })
}

/// How much content follows. It has to be known: what comes behind it belongs to another request, perhaps to another
/// server.
fn content_length(fields: &[httparse::Header<'_>]) -> Result<u64, BadHead> {
    let all = |name: &'static str| {
        fields
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
    };
    if all("transfer-encoding").next().is_some() {
        return Err(BadHead::LengthRequired);
    }
    let mut lengths = all("content-length");
    let Some(length) = lengths.next() else {
        return Ok(0);
    };
    let digits = std::str::from_utf8(length.value).map_err(|_| BadHead::Malformed)?;
    let plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    if !plain || lengths.next().is_some() {
        return Err(BadHead::Malformed);
    }
    digits.parse().map_err(|_| BadHead::Malformed)
}

/// What a tunnel's client is told when there is one.
pub const CONNECTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Asks for a user name and a password.
pub fn password_wanted() -> Vec<u8> {
    answer(
        "407 Proxy Authentication Required",
        "Proxy-Authenticate: Basic realm=\"hushswarm\"\r\n",
        "This proxy wants a user name and a password; with curl: --proxy-user NAME:PASSWORD",
    )
}

/// Says that there is no room for one more.
pub fn busy() -> Vec<u8> {
    answer(
        "503 Service Unavailable",
        "Retry-After: 5\r\n",
        "The proxy has as many connections as it takes. Close some, or try again in a moment.",
    )
}

/// Says why a request is not served.
pub fn bad_head(bad: BadHead) -> Vec<u8> {
    let (status, text) = match bad {
        BadHead::Malformed => (
            "400 Bad Request",
            "This is no request that the proxy understands.",
        ),
        BadHead::NotForProxy => (
            "400 Bad Request",
            "This is a proxy, and not a web server: enter its address as the proxy of a program, \
             for example: curl --proxy socks5h://127.0.0.1:1080 URL",
        ),
        BadHead::Target => (
            "400 Bad Request",
            "That is no host that could be reached, or a port is missing.",
        ),
        BadHead::Scheme => (
            "501 Not Implemented",
            "Only http:// is sent on. Programs ask with CONNECT for everything else.",
        ),
        BadHead::LengthRequired => (
            "411 Length Required",
            "Content has to come with Content-Length; or use the proxy by SOCKS, which carries everything.",
        ),
        BadHead::TooLarge => (
            "431 Request Header Fields Too Large",
            "The request is too long.",
        ),
    };
    answer(status, "", text)
}

/// Says why a target was not reached.
pub fn not_reached(error: &RouteError) -> Vec<u8> {
    let (status, text) = match error {
        RouteError::Forbidden(reason) => {
            let hint = reason.hint().unwrap_or("nothing was sent");
            return answer(
                "403 Forbidden",
                "",
                &format!("Refused by the routing policy: {reason}; {hint}."),
            );
        }
        RouteError::Refused => (
            "403 Forbidden",
            "No exit lets this target out, or the one that was asked refused it.",
        ),
        RouteError::NoCircuit(_) => (
            "503 Service Unavailable",
            "There is no circuit now, and nothing is sent any other way. \
             Look at what hushswarm says, or run: hushswarm doctor",
        ),
        RouteError::NameNotFound => (
            "502 Bad Gateway",
            "There is no host of this name, as seen from the exit.",
        ),
        RouteError::ConnectionRefused => (
            "502 Bad Gateway",
            "The host refused the connection: nothing listens at this port.",
        ),
        RouteError::Unreachable => ("502 Bad Gateway", "The exit can't reach this host."),
        RouteError::Busy => (
            "503 Service Unavailable",
            "The exits have too much to do. Try again later.",
        ),
        RouteError::TimedOut => ("504 Gateway Timeout", "No answer in time. Try again later."),
        RouteError::CircuitLost => (
            "502 Bad Gateway",
            "The circuit broke. Try again: another one will be used.",
        ),
    };
    answer(status, "", text)
}

fn answer(status: &str, field: &str, text: &str) -> Vec<u8> {
    let length = text.len() + 1;
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n{field}Connection: close\r\n\r\n{text}\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::route::policy::Reason;

    fn parsed(text: &str) -> Result<Head, BadHead> {
        let (head, used) = parse(text.as_bytes())?.unwrap();
        assert_eq!(used, text.len());
        Ok(head)
    }

    fn forwarded(text: &str) -> Result<Forward, BadHead> {
        match parsed(text)?.wish {
            Wish::Forward(forward) => Ok(forward),
            Wish::Connect(_) => panic!("not a tunnel"),
        }
    }

    #[test]
    fn tunnels_are_asked_for_by_host_and_port() {
        for (text, host, port) in [
            ("tracker.org:443", "tracker.org", 443),
            ("203.0.113.7:1", "203.0.113.7", 1),
            ("[2001:db8::1]:65535", "2001:db8::1", 65535),
        ] {
            let head = parsed(&format!("CONNECT {text} HTTP/1.1\r\nHost: x\r\n\r\n")).unwrap();
            assert_eq!(head.wish, Wish::Connect(Target::parse(host, port).unwrap()));
            assert_eq!(head.user, None);
        }
        for bad in [
            "tracker.org",
            "tracker.org:",
            "tracker.org:+80",
            "tracker.org:65536",
            ":80",
            "[::1",
            "[::1]",
            "::1:80",
            "a@b:80",
            "/",
            "http://a:80/",
        ] {
            let text = format!("CONNECT {bad} HTTP/1.1\r\n\r\n");
            assert_eq!(parsed(&text), Err(BadHead::Target), "{bad}");
        }
    }

    #[test]
    fn who_asks_is_read() {
        let ask = |value: &str| {
            parsed(&format!(
                "CONNECT a:1 HTTP/1.1\r\nProxy-Authorization: {value}\r\n\r\n"
            ))
            .unwrap()
            .user
        };
        let alice = Some(Credentials::new(*b"alice", *b"se:cret"));
        assert_eq!(ask("Basic YWxpY2U6c2U6Y3JldA=="), alice);
        assert_eq!(ask("basic  YWxpY2U6c2U6Y3JldA=="), alice);
        for none in [
            "Basic",
            "Basic ",
            "Basic !!!!",
            "Basic YWxpY2U=",
            "Bearer YTpi",
        ] {
            assert_eq!(ask(none), None, "{none}");
        }
    }

    #[test]
    fn a_request_is_rewritten_for_its_server_and_nothing_of_the_proxy_goes_with_it() {
        let forward = forwarded(
            "POST http://Tracker.org:6969/announce?a=b#c HTTP/1.1\r\nhost: other\r\nProxy-Authorization: Basic YTpi\r\n\
             Proxy-Connection: keep-alive\r\nproxy-authorizatio: x\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\nUpgrade: h2c\r\nKeep-Alive: 5\r\n\
             User-Agent: x\r\nContent-Length: 12\r\n\r\n",
        )
        .unwrap();
        assert_eq!(forward.target, Target::parse("Tracker.org", 6969).unwrap());
        assert_eq!(forward.content, 12);
        assert_eq!(
            String::from_utf8(forward.head).unwrap(),
            "POST /announce?a=b HTTP/1.1\r\nHost: Tracker.org:6969\r\nUser-Agent: x\r\nContent-Length: 12\r\nConnection: close\r\n\r\n"
        );
        let short = forwarded("GET HTTP://[::1]?q HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!(short.target, Target::parse("::1", 80).unwrap());
        assert_eq!(
            String::from_utf8(short.head).unwrap(),
            "GET /?q HTTP/1.0\r\nHost: [::1]\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn content_of_unknown_length_is_refused() {
        let ask = |fields: &str| {
            forwarded(&format!("POST http://a/ HTTP/1.1\r\n{fields}\r\n"))
                .map(|forward| forward.content)
        };
        assert_eq!(ask(""), Ok(0));
        assert_eq!(ask("Content-Length: 5\r\n"), Ok(5));
        let chunked = "Transfer-Encoding: chunked\r\n";
        assert_eq!(ask(chunked), Err(BadHead::LengthRequired));
        let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
        assert_eq!(ask(both), Err(BadHead::LengthRequired));
        for bad in ["+5", "5, 5", "-1", "", "0x5", "99999999999999999999"] {
            let fields = format!("Content-Length: {bad}\r\n");
            assert_eq!(ask(&fields), Err(BadHead::Malformed), "{bad}");
        }
        let twice = "Content-Length: 5\r\nContent-Length: 5\r\n";
        assert_eq!(ask(twice), Err(BadHead::Malformed));
        // A length that a Connection field names stays.
        let named = forwarded(
            "POST http://a/ HTTP/1.1\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\n",
        )
        .unwrap();
        assert!(
            String::from_utf8(named.head)
                .unwrap()
                .contains("Content-Length: 5")
        );
    }

    #[test]
    fn what_a_web_page_can_send_is_refused_and_not_repeated() {
        for line in ["GET / ", "POST /evil?secret ", "OPTIONS * ", "GET secret "] {
            let text =
                format!("{line}HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil\r\n\r\n");
            let bad = parsed(&text).unwrap_err();
            assert_eq!(bad, BadHead::NotForProxy, "{line}");
            let said = String::from_utf8(bad_head(bad)).unwrap();
            assert!(said.starts_with("HTTP/1.1 400 "));
            assert!(!said.contains("evil") && !said.contains("secret") && !said.contains("Allow"));
        }
        let other = "GET https://a/ HTTP/1.1\r\n\r\n";
        assert_eq!(parsed(other), Err(BadHead::Scheme));
        let other = "GET http://user:password@a/ HTTP/1.1\r\n\r\n";
        assert_eq!(parsed(other), Err(BadHead::Target));
        assert_eq!(
            parsed("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            Err(BadHead::Malformed)
        );
    }

    #[test]
    fn a_head_that_is_too_long_is_given_up() {
        let mut text = b"GET http://a/ HTTP/1.1\r\nX: ".to_vec();
        text.resize(MAX_HEAD - 1, b'x');
        assert_eq!(parse(&text), Ok(None));
        text.push(b'x');
        assert_eq!(parse(&text), Err(BadHead::TooLarge));
        let many = "A: b\r\n".repeat(MAX_FIELDS + 1);
        let text = format!("GET http://a/ HTTP/1.1\r\n{many}\r\n");
        assert_eq!(parsed(&text), Err(BadHead::TooLarge));
    }

    #[test]
    fn answers_say_their_length() {
        for error in [RouteError::Refused, RouteError::NoCircuit("secret".into())] {
            let text = String::from_utf8(not_reached(&error)).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
            assert!(!text.contains("secret"));
        }
        let private =
            String::from_utf8(not_reached(&RouteError::Forbidden(Reason::PrivateAddress))).unwrap();
        assert!(private.starts_with("HTTP/1.1 403 ") && private.contains("--allow-private"));
        let wanted = String::from_utf8(password_wanted()).unwrap();
        assert!(wanted.contains("\r\nProxy-Authenticate: Basic realm="));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn a_rewritten_head_is_one_well_formed_request(
            method in "[A-Z]{1,8}", host in "[a-z.]{1,20}", path in "[!-~]{0,40}",
            fields in prop::collection::vec(("[A-Za-z-]{1,12}", "[ -~]{0,20}"), 0..6),
        ) {
            let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let text = format!("{method} http://{host}/{path} HTTP/1.1\r\n{fields}\r\n");
            if let Ok(Some((Head { wish: Wish::Forward(forward), .. }, _))) = parse(text.as_bytes()) {
                let mut headers = [httparse::EMPTY_HEADER; MAX_FIELDS + 2];
                let mut request = httparse::Request::new(&mut headers);
                let used = request.parse(&forward.head).unwrap().unwrap();
                prop_assert_eq!(used, forward.head.len());
                prop_assert!(request.path.unwrap().starts_with('/'));
                let named = |name: &str| request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count();
                prop_assert_eq!(named("host"), 1);
                prop_assert_eq!(named("connection"), 1);
                prop_assert!(request.headers.iter().all(|field| !field.name.to_ascii_lowercase().starts_with("proxy-auth")));
            }
        }

        #[test]
        fn the_end_of_a_head_is_seen_wherever_the_cut_is(cut in 0usize..40) {
            let text = b"GET http://a/ HTTP/1.1\r\nA: b\r\n\r\n";
            let cut = cut.min(text.len());
            let seen = is_complete(&text[..cut], 0) || is_complete(text, cut);
            prop_assert!(seen);
        }
    }
}
