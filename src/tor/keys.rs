//! Keys of visitors: an onion service that lets in only some (Tor's "restricted discovery", rend-spec-v3 "client
//! authorization") encrypts where it can be met to their keys, so that nobody else finds it.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use tor_hscrypto::pk::{HsClientDescEncKey, HsId};
use tor_keymgr::KeystoreSelector;
use tor_llcrypto::pk::curve25519::{PublicKey, StaticSecret};

use super::{TorError, client};

/// Instead of a key: nobody is let in.
const NOBODY: &str = "nobody";

/// The public key of a visitor, written as Tor does: `descriptor:x25519:` and 52 characters of base32 (RFC 4648, no
/// padding, either case).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VisitorKey(HsClientDescEncKey);

/// This is not a visitor's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a key of Tor's: a visitor makes one with \"hushswarm onion-key\", which prints \"descriptor:x25519:\" and 52 letters and digits; \"nobody\" lets nobody in"
)]
pub struct NotAKey;

impl VisitorKey {
    /// A key whose other half nobody has: it was forgotten.
    fn nobody() -> Self {
        let secret = StaticSecret::random_from_rng(rand::rng());
        Self(HsClientDescEncKey::from(PublicKey::from(&secret)))
    }

    pub(super) fn tor(&self) -> &HsClientDescEncKey {
        &self.0
    }
}

impl FromStr for VisitorKey {
    type Err = NotAKey;

    /// Reads a key, or `nobody`, which makes one that nobody has.
    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let text = text.trim();
        if text == NOBODY {
            return Ok(Self::nobody());
        }
        // Before Tor's parser, which makes capitals of letters that are no ASCII.
        if !text.is_ascii() {
            return Err(NotAKey);
        }
        let key: HsClientDescEncKey = text.parse().map_err(|_| NotAKey)?;
        // A few keys give everybody the same secret: with them, the service would be open.
        let any = StaticSecret::random_from_rng(rand::rng());
        if any.diffie_hellman(&key).was_contributory() {
            Ok(Self(key))
        } else {
            Err(NotAKey)
        }
    }
}

impl fmt::Display for VisitorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The key with which Tor in this folder visits an onion service: the one that is there, or a new one. Nothing is sent,
/// and a running Tor finds it. `None` where that is no onion service's address.
///
/// # Errors
/// The folder can't be used: tell the user.
pub fn visitor_key(folder: &Path, address: &str) -> Result<Option<VisitorKey>, TorError> {
    let Ok(service) = address.parse::<HsId>() else {
        return Ok(None);
    };
    let keys = client::inert(folder)?;
    let found = keys.get_service_discovery_key(service);
    let key = match found.map_err(|error| TorError::from_arti(&error))? {
        Some(key) => key,
        None => keys
            .generate_service_discovery_key(KeystoreSelector::Primary, service)
            .map_err(|error| TorError::from_arti(&error))?,
    };
    Ok(Some(VisitorKey(key)))
}

/// Whether Tor in this folder has a key with which it visits an onion service. Nothing is sent or made.
///
/// # Errors
/// The folder can't be used: tell the user.
pub fn has_visitor_key(folder: &Path, address: &str) -> Result<bool, TorError> {
    let Ok(service) = address.parse::<HsId>() else {
        return Ok(false);
    };
    let found = client::inert(folder)?.get_service_discovery_key(service);
    let found = found.map_err(|error| TorError::from_arti(&error))?;
    Ok(found.is_some())
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE32_NOPAD;
    use proptest::prelude::*;

    use super::*;

    fn written(bytes: &[u8]) -> String {
        format!("descriptor:x25519:{}", BASE32_NOPAD.encode(bytes))
    }

    #[test]
    fn nobody_is_somebody_else_each_time() {
        let [a, b] = [(); 2].map(|()| NOBODY.parse::<VisitorKey>().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.to_string().parse(), Ok(a));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let mut one = [0; 32];
        one[0] = 1;
        for text in [
            "",
            "descriptor:x25519:",
            "descriptor:x25519:aa",
            "x25519:descriptor:dz4q5xqlb4ldnbs72iarrml4ephk3du4i7o2cgiva5lwr6wkquja",
            "descriptor:x25519:dz4q5xqlb4ldnbs72iarrml4ephk3du4i7o2cgiva5lwr6wkqujaa",
            "descriptor:x25519:dz4q5xqlb4ldnbs72iarrml4ephk3du4i7o2cgıva5lwr6wkquja",
            "Nobody",
            // With these, the secret is the same for everybody.
            &written(&[0; 32]),
            &written(&one),
        ] {
            assert_eq!(text.parse::<VisitorKey>(), Err(NotAKey), "{text}");
        }
    }

    #[tokio::test]
    async fn a_visitors_key_stays_the_same_for_a_service_and_differs_between_services() {
        let dir = tempfile::TempDir::new().unwrap();
        let address = |byte: u8| {
            use safelog::DisplayRedacted as _;
            HsId::from([byte; 32]).display_unredacted().to_string()
        };
        let key = |address: &str| visitor_key(dir.path(), address).unwrap();
        let has = |byte| has_visitor_key(dir.path(), &address(byte)).unwrap();
        assert!(!has(1));
        let first = key(&address(1)).unwrap();
        assert!(has(1) && !has(2));
        assert_eq!(key(&address(1)), Some(first.clone()));
        assert_eq!(key(&address(1).to_ascii_uppercase()), Some(first.clone()));
        assert_ne!(key(&address(2)), Some(first));
        let mut wrong = address(1);
        wrong.replace_range(..1, "z");
        for none in ["", "onion", "example.org", &wrong] {
            assert_eq!(key(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(descriptor:)?(x25519:)?\\PC*") {
            if let Ok(key) = text.parse::<VisitorKey>() {
                prop_assert!(text.trim() == NOBODY || text.trim().eq_ignore_ascii_case(&key.to_string()));
            }
        }

        #[test]
        fn every_key_is_read_as_it_is_written(secret in any::<[u8; 32]>()) {
            let public = PublicKey::from(&StaticSecret::from(secret));
            let text = written(public.as_bytes());
            let key: VisitorKey = text.parse().unwrap();
            prop_assert_eq!(key.to_string(), text.clone());
            prop_assert_eq!(text.to_ascii_lowercase().parse(), Ok(key.clone()));
            prop_assert_eq!(format!(" {text}\n").parse(), Ok(key));
        }
    }
}
