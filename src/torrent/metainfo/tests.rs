#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

/// A torrent of two files as libtorrent and others write it, by hand.
const TWO_FILES: &[u8] =
    b"d8:announce22:http://tracker.test/an13:announce-listll22:http://tracker.test/an\
21:udp://tracker.test:80el3:wssee4:infod5:filesld6:lengthi20000e4:pathl3:sub5:a.bineed6:lengthi5e\
4:pathl5:b.txteee4:name4:demo12:piece lengthi16384e6:pieces40:\
AAAAAAAAAAAAAAAAAAAABBBBBBBBBBBBBBBBBBBB7:privatei1eee";

#[test]
fn web_seeds_read_as_one_or_many_and_what_is_none_is_left_out() {
    let info = "4:infod6:lengthi9e4:name1:a12:piece lengthi16384e6:pieces20:AAAAAAAAAAAAAAAAAAAAe";
    let seeds = |before: &str, after: &str| -> Vec<(WebKind, String)> {
        let torrent = format!("d{before}{info}{after}e");
        let seeds = Metainfo::parse(torrent.as_bytes()).unwrap().web_seeds;
        seeds
            .into_iter()
            .map(|seed| (seed.kind, seed.url))
            .collect()
    };
    let files = |url: &str| (WebKind::Files, url.to_owned());
    assert_eq!(seeds("", "8:url-list9:http://a/"), [files("http://a/")]);
    assert_eq!(seeds("", "8:url-list0:"), []);
    assert_eq!(seeds("", "8:url-listi5e"), []);
    let list = "8:url-listl9:http://a/i7e9:http://b/9:http://a/3:x\x01ye";
    assert_eq!(seeds("", list), [files("http://a/"), files("http://b/")]);
    let pieces = (WebKind::Pieces, "http://s/".to_owned());
    let both = seeds("9:httpseedsl9:http://s/e", "8:url-list9:http://s/");
    assert_eq!(both, [files("http://s/"), pieces]);
    let many: String = (100..300).map(|n| format!("12:http://a/{n}")).collect();
    assert_eq!(
        seeds("", &format!("8:url-listl{many}e")).len(),
        MAX_WEB_SEEDS
    );
}

fn info(entries: &str) -> Result<Info, MetainfoError> {
    Info::parse(format!("d{entries}e").as_bytes())
}

/// A single-file torrent of one piece with this name.
fn named(name: &str) -> Result<Info, MetainfoError> {
    let entries = format!(
        "6:lengthi9e4:name{}:{name}12:piece lengthi16384e6:pieces20:{}",
        name.len(),
        "x".repeat(20)
    );
    info(&entries)
}

/// A multi-file torrent of one piece, with these bencoded file entries of nine bytes in all.
fn holding(files: &str) -> Result<Info, MetainfoError> {
    info(&format!(
        "5:filesl{files}e4:name1:t12:piece lengthi16384e6:pieces20:{}",
        "x".repeat(20)
    ))
}

#[test]
fn a_handmade_torrent_reads_in_full() {
    let torrent = Metainfo::parse(TWO_FILES).unwrap();
    let info = &torrent.info;
    assert_eq!(
        (info.name.as_str(), info.piece_len, info.total),
        ("demo", 16384, 20005)
    );
    assert!(info.private);
    assert_eq!(info.pieces, [[b'A'; 20], [b'B'; 20]]);
    let paths: Vec<String> = info.files.iter().map(|file| file.path.join("/")).collect();
    assert_eq!(paths, ["demo/sub/a.bin", "demo/b.txt"]);
    assert_eq!(
        (info.piece_size(0), info.piece_size(1), info.piece_size(2)),
        (16384, 3621, 0)
    );
    assert_eq!(info.piece_size(u32::MAX), 0);
    // By Python's hashlib over the bytes of the info dictionary.
    assert_eq!(info.hash.hex(), "74b0f87c66520eb07a6da21614712c3c6d7582f1");
    let tiers = [
        vec!["http://tracker.test/an", "udp://tracker.test:80"],
        vec!["wss"],
    ];
    assert_eq!(torrent.trackers, tiers);
    assert_eq!(Info::parse(&info.bytes).as_ref(), Ok(info));
}

#[test]
fn a_torrent_encodes_to_the_bytes_it_was_read_from() {
    assert_eq!(Metainfo::parse(TWO_FILES).unwrap().encode(), TWO_FILES);
    let trailing = [TWO_FILES, b"\n"].concat();
    assert_eq!(Metainfo::parse(&trailing).unwrap().encode(), TWO_FILES);
}

#[test]
fn paths_that_leave_the_download_directory_are_refused() {
    assert_eq!(named(".."), Err(PathError::Dots.into()));
    assert_eq!(named("/etc/passwd"), Err(PathError::Separator.into()));
    for (path, error) in [
        ("l2:..1:ae", PathError::Dots),
        ("l4:/etce", PathError::Separator),
        ("l0:e", PathError::Empty),
        ("le", PathError::Empty),
        ("l3:nule", PathError::DeviceName),
    ] {
        let file = format!("d6:lengthi9e4:path{path}e");
        assert_eq!(holding(&file), Err(error.into()), "{path}");
    }
    let components = "1:a".repeat(MAX_COMPONENTS);
    let deep = format!("d6:lengthi9e4:pathl{components}ee");
    assert_eq!(holding(&deep), Err(PathError::TooDeep.into()));
}

