//! The addresses and names of the world. They look public, since programs and policies refuse what is private; nobody
//! outside the world's namespace is ever reached, whoever may own these numbers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::classify::{Class, Proto};

/// What the program under test is called.
pub const YOU: &str = "you";
/// Number of relays: enough that guard, middle and exit are drawn.
pub const RELAYS: usize = 6;
/// How many of them are guards.
pub const GUARDS: usize = 3;
/// How many of them are exits.
pub const EXITS: usize = 2;
/// Number of DHT nodes: programs want a few dozen before they search.
pub const DHT_NODES: usize = 24;

/// Port of relays.
pub const RELAY_PORT: u16 = 443;
/// Port of both trackers.
pub const TRACKER_PORT: u16 = 6969;
/// Port of the seeding peer.
pub const SEEDER_PORT: u16 = 6881;
/// Port of the DHT nodes.
pub const DHT_PORT: u16 = 6881;
/// Where `dht.libtorrent.org` has its node.
pub const DHT_PORT_LIBTORRENT: u16 = 25_401;

/// The tracker's name: not a reserved one, which every policy refuses.
pub const TRACKER_NAME: &str = "tracker.leaktest-world.net";
/// The name of the server that has the content by HTTP.
pub const MIRROR_NAME: &str = "mirror.leaktest-world.net";
/// The well-known routers of the DHT, which clients come with.
const ROUTERS: [&str; 6] = [
    "router.bittorrent.com",
    "router.utorrent.com",
    "dht.transmissionbt.com",
    "dht.libtorrent.org",
    "dht.aelitis.com",
    "router.silotis.us",
];

/// The program's own IPv4 address.
pub const YOU_V4: Ipv4Addr = Ipv4Addr::new(33, 10, 0, 2);
/// The program's own IPv6 address.
pub const YOU_V6: Ipv6Addr = Ipv6Addr::new(0x2a77, 0x33, 0, 0, 0, 0, 0, 2);
/// The world's end of the cable: gateway and name server.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(33, 10, 0, 1);
/// The same by IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0x2a77, 0x33, 0, 0, 0, 0, 0, 1);
/// A peer that trackers name and that is not there: whoever connects shows by what way.
pub const BAIT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(22, 66, 0, 1)), 6666);

const TRACKER: u8 = 1;
const SEEDER: u8 = 2;
const MIRROR: u8 = 3;
const STRANGER: u8 = 99;
const FIRST_NODE: u8 = 101;

fn pair(number: u8) -> [IpAddr; 2] {
    // One network (/16) for each: clients take few nodes or peers of one network.
    let v4 = Ipv4Addr::new(22, number, 0, 1);
    let v6 = Ipv6Addr::new(0x2a77, 0x22, u16::from(number), 0, 0, 0, 0, 1);
    [v4.into(), v6.into()]
}

/// The tracker's addresses of both families.
pub fn tracker() -> [IpAddr; 2] {
    pair(TRACKER)
}

/// The seeding peer's addresses.
pub fn seeder() -> [SocketAddr; 2] {
    pair(SEEDER).map(|ip| SocketAddr::new(ip, SEEDER_PORT))
}

/// The addresses of the server that has the content by HTTP.
pub fn mirror() -> [IpAddr; 2] {
    pair(MIRROR)
}

/// Whoever knocks at the program's ports.
pub fn stranger() -> [IpAddr; 2] {
    pair(STRANGER)
}

/// The addresses of a DHT node.
pub fn node(n: usize) -> [IpAddr; 2] {
    // The numbers are few.
    pair(FIRST_NODE + (n % 100) as u8)
}

/// The address of a relay, each in a network of its own as path choice wants it.
pub fn relay(n: usize) -> SocketAddr {
    SocketAddr::new(
        Ipv4Addr::new(11, 10 + (n % 100) as u8, 0, 1).into(),
        RELAY_PORT,
    )
}

/// The addresses behind a name; `None` where there is none.
pub fn lookup(name: &str) -> Option<Vec<IpAddr>> {
    match name {
        TRACKER_NAME => Some(tracker().to_vec()),
        MIRROR_NAME => Some(mirror().to_vec()),
        _ => {
            let router = ROUTERS.iter().position(|router| *router == name)?;
            Some(node(router).to_vec())
        }
    }
}

/// What the report calls an address.
pub fn name(ip: IpAddr) -> String {
    let ip = ip.to_canonical();
    if ip == IpAddr::V4(YOU_V4) || ip == IpAddr::V6(YOU_V6) {
        return YOU.to_owned();
    }
    if ip == IpAddr::V4(GATEWAY_V4) || ip == IpAddr::V6(GATEWAY_V6) {
        // Exits leave by it where a relay has no address of the family, and ask the name server from it.
        return "gateway".to_owned();
    }
    let named = [("tracker", tracker()), ("mirror", mirror())];
    if let Some((name, _)) = named.iter().find(|(_, ips)| ips.contains(&ip)) {
        return (*name).to_owned();
    }
    if seeder().iter().any(|addr| addr.ip() == ip) {
        return "seeder".to_owned();
    }
    if ip == BAIT.ip() {
        return "bait peer".to_owned();
    }
    if let Some(n) = (0..RELAYS).find(|n| relay(*n).ip() == ip) {
        return format!("relay{}", n + 1);
    }
    if let Some(n) = (0..DHT_NODES).find(|n| node(*n).contains(&ip)) {
        return format!("dht{}", n + 1);
    }
    ip.to_string()
}

/// What stands where: what a packet is for that does not say so itself.
pub fn services() -> BTreeMap<(Proto, SocketAddr), Class> {
    let mut out = BTreeMap::new();
    for ip in tracker() {
        let at = SocketAddr::new(ip, TRACKER_PORT);
        out.insert((Proto::Tcp, at), Class::HttpTracker);
        out.insert((Proto::Udp, at), Class::UdpTracker);
    }
    for ip in mirror() {
        out.insert((Proto::Tcp, SocketAddr::new(ip, 80)), Class::WebSeed);
    }
    for at in seeder().into_iter().chain([BAIT]) {
        out.insert((Proto::Tcp, at), Class::PeerTcp);
        out.insert((Proto::Udp, at), Class::Utp);
    }
    for ip in (0..DHT_NODES).flat_map(node) {
        for port in [DHT_PORT, DHT_PORT_LIBTORRENT] {
            out.insert((Proto::Udp, SocketAddr::new(ip, port)), Class::Dht);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use hushswarm_circuits::relay_list::is_global;

    #[test]
    fn every_address_of_the_world_looks_public_and_has_one_name() {
        let mut all: Vec<IpAddr> = vec![YOU_V4.into(), YOU_V6.into(), BAIT.ip()];
        all.extend(tracker());
        all.extend(mirror());
        all.extend(seeder().map(|addr| addr.ip()));
        all.extend((0..DHT_NODES).flat_map(node));
        all.extend((0..RELAYS).map(|n| relay(n).ip()));
        assert!(all.iter().all(|ip| is_global(*ip)));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(all.iter().all(|ip| name(*ip) != ip.to_string()));
    }

    #[test]
    fn the_routers_that_clients_come_with_are_nodes_here() {
        assert_eq!(lookup("router.bittorrent.com"), Some(node(0).to_vec()));
        assert_eq!(lookup("dht.libtorrent.org").unwrap(), node(3));
        assert_eq!(lookup("example.org"), None);
    }
}
