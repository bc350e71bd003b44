//! Where a torrent's bytes lie on a web seed: files below its URL (BEP 19), or pieces of a script (BEP 17). Pure.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::torrent::metainfo::{FileEntry, Info, WebKind};
use crate::torrent::picker::Geometry;

/// What to ask a web seed for. No `Debug`: it names a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Path and query, fit for a request line.
    pub path: String,
    /// Number of the file in [`Info::files`]; `None` where pieces are asked for.
    pub file: Option<usize>,
    /// The first byte wanted, of the file; 0 where pieces are asked for, whose answer holds nothing else.
    pub first: u64,
    /// Bytes wanted, at least one.
    pub len: u64,
    /// Length of what the URL names, bytes: the file, or what is asked for of a piece.
    pub whole: u64,
}

/// A part of a torrent.
#[derive(Clone, PartialEq, Eq)]
pub enum Part {
    /// So many bytes of padding: zeros that no server has.
    Zeros(u64),
    /// To be asked for.
    Fetch(Fetch),
}

impl Part {
    /// Its length, bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Zeros(len) => *len,
            Self::Fetch(fetch) => fetch.len,
        }
    }

    /// Whether there is nothing in it, which never is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where the bytes of one torrent lie on one web seed.
pub struct Places {
    kind: WebKind,
    /// Path and query of its URL.
    base: String,
    info: Arc<Info>,
    geometry: Geometry,
    /// Where each file starts.
    starts: Vec<u64>,
    /// It has a folder of files.
    folder: bool,
}

impl std::fmt::Debug for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Places")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl Places {
    /// Lays a torrent out on a web seed whose URL has this path and query.
    pub fn new(kind: WebKind, base: &str, info: Arc<Info>) -> Self {
        let starts = info.files.iter().scan(0_u64, |at, file| {
            let start = *at;
            *at = at.saturating_add(file.len);
            Some(start)
        });
        let folder = |file: &FileEntry| !file.pad && file.path.len() > 1;
        Self {
            kind,
            base: base.to_owned(),
            starts: starts.collect(),
            folder: info.files.iter().any(folder),
            geometry: Geometry::of(&info),
            info,
        }
    }

    /// How the torrent is cut.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Where a piece starts in the torrent, bytes.
    pub fn start_of(&self, piece: u32) -> u64 {
        u64::from(piece) * u64::from(self.geometry.piece_len)
    }

    /// The first part of the torrent's bytes from `at` to `end`; `None` where there are none.
    pub fn part(&self, at: u64, end: u64) -> Option<Part> {
        let end = end.min(self.info.total);
        if at >= end {
            return None;
        }
        match self.kind {
            WebKind::Files => self.file_part(at, end),
            WebKind::Pieces => Some(Part::Fetch(self.piece_part(at, end))),
        }
    }

    fn file_part(&self, at: u64, end: u64) -> Option<Part> {
        // The last that starts here or before: of several, all but it are empty.
        let number = self.starts.partition_point(|start| *start <= at) - 1;
        let (file, start) = (self.info.files.get(number)?, *self.starts.get(number)?);
        let first = at - start;
        let len = file.len.saturating_sub(first).min(end - at);
        if file.pad {
            return Some(Part::Zeros(len));
        }
        Some(Part::Fetch(Fetch {
            path: self.path_of(file),
            file: Some(number),
            first,
            len,
            whole: file.len,
        }))
    }

    fn piece_part(&self, at: u64, end: u64) -> Fetch {
        let piece_len = u64::from(self.geometry.piece_len.max(1));
        // Fits: the reader of torrents bounds the number of pieces.
        let piece = (at / piece_len) as u32;
        let first = at % piece_len;
        let full = u64::from(self.geometry.full_len_of(piece));
        let len = (full - first).min(end - at);
        let mut path = self.base.clone();
        path.push(if path.contains('?') { '&' } else { '?' });
        path.push_str("info_hash=");
        escape(&mut path, &self.info.hash.0);
        // Writing to a String can't fail.
        let _ = write!(path, "&piece={piece}");
        if len < full {
            let _ = write!(path, "&ranges={first}-{}", first + len - 1);
        }
        Fetch {
            path,
            file: None,
            first: 0,
            len,
            whole: len,
        }
    }

    /// A torrent of one file may be named by its URL itself; a folder is below it.
    fn path_of(&self, file: &FileEntry) -> String {
        let mut path = self.base.clone();
        if !self.folder && !path.ends_with('/') {
            return path;
        }
        if !path.ends_with('/') {
            path.push('/');
        }
        for (at, component) in file.path.iter().enumerate() {
            if at > 0 {
                path.push('/');
            }
            escape(&mut path, component.as_bytes());
        }
        path
    }

    /// The pieces that hold something of a file.
    pub fn pieces_of(&self, file: usize) -> std::ops::Range<u32> {
        let (Some(start), Some(entry)) = (self.starts.get(file), self.info.files.get(file)) else {
            return 0..0;
        };
        let piece = u64::from(self.geometry.piece_len.max(1));
        let end = (start + entry.len).div_ceil(piece);
        // Both are at most the number of pieces, which fits.
        ((start / piece) as u32)..(end as u32)
    }
}

