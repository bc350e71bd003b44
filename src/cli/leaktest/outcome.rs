//! What the command tells the world that it starts, and what the world tells the command: one JSON line each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::classify::Class;

/// How the program reaches the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// As it would without us.
    Plain,
    /// In the jail of `hushswarm run`.
    Run,
    /// Beside a `hushswarm proxy` that it is told to use.
    Proxy,
}

/// What goes wrong in the middle of the transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The hushswarm that serves the program is killed (SIGKILL)
    KillProxy,
    /// All relays end at once
    KillRelays,
}

/// One run to be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// How the program reaches the world.
    pub way: Way,
    /// Our own program.
    pub exe: PathBuf,
    /// The program and its arguments, with placeholders.
    pub program: Vec<String>,
    /// Variables set for the program, with placeholders.
    pub env: Vec<(String, String)>,
    /// Files made for the program: where, and a text with placeholders.
    pub templates: Vec<(String, String)>,
    /// Makes the content: the same in both runs.
    pub seed: [u8; 32],
    /// Size of the content, bytes.
    pub size: u64,
    /// Folder of this run.
    pub dir: PathBuf,
    /// Longest time, seconds.
    pub seconds: u64,
    /// What goes wrong.
    pub fault: Option<Fault>,
    /// How long the program is watched after the fault, seconds.
    pub outage: u64,
    /// The torrent names trackers.
    pub trackers: bool,
    /// The torrent names a web seed.
    pub web_seed: bool,
    /// Relays between program and world.
    pub hops: u8,
    /// The program keeps its user's home folder.
    pub keep_home: bool,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// The file was complete and intact.
    Complete,
    /// The program ended.
    Program,
    /// The time was over.
    Time,
    /// The fault was watched for long enough.
    Fault,
}

/// Packets of one kind that left the program's computer past hushswarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Escaped {
    /// What they are.
    pub class: Class,
    /// They are IPv6.
    pub ipv6: bool,
    /// How many.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many of them after the fault.
    pub during_outage: u64,
    /// Where they went, the first few.
    pub to: BTreeSet<String>,
}

/// A port that is open on the program's own address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OpenPort {
    /// `tcp` or `udp`.
    pub proto: String,
    /// The address and port that are listened on.
    pub at: String,
    /// Whether a stranger's handshake was answered with one (TCP), or a ping (UDP).
    pub answers: bool,
}

/// Most values remembered of a kind.
const MAX_VALUES: usize = 200;

/// What one of those whom the program talked to learned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Who came: `you`, a relay, or an address.
    pub from: BTreeSet<String>,
    /// What was said, by kind.
    pub said: BTreeMap<String, BTreeSet<String>>,
    /// How often.
    pub times: u64,
}

impl Party {
    /// Somebody came.
    pub fn came(&mut self, from: String) {
        self.times += 1;
        if self.from.len() < MAX_VALUES {
            self.from.insert(from);
        }
    }

    /// Something was said.
    pub fn said(&mut self, kind: &str, value: impl Into<String>) {
        let values = self.said.entry(kind.to_owned()).or_default();
        if values.len() < MAX_VALUES {
            values.insert(value.into());
        }
    }
}

/// What the world learned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    /// By the name of the service.
    pub parties: BTreeMap<String, Party>,
    /// Where the program's own address was named inside what it said, however that reached the world.
    pub own_address: BTreeSet<String>,
}

/// What one run showed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// How the program reached the world.
    pub way: Way,
    /// Why it ended.
    pub ended: Ended,
    /// The program's exit status, where it ended by itself.
    pub status: Option<String>,
    /// The file arrived, complete and intact.
    pub complete: bool,
    /// Seconds until it was complete.
    pub seconds: Option<f64>,
    /// Bytes that the world gave away.
    pub served: u64,
    /// Whether the fault happened.
    pub fault: bool,
    /// What escaped.
    pub escaped: Vec<Escaped>,
    /// Packets of the links to the guards: hushswarm's own, encrypted.
    pub guard_packets: u64,
    /// Packets captured.
    pub captured: u64,
    /// Packets that the capture lost: with any, it proves nothing.
    pub lost: u64,
    /// Ports open on the program's own address.
    pub open: Vec<OpenPort>,
    /// What the world learned.
    pub learned: Learned,
    /// The end of the program's output.
    pub tail: String,
}

impl Outcome {
    /// Packets that escaped.
    pub fn packets(&self) -> u64 {
        self.escaped.iter().map(|escaped| escaped.packets).sum()
    }

    /// Why this is no clean run; empty where it is one.
    pub fn faults(&self) -> Vec<String> {
        let mut out = Vec::new();
        let packets = self.packets();
        if packets > 0 {
            let plural = if packets == 1 { "" } else { "s" };
            out.push(format!("{packets} packet{plural} escaped"));
        }
        out.extend(
            self.learned
                .own_address
                .iter()
                .map(|place| format!("its own address was told: {place}")),
        );
        for (name, party) in &self.learned.parties {
            if party.from.contains(super::addresses::YOU) {
                out.push(format!("{name} saw its address"));
            }
        }
        let answering = self.open.iter().filter(|open| open.answers).count();
        if answering > 0 {
            out.push(format!("{answering} of its ports answer strangers"));
        }
        out
    }
}

/// A line of the world's output.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// The run is over.
    Done(Box<Outcome>),
    /// It could not be made: what failed, and what to do.
    Failed(String, Option<String>),
}
