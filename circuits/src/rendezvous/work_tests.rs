#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::toll::{FIRST_EFFORT, PERIOD};
use super::wire::{MAX_MESSAGE, MeetError, MessageReader};
use super::work::{CHALLENGE_LEN, MAX_EFFORT, NONCE_LEN, PROOF_LEN, PUZZLE_LEN, SALT_LEN};
use super::*;

const KEY: IntroductionId = IntroductionId([7; 32]);
const OTHER: IntroductionId = IntroductionId([8; 32]);
const SALT: [u8; SALT_LEN] = [3; SALT_LEN];

fn rng() -> StdRng {
    StdRng::seed_from_u64(1)
}

fn puzzle(effort: u32) -> Puzzle {
    Puzzle::generate(effort, &mut rng())
}

/// Works for a message.
fn work(puzzle: &Puzzle, salt: [u8; SALT_LEN], message: &[u8]) -> Proof {
    let challenge = puzzle.challenge(&salt);
    let mut solver = Solver::new(&challenge, &KEY, message, &mut rng());
    let nonce = std::iter::from_fn(|| Some(solver.attempt(1)))
        .flatten()
        .next()
        .unwrap();
    Proof::new(puzzle, salt, nonce)
}

fn handed(proof: Proof, message: &[u8]) -> Handed<'_> {
    Handed {
        refused: 0,
        proof,
        message,
    }
}

/// The epoch of this test: any instant will do, for none is compared with a clock.
#[allow(clippy::disallowed_methods, reason = "an instant comes from a clock")]
fn epoch() -> Instant {
    Instant::now()
}

#[test]
fn work_holds_for_one_message_at_one_point_in_one_stream() {
    // As high that what is wrong fits in one of a hundred thousand, and so cheap that one who has it finds it at once.
    let easy = puzzle(64);
    let proof = work(&easy, SALT, b"message");
    assert!(proof.holds(&easy, &KEY, b"message"));
    assert!(Proof::decode(&proof.encode()).holds(&easy, &KEY, b"message"));
    // Of what is changed one in 64 may fit by chance: not all of them do.
    let changed = |change: &dyn Fn(u8) -> bool| (0..8).filter(|n| change(*n)).count();
    assert!(changed(&|n| proof.holds(&easy, &KEY, &[n])) < 4);
    assert!(changed(&|n| proof.holds(&easy, &IntroductionId([n + 8; 32]), b"message")) < 4);
    for at in 8..PROOF_LEN {
        let mut bytes = proof.encode();
        let fits = changed(&|n| {
            let mut bytes = bytes;
            bytes[at] ^= 1 << n;
            Proof::decode(&bytes).holds(&easy, &KEY, b"message")
        });
        assert!(fits < 4, "salt and nonce count, byte {at}");
        bytes[0] ^= 1;
        assert!(!Proof::decode(&bytes).holds(&easy, &KEY, b"message"));
    }
    let other = Puzzle::generate(64, &mut StdRng::seed_from_u64(2));
    assert!(!proof.holds(&other, &KEY, b"message"), "of another puzzle");
}

#[test]
fn as_many_tries_as_the_effort_says_are_needed_on_average() {
    for effort in [1, 8, 32] {
        let mut tries = 0_u32;
        for n in 0..60_u8 {
            let challenge = puzzle(effort).challenge(&[n; SALT_LEN]);
            let mut solver = Solver::new(&challenge, &KEY, b"message", &mut rng());
            tries += 1;
            while solver.attempt(1).is_none() {
                tries += 1;
            }
        }
        let expected = 60 * effort;
        // The same each time; six standard deviations would be 0.77.
        assert!(
            (expected / 2..=expected * 2).contains(&tries),
            "{tries} for {expected}"
        );
    }
}

