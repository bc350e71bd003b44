//! Where a stream or datagram goes (PROTOCOL.md §5.1).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest host name, bytes.
pub const MAX_NAME: usize = 255;

/// A host name that only the exit resolves: 1 to 255 ASCII letters, digits, `-`, `.`, `_`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(String);

impl HostName {
    /// Takes a name as it stands in a URL.
    ///
    /// # Errors
    /// The name is empty, too long or has other characters: tell the user which name.
    pub fn new(name: &str) -> Result<Self, TargetError> {
        let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(ok) {
            return Err(TargetError::BadName);
        }
        Ok(Self(name.to_owned()))
    }

    /// The name. Do not log it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A host: an address, or a name for the exit to resolve.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name.
    Name(HostName),
}

/// A host and a port. `Debug` and `Display` hide both: a target is never logged.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// TCP or UDP port.
    pub port: u16,
}

/// A target that can't be used, or the neighbour broke §5.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Not a host name.
    #[error("not a host name: 1 to 255 letters, digits, '-', '.' or '_' are allowed")]
    BadName,
    /// Unknown type byte.
    #[error("unknown target type {0}")]
    UnknownType(u8),
    /// The bytes end early.
    #[error("target is cut off")]
    CutOff,
}

impl Target {
    /// A target by address.
    pub fn ip(addr: SocketAddr) -> Self {
        Self {
            host: Host::Ip(addr.ip()),
            port: addr.port(),
        }
    }

    /// A target by name, or by address where `host` is the text of one.
    ///
    /// # Errors
    /// As [`HostName::new`].
    pub fn parse(host: &str, port: u16) -> Result<Self, TargetError> {
        let bare = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        let host = match bare.parse::<IpAddr>() {
            Ok(ip) => Host::Ip(ip),
            Err(_) => Host::Name(HostName::new(host)?),
        };
        Ok(Self { host, port })
    }

    /// The socket address, where the target is one.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match &self.host {
            Host::Ip(ip) => Some(SocketAddr::new(*ip, self.port)),
            Host::Name(_) => None,
        }
    }

    /// Encoded length, bytes.
    pub fn encoded_len(&self) -> usize {
        self.host.encoded_len() + 2
    }

    /// Appends the encoded target.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.host.encode(out);
        out.extend_from_slice(&self.port.to_be_bytes());
    }

    /// Reads a target from the front of `bytes`; gives it and the rest. `None` is type 0.
    ///
    /// # Errors
    /// The sender broke §5.1: destroy the circuit.
    pub fn decode(bytes: &[u8]) -> Result<(Option<Self>, &[u8]), TargetError> {
        let (host, rest) = Host::decode(bytes)?;
        let Some(host) = host else {
            return Ok((None, rest));
        };
        let (port, rest) = rest.split_first_chunk::<2>().ok_or(TargetError::CutOff)?;
        let port = u16::from_be_bytes(*port);
        Ok((Some(Self { host, port }), rest))
    }
}

impl Host {
    fn encoded_len(&self) -> usize {
        match self {
            Self::Ip(IpAddr::V4(_)) => 1 + 4,
            Self::Ip(IpAddr::V6(_)) => 1 + 16,
            Self::Name(name) => 2 + name.0.len(),
        }
    }

    /// Appends the host as it stands in a target: type and address or name.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ip(IpAddr::V4(ip)) => {
                out.push(1);
                out.extend_from_slice(&ip.octets());
            }
            Self::Ip(IpAddr::V6(ip)) => {
                out.push(2);
                out.extend_from_slice(&ip.octets());
            }
            Self::Name(name) => {
                // MAX_NAME fits a byte; HostName::new checked it.
                out.extend_from_slice(&[3, name.0.len() as u8]);
                out.extend_from_slice(name.0.as_bytes());
            }
        }
    }

    /// Reads a host from the front of `bytes`; gives it and the rest. `None` is type 0.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Option<Self>, &[u8]), TargetError> {
        let (&kind, rest) = bytes.split_first().ok_or(TargetError::CutOff)?;
        let (host, rest) = match kind {
            0 => return Ok((None, rest)),
            1 => {
                let (ip, rest) = rest.split_first_chunk::<4>().ok_or(TargetError::CutOff)?;
                (Self::Ip(Ipv4Addr::from(*ip).into()), rest)
            }
            2 => {
                let (ip, rest) = rest.split_first_chunk::<16>().ok_or(TargetError::CutOff)?;
                (Self::Ip(Ipv6Addr::from(*ip).into()), rest)
            }
            3 => {
                let (&len, rest) = rest.split_first().ok_or(TargetError::CutOff)?;
                let (name, rest) = rest
                    .split_at_checked(usize::from(len))
                    .ok_or(TargetError::CutOff)?;
                let name = std::str::from_utf8(name).map_err(|_| TargetError::BadName)?;
                (Self::Name(HostName::new(name)?), rest)
            }
            other => return Err(TargetError::UnknownType(other)),
        };
        Ok((Some(host), rest))
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[name]")
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[host]")
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[target]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok((Some(target), rest)) = Target::decode(&bytes) {
                let mut out = Vec::new();
                target.encode(&mut out);
                prop_assert_eq!(out.len(), target.encoded_len());
                prop_assert_eq!(&out[..], &bytes[..bytes.len() - rest.len()]);
            }
        }
    }

    #[test]
    fn names_with_other_characters_are_refused() {
        for bad in ["", "a b", "ä.example", "a/b", &"x".repeat(256)] {
            assert_eq!(Target::parse(bad, 1), Err(TargetError::BadName));
        }
    }

    #[test]
    fn nothing_shows_in_debug_output() {
        let shown = format!("{:?}", Target::parse("secret.example", 4242));
        assert!(!shown.contains("secret") && !shown.contains("4242"));
    }
}
