//! Hashing what lies on disk, on several threads.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::digest::PieceHasher;
use super::files::{Files, Layout};
use super::holes::Zeros;
use super::{StorageError, lock};
use crate::torrent::metainfo::{Builder, MAX_PIECES, PieceHashes};
use crate::torrent::picker::Bits;

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// Hashes files that are to become a torrent: they lie below `root` under its name. Blocks; `progress` counts pieces.
///
/// # Errors
/// A file is missing, shorter than said, or behind a link: tell the user.
pub fn hash_files(
    root: &Path,
    torrent: &Builder,
    threads: usize,
    progress: &AtomicU32,
) -> Result<PieceHashes, StorageError> {
    let files = Files::new(root, Layout::unhashed(torrent), false)?;
    let pieces = files.layout.geometry.pieces as usize;
    if pieces > MAX_PIECES {
        return Err(StorageError::TooLarge);
    }
    let hashes = Mutex::new(vec![([0; 20], [0; 32]); pieces]);
    let failure = Mutex::new(None);
    each(0..pieces as u32, threads, |piece, scratch| {
        if lock(&failure).is_none() {
            match hash(&files, piece, scratch) {
                Ok(hasher) => {
                    let found = files.layout.hash_of(piece, hasher);
                    if let Some(slot) = lock(&hashes).get_mut(piece as usize) {
                        *slot = found;
                    }
                }
                Err(error) => *lock(&failure) = Some(error),
            }
            progress.fetch_add(1, Ordering::Relaxed);
        }
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let hashes = hashes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (v1, v2): (Vec<_>, Vec<_>) = hashes.into_iter().unzip();
    let version = torrent.version;
    Ok(PieceHashes {
        v1: if version.has_v1() { v1 } else { Vec::new() },
        v2: if version.has_v2() { v2 } else { Vec::new() },
    })
}

/// Gives those of `pieces` that are right.
pub(super) fn check(files: &Files, pieces: &Bits, threads: usize, progress: &AtomicU32) -> Bits {
    let right = Mutex::new(Bits::new(files.layout.geometry.pieces));
    let zeros = Zeros::default();
    each(pieces.ones(), threads, |piece, scratch| {
        if is_right(files, piece, &zeros, scratch).unwrap_or(false) {
            lock(&right).set(piece);
        }
        progress.fetch_add(1, Ordering::Relaxed);
    });
    right.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn is_right(
    files: &Files,
    piece: u32,
    zeros: &Zeros,
    scratch: &mut Vec<u8>,
) -> Result<bool, StorageError> {
    let layout = &files.layout;
    let len = u64::from(layout.geometry.len_of(piece));
    if files.is_hole(layout.start_of(piece), len)?
        && let Some(right) = zeros.are_right(layout, piece)
    {
        return Ok(right);
    }
    Ok(layout.is_right(piece, hash(files, piece, scratch)?))
}

/// Runs `work` for each piece, with a buffer that each thread keeps.
fn each(
    pieces: impl Iterator<Item = u32> + Send,
    threads: usize,
    work: impl Fn(u32, &mut Vec<u8>) + Sync,
) {
    let todo = Mutex::new(pieces);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut scratch = Vec::new();
                loop {
                    // In its own statement, so that the lock is not held while hashing.
                    let next = lock(&todo).next();
                    let Some(piece) = next else { return };
                    work(piece, &mut scratch);
                }
            });
        }
    });
}

fn hash(files: &Files, piece: u32, scratch: &mut Vec<u8>) -> Result<PieceHasher, StorageError> {
    let layout = &files.layout;
    let len = layout.geometry.len_of(piece) as usize;
    scratch.resize(len.min(CHUNK), 0);
    let mut hasher = layout.hasher(piece);
    let mut done = 0;
    while done < len {
        let part = (len - done).min(CHUNK);
        let room = scratch.get_mut(..part).ok_or(StorageError::Missing)?;
        files.read_at(layout.start_of(piece) + done as u64, room)?;
        hasher.update(room);
        done += part;
    }
    Ok(hasher)
}
