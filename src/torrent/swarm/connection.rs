//! The task of one connection: moves bytes between a stream and a [`Peer`], blocks to storage, requests from the picker.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::hashes::{self, Hashing, answer_hashes, hashed, hashes_came};
use super::metadata::Outcome;
use super::{Order, Seat, Shared, Torrent};
use crate::route::BoxStream;
use crate::torrent::extension::{Exchange, MAX_METADATA, random_peer_id};
use crate::torrent::gossip::Onions;
use crate::torrent::infohash::InfoHash;
use crate::torrent::pace::{Direction, Turn};
use crate::torrent::peer::{CloseReason, Event, Peer};
use crate::torrent::pex::PeerExchange;
use crate::torrent::picker::{Bits, PeerKey, Received};
use crate::torrent::storage::{StorageError, lock};
use crate::torrent::v2::HashedFiles;
use crate::torrent::wire::{BLOCK, BlockRef, PIECE_HEADER_LEN, piece_header};

/// Deadlines are looked at, and idle requests tried again, this often.
const TICK: Duration = Duration::from_secs(1);

/// Two that are complete stay connected for so long after that, where both tell of hidden peers: so that each knows the other
/// as one to tell of.
const LINGER: Duration = Duration::from_secs(120);

/// The same, until it is known whether the peer tells of any.
const LINGER_UNHEARD: Duration = Duration::from_secs(10);

/// A connection of which not a byte of output was taken for so long is stuck.
const WRITE_TIME: Duration = Duration::from_secs(120);

/// What a connection tells the driver.
#[derive(Debug)]
pub(super) enum News {
    /// The handshakes are exchanged.
    Ready(PeerKey),
    /// The peer wants something.
    Interested(PeerKey),
    /// The metadata came, with the right hash.
    Metadata(Vec<u8>),
    /// The hashes of all pieces are known.
    Layers(Box<HashedFiles>),
    /// These peers lied.
    Liars(Vec<PeerKey>),
    /// The peer's extension handshake came, on a connection on which we offer to tell of others; whether the peer does too.
    Extensions(PeerKey, Exchange, bool),
    /// The peer tells of public peers.
    Peers(PeerKey, PeerExchange),
    /// The peer tells of hidden peers.
    Onions(PeerKey, Onions),
}

/// What a torrent is called on a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Names {
    /// By which name to call it, where that is not the usual one.
    pub(super) call: Option<InfoHash>,
    /// Its name of version 2, where it is known.
    pub(super) v2: Option<InfoHash>,
}

type Upload = JoinHandle<(Vec<u8>, u64, Result<(), StorageError>)>;

/// One connection at work.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) key: PeerKey,
    seat: Arc<Seat>,
    pub(super) peer: Peer,
    /// Hashes that the peer waits for.
    pub(super) hashing: Hashing,
    /// Of whom we offer to tell.
    exchange: Exchange,
    /// Since when neither side needs anything, where we offer that.
    complete_since: Option<Instant>,
    news: mpsc::Sender<News>,
    pub(super) torrent: Option<Torrent>,
    /// The picker counts the peer's pieces.
    counted: bool,
    /// The picker had nothing for the peer; asked again at the next tick.
    dry: bool,
    /// The peer does not give metadata.
    refused: bool,
    /// Was interested when last looked at.
    interested: bool,
    read_first: bool,
    /// Being written.
    out: Vec<u8>,
    written: usize,
    last_write: Instant,
    /// `out` holds blocks, and `aside` the memory of messages meanwhile.
    giving: bool,
    aside: Vec<u8>,
    /// Blocks that were read and wait for `out`.
    ready: Vec<u8>,
    /// Their payload, bytes.
    ready_bytes: u64,
    /// Memory for blocks, with what it held before.
    spare: Vec<u8>,
    picked: Vec<BlockRef>,
    /// When blocks may be asked for, where that is limited.
    asking: Option<Turn>,
    /// When `ready` may go, where that is limited.
    waits: Option<Turn>,
}

enum Io {
    Read(usize),
    Wrote(usize),
    Broken,
}

