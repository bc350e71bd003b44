//! The state folder: keys, guards and resume data, for this user alone.
//!
//! All access goes through one open directory, so that nothing changes underneath between the check of its owner
//! and its use. Every file is written whole or not at all. These calls block: use them at start, or off the runtime.

mod keys;

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rand::RngExt as _;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::error::{Error, Exit};

pub use keys::{AUTHORITY_KEY_FILE, AuthorityKey, RELAY_KEYS_FILE, RelayKeys};

/// Longest file name in the folder, bytes: leaves room for the temporary name under the usual limit of 255.
const MAX_NAME: usize = 128;
/// Largest secret, bytes: twenty guards as text are below 5,000.
const MAX_SECRET: usize = 8192;
/// The file whose lock marks the folder as in use.
const LOCK_FILE: &str = "lock";
/// The file whose lock is held for the moment in which shared files are read and written.
const TURN_FILE: &str = "turn";
/// What group and others must not have.
const FOREIGN_BITS: u32 = 0o077;

/// Why state can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// No default place.
    #[error("there is no place for the state folder: neither XDG_STATE_HOME nor HOME is set")]
    NoHome,
    /// A link may lead into somebody else's folder.
    #[error("the state folder {0} is a symbolic link")]
    Symlink(PathBuf),
    /// Some other file is in its place.
    #[error("{0} is not a folder")]
    NotAFolder(PathBuf),
    /// Whoever owns it could read and change what is in it.
    #[error("{0} belongs to another user")]
    ForeignOwner(PathBuf),
    /// Others can look into the folder.
    #[error("other users may look into the state folder {path} (mode {mode:03o})")]
    FolderTooOpen {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others can read a secret.
    #[error("other users may read the secret file {path} (mode {mode:03o})")]
    SecretTooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Two processes would overwrite each other's state.
    #[error("another hushswarm is using the state folder {0}")]
    Locked(PathBuf),
    /// Not a name that this folder may hold.
    #[error("not a name for a file in the state folder")]
    BadName,
    /// Larger than such a file ever is.
    #[error("{path} is too large: at most {limit} bytes are expected")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit, bytes.
        limit: usize,
    },
    /// Not what hushswarm wrote.
    #[error("{0} is not a key file, or a damaged one")]
    BadKeys(PathBuf),
    /// A key that is there already is never overwritten.
    #[error("{0} exists already")]
    Exists(PathBuf),
    /// There is no such key.
    #[error("there is no {0}")]
    NoKeys(PathBuf),
    /// The system said no.
    #[error("can't {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl StateError {
    fn io(what: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io {
            what,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// What went wrong, for a log: without paths, since names of files say which torrents there are.
    pub fn kind(&self) -> String {
        match self {
            Self::NoHome => "no home",
            Self::Symlink(_) => "symbolic link",
            Self::NotAFolder(_) => "not a folder",
            Self::ForeignOwner(_) => "another user's",
            Self::FolderTooOpen { .. } | Self::SecretTooOpen { .. } => "open to other users",
            Self::Locked(_) => "in use",
            Self::BadName => "bad name",
            Self::TooLarge { .. } => "too large",
            Self::BadKeys(_) => "no key file",
            Self::Exists(_) => "there already",
            Self::NoKeys(_) => "no keys",
            Self::Io { what, source, .. } => return format!("can't {what}: {}", source.kind()),
        }
        .to_owned()
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoHome => Some("name one with --state DIR".to_owned()),
            Self::Symlink(_) => Some("name the folder itself with --state DIR".to_owned()),
            Self::ForeignOwner(_) | Self::NotAFolder(_) => {
                Some("name a folder of your own with --state DIR".to_owned())
            }
            Self::FolderTooOpen { path, .. } => Some(format!("run: chmod 700 {}", path.display())),
            Self::SecretTooOpen { path, .. } => {
                let path = path.display();
                Some(format!(
                    "run: chmod 600 {path}; if others used this machine, make new keys"
                ))
            }
            Self::Locked(_) => Some("stop it first, or name another --state DIR".to_owned()),
            Self::BadKeys(_) => Some("put it back from a backup".to_owned()),
            Self::Exists(_) => {
                Some("name another --state DIR, or move the old key away".to_owned())
            }
            Self::BadName | Self::TooLarge { .. } | Self::NoKeys(_) | Self::Io { .. } => None,
        }
    }
}

