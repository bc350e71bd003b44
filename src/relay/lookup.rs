//! Lookups for others (PROTOCOL.md §5.7): the addresses of a name, the name of an address. An exit alone does them.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hushswarm_circuits::body::OpenStatus;
use hushswarm_circuits::lookup::{Answer, MAX_ADDRESSES};
use hushswarm_circuits::relay_list::is_global;
use hushswarm_circuits::switch::HopCircuit;
use hushswarm_circuits::target::Host;
use tokio::time::timeout;

use super::exit::{Ended, serve_bytes};
use super::node::{Node, Signals};

/// A lookup is answered within this time: origins wait for 25 s.
const LOOKUP_LIMIT: Duration = Duration::from_secs(15);

/// Looks up what an origin asks for, and sends the answer.
pub(super) async fn run(
    node: &Node,
    circuit: &Arc<HopCircuit>,
    stream: u32,
    host: &Host,
    signals: &Signals,
) -> Result<(), Ended> {
    let answer = match host {
        Host::Name(name) => forward(node, circuit, name.as_str()).await,
        Host::Ip(ip) => reverse(node, circuit, ip.to_canonical()).await,
    };
    let bytes = answer.map_err(Ended::Refused)?.encode();
    serve_bytes(&bytes, circuit, stream, signals).await
}

async fn forward(node: &Node, circuit: &Arc<HopCircuit>, name: &str) -> Result<Answer, OpenStatus> {
    if !node.is_exit() {
        return Err(OpenStatus::Refused);
    }
    let mut found: Vec<IpAddr> = Vec::new();
    for ip in addresses(node, circuit, name).await? {
        let ip = ip.to_canonical();
        // Whoever may not go there is not told where it is either: private addresses tell of the exit's own network.
        if node.may_tell(ip) && !found.contains(&ip) && found.len() < MAX_ADDRESSES {
            found.push(ip);
        }
    }
    if found.is_empty() {
        return Err(OpenStatus::Refused);
    }
    // The system's resolver does not say how long its answers hold.
    let found = found.into_iter().map(|ip| (ip, 0)).collect();
    Ok(Answer::Addresses(found))
}

async fn reverse(node: &Node, circuit: &Arc<HopCircuit>, ip: IpAddr) -> Result<Answer, OpenStatus> {
    if !node.is_exit() || !is_global(ip) || !node.may_tell(ip) {
        return Err(OpenStatus::Refused);
    }
    let place = node.gatekeeper().lookup(circuit.number());
    let _place = place.ok_or(OpenStatus::Limit)?;
    let asked = timeout(LOOKUP_LIMIT, node.permit().resolve_ptr(ip)).await;
    match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok((name, ttl)) => Ok(Answer::Name(name, ttl)),
        Err(error) => Err(status(&error)),
    }
}

fn status(error: &io::Error) -> OpenStatus {
    if error.kind() == io::ErrorKind::NotFound {
        OpenStatus::NameNotFound
    } else {
        OpenStatus::TimedOut
    }
}

/// All addresses of a name, at least one, where the limits of lookups allow it. They are not filtered.
pub(super) async fn addresses(
    node: &Node,
    circuit: &Arc<HopCircuit>,
    name: &str,
) -> Result<Vec<IpAddr>, OpenStatus> {
    let place = node.gatekeeper().lookup(circuit.number());
    let place = place.ok_or(OpenStatus::Limit)?;
    let (permit, name) = (node.permit(), name.to_owned());
    // The system's resolver occupies a thread until it is done, whoever still waits; for so long it has its place.
    let lookup = tokio::spawn(async move {
        let found = permit.resolve(&name).await;
        drop(place);
        found
    });
    match timeout(LOOKUP_LIMIT, lookup).await {
        Ok(Ok(Ok(ips))) if ips.is_empty() => Err(OpenStatus::NameNotFound),
        Ok(Ok(Ok(ips))) => Ok(ips),
        Ok(Ok(Err(error))) => Err(status(&error)),
        Ok(Err(_)) => Err(OpenStatus::Failed),
        Err(_) => Err(OpenStatus::TimedOut),
    }
}
