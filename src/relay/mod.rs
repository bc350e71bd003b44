//! The relay daemon: it takes links, passes cells on, and as an exit opens connections for others.
//!
//! `net -> link -> switch (circuits) -> here`: the switch passes cells on by itself; what it can't do without a socket
//! or a clock, it asks of `node::Node`.

mod datagrams;
mod dht;
mod exit;
pub mod limits;
mod lookup;
mod meeting;
mod node;
mod own;
mod threads;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hushswarm_circuits::keys::{DhSecret, IdentityKey};
use hushswarm_circuits::relay_list::{Descriptor, RelayList};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::config::{MeetingLimits, RelayDht};
use crate::net::os::{ExitPermit, Incoming, LinkListener};
use crate::net::{RelayDialer, Transport};
use crate::overlay::link::{HANDSHAKE_TIMEOUT, TOR_HANDSHAKE_TIMEOUT, answer};
pub use dht::DhtCounters;
use dht::DhtNode;
use limits::{Gatekeeper, Limits, Place};
pub use meeting::MeetingCounters;
use meeting::Meetings;
use node::Node;
use own::Own;
use threads::Threads;

/// How often limits are tidied and counters written to the log.
const TICK: Duration = Duration::from_secs(60);
/// After an accept that failed (mostly for want of descriptors) the listener rests so long.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The secret keys of a relay.
pub struct Keys {
    /// Signs the descriptor and AUTH.
    pub identity: Arc<IdentityKey>,
    /// Static key of hop handshakes.
    pub onion: DhSecret,
    /// Static key of link handshakes.
    pub link: DhSecret,
}

/// What a relay runs with.
pub struct Options {
    /// Its own signed descriptor.
    pub descriptor: Descriptor,
    /// Its keys.
    pub keys: Keys,
    /// The relay list. Later lists come through [`Relay::set_list`].
    pub list: Arc<RelayList>,
    /// Where it takes links; bound first, since the descriptor names their ports.
    pub listeners: Vec<LinkListener>,
    /// Address that exit connections leave from; `None` lets the system choose.
    pub exit_source: Option<IpAddr>,
    /// Limits.
    pub limits: Limits,
    /// How it looks up in the DHT for others; only where its descriptor has the role for it.
    pub dht: Option<RelayDht>,
    /// How much it introduces; only where its descriptor has the role for it.
    pub meetings: MeetingLimits,
}

/// What a relay can tell of itself: counts, never addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Links open or in their handshake.
    pub links: usize,
    /// Circuits that pass or end here.
    pub circuits: usize,
    /// Streams and datagram flows that end here.
    pub streams: usize,
    /// Requests refused by a limit since the start, but for those of lookups in the DHT and of meetings.
    pub refused: usize,
    /// Lookups in the DHT.
    pub dht: DhtCounters,
    /// Introductions and meetings.
    pub meetings: MeetingCounters,
}

/// A running relay.
pub struct Relay {
    node: Arc<Node>,
    addrs: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    /// Links run on them until the end.
    threads: Arc<Threads>,
}

/// Where links come in that the relay did not listen for itself: through its onion service.
#[derive(Clone)]
pub struct Door {
    node: Arc<Node>,
    threads: Arc<Threads>,
    stopped: watch::Receiver<bool>,
}

impl Door {
    /// Answers a link of somebody who is not told from another.
    pub fn accept(&self, transport: Transport) {
        if !*self.stopped.borrow() {
            self.threads
                .spawn(take_visitor(transport, Arc::clone(&self.node)));
        }
    }
}

impl Relay {
    /// Begins to serve.
    pub fn start(options: Options, dialer: Arc<dyn RelayDialer>) -> Self {
        let listeners = options.listeners;
        let addrs: Vec<SocketAddr> = listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect();
        let permit = ExitPermit::for_relay(options.exit_source);
        let own = Own::new(&options.descriptor, &addrs, options.exit_source);
        let gatekeeper = Arc::new(Gatekeeper::new(options.limits));
        let dht = open_dht(&options.descriptor, options.dht, permit, &own);
        let introduces = options.descriptor.roles.introduce;
        let meetings = introduces.then(|| Arc::new(Meetings::new(options.meetings)));
        let node = Node::new(
            options.descriptor,
            options.keys,
            options.list,
            dialer,
            permit,
            own,
            Arc::clone(&gatekeeper),
            dht.clone(),
            meetings,
        );
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let threads = Arc::new(Threads::start());
        for listener in listeners {
            let (node, threads) = (Arc::clone(&node), Arc::clone(&threads));
            tasks.spawn(listen(listener, node, threads, stopped.clone()));
        }
        if let Some(dht) = dht {
            tasks.spawn(dht::run(dht));
        }
        tasks.spawn(tick(Arc::clone(&node), stopped));
        Self {
            node,
            addrs,
            stop,
            tasks,
            threads,
        }
    }

