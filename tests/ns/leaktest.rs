//! `hushswarm leaktest` with real clients: plain each of them leaks what docs/leaks.md says, so the test can fail; through
//! `hushswarm run` nothing leaves, whatever breaks. All of it happens in namespaces that the command makes itself.

use crate::support;

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;
use support::clients::{installed, libtorrent_python};
use support::{fixture, skip};

const PROGRAM: &str = env!("CARGO_BIN_EXE_hushswarm");

/// What `hushswarm leaktest --json` said, and its exit code.
struct Report {
    json: Value,
    code: i32,
}

/// Runs it; `None` after a [`skip`] where namespaces can't be made.
fn leaktest(options: &[&str], program: &[&str]) -> Option<Report> {
    let mut command = Command::new(PROGRAM);
    command.args(["leaktest", "--json", "--time", "120"]);
    command.args(options).arg("--").args(program);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if errors.contains("can't make a world of its own here") {
        skip(errors.trim());
        return None;
    }
    let json = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("no report ({e}), {}: {errors}", output.status));
    Some(Report {
        json,
        code: output.status.code().unwrap(),
    })
}

impl Report {
    /// `class` and `class/6` of what escaped in a run.
    fn classes(&self, run: &str) -> BTreeSet<String> {
        let rows = self.json[run]["escaped"].as_array().unwrap();
        rows.iter()
            .map(|row| {
                let class = row["class"].as_str().unwrap();
                let six = row["ipv6"].as_bool().unwrap();
                format!("{class}{}", if six { "/6" } else { "" })
            })
            .collect()
    }

    /// The positive control: this much at least can be seen of the program when it runs plain, by the family that it
    /// prefers, and the capture is whole.
    fn assert_plain_leaks(&self, classes: &[&str]) {
        let seen = self.classes("plain");
        for class in classes {
            let by_ipv6 = seen.contains(&format!("{class}/6"));
            assert!(
                seen.contains(*class) || by_ipv6,
                "{class} is not among {seen:?}: {}",
                self.json
            );
        }
        assert_eq!(self.json["plain"]["lost"], 0, "{}", self.json);
    }

    /// Nothing left but hushswarm's own link to its guard, nobody learned the address, nobody could knock.
    fn assert_nothing_escaped(&self) {
        let run = &self.json["through"];
        assert_eq!(run["escaped"].as_array().unwrap().len(), 0, "{}", self.json);
        assert_eq!(run["lost"], 0, "{}", self.json);
        assert!(run["guard_packets"].as_u64().unwrap() > 0, "{}", self.json);
        assert_eq!(run["learned"]["own_address"].as_array().unwrap().len(), 0);
        for (name, party) in run["learned"]["parties"].as_object().unwrap() {
            let from = party["from"].as_array().unwrap();
            assert!(
                !from.iter().any(|from| from == "you"),
                "{name} saw it: {}",
                self.json
            );
        }
        assert_eq!(run["open"].as_array().unwrap().len(), 0, "{}", self.json);
    }

    fn assert_clean(&self) {
        self.assert_nothing_escaped();
        assert_eq!(self.json["verdict"], "clean", "{}", self.json);
        assert_eq!(self.code, 0);
    }

    fn assert_complete(&self, run: &str) {
        assert_eq!(self.json[run]["complete"], true, "{}", self.json);
    }

    /// Values that a party learned of one kind.
    fn said(&self, run: &str, party: &str, kind: &str) -> Vec<String> {
        let values = self.json[run]["learned"]["parties"][party]["said"][kind].as_array();
        let values = values.into_iter().flatten();
        values
            .map(|value| value.as_str().unwrap().to_owned())
            .collect()
    }
}

/// aria2 with everything on that finds peers.
const ARIA2: [&str; 9] = [
    "aria2c",
    "--no-conf",
    "--seed-time=0",
    "--bt-enable-lpd=true",
    "--enable-dht=true",
    "--dht-entry-point=router.bittorrent.com:6881",
    "--dht-message-timeout=3",
    "-d",
    "{dir}",
];

