//! What a packet most probably is, in the words of docs/leaks.md. Pure: an Ethernet frame goes in, a [`Packet`] comes out.
//!
//! Content speaks first, then well-known ports; a flow keeps the most telling class that any of its packets had
//! ([`Class::is_plain`]), and only then counts what stands at its far end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// What a packet is for. The order is that of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Names looked up (RFC 1035, 7858).
    Dns,
    /// KRPC (BEP 5).
    Dht,
    /// A tracker by HTTP (BEP 3).
    HttpTracker,
    /// A tracker by UDP (BEP 15).
    UdpTracker,
    /// Peer wire by TCP (BEP 3).
    PeerTcp,
    /// Peer wire by uTP (BEP 29).
    Utp,
    /// A file by HTTP (BEP 19).
    WebSeed,
    /// Local service discovery (BEP 14).
    Lsd,
    /// UPnP's search for a router.
    Ssdp,
    /// NAT-PMP and PCP (RFC 6886, 6887).
    NatPmp,
    /// Multicast DNS and LLMNR (RFC 6762, 4795).
    Mdns,
    /// IGMP and MLD: joining a multicast group.
    McastJoin,
    /// Other multicast and broadcast.
    Multicast,
    /// STUN, as of WebRTC (RFC 8489).
    Stun,
    /// Answers of the program's own listeners to a stranger who knocks.
    Answer,
    /// Other TCP.
    Tcp,
    /// Other UDP.
    Udp,
    /// ICMP but for neighbour discovery.
    Icmp,
    /// Asking the local network for somebody's hardware address (ARP, neighbour discovery).
    Neighbour,
    /// Fragments and other protocols.
    Other,
}

/// All classes, in the order of the report.
pub const CLASSES: [Class; 20] = [
    Class::Dns,
    Class::Dht,
    Class::HttpTracker,
    Class::UdpTracker,
    Class::PeerTcp,
    Class::Utp,
    Class::WebSeed,
    Class::Lsd,
    Class::Ssdp,
    Class::NatPmp,
    Class::Mdns,
    Class::McastJoin,
    Class::Multicast,
    Class::Stun,
    Class::Answer,
    Class::Tcp,
    Class::Udp,
    Class::Icmp,
    Class::Neighbour,
    Class::Other,
];

impl Class {
    /// What people call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Dns => "DNS",
            Self::Dht => "DHT",
            Self::HttpTracker => "HTTP tracker",
            Self::UdpTracker => "UDP tracker",
            Self::PeerTcp => "peers by TCP",
            Self::Utp => "peers by uTP",
            Self::WebSeed => "files by HTTP",
            Self::Lsd => "local discovery (LSD)",
            Self::Ssdp => "UPnP",
            Self::NatPmp => "NAT-PMP, PCP",
            Self::Mdns => "mDNS, LLMNR",
            Self::McastJoin => "multicast joins",
            Self::Multicast => "other multicast",
            Self::Stun => "STUN",
            Self::Answer => "answers to strangers",
            Self::Tcp => "other TCP",
            Self::Udp => "other UDP",
            Self::Icmp => "ICMP",
            Self::Neighbour => "ARP, neighbours",
            Self::Other => "other packets",
        }
    }

    /// Whether the far end or a later packet may say more.
    pub fn is_plain(self) -> bool {
        matches!(
            self,
            Self::Tcp | Self::Udp | Self::Multicast | Self::Icmp | Self::Other
        )
    }
}

/// Transport of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Anything else.
    Other,
}

/// What was read of a frame.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    /// What it is for, by its content and ports.
    pub class: Class,
    /// Transport.
    pub proto: Proto,
    /// Sender; `None` where it is no IP packet.
    pub from: Option<IpAddr>,
    /// Receiver; of ARP and neighbour discovery whoever is asked for.
    pub to: Option<IpAddr>,
    /// Sender's port, 0 without one.
    pub from_port: u16,
    /// Receiver's port, 0 without one.
    pub to_port: u16,
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packet")
            .field("class", &self.class)
            .field("proto", &self.proto)
            .finish_non_exhaustive()
    }
}

