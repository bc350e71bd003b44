//! The one owner of sockets and of name resolution, with its parts in `os/`. Nothing else in this program opens a socket
//! or asks a resolver: clippy refuses the types elsewhere, and `tests/architecture.rs` refuses an exception.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hushswarm_circuits::relay_list::Descriptor;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket, tcp};
use tokio::time::timeout;

use super::{BoxFuture, Place, RelayDialer, Transport};

#[cfg(target_os = "linux")]
mod caught;
#[cfg(target_os = "linux")]
pub mod jail;
mod local;
mod lookup;
mod loopback;
#[cfg(feature = "tor")]
mod tor;
#[cfg(target_os = "linux")]
mod world;

#[cfg(target_os = "linux")]
pub use caught::{Caught, CaughtUdp, RawReplies};
pub use local::{Accepted, LocalListener, LocalUdp};
pub use loopback::LoopbackDialer;
#[cfg(feature = "tor")]
pub use tor::TorSockets;
#[cfg(target_os = "linux")]
pub use world::{Capture, WorldSockets};

/// How long a connection to a relay may take: three retransmitted SYNs.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an exit tries to reach a target.
const EXIT_TIMEOUT: Duration = Duration::from_secs(15);
/// A target that says nothing for this time is asked whether it still lives. Short enough for the address translators
/// in between, which forget a connection that is idle for longer (RFC 5382, REQ-5 asks for two hours; many take minutes).
const KEEPALIVE_AFTER: Duration = Duration::from_secs(120);
/// How often it is asked again before it counts as gone: a crashed target costs an exit a place for four minutes, not for ever.
const KEEPALIVE_EVERY: (Duration, u32) = (Duration::from_secs(30), 4);
/// Bytes that the kernel takes before it has sent them. More only adds delay, since a frame in the kernel can't be overtaken; and at an
/// exit it would take megabytes for each target that stops reading, whose windows would grow by it.
const NOTSENT_LOWAT: u32 = 128 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Opens connections to relays over the operating system's TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDialer {
    source: Option<IpAddr>,
}

impl OsDialer {
    /// The capability to reach relays. Made by the command line for a client or relay, and by nothing else.
    /// `source` is the address that connections leave from; `None` lets the system choose.
    pub fn new(source: Option<IpAddr>) -> Self {
        Self { source }
    }
}

impl RelayDialer for OsDialer {
    fn dial<'a>(&'a self, _: &'a Descriptor, place: Place) -> BoxFuture<'a, io::Result<Transport>> {
        Box::pin(async move {
            match place {
                Place::Address(addr) => transport(connect(addr, self.source, DIAL_TIMEOUT).await?),
                Place::Onion(_) => Err(io::ErrorKind::Unsupported.into()),
            }
        })
    }
}

async fn connect(
    addr: SocketAddr,
    source: Option<IpAddr>,
    limit: Duration,
) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    if let Some(source) = source.filter(|source| source.is_ipv4() == addr.is_ipv4()) {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    within(limit, socket.connect(addr)).await
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    SockRef::from(stream).set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    Ok(())
}

fn transport(stream: TcpStream) -> io::Result<Transport> {
    tune(&stream)?;
    let (reader, writer) = stream.into_split();
    Ok(Transport {
        reader: Box::new(reader),
        writer: Box::new(writer),
    })
}

/// Where a relay takes links.
#[derive(Debug)]
pub struct LinkListener(TcpListener);

impl LinkListener {
    /// Listens on an address; port 0 lets the system choose.
    ///
    /// # Errors
    /// The address is in use or not ours: tell the user which.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        let socket = if addr.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        Ok(Self(socket.listen(BACKLOG)?))
    }

    /// The address in use.
    ///
    /// # Errors
    /// As the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Waits for the next connection and where it came from.
    ///
    /// # Errors
    /// Mostly passing ones (no file descriptors left): wait a little and call again.
    pub async fn accept(&self) -> io::Result<(Incoming, SocketAddr)> {
        let (stream, from) = self.0.accept().await?;
        Ok((Incoming(stream.into_std()?), from))
    }
}

/// A connection that a neighbour opened, not yet bound to a runtime.
#[derive(Debug)]
pub struct Incoming(std::net::TcpStream);

impl Incoming {
    /// Binds it to the runtime in which this is called.
    ///
    /// # Errors
    /// As the system says.
    pub fn transport(self) -> io::Result<Transport> {
        transport(TcpStream::from_std(self.0)?)
    }
}

/// The right to open connections for others. Only a relay has one.
#[derive(Clone, Copy, Debug)]
pub struct ExitPermit {
    source: Option<IpAddr>,
}

impl ExitPermit {
    /// For `relay` alone (`tests/architecture.rs` holds it to that). `source` is the address that connections leave from.
    pub fn for_relay(source: Option<IpAddr>) -> Self {
        Self { source }
    }

    fn source_for(&self, ip: IpAddr) -> Option<IpAddr> {
        self.source
            .filter(|source| source.is_ipv4() == ip.is_ipv4())
    }

