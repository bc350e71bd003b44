//! Torrents of version 2 and hybrid ones.

use super::*;
use crate::torrent::picker::Geometry;
use crate::torrent::v2::merkle::{Hash, climb, sha256};

const PIECE: u32 = 32 << 10;
const BLOCK: usize = 16 << 10;

/// A torrent of files with these paths and lengths, whose content is zeros for version 1.
fn torrent(version: Version, files: &[(&str, usize)]) -> (Metainfo, Vec<u8>) {
    let list = files.iter().map(|(path, len)| {
        let path = path.split('/').filter(|part| !part.is_empty());
        (path.map(str::to_owned).collect(), *len as u64)
    });
    let mut builder = Builder::new("t".to_owned(), list.collect()).for_version(version);
    builder.piece_len = PIECE;
    let mut hashes = PieceHashes::default();
    let mut total = 0;
    for (number, (path, len)) in builder.files.iter().enumerate() {
        let bytes = vec![path.len() as u8; *len as usize];
        let leaves: Vec<Hash> = bytes.chunks(BLOCK).map(sha256).collect();
        let one = bytes.len() <= PIECE as usize;
        let level = if one {
            leaves.len().next_power_of_two().trailing_zeros()
        } else {
            1
        };
        hashes
            .v2
            .extend(leaves.chunks(2).map(|part| climb(0, part, level)));
        total += len + builder.padding_after(number);
    }
    hashes.v1 = vec![[7; 20]; total.div_ceil(u64::from(PIECE)) as usize];
    builder.finish_with(hashes).unwrap()
}

const FILES: &[(&str, usize)] = &[
    ("a", 40000),
    ("b/empty", 0),
    ("b/x", 32768),
    ("c", 100),
    ("d", 100_000),
];

fn paths(info: &Info) -> Vec<String> {
    let files = info.files.iter().filter(|file| !file.pad);
    files.map(|file| file.path.join("/")).collect()
}

#[test]
fn files_begin_at_pieces_and_what_lies_between_is_not_asked_for() {
    for version in [Version::V2, Version::Hybrid] {
        let (torrent, bytes) = torrent(version, FILES);
        let info = &torrent.info;
        assert_eq!(Metainfo::parse(&bytes).unwrap(), torrent);
        assert_eq!(torrent.encode(), bytes);
        assert_eq!(paths(info), ["t/a", "t/b/empty", "t/b/x", "t/c", "t/d"]);
        assert_eq!(info.content(), 40000 + 32768 + 100 + 100_000, "{version:?}");
        let geometry = Geometry::of(info);
        let lens: Vec<u32> = (0..geometry.pieces)
            .map(|piece| geometry.len_of(piece))
            .collect();
        assert_eq!(lens, [32768, 7232, 32768, 100, 32768, 32768, 32768, 1696]);
        let last = geometry.full_len_of(7);
        assert_eq!(last, if version == Version::V2 { 1696 } else { PIECE });
        assert_eq!(geometry.full_len_of(1), PIECE);
        assert_eq!(geometry.full_len_of(8), 0);
        let v2 = info.v2.as_ref().unwrap();
        assert!(v2.is_complete() && (0..8).all(|piece| v2.piece(piece).is_some()));
        assert_eq!(
            info.pieces.len(),
            if version == Version::V2 { 0 } else { 8 }
        );
        let (short, second) = (v2.hash.truncated(), info.second_hash());
        assert_eq!(v2.hash.0, sha256(&info.bytes));
        assert_eq!(info.hash == short, version == Version::V2);
        assert_eq!(second, (version == Version::Hybrid).then_some(short));
        assert!(info.is_named(info.hash, None) && info.is_named(short, Some(v2.hash)));
        let other = InfoHashV2([1; 32]);
        assert!(!info.is_named(info.hash, Some(other)) && !info.is_named(other.truncated(), None));
    }
}

