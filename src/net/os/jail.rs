//! Sockets of the jail (Linux): the channel between its outer side and its warden, kernel messages, and the doors that
//! are made inside and handed out.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdTcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{
    AddressFamily, Protocol as NetProtocol, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, netlink,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixDatagram};

use super::{BACKLOG, tune, within};
use crate::net::BoxStream;

/// Longest message of the channel, bytes: a request, or a sentence about a failure.
pub const MAX_MESSAGE: usize = 4096;
/// Most descriptors in one message: all doors of a jail at once.
pub const MAX_DESCRIPTORS: usize = 9;
/// Longest answer of the kernel, bytes: an acknowledgement repeats the request.
const MAX_ANSWER: usize = 32 * 1024;
/// How long a connection into the jail may take: it is this machine, but the program may be busy.
const INWARD_TIMEOUT: Duration = Duration::from_secs(10);

/// One end of the channel between outer side and warden: whole messages with descriptors, in order.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// What arrived.
#[derive(Debug)]
pub struct Message {
    /// Its bytes; none means that the other end is gone.
    pub bytes: Vec<u8>,
    /// The descriptors that came along, closed on exec.
    pub descriptors: Vec<OwnedFd>,
}

impl Channel {
    /// Both ends.
    ///
    /// # Errors
    /// As the system says.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(a), Self(b)))
    }

    /// Takes a descriptor for an end, after a look at what it is.
    ///
    /// # Errors
    /// It is no such socket (`InvalidInput`).
    pub fn taken(socket: OwnedFd) -> io::Result<Self> {
        let right = rustix::net::sockopt::socket_type(&socket)? == SocketType::SEQPACKET
            && rustix::net::sockopt::socket_domain(&socket)? == AddressFamily::UNIX;
        if right {
            Ok(Self(socket))
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }

    /// The descriptor, to be handed to a child.
    pub fn into_descriptor(self) -> OwnedFd {
        self.0
    }

    /// Sends one message.
    ///
    /// # Errors
    /// The other end is gone, or as the system says.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let slices = [IoSlice::new(bytes)];
        rustix::net::sendmsg(&self.0, &slices, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for one message.
    ///
    /// # Errors
    /// It was cut off (`InvalidData`), or as the system says.
    pub fn receive(&self) -> io::Result<Message> {
        // An end that closes with something unread resets the other, before the last words that it sent are read.
        match self.receive_once() {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.receive_once(),
            received => received,
        }
    }

    fn receive_once(&self) -> io::Result<Message> {
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let descriptors = control
            .drain()
            .filter_map(|message| {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    Some(descriptors)
                } else {
                    None
                }
            })
            .flatten()
            .collect();
        let cut = rustix::net::ReturnFlags::TRUNC | rustix::net::ReturnFlags::CTRUNC;
        if received.flags.intersects(cut) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        bytes.truncate(received.bytes);
        Ok(Message { bytes, descriptors })
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An end of the channel for the outer side's tasks.
#[derive(Debug)]
pub struct AsyncChannel {
    channel: Channel,
    /// The same socket, for the runtime: it knows no such sockets by name.
    ready: UnixDatagram,
}

impl AsyncChannel {
    /// Registers an end with the runtime.
    ///
    /// # Errors
    /// As the system says.
    pub fn new(channel: Channel) -> io::Result<Self> {
        let same = std::os::unix::net::UnixDatagram::from(channel.0.try_clone()?);
        same.set_nonblocking(true)?;
        let ready = UnixDatagram::from_std(same)?;
        Ok(Self { channel, ready })
    }

    /// Sends one message.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub async fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let send = || self.channel.send(bytes, descriptors);
        self.ready.async_io(Interest::WRITABLE, send).await
    }

    /// Waits for one message. Nothing is lost when the wait is given up.
    ///
    /// # Errors
    /// As [`Channel::receive`].
    pub async fn receive(&self) -> io::Result<Message> {
        let receive = || self.channel.receive();
        self.ready.async_io(Interest::READABLE, receive).await
    }
}

/// A socket to the kernel's network configuration.
#[derive(Debug)]
pub struct Kernel(OwnedFd);

impl Kernel {
    /// Links, addresses and routes of this namespace.
    ///
    /// # Errors
    /// As the system says.
    pub fn routes() -> io::Result<Self> {
        // NETLINK_ROUTE is 0.
        Self::open(None)
    }

    /// The packet filter of this namespace.
    ///
    /// # Errors
    /// The kernel has none.
    pub fn filter() -> io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<NetProtocol>) -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        // A kernel that never answers must not hang the start.
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(INWARD_TIMEOUT),
        )?;
        Ok(Self(socket))
    }

    /// Sends a request, or a batch of them.
    ///
    /// # Errors
    /// As the system says.
    pub fn send(&self, request: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.0, request, SendFlags::empty())?;
        Ok(())
    }

    /// Waits for one datagram of answers.
    ///
    /// # Errors
    /// None came in time, or as the system says.
    pub fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buf = vec![0; MAX_ANSWER];
        let (len, _) = rustix::net::recv(&self.0, buf.as_mut_slice(), RecvFlags::empty())?;
        buf.truncate(len);
        Ok(buf)
    }
}