impl From<StateError> for Error {
    fn from(error: StateError) -> Self {
        let hint = error.hint();
        let message = error.to_string();
        let mut out = Self::local(message).with_exit(Exit::Disk);
        if let Some(hint) = hint {
            out = out.with_hint(hint);
        }
        if let StateError::Io { source, .. } = error {
            out = out.with_source(source);
        }
        out
    }
}

/// An open state folder, owned by this user and closed to all others.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    dir: OwnedFd,
}

/// The mark that a process uses the folder; it ends when dropped, or with the process.
#[derive(Debug)]
pub struct StateLock {
    _file: OwnedFd,
}

impl StateDir {
    /// Where state is kept unless told otherwise: `$XDG_STATE_HOME/hushswarm` or `~/.local/state/hushswarm`.
    ///
    /// # Errors
    /// The environment names no home: ask for a folder.
    pub fn default_path() -> Result<PathBuf, StateError> {
        // The XDG specification: relative paths are to be ignored.
        let absolute = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|p| p.is_absolute())
        };
        absolute("XDG_STATE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
            .map(|base| base.join("hushswarm"))
            .ok_or(StateError::NoHome)
    }

    /// Opens the folder, and makes it (mode 0700) when it is not there.
    ///
    /// # Errors
    /// It is a link, somebody else's, or open to others: tell the user, with the hint. Nothing was changed.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StateError> {
        // Without a trailing slash, which would make the system follow a link.
        let path: PathBuf = path.as_ref().components().collect();
        match path.symlink_metadata() {
            Ok(found) if found.is_symlink() => return Err(StateError::Symlink(path)),
            Ok(found) if !found.is_dir() => return Err(StateError::NotAFolder(path)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|error| StateError::io("make the folder", &path, error))?,
            Err(error) => return Err(StateError::io("look at", &path, error)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|error| StateError::io("open", &path, error))?;
        let stat =
            rustix::fs::fstat(&dir).map_err(|error| StateError::io("look at", &path, error))?;
        let mode = permissions(&stat);
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(StateError::ForeignOwner(path));
        }
        if mode & FOREIGN_BITS != 0 {
            return Err(StateError::FolderTooOpen { path, mode });
        }
        Ok(Self { path, dir })
    }

    /// Opens a folder inside this one, and makes it when it is not there.
    ///
    /// # Errors
    /// As [`StateDir::open`].
    pub fn subdir(&self, name: &str) -> Result<Self, StateError> {
        Self::open(self.path_of(name)?)
    }

    /// Marks the folder as in use by one process alone.
    ///
    /// # Errors
    /// Another process uses it: tell the user.
    pub fn lock(&self) -> Result<StateLock, StateError> {
        self.lock_file(LOCK_FILE, FlockOperation::NonBlockingLockExclusive)
    }

    /// Waits for its turn to read and write files that several processes share. Hold it for no longer than that.
    ///
    /// # Errors
    /// As the system says: tell the user.
    pub fn lock_briefly(&self) -> Result<StateLock, StateError> {
        loop {
            match self.lock_file(TURN_FILE, FlockOperation::LockExclusive) {
                // A signal came in between.
                Err(StateError::Io { source, .. })
                    if source.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn lock_file(&self, name: &str, how: FlockOperation) -> Result<StateLock, StateError> {
        let path = self.path.join(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| StateError::io("open", &path, error))?;
        match rustix::fs::flock(&file, how) {
            Ok(()) => Ok(StateLock { _file: file }),
            Err(Errno::WOULDBLOCK) => Err(StateError::Locked(self.path.clone())),
            Err(error) => Err(StateError::io("lock", &path, error)),
        }
    }

    /// Whether another process uses the folder. Nothing is made or marked.
    ///
    /// # Errors
    /// The mark can't be looked at: tell the user.
    pub fn is_locked(&self) -> Result<bool, StateError> {
        let path = self.path.join(LOCK_FILE);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.dir, LOCK_FILE, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(StateError::io("open", &path, error)),
        };
        // Held for a moment only, and shared, so that two looks don't see each other.
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(StateError::io("lock", &path, error)),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in the folder, to be named to the user.
    ///
    /// # Errors
    /// The name is not 1 to 128 of `[A-Za-z0-9._-]`, or starts with a dot.
    pub fn path_of(&self, name: &str) -> Result<PathBuf, StateError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let ok = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain);
        if !ok || name.starts_with('.') {
            return Err(StateError::BadName);
        }
        Ok(self.path.join(name))
    }

    /// Writes a file, readable by this user alone, whole or not at all.
    ///
    /// # Errors
    /// The disk: the file is as it was.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let path = self.path_of(name)?;
        replace(&self.dir, name, content, Mode::RUSR | Mode::WUSR)
            .map_err(|error| StateError::io("write", &path, error))
    }

    /// Writes a secret: a file that [`StateDir::read_secret`] takes.
    ///
    /// # Errors
    /// As [`StateDir::write`], and for more than 8 KiB.
    pub fn write_secret(&self, name: &str, secret: &[u8]) -> Result<(), StateError> {
        if secret.len() > MAX_SECRET {
            return Err(StateError::TooLarge {
                path: self.path_of(name)?,
                limit: MAX_SECRET,
            });
        }
        self.write(name, secret)
    }

    /// Reads a file of at most `limit` bytes; `None` when there is none.
    ///
    /// # Errors
    /// It is larger, or can't be read: tell the user.
    pub fn read(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, StateError> {
        let Some((path, file, _)) = self.open_file(name)? else {
            return Ok(None);
        };
        let mut content = Vec::new();
        read_bounded(file, &path, limit, &mut content)?;
        Ok(Some(content))
    }

    /// Reads a secret; `None` when there is none.
    ///
    /// # Errors
    /// Others may have read or changed it, or it can't be read: tell the user.
    pub fn read_secret(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        let Some((path, file, stat)) = self.open_file(name)? else {
            return Ok(None);
        };
        let mode = permissions(&stat);
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(StateError::ForeignOwner(path));
        }
        if mode & FOREIGN_BITS != 0 {
            return Err(StateError::SecretTooOpen { path, mode });
        }
        // Room for all of it at once: a vector that grows would leave copies behind.
        let mut secret = Zeroizing::new(Vec::with_capacity(MAX_SECRET + 1));
        read_bounded(file, &path, MAX_SECRET, &mut secret)?;
        Ok(Some(secret))
    }

    fn open_file(&self, name: &str) -> Result<Option<(PathBuf, File, Stat)>, StateError> {
        let path = self.path_of(name)?;
        // NONBLOCK: a pipe in the place of the file must not hold us up.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.dir, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(StateError::io("open", &path, error)),
        };
        let stat =
            rustix::fs::fstat(&file).map_err(|error| StateError::io("look at", &path, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            let error = io::Error::other("it is not a regular file");
            return Err(StateError::io("read", &path, error));
        }
        Ok(Some((path, File::from(file), stat)))
    }
}

