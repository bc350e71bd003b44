#![allow(clippy::unwrap_used)]
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use sha1::{Digest, Sha1};
use tempfile::TempDir;

use super::*;
use crate::torrent::infohash::InfoHash;
use crate::torrent::metainfo::Builder;
use crate::torrent::storage::{WriteBudget, set_sync_fault};

const PIECE: u32 = 16 << 10;
/// Pieces of each of the two files.
const EACH: u32 = 40;

/// Two files of which all is there, in a folder of their own.
struct World {
    dir: TempDir,
    info: Arc<Info>,
    store: Arc<Store>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let len = u64::from(EACH * PIECE);
        let files = ["a", "b"].map(|name| (vec![name.to_owned()], len));
        let mut builder = Builder::new("top".into(), files.to_vec());
        builder.piece_len = PIECE;
        let content: Vec<u8> = (0..2 * len).map(|n| (n * n / 251 + n) as u8).collect();
        let hashes = content
            .chunks(PIECE as usize)
            .map(|p| Sha1::digest(p).into());
        let info = builder.finish(hashes.collect()).unwrap().0.info;
        std::fs::create_dir(dir.path().join("top")).unwrap();
        let (a, b) = content.split_at(len as usize);
        std::fs::write(dir.path().join("top/a"), a).unwrap();
        std::fs::write(dir.path().join("top/b"), b).unwrap();
        let state = dir.path().join("state");
        let store = Arc::new(Store::new(&state, InfoHash([1; 20]), Path::new("/out")));
        let info = Arc::new(info);
        Self { dir, info, store }
    }

    fn file(&self, name: &str) -> File {
        let path = self.dir.path().join("top").join(name);
        File::options().write(true).open(path).unwrap()
    }

    /// Gives the pieces that are known afterwards, and how many were hashed.
    fn prepare(&self) -> (Bits, u32) {
        self.try_prepare().unwrap()
    }

    fn try_prepare(&self) -> Result<(Bits, u32), StorageError> {
        let (reports, _) = mpsc::channel(1);
        let job = Job {
            info: Arc::clone(&self.info),
            options: StorageOptions {
                root: self.dir.path().to_owned(),
                budget: WriteBudget::new(0),
                write: true,
                preallocate: false,
            },
            overwrite: false,
            store: Arc::clone(&self.store),
            reports,
            checked: Arc::default(),
            wanted: Bits::full(self.info.piece_count()),
            verify: false,
        };
        let checked = Arc::clone(&job.checked);
        let (_, had) = job.run()?;
        Ok((had, checked.load(Ordering::Relaxed)))
    }

    /// A record that claims the first `a` and `b` pieces of the files as they are.
    fn record(&self, a: u32, b: u32, open: bool) -> Bits {
        // Makes the first record, from which the marks are taken.
        let _ = self.prepare();
        let mut had = Bits::new(2 * EACH);
        (0..a).chain(EACH..EACH + b).for_each(|piece| {
            had.set(piece);
        });
        let known = self.store.load().unwrap();
        let record = Record {
            had: had.clone(),
            open,
            at: resume::now(),
            ..known
        };
        self.store.save(&record).unwrap();
        had
    }
}

/// A time that is not that of any record so far.
fn touch(file: &File, after: Duration) {
    file.set_modified(SystemTime::now() + after).unwrap();
}

#[test]
fn after_a_kill_only_what_is_not_recorded_of_touched_files_is_hashed() {
    let world = World::new();
    world.record(30, 20, true);
    // Untouched, what is not claimed is not there either.
    let (had, checked) = world.prepare();
    assert_eq!((had.count(), checked), (50, 16));
    world.record(30, 20, true);
    touch(&world.file("a"), Duration::from_secs(1));
    let (had, checked) = world.prepare();
    assert_eq!((had.count(), checked), (40 + 20, 16 + 10));
    // Something that was half written does not count.
    world.record(30, 20, true);
    let a = world.file("a");
    a.write_all_at(b"half a piece", u64::from(35 * PIECE))
        .unwrap();
    touch(&a, Duration::from_secs(1));
    let (had, checked) = world.prepare();
    assert_eq!((had.count(), checked), (39 + 20, 16 + 10));
    assert!(!had.get(35));
}

#[test]
fn a_file_that_somebody_else_touched_is_checked_alone_and_in_full() {
    let world = World::new();
    for (open, after) in [(true, GRACE * 2), (false, Duration::from_secs(1))] {
        world.record(30, 40, open);
        touch(&world.file("a"), after);
        let (had, checked) = world.prepare();
        assert_eq!((had.count(), checked), (80, 16 + 40), "{open}");
    }
    // One that is shorter than it was, though soon after the record.
    world.record(30, 40, true);
    let a = world.file("a");
    a.set_len(u64::from(10 * PIECE)).unwrap();
    touch(&a, Duration::from_secs(1));
    let (had, checked) = world.prepare();
    assert_eq!((had.count(), checked), (10 + 40, 16 + 40));
    // And one that went back in time, as from a backup.
    world.record(10, 40, true);
    a.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let (had, checked) = world.prepare();
    assert_eq!((had.count(), checked), (10 + 40, 16 + 40));
}

#[test]
fn a_wrong_sample_has_everything_checked() {
    let world = World::new();
    world.record(8, 8, true);
    let a = world.file("a");
    a.write_all_at(b"?", 0).unwrap();
    touch(&a, Duration::from_secs(1));
    let (had, checked) = world.prepare();
    assert!(!had.get(0));
    assert_eq!((had.count(), checked), (79, 16 + 80));
}

#[test]
fn what_was_found_is_claimed_once_it_is_on_the_disk() {
    let world = World::new();
    let had = world.record(30, 20, true);
    set_sync_fault(world.dir.path(), true);
    // What the record claims was brought there before.
    assert_eq!(world.prepare().0, had);
    touch(&world.file("a"), Duration::from_secs(1));
    assert!(world.try_prepare().is_err());
    assert_eq!(world.store.load().unwrap().had, had);
    set_sync_fault(world.dir.path(), false);
    assert_eq!(world.prepare().0.count(), 40 + 20);
    assert_eq!(world.store.load().unwrap().had.count(), 40 + 20);
}
