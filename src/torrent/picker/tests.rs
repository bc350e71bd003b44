#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

const A: PeerKey = PeerKey(1);
const B: PeerKey = PeerKey(2);
const C: PeerKey = PeerKey(3);

fn geometry(pieces: u32, blocks: u32) -> Geometry {
    let piece_len = blocks * BLOCK;
    Geometry {
        piece_len,
        total: u64::from(pieces) * u64::from(piece_len) - 100,
        pieces,
        short: None,
    }
}

fn picker(pieces: u32, blocks: u32) -> Picker {
    Picker::new(geometry(pieces, blocks), Bits::new(pieces), 7)
}

fn pick(picker: &mut Picker, peer: PeerKey, have: &Bits, count: usize) -> Vec<BlockRef> {
    let mut out = Vec::new();
    picker.pick(peer, have, 0, count, &mut out);
    out
}

fn bits(len: u32, pieces: &[u32]) -> Bits {
    let mut bits = Bits::new(len);
    pieces.iter().for_each(|&piece| {
        bits.set(piece);
    });
    bits
}

/// Has a piece verified, out of the way.
fn had(pieces: u32, first: u32) -> Bits {
    let mut bits = Bits::new(pieces);
    (0..first).for_each(|piece| {
        bits.set(piece);
    });
    bits
}

fn give(picker: &mut Picker, peer: PeerKey, blocks: &[BlockRef]) {
    for &block in blocks {
        assert!(matches!(
            picker.received(peer, block),
            Received::Taken { .. }
        ));
    }
}

#[test]
fn the_rarest_piece_comes_first() {
    let mut picker = Picker::new(geometry(10, 1), had(10, 4), 7);
    let full = Bits::full(10);
    picker.add_peer(&full);
    picker.add_peer(&bits(10, &[4, 5, 6, 7, 9]));
    picker.add_peer(&bits(10, &[4, 5, 6, 9]));
    let order: Vec<u32> = pick(&mut picker, A, &full, 3)
        .iter()
        .map(|b| b.index)
        .collect();
    assert_eq!(order[..2], [8, 7]);
}

#[test]
fn a_piece_that_becomes_common_loses_its_rank() {
    let mut picker = Picker::new(geometry(6, 1), had(6, 4), 7);
    let full = Bits::full(6);
    let mut growing = bits(6, &[5]);
    picker.add_peer(&growing);
    assert!(growing.set(4));
    picker.add_piece(&growing, 4);
    picker.add_peer(&bits(6, &[4]));
    assert_eq!(pick(&mut picker, A, &full, 1)[0].index, 5);
    let left = bits(6, &[4]);
    picker.remove_peer(&left);
    assert_eq!(picker.availability[4], 1);
}

#[test]
fn a_peer_that_completes_counts_as_a_seed() {
    let mut picker = picker(3, 1);
    let mut growing = bits(3, &[0, 1]);
    picker.add_peer(&growing);
    growing.set(2);
    picker.add_piece(&growing, 2);
    assert_eq!(
        (picker.seeds, &picker.availability[..]),
        (1, &[0_u16; 3][..])
    );
    picker.remove_peer(&growing);
    assert_eq!(picker.seeds, 0);
}

#[test]
fn begun_pieces_are_finished_before_new_ones() {
    let mut picker = picker(20, 4);
    let full = Bits::full(20);
    picker.add_peer(&full);
    let first = pick(&mut picker, A, &full, 1)[0];
    let next = pick(&mut picker, B, &full, 3);
    assert!(next.iter().all(|block| block.index == first.index));
}

#[test]
fn released_blocks_are_asked_for_again() {
    let mut picker = picker(2, 2);
    let full = Bits::full(2);
    picker.add_peer(&full);
    let mut blocks = pick(&mut picker, A, &full, 4);
    assert_eq!(blocks.len(), 4);
    picker.release(A, blocks.clone());
    let mut again = pick(&mut picker, B, &full, 4);
    blocks.sort();
    again.sort();
    assert_eq!(again, blocks);
}

