//! A world in memory for the tests of this module: it notes what is sent to it, and says what the test wants.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::{HostName, Target};
use tokio::io::{DuplexStream, duplex};
use tokio::sync::{Notify, mpsc};

use super::flows::Replies;
use crate::net::{BoxFuture, BoxStream, Datagrams};
use crate::route::{Outside, RouteError};

/// A datagram, and who sent it or whom it is for.
pub(super) type Datagram = (Target, Vec<u8>);

pub(super) fn isolation() -> Isolation {
    Isolation::new("jail", b"test", 0)
}

pub(super) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(super) fn target(text: &str) -> Target {
    let (host, port) = text.rsplit_once(':').unwrap();
    Target::parse(host, port.parse().unwrap()).unwrap()
}

#[derive(Default)]
pub(super) struct World {
    /// What was sent in which flow.
    pub(super) sent: Mutex<Vec<(usize, Datagram)>>,
    /// Ways into the flows; taking one away breaks the flow.
    pub(super) flows: Mutex<Vec<Option<mpsc::Sender<Datagram>>>>,
    /// The far ends of connections.
    pub(super) streams: Mutex<Vec<(Target, DuplexStream)>>,
    pub(super) names: Mutex<HashMap<String, Vec<IpAddr>>>,
    pub(super) looked_up: AtomicUsize,
    /// Flows and connections are refused.
    pub(super) closed: AtomicBool,
    /// They wait for `go`.
    pub(super) slow: AtomicBool,
    pub(super) go: Notify,
    /// Something has happened.
    pub(super) news: Notify,
}

impl World {
    /// Waits until something is so.
    pub(super) async fn until<T>(&self, look: impl Fn(&Self) -> Option<T>) -> T {
        loop {
            let news = self.news.notified();
            if let Some(found) = look(self) {
                return found;
            }
            news.await;
        }
    }

    pub(super) async fn until_sent(&self, count: usize) -> Vec<(usize, Datagram)> {
        self.until(|world| {
            let sent = world.sent.lock().unwrap();
            (sent.len() >= count).then(|| sent.clone())
        })
        .await
    }

    pub(super) async fn answer(&self, flow: usize, from: Target, payload: &[u8]) {
        let way = self.flows.lock().unwrap()[flow].clone().unwrap();
        way.send((from, payload.to_vec())).await.unwrap();
    }

    async fn may_open(&self) -> Result<(), RouteError> {
        if self.slow.load(Ordering::SeqCst) {
            self.go.notified().await;
        }
        if self.closed.load(Ordering::SeqCst) {
            return Err(RouteError::Unreachable);
        }
        Ok(())
    }
}

pub(super) struct Handle(pub(super) Arc<World>);

struct Flow {
    number: usize,
    world: Arc<World>,
    came: tokio::sync::Mutex<mpsc::Receiver<Datagram>>,
}

impl Datagrams for Flow {
    fn send(&self, to: &Target, payload: &[u8]) -> io::Result<()> {
        if self.world.flows.lock().unwrap()[self.number].is_none() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let sent = (self.number, (to.clone(), payload.to_vec()));
        self.world.sent.lock().unwrap().push(sent);
        self.world.news.notify_waiters();
        Ok(())
    }

    fn recv(&self) -> BoxFuture<'_, io::Result<Datagram>> {
        Box::pin(async {
            let came = self.came.lock().await.recv().await;
            came.ok_or(io::ErrorKind::ConnectionAborted.into())
        })
    }
}

impl Outside for Handle {
    fn connect<'a>(
        &'a self,
        target: &'a Target,
        _: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        Box::pin(async move {
            self.0.may_open().await?;
            let (near, far) = duplex(1 << 16);
            self.0.streams.lock().unwrap().push((target.clone(), far));
            self.0.news.notify_waiters();
            Ok(Box::new(near) as BoxStream)
        })
    }

    fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        Box::pin(async {
            self.0.may_open().await?;
            let (way, came) = mpsc::channel(1024);
            let mut flows = self.0.flows.lock().unwrap();
            let number = flows.len();
            flows.push(Some(way));
            self.0.news.notify_waiters();
            Ok(Box::new(Flow {
                number,
                world: Arc::clone(&self.0),
                came: tokio::sync::Mutex::new(came),
            }) as Box<dyn Datagrams>)
        })
    }

    fn resolve<'a>(
        &'a self,
        name: &'a HostName,
        _: Isolation,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, RouteError>> {
        self.0.looked_up.fetch_add(1, Ordering::SeqCst);
        let found = self.0.names.lock().unwrap().get(name.as_str()).cloned();
        self.0.news.notify_waiters();
        Box::pin(async { found.ok_or(RouteError::Refused) })
    }
}

/// Replies as they would reach programs.
pub(super) struct Told(pub(super) mpsc::Sender<(SocketAddr, SocketAddr, Vec<u8>)>);

impl Replies for Told {
    fn send(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> io::Result<()> {
        let told = self.0.try_send((from, to, payload.to_vec()));
        told.map_err(|_| io::ErrorKind::WouldBlock.into())
    }
}
