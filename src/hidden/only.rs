//! The way out of a torrent whose peers are hidden ones alone: it leads to onion services and to relays where hidden seeds are met,
//! and nowhere else, whoever names the place (leaks L42, L53).

use std::sync::Arc;

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::Target;

use crate::route::policy::Reason;
use crate::route::special::Place;
use crate::route::{At, BoxFuture, BoxStream, Datagrams, Meet, Met, Outside, RouteError};

/// What is refused, and why.
const REFUSED: RouteError = RouteError::Forbidden(Reason::Public);

/// Refuses all that is neither an onion service nor a meeting at a relay. A link, a tracker, a peer or a redirection may still name
/// the public: nothing is sent there.
pub struct ConcealedOnly(Arc<dyn Outside>);

impl ConcealedOnly {
    /// Lets through to this way out what stays hidden.
    pub fn new(outside: Arc<dyn Outside>) -> Self {
        Self(outside)
    }
}

impl Outside for ConcealedOnly {
    fn connect<'a>(
        &'a self,
        target: &'a Target,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        if Place::is_concealed(target) {
            self.0.connect(target, isolation)
        } else {
            Box::pin(async { Err(REFUSED) })
        }
    }

    fn carries_datagrams(&self) -> bool {
        false
    }

    fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        Box::pin(async { Err(REFUSED) })
    }

    fn meet<'a>(
        &'a self,
        at: At,
        meet: Meet<'a>,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<Met, RouteError>> {
        self.0.meet(at, meet, isolation)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hushswarm_circuits::rendezvous::Cookie;
    use hushswarm_circuits::target::{Host, HostName};

    use super::*;
    use crate::hush::SeedKey;
    use crate::onion::OnionKey;

    /// Reaches everybody.
    struct Everywhere;

    impl Outside for Everywhere {
        fn connect<'a>(
            &'a self,
            _: &'a Target,
            _: Isolation,
        ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
            Box::pin(async { Ok(Box::new(tokio::io::duplex(1).0) as BoxStream) })
        }

        fn carries_datagrams(&self) -> bool {
            true
        }

        fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
            panic!("it is asked for datagrams");
        }

        fn resolve<'a>(
            &'a self,
            _: &'a HostName,
            _: Isolation,
        ) -> BoxFuture<'a, Result<Vec<std::net::IpAddr>, RouteError>> {
            panic!("it is asked for a name");
        }

        fn dht<'a>(
            &'a self,
            _: &'a [u8],
            _: Isolation,
        ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
            panic!("it is asked for a lookup");
        }

        fn meet<'a>(
            &'a self,
            _: At,
            _: Meet<'a>,
            _: Isolation,
        ) -> BoxFuture<'a, Result<Met, RouteError>> {
            Box::pin(async { Err(RouteError::Busy) })
        }
    }

    #[tokio::test]
    async fn nothing_public_is_reached_whatever_it_is() {
        let only = ConcealedOnly::new(Arc::new(Everywhere));
        let isolation = Isolation::new("test", &[], 0);
        let reach = async |host: &str| {
            let target = Target::parse(host, 6881).unwrap();
            only.connect(&target, isolation).await.err()
        };
        let onion = OnionKey([1; 32]).address();
        let seed = SeedKey([1; 32]).host();
        for host in [&onion, &seed, &format!("www.{onion}")] {
            assert_eq!(reach(host).await, None, "{host}");
        }
        for host in ["192.0.2.1", "2001:db8::1", "t.example", "onion.example"] {
            assert_eq!(reach(host).await, Some(REFUSED), "{host}");
        }
        let refused = REFUSED;
        assert!(!only.carries_datagrams());
        assert_eq!(only.datagrams(isolation).await.err(), Some(refused.clone()));
        let Host::Name(name) = Target::parse("t.example", 1).unwrap().host else {
            panic!("it was a name");
        };
        assert!(only.resolve(&name, isolation).await.is_err());
        assert!(only.dht(b"", isolation).await.is_err());
        // Meetings go on to where they went.
        let cookie = Cookie([1; 20]);
        let met = only.meet(At::Any { but: Vec::new() }, Meet::Wait(&cookie), isolation);
        assert_eq!(met.await.err(), Some(RouteError::Busy));
    }
}
