//! Who a hidden seed is: its keys in one swarm, and the relays that it stood at. A seed that keeps them is found by the same
//! link after a restart.
//!
//! A key of an introduction point is derived from a root, the relay and a generation, which is a counter: no two relays
//! ever see one key, and what one relay sees tells nothing of what another does.

use std::collections::BTreeSet;
use std::sync::Arc;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use hushswarm_circuits::keys::{DhSecret, IdentityKey, Key32, RelayId, derive_key};
use hushswarm_circuits::rendezvous::IntroductionId;
use hushswarm_circuits::rendezvous::contact::MAX_POINTS;
use hushswarm_circuits::rendezvous::message::{Guests, MAX_GUESTS};
use rand::CryptoRng;
use zeroize::Zeroizing;

use crate::error::{Error, Exit};
use crate::hush::SeedKey;
use crate::state::{StateDir, StateError};

const TITLE: &str = "hushswarm hidden seed v1";
/// Room for the text of one with all its points and guests, so that it never grows: a string that does leaves copies behind.
const TEXT_LEN: usize = 8 << 10;
/// Derives an introduction key from `root[32] | relay[32] | generation u32 LE`.
const INTRODUCTION: &str = "hushswarm v1 introduction key";
/// Derives a quiet introduction key from the same and `number u32 LE`: the first that is quiet.
const QUIET: &str = "hushswarm v1 quiet introduction key";
/// The same for the first that is not, where the usual one is: visitors come to no quiet key of an open seed.
const LOUD: &str = "hushswarm v1 loud introduction key";
/// One in 256 is quiet: that none of so many is happens to nobody.
const MAX_TRIES: u32 = 1 << 14;
/// Derives what is kept of a guest's key, from `root[32] | key[32]`: who takes the file away can check a key, and learns none.
const GUEST: &str = "hushswarm v1 mark of a guest";
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

/// What is kept of a guest's key.
type Mark = [u8; 8];

/// Whom a seed let in when it stood last.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Door {
    /// All who know the swarm.
    Open,
    /// Those whose keys have these marks.
    Closed(BTreeSet<Mark>),
}

