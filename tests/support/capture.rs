//! What really went over a host's cable.

mod packet;
mod reader;

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use self::reader::Reader;
use super::process::Process;
use super::world::Host;
use super::{PATIENCE, fixture};

/// Time for the last packets to reach the socket after traffic has stopped.
const SETTLE: Duration = Duration::from_millis(200);

/// Room for packets that were not read yet, bytes: more than a test sends in a second.
const ROOM: usize = 256 << 20;

/// Which way a flow went, seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It left the host.
    Out,
    /// It came to the host.
    In,
}

/// Packets that had all of this in common.
#[derive(Clone, Debug)]
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

/// A capture that runs: a thread here reads a socket that `tests/fixtures/capture.py` opened where the cable ends. Nothing is
/// written to the disk, and each byte is looked at once, so that a capture keeps pace with the programs.
pub struct Capture {
    process: Process,
    /// Ends the program, which holds the socket too and knows what the kernel dropped.
    opener: UnixStream,
    reader: Option<JoinHandle<Vec<Flow>>>,
    ends: Arc<AtomicBool>,
    host: Host,
    /// What was asked for, bytes.
    room: usize,
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
    /// packet, and where one ends and the next of its TCP stream begins. Start it before the program under test.
    pub fn start(host: &Host, needles: &[&[u8]]) -> Self {
        Self::start_with_room(host, needles, ROOM)
    }

    /// The same with so many bytes of room for what was not read yet.
    pub fn start_with_room(host: &Host, needles: &[&[u8]], room: usize) -> Self {
        let (opener, theirs) = UnixStream::pair().unwrap();
        let mut command: Command = host.switch_command("python3");
        command.arg(fixture("capture.py")).arg(&host.cable);
        command.arg(room.to_string());
        let input = Stdio::from(OwnedFd::from(theirs));
        let mut process = Process::spawn_with("capture", command, input);
        process.wait_for_event(PATIENCE, "ready");
        let (socket, reader) = (handed_over(&opener), Reader::new(needles));
        let ends = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ends);
        let reader = std::thread::spawn(move || reader.read(&socket, &until));
        Self {
            process,
            opener,
            reader: Some(reader),
            ends,
            host: host.clone(),
            room,
        }
    }

    /// Ends the capture. Fails when the kernel dropped a packet, since such a capture proves nothing.
    pub fn stop(mut self) -> Captured {
        std::thread::sleep(SETTLE);
        self.ends.store(true, Ordering::Release);
        let flows = self.reader.take().unwrap().join().unwrap();
        self.opener.shutdown(std::net::Shutdown::Both).unwrap();
        let status = self.process.wait(PATIENCE);
        assert!(status.success(), "capture failed{}", self.process.tails());
        let end = self.process.wait_for_event(PATIENCE, "end");
        let few = end["room"].as_u64().unwrap() < self.room as u64 / 2;
        let why = if few {
            ": the kernel gave it far less room than was asked for (raise net.core.rmem_max)"
        } else {
            ""
        };
        assert_eq!(end["drops"], 0, "the capture lost packets{why}: {end}");
        let host = self.host.clone();
        Captured { flows, host }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // The thread ends by itself.
        self.ends.store(true, Ordering::Release);
    }
}

/// The socket that the program sent.
fn handed_over(opener: &UnixStream) -> OwnedFd {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        opener,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .unwrap();
    let mut rights = control.drain().filter_map(|message| {
        let RecvAncillaryMessage::ScmRights(mut fds) = message else {
            return None;
        };
        fds.next()
    });
    rights.next().unwrap()
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
