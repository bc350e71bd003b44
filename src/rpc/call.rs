//! Calls: a body becomes a [`Call`], a result becomes a body.

use data_encoding::{BASE64, BASE64_NOPAD};
use serde_json::{Map, Value, json};

use super::args::{Args, Wrong, whole};
use super::session::Change as SessionChange;
use super::torrent::{Change, Priority};

/// Most torrents that one call names.
const MAX_IDS: usize = 100_000;
/// Most fields that one call asks for.
const MAX_FIELDS: usize = 256;
/// Longest name of a field, bytes.
const MAX_FIELD: usize = 64;
/// Longest path, bytes (`PATH_MAX` of Linux).
pub const MAX_PATH: usize = 4096;
/// Longest link or URL, bytes.
const MAX_LINK: usize = 64 << 10;
/// Most files that one call names.
const MAX_INDICES: usize = 200_000;
/// Most labels of a torrent.
pub const MAX_LABELS: usize = 64;
/// Longest label, bytes.
pub const MAX_LABEL: usize = 256;
/// Most trackers that one call names.
const MAX_TRACKERS: usize = 128;

/// The result of a call that went well.
const SUCCESS: &str = "success";
/// That of a method that is not known; programs compare it.
const UNKNOWN: &str = "method name not recognized";

/// Names one torrent.
#[derive(Clone, PartialEq, Eq)]
pub enum Id {
    /// By its number in this run of the daemon.
    Number(i64),
    /// By its infohash, in lower-case hexadecimal.
    Hash(String),
}

impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[torrent]")
    }
}

/// Which torrents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ids {
    /// All, where none is named.
    All,
    /// Those in which something happened lately.
    RecentlyActive,
    /// These.
    These(Vec<Id>),
}

/// What is to be added.
#[derive(Clone, PartialEq, Eq)]
pub enum What {
    /// A magnet link, the path of a file, or a URL.
    Name(String),
    /// A torrent file.
    File(Vec<u8>),
}

/// A torrent to be added.
#[derive(Clone, PartialEq)]
pub struct Add {
    /// Which.
    pub what: What,
    /// The folder that takes it; `None`: the usual one.
    pub download_dir: Option<String>,
    /// Whether to wait for a start; `None`: as the session says.
    pub paused: Option<bool>,
    /// Its labels, its files and their priorities.
    pub change: Change,
}

impl std::fmt::Debug for Add {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Add(..)")
    }
}

/// Where in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// To its begin.
    Top,
    /// One up.
    Up,
    /// One down.
    Down,
    /// To its end.
    Bottom,
}

/// What is done with torrents that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Go on, when its turn comes.
    Start,
    /// Go on at once.
    StartNow,
    /// Rest.
    Stop,
    /// Look at what is on the disk.
    Verify,
    /// Ask trackers and the DHT again.
    Reannounce,
    /// Move in the queue.
    Queue(Move),
    /// Go, and with `true` the files too.
    Remove(bool),
}

/// A call.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// `session-get`; only these fields, where some are named.
    SessionGet(Option<Vec<String>>),
    /// `session-set`.
    SessionSet(Box<SessionChange>),
    /// `session-stats`.
    SessionStats,
    /// `session-close`.
    SessionClose,
    /// `torrent-get`.
    TorrentGet {
        /// Which.
        ids: Ids,
        /// What of them.
        fields: Vec<String>,
        /// As a table: a row of names, and one for each torrent.
        table: bool,
    },
    /// `torrent-add`.
    TorrentAdd(Box<Add>),
    /// `torrent-set`.
    TorrentSet(Ids, Box<Change>),
    /// `torrent-start` and the like, `torrent-remove`, `queue-move-top` and the like.
    Act(Ids, Act),
    /// `torrent-set-location`.
    SetLocation {
        /// Which.
        ids: Ids,
        /// The folder.
        location: String,
        /// Whether the files are moved; otherwise they are there already.
        move_files: bool,
    },
    /// `port-test`.
    PortTest,
    /// `free-space`.
    FreeSpace(String),
    /// `group-get`.
    GroupGet,
}

/// What a program said.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The call, or why there is none: the text of its result.
    pub call: Result<Call, String>,
    /// What the answer is marked with.
    pub tag: Option<i64>,
}

impl Message {
    /// Reads a body. Never fails: what is wrong is told in the answer.
    pub fn parse(body: &[u8]) -> Self {
        let broken = |text: &str| Self {
            call: Err(text.to_owned()),
            tag: None,
        };
        // serde_json goes 128 deep at most.
        let Ok(Value::Object(mut message)) = serde_json::from_slice(body) else {
            return broken("the request is no JSON object");
        };
        let tag = message.get("tag").and_then(whole);
        let arguments = match message.remove("arguments") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return broken("\"arguments\" must be an object"),
        };
        let call = match message.get("method") {
            Some(Value::String(method)) => Call::read(method, &Args(&arguments)),
            Some(_) | None => Err("no method name".to_owned()),
        };
        Self { call, tag }
    }
}

