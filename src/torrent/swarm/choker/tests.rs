use super::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeSet;

fn candidate(n: u32) -> Candidate {
    Candidate {
        key: PeerKey(n),
        interested: true,
        snubbing: false,
        given: 0,
        taken: 1,
        has: 500,
    }
}

/// Of these, each gives more than the one before, and the first wants nothing.
fn peers(count: u32) -> Vec<Candidate> {
    (0..count)
        .map(|n| Candidate {
            interested: n != 0,
            given: u64::from(n),
            ..candidate(n)
        })
        .collect()
}

fn keys(of: impl IntoIterator<Item = u32>) -> BTreeSet<PeerKey> {
    of.into_iter().map(PeerKey).collect()
}

#[test]
fn those_who_give_most_are_unchoked_and_one_by_turns() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut choker = Choker::default();
    let mut lucky = Vec::new();
    for _ in 0..300 {
        let chosen = choker.round(false, &peers(20), &mut rng);
        assert_eq!(chosen.len(), SLOTS + 1);
        assert!((12..20).all(|n| chosen.contains(&PeerKey(n))));
        lucky.push(chosen[SLOTS]);
    }
    assert!(
        lucky
            .chunks(3)
            .all(|turn| turn.iter().all(|key| *key == turn[0]))
    );
    let all: BTreeSet<PeerKey> = lucky.into_iter().collect();
    assert_eq!(all, keys(1..12), "each has a turn, 0 never");
}

#[test]
fn few_peers_are_all_unchoked() {
    let rng = &mut StdRng::seed_from_u64(1);
    for complete in [false, true] {
        let chosen = Choker::default().round(complete, &peers(5), rng);
        assert_eq!(chosen.len(), 4);
    }
}

#[test]
fn who_snubs_us_is_unchoked_by_luck_alone() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut choker = Choker::default();
    let mut all = peers(20);
    // They gave most before they fell silent.
    for peer in &mut all[18..] {
        peer.snubbing = true;
    }
    let mut lucky = BTreeSet::new();
    for _ in 0..300 {
        let chosen = choker.round(false, &all, &mut rng);
        assert!(!chosen[..SLOTS].contains(&PeerKey(18)));
        lucky.insert(chosen[SLOTS]);
    }
    assert!(lucky.contains(&PeerKey(18)) && lucky.contains(&PeerKey(19)));
}

#[test]
fn a_newcomer_is_thrice_as_likely_the_lucky_one() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut hits = 0;
    for _ in 0..1000 {
        let mut choker = Choker::default();
        let old = peers(10);
        for _ in 0..3 * NEW_ROUNDS {
            choker.round(false, &old, &mut rng);
        }
        // Eight are chosen for what they give; 1 and the newcomer are left.
        let mut both = old.clone();
        both.push(candidate(99));
        let chosen = choker.round(false, &both, &mut rng);
        hits += u32::from(chosen[SLOTS] == PeerKey(99));
    }
    assert!((690..810).contains(&hits), "{hits}");
}

#[test]
fn a_seed_prefers_who_just_began_and_who_is_nearly_done() {
    let all: Vec<Candidate> = (0..=20)
        .map(|n| Candidate {
            has: n * 50,
            ..candidate(n)
        })
        .collect();
    let mut rng = StdRng::seed_from_u64(1);
    let chosen = Choker::default().round(true, &all, &mut rng);
    let regular: BTreeSet<PeerKey> = chosen[..SLOTS].iter().copied().collect();
    let ends = keys([0, 1, 2, 18, 19, 20]);
    assert!(regular.is_superset(&ends), "{regular:?}");
}

#[test]
fn a_turn_with_a_seed_lasts_a_minute_whoever_comes() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut choker = Choker::default();
    let first: Vec<Candidate> = (0..8).map(candidate).collect();
    choker.round(true, &first, &mut rng);
    let newcomers = (100..120).map(|n| Candidate {
        has: 0,
        ..candidate(n)
    });
    let all: Vec<Candidate> = first.into_iter().chain(newcomers).collect();
    for round in 1..=TURN_ROUNDS {
        let chosen = choker.round(true, &all, &mut rng);
        let kept = (0..8).filter(|n| chosen.contains(&PeerKey(*n))).count();
        let goes = round == TURN_ROUNDS;
        assert_eq!(kept >= SLOTS, !goes, "round {round}: {kept}");
    }
}

#[test]
fn nobody_is_shut_out_by_many_who_say_they_have_nothing() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut choker = Choker::default();
    let all: Vec<Candidate> = (0..60)
        .map(|n| Candidate {
            has: if n < 50 { 0 } else { 500 },
            ..candidate(n)
        })
        .collect();
    let mut served = BTreeSet::new();
    // All of the sixty by turns, eight at a time, and what passes before the first is starved.
    for _ in 0..STARVED_ROUNDS + 60_u32.div_ceil(8) * TURN_ROUNDS + 10 {
        let chosen = choker.round(true, &all, &mut rng);
        served.extend(chosen.into_iter().take(SLOTS));
    }
    assert!(served.is_superset(&keys(50..60)), "{served:?}");
}

#[test]
fn who_takes_nothing_loses_its_place_with_a_seed() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut choker = Choker::default();
    // Those who are idle say what is liked best.
    let all: Vec<Candidate> = (0..24)
        .map(|n| Candidate {
            has: if n < 16 { 0 } else { 500 },
            taken: if n < 16 { 0 } else { 1000 },
            ..candidate(n)
        })
        .collect();
    let mut chosen = Vec::new();
    for _ in 0..30 {
        chosen = choker.round(true, &all, &mut rng);
    }
    for _ in 0..30 {
        let regular: BTreeSet<PeerKey> = chosen[..SLOTS].iter().copied().collect();
        assert_eq!(regular, keys(16..24));
        chosen = choker.round(true, &all, &mut rng);
    }
}

#[test]
fn a_connection_on_which_nothing_moves_makes_room() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut choker = Choker::default();
    let mut all: Vec<Candidate> = (0..4).map(candidate).collect();
    all[2].taken = 0;
    for _ in 1..IDLE_ROUNDS {
        choker.round(true, &all, &mut rng);
        assert_eq!(choker.stillest(|_| true), None);
    }
    choker.round(true, &all, &mut rng);
    assert_eq!(choker.stillest(|_| true), Some(PeerKey(2)));
    assert_eq!(choker.stillest(|key| key != PeerKey(2)), None);
    choker.forget(PeerKey(2));
    assert_eq!(choker.stillest(|_| true), None);
}