#[test]
fn what_nobody_asks_for_is_not_read() {
    assert_eq!(
        Challenge::decode(&[0; CHALLENGE_LEN]),
        Err(MeetError::Effort(0))
    );
    let mut puzzle = [0; PUZZLE_LEN];
    assert_eq!(Puzzle::decode(&puzzle), Ok(Puzzle::NONE));
    puzzle[3] = 1;
    assert_eq!(Puzzle::decode(&puzzle), Err(MeetError::Effort(0)));
    assert_eq!(Puzzle::generate(0, &mut rng()), Puzzle::NONE);
    assert!(Proof::NONE.holds(&Puzzle::NONE, &KEY, b"message"));
}

/// What a toll asks for after periods in each of which so many came, and so many were turned away.
fn after(toll: &mut Toll, now: &mut Instant, periods: u32, came: u32, refused: u16) -> u32 {
    for _ in 0..periods {
        // What came bears the right mark; whether it is worth anything is not looked at here.
        for _ in 0..came {
            toll.begin(*now);
            toll.count();
        }
        for _ in 0..refused {
            toll.begin(*now);
            toll.miss(1);
        }
        if let Some(due) = toll.due() {
            *now = due;
        }
        toll.turn(*now, &mut rng());
    }
    toll.effort()
}

#[test]
fn effort_rises_under_load_up_to_a_bound_and_falls_slowly_to_none() {
    let mut now = epoch();
    let mut toll = Toll::new(KEY, now);
    assert_eq!(
        after(&mut toll, &mut now, 100, 74, 3),
        0,
        "no more than it can take"
    );
    assert_eq!(after(&mut toll, &mut now, 1, 75, 0), FIRST_EFFORT);
    assert_eq!(after(&mut toll, &mut now, 1, 0, 4), 4 * FIRST_EFFORT);
    assert_eq!(after(&mut toll, &mut now, 50, 0, 9), MAX_EFFORT);
    // Between few and many it stays.
    assert_eq!(after(&mut toll, &mut now, 100, 16, 0), MAX_EFFORT);
    // Where fewer are turned away than come, what is asked for is enough.
    assert_eq!(after(&mut toll, &mut now, 100, 20, 19), MAX_EFFORT);
    assert_eq!(after(&mut toll, &mut now, 19, 15, 0), MAX_EFFORT);
    assert_eq!(after(&mut toll, &mut now, 1, 15, 0), MAX_EFFORT / 2);
    assert_eq!(
        after(&mut toll, &mut now, 6 * 20, 0, 0),
        FIRST_EFFORT * 2 / 2
    );
    assert_eq!(after(&mut toll, &mut now, 20, 0, 0), 0);
}

#[test]
fn a_few_that_come_at_once_do_not_keep_it_up_and_those_turned_away_beside_as_many_do_not_raise_it()
{
    let mut now = epoch();
    let mut toll = Toll::new(KEY, now);
    after(&mut toll, &mut now, 1, 75, 0);
    assert_eq!(
        after(&mut toll, &mut now, 1, 75, 0),
        4 * FIRST_EFFORT,
        "it rises"
    );
    // More of them turned away than come: it does not help yet.
    assert_eq!(after(&mut toll, &mut now, 1, 10, 10), 16 * FIRST_EFFORT);
    for (came, turned_away) in [(10, 9), (74, 73), (0, 3)] {
        let effort = after(&mut toll, &mut now, 1, came, turned_away);
        assert_eq!(effort, 16 * FIRST_EFFORT, "{came} came");
    }
    // 84 came in these three periods. With 216 in the other 17 that is one a second on average, though 74 came in one of them.
    after(&mut toll, &mut now, 1, 74, 0);
    after(&mut toll, &mut now, 1, 74, 0);
    after(&mut toll, &mut now, 1, 68, 0);
    assert_eq!(after(&mut toll, &mut now, 13, 0, 0), 16 * FIRST_EFFORT);
    assert_eq!(after(&mut toll, &mut now, 1, 0, 0), 8 * FIRST_EFFORT);
    // One more than that is too many.
    after(&mut toll, &mut now, 19, 15, 0);
    assert_eq!(after(&mut toll, &mut now, 1, 16, 0), 8 * FIRST_EFFORT);
    assert_eq!(after(&mut toll, &mut now, 20, 15, 0), 4 * FIRST_EFFORT);
}

