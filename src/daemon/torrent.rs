//! One torrent of the daemon: what is kept of it, and whether it runs.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Mutex;

use super::queue::{Given, Item, Limits};
use super::record::{Kept, Record};
use super::steer::Seen;
use super::{Running, bytes};
use crate::rpc::session::Settings;
use crate::rpc::torrent::{Change, Fault, File, Priority, Status, Torrent as View, Tracker};
use crate::torrent::engine::{Progress, Source, State, TrackerView};
use crate::torrent::metainfo::{Info, MAX_FILES, WebKind};
use crate::torrent::picker::Bits;

/// Within so many seconds something happened "recently": what the RPC's specification says.
pub(super) const RECENT: u64 = 60;
/// Most trackers of a torrent; those beyond are left out.
const MAX_TRACKERS: usize = 128;

/// Whether it runs.
pub(super) enum Run {
    /// It does not.
    Idle,
    /// It does.
    Running(Box<Running>),
    /// It is stopping, or its files are on their way; then it is idle.
    Busy,
}

/// A torrent.
pub(super) struct Torrent {
    /// Its number in this run of the daemon.
    pub(super) id: i64,
    pub(super) record: Record,
    pub(super) source: Source,
    pub(super) info: Option<Arc<Info>>,
    pub(super) run: Run,
    /// It was started now, whatever the queue says.
    pub(super) forced: bool,
    /// It is looked at what is on the disk; then it rests again, if it did.
    pub(super) verify: bool,
    /// Why it can't go on until somebody starts it.
    pub(super) halted: Option<String>,
    /// Its files are on their way to another folder.
    pub(super) moving: bool,
    /// Held by who works with its files after its run: one after another.
    pub(super) turn: Arc<Mutex<()>>,
    /// How it was last.
    pub(super) progress: Option<Progress>,
    /// What of this run stands in the record already: bytes received and given.
    counted: (u64, u64),
    /// The record has counters that are not on the disk.
    pub(super) dirty: bool,
    /// When somebody last took something, or it began to give; seconds since 1970.
    gave: u64,
}

impl Torrent {
    pub(super) fn new(id: i64, kept: Kept) -> Self {
        Self {
            id,
            record: kept.record,
            source: kept.source,
            info: kept.info.map(Arc::new),
            run: Run::Idle,
            forced: false,
            verify: false,
            halted: None,
            moving: false,
            turn: Arc::default(),
            progress: None,
            counted: (0, 0),
            dirty: false,
            gave: 0,
        }
    }

    /// As the queue sees it.
    pub(super) fn item(&self) -> Item {
        let wants = !self.record.paused && self.halted.is_none();
        Item {
            wants: wants || self.verify,
            forced: self.forced || self.verify,
            seeds: self.record.is_complete(),
        }
    }

    /// It begins to run.
    pub(super) fn begin(&mut self, running: Running, now: u64) {
        self.run = Run::Running(Box::new(running));
        self.counted = (0, 0);
        self.progress = None;
        self.gave = now;
        self.record.started = now;
    }

    /// Looks how it is, `seconds` after the last look. Says whether something is to be written at once.
    pub(super) fn look(&mut self, now: u64, seconds: u64) -> bool {
        let Run::Running(running) = &self.run else {
            return false;
        };
        let progress = running.handle.progress().borrow().clone();
        self.take(progress, now, seconds)
    }

