//! Key files: a title line, then `name HEX` lines. Text, so that a backup can be checked by eye.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use hushswarm_circuits::keys::{DhSecret, IdentityKey, Key32};
use hushswarm_circuits::relay_list::{Descriptor, DescriptorError};
use rand::CryptoRng;
use zeroize::Zeroizing;

use super::{StateDir, StateError};
use crate::config::RelayConfig;

/// The file with a relay's keys.
pub const RELAY_KEYS_FILE: &str = "relay.keys";
/// The file with an authority's key.
pub const AUTHORITY_KEY_FILE: &str = "authority.key";

const RELAY_TITLE: &str = "hushswarm relay keys v1";
const RELAY_NAMES: [&str; 3] = ["identity", "onion", "link"];
const AUTHORITY_TITLE: &str = "hushswarm authority key v1";
const AUTHORITY_NAMES: [&str; 1] = ["identity"];

/// The keys of a relay (PROTOCOL.md §7.1).
#[derive(Debug)]
pub struct RelayKeys {
    /// Signs descriptors.
    pub identity: IdentityKey,
    /// Answers hop handshakes.
    pub onion: DhSecret,
    /// Answers link handshakes.
    pub link: DhSecret,
}

impl RelayKeys {
    /// Draws fresh keys.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        Self {
            identity: IdentityKey::generate(rng),
            onion: DhSecret::generate(rng),
            link: DhSecret::generate(rng),
        }
    }

    /// Reads the keys; `None` when there are none yet.
    ///
    /// # Errors
    /// The file is damaged or was open to others: tell the user.
    pub fn load(dir: &StateDir) -> Result<Option<Self>, StateError> {
        let keys = load(dir, RELAY_KEYS_FILE, RELAY_TITLE, RELAY_NAMES)?;
        Ok(keys.map(|[identity, onion, link]| Self {
            identity: IdentityKey::from_seed(identity),
            onion: DhSecret::from_bytes(onion),
            link: DhSecret::from_bytes(link),
        }))
    }

    /// Stores keys where none are.
    ///
    /// # Errors
    /// There are keys already, or the disk: tell the user.
    pub fn store(&self, dir: &StateDir) -> Result<(), StateError> {
        let secrets = [
            self.identity.seed().as_bytes(),
            &self.onion.to_bytes(),
            &self.link.to_bytes(),
        ];
        store(dir, RELAY_KEYS_FILE, RELAY_TITLE, RELAY_NAMES, secrets)
    }

    /// Signs what the configuration says about the relay, from `now` on (seconds since 1970).
    ///
    /// # Errors
    /// A value is out of bounds: the error says which.
    pub fn describe(&self, config: &RelayConfig, now: u64) -> Result<Descriptor, DescriptorError> {
        let identity = self.identity.public();
        config
            .info(identity, self.onion.public(), self.link.public(), now)?
            .sign(&self.identity)
    }
}

/// The key of an authority (PROTOCOL.md §7.2).
#[derive(Debug)]
pub struct AuthorityKey(pub IdentityKey);

impl AuthorityKey {
    /// Reads the key.
    ///
    /// # Errors
    /// There is none, the file is damaged or was open to others: tell the user.
    pub fn load(dir: &StateDir) -> Result<Self, StateError> {
        match load(dir, AUTHORITY_KEY_FILE, AUTHORITY_TITLE, AUTHORITY_NAMES)? {
            Some([seed]) => Ok(Self(IdentityKey::from_seed(seed))),
            None => Err(StateError::NoKeys(dir.path_of(AUTHORITY_KEY_FILE)?)),
        }
    }

    /// Stores the key where none is.
    ///
    /// # Errors
    /// There is one already, or the disk: tell the user.
    pub fn store(&self, dir: &StateDir) -> Result<(), StateError> {
        let secrets = [self.0.seed().as_bytes()];
        store(
            dir,
            AUTHORITY_KEY_FILE,
            AUTHORITY_TITLE,
            AUTHORITY_NAMES,
            secrets,
        )
    }
}

fn store<const N: usize>(
    dir: &StateDir,
    file: &str,
    title: &str,
    names: [&str; N],
    secrets: [&[u8; 32]; N],
) -> Result<(), StateError> {
    if dir.read_secret(file)?.is_some() {
        return Err(StateError::Exists(dir.path_of(file)?));
    }
    // Room for all of it at once: a string that grows would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(1024));
    text.push_str(title);
    text.push('\n');
    for (name, secret) in names.into_iter().zip(secrets) {
        let mut hex = Zeroizing::new([0; 64]);
        HEXLOWER.encode_mut(secret, &mut *hex);
        text.push_str(name);
        text.push(' ');
        hex.iter().for_each(|&digit| text.push(char::from(digit)));
        text.push('\n');
    }
    dir.write_secret(file, text.as_bytes())
}

fn load<const N: usize>(
    dir: &StateDir,
    file: &str,
    title: &str,
    names: [&str; N],
) -> Result<Option<[Key32; N]>, StateError> {
    let Some(content) = dir.read_secret(file)? else {
        return Ok(None);
    };
    match parse(&content, title, names) {
        Some(keys) => Ok(Some(keys)),
        None => Err(StateError::BadKeys(dir.path_of(file)?)),
    }
}

fn parse<const N: usize>(content: &[u8], title: &str, names: [&str; N]) -> Option<[Key32; N]> {
    let mut lines = std::str::from_utf8(content).ok()?.lines();
    if lines.next()? != title {
        return None;
    }
    let mut keys = Vec::with_capacity(N);
    for name in names {
        let hex = lines
            .next()?
            .strip_prefix(name)?
            .strip_prefix(' ')?
            .as_bytes();
        let mut key = Zeroizing::new([0; 32]);
        // Any other length of text would make decode_mut panic.
        if hex.len() != 2 * key.len() {
            return None;
        }
        HEXLOWER_PERMISSIVE.decode_mut(hex, &mut *key).ok()?;
        keys.push(Key32::new(*key));
    }
    match lines.next() {
        None => keys.try_into().ok(),
        Some(_) => None,
    }
}
