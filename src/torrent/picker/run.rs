//! Blocks in long runs, for a source of which each request costs a round trip and gives as much as is asked for: a web seed.

use super::{BLOCK, Bits, BlockRef, END_GAME_WINDOW, MAX_ASKED, PeerKey, Picker};

impl Picker {
    /// Chooses blocks of about `most` bytes to ask of `peer`, which has `have` and nothing outstanding, and appends them in their order:
    /// what readers wait for, or else what is left of a begun piece, or a piece as [`Picker::pick`] chooses it, and whole pieces after it,
    /// as far as nobody was asked for them and they are wanted as much. Near the end also what others were asked for.
    pub fn pick_run(&mut self, peer: PeerKey, have: &Bits, most: u64, out: &mut Vec<BlockRef>) {
        let before = out.len();
        let blocks = usize::try_from(most / u64::from(BLOCK)).unwrap_or(usize::MAX);
        let goal = before.saturating_add(blocks.max(1));
        self.pick_raised(peer, have, goal, out);
        self.pick_urgent(peer, have, goal, out);
        let held_up = out.len() > before;
        let first = self.first_of_run(peer, have).filter(|_| !held_up);
        if let Some(first) = first {
            let mut piece = first;
            self.take_free(piece, peer, goal, out);
            loop {
                piece += 1;
                let more = self.geometry.blocks_of(piece) as usize;
                let fits = have.get(piece) && out.len() + more <= goal;
                let alike = self.priority(piece) == self.priority(first);
                if !(fits && alike && self.listing.has(piece)) {
                    break;
                }
                self.begin(piece, peer);
                self.take_free(piece, peer, goal, out);
            }
        } else if !held_up && self.all_asked() {
            self.pick_again(peer, have, END_GAME_WINDOW, MAX_ASKED, |_| true, out);
        }
        if let Some(picked) = out.get_mut(before..) {
            picked.sort_unstable();
        }
    }

    /// A begun piece with free blocks, or one that is begun now.
    fn first_of_run(&mut self, peer: PeerKey, have: &Bits) -> Option<u32> {
        let mut open = self.open.iter().copied();
        let begun = open.find(|&piece| have.get(piece) && self.is_open_to(piece, peer));
        begun.or_else(|| {
            let chosen = self.choose(have)?;
            self.begin(chosen, peer);
            Some(chosen)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torrent::picker::{Geometry, Received};

    const PEER: PeerKey = PeerKey(7);

    /// Pieces of four blocks, the last of one.
    fn picker(pieces: u32, had: &[u32]) -> Picker {
        let geometry = Geometry {
            piece_len: 4 * BLOCK,
            total: u64::from(pieces - 1) * u64::from(4 * BLOCK) + 100,
            pieces,
            short: None,
        };
        let mut bits = Bits::new(pieces);
        for piece in had {
            bits.set(*piece);
        }
        Picker::new(geometry, bits, 1)
    }

    fn run(picker: &mut Picker, pieces: u32, blocks: u32) -> Vec<(u32, u32)> {
        let mut out = Vec::new();
        let most = u64::from(blocks * BLOCK);
        picker.pick_run(PEER, &Bits::full(pieces), most, &mut out);
        out.iter().map(|b| (b.index, b.begin / BLOCK)).collect()
    }

    #[test]
    fn a_run_goes_on_over_pieces_until_one_that_is_not_to_be_had() {
        for seed in 0..20 {
            let mut picker = picker(9, &[0, 1, 2, 3, 6]);
            picker.rng = rand::SeedableRng::seed_from_u64(seed);
            let got = run(&mut picker, 9, 8);
            let pieces: Vec<u32> = got.iter().map(|(piece, _)| *piece).collect();
            assert!(got.is_sorted());
            let four = |piece| [piece; 4].to_vec();
            let known = [
                [four(4), four(5)].concat(),
                four(5),
                [four(7), vec![8]].concat(),
                vec![8],
            ];
            assert!(known.contains(&pieces), "{got:?}");
        }
    }

    #[test]
    fn what_is_left_of_a_piece_comes_first_and_pieces_stay_whole_at_the_end() {
        let mut picker = picker(2, &[]);
        let other = PeerKey(1);
        let mut asked = Vec::new();
        picker.pick(other, &Bits::full(1), 0, 4, &mut asked);
        assert_eq!(asked.len(), 4);
        assert_eq!(asked[0].index, 0);
        picker.release(other, asked.split_off(2));
        // Two of piece 0 are free; piece 1 is not begun where it does not fit whole.
        assert_eq!(run(&mut picker, 2, 2), [(0, 2), (0, 3)]);
        assert_eq!(run(&mut picker, 2, 9), [(1, 0)]);
        // Now all is asked for: what the other was asked for may be asked of us too.
        assert_eq!(run(&mut picker, 2, 9), [(0, 0), (0, 1)]);
        assert_eq!(run(&mut picker, 2, 9), []);
        let block = asked[0];
        let taken = picker.received(PEER, block);
        assert_eq!(
            taken,
            Received::Taken {
                cancel: vec![other]
            }
        );
    }

    #[test]
    fn a_piece_larger_than_the_run_is_begun_and_gone_on_with() {
        let mut picker = picker(1 + 1, &[1]);
        assert_eq!(run(&mut picker, 2, 3), [(0, 0), (0, 1), (0, 2)]);
        assert_eq!(run(&mut picker, 2, 3), [(0, 3)]);
    }
}
