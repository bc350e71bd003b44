//! Where nodes and peers are: compact addresses (BEP 5, 23, 32), which of them anybody may be sent to, and the network that
//! each belongs to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hushswarm_circuits::relay_list::is_global;

use super::id::{ID_LEN, Id};

/// Which of the two DHTs (BEP 32): IPv4 and IPv6 nodes know only their own kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Over IPv4.
    V4,
    /// Over IPv6.
    V6,
}

impl Family {
    /// Whether an address is of this family. An IPv4 address that is written as IPv6 is of neither: nobody honest sends one.
    pub fn has(self, ip: IpAddr) -> bool {
        match (self, ip) {
            (Self::V4, IpAddr::V4(_)) => true,
            (Self::V6, IpAddr::V6(ip)) => ip.to_ipv4_mapped().is_none(),
            (Self::V4, IpAddr::V6(_)) | (Self::V6, IpAddr::V4(_)) => false,
        }
    }

    /// Length of a compact address and port, bytes.
    pub const fn compact_len(self) -> usize {
        match self {
            Self::V4 => 6,
            Self::V6 => 18,
        }
    }

    /// Length of a compact node, bytes: its id, address and port.
    pub const fn node_len(self) -> usize {
        ID_LEN + self.compact_len()
    }
}

/// A node: its id and where it is. Hidden in logs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Contact {
    /// Its id.
    pub id: Id,
    /// Its address.
    pub addr: SocketAddr,
}

impl Contact {
    /// Whether its id fits its address (BEP 42).
    pub fn is_valid(&self) -> bool {
        self.id.is_valid_for(self.addr.ip())
    }
}

impl fmt::Debug for Contact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[contact]")
    }
}

/// Appends `address[4 or 16] | port u16`.
pub fn put_compact(out: &mut Vec<u8>, addr: SocketAddr) {
    match addr.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out.extend_from_slice(&addr.port().to_be_bytes());
}

/// Reads `address[4 or 16] | port u16`, of this length and family.
pub fn read_compact(family: Family, bytes: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = match family {
        Family::V4 => {
            let (ip, port) = bytes.split_first_chunk::<4>()?;
            (IpAddr::from(Ipv4Addr::from(*ip)), port)
        }
        Family::V6 => {
            let (ip, port) = bytes.split_first_chunk::<16>()?;
            (IpAddr::from(Ipv6Addr::from(*ip)), port)
        }
    };
    let port = u16::from_be_bytes(port.try_into().ok()?);
    Some(SocketAddr::new(ip, port))
}

/// Appends `id[20] | address[4 or 16] | port u16`.
pub fn put_node(out: &mut Vec<u8>, contact: &Contact) {
    out.extend_from_slice(&contact.id.0);
    put_compact(out, contact.addr);
}

/// The nodes of a compact string. One that is not a whole number of nodes is taken as none.
pub fn read_nodes(family: Family, bytes: &[u8]) -> impl Iterator<Item = Contact> {
    let nodes = bytes.chunks_exact(family.node_len());
    let whole = nodes.remainder().is_empty();
    nodes.filter_map(move |node| {
        let (id, addr) = node.split_first_chunk::<ID_LEN>()?;
        let addr = read_compact(family, addr)?;
        whole.then_some(Contact { id: Id(*id), addr })
    })
}

/// Whether anybody may be sent to this address of this family: it has a port and is public. `allow_private` is for networks
/// of one's own; even there an address means one computer.
pub fn is_usable(family: Family, addr: SocketAddr, allow_private: bool) -> bool {
    let one = match addr.ip() {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    };
    let public = is_global(addr.ip());
    addr.port() != 0 && family.has(addr.ip()) && one && (public || allow_private)
}

/// The network of an address, which one person may own whole: /24 of IPv4, /56 of IPv6.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network([u8; 8]);

