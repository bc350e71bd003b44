//! Sockets of the world that `hushswarm leaktest` makes: a network namespace with nobody else in it.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::time::timeout;

use super::{LocalListener, LocalUdp, connect};
use crate::net::BoxStream;

/// Every protocol (`ETH_P_ALL` of linux/if_ether.h).
const EVERY_PROTOCOL: u16 = 3;
/// Bytes asked for to hold packets that were not read yet; the system may give less.
const CAPTURE_BUFFER: usize = 16 << 20;
/// How long one read waits for a packet.
const CAPTURE_WAIT: Duration = Duration::from_millis(50);
/// A packet that this machine sends (`PACKET_OUTGOING` of linux/if_packet.h).
const OUTGOING: u32 = 4;
/// How long a stranger waits for a listener's answer.
const KNOCK: Duration = Duration::from_secs(2);

/// The right to be the world of a leak test: its services, its capture, its strangers. Only `cli/leaktest` may name it,
/// in the process that it started inside namespaces of their own (`tests/architecture` holds it to that).
#[derive(Clone, Copy, Debug)]
pub struct WorldSockets(());

impl WorldSockets {
    /// For the leak test's world alone.
    pub fn for_leaktest() -> Self {
        Self(())
    }

    /// Listens on one of the world's addresses.
    ///
    /// # Errors
    /// The address is in use or not the world's.
    pub fn listen(&self, addr: SocketAddr) -> io::Result<LocalListener> {
        LocalListener::anywhere(addr)
    }

    /// Takes datagrams at one of the world's addresses.
    ///
    /// # Errors
    /// The address is in use or not the world's.
    pub fn datagrams(&self, addr: SocketAddr) -> io::Result<LocalUdp> {
        let socket = std::net::UdpSocket::bind(addr)?;
        LocalUdp::handed(socket.into())
    }

    /// Connects as a stranger at `from` would.
    ///
    /// # Errors
    /// Nobody listens, or nobody answers.
    pub async fn knock(&self, from: SocketAddr, to: SocketAddr) -> io::Result<BoxStream> {
        let stream = timeout(KNOCK, connect(to, Some(from.ip()), KNOCK)).await??;
        Ok(Box::new(stream))
    }

    /// Captures all packets that come in on the interface with this number.
    ///
    /// # Errors
    /// Capturing is not allowed here.
    pub fn capture(&self, interface: u32) -> io::Result<Capture> {
        let protocol = Protocol::from(i32::from(EVERY_PROTOCOL.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
        socket.attach_filter(&incoming_on(interface))?;
        socket.set_read_timeout(Some(CAPTURE_WAIT))?;
        // As much as the system gives an ordinary user; whether it was enough is checked afterwards.
        socket.set_recv_buffer_size(CAPTURE_BUFFER)?;
        Ok(Capture(socket))
    }
}

/// A filter of the kernel (classic BPF): what this interface receives, whole.
fn incoming_on(interface: u32) -> [SockFilter; 6] {
    /// `BPF_LD | BPF_W | BPF_ABS`, `BPF_JMP | BPF_JEQ | BPF_K`, `BPF_RET | BPF_K` (linux/bpf_common.h).
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// `SKF_AD_OFF` with `SKF_AD_PKTTYPE` and `SKF_AD_IFINDEX` (linux/filter.h).
    const PACKET_TYPE: u32 = 0xffff_f000 + 4;
    const INTERFACE: u32 = 0xffff_f000 + 8;
    [
        SockFilter::new(LOAD, 0, 0, INTERFACE),
        SockFilter::new(EQUAL, 0, 3, interface),
        SockFilter::new(LOAD, 0, 0, PACKET_TYPE),
        SockFilter::new(EQUAL, 1, 0, OUTGOING),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// A running capture.
pub struct Capture(Socket);

impl Capture {
    /// Waits a moment for a packet; `None` when none came. A packet longer than `frame` is cut.
    ///
    /// # Errors
    /// As the system says: the capture is over.
    pub fn read(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        match self.0.read(frame) {
            Ok(len) => Ok(Some(len)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[capture]")
    }
}
