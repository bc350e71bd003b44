#![allow(clippy::unwrap_used)]
use super::journal::Entry;
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
        open: true,
        at: 77,
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
fn what_is_removed_is_known_no_more_nor_is_its_journal() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path(), InfoHash([2; 20]), Path::new("/out"));
    store.save(&record()).unwrap();
    std::fs::write(store.journal_path(), b"notes").unwrap();
    let other = Store::new(dir.path(), InfoHash([2; 20]), Path::new("/other"));
    other.save(&record()).unwrap();
    store.remove().unwrap();
    assert_eq!(store.load(), None);
    assert!(!store.journal_path().exists());
    assert_eq!(other.load(), Some(record()));
    // Nothing there is no error.
    store.remove().unwrap();
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
fn records_of_older_versions_still_count() {
    let old = Record {
        open: false,
        at: 0,
        ..record()
    };
    let mut bytes = record().encode();
    bytes.truncate(bytes.len() - 17);
    bytes[0] = WITHOUT_STATE;
    assert_eq!(Record::decode(&bytes), Some(old.clone()));
    bytes.truncate(bytes.len() - 6);
    bytes[0] = WITHOUT_LAYERS;
    let layers = Vec::new();
    assert_eq!(Record::decode(&bytes), Some(Record { layers, ..old }));
}

/// A store with a record and three entries behind it, and what each of these adds up to.
fn journalled(dir: &Path) -> (Store, Vec<Record>) {
    let store = Store::new(dir, InfoHash([1; 20]), Path::new("/out"));
    let mut now = record();
    store.save(&now).unwrap();
    let mut steps = vec![now.clone()];
    for n in 0..3 {
        now.had.set(4 + n);
        let mark = FileMark {
            len: 100 + u64::from(n),
            mtime: 9,
        };
        now.marks[n as usize % 2] = Some(mark);
        now.at += 1;
        let marks = [(n as usize % 2, mark)];
        assert_eq!(store.add(&now.had, &marks, now.at), Ok(true));
        steps.push(now.clone());
    }
    (store, steps)
}

#[test]
fn a_journal_counts_as_far_as_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (store, steps) = journalled(dir.path());
    let path = store.journal_path();
    let good = std::fs::read(&path).unwrap();
    let reader = Store::new(dir.path(), InfoHash([1; 20]), Path::new("/out"));
    let mut reached = 0;
    for cut in 0..=good.len() {
        std::fs::write(&path, &good[..cut]).unwrap();
        let read = reader.load().unwrap();
        let step = steps.iter().position(|step| *step == read).unwrap();
        assert!(step >= reached);
        reached = step;
    }
    assert_eq!(reached, 3);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        let read = reader.load().unwrap();
        let step = steps.iter().position(|step| *step == read).unwrap();
        assert!(step < 3, "an entry that was changed counts");
    }
    // Entries in another order, twice, and behind another record.
    let third = good.len() / 3;
    for wrong in [&good[third..], &[&good[..third], &good[..third]].concat()] {
        std::fs::write(&path, wrong).unwrap();
        let read = reader.load().unwrap();
        assert!(steps[..2].contains(&read));
    }
    store.save(&record()).unwrap();
    std::fs::write(&path, &good).unwrap();
    assert_eq!(reader.load(), Some(record()));
}

#[test]
fn a_journal_that_is_long_or_can_not_be_written_or_from_which_pieces_go_needs_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path(), InfoHash([1; 20]), Path::new("/out"));
    let mark = FileMark { len: 1, mtime: 1 };
    assert_eq!(store.add(&record().had, &[], 1), Ok(false), "no record yet");
    store.save(&record()).unwrap();
    let many = vec![(0, mark); 1000];
    let entries = (0..100).take_while(|n| store.add(&record().had, &many, *n) == Ok(true));
    assert!((2..5).contains(&entries.count()));
    assert_eq!(store.load().unwrap().marks[0], Some(mark));
    store.save(&record()).unwrap();
    assert_eq!(store.load(), Some(record()));
    assert_eq!(store.add(&Bits::new(11), &[], 1), Ok(false));
    assert_eq!(store.load(), Some(record()));
    store.save(&record()).unwrap();
    std::fs::create_dir(store.journal_path()).unwrap();
    assert!(store.add(&record().had, &[], 1).is_err());
    std::fs::remove_dir(store.journal_path()).unwrap();
    assert_eq!(store.add(&record().had, &[], 1), Ok(false));
    assert_eq!(store.load(), Some(record()));
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

    #[test]
    fn any_plain_bytes_are_an_entry_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(read) = Entry::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    #[test]
    fn an_entry_reads_back(at: i128, pieces: Vec<u32>, marks: Vec<(u32, u64, i128)>) {
        let marks = marks.into_iter().map(|(file, len, mtime)| (file, FileMark { len, mtime }));
        let entry = Entry { at, pieces, marks: marks.collect() };
        prop_assert_eq!(Entry::decode(&entry.encode()), Some(entry));
    }

    #[test]
    fn any_bytes_as_a_journal_change_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut read = record();
        let key = Store::new(Path::new("/"), InfoHash([1; 20]), Path::new("/out")).aead().unwrap();
        journal::replay(&mut read, &[0; NONCE_LEN], &key, &bytes);
        prop_assert_eq!(read, record());
    }
}
