//! The way out of a jail that knows its virtual addresses: what goes to one goes to the name that it stands for, and what
//! that name answers comes from the virtual address.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::{Host, HostName, Target};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;

use super::names::{Held, SharedNames, is_virtual};
use crate::net::{BoxFuture, BoxStream, ByteStream, Datagrams};
use crate::route::{Outside, RouteError};

/// Names that one datagram flow speaks to at once. A client has some dozens of UDP trackers.
const MAX_NAMED: usize = 256;
/// Addresses of one name that its answers are known by.
const MAX_ADDRESSES: usize = 8;
/// Addresses that a flow has spoken to by address, the latest ones: an answer of theirs is never taken for a name's.
const MAX_PLAIN: usize = 1024;
/// Lookups at once, over all flows: each is a stream's worth of work for the exit.
const MAX_LOOKUPS: usize = 32;
/// A name that does not answer is looked up again after this time: it may have moved.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Reaches what is meant by virtual addresses.
#[derive(Clone)]
pub struct Renamed {
    outside: Arc<dyn Outside>,
    names: SharedNames,
    lookups: Arc<Semaphore>,
}

impl Renamed {
    /// Goes by `outside`, with the names of one jail.
    pub fn new(outside: Arc<dyn Outside>, names: SharedNames) -> Self {
        Self {
            outside,
            names,
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
        }
    }
}

impl Outside for Renamed {
    fn connect<'a>(
        &'a self,
        target: &'a Target,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        Box::pin(async move {
            let (target, held) = self.names.hold(target).map_err(|_| RouteError::Refused)?;
            let stream = self.outside.connect(&target, isolation).await?;
            Ok(Box::new(Named {
                stream,
                _held: held,
            }) as BoxStream)
        })
    }

    fn carries_datagrams(&self) -> bool {
        self.outside.carries_datagrams()
    }

    fn datagrams(
        &self,
        isolation: Isolation,
    ) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        Box::pin(async move {
            let flow = self.outside.datagrams(isolation).await?;
            Ok(Box::new(NamedDatagrams {
                flow,
                outside: Arc::clone(&self.outside),
                names: self.names.clone(),
                isolation,
                lookups: Arc::clone(&self.lookups),
                disguise: Arc::default(),
            }) as Box<dyn Datagrams>)
        })
    }

    fn resolve<'a>(
        &'a self,
        name: &'a HostName,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, RouteError>> {
        self.outside.resolve(name, isolation)
    }

    fn resolve_ptr(
        &self,
        ip: IpAddr,
        isolation: Isolation,
    ) -> BoxFuture<'_, Result<HostName, RouteError>> {
        if is_virtual(ip) {
            let found = self.names.name(ip).ok_or(RouteError::NameNotFound);
            return Box::pin(async { found });
        }
        self.outside.resolve_ptr(ip, isolation)
    }
}

/// A stream that keeps its name at its virtual address.
struct Named {
    stream: BoxStream,
    _held: Held,
}

impl ByteStream for Named {
    fn reset_on_drop(&mut self) {
        self.stream.reset_on_drop();
    }
}

impl AsyncRead for Named {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Named {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What one flow knows of the names that it speaks to. Pure, in virtual time.
#[derive(Default)]
struct Disguise {
    /// By virtual address.
    named: HashMap<SocketAddr, Peer>,
    /// Virtual address by the real one that answers.
    real: HashMap<SocketAddr, SocketAddr>,
    plain: HashSet<IpAddr>,
    plain_order: VecDeque<IpAddr>,
}

struct Peer {
    name: HostName,
    /// What its answers come from.
    addresses: Vec<SocketAddr>,
    looked_up: Instant,
    used: Instant,
    /// Nothing has come back since something was sent.
    waiting: bool,
}

impl Disguise {
    /// Notes a datagram to an address that is just that. What comes from there now answers this, also where a name has
    /// the same address, until the name is spoken to again.
    fn plain(&mut self, to: SocketAddr) {
        self.real.remove(&to);
        let ip = to.ip();
        if self.plain.insert(ip) {
            self.plain_order.push_back(ip);
            if self.plain_order.len() > MAX_PLAIN
                && let Some(oldest) = self.plain_order.pop_front()
            {
                self.plain.remove(&oldest);
            }
        }
    }

    /// Notes a datagram to a virtual address that now stands for `name`. Gives whether to look up whom its answers will
    /// come from.
    fn named(&mut self, now: Instant, to: SocketAddr, name: &HostName) -> bool {
        let known = self.named.get_mut(&to).filter(|peer| peer.name == *name);
        if let Some(peer) = known {
            peer.used = now;
            let again = peer.addresses.iter().map(|address| (*address, to));
            self.real.extend(again);
            let overdue = now.saturating_duration_since(peer.looked_up) >= LOOK_AGAIN;
            let again = std::mem::replace(&mut peer.waiting, true) && overdue;
            if again {
                peer.looked_up = now;
            }
            return again;
        }
        self.forget(to);
        if self.named.len() >= MAX_NAMED {
            let oldest = self.named.iter().min_by_key(|(_, peer)| peer.used);
            if let Some(oldest) = oldest.map(|(to, _)| *to) {
                self.forget(oldest);
            }
        }
        let peer = Peer {
            name: name.clone(),
            addresses: Vec::new(),
            looked_up: now,
            used: now,
            waiting: true,
        };
        self.named.insert(to, peer);
        true
    }

