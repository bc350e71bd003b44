//! What is asked of a tracker and what it answers, whatever the protocol (BEP 3, 7, 23).

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::super::gossip::OnionPeer;
use super::super::infohash::InfoHash;
use crate::bencode::Value;
use crate::redact::Redacted;
use crate::route::RouteError;

/// The port that is announced by those who can't be reached there: every peer needs one, and this one is nobody's.
/// libtorrent announces it too when it sits behind a proxy. Never a port that we listen on (L18).
pub const NO_PORT: u16 = 1;
/// Most peers taken from an answer: more than a swarm can try before the next.
pub const MAX_PEERS: usize = 500;
/// Shortest time between announces: a tracker that says less would have us draw attention.
pub const MIN_INTERVAL: Duration = Duration::from_secs(60);
/// Longest time between announces: a tracker that says more would have us forgotten.
pub const MAX_INTERVAL: Duration = Duration::from_secs(86_400);
/// Time between announces where the tracker says nothing: what most say.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(1800);
/// Longest text taken from a tracker, characters.
pub const MAX_TEXT: usize = 200;

/// Step of the byte counts that are announced (L37). Exact counts would tie a download's announces together across
/// circuits and to what an observer of the line has counted.
const GRAIN: u64 = 64 << 20;

/// A change that the announce reports. Trackers need none of them; each marks a session's begin or end (L37).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The last piece has come.
    Completed,
    /// The first announce.
    Started,
    /// The last announce.
    Stopped,
}

impl Event {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Started => "started",
            Self::Stopped => "stopped",
        }
    }

    /// The number in UDP announces (BEP 15); 0 is none.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Completed => 1,
            Self::Started => 2,
            Self::Stopped => 3,
        }
    }
}

/// One announce. Byte counts are exact here and rounded when sent, see [`AnnounceRequest::shown`].
#[derive(Clone, Copy)]
pub struct AnnounceRequest {
    /// The torrent.
    pub hash: InfoHash,
    /// The random id of this torrent and session.
    pub peer_id: [u8; 20],
    /// What has changed; best none.
    pub event: Option<Event>,
    /// Bytes given.
    pub uploaded: u64,
    /// Bytes taken.
    pub downloaded: u64,
    /// Bytes missing. Only 0 counts as a seed; any other number where the total is not known yet.
    pub left: u64,
    /// Random, fresh for each tracker and circuit (L22).
    pub key: u32,
    /// Peers wanted, at most.
    pub numwant: u16,
    /// Port to announce: [`NO_PORT`].
    pub port: u16,
    /// Where our own onion service is: told, in place of that port, to trackers that are onion services themselves, and to
    /// no other.
    pub onion: Option<OnionPeer>,
}

/// The byte counts as trackers see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Bytes given.
    pub uploaded: u64,
    /// Bytes taken.
    pub downloaded: u64,
    /// Bytes missing.
    pub left: u64,
}

impl AnnounceRequest {
    /// The byte counts as they are sent: given and taken rounded down, missing rounded up, to multiples of 64 MiB.
    /// So 0 left is a seed and nothing else is.
    pub fn shown(&self) -> Shown {
        let down = |n: u64| n - n % GRAIN;
        let left = self
            .left
            .checked_next_multiple_of(GRAIN)
            .unwrap_or_else(|| down(u64::MAX));
        Shown {
            uploaded: down(self.uploaded),
            downloaded: down(self.downloaded),
            left,
        }
    }
}

impl fmt::Debug for AnnounceRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnnounceRequest")
            .field("event", &self.event)
            .finish_non_exhaustive()
    }
}

