//! Which files of a torrent are downloaded (BEP 53 and patterns).

use std::ops::{Range, RangeInclusive};

use super::metainfo::Info;
use super::picker::Priority;

/// Most rules of a selection.
pub const MAX_RULES: usize = 4096;

/// One rule. A file that any of them names is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    /// Files by their number in the torrent, from 0. Padding counts where the torrent lists it.
    Numbers(RangeInclusive<u32>),
    /// Files by their path below the torrent's name: `*` is any text, `/` among it, `?` is any one character.
    Pattern(String),
}

/// A choice of files.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Selection(Vec<Rule>);

/// It says what the user looks for.
impl std::fmt::Debug for Selection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Selection({} rules)", self.0.len())
    }
}

impl Selection {
    /// Everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// Files by their numbers.
    pub fn numbers(ranges: Vec<RangeInclusive<u32>>) -> Self {
        Self(ranges.into_iter().map(Rule::Numbers).collect())
    }

    /// Reads rules as a user writes them: numbers and ranges of them, as `0,2,4-8`, or a pattern.
    pub fn parse<'a>(rules: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut out = Vec::new();
        for rule in rules {
            let numbers = |c: char| c.is_ascii_digit() || matches!(c, ',' | '-');
            if rule.chars().any(|c| c.is_ascii_digit()) && rule.chars().all(numbers) {
                let ranges = super::magnet::parse_selection(rule).ok()?;
                out.extend(ranges.into_iter().map(Rule::Numbers));
            } else if rule.is_empty() {
                return None;
            } else {
                out.push(Rule::Pattern(rule.to_owned()));
            }
        }
        (out.len() <= MAX_RULES).then_some(Self(out))
    }

    /// Whether everything is wanted.
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    fn names(&self, number: u32, path: &str) -> bool {
        self.0.iter().any(|rule| match rule {
            Rule::Numbers(range) => range.contains(&number),
            Rule::Pattern(pattern) => matches(pattern, path),
        })
    }

    /// Of each file that is no padding, whether it is wanted; `None` where none is.
    pub fn files(&self, info: &Info) -> Option<Vec<bool>> {
        // In a torrent of version 2 alone, padding is implied and has no number.
        let counts_padding = !info.pieces.is_empty();
        let mut number = 0_u32;
        let mut wanted = Vec::new();
        for file in &info.files {
            if !file.pad {
                let path = file.path.get(1..).filter(|below| !below.is_empty());
                let path = path.unwrap_or(&file.path).join("/");
                wanted.push(self.is_all() || self.names(number, &path));
            }
            number += u32::from(!file.pad || counts_padding);
        }
        wanted.contains(&true).then_some(wanted)
    }
}

/// Where a file lies in its torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its place in [`Info::files`].
    pub index: usize,
    /// Bytes of the torrent before it.
    pub start: u64,
    /// Its bytes.
    pub len: u64,
}

impl Span {
    /// The pieces that hold some of it.
    pub fn pieces(&self, piece_len: u32) -> Range<u32> {
        let piece_len = u64::from(piece_len.max(1));
        if self.len == 0 {
            return 0..0;
        }
        let end = self.start.saturating_add(self.len);
        // Both are below the number of pieces.
        (self.start / piece_len) as u32..end.div_ceil(piece_len) as u32
    }
}

/// The files of a torrent that are no padding, in order: the one with number 0 is the first of these.
pub fn spans(info: &Info) -> impl Iterator<Item = Span> + '_ {
    let mut at = 0_u64;
    info.files
        .iter()
        .enumerate()
        .filter_map(move |(index, file)| {
            let start = at;
            at = at.saturating_add(file.len);
            let len = file.len;
            (!file.pad).then_some(Span { index, start, len })
        })
}

/// How much each piece is wanted, where the files are wanted so (one for each of [`spans`]): as the file in it that is wanted most.
/// Pieces of padding alone are wanted where nothing is skipped.
pub fn piece_priorities(info: &Info, files: &[Priority]) -> Vec<Priority> {
    let rest = if files.contains(&Priority::Skip) {
        Priority::Skip
    } else {
        Priority::Low
    };
    let mut pieces = vec![rest; info.piece_count() as usize];
    for (span, priority) in spans(info).zip(files) {
        for piece in span.pieces(info.piece_len) {
            if let Some(own) = pieces.get_mut(piece as usize) {
                *own = (*own).max(*priority);
            }
        }
    }
    pieces
}

