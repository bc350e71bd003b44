//! Hop credits end to end: two links' schedulers and gates joined by wires with delay, under virtual time
//! (PROTOCOL.md §6.2, §6.3). A forwarding relay stands between a sender and a receiver of random speed.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use hushswarm_circuits::frame::{Class, FrameBuf, FrameType, Header, Pool};
use hushswarm_circuits::scheduler::{
    CREDIT_BATCH, CreditBudget, CreditGate, FIRST_CREDIT, MAX_CREDIT, Scheduler,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// One direction of a link: what has been written, and when it arrives.
type Wire = VecDeque<(Instant, Header, FrameBuf)>;

/// Sender, relay and receiver: DATA goes right over two links, credits come back left over the same.
struct Line {
    now: Instant,
    delay: Duration,
    pool: Pool,
    /// Schedulers of the right-going ends of link 0 and 1, and of the left-going ends.
    right: [Scheduler<u32>; 2],
    left: [Scheduler<u32>; 2],
    /// Wires of link 0 and 1, to the right and to the left.
    to_right: [Wire; 2],
    to_left: [Wire; 2],
    /// Gates of the relay (link 0) and of the receiver (link 1), by circuit.
    gates: [BTreeMap<u32, CreditGate>; 2],
    /// Frames that the receiver holds, by circuit.
    inbox: BTreeMap<u32, VecDeque<u32>>,
    sent: BTreeMap<u32, u32>,
    read: BTreeMap<u32, u32>,
}

impl Line {
    fn new(circuits: u32, delay: Duration, budget: &CreditBudget) -> Self {
        let scheduler = || {
            let mut scheduler = Scheduler::new();
            (1..=circuits).for_each(|circuit| scheduler.add(circuit, circuit));
            scheduler
        };
        let gates = || {
            (1..=circuits)
                .map(|n| (n, CreditGate::new(budget.clone())))
                .collect()
        };
        Self {
            now: Instant::now(),
            delay,
            pool: Pool::new(64),
            right: [scheduler(), scheduler()],
            left: [scheduler(), scheduler()],
            to_right: Default::default(),
            to_left: Default::default(),
            gates: [gates(), gates()],
            inbox: BTreeMap::new(),
            sent: BTreeMap::new(),
            read: BTreeMap::new(),
        }
    }

    /// The sender queues as many numbered frames as its soft limit allows.
    fn send(&mut self, circuit: u32, frames: usize) {
        for _ in 0..frames.min(self.right[0].room(circuit)) {
            let number = self.sent.entry(circuit).or_default();
            let mut frame = self.pool.take_zeroed(Class::Bulk);
            frame.body_mut()[..4].copy_from_slice(&number.to_be_bytes());
            *number += 1;
            self.right[0].push_data(circuit, vec![frame]).unwrap();
        }
    }

    /// Link `link` writes up to `frames` frames to the right; the relay's frames have then left it.
    fn write_right(&mut self, link: usize, frames: usize) -> bool {
        let mut any = false;
        for _ in 0..frames {
            let Some(popped) = self.right[link].pop(&self.pool) else {
                break;
            };
            let (header, frame, was_data) = (popped.header, popped.frame, popped.was_data);
            self.to_right[link].push_back((self.now + self.delay, header, frame));
            if link == 1 && was_data {
                self.departed(0, header.circuit);
            }
            any = true;
        }
        any
    }

    /// A frame has left the relay (0) or was read by the receiver (1): credit goes back to the left.
    fn departed(&mut self, at: usize, circuit: u32) {
        let owed = self.gates[at].get_mut(&circuit).unwrap().departed(self.now);
        self.left[at].owe(circuit, owed);
    }

    fn write_left(&mut self, link: usize) -> bool {
        let mut any = false;
        while let Some(popped) = self.left[link].pop(&self.pool) {
            assert_eq!(popped.header.kind, FrameType::Credit);
            let (header, frame) = (popped.header, popped.frame);
            self.to_left[link].push_back((self.now + self.delay, header, frame));
            any = true;
        }
        any
    }

    fn deliver(&mut self) -> bool {
        let mut any = false;
        for link in 0..2 {
            while self.to_right[link]
                .front()
                .is_some_and(|(due, ..)| *due <= self.now)
            {
                let (_, header, frame) = self.to_right[link].pop_front().unwrap();
                let gate = self.gates[link].get_mut(&header.circuit).unwrap();
                gate.take().expect("nobody sends without credit");
                if link == 0 {
                    self.right[1]
                        .push_data(header.circuit, vec![frame])
                        .unwrap();
                } else {
                    let number = u32::from_be_bytes(frame.body()[..4].try_into().unwrap());
                    self.inbox
                        .entry(header.circuit)
                        .or_default()
                        .push_back(number);
                }
                any = true;
            }
            while self.to_left[link]
                .front()
                .is_some_and(|(due, ..)| *due <= self.now)
            {
                let (_, header, _) = self.to_left[link].pop_front().unwrap();
                self.right[link]
                    .grant_received(header.circuit, header.credit.into())
                    .unwrap();
                any = true;
            }
        }
        any
    }

    /// The receiver reads; frames of a circuit come in order.
    fn read(&mut self, circuit: u32, frames: usize) {
        for _ in 0..frames {
            let Some(number) = self.inbox.entry(circuit).or_default().pop_front() else {
                break;
            };
            let next = self.read.entry(circuit).or_default();
            assert_eq!(number, *next);
            *next += 1;
            self.departed(1, circuit);
        }
    }

    fn settle(&mut self) {
        loop {
            let mut any = false;
            for link in 0..2 {
                any |= self.write_right(link, usize::MAX) | self.write_left(link);
            }
            self.now += self.delay;
            if !self.deliver() && !any {
                return;
            }
        }
    }

    /// What relay and receiver hold is within their limits.
    fn assert_bounded(&self) {
        for gates in &self.gates {
            for gate in gates.values() {
                assert!(gate.held() + gate.open() <= gate.limit() && gate.limit() <= MAX_CREDIT);
            }
        }
        for (circuit, gate) in &self.gates[0] {
            assert_eq!(self.right[1].queued(*circuit), gate.held() as usize);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_arrive_in_order_within_credit_and_no_credit_is_lost(
        delay in 0u64..100,
        budget in prop_oneof![Just(0usize), Just(1 << 20), Just(1 << 30)],
        steps in vec((0u8..6, 1u32..4, 1usize..200), 0..300),
    ) {
        let shared = CreditBudget::new(budget);
        let mut line = Line::new(3, Duration::from_millis(delay), &shared);
        for (step, circuit, amount) in steps {
            match step {
                0 => line.send(circuit, amount),
                1 => { line.write_right(0, amount); }
                2 => { line.write_right(1, amount); }
                3 => line.read(circuit, amount),
                4 => { line.write_left(amount % 2); }
                _ => {
                    line.now += Duration::from_millis(amount as u64);
                    line.deliver();
                }
            }
            line.assert_bounded();
        }
        loop {
            line.settle();
            if line.inbox.values().all(VecDeque::is_empty) { break; }
            (1..4).for_each(|circuit| line.read(circuit, usize::MAX));
        }
        prop_assert_eq!(&line.sent, &line.read.clone().into_iter().filter(|(_, n)| *n > 0).collect());
        for circuit in 1..4 {
            for link in 0..2 {
                let gate = &line.gates[link][&circuit];
                let known = line.right[link].credit(circuit);
                prop_assert_eq!((gate.held(), gate.open()), (0, gate.limit()));
                // What the sender has not heard of is less than a batch.
                prop_assert!(known <= gate.open() && known + CREDIT_BATCH > gate.open());
            }
        }
        drop(line);
        prop_assert_eq!(shared.left(), budget);
    }
}

#[test]
fn a_circuit_nobody_reads_holds_its_credits_and_does_not_stop_another() {
    let mut line = Line::new(2, Duration::from_millis(10), &CreditBudget::new(1 << 30));
    for _ in 0..200 {
        (1..3).for_each(|circuit| line.send(circuit, 64));
        line.settle();
        line.read(2, usize::MAX);
    }
    line.settle();
    assert_eq!(line.inbox[&1].len(), FIRST_CREDIT as usize);
    let held_at_relay = line.gates[0][&1].held();
    assert!(
        held_at_relay <= FIRST_CREDIT * 2,
        "the relay holds {held_at_relay} frames"
    );
    assert!(
        line.read[&2] >= 200 * 60,
        "the other circuit kept its pace: {}",
        line.read[&2]
    );
}
