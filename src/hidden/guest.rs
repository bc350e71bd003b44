//! Keys of visitors: a hidden seed may let in only those whose keys it knows (PROTOCOL.md §8.3). A visitor has another key for each
//! seed, so that two seeds which let in the same person can't find that out.

use std::fmt;
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use hushswarm_circuits::keys::{DhSecret, derive_key};
use hushswarm_circuits::rendezvous::message::Guests;
use rand::CryptoRng;
use zeroize::Zeroizing;

use crate::error::{Error, Exit};
use crate::hush::SeedKey;
use crate::onion::BASE32;
use crate::state::StateDir;

/// Before a key in text.
pub const PREFIX: &str = "hush:x25519:";
/// Characters of base32 for 32 bytes.
const KEY_LEN: usize = 52;
const TITLE: &str = "hushswarm visitor's key v1";
/// Derives a file's name from the seed's key.
const FILE: &str = "hushswarm v1 file of a visitor's key";
/// Room for a file's text, so that it never grows: a string that does leaves copies behind.
const TEXT_LEN: usize = 128;

/// The public key of a visitor, for one hidden seed (X25519): `hush:x25519:` and 52 characters of base32 (RFC 4648, no padding, either
/// case). `Debug` hides it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestKey([u8; 32]);

/// This is not a visitor's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a key for a hidden seed: a visitor makes one with \"hushswarm visitor-key\" and the seed's link, which prints \"hush:x25519:\" and 52 letters and digits"
)]
pub struct NotAGuest;

impl FromStr for GuestKey {
    type Err = NotAGuest;

    fn from_str(text: &str) -> Result<Self, NotAGuest> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(NotAGuest)?;
        if text.len() != KEY_LEN {
            return Err(NotAGuest);
        }
        let base32 = BASE32.as_ref().ok_or(NotAGuest)?;
        let raw = base32.decode(text.as_bytes()).map_err(|_| NotAGuest)?;
        raw.try_into().map(Self).map_err(|_| NotAGuest)
    }
}

impl fmt::Display for GuestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base32 = BASE32.as_ref().map(|base32| base32.encode(&self.0));
        let text = base32.unwrap_or_default();
        // Without padding.
        write!(f, "{PREFIX}{}", text.get(..KEY_LEN).unwrap_or_default())
    }
}

impl fmt::Debug for GuestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[visitor's key]")
    }
}

impl From<&DhSecret> for GuestKey {
    fn from(secret: &DhSecret) -> Self {
        Self(secret.public())
    }
}

/// Lets in the holders of these keys.
pub fn guests(keys: impl IntoIterator<Item = GuestKey>) -> Guests {
    Guests::new(keys.into_iter().map(|key| key.0))
}

/// The key with which this state folder visits a seed: the one that is there, or a new one, kept 0600. The file's name does not say
/// which seed it is for. Nothing is sent. This blocks.
///
/// # Errors
/// The file is damaged or was open to others, or the disk: tell the user. A file that is there is never replaced.
pub fn make_key(
    state: &StateDir,
    seed: &SeedKey,
    rng: &mut dyn CryptoRng,
) -> Result<DhSecret, Error> {
    if let Some(secret) = find_key(state, seed)? {
        return Ok(secret);
    }
    let secret = DhSecret::generate(rng);
    let mut text = Zeroizing::new(String::with_capacity(TEXT_LEN));
    text.push_str(TITLE);
    text.push_str("\nsecret ");
    for byte in secret.to_bytes().iter() {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
        }
    }
    text.push('\n');
    state.write_secret(&file_name(seed), text.as_bytes())?;
    Ok(secret)
}

/// The key with which this state folder visits a seed, where there is one. This blocks.
///
/// # Errors
/// The file is damaged or was open to others, or the disk: tell the user.
pub fn find_key(state: &StateDir, seed: &SeedKey) -> Result<Option<DhSecret>, Error> {
    let file = file_name(seed);
    let Some(content) = state.read_secret(&file)? else {
        return Ok(None);
    };
    if let Some(secret) = parse(&content) {
        return Ok(Some(secret));
    }
    let path = state.path_of(&file)?;
    let what = format!(
        "{} is not a visitor's key, or a damaged one",
        path.display()
    );
    Err(Error::local(what)
        .with_hint("put it back from a backup; or move it away, make a new key with \"hushswarm visitor-key\", and send that")
        .with_exit(Exit::Disk))
}

