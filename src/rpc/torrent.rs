//! What is told of a torrent (`torrent-get`), and what can be changed of it (`torrent-set`).

use data_encoding::BASE64;
use serde_json::{Map, Value, json};

/// How much a file is wanted, among those that are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// After others.
    Low,
    /// As others.
    #[default]
    Normal,
    /// Before others.
    High,
}

impl Priority {
    /// As programs know it: -1, 0, 1.
    pub fn number(self) -> i64 {
        match self {
            Self::Low => -1,
            Self::Normal => 0,
            Self::High => 1,
        }
    }
}

/// What `torrent-set` changes: what is `None` or empty stays.
#[derive(Clone, Default, PartialEq)]
pub struct Change {
    /// -1 to 1.
    pub bandwidth_priority: Option<i64>,
    /// Kilobytes per second.
    pub down_limit: Option<u64>,
    /// Whether it counts.
    pub down_limited: Option<bool>,
    /// Kilobytes per second.
    pub up_limit: Option<u64>,
    /// Whether it counts.
    pub up_limited: Option<bool>,
    /// Whether the session's limits count too.
    pub honors_session: Option<bool>,
    /// Numbers of files; an empty list means all.
    pub wanted: Option<Vec<u32>>,
    /// The same of those that are not wanted.
    pub unwanted: Option<Vec<u32>>,
    /// Numbers of files (empty: all), and how much each is wanted.
    pub priorities: Vec<(Vec<u32>, Priority)>,
    /// Labels, in place of those that it has.
    pub labels: Option<Vec<String>>,
    /// Bytes given for each byte of the torrent.
    pub ratio: Option<f64>,
    /// 0: as the session says, 1: as `ratio` says, 2: no limit.
    pub ratio_mode: Option<u8>,
    /// Minutes without anybody who takes.
    pub idle: Option<u64>,
    /// As `ratio_mode`.
    pub idle_mode: Option<u8>,
    /// Place in the queue, from 0.
    pub queue_position: Option<u64>,
    /// Whether pieces come in order.
    pub sequential: Option<bool>,
    /// URLs, each a tier of its own at the end.
    pub trackers_add: Vec<String>,
    /// Ids of trackers.
    pub trackers_remove: Vec<u32>,
    /// Ids of trackers, and the URL that each gets.
    pub trackers_replace: Vec<(u32, String)>,
    /// Tiers, in place of those that it has.
    pub tracker_list: Option<Vec<Vec<String>>>,
    /// The folder where its files are, from now on.
    pub location: Option<String>,
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Change(..)")
    }
}

/// What a torrent does, by the numbers that programs know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Nothing.
    #[default]
    Stopped = 0,
    /// It is looked at what is on the disk.
    Check = 2,
    /// It waits for its turn.
    DownloadWait = 3,
    /// It takes.
    Download = 4,
    /// It waits for its turn.
    SeedWait = 5,
    /// It gives.
    Seed = 6,
}

/// Whose fault something is, by the numbers that programs know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// Nothing is wrong.
    #[default]
    None = 0,
    /// The tracker's.
    Tracker = 2,
    /// This computer's: the disk, or the torrent itself.
    Local = 3,
}

/// A file of a torrent.
#[derive(Clone, Default, PartialEq)]
pub struct File {
    /// Path below the download folder.
    pub name: String,
    /// Bytes.
    pub length: u64,
    /// Bytes of it that are verified.
    pub done: u64,
    /// Whether it is wanted.
    pub wanted: bool,
    /// How much.
    pub priority: Priority,
}

/// A tracker of a torrent.
#[derive(Clone, Default, PartialEq)]
pub struct Tracker {
    /// Its URL.
    pub announce: String,
    /// Its tier, from 0.
    pub tier: usize,
    /// What it last said, or what was wrong; empty before the first time.
    pub result: String,
    /// Whether that went well.
    pub succeeded: bool,
    /// When it was asked last, seconds since 1970; 0: never.
    pub last: u64,
    /// When it is asked next, seconds since 1970; 0: not known.
    pub next: u64,
    /// How many have all; `None`: not told.
    pub seeders: Option<u64>,
    /// How many don't; `None`: not told.
    pub leechers: Option<u64>,
    /// How many downloads came to their end; `None`: not told.
    pub completed: Option<u64>,
}