#[test]
fn who_was_turned_away_without_what_is_asked_for_now_does_not_raise_it() {
    let mut now = epoch();
    let mut toll = Toll::new(KEY, now);
    let flood = |toll: &mut Toll, now: &mut Instant, proof: &Proof| {
        for _ in 0..50 {
            toll.turn_away(*now, proof);
        }
        *now += PERIOD;
        toll.turn(*now, &mut rng())
    };
    let first = flood(&mut toll, &mut now, &Proof::NONE).unwrap();
    assert_eq!(first.effort(), FIRST_EFFORT);
    // They did not work, or for what was asked for before; and what a point says that was turned away beside such counts as little.
    assert_eq!(flood(&mut toll, &mut now, &Proof::NONE), None);
    let bare = Handed {
        refused: u16::MAX,
        ..handed(Proof::NONE, b"bare")
    };
    assert_eq!(toll.judge(now, &bare), Verdict::Good);
    assert_eq!(flood(&mut toll, &mut now, &Proof::NONE), None);
    let proof = Proof::new(&first, SALT, [0; NONCE_LEN]);
    let second = flood(&mut toll, &mut now, &proof).unwrap();
    assert_eq!(second.effort(), 4 * FIRST_EFFORT);
}

#[test]
fn who_has_no_visitors_is_not_woken() {
    let now = epoch();
    let mut toll = Toll::new(KEY, now);
    assert_eq!(
        (toll.due(), toll.turn(now + PERIOD, &mut rng())),
        (None, None)
    );
    toll.judge(now, &handed(Proof::NONE, b"message"));
    assert_eq!(toll.due(), Some(now + PERIOD));
    toll.judge(now + PERIOD / 2, &handed(Proof::NONE, b"message"));
    assert_eq!(toll.turn(now + PERIOD, &mut rng()), None);
    assert_eq!(toll.due(), None);
}

#[test]
fn nothing_is_asked_for_at_a_quiet_point() {
    let mut now = epoch();
    let mut toll = Toll::new(IntroductionId([0; 32]), now);
    assert_eq!(after(&mut toll, &mut now, 20, 1000, 1000), 0);
}

#[test]
fn what_was_asked_for_before_counts_for_a_while_and_what_was_not_asked_for_never() {
    let mut now = epoch();
    let mut toll = Toll::new(KEY, now);
    let bare = handed(Proof::NONE, b"bare");
    assert_eq!(toll.judge(now, &bare), Verdict::Good);
    after(&mut toll, &mut now, 1, 100, 0);
    // It was under way.
    assert_eq!(
        toll.judge(now + Duration::from_secs(80), &bare),
        Verdict::Good
    );
    assert_eq!(
        toll.judge(now + Duration::from_secs(91), &bare),
        Verdict::Stale
    );
    let noise = Proof::decode(&[9; PROOF_LEN]);
    assert_eq!(toll.judge(now, &handed(noise, b"noise")), Verdict::Stale);
    // A point that lets pass what it must not is found out; one that is slow is not.
    let late = now + Duration::from_secs(91);
    let stale = (0..62).all(|_| toll.judge(late, &bare) == Verdict::Stale);
    assert!(stale);
    assert_eq!(toll.judge(late, &bare), Verdict::Forged);
}

