//! `seed --over tor` and `get` by its magnet link, on a private network of Debian's `tor` and without any relay list; and what
//! both do where there is no network.

use crate::support;

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use support::clients::installed;
use support::loopback::has_done;
use support::onion_seed::{LONG, Link, NAME, PORT, Place, link};
use support::tor::{NOBODY, Size, TorNetwork, onion_of};
use support::{PATIENCE, hash_file, write_noise};
use tempfile::TempDir;

const SIZE: u64 = 64 << 20;
/// How long the network is away in the middle of a download.
const OUTAGE: Duration = Duration::from_secs(5);
/// An infohash that nobody has.
const UNKNOWN: [u8; 20] = [7; 20];

/// Says a BitTorrent handshake (BEP 3) to the onion service through this SOCKS port, and reads what comes.
fn handshake(socks: SocketAddr, link: &Link, hash: &[u8; 20]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(socks)?;
    stream.set_read_timeout(Some(LONG))?;
    stream.write_all(&[5, 1, 0])?;
    let mut method = [0; 2];
    stream.read_exact(&mut method)?;
    assert_eq!(method, [5, 0]);
    let host = link.onion.as_bytes();
    let mut ask = vec![5, 1, 0, 3, u8::try_from(host.len()).unwrap()];
    ask.extend(host);
    ask.extend(PORT.to_be_bytes());
    stream.write_all(&ask)?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply)?;
    if reply[1] != 0 {
        let code = format!("SOCKS reply {}", reply[1]);
        return Err(io::Error::other(code));
    }
    let mut said = b"\x13BitTorrent protocol".to_vec();
    said.extend([0; 8]);
    said.extend(hash);
    said.extend(b"-XX0001-abcdefghijkl");
    stream.write_all(&said)?;
    let mut answer = vec![0; said.len()];
    let mut len = 0;
    while len < answer.len() {
        match stream.read(&mut answer[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) => return Err(error),
        }
    }
    answer.truncate(len);
    Ok(answer)
}

/// A young network may need more than one try to meet.
fn patient_handshake(socks: SocketAddr, link: &Link, hash: &[u8; 20]) -> Vec<u8> {
    let tries = (0..5).map(|_| handshake(socks, link, hash));
    let mut failures = Vec::new();
    for tried in tries {
        match tried {
            Ok(answer) => return answer,
            Err(error) => failures.push(error.to_string()),
        }
    }
    panic!("the seed is not reached: {failures:?}");
}

/// Nothing below this folder can be read by others.
fn assert_private(folder: &Path) {
    let mode = folder.symlink_metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{}: {mode:o}", folder.display());
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_private(&path);
        }
    }
}

