//! `hushswarm proxy` with programs that nobody here wrote: curl, ncat, Python's PySocks. Every command and every reply
//! code, over relays that run as processes.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stderr
)]

#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/relays.rs"]
mod world;

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Output, Stdio};

use hushswarm_circuits::target::Target;
use proxy::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use world::{Recipe, World, serve, udp_echo};

/// Three relays whose exit lets out loopback, but not one port.
fn world() -> World {
    let mut recipe = Recipe::new(3);
    recipe.policy = vec!["reject * *:7", "accept * *:1-65535"];
    recipe.start()
}

fn curl(args: &[&str]) -> Output {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--show-error",
        "--max-time",
        "60",
        "--noproxy",
        "",
    ]);
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A web server that answers every request with its head.
async fn web() -> SocketAddr {
    let target = serve(|mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let length = head.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.write_all(&head).await;
        let _ = stream.shutdown().await;
    })
    .await;
    target.socket_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_fetches_a_page_by_every_protocol_of_the_proxy() {
    let world = world();
    let web = web().await;
    let dir = tempfile::tempdir().unwrap();
    let unix = format!("unix:{}", dir.path().join("socket").display());
    let proxy = Proxy::start(&world, &["--listen", "127.0.0.1:0", "--listen", &unix]);
    let at = proxy.addr();
    let unix = proxy.unix().display().to_string();
    let ways: [Vec<String>; 9] = [
        vec!["--proxy".into(), format!("socks4://{at}")],
        vec!["--proxy".into(), format!("socks4a://{at}")],
        vec!["--proxy".into(), format!("socks4a://alice@{at}")],
        vec!["--proxy".into(), format!("socks5://{at}")],
        vec!["--proxy".into(), format!("socks5h://{at}")],
        vec!["--proxy".into(), format!("socks5h://alice:secret@{at}")],
        vec!["--proxy".into(), format!("socks5h://localhost{unix}")],
        vec!["--proxy".into(), format!("http://{at}")],
        vec![
            "--proxytunnel".into(),
            "--proxy".into(),
            format!("http://alice:secret@{at}"),
        ],
    ];
    let port = web.port();
    for way in &ways {
        let mut args: Vec<&str> = way.iter().map(String::as_str).collect();
        let url = format!("http://localhost:{port}/page?x=1");
        args.push(&url);
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let out = tokio::task::spawn_blocking(move || {
            curl(&args.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .await
        .unwrap();
        let (page, errors) = (text(&out.stdout), text(&out.stderr));
        assert!(out.status.success(), "{way:?}: {errors}\n{}", proxy.log());
        assert!(
            page.starts_with("GET /page?x=1 HTTP/1.1\r\n"),
            "{way:?}: {page}"
        );
        assert!(
            page.contains(&format!("Host: localhost:{port}\r\n")),
            "{page}"
        );
        assert!(!page.to_lowercase().contains("proxy"), "{way:?}: {page}");
    }
}
