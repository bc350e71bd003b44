//! Torrent files (BEP 3, 12, 27, 47): what is in a torrent, and the making of one.
//!
//! What we make is canonical: the same files give the same bytes on every machine, with no date, program or comment.

mod paths;

use std::fmt;
use std::sync::Arc;

use sha1::{Digest, Sha1};

use super::infohash::InfoHash;
use crate::bencode::{self, BencodeError, Value};
pub use paths::{MAX_COMPONENT, MAX_COMPONENTS, PathError};

/// Largest torrent file, bytes: the hashes of the most pieces take 40 MiB.
pub const MAX_TORRENT: usize = 48 << 20;
/// Most pieces. With a bit each, a bitfield message stays at 256 KiB.
pub const MAX_PIECES: usize = 1 << 21;
/// Most files.
pub const MAX_FILES: usize = 200_000;
/// Smallest piece, bytes: one block.
pub const MIN_PIECE_LEN: u32 = 16 << 10;
/// Largest piece, bytes: what may be held back until its hash is known.
pub const MAX_PIECE_LEN: u32 = 256 << 20;
/// Most trackers; those beyond are left out.
pub const MAX_TRACKERS: usize = 128;
/// Longest tracker URL, bytes; longer ones are left out.
pub const MAX_TRACKER_URL: usize = 2048;

/// Pieces that [`choose_piece_len`] aims at: few enough for a small torrent file, enough to share early.
const PIECES_AIMED_AT: u64 = 1500;
/// Largest piece that [`choose_piece_len`] takes before the number of pieces forces it, bytes.
const LARGEST_CHOSEN: u32 = 16 << 20;

/// Why a torrent can't be used. Names a reason, never a name from the torrent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetainfoError {
    /// Not bencode at all.
    #[error("not a torrent")]
    Bencode(#[from] BencodeError),
    /// A needed entry is absent or of another type.
    #[error("the torrent's entry \"{0}\" is missing or malformed")]
    Entry(&'static str),
    /// More than [`MAX_TORRENT`].
    #[error("the torrent is larger than 48 MiB")]
    TooLarge,
    /// A torrent of BEP 52 without the hashes of version 1.
    #[error("a version 2 torrent, not supported yet: ask for a hybrid or version 1 torrent")]
    Version2Only,
    /// Outside [`MIN_PIECE_LEN`] to [`MAX_PIECE_LEN`].
    #[error("the piece length is not between 16 KiB and 256 MiB")]
    PieceLength,
    /// More than [`MAX_PIECES`].
    #[error("the torrent has more than 2097152 pieces")]
    TooManyPieces,
    /// The number of hashes does not fit the length of the files.
    #[error("the number of piece hashes does not fit the length of the files")]
    PieceCount,
    /// More than [`MAX_FILES`].
    #[error("the torrent has more than 200000 files")]
    TooManyFiles,
    /// Nothing to transfer.
    #[error("the torrent has no content")]
    Empty,
    /// A symbolic link (BEP 47) that claims content.
    #[error("the torrent has a symbolic link with content")]
    Symlink,
    /// A path that can't be stored safely.
    #[error("the torrent can't be stored")]
    Path(#[from] PathError),
}

/// One file of a torrent.
#[derive(Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Safe components, relative to the download directory; the first one of a multi-file torrent is its name.
    pub path: Vec<String>,
    /// Length, bytes.
    pub len: u64,
    /// Padding (BEP 47): zeros that are never stored, nor asked for where the engine can avoid it.
    pub pad: bool,
}

impl fmt::Debug for FileEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileEntry")
            .field("len", &self.len)
            .field("pad", &self.pad)
            .finish_non_exhaustive()
    }
}

