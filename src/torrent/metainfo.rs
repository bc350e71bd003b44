//! Torrent files (BEP 3, 12, 17, 19, 27, 47, 52): what is in a torrent, and the making of one.
//!
//! One layout for all versions: files one after another, and between them padding, which a torrent of version 2 alone implies and the
//! others name. Of the attributes of BEP 47 only padding and links matter: no file is ever made executable, since whoever made the
//! torrent would decide that.
//!
//! What we make is canonical: the same files give the same bytes on every machine, with no date, program or comment.

mod build;
mod paths;
mod tree;
mod web;

use std::fmt;
use std::sync::Arc;

use sha1::{Digest, Sha1};

use super::infohash::{InfoHash, InfoHashV2};
use super::picker::Short;
use super::v2::{HashedFiles, LayerError};
use crate::bencode::{self, BencodeError, Value};
pub use build::{Builder, PieceHashes, Version, choose_piece_len};
pub use paths::{MAX_COMPONENT, MAX_COMPONENTS, PathError};
pub use web::{MAX_WEB_SEEDS, WebKind, WebSeed};

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
    /// A version that did not exist when this was written.
    #[error(
        "a torrent of version {0}, which this program does not know: look for a newer version of hushswarm"
    )]
    NewerVersion(u64),
    /// A hybrid torrent whose parts for version 1 and 2 are of other files, or of the same ones at other places.
    #[error(
        "the torrent describes its files twice, for version 1 and version 2, and the two do not agree"
    )]
    Disagree,
    /// The hashes outside the info dictionary are not those of its files.
    #[error("{0}")]
    Layers(#[from] LayerError),
    /// Version 2 has pieces of 16 KiB, doubled some times.
    #[error("the piece length is no power of two, as version 2 demands")]
    NotPowerOfTwo,
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
    /// SHA-1 of each piece; empty in a torrent of version 2 alone.
    pub pieces: Vec<[u8; 20]>,
    /// The trees of version 2, where there are any.
    pub v2: Option<Arc<HashedFiles>>,
    /// Pieces that end in padding, which nobody need ask for.
    pub short: Option<Short>,
    /// The files, in the order of their content.
    pub files: Vec<FileEntry>,
    /// Peers come from the trackers alone (BEP 27).
    pub private: bool,
    /// Length of all files, padding included, bytes.
    pub total: u64,
    /// The dictionary as it came: what the hash is of, and what is given to other peers.
    pub bytes: Arc<[u8]>,
    /// What stands for the torrent: SHA-1 of [`Info::bytes`], or in one of version 2 alone its truncated SHA-256.
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
            tree,
            length,
            version,
            name,
            name_utf8,
            piece_len,
            pieces,
            private,
        ] = value.fields([
            "files",
            "file tree",
            "length",
            "meta version",
            "name",
            "name.utf-8",
            "piece length",
            "pieces",
            "private",
        ])?;
        let tree = match version.and_then(Value::as_uint) {
            Some(2) => Some(tree.ok_or(MetainfoError::Entry("file tree"))?),
            Some(newer @ 3..) => return Err(MetainfoError::NewerVersion(newer)),
            Some(0 | 1) | None => None,
        };
        let pieces = match pieces {
            Some(pieces) => {
                let (pieces, []) = pieces
                    .as_bytes()
                    .ok_or(MetainfoError::Entry("pieces"))?
                    .as_chunks::<20>()
                else {
                    return Err(MetainfoError::Entry("pieces"));
                };
                Some(pieces)
            }
            None if tree.is_some() => None,
            None => return Err(MetainfoError::Entry("pieces")),
        };
        if pieces.is_some_and(|pieces| pieces.len() > MAX_PIECES) {
            return Err(MetainfoError::TooManyPieces);
        }
        let piece_len = piece_len
            .and_then(Value::as_uint)
            .ok_or(MetainfoError::Entry("piece length"))
            .and_then(|len| u32::try_from(len).map_err(|_| MetainfoError::PieceLength))?;
        if !(MIN_PIECE_LEN..=MAX_PIECE_LEN).contains(&piece_len) {
            return Err(MetainfoError::PieceLength);
        }
        if tree.is_some() && !piece_len.is_power_of_two() {
            return Err(MetainfoError::NotPowerOfTwo);
        }
        let mut name = text(name_utf8, name).ok_or(MetainfoError::Entry("name"))?;
        paths::check_component(&name)?;
        let tree = tree.map(tree::parse).transpose()?;
        let files = match (pieces, files, length) {
            (None, ..) => {
                let tree = tree.as_deref().unwrap_or_default();
                if let Some(only) = tree::single(tree) {
                    only.clone_into(&mut name);
                }
                tree::lay_out(&name, tree, piece_len)?
            }
            (Some(_), Some(files), None) => parse_files(&name, files)?,
            (Some(_), None, Some(length)) => {
                let len = length.as_uint().ok_or(MetainfoError::Entry("length"))?;
                vec![FileEntry {
                    path: vec![name.clone()],
                    len,
                    pad: false,
                }]
            }
            (Some(_), None, None) | (Some(_), Some(_), Some(_)) => {
                return Err(MetainfoError::Entry("length"));
            }
        };
        let total = files
            .iter()
            .try_fold(0_u64, |sum, file| sum.checked_add(file.len));
        let total = total.ok_or(MetainfoError::PieceCount)?;
        if total == 0 {
            return Err(MetainfoError::Empty);
        }
        let count = total.div_ceil(u64::from(piece_len));
        if pieces.is_some_and(|pieces| pieces.len() as u64 != count) {
            return Err(MetainfoError::PieceCount);
        }
        if count > MAX_PIECES as u64 {
            return Err(MetainfoError::TooManyPieces);
        }
        let bytes: Arc<[u8]> = value.raw().into();
        let v2 = match &tree {
            Some(tree) => {
                let hash = InfoHashV2::of(&bytes);
                Some(tree::match_up(hash, &files, tree, piece_len)?)
            }
            None => None,
        };
        let hash = match (&pieces, &v2) {
            (None, Some(v2)) => v2.hash.truncated(),
            (Some(_), _) | (None, None) => InfoHash(Sha1::digest(&bytes).into()),
        };
        Ok(Self {
            name,
            piece_len,
            pieces: pieces.unwrap_or_default().to_vec(),
            v2: v2.map(Arc::new),
            short: Short::of(&files, piece_len),
            files,
            private: private.and_then(Value::as_int) == Some(1),
            total,
            bytes,
            hash,
        })
    }

    /// The other name of a hybrid torrent: its truncated SHA-256.
    pub fn second_hash(&self) -> Option<InfoHash> {
        let v2 = self.v2.as_ref()?.hash.truncated();
        (v2 != self.hash).then_some(v2)
    }

    /// Whether this is what the hashes name.
    pub fn is_named(&self, hash: InfoHash, v2: Option<InfoHashV2>) -> bool {
        is_named(&self.bytes, hash, v2)
    }

    /// Whether there is no hash for some piece yet: those of version 2 have to be fetched.
    pub fn lacks_hashes(&self) -> bool {
        let incomplete = self.v2.as_ref().is_some_and(|v2| !v2.is_complete());
        self.pieces.is_empty() && incomplete
    }

    /// Learns `piece layers`, bencoded.
    ///
    /// # Errors
    /// They are not those of the files.
    pub fn learn_layers(&mut self, layers: &[u8]) -> Result<(), MetainfoError> {
        self.learn_layers_of(Value::parse(layers)?)
    }

    fn learn_layers_of(&mut self, layers: Value<'_>) -> Result<(), MetainfoError> {
        if let Some(v2) = &mut self.v2 {
            Arc::make_mut(v2).learn_all(layers)?;
        }
        Ok(())
    }

    /// `piece layers` as far as they are known, bencoded; empty in a torrent of version 1.
    pub fn layers(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(v2) = &self.v2 {
            v2.encode_layers(&mut out);
        }
        out
    }

    /// Bytes to download: the files, and padding only where it can't be told apart.
    pub fn content(&self) -> u64 {
        let cut = self.short.as_ref().map_or(0, Short::cut);
        self.total.saturating_sub(cut)
    }

    /// Number of pieces.
    pub fn piece_count(&self) -> u32 {
        // At most MAX_PIECES.
        self.total.div_ceil(u64::from(self.piece_len)) as u32
    }

    /// Length of a piece, its padding included, bytes; 0 where there is no such piece.
    pub fn piece_size(&self, index: u32) -> u32 {
        let left = self
            .total
            .saturating_sub(u64::from(index) * u64::from(self.piece_len));
        // The smaller of the two fits, as one of them does.
        left.min(u64::from(self.piece_len)) as u32
    }
}

