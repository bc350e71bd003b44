//! Conversations of real programs, written down from their sources, and what nobody should send, over streams in memory.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use data_encoding::BASE64;
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::Target;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::daemon::session::{Begin, begin};
use crate::daemon::{Beside, Running, Start, Starter, Ways};
use crate::route::{BoxFuture, BoxStream, Datagrams, Outside, RouteError};
use crate::state::StateDir;
use crate::torrent::by_url::Found;
use crate::torrent::engine::{Engine, Job, Options};
use crate::torrent::metainfo::Metainfo;

/// A world in which nobody can be reached.
struct Nobody;

impl Outside for Nobody {
    fn connect<'a>(
        &'a self,
        _: &'a Target,
        _: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        Box::pin(async { Err(RouteError::Unreachable) })
    }

    fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        Box::pin(async { Err(RouteError::Unreachable) })
    }
}

struct Alone(Options);

/// Web addresses, and what stands there.
const HAS_A_TORRENT: &str = "https://site.example/get?id=7";
const LEADS_TO_A_LINK: &str = "HTTPS://site.example/link";
const HAS_A_PAGE: &str = "https://site.example/";
const NEVER_ANSWERS: &str = "http://site.example/slow";

impl Starter for Alone {
    fn start(&self, start: Start) -> Result<Running, String> {
        let job = Job {
            source: start.source,
            output: start.output,
            seed_after: true,
            overwrite: false,
            info: start.info,
        };
        let engine = Engine::new(Arc::new(Nobody), self.0.clone());
        let beside = tokio::spawn(std::future::pending::<()>());
        Ok(Running {
            handle: engine.download_only(job, start.select),
            beside: Beside(beside.abort_handle()),
        })
    }

    fn fetch<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Found, String>> {
        Box::pin(async move {
            match url {
                HAS_A_TORRENT => Ok(Found::File(torrent())),
                LEADS_TO_A_LINK => {
                    let hash = "07".repeat(20);
                    Ok(Found::Magnet(format!("magnet:?xt=urn:btih:{hash}")))
                }
                HAS_A_PAGE => Ok(Found::File(b"<html>".to_vec())),
                NEVER_ANSWERS => std::future::pending().await,
                _ => Err("it is not there".to_owned()),
            }
        })
    }

    fn limit(&self, _: Option<u64>, _: Option<u64>) {}

    fn ways(&self) -> Ways {
        Ways::default()
    }
}

struct Scene {
    dir: TempDir,
    server: Arc<Server>,
    session: Session,
    id: String,
}

const AUTH: &str = "me:secret";

fn scene() -> Scene {
    let dir = TempDir::new().unwrap();
    let (server, session) = open(&dir);
    let id = "an-id".to_owned();
    Scene {
        dir,
        server,
        session,
        id,
    }
}

fn open(dir: &TempDir) -> (Arc<Server>, Session) {
    let state = StateDir::open(dir.path().join("state")).unwrap();
    let first = Begin {
        download_dir: dir.path().join("out"),
        download_dir_named: false,
        id: "an-id".to_owned(),
    };
    let starter = Arc::new(Alone(Options::new(state.path().to_owned())));
    let (session, _, damaged) = begin(first, &state, starter).unwrap();
    assert_eq!(damaged, 0);
    let access = Access {
        port: 9091,
        hosts: Vec::new(),
        credentials: Some(AUTH.to_owned()),
        session: "an-id".to_owned(),
    };
    (Server::new(access, session.clone()), session)
}

impl Scene {
    /// Sends these bytes, and gives the response.
    async fn send(&self, request: &[u8]) -> String {
        let (mut near, far) = tokio::io::duplex(1 << 16);
        let serving = tokio::spawn(Arc::clone(&self.server).handle(Box::new(far)));
        // A refused request is not read to its end.
        let _ = near.write_all(request).await;
        let mut response = Vec::new();
        near.read_to_end(&mut response).await.unwrap();
        drop(near);
        serving.await.unwrap();
        String::from_utf8(response).unwrap()
    }

