#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

const REF: BlockRef = BlockRef {
    index: 1,
    begin: 0x4000,
    len: 0x4000,
};

const HASHES: HashRequest = HashRequest {
    root: [b'R'; 32],
    base: 2,
    index: 512,
    count: 1,
    proofs: 3,
};

/// Each message and its bytes, by hand from BEP 3, 6, 10 and 52.
fn golden() -> Vec<(Message, &'static [u8])> {
    vec![
        (Message::KeepAlive, b"\0\0\0\0"),
        (Message::Choke, b"\0\0\0\x01\0"),
        (Message::Unchoke, b"\0\0\0\x01\x01"),
        (Message::Interested, b"\0\0\0\x01\x02"),
        (Message::NotInterested, b"\0\0\0\x01\x03"),
        (Message::Have(0x0102), b"\0\0\0\x05\x04\0\0\x01\x02"),
        (
            Message::Bitfield(vec![0xf0, 0x80]),
            b"\0\0\0\x03\x05\xf0\x80",
        ),
        (
            Message::Request(REF),
            b"\0\0\0\x0d\x06\0\0\0\x01\0\0\x40\0\0\0\x40\0",
        ),
        (
            Message::Piece {
                index: 1,
                begin: 0x4000,
                data: b"xyz".to_vec(),
            },
            b"\0\0\0\x0c\x07\0\0\0\x01\0\0\x40\0xyz",
        ),
        (
            Message::Cancel(REF),
            b"\0\0\0\x0d\x08\0\0\0\x01\0\0\x40\0\0\0\x40\0",
        ),
        (Message::Port(6881), b"\0\0\0\x03\x09\x1a\xe1"),
        (Message::Suggest(0x0102), b"\0\0\0\x05\x0d\0\0\x01\x02"),
        (Message::HaveAll, b"\0\0\0\x01\x0e"),
        (Message::HaveNone, b"\0\0\0\x01\x0f"),
        (
            Message::Reject(REF),
            b"\0\0\0\x0d\x10\0\0\0\x01\0\0\x40\0\0\0\x40\0",
        ),
        (Message::AllowedFast(0x0102), b"\0\0\0\x05\x11\0\0\x01\x02"),
        (
            Message::Extended {
                id: 3,
                payload: b"de".to_vec(),
            },
            b"\0\0\0\x04\x14\x03de",
        ),
        (
            Message::HashRequest(HASHES),
            b"\0\0\0\x31\x15RRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRR\0\0\0\x02\0\0\x02\0\0\0\0\x01\0\0\0\x03",
        ),
        (
            Message::Hashes(HASHES, vec![b'h'; 32]),
            b"\0\0\0\x51\x16RRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRR\0\0\0\x02\0\0\x02\0\0\0\0\x01\0\0\0\x03\
hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh",
        ),
        (
            Message::HashReject(HASHES),
            b"\0\0\0\x31\x17RRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRR\0\0\0\x02\0\0\x02\0\0\0\0\x01\0\0\0\x03",
        ),
    ]
}

fn all(decoder: &mut Decoder) -> Result<Vec<Message>, WireError> {
    let mut out = Vec::new();
    while let Some(message) = decoder.next()? {
        out.push(message.to_message());
    }
    Ok(out)
}

#[test]
fn messages_have_the_bytes_of_the_specification() {
    for (message, bytes) in golden() {
        let mut out = Vec::new();
        message.encode(&mut out);
        assert_eq!(out, bytes, "{message:?}");
        let mut decoder = Decoder::new();
        decoder.feed(bytes);
        assert_eq!(all(&mut decoder), Ok(vec![message]));
        assert_eq!(decoder.buffered(), 0);
    }
}

#[test]
fn messages_of_extensions_that_nobody_knows_are_passed_over() {
    let mut decoder = Decoder::new();
    // A number of the fast extension that it left out, then one that nobody uses, then one we know.
    decoder.feed(b"\0\0\0\x01\x0c\0\0\0\x04\xc8abc\0\0\0\x01\x01");
    let expected = vec![
        Message::Unknown(12),
        Message::Unknown(200),
        Message::Unchoke,
    ];
    assert_eq!(all(&mut decoder), Ok(expected));
}

