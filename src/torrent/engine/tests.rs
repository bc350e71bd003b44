#![allow(clippy::unwrap_used)]
mod control;
mod crowd;
mod encryption;
mod hostile;
mod onions;
mod pex;
mod seeds;
mod sought;
mod versions;
mod web;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use hushswarm_circuits::target::Target;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha1::{Digest, Sha1};
use tempfile::TempDir;

use super::world::{Script, TRACKER, View, World};
use super::*;
use crate::route::gate::Gate;
use crate::route::policy::Policy;
use crate::torrent::infohash::InfoHash;
use crate::torrent::metainfo::Builder;
use crate::torrent::storage::{StorageError, set_fault};

/// Lengths of the usual torrent's files: tiny and empty ones among larger ones. 20 pieces of 64 KiB.
const SIZES: [usize; 6] = [700_000, 0, 1, 300_000, 16_384, 280_000];

/// A folder with a torrent's files, and what engines of a test need.
struct Bench {
    dir: TempDir,
    world: Arc<World>,
    metainfo: Metainfo,
    content: Vec<u8>,
}

impl Bench {
    /// Makes a torrent of the usual files.
    async fn new() -> Self {
        Self::with(false).await
    }

    async fn with(private: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("source/things");
        std::fs::create_dir_all(top.join("deep/er")).unwrap();
        let mut rng = StdRng::seed_from_u64(5);
        for (n, &len) in SIZES.iter().enumerate() {
            let mut bytes = vec![0; len];
            rng.fill(&mut bytes[..]);
            let folder = if n % 2 == 0 {
                top.clone()
            } else {
                top.join("deep/er")
            };
            std::fs::write(folder.join(format!("{n}")), &bytes).unwrap();
        }
        let hashed = Arc::new(AtomicU32::new(0));
        let created = create(top, vec![vec![TRACKER.into()]], Arc::clone(&hashed))
            .await
            .unwrap();
        let made = created.metainfo;
        assert_eq!(hashed.load(Ordering::Relaxed), made.info.piece_count());
        let mut content = Vec::new();
        let mut files = Vec::new();
        for file in &made.info.files {
            let path: PathBuf = file.path.iter().collect();
            content.extend(std::fs::read(created.folder.join(path)).unwrap());
            files.push((file.path[1..].to_vec(), file.len));
        }
        // The same again in pieces of several blocks.
        let mut builder = Builder::new(made.info.name, files);
        builder.piece_len = 64 << 10;
        builder.trackers = made.trackers;
        builder.private = private;
        let hashes = content
            .chunks(64 << 10)
            .map(|piece| Sha1::digest(piece).into());
        let metainfo = builder.finish(hashes.collect()).unwrap().0;
        Self {
            dir,
            world: World::new(),
            metainfo,
            content,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An engine with its own state directory.
    fn engine(&self, name: &str) -> Engine {
        self.engine_that(name, Encryption::Off)
    }

    /// The same, which encrypts so.
    fn engine_that(&self, name: &str, encryption: Encryption) -> Engine {
        let options = Options {
            encryption,
            ..Options::new(self.path(&format!("state-{name}")))
        };
        Engine::new(Arc::new(View(Arc::clone(&self.world))), options)
    }

    /// A seed that the tracker names.
    fn seed(&self, addr: &str) -> Handle {
        let handle = self
            .engine(addr)
            .seed(self.metainfo.clone(), self.path("source"));
        self.world.listen(addr, &handle);
        handle
    }

    fn honest(&self) -> Script {
        Script::honest(&self.metainfo.info, &self.content)
    }

    fn job(&self, name: &str) -> Job {
        Job {
            source: Source::Metainfo(self.metainfo.clone()),
            output: self.path(name),
            seed_after: false,
            overwrite: false,
            info: None,
        }
    }

    fn magnet_job(&self, name: &str) -> Job {
        let magnet = Magnet {
            hash: self.metainfo.info.hash,
            v2: None,
            name: None,
            trackers: vec![TRACKER.into()],
            peers: Vec::new(),
            seeds: Vec::new(),
            select: None,
            web_seeds: Vec::new(),
        };
        Job {
            source: Source::Magnet(magnet),
            ..self.job(name)
        }
    }

    /// The files below an output folder are exactly the torrent's.
    fn assert_complete(&self, name: &str) {
        let mut found = Vec::new();
        for file in &self.metainfo.info.files {
            let path: PathBuf = file.path.iter().collect();
            let bytes = std::fs::read(self.path(name).join(path)).unwrap();
            assert_eq!(bytes.len() as u64, file.len);
            found.extend(bytes);
        }
        assert!(found == self.content, "the content differs");
    }

    fn output_file(&self, name: &str, file: usize) -> PathBuf {
        let path: PathBuf = self.metainfo.info.files[file].path.iter().collect();
        self.path(name).join(path)
    }

    fn total(&self) -> u64 {
        self.content.len() as u64
    }
}

async fn until(handle: &Handle, mut test: impl FnMut(&Progress) -> bool) -> Progress {
    let mut progress = handle.progress();
    let wait = progress.wait_for(|p| test(p));
    let found = tokio::time::timeout(Duration::from_secs(3600), wait).await;
    match found {
        Ok(Ok(progress)) => progress.clone(),
        _ => panic!("never came: {:?}", handle.progress().borrow()),
    }
}

async fn done(handle: &Handle) -> Progress {
    let last = until(handle, Progress::is_over).await;
    assert_eq!(last.state, State::Done, "{last:?}");
    last
}

#[tokio::test(start_paused = true)]
async fn a_magnet_link_becomes_the_files() {
    let bench = Bench::new().await;
    let _seed = bench.seed("11.0.0.1:7000");
    let handle = bench.engine("a").download(bench.magnet_job("out"));
    assert_eq!(handle.progress().borrow().state, State::FetchingMetadata);
    let last = done(&handle).await;
    bench.assert_complete("out");
    assert_eq!((last.done, last.total), (bench.total(), bench.total()));
    assert_eq!(last.downloaded, bench.total(), "nothing came twice");
}

#[tokio::test(start_paused = true)]
async fn one_file_without_a_folder_comes_too() {
    let mut bench = Bench::new().await;
    let source = bench.path("alone");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("film"), &bench.content[..100_001]).unwrap();
    let created = create(
        source.join("film"),
        vec![vec![TRACKER.into()]],
        Arc::default(),
    )
    .await
    .unwrap();
    bench.metainfo = created.metainfo;
    bench.content.truncate(100_001);
    let seed = bench
        .engine("s")
        .seed(bench.metainfo.clone(), created.folder);
    bench.world.listen("11.0.0.1:7000", &seed);
    done(&bench.engine("a").download(bench.magnet_job("out"))).await;
    assert_eq!(
        std::fs::read(bench.path("out/film")).unwrap(),
        bench.content
    );
}

#[tokio::test(start_paused = true)]
async fn six_engines_share_what_one_has() {
    let bench = Bench::new().await;
    let seed = bench.seed("11.0.0.1:7000");
    until(&seed, |p| p.state == State::Seeding).await;
    let leeches: Vec<Handle> = (2..7)
        .map(|n| {
            let name = format!("out{n}");
            let job = Job {
                seed_after: true,
                ..bench.job(&name)
            };
            let handle = bench.engine(&name).download(job);
            bench.world.listen(&format!("11.0.0.{n}:7000"), &handle);
            handle
        })
        .collect();
    let mut given = 0;
    for handle in &leeches {
        until(handle, |p| p.state == State::Seeding).await;
        given += handle.progress().borrow().uploaded;
    }
    for n in 2..7 {
        bench.assert_complete(&format!("out{n}"));
    }
    assert!(given > 0, "leeches give to each other");
    for handle in leeches {
        assert_eq!(handle.stop().await.state, State::Stopped);
    }
}

#[tokio::test(start_paused = true)]
async fn who_sends_wrong_data_is_banned_and_the_pieces_come_from_others() {
    let bench = Bench::new().await;
    let all: BTreeSet<u32> = (0..bench.metainfo.info.piece_count()).collect();
    let liar = Script {
        lies_in: all,
        ..bench.honest()
    };
    bench.world.script("11.0.0.66:7000", liar);
    let handle = bench.engine("a").download(bench.job("out"));
    // The liar is alone, so it is believed until the first piece is hashed.
    until(&handle, |p| p.known == 0 && p.downloaded > 0).await;
    let calls = bench.world.calls_to("11.0.0.66:7000");
    // The next announce names an honest one.
    bench.world.script("11.0.0.1:7000", bench.honest());
    let last = done(&handle).await;
    bench.assert_complete("out");
    assert!(last.downloaded > bench.total());
    assert_eq!(
        bench.world.calls_to("11.0.0.66:7000"),
        calls,
        "never called again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_liar_among_honest_peers_is_found_by_the_blocks_it_gave() {
    let bench = Bench::new().await;
    // All are slow, so that each piece is shared between them.
    let slow = Script {
        delay: Duration::from_millis(300),
        ..bench.honest()
    };
    for n in 1..4 {
        bench
            .world
            .script(&format!("11.0.0.{n}:7000"), slow.clone());
    }
    let all: BTreeSet<u32> = (0..bench.metainfo.info.piece_count()).collect();
    bench.world.script(
        "11.0.0.66:7000",
        Script {
            lies_in: all,
            ..slow
        },
    );
    let last = done(&bench.engine("a").download(bench.job("out"))).await;
    bench.assert_complete("out");
    assert!(last.downloaded > bench.total());
    assert_eq!(last.known, 3, "the liar and nobody else is banned");
}

#[tokio::test(start_paused = true)]
async fn lies_about_the_metadata_are_seen_through() {
    let bench = Bench::new().await;
    for n in 1..4 {
        let liar = Script {
            lies_about_metadata: true,
            ..bench.honest()
        };
        bench.world.script(&format!("11.0.0.{n}:7000"), liar);
    }
    bench.world.script("11.0.0.9:7000", bench.honest());
    done(&bench.engine("a").download(bench.magnet_job("out"))).await;
    bench.assert_complete("out");
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_does_not_hold_up_the_download() {
    let bench = Bench::new().await;
    bench.world.script(
        "11.0.0.1:7000",
        Script {
            silent: true,
            ..bench.honest()
        },
    );
    let slow = Script {
        delay: Duration::from_secs(1),
        ..bench.honest()
    };
    bench.world.script("11.0.0.2:7000", slow);
    let start = tokio::time::Instant::now();
    done(&bench.engine("a").download(bench.job("out"))).await;
    bench.assert_complete("out");
    // In the end game its blocks are asked of the other: no need to wait for the snub.
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_moment_it_resumes_with_nothing_wrong_and_little_lost() {
    let bench = Bench::new().await;
    let delay = Duration::from_millis(20);
    let slow = Script {
        delay,
        batch: 1,
        ..bench.honest()
    };
    let given = Arc::clone(&slow.given);
    bench.world.script("11.0.0.1:7000", slow);
    let mut rng = StdRng::seed_from_u64(9);
    let (mut before, mut partial) = (0, 0);
    for round in 0..20 {
        // The first time by magnet: later the record knows the torrent.
        let handle = bench.engine("a").download(bench.magnet_job("out"));
        until(&handle, |p| {
            matches!(p.state, State::Downloading | State::Done)
        })
        .await;
        let resumed = handle.progress().borrow().done;
        assert!(
            resumed >= before,
            "round {round}: {resumed} of {before} are left"
        );
        // Some rounds end between two steps, some within one.
        let patience = Duration::from_millis(rng.random_range(80..250));
        tokio::time::timeout(patience, handle.finished()).await.ok();
        for _ in 0..rng.random_range(0..50) {
            tokio::task::yield_now().await;
        }
        let last = handle.progress().borrow().clone();
        partial += usize::from(last.done > before && last.done < last.total);
        before = last.done;
        drop(handle);
    }
    let handle = bench.engine("a").download(bench.magnet_job("out"));
    done(&handle).await;
    bench.assert_complete("out");
    assert!(partial >= 3, "{partial} rounds ended in the middle");
    // Each time at most the pieces are lost that the one peer was giving.
    let lost = given.load(Ordering::Relaxed) - bench.total();
    assert!(
        lost <= 20 * 2 * u64::from(bench.metainfo.info.piece_len),
        "{lost}"
    );
}

#[tokio::test(start_paused = true)]
async fn after_a_stop_nothing_is_fetched_again() {
    let bench = Bench::new().await;
    let slow = Script {
        delay: Duration::from_millis(500),
        ..bench.honest()
    };
    bench.world.script("11.0.0.1:7000", slow);
    let handle = bench.engine("a").download(bench.job("out"));
    until(&handle, |p| p.pieces_done >= 5).await;
    let first = handle.stop().await;
    assert_eq!(first.state, State::Stopped);
    assert!(first.done < first.total);
    let handle = bench.engine("a").download(bench.job("out"));
    let second = until(&handle, |p| p.state == State::Downloading).await;
    assert_eq!(second.done, first.done);
    assert!(second.checked <= 16, "a sample, not everything");
    let last = done(&handle).await;
    assert_eq!(last.downloaded, last.total - first.done);
    bench.assert_complete("out");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_changed_between_runs_is_checked_and_mended() {
    let bench = Bench::new().await;
    let _seed = bench.seed("11.0.0.1:7000");
    done(&bench.engine("a").download(bench.job("out"))).await;
    let path = bench.output_file("out", 0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let last = done(&bench.engine("a").download(bench.job("out"))).await;
    assert_eq!(
        last.downloaded,
        u64::from(bench.metainfo.info.piece_len),
        "one piece"
    );
    bench.assert_complete("out");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_refuses_pauses_the_download_and_nothing_is_lost() {
    for error in [
        StorageError::Full,
        StorageError::ReadOnly,
        StorageError::Denied,
    ] {
        let bench = Bench::new().await;
        let slow = Script {
            delay: Duration::from_millis(500),
            ..bench.honest()
        };
        bench.world.script("11.0.0.1:7000", slow);
        let handle = bench.engine("a").download(bench.job("out"));
        until(&handle, |p| p.pieces_done >= 3).await;
        set_fault(&bench.path("out"), Some(error));
        let paused = until(&handle, |p| p.state == State::Paused(error)).await;
        assert!(paused.pieces_done >= 3);
        // It tries again by itself, and again.
        tokio::time::sleep(Duration::from_secs(100)).await;
        let still = until(&handle, |p| p.state == State::Paused(error)).await;
        assert_eq!(still.pieces_done, paused.pieces_done);
        set_fault(&bench.path("out"), None);
        done(&handle).await;
        bench.assert_complete("out");
    }
}

#[tokio::test(start_paused = true)]
async fn an_output_folder_that_can_not_be_is_said_and_tried_again() {
    let bench = Bench::new().await;
    let _seed = bench.seed("11.0.0.1:7000");
    std::fs::write(bench.path("out"), b"a file, not a folder").unwrap();
    let handle = bench.engine("a").download(bench.job("out"));
    let paused = until(&handle, |p| matches!(p.state, State::Paused(_))).await;
    let State::Paused(error) = paused.state else {
        panic!()
    };
    assert!(!error.hint().is_empty());
    std::fs::remove_file(bench.path("out")).unwrap();
    handle.retry();
    done(&handle).await;
    bench.assert_complete("out");
}

#[tokio::test(start_paused = true)]
async fn somebody_elses_file_is_not_overwritten_unless_told() {
    let bench = Bench::new().await;
    let _seed = bench.seed("11.0.0.1:7000");
    let path = bench.output_file("out", 0);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, b"a letter").unwrap();
    let handle = bench.engine("a").download(bench.job("out"));
    let last = until(&handle, Progress::is_over).await;
    assert_eq!(
        last.state,
        State::Failed(Failure::Storage(StorageError::Foreign))
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"a letter");
    drop(handle);
    let job = Job {
        overwrite: true,
        info: None,
        ..bench.job("out")
    };
    done(&bench.engine("a").download(job)).await;
    bench.assert_complete("out");
}

#[tokio::test(start_paused = true)]
async fn right_files_that_are_there_already_are_kept() {
    let bench = Bench::new().await;
    let seed = bench.seed("11.0.0.1:7000");
    done(&bench.engine("a").download(bench.job("out"))).await;
    drop(seed);
    // Another state directory: no record.
    let last = done(&bench.engine("b").download(bench.job("out"))).await;
    assert_eq!(last.downloaded, 0);
}

#[tokio::test(start_paused = true)]
async fn a_planted_link_pauses_the_download_and_is_not_followed() {
    let bench = Bench::new().await;
    let _seed = bench.seed("11.0.0.1:7000");
    let victim = bench.path("victim");
    std::fs::create_dir(&victim).unwrap();
    let link = bench.path("out/things");
    std::fs::create_dir(bench.path("out")).unwrap();
    std::os::unix::fs::symlink(&victim, &link).unwrap();
    let handle = bench.engine("a").download(bench.job("out"));
    until(&handle, |p| p.state == State::Paused(StorageError::Symlink)).await;
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
    std::fs::remove_file(link).unwrap();
    done(&handle).await;
    bench.assert_complete("out");
}

#[tokio::test(start_paused = true)]
async fn a_seed_with_missing_files_says_so() {
    let bench = Bench::new().await;
    std::fs::remove_file(bench.output_file("source", 0)).unwrap();
    let handle = bench.seed("11.0.0.1:7000");
    let last = until(&handle, Progress::is_over).await;
    assert_eq!(
        last.state,
        State::Failed(Failure::Storage(StorageError::Missing))
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_network_it_waits_and_says_so() {
    let bench = Bench::new().await;
    let _seed = bench.seed("11.0.0.1:7000");
    bench.world.down.store(true, Ordering::Relaxed);
    let handle = bench.engine("a").download(bench.magnet_job("out"));
    until(&handle, |p| p.state == State::WaitingForNetwork).await;
    tokio::time::sleep(Duration::from_secs(7200)).await;
    assert_eq!(handle.progress().borrow().state, State::WaitingForNetwork);
    bench.world.down.store(false, Ordering::Relaxed);
    let start = tokio::time::Instant::now();
    done(&handle).await;
    bench.assert_complete("out");
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "an outage is no tracker's failure"
    );
}

#[tokio::test(start_paused = true)]
async fn lost_circuits_are_replaced_quickly() {
    let bench = Bench::new().await;
    let _seed = bench.seed("11.0.0.1:7000");
    bench.world.flaky.store(true, Ordering::Relaxed);
    let start = tokio::time::Instant::now();
    done(&bench.engine("a").download(bench.job("out"))).await;
    bench.assert_complete("out");
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
}

/// A magnet link may name anybody: the exit must not be asked for what stands next to it, nor for what the link's author
/// believes to stand next to us.
#[tokio::test(start_paused = true)]
async fn peers_at_private_addresses_are_refused_before_anything_is_sent() {
    let bench = Bench::new().await;
    let world = &bench.world;
    let private = ["10.0.0.9:7000", "127.0.0.1:7000", "169.254.1.1:7000"];
    for addr in private {
        world.script(addr, bench.honest());
    }
    let mut job = bench.magnet_job("out");
    let Source::Magnet(magnet) = &mut job.source else {
        panic!();
    };
    for peer in ["localhost", "printer.local", "127.1", "abcdef.onion"] {
        magnet.peers.push(Target::parse(peer, 7000).unwrap());
    }
    for addr in private {
        magnet.peers.push(Target::ip(addr.parse().unwrap()));
    }
    let options = Options::new(bench.path("state"));
    let gate = Gate::new(Arc::new(View(Arc::clone(world))), Policy::default());
    let handle = Engine::new(gate, options).download(job);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(handle.progress().borrow().known, 7, "the link was read");
    {
        let calls = world.calls.lock().unwrap();
        let tracker = calls.iter().filter(|(to, _)| to.is_none()).count();
        assert_eq!(calls.len(), tracker, "a private peer was called");
        // Names of peers are no address either: whatever was called by name is the tracker.
        assert_eq!(tracker, world.announces.lock().unwrap().len());
    }
    // The same download, with somebody in the world.
    world.script("11.0.0.1:7000", bench.honest());
    done(&handle).await;
    bench.assert_complete("out");
}

#[tokio::test(start_paused = true)]
async fn circuits_and_announces_tell_nothing_more_than_they_must() {
    let bench = Bench::new().await;
    for n in 1..9 {
        let slow = Script {
            delay: Duration::from_millis(300),
            ..bench.honest()
        };
        bench.world.script(&format!("11.0.0.{n}:7000"), slow);
    }
    done(&bench.engine("a").download(bench.job("out"))).await;
    let calls = bench.world.calls.lock().unwrap();
    let (peers, trackers): (Vec<_>, Vec<_>) = calls.iter().partition(|(to, _)| to.is_some());
    let lanes: BTreeSet<_> = peers.iter().map(|(_, isolation)| *isolation).collect();
    assert_eq!(lanes.len(), usize::from(DEFAULT_LANES));
    assert!(
        trackers
            .iter()
            .all(|(_, isolation)| !lanes.contains(isolation))
    );
    let announces = bench.world.announces.lock().unwrap();
    assert!(!announces.is_empty());
    for head in announces.iter() {
        assert!(
            head.contains("port=1&") && !head.contains("event="),
            "{head}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_state_directory_names_nothing() {
    let bench = Bench::new().await;
    let _seed = bench.seed("11.0.0.1:7000");
    done(&bench.engine("a").download(bench.job("out"))).await;
    let InfoHash(hash) = bench.metainfo.info.hash;
    let hex = bench.metainfo.info.hash.hex();
    let mut seen = 0;
    for entry in std::fs::read_dir(bench.path("state-a")).unwrap() {
        let entry = entry.unwrap();
        let content = [
            entry.file_name().as_encoded_bytes(),
            &std::fs::read(entry.path()).unwrap(),
        ]
        .concat();
        for secret in [
            &hash[..],
            hex.as_bytes(),
            b"things",
            b"tracker.test",
            &[11, 0, 0, 1],
        ] {
            assert!(!content.windows(secret.len()).any(|part| part == secret));
        }
        seen += 1;
    }
    assert!(seen > 0);
}

#[tokio::test]
async fn what_can_not_be_a_torrent_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let make = |path: &Path| create(path.to_owned(), Vec::new(), Arc::default());
    let missing = make(&dir.path().join("nothing")).await;
    assert_eq!(
        missing.unwrap_err(),
        CreateError::Storage(StorageError::Missing)
    );
    assert!(
        matches!(make(dir.path()).await, Err(CreateError::Metainfo(_))),
        "no content"
    );
    assert_eq!(make(Path::new("/")).await.unwrap_err(), CreateError::NoName);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_several_threads_with_hardly_any_memory_the_files_are_right() {
    let bench = Bench::new().await;
    let seed = bench.seed("11.0.0.1:7000");
    until(&seed, |p| p.state == State::Seeding).await;
    let all: BTreeSet<u32> = (0..3).collect();
    let liar = Script {
        lies_in: all,
        ..bench.honest()
    };
    bench.world.script("11.0.0.66:7000", liar);
    let leeches: Vec<Handle> = (2..6)
        .map(|n| {
            let name = format!("out{n}");
            let options = Options {
                write_budget: WriteBudget::new(0),
                ..Options::new(bench.path(&format!("state{n}")))
            };
            let engine = Engine::new(Arc::new(View(Arc::clone(&bench.world))), options);
            let job = Job {
                seed_after: true,
                ..bench.magnet_job(&name)
            };
            let handle = engine.download(job);
            bench.world.listen(&format!("11.0.0.{n}:7000"), &handle);
            handle
        })
        .collect();
    for handle in &leeches {
        until(handle, |p| p.state == State::Seeding).await;
    }
    for n in 2..6 {
        bench.assert_complete(&format!("out{n}"));
    }
}
