//! Real, unmodified clients download through `hushswarm proxy`, each with its settings of `docs/clients.md`, on a host that
//! could reach everything directly. What its cable carries is captured: what a client leaks beside the proxy by itself is
//! on that page, and nothing else.

use crate::support;

use std::process::Command;

use support::capture::{Capture, Flow};
use support::clients::{
    DhtNode, Libtorrent, Place, QBittorrent, Transmission, aria2_get, installed,
};
use support::process::{Process, run};
use support::scene::{NAME, Scene};
use support::settings::{documented, documented_command};
use support::world::gateway;
use support::{PATIENCE, fixture};
use tempfile::TempDir;

const SIZE: u64 = 8 << 20;
/// Names of DHT routers that qBittorrent asks for, as they stand in a DNS message.
const ROUTERS: [&[u8]; 5] = [
    b"\x06router\x0abittorrent\x03com",
    b"\x06router\x08utorrent\x03com",
    b"\x03dht\x07aelitis\x03com",
    b"\x03dht\x0alibtorrent\x03org",
    b"\x03dht\x0etransmissionbt\x03com",
];

#[test]
fn libtorrent_downloads_by_magnet_and_file_over_http_and_udp_trackers_and_shows_only_the_exit() {
    for transport in ["http", "udp"] {
        let Some(scene) = Scene::new(SIZE, transport) else {
            return;
        };
        let capture = scene.capture();
        let seed = scene.seed(None, &[]);
        let _proxy = scene.proxy();
        let mut last = None;
        for source in [&scene.torrent.magnet, scene.file()] {
            drop(last.take());
            let out = TempDir::new().unwrap();
            let mut get = libtorrent(
                &scene,
                &documented("libtorrent", "proxy"),
                source,
                &out,
                &[],
            );
            get.wait_done();
            scene.assert_arrived(out.path());
            last = Some(get);
        }
        scene.assert_only_exits_came(&seed);
        scene.assert_tracker_knows_only_exits();
        scene.assert_silent(&capture.stop());
        assert_deaf(&scene, &last.unwrap().process);
    }
}

fn libtorrent(
    scene: &Scene,
    settings: &str,
    source: &str,
    out: &TempDir,
    more: &[&str],
) -> Libtorrent {
    let place = scene.outside();
    Libtorrent::download(&place, &scene.python, settings, source, out.path(), more)
}

#[test]
fn a_seeder_is_found_by_dht_alone_and_its_content_comes_by_utp_alone() {
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
    // It takes and opens no TCP connection: what arrives came in datagrams.
    let seed = scene.seed(None, &["--no-tcp", "--dht", &known]);
    let _proxy = scene.proxy();
    let out = TempDir::new().unwrap();
    let settings = documented("libtorrent", "proxy");
    let magnet = scene.torrent.magnet.clone();
    let mut get = libtorrent(&scene, &settings, &magnet, &out, &["--dht", &known]);
    get.wait_done();
    scene.assert_arrived(out.path());
    scene.assert_only_exits_came(&seed);

    // The nodes were asked by each other, the seeder, and exits.
    let mut exits = 0;
    for node in &nodes {
        for from in node.askers() {
            let node = nodes.iter().any(|node| node.addr.ip() == from.ip());
            let exit = scene.is_exit(from.ip());
            assert!(node || exit || scene.seeder.owns(from.ip()), "{from}");
            exits += usize::from(exit);
        }
        // Whom they would name to others as having the content.
        for said in node.process.events("announced") {
            let from = said["ip"].as_str().unwrap().parse().unwrap();
            assert!(scene.is_exit(from) || scene.seeder.owns(from), "{said}");
        }
    }
    assert!(exits > 0, "no node was asked through an exit");
    scene.assert_silent(&capture.stop());
}

#[test]
fn qbittorrent_downloads_by_magnet_and_file_and_leaks_nothing() {
    if !installed("qbittorrent-nox") {
        return;
    }
    let Some(scene) = Scene::new(SIZE, "http") else {
        return;
    };
    let capture = scene.capture();
    let seed = scene.seed(None, &[]);
    let _proxy = scene.proxy();
    let mut last = None;
    for source in [&scene.torrent.magnet, scene.file()] {
        drop(last.take());
        let out = TempDir::new().unwrap();
        let settings = documented("qbittorrent", "proxy");
        let mut client = QBittorrent::start(&scene.outside(), &settings, out.path(), 8080);
        client.add(source);
        client.wait_done();
        scene.assert_arrived(out.path());
        last = Some(client);
    }
    scene.assert_only_exits_came(&seed);
    scene.assert_tracker_knows_only_exits();
    scene.assert_silent(&capture.stop());
    assert_deaf(&scene, &last.unwrap().process);
}

