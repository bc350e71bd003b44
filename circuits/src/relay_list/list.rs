//! The signed list of relays (PROTOCOL.md §7.2): made and signed as a [`Draft`], trusted only as a [`RelayList`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::descriptor::{Descriptor, DescriptorError};
use super::wire::{self, Reader, is_plain};
use crate::keys::{IdentityKey, RelayId, SIGNATURE_LEN};

/// What a relay list starts with (§7.2).
const MAGIC: &[u8; 8] = b"HUSHLIST";
/// Version of the relay list (§7.2).
const VERSION: u8 = 1;
/// What each signature starts with (§7.2).
const SIGNATURE_CONTEXT: &[u8] = b"hushswarm v1 relay list";
/// Longest relay list, bytes: 8,192 descriptors of usual length, and little enough to hold in memory twice.
pub const MAX_LIST_LEN: usize = 8 << 20;
/// Most relays in a list.
pub const MAX_RELAYS: usize = 8192;
/// Most signatures under a list.
pub const MAX_SIGNATURES: usize = 32;
/// Longest life of a list, seconds (31 days): a relay that left or fell is forgotten after it.
pub const MAX_LIST_LIFE: u64 = 31 * 86_400;
/// Longest network name, bytes.
const MAX_NETWORK_NAME: usize = 64;

/// Whose lists a client takes: from its own network file, never from the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// The network's name.
    pub network: String,
    /// Keys of the authorities.
    pub authorities: Vec<RelayId>,
    /// How many different authorities must have signed. 0 is taken as 1: an unsigned list is never good.
    pub threshold: usize,
}

/// Why a relay list is refused. Whatever the reason: keep the list held so far, and go without when there is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// Not a relay list as §7.2 writes it.
    #[error("the relay list is broken: {0}")]
    Malformed(&'static str),
    /// A descriptor in it is not one.
    #[error("the relay list is broken: relay number {index} in it: {error}")]
    BadRelay {
        /// Which one, from 1.
        index: usize,
        /// What is wrong with it.
        error: DescriptorError,
    },
    /// Another format.
    #[error("the relay list has version {0}, this program reads version {VERSION}")]
    Version(u8),
    /// Over a limit of §7.2.
    #[error(
        "the relay list is too large: at most 8 MiB, {MAX_RELAYS} relays and {MAX_SIGNATURES} signatures"
    )]
    TooLarge,
    /// Of another network than the network file says.
    #[error("the relay list belongs to another network")]
    WrongNetwork,
    /// Its time is over.
    #[error("the relay list has expired: ask the network's authorities for a new one")]
    Expired {
        /// When it ended, seconds since 1970.
        since: u64,
    },
    /// Its time has not come.
    #[error("the relay list is not valid yet: check this computer's clock")]
    NotYetValid {
        /// When it starts, seconds since 1970.
        from: u64,
    },
    /// Too few known authorities signed.
    #[error("the relay list is signed by {have} of the network's authorities, {need} are needed")]
    UnderSigned {
        /// How many known authorities signed.
        have: usize,
        /// How many are needed.
        need: usize,
    },
    /// A signature does not fit: somebody changed the list.
    #[error("the relay list is forged: a signature in it does not fit")]
    Forged,
    /// One identity twice in a list to be made.
    #[error("a relay is in the list twice")]
    Duplicate,
    /// Ends before it starts or lives too long.
    #[error("a relay list ends after it starts, and at most 31 days after")]
    Times,
    /// Not a network's name.
    #[error("{NETWORK_NAME_RULE}")]
    NetworkName,
}

impl ListError {
    /// What a reader of the list can do, where the error itself does not say.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::WrongNetwork => Some("the name in the network file must be the list's"),
            Self::Expired { .. } => Some("then put it in the old one's place"),
            Self::UnderSigned { .. } => Some(
                "more authorities must sign it (\"hushswarm network cosign\"), or this is not their list",
            ),
            Self::Forged => Some("do not use it; get the list from another place"),
            Self::Malformed(_)
            | Self::BadRelay { .. }
            | Self::Version(_)
            | Self::TooLarge
            | Self::NotYetValid { .. }
            | Self::Duplicate
            | Self::Times
            | Self::NetworkName => None,
        }
    }
}

const NETWORK_NAME_RULE: &str = "the name of a network has 1 to 64 letters, digits, '.', '_' or '-', and starts with a letter or digit";

