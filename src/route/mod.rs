//! Routes: the one seam through which everything above reaches the world.
//!
//! There is no direct route. What implements [`Outside`] opens streams inside circuits (later also Tor), or refuses.

pub mod circuits;

use std::io;
use std::pin::Pin;

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::Target;
use tokio::io::{AsyncRead, AsyncWrite};

/// A boxed future, so that [`Outside`] can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A byte stream to somebody in the world.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + ?Sized> ByteStream for T {}

/// A boxed [`ByteStream`].
pub type BoxStream = Box<dyn ByteStream>;

/// Datagrams to and from anybody, as if sent by one UDP socket far away.
pub trait Datagrams: Send + Sync {
    /// Queues one datagram; a full queue drops the oldest, as a network would.
    ///
    /// # Errors
    /// The flow has ended: open a new one.
    fn send(&self, to: &Target, payload: &[u8]) -> io::Result<()>;

    /// Waits for the next datagram and who sent it.
    fn recv(&self) -> BoxFuture<'_, io::Result<(Target, Vec<u8>)>>;
}

/// Why a stream could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// No circuit could be built: wait, and say so to the user.
    #[error("no circuit: {0}")]
    NoCircuit(String),
    /// The exit refused, or our own policy did: another exit may do.
    #[error("refused by policy")]
    Refused,
    /// The name does not exist.
    #[error("name not found")]
    NameNotFound,
    /// Nobody listens there.
    #[error("connection refused")]
    ConnectionRefused,
    /// The exit could not reach it.
    #[error("unreachable")]
    Unreachable,
    /// No answer in time: try again later.
    #[error("timed out")]
    TimedOut,
    /// The circuit broke: try again, another circuit will be used.
    #[error("the circuit was lost")]
    CircuitLost,
}

/// Reaches the world without showing who asks.
pub trait Outside: Send + Sync + 'static {
    /// Opens a byte stream. Names are resolved far away.
    fn connect<'a>(
        &'a self,
        target: &'a Target,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>>;

    /// Opens a datagram flow.
    fn datagrams(
        &self,
        isolation: Isolation,
    ) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>>;
}
