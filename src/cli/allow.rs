//! Whom `hushswarm seed` lets in: keys of visitors, for onion services or for hidden seeds.

use std::str::FromStr;

use hushswarm_circuits::rendezvous::message::{Guests, MAX_GUESTS};

use super::tor::{MAX_VISITOR_KEYS, VisitorKey};
use crate::error::{Error, Exit, Kind};
use crate::hidden::{GUEST_PREFIX, GuestKey, guests};

/// Instead of a key: nobody is let in yet.
const NOBODY: &str = "nobody";

/// A word of `--allow`.
#[derive(Clone, Debug)]
pub(super) enum Allowed {
    /// Nobody.
    Nobody,
    /// Who has this key for an onion service.
    Onion(VisitorKey),
    /// Who has this key for a hidden seed.
    Hidden(GuestKey),
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == NOBODY {
            return Ok(Self::Nobody);
        }
        if text.starts_with(GUEST_PREFIX) {
            let key = text.parse();
            return key
                .map(Self::Hidden)
                .map_err(|error: crate::hidden::NotAGuest| error.to_string());
        }
        let key = text.parse::<VisitorKey>();
        key.map(Self::Onion).map_err(|error| error.to_string())
    }
}

/// Whom a hidden seed lets in; `None` where nothing was said: all who know the torrent.
///
/// # Errors
/// One of the keys is for something else, or there are too many: tell the user.
pub(super) fn of_hidden(allowed: &[Allowed]) -> Result<Option<Guests>, Error> {
    if allowed.len() > MAX_GUESTS {
        return Err(wrong(format!(
            "more than {MAX_GUESTS} keys: a hidden seed lets in no more"
        )));
    }
    let mut keys = Vec::with_capacity(allowed.len());
    for word in allowed {
        match word {
            Allowed::Nobody => {}
            Allowed::Hidden(key) => keys.push(*key),
            Allowed::Onion(_) => {
                let what = "that key is for an onion service: seed --over tor, or ask for the key that \"hushswarm visitor-key\" prints for this seed's own link";
                return Err(wrong(what.to_owned()));
            }
        }
    }
    Ok((!allowed.is_empty()).then(|| guests(keys)))
}

/// Whom onion services let in; empty where nothing was said: all who have the address.
///
/// # Errors
/// One of the keys is for something else, or there are too many: tell the user.
pub(super) fn of_onion(allowed: &[Allowed]) -> Result<Vec<VisitorKey>, Error> {
    if allowed.len() > MAX_VISITOR_KEYS {
        return Err(wrong(format!(
            "more than {MAX_VISITOR_KEYS} keys: an onion service has no room for them"
        )));
    }
    let key = |word: &Allowed| {
        match word {
        // It stands for a key that nobody has.
        Allowed::Nobody => NOBODY.parse::<VisitorKey>().map_err(|error| wrong(error.to_string())),
        Allowed::Onion(key) => Ok(key.clone()),
        Allowed::Hidden(_) => Err(wrong(
            "that key is for a hidden seed: leave --over tor out, or ask for the key that \"hushswarm onion-key\" prints for the onion service's link".to_owned(),
        )),
    }
    };
    allowed.iter().map(key).collect()
}

fn wrong(what: String) -> Error {
    Error::new(Kind::Local, what).with_exit(Exit::Usage)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hushswarm_circuits::keys::DhSecret;

    use super::*;

    fn key(byte: u8) -> String {
        GuestKey::from(&DhSecret::from_bytes([byte; 32])).to_string()
    }

    fn allowed(words: &[&str]) -> Vec<Allowed> {
        words.iter().map(|word| word.parse().unwrap()).collect()
    }

    #[test]
    fn a_hidden_seed_is_open_until_somebody_or_nobody_is_named() {
        assert_eq!(of_hidden(&[]).unwrap(), None);
        let nobody = of_hidden(&allowed(&["nobody"])).unwrap();
        assert_eq!(nobody, Some(Guests::new([])));
        let two = of_hidden(&allowed(&["nobody", &key(1), &key(2), &key(1)])).unwrap();
        let keys = [1, 2].map(|byte| DhSecret::from_bytes([byte; 32]).public());
        assert_eq!(two, Some(Guests::new(keys)));
        assert!(of_hidden(&vec![Allowed::Nobody; MAX_GUESTS + 1]).is_err());
        assert_eq!(
            format!("{:?}", allowed(&[&key(1)])),
            "[Hidden([visitor's key])]"
        );
    }

    #[test]
    fn a_key_for_the_other_kind_of_seed_is_told_apart() {
        let error = of_onion(&allowed(&[&key(1)])).unwrap_err();
        assert!(error.to_string().contains("for a hidden seed"), "{error}");
        for wrong in ["hush:x25519:", "hush:x25519:abc", &key(1)[..60]] {
            let error = wrong.parse::<Allowed>().unwrap_err();
            assert!(error.contains("hushswarm visitor-key"), "{error}");
        }
    }

    #[cfg(feature = "tor")]
    #[test]
    fn an_onion_services_key_opens_no_hidden_seed() {
        let key = VisitorKey::from_str(NOBODY).unwrap().to_string();
        let words = allowed(&[&key, "nobody"]);
        assert_eq!(of_onion(&words).unwrap().len(), 2);
        let error = of_hidden(&words).unwrap_err();
        assert!(
            error.to_string().contains("for an onion service"),
            "{error}"
        );
    }
}