#[test]
fn an_onion_seed_serves_get_and_debians_tor_and_keeps_its_name() {
    if !installed("tor") {
        return;
    }
    let network = TorNetwork::start(&Size::default());
    let place = Place::new(network.tor_file());
    write_noise(&place.path(NAME), SIZE, 5);
    let mut seed = place.seed(&["--json"]);
    let first = link(&mut seed);
    assert_private(&place.path("seed/tor"));

    // The network goes away in the middle, and comes back.
    let mut get = place.get(&first.magnet, "one", &["--json"]);
    get.wait_until(LONG, |get| has_done(get, SIZE / 8));
    network.signal(Signal::STOP);
    std::thread::sleep(OUTAGE);
    // What lay in buffers has come by now. Nothing more comes, and it goes on trying.
    let seen = [0; 2].map(|_| {
        let before = get.events("progress").len();
        get.wait_until(PATIENCE, |get| {
            let last = get.events("progress").get(before)?["done"].as_u64();
            Some(last.unwrap())
        })
    });
    network.signal(Signal::CONT);
    assert!(seen[0] < SIZE, "it was over before the outage");
    assert_eq!(seen[0], seen[1], "this did not come through Tor");
    place.assert_arrived("one", &mut get);
    first.assert_discreet(&get);

    // Another program's Tor comes to the service.
    let answer = patient_handshake(network.socks(), &first, &first.hash);
    assert_eq!(answer.len(), 68, "{}", seed.tails());
    assert_eq!(answer[..20], *b"\x13BitTorrent protocol");
    assert_eq!(answer[28..48], first.hash);
    // Who does not know the torrent learns nothing, not even that this is BitTorrent.
    let answer = patient_handshake(network.socks(), &first, &UNKNOWN);
    assert_eq!(answer, b"", "{}", seed.tails());
    // Nor through our own proxy: it sees an end, as with Debian's, and no error.
    let state = place.path("proxy");
    let words = ["--route", "tor", "--listen", "127.0.0.1:0", "--json"];
    let state = ["--state", state.to_str().unwrap()];
    let mut proxy = place.spawn("proxy", &[&words[..], &state].concat());
    let socks = proxy.wait_for_event(PATIENCE, "listening")["listen"].clone();
    let socks = socks[0].as_str().unwrap().parse().unwrap();
    let answer = patient_handshake(socks, &first, &UNKNOWN);
    assert_eq!(answer, b"", "{}", proxy.tails());
    assert!(proxy.stop(PATIENCE).success(), "{}", proxy.tails());

    // Started again, it has the same name.
    let status = seed.stop(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", seed.tails());
    first.assert_discreet(&seed);
    let mut seed = place.seed(&["--json"]);
    let again = link(&mut seed);
    assert_eq!(again.magnet, first.magnet);
    let mut get = place.get(&again.magnet, "two", &["--json"]);
    place.assert_arrived("two", &mut get);
    seed.signal(Signal::INT);
    let status = seed.wait(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", seed.tails());

    // Another state is another seed: nothing links the two.
    let (content, state) = (place.path(NAME), place.path("other"));
    let words = [content.to_str().unwrap(), "--over", "tor", "--json"];
    let state = ["--state", state.to_str().unwrap()];
    let mut other = place.spawn("seed", &[&words[..], &state].concat());
    assert_ne!(link(&mut other).onion, first.onion);
}

#[test]
fn several_torrents_have_an_onion_service_each_or_share_some() {
    if !installed("tor") {
        return;
    }
    let network = TorNetwork::start(&Size::default());
    let place = Place::new(network.tor_file());
    let names = ["one.bin", "two.bin"];
    let contents = names.map(|name| place.path(name));
    for (content, noise) in contents.iter().zip([1, 2]) {
        write_noise(content, 4 << 20, noise);
    }
    let seed = |more: &[&str], state: &str| {
        let paths = contents.each_ref().map(|content| content.to_str().unwrap());
        let state = place.path(state);
        let words = [
            "--over",
            "tor",
            "--json",
            "--state",
            state.to_str().unwrap(),
        ];
        let mut seed = place.spawn("seed", &[&paths, &words[..], more].concat());
        let magnets = seed.wait_until(LONG, |seed| {
            let said = seed.events("seeding");
            let magnets = said.iter().map(|said| said["magnet"].as_str().unwrap());
            let magnets: Vec<String> = magnets.map(str::to_owned).collect();
            (magnets.len() == names.len()).then_some(magnets)
        });
        (seed, magnets)
    };
    let onions = |magnet: &str| -> Vec<String> {
        let parts = magnet.split("x.pe=").skip(1);
        parts.map(|part| part[..56].to_owned()).collect()
    };

    // Behind two services that both share.
    let (mut shared, magnets) = seed(&["--one-service", "--services", "2"], "shared");
    let both = onions(&magnets[0]);
    assert_eq!(both.len(), 2);
    assert_ne!(both[0], both[1]);
    assert_eq!(both, onions(&magnets[1]));
    let mut gets = [0, 1].map(|n| place.get(&magnets[n], &format!("out{n}"), &[]));
    for (n, get) in gets.iter_mut().enumerate() {
        let status = get.wait(LONG);
        assert!(
            status.success(),
            "{status}{}{}",
            get.tails(),
            shared.tails()
        );
        let got = place.path(&format!("out{n}")).join(names[n]);
        assert_eq!(hash_file(&got), hash_file(&contents[n]));
    }
    assert_eq!(shared.stop(PATIENCE).code(), Some(0), "{}", shared.tails());

    // One each, which nothing links, is what happens unless it is told otherwise.
    let (mut apart, magnets) = seed(&[], "apart");
    let [one, two] = [0, 1].map(|n| onions(&magnets[n]));
    assert_eq!((one.len(), two.len()), (1, 1));
    assert_ne!(one, two);
    // Whichever of the two services were to serve the other torrent would betray that.
    let crossed = Link::read(&magnets[0].replace(&one[0], &two[0]));
    let mut get = place.get(&magnets[1], "apart1", &[]);
    assert!(get.wait(LONG).success(), "{}", get.tails());
    let answer = patient_handshake(network.socks(), &crossed, &crossed.hash);
    assert_eq!(answer, b"", "{}", apart.tails());
    assert_eq!(apart.stop(PATIENCE).code(), Some(0), "{}", apart.tails());
}

/// A Tor file of a network whose only relay is not there.
fn nowhere(dir: &Path) -> PathBuf {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = port.local_addr().unwrap().port();
    let (id, key) = ("AB".repeat(20), data_encoding::BASE64_NOPAD.encode(&NOBODY));
    let text = format!(
        "[network]\nauthorities = [\"{id}\"]\n[[network.fallback]]\nrsa = \"{id}\"\ned25519 = \"{key}\"\naddress = \"127.0.0.1:{port}\"\n"
    );
    let path = dir.join("nowhere.toml");
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn without_a_network_seed_and_get_say_what_they_wait_for_and_stop_at_once() {
    let dir = TempDir::new().unwrap();
    let place = Place::new(nowhere(dir.path()));
    write_noise(&place.path(NAME), 1 << 20, 5);
    let magnet = format!(
        "magnet:?xt=urn:btih:{}&x.pe={}:{PORT}",
        "07".repeat(20),
        onion_of(&NOBODY)
    );
    let told = |line: &str| line.starts_with("Tor: 0 %") && line.contains("connecting");
    for signal in [Signal::INT, Signal::TERM] {
        let mut seed = place.seed(&[]);
        let mut get = place.get(&magnet, "out", &[]);
        seed.wait_for_line(LONG, |line| line.contains("waiting for Tor"));
        for process in [&mut seed, &mut get] {
            process.wait_for_line(LONG, told);
            process.signal(signal);
        }
        let status = seed.wait(PATIENCE);
        assert_eq!(status.code(), Some(0), "{}", seed.tails());
        let status = get.wait(PATIENCE);
        assert_eq!(status.code(), Some(130), "{}", get.tails());
        // Nobody could have come.
        assert!(!seed.stderr().contains("magnet:"), "{}", seed.tails());
        for process in [&seed, &get] {
            let log = process.stderr();
            assert!(!log.contains("panicked"), "{log}");
            assert!(!log.contains(&onion_of(&NOBODY)[..16]), "{log}");
        }
    }

    // Before Tor has said anything, too.
    let mut seed = place.seed(&[]);
    seed.wait_for_line(LONG, |line| line.contains("waiting for Tor"));
    seed.signal(Signal::INT);
    let status = seed.wait(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", seed.tails());
}
