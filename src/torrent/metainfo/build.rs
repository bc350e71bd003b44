//! The making of torrents.

use std::fmt;

use super::paths::{self, MAX_COMPONENTS, PathError};
use super::{
    MAX_PIECE_LEN, MAX_PIECES, MIN_PIECE_LEN, Metainfo, MetainfoError, WebKind, WebSeed,
    bounded_tiers, encode,
};
use crate::bencode;
use crate::torrent::v2::merkle::{Hash, Tree};
use crate::torrent::wire::BLOCK;

/// Pieces that [`choose_piece_len`] aims at: few enough for a small torrent file, enough to share early.
const PIECES_AIMED_AT: u64 = 1500;
/// Largest piece that [`choose_piece_len`] takes before the number of pieces forces it, bytes.
const LARGEST_CHOSEN: u32 = 16 << 20;

/// Which versions of the protocol a torrent is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// BEP 3. Every program takes it, and the same files keep the link that they had: so this is the usual one.
    #[default]
    V1,
    /// BEP 52 alone. Transmission and aria2 refuse it.
    V2,
    /// Both in one: a torrent in either swarm. Transmission 3 refuses it (names of no length in its tree), and aria2 stores the padding.
    Hybrid,
}

impl Version {
    /// Whether there are hashes of version 1.
    pub fn has_v1(self) -> bool {
        matches!(self, Self::V1 | Self::Hybrid)
    }

    /// Whether there are hashes of version 2, and so each file begins at a piece.
    pub fn has_v2(self) -> bool {
        matches!(self, Self::V2 | Self::Hybrid)
    }
}

/// Chooses a piece length for this many bytes: a power of two, 16 KiB to 16 MiB, more only where the count demands it.
pub fn choose_piece_len(total: u64) -> u32 {
    let aimed = (total / PIECES_AIMED_AT)
        .clamp(1, u64::from(LARGEST_CHOSEN))
        .next_power_of_two();
    let mut len = u32::try_from(aimed)
        .unwrap_or(LARGEST_CHOSEN)
        .max(MIN_PIECE_LEN);
    while len < MAX_PIECE_LEN && total.div_ceil(u64::from(len)) > MAX_PIECES as u64 {
        len *= 2;
    }
    len
}

/// The hashes of pieces, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PieceHashes {
    /// SHA-1 of each piece with its padding; empty where the torrent is not for version 1.
    pub v1: Vec<[u8; 20]>,
    /// Root of the blocks of each piece; empty where it is not for version 2.
    pub v2: Vec<Hash>,
}

/// Makes a torrent: read the files in the order of [`Builder::files`] as one run of bytes, hash it piece by piece with
/// SHA-1, and hand the hashes to [`Builder::finish`].
#[derive(Clone)]
pub struct Builder {
    /// Name of the file, or of the directory of the files.
    pub name: String,
    /// Path below the name, and length in bytes. A torrent of one file that has no directory has one empty path.
    pub files: Vec<(Vec<String>, u64)>,
    /// Length of each piece but the last, bytes.
    pub piece_len: u32,
    /// Tracker URLs in tiers (BEP 12).
    pub trackers: Vec<Vec<String>>,
    /// URLs of servers that have the content (BEP 19).
    pub web_seeds: Vec<String>,
    /// Peers come from the trackers alone (BEP 27).
    pub private: bool,
    /// For which versions.
    pub version: Version,
}

impl Builder {
    /// Starts a torrent: sorts the files, since the order a file system lists them in tells machines apart, and
    /// chooses a piece length. It is the order of the file tree of version 2 too.
    pub fn new(name: String, mut files: Vec<(Vec<String>, u64)>) -> Self {
        files.sort_unstable();
        let total = files
            .iter()
            .fold(0_u64, |sum, (_, len)| sum.saturating_add(*len));
        let piece_len = choose_piece_len(total);
        Self {
            name,
            files,
            piece_len,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            private: false,
            version: Version::V1,
        }
    }

