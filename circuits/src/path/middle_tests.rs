//! Fixed middles: what stays, for how long, and what whoever chooses the last hop gains.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::relay_list::RelayInfo;
use crate::relay_list::testing::{DAY, NOW, key, list, signed};

fn rng() -> StdRng {
    StdRng::seed_from_u64(1)
}

fn id(number: u16) -> RelayId {
    key(number).public()
}

fn relays(
    numbers: impl IntoIterator<Item = u16>,
    change: impl Fn(u16, &mut RelayInfo),
) -> RelayList {
    let signed = numbers
        .into_iter()
        .map(|n| signed(n, |info| change(n, info)));
    list(signed.collect())
}

fn plain(numbers: impl IntoIterator<Item = u16>) -> RelayList {
    relays(numbers, |_, _| {})
}

/// Draws from this list, with the usual rules and no guards.
fn refreshed(sample: &mut MiddleSample, list: &RelayList, now: u64, rng: &mut StdRng) {
    sample.refresh(list, &[], &PathRules::default(), now, rng);
}

fn drawn(list: &RelayList, rng: &mut StdRng) -> MiddleSample {
    let mut sample = MiddleSample::default();
    refreshed(&mut sample, list, NOW, rng);
    sample
}

fn ids(sample: &MiddleSample) -> Vec<RelayId> {
    sample.middles().iter().map(|middle| middle.id).collect()
}

/// A path to this relay by these middles.
fn path_to(
    list: &RelayList,
    guards: &[RelayId],
    last: RelayId,
    middles: Option<Vec<RelayId>>,
    rng: &mut StdRng,
) -> Result<Vec<RelayId>, PathError> {
    let needs = PathNeeds {
        hops: 3,
        exit: ExitNeed::IntroduceAt(last),
        avoid: Vec::new(),
        not_last: Vec::new(),
        middles,
    };
    let path = choose(list, guards, &needs, &PathRules::default(), rng)?;
    Ok(path.iter().map(|relay| relay.identity).collect())
}

#[test]
fn what_others_choose_the_last_hop_of_needs_a_fixed_middle() {
    for (need, fixed) in [
        (ExitNeed::Introduce, true),
        (ExitNeed::IntroduceAt(id(1)), true),
        (ExitNeed::Any, false),
        (ExitNeed::List, false),
        (ExitNeed::Dht, false),
    ] {
        assert_eq!(need.needs_fixed_middle(), fixed, "{need:?}");
    }
}

#[test]
fn a_path_that_needs_a_fixed_middle_has_three_hops_or_is_refused() {
    let list = plain(1..=8);
    for hops in 1..=3 {
        let needs = PathNeeds {
            hops,
            exit: ExitNeed::Any,
            avoid: Vec::new(),
            not_last: Vec::new(),
            middles: Some(vec![id(5)]),
        };
        let path = choose(&list, &[id(1)], &needs, &PathRules::default(), &mut rng());
        match hops {
            3 => assert_eq!(path.unwrap()[1].identity, id(5)),
            _ => assert_eq!(path, Err(PathError::NoRoomForMiddle(hops))),
        }
    }
}

#[test]
fn where_no_fixed_middle_fits_there_is_an_error_and_no_other_relay_instead() {
    let list = relays(1..=9, |n, info| {
        if [3, 7].contains(&n) {
            info.family = "near".to_owned();
        }
    });
    let fixed = |numbers: &[u16]| Some(numbers.iter().copied().map(id).collect::<Vec<_>>());
    let find = |last, middles| path_to(&list, &[id(1)], id(last), middles, &mut rng());
    assert!(find(7, None).is_ok());
    // It is the last hop, the guard, of the last hop's family, not in the list; and there are none.
    for middles in [&[7][..], &[1], &[3], &[77], &[], &[1, 3, 7, 77]] {
        let found = find(7, fixed(middles));
        assert_eq!(found, Err(PathError::NoFixedMiddle), "{middles:?}");
    }
    assert_eq!(find(7, fixed(&[1, 3, 7, 9])), Ok(vec![id(1), id(9), id(7)]));
}

#[test]
fn an_introduction_point_is_sought_that_leaves_a_fixed_middle() {
    // The fast ones are the fixed middles' own family.
    let list = relays(1..=9, |n, info| {
        if n > 2 && n != 9 {
            info.family = "fast".to_owned();
            info.bandwidth = 1_000_000;
        }
    });
    let needs = PathNeeds {
        hops: 3,
        exit: ExitNeed::Introduce,
        avoid: vec![id(2)],
        not_last: Vec::new(),
        middles: Some(vec![id(3), id(4)]),
    };
    for seed in 0..20 {
        let mut rng = StdRng::seed_from_u64(seed);
        let path = choose(&list, &[id(1)], &needs, &PathRules::default(), &mut rng).unwrap();
        assert_eq!(path[2].identity, id(9));
    }
}

