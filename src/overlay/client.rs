//! The client's end of the overlay: it chooses paths, keeps circuits ready, and gives each isolation key its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use hushswarm_circuits::circuit::origin::{CloseReason, HopSpec, Origin};
use hushswarm_circuits::circuit::padding::CircuitPaddingConfig;
use hushswarm_circuits::frame::Pool;
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::keys::RelayId;
use hushswarm_circuits::path::{
    ExitNeed, GuardSample, MAX_HOPS, MiddleSample, PRIMARY_GUARDS, PathError, PathNeeds, PathRules,
    choose,
};
use hushswarm_circuits::relay_list::{Descriptor, Proto, RelayList};
use hushswarm_circuits::scheduler::CreditBudget;
use hushswarm_circuits::switch::{Handler, LinkConfig};
use hushswarm_circuits::target::Target;
use tokio::sync::watch;
use tracing::{debug, info};

use super::circuit::Circuit;
pub use super::failure::{BuildError, Status};
use super::links::Links;
use super::middles::{Drawing, Middles};
use crate::config::unix_now;
use crate::error::Error;
use crate::net::{RelayDialer, Way};

/// A circuit must be built within this time, or another path is tried.
const BUILD_TIMEOUT: Duration = Duration::from_secs(20);
/// The same where the first link runs through others, who are slow.
const SLOW_BUILD_TIMEOUT: Duration = Duration::from_secs(60);
/// Paths tried before a request for a circuit fails.
const ATTEMPTS: usize = 6;
/// A relay through which a circuit could not be built is left out for this time.
const AVOID: Duration = Duration::from_secs(60);
/// Circuits are looked over so often: for deadlines, and for unused ones.
const TICK: Duration = Duration::from_millis(250);
/// One that takes no new streams is kept for so long after its last one, so that what is queued still leaves.
const RETIRED_IDLE: Duration = Duration::from_secs(10);
/// Guards that are too old or long unlisted are looked for so often.
const GUARD_LOOK: Duration = Duration::from_secs(6 * 60 * 60);
/// When all guards wait after a failure, the first ones are tried so often: mostly it was this computer that was offline,
/// and it should not wait for an hour once it is back. Nobody learns more by it, for these guards are the client's anyway.
const LAST_RESORT: Duration = Duration::from_secs(5);
/// Waits before circuits are built ahead again when that failed.
const PREBUILD_REST: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// What circuits are built ahead for where no exit takes datagrams.
const WEB: ExitNeed = ExitNeed::Target {
    proto: Proto::Tcp,
    ip: None,
    port: 443,
};
/// Unused frame buffers kept: 8 MiB.
const POOL: usize = 2048;
/// Memory for credits beyond each circuit's first 64, bytes.
const CREDIT_MEMORY: usize = 64 * 1024 * 1024;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Relays in a circuit, 1 to 3. With fewer than 3 nobody is met (PROTOCOL.md §7.3).
    pub hops: usize,
    /// Circuits kept ready for whoever asks next.
    pub prebuilt: usize,
    /// A circuit takes no new streams when its first is older than this.
    pub dirty_after: Duration,
    /// A circuit without streams is closed after this time.
    pub idle: Duration,
    /// How far apart relays of a path must be.
    pub rules: PathRules,
    /// DROP cells in circuits, which make it harder to tell from a circuit's cells what it is for.
    pub padding: CircuitPaddingConfig,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            hops: 3,
            prebuilt: 2,
            dirty_after: Duration::from_secs(600),
            idle: Duration::from_secs(300),
            rules: PathRules::default(),
            padding: CircuitPaddingConfig::default(),
        }
    }
}

/// What a circuit is wanted for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// What its last relay must offer.
    pub exit: ExitNeed,
    /// Relays in it, 1 to 3; `None`: as many as the client's circuits have.
    pub hops: Option<u8>,
    /// Relays that must not come last, for example exits that have just refused.
    pub not_last: &'a [RelayId],
}

/// Stores the guards between runs, and the fixed middles.
pub trait GuardStore: Send + Sync {
    /// Called when the sample changed.
    fn save(&self, sample: &GuardSample);

    /// Lets `refresh` change the fixed middles that are stored, and gives what they are then. Waits for the disk.
    ///
    /// # Errors
    /// They can't be read or stored: no others are to be used.
    fn middles(&self, refresh: &mut dyn FnMut(&mut MiddleSample)) -> Result<MiddleSample, Error>;
}

