#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn pool() -> Pool {
    Pool::new(64)
}

fn scheduler(circuits: impl IntoIterator<Item = u32>) -> Scheduler<u32> {
    let mut scheduler = Scheduler::new();
    for circuit in circuits {
        scheduler.add(circuit, circuit * 100);
    }
    scheduler
}

fn push(scheduler: &mut Scheduler<u32>, circuit: u32, class: Class, frames: usize) {
    for _ in 0..frames {
        scheduler
            .push_data(circuit, vec![pool().take(class)])
            .unwrap();
    }
}

/// Pops one frame; gives its header.
fn pop(scheduler: &mut Scheduler<u32>) -> Option<Header> {
    scheduler.pop(&pool()).map(|popped| popped.header)
}

/// Pops everything; gives the circuits of DATA frames in order.
fn order(scheduler: &mut Scheduler<u32>) -> Vec<u32> {
    std::iter::from_fn(|| pop(scheduler))
        .filter(|header| header.kind == FrameType::Data)
        .map(|header| header.circuit)
        .collect()
}

fn header(circuit: u32, kind: FrameType) -> Header {
    Header {
        circuit,
        kind,
        class: Class::Small,
        credit: 0,
    }
}

#[test]
fn data_leaves_in_order_as_far_as_there_is_credit() {
    let mut scheduler = scheduler([7]);
    for n in 0..FIRST_CREDIT as u8 + 2 {
        let mut frame = pool().take_zeroed(Class::Small);
        frame.body_mut()[0] = n;
        scheduler.push_data(7, vec![frame]).unwrap();
    }
    for n in 0..FIRST_CREDIT as u8 {
        let popped = scheduler.pop(&pool()).unwrap();
        assert_eq!(
            (popped.frame.body()[0], popped.owner, popped.was_data),
            (n, Some(&700), true)
        );
    }
    assert!(!scheduler.sendable() && !scheduler.is_empty());
    assert_eq!(pop(&mut scheduler), None);
    scheduler.grant_received(7, 1).unwrap();
    assert!(scheduler.sendable());
    assert_eq!(order(&mut scheduler), [7]);
    assert_eq!((scheduler.queued(7), scheduler.credit(7)), (1, 0));
}

#[test]
fn a_sparse_circuit_does_not_wait_for_a_bulk_one() {
    let mut scheduler = scheduler([1, 2]);
    push(&mut scheduler, 1, Class::Bulk, 60);
    for _ in 0..10 {
        pop(&mut scheduler);
    }
    push(&mut scheduler, 2, Class::Small, 1);
    assert_eq!(pop(&mut scheduler).unwrap().circuit, 2);
}

#[test]
fn a_circuit_that_always_has_one_more_frame_is_not_sparse() {
    let mut scheduler = scheduler([1, 2]);
    push(&mut scheduler, 1, Class::Bulk, 64);
    for _ in 0..10 {
        pop(&mut scheduler);
    }
    let mut sent = [0; 3];
    push(&mut scheduler, 2, Class::Bulk, 1);
    for _ in 0..48 {
        let circuit = pop(&mut scheduler).unwrap().circuit;
        sent[circuit as usize] += 1;
        if circuit == 2 {
            push(&mut scheduler, 2, Class::Bulk, 1);
        }
    }
    assert!(sent[1] >= 16, "the other circuit got its turns: {sent:?}");
}

#[test]
fn busy_circuits_share_by_bytes_not_by_frames() {
    let mut scheduler = scheduler([1, 2]);
    scheduler.grant_received(2, 500).unwrap();
    push(&mut scheduler, 1, Class::Bulk, 60);
    push(&mut scheduler, 2, Class::Small, 500);
    let mut bytes = [0usize; 3];
    for _ in 0..150 {
        let header = pop(&mut scheduler).unwrap();
        bytes[header.circuit as usize] += header.class.frame_len();
        assert!(
            bytes[1].abs_diff(bytes[2]) <= 2 * QUANTUM + BULK_LEN,
            "{bytes:?}"
        );
    }
}

#[test]
fn control_goes_first_and_is_bounded() {
    let mut scheduler = scheduler([1]);
    push(&mut scheduler, 1, Class::Bulk, 1);
    let ping = || (header(0, FrameType::Ping), pool().take_zeroed(Class::Small));
    for _ in 0..MAX_CONTROL {
        let (header, frame) = ping();
        scheduler.push_control(header, frame).unwrap();
    }
    let (header, frame) = ping();
    assert_eq!(scheduler.push_control(header, frame), Err(Full));
    for _ in MAX_CONTROL..MAX_WAITING {
        scheduler.push_destroy(9, DestroyReason::LinkLost).unwrap();
    }
    assert_eq!(
        scheduler.push_destroy(9, DestroyReason::LinkLost),
        Err(Full)
    );
    for _ in 0..MAX_CONTROL {
        assert_eq!(pop(&mut scheduler).unwrap().kind, FrameType::Ping);
    }
    let popped = scheduler.pop(&pool()).unwrap();
    assert_eq!(
        (popped.header.kind, popped.header.circuit),
        (FrameType::Destroy, 9)
    );
    assert_eq!(
        (popped.frame.body()[0], popped.owner),
        (DestroyReason::LinkLost as u8, None)
    );
}

