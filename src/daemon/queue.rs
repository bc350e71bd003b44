//! Whose turn it is: a pure decision over all torrents, in the order of the queue. And when a torrent has given enough.

use crate::rpc::call::Move;
use crate::rpc::session::Settings;

/// A torrent as the queue sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Item {
    /// It is to run when its turn comes.
    pub(super) wants: bool,
    /// It runs now whatever the queue says, until it is stopped.
    pub(super) forced: bool,
    /// It has everything, and gives.
    pub(super) seeds: bool,
}

/// Which of them run, in the order given. Who stands first in the queue runs first, and those who take and those who give don't wait for
/// each other.
pub(super) fn turns(items: &[Item], settings: &Settings) -> Vec<bool> {
    let limit = |on: bool, size: u64| if on { size } else { u64::MAX };
    let mut takes = limit(settings.download_queued, settings.download_queue);
    let mut gives = limit(settings.seed_queued, settings.seed_queue);
    let decide = |item: &Item| {
        if !item.wants {
            return false;
        }
        let places = if item.seeds { &mut gives } else { &mut takes };
        let free = *places > 0;
        if free || item.forced {
            *places = places.saturating_sub(1);
        }
        free || item.forced
    };
    items.iter().map(decide).collect()
}

/// Moves the chosen ones; they stay in order among themselves.
pub(super) fn shift<T: Copy + PartialEq>(order: &mut [T], chosen: &[T], way: Move) {
    let is_chosen = |one: &T| chosen.contains(one);
    match way {
        Move::Top => order.sort_by_key(|one| !is_chosen(one)),
        Move::Bottom => order.sort_by_key(is_chosen),
        Move::Up => {
            for at in 1..order.len() {
                if is_chosen(&order[at]) && !is_chosen(&order[at - 1]) {
                    order.swap(at, at - 1);
                }
            }
        }
        Move::Down => {
            for at in (1..order.len()).rev() {
                if is_chosen(&order[at - 1]) && !is_chosen(&order[at]) {
                    order.swap(at, at - 1);
                }
            }
        }
    }
}

/// Puts one at a place, from 0.
pub(super) fn place<T: Copy + PartialEq>(order: &mut Vec<T>, one: T, at: usize) {
    order.retain(|other| *other != one);
    order.insert(at.min(order.len()), one);
}

/// What a torrent that gives has given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Given {
    /// Bytes given for each byte of the torrent.
    pub(super) ratio: f64,
    /// Seconds since somebody took anything.
    pub(super) idle: u64,
}

/// The torrent's own limits: a mode (0: the session's, 1: this, 2: none) and the limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    pub(super) ratio: (u8, f64),
    /// Minutes.
    pub(super) idle: (u8, u64),
}

impl Limits {
    /// The ratio after which it stops.
    pub(super) fn ratio(&self, session: &Settings) -> Option<f64> {
        match self.ratio {
            (0, _) => session.ratio_limited.then_some(session.ratio),
            (1, own) => Some(own),
            _ => None,
        }
    }

    /// Seconds of rest after which it stops.
    pub(super) fn idle(&self, session: &Settings) -> Option<u64> {
        let minutes = match self.idle {
            (0, _) => session.idle_limited.then_some(session.idle),
            (1, own) => Some(own),
            _ => None,
        };
        minutes.map(|minutes| minutes.saturating_mul(60))
    }
}