    /// Takes over how it is.
    pub(super) fn take(&mut self, progress: Progress, now: u64, seconds: u64) -> bool {
        let down = progress.downloaded.saturating_sub(self.counted.0);
        let up = progress.uploaded.saturating_sub(self.counted.1);
        self.counted = (progress.downloaded, progress.uploaded);
        let record = &mut self.record;
        record.downloaded = record.downloaded.saturating_add(down);
        record.uploaded = record.uploaded.saturating_add(up);
        if down > 0 || up > 0 {
            record.active = now;
        }
        if up > 0 {
            self.gave = now;
        }
        let mut urgent = false;
        if let Some(name) = &progress.name
            && record.name != *name.expose()
        {
            record.name.clone_from(name.expose());
            urgent = true;
        }
        let is_settled = match progress.state {
            State::FetchingMetadata | State::Checking | State::Failed(_) => false,
            State::Downloading | State::Seeding | State::WaitingForNetwork | State::Done => {
                progress.total > 0
            }
            // It may have been stopped before it was looked at what is there.
            State::Paused(_) | State::Stopped => progress.total > 0 && progress.pieces_done > 0,
        };
        if is_settled {
            record.wanted_bytes = progress.total;
            record.done_bytes = progress.done;
            if record.is_complete() && record.done == 0 {
                record.done = now;
                self.gave = now;
                urgent = true;
            }
            if record.is_complete() {
                record.seconds_seeding += seconds;
            } else {
                // Files were chosen since, or are damaged.
                urgent |= std::mem::take(&mut record.done) > 0;
                record.seconds_downloading += seconds;
            }
        }
        self.dirty |= down > 0 || up > 0 || is_settled;
        self.progress = Some(progress);
        urgent
    }

    /// What it has given since it has everything.
    pub(super) fn given(&self, now: u64) -> Given {
        let base = self.record.downloaded.max(1);
        let base = if self.record.downloaded > 0 {
            base
        } else {
            self.record.done_bytes.max(1)
        };
        Given {
            ratio: self.record.uploaded as f64 / base as f64,
            idle: now.saturating_sub(self.gave),
        }
    }

