//! A service and a visitor of one kind, each a process of its own.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::PORT;
use crate::cpu::Cpu;
use crate::streams::{Download, Source, Way};
use crate::support::process::{Process, free_port};
use crate::support::tor::{TorNetwork, away_from_home};

/// How long until a new onion service is found: its descriptor has to be published first.
const PATIENCE: Duration = Duration::from_secs(300);
/// Name of arti's service.
const NICKNAME: &str = "bench";

/// A service and a visitor.
pub(crate) struct Pair {
    pub(crate) name: &'static str,
    /// The visitor's SOCKS port.
    socks: SocketAddr,
    onion: String,
    ends: Vec<u32>,
    relays: Vec<u32>,
    users: AtomicU64,
    /// Keeps the visitor's circuits to itself, where streams shall share one.
    _running: Vec<Process>,
    _dir: TempDir,
}

/// Streams of new users, each by circuits of its own.
struct Fresh<'a>(&'a Pair);

/// Streams of one user.
struct Warm<'a>(&'a Pair, u64);

impl Pair {
    /// The network's own client, and an onion service beside it.
    pub(crate) fn tor(network: &TorNetwork) -> Self {
        let ends = [network.pids_of("client"), network.pids_of("onion")].concat();
        Self {
            name: "tor",
            socks: network.socks(),
            onion: network.onions().remove(0),
            ends,
            relays: relays(network),
            users: AtomicU64::new(0),
            _running: Vec::new(),
            _dir: TempDir::new().unwrap(),
        }
    }

    /// The program of the Tor Project.
    pub(crate) fn arti(program: &Path, network: &TorNetwork, source: SocketAddr) -> Self {
        let dir = TempDir::new().unwrap();
        let socks = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port(Ipv4Addr::LOCALHOST.into())));
        let service = format!(
            "[onion_services.\"{NICKNAME}\"]\nproxy_ports = [[\"{PORT}\", \"{source}\"]]\n[proxy]\nsocks_listen = 0\n"
        );
        let visitor = format!("[proxy]\nsocks_listen = {}\n", socks.port());
        let start = |name: &str, more: &str| {
            let config = arti_config(network, &dir.path().join(name), more);
            let mut command = Command::new(program);
            command.arg("-c").arg(&config).arg("proxy");
            (Process::spawn(name, command), config)
        };
        let (service, config) = start("service", &service);
        let (visitor, _) = start("visitor", &visitor);
        let onion = arti_address(program, &config);
        Self {
            name: "arti",
            socks,
            onion,
            ends: vec![service.id(), visitor.id()],
            relays: relays(network),
            users: AtomicU64::new(0),
            _running: vec![service, visitor],
            _dir: dir,
        }
    }

    /// Our proxy, and an onion service of ours that forwards.
    pub(crate) fn hushswarm(network: &TorNetwork, source: SocketAddr) -> Self {
        let dir = TempDir::new().unwrap();
        let tor = network.tor_file();
        let mut service = Command::new(std::env::current_exe().unwrap());
        service.arg("--service").arg(&tor);
        service
            .arg(dir.path().join("service"))
            .arg(source.to_string());
        let mut service = Process::spawn("service", service);
        let said = service.wait_for_line(PATIENCE, |line| line.ends_with(".onion"));
        let mut visitor = away_from_home(None, dir.path());
        visitor.args(["proxy", "--route", "tor", "--listen", "127.0.0.1:0"]);
        visitor.arg("--tor").arg(&tor);
        visitor.arg("--state").arg(dir.path().join("visitor"));
        let mut visitor = Process::spawn("visitor", visitor);
        let line = visitor.wait_for_line(PATIENCE, |line| line.contains("127.0.0.1:"));
        let rest = &line[line.find("127.0.0.1:").unwrap()..];
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'));
        Self {
            name: "hushswarm",
            socks: rest[..end.unwrap_or(rest.len())].parse().unwrap(),
            onion: said.trim().to_owned(),
            ends: vec![service.id(), visitor.id()],
            relays: relays(network),
            users: AtomicU64::new(0),
            _running: vec![service, visitor],
            _dir: dir,
        }
    }

    /// Milliseconds to the first byte ever, from now.
    pub(crate) fn first_contact(&self, source: &Source) -> f64 {
        let begun = Instant::now();
        source.first_byte_ms(&Warm(self, 0), 1);
        begun.elapsed().as_secs_f64() * 1e3
    }

    /// Medians of streams of new users, and of one user's, in milliseconds.
    pub(crate) fn first_bytes(&self, source: &Source, openings: usize) -> (f64, f64) {
        let fresh = source.first_byte_ms(&Fresh(self), openings);
        (fresh, source.first_byte_ms(&Warm(self, 0), openings))
    }

    /// A download, and the processor seconds per GB of everything with the relays.
    pub(crate) fn download(&self, source: &Source, total: u64, streams: u64) -> (Download, f64) {
        let before = Cpu::of(&self.relays);
        let download = if streams == 1 {
            source.download(&Warm(self, 0), total, 1)
        } else {
            source.download(&Fresh(self), total, streams)
        };
        let relays = Cpu::of(&self.relays).since(before).all();
        let all = download.cpu_per_gb + relays / (total as f64 / 1e9);
        (download, all)
    }

    /// A stream to the service, of this user. Circuits fail now and then, and a new service is not found at once: whoever
    /// wants to go there tries again.
    fn open_at_last(&self, user: u64) -> TcpStream {
        let begun = Instant::now();
        loop {
            match self.open(user) {
                Ok(stream) => return stream,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{}: {error}", self.name),
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// One try.
    fn open(&self, user: u64) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.socks)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let user = format!("user{user}");
        // RFC 1928, with a user name and password (RFC 1929).
        let length = [u8::try_from(user.len()).unwrap()];
        let name = [&length, user.as_bytes()].concat();
        stream.write_all(&[5, 1, 2])?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer)?;
        assert_eq!(answer, [5, 2], "{}", self.name);
        stream.write_all(&[&[1], &name[..], &name[..]].concat())?;
        stream.read_exact(&mut answer)?;
        assert_eq!(answer[1], 0);
        let host = self.onion.as_bytes();
        let length = [u8::try_from(host.len()).unwrap()];
        let request = [&[5, 1, 0, 3][..], &length, host, &PORT.to_be_bytes()].concat();
        stream.write_all(&request)?;
        let mut answer = [0; 10];
        stream.read_exact(&mut answer)?;
        if answer[1] == 0 {
            Ok(stream)
        } else {
            Err(std::io::Error::other(format!("refused: {}", answer[1])))
        }
    }
}

