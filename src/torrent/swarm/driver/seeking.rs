//! The driver's part in looking for peers in the DHT: when, and what becomes of them.

use hushswarm_circuits::target::Target;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::Driver;
use crate::torrent::infohash::{InfoHash, PeerName};
use crate::torrent::peer::CloseReason;
use crate::torrent::swarm::Order;
use crate::torrent::swarm::seek::{Need, Seeker, Sighting};
use crate::torrent::swarm::table::Way;

/// Most peers of the DHT that are remembered as such: as many as two lookups find.
const MAX_SOUGHT: usize = 1000;

impl Driver {
    /// Looks in the DHT from now on; where the torrent turned out to be private, no more, and who was found there is left
    /// (BEP 27).
    pub(super) fn seek(&mut self) {
        if self.is_private() {
            return self.leave_sought();
        }
        if self.info.is_some() {
            self.sought = Vec::new();
        }
        let names = [Some(self.setup.hash), self.public_second_name()];
        for hash in names.into_iter().flatten().skip(self.seeker.len()) {
            self.seek_by(hash);
        }
    }

    fn seek_by(&mut self, hash: InfoHash) {
        let Some(finder) = self.setup.finder.clone() else {
            return;
        };
        let others = !self.setup.trackers.is_empty() || !self.setup.peers.is_empty();
        let seeker = Seeker {
            finder,
            hash,
            later: others && self.info.is_none(),
            need: self.need.subscribe(),
            sightings: self.sighting_sender.clone(),
            again: self.again.subscribe(),
            rng: StdRng::from_rng(&mut self.rng),
        };
        self.seeker.spawn(seeker.run());
    }

    fn leave_sought(&mut self) {
        self.seeker.abort_all();
        self.dht_status = None;
        for peer in std::mem::take(&mut self.sought) {
            let way = Way::Named(PeerName::Public(peer));
            if let Some(key) = self.table.leave(&way) {
                self.shared.order(key, Order::Close(CloseReason::ByUs));
            }
        }
    }

    /// Tells the seeker how the swarm stands.
    pub(super) fn tell_need(&self, connected: usize, known: usize) {
        let trackers = self.setup.trackers.iter().map(Vec::len).sum();
        let need = Need {
            connected,
            alone: self.answered >= trackers && known == 0,
        };
        self.need
            .send_if_modified(|now| std::mem::replace(now, need) != need);
    }

    /// Takes what a lookup brought.
    pub(super) fn take_sighting(&mut self, sighting: Sighting) {
        // One may still be on its way.
        if self.is_private() {
            return;
        }
        if sighting.status.is_some() {
            self.dht_status = sighting.status;
        }
        self.note_names(sighting.hash, &sighting.peers);
        let now = Instant::now().into_std();
        for peer in sighting.peers {
            // Anybody may have put them there.
            let new = self.table.add_hearsay(now, Target::ip(peer), None);
            if new && self.info.is_none() && self.sought.len() < MAX_SOUGHT {
                self.sought.push(peer);
            }
        }
    }
}
