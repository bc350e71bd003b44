//! Requests as programs send them, and as nobody should.

use data_encoding::BASE64;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::access::{Access, Asked};
use super::call::{Act, Call, Id, Ids, Message, Move, What, answer};
use super::http::{BadRequest, Head, MAX_BODY, MAX_HEAD, Method, parse_head};
use super::session::{Change as SessionChange, Settings};
use super::torrent::{self, File, Priority, Torrent, Tracker};

const SESSION: &str = "c2Vzc2lvbg";

fn access() -> Access {
    Access {
        port: 9091,
        hosts: vec!["seedbox.lan".to_owned()],
        credentials: Some("me:secret".to_owned()),
        session: SESSION.to_owned(),
    }
}

fn basic(text: &str) -> String {
    format!("Authorization: Basic {}", BASE64.encode(text.as_bytes()))
}

fn head(lines: &[&str]) -> Head {
    let text = format!("{}\r\n\r\n", lines.join("\r\n"));
    parse_head(text.as_bytes()).unwrap().unwrap().0
}

/// A call by somebody who may, with these lines in place of, or beside, the usual ones.
fn ask(host: &str, more: &[&str]) -> Result<Asked, String> {
    let (host, auth) = (format!("Host: {host}"), basic("me:secret"));
    let session = format!("X-Transmission-Session-Id: {SESSION}");
    let mut lines = vec!["POST /transmission/rpc HTTP/1.1", &host, &auth, &session];
    lines.extend(more);
    let checked = access().check(&head(&lines));
    checked.map_err(|response| response.code().to_owned())
}

#[test]
fn only_loopback_names_with_our_port_and_those_that_were_given_lead_here() {
    for host in [
        "127.0.0.1:9091",
        "127.0.0.1",
        "localhost:9091",
        "LocalHost",
        "[::1]:9091",
        "[::1]",
        "127.9.9.9:9091",
        "seedbox.lan",
        "SEEDBOX.lan:9091",
    ] {
        assert_eq!(ask(host, &[]), Ok(Asked::Call), "{host}");
    }
    for host in [
        "",
        "evil.example",
        "evil.example:9091",
        "127.0.0.1:80",
        "127.0.0.1:",
        "127.0.0.1:+9091",
        "127.0.0.1.evil.example:9091",
        "localhost.evil.example",
        "192.0.2.1:9091",
        "[::1",
        "[::1]x:9091",
        "0.0.0.0:9091",
    ] {
        assert_eq!(ask(host, &[]), Err("421".to_owned()), "{host}");
    }
    // None at all.
    let lines = ["POST /transmission/rpc HTTP/1.1", &basic("me:secret")];
    assert_eq!(access().check(&head(&lines)).unwrap_err().code(), "421");
}

#[test]
fn no_web_page_may_ask_whatever_it_says() {
    let with = |line: &str| ask("localhost:9091", &[line]);
    for line in [
        "Origin: http://evil.example",
        "Origin: null",
        "Origin: http://localhost:8080",
        "Origin: http://localhost",
        "Origin: http://localhost:9091@evil.example",
        "Origin: file://localhost:9091",
        "Referer: https://evil.example/localhost:9091/",
        "Referer: ",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ] {
        assert_eq!(with(line), Err("403".to_owned()), "{line}");
    }
    for line in [
        "Origin: http://localhost:9091",
        "Origin: http://127.0.0.1:9091",
        "Referer: http://localhost:9091/transmission/web/",
        "Sec-Fetch-Site: none",
    ] {
        assert_eq!(with(line), Ok(Asked::Call), "{line}");
    }
}

