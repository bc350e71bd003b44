//! Folders that pass: what an onion service writes while it runs, and nobody may find afterwards. They are removed with the
//! service, and where the program was killed, when Tor is used the next time.

use std::fs;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;

use super::TorError;
use crate::state::{StateDir, StateLock};

/// The folder that holds them, below Tor's.
const PARENT: &str = "passing";
/// How often to try to remove one: the service's tasks may write a last file meanwhile.
const TRIES: usize = 5;

/// A folder that is removed when this is dropped. Others see by its lock that it is used.
pub(super) struct Passing {
    path: PathBuf,
    _lock: StateLock,
}

impl Passing {
    /// Makes one below Tor's folder.
    pub(super) fn make(tor: &Path) -> Result<Self, TorError> {
        const FAILED: TorError = TorError::NoTor(
            "its folder can't be written, or others may look into it: is the disk full?",
        );
        let name = HEXLOWER.encode(&rand::random::<[u8; 16]>());
        let made = StateDir::open(tor.join(PARENT)).and_then(|parent| {
            let dir = parent.subdir(&name)?;
            let lock = dir.lock()?;
            Ok(Self {
                path: dir.path().to_owned(),
                _lock: lock,
            })
        });
        made.map_err(|_| FAILED)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        for _ in 0..TRIES {
            if fs::remove_dir_all(&self.path).is_ok() {
                return;
            }
        }
        if self.path.exists() {
            tracing::warn!(
                "a folder of an onion service was not removed: the next start tries again"
            );
        }
    }
}

/// Removes those that nobody uses any more.
pub(super) fn sweep(tor: &Path) {
    let Ok(entries) = fs::read_dir(tor.join(PARENT)) else {
        // There were none.
        return;
    };
    for entry in entries.flatten() {
        let Ok(dir) = StateDir::open(entry.path()) else {
            continue;
        };
        // Held while it is removed, so that nobody begins to use it.
        if let Ok(_lock) = dir.lock()
            && fs::remove_dir_all(dir.path()).is_err()
        {
            tracing::warn!("a folder of an old onion service can't be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(tor: &Path) -> usize {
        fs::read_dir(tor.join(PARENT)).unwrap().count()
    }

    #[test]
    fn a_folder_goes_with_its_owner_and_what_a_killed_one_left_is_swept() {
        let dir = tempfile::TempDir::new().unwrap();
        let tor = dir.path().join("tor");
        sweep(&tor);
        let used = Passing::make(&tor).unwrap();
        fs::write(used.path().join("file"), "x").unwrap();
        let left = Passing::make(&tor).unwrap();
        let path = left.path().to_owned();
        drop(left);
        assert!(!path.exists());
        StateDir::open(&path).unwrap();
        fs::write(path.join("file"), "x").unwrap();
        assert_eq!(folders(&tor), 2);
        sweep(&tor);
        assert!(!path.exists());
        assert!(used.path().join("file").exists());
        drop(used);
        assert_eq!(folders(&tor), 0);
    }
}