    /// Its own limits of what it gives.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            ratio: (self.record.ratio_mode, self.record.ratio),
            idle: (self.record.idle_mode, self.record.idle),
        }
    }

    /// Whether anything happened in it lately.
    pub(super) fn is_recent(&self, now: u64) -> bool {
        let latest = self.record.active.max(self.record.edited);
        let runs = !matches!(self.run, Run::Idle);
        runs || now.saturating_sub(latest) <= RECENT
    }

    /// Its trackers, in tiers.
    pub(super) fn trackers(&self) -> Vec<Vec<String>> {
        if let Some(own) = &self.record.trackers {
            return own.clone();
        }
        match &self.source {
            Source::Magnet(magnet) => magnet
                .trackers
                .iter()
                .map(|url| vec![url.clone()])
                .collect(),
            Source::Metainfo(metainfo) => metainfo.trackers.clone(),
        }
    }

    /// What it is started by: with the trackers that the user chose.
    pub(super) fn start_source(&self) -> Source {
        let mut source = self.source.clone();
        if let Some(own) = &self.record.trackers {
            match &mut source {
                Source::Magnet(magnet) => magnet.trackers = own.concat(),
                Source::Metainfo(metainfo) => metainfo.trackers.clone_from(own),
            }
        }
        source
    }

    /// A name to show: its own, or what its link says.
    pub(super) fn name(&self) -> String {
        if let Some(info) = &self.info {
            return info.name.clone();
        }
        if !self.record.name.is_empty() {
            return self.record.name.clone();
        }
        match &self.source {
            Source::Magnet(magnet) => magnet.name.clone(),
            Source::Metainfo(metainfo) => Some(metainfo.info.name.clone()),
        }
        .unwrap_or_else(|| self.record.hash.clone())
    }

    /// What it does.
    pub(super) fn status(&self) -> Status {
        let complete = self.record.is_complete();
        let (waits, works) = if complete {
            (Status::SeedWait, Status::Seed)
        } else {
            (Status::DownloadWait, Status::Download)
        };
        match (&self.run, &self.progress) {
            (Run::Running(_), Some(progress)) => match progress.state {
                State::Checking => Status::Check,
                State::Done | State::Seeding => Status::Seed,
                State::Failed(_) | State::Stopped => Status::Stopped,
                State::FetchingMetadata
                | State::Downloading
                | State::WaitingForNetwork
                | State::Paused(_) => works,
            },
            (Run::Running(_), None) => works,
            (Run::Idle | Run::Busy, _) if self.item().wants => waits,
            (Run::Idle | Run::Busy, _) => Status::Stopped,
        }
    }

    /// What is wrong with it.
    fn fault(&self) -> (Fault, String) {
        if let Some(why) = &self.halted {
            return (Fault::Local, why.clone());
        }
        let Some(progress) = &self.progress else {
            return (Fault::None, String::new());
        };
        match &progress.state {
            State::Paused(error) => (Fault::Local, format!("{error}: {}", error.hint())),
            State::Failed(failure) => (Fault::Local, failure.to_string()),
            State::FetchingMetadata
            | State::Checking
            | State::Downloading
            | State::Seeding
            | State::WaitingForNetwork
            | State::Done
            | State::Stopped => (Fault::None, String::new()),
        }
    }

    /// All that is told of it. `had` are the pieces of one that does not run.
    pub(super) fn view(
        &self,
        now: u64,
        settings: &Settings,
        seen: Seen,
        had: Option<&Bits>,
    ) -> View {
        let record = &self.record;
        let running = matches!(self.run, Run::Running(_));
        let progress = self.progress.as_ref().filter(|_| running);
        let info = self.info.clone().or(seen.info);
        let info = info.as_deref();
        let (fault, error) = self.fault();
        let total = info.map_or(record.wanted_bytes, bytes::length);
        let bits = seen.pieces.as_ref().and_then(|bytes| {
            let pieces = info?.piece_count();
            Bits::from_bytes(pieces, bytes)
        });
        let full = || info.map(|info| Bits::full(info.piece_count()));
        let complete = record.is_complete() && record.unwanted.is_empty();
        let bits = bits
            .or_else(|| had.cloned())
            .or_else(|| full().filter(|_| complete));
        let connected = progress.map_or(0, |progress| progress.connected as u64);
        let is_checking = progress.is_some_and(|progress| progress.state == State::Checking);
        let limits = self.limits();
        let idle_left = limits
            .idle(settings)
            .filter(|_| running && record.is_complete());
        let idle_left = idle_left.map(|limit| limit.saturating_sub(self.given(now).idle));
        let rate = |pick: fn(&Progress) -> u64| progress.map_or(0, pick);
        let wanted = if record.wanted_bytes > 0 {
            record.wanted_bytes
        } else {
            total
        };
        View {
            id: self.id,
            hash: record.hash.clone(),
            name: self.name(),
            download_dir: record.download_dir.clone(),
            magnet: self.magnet(),
            torrent_file: String::new(),
            comment: String::new(),
            status: self.status(),
            fault,
            error,
            total_size: total,
            size_when_done: wanted,
            have_valid: record.done_bytes,
            left: wanted.saturating_sub(record.done_bytes),
            check_progress: match progress {
                Some(progress) if is_checking => {
                    f64::from(progress.checked) / f64::from(progress.pieces.max(1))
                }
                Some(_) | None => 0.0,
            },
            has_metadata: info.is_some() || record.wanted_bytes > 0,
            rate_down: rate(|progress| progress.down_rate),
            rate_up: rate(|progress| progress.up_rate),
            downloaded: record.downloaded,
            uploaded: record.uploaded,
            corrupt: 0,
            eta: progress.and_then(|progress| Some(progress.eta?.as_secs())),
            eta_idle: idle_left,
            added: record.added,
            done: record.done,
            started: record.started,
            active: record.active,
            edited: record.edited,
            seconds_downloading: record.seconds_downloading,
            seconds_seeding: record.seconds_seeding,
            is_finished: record.finished,
            is_private: info.is_some_and(|info| info.private),
            is_stalled: running && !is_checking && now.saturating_sub(record.active) > RECENT,
            labels: record.labels.clone(),
            queue_position: record.queue,
            bandwidth_priority: record.bandwidth_priority,
            honors_session: !record.ignores_session,
            down_limit: record.down_limit,
            down_limited: record.down_limited,
            up_limit: record.up_limit,
            up_limited: record.up_limited,
            ratio: record.ratio,
            ratio_mode: record.ratio_mode,
            idle: record.idle,
            idle_mode: record.idle_mode,
            sequential: record.sequential,
            peers_connected: connected,
            peers_giving: seen.peers.0,
            peers_taking: seen.peers.1,
            peer_limit: PEER_LIMIT,
            web_seeds: self.web_seeds(),
            piece_count: info.map_or(0, |info| u64::from(info.piece_count())),
            piece_size: info.map_or(0, |info| u64::from(info.piece_len)),
            pieces: bits.as_ref().map(Bits::to_bytes).unwrap_or_default(),
            files: info.map_or_else(Vec::new, |info| self.files(info, bits.as_ref())),
            trackers: self.tracker_rows(&seen.trackers, now),
        }
    }

    fn files(&self, info: &Info, bits: Option<&Bits>) -> Vec<File> {
        let mut done = bits
            .map(|bits| bytes::done(info, bits))
            .into_iter()
            .flatten();
        let file = |(number, entry): (u32, &crate::torrent::metainfo::FileEntry)| File {
            name: entry.path.join("/"),
            length: entry.len,
            done: done.next().unwrap_or(0),
            wanted: self.record.unwanted.binary_search(&number).is_err(),
            priority: self.record.priority(number),
        };
        (0..).zip(bytes::files(info)).map(file).collect()
    }

    /// In the order of the record, whose places are their ids; `seen` is what is known of those that are asked.
    fn tracker_rows(&self, seen: &[TrackerView], now: u64) -> Vec<Tracker> {
        let clock = Instant::now();
        let since = |at: Instant| now.saturating_sub(clock.saturating_duration_since(at).as_secs());
        let until = |at: Instant| now + at.saturating_duration_since(clock).as_secs();
        let row = |(tier, announce): (usize, String)| {
            let view = seen.iter().find(|view| *view.url.expose() == announce);
            Tracker {
                announce,
                tier,
                result: view
                    .and_then(|view| view.status.clone())
                    .unwrap_or_default(),
                succeeded: view.is_some_and(|view| view.works),
                last: view.and_then(|view| view.last).map_or(0, since),
                next: view.and_then(|view| view.next).map_or(0, until),
                seeders: view.and_then(|view| view.counts.seeders).map(u64::from),
                leechers: view.and_then(|view| view.counts.leechers).map(u64::from),
                completed: view.and_then(|view| view.counts.completed).map(u64::from),
            }
        };
        let tiers = self.trackers().into_iter().enumerate();
        let rows = tiers.flat_map(|(tier, urls)| urls.into_iter().map(move |url| (tier, url)));
        rows.map(row).collect()
    }

    /// Servers that have its content.
    fn web_seeds(&self) -> Vec<String> {
        match &self.source {
            Source::Magnet(magnet) => magnet.web_seeds.clone(),
            Source::Metainfo(metainfo) => {
                let seeds = metainfo.web_seeds.iter();
                seeds.map(|seed| seed.url.clone()).collect()
            }
        }
    }

    /// Its link. One that names hidden seeds or peers is given as it came.
    fn magnet(&self) -> String {
        match &self.source {
            Source::Magnet(magnet) => magnet.to_string(),
            Source::Metainfo(metainfo) => {
                let info = &metainfo.info;
                let v2 = info.v2.as_ref().map(|v2| v2.hash);
                let web_seeds = metainfo.web_seeds.iter();
                // A link can't name the others (BEP 9, 19).
                let web_seeds = web_seeds.filter(|seed| seed.kind == WebKind::Files);
                crate::torrent::magnet::Magnet {
                    hash: info.hash,
                    v2,
                    name: Some(info.name.clone()),
                    trackers: metainfo.trackers.concat(),
                    peers: Vec::new(),
                    seeds: Vec::new(),
                    web_seeds: web_seeds.map(|seed| seed.url.clone()).collect(),
                    select: None,
                }
                .to_string()
            }
        }
    }

    /// Takes over what a program changed, but for its place in the queue and its folder. Says what has to follow.
    ///
    /// # Errors
    /// What can't be; nothing was changed.
    pub(super) fn change(&mut self, change: &Change, now: u64) -> Result<Follows, String> {
        let trackers = self.changed_trackers(change)?;
        let count = self
            .info
            .as_deref()
            .map(|info| bytes::files(info).count() as u32);
        let (unwanted, high, low) = self.changed_files(change, count)?;
        let record = &mut self.record;
        let mut follows = Follows::default();
        let set = |slot: &mut Vec<u32>, new: Vec<u32>| {
            let differs = *slot != new;
            *slot = new;
            differs
        };
        follows.files |= set(&mut record.unwanted, unwanted);
        follows.files |= set(&mut record.high, high);
        follows.files |= set(&mut record.low, low);
        if let Some(trackers) = trackers {
            follows.restart = record.trackers.as_ref() != Some(&trackers);
            record.trackers = Some(trackers);
        }
        macro_rules! take {
            ($($from:ident => $to:ident),*) => {
                $(if let Some(new) = change.$from.clone() { record.$to = new; })*
            };
        }
        take!(
            bandwidth_priority => bandwidth_priority, down_limit => down_limit, down_limited => down_limited,
            up_limit => up_limit, up_limited => up_limited, labels => labels, ratio => ratio,
            ratio_mode => ratio_mode, idle => idle, idle_mode => idle_mode, sequential => sequential
        );
        if let Some(honors) = change.honors_session {
            record.ignores_session = !honors;
        }
        record.edited = now;
        Ok(follows)
    }

    fn changed_files(&self, change: &Change, count: Option<u32>) -> Result<Chosen, String> {
        let record = &self.record;
        let mut unwanted = record.unwanted.clone();
        let (mut high, mut low) = (record.high.clone(), record.low.clone());
        // An empty list means all of them.
        let named = |list: &Vec<u32>| -> Result<Vec<u32>, String> {
            match (list.is_empty(), count) {
                (true, None) => Err("the torrent's files are not known yet".to_owned()),
                (true, Some(count)) => Ok((0..count).collect()),
                (false, Some(count)) if list.iter().any(|file| *file >= count) => {
                    Err("the torrent has no file of this number".to_owned())
                }
                (false, _) => Ok(list.clone()),
            }
        };
        if let Some(list) = &change.unwanted {
            unwanted.extend(named(list)?);
        }
        if let Some(list) = &change.wanted {
            let list = named(list)?;
            unwanted.retain(|file| !list.contains(file));
        }
        for (list, priority) in &change.priorities {
            let list = named(list)?;
            high.retain(|file| !list.contains(file));
            low.retain(|file| !list.contains(file));
            match priority {
                Priority::High => high.extend(list),
                Priority::Low => low.extend(list),
                Priority::Normal => {}
            }
        }
        for list in [&mut unwanted, &mut high, &mut low] {
            list.sort_unstable();
            list.dedup();
        }
        // Where the files are not known yet, any number may be named.
        if unwanted.len().max(high.len()).max(low.len()) > MAX_FILES {
            return Err("a torrent has 200,000 files at most".to_owned());
        }
        if count.is_some_and(|count| count > 0 && unwanted.len() as u64 >= u64::from(count)) {
            return Err("at least one file must be wanted: stop the torrent instead".to_owned());
        }
        Ok((unwanted, high, low))
    }

    /// The trackers that it is to have; `None`: those that it has.
    fn changed_trackers(&self, change: &Change) -> Result<Option<Vec<Vec<String>>>, String> {
        let none = change.trackers_add.is_empty()
            && change.trackers_remove.is_empty()
            && change.trackers_replace.is_empty();
        if none && change.tracker_list.is_none() {
            return Ok(None);
        }
        // Ids count all of them, in the order of their tiers.
        let mut all: Vec<(usize, Option<String>)> = Vec::new();
        let tiers = change
            .tracker_list
            .clone()
            .unwrap_or_else(|| self.trackers());
        for (tier, urls) in tiers.into_iter().enumerate() {
            all.extend(urls.into_iter().map(|url| (tier, Some(url))));
        }
        let missing = || "the torrent has no tracker of this id".to_owned();
        for (id, url) in &change.trackers_replace {
            let slot = all.get_mut(*id as usize).ok_or_else(missing)?;
            slot.1 = Some(url.clone());
        }
        for id in &change.trackers_remove {
            let slot = all.get_mut(*id as usize).ok_or_else(missing)?;
            slot.1 = None;
        }
        let mut last = all.last().map_or(0, |(tier, _)| tier + 1);
        for url in &change.trackers_add {
            let known = all.iter().any(|(_, one)| one.as_deref() == Some(url));
            if !known {
                all.push((last, Some(url.clone())));
                last += 1;
            }
        }
        let mut out: Vec<Vec<String>> = Vec::new();
        let mut tier = None;
        for (of, url) in all {
            let Some(url) = url else { continue };
            if !is_tracker(&url) {
                return Err("a tracker's URL begins with http://, https:// or udp://".to_owned());
            }
            match out.last_mut() {
                Some(urls) if tier == Some(of) => urls.push(url),
                Some(_) | None => out.push(vec![url]),
            }
            tier = Some(of);
        }
        if out.iter().flatten().count() > MAX_TRACKERS {
            return Err("a torrent has 128 trackers at most".to_owned());
        }
        Ok(Some(out))
    }
}

