//! One circuit of ours, as tasks use it: they wait for it to be ready, open streams in it and are woken by it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use hushswarm_circuits::body::{DestroyReason, EndReason, OpenKind, OpenStatus};
use hushswarm_circuits::circuit::mux::MuxEvent;
use hushswarm_circuits::circuit::origin::{CloseReason, Origin, OriginEvent};
use hushswarm_circuits::circuit::padding::{CircuitPadding, CircuitPaddingConfig};
use hushswarm_circuits::frame::Pool;
use hushswarm_circuits::keys::IdentityKey;
use hushswarm_circuits::lookup::{Answer, MAX_ANSWER};
use hushswarm_circuits::path::ExitNeed;
use hushswarm_circuits::relay_list::Descriptor;
use hushswarm_circuits::rendezvous::wire::encode_introduce;
use hushswarm_circuits::rendezvous::{Cookie, Establish, IntroductionId, Status};
use hushswarm_circuits::switch::{Link, OpenError, OriginCircuit, OriginHandler};
use hushswarm_circuits::target::{Host, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stream::{CircuitDatagrams, CircuitStream};

/// Which direction of a stream a task waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Read,
    Write,
}

#[derive(Default)]
struct Stream {
    opened: Option<OpenStatus>,
    opener: Option<Waker>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

enum Build {
    Building,
    Ready,
    Closed(CloseReason),
}

struct Shared {
    build: Build,
    builder: Option<Waker>,
    streams: HashMap<u32, Stream>,
    /// When a stream was first opened, and when the last one ended.
    used: Option<Instant>,
    idle: Instant,
}

/// Takes the events of one circuit and wakes whom they concern.
struct Events(Mutex<Shared>);

/// A circuit of ours.
pub struct Circuit {
    origin: Arc<OriginCircuit>,
    events: Arc<Events>,
    path: Vec<Arc<Descriptor>>,
    pool: Pool,
    retired: AtomicBool,
    /// Once it is built.
    padding: Mutex<Option<CircuitPadding>>,
}

/// A stream was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFailure {
    /// The exit said so.
    Status(OpenStatus),
    /// The exit did not answer in time.
    TimedOut,
    /// The circuit is gone or full.
    CircuitLost,
}

/// What is asked of an introduction point or a rendezvous point (PROTOCOL.md §8).
#[derive(Clone, Copy)]
pub enum Meet<'a> {
    /// To be the introduction point of this key, as long as the stream is open.
    Introduction(&'a IdentityKey),
    /// To hand this message to whoever has that key. It may ask for work first.
    Introduce(&'a IntroductionId, &'a [u8]),
    /// To wait with this cookie. A second status says that somebody has joined; then bytes flow.
    Wait(&'a Cookie),
    /// To join who waits with this cookie. Bytes flow then.
    Join(&'a Cookie),
}

impl std::fmt::Debug for Meet<'_> {
    /// Which, never with whom.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Introduction(_) => "Introduction",
            Self::Introduce(..) => "Introduce",
            Self::Wait(_) => "Wait",
            Self::Join(_) => "Join",
        })
    }
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OriginHandler for Events {
    fn event(&self, event: OriginEvent) {
        let mut shared = self.lock();
        let mut wake: Vec<Waker> = Vec::new();
        match event {
            OriginEvent::Ready { .. } => {
                shared.build = Build::Ready;
                wake.extend(shared.builder.take());
            }
            OriginEvent::Closed(reason) => {
                shared.build = Build::Closed(reason);
                wake.extend(shared.builder.take());
                for stream in shared.streams.values_mut() {
                    wake.extend(stream.opener.take());
                    wake.extend(stream.reader.take());
                    wake.extend(stream.writer.take());
                }
            }
            OriginEvent::Mux(event) => {
                let (id, side) = match event {
                    MuxEvent::Opened { stream, status } => {
                        if let Some(stream) = shared.streams.get_mut(&stream) {
                            stream.opened = Some(status);
                            wake.extend(stream.opener.take());
                        }
                        (stream, None)
                    }
                    MuxEvent::Readable { stream } => (stream, Some(Side::Read)),
                    MuxEvent::Writable { stream } => (stream, Some(Side::Write)),
                    MuxEvent::Open { .. } | MuxEvent::Extend(_) | MuxEvent::Extended(_) => return,
                };
                if let Some(stream) = shared.streams.get_mut(&id) {
                    wake.extend(match side {
                        Some(Side::Read) => stream.reader.take(),
                        Some(Side::Write) => stream.writer.take(),
                        None => None,
                    });
                }
            }
        }
        drop(shared);
        wake.into_iter().for_each(Waker::wake);
    }
}

