//! Circuits over a simulated network in virtual time (see `sim`): what they deliver, how they end, what they hold.
#![allow(clippy::unwrap_used)]

mod sim;

use std::time::Duration;

use hushswarm_circuits::body::{EndReason, OpenStatus};
use hushswarm_circuits::circuit::mux::{MuxEvent, Recv};
use hushswarm_circuits::circuit::origin::OriginEvent;
use sim::{Behaviour, CLOSED, Circuit, DEAF, ECHO, SOURCE, Sim, Wire};

const MINUTE: Duration = Duration::from_secs(60);

/// Sends `data` to an echo and collects what comes back.
fn echo(sim: &mut Sim, circuit: &Circuit, stream: u32, data: &[u8]) -> Vec<u8> {
    let (mut sent, mut got) = (0, Vec::new());
    let pool = sim.pool.clone();
    let done = sim.run_until(Duration::from_secs(600), |sim| {
        sent += circuit.write(&pool, stream, &data[sent..]);
        got.extend(circuit.read(sim.now(), stream, usize::MAX));
        got.len() >= data.len() || circuit.log.closed().is_some()
    });
    assert!(done, "{} of {} bytes came back", got.len(), data.len());
    got
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 % 251) as u8).collect()
}

#[test]
fn bytes_come_back_unchanged_through_one_two_and_three_hops() {
    for hops in 1..=3 {
        let mut sim = Sim::honest(hops as u64);
        let path: Vec<usize> = (0..hops).collect();
        let circuit = sim.ready_circuit(&path);
        let stream = circuit.open(ECHO);
        let data = pattern(1_500_000);
        assert_eq!(echo(&mut sim, &circuit, stream, &data), data);
    }
}

#[test]
fn building_takes_one_round_trip_a_hop_and_more_as_it_grows() {
    let wire = Wire {
        delay: Duration::from_millis(50),
        rate: 1 << 30,
    };
    let mut sim = Sim::new(5, &[Behaviour::Honest; 3], wire);
    let circuit = sim.circuit(&[0, 1, 2]);
    assert!(sim.run_until(MINUTE, |_| circuit.log.is_ready()));
    // 2 + 4 + 6 crossings of 50 ms, and the time to send.
    let ms = sim.elapsed().as_millis();
    assert!((600..650).contains(&ms), "{ms} ms");
}

#[test]
fn a_long_way_is_filled_because_windows_and_credits_grow() {
    let wire = Wire {
        delay: Duration::from_millis(40),
        rate: 12_500_000,
    };
    let mut sim = Sim::new(6, &[Behaviour::Honest; 3], wire);
    let circuit = sim.ready_circuit(&[0, 1, 2]);
    let stream = circuit.open(SOURCE);
    let mut got = 0;
    let begun = sim.elapsed();
    assert!(sim.run_until(10 * MINUTE, |sim| {
        got += circuit.read(sim.now(), stream, usize::MAX).len();
        got > 100_000_000
    }));
    let seconds = (sim.elapsed() - begun).as_secs_f64();
    // With 64 credits a link would carry 262 kB each 80 ms: 3.3 MB/s, or 30 s for this.
    assert!(seconds < 15.0, "{seconds} s for 100 MB at 12.5 MB/s");
}

#[test]
fn a_silent_relay_is_named_when_its_time_is_up() {
    for silent in 0..3 {
        let mut behaviours = [Behaviour::Honest; 3];
        behaviours[silent] = Behaviour::Silent;
        let mut sim = Sim::new(7, &behaviours, Wire::FAST);
        let circuit = sim.circuit(&[0, 1, 2]);
        assert!(sim.run_until(MINUTE, |_| circuit.log.closed().is_some()));
        let reason = circuit.log.closed().unwrap();
        assert!(
            reason.contains(&format!("hop: {silent}")),
            "hop {silent}: {reason}"
        );
        sim.run_for(MINUTE);
        assert_eq!(
            (0..3).map(|relay| sim.circuits_at(relay)).sum::<usize>(),
            0,
            "left behind"
        );
    }
}