/// The info dictionary: what the infohash names.
#[derive(Clone, PartialEq, Eq)]
pub struct Info {
    /// Name of the file, or of the directory of the files.
    pub name: String,
    /// Length of each piece but the last, bytes.
    pub piece_len: u32,
    /// SHA-1 of each piece.
    pub pieces: Vec<[u8; 20]>,
    /// The files, in the order of their content.
    pub files: Vec<FileEntry>,
    /// Peers come from the trackers alone (BEP 27).
    pub private: bool,
    /// Length of all files, padding included, bytes.
    pub total: u64,
    /// The dictionary as it came: what the hash is of, and what is given to other peers.
    pub bytes: Arc<[u8]>,
    /// SHA-1 of [`Info::bytes`].
    pub hash: InfoHash,
}

impl fmt::Debug for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Info")
            .field("pieces", &self.pieces.len())
            .field("piece_len", &self.piece_len)
            .field("files", &self.files.len())
            .finish_non_exhaustive()
    }
}

impl Info {
    /// Reads an info dictionary and nothing else. Whether its hash is the wanted one is for the caller to compare.
    ///
    /// # Errors
    /// The torrent can't be used: tell the user why.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetainfoError> {
        if bytes.len() > MAX_TORRENT {
            return Err(MetainfoError::TooLarge);
        }
        Self::from_value(Value::parse(bytes)?)
    }

    fn from_value(value: Value<'_>) -> Result<Self, MetainfoError> {
        if !value.keys_sorted() {
            tracing::debug!(
                "the keys of this torrent are not sorted; its hash is of the bytes as they are"
            );
        }
        let [
            files,
            length,
            version,
            name,
            name_utf8,
            piece_len,
            pieces,
            private,
        ] = value.fields([
            "files",
            "length",
            "meta version",
            "name",
            "name.utf-8",
            "piece length",
            "pieces",
            "private",
        ])?;
        let Some(pieces) = pieces else {
            let v2 = version.and_then(Value::as_uint) == Some(2);
            let error = MetainfoError::Entry("pieces");
            return Err(if v2 {
                MetainfoError::Version2Only
            } else {
                error
            });
        };
        let (pieces, []) = pieces
            .as_bytes()
            .ok_or(MetainfoError::Entry("pieces"))?
            .as_chunks::<20>()
        else {
            return Err(MetainfoError::Entry("pieces"));
        };
        if pieces.len() > MAX_PIECES {
            return Err(MetainfoError::TooManyPieces);
        }
        let piece_len = piece_len
            .and_then(Value::as_uint)
            .ok_or(MetainfoError::Entry("piece length"))
            .and_then(|len| u32::try_from(len).map_err(|_| MetainfoError::PieceLength))?;
        if !(MIN_PIECE_LEN..=MAX_PIECE_LEN).contains(&piece_len) {
            return Err(MetainfoError::PieceLength);
        }
        let name = text(name_utf8, name).ok_or(MetainfoError::Entry("name"))?;
        paths::check_component(&name)?;
        let files = match (files, length) {
            (Some(files), None) => parse_files(&name, files)?,
            (None, Some(length)) => {
                let len = length.as_uint().ok_or(MetainfoError::Entry("length"))?;
                vec![FileEntry {
                    path: vec![name.clone()],
                    len,
                    pad: false,
                }]
            }
            (None, None) | (Some(_), Some(_)) => return Err(MetainfoError::Entry("length")),
        };
        let total = files
            .iter()
            .try_fold(0_u64, |sum, file| sum.checked_add(file.len));
        let total = total.ok_or(MetainfoError::PieceCount)?;
        if total == 0 {
            return Err(MetainfoError::Empty);
        }
        if total.div_ceil(u64::from(piece_len)) != pieces.len() as u64 {
            return Err(MetainfoError::PieceCount);
        }
        Ok(Self {
            name,
            piece_len,
            pieces: pieces.to_vec(),
            files,
            private: private.and_then(Value::as_int) == Some(1),
            total,
            bytes: value.raw().into(),
            hash: InfoHash(Sha1::digest(value.raw()).into()),
        })
    }

    /// Number of pieces.
    pub fn piece_count(&self) -> u32 {
        // At most MAX_PIECES.
        self.pieces.len() as u32
    }

    /// Length of a piece, bytes; 0 where there is no such piece.
    pub fn piece_size(&self, index: u32) -> u32 {
        let left = self
            .total
            .saturating_sub(u64::from(index) * u64::from(self.piece_len));
        // The smaller of the two fits, as one of them does.
        left.min(u64::from(self.piece_len)) as u32
    }
}

