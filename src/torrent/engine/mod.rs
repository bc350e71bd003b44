//! The engine's front: starts downloads and seeds, hands out [`Handle`]s.
//!
//! Everything reaches the world through the [`Outside`] that the engine is given; nothing here can open a socket.

mod control;
mod create;
mod sorter;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::path::PathBuf;
use std::sync::Arc;

use hushswarm_circuits::rendezvous::Contact;
use hushswarm_circuits::target::Target;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use control::{
    Budget, Control, FileView, Limits, PeerKind, PeerView, Priority, Reader, ReaderError,
    TrackerView, View,
};
pub use create::{CreateError, Created, Recipe, create, create_as, create_with};
pub use sorter::Sorter;

use super::gossip::{OnionPeer, SeedBook};
use super::infohash::{InfoHash, InfoHashV2};
use super::magnet::Magnet;
use super::metainfo::{Info, Metainfo, WebSeed};
use super::pace::Pace;
use super::select::Selection;
use super::storage::{DEFAULT_BUDGET, StorageOptions, WriteBudget};
use super::swarm::{Command, Driver, Setup, Via, Visitor, Wishes};
pub use super::swarm::{Encryption, Failure, Progress, State};
use super::tracker::TrackerClient;
use crate::dht::PeerFinder;
use crate::route::{BoxStream, Outside};

/// Circuits over which a swarm's peers are spread.
const DEFAULT_LANES: u16 = 4;

/// Commands that wait for a torrent; streams that come faster are refused.
const MAX_COMMANDS: usize = 64;

/// What the engine needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where resume records lie.
    pub state_dir: PathBuf,
    /// Circuits over which a swarm's peers are spread.
    pub lanes: u16,
    /// Memory for blocks that are not yet on disk, for all torrents of all engines that are given this.
    pub write_budget: Arc<WriteBudget>,
    /// Take the room on the disk before a download begins, where the file system can.
    pub preallocate: bool,
    /// Trackers and peers may be at private addresses: for test networks only (leaks L49).
    pub allow_private: bool,
    /// Of streams to public peers.
    pub encryption: Encryption,
    /// Tell hidden peers (onion services and hidden seeds) of hidden peers, and be told; never of a private torrent's. Connections
    /// with public peers see nothing of it. Off, unless it is turned on: a service that lets in only some must not be passed on.
    pub gossip: bool,
    /// How fast blocks may go, of all torrents together; may be changed while they run.
    pub limits: Arc<Budget>,
    /// Who knows where hidden seeds are introduced, and how to call them through the engine's way out. Without it nobody's word
    /// about hidden seeds is taken, and those of magnet links are passed over.
    pub seeds: Option<Arc<dyn SeedBook>>,
}

impl Options {
    /// The usual options.
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            state_dir,
            lanes: DEFAULT_LANES,
            write_budget: WriteBudget::new(DEFAULT_BUDGET),
            preallocate: false,
            allow_private: false,
            encryption: Encryption::default(),
            gossip: false,
            limits: Arc::default(),
            seeds: None,
        }
    }
}

/// Which torrent.
#[derive(Clone, Debug)]
pub enum Source {
    /// By its infohash; peers give the rest.
    Magnet(Magnet),
    /// By a torrent file.
    Metainfo(Metainfo),
}

/// A download.
#[derive(Clone, Debug)]
pub struct Job {
    /// Which torrent.
    pub source: Source,
    /// The folder that takes its file or folder.
    pub output: PathBuf,
    /// Go on giving when everything has come.
    pub seed_after: bool,
    /// Files that stand in the way and are not this torrent's may be overwritten.
    pub overwrite: bool,
    /// What a magnet link's torrent is, where that is known already: then nobody is asked for it, and a private one is never looked up
    /// in the DHT (BEP 27). Passed over where it is another torrent's.
    pub info: Option<Arc<Info>>,
}

/// Starts torrents.
#[derive(Clone)]
pub struct Engine {
    outside: Arc<dyn Outside>,
    options: Options,
    tracker: TrackerClient,
    finder: Option<Arc<dyn PeerFinder>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine that reaches the world through `outside`.
    pub fn new(outside: Arc<dyn Outside>, options: Options) -> Self {
        let tracker = TrackerClient::new(options.allow_private);
        Self {
            outside,
            options,
            tracker,
            finder: None,
        }
    }

    /// The same, which looks for peers in the DHT too; never for private torrents (BEP 27).
    #[must_use]
    pub fn with_finder(mut self, finder: Arc<dyn PeerFinder>) -> Self {
        self.finder = Some(finder);
        self
    }

