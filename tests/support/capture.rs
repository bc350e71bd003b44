//! What really went over a host's cable.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use super::process::Process;
use super::world::Host;
use super::{PATIENCE, fixture};

/// Time for the last packets to reach the socket after traffic has stopped.
const SETTLE: Duration = Duration::from_millis(200);

/// Which way a flow went, seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// It left the host.
    Out,
    /// It came to the host.
    In,
}

/// Packets that had all of this in common.
#[derive(Clone, Debug, Deserialize)]
pub struct Flow {
    /// Which way.
    pub dir: Direction,
    /// What it most probably is, in the words of the leak list: `peer-tcp`, `utp`, `dht`, `dns`, `lsd`, `ssdp`,
    /// `nat-pmp`, `mdns`, `udp-tracker`, `http-tracker`, `stun`, `mcast-join`, `multicast`, `arp`, `nd`, `tcp`, `udp`…
    pub class: String,
    /// `tcp`, `udp`, `icmp`, `icmp6`, `igmp`, `arp`…
    pub proto: String,
    /// Sender.
    pub src: String,
    /// Receiver.
    pub dst: String,
    /// Sender's port; the message type of ICMP.
    pub sport: u16,
    /// Receiver's port.
    pub dport: u16,
    /// How many packets.
    pub packets: u64,
    /// Their length with Ethernet headers, bytes.
    pub bytes: u64,
    /// Time of the first, seconds since the epoch.
    pub first: f64,
    /// Time of the last, seconds since the epoch.
    pub last: f64,
    /// Which of the needles stood in a packet.
    pub needles: Vec<usize>,
    /// Whom ARP or neighbour discovery asked for; the group of a multicast join.
    pub target: Option<String>,
}

impl Flow {
    /// The far end, where both are addresses with ports.
    pub fn remote(&self) -> Option<SocketAddr> {
        let (ip, port) = match self.dir {
            Direction::Out => (&self.dst, self.dport),
            Direction::In => (&self.src, self.sport),
        };
        Some(SocketAddr::new(ip.parse().ok()?, port))
    }
}

/// A capture that runs; see `tests/fixtures/capture.py`.
pub struct Capture {
    process: Process,
    host: Host,
}

/// A capture that is over. It holds every packet: one with drops does not come to be.
#[derive(Debug)]
pub struct Captured {
    /// What was seen, in order of first packets.
    pub flows: Vec<Flow>,
    host: Host,
}

impl Capture {
    /// Starts to capture what leaves and reaches `host`, and looks for `needles` (an infohash, address bytes) in every
    /// packet. Start it before the program under test.
    pub fn start(host: &Host, needles: &[&[u8]]) -> Self {
        let mut command: Command = host.switch_command("python3");
        command.arg(fixture("capture.py")).arg(&host.cable);
        for needle in needles {
            command
                .arg("--needle")
                .arg(data_encoding::HEXLOWER.encode(needle));
        }
        let mut process = Process::spawn("capture", command);
        process.wait_for_event(PATIENCE, "ready");
        Self {
            process,
            host: host.clone(),
        }
    }

    /// Ends the capture. Fails when the kernel dropped a packet, since such a capture proves nothing.
    pub fn stop(mut self) -> Captured {
        std::thread::sleep(SETTLE);
        let status = self.process.stop(PATIENCE);
        assert!(status.success(), "capture failed{}", self.process.tails());
        let end = self.process.wait_for_event(PATIENCE, "end");
        assert_eq!(end["drops"], 0, "the capture lost packets: {end}");
        let flows = self.process.events("flow").into_iter();
        let flows = flows
            .map(|flow| serde_json::from_value(flow).unwrap())
            .collect();
        Captured {
            flows,
            host: self.host,
        }
    }
}

impl Captured {
    /// Flows that left the host, of this class.
    pub fn sent(&self, class: &str) -> Vec<&Flow> {
        let sent = self.flows.iter().filter(|flow| flow.dir == Direction::Out);
        sent.filter(|flow| flow.class == class).collect()
    }

    /// Flows that touch the host but no TCP or UDP conversation with one of `allowed`. What is flooded to every cable
    /// (other hosts' ARP) does not touch it; its own ARP and neighbour discovery count unless they are about one of
    /// `allowed`, since asking for anybody else's address is the first step of a leak.
    pub fn strays(&self, allowed: &[SocketAddr]) -> Vec<&Flow> {
        self.flows
            .iter()
            .filter(|flow| self.touches_host(flow) && !self.fits(flow, allowed))
            .collect()
    }

    /// Fails with a list of what else the host sent or received.
    pub fn assert_only_to(&self, allowed: &[SocketAddr]) {
        let strays = self.strays(allowed);
        let list: Vec<String> = strays.iter().map(|flow| format!("{flow:?}")).collect();
        assert!(
            list.is_empty(),
            "{} talked past {allowed:?}:\n{}",
            self.host.name,
            list.join("\n")
        );
    }

    /// Flows in which needle number `needle` stood.
    pub fn found(&self, needle: usize) -> Vec<&Flow> {
        self.flows
            .iter()
            .filter(|flow| flow.needles.contains(&needle))
            .collect()
    }

    fn touches_host(&self, flow: &Flow) -> bool {
        let owns = |ip: &str| ip.parse().is_ok_and(|ip: IpAddr| self.host.owns(ip));
        flow.dir == Direction::Out || owns(&flow.dst)
    }

    fn fits(&self, flow: &Flow, allowed: &[SocketAddr]) -> bool {
        let known = |ip: &str| {
            ip.parse().is_ok_and(|ip: IpAddr| {
                self.host.owns(ip) || allowed.iter().any(|addr| addr.ip() == ip)
            })
        };
        match flow.proto.as_str() {
            "tcp" | "udp" => flow
                .remote()
                .is_some_and(|remote| allowed.contains(&remote)),
            "arp" => known(&flow.src) && known(&flow.dst),
            "icmp6" => {
                let (src, target) = (known(&flow.src), flow.target.as_deref().is_some_and(known));
                flow.class == "nd" && src && target
            }
            _ => false,
        }
    }
}