#[test]
fn a_torrent_of_one_file_has_no_folder() {
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let (torrent, _) = torrent(version, &[("", 70000)]);
        assert_eq!(paths(&torrent.info), ["t"]);
        assert_eq!(torrent.info.total, 70000);
        assert_eq!(torrent.info.short, None);
    }
    // As libtorrent has it, a folder of one file is none in version 2 alone.
    let (torrent, _) = torrent(Version::V2, &[("only", 70000)]);
    assert_eq!(
        (paths(&torrent.info), torrent.info.name.as_str()),
        (vec!["only".to_owned()], "only")
    );
}

#[test]
fn wrong_layers_are_refused_and_missing_ones_are_to_be_fetched() {
    let (torrent, bytes) = torrent(Version::V2, FILES);
    let mut bare = Info::parse(&torrent.info.bytes).unwrap();
    assert!(bare.lacks_hashes() && !torrent.info.lacks_hashes());
    assert_eq!(bare.v2.as_ref().unwrap().missing().len(), 2);
    let layers = torrent.info.layers();
    bare.learn_layers(&layers).unwrap();
    assert_eq!(bare, torrent.info);
    // The last hash of the last layer.
    let mut wrong = bytes.clone();
    let at = bytes.len() - 4;
    wrong[at] ^= 1;
    assert_eq!(
        Metainfo::parse(&wrong),
        Err(MetainfoError::Layers(LayerError))
    );
    let hybrid = Info::parse(&self::torrent(Version::Hybrid, FILES).0.info.bytes).unwrap();
    assert!(!hybrid.lacks_hashes(), "version 1 has them");
    let small = Info::parse(
        &self::torrent(Version::V2, &[("a", 5), ("b", 6)])
            .0
            .info
            .bytes,
    );
    assert!(!small.unwrap().lacks_hashes(), "roots are enough");
}