/// Checks the name of a network: 1 to 64 of `[A-Za-z0-9._-]`, a letter or digit first, so that it can be part of
/// a file's name and shown as it is.
///
/// # Errors
/// It is not one: show the error.
pub fn check_network_name(name: &str) -> Result<(), ListError> {
    let starts_well = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    let ok = starts_well && name.len() <= MAX_NETWORK_NAME && is_plain(name, b"._-");
    ok.then_some(()).ok_or(ListError::NetworkName)
}

/// The parts of an encoded list, with descriptors still as bytes: what signatures are checked on before anything
/// else is read.
struct Frame<'a> {
    network: &'a str,
    valid_from: u64,
    valid_until: u64,
    relays: Vec<&'a [u8]>,
    signed: &'a [u8],
    signatures: BTreeMap<[u8; 32], [u8; SIGNATURE_LEN]>,
}

impl<'a> Frame<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, ListError> {
        if bytes.len() > MAX_LIST_LEN {
            return Err(ListError::TooLarge);
        }
        let mut reader = Reader::new(bytes);
        if reader.array().as_ref() != Some(MAGIC) {
            return Err(ListError::Malformed("it does not start like one"));
        }
        let version = reader.u8().ok_or(CUT_OFF)?;
        if version != VERSION {
            return Err(ListError::Version(version));
        }
        let network = reader.string().ok_or(ListError::NetworkName)?;
        check_network_name(network)?;
        let valid_from = reader.u64().ok_or(CUT_OFF)?;
        let valid_until = reader.u64().ok_or(CUT_OFF)?;
        check_times(valid_from, valid_until)?;
        let count = usize::from(reader.u16().ok_or(CUT_OFF)?);
        if count == 0 {
            return Err(ListError::Malformed("it names no relay"));
        }
        if count > MAX_RELAYS {
            return Err(ListError::TooLarge);
        }
        let mut relays = Vec::new();
        for _ in 0..count {
            let len = usize::from(reader.u16().ok_or(CUT_OFF)?);
            relays.push(reader.bytes(len).ok_or(CUT_OFF)?);
        }
        let signed_len = bytes.len().saturating_sub(reader.rest().len());
        let signed = bytes.get(..signed_len).unwrap_or_default();
        let signatures = read_signatures(&mut reader)?;
        if !reader.rest().is_empty() {
            return Err(ListError::Malformed("bytes follow its end"));
        }
        Ok(Self {
            network,
            valid_from,
            valid_until,
            relays,
            signed,
            signatures,
        })
    }

    /// How many of these authorities signed; any wrong signature by one of them is a forgery.
    fn count_signatures(&self, authorities: &BTreeSet<RelayId>) -> Result<usize, ListError> {
        let mut have: usize = 0;
        for authority in authorities {
            if let Some(signature) = self.signatures.get(&authority.0) {
                if !authority.verify(&[SIGNATURE_CONTEXT, self.signed], signature) {
                    return Err(ListError::Forged);
                }
                have = have.saturating_add(1);
            }
        }
        Ok(have)
    }

    /// The descriptors, each with a good signature of its own, in ascending order of identity.
    fn relays(&self) -> Result<Vec<Arc<Descriptor>>, ListError> {
        let mut relays: Vec<Arc<Descriptor>> = Vec::with_capacity(self.relays.len());
        for (index, bytes) in (1..).zip(&self.relays) {
            let relay =
                Descriptor::decode(bytes).map_err(|error| ListError::BadRelay { index, error })?;
            if relays
                .last()
                .is_some_and(|last| last.identity.0 >= relay.identity.0)
            {
                return Err(ListError::Malformed(
                    "its relays are not in ascending order, or one is in it twice",
                ));
            }
            if !relay.verify() {
                return Err(ListError::Forged);
            }
            relays.push(Arc::new(relay));
        }
        Ok(relays)
    }
}

const CUT_OFF: ListError = ListError::Malformed("it is cut off");

fn read_signatures(
    reader: &mut Reader<'_>,
) -> Result<BTreeMap<[u8; 32], [u8; SIGNATURE_LEN]>, ListError> {
    let count = usize::from(reader.u8().ok_or(CUT_OFF)?);
    if count == 0 {
        return Err(ListError::UnderSigned { have: 0, need: 1 });
    }
    if count > MAX_SIGNATURES {
        return Err(ListError::TooLarge);
    }
    let mut signatures = BTreeMap::new();
    for _ in 0..count {
        let authority: [u8; 32] = reader.array().ok_or(CUT_OFF)?;
        let signature = reader.array().ok_or(CUT_OFF)?;
        if signatures
            .last_key_value()
            .is_some_and(|(last, _)| *last >= authority)
        {
            return Err(ListError::Malformed(
                "its signatures are not in ascending order, or an authority signed it twice",
            ));
        }
        signatures.insert(authority, signature);
    }
    Ok(signatures)
}

