//! What can go wrong with files, in a sentence and a hint. No path and no name in either.

use std::io;

use rustix::io::Errno;

/// Why files could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// No space, or over quota.
    #[error("the disk is full")]
    Full,
    /// Not allowed.
    #[error("the output folder may not be written or read")]
    Denied,
    /// A read-only file system.
    #[error("the output folder is on a read-only file system")]
    ReadOnly,
    /// The file system or a limit of the process forbids files of this size.
    #[error("a file would be too large for the file system or the limit of the process")]
    TooLarge,
    /// A symbolic link stands where the torrent has a folder or a file.
    #[error("a symbolic link stands in the way")]
    Symlink,
    /// Something that is neither a folder nor a plain file stands where the torrent has one.
    #[error("something else with the same name stands in the way")]
    NotAFile,
    /// A file of the same name exists, and nothing in it belongs to this torrent.
    #[error("a file of the same name exists that does not belong to this torrent")]
    Foreign,
    /// A file, or a part of one, is not there.
    #[error("a file is missing or too short")]
    Missing,
    /// The torrent names a file in a way that could leave the output folder.
    #[error("the torrent holds an unsafe file name")]
    UnsafePath,
    /// Another download of this program uses the same files.
    #[error("another download uses the same files")]
    Busy,
    /// Anything else.
    #[error("reading or writing failed: {0:?}")]
    Io(io::ErrorKind),
}

impl StorageError {
    /// What the user can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Full => "free some space: the download goes on by itself, nothing is lost",
            Self::Denied => "check the permissions of the output folder, or choose another",
            Self::ReadOnly => "choose an output folder that can be written",
            Self::TooLarge => {
                "choose a file system for large files, or raise the limit (ulimit -f)"
            }
            Self::Symlink => "remove the link, or choose another output folder",
            Self::NotAFile | Self::Foreign => "move it away, or choose another output folder",
            Self::Missing => "put the files back, or start again to check them",
            Self::UnsafePath => "this torrent can't be stored; do not trust its source",
            Self::Busy => "stop the other one, or choose another output folder",
            Self::Io(_) => "check the disk",
        }
    }

    /// Sorts an I/O error.
    pub(crate) fn from_io(error: &io::Error) -> Self {
        // clippy: ErrorKind is non-exhaustive, so a wildcard is the only way.
        #[allow(clippy::wildcard_enum_match_arm)]
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            io::ErrorKind::PermissionDenied => Self::Denied,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            io::ErrorKind::FileTooLarge => Self::TooLarge,
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => Self::Missing,
            io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => Self::NotAFile,
            kind => Self::Io(kind),
        }
    }

    pub(crate) fn from_errno(errno: Errno) -> Self {
        if errno == Errno::LOOP {
            Self::Symlink
        } else {
            Self::from_io(&errno.into())
        }
    }
}
