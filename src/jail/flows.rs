//! Datagrams of a program in a jail: one flow for each of its sockets, so that everybody in the world sees one and the same
//! far end of a socket, whomever it speaks to (endpoint-independent mapping, RFC 4787 REQ-1), which DHT and uTP rely on.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::Target;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::debug;

use crate::net::Datagrams;
use crate::route::Outside;

/// A flow without a datagram in either direction ends after this time (RFC 4787 REQ-5: not before two minutes).
pub const IDLE: Duration = Duration::from_secs(180);
/// Flows at once: sockets that a program speaks to the world with. The one that was idle for longest goes first.
pub const MAX_FLOWS: usize = 256;
/// The longest payload that is carried, bytes: what fits a cell beside its address and length (PROTOCOL.md, DGRAM), whatever
/// the address. Longer ones are lost, as beyond the smallest packet on their way.
pub const MAX_PAYLOAD: usize = 3970;
/// Datagrams that wait in one flow, for instance while it opens.
const MAX_WAITING: usize = 64;
/// Bytes that wait in all flows, 8 MiB.
const MAX_WAITING_BYTES: usize = 8 << 20;
/// How long to wait before a flow that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(3);

/// Takes datagrams back into the jail.
pub trait Replies: Send + Sync + 'static {
    /// Sends a datagram to a program's socket as if it came `from` somebody in the world.
    ///
    /// # Errors
    /// It is lost, as datagrams are.
    fn send(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> io::Result<()>;
}

#[cfg(target_os = "linux")]
impl Replies for crate::net::os::RawReplies {
    fn send(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> io::Result<()> {
        Self::send(self, from, to, payload)
    }
}

/// What became of datagrams that were not carried.
#[derive(Debug, Default)]
pub struct Counts {
    refused: AtomicU64,
    lost: AtomicU64,
}

impl Counts {
    /// Datagrams to where nothing may go: multicast, broadcast, loopback, link-local, nobody.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Datagrams that were too many or too long.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn count_lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether something can be sent to an address at all, from behind a network's edge. What is more than this, the routing
/// policy judges.
pub fn is_deliverable(to: SocketAddr) -> bool {
    let reachable = match to.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let nowhere = ip.octets()[0] == 0 || ip.octets()[0] >= 224;
            !(nowhere || ip.is_loopback() || ip.is_link_local())
        }
        IpAddr::V6(ip) => {
            !(ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_multicast()
                || ip.is_unicast_link_local())
        }
    };
    reachable && to.port() != 0
}

struct Waiting {
    to: Target,
    payload: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

struct Flow {
    queue: mpsc::Sender<Waiting>,
    used: Used,
    task: AbortHandle,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// When something was last carried, milliseconds after a beginning that all flows share.
#[derive(Clone)]
struct Used {
    begun: Instant,
    at: Arc<AtomicU64>,
}

impl Used {
    fn note(&self) {
        let at = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.at.store(at, Ordering::Relaxed);
    }

    fn at(&self) -> Instant {
        self.begun + Duration::from_millis(self.at.load(Ordering::Relaxed))
    }
}

/// The flows of one jail, by the program's socket. All end when this is dropped.
pub struct Flows {
    outside: Arc<dyn Outside>,
    isolation: Isolation,
    replies: Arc<dyn Replies>,
    flows: HashMap<SocketAddr, Flow>,
    room: Arc<Semaphore>,
    counts: Arc<Counts>,
    begun: Instant,
}

impl Flows {
    /// No flows yet. They are opened by `outside`, and what comes back goes to `replies`.
    pub fn new(
        outside: Arc<dyn Outside>,
        isolation: Isolation,
        replies: Arc<dyn Replies>,
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            outside,
            isolation,
            replies,
            flows: HashMap::new(),
            room: Arc::new(Semaphore::new(MAX_WAITING_BYTES)),
            counts,
            begun: Instant::now(),
        }
    }