/// It does not name the seed; who guesses which it is can check it.
fn file_name(seed: &SeedKey) -> String {
    let digest = derive_key(FILE, &[&seed.0]);
    let (short, _) = digest.as_bytes().split_at(16);
    format!("visitor-{}.key", HEXLOWER.encode(short))
}

fn parse(content: &[u8]) -> Option<DhSecret> {
    let rest = content.strip_prefix(TITLE.as_bytes())?;
    let hex = rest.strip_prefix(b"\nsecret ")?.strip_suffix(b"\n")?;
    let mut secret = Zeroizing::new([0; 32]);
    // Any other length of text would make decode_mut panic.
    if hex.len() != 2 * secret.len() {
        return None;
    }
    HEXLOWER_PERMISSIVE.decode_mut(hex, &mut *secret).ok()?;
    Some(DhSecret::from_bytes(*secret))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    fn folder() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path().join("state")).unwrap();
        (dir, state)
    }

    #[test]
    fn a_visitor_has_one_key_for_each_seed_and_keeps_it() {
        let (_dir, state) = folder();
        let seeds = [1, 2].map(|n| SeedKey([n; 32]));
        assert!(find_key(&state, &seeds[0]).unwrap().is_none());
        let made = seeds.map(|seed| make_key(&state, &seed, &mut rand::rng()).unwrap());
        assert_ne!(made[0].public(), made[1].public());
        for (seed, made) in seeds.iter().zip(&made) {
            let again = make_key(&state, seed, &mut rand::rng()).unwrap();
            assert_eq!(again.public(), made.public());
            let found = find_key(&state, seed).unwrap().unwrap();
            assert_eq!(found.public(), made.public());
            let path = state.path_of(&file_name(seed)).unwrap();
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.len() <= TEXT_LEN);
            // Neither the name nor the text tells whom it is for.
            let told = format!("{} {text}", path.display());
            assert!(!told.contains(&HEXLOWER.encode(&seed.0)[..8]));
            assert!(!told.contains(&seed.host()[..8]));
        }
    }

    #[test]
    fn a_damaged_file_is_told_and_left_as_it_is() {
        let (_dir, state) = folder();
        let seed = SeedKey([1; 32]);
        make_key(&state, &seed, &mut rand::rng()).unwrap();
        let path = state.path_of(&file_name(&seed)).unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        for bad in [
            String::new(),
            good.replace("v1", "v2"),
            good[..good.len() - 2].to_owned(),
            format!("{good}\n"),
        ] {
            std::fs::write(&path, &bad).unwrap();
            let error = make_key(&state, &seed, &mut rand::rng()).unwrap_err();
            assert!(error.hint().unwrap().contains("backup"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), bad);
        }
        std::fs::write(&path, &good).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(find_key(&state, &seed).is_err());
    }

    #[test]
    fn what_is_no_key_of_a_visitor_is_refused() {
        let good = GuestKey([1; 32]).to_string();
        assert_eq!(good.len(), PREFIX.len() + KEY_LEN);
        for text in [
            "",
            PREFIX,
            &good[1..],
            &good[..good.len() - 1],
            &format!("{good}a"),
            &good.replace("hush:", "descriptor:"),
            // Bits beyond the key.
            &format!("{}b", &good[..good.len() - 1]),
            &format!("{PREFIX}{}", "é".repeat(26)),
        ] {
            assert_eq!(text.parse::<GuestKey>(), Err(NotAGuest), "{text}");
        }
        assert_eq!(format!("{:?}", GuestKey([1; 32])), "[visitor's key]");
    }

    proptest! {
        #[test]
        fn every_key_is_read_as_it_is_written(key: [u8; 32]) {
            let text = GuestKey(key).to_string();
            prop_assert_eq!(format!(" {text}\n").parse(), Ok(GuestKey(key)));
            let capitals = text[PREFIX.len()..].to_uppercase();
            prop_assert_eq!(format!("{PREFIX}{capitals}").parse(), Ok(GuestKey(key)));
        }

        #[test]
        fn no_text_or_file_makes_it_panic(text in "(hush:x25519:)?\\PC*", file in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(key) = text.parse::<GuestKey>() {
                prop_assert!(key.to_string().eq_ignore_ascii_case(text.trim()));
            }
            prop_assert!(parse(&file).is_none());
        }
    }
}