type Slot = Arc<tokio::sync::Mutex<Vec<Arc<Circuit>>>>;

struct Inner {
    list: RwLock<Arc<RelayList>>,
    guards: Mutex<GuardSample>,
    middles: Middles,
    store: Option<Arc<dyn GuardStore>>,
    links: Arc<Links>,
    config: ClientConfig,
    slots: Mutex<HashMap<Isolation, Slot>>,
    ready: Mutex<Vec<Arc<Circuit>>>,
    live: Mutex<Vec<Weak<Circuit>>>,
    avoid: Mutex<HashMap<RelayId, Instant>>,
    status: watch::Sender<Status>,
    refill: Arc<tokio::sync::Notify>,
    /// A relay list was set: what could not be built may be possible now.
    listed: Arc<tokio::sync::Notify>,
    closed: AtomicBool,
    /// When guards that wait after a failure were last tried for want of others.
    last_resort: Mutex<Option<Instant>>,
}

/// Builds circuits and hands them out. Clones are the same client.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct NoHandler;

impl Handler for NoHandler {}

impl Client {
    /// Makes a client; nothing is sent before the first circuit is wanted or [`Client::prebuild`] is called.
    pub fn new(
        list: Arc<RelayList>,
        guards: GuardSample,
        store: Option<Box<dyn GuardStore>>,
        dialer: Arc<dyn RelayDialer>,
        config: ClientConfig,
    ) -> Self {
        let link_config = LinkConfig {
            handler: Arc::new(NoHandler),
            pool: Pool::new(POOL),
            budget: CreditBudget::new(CREDIT_MEMORY),
            max_circuits: 0,
        };
        let inner = Arc::new(Inner {
            list: RwLock::new(list),
            guards: Mutex::new(guards),
            middles: Middles::default(),
            store: store.map(Arc::from),
            links: Links::new(dialer, None, link_config),
            config,
            slots: Mutex::default(),
            ready: Mutex::default(),
            live: Mutex::default(),
            avoid: Mutex::default(),
            status: watch::Sender::new(Status::Connecting),
            refill: Arc::default(),
            listed: Arc::default(),
            closed: AtomicBool::new(false),
            last_resort: Mutex::default(),
        });
        inner.refresh_guards();
        tokio::spawn(tick(Arc::downgrade(&inner)));
        Self(inner)
    }

    /// A client that builds no circuit and opens nothing, for who uses Tor alone.
    pub fn without_relays(dialer: Arc<dyn RelayDialer>) -> Self {
        let list = Arc::new(RelayList::none());
        let client = Self::new(
            list,
            GuardSample::default(),
            None,
            dialer,
            ClientConfig::default(),
        );
        let none = Status::Unreachable(BuildError::NoRelays);
        client.0.status.send_replace(none);
        client
    }

    /// Keeps circuits ready from now on.
    pub fn prebuild(&self) {
        tokio::spawn(prebuild(Arc::downgrade(&self.0)));
    }

