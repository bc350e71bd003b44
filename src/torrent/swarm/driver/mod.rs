//! The driver of a swarm: everything that happens once for all connections.

mod clock;
mod early;
mod onions;
mod peers;
mod pex;
mod seeds;
mod seeking;
mod steer;
mod versions;
mod web;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hushswarm_circuits::rendezvous::Contact;
use hushswarm_circuits::target::Target;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use self::clock::Recording;
use self::early::Early;
use self::seeds::Rumours;
use self::steer::{Contacts, Steered};
use super::announce::{Answer, Counters};
use super::choker::{Choker, SLOTS};
use super::connection::News;
use super::gossip::{Gossip, Origin};
use super::open::Encryption;
use super::pex::Pex;
use super::progress::{Failure, Progress, Rate, State};
use super::reader::{Reader, ReaderError};
use super::seek::{Need, Sighting};
use super::table::{Ended, PeerTable, Way};
use super::view::{View, Wishes};
use super::{Order, Shared, Torrent, prepare};
use crate::dht::PeerFinder;
use crate::route::special::Place;
use crate::route::{BoxStream, Outside};
use crate::torrent::extension::Exchange;
use crate::torrent::gossip::{Concealed, OnionPeer, SeedBook};
use crate::torrent::infohash::{InfoHash, InfoHashV2, PeerName};
use crate::torrent::metainfo::{Info, WebSeed};
use crate::torrent::pace::Pace;
use crate::torrent::peer::CloseReason;
use crate::torrent::picker::{Bits, Geometry, PeerKey, Picker};
use crate::torrent::resume::{Record, Store};
use crate::torrent::select::Selection;
use crate::torrent::storage::{Report, Storage, StorageError, StorageOptions, lock};
use crate::torrent::tracker::{TrackerClient, TrackerView};

/// Places that the choker fills, with that of the lucky one.
const MAX_UNCHOKED: usize = SLOTS + 1;

/// After the disk refused, and after files could not be opened, tries again.
const RETRY: Duration = Duration::from_secs(30);

/// How a peer came to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// By an address that the public swarm knows.
    Address,
    /// To our own onion service.
    Onion,
    /// By a meeting with our own hidden seed.
    Hidden,
}

/// A peer that came to us.
pub(crate) struct Visitor {
    pub(crate) stream: BoxStream,
    pub(crate) via: Via,
    /// What was read of its handshake, by whoever had to know which torrent it wants.
    pub(crate) said: Vec<u8>,
}

impl Visitor {
    /// One of the public swarm, of which nothing was read.
    pub(crate) fn by_address(stream: BoxStream) -> Self {
        Self {
            stream,
            via: Via::Address,
            said: Vec::new(),
        }
    }
}

/// What the handle asks.
pub(crate) enum Command {
    /// A peer came to us.
    Accept(Visitor),
    /// Somebody says that there is a peer.
    Told(Target),
    /// Try again now, after the disk refused.
    Retry,
    /// What does it look like?
    View(oneshot::Sender<View>),
    /// Read the file of this number.
    Read(usize, oneshot::Sender<Result<Reader, ReaderError>>),
    /// Write everything, record, end.
    Stop(oneshot::Sender<()>),
}