fn check_times(valid_from: u64, valid_until: u64) -> Result<(), ListError> {
    match valid_until.checked_sub(valid_from) {
        Some(1..=MAX_LIST_LIFE) => Ok(()),
        Some(_) | None => Err(ListError::Times),
    }
}

/// A list that authorities make and sign, one after the other. It is trusted by nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    network: String,
    valid_from: u64,
    valid_until: u64,
    relays: Vec<Arc<Descriptor>>,
    signatures: BTreeMap<[u8; 32], [u8; SIGNATURE_LEN]>,
}

impl Draft {
    /// Makes a list of these relays, in whatever order. Times are seconds since 1970.
    ///
    /// # Errors
    /// It would break §7.2, or a descriptor is not signed by its relay: tell the authority.
    pub fn new(
        network: &str,
        valid_from: u64,
        valid_until: u64,
        mut relays: Vec<Descriptor>,
    ) -> Result<Self, ListError> {
        check_network_name(network)?;
        check_times(valid_from, valid_until)?;
        if relays.is_empty() {
            return Err(ListError::Malformed("it names no relay"));
        }
        if relays.len() > MAX_RELAYS {
            return Err(ListError::TooLarge);
        }
        relays.sort_by_key(|relay| relay.identity.0);
        if relays
            .windows(2)
            .any(|pair| matches!(pair, [a, b] if a.identity == b.identity))
        {
            return Err(ListError::Duplicate);
        }
        if !relays.iter().all(Descriptor::verify) {
            return Err(ListError::Forged);
        }
        let relays = relays.into_iter().map(Arc::new).collect();
        let network = network.to_owned();
        Ok(Self {
            network,
            valid_from,
            valid_until,
            relays,
            signatures: BTreeMap::new(),
        })
    }

    /// Reads a list that others signed, to look at it and sign it too. Every signature must fit, whoever's it is.
    ///
    /// # Errors
    /// It breaks §7.2 or a signature does not fit: do not sign it.
    pub fn decode(bytes: &[u8]) -> Result<Self, ListError> {
        let frame = Frame::decode(bytes)?;
        let signers = frame.signatures.keys().copied().map(RelayId).collect();
        frame.count_signatures(&signers)?;
        Ok(Self {
            network: frame.network.to_owned(),
            valid_from: frame.valid_from,
            valid_until: frame.valid_until,
            relays: frame.relays()?,
            signatures: frame.signatures,
        })
    }

    /// Adds the signature of an authority; again does no harm.
    pub fn sign(&mut self, authority: &IdentityKey) {
        let signature = authority.sign(&[SIGNATURE_CONTEXT, &self.signed_bytes()]);
        self.signatures.insert(authority.public().0, signature);
    }

    /// The list as it stands on the wire.
    ///
    /// # Errors
    /// Nobody has signed it yet, or it is over a limit: tell the authority.
    pub fn encode(&self) -> Result<Vec<u8>, ListError> {
        if self.signatures.is_empty() {
            return Err(ListError::UnderSigned { have: 0, need: 1 });
        }
        if self.signatures.len() > MAX_SIGNATURES {
            return Err(ListError::TooLarge);
        }
        let mut out = self.signed_bytes();
        out.push(self.signatures.len() as u8);
        for (authority, signature) in &self.signatures {
            out.extend_from_slice(authority);
            out.extend_from_slice(signature);
        }
        if out.len() > MAX_LIST_LEN {
            return Err(ListError::TooLarge);
        }
        Ok(out)
    }

    /// The network's name.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// First second of its life, since 1970.
    pub fn valid_from(&self) -> u64 {
        self.valid_from
    }

    /// End of its life, seconds since 1970.
    pub fn valid_until(&self) -> u64 {
        self.valid_until
    }

    /// The relays, ascending by identity.
    pub fn relays(&self) -> &[Arc<Descriptor>] {
        &self.relays
    }

