//! Reading blocks that peers asked for: those that lie one behind another by one system call.

use std::io::IoSliceMut;

use super::files::Files;
use super::{Storage, StorageError};
use crate::torrent::wire::BlockRef;

impl Storage {
    /// Reads blocks of verified pieces into `out`, one behind another, each with `before` bytes in front of it that are left as they
    /// are: what `out` held goes, but for its memory. Blocks.
    ///
    /// # Errors
    /// A file is gone or can't be read: serve none of them.
    pub fn read_blocks(
        &self,
        blocks: &[BlockRef],
        before: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), StorageError> {
        let geometry = self.geometry();
        if !blocks.iter().all(|block| geometry.contains(*block)) {
            return Err(StorageError::Missing);
        }
        let lens = blocks.iter().map(|block| before + block.len as usize);
        // What is there already is overwritten without being cleared.
        out.resize(lens.sum(), 0);
        let mut rest = &mut out[..];
        let mut run = Run::default();
        for block in blocks {
            let (part, more) = rest
                .split_at_mut_checked(before + block.len as usize)
                .ok_or(StorageError::Missing)?;
            rest = more;
            let at = self.files.layout.start_of(block.index) + u64::from(block.begin);
            let room = part.get_mut(before..).ok_or(StorageError::Missing)?;
            if run.end != at {
                run.read(&self.files)?;
                (run.start, run.end) = (at, at);
            }
            run.end += room.len() as u64;
            run.parts.push(room);
        }
        run.read(&self.files)
    }
}

/// Places for bytes that lie one behind another in the torrent.
#[derive(Default)]
struct Run<'a> {
    start: u64,
    end: u64,
    parts: Vec<&'a mut [u8]>,
}

impl Run<'_> {
    fn read(&mut self, files: &Files) -> Result<(), StorageError> {
        let mut parts = std::mem::take(&mut self.parts);
        if parts.len() > 1 && self.read_at_once(files, &mut parts)? {
            return Ok(());
        }
        let mut at = self.start;
        for part in parts {
            files.read_at(at, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// `false` where they are not all of one file, or not all came.
    fn read_at_once(&self, files: &Files, parts: &mut [&mut [u8]]) -> Result<bool, StorageError> {
        let len = self.end - self.start;
        let Some((file, offset)) = files.one_file(self.start, len)? else {
            return Ok(false);
        };
        let mut slices: Vec<IoSliceMut<'_>> =
            parts.iter_mut().map(|part| IoSliceMut::new(part)).collect();
        let read = rustix::io::preadv(&*file, &mut slices, offset);
        Ok(read.is_ok_and(|read| read as u64 == len))
    }
}