#[test]
fn the_password_and_then_the_session_id_are_asked_for() {
    let rpc = "POST /transmission/rpc HTTP/1.1";
    let host = "Host: localhost:9091";
    let check = |lines: &[&str]| access().check(&head(lines));
    for auth in [
        "X-No: auth",
        &basic("me:wrong"),
        &basic("me"),
        "Authorization: Basic !!",
        "Authorization: Bearer x",
    ] {
        let refused = check(&[rpc, host, auth]).unwrap_err();
        assert_eq!(refused.code(), "401", "{auth}");
        let text = String::from_utf8(refused.encode()).unwrap();
        assert!(text.contains("WWW-Authenticate: Basic realm="), "{text}");
        assert!(
            !text.contains(SESSION),
            "who may not ask learns no session id"
        );
    }
    let auth = basic("me:secret");
    for wrong in [
        "X-No: session",
        "X-Transmission-Session-Id: old",
        "X-Transmission-Session-Id: ",
    ] {
        let refused = check(&[rpc, host, &auth, wrong]).unwrap_err();
        assert_eq!(refused.code(), "409");
        let text = String::from_utf8(refused.encode()).unwrap();
        // In a header, and in the body for people.
        assert_eq!(
            text.matches(&format!("X-Transmission-Session-Id: {SESSION}"))
                .count(),
            2
        );
        assert!(!text.to_lowercase().contains("x-transmission-rpc-version"));
    }
    // Flood and Sonarr ask for the id by GET, with or without an older one.
    let id = format!("X-Transmission-Session-Id: {SESSION}");
    let get = "GET /transmission/rpc HTTP/1.1";
    assert_eq!(check(&[get, host, &auth]).unwrap_err().code(), "409");
    assert_eq!(check(&[get, host, &auth, &id]).unwrap_err().code(), "409");
    assert_eq!(check(&[rpc, host, &auth, &id]), Ok(Asked::Call));
    assert_eq!(
        check(&["GET /metrics HTTP/1.1", host, &auth]),
        Ok(Asked::Metrics)
    );
    assert_eq!(
        check(&["GET /metrics HTTP/1.1", host]).unwrap_err().code(),
        "401"
    );
    assert_eq!(
        check(&["GET / HTTP/1.1", host, &auth]).unwrap_err().code(),
        "404"
    );
    assert_eq!(
        check(&["PUT /transmission/rpc HTTP/1.1", host, &auth])
            .unwrap_err()
            .code(),
        "405"
    );
    assert_eq!(
        check(&["OPTIONS /transmission/rpc HTTP/1.1", host, &auth])
            .unwrap_err()
            .code(),
        "405"
    );
    let open = Access {
        credentials: None,
        ..access()
    };
    assert_eq!(open.check(&head(&[rpc, host, &id])), Ok(Asked::Call));
}

#[test]
fn a_head_that_could_mean_two_things_is_refused() {
    let parse = |lines: &[&str]| parse_head(format!("{}\r\n\r\n", lines.join("\r\n")).as_bytes());
    let get = "GET / HTTP/1.1";
    for (lines, error) in [
        (vec![get, "Host: a", "Host: b"], BadRequest::Malformed),
        (
            vec![get, "Content-Length: 1", "Content-Length: 1"],
            BadRequest::Malformed,
        ),
        (vec![get, "Content-Length: +1"], BadRequest::Malformed),
        (vec![get, "Content-Length: "], BadRequest::Malformed),
        (vec![get, "Content-Length: 1, 1"], BadRequest::Malformed),
        (
            vec![get, "Transfer-Encoding: chunked"],
            BadRequest::NoLength,
        ),
        (
            vec![get, "Content-Length: 99999999999999999999999"],
            BadRequest::BodyTooLong,
        ),
        (vec!["hello", "x"], BadRequest::Malformed),
    ] {
        assert_eq!(parse(&lines), Err(error), "{lines:?}");
        assert!(error.response().encode().starts_with(b"HTTP/1.1 4"));
    }
    let largest = format!("Content-Length: {MAX_BODY}");
    let head = parse(&["POST /x?y HTTP/1.1", &largest, "Expect: 100-Continue"]);
    let (head, used) = head.unwrap().unwrap();
    assert_eq!((head.method, head.path.as_str()), (Method::Post, "/x"));
    assert!(head.waits && used > 0 && head.length == MAX_BODY);
    // Of an endless one no more is read than that.
    let endless = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(MAX_HEAD));
    assert_eq!(parse_head(endless.as_bytes()), Err(BadRequest::HeadTooLong));
    let many = "A: b\r\n".repeat(100);
    let many = format!("GET / HTTP/1.1\r\n{many}\r\n");
    assert_eq!(parse_head(many.as_bytes()), Err(BadRequest::HeadTooLong));
}