    /// Connects to a target that the exit policy allowed.
    ///
    /// # Errors
    /// As the system says: refused, unreachable, timed out.
    pub async fn connect(&self, addr: SocketAddr) -> io::Result<ExitStream> {
        let stream = connect(addr, self.source, EXIT_TIMEOUT).await?;
        tune(&stream)?;
        let (every, times) = KEEPALIVE_EVERY;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_AFTER)
            .with_interval(every)
            .with_retries(times);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        let (reader, writer) = stream.into_split();
        Ok(ExitStream {
            reader: ExitReader(reader),
            writer: ExitWriter(writer),
        })
    }

    /// Opens a datagram flow's two sockets, one for each address family that this machine has.
    ///
    /// # Errors
    /// Neither family could be bound.
    pub fn datagrams(&self) -> io::Result<ExitDatagrams> {
        let bind = |any: IpAddr| -> io::Result<UdpSocket> {
            let domain = if any.is_ipv4() {
                Domain::IPV4
            } else {
                Domain::IPV6
            };
            let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
            if any.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.set_nonblocking(true)?;
            let ip = self.source_for(any).unwrap_or(any);
            socket.bind(&SocketAddr::new(ip, 0).into())?;
            UdpSocket::from_std(socket.into())
        };
        let v4 = bind(Ipv4Addr::UNSPECIFIED.into());
        let v6 = bind(Ipv6Addr::UNSPECIFIED.into()).ok();
        match (v4, v6) {
            (Err(error), None) => Err(error),
            (v4, v6) => Ok(ExitDatagrams { v4: v4.ok(), v6 }),
        }
    }
}

/// A connection to a target, at an exit.
#[derive(Debug)]
pub struct ExitStream {
    /// Bytes from the target.
    pub reader: ExitReader,
    /// Bytes to the target.
    pub writer: ExitWriter,
}

/// The reading half of an [`ExitStream`].
#[derive(Debug)]
pub struct ExitReader(tcp::OwnedReadHalf);

impl ExitReader {
    /// Waits until there is something to read.
    ///
    /// # Errors
    /// As the system says.
    pub async fn ready(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Reads into several buffers at once; 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock` where nothing is there: call [`ExitReader::ready`].
    pub fn try_read(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.0.try_read_vectored(bufs)
    }
}

/// The writing half of an [`ExitStream`]. Dropping it ends that direction.
#[derive(Debug)]
pub struct ExitWriter(tcp::OwnedWriteHalf);

impl ExitWriter {
    /// Writes several buffers, whole and in order.
    ///
    /// # Errors
    /// As the system says: the stream is over.
    pub async fn write_all(&mut self, mut bufs: &mut [IoSlice<'_>]) -> io::Result<()> {
        while !bufs.is_empty() {
            let n = self.0.write_vectored(bufs).await?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut bufs, n);
        }
        Ok(())
    }

    /// Says that no more will come.
    ///
    /// # Errors
    /// As the system says: the stream is over.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}

/// A datagram flow's sockets, at an exit.
#[derive(Debug)]
pub struct ExitDatagrams {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

impl ExitDatagrams {
    /// Whether there is a socket for IPv4, or for IPv6.
    pub fn has(&self, ipv4: bool) -> bool {
        if ipv4 { &self.v4 } else { &self.v6 }.is_some()
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// The family is missing here, or as the system says; a lost datagram is no error.
    pub async fn send(&self, to: SocketAddr, payload: &[u8]) -> io::Result<()> {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        let socket = socket.as_ref().ok_or(io::ErrorKind::AddrNotAvailable)?;
        socket.send_to(payload, to).await.map(drop)
    }

    /// Waits until a datagram from anybody may be there.
    ///
    /// # Errors
    /// As the system says.
    pub async fn readable(&self) -> io::Result<()> {
        match (&self.v4, &self.v6) {
            (Some(v4), Some(v6)) => tokio::select! {
                ready = v4.readable() => ready,
                ready = v6.readable() => ready,
            },
            (Some(only), None) | (None, Some(only)) => only.readable().await,
            (None, None) => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    /// Reads a datagram of the one family, and where it has none, of the other.
    ///
    /// # Errors
    /// `WouldBlock` where nothing is there: call [`ExitDatagrams::readable`]. Otherwise as the system says; an unreachable
    /// target answers here and may be ignored.
    pub fn try_recv(&self, v6_first: bool, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let order = if v6_first {
            [&self.v6, &self.v4]
        } else {
            [&self.v4, &self.v6]
        };
        for socket in order.into_iter().flatten() {
            match socket.try_recv_from(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn an_exit_stream_notices_a_target_that_is_gone_without_a_word() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let permit = ExitPermit::for_relay(None);
        let stream = permit
            .connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let socket = SockRef::from(stream.reader.0.as_ref());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_AFTER);
        let every = (
            socket.tcp_keepalive_interval().unwrap(),
            socket.tcp_keepalive_retries().unwrap(),
        );
        assert_eq!(every, KEEPALIVE_EVERY);
    }
}
