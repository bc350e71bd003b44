//! The routes of a running proxy: refused targets reach nobody, and SIGHUP changes the rules without touching streams.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/relays.rs"]
mod world;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use proxy::Proxy;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use world::{Recipe, World, echo};

/// Replies of RFC 1928 §6.
const SUCCEEDED: u8 = 0;
const NOT_ALLOWED: u8 = 2;

fn world() -> World {
    let mut recipe = Recipe::new(3);
    recipe.policy = vec!["accept * *:1-65535"];
    recipe.start()
}

/// Asks the proxy for an address; gives its reply and the stream.
async fn connect(proxy: SocketAddr, to: SocketAddr) -> (u8, TcpStream) {
    let SocketAddr::V4(to) = to else { panic!() };
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let mut request = vec![5, 1, 0, 5, 1, 0, 1];
    request.extend_from_slice(&to.ip().octets());
    request.extend_from_slice(&to.port().to_be_bytes());
    stream.write_all(&request).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    (answer[3], stream)
}

async fn says_back(stream: &mut TcpStream) {
    let mut answer = [0; 4];
    stream.write_all(b"ping").await.unwrap();
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"ping");
}

/// Waits until asking for the address is answered so.
async fn wait_for_reply(proxy: &Proxy, to: SocketAddr, reply: u8) {
    for _ in 0..600 {
        if connect(proxy.addr(), to).await.0 == reply {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never reply {reply}\n{}", proxy.log());
}

fn refuse(path: &Path, port: u16) {
    let text = format!("[[rule]]\nport = {port}\naction = 'refuse'\n");
    fs::write(path, text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_changes_the_rules_of_a_running_proxy_and_drops_no_stream() {
    let world = world();
    let [one, other] = [echo().await, echo().await].map(|target| target.socket_addr().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let routes = dir.path().join("routes.toml");
    fs::write(&routes, "").unwrap();
    let proxy = Proxy::start(&world, &["--routes", routes.to_str().unwrap()]);
    let (reply, mut open) = connect(proxy.addr(), one).await;
    assert_eq!(reply, SUCCEEDED, "{}", proxy.log());
    says_back(&mut open).await;

    refuse(&routes, one.port());
    proxy.signal(Signal::HUP);
    wait_for_reply(&proxy, one, NOT_ALLOWED).await;
    assert_eq!(connect(proxy.addr(), other).await.0, SUCCEEDED);
    says_back(&mut open).await;

    // A file that is wrong changes nothing, and the line is named.
    fs::write(&routes, "# all of it\ndefault = 'everything'\n").unwrap();
    proxy.signal(Signal::HUP);
    for _ in 0..600 {
        if proxy.log().contains("the routes stay as they were") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let log = proxy.log();
    assert!(log.contains("routes.toml, line 2: an action is"), "{log}");
    assert_eq!(connect(proxy.addr(), one).await.0, NOT_ALLOWED);
    says_back(&mut open).await;

    fs::write(&routes, "").unwrap();
    proxy.signal(Signal::HUP);
    wait_for_reply(&proxy, one, SUCCEEDED).await;
    says_back(&mut open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_word_from_the_user_private_targets_reach_nobody() {
    let world = world();
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap();
    let mut command = Proxy::command(&world, dir.path(), &["--listen", "127.0.0.1:0"]);
    command
        .env("HOME", dir.path())
        .env_remove("XDG_CONFIG_HOME");
    let proxy = Proxy::run(command, dir);
    assert_eq!(connect(proxy.addr(), here).await.0, NOT_ALLOWED);
    let multicast = "239.255.255.250:1900".parse().unwrap();
    assert_eq!(connect(proxy.addr(), multicast).await.0, NOT_ALLOWED);
    // Nothing waits to be accepted: the exit, which lets out loopback, was not asked.
    let nobody = listener.into_std().unwrap().accept();
    let nobody = nobody.map(|_| ()).map_err(|error| error.kind());
    assert_eq!(nobody, Err(std::io::ErrorKind::WouldBlock));
}
