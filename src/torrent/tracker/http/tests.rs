#![allow(clippy::unwrap_used)]
use super::super::TrackerClient;
use super::super::announce::{Event, MIN_INTERVAL};
use super::super::fake::{Answer, World, isolation, ok, redirect, request, root, secure, target};
use super::*;

const URL: &str = "http://tracker.example:6969/announce?passkey=a%2fB";
const GOOD: &[u8] = b"d8:intervali900e5:peers12:\x01\x02\x03\x04\x1a\xe1\x0a\x00\x00\x01\x1a\xe1e";

async fn announce(world: &World, url: &str) -> Result<AnnounceResponse, AnnounceError> {
    TrackerClient::new(false)
        .announce(world, isolation(), url, &request())
        .await
}

/// Announces to a tracker that always answers so.
async fn answered(bytes: impl Into<Vec<u8>>) -> Result<AnnounceResponse, AnnounceError> {
    let bytes = bytes.into();
    announce(&World::http(move |_, _| Answer::Bytes(bytes.clone())), URL).await
}

#[tokio::test]
async fn the_request_is_the_one_everybody_sends() {
    let world = World::http(|_, _| ok(GOOD));
    let answer = announce(&world, URL).await.unwrap();
    assert_eq!(answer.interval, Duration::from_secs(900));
    // The second peer is at a private address.
    assert_eq!(answer.peers, ["1.2.3.4:6881".parse().unwrap()]);
    let asked = world.asked.lock().unwrap();
    let (to, head) = &asked[0];
    assert_eq!(*to, target("tracker.example", 6969));
    assert_eq!(
        head.escape_ascii().to_string(),
        "GET /announce?passkey=a%2fB&info_hash=%00%01%20%25%26%3d%2b%2fazAZ09-._~%fe%ff&peer_id=....................\
&port=1&uploaded=0&downloaded=67108864&left=67108864&key=000000AB&numwant=80&compact=1&no_peer_id=1 HTTP/1.1\\r\\n\
Host: tracker.example:6969\\r\\nUser-Agent: curl/7.81.0\\r\\nAccept-Encoding: identity\\r\\nConnection: close\\r\\n\\r\\n"
    );
}

const ONION: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";

/// Where we are is told to trackers that are onion services, and onion peers are believed from them alone, redirects included.
#[tokio::test]
async fn our_onion_service_is_told_to_onion_trackers_alone() {
    let onion = OnionPeer::parse(ONION, 6881);
    let request = AnnounceRequest { onion, ..request() };
    let body = format!("d5:peersld2:ip{}:{ONION}4:porti7eeee", ONION.len());
    let tracker = format!("http://{ONION}/announce");
    for (url, told) in [
        (tracker.clone(), true),
        ("http://tracker.example/announce".to_owned(), false),
        ("http://onion.example/announce".to_owned(), false),
    ] {
        let body = body.clone();
        let world = World::http(move |_, _| ok(body.as_bytes()));
        let client = TrackerClient::new(false);
        let answer = client.announce(&world, isolation(), &url, &request).await;
        assert_eq!(answer.unwrap().onions.len(), usize::from(told), "{url}");
        let asked = world.asked.lock().unwrap();
        let head = String::from_utf8(asked[0].1.clone()).unwrap();
        let query = head.split(' ').nth(1).unwrap();
        assert_eq!(query.contains(".onion"), told, "{query}");
        assert_eq!(query.contains("&port=6881&"), told, "{query}");
        assert_eq!(query.ends_with(&format!("&ip={ONION}")), told, "{query}");
    }
    let world = World::http(move |to, _| {
        if Place::is_onion(to) {
            redirect("http://tracker.example/announce")
        } else {
            ok(body.as_bytes())
        }
    });
    let client = TrackerClient::new(false);
    let answer = client
        .announce(&world, isolation(), &tracker, &request)
        .await;
    assert_eq!(answer.unwrap().onions, []);
    let asked = world.asked.lock().unwrap();
    assert!(!String::from_utf8_lossy(&asked[1].1).contains(".onion"));
}