/// Why an announce failed. No variant holds an address or what a tracker wrote, except hidden.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnnounceError {
    /// The tracker refused. Its words are for the user's screen only, they may repeat our request.
    #[error("the tracker refused the announce")]
    Failure(Redacted<String>),
    /// The answer is not one: try another tracker.
    #[error("the tracker's answer is malformed")]
    Malformed,
    /// The answer is beyond its limit: try another tracker.
    #[error("the tracker's answer is too large")]
    TooLarge,
    /// An HTTP status other than success.
    #[error("the tracker answered with HTTP status {0}")]
    Status(u16),
    /// More redirects than allowed, or one to nowhere, or from HTTPS to HTTP.
    #[error("the tracker redirects in a way that is not followed")]
    Redirect,
    /// The URL, or one it redirects to, leads to a private address, or to no host at all (L49).
    #[error("the tracker is at a private address")]
    Private,
    /// No tracker URL.
    #[error("not a tracker URL")]
    BadUrl,
    /// A URL of another kind.
    #[error("trackers of this kind are not supported (http, https and udp are)")]
    UnsupportedScheme,
    /// Its URL has no form for that (BEP 48): it can't be asked how many peers there are.
    #[error("the tracker can't be asked for counts alone")]
    NoScrape,
    /// No answer in time: try again later.
    #[error("the tracker does not answer")]
    TimedOut,
    /// The connection ended early: try again later.
    #[error("the connection to the tracker was lost")]
    Lost,
    /// The tracker could not prove who it is: never fall back to HTTP.
    #[error("the tracker's certificate is not valid")]
    Tls,
    /// No way to the tracker.
    #[error("the tracker can't be reached")]
    Route(#[from] RouteError),
}

impl AnnounceError {
    /// Whether the same URL can never work, so that asking again only costs a circuit.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::BadUrl
            | Self::UnsupportedScheme
            | Self::Private
            | Self::NoScrape
            | Self::Route(RouteError::Forbidden(_)) => true,
            Self::Failure(_)
            | Self::Malformed
            | Self::TooLarge
            | Self::Status(_)
            | Self::Redirect
            | Self::TimedOut
            | Self::Lost
            | Self::Tls
            | Self::Route(_) => false,
        }
    }
}

/// What a tracker answered.
#[derive(Clone, PartialEq, Eq)]
pub struct AnnounceResponse {
    /// Time until the next announce, [`MIN_INTERVAL`] to [`MAX_INTERVAL`].
    pub interval: Duration,
    /// Time before which nothing may have it asked again; `None`: it does not say.
    pub min_interval: Option<Duration>,
    /// Peers, each once, at most [`MAX_PEERS`], none that can't be dialled.
    pub peers: Vec<SocketAddr>,
    /// Peers that are onion services, each once, at most [`MAX_PEERS`]. Believed from trackers that are onion services alone.
    pub onions: Vec<OnionPeer>,
    /// Peers with the whole torrent, as the tracker says.
    pub seeders: Option<u32>,
    /// Peers without, as the tracker says.
    pub leechers: Option<u32>,
    /// A warning for the user's screen.
    pub warning: Option<Redacted<String>>,
}

impl fmt::Debug for AnnounceResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnnounceResponse")
            .field("interval", &self.interval)
            .field("peers", &self.peers.len())
            .field("onions", &self.onions.len())
            .finish_non_exhaustive()
    }
}

