//! Path choice: which relays a circuit goes through, and which guards it may start at.
//!
//! Pure: a list, the guards and a random source go in, relays come out. What always holds: no relay twice, no two
//! relays of one family or one network, the last one's policy accepts the target, the first one is a guard; and where
//! others choose the last one, the middle is one of a few that stay (PROTOCOL.md §7.3).

mod guards;
mod middles;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::seq::IndexedRandom as _;
use rand::{CryptoRng, RngExt as _};

use crate::keys::RelayId;
use crate::relay_list::{Descriptor, Proto, RelayList, mask_v4, mask_v6};
use crate::target::Target;

pub use guards::{
    GUARD_LIFE, Guard, GuardSample, MAX_BACKOFF, NETWORK_LIKELY_DOWN, PRIMARY_GUARDS, SAMPLE_SIZE,
    UNLISTED_LIFE,
};
pub use middles::{
    MAX_MIDDLE_LIFE, MIDDLES, MIN_MIDDLE_LIFE, Middle, MiddleSample, UNLISTED_MIDDLE_LIFE,
};

/// Most hops of a circuit: a cell has three tag slots (PROTOCOL.md §1).
pub const MAX_HOPS: usize = 3;

/// Most bandwidth that counts, KiB/s (1 GiB/s). Bandwidth is the relay's own word, which must not buy every path.
const MAX_WEIGHT: u32 = 1 << 20;

/// What the last hop must offer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ExitNeed {
    /// An exit whose policy accepts this target.
    Target {
        /// Stream or datagrams.
        proto: Proto,
        /// The address; `None` for a name, which only the exit resolves.
        ip: Option<IpAddr>,
        /// The port.
        port: u16,
    },
    /// An exit that accepts datagrams to some port: for a flow whose targets come later.
    Datagrams,
    /// An exit that lets something out, and so looks names up (PROTOCOL.md §5.7).
    Lookup,
    /// An exit that looks up in the DHT for others (PROTOCOL.md §5.8).
    Dht,
    /// A relay that takes introduction and rendezvous streams (PROTOCOL.md §8).
    Introduce,
    /// This relay, which must take such streams.
    IntroduceAt(RelayId),
    /// A relay that serves the relay list.
    List,
    /// Any relay: nothing leaves the network there.
    Any,
}

impl std::fmt::Debug for ExitNeed {
    /// Never the target.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Target {
                proto: Proto::Tcp, ..
            } => "Target(tcp)",
            Self::Target {
                proto: Proto::Udp, ..
            } => "Target(udp)",
            Self::Datagrams => "Datagrams",
            Self::Lookup => "Lookup",
            Self::Dht => "Dht",
            Self::Introduce => "Introduce",
            Self::IntroduceAt(_) => "IntroduceAt",
            Self::List => "List",
            Self::Any => "Any",
        })
    }
}

impl ExitNeed {
    /// An exit for this target.
    pub fn for_target(proto: Proto, target: &Target) -> Self {
        Self::Target {
            proto,
            ip: target.socket_addr().map(|addr| addr.ip()),
            port: target.port,
        }
    }

    /// Whether the path has to go through one of the fixed middles ([`MiddleSample`]): somebody else may choose, time and
    /// again, which relay comes last. Whoever visits a hidden seed names the rendezvous point; whoever is visited has named the
    /// introduction points; and a seed's own circuits to those stand for as long as it does.
    pub fn needs_fixed_middle(self) -> bool {
        match self {
            Self::Introduce | Self::IntroduceAt(_) => true,
            Self::Target { .. }
            | Self::Datagrams
            | Self::Lookup
            | Self::Dht
            | Self::List
            | Self::Any => false,
        }
    }

    /// Whether a relay offers this.
    pub fn is_met_by(self, relay: &Descriptor) -> bool {
        match self {
            Self::Target { proto, ip, port } => {
                relay.roles.exit
                    && match ip {
                        Some(ip) => relay.policy.allows(proto, ip, port),
                        None => relay.policy.may_allow_port(proto, port),
                    }
            }
            Self::Datagrams => relay.roles.exit && relay.policy.may_allow(Proto::Udp),
            Self::Lookup => {
                let lets_out = |proto| relay.policy.may_allow(proto);
                relay.roles.exit && (lets_out(Proto::Tcp) || lets_out(Proto::Udp))
            }
            Self::Dht => relay.roles.dht && relay.roles.exit && relay.policy.may_allow(Proto::Udp),
            Self::Introduce => relay.roles.introduce,
            Self::IntroduceAt(id) => relay.roles.introduce && relay.identity == id,
            Self::List => relay.roles.list,
            Self::Any => true,
        }
    }
}

