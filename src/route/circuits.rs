//! The route through circuits of the overlay.

use std::time::Duration;

use hushswarm_circuits::body::OpenStatus;
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::keys::RelayId;
use hushswarm_circuits::path::ExitNeed;
use hushswarm_circuits::relay_list::Proto;
use hushswarm_circuits::target::Target;

use super::{BoxFuture, BoxStream, Datagrams, Outside, RouteError};
use crate::overlay::circuit::StreamFailure;
use crate::overlay::client::{Client, Wanted};

/// How long an exit may take to open a stream: its own limit is 15 s, and the way is long.
const OPEN_TIMEOUT: Duration = Duration::from_secs(25);
/// Circuits tried for one stream: for one that breaks in between, and for an exit that refuses.
const ATTEMPTS: usize = 3;

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

    fn wanted<'a>(&self, exit: ExitNeed, avoid: &'a [RelayId]) -> Wanted<'a> {
        Wanted {
            exit,
            hops: self.hops,
            avoid,
        }
    }
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
}