/// What a swarm starts with.
pub(crate) struct Setup {
    pub(crate) hash: InfoHash,
    /// The hash of version 2 in full, where a link named it.
    pub(crate) v2: Option<InfoHashV2>,
    /// The files that are wanted.
    pub(crate) select: Selection,
    pub(crate) info: Option<Arc<Info>>,
    pub(crate) trackers: Vec<Vec<String>>,
    /// Servers that have the content: asked once the metadata is known.
    pub(crate) web_seeds: Vec<WebSeed>,
    pub(crate) peers: Vec<Target>,
    pub(crate) storage: StorageOptions,
    pub(crate) state_dir: PathBuf,
    pub(crate) overwrite: bool,
    pub(crate) seed_after: bool,
    pub(crate) lanes: u16,
    pub(crate) tracker: TrackerClient,
    pub(crate) allow_private: bool,
    /// Of streams to public peers.
    pub(crate) encryption: Encryption,
    pub(crate) outside: Arc<dyn Outside>,
    /// Tell hidden peers of hidden peers.
    pub(crate) gossip: bool,
    /// Finds peers in the DHT.
    pub(crate) finder: Option<Arc<dyn PeerFinder>>,
    /// Where our own onion services are, once they are.
    pub(crate) own: watch::Receiver<Vec<OnionPeer>>,
    /// How our own hidden seed is reached, while it is.
    pub(crate) own_seed: watch::Receiver<Option<Contact>>,
    /// What the user wishes while it runs.
    pub(crate) wishes: watch::Receiver<Wishes>,
    /// How fast blocks may go.
    pub(crate) pace: Pace,
    /// Who knows where hidden seeds are introduced.
    pub(crate) seeds: Option<Arc<dyn SeedBook>>,
}

type Prepared = Result<(Arc<Storage>, Bits), StorageError>;

enum Phase {
    /// Reads the record, which may hold the metadata.
    Starting(JoinHandle<Option<Record>>),
    /// Asks peers.
    Metadata,
    /// Opens and checks files.
    Checking(JoinHandle<Prepared>),
    /// The files can't be used now.
    Waiting,
    /// Takes and gives.
    Active { storage: Arc<Storage> },
    /// Ends.
    Over,
}

/// Runs one torrent. Dropping it ends everything at once, as a kill would.
pub(crate) struct Driver {
    setup: Setup,
    shared: Arc<Shared>,
    info: Option<Arc<Info>>,
    store: Arc<Store>,
    phase: Phase,
    paused: Option<(StorageError, Instant)>,
    table: PeerTable,
    calls: JoinSet<(PeerKey, Ended, Option<CloseReason>)>,
    calling: BTreeSet<PeerKey>,
    waiting: VecDeque<Visitor>,
    gossip: Gossip,
    /// Onion services and hidden seeds that are being called or connected, and who came to ours.
    origins: BTreeMap<PeerKey, Origin>,
    rumours: Rumours,
    pex: Pex,
    /// Apart, so that public peers can't keep out those of whom onion peers tell.
    early_onions: Early,
    early_peers: Early,
    choker: Choker,
    unchoked: BTreeSet<PeerKey>,
    /// Counters of the last round, by peer: what it gave and what it took.
    merits: BTreeMap<PeerKey, (u64, u64)>,
    /// Calls and connections, those that came too.
    contacted: Contacts,
    steered: Steered,
    /// Counts how often trackers and the DHT are to be asked again.
    again: watch::Sender<u32>,
    news: mpsc::Receiver<News>,
    news_sender: mpsc::Sender<News>,
    reports: mpsc::Receiver<Report>,
    report_sender: mpsc::Sender<Report>,
    answers: mpsc::Receiver<Answer>,
    answer_sender: mpsc::Sender<Answer>,
    counters: watch::Sender<Counters>,
    /// One, and one more for the second name of a hybrid torrent.
    announcer: JoinSet<()>,
    announces_second: bool,
    /// Peers that were found by that name alone.
    second_peers: BTreeSet<SocketAddr>,
    sightings: mpsc::Receiver<Sighting>,
    sighting_sender: mpsc::Sender<Sighting>,
    /// How the swarm stands, for the seeker.
    need: watch::Sender<Need>,
    /// Trackers that have neither answered nor failed yet, by the first name.
    unasked: usize,
    /// How the trackers stand, by that name.
    trackers: watch::Receiver<Vec<TrackerView>>,
    /// One that looks in the DHT, or none.
    seeker: JoinSet<()>,
    /// Those whom only the DHT named before it was known that the torrent is not private.
    sought: Vec<SocketAddr>,
    recording: Option<Recording>,
    unrecorded: bool,
    /// Bytes that had come at the last note for their sake.
    noted: u64,
    /// Everything is to be verified, until that was done.
    verifying: bool,
    record_after: u64,
    seconds: u64,
    no_network: bool,
    checked: Arc<AtomicU32>,
    progress: watch::Sender<Progress>,
    down: Rate,
    up: Rate,
    rates: (u64, u64),
    tracker_status: Option<String>,
    dht_status: Option<String>,
    webs: web::Webs,
    rng: StdRng,
}