#[test]
fn events_are_named_where_there_is_one() {
    let mut request = request();
    request.event = Some(Event::Stopped);
    assert!(announce_path("/a", &request, None).contains("&key=000000AB&event=stopped&numwant=80"));
    assert!(announce_path("/a", &request, None).starts_with("/a?info_hash="));
}

#[tokio::test]
async fn bodies_of_known_and_unknown_length_and_in_chunks_are_read() {
    let body = String::from_utf8_lossy(b"d8:intervali900ee").into_owned();
    for response in [
        format!("HTTP/1.0 200 OK\r\n\r\n{body}"),
        format!("HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{body}"),
        format!("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{body}"),
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{}\r\n8\r\n{}\r\n0\r\n\r\n",
            &body[..9],
            &body[9..]
        ),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n{body}\r\n"),
    ] {
        let answer = answered(response.clone()).await;
        assert_eq!(
            answer.unwrap().interval,
            Duration::from_secs(900),
            "{response}"
        );
    }
}

#[tokio::test]
async fn answers_that_are_none_are_refused() {
    for (response, error) in [
        ("", AnnounceError::Lost),
        ("HTTP/1.1 200 OK\r\n", AnnounceError::Lost),
        ("SSH-2.0-OpenSSH\r\n", AnnounceError::Malformed),
        ("HTTP/1.1 200 OK\r\n\r\n", AnnounceError::Malformed),
        ("HTTP/1.1 200 OK\r\n\r\n<html>", AnnounceError::Malformed),
        (
            "HTTP/1.1 200 OK\r\n\r\nd5:peers9:cut",
            AnnounceError::Malformed,
        ),
        ("HTTP/1.1 503 Busy\r\n\r\nlater", AnnounceError::Status(503)),
        (
            "HTTP/1.1 404 No\r\n\r\nd8:intervali900ee",
            AnnounceError::Status(404),
        ),
        ("HTTP/1.1 302 Found\r\n\r\n", AnnounceError::Redirect),
    ] {
        assert_eq!(answered(response).await, Err(error), "{response}");
    }
    let refused = answered("HTTP/1.1 403 No\r\n\r\nd14:failure reason2:noe").await;
    assert!(
        matches!(refused, Err(AnnounceError::Failure(_))),
        "{refused:?}"
    );
    let negative = answered("HTTP/1.1 200 OK\r\n\r\nd8:intervali-900ee").await;
    assert_eq!(negative.unwrap().interval, MIN_INTERVAL);
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let world = World::http(|_, _| Answer::Endless(b"HTTP/1.1 200 OK\r\n\r\n2000000:".to_vec()));
    assert_eq!(announce(&world, URL).await, Err(AnnounceError::TooLarge));
}

#[tokio::test]
async fn a_head_without_end_is_cut_off() {
    let world = World::http(|_, _| Answer::Endless(b"HTTP/1.1 200 OK\r\nX: ".to_vec()));
    assert_eq!(announce(&world, URL).await, Err(AnnounceError::Malformed));
}

#[tokio::test(start_paused = true)]
async fn a_silent_tracker_is_given_up_at_the_deadline() {
    let world = World::http(|_, _| Answer::Silence);
    let start = tokio::time::Instant::now();
    assert_eq!(announce(&world, URL).await, Err(AnnounceError::TimedOut));
    assert_eq!(start.elapsed().as_secs(), DEADLINE.as_secs());
}

#[tokio::test]
async fn redirects_are_followed_as_they_stand_but_not_for_ever() {
    let world = World::http(|to, head| {
        if *to == target("other.example", 81) {
            return ok(GOOD);
        }
        let moved = head.starts_with("GET /moved?a=b%2f ");
        redirect(if moved {
            "//other.example:81/x"
        } else {
            "/moved?a=b%2f"
        })
    });
    assert!(announce(&world, URL).await.is_ok());
    let asked = world.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 3);
    assert!(
        asked[2]
            .1
            .starts_with(b"GET /x HTTP/1.1\r\nHost: other.example:81\r\n")
    );
    let circle = World::http(|_, _| redirect(URL));
    assert_eq!(announce(&circle, URL).await, Err(AnnounceError::Redirect));
    assert_eq!(circle.targets().len(), 1 + MAX_REDIRECTS);
}

