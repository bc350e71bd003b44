#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::relay_list::testing::{DAY, NOW, key, list, signed};
use crate::relay_list::{ExitPolicy, Roles};

fn rng() -> StdRng {
    StdRng::seed_from_u64(1)
}

fn needs(hops: usize) -> PathNeeds {
    PathNeeds {
        hops,
        exit: ExitNeed::Any,
        avoid: Vec::new(),
        not_last: Vec::new(),
        middles: None,
    }
}

fn tcp(ip: Option<&str>, port: u16) -> ExitNeed {
    ExitNeed::Target {
        proto: Proto::Tcp,
        ip: ip.map(|ip| ip.parse().unwrap()),
        port,
    }
}

fn id(number: u16) -> RelayId {
    key(number).public()
}

const NO_ROLES: Roles = Roles {
    guard: false,
    exit: false,
    list: false,
    dht: false,
    introduce: false,
};

#[test]
fn hops_are_one_to_three() {
    let list = list((1..=5).map(|n| signed(n, |_| {})).collect());
    for hops in 1..=3 {
        let path = choose(
            &list,
            &[id(2)],
            &needs(hops),
            &PathRules::default(),
            &mut rng(),
        )
        .unwrap();
        assert_eq!(path.len(), hops);
        assert!(hops == 1 || path[0].identity == id(2));
    }
    for hops in [0, 4, usize::MAX] {
        let chosen = choose(
            &list,
            &[id(2)],
            &needs(hops),
            &PathRules::default(),
            &mut rng(),
        );
        assert_eq!(chosen, Err(PathError::Hops(hops)));
    }
}

#[test]
fn a_guard_that_must_not_come_last_is_still_the_guard() {
    let rules = PathRules::default();
    let list = list((1..=4).map(|n| signed(n, |_| {})).collect());
    let mut needs = PathNeeds {
        not_last: vec![id(1), id(2), id(3)],
        ..needs(3)
    };
    for _ in 0..50 {
        let path = choose(&list, &[id(1)], &needs, &rules, &mut rng()).unwrap();
        assert_eq!((path[0].identity, path[2].identity), (id(1), id(4)));
    }
    needs.not_last.push(id(4));
    let chosen = choose(&list, &[id(1)], &needs, &rules, &mut rng());
    assert_eq!(chosen, Err(PathError::NoExit));
}

#[test]
fn each_missing_need_has_its_own_error() {
    let rules = PathRules::default();
    let find = |list: &RelayList, guards: &[RelayId], needs: &PathNeeds| {
        choose(list, guards, needs, &rules, &mut rng()).map(|path| path.len())
    };
    let full = list((1..=4).map(|n| signed(n, |_| {})).collect());
    let mail = PathNeeds {
        exit: tcp(None, 25),
        ..needs(3)
    };
    assert_eq!(find(&full, &[id(1)], &mail), Err(PathError::NoExit));
    assert_eq!(
        find(&full, &[id(1)], &PathNeeds { hops: 1, ..mail }),
        Err(PathError::NoExit)
    );
    assert_eq!(find(&full, &[], &needs(3)), Err(PathError::NoGuard));
    assert_eq!(find(&full, &[id(77)], &needs(3)), Err(PathError::NoGuard));
    let avoid = PathNeeds {
        avoid: vec![id(1)],
        ..needs(3)
    };
    assert_eq!(find(&full, &[id(1)], &avoid), Err(PathError::NoGuard));
    let not_a_guard = list(
        (1..=4)
            .map(|n| signed(n, |info| info.roles = NO_ROLES))
            .collect(),
    );
    assert_eq!(
        find(&not_a_guard, &[id(1)], &needs(3)),
        Err(PathError::NoGuard)
    );
    let family = list(
        (1..=4)
            .map(|n| signed(n, |info| info.family = "one".to_owned()))
            .collect(),
    );
    assert_eq!(
        find(&family, &[id(1)], &needs(3)),
        Err(PathError::GuardTooClose)
    );
    let two = list((1..=2).map(|n| signed(n, |_| {})).collect());
    assert_eq!(find(&two, &[id(1)], &needs(3)), Err(PathError::NoMiddle));
    assert_eq!(find(&two, &[id(1)], &needs(2)), Ok(2));
}

