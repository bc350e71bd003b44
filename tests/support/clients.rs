//! Real BitTorrent programs that nobody here wrote, and an independent tracker. Discovery (DHT, LSD, PEX, UPnP) is off.
//!
//! Every program runs on a [`Host`] or, with `None`, on this machine. Each writes down whom it has seen.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::{Process, free_port, run};
use super::world::Host;
use super::{PATIENCE, fixture, skip};

mod download;

#[allow(unused_imports)] // every test takes what it needs
pub use download::{DhtNode, Place, QBittorrent, aria2_get, curl};

/// A torrent made by `tests/fixtures/make_torrent.py`.
#[derive(Clone, Debug)]
pub struct Torrent {
    /// The `.torrent` file.
    pub file: PathBuf,
    /// Its infohash, 40 hexadecimal digits.
    pub infohash: String,
    /// A magnet link with its trackers.
    pub magnet: String,
}

impl Torrent {
    /// Describes a file or folder in a v1 torrent at `file`.
    pub fn make(content: &Path, file: &Path, trackers: &[&str], piece_length: u32) -> Self {
        let mut command = Command::new("python3");
        command
            .arg(fixture("make_torrent.py"))
            .arg(content)
            .arg(file);
        command.args(["--piece-length", &piece_length.to_string()]);
        for tracker in trackers {
            command.args(["--tracker", tracker]);
        }
        let said: Value = serde_json::from_str(&run(command)).unwrap();
        let text = |key: &str| said[key].as_str().unwrap().to_owned();
        Self {
            file: file.to_owned(),
            infohash: text("infohash"),
            magnet: text("magnet"),
        }
    }

    /// The infohash as bytes, a needle for a capture.
    pub fn infohash_bytes(&self) -> Vec<u8> {
        data_encoding::HEXLOWER
            .decode(self.infohash.as_bytes())
            .unwrap()
    }
}

/// A peer as a client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenPeer {
    /// Address at the client's end of the connection.
    pub addr: SocketAddr,
    /// What it called itself; empty where it said nothing.
    pub client: String,
    /// Peer id as the client shows it; empty where it does not.
    pub peer_id: String,
    /// Bytes sent to it when it was last looked at, where the client counts them by peer.
    pub uploaded: Option<u64>,
}

/// A Python that has libtorrent: `HUSHSWARM_PYTHON`, the one that `tests/run` made, or the system's. `None` (after a
/// [`skip`]) where there is none.
pub fn libtorrent_python() -> Option<PathBuf> {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
    let chosen = std::env::var_os("HUSHSWARM_PYTHON").map(PathBuf::from);
    let system = ["python3", "/usr/bin/python3"].map(PathBuf::from);
    let found = chosen
        .into_iter()
        .chain([made])
        .chain(system)
        .find(|python| {
            let mut probe = Command::new(python);
            probe
                .args(["-c", "import libtorrent"])
                .stderr(Stdio::null());
            probe.status().is_ok_and(|status| status.success())
        });
    if found.is_none() {
        skip("no python with libtorrent: run tests/run once");
    }
    found
}

/// Whether a program is installed; a [`skip`] where not.
pub fn installed(program: &str) -> bool {
    let mut probe = Command::new(program);
    probe
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let found = probe.status().is_ok();
    if !found {
        skip(&format!("{program} is not installed: run tests/run once"));
    }
    found
}

/// A program on a host, or on this machine.
pub fn command_on(host: Option<&Host>, program: impl AsRef<OsStr>) -> Command {
    host.map_or_else(
        || Command::new(program.as_ref()),
        |host| host.command(program.as_ref()),
    )
}

/// Where a program on `host` listens: the host's own address, or loopback.
fn ip_on(host: Option<&Host>) -> IpAddr {
    host.map_or(Ipv4Addr::LOCALHOST.into(), |host| host.ip4.into())
}

/// A port for a program on `host`, where nothing else runs; or a free one of this machine.
fn port_on(host: Option<&Host>, on_host: u16) -> u16 {
    host.map_or_else(|| free_port(Ipv4Addr::LOCALHOST.into()), |_| on_host)
}

/// A libtorrent session that seeds (`tests/fixtures/lt_seed.py`) or downloads (`lt_get.py`).
pub struct Libtorrent {
    /// The program.
    pub process: Process,
    /// Where it listens.
    pub addr: SocketAddr,
}

