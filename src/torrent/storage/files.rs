//! The files of one torrent under its output folder: opened step by step without following links, kept open up to a bound.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{StorageError, lock};
use crate::torrent::infohash::InfoHashV2;
use crate::torrent::metainfo::{Builder, FileEntry, Info};
use crate::torrent::picker::{Geometry, Short};
use crate::torrent::v2::HashedFiles;

/// Most files of a torrent that are open at once: well below the usual 1,024 of a process.
const MAX_OPEN: usize = 64;

/// Most files that are brought to the disk one by one; of more, their whole file system is.
const MAX_SYNCED: usize = 64;

/// One file of a torrent.
#[derive(Clone, Debug)]
struct Entry {
    path: Vec<String>,
    start: u64,
    len: u64,
    /// Alignment only (BEP 47): never on disk, reads as zeros.
    pad: bool,
}

/// Where a torrent's bytes lie.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) geometry: Geometry,
    /// Of version 1.
    pub(crate) hashes: Vec<[u8; 20]>,
    /// Whether pieces have hashes of version 1.
    pub(crate) has_v1: bool,
    pub(crate) v2: Option<Arc<HashedFiles>>,
    /// The hashes are still to be found.
    pub(crate) unhashed: bool,
    entries: Vec<Entry>,
}

/// What a file looked like, to see later whether it was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMark {
    /// Length, bytes.
    pub len: u64,
    /// Time of the last change, nanoseconds since 1970.
    pub mtime: i128,
}

impl FileMark {
    fn new(len: u64, seconds: i64, nanoseconds: i64) -> Self {
        let mtime = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Self { len, mtime }
    }
}

impl Layout {
    /// Lays out a torrent: one file under its name, or a folder of that name.
    ///
    /// # Errors
    /// [`StorageError::UnsafePath`]: refuse the torrent.
    pub(crate) fn new(info: &Info) -> Result<Self, StorageError> {
        let geometry = Geometry::of(info);
        let mut entries = Vec::with_capacity(info.files.len());
        let mut start = 0_u64;
        for file in &info.files {
            // The parser of torrents checks this too; a slip there must not become a file elsewhere.
            let safe = |part: &String| {
                !part.is_empty() && part != "." && part != ".." && !part.contains(['/', '\0'])
            };
            let path = file.path.clone();
            if !file.pad && (path.is_empty() || !path.iter().all(safe)) {
                return Err(StorageError::UnsafePath);
            }
            entries.push(Entry {
                path,
                start,
                len: file.len,
                pad: file.pad,
            });
            start = start
                .checked_add(file.len)
                .ok_or(StorageError::UnsafePath)?;
        }
        let counts = [0, geometry.pieces as usize];
        if start != geometry.total || !counts.contains(&info.pieces.len()) {
            return Err(StorageError::UnsafePath);
        }
        Ok(Self {
            geometry,
            hashes: info.pieces.clone(),
            has_v1: !info.pieces.is_empty(),
            v2: info.v2.clone(),
            unhashed: false,
            entries,
        })
    }

    /// Lays out the files of a torrent that is being made, under its name.
    pub(crate) fn unhashed(builder: &Builder) -> Self {
        let mut layout = Vec::with_capacity(builder.files.len());
        let version = builder.version;
        let mut v2 = HashedFiles::new(InfoHashV2([0; 32]), builder.piece_len);
        let (mut total, mut entries) = (0_u64, Vec::with_capacity(builder.files.len()));
        for (number, (below, len)) in builder.files.iter().enumerate() {
            let path: Vec<String> = std::iter::once(&builder.name)
                .chain(below)
                .cloned()
                .collect();
            if *len > 0 {
                let first = total / u64::from(builder.piece_len.max(1));
                v2.push([0; 32], u32::try_from(first).unwrap_or(u32::MAX), *len);
            }
            let parts = [(*len, false), (builder.padding_after(number), true)];
            for (len, pad) in parts.into_iter().filter(|(len, pad)| !pad || *len > 0) {
                let path = path.clone();
                layout.push(FileEntry {
                    path: path.clone(),
                    len,
                    pad,
                });
                entries.push(Entry {
                    path,
                    start: total,
                    len,
                    pad,
                });
                total = total.saturating_add(len);
            }
        }
        // The parser of torrents bounds the number of pieces.
        let pieces = total.div_ceil(u64::from(builder.piece_len.max(1)));
        let pieces = u32::try_from(pieces).unwrap_or(u32::MAX);
        Self {
            geometry: Geometry {
                piece_len: builder.piece_len,
                total,
                pieces,
                short: Short::of(&layout, builder.piece_len),
            },
            hashes: Vec::new(),
            has_v1: version.has_v1(),
            v2: version.has_v2().then(|| Arc::new(v2)),
            unhashed: true,
            entries,
        }
    }

