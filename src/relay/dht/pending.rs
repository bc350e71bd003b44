//! Queries that wait for an answer: who was asked, under which transaction, for which walk.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::krpc::Transaction;

/// How long an answer is waited for: longer than any walk does, since a late one still says that the node lives.
pub(super) const WAIT: Duration = Duration::from_secs(10);
/// Queries remembered at the most: twice what the usual limit sends in [`WAIT`].
pub(super) const MAX_QUERIES: usize = 8192;

#[derive(Clone, Copy)]
struct Query {
    transaction: Transaction,
    walk: u64,
}

/// All queries that wait.
#[derive(Default)]
pub(super) struct Pending {
    by_node: HashMap<SocketAddr, Vec<Query>>,
    /// In the order in which they were sent; those that were answered stand here until they would have expired.
    order: VecDeque<(Instant, SocketAddr, Transaction)>,
}

impl Pending {
    /// Remembers a query. `false`: there is no room, so it must not be sent.
    pub(super) fn add(
        &mut self,
        now: Instant,
        to: SocketAddr,
        transaction: Transaction,
        walk: u64,
    ) -> bool {
        if self.order.len() >= MAX_QUERIES {
            return false;
        }
        self.order.push_back((now, to, transaction));
        let query = Query { transaction, walk };
        self.by_node.entry(to).or_default().push(query);
        true
    }

    /// Whether anything was asked of this address. What comes from another is not even read.
    pub(super) fn has(&self, from: SocketAddr) -> bool {
        self.by_node.contains_key(&from)
    }

    /// The walk whose query this transaction is at this address. It is answered once.
    pub(super) fn take(&mut self, from: SocketAddr, transaction: Transaction) -> Option<u64> {
        let queries = self.by_node.get_mut(&from)?;
        let at = queries
            .iter()
            .position(|query| query.transaction == transaction)?;
        let query = queries.swap_remove(at);
        if queries.is_empty() {
            self.by_node.remove(&from);
        }
        Some(query.walk)
    }

    /// Forgets what was asked too long ago; gives to whom, where that stayed unanswered.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<SocketAddr> {
        let mut unanswered = Vec::new();
        while let Some(&(sent, to, transaction)) = self.order.front()
            && now.saturating_duration_since(sent) >= WAIT
        {
            self.order.pop_front();
            unanswered.extend(self.take(to, transaction).map(|_| to));
        }
        if self.order.is_empty() {
            // A table that was large once is not kept.
            self.by_node.shrink_to_fit();
            self.order.shrink_to_fit();
        }
        unanswered
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn node(n: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], n))
    }

    #[test]
    fn an_answer_finds_its_walk_by_address_and_transaction_and_only_once() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        assert!(pending.add(now, node(1), [1; 4], 7));
        assert!(pending.add(now, node(1), [2; 4], 8));
        assert!(pending.add(now, node(2), [1; 4], 9));
        assert_eq!(pending.take(node(3), [1; 4]), None);
        assert_eq!(pending.take(node(1), [3; 4]), None);
        assert!(!pending.has(node(3)) && pending.has(node(1)));
        assert_eq!(pending.take(node(1), [1; 4]), Some(7));
        assert_eq!(pending.take(node(1), [1; 4]), None);
        assert_eq!(pending.take(node(1), [2; 4]), Some(8));
        assert!(!pending.has(node(1)));
        assert_eq!(pending.take(node(2), [1; 4]), Some(9));
    }

    #[test]
    fn what_stays_unanswered_is_forgotten_in_time_and_counted() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        for n in 0..4 {
            assert!(pending.add(now + WAIT / 2 * u32::from(n), node(n), [0; 4], 1));
        }
        assert_eq!(pending.take(node(0), [0; 4]), Some(1));
        assert_eq!(
            pending.expire(now + WAIT - Duration::from_millis(1)).len(),
            0
        );
        assert_eq!(pending.expire(now + WAIT * 3 / 2).len(), 1);
        assert!(!pending.has(node(1)) && pending.has(node(2)));
        assert_eq!(pending.expire(now + WAIT * 3).len(), 2);
        assert!(pending.by_node.is_empty() && pending.order.is_empty());
    }

    #[test]
    fn there_are_never_more_than_the_limit_and_answers_make_no_room_for_a_flood() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        for n in 0..MAX_QUERIES {
            let transaction = (n as u32).to_be_bytes();
            assert!(pending.add(now, node(1), transaction, 1));
            assert_eq!(pending.take(node(1), transaction), Some(1));
        }
        assert!(!pending.add(now, node(1), [0; 4], 1));
        assert_eq!(pending.expire(now + WAIT).len(), 0);
        assert!(pending.add(now + WAIT, node(1), [0; 4], 1));
    }
}
