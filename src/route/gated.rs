//! A datagram flow behind the gate. Each datagram is judged alone, and rules may ask for circuits of different lengths:
//! each length is a lane of its own. The first lane is open from the start; the others open when a datagram needs them.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::{Either, select, select_all};
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::relay_list::Proto;
use hushswarm_circuits::target::Target;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::gate::Shared;
use super::policy::Verdict;
use super::{BoxFuture, Datagrams, RouteError};

/// Datagrams that wait for a lane to open: a burst of DHT queries. More are dropped, as a network would.
const MAX_WAITING: usize = 64;

/// A flow whose datagrams are judged one by one.
pub(super) struct GatedDatagrams {
    shared: Arc<Shared>,
    isolation: Isolation,
    first: Box<dyn Datagrams>,
    lanes: Arc<Lanes>,
}

#[derive(Default)]
struct Lanes {
    /// At most one for each number of hops: 1 to 3.
    all: Mutex<Vec<Lane>>,
    /// A lane has opened.
    opened: Notify,
}

struct Lane {
    hops: Option<u8>,
    state: State,
}

enum State {
    Opening {
        waiting: VecDeque<(Target, Vec<u8>)>,
        task: Option<AbortHandle>,
    },
    Open(Arc<dyn Datagrams>),
}

impl Lanes {
    fn lock(&self) -> MutexGuard<'_, Vec<Lane>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends in a lane, or waits in one that opens. `false`: there is none, and one that opens was put there.
    fn send(&self, hops: Option<u8>, to: &Target, payload: &[u8]) -> bool {
        let mut lanes = self.lock();
        let Some(lane) = lanes.iter_mut().find(|lane| lane.hops == hops) else {
            let waiting = VecDeque::from([(to.clone(), payload.to_vec())]);
            let task = None;
            lanes.push(Lane {
                hops,
                state: State::Opening { waiting, task },
            });
            return false;
        };
        match &mut lane.state {
            State::Opening { waiting, .. } => {
                if waiting.len() < MAX_WAITING {
                    waiting.push_back((to.clone(), payload.to_vec()));
                }
                true
            }
            State::Open(flow) => {
                let alive = flow.send(to, payload).is_ok();
                if !alive {
                    // Its circuit broke. This datagram is lost, the next one opens another.
                    lanes.retain(|lane| lane.hops != hops);
                }
                true
            }
        }
    }

    /// What came of opening a lane.
    fn opened(&self, hops: Option<u8>, flow: Option<Arc<dyn Datagrams>>) {
        let mut lanes = self.lock();
        let Some(flow) = flow else {
            lanes.retain(|lane| lane.hops != hops);
            return;
        };
        let Some(lane) = lanes.iter_mut().find(|lane| lane.hops == hops) else {
            return;
        };
        if let State::Opening { waiting, .. } = &mut lane.state {
            for (to, payload) in waiting.drain(..) {
                // A flow that has ended already says so when it is received from.
                let _ = flow.send(&to, &payload);
            }
        }
        lane.state = State::Open(flow);
        drop(lanes);
        self.opened.notify_one();
    }

    fn flows(&self) -> Vec<(Option<u8>, Arc<dyn Datagrams>)> {
        let lanes = self.lock();
        let open = lanes.iter().filter_map(|lane| match &lane.state {
            State::Open(flow) => Some((lane.hops, Arc::clone(flow))),
            State::Opening { .. } => None,
        });
        open.collect()
    }
}

impl GatedDatagrams {
    /// Opens the lane of those datagrams for which no rule asks for a length.
    pub(super) async fn open(
        shared: Arc<Shared>,
        isolation: Isolation,
    ) -> Result<Self, RouteError> {
        let first = shared.circuits(None).datagrams(isolation).await?;
        Ok(Self {
            shared,
            isolation,
            first,
            lanes: Arc::default(),
        })
    }

