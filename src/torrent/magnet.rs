//! Magnet links (BEP 9, 19, 52, 53): an infohash, and hints where its swarm is.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use hushswarm_circuits::rendezvous::Contact;
use hushswarm_circuits::target::{Host, Target};

use super::infohash::{InfoHash, InfoHashV2};
use super::metainfo::{MAX_FILES, MAX_TRACKER_URL, MAX_WEB_SEEDS};

/// Longest link, bytes: what a command line or a clipboard holds without trouble.
pub const MAX_MAGNET: usize = 64 << 10;
/// Most trackers; those beyond are left out.
pub const MAX_TRACKERS: usize = 64;
/// Most peers; those beyond are left out.
pub const MAX_PEERS: usize = 64;
/// Most hidden seeds; those beyond are left out.
pub const MAX_SEEDS: usize = 16;
/// Most ranges of selected files.
pub const MAX_RANGES: usize = 1024;
/// Longest name, bytes: it is for display until the torrent's own is known.
pub const MAX_NAME: usize = 255;

/// Why a magnet link can't be used, and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MagnetError {
    /// Not a magnet link.
    #[error("not a magnet link: it must start with \"magnet:?\"")]
    NotMagnet,
    /// More than [`MAX_MAGNET`].
    #[error("the magnet link is longer than 64 KiB: remove some of its trackers")]
    TooLong,
    /// A `%` without two hexadecimal digits, or text that is not UTF-8.
    #[error("the magnet link has a broken \"%\" sequence: copy it again, in full")]
    BadEscape,
    /// No infohash.
    #[error(
        "the magnet link names no torrent: it needs \"xt=urn:btih:\" or \"xt=urn:btmh:\" and an infohash"
    )]
    NoHash,
    /// An infohash that is none.
    #[error("the infohash is not 40 hexadecimal or 32 base32 characters: copy the link again")]
    BadHash,
    /// Two infohashes.
    #[error("the magnet link names two torrents: use a link for one")]
    TwoHashes,
    /// The infohash of a version 2 torrent (BEP 52) that is none.
    #[error(
        "the infohash after \"urn:btmh:\" is not 1220 and 64 hexadecimal characters: copy the link again"
    )]
    BadHashV2,
    /// Hidden seeds that can't be read, and none that can: without them it would be looked up in public.
    #[error(
        "the hidden seed \"x.hush=\" in the link can't be read: copy the link again, in full, or use the version of hushswarm that made it"
    )]
    BadSeed,
    /// One hidden seed that lets in everybody, and only some: which of them it is decides what is shared and where it is looked for.
    #[error(
        "the link names one hidden seed both as open to all and as closed: ask whoever gave it to you for the seed's link as it is now"
    )]
    OpenAndClosed,
    /// A selection of files (BEP 53) that can't be read: downloading everything instead might surprise.
    #[error("the file selection \"so=\" is malformed: it looks like so=0,2,4-8")]
    BadSelection,
}

/// A magnet link. `Display` writes the link itself, for the user alone; `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Magnet {
    /// What stands for the torrent (`xt`): where the link names version 2 alone, its truncated hash.
    pub hash: InfoHash,
    /// The same in full, where the link names version 2: alone or too.
    pub v2: Option<InfoHashV2>,
    /// A name for display (`dn`), without control characters.
    pub name: Option<String>,
    /// Tracker URLs (`tr`).
    pub trackers: Vec<String>,
    /// Peers (`x.pe`).
    pub peers: Vec<Target>,
    /// Hidden seeds (`x.hush`, PROTOCOL.md §8.5), each key once.
    pub seeds: Vec<Contact>,
    /// Numbers of the files to download (`so`), all where absent.
    pub select: Option<Vec<RangeInclusive<u32>>>,
    /// URLs of web seeds (`ws`, BEP 19), at most [`MAX_WEB_SEEDS`]: used once the torrent's metadata is known.
    pub web_seeds: Vec<String>,
}