const ETHERNET: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_IGMP: u8 = 2;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_FRAGMENT: u8 = 44;
const IPPROTO_ICMPV6: u8 = 58;
/// IPv6 extension headers with a length byte: hop-by-hop, routing, destination options (RFC 8200 §4).
const EXTENSIONS: [u8; 3] = [0, 43, 60];
/// Most extension headers that are followed.
const MAX_EXTENSIONS: usize = 8;
/// Neighbour solicitation and advertisement (RFC 4861 §4.3).
const NEIGHBOUR: std::ops::RangeInclusive<u8> = 133..=137;
/// Multicast listener messages (RFC 2710, 3810).
const LISTENER: [u8; 4] = [130, 131, 132, 143];
/// First eight bytes of a UDP tracker's connect request (BEP 15).
const TRACKER_MAGIC: [u8; 8] = [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80];
/// STUN's magic cookie, at byte 4 (RFC 8489 §5).
const STUN_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// Bytes of a request in which a tracker's query is looked for.
const LOOK: usize = 4096;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*pair))
}

fn v4_at(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets = bytes.get(at..at + 4)?.first_chunk::<4>()?;
    Some(Ipv4Addr::from(*octets).into())
}

fn v6_at(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets = bytes.get(at..at + 16)?.first_chunk::<16>()?;
    Some(Ipv6Addr::from(*octets).into())
}

/// Reads an Ethernet frame. What can't be read is [`Class::Other`]: nothing goes unseen.
pub fn packet(frame: &[u8]) -> Packet {
    let data = frame.get(ETHERNET..).unwrap_or_default();
    let read = match u16_at(frame, ETHERNET - 2) {
        Some(ETHERTYPE_ARP) => arp(data),
        Some(ETHERTYPE_IPV4) => ipv4(data),
        Some(ETHERTYPE_IPV6) => ipv6(data),
        Some(_) | None => None,
    };
    read.unwrap_or(Packet {
        class: Class::Other,
        proto: Proto::Other,
        from: None,
        to: None,
        from_port: 0,
        to_port: 0,
    })
}

fn without_ports(class: Class, from: IpAddr, to: IpAddr) -> Packet {
    Packet {
        class,
        proto: Proto::Other,
        from: Some(from),
        to: Some(to),
        from_port: 0,
        to_port: 0,
    }
}

fn arp(data: &[u8]) -> Option<Packet> {
    Some(without_ports(
        Class::Neighbour,
        v4_at(data, 14)?,
        v4_at(data, 24)?,
    ))
}

fn ipv4(data: &[u8]) -> Option<Packet> {
    let (from, to) = (v4_at(data, 12)?, v4_at(data, 16)?);
    let header = usize::from(data.first()? & 15) * 4;
    // Only the first fragment has ports; a later one belongs to nobody.
    if u16_at(data, 6)? & 0x1fff != 0 {
        return Some(without_ports(Class::Other, from, to));
    }
    let rest = data.get(header..).unwrap_or_default();
    Some(transport(*data.get(9)?, from, to, rest))
}

fn ipv6(data: &[u8]) -> Option<Packet> {
    let (from, to) = (v6_at(data, 8)?, v6_at(data, 24)?);
    let (mut next, mut rest) = (*data.get(6)?, data.get(40..).unwrap_or_default());
    for _ in 0..MAX_EXTENSIONS {
        let length = if next == IPPROTO_FRAGMENT {
            if u16_at(rest, 2).is_some_and(|offset| offset & 0xfff8 != 0) {
                return Some(without_ports(Class::Other, from, to));
            }
            8
        } else if EXTENSIONS.contains(&next) {
            8 + usize::from(rest.get(1).copied().unwrap_or(0)) * 8
        } else {
            break;
        };
        next = rest.first().copied().unwrap_or(u8::MAX);
        rest = rest.get(length..).unwrap_or_default();
    }
    Some(transport(next, from, to, rest))
}