#[tokio::test]
async fn redirects_to_private_places_are_not_followed() {
    for location in [
        "http://127.0.0.1/announce",
        "http://0x7f000001/",
        "http://[::1]:80/",
        "http://localhost/",
        "//192.168.0.1/cgi-bin",
        "https://router/",
    ] {
        let world = World::http(move |_, _| redirect(location));
        assert_eq!(
            announce(&world, URL).await,
            Err(AnnounceError::Private),
            "{location}"
        );
        assert_eq!(world.targets(), [target("tracker.example", 6969)]);
    }
    for location in [
        "udp://t.example:1/",
        "file:///etc/passwd",
        "http://u:p@t.example/",
        "http://",
        // It would start Tor where nothing of the user's needs it.
        &format!("http://{ONION}/announce"),
    ] {
        let to = location.to_owned();
        let world = World::http(move |_, _| redirect(&to));
        assert_eq!(
            announce(&world, URL).await,
            Err(AnnounceError::Redirect),
            "{location}"
        );
        assert_eq!(world.targets().len(), 1);
    }
}

#[tokio::test]
async fn private_trackers_are_asked_on_test_networks_alone() {
    let world = World::http(|_, _| ok(GOOD));
    let url = "http://10.0.0.1:80/announce";
    assert_eq!(announce(&world, url).await, Err(AnnounceError::Private));
    assert!(world.targets().is_empty());
    let client = TrackerClient::new(true);
    let answer = client
        .announce(&world, isolation(), url, &request())
        .await
        .unwrap();
    assert_eq!(answer.peers.len(), 2);
}

#[tokio::test]
async fn other_schemes_are_refused_before_anything_is_asked() {
    let world = World::http(|_, _| ok(GOOD));
    let error = announce(&world, "wss://tracker.example/")
        .await
        .unwrap_err();
    assert_eq!(error, AnnounceError::UnsupportedScheme);
    assert!(error.is_permanent() && world.targets().is_empty());
}

#[tokio::test]
async fn https_trackers_prove_who_they_are() {
    let world = secure(|_, _| ok(GOOD));
    let trusting = TrackerClient::with_roots(&[root()], false);
    let ask = |client: TrackerClient, url: &'static str| {
        let world = &world;
        async move { client.announce(world, isolation(), url, &request()).await }
    };
    assert!(
        ask(trusting.clone(), "https://tracker.example/announce")
            .await
            .is_ok()
    );
    assert_eq!(world.targets(), [target("tracker.example", 443)]);
    let wrong_name = ask(trusting, "https://other.example/announce").await;
    assert_eq!(wrong_name, Err(AnnounceError::Tls));
    let stranger = ask(
        TrackerClient::new(false),
        "https://tracker.example/announce",
    )
    .await;
    assert_eq!(stranger, Err(AnnounceError::Tls));
    assert_eq!(
        world.targets().len(),
        1,
        "nothing was asked without a valid certificate"
    );
}

#[tokio::test]
async fn no_tls_session_is_resumed_on_another_circuit() {
    let world = secure(|_, _| ok(GOOD));
    let client = TrackerClient::with_roots(&[root()], false);
    let url = "https://tracker.example/announce";
    for lane in 0..3 {
        let isolation = Isolation::new("tracker", b"test", lane);
        client
            .announce(&world, isolation, url, &request())
            .await
            .unwrap();
    }
    let handshakes = world.handshakes.lock().unwrap();
    assert!(
        !handshakes.contains(&rustls::HandshakeKind::Resumed),
        "{handshakes:?}"
    );
    assert_eq!(handshakes.len(), 3);
}

#[tokio::test]
async fn https_is_not_given_up_for_http() {
    let world = secure(|_, _| redirect("http://tracker.example/announce"));
    let client = TrackerClient::with_roots(&[root()], false);
    let url = "https://tracker.example/announce";
    let result = client.announce(&world, isolation(), url, &request()).await;
    assert_eq!(result, Err(AnnounceError::Redirect));
    assert_eq!(world.targets().len(), 1);
}
