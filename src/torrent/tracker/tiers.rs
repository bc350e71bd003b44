//! Which tracker to ask next (BEP 12).

use std::time::{Duration, Instant};

use rand::Rng;
use rand::seq::SliceRandom;

use super::endpoint::Endpoint;
use super::scrape::Scraped;
use crate::redact::Redacted;
use crate::route::special::Place;

/// Wait after the first failure of a tracker; doubles with each.
pub const FIRST_BACKOFF: Duration = Duration::from_secs(30);
/// Longest wait after failures.
pub const MAX_BACKOFF: Duration = Duration::from_secs(3600);

struct Entry {
    url: String,
    /// Number of its tier in the torrent.
    tier: usize,
    failures: u32,
    not_before: Option<Instant>,
    /// Failed since the last answer of any.
    tried: bool,
    /// Answered or failed at least once.
    asked: bool,
    told: Told,
}

/// What is known of a tracker from its answers.
#[derive(Clone, Debug, Default)]
struct Told {
    status: Option<String>,
    last: Option<Instant>,
    counts: Scraped,
}

/// A tracker as its user may see it: a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackerView {
    /// Its URL, for the user alone.
    pub url: Redacted<String>,
    /// Number of its tier in the torrent, from 0.
    pub tier: usize,
    /// How the last announce went, without names; `None` before the first.
    pub status: Option<String>,
    /// Whether that went well.
    pub works: bool,
    /// When that was.
    pub last: Option<Instant>,
    /// Not asked before this.
    pub next: Option<Instant>,
    /// Peers as it counted them last.
    pub counts: Scraped,
}

/// The trackers of a torrent: tiers in order, each shuffled once, a tracker that works first in its tier. One works at
/// a time; after it has, all rest until the next announce is due, which begins at the first tier again (BEP 12).
pub struct TierList {
    tiers: Vec<Vec<Entry>>,
    resting_until: Option<Instant>,
    /// When one answered last.
    answered: Option<Instant>,
    /// How long the one that answered is left alone at least.
    least: Duration,
    /// Who answered last is an onion service.
    onion: bool,
}

/// Wait before an onion tracker is told what it was not told a moment ago.
const HURRY: Duration = Duration::from_secs(5);

/// No tracker is asked sooner after it answered, however often the user wants it.
const NEVER_SOONER: Duration = Duration::from_secs(60);

impl TierList {
    /// Takes the tiers of a torrent. URLs that no announce can ever go to are left out; `allow_private` as in
    /// [`super::TrackerClient`].
    pub fn new(tiers: &[Vec<String>], allow_private: bool, rng: &mut impl Rng) -> Self {
        let usable = |url: &&String| Endpoint::parse(url, allow_private).is_ok();
        let entry = |url: &String, tier| Entry {
            url: url.clone(),
            tier,
            failures: 0,
            not_before: None,
            tried: false,
            asked: false,
            told: Told::default(),
        };
        let mut tiers: Vec<Vec<Entry>> = tiers
            .iter()
            .enumerate()
            .map(|(number, tier)| {
                let usable = tier.iter().filter(usable);
                usable.map(|url| entry(url, number)).collect()
            })
            .collect();
        tiers.retain(|tier| !tier.is_empty());
        tiers.iter_mut().for_each(|tier| tier.shuffle(rng));
        Self {
            tiers,
            resting_until: None,
            answered: None,
            least: NEVER_SOONER,
            onion: false,
        }
    }

    /// Whether there is no tracker at all.
    pub fn is_empty(&self) -> bool {
        self.tiers.is_empty()
    }

    /// The tracker to ask now, if any; then say how it went by [`TierList::succeeded`] or [`TierList::failed`].
    pub fn next_url(&self, now: Instant) -> Option<&str> {
        if self.resting_until.is_some_and(|until| now < until) {
            return None;
        }
        let ready = |entry: &&Entry| entry.not_before.is_none_or(|until| until <= now);
        // Of equals the first is found. Those that failed since the last answer come after those that did not: else two dead
        // trackers, whose waits are over when each has taken its time, would keep all behind them from ever being asked. Once any
        // has answered, the next announce begins with the first tier again.
        let entries = self.tiers.iter().flatten().filter(ready);
        entries
            .min_by_key(|entry| {
                if entry.tried {
                    entry.failures.max(1)
                } else {
                    0
                }
            })
            .map(|entry| entry.url.as_str())
    }

    /// How many trackers have neither answered nor failed yet.
    pub fn unasked(&self) -> usize {
        let entries = self.tiers.iter().flatten();
        entries.filter(|entry| !entry.asked).count()
    }

