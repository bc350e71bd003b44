//! Where the guard sample is kept: one file per network in the state folder, because guards only protect when they
//! outlive the process.
//!
//! Several processes may use the folder at once (a proxy, a jail, a download): each takes its turn at the file, and puts
//! down what it has changed beside what the others have.
//!
//! The file tells which relays know this user's address, so it is a secret. A damaged one is an error, never a
//! reason to draw new guards silently: that is what somebody who wants to be drawn would try to bring about.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use hushswarm_circuits::path::{Guard, GuardSample, MiddleSample, SAMPLE_SIZE};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::client::GuardStore;
use super::middles;
use crate::config::{id_from_hex, id_to_hex};
use crate::error::{Error, Exit, Kind};
use crate::state::StateDir;

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    #[serde(default)]
    guard: Vec<StoredGuard>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredGuard {
    id: String,
    added_at: u64,
    last_ok: Option<u64>,
    failures: u32,
    retry_at: u64,
    unlisted_since: Option<u64>,
}

/// Reads the guards of a network; an empty sample when there is none yet.
///
/// # Errors
/// The file is damaged or was open to others: tell the user, and draw no new guards.
pub fn load(dir: &StateDir, network: &str) -> Result<GuardSample, Error> {
    let name = file_name(network);
    let Some(content) = dir.read_secret(&name)? else {
        return Ok(GuardSample::default());
    };
    match parse(&content) {
        Some(sample) => Ok(sample),
        None => Err(damaged(dir.path_of(&name)?)),
    }
}

/// Stores the guards of a network.
///
/// # Errors
/// The disk: tell the user; the guards stored before are still there.
pub fn store(dir: &StateDir, network: &str, sample: &GuardSample) -> Result<(), Error> {
    let guard = sample.guards().iter().map(|guard| StoredGuard {
        id: id_to_hex(&guard.id),
        added_at: guard.added_at,
        last_ok: guard.last_ok,
        failures: guard.failures,
        retry_at: guard.retry_at,
        unlisted_since: guard.unlisted_since,
    });
    let text = toml::to_string(&Stored {
        guard: guard.collect(),
    })
    .map_err(|error| Error::new(Kind::Bug, "can't write the guards").with_source(error))?;
    Ok(dir.write_secret(&file_name(network), text.as_bytes())?)
}

/// Stores what this process has changed since it knew `known`, and leaves what other processes have.
fn store_beside(
    dir: &StateDir,
    network: &str,
    known: &GuardSample,
    ours: &GuardSample,
) -> Result<(), Error> {
    let _turn = dir.lock_briefly()?;
    let stored = load(dir, network)?;
    store(dir, network, &merge(&stored, known, ours))
}

/// What is stored, with the changes from `known` to `ours`: guards that came or went, and what is told of each.
fn merge(stored: &GuardSample, known: &GuardSample, ours: &GuardSample) -> GuardSample {
    let find = |sample: &GuardSample, id| sample.guards().iter().find(|g| g.id == id).cloned();
    let kept = stored.guards().iter().filter_map(|theirs| {
        let (before, now) = (find(known, theirs.id), find(ours, theirs.id));
        match (before, now) {
            (before, Some(now)) if before.as_ref() != Some(&now) => Some(now),
            // We let it go.
            (Some(_), None) => None,
            (_, _) => Some(theirs.clone()),
        }
    });
    let added = ours.guards().iter().filter(|guard| {
        // One that we knew and that is gone was let go by another process.
        find(stored, guard.id).is_none() && find(known, guard.id).is_none()
    });
    GuardSample::from_guards(kept.chain(added.cloned()).take(SAMPLE_SIZE))
}

fn file_name(network: &str) -> String {
    format!("guards-{network}.toml")
}

fn parse(content: &[u8]) -> Option<GuardSample> {
    let stored: Stored = toml::from_str(std::str::from_utf8(content).ok()?).ok()?;
    if stored.guard.len() > SAMPLE_SIZE {
        return None;
    }
    let guards = stored.guard.into_iter().map(|guard| {
        Some(Guard {
            id: id_from_hex(&guard.id)?,
            added_at: guard.added_at,
            last_ok: guard.last_ok,
            failures: guard.failures,
            retry_at: guard.retry_at,
            unlisted_since: guard.unlisted_since,
        })
    });
    let guards = guards.collect::<Option<Vec<_>>>()?;
    let count = guards.len();
    let sample = GuardSample::from_guards(guards);
    (sample.guards().len() == count).then_some(sample)
}

fn damaged(path: PathBuf) -> Error {
    let path = path.display();
    Error::local(format!("the file of guards {path} is damaged"))
        .with_exit(Exit::Disk)
        .with_hint(format!(
            "put it back from a backup; or, to draw new guards, move it away: mv {path} {path}.old"
        ))
}

