//! Keeps the relay's node warm: it finds nodes at the start, looks up what its tables ask for, and notices who is gone.
//!
//! A table has 128 parts, each of which is looked up when nobody of it answered for a quarter of an hour. In the simulation of
//! 10,000 nodes the first hour of a table that nobody else uses takes 8,600 queries for each family, 143 a minute; from then on
//! there are at most 128 lookups of 16 queries in a quarter of an hour, 137 a minute, and fewer the more is looked up for others.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hushswarm_circuits::target::Host;
use rand::RngExt as _;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::node::DhtNode;
use super::walk::Walk;
use crate::krpc::{Event, Family, Goal, Id, Settings};

/// How often queries that stayed unanswered are looked for.
const TICK: Duration = Duration::from_secs(1);
/// How often limits forget who was not seen: this many ticks.
const TIDY_TICKS: u32 = 10;
/// A table with fewer nodes, the closest of a lookup, is filled from the names to begin from.
const FEW: usize = 8;
/// With this many the table is full enough: what is looked up then is who still lives, and who takes the place of who does not.
const WARM: usize = 512;
/// Queries of such a lookup: those of one part of the table, and as many of the others they name.
const WARM_QUERIES: usize = 16;
/// How long a name to begin from may take to be resolved.
const RESOLVE_LIMIT: Duration = Duration::from_secs(15);
/// Addresses of one name that are used.
const MAX_ADDRESSES: usize = 4;
/// The rest after a try to fill an empty table, the first and the longest: a machine without IPv6 tries this rarely.
const REST: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(900));
/// The rest between two lookups of the node's own, at least and at most: its upkeep is never a burst.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(6));
/// A table is asked at least so often whether it wants something looked up.
const LOOK: Duration = Duration::from_secs(60);

/// Runs the node until it is dropped.
pub(in crate::relay) async fn run(node: Arc<DhtNode>) {
    tokio::join!(
        node.receive(),
        tick(&node),
        keep(&node, Family::V4),
        keep(&node, Family::V6),
    );
}

async fn tick(node: &DhtNode) {
    for n in 0u32.. {
        sleep(TICK).await;
        node.expire();
        if n.is_multiple_of(TIDY_TICKS) {
            node.keeper.tidy();
        }
    }
}

async fn keep(node: &Arc<DhtNode>, family: Family) {
    if !node.has(family) {
        return;
    }
    let mut rest = REST.0;
    loop {
        if node.known(family) < FEW {
            resolve(node, family).await;
            // Around a place of the table's own choice first, then anywhere.
            let target = node
                .refresh(family)
                .unwrap_or_else(|_| Id::random(&mut rand::rng()));
            look_up(node, family, target).await;
            if node.known(family) < FEW {
                sleep(rest).await;
                rest = (rest * 2).min(REST.1);
            } else {
                let nodes = node.known(family);
                debug!(?family, nodes, "the table is filled");
            }
            continue;
        }
        rest = REST.0;
        match node.refresh(family) {
            Ok(target) => {
                look_up(node, family, target).await;
                let pause = rand::rng().random_range(PAUSE.0..PAUSE.1);
                sleep(pause).await;
            }
            Err(due) => {
                let now = Instant::now();
                let left = due.map_or(LOOK, |due| due.saturating_duration_since(now));
                sleep(left.clamp(PAUSE.0, LOOK)).await;
            }
        }
    }
}

/// Finds the nodes around a target; nobody is told of anything that somebody looks for.
async fn look_up(node: &Arc<DhtNode>, family: Family, target: Id) {
    let settings = if node.known(family) < WARM {
        node.settings().clone()
    } else {
        Settings {
            queries: WARM_QUERIES,
            // Nobody is told anything, so nothing is kept for that.
            told: 0,
            ..node.settings().clone()
        }
    };
    let walk = Walk::begin_within(node, &settings, family, target, Goal::Nodes);
    let Some(mut walk) = walk else {
        return;
    };
    loop {
        while let Some(event) = walk.event() {
            if let Event::Finished(_) = event {
                return;
            }
        }
        walk.ask().await;
        walk.wait().await;
    }
}

/// Resolves the names to begin from, by the relay's own resolver, one after another.
async fn resolve(node: &DhtNode, family: Family) {
    let mut nodes = Vec::new();
    for name in &node.names {
        let found: Vec<IpAddr> = match &name.host {
            Host::Ip(ip) => vec![*ip],
            Host::Name(host) => {
                let found = timeout(RESOLVE_LIMIT, node.permit.resolve(host.as_str())).await;
                // One that can't be resolved now is tried with the next try; there are others.
                found.ok().and_then(Result::ok).unwrap_or_default()
            }
        };
        let of_family = |ip: &IpAddr| family.has(ip.to_canonical());
        let found: Vec<IpAddr> = found.into_iter().filter(of_family).collect();
        let found = &found[..found.len().min(MAX_ADDRESSES)];
        node.set_bootstraps(found, name.port, &mut nodes);
    }
    node.begin_from(family, nodes);
}
