//! Exit policies (PROTOCOL.md §7.1): ordered rules, the first match decides, and no match is a refusal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::wire::{self, Reader};

/// Most rules in a policy (§7.1): bounds the work per stream and the size of a descriptor.
pub const MAX_RULES: usize = 64;

/// Mail submission and relay: open to the world they are used for spam, and the exit's address is blocked for it.
const SMTP_PORTS: [u16; 3] = [25, 465, 587];

/// IPv4 ranges that are not the public internet (IANA special-purpose registry, multicast and class E).
const NOT_GLOBAL_V4: [(Ipv4Addr, u8); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),       // this network, unspecified
    (Ipv4Addr::new(10, 0, 0, 0), 8),      // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),   // carrier-grade NAT
    (Ipv4Addr::new(127, 0, 0, 0), 8),     // loopback
    (Ipv4Addr::new(169, 254, 0, 0), 16),  // link-local, cloud metadata services
    (Ipv4Addr::new(172, 16, 0, 0), 12),   // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),    // protocol assignments
    (Ipv4Addr::new(192, 0, 2, 0), 24),    // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),  // 6to4 relay anycast
    (Ipv4Addr::new(192, 168, 0, 0), 16),  // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),   // benchmarking
    (Ipv4Addr::new(198, 51, 100, 0), 24), // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),  // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),     // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),     // reserved, broadcast
];

/// RFC 6052: IPv4 behind a NAT64. Outside 2000::/3, but the public internet when the embedded address is.
const NAT64: (Ipv6Addr, u8) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// The only IPv6 range given out for the public internet so far. Loopback, ULA, link-local, multicast,
/// unspecified and the IPv4 forms other than NAT64 and 6to4 are outside it.
const GLOBAL_UNICAST: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Ranges inside 2000::/3 that are not the public internet.
const NOT_GLOBAL_V6: [(Ipv6Addr, u8); 3] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocol assignments, Teredo, ORCHID
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

/// What a rule does with a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Action {
    /// The exit refuses.
    Reject = 0,
    /// The exit connects.
    Accept = 1,
}

/// A transport protocol at the exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proto {
    /// Byte streams.
    Tcp,
    /// Datagrams.
    Udp,
}

/// The protocols that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Protocols {
    /// TCP alone.
    Tcp = 1,
    /// UDP alone.
    Udp = 2,
    /// TCP and UDP.
    Both = 3,
}

impl Protocols {
    /// Whether the rule is about this one.
    pub fn covers(self, proto: Proto) -> bool {
        match (self, proto) {
            (Self::Both, _) | (Self::Tcp, Proto::Tcp) | (Self::Udp, Proto::Udp) => true,
            (Self::Tcp, Proto::Udp) | (Self::Udp, Proto::Tcp) => false,
        }
    }
}

/// A network: an address and how many of its leading bits count. The others are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Net {
    addr: IpAddr,
    prefix: u8,
}

impl Net {
    /// Makes a network; `None` when the prefix is too long or a bit after it is set.
    pub fn new(addr: IpAddr, prefix: u8) -> Option<Self> {
        let net = Self { addr, prefix };
        let zeros = match addr {
            IpAddr::V4(ip) => ip.to_bits() & !mask_v4(prefix) == 0,
            IpAddr::V6(ip) => ip.to_bits() & !mask_v6(prefix) == 0,
        };
        (prefix <= net.max_prefix() && zeros).then_some(net)
    }

    /// The network's first address.
    pub fn addr(self) -> IpAddr {
        self.addr
    }

    /// How many leading bits count.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether the address lies in this network. IPv4 and IPv6 never mix here.
    pub fn contains(self, ip: IpAddr) -> bool {
        match (self.addr, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => in_v4(ip, (net, self.prefix)),
            (IpAddr::V6(net), IpAddr::V6(ip)) => in_v6(ip, (net, self.prefix)),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    fn max_prefix(self) -> u8 {
        if self.addr.is_ipv4() { 32 } else { 128 }
    }
}

impl std::fmt::Debug for Net {
    /// A network of a policy is public knowledge, but a value of this type may also come from a target.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[network]")
    }
}

/// Leading `prefix` bits set; all of them for a prefix beyond the width.
pub(crate) fn mask_v4(prefix: u8) -> u32 {
    u32::MAX
        .checked_shr(u32::from(prefix))
        .map_or(u32::MAX, |rest| !rest)
}

/// Leading `prefix` bits set; all of them for a prefix beyond the width.
pub(crate) fn mask_v6(prefix: u8) -> u128 {
    u128::MAX
        .checked_shr(u32::from(prefix))
        .map_or(u128::MAX, |rest| !rest)
}

fn in_v4(ip: Ipv4Addr, (net, prefix): (Ipv4Addr, u8)) -> bool {
    (ip.to_bits() ^ net.to_bits()) & mask_v4(prefix) == 0
}

fn in_v6(ip: Ipv6Addr, (net, prefix): (Ipv6Addr, u8)) -> bool {
    (ip.to_bits() ^ net.to_bits()) & mask_v6(prefix) == 0
}

/// The IPv4 address that packets to this IPv6 address may end up at: IPv4-compatible (`::/96`), translated
/// (`::ffff:0:0:0/96`), NAT64 (RFC 6052), 6to4 (RFC 3056), Teredo (RFC 4380) or ISATAP (RFC 5214).
pub fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0] | [0, 0, 0, 0, 0xffff, 0] | [0x64, 0xff9b, 0, 0, 0, 0] => Some(v4(g, h)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        [0x2001, 0, ..] => Some(v4(!g, !h)),
        [.., 0 | 0x200, 0x5efe] => Some(v4(g, h)),
        _ => None,
    }
}