/// What the page warns of is true: with the DHT on, names of its routers are asked for in the clear.
#[test]
fn qbittorrent_with_the_dht_on_asks_the_resolver_for_routers_and_for_nothing_else() {
    if !installed("qbittorrent-nox") {
        return;
    }
    let Some(scene) = Scene::new(1 << 20, "http") else {
        return;
    };
    let infohash = scene.torrent.infohash_bytes();
    let mut needles: Vec<&[u8]> = vec![&infohash, NAME.as_bytes()];
    let names = needles.len();
    needles.extend(ROUTERS);
    let capture = Capture::start(&scene.client, &needles);
    let seed = scene.seed(None, &[]);
    let _proxy = scene.proxy();
    let out = TempDir::new().unwrap();
    let settings = documented("qbittorrent", "proxy");
    let settings = settings.replace("DHTEnabled=false", "DHTEnabled=true");
    let mut client = QBittorrent::start(&scene.outside(), &settings, out.path(), 8080);
    client.add(&scene.torrent.magnet);
    client.wait_done();
    scene.assert_only_exits_came(&seed);
    let resolver = gateway().to_string();
    let router = |flow: &Flow| {
        // A question with such a name, the gateway's refusal (which quotes it), or the way to the gateway.
        let named = flow.needles.iter().any(|&needle| needle >= names);
        let question = flow.class == "dns" && named;
        let around = flow.class == "arp" || (flow.proto == "icmp" && named);
        (flow.src == resolver || flow.dst == resolver) && (question || around)
    };
    scene.assert_leaks_only(&capture.stop(), router);
}

/// A stranger at the host's real address gets no answer: what takes connections listens on loopback, and no datagram is
/// answered. Call it after the capture, which would see the stranger.
fn assert_deaf(scene: &Scene, process: &Process) {
    let mut sockets: Command = scene.client.command("ss");
    sockets.args([
        "--numeric",
        "--no-header",
        "--all",
        "--tcp",
        "--udp",
        "--processes",
    ]);
    let pid = format!("pid={},", process.id());
    let all = run(sockets);
    let own: Vec<&str> = all.lines().filter(|line| line.contains(&pid)).collect();
    assert!(!own.is_empty(), "{all}");
    let mut open = Vec::new();
    for line in own {
        let local = line.split_whitespace().nth(4).unwrap();
        let loopback = ["127.", "[::1]", "[::ffff:127."]
            .iter()
            .any(|start| local.starts_with(start));
        if !loopback {
            // libtorrent opens this one for its proxy, and drops what comes from elsewhere.
            assert!(line.starts_with("udp"), "{line}");
            open.push(local.rsplit(':').next().unwrap());
        }
    }
    let mut probe = scene.seeder.command("python3");
    probe
        .arg(fixture("probe.py"))
        .arg(scene.client.ip4.to_string())
        .args(open);
    assert_eq!(run(probe), "", "a stranger was answered");
}

/// The host's programs under torsocks, told where the proxy is as `docs/clients.md` says.
fn torsocks(scene: &Scene, client: &str) -> Place {
    let words = documented_command(client, "torsocks-command", &[]);
    let (setting, wrapper) = words.split_first().unwrap();
    let mut before = vec!["env".to_owned(), setting.clone()];
    let options = wrapper
        .iter()
        .take_while(|word| word.starts_with("torsocks") || word.starts_with('-'));
    before.extend(options.cloned());
    Place::inside(&scene.client, before)
}