impl Libtorrent {
    /// Seeds the content that lies in `folder`; ready when checked. `upload_rate` in bytes per second.
    pub fn seed(
        python: &Path,
        host: Option<&Host>,
        torrent: &Torrent,
        folder: &Path,
        upload_rate: Option<u64>,
    ) -> Self {
        Self::seed_with(python, host, torrent, folder, upload_rate, &[])
    }

    /// The same with more arguments for `lt_seed.py`.
    pub fn seed_with(
        python: &Path,
        host: Option<&Host>,
        torrent: &Torrent,
        folder: &Path,
        upload_rate: Option<u64>,
        more: &[&str],
    ) -> Self {
        let mut command = command_on(host, python);
        command
            .arg(fixture("lt_seed.py"))
            .arg(&torrent.file)
            .arg(folder)
            .args(more);
        if let Some(rate) = upload_rate {
            command.args(["--upload-rate", &rate.to_string()]);
        }
        Self::start("libtorrent seed", host, command)
    }

    /// Gives the part of the content that lies in `folder`.
    pub fn hold(python: &Path, host: Option<&Host>, torrent: &Torrent, folder: &Path) -> Self {
        Self::seed_with(python, host, torrent, folder, None, &["--part"])
    }

    /// Downloads a magnet link or `.torrent` file into `folder`, also from `peers`; seeds on until it is dropped.
    /// `download_rate` in bytes per second.
    pub fn get(
        python: &Path,
        host: Option<&Host>,
        source: &str,
        folder: &Path,
        peers: &[SocketAddr],
        download_rate: Option<u64>,
    ) -> Self {
        let mut command = command_on(host, python);
        command
            .arg(fixture("lt_get.py"))
            .arg(source)
            .arg(folder)
            .arg("--stay");
        for peer in peers {
            command.args(["--peer", &peer.to_string()]);
        }
        if let Some(rate) = download_rate {
            command.args(["--download-rate", &rate.to_string()]);
        }
        Self::start("libtorrent get", host, command)
    }

    fn start(name: &str, host: Option<&Host>, mut command: Command) -> Self {
        let (ip, port) = (ip_on(host), port_on(host, 6881));
        command.args(["--listen", &SocketAddr::new(ip, port).to_string()]);
        let mut process = Process::spawn(name, command);
        let ready = process.wait_for_event(PATIENCE, "ready");
        assert_eq!(ready["port"], port, "libtorrent listens elsewhere");
        Self {
            process,
            addr: SocketAddr::new(ip, port),
        }
    }

    /// Waits until a download is complete.
    pub fn wait_done(&mut self) {
        self.process.wait_for_event(PATIENCE, "done");
    }

    /// Every peer it ever saw, each with its newest numbers.
    pub fn peers(&self) -> Vec<SeenPeer> {
        libtorrent_peers(&self.process)
    }

    /// Waits for a peer that `wanted` accepts.
    pub fn wait_for_peer(&mut self, wanted: impl Fn(&SeenPeer) -> bool) -> SeenPeer {
        let look = |process: &Process| libtorrent_peers(process).into_iter().find(&wanted);
        self.process.wait_until(PATIENCE, look)
    }
}

fn libtorrent_peers(process: &Process) -> Vec<SeenPeer> {
    let mut seen: Vec<SeenPeer> = Vec::new();
    for line in process.events("peer") {
        let peer = SeenPeer {
            addr: addr_of(&line["ip"], &line["port"]),
            client: line["client"].as_str().unwrap().to_owned(),
            peer_id: line["peer_id"].as_str().unwrap().to_owned(),
            uploaded: line["uploaded"].as_u64(),
        };
        match seen.iter_mut().find(|known| known.addr == peer.addr) {
            Some(known) => *known = peer,
            None => seen.push(peer),
        }
    }
    seen
}

/// An aria2 that seeds.
pub struct Aria2 {
    /// The program.
    pub process: Process,
    /// Where it listens.
    pub addr: SocketAddr,
    host: Option<Host>,
    rpc: String,
}

impl Aria2 {
    /// Seeds the content that lies in `folder`. Call [`installed`] first.
    pub fn seed(host: Option<&Host>, torrent: &Torrent, folder: &Path) -> Self {
        Self::seed_known_to(host, torrent, folder, None)
    }

    /// Gives the part of the content that lies in `folder`.
    pub fn hold(host: Option<&Host>, torrent: &Torrent, folder: &Path) -> Self {
        Self::start(host, torrent, folder, None, false)
    }

