//! Of whom other peers told before it was known whether the torrent is private (BEP 27).

use hushswarm_circuits::rendezvous::Contact;
use hushswarm_circuits::target::Target;
use tokio::time::Instant;

use super::Driver;
use crate::torrent::picker::PeerKey;
use crate::torrent::swarm::table::{MAX_HEARSAY, MAX_HEARSAY_EACH};

/// A peer of whom another told.
pub(super) enum Told {
    /// By its address or onion service.
    At(Target),
    /// A hidden seed.
    Seed(Contact),
}

/// Those who wait, and who told of them: as many as the table would take.
#[derive(Default)]
pub(super) struct Early(Vec<(PeerKey, Told)>);

impl Early {
    /// Hears of these from one peer.
    pub(super) fn hear(&mut self, teller: PeerKey, of: impl Iterator<Item = Told>) {
        let told = self.0.iter().filter(|(other, _)| *other == teller);
        let room = MAX_HEARSAY_EACH.saturating_sub(told.count());
        let room = room.min(MAX_HEARSAY.saturating_sub(self.0.len()));
        self.0.extend(of.take(room).map(|told| (teller, told)));
    }
}

impl Driver {
    /// Takes what was heard, once the torrent is known not to be private.
    pub(super) fn take_early(&mut self) {
        if self.info.is_none() {
            return;
        }
        let (onions, peers) = (&mut self.early_onions, &mut self.early_peers);
        let early = [std::mem::take(onions), std::mem::take(peers)];
        if self.is_private() {
            return;
        }
        let now = Instant::now().into_std();
        for (teller, told) in early.into_iter().flat_map(|early| early.0) {
            match told {
                Told::At(target) => {
                    self.table.add_hearsay(now, target, Some(teller));
                }
                Told::Seed(contact) => self.hear_seed(teller, contact),
            }
        }
    }
}
