//! When a phase of a lookup is over, and when all is.

use std::time::Instant;

use super::{Errand, Event, Goal, Lookup, Pending, Phase, Stage};

impl Lookup {
    /// Sees to what is due, and goes on to the next phase where this one is over.
    pub(super) fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.phase == Phase::Finished {
            return;
        }
        self.expire(now);
        if self.phase == Phase::Walking && self.walk_is_over(now) {
            self.phase = Phase::Telling;
            if self.goal == Goal::Nodes {
                return self.finish();
            }
        }
        if self.phase == Phase::Telling && self.telling_is_over(now) {
            self.phase = Phase::Storing;
        }
        let exact = matches!(&self.newest, Some(item) if item.signed().is_none());
        let found = exact && matches!(self.goal, Goal::Get(_));
        let stored = self.phase == Phase::Storing && self.storing_is_over();
        if now >= self.ends_at || found || stored {
            self.finish();
        }
    }

    fn expire(&mut self, now: Instant) {
        let mut lost = Vec::new();
        for pending in &mut self.pending {
            if now >= pending.lost_at {
                lost.push(pending.errand);
            } else if now >= pending.slow_at && !pending.slow {
                pending.slow = true;
                if let Errand::Walk(contact) = pending.errand
                    && let Some(known) = self.walk.find(&contact)
                {
                    known.stage = Stage::Asked { slow: true };
                }
            }
        }
        self.pending.retain(|pending| now < pending.lost_at);
        lost.iter().for_each(|errand| self.failed(errand));
    }

    /// Whether the closest have answered, or nobody is left who could tell of closer ones.
    fn walk_is_over(&self, now: Instant) -> bool {
        let walks =
            |pending: &Pending| matches!(pending.errand, Errand::Walk(_) | Errand::Bootstrap(_));
        let may = self.may_walk(now);
        let others = self.pending.iter().any(walks)
            || (may && self.bootstraps.iter().any(|bootstrap| !bootstrap.asked));
        self.walk.is_quiet(may) && (self.walk.is_full() || !others)
    }

    fn telling_is_over(&self, now: Instant) -> bool {
        // What is stored waits for nobody who is slow; what is looked for does.
        let stores = self.stores();
        let waits = |pending: &Pending| {
            matches!(pending.errand, Errand::Tell(_)) && !(stores && pending.slow)
        };
        !self.pending.iter().any(waits)
            && self.untold().next().is_none()
            && (self.summary.told >= self.settings.told || self.walk_is_over(now))
    }

    fn storing_is_over(&self) -> bool {
        let waits =
            |pending: &Pending| matches!(pending.errand, Errand::Tell(_) | Errand::Store(_));
        !self.stores()
            || (!self.pending.iter().any(waits)
                && !self
                    .walk
                    .known()
                    .any(|known| matches!(known.stage, Stage::Told(Some(_)))))
    }

    fn stores(&self) -> bool {
        matches!(self.goal, Goal::Announce { .. } | Goal::Put(_))
    }

    fn finish(&mut self) {
        self.phase = Phase::Finished;
        for pending in std::mem::take(&mut self.pending) {
            // Who is slow now is not waited for any more.
            if pending.slow && matches!(pending.errand, Errand::Walk(_)) {
                self.failed(&pending.errand);
            }
        }
        self.events.push_back(Event::Finished(self.summary));
    }
}
