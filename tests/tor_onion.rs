//! Onion services through hushswarm's proxy, on a private Tor network of Debian's `tor`: curl and ncat reach a service that
//! Debian's `tor` runs.
#![cfg(feature = "tor")]
#![allow(clippy::unwrap_used, clippy::disallowed_types)]

mod support;

#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/relays.rs"]
mod world;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::thread;

use proxy::Proxy;
use support::clients::installed;
use support::tor::{Size, TorNetwork};
use world::{Recipe, World};

/// Bytes of the file that the service has: enough for Tor's windows to matter.
const SIZE: usize = 3 << 20;

/// What the service's file holds.
fn content() -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..SIZE).map(|_| next()).collect()
}

/// Reads a line and an end, then answers with what it read and its file, and ends.
fn service() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\n\r\n") && stream.read(&mut byte).unwrap_or(0) > 0 {
                    head.push(byte[0]);
                }
                let answer = format!("HTTP/1.0 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes());
                let _ = stream.write_all(&content());
            });
        }
    });
    addr
}

/// One network for every test here: it takes half a minute to come up.
struct Onions {
    network: TorNetwork,
    onion: String,
    proxy: Proxy,
}

fn onions() -> Option<Onions> {
    if !installed("tor") || !installed("curl") || !installed("ncat") {
        return None;
    }
    let size = Size {
        onions: vec![format!("80:{}", service())],
        ..Size::default()
    };
    let network = TorNetwork::start(&size);
    let onion = network.onions()[0].clone();
    let file = network.tor_file();
    let world = World::start(&Recipe::new(3));
    let proxy = Proxy::start(&world, &["--tor", file.to_str().unwrap()]);
    Some(Onions {
        network,
        onion,
        proxy,
    })
}

impl Onions {
    fn curl(&self, args: &[&str], url: &str) -> Output {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "120"]);
        curl.args(args).arg(url).output().unwrap()
    }

    fn socks(&self, user: &str) -> String {
        format!("socks5h://{user}:x@{}", self.proxy.addr())
    }
}

#[test]
fn an_onion_service_is_reached_and_nothing_but_tor_is_asked_for_it() {
    let Some(mut onions) = onions() else {
        return;
    };
    let log = onions.proxy.log();
    assert!(!log.contains("Tor"), "asked for nothing, yet: {log}");

    let url = format!("http://{}/file", onions.onion);
    let got = onions.curl(&["--proxy", &onions.socks("a")], &url);
    assert!(got.status.success(), "{got:?}\n{}", onions.proxy.log());
    assert!(got.stdout == content(), "{} bytes", got.stdout.len());

    // By HTTP CONNECT too, and for another user.
    let http = format!("http://{}", onions.proxy.addr());
    let got = onions.curl(&["--proxy", &http, "--proxytunnel"], &url);
    assert!(got.stdout == content(), "{} bytes", got.stdout.len());

    // What ends its own side first still gets the answer.
    let mut ncat = Command::new("ncat");
    let proxy = onions.proxy.addr().to_string();
    ncat.args([
        "--proxy-type",
        "socks5",
        "--proxy-dns",
        "remote",
        "--proxy",
        &proxy,
    ]);
    ncat.args([&onions.onion, "80"]);
    let mut ncat = ncat
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    ncat.stdin
        .take()
        .unwrap()
        .write_all(b"anything\n\r\n")
        .unwrap();
    let answer = ncat.wait_with_output().unwrap().stdout;
    assert!(answer.ends_with(&content()), "{} bytes", answer.len());

    // A service that does not exist: SOCKS5's "host unreachable", which curl reports so.
    let nobody = "a".repeat(55) + "d.onion";
    let got = onions.curl(
        &["--proxy", &onions.socks("a")],
        &format!("http://{nobody}/"),
    );
    assert_eq!(got.status.code(), Some(97), "{got:?}");

    // Nothing of it stands in the log.
    let log = onions.proxy.log();
    assert!(log.contains("Tor is ready"), "{log}");
    assert!(!log.contains(&onions.onion[..20]), "{log}");

    // Without Tor, nothing is reached by any other way.
    onions.network.stop();
    let got = onions.curl(&["--proxy", &onions.socks("b")], &url);
    assert!(!got.status.success(), "{got:?}");
}