#[test]
fn fixed_middles_are_drawn_by_bandwidth_and_used_evenly() {
    let list = relays(1..=40, |n, info| {
        info.bandwidth = if n > 20 { 9000 } else { 1000 };
    });
    let (mut rng, mut fast) = (rng(), 0);
    for _ in 0..250 {
        let sample = drawn(&list, &mut rng);
        fast += ids(&sample).iter().filter(|m| is_above(m, 20)).count();
    }
    // 90 % of 1000, a little less since none is drawn twice.
    assert!((850..=930).contains(&fast), "{fast}");
    let (slow, quick) = (id(2), id(30));
    let mut slow_ones = 0;
    for _ in 0..1000 {
        let middles = Some(vec![slow, quick]);
        let path = path_to(&list, &[id(1)], id(9), middles, &mut rng).unwrap();
        slow_ones += u32::from(path[1] == slow);
    }
    assert!((420..=580).contains(&slow_ones), "{slow_ones}");
}

fn is_above(relay: &RelayId, number: u16) -> bool {
    !(1..=number).any(|n| id(n) == *relay)
}

#[test]
fn lives_are_between_a_day_and_twelve_and_mostly_long() {
    let (list, mut rng) = (plain(1..=8), rng());
    let mut lives = Vec::new();
    for _ in 0..500 {
        let sample = drawn(&list, &mut rng);
        assert_eq!(sample.middles().len(), MIDDLES);
        lives.extend(sample.middles().iter().map(|middle| middle.until - NOW));
    }
    let bounds = MIN_MIDDLE_LIFE..=MAX_MIDDLE_LIFE;
    assert!(lives.iter().all(|life| bounds.contains(life)));
    let mean = lives.iter().sum::<u64>() / lives.len() as u64;
    // 1 + 11 * 2/3 days; one draw alone would give 6.5.
    assert!((8 * DAY..9 * DAY).contains(&mean), "{mean}");
    let distinct: BTreeSet<_> = lives.iter().collect();
    assert!(distinct.len() > 1900, "each has its own end");
}

#[test]
fn a_middle_is_replaced_at_its_end_and_the_others_stay() {
    let (list, mut rng) = (plain(1..=50), rng());
    let mut sample = drawn(&list, &mut rng);
    for _ in 0..50 {
        let before = sample.clone();
        let end = before.middles().iter().map(|middle| middle.until).min();
        let end = end.unwrap();
        refreshed(&mut sample, &list, end - 1, &mut rng);
        assert_eq!(sample, before, "nothing is due");
        assert_eq!(sample.usable(end - 1).len(), MIDDLES);
        assert_eq!(
            sample.usable(end).len(),
            MIDDLES - 1,
            "not used beyond its end"
        );
        refreshed(&mut sample, &list, end, &mut rng);
        let kept = before.middles().iter().filter(|middle| middle.until > end);
        assert!(kept.clone().all(|middle| sample.middles().contains(middle)));
        assert_eq!((kept.count(), sample.middles().len()), (3, 4));
    }
}

#[test]
fn a_middle_that_leaves_the_list_keeps_its_place_for_two_days() {
    let (all, mut rng) = (plain(1..=20), rng());
    let mut sample = drawn(&all, &mut rng);
    // None ends meanwhile.
    let long = |middle: &Middle| Middle {
        until: NOW + 11 * DAY,
        ..middle.clone()
    };
    sample = MiddleSample::from_middles(sample.middles().iter().map(long));
    let before = ids(&sample);
    let gone = (1..=20).find(|n| id(*n) == before[0]).unwrap();
    let without = plain((1..=20).filter(|n| *n != gone));
    refreshed(&mut sample, &without, NOW, &mut rng);
    assert_eq!(sample.usable(NOW), before[1..]);
    let later = NOW + UNLISTED_MIDDLE_LIFE - 1;
    refreshed(&mut sample, &without, later, &mut rng);
    assert_eq!(ids(&sample), before);
    refreshed(&mut sample, &all, later, &mut rng);
    assert_eq!(sample.usable(later), before);
    refreshed(&mut sample, &without, later, &mut rng);
    let end = later + UNLISTED_MIDDLE_LIFE;
    refreshed(&mut sample, &without, end, &mut rng);
    assert_eq!(ids(&sample)[..3], before[1..]);
    assert_eq!(sample.usable(end).len(), MIDDLES);
}

