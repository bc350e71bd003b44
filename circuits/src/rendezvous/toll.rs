//! How much work a seed asks for at one introduction point (PROTOCOL.md §8.8): none, until more comes than it can take, then four times as much each time that this
//! does not help, and half as much after each while in which little came.
//! What did not name the work that is asked for now tells nothing of whether that helps, and is not counted.
//!
//! Each point has one of its own, which goes by what comes through that point: who sees two of a seed's points can't put them together by what
//! is asked for there.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use rand::CryptoRng;

use super::wire::{Handed, IntroductionId};
use super::work::{MAX_EFFORT, Proof, Puzzle};

/// How often it is looked at how much came. Each rise takes effect within it: visitors who began before are done.
pub const PERIOD: Duration = Duration::from_secs(15);
/// The least that is asked for, where anything is: 50 ms of a core. A flood from one core is held to what a seed can look at by it.
pub const FIRST_EFFORT: u32 = 256;
/// A rise.
const RISE: u32 = 4;
/// Introductions within a period that are too many: five a second, half of what a relay hands on for one key.
const MANY: u32 = 75;
/// As many as these that were turned away are too many too: fewer may be chance. Where work is asked for already, as many as came
/// have to be: else who does none could have the others do more.
const TURNED_AWAY: u32 = 4;
/// So many periods, five minutes, without a rise: then it is looked at whether less will do. A flood that waits for it has its way
/// in one of twenty.
const CALM: u32 = 20;
/// No more within all of these are few: one a second. A few that come at one moment of them do not keep it up.
const FEW: u32 = 15 * CALM;
/// A puzzle is replaced after so long, so that little can be worked out before it is of use.
const LIFE: Duration = Duration::from_secs(3600);
/// A puzzle that was replaced counts for so long: visitors work for 45 s at the most, and what they send is under way.
const FORMER_LIFE: Duration = Duration::from_secs(90);
/// Puzzles that were replaced and count: one for each period of that time, and the one that was when it began.
const MAX_FORMER: usize = 8;
/// What names no puzzle that counts, within a period, may be late. More than so many are not: the point lets pass what it should not.
const MAX_STALE: u32 = 64;

/// What a message is worth that a point handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Open it: what was asked for was done.
    Good,
    /// Drop it: it may have been good.
    Stale,
    /// The point hands on what it must not: give it up.
    Forged,
}

/// Asks for work at one introduction point.
pub struct Toll {
    key: IntroductionId,
    puzzle: Puzzle,
    since: Instant,
    former: VecDeque<(Puzzle, Instant)>,
    /// When it is looked at next: who waits for visitors and has none is not woken.
    due: Option<Instant>,
    came: u32,
    turned_away: u32,
    stale: u32,
    /// Periods without a rise since it was last looked at whether less will do.
    calm: u32,
    /// What came within these.
    came_in_calm: u32,
}

impl Toll {
    /// Begins with none, at the point with this key. A quiet one never asks for anything: that would tell that somebody stands there.
    pub fn new(key: IntroductionId, now: Instant) -> Self {
        Self {
            key,
            puzzle: Puzzle::NONE,
            since: now,
            former: VecDeque::new(),
            due: None,
            came: 0,
            turned_away: 0,
            stale: 0,
            calm: 0,
            came_in_calm: 0,
        }
    }

    /// How much is asked for now.
    pub fn effort(&self) -> u32 {
        self.puzzle.effort()
    }

    /// Judges what was handed on: one try of the work at the most.
    pub fn judge(&mut self, now: Instant, handed: &Handed<'_>) -> Verdict {
        self.begin(now);
        let former =
            |(puzzle, until): &&(Puzzle, Instant)| *until > now && handed.proof.names(puzzle);
        let puzzle = if handed.proof.names(&self.puzzle) {
            // What began before a rise tells nothing of whether it helps.
            self.count();
            self.miss(handed.refused.into());
            self.puzzle
        } else if let Some((puzzle, _)) = self.former.iter().find(former) {
            *puzzle
        } else {
            self.stale += 1;
            return match self.stale {
                0..=MAX_STALE => Verdict::Stale,
                _ => Verdict::Forged,
            };
        };
        match handed.proof.holds(&puzzle, &self.key, handed.message) {
            true => Verdict::Good,
            false => Verdict::Forged,
        }
    }

    pub(super) fn begin(&mut self, now: Instant) {
        self.due.get_or_insert(now + PERIOD);
    }

    pub(super) fn count(&mut self) {
        self.came = self.came.saturating_add(1);
    }

    pub(super) fn miss(&mut self, turned_away: u32) {
        self.turned_away = self.turned_away.saturating_add(turned_away);
    }

    /// There was no room for one that came with this. It counts where that was for what is asked for now.
    pub fn turn_away(&mut self, now: Instant, proof: &Proof) {
        self.begin(now);
        if proof.names(&self.puzzle) {
            self.miss(1);
        }
    }

    /// When to call [`Toll::turn`]; `None`: not before something comes.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Looks at how much came; gives what is asked for from now on where that is new: tell it to the point.
    pub fn turn(&mut self, now: Instant, rng: &mut dyn CryptoRng) -> Option<Puzzle> {
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        let before = self.effort();
        let effort = self.next_effort();
        self.due = (effort > 0).then_some(now + PERIOD);
        (self.came, self.turned_away, self.stale) = (0, 0, 0);
        let old = before > 0 && now.saturating_duration_since(self.since) >= LIFE;
        if effort == before && !old {
            return None;
        }
        while self.former.len() >= MAX_FORMER {
            self.former.pop_front();
        }
        self.former.retain(|(_, until)| *until > now);
        self.former.push_back((self.puzzle, now + FORMER_LIFE));
        self.puzzle = Puzzle::generate(effort, rng);
        self.since = now;
        Some(self.puzzle)
    }

    fn next_effort(&mut self) -> u32 {
        let effort = self.effort();
        if self.key.is_quiet() {
            return 0;
        }
        let least = if effort == 0 { 0 } else { self.came };
        let turned_away = self.turned_away >= TURNED_AWAY.max(least);
        if self.came >= MANY || turned_away {
            (self.calm, self.came_in_calm) = (0, 0);
            return effort.saturating_mul(RISE).clamp(FIRST_EFFORT, MAX_EFFORT);
        }
        self.calm += 1;
        self.came_in_calm = self.came_in_calm.saturating_add(self.came);
        if self.calm < CALM {
            return effort;
        }
        let few = self.came_in_calm <= FEW;
        (self.calm, self.came_in_calm) = (0, 0);
        match effort / 2 {
            _ if !few => effort,
            less if less < FIRST_EFFORT => 0,
            less => less,
        }
    }
}

impl fmt::Debug for Toll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Toll")
            .field("effort", &self.effort())
            .finish_non_exhaustive()
    }
}
