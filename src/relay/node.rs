//! What a relay does for the circuits that pass or end here.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use hushswarm_circuits::body::{
    DestroyReason, EndReason, ExtendRequest, ExtendStatus, OpenKind, OpenStatus,
};
use hushswarm_circuits::circuit::mux::MuxEvent;
use hushswarm_circuits::frame::Pool;
use hushswarm_circuits::handshake::{CREATE_LEN, HopPeer};
use hushswarm_circuits::keys::{DhSecret, RelayId};
use hushswarm_circuits::link::LinkPeer;
use hushswarm_circuits::relay_list::{Descriptor, ExitPolicy, Proto, RelayList};
use hushswarm_circuits::scheduler::CreditBudget;
use hushswarm_circuits::switch::{Handler, HopCircuit, Link, LinkConfig};
use hushswarm_circuits::target::Target;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tracing::debug;

use super::dht::{self, DhtNode};
use super::limits::Gatekeeper;
use super::meeting::{self, Meetings};
use super::own::Own;
use super::{Counters, Keys, datagrams, exit, lookup};
use crate::config::unix_now;
use crate::net::RelayDialer;
use crate::net::os::ExitPermit;
use crate::overlay::links::Links;

/// The next relay must answer an EXTEND within this time (PROTOCOL.md §5.5).
const EXTEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Unused frame buffers kept: 8 MiB.
const POOL: usize = 2048;
/// How often draining looks whether all circuits are gone.
const DRAIN_LOOK: Duration = Duration::from_millis(100);

/// Wakes the task of one stream.
#[derive(Default)]
pub(super) struct Signals {
    /// Something came from the origin.
    pub(super) readable: Notify,
    /// There is room again for more to the origin.
    pub(super) writable: Notify,
}

struct Stream {
    signals: Arc<Signals>,
    task: AbortHandle,
}

#[derive(Default)]
struct Table {
    /// Streams by circuit number and stream id.
    circuits: HashMap<u64, HashMap<u32, Stream>>,
    links: HashMap<u64, Weak<Link>>,
}

/// The heart of a relay.
pub(super) struct Node {
    this: Weak<Self>,
    descriptor: Descriptor,
    hop: HopPeer,
    link: LinkPeer,
    keys: Keys,
    list: RwLock<Arc<RelayList>>,
    links: Arc<Links>,
    permit: ExitPermit,
    own: Own,
    gatekeeper: Arc<Gatekeeper>,
    dht: Option<Arc<DhtNode>>,
    meetings: Option<Arc<Meetings>>,
    config: LinkConfig,
    table: Mutex<Table>,
    draining: std::sync::atomic::AtomicBool,
}

struct Proxy(Weak<Node>);