fn call(method: &str, arguments: Value) -> Result<Call, String> {
    let body = json!({ "method": method, "arguments": arguments, "tag": 7 });
    let message = Message::parse(body.to_string().as_bytes());
    assert_eq!(message.tag, Some(7));
    message.call
}

#[test]
fn ids_are_what_they_say_and_nothing_else_is_taken_for_all_of_them() {
    let hash = "AB".repeat(20);
    let ids = |ids: Value| match call("torrent-remove", json!({ "ids": ids })) {
        Ok(Call::Act(ids, Act::Remove(false))) => Ok(ids),
        other => Err(format!("{other:?}")),
    };
    let this = |id| Ids::These(vec![id]);
    assert_eq!(ids(json!(3)), Ok(this(Id::Number(3))));
    assert_eq!(ids(json!(3.0)), Ok(this(Id::Number(3))));
    assert_eq!(ids(json!(hash)), Ok(this(Id::Hash(hash.to_lowercase()))));
    assert_eq!(
        ids(json!([1, hash])),
        Ok(Ids::These(vec![
            Id::Number(1),
            Id::Hash(hash.to_lowercase())
        ]))
    );
    assert_eq!(ids(json!([])), Ok(Ids::These(Vec::new())));
    assert_eq!(ids(json!("recently-active")), Ok(Ids::RecentlyActive));
    for bad in [
        json!(null),
        json!(true),
        json!({}),
        json!([null]),
        json!([[1]]),
        json!(1.5),
    ] {
        assert!(ids(bad.clone()).is_err(), "{bad}");
    }
    let all = call("torrent-stop", json!({}));
    assert_eq!(all, Ok(Call::Act(Ids::All, Act::Stop)));
}

#[test]
fn methods_that_are_not_known_or_can_not_be_are_said_to_be() {
    assert_eq!(
        call("torrent-fly", json!({})),
        Err("method name not recognized".to_owned())
    );
    for method in ["blocklist-update", "torrent-rename-path", "group-set"] {
        assert!(call(method, json!({})).is_err(), "{method}");
    }
    let parse = |body: &str| Message::parse(body.as_bytes()).call;
    for body in [
        "",
        "[]",
        "{",
        "{}",
        "{\"method\":5}",
        "{\"method\":\"session-get\",\"arguments\":[]}",
    ] {
        assert!(parse(body).is_err(), "{body}");
    }
    assert_eq!(
        parse("{\"method\":\"session-get\",\"arguments\":null}"),
        Ok(Call::SessionGet(None))
    );
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse(&deep).is_err());
    let deep = format!("{{\"method\":\"session-get\",\"arguments\":{{\"a\":{deep}}}}}");
    assert!(parse(&deep).is_err());
    let said: Value = serde_json::from_slice(&answer(Err("why".to_owned()), Some(5))).unwrap();
    assert_eq!(said, json!({ "arguments": {}, "result": "why", "tag": 5 }));
}