#[test]
fn refusing_relays_and_impostors_are_named() {
    for bad in 0..3 {
        for behaviour in [Behaviour::Refusing, Behaviour::Impostor] {
            let mut behaviours = [Behaviour::Honest; 3];
            behaviours[bad] = behaviour;
            let mut sim = Sim::new(8, &behaviours, Wire::FAST);
            let circuit = sim.circuit(&[0, 1, 2]);
            assert!(sim.run_until(MINUTE, |_| circuit.log.closed().is_some()));
            let reason = circuit.log.closed().unwrap();
            let named = reason.contains(&format!("hop: {bad}")) || bad == 0;
            assert!(named, "{behaviour:?} at hop {bad}: {reason}");
            assert!(!circuit.log.is_ready());
        }
    }
}

#[test]
fn a_link_that_breaks_ends_its_circuits_everywhere() {
    for broken in 0..3 {
        let mut sim = Sim::honest(9);
        let circuit = sim.ready_circuit(&[0, 1, 2]);
        let stream = circuit.open(SOURCE);
        sim.run_for(Duration::from_millis(300));
        assert!(!circuit.read(sim.now(), stream, usize::MAX).is_empty());
        let end = match broken {
            0 => sim.end(None, 0),
            n => sim.end(Some(n - 1), n),
        };
        sim.cut(end);
        assert!(
            sim.run_until(MINUTE, |_| circuit.log.closed().is_some()),
            "link {broken}"
        );
        sim.run_for(MINUTE);
        assert_eq!((0..3).map(|relay| sim.circuits_at(relay)).sum::<usize>(), 0);
    }
}

#[test]
fn a_byte_changed_on_any_link_ends_the_circuit_and_delivers_nothing_wrong() {
    for link in 0..3 {
        for seed in 0..6 {
            let mut sim = Sim::honest(100 + seed);
            let circuit = sim.ready_circuit(&[0, 1, 2]);
            let stream = circuit.open(ECHO);
            let data = pattern(400_000);
            let end = match link {
                0 => sim.end(None, 0),
                n => sim.end(Some(n - 1), n),
            };
            sim.tamper(end, 1 << seed);
            let got = echo(&mut sim, &circuit, stream, &data);
            assert!(data.starts_with(&got), "wrong bytes were delivered");
            assert!(
                circuit.log.closed().is_some(),
                "link {link}: the change went unnoticed"
            );
        }
    }
}

#[test]
fn readers_that_stop_reading_hold_bounded_memory_and_stall_nobody_else() {
    let mut sim = Sim::honest(11);
    let stuck: Vec<(Circuit, u32)> = (0..20)
        .map(|_| {
            let circuit = sim.ready_circuit(&[0, 1, 2]);
            let stream = circuit.open(SOURCE);
            (circuit, stream)
        })
        .collect();
    sim.run_for(MINUTE);
    for (circuit, _) in &stuck {
        let unread = circuit.origin.with(|origin| origin.mux().unread());
        assert!(
            unread <= 256 * 1024,
            "{unread} bytes wait in a window of 256 KiB"
        );
    }
    let circuit = sim.ready_circuit(&[0, 1, 2]);
    let stream = circuit.open(ECHO);
    let data = pattern(1_000_000);
    assert_eq!(echo(&mut sim, &circuit, stream, &data), data);
}

#[test]
fn a_client_that_stops_reading_its_link_leaves_bounded_queues_and_goes_on_later() {
    let mut sim = Sim::honest(12);
    let circuit = sim.ready_circuit(&[0, 1, 2]);
    let streams: Vec<u32> = (0..8).map(|_| circuit.open(SOURCE)).collect();
    sim.run_for(Duration::from_millis(100));
    let end = sim.end(None, 0);
    sim.stall(end, true);
    sim.run_for(MINUTE);
    let before = sim.delivered;
    sim.run_for(MINUTE);
    assert_eq!(
        sim.delivered, before,
        "something still moves towards a link that takes nothing"
    );
    sim.stall(end, false);
    let mut got = 0;
    assert!(sim.run_until(MINUTE, |sim| {
        for stream in &streams {
            got += circuit.read(sim.now(), *stream, usize::MAX).len();
        }
        got > 20_000_000
    }));
    assert!(circuit.log.closed().is_none());
}