impl Call {
    fn read(method: &str, args: &Args<'_>) -> Result<Self, Wrong> {
        let act = |act| Ok(Self::Act(ids(args)?, act));
        match method {
            "session-get" => Ok(Self::SessionGet(
                args.texts("fields", MAX_FIELDS, MAX_FIELD)?,
            )),
            "session-set" => Ok(Self::SessionSet(Box::new(SessionChange::read(args)?))),
            "session-stats" => Ok(Self::SessionStats),
            "session-close" => Ok(Self::SessionClose),
            "torrent-get" => Ok(Self::TorrentGet {
                ids: ids(args)?,
                fields: args
                    .texts("fields", MAX_FIELDS, MAX_FIELD)?
                    .ok_or("no fields specified")?,
                table: match args.text("format")? {
                    None | Some("objects") => false,
                    Some("table") => true,
                    Some(_) => return Err("\"format\" must be \"objects\" or \"table\"".into()),
                },
            }),
            "torrent-add" => Ok(Self::TorrentAdd(Box::new(add(args)?))),
            "torrent-set" => Ok(Self::TorrentSet(ids(args)?, Box::new(change(args)?))),
            "torrent-remove" => {
                let delete = args.flag("delete-local-data")?.unwrap_or(false);
                act(Act::Remove(delete))
            }
            "torrent-start" => act(Act::Start),
            "torrent-start-now" => act(Act::StartNow),
            "torrent-stop" => act(Act::Stop),
            "torrent-verify" => act(Act::Verify),
            "torrent-reannounce" => act(Act::Reannounce),
            "queue-move-top" => act(Act::Queue(Move::Top)),
            "queue-move-up" => act(Act::Queue(Move::Up)),
            "queue-move-down" => act(Act::Queue(Move::Down)),
            "queue-move-bottom" => act(Act::Queue(Move::Bottom)),
            "torrent-set-location" => Ok(Self::SetLocation {
                ids: ids(args)?,
                location: path(args, "location")?.ok_or("no location")?,
                move_files: args.flag("move")?.unwrap_or(false),
            }),
            "port-test" => Ok(Self::PortTest),
            "free-space" => Ok(Self::FreeSpace(
                path(args, "path")?.ok_or("no path was given")?,
            )),
            "group-get" => Ok(Self::GroupGet),
            "group-set" => Err("there are no groups here".to_owned()),
            "torrent-rename-path" => {
                Err("files keep the names that the torrent gives them".to_owned())
            }
            "blocklist-update" => Err(
                "there is no blocklist: peers are reached through circuits, and see an exit's address"
                    .to_owned(),
            ),
            _ => Err(UNKNOWN.to_owned()),
        }
    }
}

/// Which torrents. What is no list, number or hash is refused: taken for "all", it would remove all.
fn ids(args: &Args<'_>) -> Result<Ids, Wrong> {
    let bad = || "\"ids\" must be a number, an infohash, or a list of these".to_owned();
    match args.0.get("ids") {
        None => Ok(Ids::All),
        Some(Value::String(text)) if text == "recently-active" => Ok(Ids::RecentlyActive),
        Some(Value::String(text)) if text == "recently_active" => Ok(Ids::RecentlyActive),
        Some(Value::Array(list)) if list.len() <= MAX_IDS => {
            let ids = list.iter().map(id).collect::<Option<_>>();
            Ok(Ids::These(ids.ok_or_else(bad)?))
        }
        Some(one) => Ok(Ids::These(vec![id(one).ok_or_else(bad)?])),
    }
}

