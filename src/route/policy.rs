//! The routing policy: for every target, which way it goes, or why it goes none. Pure: nothing is looked up or sent.
//!
//! First come the rules that no file can change ([`super::special`]), then the user's rules in order, then the ports
//! that are refused unless a rule says otherwise, then the default. No rule can name a way around circuits and Tor.

use std::net::IpAddr;

use hushswarm_circuits::relay_list::{Proto, Protocols, embedded_v4};
use hushswarm_circuits::target::{Host, HostName, Target};

use super::special::Place;
use crate::config::{HostPattern, RouteAction, RouteRule, Routes};

/// Why our own rules refuse a target. `Display` is a sentence for the user; it never names the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// Nothing is at port 0.
    #[error("port 0 is no port that anything can be reached at")]
    PortZero,
    /// A private, loopback or documentation address.
    #[error(
        "a private or loopback address is another computer here than at the exit, so it is not sent through a circuit"
    )]
    PrivateAddress,
    /// Link-local, multicast, broadcast and the like.
    #[error(
        "link-local, multicast, broadcast and reserved addresses can't be reached through a circuit"
    )]
    NoAddress,
    /// A name that only a network of one's own knows.
    #[error(
        "a name like this means something only in a network of your own, so it is not sent to an exit"
    )]
    LocalName,
    /// A name that is nowhere in the DNS.
    #[error("there is no host by such a name in the DNS, so it is not sent to an exit")]
    NoName,
    /// An address that looks like a name.
    #[error("that is an address spelled so that it looks like a name")]
    Disguised,
    /// It goes to Tor, which this program was built without.
    #[error(
        "this goes to Tor alone, and this program was built without Tor (the cargo feature \"tor\")"
    )]
    NoTor,
    /// It goes to Tor, which carries byte streams only.
    #[error("this goes to Tor alone, and Tor carries no UDP")]
    TorHasNoUdp,
    /// The torrent has hidden peers alone.
    #[error("only hidden peers are to hear of this torrent")]
    Public,
    /// A hidden seed that lets in only those whose keys it knows, and we have none for it.
    #[error(
        "this hidden seed lets in only those whose keys it knows, and there is none for it here"
    )]
    KeyNeeded,
    /// A rule of the user's.
    #[error("the rule in line {line} of your routes file refuses it")]
    Rule {
        /// Where the rule begins, from 1.
        line: usize,
    },
    /// A port that is refused unless a rule says otherwise.
    #[error(
        "its port is among refuse_ports: mail, Windows file sharing, or what your routes file says"
    )]
    Port,
    /// No rule matches, and the user's default is to refuse.
    #[error("no rule of your routes file allows it, and its default is \"refuse\"")]
    Default,
}

impl Reason {
    /// What the user can do, where there is something.
    pub fn hint(self) -> Option<&'static str> {
        match self {
            Self::PrivateAddress | Self::LocalName => Some(
                "in a network of your own, on computers of your own, --allow-private lets it through",
            ),
            Self::NoTor => Some("nothing was sent; build it with the feature \"tor\""),
            Self::TorHasNoUdp => Some("nothing was sent"),
            Self::Rule { .. } | Self::Default => {
                Some("change ~/.config/hushswarm/routes.toml, and send SIGHUP or start again")
            }
            Self::Port => Some(
                "a rule with this port and action = \"circuit\" in ~/.config/hushswarm/routes.toml lets it through, where an exit does",
            ),
            Self::KeyNeeded => Some(
                "\"hushswarm visitor-key\" with the link prints one: send it to whoever shares this",
            ),
            Self::PortZero | Self::NoAddress | Self::NoName | Self::Disguised | Self::Public => {
                None
            }
        }
    }
}

/// Where a target goes. There is no third way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Through a circuit.
    Circuit {
        /// So many relays; `None` is as many as the command was told.
        hops: Option<u8>,
    },
    /// Through Tor.
    Tor,
    /// Nowhere: nothing is sent.
    Refuse(Reason),
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decider {
    /// A rule that no file can change.
    BuiltIn,
    /// The rule that begins in this line of the routes file.
    Rule {
        /// From 1.
        line: usize,
    },
    /// The list of refused ports.
    RefusePorts,
    /// The default.
    Default,
}

/// The rules in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    routes: Routes,
    allow_private: bool,
}

impl Policy {
    /// The user's rules below the built-in ones.
    pub fn new(routes: Routes) -> Self {
        Self {
            routes,
            allow_private: false,
        }
    }

