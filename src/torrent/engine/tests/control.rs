//! Torrents that are steered while they run. Time is virtual: a limit of so many bytes a second is kept to the second.

use tokio::io::AsyncReadExt;

use super::*;
use crate::torrent::picker::Bits;
use crate::torrent::select::{Span, spans};

/// Two of the files, by their lengths.
const LARGE: usize = 700_000;
const MIDDLE: usize = 300_000;

impl Bench {
    /// Two peers without limits of their own.
    fn peers(&self) {
        for addr in ["11.0.0.1:7000", "11.0.0.2:7000"] {
            self.world.script(addr, self.honest());
        }
    }

    /// A peer that gives a batch in so long.
    fn slow_peer(&self, addr: &str, delay: Duration) {
        let slow = Script {
            delay,
            batch: 64 << 10,
            ..self.honest()
        };
        self.world.script(addr, slow);
    }

    fn keep(&self, name: &str) -> Job {
        Job {
            seed_after: true,
            ..self.job(name)
        }
    }

    /// The number of the file that is so long, and where it lies.
    fn number(&self, len: usize) -> (usize, Span) {
        let mut all = spans(&self.metainfo.info).enumerate();
        all.find(|(_, span)| span.len == len as u64).unwrap()
    }

    fn file(&self, len: usize) -> Vec<u8> {
        let (_, span) = self.number(len);
        self.content[span.start as usize..][..len].to_vec()
    }

    /// The pieces that hold it.
    fn pieces(&self, len: usize) -> BTreeSet<u32> {
        let (_, span) = self.number(len);
        span.pieces(self.metainfo.info.piece_len).collect()
    }

    fn bytes(&self, pieces: &BTreeSet<u32>) -> u64 {
        let geometry = crate::torrent::picker::Geometry::of(&self.metainfo.info);
        pieces
            .iter()
            .map(|piece| u64::from(geometry.len_of(*piece)))
            .sum()
    }
}

fn down(rate: u64) -> Limits {
    Limits {
        down: Some(rate),
        up: None,
    }
}

