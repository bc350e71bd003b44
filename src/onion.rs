//! Names of onion services, version 3 (Tor's rend-spec-v3 §6): an Ed25519 key, and the address that people and programs
//! write for it. Nothing here needs Tor.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, LazyLock};

use data_encoding::{Encoding, Specification};
use sha3::{Digest as _, Sha3_256};

/// The only version that Tor's network still has.
const VERSION: u8 = 3;
/// What the checksum is taken over first.
const CHECKSUM_CONTEXT: &[u8] = b".onion checksum";
/// Bytes of the checksum.
const CHECKSUM_LEN: usize = 2;
/// `key[32] | checksum[2] | version u8`.
const RAW_LEN: usize = 32 + CHECKSUM_LEN + 1;
/// What ends an address.
const SUFFIX: &str = ".onion";
/// Length of an address, bytes: 56 characters of base32, and `.onion`.
pub const ADDRESS_LEN: usize = RAW_LEN * 8 / 5 + SUFFIX.len();

/// Base32 of RFC 4648, read in either case and written small, as Tor does.
pub(crate) static BASE32: LazyLock<Option<Encoding>> = LazyLock::new(|| {
    let mut base32 = Specification::new();
    base32.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    base32.translate.from.push_str("ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    base32.translate.to.push_str("abcdefghijklmnopqrstuvwxyz");
    base32.encoding().ok()
});

/// The key of an onion service, which is its name. Whether it is a key at all (a point of the curve), Tor finds out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OnionKey(pub [u8; 32]);

impl OnionKey {
    /// `<56 characters>.onion`, in small letters: `base32(key | checksum | version)`.
    pub fn address(&self) -> String {
        let mut raw = [VERSION; RAW_LEN];
        raw[..32].copy_from_slice(&self.0);
        raw[32..32 + CHECKSUM_LEN].copy_from_slice(&self.checksum());
        let mut text = BASE32
            .as_ref()
            .map(|base32| base32.encode(&raw))
            .unwrap_or_default();
        text.push_str(SUFFIX);
        text
    }

    /// Reads `<56 characters>.onion`, in letters of either case, with nothing before or after it. `None` where it is
    /// something else, has a wrong checksum, or is of another version.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != ADDRESS_LEN {
            return None;
        }
        let (name, suffix) = text.split_at_checked(ADDRESS_LEN - SUFFIX.len())?;
        if !suffix.eq_ignore_ascii_case(SUFFIX) {
            return None;
        }
        let raw = BASE32.as_ref()?.decode(name.as_bytes()).ok()?;
        let (key, rest) = raw.split_first_chunk()?;
        let key = Self(*key);
        let [first, second] = key.checksum();
        (rest == [first, second, VERSION]).then_some(key)
    }

    /// The service that this host belongs to: names below an address (`www.<56 characters>.onion`) lead to the same one.
    pub fn of_host(host: &str) -> Option<Self> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let at = host.len().checked_sub(ADDRESS_LEN)?;
        let (before, address) = host.split_at_checked(at)?;
        let whole = before.is_empty() || before.ends_with('.');
        whole.then(|| Self::parse(address)).flatten()
    }

    /// `SHA3-256(".onion checksum" | key | version)[..2]`.
    fn checksum(&self) -> [u8; CHECKSUM_LEN] {
        let hash = Sha3_256::new()
            .chain_update(CHECKSUM_CONTEXT)
            .chain_update(self.0)
            .chain_update([VERSION])
            .finalize();
        [hash[0], hash[1]]
    }
}

/// What an onion service is like. `Key` is a visitor's.
#[derive(Clone, Debug)]
pub struct OnionOptions<Key> {
    /// Its name in Tor's folder: letters and digits. The same one finds its key again.
    pub nickname: String,
    /// Its only port.
    pub port: u16,
    /// Its key is kept in memory alone and forgotten at the end, so that each start has another address.
    pub ephemeral: bool,
    /// Those who find it; everybody, where there are none.
    pub allow: Vec<Key>,
    /// Who comes.
    pub visitors: Visitors,
}

/// Who comes to an onion service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visitors {
    /// Peers of torrents.
    Peers,
    /// Clients of a relay: more at a time, and each stays for as long as its link lives.
    Links,
}