#[test]
fn a_clock_that_was_wrong_keeps_no_middle_for_longer() {
    let (list, mut rng, mut sample) = (plain(1..=9), rng(), MiddleSample::default());
    let future = NOW + 1000 * DAY;
    refreshed(&mut sample, &list, future, &mut rng);
    let before = ids(&sample);
    let missing = plain((1..=9).filter(|n| id(*n) != before[0]));
    refreshed(&mut sample, &missing, future, &mut rng);
    refreshed(&mut sample, &missing, NOW, &mut rng);
    assert_eq!(ids(&sample), before);
    assert_eq!(sample.middles()[0].unlisted_since, Some(NOW));
    let ends = sample.middles().iter().map(|middle| middle.until);
    assert!(ends.clone().all(|end| end == NOW + MAX_MIDDLE_LIFE));
    refreshed(&mut sample, &list, NOW + MAX_MIDDLE_LIFE, &mut rng);
    let ends = sample.middles().iter().map(|middle| middle.until);
    assert!(ends.min() > Some(NOW + MAX_MIDDLE_LIFE));
}

#[test]
fn guards_and_relatives_are_no_middles_where_others_can_be() {
    let guards = [id(1), id(2), id(3)];
    let rules = PathRules::default();
    let draw_from = |list: &RelayList, seed| {
        let (mut sample, mut rng) = (MiddleSample::default(), StdRng::seed_from_u64(seed));
        sample.refresh(list, &guards, &rules, NOW, &mut rng);
        sample
    };
    let families = relays(1..=11, |n, info| {
        info.bandwidth = if n <= 3 { 1_000_000 } else { 1 };
        info.family = ["a", "b", "c", "d"][usize::from(n) % 4].to_owned();
    });
    for seed in 0..50 {
        let middles = ids(&draw_from(&families, seed));
        assert!(middles.iter().all(|middle| !guards.contains(middle)));
        let families: BTreeSet<_> = middles
            .iter()
            .map(|middle| families.get(middle).unwrap().family.clone())
            .collect();
        assert_eq!(families.len(), MIDDLES);
    }
    // Small networks: what there is.
    for count in 0..=6 {
        let list = plain(1..=count.max(1));
        let middles = ids(&draw_from(&list, 1));
        let few = usize::from(count.max(1)).min(MIDDLES);
        let distinct: BTreeSet<_> = middles.iter().collect();
        assert_eq!((middles.len(), distinct.len()), (few, few));
    }
}

