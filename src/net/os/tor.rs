//! Sockets for arti: it opens connections to Tor's relays, bridges and directory caches through this, and through nothing
//! else. It listens nowhere, and has no datagrams.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};
use futures_util::stream::{Empty, empty};
use socket2::SockRef;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;
use tor_rtcompat::{
    NetStreamListener, NetStreamProvider, StreamOps, TcpConnectOptions, TcpListenOptions,
    UdpProvider, UdpSocket,
};

use super::{DIAL_TIMEOUT, connect, tune};

/// The capability to reach Tor's relays. Made by the command line for a command that uses Tor, and by nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct TorSockets {
    _made_here: (),
}

impl TorSockets {
    /// For the command line alone (`tests/architecture.rs` holds it to that).
    pub fn for_tor() -> Self {
        Self::default()
    }
}

/// A connection to a Tor relay.
#[derive(Debug)]
pub struct TorSocket(TcpStream);

/// Where others would come in. It is never made.
#[derive(Debug)]
pub enum NoListener {}

/// A socket for datagrams. It is never made.
#[derive(Debug)]
pub enum NoDatagrams {}

#[async_trait::async_trait]
impl NetStreamProvider<SocketAddr> for TorSockets {
    type Stream = TorSocket;
    type Listener = NoListener;
    type ConnectOptions = TcpConnectOptions;
    type ListenOptions = TcpListenOptions;

    async fn connect(&self, addr: &SocketAddr, _: &TcpConnectOptions) -> io::Result<TorSocket> {
        let stream = connect(*addr, None, DIAL_TIMEOUT).await?;
        tune(&stream)?;
        Ok(TorSocket(stream))
    }

    async fn listen(&self, _: &SocketAddr, _: &TcpListenOptions) -> io::Result<NoListener> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[async_trait::async_trait]
impl UdpProvider for TorSockets {
    type UdpSocket = NoDatagrams;

    async fn bind(&self, _: &SocketAddr) -> io::Result<NoDatagrams> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl NetStreamListener<SocketAddr> for NoListener {
    type Stream = TorSocket;
    type Incoming = Empty<io::Result<(TorSocket, SocketAddr)>>;

    fn incoming(self) -> Self::Incoming {
        empty()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match *self {}
    }
}

#[async_trait::async_trait]
impl UdpSocket for NoDatagrams {
    async fn recv(&self, _: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match *self {}
    }

    async fn send(&self, _: &[u8], _: &SocketAddr) -> io::Result<usize> {
        match *self {}
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match *self {}
    }
}

impl StreamOps for TorSocket {
    fn set_tcp_notsent_lowat(&self, bytes: u32) -> io::Result<()> {
        #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
        SockRef::from(&self.0).set_tcp_notsent_lowat(bytes)?;
        Ok(())
    }
}

impl AsyncRead for TorSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        let polled = Pin::new(&mut self.0).poll_read(cx, &mut buf);
        polled.map_ok(|()| buf.filled().len())
    }
}

impl AsyncWrite for TorSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
