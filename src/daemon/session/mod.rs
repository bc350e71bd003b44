//! The one task that owns all torrents: it takes calls in turn, lets torrents run whose turn it is, and writes down what has to stay.

mod add;
mod calls;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use super::files::Claims;
use super::queue;
use super::record::{Record, Store};
use super::torrent::{RECENT, Run, Torrent};
use super::{Start, Starter, bytes, metrics, steer};
use crate::config::unix_now;
use crate::error::Error;
use crate::rpc::call::{Call, What};
use crate::rpc::session::{Settings, Totals};
use crate::state::StateDir;
use crate::torrent::by_url::{Found, is_web};
use crate::torrent::engine::{Handle, Progress, State};
use crate::torrent::infohash::InfoHash;
use crate::torrent::metainfo::Info;
use crate::torrent::select::Selection;

/// Calls that wait; more than connections can have is never needed.
const MAX_CALLS: usize = 64;
/// Torrent files that are fetched at once, each held in memory as a whole.
const MAX_FETCHES: usize = 2;
/// How often torrents are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Seconds after which counters are written. What a kill loses of them is a minute's.
const SAVE_AFTER: u64 = 60;
/// Numbers of removed torrents that are remembered for programs that ask what went lately.
const MAX_REMOVED: usize = 1000;
/// Seconds after a start in which a torrent has taken up what it was told at first.
const SETTLED: u64 = 3;
/// How long the end waits for torrents to write down what they have: below the 90 s that a service manager waits.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// The answer to a call: its arguments, or why it failed.
pub type Answer = Result<Map<String, Value>, String>;

/// What the session is told.
enum Order {
    Call(Call, oneshot::Sender<Answer>),
    Metrics(oneshot::Sender<String>),
    Stop,
}