impl Node {
    #[allow(
        clippy::too_many_arguments,
        reason = "the parts of a relay, put together in one place"
    )]
    pub(super) fn new(
        descriptor: Descriptor,
        keys: Keys,
        list: Arc<RelayList>,
        dialer: Arc<dyn RelayDialer>,
        permit: ExitPermit,
        own: Own,
        gatekeeper: Arc<Gatekeeper>,
        dht: Option<Arc<DhtNode>>,
        meetings: Option<Arc<Meetings>>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| {
            let config = LinkConfig {
                handler: Arc::new(Proxy(this.clone())),
                pool: Pool::new(POOL),
                budget: CreditBudget::new(gatekeeper.limits().credit_memory),
                max_circuits: gatekeeper.limits().circuits_per_client,
            };
            let identity = Arc::clone(&keys.identity);
            Self {
                this: this.clone(),
                hop: descriptor.hop_peer(),
                link: descriptor.link_peer(),
                descriptor,
                keys,
                list: RwLock::new(list),
                links: Links::new(dialer, Some(identity), config.clone()),
                permit,
                own,
                gatekeeper,
                dht,
                meetings,
                config,
                table: Mutex::default(),
                draining: false.into(),
            }
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list(&self) -> Arc<RelayList> {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_list(&self, list: Arc<RelayList>) {
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = list;
    }

    pub(super) fn gatekeeper(&self) -> &Arc<Gatekeeper> {
        &self.gatekeeper
    }

    pub(super) fn permit(&self) -> ExitPermit {
        self.permit
    }

    /// What looks up in the DHT for others, if it does.
    pub(super) fn dht(&self) -> Option<&Arc<DhtNode>> {
        self.dht.as_ref()
    }

    /// Who waits here, where the relay takes introductions and meetings.
    pub(super) fn meetings(&self) -> Option<&Arc<Meetings>> {
        self.meetings.as_ref()
    }

    pub(super) fn policy(&self) -> &ExitPolicy {
        &self.descriptor.policy
    }

    /// Whether the exit may reach, or hear from, this address.
    pub(super) fn allows(&self, proto: Proto, addr: SocketAddr) -> bool {
        let ip = addr.ip().to_canonical();
        self.policy().allows(proto, ip, addr.port()) && !self.own.is_at(addr)
    }

    /// Whether anything leaves the network here.
    pub(super) fn is_exit(&self) -> bool {
        self.descriptor.roles.exit && !self.policy().rejects_everything()
    }

    /// Whether lookups may give this address: the exit could reach it at some port.
    pub(super) fn may_tell(&self, ip: IpAddr) -> bool {
        self.policy().may_allow_ip(ip) && !self.own.is_at(SocketAddr::new(ip, 0))
    }

    pub(super) fn link_identity(&self) -> (&DhSecret, &LinkPeer) {
        (&self.keys.link, &self.link)
    }

    pub(super) fn link_config(&self) -> LinkConfig {
        self.config.clone()
    }

    pub(super) fn counters(&self) -> Counters {
        let table = self.table();
        Counters {
            links: self.gatekeeper.links(),
            circuits: table.circuits.len(),
            streams: table.circuits.values().map(HashMap::len).sum(),
            refused: self.gatekeeper.refused(),
            dht: self
                .dht
                .as_ref()
                .map(|dht| dht.counters())
                .unwrap_or_default(),
            meetings: self
                .meetings
                .as_ref()
                .map(|meetings| meetings.counters())
                .unwrap_or_default(),
        }
    }

    /// A neighbour's link is up.
    pub(super) fn joined(&self, link: &Arc<Link>) {
        if self.is_draining() {
            return link.close(Instant::now());
        }
        self.table()
            .links
            .insert(link.number(), Arc::downgrade(link));
    }

    /// Forgets who is gone. Call it every minute or so.
    pub(super) fn tidy(&self) {
        self.gatekeeper.tidy();
        if let Some(meetings) = &self.meetings {
            meetings.tidy();
        }
        self.table().links.retain(|_, link| link.strong_count() > 0);
    }

    /// Whether the neighbour is a relay of the list, and proved it. Anybody can prove to be *some* identity.
    pub(super) fn is_listed(&self, link: &Link) -> bool {
        link.relay()
            .is_some_and(|relay| self.list().get(&relay).is_some())
    }

    fn is_draining(&self) -> bool {
        self.draining.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Refuses new circuits, waits until the present ones are gone, then closes what is left.
    pub(super) async fn drain(&self, grace: Duration) {
        self.draining
            .store(true, std::sync::atomic::Ordering::Release);
        let deadline = tokio::time::Instant::now() + grace;
        while !self.table().circuits.is_empty() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        let links: Vec<_> = self.table().links.drain().collect();
        for link in links.iter().filter_map(|(_, link)| link.upgrade()) {
            link.close(Instant::now());
        }
        self.links.close();
    }

    fn extend(&self, circuit: Arc<HopCircuit>, request: ExtendRequest) {
        let Some(node) = self.this.upgrade() else {
            return;
        };
        tokio::spawn(async move {
            let reached = tokio::time::timeout(EXTEND_TIMEOUT, node.reach(&circuit, &request));
            match reached.await.unwrap_or(Err(ExtendStatus::TimedOut)) {
                Err(status) => circuit.extend_failed(status),
                Ok(()) => {
                    tokio::time::sleep(EXTEND_TIMEOUT).await;
                    // Does nothing where the answer has come.
                    circuit.extend_failed(ExtendStatus::TimedOut);
                }
            }
        });
    }

    async fn reach(
        &self,
        circuit: &Arc<HopCircuit>,
        request: &ExtendRequest,
    ) -> Result<(), ExtendStatus> {
        let list = self.list();
        let next = list
            .get(&RelayId(request.identity))
            // A relay that no valid list has is nobody to connect to.
            .filter(|_| list.is_valid(unix_now()))
            .filter(|next| next.digest() == request.digest)
            .filter(|next| next.identity != self.descriptor.identity)
            .ok_or(ExtendStatus::NotListed)?;
        let link = self.links.get(next).await.map_err(|error| {
            debug!(circuit = circuit.number(), %error, "next hop not reached");
            ExtendStatus::Unreachable
        })?;
        // A message of another length can't be for any relay.
        let message = request.message.as_slice().try_into();
        let message = message.map_err(|_| ExtendStatus::Refused)?;
        link.open_onward(circuit, message, &mut rand::rng())
            .map_err(|_| ExtendStatus::Unreachable)
    }

    fn open(&self, circuit: &Arc<HopCircuit>, stream: u32, kind: OpenKind, target: Option<Target>) {
        let refuse = |status| circuit.with(|mux| mux.answer_open(stream, status));
        let Some(node) = self.this.upgrade() else {
            return;
        };
        let link = circuit.link();
        let place = self
            .gatekeeper
            .open(link.number(), self.is_listed(link), circuit.number());
        let Some(place) = place else {
            return refuse(OpenStatus::Limit);
        };
        let signals = Arc::new(Signals::default());
        let (circuit_, signals_) = (Arc::clone(circuit), Arc::clone(&signals));
        let mut table = self.table();
        // Spawned under the lock, so that the task can't end before it stands in the table.
        let task = tokio::spawn(async move {
            let ended = match (kind, target) {
                (OpenKind::Tcp, Some(target)) => {
                    exit::run(&node, &circuit_, stream, &target, &signals_).await
                }
                (OpenKind::Datagrams, None) => {
                    datagrams::run(&node, &circuit_, stream, &signals_).await
                }
                (OpenKind::RelayList, None) => {
                    exit::serve_bytes(node.list().bytes(), &circuit_, stream, &signals_).await
                }
                (OpenKind::Resolve | OpenKind::ResolvePtr, Some(target)) => {
                    lookup::run(&node, &circuit_, stream, &target.host, &signals_).await
                }
                (OpenKind::Dht, None) => {
                    dht::service::run(&node, &circuit_, stream, &signals_).await
                }
                (OpenKind::IntroductionPoint, None) => {
                    meeting::introduction::stand(&node, &circuit_, stream, &signals_).await
                }
                (OpenKind::Introduce, None) => {
                    meeting::introduction::introduce(&node, &circuit_, stream, &signals_).await
                }
                (OpenKind::RendezvousWait, None) => {
                    meeting::rendezvous::wait(&node, &circuit_, stream, &signals_).await
                }
                (OpenKind::RendezvousJoin, None) => {
                    meeting::rendezvous::join(&node, &circuit_, stream, &signals_).await
                }
                (OpenKind::Tcp | OpenKind::Resolve | OpenKind::ResolvePtr, None)
                | (
                    OpenKind::Datagrams
                    | OpenKind::RelayList
                    | OpenKind::Dht
                    | OpenKind::IntroductionPoint
                    | OpenKind::Introduce
                    | OpenKind::RendezvousWait
                    | OpenKind::RendezvousJoin,
                    Some(_),
                ) => Err(exit::Ended::Refused(OpenStatus::Failed)),
            };
            match ended {
                Ok(()) => {}
                Err(exit::Ended::Refused(status)) => {
                    circuit_.with(|mux| mux.answer_open(stream, status));
                }
                Err(exit::Ended::Reset(reason)) => {
                    circuit_.with(|mux| mux.reset(stream, reason));
                }
                Err(exit::Ended::ByOrigin) => {}
            }
            drop(place);
            if let Some(streams) = node.table().circuits.get_mut(&circuit_.number()) {
                streams.remove(&stream);
            }
        });
        match table.circuits.get_mut(&circuit.number()) {
            Some(streams) => {
                streams.insert(
                    stream,
                    Stream {
                        signals,
                        task: task.abort_handle(),
                    },
                );
            }
            // The circuit closed in between.
            None => task.abort(),
        }
    }

    fn signal(&self, circuit: u64, stream: u32, wake: impl FnOnce(&Signals)) {
        if let Some(stream) = self
            .table()
            .circuits
            .get(&circuit)
            .and_then(|c| c.get(&stream))
        {
            wake(&stream.signals);
        }
    }
}

impl Handler for Proxy {
    fn create(&self, link: &Arc<Link>, circuit: u32, message: &[u8; CREATE_LEN]) {
        let Some(node) = self.0.upgrade() else {
            return link.refuse(circuit, DestroyReason::ShuttingDown);
        };
        if node.is_draining() {
            return link.refuse(circuit, DestroyReason::ShuttingDown);
        }
        let circuits = node.table().circuits.len();
        if !node
            .gatekeeper
            .create(link.number(), node.is_listed(link), circuits)
        {
            return link.refuse(circuit, DestroyReason::Limit);
        }
        let (link, message) = (Arc::clone(link), Box::new(*message));
        // A handshake takes most of a millisecond, for which the link's other circuits should not wait.
        tokio::spawn(async move {
            let register = |hop: &Arc<HopCircuit>| {
                node.table().circuits.insert(hop.number(), HashMap::new());
            };
            let accepted = link.accept(
                circuit,
                &message,
                &node.keys.onion,
                &node.hop,
                &mut rand::rng(),
                register,
            );
            if let Err(error) = accepted {
                debug!(link = link.number(), %error, "a hop handshake failed");
            }
        });
    }

    fn authenticated(&self, link: &Arc<Link>, relay: RelayId) {
        if let Some(node) = self.0.upgrade()
            && node.list().get(&relay).is_some()
        {
            link.set_max_circuits(hushswarm_circuits::switch::MAX_CIRCUITS);
        }
    }

    fn hop_event(&self, circuit: &Arc<HopCircuit>, event: MuxEvent) {
        let Some(node) = self.0.upgrade() else { return };
        match event {
            MuxEvent::Open {
                stream,
                kind,
                target,
            } => node.open(circuit, stream, kind, target),
            MuxEvent::Readable { stream } => {
                node.signal(circuit.number(), stream, |signals| {
                    signals.readable.notify_one()
                });
            }
            MuxEvent::Writable { stream } => {
                node.signal(circuit.number(), stream, |signals| {
                    signals.writable.notify_one()
                });
            }
            MuxEvent::Extend(request) => node.extend(Arc::clone(circuit), request),
            MuxEvent::Opened { .. } | MuxEvent::Extended(..) => {
                circuit.close(DestroyReason::Protocol);
            }
        }
    }

    fn hop_closed(&self, circuit: &Arc<HopCircuit>) {
        let Some(node) = self.0.upgrade() else { return };
        let streams = node.table().circuits.remove(&circuit.number());
        for stream in streams.into_iter().flat_map(HashMap::into_values) {
            stream.task.abort();
        }
    }
}

/// What a stream's task tells the origin when it can't go on.
pub(super) fn reset_reason(error: &std::io::Error) -> EndReason {
    if error.kind() == std::io::ErrorKind::TimedOut {
        EndReason::TimedOut
    } else {
        EndReason::Reset
    }
}