#[test]
fn in_the_end_game_a_block_is_asked_of_two_more_and_taken_back_when_it_comes() {
    let mut picker = picker(1, 2);
    let full = Bits::full(1);
    picker.add_peer(&full);
    let blocks = pick(&mut picker, A, &full, 2);
    assert_eq!(pick(&mut picker, B, &full, 9).len(), 2);
    assert_eq!(pick(&mut picker, C, &full, 9).len(), 2);
    assert_eq!(pick(&mut picker, PeerKey(4), &full, 9), []);
    assert_eq!(
        pick(&mut picker, A, &full, 9),
        [],
        "never twice of one peer"
    );
    let taken = picker.received(B, blocks[0]);
    assert_eq!(taken, Received::Taken { cancel: vec![A, C] });
    assert_eq!(picker.received(A, blocks[0]), Received::Unneeded);
    picker.release(A, [blocks[1]]);
    picker.release(B, [blocks[1]]);
    let taken = picker.received(C, blocks[1]);
    assert_eq!(taken, Received::Taken { cancel: vec![] });
    assert!(picker.is_waiting(0));
}

#[test]
fn there_is_no_end_game_while_blocks_are_free() {
    let mut picker = picker(2, 1);
    picker.add_peer(&bits(2, &[0]));
    picker.add_peer(&bits(2, &[1]));
    assert_eq!(pick(&mut picker, A, &bits(2, &[0]), 9).len(), 1);
    assert_eq!(pick(&mut picker, B, &bits(2, &[0]), 9), []);
    picker.remove_peer(&bits(2, &[1]));
    assert_eq!(
        pick(&mut picker, B, &bits(2, &[0]), 9).len(),
        1,
        "nobody has the other piece"
    );
}

#[test]
fn who_alone_gave_a_bad_piece_is_named() {
    let mut picker = picker(1, 2);
    let full = Bits::full(1);
    picker.add_peer(&full);
    let blocks = pick(&mut picker, A, &full, 2);
    give(&mut picker, A, &blocks);
    assert_eq!(picker.failed(0, vec![[0; 16]; 2]), Some(A));
    assert_eq!(pick(&mut picker, B, &full, 2).len(), 2);
}

#[test]
fn a_bad_piece_of_several_peers_is_fetched_from_one_and_the_digests_name_the_liar() {
    let mut picker = picker(1, 2);
    let full = Bits::full(1);
    picker.add_peer(&full);
    let first = pick(&mut picker, A, &full, 1);
    let second = pick(&mut picker, B, &full, 1);
    give(&mut picker, A, &first);
    give(&mut picker, B, &second);
    assert_eq!(picker.failed(0, vec![[1; 16], [9; 16]]), None);
    let alone = pick(&mut picker, C, &full, 1);
    assert_eq!(pick(&mut picker, A, &full, 9), [], "C alone is asked");
    let rest = pick(&mut picker, C, &full, 1);
    give(&mut picker, C, &alone);
    give(&mut picker, C, &rest);
    assert_eq!(picker.passed(0, &[[1; 16], [2; 16]]), [B]);
    assert!(picker.is_done());
}

#[test]
fn when_the_one_peer_of_a_retried_piece_leaves_another_takes_over() {
    let mut picker = picker(1, 2);
    let full = Bits::full(1);
    picker.add_peer(&full);
    let first = pick(&mut picker, A, &full, 1);
    let second = pick(&mut picker, B, &full, 1);
    give(&mut picker, A, &first);
    give(&mut picker, B, &second);
    picker.failed(0, vec![]);
    let alone = pick(&mut picker, C, &full, 2);
    give(&mut picker, C, &alone[..1]);
    picker.release(C, alone[1..].to_vec());
    assert_eq!(pick(&mut picker, A, &full, 2), alone[1..]);
}