impl Magnet {
    /// Whether this is meant as a link, whatever it says.
    pub fn is_link(text: &str) -> bool {
        let scheme = text.get(..7);
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("magnet:"))
    }

    /// Reads a link. Hints that can't be used (trackers, peers) and unknown parameters are left out.
    ///
    /// # Errors
    /// The link can't be used: show the error, which says what to do.
    pub fn parse(link: &str) -> Result<Self, MagnetError> {
        let link = link.trim();
        if link.len() > MAX_MAGNET {
            return Err(MagnetError::TooLong);
        }
        let query = link
            .split_at_checked(8)
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("magnet:?"))
            .ok_or(MagnetError::NotMagnet)?
            .1;
        let mut hash = None;
        let mut v2 = None;
        let (mut name, mut select) = (None, None);
        let (mut trackers, mut peers) = (Vec::new(), Vec::new());
        let mut web_seeds = Vec::new();
        let (mut seeds, mut unread) = (Vec::<Contact>::new(), false);
        for parameter in query.split('&') {
            let (key, raw) = parameter.split_once('=').unwrap_or((parameter, ""));
            // Several values of one kind may be numbered: tr.1, tr.2 (and x.pe keeps its dot).
            let numbered = |kind: &str| {
                key.strip_prefix(kind)
                    .and_then(|rest| rest.strip_prefix('.'))
                    .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
            };
            if key == "xt" || numbered("xt") {
                let urn = percent_decode(raw, false)?;
                if let Some(text) = strip_prefix_ignoring_case(&urn, "urn:btmh:") {
                    let found = parse_multihash(text)?;
                    if v2.replace(found).is_some_and(|before| before != found) {
                        return Err(MagnetError::TwoHashes);
                    }
                } else if let Some(text) = strip_prefix_ignoring_case(&urn, "urn:btih:") {
                    let found = parse_hash(text)?;
                    if hash.replace(found).is_some_and(|before| before != found) {
                        return Err(MagnetError::TwoHashes);
                    }
                }
            } else if key == "dn" {
                name = Some(display_name(&percent_decode(raw, true)?)).filter(|n| !n.is_empty());
            } else if key == "tr" || numbered("tr") {
                push_url(&mut trackers, MAX_TRACKERS, percent_decode(raw, false)?);
            } else if key == "ws" || numbered("ws") {
                push_url(&mut web_seeds, MAX_WEB_SEEDS, percent_decode(raw, false)?);
            } else if key == "x.pe" {
                let peer = parse_peer(&percent_decode(raw, false)?);
                if let Some(peer) = peer
                    && peers.len() < MAX_PEERS
                    && !peers.contains(&peer)
                {
                    peers.push(peer);
                }
            } else if key == "x.hush" {
                match parse_seed(raw) {
                    None => unread = true,
                    Some(seed) => {
                        let same = seeds.iter().find(|other| other.key == seed.key);
                        if same.is_some_and(|other| other.is_closed() != seed.is_closed()) {
                            return Err(MagnetError::OpenAndClosed);
                        }
                        if seeds.len() < MAX_SEEDS
                            && !seeds.iter().any(|other| other.key == seed.key)
                        {
                            seeds.push(seed);
                        }
                    }
                }
            } else if key == "so" {
                select = Some(parse_selection(&percent_decode(raw, false)?)?);
            }
        }
        let short = v2.as_ref().map(InfoHashV2::truncated);
        let hash = hash.or(short).ok_or(MagnetError::NoHash)?;
        if unread && seeds.is_empty() {
            return Err(MagnetError::BadSeed);
        }
        Ok(Self {
            hash,
            v2,
            name,
            trackers,
            peers,
            seeds,
            select,
            web_seeds,
        })
    }
}