    /// As [`Self::seed`]; where a node of a DHT is given, it takes part there and announces itself.
    pub fn seed_known_to(
        host: Option<&Host>,
        torrent: &Torrent,
        folder: &Path,
        node: Option<SocketAddr>,
    ) -> Self {
        Self::start(host, torrent, folder, node, true)
    }

    fn start(
        host: Option<&Host>,
        torrent: &Torrent,
        folder: &Path,
        node: Option<SocketAddr>,
        whole: bool,
    ) -> Self {
        let (ip, port, rpc) = (ip_on(host), port_on(host, 6881), port_on(host, 6800));
        let mut command = command_on(host, "aria2c");
        command.args(["--no-conf", "--enable-dht6=false"]);
        command.arg(format!("--enable-dht={}", node.is_some()));
        if let Some(node) = node {
            command.args([
                format!("--dht-entry-point={node}"),
                format!("--dht-listen-port={port}"),
                format!("--bt-external-ip={ip}"),
                // Nothing is kept, of another test neither.
                "--dht-file-path=/dev/null".to_owned(),
            ]);
        }
        command.args(["--bt-enable-lpd=false", "--enable-peer-exchange=false"]);
        command.args([
            "--check-integrity=true",
            "--seed-ratio=0.0",
            "--disable-ipv6=true",
        ]);
        command.args(["--show-console-readout=false", "--console-log-level=notice"]);
        command.args(["--enable-rpc=true", &format!("--rpc-listen-port={rpc}")]);
        command.args([
            format!("--listen-port={port}"),
            format!("--dir={}", folder.display()),
        ]);
        if host.is_none() {
            command.arg(format!("--interface={ip}"));
        }
        command.arg(&torrent.file);
        let process = Process::spawn("aria2", command);
        let rpc = format!("http://127.0.0.1:{rpc}/jsonrpc");
        let mut this = Self {
            process,
            addr: SocketAddr::new(ip, port),
            host: host.cloned(),
            rpc,
        };
        let (host, rpc) = (this.host.clone(), this.rpc.clone());
        this.process.wait_until(PATIENCE, |_| {
            let active = try_rpc(host.as_ref(), "aria2", &rpc, "aria2.tellActive", &json!([]))?;
            let part = !whole && active[0]["completedLength"].as_str() > Some("0");
            (part || active[0]["seeder"] == "true").then_some(())
        });
        this
    }

    /// Peers that are connected now.
    pub fn peers(&self) -> Vec<SeenPeer> {
        let call = |method: &str, arguments: Value| {
            try_rpc(self.host.as_ref(), "aria2", &self.rpc, method, &arguments).unwrap()
        };
        let active = call("aria2.tellActive", json!([]));
        let peers = call("aria2.getPeers", json!([active[0]["gid"]]));
        let peers = peers.as_array().unwrap().iter();
        peers
            .map(|peer| SeenPeer {
                addr: addr_of(&peer["ip"], &peer["port"]),
                client: String::new(),
                peer_id: peer["peerId"].as_str().unwrap().to_owned(),
                uploaded: None,
            })
            .collect()
    }
}

/// A transmission-daemon that seeds.
pub struct Transmission {
    /// The program.
    pub process: Process,
    /// Where it listens.
    pub addr: SocketAddr,
    host: Option<Host>,
    rpc: String,
    _config: TempDir,
}

impl Transmission {
    /// Seeds the content that lies in `folder`. Call [`installed`] first.
    pub fn seed(host: Option<&Host>, torrent: &Torrent, folder: &Path) -> Self {
        Self::seed_known_to(host, torrent, folder, None)
    }

    /// Gives the part of the content that lies in `folder`.
    pub fn hold(host: Option<&Host>, torrent: &Torrent, folder: &Path) -> Self {
        Self::start(host, torrent, folder, None, false)
    }

    /// As [`Self::seed`]; where a node of a DHT is given, it takes part there and announces itself.
    pub fn seed_known_to(
        host: Option<&Host>,
        torrent: &Torrent,
        folder: &Path,
        node: Option<SocketAddr>,
    ) -> Self {
        Self::start(host, torrent, folder, node, true)
    }

