//! `hushswarm get` takes a torrent that libtorrent made from a web server, by three relays, where nobody else has it.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use hushswarm::cli::demo::network::relay_ip;
use serde_json::Value;
use support::clients::libtorrent_python;
use support::loopback::{Loopback, outcome};
use support::process::{Process, run};
use support::{PATIENCE, fixture, hash_file, write_noise};

/// More than one run of pieces, several files in one piece, a name to escape, and padding.
const FILES: [(&str, u64); 5] = [
    ("a b%c \u{e9}.bin", 3_000_000),
    ("empty", 0),
    ("sub/one", 1),
    ("sub/two", 2),
    ("z", 100_001),
];

#[test]
fn a_folder_comes_from_a_web_seed_alone_and_the_server_sees_the_exit() {
    let Some(python) = libtorrent_python() else {
        return;
    };
    let loopback = Loopback::start("off");
    let folder = loopback.content("things");
    for (seed, (name, len)) in (1..).zip(FILES) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_noise(&path, len, seed);
    }
    let mut command = Command::new("python3");
    command.arg(fixture("web_server.py"));
    command.arg("--folder").arg(loopback.content(""));
    let mut server = Process::spawn("web server", command);
    let port = server.wait_for_event(PATIENCE, "ready")["port"].clone();
    let url = format!("http://127.0.0.1:{port}/");

    let torrent = loopback.content("things.torrent");
    let mut command = Command::new(python);
    command.arg(fixture("lt_make.py"));
    command.args([&folder, &torrent]).args(["hybrid", &url]);
    run(command);
    let (code, _, errors) = outcome(loopback.command(torrent.to_str().unwrap()));
    assert_eq!(code, 0, "{errors}");
    for (name, _) in FILES {
        let (came, was) = (loopback.out("things").join(name), folder.join(name));
        assert_eq!(hash_file(&came), hash_file(&was), "{name}");
    }

    let requests = server.events("request");
    let exit = relay_ip(2).to_string();
    let mut asked = BTreeSet::new();
    for request in &requests {
        assert_eq!(request["ip"], *exit, "it came from elsewhere");
        assert_eq!(request["status"], 206);
        assert_eq!(request["connection"], requests[0]["connection"]);
        let headers = request["headers"].as_array().unwrap();
        let names: Vec<&Value> = headers.iter().map(|header| &header[0]).collect();
        let usual = [
            "Host",
            "User-Agent",
            "Accept-Encoding",
            "Connection",
            "Range",
        ];
        assert_eq!(names, usual);
        assert!(!headers[1][1].as_str().unwrap().contains("hush"));
        asked.insert(request["line"].as_str().unwrap().to_owned());
    }
    let line = |path: &str| format!("GET /things/{path} HTTP/1.1");
    let paths = ["a%20b%25c%20%C3%A9.bin", "sub/one", "sub/two", "z"];
    assert_eq!(
        asked,
        paths.map(line).into_iter().collect(),
        "and no padding"
    );

    // The torrent file itself, by its address; then nothing is missing. Only test networks take it by plain http.
    let before = requests.len();
    let address = format!("{url}things.torrent");
    let (code, _, errors) = outcome(loopback.command(&address));
    assert_eq!(code, 0, "{errors}");
    let requests = server.events("request");
    let [fetched] = &requests[before..] else {
        panic!("{:#?}", &requests[before..]);
    };
    assert_eq!(fetched["ip"], *exit, "it came from elsewhere");
    assert_eq!(fetched["line"], "GET /things.torrent HTTP/1.1");
    let mut hidden_only = loopback.command(&address);
    hidden_only.arg("--hidden-only");
    let (code, _, errors) = outcome(hidden_only);
    assert!(code != 0 && errors.contains("hidden-only"), "{errors}");
    assert_eq!(server.events("request").len(), before + 1);
}
