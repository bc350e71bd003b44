//! The driver of a swarm: everything that happens once for all connections.

mod clock;
mod early;
mod onions;
mod pex;
mod seeds;
mod seeking;
mod versions;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hushswarm_circuits::isolation::Isolation;
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
use super::announce::{Answer, Counters};
use super::choker::{Choker, SLOTS};
use super::connection::{Connection, News};
use super::gossip::{Gossip, Origin};
use super::open::{Encryption, accepted, open};
use super::pex::Pex;
use super::progress::{Failure, Progress, Rate, State};
use super::seek::{Need, Sighting};
use super::table::{Call, Ended, PeerTable, Way};
use super::{Order, Shared, Torrent, prepare};
use crate::dht::PeerFinder;
use crate::route::special::Place;
use crate::route::{BoxStream, Outside};
use crate::torrent::extension::Exchange;
use crate::torrent::gossip::{Concealed, OnionPeer, SeedBook};
use crate::torrent::infohash::{InfoHash, InfoHashV2, PeerName};
use crate::torrent::metainfo::Info;
use crate::torrent::peer::CloseReason;
use crate::torrent::picker::{Bits, Geometry, PeerKey, Picker};
use crate::torrent::resume::{Record, Store};
use crate::torrent::select::Selection;
use crate::torrent::storage::{Report, Storage, StorageError, StorageOptions, lock};
use crate::torrent::tracker::TrackerClient;

/// Most connections and calls that we open ourselves.
const MAX_CONNECTED: usize = 40;

/// Most connections in all, with those that came to us.
const MAX_CONNECTIONS: usize = 60;

/// Streams that came while files were being checked and wait, at most.
const MAX_WAITING: usize = 16;

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
    /// Answers of trackers to the first name, good or bad.
    answered: usize,
    /// One that looks in the DHT, or none.
    seeker: JoinSet<()>,
    /// Those whom only the DHT named before it was known that the torrent is not private.
    sought: Vec<SocketAddr>,
    recording: Option<Recording>,
    unrecorded: bool,
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
    /// What the choice of files makes of the progress, where there is one.
    chosen: Option<versions::Chosen>,
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
    Tick,
}

