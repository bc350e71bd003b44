//! Links to relays through Tor: neither the relay nor anybody between it and Tor sees who opens them (PROTOCOL.md §2.7).

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::relay_list::Descriptor;

use super::{Tor, TorError, TorStatus, Visit};
use crate::net::{BoxFuture, Place, RelayDialer, Transport, Way, addresses};
use crate::onion::OnionKey;

/// Reaches relays through Tor, and never in another way: at their onion services, and those without one through Tor's
/// exits.
#[derive(Debug)]
pub struct TorDialer {
    tor: Tor,
    /// Links opened so far.
    number: AtomicU32,
}

impl TorDialer {
    /// Dials through this Tor.
    pub fn new(tor: Tor) -> Self {
        Self {
            tor,
            number: AtomicU32::new(0),
        }
    }
}

impl RelayDialer for TorDialer {
    fn places(&self, relay: &Descriptor) -> Vec<Place> {
        match relay.link_service {
            // No exit sees it, and none has to carry it. One that does not answer is no reason to ask an exit instead.
            Some(service) => vec![Place::Onion(service)],
            None => addresses(relay),
        }
    }

    fn dial<'a>(
        &'a self,
        relay: &'a Descriptor,
        place: Place,
    ) -> BoxFuture<'a, io::Result<Transport>> {
        Box::pin(async move {
            let (host, port) = match place {
                Place::Onion(service) => (OnionKey(service.key).address(), service.port),
                Place::Address(addr) => (addr.ip().to_string(), addr.port()),
            };
            // A circuit of Tor for each link, which nothing else shares; and a new one for each try, since the last one may
            // be why this try is needed.
            let number = self.number.fetch_add(1, Ordering::Relaxed);
            let owner = [&relay.identity.0[..], &number.to_be_bytes()].concat();
            let isolation = Isolation::new("link", &owner, 0);
            // A relay that lets in only some would learn which of them this is.
            let opened = self.tor.connect(&host, port, isolation, Visit::Told).await;
            opened?.into_transport()
        })
    }

    fn way(&self) -> Way {
        let status = self.tor.shared.status.borrow();
        let waits_for = match &*status {
            TorStatus::Idle | TorStatus::Ready | TorStatus::Resting => None,
            TorStatus::Starting { .. } => Some(TorError::slow(&status).to_string()),
            TorStatus::Failed(error) => Some(error.to_string()),
        };
        Way::Through { waits_for }
    }
}

impl From<TorError> for io::Error {
    /// [`io::ErrorKind::NetworkDown`] where Tor itself is missing.
    fn from(error: TorError) -> Self {
        use io::ErrorKind as K;
        let kind = match &error {
            TorError::NoTor(_) | TorError::NotNow(_) | TorError::NotReady { .. } => K::NetworkDown,
            TorError::NotFound => K::NotFound,
            TorError::KeyNeeded | TorError::NotAllowed => K::PermissionDenied,
            TorError::Refused => K::ConnectionRefused,
            TorError::Unreachable => K::HostUnreachable,
            TorError::TimedOut => K::TimedOut,
            TorError::CircuitLost => K::ConnectionAborted,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tors_own_troubles_say_that_there_is_no_way() {
        let own = [
            TorError::NoTor("x"),
            TorError::NotNow("x"),
            TorError::NotReady {
                percent: 1,
                what: "x".to_owned(),
            },
        ];
        let others = [
            TorError::NotFound,
            TorError::KeyNeeded,
            TorError::Refused,
            TorError::NotAllowed,
            TorError::Unreachable,
            TorError::TimedOut,
            TorError::CircuitLost,
        ];
        let is_down = |error: TorError| io::Error::from(error).kind() == io::ErrorKind::NetworkDown;
        assert!(own.into_iter().all(is_down));
        assert!(!others.into_iter().any(is_down));
    }
}
