//! The private Tor network that benches and tests run on: it carries a page, and it goes when it should.

use crate::support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};

use support::clients::installed;
use support::process::run;
use support::tor::{Size, TorNetwork};

const PAGE: &str = "a page that came through three relays\n";

/// Serves [`PAGE`] to whoever asks.
fn page() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", PAGE.len());
            let _ = stream.write_all((head + PAGE).as_bytes());
        }
    });
    addr
}

fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rfind(')').map(|at| &stat[at + 2..]);
    state.is_some_and(|state| !state.starts_with('Z'))
}

fn all_ended(pids: &[u32]) -> bool {
    let begun = Instant::now();
    while pids.iter().any(|pid| runs(*pid)) {
        if begun.elapsed() > support::PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

fn curl(socks: SocketAddr, url: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "120"]);
    curl.args(["--retry", "5", "--retry-all-errors"]);
    curl.args(["--socks5-hostname", &socks.to_string(), url]);
    run(curl)
}

#[test]
fn a_page_comes_through_the_private_tor_network_and_through_its_onion_service() {
    if !installed("tor") || !installed("curl") {
        return;
    }
    let page = page();
    let size = Size {
        onions: vec![format!("80:{page}")],
        ..Size::default()
    };
    let mut network = TorNetwork::start(&size);
    let (socks, pids) = (network.socks(), network.pids());
    assert_eq!(pids.len(), 3 + 3 + 2 + 1 + 1);
    assert_eq!(curl(socks, &format!("http://{page}/")), PAGE);
    let onion = &network.onions()[0];
    assert_eq!(curl(socks, &format!("http://{onion}/")), PAGE);
    network.stop();
    assert!(all_ended(&pids));
}

#[test]
fn three_tors_make_a_network_and_none_outlives_a_killed_fixture() {
    if !installed("tor") || !installed("curl") {
        return;
    }
    let page = page();
    let mut network = TorNetwork::start(&Size::three_relays());
    assert_eq!(curl(network.socks(), &format!("http://{page}/")), PAGE);
    let pids = network.pids();
    assert!(pids.iter().all(|pid| runs(*pid)));
    network.process.kill();
    assert!(all_ended(&pids));
}