impl Connection {
    /// A connection that is about to begin.
    pub(super) fn new(
        shared: Arc<Shared>,
        key: PeerKey,
        outgoing: bool,
        names: Names,
        news: mpsc::Sender<News>,
    ) -> Self {
        let seat = Arc::new(Seat::default());
        lock(&shared.work).seats.insert(key, Arc::clone(&seat));
        // Should the torrent become known from here on, the order finds the seat; before, this does.
        seat.order(Order::Torrent);
        let mut rng = StdRng::from_rng(&mut rand::rng());
        let id = random_peer_id(&mut rng);
        let now = Instant::now();
        let name = names.call.unwrap_or(shared.hash);
        let mut peer = Peer::new(now.into_std(), name, id, outgoing, rng);
        if let Some(name) = names.v2 {
            peer.also_named(name);
        }
        Self {
            shared,
            key,
            seat,
            peer,
            hashing: Hashing::default(),
            exchange: Exchange::Nobody,
            complete_since: None,
            news,
            torrent: None,
            counted: false,
            dry: false,
            refused: false,
            interested: false,
            read_first: false,
            out: Vec::new(),
            written: 0,
            last_write: now,
            giving: false,
            aside: Vec::new(),
            ready: Vec::new(),
            ready_bytes: 0,
            spare: Vec::new(),
            picked: Vec::new(),
            asking: None,
            waits: None,
        }
    }

    /// Of whom it offers to tell.
    pub(super) fn offer(mut self, exchange: Exchange) -> Self {
        self.peer.offer(exchange);
        self.exchange = exchange;
        self
    }

    /// Takes what was read of the stream before: at most a part of the handshake, of which nothing comes yet.
    pub(super) fn feed(&mut self, said: &[u8]) {
        self.peer.feed(now(), said);
    }

    /// Who reads along on the way sees nothing of it.
    pub(super) fn encrypted(self, encrypted: bool) -> Self {
        self.seat.encrypted.store(encrypted, Ordering::Relaxed);
        self
    }

    /// Runs the connection to its end.
    pub(super) async fn run(mut self, mut stream: BoxStream) -> CloseReason {
        match self.work(&mut stream).await {
            Ok(never) => match never {},
            Err(reason) => reason,
        }
    }

