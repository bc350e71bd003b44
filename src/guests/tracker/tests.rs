#![allow(clippy::unwrap_used)]
use std::collections::BTreeSet;

use hushswarm_circuits::keys::RelayId;
use hushswarm_circuits::rendezvous::{IntroductionId, Point};
use proptest::prelude::*;

use super::*;
use crate::torrent::infohash::InfoHash;
use crate::torrent::metainfo::MAX_TRACKER_URL;
use crate::torrent::tracker::AnnounceResponse;

fn tracker() -> Tracker {
    let at = "127.0.0.1:6969".parse().unwrap();
    Tracker::new(at, Token::new([7; TOKEN_LEN]))
}

fn contact(key: u8, points: u8) -> Contact {
    let points = (0..points).map(|n| Point {
        relay: RelayId([n; 32]),
        introduction: IntroductionId([n; 32]),
    });
    Contact::new([key; 32], points.collect()).unwrap()
}

/// A client's announce to this URL, with more lines in its head.
fn announce(url: &str, port: u16, more: &str, lines: &str) -> Vec<u8> {
    let rest = url.strip_prefix("http://127.0.0.1:6969").unwrap();
    let (hash, id) = ("h".repeat(20), "i".repeat(20));
    format!("GET {rest}&info_hash={hash}&peer_id={id}&port={port}{more} HTTP/1.1\r\n{lines}")
        .into_bytes()
}

const HOST: &str = "Host: 127.0.0.1:6969\r\n";

fn status(answer: Result<Asked, Vec<u8>>) -> String {
    let response = String::from_utf8(answer.unwrap_err()).unwrap();
    response.lines().next().unwrap().to_owned()
}

fn body(response: &[u8]) -> &[u8] {
    let at = response.windows(4).position(|end| end == b"\r\n\r\n");
    &response[at.unwrap() + 4..]
}

#[test]
fn a_client_with_the_token_is_answered_and_no_web_page_is() {
    let tracker = tracker();
    let url = tracker.url();
    let read = |head: &[u8]| tracker.read(&[1080], head);
    for lines in [
        HOST,
        "",
        "Host: localhost\r\n",
        "Host: [::1]:6969\r\n",
        "Host: 127.0.0.1:6969\r\nUser-Agent: a\r\n",
    ] {
        let asked = read(&announce(&url, 6881, "", lines)).unwrap();
        let Asked::Announce(announce, seeds) = asked else {
            panic!("{lines}");
        };
        assert_eq!((announce.port, seeds), (6881, Vec::new()));
    }
    for lines in [
        "Host: evil.example\r\n",
        "Host: 127.0.0.1.evil.example:6969\r\n",
        "Host: 192.0.2.1\r\n",
        "Host: [::2]\r\n",
        "Host: \r\n",
        "Host: 127.0.0.1:6969\r\nOrigin: http://evil.example\r\n",
        "Host: 127.0.0.1:6969\r\norigin: null\r\n",
        "Host: 127.0.0.1:6969\r\nSec-Fetch-Site: none\r\n",
    ] {
        let refused = status(read(&announce(&url, 6881, "", lines)));
        assert_eq!(refused, "HTTP/1.1 403 Forbidden", "{lines}");
    }
    let two = announce(&url, 6881, "", "Host: localhost\r\nHost: evil.example\r\n");
    assert_eq!(status(read(&two)), "HTTP/1.1 400 Bad Request");
    for wrong in [
        url.replace("token", "key"),
        url.replace("Bw", "Bx"),
        format!("{}?", url.split_once('?').unwrap().0),
        // The first counts.
        url.replacen("?token=", "?token=x&token=", 1),
    ] {
        let refused = status(read(&announce(&wrong, 6881, "", HOST)));
        assert_eq!(refused, "HTTP/1.1 403 Forbidden", "{wrong}");
    }
    let elsewhere = announce(&url.replace("announce", "secrets"), 6881, "", HOST);
    assert_eq!(status(read(&elsewhere)), "HTTP/1.1 404 Not Found");
    assert!(!format!("{tracker:?}").contains("Bw"), "{tracker:?}");
}

