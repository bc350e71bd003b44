//! The client beside servers, honest and hostile ones.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::Target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;

use super::client::{HEAD_TIME, MAX_REDIRECTS};
use super::place::Fetch;
use super::*;
use crate::route::{BoxFuture, BoxStream, Datagrams, Outside};
use crate::torrent::tracker::TrackerClient;
use crate::torrent::tracker::fake;

/// What a server does after the head of a request.
enum Answer {
    /// Sends this and waits for the next.
    Keep(Vec<u8>),
    /// Sends this and closes.
    Close(Vec<u8>),
    /// Sends this, then zeros as long as anybody reads.
    Endless(Vec<u8>),
    /// Sends this, then a zero now and then.
    Drip(Vec<u8>),
    /// Says nothing.
    Silence,
}

type OnRequest = Box<dyn Fn(&Target, &str) -> Answer + Send + Sync>;

struct Servers {
    on_request: OnRequest,
    /// Heads of requests, with their targets.
    heads: Mutex<Vec<(Target, String)>>,
    connections: Mutex<Vec<Isolation>>,
}

struct View(Arc<Servers>);

impl Outside for View {
    fn connect<'a>(
        &'a self,
        target: &'a Target,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        let (near, far) = tokio::io::duplex(64 << 10);
        self.0.connections.lock().unwrap().push(isolation);
        tokio::spawn(serve(Arc::clone(&self.0), target.clone(), far));
        Box::pin(async { Ok(Box::new(near) as BoxStream) })
    }

    fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        Box::pin(async { Err(RouteError::Refused) })
    }
}

async fn serve(servers: Arc<Servers>, target: Target, mut stream: DuplexStream) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        let answer = (servers.on_request)(&target, &head);
        servers.heads.lock().unwrap().push((target.clone(), head));
        match answer {
            Answer::Keep(bytes) => stream.write_all(&bytes).await.ok()?,
            Answer::Close(bytes) => {
                stream.write_all(&bytes).await.ok()?;
                return stream.shutdown().await.ok();
            }
            Answer::Endless(bytes) => {
                stream.write_all(&bytes).await.ok()?;
                loop {
                    stream.write_all(&[0; 4096]).await.ok()?;
                }
            }
            Answer::Drip(bytes) => {
                stream.write_all(&bytes).await.ok()?;
                loop {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    stream.write_all(&[0]).await.ok()?;
                }
            }
            Answer::Silence => std::future::pending().await,
        }
    }
}

fn servers(on_request: impl Fn(&Target, &str) -> Answer + Send + Sync + 'static) -> Arc<Servers> {
    Arc::new(Servers {
        on_request: Box::new(on_request),
        heads: Mutex::default(),
        connections: Mutex::default(),
    })
}

const URL: &str = "http://web.example:8080/a/file.iso?k=%2f";
const WHOLE: u64 = 4 << 20;

fn client_of(servers: &Arc<Servers>, url: &str) -> Result<WebClient, WebError> {
    let outside = Arc::new(View(Arc::clone(servers)));
    let trust = TrackerClient::new(false);
    WebClient::new(outside, Isolation::new("web seed", b"test", 0), &trust, url)
}

fn client(servers: &Arc<Servers>) -> WebClient {
    client_of(servers, URL).unwrap()
}

fn wanted(client: &WebClient, first: u64, len: u64) -> Fetch {
    Fetch {
        path: client.base().to_owned(),
        file: Some(0),
        first,
        len,
        whole: WHOLE,
    }
}

/// A right answer for this range.
fn partial(first: u64, bytes: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{}/{WHOLE}\r\nContent-Length: {}\r\n\r\n",
        first + bytes.len() as u64 - 1,
        bytes.len()
    );
    [head.as_bytes(), bytes].concat()
}

