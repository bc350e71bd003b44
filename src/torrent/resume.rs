//! What a download remembers between runs: which pieces are verified, and the torrent itself.
//!
//! One record for each torrent and output folder, in the state directory. Its name is a digest and its content is
//! sealed under a key that only the infohash and the folder give, so that the directory tells nobody what was
//! downloaded (leaks L45). It is replaced atomically, and claims no piece before that piece survives a power cut. What is verified
//! between two records goes to a journal beside it.

mod journal;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use journal::Journal;
use rand::Rng;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::infohash::InfoHash;
use super::metainfo::{MAX_FILES, MAX_PIECES, MAX_TORRENT};
use super::picker::Bits;
use super::storage::{FileMark, StorageError, lock};

/// First byte of a record; another one is not read.
const VERSION: u8 = 3;

/// That of records that don't say whether more was being written, which are read all the same.
const WITHOUT_STATE: u8 = 2;

/// That of records without piece layers either.
const WITHOUT_LAYERS: u8 = 1;

/// Longest record, bytes: the torrent, its bitfield, marks of 25 bytes for files and what lies between them, and piece layers.
const MAX_RECORD: u64 =
    (MAX_TORRENT + MAX_PIECES / 8 + 2 * 25 * MAX_FILES + 33 * MAX_PIECES + (1 << 24)) as u64;

/// What was known at the last record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The info dictionary.
    pub info: Arc<[u8]>,
    /// The verified pieces.
    pub had: Bits,
    /// What each file looked like, in the torrent's order.
    pub marks: Vec<Option<FileMark>>,
    /// Its piece layers (BEP 52), bencoded; empty where it has none.
    pub layers: Vec<u8>,
    /// More may have been written afterwards: pieces that are not claimed may be there, and files may be newer.
    pub open: bool,
    /// When it was written, nanoseconds since 1970.
    pub at: i128,
}

/// Now, as records say it.
pub fn now() -> i128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A clock before 1970 makes records look old: files are checked then.
    since.map_or(0, |since| since.as_nanos() as i128)
}

/// Where the record of one torrent in one output folder lies.
pub struct Store {
    dir: PathBuf,
    name: String,
    key: Zeroizing<[u8; 32]>,
    /// That of the record that was written last.
    journal: Mutex<Option<Journal>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store(..)")
    }
}

impl Store {
    /// Names the record of a torrent in an output folder; touches nothing.
    pub fn new(dir: &Path, hash: InfoHash, output: &Path) -> Self {
        // A relative path is made absolute, so that it means one folder. Links are not resolved.
        let output = std::path::absolute(output).unwrap_or_else(|_| output.to_owned());
        let derive = |purpose: &str| {
            let mut hasher = blake3::Hasher::new_derive_key(purpose);
            hasher.update(&hash.0);
            hasher.update(output.as_os_str().as_bytes());
            *hasher.finalize().as_bytes()
        };
        let name = derive("hushswarm v1 resume name");
        Self {
            dir: dir.to_owned(),
            name: data_encoding::HEXLOWER.encode(&name[..16]),
            key: Zeroizing::new(derive("hushswarm v1 resume key")),
            journal: Mutex::default(),
        }
    }