#[test]
fn nobody_is_led_to_a_port_of_the_system_or_of_hushswarm() {
    let tracker = tracker();
    for port in [2, 22, 1023, 1080, 6969] {
        let refused = tracker.read(&[1080], &announce(&tracker.url(), port, "", HOST));
        let refused = refused.unwrap_err();
        assert!(body(&refused).starts_with(b"d14:failure reason"), "{port}");
    }
    // Who says that it listens nowhere is led nobody to.
    for (port, reached) in [(0, false), (1, false), (1024, true)] {
        let asked = tracker.read(&[1080], &announce(&tracker.url(), port, "", HOST));
        let Ok(Asked::Announce(announce, _)) = asked else {
            panic!("refused");
        };
        assert_eq!(is_reached(&announce), reached);
    }
}

#[test]
fn the_seeds_of_a_link_come_by_the_url_and_nothing_else_of_it_does() {
    let tracker = tracker();
    let magnet = Magnet {
        hash: InfoHash([b'h'; 20]),
        v2: None,
        name: Some("name".to_owned()),
        trackers: vec!["http://t.example/announce".to_owned()],
        peers: vec![hushswarm_circuits::target::Target::parse("192.0.2.1", 6881).unwrap()],
        seeds: (1..=6).map(|key| contact(key, 3)).collect(),
        select: None,
        web_seeds: Vec::new(),
    };
    let link = tracker.link(&magnet);
    assert_eq!((link.hash, &link.name), (magnet.hash, &magnet.name));
    assert!(link.peers.is_empty() && link.seeds.is_empty());
    assert_eq!(link.trackers.len(), 1);
    // Our own engine, for one, takes no longer URL.
    assert!(link.trackers[0].len() <= MAX_TRACKER_URL);
    assert_eq!(Magnet::parse(&link.to_string()), Ok(link.clone()));
    let asked = tracker.read(&[], &announce(&link.trackers[0], 6881, "", HOST));
    let Ok(Asked::Announce(_, seeds)) = asked else {
        panic!("refused");
    };
    assert_eq!(seeds, magnet.seeds[..MAX_SEEDS]);
    // The link's token is good for this torrent alone, and does not show another's or the main one.
    let token = |url: &str| {
        let rest = url.split_once("token=").unwrap().1;
        rest.split_once('&').unwrap_or((rest, "")).0.to_owned()
    };
    let mut other = magnet.clone();
    other.hash = InfoHash([b'o'; 20]);
    let other = tracker.link(&other).trackers.remove(0);
    let tokens = [&link.trackers[0], &other, &tracker.url()].map(|url| token(url));
    let tokens: BTreeSet<_> = tokens.into_iter().collect();
    assert_eq!(tokens.len(), 3);
    let refused = status(tracker.read(&[], &announce(&other, 6881, "", HOST)));
    assert_eq!(refused, "HTTP/1.1 403 Forbidden");
    let scrape = |url: &str, hashes: &[&str]| {
        let rest = url.strip_prefix("http://127.0.0.1:6969/announce").unwrap();
        let hashes: String = hashes
            .iter()
            .map(|hash| format!("&info_hash={}", hash.repeat(20)))
            .collect();
        let head = format!("GET /scrape{rest}{hashes} HTTP/1.1\r\n{HOST}");
        tracker.read(&[], head.as_bytes()).is_ok()
    };
    assert!(scrape(&other, &["o"]) && scrape(&tracker.url(), &["o", "h"]));
    for asked in [&["h"][..], &["o", "h"], &[]] {
        assert!(!scrape(&other, asked), "{asked:?}");
    }
    // A seed that lets in only some is nobody's here.
    let mut closed = magnet.clone();
    closed.seeds = vec![contact(1, 3), contact(2, 3).closed(true)];
    let url = tracker.link(&closed).trackers.remove(0);
    let refused = tracker.read(&[], &announce(&url, 6881, "", HOST));
    let refused = refused.unwrap_err();
    assert!(body(&refused).starts_with(b"d14:failure reason"));
    // What is no contact is passed over.
    let odd = announce(
        &format!("{}&seed=AAAA&seed=%20&seed=", tracker.url()),
        6881,
        "",
        HOST,
    );
    let asked = tracker.read(&[], &odd);
    assert!(matches!(asked, Ok(Asked::Announce(_, seeds)) if seeds.is_empty()));
}