/// The first place of `from` becomes `to`.
fn change(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let at = bytes
        .windows(from.len())
        .position(|part| part == from.as_bytes());
    let at = at.unwrap();
    [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
}

#[test]
fn a_hybrid_whose_two_descriptions_differ_is_refused() {
    let (torrent, _) = torrent(Version::Hybrid, FILES);
    let bytes = &torrent.info.bytes;
    assert!(Info::parse(bytes).is_ok());
    for (from, to) in [
        // Other names, lengths, order, places, in either of the two.
        ("4:pathl1:aee", "4:pathl1:eee"),
        ("1:ad0:d", "1:Ad0:d"),
        ("lengthi40000e4:path", "lengthi40001e4:path"),
        ("0:d6:lengthi100e", "0:d6:lengthi101e"),
        ("4:pathl1:b1:x", "4:pathl1:b1:y"),
        ("lengthi25536e4:path", "lengthi25535e4:path"),
        ("lengthi25536e4:path", "lengthi58304e4:path"),
        ("d4:attr1:p6:length", "d4:attr1:h6:length"),
    ] {
        let changed = change(bytes, from, to);
        let error = Info::parse(&changed).unwrap_err();
        let both = [MetainfoError::Disagree, MetainfoError::PieceCount];
        assert!(both.contains(&error), "{from} {to}: {error:?}");
    }
}

fn v2(entries: &str) -> Result<Info, MetainfoError> {
    info(&format!(
        "9:file tree{entries}12:meta versioni2e4:name1:t12:piece lengthi32768e"
    ))
}

#[test]
fn trees_that_are_none_are_refused_with_the_reason() {
    let root = format!("11:pieces root32:{}", "r".repeat(32));
    let file = |name: &str| format!("{}:{name}d0:d6:lengthi9e{root}ee", name.len());
    assert!(v2(&format!("d{}{}e", file("a"), file("b"))).is_ok());
    let entry = |what| MetainfoError::Entry(what);
    for (tree, error) in [
        ("le".to_owned(), entry("file tree")),
        (format!("d0:d6:lengthi9e{root}ee"), entry("file tree")),
        (
            format!("d1:ad0:d6:lengthi9e{root}e1:bdeee"),
            entry("file tree"),
        ),
        ("d1:ai1ee".to_owned(), entry("file tree")),
        ("d1:ad0:i1eee".to_owned(), entry("file tree")),
        ("d1:ad0:d6:lengthi9eeee".to_owned(), entry("pieces root")),
        (
            "d1:ad0:d6:lengthi9e11:pieces root1:xeee".to_owned(),
            entry("pieces root"),
        ),
        ("d1:ad0:d6:lengthi-1eeee".to_owned(), entry("length")),
        ("de".to_owned(), MetainfoError::Empty),
        ("d1:ad0:d6:lengthi0eeee".to_owned(), MetainfoError::Empty),
        (format!("d{}e", file("..")), PathError::Dots.into()),
        (
            format!("d{}{}e", file("A"), file("a")),
            PathError::Clash.into(),
        ),
        (
            format!("d1:ad0:d4:attr1:l6:lengthi9e{root}eee"),
            MetainfoError::Symlink,
        ),
        (
            format!("d1:ad0:d6:lengthi{}e{root}eee", i64::MAX),
            MetainfoError::TooManyPieces,
        ),
        (
            format!("{}{}{}", "d1:a".repeat(64), &file("x")[3..], "e".repeat(64)),
            PathError::TooDeep.into(),
        ),
    ] {
        assert_eq!(v2(&tree), Err(error), "{tree}");
    }
    // A link is left out, as in version 1.
    let link = format!("d{}1:bd0:d4:attr1:l12:symlink pathl1:aeeee", file("a"));
    assert_eq!(paths(&v2(&link).unwrap()), ["a"]);
}

#[test]
fn versions_and_piece_lengths_of_the_future_are_told_apart() {
    let newer = info("12:meta versioni3e4:name1:t").unwrap_err();
    assert_eq!(newer, MetainfoError::NewerVersion(3));
    let (torrent, _) = torrent(Version::V2, FILES);
    let odd = change(&torrent.info.bytes, "lengthi32768ee", "lengthi32769ee");
    assert_eq!(Info::parse(&odd), Err(MetainfoError::NotPowerOfTwo));
    let bare = change(&torrent.info.bytes, "9:file tree", "9:file_tree");
    assert_eq!(Info::parse(&bare), Err(MetainfoError::Entry("file tree")));
}

proptest! {
    #[test]
    fn any_files_make_a_torrent_that_reads_back(
        lens in prop::collection::vec(prop_oneof![Just(0_usize), 1_usize..100, 16000_usize..70000, Just(32768), Just(65536)], 1..12),
        v1 in any::<bool>(),
    ) {
        prop_assume!(lens.iter().any(|len| *len > 0));
        let names: Vec<String> = (0..lens.len()).map(|n| format!("d{}/f{n:02}", n % 3)).collect();
        let files: Vec<(&str, usize)> = names.iter().map(String::as_str).zip(lens.iter().copied()).collect();
        let version = if v1 { Version::Hybrid } else { Version::V2 };
        let (torrent, bytes) = torrent(version, &files);
        prop_assert_eq!(torrent.info.content(), lens.iter().sum::<usize>() as u64);
        let geometry = Geometry::of(&torrent.info);
        let sum: u64 = (0..geometry.pieces).map(|piece| u64::from(geometry.len_of(piece))).sum();
        prop_assert_eq!(sum, torrent.info.content());
        prop_assert_eq!(Metainfo::parse(&bytes).unwrap().encode(), bytes);
    }

    #[test]
    fn a_changed_byte_makes_another_torrent_or_none(at in any::<prop::sample::Index>(), byte: u8, v1 in any::<bool>()) {
        let version = if v1 { Version::Hybrid } else { Version::V2 };
        let (torrent, mut bytes) = torrent(version, FILES);
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        if let Ok(read) = Metainfo::parse(&bytes) {
            prop_assert!(read.info.bytes != torrent.info.bytes || read == torrent || read.info.lacks_hashes() || !read.info.v2.as_ref().is_some_and(|v2| v2.is_complete()));
        }
    }
}