    /// Lets private and loopback addresses and local names through: for a network of one's own, on computers of one's
    /// own. With relays of strangers, whoever is at the exit learns such addresses and names, and answers for them.
    /// Link-local, multicast and unspecified addresses stay refused.
    #[must_use]
    pub fn with_private(mut self, allow_private: bool) -> Self {
        self.allow_private = allow_private;
        self
    }

    /// What happens to what no rule names.
    pub fn default_action(&self) -> RouteAction {
        self.routes.default
    }

    /// Whether everything that goes out goes by Tor, which carries no datagram.
    pub fn has_only_streams(&self) -> bool {
        let by_circuit = |rule: &RouteRule| {
            rule.protocols.covers(Proto::Udp) && matches!(rule.action, RouteAction::Circuit { .. })
        };
        self.routes.default == RouteAction::Tor && !self.routes.rules.iter().any(by_circuit)
    }

    /// Whether private addresses are let through.
    pub fn allows_private(&self) -> bool {
        self.allow_private
    }

    /// How many rules of the user's there are.
    pub fn rules(&self) -> usize {
        self.routes.rules.len()
    }

    /// Whether some rule uses circuits of a single relay, which then knows both ends.
    pub fn has_single_hops(&self) -> bool {
        let single = RouteAction::Circuit { hops: Some(1) };
        self.routes.rules.iter().any(|rule| rule.action == single)
    }

    /// Where a stream or datagram goes.
    pub fn decide(&self, proto: Proto, target: &Target) -> Verdict {
        self.explain(proto, target).0
    }

    /// Where a stream or datagram goes, and what decided.
    pub fn explain(&self, proto: Proto, target: &Target) -> (Verdict, Decider) {
        if target.port == 0 {
            return (Verdict::Refuse(Reason::PortZero), Decider::BuiltIn);
        }
        self.judge(&target.host, Some((proto, target.port)))
    }

    /// Where the question for a name's addresses goes. Rules for some ports or for one protocol don't count: nobody
    /// knows yet what the addresses are for.
    pub fn decide_name(&self, name: &HostName) -> Verdict {
        self.judge(&Host::Name(name.clone()), None).0
    }

    /// Where the question for an address's name goes. As [`Policy::decide_name`].
    pub fn decide_address(&self, ip: IpAddr) -> Verdict {
        self.judge(&Host::Ip(ip), None).0
    }

    /// Where a lookup goes that somebody far away makes by datagrams, to whoever is to be asked: what no rule for some hosts or
    /// ports decides. A rule that lets datagrams out to some hosts alone lets no lookup out.
    pub fn decide_datagrams_to_anybody(&self) -> Verdict {
        match self.anybody(Proto::Udp) {
            Verdict::Tor => Verdict::Refuse(Reason::TorHasNoUdp),
            verdict @ (Verdict::Circuit { .. } | Verdict::Refuse(_)) => verdict,
        }
    }

    /// Where a meeting with somebody at a relay goes, who is no host: what holds for streams where no rule for some hosts or
    /// ports decides.
    pub fn decide_meeting(&self) -> Verdict {
        self.anybody(Proto::Tcp)
    }

    /// What the first rule says that is for all hosts and ports, or else the default.
    fn anybody(&self, proto: Proto) -> Verdict {
        let rule = self.routes.rules.iter().find(|rule| {
            rule.ports.is_empty()
                && rule.protocols.covers(proto)
                && rule.hosts.contains(&HostPattern::Any)
        });
        match rule.map_or(self.routes.default, |rule| rule.action) {
            RouteAction::Circuit { hops } => Verdict::Circuit { hops },
            RouteAction::Tor => Verdict::Tor,
            RouteAction::Refuse => Verdict::Refuse(match rule {
                Some(rule) => Reason::Rule { line: rule.line },
                None => Reason::Default,
            }),
        }
    }

    /// Whether an address that an exit gives as an answer may be told to a program here: one that is not public would
    /// lead a program that does not ask us again into the user's own network.
    pub fn may_be_answer(&self, ip: IpAddr) -> bool {
        Place::of(&Host::Ip(ip)).may_be_sent(self.allow_private)
    }

