//! The configuration of a relay: what its descriptor says, where it listens, and its limits.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;

use hushswarm_circuits::keys::{RelayId, Suite};
use hushswarm_circuits::relay_list::{
    DescriptorError, ExitPolicy, LinkService, MAX_ADDRESSES, MAX_DESCRIPTOR_LIFE, RelayInfo, Roles,
};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::dht::{self, RelayDht};
use super::meetings::MeetingLimits;
use super::{ConfigError, Source, at_least_one};
use crate::error::Error;
use crate::onion::OnionKey;

/// The file's name in the state folder.
pub const RELAY_CONFIG_FILE: &str = "relay.toml";
/// Longest configuration of a relay, bytes: 64 policy rules with comments are below 8 KiB.
pub const MAX_RELAY_FILE_LEN: usize = 64 << 10;
/// Life of a new descriptor, days.
pub const DEFAULT_DESCRIPTOR_DAYS: u32 = 180;

/// The port of a relay's onion service. Nobody but its visitors sees it, so it need not be chosen.
pub const LINK_SERVICE_PORT: u16 = 443;

const DAY: u64 = 86_400;
/// 10 MiB/s.
const DEFAULT_BANDWIDTH: u32 = 10 << 10;

/// How a relay runs.
#[derive(Clone, PartialEq, Eq)]
pub struct RelayConfig {
    /// A name for people.
    pub nickname: String,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Where others reach it, when that is not where it listens (behind a NAT, or listening on every address).
    pub addresses: Vec<SocketAddr>,
    /// The onion service at which it takes links too; `hushswarm network relay-keys --onion` makes its key.
    pub onion: Option<OnionKey>,
    /// What it offers, but for lookups in the DHT: see `dht`.
    pub roles: Roles,
    /// What it lets out, if it is an exit.
    pub policy: ExitPolicy,
    /// What it is willing to carry, KiB/s.
    pub bandwidth: u32,
    /// The family of relays it belongs to; empty for none.
    pub family: String,
    /// How long its descriptor lives, days.
    pub days: u32,
    /// What it takes on.
    pub limits: RelayLimits,
    /// How it looks up in the DHT for others, where it does. An exit alone does.
    pub dht: Option<RelayDht>,
    /// How much it introduces, where it has the role for it.
    pub introductions: MeetingLimits,
}

impl std::fmt::Debug for RelayConfig {
    /// The name, never an address.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayConfig")
            .field("nickname", &self.nickname)
            .finish_non_exhaustive()
    }
}

/// What a relay takes on in total. What is beyond is refused, and nobody else gets slower for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayLimits {
    /// Open links. Each costs two tasks and some buffers.
    pub links: NonZeroU32,
    /// Circuits. Each costs its keys and at most its credits in frames.
    pub circuits: NonZeroU32,
    /// Open streams and datagram flows at the exit. Each costs a socket.
    pub streams: NonZeroU32,
    /// Link handshakes begun per second. Each costs about 0.2 ms of processor time.
    pub handshakes_per_second: NonZeroU32,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self {
            links: at_least_one(4096),
            circuits: at_least_one(16_384),
            streams: at_least_one(8192),
            handshakes_per_second: at_least_one(200),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    nickname: String,
    listen: Spanned<Vec<SocketAddr>>,
    #[serde(default)]
    addresses: Vec<SocketAddr>,
    #[serde(default)]
    onion: Option<Spanned<String>>,
    #[serde(default)]
    guard: bool,
    #[serde(default)]
    exit: bool,
    #[serde(default = "yes")]
    serve_list: bool,
    #[serde(default)]
    policy: Vec<Spanned<String>>,
    #[serde(default = "default_bandwidth")]
    bandwidth: u32,
    #[serde(default)]
    family: String,
    #[serde(default = "default_days")]
    days: u32,
    #[serde(default)]
    limits: RelayLimits,
    #[serde(default)]
    dht: Option<Spanned<dht::Read>>,
    #[serde(default)]
    introduce: bool,
    #[serde(default)]
    introductions: Option<MeetingLimits>,
}

#[derive(Serialize)]
struct Written<'a> {
    nickname: &'a str,
    listen: &'a [SocketAddr],
    addresses: &'a [SocketAddr],
    #[serde(skip_serializing_if = "Option::is_none")]
    onion: Option<String>,
    guard: bool,
    exit: bool,
    serve_list: bool,
    introduce: bool,
    policy: Vec<String>,
    bandwidth: u32,
    family: &'a str,
    days: u32,
    limits: RelayLimits,
    #[serde(skip_serializing_if = "Option::is_none")]
    dht: Option<dht::Written>,
    #[serde(skip_serializing_if = "Option::is_none")]
    introductions: Option<MeetingLimits>,
}

fn yes() -> bool {
    true
}

fn default_bandwidth() -> u32 {
    DEFAULT_BANDWIDTH
}

fn default_days() -> u32 {
    DEFAULT_DESCRIPTOR_DAYS
}