/// Whether an address belongs to the public internet. What only wraps an IPv4 address is judged by that address.
pub fn is_global(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => !NOT_GLOBAL_V4.iter().any(|&net| in_v4(ip, net)),
        IpAddr::V6(ip) => {
            (in_v6(ip, GLOBAL_UNICAST) || in_v6(ip, NAT64))
                && !NOT_GLOBAL_V6.iter().any(|&net| in_v6(ip, net))
                && embedded_v4(ip).is_none_or(|v4| is_global(v4.into()))
        }
    }
}

/// One rule of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What a match means.
    pub action: Action,
    /// Which protocols it is about.
    pub protocols: Protocols,
    /// Which addresses; `None` is every address.
    pub net: Option<Net>,
    /// First port, at least 1.
    pub first_port: u16,
    /// Last port, not below the first.
    pub last_port: u16,
}

impl Rule {
    /// A rule for every port.
    pub fn new(action: Action, protocols: Protocols, net: Option<Net>) -> Self {
        Self {
            action,
            protocols,
            net,
            first_port: 1,
            last_port: u16::MAX,
        }
    }

    fn matches_port(&self, proto: Proto, port: u16) -> bool {
        self.protocols.covers(proto) && (self.first_port..=self.last_port).contains(&port)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.action as u8, self.protocols as u8]);
        match self.net {
            None => out.extend_from_slice(&[wire::ANY, 0]),
            Some(net) => {
                wire::put_ip(out, net.addr);
                out.push(net.prefix);
            }
        }
        out.extend_from_slice(&self.first_port.to_be_bytes());
        out.extend_from_slice(&self.last_port.to_be_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let action = match reader.u8()? {
            0 => Action::Reject,
            1 => Action::Accept,
            _ => return None,
        };
        let protocols = match reader.u8()? {
            1 => Protocols::Tcp,
            2 => Protocols::Udp,
            3 => Protocols::Both,
            _ => return None,
        };
        let addr = match reader.u8()? {
            wire::ANY => None,
            wire::IPV4 => Some(IpAddr::V4(reader.ipv4()?)),
            wire::IPV6 => Some(IpAddr::V6(reader.ipv6()?)),
            _ => return None,
        };
        let prefix = reader.u8()?;
        let net = match addr {
            Some(addr) => Some(Net::new(addr, prefix)?),
            None if prefix == 0 => None,
            None => return None,
        };
        let rule = Self {
            action,
            protocols,
            net,
            first_port: reader.u16()?,
            last_port: reader.u16()?,
        };
        rule.has_good_ports().then_some(rule)
    }

    pub(super) fn has_good_ports(&self) -> bool {
        self.first_port >= 1 && self.first_port <= self.last_port
    }
}

/// What an exit connects to (§7.1). At most [`MAX_RULES`] rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExitPolicy {
    rules: Vec<Rule>,
}

impl ExitPolicy {
    /// Takes rules in order; `None` when there are more than [`MAX_RULES`] or one has no ports.
    pub fn new(rules: Vec<Rule>) -> Option<Self> {
        let ok = rules.len() <= MAX_RULES && rules.iter().all(Rule::has_good_ports);
        ok.then_some(Self { rules })
    }

    /// The policy of a relay that lets nothing out.
    pub fn reject_all() -> Self {
        Self { rules: Vec::new() }
    }

    /// The public internet without mail: everything that [`is_global`], except SMTP ports.
    pub fn public() -> Self {
        Self {
            rules: public_rules(),
        }
    }

    /// The rules in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether nothing can pass.
    pub fn rejects_everything(&self) -> bool {
        !self.rules.iter().any(|rule| rule.action == Action::Accept)
    }