#[test]
fn work_is_checked_against_the_puzzle_that_it_names() {
    let start = epoch();
    let mut toll = Toll::new(KEY, start);
    let mut now = start;
    let told = |toll: &mut Toll, now: &mut Instant| {
        toll.begin(*now);
        toll.miss(4);
        *now += PERIOD;
        toll.turn(*now, &mut StdRng::seed_from_u64(toll.effort().into()))
            .unwrap()
    };
    let first = told(&mut toll, &mut now);
    assert_eq!(first.effort(), toll.effort());
    let proof = work(&first, SALT, b"message");
    assert_eq!(toll.judge(now, &handed(proof, b"message")), Verdict::Good);
    // The right mark, and no work.
    let idle = Proof::new(&first, SALT, [0; NONCE_LEN]);
    assert_eq!(toll.judge(now, &handed(idle, b"message")), Verdict::Forged);
    assert_eq!(toll.judge(now, &handed(proof, b"other")), Verdict::Forged);
    let second = told(&mut toll, &mut now);
    assert!(second.encode()[..32] != first.encode()[..32] && second.effort() > first.effort());
    assert_eq!(toll.judge(now, &handed(proof, b"message")), Verdict::Good);
    let later = now + Duration::from_secs(91);
    assert_eq!(
        toll.judge(later, &handed(proof, b"message")),
        Verdict::Stale
    );
    // What was done for another key is worth nothing here.
    let mut other = Toll::new(OTHER, start);
    let same = told(&mut other, &mut start.clone());
    assert_eq!(same, first);
    assert_eq!(
        other.judge(start, &handed(proof, b"message")),
        Verdict::Forged
    );
}

#[test]
fn a_puzzle_is_replaced_every_hour() {
    let mut now = epoch();
    let mut toll = Toll::new(KEY, now);
    after(&mut toll, &mut now, 1, 100, 0);
    let mut told = Vec::new();
    let mut rng = rng();
    for _ in 0..(4 * 60 + 1) {
        (0..20).for_each(|_| toll.count());
        now = toll.due().unwrap();
        told.extend(toll.turn(now, &mut rng));
    }
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].effort(), FIRST_EFFORT);
}

proptest! {
    #[test]
    fn what_is_said_of_work_comes_back_as_it_went(
        seed in any::<[u8; 32]>(),
        effort in any::<u32>(),
        proof in proptest::collection::vec(any::<u8>(), PROOF_LEN),
        refused in any::<u16>(),
        message in proptest::collection::vec(any::<u8>(), 1..=MAX_MESSAGE),
        piece in 1_usize..700,
    ) {
        let bytes: [u8; PUZZLE_LEN] = [&seed[..], &effort.to_be_bytes()].concat().try_into().unwrap();
        if let Ok(puzzle) = Puzzle::decode(&bytes) {
            prop_assert_eq!((puzzle.encode(), puzzle.effort()), (bytes, effort));
        } else {
            prop_assert_eq!(effort, 0);
        }
        if let Ok(challenge) = Challenge::decode(&bytes) {
            prop_assert_eq!((challenge.encode(), challenge.effort()), (bytes, effort));
        } else {
            prop_assert_eq!(effort, 0);
        }
        let proof: [u8; PROOF_LEN] = proof.try_into().unwrap();
        let handed = Handed { refused, proof: Proof::decode(&proof), message: &message };
        prop_assert_eq!(handed.proof.encode(), proof);
        let bytes = handed.encode().unwrap();
        let mut reader = MessageReader::default();
        let mut came = 0;
        for piece in bytes.chunks(piece) {
            reader.push(piece);
            while let Some(read) = reader.next().unwrap() {
                prop_assert_eq!(read, handed);
                came += 1;
            }
        }
        prop_assert_eq!(came, 1);
        let shown = format!("{handed:?} {proof:?}", proof = handed.proof);
        prop_assert!(!shown.contains('['), "{}", shown);
    }

    #[test]
    fn whatever_comes_the_effort_keeps_its_bounds(loads in proptest::collection::vec((0_u32..200, 0_u16..9), 0..80)) {
        let mut now = epoch();
        let mut toll = Toll::new(KEY, now);
        let mut before = 0;
        for (came, refused) in loads {
            let effort = after(&mut toll, &mut now, 1, came, refused);
            prop_assert!(effort == 0 || (FIRST_EFFORT..=MAX_EFFORT).contains(&effort));
            prop_assert!(effort <= (4 * before).max(FIRST_EFFORT) && effort >= before / 2 || before == FIRST_EFFORT);
            before = effort;
        }
    }
}
