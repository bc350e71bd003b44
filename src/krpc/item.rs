//! Items that the DHT keeps (BEP 44): immutable ones, whose target is a hash of the value, and mutable ones, which a key signs.
//! An [`Item`] that exists was checked.

use std::fmt;

use hushswarm_circuits::keys::{IdentityKey, RelayId, SIGNATURE_LEN};
use sha1::{Digest as _, Sha1};

use super::id::Id;
use crate::bencode::{self, Value};

/// Longest value as it stands in a message, bencoded, bytes (BEP 44).
pub const MAX_VALUE: usize = 1000;
/// Longest salt, bytes (BEP 44).
pub const MAX_SALT: usize = 64;
/// Length of a key, bytes.
pub const KEY_LEN: usize = 32;

/// Why something is no item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ItemError {
    /// Longer than [`MAX_VALUE`].
    #[error("the value is longer than an item may be")]
    TooLong,
    /// Longer than [`MAX_SALT`].
    #[error("the salt is longer than 64 bytes")]
    LongSalt,
    /// Not one bencoded value.
    #[error("the value is not bencoded")]
    NotBencode,
    /// Sequence numbers begin at zero.
    #[error("the sequence number is negative")]
    Negative,
    /// Another key's signature, or another value's, or a key that anybody can sign for.
    #[error("the signature does not hold")]
    Forged,
    /// An item, but not the one that was asked for.
    #[error("the item has another name")]
    Other,
}

/// Under what an item is found: its target, and the salt where it is mutable and has one. Hidden in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct ItemName {
    target: Id,
    salt: Vec<u8>,
}

impl ItemName {
    /// The item with this target; a mutable one has this salt, or none where it is empty.
    ///
    /// # Errors
    /// The salt is too long.
    pub fn new(target: Id, salt: &[u8]) -> Result<Self, ItemError> {
        if salt.len() > MAX_SALT {
            return Err(ItemError::LongSalt);
        }
        Ok(Self {
            target,
            salt: salt.to_vec(),
        })
    }

    /// The immutable item with this bencoded value.
    pub fn immutable(value: &[u8]) -> Self {
        Self {
            target: Id(Sha1::digest(value).into()),
            salt: Vec::new(),
        }
    }

    /// The mutable item of this key, with this salt: `SHA-1(key | salt)`.
    ///
    /// # Errors
    /// The salt is too long.
    pub fn mutable(key: &[u8; KEY_LEN], salt: &[u8]) -> Result<Self, ItemError> {
        let target = Sha1::new().chain_update(key).chain_update(salt).finalize();
        Self::new(Id(target.into()), salt)
    }

    /// Whom the DHT is asked for.
    pub fn target(&self) -> Id {
        self.target
    }

    /// The salt; empty where there is none.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }
}

impl fmt::Debug for ItemName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[item name]")
    }
}

/// Who signed a mutable item, and what with the value.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed {
    /// The key, Ed25519.
    pub key: [u8; KEY_LEN],
    /// Tells several items of one key apart; empty where it has one.
    pub salt: Vec<u8>,
    /// The newest has the highest; never negative.
    pub seq: i64,
    /// Over salt, sequence number and value.
    pub signature: [u8; SIGNATURE_LEN],
    /// Put only where the stored item has this sequence number (compare and swap).
    pub cas: Option<i64>,
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[signed]")
    }
}

/// An item: a bencoded value, and who signed it where it is mutable. Checked, and hidden in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Item {
    value: Vec<u8>,
    signed: Option<Box<Signed>>,
}

impl Item {
    /// The immutable item with this value, which is bencoded.
    ///
    /// # Errors
    /// The value is too long or not bencoded.
    pub fn immutable(value: &[u8]) -> Result<Self, ItemError> {
        check(value)?;
        Ok(Self {
            value: value.to_vec(),
            signed: None,
        })
    }