    /// First byte of a piece in the torrent.
    pub(crate) fn start_of(&self, piece: u32) -> u64 {
        u64::from(piece) * u64::from(self.geometry.piece_len)
    }

    /// The parts of files that hold `len` bytes from `at`: index, offset in the file, length.
    fn spans(&self, at: u64, len: u64) -> impl Iterator<Item = (usize, u64, u64)> + '_ {
        let end = at.saturating_add(len);
        let first = self.entries.partition_point(|e| e.start + e.len <= at);
        self.entries[first..]
            .iter()
            .enumerate()
            .take_while(move |(_, e)| e.start < end)
            .filter(|(_, e)| e.len > 0)
            .map(move |(index, e)| {
                let from = at.max(e.start);
                let to = end.min(e.start + e.len);
                (first + index, from - e.start, to - from)
            })
    }

    /// The pieces that hold a part of file `index`.
    pub(super) fn pieces_of(&self, index: usize) -> std::ops::Range<u32> {
        let Some(entry) = self.entries.get(index).filter(|e| e.len > 0) else {
            return 0..0;
        };
        let piece_len = u64::from(self.geometry.piece_len.max(1));
        let first = entry.start / piece_len;
        let last = (entry.start + entry.len - 1) / piece_len;
        // Both are below the number of pieces, which is a u32.
        first as u32..last as u32 + 1
    }
}

/// Output folders in which every write fails.
#[cfg(test)]
pub(crate) static FAULTS: Mutex<std::collections::BTreeMap<std::path::PathBuf, StorageError>> =
    Mutex::new(std::collections::BTreeMap::new());

/// Output folders whose files can't be brought to the disk.
#[cfg(test)]
pub(crate) static SYNC_FAULTS: Mutex<BTreeSet<std::path::PathBuf>> = Mutex::new(BTreeSet::new());

struct Open {
    index: usize,
    file: Arc<File>,
    writable: bool,
    used: u64,
}

#[derive(Default)]
struct OpenFiles {
    files: Vec<Open>,
    clock: u64,
}

/// The files of one torrent. Every method blocks: call it on a thread for that.
pub(crate) struct Files {
    root: OwnedFd,
    pub(crate) layout: Layout,
    open: Mutex<OpenFiles>,
    /// Written since the last sync.
    dirty: Mutex<BTreeSet<usize>>,
    /// Those of which a sync failed, once at least: the system tells of what it lost only once.
    unsynced: Mutex<BTreeSet<usize>>,
    #[cfg(test)]
    path: std::path::PathBuf,
}

impl Files {
    /// Opens the output folder, which is created when `create` is set. It may itself be reached through a link: the user
    /// named it. Nothing below it may.
    pub(crate) fn new(root: &Path, layout: Layout, create: bool) -> Result<Self, StorageError> {
        if create {
            std::fs::create_dir_all(root).map_err(|e| StorageError::from_io(&e))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root, flags, Mode::empty()).map_err(StorageError::from_errno)?;
        Ok(Self {
            root: fd,
            layout,
            open: Mutex::default(),
            dirty: Mutex::default(),
            unsynced: Mutex::default(),
            #[cfg(test)]
            path: root.to_owned(),
        })
    }