#[test]
fn data_of_one_circuit_is_bounded() {
    let mut scheduler = scheduler([1]);
    push(&mut scheduler, 1, Class::Small, OUT_QUEUE - 1);
    assert_eq!(scheduler.room(1), 1);
    push(
        &mut scheduler,
        1,
        Class::Small,
        MAX_CREDIT as usize - OUT_QUEUE + 1,
    );
    assert_eq!(scheduler.room(1), 0);
    let frame = || pool().take(Class::Small);
    assert_eq!(scheduler.push_data(1, vec![frame()]), Err(PushError::Full));
    assert_eq!(
        scheduler.push_data(2, vec![frame()]),
        Err(PushError::UnknownCircuit)
    );
}

#[test]
fn credit_beyond_the_maximum_is_refused() {
    let mut scheduler = scheduler([1]);
    assert_eq!(
        scheduler.grant_received(1, MAX_CREDIT - FIRST_CREDIT),
        Ok(())
    );
    assert_eq!(scheduler.grant_received(1, 1), Err(CreditOverflow));
    assert_eq!(
        scheduler.grant_received(2, u32::MAX),
        Ok(()),
        "a circuit that is gone"
    );
}

#[test]
fn owed_credit_leaves_with_data_or_on_its_own_in_batches() {
    let mut scheduler = scheduler([1]);
    scheduler.owe(1, CREDIT_BATCH - 1);
    assert!(!scheduler.sendable());
    push(&mut scheduler, 1, Class::Bulk, 1);
    assert_eq!(
        u32::from(pop(&mut scheduler).unwrap().credit),
        CREDIT_BATCH - 1
    );
    scheduler.owe(1, CREDIT_BATCH);
    let credit = pop(&mut scheduler).unwrap();
    assert_eq!(
        (credit.kind, u32::from(credit.credit)),
        (FrameType::Credit, CREDIT_BATCH)
    );
    assert!(scheduler.is_empty());
}

#[test]
fn credit_is_owed_even_while_our_own_frames_wait_for_credit() {
    let mut scheduler = scheduler([1]);
    push(&mut scheduler, 1, Class::Bulk, FIRST_CREDIT as usize + 1);
    assert_eq!(order(&mut scheduler).len(), FIRST_CREDIT as usize);
    scheduler.owe(1, CREDIT_BATCH);
    assert_eq!(pop(&mut scheduler).unwrap().kind, FrameType::Credit);
}

#[test]
fn control_frames_take_owed_credit_along_but_destroy_does_not() {
    let mut scheduler = scheduler([1]);
    scheduler.owe(1, 3);
    scheduler.push_destroy(1, DestroyReason::Finished).unwrap();
    let created = header(1, FrameType::Created);
    scheduler
        .push_control(created, pool().take_zeroed(Class::Bulk))
        .unwrap();
    assert_eq!(pop(&mut scheduler).unwrap().credit, 0);
    let popped = scheduler.pop(&pool()).unwrap();
    assert_eq!(
        (popped.header.credit, popped.owner, popped.was_data),
        (3, Some(&100), false)
    );
}

#[test]
fn a_removed_circuit_leaves_nothing_behind() {
    let mut scheduler = scheduler([1, 2]);
    push(&mut scheduler, 1, Class::Bulk, 5);
    scheduler.owe(2, CREDIT_BATCH);
    assert_eq!(
        (scheduler.remove(1), scheduler.remove(2)),
        (Some(100), Some(200))
    );
    assert_eq!(scheduler.remove(1), None);
    assert!(scheduler.is_empty() && pop(&mut scheduler).is_none());
    scheduler.add(1, 5);
    assert_eq!(
        (scheduler.owner(1), scheduler.queued(1), scheduler.credit(1)),
        (Some(&5), 0, 64)
    );
}

#[test]
fn a_gate_lets_pass_what_was_granted() {
    let mut gate = CreditGate::new(CreditBudget::new(0));
    for _ in 0..FIRST_CREDIT {
        gate.take().unwrap();
    }
    assert_eq!(gate.take(), Err(CreditOverrun));
    assert_eq!(gate.departed(Instant::now()), 1);
    assert_eq!(gate.take(), Ok(()));
    assert_eq!(gate.take(), Err(CreditOverrun));
}

/// Passes whole limits through the gate, each in `millis`.
fn pass(gate: &mut CreditGate, limits: usize, millis: u64) {
    let mut now = Instant::now();
    for _ in 0..limits {
        for n in 0..gate.limit() {
            gate.take().unwrap();
            if n == 1 {
                now += Duration::from_millis(millis);
            }
            gate.departed(now);
        }
    }
}