#[test]
fn files_that_would_overwrite_each_other_are_refused() {
    let same = "d6:lengthi4e4:pathl1:aeed6:lengthi5e4:pathl1:Aee";
    assert_eq!(holding(same), Err(PathError::Clash.into()));
}

#[test]
fn errors_and_debug_output_name_no_file() {
    let error = named("secret?").unwrap_err();
    let shown = format!(
        "{error} {error:?} {:?}",
        Metainfo::parse(TWO_FILES).unwrap()
    );
    for word in ["secret", "demo", "tracker.test", "a.bin"] {
        assert!(!shown.contains(word), "{shown}");
    }
}

#[test]
fn names_that_are_not_utf8_are_kept_without_loss() {
    let mut bytes = b"d6:lengthi9e4:name5:a%\xff\xe9z12:piece lengthi16384e6:pieces20:".to_vec();
    bytes.extend_from_slice(&[7; 20]);
    bytes.push(b'e');
    assert_eq!(Info::parse(&bytes).unwrap().name, "a%25%FF%E9z");
    let with_text =
        b"d6:lengthi9e4:name2:\xff\xfe10:name.utf-84:text12:piece lengthi16384e6:pieces20:";
    let bytes = [&with_text[..], &[7; 20], b"e"].concat();
    assert_eq!(Info::parse(&bytes).unwrap().name, "text");
    let files = "d6:lengthi9e4:pathl1:xe10:path.utf-8l1:y1:zeee".replace("eee", "ee");
    assert_eq!(holding(&files).unwrap().files[0].path, ["t", "y", "z"]);
}

#[test]
fn padding_is_marked_and_its_names_do_not_matter() {
    let files = "d6:lengthi4e4:pathl1:aeed4:attr1:p6:lengthi2e4:pathl2:..1:xeed4:attr1:p6:lengthi2e4:path\
l4:.pad1:2eed6:lengthi1e4:pathl1:bee";
    let info = holding(files).unwrap();
    assert_eq!(
        info.files.iter().map(|f| f.pad).collect::<Vec<_>>(),
        [false, true, true, false]
    );
    assert_eq!(info.total, 9);
    assert_eq!(info.files[1].path, ["t", ".pad", "2"]);
}

#[test]
fn symbolic_links_are_left_out() {
    let link = "d4:attr1:l4:pathl1:ke12:symlink pathl1:aee";
    let info = holding(&format!("d6:lengthi9e4:pathl1:aee{link}")).unwrap();
    assert_eq!(info.files.len(), 1);
    let heavy = "d4:attr1:l6:lengthi9e4:pathl1:kee";
    assert_eq!(holding(heavy), Err(MetainfoError::Symlink));
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let hashes = |count: usize| format!("6:pieces{}:{}", count * 20, "x".repeat(count * 20));
    let sized = |len: &str, piece_len: &str, pieces: &str| {
        info(&format!(
            "6:lengthi{len}e4:name1:a12:piece lengthi{piece_len}e{pieces}"
        ))
    };
    assert!(sized("16385", "16384", &hashes(2)).is_ok());
    assert!(
        sized("30000", "20000", &hashes(2)).is_ok(),
        "no power of two is asked for"
    );
    let mut result = sized("16384", "16384", &hashes(2));
    assert_eq!(result, Err(MetainfoError::PieceCount), "one hash too many");
    result = sized("9223372036854775807", "16384", &hashes(1));
    assert_eq!(result, Err(MetainfoError::PieceCount));
    assert_eq!(sized("0", "16384", &hashes(0)), Err(MetainfoError::Empty));
    assert_eq!(
        sized("-1", "16384", &hashes(1)),
        Err(MetainfoError::Entry("length"))
    );
    for len in ["0", "16383", "268435457", "4294983680"] {
        assert_eq!(
            sized("9", len, &hashes(1)),
            Err(MetainfoError::PieceLength),
            "{len}"
        );
    }
    result = sized("9", "16384", "6:pieces3:abc");
    assert_eq!(result, Err(MetainfoError::Entry("pieces")));
    let overflow = "d6:lengthi9223372036854775807e4:pathl1:aeed6:lengthi9223372036854775807e4:pathl1:bee\
d6:lengthi9223372036854775807e4:pathl1:cee";
    assert_eq!(holding(overflow), Err(MetainfoError::PieceCount));
}