    /// The same for other versions. Many small files that each begin at a piece may take larger pieces.
    #[must_use]
    pub fn for_version(mut self, version: Version) -> Self {
        self.version = version;
        if version.has_v2() {
            let most = MAX_PIECES as u64;
            while self.piece_len < MAX_PIECE_LEN && self.aligned_pieces() > most {
                self.piece_len *= 2;
            }
        }
        self
    }

    fn aligned_pieces(&self) -> u64 {
        let lens = self.files.iter();
        lens.fold(0_u64, |sum, (_, len)| {
            sum.saturating_add(len.div_ceil(u64::from(self.piece_len)))
        })
    }

    /// Padding after file `number`, bytes: so much that the next one begins at a piece. A torrent of one file has none; one of
    /// several has it after the last too, as libtorrent has it.
    pub(crate) fn padding_after(&self, number: usize) -> u64 {
        let len = self.files.get(number).map_or(0, |(_, len)| *len);
        if self.version.has_v2() && self.files.len() > 1 {
            len.next_multiple_of(u64::from(self.piece_len.max(1))) - len
        } else {
            0
        }
    }

    /// Makes a torrent of version 1 and the bytes of its file.
    ///
    /// # Errors
    /// The content makes no torrent that we would read (names, sizes, number of hashes): tell the user why.
    pub fn finish(self, piece_hashes: Vec<[u8; 20]>) -> Result<(Metainfo, Vec<u8>), MetainfoError> {
        self.finish_with(PieceHashes {
            v1: piece_hashes,
            v2: Vec::new(),
        })
    }

    /// Makes the torrent and the bytes of its file.
    ///
    /// # Errors
    /// The content makes no torrent that we would read (names, sizes, number of hashes): tell the user why.
    pub fn finish_with(self, hashes: PieceHashes) -> Result<(Metainfo, Vec<u8>), MetainfoError> {
        let mut info = Vec::with_capacity(hashes.v1.len() * 20 + 256);
        let single = match &self.files[..] {
            [(path, len)] if path.is_empty() => Some(*len),
            _ => None,
        };
        let trees = if self.version.has_v2() {
            if single.is_none() {
                // Else there would be no tree of them.
                paths::check_distinct(self.files.iter().map(|(path, _)| &path[..]))?;
            }
            if self
                .files
                .iter()
                .any(|(path, _)| path.len() >= MAX_COMPONENTS)
            {
                return Err(PathError::TooDeep.into());
            }
            self.trees(&hashes.v2)?
        } else {
            Vec::new()
        };
        let v1 = self.version.has_v1();
        bencode::put_dict(&mut info, |dict| {
            if self.version.has_v2() {
                let out = dict.key("file tree");
                let name = [self.name.clone()];
                let files = self.files.iter().zip(&trees).map(|((path, len), tree)| {
                    let path = if path.is_empty() { &name[..] } else { path };
                    (path, *len, tree.as_ref().map(Tree::root))
                });
                let files: Vec<TreeEntry<'_>> = files.collect();
                put_tree(out, &files, 0);
            }
            if single.is_none() && v1 {
                bencode::put_list(dict.key("files"), |out| {
                    for (number, (path, len)) in self.files.iter().enumerate() {
                        put_file(out, path, *len, false);
                        let padding = self.padding_after(number);
                        if padding > 0 {
                            let path = [".pad".to_owned(), padding.to_string()];
                            put_file(out, &path, padding, true);
                        }
                    }
                });
            }
            if let Some(len) = single.filter(|_| v1) {
                bencode::put_int(dict.key("length"), len);
            }
            if self.version.has_v2() {
                bencode::put_int(dict.key("meta version"), 2);
            }
            bencode::put_bytes(dict.key("name"), &self.name);
            bencode::put_int(dict.key("piece length"), self.piece_len);
            if v1 {
                bencode::put_bytes(dict.key("pieces"), hashes.v1.as_flattened());
            }
            if self.private {
                bencode::put_int(dict.key("private"), 1);
            }
        });
        let mut layers = Vec::new();
        if self.version.has_v2() {
            put_layers(&mut layers, &trees);
        }
        let trackers = bounded_tiers(self.trackers.iter().map(|t| t.iter().map(String::as_str)));
        let web = self.web_seeds.iter();
        let web = WebSeed::bounded(web.map(|url| (WebKind::Files, url.as_str())));
        let bytes = encode(&trackers, &web, &info, &layers);
        // Reading it back applies every rule that others' torrents must keep.
        Ok((Metainfo::parse(&bytes)?, bytes))
    }

