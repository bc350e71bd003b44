//! What is told of the session (`session-get`, `session-stats`), and what can be changed of it (`session-set`).

use serde_json::{Map, Value, json};

use super::args::{Args, Wrong};
use super::{RPC_SEMVER, RPC_VERSION, RPC_VERSION_MINIMUM, SPOKEN};

/// What the user can set, and is kept. Limits are kilobytes per second, 1000 bytes each.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The folder that takes what names none.
    pub download_dir: String,
    /// Limit of all torrents together.
    pub down_limit: u64,
    /// Whether it counts.
    pub down_limited: bool,
    /// The same of what is given.
    pub up_limit: u64,
    /// Whether it counts.
    pub up_limited: bool,
    /// The same two, while the slow mode is on.
    pub slow: (u64, u64),
    /// Whether the slow mode is on.
    pub is_slow: bool,
    /// How many torrents take at once.
    pub download_queue: u64,
    /// Whether that counts.
    pub download_queued: bool,
    /// How many torrents give at once.
    pub seed_queue: u64,
    /// Whether that counts.
    pub seed_queued: bool,
    /// After so many bytes for each byte, a torrent stops.
    pub ratio: f64,
    /// Whether that counts.
    pub ratio_limited: bool,
    /// After so many minutes in which nobody took anything, a torrent stops.
    pub idle: u64,
    /// Whether that counts.
    pub idle_limited: bool,
    /// Whether what is added starts by itself.
    pub start_added: bool,
}

impl Settings {
    /// Those of the first start.
    pub fn new(download_dir: String) -> Self {
        Self {
            download_dir,
            down_limit: 100,
            down_limited: false,
            up_limit: 100,
            up_limited: false,
            slow: (50, 50),
            is_slow: false,
            download_queue: 5,
            download_queued: true,
            seed_queue: 10,
            seed_queued: false,
            ratio: 2.0,
            ratio_limited: false,
            idle: 30,
            idle_limited: false,
            start_added: true,
        }
    }

    /// Bytes per second in each direction that all torrents together may use.
    pub fn limits(&self) -> (Option<u64>, Option<u64>) {
        let bytes = |kilobytes: u64| kilobytes.saturating_mul(1000);
        if self.is_slow {
            return (Some(bytes(self.slow.0)), Some(bytes(self.slow.1)));
        }
        let limit = |on: bool, limit| on.then_some(bytes(limit));
        (
            limit(self.down_limited, self.down_limit),
            limit(self.up_limited, self.up_limit),
        )
    }

    /// Takes over what a program changed.
    pub fn apply(&mut self, change: &Change) {
        fn set<T: Clone>(slot: &mut T, new: &Option<T>) {
            if let Some(new) = new {
                *slot = new.clone();
            }
        }
        set(&mut self.download_dir, &change.download_dir);
        set(&mut self.down_limit, &change.down_limit);
        set(&mut self.down_limited, &change.down_limited);
        set(&mut self.up_limit, &change.up_limit);
        set(&mut self.up_limited, &change.up_limited);
        set(&mut self.slow.0, &change.slow_down);
        set(&mut self.slow.1, &change.slow_up);
        set(&mut self.is_slow, &change.is_slow);
        set(&mut self.download_queue, &change.download_queue);
        set(&mut self.download_queued, &change.download_queued);
        set(&mut self.seed_queue, &change.seed_queue);
        set(&mut self.seed_queued, &change.seed_queued);
        set(&mut self.ratio, &change.ratio);
        set(&mut self.ratio_limited, &change.ratio_limited);
        set(&mut self.idle, &change.idle);
        set(&mut self.idle_limited, &change.idle_limited);
        set(&mut self.start_added, &change.start_added);
    }

    /// All of them as `session-set` names them: so they are kept.
    pub fn to_value(&self) -> Map<String, Value> {
        object(json!({
            "download-dir": self.download_dir,
            "speed-limit-down": self.down_limit,
            "speed-limit-down-enabled": self.down_limited,
            "speed-limit-up": self.up_limit,
            "speed-limit-up-enabled": self.up_limited,
            "alt-speed-down": self.slow.0,
            "alt-speed-up": self.slow.1,
            "alt-speed-enabled": self.is_slow,
            "download-queue-size": self.download_queue,
            "download-queue-enabled": self.download_queued,
            "seed-queue-size": self.seed_queue,
            "seed-queue-enabled": self.seed_queued,
            "seedRatioLimit": self.ratio,
            "seedRatioLimited": self.ratio_limited,
            "idle-seeding-limit": self.idle,
            "idle-seeding-limit-enabled": self.idle_limited,
            "start-added-torrents": self.start_added,
        }))
    }
}

