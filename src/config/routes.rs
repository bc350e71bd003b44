//! The routes file: which targets go through circuits, and which are refused, as a person writes it. This only reads it
//! and says where an entry is wrong; who applies the rules adds those that no file can change.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use hushswarm_circuits::relay_list::{Net, Protocols};
use hushswarm_circuits::target::HostName;
use serde::Deserialize;
use toml::{Spanned, Value};

use super::lookups::{self, LookupConfig};
use super::{ConfigError, Source, config_folder, read_text};
use crate::error::Error;

/// The file's name in the configuration folder.
pub const ROUTES_FILE: &str = "routes.toml";
/// Longest routes file, bytes: the largest number of rules with comments is below half of it.
pub const MAX_ROUTES_LEN: usize = 256 << 10;
/// Most rules: every stream and every datagram is compared with each of them.
pub const MAX_ROUTE_RULES: usize = 1000;
/// Most hosts and port ranges in all rules together, for the same reason.
pub const MAX_ROUTE_PATTERNS: usize = 4000;
/// Most relays between the user and the world.
const MAX_HOPS: i64 = 3;

/// Ports that are refused where no rule of the user's says otherwise: mail, which exits refuse too, for the spam; and
/// Windows file sharing, by which a web page can make a program send its user's password to a stranger.
pub const USUAL_REFUSED_PORTS: [RangeInclusive<u16>; 5] =
    [25..=25, 135..=139, 445..=445, 465..=465, 587..=587];

/// A file that does what happens without one, and explains every entry.
pub const ROUTES_EXAMPLE: &str = include_str!("routes.example.toml");

/// What a rule does with a match. There is no way around circuits and Tor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteAction {
    /// Nothing is sent.
    Refuse,
    /// Through a circuit of so many relays; `None` is as many as the command was told.
    Circuit {
        /// 1 to 3.
        hops: Option<u8>,
    },
    /// Through Tor.
    Tor,
}

/// How the first relay of a circuit is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum FirstLink {
    /// By a connection of this computer's own.
    #[default]
    Tcp,
    /// Through Tor: at its onion service, or through an exit where it has none.
    Tor,
}

/// A host of a rule. `Debug` hides it: it is what somebody visits.
#[derive(Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// Every host.
    Any,
    /// This name: lower case, without the dot at the end.
    Name(String),
    /// Every name that ends in a dot and this, but not this itself.
    Below(String),
    /// Every address of a network. Names never match: only the exit learns their addresses.
    Net(Net),
}

/// One rule: it matches when one of its hosts, one of its ports and its protocols do.
#[derive(Clone, PartialEq, Eq)]
pub struct RouteRule {
    /// Where it begins in the file, from 1.
    pub line: usize,
    /// Hosts; never empty.
    pub hosts: Vec<HostPattern>,
    /// Ports; empty for every port.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Protocols.
    pub protocols: Protocols,
    /// What happens.
    pub action: RouteAction,
}

/// A routes file, read and checked. The default is what holds without one.
#[derive(Clone, PartialEq, Eq)]
pub struct Routes {
    /// In order: the first match decides.
    pub rules: Vec<RouteRule>,
    /// Ports that are refused where no rule matches.
    pub refuse_ports: Vec<RangeInclusive<u16>>,
    /// What happens to the rest.
    pub default: RouteAction,
    /// How the first relay is reached, where the command line does not say.
    pub first_link: FirstLink,
    /// How peers are looked for in the DHT.
    pub dht: LookupConfig,
}

impl Default for Routes {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            refuse_ports: USUAL_REFUSED_PORTS.to_vec(),
            default: RouteAction::Circuit { hops: None },
            first_link: FirstLink::default(),
            dht: LookupConfig::default(),
        }
    }
}

impl std::fmt::Debug for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[host]")
    }
}

