#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::frame::Pool;

fn classes() -> impl Strategy<Value = Class> {
    prop_oneof![Just(Class::Bulk), Just(Class::Small)]
}

fn targets() -> impl Strategy<Value = Target> {
    prop_oneof![
        any::<([u8; 4], u16)>().prop_map(|(ip, port)| Target::ip((ip, port).into())),
        any::<([u8; 16], u16)>().prop_map(|(ip, port)| Target::ip((ip, port).into())),
        ("[a-z][a-z0-9.-]{0,254}", any::<u16>())
            .prop_map(|(name, port)| Target::parse(&name, port).unwrap()),
    ]
}

proptest! {
    #[test]
    fn a_written_body_reads_back_and_carries_nothing_else(
        class in classes(), stream in 1..u32::MAX, payload in vec(any::<u8>(), 1..4000), stale: u8,
    ) {
        let mut frame = Pool::new(0).take(class);
        frame.bytes_mut().fill(stale);
        let written = write_body(&mut frame, Command::Data, stream, &payload);
        if payload.len() > class.payload_capacity() {
            prop_assert_eq!(written, Err(BodyError::Length(payload.len())));
            return Ok(());
        }
        prop_assert_eq!(written, Ok(()));
        let (header, range) = BodyHeader::decode(frame.body()).unwrap();
        prop_assert_eq!(header, BodyHeader { command: Command::Data, length: payload.len() as u16, stream });
        prop_assert_eq!(&frame.body()[range.clone()], &payload[..]);
        prop_assert!(frame.body()[range.end..].iter().all(|&b| b == 0), "padding is zero");
        prop_assert!(frame.bytes()[CELL_OFFSET..BODY_OFFSET].iter().all(|&b| b == 0), "slots are zero");
        prop_assert_eq!(&*Payload::from_frame(frame, range), &payload[..]);
    }

    #[test]
    fn a_header_that_decodes_fits_its_body_and_encodes_the_same(
        head: [u8; 8], mark in prop_oneof![9 => Just(0u8), 1 => any::<u8>()], class in classes(),
    ) {
        let mut body = vec![0; class.body_len()];
        body[7] = mark;
        body[8..16].copy_from_slice(&head);
        let Ok((header, range)) = BodyHeader::decode(&body) else { return Ok(()) };
        prop_assert_eq!(range.len(), usize::from(header.length));
        prop_assert!(body.get(range).is_some());
        let mut frame = Pool::new(0).take_zeroed(class);
        header.encode(&mut frame).unwrap();
        body[9] = 0; // flags are ignored and written as zero
        prop_assert_eq!(frame.body(), &body[..]);
    }

    #[test]
    fn payloads_that_decode_encode_to_the_same_bytes(bytes in vec(any::<u8>(), 0..200), small in 0u8..5) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() { *first %= 8; }
        if let Some(second) = bytes.get_mut(1) { *second = small; }
        if let Ok(open) = OpenRequest::decode(&bytes) { prop_assert_eq!(open.encode(), bytes.clone()); }
        if let Ok(extend) = ExtendRequest::decode(&bytes) { prop_assert_eq!(extend.encode(), bytes.clone()); }
        if let Ok(extended) = Extended::decode(&bytes) { prop_assert_eq!(extended.encode(), bytes.clone()); }
        let mut out = Vec::new();
        let all_good = Records::new(&bytes).all(|record| {
            record.is_ok_and(|(target, payload)| put_record(&mut out, &target, payload).is_ok())
        });
        prop_assert!(bytes.starts_with(&out) && (!all_good || out == bytes));
    }

    #[test]
    fn requests_and_answers_read_back(
        target in targets(), identity: [u8; 32], digest: [u8; 32], message in vec(any::<u8>(), 0..1300),
    ) {
        let open = OpenRequest { kind: OpenKind::Tcp, target: Some(target) };
        prop_assert!(open.encode().len() <= Class::Small.payload_capacity());
        prop_assert_eq!(OpenRequest::decode(&open.encode()), Ok(open));
        let extended = Extended { status: ExtendStatus::Done, answer: message.clone() };
        prop_assert_eq!(Extended::decode(&extended.encode()), Ok(extended));
        let extend = ExtendRequest { identity, digest, message };
        prop_assert_eq!(ExtendRequest::decode(&extend.encode()), Ok(extend));
    }

    #[test]
    fn records_read_back_in_order(sent in vec((targets(), vec(any::<u8>(), 0..300)), 0..5)) {
        let mut out = Vec::new();
        for (target, payload) in &sent {
            put_record(&mut out, target, payload).unwrap();
        }
        let read: Vec<_> = Records::new(&out).map(|r| r.map(|(t, p)| (t, p.to_vec())).unwrap()).collect();
        prop_assert_eq!(read, sent);
    }
}

fn decode(head: &[u8]) -> Result<(BodyHeader, Range<usize>), BodyError> {
    let mut body = [0; Class::Small.body_len()];
    body[..head.len()].copy_from_slice(head);
    BodyHeader::decode(&body)
}