/// Percent-encoding as RFC 3986 has it for what is not reserved.
fn escape(out: &mut String, bytes: &[u8]) {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::torrent::metainfo::Builder;
    use proptest::prelude::*;

    /// Files of these lengths in a folder, or one file; hashes of nothing.
    fn info(files: &[(&str, u64)], hybrid: bool) -> Arc<Info> {
        let entries = files.iter().map(|(path, len)| {
            let parts = path.split('/').filter(|part| !part.is_empty());
            (parts.map(str::to_owned).collect(), *len)
        });
        let mut builder = Builder::new("a name".to_owned(), entries.collect());
        builder.piece_len = 32768;
        if hybrid {
            builder.version = crate::torrent::metainfo::Version::Hybrid;
        }
        let aligned = |len: &u64| len.div_ceil(32768);
        let total: u64 = files.iter().map(|(_, len)| len).sum();
        let v2: u64 = files.iter().map(|(_, len)| aligned(len)).sum();
        let v1 = if hybrid { v2 } else { aligned(&total) };
        let hashes = crate::torrent::metainfo::PieceHashes {
            v1: vec![[0; 20]; v1 as usize],
            v2: vec![[1; 32]; if hybrid { v2 as usize } else { 0 }],
        };
        Arc::new(builder.finish_with(hashes).unwrap().0.info)
    }

    fn fetch(part: Option<Part>) -> Fetch {
        match part {
            Some(Part::Fetch(fetch)) => fetch,
            _ => panic!("nothing is asked for"),
        }
    }

    #[test]
    fn the_path_of_a_file_is_made_as_bep_19_has_it() {
        let alone = info(&[("", 70_000)], false);
        let folder = info(&[("é b/c#%.txt", 70_000)], false);
        for (base, torrent, path) in [
            ("/x.iso", &alone, "/x.iso"),
            ("/get?f=1", &alone, "/get?f=1"),
            ("/d/", &alone, "/d/a%20name"),
            ("/d/", &folder, "/d/a%20name/%C3%A9%20b/c%23%25.txt"),
            ("/d", &folder, "/d/a%20name/%C3%A9%20b/c%23%25.txt"),
        ] {
            let places = Places::new(WebKind::Files, base, Arc::clone(torrent));
            let fetch = fetch(places.part(40_000, 60_000));
            assert_eq!(fetch.path, path);
            assert_eq!(
                (fetch.first, fetch.len, fetch.whole),
                (40_000, 20_000, 70_000)
            );
        }
    }

    #[test]
    fn pieces_are_asked_for_as_bep_17_has_it() {
        let torrent = info(&[("", 70_000)], false);
        let hash: String = torrent.hash.0.iter().fold(String::new(), |mut out, byte| {
            escape(&mut out, &[*byte]);
            out
        });
        let places = Places::new(WebKind::Pieces, "/seed.php?k=v", Arc::clone(&torrent));
        let base = format!("/seed.php?k=v&info_hash={hash}&piece=");
        let whole = fetch(places.part(32768, 70_000));
        assert_eq!(whole.path, format!("{base}1"));
        assert_eq!((whole.first, whole.len, whole.whole), (0, 32768, 32768));
        let part = fetch(places.part(16384, 70_000));
        assert_eq!(part.path, format!("{base}0&ranges=16384-32767"));
        let last = fetch(places.part(65536, 90_000));
        assert_eq!((last.path, last.len), (format!("{base}2"), 4464));
        assert!(places.part(70_000, 90_000).is_none());
    }

    #[test]
    fn padding_is_not_asked_for() {
        let torrent = info(&[("a", 40_000), ("b", 5)], true);
        let places = Places::new(WebKind::Files, "/", torrent);
        assert_eq!(fetch(places.part(32768, 70_000)).len, 7232);
        let padding = places.part(40_000, 70_000);
        assert!(padding == Some(Part::Zeros(65536 - 40_000)));
        assert_eq!(fetch(places.part(65536, 70_000)).path, "/a%20name/b");
        assert_eq!(places.pieces_of(0), 0..2);
        assert_eq!(places.pieces_of(2), 2..3);
    }

    proptest! {
        /// The parts of any stretch are that stretch, in order, each within its file.
        #[test]
        fn parts_add_up(
            lens in prop::collection::vec(0_u64..100_000, 1..8),
            from in 0_u64..200_000,
            len in 1_u64..300_000,
            hybrid: bool,
            pieces: bool,
        ) {
            prop_assume!(lens.iter().any(|len| *len > 0));
            let names: Vec<String> = (0..lens.len()).map(|n| format!("f{n}")).collect();
            let files: Vec<(&str, u64)> = names.iter().map(String::as_str).zip(lens).collect();
            let torrent = info(&files, hybrid);
            let kind = if pieces { WebKind::Pieces } else { WebKind::Files };
            let places = Places::new(kind, "/", Arc::clone(&torrent));
            let end = (from + len).min(torrent.total);
            let mut at = from;
            while let Some(part) = places.part(at, end) {
                prop_assert!(!part.is_empty());
                if let Part::Fetch(fetch) = &part {
                    prop_assert!(fetch.first + fetch.len <= fetch.whole);
                    if let Some(file) = fetch.file {
                        prop_assert!(!torrent.files[file].pad);
                        let piece = (at / 32768) as u32;
                        prop_assert!(places.pieces_of(file).contains(&piece));
                    }
                    prop_assert!(fetch.path.bytes().all(|byte| byte.is_ascii_graphic()));
                }
                at += part.len();
                prop_assert!(at <= end);
            }
            prop_assert_eq!(at, end.max(from));
        }
    }
}
