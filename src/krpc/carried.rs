//! Items as circuits carry them between an origin and an exit that looks up (PROTOCOL.md §5.8). Neither believes the other:
//! what comes is checked as if a node had sent it.

use hushswarm_circuits::dht::Item as Carried;

use super::item::{Item, ItemError};

impl Item {
    /// As it is sent.
    pub fn to_carried(&self) -> Carried {
        let value = self.value().to_vec();
        let Some(signed) = self.signed() else {
            return Carried::Immutable { value };
        };
        Carried::Mutable {
            key: signed.key,
            salt: signed.salt.clone(),
            // An item's number is never negative.
            seq: signed.seq.unsigned_abs(),
            signature: signed.signature,
            value,
        }
    }

    /// What came, if it is an item.
    ///
    /// # Errors
    /// It breaks a limit of BEP 44, or its signature does not hold: drop it.
    pub fn from_carried(carried: &Carried) -> Result<Self, ItemError> {
        match carried {
            Carried::Immutable { value } => Self::immutable(value),
            Carried::Mutable {
                key,
                salt,
                seq,
                signature,
                value,
            } => {
                let seq = i64::try_from(*seq).map_err(|_| ItemError::Negative)?;
                Self::mutable(key, salt, seq, value, signature)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hushswarm_circuits::keys::IdentityKey;

    use super::*;

    #[test]
    fn items_come_as_they_were_sent_and_others_not_at_all() {
        let key = IdentityKey::from_seed([7; 32]);
        let signed = Item::sign(&key, b"salt", 5, b"4:what").unwrap();
        let plain = Item::immutable(b"i7e").unwrap();
        for item in [&signed, &plain] {
            assert_eq!(Item::from_carried(&item.to_carried()).as_ref(), Ok(item));
        }
        let Carried::Mutable {
            key,
            salt,
            seq,
            signature,
            value,
        } = signed.to_carried()
        else {
            panic!()
        };
        let forged = Carried::Mutable {
            key,
            salt: salt.clone(),
            seq: seq + 1,
            signature,
            value: value.clone(),
        };
        assert_eq!(Item::from_carried(&forged), Err(ItemError::Forged));
        let late = Carried::Mutable {
            key,
            salt,
            seq: u64::MAX,
            signature,
            value,
        };
        assert_eq!(Item::from_carried(&late), Err(ItemError::Negative));
    }
}