    /// Notes what the user may know of an announce.
    pub fn note(&mut self, url: &str, now: Instant, status: &str) {
        let entries = self.tiers.iter_mut().flatten();
        for entry in entries.filter(|entry| entry.url == url) {
            entry.told.status = Some(status.to_owned());
            entry.told.last = Some(now);
        }
    }

    /// Notes how many peers a tracker counts. What it did not say now stands as it was.
    pub fn note_counts(&mut self, url: &str, counts: Scraped) {
        let entries = self.tiers.iter_mut().flatten();
        for entry in entries.filter(|entry| entry.url == url) {
            let before = entry.told.counts;
            entry.told.counts = Scraped {
                seeders: counts.seeders.or(before.seeders),
                leechers: counts.leechers.or(before.leechers),
                completed: counts.completed.or(before.completed),
            };
        }
    }

    /// The trackers as they stand now, in the order in which they are asked.
    pub fn views(&self) -> Vec<TrackerView> {
        let entries = self.tiers.iter().flatten();
        let view = |entry: &Entry| TrackerView {
            url: Redacted::new(entry.url.clone()),
            tier: entry.tier,
            status: entry.told.status.clone(),
            works: entry.told.last.is_some() && entry.failures == 0,
            last: entry.told.last,
            next: entry.not_before.max(self.resting_until),
            counts: entry.told.counts,
        };
        entries.map(view).collect()
    }

    /// Tells whether a tracker besides `url` has not failed yet: then nothing is gained by waiting long for this one.
    pub fn has_untried_besides(&self, url: &str) -> bool {
        let mut entries = self.tiers.iter().flatten();
        entries.any(|entry| entry.url != url && entry.failures == 0)
    }

    /// When [`TierList::next_url`] gives one; `None` where there is no tracker.
    pub fn next_at(&self, now: Instant) -> Option<Instant> {
        let entries = self.tiers.iter().flatten();
        let first = entries.map(|entry| entry.not_before.unwrap_or(now)).min()?;
        Some(first.max(self.resting_until.unwrap_or(now)).max(now))
    }

    /// The tracker answered and wants the next announce after `interval`.
    pub fn succeeded(&mut self, url: &str, now: Instant, interval: Duration) {
        for tier in &mut self.tiers {
            if let Some(at) = tier.iter().position(|entry| entry.url == url) {
                let mut entry = tier.remove(at);
                entry.failures = 0;
                entry.not_before = None;
                entry.asked = true;
                tier.insert(0, entry);
            }
            tier.iter_mut().for_each(|entry| entry.tried = false);
        }
        self.answered = Some(now);
        self.least = NEVER_SOONER;
        self.resting_until = Some(now + interval);
        self.onion =
            Endpoint::parse(url, false).is_ok_and(|endpoint| Place::is_onion(&endpoint.target));
    }

    /// The tracker that answered last asks to be left alone for so long, whoever wants it.
    pub fn left_alone(&mut self, least: Duration) {
        self.least = self.least.max(least);
    }

    /// There is news for trackers that are onion services: one that answered and rests is asked again soon.
    pub fn hurry(&mut self, now: Instant) {
        if let Some(until) = self.resting_until.filter(|_| self.onion) {
            self.resting_until = Some(until.min(now + HURRY));
        }
    }

    /// The user wants to be announced again: those that rest are asked as soon as they may be, those that failed within
    /// half a minute.
    pub fn again(&mut self, now: Instant) {
        let soonest = self.answered.map_or(now, |at| at + self.least);
        self.resting_until = self.resting_until.map(|until| until.min(soonest));
        for entry in self.tiers.iter_mut().flatten() {
            entry.not_before = entry.not_before.map(|until| until.min(now + FIRST_BACKOFF));
        }
    }

    /// The tracker did not answer well: it waits, longer each time, and the next one is asked.
    pub fn failed(&mut self, url: &str, now: Instant) {
        let entries = self.tiers.iter_mut().flatten();
        for entry in entries.filter(|entry| entry.url == url) {
            // 30 s doubled seven times is beyond an hour.
            let wait = (FIRST_BACKOFF * 2_u32.pow(entry.failures.min(7))).min(MAX_BACKOFF);
            entry.failures = entry.failures.saturating_add(1);
            entry.not_before = Some(now + wait);
            (entry.tried, entry.asked) = (true, true);
        }
    }

    /// The tracker can never work ([`super::AnnounceError::is_permanent`]): it is not asked again.
    pub fn remove(&mut self, url: &str) {
        self.tiers
            .iter_mut()
            .for_each(|tier| tier.retain(|entry| entry.url != url));
        self.tiers.retain(|tier| !tier.is_empty());
    }
}

