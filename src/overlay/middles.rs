//! The fixed middles of a client (PROTOCOL.md §7.3), and where they are kept: beside the guards, one file per network.
//!
//! They are drawn when a circuit first needs one, and by one process at a time: what another one has drawn is taken from the
//! file, so that all of this user's processes have the same. The file tells through which relays the guard can be found, so it is a
//! secret; and a damaged one is an error, never a reason to draw new ones.

use std::path::PathBuf;
use std::sync::Arc;

use hushswarm_circuits::keys::RelayId;
use hushswarm_circuits::path::{MIDDLES, Middle, MiddleSample, PathRules};
use hushswarm_circuits::relay_list::RelayList;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracing::warn;

use super::client::GuardStore;
use crate::config::{id_from_hex, id_to_hex};
use crate::error::{Error, Exit, Kind};
use crate::state::StateDir;

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    #[serde(default)]
    middle: Vec<StoredMiddle>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredMiddle {
    id: String,
    until: u64,
    unlisted_since: Option<u64>,
}

/// Reads the fixed middles of a network; an empty sample when there is none yet.
///
/// # Errors
/// The file is damaged or was open to others: tell the user, and draw no new ones.
pub fn load(dir: &StateDir, network: &str) -> Result<MiddleSample, Error> {
    let name = file_name(network);
    let Some(content) = dir.read_secret(&name)? else {
        return Ok(MiddleSample::default());
    };
    match parse(&content) {
        Some(sample) => Ok(sample),
        None => Err(damaged(dir.path_of(&name)?)),
    }
}

/// Lets `refresh` change the stored middles of a network while no other process does, and gives what they are then.
///
/// # Errors
/// As [`load`], or the disk: what was stored before is still there.
pub fn update(
    dir: &StateDir,
    network: &str,
    refresh: impl FnOnce(&mut MiddleSample),
) -> Result<MiddleSample, Error> {
    let _turn = dir.lock_briefly()?;
    let mut sample = load(dir, network)?;
    let before = sample.clone();
    refresh(&mut sample);
    if sample != before {
        store(dir, network, &sample)?;
    }
    Ok(sample)
}

fn store(dir: &StateDir, network: &str, sample: &MiddleSample) -> Result<(), Error> {
    let text = encode(sample).map_err(|error| {
        Error::new(Kind::Bug, "can't write the fixed middles").with_source(error)
    })?;
    Ok(dir.write_secret(&file_name(network), text.as_bytes())?)
}

fn encode(sample: &MiddleSample) -> Result<String, toml::ser::Error> {
    let middle = sample.middles().iter().map(|middle| StoredMiddle {
        id: id_to_hex(&middle.id),
        until: middle.until,
        unlisted_since: middle.unlisted_since,
    });
    toml::to_string(&Stored {
        middle: middle.collect(),
    })
}

fn file_name(network: &str) -> String {
    format!("middles-{network}.toml")
}

fn parse(content: &[u8]) -> Option<MiddleSample> {
    let stored: Stored = toml::from_str(std::str::from_utf8(content).ok()?).ok()?;
    let count = stored.middle.len();
    if count > MIDDLES {
        return None;
    }
    let middles = stored.middle.into_iter().map(|middle| {
        Some(Middle {
            id: id_from_hex(&middle.id)?,
            until: middle.until,
            unlisted_since: middle.unlisted_since,
        })
    });
    let sample = MiddleSample::from_middles(middles.collect::<Option<Vec<_>>>()?);
    (sample.middles().len() == count).then_some(sample)
}

fn damaged(path: PathBuf) -> Error {
    let path = path.display();
    Error::local(format!("the file of fixed middles {path} is damaged"))
        .with_exit(Exit::Disk)
        .with_hint(format!(
            "put it back from a backup; or, to draw new ones, move it away: mv {path} {path}.old"
        ))
}

/// What the middles are drawn from and for.
pub(super) struct Drawing {
    pub(super) list: Arc<RelayList>,
    /// Guards of this client, which are no middles of it where others can be.
    pub(super) guards: Vec<RelayId>,
    pub(super) rules: PathRules,
    /// Seconds since 1970.
    pub(super) now: u64,
}

/// They can be neither read nor stored, and none is known.
#[derive(Debug)]
pub(super) struct NotKept;

#[derive(Default)]
struct Held {
    sample: MiddleSample,
    has_warned: bool,
}

/// The fixed middles that this process uses.
#[derive(Default)]
pub(super) struct Middles(Mutex<Held>);

impl Middles {
    /// Those that can be used now. Where one is due, the store is asked, and the disk waited for.
    ///
    /// # Errors
    /// They can't be kept: use none.
    pub(super) async fn usable(
        &self,
        drawing: Drawing,
        store: Option<&Arc<dyn GuardStore>>,
    ) -> Result<Vec<RelayId>, NotKept> {
        let now = drawing.now;
        let mut held = self.0.lock().await;
        // By a list that is not valid, or a clock that says so, none is given up.
        if !drawing.list.is_valid(now) {
            return Ok(held.sample.usable(now));
        }
        let refresh = move |sample: &mut MiddleSample| {
            let Drawing {
                list,
                guards,
                rules,
                now,
            } = &drawing;
            sample.refresh(list, guards, rules, *now, &mut rand::rng());
        };
        let mut fresh = held.sample.clone();
        refresh(&mut fresh);
        if fresh == held.sample {
            return Ok(held.sample.usable(now));
        }
        let Some(store) = store.map(Arc::clone) else {
            held.sample = fresh;
            return Ok(held.sample.usable(now));
        };
        let work = move || store.middles(&mut |sample| refresh(sample));
        let stored = tokio::task::spawn_blocking(work).await;
        match stored {
            Ok(Ok(sample)) => {
                held.sample = sample;
                held.has_warned = false;
                Ok(held.sample.usable(now))
            }
            failed => {
                // Once: visitors bring this about as often as they like.
                if !std::mem::replace(&mut held.has_warned, true) {
                    match failed {
                        Ok(Err(error)) => warn!(%error, "the fixed middles can't be kept"),
                        _ => warn!("the fixed middles can't be kept"),
                    }
                }
                let left = held.sample.usable(now);
                (!left.is_empty()).then_some(left).ok_or(NotKept)
            }
        }
    }
}

#[cfg(test)]
mod tests;