/// The text of a name: the UTF-8 entry where there is a good one, else the plain entry.
fn text(utf8: Option<Value<'_>>, plain: Option<Value<'_>>) -> Option<String> {
    if let Some(text) = utf8.and_then(Value::as_str) {
        return Some(text.to_owned());
    }
    plain.and_then(Value::as_bytes).map(paths::to_text)
}

fn parse_files(name: &str, files: Value<'_>) -> Result<Vec<FileEntry>, MetainfoError> {
    let mut out = Vec::new();
    for (seen, file) in files
        .as_list()
        .ok_or(MetainfoError::Entry("files"))?
        .enumerate()
    {
        if seen == MAX_FILES {
            return Err(MetainfoError::TooManyFiles);
        }
        let [attr, len, path, path_utf8] = file
            .fields(["attr", "length", "path", "path.utf-8"])
            .map_err(|_| MetainfoError::Entry("files"))?;
        let attr = attr.and_then(Value::as_bytes).unwrap_or_default();
        if attr.contains(&b'l') {
            // Links point out of a download as easily as into it; a link has no content, so leaving it out moves nothing.
            match len.map_or(Some(0), Value::as_uint) {
                Some(0) => continue,
                Some(_) | None => return Err(MetainfoError::Symlink),
            }
        }
        let len = len
            .and_then(Value::as_uint)
            .ok_or(MetainfoError::Entry("length"))?;
        let pad = attr.contains(&b'p');
        let path = if pad {
            // Never stored, often named alike: the names in the torrent do not matter.
            vec![name.to_owned(), ".pad".to_owned(), len.to_string()]
        } else {
            parse_path(name, path_utf8, path)?
        };
        out.push(FileEntry { path, len, pad });
    }
    paths::check_distinct(
        out.iter()
            .filter(|file| !file.pad)
            .map(|file| &file.path[..]),
    )?;
    Ok(out)
}

fn parse_path(
    name: &str,
    utf8: Option<Value<'_>>,
    plain: Option<Value<'_>>,
) -> Result<Vec<String>, MetainfoError> {
    let good = utf8.and_then(Value::as_list).filter(|items| {
        let mut items = items.clone().peekable();
        items.peek().is_some() && items.all(|item| item.as_str().is_some())
    });
    let items = match good {
        Some(items) => items,
        None => plain
            .and_then(Value::as_list)
            .ok_or(MetainfoError::Entry("path"))?,
    };
    let mut path = vec![name.to_owned()];
    for item in items {
        if path.len() == MAX_COMPONENTS {
            return Err(PathError::TooDeep.into());
        }
        let component = text(None, Some(item)).ok_or(MetainfoError::Entry("path"))?;
        paths::check_component(&component)?;
        path.push(component);
    }
    if path.len() == 1 {
        return Err(PathError::Empty.into());
    }
    Ok(path)
}

/// A torrent file: the info dictionary and where to find peers.
#[derive(Clone, PartialEq, Eq)]
pub struct Metainfo {
    /// What the torrent holds.
    pub info: Info,
    /// Tracker URLs in tiers: those of a tier are equals, a later tier is for when the one before fails (BEP 12).
    pub trackers: Vec<Vec<String>>,
}

impl fmt::Debug for Metainfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metainfo")
            .field("info", &self.info)
            .field("tiers", &self.trackers.len())
            .finish()
    }
}

