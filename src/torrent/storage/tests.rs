#![allow(clippy::unwrap_used)]
mod scale;

use super::*;
use crate::torrent::metainfo::Builder;
use sha1::{Digest, Sha1};
use std::path::Path;

const PIECE: u32 = 64 << 10;

/// A torrent of several files, tiny and empty ones among them, and its content.
fn torrent(sizes: &[u64]) -> (Info, Vec<u8>) {
    let files = sizes
        .iter()
        .enumerate()
        .map(|(n, &len)| (vec![format!("{n:02}"), "f".into()], len));
    let mut builder = Builder::new("top".into(), files.collect());
    builder.piece_len = PIECE;
    let total: u64 = sizes.iter().sum();
    let content: Vec<u8> = (0..total).map(|n| (n * n / 251 + n) as u8).collect();
    let hashes = content
        .chunks(PIECE as usize)
        .map(|p| Sha1::digest(p).into())
        .collect();
    (builder.finish(hashes).unwrap().0.info, content)
}

fn open(info: &Info, root: &Path, budget: usize) -> (Arc<Storage>, mpsc::Receiver<Report>) {
    let (sender, reports) = mpsc::channel(64);
    let options = StorageOptions {
        root: root.to_owned(),
        budget: WriteBudget::new(budget),
        write: true,
        preallocate: false,
    };
    (
        Storage::open(info, &options, sender, None).unwrap(),
        reports,
    )
}

fn put(storage: &Arc<Storage>, content: &[u8], piece: u32, number: u32) {
    let block = storage.geometry().block(piece, number);
    let start = (piece * PIECE + block.begin) as usize;
    storage.put(block, &content[start..start + block.len as usize]);
}

fn on_disk(root: &Path, sizes: &[u64]) -> Vec<u8> {
    let mut all = Vec::new();
    for (n, &len) in sizes.iter().enumerate() {
        let file = std::fs::read(root.join("top").join(format!("{n:02}")).join("f")).unwrap();
        assert_eq!(file.len() as u64, len);
        all.extend(file);
    }
    all
}

#[tokio::test]
async fn blocks_in_any_order_become_the_files() {
    let sizes = [100_000, 0, 1, 70_000, 5];
    let (info, content) = torrent(&sizes);
    let dir = tempfile::tempdir().unwrap();
    // The least budget: everything passes through it.
    let (storage, mut reports) = open(&info, dir.path(), 0);
    storage.prepare(|_| true).unwrap();
    let geometry = storage.geometry();
    let mut blocks: Vec<(u32, u32)> = (0..geometry.pieces)
        .flat_map(|piece| (0..geometry.blocks_of(piece)).map(move |number| (piece, number)))
        .collect();
    blocks.sort_by_key(|&(piece, number)| (number * 7 + piece * 3) % 5);
    for (piece, number) in blocks {
        storage.ready().await;
        put(&storage, &content, piece, number);
        // Also what is not complete goes to disk under pressure.
        storage.write_gathered();
    }
    for _ in 0..geometry.pieces {
        assert!(matches!(reports.recv().await, Some(Report::Passed { .. })));
    }
    storage.idle().await;
    storage.sync().unwrap();
    assert_eq!(on_disk(dir.path(), &sizes), content);
    let all = Bits::full(geometry.pieces);
    assert!(storage.check(&all, 2, &AtomicU32::new(0)).is_full());
    assert_eq!(storage.share.used(), 0, "all memory is given back");
    let mut read = Vec::new();
    storage
        .read(
            BlockRef {
                index: 1,
                begin: 30_000,
                len: 16_000,
            },
            &mut read,
        )
        .unwrap();
    assert_eq!(read, content[PIECE as usize + 30_000..][..16_000]);
    // In one file and across several, one behind another and not, into what held something else.
    let block = |index, begin, len| BlockRef { index, begin, len };
    let asked = [
        block(0, 0, 16_384),
        block(0, 16_384, 16_384),
        block(0, 60_000, 5_536),
        block(1, 0, 40_000),
        block(1, 40_000, 1),
        block(0, 7, 1),
        block(2, 0, 5),
    ];
    for before in [0, 13, 2] {
        let mut out = vec![9; 90_000];
        storage.read_blocks(&asked, before, &mut out).unwrap();
        let mut rest = &out[..];
        for block in asked {
            let start = (block.index * PIECE + block.begin) as usize;
            let (part, more) = rest.split_at(before + block.len as usize);
            assert_eq!(part[before..], content[start..][..block.len as usize]);
            rest = more;
        }
        assert!(rest.is_empty());
    }
    let beyond = [block(0, 0, 1), block(2, 0, PIECE)];
    assert!(storage.read_blocks(&beyond, 13, &mut read).is_err());
    // A file that was cut: nothing is served in its place.
    std::fs::write(dir.path().join("top/03/f"), b"short").unwrap();
    let cut = [block(2, 0, 100), block(2, 100, 100)];
    assert!(storage.read_blocks(&cut, 13, &mut read).is_err());
}

