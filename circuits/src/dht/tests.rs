#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn bytes<const N: usize>() -> impl Strategy<Value = [u8; N]> {
    vec(any::<u8>(), N).prop_map(|bytes| bytes.try_into().unwrap())
}

fn salt() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=MAX_SALT)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 1..40),
        vec(any::<u8>(), MAX_VALUE - 1..=MAX_VALUE)
    ]
}

fn item() -> impl Strategy<Value = Item> {
    let mutable = (bytes(), salt(), 0..=MAX_SEQ, bytes(), value());
    prop_oneof![
        value().prop_map(|value| Item::Immutable { value }),
        mutable.prop_map(|(key, salt, seq, signature, value)| Item::Mutable {
            key,
            salt,
            seq,
            signature,
            value,
        })
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let swap = (item(), proptest::option::of(0..=MAX_SEQ));
    let op = prop_oneof![
        bytes().prop_map(|target| Op::Peers { target }),
        (bytes(), salt()).prop_map(|(target, salt)| Op::Get { target, salt }),
        swap.prop_map(|(item, cas)| Op::Put {
            cas: cas.filter(|_| matches!(item, Item::Mutable { .. })),
            item,
        }),
    ];
    (family, op).prop_map(|(family, op)| Request { family, op })
}

fn peer() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from)
    ];
    (ip, 1..=u16::MAX).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

/// Anything but the end.
fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        vec(peer(), 1..=MAX_PEERS).prop_map(Record::Peers),
        item().prop_map(Record::Item)
    ]
}

fn summary() -> impl Strategy<Value = Summary> {
    any::<(u16, u16, u16)>().prop_map(|(asked, answered, stored)| Summary {
        asked,
        answered,
        stored,
    })
}

proptest! {
    #[test]
    fn requests_read_back(request in request()) {
        let encoded = request.encode().unwrap();
        prop_assert!(encoded.len() <= MAX_REQUEST);
        prop_assert_eq!(Request::decode(&encoded), Ok(request));
    }

    #[test]
    fn a_request_that_is_cut_or_goes_on_is_refused(request in request(), cut: prop::sample::Index) {
        let mut encoded = request.encode().unwrap();
        let cut = cut.index(encoded.len());
        prop_assert!(Request::decode(&encoded[..cut]).is_err());
        encoded.push(0);
        prop_assert_eq!(Request::decode(&encoded), Err(DhtError::Trailing));
    }

    #[test]
    fn a_request_that_decodes_encodes_to_the_same_bytes(
        op in 0u8..5, family in prop_oneof![Just(4u8), Just(6), any::<u8>()],
        rest in vec(prop_oneof![Just(0u8), 0u8..3, any::<u8>()], 0..200),
    ) {
        let bytes = [&[op, family][..], &rest].concat();
        if let Ok(request) = Request::decode(&bytes) {
            prop_assert_eq!(request.encode(), Ok(bytes));
        }
    }

    #[test]
    fn records_read_back_in_whatever_pieces_they_come(
        records in vec(record(), 0..6), last in summary(), pieces in vec(1usize..200, 1..20),
    ) {
        let records = [records, vec![Record::End(last)]].concat();
        let bytes: Vec<u8> = records.iter().flat_map(|record| record.encode().unwrap()).collect();
        let (mut reader, mut read) = (Reader::default(), Vec::new());
        let (mut rest, mut pieces) = (&bytes[..], pieces.iter().cycle());
        while !rest.is_empty() {
            prop_assert!(!reader.is_ended());
            let (piece, after) = rest.split_at((*pieces.next().unwrap()).min(rest.len()));
            rest = after;
            reader.push(piece);
            while let Some(record) = reader.next().unwrap() {
                read.push(record);
            }
            prop_assert!(reader.bytes.len() <= RECORD_HEADER + MAX_RECORD + 200);
        }
        prop_assert_eq!(read, records);
        prop_assert!(reader.is_ended());
        reader.push(&[1]);
        prop_assert_eq!(reader.next(), Err(DhtError::AfterEnd));
    }

    #[test]
    fn a_record_that_decodes_encodes_to_the_same_bytes(
        kind in 0u8..5, payload in vec(prop_oneof![Just(0u8), 0u8..3, any::<u8>()], 0..120),
    ) {
        let mut bytes = vec![kind, 0, payload.len() as u8];
        bytes.extend_from_slice(&payload);
        let mut reader = Reader::default();
        reader.push(&bytes);
        if let Ok(record) = reader.next() {
            prop_assert_eq!(record.unwrap().encode(), Ok(bytes));
        }
    }
}

const PEER: [u8; 7] = [1, 192, 0, 2, 1, 0x1a, 0xe1];

fn read(parts: &[&[u8]]) -> Result<Option<Record>, DhtError> {
    let mut reader = Reader::default();
    reader.push(&parts.concat());
    reader.next()
}

#[test]
fn lengths_stand_in_the_wire_as_bytes_and_shorts() {
    const { assert!(MAX_SALT < 256 && MAX_VALUE < 65_536 && MAX_RECORD < 65_536) };
    const { assert!(MAX_REQUEST == 1183 && MAX_RECORD == 1216) };
}

