//! How Tor is kept in the long run: it rests while nothing is open and wakes for the next request; and an onion seed that is to
//! stay has full vanguards.

use crate::support;

use crate::proxy;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use proxy::Proxy;
use rustix::process::Signal;
use support::clients::installed;
use support::process::Process;
use support::tor::{Size, TorNetwork, away_from_home};
use support::{PATIENCE, hash_file, write_noise};
use tempfile::TempDir;

const NAME: &str = "archive.bin";
const SIZE: u64 = 16 << 20;
/// For what needs several circuits, on a busy machine.
const LONG: Duration = Duration::from_secs(300);
/// How long Tor is watched while it rests: padding comes after 9.5 s at the latest while it is awake.
const NIGHT: Duration = Duration::from_secs(15);

/// How often, at most. Arti closes connections that nothing uses, but not so soon.
const NIGHTS: usize = 4;

/// A page on this computer.
fn page() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\npage");
        }
    });
    addr
}

fn curl(proxy: &Proxy, page: SocketAddr) -> Output {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "180"]);
    curl.args(["--proxy", &format!("socks5h://a:x@{}", proxy.addr())]);
    curl.arg(format!("http://{page}/")).output().unwrap()
}

/// Waits until the log says this for the time of this number.
fn wait_for(proxy: &Proxy, text: &str, times: usize) {
    let begun = Instant::now();
    while proxy.log().matches(text).count() < times {
        assert!(begun.elapsed() < LONG, "{}", proxy.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// How many bytes the proxy has sent over connections that are open.
fn sent(proxy: &Proxy) -> u64 {
    let output = Command::new("ss").args(["-Htnip"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    let pid = format!("pid={},", proxy.child.id());
    let mut sum = 0;
    // Each connection has a second line, with its figures.
    while let (Some(who), Some(figures)) = (lines.next(), lines.next()) {
        let words = figures.split_whitespace();
        let mut bytes = words.filter_map(|word| word.strip_prefix("bytes_sent:"));
        if who.contains(&pid) {
            sum += bytes
                .next()
                .map_or(0, |bytes| bytes.parse::<u64>().unwrap());
        }
    }
    sum
}

/// Opens a stream through the proxy.
fn open_stream(proxy: &Proxy, to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.addr()).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(&[5, 1, 0]).unwrap();
    stream.read_exact(&mut [0; 2]).unwrap();
    let SocketAddr::V4(to) = to else {
        panic!("the page is at an IPv4 address");
    };
    let ask = [
        &[5, 1, 0, 1][..],
        &to.ip().octets(),
        &to.port().to_be_bytes(),
    ];
    stream.write_all(&ask.concat()).unwrap();
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[1], 0, "{}", proxy.log());
    stream
}

#[test]
fn tor_rests_while_nothing_is_open_and_wakes_for_the_next_request() {
    if !installed("tor") || !installed("curl") {
        return;
    }
    let network = TorNetwork::start(&Size::default());
    let page = page();
    let dir = tempfile::tempdir().unwrap();
    let file = network.tor_file_with("tor.toml", "dormant_after_seconds = 4\n");
    let mut command = away_from_home(None, dir.path());
    command.args(["proxy", "--log", "info", "--json", "--allow-private"]);
    command.args(["--listen", "127.0.0.1:0", "--route", "tor", "--tor"]);
    command.arg(file);
    let proxy = Proxy::run(command, dir);
    for night in 1..=2 {
        let got = curl(&proxy, page);
        assert_eq!(got.stdout, b"page", "{got:?}\n{}", proxy.log());
        wait_for(&proxy, "Tor rests", night);
        assert_eq!(proxy.log().matches("Tor is woken").count(), night - 1);
        // What was on its way is sent; then not even padding is, which a relay is sent every few seconds otherwise. (What it had
        // begun to fetch may still come.)
        let silent = || {
            let before = sent(&proxy);
            std::thread::sleep(NIGHT);
            before == sent(&proxy)
        };
        assert!((0..NIGHTS).any(|_| silent()), "{}", proxy.log());
    }
    // An open stream keeps it awake.
    let held = open_stream(&proxy, page);
    wait_for(&proxy, "Tor is woken", 2);
    let before = sent(&proxy);
    std::thread::sleep(NIGHT);
    assert_ne!(before, sent(&proxy), "not even padding was sent");
    assert_eq!(
        proxy.log().matches("Tor rests").count(),
        2,
        "{}",
        proxy.log()
    );
    drop(held);
    wait_for(&proxy, "Tor rests", 3);
}

/// Seeds the content, with a state of this name.
fn seed(dir: &TempDir, state: &str, tor: &Path, more: &[&str]) -> (Process, String) {
    let mut seed = away_from_home(None, dir.path());
    seed.arg("seed").arg(dir.path().join(NAME));
    seed.args(["--over", "tor", "--json", "--tor"]).arg(tor);
    seed.arg("--state").arg(dir.path().join(state)).args(more);
    let mut seed = Process::spawn("seed", seed);
    let said = seed.wait_for_event(LONG, "seeding");
    (seed, said["magnet"].as_str().unwrap().to_owned())
}

/// Downloads it.
fn assert_serves(seed: &Process, dir: &TempDir, tor: &Path, magnet: &str) {
    let (out, state) = (dir.path().join("out"), dir.path().join("get"));
    let mut get = away_from_home(None, dir.path());
    get.args(["get", magnet, "--json", "--tor"]).arg(tor);
    get.arg("--output").arg(&out).arg("--state").arg(state);
    let mut get = Process::spawn("get", get);
    let status = get.wait(LONG);
    let tails = || format!("{}{}", get.tails(), seed.tails());
    assert!(status.success(), "{status}{}", tails());
    let got = hash_file(&out.join(NAME));
    assert_eq!(got, hash_file(&dir.path().join(NAME)));
}

#[test]
fn an_onion_seed_that_is_to_stay_has_full_vanguards_and_serves() {
    if !installed("tor") {
        return;
    }
    let network = TorNetwork::start(&Size::default());
    let dir = TempDir::new().unwrap();
    write_noise(&dir.path().join(NAME), SIZE, 5);
    // Arti keeps the second and third relays on the disk where there are full vanguards, and only there.
    let kept = |state: &str| {
        let path = dir.path().join(state).join("tor/state/state");
        assert!(path.join("guards.json").exists());
        path.join("vanguards.json").exists()
    };
    let file = network.tor_file();
    let (mut stays, magnet) = seed(&dir, "stays", &file, &[]);
    assert_serves(&stays, &dir, &file, &magnet);
    assert!(kept("stays"));
    // One that is gone tomorrow, and one whose user wants it so, are content with less.
    let (_passes, _) = seed(&dir, "passes", &file, &["--ephemeral"]);
    let lite = network.tor_file_with("lite.toml", "vanguards = \"lite\"\n");
    let (_lite, _) = seed(&dir, "lite", &lite, &[]);
    assert!(!kept("passes") && !kept("lite"));
    stays.signal(Signal::INT);
    assert_eq!(stays.wait(PATIENCE).code(), Some(0), "{}", stays.tails());
}
