//! The relay's own addresses. Nobody reaches them through its exit: programs on this computer may trust what comes
//! from the computer itself, and a link to oneself would let one circuit go round in circles.

use std::net::{IpAddr, SocketAddr};

use hushswarm_circuits::relay_list::{Descriptor, is_global};

/// Where the relay itself can be reached.
#[derive(Clone)]
pub(super) struct Own {
    places: Vec<SocketAddr>,
    source: Option<IpAddr>,
}

impl Own {
    /// From what the descriptor says, where it listens, and where its exit connections leave from.
    pub(super) fn new(
        descriptor: &Descriptor,
        listening: &[SocketAddr],
        source: Option<IpAddr>,
    ) -> Self {
        let places = descriptor.addresses.iter().chain(listening);
        Self {
            places: places.copied().collect(),
            source,
        }
    }

    /// Whether a target is this relay: a public address of its own at whatever port, or the port of a link at another
    /// one (a private address may be shared with others, on test networks).
    pub(super) fn is_at(&self, target: SocketAddr) -> bool {
        let ip = target.ip().to_canonical();
        let own_ip = |own: IpAddr| own.to_canonical() == ip;
        let is_own =
            self.places.iter().any(|own| own_ip(own.ip())) || self.source.is_some_and(own_ip);
        if is_own && is_global(ip) {
            return true;
        }
        self.places.iter().any(|own| {
            let anywhere = own.ip().is_unspecified() && (is_own || ip.is_loopback());
            own.port() == target.port() && (own_ip(own.ip()) || anywhere)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn is_at(places: &[&str], source: Option<&str>, target: &str) -> bool {
        let own = Own {
            places: places.iter().map(|place| place.parse().unwrap()).collect(),
            source: source.map(|ip| ip.parse().unwrap()),
        };
        own.is_at(target.parse().unwrap())
    }

    #[test]
    fn a_public_address_is_its_own_at_every_port() {
        let places = ["8.8.8.8:9001", "[2a00::1]:9001", "10.0.0.5:9001"];
        for target in [
            "8.8.8.8:9001",
            "8.8.8.8:22",
            "[2a00::1]:22",
            "[::ffff:8.8.8.8]:22",
            "9.9.9.9:22",
        ] {
            assert!(is_at(&places, Some("9.9.9.9"), target), "{target}");
        }
        for target in ["8.8.4.4:9001", "[2a00::2]:9001", "9.9.9.9:22"] {
            assert!(!is_at(&places, None, target), "{target}");
        }
    }

    #[test]
    fn another_address_is_its_own_at_the_port_of_its_links() {
        let places = ["127.0.0.1:9001", "10.0.0.5:9002"];
        assert!(is_at(&places, None, "127.0.0.1:9001"));
        assert!(is_at(&places, None, "10.0.0.5:9002"));
        for target in ["127.0.0.1:9002", "127.0.0.2:9001", "10.0.0.5:80"] {
            assert!(!is_at(&places, None, target), "{target}");
        }
    }

    #[test]
    fn one_that_listens_everywhere_is_at_each_of_its_addresses() {
        let places = ["0.0.0.0:9001", "10.0.0.5:443"];
        for target in ["127.0.0.9:9001", "[::1]:9001", "10.0.0.5:9001"] {
            assert!(is_at(&places, None, target), "{target}");
        }
        assert!(is_at(&places, Some("10.0.0.6"), "10.0.0.6:9001"));
        assert!(!is_at(&places, None, "10.0.0.6:9001"));
        assert!(!is_at(&places, None, "127.0.0.1:80"));
    }
}