    fn start(
        host: Option<&Host>,
        torrent: &Torrent,
        folder: &Path,
        node: Option<SocketAddr>,
        whole: bool,
    ) -> Self {
        let (ip, port, rpc) = (ip_on(host), port_on(host, 51413), port_on(host, 9091));
        let config = TempDir::new().unwrap();
        if let Some(node) = node {
            let line = format!("{} {}\n", node.ip(), node.port());
            std::fs::write(config.path().join("dht.bootstrap"), line).unwrap();
        }
        let settings = json!({
            "bind-address-ipv4": ip.to_string(), "bind-address-ipv6": "::1", "dht-enabled": node.is_some(),
            "download-dir": folder, "encryption": 0, "lpd-enabled": false, "peer-port": port,
            "pex-enabled": false, "port-forwarding-enabled": false, "rpc-authentication-required": false,
            "rpc-bind-address": "127.0.0.1", "rpc-port": rpc, "rpc-host-whitelist-enabled": false,
            "ratio-limit-enabled": false, "start-added-torrents": true, "utp-enabled": false,
        });
        std::fs::write(config.path().join("settings.json"), settings.to_string()).unwrap();
        let mut command = command_on(host, "transmission-daemon");
        command
            .args(["--foreground", "--config-dir"])
            .arg(config.path());
        let process = Process::spawn("transmission", command);
        let rpc = format!("http://127.0.0.1:{rpc}/transmission/rpc");
        let addr = SocketAddr::new(ip, port);
        let mut this = Self {
            process,
            addr,
            host: host.cloned(),
            rpc,
            _config: config,
        };
        let (host, rpc) = (this.host.clone(), this.rpc.clone());
        let call = |method: &str, arguments: Value| {
            try_rpc(host.as_ref(), "transmission", &rpc, method, &arguments)
        };
        let add = json!({ "filename": torrent.file, "download-dir": folder });
        this.process
            .wait_until(PATIENCE, |_| call("torrent-add", add.clone()));
        this.process.wait_until(PATIENCE, |_| {
            // Status 6 is seeding, 4 is downloading; before it, the content is checked.
            let state = call("torrent-get", json!({ "fields": ["status"] }))?;
            let status = &state["torrents"][0]["status"];
            (*status == 6 || !whole && *status == 4).then_some(())
        });
        this
    }

    /// Peers that are connected now.
    pub fn peers(&self) -> Vec<SeenPeer> {
        let fields = json!({ "fields": ["peers"] });
        let state = try_rpc(
            self.host.as_ref(),
            "transmission",
            &self.rpc,
            "torrent-get",
            &fields,
        )
        .unwrap();
        let peers = state["torrents"][0]["peers"].as_array().unwrap().iter();
        peers
            .map(|peer| SeenPeer {
                addr: addr_of(&peer["address"], &peer["port"]),
                client: peer["clientName"].as_str().unwrap().to_owned(),
                peer_id: String::new(),
                uploaded: None,
            })
            .collect()
    }
}

/// An HTTP and UDP tracker that shares no code with ours (`tests/fixtures/tracker.py`).
pub struct Tracker {
    /// The program.
    pub process: Process,
    /// Its HTTP announce URL.
    pub http: String,
    /// Its UDP announce URL.
    pub udp: String,
}

impl Tracker {
    /// Starts one. Every answer also names `bait`.
    pub fn start(host: Option<&Host>, bait: &[SocketAddr]) -> Self {
        let mut command = command_on(host, "python3");
        let listen = SocketAddr::new(ip_on(host), port_on(host, 6969));
        command
            .arg(fixture("tracker.py"))
            .args(["--listen", &listen.to_string()]);
        for peer in bait {
            command.args(["--peer", &peer.to_string()]);
        }
        let mut process = Process::spawn("tracker", command);
        let ready = process.wait_for_event(PATIENCE, "ready");
        let url = |key: &str| ready[key].as_str().unwrap().to_owned();
        Self {
            http: url("http"),
            udp: url("udp"),
            process,
        }
    }

    /// All announces so far, with every field as it came.
    pub fn announces(&self) -> Vec<Value> {
        self.process.events("announce")
    }
}

/// Calls a control port from its own host; `None` when it does not answer (yet).
fn try_rpc(
    host: Option<&Host>,
    kind: &str,
    url: &str,
    method: &str,
    arguments: &Value,
) -> Option<Value> {
    let mut command = command_on(host, "python3");
    command
        .arg(fixture("rpc.py"))
        .args([kind, url, method, &arguments.to_string()]);
    let output = command.output().unwrap();
    output
        .status
        .success()
        .then(|| serde_json::from_slice(&output.stdout).unwrap())
}

pub(super) fn addr_of(ip: &Value, port: &Value) -> SocketAddr {
    let port = port
        .as_u64()
        .or_else(|| port.as_str()?.parse().ok())
        .unwrap();
    SocketAddr::new(
        ip.as_str().unwrap().parse().unwrap(),
        u16::try_from(port).unwrap(),
    )
}
