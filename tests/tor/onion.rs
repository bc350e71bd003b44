//! Tor through hushswarm's proxy, on a private network of Debian's `tor`: curl and ncat reach an onion service that Debian's
//! `tor` runs; and with Tor as the only way, a page through an exit.

use crate::support;

use crate::proxy;
use crate::world;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use proxy::Proxy;
use serde_json::Value;
use support::clients::installed;
use support::tor::{NOBODY, Size, TorNetwork, away_from_home, onion_of};
use support::{fixture, skip};
use world::{Recipe, pattern};

/// Bytes of the file that the service has: enough for Tor's windows to matter.
const SIZE: usize = 3 << 20;
/// What curl ends with when its SOCKS proxy refuses.
const CURL_PROXY: Option<i32> = Some(97);

fn content() -> Vec<u8> {
    pattern(7, SIZE)
}

/// Reads up to an empty line, then answers with its file, and ends.
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

fn curl(args: &[&str], url: &str) -> Output {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "180"]);
    curl.args(args).arg(url).output().unwrap()
}

/// Each user has circuits of its own.
fn socks(proxy: &Proxy, user: &str) -> String {
    format!("socks5h://{user}:x@{}", proxy.addr())
}

fn assert_content(got: &Output, proxy: &Proxy) {
    let (status, len) = (got.status, got.stdout.len());
    let errors = String::from_utf8_lossy(&got.stderr);
    assert!(
        got.stdout == content(),
        "{status}, {len} bytes: {errors}\n{}",
        proxy.log()
    );
}

/// Sends a request and ends its own side, which Tor's streams can't do alone: the answer must come all the same.
fn ncat(proxy: &Proxy, kind: &str, onion: &str) -> Vec<u8> {
    let addr = proxy.addr().to_string();
    let mut ncat = Command::new("ncat");
    ncat.args(["--proxy-type", kind, "--proxy-dns", "remote"]);
    ncat.args(["--proxy", &addr, onion, "80"]);
    ncat.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut ncat = ncat.spawn().unwrap();
    let mut input = ncat.stdin.take().unwrap();
    input.write_all(b"anything\n\r\n").unwrap();
    drop(input);
    ncat.wait_with_output().unwrap().stdout
}

/// A proxy that has no relay list, and sends everything through Tor.
fn tor_alone(file: &Path) -> Proxy {
    let dir = tempfile::tempdir().unwrap();
    let mut command = away_from_home(None, dir.path());
    command.args(["proxy", "--log", "debug", "--json", "--allow-private"]);
    command.args(["--listen", "127.0.0.1:0", "--route", "tor", "--tor"]);
    command.arg(file);
    Proxy::run(command, dir)
}

/// What PySocks says, which asks for a UDP association.
fn udp_by_pysocks(proxy: &Proxy, to: SocketAddr) -> Option<Value> {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
    let pythons = [venv.to_str().unwrap().to_owned(), "python3".to_owned()];
    let python = pythons.iter().find(|python| {
        let probe = Command::new(python).args(["-c", "import socks"]).output();
        probe.is_ok_and(|done| done.status.success())
    });
    let Some(python) = python else {
        skip("no PySocks: run tests/run once");
        return None;
    };
    let mut command = Command::new(python);
    command.arg(fixture("pysocks_client.py"));
    command.args(["socks5", &proxy.addr().to_string()]);
    command.args([&to.ip().to_string(), &to.port().to_string(), "--udp"]);
    let done = command.output().unwrap();
    let errors = String::from_utf8_lossy(&done.stderr);
    Some(serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("{errors}")))
}

#[test]
fn an_onion_service_and_a_page_are_reached_through_tor_and_by_nothing_else() {
    if !["tor", "curl", "ncat"].into_iter().all(installed) {
        return;
    }
    let service = service();
    let size = Size {
        onions: vec![format!("80:{service}")],
        ..Size::default()
    };
    let mut network = TorNetwork::start(&size);
    let onion = network.onions()[0].clone();
    let file = network.tor_file();
    let world = Recipe::new(3).start();
    let proxy = Proxy::start(&world, &["--tor", file.to_str().unwrap()]);

    // What goes through circuits starts no Tor.
    let page = format!("http://{service}/");
    assert_content(&curl(&["--proxy", &socks(&proxy, "a")], &page), &proxy);
    assert!(!proxy.dir.path().join("state/tor").exists());
    assert!(!proxy.log().contains("Tor"), "{}", proxy.log());

    let url = format!("http://{onion}/file");
    assert_content(&curl(&["--proxy", &socks(&proxy, "a")], &url), &proxy);
    assert!(proxy.log().contains("Tor is ready"), "{}", proxy.log());
    let http = format!("http://{}", proxy.addr());
    let tunnel = ["--proxy", &http, "--proxytunnel"];
    assert_content(&curl(&tunnel, &url), &proxy);
    for kind in ["socks5", "http"] {
        let answer = ncat(&proxy, kind, &onion);
        let len = answer.len();
        assert!(
            answer.ends_with(&content()),
            "{kind}: {len} bytes\n{}",
            proxy.log()
        );
    }

    // A name that is none, and one that nobody has: SOCKS5's "host unreachable".
    let nobody = onion_of(&NOBODY);
    for name in ["a".repeat(55) + "d.onion", nobody] {
        let url = format!("http://{name}/");
        let got = curl(&["--proxy", &socks(&proxy, "a")], &url);
        let errors = String::from_utf8_lossy(&got.stderr).into_owned();
        assert_eq!(got.status.code(), CURL_PROXY, "{errors}");
        assert!(errors.contains("(4)"), "{errors}\n{}", proxy.log());
        let got = curl(&tunnel, &url);
        let errors = String::from_utf8_lossy(&got.stderr).into_owned();
        assert!(errors.contains("502"), "{errors}\n{}", proxy.log());
        assert!(!proxy.log().contains(&name[..20]), "{}", proxy.log());
    }
    // A port where this service has nothing.
    let got = curl(
        &["--proxy", &socks(&proxy, "a")],
        &format!("http://{onion}:81/"),
    );
    assert_eq!(got.status.code(), CURL_PROXY, "{got:?}");
    assert!(!proxy.log().contains(&onion[..20]), "{}", proxy.log());

    // Without a relay list, an exit of Tor reaches the page; no datagram goes there, and who asks is told.
    let alone = tor_alone(&file);
    assert_content(&curl(&["--proxy", &socks(&alone, "a")], &page), &alone);
    assert_content(&curl(&["--proxy", &socks(&alone, "a")], &url), &alone);
    if let Some(said) = udp_by_pysocks(&alone, service) {
        let error = said["error"].as_str().unwrap_or_default();
        assert!(error.contains("0x07"), "{said}\n{}", alone.log());
    }

    // Without Tor, neither is reached, though circuits and the page are there.
    network.stop();
    for (proxy, url) in [(&proxy, &url), (&alone, &url), (&alone, &page)] {
        let got = curl(&["--proxy", &socks(proxy, "b")], url);
        assert!(!got.status.success(), "{}", proxy.log());
        assert!(got.stdout.is_empty());
    }
    assert_content(&curl(&["--proxy", &socks(&proxy, "b")], &page), &proxy);
    assert!(!proxy.log().contains(&onion[..20]), "{}", proxy.log());
    assert!(!alone.log().contains(&onion[..20]), "{}", alone.log());
}