fn socket(addr: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// A listening TCP socket. `transparent`: it takes connections that were meant for any address.
///
/// # Errors
/// As the system says.
pub fn listen(addr: SocketAddr, transparent: bool) -> io::Result<OwnedFd> {
    let socket = socket(addr, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    if transparent {
        setsockopt(&socket, sockopt::IpTransparent, &true)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(i32::try_from(BACKLOG).unwrap_or(i32::MAX))?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A UDP socket, bound to any address, also one of somebody else's.
///
/// # Errors
/// As the system says.
pub fn udp(addr: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket(addr, Type::DGRAM, Protocol::UDP)?;
    if !addr.ip().is_loopback() {
        setsockopt(&socket, sockopt::IpTransparent, &true)?;
        socket.set_reuse_address(true)?;
    }
    socket.bind(&addr.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A UDP socket that gets datagrams that were meant for any address, and says which.
///
/// # Errors
/// As the system says.
pub fn udp_catcher(addr: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket(addr, Type::DGRAM, Protocol::UDP)?;
    setsockopt(&socket, sockopt::IpTransparent, &true)?;
    if addr.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4OrigDstAddr, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6OrigDstAddr, &true)?;
    }
    socket.bind(&addr.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Raw sockets that send whole packets, one for each family, for answers from anywhere (`super::RawReplies`). Where there is no
/// IPv6, nothing comes by it that wants an answer, and the second is one of IPv4 too.
///
/// # Errors
/// As the system says.
pub fn raw_replies() -> io::Result<[OwnedFd; 2]> {
    let raw = |domain| {
        Socket::new(
            domain,
            Type::RAW,
            Some(Protocol::from(nix::libc::IPPROTO_RAW)),
        )
    };
    let v4 = raw(Domain::IPV4)?;
    let v6 = raw(Domain::IPV6).or_else(|_| raw(Domain::IPV4))?;
    Ok([v4.into(), v6.into()])
}

/// Begins a connection to a port of this namespace's loopback, by IPv4 or else IPv6. It may not be there yet.
///
/// # Errors
/// Nobody listens there, or as the system says.
pub fn connect_here(port: u16) -> io::Result<OwnedFd> {
    let begin = |addr: SocketAddr| {
        let socket = socket(addr, Type::STREAM, Protocol::TCP)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&addr.into()) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => Err(error),
            _ => Ok(socket.into()),
        }
    };
    begin((Ipv4Addr::LOCALHOST, port).into())
        .or_else(|error| begin((Ipv6Addr::LOCALHOST, port).into()).map_err(|_| error))
}

/// Begins a connection to a port of 127.0.0.1 in this namespace, or else of `other`, a further address of its own: some programs
/// listen there alone. It comes from `from`.
///
/// # Errors
/// Nobody listens there, or as the system says.
pub fn connect_from(from: Ipv4Addr, other: Ipv4Addr, port: u16) -> io::Result<OwnedFd> {
    let begin = |ip: Ipv4Addr| {
        let addr = SocketAddr::from((ip, port));
        let socket = socket(addr, Type::STREAM, Protocol::TCP)?;
        socket.bind(&SocketAddr::from((from, 0)).into())?;
        socket.set_nonblocking(true)?;
        match socket.connect(&addr.into()) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => Err(error),
            _ => Ok(socket.into()),
        }
    };
    begin(Ipv4Addr::LOCALHOST).or_else(|error| begin(other).map_err(|_| error))
}

/// Waits until a connection that [`connect_here`] began is there.
///
/// # Errors
/// Nobody takes it, or as the system says.
pub async fn connected(socket: OwnedFd) -> io::Result<BoxStream> {
    let stream = StdTcpStream::from(socket);
    stream.set_nonblocking(true)?;
    let stream = TcpStream::from_std(stream)?;
    within(INWARD_TIMEOUT, stream.writable()).await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => {
            tune(&stream)?;
            Ok(Box::new(stream))
        }
    }
}

/// Whether a descriptor is a socket of any kind.
pub fn is_socket(descriptor: BorrowedFd<'_>) -> bool {
    rustix::net::sockopt::socket_type(descriptor).is_ok()
}