    fn judge(&self, host: &Host, to: Option<(Proto, u16)>) -> (Verdict, Decider) {
        let place = Place::of(host);
        if let Some(reason) = self.built_in(place) {
            return (Verdict::Refuse(reason), Decider::BuiltIn);
        }
        let (action, decider) = self.by_rules(host, to);
        // An address that wraps another may end up there: what is refused there is refused here.
        let (action, decider) = match wrapped(host).map(|inner| self.by_rules(&inner, to)) {
            Some((RouteAction::Refuse, by)) => (RouteAction::Refuse, by),
            Some(_) | None => (action, decider),
        };
        let verdict = match (action, place, to) {
            (RouteAction::Refuse, _, _) => Verdict::Refuse(match decider {
                Decider::Rule { line } => Reason::Rule { line },
                Decider::RefusePorts => Reason::Port,
                Decider::Default | Decider::BuiltIn => Reason::Default,
            }),
            (_, Place::Onion, Some((Proto::Udp, _)))
            | (RouteAction::Tor, _, Some((Proto::Udp, _))) => Verdict::Refuse(Reason::TorHasNoUdp),
            (_, Place::Onion, _) => return (Verdict::Tor, Decider::BuiltIn),
            (RouteAction::Tor, _, _) => Verdict::Tor,
            (RouteAction::Circuit { hops }, _, _) => Verdict::Circuit { hops },
        };
        (verdict, decider)
    }

    fn built_in(&self, place: Place) -> Option<Reason> {
        let reason = match place {
            Place::World | Place::Onion => return None,
            Place::PrivateAddress => Reason::PrivateAddress,
            Place::LocalName => Reason::LocalName,
            Place::NoAddress => Reason::NoAddress,
            // Who knows such a seed takes its name before this.
            Place::Hidden | Place::NoName => Reason::NoName,
            Place::Disguised => Reason::Disguised,
        };
        (!place.may_be_sent(self.allow_private)).then_some(reason)
    }

    fn by_rules(&self, host: &Host, to: Option<(Proto, u16)>) -> (RouteAction, Decider) {
        let host = Seen::new(host);
        if let Some(rule) = self
            .routes
            .rules
            .iter()
            .find(|rule| matches(rule, &host, to))
        {
            return (rule.action, Decider::Rule { line: rule.line });
        }
        let refused = |port| {
            self.routes
                .refuse_ports
                .iter()
                .any(|range| range.contains(&port))
        };
        match to {
            Some((_, port)) if refused(port) => (RouteAction::Refuse, Decider::RefusePorts),
            Some(_) | None => (self.routes.default, Decider::Default),
        }
    }
}

/// A host as rules compare it.
enum Seen {
    Ip(IpAddr),
    Name(String),
}

impl Seen {
    fn new(host: &Host) -> Self {
        match host {
            Host::Ip(ip) => Self::Ip(ip.to_canonical()),
            Host::Name(name) => {
                let name = name.as_str().trim_end_matches('.').to_ascii_lowercase();
                match name.parse::<IpAddr>() {
                    Ok(ip) => Self::Ip(ip.to_canonical()),
                    Err(_) => Self::Name(name),
                }
            }
        }
    }

    fn fits(&self, pattern: &HostPattern) -> bool {
        match (pattern, self) {
            (HostPattern::Any, _) => true,
            (HostPattern::Name(name), Self::Name(seen)) => name == seen,
            (HostPattern::Below(zone), Self::Name(seen)) => seen
                .strip_suffix(zone.as_str())
                .is_some_and(|rest| rest.ends_with('.')),
            (HostPattern::Net(net), Self::Ip(ip)) => net.contains(*ip),
            (HostPattern::Name(_) | HostPattern::Below(_), Self::Ip(_))
            | (HostPattern::Net(_), Self::Name(_)) => false,
        }
    }
}

fn matches(rule: &RouteRule, host: &Seen, to: Option<(Proto, u16)>) -> bool {
    let fits = match to {
        Some((proto, port)) => {
            let port =
                rule.ports.is_empty() || rule.ports.iter().any(|range| range.contains(&port));
            port && rule.protocols.covers(proto)
        }
        None => rule.ports.is_empty() && rule.protocols == Protocols::Both,
    };
    fits && rule.hosts.iter().any(|pattern| host.fits(pattern))
}

/// The IPv4 address inside an IPv6 one.
fn wrapped(host: &Host) -> Option<Host> {
    match host {
        Host::Ip(IpAddr::V6(ip)) => embedded_v4(*ip).map(|inner| Host::Ip(inner.into())),
        Host::Ip(IpAddr::V4(_)) | Host::Name(_) => None,
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
