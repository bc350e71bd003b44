//! Pieces that end in padding (BEP 47, 52): zeros up to where the next file begins, which are known without asking anybody.

use std::sync::Arc;

use crate::torrent::metainfo::FileEntry;

/// Pieces of which a part at the end is padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    /// Number of the piece, and its bytes before the padding; in order.
    list: Arc<[(u32, u32)]>,
    /// Bytes of padding in all of them.
    cut: u64,
}

impl Short {
    /// Finds them in a layout; `None` where there are none. Padding that fills a whole piece, or does not reach to the end of one,
    /// is fetched like anything else.
    pub fn of(files: &[FileEntry], piece_len: u32) -> Option<Self> {
        let piece = u64::from(piece_len.max(1));
        let total = files
            .iter()
            .fold(0_u64, |sum, file| sum.saturating_add(file.len));
        let (mut list, mut cut, mut at) = (Vec::new(), 0, 0_u64);
        for file in files {
            let (start, end) = (at, at.saturating_add(file.len));
            at = end;
            let before = start % piece;
            let to_the_end = end.is_multiple_of(piece) || end == total;
            if file.pad && file.len > 0 && before > 0 && before + file.len <= piece && to_the_end {
                // Both fit: the readers of torrents bound the number of pieces, and `before` is below the length of one.
                list.push(((start / piece) as u32, before as u32));
                cut += file.len;
            }
        }
        (!list.is_empty()).then(|| Self {
            list: list.into(),
            cut,
        })
    }

    /// Bytes of a piece before its padding, where it is one of these.
    pub fn len_of(&self, piece: u32) -> Option<u32> {
        let at = self.list.binary_search_by_key(&piece, |(piece, _)| *piece);
        self.list.get(at.ok()?).map(|(_, len)| *len)
    }

    /// Bytes of padding in all of them.
    pub fn cut(&self) -> u64 {
        self.cut
    }
}
