//! What a client and a hidden peer say to each other.

use hushswarm::torrent::infohash::InfoHash;
use hushswarm::torrent::wire::{Handshake, MessageRef};
use hushswarm_fuzz::targets::HASH;

use super::Seeds;

/// What a client says and what a hidden peer answers, in chunks.
pub fn visits() -> Seeds {
    let handshake = Handshake {
        hash: InfoHash(HASH),
        peer_id: [b'q'; 20],
        reserved: [0, 0, 0, 0, 0, 0x10, 0, 5],
    };
    let dict = b"d4:ipv44:\x05\x06\x07\x081:md11:lt_donthavei7e11:ut_metadatai2e6:ut_pexi1ee\
        13:metadata_sizei31235e1:pi6881e4:reqqi500e11:upload_onlyi1e1:v2:me6:yourip4:\x7f\x41\x02\x03e";
    let mut said = handshake.encode().to_vec();
    for (id, payload) in [
        (0, &dict[..]),
        (2, b"d8:msg_typei0e5:piecei0ee"),
        (1, b"de"),
    ] {
        MessageRef::Extended { id, payload }.encode(&mut said);
    }
    MessageRef::Port(6881).encode(&mut said);
    MessageRef::Have(7).encode(&mut said);
    MessageRef::KeepAlive.encode(&mut said);
    let visit = |len: usize| {
        let turns = said.chunks(len).flat_map(|chunk| {
            let len = chunk.len() as u8;
            [&[len][..], chunk, &[len | 0x80], chunk].concat()
        });
        turns.collect::<Vec<u8>>()
    };
    vec![("long", visit(127)), ("short", visit(5))]
}
