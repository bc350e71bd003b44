//! The way out of a program that is told virtual addresses: what goes to one meets the hidden peer that it stands for, and what goes to
//! one that stands for nobody goes nowhere. All else goes where it went before.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::{Host, HostName, Target};
use tokio::io::duplex;

use super::Guests;
use super::addresses::Addresses;
use crate::net::{BoxFuture, BoxStream, Datagrams};
use crate::route::{At, Meet, Met, Outside, RouteError};

/// Bytes between a program and a stream of ours, each way.
const BETWEEN: usize = 64 * 1024;

/// A way out that knows the virtual addresses of guests.
pub(super) struct GuestRoute {
    pub(super) guests: Arc<Guests>,
    pub(super) outside: Arc<dyn Outside>,
}

impl GuestRoute {
    /// A program that sends everything by its proxy asks there for the tracker too.
    fn is_tracker(&self, target: &Target) -> bool {
        let here = match &target.host {
            Host::Ip(ip) => ip.is_loopback(),
            Host::Name(name) => name.as_str().eq_ignore_ascii_case("localhost"),
        };
        here && target.port == self.guests.at().port()
    }
}

impl Outside for GuestRoute {
    fn connect<'a>(
        &'a self,
        target: &'a Target,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        if self.is_tracker(target) {
            let (near, far) = duplex(BETWEEN);
            tokio::spawn(Arc::clone(&self.guests).answer(Box::new(far)));
            return Box::pin(async { Ok(Box::new(near) as BoxStream) });
        }
        match target.host {
            Host::Ip(ip) if Addresses::covers(ip) => {
                let peer = self.guests.who(ip);
                let waits = Arc::clone(&self.guests.waiting).try_acquire_owned();
                Box::pin(async move {
                    let (Some(peer), Ok(waits)) = (peer, waits) else {
                        return Err(RouteError::Refused);
                    };
                    // It is met when the program has said that it wants this swarm: see `super::door`.
                    let (near, far) = duplex(BETWEEN);
                    tokio::spawn(Arc::clone(&self.guests).call(Box::new(far), peer, waits));
                    Ok(Box::new(near) as BoxStream)
                })
            }
            Host::Ip(_) | Host::Name(_) => self.outside.connect(target, isolation),
        }
    }

    fn datagrams(
        &self,
        isolation: Isolation,
    ) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        Box::pin(async move {
            let flow = self.outside.datagrams(isolation).await?;
            Ok(Box::new(GuestDatagrams(flow)) as Box<dyn Datagrams>)
        })
    }

    fn carries_datagrams(&self) -> bool {
        self.outside.carries_datagrams()
    }

    fn resolve<'a>(
        &'a self,
        name: &'a HostName,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, RouteError>> {
        self.outside.resolve(name, isolation)
    }

    fn dht<'a>(
        &'a self,
        request: &'a [u8],
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        self.outside.dht(request, isolation)
    }

    fn meet<'a>(
        &'a self,
        at: At,
        meet: Meet<'a>,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<Met, RouteError>> {
        self.outside.meet(at, meet, isolation)
    }

    fn resolve_ptr(
        &self,
        ip: IpAddr,
        isolation: Isolation,
    ) -> BoxFuture<'_, Result<HostName, RouteError>> {
        if Addresses::covers(ip) {
            return Box::pin(async { Err(RouteError::NameNotFound) });
        }
        self.outside.resolve_ptr(ip, isolation)
    }
}

/// A flow whose program knows virtual addresses: no datagram reaches a hidden peer, which clients that begin with uTP (BEP 29) take for
/// a loss, and then connect.
struct GuestDatagrams(Box<dyn Datagrams>);

fn leaves(to: &Target) -> bool {
    match to.host {
        Host::Ip(ip) => !Addresses::covers(ip),
        Host::Name(_) => true,
    }
}

impl Datagrams for GuestDatagrams {
    fn send(&self, to: &Target, payload: &[u8]) -> io::Result<()> {
        if leaves(to) {
            self.0.send(to, payload)
        } else {
            Ok(())
        }
    }

    fn recv(&self) -> BoxFuture<'_, io::Result<(Target, Vec<u8>)>> {
        Box::pin(async move {
            loop {
                let (from, payload) = self.0.recv().await?;
                // Nobody in the world has such an address.
                if leaves(&from) {
                    return Ok((from, payload));
                }
            }
        })
    }

    fn recv_many<'a>(
        &'a self,
        into: &'a mut Vec<(Target, Vec<u8>)>,
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let before = into.len();
            while into.len() == before {
                self.0.recv_many(into).await?;
                into.retain(|(from, _)| leaves(from));
            }
            Ok(())
        })
    }
}