    /// A mutable item as somebody gives it.
    ///
    /// # Errors
    /// It breaks a limit or its signature does not hold.
    pub fn mutable(
        key: &[u8; KEY_LEN],
        salt: &[u8],
        seq: i64,
        value: &[u8],
        signature: &[u8; SIGNATURE_LEN],
    ) -> Result<Self, ItemError> {
        let message = message(salt, seq, value)?;
        // Refuses keys of small order too, for which anybody can sign.
        if !RelayId(*key).verify(&[&message], signature) {
            return Err(ItemError::Forged);
        }
        Ok(Self::from_signed(value, key, salt, seq, signature))
    }

    /// Signs a mutable item.
    ///
    /// # Errors
    /// It breaks a limit.
    pub fn sign(key: &IdentityKey, salt: &[u8], seq: i64, value: &[u8]) -> Result<Self, ItemError> {
        let signature = key.sign(&[&message(salt, seq, value)?]);
        Ok(Self::from_signed(
            value,
            &key.public().0,
            salt,
            seq,
            &signature,
        ))
    }

    fn from_signed(
        value: &[u8],
        key: &[u8; KEY_LEN],
        salt: &[u8],
        seq: i64,
        signature: &[u8; SIGNATURE_LEN],
    ) -> Self {
        let signed = Signed {
            key: *key,
            salt: salt.to_vec(),
            seq,
            signature: *signature,
            cas: None,
        };
        Self {
            value: value.to_vec(),
            signed: Some(Box::new(signed)),
        }
    }

    /// Puts it only where the stored one has this sequence number. Nothing changes for an immutable one.
    #[must_use]
    pub fn with_cas(mut self, cas: Option<i64>) -> Self {
        if let Some(signed) = &mut self.signed {
            signed.cas = cas;
        }
        self
    }

    /// Under what it is found.
    pub fn name(&self) -> ItemName {
        let Some(signed) = &self.signed else {
            return ItemName::immutable(&self.value);
        };
        let target = Sha1::new()
            .chain_update(signed.key)
            .chain_update(&signed.salt)
            .finalize();
        ItemName {
            target: Id(target.into()),
            salt: signed.salt.clone(),
        }
    }

    /// Whom the DHT is asked for to find it.
    pub fn target(&self) -> Id {
        self.name().target
    }

    /// The value, bencoded.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// Who signed it; `None` where it is immutable.
    pub fn signed(&self) -> Option<&Signed> {
        self.signed.as_deref()
    }

    /// The sequence number; `None` where it is immutable.
    pub fn seq(&self) -> Option<i64> {
        self.signed.as_ref().map(|signed| signed.seq)
    }

    /// Checks that it is the one of this name.
    ///
    /// # Errors
    /// It is another one.
    pub fn named(self, name: &ItemName) -> Result<Self, ItemError> {
        // An immutable item has no salt to compare, and needs none: its value is what the target says.
        let found = self.name();
        let same_salt = self.signed.is_none() || found.salt == name.salt;
        if found.target == name.target && same_salt {
            Ok(self)
        } else {
            Err(ItemError::Other)
        }
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[item]")
    }
}

fn check(value: &[u8]) -> Result<(), ItemError> {
    if value.len() > MAX_VALUE {
        return Err(ItemError::TooLong);
    }
    Value::parse(value)
        .map(|_| ())
        .map_err(|_| ItemError::NotBencode)
}

/// What a key signs (BEP 44): the entries `salt`, where there is one, `seq` and `v` as they would stand in a dictionary.
fn message(salt: &[u8], seq: i64, value: &[u8]) -> Result<Vec<u8>, ItemError> {
    check(value)?;
    if salt.len() > MAX_SALT {
        return Err(ItemError::LongSalt);
    }
    if seq < 0 {
        return Err(ItemError::Negative);
    }
    let mut out = Vec::with_capacity(value.len() + salt.len() + 48);
    if !salt.is_empty() {
        bencode::put_bytes(&mut out, b"salt");
        bencode::put_bytes(&mut out, salt);
    }
    bencode::put_bytes(&mut out, b"seq");
    bencode::put_int(&mut out, seq);
    bencode::put_bytes(&mut out, b"v");
    out.extend_from_slice(value);
    Ok(out)
}

#[cfg(test)]
mod tests;