    /// How the overlay stands; changes are told.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.0.status.subscribe()
    }

    /// The relay list in use.
    pub fn list(&self) -> Arc<RelayList> {
        self.0.list()
    }

    /// Relays of the list that are in one family or network with one of these; not these themselves.
    pub fn near(&self, of: &[RelayId]) -> Vec<RelayId> {
        let (list, rules) = (self.0.list(), &self.0.config.rules);
        let of: Vec<_> = of.iter().filter_map(|id| list.get(id)).collect();
        let is_near = |relay: &&Arc<Descriptor>| {
            let same = of.iter().any(|other| other.identity == relay.identity);
            !same && of.iter().any(|other| !rules.are_apart(other, relay))
        };
        let near = list.relays().iter().filter(is_near);
        near.map(|relay| relay.identity).collect()
    }

    /// Takes a newer relay list. Circuits that were built ahead are kept where all their relays are in it, unchanged.
    pub fn set_list(&self, list: Arc<RelayList>) {
        let inner = &self.0;
        let is_listed = |circuit: &Arc<Circuit>| {
            circuit.path().iter().all(|relay| {
                let listed = list.get(&relay.identity);
                listed.is_some_and(|listed| listed.digest() == relay.digest())
            })
        };
        lock(&inner.ready).retain(is_listed);
        *inner.list.write().unwrap_or_else(PoisonError::into_inner) = list;
        inner.refresh_guards();
        inner.refill.notify_one();
        inner.listed.notify_one();
    }

    /// Hops of each circuit.
    pub fn hops(&self) -> usize {
        self.0.config.hops
    }

    /// Circuits open now.
    pub fn circuits(&self) -> usize {
        let live = lock(&self.0.live);
        live.iter()
            .filter_map(Weak::upgrade)
            .filter(|circuit| !circuit.is_closed())
            .count()
    }

    /// The circuit of an isolation key whose exit may reach `target` (`None`: datagrams to anywhere), built if there is none.
    /// It has as many relays as all circuits of this client have, where nothing else is asked for.
    ///
    /// # Errors
    /// No circuit could be built: wait, and ask again.
    pub async fn circuit(
        &self,
        isolation: Isolation,
        proto: Proto,
        target: Option<&Target>,
        not_last: &[RelayId],
    ) -> Result<Arc<Circuit>, BuildError> {
        let exit = target.map_or(ExitNeed::Datagrams, |target| {
            ExitNeed::for_target(proto, target)
        });
        let wanted = Wanted {
            exit,
            hops: None,
            not_last,
        };
        self.circuit_for(isolation, wanted).await
    }

    /// The circuit of an isolation key that offers what is wanted, built if there is none. One of another length is not
    /// taken: who asked for three relays is not served by one, nor the other way round. Nor is one with another middle than the
    /// fixed ones, where it is for a meeting ([`ExitNeed::needs_fixed_middle`]).
    ///
    /// # Errors
    /// No circuit could be built: wait, and ask again.
    pub async fn circuit_for(
        &self,
        isolation: Isolation,
        wanted: Wanted<'_>,
    ) -> Result<Arc<Circuit>, BuildError> {
        let inner = &self.0;
        let hops = wanted.hops.map_or(inner.config.hops, usize::from);
        let slot = Arc::clone(lock(&inner.slots).entry(isolation).or_default());
        // Held while building: others with the same key wait for the same circuit.
        let mut held = slot.lock().await;
        held.retain(|circuit| !circuit.is_closed());
        let middles = inner.middles_for(wanted.exit, hops).await?;
        let may_pass = |relay: &Arc<Descriptor>| match &middles {
            Some(fixed) => fixed.contains(&relay.identity),
            None => true,
        };
        let fits = |circuit: &Circuit| {
            circuit.is_usable(inner.config.dirty_after)
                && circuit.path().len() == hops
                && circuit.offers(wanted.exit)
                && circuit.path().get(1).is_none_or(may_pass)
                && !circuit
                    .path()
                    .last()
                    .is_some_and(|relay| wanted.not_last.contains(&relay.identity))
        };
        if let Some(circuit) = held.iter().find(|circuit| fits(circuit)) {
            return Ok(Arc::clone(circuit));
        }
        inner.may_build()?;
        let taken = {
            let mut ready = lock(&inner.ready);
            let found = ready.iter().position(|circuit| fits(circuit));
            found.map(|at| ready.remove(at))
        };
        inner.refill.notify_one();
        let circuit = match taken {
            Some(circuit) => circuit,
            None => inner.build(wanted.exit, hops, wanted.not_last).await?,
        };
        held.push(Arc::clone(&circuit));
        Ok(circuit)
    }

    /// A fresh circuit that nobody else uses, to any relay that serves the relay list.
    ///
    /// # Errors
    /// No circuit could be built.
    pub async fn directory_circuit(&self) -> Result<Arc<Circuit>, BuildError> {
        self.0.build(ExitNeed::List, self.0.config.hops, &[]).await
    }

    /// A fresh circuit that nobody else uses.
    ///
    /// # Errors
    /// No circuit could be built.
    pub async fn fresh_circuit(&self, exit: ExitNeed) -> Result<Arc<Circuit>, BuildError> {
        self.0.build(exit, self.0.config.hops, &[]).await
    }

    /// Closes all circuits and links, for good.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        for circuit in lock(&self.0.live)
            .drain(..)
            .filter_map(|circuit| circuit.upgrade())
        {
            circuit.close();
        }
        lock(&self.0.slots).clear();
        lock(&self.0.ready).clear();
        self.0.links.close();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.refill.notify_one();
    }
}