/// What `session-set` changes: what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "as in Settings")]
pub struct Change {
    pub download_dir: Option<String>,
    pub down_limit: Option<u64>,
    pub down_limited: Option<bool>,
    pub up_limit: Option<u64>,
    pub up_limited: Option<bool>,
    pub slow_down: Option<u64>,
    pub slow_up: Option<u64>,
    pub is_slow: Option<bool>,
    pub download_queue: Option<u64>,
    pub download_queued: Option<bool>,
    pub seed_queue: Option<u64>,
    pub seed_queued: Option<bool>,
    pub ratio: Option<f64>,
    pub ratio_limited: Option<bool>,
    pub idle: Option<u64>,
    pub idle_limited: Option<bool>,
    pub start_added: Option<bool>,
}

impl Change {
    /// Reads what is to change.
    ///
    /// # Errors
    /// What is wrong, for the program that asked. What can't be so here is refused where somebody wants it on.
    pub fn parse(arguments: &Map<String, Value>) -> Result<Self, String> {
        Self::read(&Args(arguments))
    }

    pub(super) fn read(args: &Args<'_>) -> Result<Self, Wrong> {
        for (name, why) in [
            ("blocklist-enabled", "there is no blocklist here"),
            (
                "port-forwarding-enabled",
                "no port is listened on, so none is forwarded",
            ),
            (
                "lpd-enabled",
                "neighbours in the local network are never asked",
            ),
            ("utp-enabled", "peers are reached by streams of circuits"),
            (
                "alt-speed-time-enabled",
                "there is no timetable for the slow mode",
            ),
            (
                "incomplete-dir-enabled",
                "what is incomplete lies where it will be complete",
            ),
            ("script-torrent-done-enabled", "no scripts are run"),
            ("script-torrent-added-enabled", "no scripts are run"),
            ("script-torrent-done-seeding-enabled", "no scripts are run"),
        ] {
            if args.flag(name)? == Some(true) {
                return Err(format!("\"{name}\" can't be set: {why}"));
            }
        }
        if args
            .text("default-trackers")?
            .is_some_and(|list| !list.trim().is_empty())
        {
            // They would be told of hidden torrents too.
            return Err(
                "\"default-trackers\" can't be set: name trackers for each torrent".to_owned(),
            );
        }
        let dir = args.text("download-dir")?;
        if dir.is_some_and(|dir| !dir.starts_with('/') || dir.len() > super::call::MAX_PATH) {
            return Err("\"download-dir\" must be an absolute path".to_owned());
        }
        let ratio = args.fraction("seedRatioLimit")?;
        if ratio.is_some_and(|ratio| ratio < 0.0) {
            return Err("\"seedRatioLimit\" must not be below 0".to_owned());
        }
        Ok(Self {
            download_dir: dir.map(str::to_owned),
            down_limit: args.count("speed-limit-down")?,
            down_limited: args.flag("speed-limit-down-enabled")?,
            up_limit: args.count("speed-limit-up")?,
            up_limited: args.flag("speed-limit-up-enabled")?,
            slow_down: args.count("alt-speed-down")?,
            slow_up: args.count("alt-speed-up")?,
            is_slow: args.flag("alt-speed-enabled")?,
            download_queue: args.count("download-queue-size")?,
            download_queued: args.flag("download-queue-enabled")?,
            seed_queue: args.count("seed-queue-size")?,
            seed_queued: args.flag("seed-queue-enabled")?,
            ratio,
            ratio_limited: args.flag("seedRatioLimited")?,
            idle: args.count("idle-seeding-limit")?,
            idle_limited: args.flag("idle-seeding-limit-enabled")?,
            start_added: args.flag("start-added-torrents")?,
        })
    }
}

/// What there is to say beside the settings.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Our version.
    pub version: String,
    /// The session id.
    pub session: String,
    /// The state folder.
    pub config_dir: String,
    /// Bytes that are free in the download folder; `None`: not known.
    pub free: Option<u64>,
    /// Whether peers are looked for in the DHT.
    pub dht: bool,
    /// Connections of one torrent.
    pub peer_limit: u64,
}

