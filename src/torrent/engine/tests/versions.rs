//! Torrents of version 2 and hybrid ones (BEP 52), between engines and beside liars.

use super::*;
use crate::torrent::engine::create::create_blocking;
use crate::torrent::infohash::InfoHashV2;
use crate::torrent::metainfo::{Info, Version};

const BOTH: [Version; 2] = [Version::V2, Version::Hybrid];

/// The usual files in a torrent of this version. `content` has the padding between them too.
pub(super) async fn bench(version: Version) -> Bench {
    let mut bench = Bench::new().await;
    let (source, trackers) = (bench.path("source/things"), vec![vec![TRACKER.into()]]);
    let made = create_blocking(
        &source,
        trackers,
        version,
        Some(64 << 10),
        &AtomicU32::new(0),
    );
    bench.metainfo = made.unwrap().metainfo;
    bench.content.clear();
    for file in &bench.metainfo.info.files {
        if file.pad {
            bench
                .content
                .resize(bench.content.len() + file.len as usize, 0);
        } else {
            let path: PathBuf = file.path.iter().collect();
            bench
                .content
                .extend(std::fs::read(bench.path("source").join(path)).unwrap());
        }
    }
    bench
}

impl Bench {
    fn info(&self) -> &Info {
        &self.metainfo.info
    }

    /// The files are there, and no padding is.
    pub(super) fn assert_files(&self, name: &str) {
        self.assert_files_are(name, &self.content);
    }

    fn assert_files_are(&self, name: &str, content: &[u8]) {
        let mut at = 0;
        for file in &self.info().files {
            let path: PathBuf = file.path.iter().collect();
            let path = self.path(name).join(path);
            let end = at + file.len as usize;
            if file.pad {
                assert!(!path.exists());
            } else {
                assert!(std::fs::read(path).unwrap() == content[at..end]);
            }
            at = end;
        }
    }

    pub(super) fn magnet(&self, name: &str, hash: Option<InfoHash>, v2: Option<InfoHashV2>) -> Job {
        let mut job = self.magnet_job(name);
        if let Source::Magnet(magnet) = &mut job.source {
            magnet.hash = hash.or(v2.map(|v2| v2.truncated())).unwrap();
            magnet.v2 = v2;
        }
        job
    }

    pub(super) fn v2(&self) -> InfoHashV2 {
        self.info().v2.as_ref().unwrap().hash
    }
}

