#![allow(clippy::unwrap_used)]

use super::*;

fn meetings(per_key: u32) -> Arc<Meetings> {
    Arc::new(Meetings::new(MeetingLimits {
        introductions_per_second_per_key: NonZeroU32::new(per_key).unwrap(),
        ..MeetingLimits::default()
    }))
}

const KEY: IntroductionId = IntroductionId([1; 32]);
const COOKIE: Cookie = Cookie([2; 20]);

#[test]
fn introductions_reach_the_key_they_name_until_its_holder_goes() {
    let meetings = meetings(100);
    assert_eq!(meetings.introduce(&KEY, vec![1]), Status::Unknown);
    let (registered, mut messages) = meetings.register(KEY);
    let other = IntroductionId([9; 32]);
    assert_eq!(meetings.introduce(&KEY, vec![2]), Status::Done);
    assert_eq!(meetings.introduce(&other, vec![3]), Status::Unknown);
    assert_eq!(messages.try_recv().unwrap().bytes, [2]);
    assert!(messages.try_recv().is_err());
    drop(registered);
    assert_eq!(meetings.introduce(&KEY, vec![4]), Status::Unknown);
    let counters = meetings.counters();
    assert_eq!(
        (counters.points, counters.introduced, counters.refused),
        (0, 1, 0)
    );
}

#[test]
fn nobody_can_tell_by_the_answer_whether_somebody_has_a_quiet_key() {
    let meetings = meetings(2);
    let mut key = KEY;
    key.0[0] = 0;
    let ask = |times| {
        (0..times)
            .map(|n| meetings.introduce(&key, vec![n]))
            .collect::<Vec<_>>()
    };
    let nobody = ask(40);
    let (registered, mut messages) = meetings.register(key);
    // Here, gone, and too many.
    assert_eq!(ask(40), nobody);
    assert_eq!(messages.try_recv().unwrap().bytes, [0], "it is handed on");
    let counters = meetings.counters();
    assert!(counters.introduced >= 2 && counters.refused >= 30);
    drop(messages);
    assert_eq!(ask(1), [Status::Done]);
    drop(registered);
    assert_eq!(ask(1), [Status::Done]);
}

