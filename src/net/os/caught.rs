//! Datagrams that a program in a jail sent to the world: caught by sockets that were made inside (transparent, filled by
//! nftables' `tproxy`) and handed out; and the answers to them.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg, setsockopt,
    sockopt,
};
use socket2::Socket;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Length of an IPv4 header without options, bytes (RFC 791 §3.1).
const IPV4_HEADER: usize = 20;
/// Length of an IPv6 header, bytes (RFC 8200 §3).
const IPV6_HEADER: usize = 40;
/// Length of a UDP header, bytes (RFC 768).
const UDP_HEADER: usize = 8;
/// IP's number for UDP.
const UDP: u8 = 17;
/// How many routers a reply could pass. It passes none.
const HOPS: u8 = 64;

/// A datagram that a program inside sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Caught {
    /// Length of the payload, bytes.
    pub len: usize,
    /// The program's socket.
    pub from: SocketAddr,
    /// Where the program meant it to go.
    pub to: SocketAddr,
}

/// Takes the datagrams that a program inside sent to the world.
#[derive(Debug)]
pub struct CaughtUdp(UdpSocket);

impl CaughtUdp {
    /// Takes over a transparent socket, and has it tell where datagrams were meant to go.
    ///
    /// # Errors
    /// It is no UDP socket, or as the system says.
    pub fn handed(socket: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(socket);
        socket.set_nonblocking(true)?;
        let own = socket.local_addr()?.as_socket();
        match own.ok_or(io::ErrorKind::InvalidInput)? {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4OrigDstAddr, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6OrigDstAddr, &true)?,
        }
        UdpSocket::from_std(socket.into()).map(Self)
    }

    /// Waits for a datagram.
    ///
    /// # Errors
    /// As the system says; one without an address (which the kernel does not send) is `InvalidData`. Call again.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<Caught> {
        self.0
            .async_io(Interest::READABLE, || receive(&self.0, buf))
            .await
    }
}

fn receive(socket: &UdpSocket, buf: &mut [u8]) -> io::Result<Caught> {
    let mut control = nix::cmsg_space!(nix::libc::sockaddr_in6, nix::libc::sockaddr_in6);
    let mut parts = [IoSliceMut::new(buf)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let from = message.address.and_then(|address| {
        let v4 = address.as_sockaddr_in();
        let v4 = v4.map(|v4| SocketAddr::V4(SocketAddrV4::from(*v4)));
        v4.or_else(|| {
            Some(SocketAddr::V6(SocketAddrV6::from(
                *address.as_sockaddr_in6()?,
            )))
        })
    });
    let mut to = None;
    for part in message.cmsgs()? {
        // Foreign to this crate, and growing: every other kind is of no use here.
        #[allow(clippy::wildcard_enum_match_arm)]
        match part {
            ControlMessageOwned::Ipv4OrigDstAddr(address) => {
                to = Some(SocketAddr::V4(SockaddrIn::from(address).into()));
            }
            ControlMessageOwned::Ipv6OrigDstAddr(address) => {
                to = Some(SocketAddr::V6(SockaddrIn6::from(address).into()));
            }
            _ => {}
        }
    }
    let len = message.bytes;
    match (from, to) {
        (Some(from), Some(to)) => Ok(Caught {
            len,
            from: canonical(from),
            to: canonical(to),
        }),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The address without what only a socket needs: IPv4 as such, no flow label and scope.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Sends datagrams to programs inside as if they came from anywhere: raw sockets, made inside a jail, whose only
/// interface is `lo`.
///
/// Sockets bound to the foreign addresses would do too, but only one of a program and such a socket can have a port: a
/// DHT node on port 6881 could not be answered by another on port 6881, and a port that was once answered from could not
/// be bound by the program.
#[derive(Debug)]
pub struct RawReplies {
    v4: Socket,
    v6: Socket,
}

impl RawReplies {
    /// Takes over raw sockets of the protocol `IPPROTO_RAW` (255), one for each family.
    ///
    /// # Errors
    /// They are no sockets, or as the system says.
    pub fn handed(v4: OwnedFd, v6: OwnedFd) -> io::Result<Self> {
        let (v4, v6) = (Socket::from(v4), Socket::from(v6));
        v4.set_nonblocking(true)?;
        v6.set_nonblocking(true)?;
        Ok(Self { v4, v6 })
    }

    /// Sends a datagram `from` somebody in the world `to` a program's socket.
    ///
    /// # Errors
    /// The families differ or the payload is too long (`InvalidInput`), or as the system says: it is lost, as datagrams
    /// are.
    pub fn send(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> io::Result<()> {
        let packet = packet(from, to, payload).ok_or(io::ErrorKind::InvalidInput)?;
        // A raw socket takes the port for a protocol.
        let door = SocketAddr::new(to.ip(), 0).into();
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        socket.send_to(&packet, &door).map(drop)
    }
}

/// An IP packet with a UDP datagram in it. The kernel fills in IPv4's total length and header checksum.
fn packet(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let len = u16::try_from(UDP_HEADER + payload.len()).ok()?;
    let mut packet = Vec::with_capacity(IPV6_HEADER + usize::from(len));
    match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            u16::try_from(IPV4_HEADER + usize::from(len)).ok()?;
            // Version 4, five words; nothing special, never a fragment.
            packet.extend_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, HOPS, UDP, 0, 0]);
            packet.extend_from_slice(&source.octets());
            packet.extend_from_slice(&target.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            packet.extend_from_slice(&[0x60, 0, 0, 0]);
            packet.extend_from_slice(&len.to_be_bytes());
            packet.extend_from_slice(&[UDP, HOPS]);
            packet.extend_from_slice(&source.octets());
            packet.extend_from_slice(&target.octets());
        }
        _ => return None,
    }
    let begin = packet.len();
    packet.extend_from_slice(&from.port().to_be_bytes());
    packet.extend_from_slice(&to.port().to_be_bytes());
    packet.extend_from_slice(&len.to_be_bytes());
    // No checksum, as IPv4 allows.
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(payload);
    if from.is_ipv6() {
        // Over both addresses, the length, the protocol and the datagram (RFC 8200 §8.1).
        let pseudo = u32::from(len) + u32::from(UDP);
        let sum = checksum(pseudo, &packet[begin - 32..]);
        packet[begin + 6..begin + 8].copy_from_slice(&sum.to_be_bytes());
    }
    Some(packet)
}

/// The internet checksum (RFC 1071), never zero.
fn checksum(begin: u32, bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<2>();
    let sum = words
        .iter()
        .map(|word| u32::from(u16::from_be_bytes(*word)))
        .sum::<u32>();
    let mut sum = begin + sum + rest.first().map_or(0, |last| u32::from(*last) << 8);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    match !(sum as u16) {
        0 => 0xffff,
        sum => sum,
    }
}