#[tokio::test]
async fn a_wrong_piece_is_reported_and_the_right_one_takes_its_place() {
    let (info, content) = torrent(&[200_000]);
    let dir = tempfile::tempdir().unwrap();
    let (storage, mut reports) = open(&info, dir.path(), DEFAULT_BUDGET);
    let mut wrong = content.clone();
    wrong[20_000] ^= 1;
    (0..4).for_each(|number| put(&storage, &wrong, 0, number));
    let Some(Report::Failed {
        piece: 0,
        digests: bad,
    }) = reports.recv().await
    else {
        panic!()
    };
    (0..4).for_each(|number| put(&storage, &content, 0, number));
    let Some(Report::Passed {
        piece: 0,
        digests: good,
    }) = reports.recv().await
    else {
        panic!()
    };
    let differ: Vec<bool> = bad.iter().zip(&good).map(|(a, b)| a != b).collect();
    assert_eq!(differ, [false, true, false, false]);
    // Nothing overwrites it now.
    (0..4).for_each(|number| put(&storage, &wrong, 0, number));
    storage.idle().await;
    let mut done = Bits::new(4);
    done.set(0);
    assert_eq!(storage.check(&done, 1, &AtomicU32::new(0)), done);
}

#[tokio::test]
async fn a_block_that_changes_after_its_segment_was_hashed_is_seen() {
    let (info, content) = torrent(&[200_000]);
    let dir = tempfile::tempdir().unwrap();
    let (storage, mut reports) = open(&info, dir.path(), DEFAULT_BUDGET);
    let mut wrong = content.clone();
    wrong[3] ^= 1;
    (0..3).for_each(|number| put(&storage, &content, 0, number));
    storage.write_gathered();
    storage.idle().await;
    put(&storage, &wrong, 0, 0);
    put(&storage, &content, 0, 3);
    assert!(matches!(
        reports.recv().await,
        Some(Report::Failed { piece: 0, .. })
    ));
}

#[tokio::test]
async fn a_full_disk_loses_the_piece_and_nothing_else() {
    let (info, content) = torrent(&[200_000]);
    let dir = tempfile::tempdir().unwrap();
    let (storage, mut reports) = open(&info, dir.path(), DEFAULT_BUDGET);
    (0..4).for_each(|number| put(&storage, &content, 0, number));
    assert!(matches!(
        reports.recv().await,
        Some(Report::Passed { piece: 0, .. })
    ));
    set_fault(dir.path(), Some(StorageError::Full));
    (0..4).for_each(|number| put(&storage, &content, 1, number));
    let Some(Report::Lost { piece: 1, error }) = reports.recv().await else {
        panic!()
    };
    assert_eq!(error, StorageError::Full);
    assert_eq!(storage.share.used(), 0);
    set_fault(dir.path(), None);
    (0..4).for_each(|number| put(&storage, &content, 1, number));
    assert!(matches!(
        reports.recv().await,
        Some(Report::Passed { piece: 1, .. })
    ));
}