/// Answers `session-get`; only these fields, where some are named.
pub fn answer(settings: &Settings, facts: &Facts, fields: Option<&[String]>) -> Map<String, Value> {
    let mut all = settings.to_value();
    all.extend(object(json!({
        "alt-speed-time-begin": 540,
        "alt-speed-time-day": 127,
        "alt-speed-time-enabled": false,
        "alt-speed-time-end": 1020,
        "blocklist-enabled": false,
        "blocklist-size": 0,
        "blocklist-url": "",
        "cache-size-mb": 4,
        "config-dir": facts.config_dir,
        "default-trackers": "",
        "dht-enabled": facts.dht,
        "download-dir-free-space": free(facts.free),
        "encryption": "preferred",
        "incomplete-dir": settings.download_dir,
        "incomplete-dir-enabled": false,
        "lpd-enabled": false,
        "peer-limit-global": facts.peer_limit,
        "peer-limit-per-torrent": facts.peer_limit,
        // Nobody listens.
        "peer-port": 0,
        "peer-port-random-on-start": false,
        "pex-enabled": true,
        "port-forwarding-enabled": false,
        "queue-stalled-enabled": false,
        "queue-stalled-minutes": 30,
        "rename-partial-files": false,
        "rpc-version": RPC_VERSION,
        "rpc-version-minimum": RPC_VERSION_MINIMUM,
        "rpc-version-semver": RPC_SEMVER,
        "script-torrent-added-enabled": false,
        "script-torrent-added-filename": "",
        "script-torrent-done-enabled": false,
        "script-torrent-done-filename": "",
        "script-torrent-done-seeding-enabled": false,
        "script-torrent-done-seeding-filename": "",
        "session-id": facts.session,
        "tcp-enabled": true,
        "trash-original-torrent-files": false,
        "units": units(),
        "utp-enabled": false,
        "version": format!("{SPOKEN} (hushswarm {})", facts.version),
    })));
    if let Some(fields) = fields {
        all.retain(|name, _| fields.contains(name));
    }
    all
}

fn units() -> Value {
    json!({
        "speed-units": ["kB/s", "MB/s", "GB/s", "TB/s"],
        "speed-bytes": 1000,
        "size-units": ["kB", "MB", "GB", "TB"],
        "size-bytes": 1000,
        "memory-units": ["KiB", "MiB", "GiB", "TiB"],
        "memory-bytes": 1024,
    })
}

/// Sums of a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes given.
    pub uploaded: u64,
    /// Bytes received.
    pub downloaded: u64,
    /// Torrents added.
    pub added: u64,
    /// Starts of the daemon.
    pub sessions: u64,
    /// Seconds.
    pub seconds: u64,
}

impl Totals {
    fn to_value(self) -> Value {
        json!({
            "uploadedBytes": self.uploaded,
            "downloadedBytes": self.downloaded,
            "filesAdded": self.added,
            "sessionCount": self.sessions,
            "secondsActive": self.seconds,
        })
    }
}

/// How it is just now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Torrents that run.
    pub active: u64,
    /// Torrents that don't.
    pub paused: u64,
    /// All of them.
    pub torrents: u64,
    /// Bytes per second.
    pub rate_down: u64,
    /// Bytes per second.
    pub rate_up: u64,
}

/// Answers `session-stats`.
pub fn stats(now: Now, ever: Totals, current: Totals) -> Map<String, Value> {
    object(json!({
        "activeTorrentCount": now.active,
        "downloadSpeed": now.rate_down,
        "pausedTorrentCount": now.paused,
        "torrentCount": now.torrents,
        "uploadSpeed": now.rate_up,
        "cumulative-stats": ever.to_value(),
        "current-stats": current.to_value(),
    }))
}

/// Answers `free-space`.
pub fn space(path: &str, bytes: Option<(u64, u64)>) -> Map<String, Value> {
    object(json!({
        "path": path,
        "size-bytes": free(bytes.map(|(free, _)| free)),
        "total_size": free(bytes.map(|(_, total)| total)),
    }))
}

/// -1 where it is not known.
fn free(bytes: Option<u64>) -> i64 {
    bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// Answers `port-test`: nobody listens, so nobody is reached. Meetings need no port.
pub fn port_test() -> Map<String, Value> {
    object(json!({ "port-is-open": false }))
}

/// Answers `group-get`: there are none.
pub fn groups() -> Map<String, Value> {
    object(json!({ "group": [] }))
}

/// Answers `torrent-get`.
pub fn torrents(torrents: Value, removed: Option<Vec<i64>>) -> Map<String, Value> {
    let mut out = object(json!({ "torrents": torrents }));
    if let Some(removed) = removed {
        out.insert("removed".to_owned(), removed.into());
    }
    out
}

/// Answers `torrent-add`.
pub fn added(is_new: bool, id: i64, hash: &str, name: &str) -> Map<String, Value> {
    let what = if is_new {
        "torrent-added"
    } else {
        "torrent-duplicate"
    };
    let mut out = Map::new();
    let torrent = json!({ "id": id, "hashString": hash, "name": name });
    out.insert(what.to_owned(), torrent);
    out
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Map::new()
        }
    }
}
