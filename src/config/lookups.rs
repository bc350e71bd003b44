//! How peers are looked for in the DHT, as the routes file says it: `[dht]`.

use std::num::NonZeroU32;

use hushswarm_circuits::target::Target;
use serde::Deserialize;
use toml::Spanned;

use super::dht::{MAX_BOOTSTRAPS, bootstrap};
use super::{ConfigError, Source, at_least_one};

/// Most lookups at once. Each holds a circuit.
const MAX_AT_ONCE: u32 = 256;
/// Most that may wait. Each takes some 300 bytes.
const MAX_WAITING: u32 = 1_000_000;

/// What this user's lookups may do, all together.
#[derive(Clone, PartialEq, Eq)]
pub struct LookupLimits {
    /// Lookups that run at once; each has a circuit of its own.
    pub at_once: NonZeroU32,
    /// Lookups begun in a minute.
    pub per_minute: NonZeroU32,
    /// Queries sent in a second, where lookups run over datagrams. The exit's lookup service has limits of its own.
    pub queries_per_second: NonZeroU32,
    /// Lookups that wait their turn, at most.
    pub waiting: NonZeroU32,
}

impl Default for LookupLimits {
    fn default() -> Self {
        Self {
            // As many circuits as a busy swarm and its trackers have.
            at_once: at_least_one(8),
            // Ten thousand torrents are through in less than three hours, and no exit sees a flood.
            per_minute: at_least_one(60),
            // A lookup sends a hundred in a few seconds.
            queries_per_second: at_least_one(100),
            waiting: at_least_one(20_000),
        }
    }
}

/// The `[dht]` of a routes file.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct LookupConfig {
    /// No lookups.
    pub off: bool,
    /// Nodes at which lookups over datagrams begin; `None`: those of the public DHT.
    pub bootstrap: Option<Vec<Target>>,
    /// Limits.
    pub limits: LookupLimits,
}

impl std::fmt::Debug for LookupConfig {
    /// Whether, and how many; not where.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LookupConfig")
            .field("off", &self.off)
            .field("bootstrap", &self.bootstrap.as_ref().map(Vec::len))
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Read {
    lookups: Option<bool>,
    bootstrap: Option<Spanned<Vec<String>>>,
    at_once: Option<Spanned<NonZeroU32>>,
    per_minute: Option<NonZeroU32>,
    queries_per_second: Option<NonZeroU32>,
    waiting: Option<Spanned<NonZeroU32>>,
}

impl LookupConfig {
    pub(super) fn check(source: &Source<'_>, read: &Read) -> Result<Self, ConfigError> {
        let usual = LookupLimits::default();
        let bounded = |entry: &Option<Spanned<NonZeroU32>>, usual, most: u32| match entry {
            None => Ok(usual),
            Some(entry) if entry.get_ref().get() > most => {
                Err(source.error_at(entry, format!("at most {most}")))
            }
            Some(entry) => Ok(*entry.get_ref()),
        };
        let nodes = read.bootstrap.as_ref().map(|entry| {
            let nodes = entry.get_ref().iter().map(|node| bootstrap(node));
            match nodes.collect::<Option<Vec<_>>>() {
                Some(nodes) if (1..=MAX_BOOTSTRAPS).contains(&nodes.len()) => Ok(nodes),
                Some(_) | None => {
                    let what = format!(
                        "bootstrap is a list of 1 to {MAX_BOOTSTRAPS} nodes as \"host:port\""
                    );
                    Err(source.error_at(entry, what))
                }
            }
        });
        Ok(Self {
            off: read.lookups == Some(false),
            bootstrap: nodes.transpose()?,
            limits: LookupLimits {
                at_once: bounded(&read.at_once, usual.at_once, MAX_AT_ONCE)?,
                per_minute: read.per_minute.unwrap_or(usual.per_minute),
                queries_per_second: read.queries_per_second.unwrap_or(usual.queries_per_second),
                waiting: bounded(&read.waiting, usual.waiting, MAX_WAITING)?,
            },
        })
    }
}
