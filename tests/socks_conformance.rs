//! The proxy with programs that nobody here wrote: curl, ncat, torsocks and Python's PySocks. Every command and every
//! reply code; over relays that run as processes, and where a failure can't be had on loopback, over a scripted way out.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stderr
)]

#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/script.rs"]
mod script;
#[path = "support/relays.rs"]
mod world;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use hushswarm::socks::Options;
use proxy::Proxy;
use script::Script;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use world::{Recipe, World, echo, serve, udp_echo};

/// Three relays whose exit lets out loopback, but not one port.
fn world() -> World {
    let mut recipe = Recipe::new(3);
    recipe.policy = vec!["reject * *:7", "accept * *:1-65535"];
    recipe.start()
}

/// Runs a program to its end, without holding up the runtime.
async fn run(program: &str, args: &[&str], input: &str) -> Output {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let input = input.to_owned();
    let shown = format!("{command:?}");
    tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{shown}: {e}"));
        let mut stdin = child.stdin.take().unwrap();
        // A program that wants no input may have closed it.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().unwrap()
    })
    .await
    .unwrap()
}

async fn curl(args: &[&str]) -> (Option<i32>, String, String) {
    let common = [
        "--silent",
        "--show-error",
        "--max-time",
        "90",
        "--noproxy",
        "",
    ];
    let out = run("curl", &[&common, args].concat(), "").await;
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

/// Whether a program is there; says so where it is not.
fn have(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|out| out.status.success());
    assert!(
        found || std::env::var("CI").as_deref() != Ok("true"),
        "may not be skipped in CI: no {program}"
    );
    if !found {
        eprintln!("SKIPPED: no {program}; tests/run installs it");
    }
    found
}

/// Python with PySocks in it, from tests/run.
fn python() -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let venv = root.join("target/venv/bin/python");
    let names = [venv.to_str().unwrap().to_owned(), "python3".to_owned()];
    let found = names.into_iter().find(|name| {
        let check = Command::new(name).args(["-c", "import socks"]).output();
        check.is_ok_and(|out| out.status.success())
    });
    assert!(
        found.is_some() || std::env::var("CI").as_deref() != Ok("true"),
        "may not be skipped in CI: no PySocks"
    );
    if found.is_none() {
        eprintln!("SKIPPED: no PySocks; tests/run installs it");
    }
    found
}

