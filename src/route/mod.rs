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
pub use crate::overlay::circuit::Meet;
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::keys::RelayId;
use hushswarm_circuits::rendezvous::Challenge;
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

/// At which relay a meeting is asked for (PROTOCOL.md §8). It is always one of the signed list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// Any that takes them, but for these; and none of their families and networks, where there are others.
    Any {
        /// For example, the one that the other half of a meeting goes through, or where a seed stands already.
        but: Vec<RelayId>,
    },
    /// This one.
    Relay {
        /// Its identity.
        id: RelayId,
        /// The digest that its descriptor must have in our list, where somebody named it.
        digest: Option<[u8; 32]>,
    },
}

/// What was asked for at a relay is granted.
pub struct Met {
    /// The stream, after its first status.
    pub stream: BoxStream,
    /// The relay.
    pub relay: RelayId,
    /// The digest of its descriptor.
    pub digest: [u8; 32],
    /// It introduces who has done this (PROTOCOL.md §8.8): what was found goes into the stream, and a status comes.
    pub work: Option<Challenge>,
}

impl std::fmt::Debug for Met {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Met").finish_non_exhaustive()
    }
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

    /// Asks for an introduction or a meeting at a relay (PROTOCOL.md §8), in a circuit that ends there.
    /// [`RouteError::Refused`] where no relay that may be asked takes them; [`RouteError::ConnectionRefused`] where nobody has
    /// the key or waits with the cookie; [`RouteError::Busy`] where a limit was met. Who introduces may ask for work first ([`Met::work`]).
    fn meet<'a>(
        &'a self,
        at: At,
        meet: Meet<'a>,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<Met, RouteError>> {
        let _ = (at, meet, isolation);
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
