//! The gate: whatever wants out is judged by the policy first, and then opened, or refused with the reason.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::relay_list::Proto;
use hushswarm_circuits::target::{HostName, Target};

use super::circuits::CircuitRoute;
use super::gated::GatedDatagrams;
use super::policy::{Policy, Reason, Verdict};
use super::{At, BoxFuture, BoxStream, Datagrams, Meet, Met, Outside, RouteError};

/// The ways out that a verdict can name.
pub trait Ways: Send + Sync + 'static {
    /// Circuits of so many relays; `None` is as many as the command was told. Circuits of different lengths are
    /// different circuits, whatever the isolation key.
    fn circuits(&self, hops: Option<u8>) -> Arc<dyn Outside>;

    /// Tor, where there is a way to it.
    fn tor(&self) -> Option<Arc<dyn Outside>> {
        None
    }
}

impl Ways for CircuitRoute {
    fn circuits(&self, hops: Option<u8>) -> Arc<dyn Outside> {
        Arc::new(self.with_hops(hops))
    }
}

/// Opens what the policy allows. New rules hold at once for what is opened and for each datagram that is sent from then
/// on; streams that are open go on.
pub struct Gate {
    pub(super) shared: Arc<Shared>,
}

/// What the gate and its datagram flows have in common.
pub(super) struct Shared {
    ways: Arc<dyn Ways>,
    /// Held only to copy or to replace the pointer.
    policy: RwLock<Arc<Policy>>,
    refused_datagrams: AtomicU64,
}

impl Gate {
    /// A gate in front of these ways.
    pub fn new(ways: Arc<dyn Ways>, policy: Policy) -> Arc<Self> {
        let shared = Shared {
            ways,
            policy: RwLock::new(Arc::new(policy)),
            refused_datagrams: AtomicU64::new(0),
        };
        Arc::new(Self {
            shared: Arc::new(shared),
        })
    }

    /// The rules in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.shared.policy()
    }

    /// Puts other rules in force. Whatever is open goes on.
    pub fn set_policy(&self, policy: Policy) {
        let mut held = self
            .shared
            .policy
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *held = Arc::new(policy);
    }

    /// Datagrams that were dropped because the policy refuses their target.
    pub fn refused_datagrams(&self) -> u64 {
        self.shared.refused_datagrams.load(Ordering::Relaxed)
    }
}

impl Shared {
    pub(super) fn policy(&self) -> Arc<Policy> {
        let held = self.policy.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&held)
    }

    pub(super) fn circuits(&self, hops: Option<u8>) -> Arc<dyn Outside> {
        self.ways.circuits(hops)
    }

    pub(super) fn count_refused(&self) {
        self.refused_datagrams.fetch_add(1, Ordering::Relaxed);
    }

    /// The way that a verdict names.
    fn way(&self, verdict: Verdict) -> Result<Arc<dyn Outside>, RouteError> {
        match verdict {
            Verdict::Circuit { hops } => Ok(self.circuits(hops)),
            Verdict::Tor => self.ways.tor().ok_or(RouteError::Forbidden(Reason::NoTor)),
            Verdict::Refuse(reason) => Err(RouteError::Forbidden(reason)),
        }
    }
}

impl Outside for Gate {
    fn connect<'a>(
        &'a self,
        target: &'a Target,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        let way = self
            .shared
            .way(self.shared.policy().decide(Proto::Tcp, target));
        Box::pin(async move { way?.connect(target, isolation).await })
    }

    fn carries_datagrams(&self) -> bool {
        !self.shared.policy().has_only_streams()
    }

    fn datagrams(
        &self,
        isolation: Isolation,
    ) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        let shared = Arc::clone(&self.shared);
        let carried = self.carries_datagrams();
        Box::pin(async move {
            if !carried {
                return Err(RouteError::Forbidden(Reason::TorHasNoUdp));
            }
            let flow = GatedDatagrams::open(shared, isolation).await?;
            Ok(Box::new(flow) as Box<dyn Datagrams>)
        })
    }

    fn resolve<'a>(
        &'a self,
        name: &'a HostName,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, RouteError>> {
        let policy = self.shared.policy();
        let way = self.shared.way(policy.decide_name(name));
        Box::pin(async move {
            let mut found = way?.resolve(name, isolation).await?;
            found.retain(|ip| policy.may_be_answer(*ip));
            if found.is_empty() {
                return Err(RouteError::NameNotFound);
            }
            Ok(found)
        })
    }

    fn dht<'a>(
        &'a self,
        request: &'a [u8],
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        let way = self
            .shared
            .way(self.shared.policy().decide_datagrams_to_anybody());
        Box::pin(async move { way?.dht(request, isolation).await })
    }

    fn meet<'a>(
        &'a self,
        at: At,
        meet: Meet<'a>,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<Met, RouteError>> {
        let way = self.shared.way(self.shared.policy().decide_meeting());
        Box::pin(async move { way?.meet(at, meet, isolation).await })
    }

    fn resolve_ptr(
        &self,
        ip: IpAddr,
        isolation: Isolation,
    ) -> BoxFuture<'_, Result<HostName, RouteError>> {
        let way = self.shared.way(self.shared.policy().decide_address(ip));
        Box::pin(async move { way?.resolve_ptr(ip, isolation).await })
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate")
            .field("policy", &self.policy())
            .field("refused_datagrams", &self.refused_datagrams())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