#[test]
fn a_gate_grows_while_its_circuit_drains_quickly_and_gives_the_budget_back() {
    let whole = (MAX_CREDIT - FIRST_CREDIT) as usize * BULK_LEN;
    let budget = CreditBudget::new(whole + BULK_LEN);
    let mut gate = CreditGate::new(budget.clone());
    pass(&mut gate, 3, 501);
    assert_eq!(gate.limit(), FIRST_CREDIT, "slow circuits need no more");
    pass(&mut gate, 6, 500);
    assert_eq!((gate.limit(), gate.open()), (MAX_CREDIT, MAX_CREDIT));
    assert_eq!(budget.left(), BULK_LEN);
    let mut other = CreditGate::new(budget.clone());
    pass(&mut other, 3, 0);
    assert_eq!(other.limit(), FIRST_CREDIT, "the budget is spent");
    drop((gate, other));
    assert_eq!(budget.left(), whole + BULK_LEN);
}

#[test]
fn a_gate_does_not_grow_while_the_next_link_is_the_slow_one() {
    let (now, mut gate) = (Instant::now(), CreditGate::new(CreditBudget::new(1 << 30)));
    for _ in 0..FIRST_CREDIT {
        gate.take().unwrap();
    }
    for _ in 0..500 {
        assert_eq!(gate.departed(now), 1);
        gate.take().unwrap();
    }
    assert_eq!(gate.limit(), FIRST_CREDIT);
}

proptest! {
    /// The lists and counters against a model that looks at every circuit.
    #[test]
    fn nothing_is_lost_reordered_or_sent_without_credit(
        steps in vec((0u8..8, 1u32..5, 1u32..40), 0..400),
    ) {
        let mut scheduler = scheduler(1..5);
        // Per circuit: queued sequence numbers, credit, owed.
        let mut model: HashMap<u32, (VecDeque<u16>, u32, u32)> =
            (1..5).map(|circuit| (circuit, (VecDeque::new(), FIRST_CREDIT, 0))).collect();
        let (mut next, pool) = (0u16, pool());
        for (step, circuit, amount) in steps {
            match step {
                0 | 1 => {
                    let numbers: Vec<u16> = (0..amount as u16).map(|n| next.wrapping_add(n)).collect();
                    next = next.wrapping_add(amount as u16);
                    let frames = numbers.iter().map(|number| {
                        let mut frame = pool.take_zeroed(if number % 3 == 0 { Class::Bulk } else { Class::Small });
                        frame.body_mut()[..2].copy_from_slice(&number.to_be_bytes());
                        frame
                    });
                    // One by one, or all at once.
                    let pushed = if step == 0 {
                        scheduler.push_data(circuit, frames.collect())
                    } else {
                        frames.into_iter().try_for_each(|frame| scheduler.push_data(circuit, vec![frame]))
                    };
                    prop_assert_eq!(pushed.is_ok(), model.contains_key(&circuit));
                    if let Some((queue, ..)) = model.get_mut(&circuit) { queue.extend(numbers); }
                },
                2 => if let Some((_, credit, _)) = model.get_mut(&circuit) && *credit + amount <= MAX_CREDIT {
                    *credit += amount;
                    scheduler.grant_received(circuit, amount).unwrap();
                },
                3 => {
                    scheduler.owe(circuit, amount);
                    if let Some((.., owed)) = model.get_mut(&circuit) { *owed += amount; }
                }
                4 if amount < 4 => {
                    prop_assert_eq!(scheduler.remove(circuit).is_some(), model.remove(&circuit).is_some());
                    if amount == 1 {
                        scheduler.add(circuit, 0);
                        model.insert(circuit, (VecDeque::new(), FIRST_CREDIT, 0));
                    }
                }
                _ => for _ in 0..amount {
                    let could = model.values().any(|(queue, credit, owed)| {
                        (!queue.is_empty() && *credit > 0) || *owed >= CREDIT_BATCH
                    });
                    prop_assert_eq!(scheduler.sendable(), could);
                    let Some(popped) = scheduler.pop(&pool) else {
                        prop_assert!(!could);
                        break;
                    };
                    let (queue, credit, owed) = model.get_mut(&popped.header.circuit).unwrap();
                    prop_assert_eq!(u32::from(popped.header.credit), *owed);
                    *owed = 0;
                    prop_assert_eq!(popped.was_data, popped.header.kind == FrameType::Data);
                    if popped.was_data {
                        let number = u16::from_be_bytes([popped.frame.body()[0], popped.frame.body()[1]]);
                        prop_assert_eq!(Some(number), queue.pop_front());
                        prop_assert!(*credit > 0);
                        *credit -= 1;
                    }
                },
            }
        }
        prop_assert_eq!(scheduler.circuits(), model.len());
        let waiting = model.values().any(|(queue, _, owed)| !queue.is_empty() || *owed >= CREDIT_BATCH);
        prop_assert_eq!(scheduler.is_empty(), !waiting);
    }
}
