//! The route through circuits of the overlay.

use std::time::Duration;

use hushswarm_circuits::body::OpenStatus;
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::keys::RelayId;
use hushswarm_circuits::relay_list::Proto;
use hushswarm_circuits::target::Target;

use super::{BoxFuture, BoxStream, Datagrams, Outside, RouteError};
use crate::overlay::circuit::StreamFailure;
use crate::overlay::client::Client;

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

    /// Until the client builds circuits of several lengths, another length than its own is no circuit at all.
    fn check_hops(&self) -> Result<(), RouteError> {
        match self.hops.map(usize::from) {
            Some(hops) if hops != self.client.hops() => Err(RouteError::NoCircuit(format!(
                "a rule asks for {hops} hops, and this client's circuits have {}",
                self.client.hops()
            ))),
            Some(_) | None => Ok(()),
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
            self.check_hops()?;
            let mut avoid: Vec<RelayId> = Vec::new();
            let mut last = RouteError::CircuitLost;
            for _ in 0..ATTEMPTS {
                let built = self
                    .client
                    .circuit(isolation, Proto::Tcp, Some(target), &avoid)
                    .await;
                let circuit = match built {
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
            self.check_hops()?;
            let mut last = RouteError::CircuitLost;
            for _ in 0..ATTEMPTS {
                let circuit = self
                    .client
                    .circuit(isolation, Proto::Udp, None, &[])
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
