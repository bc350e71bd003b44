//! Requests to an HTTP tracker as they come in (BEP 3, 7, 23, 48): bytes in, values out. For the trackers that this program is
//! itself.

use super::super::gossip::OnionPeer;

/// Longest request head, bytes: what to read at most.
pub const MAX_HEAD: usize = 8 << 10;
/// Most peers in an answer: those beyond come with the next announce.
pub const MAX_NUMWANT: usize = 100;
/// Peers in an answer where the client does not say.
const DEFAULT_NUMWANT: usize = 50;

/// The head of an HTTP request that no web page sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// The path, without the query.
    pub path: &'a str,
    /// The query string, empty where there is none.
    pub query: &'a str,
    /// What the client calls this computer (`Host`).
    pub host: Option<&'a str>,
}

impl<'a> Head<'a> {
    /// Reads a head: all up to the empty line.
    ///
    /// # Errors
    /// The status line to answer with.
    pub fn parse(head: &'a [u8]) -> Result<Self, &'static str> {
        let bad = "400 Bad Request";
        if head.len() > MAX_HEAD {
            return Err("431 Request Header Fields Too Large");
        }
        let head = std::str::from_utf8(head).map_err(|_| bad)?;
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(bad);
        };
        let mut host = None;
        for line in lines {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let name = name.trim().to_ascii_lowercase();
            // A browser says where its request comes from; no BitTorrent client does (L50).
            if name == "origin" || name.starts_with("sec-fetch-") {
                return Err("403 Forbidden");
            }
            if name == "host" {
                // Two of them are read one way here and another way elsewhere.
                if host.replace(value.trim()).is_some() {
                    return Err(bad);
                }
            }
        }
        if method != "GET" {
            return Err("405 Method Not Allowed");
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Ok(Self { path, query, host })
    }
}

impl std::fmt::Debug for Head<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[request]")
    }
}

/// An announce as it stands in a query string.
#[derive(Clone, PartialEq, Eq)]
pub struct Announce {
    /// The torrent.
    pub hash: [u8; 20],
    /// Whatever the client calls itself.
    pub peer_id: [u8; 20],
    /// Where it listens.
    pub port: u16,
    /// It has everything.
    pub is_seed: bool,
    /// It leaves the swarm.
    pub stopped: bool,
    /// Peers that it wants, at most [`MAX_NUMWANT`].
    pub numwant: usize,
    /// It takes no list but the long one (`compact=0`, BEP 23).
    pub listed: bool,
    /// It says by `ip` that it is an onion service.
    pub onion: Option<OnionPeer>,
}

impl Announce {
    /// Reads a query string.
    ///
    /// # Errors
    /// The failure reason to answer with (BEP 3).
    pub fn parse(query: &str) -> Result<Self, &'static str> {
        let (mut hash, mut peer_id, mut port, mut name) = (None, None, None, None);
        let (mut is_seed, mut stopped, mut listed) = (false, false, false);
        let mut numwant = DEFAULT_NUMWANT;
        for (key, value) in parameters(query) {
            match key {
                "info_hash" => hash = percent_decode_20(value),
                "peer_id" => peer_id = percent_decode_20(value),
                "port" => port = value.parse::<u16>().ok(),
                "ip" => name = Some(value),
                "left" => is_seed = value == "0",
                "event" => stopped = value == "stopped",
                "compact" => listed = value == "0",
                // libtorrent says -1 for "as many as you like".
                "numwant" => {
                    numwant = value
                        .parse::<usize>()
                        .map_or(DEFAULT_NUMWANT, |n| n.min(MAX_NUMWANT));
                }
                _ => {}
            }
        }
        let onion = name.and_then(|name| OnionPeer::parse(name, port?));
        Ok(Self {
            onion,
            hash: hash.ok_or("info_hash is missing or not 20 bytes")?,
            peer_id: peer_id.ok_or("peer_id is missing or not 20 bytes")?,
            port: port.ok_or("port is missing or not a port")?,
            is_seed,
            stopped,
            numwant,
            listed,
        })
    }
}

impl std::fmt::Debug for Announce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[announce]")
    }
}

/// The torrents that a scrape names (BEP 48), at most so many.
pub fn scraped(query: &str, limit: usize) -> Vec<[u8; 20]> {
    parameters(query)
        .filter(|(key, _)| *key == "info_hash")
        .filter_map(|(_, value)| percent_decode_20(value))
        .take(limit)
        .collect()
}

/// Keys and values of a query string, as they stand there.
pub fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
}

/// Reads exactly 20 bytes.
fn percent_decode_20(text: &str) -> Option<[u8; 20]> {
    let mut out = [0; 20];
    let mut bytes = text.bytes();
    for slot in &mut out {
        *slot = match bytes.next()? {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                // Both are below 16.
                (high * 16 + low) as u8
            }
            other => other,
        };
    }
    bytes.next().is_none().then_some(out)
}

/// A whole response: the connection closes after it.
pub fn response(status: &str, body: &[u8]) -> Vec<u8> {
    let mut out = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    out.extend_from_slice(body);
    out
}