/// Leads to the session; clones lead to the same.
#[derive(Clone)]
pub struct Session {
    orders: mpsc::Sender<Order>,
    starter: Arc<dyn Starter>,
    fetches: Arc<Semaphore>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

impl Session {
    /// Makes a call, and waits for its answer.
    pub async fn call(&self, call: Call) -> Answer {
        let call = self.fetched(call).await?;
        let (sender, answer) = oneshot::channel();
        let gone = || "the daemon is stopping".to_owned();
        let order = Order::Call(call, sender);
        self.orders.send(order).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// The same call, with the torrent in place of its web address: other calls don't wait for that.
    async fn fetched(&self, call: Call) -> Result<Call, String> {
        let Call::TorrentAdd(mut add) = call else {
            return Ok(call);
        };
        if let What::Name(url) = &add.what
            && is_web(url)
        {
            // Never closed.
            let _turn = self.fetches.acquire().await;
            add.what = match self.starter.fetch(url).await? {
                Found::File(file) => What::File(file),
                Found::Magnet(link) => What::Name(link),
            };
        }
        Ok(Call::TorrentAdd(add))
    }

    /// The metrics; `None` while it stops.
    pub async fn metrics(&self) -> Option<String> {
        let (sender, answer) = oneshot::channel();
        self.orders.send(Order::Metrics(sender)).await.ok()?;
        answer.await.ok()
    }

    /// Stops all torrents in good order, and ends the session.
    pub async fn stop(&self) {
        // When it is gone already, it has stopped.
        let _ = self.orders.send(Order::Stop).await;
    }
}

/// What the session begins with.
pub struct Begin {
    /// The folder that takes downloads at the first start; later the one that was set.
    pub download_dir: PathBuf,
    /// Whether that was named by the user just now, and counts in place of what was set.
    pub download_dir_named: bool,
    /// The session id.
    pub id: String,
}

/// Reads what was kept and begins; torrents go on where they were. Gives how many entries could not be read and were set aside.
///
/// # Errors
/// The state folder: tell the user.
pub fn begin(
    begin: Begin,
    state: &StateDir,
    starter: Arc<dyn Starter>,
) -> Result<(Session, JoinHandle<()>, usize), Error> {
    let store = Arc::new(Store::open(state)?);
    let named = begin.download_dir.to_string_lossy().into_owned();
    let (mut settings, mut ever, aside) = store.load_settings(Settings::new(named.clone()));
    if begin.download_dir_named {
        settings.download_dir = named;
    }
    let (kept, damaged) = store.load()?;
    ever.sessions += 1;
    let mut owner = Owner {
        id: begin.id,
        store,
        starter: Arc::clone(&starter),
        settings,
        ever,
        current: Totals {
            sessions: 1,
            ..Totals::default()
        },
        torrents: BTreeMap::new(),
        order: Vec::new(),
        next: 1,
        removed: Vec::new(),
        leaving: BTreeSet::new(),
        ending: JoinSet::new(),
        saved: unix_now(),
        stopping: false,
    };
    let mut kept: Vec<_> = kept.into_iter().collect();
    kept.sort_by_key(|kept| (kept.record.queue, kept.record.added));
    for kept in kept {
        owner.take_in(kept);
    }
    let (orders, receiver) = mpsc::channel(MAX_CALLS);
    let task = tokio::spawn(owner.run(receiver));
    let session = Session {
        orders,
        starter,
        fetches: Arc::new(Semaphore::new(MAX_FETCHES)),
    };
    Ok((session, task, damaged + usize::from(aside)))
}

/// A torrent that has stopped, and what was done with its files.
struct Ended {
    hash: InfoHash,
    progress: Option<Progress>,
    then: Then,
}

/// What was to be done with a torrent's files when it had stopped.
enum Then {
    /// Nothing.
    Rest,
    /// They are elsewhere now, or not.
    Moved(String, io::Result<()>),
    /// They are gone, or not.
    Removed(io::Result<()>),
}

struct Owner {
    id: String,
    store: Arc<Store>,
    starter: Arc<dyn Starter>,
    settings: Settings,
    /// Sums of all sessions, this one among them.
    ever: Totals,
    current: Totals,
    torrents: BTreeMap<InfoHash, Torrent>,
    /// The queue.
    order: Vec<InfoHash>,
    next: i64,
    /// Numbers of removed torrents, and when.
    removed: Vec<(i64, u64)>,
    /// Removed torrents whose files may still be in use.
    leaving: BTreeSet<InfoHash>,
    ending: JoinSet<Ended>,
    saved: u64,
    stopping: bool,
}

impl Owner {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        self.limit();
        self.settle();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Call(call, answer)) => {
                        let result = self.answer(call).await;
                        // Who asked may be gone.
                        let _ = answer.send(result);
                    }
                    Some(Order::Metrics(answer)) => {
                        let _ = answer.send(self.metrics().await);
                    }
                    Some(Order::Stop) | None => break,
                },
                Some(ended) = self.ending.join_next() => {
                    if let Ok(ended) = ended {
                        self.take_ended(ended).await;
                        self.settle();
                    }
                }
                _ = tick.tick() => self.tick().await,
            }
            if self.stopping {
                break;
            }
        }
        self.close().await;
    }

    /// Looks at all torrents.
    async fn tick(&mut self) {
        let now = unix_now();
        self.ever.seconds += TICK.as_secs();
        self.current.seconds += TICK.as_secs();
        let mut urgent = Vec::new();
        let before = self.counters();
        for (hash, torrent) in &mut self.torrents {
            if torrent.look(now, TICK.as_secs()) {
                urgent.push(*hash);
            }
        }
        self.count(before);
        for hash in self.torrents.keys().copied().collect::<Vec<_>>() {
            self.learn(hash).await;
            if self.judge(hash, now) {
                urgent.push(hash);
            }
        }
        urgent.sort_unstable();
        urgent.dedup();
        for hash in urgent {
            self.save(hash).await;
        }
        if now.saturating_sub(self.saved) >= SAVE_AFTER {
            self.save_counters(now).await;
        }
        self.settle();
    }

    /// Bytes received and given, of all torrents that are there.
    pub(super) fn counters(&self) -> (u64, u64) {
        let sum = |pick: fn(&Record) -> u64| {
            let all = self.torrents.values();
            all.fold(0_u64, |sum, torrent| {
                sum.saturating_add(pick(&torrent.record))
            })
        };
        (
            sum(|record| record.downloaded),
            sum(|record| record.uploaded),
        )
    }

    /// Adds what came since to the sums.
    pub(super) fn count(&mut self, before: (u64, u64)) {
        let after = self.counters();
        for totals in [&mut self.ever, &mut self.current] {
            totals.downloaded += after.0.saturating_sub(before.0);
            totals.uploaded += after.1.saturating_sub(before.1);
        }
    }

    /// Keeps what a magnet link's torrent holds, once that is known.
    async fn learn(&mut self, hash: InfoHash) {
        let Some(torrent) = self.torrents.get_mut(&hash) else {
            return;
        };
        let (Run::Running(running), None) = (&torrent.run, &torrent.info) else {
            return;
        };
        if running.handle.progress().borrow().pieces == 0 {
            return;
        }
        let Some(info) = steer::look(&running.handle).await.info else {
            return;
        };
        torrent.info = Some(Arc::clone(&info));
        torrent.record.name.clone_from(&info.name);
        steer::wish(&running.handle, &torrent.record, &info);
        let (store, name) = (Arc::clone(&self.store), torrent.record.hash.clone());
        let written = tokio::task::spawn_blocking(move || store.save_info(&name, &info.bytes));
        if let Ok(Err(error)) = written.await {
            tracing::warn!(kind = %error.kind(), "a torrent's metadata could not be kept");
        }
        self.save(hash).await;
    }

    /// Decides whether a torrent goes on. Says whether that is to be written.
    fn judge(&mut self, hash: InfoHash, now: u64) -> bool {
        let Some(torrent) = self.torrents.get_mut(&hash) else {
            return false;
        };
        let (Run::Running(_), Some(progress)) = (&torrent.run, &torrent.progress) else {
            return false;
        };
        match &progress.state {
            State::Failed(failure) => {
                torrent.halted = Some(failure.to_string());
                torrent.verify = false;
                return false;
            }
            State::Checking | State::FetchingMetadata => return false,
            State::Downloading
            | State::Seeding
            | State::WaitingForNetwork
            | State::Paused(_)
            | State::Done
            | State::Stopped => {}
        }
        // What it was asked for while it began is taken up a moment after it has begun.
        if now.saturating_sub(torrent.record.started) >= SETTLED {
            torrent.verify = false;
        }
        let given = torrent.given(now);
        if torrent.record.is_complete()
            && !torrent.record.paused
            && queue::has_given_enough(given, torrent.limits(), &self.settings)
        {
            torrent.record.paused = true;
            torrent.record.finished = true;
            torrent.forced = false;
            return true;
        }
        false
    }

    /// Starts those whose turn it is, and stops the others.
    fn settle(&mut self) {
        let items: Vec<_> = self
            .order
            .iter()
            .filter_map(|hash| Some((*hash, self.torrents.get(hash)?.item())))
            .collect();
        let alone: Vec<_> = items.iter().map(|(_, item)| *item).collect();
        let turns = queue::turns(&alone, &self.settings);
        for ((hash, _), turn) in items.into_iter().zip(turns) {
            let runs = self.torrents.get(&hash).map(|torrent| &torrent.run);
            match (runs, turn) {
                (Some(Run::Idle), true) if !self.leaving.contains(&hash) => self.start(hash),
                (Some(Run::Running(_)), false) => self.end(hash, None),
                (Some(Run::Idle | Run::Running(_) | Run::Busy) | None, _) => {}
            }
        }
    }

    fn start(&mut self, hash: InfoHash) {
        let Some(torrent) = self.torrents.get_mut(&hash) else {
            return;
        };
        let select = match &torrent.info {
            Some(info) => bytes::without(info, &torrent.record.unwanted),
            None => None,
        };
        let start = Start {
            source: torrent.start_source(),
            info: torrent.info.clone(),
            output: PathBuf::from(&torrent.record.download_dir),
            select: select.unwrap_or_else(Selection::all),
        };
        match self.starter.start(start) {
            Ok(running) => {
                steer::begin(&running.handle, &torrent.record, torrent.info.as_deref());
                if torrent.verify {
                    steer::verify(&running.handle);
                }
                torrent.begin(running, unix_now());
            }
            Err(why) => {
                torrent.halted = Some(why);
                torrent.verify = false;
            }
        }
    }

    /// Ends a torrent's run, or moves its files where it does not run.
    fn end(&mut self, hash: InfoHash, location: Option<String>) {
        let Some(torrent) = self.torrents.get_mut(&hash) else {
            return;
        };
        let running = match std::mem::replace(&mut torrent.run, Run::Busy) {
            Run::Running(running) => Some(running),
            Run::Idle => None,
            // Somebody asks again: what is on its way goes on.
            Run::Busy => return,
        };
        let info = torrent.info.clone();
        let from = PathBuf::from(&torrent.record.download_dir);
        torrent.moving = location.is_some();
        let turn = Arc::clone(&torrent.turn).try_lock_owned();
        let claims = self.claims(hash);
        self.ending.spawn(async move {
            // Free, since nobody else works with a torrent that is not busy.
            let _turn = turn;
            let progress = match running {
                Some(running) => Some(running.handle.stop().await),
                None => None,
            };
            let then = match location {
                None => Then::Rest,
                Some(to) => {
                    let moved = relocate(claims, from, PathBuf::from(&to), info).await;
                    Then::Moved(to, moved)
                }
            };
            Ended {
                hash,
                progress,
                then,
            }
        });
    }

    /// A torrent has stopped.
    async fn take_ended(&mut self, ended: Ended) {
        let hash = ended.hash;
        if let Then::Removed(done) = &ended.then {
            self.leaving.remove(&hash);
            if let Err(error) = done {
                tracing::warn!(kind = %error.kind(), "a removed torrent's files could not be deleted");
            }
            return;
        }
        let before = self.counters();
        let Some(torrent) = self.torrents.get_mut(&hash) else {
            return;
        };
        if let Some(progress) = ended.progress {
            torrent.take(progress, unix_now(), 0);
        }
        torrent.run = Run::Idle;
        torrent.moving = false;
        torrent.progress = None;
        match ended.then {
            Then::Moved(to, Ok(())) => torrent.record.download_dir = to,
            Then::Moved(_, Err(error)) => {
                let exists = error.kind() == io::ErrorKind::AlreadyExists;
                torrent.halted = Some(if exists {
                    "not moved: a file of the same name is there already".to_owned()
                } else {
                    format!("not moved: {}", error.kind())
                });
            }
            Then::Rest | Then::Removed(_) => {}
        }
        self.count(before);
        self.save(hash).await;
    }

    /// What tells which files are a torrent's own.
    fn claims(&self, hash: InfoHash) -> Claims {
        Claims {
            state: self.store.state().to_owned(),
            hash,
        }
    }

    /// Takes a torrent out. Its entry goes at once, its files when it has stopped.
    async fn remove(&mut self, hash: InfoHash, delete: bool) -> Result<(), String> {
        let Some(torrent) = self.torrents.get(&hash) else {
            return Ok(());
        };
        if torrent.moving {
            return Err("the torrent is on its way to another folder: try again".to_owned());
        }
        let name = torrent.record.hash.clone();
        let store = Arc::clone(&self.store);
        let removed = tokio::task::spawn_blocking(move || store.remove(&name)).await;
        if let Ok(Err(error)) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(format!("the torrent can't be removed: {}", error.kind()));
        }
        let Some(torrent) = self.torrents.remove(&hash) else {
            return Ok(());
        };
        self.order.retain(|other| *other != hash);
        self.number();
        let now = unix_now();
        self.removed
            .retain(|(_, then)| now.saturating_sub(*then) <= RECENT);
        self.removed.truncate(MAX_REMOVED - 1);
        self.removed.push((torrent.id, now));
        self.leaving.insert(hash);
        let root = PathBuf::from(&torrent.record.download_dir);
        let (run, info) = (torrent.run, torrent.info.filter(|_| delete));
        let turn = torrent.turn;
        let claims = self.claims(hash);
        self.ending.spawn(async move {
            // It may be stopping.
            let _turn = turn.lock_owned().await;
            if let Run::Running(running) = run {
                running.handle.stop().await;
            }
            let removed = tokio::task::spawn_blocking(move || match info {
                Some(info) => claims.remove(&root, &info),
                None => Ok(()),
            });
            Ended {
                hash,
                progress: None,
                then: Then::Removed(removed.await.unwrap_or_else(|error| Err(error.into()))),
            }
        });
        Ok(())
    }

    /// Writes places in the queue into the entries.
    fn number(&mut self) {
        for (place, hash) in self.order.iter().enumerate() {
            if let Some(torrent) = self.torrents.get_mut(hash) {
                let place = place as u64;
                torrent.dirty |= torrent.record.queue != place;
                torrent.record.queue = place;
            }
        }
    }

    /// Writes an entry.
    async fn save(&mut self, hash: InfoHash) {
        let Some(torrent) = self.torrents.get_mut(&hash) else {
            return;
        };
        let (store, record) = (Arc::clone(&self.store), torrent.record.clone());
        let saved = tokio::task::spawn_blocking(move || store.save(&record)).await;
        let Some(torrent) = self.torrents.get_mut(&hash) else {
            return;
        };
        match saved {
            Ok(Ok(())) => torrent.dirty = false,
            Ok(Err(error)) => {
                torrent.dirty = true;
                tracing::warn!(
                    kind = %error.kind(),
                    "a torrent's entry could not be written"
                );
            }
            Err(_) => torrent.dirty = true,
        }
    }

    /// Writes what has changed of counters and places.
    async fn save_counters(&mut self, now: u64) {
        self.saved = now;
        let dirty = self.torrents.iter().filter(|(_, torrent)| torrent.dirty);
        for hash in dirty.map(|(hash, _)| *hash).collect::<Vec<_>>() {
            self.save(hash).await;
        }
        self.save_settings().await;
    }

    async fn save_settings(&mut self) {
        let store = Arc::clone(&self.store);
        let (settings, ever) = (self.settings.clone(), self.ever);
        let saved = tokio::task::spawn_blocking(move || store.save_settings(&settings, ever));
        if let Ok(Err(error)) = saved.await {
            tracing::warn!(kind = %error.kind(), "the settings could not be written");
        }
    }

    /// Lets all torrents together use so much.
    fn limit(&self) {
        let (down, up) = self.settings.limits();
        self.starter.limit(down, up);
    }

    async fn metrics(&self) -> String {
        let running = self
            .torrents
            .values()
            .filter_map(|torrent| match &torrent.run {
                Run::Running(running) => Some(steer::kinds(&running.handle)),
                Run::Idle | Run::Busy => None,
            });
        let mut kinds = [0; 3];
        for of_one in join_all(running).await {
            for (sum, count) in kinds.iter_mut().zip(of_one) {
                *sum += count;
            }
        }
        let torrents = self.torrents.values();
        metrics::text(torrents, kinds, self.starter.ways(), self.current)
    }

    /// Stops all, and writes down how they are.
    async fn close(mut self) {
        let before = self.counters();
        let mut stops = Vec::new();
        for (hash, torrent) in &mut self.torrents {
            if let Run::Running(running) = std::mem::replace(&mut torrent.run, Run::Idle) {
                let (hash, running) = (*hash, *running);
                stops.push(async move {
                    let handle: Handle = running.handle;
                    (hash, handle.stop().await)
                });
            }
        }
        let stopped = tokio::time::timeout(STOP_PATIENCE, join_all(stops)).await;
        for (hash, progress) in stopped.unwrap_or_default() {
            if let Some(torrent) = self.torrents.get_mut(&hash) {
                torrent.take(progress, unix_now(), 0);
            }
        }
        while let Ok(Some(ended)) =
            tokio::time::timeout(STOP_PATIENCE, self.ending.join_next()).await
        {
            if let Ok(ended) = ended {
                self.take_ended(ended).await;
            }
        }
        self.count(before);
        self.save_counters(unix_now()).await;
    }
}

async fn relocate(
    claims: Claims,
    from: PathBuf,
    to: PathBuf,
    info: Option<Arc<Info>>,
) -> io::Result<()> {
    let moving = tokio::task::spawn_blocking(move || match info {
        Some(info) => claims.relocate(&from, &to, &info),
        None => Ok(()),
    });
    moving.await.unwrap_or_else(|error| Err(error.into()))
}