fn id(value: &Value) -> Option<Id> {
    match value {
        Value::Number(_) => whole(value).map(Id::Number),
        // What is no hash of ours names no torrent of ours.
        Value::String(text) => Some(Id::Hash(text.to_ascii_lowercase())),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn path(args: &Args<'_>, name: &str) -> Result<Option<String>, Wrong> {
    let Some(path) = args.text(name)? else {
        return Ok(None);
    };
    if !path.starts_with('/') {
        return Err(format!("\"{name}\" must be an absolute path"));
    }
    if path.len() > MAX_PATH || path.contains('\0') {
        return Err(format!("\"{name}\" is no path"));
    }
    Ok(Some(path.to_owned()))
}

fn add(args: &Args<'_>) -> Result<Add, Wrong> {
    let what = match (args.text("metainfo")?, args.text("filename")?) {
        (Some(text), _) => {
            let text: String = text.split_ascii_whitespace().collect();
            let bytes = BASE64.decode(text.as_bytes());
            let bytes = bytes.or_else(|_| BASE64_NOPAD.decode(text.as_bytes()));
            What::File(bytes.map_err(|_| "\"metainfo\" is not base64")?)
        }
        (None, Some(name)) if !name.is_empty() && name.len() <= MAX_LINK => {
            What::Name(name.to_owned())
        }
        (None, _) => return Err("no filename or metainfo specified".to_owned()),
    };
    // An empty one means the usual one, and so do programs whose field was left empty.
    let download_dir = match args.text("download-dir")? {
        Some(text) if text.trim().is_empty() => None,
        Some(_) => path(args, "download-dir")?,
        None => None,
    };
    Ok(Add {
        what,
        download_dir,
        paused: args.flag("paused")?,
        change: change(args)?,
    })
}

/// What `torrent-set` changes; `torrent-add` takes some of it too.
fn change(args: &Args<'_>) -> Result<Change, Wrong> {
    let mut files = Vec::new();
    for (name, priority) in [
        ("priority-low", Priority::Low),
        ("priority-normal", Priority::Normal),
        ("priority-high", Priority::High),
    ] {
        let named = args.indices(name, MAX_INDICES)?;
        files.extend(named.map(|indices| (indices, priority)));
    }
    let mode = |name: &str| match args.whole(name)? {
        None => Ok(None),
        Some(mode @ 0..=2) => Ok(Some(mode as u8)),
        Some(_) => Err(format!("\"{name}\" must be 0, 1 or 2")),
    };
    let ratio = args.fraction("seedRatioLimit")?;
    if ratio.is_some_and(|ratio| ratio < 0.0) {
        return Err("\"seedRatioLimit\" must not be below 0".to_owned());
    }
    let sequential = match args.flag("sequential_download")? {
        None => args.flag("sequentialDownload")?,
        flag => flag,
    };
    let labels = args.texts("labels", MAX_LABELS, MAX_LABEL)?;
    if labels.iter().flatten().any(|label| label.contains(',')) {
        return Err("labels cannot contain comma (,) character".to_owned());
    }
    let replace = match args.get("trackerReplace") {
        None => Vec::new(),
        Some(list) => pairs(list).ok_or("\"trackerReplace\" must be pairs of id and URL")?,
    };
    let remove = args.indices("trackerRemove", MAX_TRACKERS)?;
    let list = match args.text("trackerList")? {
        Some(text) if text.len() > MAX_LINK => return Err("\"trackerList\" is too long".into()),
        text => text.map(tiers),
    };
    Ok(Change {
        bandwidth_priority: args.whole("bandwidthPriority")?.map(|p| p.clamp(-1, 1)),
        down_limit: args.count("downloadLimit")?,
        down_limited: args.flag("downloadLimited")?,
        up_limit: args.count("uploadLimit")?,
        up_limited: args.flag("uploadLimited")?,
        honors_session: args.flag("honorsSessionLimits")?,
        wanted: args.indices("files-wanted", MAX_INDICES)?,
        unwanted: args.indices("files-unwanted", MAX_INDICES)?,
        priorities: files,
        labels,
        ratio,
        ratio_mode: mode("seedRatioMode")?,
        idle: args.count("seedIdleLimit")?,
        idle_mode: mode("seedIdleMode")?,
        queue_position: args.count("queuePosition")?,
        sequential,
        trackers_add: args
            .texts("trackerAdd", MAX_TRACKERS, MAX_LINK)?
            .unwrap_or_default(),
        trackers_remove: remove.unwrap_or_default(),
        trackers_replace: replace,
        tracker_list: list,
        location: path(args, "location")?,
    })
}

/// `[id, URL, id, URL]`.
fn pairs(list: &Value) -> Option<Vec<(u32, String)>> {
    let list = list
        .as_array()
        .filter(|list| list.len() <= 2 * MAX_TRACKERS)?;
    let (pairs, []) = list.as_chunks::<2>() else {
        return None;
    };
    let pair = |[id, url]: &[Value; 2]| {
        let url = url.as_str().filter(|url| url.len() <= MAX_LINK)?;
        Some((u32::try_from(whole(id)?).ok()?, url.to_owned()))
    };
    pairs.iter().map(pair).collect()
}

/// Lines are URLs, and an empty one stands between tiers.
fn tiers(text: &str) -> Vec<Vec<String>> {
    let mut tiers = vec![Vec::new()];
    for line in text.lines().map(str::trim).take(2 * MAX_TRACKERS) {
        match (line.is_empty(), tiers.last_mut()) {
            (false, Some(tier)) => tier.push(line.to_owned()),
            (true, _) | (false, None) => tiers.push(Vec::new()),
        }
    }
    tiers.retain(|tier| !tier.is_empty());
    tiers
}

/// Writes the answer to a call: its arguments, or why it failed.
pub fn answer(result: Result<Map<String, Value>, String>, tag: Option<i64>) -> Vec<u8> {
    let (arguments, result) = match result {
        Ok(arguments) => (arguments, SUCCESS.to_owned()),
        Err(why) => (Map::new(), why),
    };
    let mut message = json!({ "arguments": arguments, "result": result });
    if let (Some(tag), Value::Object(message)) = (tag, &mut message) {
        message.insert("tag".to_owned(), tag.into());
    }
    // JSON of plain values can always be written.
    serde_json::to_vec(&message).unwrap_or_default()
}
