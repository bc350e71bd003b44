//! The section `[dht]` of a relay's configuration: that it looks up in the DHT for others, from where it begins, and how
//! much of it (PROTOCOL.md §5.8).

use std::num::NonZeroU32;

use hushswarm_circuits::target::Target;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{ConfigError, Source, at_least_one};

/// Most names of nodes to begin from: each is resolved and asked while the relay knows no others.
pub const MAX_BOOTSTRAPS: usize = 16;
/// Nodes that anybody may begin from, run by those who make BitTorrent clients.
pub const USUAL_BOOTSTRAPS: [&str; 4] = [
    "router.bittorrent.com:6881",
    "dht.transmissionbt.com:6881",
    "dht.libtorrent.org:25401",
    "router.utorrent.com:6881",
];

/// How a relay looks up for others.
#[derive(Clone, PartialEq, Eq)]
pub struct RelayDht {
    /// Nodes to begin from, 1 to [`MAX_BOOTSTRAPS`]: hosts, which the relay resolves itself, and ports.
    pub bootstrap: Vec<Target>,
    /// What it takes on.
    pub limits: DhtLimits,
}

/// What of lookups a relay takes on. What is beyond is refused, clearly, and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DhtLimits {
    /// Lookups at once, for everybody. One takes ten to twenty seconds, and some tens of KiB.
    pub lookups: NonZeroU32,
    /// The same, for one circuit. An honest origin has one circuit for each thing that it looks up, and asks for both families.
    pub lookups_per_circuit: NonZeroU32,
    /// The same, on one link that is not a listed relay's.
    pub lookups_per_client: NonZeroU32,
    /// Lookups begun per second, for everybody: as many as the queries below are enough for, at 40 each.
    pub lookups_per_second: NonZeroU32,
    /// The same, for one circuit.
    pub lookups_per_second_per_circuit: NonZeroU32,
    /// The same, on one link that is not a listed relay's.
    pub lookups_per_second_per_client: NonZeroU32,
    /// Queries per second to all nodes: about 45 KB a second go out, and 150 come in. Fewer leave while most stay unanswered.
    pub queries_per_second: NonZeroU32,
    /// Queries per second to one address. Nodes of libtorrent block who asks more than five, and a flood that somebody would
    /// have us send to an address that is no node is no flood then.
    pub queries_per_second_per_node: NonZeroU32,
}

impl Default for DhtLimits {
    fn default() -> Self {
        Self {
            lookups: at_least_one(256),
            lookups_per_circuit: at_least_one(4),
            lookups_per_client: at_least_one(32),
            lookups_per_second: at_least_one(10),
            lookups_per_second_per_circuit: at_least_one(2),
            lookups_per_second_per_client: at_least_one(4),
            queries_per_second: at_least_one(400),
            queries_per_second_per_node: at_least_one(4),
        }
    }
}

/// The section as it is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Read {
    #[serde(default)]
    bootstrap: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    limits: DhtLimits,
}

/// The section as it is written.
#[derive(Serialize)]
pub(super) struct Written {
    bootstrap: Vec<String>,
    limits: DhtLimits,
}

impl Default for RelayDht {
    fn default() -> Self {
        Self {
            // All of them can be read: a test says so.
            bootstrap: USUAL_BOOTSTRAPS
                .iter()
                .filter_map(|text| bootstrap(text))
                .collect(),
            limits: DhtLimits::default(),
        }
    }
}

impl std::fmt::Debug for RelayDht {
    /// Limits, never hosts.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayDht")
            .field("bootstrap", &self.bootstrap.len())
            .field("limits", &self.limits)
            .finish()
    }
}

/// Reads `host:port`; a host may be a name, an IPv4 address, or an IPv6 address in brackets.
pub fn bootstrap(text: &str) -> Option<Target> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.contains(':') != bracketed {
        return None;
    }
    Target::parse(host, port).ok()
}

/// `host:port`, as [`bootstrap`] reads it.
fn as_text(target: &Target) -> String {
    use hushswarm_circuits::target::Host;
    match (&target.host, target.socket_addr()) {
        (_, Some(addr)) => addr.to_string(),
        (Host::Name(name), None) => format!("{}:{}", name.as_str(), target.port),
        (Host::Ip(ip), None) => format!("{ip}:{}", target.port),
    }
}

impl RelayDht {
    pub(super) fn read(source: &Source<'_>, read: Read) -> Result<Self, ConfigError> {
        let limits = read.limits;
        let Some(texts) = read.bootstrap else {
            return Ok(Self {
                limits,
                ..Self::default()
            });
        };
        if !(1..=MAX_BOOTSTRAPS).contains(&texts.len()) {
            let what = format!("a relay begins its lookups from 1 to {MAX_BOOTSTRAPS} nodes");
            return Err(source.error(what));
        }
        let parse = |text: &Spanned<String>| {
            let what = "a node to begin from is written as \"host:port\", with an IPv6 address in brackets";
            bootstrap(text.get_ref()).ok_or_else(|| source.error_at(text, what))
        };
        Ok(Self {
            bootstrap: texts.iter().map(parse).collect::<Result<_, _>>()?,
            limits,
        })
    }

    pub(super) fn written(&self) -> Written {
        Written {
            bootstrap: self.bootstrap.iter().map(as_text).collect(),
            limits: self.limits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_nodes_can_be_read() {
        let usual = RelayDht::default().written().bootstrap;
        assert_eq!(usual, USUAL_BOOTSTRAPS);
    }

    #[test]
    fn nodes_are_read_as_they_are_written() {
        for text in ["a.example:6881", "192.0.2.1:1", "[2001:db8::1]:65535"] {
            assert_eq!(
                bootstrap(text).map(|node| as_text(&node)),
                Some(text.into())
            );
        }
        for text in [
            "a.example",
            "a.example:0",
            "a.example:65536",
            ":1",
            "2001:db8::1",
            "2001:db8::1:6881",
            "a b:1",
            "",
        ] {
            assert_eq!(bootstrap(text), None, "{text}");
        }
    }
}
