//! What we make has the infohashes that libtorrent 2.1.1 gives the same files with the same piece length
//! (`create_torrent` with `no_attributes`): they were taken from there.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::torrent::metainfo::Info;

/// Name, piece length, files below it (or one of no path), and the infohashes: version 1 alone, version 2 alone, and both of a
/// hybrid.
type Case = (
    &'static str,
    u32,
    &'static [(&'static str, usize)],
    [&'static str; 4],
);

const CASES: &[Case] = &[
    (
        "solo",
        16384,
        &[("", 70001)],
        [
            "88258af3851236f7362c20c7f7e090e47847ebbc",
            "5e749ca47cb8c63c7bec00af9a2faacf80b654c79c54d905b32b7dd2a9447f81",
            "96ba98ed91426e5199ee089a3332da2f4f8e2056",
            "ac6856ada0e3c32a0d767ecd325126fc0aecbd06bd83295e4f28eb1bc4a68067",
        ],
    ),
    (
        "exact",
        32768,
        &[("", 65536)],
        [
            "3cd4d36c78bcefde8fb8234e3ea9e8177e03b922",
            "9e2c4b3eeddaa6f033a5170c1080cb53e5a88a4d0012f43ea472613a223e099a",
            "fd9ebf35e97a709b3689199140c37739c0e9d6eb",
            "d78418e1dddd51c1bf190ef66fe6322fc0fa4b00d79cb9f52a5c94f144eb9f16",
        ],
    ),
    (
        "tiny",
        16384,
        &[("", 1)],
        [
            "4e0c2a54903f42ccf4e02a31a18916e74adc3e86",
            "14d9bc63b231a6610a9a57a77a4a56ae8c113b1143e9286cb65fb62dc37c74f9",
            "29cd666ce76312a29390816be57bcf0b58893874",
            "6b623c1226197ff9a3aaf6bac5465ac8ae2ebc5cb794a0cc18e138c5d01b028c",
        ],
    ),
    (
        "folder",
        32768,
        &[
            ("b.bin", 70000),
            ("a.bin", 0),
            ("sub/x", 32768),
            ("sub/é/z.txt", 5),
            ("c", 81921),
        ],
        [
            "7b8e3b8883206c8d8f0eff75ed4092c1412eb4a0",
            "edbd1c52def04d9d840451f3bcf8ffa12528c18f5ba0b09f9435c5ff293031fa",
            "a4a765a71b9eb779cfc1a4e8aa4a3586af11cd17",
            "b710dc97a5582f189d7fbf2393745e1c81667374b54be5e1a1379328b391351b",
        ],
    ),
    (
        "last-empty",
        16384,
        &[("a", 16385), ("b", 0)],
        [
            "14d7d5cd397f6e94a2df3c8238bb6c0845716872",
            "3402c9ee963fe0ad9c38ed75a9a4d51f2b2dfbc7f0df540d5732d0615d9f60d2",
            "a4e4455c900baaa087fc6c83c7eacf8391d36955",
            "82357b00617dbaaff1d573889d2e238dfbdd763ba017e5035ee218c47dd194cd",
        ],
    ),
    (
        "one",
        16384,
        &[("only", 40000)],
        [
            "331e561d9e3cb6af886c6c230c6da5e7c3dc3e6d",
            "f0f2d23f2c39f2971e225c7f5f5dd7dd505723fcfbb18e384742cf1bc6c14900",
            "c8a43557d8c3862d571efb811d09e8c88355b3d3",
            "44444ba0464b3cec0bbd1dd7fee5c25d83c8623abebf55b0108986e5d03b673f",
        ],
    ),
];

/// What the files of [`CASES`] hold.
fn content(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 251 + seed) as u8).collect()
}

fn made(root: &Path, (name, piece_len, ..): &Case, version: Version) -> Created {
    let path = root.join(name);
    create_blocking(
        &path,
        Vec::new(),
        version,
        Some(*piece_len),
        &AtomicU32::new(0),
    )
    .unwrap()
}

/// The names of a torrent, as libtorrent lists them.
fn names(info: &Info) -> Vec<String> {
    let first = (!info.pieces.is_empty()).then(|| info.hash.hex());
    let second = info.v2.as_ref().map(|v2| v2.hash.hex());
    first.into_iter().chain(second).collect()
}

#[test]
fn the_same_files_have_the_infohashes_that_libtorrent_gives_them() {
    let dir = tempfile::tempdir().unwrap();
    for case in CASES {
        let (name, _, files, wanted) = case;
        for (below, len) in *files {
            let path = dir.path().join(name).join(below);
            let path = if below.is_empty() {
                dir.path().join(name)
            } else {
                path
            };
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content(*len, below.chars().count())).unwrap();
        }
        let mut found = Vec::new();
        for version in [Version::V1, Version::V2, Version::Hybrid] {
            let created = made(dir.path(), case, version);
            found.extend(names(&created.metainfo.info));
            // Read back, it is the same, with all that it takes to check pieces.
            let again = Metainfo::parse(&created.file).unwrap();
            assert_eq!(again, created.metainfo, "{name} {version:?}");
            assert_eq!(again.encode(), created.file);
            assert!(!again.info.lacks_hashes());
        }
        assert_eq!(found, wanted, "{name}");
    }
}
