//! What the user sees of a torrent.

use std::time::Duration;

use crate::dht::Counters;
use crate::redact::Redacted;
use crate::torrent::metainfo::MetainfoError;
use crate::torrent::storage::StorageError;

/// What a torrent is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Asks peers for the metadata of a magnet link.
    FetchingMetadata,
    /// Looks at what is on disk.
    Checking,
    /// Takes pieces.
    Downloading,
    /// Has everything and gives it.
    Seeding,
    /// Nobody can be reached; goes on by itself as soon as there is a way.
    WaitingForNetwork,
    /// The disk takes nothing; tries again by itself. The error has a hint.
    Paused(StorageError),
    /// Has everything and stopped.
    Done,
    /// Was stopped.
    Stopped,
    /// Can't go on: the torrent is unusable.
    Failed(Failure),
}

/// Why a torrent can never work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Its files can't be.
    #[error("{0}")]
    Storage(StorageError),
    /// Its metadata is not usable.
    #[error("the torrent can't be used: {0}")]
    Metainfo(MetainfoError),
    /// No file is among those chosen.
    #[error("no file of the torrent is among those that were chosen")]
    Selection,
}

/// A snapshot of a torrent's progress.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// What it is doing.
    pub state: State,
    /// Bytes to download, of the files that were chosen; 0 while unknown.
    pub total: u64,
    /// Bytes of them that are verified.
    pub done: u64,
    /// Pieces of the torrent.
    pub pieces: u32,
    /// Pieces that are verified.
    pub pieces_done: u32,
    /// Pieces that were looked at, while checking.
    pub checked: u32,
    /// Bytes of blocks received and given in this session.
    pub downloaded: u64,
    /// As `downloaded`, given.
    pub uploaded: u64,
    /// Bytes per second, smoothed over some seconds.
    pub down_rate: u64,
    /// As `down_rate`, given.
    pub up_rate: u64,
    /// Connections with both handshakes done.
    pub connected: usize,
    /// Peers known.
    pub known: usize,
    /// Web seeds that give something now; they are no peers.
    pub web_seeds: usize,
    /// Peers of the swarm that have everything, as a tracker counts them; `None` where none does.
    pub seeders: Option<u32>,
    /// The others.
    pub leechers: Option<u32>,
    /// The torrent's name, for the user alone; `None` while unknown.
    pub name: Option<Redacted<String>>,
    /// How the last announce went, without names; `None` before the first.
    pub tracker: Option<String>,
    /// How the last lookup in the DHT goes or went, without names; `None` before the first.
    pub dht: Option<String>,
    /// What the lookups of this process did, whichever torrent they were for; `None` where nothing is looked up.
    pub lookups: Option<Counters>,
    /// Time left at the present rate.
    pub eta: Option<Duration>,
}

impl Progress {
    pub(crate) fn new(state: State) -> Self {
        Self {
            state,
            total: 0,
            done: 0,
            pieces: 0,
            pieces_done: 0,
            checked: 0,
            downloaded: 0,
            uploaded: 0,
            down_rate: 0,
            up_rate: 0,
            connected: 0,
            known: 0,
            web_seeds: 0,
            seeders: None,
            leechers: None,
            name: None,
            tracker: None,
            dht: None,
            lookups: None,
            eta: None,
        }
    }

    /// Tells whether the torrent has ended, well or not.
    pub fn is_over(&self) -> bool {
        match self.state {
            State::Done | State::Stopped | State::Failed(_) => true,
            State::FetchingMetadata
            | State::Checking
            | State::Downloading
            | State::Seeding
            | State::WaitingForNetwork
            | State::Paused(_) => false,
        }
    }
}

/// A rate that follows a counter, once a second.
#[derive(Debug, Default)]
pub(super) struct Rate {
    last: u64,
    smooth: f64,
}

impl Rate {
    /// Takes the counter a second later; gives bytes per second.
    pub(super) fn tick(&mut self, counter: u64) -> u64 {
        let fresh = counter.saturating_sub(self.last) as f64;
        self.last = counter;
        // A fifth of the new: settles within some seconds.
        self.smooth = if self.smooth == 0.0 {
            fresh
        } else {
            self.smooth * 0.8 + fresh * 0.2
        };
        self.smooth as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_settles_on_a_steady_flow_and_falls_when_it_stops() {
        let mut rate = Rate::default();
        for second in 1..=60 {
            rate.tick(second * 1000);
        }
        assert_eq!(rate.tick(61_000), 1000);
        for _ in 0..60 {
            rate.tick(61_000);
        }
        assert_eq!(rate.tick(61_000), 0);
    }
}