#[test]
fn a_key_that_is_registered_again_moves_and_the_old_one_does_not_take_it_away() {
    let meetings = meetings(100);
    let (first, mut old) = meetings.register(KEY);
    let (second, mut new) = meetings.register(KEY);
    assert_eq!(old.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
    drop(first);
    assert_eq!(meetings.introduce(&KEY, vec![1]), Status::Done);
    assert_eq!(new.try_recv().unwrap().bytes, [1]);
    drop(second);
    assert_eq!(meetings.counters().points, 0);
}

#[test]
fn a_seed_that_does_not_read_holds_a_bounded_number_and_one_that_is_flooded_gets_its_rate() {
    let slow = meetings(1000);
    let (_registered, _unread) = slow.register(KEY);
    let said: Vec<_> = (0..40)
        .map(|_| slow.introduce(&KEY, vec![0; 2048]))
        .collect();
    assert!(
        said[..MAX_WAITING]
            .iter()
            .all(|status| *status == Status::Done)
    );
    assert!(
        said[MAX_WAITING..]
            .iter()
            .all(|status| *status == Status::Limit)
    );
    let counters = slow.counters();
    assert_eq!((counters.introduced, counters.refused), (16, 24));

    let limited = meetings(3);
    let (_registered, mut messages) = limited.register(KEY);
    let said = (0..40).map(|_| limited.introduce(&KEY, vec![0]));
    let done = said.filter(|status| *status == Status::Done).count();
    assert!((3..5).contains(&done), "{done}");
    assert!((0..done).all(|_| messages.try_recv().is_ok()));
}

#[test]
fn a_cookie_is_taken_once_and_forgotten_with_who_waited() {
    let meetings = meetings(1);
    let waiting = meetings.wait(COOKIE).unwrap();
    assert!(meetings.wait(COOKIE).is_none(), "somebody has it");
    assert_eq!(meetings.counters().waiting, 1);
    let taken = meetings.take(&COOKIE).unwrap();
    assert!(meetings.take(&COOKIE).is_none(), "it was used");
    // Somebody else may draw it; the first does not take that one with it.
    let next = meetings.wait(COOKIE).unwrap();
    drop(waiting);
    assert!(taken.is_closed());
    assert_eq!(meetings.counters().waiting, 1);
    drop(next);
    assert!(meetings.take(&COOKIE).is_none());
    assert_eq!(meetings.counters().waiting, 0);
}

#[test]
fn work_is_asked_for_at_the_key_whose_holder_asks_and_never_at_a_quiet_one() {
    let meetings = meetings(100);
    let mut quiet = KEY;
    quiet.0[0] = 0;
    let puzzle = Puzzle::generate(5, &mut rand::rng());
    assert_eq!(meetings.asks(&KEY), None);
    let (first, _messages) = meetings.register(KEY);
    let (hidden, _hidden) = meetings.register(quiet);
    first.ask(puzzle);
    hidden.ask(puzzle);
    assert_eq!(meetings.asks(&KEY).map(|asked| asked.puzzle), Some(puzzle));
    assert_eq!(meetings.asks(&quiet), None);
    assert_eq!(meetings.introduce(&quiet, vec![1]), Status::Done);
    // Who had it before says nothing of it any more.
    let (second, _moved) = meetings.register(KEY);
    first.ask(puzzle);
    assert_eq!(meetings.asks(&KEY), None);
    second.ask(puzzle);
    second.ask(Puzzle::NONE);
    assert_eq!(meetings.asks(&KEY), None);
}

#[test]
fn a_seed_hears_how_many_were_turned_away() {
    let meetings = meetings(3);
    let (registered, mut messages) = meetings.register(KEY);
    let said: Vec<_> = (0..40).map(|_| meetings.introduce(&KEY, vec![0])).collect();
    let done = said.iter().filter(|status| **status == Status::Done);
    for _ in 0..done.count() {
        messages.try_recv().unwrap();
    }
    let turned_away = meetings.counters().refused;
    assert!(turned_away > 30);
    std::thread::sleep(Duration::from_millis(400));
    let proof = Proof::new(&Puzzle::NONE, [7; 16], [8; 16]);
    let asked = Asked {
        puzzle: Puzzle::NONE,
        point: registered.number,
    };
    assert_eq!(
        meetings.introduce_worked(&KEY, &asked, proof, vec![1]),
        Status::Done
    );
    let message = messages.try_recv().unwrap();
    assert_eq!(usize::from(message.refused), turned_away);
    assert_eq!((message.proof, message.bytes), (proof, vec![1]));
}

/// A relay that hands on or checks so many a second for everybody, and as many as come for one key.
fn meetings_in_all(introductions: u32) -> Arc<Meetings> {
    Arc::new(Meetings::new(MeetingLimits {
        introductions_per_second: NonZeroU32::new(introductions).unwrap(),
        introductions_per_second_per_key: NonZeroU32::new(1000).unwrap(),
        ..MeetingLimits::default()
    }))
}

#[test]
fn junk_for_who_is_not_here_or_is_quiet_takes_nothing_from_who_stands() {
    let meetings = meetings_in_all(3);
    let mut quiet = IntroductionId([9; 32]);
    let (_registered, mut messages) = meetings.register(KEY);
    for n in 0..100 {
        let nobody = IntroductionId([n | 128; 32]);
        assert_eq!(meetings.introduce(&nobody, vec![0]), Status::Unknown);
        quiet.0[0] = 0;
        quiet.0[1] = n;
        assert_eq!(meetings.introduce(&quiet, vec![0]), Status::Done);
    }
    assert_eq!(meetings.introduce(&KEY, vec![1]), Status::Done);
    assert_eq!(messages.try_recv().unwrap().refused, 0);
}

#[test]
fn what_is_too_much_for_one_key_takes_nothing_from_the_others() {
    let meetings = Arc::new(Meetings::new(MeetingLimits {
        introductions_per_second: NonZeroU32::new(8).unwrap(),
        introductions_per_second_per_key: NonZeroU32::MIN,
        ..MeetingLimits::default()
    }));
    let other = IntroductionId([3; 32]);
    let (flooded, _messages) = meetings.register(KEY);
    let (_other, _more) = meetings.register(other);
    let flood = (0..40).filter(|_| meetings.introduce(&KEY, vec![0]) == Status::Limit);
    assert!(flood.count() > 30);
    assert_eq!(meetings.introduce(&other, vec![1]), Status::Done);
    // The same where work is checked.
    let asked = |puzzle, point| Asked { puzzle, point };
    let flooded = asked(Puzzle::NONE, flooded.number);
    let flood = (0..40).filter(|_| meetings.check(&KEY, &flooded) == Err(Status::Limit));
    assert!(flood.count() > 30);
    let number = lock(&meetings.points)[&other].number;
    assert_eq!(meetings.check(&other, &asked(Puzzle::NONE, number)), Ok(()));
}

#[test]
fn a_seed_hears_of_those_who_were_turned_away_for_all() {
    let meetings = meetings_in_all(2);
    let (registered, mut messages) = meetings.register(KEY);
    let said = (0..40).map(|_| meetings.introduce(&KEY, vec![0]));
    // Since the last that was handed on.
    let count = |refused, status| match status == Status::Limit {
        true => refused + 1,
        false => 0,
    };
    let refused = said.fold(0, count);
    assert!(refused > 10);
    let asked = Asked {
        puzzle: Puzzle::NONE,
        point: registered.number,
    };
    let unchecked = (0..40).filter(|_| meetings.check(&KEY, &asked).is_err());
    let refused = refused + unchecked.count();
    while messages.try_recv().is_ok() {}
    let proof = Proof::NONE;
    assert_eq!(
        meetings.introduce_worked(&KEY, &asked, proof, vec![1]),
        Status::Done
    );
    assert_eq!(usize::from(messages.try_recv().unwrap().refused), refused);
    assert!(meetings.counters().refused >= refused);
}

#[test]
fn work_that_one_point_asked_for_is_not_handed_to_the_next_with_its_key() {
    let meetings = meetings(100);
    let (first, _messages) = meetings.register(KEY);
    first.ask(Puzzle::generate(5, &mut rand::rng()));
    let asked = meetings.asks(&KEY).unwrap();
    assert_eq!(meetings.check(&KEY, &asked), Ok(()));
    let (_second, mut moved) = meetings.register(KEY);
    assert_eq!(meetings.check(&KEY, &asked), Err(Status::Unknown));
    let said = meetings.introduce_worked(&KEY, &asked, Proof::NONE, vec![1]);
    assert_eq!(said, Status::Unknown);
    assert!(moved.try_recv().is_err());
    assert_eq!(meetings.introduce(&KEY, vec![2]), Status::Done);
}