#[test]
fn a_retried_piece_is_anybodys_when_its_peer_leaves_owing_nothing() {
    let mut picker = picker(1, 2);
    let full = Bits::full(1);
    picker.add_peer(&full);
    let first = pick(&mut picker, A, &full, 1);
    let second = pick(&mut picker, B, &full, 1);
    give(&mut picker, A, &first);
    give(&mut picker, B, &second);
    picker.failed(0, vec![]);
    let alone = pick(&mut picker, C, &full, 1);
    give(&mut picker, C, &alone);
    assert_eq!(pick(&mut picker, A, &full, 2), []);
    picker.release(C, []);
    assert_eq!(pick(&mut picker, A, &full, 2), second);
}

#[test]
fn unwanted_pieces_are_not_picked_until_wanted() {
    let mut picker = picker(2, 1);
    let full = Bits::full(2);
    picker.add_peer(&full);
    assert_eq!(picker.set_priority(0, Priority::Skip), []);
    let blocks = pick(&mut picker, A, &full, 9);
    assert!(blocks.iter().all(|b| b.index == 1) && blocks.len() == 1);
    give(&mut picker, A, &blocks);
    picker.passed(1, &[]);
    assert!(picker.is_done() && !picker.is_interesting(&full));
    assert_eq!(picker.set_priority(0, Priority::Normal), []);
    assert!(picker.is_interesting(&full) && !picker.is_done());
}

#[test]
fn a_peer_with_little_among_many_pieces_is_still_served() {
    let pieces = 100_000;
    let mut picker = Picker::new(geometry(pieces, 1), had(pieces, 4), 7);
    let mut rare = Bits::full(pieces);
    rare.clear(77_777);
    picker.add_peer(&rare);
    let mut common = bits(pieces, &[77_777]);
    picker.add_peer(&common);
    picker.add_peer(&common);
    assert_eq!(pick(&mut picker, A, &common, 5)[0].index, 77_777);
    common.clear(77_777);
    assert_eq!(pick(&mut picker, A, &common, 5), []);
}