impl Inner {
    fn refresh_guards(&self) {
        let list = self.list();
        let mut guards = lock(&self.guards);
        guards.refresh(&list, unix_now(), &mut rand::rng());
        self.save(&guards);
    }

    fn save(&self, guards: &GuardSample) {
        if let Some(store) = &self.store {
            store.save(guards);
        }
    }

    fn list(&self) -> Arc<RelayList> {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether circuits may be built: not from a list whose time is over, whose relays may since have fallen into
    /// other hands.
    fn may_build(&self) -> Result<(), BuildError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(BuildError::Closed);
        }
        if self.list().is_none() {
            return Err(BuildError::NoRelays);
        }
        if !self.list().is_valid(unix_now()) {
            let expired = BuildError::ListExpired;
            self.say(Status::Unreachable(expired.clone()));
            return Err(expired);
        }
        Ok(())
    }

    fn say(&self, new: Status) {
        self.status
            .send_if_modified(|status| std::mem::replace(status, new.clone()) != new);
    }

    async fn build(
        &self,
        exit: ExitNeed,
        hops: usize,
        not_last: &[RelayId],
    ) -> Result<Arc<Circuit>, BuildError> {
        let mut failure = None;
        let mut spare = None;
        for _ in 0..ATTEMPTS {
            self.may_build()?;
            match self
                .try_build(exit, hops, not_last, &mut spare, failure.is_none())
                .await
            {
                Ok(circuit) => {
                    self.say(Status::Ready);
                    return Ok(circuit);
                }
                Err(error @ BuildError::NoPath(_)) => {
                    // What an earlier attempt ran into says more than that nothing is left now.
                    failure.get_or_insert(error);
                    break;
                }
                Err(error @ (BuildError::NoWay(_) | BuildError::NoMiddles)) => {
                    // No other relay is nearer.
                    failure = Some(error);
                    break;
                }
                Err(error) => failure = Some(error),
            }
        }
        let failure = failure.unwrap_or(BuildError::Failed);
        let needs_few = matches!(
            exit,
            ExitNeed::Dht | ExitNeed::Introduce | ExitNeed::IntroduceAt(_)
        );
        let is_special = match failure {
            // No exit lets this target out, or nobody has so many hops. That says nothing about other requests.
            BuildError::NoPath(PathError::NoExit | PathError::Hops(_)) | BuildError::NoMiddles => {
                true
            }
            // Those who look up in the DHT or introduce may be few, and all too near to a guard; so may one that is named.
            BuildError::NoPath(_) => hops != self.config.hops || needs_few,
            BuildError::Failed => needs_few,
            BuildError::GuardUnreachable
            | BuildError::NoWay(_)
            | BuildError::ListExpired
            | BuildError::NoRelays
            | BuildError::Closed => false,
        };
        if is_special {
            return Err(failure);
        }
        self.say(Status::Unreachable(failure.clone()));
        Err(failure)
    }

    /// The only relays that may be the middle of a circuit for this; `None`: any.
    async fn middles_for(
        &self,
        exit: ExitNeed,
        hops: usize,
    ) -> Result<Option<Vec<RelayId>>, BuildError> {
        if !exit.needs_fixed_middle() {
            return Ok(None);
        }
        if hops != MAX_HOPS {
            return Err(PathError::NoRoomForMiddle(hops).into());
        }
        let drawing = Drawing {
            list: self.list(),
            guards: self.first_guards(),
            rules: self.config.rules,
            now: unix_now(),
        };
        let usable = self.middles.usable(drawing, self.store.as_ref()).await;
        usable.map(Some).map_err(|_| BuildError::NoMiddles)
    }

    /// The first guards, to be tried although they wait after a failure; none when that was done a moment ago.
    fn last_resort(&self) -> Vec<RelayId> {
        let mut last = lock(&self.last_resort);
        if last.is_some_and(|last| last.elapsed() < LAST_RESORT) {
            return Vec::new();
        }
        *last = Some(Instant::now());
        drop(last);
        self.first_guards()
    }

    /// The guards that are used normally, whether they wait or not.
    fn first_guards(&self) -> Vec<RelayId> {
        let guards = lock(&self.guards);
        let listed = guards
            .guards()
            .iter()
            .filter(|guard| guard.unlisted_since.is_none());
        listed.take(PRIMARY_GUARDS).map(|guard| guard.id).collect()
    }

    async fn try_build(
        &self,
        exit: ExitNeed,
        hops: usize,
        not_last: &[RelayId],
        spare: &mut Option<Vec<RelayId>>,
        first: bool,
    ) -> Result<Arc<Circuit>, BuildError> {
        let middles = self.middles_for(exit, hops).await?;
        let now = unix_now();
        let guards = lock(&self.guards).usable(now);
        let mut failed: Vec<RelayId> = {
            let mut failed = lock(&self.avoid);
            failed.retain(|_, since| since.elapsed() < AVOID);
            failed.keys().copied().collect()
        };
        let (list, rules) = (self.list(), &self.config.rules);
        let path = |guards: &[RelayId], failed: &[RelayId]| {
            let needs = PathNeeds {
                hops,
                exit,
                avoid: failed.to_vec(),
                not_last: not_last.to_vec(),
                middles: middles.clone(),
            };
            choose(&list, guards, &needs, rules, &mut rand::rng())
        };
        let mut chosen = path(&guards, &failed);
        if chosen.is_err() && first && !failed.is_empty() {
            // Relays that failed a moment ago, but not in this attempt, are better than none.
            lock(&self.avoid).clear();
            failed.clear();
            chosen = path(&guards, &failed);
        }
        // Who visits must not bring about by the last hop that guards are tried for which it is not yet time.
        let helps = !matches!(
            chosen,
            Ok(_) | Err(PathError::NoExit | PathError::Hops(_) | PathError::NoFixedMiddle)
        );
        if helps {
            let spare = spare.get_or_insert_with(|| self.last_resort());
            chosen = path(spare, &failed).or(chosen);
        }
        let path = chosen?;
        let Some(guard) = path.first() else {
            return Err(BuildError::GuardUnreachable);
        };
        let link = match self.links.get(guard).await {
            Ok(link) => link,
            Err(error) => {
                // Not which: an identity is an address by another name, and a guard tells where its client comes from.
                debug!(%error, "guard not reached");
                if let Some(why) = error.no_way() {
                    return Err(BuildError::NoWay(why.to_string()));
                }
                if self.links.way() == Way::Straight || error.is_the_relays_own() {
                    self.guard_failed(guard);
                } else {
                    self.leave_out(guard);
                }
                return Err(BuildError::GuardUnreachable);
            }
        };
        if self.closed.load(Ordering::Acquire) {
            // It was being dialed while all others were closed.
            link.close(Instant::now());
            return Err(BuildError::Closed);
        }
        let specs = path
            .iter()
            .map(|relay| HopSpec {
                id: relay.identity,
                peer: relay.hop_peer(),
            })
            .collect();
        let begun = Instant::now();
        let origin = Origin::new(begun, specs, &mut rand::rng()).map_err(|error| {
            debug!(%error, "a relay's keys can't be used");
            BuildError::Failed
        })?;
        let circuit =
            Circuit::open(&link, path.clone(), origin).map_err(|_| BuildError::GuardUnreachable)?;
        {
            let mut live = lock(&self.live);
            live.retain(|circuit| circuit.strong_count() > 0);
            live.push(Arc::downgrade(&circuit));
        }
        let limit = match self.links.way() {
            Way::Straight => BUILD_TIMEOUT,
            Way::Through { .. } => SLOW_BUILD_TIMEOUT,
        };
        match tokio::time::timeout(limit, circuit.built()).await {
            Ok(Ok(())) => {
                let mut guards = lock(&self.guards);
                guards.succeeded(&guard.identity, now);
                self.save(&guards);
                circuit.start_padding(&self.config.padding, Instant::now());
                debug!(
                    circuit = circuit.number(),
                    ms = begun.elapsed().as_millis(),
                    "circuit built"
                );
                Ok(circuit)
            }
            Ok(Err(reason)) => {
                debug!(circuit = circuit.number(), ?reason, "circuit not built");
                if matches!(reason, CloseReason::HopTimeout { hop: 0 })
                    && self.links.way() != Way::Straight
                {
                    // Those on the way may have stopped passing on: the next try is over another link.
                    link.close(Instant::now());
                }
                self.blame(&path, reason);
                Err(BuildError::Failed)
            }
            Err(_) => {
                debug!(circuit = circuit.number(), "circuit not built in time");
                Err(BuildError::Failed)
            }
        }
    }

    /// For a while, and not beyond this process.
    fn leave_out(&self, relay: &Descriptor) {
        lock(&self.avoid).insert(relay.identity, Instant::now());
    }

    fn guard_failed(&self, guard: &Descriptor) {
        self.leave_out(guard);
        let mut guards = lock(&self.guards);
        guards.failed(&guard.identity, unix_now());
        self.save(&guards);
    }

    /// Leaves out the relay through which a circuit failed, where that is known.
    fn blame(&self, path: &[Arc<Descriptor>], reason: CloseReason) {
        let hop = match reason {
            CloseReason::HopTimeout { hop }
            | CloseReason::HandshakeFailed { hop }
            | CloseReason::ExtendFailed { hop, .. } => hop,
            CloseReason::LayerFailed { .. }
            | CloseReason::Protocol
            | CloseReason::Destroyed(_)
            | CloseReason::Local(_) => return,
        };
        // A guard that is reached through others and is silent need not be the one that failed.
        let silent = matches!(reason, CloseReason::HopTimeout { .. });
        let unsure = silent && self.links.way() != Way::Straight;
        match path.get(hop) {
            Some(relay) if hop == 0 && !unsure => self.guard_failed(relay),
            Some(relay) => self.leave_out(relay),
            None => {}
        }
    }

    /// Tells what the way to relays waits for, where no circuit is there that could do without it.
    fn tell_way(&self) {
        let Way::Through {
            waits_for: Some(why),
        } = self.links.way()
        else {
            return;
        };
        self.status.send_if_modified(|status| {
            let new = Status::Unreachable(BuildError::NoWay(why));
            let waits = matches!(
                status,
                Status::Connecting | Status::Unreachable(BuildError::NoWay(_))
            );
            waits && std::mem::replace(status, new.clone()) != new
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets deadlines pass, and closes what nobody uses.
async fn tick(client: Weak<Inner>) {
    let mut guards_looked = Instant::now();
    loop {
        tokio::time::sleep(TICK).await;
        let Some(client) = client.upgrade() else {
            return;
        };
        let now = Instant::now();
        let live: Vec<_> = lock(&client.live)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        for circuit in live {
            if circuit.deadline().is_some_and(|deadline| deadline <= now) {
                circuit.expire(now);
            }
            circuit.pad(now);
        }
        client.tell_way();
        if now.duration_since(guards_looked) >= GUARD_LOOK {
            guards_looked = now;
            client.refresh_guards();
        }
        let idle = client.config.idle;
        lock(&client.slots).retain(|_, slot| {
            // A slot in use is not idle.
            if Arc::strong_count(slot) > 1 {
                return true;
            }
            let Ok(mut held) = slot.try_lock() else {
                return true;
            };
            held.retain(|circuit| {
                let most = if circuit.is_retired() {
                    RETIRED_IDLE
                } else {
                    idle
                };
                let kept = |since| since < most;
                !circuit.is_closed() && circuit.idle().is_none_or(kept)
            });
            !held.is_empty()
        });
        let mut ready = lock(&client.ready);
        let before = ready.len();
        ready.retain(|circuit| !circuit.is_closed());
        if ready.len() < before {
            client.refill.notify_one();
        }
    }
}

/// Keeps circuits ready.
async fn prebuild(client: Weak<Inner>) {
    let mut rest = PREBUILD_REST.0;
    loop {
        let Some(inner) = client.upgrade() else {
            return;
        };
        let missing = inner
            .config
            .prebuilt
            .saturating_sub(lock(&inner.ready).len());
        if missing == 0 {
            let refill = Arc::clone(&inner.refill);
            // Waiting must not keep a client alive that everybody else has dropped.
            drop(inner);
            refill.notified().await;
            continue;
        }
        let hops = inner.config.hops;
        let built = match inner.build(ExitNeed::Datagrams, hops, &[]).await {
            Err(BuildError::NoPath(PathError::NoExit)) => inner.build(WEB, hops, &[]).await,
            built => built,
        };
        match built {
            Ok(circuit) => {
                rest = PREBUILD_REST.0;
                lock(&inner.ready).push(circuit);
            }
            Err(error) => {
                if error == BuildError::Closed {
                    return;
                }
                info!(%error, "no circuit could be built ahead");
                let listed = Arc::clone(&inner.listed);
                drop(inner);
                // A new list may have what was missing.
                let _ = tokio::time::timeout(rest, listed.notified()).await;
                rest = (rest * 2).min(PREBUILD_REST.1);
            }
        }
    }
}