    async fn work(
        &mut self,
        stream: &mut BoxStream,
    ) -> Result<std::convert::Infallible, CloseReason> {
        let seat = Arc::clone(&self.seat);
        let mut upload: Option<Upload> = None;
        let mut hashing: Option<hashes::Job> = None;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.obey()?;
            self.ask();
            self.ask_metadata();
            self.ask_layers();
            self.hash_next(&mut hashing)?;
            self.read_uploads(&mut upload);
            self.load_output(&mut upload);
            let storage = self
                .torrent
                .as_ref()
                .map(|torrent| Arc::clone(&torrent.storage));
            let turn = self.turn();
            let may_read = storage.as_ref().is_none_or(|storage| storage.has_room());
            tokio::select! {
                io = poll_fn(|cx| self.poll_io(cx, stream, may_read)) => match io {
                    Io::Read(len) => {
                        self.peer.filled(now(), len);
                        self.take_events().await?;
                    }
                    Io::Wrote(len) => {
                        self.written += len;
                        self.last_write = Instant::now();
                    }
                    Io::Broken => return Err(CloseReason::StreamEnded),
                },
                () = seat.notify.notified() => {}
                () = turn => {}
                done = join(&mut upload), if upload.is_some() => {
                    upload = None;
                    self.uploaded(done)?;
                }
                () = ready(storage.as_ref()), if !may_read => {}
                done = hashed(&mut hashing), if hashing.is_some() => {
                    hashing = None;
                    if let Some((request, hashes)) = done {
                        self.peer.give_hashes(request, hashes.as_deref())?;
                    }
                }
                _ = tick.tick() => self.tick()?,
            }
        }
    }

    /// Writes and reads in one poll, by turns first, so that neither waits for the other.
    fn poll_io(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut BoxStream,
        may_read: bool,
    ) -> Poll<Io> {
        self.read_first = !self.read_first;
        if self.read_first {
            if let Poll::Ready(io) = self.poll_read(cx, stream, may_read) {
                return Poll::Ready(io);
            }
            return self.poll_write(cx, stream);
        }
        if let Poll::Ready(io) = self.poll_write(cx, stream) {
            return Poll::Ready(io);
        }
        self.poll_read(cx, stream, may_read)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, stream: &mut BoxStream) -> Poll<Io> {
        let rest = self.out.get(self.written..).unwrap_or(&[]);
        if rest.is_empty() {
            return match Pin::new(stream).poll_flush(cx) {
                Poll::Ready(Err(_)) => Poll::Ready(Io::Broken),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
            };
        }
        match Pin::new(stream).poll_write(cx, rest) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Io::Broken),
            Poll::Ready(Ok(len)) => Poll::Ready(Io::Wrote(len)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut BoxStream,
        may_read: bool,
    ) -> Poll<Io> {
        if !may_read {
            return Poll::Pending;
        }
        let mut buf = ReadBuf::new(self.peer.space());
        match Pin::new(stream).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                Poll::Ready(Io::Read(buf.filled().len()))
            }
            Poll::Ready(_) => Poll::Ready(Io::Broken),
            Poll::Pending => Poll::Pending,
        }
    }

    async fn take_events(&mut self) -> Result<(), CloseReason> {
        let now = now();
        let mut news = None;
        let mut gained = false;
        while let Some(event) = self.peer.poll(now)? {
            match event {
                Event::Nothing => {}
                Event::Ready => {
                    self.seat.ready.store(true, Ordering::Relaxed);
                    news = Some(News::Ready(self.key));
                }
                Event::Block(block, data) => {
                    self.seat
                        .downloaded
                        .fetch_add(data.len() as u64, Ordering::Relaxed);
                    self.shared
                        .downloaded
                        .fetch_add(data.len() as u64, Ordering::Relaxed);
                    take_block(&self.shared, self.torrent.as_ref(), self.key, block, data);
                }
                Event::Pieces => gained = true,
                Event::Have(piece) => {
                    let work = &mut *lock(&self.shared.work);
                    if let (Some(picker), Some(have), true) =
                        (&mut work.picker, self.peer.pieces(), self.counted)
                    {
                        picker.add_piece(have, piece);
                        if picker.needs(piece) {
                            self.peer.set_interested(true);
                            self.dry = false;
                        }
                    }
                }
                Event::Released(blocks) => release(&self.shared, self.key, &blocks),
                Event::Unchoked | Event::Allowed => self.dry = false,
                Event::Extensions => {
                    self.dry = false;
                    if self.exchange != Exchange::Nobody {
                        let both = self.peer.exchanges();
                        news = Some(News::Extensions(self.key, self.exchange, both));
                    }
                }
                Event::Onions(onions) => news = Some(News::Onions(self.key, onions)),
                Event::Peers(peers) => news = Some(News::Peers(self.key, peers)),
                Event::Metadata { piece, total, data } => {
                    let mut work = lock(&self.shared.work);
                    let outcome = work
                        .fetch
                        .as_mut()
                        .map(|fetch| fetch.received(self.key, piece, total, data));
                    drop(work);
                    match outcome {
                        Some(Outcome::Done(bytes)) => news = Some(News::Metadata(bytes)),
                        Some(Outcome::Liar(key)) => news = Some(News::Liars(vec![key])),
                        Some(Outcome::More) | None => {}
                    }
                }
                Event::HashesWanted(request) => {
                    let torrent = self.torrent.as_ref();
                    answer_hashes(&mut self.hashing, &mut self.peer, torrent, request)?;
                }
                Event::Hashes(request, hashes) => {
                    news = hashes_came(
                        &self.shared,
                        self.torrent.as_ref(),
                        self.key,
                        &request,
                        hashes,
                    );
                }
                Event::HashesRefused(request) => {
                    if let Some(layers) = &mut lock(&self.shared.work).layers {
                        layers.refused(now, self.key, &request);
                    }
                }
                Event::MetadataRejected => {
                    if let Some(fetch) = &mut lock(&self.shared.work).fetch {
                        fetch.gone(self.key);
                    }
                    self.refused = true;
                }
                Event::MetadataWanted(piece) => {
                    let metadata = self
                        .torrent
                        .as_ref()
                        .filter(|t| !t.info.private)
                        .map(|t| &*t.info.bytes);
                    self.peer.give_metadata(piece, metadata);
                }
            }
            if let Some(news) = news.take() {
                // The driver always takes news, unless it has ended.
                if self.news.send(news).await.is_err() {
                    return Err(CloseReason::ByUs);
                }
            }
        }
        if gained {
            self.count();
        }
        let has = self.peer.pieces().map_or(0, Bits::count);
        self.seat.pieces.store(has, Ordering::Relaxed);
        let interested = self.peer.is_interested();
        self.seat.interested.store(interested, Ordering::Relaxed);
        self.seat
            .snubbing
            .store(self.peer.is_snubbing(), Ordering::Relaxed);
        self.seat
            .choking
            .store(self.peer.is_choking(), Ordering::Relaxed);
        if interested && !self.interested {
            // A free place need not wait for the next round.
            let _ = self.news.send(News::Interested(self.key)).await;
        }
        self.interested = interested;
        Ok(())
    }

    /// Lets the picker count the peer's pieces and looks whether any is needed.
    fn count(&mut self) {
        let work = &mut *lock(&self.shared.work);
        if let (Some(picker), Some(have)) = (&mut work.picker, self.peer.pieces()) {
            // Counted before, the set was empty: a bitfield comes first.
            picker.add_peer(have);
            self.counted = true;
            self.dry = false;
            let interested = picker.is_interesting(have);
            self.peer.set_interested(interested);
        }
    }

    fn obey(&mut self) -> Result<(), CloseReason> {
        for order in self.seat.take_orders() {
            match order {
                Order::Torrent => self.learn()?,
                Order::Have(piece) => self.peer.have(piece)?,
                Order::Cancel(block) => {
                    if self.peer.cancel(block) {
                        let (pace, len) = (&self.shared.pace, u64::from(block.len));
                        pace.give_back(Direction::Down, len);
                    }
                }
                Order::Choke(choke) => self.peer.set_choking(choke),
                Order::Pause => {
                    let blocks = self.peer.cancel_all();
                    release(&self.shared, self.key, &blocks);
                }
                Order::Onions(onions) => self.peer.send_onions(&onions),
                Order::Peers(peers) => self.peer.send_pex(&peers),
                Order::Close(reason) => return Err(reason),
            }
        }
        Ok(())
    }

    /// Learns of the torrent, once there is one.
    fn learn(&mut self) -> Result<(), CloseReason> {
        let Some(torrent) = self.shared.torrent().filter(|_| self.torrent.is_none()) else {
            return Ok(());
        };
        self.torrent = Some(torrent.clone());
        let size = u32::try_from(torrent.info.bytes.len()).ok();
        let size = size.filter(|&size| size <= MAX_METADATA && !torrent.info.private);
        // Under one lock with the HAVE orders: a piece verified meanwhile is either in the set or in an order.
        let had = lock(&self.shared.work)
            .picker
            .as_ref()
            .map(|picker| picker.had().clone());
        if let Some(had) = had {
            self.peer
                .set_torrent(torrent.storage.geometry().clone(), had, size)?;
            self.count();
        }
        Ok(())
    }

    /// Fills the pipeline.
    fn ask(&mut self) {
        let want = self.peer.wants();
        if want == 0 || self.dry {
            // Nothing can be asked for: the turn is for others, and must not wake us for nothing.
            let turn = self.asking.take();
            self.give_back(Direction::Down, turn);
            return;
        }
        let bytes = want.saturating_mul(BLOCK as usize);
        let Some(may) = self.may_ask(bytes as u64) else {
            return;
        };
        let want = want.min((may / u64::from(BLOCK)) as usize);
        self.picked.clear();
        {
            let work = &mut *lock(&self.shared.work);
            if let (Some(picker), Some(have), false) =
                (&mut work.picker, self.peer.askable(), work.paused)
            {
                let busy = self.peer.outstanding();
                picker.pick(self.key, have, busy, want, &mut self.picked);
            }
        }
        self.dry = self.picked.is_empty();
        let asked = self.picked.iter().map(|block| u64::from(block.len)).sum();
        let pace = &self.shared.pace;
        pace.give_back(Direction::Down, may.saturating_sub(asked));
        self.peer.request(now(), &self.picked);
    }

    /// How many bytes may be asked for now, of so many; `None`: it is not our turn yet.
    fn may_ask(&mut self, bytes: u64) -> Option<u64> {
        let (pace, way) = (&self.shared.pace, Direction::Down);
        if !pace.is_limited(way) {
            self.asking = None;
            return Some(bytes);
        }
        let turn = self.asking.filter(|turn| !pace.is_stale(turn));
        let len = bytes.min(u64::from(pace.turn_len(way)));
        let turn = turn.unwrap_or_else(|| pace.take(now(), way, len));
        self.asking = Some(turn).filter(|turn| turn.at > now());
        self.asking.is_none().then_some(turn.bytes)
    }

    /// Whether the blocks that were read may go now.
    fn may_give(&mut self) -> bool {
        let (pace, way) = (&self.shared.pace, Direction::Up);
        if !pace.is_limited(way) {
            self.waits = None;
            return true;
        }
        let turn = self.waits.filter(|turn| !pace.is_stale(turn));
        let turn = turn.unwrap_or_else(|| pace.take(now(), way, self.ready_bytes));
        self.waits = Some(turn).filter(|turn| turn.at > now());
        self.waits.is_none()
    }

    /// Gives back a turn that will not be used. One by limits that are not the present ones counts no more.
    fn give_back(&self, way: Direction, turn: Option<Turn>) {
        let pace = &self.shared.pace;
        if let Some(turn) = turn.filter(|turn| !pace.is_stale(turn)) {
            pace.give_back(way, turn.bytes);
        }
    }

    /// Waits for the next turn that can be used, where there is one to wait for.
    fn turn(&self) -> impl Future<Output = ()> + use<> {
        // Before all that is being written has gone, the next blocks can't, whose turn ever it is.
        let waits = self.waits.filter(|_| self.written >= self.out.len());
        let turns = [self.asking, waits].into_iter().flatten();
        let next = turns.map(|turn| turn.at).min();
        async move {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        }
    }

    fn ask_metadata(&mut self) {
        if self.refused || self.torrent.is_some() {
            return;
        }
        let extensions = self.peer.extensions();
        let (Some(_), Some(size)) = (extensions.ut_metadata, extensions.metadata_size) else {
            return;
        };
        let mut work = lock(&self.shared.work);
        while let Some(piece) = work
            .fetch
            .as_mut()
            .and_then(|fetch| fetch.next(now(), self.key, size))
        {
            self.peer.ask_metadata(piece);
        }
    }

    /// Starts to read blocks for the peer, one batch ahead of what is being sent.
    fn read_uploads(&mut self, upload: &mut Option<Upload>) {
        if upload.is_some() || !self.ready.is_empty() || !self.peer.has_uploads() {
            return;
        }
        let Some(storage) = self.torrent.as_ref().map(|t| Arc::clone(&t.storage)) else {
            return;
        };
        // As much as may be sent at a time.
        let len = self.shared.pace.turn_len(Direction::Up);
        let blocks = self.peer.take_uploads(len);
        let mut out = std::mem::take(&mut self.spare);
        *upload = Some(tokio::task::spawn_blocking(move || {
            let result = storage.read_blocks(&blocks, PIECE_HEADER_LEN, &mut out);
            let mut rest = &mut out[..];
            let mut bytes = 0;
            for block in blocks {
                let header = piece_header(block.index, block.begin, block.len);
                let len = PIECE_HEADER_LEN + block.len as usize;
                let Some((part, more)) = rest.split_at_mut_checked(len) else {
                    break;
                };
                rest = more;
                if let Some(front) = part.first_chunk_mut() {
                    *front = header;
                }
                bytes += u64::from(block.len);
            }
            (out, bytes, result)
        }));
    }

    fn uploaded(
        &mut self,
        done: Option<(Vec<u8>, u64, Result<(), StorageError>)>,
    ) -> Result<(), CloseReason> {
        let Some((out, bytes, result)) = done else {
            return Err(CloseReason::ByUs);
        };
        self.ready = out;
        self.ready_bytes = bytes;
        if let Err(error) = result {
            tracing::debug!(peer = self.key.0, %error, "can't serve a block");
            // Our files are gone: the peer must not wait for what will not come.
            return Err(CloseReason::ByUs);
        }
        Ok(())
    }

    /// Gets the next bytes to write: messages first, then blocks.
    fn load_output(&mut self, upload: &mut Option<Upload>) {
        if self.written < self.out.len() {
            return;
        }
        if self.giving {
            self.giving = false;
            std::mem::swap(&mut self.out, &mut self.aside);
            // Two are enough: one is sent while the other is read into.
            self.spare = std::mem::take(&mut self.aside);
        }
        self.out.clear();
        self.written = 0;
        self.peer.transmit(now(), &mut self.out);
        if self.out.is_empty() && !self.ready.is_empty() && self.may_give() {
            self.giving = true;
            self.aside = std::mem::replace(&mut self.out, std::mem::take(&mut self.ready));
            self.seat
                .uploaded
                .fetch_add(self.ready_bytes, Ordering::Relaxed);
            self.shared
                .uploaded
                .fetch_add(self.ready_bytes, Ordering::Relaxed);
            self.peer.sent_blocks(now());
            // The next batch is read while this one is sent.
            self.read_uploads(upload);
        }
        self.last_write = Instant::now();
    }

    fn tick(&mut self) -> Result<(), CloseReason> {
        self.dry = false;
        self.hashing.due = true;
        self.ask_blocks();
        if self.peer.both_complete() {
            let since = *self.complete_since.get_or_insert_with(Instant::now);
            let lingers = if self.peer.gossips() {
                LINGER
            } else {
                LINGER_UNHEARD
            };
            if since.elapsed() >= lingers {
                return Err(CloseReason::BothComplete);
            }
        }
        if self.written < self.out.len() && self.last_write.elapsed() >= WRITE_TIME {
            return Err(CloseReason::Stuck);
        }
        if self.peer.poll_timeout() <= now() {
            let released = self.peer.handle_timeout(now())?;
            release(&self.shared, self.key, &released);
        }
        self.seat
            .snubbing
            .store(self.peer.is_snubbing(), Ordering::Relaxed);
        let work = lock(&self.shared.work);
        if let (Some(picker), Some(have)) = (&work.picker, self.peer.pieces()) {
            let interested = picker.is_interesting(have);
            drop(work);
            self.peer.set_interested(interested);
        }
        Ok(())
    }
}

