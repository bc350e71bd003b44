//! Capabilities to reach the network. Sockets and name resolution live in [`os`] alone; who holds none of the values
//! made here can't send a packet.

pub mod mem;
pub mod os;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

/// A boxed future, so that capabilities can be trait objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The reading and the writing half of a connection that a link runs over.
pub struct Transport {
    /// Bytes from the neighbour.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// Bytes to the neighbour; vectored writes pay here.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
}

/// Opens connections to relays, and to nothing else.
pub trait RelayDialer: Send + Sync {
    /// Connects to a relay's address from the signed relay list.
    ///
    /// # Errors
    /// Nobody answered there: another address or relay may do.
    fn dial(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<Transport>>;
}