/// Writes a file anywhere, readable by all, whole or not at all: for documents that are public.
///
/// # Errors
/// The disk: the file is as it was.
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), StateError> {
    let fail = |error: io::Error| StateError::io("write", path, error);
    let name = path
        .file_name()
        .ok_or_else(|| fail(io::ErrorKind::InvalidInput.into()))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(parent, flags, Mode::empty()).map_err(|error| fail(error.into()))?;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    replace(&dir, Path::new(name), content, mode).map_err(fail)
}

fn read_bounded(
    file: File,
    path: &Path,
    limit: usize,
    into: &mut Vec<u8>,
) -> Result<(), StateError> {
    let one_more = (limit as u64).saturating_add(1);
    file.take(one_more)
        .read_to_end(into)
        .map_err(|error| StateError::io("read", path, error))?;
    if into.len() > limit {
        return Err(StateError::TooLarge {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(())
}

/// Writes beside the file, then puts it in its place; both are on the disk when this returns.
fn replace(dir: &OwnedFd, name: impl AsRef<Path>, content: &[u8], mode: Mode) -> io::Result<()> {
    let name = name.as_ref();
    let temporary = format!(".hushswarm-{:016x}.tmp", rand::rng().random::<u64>());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(dir, &temporary, flags, mode)?);
    let done = file
        .write_all(content)
        .and_then(|()| file.sync_all())
        .and_then(|()| Ok(rustix::fs::renameat(dir, &temporary, dir, name)?));
    if done.is_err() {
        // The first error is the one to tell; a leftover is harmless.
        let _ = rustix::fs::unlinkat(dir, &temporary, AtFlags::empty());
        return done;
    }
    Ok(rustix::fs::fsync(dir)?)
}

fn permissions(stat: &Stat) -> u32 {
    Mode::from_raw_mode(stat.st_mode).as_raw_mode() & 0o777
}

#[cfg(test)]
mod tests;