/// Gives back what the peer was asked for and what it has, however the task ended.
impl Drop for Connection {
    fn drop(&mut self) {
        let owed: Vec<BlockRef> = self.peer.outstanding_blocks().collect();
        release(&self.shared, self.key, &owed);
        self.give_back(Direction::Down, self.asking);
        self.give_back(Direction::Up, self.waits);
        let mut work = lock(&self.shared.work);
        let work = &mut *work;
        work.seats.remove(&self.key);
        if let (Some(picker), Some(have), true) =
            (&mut work.picker, self.peer.pieces(), self.counted)
        {
            picker.remove_peer(have);
        }
        if let Some(fetch) = &mut work.fetch {
            fetch.gone(self.key);
        }
        if let Some(layers) = &mut work.layers {
            layers.gone(self.key);
        }
    }
}

/// Gives back what a peer was asked for and will not give. To be called at its end even without any.
fn release(shared: &Shared, key: PeerKey, blocks: &[BlockRef]) {
    let bytes = blocks.iter().map(|block| u64::from(block.len)).sum();
    shared.pace.give_back(Direction::Down, bytes);
    if let Some(picker) = &mut lock(&shared.work).picker {
        picker.release(key, blocks.iter().copied());
    }
}

/// Stores a block if the picker needs it, and takes it back from others.
pub(super) fn take_block(
    shared: &Shared,
    torrent: Option<&Torrent>,
    key: PeerKey,
    block: BlockRef,
    data: &[u8],
) {
    let Some(torrent) = torrent else { return };
    let mut work = lock(&shared.work);
    let received = work
        .picker
        .as_mut()
        .map(|picker| picker.received(key, block));
    let Some(Received::Taken { cancel }) = received else {
        return;
    };
    for seat in cancel.iter().filter_map(|other| work.seats.get(other)) {
        seat.order(Order::Cancel(block));
    }
    drop(work);
    torrent.storage.put(block, data);
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

async fn join(upload: &mut Option<Upload>) -> Option<(Vec<u8>, u64, Result<(), StorageError>)> {
    match upload {
        Some(handle) => handle.await.ok(),
        None => std::future::pending().await,
    }
}

async fn ready(storage: Option<&Arc<crate::torrent::storage::Storage>>) {
    match storage {
        Some(storage) => storage.ready().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
