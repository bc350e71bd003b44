//! The route through Tor: onion services, and Tor's exits for what a rule sends there.

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::{Host, Target};

use super::{BoxFuture, BoxStream, Datagrams, Outside, RouteError};
use crate::onion::Chosen;
use crate::tor::{Tor, TorError, Visit};

/// Opens streams through Tor.
#[derive(Clone, Debug)]
pub struct TorRoute {
    tor: Tor,
    chosen: Chosen,
}

impl TorRoute {
    /// Uses this Tor, and visits these services with our key, where we have one.
    pub fn new(tor: Tor, chosen: Chosen) -> Self {
        Self { tor, chosen }
    }
}

impl Outside for TorRoute {
    fn connect<'a>(
        &'a self,
        target: &'a Target,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        Box::pin(async move {
            let host = match &target.host {
                Host::Name(name) => name.as_str().to_owned(),
                Host::Ip(ip) => ip.to_string(),
            };
            let visit = if self.chosen.has(&host) {
                Visit::Chosen
            } else {
                Visit::Told
            };
            let opened = self.tor.connect(&host, target.port, isolation, visit);
            let opened = opened.await;
            Ok(Box::new(opened.map_err(RouteError::from)?) as BoxStream)
        })
    }

    fn carries_datagrams(&self) -> bool {
        false
    }

    /// Tor carries no datagrams.
    fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        Box::pin(async { Err(RouteError::Refused) })
    }
}

impl From<TorError> for RouteError {
    fn from(error: TorError) -> Self {
        match error {
            TorError::NoTor(_) | TorError::NotNow(_) | TorError::NotReady { .. } => {
                Self::NoCircuit(error.to_string())
            }
            TorError::NotFound => Self::NameNotFound,
            TorError::KeyNeeded | TorError::NotAllowed => Self::Refused,
            TorError::Refused => Self::ConnectionRefused,
            TorError::Unreachable => Self::Unreachable,
            TorError::TimedOut => Self::TimedOut,
            TorError::CircuitLost => Self::CircuitLost,
        }
    }
}
