//! Who a hidden seed is: its keys in one swarm, and the relays that it stood at. A seed that keeps them is found by the same
//! link after a restart.
//!
//! A key of an introduction point is derived from a root, the relay and a generation, which is a counter: no two relays
//! ever see one key, and what one relay sees tells nothing of what another does.

use std::sync::Arc;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use hushswarm_circuits::keys::{DhSecret, IdentityKey, Key32, RelayId, derive_key};
use hushswarm_circuits::rendezvous::IntroductionId;
use hushswarm_circuits::rendezvous::contact::MAX_POINTS;
use rand::CryptoRng;
use zeroize::Zeroizing;

use crate::error::{Error, Exit};
use crate::hush::SeedKey;
use crate::state::{StateDir, StateError};

const TITLE: &str = "hushswarm hidden seed v1";
/// Room for the text of one with all its points, so that it never grows: a string that does leaves copies behind.
const TEXT_LEN: usize = 2048;
/// Derives an introduction key from `root[32] | relay[32] | generation u32 LE`.
const INTRODUCTION: &str = "hushswarm v1 introduction key";
/// Derives a quiet introduction key from the same and `number u32 LE`: the first that is quiet.
const QUIET: &str = "hushswarm v1 quiet introduction key";
/// The same for the first that is not, where the usual one is: visitors come to no quiet key of an open seed.
const LOUD: &str = "hushswarm v1 loud introduction key";
/// One in 256 is quiet: that none of so many is happens to nobody.
const MAX_TRIES: u32 = 1 << 14;
/// Derives a file's name from the infohash.
const FILE: &str = "hushswarm v1 file of a hidden seed";

/// An introduction point that the seed stood at, and would stand at again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) relay: RelayId,
    /// Of its key.
    pub(super) generation: u32,
}

impl Place {
    /// `relay[32] | generation u32 LE`.
    fn encode(&self) -> [u8; 36] {
        let mut out = [0; 36];
        let (relay, generation) = out.split_at_mut(32);
        relay.copy_from_slice(&self.relay.0);
        generation.copy_from_slice(&self.generation.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; 36]) -> Option<Self> {
        let (relay, generation) = bytes.split_first_chunk()?;
        Some(Self {
            relay: RelayId(*relay),
            generation: u32::from_le_bytes(generation.try_into().ok()?),
        })
    }
}

/// Where an identity is kept.
#[derive(Clone)]
struct Kept {
    dir: Arc<StateDir>,
    file: String,
}

/// One hidden seed in one swarm. `Debug` hides it.
pub struct Identity {
    secret: DhSecret,
    root: Key32,
    /// The next generation of an introduction key: one counter for all relays.
    next: u32,
    places: Vec<Place>,
    /// Its keys at introduction points are quiet ones (PROTOCOL.md §8.1).
    quiet: bool,
    /// The file tells less than this.
    unwritten: bool,
    kept: Option<Kept>,
}

impl Identity {
    /// A seed that nobody finds again after a restart. Nothing of it is stored.
    pub fn ephemeral(rng: &mut dyn CryptoRng) -> Self {
        Self {
            secret: DhSecret::generate(rng),
            root: Key32::generate(rng),
            next: 0,
            places: Vec::new(),
            quiet: false,
            unwritten: false,
            kept: None,
        }
    }

    /// The seed of this state folder in the swarm with this infohash; it is made at the first time. The file's name does not say which
    /// torrent it is. The folder's lock is to be held ([`StateDir::lock`]): two with the same keys would
    /// take each other's introduction points away. This blocks.
    ///
    /// # Errors
    /// The file is damaged or was open to others, or the disk: tell the user. A file that is there is never replaced by new keys.
    pub fn keep(
        state: &StateDir,
        swarm: &[u8; 20],
        rng: &mut dyn CryptoRng,
    ) -> Result<Self, Error> {
        let file = file_name(swarm);
        let kept = Kept {
            dir: Arc::new(StateDir::open(state.path())?),
            file,
        };
        if let Some(content) = kept.dir.read_secret(&kept.file)? {
            let mut identity = parse(&content).ok_or_else(|| damaged(&kept))?;
            identity.kept = Some(kept);
            return Ok(identity);
        }
        let identity = Self {
            kept: Some(kept),
            ..Self::ephemeral(rng)
        };
        if let Some(writing) = identity.writing() {
            writing.write()?;
        }
        Ok(identity)
    }

    /// The seed's public key, by which it is known in its swarm.
    pub fn key(&self) -> SeedKey {
        SeedKey(self.secret.public())
    }