    /// How many flows there are, besides those that have ended unnoticed.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Takes a datagram of the socket `from`. What can't be carried is dropped and counted.
    pub fn take(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        if !is_deliverable(to) {
            self.counts.count_refused();
            return;
        }
        let size = u32::try_from(payload.len()).ok();
        let size = size.filter(|_| payload.len() <= MAX_PAYLOAD);
        let room = size.and_then(|size| {
            // Also an empty one takes some memory.
            let room = Arc::clone(&self.room);
            room.try_acquire_many_owned(size.max(1)).ok()
        });
        let Some(room) = room else {
            self.counts.count_lost();
            return;
        };
        let waiting = Waiting {
            to: Target::ip(to),
            payload: payload.to_vec(),
            _room: room,
        };
        let refused = match self.flows.get(&from) {
            Some(flow) => flow.queue.try_send(waiting),
            None => Err(mpsc::error::TrySendError::Closed(waiting)),
        };
        match refused {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => self.counts.count_lost(),
            Err(mpsc::error::TrySendError::Closed(waiting)) => {
                let flow = self.open(from);
                // It is empty.
                let _ = flow.queue.try_send(waiting);
            }
        }
    }

    fn open(&mut self, from: SocketAddr) -> &Flow {
        if self.flows.len() >= MAX_FLOWS {
            self.flows.retain(|_, flow| !flow.queue.is_closed());
        }
        if self.flows.len() >= MAX_FLOWS {
            let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.used.at());
            if let Some(oldest) = oldest.map(|(from, _)| *from) {
                self.flows.remove(&oldest);
            }
        }
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        let used = Used {
            begun: self.begun,
            at: Arc::default(),
        };
        used.note();
        let work = Work {
            program: from,
            outside: Arc::clone(&self.outside),
            isolation: self.isolation,
            replies: Arc::clone(&self.replies),
            used: used.clone(),
        };
        let task = tokio::spawn(work.run(waiting)).abort_handle();
        let flow = Flow { queue, used, task };
        self.flows.insert(from, flow);
        &self.flows[&from]
    }
}

struct Work {
    program: SocketAddr,
    outside: Arc<dyn Outside>,
    isolation: Isolation,
    replies: Arc<dyn Replies>,
    used: Used,
}

/// Why a flow's far end is done with.
enum Over {
    Idle,
    Broken,
}

impl Work {
    async fn run(self, mut queue: mpsc::Receiver<Waiting>) {
        // With the first datagram, and again when a circuit has broken and there is more to send.
        while let Ok(Some(first)) = tokio::time::timeout(IDLE, queue.recv()).await {
            match self.outside.datagrams(self.isolation).await {
                Ok(far) => match self.carry(first, far, &mut queue).await {
                    Over::Idle => return,
                    Over::Broken => debug!("datagram flow broke"),
                },
                Err(error) => {
                    debug!(%error, "no datagram flow");
                    // What has waited so long is stale; the program sends again.
                    while queue.try_recv().is_ok() {}
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn carry(
        &self,
        first: Waiting,
        far: Box<dyn Datagrams>,
        queue: &mut mpsc::Receiver<Waiting>,
    ) -> Over {
        if !self.send(&*far, &first) {
            return Over::Broken;
        }
        drop(first);
        let idle = tokio::time::sleep_until(self.used.at() + IDLE);
        let mut idle = std::pin::pin!(idle);
        loop {
            tokio::select! {
                waiting = queue.recv() => match waiting {
                    Some(waiting) if self.send(&*far, &waiting) => {}
                    Some(_) => return Over::Broken,
                    None => return Over::Idle,
                },
                came = far.recv() => {
                    let Ok((from, payload)) = came else {
                        return Over::Broken;
                    };
                    self.used.note();
                    if let Some(from) = from.socket_addr() {
                        // The program's socket may be gone or its buffer full: lost, as datagrams are.
                        let _ = self.replies.send(from, self.program, &payload);
                    }
                }
                () = &mut idle => {
                    let end = self.used.at() + IDLE;
                    if end <= Instant::now() {
                        return Over::Idle;
                    }
                    idle.as_mut().reset(end);
                }
            }
        }
    }

    /// Whether the flow goes on.
    fn send(&self, far: &dyn Datagrams, waiting: &Waiting) -> bool {
        self.used.note();
        match far.send(&waiting.to, &waiting.payload) {
            Ok(()) => true,
            // Too long for a cell: this one alone is lost.
            Err(error) => error.kind() == io::ErrorKind::InvalidInput,
        }
    }
}

#[cfg(test)]
mod tests;
