//! Which files of a torrent are downloaded (BEP 53 and patterns).

use std::ops::RangeInclusive;

use super::metainfo::Info;
use super::picker::{Bits, Geometry};

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

    /// The pieces that hold the files that are wanted; `None` where there are none. A piece may hold a part of another file too.
    pub fn pieces(&self, info: &Info) -> Option<Bits> {
        let geometry = Geometry::of(info);
        if self.is_all() {
            return Some(Bits::full(geometry.pieces));
        }
        let mut wanted = Bits::new(geometry.pieces);
        let (mut at, mut number, mut any) = (0_u64, 0_u32, false);
        // In a torrent of version 2 alone, padding is implied and has no number.
        let counts_padding = !info.pieces.is_empty();
        for file in &info.files {
            let end = at.saturating_add(file.len);
            let path = file.path.get(1..).filter(|below| !below.is_empty());
            let path = path.unwrap_or(&file.path).join("/");
            if !file.pad && self.names(number, &path) {
                any = true;
                let piece_len = u64::from(info.piece_len.max(1));
                // Both are below the number of pieces.
                let pieces = (at / piece_len) as u32..end.div_ceil(piece_len) as u32;
                pieces.filter(|_| file.len > 0).for_each(|piece| {
                    wanted.set(piece);
                });
            }
            number += u32::from(!file.pad || counts_padding);
            at = end;
        }
        any.then_some(wanted)
    }
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
        let selection = Selection::parse(rules.iter().copied()).unwrap();
        Some(selection.pieces(&info(version))?.ones().collect())
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