impl Network {
    /// That of an address.
    pub fn of(ip: IpAddr) -> Self {
        let mut bytes = [0; 8];
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                bytes[..4].copy_from_slice(&[4, a, b, c]);
            }
            IpAddr::V6(ip) => {
                bytes[0] = 6;
                bytes[1..].copy_from_slice(&ip.octets()[..7]);
            }
        }
        Self(bytes)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[network]")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_public_addresses_with_a_port_are_used() {
        for addr in [
            "8.8.8.8:0",
            "127.0.0.1:1",
            "10.0.0.1:1",
            "172.16.0.1:1",
            "192.168.1.1:1",
            "169.254.1.1:1",
            "100.64.0.1:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "0.0.0.0:1",
            "192.0.2.1:1",
            "198.51.100.1:1",
            "203.0.113.1:1",
            "198.18.0.1:1",
        ] {
            assert!(
                !is_usable(Family::V4, addr.parse().unwrap(), false),
                "{addr}"
            );
        }
        for addr in [
            "[2606:4700::1]:0",
            "[::1]:1",
            "[::]:1",
            "[fe80::1]:1",
            "[fd00::1]:1",
            "[ff02::1]:1",
            "[2001:db8::1]:1",
            "[::ffff:8.8.8.8]:1",
            "[::ffff:10.0.0.1]:1",
            "[64:ff9b::10.0.0.1]:1",
        ] {
            assert!(
                !is_usable(Family::V6, addr.parse().unwrap(), false),
                "{addr}"
            );
        }
        assert!(is_usable(Family::V4, "8.8.8.8:1".parse().unwrap(), false));
        assert!(is_usable(
            Family::V6,
            "[2606:4700::1]:1".parse().unwrap(),
            false
        ));
        assert!(!is_usable(Family::V6, "8.8.8.8:1".parse().unwrap(), false));
        assert!(!is_usable(
            Family::V4,
            "[2606:4700::1]:1".parse().unwrap(),
            false
        ));
    }

    #[test]
    fn a_private_network_still_has_no_groups_and_no_port_zero() {
        for addr in ["127.0.0.1:1", "10.0.0.1:1", "192.0.2.1:1"] {
            assert!(is_usable(Family::V4, addr.parse().unwrap(), true), "{addr}");
        }
        for addr in [
            "10.0.0.1:0",
            "0.0.0.0:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
        ] {
            assert!(
                !is_usable(Family::V4, addr.parse().unwrap(), true),
                "{addr}"
            );
        }
    }

    #[test]
    fn networks_are_what_one_person_may_own() {
        let network = |ip: &str| Network::of(ip.parse().unwrap());
        assert_eq!(network("8.8.8.8"), network("8.8.8.200"));
        assert_ne!(network("8.8.8.8"), network("8.8.9.8"));
        assert_eq!(
            network("2606:4700:1:aa00::1"),
            network("2606:4700:1:aaff::2")
        );
        assert_ne!(
            network("2606:4700:1:aa00::1"),
            network("2606:4700:1:ab00::1")
        );
        assert_eq!(format!("{:?}", network("8.8.8.8")), "[network]");
    }

    proptest! {
        #[test]
        fn nodes_are_read_as_they_are_written(nodes in prop::collection::vec((any::<[u8; 20]>(), any::<[u8; 4]>(), any::<[u8; 16]>(), any::<u16>()), 0..9)) {
            for family in [Family::V4, Family::V6] {
                let nodes: Vec<Contact> = nodes.iter().map(|&(id, v4, v6, port)| {
                    let ip = match family {
                        Family::V4 => IpAddr::from(v4),
                        Family::V6 => IpAddr::from(v6),
                    };
                    Contact { id: Id(id), addr: SocketAddr::new(ip, port) }
                }).collect();
                let mut bytes = Vec::new();
                nodes.iter().for_each(|node| put_node(&mut bytes, node));
                prop_assert_eq!(read_nodes(family, &bytes).collect::<Vec<_>>(), nodes);
                bytes.push(0);
                prop_assert_eq!(read_nodes(family, &bytes).count(), 0, "a string that is cut off is no list");
            }
        }
    }

    #[test]
    fn its_debug_hides_where_a_node_is() {
        let contact = Contact {
            id: Id([0xab; 20]),
            addr: "8.8.4.4:77".parse().unwrap(),
        };
        assert_eq!(format!("{contact:?}"), "[contact]");
    }
}