/// All that is told of a torrent. Rates are bytes per second, times seconds since 1970, limits kilobytes per second.
#[derive(Clone, Default)]
#[allow(missing_docs, reason = "the names are those of the RPC")]
pub struct Torrent {
    pub id: i64,
    pub hash: String,
    pub name: String,
    pub download_dir: String,
    pub magnet: String,
    pub torrent_file: String,
    pub comment: String,
    pub status: Status,
    pub fault: Fault,
    pub error: String,
    pub total_size: u64,
    pub size_when_done: u64,
    pub have_valid: u64,
    pub left: u64,
    pub check_progress: f64,
    pub has_metadata: bool,
    pub rate_down: u64,
    pub rate_up: u64,
    pub downloaded: u64,
    pub uploaded: u64,
    pub corrupt: u64,
    pub eta: Option<u64>,
    pub eta_idle: Option<u64>,
    pub added: u64,
    pub done: u64,
    pub started: u64,
    pub active: u64,
    pub edited: u64,
    pub seconds_downloading: u64,
    pub seconds_seeding: u64,
    pub is_finished: bool,
    pub is_private: bool,
    pub is_stalled: bool,
    pub labels: Vec<String>,
    pub queue_position: u64,
    pub bandwidth_priority: i64,
    pub honors_session: bool,
    pub down_limit: u64,
    pub down_limited: bool,
    pub up_limit: u64,
    pub up_limited: bool,
    pub ratio: f64,
    pub ratio_mode: u8,
    pub idle: u64,
    pub idle_mode: u8,
    pub sequential: bool,
    pub peers_connected: u64,
    pub peers_giving: u64,
    pub peers_taking: u64,
    pub peer_limit: u64,
    pub web_seeds: Vec<String>,
    pub piece_count: u64,
    pub piece_size: u64,
    pub pieces: Vec<u8>,
    pub files: Vec<File>,
    pub trackers: Vec<Tracker>,
}

impl std::fmt::Debug for Torrent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Torrent({:?})", self.status)
    }
}

/// Fields that take work: files, pieces and trackers have to be asked of the torrent.
pub fn is_costly(fields: &[String]) -> bool {
    const COSTLY: &[&str] = &[
        "files",
        "fileStats",
        "priorities",
        "wanted",
        "pieces",
        "trackers",
        "trackerStats",
        "trackerList",
        "webseeds",
        "peersFrom",
        "peersSendingToUs",
        "peersGettingFromUs",
        "availability",
    ];
    fields.iter().any(|field| COSTLY.contains(&field.as_str()))
}

/// Answers `torrent-get`. Fields that nobody knows are left out, as Transmission does.
pub fn answer(torrents: &[Torrent], fields: &[String], table: bool) -> Value {
    if !table {
        let object = |torrent: &Torrent| {
            let known = fields.iter().filter_map(|name| {
                let value = torrent.field(name)?;
                Some((name.clone(), value))
            });
            Value::Object(known.collect::<Map<_, _>>())
        };
        return torrents.iter().map(object).collect();
    }
    let nobody = Torrent::default();
    let known = || fields.iter().filter(|name| nobody.field(name).is_some());
    let names: Value = known().cloned().collect();
    let row = |torrent: &Torrent| -> Value {
        let values = known().map(|name| torrent.field(name).unwrap_or_default());
        values.collect()
    };
    std::iter::once(names)
        .chain(torrents.iter().map(row))
        .collect()
}