#[test]
fn stored_middles_beyond_the_limit_or_twice_are_left_out() {
    let middle = |n: u16| Middle {
        id: id(n),
        until: NOW + DAY,
        unlisted_since: None,
    };
    let sample = MiddleSample::from_middles([1, 1, 2].into_iter().chain(3..60).map(middle));
    assert_eq!(ids(&sample), (1..=4).map(id).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Somebody names last hops as he likes, and brings relays in and out of the list, of whatever family and network.
    #[test]
    fn whoever_chooses_last_hops_and_joins_the_list_sees_the_fixed_middles_alone(
        shapes in prop::collection::vec((0u8..6, 0u8..8), 6..20),
        joins in prop::collection::vec((0u8..6, 0u8..8, 0usize..40), 1..12),
        seed: u64,
    ) {
        const FAMILIES: [&str; 6] = ["", "", "", "a", "b", "c"];
        let shape = |n: u16, family: u8, net: u8| signed(n, |info| {
            info.family = FAMILIES[usize::from(family)].to_owned();
            info.addresses = vec![SocketAddr::from(([11, net, n as u8, 1], 1))];
        });
        let mut rng = StdRng::seed_from_u64(seed);
        let mut listed: Vec<Descriptor> = (1..).zip(&shapes)
            .map(|(n, (family, net))| shape(n, *family, *net))
            .collect();
        let guards: Vec<RelayId> = (1..=3).map(id).collect();
        let rules = PathRules::default();
        let mut sample = MiddleSample::default();
        sample.refresh(&list(listed.clone()), &guards, &rules, NOW, &mut rng);
        let first = sample.clone();
        let mut used = BTreeSet::new();
        for (round, (family, net, gone)) in joins.iter().enumerate() {
            // All within the shortest life.
            let now = NOW + round as u64 * 3600;
            listed.push(shape(100 + round as u16, *family, *net));
            let known = ids(&first);
            // Relays leave too, but middles only for a while.
            let at = gone % listed.len();
            let leaves = listed.len() > 6 && (round % 2 == 0 || !known.contains(&listed[at].identity));
            let kept = listed.iter().enumerate().filter(|(n, _)| !leaves || *n != at);
            let list = list(kept.map(|(_, relay)| relay.clone()).collect());
            sample.refresh(&list, &guards, &rules, now, &mut rng);
            prop_assert_eq!(ids(&sample), ids(&first));
            let fixed = sample.usable(now);
            for last in list.relays() {
                for _ in 0..4 {
                    match path_to(&list, &guards, last.identity, Some(fixed.clone()), &mut rng) {
                        Ok(path) => {
                            prop_assert!(fixed.contains(&path[1]) && path[2] == last.identity);
                            used.insert(path[1]);
                        }
                        Err(PathError::NoFixedMiddle) => {
                            let can = |guard: &RelayId| list.get(guard).is_some_and(|guard| {
                                fixed.iter().filter_map(|id| list.get(id)).any(|middle| {
                                    rules.are_apart(guard, middle)
                                        && rules.are_apart(middle, last)
                                        && rules.are_apart(guard, last)
                                })
                            });
                            prop_assert!(!guards.iter().any(can), "there was a path");
                        }
                        Err(PathError::GuardTooClose | PathError::NoGuard) => {}
                        Err(other) => prop_assert!(false, "{other}"),
                    }
                }
            }
        }
        prop_assert!(used.iter().all(|middle| ids(&first).contains(middle)));
    }
}

/// Relays of the simulation: a tenth of them, and of the bandwidth, is the visitor's.
const NETWORK: u16 = 100;
const HOSTILE: u16 = 10;
const VISITS: usize = 10_000;
/// A visit every so often, seconds: 10,000 take 60 days.
const PACE: u64 = 60 * DAY / VISITS as u64;
const SEEDS: u64 = 60;

/// The visit at which a seed's guard is next to a relay of the visitor's, who names his own relays as rendezvous points.
fn exposed_at(list: &RelayList, hostile: &[RelayId], seed: u64, pace: Option<u64>) -> usize {
    let mut rng = StdRng::seed_from_u64(seed);
    let honest = |guard: &RelayId| !hostile.contains(guard);
    let mut guards = GuardSample::default();
    guards.refresh(list, NOW, &mut rng);
    // A seed whose guard is the visitor's has nothing to lose here.
    let guards: Vec<_> = guards
        .usable(NOW)
        .into_iter()
        .chain([id(1)])
        .filter(honest)
        .collect();
    let mut sample = MiddleSample::default();
    for visit in 1..=VISITS {
        let middles = pace.map(|pace| {
            let now = NOW + visit as u64 * pace;
            sample.refresh(list, &guards, &PathRules::default(), now, &mut rng);
            sample.usable(now)
        });
        let last = hostile[visit % hostile.len()];
        let path = path_to(list, &guards, last, middles, &mut rng);
        // Where the rules forbid it, the seed does not come.
        if path.is_ok_and(|path| hostile.contains(&path[1])) {
            return visit;
        }
    }
    usize::MAX
}

/// Figures for the README; a simulation, with the same code that chooses paths.
#[test]
fn visits_until_a_seeds_guard_is_exposed_to_a_middle() {
    let list = plain(1..=NETWORK);
    let hostile: Vec<_> = (NETWORK - HOSTILE + 1..=NETWORK).map(id).collect();
    let measure = |pace| {
        let mut visits: Vec<_> = (0..SEEDS)
            .map(|seed| exposed_at(&list, &hostile, seed, pace))
            .collect();
        visits.sort_unstable();
        let never = visits.iter().filter(|visit| **visit == usize::MAX).count();
        let safe = never as u64 * 100 / SEEDS;
        (visits[visits.len() / 2], safe)
    };
    let name = |visit: usize| match visit {
        usize::MAX => format!("none in {VISITS}"),
        visit => visit.to_string(),
    };
    let fresh = measure(None);
    let at_once = measure(Some(0));
    let days = measure(Some(PACE));
    println!(
        "{HOSTILE} % hostile, {VISITS} visits, {SEEDS} seeds; the median visit that exposes, and seeds never exposed:"
    );
    for (what, (median, safe)) in [
        ("fresh middles", fresh),
        ("fixed middles, all visits in one day", at_once),
        ("fixed middles, visits spread over 60 days", days),
    ] {
        println!("{what}: {}, {safe} %", name(median));
    }
    assert!(fresh.0 <= 30 && fresh.1 == 0);
    // 0.9^4 = 66 %, less a little as guards are none of them.
    assert!(at_once.0 == usize::MAX && at_once.1 >= 45);
    assert!(days.0 >= 20 * fresh.0);
}
