//! Torrents that are added, or were there before.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

use super::{Answer, Owner};
use crate::config::unix_now;
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
            if Magnet::is_link(&name) {
                let magnet = Magnet::parse(&name).map_err(|error| error.to_string())?;
                // It is kept as we write it, which may be longer.
                if Magnet::parse(&magnet.to_string()).is_err() {
                    return Err(
                        "the magnet link is too long to be kept: remove some of its trackers"
                            .to_owned(),
                    );
                }
                return Ok((Source::Magnet(magnet), None));
            }
            if !name.starts_with('/') {
                return Err(
                    "a magnet link, the https address or the absolute path of a torrent file is needed".to_owned(),
                );
            }
            read_regular(Path::new(&name), MAX_TORRENT)
                .ok_or_else(|| "there is no torrent file that can be read".to_owned())?
        }
    };
    let metainfo = Metainfo::parse(&file).map_err(|error| error.to_string())?;
    Ok((Source::Metainfo(metainfo), Some(file)))
}

/// Reads a file of at most `limit` bytes that is one: whoever waits for the other end of a pipe waits for ever. Blocks.
fn read_regular(path: &Path, limit: usize) -> Option<Vec<u8>> {
    let mut options = OpenOptions::new();
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = options
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).ok()?)
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut content = Vec::new();
    let one_more = (limit as u64).saturating_add(1);
    file.take(one_more).read_to_end(&mut content).ok()?;
    (content.len() <= limit).then_some(content)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_a_regular_file_is_read_and_nobody_waits_for_a_pipe() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"four").unwrap();
        assert_eq!(read_regular(&file, 4).unwrap(), b"four");
        assert_eq!(read_regular(&file, 3), None);
        let pipe = dir.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(read_regular(&pipe, 4), None);
        assert_eq!(read_regular(dir.path(), 4), None);
        assert_eq!(read_regular(&dir.path().join("none"), 4), None);
    }

    #[test]
    fn a_link_that_can_not_be_read_again_is_not_taken() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        let link = |tail: &str| What::Name(format!("magnet:?xt=urn:btih:{hash}&dn=n{tail}"));
        assert!(read(link("&tr=http://t.example/a")).is_ok());
        // Each of these bytes is three where it is written.
        let trackers: String = (0..40)
            .map(|number| format!("&tr=http://t.example/{number}{}", "[".repeat(1000)))
            .collect();
        assert!(read(link(&trackers)).is_err());
    }
}
