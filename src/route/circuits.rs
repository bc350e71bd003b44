//! The route through circuits of the overlay.

use std::net::IpAddr;
use std::time::Duration;

use hushswarm_circuits::body::OpenStatus;
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::keys::RelayId;
use hushswarm_circuits::lookup::Answer;
use hushswarm_circuits::path::{ExitNeed, PathError};
use hushswarm_circuits::relay_list::{ExitPolicy, Proto, is_global};
use hushswarm_circuits::rendezvous::work::CHALLENGE_LEN;
use hushswarm_circuits::rendezvous::{Challenge, Status};
use hushswarm_circuits::target::{Host, HostName, Target};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::{At, BoxFuture, BoxStream, Datagrams, Meet, Met, Outside, RouteError};
use crate::overlay::circuit::StreamFailure;
use crate::overlay::client::{BuildError, Client, Wanted};
use crate::overlay::stream::CircuitStream;

/// How long an exit may take to open a stream: its own limit is 15 s, and the way is long.
const OPEN_TIMEOUT: Duration = Duration::from_secs(25);
/// Circuits tried for one stream: for one that breaks in between, and for an exit that refuses.
const ATTEMPTS: usize = 3;

/// What an introduction point asks for, behind the status that says that it does.
async fn asked(stream: &mut CircuitStream) -> Option<Challenge> {
    let mut challenge = [0; CHALLENGE_LEN];
    stream.read_exact(&mut challenge).await.ok()?;
    Challenge::decode(&challenge).ok()
}

/// Opens streams in circuits.
#[derive(Clone)]
pub struct CircuitRoute {
    client: Client,
    hops: Option<u8>,
}

impl CircuitRoute {
    /// Uses this client's circuits.
    pub fn new(client: Client) -> Self {
        Self { client, hops: None }
    }

    /// The same client's circuits, with this number of relays, 1 to 3; `None`: as many as the client is set to.
    #[must_use]
    pub fn with_hops(&self, hops: Option<u8>) -> Self {
        Self {
            client: self.client.clone(),
            hops,
        }
    }

    /// Looks up at one exit after another. `read` takes what is right out of an answer, or nothing.
    async fn look_up<T>(
        &self,
        host: &Host,
        isolation: Isolation,
        read: impl Fn(&ExitPolicy, Answer) -> Option<T>,
    ) -> Result<T, RouteError> {
        let mut avoid: Vec<RelayId> = Vec::new();
        let mut last = RouteError::CircuitLost;
        for _ in 0..ATTEMPTS {
            let wanted = self.wanted(ExitNeed::Lookup, &avoid);
            let circuit = match self.client.circuit_for(isolation, wanted).await {
                Ok(circuit) => circuit,
                // An exit has failed, and there is no other: its failure is what happened.
                Err(_) if !avoid.is_empty() => return Err(last),
                Err(error) => return Err(RouteError::NoCircuit(error.to_string())),
            };
            let exit = circuit.path().last();
            last = match circuit.look_up(host, OPEN_TIMEOUT).await {
                Ok(answer) => match exit.and_then(|exit| read(&exit.policy, answer)) {
                    Some(found) => return Ok(found),
                    // An exit that gives what it must not is as good as one that refuses.
                    None => RouteError::Refused,
                },
                Err(StreamFailure::Status(OpenStatus::NameNotFound)) => {
                    return Err(RouteError::NameNotFound);
                }
                Err(failure @ StreamFailure::Status(_)) => route_error(failure),
                Err(failure @ (StreamFailure::TimedOut | StreamFailure::CircuitLost)) => {
                    last = route_error(failure);
                    circuit.retire();
                    continue;
                }
            };
            // The resolver of another exit may do better.
            avoid.extend(exit.map(|exit| exit.identity));
        }
        Err(last)
    }

    /// Opens a lookup at one exit after another that offers them.
    async fn open_dht(
        &self,
        request: &[u8],
        isolation: Isolation,
    ) -> Result<BoxStream, RouteError> {
        let mut avoid: Vec<RelayId> = Vec::new();
        let mut last = RouteError::CircuitLost;
        for _ in 0..ATTEMPTS {
            let wanted = self.wanted(ExitNeed::Dht, &avoid);
            let circuit = match self.client.circuit_for(isolation, wanted).await {
                Ok(circuit) => circuit,
                // An exit has refused, and there is no other: its refusal is what happened.
                Err(_) if !avoid.is_empty() => return Err(last),
                // Nobody in the list offers it, or nobody who can be in one circuit with our guards.
                Err(BuildError::NoPath(
                    PathError::NoExit | PathError::GuardTooClose | PathError::NoMiddle,
                )) => return Err(RouteError::Refused),
                Err(error) => return Err(RouteError::NoCircuit(error.to_string())),
            };
            let failure = match circuit.dht(request, OPEN_TIMEOUT).await {
                Ok(stream) => return Ok(Box::new(stream) as BoxStream),
                Err(failure) => failure,
            };
            last = match failure {
                StreamFailure::Status(OpenStatus::Limit) => RouteError::Busy,
                StreamFailure::Status(_) => route_error(failure),
                StreamFailure::TimedOut => {
                    // It takes circuits and does nothing with them: another one may.
                    circuit.retire();
                    route_error(failure)
                }
                StreamFailure::CircuitLost => {
                    last = route_error(failure);
                    circuit.retire();
                    continue;
                }
            };
            avoid.extend(circuit.path().last().map(|exit| exit.identity));
        }
        Err(last)
    }

