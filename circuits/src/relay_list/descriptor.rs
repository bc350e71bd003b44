//! What a relay says about itself, signed by itself (PROTOCOL.md §7.1).

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;

use super::policy::{ExitPolicy, MAX_RULES};
use super::wire::{self, Reader, is_plain};
use crate::handshake::HopPeer;
use crate::keys::{IdentityKey, RelayId, SIGNATURE_LEN, Suite};
use crate::link::LinkPeer;

/// Version of the descriptor (§7.1).
const VERSION: u8 = 1;
/// What the signature starts with (§7.1).
const SIGNATURE_CONTEXT: &[u8] = b"hushswarm v1 descriptor";
/// Longest nickname, bytes: fits a column of a table.
const MAX_NICKNAME: usize = 19;
/// Longest family name, bytes.
const MAX_FAMILY: usize = 32;
/// Most addresses of one relay: two families, and a spare for each.
pub const MAX_ADDRESSES: usize = 4;
/// Longest life of a descriptor, seconds (400 days): a relay renews its keys once a year at least.
pub const MAX_DESCRIPTOR_LIFE: u64 = 400 * 86_400;
/// Longest descriptor, bytes: all fields at their limits come to 1,886.
pub const MAX_DESCRIPTOR_LEN: usize = 2048;

const _: () = assert!(
    1 + 3 * 32
        + 1
        + 2
        + 4
        + (1 + MAX_NICKNAME)
        + (1 + MAX_FAMILY)
        + (1 + MAX_ADDRESSES * 19)
        + (1 + LinkService::LEN)
        + (1 + MAX_RULES * 24)
        + 16
        + SIGNATURE_LEN
        <= MAX_DESCRIPTOR_LEN
);

/// What a relay offers (§7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Roles {
    /// Takes first hops of clients.
    pub guard: bool,
    /// Opens connections to the world, as its policy says.
    pub exit: bool,
    /// Serves the relay list.
    pub list: bool,
    /// Looks up in the DHT for others (§5.8). It needs the exit role.
    pub dht: bool,
    /// Takes introduction and rendezvous streams (§8).
    pub introduce: bool,
}

impl Roles {
    fn bits(self) -> u16 {
        u16::from(self.guard)
            | u16::from(self.exit) << 1
            | u16::from(self.list) << 2
            | u16::from(self.dht) << 3
            | u16::from(self.introduce) << 4
    }

    fn from_bits(bits: u16) -> Option<Self> {
        let roles = Self {
            guard: bits & 1 != 0,
            exit: bits & 2 != 0,
            list: bits & 4 != 0,
            dht: bits & 8 != 0,
            introduce: bits & 16 != 0,
        };
        (roles.bits() == bits).then_some(roles)
    }
}

/// An onion service of Tor (version 3) at which a relay takes links too (§7.1): whoever comes this way hides its address
/// from the relay. Its address as a text is no business of this crate.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkService {
    /// The Ed25519 key that its address is made of.
    pub key: [u8; 32],
    /// Its port, not 0.
    pub port: u16,
}

impl LinkService {
    /// `key[32] | port u16`.
    const LEN: usize = 32 + 2;

    /// A key that nobody, or anybody, could speak for names no service.
    fn is_good(&self) -> bool {
        self.port != 0 && RelayId(self.key).is_sound()
    }
}

impl std::fmt::Debug for LinkService {
    /// Never its address.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkService")
    }
}

/// The content of a descriptor, before it is signed.
#[derive(Clone, PartialEq, Eq)]
pub struct RelayInfo {
    /// Ed25519 key that names the relay for its whole life.
    pub identity: RelayId,
    /// X25519 key of hop handshakes (§3).
    pub onion: [u8; 32],
    /// X25519 key of link handshakes (§2.2).
    pub link: [u8; 32],
    /// AEAD of its links and of its onion layer.
    pub suite: Suite,
    /// What it offers.
    pub roles: Roles,
    /// What it is willing to carry, KiB/s.
    pub bandwidth: u32,
    /// A name for people, 1 to 19 of `[A-Za-z0-9-]`. Not unique.
    pub nickname: String,
    /// Relays of one operator share a family, 0 to 32 of `[A-Za-z0-9._-]`. Empty: none.
    pub family: String,
    /// Where it listens, 1 to 4, each once.
    pub addresses: Vec<SocketAddr>,
    /// Where it takes links through Tor, if it does.
    pub link_service: Option<LinkService>,
    /// What it lets out.
    pub policy: ExitPolicy,
    /// When it was signed, seconds since 1970.
    pub published: u64,
    /// When it ends, seconds since 1970; at most 400 days later.
    pub expires: u64,
}

