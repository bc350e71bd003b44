//! What a program in a jail sends past its proxies is caught and carried the same way: TCP connections and datagrams to
//! any address, and questions to any resolver.
//!
//! The kernel has accepted a caught connection before its target was asked, so a program sees every connection come about;
//! one that can't be opened is reset before the first byte. A refused port, an unknown name and a time-out look the same to
//! it: `ECONNRESET`.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::Target;
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::debug;

use super::dns::{Decision, Resolver};
use super::flows::{Counts, Flows, Replies, is_deliverable};
use crate::net::os::{Accepted, CaughtUdp, LocalListener};
use crate::net::{BoxStream, ByteStream};
use crate::route::Outside;
use crate::route::carry::{Buffers, carry};

/// Caught connections at once. More wait in the kernel until one has ended, as they would for a busy network.
pub const MAX_CONNECTIONS: usize = 1024;
/// What a program sends before its connection is open is kept up to here, bytes: a TLS client's first flight.
const MAX_EARLY: usize = 16 * 1024;
/// Reverse lookups that caught questions wait for; the resolver has its own limit.
const MAX_QUESTIONS: usize = 32;
/// How long to wait when no connection can be accepted, which is mostly for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(200);
/// Where questions go.
const DNS_PORT: u16 = 53;
/// The longest UDP payload, bytes.
const MAX_DATAGRAM: usize = 65_535;

/// Carries what is caught in one jail.
pub struct Catcher {
    outside: Arc<dyn Outside>,
    resolver: Arc<Resolver>,
    isolation: Isolation,
    /// The jail's own addresses. Programs can bind foreign ones too, but are not answered there.
    own: Vec<IpAddr>,
    flows: Mutex<Flows>,
    replies: Arc<dyn Replies>,
    counts: Arc<Counts>,
    connections: Semaphore,
    buffers: Buffers,
}

impl Catcher {
    /// Carries through `outside`, which knows the jail's names, and answers questions by `resolver`. `own` are the
    /// addresses that programs inside send from.
    pub fn new(
        outside: Arc<dyn Outside>,
        resolver: Arc<Resolver>,
        isolation: Isolation,
        own: Vec<IpAddr>,
        replies: Arc<dyn Replies>,
    ) -> Arc<Self> {
        let counts = Arc::new(Counts::default());
        let flows = Flows::new(
            Arc::clone(&outside),
            isolation,
            Arc::clone(&replies),
            Arc::clone(&counts),
        );
        Arc::new(Self {
            outside,
            resolver,
            isolation,
            own,
            flows: Mutex::new(flows),
            replies,
            counts,
            connections: Semaphore::new(MAX_CONNECTIONS),
            buffers: Buffers::default(),
        })
    }

    /// What became of datagrams that were not carried.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Serves a transparent listener until the future is dropped.
    pub async fn serve_tcp(self: Arc<Self>, listener: LocalListener) {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let catcher = Arc::clone(&self);
            // It is never closed.
            let Ok(place) = self.connections.acquire().await else {
                return;
            };
            match listener.accept().await {
                Ok(accepted) => {
                    place.forget();
                    connections.spawn(async move {
                        let _place = Place(&catcher.connections);
                        catcher.connection(accepted).await;
                    });
                }
                Err(error) => {
                    debug!(kind = %error.kind(), "no connection accepted");
                    drop(place);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn connection(&self, accepted: Accepted) {
        let Accepted {
            stream: mut near,
            from,
            to,
        } = accepted;
        let own = from.is_some_and(|from| self.is_own(from.ip()));
        let to = to.map(|to| SocketAddr::new(to.ip().to_canonical(), to.port()));
        match to {
            Some(to) if own && to.port() == DNS_PORT => self.resolver.serve_stream(near).await,
            Some(to) if own && is_deliverable(to) => {
                match self.open(&mut near, &Target::ip(to)).await {
                    Some((far, early)) => {
                        let carried = carry(near, far, early, &self.buffers).await;
                        debug!(ok = carried.is_ok(), "caught stream ended");
                    }
                    None => near.reset_on_drop(),
                }
            }
            _ => near.reset_on_drop(),
        }
    }

    /// Opens the far end, and keeps what the program says meanwhile. Nothing where that failed or the program left.
    async fn open(&self, near: &mut BoxStream, to: &Target) -> Option<(BoxStream, Vec<u8>)> {
        let mut far = pin!(self.outside.connect(to, self.isolation));
        let mut early = Vec::new();
        let mut listening = true;
        loop {
            tokio::select! {
                biased;
                opened = &mut far => return match opened {
                    Ok(far) => Some((far, early)),
                    Err(error) => {
                        debug!(%error, "caught stream not opened");
                        None
                    }
                },
                read = near.read_buf(&mut early), if listening => match read {
                    // An end may be half of a close only: the answer is still wanted.
                    Ok(n) => listening = n > 0 && early.len() < MAX_EARLY,
                    Err(_) => return None,
                },
            }
        }
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_loopback() || self.own.contains(&ip)
    }

    /// Serves a transparent socket until the future is dropped.
    pub async fn serve_udp(self: Arc<Self>, socket: CaughtUdp) {
        let mut questions = JoinSet::new();
        let mut buf = vec![0; MAX_DATAGRAM];
        loop {
            let Ok(caught) = socket.recv(&mut buf).await else {
                tokio::task::yield_now().await;
                continue;
            };
            let payload = &buf[..caught.len];
            while questions.try_join_next().is_some() {}
            if !self.is_own(caught.from.ip()) {
                self.counts.count_refused();
            } else if caught.to.port() == DNS_PORT {
                self.question(caught.from, caught.to, payload, &mut questions);
            } else {
                let flows = self.flows.lock();
                let mut flows = flows.unwrap_or_else(PoisonError::into_inner);
                flows.take(caught.from, caught.to, payload);
            }
        }
    }

    /// Answers a question as if by the resolver that it was sent to.
    fn question(
        self: &Arc<Self>,
        from: SocketAddr,
        to: SocketAddr,
        query: &[u8],
        questions: &mut JoinSet<()>,
    ) {
        match self.resolver.decide(query) {
            Decision::Drop => {}
            // Lost, as datagrams are, where the program's buffer is full.
            Decision::Answer(bytes) => drop(self.replies.send(to, from, &bytes)),
            Decision::WhoIs(_) if questions.len() < MAX_QUESTIONS => {
                let (catcher, query) = (Arc::clone(self), query.to_vec());
                questions.spawn(async move {
                    if let Some(bytes) = catcher.resolver.answer(&query).await {
                        drop(catcher.replies.send(to, from, &bytes));
                    }
                });
            }
            Decision::WhoIs(_) => {}
        }
    }
}

/// A place among the connections, given back.
struct Place<'a>(&'a Semaphore);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}
