#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods)] // tests choose when time starts

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::body::{EndReason, OpenKind, OpenStatus};
use crate::circuit::mux::Recv;
use crate::handshake::hop_respond;
use crate::keys::{DhSecret, Suite};
use crate::layers::{BackwardHop, ForwardHop};
use crate::target::Target;

fn pool() -> Pool {
    Pool::new(16)
}

/// A relay's part in one circuit.
struct TestHop {
    secret: DhSecret,
    spec: HopSpec,
    layers: Option<(ForwardHop, BackwardHop)>,
}

/// The relays of a path, joined by perfect links, and a clock.
struct Net {
    hops: Vec<TestHop>,
    rng: StdRng,
    now: Instant,
}

impl Net {
    fn new(hops: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(hops as u64);
        let hop = |n| {
            let secret = DhSecret::generate(&mut rng);
            let suite = if n == 1 {
                Suite::ChaCha20Poly1305
            } else {
                Suite::Aes256Gcm
            };
            let peer = HopPeer {
                onion_key: secret.public(),
                suite,
                digest: [n; 32],
            };
            let spec = HopSpec {
                id: RelayId([n + 100; 32]),
                peer,
            };
            TestHop {
                secret,
                spec,
                layers: None,
            }
        };
        let hops = (0..hops as u8).map(hop).collect();
        Self {
            hops,
            rng,
            now: Instant::now(),
        }
    }

    fn origin(&mut self) -> Origin {
        let path = self.hops.iter().map(|hop| hop.spec).collect();
        Origin::new(self.now, path, &mut self.rng).unwrap()
    }

    /// An origin whose hops before `hop` have answered, and the message that `hop` got.
    fn asking(&mut self, hop: usize) -> (Origin, Vec<u8>) {
        let mut origin = self.origin();
        for at in 0..hop {
            let message = self.message(&mut origin, at);
            let answer = self.answer(at, &message);
            self.reply(&mut origin, at, ExtendStatus::Done, &answer);
        }
        let message = self.message(&mut origin, hop);
        (origin, message)
    }

    fn ready(&mut self) -> Origin {
        let last = self.hops.len() - 1;
        let (mut origin, message) = self.asking(last);
        let answer = self.answer(last, &message);
        self.reply(&mut origin, last, ExtendStatus::Done, &answer);
        assert!(matches!(
            origin.poll_event(),
            Some(OriginEvent::Ready { .. })
        ));
        origin
    }

    /// What the origin sends for `hop` to answer: the body of CREATE, or what an EXTEND to the hop before it carries.
    fn message(&mut self, origin: &mut Origin, hop: usize) -> Vec<u8> {
        let (kind, frame) = origin.poll_transmit(&pool()).unwrap();
        if hop == 0 {
            assert_eq!((kind, frame.class()), (FrameType::Create, Class::Bulk));
            return counted(frame.body()).unwrap().0.to_vec();
        }
        let (at, command, payload) = self.forward(kind, frame);
        assert_eq!((at, command), (hop - 1, Command::Extend));
        let request = ExtendRequest::decode(&payload).unwrap();
        let HopSpec { id, peer } = self.hops[hop].spec;
        assert_eq!((request.identity, request.digest), (id.0, peer.digest));
        request.message
    }

    /// A cell on its way out; gives which hop recognised it and what it carries.
    fn forward(&mut self, kind: FrameType, mut frame: FrameBuf) -> (usize, Command, Vec<u8>) {
        assert_eq!(kind, FrameType::Data);
        for (at, hop) in self.hops.iter_mut().enumerate() {
            let (forward, _) = hop.layers.as_mut().unwrap();
            if forward.open(frame.cell_mut()).unwrap() {
                let (header, range) = BodyHeader::decode(frame.body()).unwrap();
                return (at, header.command, frame.body()[range].to_vec());
            }
        }
        panic!("no hop recognised the cell");
    }

    /// Answers message 1 as an honest hop.
    fn answer(&mut self, hop: usize, message: &[u8]) -> Vec<u8> {
        let hop = &mut self.hops[hop];
        let message = message.try_into().unwrap();
        let (answer, keys) =
            hop_respond(&hop.secret, &hop.spec.peer, message, &mut self.rng).unwrap();
        hop.layers = Some((
            ForwardHop::new(keys.forward),
            BackwardHop::new(keys.backward),
        ));
        answer.to_vec()
    }