async fn read(client: &mut WebClient, first: u64, len: u64) -> Result<Vec<u8>, WebError> {
    let fetch = wanted(client, first, len);
    let mut body = client.get(&fetch).await?;
    let mut out = Vec::new();
    let mut patience = Patience::default();
    while let Some(bytes) = body.next(&mut patience).await? {
        out.extend_from_slice(&bytes);
    }
    Ok(out)
}

/// What comes of a server that always answers so to who wants bytes 10 to 14.
async fn answered(
    answer: impl Fn() -> Answer + Send + Sync + 'static,
) -> Result<Vec<u8>, WebError> {
    let servers = servers(move |_, _| answer());
    read(&mut client(&servers), 10, 5).await
}

#[tokio::test]
async fn the_request_is_the_one_everybody_sends_and_the_connection_is_kept() {
    let servers = servers(|_, _| Answer::Keep(partial(10, b"hello")));
    let mut client = client(&servers);
    for _ in 0..3 {
        assert_eq!(read(&mut client, 10, 5).await.unwrap(), b"hello");
    }
    let heads = servers.heads.lock().unwrap();
    assert_eq!(heads.len(), 3);
    for (to, head) in &*heads {
        assert_eq!(*to, Target::parse("web.example", 8080).unwrap());
        assert_eq!(
            head,
            "GET /a/file.iso?k=%2f HTTP/1.1\r\nHost: web.example:8080\r\nUser-Agent: curl/7.81.0\r\n\
Accept-Encoding: identity\r\nConnection: keep-alive\r\nRange: bytes=10-14\r\n\r\n"
        );
    }
    assert_eq!(servers.connections.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_server_that_closes_after_each_answer_is_called_again() {
    let servers = servers(|_, _| Answer::Close(partial(10, b"hello")));
    let mut client = client(&servers);
    for _ in 0..3 {
        assert_eq!(read(&mut client, 10, 5).await.unwrap(), b"hello");
    }
    let connections = servers.connections.lock().unwrap();
    assert_eq!(connections.len(), 3);
    assert!(connections.iter().all(|one| *one == connections[0]));
}

#[tokio::test]
async fn chunks_and_less_than_was_asked_for_are_taken() {
    let chunked = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 10-14/*\r\nTransfer-Encoding: chunked\r\n\r\n\
2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    let got = answered(|| Answer::Keep(chunked.to_vec())).await;
    assert_eq!(got.unwrap(), b"hello");
    let got = answered(|| Answer::Keep(partial(10, b"he"))).await;
    assert_eq!(got.unwrap(), b"he");
}

#[tokio::test]
async fn answers_that_are_not_what_was_asked_for_are_refused() {
    let range = "Content-Range: bytes 10-14/4194304\r\n";
    for (answer, error) in [
        ("", WebError::Lost),
        ("HTTP/1.1 206 P\r\n", WebError::Lost),
        ("SSH-2.0-OpenSSH\r\n", WebError::Malformed),
        ("HTTP/1.1 206 P\r\n\r\nhello", WebError::Malformed),
        (
            "HTTP/1.1 206 P\r\nContent-Range: bytes 0-4/4194304\r\n\r\nhello",
            WebError::Malformed,
        ),
        (
            "HTTP/1.1 206 P\r\nContent-Range: bytes 10-14/5\r\n\r\nhello",
            WebError::Malformed,
        ),
        (
            "HTTP/1.1 206 P\r\nContent-Range: bytes 10-14/15\r\n\r\nhello",
            WebError::Missing,
        ),
        // The whole of a large file.
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 4194304\r\n\r\nhello",
            WebError::NoRanges,
        ),
        (
            "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",
            WebError::Missing,
        ),
        (
            "HTTP/1.1 416 No\r\nContent-Length: 0\r\n\r\n",
            WebError::Missing,
        ),
        (
            "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
            WebError::Status(500),
        ),
        (
            "HTTP/1.1 503 Later\r\nRetry-After: 7\r\n\r\n",
            WebError::Busy(Some(Duration::from_secs(7))),
        ),
        (
            &format!("HTTP/1.1 206 P\r\n{range}Content-Encoding: gzip\r\n\r\n\x1f"),
            WebError::Encoded,
        ),
        // It ends early, says another length, or two.
        (
            &format!("HTTP/1.1 206 P\r\n{range}Content-Length: 5\r\n\r\nhel"),
            WebError::Lost,
        ),
        (
            &format!("HTTP/1.1 206 P\r\n{range}Content-Length: 4\r\n\r\nhell"),
            WebError::Malformed,
        ),
        (
            &format!(
                "HTTP/1.1 206 P\r\n{range}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"
            ),
            WebError::Malformed,
        ),
    ] {
        let bytes = answer.as_bytes().to_vec();
        let got = answered(move || Answer::Close(bytes.clone())).await;
        assert_eq!(got, Err(error), "{answer}");
    }
}

#[tokio::test]
async fn of_a_body_without_end_no_more_is_taken_than_was_asked_for() {
    let head = b"HTTP/1.1 206 P\r\nContent-Range: bytes 10-14/*\r\n\r\n";
    let got = answered(|| Answer::Endless(head.to_vec())).await;
    assert_eq!(got.unwrap(), [0; 5]);
    let got = answered(|| Answer::Endless(b"HTTP/1.1 206 P\r\nX: ".to_vec())).await;
    assert_eq!(got, Err(WebError::Malformed), "nor of a head");
}

#[tokio::test(start_paused = true)]
async fn who_is_silent_or_drips_is_given_up() {
    let begun = Instant::now();
    assert_eq!(answered(|| Answer::Silence).await, Err(WebError::TimedOut));
    assert_eq!(begun.elapsed().as_secs(), HEAD_TIME.as_secs());
    let head = "HTTP/1.1 206 P\r\nContent-Range: bytes 0-99999/4194304\r\n\r\n";
    let servers = servers(move |_, _| Answer::Drip(head.into()));
    let begun = Instant::now();
    let got = read(&mut client(&servers), 0, 100_000).await;
    assert_eq!(got, Err(WebError::TimedOut));
    assert!(begun.elapsed() < HEAD_TIME * 2);
}

fn redirect(location: &str) -> Answer {
    Answer::Keep(
        format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n").into(),
    )
}

#[tokio::test]
async fn redirects_are_followed_but_not_for_ever_and_asked_first_the_next_time() {
    let servers = servers(|to, head| {
        if to.port == 81 && head.starts_with("GET /store?sig=a%2Bb ") {
            Answer::Keep(partial(10, b"hello"))
        } else {
            redirect("http://store.example:81/store?sig=a%2Bb")
        }
    });
    let mut client = client(&servers);
    for _ in 0..2 {
        assert_eq!(read(&mut client, 10, 5).await.unwrap(), b"hello");
    }
    let ports = |servers: &Servers| -> Vec<u16> {
        let heads = servers.heads.lock().unwrap();
        heads.iter().map(|(to, _)| to.port).collect()
    };
    assert_eq!(ports(&servers), [8080, 81, 81]);
    let circle = self::servers(|_, _| redirect(URL));
    let got = read(&mut self::client(&circle), 10, 5).await;
    assert_eq!(got, Err(WebError::Redirect));
    assert_eq!(ports(&circle).len(), 1 + MAX_REDIRECTS);
}

#[tokio::test]
async fn a_place_to_which_one_was_led_may_be_gone_later() {
    let count = std::sync::atomic::AtomicU32::new(0);
    let servers = servers(move |to, _| {
        if to.port != 81 {
            return redirect("http://store.example:81/x");
        }
        // Its second answer is a refusal: the signature is too old.
        match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            1 => Answer::Keep(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n".to_vec()),
            _ => Answer::Keep(partial(10, b"hello")),
        }
    });
    let mut client = client(&servers);
    for _ in 0..3 {
        assert_eq!(read(&mut client, 10, 5).await.unwrap(), b"hello");
    }
}

#[tokio::test]
async fn redirects_to_private_places_are_not_followed() {
    for (location, error) in [
        ("http://127.0.0.1/x", WebError::Private),
        ("http://0x7f000001/", WebError::Private),
        ("http://10.1.2.3/", WebError::Private),
        ("//192.168.0.1/cgi-bin", WebError::Private),
        ("http://169.254.169.254/latest/meta-data", WebError::Private),
        ("http://[::1]:80/", WebError::Private),
        ("http://[fe80::1]/", WebError::Private),
        ("http://[fd00::1]/", WebError::Private),
        ("http://[::ffff:10.0.0.1]/", WebError::Private),
        ("http://localhost/", WebError::Private),
        ("http://a.localhost:8080/", WebError::Private),
        ("http://nas.local/", WebError::Private),
        ("http://db.internal/", WebError::Private),
        ("https://router/", WebError::Private),
        ("http://user:pass@web.example/", WebError::Redirect),
        ("ftp://web.example/", WebError::Redirect),
        ("udp://web.example:1/", WebError::Redirect),
        ("file:///etc/passwd", WebError::Redirect),
        ("http://", WebError::Redirect),
        // It would start Tor where nothing of the user's needs it.
        (
            "http://2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion/",
            WebError::Redirect,
        ),
    ] {
        let servers = servers(move |_, _| redirect(location));
        let got = read(&mut client(&servers), 10, 5).await;
        assert_eq!(got, Err(error), "{location}");
        assert_eq!(servers.connections.lock().unwrap().len(), 1, "{location}");
    }
}

#[test]
fn web_seeds_at_private_places_are_never_asked() {
    let servers = servers(|_, _| Answer::Silence);
    for (url, error) in [
        ("http://127.0.0.1/", WebError::Private),
        ("http://192.168.1.1/", WebError::Private),
        ("https://nas.local/x", WebError::Private),
        ("ftp://web.example/", WebError::BadUrl),
        ("udp://web.example:1/", WebError::BadUrl),
        ("http://user:pass@web.example/", WebError::BadUrl),
    ] {
        let got = client_of(&servers, url).err().unwrap();
        assert!(got.is_permanent());
        assert_eq!(got, error, "{url}");
    }
}

#[tokio::test]
async fn web_seeds_over_https_prove_who_they_are() {
    let world = || {
        Arc::new(fake::secure(|_, _| {
            fake::Answer::Bytes(partial(10, b"hello"))
        }))
    };
    let ask = async |world: Arc<fake::World>, trust: TrackerClient, url: &str| {
        let isolation = Isolation::new("web seed", b"test", 0);
        let mut client = WebClient::new(world, isolation, &trust, url).unwrap();
        read(&mut client, 10, 5).await
    };
    let trusting = TrackerClient::with_roots(&[fake::root()], false);
    let url = "https://tracker.example/file.iso";
    let honest = world();
    let came = ask(Arc::clone(&honest), trusting.clone(), url).await;
    assert_eq!(came.unwrap(), b"hello");
    assert_eq!(honest.targets(), [fake::target("tracker.example", 443)]);

    let elsewhere = world();
    let came = ask(
        Arc::clone(&elsewhere),
        trusting.clone(),
        "https://other.example/",
    )
    .await;
    assert_eq!(came, Err(WebError::Tls));
    let came = ask(Arc::clone(&elsewhere), TrackerClient::new(false), url).await;
    assert_eq!(came, Err(WebError::Tls));
    assert!(elsewhere.targets().is_empty(), "nothing was asked");

    let down = Arc::new(fake::secure(|_, _| {
        fake::redirect("http://tracker.example/file.iso")
    }));
    let came = ask(Arc::clone(&down), trusting, url).await;
    assert_eq!(came, Err(WebError::Redirect));
    assert_eq!(down.targets().len(), 1);
}