#[derive(Clone, Debug)]
enum Step {
    Pick { peer: usize, count: usize },
    Give { peer: usize, at: usize },
    Release { peer: usize },
    Leave { peer: usize },
    Verdict { good: bool },
    Want { piece: u32, priority: Priority },
    Raise { from: u32, to: u32 },
    InOrder { on: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let peer = 0_usize..4;
    let priority = prop::sample::select(vec![
        Priority::Skip,
        Priority::Low,
        Priority::Normal,
        Priority::High,
    ]);
    let step = prop_oneof![
        4 => (peer.clone(), 1_usize..6).prop_map(|(peer, count)| Step::Pick { peer, count }),
        6 => (peer.clone(), 0_usize..4).prop_map(|(peer, at)| Step::Give { peer, at }),
        1 => peer.clone().prop_map(|peer| Step::Release { peer }),
        1 => peer.prop_map(|peer| Step::Leave { peer }),
        2 => any::<bool>().prop_map(|good| Step::Verdict { good }),
        2 => (0_u32..6, priority).prop_map(|(piece, priority)| Step::Want { piece, priority }),
        1 => (0_u32..6, 0_u32..7).prop_map(|(from, to)| Step::Raise { from, to }),
        1 => any::<bool>().prop_map(|on| Step::InOrder { on }),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    /// Never asks for what is had, never asks a peer for what it lacks or twice at once, asks several only in the end
    /// game; and in the end every block comes.
    #[test]
    fn every_missing_block_is_asked_for_and_none_needlessly(
        sets in prop::collection::vec(prop::collection::vec(any::<bool>(), 6), 3),
        script in steps(),
        seed: u64,
    ) {
        let pieces = 6;
        let geometry = geometry(pieces, 3);
        let mut picker = Picker::new(geometry.clone(), had(pieces, 1), seed);
        // The last peer has everything, so that an end exists.
        let mut haves = vec![Bits::full(pieces); 4];
        for (have, set) in haves.iter_mut().zip(&sets) {
            for (piece, _) in set.iter().enumerate().filter(|(_, has)| !**has) {
                have.clear(piece as u32);
            }
        }
        haves.iter().for_each(|have| picker.add_peer(have));
        let mut asked: Vec<Vec<BlockRef>> = vec![Vec::new(); 4];
        let finale = (0..pieces).map(|piece| Step::Want { piece, priority: Priority::Normal });
        let finale = finale.chain((0..400).flat_map(|_| [
            Step::Release { peer: 0 },
            Step::Release { peer: 1 },
            Step::Release { peer: 2 },
            Step::Pick { peer: 3, count: 4 },
            Step::Give { peer: 3, at: 0 },
            Step::Verdict { good: true },
        ]));
        for step in script.into_iter().chain(finale) {
            match step {
                Step::Pick { peer, count } => {
                    let mut out = Vec::new();
                    picker.pick(PeerKey(peer as u32), &haves[peer], asked[peer].len(), count, &mut out);
                    prop_assert!(out.len() <= count);
                    for block in out {
                        prop_assert!(geometry.number_of(block).is_some());
                        prop_assert!(haves[peer].get(block.index));
                        prop_assert!(!picker.had().get(block.index));
                        prop_assert!(picker.priority(block.index) != Priority::Skip);
                        prop_assert!(!asked[peer].contains(&block));
                        let others = asked.iter().filter(|list| list.contains(&block)).count();
                        prop_assert!(others < MAX_ASKED);
                        prop_assert!(others == 0 || picker.all_asked());
                        asked[peer].push(block);
                    }
                }
                Step::Give { peer, at } => {
                    if at < asked[peer].len() {
                        let block = asked[peer].remove(at);
                        match picker.received(PeerKey(peer as u32), block) {
                            Received::Taken { cancel } => {
                                for other in cancel {
                                    prop_assert!(other != PeerKey(peer as u32));
                                    asked[other.0 as usize].retain(|b| *b != block);
                                }
                            }
                            Received::Unneeded => {}
                        }
                    }
                }
                Step::Release { peer } => {
                    let blocks = std::mem::take(&mut asked[peer]);
                    picker.release(PeerKey(peer as u32), blocks);
                }
                Step::Leave { peer } => {
                    let blocks = std::mem::take(&mut asked[peer]);
                    picker.release(PeerKey(peer as u32), blocks);
                    picker.remove_peer(&haves[peer]);
                    picker.add_peer(&haves[peer]);
                }
                Step::Want { piece, priority } => {
                    for (peer, block) in picker.set_priority(piece, priority) {
                        let list = &mut asked[peer.0 as usize];
                        let before = list.len();
                        list.retain(|other| *other != block);
                        prop_assert_eq!(list.len() + 1, before, "nothing is taken back that was not asked for");
                    }
                }
                Step::Raise { from, to } => picker.raise(1, from..to),
                Step::InOrder { on } => picker.set_sequential(on),
                Step::Verdict { good } => {
                    let Some(piece) = (0..pieces).find(|&piece| picker.is_waiting(piece)) else { continue };
                    if good {
                        picker.passed(piece, &[[0; 16]; 3]);
                    } else {
                        picker.failed(piece, vec![[1; 16]; 3]);
                    }
                }
            }
            prop_assert!(picker.listing.is_consistent());
            let wanted = (0..pieces).filter(|piece| picker.priority(*piece) != Priority::Skip);
            let (mut bytes, mut had) = (0, 0);
            for piece in wanted {
                let len = u64::from(geometry.len_of(piece));
                bytes += len;
                had += if picker.had().get(piece) { len } else { 0 };
            }
            prop_assert_eq!((picker.wanted_bytes(), picker.wanted_had_bytes()), (bytes, had));
        }
        prop_assert!(picker.is_done(), "{:?}", picker);
        prop_assert_eq!(picker.had_bytes(), geometry.total);
    }
}

#[test]
fn the_liar_of_a_failed_piece_is_named_as_soon_as_its_blocks_are_known() {
    let (mut picker, all) = (picker(1, 2), Bits::full(1));
    let [a, b] = [PeerKey(1), PeerKey(2)];
    for peer in [a, b] {
        picker.add_peer(&all);
        let mut out = Vec::new();
        picker.pick(peer, &all, 0, 1, &mut out);
        assert!(matches!(
            picker.received(peer, out[0]),
            Received::Taken { .. }
        ));
    }
    assert_eq!(picker.failed(0, vec![[1; 16], [2; 16]]), None);
    assert_eq!(picker.blame(0, &[[1; 16], [3; 16]]), [b]);
    assert_eq!(picker.blame(0, &[[1; 16], [3; 16]]), []);
    // Both may give it again.
    let mut out = Vec::new();
    picker.pick(a, &all, 0, 1, &mut out);
    picker.pick(b, &all, 0, 1, &mut out);
    assert_eq!(out.len(), 2);
}

fn pieces(blocks: &[BlockRef]) -> Vec<u32> {
    blocks.iter().map(|block| block.index).collect()
}

#[test]
fn what_is_wanted_more_comes_first_however_common_it_is() {
    let mut picker = Picker::new(geometry(10, 1), had(10, 4), 7);
    let full = Bits::full(10);
    picker.add_peer(&full);
    // The rarest are wanted least.
    picker.add_peer(&bits(10, &[7, 8, 9]));
    for (piece, priority) in [(4, Priority::Low), (8, Priority::High), (5, Priority::Skip)] {
        picker.set_priority(piece, priority);
    }
    let order = pieces(&pick(&mut picker, A, &full, 9));
    assert_eq!((order[0], order[4], order.len()), (8, 4, 5));
    assert_eq!(order[1], 6, "the rarest of the others");
}

#[test]
fn what_is_skipped_is_taken_back_and_what_came_of_it_is_kept() {
    let mut picker = picker(2, 4);
    let full = Bits::full(2);
    picker.add_peer(&full);
    let blocks = pick(&mut picker, A, &full, 4);
    let piece = blocks[0].index;
    give(&mut picker, A, &blocks[..1]);
    let mut back = picker.set_priority(piece, Priority::Skip);
    back.sort();
    let owed: Vec<_> = blocks[1..].iter().map(|block| (A, *block)).collect();
    assert_eq!(back, owed);
    assert!(!picker.needs(piece));
    let other = pick(&mut picker, B, &full, 9);
    assert!(other.iter().all(|block| block.index != piece) && other.len() == 4);
    // It comes all the same, since it was on its way.
    give(&mut picker, A, &blocks[1..2]);
    assert_eq!(picker.received(A, blocks[1]), Received::Unneeded);
    assert_eq!(picker.set_priority(piece, Priority::High), []);
    assert_eq!(pick(&mut picker, C, &full, 2), blocks[2..]);
    let len = u64::from(geometry(2, 4).len_of(piece));
    picker.set_priority(1 - piece, Priority::Skip);
    assert_eq!((picker.wanted_bytes(), picker.wanted_had_bytes()), (len, 0));
    give(&mut picker, C, &blocks[2..]);
    picker.passed(piece, &[]);
    assert_eq!(picker.wanted_had_bytes(), len);
    assert!(picker.is_done());
    // What waits for its verdict is not taken back.
    picker.set_priority(1 - piece, Priority::Low);
    let other = pick(&mut picker, B, &full, 9);
    give(&mut picker, B, &other);
    assert_eq!(picker.set_priority(1 - piece, Priority::Skip), []);
    picker.passed(1 - piece, &[]);
    assert_eq!(picker.had_bytes(), geometry(2, 4).total);
    assert_eq!(picker.wanted_had_bytes(), len);
}

#[test]
fn a_piece_that_failed_and_was_skipped_is_anybodys_when_it_is_wanted_again() {
    let mut picker = picker(1, 2);
    let full = Bits::full(1);
    picker.add_peer(&full);
    let (first, second) = (
        pick(&mut picker, A, &full, 1),
        pick(&mut picker, B, &full, 1),
    );
    give(&mut picker, A, &first);
    give(&mut picker, B, &second);
    picker.failed(0, vec![]);
    let alone = pick(&mut picker, C, &full, 1);
    give(&mut picker, C, &alone);
    picker.set_priority(0, Priority::Skip);
    picker.release(C, []);
    picker.set_priority(0, Priority::Normal);
    assert_eq!(pick(&mut picker, A, &full, 2), second);
}

#[test]
fn in_order_within_a_window_and_the_rarest_beyond() {
    // Pieces of 4 MiB: four of them are the window.
    let mut picker = Picker::new(geometry(40, 256), had(40, 5), 7);
    let full = Bits::full(40);
    picker.add_peer(&full);
    picker.add_peer(&bits(40, &(5..39).collect::<Vec<_>>()));
    picker.set_sequential(true);
    let far = bits(40, &(20..40).collect::<Vec<_>>());
    picker.add_peer(&far);
    assert_eq!(pick(&mut picker, A, &far, 1)[0].index, 39, "the rarest");
    let order = pieces(&pick(&mut picker, B, &full, 256 * 3));
    let begun = order.iter().filter(|piece| **piece == 39).count();
    assert_eq!(begun, 255, "what was begun is finished");
    assert_eq!(
        order.iter().copied().collect::<BTreeSet<_>>(),
        [5, 6, 7, 39].into()
    );
}

#[test]
fn what_a_reader_waits_for_comes_before_all_else_and_in_order() {
    let mut picker = picker(100, 2);
    let full = Bits::full(100);
    picker.add_peer(&full);
    let begun = pick(&mut picker, A, &full, 1)[0].index;
    picker.set_priority(70, Priority::High);
    picker.set_priority(22, Priority::Skip);
    picker.raise(1, 20..24);
    picker.raise(2, 50..52);
    let order = pieces(&pick(&mut picker, B, &full, 10));
    assert_eq!(order, [20, 20, 50, 50, 21, 21, 51, 51, 23, 23]);
    // Who has nothing of it gives other things.
    assert_eq!(
        pick(&mut picker, C, &bits(100, &[begun]), 1)[0].index,
        begun
    );
    // It went on, and away.
    picker.raise(1, 80..81);
    assert_eq!(pieces(&pick(&mut picker, B, &full, 2)), [80, 80]);
    picker.raise(1, 90..90);
    assert_eq!(pieces(&pick(&mut picker, B, &full, 2)), [70, 70]);
    for reader in 0..100 {
        picker.raise(reader, 0..9);
    }
    assert_eq!(picker.raised.ranges().len(), MAX_READERS);
}

#[test]
fn what_holds_a_reader_up_is_asked_of_one_more_and_no_further() {
    let mut picker = picker(100, 6);
    let full = Bits::full(100);
    picker.add_peer(&full);
    picker.raise(1, 30..32);
    let slow = pick(&mut picker, A, &full, 6);
    assert!(slow.iter().all(|block| block.index == 30));
    assert!(
        pieces(&pick(&mut picker, B, &full, 3))
            .iter()
            .all(|p| *p == 31)
    );
    picker.set_urgent([30].into());
    let again = pick(&mut picker, B, &full, 5);
    assert_eq!(pieces(&again)[..4], [30; 4]);
    assert_eq!(again[4].index, 31);
    let more = pick(&mut picker, C, &full, 3);
    assert_eq!(pieces(&more), [30, 30, 31]);
    let third = pick(&mut picker, PeerKey(4), &full, 1);
    assert_ne!(third[0].index, 30, "two were asked for each block");
    assert_eq!(
        picker.received(B, again[0]),
        Received::Taken { cancel: vec![A] }
    );
}