/// What a path is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathNeeds {
    /// How many relays, 1 to 3. One relay knows both ends: that is no anonymity from it.
    pub hops: usize,
    /// What the last hop must offer.
    pub exit: ExitNeed,
    /// Relays that must not be in it: such as have just failed.
    pub avoid: Vec<RelayId>,
    /// Relays that must not come last, for example exits that have just refused. They may come first: who could put a guard on this
    /// list would choose the guard.
    pub not_last: Vec<RelayId>,
    /// The only relays that may be the second of three; `None`: any. With them a path has three hops or is refused.
    pub middles: Option<Vec<RelayId>>,
}

/// How far apart two relays of a path must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathRules {
    /// No two relays share this many leading bits of an IPv4 address. 0 turns the rule off, which is for networks
    /// on one machine only.
    pub ipv4_prefix: u8,
    /// The same for IPv6.
    pub ipv6_prefix: u8,
}

impl Default for PathRules {
    /// /16 and /32: usually one provider each.
    fn default() -> Self {
        Self {
            ipv4_prefix: 16,
            ipv6_prefix: 32,
        }
    }
}

impl PathRules {
    /// Whether both relays may be in one path.
    pub fn are_apart(&self, a: &Descriptor, b: &Descriptor) -> bool {
        let same_family = !a.family.is_empty() && a.family == b.family;
        let same_net = || {
            a.addresses
                .iter()
                .any(|a| b.addresses.iter().any(|b| self.share_a_network(*a, *b)))
        };
        a.identity != b.identity && !same_family && !same_net()
    }

    fn share_a_network(&self, a: SocketAddr, b: SocketAddr) -> bool {
        match (a.ip(), b.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                self.ipv4_prefix != 0
                    && (a.to_bits() ^ b.to_bits()) & mask_v4(self.ipv4_prefix) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                self.ipv6_prefix != 0
                    && (a.to_bits() ^ b.to_bits()) & mask_v6(self.ipv6_prefix) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// Why there is no path. Nothing is sent any other way: tell the user, with the hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// Not a number of hops.
    #[error("a circuit has 1 to {MAX_HOPS} hops, not {0}")]
    Hops(usize),
    /// No relay can be the last one.
    #[error("no relay in the list can be the last hop for this")]
    NoExit,
    /// No usable guard.
    #[error("no guard can be used now")]
    NoGuard,
    /// Each usable guard is too close to every possible last hop.
    #[error("every usable guard is in one family or network with every possible last hop")]
    GuardTooClose,
    /// No third relay is far enough from the others.
    #[error("no relay in the list is far enough from both ends to be the middle hop")]
    NoMiddle,
    /// None of the fixed middles is far enough from the others, or all are to be avoided.
    #[error("none of the fixed middle relays can come before this last hop")]
    NoFixedMiddle,
    /// Too few hops for what others may send us to.
    #[error("a circuit to an introduction or rendezvous point has {MAX_HOPS} hops, not {0}")]
    NoRoomForMiddle(usize),
}

impl PathError {
    /// What the user can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Hops(_) => "choose 1, 2 or 3 hops",
            Self::NoExit => {
                "see what the exits accept with \"hushswarm network show FILE\"; a target that none accepts can't be reached"
            }
            Self::NoGuard => {
                "guards that failed are tried again within the hour; is this computer online, and is the relay list new?"
            }
            Self::NoFixedMiddle => {
                "try again in a minute, or at another relay; the fixed middle relays stay, since new ones are what an attacker waits for"
            }
            Self::NoRoomForMiddle(_) => {
                "choose 3 hops: others choose the last relay there, and with fewer it would be next to the guard or to this computer"
            }
            Self::GuardTooClose | Self::NoMiddle => {
                "the network needs more relays in other families and networks (on one machine: set ipv4_prefix = 0 in the network file), or use fewer hops"
            }
        }
    }
}

