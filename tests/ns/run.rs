//! Real, unmodified clients inside `hushswarm run`: they complete, also where they know no proxy or are told to ignore it,
//! and whatever happens to them or to the network, the host's cable carries nothing but what goes to a guard.

use crate::support;

use std::fs;
use std::time::{Duration, Instant};

use support::PATIENCE;
use support::clients::{
    DhtNode, Libtorrent, Place, QBittorrent, Transmission, aria2_get, installed,
};
use support::process::Process;
use support::scene::{NAME, Scene};
use support::settings::{documented, documented_command};
use tempfile::TempDir;

const SIZE: u64 = 8 << 20;
/// A rate at which a test has time to do something before the end, bytes per second.
const SLOW: u64 = 1 << 20;
/// What libtorrent does when nobody has told it to hide: every kind of discovery, listening everywhere, no proxy.
const CARELESS: &str =
    r#"{"enable_dht": true, "enable_lsd": true, "enable_upnp": true, "enable_natpmp": true}"#;

/// Downloads by magnet link and by file, each in a jail of its own, and checks what everybody saw.
fn downloads(transport: &str, options: &[&str], get: impl Fn(&Scene, &Place, &str, &TempDir)) {
    let Some(scene) = Scene::new(SIZE, transport) else {
        return;
    };
    let capture = scene.capture();
    let seed = scene.seed(None, &["--utp"]);
    for source in [&scene.torrent.magnet, scene.file()] {
        let out = TempDir::new().unwrap();
        get(&scene, &scene.jail("run", options), source, &out);
        scene.assert_arrived(out.path());
    }
    scene.assert_only_exits_came(&seed);
    scene.assert_tracker_knows_only_exits();
    scene.assert_silent(&capture.stop());
}

/// What follows `hushswarm run` and stands before `--` on a documented command line.
fn options(client: &str) -> Vec<String> {
    let words = documented_command(client, "run-command", &[]);
    assert_eq!(words[..2], ["hushswarm", "run"]);
    let options = words[2..].iter().take_while(|word| *word != "--");
    options.cloned().collect()
}

fn get_by_libtorrent(scene: &Scene, place: &Place, settings: &str, source: &str, out: &TempDir) {
    let mut get = Libtorrent::download(place, &scene.python, settings, source, out.path(), &[]);
    get.wait_done();
    end(&mut get.process);
}

/// Ends a jail as its user does, so that the next one finds the state folder free.
fn end(process: &mut Process) {
    process.stop(PATIENCE);
}

#[test]
fn libtorrent_downloads_and_not_a_packet_escapes() {
    downloads("udp", &[], |scene, place, source, out| {
        let settings = documented("libtorrent", "run");
        get_by_libtorrent(scene, place, &settings, source, out);
    });
}

#[test]
fn libtorrent_that_ignores_the_proxy_and_calls_for_peers_downloads_and_not_a_packet_escapes() {
    downloads("http", &[], |scene, place, source, out| {
        get_by_libtorrent(scene, place, CARELESS, source, out);
    });
}

/// Downloads with qBittorrent and these settings, over its web page outside.
fn get_by_qbittorrent(settings: &str) {
    if !installed("qbittorrent-nox") {
        return;
    }
    let options = options("qbittorrent");
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    downloads("http", &options, |_, place, source, out| {
        let mut client = QBittorrent::start(place, settings, out.path(), 8080);
        client.add(source);
        client.wait_done();
        end(&mut client.process);
    });
}

#[test]
fn qbittorrent_is_used_by_its_published_web_page_and_not_a_packet_escapes() {
    get_by_qbittorrent(&documented("qbittorrent", "run"));
}

#[test]
fn qbittorrent_as_it_comes_ignores_the_proxy_and_not_a_packet_escapes() {
    get_by_qbittorrent("");
}

#[test]
fn transmission_knows_no_proxy_and_downloads_and_not_a_packet_escapes() {
    if !installed("transmission-daemon") {
        return;
    }
    let options = options("transmission");
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    downloads("http", &options, |_, place, source, out| {
        let settings = documented("transmission", "run");
        let mut client = Transmission::download(place, &settings, source, out.path());
        client.wait_done();
        end(&mut client.process);
    });
}

#[test]
fn aria2_knows_no_proxy_for_peers_and_downloads_and_not_a_packet_escapes() {
    if !installed("aria2c") {
        return;
    }
    downloads("http", &[], |_, place, source, out| {
        let mut client = aria2_get(place, "", source, out.path());
        assert!(client.wait(2 * PATIENCE).success(), "{}", client.tails());
    });
}

#[test]
fn curl_fetches_a_file_and_not_a_packet_escapes() {
    if !installed("curl") {
        return;
    }
    let Some(scene) = Scene::new(SIZE, "none") else {
        return;
    };
    let capture = scene.capture();
    let mut server = scene.web.command("python3");
    server
        .args(["-u", "-m", "http.server", "8000", "--directory"])
        .arg(scene.content.path());
    let mut server = Process::spawn("web server", server);
    server.wait_for_line(PATIENCE, |line| line.starts_with("Serving"));
    let url = format!("http://{}:8000/{NAME}", scene.web.ip4);
    let out = TempDir::new().unwrap();
    let file = out.path().join(NAME);
    let replace = [("FILE", file.to_str().unwrap()), ("URL", &url)];
    let words = documented_command("curl", "run", &replace);
    let program = words.iter().position(|word| word == "curl").unwrap();
    let arguments: Vec<&str> = words[program + 1..].iter().map(String::as_str).collect();
    // By the proxy that the jail's environment names, and with none.
    for more in [&[][..], &["--noproxy", "*"]] {
        let place = scene.jail("run", &[]);
        let got = place.output("curl", &[&arguments, more].concat());
        assert!(got.status.success(), "{got:?}");
        scene.assert_arrived(out.path());
        fs::remove_file(&file).unwrap();
    }
    let log = server.stderr();
    let asked: Vec<&str> = log.lines().filter(|line| line.contains("GET")).collect();
    assert_eq!(asked.len(), 2, "{log}");
    for line in asked {
        let from = line.split_whitespace().next().unwrap();
        assert!(scene.is_exit(from.parse().unwrap()), "{line}");
    }
    scene.assert_silent(&capture.stop());
}

