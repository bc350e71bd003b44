//! Answers of trackers, and requests to those that this program is itself.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use hushswarm::guests::tracker as guests;
use hushswarm::torrent::infohash::InfoHash;
use hushswarm::torrent::tracker::server::Tracker;
use hushswarm::torrent::tracker::udp::{Exchange, Step};
use hushswarm::torrent::tracker::{AnnounceRequest, AnnounceResponse, NO_PORT};

use super::{HASH, rng, somebody};

/// Requests to the tracker that names hidden peers to clients of this computer.
pub fn guest_tracker(input: &[u8]) {
    let at = SocketAddr::from(([127, 0, 0, 1], 6969));
    // In base64url, 22 times "A".
    let tracker = guests::Tracker::new(at, guests::Token::new([0; 16]));
    let peers = [Ipv6Addr::from(0xfd << 120 | 7)];
    for head in input.split(|byte| *byte == 0) {
        let answer = match tracker.read(&[1080], head) {
            Err(response) => response,
            Ok(guests::Asked::Announce(announce, seeds)) => {
                assert!(seeds.len() <= guests::MAX_SEEDS && announce.port != 1080);
                let response = guests::announced(&announce, &peers, seeds.len());
                let at = response.windows(4).position(|end| end == b"\r\n\r\n");
                let body = &response[at.map_or(0, |at| at + 4)..];
                let said = AnnounceResponse::parse(body).map(|said| said.peers.len());
                assert_eq!(said.ok(), Some(1));
                response
            }
            Ok(guests::Asked::Scrape(torrents)) => {
                let counts: Vec<_> = torrents.into_iter().map(|hash| (hash, 1)).collect();
                guests::counted(&counts)
            }
        };
        assert!(answer.starts_with(b"HTTP/1.1 "));
    }
}

/// Requests to our own tracker.
pub fn tracker_server(input: &[u8]) {
    let mut tracker = Tracker::new(Duration::from_secs(60));
    tracker.take_onions();
    let from = SocketAddr::from(([192, 0, 2, 7], 4000));
    for head in input.split(|byte| *byte == 0) {
        let answer = tracker.handle(Instant::now(), from, head);
        assert!(answer.starts_with(b"HTTP/1.1 "));
    }
}

/// Answers of HTTP trackers (BEP 3, 7, 23).
pub fn http_tracker(input: &[u8]) {
    if let Ok(response) = AnnounceResponse::parse(input) {
        let shown = format!("{response:?}");
        let hidden = response
            .peers
            .iter()
            .all(|peer| !shown.contains(&peer.ip().to_string()));
        assert!(hidden, "an address shows in a log");
    }
}

/// Datagrams of UDP trackers (BEP 15).
pub fn udp_tracker(input: &[u8]) {
    let tracker = somebody();
    let request = AnnounceRequest {
        hash: InfoHash(HASH),
        peer_id: [1; 20],
        event: None,
        uploaded: 0,
        downloaded: 0,
        left: 1,
        key: 1,
        numwant: 50,
        port: NO_PORT,
        onion: None,
    };
    let mut now = Instant::now();
    let mut exchange = Exchange::new(now, tracker.clone(), "/announce", request, rng());
    // Each step: length, then a datagram that is right about the transaction unless its first bit says so.
    let mut rest = input;
    while let Some((&len, after)) = rest.split_first() {
        let (body, after) = after
            .split_at_checked(usize::from(len))
            .unwrap_or((after, &[]));
        rest = after;
        let mut datagram = body.to_vec();
        let sent = exchange.datagram();
        if let (Some(place), Some(transaction)) = (datagram.get_mut(4..8), sent.get(12..16))
            && len & 1 == 0
        {
            place.copy_from_slice(transaction);
        }
        match exchange.handle_datagram(now, &tracker, &datagram) {
            Ok(Step::Send | Step::Wait) => {}
            Ok(Step::Done(_) | Step::Counted(_)) | Err(_) => return,
        }
        if datagram.is_empty() {
            now = exchange.deadline();
            if exchange.handle_timeout(now).is_err() {
                return;
            }
        }
    }
}
