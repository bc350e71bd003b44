//! Names of hidden seeds on this computer (PROTOCOL.md §8.5): programs name a peer as a host, and a hidden seed is none. Nothing
//! here reaches anybody.

use std::fmt;

use crate::onion::BASE32;

/// What ends a name, below the zone that is for names outside the DNS (RFC 9476).
const SUFFIX: &str = ".hush.alt";
/// Characters of base32 for 32 bytes.
const KEY_LEN: usize = 52;
/// Length of a name, bytes.
pub const NAME_LEN: usize = KEY_LEN + SUFFIX.len();

/// A hidden seed, by its key in one swarm (X25519). `Debug` hides it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeedKey(pub [u8; 32]);

impl SeedKey {
    /// `<52 characters>.hush.alt`, in small letters.
    pub fn host(&self) -> String {
        let base32 = BASE32.as_ref().map(|base32| base32.encode(&self.0));
        // Without padding.
        let mut name = base32.unwrap_or_default();
        name.truncate(KEY_LEN);
        name.push_str(SUFFIX);
        name
    }

    /// Reads a name, in letters of either case, with nothing before it and at most a dot after it.
    pub fn of_host(host: &str) -> Option<Self> {
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.len() != NAME_LEN {
            return None;
        }
        let (name, suffix) = host.split_at_checked(KEY_LEN)?;
        if !suffix.eq_ignore_ascii_case(SUFFIX) {
            return None;
        }
        let raw = BASE32.as_ref()?.decode(name.as_bytes()).ok()?;
        raw.try_into().ok().map(Self)
    }
}

impl fmt::Debug for SeedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden seed]")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_name_of_a_seed_is_refused() {
        let name = SeedKey([0xff; 32]).host();
        assert_eq!(name, format!("{}q.hush.alt", "7".repeat(51)));
        assert_eq!(
            SeedKey::of_host(&format!("{name}.")),
            Some(SeedKey([0xff; 32]))
        );
        for wrong in [
            "",
            "hush.alt",
            &name[1..],
            &format!("a{name}"),
            &format!("www.{name}"),
            &format!("{name}.."),
            &name.replace('7', "1"),
            &name.replace("alt", "bit"),
            // Bits beyond the key.
            &name.replace("7q", "77"),
            &format!("{}é.hush.alt", "7".repeat(50)),
        ] {
            assert_eq!(SeedKey::of_host(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_key_comes_back(key: [u8; 32], text in "\\PC{0,70}") {
            let key = SeedKey(key);
            prop_assert_eq!(SeedKey::of_host(&key.host()), Some(key));
            prop_assert_eq!(SeedKey::of_host(&key.host().to_ascii_uppercase()), Some(key));
            let _ = SeedKey::of_host(&text);
        }
    }
}
