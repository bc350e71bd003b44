//! Steering a torrent while it runs. Nothing here blocks: wishes stand until the torrent takes them, the last one counts.

use tokio::sync::{mpsc, oneshot, watch};

use super::Handle;
use crate::torrent::metainfo::MAX_FILES;
pub use crate::torrent::pace::{Budget, Limits};
pub use crate::torrent::picker::Priority;
use crate::torrent::swarm::{Command, Progress, Wishes};
pub use crate::torrent::swarm::{
    FileView, PeerKind, PeerView, Reader, ReaderError, TrackerView, View,
};

impl Handle {
    /// Limits this torrent's payload, from now on; what all torrents together may is [`super::Options::limits`]. What was asked of
    /// peers before comes all the same.
    pub fn set_limits(&self, limits: Limits) {
        self.budget.set(limits);
    }

    /// As [`Control::set_priorities`].
    pub fn set_priorities(&self, files: Vec<(usize, Priority)>) {
        self.control().set_priorities(files);
    }

    /// As [`Control::set_sequential`].
    pub fn set_sequential(&self, on: bool) {
        self.control().set_sequential(on);
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

    /// As [`Control::view`].
    pub async fn view(&self) -> Option<View> {
        self.control().view().await
    }

    /// As [`Control::reader`].
    ///
    /// # Errors
    /// It can't be read now, or not at all.
    pub async fn reader(&self, file: usize) -> Result<Reader, ReaderError> {
        self.control().reader(file).await
    }

    /// What leads to the torrent for whoever does not hold it.
    pub fn control(&self) -> Control {
        Control {
            commands: self.commands.clone(),
            wishes: self.wishes.clone(),
            progress: self.progress.clone(),
        }
    }
}

/// Steers a torrent and reads its files, for whoever does not hold its [`Handle`]. Clones lead to the same torrent.
#[derive(Clone)]
pub struct Control {
    commands: mpsc::Sender<Command>,
    wishes: watch::Sender<Wishes>,
    progress: watch::Receiver<Progress>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

impl Control {
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

    /// As [`Handle::progress`].
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// What it looks like now; `None` once it is over.
    pub async fn view(&self) -> Option<View> {
        let (sender, view) = oneshot::channel();
        self.commands.send(Command::View(sender)).await.ok()?;
        view.await.ok()
    }

    /// Reads a file, by its number as in [`Control::set_priorities`], while it comes: what is read next is asked for first.
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