/// A guard's last success is stored again when it is newer by so much, seconds: what it is used for is whether this
/// computer was offline for ten minutes ([`hushswarm_circuits::path::NETWORK_LIKELY_DOWN`]).
const STALE: u64 = 300;

#[derive(Default)]
struct Waiting {
    sample: Option<GuardSample>,
    closed: bool,
}

#[derive(Default)]
struct Mailbox {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest sample, once there is one; `None` when nothing more will come.
    fn next(&self) -> Option<GuardSample> {
        let mut waiting = self.lock();
        loop {
            if let Some(sample) = waiting.sample.take() {
                return Some(sample);
            }
            if waiting.closed {
                return None;
            }
            waiting = self
                .changed
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Keeps the guards of one network in the state folder, and its fixed middles beside them. A thread of its own waits for the disk, so that circuits do
/// not; dropping the value waits for what is still to be written.
pub struct GuardFile {
    dir: Arc<StateDir>,
    network: String,
    mailbox: Arc<Mailbox>,
    stored: Mutex<GuardSample>,
    writer: Option<JoinHandle<()>>,
}

impl GuardFile {
    /// Reads the guards of a network, and stores them from now on.
    ///
    /// # Errors
    /// As [`load`], or the thread can't be started.
    pub fn open(dir: StateDir, network: &str) -> Result<(GuardSample, Self), Error> {
        Self::open_drawn(dir, network, |_| {})
    }

    /// The same, with guards drawn where some are missing, before anybody else reads the file: two processes that are
    /// started at once must not draw different ones.
    ///
    /// # Errors
    /// As [`load`], or the thread can't be started, or the disk.
    pub fn open_drawn(
        dir: StateDir,
        network: &str,
        draw: impl FnOnce(&mut GuardSample),
    ) -> Result<(GuardSample, Self), Error> {
        let turn = dir.lock_briefly()?;
        let mut sample = load(&dir, network)?;
        let before = sample.clone();
        draw(&mut sample);
        if sample != before {
            store(&dir, network, &sample)?;
        }
        // Nobody is to learn only when somebody visits that they are damaged.
        middles::load(&dir, network)?;
        drop(turn);
        let (dir, network) = (Arc::new(dir), network.to_owned());
        let mailbox = Arc::new(Mailbox::default());
        let (folder, name, inbox) = (Arc::clone(&dir), network.clone(), Arc::clone(&mailbox));
        let mut known = sample.clone();
        let work = move || {
            while let Some(sample) = inbox.next() {
                if let Err(error) = store_beside(&folder, &name, &known, &sample) {
                    warn!(%error, "the guards can't be stored: is the disk full?");
                }
                known = sample;
            }
        };
        let writer = std::thread::Builder::new().name("guards".to_owned());
        let writer = writer
            .spawn(work)
            .map_err(|source| Error::local("can't start a thread").with_source(source))?;
        let stored = Mutex::new(sample.clone());
        Ok((
            sample,
            Self {
                dir,
                network,
                mailbox,
                stored,
                writer: Some(writer),
            },
        ))
    }
}

impl GuardStore for GuardFile {
    fn save(&self, sample: &GuardSample) {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        if are_alike(&stored, sample) {
            return;
        }
        stored.clone_from(sample);
        self.mailbox.lock().sample = Some(sample.clone());
        self.mailbox.changed.notify_one();
    }

    fn middles(&self, refresh: &mut dyn FnMut(&mut MiddleSample)) -> Result<MiddleSample, Error> {
        middles::update(&self.dir, &self.network, refresh)
    }
}

impl Drop for GuardFile {
    fn drop(&mut self) {
        self.mailbox.lock().closed = true;
        self.mailbox.changed.notify_one();
        if let Some(writer) = self.writer.take() {
            // A thread that panicked has said so.
            let _ = writer.join();
        }
    }
}

/// Whether the second differs from the first in nothing but somewhat newer successes.
fn are_alike(stored: &GuardSample, sample: &GuardSample) -> bool {
    let (stored, sample) = (stored.guards(), sample.guards());
    stored.len() == sample.len()
        && stored.iter().zip(sample).all(|(old, new)| {
            let since = |guard: &Guard| guard.last_ok.unwrap_or(0);
            since(new).abs_diff(since(old)) < STALE
                && Guard {
                    last_ok: old.last_ok,
                    ..new.clone()
                } == *old
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use hushswarm_circuits::keys::RelayId;

    use super::*;

    const MAX_LEN: usize = 8192;

    fn sample(count: u8) -> GuardSample {
        GuardSample::from_guards((0..count).map(|n| Guard {
            id: RelayId([n; 32]),
            added_at: 1_800_000_000 + u64::from(n),
            last_ok: (n % 2 == 0).then_some(1_800_000_001),
            failures: u32::MAX,
            retry_at: i64::MAX as u64,
            unlisted_since: (n % 3 == 0).then_some(1_800_000_002),
        }))
    }

    fn state() -> (tempfile::TempDir, StateDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::open(temp.path().join("state")).unwrap();
        (temp, dir)
    }

    #[test]
    fn guards_come_back_in_order_and_per_network() {
        let (_temp, dir) = state();
        assert_eq!(load(&dir, "one").unwrap(), GuardSample::default());
        let longest = "n".repeat(64);
        for (network, sample) in [
            ("one", sample(20)),
            (&longest, sample(3)),
            ("none", sample(0)),
        ] {
            store(&dir, network, &sample).unwrap();
            assert_eq!(load(&dir, network).unwrap(), sample);
        }
        assert_eq!(load(&dir, "one").unwrap(), sample(20));
    }

    #[test]
    fn what_was_saved_is_on_the_disk_when_the_store_is_dropped() {
        let (temp, dir) = state();
        let (empty, file) = GuardFile::open(dir, "net").unwrap();
        assert_eq!(empty, GuardSample::default());
        for count in 1..=20 {
            file.save(&sample(count));
        }
        drop(file);
        let dir = StateDir::open(temp.path().join("state")).unwrap();
        assert_eq!(load(&dir, "net").unwrap(), sample(20));
    }

    #[test]
    fn processes_keep_what_each_other_has_stored() {
        let (temp, dir) = state();
        store(&dir, "net", &sample(3)).unwrap();
        let open = || {
            let dir = StateDir::open(temp.path().join("state")).unwrap();
            GuardFile::open(dir, "net").unwrap()
        };
        let ((_, first), (_, second)) = (open(), open());
        let mut one = sample(4).guards().to_vec();
        one[0].failures = 7;
        first.save(&GuardSample::from_guards(one));
        drop(first);
        // The other knows nothing of it, lets the second go and adds one of its own.
        let mut two = sample(6).guards().to_vec();
        two.remove(1);
        two.retain(|guard| guard.id != RelayId([3; 32]) && guard.id != RelayId([4; 32]));
        two[1].failures = 9;
        second.save(&GuardSample::from_guards(two));
        drop(second);
        let merged = load(&dir, "net").unwrap();
        let shown: Vec<_> = merged
            .guards()
            .iter()
            .map(|g| (g.id.0[0], g.failures))
            .collect();
        let max = u32::MAX;
        assert_eq!(shown, [(0, 7), (2, 9), (3, max), (5, max)]);
    }

    #[test]
    fn two_that_start_at_once_draw_the_same_guards() {
        let (temp, _dir) = state();
        let threads: Vec<_> = (0..8u8)
            .map(|n| {
                let dir = StateDir::open(temp.path().join("state")).unwrap();
                std::thread::spawn(move || {
                    let draw = |held: &mut GuardSample| {
                        if held.guards().is_empty() {
                            *held = sample(n + 1);
                        }
                    };
                    GuardFile::open_drawn(dir, "net", draw).unwrap().0
                })
            })
            .collect();
        let drawn: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        assert!(drawn.iter().all(|one| *one == drawn[0]));
    }

    #[test]
    fn a_guard_that_works_again_and_again_is_not_stored_each_time() {
        let mut guards = sample(3).guards().to_vec();
        let old = GuardSample::from_guards(guards.clone());
        guards[0].last_ok = Some(1_800_000_001 + STALE - 1);
        assert!(are_alike(&old, &GuardSample::from_guards(guards.clone())));
        guards[0].last_ok = Some(1_800_000_001 + STALE);
        assert!(!are_alike(&old, &GuardSample::from_guards(guards.clone())));
        guards[0].last_ok = old.guards()[0].last_ok;
        guards[1].retry_at = 5;
        assert!(!are_alike(&old, &GuardSample::from_guards(guards)));
    }

    #[test]
    fn a_damaged_file_is_an_error_and_stays() {
        let (_temp, dir) = state();
        store(&dir, "net", &sample(2)).unwrap();
        let good = dir.read("guards-net.toml", MAX_LEN).unwrap().unwrap();
        let good = String::from_utf8(good).unwrap();
        let twice = format!("{good}{good}");
        let bad = [
            "nonsense",
            "[[guard]]",
            "\u{0}",
            &good[..good.len() / 2],
            &twice,
            &good.replace("01010101", "zzzzzzzz"),
            &good.replace("retry_at", "retry_on"),
        ];
        for text in bad {
            dir.write_secret("guards-net.toml", text.as_bytes())
                .unwrap();
            let error = load(&dir, "net").unwrap_err();
            assert!(error.hint().unwrap().contains("mv "), "{text}");
            assert_eq!(
                dir.read("guards-net.toml", MAX_LEN).unwrap().unwrap(),
                text.as_bytes()
            );
        }
    }
}