#[test]
fn relays_of_one_network_are_kept_apart_unless_the_rule_is_off() {
    let local = |n: u16| {
        signed(n, |info| {
            info.addresses = vec![SocketAddr::from(([127, 0, 0, n as u8], 4443))]
        })
    };
    let list = list((1..=3).map(local).collect());
    let with = |ipv4_prefix| PathRules {
        ipv4_prefix,
        ipv6_prefix: 32,
    };
    let chosen = |prefix| choose(&list, &[id(1)], &needs(3), &with(prefix), &mut rng());
    assert_eq!(chosen(16), Err(PathError::GuardTooClose));
    assert_eq!(chosen(32).unwrap().len(), 3);
    assert_eq!(chosen(0).unwrap().len(), 3);
}

#[test]
fn one_shared_network_among_several_addresses_is_enough_to_part_two_relays() {
    let with = |n, addresses: &[&str]| {
        signed(n, |info| {
            info.addresses = addresses.iter().map(|a| a.parse().unwrap()).collect()
        })
    };
    let a = with(1, &["11.1.1.1:1", "[2a00:1::1]:1"]);
    let rules = PathRules::default();
    assert!(!rules.are_apart(&a, &with(2, &["12.1.1.1:1", "[2a00:1:ffff::2]:1"])));
    assert!(!rules.are_apart(&a, &with(2, &["[2a00:2::1]:1", "11.1.255.1:1"])));
    assert!(rules.are_apart(&a, &with(2, &["11.2.1.1:1", "[2a00:2::1]:1"])));
    assert!(!rules.are_apart(&a, &a));
}

#[test]
fn the_exit_follows_policy_and_role() {
    let only_80 = ExitPolicy::from_texts(&["accept tcp 8.0.0.0/8:80"]).unwrap();
    let relays = (1..=6).map(|n| {
        signed(n, |info| match n {
            1 => info.policy = only_80.clone(),
            // Accepts everything, but isn't an exit.
            _ => info.roles.exit = false,
        })
    });
    let list = list(relays.collect());
    let find = |exit| {
        choose(
            &list,
            &[id(2)],
            &PathNeeds { exit, ..needs(3) },
            &PathRules::default(),
            &mut rng(),
        )
        .map(|path| path[2].identity)
    };
    assert_eq!(find(tcp(Some("8.8.8.8"), 80)), Ok(id(1)));
    assert_eq!(find(tcp(Some("::ffff:8.8.8.8"), 80)), Ok(id(1)));
    assert_eq!(find(tcp(None, 80)), Ok(id(1)));
    assert_eq!(find(tcp(Some("9.8.8.8"), 80)), Err(PathError::NoExit));
    assert_eq!(find(tcp(None, 81)), Err(PathError::NoExit));
    assert_eq!(find(ExitNeed::Datagrams), Err(PathError::NoExit));
    assert_eq!(find(ExitNeed::Lookup), Ok(id(1)), "it lets something out");
    assert!(find(ExitNeed::List).is_ok() && find(ExitNeed::Any).is_ok());
}

#[test]
fn who_looks_up_in_the_dht_is_an_exit_that_says_so_and_lets_datagrams_out() {
    let tcp_alone = ExitPolicy::from_texts(&["accept tcp 8.0.0.0/8:80"]).unwrap();
    let relays = (1..=5).map(|n| {
        signed(n, |info| match n {
            1 => {}
            2 => info.roles.dht = false,
            3 => info.roles.exit = false,
            _ => info.policy = tcp_alone.clone(),
        })
    });
    let relays: Vec<_> = relays.collect();
    let met = relays.iter().map(|relay| ExitNeed::Dht.is_met_by(relay));
    assert_eq!(met.collect::<Vec<_>>(), [true, false, false, false, false]);
}

