//! Counts packets by flow, and sums flows up by class. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::classify::{CLASSES, Class, Packet, Proto};
use super::outcome::Escaped;

/// Most flows told apart; what comes then is counted by class alone.
const MAX_FLOWS: usize = 20_000;
/// Most receivers named for a class.
const MAX_TO: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    proto: Proto,
    from: Option<IpAddr>,
    to: Option<IpAddr>,
    from_port: u16,
    to_port: u16,
    /// Told apart where ports don't.
    class: Option<Class>,
}

struct Flow {
    class: Class,
    packets: u64,
    bytes: u64,
    during_outage: u64,
}

/// Packets so far.
#[derive(Default)]
pub(super) struct Tally {
    flows: HashMap<Key, Flow>,
    packets: u64,
}

/// What a receiver is, whatever its packets look like.
pub(super) struct Meaning {
    /// By transport and address.
    pub(super) services: BTreeMap<(Proto, SocketAddr), Class>,
    /// Who knocks at ports.
    pub(super) strangers: Vec<IpAddr>,
    /// Guards of hushswarm: TCP to them is no leak.
    pub(super) guards: BTreeSet<SocketAddr>,
}

impl Tally {
    /// Adds a packet.
    pub(super) fn add(&mut self, packet: &Packet, len: usize, outage: bool) {
        self.packets += 1;
        let mut key = Key {
            proto: packet.proto,
            from: packet.from,
            to: packet.to,
            from_port: packet.from_port,
            to_port: packet.to_port,
            class: (packet.proto == Proto::Other).then_some(packet.class),
        };
        if self.flows.len() >= MAX_FLOWS && !self.flows.contains_key(&key) {
            // Whatever it is, it is not taken for a guard's any more.
            let any: fn(IpAddr) -> IpAddr = |ip| match ip {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            key = Key {
                proto: packet.proto,
                from: None,
                to: packet.to.map(any),
                from_port: 0,
                to_port: 0,
                class: Some(packet.class),
            };
        }
        let flow = self.flows.entry(key).or_insert(Flow {
            class: packet.class,
            packets: 0,
            bytes: 0,
            during_outage: 0,
        });
        if flow.class.is_plain() {
            flow.class = packet.class;
        }
        flow.packets += 1;
        flow.bytes += len as u64;
        flow.during_outage += u64::from(outage);
    }

    /// Packets so far.
    pub(super) fn packets(&self) -> u64 {
        self.packets
    }

    /// Sums up: what escaped, and packets to the guards.
    pub(super) fn sum(
        &self,
        meaning: &Meaning,
        name: impl Fn(IpAddr) -> String,
    ) -> (Vec<Escaped>, u64) {
        let mut sums: BTreeMap<(Class, bool), Escaped> = BTreeMap::new();
        let mut guarded = 0;
        for (key, flow) in &self.flows {
            let to = key.to.map(|ip| SocketAddr::new(ip, key.to_port));
            if key.proto == Proto::Tcp && to.is_some_and(|to| meaning.guards.contains(&to)) {
                guarded += flow.packets;
                continue;
            }
            let stranger = key.to.is_some_and(|ip| meaning.strangers.contains(&ip));
            let known = to.and_then(|to| meaning.services.get(&(key.proto, to)));
            let class = match known {
                _ if stranger => Class::Answer,
                Some(known) if flow.class.is_plain() => *known,
                Some(_) | None => flow.class,
            };
            let ipv6 = matches!(key.to, Some(IpAddr::V6(_)));
            let sum = sums.entry((class, ipv6)).or_insert_with(|| Escaped {
                class,
                ipv6,
                packets: 0,
                bytes: 0,
                during_outage: 0,
                to: BTreeSet::new(),
            });
            sum.packets += flow.packets;
            sum.bytes += flow.bytes;
            sum.during_outage += flow.during_outage;
            if let Some(to) = key.to.filter(|_| sum.to.len() < MAX_TO) {
                sum.to.insert(match key.to_port {
                    0 => name(to),
                    port => format!("{}:{port}", name(to)),
                });
            }
        }
        debug_assert!(sums.keys().all(|(class, _)| CLASSES.contains(class)));
        (sums.into_values().collect(), guarded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(proto: Proto, to: &str, class: Class) -> Packet {
        let to: SocketAddr = to.parse().unwrap();
        Packet {
            class,
            proto,
            from: Some([33, 10, 0, 2].into()),
            to: Some(to.ip()),
            from_port: 5000,
            to_port: to.port(),
        }
    }

    fn meaning() -> Meaning {
        Meaning {
            services: BTreeMap::from([(
                (Proto::Tcp, "22.2.0.1:6881".parse().unwrap()),
                Class::PeerTcp,
            )]),
            strangers: vec![[22, 99, 0, 1].into()],
            guards: BTreeSet::from(["11.10.0.1:443".parse().unwrap()]),
        }
    }

    fn sum(packets: &[Packet]) -> (Vec<(Class, bool, u64)>, u64) {
        let mut tally = Tally::default();
        for packet in packets {
            tally.add(packet, 60, false);
        }
        let (escaped, guarded) = tally.sum(&meaning(), |ip| ip.to_string());
        let rows = escaped.iter().map(|e| (e.class, e.ipv6, e.packets));
        (rows.collect(), guarded)
    }

    #[test]
    fn only_tcp_to_a_guards_own_port_is_no_leak() {
        let (rows, guarded) = sum(&[
            packet(Proto::Tcp, "11.10.0.1:443", Class::Tcp),
            packet(Proto::Tcp, "11.10.0.1:80", Class::Tcp),
            packet(Proto::Udp, "11.10.0.1:443", Class::Udp),
            packet(Proto::Tcp, "11.14.0.1:443", Class::Tcp),
        ]);
        assert_eq!(guarded, 1);
        assert_eq!(rows, [(Class::Tcp, false, 2), (Class::Udp, false, 1)]);
    }

    #[test]
    fn the_most_telling_packet_names_its_flow_and_the_far_end_what_is_left() {
        let (rows, _) = sum(&[
            packet(Proto::Udp, "22.5.0.1:7000", Class::Udp),
            packet(Proto::Udp, "22.5.0.1:7000", Class::Dht),
            packet(Proto::Udp, "22.5.0.1:7000", Class::Udp),
            packet(Proto::Tcp, "22.2.0.1:6881", Class::Tcp),
            packet(Proto::Tcp, "[2a77::1]:80", Class::Tcp),
            packet(Proto::Tcp, "22.99.0.1:1", Class::PeerTcp),
        ]);
        assert_eq!(
            rows,
            [
                (Class::Dht, false, 3),
                (Class::PeerTcp, false, 1),
                (Class::Answer, false, 1),
                (Class::Tcp, true, 1),
            ]
        );
    }

    #[test]
    fn a_flood_of_flows_is_counted_in_bounded_memory_and_never_as_guarded() {
        let mut tally = Tally::default();
        let mut one = packet(Proto::Udp, "22.5.0.1:7000", Class::Udp);
        for n in 0..MAX_FLOWS + 500 {
            (one.from_port, one.to_port) = ((n % 60_000) as u16, 7000 + (n % 13) as u16);
            tally.add(&one, 60, n % 2 == 0);
        }
        assert!(tally.flows.len() <= MAX_FLOWS + 2);
        let (escaped, guarded) = tally.sum(&meaning(), |ip| ip.to_string());
        assert_eq!((escaped[0].packets, guarded), ((MAX_FLOWS + 500) as u64, 0));
        assert_eq!(escaped[0].during_outage, (MAX_FLOWS + 500) as u64 / 2);
        assert_eq!(tally.packets(), (MAX_FLOWS + 500) as u64);
    }
}
