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
use crate::net::{BoxFuture, BoxStream, Datagrams};
use crate::route::{Outside, RouteError};

/// Names that one datagram flow speaks to at once. A client has some dozens of UDP trackers.
const MAX_NAMED: usize = 256;
/// Addresses of one name that its answers are known by.
const MAX_ADDRESSES: usize = 8;
/// Addresses that a flow has spoken to by address, the latest ones: an answer of theirs is never taken for a name's.
const MAX_PLAIN: usize = 1024;
/// Lookups at once, over all flows: each is a stream's worth of work for the exit.
const MAX_LOOKUPS: usize = 32;
/// How often a datagram goes to the name instead of the address that was found for it, so that the routing policy is
/// asked again and a name that has moved is followed.
const BY_NAME: Duration = Duration::from_secs(60);

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
    /// What its answers come from; the first is what datagrams are sent to.
    addresses: Vec<SocketAddr>,
    by_name: Instant,
    used: Instant,
}

/// What to do with a datagram to a virtual address.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    /// Send it to the address that was found.
    Address(SocketAddr),
    /// Send it to the name.
    Name,
    /// Send it to the name, and look up whom its answers will come from.
    NameAndLookUp,
}

impl Disguise {
    /// Notes a datagram to an address that is just that.
    fn plain(&mut self, ip: IpAddr) {
        if self.plain.insert(ip) {
            self.plain_order.push_back(ip);
            if self.plain_order.len() > MAX_PLAIN
                && let Some(oldest) = self.plain_order.pop_front()
            {
                self.plain.remove(&oldest);
            }
        }
    }

    /// Notes a datagram to a virtual address that now stands for `name`.
    fn named(&mut self, now: Instant, to: SocketAddr, name: &HostName) -> Way {
        let known = self.named.get_mut(&to).filter(|peer| peer.name == *name);
        if let Some(peer) = known {
            peer.used = now;
            let due = now.saturating_duration_since(peer.by_name) >= BY_NAME;
            return match peer.addresses.first() {
                Some(address) if !due => Way::Address(*address),
                _ if due => {
                    peer.by_name = now;
                    Way::NameAndLookUp
                }
                _ => Way::Name,
            };
        }
        self.forget(to);
        if self.named.len() >= MAX_NAMED {
            let oldest = self.named.iter().min_by_key(|(_, peer)| peer.used);
            if let Some(oldest) = oldest.map(|(to, _)| *to) {
                self.forget(oldest);
            }
        }
        self.named.insert(
            to,
            Peer {
                name: name.clone(),
                addresses: Vec::new(),
                by_name: now,
                used: now,
            },
        );
        Way::NameAndLookUp
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

    /// Notes what a lookup has found for the name of a virtual address.
    fn learn(&mut self, to: SocketAddr, name: &HostName, mut found: Vec<IpAddr>) {
        let Some(peer) = self.named.get_mut(&to).filter(|peer| peer.name == *name) else {
            return;
        };
        found.retain(|ip| !is_virtual(*ip));
        // Exits without IPv6 are more than those without IPv4.
        found.sort_by_key(IpAddr::is_ipv6);
        let found = found.into_iter().map(|ip| {
            let ip = ip.to_canonical();
            SocketAddr::new(ip, to.port())
        });
        let mut addresses: Vec<SocketAddr> = found.take(MAX_ADDRESSES).collect();
        // One that still answers though it is not found any more goes on to be known.
        let former = std::mem::take(&mut peer.addresses);
        let former = former.into_iter().filter(|old| !addresses.contains(old));
        let former: Vec<SocketAddr> = former.collect();
        addresses.extend(former);
        let forgotten = addresses.split_off(MAX_ADDRESSES.min(addresses.len()));
        self.real
            .extend(addresses.iter().map(|address| (*address, to)));
        peer.addresses = addresses;
        self.unlink(to, forgotten);
    }

    /// Whom an answer appears to come from.
    fn from(&mut self, from: SocketAddr) -> SocketAddr {
        if let Some(to) = self.real.get(&from) {
            return *to;
        }
        if self.plain.contains(&from.ip()) {
            return from;
        }
        // Looking up has failed or is not over, or the exit found another address. If one name alone is asked at
        // that port and has not answered yet, this must be it.
        let mut silent = self
            .named
            .iter_mut()
            .filter(|(to, peer)| to.port() == from.port() && peer.addresses.is_empty());
        match (silent.next(), silent.next()) {
            (Some((to, peer)), None) => {
                peer.addresses.push(from);
                self.real.insert(from, *to);
                *to
            }
            _ => from,
        }
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
                lock(&disguise).learn(to, &name, found);
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
            lock(&self.disguise).plain(addr.ip());
            return self.flow.send(to, payload);
        }
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let Some(name) = self.names.name(addr.ip()) else {
            // To nobody: lost, as datagrams are.
            return Ok(());
        };
        let way = lock(&self.disguise).named(Instant::now(), addr, &name);
        if let Way::Address(address) = way {
            return self.flow.send(&Target::ip(address), payload);
        }
        let by_name = Target {
            host: Host::Name(name.clone()),
            port: addr.port(),
        };
        self.flow.send(&by_name, payload)?;
        // Not before the policy has let it pass.
        if way == Way::NameAndLookUp {
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
                    let from = lock(&self.disguise).from(addr);
                    return Ok((Target::ip(from), payload));
                }
            }
        })
    }
}