impl RelayConfig {
    /// A relay that carries traffic between relays and serves the list, and lets nothing out.
    pub fn new(nickname: String, listen: Vec<SocketAddr>) -> Self {
        Self {
            nickname,
            listen,
            addresses: Vec::new(),
            onion: None,
            roles: Roles {
                guard: false,
                exit: false,
                list: true,
                dht: false,
                introduce: false,
            },
            policy: ExitPolicy::reject_all(),
            bandwidth: DEFAULT_BANDWIDTH,
            family: String::new(),
            days: DEFAULT_DESCRIPTOR_DAYS,
            limits: RelayLimits::default(),
            dht: None,
            introductions: MeetingLimits::default(),
        }
    }

    /// Reads the text of a relay's configuration; `path` is for errors.
    ///
    /// # Errors
    /// An entry is wrong: the error says which line.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let source = Source { path, text };
        let read: Read = source.parse()?;
        if !(1..=MAX_ADDRESSES).contains(&read.listen.get_ref().len()) {
            let what = format!("a relay listens on 1 to {MAX_ADDRESSES} addresses");
            return Err(source.error_at(&read.listen, what));
        }
        let onion = read.onion.as_ref().map(|name| {
            OnionKey::parse(name.get_ref()).ok_or_else(|| {
                let what = "an onion service has 56 letters and digits and \".onion\": \"hushswarm network relay-keys --onion\" writes it";
                source.error_at(name, what.to_owned())
            })
        });
        let onion = onion.transpose()?;
        // Each rule alone first, to name its line.
        for rule in &read.policy {
            ExitPolicy::from_texts(&[rule.get_ref()])
                .map_err(|error| source.error_at(rule, error.to_string()))?;
        }
        let rules: Vec<&str> = read
            .policy
            .iter()
            .map(|rule| rule.get_ref().as_str())
            .collect();
        let policy =
            ExitPolicy::from_texts(&rules).map_err(|error| source.error(error.to_string()))?;
        let dht = match read.dht {
            Some(section) if !read.exit => {
                let what = "only an exit looks up in the DHT: exit = true, or no section [dht]";
                return Err(source.error_at(&section, what));
            }
            Some(section) => Some(RelayDht::read(&source, section.into_inner())?),
            None => None,
        };
        Ok(Self {
            nickname: read.nickname,
            listen: read.listen.into_inner(),
            addresses: read.addresses,
            onion,
            roles: Roles {
                guard: read.guard,
                exit: read.exit,
                list: read.serve_list,
                dht: dht.is_some(),
                introduce: read.introduce,
            },
            policy,
            bandwidth: read.bandwidth,
            family: read.family,
            days: read.days,
            limits: read.limits,
            dht,
            introductions: read.introductions.unwrap_or_default(),
        })
    }

    /// The file's text.
    ///
    /// # Errors
    /// Never with the values that [`RelayConfig::parse`] gives: a mistake in hushswarm.
    pub fn to_toml(&self) -> Result<String, Error> {
        let written = Written {
            nickname: &self.nickname,
            listen: &self.listen,
            addresses: &self.addresses,
            onion: self.onion.map(|key| key.address()),
            guard: self.roles.guard,
            exit: self.roles.exit,
            serve_list: self.roles.list,
            introduce: self.roles.introduce,
            policy: self.policy.to_texts(),
            bandwidth: self.bandwidth,
            family: &self.family,
            days: self.days,
            limits: self.limits,
            dht: self.dht.as_ref().map(RelayDht::written),
            introductions: (self.roles.introduce || self.introductions != MeetingLimits::default())
                .then_some(self.introductions),
        };
        toml::to_string(&written).map_err(|error| {
            Error::new(
                crate::error::Kind::Bug,
                "can't write the relay's configuration",
            )
            .with_source(error)
        })
    }

    /// What the configuration says about the relay with these public keys, from `now` on (seconds since 1970).
    ///
    /// # Errors
    /// The descriptor would live for less than a day or more than 400: tell the operator.
    pub fn info(
        &self,
        identity: RelayId,
        onion: [u8; 32],
        link: [u8; 32],
        now: u64,
    ) -> Result<RelayInfo, DescriptorError> {
        let life = u64::from(self.days).saturating_mul(DAY);
        if !(DAY..=MAX_DESCRIPTOR_LIFE).contains(&life) {
            return Err(DescriptorError::Times);
        }
        let addresses = if self.addresses.is_empty() {
            &self.listen
        } else {
            &self.addresses
        };
        Ok(RelayInfo {
            identity,
            onion,
            link,
            suite: Suite::preferred(),
            roles: Roles {
                dht: self.roles.exit && self.dht.is_some(),
                ..self.roles
            },
            bandwidth: self.bandwidth,
            nickname: self.nickname.clone(),
            family: self.family.clone(),
            addresses: addresses.clone(),
            link_service: self.onion.map(|key| LinkService {
                key: key.0,
                port: LINK_SERVICE_PORT,
            }),
            policy: if self.roles.exit {
                self.policy.clone()
            } else {
                ExitPolicy::reject_all()
            },
            published: now,
            expires: now.saturating_add(life),
        })
    }
}
