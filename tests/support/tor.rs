//! A private Tor network of Debian's `tor` on loopback (`tests/fixtures/tor_network.py`).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::fixture;
use super::process::Process;

/// How long the network may take to come up. It needs about 15 s; a consensus that some relay missed is made again.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long its end may take: the fixture gives its programs 5 s.
const END: Duration = Duration::from_secs(60);

/// How many of each kind.
#[derive(Clone, Debug)]
pub struct Size {
    /// Directory authorities, which are relays too.
    pub authorities: usize,
    /// Relays that are neither authorities nor exits.
    pub relays: usize,
    /// Exits to anywhere, loopback too.
    pub exits: usize,
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
            onions: Vec::new(),
        }
    }
}

/// A running network with one client. All of it ends with this value.
pub struct TorNetwork {
    /// The fixture.
    pub process: Process,
    /// What it said: `nodes` with name, kind, pid, ports, identities and torrc of each.
    pub ready: Value,
    /// Holds everything; goes last.
    dir: TempDir,
}

impl TorNetwork {
    /// Starts one and waits until its client can build circuits. Call `installed("tor")` first.
    pub fn start(size: &Size) -> Self {
        let dir = TempDir::new().unwrap();
        let mut command = Command::new("python3");
        command.arg(fixture("tor_network.py")).arg(dir.path());
        for (name, count) in [
            ("--authorities", size.authorities),
            ("--relays", size.relays),
            ("--exits", size.exits),
        ] {
            command.args([name, &count.to_string()]);
        }
        for onion in &size.onions {
            command.args(["--onion", onion]);
        }
        let mut process = Process::spawn("tor network", command);
        let ready = process.wait_for_event(PATIENCE, "ready");
        Self {
            process,
            ready,
            dir,
        }
    }

    fn nodes(&self, kind: &str) -> impl Iterator<Item = &Value> {
        let nodes = self.ready["nodes"].as_array().unwrap().iter();
        nodes.filter(move |node| node["kind"] == kind)
    }

    /// SOCKS port of the client.
    pub fn socks(&self) -> SocketAddr {
        socks_of(self.nodes("client").next().unwrap())
    }

    /// Configuration and SOCKS port of a client that was not started.
    pub fn spare(&self) -> (PathBuf, SocketAddr) {
        let spare = self.nodes("spare").next().unwrap();
        (spare["torrc"].as_str().unwrap().into(), socks_of(spare))
    }

    /// Names of the onion services.
    pub fn onions(&self) -> Vec<String> {
        let names = self.nodes("onion").map(|node| node["onion"].as_str());
        names.map(|name| name.unwrap().to_owned()).collect()
    }

    /// A Tor file of this network for hushswarm, as its operator would write it.
    pub fn tor_file(&self) -> PathBuf {
        let text = |node: &Value, key: &str| node[key].as_str().unwrap().to_owned();
        let nodes = self.ready["nodes"].as_array().unwrap();
        let authorities = nodes.iter().filter(|node| node["v3ident"].is_string());
        let mut file = "[network]\nauthorities = [".to_owned();
        for authority in authorities.clone() {
            file += &format!("\"{}\", ", text(authority, "v3ident"));
        }
        file += "]\n";
        for node in authorities {
            file += &format!(
                "[[network.fallback]]\nrsa = \"{}\"\ned25519 = \"{}\"\naddress = \"127.0.0.1:{}\"\n",
                text(node, "rsa_identity"),
                text(node, "ed_identity"),
                node["orport"],
            );
        }
        let path = self.dir.path().join("tor.toml");
        std::fs::write(&path, file).unwrap();
        path
    }

    /// Process ids of every tor.
    pub fn pids(&self) -> Vec<u32> {
        let nodes = self.ready["nodes"].as_array().unwrap().iter();
        let pids = nodes.filter_map(|node| node["pid"].as_u64());
        pids.map(|pid| u32::try_from(pid).unwrap()).collect()
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

fn socks_of(node: &Value) -> SocketAddr {
    let port = u16::try_from(node["socks"].as_u64().unwrap()).unwrap();
    (Ipv4Addr::LOCALHOST, port).into()
}