    /// Whether the exit connects there. An IPv4-mapped address is judged as the IPv4 address. One that embeds
    /// an IPv4 address in another way must be accepted both as it stands and as that address.
    pub fn allows(&self, proto: Proto, ip: IpAddr, port: u16) -> bool {
        let accepts = |ip| {
            let mut hits = self.rules.iter().filter(|rule| {
                rule.matches_port(proto, port) && rule.net.is_none_or(|net| net.contains(ip))
            });
            hits.next()
                .is_some_and(|rule| rule.action == Action::Accept)
        };
        match ip.to_canonical() {
            IpAddr::V4(ip) => accepts(ip.into()),
            IpAddr::V6(ip) => {
                accepts(ip.into()) && embedded_v4(ip).is_none_or(|v4| accepts(v4.into()))
            }
        }
    }

    /// Whether some address may be accepted at this port. For names, which only the exit resolves: `false` is
    /// final, `true` is a good try.
    pub fn may_allow_port(&self, proto: Proto, port: u16) -> bool {
        let (mut closed_v4, mut closed_v6) = (false, false);
        for rule in self
            .rules
            .iter()
            .filter(|rule| rule.matches_port(proto, port))
        {
            let (v4, v6) = match rule.net {
                None => (true, true),
                Some(net) => (net.addr.is_ipv4(), net.addr.is_ipv6()),
            };
            match rule.action {
                Action::Accept if (v4 && !closed_v4) || (v6 && !closed_v6) => return true,
                Action::Accept => {}
                Action::Reject if rule.net.is_none_or(|net| net.prefix == 0) => {
                    closed_v4 |= v4;
                    closed_v6 |= v6;
                }
                Action::Reject => {}
            }
        }
        false
    }

    /// Whether some port of this address may be accepted, for streams or datagrams: lookups give no other addresses.
    pub fn may_allow_ip(&self, ip: IpAddr) -> bool {
        // What is accepted begins where a rule that accepts does, or right after one that rejects.
        let mut begins = self.rules.iter().filter_map(|rule| match rule.action {
            Action::Accept => Some(rule.first_port),
            Action::Reject => rule.last_port.checked_add(1),
        });
        let accepted = |port| {
            let mut protos = [Proto::Tcp, Proto::Udp].into_iter();
            protos.any(|proto| self.allows(proto, ip, port))
        };
        begins.any(accepted)
    }

    /// Whether some port may be accepted for this protocol: for datagram flows, whose targets come later.
    pub fn may_allow(&self, proto: Proto) -> bool {
        self.rules
            .iter()
            .filter(|rule| rule.action == Action::Accept)
            .any(|rule| self.may_allow_port(proto, rule.first_port))
            || self
                .rules
                .iter()
                .filter(|rule| rule.action == Action::Reject)
                .filter_map(|rule| rule.last_port.checked_add(1))
                .any(|port| self.may_allow_port(proto, port))
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        debug_assert!(self.rules.len() <= MAX_RULES);
        out.push(self.rules.len() as u8);
        for rule in &self.rules {
            rule.encode(out);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let count = usize::from(reader.u8()?);
        if count > MAX_RULES {
            return None;
        }
        let rules = (0..count)
            .map(|_| Rule::decode(reader))
            .collect::<Option<Vec<_>>>()?;
        Some(Self { rules })
    }
}

/// The rules of [`ExitPolicy::public`], from the same tables as [`is_global`].
pub(super) fn public_rules() -> Vec<Rule> {
    let rule = |action, addr: IpAddr, prefix| {
        Rule::new(action, Protocols::Both, Some(Net { addr, prefix }))
    };
    let mut rules: Vec<Rule> = SMTP_PORTS
        .iter()
        .map(|&port| Rule {
            first_port: port,
            last_port: port,
            ..Rule::new(Action::Reject, Protocols::Both, None)
        })
        .collect();
    let rejected = NOT_GLOBAL_V4
        .iter()
        .map(|&(net, prefix)| (IpAddr::V4(net), prefix));
    let rejected = rejected.chain(NOT_GLOBAL_V6.iter().map(|&(net, p)| (IpAddr::V6(net), p)));
    rules.extend(rejected.map(|(net, prefix)| rule(Action::Reject, net, prefix)));
    rules.push(rule(Action::Accept, Ipv4Addr::UNSPECIFIED.into(), 0));
    rules.push(rule(Action::Accept, NAT64.0.into(), NAT64.1));
    rules.push(rule(
        Action::Accept,
        GLOBAL_UNICAST.0.into(),
        GLOBAL_UNICAST.1,
    ));
    rules
}

#[cfg(test)]
#[path = "policy_tests.rs"]
pub(super) mod tests;