impl std::fmt::Debug for RouteRule {
    /// Where it is and what it does, not what it is about.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouteRule")
            .field("line", &self.line)
            .field("action", &self.action)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Routes {
    /// How many rules, never whom they are about.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Routes")
            .field("rules", &self.rules.len())
            .field("default", &self.default)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    default: Option<Spanned<String>>,
    first_link: Option<Spanned<String>>,
    refuse_ports: Option<Spanned<Value>>,
    dht: Option<lookups::Read>,
    #[serde(default)]
    rule: Vec<Spanned<ReadRule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadRule {
    host: Option<Spanned<Value>>,
    port: Option<Spanned<Value>>,
    proto: Option<Spanned<String>>,
    action: Spanned<String>,
    hops: Option<Spanned<i64>>,
}

impl Routes {
    /// Where the file is unless told otherwise; `None` where the environment names no home.
    pub fn default_path() -> Option<PathBuf> {
        Some(config_folder()?.join(ROUTES_FILE))
    }

    /// Reads `named`, or the file at its usual place where nothing was named; no file there means [`Routes::default`].
    /// Gives the path that was read too.
    ///
    /// # Errors
    /// A file that was named is not there, or an entry is wrong: tell the user; guess nothing.
    pub fn load(named: Option<&Path>) -> Result<(Self, Option<PathBuf>), Error> {
        let path = match named {
            Some(path) => path.to_owned(),
            None => match Self::default_path().filter(|path| path.symlink_metadata().is_ok()) {
                Some(path) => path,
                None => return Ok((Self::default(), None)),
            },
        };
        let text = read_text(&path, MAX_ROUTES_LEN)?;
        let routes = Self::parse(&text, &path)?;
        Ok((routes, Some(path)))
    }

    /// Reads the text of a routes file; `path` is for errors.
    ///
    /// # Errors
    /// An entry is wrong: the error says which line.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let source = Source { path, text };
        let read: Read = source.parse()?;
        let mut routes = Self::default();
        if let Some(default) = &read.default {
            routes.default = action(&source, default, None)?;
        }
        if let Some(way) = &read.first_link {
            routes.first_link = match way.get_ref().as_str() {
                "tcp" => FirstLink::Tcp,
                "tor" => FirstLink::Tor,
                _ => return Err(source.error_at(way, "first_link is \"tcp\" or \"tor\"")),
            };
        }
        if let Some(ports) = &read.refuse_ports {
            routes.refuse_ports = parse_ports(&source, ports)?;
        }
        if let Some(dht) = &read.dht {
            routes.dht = LookupConfig::check(&source, dht)?;
        }
        if let Some(beyond) = read.rule.get(MAX_ROUTE_RULES) {
            let what = format!("more than {MAX_ROUTE_RULES} rules");
            return Err(source.error_at(beyond, what));
        }
        let mut patterns = routes.refuse_ports.len();
        for rule in &read.rule {
            let made = parse_rule(&source, rule)?;
            patterns = patterns
                .saturating_add(made.hosts.len())
                .saturating_add(made.ports.len());
            if patterns > MAX_ROUTE_PATTERNS {
                let what = format!("more than {MAX_ROUTE_PATTERNS} hosts and ports in all rules");
                return Err(source.error_at(rule, what));
            }
            routes.rules.push(made);
        }
        Ok(routes)
    }
}

fn parse_rule(source: &Source<'_>, spanned: &Spanned<ReadRule>) -> Result<RouteRule, ConfigError> {
    let rule = spanned.get_ref();
    if rule.host.is_none() && rule.port.is_none() && rule.proto.is_none() {
        let what = "a rule needs a host, a port or a proto; for all the rest there is \"default\"";
        return Err(source.error_at(spanned, what));
    }
    let action = action(source, &rule.action, rule.hops.as_ref())?;
    let hosts = match &rule.host {
        None => vec![HostPattern::Any],
        Some(entry) => {
            let texts = texts(entry.get_ref()).filter(|texts| !texts.is_empty());
            let texts = texts
                .ok_or_else(|| source.error_at(entry, "host is a text, or a list of texts"))?;
            let hosts = texts.into_iter().map(parse_host);
            hosts
                .collect::<Result<Vec<_>, _>>()
                .map_err(|what| source.error_at(entry, what))?
        }
    };
    let circuit = matches!(action, RouteAction::Circuit { .. });
    if let Some(entry) = rule.host.as_ref().filter(|_| circuit) {
        let onion = |host: &HostPattern| match host {
            HostPattern::Name(name) | HostPattern::Below(name) => {
                name == "onion" || name.ends_with(".onion")
            }
            HostPattern::Any | HostPattern::Net(_) => false,
        };
        if hosts.iter().any(onion) {
            let what = "names that end in .onion never go through circuits: \"tor\" or \"refuse\"";
            return Err(source.error_at(entry, what));
        }
    }
    let ports = match &rule.port {
        None => Vec::new(),
        Some(entry) => {
            let ports = parse_ports(source, entry)?;
            if ports.is_empty() {
                return Err(source.error_at(entry, "port names no port; leave it out for all"));
            }
            ports
        }
    };
    let protocols = match &rule.proto {
        None => Protocols::Both,
        Some(proto) => match proto.get_ref().as_str() {
            "tcp" => Protocols::Tcp,
            "udp" => Protocols::Udp,
            _ => {
                let what = "proto is \"tcp\" or \"udp\"; leave it out for both";
                return Err(source.error_at(proto, what));
            }
        },
    };
    Ok(RouteRule {
        line: source.line(&spanned.span()),
        hosts,
        ports,
        protocols,
        action,
    })
}

fn action(
    source: &Source<'_>,
    word: &Spanned<String>,
    hops: Option<&Spanned<i64>>,
) -> Result<RouteAction, ConfigError> {
    let action = match word.get_ref().as_str() {
        "refuse" => RouteAction::Refuse,
        "tor" => RouteAction::Tor,
        "circuit" => RouteAction::Circuit {
            hops: hops.map(|hops| checked_hops(source, hops)).transpose()?,
        },
        _ => {
            let what =
                "an action is \"circuit\", \"tor\" or \"refuse\"; there is no way around them";
            return Err(source.error_at(word, what));
        }
    };
    match hops {
        Some(hops) if !matches!(action, RouteAction::Circuit { .. }) => {
            Err(source.error_at(hops, "only circuits have hops"))
        }
        Some(_) | None => Ok(action),
    }
}

fn checked_hops(source: &Source<'_>, hops: &Spanned<i64>) -> Result<u8, ConfigError> {
    let wrong = || source.error_at(hops, format!("hops must be 1 to {MAX_HOPS}"));
    let ok = Some(*hops.get_ref()).filter(|hops| (1..=MAX_HOPS).contains(hops));
    ok.and_then(|hops| u8::try_from(hops).ok())
        .ok_or_else(wrong)
}

/// A text, or a list of texts.
fn texts(value: &Value) -> Option<Vec<&str>> {
    match value.as_array() {
        Some(all) => all.iter().map(Value::as_str).collect(),
        None => value.as_str().map(|one| vec![one]),
    }
}

fn parse_host(text: &str) -> Result<HostPattern, String> {
    if text == "*" {
        return Ok(HostPattern::Any);
    }
    if let Some(net) = parse_net(text)? {
        return Ok(HostPattern::Net(net));
    }
    let (below, name) = match text.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, text),
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let good = HostName::new(&name).is_ok() && name.split('.').all(|label| !label.is_empty());
    if !good {
        let what = "a host is a name (example.org), all names below one (*.example.org), an address or a network \
                    (192.0.2.0/24), or \"*\"; write other alphabets as xn--";
        return Err(what.to_owned());
    }
    Ok(if below {
        HostPattern::Below(name)
    } else {
        HostPattern::Name(name)
    })
}