    /// Fills `buf` from the torrent's byte `at` on.
    pub(crate) fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        let mut rest = buf;
        for (index, offset, len) in self.layout.spans(at, rest.len() as u64) {
            let (part, more) = rest
                .split_at_mut_checked(len as usize)
                .ok_or(StorageError::Missing)?;
            rest = more;
            if self.is_pad(index) {
                part.fill(0);
            } else {
                let file = self.get(index, false)?;
                file.read_exact_at(part, offset)
                    .map_err(|e| StorageError::from_io(&e))?;
            }
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(StorageError::Missing)
        }
    }

    /// The file that holds all of these bytes, and where in it they begin; `None` where there are several, or padding.
    pub(super) fn one_file(
        &self,
        at: u64,
        len: u64,
    ) -> Result<Option<(Arc<File>, u64)>, StorageError> {
        match self.layout.spans(at, len).next() {
            Some((index, offset, held)) if held == len && !self.is_pad(index) => {
                Ok(Some((self.get(index, false)?, offset)))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Writes `data` from the torrent's byte `at` on.
    pub(crate) fn write_at(&self, at: u64, data: &[u8]) -> Result<(), StorageError> {
        #[cfg(test)]
        if let Some(fault) = lock(&FAULTS).get(&self.path) {
            return Err(*fault);
        }
        let mut rest = data;
        for (index, offset, len) in self.layout.spans(at, data.len() as u64) {
            let (part, more) = rest
                .split_at_checked(len as usize)
                .ok_or(StorageError::Missing)?;
            rest = more;
            if !self.is_pad(index) {
                let file = self.get(index, true)?;
                file.write_all_at(part, offset)
                    .map_err(|e| StorageError::from_io(&e))?;
                lock(&self.dirty).insert(index);
            }
        }
        Ok(())
    }

    /// Creates empty files, which no piece brings, cuts files that are too long, and takes the room on the disk for those that are
    /// wanted `whole`. They must be known to be ours.
    pub(crate) fn prepare(&self, whole: impl Fn(usize) -> bool) -> Result<(), StorageError> {
        self.walk(|index, entry, mark| {
            let len = mark.map(|mark| mark.len);
            match len {
                None if entry.len == 0 => drop(self.get(index, true)?),
                Some(len) if len > entry.len => {
                    let file = self.get(index, true)?;
                    file.set_len(entry.len)
                        .map_err(|e| StorageError::from_io(&e))?;
                }
                Some(_) | None => {}
            }
            // One that has its length is left alone: its time may not change, which the record knows.
            if len.unwrap_or(0) < entry.len && whole(index) {
                allocate(&*self.get(index, true)?, entry.len)?;
            }
            Ok(true)
        })
    }

    /// Finds a file that is somebody else's: longer than the torrent's, or with content of which no piece verified.
    pub(crate) fn has_foreign(&self, verified: impl Fn(u32) -> bool) -> Result<bool, StorageError> {
        let mut found = false;
        self.walk(|index, entry, mark| {
            let len = mark.map_or(0, |mark| mark.len);
            let foreign = len > 0 && !self.layout.pieces_of(index).any(&verified);
            found = foreign || len > entry.len;
            Ok(!found)
        })?;
        Ok(found)
    }

    /// Tells whether any file with content exists.
    pub(crate) fn any_exists(&self) -> Result<bool, StorageError> {
        self.has_foreign(|_| false)
    }

    /// What every file looks like now; `None` where there is none. Pads count as missing.
    pub(crate) fn marks(&self) -> Result<Vec<Option<FileMark>>, StorageError> {
        let mut marks = vec![None; self.layout.entries.len()];
        self.walk(|index, _, mark| {
            if let Some(slot) = marks.get_mut(index) {
                *slot = mark;
            }
            Ok(true)
        })?;
        Ok(marks)
    }

    /// Makes everything written so far survive a power cut, and says what the files of it look like then.
    pub(crate) fn sync(&self) -> Result<Vec<(usize, FileMark)>, StorageError> {
        let dirty = std::mem::take(&mut *lock(&self.dirty));
        let synced = self.sync_files(&dirty);
        if synced.is_err() {
            lock(&self.dirty).extend(dirty);
        }
        synced
    }

    fn sync_files(&self, dirty: &BTreeSet<usize>) -> Result<Vec<(usize, FileMark)>, StorageError> {
        let at_once = dirty.len() > MAX_SYNCED;
        if at_once {
            // One by one, thousands of small files would take minutes.
            if let Err(error) = self.sync_found() {
                lock(&self.unsynced).extend(dirty);
                return Err(error);
            }
        }
        let mut marks = Vec::with_capacity(dirty.len());
        for &index in dirty {
            let file = self.get(index, false)?;
            if !at_once && let Err(error) = self.sync_one(&file) {
                lock(&self.unsynced).insert(index);
                return Err(error);
            }
            let meta = file.metadata().map_err(|e| StorageError::from_io(&e))?;
            let (seconds, more) = (meta.mtime(), meta.mtime_nsec());
            marks.push((index, FileMark::new(meta.len(), seconds, more)));
        }
        Ok(marks)
    }

    fn sync_one(&self, file: &File) -> Result<(), StorageError> {
        #[cfg(test)]
        self.sync_fault()?;
        file.sync_data().map_err(|e| StorageError::from_io(&e))
    }

    /// Brings the whole file system of the output folder to the disk, with what others wrote.
    pub(super) fn sync_found(&self) -> Result<(), StorageError> {
        #[cfg(test)]
        self.sync_fault()?;
        rustix::fs::syncfs(&self.root).map_err(StorageError::from_errno)
    }

    /// The files of which a sync failed.
    pub(super) fn unsynced(&self) -> BTreeSet<usize> {
        lock(&self.unsynced).clone()
    }

    #[cfg(test)]
    fn sync_fault(&self) -> Result<(), StorageError> {
        match lock(&SYNC_FAULTS).contains(&self.path) {
            true => Err(StorageError::Io(std::io::ErrorKind::Other)),
            false => Ok(()),
        }
    }

    /// Looks at every file in turn, as long as `look` says to go on: folders that several files share are opened once.
    fn walk(
        &self,
        mut look: impl FnMut(usize, &Entry, Option<FileMark>) -> Result<bool, StorageError>,
    ) -> Result<(), StorageError> {
        let mut last: Option<(&[String], Option<OwnedFd>)> = None;
        for (index, entry) in self.layout.entries.iter().enumerate() {
            let Some((name, folders)) = entry.path.split_last().filter(|_| !entry.pad) else {
                continue;
            };
            let known = last.take().filter(|(of, _)| *of == folders);
            let folder = match known {
                Some((_, folder)) => folder,
                None => match self.open_folder(folders, false) {
                    Ok(folder) => Some(folder),
                    Err(StorageError::Missing) => None,
                    Err(error) => return Err(error),
                },
            };
            let mark = match &folder {
                Some(folder) => look_at(folder, name)?,
                None => None,
            };
            let missing = folder.is_none();
            last = Some((folders, folder));
            if !look(index, entry, mark)? {
                return Ok(());
            }
            if missing {
                // It may have been made now.
                last = None;
            }
        }
        Ok(())
    }

    fn is_pad(&self, index: usize) -> bool {
        self.layout.entries.get(index).is_some_and(|e| e.pad)
    }

    pub(super) fn get(&self, index: usize, write: bool) -> Result<Arc<File>, StorageError> {
        let mut open = lock(&self.open);
        open.clock += 1;
        let clock = open.clock;
        let usable = |o: &&mut Open| o.index == index && (o.writable || !write);
        if let Some(found) = open.files.iter_mut().find(usable) {
            found.used = clock;
            return Ok(Arc::clone(&found.file));
        }
        open.files.retain(|o| o.index != index);
        if open.files.len() >= MAX_OPEN {
            let oldest = open
                .files
                .iter()
                .enumerate()
                .min_by_key(|(_, o)| o.used)
                .map(|(at, _)| at);
            if let Some(at) = oldest {
                open.files.swap_remove(at);
            }
        }
        let file = Arc::new(self.open_file(index, write)?);
        let entry = Open {
            index,
            file: Arc::clone(&file),
            writable: write,
            used: clock,
        };
        open.files.push(entry);
        Ok(file)
    }

    /// Walks down from the output folder, one component at a time.
    fn open_folder(&self, folders: &[String], create: bool) -> Result<OwnedFd, StorageError> {
        let mut here: Option<OwnedFd> = None;
        for folder in folders {
            let parent = here.as_ref().unwrap_or(&self.root);
            if create {
                match rustix::fs::mkdirat(parent, folder.as_str(), Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(StorageError::from_errno(errno)),
                }
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let next = rustix::fs::openat(parent, folder.as_str(), flags, Mode::empty())
                .map_err(|errno| blame(parent, folder, errno))?;
            here = Some(next);
        }
        match here {
            Some(folder) => Ok(folder),
            None => self.root.try_clone().map_err(|e| StorageError::from_io(&e)),
        }
    }

    fn open_file(&self, index: usize, write: bool) -> Result<File, StorageError> {
        let entry = self
            .layout
            .entries
            .get(index)
            .ok_or(StorageError::Missing)?;
        let (name, folders) = entry.path.split_last().ok_or(StorageError::UnsafePath)?;
        let parent = self.open_folder(folders, write)?;
        // NONBLOCK: a planted FIFO must not hold a thread.
        let common = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let flags = if write {
            OFlags::RDWR | OFlags::CREATE
        } else {
            OFlags::RDONLY
        };
        let fd = rustix::fs::openat(
            &parent,
            name.as_str(),
            flags | common,
            Mode::from_raw_mode(0o644),
        )
        .map_err(|errno| blame(&parent, name, errno))?;
        let stat = rustix::fs::fstat(&fd).map_err(StorageError::from_errno)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(StorageError::NotAFile);
        }
        Ok(File::from(fd))
    }
}

/// What a file looks like; `None` where there is none.
fn look_at(folder: &OwnedFd, name: &str) -> Result<Option<FileMark>, StorageError> {
    let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(StorageError::from_errno(errno)),
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind.is_symlink() {
        return Err(StorageError::Symlink);
    }
    if !kind.is_file() {
        return Err(StorageError::NotAFile);
    }
    // No file is of negative length.
    let len = u64::try_from(stat.st_size).unwrap_or(0);
    Ok(Some(FileMark::new(
        len,
        stat.st_mtime,
        i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
    )))
}

/// Takes the room for a whole file. Where the file system can't, it gets its length alone.
fn allocate(file: &File, len: u64) -> Result<(), StorageError> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            file.set_len(len).map_err(|e| StorageError::from_io(&e))
        }
        Err(errno) => Err(StorageError::from_errno(errno)),
    }
}

/// A link that may not be followed shows as ENOTDIR or ELOOP: says which it was.
fn blame(parent: &OwnedFd, name: &str, errno: Errno) -> StorageError {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    let is_link = stat.is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Symlink);
    if is_link {
        StorageError::Symlink
    } else {
        StorageError::from_errno(errno)
    }
}