/// Whether a text fits a pattern. Takes time of the product of their lengths at most.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // The last star, and how far the text was when it was met.
    let mut star: Option<(usize, usize)> = None;
    while let Some(c) = text.get(t) {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == c => (p, t) = (p + 1, t + 1),
            Some(_) | None => {
                let Some((at, met)) = star else { return false };
                // The star takes one character more.
                star = Some((at, met + 1));
                (p, t) = (at + 1, met + 1);
            }
        }
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::torrent::metainfo::{Builder, PieceHashes, Version};
    use crate::torrent::v2::merkle::Hash;
    use proptest::prelude::*;

    /// Three files: one of two pieces and a bit, one of half a piece, one empty.
    fn info(version: Version) -> Info {
        let piece = 32 << 10;
        let files = [
            ("a/film.mkv", 2 * piece + 5),
            ("a/notes.txt", piece / 2),
            ("empty", 0),
        ];
        let files = files
            .map(|(path, len): (&str, u64)| (path.split('/').map(str::to_owned).collect(), len));
        let mut builder = Builder::new("t".into(), files.to_vec()).for_version(version);
        builder.piece_len = piece as u32;
        let v1 = if version == Version::V1 { 3 } else { 4 };
        let hashes = PieceHashes {
            v1: vec![[0; 20]; v1],
            v2: vec![Hash::default(); 4],
        };
        builder.finish_with(hashes).unwrap().0.info
    }

    fn pieces(version: Version, rules: &[&str]) -> Option<Vec<u32>> {
        let (selection, info) = (
            Selection::parse(rules.iter().copied()).unwrap(),
            info(version),
        );
        let of = |wanted| {
            if wanted {
                Priority::Normal
            } else {
                Priority::Skip
            }
        };
        let files: Vec<Priority> = selection.files(&info)?.into_iter().map(of).collect();
        let pieces = (0..).zip(piece_priorities(&info, &files));
        let wanted = pieces.filter(|(_, priority)| *priority != Priority::Skip);
        Some(wanted.map(|(piece, _)| piece).collect())
    }

    #[test]
    fn files_are_chosen_by_number_and_by_pattern() {
        let v1 = |rules: &[&str]| pieces(Version::V1, rules);
        assert_eq!(v1(&[]), Some(vec![0, 1, 2]));
        assert_eq!(v1(&["0"]), Some(vec![0, 1, 2]));
        assert_eq!(v1(&["1"]), Some(vec![2]));
        assert_eq!(v1(&["2"]), Some(vec![]), "it has no content");
        assert_eq!(v1(&["3-9"]), None);
        assert_eq!(v1(&["*.txt"]), Some(vec![2]));
        assert_eq!(v1(&["*.avi", "a/f?lm.*"]), Some(vec![0, 1, 2]));
        assert_eq!(v1(&["film.mkv"]), None, "the whole path has to fit");
        // A hybrid torrent lists padding, and each file has pieces of its own.
        let hybrid = |rules: &[&str]| pieces(Version::Hybrid, rules);
        assert_eq!(hybrid(&["0"]), Some(vec![0, 1, 2]));
        assert_eq!(hybrid(&["1"]), None);
        assert_eq!(hybrid(&["2"]), Some(vec![3]));
        let v2 = |rules: &[&str]| pieces(Version::V2, rules);
        assert_eq!(v2(&["1"]), Some(vec![3]));
        assert_eq!(v2(&["*.mkv"]), Some(vec![0, 1, 2]));
    }

    #[test]
    fn a_piece_of_two_files_is_wanted_as_the_one_that_is_wanted_more() {
        let of = |version, files: [Priority; 3]| piece_priorities(&info(version), &files);
        let (skip, low, normal, high) = (
            Priority::Skip,
            Priority::Low,
            Priority::Normal,
            Priority::High,
        );
        assert_eq!(of(Version::V1, [low, high, skip]), [low, low, high]);
        assert_eq!(of(Version::V1, [normal, low, low]), [normal; 3]);
        assert_eq!(of(Version::V1, [skip, skip, high]), [skip; 3]);
        let hybrid = of(Version::Hybrid, [low, high, skip]);
        assert_eq!(hybrid, [low, low, low, high]);
        let info = info(Version::Hybrid);
        let spans: Vec<Span> = spans(&info).collect();
        assert_eq!(spans.len(), 3, "without padding");
        assert_eq!(spans[1].start, 3 << 15);
        assert_eq!(spans[2].pieces(1 << 15), 0..0);
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for bad in ["", "1-", "2-1", "1,,2", "99999999999"] {
            assert_eq!(Selection::parse([bad]), None, "{bad}");
        }
        assert!(Selection::parse(["-"]).is_some(), "a pattern");
    }

    proptest! {
        #[test]
        fn a_text_fits_itself_with_parts_left_open(text in "[a-c*?/]{0,9}", from in 0_usize..9, to in 0_usize..9) {
            let (from, to) = (from.min(text.len()), to.min(text.len()).max(from.min(text.len())));
            let open = format!("{}*{}", &text[..from], &text[to..]);
            prop_assert!(matches(&open, &text));
            let plain = text.replace(['*', '?'], "x");
            prop_assert!(matches(&plain, &plain));
            let longer = format!("{plain}y");
            prop_assert!(!matches(&plain, &longer));
        }
    }
}
