//! Routes: the one seam through which everything above reaches the world.
//!
//! There is no direct route. What implements [`Outside`] opens streams inside circuits or through Tor, or refuses.

pub mod carry;
pub mod circuits;
pub mod gate;
mod gated;
pub mod policy;
pub mod special;
#[cfg(feature = "tor")]
pub mod tor;

use std::net::IpAddr;

pub use crate::net::{BoxFuture, BoxStream, ByteStream, Datagrams};
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::{HostName, Target};

/// Why a stream could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// No circuit could be built: wait, and say so to the user.
    #[error("no circuit: {0}")]
    NoCircuit(String),
    /// The exit refused: another exit may do.
    #[error("refused by policy")]
    Refused,
    /// Our own rules refuse it, and nothing was sent: say why; it would be refused again.
    #[error("{0}")]
    Forbidden(policy::Reason),
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
    /// The exits that could do it have too much to do: try again later.
    #[error("the exits have too much to do")]
    Busy,
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

    /// Whether any datagram could be let out; where not, whoever asks for a flow is told at once.
    fn carries_datagrams(&self) -> bool {
        true
    }

    /// Looks a name up, far away. A way that can't says [`RouteError::Refused`].
    fn resolve<'a>(
        &'a self,
        name: &'a HostName,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, RouteError>> {
        let _ = (name, isolation);
        Box::pin(async { Err(RouteError::Refused) })
    }

    /// Opens a stream to somebody far away who looks up in the DHT: the request, which is sent at once and ends what is
    /// sent (an empty one is left to the caller to send), then records come ([`hushswarm_circuits::dht`]). [`RouteError::Refused`] where nobody offers it: walk by datagrams instead.
    /// What comes is believed no more than any DHT node.
    fn dht<'a>(
        &'a self,
        request: &'a [u8],
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        let _ = (request, isolation);
        Box::pin(async { Err(RouteError::Refused) })
    }

    /// Looks up whose address this is, far away. A way that can't says [`RouteError::Refused`].
    fn resolve_ptr(
        &self,
        ip: IpAddr,
        isolation: Isolation,
    ) -> BoxFuture<'_, Result<HostName, RouteError>> {
        let _ = (ip, isolation);
        Box::pin(async { Err(RouteError::Refused) })
    }
}

/// The way out of who asks nobody for anything, such as a peer that others come to: it refuses everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nowhere;

impl Outside for Nowhere {
    fn connect<'a>(
        &'a self,
        _: &'a Target,
        _: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        Box::pin(async { Err(RouteError::Refused) })
    }

    fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        Box::pin(async { Err(RouteError::Refused) })
    }
}
