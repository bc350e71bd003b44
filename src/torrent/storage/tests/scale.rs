//! Very many files, very large ones, and memory that several torrents share.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use super::*;
use crate::torrent::engine::create_as;
use crate::torrent::metainfo::Version;

/// What is not asked to be anything in particular.
fn options(root: &Path, budget: &Arc<WriteBudget>) -> StorageOptions {
    StorageOptions {
        root: root.to_owned(),
        budget: Arc::clone(budget),
        write: true,
        preallocate: false,
    }
}

/// Files below `root` that this process has open.
fn opened(root: &Path) -> usize {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = all.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|to| to.starts_with(root)).count()
}

#[tokio::test]
async fn a_hundred_thousand_files_come_with_few_open_at_once() {
    const FILES: usize = 100_000;
    let file = |n: usize| vec![format!("{:03}", n / 1000), format!("{:03}", n % 1000)];
    // Most are empty, so that this takes seconds.
    let len = |n| if n % 10 == 0 { 15 } else { 0 };
    let sizes: Vec<u64> = (0..FILES as u64).map(len).collect();
    let files = sizes.iter().enumerate().map(|(n, &len)| (file(n), len));
    let mut builder = Builder::new("top".into(), files.collect());
    builder.piece_len = PIECE;
    let content: Vec<u8> = (0..sizes.iter().sum::<u64>()).map(|n| n as u8).collect();
    let hashes = content
        .chunks(PIECE as usize)
        .map(|p| Sha1::digest(p).into());
    let info = builder.finish(hashes.collect()).unwrap().0.info;
    // In memory where there is such a folder: it is about files, not about the disk.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let dir = dir.unwrap();
    let (storage, mut reports) = open(&info, dir.path(), DEFAULT_BUDGET);
    let pieces = storage.geometry().pieces;
    for piece in 0..pieces {
        for number in 0..storage.geometry().blocks_of(piece) {
            storage.ready().await;
            put(&storage, &content, piece, number);
        }
        assert!(matches!(reports.recv().await, Some(Report::Passed { .. })));
        assert!(opened(dir.path()) <= 64 + 8, "{}", opened(dir.path()));
    }
    let synced = storage.sync().unwrap();
    assert_eq!(synced.len(), FILES / 10, "all but the empty ones");
    storage.prepare(|_| true).unwrap();
    let marks = storage.marks().unwrap();
    for (mark, len) in marks.iter().zip(&sizes) {
        assert_eq!(mark.unwrap().len, *len);
    }
    for (file, mark) in synced {
        assert_eq!(marks[file], Some(mark));
    }
    drop(storage);
    let (again, _reports) = open(&info, dir.path(), DEFAULT_BUDGET);
    assert!(
        again
            .check(&Bits::full(pieces), 2, &AtomicU32::new(0))
            .is_full()
    );
    assert!(!again.has_foreign(&Bits::full(pieces)).unwrap());
}

#[tokio::test]
async fn ten_terabytes_take_up_what_was_written_and_are_checked_without_being_read() {
    const LEN: u32 = 16 << 20;
    // Neither ends with a piece.
    let sizes = [5_000_000_000_123, 4_999_999_999_990];
    let files = sizes.iter().enumerate();
    let files = files.map(|(n, &len)| (vec![n.to_string()], len));
    let mut builder = Builder::new("top".into(), files.collect());
    builder.piece_len = LEN;
    let total: u64 = sizes.iter().sum();
    let pieces = total.div_ceil(u64::from(LEN)) as u32;
    let content: Vec<u8> = (0..LEN).map(|n| (n / 253) as u8).collect();
    let mut hashes = vec![[7; 20]; pieces as usize];
    let across = (sizes[0] / u64::from(LEN)) as u32;
    let last = (total - u64::from(pieces - 1) * u64::from(LEN)) as usize;
    let written = [
        (0, LEN as usize),
        (across, LEN as usize),
        (pieces - 1, last),
    ];
    for (piece, len) in written {
        hashes[piece as usize] = Sha1::digest(&content[..len]).into();
    }
    // One that is of zeros is there before it came.
    hashes[9] = Sha1::digest(vec![0; LEN as usize]).into();
    let info = builder.finish(hashes).unwrap().0.info;
    let dir = tempfile::tempdir().unwrap();
    let (storage, mut reports) = open(&info, dir.path(), 1 << 20);
    for (piece, len) in written {
        for number in 0..storage.geometry().blocks_of(piece) {
            storage.ready().await;
            let block = storage.geometry().block(piece, number);
            let data = &content[..len][block.begin as usize..][..block.len as usize];
            storage.put(block, data);
        }
        let report = reports.recv().await;
        assert!(matches!(report, Some(Report::Passed { .. })), "{report:?}");
    }
    storage.sync().unwrap();
    let stored = storage.files.stored(2);
    assert!((1 << 20..64 << 20).contains(&stored), "{stored}");
    let lens: Vec<u64> = storage
        .marks()
        .unwrap()
        .iter()
        .map(|m| m.unwrap().len)
        .collect();
    assert_eq!(lens, sizes);
    let had = storage.check(&Bits::full(pieces), 2, &AtomicU32::new(0));
    assert!(had.ones().eq([0, 9, across, pieces - 1]));
}