#[test]
fn transmission_under_torsocks_downloads_over_tcp_and_leaks_nothing() {
    if !installed("transmission-daemon") || !installed("torsocks") {
        return;
    }
    let Some(scene) = Scene::new(SIZE, "http") else {
        return;
    };
    let capture = scene.capture();
    let seed = scene.seed(None, &[]);
    let _proxy = scene.proxy();
    let mut last = None;
    for source in [&scene.torrent.magnet, scene.file()] {
        drop(last.take());
        let out = TempDir::new().unwrap();
        let place = torsocks(&scene, "transmission");
        let settings = documented("transmission", "torsocks");
        let mut client = Transmission::download(&place, &settings, source, out.path());
        client.wait_done();
        scene.assert_arrived(out.path());
        last = Some(client);
    }
    scene.assert_only_exits_came(&seed);
    scene.assert_tracker_knows_only_exits();
    scene.assert_silent(&capture.stop());
    assert_deaf(&scene, &last.unwrap().process);
}

#[test]
fn aria2_under_torsocks_downloads_over_tcp_and_leaks_nothing() {
    if !installed("aria2c") || !installed("torsocks") {
        return;
    }
    let Some(scene) = Scene::new(SIZE, "http") else {
        return;
    };
    let capture = scene.capture();
    let seed = scene.seed(None, &[]);
    let _proxy = scene.proxy();
    for source in [&scene.torrent.magnet, scene.file()] {
        let out = TempDir::new().unwrap();
        let settings = documented("aria2", "torsocks");
        let mut client = aria2_get(&torsocks(&scene, "aria2"), &settings, source, out.path());
        assert!(client.wait(2 * PATIENCE).success(), "{}", client.tails());
        scene.assert_arrived(out.path());
    }
    scene.assert_only_exits_came(&seed);
    scene.assert_tracker_knows_only_exits();
    scene.assert_silent(&capture.stop());
}

/// A web server with the content, and the URL.
fn web(scene: &Scene) -> (Process, String) {
    let mut server = scene.web.command("python3");
    server
        .args(["-u", "-m", "http.server", "8000", "--directory"])
        .arg(scene.content.path());
    let mut server = Process::spawn("web server", server);
    server.wait_for_line(PATIENCE, |line| line.starts_with("Serving"));
    (server, format!("http://{}:8000/{NAME}", scene.web.ip4))
}

#[test]
fn curl_and_aria2_fetch_files_and_leak_nothing() {
    if !installed("curl") || !installed("aria2c") {
        return;
    }
    let Some(scene) = Scene::new(SIZE, "none") else {
        return;
    };
    let capture = scene.capture();
    let (server, url) = web(&scene);
    let _proxy = scene.proxy();
    let out = TempDir::new().unwrap();
    let file = out.path().join(NAME);
    let replace = [("FILE", file.to_str().unwrap()), ("URL", &url)];
    let words = documented_command("curl", "proxy", &replace);
    let arguments: Vec<&str> = words[1..].iter().map(String::as_str).collect();
    let got = scene.outside().output(&words[0], &arguments);
    assert!(got.status.success(), "{got:?}");
    scene.assert_arrived(out.path());

    let out = TempDir::new().unwrap();
    let settings = documented("aria2", "proxy");
    let mut aria2 = aria2_get(&scene.outside(), &settings, &url, out.path());
    assert!(aria2.wait(PATIENCE).success(), "{}", aria2.tails());
    scene.assert_arrived(out.path());

    // The server's log begins each line with who asked.
    let log = server.stderr();
    let asked: Vec<&str> = log.lines().filter(|line| line.contains("GET")).collect();
    assert!(asked.len() >= 2, "{log}");
    for line in asked {
        let from = line.split_whitespace().next().unwrap();
        assert!(scene.is_exit(from.parse().unwrap()), "{line}");
    }
    scene.assert_silent(&capture.stop());
}

/// What the page warns of is true: these settings do not hold a torrent back.
#[test]
fn aria2_with_a_proxy_alone_takes_torrents_past_it() {
    if !installed("aria2c") {
        return;
    }
    let Some(scene) = Scene::new(1 << 20, "http") else {
        return;
    };
    let capture = scene.capture();
    let _seed = scene.seed(None, &[]);
    let _proxy = scene.proxy();
    let out = TempDir::new().unwrap();
    let settings = documented("aria2", "proxy");
    let mut client = aria2_get(&scene.outside(), &settings, scene.file(), out.path());
    assert!(client.wait(PATIENCE).success(), "{}", client.tails());
    let captured = capture.stop();
    assert!(!captured.sent("peer-tcp").is_empty(), "{captured:#?}");
}
