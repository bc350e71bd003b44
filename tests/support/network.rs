//! A private network of relays that run as separate processes of the real program.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_types
)]

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use hushswarm::cli::demo::network::{PrivateNetwork, relay_ip};
use hushswarm::config::RelayConfig;
use hushswarm_circuits::path::PathRules;
use hushswarm_circuits::relay_list::RelayList;

/// One relay's state folder and what it is started with.
#[derive(Clone, Debug)]
pub struct RelayDir {
    pub state: PathBuf,
    pub network: PathBuf,
    pub addr: SocketAddr,
}

impl RelayDir {
    /// The command line, without the program.
    pub fn args(&self) -> Vec<String> {
        let ip: IpAddr = self.addr.ip();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        [
            "relay",
            "--grace",
            "1",
            "--state",
            &text(&self.state),
            "--network",
            &text(&self.network),
        ]
        .map(str::to_owned)
        .into_iter()
        .chain(["--source".to_owned(), ip.to_string()])
        .collect()
    }
}

/// Documents and folders of a network; nothing runs yet.
pub struct Network {
    pub relays: Vec<RelayDir>,
    pub file: PathBuf,
    pub list: Arc<RelayList>,
}

impl Network {
    /// A network on loopback, each relay on an address of its own; the last one (two of more than three) is an exit.
    pub fn build(dir: &Path, count: usize) -> Self {
        let addrs: Vec<SocketAddr> = (0..count).map(|n| free_port(relay_ip(n))).collect();
        let exits = if count > 3 { 2 } else { 1 };
        Self::at(dir, &addrs, count, exits, PathRules::default())
    }

    /// A network at these addresses, with so many guards at the front and exits at the end.
    pub fn at(
        dir: &Path,
        addrs: &[SocketAddr],
        guards: usize,
        exits: usize,
        rules: PathRules,
    ) -> Self {
        Self::edited(dir, addrs, guards, exits, rules, |_| {})
    }

    /// The same, with a last change to each relay's configuration.
    pub fn edited(
        dir: &Path,
        addrs: &[SocketAddr],
        guards: usize,
        exits: usize,
        rules: PathRules,
        edit: impl FnMut(&mut RelayConfig),
    ) -> Self {
        let network = PrivateNetwork::with(addrs, guards, exits, rules, edit).unwrap();
        let file = network.write_to(dir).unwrap();
        let relays = network
            .relays
            .iter()
            .zip(addrs)
            .map(|(plan, addr)| RelayDir {
                state: dir.join(&plan.config.nickname),
                network: file.clone(),
                addr: *addr,
            })
            .collect();
        Self {
            relays,
            file,
            list: network.list,
        }
    }
}

/// A port that was free a moment ago.
pub fn free_port(ip: IpAddr) -> SocketAddr {
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

/// Starts a relay and waits until it says that it listens.
pub fn spawn_relay<T>(program: &Path, relay: &RelayDir, wrap: impl FnOnce(Child) -> T) -> T {
    let mut command = Command::new(program);
    command.args(relay.args());
    wait_listening(command, wrap)
}

/// Starts a command that prints a line when it is ready.
pub fn wait_listening<T>(mut command: Command, wrap: impl FnOnce(Child) -> T) -> T {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    assert!(line.contains("listens on"), "the relay said {line:?}");
    // What it prints later must not block it.
    std::thread::spawn(move || out.lines().for_each(drop));
    wrap(child)
}
