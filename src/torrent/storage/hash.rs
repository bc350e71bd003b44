//! Hashing what lies on disk, on several threads.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use sha1::{Digest, Sha1};

use super::files::{Files, Layout};
use super::{StorageError, lock};
use crate::torrent::picker::Bits;

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// Hashes files that are to become a torrent: paths below `root`, in the torrent's order, with their lengths. Blocks;
/// `progress` counts pieces.
///
/// # Errors
/// A file is missing, shorter than said, or behind a link: tell the user.
pub fn hash_files(
    root: &Path,
    files: &[(Vec<String>, u64)],
    piece_len: u32,
    threads: usize,
    progress: &AtomicU32,
) -> Result<Vec<[u8; 20]>, StorageError> {
    let files = Files::new(root, Layout::unhashed(files, piece_len), false)?;
    let pieces = files.layout.geometry.pieces;
    let hashes = Mutex::new(vec![[0; 20]; pieces as usize]);
    let failure = Mutex::new(None);
    each(0..pieces, threads, |piece, scratch| {
        if lock(&failure).is_none() {
            match hash(&files, piece, scratch) {
                Ok(found) => {
                    if let Some(slot) = lock(&hashes).get_mut(piece as usize) {
                        *slot = found;
                    }
                }
                Err(error) => *lock(&failure) = Some(error),
            }
            progress.fetch_add(1, Ordering::Relaxed);
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(hashes.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

/// Gives those of `pieces` that are right.
pub(super) fn check(files: &Files, pieces: &Bits, threads: usize, progress: &AtomicU32) -> Bits {
    let right = Mutex::new(Bits::new(files.layout.geometry.pieces));
    each(pieces.ones(), threads, |piece, scratch| {
        let expected = files.layout.hashes.get(piece as usize);
        if hash(files, piece, scratch).ok().as_ref() == expected && expected.is_some() {
            lock(&right).set(piece);
        }
        progress.fetch_add(1, Ordering::Relaxed);
    });
    right.into_inner().unwrap_or_else(PoisonError::into_inner)
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

fn hash(files: &Files, piece: u32, scratch: &mut Vec<u8>) -> Result<[u8; 20], StorageError> {
    let layout = &files.layout;
    let len = layout.geometry.len_of(piece) as usize;
    scratch.resize(len.min(CHUNK), 0);
    let mut sha = Sha1::new();
    let mut done = 0;
    while done < len {
        let part = (len - done).min(CHUNK);
        let room = scratch.get_mut(..part).ok_or(StorageError::Missing)?;
        files.read_at(layout.start_of(piece) + done as u64, room)?;
        sha.update(room);
        done += part;
    }
    Ok(sha.finalize().into())
}
