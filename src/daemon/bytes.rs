//! How many bytes of each file are there, and which of its numbers a file goes by: pure arithmetic over a torrent's layout.

use crate::torrent::metainfo::{FileEntry, Info};
use crate::torrent::picker::Bits;
use crate::torrent::select::Selection;

/// The files as programs count them: without padding.
pub(super) fn files(info: &Info) -> impl Iterator<Item = &FileEntry> {
    info.files.iter().filter(|file| !file.pad)
}

/// Bytes of all files, padding not counted.
pub(super) fn length(info: &Info) -> u64 {
    files(info).fold(0, |sum, file| sum.saturating_add(file.len))
}

/// Verified bytes of each file.
pub(super) fn done(info: &Info, had: &Bits) -> Vec<u64> {
    let piece_len = u64::from(info.piece_len.max(1));
    let mut at = 0_u64;
    let mut out = Vec::new();
    for file in &info.files {
        let (begin, end) = (at, at.saturating_add(file.len));
        at = end;
        if file.pad {
            continue;
        }
        if had.is_full() {
            out.push(file.len);
            continue;
        }
        let pieces = begin / piece_len..end.div_ceil(piece_len);
        let bytes = pieces.filter(|piece| u32::try_from(*piece).is_ok_and(|piece| had.get(piece)));
        let overlap = |piece: u64| {
            let (from, to) = (piece * piece_len, (piece + 1).saturating_mul(piece_len));
            to.min(end).saturating_sub(from.max(begin))
        };
        out.push(bytes.map(overlap).sum());
    }
    out
}

/// Everything but these files, by the numbers that programs know, in order; `None` where nothing would be left.
pub(super) fn without(info: &Info, unwanted: &[u32]) -> Option<Selection> {
    if unwanted.is_empty() {
        return Some(Selection::all());
    }
    // Those of a selection count padding, where the torrent lists it.
    let counts_padding = !info.pieces.is_empty();
    let (mut number, mut shown) = (0_u32, 0_u32);
    let mut chosen = Vec::new();
    for file in &info.files {
        if !file.pad {
            if unwanted.binary_search(&shown).is_err() {
                chosen.push(number..=number);
            }
            shown += 1;
        }
        number += u32::from(!file.pad || counts_padding);
    }
    (!chosen.is_empty()).then(|| Selection::numbers(chosen))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Three files with padding between: 40000 bytes, 10 of padding, 5, and 20000.
    fn info() -> Info {
        let file = |path: &str, len: u64, pad: bool| {
            let attribute = if pad { "4:attr1:p" } else { "" };
            format!("d{attribute}6:lengthi{len}e4:pathl{}:{path}ee", path.len())
        };
        let files = [
            file("a", 40000, false),
            file("p", 10, true),
            file("b", 5, false),
            file("c", 20000, false),
        ]
        .concat();
        let hashes = "h".repeat(80);
        let text = format!("d5:filesl{files}e4:name1:n12:piece lengthi16384e6:pieces80:{hashes}e");
        Info::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn bytes_of_files_are_those_of_their_verified_pieces() {
        let info = info();
        assert_eq!((files(&info).count(), length(&info)), (3, 60005));
        let mut had = Bits::new(4);
        assert_eq!(done(&info, &had), [0, 0, 0]);
        had.set(2);
        // Piece 2 is 32768 to 49152: the end of a, all of b, the begin of c at 40015.
        assert_eq!(done(&info, &had), [40000 - 32768, 5, 49152 - 40015]);
        assert_eq!(done(&info, &Bits::full(4)), [40000, 5, 20000]);
    }

    #[test]
    fn what_is_not_wanted_is_left_out_by_the_numbers_that_programs_know() {
        let info = info();
        assert!(without(&info, &[]).unwrap().is_all());
        let files = |unwanted: &[u32]| without(&info, unwanted).unwrap().files(&info).unwrap();
        assert_eq!(files(&[0, 2]), [false, true, false]);
        assert_eq!(files(&[0, 1]), [false, false, true]);
        assert_eq!(files(&[1, 2]), [true, false, false]);
        assert!(without(&info, &[0, 1, 2]).is_none());
    }
}