#[test]
fn a_meeting_is_at_a_relay_that_takes_them_and_at_no_other_where_one_is_named() {
    let relays = (1..=6).map(|n| {
        signed(n, |info| {
            info.roles.introduce = n != 4;
            info.roles.exit = n == 6;
        })
    });
    let list = list(relays.collect());
    let find = |exit| {
        let needs = PathNeeds { exit, ..needs(3) };
        let rules = PathRules::default();
        let path = choose(&list, &[id(1), id(2)], &needs, &rules, &mut rng());
        path.map(|path| (path[0].identity, path[2].identity))
    };
    for _ in 0..50 {
        assert_ne!(find(ExitNeed::Introduce).unwrap().1, id(4));
    }
    for n in [3, 5, 6] {
        assert_eq!(find(ExitNeed::IntroduceAt(id(n))), Ok((id(1), id(n))));
    }
    assert_eq!(find(ExitNeed::IntroduceAt(id(4))), Err(PathError::NoExit));
    assert_eq!(find(ExitNeed::IntroduceAt(id(99))), Err(PathError::NoExit));
    // At a guard of ours the path begins at another.
    assert_eq!(find(ExitNeed::IntroduceAt(id(1))), Ok((id(2), id(1))));
    assert_eq!(format!("{:?}", ExitNeed::IntroduceAt(id(3))), "IntroduceAt");
}

#[test]
fn the_first_guard_stays_whatever_the_exit() {
    // Guard 1 shares a family with all exits but relay 9.
    let relays = (1..=9).map(|n| {
        signed(n, |info| {
            info.roles.exit = n >= 5;
            info.bandwidth = if n == 9 { 1 } else { 1_000_000 };
            if n == 1 || (5..9).contains(&n) {
                info.family = "f".to_owned();
            }
        })
    });
    let list = list(relays.collect());
    let needs = PathNeeds {
        exit: tcp(None, 80),
        ..needs(3)
    };
    for seed in 0..50 {
        let mut rng = StdRng::seed_from_u64(seed);
        let path = choose(
            &list,
            &[id(1), id(2)],
            &needs,
            &PathRules::default(),
            &mut rng,
        )
        .unwrap();
        assert_eq!((path[0].identity, path[2].identity), (id(1), id(9)));
    }
    // Only when no exit fits it does the next guard come in.
    let avoid = PathNeeds {
        avoid: vec![id(9)],
        ..needs
    };
    let path = choose(
        &list,
        &[id(1), id(2)],
        &avoid,
        &PathRules::default(),
        &mut rng(),
    )
    .unwrap();
    assert_eq!(path[0].identity, id(2));
}

#[test]
fn an_exit_without_a_middle_is_given_up_for_one_with() {
    // Beside guard 1 there are exits 2 and 3 in one network, and relay 4 in the family of exit 2, which is much
    // the faster: the only path is 1, 4, 3.
    let relays = [(1, ""), (2, "a"), (3, ""), (4, "a")].map(|(n, family)| {
        signed(n, |info| {
            info.family = family.to_owned();
            info.roles.exit = n == 2 || n == 3;
            info.bandwidth = if n == 2 { 1_000_000 } else { 1 };
            if info.roles.exit {
                info.addresses = vec![SocketAddr::from(([99, 99, 0, n as u8], 1))];
            }
        })
    });
    let list = list(relays.into());
    let mut needs = PathNeeds {
        exit: tcp(None, 80),
        ..needs(3)
    };
    let path = choose(&list, &[id(1)], &needs, &PathRules::default(), &mut rng()).unwrap();
    let found: Vec<_> = path.iter().map(|relay| relay.identity).collect();
    assert_eq!(found, [id(1), id(4), id(3)]);
    needs.avoid.push(id(3));
    let chosen = choose(&list, &[id(1)], &needs, &PathRules::default(), &mut rng());
    assert_eq!(chosen, Err(PathError::NoMiddle));
}