#[test]
fn broken_headers_are_refused() {
    const Z: [u8; 8] = [0; 8];
    let head = |command: u8, length: u16, stream: u8| {
        let [l0, l1] = length.to_be_bytes();
        [&Z[..], &[command, 0, l0, l1, 0, 0, 0, stream]].concat()
    };
    assert_eq!(BodyHeader::decode(&[0; 15]), Err(BodyError::Length(15)));
    assert_eq!(decode(&[1]), Err(BodyError::NotRecognised));
    assert_eq!(decode(&head(0, 0, 0)), Err(BodyError::UnknownCommand(0)));
    assert_eq!(decode(&head(10, 0, 0)), Err(BodyError::UnknownCommand(10)));
    assert_eq!(decode(&head(3, 929, 1)), Err(BodyError::Length(929)));
    assert_eq!(decode(&head(3, 0, 1)), Err(BodyError::Length(0)));
    assert_eq!(
        decode(&head(3, 1, 0)),
        Err(BodyError::BadStream(Command::Data))
    );
    assert_eq!(
        decode(&head(9, 0, 1)),
        Err(BodyError::BadStream(Command::Drop))
    );
    assert!(decode(&head(3, 928, 1)).is_ok());
}

#[test]
fn broken_payloads_are_refused() {
    use Command::{Dgram, End, Extend, Open, Opened, Window};
    assert_eq!(OpenRequest::decode(&[]), Err(BodyError::CutOff(Open)));
    assert_eq!(
        OpenRequest::decode(&[11, 0]),
        Err(BodyError::UnknownValue(Open, 11))
    );
    // Lookups: a name or an address, without a port.
    let (name, ip) = ([3, 1, b'a'], [1, 192, 0, 2, 1]);
    let lookup = |kind: u8, host: &[u8], port: u8| {
        OpenRequest::decode(&[&[kind][..], host, &[0, port]].concat()).map(drop)
    };
    let mismatch = Err(BodyError::TargetMismatch(Open));
    assert_eq!((lookup(4, &name, 0), lookup(5, &ip, 0)), (Ok(()), Ok(())));
    for (kind, host, port) in [
        (4, &name[..], 1),
        (5, &ip, 1),
        (4, &ip, 0),
        (5, &name, 0),
        (2, &name, 0),
        (3, &ip, 0),
        (6, &ip, 0),
        (7, &ip, 0),
        (8, &ip, 0),
        (9, &ip, 0),
        (10, &ip, 0),
    ] {
        assert_eq!(lookup(kind, host, port), mismatch, "{kind} {port}");
    }
    // A lookup in the DHT says what it is about in the stream.
    // So does a meeting.
    for kind in 6..=10 {
        assert_eq!(OpenRequest::decode(&[kind, 0]).map(drop), Ok(()));
    }
    assert_eq!(OpenRequest::decode(&[4, 0]).map(drop), mismatch);
    assert_eq!(OpenRequest::decode(&[5, 0]).map(drop), mismatch);
    assert_eq!(
        OpenRequest::decode(&[1, 0]),
        Err(BodyError::TargetMismatch(Open))
    );
    assert_eq!(
        OpenRequest::decode(&[2, 1, 1, 2, 3, 4, 0, 80]),
        Err(BodyError::TargetMismatch(Open))
    );
    assert_eq!(
        OpenRequest::decode(&[2, 0, 0]),
        Err(BodyError::Trailing(Open))
    );
    assert_eq!(
        OpenRequest::decode(&[1, 9]),
        Err(BodyError::Target(TargetError::UnknownType(9)))
    );
    assert_eq!(OpenStatus::decode(&[]), Err(BodyError::CutOff(Opened)));
    assert_eq!(
        OpenStatus::decode(&[8]),
        Err(BodyError::UnknownValue(Opened, 8))
    );
    assert_eq!(EndReason::decode(&[0, 0]), Err(BodyError::Trailing(End)));
    assert_eq!(
        EndReason::decode(&[5]),
        Err(BodyError::UnknownValue(End, 5))
    );
    assert_eq!(decode_window(&[0; 3]), Err(BodyError::CutOff(Window)));
    assert_eq!(decode_window(&[0; 5]), Err(BodyError::Trailing(Window)));
    assert_eq!(
        ExtendRequest::decode(&[0; 65]),
        Err(BodyError::CutOff(Extend))
    );
    assert_eq!(
        Extended::decode(&[5, 0, 0]),
        Err(BodyError::UnknownValue(Command::Extended, 5))
    );
    let records = |bytes| Records::new(bytes).next().unwrap().unwrap_err();
    assert_eq!(records(&[0]), BodyError::CutOff(Dgram));
    assert_eq!(records(&[0, 0, 0]), BodyError::TargetMismatch(Dgram));
    assert_eq!(
        records(&[0, 1, 1, 1, 2, 3, 4, 0, 80]),
        BodyError::CutOff(Dgram)
    );
}

#[test]
fn datagrams_that_fit_no_cell_are_refused() {
    let target = Target::parse("1.2.3.4", 5).unwrap();
    let mut out = Vec::new();
    assert_eq!(
        put_record(&mut out, &target, &[0; 3992]),
        Err(BodyError::Length(4001))
    );
    assert_eq!(
        put_record(&mut out, &target, &[0; 70_000]),
        Err(BodyError::Length(70_009))
    );
    assert_eq!(put_record(&mut out, &target, &[0; 3991]), Ok(()));
    assert_eq!(out.len(), Class::Bulk.payload_capacity());
}

#[test]
fn unknown_destroy_reasons_count_as_a_broken_protocol() {
    assert_eq!(DestroyReason::from_frame(200), DestroyReason::Protocol);
    assert_eq!(DestroyReason::from_frame(7), DestroyReason::LinkLost);
}

#[test]
fn a_payload_advances_to_its_end_and_no_further() {
    let mut payload = Payload::from_vec(vec![1, 2, 3]);
    payload.advance(2);
    assert_eq!(&*payload, &[3]);
    payload.advance(usize::MAX);
    assert!(payload.is_empty());
}