/// Why a descriptor is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptorError {
    /// The bytes end early.
    #[error("the descriptor is cut off")]
    CutOff,
    /// More bytes than fields, or than a descriptor may have.
    #[error("the descriptor has bytes after its end")]
    TrailingBytes,
    /// Another format.
    #[error("the descriptor has version {0}, this program reads version {VERSION}")]
    Version(u8),
    /// A suite that this version does not know.
    #[error("the descriptor names the unknown suite {0}")]
    Suite(u8),
    /// A role that this version does not know.
    #[error("the descriptor names an unknown role")]
    Roles,
    /// Not a nickname.
    #[error("a nickname has 1 to {MAX_NICKNAME} letters, digits or '-'")]
    Nickname,
    /// Not a family.
    #[error("a family name has at most {MAX_FAMILY} letters, digits, '.', '_' or '-'")]
    Family,
    /// Not an address list.
    #[error(
        "a relay has 1 to {MAX_ADDRESSES} different addresses, each one that a client can connect to, with a port"
    )]
    Addresses,
    /// Not an onion service.
    #[error("a relay has at most one onion service, with a key that can be used and a port")]
    LinkService,
    /// Not a policy.
    #[error("the exit policy is broken, or has more than {MAX_RULES} rules")]
    Policy,
    /// Ends before it starts, or lives too long.
    #[error("a descriptor ends after it was published, and at most 400 days after")]
    Times,
    /// The key that should sign is another relay's.
    #[error("the signing key is not the identity that the descriptor names")]
    WrongKey,
}

impl RelayInfo {
    /// Signs the content.
    ///
    /// # Errors
    /// A field is outside the bounds of §7.1, or the key is not the identity's: tell the operator.
    pub fn sign(self, key: &IdentityKey) -> Result<Descriptor, DescriptorError> {
        if key.public() != self.identity {
            return Err(DescriptorError::WrongKey);
        }
        self.check()?;
        let mut bytes = self.encode();
        let signature = key.sign(&[SIGNATURE_CONTEXT, &bytes]);
        let digest = *blake3::hash(&bytes).as_bytes();
        bytes.extend_from_slice(&signature);
        Ok(Descriptor {
            info: self,
            digest,
            bytes: bytes.into(),
        })
    }

    /// The bounds of §7.1. What passes encodes to at most [`MAX_DESCRIPTOR_LEN`] bytes with its signature.
    fn check(&self) -> Result<(), DescriptorError> {
        let nickname = &self.nickname;
        if !(1..=MAX_NICKNAME).contains(&nickname.len()) || !is_plain(nickname, b"-") {
            return Err(DescriptorError::Nickname);
        }
        if self.family.len() > MAX_FAMILY || !is_plain(&self.family, b"._-") {
            return Err(DescriptorError::Family);
        }
        let addresses = &self.addresses;
        let repeated = (1..addresses.len()).any(|i| addresses[..i].contains(&addresses[i]));
        if !(1..=MAX_ADDRESSES).contains(&addresses.len())
            || repeated
            || !addresses.iter().all(is_listening_address)
        {
            return Err(DescriptorError::Addresses);
        }
        if self.link_service.is_some_and(|service| !service.is_good()) {
            return Err(DescriptorError::LinkService);
        }
        match self.expires.checked_sub(self.published) {
            Some(1..=MAX_DESCRIPTOR_LIFE) => Ok(()),
            Some(_) | None => Err(DescriptorError::Times),
        }
    }

    /// All bytes before the signature. The content has been checked.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.push(VERSION);
        out.extend_from_slice(&self.identity.0);
        out.extend_from_slice(&self.onion);
        out.extend_from_slice(&self.link);
        out.push(self.suite.wire());
        out.extend_from_slice(&self.roles.bits().to_be_bytes());
        out.extend_from_slice(&self.bandwidth.to_be_bytes());
        wire::put_string(&mut out, &self.nickname);
        wire::put_string(&mut out, &self.family);
        out.push(self.addresses.len() as u8);
        for address in &self.addresses {
            wire::put_ip(&mut out, address.ip());
            out.extend_from_slice(&address.port().to_be_bytes());
        }
        out.push(u8::from(self.link_service.is_some()));
        if let Some(service) = &self.link_service {
            out.extend_from_slice(&service.key);
            out.extend_from_slice(&service.port.to_be_bytes());
        }
        self.policy.encode(&mut out);
        out.extend_from_slice(&self.published.to_be_bytes());
        out.extend_from_slice(&self.expires.to_be_bytes());
        out
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DescriptorError> {
        use DescriptorError as E;
        let version = reader.u8().ok_or(E::CutOff)?;
        if version != VERSION {
            return Err(E::Version(version));
        }
        let identity = RelayId(reader.array().ok_or(E::CutOff)?);
        let onion = reader.array().ok_or(E::CutOff)?;
        let link = reader.array().ok_or(E::CutOff)?;
        let suite = reader.u8().ok_or(E::CutOff)?;
        let suite = Suite::from_wire(suite).ok_or(E::Suite(suite))?;
        let roles = Roles::from_bits(reader.u16().ok_or(E::CutOff)?).ok_or(E::Roles)?;
        let bandwidth = reader.u32().ok_or(E::CutOff)?;
        let nickname = reader.string().ok_or(E::Nickname)?.to_owned();
        let family = reader.string().ok_or(E::Family)?.to_owned();
        let count = reader.u8().ok_or(E::CutOff)?;
        // MAX_ADDRESSES is checked before anything is allocated for them.
        if usize::from(count) > MAX_ADDRESSES {
            return Err(E::Addresses);
        }
        let addresses = (0..count)
            .map(|_| read_address(reader))
            .collect::<Option<Vec<_>>>();
        let addresses = addresses.ok_or(E::Addresses)?;
        let link_service = match reader.u8().ok_or(E::CutOff)? {
            0 => None,
            1 => Some(LinkService {
                key: reader.array().ok_or(E::CutOff)?,
                port: reader.u16().ok_or(E::CutOff)?,
            }),
            _ => return Err(E::LinkService),
        };
        let policy = ExitPolicy::decode(reader).ok_or(E::Policy)?;
        let published = reader.u64().ok_or(E::CutOff)?;
        let expires = reader.u64().ok_or(E::CutOff)?;
        let info = Self {
            identity,
            onion,
            link,
            suite,
            roles,
            bandwidth,
            nickname,
            family,
            addresses,
            link_service,
            policy,
            published,
            expires,
        };
        info.check()?;
        Ok(info)
    }
}

