#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods)] // tests choose when time starts

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::body::{ExtendStatus, PAYLOAD_OFFSET};
use crate::circuit::flow::{FIRST_WINDOW, MAX_WINDOW};

const WINDOW: usize = FIRST_WINDOW as usize;

fn pool() -> Pool {
    Pool::new(64)
}

fn target() -> Target {
    Target::parse("peer.example", 6881).unwrap()
}

/// The byte at an offset of what a side sends on a stream.
fn pattern(side: usize, stream: u32, offset: u64) -> u8 {
    let mixed = (offset + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 29;
    mixed as u8 ^ stream as u8 ^ (side as u8) << 7
}

/// An origin (0) and a hop (1) joined by two wires with a delay.
struct Pair {
    now: Instant,
    delay: Duration,
    pool: Pool,
    mux: [Mux; 2],
    wire: [VecDeque<(Instant, FrameBuf)>; 2],
    sent: [BTreeMap<u32, u64>; 2],
    got: [BTreeMap<u32, u64>; 2],
    events: [Vec<MuxEvent>; 2],
}

impl Pair {
    fn new() -> Self {
        Self {
            now: Instant::now(),
            delay: Duration::ZERO,
            pool: pool(),
            mux: [Mux::new(End::Origin), Mux::new(End::Hop)],
            wire: Default::default(),
            sent: Default::default(),
            got: Default::default(),
            events: Default::default(),
        }
    }

    /// A pair with one stream that both know is open.
    fn with_stream() -> (Self, u32) {
        let mut pair = Self::new();
        let stream = pair.mux[0].open(OpenKind::Tcp, Some(target())).unwrap();
        pair.settle();
        pair.mux[1].answer_open(stream, OpenStatus::Open);
        pair.settle();
        pair.events = Default::default();
        (pair, stream)
    }

    fn poll_events(&mut self) {
        for side in 0..2 {
            self.events[side].extend(std::iter::from_fn(|| self.mux[side].poll_event()));
        }
    }

    /// Puts up to `cells` cells of a side on its wire.
    fn pump(&mut self, side: usize, cells: usize) -> bool {
        let mut any = false;
        for _ in 0..cells {
            let had = self.mux[side].has_cells();
            let frame = self.mux[side].poll_cell(&self.pool);
            assert_eq!(had, frame.is_some(), "has_cells told the truth");
            let Some(frame) = frame else { break };
            self.wire[side].push_back((self.now + self.delay, frame));
            any = true;
        }
        any
    }

    /// Delivers what is due.
    fn deliver(&mut self) -> bool {
        let mut any = false;
        for side in 0..2 {
            while self.wire[side]
                .front()
                .is_some_and(|(due, _)| *due <= self.now)
            {
                let (_, frame) = self.wire[side].pop_front().unwrap();
                self.mux[1 - side].handle(self.now, frame).unwrap();
                any = true;
            }
        }
        self.poll_events();
        any
    }

    /// Lets everything that is on its way arrive.
    fn settle(&mut self) {
        loop {
            let pumped = self.pump(0, usize::MAX) | self.pump(1, usize::MAX);
            self.now += self.delay;
            if !self.deliver() && !pumped {
                return;
            }
        }
    }

    fn write(&mut self, side: usize, stream: u32, len: usize) -> usize {
        let sent = self.sent[side].entry(stream).or_default();
        let data: Vec<u8> = (0..len as u64)
            .map(|n| pattern(side, stream, *sent + n))
            .collect();
        let room = self.mux[side].send_room(stream);
        let taken = self.mux[side].send_bytes(&self.pool, stream, &data);
        assert!(taken <= room);
        *sent += taken as u64;
        taken
    }

    /// Reads up to `payloads` payloads and checks their bytes; gives how the last read ended.
    fn read(&mut self, side: usize, stream: u32, payloads: usize) -> Recv {
        for _ in 0..payloads {
            let payload = match self.mux[side].recv(stream) {
                Recv::Data(payload) => payload,
                other @ (Recv::Pending | Recv::Finished | Recv::Ended(_)) => return other,
            };
            let got = self.got[side].entry(stream).or_default();
            for (n, &byte) in payload.iter().enumerate() {
                assert_eq!(
                    byte,
                    pattern(1 - side, stream, *got + n as u64),
                    "in order, unchanged"
                );
            }
            *got += payload.len() as u64;
            self.mux[side].consumed(self.now, stream, payload.len());
        }
        Recv::Pending
    }

    fn assert_bounded(&self) {
        for mux in &self.mux {
            for live in mux.streams.values() {
                assert!(live.unread() <= live.recv_window.size() as usize);
                assert!(live.recv_window.size() <= MAX_WINDOW);
            }
        }
    }
}

fn frame(command: Command, stream: u32, payload: &[u8]) -> FrameBuf {
    cell(&pool(), command, stream, payload).unwrap()
}

fn handle(
    mux: &mut Mux,
    command: Command,
    stream: u32,
    payload: &[u8],
) -> Result<(), ProtocolError> {
    mux.handle(Instant::now(), frame(command, stream, payload))
}

fn open_payload() -> Vec<u8> {
    OpenRequest {
        kind: OpenKind::Tcp,
        target: Some(target()),
    }
    .encode()
}

fn next_header(mux: &mut Mux) -> Option<(Command, u32)> {
    let frame = mux.poll_cell(&pool())?;
    let (header, _) = BodyHeader::decode(frame.body()).unwrap();
    Some((header.command, header.stream))
}

#[test]
fn data_may_follow_open_at_once_and_waits_for_the_exit() {
    let mut pair = Pair::new();
    let stream = pair.mux[0].open(OpenKind::Tcp, Some(target())).unwrap();
    assert_eq!(pair.write(0, stream, 10_000), 10_000);
    pair.mux[0].finish(stream);
    pair.settle();
    let open = MuxEvent::Open {
        stream,
        kind: OpenKind::Tcp,
        target: Some(target()),
    };
    assert_eq!(pair.events[1], [open, MuxEvent::Readable { stream }]);
    assert_eq!(
        pair.mux[1].send_room(stream),
        0,
        "nothing leaves before the answer"
    );
    pair.mux[1].answer_open(stream, OpenStatus::Open);
    assert!(matches!(pair.read(1, stream, usize::MAX), Recv::Finished));
    assert_eq!(pair.got[1][&stream], 10_000);
    pair.write(1, stream, 5);
    pair.mux[1].finish(stream);
    pair.settle();
    let opened = MuxEvent::Opened {
        stream,
        status: OpenStatus::Open,
    };
    assert_eq!(pair.events[0], [opened, MuxEvent::Readable { stream }]);
    assert!(matches!(pair.read(0, stream, usize::MAX), Recv::Finished));
    assert_eq!((pair.mux[0].streams(), pair.mux[1].streams()), (0, 0));
    assert!(
        matches!(pair.mux[0].recv(stream), Recv::Finished),
        "still known after its end"
    );
}

#[test]
fn a_refused_stream_is_gone_on_both_sides() {
    let mut pair = Pair::new();
    let stream = pair.mux[0].open(OpenKind::Tcp, Some(target())).unwrap();
    pair.write(0, stream, 100);
    pair.settle();
    pair.mux[1].answer_open(stream, OpenStatus::ConnectionRefused);
    pair.write(0, stream, 100); // crosses the answer
    pair.settle();
    let status = OpenStatus::ConnectionRefused;
    let (readable, writable) = (MuxEvent::Readable { stream }, MuxEvent::Writable { stream });
    assert_eq!(
        pair.events[0],
        [MuxEvent::Opened { stream, status }, readable, writable]
    );
    assert!(matches!(
        pair.mux[0].recv(stream),
        Recv::Ended(EndReason::Reset)
    ));
    assert_eq!(pair.mux[0].send_room(stream), 0);
    assert_eq!((pair.mux[0].streams(), pair.mux[1].streams()), (0, 0));
}

#[test]
fn a_reset_drops_what_is_queued_and_wakes_the_other_side() {
    let (mut pair, stream) = Pair::with_stream();
    pair.write(0, stream, 50_000);
    pair.write(1, stream, 50_000);
    pair.mux[1].reset(stream, EndReason::TimedOut);
    assert_eq!(next_header(&mut pair.mux[1]), Some((Command::End, stream)));
    assert!(!pair.mux[1].has_cells());
    handle(
        &mut pair.mux[0],
        Command::End,
        stream,
        &[EndReason::TimedOut as u8],
    )
    .unwrap();
    assert!(matches!(
        pair.mux[0].recv(stream),
        Recv::Ended(EndReason::TimedOut)
    ));
    assert!(!pair.mux[0].has_cells());
    assert_eq!(
        pair.mux[0].poll_event(),
        Some(MuxEvent::Readable { stream })
    );
    handle(&mut pair.mux[1], Command::Data, stream, &[1]).unwrap(); // crossed the END
}

#[test]
fn a_stream_reset_before_its_open_left_is_never_mentioned() {
    let mut mux = Mux::new(End::Origin);
    let first = mux.open(OpenKind::Tcp, Some(target())).unwrap();
    let second = mux.open(OpenKind::RelayList, None).unwrap();
    mux.reset(first, EndReason::Reset);
    assert_eq!(next_header(&mut mux), Some((Command::Open, second)));
    assert_eq!(next_header(&mut mux), None);
}

#[test]
fn a_hop_that_resets_before_its_answer_answers_that_it_failed() {
    let mut mux = Mux::new(End::Hop);
    handle(&mut mux, Command::Open, 4, &open_payload()).unwrap();
    mux.reset(4, EndReason::TimedOut);
    let frame = mux.poll_cell(&pool()).unwrap();
    let (header, range) = BodyHeader::decode(frame.body()).unwrap();
    assert_eq!((header.command, header.stream), (Command::Opened, 4));
    assert_eq!(
        OpenStatus::decode(&frame.body()[range]),
        Ok(OpenStatus::TimedOut)
    );
}

#[test]
fn a_stream_opened_and_reset_between_two_polls_is_never_announced() {
    let mut mux = Mux::new(End::Hop);
    for stream in 1..10_000 {
        handle(&mut mux, Command::Open, stream, &open_payload()).unwrap();
        handle(&mut mux, Command::End, stream, &[EndReason::Reset as u8]).unwrap();
    }
    assert_eq!(
        (mux.poll_event(), mux.streams(), mux.ended.len()),
        (None, 0, 0)
    );
}

#[test]
fn streams_take_turns_and_control_goes_first() {
    let mut mux = Mux::new(End::Origin);
    let streams = [(); 3].map(|()| mux.open(OpenKind::Tcp, Some(target())).unwrap());
    for stream in streams {
        assert_eq!(mux.send_bytes(&pool(), stream, &[0; 8000]), 8000);
    }
    mux.finish(1);
    let mut order = Vec::new();
    while let Some((command, stream)) = next_header(&mut mux) {
        order.push((command, stream));
    }
    use Command::{Data, Open};
    let first = [
        (Open, 1),
        (Open, 2),
        (Open, 3),
        (Data, 1),
        (Data, 2),
        (Data, 3),
    ];
    assert_eq!(order[..6], first);
    assert_eq!(
        order[6..],
        [(Data, 1), (Data, 2), (Data, 3), (Command::End, 1)]
    );
}

#[test]
fn short_payloads_leave_in_small_cells_and_short_writes_are_gathered() {
    let (mut pair, stream) = Pair::with_stream();
    for _ in 0..80 {
        pair.write(0, stream, 50);
    }
    let first = pair.mux[0].poll_cell(&pair.pool).unwrap();
    assert_eq!(
        (first.class(), pair.mux[0].has_cells()),
        (Class::Bulk, false),
        "80 x 50 = 4000"
    );
    pair.write(0, stream, 928);
    assert_eq!(
        pair.mux[0].poll_cell(&pair.pool).unwrap().class(),
        Class::Small
    );
    pair.write(0, stream, 929);
    assert_eq!(
        pair.mux[0].poll_cell(&pair.pool).unwrap().class(),
        Class::Bulk
    );
}

#[test]
fn frames_filled_by_the_caller_arrive_as_they_are() {
    let (mut pair, stream) = Pair::with_stream();
    let mut offset = 0;
    for len in [4000, 1, 700, 3999, 928] {
        let mut frame = pair.pool.take(Class::Bulk);
        for byte in &mut frame.bytes_mut()[PAYLOAD_OFFSET..PAYLOAD_OFFSET + len] {
            *byte = pattern(1, stream, offset);
            offset += 1;
        }
        pair.mux[1].send(stream, frame, len).unwrap();
    }
    pair.settle();
    pair.read(0, stream, usize::MAX);
    assert_eq!(pair.got[0][&stream], offset);
}

#[test]
fn what_does_not_fit_is_refused() {
    let (mut pair, stream) = Pair::with_stream();
    let frame = |class| pool().take(class);
    let mux = &mut pair.mux[0];
    assert_eq!(
        mux.send(stream, frame(Class::Bulk), 0),
        Err(MuxError::Length)
    );
    assert_eq!(
        mux.send(stream, frame(Class::Small), 929),
        Err(MuxError::Length)
    );
    assert_eq!(
        mux.send(stream + 1, frame(Class::Bulk), 1),
        Err(MuxError::Ended)
    );
    assert_eq!(
        mux.send_datagram(stream, &target(), &[]),
        Err(MuxError::WrongKind)
    );
    while mux.send_room(stream) >= 4000 {
        mux.send(stream, frame(Class::Bulk), 4000).unwrap();
    }
    assert_eq!(
        mux.send(stream, frame(Class::Bulk), 4000),
        Err(MuxError::NoRoom)
    );
    mux.finish(stream);
    assert_eq!(
        mux.send(stream, frame(Class::Bulk), 1),
        Err(MuxError::Ended)
    );
    assert_eq!(mux.open(OpenKind::Tcp, None), Err(MuxError::BadRequest));
    assert_eq!(
        pair.mux[1].open(OpenKind::RelayList, None),
        Err(MuxError::BadRequest)
    );
}

#[test]
fn many_short_frames_do_not_hold_more_than_their_share() {
    let (mut pair, stream) = Pair::with_stream();
    let mut sent = 0;
    while pair.mux[0].send_room(stream) > 0 {
        // Too long to be copied behind the one before it, far too short for a page.
        pair.mux[0]
            .send(stream, pool().take(Class::Bulk), 930)
            .unwrap();
        sent += 1;
        assert!(sent <= SEND_FRAMES);
    }
}

#[test]
fn a_reader_that_stops_holds_one_window_and_a_writer_then_one_queue() {
    let (mut pair, stream) = Pair::with_stream();
    for _ in 0..1000 {
        pair.write(0, stream, 16 * 1024);
        pair.settle();
    }
    assert_eq!(pair.mux[1].unread(), WINDOW);
    assert_eq!(pair.mux[0].send_room(stream), 0);
    pair.events = Default::default();
    pair.read(1, stream, usize::MAX);
    pair.settle();
    assert_eq!(
        pair.events[0],
        [MuxEvent::Writable { stream }],
        "woken once"
    );
    assert!(pair.mux[0].send_room(stream) > 0);
}

#[test]
fn one_byte_cells_are_gathered_so_that_they_do_not_hold_a_page_each() {
    let (mut pair, stream) = Pair::with_stream();
    for _ in 0..40_000 {
        handle(&mut pair.mux[1], Command::Data, stream, &[7]).unwrap();
    }
    let mut payloads = 0;
    while let Recv::Data(payload) = pair.mux[1].recv(stream) {
        assert!(payload.iter().all(|&byte| byte == 7));
        payloads += 1;
    }
    assert_eq!(payloads, 10);
}

#[test]
fn a_window_grows_with_a_quick_reader_and_not_with_a_slow_one() {
    for (pause, grows) in [(0, true), (900, false)] {
        let (mut pair, stream) = Pair::with_stream();
        pair.delay = Duration::from_millis(50);
        for _ in 0..400 {
            while pair.write(0, stream, 60_000) > 0 {
                pair.pump(0, usize::MAX);
            }
            pair.now += Duration::from_millis(50 + pause);
            pair.deliver();
            pair.read(1, stream, if pause > 0 { 8 } else { usize::MAX });
            pair.pump(1, usize::MAX);
            pair.assert_bounded();
        }
        let size = pair.mux[1].streams[&stream].recv_window.size();
        assert_eq!(size > FIRST_WINDOW, grows, "pause {pause} ms: {size}");
    }
}

#[test]
fn datagrams_keep_their_order_and_what_finds_no_room_is_dropped() {
    let mut pair = Pair::new();
    let flow = pair.mux[0].open(OpenKind::Datagrams, None).unwrap();
    for n in 0..2000u16 {
        pair.mux[0]
            .send_datagram(flow, &target(), &n.to_be_bytes())
            .unwrap();
    }
    assert_eq!(
        pair.mux[0].send_datagram(flow, &target(), &[0; 4000]),
        Err(MuxError::Length)
    );
    pair.settle();
    let mut got = Vec::new();
    while let Some((from, payload)) = pair.mux[1].recv_datagram(flow) {
        assert_eq!(from, target());
        got.push(u16::from_be_bytes(payload.try_into().unwrap()));
    }
    assert_eq!(got, (0..DATAGRAM_RECORDS as u16).collect::<Vec<_>>());
}

#[test]
fn datagrams_nobody_reads_are_bounded() {
    let mut mux = Mux::new(End::Hop);
    let flow = OpenRequest {
        kind: OpenKind::Datagrams,
        target: None,
    };
    handle(&mut mux, Command::Open, 1, &flow.encode()).unwrap();
    let mut records = Vec::new();
    while crate::body::put_record(&mut records, &target(), &[]).is_ok() && records.len() < 3900 {}
    for _ in 0..1000 {
        handle(&mut mux, Command::Dgram, 1, &records).unwrap();
        assert!(mux.unread() <= DATAGRAM_QUEUE);
    }
}

#[test]
fn more_streams_than_a_circuit_may_have_are_refused_and_a_flood_is_an_error() {
    let mut origin = Mux::new(End::Origin);
    for _ in 0..MAX_STREAMS {
        origin.open(OpenKind::Tcp, Some(target())).unwrap();
    }
    assert_eq!(
        origin.open(OpenKind::Tcp, Some(target())),
        Err(MuxError::TooManyStreams)
    );
    let mut hop = Mux::new(End::Hop);
    for stream in 1..=(MAX_STREAMS + MAX_FAREWELLS) as u32 {
        handle(&mut hop, Command::Open, stream, &open_payload()).unwrap();
    }
    assert_eq!(hop.streams(), MAX_STREAMS);
    let frame = hop.poll_cell(&pool()).unwrap();
    let (header, range) = BodyHeader::decode(frame.body()).unwrap();
    assert_eq!(
        (header.command, header.stream),
        (Command::Opened, MAX_STREAMS as u32 + 1)
    );
    assert_eq!(
        OpenStatus::decode(&frame.body()[range]),
        Ok(OpenStatus::Limit)
    );
    handle(&mut hop, Command::Open, 5000, &open_payload()).unwrap();
    let flood = handle(&mut hop, Command::Open, 5001, &open_payload());
    assert_eq!(flood, Err(ProtocolError::Flood));
}

#[test]
fn a_hop_extends_once() {
    let mut hop = Mux::new(End::Hop);
    let request = ExtendRequest {
        identity: [1; 32],
        digest: [2; 32],
        message: vec![3; 1232],
    };
    handle(&mut hop, Command::Extend, 0, &request.encode()).unwrap();
    assert_eq!(hop.poll_event(), Some(MuxEvent::Extend(request.clone())));
    let again = handle(&mut hop, Command::Extend, 0, &request.encode());
    assert_eq!(again, Err(ProtocolError::WrongState(Command::Extend)));
    let answer = Extended {
        status: ExtendStatus::Done,
        answer: vec![4; 1136],
    };
    hop.answer_extend(answer.clone());
    let mut origin = Mux::new(End::Origin);
    origin
        .handle(Instant::now(), hop.poll_cell(&pool()).unwrap())
        .unwrap();
    assert_eq!(origin.poll_event(), Some(MuxEvent::Extended(answer)));
}

#[test]
fn a_broken_protocol_is_an_error() {
    use Command::{Data, Dgram, End as Ending, Extend, Extended, Open, Opened, Window};
    use ProtocolError::{AfterEnd, StreamOrder, UnknownStream, WrongEnd, WrongKind, WrongState};
    let (now, window) = (Instant::now(), MAX_WINDOW.to_be_bytes());

    let mut origin = Mux::new(End::Origin);
    assert_eq!(
        handle(&mut origin, Open, 1, &open_payload()),
        Err(WrongEnd(Open))
    );
    assert_eq!(handle(&mut origin, Extend, 0, &[]), Err(WrongEnd(Extend)));
    assert_eq!(handle(&mut origin, Data, 1, &[0]), Err(UnknownStream(Data)));
    let stream = origin.open(OpenKind::Tcp, Some(target())).unwrap();
    assert_eq!(
        handle(&mut origin, Opened, stream, &[0]),
        Err(WrongState(Opened)),
        "no OPEN left"
    );
    origin.poll_cell(&pool()).unwrap();
    assert_eq!(
        handle(&mut origin, Data, stream, &[0]),
        Err(WrongState(Data))
    );
    assert_eq!(
        handle(&mut origin, Window, stream, &[0; 4]),
        Err(WrongState(Window))
    );
    assert_eq!(
        handle(&mut origin, Ending, stream, &[0]),
        Err(WrongState(Ending))
    );
    handle(&mut origin, Opened, stream, &[0]).unwrap();
    assert_eq!(
        handle(&mut origin, Opened, stream, &[0]),
        Err(WrongState(Opened))
    );
    assert_eq!(
        handle(&mut origin, Window, stream, &window),
        Err(ProtocolError::Overflow(WindowOverflow))
    );
    assert_eq!(
        handle(&mut origin, Dgram, stream, &[]),
        Err(WrongKind(Dgram))
    );
    handle(&mut origin, Ending, stream, &[0]).unwrap();
    assert_eq!(handle(&mut origin, Data, stream, &[0]), Err(AfterEnd(Data)));
    assert_eq!(
        handle(&mut origin, Ending, stream, &[0]),
        Err(AfterEnd(Ending))
    );
    assert_eq!(
        handle(&mut origin, Ending, stream, &[1]),
        Ok(()),
        "a reset after END 0 is none"
    );

    let mut hop = Mux::new(End::Hop);
    assert_eq!(handle(&mut hop, Opened, 1, &[0]), Err(WrongEnd(Opened)));
    assert_eq!(handle(&mut hop, Extended, 0, &[]), Err(WrongEnd(Extended)));
    handle(&mut hop, Open, 5, &open_payload()).unwrap();
    assert_eq!(handle(&mut hop, Open, 5, &open_payload()), Err(StreamOrder));
    assert_eq!(handle(&mut hop, Open, 4, &open_payload()), Err(StreamOrder));
    assert_eq!(handle(&mut hop, Data, 6, &[0]), Err(UnknownStream(Data)));
    assert_eq!(
        handle(&mut hop, Data, 4, &[0]),
        Ok(()),
        "a number that was skipped is gone"
    );
    for _ in 0..WINDOW / 4000 {
        hop.handle(now, frame(Data, 5, &[0; 4000])).unwrap();
    }
    let overrun = handle(&mut hop, Data, 5, &[0; 4000]);
    assert_eq!(overrun, Err(ProtocolError::Overrun(WindowOverrun)));
    handle(
        &mut hop,
        Open,
        6,
        &OpenRequest {
            kind: OpenKind::Datagrams,
            target: None,
        }
        .encode(),
    )
    .unwrap();
    assert_eq!(handle(&mut hop, Data, 6, &[0]), Err(WrongKind(Data)));
    assert_eq!(handle(&mut hop, Window, 6, &[0; 4]), Err(WrongKind(Window)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Random schedules of writing, reading and delivery: the settle at the end must bring every byte, in order.
    #[test]
    fn every_byte_arrives_in_order_whatever_the_schedule(
        streams in 1usize..5,
        delay in 0u64..200,
        steps in vec((0u8..6, 0usize..2, 0usize..5, 1usize..120_000), 0..150),
    ) {
        let mut pair = Pair::new();
        pair.delay = Duration::from_millis(delay);
        let open: Vec<u32> =
            (0..streams).map(|_| pair.mux[0].open(OpenKind::Tcp, Some(target())).unwrap()).collect();
        for (step, side, which, amount) in steps {
            let stream = open[which % streams];
            match step {
                0 | 1 => { pair.write(side, stream, amount); }
                2 => { pair.read(side, stream, amount % 20); }
                3 => { pair.pump(side, amount % 40); }
                4 => pair.mux[1].answer_open(stream, OpenStatus::Open),
                _ => {
                    pair.now += Duration::from_millis(amount as u64 % 300);
                    pair.deliver();
                }
            }
            pair.assert_bounded();
        }
        pair.settle();
        for &stream in &open {
            pair.mux[1].answer_open(stream, OpenStatus::Open);
            for side in 0..2 {
                pair.write(side, stream, 1000);
                pair.mux[side].finish(stream);
            }
        }
        for _ in 0..100 {
            pair.settle();
            for &stream in &open {
                for side in 0..2 {
                    pair.read(side, stream, usize::MAX);
                }
            }
        }
        for &stream in &open {
            for side in 0..2 {
                let sent = pair.sent[1 - side].get(&stream);
                prop_assert_eq!(pair.got[side].get(&stream).or(Some(&0)), sent.or(Some(&0)));
                prop_assert!(matches!(pair.mux[side].recv(stream), Recv::Finished));
            }
        }
        for mux in &pair.mux {
            prop_assert_eq!(mux.streams(), 0);
            prop_assert_eq!(mux.growth, GROWTH_BUDGET, "the growth budget came back");
            prop_assert!(!mux.has_cells());
        }
    }

    #[test]
    fn hostile_bodies_never_panic_or_pile_up(
        end in prop_oneof![Just(End::Origin), Just(End::Hop)],
        bodies in vec((0u8..12, 0u32..6, vec(prop_oneof![0u8..4, any::<u8>()], 0..40), 0u8..4), 0..200),
    ) {
        let mut mux = Mux::new(end);
        for kind in [OpenKind::Tcp, OpenKind::Datagrams] {
            let _ = mux.open(kind, (kind == OpenKind::Tcp).then(target));
        }
        for (command, stream, payload, act) in bodies {
            let mut frame = pool().take_zeroed(Class::Small);
            frame.body_mut()[8] = command;
            frame.body_mut()[11] = payload.len() as u8;
            frame.body_mut()[12..16].copy_from_slice(&stream.to_be_bytes());
            frame.body_mut()[16..16 + payload.len()].copy_from_slice(&payload);
            let _ = mux.handle(Instant::now(), frame);
            match act {
                0 => while mux.poll_event().is_some() {},
                1 => { mux.poll_cell(&pool()); }
                2 => mux.answer_open(stream, OpenStatus::Open),
                _ => { mux.recv(stream); }
            }
            prop_assert!(mux.streams() <= MAX_STREAMS && mux.ended.len() <= MAX_STREAMS);
        }
        while mux.poll_event().is_some() {}
        while mux.poll_cell(&pool()).is_some() {}
        prop_assert!(!mux.has_cells());
    }

    #[test]
    fn bytes_that_are_no_body_never_panic(bytes in vec(any::<u8>(), 944..=944), recognised: bool) {
        let mut frame = pool().take_zeroed(Class::Small);
        frame.body_mut().copy_from_slice(&bytes);
        if recognised { frame.body_mut()[..8].fill(0); }
        let _ = Mux::new(End::Hop).handle(Instant::now(), frame);
    }
}
