//! Tracker URLs taken apart.

use hushswarm_circuits::target::Target;
use url::Url;

use super::super::metainfo::MAX_TRACKER_URL;
use super::announce::AnnounceError;
use crate::route::special::Place;

/// How a tracker is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::torrent) enum Scheme {
    Http,
    Https,
    Udp,
}

/// A tracker URL taken apart. No `Debug`: it is an address.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::torrent) struct Endpoint {
    pub(in crate::torrent) scheme: Scheme,
    pub(in crate::torrent) target: Target,
    /// Host, and port where it is not the usual one: what stands in a `Host` header.
    pub(in crate::torrent) authority: String,
    /// Path and query as they stand in the URL, unless a byte had to be escaped. Starts with `/`.
    pub(in crate::torrent) request: String,
}

impl Endpoint {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// The URL can't be announced to, now or later.
    pub(in crate::torrent) fn parse(url: &str, allow_private: bool) -> Result<Self, AnnounceError> {
        Self::parse_up_to(url, allow_private, MAX_TRACKER_URL)
    }

    fn parse_up_to(url: &str, allow_private: bool, longest: usize) -> Result<Self, AnnounceError> {
        // Programs disagree on what these mean in a URL, and where they disagree, requests are smuggled.
        let odd = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
        if url.len() > longest || url.contains(odd) {
            return Err(AnnounceError::BadUrl);
        }
        let (scheme, rest) = url.split_once("://").ok_or(AnnounceError::BadUrl)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "udp" => Scheme::Udp,
            _ => return Err(AnnounceError::UnsupportedScheme),
        };
        let (authority, request) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let web = if scheme == Scheme::Https {
            "https"
        } else {
            "http"
        };
        // As a web URL, whose rules also see through addresses written as 0x7f.1 or 2130706433.
        let parsed =
            Url::parse(&format!("{web}://{authority}/")).map_err(|_| AnnounceError::BadUrl)?;
        let plain = parsed.username().is_empty() && parsed.password().is_none();
        let (Some(host), Some(port), true) =
            (parsed.host_str(), parsed.port_or_known_default(), plain)
        else {
            return Err(AnnounceError::BadUrl);
        };
        let target = Target::parse(host, port).map_err(|_| AnnounceError::BadUrl)?;
        if port == 0 || authority.is_empty() {
            return Err(AnnounceError::BadUrl);
        }
        // An onion service is no private address: whether there is a way to it, the route knows.
        let place = Place::of(&target.host);
        if place != Place::Onion && !place.may_be_sent(allow_private) {
            return Err(AnnounceError::Private);
        }
        let authority = match parsed.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        Ok(Self {
            scheme,
            target,
            authority,
            request: escape(request),
        })
    }

    /// Whether the server proves who it is.
    pub(in crate::torrent) fn is_https(&self) -> bool {
        self.scheme == Scheme::Https
    }

    /// Where a redirect leads from a request here, if it may be followed. `longest` is that of a URL, bytes.
    ///
    /// # Errors
    /// It may not: [`AnnounceError::Private`] or [`AnnounceError::Redirect`].
    pub(in crate::torrent) fn redirected(
        &self,
        path: &str,
        location: &str,
        allow_private: bool,
        longest: usize,
    ) -> Result<Self, AnnounceError> {
        let base = Url::parse(&self.url(path)).map_err(|_| AnnounceError::Redirect)?;
        let to = base.join(location).map_err(|_| AnnounceError::Redirect)?;
        let to = Self::parse_up_to(to.as_str(), allow_private, longest).map_err(|error| {
            let private = error == AnnounceError::Private;
            if private {
                error
            } else {
                AnnounceError::Redirect
            }
        })?;
        // Whoever answers for another server, an exit too, must not be able to start Tor here, or take a torrent there.
        if Place::is_onion(&to.target) && !Place::is_onion(&self.target) {
            return Err(AnnounceError::Redirect);
        }
        match (self.scheme, to.scheme) {
            (Scheme::Http, Scheme::Http | Scheme::Https) | (Scheme::Https, Scheme::Https) => Ok(to),
            // Down to plain HTTP would show the exit what HTTPS hid from it.
            (_, Scheme::Http | Scheme::Udp) | (Scheme::Udp, Scheme::Https) => {
                Err(AnnounceError::Redirect)
            }
        }
    }

    /// The whole URL of a request here, to resolve a redirect against.
    fn url(&self, request: &str) -> String {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Udp => "udp",
        };
        format!("{scheme}://{}{request}", self.authority)
    }
}