/// What PySocks says.
async fn pysocks(python: &str, args: &[&str]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pysocks_client.py");
    let out = run(python, &[&[script.to_str().unwrap()], args].concat(), "").await;
    serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", text(&out.stderr)))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A web server on loopback that answers every request with its head.
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

/// A loopback port where nobody listens.
fn closed_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
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
    let ways = [
        format!("socks4://{at}"),
        format!("socks4a://{at}"),
        format!("socks4a://alice@{at}"),
        format!("socks5://{at}"),
        format!("socks5h://{at}"),
        format!("socks5h://alice:secret@{at}"),
        format!("socks5h://localhost{unix}"),
        format!("http://{at}"),
        format!("http://alice:secret@{at}"),
    ];
    for way in &ways {
        for tunnel in [false, true] {
            if tunnel && !way.starts_with("http") {
                continue;
            }
            let url = format!("http://localhost:{}/page?x=1", web.port());
            let mut args = vec!["--proxy", way, &url];
            if tunnel {
                args.push("--proxytunnel");
            }
            let (code, page, errors) = curl(&args).await;
            assert_eq!(code, Some(0), "{way}: {errors}\n{}", proxy.log());
            let line = "GET /page?x=1 HTTP/1.1\r\n";
            assert!(page.starts_with(line), "{way}: {page}");
            let host = format!("Host: localhost:{}\r\n", web.port());
            assert!(page.contains(&host), "{way}: {page}");
            assert!(!page.to_lowercase().contains("proxy"), "{way}: {page}");
        }
    }
    // Neither where to nor who asked.
    let log = proxy.log();
    for secret in ["alice", "secret", "localhost:", &web.port().to_string()] {
        assert!(!log.contains(secret), "{secret} in\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ncat_reaches_an_echo_by_every_protocol_of_the_proxy() {
    if !have("ncat") {
        return;
    }
    let world = world();
    let target = echo().await.socket_addr().unwrap();
    let proxy = Proxy::start(&world, &[]);
    let (at, port) = (proxy.addr().to_string(), target.port().to_string());
    for kind in ["socks4", "socks5", "http"] {
        let args = ["--proxy", &at, "--proxy-type", kind, "127.0.0.1", &port];
        let out = run("ncat", &args, "there and back").await;
        let errors = text(&out.stderr);
        assert_eq!(text(&out.stdout), "there and back", "{kind}: {errors}");
    }
    let args = [
        "--proxy",
        &at,
        "--proxy-type",
        "socks5",
        "--proxy-auth",
        "alice:secret",
        "--proxy-dns",
        "remote",
        "localhost",
        &port,
    ];
    let out = run("ncat", &args, "by name").await;
    assert_eq!(text(&out.stdout), "by name", "{}", text(&out.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn pysocks_has_streams_and_datagrams_carried() {
    let Some(python) = python() else { return };
    let world = world();
    let target = echo().await.socket_addr().unwrap();
    let datagrams = udp_echo("127.0.0.1:0").await.socket_addr().unwrap();
    let proxy = Proxy::start(&world, &[]);
    let (at, port) = (proxy.addr().to_string(), target.port().to_string());
    for kind in ["socks4", "socks5", "http"] {
        let said = pysocks(&python, &[kind, &at, "localhost", &port]).await;
        assert_eq!(said["answer"], "hello", "{kind}: {said}");
    }
    let port = datagrams.port().to_string();
    for host in ["127.0.0.1", "localhost"] {
        let said = pysocks(&python, &["socks5", &at, host, &port, "--udp"]).await;
        assert_eq!(said["answer"]["text"], "hello", "{host}: {said}");
        // Who answered, as the exit saw it.
        let from = serde_json::json!(["127.0.0.1", datagrams.port()]);
        assert_eq!(said["answer"]["from"], from, "{host}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_relays_and_rules_refuse_is_told_by_its_code() {
    let Some(python) = python() else { return };
    let world = world();
    let proxy = Proxy::start(&world, &[]);
    let at = proxy.addr().to_string();
    let closed = closed_port().to_string();
    let table = [
        // Link-local addresses are never let out. No exit of the list lets port 7 out, so there is no circuit for it.
        (
            "169.254.1.1",
            "80",
            "0x02: Connection not allowed by ruleset",
            "403",
        ),
        ("127.0.0.1", "7", "0x03: Network unreachable", "503"),
        ("127.0.0.1", &closed, "0x05: Connection refused", "502"),
    ];
    for (host, port, said, status) in table {
        let got = pysocks(&python, &["socks5", &at, host, port]).await;
        assert_eq!(got["error"], said, "{host}:{port}");
        let got = pysocks(&python, &["socks4", &at, host, port]).await;
        assert_eq!(got["error"], "0x5b: Request rejected or failed");
        let (proxy, url) = (format!("http://{at}"), format!("http://{host}:{port}/"));
        let (_, got, _) = curl(&[
            "-p",
            "-x",
            &proxy,
            "-w",
            "%{http_connect}",
            "-o",
            "/dev/null",
            &url,
        ])
        .await;
        assert_eq!(got, status, "{host}:{port}");
    }
    drop(proxy);
    // Without leave, what is private is refused here.
    let dir = tempfile::tempdir().unwrap();
    let mut command = Proxy::command(&world, dir.path(), &["--listen", "127.0.0.1:0"]);
    command
        .env("HOME", dir.path())
        .env_remove("XDG_CONFIG_HOME");
    let strict = Proxy::run(command, dir);
    let at = strict.addr().to_string();
    for host in ["127.0.0.1", "10.0.0.1", "localhost", "printer.local"] {
        let got = pysocks(&python, &["socks5", &at, host, &closed]).await;
        assert_eq!(
            got["error"], "0x02: Connection not allowed by ruleset",
            "{host}"
        );
        let url = format!("http://{host}:{closed}/");
        let (_, page, _) = curl(&["-x", &format!("http://{at}"), &url]).await;
        assert!(page.contains("--allow-private"), "{host}: {page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_has_its_reply_code_and_its_status() {
    let Some(python) = python() else { return };
    let outside = Arc::new(Script::web().with_failures());
    let (at, _server) = script::serve(&outside, Options::default());
    let at = at.to_string();
    let table = [
        ("1", "0x01: General SOCKS server failure", "502"),
        ("2", "0x02: Connection not allowed by ruleset", "403"),
        ("3", "0x03: Network unreachable", "503"),
        ("4", "0x04: Host unreachable", "502"),
        ("5", "0x05: Connection refused", "502"),
        ("6", "0x06: TTL expired", "504"),
        ("7", "0x04: Host unreachable", "502"),
    ];
    let proxy = format!("http://{at}");
    for (port, said, status) in table {
        let got = pysocks(&python, &["socks5", &at, "host.example", port]).await;
        assert_eq!(got["error"], said, "{port}");
        let got = pysocks(&python, &["socks4", &at, "host.example", port]).await;
        assert_eq!(got["error"], "0x5b: Request rejected or failed", "{port}");
        let url = format!("http://host.example:{port}/");
        let (_, got, _) = curl(&[
            "-p",
            "-x",
            &proxy,
            "-w",
            "%{http_connect}",
            "-o",
            "/dev/null",
            &url,
        ])
        .await;
        assert_eq!(got, status, "{port}");
        let (_, got, _) =
            curl(&["-x", &proxy, "-w", "%{http_code}", "-o", "/dev/null", &url]).await;
        assert_eq!(got, status, "{port}");
        let socks = format!("socks5h://{at}");
        let (code, _, errors) = curl(&["-x", &socks, &url]).await;
        // curl's own code for a proxy's refusal, with the reply's in the text.
        assert_eq!(code, Some(97), "{errors}");
        let reply = said.get(3..4).unwrap();
        assert!(errors.contains(&format!("({reply})")), "{errors}");
    }
}

/// What a SOCKS5 server answers to raw bytes after the greeting: no client sends these.
async fn raw(at: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(&[5, 1, 0]).await.unwrap();
    let mut method = [0; 2];
    stream.read_exact(&mut method).await.unwrap();
    assert_eq!(method, [5, 0]);
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_commands_and_address_types_have_their_codes() {
    let outside = Arc::new(Script::echo());
    let (at, _server) = script::serve(&outside, Options::default());
    let reply = |code: u8| vec![5, code, 0, 1, 0, 0, 0, 0, 0, 0];
    let bind = [5, 2, 0, 1, 203, 0, 113, 7, 0, 80];
    assert_eq!(raw(at, &bind).await, reply(7));
    assert_eq!(
        raw(at, &[5, 9, 0, 1, 203, 0, 113, 7, 0, 80]).await,
        reply(7)
    );
    assert_eq!(
        raw(at, &[5, 1, 0, 2, 203, 0, 113, 7, 0, 80]).await,
        reply(8)
    );
    assert_eq!(raw(at, b"\x05\x01\x00\x03\x03a b\x00\x50").await, reply(1));
    // A datagram can't come from a Unix socket's program, so none is promised there.
    assert!(outside.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_asked_for_and_a_wrong_one_refused() {
    let Some(python) = python() else { return };
    let outside = Arc::new(Script::web());
    let options = Options {
        password: Some(("alice".into(), "secret".into())),
        ..Options::default()
    };
    let (at, _server) = script::serve(&outside, options);
    let url = "http://host.example/";
    for (user, good) in [
        ("alice:secret@", true),
        ("alice+films:secret@", true),
        ("", false),
        ("alice:wrong@", false),
        ("alice:@", false),
        ("alicia:secret@", false),
        ("alice-:secret@", false),
        (":@", false),
    ] {
        let (code, page, _) = curl(&["-x", &format!("socks5h://{user}{at}"), url]).await;
        assert_eq!(code == Some(0), good, "{user}: {page}");
        let (_, status, _) = curl(&[
            "-x",
            &format!("http://{user}{at}"),
            "-w",
            "%{http_code}",
            "-o",
            "/dev/null",
            url,
        ])
        .await;
        assert_eq!(status, if good { "200" } else { "407" }, "{user}");
        // SOCKS4 has no password.
        let (code, _, _) = curl(&["-x", &format!("socks4a://{user}{at}"), url]).await;
        assert_ne!(code, Some(0), "{user}");
    }
    let at = at.to_string();
    let wrong = [
        "socks5",
        &at,
        "h.example",
        "80",
        "--user",
        "a",
        "--password",
        "b",
    ];
    let said = pysocks(&python, &wrong).await;
    assert_eq!(said["error"], "SOCKS5 authentication failed");
    let said = pysocks(&python, &["socks5", &at, "h.example", "80"]).await;
    let none = "All offered SOCKS5 authentication methods were rejected";
    assert_eq!(said["error"], none);
    assert_eq!(outside.asked().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_listeners_share_no_isolation_key() {
    let outside = Arc::new(Script::web());
    let (first, server) = script::serve(&outside, Options::default());
    let second = script::listen(&server);
    let proxies = [
        format!("socks5h://{first}"),
        format!("socks5h://{second}"),
        format!("socks5h://alice:1@{first}"),
        format!("socks5h://alice:2@{first}"),
        format!("socks5h://alic:e1@{first}"),
        format!("socks5h://alice:1@{second}"),
        format!("socks4a://bob@{first}"),
        format!("http://carol:1@{first}"),
    ];
    for proxy in &proxies {
        let url = "http://host.example/";
        let (code, _, errors) = curl(&["-x", proxy, url, "--next", "-s", "-x", proxy, url]).await;
        assert_eq!(code, Some(0), "{errors}");
    }
    let keys: Vec<_> = outside.asked().into_iter().map(|asked| asked.2).collect();
    assert_eq!(keys.len(), 2 * proxies.len());
    for (n, pair) in keys.chunks(2).enumerate() {
        assert_eq!(pair[0], pair[1], "{}", proxies[n]);
        assert!(!keys[..2 * n].contains(&pair[0]), "{}", proxies[n]);
    }
    // Whatever a user speaks, it is the same user.
    let (code, _, _) = curl(&[
        "-x",
        &format!("http://alice:1@{first}"),
        "http://host.example/",
    ])
    .await;
    assert_eq!(code, Some(0));
    assert_eq!(outside.asked().last().unwrap().2, keys[4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn torsocks_looks_names_up_through_the_proxy() {
    if !have("torsocks") {
        return;
    }
    let outside = Arc::new(Script::web());
    let (at, _server) = script::serve(&outside, Options::default());
    let port = at.port().to_string();
    let args = ["--address", "127.0.0.1", "--port", &port];
    // It looks the name up by RESOLVE, and connects to the address that it got.
    let tool = ["curl", "-s", "--noproxy", "*", "http://host.example/page"];
    let out = run("torsocks", &[&args[..], &tool].concat(), "").await;
    let page = text(&out.stdout);
    assert!(
        page.starts_with("GET /page "),
        "{page} {}",
        text(&out.stderr)
    );
    let asked: Vec<_> = outside.asked().into_iter().map(|a| (a.0, a.1)).collect();
    let wanted = [
        ("?host.example".to_owned(), 0),
        ("203.0.113.7".to_owned(), 80),
    ];
    assert_eq!(asked, wanted);
    // RESOLVE_PTR, as gethostbyaddr has it.
    let python = [
        "python3",
        "-c",
        "import socket; print(socket.gethostbyaddr('203.0.113.9')[0])",
    ];
    let out = run("torsocks", &[&args[..], &python].concat(), "").await;
    assert_eq!(
        text(&out.stdout).trim(),
        "seven.example",
        "{}",
        text(&out.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_looked_up_by_relays_for_who_asks() {
    let world = world();
    let proxy = Proxy::start(&world, &[]);
    let name = b"\x05\xf0\x00\x03\x09localhost\x00\x00";
    let answer = raw(proxy.addr(), name).await;
    assert_eq!(answer[..2], [5, 0], "{answer:?}");
    let missing = b"\x05\xf0\x00\x03\x0fmissing.invalid\x00\x00";
    let answer = raw(proxy.addr(), missing).await;
    assert_ne!(answer[1], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_gets_nothing_from_the_proxy() {
    let outside = Arc::new(Script::web());
    let (at, _server) = script::serve(&outside, Options::default());
    let rebound = format!("http://evil.example:{}/steal?token", at.port());
    let resolve = format!("evil.example:{}:127.0.0.1", at.port());
    let origin = "Origin: http://evil.example";
    for method in ["GET", "POST", "OPTIONS", "PUT"] {
        let args = [
            "-i",
            "-X",
            method,
            "-H",
            origin,
            "--resolve",
            &resolve,
            &rebound,
        ];
        let (code, page, errors) = curl(&args).await;
        assert_eq!(code, Some(0), "{errors}");
        assert!(page.starts_with("HTTP/1.1 400 "), "{page}");
        for word in ["evil", "token", "Access-Control", "127.0.0.1:80"] {
            assert!(!page.contains(word), "{page}");
        }
    }
    assert!(outside.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_sent_on_whole_and_another_request_is_not() {
    let outside = Arc::new(Script::new(|mut stream| {
        tokio::spawn(async move {
            let mut bytes = Vec::new();
            while bytes.iter().filter(|&&byte| byte == b'x').count() < 100_000 {
                let mut part = [0; 4096];
                match stream.read(&mut part).await {
                    Ok(n) if n > 0 => bytes.extend_from_slice(&part[..n]),
                    _ => return,
                }
            }
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ntaken")
                .await;
        });
    }));
    let (at, _server) = script::serve(&outside, Options::default());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("content");
    std::fs::write(&file, vec![b'x'; 100_000]).unwrap();
    let data = format!("@{}", file.display());
    let proxy = format!("http://{at}");
    let url = "http://host.example/upload";
    let (code, page, errors) = curl(&["-x", &proxy, "--data-binary", &data, url]).await;
    assert_eq!((code, page.as_str()), (Some(0), "taken"), "{errors}");
    // Of unknown length: said so, and curl says it too.
    let chunked = [
        "-x",
        &proxy,
        "-H",
        "Transfer-Encoding: chunked",
        "--data-binary",
        &data,
    ];
    let rest = ["-w", "%{http_code}", "-o", "/dev/null", url];
    let (_, status, _) = curl(&[&chunked[..], &rest].concat()).await;
    assert_eq!(status, "411");
}