    /// Keeps others from using the same torrent in the same folder as long as the file is open. Blocks.
    ///
    /// # Errors
    /// [`StorageError::Busy`]: wait. Others: the state directory can't be used.
    pub fn lock(&self) -> Result<File, StorageError> {
        self.create_dir()?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.dir.join(format!("{}.lock", self.name)))
            .map_err(|e| StorageError::from_io(&e))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(errno) if errno == Errno::WOULDBLOCK => Err(StorageError::Busy),
            Err(errno) => Err(StorageError::from_errno(errno)),
        }
    }

    /// Reads the record and its journal. One that is damaged counts as none: everything is checked again. Blocks.
    pub fn load(&self) -> Option<Record> {
        let file = File::open(self.path()).ok()?;
        let mut sealed = Vec::new();
        file.take(MAX_RECORD).read_to_end(&mut sealed).ok()?;
        let (nonce, body) = sealed.split_first_chunk_mut::<NONCE_LEN>()?;
        let nonce = *nonce;
        let key = self.aead()?;
        let unique = Nonce::assume_unique_for_key(nonce);
        let opened = key.open_in_place(unique, Aad::empty(), body).ok();
        let Some(mut record) = opened.and_then(|plain| Record::decode(plain)) else {
            tracing::debug!("a resume record is damaged");
            return None;
        };
        if let Ok(file) = File::open(self.journal_path()) {
            let mut journal = Vec::new();
            // What can't be read is not known; what was read counts.
            let _ = file.take(MAX_RECORD).read_to_end(&mut journal);
            journal::replay(&mut record, &nonce, &key, &journal);
        }
        Some(record)
    }

    /// Notes that these pieces are verified, and what the files look like that changed since the last note. The pieces must be on
    /// disk for good. `false`: nothing is noted, a record has to be [saved](Self::save) instead. Blocks.
    ///
    /// # Errors
    /// The state directory can't be written: what stands there stays, the next note has to be a record.
    pub fn add(
        &self,
        had: &Bits,
        marks: &[(usize, FileMark)],
        at: i128,
    ) -> Result<bool, StorageError> {
        let mut slot = lock(&self.journal);
        let (Some(mut journal), Some(key)) = (slot.take(), self.aead()) else {
            return Ok(false);
        };
        let added = journal.add(&self.journal_path(), &key, had, marks, at)?;
        if added {
            *slot = Some(journal);
        }
        Ok(added)
    }

    /// Replaces the record. The pieces it claims must be on disk for good. Blocks.
    ///
    /// # Errors
    /// The state directory can't be written: the old record stays.
    pub fn save(&self, record: &Record) -> Result<(), StorageError> {
        let io = |e: std::io::Error| StorageError::from_io(&e);
        let mut journal = lock(&self.journal);
        *journal = None;
        let mut bytes = [0; NONCE_LEN];
        rand::rng().fill_bytes(&mut bytes);
        let mut body = record.encode();
        self.aead()
            .and_then(|aead| {
                let nonce = Nonce::assume_unique_for_key(bytes);
                aead.seal_in_place_append_tag(nonce, Aad::empty(), &mut body)
                    .ok()
            })
            .ok_or(StorageError::TooLarge)?;
        self.create_dir()?;
        let temporary = self.dir.join(format!("{}.new", self.name));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(io)?;
        file.write_all(&bytes).map_err(io)?;
        file.write_all(&body).map_err(io)?;
        file.sync_all().map_err(io)?;
        std::fs::rename(&temporary, self.path()).map_err(io)?;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(io)?;
        // The old one says nothing of the new record.
        let _ = std::fs::remove_file(self.journal_path());
        *journal = Some(Journal::new(bytes, record.had.clone(), body.len()));
        Ok(())
    }

    /// Forgets the torrent in this folder: what lies there later is not its own. Blocks.
    ///
    /// # Errors
    /// The record can't be removed, and still counts.
    pub fn remove(&self) -> std::io::Result<()> {
        let mut journal = lock(&self.journal);
        *journal = None;
        match std::fs::remove_file(self.path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // Without its record it says nothing.
        let _ = std::fs::remove_file(self.journal_path());
        Ok(())
    }

    fn journal_path(&self) -> PathBuf {
        self.dir.join(format!("{}.journal", self.name))
    }

    fn path(&self) -> PathBuf {
        self.dir.join(format!("{}.resume", self.name))
    }

    fn aead(&self) -> Option<LessSafeKey> {
        UnboundKey::new(&CHACHA20_POLY1305, &*self.key)
            .ok()
            .map(LessSafeKey::new)
    }

    fn create_dir(&self) -> Result<(), StorageError> {
        let mut builder = std::fs::DirBuilder::new();
        let created = builder.recursive(true).mode(0o700).create(&self.dir);
        created.map_err(|e| StorageError::from_io(&e))
    }
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_bytes(&mut out, &self.info);
        out.extend_from_slice(&self.had.len().to_be_bytes());
        put_bytes(&mut out, &self.had.to_bytes());
        put_len(&mut out, self.marks.len());
        for mark in &self.marks {
            out.push(u8::from(mark.is_some()));
            let mark = mark.unwrap_or(FileMark { len: 0, mtime: 0 });
            out.extend_from_slice(&mark.len.to_be_bytes());
            out.extend_from_slice(&mark.mtime.to_be_bytes());
        }
        put_bytes(&mut out, &self.layers);
        out.push(u8::from(self.open));
        out.extend_from_slice(&self.at.to_be_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&version, mut rest) = bytes.split_first()?;
        if ![VERSION, WITHOUT_STATE, WITHOUT_LAYERS].contains(&version) {
            return None;
        }
        let info = take_bytes(&mut rest)?.into();
        let pieces = take_u32(&mut rest)?;
        let had = Bits::from_bytes(pieces, take_bytes(&mut rest)?)?;
        let mut marks = Vec::new();
        for _ in 0..take_u32(&mut rest)? {
            let [there] = take::<1>(&mut rest)?;
            let len = u64::from_be_bytes(take(&mut rest)?);
            let mtime = i128::from_be_bytes(take(&mut rest)?);
            marks.push((there == 1).then_some(FileMark { len, mtime }));
        }
        let layers = match version {
            WITHOUT_LAYERS => Vec::new(),
            _ => take_bytes(&mut rest)?.to_vec(),
        };
        let (open, at) = if version == VERSION {
            let [open] = take::<1>(&mut rest)?;
            (open == 1, i128::from_be_bytes(take(&mut rest)?))
        } else {
            (false, 0)
        };
        rest.is_empty().then_some(Self {
            info,
            had,
            marks,
            layers,
            open,
            at,
        })
    }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    // All of these are bounded far below 4 GiB.
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (value, more) = rest.split_first_chunk::<N>()?;
    *rest = more;
    Some(*value)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    take(rest).map(u32::from_be_bytes)
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take_u32(rest)? as usize;
    let (bytes, more) = rest.split_at_checked(len)?;
    *rest = more;
    Some(bytes)
}
