//! A private Tor network of Debian's `tor` on loopback, or on a host of its own (`tests/fixtures/tor_network.py`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::clients::{command_on, installed};
use super::fixture;
use super::loopback::PROGRAM;
use super::process::{Process, run};
use super::world::Host;

/// How long the network may take to come up. It needs about 15 s; a consensus that some relay missed is made again.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long its end may take: the fixture gives its programs 5 s.
const END: Duration = Duration::from_secs(60);

/// The Ed25519 base point: a key that is well formed, and that no onion service uses.
pub const NOBODY: [u8; 32] = {
    let mut key = [0x66; 32];
    key[0] = 0x58;
    key
};

/// How many of each kind.
#[derive(Clone, Debug)]
pub struct Size {
    /// Directory authorities, which are relays too.
    pub authorities: usize,
    /// Relays that are neither authorities nor exits.
    pub relays: usize,
    /// Exits to anywhere, loopback too.
    pub exits: usize,
    /// Relays that are in no directory. They offer obfs4 too, where there is `obfs4proxy`.
    pub bridges: usize,
    /// Onion services: `VPORT:HOST:PORT`.
    pub onions: Vec<String>,
}

impl Size {
    /// One of each: the three relays of every circuit.
    pub fn three_relays() -> Self {
        Self {
            authorities: 1,
            relays: 1,
            exits: 1,
            bridges: 0,
            onions: Vec::new(),
        }
    }
}

impl Default for Size {
    /// Enough that circuits differ.
    fn default() -> Self {
        Self {
            authorities: 3,
            relays: 3,
            exits: 2,
            bridges: 0,
            onions: Vec::new(),
        }
    }
}

/// A relay that is in no directory: whoever knows its line comes to it.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// Where it listens for Tor's own protocol.
    pub addr: SocketAddr,
    /// Its line for that.
    pub line: String,
    /// Where its obfs4 listens, and the line for that; `None` without `obfs4proxy`.
    pub obfs4: Option<(SocketAddr, String)>,
    /// Its process.
    pub pid: u32,
}

/// A running network with one client. All of it ends with this value.
pub struct TorNetwork {
    /// The fixture.
    pub process: Process,
    /// What it said: `nodes` with name, kind, pid, ports, identities and torrc of each.
    pub ready: Value,
    /// The address of all of it.
    ip: IpAddr,
    /// Holds everything; goes last.
    dir: TempDir,
}

impl TorNetwork {
    /// Starts one and waits until its client can build circuits. Call `installed("tor")` first.
    pub fn start(size: &Size) -> Self {
        let command = Command::new("python3");
        Self::start_at(size, command, Ipv4Addr::LOCALHOST.into())
    }

    /// The same on another host.
    pub fn start_on(host: &Host, size: &Size) -> Self {
        Self::start_at(size, host.command("python3"), host.ip4.into())
    }

    fn start_at(size: &Size, mut command: Command, ip: IpAddr) -> Self {
        let dir = TempDir::new().unwrap();
        command.arg(fixture("tor_network.py")).arg(dir.path());
        command.args(["--host", &ip.to_string()]);
        for (name, count) in [
            ("--authorities", size.authorities),
            ("--relays", size.relays),
            ("--exits", size.exits),
            ("--bridges", size.bridges),
        ] {
            command.args([name, &count.to_string()]);
        }
        if size.bridges > 0 && installed("obfs4proxy") {
            command.arg("--obfs4");
        }
        for onion in &size.onions {
            command.args(["--onion", onion]);
        }
        let mut process = Process::spawn("tor network", command);
        let ready = process.wait_for_event(PATIENCE, "ready");
        Self {
            process,
            ready,
            ip,
            dir,
        }
    }

    fn nodes(&self, kind: &str) -> impl Iterator<Item = &Value> {
        let nodes = self.ready["nodes"].as_array().unwrap().iter();
        nodes.filter(move |node| node["kind"] == kind)
    }

    /// SOCKS port of the client.
    pub fn socks(&self) -> SocketAddr {
        self.port(self.nodes("client").next().unwrap(), "socks")
    }

    /// Configuration and SOCKS port of a client that was not started.
    pub fn spare(&self) -> (PathBuf, SocketAddr) {
        let spare = self.nodes("spare").next().unwrap();
        let torrc = spare["torrc"].as_str().unwrap().into();
        (torrc, self.port(spare, "socks"))
    }

    fn port(&self, node: &Value, name: &str) -> SocketAddr {
        let port = node[name].as_u64().unwrap();
        (self.ip, u16::try_from(port).unwrap()).into()
    }

