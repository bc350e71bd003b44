//! What was verified since the record was written, appended after each group of pieces: a record in full costs too much for that.
//!
//! An entry is sealed like the record and bound to it and to its place, so that a journal of an older record, one that was cut
//! short and one that was put together by somebody count as far as they are whole and in order.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rand::Rng;
use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};

use super::{Record, put_len, take, take_u32};
use crate::torrent::picker::Bits;
use crate::torrent::storage::{FileMark, StorageError};

/// A journal may grow to this, bytes, or to the length of its record if that is longer: then writing all of it anew costs no more
/// than was saved.
const LEAST_LIMIT: usize = 64 << 10;

/// What stands before a sealed entry: its length and the nonce.
const HEAD_LEN: usize = 4 + NONCE_LEN;

/// One group of pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// When it was written, nanoseconds since 1970.
    pub(super) at: i128,
    /// Pieces that are verified now.
    pub(super) pieces: Vec<u32>,
    /// Files that changed, by their number, and what they look like now.
    pub(super) marks: Vec<(u32, FileMark)>,
}

impl Entry {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = self.at.to_be_bytes().to_vec();
        put_len(&mut out, self.pieces.len());
        for piece in &self.pieces {
            out.extend_from_slice(&piece.to_be_bytes());
        }
        put_len(&mut out, self.marks.len());
        for (file, mark) in &self.marks {
            out.extend_from_slice(&file.to_be_bytes());
            out.extend_from_slice(&mark.len.to_be_bytes());
            out.extend_from_slice(&mark.mtime.to_be_bytes());
        }
        out
    }

    /// `None` where anything is missing or too much: what it claims is not known then.
    pub(super) fn decode(mut rest: &[u8]) -> Option<Self> {
        let rest = &mut rest;
        let at = i128::from_be_bytes(take(rest)?);
        let mut pieces = Vec::new();
        for _ in 0..take_u32(rest)? {
            pieces.push(take_u32(rest)?);
        }
        let mut marks = Vec::new();
        for _ in 0..take_u32(rest)? {
            let file = take_u32(rest)?;
            let len = u64::from_be_bytes(take(rest)?);
            let mtime = i128::from_be_bytes(take(rest)?);
            marks.push((file, FileMark { len, mtime }));
        }
        rest.is_empty().then_some(Self { at, pieces, marks })
    }

    /// Brings a record up to date. `false` where the entry can't be one of its.
    fn apply(&self, record: &mut Record) -> bool {
        let pieces = record.had.len();
        let files = record.marks.len();
        if !self.pieces.iter().all(|piece| *piece < pieces)
            || !self.marks.iter().all(|(file, _)| (*file as usize) < files)
        {
            return false;
        }
        for piece in &self.pieces {
            record.had.set(*piece);
        }
        for (file, mark) in &self.marks {
            if let Some(slot) = record.marks.get_mut(*file as usize) {
                *slot = Some(*mark);
            }
        }
        record.at = self.at;
        true
    }
}

/// What an entry is bound to: its record, and its place behind it.
fn bound_to(record: &[u8; NONCE_LEN], number: u64) -> Vec<u8> {
    [&b"journal"[..], record, &number.to_be_bytes()].concat()
}

/// Brings a record up to date from its journal, as far as that is whole.
pub(super) fn replay(
    record: &mut Record,
    nonce: &[u8; NONCE_LEN],
    key: &LessSafeKey,
    journal: &[u8],
) {
    let mut rest = journal;
    for number in 0.. {
        let Some((entry, more)) = open(nonce, number, key, rest) else {
            return;
        };
        if !entry.apply(record) {
            return;
        }
        rest = more;
    }
}

fn open<'a>(
    record: &[u8; NONCE_LEN],
    number: u64,
    key: &LessSafeKey,
    journal: &'a [u8],
) -> Option<(Entry, &'a [u8])> {
    let mut rest = journal;
    let len = take_u32(&mut rest)? as usize;
    let nonce = Nonce::assume_unique_for_key(take(&mut rest)?);
    let (sealed, more) = rest.split_at_checked(len)?;
    let mut body = sealed.to_vec();
    let aad = Aad::from(bound_to(record, number));
    let plain = key.open_in_place(nonce, aad, &mut body).ok()?;
    Some((Entry::decode(plain)?, more))
}

/// A journal that is being written.
pub(super) struct Journal {
    /// Made with the first entry.
    file: Option<File>,
    /// Of the record.
    nonce: [u8; NONCE_LEN],
    number: u64,
    len: usize,
    limit: usize,
    /// What the record and the entries claim.
    had: Bits,
}

impl Journal {
    /// For a record of this length.
    pub(super) fn new(nonce: [u8; NONCE_LEN], had: Bits, len: usize) -> Self {
        Self {
            file: None,
            nonce,
            number: 0,
            len: 0,
            limit: len.max(LEAST_LIMIT),
            had,
        }
    }

    /// Appends what is new. `false`: it is too long, or pieces were lost; write a record in full.
    ///
    /// # Errors
    /// It can't be written: write a record in full.
    pub(super) fn add(
        &mut self,
        path: &Path,
        key: &LessSafeKey,
        had: &Bits,
        marks: &[(usize, FileMark)],
        at: i128,
    ) -> Result<bool, StorageError> {
        let io = |e: std::io::Error| StorageError::from_io(&e);
        let pieces: Vec<u32> = had.ones().filter(|piece| !self.had.get(*piece)).collect();
        let grown = self.had.count() as usize + pieces.len() == had.count() as usize;
        if self.len >= self.limit || !grown {
            return Ok(false);
        }
        let marks = marks.iter();
        let marks = marks.filter_map(|(file, mark)| Some((u32::try_from(*file).ok()?, *mark)));
        let entry = Entry {
            at,
            pieces,
            marks: marks.collect(),
        };
        let mut nonce = [0; NONCE_LEN];
        rand::rng().fill_bytes(&mut nonce);
        let mut body = entry.encode();
        let aad = Aad::from(bound_to(&self.nonce, self.number));
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut body)
            .map_err(|_| StorageError::TooLarge)?;
        let mut framed = Vec::with_capacity(HEAD_LEN + body.len());
        put_len(&mut framed, body.len());
        framed.extend_from_slice(&nonce);
        framed.extend_from_slice(&body);
        let mut file = match self.file.take() {
            Some(file) => file,
            None => create(path).map_err(io)?,
        };
        file.write_all(&framed).map_err(io)?;
        file.sync_data().map_err(io)?;
        self.file = Some(file);
        self.number += 1;
        self.len += framed.len();
        self.had = had.clone();
        Ok(true)
    }
}

/// An empty journal, whose name survives a power cut.
fn create(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}
