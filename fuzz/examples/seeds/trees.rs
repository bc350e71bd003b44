//! Requests for hashes of version 2 torrents.

use hushswarm::torrent::v2::request::HashRequest;
use hushswarm::torrent::wire::MessageRef;

use super::Seeds;

/// Requests of a file of 32 blocks in pieces of four: for all pieces, for the blocks of the third, and what nobody has.
pub fn hash_requests() -> Seeds {
    let request = |[base, index, count, proofs]: [u32; 4]| {
        let request = HashRequest {
            root: [0; 32],
            base,
            index,
            count,
            proofs,
        };
        let mut out = vec![10, 2];
        request.encode(&mut out);
        out
    };
    vec![
        ("pieces", request([2, 0, 8, 2])),
        ("blocks", request([0, 8, 4, 4])),
        ("beyond", request([9, 512, 512, 3])),
        ("answer", [request([2, 0, 8, 2]), vec![7; 256]].concat()),
    ]
}

pub fn hash_messages() -> Vec<u8> {
    let request = HashRequest {
        root: [5; 32],
        base: 2,
        index: 512,
        count: 2,
        proofs: 3,
    };
    let mut out = vec![15];
    MessageRef::HashRequest(request).encode(&mut out);
    MessageRef::Hashes(request, &[6; 160]).encode(&mut out);
    MessageRef::HashReject(request).encode(&mut out);
    out
}