#[test]
fn lengths_that_no_message_has_are_refused_at_the_header() {
    for (len, id) in [
        (2, 0),
        (4, 4),
        (6, 4),
        (1, 5),
        (MAX_BITFIELD + 2, 5),
        (12, 6),
        (9, 7),
        (MAX_BLOCK + 10, 7),
        (14, 8),
        (4, 13),
        (2, 14),
        (2, 15),
        (12, 16),
        (6, 17),
        (1, 20),
        (MAX_EXTENDED + 3, 20),
        (48, 21),
        (48, 22),
        (50, 22),
        (MAX_ANSWER as u32 + 33, 22),
        (81, 23),
        (MAX_UNKNOWN + 2, 99),
        (u32::MAX, 7),
        (u32::MAX, 255),
    ] {
        let mut decoder = Decoder::new();
        decoder.feed(&len.to_be_bytes());
        decoder.feed(&[id]);
        assert_eq!(decoder.next(), Err(WireError::Length { id, len }));
        assert_eq!(
            decoder.next(),
            Err(WireError::Length { id, len }),
            "and again"
        );
    }
}

#[test]
fn the_longest_messages_pass_and_their_buffer_is_given_back() {
    let block = vec![7; MAX_BLOCK as usize];
    let payload = vec![8; MAX_EXTENDED as usize];
    let bits = vec![0xff; MAX_BITFIELD as usize];
    let messages = [
        MessageRef::Bitfield(&bits),
        MessageRef::Extended {
            id: 1,
            payload: &payload,
        },
        MessageRef::Piece {
            index: 0,
            begin: 0,
            data: &block,
        },
    ];
    let mut decoder = Decoder::new();
    for message in messages {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        decoder.feed(&bytes);
        assert_eq!(decoder.next(), Ok(Some(message)));
        assert!(decoder.space().len() <= LARGE_BUFFER);
    }
}

#[test]
fn a_rush_gets_a_larger_buffer_and_gives_it_back_when_it_is_over() {
    let mut decoder = Decoder::new();
    let mut block = piece_header(1, 2, BLOCK).to_vec();
    block.extend_from_slice(&[7; BLOCK as usize]);
    let mut stream = block.iter().copied().cycle();
    let mut largest = 0;
    for _ in 0..10 {
        let space = decoder.space();
        let len = space.len();
        largest = largest.max(len);
        space
            .iter_mut()
            .for_each(|byte| *byte = stream.next().unwrap());
        decoder.filled(len);
        assert!(all(&mut decoder).is_ok());
    }
    assert!((LARGE_BUFFER - block.len()..=LARGE_BUFFER).contains(&largest));
    // What is left of a block, and then little.
    let rest = stream
        .take(block.len() - decoder.buffered())
        .collect::<Vec<_>>();
    decoder.feed(&rest);
    assert_eq!(all(&mut decoder).map(|said| said.len()), Ok(1));
    for _ in 0..=QUIET_READS {
        decoder.feed(&[0; 4]);
        assert_eq!(all(&mut decoder), Ok(vec![Message::KeepAlive]));
    }
    assert_eq!(decoder.space().len(), BUFFER);
}

#[test]
fn a_header_alone_costs_no_memory() {
    let mut decoder = Decoder::new();
    decoder.feed(&(MAX_EXTENDED + 2).to_be_bytes());
    decoder.feed(&[20, 0]);
    assert_eq!(decoder.next(), Ok(None));
    assert!(decoder.space().len() <= BUFFER);
    decoder.feed(&vec![0; 100_000]);
    assert_eq!(decoder.next(), Ok(None));
    assert!(decoder.buf.len() <= LARGE_BUFFER);
}

#[test]
fn blocks_are_lent_from_the_buffer() {
    let mut decoder = Decoder::new();
    decoder.feed(&piece_header(1, 2, 5));
    decoder.feed(b"block");
    let range = decoder.buf.as_ptr_range();
    let message = decoder.next().unwrap().unwrap();
    let MessageRef::Piece {
        index: 1,
        begin: 2,
        data,
    } = message
    else {
        panic!("{message:?}")
    };
    assert_eq!(data, b"block");
    assert!(range.contains(&data.as_ptr()));
}

#[test]
fn handshakes_have_the_bytes_of_the_specification() {
    let ours = Handshake::new(InfoHash([0xaa; 20]), [0xbb; 20]);
    let mut bytes =
        *b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x04________________________________________";
    bytes[28..48].fill(0xaa);
    bytes[48..].fill(0xbb);
    assert_eq!(ours.encode(), bytes);
    let read = Handshake::decode(&bytes).unwrap();
    assert!(read == ours && read.supports_extensions() && read.supports_fast());
    (bytes[25], bytes[27]) = (0xef, 0xfb);
    let read = Handshake::decode(&bytes).unwrap();
    assert!(!read.supports_extensions() && !read.supports_fast());
    bytes[19] = b'L';
    assert_eq!(Handshake::decode(&bytes), Err(WireError::NotBitTorrent));
}

