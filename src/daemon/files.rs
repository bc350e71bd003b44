//! A torrent's files on the disk, when they are removed or moved: only those that are the torrent's, and never through a link.

use std::io;
use std::path::{Path, PathBuf};

use super::bytes;
use crate::torrent::metainfo::Info;

/// Removes a torrent's files below `root`, and folders that are empty then. What is not the torrent's stays, and so does the folder
/// that holds it. Blocks.
///
/// # Errors
/// The first thing that went wrong; the rest was tried all the same.
pub(super) fn remove(root: &Path, info: &Info) -> io::Result<()> {
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

/// Moves a torrent's files from one folder to another. What is there already is not replaced. Blocks, and for long where the other folder
/// is on another disk.
///
/// # Errors
/// What went wrong. Files that were moved are moved back, where that can be done.
pub(super) fn relocate(from: &Path, to: &Path, info: &Info) -> io::Result<()> {
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