#[test]
fn counts_beyond_the_limits_are_refused() {
    let mut bytes = b"d6:lengthi9e4:name1:a12:piece lengthi16384e6:pieces".to_vec();
    bencode::put_bytes(&mut bytes, vec![0; (MAX_PIECES + 1) * 20]);
    assert_eq!(
        Info::parse(&[&bytes[..], b"e"].concat()),
        Err(MetainfoError::TooManyPieces)
    );
    let files = "d6:lengthi0e4:pathl1:aee".repeat(MAX_FILES + 1);
    assert_eq!(holding(&files), Err(MetainfoError::TooManyFiles));
    assert_eq!(
        Metainfo::parse(&vec![b'd'; MAX_TORRENT + 1]),
        Err(MetainfoError::TooLarge)
    );
}

#[test]
fn version_1_needs_its_hashes() {
    assert_eq!(info("4:name1:a"), Err(MetainfoError::Entry("pieces")));
}

#[test]
fn trackers_are_bounded_and_occur_once() {
    let mut torrent = Metainfo::parse(TWO_FILES).unwrap();
    let many = (0..500).map(|n| format!("http://{n}.test/"));
    let long = format!("http://{}/", "x".repeat(MAX_TRACKER_URL));
    torrent.trackers = vec![
        vec![long, "http://0.test/".into(), "a\nb".into()],
        many.collect(),
    ];
    let read = Metainfo::parse(&torrent.encode()).unwrap().trackers;
    assert_eq!(read[0], ["http://0.test/"]);
    assert_eq!(read.iter().map(Vec::len).sum::<usize>(), MAX_TRACKERS);
    assert_eq!(read[1][0], "http://1.test/");
}

#[test]
fn made_torrents_are_canonical() {
    let files = vec![
        (vec!["b.txt".to_owned()], 5),
        (vec!["a".to_owned(), "c.bin".to_owned()], 20000),
    ];
    let mut builder = Builder::new("demo".to_owned(), files);
    builder.trackers = vec![vec!["http://t.test/announce".to_owned()]];
    let (torrent, bytes) = builder.finish(vec![[b'A'; 20], [b'B'; 20]]).unwrap();
    assert_eq!(
        bytes.escape_ascii().to_string(),
        "d8:announce22:http://t.test/announce4:infod5:filesld6:lengthi20000e4:pathl1:a5:c.bineed6:lengthi5e\
4:pathl5:b.txteee4:name4:demo12:piece lengthi16384e6:pieces40:AAAAAAAAAAAAAAAAAAAABBBBBBBBBBBBBBBBBBBBee"
    );
    assert_eq!(Metainfo::parse(&bytes).as_ref(), Ok(&torrent));
}

#[test]
fn a_made_single_file_has_no_directory() {
    let builder = Builder::new("one.bin".to_owned(), vec![(Vec::new(), 9)]);
    let (torrent, _) = builder.finish(vec![[1; 20]]).unwrap();
    assert_eq!(torrent.info.files[0].path, ["one.bin"]);
    assert_eq!(
        Builder::new("a/b".to_owned(), vec![(Vec::new(), 9)])
            .finish(vec![[1; 20]])
            .unwrap_err(),
        PathError::Separator.into()
    );
}

#[test]
fn chosen_piece_lengths_keep_the_count_within_limits() {
    assert_eq!(choose_piece_len(0), MIN_PIECE_LEN);
    assert_eq!(choose_piece_len(1 << 30), 1 << 20);
    assert_eq!(choose_piece_len(1 << 40), 16 << 20);
    for shift in 0..49 {
        let total = 1_u64 << shift;
        assert!(total.div_ceil(u64::from(choose_piece_len(total))) <= MAX_PIECES as u64);
    }
    assert_eq!(choose_piece_len(u64::MAX), MAX_PIECE_LEN);
}

proptest! {
    #[test]
    fn mutated_torrents_never_panic_and_keep_their_promises(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = TWO_FILES.to_vec();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(Metainfo { info, .. }) = Metainfo::parse(&bytes) {
            let sizes: u64 = (0..info.piece_count()).map(|i| u64::from(info.piece_size(i))).sum();
            prop_assert_eq!(sizes, info.total);
            for file in info.files {
                prop_assert!(file.path.iter().all(|c| paths::check_component(c).is_ok()));
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Metainfo::parse(&bytes);
        let _ = Info::parse(&bytes);
    }

    #[test]
    fn what_is_made_reads_back(
        names in prop::collection::btree_set("f[a-z]{0,7}", 1..6),
        sizes in prop::collection::vec(1_u64..100_000, 6),
        private: bool,
    ) {
        let files: Vec<_> = names.into_iter().zip(sizes).map(|(n, len)| (vec![n], len)).collect();
        let total: u64 = files.iter().map(|(_, len)| len).sum();
        let mut builder = Builder::new("t".to_owned(), files.clone());
        builder.private = private;
        let pieces = total.div_ceil(u64::from(builder.piece_len)) as usize;
        let (torrent, bytes) = builder.finish(vec![[3; 20]; pieces]).unwrap();
        prop_assert_eq!(Metainfo::parse(&bytes).unwrap(), torrent.clone());
        prop_assert_eq!(torrent.info.private, private);
        let read: Vec<_> = torrent.info.files.iter().map(|f| (f.path[1..].to_vec(), f.len)).collect();
        prop_assert_eq!(read, files);
    }
}

mod versions;