    /// Asks for a meeting at the relay that is named, or at one after another that takes them.
    async fn open_meeting(
        &self,
        at: At,
        meet: Meet<'_>,
        isolation: Isolation,
    ) -> Result<Met, RouteError> {
        let named = matches!(at, At::Relay { .. });
        let (need, mut avoid, near) = match at {
            At::Any { but } => {
                let near = self.client.near(&but);
                (ExitNeed::Introduce, but, near)
            }
            At::Relay { id, digest } => {
                let list = self.client.list();
                let listed = list.get(&id).map(|relay| relay.digest());
                // Who names a relay that we know otherwise, or not at all, is not followed there.
                if listed.is_none() || digest.is_some_and(|digest| listed != Some(digest)) {
                    return Err(RouteError::Refused);
                }
                (ExitNeed::IntroduceAt(id), Vec::new(), Vec::new())
            }
        };
        // Who visits chose the relay: it does not make us come again and again.
        let attempts = if matches!(meet, Meet::Join(_)) {
            1
        } else {
            ATTEMPTS
        };
        let mut last = None;
        for _ in 0..attempts {
            let not_last = [&avoid[..], &near].concat();
            let wanted = self.wanted(need, &not_last);
            let mut built = self.client.circuit_for(isolation, wanted).await;
            if !near.is_empty() && matches!(built, Err(BuildError::NoPath(_))) {
                // In a small network another relay of the same operator is better than none.
                let wanted = self.wanted(need, &avoid);
                built = self.client.circuit_for(isolation, wanted).await;
            }
            let circuit = match (built, last) {
                (Ok(circuit), _) => circuit,
                // A relay has refused, and there is no other: its refusal is what happened.
                (Err(_), Some(last)) => return Err(last),
                (Err(BuildError::NoPath(PathError::NoExit)), None) => {
                    return Err(RouteError::Refused);
                }
                (Err(error), None) => return Err(RouteError::NoCircuit(error.to_string())),
            };
            let relay = circuit.path().last().ok_or(RouteError::CircuitLost)?;
            let met = circuit.meet(meet, OPEN_TIMEOUT).await;
            // It is for this alone, and ends with it.
            circuit.retire();
            let (failure, refused) = match met {
                Ok((stream, Status::Done)) => {
                    return Ok(Met {
                        stream: Box::new(stream),
                        relay: relay.identity,
                        digest: relay.digest(),
                        work: None,
                    });
                }
                Ok((mut stream, Status::Work)) if matches!(meet, Meet::Introduce(..)) => {
                    let work = timeout(OPEN_TIMEOUT, asked(&mut stream)).await;
                    // A relay that breaks the protocol is as good as gone.
                    let work = work.ok().flatten().ok_or(RouteError::CircuitLost)?;
                    return Ok(Met {
                        stream: Box::new(stream),
                        relay: relay.identity,
                        digest: relay.digest(),
                        work: Some(work),
                    });
                }
                Ok((_, Status::Unknown)) => return Err(RouteError::ConnectionRefused),
                Ok((_, Status::Limit)) => (RouteError::Busy, true),
                Ok((_, Status::Refused | Status::Expired | Status::Work)) => {
                    (RouteError::Refused, true)
                }
                Err(StreamFailure::Status(OpenStatus::Limit)) => (RouteError::Busy, true),
                Err(failure @ StreamFailure::Status(_)) => (route_error(failure), true),
                Err(failure @ (StreamFailure::TimedOut | StreamFailure::CircuitLost)) => {
                    (route_error(failure), false)
                }
            };
            if refused && named {
                return Err(failure);
            }
            if refused {
                avoid.push(relay.identity);
            }
            last = Some(failure);
        }
        Err(last.unwrap_or(RouteError::CircuitLost))
    }

    fn wanted<'a>(&self, exit: ExitNeed, not_last: &'a [RelayId]) -> Wanted<'a> {
        Wanted {
            exit,
            hops: self.hops,
            not_last,
        }
    }
}

/// Addresses that the exit itself could reach. Others it must not give, by its own word in the relay list: a private
/// address would lead a program of this computer to its neighbours.
fn told(exit: &ExitPolicy, found: &[(IpAddr, u32)]) -> Vec<IpAddr> {
    let ips = found.iter().map(|(ip, _)| ip.to_canonical());
    ips.filter(|ip| exit.may_allow_ip(*ip)).collect()
}