#[tokio::test]
async fn holes_are_right_where_zeros_are_in_every_version() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().join("top");
    std::fs::create_dir(&top).unwrap();
    let lens = [(1 << 20) + 70_000, 3 << 20, 100, 1 << 20];
    let file = |n: usize| top.join(n.to_string());
    for (n, len) in lens.into_iter().enumerate() {
        std::fs::File::create(file(n))
            .unwrap()
            .set_len(len)
            .unwrap();
    }
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let made = create_as(top.clone(), Vec::new(), version, Arc::default());
        let info = made.await.unwrap().metainfo.info;
        let (storage, _reports) = open(&info, dir.path(), 0);
        let all = Bits::full(storage.geometry().pieces);
        let wrong = || all.len() - storage.check(&all, 2, &AtomicU32::new(0)).count();
        assert_eq!(wrong(), 0, "{version:?}");
        let touched = std::fs::File::options().write(true).open(file(1)).unwrap();
        touched.write_all_at(b"?", 1_500_000).unwrap();
        assert_eq!(wrong(), 1, "{version:?}");
        touched.set_len(0).unwrap();
        touched.set_len(lens[1]).unwrap();
        assert_eq!(wrong(), 0, "{version:?}");
        touched.set_len(lens[1] - 1).unwrap();
        assert_eq!(wrong(), 1, "{version:?}: a file that is too short");
        touched.set_len(lens[1]).unwrap();
    }
}

#[tokio::test]
async fn room_is_taken_beforehand_where_asked_for_and_else_as_blocks_come() {
    let (info, content) = torrent(&[300_000, 400_000, 500_000]);
    let stored = |dir: &Path, n: usize| {
        let file = std::fs::metadata(dir.join("top").join(format!("{n:02}/f")));
        file.map_or(0, |file| file.blocks() * 512)
    };
    for preallocate in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (sender, mut reports) = mpsc::channel(64);
        let options = StorageOptions {
            preallocate,
            ..options(dir.path(), &WriteBudget::new(0))
        };
        let storage = Storage::open(&info, &options, sender, None).unwrap();
        // Of the second file, one piece is not wanted.
        let unwanted = storage.pieces_of(1).start + 2;
        storage.prepare(|piece| piece != unwanted).unwrap();
        let taken = [0, 1, 2].map(|n| stored(dir.path(), n) >= 300_000);
        assert_eq!(taken, [preallocate, false, preallocate]);
        // They hold what comes all the same, and what did not come is not there.
        (0..4).for_each(|number| put(&storage, &content, 0, number));
        assert!(matches!(reports.recv().await, Some(Report::Passed { .. })));
        let all = Bits::full(storage.geometry().pieces);
        assert!(storage.check(&all, 1, &AtomicU32::new(0)).ones().eq([0]));
    }
}

#[tokio::test]
async fn a_torrent_that_holds_memory_for_slow_peers_does_not_stop_another() {
    let (info, content) = torrent(&[3_000_000]);
    let dir = tempfile::tempdir().unwrap();
    let budget = WriteBudget::new(0);
    let (sender, mut reports) = mpsc::channel(64);
    let at = |name: &str| options(&dir.path().join(name), &budget);
    let [slow, quick] = ["slow", "quick"]
        .map(|name| Storage::open(&info, &at(name), sender.clone(), None).unwrap());
    // One block of each piece: nothing is complete, so nothing is written.
    for piece in 0.. {
        if !slow.has_room() {
            break;
        }
        put(&slow, &content, piece, 0);
    }
    assert!(budget.used() > 0);
    for piece in 0..quick.geometry().pieces {
        for number in 0..quick.geometry().blocks_of(piece) {
            quick.ready().await;
            put(&quick, &content, piece, number);
        }
        assert!(matches!(reports.recv().await, Some(Report::Passed { .. })));
    }
    slow.ready().await;
    slow.idle().await;
    drop(slow);
    quick.idle().await;
    assert_eq!(budget.used(), 0);
}