#[test]
fn a_target_that_reads_nothing_stops_the_sender_at_the_window() {
    let mut sim = Sim::honest(13);
    let circuit = sim.ready_circuit(&[0, 1, 2]);
    let stream = circuit.open(DEAF);
    let pool = sim.pool.clone();
    let mut sent = 0;
    sim.run_until(MINUTE, |_| {
        sent += circuit.write(&pool, stream, &[1; 100_000]);
        false
    });
    assert_eq!(sent, 256 * 1024);
    assert!(circuit.log.closed().is_none());
}

#[test]
fn statuses_and_ends_reach_the_origin() {
    let mut sim = Sim::honest(14);
    let circuit = sim.ready_circuit(&[0, 1, 2]);
    let refused = circuit.open(CLOSED);
    let echoed = circuit.open(ECHO);
    circuit.origin.with(|origin| origin.mux().finish(echoed));
    assert!(sim.run_until(MINUTE, |_| {
        circuit
            .origin
            .with(|origin| matches!(origin.mux().recv(echoed), Recv::Finished))
    }));
    assert!(circuit.log.any(|event| matches!(
        event,
        OriginEvent::Mux(MuxEvent::Opened { stream, status: OpenStatus::ConnectionRefused })
            if *stream == refused
    )));
    let reset = circuit.open(ECHO);
    sim.run_for(Duration::from_secs(1));
    circuit
        .origin
        .with(|origin| origin.mux().reset(reset, EndReason::Reset));
    sim.run_for(Duration::from_secs(1));
    assert!(circuit.log.closed().is_none());
}

#[test]
fn closing_a_circuit_leaves_nothing_at_any_relay() {
    let mut sim = Sim::honest(15);
    let circuits: Vec<Circuit> = (0..50).map(|_| sim.ready_circuit(&[0, 1, 2])).collect();
    assert_eq!(sim.circuits_at(1), 50);
    for circuit in &circuits {
        circuit
            .origin
            .close(hushswarm_circuits::body::DestroyReason::Finished);
    }
    sim.run_for(MINUTE);
    assert_eq!((0..3).map(|relay| sim.circuits_at(relay)).sum::<usize>(), 0);
}

#[test]
fn slow_circuits_do_not_hold_up_a_quick_one_on_the_same_links() {
    let wire = Wire {
        delay: Duration::from_millis(5),
        rate: 2_000_000,
    };
    let mut sim = Sim::new(16, &[Behaviour::Honest; 3], wire);
    let bulk: Vec<(Circuit, u32)> = (0..10)
        .map(|_| {
            let circuit = sim.ready_circuit(&[0, 1, 2]);
            let stream = circuit.open(SOURCE);
            (circuit, stream)
        })
        .collect();
    let quick = sim.ready_circuit(&[0, 1, 2]);
    let stream = quick.open(ECHO);
    let drain = |sim: &mut Sim| {
        for (circuit, stream) in &bulk {
            circuit.read(sim.now(), *stream, usize::MAX);
        }
    };
    sim.run_until(Duration::from_secs(5), |sim| {
        drain(sim);
        false
    });
    let (begun, pool) = (sim.elapsed(), sim.pool.clone());
    quick.write(&pool, stream, b"ping");
    assert!(sim.run_until(MINUTE, |sim| {
        drain(sim);
        !quick.read(sim.now(), stream, 16).is_empty()
    }));
    // The queue of ten circuits with 64 frames each would take 1.3 s on each link.
    let took = sim.elapsed() - begun;
    assert!(took < Duration::from_millis(700), "{took:?}");
}

#[test]
fn a_run_replays_from_its_seed() {
    let run = |seed| {
        let mut sim = Sim::honest(seed);
        let circuit = sim.ready_circuit(&[0, 1, 2]);
        let stream = circuit.open(ECHO);
        echo(&mut sim, &circuit, stream, &pattern(200_000));
        (sim.trace, sim.delivered, sim.elapsed())
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).0, run(4).0);
}

#[test]
fn every_byte_that_leaves_is_part_of_a_frame_of_1024_or_4096_bytes() {
    let mut sim = Sim::honest(17);
    let circuit = sim.ready_circuit(&[0, 1, 2]);
    let stream = circuit.open(ECHO);
    for len in [1, 927, 928, 929, 4000, 4001, 9000] {
        let before = sim.delivered;
        echo(&mut sim, &circuit, stream, &pattern(len));
        sim.run_for(Duration::from_secs(2));
        assert_eq!((sim.delivered - before) % 1024, 0, "{len} bytes of payload");
    }
}
