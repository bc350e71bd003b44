//! What is kept of each torrent: a file of JSON, and beside it the torrent file or the info dictionary.
//!
//! They lie in a folder of the state directory that is closed to others, in the clear: what is to be started again without anybody there to
//! type a password can't be hidden from who reads the disk. An entry that can't be read is set aside under another name, never removed.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::rpc::session::{Change as SessionChange, Settings, Totals};
use crate::rpc::torrent::Priority;
use crate::state::{StateDir, StateError};
use crate::torrent::engine::Source;
use crate::torrent::infohash::InfoHash;
use crate::torrent::magnet::Magnet;
use crate::torrent::metainfo::{Info, MAX_TORRENT, Metainfo};

/// The version of entries that this program writes. A higher one is not read.
const VERSION: u32 = 1;
/// Folder of the entries, in the state directory.
const FOLDER: &str = "torrents";
/// File of the settings, in that folder.
const SETTINGS: &str = "session.json";
/// Largest entry, bytes: a link of the greatest length, and three lists of a number for each file.
const MAX_ENTRY: usize = 16 << 20;
/// Most torrents: entries beyond are left where they are.
pub(super) const MAX_TORRENTS: usize = 10_000;
/// What is set aside ends so.
const ASIDE: &str = "unreadable";

/// What is kept of a torrent. Times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    pub(super) version: u32,
    /// 40 hexadecimal digits.
    pub(super) hash: String,
    /// The link, where it was added by one.
    pub(super) magnet: Option<String>,
    pub(super) name: String,
    pub(super) download_dir: String,
    pub(super) paused: bool,
    /// It stopped since it had given enough.
    pub(super) finished: bool,
    pub(super) queue: u64,
    pub(super) labels: Vec<String>,
    pub(super) bandwidth_priority: i64,
    pub(super) down_limit: u64,
    pub(super) down_limited: bool,
    pub(super) up_limit: u64,
    pub(super) up_limited: bool,
    pub(super) ignores_session: bool,
    pub(super) ratio: f64,
    pub(super) ratio_mode: u8,
    pub(super) idle: u64,
    pub(super) idle_mode: u8,
    pub(super) sequential: bool,
    /// Numbers of files, padding not counted, in order.
    pub(super) unwanted: Vec<u32>,
    pub(super) high: Vec<u32>,
    pub(super) low: Vec<u32>,
    /// In place of the torrent's own.
    pub(super) trackers: Option<Vec<Vec<String>>>,
    pub(super) added: u64,
    pub(super) done: u64,
    pub(super) started: u64,
    pub(super) active: u64,
    pub(super) edited: u64,
    pub(super) downloaded: u64,
    pub(super) uploaded: u64,
    pub(super) seconds_downloading: u64,
    pub(super) seconds_seeding: u64,
    /// Bytes of the chosen files, and those of them that were verified.
    pub(super) wanted_bytes: u64,
    pub(super) done_bytes: u64,
}

impl Record {
    /// One for a new torrent.
    pub(super) fn new(hash: InfoHash, download_dir: String, now: u64) -> Self {
        Self {
            version: VERSION,
            hash: hash.hex(),
            download_dir,
            added: now,
            edited: now,
            ratio: 2.0,
            idle: 30,
            down_limit: 100,
            up_limit: 100,
            ..Self::default()
        }
    }

    /// How much a file is wanted, among those that are.
    pub(super) fn priority(&self, file: u32) -> Priority {
        if self.high.binary_search(&file).is_ok() {
            Priority::High
        } else if self.low.binary_search(&file).is_ok() {
            Priority::Low
        } else {
            Priority::Normal
        }
    }

    /// Whether everything that was chosen is there.
    pub(super) fn is_complete(&self) -> bool {
        self.wanted_bytes > 0 && self.done_bytes >= self.wanted_bytes
    }

    /// Its infohash.
    pub(super) fn infohash(&self) -> Option<InfoHash> {
        let bytes = data_encoding::HEXLOWER.decode(self.hash.as_bytes()).ok()?;
        bytes.try_into().ok().map(InfoHash)
    }
}

/// A torrent as it was kept.
pub(super) struct Kept {
    pub(super) record: Record,
    pub(super) source: Source,
    /// What it holds, where that is known.
    pub(super) info: Option<Info>,
}

/// The folder of the entries. Its calls block.
#[derive(Debug)]
pub(super) struct Store {
    dir: StateDir,
    /// The state directory, where resume records are.
    state: PathBuf,
}

/// Settings and sums, as they are kept.
#[derive(Serialize, Deserialize)]
struct SettingsFile {
    version: u32,
    settings: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    totals: KeptTotals,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
struct KeptTotals {
    uploaded: u64,
    downloaded: u64,
    added: u64,
    sessions: u64,
    seconds: u64,
}

impl Store {
    /// Opens it, and makes it where it is not there.
    ///
    /// # Errors
    /// As [`StateDir::open`]: tell the user.
    pub(super) fn open(state: &StateDir) -> Result<Self, StateError> {
        Ok(Self {
            dir: state.subdir(FOLDER)?,
            state: state.path().to_owned(),
        })
    }

