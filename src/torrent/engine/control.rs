//! Steering a torrent while it runs. Nothing here blocks: wishes stand until the torrent takes them, the last one counts.

use tokio::sync::oneshot;

use super::Handle;
use crate::torrent::metainfo::MAX_FILES;
pub use crate::torrent::pace::{Budget, Limits};
pub use crate::torrent::picker::Priority;
use crate::torrent::swarm::Command;
pub use crate::torrent::swarm::{
    FileView, PeerKind, PeerView, Reader, ReaderError, TrackerView, View,
};

impl Handle {
    /// Limits this torrent's payload, from now on; what all torrents together may is [`super::Options::limits`]. What was asked of
    /// peers before comes all the same.
    pub fn set_limits(&self, limits: Limits) {
        self.budget.set(limits);
    }

    /// Says how much files are wanted, by their numbers: as they stand in [`View::files`], where padding has none. Those that are not
    /// named stay as they are. Requests for what is not wanted any more are taken back; what has come of it stays.
    pub fn set_priorities(&self, files: Vec<(usize, Priority)>) {
        self.wishes.send_modify(|wishes| {
            let possible = files.into_iter().filter(|(file, _)| *file < MAX_FILES);
            wishes.priorities.extend(possible);
        });
    }

    /// Says whether pieces are to come in order, as far as peers have them.
    pub fn set_sequential(&self, on: bool) {
        self.wishes.send_modify(|wishes| wishes.sequential = on);
    }

    /// Has everything hashed again. Peers stay away meanwhile; what turns out to be wrong is fetched again, or, where a torrent is only
    /// seeded, ends it.
    pub fn verify(&self) {
        self.wishes
            .send_modify(|wishes| wishes.verify = wishes.verify.wrapping_add(1));
    }

    /// Asks trackers, as soon as they let themselves be asked, and the DHT again.
    pub fn reannounce(&self) {
        self.wishes
            .send_modify(|wishes| wishes.reannounce = wishes.reannounce.wrapping_add(1));
    }

    /// Says whether it goes on once everything has come.
    pub fn set_seed_after(&self, on: bool) {
        self.wishes
            .send_modify(|wishes| wishes.seed_after = Some(on));
    }

    /// What it looks like now; `None` once it is over.
    pub async fn view(&self) -> Option<View> {
        let (sender, view) = oneshot::channel();
        self.commands.send(Command::View(sender)).await.ok()?;
        view.await.ok()
    }

    /// Reads a file, by its number as in [`Handle::set_priorities`], while it comes: what is read next is asked for first.
    ///
    /// # Errors
    /// It can't be read now, or not at all.
    pub async fn reader(&self, file: usize) -> Result<Reader, ReaderError> {
        let (sender, reader) = oneshot::channel();
        let sent = self.commands.send(Command::Read(file, sender)).await;
        sent.map_err(|_| ReaderError::Over)?;
        reader.await.map_err(|_| ReaderError::Over)?
    }
}
