//! Guards: the few relays that see this computer's address, kept for months.
//!
//! Who changes the first hop often meets a hostile one sooner or later; who keeps it is mostly safe for long. So a
//! sample is drawn once, in an order that stays, and only its first three are used while one of them answers.
//! Whoever blocks guards to push a client towards his own gains at most the rest of the sample.

use rand::{CryptoRng, RngExt as _};

use super::draw;
use crate::keys::RelayId;
use crate::relay_list::RelayList;

/// Most guards a client ever considers: bounds what an attacker gains by blocking.
pub const SAMPLE_SIZE: usize = 20;
/// How many of them are used normally.
pub const PRIMARY_GUARDS: usize = 3;
/// How long a guard is kept, seconds (120 days).
pub const GUARD_LIFE: u64 = 120 * 86_400;
/// How long a guard that left the list keeps its place, seconds (20 days): being dropped for a day must not
/// move a client to another guard for good.
pub const UNLISTED_LIFE: u64 = 20 * 86_400;
/// A guard's age starts up to this long ago (12 days), so that it does not tell when the client was installed.
const AGE_SPREAD: u64 = GUARD_LIFE / 10;
/// Wait after the first failure, seconds.
const FIRST_BACKOFF: u64 = 60;
/// Longest wait between attempts, seconds.
pub const MAX_BACKOFF: u64 = 3600;
/// When no guard has answered for this long, seconds, this computer was likely offline.
pub const NETWORK_LIKELY_DOWN: u64 = 600;

/// A guard of the sample. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The relay.
    pub id: RelayId,
    /// When it was drawn, blurred.
    pub added_at: u64,
    /// When a link to it last worked.
    pub last_ok: Option<u64>,
    /// Failures since then.
    pub failures: u32,
    /// Not to be tried before this.
    pub retry_at: u64,
    /// Since when it has not been in the relay list as a guard.
    pub unlisted_since: Option<u64>,
}

impl Guard {
    fn is_ready(&self, now: u64) -> bool {
        self.unlisted_since.is_none() && self.retry_at <= now
    }
}

/// The guards of this client, in order of preference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardSample {
    guards: Vec<Guard>,
}

impl GuardSample {
    /// Takes stored guards, in order. What is beyond [`SAMPLE_SIZE`] or repeated is left out.
    pub fn from_guards(guards: impl IntoIterator<Item = Guard>) -> Self {
        let mut sample = Self::default();
        for guard in guards {
            if sample.guards.len() < SAMPLE_SIZE && sample.find(&guard.id).is_none() {
                sample.guards.push(guard);
            }
        }
        sample
    }

    /// The guards in order, to be stored.
    pub fn guards(&self) -> &[Guard] {
        &self.guards
    }

    /// Brings the sample in line with a relay list: drops what is too old or has long been unlisted, and draws new
    /// guards, by bandwidth, to the end. Call it for each new list, and once a day.
    pub fn refresh(&mut self, list: &RelayList, now: u64, rng: &mut dyn CryptoRng) {
        for guard in &mut self.guards {
            // Times from the future are the work of a clock that was wrong.
            guard.added_at = guard.added_at.min(now);
            guard.last_ok = guard.last_ok.map(|at| at.min(now));
            guard.retry_at = guard.retry_at.min(now.saturating_add(MAX_BACKOFF));
            let listed = list.get(&guard.id).is_some_and(|relay| relay.roles.guard);
            guard.unlisted_since = match guard.unlisted_since {
                _ if listed => None,
                None => Some(now),
                Some(since) => Some(since.min(now)),
            };
        }
        self.guards.retain(|guard| {
            now.saturating_sub(guard.added_at) < GUARD_LIFE
                && guard
                    .unlisted_since
                    .is_none_or(|since| now.saturating_sub(since) < UNLISTED_LIFE)
        });
        let mut candidates: Vec<_> = list
            .relays()
            .iter()
            .filter(|relay| relay.roles.guard && self.find(&relay.identity).is_none())
            .collect();
        while self.guards.len() < SAMPLE_SIZE {
            let Some(drawn) = draw(&candidates, rng) else {
                break;
            };
            candidates.retain(|other| other.identity != drawn.identity);
            self.guards.push(Guard {
                id: drawn.identity,
                added_at: now.saturating_sub(rng.random_range(0..AGE_SPREAD)),
                last_ok: None,
                failures: 0,
                retry_at: 0,
                unlisted_since: None,
            });
        }
    }

    /// The guards to try now, best first: of the first three those that are not waiting after a failure; when all
    /// of them are waiting, the next three that are not.
    pub fn usable(&self, now: u64) -> Vec<RelayId> {
        let ready = |guards: &mut dyn Iterator<Item = &Guard>| -> Vec<RelayId> {
            guards
                .filter(|guard| guard.is_ready(now))
                .map(|guard| guard.id)
                .collect()
        };
        let primary = ready(&mut self.listed().take(PRIMARY_GUARDS));
        if !primary.is_empty() {
            return primary;
        }
        let mut others = ready(&mut self.listed().skip(PRIMARY_GUARDS));
        others.truncate(PRIMARY_GUARDS);
        others
    }

    /// When the next guard can be tried, if [`GuardSample::usable`] is empty because all are waiting.
    pub fn next_retry(&self) -> Option<u64> {
        self.listed().map(|guard| guard.retry_at).min()
    }

    /// Notes that a link to this guard failed: it waits for a minute, then twice as long each time, up to an hour.
    pub fn failed(&mut self, id: &RelayId, now: u64) {
        if let Some(guard) = self.find_mut(id) {
            let doublings = guard.failures.min(u32::BITS);
            let wait = (FIRST_BACKOFF << doublings).min(MAX_BACKOFF);
            guard.failures = guard.failures.saturating_add(1);
            guard.retry_at = now.saturating_add(wait);
        }
    }

    /// Notes that a link to this guard works. When nothing had worked for [`NETWORK_LIKELY_DOWN`] seconds, it
    /// was this computer that was offline: better guards that failed meanwhile may be tried at once.
    pub fn succeeded(&mut self, id: &RelayId, now: u64) {
        let last_ok = self.guards.iter().filter_map(|guard| guard.last_ok).max();
        let Some(place) = self.guards.iter().position(|guard| guard.id == *id) else {
            return;
        };
        if last_ok.is_none_or(|at| now.saturating_sub(at) >= NETWORK_LIKELY_DOWN) {
            for better in self.guards.iter_mut().take(place) {
                better.retry_at = better.retry_at.min(now);
            }
        }
        if let Some(guard) = self.find_mut(id) {
            guard.failures = 0;
            guard.retry_at = 0;
            guard.last_ok = Some(now);
        }
    }

    fn listed(&self) -> impl Iterator<Item = &Guard> {
        self.guards
            .iter()
            .filter(|guard| guard.unlisted_since.is_none())
    }

    fn find(&self, id: &RelayId) -> Option<&Guard> {
        self.guards.iter().find(|guard| guard.id == *id)
    }

    fn find_mut(&mut self, id: &RelayId) -> Option<&mut Guard> {
        self.guards.iter_mut().find(|guard| guard.id == *id)
    }
}