    /// Brings `hop`'s answer to the origin: CREATED, or EXTENDED from the hop before it.
    fn reply(&mut self, origin: &mut Origin, hop: usize, status: ExtendStatus, answer: &[u8]) {
        if hop == 0 {
            let mut body = Vec::new();
            put_counted(&mut body, answer);
            body.resize(Class::Bulk.body_len(), 0);
            origin.handle_created(self.now, &body);
        } else {
            let extended = Extended {
                status,
                answer: answer.to_vec(),
            };
            self.speak(origin, hop - 1, Command::Extended, 0, &extended.encode());
        }
    }

    /// A cell of `hop` as it reaches the origin.
    fn backward(&mut self, hop: usize, mut frame: FrameBuf) -> FrameBuf {
        for at in (0..=hop).rev() {
            let (_, backward) = self.hops[at].layers.as_mut().unwrap();
            let cell = frame.cell_mut();
            if at == hop {
                backward.originate(cell)
            } else {
                backward.relay(cell)
            }
            .unwrap();
        }
        frame
    }

    /// `hop` says something to the origin.
    fn speak(
        &mut self,
        origin: &mut Origin,
        hop: usize,
        command: Command,
        stream: u32,
        payload: &[u8],
    ) {
        let mut frame = pool().take(Class::Bulk);
        write_body(&mut frame, command, stream, payload).unwrap();
        let frame = self.backward(hop, frame);
        origin.handle_cell(self.now, frame);
    }
}

/// The circuit has closed for this reason, and says so once.
fn assert_closed(origin: &mut Origin, reason: CloseReason, tells: Option<DestroyReason>) {
    assert_eq!(origin.poll_event(), Some(OriginEvent::Closed(reason)));
    assert!(origin.is_closed());
    assert_eq!((origin.poll_event(), origin.poll_timeout()), (None, None));
    let told = origin.poll_transmit(&pool()).map(|(kind, frame)| {
        assert_eq!((kind, frame.class()), (FrameType::Destroy, Class::Small));
        assert!(frame.body()[1..].iter().all(|&byte| byte == 0));
        DestroyReason::from_wire(frame.body()[0]).unwrap()
    });
    assert_eq!(told, tells);
    assert!(
        origin.poll_transmit(&pool()).is_none(),
        "nothing after the end"
    );
}

const FINISHED: Option<DestroyReason> = Some(DestroyReason::Finished);

fn target() -> Target {
    Target::parse("peer.example", 1).unwrap()
}

#[test]
fn a_circuit_telescopes_and_carries_a_stream_over_one_to_three_hops() {
    for hops in 1..=MAX_HOPS {
        let mut net = Net::new(hops);
        let mut origin = net.ready();
        assert!(origin.is_ready() && origin.hops() == hops && origin.poll_timeout().is_none());
        let stream = origin.mux().open(OpenKind::Tcp, Some(target())).unwrap();
        origin.mux().send_bytes(&pool(), stream, b"hello");
        let mut exit = Mux::new(End::Hop);
        while let Some((kind, frame)) = origin.poll_transmit(&pool()) {
            let (at, command, payload) = net.forward(kind, frame);
            assert_eq!(at, hops - 1);
            let mut frame = pool().take(Class::Bulk);
            write_body(&mut frame, command, stream, &payload).unwrap();
            exit.handle(net.now, frame).unwrap();
        }
        assert!(matches!(exit.recv(stream), Recv::Data(data) if &*data == b"hello"));
        exit.answer_open(stream, OpenStatus::Open);
        exit.send_bytes(&pool(), stream, b"world");
        while let Some(frame) = exit.poll_cell(&pool()) {
            let frame = net.backward(hops - 1, frame);
            origin.handle_cell(net.now, frame);
        }
        let opened = MuxEvent::Opened {
            stream,
            status: OpenStatus::Open,
        };
        assert_eq!(origin.poll_event(), Some(OriginEvent::Mux(opened)));
        assert_eq!(
            origin.poll_event(),
            Some(OriginEvent::Mux(MuxEvent::Readable { stream }))
        );
        assert!(matches!(origin.mux().recv(stream), Recv::Data(data) if &*data == b"world"));
    }
}