impl Driver {
    /// Starts a swarm. Call within a tokio runtime.
    pub(crate) fn new(setup: Setup, progress: watch::Sender<Progress>) -> Self {
        let rng = StdRng::from_rng(&mut rand::rng());
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
                table.add(now, way_to(target));
            }
        }
        let mut driver = Self {
            shared: Shared::new(setup.hash),
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
            answered: 0,
            seeker: JoinSet::new(),
            sought: Vec::new(),
            recording: None,
            unrecorded: false,
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
            chosen: None,
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
                Woken::Tick => self.tick(),
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

    /// Takes in those who came while it was not yet known what is there.
    pub(super) fn accept_waiting(&mut self) {
        for visitor in std::mem::take(&mut self.waiting) {
            self.accept(visitor);
        }
    }

    pub(super) fn check(&mut self) {
        let Some(info) = self.info.clone() else {
            return;
        };
        self.checked.store(0, Ordering::Relaxed);
        let job = prepare::Job {
            options: self.setup.storage.clone(),
            overwrite: self.setup.overwrite,
            store: Arc::clone(&self.store),
            reports: self.report_sender.clone(),
            checked: Arc::clone(&self.checked),
            wanted: self.setup.select.pieces(&info),
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
                let Some(wanted) = self.setup.select.pieces(&info) else {
                    return self.fail(Failure::Selection);
                };
                let mut picker = Picker::new(Geometry::of(&info), had, self.rng.random());
                self.chosen = versions::choose(&mut picker, &wanted);
                let torrent = Torrent {
                    info,
                    storage: Arc::clone(&storage),
                };
                let mut work = lock(&self.shared.work);
                work.picker = Some(picker);
                work.fetch = None;
                drop(work);
                // Set once: a retry comes only before the first success.
                let _ = self.shared.torrent.set(torrent);
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

    /// Opens connections, as many as there is room for.
    fn call_peers(&mut self) {
        match self.phase {
            Phase::Metadata | Phase::Active { .. } => {}
            Phase::Starting(_) | Phase::Checking(_) | Phase::Waiting | Phase::Over => return,
        }
        let now = Instant::now().into_std();
        while self.calling.len() < MAX_CONNECTED {
            let Some(call) = self.table.next(now) else {
                return;
            };
            let concealed = Place::is_concealed(&call.target);
            if concealed && !self.may_call(now, &call) {
                continue;
            }
            let exchange = self.exchange(concealed, !call.first);
            let names = self.names_for(call.target.socket_addr());
            if let Some(addr) = call.target.socket_addr() {
                self.pex.calls(call.key, addr);
            }
            let Call {
                key, target, lane, ..
            } = call;
            let isolation = Isolation::new("swarm", &self.setup.hash.0, lane);
            let outside = Arc::clone(&self.setup.outside);
            let shared = Arc::clone(&self.shared);
            let news = self.news_sender.clone();
            self.calling.insert(key);
            let torrent = names.0.unwrap_or(self.setup.hash);
            let encryption = if concealed {
                Encryption::Off
            } else {
                self.setup.encryption
            };
            self.calls.spawn(async move {
                let stream = match open(&*outside, &target, isolation, torrent, encryption).await {
                    Ok(stream) => stream,
                    Err(ended) => return (key, ended, None),
                };
                let connection = Connection::new(shared, key, true, names, news);
                let connection = connection.offer(exchange);
                let reason = connection.run(stream).await;
                (key, how_ended(reason), Some(reason))
            });
        }
    }

    fn accept(&mut self, visitor: Visitor) {
        match self.phase {
            Phase::Metadata | Phase::Active { .. } => {}
            Phase::Starting(_) | Phase::Checking(_) | Phase::Waiting => {
                if self.waiting.len() < MAX_WAITING {
                    self.waiting.push_back(visitor);
                }
                return;
            }
            Phase::Over => return,
        }
        if self.calls.len() >= MAX_CONNECTIONS && !self.make_room() {
            return;
        }
        let key = self.table.add_incoming();
        let origin = match visitor.via {
            Via::Address => None,
            Via::Onion => Some(Origin::ToOnion),
            Via::Hidden => Some(Origin::ToSeed),
        };
        let exchange = self.exchange(origin.is_some(), false);
        if let Some(origin) = origin {
            self.origins.insert(key, origin);
        }
        let (shared, news) = (Arc::clone(&self.shared), self.news_sender.clone());
        let names = self.names_for(None);
        let torrents = [Some(self.setup.hash), names.1].into_iter().flatten();
        self.calls.spawn(async move {
            let heard = match visitor.via {
                Via::Address => accepted(visitor.stream, torrents).await,
                Via::Onion | Via::Hidden => Some((visitor.stream, visitor.said)),
            };
            let Some((stream, said)) = heard else {
                return (key, Ended::Closed, None);
            };
            let connection = Connection::new(shared, key, false, names, news);
            let mut connection = connection.offer(exchange);
            connection.feed(&said);
            let reason = connection.run(stream).await;
            (key, how_ended(reason), Some(reason))
        });
    }

    /// Ends the connection of a visitor on which nothing has moved for a while, so that many who only hold the door don't keep
    /// others out. Those whom we called have places of their own.
    fn make_room(&mut self) -> bool {
        let visitor = |key| !self.calling.contains(&key);
        let Some(key) = self.choker.stillest(visitor) else {
            return false;
        };
        self.choker.forget(key);
        self.shared.order(key, Order::Close(CloseReason::ByUs));
        true
    }

    fn connection_ended(
        &mut self,
        ended: Result<(PeerKey, Ended, Option<CloseReason>), tokio::task::JoinError>,
    ) {
        let Ok((key, how, reason)) = ended else {
            // A panic: its peer stays busy, which keeps it from doing it again.
            tracing::warn!("a connection failed; please report this");
            return;
        };
        tracing::debug!(peer = key.0, ?how, reason = ?reason, "connection ended");
        self.calling.remove(&key);
        self.unchoked.remove(&key);
        self.merits.remove(&key);
        self.choker.forget(key);
        self.no_network = how == Ended::NoNetwork;
        if reason == Some(CloseReason::Lied) {
            self.table.ban(key);
        }
        let now = Instant::now().into_std();
        self.table.ended(now, key, how, &mut self.rng);
        self.onion_ended(now, key);
        self.pex.closed(key);
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
            News::Liar(key) => self.ban(key),
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
        let first = answer.hash == self.setup.hash;
        self.answered += usize::from(first && !answer.no_network);
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
        self.announcer.shutdown().await;
        self.seeker.shutdown().await;
        if let Some(recording) = self.recording.take() {
            recording.settle().await;
        }
        if let Phase::Active { storage } = std::mem::replace(&mut self.phase, Phase::Over) {
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
        self.set_state(state);
    }
}

/// What waits to be written is dropped, so that a torrent started anew does not meet a late write.
impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(torrent) = self.shared.torrent.get() {
            torrent.storage.close();
        }
    }
}

fn how_ended(reason: CloseReason) -> Ended {
    if reason.is_fault() {
        Ended::Fault
    } else if matches!(reason, CloseReason::BothComplete | CloseReason::Twice) {
        Ended::Useless
    } else {
        Ended::Closed
    }
}

/// An address is a peer's name; a host name is looked up at the exit.
fn way_to(target: &Target) -> Way {
    match target.socket_addr() {
        Some(addr) => Way::Named(PeerName::Public(SocketAddr::new(addr.ip(), addr.port()))),
        None => Way::Host(target.clone()),
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