    /// Where it listens.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Where links come in through an onion service.
    pub fn door(&self) -> Door {
        Door {
            node: Arc::clone(&self.node),
            threads: Arc::clone(&self.threads),
            stopped: self.stop.subscribe(),
        }
    }

    /// Takes a newer relay list.
    pub fn set_list(&self, list: Arc<RelayList>) {
        self.node.set_list(list);
    }

    /// What it does now.
    pub fn counters(&self) -> Counters {
        self.node.counters()
    }

    /// Takes nothing new, lets circuits end for up to `grace`, then closes the rest.
    pub async fn stop(mut self, grace: Duration) {
        self.stop.send_replace(true);
        self.node.drain(grace).await;
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The node that looks up for others, where the descriptor offers it and the operator wants it.
fn open_dht(
    descriptor: &Descriptor,
    config: Option<RelayDht>,
    permit: ExitPermit,
    own: &Own,
) -> Option<Arc<DhtNode>> {
    let offered = descriptor.roles.dht && descriptor.roles.exit;
    let config = match (config, offered) {
        (Some(config), true) => config,
        (None, false) => return None,
        (Some(_), false) | (None, true) => {
            warn!(
                "the descriptor and relay.toml disagree on lookups in the DHT, so there are none: make the descriptor anew with \"hushswarm network relay-keys\""
            );
            return None;
        }
    };
    let opened = DhtNode::new(config, permit, descriptor.policy.clone(), own.clone());
    opened
        .inspect_err(
            |error| warn!(kind = %error.kind(), "no lookups in the DHT: no socket for them"),
        )
        .ok()
}

async fn listen(
    listener: LinkListener,
    node: Arc<Node>,
    threads: Arc<Threads>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((incoming, from)) => {
                threads.spawn(take_link(incoming, from.ip(), Arc::clone(&node)));
            }
            Err(error) => {
                warn!(kind = %error.kind(), "can't take a connection; is the limit of open files too low?");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

async fn take_link(incoming: Incoming, from: IpAddr, node: Arc<Node>) {
    let Some(place) = node.gatekeeper().link(from) else {
        return;
    };
    let Ok(transport) = incoming.transport() else {
        return;
    };
    take(transport, HANDSHAKE_TIMEOUT, place, &node).await;
}

async fn take_visitor(transport: Transport, node: Arc<Node>) {
    if let Some(place) = node.gatekeeper().link_by_onion() {
        take(transport, TOR_HANDSHAKE_TIMEOUT, place, &node).await;
    }
}

async fn take(transport: Transport, limit: Duration, place: Place, node: &Node) {
    // The reader of the link owns the brake, and with it the place: both end when the link does.
    let brake = node.gatekeeper().brake(place);
    let (secret, own) = node.link_identity();
    match answer(transport, limit, secret, own, node.link_config(), brake).await {
        Ok(link) => node.joined(&link),
        Err(error) => debug!(%error, "a neighbour did not become a link"),
    }
}

async fn tick(node: Arc<Node>, mut stopped: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
        node.tidy();
        let Counters {
            links,
            circuits,
            streams,
            refused,
            dht,
            meetings,
        } = node.counters();
        info!(links, circuits, streams, refused, "relay");
        if node.meetings().is_some() {
            let MeetingCounters {
                points,
                waiting,
                joined,
                introduced,
                refused,
            } = meetings;
            info!(points, waiting, joined, introduced, refused, "meetings");
        }
        if node.dht().is_some() {
            let DhtCounters {
                lookups,
                begun,
                refused,
                queries,
                answered,
                put_off,
                nodes,
            } = dht;
            info!(
                lookups,
                begun, refused, queries, answered, put_off, nodes, "lookups in the DHT"
            );
        }
    }
}
