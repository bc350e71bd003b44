//! Torrents that are added, or were there before.

use std::path::Path;

use super::{Answer, Owner};
use crate::config::{read_file, unix_now};
use crate::daemon::record::{Kept, MAX_TORRENTS, Record};
use crate::daemon::torrent::Torrent;
use crate::rpc::call::{Add, What};
use crate::rpc::session::added;
use crate::torrent::engine::Source;
use crate::torrent::infohash::InfoHash;
use crate::torrent::magnet::Magnet;
use crate::torrent::metainfo::{MAX_TORRENT, Metainfo};

impl Owner {
    /// Takes in what was kept, at the end of the queue. Gives its number.
    pub(super) fn take_in(&mut self, kept: Kept) -> i64 {
        let id = self.next;
        let Some(hash) = kept.record.infohash() else {
            return id;
        };
        self.next += 1;
        self.order.push(hash);
        self.torrents.insert(hash, Torrent::new(id, kept));
        self.number();
        id
    }

    /// Adds a torrent.
    pub(super) async fn add(&mut self, add: Add) -> Answer {
        let what = add.what.clone();
        let read = tokio::task::spawn_blocking(move || read(what)).await;
        let (source, file) = read.map_err(|_| "the torrent can't be read".to_owned())??;
        let (hash, other) = match &source {
            Source::Magnet(magnet) => (magnet.hash, magnet.v2.map(|v2| v2.truncated())),
            Source::Metainfo(metainfo) => (metainfo.info.hash, metainfo.info.second_hash()),
        };
        if let Some(same) = self.find(hash).or_else(|| self.find(other?)) {
            let name = same.name();
            return Ok(added(false, same.id, &same.record.hash, &name));
        }
        if self.torrents.len() >= MAX_TORRENTS {
            return Err(format!("there are {MAX_TORRENTS} torrents: remove some"));
        }
        let dir = add.download_dir.clone();
        let dir = dir.unwrap_or_else(|| self.settings.download_dir.clone());
        let now = unix_now();
        let mut record = Record::new(hash, dir, now);
        record.paused = add.paused.unwrap_or(!self.settings.start_added);
        let info = match &source {
            Source::Magnet(magnet) => {
                record.magnet = Some(magnet.to_string());
                record.name = magnet.name.clone().unwrap_or_default();
                None
            }
            Source::Metainfo(metainfo) => {
                record.name.clone_from(&metainfo.info.name);
                Some(metainfo.info.clone())
            }
        };
        let kept = Kept {
            record,
            source,
            info,
        };
        // Looked at before anything is written.
        let mut torrent = Torrent::new(self.next, kept);
        torrent.change(&add.change, now)?;
        let Torrent { record, source, .. } = torrent;
        let (store, written) = (std::sync::Arc::clone(&self.store), record.clone());
        let saved = tokio::task::spawn_blocking(move || {
            // The entry last: without it the file means nothing.
            if let Some(file) = file {
                store.save_torrent(&written.hash, &file)?;
            }
            store.save(&written)
        });
        match saved.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(format!("the torrent can't be kept: {}", error.kind())),
            Err(_) => return Err("the torrent can't be kept".to_owned()),
        }
        let info = match &source {
            Source::Magnet(_) => None,
            Source::Metainfo(metainfo) => Some(metainfo.info.clone()),
        };
        let text = record.hash.clone();
        let id = self.take_in(Kept {
            record,
            source,
            info,
        });
        if let Some(place) = add.change.queue_position {
            self.place(hash, place);
        }
        self.ever.added += 1;
        self.current.added += 1;
        self.settle();
        let name = self.find(hash).map(Torrent::name).unwrap_or_default();
        Ok(added(true, id, &text, &name))
    }

    /// The torrent of this infohash, by either of its names.
    fn find(&self, hash: InfoHash) -> Option<&Torrent> {
        self.torrents.get(&hash).or_else(|| {
            let second = |torrent: &&Torrent| {
                let info = torrent.info.as_ref();
                info.and_then(|info| info.second_hash()) == Some(hash)
            };
            self.torrents.values().find(second)
        })
    }
}

/// Reads a torrent; also the bytes of its file, where there is one. Blocks.
fn read(what: What) -> Result<(Source, Option<Vec<u8>>), String> {
    let file = match what {
        What::File(file) => file,
        What::Name(name) => {
            let is = |scheme: &str| {
                let begin = name.get(..scheme.len());
                begin.is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
            };
            if is("magnet:") {
                let magnet = Magnet::parse(&name).map_err(|error| error.to_string())?;
                return Ok((Source::Magnet(magnet), None));
            }
            if is("http://") || is("https://") || is("ftp://") {
                return Err("torrent files are not fetched from the web here: fetch it yourself, and give the file or a magnet link".to_owned());
            }
            if is("file://") || !name.starts_with('/') {
                return Err(
                    "a magnet link or the absolute path of a torrent file is needed".to_owned(),
                );
            }
            read_file(Path::new(&name), MAX_TORRENT)
                .map_err(|_| "there is no torrent file that can be read".to_owned())?
        }
    };
    let metainfo = Metainfo::parse(&file).map_err(|error| error.to_string())?;
    Ok((Source::Metainfo(metainfo), Some(file)))
}