impl Metainfo {
    /// Reads a torrent file. Bytes after its end are ignored, as everybody does.
    ///
    /// # Errors
    /// The torrent can't be used: tell the user why.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetainfoError> {
        if bytes.len() > MAX_TORRENT {
            return Err(MetainfoError::TooLarge);
        }
        let (value, _) = Value::parse_prefix(bytes)?;
        let [announce, list, info] = value.fields(["announce", "announce-list", "info"])?;
        let info = Info::from_value(info.ok_or(MetainfoError::Entry("info"))?)?;
        let tiers = list.and_then(Value::as_list).into_iter().flatten();
        let mut trackers = bounded_tiers(tiers.map(|tier| {
            tier.as_list()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
        }));
        if trackers.is_empty() {
            trackers = bounded_tiers(std::iter::once(announce.and_then(Value::as_str)));
        }
        Ok(Self { info, trackers })
    }

    /// The torrent file, canonical but for the info dictionary, which stays as it came.
    pub fn encode(&self) -> Vec<u8> {
        encode(&self.trackers, &self.info.bytes)
    }
}

/// Keeps what can be a URL, each once, and no more than the limits.
fn bounded_tiers<'a, T>(tiers: impl Iterator<Item = T>) -> Vec<Vec<String>>
where
    T: IntoIterator<Item = &'a str>,
{
    let mut seen = std::collections::BTreeSet::new();
    let mut out = Vec::new();
    for tier in tiers {
        let mut kept = Vec::new();
        for url in tier {
            let url = url.trim();
            let fit = !url.is_empty()
                && url.len() <= MAX_TRACKER_URL
                && !url.chars().any(char::is_control)
                && seen.len() < MAX_TRACKERS;
            if fit && seen.insert(url) {
                kept.push(url.to_owned());
            }
        }
        if !kept.is_empty() {
            out.push(kept);
        }
        if seen.len() == MAX_TRACKERS {
            break;
        }
    }
    out
}

fn encode(trackers: &[Vec<String>], info: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(info.len() + 256);
    let count: usize = trackers.iter().map(Vec::len).sum();
    bencode::put_dict(&mut out, |dict| {
        if let Some(first) = trackers.iter().flatten().next() {
            bencode::put_bytes(dict.key("announce"), first);
        }
        if count > 1 {
            bencode::put_list(dict.key("announce-list"), |out| {
                for tier in trackers {
                    bencode::put_list(out, |out| {
                        tier.iter().for_each(|url| bencode::put_bytes(out, url));
                    });
                }
            });
        }
        dict.key("info").extend_from_slice(info);
    });
    out
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
    /// Peers come from the trackers alone (BEP 27).
    pub private: bool,
}

impl Builder {
    /// Starts a torrent: sorts the files, since the order a file system lists them in tells machines apart, and
    /// chooses a piece length.
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
            private: false,
        }
    }

    /// Makes the torrent and the bytes of its file.
    ///
    /// # Errors
    /// The content makes no torrent that we would read (names, sizes, number of hashes): tell the user why.
    pub fn finish(self, piece_hashes: Vec<[u8; 20]>) -> Result<(Metainfo, Vec<u8>), MetainfoError> {
        let mut info = Vec::with_capacity(piece_hashes.len() * 20 + 256);
        let single = match &self.files[..] {
            [(path, len)] if path.is_empty() => Some(*len),
            _ => None,
        };
        bencode::put_dict(&mut info, |dict| {
            if single.is_none() {
                bencode::put_list(dict.key("files"), |out| {
                    self.files
                        .iter()
                        .for_each(|(path, len)| put_file(out, path, *len));
                });
            }
            if let Some(len) = single {
                bencode::put_int(dict.key("length"), len);
            }
            bencode::put_bytes(dict.key("name"), &self.name);
            bencode::put_int(dict.key("piece length"), self.piece_len);
            bencode::put_bytes(dict.key("pieces"), piece_hashes.as_flattened());
            if self.private {
                bencode::put_int(dict.key("private"), 1);
            }
        });
        let trackers = bounded_tiers(self.trackers.iter().map(|t| t.iter().map(String::as_str)));
        let bytes = encode(&trackers, &info);
        // Reading it back applies every rule that others' torrents must keep.
        Ok((Metainfo::parse(&bytes)?, bytes))
    }
}

fn put_file(out: &mut Vec<u8>, path: &[String], len: u64) {
    bencode::put_dict(out, |dict| {
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

#[cfg(test)]
mod tests;
