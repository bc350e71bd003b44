//! What web seeds answer, and what trackers say of how many peers there are.

use std::time::Duration;

use hushswarm::torrent::infohash::InfoHash;
use hushswarm::torrent::tracker::Scraped;
use hushswarm::torrent::webseed::WebError;
use hushswarm::torrent::webseed::head::{ContentRange, Head, MAX_WAIT, MAX_WHOLE, Verdict};
use hushswarm::torrent::webseed::place::Fetch;

use super::{HASH, first};

/// The head of a web seed's answer, and a range (RFC 9110): two bytes of status, then fields, one a line.
pub fn web_head(input: &[u8]) {
    let _ = ContentRange::parse(input);
    let (high, rest) = first(input);
    let (low, rest) = first(rest);
    let fields = rest.split(|byte| *byte == b'\n').filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b':')?;
        let name = std::str::from_utf8(&line[..at]).ok()?;
        Some((name, &line[at + 1..]))
    });
    let fetch = Fetch {
        path: "/".to_owned(),
        file: Some(0),
        first: 16384,
        len: 65536,
        whole: if high & 0x80 == 0 { 1 << 19 } else { 1 << 40 },
    };
    let status = u16::from_be_bytes([high & 0x7f, low]);
    match Head::read(status, fields).judge(&fetch) {
        Ok(Verdict::Take { skip, len }) => {
            assert!(len >= 1 && len <= fetch.len && skip <= MAX_WHOLE);
            assert!(skip == 0 || skip == fetch.first);
            assert!(matches!(status, 200 | 206));
        }
        Ok(Verdict::Redirect(_)) => assert!((300..400).contains(&status)),
        Err(WebError::Busy(wait)) => assert!(wait <= Some(MAX_WAIT) && wait != Some(Duration::MAX)),
        Err(_) => {}
    }
}

/// Counts of a tracker (BEP 48): a body, or after an odd byte the payload of a datagram (BEP 15).
pub fn scrape(input: &[u8]) {
    let (kind, rest) = first(input);
    if kind & 1 == 1 {
        assert_eq!(Scraped::parse_datagram(rest).is_ok(), rest.len() >= 12);
    } else {
        let _ = Scraped::parse(rest, InfoHash(HASH));
    }
}