impl AnnounceResponse {
    /// Reads the body of an HTTP answer: peers compact (BEP 23, 7) or as dictionaries. What it says about our own
    /// address is ignored (L43). Bytes after the end are ignored, some trackers write a line break.
    ///
    /// # Errors
    /// The tracker refused or the answer is malformed: try another tracker.
    pub fn parse(body: &[u8]) -> Result<Self, AnnounceError> {
        let malformed = |_| AnnounceError::Malformed;
        let (value, _) = Value::parse_prefix(body).map_err(malformed)?;
        let [
            failure,
            warning,
            interval,
            min_interval,
            complete,
            incomplete,
            peers,
            peers6,
        ] = value
            .fields([
                "failure reason",
                "warning message",
                "interval",
                "min interval",
                "complete",
                "incomplete",
                "peers",
                "peers6",
            ])
            .map_err(malformed)?;
        if let Some(failure) = failure {
            let text = failure.as_bytes().unwrap_or_default();
            return Err(AnnounceError::Failure(printable(text)));
        }
        let mut found = Vec::new();
        let mut onions = Vec::new();
        if let Some(peers) = peers {
            if let Some(compact) = peers.as_bytes() {
                push_compact_v4(compact, &mut found)?;
            } else {
                let list = peers.as_list().ok_or(AnnounceError::Malformed)?;
                for peer in list.take(MAX_PEERS) {
                    match dict_peer(peer) {
                        Some(DictPeer::Address(addr)) => found.push(addr),
                        Some(DictPeer::Onion(onion)) if !onions.contains(&onion) => {
                            onions.push(onion);
                        }
                        Some(DictPeer::Onion(_)) | None => {}
                    }
                }
            }
        }
        if let Some(peers6) = peers6 {
            push_compact_v6(
                peers6.as_bytes().ok_or(AnnounceError::Malformed)?,
                &mut found,
            )?;
        }
        let seconds = |value: Option<Value<'_>>| value.and_then(Value::as_int);
        let least = seconds(min_interval);
        let interval = seconds(interval).max(least);
        let count = |value: Option<Value<'_>>| {
            value
                .and_then(Value::as_uint)
                .and_then(|n| u32::try_from(n).ok())
        };
        Ok(Self {
            interval: clamp_interval(interval),
            min_interval: least.is_some().then(|| clamp_interval(least)),
            peers: distinct(found),
            onions,
            seeders: count(complete),
            leechers: count(incomplete),
            warning: warning.and_then(Value::as_bytes).map(printable),
        })
    }
}

/// Seconds as a tracker gives them, brought within the limits; negative ones are the shortest.
pub(super) fn clamp_interval(seconds: Option<i64>) -> Duration {
    let Some(seconds) = seconds else {
        return DEFAULT_INTERVAL;
    };
    Duration::from_secs(seconds.try_into().unwrap_or(0)).clamp(MIN_INTERVAL, MAX_INTERVAL)
}