/// What is new about whom a seed lets in. Whoever was let in before and is not any more knows none of its points from then on, and
/// neither does anybody else: the old link is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoorChange {
    /// Nobody who was let in is left out.
    None,
    /// It was open to all, and lets in only some now.
    Closed,
    /// It let in only some, and is open to all now.
    Opened,
    /// A key was taken away.
    Taken,
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
    /// `None` where no file says.
    door: Option<Door>,
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
            door: None,
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

    /// Notes whom it lets in from now on: these guests, or all who know the swarm. Where somebody else was let in before, it takes other points with
    /// keys that were never told, so that he can't keep others from it with what he knows. This blocks. Call it before it stands.
    ///
    /// # Errors
    /// The disk: tell the user.
    pub fn let_in(&mut self, guests: Option<&Guests>) -> Result<DoorChange, Error> {
        let mark = |key: &[u8; 32]| {
            let digest = derive_key(GUEST, &[&self.root.as_bytes()[..], key]);
            let (mark, _) = digest.as_bytes().split_at(8);
            Mark::try_from(mark).unwrap_or_default()
        };
        let door = match guests {
            None => Door::Open,
            Some(guests) => Door::Closed(guests.keys().map(mark).collect()),
        };
        let change = match (&self.door, &door) {
            (Some(Door::Open), Door::Closed(_)) => DoorChange::Closed,
            // A file that does not say it is of a seed that was open, and its points were told.
            (None, Door::Closed(_)) if !self.places.is_empty() => DoorChange::Closed,
            (Some(Door::Closed(_)), Door::Open) => DoorChange::Opened,
            (Some(Door::Closed(old)), Door::Closed(new)) if !old.is_subset(new) => {
                DoorChange::Taken
            }
            (None, _)
            | (Some(Door::Open), Door::Open)
            | (Some(Door::Closed(_)), Door::Closed(_)) => DoorChange::None,
        };
        if change != DoorChange::None {
            self.places.clear();
        }
        let before = self.door.replace(door);
        if before != self.door
            && let Some(writing) = self.writing()
        {
            writing.write()?;
        }
        Ok(change)
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
        match &self.door {
            None => {}
            Some(Door::Open) => line(&mut text, "closed", &[0]),
            Some(Door::Closed(guests)) => {
                line(&mut text, "closed", &[1]);
                for guest in guests {
                    line(&mut text, "guest", guest);
                }
            }
        }
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
    let mut lines = lines.peekable();
    let door = match lines.next_if(|text| text.starts_with("closed")) {
        None => None,
        Some(text) => Some(match *value::<1>(text, "closed")? {
            [0] => Door::Open,
            [1] => {
                let mut guests = BTreeSet::new();
                while let Some(text) = lines.next_if(|text| text.starts_with("guest")) {
                    let new = guests.insert(*value::<8>(text, "guest")?);
                    if !new || guests.len() > MAX_GUESTS {
                        return None;
                    }
                }
                Door::Closed(guests)
            }
            [_] => return None,
        }),
    };
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
        door,
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
    fn who_is_not_let_in_any_more_knows_none_of_its_points() {
        let (_dir, state) = folder();
        let guests = |keys: &[u8]| Some(Guests::new(keys.iter().map(|key| [*key; 32])));
        let all = [place(1, 0), place(2, 1), place(3, 2)];
        // Each time the program starts again, and stands somewhere.
        for (number, (guests, change)) in [
            (guests(&[]), DoorChange::None),
            (guests(&[1]), DoorChange::None),
            (guests(&[1, 2]), DoorChange::None),
            (guests(&[2, 1]), DoorChange::None),
            (guests(&[2]), DoorChange::Taken),
            (guests(&[2, 3]), DoorChange::None),
            (guests(&[1, 4]), DoorChange::Taken),
            (None, DoorChange::Opened),
            (None, DoorChange::None),
            (guests(&[1, 4]), DoorChange::Closed),
            (guests(&[1, 4]), DoorChange::None),
        ]
        .into_iter()
        .enumerate()
        {
            let mut identity = Identity::keep(&state, &SWARM, &mut rand::rng()).unwrap();
            let before = identity.places().len();
            assert_eq!(
                identity.let_in(guests.as_ref()).unwrap(),
                change,
                "{number}"
            );
            let moved = change != DoorChange::None;
            assert_eq!(identity.places().len(), if moved { 0 } else { before });
            // It may end before it stands anywhere: the file knows already.
            let again = Identity::keep(&state, &SWARM, &mut rand::rng()).unwrap();
            assert_eq!(again.places().len(), identity.places().len());
            assert!(again.door == identity.door);
            if let Some(writing) = identity.stands_at(all.to_vec()) {
                writing.write().unwrap();
            }
        }
        // Nor does the file hold a key of theirs.
        let file = std::fs::read_to_string(only_file(state.path())).unwrap();
        assert!(!file.contains(&HEXLOWER.encode(&[4; 16])));
        let mut unkept = Identity::ephemeral(&mut rand::rng());
        assert_eq!(unkept.let_in(None).unwrap(), DoorChange::None);
    }

    #[test]
    fn a_file_that_does_not_say_who_is_let_in_is_of_an_open_seed() {
        for (guests, change) in [
            (Some(Guests::new([[1; 32]])), DoorChange::Closed),
            (None, DoorChange::None),
        ] {
            let (_dir, state) = folder();
            let mut identity = Identity::keep(&state, &SWARM, &mut rand::rng()).unwrap();
            let places = vec![place(1, 0), place(2, 1)];
            identity.stands_at(places).unwrap().write().unwrap();
            let text = std::fs::read_to_string(only_file(state.path())).unwrap();
            assert!(!text.contains("closed"));
            let mut again = Identity::keep(&state, &SWARM, &mut rand::rng()).unwrap();
            assert_eq!(again.let_in(guests.as_ref()).unwrap(), change);
            let kept = if guests.is_some() { 0 } else { 2 };
            assert_eq!(again.places().len(), kept);
            let again = Identity::keep(&state, &SWARM, &mut rand::rng()).unwrap();
            assert_eq!(again.places().len(), kept);
        }
    }

    #[test]
    fn a_full_file_is_read_and_never_outgrows_its_room() {
        let (_dir, state) = folder();
        let mut identity = Identity::keep(&state, &SWARM, &mut rand::rng()).unwrap();
        let keys = (0..MAX_GUESTS).map(|n| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&(n as u64).to_be_bytes());
            key
        });
        identity.let_in(Some(&Guests::new(keys))).unwrap();
        let places = (0..8).map(|n| place(n, n.into())).collect();
        identity.stands_at(places).unwrap().write().unwrap();
        assert!(std::fs::read(only_file(state.path())).unwrap().len() <= TEXT_LEN);
        let read = Identity::keep(&state, &SWARM, &mut rand::rng()).unwrap();
        assert!(read.places().len() == 8 && read.door == identity.door);
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
            door in prop_oneof![
                Just(None),
                Just(Some(Door::Open)),
                prop::collection::btree_set(any::<Mark>(), 0..9).prop_map(|guests| Some(Door::Closed(guests))),
            ],
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let places = relays.into_iter().map(|(relay, generation)| Place { relay: RelayId(relay), generation });
            let identity = Identity {
                secret: DhSecret::from_bytes(secret),
                root: Key32::new(root),
                next,
                places: places.collect(),
                door,
                quiet: false,
                unwritten: false,
                kept: None,
            };
            let (_dir, state) = folder();
            let kept = Some(Kept { dir: Arc::new(state), file: file_name(&SWARM) });
            let (door, count) = (identity.door.clone(), identity.places.len());
            let mut text = Identity { kept, ..identity }.writing().unwrap().text.as_bytes().to_vec();
            let read = parse(&text).unwrap();
            prop_assert_eq!(&*read.secret.to_bytes(), &secret);
            prop_assert!(read.root.as_bytes() == &root && read.next == next);
            prop_assert!(read.door == door && read.places.len() == count);
            for (at, byte) in edits {
                let at = at.index(text.len());
                text[at] = byte;
            }
            let _ = parse(&text);
        }
    }
}
