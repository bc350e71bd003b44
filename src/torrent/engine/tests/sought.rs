//! Peers from the DHT: who is looked up, who is not, and what becomes of those who were found.

use std::net::SocketAddr;
use std::sync::Mutex;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;
use crate::dht::{Counters, Finding, Found, Full, Outcome, PeerFinder};
use crate::torrent::metainfo::{Info, Version};

const MINUTE: Duration = Duration::from_secs(60);

/// A DHT that knows some peers of everything, and when it was asked.
#[derive(Default)]
struct Known {
    peers: Vec<SocketAddr>,
    asked: Mutex<Vec<([u8; 20], Instant)>>,
    attempts: Mutex<Vec<u16>>,
    /// It takes no more lookups.
    full: bool,
}

impl Known {
    fn new(peers: &[&str]) -> Arc<Self> {
        Arc::new(Self {
            peers: peers.iter().map(|peer| peer.parse().unwrap()).collect(),
            ..Self::default()
        })
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

impl PeerFinder for Known {
    fn find(&self, infohash: [u8; 20], attempt: u16) -> Result<Finding, Full> {
        self.attempts.lock().unwrap().push(attempt);
        self.asked.lock().unwrap().push((infohash, Instant::now()));
        if self.full {
            return Err(Full(7));
        }
        let (sender, found) = mpsc::channel(4);
        let peers = self.peers.clone();
        sender.try_send(Found::Begun).unwrap();
        let outcome = Outcome::Peers(peers.len());
        if !peers.is_empty() {
            sender.try_send(Found::Peers(peers)).unwrap();
        }
        sender.try_send(Found::Over(outcome)).unwrap();
        Ok(Finding::begun(found))
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

impl Bench {
    fn finding_engine(&self, name: &str, known: &Arc<Known>) -> Engine {
        self.engine(name).with_finder(known.clone())
    }

    /// By its infohash alone.
    fn bare_job(&self, name: &str) -> Job {
        let magnet = Magnet {
            hash: self.metainfo.info.hash,
            v2: None,
            name: None,
            trackers: Vec::new(),
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
}

#[tokio::test(start_paused = true)]
async fn an_infohash_alone_becomes_the_files() {
    let bench = Bench::new().await;
    bench.world.script("8.8.8.8:1", bench.honest());
    let known = Known::new(&["8.8.8.8:1"]);
    let handle = bench
        .finding_engine("a", &known)
        .download(bench.bare_job("a"));
    done(&handle).await;
    bench.assert_complete("a");
    let asked = known.asked.lock().unwrap();
    assert!(
        asked
            .iter()
            .all(|(hash, _)| *hash == bench.metainfo.info.hash.0)
    );
    assert_eq!(asked.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn it_is_asked_again_less_and_less_often_while_it_knows_nobody() {
    let bench = Bench::new().await;
    let known = Known::new(&[]);
    let handle = bench
        .finding_engine("a", &known)
        .download(bench.bare_job("a"));
    let begun = Instant::now();
    tokio::time::sleep(60 * MINUTE).await;
    let asked: Vec<_> = known.asked.lock().unwrap().clone();
    assert!((5..15).contains(&asked.len()), "{}", asked.len());
    assert!(asked[0].1 - begun < Duration::from_secs(2));
    let waits: Vec<_> = asked.windows(2).map(|two| two[1].1 - two[0].1).collect();
    assert!(
        waits[0] < MINUTE && *waits.last().unwrap() > 10 * MINUTE,
        "{waits:?}"
    );
    assert_eq!(handle.progress().borrow().dht.as_deref(), Some("0 peers"));
}

#[tokio::test(start_paused = true)]
async fn what_is_over_the_limit_is_said_and_tried_again() {
    let bench = Bench::new().await;
    let known = Arc::new(Known {
        full: true,
        ..Known::default()
    });
    let handle = bench
        .finding_engine("a", &known)
        .download(bench.bare_job("a"));
    let said = until(&handle, |progress| progress.dht.is_some()).await;
    let said = said.dht.unwrap();
    assert!(said.contains("7 DHT lookups wait"), "{said}");
    tokio::time::sleep(2 * MINUTE).await;
    assert!(known.asked() >= 2);
}

#[tokio::test(start_paused = true)]
async fn a_private_torrent_is_never_looked_up() {
    let bench = Bench::with(true).await;
    bench.world.script("11.0.0.1:7000", bench.honest());
    let known = Known::new(&["8.8.8.8:1"]);
    let engine = bench.finding_engine("a", &known);
    done(&engine.download(bench.job("a"))).await;
    // By magnet link it is not known at first: the tracker's peers tell, before the DHT is asked.
    let magnet = engine.download(bench.magnet_job("b"));
    done(&magnet).await;
    let seed = engine.seed(bench.metainfo.clone(), bench.path("source"));
    tokio::time::sleep(60 * MINUTE).await;
    assert_eq!(known.asked(), 0);
    assert_eq!(seed.progress().borrow().dht, None);
    assert_eq!(bench.world.calls_to("8.8.8.8:1"), 0);
}

/// As a link's torrent is started again once its metadata came, whatever became of the resume record.
#[tokio::test(start_paused = true)]
async fn a_private_torrents_bare_link_is_never_looked_up_once_it_is_known() {
    let bench = Bench::with(true).await;
    let private = Arc::new(bench.metainfo.info.clone());
    let known = Known::new(&[]);
    let job = Job {
        info: Some(Arc::clone(&private)),
        ..bench.bare_job("a")
    };
    let handle = bench.finding_engine("a", &known).download(job);
    until(&handle, |progress| progress.total > 0).await;
    tokio::time::sleep(60 * MINUTE).await;
    assert_eq!(known.asked(), 0);
    // What is known of another torrent says nothing of this one.
    let bench = Bench::new().await;
    let job = Job {
        info: Some(private),
        ..bench.bare_job("b")
    };
    let handle = bench.finding_engine("b", &known).download(job);
    tokio::time::sleep(MINUTE).await;
    assert!(known.asked() > 0);
    assert_eq!(handle.progress().borrow().total, 0);
}

#[tokio::test(start_paused = true)]
async fn a_private_hybrid_torrent_is_told_to_its_tracker_alone_and_by_one_name() {
    for private in [true, false] {
        let mut bench = versions::bench(Version::Hybrid).await;
        let info = &bench.metainfo.info;
        if private {
            let entries = &info.bytes[..info.bytes.len() - 1];
            let bytes = [entries, b"7:privatei1ee"].concat();
            let mut changed = Info::parse(&bytes).unwrap();
            changed.learn_layers(&info.layers()).unwrap();
            bench.metainfo.info = changed;
        }
        assert_eq!(bench.metainfo.info.private, private);
        let (first, v2) = (bench.metainfo.info.hash, bench.v2());
        // The tracker refuses the second name at once, and thinks about the first.
        let takes = move |head: &str| {
            let known = versions::announced(head) == first.0;
            known.then_some(Duration::from_secs(10))
        };
        *bench.world.tracker_takes.lock().unwrap() = Some(Box::new(takes));
        // One that gives the metadata of private torrents too, and one of ours.
        bench.world.script("11.0.0.1:7000", bench.honest());
        let _seed = bench.seed("11.0.0.2:7000");
        let known = Known::new(&[]);
        let job = Job {
            seed_after: true,
            ..bench.magnet("a", Some(first), Some(v2))
        };
        let handle = bench.finding_engine("a", &known).download(job);
        until(&handle, |progress| progress.state == State::Seeding).await;
        tokio::time::sleep(60 * MINUTE).await;
        let second = |name: &[u8]| {
            assert!(name == first.0 || name == v2.truncated().0);
            name != first.0
        };
        let told = bench.world.announces.lock().unwrap();
        let told = told.iter().any(|head| second(&versions::announced(head)));
        let asked = known.asked.lock().unwrap();
        let sought = asked.iter().any(|(name, _)| second(name));
        assert_eq!((told, sought), (!private, !private));
        assert_eq!(asked.is_empty(), private);
    }
}

/// Who gives the metadata and then stalls, so that others would be called.
#[tokio::test(start_paused = true)]
async fn who_was_found_is_left_when_the_torrent_turns_out_to_be_private() {
    let bench = Bench::with(true).await;
    let silent = Script {
        silent: true,
        ..bench.honest()
    };
    bench.world.script("8.8.8.8:1", silent);
    let known = Known::new(&["8.8.8.8:1"]);
    let handle = bench
        .finding_engine("a", &known)
        .download(bench.bare_job("a"));
    until(&handle, |progress| progress.total > 0).await;
    tokio::time::sleep(120 * MINUTE).await;
    let progress = handle.progress().borrow().clone();
    assert_eq!(
        (progress.connected, progress.known, progress.dht),
        (0, 0, None)
    );
    assert_eq!(known.asked(), 1);
    assert_eq!(bench.world.calls_to("8.8.8.8:1"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_names_others_asks_them_first() {
    let bench = Bench::new().await;
    let known = Known::new(&[]);
    let begun = Instant::now();
    // The tracker names nobody.
    let handle = bench
        .finding_engine("a", &known)
        .download(bench.magnet_job("a"));
    tokio::time::sleep(MINUTE).await;
    let first = known.asked.lock().unwrap()[0].1 - begun;
    // It was asked, and there is nobody else: that is not waited for.
    assert!(first < Duration::from_secs(10), "{first:?}");
    drop(handle);
    // One that can't be reached might still tell.
    bench.world.down.store(true, Ordering::Relaxed);
    let known = Known::new(&[]);
    let begun = Instant::now();
    let handle = bench
        .finding_engine("b", &known)
        .download(bench.magnet_job("b"));
    tokio::time::sleep(2 * MINUTE).await;
    let first = known.asked.lock().unwrap()[0].1 - begun;
    assert!(first >= MINUTE, "{first:?}");
    drop(handle);
}

#[tokio::test(start_paused = true)]
async fn peers_that_are_none_do_not_end_the_looking_and_each_time_it_is_done_another_way() {
    let bench = Bench::new().await;
    // Nobody is there.
    let known = Known::new(&["8.8.8.8:1", "8.8.4.4:1"]);
    let handle = bench
        .finding_engine("a", &known)
        .download(bench.bare_job("a"));
    tokio::time::sleep(5 * MINUTE).await;
    assert!(known.asked() >= 3, "{}", known.asked());
    assert_eq!(
        *known.attempts.lock().unwrap(),
        (0..known.asked() as u16).collect::<Vec<_>>()
    );
    drop(handle);
}
