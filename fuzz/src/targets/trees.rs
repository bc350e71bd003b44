//! Trees of hashes of version 2 torrents.

use hushswarm::torrent::infohash::InfoHashV2;
use hushswarm::torrent::picker::PeerKey;
use hushswarm::torrent::v2::fetch::{LayerFetch, Outcome};
use hushswarm::torrent::v2::merkle::{Hash, Tree, climb, sha256};
use hushswarm::torrent::v2::request::{HashRequest, MAX_ANSWER};
use hushswarm::torrent::v2::{Answer, HashedFiles};
use hushswarm::torrent::wire::BLOCK;

use super::first;

/// Trees of hashes (BEP 52): what is given to others proves itself, and nothing that others give is believed that does not.
pub fn hash_trees(input: &[u8]) {
    let (count, input) = first(input);
    let (level, input) = first(input);
    let (blocks, level) = (u32::from(count) * 3 + 2, u32::from(level % 4));
    let leaves: Vec<Hash> = (0..blocks).map(|n| sha256(&n.to_be_bytes())).collect();
    let root = Tree::new(0, leaves.clone()).root();
    let mut unknown = HashedFiles::new(InfoHashV2([1; 32]), BLOCK << level);
    unknown.push(root, 0, u64::from(blocks * BLOCK));
    let mut known = unknown.clone();
    let parts = leaves.chunks(1 << level);
    let layer = parts.map(|part| climb(0, part, level)).collect();
    known.learn(0, layer).unwrap();
    let Some((request, rest)) = HashRequest::parse(input) else {
        return;
    };
    let request = HashRequest { root, ..request };
    let given = match known.answer(&request) {
        Answer::Hashes(hashes) => Some(hashes),
        Answer::NeedsPiece(piece) => {
            let own = leaves.chunks(1 << level).nth(piece as usize).unwrap();
            known.answer_with(&request, own.to_vec())
        }
        Answer::Reject => None,
    };
    let (said, _) = rest.as_chunks::<32>();
    if let Some(mut hashes) = given {
        assert!(hashes.len() <= MAX_ANSWER / 32);
        let whole = known.proves(&request, &hashes);
        assert_eq!(unknown.proves(&request, &hashes), whole);
        assert!(!known.proves(&request, said) || said == hashes);
        let last = hashes.last_mut().unwrap();
        last[0] ^= 1;
        assert!(
            !known.proves(&request, &hashes),
            "another hash proves as much"
        );
    }
    let mut fetch = LayerFetch::new(unknown);
    let (now, peer) = (std::time::Instant::now(), PeerKey(1));
    if let Some(request) = fetch.next(now, peer) {
        let done = fetch.received(peer, &request, said);
        assert!(matches!(done, Outcome::Liar) || known.proves(&request, said));
        if let Outcome::Done(files) = done {
            assert_eq!(*files, known);
        }
    }
}
