//! The file tree of version 2 (BEP 52), and whether it agrees with the files of version 1.

use super::paths::{self, MAX_COMPONENTS, PathError};
use super::{FileEntry, MAX_FILES, MAX_PIECES, MetainfoError};
use crate::bencode::Value;
use crate::torrent::infohash::InfoHashV2;
use crate::torrent::v2::HashedFiles;
use crate::torrent::v2::merkle::Hash;

/// A file of the tree.
#[derive(Debug)]
pub(super) struct TreeFile {
    /// Below the torrent's name; that of a torrent of one file is the name.
    pub(super) path: Vec<String>,
    pub(super) len: u64,
    /// Root of its hashes; `None` where it is empty.
    root: Option<Hash>,
}

/// Reads a file tree. Its files come in the order of their content.
///
/// # Errors
/// The torrent can't be used: tell the user why.
pub(super) fn parse(tree: Value<'_>) -> Result<Vec<TreeFile>, MetainfoError> {
    let mut files = Vec::new();
    walk(tree, &mut Vec::new(), &mut files)?;
    paths::check_distinct(files.iter().map(|file: &TreeFile| &file.path[..]))?;
    Ok(files)
}

fn walk(
    tree: Value<'_>,
    path: &mut Vec<String>,
    files: &mut Vec<TreeFile>,
) -> Result<(), MetainfoError> {
    let malformed = MetainfoError::Entry("file tree");
    let mut entries = tree.as_dict().ok_or(malformed.clone())?.peekable();
    if entries.peek().is_some_and(|(name, _)| name.is_empty()) {
        let properties = entries.next().map(|(_, properties)| properties);
        // A file has nothing below it, and the root is no file.
        if path.is_empty() || entries.next().is_some() {
            return Err(malformed);
        }
        return take(properties.ok_or(malformed)?, path, files);
    }
    for (name, below) in entries {
        // The torrent's name stands before these.
        if path.len() + 1 == MAX_COMPONENTS {
            return Err(PathError::TooDeep.into());
        }
        let name = paths::to_text(name);
        paths::check_component(&name)?;
        path.push(name);
        walk(below, path, files)?;
        path.pop();
    }
    Ok(())
}

fn take(
    properties: Value<'_>,
    path: &[String],
    files: &mut Vec<TreeFile>,
) -> Result<(), MetainfoError> {
    let [attr, len, root] = properties
        .fields(["attr", "length", "pieces root"])
        .map_err(|_| MetainfoError::Entry("file tree"))?;
    let attr = attr.and_then(Value::as_bytes).unwrap_or_default();
    if attr.contains(&b'l') {
        return match len.map_or(Some(0), Value::as_uint) {
            Some(0) => Ok(()),
            Some(_) | None => Err(MetainfoError::Symlink),
        };
    }
    let len = len
        .and_then(Value::as_uint)
        .ok_or(MetainfoError::Entry("length"))?;
    let root = match root {
        _ if len == 0 => None,
        Some(root) => {
            let root = root.as_bytes().and_then(|root| root.try_into().ok());
            Some(root.ok_or(MetainfoError::Entry("pieces root"))?)
        }
        None => return Err(MetainfoError::Entry("pieces root")),
    };
    if files.len() == MAX_FILES {
        return Err(MetainfoError::TooManyFiles);
    }
    files.push(TreeFile {
        path: path.to_vec(),
        len,
        root,
    });
    Ok(())
}

/// The name of the one file that a tree has at its top, if that is all.
pub(super) fn single(tree: &[TreeFile]) -> Option<&str> {
    match tree {
        [only] => match &only.path[..] {
            [name] => Some(name),
            _ => None,
        },
        _ => None,
    }
}

/// Lays out the files of a torrent of version 2 alone: each begins at a piece, so there is padding between them.
///
/// # Errors
/// There are too many pieces.
pub(super) fn lay_out(
    name: &str,
    tree: &[TreeFile],
    piece_len: u32,
) -> Result<Vec<FileEntry>, MetainfoError> {
    let mut out: Vec<FileEntry> = Vec::with_capacity(tree.len() * 2);
    let mut end = 0_u64;
    let most = MAX_PIECES as u64 * u64::from(piece_len);
    for file in tree {
        let gap = end.next_multiple_of(u64::from(piece_len)) - end;
        if file.len > 0 && gap > 0 {
            out.push(padding(name, gap));
            end += gap;
        }
        let mut path = file.path.clone();
        if single(tree).is_none() {
            path.insert(0, name.to_owned());
        }
        out.push(FileEntry {
            path,
            len: file.len,
            pad: false,
        });
        // Before anything is rounded up, so that nothing overflows.
        if file.len > most - end {
            return Err(MetainfoError::TooManyPieces);
        }
        end += file.len;
    }
    Ok(out)
}

/// Padding, under the name that it has in torrents of version 1.
pub(super) fn padding(name: &str, len: u64) -> FileEntry {
    FileEntry {
        path: vec![name.to_owned(), ".pad".to_owned(), len.to_string()],
        len,
        pad: true,
    }
}

/// Joins the tree with the layout: both have to be of the same files, and each file has to begin at a piece, with no more padding
/// than that takes.
///
/// # Errors
/// [`MetainfoError::Disagree`]: refuse the torrent, of which two programs could make two different things.
pub(super) fn match_up(
    hash: InfoHashV2,
    files: &[FileEntry],
    tree: &[TreeFile],
    piece_len: u32,
) -> Result<HashedFiles, MetainfoError> {
    let mut hashed = HashedFiles::new(hash, piece_len);
    let piece = u64::from(piece_len);
    let mut rest = tree.iter();
    let (mut at, mut end) = (0_u64, 0_u64);
    for file in files {
        if file.pad {
            at += file.len;
            continue;
        }
        let twin = rest.next().ok_or(MetainfoError::Disagree)?;
        // Without a folder, the path is the name alone in both.
        let below = match &file.path[..] {
            [name] => std::slice::from_ref(name),
            [_, below @ ..] => below,
            [] => &[],
        };
        if twin.path != below || twin.len != file.len {
            return Err(MetainfoError::Disagree);
        }
        if let Some(root) = twin.root {
            if at != end.next_multiple_of(piece) {
                return Err(MetainfoError::Disagree);
            }
            // The caller bounds the number of pieces.
            let first = u32::try_from(at / piece).map_err(|_| MetainfoError::Disagree)?;
            hashed.push(root, first, file.len);
            end = at + file.len;
        }
        at += file.len;
    }
    if rest.next().is_some() || at > end.next_multiple_of(piece) {
        return Err(MetainfoError::Disagree);
    }
    Ok(hashed)
}
