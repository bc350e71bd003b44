//! Exit policies as people write them: `accept tcp 127.0.0.0/8:1-65535`, `reject * *:25`, `public`.
//!
//! ```text
//! rule  = ("accept" | "reject") SP ("tcp" | "udp" | "*") SP net ":" ports
//! net   = "*" | IPV4 ["/" prefix] | "[" IPV6 "]" ["/" prefix]
//! ports = "*" | port | port "-" port
//! ```
//! The word `public` alone stands for the rules of [`ExitPolicy::public`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::policy::{Action, ExitPolicy, MAX_RULES, Net, Protocols, Rule, public_rules};

/// A word that stands for the rules of [`ExitPolicy::public`].
const PUBLIC: &str = "public";

/// A rule that can't be read. The text says what is wrong and how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyTextError {
    /// Not three words.
    #[error("a rule is written \"ACTION PROTOCOL ADDRESS:PORTS\", for example \"reject * *:25\"")]
    Shape,
    /// The first word.
    #[error("a rule starts with \"accept\" or \"reject\" (or is the word \"public\")")]
    Action,
    /// The second word.
    #[error("the protocol of a rule is \"tcp\", \"udp\" or \"*\"")]
    Protocol,
    /// The address.
    #[error(
        "the address of a rule is \"*\", an IPv4 network like 192.0.2.0/24 or an IPv6 network like [2001:db8::]/32"
    )]
    Address,
    /// The network has bits after its prefix.
    #[error(
        "the address of a rule has bits set after its prefix: write 10.0.0.0/8, not 10.1.2.3/8"
    )]
    HostBits,
    /// The ports.
    #[error("the ports of a rule are \"*\", one number from 1 to 65535, or a range like 6881-6999")]
    Ports,
    /// Too many rules.
    #[error("a policy has at most {MAX_RULES} rules (\"public\" counts as 24)")]
    TooMany,
}

impl ExitPolicy {
    /// Reads a policy from rules in text form, in order.
    ///
    /// # Errors
    /// A rule can't be read: show the error with the rule.
    pub fn from_texts<S: AsRef<str>>(rules: &[S]) -> Result<Self, PolicyTextError> {
        let mut all = Vec::new();
        for rule in rules {
            match rule.as_ref().trim() {
                PUBLIC => all.extend(public_rules()),
                text => all.push(text.parse()?),
            }
        }
        Self::new(all).ok_or(PolicyTextError::TooMany)
    }

    /// The policy in text form, one rule a string; the whole of [`ExitPolicy::public`] as `public`.
    pub fn to_texts(&self) -> Vec<String> {
        let public = public_rules();
        match self.rules().strip_suffix(public.as_slice()) {
            Some(before) => before
                .iter()
                .map(Rule::to_string)
                .chain([PUBLIC.to_owned()])
                .collect(),
            None => self.rules().iter().map(Rule::to_string).collect(),
        }
    }

    /// A few words for a table: `none`, `public`, or the first thing accepted.
    pub fn summary(&self) -> String {
        if self.rejects_everything() {
            return "none".to_owned();
        }
        if self.rules() == public_rules() {
            return PUBLIC.to_owned();
        }
        let mut accepts = self
            .rules()
            .iter()
            .filter(|rule| rule.action == Action::Accept);
        let first = accepts.next().map(Rule::to_string).unwrap_or_default();
        let first = first.strip_prefix("accept ").unwrap_or_default();
        match accepts.count() {
            0 => first.to_owned(),
            more => format!("{first} +{more}"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Action::Accept => "accept",
            Action::Reject => "reject",
        };
        let protocols = match self.protocols {
            Protocols::Tcp => "tcp",
            Protocols::Udp => "udp",
            Protocols::Both => "*",
        };
        write!(f, "{action} {protocols} ")?;
        match self.net.map(|net| (net.addr(), net.prefix())) {
            None => f.write_str("*")?,
            Some((IpAddr::V4(ip), 32)) => write!(f, "{ip}")?,
            Some((IpAddr::V4(ip), prefix)) => write!(f, "{ip}/{prefix}")?,
            Some((IpAddr::V6(ip), 128)) => write!(f, "[{ip}]")?,
            Some((IpAddr::V6(ip), prefix)) => write!(f, "[{ip}]/{prefix}")?,
        }
        match (self.first_port, self.last_port) {
            (1, u16::MAX) => f.write_str(":*"),
            (first, last) if first == last => write!(f, ":{first}"),
            (first, last) => write!(f, ":{first}-{last}"),
        }
    }
}

impl FromStr for Rule {
    type Err = PolicyTextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = text.split_ascii_whitespace();
        let (Some(action), protocols, target, None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(PolicyTextError::Shape);
        };
        let action = match action {
            "accept" => Action::Accept,
            "reject" => Action::Reject,
            _ => return Err(PolicyTextError::Action),
        };
        let (Some(protocols), Some(target)) = (protocols, target) else {
            return Err(PolicyTextError::Shape);
        };
        let protocols = match protocols {
            "tcp" => Protocols::Tcp,
            "udp" => Protocols::Udp,
            "*" => Protocols::Both,
            _ => return Err(PolicyTextError::Protocol),
        };
        // The last colon: an IPv6 address keeps its own inside brackets.
        let (net, ports) = target.rsplit_once(':').ok_or(PolicyTextError::Shape)?;
        let (first_port, last_port) = parse_ports(ports).ok_or(PolicyTextError::Ports)?;
        Ok(Self {
            action,
            protocols,
            net: parse_net(net)?,
            first_port,
            last_port,
        })
    }
}

fn parse_net(text: &str) -> Result<Option<Net>, PolicyTextError> {
    if text == "*" {
        return Ok(None);
    }
    let (addr, prefix) = match text.split_once('/') {
        Some((addr, prefix)) => (
            addr,
            Some(parse_number(prefix).ok_or(PolicyTextError::Address)?),
        ),
        None => (text, None),
    };
    let (addr, width) = match addr
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(v6) => (v6.parse::<Ipv6Addr>().map(IpAddr::V6), 128),
        None => (addr.parse::<Ipv4Addr>().map(IpAddr::V4), 32),
    };
    let addr = addr.map_err(|_| PolicyTextError::Address)?;
    let prefix = prefix.unwrap_or(width);
    if prefix > width {
        return Err(PolicyTextError::Address);
    }
    Net::new(addr, prefix)
        .map(Some)
        .ok_or(PolicyTextError::HostBits)
}

fn parse_ports(text: &str) -> Option<(u16, u16)> {
    if text == "*" {
        return Some((1, u16::MAX));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (parse_number(first)?, parse_number(last)?);
    (first >= 1 && first <= last).then_some((first, last))
}

/// Digits only: `parse` alone would take a leading `+`.
fn parse_number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}