/// Keeps what can be a URL, each once, and no more than `most`.
fn push_url(urls: &mut Vec<String>, most: usize, url: String) {
    let fit = !url.is_empty() && url.len() <= MAX_TRACKER_URL && !url.chars().any(char::is_control);
    if fit && urls.len() < most && !urls.contains(&url) {
        urls.push(url);
    }
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (front, rest) = text.split_at_checked(prefix.len())?;
    front.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn parse_hash(text: &str) -> Result<InfoHash, MagnetError> {
    let bytes = match text.len() {
        40 => HEXLOWER_PERMISSIVE.decode(text.as_bytes()),
        32 => BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()),
        _ => return Err(MagnetError::BadHash),
    };
    let bytes = bytes.map_err(|_| MagnetError::BadHash)?;
    Ok(InfoHash(
        bytes.try_into().map_err(|_| MagnetError::BadHash)?,
    ))
}

/// Reads a multihash: SHA-256 (0x12) of 32 bytes (0x20), in hexadecimal.
fn parse_multihash(text: &str) -> Result<InfoHashV2, MagnetError> {
    let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes());
    let bytes = bytes.map_err(|_| MagnetError::BadHashV2)?;
    let hash = bytes.strip_prefix(&[0x12, 0x20]);
    let hash = hash.and_then(|hash| hash.try_into().ok());
    hash.map(InfoHashV2).ok_or(MagnetError::BadHashV2)
}

/// Reads `host:port`, with brackets around an IPv6 address.
fn parse_peer(text: &str) -> Option<Target> {
    let (host, port) = text.rsplit_once(':')?;
    if host.contains(':') && !host.starts_with('[') {
        return None;
    }
    let port = port.parse::<u16>().ok().filter(|&port| port != 0)?;
    Target::parse(host, port).ok()
}

/// Reads a contact of a hidden seed, in base64url; padding may be there.
fn parse_seed(raw: &str) -> Option<Contact> {
    let text = percent_decode(raw, false).ok()?;
    let bytes = BASE64URL_NOPAD.decode(text.trim_end_matches('=').as_bytes());
    Contact::parse(&bytes.ok()?).ok()
}

pub(super) fn parse_selection(text: &str) -> Result<Vec<RangeInclusive<u32>>, MagnetError> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = text
            .parse::<u32>()
            .ok()
            .filter(|&n| digits && (n as usize) < MAX_FILES);
        number.ok_or(MagnetError::BadSelection)
    };
    let mut out = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || out.len() == MAX_RANGES {
            return Err(MagnetError::BadSelection);
        }
        out.push(first..=last);
    }
    Ok(out)
}

/// Takes out what could move the cursor or turn the text around, and shortens.
pub(crate) fn display_name(name: &str) -> String {
    let shown = |c: &char| {
        !c.is_control() && !matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut out: String = name.chars().filter(shown).collect();
    while out.len() > MAX_NAME {
        out.pop();
    }
    out
}

pub(super) fn percent_decode(text: &str, plus_is_space: bool) -> Result<String, MagnetError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
                match (digit(), digit()) {
                    // Both are below 16.
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => return Err(MagnetError::BadEscape),
                }
            }
            b'+' if plus_is_space => b' ',
            other => other,
        });
    }
    String::from_utf8(out).map_err(|_| MagnetError::BadEscape)
}