fn route_error(failure: StreamFailure) -> RouteError {
    match failure {
        StreamFailure::Status(status) => match status {
            OpenStatus::Refused => RouteError::Refused,
            OpenStatus::NameNotFound => RouteError::NameNotFound,
            OpenStatus::ConnectionRefused => RouteError::ConnectionRefused,
            OpenStatus::Unreachable => RouteError::Unreachable,
            OpenStatus::TimedOut => RouteError::TimedOut,
            OpenStatus::Open | OpenStatus::Limit | OpenStatus::Failed => RouteError::CircuitLost,
        },
        StreamFailure::TimedOut => RouteError::TimedOut,
        StreamFailure::CircuitLost => RouteError::CircuitLost,
    }
}

impl Outside for CircuitRoute {
    fn connect<'a>(
        &'a self,
        target: &'a Target,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        Box::pin(async move {
            let mut avoid: Vec<RelayId> = Vec::new();
            let mut last = RouteError::CircuitLost;
            for _ in 0..ATTEMPTS {
                let wanted = self.wanted(ExitNeed::for_target(Proto::Tcp, target), &avoid);
                let circuit = match self.client.circuit_for(isolation, wanted).await {
                    Ok(circuit) => circuit,
                    // An exit has refused, and there is no other: its refusal is what happened.
                    Err(_) if !avoid.is_empty() => return Err(last),
                    Err(error) => return Err(RouteError::NoCircuit(error.to_string())),
                };
                match circuit.connect(target, OPEN_TIMEOUT).await {
                    Ok(stream) => return Ok(Box::new(stream) as BoxStream),
                    Err(failure) => {
                        last = route_error(failure);
                        let hangs = failure == StreamFailure::TimedOut;
                        if last == RouteError::CircuitLost || hangs {
                            // An exit that works answers in time; what ours does not know is where it hangs.
                            circuit.retire();
                        } else if last == RouteError::Refused {
                            avoid.extend(circuit.path().last().map(|exit| exit.identity));
                        } else {
                            return Err(last);
                        }
                    }
                }
            }
            Err(last)
        })
    }

    fn datagrams(
        &self,
        isolation: Isolation,
    ) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        Box::pin(async move {
            let mut last = RouteError::CircuitLost;
            for _ in 0..ATTEMPTS {
                let wanted = self.wanted(ExitNeed::Datagrams, &[]);
                let circuit = self
                    .client
                    .circuit_for(isolation, wanted)
                    .await
                    .map_err(|error| RouteError::NoCircuit(error.to_string()))?;
                match circuit.datagrams(OPEN_TIMEOUT).await {
                    Ok(flow) => return Ok(Box::new(flow) as Box<dyn Datagrams>),
                    Err(failure) => {
                        last = route_error(failure);
                        circuit.retire();
                    }
                }
            }
            Err(last)
        })
    }

    fn resolve<'a>(
        &'a self,
        name: &'a HostName,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, RouteError>> {
        Box::pin(async move {
            let host = Host::Name(name.clone());
            let read = |exit: &ExitPolicy, answer| match answer {
                Answer::Addresses(found) => Some(told(exit, &found)).filter(|ips| !ips.is_empty()),
                Answer::Name(..) => None,
            };
            self.look_up(&host, isolation, read).await
        })
    }

    fn dht<'a>(
        &'a self,
        request: &'a [u8],
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        Box::pin(self.open_dht(request, isolation))
    }

    fn meet<'a>(
        &'a self,
        at: At,
        meet: Meet<'a>,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<Met, RouteError>> {
        Box::pin(self.open_meeting(at, meet, isolation))
    }

    fn resolve_ptr(
        &self,
        ip: IpAddr,
        isolation: Isolation,
    ) -> BoxFuture<'_, Result<HostName, RouteError>> {
        Box::pin(async move {
            let ip = ip.to_canonical();
            if !is_global(ip) {
                return Err(RouteError::Refused);
            }
            let read = |_: &ExitPolicy, answer| match answer {
                Answer::Name(name, _) => Some(name),
                Answer::Addresses(_) => None,
            };
            self.look_up(&Host::Ip(ip), isolation, read).await
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_exit_that_gives_addresses_it_must_not_is_not_believed() {
        let ips = |texts: &[&str]| -> Vec<IpAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let given = ["8.8.8.8", "10.0.0.1", "::1", "::ffff:8.8.4.4", "fd00::1"];
        let given: Vec<_> = ips(&given).into_iter().map(|ip| (ip, 60)).collect();
        let public = told(&ExitPolicy::public(), &given);
        assert_eq!(public, ips(&["8.8.8.8", "8.8.4.4"]));
        let private = ExitPolicy::from_texts(&["accept tcp 10.0.0.0/8:*"]).unwrap();
        assert_eq!(told(&private, &given), ips(&["10.0.0.1"]));
    }
}