    /// The tree of each file, from its pieces up; `None` where it is empty.
    fn trees(&self, hashes: &[Hash]) -> Result<Vec<Option<Tree>>, MetainfoError> {
        let mut rest = hashes;
        let mut out = Vec::with_capacity(self.files.len());
        for (_, len) in &self.files {
            if *len == 0 {
                out.push(None);
                continue;
            }
            let pieces = len.div_ceil(u64::from(self.piece_len.max(1)));
            let pieces = usize::try_from(pieces).map_err(|_| MetainfoError::TooManyPieces)?;
            let (own, more) = rest
                .split_at_checked(pieces)
                .ok_or(MetainfoError::PieceCount)?;
            rest = more;
            // The level of a file of one piece does not matter: its one hash is the root.
            let level = (self.piece_len / BLOCK).max(1).trailing_zeros();
            out.push(Some(Tree::new(level, own.to_vec())));
        }
        if rest.is_empty() {
            Ok(out)
        } else {
            Err(MetainfoError::PieceCount)
        }
    }
}

/// Path, length and root of a file.
type TreeEntry<'a> = (&'a [String], u64, Option<Hash>);

/// Appends the files that share their first `depth` components, in order. As deep as the deepest path, which the reader bounds.
fn put_tree(out: &mut Vec<u8>, files: &[TreeEntry<'_>], depth: usize) {
    out.push(b'd');
    fn component<'a>(file: &TreeEntry<'a>, depth: usize) -> &'a str {
        file.0.get(depth).map_or("", String::as_str)
    }
    for group in files.chunk_by(|one, other| component(one, depth) == component(other, depth)) {
        let Some(first) = group.first() else { continue };
        bencode::put_bytes(out, component(first, depth));
        if let ([(_, len, root)], true) = (group, first.0.len() <= depth + 1) {
            out.push(b'd');
            bencode::put_bytes(out, "");
            bencode::put_dict(out, |dict| {
                bencode::put_int(dict.key("length"), *len);
                if let Some(root) = root {
                    bencode::put_bytes(dict.key("pieces root"), root);
                }
            });
            out.push(b'e');
        } else {
            put_tree(out, group, depth + 1);
        }
    }
    out.push(b'e');
}

/// Appends `piece layers`: of files with more than one piece, each root once.
fn put_layers(out: &mut Vec<u8>, trees: &[Option<Tree>]) {
    let layers: std::collections::BTreeMap<Hash, &Tree> = trees
        .iter()
        .flatten()
        .filter(|tree| tree.layer().len() > 1)
        .map(|tree| (tree.root(), tree))
        .collect();
    out.push(b'd');
    for (root, tree) in layers {
        bencode::put_bytes(out, root);
        bencode::put_bytes(out, tree.layer().as_flattened());
    }
    out.push(b'e');
}

fn put_file(out: &mut Vec<u8>, path: &[String], len: u64, pad: bool) {
    bencode::put_dict(out, |dict| {
        if pad {
            bencode::put_bytes(dict.key("attr"), "p");
        }
        bencode::put_int(dict.key("length"), len);
        bencode::put_list(dict.key("path"), |out| {
            path.iter()
                .for_each(|component| bencode::put_bytes(out, component));
        });
    });
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("files", &self.files.len())
            .finish_non_exhaustive()
    }
}