#[test]
fn requests_out_of_bounds_are_neither_made_nor_read() {
    let immutable = |len| Item::Immutable {
        value: vec![1; len],
    };
    let mutable = |salt, seq| Item::Mutable {
        key: [1; 32],
        salt: vec![2; salt],
        seq,
        signature: [3; 64],
        value: vec![4],
    };
    let put = |item, cas| Request {
        family: Family::V4,
        op: Op::Put { item, cas },
    };
    let get = Op::Get {
        target: [1; 20],
        salt: vec![0; MAX_SALT + 1],
    };
    for bad in [
        put(immutable(0), None),
        put(immutable(MAX_VALUE + 1), None),
        put(immutable(1), Some(1)),
        put(mutable(MAX_SALT + 1, 0), None),
        put(mutable(0, MAX_SEQ + 1), None),
        put(mutable(0, 0), Some(MAX_SEQ + 1)),
        Request {
            family: Family::V6,
            op: get,
        },
    ] {
        assert_eq!(bad.encode(), Err(DhtError::Bounds));
    }
    let longest = put(mutable(MAX_SALT, MAX_SEQ), Some(MAX_SEQ));
    assert!(longest.encode().is_ok());

    let decode = |parts: &[&[u8]]| Request::decode(&parts.concat());
    let target = [7; 20];
    assert!(decode(&[&[1, 4], &target]).is_ok());
    assert_eq!(decode(&[&[1, 5], &target]), Err(DhtError::Unknown(5)));
    assert_eq!(decode(&[&[4, 4], &target]), Err(DhtError::Unknown(4)));
    let salt = [1; 65];
    assert_eq!(
        decode(&[&[2, 4], &target, &[65], &salt]),
        Err(DhtError::Bounds)
    );
    assert!(decode(&[&[3, 4, 0, 1, 0, 1, 9]]).is_ok());
    assert_eq!(decode(&[&[3, 4, 2, 1, 0, 1, 9]]), Err(DhtError::Unknown(2)));
    assert_eq!(decode(&[&[3, 4, 0, 3, 0, 1, 9]]), Err(DhtError::Unknown(3)));
    assert_eq!(decode(&[&[3, 4, 0, 1, 0, 0]]), Err(DhtError::Bounds));
    // A swap of what can't change.
    let swap = [[3, 4, 1].as_slice(), &[0; 8], &[1, 0, 1, 9]].concat();
    assert_eq!(Request::decode(&swap), Err(DhtError::Bounds));
}

#[test]
fn records_out_of_bounds_are_neither_made_nor_read() {
    let peer: SocketAddr = "192.0.2.1:6881".parse().unwrap();
    let nobody: SocketAddr = "192.0.2.1:0".parse().unwrap();
    assert_eq!(Record::Peers(Vec::new()).encode(), Err(DhtError::Bounds));
    let many = Record::Peers(vec![peer; MAX_PEERS + 1]);
    assert_eq!(many.encode(), Err(DhtError::Bounds));
    assert_eq!(Record::Peers(vec![nobody]).encode(), Err(DhtError::Peer));

    let one = read(&[&[1, 0, 7], &PEER]);
    assert_eq!(one, Ok(Some(Record::Peers(vec![peer]))));
    assert_eq!(read(&[&[1, 0, 0]]), Err(DhtError::Bounds));
    let many = PEER.repeat(MAX_PEERS + 1);
    let length = (many.len() as u16).to_be_bytes();
    assert_eq!(read(&[&[1], &length, &many]), Err(DhtError::Bounds));
    let nobody = [1, 192, 0, 2, 1, 0, 0];
    assert_eq!(read(&[&[1, 0, 7], &nobody]), Err(DhtError::Peer));
    let name = [3, 1, b'a', 0, 1];
    assert_eq!(read(&[&[1, 0, 5], &name]), Err(DhtError::Peer));
    assert_eq!(read(&[&[1, 0, 1, 0]]), Err(DhtError::Peer));
    let cut = DhtError::Target(TargetError::CutOff);
    assert_eq!(read(&[&[1, 0, 6], &PEER[..6]]), Err(cut));
    assert_eq!(read(&[&[3, 0, 7], &[0; 7]]), Err(DhtError::Trailing));
    assert_eq!(read(&[&[3, 0, 5], &[0; 5]]), Err(DhtError::CutOff));
    assert_eq!(read(&[&[4, 0, 0]]), Err(DhtError::Unknown(4)));
}

#[test]
fn a_record_longer_than_any_is_refused_before_it_is_gathered() {
    let length = (MAX_RECORD as u16 + 1).to_be_bytes();
    assert_eq!(read(&[&[1], &length]), Err(DhtError::TooLong));
    let length = (MAX_RECORD as u16).to_be_bytes();
    assert_eq!(read(&[&[1], &length]), Ok(None));
}

#[test]
fn an_answer_that_never_ends_is_refused() {
    let record = [&[1, 0, 7][..], &PEER].concat();
    let (mut reader, mut taken) = (Reader::default(), 0);
    let refused = loop {
        reader.push(&record);
        match reader.next() {
            Ok(_) => taken += record.len(),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, DhtError::TooLong);
    assert!(taken <= MAX_ANSWER && taken + 2 * record.len() > MAX_ANSWER);
}

#[test]
fn nothing_shows_in_debug_output() {
    let item = Item::Immutable {
        value: b"3:abc".to_vec(),
    };
    let request = Request {
        family: Family::V4,
        op: Op::Peers { target: [0xab; 20] },
    };
    let peers = Record::Peers(vec!["198.51.100.77:6881".parse().unwrap()]);
    let shown = format!(
        "{item:?} {request:?} {peers:?} {:?}",
        Record::Item(item.clone())
    );
    for secret in ["abc", "97, 98", "171", "198.51", "6881"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