#[test]
fn streams_opened_while_building_wait_until_the_circuit_is_ready() {
    let mut net = Net::new(2);
    let (mut origin, message) = net.asking(1);
    let stream = origin.mux().open(OpenKind::Tcp, Some(target())).unwrap();
    assert!(origin.mux().send_room(stream) > 0);
    assert!(origin.poll_transmit(&pool()).is_none());
    let answer = net.answer(1, &message);
    net.reply(&mut origin, 1, ExtendStatus::Done, &answer);
    let (kind, frame) = origin.poll_transmit(&pool()).unwrap();
    assert!(matches!(net.forward(kind, frame), (1, Command::Open, _)));
}

#[test]
fn build_time_and_round_trip_are_measured() {
    let mut net = Net::new(2);
    let mut origin = net.origin();
    for hop in 0..2 {
        net.now += Duration::from_millis(100);
        let message = net.message(&mut origin, hop);
        net.now += Duration::from_millis(20);
        let answer = net.answer(hop, &message);
        net.reply(&mut origin, hop, ExtendStatus::Done, &answer);
    }
    let (build_time, rtt) = (Duration::from_millis(240), Duration::from_millis(120));
    assert_eq!(
        origin.poll_event(),
        Some(OriginEvent::Ready { build_time, rtt })
    );
}

#[test]
fn a_silent_hop_is_named_after_its_time() {
    for hop in 0..MAX_HOPS {
        let mut net = Net::new(MAX_HOPS);
        let (mut origin, _) = net.asking(hop);
        let due = origin.poll_timeout().unwrap();
        assert_eq!(due, net.now + HOP_TIMEOUT);
        origin.handle_timeout(due - Duration::from_millis(1));
        assert!(!origin.is_closed());
        origin.handle_timeout(due);
        assert_closed(&mut origin, CloseReason::HopTimeout { hop }, FINISHED);
    }
}

#[test]
fn a_circuit_that_never_left_destroys_nothing() {
    let mut net = Net::new(3);
    let mut origin = net.origin();
    origin.handle_timeout(net.now + HOP_TIMEOUT);
    assert_closed(&mut origin, CloseReason::HopTimeout { hop: 0 }, None);
    let mut origin = net.origin();
    origin.close(DestroyReason::ShuttingDown);
    assert_closed(
        &mut origin,
        CloseReason::Local(DestroyReason::ShuttingDown),
        None,
    );
}

#[test]
fn an_answer_that_is_not_the_hops_fails_its_handshake() {
    for hop in 0..MAX_HOPS {
        let changes: [fn(&mut Vec<u8>); 5] = [
            |answer| answer[0] ^= 1,
            |answer| answer[CREATED_LEN - 1] ^= 1,
            |answer| answer.truncate(CREATED_LEN - 1),
            |answer| answer.push(0),
            Vec::clear,
        ];
        for change in changes {
            let mut net = Net::new(MAX_HOPS);
            let (mut origin, message) = net.asking(hop);
            let mut answer = net.answer(hop, &message);
            change(&mut answer);
            net.reply(&mut origin, hop, ExtendStatus::Done, &answer);
            assert_closed(&mut origin, CloseReason::HandshakeFailed { hop }, FINISHED);
        }
    }
}

#[test]
fn a_hop_can_not_be_replaced_by_another() {
    let mut net = Net::new(3);
    let (mut origin, message) = net.asking(1);
    // The first hop answers in place of the second, with keys of its own.
    let peer = HopPeer {
        onion_key: net.hops[0].spec.peer.onion_key,
        ..net.hops[1].spec.peer
    };
    let message = message.as_slice().try_into().unwrap();
    let lied = hop_respond(&net.hops[0].secret, &peer, message, &mut net.rng);
    let answer = lied.map_or(vec![0; CREATED_LEN], |(answer, _)| answer.to_vec());
    net.reply(&mut origin, 1, ExtendStatus::Done, &answer);
    assert_closed(
        &mut origin,
        CloseReason::HandshakeFailed { hop: 1 },
        FINISHED,
    );
}