/// Whether a torrent that has everything has given enough.
pub(super) fn has_given_enough(given: Given, limits: Limits, session: &Settings) -> bool {
    let ratio = limits.ratio(session);
    let idle = limits.idle(session);
    ratio.is_some_and(|limit| given.ratio >= limit) || idle.is_some_and(|limit| given.idle >= limit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings(downloads: u64, seeds: Option<u64>) -> Settings {
        let mut settings = Settings::new("/x".to_owned());
        settings.download_queue = downloads;
        (settings.seed_queued, settings.seed_queue) = (seeds.is_some(), seeds.unwrap_or(0));
        settings
    }

    fn item(wants: bool, forced: bool, seeds: bool) -> Item {
        Item {
            wants,
            forced,
            seeds,
        }
    }

    #[test]
    fn the_first_in_the_queue_run_and_who_gives_waits_for_nobody_who_takes() {
        let (rests, takes, gives) = (
            item(false, false, false),
            item(true, false, false),
            item(true, false, true),
        );
        let all = [takes, rests, gives, takes, takes, gives];
        assert_eq!(
            turns(&all, &settings(2, None)),
            [true, false, true, true, false, true]
        );
        assert_eq!(
            turns(&all, &settings(2, Some(1))),
            [true, false, true, true, false, false]
        );
        // One that was started now runs beside them, and takes a place where there is one.
        let now = item(true, true, false);
        assert_eq!(
            turns(&[takes, takes, now], &settings(1, None)),
            [true, false, true]
        );
        assert_eq!(
            turns(&[now, takes, takes], &settings(1, None)),
            [true, false, false]
        );
    }

    #[test]
    fn the_chosen_move_and_keep_their_order() {
        let moved = |chosen: &[u8], way| {
            let mut order = vec![1, 2, 3, 4, 5];
            shift(&mut order, chosen, way);
            order
        };
        assert_eq!(moved(&[4, 2], Move::Top), [2, 4, 1, 3, 5]);
        assert_eq!(moved(&[4, 2], Move::Bottom), [1, 3, 5, 2, 4]);
        assert_eq!(moved(&[2, 3], Move::Up), [2, 3, 1, 4, 5]);
        assert_eq!(moved(&[1, 2], Move::Up), [1, 2, 3, 4, 5]);
        assert_eq!(moved(&[2, 3], Move::Down), [1, 4, 2, 3, 5]);
        assert_eq!(moved(&[4, 5], Move::Down), [1, 2, 3, 4, 5]);
        let mut order = vec![1, 2, 3];
        place(&mut order, 1, 99);
        assert_eq!(order, [2, 3, 1]);
        place(&mut order, 1, 1);
        assert_eq!(order, [2, 1, 3]);
    }

    #[test]
    fn a_torrent_stops_by_its_own_limits_or_by_the_sessions() {
        let mut session = settings(1, None);
        let given = Given {
            ratio: 1.5,
            idle: 300,
        };
        let enough = |session: &Settings, ratio, idle| {
            has_given_enough(given, Limits { ratio, idle }, session)
        };
        assert!(!enough(&session, (0, 0.0), (0, 0)), "the session sets none");
        assert!(enough(&session, (1, 1.5), (0, 0)));
        assert!(!enough(&session, (1, 1.6), (0, 0)));
        assert!(enough(&session, (0, 0.0), (1, 5)));
        assert!(!enough(&session, (0, 0.0), (1, 6)));
        (session.ratio_limited, session.ratio) = (true, 1.0);
        assert!(enough(&session, (0, 9.0), (2, 0)));
        assert!(!enough(&session, (2, 0.0), (2, 0)), "none for this one");
        (session.idle_limited, session.idle) = (true, 5);
        assert!(enough(&session, (2, 0.0), (0, 0)));
    }

    proptest! {
        #[test]
        fn no_more_run_than_may_and_none_that_rests(
            flags in proptest::collection::vec((any::<bool>(), any::<bool>()), 0..30),
            downloads in 0_u64..6,
            seeds in proptest::option::of(0_u64..6),
        ) {
            let items: Vec<Item> = flags.iter().map(|(wants, seeds)| item(*wants, false, *seeds)).collect();
            let run = turns(&items, &settings(downloads, seeds));
            let count = |gives: bool| {
                let all = items.iter().zip(&run);
                all.filter(|(item, run)| **run && item.seeds == gives).count() as u64
            };
            prop_assert!(count(false) <= downloads);
            prop_assert!(seeds.is_none_or(|most| count(true) <= most));
            prop_assert!(items.iter().zip(&run).all(|(item, run)| item.wants || !run));
        }
    }
}