#[test]
fn exits_and_middles_are_drawn_by_bandwidth() {
    let relays = (1..=4).map(|n| {
        signed(n, |info| {
            info.bandwidth = [1, 1000, 3000, 6000][usize::from(n) - 1];
            info.roles.exit = n != 1;
        })
    });
    let list = list(relays.collect());
    let needs = PathNeeds {
        exit: tcp(None, 80),
        ..needs(2)
    };
    let (mut rng, mut counts) = (rng(), BTreeMap::new());
    for _ in 0..4000 {
        let path = choose(&list, &[id(1)], &needs, &PathRules::default(), &mut rng).unwrap();
        *counts.entry(path[1].identity).or_insert(0u32) += 1;
    }
    // Expected 400, 1200, 2400; five standard deviations are at most 155.
    for (number, expected) in [(2, 400u32), (3, 1200), (4, 2400)] {
        assert!(
            counts[&id(number)].abs_diff(expected) < 155,
            "{number}: {counts:?}"
        );
    }
}

#[test]
fn claimed_bandwidth_counts_only_up_to_the_limit() {
    let mut claims = [u32::MAX, MAX_WEIGHT, 0].into_iter().zip(1..);
    let weights = claims
        .by_ref()
        .map(|(claim, n)| weight(&signed(n, |info| info.bandwidth = claim)));
    let limit = u64::from(MAX_WEIGHT);
    assert_eq!(weights.collect::<Vec<_>>(), [limit, limit, 1]);
}

#[test]
fn needs_do_not_show_their_target() {
    let shown = format!(
        "{:?}",
        PathNeeds {
            exit: tcp(Some("8.8.4.4"), 6881),
            ..needs(3)
        }
    );
    assert!(shown.contains("Target(tcp)") && !shown.contains("8.8.4.4") && !shown.contains("6881"));
}

/// A relay of a random network: few families and networks, so that they collide.
type Shape = (u8, u8, u8, u8, u32);