#[tokio::test(start_paused = true)]
async fn a_torrent_of_version_2_comes_without_its_padding() {
    for version in BOTH {
        let bench = bench(version).await;
        let _seed = bench.seed("11.0.0.1:7000");
        let last = done(&bench.engine("a").download(bench.job("out"))).await;
        bench.assert_files("out");
        let content: usize = SIZES.iter().sum();
        assert_eq!((last.done, last.total), (content as u64, content as u64));
        assert_eq!(
            last.downloaded, content as u64,
            "no padding, and nothing twice"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_of_version_2_brings_its_hashes_from_peers_once() {
    let bench = bench(Version::V2).await;
    assert!(Info::parse(&bench.info().bytes).unwrap().lacks_hashes());
    let seed = bench.seed("11.0.0.1:7000");
    for full in [true, false] {
        // In full, or by what a feed or an old program keeps of it.
        let name = format!("out-{full}");
        let job = bench.magnet(&name, Some(bench.info().hash), full.then_some(bench.v2()));
        let engine = bench.engine(&name);
        done(&engine.download(job.clone())).await;
        bench.assert_files(&name);
        if !full {
            drop(seed);
            // Nobody is there any more; the record has all it takes.
            done(&engine.download(job)).await;
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_name_of_a_hybrid_torrent_leads_to_it() {
    let bench = bench(Version::Hybrid).await;
    let _seed = bench.seed("11.0.0.1:7000");
    let (first, v2) = (bench.info().hash, bench.v2());
    for (name, hash, v2) in [
        ("first", Some(first), None),
        ("second", None, Some(v2)),
        ("both", Some(first), Some(v2)),
    ] {
        done(&bench.engine(name).download(bench.magnet(name, hash, v2))).await;
        bench.assert_files(name);
    }
    // A link whose two names are of two torrents fits neither.
    let wrong = bench.magnet("wrong", Some(first), Some(InfoHashV2([1; 32])));
    let handle = bench.engine("wrong").download(wrong);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(handle.progress().borrow().state, State::FetchingMetadata);
}

/// The infohash in the head of an announce.
pub(super) fn announced(head: &str) -> Vec<u8> {
    let query = head.split_once("info_hash=").unwrap().1;
    let mut rest = query.bytes().take_while(|byte| !b"& ".contains(byte));
    let mut out = Vec::new();
    while let Some(byte) = rest.next() {
        let digits = (byte == b'%').then(|| rest.by_ref().take(2).map(char::from).collect());
        let escaped = digits.map(|digits: String| u8::from_str_radix(&digits, 16).unwrap());
        out.push(escaped.unwrap_or(byte));
    }
    out
}

#[tokio::test(start_paused = true)]
async fn both_names_of_a_hybrid_torrent_are_announced_through_circuits_of_their_own() {
    let bench = bench(Version::Hybrid).await;
    let _seed = bench.seed("11.0.0.1:7000");
    done(&bench.engine("a").download(bench.job("out"))).await;
    let asked = |hash: InfoHash| {
        let heads = bench.world.announces.lock().unwrap();
        heads.iter().any(|head| announced(head) == hash.0)
    };
    assert!(asked(bench.info().hash) && asked(bench.v2().truncated()));
    let calls = bench.world.calls.lock().unwrap();
    let mut circuits: Vec<_> = calls.iter().filter(|(to, _)| to.is_none()).collect();
    circuits.dedup();
    assert!(circuits.iter().any(|one| *one != circuits[0]));
}

#[tokio::test(start_paused = true)]
async fn who_gives_wrong_blocks_of_version_2_is_banned() {
    for version in BOTH {
        let bench = bench(version).await;
        let liar = Script {
            lies_in: (0..bench.info().piece_count()).collect(),
            ..bench.honest()
        };
        bench.world.script("11.0.0.1:7000", liar);
        bench.world.script("11.0.0.2:7000", bench.honest());
        let job = Job {
            seed_after: true,
            ..bench.job("out")
        };
        let handle = bench.engine("a").download(job);
        until(&handle, |progress| progress.state == State::Seeding).await;
        bench.assert_files("out");
        // Who is banned is not counted.
        until(&handle, |progress| progress.known == 1).await;
        assert_eq!(bench.world.calls_to("11.0.0.1:7000"), 1);
    }
}

/// What two peers give is enough for one attempt at each piece, and not for another at the piece that failed: only hashes tell who lied.
#[tokio::test(start_paused = true)]
async fn who_spoilt_a_piece_that_others_gave_too_is_banned_by_the_hashes_of_its_blocks() {
    let mut bench = bench(Version::V2).await;
    // Pieces of more blocks than one peer is asked for at first.
    let (source, trackers) = (bench.path("source/things"), vec![vec![TRACKER.into()]]);
    let hashed = AtomicU32::new(0);
    let made = create_blocking(&source, trackers, Version::V2, Some(512 << 10), &hashed);
    bench.metainfo = made.unwrap().metainfo;
    let mut content = Vec::new();
    for file in &bench.info().files {
        let path: PathBuf = file.path.iter().collect();
        let bytes = std::fs::read(bench.path("source").join(path)).unwrap_or_default();
        content.resize(content.len() + file.len as usize - bytes.len(), 0);
        content.extend(bytes);
    }
    // The first file is of 32 and 11 blocks.
    let rest = Some(Arc::new(AtomicU64::new(32 + 11 + 31)));
    let honest = Script {
        hashes: true,
        rest,
        delay: Duration::from_millis(100),
        batch: 16 << 10,
        ..Script::honest(bench.info(), &content)
    };
    let liar = Script {
        lies_in: [0].into(),
        hashes: false,
        ..honest.clone()
    };
    bench.world.script("11.0.0.1:7000", liar);
    bench.world.script("11.0.0.2:7000", honest);
    let first = Selection::parse(["0"]).unwrap();
    let engine = bench.engine("a");
    let handle = engine.download_only(bench.job("out"), first);
    // Who is banned is not counted.
    let last = until(&handle, |progress| progress.known == 1).await;
    assert_eq!((last.pieces_done, last.state), (1, State::Downloading));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(bench.world.calls_to("11.0.0.1:7000"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_on_disk_is_checked_by_the_hashes_of_version_2() {
    let bench = bench(Version::V2).await;
    let _seed = bench.seed("11.0.0.1:7000");
    done(&bench.engine("a").download(bench.job("out"))).await;
    // One byte of the last file differs, and another engine knows nothing of the download.
    let path = bench.output_file("out", bench.info().files.len() - 1);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let last = done(&bench.engine("b").download(bench.job("out"))).await;
    bench.assert_files("out");
    assert_eq!(last.downloaded, 64 << 10, "one piece");
}

#[tokio::test(start_paused = true)]
async fn only_the_chosen_files_come() {
    let bench = bench(Version::V2).await;
    let _seed = bench.seed("11.0.0.1:7000");
    let numbers = |info: &Info, wanted: &str| {
        let files = info.files.iter().filter(|file| !file.pad);
        let paths = files.map(|file| file.path[1..].join("/"));
        paths
            .enumerate()
            .find(|(_, path)| path == wanted)
            .unwrap()
            .0 as u32
    };
    // The last file, of 280,000 bytes, by a link; then one more by a pattern, into the same folder.
    let number = numbers(bench.info(), "deep/er/5");
    let mut job = bench.magnet("out", None, Some(bench.v2()));
    if let Source::Magnet(magnet) = &mut job.source {
        magnet.select = Some(vec![number..=number]);
    }
    let last = done(&bench.engine("a").download(job)).await;
    assert_eq!(
        (last.done, last.total, last.downloaded),
        (280_000, 280_000, 280_000)
    );
    assert!(!bench.path("out/things/0").exists());
    let more = Selection::parse(["deep/*3"]).unwrap();
    let last = done(&bench.engine("a").download_only(bench.job("out"), more)).await;
    assert_eq!(
        (last.done, last.total, last.downloaded),
        (300_000, 300_000, 300_000)
    );
    let none = Selection::parse(["nothing like it"]).unwrap();
    let handle = bench.engine("a").download_only(bench.job("out"), none);
    let last = until(&handle, Progress::is_over).await;
    assert_eq!(last.state, State::Failed(Failure::Selection));
    // The rest comes too, and nothing of it twice.
    let rest = done(&bench.engine("a").download(bench.job("out"))).await;
    let content: usize = SIZES.iter().sum();
    assert_eq!(rest.downloaded, (content - 580_000) as u64);
    bench.assert_files("out");
}