#[test]
fn inside_a_seeder_is_found_by_dht_alone() {
    let Some(mut scene) = Scene::new(SIZE, "none") else {
        return;
    };
    let mut nodes: Vec<DhtNode> = Vec::new();
    for number in 31..35 {
        let others: Vec<_> = nodes.iter().map(|node| node.addr).collect();
        let host = scene.host("node", number);
        nodes.push(DhtNode::start(&scene.python, &host, &others));
    }
    let known = nodes[0].addr.to_string();
    let capture = scene.capture();
    let seed = scene.seed(None, &["--no-tcp", "--dht", &known]);
    for settings in [
        documented("libtorrent", "proxy"),
        documented("libtorrent", "run"),
    ] {
        let out = TempDir::new().unwrap();
        let place = scene.jail("run", &[]);
        let mut get = Libtorrent::download(
            &place,
            &scene.python,
            &settings,
            &scene.torrent.magnet,
            out.path(),
            &["--dht", &known],
        );
        get.wait_done();
        scene.assert_arrived(out.path());
        end(&mut get.process);
    }
    scene.assert_only_exits_came(&seed);
    for from in nodes.iter().flat_map(DhtNode::askers) {
        let node = nodes.iter().any(|node| node.addr.ip() == from.ip());
        let known = node || scene.seeder.owns(from.ip()) || scene.is_exit(from.ip());
        assert!(known, "a node was asked by {from}");
    }
    scene.assert_silent(&capture.stop());
}

#[test]
fn peers_with_ipv6_addresses_and_names_are_reached_through_circuits_or_not_at_all() {
    let bait = |seeder: &support::world::Host| vec![seeder.addr6(6881), seeder.addr6(9)];
    let Some(scene) = Scene::with_bait(SIZE, "http", bait) else {
        return;
    };
    let capture = scene.capture();
    let seed = scene.seed(None, &["--utp"]);
    let out = TempDir::new().unwrap();
    // A tracker that has only a name, which is looked up somewhere else than here.
    let magnet = format!(
        "{}&tr=http%3A%2F%2Ftracker.example%3A6969%2Fannounce",
        scene.torrent.magnet
    );
    get_by_libtorrent(
        &scene,
        &scene.jail("run", &[]),
        &documented("libtorrent", "run"),
        &magnet,
        &out,
    );
    scene.assert_arrived(out.path());
    scene.assert_only_exits_came(&seed);
    scene.assert_silent(&capture.stop());
}

/// A client in a jail that has begun to download, slowly.
fn begun(scene: &Scene, out: &TempDir) -> Libtorrent {
    let place = scene.jail("run", &[]);
    let magnet = &scene.torrent.magnet;
    let mut get = Libtorrent::download(
        &place,
        &scene.python,
        &documented("libtorrent", "run"),
        magnet,
        out.path(),
        &[],
    );
    get.process.wait_for_event(PATIENCE, "progress");
    get
}

/// Processes whose command line names this folder.
fn that_name(folder: &TempDir) -> Vec<u32> {
    let wanted = folder.path().to_str().unwrap().as_bytes().to_vec();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id: &u32| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.windows(wanted.len()).any(|part| part == wanted)
    })
    .collect()
}

#[test]
fn when_hushswarm_is_killed_mid_transfer_the_client_dies_and_not_a_packet_escapes() {
    let Some(scene) = Scene::new(4 * SIZE, "http") else {
        return;
    };
    let capture = scene.capture();
    let seed = scene.seed(Some(SLOW), &["--utp"]);
    let out = TempDir::new().unwrap();
    let mut get = begun(&scene, &out);
    assert!(that_name(&out).len() > 1, "the client is not to be seen");
    get.process.kill();
    let deadline = Instant::now() + PATIENCE;
    while !that_name(&out).is_empty() {
        assert!(Instant::now() < deadline, "{:?} live on", that_name(&out));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(get.process.events("done").is_empty(), "it had ended before");
    scene.assert_only_exits_came(&seed);
    scene.assert_silent(&capture.stop());
}

#[test]
fn with_all_relays_killed_the_client_waits_and_goes_on_when_they_are_back_and_not_a_packet_escapes()
{
    let Some(mut scene) = Scene::new(2 * SIZE, "http") else {
        return;
    };
    let capture = scene.capture();
    let seed = scene.seed(Some(2 * SLOW), &["--utp"]);
    let out = TempDir::new().unwrap();
    let mut get = begun(&scene, &out);
    scene.kill_relays();
    let bytes = |get: &Libtorrent| {
        let shown = get.process.events("progress");
        shown
            .last()
            .map_or(0, |line| line["bytes"].as_u64().unwrap())
    };
    std::thread::sleep(Duration::from_secs(2));
    let stuck = bytes(&get);
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(bytes(&get), stuck, "it goes on without relays");
    assert!(stuck < 2 * SIZE, "it had ended before");
    assert!(
        get.process.exit_status().is_none(),
        "{}",
        get.process.tails()
    );
    scene.start_relays();
    get.process.wait_until(5 * PATIENCE, |process| {
        process.events("done").into_iter().next()
    });
    scene.assert_arrived(out.path());
    scene.assert_only_exits_came(&seed);
    scene.assert_silent(&capture.stop());
}