    async fn request(&self, method: &str, id: Option<&str>, body: &str) -> (String, Value) {
        let auth = BASE64.encode(AUTH.as_bytes());
        let id = id.map_or(String::new(), |id| {
            format!("X-Transmission-Session-Id: {id}\r\n")
        });
        let request = format!(
            "{method} /transmission/rpc HTTP/1.1\r\nHost: 127.0.0.1:9091\r\nAuthorization: Basic {auth}\r\n{id}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let response = self.send(request.as_bytes()).await;
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (
            head.to_owned(),
            serde_json::from_str(body).unwrap_or_default(),
        )
    }

    async fn call(&self, request: &Value) -> Value {
        let (head, answer) = self
            .request("POST", Some(&self.id), &request.to_string())
            .await;
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        answer
    }
}

/// A torrent of two files, 20000 and 5 bytes.
fn torrent() -> Vec<u8> {
    let file = |name: &str, len: u64| format!("d6:lengthi{len}e4:pathl{}:{name}ee", name.len());
    let files = [file("a.mkv", 20000), file("b.nfo", 5)].concat();
    format!(
        "d8:announce23:http://tracker.example/4:infod5:filesl{files}e4:name5:Show112:piece lengthi16384e6:pieces40:{}ee",
        "h".repeat(40)
    )
    .into_bytes()
}

/// Whether a value is of the kind, or has the form, that a fixture names.
fn fits(form: &Value, value: &Value) -> bool {
    match form {
        Value::String(kind) => match kind.as_str() {
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            _ => panic!("no kind: {kind}"),
        },
        Value::Array(forms) => {
            let values = value.as_array().unwrap();
            match forms.first() {
                None => values.is_empty(),
                Some(form) => !values.is_empty() && values.iter().all(|value| fits(form, value)),
            }
        }
        Value::Object(forms) => forms.iter().all(|(name, form)| fits(form, &value[name])),
        Value::Null | Value::Bool(_) | Value::Number(_) => panic!("no form: {form}"),
    }
}

async fn converse(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rpc");
    let scene = scene();
    let file = torrent();
    let hash = Metainfo::parse(&file).unwrap().info.hash.hex();
    let text = std::fs::read_to_string(path.join(name)).unwrap();
    let text = text
        .replace("$HASH", &hash)
        .replace(
            "$MAGNET",
            &format!("magnet:?xt=urn:btih:{}&dn=x", "07".repeat(20)),
        )
        .replace("$METAINFO", &BASE64.encode(&file))
        .replace("$DIR", scene.dir.path().join("out").to_str().unwrap());
    let fixture: Value = serde_json::from_str(&text).unwrap();
    for step in fixture["steps"].as_array().unwrap() {
        if step["get"] == true {
            let (head, _) = scene.request("GET", None, "").await;
            assert!(head.starts_with("HTTP/1.1 409"), "{head}");
            assert!(head.contains("X-Transmission-Session-Id: an-id"), "{head}");
            continue;
        }
        let answer = scene.call(&step["request"]).await;
        assert_eq!(answer["result"], "success", "{} {answer}", step["request"]);
        let arguments = &answer["arguments"];
        assert!(
            fits(&step["answer"], arguments),
            "{} {arguments}",
            step["request"]
        );
        if step["exactly"] == true {
            let count = |value: &Value| value.as_object().unwrap().len();
            assert_eq!(count(arguments), count(&step["answer"]));
        }
        // What has to stand in one of the torrents.
        if let Some(holds) = step["holds"].as_object() {
            let torrents = arguments["torrents"].as_array().unwrap();
            let one = |torrent: &&Value| holds.iter().all(|(name, value)| torrent[name] == *value);
            assert!(torrents.iter().any(|torrent| one(&torrent)), "{arguments}");
        }
    }
    scene.session.stop().await;
}

#[tokio::test]
async fn torrents_are_added_by_web_address_and_nobody_waits_for_a_slow_one() {
    let scene = Arc::new(scene());
    let add = |url: &str| json!({ "method": "torrent-add", "arguments": { "filename": url } });
    let slow = {
        let (scene, slow) = (Arc::clone(&scene), add(NEVER_ANSWERS));
        tokio::spawn(async move { scene.call(&slow).await })
    };
    tokio::task::yield_now().await;
    let answer = scene.call(&add(HAS_A_TORRENT)).await;
    assert_eq!(
        answer["arguments"]["torrent-added"]["name"], "Show1",
        "{answer}"
    );
    let answer = scene.call(&add(LEADS_TO_A_LINK)).await;
    let hash = &answer["arguments"]["torrent-added"]["hashString"];
    assert_eq!(*hash, "07".repeat(20), "{answer}");
    for url in [
        HAS_A_PAGE,
        "https://site.example/gone",
        "ftp://site.example/a",
    ] {
        let answer = scene.call(&add(url)).await;
        let result = answer["result"].as_str().unwrap();
        assert!(
            result != "success" && !result.contains("site.example"),
            "{result}"
        );
    }
    let list = json!({ "method": "torrent-get", "arguments": { "fields": ["id"] } });
    let answer = scene.call(&list).await;
    let torrents = answer["arguments"]["torrents"].as_array().unwrap();
    assert_eq!(torrents.len(), 2);
    slow.abort();
    scene.session.stop().await;
}

#[tokio::test]
async fn sonarr_is_answered_with_every_field_it_reads() {
    converse("sonarr.json").await;
}

#[tokio::test]
async fn flood_is_answered_with_every_field_it_reads() {
    converse("flood.json").await;
}

#[test]
fn a_form_that_does_not_fit_is_seen() {
    let form = json!({ "a": ["integer"], "b": "string" });
    assert!(fits(&form, &json!({ "a": [1], "b": "x", "c": 0 })));
    for wrong in [
        json!({ "a": [1.5], "b": "x" }),
        json!({ "a": [], "b": "x" }),
        json!({ "a": [1] }),
    ] {
        assert!(!fits(&form, &wrong), "{wrong}");
    }
}

#[tokio::test]
async fn a_torrent_that_is_not_there_changes_nothing() {
    let scene = scene();
    let hash = "ee".repeat(20);
    for method in [
        "torrent-remove",
        "torrent-start",
        "torrent-set",
        "queue-move-top",
    ] {
        let answer = scene
            .call(&json!({ "method": method, "arguments": { "ids": [hash, 99] } }))
            .await;
        assert_eq!(answer["result"], "success");
    }
    for (arguments, why) in [
        (
            json!({ "filename": "https://t.example/x.torrent" }),
            "it is not there",
        ),
        (json!({ "filename": "/no/such.torrent" }), "no torrent file"),
        (json!({ "filename": "magnet:?dn=x" }), "names no torrent"),
        (json!({ "metainfo": "aGVsbG8=" }), "not a torrent"),
    ] {
        let answer = scene
            .call(&json!({ "method": "torrent-add", "arguments": arguments }))
            .await;
        assert!(answer["result"].as_str().unwrap().contains(why), "{answer}");
    }
    let answer = scene
        .call(&json!({ "method": "torrent-get", "arguments": { "fields": ["id"] } }))
        .await;
    assert_eq!(answer["arguments"], json!({ "torrents": [] }));
}

#[tokio::test]
async fn who_asks_what_is_new_hears_of_what_went() {
    let scene = scene();
    let add = json!({ "method": "torrent-add", "arguments": { "metainfo": BASE64.encode(&torrent()), "paused": true } });
    let id = scene.call(&add).await["arguments"]["torrent-added"]["id"].clone();
    let recent = json!({ "method": "torrent-get", "arguments": { "fields": ["id"], "ids": "recently-active" } });
    let answer = scene.call(&recent).await;
    assert_eq!(
        answer["arguments"],
        json!({ "torrents": [{ "id": id }], "removed": [] })
    );
    scene
        .call(&json!({ "method": "torrent-remove", "arguments": { "ids": id } }))
        .await;
    let answer = scene.call(&recent).await;
    assert_eq!(
        answer["arguments"],
        json!({ "torrents": [], "removed": [id] })
    );
}

#[tokio::test]
async fn the_next_daemon_has_what_the_last_one_was_told_even_if_that_was_killed() {
    let scene = scene();
    let add = json!({ "method": "torrent-add", "arguments": {
        "metainfo": BASE64.encode(&torrent()), "paused": true, "labels": ["x"], "files-unwanted": [0], "priority-high": [1],
    } });
    let link = json!({ "method": "torrent-add", "arguments": { "filename": format!("magnet:?xt=urn:btih:{}", "07".repeat(20)), "paused": true } });
    for call in [&add, &link] {
        assert_eq!(scene.call(call).await["result"], "success");
    }
    let top = json!({ "method": "queue-move-top", "arguments": { "ids": ["07".repeat(20)] } });
    scene.call(&top).await;
    scene
        .call(&json!({ "method": "session-set", "arguments": { "seed-queue-size": 3 } }))
        .await;
    let fields = [
        "hashString",
        "labels",
        "wanted",
        "priorities",
        "queuePosition",
        "status",
        "addedDate",
        "downloadDir",
    ];
    let get = json!({ "method": "torrent-get", "arguments": { "fields": fields } });
    let before = scene.call(&get).await;
    // Nobody stops it: what it was told is on the disk already.
    let (server, session) = open(&scene.dir);
    let next = Scene {
        server,
        session,
        id: scene.id.clone(),
        dir: TempDir::new().unwrap(),
    };
    let after = next.call(&get).await;
    assert_eq!(after, before);
    let torrents = after["arguments"]["torrents"].as_array().unwrap();
    assert_eq!(torrents[0]["hashString"], "07".repeat(20));
    assert_eq!(torrents[1]["wanted"], json!([0, 1]));
    let session = next
        .call(&json!({ "method": "session-get", "arguments": { "fields": ["seed-queue-size"] } }))
        .await;
    assert_eq!(session["arguments"], json!({ "seed-queue-size": 3 }));
}

#[tokio::test(start_paused = true)]
async fn who_is_slow_is_left_and_who_sends_nonsense_is_told_so() {
    let scene = scene();
    // Never ends its head.
    let (mut near, far) = tokio::io::duplex(1024);
    let serving = tokio::spawn(Arc::clone(&scene.server).handle(Box::new(far)));
    near.write_all(b"POST /transmission/rpc HTTP/1.1\r\nHost:")
        .await
        .unwrap();
    serving.await.unwrap();
    // Never sends its body.
    let (mut near, far) = tokio::io::duplex(1024);
    let auth = BASE64.encode(AUTH.as_bytes());
    let head = format!(
        "POST /transmission/rpc HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {auth}\r\nX-Transmission-Session-Id: an-id\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    );
    let serving = tokio::spawn(Arc::clone(&scene.server).handle(Box::new(far)));
    near.write_all(head.as_bytes()).await.unwrap();
    let mut said = [0; CONTINUE.len()];
    near.read_exact(&mut said).await.unwrap();
    assert_eq!(said, CONTINUE);
    serving.await.unwrap();
    for (request, status) in [
        (&b"hello\r\n\r\n"[..], "400"),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421"),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", "401"),
    ] {
        let response = scene.send(request).await;
        assert_eq!(response.split(' ').nth(1), Some(status));
    }
    let request =
        format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {auth}\r\n\r\n");
    let response = scene.send(request.as_bytes()).await;
    assert!(
        response.contains("hushswarm_torrents{state=\"stopped\"} 0\n"),
        "{response}"
    );
}
