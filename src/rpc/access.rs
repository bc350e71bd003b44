//! Who may ask: this computer's programs that hold the password, and no web page.
//!
//! A page in the user's browser can send requests to loopback addresses, and by a name that leads there (DNS rebinding) read the answers.
//! So `Host` must be ours, no page may have sent the request, and the session id, which only who could read an answer knows, must be in
//! a header that no page can set unasked.

use std::net::IpAddr;

use data_encoding::BASE64;

use super::http::{Head, Method, Response};

/// Where the RPC is.
pub const RPC_PATH: &str = "/transmission/rpc";
/// Where the metrics are.
pub const METRICS_PATH: &str = "/metrics";
/// The header field of the session id.
pub const SESSION_HEADER: &str = "X-Transmission-Session-Id";

/// What is asked for, by somebody who may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A call: its body follows.
    Call,
    /// The metrics.
    Metrics,
}

/// Who is let in. `Debug` hides what lets somebody in.
#[derive(Clone)]
pub struct Access {
    /// Our port.
    pub port: u16,
    /// Names that `Host` may have beside those of loopback.
    pub hosts: Vec<String>,
    /// User and password, as `user:password`; `None` where nobody is asked for them.
    pub credentials: Option<String>,
    /// The session id of this process.
    pub session: String,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

impl Access {
    /// Looks at the head of a request, before anything of its body is read.
    ///
    /// # Errors
    /// The response.
    pub fn check(&self, head: &Head) -> Result<Asked, Response> {
        let host = head.host.as_deref().unwrap_or_default();
        if !self.is_ours(host) {
            let what = "this name does not lead here: use 127.0.0.1, or start with --rpc-host NAME";
            return Err(Response::text("421 Misdirected Request", what));
        }
        if self.is_of_a_page(head) {
            let what = "web pages may not ask";
            return Err(Response::text("403 Forbidden", what));
        }
        if !self.is_known(head) {
            let what = "user and password stand in the file rpc-credentials of the state folder";
            return Err(Response::text("401 Unauthorized", what).with(
                "WWW-Authenticate",
                "Basic realm=\"hushswarm\", charset=\"UTF-8\"",
            ));
        }
        let path = head.path.trim_end_matches('/');
        match (head.method, path) {
            (Method::Get, METRICS_PATH) => Ok(Asked::Metrics),
            (Method::Get | Method::Post, RPC_PATH) => {
                let said = head.session.as_deref().unwrap_or_default();
                // A call is a POST; with anything else a program asks for the id.
                if head.method == Method::Post && equal(said, &self.session) {
                    return Ok(Asked::Call);
                }
                // Without `X-Transmission-Rpc-Version`, by which newer programs would take us to speak JSON-RPC 2.
                let text = format!("409: Conflict\n{SESSION_HEADER}: {}", self.session);
                Err(Response::text("409 Conflict", &text)
                    .with(SESSION_HEADER, self.session.clone()))
            }
            (Method::Get | Method::Post, _) => {
                Err(Response::text("404 Not Found", "there is nothing here"))
            }
            (Method::Other, _) => {
                Err(Response::text("405 Method Not Allowed", "POST it").with("Allow", "GET, POST"))
            }
        }
    }

    /// Whether `Host` names this computer, and our port where it names one.
    fn is_ours(&self, host: &str) -> bool {
        let Some((name, port)) = split_port(host) else {
            return false;
        };
        if port.is_some_and(|port| port != self.port) {
            return false;
        }
        let ip = name.trim_start_matches('[').trim_end_matches(']');
        let loopback = ip.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        loopback
            || name.eq_ignore_ascii_case("localhost")
            || self
                .hosts
                .iter()
                .any(|ours| ours.eq_ignore_ascii_case(name))
    }

    /// Whether a browser says that a page of elsewhere sent it.
    fn is_of_a_page(&self, head: &Head) -> bool {
        let site = head.fetch_site.as_deref();
        if site.is_some_and(|site| !matches!(site, "same-origin" | "none")) {
            return true;
        }
        let said = [&head.origin, &head.referer];
        said.into_iter().flatten().any(|url| !self.is_own_url(url))
    }

    /// Whether a URL is of this very server.
    fn is_own_url(&self, url: &str) -> bool {
        let Some((scheme, rest)) = url.split_once("://") else {
            return false;
        };
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let port = split_port(host).and_then(|(_, port)| port);
        let default = if scheme == "https" { 443 } else { 80 };
        // Another server on this computer is another site.
        matches!(scheme, "http" | "https")
            && !host.contains('@')
            && self.is_ours(host)
            && port.unwrap_or(default) == self.port
    }

    /// Whether the password is right.
    fn is_known(&self, head: &Head) -> bool {
        let Some(wanted) = &self.credentials else {
            return true;
        };
        let said = head.authorization.as_deref().and_then(basic);
        said.is_some_and(|said| equal_bytes(&said, wanted.as_bytes()))
    }
}

/// What stands in `Authorization: Basic` (RFC 7617).
fn basic(value: &str) -> Option<Vec<u8>> {
    let (scheme, rest) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    BASE64.decode(rest.trim().as_bytes()).ok()
}

/// A host and its port, where it names one.
fn split_port(host: &str) -> Option<(&str, Option<u16>)> {
    let end = host.rfind(']').map_or(0, |at| at + 1);
    match host.get(end..)?.split_once(':') {
        None => Some((host, None)),
        Some((_, "")) => None,
        Some((between, port)) => {
            let digits = port.bytes().all(|byte| byte.is_ascii_digit());
            let port = port.parse().ok().filter(|_| digits)?;
            Some((host.get(..end + between.len())?, Some(port)))
        }
    }
}

fn equal(said: &str, wanted: &str) -> bool {
    equal_bytes(said.as_bytes(), wanted.as_bytes())
}

/// Hashes are compared, in constant time: how long it takes says nothing of where two differ.
fn equal_bytes(said: &[u8], wanted: &[u8]) -> bool {
    blake3::hash(said) == blake3::hash(wanted)
}
