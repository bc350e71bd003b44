#![allow(clippy::unwrap_used, clippy::collapsible_match)]
use super::*;
use proptest::prelude::*;

fn pool() -> Pool {
    Pool::new(16)
}

fn cell(pool: &Pool, class: Class) -> FrameBuf {
    pool.take_zeroed(class)
}

fn fill(scheduler: &mut Scheduler<u32>, pool: &Pool, circuit: u32, cells: usize) {
    for _ in 0..cells {
        scheduler
            .push_data(circuit, cell(pool, Class::Bulk))
            .unwrap();
    }
}

#[test]
fn a_sparse_circuit_goes_before_busy_ones() {
    let (pool, mut scheduler) = (pool(), Scheduler::new());
    for circuit in 1..=11 {
        scheduler.add(circuit, circuit);
    }
    for circuit in 1..=10 {
        fill(&mut scheduler, &pool, circuit, 60);
    }
    for _ in 0..100 {
        scheduler.pop(&pool).unwrap();
    }
    fill(&mut scheduler, &pool, 11, 1);
    assert_eq!(scheduler.pop(&pool).unwrap().header.circuit, 11);
}

#[test]
fn busy_circuits_share_by_bytes() {
    let (pool, mut scheduler) = (pool(), Scheduler::new());
    scheduler.add(1, 1);
    scheduler.add(2, 2);
    let mut bytes = [0_usize; 3];
    for _ in 0..40 {
        for (circuit, class, cells) in [(1, Class::Bulk, 10), (2, Class::Small, 40)] {
            scheduler.grant_received(circuit, 0).unwrap();
            while scheduler.room(circuit) > 0 {
                scheduler.push_data(circuit, cell(&pool, class)).unwrap();
            }
            let _ = cells;
        }
        for _ in 0..20 {
            let Some(popped) = scheduler.pop(&pool) else {
                break;
            };
            let (circuit, len) = (popped.header.circuit, popped.header.class.frame_len());
            bytes[circuit as usize] += len;
            scheduler.grant_received(circuit, 1).unwrap();
        }
    }
    let ratio = bytes[1] as f64 / bytes[2] as f64;
    assert!((0.8..1.25).contains(&ratio), "{bytes:?}");
}

#[test]
fn control_frames_go_first_and_are_bounded() {
    let (pool, mut scheduler) = (pool(), Scheduler::new());
    scheduler.add(1, 1);
    fill(&mut scheduler, &pool, 1, 3);
    let ping = Header {
        circuit: 0,
        kind: FrameType::Ping,
        class: Class::Small,
        credit: 0,
    };
    for _ in 0..MAX_CONTROL {
        scheduler
            .push_control(ping, cell(&pool, Class::Small))
            .unwrap();
    }
    assert_eq!(
        scheduler.push_control(ping, cell(&pool, Class::Small)),
        Err(Full)
    );
    assert_eq!(scheduler.pop(&pool).unwrap().header.kind, FrameType::Ping);
}

#[test]
fn without_credit_nothing_leaves_and_with_credit_it_goes_on() {
    let (pool, mut scheduler) = (pool(), Scheduler::new());
    scheduler.add(1, 1);
    fill(&mut scheduler, &pool, 1, 100);
    for _ in 0..FIRST_CREDIT {
        scheduler.pop(&pool).unwrap();
    }
    assert!(scheduler.pop(&pool).is_none());
    scheduler.grant_received(1, 2).unwrap();
    assert!(scheduler.pop(&pool).is_some() && scheduler.pop(&pool).is_some());
    assert!(scheduler.pop(&pool).is_none());
    assert_eq!(scheduler.grant_received(1, 1025), Err(CreditOverflow));
}

#[test]
fn a_removed_circuit_that_comes_back_starts_afresh() {
    let (pool, mut scheduler) = (pool(), Scheduler::new());
    scheduler.add(1, 1);
    fill(&mut scheduler, &pool, 1, 10);
    assert_eq!(scheduler.remove(1), Some(1));
    assert!(scheduler.pop(&pool).is_none());
    assert_eq!(
        scheduler.push_data(1, cell(&pool, Class::Bulk)),
        Err(PushError::Unknown)
    );
    scheduler.add(1, 7);
    fill(&mut scheduler, &pool, 1, 2);
    assert_eq!(scheduler.pop(&pool).unwrap().owner, Some(&7));
    assert!(scheduler.pop(&pool).is_some());
    assert!(scheduler.pop(&pool).is_none());
}

#[test]
fn a_gate_grows_while_it_drains_and_shrinks_when_it_does_not_and_pays_back() {
    let budget = CreditBudget::new(2000 * BULK_LEN);
    let mut gate = CreditGate::new(budget.clone());
    for _ in 0..5000 {
        gate.take().unwrap();
        gate.returned(1);
    }
    assert_eq!(gate.window, MAX_CREDIT);
    while gate.take().is_ok() {}
    for _ in 0..MAX_CREDIT {
        gate.returned(1);
    }
    assert!(gate.window < MAX_CREDIT);
    drop(gate);
    assert_eq!(budget.0.load(Ordering::Relaxed), 2000);
}

#[test]
fn an_empty_budget_leaves_the_first_credits() {
    let mut gate = CreditGate::new(CreditBudget::new(0));
    for _ in 0..1000 {
        gate.take().unwrap();
        assert_eq!(gate.returned(1), 1);
    }
}

proptest! {
    /// Two ends of one direction of a circuit, with frames and grants in flight: the sender never sends without credit as
    /// the receiver counts it, no credit is lost, and everything arrives.
    #[test]
    fn no_credit_is_lost_and_none_is_overrun(steps in prop::collection::vec(0_u8..5, 1..600)) {
        let pool = pool();
        let (mut sender, mut receiver) = (Scheduler::new(), Scheduler::new());
        sender.add(1, ());
        receiver.add(1, ());
        let mut gate = CreditGate::new(CreditBudget::new(1 << 30));
        let (mut data, mut grants) = (VecDeque::new(), VecDeque::new());
        let (mut pushed, mut arrived, mut held) = (0_u32, 0_u32, 0_u32);
        let drain = steps.iter().copied().chain([0, 1, 2, 3, 4].into_iter().cycle().take(20_000));
        for (n, step) in drain.enumerate() {
            match step {
                0 if n < steps.len() && sender.room(1) > 0 => {
                    sender.push_data(1, cell(&pool, Class::Small)).unwrap();
                    pushed += 1;
                }
                1 => {
                    if let Some(popped) = sender.pop(&pool) {
                        data.push_back(popped.header);
                    }
                }
                2 => {
                    if data.pop_front().is_some() {
                        prop_assert!(gate.take().is_ok(), "sent without credit");
                        arrived += 1;
                        held += 1;
                    }
                }
                3 if held > 0 => {
                    held -= 1;
                    receiver.owe(1, gate.returned(1));
                    if let Some(popped) = receiver.pop(&pool) {
                        grants.push_back(popped.header.credit);
                    }
                }
                4 => {
                    if let Some(credit) = grants.pop_front() {
                        prop_assert!(sender.grant_received(1, credit).is_ok());
                    }
                }
                _ => {}
            }
        }
        prop_assert_eq!(arrived, pushed);
        let owed = receiver.circuits[&1].owed;
        prop_assert_eq!(sender.circuits[&1].credit + owed, gate.left);
    }
}