impl Circuit {
    /// Begins to build a circuit over the link to the first hop of `path`.
    pub(super) fn open(
        link: &Arc<Link>,
        path: Vec<Arc<Descriptor>>,
        origin: Origin,
    ) -> Result<Arc<Self>, OpenError> {
        let events = Arc::new(Events(Mutex::new(Shared {
            build: Build::Building,
            builder: None,
            streams: HashMap::new(),
            used: None,
            idle: Instant::now(),
        })));
        let handler = Arc::clone(&events) as Arc<dyn OriginHandler>;
        let origin = link.open_origin(origin, handler, &mut rand::rng())?;
        let pool = link.pool().clone();
        Ok(Arc::new(Self {
            origin,
            events,
            path,
            pool,
            retired: AtomicBool::new(false),
            padding: Mutex::default(),
        }))
    }

    pub(super) fn with<R>(&self, act: impl FnOnce(&mut Origin) -> R) -> R {
        self.origin.with(act)
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A number for logs, unique in this process.
    pub fn number(&self) -> u64 {
        self.origin.number()
    }

    /// The relays, guard first.
    pub fn path(&self) -> &[Arc<Descriptor>] {
        &self.path
    }

    /// Whether the circuit has ended.
    pub fn is_closed(&self) -> bool {
        matches!(self.events.lock().build, Build::Closed(_))
    }

    /// Whether new streams may still be put into it.
    pub(super) fn is_usable(&self, dirty_after: Duration) -> bool {
        let shared = self.events.lock();
        let fresh = shared.used.is_none_or(|used| used.elapsed() < dirty_after);
        matches!(shared.build, Build::Ready) && fresh && !self.retired.load(Ordering::Relaxed)
    }

    /// Takes no new streams from now on, and ends with the last that is open.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// How long no stream has been open in it; `None` while one is.
    pub(super) fn idle(&self) -> Option<Duration> {
        let shared = self.events.lock();
        shared.streams.is_empty().then(|| shared.idle.elapsed())
    }

    /// Whether its last relay offers this.
    pub(super) fn offers(&self, need: ExitNeed) -> bool {
        let last = self.path.last();
        last.is_some_and(|relay| need.is_met_by(relay))
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.origin.deadline()
    }

    pub(super) fn expire(&self, now: Instant) {
        self.origin.expire(now);
    }

    /// Plans DROP cells for a circuit that is built now.
    pub(super) fn start_padding(&self, config: &CircuitPaddingConfig, now: Instant) {
        let padding = CircuitPadding::new(config, now, &mut rand::rng());
        *self.padding() = Some(padding);
    }

    /// Sends the DROP cells that are due.
    pub(super) fn pad(&self, now: Instant) {
        let mut padding = self.padding();
        let Some(padding) = padding.as_mut().filter(|_| !self.is_closed()) else {
            return;
        };
        let is_due = |padding: &CircuitPadding| padding.poll_timeout().is_some_and(|at| at <= now);
        if !is_due(padding) {
            return;
        }
        self.with(|origin| {
            while is_due(padding) {
                let hop = padding.handle_timeout(now, origin.hops(), &mut rand::rng());
                hop.into_iter().for_each(|hop| origin.send_drop(hop));
            }
        });
    }

    fn padding(&self) -> MutexGuard<'_, Option<CircuitPadding>> {
        self.padding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the circuit is built.
    pub(super) async fn built(&self) -> Result<(), CloseReason> {
        std::future::poll_fn(|cx| {
            let mut shared = self.events.lock();
            match &shared.build {
                Build::Ready => Poll::Ready(Ok(())),
                Build::Closed(reason) => Poll::Ready(Err(*reason)),
                Build::Building => {
                    shared.builder = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Ends the circuit.
    pub fn close(&self) {
        self.origin.close(DestroyReason::Finished);
    }

    pub(super) fn register(&self, stream: u32, side: Side, waker: &Waker) {
        let mut shared = self.events.lock();
        if let Some(stream) = shared.streams.get_mut(&stream) {
            let slot = match side {
                Side::Read => &mut stream.reader,
                Side::Write => &mut stream.writer,
            };
            match slot {
                Some(held) => held.clone_from(waker),
                None => *slot = Some(waker.clone()),
            }
        }
    }

    /// Forgets a stream that both sides have ended: what is queued for the exit still leaves.
    pub(super) fn leave_stream(&self, id: u32) {
        let mut shared = self.events.lock();
        shared.streams.remove(&id);
        shared.idle = Instant::now();
    }

    /// Resets a stream.
    pub(super) fn end_stream(&self, id: u32) {
        self.leave_stream(id);
        self.with(|origin| origin.mux().reset(id, EndReason::Reset));
    }

    async fn open_stream(
        self: &Arc<Self>,
        kind: OpenKind,
        target: Option<&Target>,
        limit: Duration,
    ) -> Result<u32, StreamFailure> {
        let id = self.begin_stream(kind, target)?;
        self.await_opened(id, limit).await
    }

    /// Asks for a stream; what is sent in it now leaves with the question.
    fn begin_stream(
        self: &Arc<Self>,
        kind: OpenKind,
        target: Option<&Target>,
    ) -> Result<u32, StreamFailure> {
        let opened = self.with(|origin| {
            let id = origin.mux().open(kind, target.cloned());
            if let Ok(id) = id {
                // Before the cell can leave, so that no answer is missed.
                let mut shared = self.events.lock();
                shared.streams.insert(id, Stream::default());
                shared.used.get_or_insert_with(Instant::now);
            }
            id
        });
        opened.map_err(|_| StreamFailure::CircuitLost)
    }

    async fn await_opened(
        self: &Arc<Self>,
        id: u32,
        limit: Duration,
    ) -> Result<u32, StreamFailure> {
        let answered = std::future::poll_fn(|cx| {
            let mut shared = self.events.lock();
            if matches!(shared.build, Build::Closed(_)) {
                return Poll::Ready(Err(StreamFailure::CircuitLost));
            }
            match shared.streams.get_mut(&id) {
                None => Poll::Ready(Err(StreamFailure::CircuitLost)),
                Some(Stream {
                    opened: Some(OpenStatus::Open),
                    ..
                }) => Poll::Ready(Ok(id)),
                Some(Stream {
                    opened: Some(status),
                    ..
                }) => Poll::Ready(Err(StreamFailure::Status(*status))),
                Some(stream) => {
                    stream.opener = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        });
        // Whatever happens to this future, the stream is not left behind.
        let mut guard = EndOnDrop {
            circuit: self,
            id,
            armed: true,
        };
        let id = tokio::time::timeout(limit, answered)
            .await
            .unwrap_or(Err(StreamFailure::TimedOut))?;
        guard.armed = false;
        Ok(id)
    }

    /// Opens a byte stream to a target.
    ///
    /// # Errors
    /// As the failure says: another circuit may do.
    pub async fn connect(
        self: &Arc<Self>,
        target: &Target,
        limit: Duration,
    ) -> Result<CircuitStream, StreamFailure> {
        let id = self.open_stream(OpenKind::Tcp, Some(target), limit).await?;
        Ok(CircuitStream::new(Arc::clone(self), id))
    }

    /// Opens a datagram flow.
    ///
    /// # Errors
    /// As the failure says: another circuit may do.
    pub async fn datagrams(
        self: &Arc<Self>,
        limit: Duration,
    ) -> Result<CircuitDatagrams, StreamFailure> {
        let id = self.open_stream(OpenKind::Datagrams, None, limit).await?;
        Ok(CircuitDatagrams::new(Arc::clone(self), id))
    }

    /// Looks up the addresses of a name, or the name of an address, at the last hop.
    ///
    /// # Errors
    /// As the failure says: another circuit may do.
    pub async fn look_up(
        self: &Arc<Self>,
        host: &Host,
        limit: Duration,
    ) -> Result<Answer, StreamFailure> {
        let kind = match host {
            Host::Name(_) => OpenKind::Resolve,
            Host::Ip(_) => OpenKind::ResolvePtr,
        };
        let target = Target {
            host: host.clone(),
            port: 0,
        };
        let looked_up = async {
            let id = self.open_stream(kind, Some(&target), limit).await?;
            let stream = CircuitStream::new(Arc::clone(self), id);
            let mut bytes = Vec::new();
            // One byte more than there may be, so that a longer answer is seen.
            let mut stream = stream.take(MAX_ANSWER as u64 + 1);
            let read = stream.read_to_end(&mut bytes).await;
            read.map_err(|_| StreamFailure::CircuitLost)?;
            // An exit that breaks the protocol is as good as gone.
            Answer::decode(&bytes).map_err(|_| StreamFailure::CircuitLost)
        };
        tokio::time::timeout(limit, looked_up)
            .await
            .unwrap_or(Err(StreamFailure::TimedOut))
    }

    /// Opens a stream in which the last hop is asked to look something up in the DHT (PROTOCOL.md §5.8).
    ///
    /// # Errors
    /// As the failure says: another circuit may do.
    pub async fn dht(
        self: &Arc<Self>,
        request: &[u8],
        limit: Duration,
    ) -> Result<CircuitStream, StreamFailure> {
        let id = self.begin_stream(OpenKind::Dht, None)?;
        let mut stream = CircuitStream::new(Arc::clone(self), id);
        // Without waiting for the answer to OPEN (§5.2): that would cost a whole round trip.
        if !request.is_empty() && !stream.send_all(request) {
            return Err(StreamFailure::CircuitLost);
        }
        self.await_opened(id, limit).await?;
        Ok(stream)
    }

    /// Asks the last hop for a meeting; gives the stream and what it said first (PROTOCOL.md §8).
    ///
    /// # Errors
    /// As the failure says: another circuit may do.
    pub async fn meet(
        self: &Arc<Self>,
        meet: Meet<'_>,
        limit: Duration,
    ) -> Result<(CircuitStream, Status), StreamFailure> {
        let (kind, request) = match meet {
            Meet::Introduction(key) => {
                let binding = self.with(|origin| origin.binding().cloned());
                let binding = binding.ok_or(StreamFailure::CircuitLost)?;
                let request = Establish::sign(key, &binding).encode().to_vec();
                (OpenKind::IntroductionPoint, request)
            }
            Meet::Introduce(key, message) => {
                let request = encode_introduce(key, message);
                // A message that is too long is refused, as the relay would.
                let refused = StreamFailure::Status(OpenStatus::Refused);
                (OpenKind::Introduce, request.map_err(|_| refused)?)
            }
            Meet::Wait(cookie) => (OpenKind::RendezvousWait, cookie.0.to_vec()),
            Meet::Join(cookie) => (OpenKind::RendezvousJoin, cookie.0.to_vec()),
        };
        self.ask(kind, &request, limit).await
    }

    /// Opens a stream of this kind, which has no target, with a request; gives it and the status that comes first.
    ///
    /// # Errors
    /// As the failure says: another circuit may do.
    pub async fn ask(
        self: &Arc<Self>,
        kind: OpenKind,
        request: &[u8],
        limit: Duration,
    ) -> Result<(CircuitStream, Status), StreamFailure> {
        let met = async {
            let id = self.open_stream(kind, None, limit).await?;
            let mut stream = CircuitStream::new(Arc::clone(self), id);
            let asked = async {
                stream.write_all(request).await?;
                stream.read_u8().await
            };
            // A relay that breaks the protocol is as good as gone.
            let status = asked.await.map_err(|_| StreamFailure::CircuitLost)?;
            let status = Status::from_wire(status).map_err(|_| StreamFailure::CircuitLost)?;
            Ok((stream, status))
        };
        tokio::time::timeout(limit, met)
            .await
            .unwrap_or(Err(StreamFailure::TimedOut))
    }

    /// Opens the last hop's copy of the signed relay list.
    ///
    /// # Errors
    /// As the failure says: another circuit may do.
    pub async fn relay_list(
        self: &Arc<Self>,
        limit: Duration,
    ) -> Result<CircuitStream, StreamFailure> {
        let id = self.open_stream(OpenKind::RelayList, None, limit).await?;
        Ok(CircuitStream::new(Arc::clone(self), id))
    }
}

struct EndOnDrop<'a> {
    circuit: &'a Circuit,
    id: u32,
    armed: bool,
}

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.circuit.end_stream(self.id);
        }
    }
}

impl Drop for Circuit {
    fn drop(&mut self) {
        self.close();
    }
}