    pub(super) fn secret(&self) -> &DhSecret {
        &self.secret
    }

    /// The key at an introduction point.
    pub(super) fn introduction(&self, place: &Place) -> IdentityKey {
        let generation = place.generation.to_le_bytes();
        let material = [&self.root.as_bytes()[..], &place.relay.0, &generation];
        let key = IdentityKey::from_seed(derive_key(INTRODUCTION, &material));
        let fits = |key: &IdentityKey| IntroductionId(key.public().0).is_quiet() == self.quiet;
        if !self.quiet && fits(&key) {
            return key;
        }
        let context = if self.quiet { QUIET } else { LOUD };
        let others = (0..MAX_TRIES).map(|number: u32| {
            let number = number.to_le_bytes();
            let material = [&material[..], &[&number[..]]].concat();
            IdentityKey::from_seed(derive_key(context, &material))
        });
        others.into_iter().find(fits).unwrap_or(key)
    }

    /// Has quiet keys at introduction points, or has not; others than it had, where that is new.
    pub(super) fn quiet(mut self, quiet: bool) -> Self {
        self.quiet = quiet;
        self
    }

    /// A generation that was never used.
    pub(super) fn next_generation(&mut self) -> u32 {
        let generation = self.next;
        // After four thousand million of them the first come again: long forgotten, and at other relays.
        self.next = self.next.wrapping_add(1);
        generation
    }

    /// Where it stood, oldest first.
    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }

    /// Says where it stands now, oldest first. Gives what is to be written, if it is kept and this is new.
    pub(super) fn stands_at(&mut self, mut places: Vec<Place>) -> Option<Writing> {
        places.truncate(MAX_POINTS);
        if places == self.places && !self.unwritten {
            return None;
        }
        self.places = places;
        self.unwritten = false;
        self.writing()
    }

    /// What was last given to be written was not: it is given again with the next news.
    pub(super) fn was_not_written(&mut self) {
        self.unwritten = true;
    }

    fn writing(&self) -> Option<Writing> {
        let kept = self.kept.clone()?;
        let mut text = Zeroizing::new(String::with_capacity(TEXT_LEN));
        text.push_str(TITLE);
        text.push('\n');
        line(&mut text, "secret", &*self.secret.to_bytes());
        line(&mut text, "root", self.root.as_bytes());
        line(&mut text, "next", &self.next.to_le_bytes());
        for place in &self.places {
            line(&mut text, "point", &place.encode());
        }
        Some(Writing { kept, text })
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[hidden seed's keys]")
    }
}

/// An identity's text, for its file.
pub(super) struct Writing {
    kept: Kept,
    text: Zeroizing<String>,
}

impl Writing {
    /// Writes it, whole or not at all. This blocks.
    pub(super) fn write(&self) -> Result<(), StateError> {
        let Kept { dir, file } = &self.kept;
        dir.write_secret(file, self.text.as_bytes())
    }
}

/// It does not name the torrent; who guesses which it is can check it.
fn file_name(swarm: &[u8; 20]) -> String {
    let digest = derive_key(FILE, &[swarm]);
    let (short, _) = digest.as_bytes().split_at(16);
    format!("hidden-{}.keys", HEXLOWER.encode(short))
}

fn damaged(kept: &Kept) -> Error {
    let path = match kept.dir.path_of(&kept.file) {
        Ok(path) => path.display().to_string(),
        Err(error) => error.to_string(),
    };
    Error::local(format!(
        "{path} is not a file of a hidden seed, or a damaged one"
    ))
    .with_hint(
        "put it back from a backup; or move it away, and the seed gets new keys and a new link",
    )
    .with_exit(Exit::Disk)
}

pub(super) fn line(text: &mut String, name: &str, secret: &[u8]) {
    text.push_str(name);
    text.push(' ');
    for byte in secret {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
        }
    }
    text.push('\n');
}

fn parse(content: &[u8]) -> Option<Identity> {
    let mut lines = std::str::from_utf8(content).ok()?.lines();
    if lines.next()? != TITLE {
        return None;
    }
    let secret = value::<32>(lines.next()?, "secret")?;
    let root = value::<32>(lines.next()?, "root")?;
    let next = value::<4>(lines.next()?, "next")?;
    let mut places: Vec<Place> = Vec::with_capacity(MAX_POINTS);
    for text in lines {
        let place = Place::decode(&*value::<36>(text, "point")?)?;
        if places.len() == MAX_POINTS || places.iter().any(|other| other.relay == place.relay) {
            return None;
        }
        places.push(place);
    }
    Some(Identity {
        secret: DhSecret::from_bytes(*secret),
        root: Key32::new(*root),
        next: u32::from_le_bytes(*next),
        places,
        quiet: false,
        unwritten: false,
        kept: None,
    })
}