/// What woke the driver.
enum Woken {
    Command(Option<Command>),
    Ended(Result<(PeerKey, Ended, Option<CloseReason>), tokio::task::JoinError>),
    News(News),
    Report(Report),
    Answer(Answer),
    Sighting(Sighting),
    Record(Option<Record>),
    Prepared(Option<Prepared>),
    Recorded(Option<Result<(), StorageError>>),
    Wishes,
    Tick,
}

impl Driver {
    /// Starts a swarm. Call within a tokio runtime.
    pub(crate) fn new(setup: Setup, progress: watch::Sender<Progress>) -> Self {
        let mut rng = StdRng::from_rng(&mut rand::rng());
        let (news_sender, news) = mpsc::channel(256);
        let (report_sender, reports) = mpsc::channel(256);
        let (answer_sender, answers) = mpsc::channel(4);
        let (sighting_sender, sightings) = mpsc::channel(4);
        // Until the size is known, something is missing.
        let (counters, _) = watch::channel(Counters {
            left: 1,
            ..Counters::default()
        });
        let store = Arc::new(Store::new(
            &setup.state_dir,
            setup.hash,
            &setup.storage.root,
        ));
        let reading = Arc::clone(&store);
        let phase = Phase::Starting(tokio::task::spawn_blocking(move || reading.load()));
        let mut table = PeerTable::new(setup.lanes);
        let now = Instant::now().into_std();
        let onions = setup.peers.iter().filter(|peer| Place::is_concealed(peer));
        let streams = onions::streams_each(onions.count());
        for target in &setup.peers {
            if Place::is_concealed(target) {
                // Spelled as others are told of it.
                let usual = Concealed::from_target(target).and_then(|peer| peer.to_target());
                table.add_onion(now, usual.as_ref().unwrap_or(target), streams);
            } else {
                table.add(now, peers::way_to(target));
            }
        }
        let mut driver = Self {
            shared: Shared::new(setup.hash, setup.pace.clone()),
            info: setup.info.clone(),
            store,
            phase,
            paused: None,
            table,
            calls: JoinSet::new(),
            calling: BTreeSet::new(),
            waiting: VecDeque::new(),
            gossip: Gossip::default(),
            origins: BTreeMap::new(),
            rumours: Rumours::default(),
            pex: Pex::default(),
            early_onions: Early::default(),
            early_peers: Early::default(),
            choker: Choker::default(),
            unchoked: BTreeSet::new(),
            merits: BTreeMap::new(),
            contacted: Contacts::new(),
            steered: Steered::default(),
            again: watch::channel(0).0,
            news,
            news_sender,
            reports,
            report_sender,
            answers,
            answer_sender,
            counters,
            announcer: JoinSet::new(),
            announces_second: false,
            second_peers: BTreeSet::new(),
            sightings,
            sighting_sender,
            need: watch::channel(Need::default()).0,
            unasked: setup.trackers.iter().map(Vec::len).sum(),
            trackers: watch::channel(Vec::new()).1,
            seeker: JoinSet::new(),
            sought: Vec::new(),
            recording: None,
            unrecorded: false,
            noted: 0,
            verifying: false,
            record_after: 0,
            seconds: 0,
            no_network: false,
            checked: Arc::default(),
            progress,
            down: Rate::default(),
            up: Rate::default(),
            rates: (0, 0),
            tracker_status: None,
            dht_status: None,
            webs: web::Webs::new(&setup.web_seeds, &mut rng),
            rng,
            setup,
        };
        driver.announce(driver.setup.hash);
        driver
    }

