//! Parts of files in which nothing was ever written. A check of a large torrent that has just begun must not read them.

use std::fs::File;
use std::sync::OnceLock;

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use sha1::{Digest, Sha1};

use super::StorageError;
use super::files::{Files, Layout};
use crate::torrent::v2::merkle::{Hash, join, sha256};
use crate::torrent::wire::BLOCK;

impl Files {
    /// Tells whether a part of the torrent is stored nowhere, and reads as zeros. `false` where that is not known.
    pub(super) fn is_hole(&self, at: u64, len: u64) -> Result<bool, StorageError> {
        let Some((file, offset)) = self.one_file(at, len)? else {
            return Ok(false);
        };
        let held = file.metadata().map_err(|e| StorageError::from_io(&e))?;
        Ok(held.len() >= offset + len && is_hole(&file, offset, len))
    }

    /// Bytes that the files take up on the disk.
    #[cfg(test)]
    pub(super) fn stored(&self, files: usize) -> u64 {
        let held = |index| self.get(index, false).ok()?.metadata().ok();
        let blocks = |m: std::fs::Metadata| std::os::unix::fs::MetadataExt::blocks(&m);
        (0..files).filter_map(held).map(|m| blocks(m) * 512).sum()
    }
}

fn is_hole(file: &File, offset: u64, len: u64) -> bool {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => data >= offset + len,
        // Nothing but a hole up to the end.
        Err(errno) => errno == Errno::NXIO,
    }
}

/// What whole pieces of zeros hash to, found once.
#[derive(Default)]
pub(super) struct Zeros {
    v1: OnceLock<[u8; 20]>,
    /// By the level of the tree.
    v2: OnceLock<Vec<Hash>>,
}

impl Zeros {
    /// Tells whether a piece that is a hole is right. `None`: it has to be read, since it is not a whole one.
    pub(super) fn are_right(&self, layout: &Layout, piece: u32) -> Option<bool> {
        let len = layout.geometry.piece_len;
        if layout.geometry.len_of(piece) != len || !len.is_multiple_of(BLOCK) {
            return None;
        }
        let known = layout.v2.as_ref().and_then(|v2| v2.piece(piece));
        let v2 = match known {
            // The tree of a small file is not as high as that of a piece.
            Some((level, _)) if 1_u32.checked_shl(level) != Some(len / BLOCK) => return None,
            Some((level, wanted)) => Some(self.v2().get(level as usize) == Some(&wanted)),
            None => None,
        };
        let v1 = layout.has_v1.then(|| {
            let found = self.v1.get_or_init(|| v1(len));
            layout.hashes.get(piece as usize) == Some(found)
        });
        match (v1, v2) {
            (None, None) => None,
            (v1, v2) => Some(v1 != Some(false) && v2 != Some(false)),
        }
    }

    fn v2(&self) -> &[Hash] {
        self.v2.get_or_init(|| {
            let block = sha256(&[0; BLOCK as usize]);
            let levels = std::iter::successors(Some(block), |below| Some(join(below, below)));
            levels.take(u32::BITS as usize).collect()
        })
    }
}

fn v1(len: u32) -> [u8; 20] {
    let mut sha = Sha1::new();
    (0..len / BLOCK).for_each(|_| sha.update([0; BLOCK as usize]));
    sha.finalize().into()
}