    /// Where relays that are in the directory listen for others.
    pub fn relays(&self) -> Vec<SocketAddr> {
        let nodes = self.ready["nodes"].as_array().unwrap().iter();
        let relays = nodes.filter(|node| node["orport"].is_u64() && node["kind"] != "bridge");
        relays.map(|node| self.port(node, "orport")).collect()
    }

    /// The bridges.
    pub fn bridges(&self) -> Vec<Bridge> {
        let bridges = self.nodes("bridge").map(|node| {
            let line = |number: usize| node["bridge_lines"][number].as_str().map(str::to_owned);
            Bridge {
                addr: self.port(node, "orport"),
                line: line(0).unwrap(),
                obfs4: line(1).map(|line| (self.port(node, "obfs4"), line)),
                pid: u32::try_from(node["pid"].as_u64().unwrap()).unwrap(),
            }
        });
        bridges.collect()
    }

    /// Names of the onion services.
    pub fn onions(&self) -> Vec<String> {
        let names = self.nodes("onion").map(|node| node["onion"].as_str());
        names.map(|name| name.unwrap().to_owned()).collect()
    }

    /// A Tor file of this network for hushswarm, as its operator would write it.
    pub fn tor_file(&self) -> PathBuf {
        self.tor_file_with("tor.toml", "")
    }

    /// The same of another name, with these lines at its head.
    pub fn tor_file_with(&self, name: &str, head: &str) -> PathBuf {
        let text = |node: &Value, key: &str| node[key].as_str().unwrap().to_owned();
        let nodes = self.ready["nodes"].as_array().unwrap();
        let authorities = nodes.iter().filter(|node| node["v3ident"].is_string());
        let mut file = format!("{head}\n[network]\nauthorities = [");
        for authority in authorities.clone() {
            file += &format!("\"{}\", ", text(authority, "v3ident"));
        }
        file += "]\n";
        for node in authorities {
            file += &format!(
                "[[network.fallback]]\nrsa = \"{}\"\ned25519 = \"{}\"\naddress = \"{}\"\n",
                text(node, "rsa_identity"),
                text(node, "ed_identity"),
                self.port(node, "orport"),
            );
        }
        let path = self.dir.path().join(name);
        std::fs::write(&path, file).unwrap();
        path
    }

    /// Process ids of every tor of a kind: `client`, `onion`, ...
    pub fn pids_of(&self, kind: &str) -> Vec<u32> {
        let pids = self.nodes(kind).filter_map(|node| node["pid"].as_u64());
        pids.map(|pid| u32::try_from(pid).unwrap()).collect()
    }

    /// Process ids of every tor.
    pub fn pids(&self) -> Vec<u32> {
        let nodes = self.ready["nodes"].as_array().unwrap().iter();
        let pids = nodes.filter_map(|node| node["pid"].as_u64());
        pids.map(|pid| u32::try_from(pid).unwrap()).collect()
    }

    /// Sends every tor a signal: STOP, and later CONT, as when a network fails and comes back.
    pub fn signal(&self, signal: Signal) {
        for pid in self.pids() {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
            kill_process(pid, signal).unwrap();
        }
    }

    /// Ends every tor and waits for that.
    pub fn stop(&mut self) {
        assert!(self.process.stop(END).success());
    }
}

impl Drop for TorNetwork {
    fn drop(&mut self) {
        if self.process.exit_status().is_none() {
            self.process.stop(END);
        }
    }
}

/// The program, on this machine or on a host, with `home` as its home: no file of this computer's user is used, and it has no
/// relay list.
pub fn away_from_home(host: Option<&Host>, home: &Path) -> Command {
    let mut command = command_on(host, PROGRAM);
    command.env("HOME", home);
    for name in ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"] {
        command.env_remove(name);
    }
    command
}

/// The name of an onion service with this key (Tor's rend-spec-v3, "Encoding onion addresses"), made by Python.
pub fn onion_of(key: &[u8; 32]) -> String {
    let mut python = Command::new("python3");
    python.args(["-c", ONION, &data_encoding::HEXLOWER.encode(key)]);
    run(python).trim().to_owned()
}

const ONION: &str = r"
import base64, hashlib, sys
key = bytes.fromhex(sys.argv[1])
check = hashlib.sha3_256(b'.onion checksum' + key + b'\x03').digest()[:2]
print(base64.b32encode(key + check + b'\x03').decode().lower() + '.onion')
";
