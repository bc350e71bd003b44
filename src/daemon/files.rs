//! A torrent's files on the disk, when they are removed or moved: only those that are the torrent's, and never through a link.
//!
//! Files of the torrent's names may be somebody else's: the engine refuses such a torrent before it touches any of them. They are its own
//! where a resume record for the folder says so, which the engine writes only after it has made sure.

use std::io;
use std::path::{Path, PathBuf};

use super::bytes;
use crate::torrent::infohash::InfoHash;
use crate::torrent::metainfo::Info;
use crate::torrent::resume::{Record, Store};

/// What tells which files are a torrent's own.
pub(super) struct Claims {
    /// Where resume records lie.
    pub(super) state: PathBuf,
    /// The name that the torrent was started by.
    pub(super) hash: InfoHash,
}

impl Claims {
    fn of(&self, root: &Path) -> Store {
        Store::new(&self.state, self.hash, root)
    }

    /// The record that says that files of these names in this folder are the torrent's.
    fn claim(&self, root: &Path, info: &Info) -> Option<(Store, Record)> {
        let store = self.of(root);
        let record = store.load().filter(|record| record.info == info.bytes)?;
        Some((store, record))
    }

    /// Removes a torrent's files below `root`, and folders that are empty then. What is not the torrent's stays, and so does the
    /// folder that holds it. Files that come there later are not the torrent's any more. Blocks.
    ///
    /// # Errors
    /// The first thing that went wrong; the rest was tried all the same.
    pub(super) fn remove(&self, root: &Path, info: &Info) -> io::Result<()> {
        let Some((store, _)) = self.claim(root, info) else {
            return Ok(());
        };
        let removed = remove(root, info);
        removed.and(store.remove())
    }

    /// Moves a torrent's files from one folder to another, and what is known of them. What is there already is not replaced; files that
    /// are not the torrent's stay where they are. Blocks, and for long where the other folder is on another disk.
    ///
    /// # Errors
    /// What went wrong. Files that were moved are moved back, where that can be done.
    pub(super) fn relocate(&self, from: &Path, to: &Path, info: &Info) -> io::Result<()> {
        let Some((store, record)) = self.claim(from, info) else {
            return Ok(());
        };
        relocate(from, to, info)?;
        if let Err(error) = self.of(to).save(&record) {
            // Unknown there, they would count as somebody else's.
            let _ = relocate(to, from, info);
            return Err(io::Error::other(error));
        }
        if from != to {
            // Left over, it says that nothing is there.
            let _ = store.remove();
        }
        Ok(())
    }
}

fn remove(root: &Path, info: &Info) -> io::Result<()> {
    let mut first = Ok(());
    for file in bytes::files(info) {
        let Some(path) = plain(root, &file.path) else {
            continue;
        };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound && first.is_ok() => {
                first = Err(error);
            }
            Ok(()) | Err(_) => {}
        }
    }
    remove_empty(root, info);
    first
}

/// Removes those of the torrent's folders that hold nothing.
fn remove_empty(root: &Path, info: &Info) {
    let mut folders: Vec<PathBuf> = info
        .files
        .iter()
        .flat_map(|file| (1..file.path.len()).filter_map(|depth| file.path.get(..depth)))
        .filter_map(|folder| plain(root, folder))
        .collect();
    // The deepest first.
    folders.sort_by_key(|folder| std::cmp::Reverse(folder.components().count()));
    folders.dedup();
    for folder in folders {
        // One that holds something stays.
        let _ = std::fs::remove_dir(folder);
    }
}

fn relocate(from: &Path, to: &Path, info: &Info) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    let pairs: Vec<(PathBuf, PathBuf)> = bytes::files(info)
        .filter_map(|file| Some((plain(from, &file.path)?, plain(to, &file.path)?)))
        .filter(|(old, _)| old.symlink_metadata().is_ok())
        .collect();
    if pairs.iter().any(|(_, new)| new.symlink_metadata().is_ok()) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    for (at, (old, new)) in pairs.iter().enumerate() {
        if let Err(error) = move_file(old, new) {
            for (old, new) in pairs.iter().take(at) {
                // The first error is the one to tell.
                let _ = move_file(new, old);
            }
            return Err(error);
        }
    }
    remove_empty(from, info);
    Ok(())
}