/// Which onion services are visited with the key by which they let us in, where we have one. Such a visit says who we are, so
/// that only those are visited like that whom the user chose, and not whom others tell of.
#[derive(Clone, Debug, Default)]
pub enum Chosen {
    /// All that are asked for: by programs of the user's.
    #[default]
    All,
    /// These.
    These(Arc<BTreeSet<OnionKey>>),
}

impl Chosen {
    /// Whether the service of this host is among them.
    pub fn has(&self, host: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(_) => OnionKey::of_host(host).is_some_and(|service| self.names(&service)),
        }
    }

    /// Whether this service is.
    pub fn names(&self, service: &OnionKey) -> bool {
        match self {
            Self::All => true,
            Self::These(these) => these.contains(service),
        }
    }
}

impl FromIterator<OnionKey> for Chosen {
    fn from_iter<T: IntoIterator<Item = OnionKey>>(these: T) -> Self {
        Self::These(Arc::new(these.into_iter().collect()))
    }
}

impl fmt::Debug for OnionKey {
    /// Never the name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnionKey([scrubbed])")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of rend-spec-v3 §6, "Encoding onion addresses".
    const KNOWN: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";

    #[test]
    fn the_specifications_example_is_read_and_written_again() {
        let key = OnionKey::parse(KNOWN).unwrap();
        assert_eq!(key.address(), KNOWN);
        assert_eq!(
            OnionKey::parse(&KNOWN.to_ascii_uppercase()),
            Some(key),
            "case does not matter"
        );
        assert_eq!(KNOWN.len(), ADDRESS_LEN);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let wrong_version = KNOWN.replace("yd.onion", "yc.onion");
        let wrong_sum = KNOWN.replacen("pg6", "pg7", 1);
        let inside = format!("a.{KNOWN}");
        let dotted = format!("{KNOWN}.");
        for text in [
            "",
            ".onion",
            "expyuzz4wqqyqhjn.onion",
            "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd",
            "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onio1",
            &wrong_version,
            &wrong_sum,
            &inside,
            &dotted,
        ] {
            assert_eq!(OnionKey::parse(text), None, "{text}");
        }
    }

    #[test]
    fn names_below_an_address_are_the_same_service() {
        let key = OnionKey::parse(KNOWN);
        let chosen: Chosen = key.into_iter().collect();
        for host in [
            KNOWN.to_owned(),
            format!("www.{KNOWN}"),
            format!("{KNOWN}."),
        ] {
            assert_eq!(OnionKey::of_host(&host), key, "{host}");
            assert!(chosen.has(&host) && Chosen::All.has(&host));
        }
        for host in ["", "onion", "example.org", &format!("a{KNOWN}")] {
            assert_eq!(OnionKey::of_host(host), None, "{host}");
            assert!(!chosen.has(host));
        }
        assert!(!chosen.has(&OnionKey([7; 32]).address()));
    }

    #[test]
    fn its_debug_hides_the_name() {
        let key = OnionKey([7; 32]);
        let shown = format!("{key:?}");
        assert!(!shown.contains('7') && !shown.contains(&key.address()));
    }

    #[cfg(feature = "tor")]
    proptest! {
        #[test]
        fn arti_reads_and_writes_the_same_addresses(key: [u8; 32]) {
            use safelog::DisplayRedacted as _;
            use tor_hscrypto::pk::HsId;
            let id = HsId::from(key);
            prop_assert_eq!(id.display_unredacted().to_string(), OnionKey(key).address());
            prop_assert_eq!(OnionKey(key).address().parse::<HsId>().unwrap(), id);
        }
    }

    proptest! {
        #[test]
        fn every_key_is_read_as_it_is_written(key: [u8; 32]) {
            let address = OnionKey(key).address();
            prop_assert_eq!(address.len(), ADDRESS_LEN);
            prop_assert_eq!(OnionKey::parse(&address), Some(OnionKey(key)));
        }

        #[test]
        fn a_changed_character_is_never_the_same_key(key: [u8; 32], at in 0..56_usize, to in "[a-z2-7]") {
            let address = OnionKey(key).address();
            let mut changed = address.clone();
            changed.replace_range(at..=at, &to);
            if changed != address {
                prop_assert_ne!(OnionKey::parse(&changed), Some(OnionKey(key)));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,70}(\\.onion)?") {
            if let Some(key) = OnionKey::parse(&text) {
                prop_assert_eq!(key.address(), text.to_ascii_lowercase());
            }
        }
    }
}
