//! Sockets for arti: it opens connections to Tor's relays, bridges and directory caches through this, and through nothing
//! else. It listens nowhere, and has no datagrams. Where there are bridges, nothing but them is connected to, whatever arti
//! asks for.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
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
#[derive(Clone, Default)]
pub struct TorSockets {
    /// What alone may be connected to; `None` where any relay may.
    only: Option<Arc<Only>>,
}

/// What alone may be connected to.
struct Only {
    bridges: Vec<SocketAddr>,
    /// Programs on this computer, too: pluggable transports connect to their bridges themselves.
    loopback: bool,
}

impl TorSockets {
    /// For the command line alone (`tests/architecture.rs` holds it to that).
    pub fn for_tor() -> Self {
        Self::default()
    }

    /// The same for these bridges alone and, where pluggable transports run, for programs on this computer.
    #[must_use]
    pub fn only_to(self, bridges: Vec<SocketAddr>, loopback: bool) -> Self {
        let only = Some(Arc::new(Only { bridges, loopback }));
        Self { only }
    }

    fn may_reach(&self, addr: SocketAddr) -> bool {
        self.only.as_ref().is_none_or(|only| {
            only.bridges.contains(&addr) || (only.loopback && addr.ip().is_loopback())
        })
    }
}

impl std::fmt::Debug for TorSockets {
    /// A bridge's address is a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TorSockets")
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
        if !self.may_reach(*addr) {
            tracing::warn!("Tor wanted to connect past the bridges: it was not let");
            return Err(io::ErrorKind::PermissionDenied.into());
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn with_bridges_nothing_else_is_connected_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let bridge: SocketAddr = "192.0.2.1:443".parse().unwrap();
        let options = TcpConnectOptions::default();
        let through = |sockets: TorSockets| async move { sockets.connect(&there, &options).await };
        through(TorSockets::for_tor()).await.unwrap();
        through(TorSockets::for_tor().only_to(vec![there], false))
            .await
            .unwrap();
        through(TorSockets::for_tor().only_to(Vec::new(), true))
            .await
            .unwrap();
        let refused = through(TorSockets::for_tor().only_to(vec![bridge], false)).await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let transports = TorSockets::for_tor().only_to(vec![bridge], true);
        let other = SocketAddr::new(bridge.ip(), 444);
        assert!(transports.may_reach(bridge) && !transports.may_reach(other));
    }
}