fn aria2(source: &'static str) -> Vec<&'static str> {
    [&ARIA2[..], &[source]].concat()
}

/// L01, L04, L05, L06, L10, L11, L13, L14, L16 (aria2): by magnet.
#[test]
fn aria2_leaks_plain_and_not_through_run() {
    if !installed("aria2c") {
        return;
    }
    let Some(report) = leaktest(&[], &aria2("{magnet}")) else {
        return;
    };
    report.assert_plain_leaks(&["dns", "dht", "peer-tcp", "lsd"]);
    report.assert_complete("plain");
    report.assert_clean();
    report.assert_complete("through");
}

/// L15, L16: the hushswarm around the program is killed in the middle.
#[test]
fn nothing_escapes_when_the_proxy_is_killed() {
    if !installed("aria2c") {
        return;
    }
    let options = ["--only", "through", "--fault", "kill-proxy"];
    let Some(report) = leaktest(&options, &aria2("{torrent}")) else {
        return;
    };
    assert_eq!(report.json["through"]["fault"], true, "{}", report.json);
    assert_eq!(report.json["through"]["complete"], false, "{}", report.json);
    report.assert_nothing_escaped();
}

/// L15, L17: no relay is left, so there is no way out, and none is made.
#[test]
fn nothing_escapes_when_all_relays_are_gone() {
    if !installed("aria2c") {
        return;
    }
    let options = [
        "--only",
        "through",
        "--fault",
        "kill-relays",
        "--outage",
        "20",
    ];
    let Some(report) = leaktest(&options, &aria2("{magnet}")) else {
        return;
    };
    assert_eq!(report.json["through"]["fault"], true, "{}", report.json);
    report.assert_nothing_escaped();
}

/// L01-L06, L11-L14, L16, L29: a program that ignores its proxy and tries every door itself.
#[test]
fn a_program_that_ignores_its_proxy_leaks_nothing_through_run() {
    let script = fixture("leak_every_way.py");
    let program = [
        "python3",
        script.to_str().unwrap(),
        "tracker.leaktest-world.net",
        "6969",
    ];
    let Some(report) = leaktest(&[], &program) else {
        return;
    };
    report.assert_plain_leaks(&[
        "dns",
        "dht",
        "dht/6",
        "udp-tracker",
        "utp",
        "peer-tcp",
        "peer-tcp/6",
        "lsd",
        "ssdp",
        "nat-pmp",
        "mdns",
        "stun",
        "mcast-join",
        "multicast",
        "neighbour",
    ]);
    report.assert_nothing_escaped();
}

/// L01, L02, L05, L06, L09, L11, L12, L14, L26 (libtorrent with its own defaults): found by the DHT alone.
#[test]
fn libtorrent_leaks_plain_and_not_through_run() {
    let Some(python) = libtorrent_python() else {
        return;
    };
    let script = fixture("lt_get.py");
    let program = [
        python.to_str().unwrap(),
        script.to_str().unwrap(),
        "{magnet}",
        "{dir}",
        "--listen",
        "0.0.0.0:6881,[::]:6881",
        "--discovery",
        "--utp",
        "--stay",
    ];
    let Some(report) = leaktest(&[], &program) else {
        return;
    };
    report.assert_plain_leaks(&["dns", "dht", "peer-tcp", "lsd", "ssdp", "nat-pmp"]);
    report.assert_complete("plain");
    let ids = report.said("through", "DHT nodes", "node ids");
    assert!(
        !ids.iter().any(|kind| kind == "made from its address"),
        "L09: {}",
        report.json
    );
    report.assert_clean();
    report.assert_complete("through");
}

/// L01, L02, L03, L05, L06, L07, L08, L10, L11, L12, L14, L20 (Transmission with its own defaults).
#[test]
fn transmission_leaks_plain_and_not_through_run() {
    if !installed("transmission-daemon") {
        return;
    }
    let script = fixture("transmission_get.sh");
    let program = [script.to_str().unwrap(), "{dir}", "{magnet}"];
    let Some(report) = leaktest(&[], &program) else {
        return;
    };
    // It is often done before its DHT has begun, whose leaks the other clients show.
    report.assert_plain_leaks(&["dns", "peer-tcp", "lsd", "ssdp"]);
    report.assert_complete("plain");
    report.assert_clean();
    report.assert_complete("through");
}

/// L01, L02, L05, L06, L10, L11, L12, L14 (qBittorrent with its own defaults).
#[test]
fn qbittorrent_leaks_plain_and_not_through_run() {
    if !installed("qbittorrent-nox") {
        return;
    }
    let config = format!(
        "{}=.config/qBittorrent/qBittorrent.conf",
        fixture("qbittorrent.conf").display()
    );
    let program = ["qbittorrent-nox", "--save-path={dir}", "{magnet}"];
    let Some(report) = leaktest(&["--template", &config], &program) else {
        return;
    };
    report.assert_plain_leaks(&["dns", "dht", "peer-tcp", "lsd", "ssdp", "nat-pmp"]);
    report.assert_complete("plain");
    report.assert_clean();
    report.assert_complete("through");
}

/// L27, L28: a program that knows no BitTorrent; its name is looked up far away.
#[test]
fn curl_leaks_plain_and_not_through_run_nor_through_the_proxy() {
    if !installed("curl") {
        return;
    }
    let bare = ["curl", "-sS", "-o", "{dir}/file", "{url}"];
    let Some(report) = leaktest(&[], &bare) else {
        return;
    };
    report.assert_plain_leaks(&["dns", "web-seed"]);
    report.assert_complete("plain");
    report.assert_clean();
    report.assert_complete("through");
    let told = [
        "curl",
        "-sS",
        "-x",
        "socks5h://{proxy}",
        "-o",
        "{dir}/file",
        "{url}",
    ];
    let report = leaktest(&["--through", "proxy", "--only", "through"], &told).unwrap();
    report.assert_nothing_escaped();
    report.assert_complete("through");
}

/// The test of the test: a program that goes past the proxy is caught, and the command fails.
#[test]
fn a_program_that_goes_past_the_proxy_is_caught() {
    if !installed("curl") {
        return;
    }
    let program = ["curl", "-sS", "-o", "{dir}/file", "{url}"];
    let Some(report) = leaktest(&["--through", "proxy"], &program) else {
        return;
    };
    assert_eq!(report.json["verdict"], "leak");
    assert_eq!(report.code, 1);
    assert!(report.classes("through").contains("dns"));
    let from = &report.json["through"]["learned"]["parties"]["web server"]["from"];
    assert_eq!(from[0], "you", "{}", report.json);
}
