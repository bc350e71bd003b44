//! The right to reach what listens on this computer itself, for the doctor. It reaches loopback addresses and nothing else.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};

use super::within;
use crate::net::BoxStream;

/// How long a program of this computer may take to answer a connection.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to loopback addresses.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoopbackDialer;

impl LoopbackDialer {
    fn check(addr: SocketAddr) -> io::Result<()> {
        if addr.ip().is_loopback() {
            Ok(())
        } else {
            let error = "not a loopback address";
            Err(io::Error::new(io::ErrorKind::InvalidInput, error))
        }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// The address is not loopback (`InvalidInput`), or nobody listens there.
    pub async fn connect(self, addr: SocketAddr) -> io::Result<BoxStream> {
        Self::check(addr)?;
        let stream = within(LOCAL_TIMEOUT, TcpStream::connect(addr)).await?;
        Ok(Box::new(stream))
    }

    /// Sends a datagram to `to`, and waits for one that comes back from there.
    ///
    /// # Errors
    /// The address is not loopback (`InvalidInput`), nothing came in `limit` (`TimedOut`), or as the system says.
    pub async fn ask(
        self,
        to: SocketAddr,
        datagram: &[u8],
        limit: Duration,
    ) -> io::Result<Vec<u8>> {
        Self::check(to)?;
        let socket = UdpSocket::bind(SocketAddr::new(to.ip(), 0)).await?;
        socket.connect(to).await?;
        socket.send(datagram).await?;
        let mut answer = vec![0; 1 << 16];
        let length = within(limit, socket.recv(&mut answer)).await?;
        answer.truncate(length);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_loopback_is_reached() {
        for bad in [
            "192.0.2.1:1080",
            "0.0.0.0:1080",
            "[::]:1080",
            "[2001:db8::1]:1",
        ] {
            let bad = bad.parse().unwrap();
            let error = LoopbackDialer.connect(bad).await.err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            let asked = LoopbackDialer.ask(bad, b"x", LOCAL_TIMEOUT).await;
            assert_eq!(asked.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