    fn forget(&mut self, to: SocketAddr) {
        if let Some(peer) = self.named.remove(&to) {
            self.unlink(to, peer.addresses);
        }
    }

    fn unlink(&mut self, to: SocketAddr, addresses: Vec<SocketAddr>) {
        for address in addresses {
            // Two names may have one address; it is then known by the one that learned it last.
            if self.real.get(&address) == Some(&to) {
                self.real.remove(&address);
            }
        }
    }

    /// Notes whom answers for a virtual address come from, besides whom they came from until now.
    fn learn(&mut self, to: SocketAddr, name: &HostName, found: impl Iterator<Item = IpAddr>) {
        let Some(peer) = self.named.get_mut(&to).filter(|peer| peer.name == *name) else {
            return;
        };
        let found = found.filter(|ip| !is_virtual(*ip)).map(|ip| {
            let ip = ip.to_canonical();
            SocketAddr::new(ip, to.port())
        });
        let mut addresses: Vec<SocketAddr> = found.take(MAX_ADDRESSES).collect();
        let former = std::mem::take(&mut peer.addresses).into_iter();
        let former: Vec<SocketAddr> = former.filter(|old| !addresses.contains(old)).collect();
        addresses.extend(former);
        let forgotten = addresses.split_off(MAX_ADDRESSES.min(addresses.len()));
        self.real
            .extend(addresses.iter().map(|address| (*address, to)));
        peer.addresses = addresses;
        self.unlink(to, forgotten);
    }

    /// Whom an answer appears to come from.
    fn apparent(&mut self, from: SocketAddr) -> SocketAddr {
        if let Some(&to) = self.real.get(&from) {
            if let Some(peer) = self.named.get_mut(&to) {
                peer.waiting = false;
            }
            return to;
        }
        if self.plain.contains(&from.ip()) {
            return from;
        }
        // The lookup failed or is not over, or the exit found another address. If one name alone is waited for at that
        // port, this is it.
        let mut waiting = self
            .named
            .iter_mut()
            .filter(|(to, peer)| to.port() == from.port() && peer.waiting);
        let (Some((&to, peer)), None) = (waiting.next(), waiting.next()) else {
            return from;
        };
        peer.waiting = false;
        let name = peer.name.clone();
        self.learn(to, &name, std::iter::once(from.ip()));
        to
    }
}

/// A flow whose program sees virtual addresses.
struct NamedDatagrams {
    flow: Box<dyn Datagrams>,
    outside: Arc<dyn Outside>,
    names: SharedNames,
    isolation: Isolation,
    lookups: Arc<Semaphore>,
    disguise: Arc<Mutex<Disguise>>,
}

fn lock(disguise: &Mutex<Disguise>) -> MutexGuard<'_, Disguise> {
    disguise.lock().unwrap_or_else(PoisonError::into_inner)
}

impl NamedDatagrams {
    fn look_up(&self, to: SocketAddr, name: HostName) {
        let (outside, isolation) = (Arc::clone(&self.outside), self.isolation);
        let disguise = Arc::downgrade(&self.disguise);
        // Without one, the next minute's datagram tries again.
        let Ok(place) = Arc::clone(&self.lookups).try_acquire_owned() else {
            return;
        };
        tokio::spawn(async move {
            let _place = place;
            if let Ok(found) = outside.resolve(&name, isolation).await
                && let Some(disguise) = disguise.upgrade()
            {
                lock(&disguise).learn(to, &name, found.into_iter());
            }
        });
    }
}

impl Datagrams for NamedDatagrams {
    fn send(&self, to: &Target, payload: &[u8]) -> io::Result<()> {
        let Some(addr) = to.socket_addr() else {
            return self.flow.send(to, payload);
        };
        if !is_virtual(addr.ip()) {
            let plain = SocketAddr::new(addr.ip().to_canonical(), addr.port());
            lock(&self.disguise).plain(plain);
            return self.flow.send(to, payload);
        }
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let Some(name) = self.names.name(addr.ip()) else {
            // To nobody: lost, as datagrams are.
            return Ok(());
        };
        let look_up = lock(&self.disguise).named(Instant::now(), addr, &name);
        // To the name every time: the routing policy judges each datagram, and has rules for names.
        let by_name = Target {
            host: Host::Name(name.clone()),
            port: addr.port(),
        };
        self.flow.send(&by_name, payload)?;
        if look_up {
            self.look_up(addr, name);
        }
        Ok(())
    }

    fn recv(&self) -> BoxFuture<'_, io::Result<(Target, Vec<u8>)>> {
        Box::pin(async move {
            loop {
                let (from, payload) = self.flow.recv().await?;
                let Some(addr) = from.socket_addr() else {
                    return Ok((from, payload));
                };
                // Nobody in the world has a virtual address: whoever says so is not heard.
                if !is_virtual(addr.ip()) {
                    let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
                    let from = lock(&self.disguise).apparent(addr);
                    return Ok((Target::ip(from), payload));
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;
