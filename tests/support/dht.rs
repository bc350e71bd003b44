//! A private DHT of real foreign nodes (`tests/fixtures/dht_nodes.py`): libtorrent sessions on one host, each with an address
//! in a network of its own, and what each of them was asked, by whom.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::clients::addr_of;
use super::process::Process;
use super::world::Host;
use super::{PATIENCE, fixture};

/// Third parts of the nodes' addresses, `10.77.n.HOST`: one node in each network.
pub const NETWORKS: std::ops::RangeInclusive<u8> = 10..=109;
/// Where every node listens.
pub const PORT: u16 = 6881;
/// The last messages may still be on their way through a node when it is asked.
const SETTLE: Duration = Duration::from_millis(500);

/// See the module.
pub struct PrivateDht {
    /// The program.
    pub process: Process,
    /// Addresses of its nodes.
    pub nodes: Vec<SocketAddr>,
    asked: u64,
}

/// Messages of one kind that a node got from one sender.
#[derive(Clone, Debug)]
pub struct Record {
    /// Who got it.
    pub node: SocketAddr,
    /// Who sent it.
    pub from: SocketAddr,
    /// How often.
    pub packets: u64,
    /// What it said.
    pub said: Said,
}

/// What a message said, without what differs each time.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Said {
    /// `q` for a query, `r` for an answer, `e` for an error, empty for what is no message.
    pub kind: String,
    /// Name of the query.
    pub query: String,
    /// What was looked for or put, in hexadecimal digits: an infohash or another target.
    pub target: String,
    /// The sender's node id.
    pub id: String,
    /// Whether the sender is a read-only node (BEP 43).
    pub ro: bool,
    /// The client's name for itself, in hexadecimal digits.
    pub v: String,
    /// The keys of the message, and those of its arguments.
    pub keys: Vec<Vec<String>>,
    /// Port of an `announce_peer`; 0 for the port that it came from.
    pub announced: Option<u16>,
}

/// What a DHT learned of one looker-up.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// Nodes that he sent anything.
    pub asked: BTreeSet<SocketAddr>,
    /// Nodes to which he named the infohash.
    pub told: BTreeSet<SocketAddr>,
    /// Messages that he sent.
    pub packets: u64,
}

impl PrivateDht {
    /// Addresses that its nodes will have on this host, without starting any.
    pub fn addresses(host: &Host) -> Vec<SocketAddr> {
        let last = host.ip4.octets()[3];
        NETWORKS
            .map(|n| SocketAddr::from(([10, 77, n, last], PORT)))
            .collect()
    }

    /// Starts it and waits until every node finds what another announces.
    pub fn start_on(python: &Path, host: &Host) -> Self {
        host.add_networks(NETWORKS);
        let nodes = Self::addresses(host);
        Self::start(host.command(python), nodes)
    }

    fn start(mut command: std::process::Command, nodes: Vec<SocketAddr>) -> Self {
        command
            .arg(fixture("dht_nodes.py"))
            .args(nodes.iter().map(SocketAddr::to_string));
        let mut process = Process::spawn_listening("dht", command);
        let ready = process.wait_for_event(2 * PATIENCE, "ready");
        assert_eq!(ready["nodes"], nodes.len(), "{ready}");
        Self {
            process,
            nodes,
            asked: 0,
        }
    }

    /// Waits until this host has announced itself for an infohash (hexadecimal digits).
    pub fn wait_for_announce(&mut self, infohash: &str, by: &Host) {
        // Transmission takes a minute.
        let deadline = std::time::Instant::now() + 3 * PATIENCE;
        let announced = |record: &Record| {
            let said = &record.said;
            by.owns(record.from.ip()) && said.announced.is_some() && said.target == infohash
        };
        while !self.records().iter().any(announced) {
            assert!(std::time::Instant::now() < deadline, "nobody announces");
        }
    }

    /// Starts one of these addresses, which this machine must have, and waits until it works.
    pub fn start_at(python: &Path, nodes: Vec<SocketAddr>) -> Self {
        Self::start(std::process::Command::new(python), nodes)
    }

    /// All that its nodes were sent since they were ready.
    pub fn records(&mut self) -> Vec<Record> {
        std::thread::sleep(SETTLE);
        let before = self.process.events("record").len();
        self.process.tell("");
        self.asked += 1;
        let asked = self.asked;
        self.process.wait_until(PATIENCE, |process| {
            let told = process.events("reported");
            told.iter().any(|line| line["lines"] == asked).then_some(())
        });
        let lines = self.process.events("record");
        lines[before..].iter().map(record).collect()
    }
}

fn record(line: &Value) -> Record {
    Record {
        node: line["node"].as_str().unwrap().parse().unwrap(),
        from: addr_of(&line["ip"], &line["port"]),
        packets: line["packets"].as_u64().unwrap(),
        said: serde_json::from_value(line.clone()).unwrap(),
    }
}

/// What the nodes learned of those whom `who` accepts; `infohash` in hexadecimal digits.
pub fn learned(records: &[Record], infohash: &str, who: impl Fn(IpAddr) -> bool) -> Learned {
    let mut learned = Learned::default();
    for record in records.iter().filter(|record| who(record.from.ip())) {
        learned.asked.insert(record.node);
        learned.packets += record.packets;
        if record.said.target == infohash {
            learned.told.insert(record.node);
        }
    }
    learned
}