    /// The state directory.
    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    /// Writes an entry, whole or not at all.
    ///
    /// # Errors
    /// The disk: the entry is as it was.
    pub(super) fn save(&self, record: &Record) -> Result<(), StateError> {
        let name = format!("{}.json", record.hash);
        let text = serde_json::to_vec(record).unwrap_or_default();
        // What could not be read again must not replace what can.
        if text.is_empty() || text.len() > MAX_ENTRY {
            return Err(StateError::TooLarge {
                path: self.dir.path_of(&name)?,
                limit: MAX_ENTRY,
            });
        }
        self.dir.write(&name, &text)
    }

    /// Writes the torrent file of an entry.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn save_torrent(&self, hash: &str, file: &[u8]) -> Result<(), StateError> {
        self.dir.write(&format!("{hash}.torrent"), file)
    }

    /// Writes the info dictionary of an entry that was added by a link.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn save_info(&self, hash: &str, info: &[u8]) -> Result<(), StateError> {
        self.dir.write(&format!("{hash}.info"), info)
    }

    /// The path of a torrent file, for the user.
    pub(super) fn torrent_path(&self, hash: &str) -> String {
        let path = self.dir.path().join(format!("{hash}.torrent"));
        path.to_string_lossy().into_owned()
    }

    /// Removes an entry. The record goes first: without it, the rest means nothing.
    ///
    /// # Errors
    /// The disk: it may be there again after a restart.
    pub(super) fn remove(&self, hash: &str) -> std::io::Result<()> {
        let path = |end: &str| self.dir.path().join(format!("{hash}.{end}"));
        std::fs::remove_file(path("json"))?;
        for end in ["torrent", "info"] {
            // Only one of them is there; left over, it is harmless.
            let _ = std::fs::remove_file(path(end));
        }
        Ok(())
    }

    /// Reads all entries. Those that can't be read are set aside; says how many.
    ///
    /// # Errors
    /// The folder can't be read: tell the user.
    pub(super) fn load(&self) -> Result<(Vec<Kept>, usize), Error> {
        let entries = std::fs::read_dir(self.dir.path()).map_err(|source| {
            Error::local("can't read the daemon's torrents").with_source(source)
        })?;
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.ends_with(".json") && name != SETTINGS)
            .collect();
        names.sort();
        names.truncate(MAX_TORRENTS);
        let (mut kept, mut aside) = (Vec::new(), 0);
        for name in names {
            match self.read(&name) {
                Some(one) => kept.push(one),
                None => {
                    aside += 1;
                    self.set_aside(&name);
                }
            }
        }
        Ok((kept, aside))
    }

    fn read(&self, name: &str) -> Option<Kept> {
        let text = self.dir.read(name, MAX_ENTRY).ok()??;
        let mut record: Record = serde_json::from_slice(&text).ok()?;
        let hash = record.infohash()?;
        for files in [&mut record.unwanted, &mut record.high, &mut record.low] {
            files.sort_unstable();
        }
        let own = name.strip_suffix(".json") == Some(record.hash.as_str());
        if record.version != VERSION || !own || !record.download_dir.starts_with('/') {
            return None;
        }
        let beside = |end: &str| {
            let name = format!("{}.{end}", record.hash);
            self.dir.read(&name, MAX_TORRENT).ok().flatten()
        };
        let (source, info) = match &record.magnet {
            Some(link) => {
                let magnet = Magnet::parse(link).ok()?;
                // A damaged one is fetched again.
                let info = beside("info").and_then(|bytes| Info::parse(&bytes).ok());
                let info = info.filter(|info| info.is_named(magnet.hash, magnet.v2));
                (Source::Magnet(magnet), info)
            }
            None => {
                let metainfo = Metainfo::parse(&beside("torrent")?).ok()?;
                if metainfo.info.hash != hash {
                    return None;
                }
                let info = metainfo.info.clone();
                (Source::Metainfo(metainfo), Some(info))
            }
        };
        Some(Kept {
            record,
            source,
            info,
        })
    }

    /// Renames a file, so that it is neither read nor written over.
    fn set_aside(&self, name: &str) {
        let from = self.dir.path().join(name);
        for number in 0..1000 {
            let to = self.dir.path().join(format!("{name}.{ASIDE}-{number}"));
            // It must not replace an older one.
            if std::fs::hard_link(&from, &to).is_ok() {
                let _ = std::fs::remove_file(&from);
                return;
            }
        }
    }

    /// Reads settings and sums. Settings that can't be read are set aside; `true` says so.
    pub(super) fn load_settings(&self, first: Settings) -> (Settings, Totals, bool) {
        let mut settings = first;
        let Ok(Some(text)) = self.dir.read(SETTINGS, MAX_ENTRY) else {
            return (settings, Totals::default(), false);
        };
        let file = serde_json::from_slice::<SettingsFile>(&text).ok();
        let file = file.filter(|file| file.version == VERSION);
        let read = file.and_then(|file| Some((SessionChange::parse(&file.settings).ok()?, file)));
        let Some((change, file)) = read else {
            self.set_aside(SETTINGS);
            return (settings, Totals::default(), true);
        };
        settings.apply(&change);
        let kept = file.totals;
        let totals = Totals {
            uploaded: kept.uploaded,
            downloaded: kept.downloaded,
            added: kept.added,
            sessions: kept.sessions,
            seconds: kept.seconds,
        };
        (settings, totals, false)
    }

    /// Writes settings and sums.
    ///
    /// # Errors
    /// The disk: they are as they were.
    pub(super) fn save_settings(
        &self,
        settings: &Settings,
        totals: Totals,
    ) -> Result<(), StateError> {
        let file = SettingsFile {
            version: VERSION,
            settings: settings.to_value(),
            totals: KeptTotals {
                uploaded: totals.uploaded,
                downloaded: totals.downloaded,
                added: totals.added,
                sessions: totals.sessions,
                seconds: totals.seconds,
            },
        };
        let text = serde_json::to_vec_pretty(&file).unwrap_or_default();
        self.dir.write(SETTINGS, &text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::torrent::metainfo::MAX_FILES;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path().join("state")).unwrap();
        let store = Store::open(&state).unwrap();
        (dir, store)
    }

    fn record(byte: u8) -> Record {
        let mut record = Record::new(InfoHash([byte; 20]), "/tmp/x".to_owned(), 7);
        record.magnet = Some(format!("magnet:?xt=urn:btih:{}", record.hash));
        record.labels = vec!["tv".to_owned()];
        record.uploaded = 99;
        record
    }

    #[test]
    fn entries_are_read_as_they_were_written_and_closed_to_others() {
        use std::os::unix::fs::PermissionsExt as _;
        let (dir, store) = store();
        for byte in [1, 2] {
            store.save(&record(byte)).unwrap();
        }
        let (kept, aside) = store.load().unwrap();
        assert_eq!(aside, 0);
        let records: Vec<Record> = kept.into_iter().map(|kept| kept.record).collect();
        assert_eq!(records, [record(1), record(2)]);
        let folder = dir.path().join("state/torrents");
        for entry in std::fs::read_dir(folder).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        store.remove(&record(1).hash).unwrap();
        assert_eq!(store.load().unwrap().0.len(), 1);
    }

    #[test]
    fn a_very_large_entry_is_read_again_and_a_larger_one_replaces_nothing() {
        let (_dir, store) = store();
        let all: Vec<u32> = (0..MAX_FILES as u32).map(|n| u32::MAX - n).rev().collect();
        let large = Record {
            unwanted: all.clone(),
            high: all,
            ..record(1)
        };
        store.save(&large).unwrap();
        let too_large = Record {
            labels: vec!["x".repeat(MAX_ENTRY)],
            ..record(1)
        };
        assert!(store.save(&too_large).is_err());
        let (kept, aside) = store.load().unwrap();
        assert_eq!((kept.len(), aside), (1, 0));
        assert!(kept[0].record == large);
    }

    #[test]
    fn what_can_not_be_read_is_set_aside_and_never_lost() {
        let (dir, store) = store();
        let folder = dir.path().join("state/torrents");
        store.save(&record(1)).unwrap();
        let newer = Record {
            version: VERSION + 1,
            ..record(2)
        };
        store.save(&newer).unwrap();
        let damaged = folder.join(format!("{}.json", "03".repeat(20)));
        std::fs::write(&damaged, b"{\"version\":1,").unwrap();
        // Its torrent file is missing.
        let mut lost = record(4);
        lost.magnet = None;
        store.save(&lost).unwrap();
        // Another's entry under this name.
        std::fs::write(
            folder.join("x.json"),
            serde_json::to_vec(&record(5)).unwrap(),
        )
        .unwrap();
        let before = std::fs::read_dir(&folder).unwrap().count();
        let (kept, aside) = store.load().unwrap();
        assert_eq!((kept.len(), aside), (1, 4));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), before);
        assert!(!damaged.exists());
        let again = store.load().unwrap();
        assert_eq!((again.0.len(), again.1), (1, 0));
        // The same name once more does not replace what was set aside.
        std::fs::write(&damaged, b"other").unwrap();
        assert_eq!(store.load().unwrap().1, 1);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), before + 1);
    }

    #[test]
    fn settings_come_back_and_damaged_ones_give_way_to_the_usual() {
        let (dir, store) = store();
        let first = || Settings::new("/srv/first".to_owned());
        let (settings, totals, aside) = store.load_settings(first());
        assert_eq!(
            (settings, totals, aside),
            (first(), Totals::default(), false)
        );
        let mut changed = first();
        changed.download_dir = "/srv/second".to_owned();
        changed.ratio = 1.25;
        changed.seed_queued = true;
        changed.up_limit = 12;
        let sums = Totals {
            uploaded: 5,
            sessions: 2,
            ..Totals::default()
        };
        store.save_settings(&changed, sums).unwrap();
        assert_eq!(store.load_settings(first()), (changed, sums, false));
        let file = dir.path().join("state/torrents").join(SETTINGS);
        std::fs::write(&file, b"[]").unwrap();
        assert_eq!(
            store.load_settings(first()),
            (first(), Totals::default(), true)
        );
        assert!(!file.exists());
    }
}
