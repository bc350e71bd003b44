//! The way out of a program that knows hidden seeds: who asks for one by its name meets it at a relay; everything else goes
//! where it went before.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::keys::DhSecret;
use hushswarm_circuits::rendezvous::{Contact, Point, SwarmKey};
use hushswarm_circuits::target::{Host, HostName, Target};
use rand::seq::SliceRandom;
use tokio::time::sleep;
use tracing::warn;

use super::book::Book;
use super::stream::Sealed;
use super::visitor::{Seed, VisitError, visit_with};
use super::work::Worker;
use crate::hush::SeedKey;
use crate::route::policy::Reason;
use crate::route::{At, BoxFuture, BoxStream, Datagrams, Meet, Met, Outside, RouteError};

/// An introduction point may drop what it should hand on, and nobody says so: after this time another is tried beside it. Two
/// circuits of three hops are built within it, as a rule.
const PATIENCE: Duration = Duration::from_secs(8);

/// The same for a closed seed: its points say nothing in any case, and so one that is gone is not told from one that drops.
const PATIENCE_CLOSED: Duration = Duration::from_secs(4);

/// Points of a closed seed that are asked at once: one of them may be gone, and which one nobody says. The seed meets who comes
/// by both, and one of the meetings is for nothing.
const AT_ONCE_CLOSED: usize = 2;

/// After so long the user is told why a closed seed may not come: it never says so itself, and who calls may not wait much longer.
const SILENCE: Duration = Duration::from_secs(20);

/// What he is told.
const SILENT: &str = "a hidden seed that lets in only some does not answer: it is away, or its owner has not let in your key, which \"hushswarm visitor-key\" with the link prints";

/// Most introduction points that one call tries.
const MAX_TRIES: usize = 4;

/// A way out that reaches hidden seeds.
pub struct HiddenRoute {
    outside: Arc<dyn Outside>,
    book: Arc<Book>,
    /// The user knows that a seed may not know our key.
    said: AtomicBool,
    worker: Worker,
}

impl HiddenRoute {
    /// Meets the seeds of this book at relays that `outside` leads to.
    pub fn new(outside: Arc<dyn Outside>, book: Arc<Book>) -> Self {
        Self {
            outside,
            book,
            said: AtomicBool::new(false),
            worker: Worker::default(),
        }
    }

    async fn call(&self, key: SeedKey) -> Result<BoxStream, RouteError> {
        let (swarm, contact, told) = self.book.points(&key).ok_or(RouteError::Unreachable)?;
        let swarm = SwarmKey::new(&swarm).map_err(|_| RouteError::Unreachable)?;
        // Who can't show a key asks nobody.
        let own = if contact.is_closed() {
            let own = self.book.guest(&key);
            Some(own.ok_or(RouteError::Forbidden(Reason::KeyNeeded))?)
        } else {
            None
        };
        let visiting = visit_any(self, &contact, told, &swarm, own.as_ref());
        let silence = async {
            sleep(SILENCE).await;
            if own.is_some() && !self.said.swap(true, Ordering::Relaxed) {
                warn!("{SILENT}");
            }
            std::future::pending().await
        };
        let stream = tokio::select! {
            stream = visiting => stream,
            stream = silence => stream,
        };
        stream
            .map(|stream| Box::new(stream) as BoxStream)
            .map_err(|error| match error {
                VisitError::NoPlace(error) => error,
                // It may stand somewhere else by now. That no circuit leads to a relay which somebody named is no trouble of ours.
                VisitError::NotIntroduced(_) => RouteError::ConnectionRefused,
                VisitError::TooMuchWork => RouteError::Busy,
                VisitError::NotMet => RouteError::TimedOut,
                VisitError::Impostor | VisitError::BadKey => RouteError::Unreachable,
            })
    }
}

/// Visits a seed through one of its introduction points after another, in random order, those that it told itself before the others:
/// the next at once where one can't, and beside it where one says nothing (two at once of a closed seed, where none says anything). The first that leads to the seed is taken.
async fn visit_any(
    route: &HiddenRoute,
    contact: &Contact,
    told: usize,
    swarm: &SwarmKey,
    guest: Option<&DhSecret>,
) -> Result<Sealed, VisitError> {
    // An open seed has no quiet key: who names one wants us to wait where nobody stands.
    let stands = |point: &Point| contact.is_closed() || !point.introduction.is_quiet();
    let (own, others) = contact.points().split_at(told.min(contact.points().len()));
    let own = own.iter().copied().filter(stands).collect::<Vec<_>>();
    let told = own.len();
    let others = others.iter().copied().filter(stands);
    let mut points: Vec<Point> = own.into_iter().chain(others).collect();
    let (own, others) = points.split_at_mut(told);
    own.shuffle(&mut rand::rng());
    others.shuffle(&mut rand::rng());
    points.truncate(MAX_TRIES);
    let mut points = points.into_iter();
    let (at_once, patience) = if contact.is_closed() {
        (AT_ONCE_CLOSED, PATIENCE_CLOSED)
    } else {
        (1, PATIENCE)
    };
    let worker = route.worker.for_one();
    let worker = &worker;
    let mut visits = FuturesUnordered::new();
    let mut failure = None;
    loop {
        if let Some(point) = points.next() {
            let seed = Seed {
                key: contact.key,
                introduction: point.introduction,
                at: point.relay,
            };
            visits.push(
                async move { visit_with(&*route.outside, &seed, swarm, guest, worker).await },
            );
            if visits.len() < at_once {
                continue;
            }
        }
        let patience = async {
            if points.len() == 0 {
                std::future::pending::<()>().await;
            }
            sleep(patience).await;
            // It does not say nothing: it waits for us.
            while worker.is_busy() {
                sleep(patience).await;
            }
        };
        tokio::select! {
            visited = visits.next() => match visited {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => failure = Some(error),
                None => return Err(failure.unwrap_or(VisitError::NotMet)),
            },
            () = patience => {}
        }
    }
}

impl Outside for HiddenRoute {
    fn connect<'a>(
        &'a self,
        target: &'a Target,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        let seed = match &target.host {
            Host::Name(name) => SeedKey::of_host(name.as_str()),
            Host::Ip(_) => None,
        };
        match seed {
            // Each meeting has circuits of its own, whoever asks.
            Some(key) => Box::pin(self.call(key)),
            None => self.outside.connect(target, isolation),
        }
    }

    fn datagrams(
        &self,
        isolation: Isolation,
    ) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        self.outside.datagrams(isolation)
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
        self.outside.resolve_ptr(ip, isolation)
    }
}