/// An address, or a network; `None` where the text is neither.
fn parse_net(text: &str) -> Result<Option<Net>, String> {
    let (addr, prefix) = match text.split_once('/') {
        Some((addr, prefix)) => (addr, Some(prefix)),
        None => (text, None),
    };
    let bare = addr
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(addr);
    let Ok(ip) = bare.parse::<IpAddr>() else {
        return match prefix {
            Some(_) => Err("a network is written like 192.0.2.0/24 or 2001:db8::/32".to_owned()),
            None => Ok(None),
        };
    };
    let width = if ip.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => width,
        Some(digits) => Some(digits)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse::<u8>().ok())
            .filter(|prefix| *prefix <= width)
            .ok_or_else(|| format!("the number after \"/\" must be 0 to {width}"))?,
    };
    // Targets are compared in their IPv4 form where they have one.
    let (ip, prefix) = match (ip.to_canonical(), prefix.checked_sub(96)) {
        (canonical, Some(rest)) if canonical.is_ipv4() && ip.is_ipv6() => (canonical, rest),
        _ => (ip, prefix),
    };
    let bits = "bits are set after the network's prefix: write 10.0.0.0/8, not 10.1.2.3/8";
    Net::new(ip, prefix)
        .map(Some)
        .ok_or_else(|| bits.to_owned())
}

fn parse_ports(
    source: &Source<'_>,
    entry: &Spanned<Value>,
) -> Result<Vec<RangeInclusive<u16>>, ConfigError> {
    let one = |value: &Value| match value {
        Value::Integer(port) => u16::try_from(*port).ok().map(|port| port..=port),
        Value::String(text) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            Some(parse_port(first)?..=parse_port(last)?)
        }
        Value::Float(_)
        | Value::Boolean(_)
        | Value::Datetime(_)
        | Value::Array(_)
        | Value::Table(_) => None,
    };
    let value = entry.get_ref();
    let all: Option<Vec<_>> = match value.as_array() {
        Some(all) => all.iter().map(one).collect(),
        None => one(value).map(|port| vec![port]),
    };
    all.filter(|all| {
        all.iter()
            .all(|range| *range.start() >= 1 && !range.is_empty())
    })
    .ok_or_else(|| {
        let what =
            "a port is a number from 1 to 65535, a range like \"6881-6999\", or a list of them";
        source.error_at(entry, what)
    })
}

/// Digits only: `parse` alone would take a leading `+`.
fn parse_port(text: &str) -> Option<u16> {
    let text = text.trim();
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}