fn seconds(since: tokio::time::Instant) -> u64 {
    since.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn a_torrent_keeps_its_limit_and_reaches_it() {
    let bench = Bench::new().await;
    bench.peers();
    let start = tokio::time::Instant::now();
    let handle = bench.engine("a").download(bench.job("out"));
    handle.set_limits(down(100_000));
    let last = done(&handle).await;
    bench.assert_complete("out");
    // 1.3 MB: the first turn is free.
    assert!((11..17).contains(&seconds(start)), "{}", seconds(start));
    assert_eq!(last.downloaded, bench.total());
}

#[tokio::test(start_paused = true)]
async fn less_than_a_block_a_second_still_moves() {
    let bench = Bench::new().await;
    bench.peers();
    let start = tokio::time::Instant::now();
    let handle = bench.engine("a").download(bench.job("out"));
    handle.set_limits(down(4_000));
    done(&handle).await;
    bench.assert_complete("out");
    assert!((300..400).contains(&seconds(start)), "{}", seconds(start));
}

#[tokio::test(start_paused = true)]
async fn all_torrents_of_an_engine_share_what_it_may() {
    let bench = Bench::new().await;
    bench.peers();
    let options = Options::new(bench.path("state"));
    let limits = Arc::clone(&options.limits);
    limits.set(down(200_000));
    let engine = Engine::new(Arc::new(View(Arc::clone(&bench.world))), options);
    let start = tokio::time::Instant::now();
    let first = engine.download(bench.job("one"));
    // The same torrent in another folder, with a state of its own.
    let other = Options {
        limits: Arc::clone(&limits),
        ..Options::new(bench.path("other"))
    };
    let world = View(Arc::clone(&bench.world));
    let second = Engine::new(Arc::new(world), other).download(bench.job("two"));
    done(&first).await;
    let half = seconds(start);
    done(&second).await;
    assert!((11..18).contains(&seconds(start)), "{}", seconds(start));
    assert!(half >= 8, "neither went first: {half}");
    bench.assert_complete("one");
    bench.assert_complete("two");
}

#[tokio::test(start_paused = true)]
async fn a_limit_on_giving_holds_up_blocks_and_no_messages() {
    let bench = Bench::new().await;
    let seed = bench.seed("11.0.0.1:7000");
    seed.set_limits(Limits {
        down: None,
        up: Some(1),
    });
    let start = tokio::time::Instant::now();
    let handle = bench.engine("a").download(bench.magnet_job("out"));
    // Metadata, what it has and that it may be asked came.
    until(&handle, |p| p.state == State::Downloading).await;
    let view = loop {
        let view = handle.view().await.unwrap();
        if view
            .peers
            .iter()
            .any(|peer| !peer.choking && peer.progress == 1.0)
        {
            break view;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    assert!(seconds(start) < 30, "{view:?}");
    assert!(handle.progress().borrow().downloaded <= 32 << 10);
    seed.set_limits(Limits {
        down: None,
        up: Some(50_000),
    });
    let start = tokio::time::Instant::now();
    done(&handle).await;
    assert!((22..40).contains(&seconds(start)), "{}", seconds(start));
    bench.assert_complete("out");
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_lifted_while_everybody_waits() {
    let bench = Bench::new().await;
    bench.peers();
    let handle = bench.engine("a").download(bench.job("out"));
    handle.set_limits(down(10));
    until(&handle, |p| p.downloaded > 0).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let before = handle.progress().borrow().downloaded;
    assert!(before <= 64 << 10, "{before}");
    let start = tokio::time::Instant::now();
    handle.set_limits(Limits::default());
    done(&handle).await;
    assert!(seconds(start) < 10, "{}", seconds(start));
}

#[tokio::test(start_paused = true)]
async fn files_are_skipped_and_wanted_while_it_runs() {
    let bench = Bench::new().await;
    bench.world.script("11.0.0.1:7000", bench.honest());
    let ((large, _), (middle, _)) = (bench.number(LARGE), bench.number(MIDDLE));
    let handle = bench.engine("a").download(bench.keep("out"));
    let all = || 0..SIZES.len();
    handle.set_priorities(all().map(|file| (file, Priority::Skip)).collect());
    handle.set_priorities(vec![(middle, Priority::Low)]);
    let some = until(&handle, |p| p.state == State::Seeding).await;
    let mut pieces = bench.pieces(MIDDLE);
    assert_eq!(some.total, bench.bytes(&pieces));
    assert_eq!((some.done, some.downloaded), (some.total, some.total));
    let view = handle.view().await.unwrap();
    let skipped = view.files.iter().filter(|f| f.priority == Priority::Skip);
    assert_eq!((view.files.len(), skipped.count()), (6, 5));
    assert_eq!(view.files[middle].done, MIDDLE as u64);
    assert_eq!(view.files[middle].path.last().unwrap(), "3");
    assert!(view.files[large].done < LARGE as u64);
    let bits = Bits::from_bytes(20, &view.pieces).unwrap();
    assert_eq!(bits.ones().collect::<BTreeSet<_>>(), pieces);
    // More is wanted, and everything.
    handle.set_priorities(vec![(large, Priority::High)]);
    pieces.extend(bench.pieces(LARGE));
    let more = until(&handle, |p| p.pieces_done as usize == pieces.len()).await;
    assert_eq!(more.downloaded, bench.bytes(&pieces), "nothing came twice");
    handle.set_priorities(all().map(|file| (file, Priority::Normal)).collect());
    let last = until(&handle, |p| p.done == bench.total()).await;
    assert_eq!((last.state, last.total), (State::Seeding, bench.total()));
    bench.assert_complete("out");
}

#[tokio::test(start_paused = true)]
async fn what_is_skipped_comes_no_more() {
    let bench = Bench::new().await;
    let slow = Script {
        delay: Duration::from_secs(1),
        batch: 1,
        ..bench.honest()
    };
    let given = Arc::clone(&slow.given);
    bench.world.script("11.0.0.1:7000", slow);
    let handle = bench.engine("a").download(bench.keep("out"));
    until(&handle, |p| p.pieces_done >= 2).await;
    handle.set_priorities((0..6).map(|file| (file, Priority::Skip)).collect());
    let before = given.load(Ordering::Relaxed);
    let idle = until(&handle, |p| p.state == State::Seeding).await;
    assert_eq!((idle.total, idle.done), (0, 0));
    tokio::time::sleep(Duration::from_secs(300)).await;
    // This peer answers what it was asked for before it hears that it need not.
    let more = given.load(Ordering::Relaxed) - before;
    assert!(more <= 8 << 14, "{more}");
    handle.set_priorities((0..6).map(|file| (file, Priority::Normal)).collect());
    let last = until(&handle, |p| p.done == bench.total()).await;
    bench.assert_complete("out");
    assert_eq!(last.downloaded, bench.total(), "and nothing came twice");
}

#[tokio::test(start_paused = true)]
async fn in_order_means_from_the_first_piece_on() {
    let bench = Bench::new().await;
    bench.slow_peer("11.0.0.1:7000", Duration::from_millis(500));
    let handle = bench.engine("a").download(bench.job("out"));
    handle.set_sequential(true);
    for goal in [3, 6, 9, 12] {
        until(&handle, |p| p.pieces_done >= goal).await;
        let view = handle.view().await.unwrap();
        let had = Bits::from_bytes(20, &view.pieces).unwrap();
        let first: Vec<u32> = (0..had.count()).collect();
        assert_eq!(had.ones().collect::<Vec<_>>(), first);
    }
    done(&handle).await;
    bench.assert_complete("out");
}

#[tokio::test(start_paused = true)]
async fn a_reader_gets_what_it_reads_first() {
    let bench = Bench::new().await;
    bench.slow_peer("11.0.0.1:7000", Duration::from_secs(1));
    let handle = bench.engine("a").download(bench.keep("out"));
    assert_eq!(
        handle.reader(bench.number(MIDDLE).0).await.unwrap_err(),
        ReaderError::NotYet
    );
    until(&handle, |p| p.state == State::Downloading).await;
    assert_eq!(handle.reader(6).await.unwrap_err(), ReaderError::NoFile);
    let mut reader = handle.reader(bench.number(MIDDLE).0).await.unwrap();
    assert_eq!(reader.len(), 300_000);
    // The end first, as players do.
    reader.seek(290_000);
    let mut end = Vec::new();
    reader.read_to_end(&mut end).await.unwrap();
    assert!(end == bench.file(MIDDLE)[290_000..]);
    reader.seek(0);
    let mut all = vec![0; 300_000];
    reader.read_exact(&mut all).await.unwrap();
    assert!(all == bench.file(MIDDLE));
    assert_eq!(
        (reader.position(), reader.read(&mut [0; 9]).await.unwrap()),
        (300_000, 0)
    );
    let then = handle.progress().borrow().pieces_done;
    assert!(
        then < 16,
        "{then} of 20 pieces came before the file was read"
    );
    reader.seek(u64::MAX);
    assert_eq!(reader.read(&mut [0; 9]).await.unwrap(), 0);
    drop(reader);
    until(&handle, |p| p.done == bench.total()).await;
    bench.assert_complete("out");
}

#[tokio::test(start_paused = true)]
async fn a_reader_does_not_wait_for_who_is_silent() {
    let bench = Bench::new().await;
    let silent = Script {
        silent: true,
        ..bench.honest()
    };
    bench.world.script("11.0.0.1:7000", silent);
    let handle = bench.engine("a").download(bench.keep("out"));
    until(&handle, |p| p.state == State::Downloading).await;
    let mut reader = handle.reader(bench.number(LARGE).0).await.unwrap();
    until(&handle, |p| p.connected == 1).await;
    // The silent one alone is asked, for what is read first.
    tokio::time::sleep(Duration::from_secs(5)).await;
    bench.slow_peer("11.0.0.2:7000", Duration::from_secs(1));
    let other = Target::ip("11.0.0.2:7000".parse().unwrap());
    handle.onion_door().tell(other);
    let start = tokio::time::Instant::now();
    let mut first = vec![0; 16 << 10];
    reader.read_exact(&mut first).await.unwrap();
    assert!(first == bench.file(LARGE)[..16 << 10]);
    // By the end game, when all else has come, it would take 18 seconds.
    assert!(seconds(start) < 9, "{}", seconds(start));
}

#[tokio::test(start_paused = true)]
async fn readers_are_few_and_give_their_places_back() {
    let bench = Bench::new().await;
    let handle = bench.engine("a").download(bench.keep("out"));
    until(&handle, |p| p.state == State::Downloading).await;
    let (large, _) = bench.number(LARGE);
    let mut readers = Vec::new();
    for _ in 0..16 {
        readers.push(handle.reader(large).await.unwrap());
    }
    assert_eq!(
        handle.reader(large).await.unwrap_err(),
        ReaderError::TooMany
    );
    readers.clear();
    // Their tasks end first.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut reader = handle.reader(large).await.unwrap();
    handle.set_priorities(vec![(large, Priority::Skip)]);
    let error = reader.read(&mut [0; 9]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "it is skipped");
    drop(reader);
    handle.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_ends_with_its_torrent_and_its_folder_is_free() {
    let bench = Bench::new().await;
    let handle = bench.engine("a").download(bench.keep("out"));
    until(&handle, |p| p.state == State::Downloading).await;
    let mut reader = handle.reader(bench.number(LARGE).0).await.unwrap();
    let stop = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        handle.stop().await;
    };
    let mut byte = [0];
    let (read, ()) = tokio::join!(reader.read(&mut byte), stop);
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::NotConnected);
    let again = bench.engine("a").download(bench.keep("out"));
    until(&again, |p| p.state == State::Downloading).await;
    drop(reader);
    again.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_verification_is_not_forgotten_while_the_files_are_in_use() {
    let bench = Bench::new().await;
    bench.world.script("11.0.0.1:7000", bench.honest());
    let first = bench.engine("a").download(bench.keep("out"));
    until(&first, |p| p.state == State::Seeding).await;
    let second = bench.engine("a").download(bench.keep("out"));
    let busy = State::Paused(StorageError::Busy);
    until(&second, |p| p.state == busy).await;
    second.verify();
    // It is tried in vain.
    tokio::time::sleep(Duration::from_secs(3)).await;
    first.stop().await;
    let last = until(&second, |p| p.state == State::Seeding).await;
    assert_eq!(last.checked, last.pieces, "not a sample alone");
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn verification_finds_what_was_damaged_and_it_is_fetched_again() {
    let bench = Bench::new().await;
    bench.world.script("11.0.0.1:7000", bench.honest());
    let ((large, span), (middle, _)) = (bench.number(LARGE), bench.number(MIDDLE));
    let handle = bench.engine("a").download(bench.keep("out"));
    until(&handle, |p| p.state == State::Seeding).await;
    let mut reader = handle.reader(large).await.unwrap();
    let path = bench.output_file("out", large);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    std::fs::remove_file(bench.output_file("out", middle)).unwrap();
    handle.verify();
    until(&handle, |p| p.state == State::Checking).await;
    let last = until(&handle, |p| p.state == State::Seeding).await;
    bench.assert_complete("out");
    let mut pieces = bench.pieces(MIDDLE);
    pieces.insert(((span.start + 100) / (64 << 10)) as u32);
    assert_eq!(last.downloaded - bench.total(), bench.bytes(&pieces));
    reader.seek(50);
    let mut first = vec![0; 1000];
    reader.read_exact(&mut first).await.unwrap();
    assert!(first == bench.file(LARGE)[50..1050], "readers live on");
}

#[tokio::test(start_paused = true)]
async fn a_seed_whose_files_are_damaged_ends_when_it_is_verified() {
    let bench = Bench::new().await;
    let seed = bench.seed("11.0.0.1:7000");
    until(&seed, |p| p.state == State::Seeding).await;
    seed.verify();
    until(&seed, |p| p.state == State::Checking).await;
    let again = until(&seed, |p| p.state == State::Seeding).await;
    assert_eq!(again.checked, 20, "all, and not a sample");
    let (large, _) = bench.number(LARGE);
    std::fs::write(bench.output_file("source", large), b"short").unwrap();
    seed.verify();
    let last = until(&seed, Progress::is_over).await;
    assert_eq!(
        last.state,
        State::Failed(Failure::Storage(StorageError::Missing))
    );
    assert!(seed.view().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_user_asks_the_tracker_again() {
    let bench = Bench::new().await;
    let handle = bench.engine("a").download(bench.keep("out"));
    let count = || bench.world.announces.lock().unwrap().len();
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(count(), 1);
    bench.peers();
    handle.reannounce();
    // Its interval is ten minutes.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(count(), 2);
    handle.reannounce();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(count(), 2, "not twice in a minute");
    until(&handle, |p| p.state == State::Seeding).await;
    // And it may be told to stay no longer.
    handle.set_seed_after(false);
    done(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_seen_of_a_torrent_says_no_names_to_a_log() {
    let bench = Bench::new().await;
    bench.slow_peer("11.0.0.1:7000", Duration::from_secs(1));
    let handle = bench.engine("a").download(bench.keep("out"));
    until(&handle, |p| p.pieces_done >= 2).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let view = handle.view().await.unwrap();
    let [peer] = &view.peers[..] else {
        panic!("{view:?}")
    };
    assert_eq!(peer.kind, PeerKind::Public);
    let address = peer.address.as_ref().unwrap();
    assert_eq!(address.expose().to_string(), "11.0.0.1:7000");
    assert!(!peer.incoming && !peer.encrypted && !peer.choking && peer.progress == 1.0);
    assert!(peer.down_rate > 10_000, "{view:?}");
    assert_eq!(view.trackers[0].url.expose().as_str(), TRACKER);
    let text = format!("{view:?}");
    for secret in ["11.0.0.1", "tracker.test", "things", "deep"] {
        assert!(!text.contains(secret), "{text}");
    }
}