    /// Starts a download. Call within a tokio runtime; a torrent and folder that are in use already wait.
    pub fn download(&self, job: Job) -> Handle {
        self.download_only(job, Selection::all())
    }

    /// The same for some of its files. Without a choice, that of a magnet link counts.
    pub fn download_only(&self, job: Job, mut select: Selection) -> Handle {
        let mut finder = self.finder.clone();
        let (hash, v2, info, trackers, peers, web_seeds) = match job.source {
            Source::Magnet(magnet) => {
                let known = job.info;
                let known = known.filter(|info| info.is_named(magnet.hash, magnet.v2));
                if known.as_ref().is_some_and(|info| info.private) {
                    finder = None;
                }
                // Without hashes of its pieces it is no use, and the resume record may have them.
                let known = known.filter(|info| !info.lacks_hashes());
                let tiers = magnet.trackers.into_iter().map(|url| vec![url]).collect();
                let mut peers = magnet.peers;
                if let Some(ranges) = magnet.select.filter(|_| select.is_all()) {
                    select = Selection::numbers(ranges);
                }
                for contact in magnet.seeds {
                    let book = self.options.seeds.as_ref();
                    let seed = book.and_then(|book| book.learn(magnet.hash, contact));
                    peers.extend(seed.filter(|seed| !peers.contains(seed)));
                }
                let web_seeds = magnet.web_seeds.into_iter().map(WebSeed::files).collect();
                (magnet.hash, magnet.v2, known, tiers, peers, web_seeds)
            }
            Source::Metainfo(metainfo) => {
                let hash = metainfo.info.hash;
                (
                    hash,
                    None,
                    Some(Arc::new(metainfo.info)),
                    metainfo.trackers,
                    Vec::new(),
                    metainfo.web_seeds,
                )
            }
        };
        self.start(Task {
            hash,
            v2,
            select,
            info,
            trackers,
            web_seeds,
            peers,
            folder: job.output,
            write: true,
            overwrite: job.overwrite,
            seed_after: job.seed_after,
            finder,
        })
    }

    /// Gives what lies in `folder` under the torrent's name. It is checked first, and never written.
    pub fn seed(&self, metainfo: Metainfo, folder: PathBuf) -> Handle {
        self.start(Task {
            hash: metainfo.info.hash,
            v2: None,
            select: Selection::all(),
            info: Some(Arc::new(metainfo.info)),
            trackers: metainfo.trackers,
            // Nothing is missing.
            web_seeds: Vec::new(),
            peers: Vec::new(),
            folder,
            write: false,
            overwrite: false,
            seed_after: true,
            finder: self.finder.clone(),
        })
    }

    fn start(&self, task: Task) -> Handle {
        let (own, own_seen) = watch::channel(Vec::new());
        let (own_seed, own_seed_seen) = watch::channel(None);
        let (wishes, wishes_seen) = watch::channel(Wishes::default());
        let budget = Arc::<Budget>::default();
        let options = &self.options;
        let setup = Setup {
            hash: task.hash,
            v2: task.v2,
            select: task.select,
            info: task.info,
            trackers: task.trackers,
            web_seeds: task.web_seeds,
            peers: task.peers,
            storage: StorageOptions {
                root: task.folder,
                budget: Arc::clone(&options.write_budget),
                write: task.write,
                preallocate: options.preallocate,
            },
            state_dir: options.state_dir.clone(),
            overwrite: task.overwrite,
            seed_after: task.seed_after,
            lanes: options.lanes,
            tracker: self.tracker.clone(),
            allow_private: options.allow_private,
            encryption: options.encryption,
            outside: Arc::clone(&self.outside),
            gossip: options.gossip,
            finder: task.finder,
            own: own_seen,
            own_seed: own_seed_seen,
            wishes: wishes_seen,
            pace: Pace {
                torrent: Arc::clone(&budget),
                all: Arc::clone(&options.limits),
            },
            seeds: options.seeds.clone(),
        };
        let first = if setup.info.is_some() {
            State::Checking
        } else {
            State::FetchingMetadata
        };
        let (sender, progress) = watch::channel(Progress::new(first));
        let (commands, receiver) = mpsc::channel(MAX_COMMANDS);
        let task = tokio::spawn(Driver::new(setup, sender).run(receiver));
        Handle {
            progress,
            commands,
            own,
            own_seed,
            wishes,
            budget,
            task,
        }
    }
}

