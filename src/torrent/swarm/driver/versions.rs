//! The driver's part in torrents of version 2 and hybrid ones (BEP 52): their second name, and the hashes of their pieces.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Driver, Phase};
use crate::torrent::infohash::InfoHash;
use crate::torrent::metainfo::Info;
use crate::torrent::storage::lock;
use crate::torrent::swarm::announce::Announcer;
use crate::torrent::swarm::connection::Names;
use crate::torrent::swarm::metadata::Fetch;
use crate::torrent::tracker::TierList;
use crate::torrent::v2::HashedFiles;
use crate::torrent::v2::fetch::LayerFetch;

/// Most peers that are remembered as known by the second name.
const MAX_SECOND: usize = 2000;

impl Driver {
    /// The name of the torrent among peers of version 2, once it is known.
    fn v2_name(&self) -> Option<InfoHash> {
        let known = self.info.as_ref().and_then(|info| info.v2.as_ref());
        let hash = known.map(|v2| v2.hash).or(self.setup.v2)?;
        Some(hash.truncated())
    }

    /// The name of a hybrid torrent that is not the usual one.
    fn second_name(&self) -> Option<InfoHash> {
        self.v2_name().filter(|name| *name != self.setup.hash)
    }

    /// By which name to call this peer, and the name of version 2. Who was found by the second may know it alone.
    pub(super) fn names_for(&self, peer: Option<SocketAddr>) -> Names {
        let second = self.second_name();
        let by_second = peer.is_some_and(|peer| self.second_peers.contains(&peer));
        Names {
            call: second.filter(|_| by_second),
            v2: self.v2_name(),
        }
    }

    /// Notes who was found by which name.
    pub(super) fn note_names(&mut self, by: InfoHash, peers: &[SocketAddr]) {
        for peer in peers {
            if by == self.setup.hash {
                self.second_peers.remove(peer);
            } else if self.second_peers.len() < MAX_SECOND {
                self.second_peers.insert(*peer);
            }
        }
    }

    /// The same where anybody may hear of it: once it is known that the torrent is not private. Trackers and the DHT learn the first
    /// name alone until then, and of a private torrent for good.
    pub(super) fn public_second_name(&self) -> Option<InfoHash> {
        let public = self.info.as_ref().is_some_and(|info| !info.private);
        self.second_name().filter(|_| public)
    }

    /// Asks the trackers for peers by this name, from now on.
    pub(super) fn announce(&mut self, hash: InfoHash) {
        let announcer = Announcer {
            outside: Arc::clone(&self.setup.outside),
            client: self.setup.tracker.clone(),
            hash,
            second: hash != self.setup.hash,
            tiers: TierList::new(
                &self.setup.trackers,
                self.setup.allow_private,
                &mut self.rng,
            ),
            counters: self.counters.subscribe(),
            answers: self.answer_sender.clone(),
            own: self.setup.own.clone(),
            again: self.again.subscribe(),
        };
        self.announcer.spawn(announcer.run());
    }

    /// Asks for peers by the second name too, as soon as it may be said. Each name has its circuits and peer ids. A tracker that knows
    /// both may still guess by the time that one downloader asks twice, which is why nothing is reported to it twice.
    fn announce_second(&mut self) {
        let name = self.public_second_name();
        if let Some(name) = name.filter(|_| !self.announces_second) {
            self.announces_second = true;
            self.announce(name);
        }
    }

    /// Goes on to what has to be known first: the metadata, the hashes of its pieces, the files.
    pub(super) fn proceed(&mut self) {
        self.announce_second();
        let Some(info) = self.info.clone() else {
            let fetch = Fetch::new(self.setup.hash, self.setup.v2);
            lock(&self.shared.work).fetch = Some(fetch);
            self.phase = Phase::Metadata;
            return self.accept_waiting();
        };
        lock(&self.shared.work).fetch = None;
        match &info.v2 {
            Some(v2) if info.lacks_hashes() => {
                let layers = LayerFetch::new(HashedFiles::clone(v2));
                lock(&self.shared.work).layers = Some(layers);
                self.phase = Phase::Metadata;
                self.accept_waiting();
            }
            Some(_) | None => self.check(),
        }
    }

    /// The hashes of all pieces came.
    pub(super) fn layers_came(&mut self, files: HashedFiles) {
        let Some(info) = self.info.as_ref().filter(|info| info.lacks_hashes()) else {
            return;
        };
        self.info = Some(Arc::new(Info {
            v2: Some(Arc::new(files)),
            ..Info::clone(info)
        }));
        lock(&self.shared.work).layers = None;
        self.check();
    }
}
