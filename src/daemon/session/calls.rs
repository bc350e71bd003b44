//! Calls of programs, one by one.

use std::path::PathBuf;

use serde_json::Map;

use super::{Answer, Owner};
use crate::config::unix_now;
use crate::daemon::torrent::{PEER_LIMIT, RECENT, Run, Torrent};
use crate::daemon::{files, queue, steer};
use crate::rpc::call::{Act, Call, Id, Ids};
use crate::rpc::session::{self, Facts, Now};
use crate::rpc::torrent::{self, Change};
use crate::torrent::infohash::InfoHash;
use crate::torrent::picker::Bits;
use crate::torrent::resume;

impl Owner {
    pub(super) async fn answer(&mut self, call: Call) -> Answer {
        let done = || Ok(Map::new());
        match call {
            Call::SessionGet(fields) => Ok(self.session(fields.as_deref()).await),
            Call::SessionSet(change) => {
                self.settings.apply(&change);
                self.limit();
                self.save_settings().await;
                self.settle();
                done()
            }
            Call::SessionStats => Ok(self.stats()),
            Call::SessionClose => {
                self.stopping = true;
                done()
            }
            Call::TorrentGet { ids, fields, table } => Ok(self.tell(&ids, &fields, table).await),
            Call::TorrentAdd(add) => self.add(*add).await,
            Call::TorrentSet(ids, change) => {
                for hash in self.chosen(&ids) {
                    self.change(hash, &change).await?;
                }
                self.settle();
                done()
            }
            Call::Act(ids, act) => {
                let chosen = self.chosen(&ids);
                self.act(&chosen, act).await?;
                self.settle();
                done()
            }
            Call::SetLocation {
                ids,
                location,
                move_files,
            } => {
                for hash in self.chosen(&ids) {
                    self.locate(hash, &location, move_files).await?;
                }
                self.settle();
                done()
            }
            Call::PortTest => Ok(session::port_test()),
            Call::FreeSpace(path) => {
                let asked = PathBuf::from(&path);
                let space = tokio::task::spawn_blocking(move || files::space(&asked)).await;
                Ok(session::space(&path, space.ok().flatten()))
            }
            Call::GroupGet => Ok(session::groups()),
        }
    }