fn transport(proto: u8, from: IpAddr, to: IpAddr, data: &[u8]) -> Packet {
    let ports = u16_at(data, 0).zip(u16_at(data, 2));
    match (proto, ports) {
        (IPPROTO_TCP, Some((from_port, to_port))) => {
            let header = usize::from(data.get(12).copied().unwrap_or(0) >> 4) * 4;
            let payload = data.get(header..).unwrap_or_default();
            Packet {
                class: tcp_class([to_port, from_port], payload),
                proto: Proto::Tcp,
                from: Some(from),
                to: Some(to),
                from_port,
                to_port,
            }
        }
        (IPPROTO_UDP, Some((from_port, to_port))) => Packet {
            class: udp_class(to, [to_port, from_port], data.get(8..).unwrap_or_default()),
            proto: Proto::Udp,
            from: Some(from),
            to: Some(to),
            from_port,
            to_port,
        },
        (IPPROTO_IGMP, _) => without_ports(Class::McastJoin, from, to),
        (IPPROTO_ICMP, _) => without_ports(Class::Icmp, from, to),
        (IPPROTO_ICMPV6, _) => match data.first() {
            Some(kind) if NEIGHBOUR.contains(kind) => {
                without_ports(Class::Neighbour, from, v6_at(data, 8).unwrap_or(to))
            }
            Some(kind) if LISTENER.contains(kind) => without_ports(Class::McastJoin, from, to),
            Some(_) | None => without_ports(Class::Icmp, from, to),
        },
        (_, _) => without_ports(Class::Other, from, to),
    }
}

fn tcp_class(ports: [u16; 2], payload: &[u8]) -> Class {
    let start = payload.get(..LOOK).unwrap_or(payload);
    let holds = |needle: &[u8]| start.windows(needle.len()).any(|window| window == needle);
    if payload.starts_with(b"\x13BitTorrent protocol") {
        return Class::PeerTcp;
    }
    if payload.starts_with(b"GET ") && holds(b"info_hash=") {
        return Class::HttpTracker;
    }
    if ports.iter().any(|port| matches!(port, 53 | 853)) {
        return Class::Dns;
    }
    Class::Tcp
}

fn udp_class(to: IpAddr, ports: [u16; 2], payload: &[u8]) -> Class {
    let by_port = ports.iter().find_map(|port| match port {
        53 | 853 => Some(Class::Dns),
        5353 | 5355 => Some(Class::Mdns),
        6771 => Some(Class::Lsd),
        1900 => Some(Class::Ssdp),
        5350 | 5351 => Some(Class::NatPmp),
        3478 | 19302 => Some(Class::Stun),
        _ => None,
    });
    if let Some(class) = by_port {
        return class;
    }
    if payload.len() >= 16 && payload.starts_with(&TRACKER_MAGIC) {
        return Class::UdpTracker;
    }
    if is_krpc(payload) {
        return Class::Dht;
    }
    if payload.len() >= 20 && payload.get(4..8) == Some(&STUN_COOKIE) && payload[0] < 0x40 {
        return Class::Stun;
    }
    let broadcast = to == IpAddr::V4(Ipv4Addr::BROADCAST);
    if to.is_multicast() || broadcast {
        return Class::Multicast;
    }
    // Version 1, types 0 to 4, extensions 0 to 2 (BEP 29).
    if payload.len() >= 20
        && payload[0] & 15 == 1
        && payload[0] >> 4 <= 4
        && payload.get(1).is_some_and(|extension| *extension <= 2)
    {
        return Class::Utp;
    }
    Class::Udp
}

/// Whether a datagram is a dictionary that says it is a query, a response or an error (BEP 5).
fn is_krpc(payload: &[u8]) -> bool {
    let marks: [&[u8]; 3] = [b"1:y1:q", b"1:y1:r", b"1:y1:e"];
    payload.first() == Some(&b'd')
        && payload
            .windows(marks[0].len())
            .any(|window| marks.contains(&window))
}

#[cfg(test)]
mod tests;