#[test]
fn peers_are_named_as_clients_read_them() {
    let tracker = tracker();
    let read = |more| match tracker.read(&[], &announce(&tracker.url(), 6881, more, HOST)) {
        Ok(Asked::Announce(announce, _)) => announce,
        other => panic!("{other:?}"),
    };
    let peers: Vec<Ipv6Addr> = ["fd00::1", "fd00::2"].map(|ip| ip.parse().unwrap()).into();
    for more in ["", "&compact=1", "&compact=0"] {
        let response = announced(&read(more), &peers, 5);
        let said = AnnounceResponse::parse(body(&response)).unwrap();
        let found: BTreeSet<_> = said.peers.iter().map(|peer| peer.ip()).collect();
        assert_eq!(found, peers.iter().map(|ip| (*ip).into()).collect());
        assert!(said.peers.iter().all(|peer| peer.port() == PEER_PORT));
        assert_eq!((said.seeders, said.interval), (Some(5), INTERVAL));
        let is = |part: &[u8]| body(&response).windows(part.len()).any(|at| at == part);
        assert_eq!(is(b"6:peers636:"), more != "&compact=0", "18 bytes each");
    }
    let alone = announced(&read(""), &[], 0);
    let soon = format!("8:intervali{}e", SOON.as_secs()).into_bytes();
    let is = body(&alone).windows(soon.len()).any(|at| at == soon);
    assert!(is, "who knows nobody asks again soon");
}

#[test]
fn a_scrape_counts_each_torrent_once() {
    let tracker = tracker();
    let url = tracker.url().replace("announce", "scrape");
    let (a, b) = ("a".repeat(20), "b".repeat(20));
    let rest = url.strip_prefix("http://127.0.0.1:6969").unwrap();
    let head = format!("GET {rest}&info_hash={b}&info_hash={a}&info_hash={a} HTTP/1.1\r\n{HOST}");
    let Ok(Asked::Scrape(asked)) = tracker.read(&[], head.as_bytes()) else {
        panic!("refused");
    };
    assert_eq!(asked, [[b'b'; 20], [b'a'; 20], [b'a'; 20]]);
    let counted = counted(&[([b'b'; 20], 1), ([b'a'; 20], 2), ([b'a'; 20], 2)]);
    let expected = format!(
        "d5:filesd20:{a}d8:completei2e10:downloadedi0e10:incompletei0ee20:{b}d8:completei1e10:downloadedi0e10:incompletei0eeee"
    );
    assert_eq!(body(&counted), expected.as_bytes());
}

proptest! {
    #[test]
    fn hostile_requests_never_panic_and_get_no_further_than_their_token(
        head in prop::collection::vec(any::<u8>(), 0..100),
        path in "/(announce|scrape|)",
        query in "([a-z_]{1,9}=|token=|seed=|info_hash=|peer_id=|port=|&|%|[%0-9a-fA-Z_-]{3}|\\PC){0,40}",
    ) {
        let tracker = tracker();
        prop_assert!(tracker.read(&[], &head).is_err());
        let request = format!("GET {path}?{query} HTTP/1.1\r\n{HOST}");
        prop_assert!(tracker.read(&[], request.as_bytes()).is_err());
        let token = tracker.token.text();
        let request = format!("GET {path}?token={token}&{query} HTTP/1.1\r\n{HOST}");
        if let Err(response) = tracker.read(&[], request.as_bytes()) {
            prop_assert!(response.starts_with(b"HTTP/1.1 "));
        }
    }
}