pub(super) fn value<const N: usize>(text: &str, name: &str) -> Option<Zeroizing<[u8; N]>> {
    let hex = text.strip_prefix(name)?.strip_prefix(' ')?.as_bytes();
    let mut out = Zeroizing::new([0; N]);
    // Any other length of text would make decode_mut panic.
    if hex.len() != 2 * N {
        return None;
    }
    HEXLOWER_PERMISSIVE.decode_mut(hex, &mut *out).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    const SWARM: [u8; 20] = *b"an infohash of twent";

    fn place(byte: u8, generation: u32) -> Place {
        Place {
            relay: RelayId([byte; 32]),
            generation,
        }
    }

    fn only_file(dir: &std::path::Path) -> PathBuf {
        let mut files = std::fs::read_dir(dir).unwrap();
        let file = files.next().unwrap().unwrap().path();
        assert!(files.next().is_none());
        file
    }

    fn folder() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path().join("state")).unwrap();
        (dir, state)
    }

    #[test]
    fn what_is_kept_comes_back_with_its_points_and_keys() {
        let (_dir, state) = folder();
        let mut first = Identity::keep(&state, &SWARM, &mut rand::rng()).unwrap();
        assert_eq!((first.next_generation(), first.next_generation()), (0, 1));
        let places = vec![place(1, 0), place(2, 1)];
        first.stands_at(places.clone()).unwrap().write().unwrap();
        assert!(first.stands_at(places.clone()).is_none(), "nothing is new");
        first.was_not_written();
        assert!(
            first.stands_at(places.clone()).is_some(),
            "it is written again"
        );
        assert!(first.stands_at(places.clone()).is_none());
        let mut again = Identity::keep(&state, &SWARM, &mut rand::rng()).unwrap();
        assert_eq!(again.key(), first.key());
        assert!(again.places() == places);
        assert_eq!(again.next_generation(), 2, "none is used twice");
        for place in &places {
            let keys = [&first, &again].map(|identity| identity.introduction(place).public());
            assert_eq!(keys[0], keys[1]);
        }
        let file = only_file(state.path());
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = Identity::keep(&state, &[9; 20], &mut rand::rng()).unwrap();
        assert_ne!(other.key(), first.key());
        assert_eq!(format!("{other:?}"), "[hidden seed's keys]");
    }

    #[test]
    fn no_two_relays_swarms_or_generations_share_an_introduction_key() {
        let (one, two) = (
            Identity::ephemeral(&mut rand::rng()),
            Identity::ephemeral(&mut rand::rng()),
        );
        let mut keys = std::collections::BTreeSet::new();
        for identity in [&one, &two] {
            for place in [place(1, 0), place(1, 1), place(2, 0)] {
                keys.insert(identity.introduction(&place).public());
            }
        }
        assert_eq!(keys.len(), 6);
    }

    #[test]
    fn an_introduction_key_is_derived_as_written() {
        let identity = Identity {
            root: Key32::new([7; 32]),
            ..Identity::ephemeral(&mut rand::rng())
        };
        let mut hasher = blake3::Hasher::new_derive_key("hushswarm v1 introduction key");
        hasher
            .update(&[7; 32])
            .update(&[3; 32])
            .update(&[5, 0, 0, 0]);
        let seed = *hasher.finalize().as_bytes();
        assert_eq!(
            identity.introduction(&place(3, 5)).public(),
            IdentityKey::from_seed(seed).public()
        );
    }

    #[test]
    fn an_open_seed_has_no_quiet_key() {
        let identity = Identity {
            root: Key32::new([7; 32]),
            ..Identity::ephemeral(&mut rand::rng())
        };
        let usual = |generation: u32| {
            let material = [&[7; 32][..], &[3; 32], &generation.to_le_bytes()];
            IdentityKey::from_seed(derive_key(INTRODUCTION, &material)).public()
        };
        let is_quiet = |generation: &u32| usual(*generation).0[0] == 0;
        let unlucky = (0..).find(is_quiet).unwrap();
        for generation in [unlucky, unlucky + 1] {
            let key = identity.introduction(&place(3, generation)).public();
            assert!(!IntroductionId(key.0).is_quiet());
            assert_eq!(key == usual(generation), generation != unlucky);
        }
    }

    #[test]
    fn a_closed_seed_has_quiet_keys_that_stay_the_same_and_others_than_an_open_one() {
        let identity = Identity {
            root: Key32::new([7; 32]),
            ..Identity::ephemeral(&mut rand::rng())
        };
        let open = identity.introduction(&place(3, 5)).public();
        let identity = identity.quiet(true);
        let quiet = identity.introduction(&place(3, 5)).public();
        assert_eq!(identity.introduction(&place(3, 5)).public(), quiet);
        assert_ne!(identity.introduction(&place(3, 6)).public(), quiet);
        assert!(IntroductionId(quiet.0).is_quiet());
        assert_ne!(open, quiet);
        let first = (0_u32..).find_map(|number| {
            let mut hasher = blake3::Hasher::new_derive_key("hushswarm v1 quiet introduction key");
            hasher
                .update(&[7; 32])
                .update(&[3; 32])
                .update(&[5, 0, 0, 0]);
            hasher.update(&number.to_le_bytes());
            let key = IdentityKey::from_seed(*hasher.finalize().as_bytes()).public();
            (key.0[0] == 0).then_some(key)
        });
        assert_eq!(first, Some(quiet));
    }

    #[test]
    fn a_file_tells_nothing_of_the_torrent() {
        let (_dir, state) = folder();
        drop(Identity::keep(&state, &SWARM, &mut rand::rng()).unwrap());
        let file = only_file(state.path());
        let all = format!(
            "{} {}",
            file.file_name().unwrap().to_str().unwrap(),
            std::fs::read_to_string(&file).unwrap()
        );
        assert!(!all.contains(&HEXLOWER.encode(&SWARM)[..8]));
    }

    #[test]
    fn a_damaged_file_is_told_and_left_as_it_is() {
        let (_dir, state) = folder();
        let mut identity = Identity::keep(&state, &SWARM, &mut rand::rng()).unwrap();
        let places = (0..8).map(|n| place(n, n.into())).collect();
        identity.stands_at(places).unwrap().write().unwrap();
        let file = only_file(state.path());
        let good = std::fs::read_to_string(&file).unwrap();
        assert!(good.len() <= TEXT_LEN);
        let point = good.lines().last().unwrap();
        for bad in [
            String::new(),
            good.replace("v1", "v2"),
            good.replace("root", "rood"),
            good[..good.len() - 2].to_owned(),
            format!("{good}{point}\n"),
            format!("{good}more\n"),
            good.replacen(point, &point.replace(' ', "  "), 1),
            // The same relay twice.
            good.lines()
                .take(5)
                .chain([good.lines().nth(4).unwrap()])
                .collect::<Vec<_>>()
                .join("\n"),
        ] {
            std::fs::write(&file, &bad).unwrap();
            let error = Identity::keep(&state, &SWARM, &mut rand::rng()).unwrap_err();
            assert!(error.hint().unwrap().contains("backup"), "{error}");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), bad);
            assert!(!format!("{error:?}").contains(&good[40..60]));
        }
        std::fs::write(&file, &good).unwrap();
        assert!(Identity::keep(&state, &SWARM, &mut rand::rng()).is_ok());
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Identity::keep(&state, &SWARM, &mut rand::rng()).is_err());
    }

    proptest! {
        #[test]
        fn texts_read_back_and_disturbed_ones_never_panic(
            secret: [u8; 32],
            root: [u8; 32],
            next: u32,
            relays in prop::collection::btree_map(any::<[u8; 32]>(), any::<u32>(), 0..=MAX_POINTS),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let places = relays.into_iter().map(|(relay, generation)| Place { relay: RelayId(relay), generation });
            let identity = Identity {
                secret: DhSecret::from_bytes(secret),
                root: Key32::new(root),
                next,
                places: places.collect(),
                quiet: false,
                unwritten: false,
                kept: None,
            };
            let (_dir, state) = folder();
            let kept = Some(Kept { dir: Arc::new(state), file: file_name(&SWARM) });
            let mut text = Identity { kept, ..identity }.writing().unwrap().text.as_bytes().to_vec();
            let read = parse(&text).unwrap();
            prop_assert_eq!(&*read.secret.to_bytes(), &secret);
            prop_assert!(read.root.as_bytes() == &root && read.next == next);
            for (at, byte) in edits {
                let at = at.index(text.len());
                text[at] = byte;
            }
            let _ = parse(&text);
        }
    }
}