impl Torrent {
    /// One field; `None` where there is none of that name.
    pub fn field(&self, name: &str) -> Option<Value> {
        Some(match name {
            "activityDate" => self.active.into(),
            "addedDate" => self.added.into(),
            // -1: it is not counted how many have a piece.
            "availability" => (0..self.piece_count).map(|_| -1).collect(),
            "bandwidthPriority" => self.bandwidth_priority.into(),
            "comment" => self.comment.clone().into(),
            "corruptEver" => self.corrupt.into(),
            // Neither is read: both say things of whoever made the torrent.
            "creator" => "".into(),
            "dateCreated" => 0.into(),
            "desiredAvailable" => if self.peers_connected > 0 {
                self.left
            } else {
                0
            }
            .into(),
            "doneDate" => self.done.into(),
            "downloadDir" => self.download_dir.clone().into(),
            "downloadedEver" => self.downloaded.into(),
            "downloadLimit" => self.down_limit.into(),
            "downloadLimited" => self.down_limited.into(),
            "editDate" => self.edited.into(),
            "error" => (self.fault as u8).into(),
            "errorString" => self.error.clone().into(),
            "eta" => signed(self.eta).into(),
            "etaIdle" => signed(self.eta_idle).into(),
            "file-count" | "fileCount" => self.files.len().into(),
            "files" => self.each(|file| {
                json!({
                    "bytesCompleted": file.done,
                    "length": file.length,
                    "name": file.name,
                })
            }),
            "fileStats" => self.each(|file| {
                json!({
                    "bytesCompleted": file.done,
                    "wanted": file.wanted,
                    "priority": file.priority.number(),
                })
            }),
            "group" => "".into(),
            "hashString" => self.hash.clone().into(),
            "haveUnchecked" => 0.into(),
            "haveValid" => self.have_valid.into(),
            "honorsSessionLimits" => self.honors_session.into(),
            "id" => self.id.into(),
            "isFinished" => self.is_finished.into(),
            "isPrivate" => self.is_private.into(),
            "isStalled" => self.is_stalled.into(),
            "labels" => self.labels.clone().into(),
            "leftUntilDone" => self.left.into(),
            "magnetLink" => self.magnet.clone().into(),
            "manualAnnounceTime" => 0.into(),
            "maxConnectedPeers" | "peer-limit" => self.peer_limit.into(),
            "metadataPercentComplete" => if self.has_metadata { 1.0 } else { 0.0 }.into(),
            "name" => self.name.clone().into(),
            // Peers are other people: whoever may ask this computer learns no addresses.
            "peers" => json!([]),
            "peersConnected" => self.peers_connected.into(),
            "peersFrom" => json!({
                "fromCache": 0, "fromDht": 0, "fromIncoming": 0, "fromLpd": 0,
                "fromLtep": 0, "fromPex": 0, "fromTracker": self.peers_connected,
            }),
            "peersGettingFromUs" => self.peers_taking.into(),
            "peersSendingToUs" => self.peers_giving.into(),
            "percentComplete" => share(self.have_valid, self.total_size).into(),
            "percentDone" => self.percent_done().into(),
            "pieces" => BASE64.encode(&self.pieces).into(),
            "pieceCount" => self.piece_count.into(),
            "pieceSize" => self.piece_size.into(),
            "priorities" => self.each(|file| file.priority.number().into()),
            "primary-mime-type" => "application/octet-stream".into(),
            "queuePosition" => self.queue_position.into(),
            "rateDownload" => self.rate_down.into(),
            "rateUpload" => self.rate_up.into(),
            "recheckProgress" => self.check_progress.into(),
            "secondsDownloading" => self.seconds_downloading.into(),
            "secondsSeeding" => self.seconds_seeding.into(),
            "seedIdleLimit" => self.idle.into(),
            "seedIdleMode" => self.idle_mode.into(),
            "seedRatioLimit" => self.ratio.into(),
            "seedRatioMode" => self.ratio_mode.into(),
            "sequential_download" | "sequentialDownload" => self.sequential.into(),
            "sizeWhenDone" => self.size_when_done.into(),
            "startDate" => self.started.into(),
            "status" => (self.status as u8).into(),
            "trackers" => self.trackers(),
            "trackerList" => self.tracker_list().into(),
            "trackerStats" => self.tracker_stats(),
            "totalSize" => self.total_size.into(),
            "torrentFile" => self.torrent_file.clone().into(),
            "uploadedEver" => self.uploaded.into(),
            "uploadLimit" => self.up_limit.into(),
            "uploadLimited" => self.up_limited.into(),
            "uploadRatio" => self.upload_ratio().into(),
            // Numbers, as Transmission gives them.
            "wanted" => self.each(|file| u8::from(file.wanted).into()),
            "webseeds" => self.web_seeds.clone().into(),
            "webseedsSendingToUs" => 0.into(),
            _ => return None,
        })
    }