/// What one torrent is to do; all else holds for every torrent of the engine.
struct Task {
    hash: InfoHash,
    v2: Option<InfoHashV2>,
    select: Selection,
    info: Option<Arc<Info>>,
    trackers: Vec<Vec<String>>,
    web_seeds: Vec<WebSeed>,
    peers: Vec<Target>,
    /// Where its file or folder lies.
    folder: PathBuf,
    /// Whether anything may be written there.
    write: bool,
    overwrite: bool,
    seed_after: bool,
    finder: Option<Arc<dyn PeerFinder>>,
}

/// A running torrent. Dropping it ends the torrent at once, as a kill would; [`Handle::stop`] ends it in good order.
#[derive(Debug)]
pub struct Handle {
    progress: watch::Receiver<Progress>,
    commands: mpsc::Sender<Command>,
    own: watch::Sender<Vec<OnionPeer>>,
    own_seed: watch::Sender<Option<Contact>>,
    wishes: watch::Sender<Wishes>,
    budget: Arc<Budget>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Command")
    }
}

/// Hands in streams that peers opened to our onion service or hidden seed. Clones lead to the same torrent.
#[derive(Clone)]
pub struct OnionDoor {
    commands: mpsc::Sender<Command>,
    own: watch::Sender<Vec<OnionPeer>>,
    own_seed: watch::Sender<Option<Contact>>,
    via: Via,
}

impl OnionDoor {
    /// Says where our onion services are: peers are told of the first, where [`Options::gossip`] allows it, and none of them is
    /// ever called.
    pub fn open(&self, own: Vec<OnionPeer>) {
        self.own.send_replace(own);
    }

    /// Says how our hidden seed is reached, whenever that changes; `None` while it is introduced nowhere. Hidden seeds that are
    /// called, and who comes by [`Handle::hidden_door`], are told it, where [`Options::gossip`] allows it. Its key is never called.
    pub fn stand(&self, contact: Option<Contact>) {
        self.own_seed.send_if_modified(|now| {
            let changed = *now != contact;
            *now = contact;
            changed
        });
    }

    /// Says that there is no onion service of ours any more.
    pub fn close(&self) {
        self.own.send_replace(Vec::new());
    }

    /// Hands in a stream. Dropped when too many wait.
    pub fn accept(&self, stream: BoxStream) {
        self.accept_begun(stream, Vec::new());
    }

    /// Says that there is a peer, of whom somebody told: it is called when there is time. Passed over when too much waits.
    pub fn tell(&self, peer: Target) {
        let _ = self.commands.try_send(Command::Told(peer));
    }

    /// The same for one of which these bytes were read already.
    fn accept_begun(&self, stream: BoxStream, said: Vec<u8>) {
        let via = self.via;
        let visitor = Visitor { stream, via, said };
        let _ = self.commands.try_send(Command::Accept(visitor));
    }
}

impl std::fmt::Debug for OnionDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnionDoor")
    }
}

impl Handle {
    /// Hands in a stream that a peer opened to us. Dropped when too many wait.
    pub fn accept(&self, stream: BoxStream) {
        let visitor = Visitor::by_address(stream);
        let _ = self.commands.try_send(Command::Accept(visitor));
    }

    /// Where streams that peers open to our onion service are handed in, by whoever does not hold the torrent.
    pub fn onion_door(&self) -> OnionDoor {
        self.door(Via::Onion)
    }

    /// The same for streams by meetings with our hidden seed. Whoever comes here is told where the seed is introduced by now; who
    /// came to the onion service is not, since he would know that both are one.
    pub fn hidden_door(&self) -> OnionDoor {
        self.door(Via::Hidden)
    }

    fn door(&self, via: Via) -> OnionDoor {
        OnionDoor {
            commands: self.commands.clone(),
            own: self.own.clone(),
            own_seed: self.own_seed.clone(),
            via,
        }
    }

    /// Snapshots of the progress, at least once a second while anything changes.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Tries again now, after the disk refused.
    pub fn retry(&self) {
        let _ = self.commands.try_send(Command::Retry);
    }

    /// Waits until the torrent is over: done, failed or stopped.
    pub async fn finished(&self) -> Progress {
        let mut progress = self.progress.clone();
        // An error means that the task is gone; what it said last stands.
        let _ = progress.wait_for(Progress::is_over).await;
        progress.borrow().clone()
    }

    /// Writes what has come, records it, and ends.
    pub async fn stop(mut self) -> Progress {
        let (sender, done) = oneshot::channel();
        if self.commands.send(Command::Stop(sender)).await.is_ok() {
            let _ = done.await;
        }
        let _ = (&mut self.task).await;
        self.progress.borrow().clone()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}