/// Cuts off the fragment and escapes what may not stand in a request line.
fn escape(request: &str) -> String {
    let request = request.split('#').next().unwrap_or_default();
    let mut out = String::with_capacity(request.len() + 1);
    if !request.starts_with('/') {
        out.push('/');
    }
    for byte in request.bytes() {
        let keep = byte.is_ascii_alphanumeric() || b"-._~%:/?[]@!$&'()*+,;=|".contains(&byte);
        if keep {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn parse(url: &str) -> Result<Endpoint, AnnounceError> {
        Endpoint::parse(url, false)
    }

    #[test]
    fn urls_are_taken_apart_and_kept_verbatim() {
        for (url, scheme, port, authority, request) in [
            (
                "http://t.example/announce",
                Scheme::Http,
                80,
                "t.example",
                "/announce",
            ),
            ("HTTP://t.example:80", Scheme::Http, 80, "t.example", "/"),
            (
                "https://T.example?a=%2f&B=x'y#z",
                Scheme::Https,
                443,
                "t.example",
                "/?a=%2f&B=x'y",
            ),
            (
                "http://t.example:6969/a/../b?",
                Scheme::Http,
                6969,
                "t.example:6969",
                "/a/../b?",
            ),
            (
                "udp://t.example:1337/announce",
                Scheme::Udp,
                1337,
                "t.example:1337",
                "/announce",
            ),
            (
                "http://[2606:4700::1]:81/é",
                Scheme::Http,
                81,
                "[2606:4700::1]:81",
                "/%C3%A9",
            ),
        ] {
            let endpoint = parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(endpoint.scheme, scheme, "{url}");
            assert_eq!(endpoint.target.port, port, "{url}");
            assert_eq!(endpoint.authority, authority, "{url}");
            assert_eq!(endpoint.request, request, "{url}");
        }
    }

    #[test]
    fn private_places_are_refused_however_they_are_written() {
        for host in [
            "127.0.0.1",
            "2130706433",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
            "10.0.0.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[fe80::1]",
            "localhost",
            "LOCALHOST",
            "a.localhost",
            "localhost.",
            "router",
            "printer.local",
            "x.internal",
            "x.lan",
            "0",
            "１２７.0.0.1",
        ] {
            for scheme in ["http", "https", "udp"] {
                let url = format!("{scheme}://{host}:80/announce");
                assert_eq!(parse(&url).err(), Some(AnnounceError::Private), "{url}");
                // What leads nowhere even in a network of one's own: link-local and unspecified.
                let nowhere = ["[fe80::1]", "0"].contains(&host);
                assert_eq!(Endpoint::parse(&url, true).is_err(), nowhere, "{url}");
            }
        }
        assert!(parse("http://notlocalhost.example/").is_ok());
    }

    #[test]
    fn other_urls_are_refused() {
        for url in [
            "",
            "t.example",
            "http:t.example",
            "http://",
            "http:///a",
            "http://t.example:0/",
            "http://t.example:65536/",
            "http://user:pass@t.example/",
            "http://user@t.example/",
            "http://t.example\\@u.example/",
            "http://t.example/a b",
            "http://t.example/\r\nX: y",
            "http://t.ex ample/",
            "http://[::1/",
        ] {
            assert_eq!(parse(url).err(), Some(AnnounceError::BadUrl), "{url}");
        }
        for url in [
            "wss://t.example/",
            "ftp://t.example/",
            "file:///etc/passwd",
            "://",
        ] {
            assert_eq!(
                parse(url).err(),
                Some(AnnounceError::UnsupportedScheme),
                "{url}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_apart_or_refused(url in "(http|udp)://([a-z0-9.:\\[\\]@]|\\PC){0,30}[/?#]?\\PC{0,30}") {
            if let Ok(endpoint) = parse(&url) {
                prop_assert!(endpoint.request.starts_with('/'));
                prop_assert!(endpoint.request.bytes().all(|b| b.is_ascii_graphic()));
                prop_assert!(endpoint.authority.bytes().all(|b| b.is_ascii_graphic()));
            }
        }
    }
}
