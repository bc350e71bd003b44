//! The server as programs meet it, over real loopback sockets.
#![allow(clippy::unwrap_used)]

use std::process::Stdio;

use tokio::process::Command;

use super::*;

/// Its bytes say where they stand; what comes after a while waits for nobody.
struct Numbers {
    len: u64,
    broken: bool,
}

fn byte(at: u64) -> u8 {
    (at % 251) as u8
}

impl Content for Numbers {
    async fn open(&self, from: u64) -> io::Result<impl AsyncRead + Send + Unpin> {
        if self.broken {
            return Err(io::ErrorKind::NotFound.into());
        }
        let bytes: Vec<u8> = (from..self.len).map(byte).collect();
        Ok(io::Cursor::new(bytes))
    }
}

/// Serves so many bytes; gives the URL.
async fn serve(len: u64, broken: bool) -> (String, tokio::task::JoinHandle<()>) {
    let listener = LocalListener::loopback("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = listener.local_addr().unwrap().unwrap().port();
    let site = Site::new([1; 16], "film.mp4", port);
    let url = site.url();
    let server = Server::new(site, len, "tag", Numbers { len, broken });
    (url, tokio::spawn(server.serve(listener)))
}

/// What curl gets: the head, and the body.
async fn curl(arguments: &[&str]) -> (String, Vec<u8>) {
    let mut command = Command::new("curl");
    command
        .args(["-s", "-i", "--max-time", "20"])
        .args(arguments);
    let output = command.stdin(Stdio::null()).output().await.unwrap();
    let end = output
        .stdout
        .windows(4)
        .position(|four| four == b"\r\n\r\n");
    let (head, body) = output.stdout.split_at(end.unwrap() + 4);
    (String::from_utf8(head.to_vec()).unwrap(), body.to_vec())
}

fn bytes(range: Range<u64>) -> Vec<u8> {
    range.map(byte).collect()
}

#[tokio::test]
async fn curl_gets_all_or_any_part() {
    let (url, _server) = serve(300_000, false).await;
    let (head, body) = curl(&[&url]).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: video/mp4\r\n") && head.contains("Accept-Ranges: bytes"));
    assert!(
        head.contains("nosniff") && !head.contains("Access-Control"),
        "{head}"
    );
    assert!(body == bytes(0..300_000));
    for (range, wanted) in [
        ("0-0", 0..1),
        ("1000-199999", 1000..200_000),
        ("299999-", 299_999..300_000),
        ("-5", 299_995..300_000),
        ("0-", 0..300_000),
    ] {
        let (head, body) = curl(&["-r", range, &url]).await;
        assert!(head.starts_with("HTTP/1.1 206 "), "{range}: {head}");
        let of = format!("bytes {}-{}/300000", wanted.start, wanted.end - 1);
        assert!(head.contains(&format!("Content-Range: {of}\r\n")), "{head}");
        assert!(body == bytes(wanted), "{range}");
    }
    let (head, body) = curl(&["-r", "300000-", &url]).await;
    assert!(
        head.starts_with("HTTP/1.1 416 ") && head.contains("bytes */300000"),
        "{head}"
    );
    assert!(body.is_empty());
    let (head, body) = curl(&["-I", &url]).await;
    assert!(
        head.contains("Content-Length: 300000\r\n") && body.is_empty(),
        "{head}"
    );
    for (tag, status) in [("\"tag\"", "206"), ("\"other\"", "200")] {
        let condition = format!("If-Range: {tag}");
        let (head, _) = curl(&["-r", "5-9", "-H", &condition, &url]).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
    }
}

#[tokio::test]
async fn what_a_player_that_hung_up_waited_for_is_waited_for_no_more() {
    let (mut player, server) = tokio::io::duplex(64);
    let mut server: BoxStream = Box::new(server);
    player.write_all(b"more").await.unwrap();
    let waiting =
        tokio::spawn(async move { while_there(&mut server, std::future::pending::<()>()).await });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(player);
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn curl_gets_nothing_without_the_token_or_as_another() {
    let (url, _server) = serve(100, false).await;
    let (base, _) = url.rsplit_once("/film").unwrap();
    let (root, _) = base.rsplit_once('/').unwrap();
    let wrong = format!("{root}/AQEBAQEBAQEBAQEBAQEBAg/film.mp4");
    for (arguments, status) in [
        (&[root][..], "404"),
        (&[&wrong], "404"),
        (&["-H", "Host: evil.test", &url], "403"),
        (&["-H", "Origin: http://evil.test", &url], "403"),
        (&["-X", "DELETE", &url], "405"),
    ] {
        let (head, body) = curl(arguments).await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}")),
            "{arguments:?}: {head}"
        );
        assert!(body.is_empty());
    }
    let (url, _server) = serve(100, true).await;
    let (head, _) = curl(&[&url]).await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    let (url, _server) = serve(0, false).await;
    let (head, body) = curl(&[&url]).await;
    assert!(
        head.starts_with("HTTP/1.1 200") && body.is_empty(),
        "{head}"
    );
}