fn move_file(old: &Path, new: &Path) -> io::Result<()> {
    if let Some(parent) = new.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::rename(old, new) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let copied = std::fs::copy(old, new)
                .and_then(|_| std::fs::File::open(new)?.sync_all())
                .and_then(|()| keep_times(old, new));
            if let Err(error) = copied {
                // A part of it is of no use.
                let _ = std::fs::remove_file(new);
                return Err(error);
            }
            std::fs::remove_file(old)
        }
        done => done,
    }
}

/// Resume records trust a file by its time.
fn keep_times(old: &Path, new: &Path) -> io::Result<()> {
    let times = std::fs::FileTimes::new().set_modified(old.metadata()?.modified()?);
    std::fs::File::options()
        .write(true)
        .open(new)?
        .set_times(times)
}

/// A path below `root`, where no folder on the way is a link: behind one are other people's files.
fn plain(root: &Path, components: &[String]) -> Option<PathBuf> {
    let mut path = root.to_owned();
    let (last, folders) = components.split_last()?;
    for folder in folders {
        path.push(folder);
        if path
            .symlink_metadata()
            .is_ok_and(|found| found.is_symlink())
        {
            return None;
        }
    }
    path.push(last);
    Some(path)
}

/// Bytes that are free for this user, and all, on the disk of a folder or of the nearest one above it that is there. Blocks.
pub(super) fn space(path: &Path) -> Option<(u64, u64)> {
    let there = path.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Some((bytes(stat.f_bavail), bytes(stat.f_blocks)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn info() -> Info {
        let file = |folder: &str, name: &str| {
            format!(
                "d6:lengthi1e4:pathl{}:{folder}{}:{name}ee",
                folder.len(),
                name.len()
            )
        };
        let files = [file("x", "a"), file("x", "b"), file("y", "c")].concat();
        let text = format!(
            "d5:filesl{files}e4:name1:n12:piece lengthi16384e6:pieces20:{}e",
            "h".repeat(20)
        );
        Info::parse(text.as_bytes()).unwrap()
    }

    fn fill(root: &Path) {
        for (folder, name) in [("x", "a"), ("x", "b"), ("y", "c")] {
            std::fs::create_dir_all(root.join("n").join(folder)).unwrap();
            std::fs::write(root.join("n").join(folder).join(name), name).unwrap();
        }
    }

    /// As the engine says of files that it found to be the torrent's, or wrote.
    fn claimed(dir: &Path, root: &Path, info: &Info) -> Claims {
        let claims = Claims {
            state: dir.join("state"),
            hash: info.hash,
        };
        claims.of(root).save(&known(info)).unwrap();
        claims
    }

    fn known(info: &Info) -> Record {
        Record {
            info: info.bytes.clone(),
            had: crate::torrent::picker::Bits::full(info.piece_count()),
            marks: vec![None; 3],
            layers: Vec::new(),
            open: false,
            at: 5,
        }
    }

    #[test]
    fn files_that_nobody_found_to_be_the_torrents_are_neither_removed_nor_moved() {
        let dir = tempfile::tempdir().unwrap();
        let (root, to) = (dir.path().join("root"), dir.path().join("to"));
        fill(&root);
        let info = info();
        // What is known of another folder says nothing of this one.
        let claims = claimed(dir.path(), &to, &info);
        claims.remove(&root, &info).unwrap();
        claims.relocate(&root, &to, &info).unwrap();
        assert_eq!(std::fs::read(root.join("n/x/a")).unwrap(), b"a");
        assert!(!to.exists());
        // Nor does what is known of another torrent's.
        let other = Record {
            info: b"de".as_slice().into(),
            ..known(&info)
        };
        claims.of(&root).save(&other).unwrap();
        claims.remove(&root, &info).unwrap();
        assert_eq!(std::fs::read(root.join("n/x/a")).unwrap(), b"a");
    }

    #[test]
    fn what_comes_after_a_removal_is_not_the_torrents() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fill(&root);
        let claims = claimed(dir.path(), &root, &info());
        claims.remove(&root, &info()).unwrap();
        assert!(!root.join("n").exists());
        fill(&root);
        claims.remove(&root, &info()).unwrap();
        assert_eq!(std::fs::read(root.join("n/x/a")).unwrap(), b"a");
    }

    #[test]
    fn what_is_known_of_files_moves_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fill(&from);
        let info = info();
        let claims = claimed(dir.path(), &from, &info);
        claims.relocate(&from, &to, &info).unwrap();
        assert_eq!(std::fs::read(to.join("n/x/a")).unwrap(), b"a");
        assert_eq!(claims.of(&to).load(), Some(known(&info)));
        assert_eq!(claims.of(&from).load(), None);
        // Where they can't go, they and what is known of them stay.
        fill(&from);
        claims.relocate(&to, &from, &info).unwrap_err();
        assert_eq!(claims.of(&to).load(), Some(known(&info)));
        assert_eq!(std::fs::read(to.join("n/x/a")).unwrap(), b"a");
    }

    #[test]
    fn only_the_torrents_files_go_and_a_folder_with_anything_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fill(root);
        std::fs::write(root.join("n/x/foreign"), "precious").unwrap();
        remove(root, &info()).unwrap();
        assert_eq!(
            std::fs::read(root.join("n/x/foreign")).unwrap(),
            b"precious"
        );
        assert!(!root.join("n/x/a").exists() && !root.join("n/y").exists());
        std::fs::remove_file(root.join("n/x/foreign")).unwrap();
        // Nothing there any more is no error.
        remove(root, &info()).unwrap();
        assert!(!root.join("n").exists() && root.exists());
    }

    #[test]
    fn what_lies_behind_a_link_is_not_the_torrents() {
        let dir = tempfile::tempdir().unwrap();
        let (root, other) = (dir.path().join("root"), dir.path().join("other"));
        std::fs::create_dir_all(root.join("n")).unwrap();
        std::fs::create_dir_all(&other).unwrap();
        std::fs::write(other.join("a"), "precious").unwrap();
        std::os::unix::fs::symlink(&other, root.join("n/x")).unwrap();
        remove(&root, &info()).unwrap();
        assert_eq!(std::fs::read(other.join("a")).unwrap(), b"precious");
        // A file that is a link goes; what it leads to stays.
        std::fs::create_dir_all(root.join("n/y")).unwrap();
        std::os::unix::fs::symlink(other.join("a"), root.join("n/y/c")).unwrap();
        remove(&root, &info()).unwrap();
        assert!(root.join("n/y/c").symlink_metadata().is_err());
        assert_eq!(std::fs::read(other.join("a")).unwrap(), b"precious");
    }

    #[test]
    fn files_move_to_another_disk_with_their_times_or_not_at_all() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let device = |path: &Path| path.metadata().ok().map(|meta| meta.dev());
        let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
            return;
        };
        if device(dir.path()) == device(other.path()) {
            return;
        }
        let (from, to) = (dir.path().join("from"), other.path().join("to"));
        fill(&from);
        let modified = |root: &Path| root.join("n/x/a").metadata().unwrap().modified();
        let before = modified(&from).unwrap();
        relocate(&from, &to, &info()).unwrap();
        assert_eq!(std::fs::read(to.join("n/y/c")).unwrap(), b"c");
        assert_eq!(modified(&to).unwrap(), before);
        assert!(!from.join("n").exists());
        // The last one can't be read as a file: those before it come back.
        std::fs::remove_file(to.join("n/y/c")).unwrap();
        std::fs::create_dir(to.join("n/y/c")).unwrap();
        relocate(&to, &from, &info()).unwrap_err();
        assert_eq!(std::fs::read(to.join("n/x/a")).unwrap(), b"a");
        assert_eq!(std::fs::read(to.join("n/x/b")).unwrap(), b"b");
        assert!(!from.join("n/x/a").exists());
    }

    #[test]
    fn files_move_and_replace_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("deep/to"));
        fill(&from);
        relocate(&from, &to, &info()).unwrap();
        assert_eq!(std::fs::read(to.join("n/y/c")).unwrap(), b"c");
        assert!(!from.join("n").exists());
        std::fs::create_dir_all(from.join("n/x")).unwrap();
        std::fs::write(from.join("n/x/b"), "precious").unwrap();
        let refused = relocate(&to, &from, &info()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(from.join("n/x/b")).unwrap(), b"precious");
        assert_eq!(std::fs::read(to.join("n/x/a")).unwrap(), b"a");
        assert!(space(&dir.path().join("not/there")).unwrap().1 > 0);
    }
}