#[test]
fn a_hop_that_can_not_extend_says_why() {
    for hop in 1..MAX_HOPS {
        let mut net = Net::new(MAX_HOPS);
        let (mut origin, _) = net.asking(hop);
        let status = ExtendStatus::NotListed;
        net.reply(&mut origin, hop, status, &[]);
        assert_closed(
            &mut origin,
            CloseReason::ExtendFailed { hop, status },
            FINISHED,
        );
    }
}

#[test]
fn an_answer_nobody_asked_for_is_a_broken_protocol() {
    // A second CREATED, while building and when ready.
    let mut net = Net::new(2);
    let (mut origin, _) = net.asking(1);
    origin.handle_created(net.now, &[0; Class::Bulk.body_len()]);
    assert_closed(&mut origin, CloseReason::Protocol, FINISHED);
    let mut net = Net::new(1);
    let mut origin = net.ready();
    origin.handle_created(net.now, &[0; Class::Bulk.body_len()]);
    assert_closed(&mut origin, CloseReason::Protocol, FINISHED);
    // CREATED before CREATE has left.
    let mut origin = net.origin();
    origin.handle_created(net.now, &[0; Class::Bulk.body_len()]);
    assert_closed(&mut origin, CloseReason::Protocol, None);
    // EXTENDED once ready, and from a hop that was not asked.
    let extended = Extended {
        status: ExtendStatus::Done,
        answer: vec![0; CREATED_LEN],
    }
    .encode();
    let mut net = Net::new(2);
    let mut origin = net.ready();
    net.speak(&mut origin, 0, Command::Extended, 0, &extended);
    assert_closed(&mut origin, CloseReason::Protocol, FINISHED);
    let mut net = Net::new(3);
    let (mut origin, _) = net.asking(2);
    net.speak(&mut origin, 0, Command::Extended, 0, &extended);
    assert_closed(&mut origin, CloseReason::Protocol, FINISHED);
}

#[test]
fn only_the_last_hop_may_speak_of_streams_but_every_hop_may_pad() {
    let mut net = Net::new(3);
    let mut origin = net.ready();
    let stream = origin.mux().open(OpenKind::Tcp, Some(target())).unwrap();
    origin.poll_transmit(&pool()).unwrap();
    for hop in 0..3 {
        net.speak(&mut origin, hop, Command::Drop, 0, &[9; 100]);
    }
    assert!(origin.is_ready());
    net.speak(&mut origin, 1, Command::Opened, stream, &[0]);
    assert_closed(&mut origin, CloseReason::Protocol, FINISHED);
}

#[test]
fn streams_that_were_never_opened_or_while_building_are_a_broken_protocol() {
    let mut net = Net::new(2);
    let mut origin = net.ready();
    net.speak(&mut origin, 1, Command::Data, 1, &[0]);
    assert_closed(&mut origin, CloseReason::Protocol, FINISHED);
    let (mut origin, _) = net.asking(1);
    origin.mux().open(OpenKind::Tcp, Some(target())).unwrap();
    net.speak(&mut origin, 0, Command::Opened, 1, &[0]);
    assert_closed(&mut origin, CloseReason::Protocol, FINISHED);
}

#[test]
fn a_changed_cell_names_the_layer_it_broke() {
    for changed in 0..3 {
        let mut net = Net::new(3);
        let mut origin = net.ready();
        let mut frame = pool().take(Class::Small);
        write_body(&mut frame, Command::Drop, 0, &[]).unwrap();
        for at in (0..3).rev() {
            let (_, backward) = net.hops[at].layers.as_mut().unwrap();
            let cell = frame.cell_mut();
            if at == 2 {
                backward.originate(cell)
            } else {
                backward.relay(cell)
            }
            .unwrap();
            if at == changed {
                cell[500] ^= 1;
            }
        }
        origin.handle_cell(net.now, frame);
        assert_closed(
            &mut origin,
            CloseReason::LayerFailed { hop: Some(changed) },
            FINISHED,
        );
    }
}

#[test]
fn a_destroyed_circuit_is_not_destroyed_back_in_any_state() {
    for (byte, reason) in [
        (3, DestroyReason::Unreachable),
        (99, DestroyReason::Protocol),
    ] {
        for hop in 0..=3 {
            let mut net = Net::new(3);
            let mut origin = if hop == 3 {
                net.ready()
            } else {
                net.asking(hop).0
            };
            origin.handle_destroy(net.now, byte);
            origin.handle_destroy(net.now, byte);
            assert_closed(&mut origin, CloseReason::Destroyed(reason), None);
        }
    }
}

