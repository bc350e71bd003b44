//! What a packet is, in the words of the leak list.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of an Ethernet header, bytes.
pub const ETHERNET: usize = 14;
/// What a flow is called until one of its packets tells more.
pub const PLAIN: [&str; 6] = ["tcp", "udp", "multicast", "icmp", "ip", "ethernet"];

/// What all packets of a flow have in common, as far as the packet says it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// `tcp`, `udp`, `icmp`, `icmp6`, `igmp`, `arp`…
    pub proto: Cow<'static, str>,
    /// Sender.
    pub src: Option<IpAddr>,
    /// Receiver.
    pub dst: Option<IpAddr>,
    /// Sender's port; the message type of ICMP.
    pub sport: u16,
    /// Receiver's port.
    pub dport: u16,
    /// Whom ARP or neighbour discovery asked for; the group of a multicast join.
    pub target: Option<IpAddr>,
}

/// A packet that was read.
pub struct Packet<'a> {
    pub ends: Ends,
    /// See [`super::Flow::class`].
    pub class: &'static str,
    /// What a TCP packet carries; nothing of others.
    pub stream: &'a [u8],
}

/// Reads an Ethernet frame, which has at least its header.
pub fn parse(frame: &[u8]) -> Packet<'_> {
    let data = &frame[ETHERNET..];
    match u16_at(frame, 12) {
        0x0806 if data.len() >= 28 => {
            let target = v4(data, 24);
            let arp = Transport::named("arp", "arp").with_target(Some(target));
            arp.between(v4(data, 14), target)
        }
        0x0800 if data.len() >= 20 => {
            let (src, dst) = (v4(data, 12), v4(data, 16));
            let (proto, header) = (data[9], usize::from(data[0] & 15) * 4);
            if u16_at(data, 6) & 0x1fff != 0 {
                return fragment(proto).between(src, dst);
            }
            transport(proto, dst, data.get(header..).unwrap_or_default()).between(src, dst)
        }
        0x86dd if data.len() >= 40 => {
            let (src, dst) = (v6(data, 8), v6(data, 24));
            let (mut proto, mut data) = (data[6], &data[40..]);
            while matches!(proto, 0 | 43 | 44 | 60) && data.len() >= 8 {
                if proto == 44 && u16_at(data, 2) & 0xfff8 != 0 {
                    return fragment(proto).between(src, dst);
                }
                let length = if proto == 44 {
                    8
                } else {
                    8 + usize::from(data[1]) * 8
                };
                proto = data[0];
                data = data.get(length..).unwrap_or_default();
            }
            transport(proto, dst, data).between(src, dst)
        }
        other => {
            let unknown = Transport::named(format!("eth-{other:04x}"), "ethernet");
            unknown.packet(None, None)
        }
    }
}

struct Transport<'a> {
    proto: Cow<'static, str>,
    class: &'static str,
    ports: (u16, u16),
    target: Option<IpAddr>,
    stream: &'a [u8],
}

impl<'a> Transport<'a> {
    fn named(proto: impl Into<Cow<'static, str>>, class: &'static str) -> Self {
        Self {
            proto: proto.into(),
            class,
            ports: (0, 0),
            target: None,
            stream: &[],
        }
    }

    fn with_ports(mut self, sport: u16, dport: u16) -> Self {
        self.ports = (sport, dport);
        self
    }

    fn with_target(mut self, target: Option<IpAddr>) -> Self {
        self.target = target;
        self
    }

    fn between(self, src: IpAddr, dst: IpAddr) -> Packet<'a> {
        self.packet(Some(src), Some(dst))
    }

    fn packet(self, src: Option<IpAddr>, dst: Option<IpAddr>) -> Packet<'a> {
        Packet {
            ends: Ends {
                proto: self.proto,
                src,
                dst,
                sport: self.ports.0,
                dport: self.ports.1,
                target: self.target,
            },
            class: self.class,
            stream: self.stream,
        }
    }
}