    async fn session(&self, fields: Option<&[String]>) -> Map<String, serde_json::Value> {
        let dir = PathBuf::from(&self.settings.download_dir);
        let space = tokio::task::spawn_blocking(move || files::space(&dir)).await;
        let facts = Facts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            session: self.id.clone(),
            config_dir: self.store.state().to_string_lossy().into_owned(),
            free: space.ok().flatten().map(|(free, _)| free),
            dht: self.starter.ways().dht,
            peer_limit: PEER_LIMIT,
        };
        session::answer(&self.settings, &facts, fields)
    }

    fn stats(&self) -> Map<String, serde_json::Value> {
        let all = self.torrents.values();
        let active = all
            .clone()
            .filter(|torrent| !matches!(torrent.run, Run::Idle))
            .count() as u64;
        let torrents = self.torrents.len() as u64;
        let mut now = Now {
            active,
            paused: torrents - active,
            torrents,
            ..Now::default()
        };
        for progress in all.filter_map(|torrent| torrent.progress.as_ref()) {
            now.rate_down += progress.down_rate;
            now.rate_up += progress.up_rate;
        }
        session::stats(now, self.ever, self.current)
    }

    /// The torrents that a call names, in the order of the queue. One that is not there is passed over.
    fn chosen(&self, ids: &Ids) -> Vec<InfoHash> {
        let now = unix_now();
        let is_chosen = |torrent: &Torrent| match ids {
            Ids::All => true,
            Ids::RecentlyActive => torrent.is_recent(now),
            Ids::These(ids) => ids.iter().any(|id| match id {
                Id::Number(number) => *number == torrent.id,
                Id::Hash(hash) => {
                    let second = torrent.info.as_ref().and_then(|info| info.second_hash());
                    *hash == torrent.record.hash
                        || second.is_some_and(|second| *hash == second.hex())
                }
            }),
        };
        let all = self.order.iter().copied();
        all.filter(|hash| self.torrents.get(hash).is_some_and(is_chosen))
            .collect()
    }

    async fn tell(
        &mut self,
        ids: &Ids,
        fields: &[String],
        table: bool,
    ) -> Map<String, serde_json::Value> {
        let (now, costly) = (unix_now(), torrent::is_costly(fields));
        let before = self.counters();
        let mut views = Vec::new();
        for hash in self.chosen(ids) {
            let had = if costly { self.had(hash).await } else { None };
            let Some(torrent) = self.torrents.get_mut(&hash) else {
                continue;
            };
            torrent.look(now, 0);
            let seen = match &torrent.run {
                Run::Running(running) if costly => steer::look(&running.handle).await,
                Run::Running(_) | Run::Idle | Run::Busy => steer::Seen::default(),
            };
            let mut view = torrent.view(now, &self.settings, seen, had.as_ref());
            if torrent.record.magnet.is_none() {
                view.torrent_file = self.store.torrent_path(&torrent.record.hash);
            }
            views.push(view);
        }
        self.count(before);
        let removed = (*ids == Ids::RecentlyActive).then(|| {
            let recent = |(_, then): &&(i64, u64)| now.saturating_sub(*then) <= RECENT;
            let ids = self.removed.iter().filter(recent).map(|(id, _)| *id);
            ids.collect()
        });
        session::torrents(torrent::answer(&views, fields, table), removed)
    }

    /// The pieces of a torrent that does not run, as its resume record says.
    async fn had(&self, hash: InfoHash) -> Option<Bits> {
        let torrent = self.torrents.get(&hash)?;
        if matches!(torrent.run, Run::Running(_)) {
            return None;
        }
        let pieces = torrent.info.as_ref()?.piece_count();
        let output = PathBuf::from(&torrent.record.download_dir);
        let state = self.store.state().to_owned();
        let load = move || resume::Store::new(&state, hash, &output).load();
        let record = tokio::task::spawn_blocking(load).await.ok()??;
        (record.had.len() == pieces).then_some(record.had)
    }

    async fn change(&mut self, hash: InfoHash, change: &Change) -> Result<(), String> {
        let Some(torrent) = self.torrents.get_mut(&hash) else {
            return Ok(());
        };
        let follows = torrent.change(change, unix_now())?;
        if let Run::Running(running) = &torrent.run {
            steer::begin(&running.handle, &torrent.record, torrent.info.as_deref());
            if let Some(info) = torrent.info.as_ref().filter(|_| follows.files) {
                steer::wish(&running.handle, &torrent.record, info);
            }
        }
        if follows.files {
            // How much is to come is known again when it runs.
            torrent.record.finished = false;
        }
        if let Some(place) = change.queue_position {
            self.place(hash, place);
        }
        if follows.restart {
            // It goes on by itself when it has stopped.
            let runs = self.torrents.get(&hash).map(|torrent| &torrent.run);
            if matches!(runs, Some(Run::Running(_))) {
                self.end(hash, None);
            }
        }
        self.save(hash).await;
        match &change.location {
            Some(location) => self.locate(hash, location, false).await,
            None => Ok(()),
        }
    }

    /// Puts a torrent at this place of the queue.
    pub(super) fn place(&mut self, hash: InfoHash, place: u64) {
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        queue::place(&mut self.order, hash, place);
        self.number();
    }

    async fn act(&mut self, chosen: &[InfoHash], act: Act) -> Result<(), String> {
        if let Act::Queue(way) = act {
            queue::shift(&mut self.order, chosen, way);
            self.number();
            let dirty = self.torrents.iter().filter(|(_, torrent)| torrent.dirty);
            for hash in dirty.map(|(hash, _)| *hash).collect::<Vec<_>>() {
                self.save(hash).await;
            }
            return Ok(());
        }
        for hash in chosen {
            if let Act::Remove(delete) = act {
                self.remove(*hash, delete).await?;
                continue;
            }
            let Some(torrent) = self.torrents.get_mut(hash) else {
                continue;
            };
            match act {
                Act::Start | Act::StartNow => {
                    torrent.halted = None;
                    torrent.forced = act == Act::StartNow;
                    (torrent.record.paused, torrent.record.finished) = (false, false);
                    if let Run::Running(running) = &torrent.run {
                        // After a disk refused.
                        running.handle.retry();
                    }
                }
                Act::Stop => {
                    torrent.record.paused = true;
                    (torrent.forced, torrent.verify, torrent.halted) = (false, false, None);
                }
                Act::Verify => match &torrent.run {
                    Run::Running(running) => steer::verify(&running.handle),
                    Run::Idle | Run::Busy => (torrent.verify, torrent.halted) = (true, None),
                },
                Act::Reannounce => {
                    if let Run::Running(running) = &torrent.run {
                        steer::reannounce(&running.handle);
                    }
                    continue;
                }
                Act::Queue(_) | Act::Remove(_) => continue,
            }
            torrent.record.edited = unix_now();
            self.save(*hash).await;
        }
        Ok(())
    }

    /// Makes another folder the torrent's, and moves its files there where that is asked for.
    async fn locate(
        &mut self,
        hash: InfoHash,
        location: &str,
        move_files: bool,
    ) -> Result<(), String> {
        let Some(torrent) = self.torrents.get_mut(&hash) else {
            return Ok(());
        };
        if torrent.record.download_dir == location {
            return Ok(());
        }
        if matches!(torrent.run, Run::Busy) {
            return Err("the torrent is stopping or on its way elsewhere: try again".to_owned());
        }
        torrent.record.edited = unix_now();
        torrent.halted = None;
        if move_files {
            self.end(hash, Some(location.to_owned()));
            return Ok(());
        }
        if matches!(torrent.run, Run::Running(_)) {
            // It goes on there when it has stopped here.
            self.end(hash, None);
        }
        if let Some(torrent) = self.torrents.get_mut(&hash) {
            torrent.record.download_dir = location.to_owned();
        }
        self.save(hash).await;
        Ok(())
    }
}
