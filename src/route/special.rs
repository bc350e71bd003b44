//! Which hosts are somewhere in the world, and which mean something only here: the rules that no file can change.
//!
//! An address that is not public means one computer here and another at the exit, so a program that asks for it through
//! a circuit is either mistaken or led by somebody who wants to know what stands next to the exit, or next to us.
//! Names are judged without looking them up, since only the exit does that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hushswarm_circuits::relay_list::is_global;
use hushswarm_circuits::target::{Host, Target};

/// Zones whose names mean something only in one's own network: localhost (RFC 6761), local (RFC 6762, whose appendix G
/// lists the others that people use), internal (reserved by ICANN in 2024), and what routers hand out. `home.arpa`
/// (RFC 8375) is below [`NOWHERE_ZONES`]' `arpa`, and comes first. Not among them are `test`, `example` and `invalid`:
/// RFC 6761 has applications treat them as any other name, and the DNS at the exit says that there is no such host.
const LOCAL_ZONES: [&str; 11] = [
    "localhost",
    "localdomain",
    "local",
    "internal",
    "intranet",
    "private",
    "corp",
    "home",
    "lan",
    "home.arpa",
    "fritz.box",
];

/// Zones below which the DNS has no host: other networks' names (RFC 9476 for all of `alt`), which no resolver at an exit
/// should learn, and the DNS's own machinery.
const NOWHERE_ZONES: [&str; 5] = ["alt", "i2p", "bit", "exit", "arpa"];

/// Names for Tor's onion services (RFC 7686).
const ONION_ZONE: &str = "onion";

/// Names for hidden seeds, which mean something to this program alone ([`crate::hush`]).
const HIDDEN_ZONE: &str = "hush.alt";

/// Where a host is, as far as anybody can tell without looking it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Somewhere in the world: a public address, or a name for the exit to resolve.
    World,
    /// An onion service: Tor alone knows where.
    Onion,
    /// A hidden seed: whoever knows it meets it at a relay. No circuit leads to its name.
    Hidden,
    /// An address of a private network, of this computer itself, or from the ranges for documents and measurements.
    PrivateAddress,
    /// A name that means something only in some network of one's own.
    LocalName,
    /// Link-local, multicast, broadcast, unspecified, reserved, or wrapping an address that is not public: never sent.
    NoAddress,
    /// A name that stands for no host anywhere in the DNS: never sent.
    NoName,
    /// An address that is spelled so that it looks like a name: never sent.
    Disguised,
}

impl Place {
    /// Whether this is an onion service.
    pub fn is_onion(target: &Target) -> bool {
        Self::of(&target.host) == Self::Onion
    }

    /// Whether this is a peer of a hidden swarm: an onion service or a hidden seed.
    pub fn is_concealed(target: &Target) -> bool {
        matches!(Self::of(&target.host), Self::Onion | Self::Hidden)
    }

    /// Where this host is.
    pub fn of(host: &Host) -> Self {
        match host {
            Host::Ip(ip) => of_address(*ip),
            Host::Name(name) => of_name(name.as_str()),
        }
    }

    /// Whether a circuit may ever lead there. `allow_private` is for a network of one's own, on computers of one's own.
    pub fn may_be_sent(self, allow_private: bool) -> bool {
        match self {
            Self::World => true,
            Self::PrivateAddress | Self::LocalName => allow_private,
            Self::Onion | Self::Hidden | Self::NoAddress | Self::NoName | Self::Disguised => false,
        }
    }
}

fn of_address(ip: IpAddr) -> Place {
    let ip = ip.to_canonical();
    if is_global(ip) {
        return Place::World;
    }
    let private = match ip {
        IpAddr::V4(ip) => is_private_v4(ip),
        IpAddr::V6(ip) => is_private_v6(ip),
    };
    if private {
        Place::PrivateAddress
    } else {
        Place::NoAddress
    }
}

/// Of the addresses that are not public, those that a network of one's own may have.
fn is_private_v4(ip: Ipv4Addr) -> bool {
    let [a, ..] = ip.octets();
    !(a == 0 || a >= 224 || ip.is_link_local())
}

/// As [`is_private_v4`]: loopback, unique local (fc00::/7), documentation (2001:db8::/32, 3fff::/20), benchmarking
/// (2001:2::/48). What wraps an IPv4 address is not among them.
fn is_private_v6(ip: Ipv6Addr) -> bool {
    let [a, b, c, ..] = ip.segments();
    ip.is_loopback()
        || a & 0xfe00 == 0xfc00
        || (a == 0x2001 && (b == 0xdb8 || (b == 2 && c == 0)))
        || (a == 0x3fff && b < 0x1000)
}

fn of_name(name: &str) -> Place {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let is_in = |zone: &str| {
        name.strip_suffix(zone)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    // Before anything else: whatever is odd about such a name, no resolver may learn it.
    if is_in(ONION_ZONE) {
        return Place::Onion;
    }
    if is_in(HIDDEN_ZONE) {
        return Place::Hidden;
    }
    if let Ok(ip) = name.parse::<IpAddr>() {
        return if of_address(ip) == Place::World {
            Place::World
        } else {
            Place::Disguised
        };
    }
    if name.split('.').any(str::is_empty) {
        return Place::NoName;
    }
    if ends_in_a_number(&name) {
        return Place::Disguised;
    }
    if !name.contains('.') || LOCAL_ZONES.into_iter().any(is_in) {
        return if NOWHERE_ZONES.contains(&name.as_str()) {
            Place::NoName
        } else {
            Place::LocalName
        };
    }
    if NOWHERE_ZONES.into_iter().any(is_in) {
        return Place::NoName;
    }
    Place::World
}

/// Whether resolvers may read this as an IPv4 address (the URL standard's "ends in a number": `127.1`, `0x7f.1`,
/// `2130706433`, `0177.0.0.01`). No top-level domain is a number.
fn ends_in_a_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    let digits = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    let hex = last
        .strip_prefix("0x")
        .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    digits || hex
}