/// Text from a tracker, fit for a screen.
pub(super) fn printable(text: &[u8]) -> Redacted<String> {
    let text = String::from_utf8_lossy(text);
    let shown = |c: &char| {
        !c.is_control() && !matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    Redacted::new(text.chars().filter(shown).take(MAX_TEXT).collect())
}

/// Reads IPv4 peers: 4 bytes of address and 2 of port each.
pub(super) fn push_compact_v4(
    bytes: &[u8],
    out: &mut Vec<SocketAddr>,
) -> Result<(), AnnounceError> {
    let (records, rest) = bytes.as_chunks::<6>();
    out.extend(records.iter().take(MAX_PEERS).map(|&[a, b, c, d, p, q]| {
        SocketAddr::from((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([p, q])))
    }));
    if rest.is_empty() {
        Ok(())
    } else {
        Err(AnnounceError::Malformed)
    }
}

/// Reads IPv6 peers: 16 bytes of address and 2 of port each.
pub(super) fn push_compact_v6(
    bytes: &[u8],
    out: &mut Vec<SocketAddr>,
) -> Result<(), AnnounceError> {
    let (records, rest) = bytes.as_chunks::<18>();
    for record in records.iter().take(MAX_PEERS) {
        if let (Some(ip), Some(port)) = (record.first_chunk::<16>(), record.last_chunk::<2>()) {
            let ip = Ipv6Addr::from(*ip).to_canonical();
            out.push(SocketAddr::new(ip, u16::from_be_bytes(*port)));
        }
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(AnnounceError::Malformed)
    }
}

/// A peer of the older form.
enum DictPeer {
    Address(SocketAddr),
    Onion(OnionPeer),
}

/// Reads a peer of the older form. Host names, which BEP 3 allows, are passed over, but for those of onion services: nobody
/// sends others.
fn dict_peer(value: Value<'_>) -> Option<DictPeer> {
    let [ip, port] = value.fields(["ip", "port"]).ok()?;
    let ip = ip?.as_str()?;
    let port = u16::try_from(port?.as_uint()?).ok()?;
    if let Some(onion) = OnionPeer::parse(ip, port) {
        return Some(DictPeer::Onion(onion));
    }
    let ip: IpAddr = ip.parse().ok()?;
    let addr = SocketAddr::new(ip.to_canonical(), port);
    Some(DictPeer::Address(addr))
}

/// Drops repetitions, what nobody listens on, and what is beyond the limit.
pub(super) fn distinct(peers: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut seen = BTreeSet::new();
    let can_dial = |peer: &SocketAddr| {
        let ip = peer.ip();
        !matches!(peer.port(), 0 | NO_PORT) && !ip.is_unspecified() && !ip.is_multicast()
    };
    let peers = peers
        .into_iter()
        .filter(|peer| can_dial(peer) && seen.insert(*peer));
    peers.take(MAX_PEERS).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn compact_peers_of_both_families_read() {
        let body = b"d8:completei3e10:incompletei9e8:intervali900e12:min intervali1000e\
5:peers12:\x01\x02\x03\x04\x1a\xe1\x05\x06\x07\x08\x00\x506:peers618:\
\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x09\x1a\xe115:warning message4:hi\x1b!e";
        let answer = AnnounceResponse::parse(body).unwrap();
        assert_eq!(answer.interval, Duration::from_secs(1000));
        assert_eq!(answer.min_interval, Some(Duration::from_secs(1000)));
        let expected = ["1.2.3.4:6881", "5.6.7.8:80", "[2001:db8::9]:6881"].map(addr);
        assert_eq!(answer.peers, expected);
        assert_eq!((answer.seeders, answer.leechers), (Some(3), Some(9)));
        assert_eq!(answer.warning, Some(Redacted::new("hi!".to_owned())));
    }

    #[test]
    fn peers_as_dictionaries_read() {
        let body = b"d5:peersld2:ip7:1.2.3.47:peer id2:xx4:porti6881eed2:ip3:::94:porti5ee\
d2:ip9:peer.test4:porti5eed4:porti5eei7eee";
        let answer = AnnounceResponse::parse(body).unwrap();
        assert_eq!(answer.peers, ["1.2.3.4:6881", "[::9]:5"].map(addr));
        assert_eq!(answer.onions, []);
        assert_eq!(answer.interval, DEFAULT_INTERVAL);
    }

    #[test]
    fn onion_services_with_the_right_checksum_read() {
        let good = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";
        let wrong = good.replace("2gz", "3gz");
        let peer = |host: &str, port| format!("d2:ip{}:{host}4:porti{port}ee", host.len());
        let peers = [(good, 5), (good, 5), (&wrong, 5), (good, 0), (good, 6)];
        let peers: String = peers.map(|(host, port)| peer(host, port)).concat();
        let body = format!("d5:peersl{peers}ee");
        let answer = AnnounceResponse::parse(body.as_bytes()).unwrap();
        let expected = [5, 6].map(|port| OnionPeer::parse(good, port).unwrap());
        assert_eq!(answer.onions, expected);
        assert_eq!(answer.peers, []);
    }

    #[test]
    fn peers_that_can_not_be_dialled_or_repeat_are_dropped() {
        let peers = [
            &b"\x01\x02\x03\x04\0\0"[..], // port 0
            b"\x01\x02\x03\x04\0\x01",    // the port of those who don't listen
            b"\0\0\0\0\x1a\xe1",
            b"\xe0\0\0\x01\x1a\xe1",
            b"\x01\x02\x03\x04\x1a\xe1",
            b"\x01\x02\x03\x04\x1a\xe1",
        ]
        .concat();
        let mut body = b"d5:peers36:".to_vec();
        body.extend_from_slice(&peers);
        // The same peer once more, as an IPv4-mapped address.
        body.extend_from_slice(b"6:peers618:\0\0\0\0\0\0\0\0\0\0\xff\xff\x01\x02\x03\x04\x1a\xe1e");
        assert_eq!(
            AnnounceResponse::parse(&body).unwrap().peers,
            [addr("1.2.3.4:6881")]
        );
    }

    #[test]
    fn peers_are_bounded() {
        let records: Vec<u8> = (0..2000_u16)
            .flat_map(|n| [9, 9, (n >> 8) as u8, n as u8, 1, 1])
            .collect();
        let mut body = format!("d5:peers{}:", records.len()).into_bytes();
        body.extend_from_slice(&records);
        body.push(b'e');
        assert_eq!(
            AnnounceResponse::parse(&body).unwrap().peers.len(),
            MAX_PEERS
        );
    }

    #[test]
    fn intervals_stay_within_limits() {
        let interval = |text: &str| {
            let body = format!("d8:intervali{text}ee");
            AnnounceResponse::parse(body.as_bytes()).unwrap().interval
        };
        assert_eq!(interval("-5"), MIN_INTERVAL);
        assert_eq!(interval("-9223372036854775808"), MIN_INTERVAL);
        assert_eq!(interval("0"), MIN_INTERVAL);
        assert_eq!(interval("300"), Duration::from_secs(300));
        assert_eq!(interval("9223372036854775807"), MAX_INTERVAL);
    }

    #[test]
    fn bad_answers_are_refused() {
        for body in [
            &b""[..],
            b"<html>",
            b"le",
            b"d5:peersi5ee",
            b"d5:peers5:abcdee",
            b"d6:peers6le5:peers0:e",
            b"d6:peers65:abcdee",
            b"d8:interval",
        ] {
            assert_eq!(AnnounceResponse::parse(body), Err(AnnounceError::Malformed));
        }
    }

    #[test]
    fn a_refusal_is_shortened_printable_and_hidden_from_logs() {
        let body = format!(
            "d14:failure reason306:secret{}e",
            "\n".repeat(50) + &"x".repeat(250)
        );
        let error = AnnounceResponse::parse(body.as_bytes()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"));
        let AnnounceError::Failure(text) = error else {
            panic!("{error}")
        };
        assert_eq!(text.expose(), &format!("secret{}", "x".repeat(194)));
    }

    #[test]
    fn byte_counts_are_shown_in_coarse_steps() {
        let shown = |uploaded, downloaded, left| {
            let request = AnnounceRequest {
                hash: InfoHash([0; 20]),
                peer_id: [0; 20],
                event: None,
                uploaded,
                downloaded,
                left,
                key: 0,
                numwant: 0,
                port: NO_PORT,
                onion: None,
            };
            let Shown {
                uploaded,
                downloaded,
                left,
            } = request.shown();
            (uploaded, downloaded, left)
        };
        assert_eq!(shown(0, 0, 0), (0, 0, 0));
        assert_eq!(shown(GRAIN - 1, GRAIN, 1), (0, GRAIN, GRAIN));
        assert_eq!(
            shown(u64::MAX, 0, u64::MAX),
            (u64::MAX - GRAIN + 1, 0, u64::MAX - GRAIN + 1)
        );
    }

    proptest! {
        #[test]
        fn mutated_answers_never_panic(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        ) {
            let mut body = b"d8:completei3e8:intervali900e5:peers12:\x01\x02\x03\x04\x1a\xe1\
    \x05\x06\x07\x08\x00\x506:peers6le15:warning message3:abce".to_vec();
            for (at, byte) in edits {
                let at = at.index(body.len());
                body[at] = byte;
            }
            if let Ok(answer) = AnnounceResponse::parse(&body) {
                prop_assert!(answer.interval >= MIN_INTERVAL && answer.interval <= MAX_INTERVAL);
                prop_assert!(answer.peers.iter().all(|peer| peer.port() > 1));
            }
        }
    }
}
