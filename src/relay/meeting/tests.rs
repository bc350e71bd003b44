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
    assert_eq!(messages.try_recv(), Ok(vec![2]));
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
    assert_eq!(messages.try_recv(), Ok(vec![0]), "it is handed on");
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
    assert_eq!(new.try_recv(), Ok(vec![1]));
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