#[test]
fn a_torrent_is_added_by_link_path_or_file() {
    let add = |arguments: Value| match call("torrent-add", arguments) {
        Ok(Call::TorrentAdd(add)) => Ok(*add),
        Ok(other) => Err(format!("{other:?}")),
        Err(why) => Err(why),
    };
    let link = "magnet:?xt=urn:btih:x";
    let added = add(json!({
        "filename": link, "paused": 1, "download-dir": "/srv/tv", "labels": ["a", "b"],
        "files-unwanted": [1, 2.0], "priority-high": [0], "cookies": "ignored", "bandwidthPriority": 9,
    }))
    .unwrap();
    assert!(added.what == What::Name(link.to_owned()));
    assert_eq!(
        (added.paused, added.download_dir.as_deref()),
        (Some(true), Some("/srv/tv"))
    );
    assert_eq!(
        added.change.labels,
        Some(vec!["a".to_owned(), "b".to_owned()])
    );
    assert_eq!(added.change.unwanted, Some(vec![1, 2]));
    assert_eq!(added.change.priorities, [(vec![0], Priority::High)]);
    assert_eq!(added.change.bandwidth_priority, Some(1));
    // base64 with lines, or without its padding.
    for text in ["aGk=", "aGk", "aG\nk=\n"] {
        assert!(add(json!({ "metainfo": text })).unwrap().what == What::File(b"hi".to_vec()));
    }
    assert_eq!(
        add(json!({ "filename": link, "download-dir": "" }))
            .unwrap()
            .download_dir,
        None
    );
    for bad in [
        json!({}),
        json!({ "filename": "" }),
        json!({ "filename": 5 }),
        json!({ "metainfo": "%%%" }),
        json!({ "filename": link, "download-dir": "relative" }),
        json!({ "filename": link, "download-dir": "/a\u{0}b" }),
        json!({ "filename": link, "paused": "perhaps" }),
        json!({ "filename": link, "labels": ["a,b"] }),
        json!({ "filename": link, "files-wanted": [-1] }),
        json!({ "filename": link, "files-wanted": "0" }),
        json!({ "filename": link, "seedRatioLimit": "NaN" }),
    ] {
        assert!(add(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn a_torrent_is_changed_as_it_is_said() {
    let set = |arguments: Value| match call("torrent-set", arguments) {
        Ok(Call::TorrentSet(Ids::These(_), change)) => Ok(*change),
        other => Err(format!("{other:?}")),
    };
    let change = set(json!({
        "ids": [1], "seedRatioLimit": 1.5, "seedRatioMode": 1, "seedIdleLimit": 90, "seedIdleMode": 1,
        "trackerReplace": [0, "udp://a", 1, "udp://b"], "trackerRemove": [2], "trackerAdd": ["udp://c"],
        "trackerList": "http://a\nhttp://b\n\n\nhttp://c\n", "queuePosition": 3,
        "downloadLimited": true, "downloadLimit": 100,
    }))
    .unwrap();
    assert_eq!((change.ratio, change.ratio_mode), (Some(1.5), Some(1)));
    assert_eq!((change.idle, change.idle_mode), (Some(90), Some(1)));
    assert_eq!(change.trackers_replace.len(), 2);
    let tiers = vec![
        vec!["http://a".to_owned(), "http://b".to_owned()],
        vec!["http://c".to_owned()],
    ];
    assert_eq!(change.tracker_list, Some(tiers));
    assert_eq!(
        (change.down_limited, change.down_limit),
        (Some(true), Some(100))
    );
    for bad in [
        json!({ "ids": 1, "seedRatioMode": 3 }),
        json!({ "ids": 1, "seedRatioLimit": -1 }),
        json!({ "ids": 1, "trackerReplace": [0] }),
        json!({ "ids": 1, "downloadLimit": -5 }),
        json!({ "ids": 1, "downloadLimit": 1e300 }),
        json!({ "ids": 1, "queuePosition": [] }),
    ] {
        assert!(set(bad.clone()).is_err(), "{bad}");
    }
    assert_eq!(
        call("queue-move-up", json!({ "ids": 2 })),
        Ok(Call::Act(
            Ids::These(vec![Id::Number(2)]),
            Act::Queue(Move::Up)
        ))
    );
}

#[test]
fn what_is_set_is_given_back_and_what_can_not_be_is_refused() {
    let mut settings = Settings::new("/srv".to_owned());
    let arguments = json!({
        "download-dir": "/srv/new", "speed-limit-down": 250, "speed-limit-down-enabled": true,
        "alt-speed-up": 7, "seedRatioLimit": 3, "seedRatioLimited": 1, "download-queue-size": 2,
        "utp-enabled": false, "peer-port": 51413, "encryption": "required",
    });
    let Value::Object(arguments) = arguments else {
        panic!("it is an object")
    };
    settings.apply(&SessionChange::parse(&arguments).unwrap());
    assert_eq!(settings.limits(), (Some(250_000), None));
    let mut again = Settings::new("/other".to_owned());
    again.apply(&SessionChange::parse(&settings.to_value()).unwrap());
    assert_eq!(again, settings);
    again.is_slow = true;
    assert_eq!(again.limits(), (Some(50_000), Some(7000)));
    for bad in [
        json!({ "port-forwarding-enabled": true }),
        json!({ "incomplete-dir-enabled": true }),
        json!({ "default-trackers": "http://t.example/a" }),
        json!({ "download-dir": "relative" }),
        json!({ "seedRatioLimit": -1.0 }),
    ] {
        assert!(call("session-set", bad.clone()).is_err(), "{bad}");
    }
}

fn some() -> Torrent {
    Torrent {
        id: 4,
        hash: "ab".repeat(20),
        size_when_done: 200,
        total_size: 300,
        left: 50,
        files: vec![File {
            name: "n/a".to_owned(),
            length: 300,
            done: 150,
            wanted: true,
            priority: Priority::High,
        }],
        trackers: vec![
            Tracker {
                announce: "http://t.example:80/announce?passkey=1".to_owned(),
                ..Tracker::default()
            },
            Tracker {
                announce: "udp://u.example:1".to_owned(),
                tier: 1,
                ..Tracker::default()
            },
        ],
        ..Torrent::default()
    }
}

#[test]
fn torrents_are_told_as_objects_or_as_a_table() {
    let fields: Vec<String> = ["id", "percentDone", "nonsense", "wanted", "trackerList"]
        .map(str::to_owned)
        .to_vec();
    let list = "http://t.example:80/announce?passkey=1\n\nudp://u.example:1\n";
    assert_eq!(
        torrent::answer(&[some()], &fields, false),
        json!([{ "id": 4, "percentDone": 0.75, "wanted": [1], "trackerList": list }])
    );
    assert_eq!(
        torrent::answer(&[some()], &fields, true),
        json!([
            ["id", "percentDone", "wanted", "trackerList"],
            [4, 0.75, [1], list]
        ])
    );
    assert_eq!(torrent::answer(&[], &fields, false), json!([]));
    let host = &some().field("trackerStats").unwrap()[0]["host"];
    assert_eq!(*host, "t.example:80");
}

proptest! {
    #[test]
    fn any_bytes_are_a_head_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(Some((head, used))) = parse_head(&bytes) {
            prop_assert!(used <= bytes.len() && head.length <= MAX_BODY);
            // Nobody is let in by chance.
            prop_assert!(access().check(&head).is_err());
        }
    }

    #[test]
    fn a_head_is_the_same_however_it_comes(cut in 0_usize..200) {
        let text = b"POST /transmission/rpc HTTP/1.1\r\nHost: localhost:9091\r\nContent-Length: 4\r\n\r\nbody";
        let cut = cut.min(text.len());
        match parse_head(&text[..cut]) {
            Ok(None) => prop_assert!(cut < text.len() - 4),
            Ok(Some((head, used))) => prop_assert!(head.length == 4 && used == text.len() - 4),
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn any_json_is_a_call_or_a_reason(
        method in "(torrent|session|queue)-(add|set|get|remove|move-top|set-location)",
        name in "(ids|fields|filename|metainfo|labels|location|trackerReplace|files-wanted|seedRatioLimit|paused|download-dir)",
        value in json_value(),
    ) {
        let mut arguments = serde_json::Map::new();
        arguments.insert(name, value);
        let body = json!({ "method": method, "arguments": arguments }).to_string();
        let message = Message::parse(body.as_bytes());
        let said = answer(message.call.map(|_| serde_json::Map::new()), message.tag);
        prop_assert!(serde_json::from_slice::<Value>(&said).is_ok());
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::hash_map("[a-z]{1,5}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