#[tokio::test]
async fn a_planted_link_is_not_followed() {
    let (info, content) = torrent(&[100_000, 100_000]);
    for (link, folder) in [("top", false), ("top/00", false), ("top/00/f", true)] {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let root = dir.path().join("out");
        let target = if folder {
            outside.path().join("victim")
        } else {
            outside.path().to_owned()
        };
        std::fs::create_dir_all(root.join(link).parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&target, root.join(link)).unwrap();
        let (storage, mut reports) = open(&info, &root, DEFAULT_BUDGET);
        (0..4).for_each(|number| put(&storage, &content, 0, number));
        let Some(Report::Lost { error, .. }) = reports.recv().await else {
            panic!()
        };
        assert_eq!(error, StorageError::Symlink);
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn what_is_no_plain_file_is_refused() {
    let (info, content) = torrent(&[100_000]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("top/00/f")).unwrap();
    let (storage, mut reports) = open(&info, dir.path(), DEFAULT_BUDGET);
    (0..4).for_each(|number| put(&storage, &content, 0, number));
    let Some(Report::Lost { error, .. }) = reports.recv().await else {
        panic!()
    };
    assert_eq!(error, StorageError::NotAFile);
}

#[test]
fn somebody_elses_file_is_seen_and_a_right_one_is_kept() {
    let (info, content) = torrent(&[100_000, 100_000]);
    let dir = tempfile::tempdir().unwrap();
    let (storage, _reports) = open(&info, dir.path(), DEFAULT_BUDGET);
    assert!(!storage.any_exists().unwrap());
    let file = |n: &str| dir.path().join("top").join(n).join("f");
    std::fs::create_dir_all(file("00").parent().unwrap()).unwrap();
    std::fs::create_dir_all(file("01").parent().unwrap()).unwrap();
    std::fs::write(file("00"), &content[..100_000]).unwrap();
    assert!(storage.any_exists().unwrap());
    let had = storage.check(&Bits::full(4), 2, &AtomicU32::new(0));
    assert!(had.ones().eq([0]), "the second piece lies in both files");
    assert!(!storage.has_foreign(&had).unwrap());
    std::fs::write(file("01"), b"a letter").unwrap();
    let other = Bits::new(4);
    assert!(storage.has_foreign(&other).unwrap());
    std::fs::write(file("00"), vec![0; 100_001]).unwrap();
    assert!(storage.has_foreign(&Bits::full(4)).unwrap(), "too long");
}

#[test]
fn files_that_were_touched_have_other_marks() {
    let (info, content) = torrent(&[1000]);
    let dir = tempfile::tempdir().unwrap();
    let (storage, _reports) = open(&info, dir.path(), DEFAULT_BUDGET);
    assert_eq!(storage.marks().unwrap(), [None]);
    std::fs::create_dir_all(dir.path().join("top/00")).unwrap();
    let path = dir.path().join("top/00/f");
    std::fs::write(&path, &content).unwrap();
    let before = storage.marks().unwrap();
    assert_eq!(before[0].unwrap().len, 1000);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_ne!(storage.marks().unwrap(), before);
}

#[test]
fn files_are_hashed_as_their_torrent_says() {
    let sizes = [100_000, 0, 7];
    let (info, content) = torrent(&sizes);
    let dir = tempfile::tempdir().unwrap();
    let mut at = 0;
    let mut files = Vec::new();
    for (n, &len) in sizes.iter().enumerate() {
        let path = dir.path().join("top").join(format!("{n:02}"));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("f"), &content[at..at + len as usize]).unwrap();
        at += len as usize;
        files.push((vec![format!("{n:02}"), "f".into()], len));
    }
    let progress = AtomicU32::new(0);
    let mut builder = Builder::new("top".into(), files);
    builder.piece_len = PIECE;
    let hashes = hash_files(dir.path(), &builder, 2, &progress).unwrap();
    assert_eq!(hashes.v1, info.pieces);
    assert_eq!(hashes.v2, [[0; 32]; 0]);
    assert_eq!(progress.load(Ordering::Relaxed), 2);
    builder.files[0].1 += 1;
    let short = hash_files(dir.path(), &builder, 2, &progress);
    assert_eq!(short, Err(StorageError::Missing));
}

#[tokio::test]
async fn what_is_kept_to_be_hashed_is_given_back_when_memory_is_short() {
    // Of two segments, the second of which comes first.
    let len = SEGMENT * 2;
    let content: Vec<u8> = (0..len).map(|n| (n / 253) as u8).collect();
    let files = vec![(vec!["f".to_owned()], u64::from(len))];
    let mut builder = Builder::new("top".into(), files);
    builder.piece_len = len;
    let hash = Sha1::digest(&content).into();
    let info = builder.finish(vec![hash]).unwrap().0.info;
    let dir = tempfile::tempdir().unwrap();
    let (storage, mut reports) = open(&info, dir.path(), DEFAULT_BUDGET);
    let put = |number| {
        let block = storage.geometry().block(0, number);
        let data = &content[block.begin as usize..][..block.len as usize];
        storage.put(block, data);
    };
    (SEGMENT_BLOCKS..2 * SEGMENT_BLOCKS).for_each(put);
    storage.idle().await;
    assert_eq!(storage.share.used(), SEGMENT as usize, "kept for the first");
    // As when another torrent finds no room.
    storage.write_gathered();
    storage.idle().await;
    assert_eq!(storage.share.used(), 0);
    (0..SEGMENT_BLOCKS).for_each(put);
    let report = reports.recv().await;
    assert!(matches!(report, Some(Report::Passed { .. })), "{report:?}");
    storage.idle().await;
    assert_eq!(storage.share.used(), 0);
}

#[tokio::test]
async fn what_could_not_be_brought_to_the_disk_is_not_claimed_later() {
    let sizes = [u64::from(PIECE) * 2, u64::from(PIECE) * 2];
    let (info, content) = torrent(&sizes);
    let dir = tempfile::tempdir().unwrap();
    let (storage, mut reports) = open(&info, dir.path(), DEFAULT_BUDGET);
    let blocks = storage.geometry().blocks_of(0);
    let claim = || {
        let mut had = Bits::full(4);
        let changed = storage.sync_and_claim(&mut had)?;
        let changed: Vec<usize> = changed.into_iter().map(|(file, _)| file).collect();
        Ok::<_, StorageError>((had.ones().collect::<Vec<u32>>(), changed))
    };
    // The second file alone, and then, while the disk refuses, the first.
    for piece in [2, 3, 0, 1] {
        (0..blocks).for_each(|number| put(&storage, &content, piece, number));
        let report = reports.recv().await;
        assert!(matches!(report, Some(Report::Passed { .. })), "{report:?}");
        if piece == 3 {
            assert_eq!(claim().unwrap(), (vec![0, 1, 2, 3], vec![1]));
            set_sync_fault(dir.path(), true);
        }
    }
    assert_eq!(claim(), Err(StorageError::Io(std::io::ErrorKind::Other)));
    set_sync_fault(dir.path(), false);
    // It is said once: the next attempt succeeds, whatever was lost.
    assert_eq!(claim().unwrap(), (vec![2, 3], Vec::new()));
    assert_eq!(claim().unwrap(), (vec![2, 3], Vec::new()));
    let known: Vec<bool> = storage
        .marks_to_claim()
        .unwrap()
        .iter()
        .map(Option::is_some)
        .collect();
    assert_eq!(known, [false, true]);
}
