//! What a download remembers between runs: which pieces are verified, and the torrent itself.
//!
//! One record for each torrent and output folder, in the state directory. Its name is a digest and its content is
//! sealed under a key that only the infohash and the folder give, so that the directory tells nobody what was
//! downloaded (leaks L45). It is replaced atomically, and claims no piece before that piece survives a power cut.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::Rng;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::infohash::InfoHash;
use super::metainfo::{MAX_FILES, MAX_PIECES, MAX_TORRENT};
use super::picker::Bits;
use super::storage::{FileMark, StorageError};

/// First byte of a record; another one is not read.
const VERSION: u8 = 2;

/// That of records without piece layers, which are read all the same.
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
}

/// Where the record of one torrent in one output folder lies.
pub struct Store {
    dir: PathBuf,
    name: String,
    key: Zeroizing<[u8; 32]>,
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

    /// Reads the record. One that is damaged counts as none: everything is checked again. Blocks.
    pub fn load(&self) -> Option<Record> {
        let file = File::open(self.path()).ok()?;
        let mut sealed = Vec::new();
        file.take(MAX_RECORD).read_to_end(&mut sealed).ok()?;
        let (nonce, body) = sealed.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self.aead()?.open_in_place(nonce, Aad::empty(), body).ok();
        let record = opened.and_then(|plain| Record::decode(plain));
        if record.is_none() {
            tracing::debug!("a resume record is damaged");
        }
        record
    }

    /// Replaces the record. The pieces it claims must be on disk for good. Blocks.
    ///
    /// # Errors
    /// The state directory can't be written: the old record stays.
    pub fn save(&self, record: &Record) -> Result<(), StorageError> {
        let io = |e: std::io::Error| StorageError::from_io(&e);
        let mut nonce = [0; NONCE_LEN];
        rand::rng().fill_bytes(&mut nonce);
        let mut body = record.encode();
        self.aead()
            .and_then(|aead| {
                let nonce = Nonce::assume_unique_for_key(nonce);
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
        file.write_all(&nonce).map_err(io)?;
        file.write_all(&body).map_err(io)?;
        file.sync_all().map_err(io)?;
        std::fs::rename(&temporary, self.path()).map_err(io)?;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(io)
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
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&version, mut rest) = bytes.split_first()?;
        if ![VERSION, WITHOUT_LAYERS].contains(&version) {
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
            VERSION => take_bytes(&mut rest)?.to_vec(),
            _ => Vec::new(),
        };
        rest.is_empty().then_some(Self {
            info,
            had,
            marks,
            layers,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn record() -> Record {
        let mut had = Bits::new(11);
        had.set(3);
        Record {
            info: b"d4:name6:secrete".as_slice().into(),
            had,
            marks: vec![None, Some(FileMark { len: 5, mtime: -1 })],
            layers: b"de".to_vec(),
        }
    }

    #[test]
    fn a_record_reads_back_and_shows_nothing_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), InfoHash([0xab; 20]), Path::new("/out"));
        assert_eq!(store.load(), None);
        store.save(&record()).unwrap();
        assert_eq!(store.load(), Some(record()));
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            let content = std::fs::read(entry.path()).unwrap();
            for secret in [&b"secret"[..], &[0xab; 20]] {
                assert!(!content.windows(secret.len()).any(|part| part == secret));
            }
            assert!(!entry.file_name().to_str().unwrap().contains("abab"));
        }
        let elsewhere = Store::new(dir.path(), InfoHash([0xab; 20]), Path::new("/other"));
        assert_eq!(elsewhere.load(), None);
    }

    #[test]
    fn a_damaged_or_half_written_record_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), InfoHash([1; 20]), Path::new("/out"));
        store.save(&record()).unwrap();
        let good = std::fs::read(store.path()).unwrap();
        for cut in 0..good.len() {
            std::fs::write(store.path(), &good[..cut]).unwrap();
            assert_eq!(store.load(), None);
        }
        let mut bad = good.clone();
        bad[20] ^= 1;
        std::fs::write(store.path(), &bad).unwrap();
        assert_eq!(store.load(), None);
        std::fs::write(dir.path().join(format!("{}.new", store.name)), b"half").unwrap();
        std::fs::write(store.path(), &good).unwrap();
        assert_eq!(store.load(), Some(record()));
    }

    #[test]
    fn a_record_of_an_older_version_still_counts() {
        let mut bytes = record().encode();
        bytes[0] = WITHOUT_LAYERS;
        bytes.truncate(bytes.len() - 6);
        let layers = Vec::new();
        assert_eq!(Record::decode(&bytes), Some(Record { layers, ..record() }));
    }

    #[test]
    fn only_one_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), InfoHash([1; 20]), Path::new("/out"));
        let held = store.lock().unwrap();
        assert_eq!(store.lock().err(), Some(StorageError::Busy));
        drop(held);
        assert!(store.lock().is_ok());
    }

    proptest! {
        #[test]
        fn any_plain_bytes_are_a_record_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(read) = Record::decode(&bytes) {
                prop_assert_eq!(Record::decode(&read.encode()), Some(read));
            }
        }

        #[test]
        fn a_mutated_record_never_panics(at in any::<prop::sample::Index>(), byte: u8) {
            let mut bytes = record().encode();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = Record::decode(&bytes);
        }
    }
}