/// Whether an info dictionary is what the hashes name: the first is SHA-1 or truncated SHA-256, the second, where it is known, SHA-256
/// in full.
pub fn is_named(info: &[u8], hash: InfoHash, v2: Option<InfoHashV2>) -> bool {
    let first = InfoHash(Sha1::digest(info).into());
    let second = InfoHashV2::of(info);
    (first == hash || second.truncated() == hash) && v2.is_none_or(|v2| v2 == second)
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
    /// Servers that have its content, at most [`MAX_WEB_SEEDS`].
    pub web_seeds: Vec<WebSeed>,
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
        let [announce, list, pieces, info, layers, files] = value.fields([
            "announce",
            "announce-list",
            "httpseeds",
            "info",
            "piece layers",
            "url-list",
        ])?;
        let mut info = Info::from_value(info.ok_or(MetainfoError::Entry("info"))?)?;
        // Where they are missing, they are fetched as for a magnet link.
        if let Some(layers) = layers {
            info.learn_layers_of(layers)?;
        }
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
        Ok(Self {
            info,
            trackers,
            web_seeds: WebSeed::read(files, pieces),
        })
    }

    /// The torrent file, canonical but for the info dictionary, which stays as it came.
    pub fn encode(&self) -> Vec<u8> {
        encode(
            &self.trackers,
            &self.web_seeds,
            &self.info.bytes,
            &self.info.layers(),
        )
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

/// `layers` are bencoded, or empty.
fn encode(trackers: &[Vec<String>], web: &[WebSeed], info: &[u8], layers: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(info.len() + layers.len() + 256);
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
        let pieces = WebSeed::of(web, WebKind::Pieces);
        if !pieces.is_empty() {
            // Always a list (BEP 17).
            bencode::put_list(dict.key("httpseeds"), |out| {
                pieces.iter().for_each(|url| bencode::put_bytes(out, url));
            });
        }
        dict.key("info").extend_from_slice(info);
        if !layers.is_empty() {
            dict.key("piece layers").extend_from_slice(layers);
        }
        let files = WebSeed::of(web, WebKind::Files);
        if !files.is_empty() {
            WebSeed::put_list(dict.key("url-list"), &files);
        }
    });
    out
}

#[cfg(test)]
mod tests;