#[test]
fn closing_ends_streams_and_tells_the_first_hop_once() {
    let mut net = Net::new(3);
    let mut origin = net.ready();
    let stream = origin.mux().open(OpenKind::Tcp, Some(target())).unwrap();
    origin.send_drop(1);
    origin.close(DestroyReason::Finished);
    origin.close(DestroyReason::Internal);
    assert_closed(
        &mut origin,
        CloseReason::Local(DestroyReason::Finished),
        FINISHED,
    );
    assert!(matches!(
        origin.mux().recv(stream),
        Recv::Ended(EndReason::Reset)
    ));
    assert_eq!(origin.mux().send_room(stream), 0);
    origin.send_drop(1);
    assert!(origin.poll_transmit(&pool()).is_none());
}

#[test]
fn padding_reaches_the_chosen_hop_and_does_not_pile_up() {
    let mut net = Net::new(3);
    let mut origin = net.ready();
    for hop in [2, 0, 1, 3] {
        origin.send_drop(hop);
    }
    for hop in [2, 0, 1] {
        let (kind, frame) = origin.poll_transmit(&pool()).unwrap();
        assert_eq!(net.forward(kind, frame), (hop, Command::Drop, Vec::new()));
    }
    assert!(
        origin.poll_transmit(&pool()).is_none(),
        "there is no fourth hop"
    );
    (0..100).for_each(|_| origin.send_drop(0));
    assert_eq!(
        std::iter::from_fn(|| origin.poll_transmit(&pool())).count(),
        MAX_DROPS
    );
}

#[test]
fn a_path_without_hops_or_with_too_many_or_a_bad_key_is_refused() {
    let mut net = Net::new(1);
    let (now, mut hop) = (net.now, net.hops[0].spec);
    let mut start = |path| {
        Origin::new(now, path, &mut net.rng)
            .map(|_| ())
            .unwrap_err()
    };
    assert_eq!(start(vec![]), PathError::Hops(0));
    assert_eq!(start(vec![hop; 4]), PathError::Hops(4));
    hop.peer.onion_key = [0; 32];
    assert_eq!(start(vec![hop]), PathError::BadKey);
}

#[test]
fn a_bad_key_further_on_closes_the_circuit_when_its_turn_comes() {
    let mut net = Net::new(2);
    net.hops[1].spec.peer.onion_key = [0; 32];
    let (mut origin, message) = net.asking(0);
    let answer = net.answer(0, &message);
    net.reply(&mut origin, 0, ExtendStatus::Done, &answer);
    assert_closed(
        &mut origin,
        CloseReason::HandshakeFailed { hop: 1 },
        FINISHED,
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the last hop says, the circuit closes at most once and never panics.
    #[test]
    fn hostile_bodies_close_the_circuit_once(
        building: bool,
        said in vec((1u8..10, 0u32..4, vec(prop_oneof![0u8..4, any::<u8>()], 0..40)), 1..12),
    ) {
        let mut net = Net::new(2);
        let mut origin = if building { net.asking(1).0 } else { net.ready() };
        origin.mux().open(OpenKind::Tcp, Some(target())).unwrap();
        for (command, stream, payload) in said {
            while origin.poll_transmit(&pool()).is_some() {}
            net.speak(&mut origin, usize::from(!building), Command::from_wire(command).unwrap(), stream, &payload);
        }
        let closed = std::iter::from_fn(|| origin.poll_event())
            .filter(|event| matches!(event, OriginEvent::Closed(_)))
            .count();
        prop_assert_eq!(closed, usize::from(origin.is_closed()));
    }

    #[test]
    fn bytes_that_are_no_answer_never_panic(body in vec(any::<u8>(), 0..40), zero_length: bool) {
        let mut net = Net::new(1);
        let (mut origin, _) = net.asking(0);
        let mut body = body;
        if zero_length { body.iter_mut().take(2).for_each(|byte| *byte = 0); }
        origin.handle_created(net.now, &body);
        assert_closed(&mut origin, CloseReason::HandshakeFailed { hop: 0 }, FINISHED);
    }
}