    fn open_lane(&self, hops: Option<u8>) {
        let way = self.shared.circuits(hops);
        let (isolation, lanes) = (self.isolation, Arc::clone(&self.lanes));
        let task = tokio::spawn(async move {
            let flow = way.datagrams(isolation).await;
            if let Err(error) = &flow {
                tracing::debug!(%error, "no datagram flow of another length");
            }
            lanes.opened(hops, flow.ok().map(Arc::from));
        });
        let handle = task.abort_handle();
        let mut lanes = self.lanes.lock();
        let lane = lanes.iter_mut().find(|lane| lane.hops == hops);
        if let Some(State::Opening { task, .. }) = lane.map(|lane| &mut lane.state) {
            *task = Some(handle);
        }
    }
}

impl Datagrams for GatedDatagrams {
    fn send(&self, to: &Target, payload: &[u8]) -> io::Result<()> {
        let hops = match self.shared.policy().decide(Proto::Udp, to) {
            Verdict::Circuit { hops } => hops,
            Verdict::Tor | Verdict::Refuse(_) => {
                self.shared.count_refused();
                return Ok(());
            }
        };
        if hops.is_none() {
            return self.first.send(to, payload);
        }
        if !self.lanes.send(hops, to, payload) {
            self.open_lane(hops);
        }
        Ok(())
    }

    fn send_many<'a>(
        &self,
        datagrams: &mut dyn Iterator<Item = (&'a Target, &'a [u8])>,
    ) -> io::Result<()> {
        // Most go the one way; the rules still judge each.
        let policy = self.shared.policy();
        let (mut first, mut sent) = (Vec::new(), Ok(()));
        for (to, payload) in datagrams {
            if policy.decide(Proto::Udp, to) == (Verdict::Circuit { hops: None }) {
                first.push((to, payload));
            } else {
                sent = sent.and(self.send(to, payload));
            }
        }
        self.first.send_many(&mut first.into_iter()).and(sent)
    }

    /// Whatever comes back passes: it answers something that was let out, or comes to a port that is ours alone.
    fn recv(&self) -> BoxFuture<'_, io::Result<(Target, Vec<u8>)>> {
        Box::pin(async move {
            loop {
                // Made before the lanes are read, so that one that opens in between is not missed.
                let opened = std::pin::pin!(self.lanes.opened.notified());
                let others = self.lanes.flows();
                let mut all = vec![self.first.recv()];
                all.extend(others.iter().map(|(_, flow)| flow.recv()));
                let (result, index) = match select(select_all(all), opened).await {
                    Either::Left(((result, index, _), _)) => (result, index),
                    Either::Right(((), _)) => continue,
                };
                match (
                    result,
                    index.checked_sub(1).and_then(|index| others.get(index)),
                ) {
                    (Err(_), Some((hops, ended))) => {
                        // Only this lane has ended; the next datagram for it opens another.
                        let is_it = |lane: &Lane| match &lane.state {
                            State::Open(flow) => Arc::ptr_eq(flow, ended),
                            State::Opening { .. } => false,
                        };
                        self.lanes
                            .lock()
                            .retain(|lane| lane.hops != *hops || !is_it(lane));
                    }
                    (result, _) => return result,
                }
            }
        })
    }

    fn recv_many<'a>(
        &'a self,
        into: &'a mut Vec<(Target, Vec<u8>)>,
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            loop {
                // Made before the lanes are read, so that one that opens in between is not missed.
                let opened = std::pin::pin!(self.lanes.opened.notified());
                if !self.lanes.lock().is_empty() {
                    into.push(self.recv().await?);
                    return Ok(());
                }
                if let Either::Left((result, _)) = select(self.first.recv_many(into), opened).await
                {
                    return result;
                }
            }
        })
    }
}

impl Drop for GatedDatagrams {
    fn drop(&mut self) {
        for lane in self.lanes.lock().iter() {
            if let State::Opening {
                task: Some(task), ..
            } = &lane.state
            {
                task.abort();
            }
        }
    }
}
