//! Peer exchange (BEP 11) with real clients: they tell ours of a seeder, ours tells them of one, and of itself nothing.

use crate::support;

use std::net::SocketAddr;

use support::PATIENCE;
use support::capture::Capture;
use support::clients::{Libtorrent, Place, Transmission, installed};
use support::process::Process;
use support::scene::Scene;
use support::world::Host;
use tempfile::TempDir;

/// The other client's host.
const OTHER: u8 = 22;
/// A client tells of others once a minute, and ours begins after half of one.
const TELLING: std::time::Duration = std::time::Duration::from_secs(200);

/// A link without trackers that names these peers.
fn magnet(scene: &Scene, peers: &[SocketAddr]) -> String {
    let infohash = &scene.torrent.infohash;
    let peers: String = peers.iter().map(|peer| format!("&x.pe={peer}")).collect();
    format!("magnet:?xt=urn:btih:{infohash}{peers}")
}

/// Waits until the seeder has met somebody at this host.
fn wait_for(seed: &mut Libtorrent, host: &Host) {
    let ip = host.ip4.to_string();
    seed.process.wait_until(TELLING, |process: &Process| {
        let peers = process.events("peer");
        peers
            .iter()
            .any(|peer| peer["ip"] == ip.as_str())
            .then_some(())
    });
}

#[test]
fn a_seeder_of_which_only_libtorrent_told_is_reached_through_an_exit() {
    let Some(mut scene) = Scene::new(2 << 20, "none") else {
        return;
    };
    let other = scene.host("other", OTHER);
    let mut seed = scene.seed(None, &[]);
    // It would need two minutes itself.
    let (theirs, ours) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let slow = Some(18 << 10);
    let teller = Libtorrent::get(
        &scene.python,
        Some(&other),
        scene.file(),
        theirs.path(),
        &[seed.addr],
        slow,
    );
    wait_for(&mut seed, &other);
    let capture = scene.capture();
    let mut get = scene.get(
        &magnet(&scene, &[teller.addr]),
        ours.path(),
        &["--no-dht".to_owned()],
    );
    assert!(get.wait(2 * TELLING).success(), "{}", get.tails());
    scene.assert_arrived(ours.path());
    scene.assert_silent(&capture.stop());
    scene.assert_only_exits_came_beside(&seed, &other);
}

/// Ours knows a seeder and another client, which knows nobody, and brings them together.
fn ours_tells(
    start: impl FnOnce(
        &Scene,
        &Host,
        &TempDir,
    ) -> (SocketAddr, Option<Libtorrent>, Option<Transmission>),
) {
    let Some(mut scene) = Scene::new(8 << 20, "none") else {
        return;
    };
    let other = scene.host("other", OTHER);
    // Slow enough that ours is still there after a minute or two.
    let mut seed = scene.seed(Some(40 << 10), &[]);
    let (theirs, ours) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (addr, libtorrent, _transmission) = start(&scene, &other, &theirs);
    let ip4 = scene.client.ip4;
    let (text, bytes) = (ip4.to_string(), ip4.octets());
    let told = Capture::start(&other, &[text.as_bytes(), &bytes]);
    let capture = scene.capture();
    let link = magnet(&scene, &[seed.addr, addr]);
    let _get = scene.get(&link, ours.path(), &["--no-dht".to_owned()]);
    wait_for(&mut seed, &other);
    if let Some(mut libtorrent) = libtorrent {
        let by_pex = |line: &serde_json::Value| line["pex"] == true;
        // It says how it heard of the seeder when it next looks, which may be after the seeder saw it come.
        let heard = libtorrent.process.wait_until(PATIENCE, |libtorrent| {
            let heard = libtorrent.events("peer").into_iter().filter(by_pex);
            Some(heard.collect::<Vec<_>>()).filter(|heard| !heard.is_empty())
        });
        let seeder = scene.seeder.ip4.to_string();
        assert!(
            heard.iter().all(|peer| peer["ip"] == seeder.as_str()),
            "{heard:?}"
        );
        let seen = libtorrent.peers().into_iter();
        let mut seen = seen.map(|peer| peer.addr.ip());
        assert!(seen.all(|ip| scene.is_exit(ip) || scene.seeder.owns(ip)));
    }
    // In nothing that came to it stood the client's address: ARP, which asks everybody, aside.
    let told = told.stop();
    for needle in 0..2 {
        let found = told
            .found(needle)
            .into_iter()
            .filter(|flow| flow.proto == "tcp" || flow.proto == "udp");
        assert_eq!(found.count(), 0, "needle {needle}");
    }
    scene.assert_only_exits_came_beside(&seed, &other);
    scene.assert_silent(&capture.stop());
}

#[test]
fn libtorrent_hears_of_a_seeder_from_ours_and_nothing_of_ours() {
    ours_tells(|scene, other, folder| {
        let link = magnet(scene, &[]);
        let client = Libtorrent::get(&scene.python, Some(other), &link, folder.path(), &[], None);
        (client.addr, Some(client), None)
    });
}

#[test]
fn transmission_hears_of_a_seeder_from_ours_and_nothing_of_ours() {
    if !installed("transmission-daemon") {
        return;
    }
    ours_tells(|scene, other, folder| {
        let settings = r#"{"dht-enabled": false, "lpd-enabled": false, "utp-enabled": false, "port-forwarding-enabled": false,
            "pex-enabled": true, "encryption": 0}"#;
        let place = Place::on(other);
        let client = Transmission::download(&place, settings, scene.file(), folder.path());
        (client.addr, None, Some(client))
    });
}