    /// Who signed it, ascending.
    pub fn signers(&self) -> impl Iterator<Item = RelayId> + '_ {
        self.signatures.keys().copied().map(RelayId)
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(VERSION);
        wire::put_string(&mut out, &self.network);
        out.extend_from_slice(&self.valid_from.to_be_bytes());
        out.extend_from_slice(&self.valid_until.to_be_bytes());
        out.extend_from_slice(&(self.relays.len() as u16).to_be_bytes());
        for relay in &self.relays {
            // MAX_DESCRIPTOR_LEN fits two bytes.
            out.extend_from_slice(&(relay.bytes().len() as u16).to_be_bytes());
            out.extend_from_slice(relay.bytes());
        }
        out
    }
}

/// A list that enough authorities of the reader's own network signed, and that is valid now.
#[derive(Clone)]
pub struct RelayList {
    network: String,
    valid_from: u64,
    valid_until: u64,
    relays: Vec<Arc<Descriptor>>,
    skipped: usize,
    signed_by: usize,
    bytes: Arc<[u8]>,
}

impl RelayList {
    /// A list of no relays, for who builds no circuits. It never ends.
    pub fn none() -> Self {
        Self {
            network: String::new(),
            valid_from: 0,
            valid_until: u64::MAX,
            relays: Vec::new(),
            skipped: 0,
            signed_by: 0,
            bytes: Arc::default(),
        }
    }

    /// Whether it is [`RelayList::none`]; a list that was read has a network.
    pub fn is_none(&self) -> bool {
        self.network.is_empty()
    }

    /// Reads a list and checks it against what the reader trusts. Relays whose own descriptor is over are left
    /// out. `now` is seconds since 1970.
    ///
    /// # Errors
    /// The list is refused: keep the one held so far, and say why.
    pub fn decode_verified(bytes: &[u8], trust: &Trust, now: u64) -> Result<Self, ListError> {
        let frame = Frame::decode(bytes)?;
        if frame.network != trust.network {
            return Err(ListError::WrongNetwork);
        }
        // A set: naming one authority twice in a network file does not make it two.
        let authorities = trust.authorities.iter().copied().collect();
        let signed_by = frame.count_signatures(&authorities)?;
        let need = trust.threshold.max(1);
        if signed_by < need {
            return Err(ListError::UnderSigned {
                have: signed_by,
                need,
            });
        }
        if now >= frame.valid_until {
            return Err(ListError::Expired {
                since: frame.valid_until,
            });
        }
        if now < frame.valid_from {
            return Err(ListError::NotYetValid {
                from: frame.valid_from,
            });
        }
        let mut relays = frame.relays()?;
        let all = relays.len();
        relays.retain(|relay| now < relay.expires);
        Ok(Self {
            network: frame.network.to_owned(),
            valid_from: frame.valid_from,
            valid_until: frame.valid_until,
            skipped: all.saturating_sub(relays.len()),
            relays,
            signed_by,
            bytes: bytes.into(),
        })
    }

    /// The network's name.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// First second of its life, since 1970.
    pub fn valid_from(&self) -> u64 {
        self.valid_from
    }

    /// End of its life, seconds since 1970.
    pub fn valid_until(&self) -> u64 {
        self.valid_until
    }

    /// The relays whose descriptors are not over, ascending by identity.
    pub fn relays(&self) -> &[Arc<Descriptor>] {
        &self.relays
    }

    /// How many relays were left out because their descriptors are over.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// How many of the reader's authorities signed it.
    pub fn signed_by(&self) -> usize {
        self.signed_by
    }

    /// The list as it was signed, to be served to others.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// Looks a relay up.
    pub fn get(&self, id: &RelayId) -> Option<&Arc<Descriptor>> {
        let found = self
            .relays
            .binary_search_by(|relay| relay.identity.0.cmp(&id.0))
            .ok()?;
        self.relays.get(found)
    }

    /// Whether its time has not run out. A list is good when it is read; ask again before each use of it.
    pub fn is_valid(&self, now: u64) -> bool {
        (self.valid_from..self.valid_until).contains(&now)
    }

    /// Whether this list should take the place of `held`: the same network, and not older (§7.2).
    pub fn replaces(&self, held: &Self) -> bool {
        self.network == held.network && self.valid_from >= held.valid_from
    }
}

impl std::fmt::Debug for RelayList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayList")
            .field("network", &self.network)
            .field("valid_until", &self.valid_until)
            .field("relays", &self.relays.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