fn fragment(proto: u8) -> Transport<'static> {
    Transport::named(format!("ip-{proto}"), "fragment")
}

fn transport(proto: u8, dst: IpAddr, data: &[u8]) -> Transport<'_> {
    match proto {
        6 if data.len() >= 20 => {
            let (sport, dport) = (u16_at(data, 0), u16_at(data, 2));
            let stream = data.get(usize::from(data[12] >> 4) * 4..);
            let stream = stream.unwrap_or_default();
            let mut tcp = Transport::named("tcp", tcp_class([sport, dport], stream));
            tcp.stream = stream;
            tcp.with_ports(sport, dport)
        }
        17 if data.len() >= 8 => {
            let (sport, dport) = (u16_at(data, 0), u16_at(data, 2));
            let class = udp_class(dst, [dport, sport], &data[8..]);
            Transport::named("udp", class).with_ports(sport, dport)
        }
        2 => Transport::named("igmp", "mcast-join"),
        1 => {
            let kind = data.first().copied().unwrap_or(0);
            Transport::named("icmp", "icmp").with_ports(kind.into(), 0)
        }
        58 if !data.is_empty() => {
            let (class, target) = match data[0] {
                135 | 136 if data.len() >= 24 => ("nd", Some(v6(data, 8))),
                143 if data.len() >= 28 => ("mcast-join", Some(v6(data, 12))),
                130..=132 | 143 if data.len() >= 24 => ("mcast-join", Some(v6(data, 8))),
                130..=132 | 143 => ("mcast-join", None),
                _ => ("icmp", None),
            };
            let icmp = Transport::named("icmp6", class).with_target(target);
            icmp.with_ports(data[0].into(), 0)
        }
        _ => Transport::named(format!("ip-{proto}"), "ip"),
    }
}

fn udp_class(dst: IpAddr, ports: [u16; 2], data: &[u8]) -> &'static str {
    let known = |port: u16| {
        Some(match port {
            53 | 853 => "dns",
            5353 => "mdns",
            5355 => "llmnr",
            6771 => "lsd",
            1900 => "ssdp",
            5350 | 5351 => "nat-pmp",
            3478 | 19302 => "stun",
            67 | 547 => "dhcp",
            123 => "ntp",
            _ => return None,
        })
    };
    if let Some(class) = ports.into_iter().find_map(known) {
        return class;
    }
    let holds = |words: &[u8]| memchr::memmem::find(data, words).is_some();
    if data.len() >= 16 && data.starts_with(&[0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80]) {
        "udp-tracker"
    } else if data.starts_with(b"d") && (holds(b"1:y1:q") || holds(b"1:y1:r") || holds(b"1:y1:e")) {
        "dht"
    } else if dst.is_multicast() || dst == IpAddr::V4(Ipv4Addr::BROADCAST) {
        "multicast"
    } else if data.len() >= 20 && data[0] & 15 == 1 && data[0] >> 4 <= 4 && data[1] <= 2 {
        "utp"
    } else {
        "udp"
    }
}

fn tcp_class(ports: [u16; 2], data: &[u8]) -> &'static str {
    let holds = |within: usize, words: &[u8]| {
        memchr::memmem::find(&data[..within.min(data.len())], words).is_some()
    };
    if holds(80, b"BitTorrent protocol") {
        "peer-tcp"
    } else if data.starts_with(b"GET ") && holds(4096, b"info_hash=") {
        "http-tracker"
    } else if ports.iter().any(|port| matches!(port, 53 | 853)) {
        "dns"
    } else {
        "tcp"
    }
}

fn u16_at(data: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([data[at], data[at + 1]])
}

fn v4(data: &[u8], at: usize) -> IpAddr {
    let octets: [u8; 4] = data[at..at + 4].try_into().unwrap();
    Ipv4Addr::from(octets).into()
}

fn v6(data: &[u8], at: usize) -> IpAddr {
    let octets: [u8; 16] = data[at..at + 16].try_into().unwrap();
    Ipv6Addr::from(octets).into()
}