    fn each(&self, value: impl Fn(&File) -> Value) -> Value {
        self.files.iter().map(value).collect()
    }

    fn percent_done(&self) -> f64 {
        if self.size_when_done == 0 {
            return if self.has_metadata { 1.0 } else { 0.0 };
        }
        share(
            self.size_when_done.saturating_sub(self.left),
            self.size_when_done,
        )
    }

    /// Bytes given for each byte of the torrent that is here; -1 where there is none.
    pub fn upload_ratio(&self) -> f64 {
        let base = if self.downloaded > 0 {
            self.downloaded
        } else {
            self.have_valid
        };
        if base == 0 {
            -1.0
        } else {
            self.uploaded as f64 / base as f64
        }
    }

    fn trackers(&self) -> Value {
        let one = |(id, tracker): (usize, &Tracker)| {
            json!({
                "announce": tracker.announce,
                "id": id,
                "scrape": "",
                "sitename": host(&tracker.announce),
                "tier": tracker.tier,
            })
        };
        self.trackers.iter().enumerate().map(one).collect()
    }

    fn tracker_list(&self) -> String {
        let mut out = String::new();
        let mut tier = None;
        for tracker in &self.trackers {
            if tier.is_some_and(|tier| tier != tracker.tier) {
                out.push('\n');
            }
            tier = Some(tracker.tier);
            out.extend([tracker.announce.as_str(), "\n"]);
        }
        out
    }

    fn tracker_stats(&self) -> Value {
        let one = |(id, tracker): (usize, &Tracker)| {
            let asked = tracker.last > 0;
            json!({
                "announce": tracker.announce,
                // 1: it waits for the next time.
                "announceState": 1,
                "downloadCount": signed(tracker.completed),
                "hasAnnounced": asked,
                "hasScraped": false,
                "host": host(&tracker.announce),
                "id": id,
                "isBackup": tracker.tier > 0 && !asked,
                "lastAnnouncePeerCount": 0,
                "lastAnnounceResult": tracker.result,
                "lastAnnounceStartTime": tracker.last,
                "lastAnnounceSucceeded": tracker.succeeded,
                "lastAnnounceTime": tracker.last,
                "lastAnnounceTimedOut": false,
                "lastScrapeResult": "",
                "lastScrapeStartTime": 0,
                "lastScrapeSucceeded": false,
                "lastScrapeTime": 0,
                "lastScrapeTimedOut": false,
                "leecherCount": signed(tracker.leechers),
                "nextAnnounceTime": tracker.next,
                "nextScrapeTime": 0,
                "scrape": "",
                "scrapeState": 0,
                "seederCount": signed(tracker.seeders),
                "sitename": host(&tracker.announce),
                "tier": tracker.tier,
            })
        };
        self.trackers.iter().enumerate().map(one).collect()
    }
}

/// The host and port of a URL.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?']).next().unwrap_or_default()
}

/// -1 where it is not known.
fn signed(number: Option<u64>) -> i64 {
    number.map_or(-1, |number| i64::try_from(number).unwrap_or(i64::MAX))
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}