impl std::fmt::Debug for TierList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TierList")
            .field("tiers", &self.tiers.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const A: &str = "http://a.example/";
    const B: &str = "http://b.example/";
    const C: &str = "udp://c.example:1/";
    const MINUTE: Duration = Duration::from_secs(60);

    fn list(tiers: &[&[&str]]) -> TierList {
        let owned: Vec<Vec<String>> = tiers
            .iter()
            .map(|tier| tier.iter().map(|&url| url.to_owned()).collect())
            .collect();
        TierList::new(&owned, false, &mut StdRng::seed_from_u64(1))
    }

    #[test]
    fn the_next_tier_is_asked_when_one_fails_and_the_first_again_later() {
        let now = Instant::now();
        let mut list = list(&[&[A], &[C]]);
        assert_eq!(list.next_url(now), Some(A));
        list.failed(A, now);
        assert_eq!(list.next_url(now), Some(C));
        list.failed(C, now);
        assert_eq!(list.next_url(now), None);
        assert_eq!(list.next_at(now), Some(now + FIRST_BACKOFF));
        assert_eq!(list.next_url(now + FIRST_BACKOFF), Some(A));
    }

    #[test]
    fn dead_trackers_that_take_their_time_do_not_keep_the_last_from_being_asked() {
        let now = Instant::now();
        let mut list = list(&[&[A], &[B], &[C]]);
        list.failed(A, now);
        assert!(list.has_untried_besides(B));
        // When B is given up, A's wait is long over.
        list.failed(B, now + 5 * MINUTE);
        assert_eq!(list.next_url(now + 5 * MINUTE), Some(C));
        assert!(!list.has_untried_besides(C));
    }

    #[test]
    fn after_an_answer_all_rest_and_the_tracker_comes_first() {
        let now = Instant::now();
        let mut list = list(&[&[A, B], &[C]]);
        let first = list.next_url(now).unwrap().to_owned();
        list.failed(&first, now);
        let second = list.next_url(now).unwrap().to_owned();
        assert_ne!(first, second);
        list.succeeded(&second, now, 10 * MINUTE);
        assert_eq!(list.next_url(now + 9 * MINUTE), None);
        assert_eq!(list.next_at(now + MINUTE), Some(now + 10 * MINUTE));
        assert_eq!(list.next_url(now + 10 * MINUTE), Some(second.as_str()));
    }

    #[test]
    fn each_announce_begins_with_the_first_tier_and_goes_to_the_next_when_all_of_it_failed() {
        let mut now = Instant::now();
        let mut list = list(&[&[A, B], &[C]]);
        let order = |list: &mut TierList, now, works: &str| -> Vec<String> {
            let mut asked = Vec::new();
            while let Some(url) = list.next_url(now).map(str::to_owned) {
                asked.push(url.clone());
                if url == works {
                    list.succeeded(&url, now, 10 * MINUTE);
                } else {
                    list.failed(&url, now);
                }
            }
            asked
        };
        let first = order(&mut list, now, C);
        assert_eq!(
            first.len(),
            3,
            "the whole first tier, and then the second: {first:?}"
        );
        assert_eq!(first[2], C);
        assert_eq!(list.unasked(), 0);
        // Shuffled once: the order within the tier stays.
        now += 10 * MINUTE;
        assert_eq!(order(&mut list, now, C), first);
        // One that works again is asked instead, and first from then on.
        now += 10 * MINUTE;
        assert_eq!(order(&mut list, now, &first[1]), first[..2]);
        now += 10 * MINUTE;
        assert_eq!(order(&mut list, now, &first[1]), first[1..2]);
    }

    #[test]
    fn trackers_are_counted_once_however_often_they_are_asked() {
        let mut now = Instant::now();
        let mut list = list(&[&[A], &[B], &[C], &["wss://w.example/"]]);
        assert_eq!(list.unasked(), 3);
        for _ in 0..5 {
            list.failed(A, now);
            now += 2 * MAX_BACKOFF;
        }
        assert_eq!(list.unasked(), 2);
        list.remove(B);
        assert_eq!(list.unasked(), 1);
        list.succeeded(C, now, MINUTE);
        assert_eq!(list.unasked(), 0);
    }

    #[test]
    fn a_view_says_how_each_tracker_stands_and_its_debug_text_names_none() {
        let now = Instant::now();
        let mut list = list(&[&["wss://w.example/"], &[A], &[C]]);
        list.failed(A, now);
        list.note(A, now, "the tracker does not answer");
        list.succeeded(C, now, 10 * MINUTE);
        list.note(C, now, "5 peers");
        let counts = Scraped {
            seeders: Some(3),
            leechers: Some(2),
            completed: None,
        };
        list.note_counts(C, counts);
        list.note_counts(
            C,
            Scraped {
                completed: Some(9),
                ..Scraped::default()
            },
        );
        let views = list.views();
        let [a, c] = &views[..] else { panic!() };
        assert_eq!(
            (&**a.url.expose(), a.tier, &**c.url.expose(), c.tier),
            (A, 1, C, 2)
        );
        assert_eq!(a.status.as_deref(), Some("the tracker does not answer"));
        assert_eq!((a.last, c.next), (Some(now), Some(now + 10 * MINUTE)));
        assert_eq!((c.counts.seeders, c.counts.completed), (Some(3), Some(9)));
        assert!(!format!("{views:?}").contains("example"));
    }

    #[test]
    fn tiers_are_shuffled_but_keep_their_order() {
        let now = Instant::now();
        let tiers = [vec![A.to_owned(), B.to_owned()], vec![C.to_owned()]];
        let firsts: std::collections::BTreeSet<String> = (0..32)
            .map(|seed| TierList::new(&tiers, false, &mut StdRng::seed_from_u64(seed)))
            .map(|list| list.next_url(now).unwrap().to_owned())
            .collect();
        assert_eq!(firsts.into_iter().collect::<Vec<_>>(), [A, B]);
    }

    #[test]
    fn waits_grow_to_an_hour_and_start_over_after_an_answer() {
        let mut now = Instant::now();
        let mut list = list(&[&[A]]);
        for _ in 0..300 {
            list.failed(A, now);
            now = list.next_at(now).unwrap();
        }
        list.failed(A, now);
        assert_eq!(list.next_at(now), Some(now + MAX_BACKOFF));
        list.succeeded(A, now, MINUTE);
        list.failed(A, now + MINUTE);
        assert_eq!(
            list.next_at(now + MINUTE),
            Some(now + MINUTE + FIRST_BACKOFF)
        );
    }

    #[test]
    fn news_wake_an_onion_tracker_and_no_other() {
        let onion = "http://2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion/";
        for (url, wakes) in [(onion, true), (A, false)] {
            let (mut list, now) = (list(&[&[url]]), Instant::now());
            list.hurry(now);
            assert_eq!(list.next_url(now), Some(url));
            list.succeeded(url, now, 10 * MINUTE);
            list.hurry(now);
            assert_eq!(list.next_url(now), None);
            assert_eq!(list.next_url(now + HURRY).is_some(), wakes);
            assert_eq!(list.next_url(now + 10 * MINUTE), Some(url));
        }
    }

    #[test]
    fn the_user_may_ask_again_but_not_more_often_than_each_minute() {
        let (mut list, now) = (list(&[&[A]]), Instant::now());
        list.succeeded(A, now, 30 * MINUTE);
        list.again(now);
        list.again(now + MINUTE / 2);
        assert_eq!(list.next_url(now + MINUTE / 2), None);
        assert_eq!(list.next_url(now + MINUTE), Some(A));
        for _ in 0..9 {
            list.failed(A, now + MINUTE);
        }
        assert_eq!(list.next_url(now + 2 * MINUTE), None);
        list.again(now + 2 * MINUTE);
        let soon = now + 2 * MINUTE + FIRST_BACKOFF;
        assert_eq!(list.next_at(now + 2 * MINUTE), Some(soon));
    }

    #[test]
    fn who_asks_to_be_left_alone_is_not_asked_again_before_however_often_the_user_wants_it() {
        let now = Instant::now();
        let mut list = list(&[&[A]]);
        list.next_url(now);
        list.succeeded(A, now, 60 * MINUTE);
        list.left_alone(30 * MINUTE);
        list.again(now);
        assert_eq!(list.next_at(now), Some(now + 30 * MINUTE));
        list.succeeded(A, now + 30 * MINUTE, 60 * MINUTE);
        list.again(now);
        assert_eq!(list.next_at(now), Some(now + 31 * MINUTE));
    }

    #[test]
    fn urls_that_can_never_work_are_left_out() {
        let now = Instant::now();
        let mut list = list(&[&["wss://w.example/", "http://127.0.0.1/"], &[A]]);
        assert_eq!(list.next_url(now), Some(A));
        list.remove(A);
        assert!(list.is_empty());
        assert_eq!((list.next_url(now), list.next_at(now)), (None, None));
    }
}
