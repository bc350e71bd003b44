//! Fixed middles: the few relays that come second in circuits whose last relay others choose (PROTOCOL.md §7.3).
//!
//! Who visits a hidden seed names the relay to meet at, as often as it likes. With a fresh middle each time, one of the
//! visitor's own relays would soon be it, next to the guard. With a few that stay, either one of them is the visitor's
//! or none of its visits helps. Tor's vanguards-lite is the model, and its numbers are kept (proposals 292 and 333).

use rand::{CryptoRng, RngExt as _};

use super::{PathRules, draw};
use crate::keys::RelayId;
use crate::relay_list::{Descriptor, RelayList};

/// Fixed middles of a client. Fewer are guessed wrong less often, but one last hop could rule out all of them
/// (a family, a network, itself), and one that is down would be half of them.
pub const MIDDLES: usize = 4;
/// Shortest life of a fixed middle, seconds (1 day).
pub const MIN_MIDDLE_LIFE: u64 = 86_400;
/// Longest life of a fixed middle, seconds (12 days). The larger of two even draws is taken: 8 1/3 days on average. Long enough
/// that waiting for a draw is slow; short enough that the relays, which whoever runs the last hop sees, have changed
/// before many of their owners can be made to tell. As most lives are long, a middle that is found is no old one for sure.
pub const MAX_MIDDLE_LIFE: u64 = 12 * 86_400;
/// How long a middle that left the list keeps its place, seconds (2 days): to be dropped for an hour must not bring a new
/// draw, and a place that is empty for long leaves too few.
pub const UNLISTED_MIDDLE_LIFE: u64 = 2 * 86_400;

/// A fixed middle. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Middle {
    /// The relay.
    pub id: RelayId,
    /// When another takes its place.
    pub until: u64,
    /// Since when it has not been in the relay list.
    pub unlisted_since: Option<u64>,
}

/// The fixed middles of this client. Nothing but time and the relay list moves one: no failure does, or whoever can make
/// relays fail could have new ones drawn until one is his.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MiddleSample {
    middles: Vec<Middle>,
}

impl MiddleSample {
    /// Takes stored middles. What is beyond [`MIDDLES`] or repeated is left out.
    pub fn from_middles(middles: impl IntoIterator<Item = Middle>) -> Self {
        let mut sample = Self::default();
        for middle in middles {
            if sample.middles.len() < MIDDLES && !sample.holds(&middle.id) {
                sample.middles.push(middle);
            }
        }
        sample
    }

    /// The middles, to be stored.
    pub fn middles(&self) -> &[Middle] {
        &self.middles
    }

    /// Brings the sample in line with a relay list: drops what has ended or has long been unlisted, and draws new ones by
    /// bandwidth. Call it before each use: it changes nothing while nothing is due.
    ///
    /// New ones are of no family or network that another has, and not among `guards`, as long as there are such: else one last
    /// hop could rule out several, and who finds a middle would have found a guard. In a small network these wishes go first;
    /// where there are fewer than [`MIDDLES`] relays, there are fewer middles.
    pub fn refresh(
        &mut self,
        list: &RelayList,
        guards: &[RelayId],
        rules: &PathRules,
        now: u64,
        rng: &mut dyn CryptoRng,
    ) {
        for middle in &mut self.middles {
            // Times from the future are the work of a clock that was wrong.
            middle.until = middle.until.min(now.saturating_add(MAX_MIDDLE_LIFE));
            middle.unlisted_since = match middle.unlisted_since {
                _ if list.get(&middle.id).is_some() => None,
                None => Some(now),
                Some(since) => Some(since.min(now)),
            };
        }
        self.middles.retain(|middle| {
            let unlisted = middle
                .unlisted_since
                .map_or(0, |since| now.saturating_sub(since));
            now < middle.until && unlisted < UNLISTED_MIDDLE_LIFE
        });
        while self.middles.len() < MIDDLES {
            let Some(id) = self.draw_one(list, guards, rules, rng) else {
                break;
            };
            self.middles.push(Middle {
                id,
                until: now.saturating_add(a_life(rng)),
                unlisted_since: None,
            });
        }
    }

    fn draw_one(
        &self,
        list: &RelayList,
        guards: &[RelayId],
        rules: &PathRules,
        rng: &mut dyn CryptoRng,
    ) -> Option<RelayId> {
        let held: Vec<_> = self
            .middles
            .iter()
            .filter_map(|middle| list.get(&middle.id))
            .collect();
        let mut candidates: Vec<_> = list
            .relays()
            .iter()
            .filter(|relay| !self.holds(&relay.identity))
            .collect();
        let wishes: [&dyn Fn(&Descriptor) -> bool; 2] =
            [&|relay| !guards.contains(&relay.identity), &|relay| {
                held.iter().all(|other| rules.are_apart(other, relay))
            }];
        for wish in wishes {
            let wished: Vec<_> = candidates
                .iter()
                .copied()
                .filter(|relay| wish(relay))
                .collect();
            if !wished.is_empty() {
                candidates = wished;
            }
        }
        draw(&candidates, rng).map(|relay| relay.identity)
    }

    /// The middles that can be used now.
    pub fn usable(&self, now: u64) -> Vec<RelayId> {
        self.middles
            .iter()
            .filter(|middle| now < middle.until && middle.unlisted_since.is_none())
            .map(|middle| middle.id)
            .collect()
    }

    fn holds(&self, id: &RelayId) -> bool {
        self.middles.iter().any(|middle| middle.id == *id)
    }
}

/// The larger of two even draws.
fn a_life(rng: &mut dyn CryptoRng) -> u64 {
    let mut drawn = || rng.random_range(MIN_MIDDLE_LIFE..=MAX_MIDDLE_LIFE);
    drawn().max(drawn())
}