impl Way for Fresh<'_> {
    fn name(&self) -> &str {
        self.0.name
    }

    fn cpu(&self) -> Cpu {
        Cpu::of(&self.0.ends)
    }

    fn connect(&self, _: SocketAddr) -> TcpStream {
        // Not the one of [`Pair::first_contact`].
        self.0
            .open_at_last(1 + self.0.users.fetch_add(1, Ordering::Relaxed))
    }
}

impl Way for Warm<'_> {
    fn name(&self) -> &str {
        self.0.name
    }

    fn cpu(&self) -> Cpu {
        Cpu::of(&self.0.ends)
    }

    fn connect(&self, _: SocketAddr) -> TcpStream {
        self.0.open_at_last(self.1)
    }
}

/// Where `arti` is, if anywhere.
pub(crate) fn arti() -> Option<PathBuf> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/arti");
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).map(|folder| folder.join("arti"));
    places
        .find(|place| place.is_file())
        .or_else(|| ours.is_file().then_some(ours))
}

/// The service's address, once it has made its key.
fn arti_address(program: &Path, config: &Path) -> String {
    let begun = Instant::now();
    loop {
        let mut ask = Command::new(program);
        ask.arg("-c").arg(config);
        ask.args(["hss", "--nickname", NICKNAME, "onion-address"]);
        let said = ask.output().unwrap();
        if said.status.success() {
            return String::from_utf8(said.stdout).unwrap().trim().to_owned();
        }
        let why = String::from_utf8_lossy(&said.stderr);
        assert!(begun.elapsed() < PATIENCE, "arti has no service: {why}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Process ids of the network's relays: not of its clients and services.
pub(crate) fn relays(network: &TorNetwork) -> Vec<u32> {
    let all = network.pids();
    let ends = [network.pids_of("client"), network.pids_of("onion")].concat();
    all.into_iter().filter(|pid| !ends.contains(pid)).collect()
}

/// A configuration of arti for this network, with folders of its own.
fn arti_config(network: &TorNetwork, folder: &Path, more: &str) -> PathBuf {
    std::fs::create_dir(folder).unwrap();
    let ours = std::fs::read_to_string(network.tor_file()).unwrap();
    let ours: toml::Table = ours.parse().unwrap();
    let network = &ours["network"];
    let fallbacks = network["fallback"].as_array().unwrap().iter();
    let fallbacks = fallbacks.map(|one| {
        let text = |key: &str| one[key].as_str().unwrap();
        format!(
            "{{ rsa_identity = \"{}\", ed_identity = \"{}\", orports = [\"{}\"] }}",
            text("rsa"),
            text("ed25519"),
            text("address")
        )
    });
    let fallbacks: Vec<String> = fallbacks.collect();
    let text = format!(
        "{more}
[application]
allow_running_as_root = true
[storage]
cache_dir = \"{folder}/cache\"
state_dir = \"{folder}/state\"
[storage.permissions]
dangerously_trust_everyone = true
[tor_network]
authorities = {{ v3idents = {authorities}, uploads = [], downloads = [], votes = [] }}
fallback_caches = [{fallbacks}]
[path_rules]
ipv4_subnet_family_prefix = 33
ipv6_subnet_family_prefix = 129
[address_filter]
allow_local_addrs = true
allow_onion_addrs = true
",
        folder = folder.display(),
        authorities = network["authorities"],
        fallbacks = fallbacks.join(", "),
    );
    let path = folder.join("arti.toml");
    std::fs::write(&path, text).unwrap();
    path
}