fn percent_encode(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            write!(f, "{}", char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

impl fmt::Display for Magnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("magnet:?")?;
        let v2 = self.v2.as_ref();
        if v2.is_none_or(|v2| v2.truncated() != self.hash) {
            write!(f, "xt=urn:btih:{}", self.hash.hex())?;
            f.write_str(if v2.is_some() { "&" } else { "" })?;
        }
        if let Some(v2) = v2 {
            write!(f, "xt=urn:btmh:1220{}", v2.hex())?;
        }
        if let Some(name) = &self.name {
            f.write_str("&dn=")?;
            percent_encode(f, name)?;
        }
        for url in &self.trackers {
            f.write_str("&tr=")?;
            percent_encode(f, url)?;
        }
        for url in &self.web_seeds {
            f.write_str("&ws=")?;
            percent_encode(f, url)?;
        }
        for peer in &self.peers {
            match &peer.host {
                Host::Ip(IpAddr::V6(ip)) => write!(f, "&x.pe=[{ip}]:{}", peer.port)?,
                Host::Ip(IpAddr::V4(ip)) => write!(f, "&x.pe={ip}:{}", peer.port)?,
                Host::Name(name) => write!(f, "&x.pe={}:{}", name.as_str(), peer.port)?,
            }
        }
        for seed in &self.seeds {
            write!(f, "&x.hush={}", BASE64URL_NOPAD.encode(&seed.encode()))?;
        }
        for (at, range) in self.select.iter().flatten().enumerate() {
            f.write_str(if at == 0 { "&so=" } else { "," })?;
            write!(f, "{}", range.start())?;
            if range.start() != range.end() {
                write!(f, "-{}", range.end())?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Magnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[magnet]")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hushswarm_circuits::keys::RelayId;
    use hushswarm_circuits::rendezvous::{IntroductionId, Point};
    use proptest::prelude::*;

    const HEX: &str = "c12fe1c06bba254a9dc9f519b335aa7c1367a88a";
    const HASH: InfoHash = InfoHash([
        0xc1, 0x2f, 0xe1, 0xc0, 0x6b, 0xba, 0x25, 0x4a, 0x9d, 0xc9, 0xf5, 0x19, 0xb3, 0x35, 0xaa,
        0x7c, 0x13, 0x67, 0xa8, 0x8a,
    ]);

    fn parse(rest: &str) -> Result<Magnet, MagnetError> {
        Magnet::parse(&format!("magnet:?xt=urn:btih:{HEX}{rest}"))
    }

    #[test]
    fn a_full_link_reads() {
        let magnet = parse(
            "&dn=Two+words%20%C3%A9&tr=http%3A%2F%2Ft.test%2Fan%3Fa%3D1%2B1&tr.2=udp://u.test:80\
&x.pe=192.0.2.1:6881&x.pe=[2001:db8::1]:2&x.pe=peer.test:3&so=0,2,4-8&ws=http%3A%2F%2Fw.test%2Fa%20b&ws=http%3A%2F%2Fw.test%2Fa%20b&ws.1=https://x.test/",
        )
        .unwrap();
        assert_eq!(magnet.hash, HASH);
        assert_eq!(magnet.name.as_deref(), Some("Two words é"));
        assert_eq!(
            magnet.trackers,
            ["http://t.test/an?a=1+1", "udp://u.test:80"]
        );
        let peers = [("192.0.2.1", 6881), ("2001:db8::1", 2), ("peer.test", 3)];
        assert_eq!(
            magnet.peers,
            peers.map(|(host, port)| Target::parse(host, port).unwrap())
        );
        assert_eq!(magnet.select, Some(vec![0..=0, 2..=2, 4..=8]));
        assert_eq!(magnet.web_seeds, ["http://w.test/a b", "https://x.test/"]);
    }

    #[test]
    fn hashes_are_read_in_hexadecimal_and_base32_of_any_case() {
        for text in [
            HEX,
            &HEX.to_uppercase(),
            "YEX6DQDLXISUVHOJ6UM3GNNKPQJWPKEK",
            "yex6dqdlxisuvhoj6um3gnnkpqjwpkek",
        ] {
            let magnet = Magnet::parse(&format!(" MAGNET:?dn=a&xt=URN:btih:{text}\n"));
            assert_eq!(magnet.unwrap().hash, HASH, "{text}");
        }
    }

    #[test]
    fn links_that_can_not_be_used_say_why() {
        let v2 = format!("xt=urn:btmh:1220{}", "ab".repeat(32));
        for (link, error) in [
            ("http://a/", MagnetError::NotMagnet),
            ("magnet:", MagnetError::NotMagnet),
            ("é", MagnetError::NotMagnet),
            ("magnet:?", MagnetError::NoHash),
            (
                "magnet:?xt=urn:sha1:YNCKHTQCWBTRNJIV4WNAE52SJUQCZO5C",
                MagnetError::NoHash,
            ),
            ("magnet:?xt=urn:btih:abc", MagnetError::BadHash),
            (
                &format!("magnet:?xt=urn:btih:{}", "g".repeat(40)),
                MagnetError::BadHash,
            ),
            (
                &format!("magnet:?xt=urn:btih:{}", "é".repeat(20)),
                MagnetError::BadHash,
            ),
            (
                &format!("magnet:?xt=urn:btih:{}", "1".repeat(32)),
                MagnetError::BadHash,
            ),
            ("magnet:?xt=urn:btmh:1220abab", MagnetError::BadHashV2),
            (
                &format!("magnet:?xt=urn:btmh:1120{}", "ab".repeat(32)),
                MagnetError::BadHashV2,
            ),
            (
                &format!("magnet:?{v2}&xt=urn:btmh:1220{}", "ac".repeat(32)),
                MagnetError::TwoHashes,
            ),
            (
                &format!("magnet:?xt=urn:btih:{}{}", HEX, "&".repeat(MAX_MAGNET)),
                MagnetError::TooLong,
            ),
        ] {
            assert_eq!(Magnet::parse(link), Err(error));
        }
        let hybrid = parse(&format!("&{v2}")).unwrap();
        assert_eq!(
            (hybrid.hash, hybrid.v2),
            (HASH, Some(InfoHashV2([0xab; 32])))
        );
        let alone = Magnet::parse(&format!("magnet:?{v2}")).unwrap();
        assert_eq!((alone.hash, alone.v2), (InfoHash([0xab; 20]), hybrid.v2));
        assert_eq!(
            parse(&format!("&xt=urn:btih:{}", "0".repeat(40))),
            Err(MagnetError::TwoHashes)
        );
        assert!(parse(&format!("&xt=urn:btih:{HEX}")).is_ok());
        for bad in ["&dn=%", "&dn=%4", "&dn=%zz", "&dn=%FF", "&tr=%+1"] {
            assert_eq!(parse(bad), Err(MagnetError::BadEscape), "{bad}");
        }
        for bad in [
            "",
            ",",
            "1-",
            "-1",
            "2-1",
            "1-2-3",
            "x",
            "+1",
            "200000",
            "4294967296",
        ] {
            assert_eq!(
                parse(&format!("&so={bad}")),
                Err(MagnetError::BadSelection),
                "{bad}"
            );
        }
        assert_eq!(
            parse(&format!("&so=1{}", ",1".repeat(1024))),
            Err(MagnetError::BadSelection)
        );
    }

    #[test]
    fn hints_that_can_not_be_used_are_left_out_and_the_rest_is_bounded() {
        let bad =
            "&x.pe=&x.pe=a&x.pe=a:0&x.pe=a:65536&x.pe=2001:db8::1:5&x.pe=a%20b:1&tr=&tr=a%0Ab";
        let magnet = parse(bad).unwrap();
        assert!(magnet.peers.is_empty() && magnet.trackers.is_empty());
        let many: String = (1..500)
            .map(|n| format!("&tr=http://{n}/&x.pe=a:{n}&tr=http://1/"))
            .collect();
        let magnet = parse(&many).unwrap();
        assert_eq!(
            (magnet.peers.len(), magnet.trackers.len()),
            (MAX_PEERS, MAX_TRACKERS)
        );
    }

    #[test]
    fn a_name_can_not_play_with_the_terminal() {
        let magnet = parse("&dn=a%1b%5b2J%0Ab%E2%80%AEc").unwrap();
        assert_eq!(magnet.name.as_deref(), Some("a[2Jbc"));
        let long = parse(&format!("&dn={}", "%C3%A9".repeat(200)))
            .unwrap()
            .name
            .unwrap();
        assert_eq!(long.len(), 254);
    }

    #[test]
    fn debug_output_and_errors_show_nothing() {
        let shown = format!("{:?}", parse("&dn=secret&tr=http://secret/"));
        assert_eq!(shown, "Ok([magnet])");
    }

    fn seed(key: [u8; 32]) -> Contact {
        let point = Point {
            relay: RelayId(key),
            introduction: IntroductionId(key),
        };
        Contact::new(key, vec![point]).unwrap()
    }

    #[test]
    fn hidden_seeds_are_read_once_each_and_what_is_none_is_left_out() {
        let text = |key| BASE64URL_NOPAD.encode(&seed([key; 32]).encode());
        let [one, two] = [text(1), text(2)];
        let link =
            format!("&x.hush={one}&x.hush={two}==&x.hush={one}&x.hush=&x.hush=AA&x.hush={one}A");
        let magnet = parse(&link).unwrap();
        assert_eq!(magnet.seeds, [seed([1; 32]), seed([2; 32])]);
        // Whose only hidden seed is lost is not taken for a public torrent.
        for lost in ["", "AA", &one[..one.len() - 2], &format!("{one}A")] {
            let parsed = parse(&format!("&x.hush={lost}&tr=http%3A%2F%2Ft.test%2F"));
            assert_eq!(parsed, Err(MagnetError::BadSeed), "{lost}");
        }
        // What is both open and closed is neither.
        let closed = BASE64URL_NOPAD.encode(&seed([1; 32]).closed(true).encode());
        for both in [[&one, &closed], [&closed, &one]] {
            let parsed = parse(&format!(
                "&x.hush={}&x.hush={two}&x.hush={}",
                both[0], both[1]
            ));
            assert_eq!(parsed, Err(MagnetError::OpenAndClosed));
        }
        assert!(parse(&format!("&x.hush={closed}&x.hush={two}&x.hush={closed}")).is_ok());
        let many: String = (0..100)
            .map(|key| format!("&x.hush={}", text(key)))
            .collect();
        assert_eq!(parse(&many).unwrap().seeds.len(), MAX_SEEDS);
    }

    fn hosts() -> impl Strategy<Value = Target> {
        let host = prop_oneof![
            any::<[u8; 4]>().prop_map(|ip| IpAddr::from(ip).to_string()),
            any::<[u8; 16]>().prop_map(|ip| IpAddr::from(ip).to_string()),
            "[a-z]{1,9}\\.test",
        ];
        (host, 1..=u16::MAX).prop_map(|(host, port)| Target::parse(&host, port).unwrap())
    }

    proptest! {
        #[test]
        fn a_written_link_reads_back(
            hash: [u8; 20],
            v2: Option<[u8; 32]>,
            alone: bool,
            name in prop::option::of("[^\\p{C}\\u{2028}\\u{2029}]{1,20}"),
            trackers in prop::collection::hash_set("http://[a-z]{1,5}/\\?[ -~]{1,9}", 0..4),
            peers in prop::collection::hash_set(hosts(), 0..4),
            keys in prop::collection::btree_set(any::<[u8; 32]>(), 0..4),
            select in prop::option::of(prop::collection::vec((0_u32..99, 0_u32..99), 1..4)),
            web in prop::collection::hash_set("https?://[a-z]{1,5}/[ -~]{1,9}", 0..4),
        ) {
            let select = select.map(|ranges| ranges.iter().map(|&(a, b)| a.min(b)..=a.max(b)).collect());
            let v2 = v2.map(InfoHashV2);
            let short = v2.as_ref().filter(|_| alone).map(InfoHashV2::truncated);
            let magnet = Magnet {
                hash: short.unwrap_or(InfoHash(hash)),
                v2,
                name,
                trackers: trackers.into_iter().collect(),
                peers: peers.into_iter().collect(),
                seeds: keys.into_iter().map(seed).collect(),
                select,
                web_seeds: web.into_iter().collect(),
            };
            prop_assert_eq!(Magnet::parse(&magnet.to_string()).unwrap(), magnet);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(magnet:\\?)?([a-z.&=%0-9:,+-]|\\PC){0,80}") {
            let _ = Magnet::parse(&text);
            let _ = parse(&text);
        }
    }
}
