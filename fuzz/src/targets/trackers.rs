//! Requests to the trackers that this program is itself.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use hushswarm::guests::tracker as guests;
use hushswarm::torrent::tracker::AnnounceResponse;
use hushswarm::torrent::tracker::server::Tracker;

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