fn read_address(reader: &mut Reader<'_>) -> Option<SocketAddr> {
    let ip = match reader.u8()? {
        wire::IPV4 => IpAddr::V4(reader.ipv4()?),
        wire::IPV6 => IpAddr::V6(reader.ipv6()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, reader.u16()?))
}

/// One form for each address, and none that a client can't connect to. Private addresses are fine: a network may
/// live on one machine, and it is the authorities who decide whom they list.
fn is_listening_address(address: &SocketAddr) -> bool {
    let ip = address.ip();
    let broadcast = IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    let plain = match address {
        SocketAddr::V4(_) => true,
        // The wire carries neither, so what is signed would differ from what was meant.
        SocketAddr::V6(v6) => v6.scope_id() == 0 && v6.flowinfo() == 0,
    };
    plain
        && address.port() != 0
        && ip == ip.to_canonical()
        && ip != broadcast
        && !ip.is_unspecified()
        && !ip.is_multicast()
}

/// A signed descriptor: the content, its exact bytes and their digest. Only [`RelayInfo::sign`] and
/// [`Descriptor::decode`] make one, so content and bytes never differ.
#[derive(Clone, PartialEq, Eq)]
pub struct Descriptor {
    info: RelayInfo,
    digest: [u8; 32],
    bytes: Box<[u8]>,
}

impl Descriptor {
    /// Reads a descriptor that fills `bytes`. Its signature is not looked at: see [`Descriptor::verify`].
    ///
    /// # Errors
    /// Whoever made it broke §7.1: refuse it.
    pub fn decode(bytes: &[u8]) -> Result<Self, DescriptorError> {
        if bytes.len() > MAX_DESCRIPTOR_LEN {
            return Err(DescriptorError::TrailingBytes);
        }
        let mut reader = Reader::new(bytes);
        let info = RelayInfo::decode(&mut reader)?;
        let signed = bytes.len().saturating_sub(reader.rest().len());
        match reader.rest().len() {
            SIGNATURE_LEN => {}
            0..SIGNATURE_LEN => return Err(DescriptorError::CutOff),
            _ => return Err(DescriptorError::TrailingBytes),
        }
        let digest = *blake3::hash(bytes.get(..signed).unwrap_or_default()).as_bytes();
        Ok(Self {
            info,
            digest,
            bytes: bytes.into(),
        })
    }

    /// The descriptor as it stands on the wire.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the relay's own identity signed it.
    pub fn verify(&self) -> bool {
        match self.bytes.split_last_chunk::<SIGNATURE_LEN>() {
            Some((signed, signature)) => self
                .info
                .identity
                .verify(&[SIGNATURE_CONTEXT, signed], signature),
            None => false,
        }
    }

    /// The descriptor digest, which handshakes are bound to (§7.1).
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The content alone, to sign it anew.
    pub fn info(&self) -> &RelayInfo {
        &self.info
    }

    /// What a link handshake with this relay needs (§2.2).
    pub fn link_peer(&self) -> LinkPeer {
        LinkPeer {
            link_key: self.link,
            suite: self.suite,
            digest: self.digest,
            psk: None,
        }
    }

    /// What a hop handshake with this relay needs (§3).
    pub fn hop_peer(&self) -> HopPeer {
        HopPeer {
            onion_key: self.onion,
            suite: self.suite,
            digest: self.digest,
        }
    }
}

impl Deref for Descriptor {
    type Target = RelayInfo;

    fn deref(&self) -> &RelayInfo {
        &self.info
    }
}

impl std::fmt::Debug for Descriptor {
    /// Nickname and identity, never an address.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.info.fmt(f)
    }
}

impl std::fmt::Debug for RelayInfo {
    /// Nickname and identity, never an address.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("nickname", &self.nickname)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "descriptor_tests.rs"]
mod tests;