    /// Runs to the end.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !matches!(self.phase, Phase::Over) {
            self.call_peers();
            self.publish();
            let woken = tokio::select! {
                command = commands.recv() => Woken::Command(command),
                Some(ended) = self.calls.join_next() => Woken::Ended(ended),
                Some(news) = self.news.recv() => Woken::News(news),
                Some(report) = self.reports.recv() => Woken::Report(report),
                Some(answer) = self.answers.recv() => Woken::Answer(answer),
                Some(sighting) = self.sightings.recv() => Woken::Sighting(sighting),
                woken = next_step(&mut self.phase) => woken,
                done = finish(&mut self.recording) => Woken::Recorded(done),
                Ok(()) = self.setup.wishes.changed() => Woken::Wishes,
                _ = tick.tick() => Woken::Tick,
            };
            match woken {
                Woken::Command(Some(Command::Accept(visitor))) => self.accept(visitor),
                // Peers of a private torrent are its tracker's to name (BEP 27).
                Woken::Command(Some(Command::Told(target))) if !self.is_private() => {
                    let now = Instant::now().into_std();
                    self.table.add_hearsay(now, target, None);
                }
                Woken::Command(Some(Command::Told(_))) => {}
                Woken::Command(Some(Command::Retry)) => self.retry(),
                Woken::Command(Some(Command::View(answer))) => {
                    let _ = answer.send(self.view());
                }
                Woken::Command(Some(Command::Read(file, answer))) => self.read_file(file, answer),
                Woken::Command(Some(Command::Stop(done))) => {
                    self.end(State::Stopped).await;
                    let _ = done.send(());
                }
                Woken::Command(None) => return,
                Woken::Ended(ended) => self.connection_ended(ended),
                Woken::News(news) => self.hear(news),
                Woken::Report(report) => self.take_report(report),
                Woken::Answer(answer) => self.take_answer(answer),
                Woken::Sighting(sighting) => self.take_sighting(sighting),
                Woken::Record(record) => self.started(record),
                Woken::Prepared(prepared) => self.prepared(prepared),
                Woken::Recorded(result) => self.recorded(result),
                Woken::Wishes => self.take_wishes(),
                Woken::Tick => self.tick(),
            }
            if self.steered.verify {
                self.verify().await;
            }
            if self.is_complete() && !self.setup.seed_after {
                self.end(State::Done).await;
            }
        }
    }

    fn is_complete(&self) -> bool {
        matches!(self.phase, Phase::Active { .. })
            && lock(&self.shared.work)
                .picker
                .as_ref()
                .is_some_and(Picker::is_done)
    }

    /// The record was read: with it, a magnet link needs no peers to know its torrent.
    fn started(&mut self, record: Option<Record>) {
        if self.info.is_none() {
            let known = record.and_then(|record| {
                let mut info = Info::parse(&record.info).ok()?;
                if !record.layers.is_empty() {
                    info.learn_layers(&record.layers).ok()?;
                }
                let named = info.is_named(self.setup.hash, self.setup.v2);
                named.then(|| Arc::new(info))
            });
            self.info = known;
        }
        self.seek();
        self.proceed();
    }

    pub(super) fn check(&mut self) {
        let Some(info) = self.info.clone() else {
            return;
        };
        self.checked.store(0, Ordering::Relaxed);
        let wanted = self.wanted_pieces(&info);
        // Kept until it was done: files may be another's for now.
        self.verifying |= std::mem::take(&mut self.steered.verify);
        let job = prepare::Job {
            verify: self.verifying,
            options: self.setup.storage.clone(),
            overwrite: self.setup.overwrite,
            store: Arc::clone(&self.store),
            reports: self.report_sender.clone(),
            checked: Arc::clone(&self.checked),
            wanted,
            info,
        };
        self.phase = Phase::Checking(tokio::task::spawn_blocking(move || job.run()));
    }

    fn prepared(&mut self, prepared: Option<Prepared>) {
        let Some(info) = self.info.clone() else {
            return;
        };
        match prepared {
            Some(Ok((storage, had))) => {
                self.verifying = false;
                if self.choose_files(&info).is_none() {
                    return self.fail(Failure::Selection);
                }
                let picker = Picker::new(Geometry::of(&info), had, self.rng.random());
                let torrent = Torrent {
                    info,
                    storage: Arc::clone(&storage),
                };
                let mut work = lock(&self.shared.work);
                work.picker = Some(picker);
                work.fetch = None;
                drop(work);
                *lock(&self.shared.torrent) = Some(torrent);
                self.steer();
                self.paused = None;
                self.phase = Phase::Active { storage };
                self.shared.broadcast(&Order::Torrent);
                self.accept_waiting();
            }
            Some(Err(error @ (StorageError::UnsafePath | StorageError::Foreign))) => {
                self.fail(Failure::Storage(error));
            }
            Some(Err(StorageError::Missing)) if !self.setup.storage.write => {
                self.fail(Failure::Storage(StorageError::Missing));
            }
            Some(Err(error)) => self.wait(error),
            // The thread panicked.
            None => self.wait(StorageError::Io(std::io::ErrorKind::Other)),
        }
    }

    fn wait(&mut self, error: StorageError) {
        // A lock held by one that is just ending is free in a moment.
        let wait = if error == StorageError::Busy {
            Duration::from_secs(1)
        } else {
            RETRY
        };
        let until = Instant::now() + wait;
        self.paused = Some((error, until));
        self.phase = Phase::Waiting;
    }

    fn fail(&mut self, failure: Failure) {
        self.calls.abort_all();
        self.set_state(State::Failed(failure));
        self.phase = Phase::Over;
    }

    fn retry(&mut self) {
        match self.phase {
            Phase::Waiting => self.check(),
            Phase::Active { .. } => {
                self.paused = None;
                lock(&self.shared.work).paused = false;
            }
            Phase::Starting(_) | Phase::Metadata | Phase::Checking(_) | Phase::Over => {}
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Ready(key) => {
                self.no_network = false;
                self.table.worked(Instant::now().into_std(), key);
                self.pex.ready(key);
            }
            News::Interested(key) => {
                if self.unchoked.len() < MAX_UNCHOKED && !self.unchoked.contains(&key) {
                    let seat = lock(&self.shared.work).seats.get(&key).cloned();
                    if let Some(seat) = seat {
                        self.unchoked.insert(key);
                        self.choker.admit(key);
                        seat.order(Order::Choke(false));
                    }
                }
            }
            News::Layers(files) => self.layers_came(*files),
            News::Liars(liars) => liars.into_iter().for_each(|key| self.ban(key)),
            News::Extensions(key, Exchange::Public, true) => {
                self.pex.opened(Instant::now().into_std(), key);
            }
            News::Extensions(key, Exchange::Onions, both) => self.extensions_came(key, both),
            News::Extensions(..) => {}
            News::Peers(key, peers) => self.peers_came(key, peers),
            News::Onions(key, onions) => self.onions_came(key, onions),
            News::Metadata(bytes) => {
                if self.info.is_some() {
                    return;
                }
                match Info::parse(&bytes) {
                    Ok(info) if info.is_named(self.setup.hash, self.setup.v2) => {
                        self.info = Some(Arc::new(info));
                        self.seek();
                        self.proceed();
                    }
                    // The fetch compared the hash.
                    Ok(_) => {}
                    Err(error) => self.fail(Failure::Metainfo(error)),
                }
            }
        }
    }

    fn ban(&mut self, key: PeerKey) {
        tracing::debug!(peer = key.0, "a peer sent wrong data and is banned");
        self.table.ban(key);
        self.webs.ban(key);
        self.shared.order(key, Order::Close(CloseReason::Lied));
    }

    fn take_report(&mut self, report: Report) {
        for liar in self.settle(report) {
            self.ban(liar);
        }
        self.record();
    }

    /// Tells the picker, and the connections; gives who lied.
    fn settle(&mut self, report: Report) -> Vec<PeerKey> {
        let mut work = lock(&self.shared.work);
        let work = &mut *work;
        let Some(picker) = &mut work.picker else {
            return Vec::new();
        };
        // Whoever waits looks again as soon as this is done.
        self.shared.news.notify_waiters();
        match report {
            Report::Passed { piece, digests } => {
                self.unrecorded = true;
                work.doubts.passed(piece);
                let liars = picker.passed(piece, &digests);
                for seat in work.seats.values() {
                    seat.order(Order::Have(piece));
                }
                liars
            }
            Report::Failed { piece, digests } => {
                let liar = picker.failed(piece, digests);
                let v2 = self.info.as_ref().and_then(|info| info.v2.as_ref());
                let request = v2.and_then(|v2| v2.blocks_of(piece));
                if let Some(request) = request.filter(|_| liar.is_none()) {
                    work.doubts.add(piece, request);
                }
                liar.into_iter().collect()
            }
            Report::Lost { piece, error } => {
                picker.lost(piece);
                if self.paused.is_none() {
                    work.paused = true;
                    for seat in work.seats.values() {
                        seat.order(Order::Pause);
                    }
                }
                self.paused = Some((error, Instant::now() + RETRY));
                Vec::new()
            }
        }
    }

    fn take_answer(&mut self, answer: Answer) {
        self.tracker_status = Some(answer.status);
        self.no_network = answer.no_network;
        // Those to the second name say nothing of the trackers that were not asked by the first yet.
        if answer.hash == self.setup.hash {
            self.unasked = answer.unasked;
        }
        self.note_names(answer.hash, &answer.peers);
        let now = Instant::now().into_std();
        for peer in answer.peers {
            self.table.add(now, Way::Named(PeerName::Public(peer)));
        }
        for target in answer.onions.iter().filter_map(OnionPeer::to_target) {
            self.table.add_hearsay(now, target, None);
        }
    }

    /// Ends in good order: connections first, then what they left to write, then the record.
    async fn end(&mut self, state: State) {
        self.calls.shutdown().await;
        self.webs.shutdown().await;
        self.announcer.shutdown().await;
        self.seeker.shutdown().await;
        if let Phase::Active { storage } = std::mem::replace(&mut self.phase, Phase::Over) {
            self.settle_down(storage).await;
        }
        self.set_state(state);
    }

    /// Waits until what has come is written, and records it.
    async fn settle_down(&mut self, storage: Arc<Storage>) {
        if let Some(recording) = self.recording.take() {
            recording.settle().await;
        }
        loop {
            tokio::select! {
                Some(report) = self.reports.recv() => self.take_report(report),
                () = storage.idle() => break,
            }
        }
        while let Ok(report) = self.reports.try_recv() {
            self.take_report(report);
        }
        if self.setup.storage.write
            && let Some(save) = self.saver(storage, true)
        {
            let result = tokio::task::spawn_blocking(save).await.ok();
            self.recorded(result);
        }
    }
}

/// What waits to be written is dropped, so that a torrent started anew does not meet a late write. Readers end, so that they do not
/// keep its folder from it.
impl Drop for Driver {
    fn drop(&mut self) {
        let torrent = lock(&self.shared.torrent).take();
        if let Some(torrent) = torrent {
            torrent.storage.close();
        }
        let mut work = lock(&self.shared.work);
        work.picker = None;
        work.over = true;
        drop(work);
        self.shared.news.notify_waiters();
    }
}

async fn next_step(phase: &mut Phase) -> Woken {
    match phase {
        Phase::Starting(reading) => Woken::Record(reading.await.ok().flatten()),
        Phase::Checking(checking) => Woken::Prepared(checking.await.ok()),
        Phase::Metadata | Phase::Waiting | Phase::Active { .. } | Phase::Over => {
            std::future::pending().await
        }
    }
}

async fn finish(recording: &mut Option<Recording>) -> Option<Result<(), StorageError>> {
    match recording {
        Some(recording) => (&mut recording.task).await.ok(),
        None => std::future::pending().await,
    }
}