/// Files that are not wanted, wanted before others, and after others.
type Chosen = (Vec<u32>, Vec<u32>, Vec<u32>);

/// What has to follow a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Follows {
    /// Other files are wanted, or otherwise.
    pub(super) files: bool,
    /// Only a new start makes it count.
    pub(super) restart: bool,
}

/// Connections of one torrent: what the engine allows itself.
pub(super) const PEER_LIMIT: u64 = 60;

fn is_tracker(url: &str) -> bool {
    let known = ["http://", "https://", "udp://"];
    url.len() <= 2048
        && !url.chars().any(|c| c.is_control() || c == ' ')
        && known
            .iter()
            .any(|scheme| url.len() > scheme.len() && url.starts_with(scheme))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::torrent::infohash::InfoHash;
    use crate::torrent::magnet::Magnet;

    fn torrent() -> Torrent {
        let mut record = Record::new(InfoHash([1; 20]), "/tmp/x".to_owned(), 7);
        record.wanted_bytes = 100;
        record.done_bytes = 100;
        record.done = 9;
        let link = format!("magnet:?xt=urn:btih:{}", record.hash);
        let kept = Kept {
            record,
            source: Source::Magnet(Magnet::parse(&link).unwrap()),
            info: None,
        };
        Torrent::new(1, kept)
    }

    #[test]
    fn one_that_is_stopped_before_it_was_looked_at_stays_complete() {
        let mut torrent = torrent();
        let mut progress = Progress::new(State::Stopped);
        (progress.total, progress.pieces) = (100, 2);
        torrent.take(progress.clone(), 20, 1);
        assert!(torrent.record.is_complete());
        assert_eq!(torrent.record.done, 9);
        // What was looked at counts.
        (progress.done, progress.pieces_done) = (50, 1);
        torrent.take(progress, 30, 1);
        assert!(!torrent.record.is_complete());
        assert_eq!(torrent.record.done, 0);
    }

    #[test]
    fn trackers_keep_their_places_in_whatever_order_they_are_asked() {
        let mut torrent = torrent();
        let urls = [
            "http://a.example/",
            "udp://b.example:1/",
            "https://c.example/",
        ];
        torrent.record.trackers = Some(urls.map(|url| vec![url.to_owned()]).to_vec());
        let now = Instant::now();
        let minute = std::time::Duration::from_secs(60);
        let view = |url: &str, works| TrackerView {
            url: crate::redact::Redacted::new(url.to_owned()),
            tier: 0,
            status: Some("5 peers".to_owned()),
            works,
            last: now.checked_sub(minute),
            next: Some(now + minute),
            counts: crate::torrent::tracker::Scraped {
                seeders: Some(3),
                ..Default::default()
            },
        };
        let rows = torrent.tracker_rows(&[view(urls[2], true), view(urls[0], false)], 1000);
        let announce: Vec<_> = rows.iter().map(|row| row.announce.as_str()).collect();
        assert_eq!(announce, urls);
        let of = |row: &Tracker| (row.succeeded, row.last, row.seeders, row.tier);
        assert_eq!(of(&rows[0]), (false, 940, Some(3), 0));
        assert_eq!(of(&rows[1]), (false, 0, None, 1));
        assert_eq!(of(&rows[2]), (true, 940, Some(3), 2));
        assert!((1059..=1060).contains(&rows[2].next));
        assert_eq!(rows[2].result, "5 peers");
    }

    #[test]
    fn no_more_files_are_named_than_a_torrent_can_have() {
        let most = MAX_FILES as u32;
        let naming = |count| Change {
            unwanted: Some((0..count).collect()),
            ..Change::default()
        };
        assert!(torrent().change(&naming(most), 1).is_ok());
        let mut torrent = torrent();
        assert!(torrent.change(&naming(most + 1), 1).is_err());
        assert!(torrent.record.unwanted.is_empty());
    }
}