fn build((n, shape): (u16, &Shape)) -> Descriptor {
    let (family, net, roles, policy, bandwidth) = *shape;
    signed(n, |info| {
        info.family = ["", "", "a", "b"][usize::from(family % 4)].to_owned();
        info.addresses = vec![SocketAddr::from(([11, net % 6, n as u8, 1], 1))];
        info.roles = Roles {
            guard: roles & 1 != 0,
            exit: roles & 2 != 0,
            list: roles & 4 != 0,
            dht: roles & 8 != 0,
            introduce: roles & 16 != 0,
        };
        info.policy = match policy % 3 {
            0 => ExitPolicy::public(),
            1 => ExitPolicy::reject_all(),
            _ => ExitPolicy::from_texts(&["accept tcp 8.0.0.0/8:*"]).unwrap(),
        };
        info.bandwidth = bandwidth;
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_list_the_constraints_hold(
        shapes in prop::collection::vec(any::<Shape>(), 1..24),
        hops in 1usize..=3, seed: u64, port: u16, by_name: bool,
        avoid in prop::collection::vec(1u16..24, 0..4),
    ) {
        let list = list((1..).zip(&shapes).map(build).collect());
        let guards: Vec<RelayId> = (1..=shapes.len() as u16).rev().map(id).collect();
        let ip = "8.8.8.8".parse().unwrap();
        let exit = ExitNeed::Target { proto: Proto::Tcp, ip: (!by_name).then_some(ip), port };
        let needs = PathNeeds { hops, exit, avoid: avoid.into_iter().map(id).collect(), not_last: Vec::new(), middles: None };
        let rules = PathRules::default();
        let mut rng = StdRng::seed_from_u64(seed);
        let fits = |guard: &Descriptor, middle: Option<&Descriptor>, exit: &Descriptor| {
            let all = [Some(guard), middle, Some(exit)];
            let mut seen: Vec<&Descriptor> = Vec::new();
            for relay in all.into_iter().flatten() {
                if needs.avoid.contains(&relay.identity)
                    || seen.iter().any(|other| !rules.are_apart(other, relay)) {
                    return false;
                }
                seen.push(relay);
            }
            guard.roles.guard && exit.roles.exit && needs.exit.is_met_by(exit)
        };
        // By trying everything: the first guard that has a path at all.
        let best = guards.iter().filter_map(|id| list.get(id)).find(|guard| {
            list.relays().iter().any(|exit| match hops {
                2 => fits(guard, None, exit),
                _ => list.relays().iter().any(|middle| fits(guard, Some(middle), exit)),
            })
        });
        match (hops, choose(&list, &guards, &needs, &rules, &mut rng)) {
            (1, Ok(path)) => {
                prop_assert!(path.len() == 1 && needs.exit.is_met_by(&path[0]));
                prop_assert!(!needs.avoid.contains(&path[0].identity));
            }
            (1, Err(error)) => {
                prop_assert_eq!(error, PathError::NoExit);
                let any = list.relays().iter()
                    .any(|r| needs.exit.is_met_by(r) && !needs.avoid.contains(&r.identity));
                prop_assert!(!any);
            }
            (_, Ok(path)) => {
                prop_assert_eq!(path.len(), hops);
                let middle = path.get(1).filter(|_| hops == 3).map(|relay| &**relay);
                prop_assert!(fits(&path[0], middle, &path[hops - 1]));
                prop_assert_eq!(Some(path[0].identity), best.map(|guard| guard.identity));
            }
            (_, Err(_)) => prop_assert!(best.is_none(), "there was a path"),
        }
    }

    #[test]
    fn guards_keep_their_order_over_lists_that_grow(
        first in prop::collection::vec(any::<Shape>(), 1..30),
        more in prop::collection::vec(any::<Shape>(), 0..20), seed: u64,
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut sample = GuardSample::default();
        sample.refresh(&list((1..).zip(&first).map(build).collect()), NOW, &mut rng);
        let before = ids(&sample);
        prop_assert!(before.len() <= SAMPLE_SIZE);
        let all: Vec<_> = first.iter().chain(&more).collect();
        let grown = list((1..).zip(all.iter().copied()).map(build).collect());
        sample.refresh(&grown, NOW + DAY, &mut rng);
        let after = ids(&sample);
        prop_assert_eq!(&after[..before.len()], &before[..]);
        let possible = grown.relays().iter().filter(|relay| relay.roles.guard).count();
        prop_assert_eq!(after.len(), possible.min(SAMPLE_SIZE).max(before.len()));
        prop_assert_eq!(GuardSample::from_guards(sample.guards().to_vec()), sample);
    }
}

fn ids(sample: &GuardSample) -> Vec<RelayId> {
    sample.guards().iter().map(|guard| guard.id).collect()
}

fn guards_only(numbers: impl IntoIterator<Item = u16>) -> RelayList {
    list(numbers.into_iter().map(|n| signed(n, |_| {})).collect())
}

fn sampled(count: u16) -> (GuardSample, RelayList, StdRng) {
    let (mut sample, list, mut rng) = (GuardSample::default(), guards_only(1..=count), rng());
    sample.refresh(&list, NOW, &mut rng);
    (sample, list, rng)
}

#[test]
fn only_the_first_three_are_used_until_all_of_them_fail() {
    let (mut sample, ..) = sampled(40);
    let order = ids(&sample);
    assert_eq!(order.len(), SAMPLE_SIZE);
    assert_eq!(sample.usable(NOW), order[..3]);
    sample.failed(&order[0], NOW);
    assert_eq!(sample.usable(NOW), order[1..3]);
    sample.failed(&order[1], NOW);
    sample.failed(&order[2], NOW);
    assert_eq!(sample.usable(NOW), order[3..6]);
    assert_eq!(
        sample.usable(NOW + 60),
        order[..3],
        "the first three again, as soon as they may"
    );
    order.iter().for_each(|id| sample.failed(id, NOW + 60));
    assert_eq!(
        (sample.usable(NOW + 60), sample.next_retry()),
        (vec![], Some(NOW + 120))
    );
}

#[test]
fn waits_double_from_a_minute_to_an_hour() {
    let (mut sample, ..) = sampled(1);
    let only = ids(&sample)[0];
    for wait in [60, 120, 240, 480, 960, 1920, 3600, 3600] {
        sample.failed(&only, NOW);
        assert!(sample.usable(NOW + wait - 1).is_empty() && !sample.usable(NOW + wait).is_empty());
    }
    (0..100).for_each(|_| sample.failed(&only, NOW));
    assert_eq!(sample.next_retry(), Some(NOW + MAX_BACKOFF));
    sample.succeeded(&only, NOW);
    sample.failed(&only, NOW);
    assert_eq!(sample.next_retry(), Some(NOW + 60));
}

#[test]
fn after_a_time_offline_the_better_guards_are_tried_at_once() {
    let (mut sample, ..) = sampled(10);
    let order = ids(&sample);
    sample.succeeded(&order[0], NOW);
    let later = NOW + NETWORK_LIKELY_DOWN;
    for _ in 0..5 {
        order[..4].iter().for_each(|id| sample.failed(id, later));
    }
    assert_eq!(sample.usable(later), order[4..7]);
    sample.succeeded(&order[4], later);
    assert_eq!(sample.usable(later), order[..3]);
    // When guards failed while others answered, they wait.
    order[..3].iter().for_each(|id| sample.failed(id, later));
    sample.succeeded(&order[4], later + 1);
    assert_eq!(sample.usable(later + 1)[0], order[3]);
}

#[test]
fn guards_are_replaced_after_their_life_and_not_before() {
    let (mut sample, list, mut rng) = sampled(5);
    let before = sample.guards().to_vec();
    assert!(
        before
            .iter()
            .all(|guard| guard.added_at <= NOW && guard.added_at + GUARD_LIFE / 10 > NOW)
    );
    sample.refresh(&list, NOW + GUARD_LIFE - GUARD_LIFE / 10 - 1, &mut rng);
    assert_eq!(sample.guards(), before);
    sample.refresh(&list, NOW + GUARD_LIFE, &mut rng);
    assert!(sample.guards().iter().all(|guard| guard.added_at > NOW));
    assert_eq!(sample.guards().len(), 5);
}

#[test]
fn a_guard_that_leaves_the_list_keeps_its_place_for_a_while() {
    let (mut sample, all, mut rng) = sampled(6);
    let order = ids(&sample);
    let first = (1..=6).find(|n| id(*n) == order[0]).unwrap();
    let without = guards_only((1..=6).filter(|n| *n != first));
    sample.refresh(&without, NOW, &mut rng);
    assert_eq!(sample.usable(NOW), order[1..4]);
    sample.refresh(&without, NOW + UNLISTED_LIFE - 1, &mut rng);
    sample.refresh(&all, NOW + UNLISTED_LIFE - 1, &mut rng);
    assert_eq!(ids(&sample), order);
    assert_eq!(sample.usable(NOW + UNLISTED_LIFE), order[..3]);
    sample.refresh(&without, NOW, &mut rng);
    sample.refresh(&without, NOW + UNLISTED_LIFE, &mut rng);
    assert_eq!(ids(&sample), order[1..]);
}

#[test]
fn a_clock_that_was_wrong_neither_locks_guards_out_nor_keeps_them_for_longer() {
    let (mut sample, list, mut rng) = (GuardSample::default(), guards_only(1..=3), rng());
    let future = NOW + 1000 * DAY;
    sample.refresh(&list, future, &mut rng);
    ids(&sample).iter().for_each(|id| sample.failed(id, future));
    sample.refresh(&list, NOW, &mut rng);
    assert_eq!(sample.guards().len(), 3);
    assert!(!sample.usable(NOW + MAX_BACKOFF).is_empty());
    assert!(sample.guards().iter().all(|guard| guard.added_at == NOW));
    sample.refresh(&list, NOW + GUARD_LIFE, &mut rng);
    assert!(sample.guards().iter().all(|guard| guard.added_at > NOW));
}

#[test]
fn stored_guards_beyond_the_limit_or_twice_are_left_out() {
    let guard = |n: u16| Guard {
        id: id(n),
        added_at: NOW,
        last_ok: None,
        failures: 0,
        retry_at: 0,
        unlisted_since: None,
    };
    let sample = GuardSample::from_guards([1, 1, 2].into_iter().chain(3..60).map(guard));
    assert_eq!(ids(&sample), (1..=20).map(id).collect::<Vec<_>>());
}