/// Chooses the relays of a circuit, first hop first.
///
/// `guards` are usable now, in order of preference ([`GuardSample::usable`]). The first guard that has any path at
/// all is taken, whatever the exit: a guard that changed with the target would be no guard. Exit and middle are
/// drawn by bandwidth; fixed middles evenly, as they were drawn by bandwidth before.
///
/// # Errors
/// There is no such path: tell the user which need failed, with the hint.
pub fn choose(
    list: &RelayList,
    guards: &[RelayId],
    needs: &PathNeeds,
    rules: &PathRules,
    rng: &mut dyn CryptoRng,
) -> Result<Vec<Arc<Descriptor>>, PathError> {
    if !(1..=MAX_HOPS).contains(&needs.hops) {
        return Err(PathError::Hops(needs.hops));
    }
    if needs.middles.is_some() && needs.hops != MAX_HOPS {
        return Err(PathError::NoRoomForMiddle(needs.hops));
    }
    let allowed: Vec<_> = list
        .relays()
        .iter()
        .filter(|relay| !needs.avoid.contains(&relay.identity))
        .collect();
    let exits: Vec<_> = allowed
        .iter()
        .copied()
        .filter(|relay| needs.exit.is_met_by(relay) && !needs.not_last.contains(&relay.identity))
        .collect();
    if needs.hops == 1 {
        let exit = draw(&exits, rng).ok_or(PathError::NoExit)?;
        return Ok(vec![Arc::clone(exit)]);
    }
    if exits.is_empty() {
        return Err(PathError::NoExit);
    }
    let mut failure = PathError::NoGuard;
    let usable = guards.iter().filter(|id| !needs.avoid.contains(id));
    for guard in usable
        .filter_map(|id| list.get(id))
        .filter(|relay| relay.roles.guard)
    {
        let apart = |relay: &&Arc<Descriptor>| rules.are_apart(guard, relay);
        let mut exits: Vec<_> = exits.iter().copied().filter(apart).collect();
        if exits.is_empty() {
            if failure == PathError::NoGuard {
                failure = PathError::GuardTooClose;
            }
            continue;
        }
        if needs.hops == 2 {
            let exit = draw(&exits, rng).ok_or(PathError::NoExit)?;
            return Ok(vec![Arc::clone(guard), Arc::clone(exit)]);
        }
        let is_fixed = |relay: &&Arc<Descriptor>| {
            let fixed = needs.middles.as_ref();
            fixed.is_none_or(|fixed| fixed.contains(&relay.identity))
        };
        let middles: Vec<_> = allowed
            .iter()
            .copied()
            .filter(is_fixed)
            .filter(apart)
            .collect();
        while let Some(exit) = draw(&exits, rng) {
            let middles: Vec<_> = middles
                .iter()
                .copied()
                .filter(|relay| rules.are_apart(exit, relay))
                .collect();
            let middle = match needs.middles {
                Some(_) => middles.choose(rng).copied(),
                None => draw(&middles, rng),
            };
            if let Some(middle) = middle {
                return Ok(vec![
                    Arc::clone(guard),
                    Arc::clone(middle),
                    Arc::clone(exit),
                ]);
            }
            exits.retain(|other| other.identity != exit.identity);
        }
        // The failure that came closest to a path says most.
        failure = match needs.middles {
            Some(_) => PathError::NoFixedMiddle,
            None => PathError::NoMiddle,
        };
    }
    Err(failure)
}

/// A relay's share in a draw. A relay that says 0 can still be drawn: it may be the only one that fits.
fn weight(relay: &Descriptor) -> u64 {
    u64::from(relay.bandwidth.clamp(1, MAX_WEIGHT))
}

/// Draws one relay by bandwidth.
fn draw<'a>(
    relays: &[&'a Arc<Descriptor>],
    rng: &mut dyn CryptoRng,
) -> Option<&'a Arc<Descriptor>> {
    // At most MAX_RELAYS * MAX_WEIGHT = 2^33.
    let total: u64 = relays.iter().map(|relay| weight(relay)).sum();
    if total == 0 {
        return None;
    }
    let mut left = rng.random_range(0..total);
    for relay in relays {
        match left.checked_sub(weight(relay)) {
            Some(rest) => left = rest,
            None => return Some(relay),
        }
    }
    None
}

#[cfg(test)]
mod middle_tests;
#[cfg(test)]
mod tests;