#[test]
fn blocks_outside_their_piece_do_not_fit() {
    let fits = |begin, len| {
        BlockRef {
            index: 0,
            begin,
            len,
        }
        .fits(100_000)
    };
    assert!(fits(0, BLOCK) && fits(99_999, 1));
    assert!(!fits(0, 0) && !fits(99_999, 2) && !fits(u32::MAX, BLOCK) && !fits(0, u32::MAX));
    assert!(
        !BlockRef {
            index: 0,
            begin: 0,
            len: MAX_BLOCK + 1
        }
        .fits(u32::MAX)
    );
}

#[test]
fn debug_output_shows_no_content() {
    let messages = [
        Message::Extended {
            id: 1,
            payload: b"secret".to_vec(),
        },
        Message::Piece {
            index: 0,
            begin: 0,
            data: b"secret".to_vec(),
        },
    ];
    let hex = format!("{:?}", b"secret");
    let shown = format!(
        "{messages:?} {:?}",
        Handshake::new(InfoHash([1; 20]), *b"secretsecretsecretse")
    );
    assert!(
        !shown.contains("secret") && !shown.contains(&hex[1..hex.len() - 1]),
        "{shown}"
    );
}

fn messages() -> impl Strategy<Value = Message> {
    let bytes = |max: usize| prop::collection::vec(any::<u8>(), 1..max);
    let block =
        any::<(u32, u32, u32)>().prop_map(|(index, begin, len)| BlockRef { index, begin, len });
    prop_oneof![
        prop::sample::select(vec![
            Message::KeepAlive,
            Message::Choke,
            Message::Unchoke,
            Message::Interested,
            Message::NotInterested,
            Message::HaveAll,
            Message::HaveNone,
        ]),
        any::<u32>().prop_map(Message::Have),
        any::<u32>().prop_map(Message::Suggest),
        any::<u32>().prop_map(Message::AllowedFast),
        any::<u16>().prop_map(Message::Port),
        bytes(300).prop_map(Message::Bitfield),
        block.clone().prop_map(Message::Request),
        block.clone().prop_map(Message::Cancel),
        block.prop_map(Message::Reject),
        (any::<u32>(), any::<u32>(), 1..40_000_usize, any::<u8>()).prop_map(
            |(index, begin, len, fill)| Message::Piece {
                index,
                begin,
                data: vec![fill; len]
            }
        ),
        (any::<u8>(), bytes(300)).prop_map(|(id, payload)| Message::Extended { id, payload }),
    ]
}

proptest! {
    #[test]
    fn messages_survive_any_fragmentation(
        messages in prop::collection::vec(messages(), 1..20),
        reads in prop::collection::vec(1..50_000_usize, 1..20),
    ) {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| message.encode(&mut bytes));
        let mut decoder = Decoder::new();
        let mut read = Vec::new();
        let mut rest = &bytes[..];
        for len in reads.into_iter().cycle() {
            let space = decoder.space();
            prop_assert!(!space.is_empty());
            let len = len.min(space.len()).min(rest.len());
            space[..len].copy_from_slice(&rest[..len]);
            decoder.filled(len);
            rest = &rest[len..];
            read.extend(all(&mut decoder).unwrap());
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(read, messages);
        prop_assert_eq!(decoder.buffered(), 0);
    }

    #[test]
    fn hostile_bytes_never_panic_and_never_grow_the_buffer_much(
        chunks in prop::collection::vec(
            (prop::option::of(0..300_u32), prop::collection::vec(any::<u8>(), 0..40)), 0..30),
    ) {
        let mut decoder = Decoder::new();
        for (len, bytes) in chunks {
            if let Some(len) = len {
                decoder.feed(&len.to_be_bytes());
            }
            decoder.feed(&bytes);
            if all(&mut decoder).is_err() {
                break;
            }
            prop_assert!(decoder.buf.len() <= BUFFER);
        }
    }

    #[test]
    fn any_68_bytes_are_a_handshake_or_refused(bytes in prop::array::uniform32(any::<u8>()), plain: bool) {
        let mut handshake = Handshake::new(InfoHash([1; 20]), [2; 20]).encode();
        let at = if plain { 20 } else { 10 };
        handshake[at..at + 32].copy_from_slice(&bytes);
        if let Ok(read) = Handshake::decode(&handshake) {
            prop_assert_eq!(read.encode(), handshake);
        }
    }
}
