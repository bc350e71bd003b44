//! Downloads from web seeds, honest and hostile ones, with and without peers.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::torrent::metainfo::{Info, Version, WebKind, WebSeed};

/// A server of files, as any web server is; or of pieces (BEP 17).
struct Server {
    info: Arc<Info>,
    content: Vec<u8>,
    /// What else it does with a request: an answer in full, or nothing.
    twist: Twist,
    requests: Mutex<Vec<String>>,
    connections: AtomicU64,
    /// Bytes that it gave.
    given: AtomicU64,
}

type Twist = Box<dyn Fn(usize, &str) -> Option<Vec<u8>> + Send + Sync>;

impl Server {
    fn new(
        bench: &Bench,
        twist: impl Fn(usize, &str) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            info: Arc::new(bench.metainfo.info.clone()),
            content: bench.content.clone(),
            twist: Box::new(twist),
            requests: Mutex::default(),
            connections: AtomicU64::new(0),
            given: AtomicU64::new(0),
        })
    }

    /// Serves at this name.
    fn at(self: &Arc<Self>, world: &World, host: &str) {
        let server = Arc::clone(self);
        world.at(Target::parse(host, 80).unwrap(), move |stream| {
            let server = Arc::clone(&server);
            server.connections.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(server.serve(stream));
        });
    }

    async fn serve(self: Arc<Self>, mut stream: BoxStream) -> Option<()> {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.ok()?);
            }
            let head = String::from_utf8(head).unwrap();
            let number = {
                let mut requests = self.requests.lock().unwrap();
                requests.push(head.clone());
                requests.len() - 1
            };
            let answer = (self.twist)(number, &head);
            let answer = answer.unwrap_or_else(|| self.answer(&head));
            stream.write_all(&answer).await.ok()?;
        }
    }

    /// The content of what a path names, and where it lies in the torrent.
    fn find(&self, path: &str) -> Option<&[u8]> {
        let mut at = 0;
        for file in &self.info.files {
            let len = file.len as usize;
            if !file.pad && path.strip_prefix("/pub/") == Some(&file.path.join("/")) {
                return Some(&self.content[at..at + len]);
            }
            at += len;
        }
        None
    }

    fn answer(&self, head: &str) -> Vec<u8> {
        let path = head.split(' ').nth(1).unwrap();
        let between = |from: &str, to: &[char]| {
            let (_, rest) = head.split_once(from)?;
            rest.split(to).next()
        };
        let pair = |text: &str| {
            let (first, last) = text.split_once('-').unwrap();
            (
                first.parse::<usize>().unwrap(),
                last.parse::<usize>().unwrap(),
            )
        };
        if let Some(piece) = between("&piece=", &['&', ' ']) {
            let start = piece.parse::<usize>().unwrap() * self.info.piece_len as usize;
            let end = (start + self.info.piece_len as usize).min(self.content.len());
            let mut bytes = &self.content[start..end];
            if let Some(ranges) = between("&ranges=", &['&', ' ']) {
                let (first, last) = pair(ranges);
                bytes = &bytes[first..=last];
            }
            return self.said("200 OK", "", bytes);
        }
        let Some(file) = self.find(path) else {
            return self.said("404 Not Found", "", b"no");
        };
        let (first, last) = pair(between("Range: bytes=", &['\r']).unwrap());
        let range = format!("Content-Range: bytes {first}-{last}/{}\r\n", file.len());
        self.said("206 Partial Content", &range, &file[first..=last])
    }

    fn said(&self, status: &str, fields: &str, body: &[u8]) -> Vec<u8> {
        self.given.fetch_add(body.len() as u64, Ordering::Relaxed);
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\n\r\n");
        [head.as_bytes(), body].concat()
    }
}

impl Bench {
    /// A download of this torrent from these web seeds, and from nobody else whom it names.
    fn web_job(&self, name: &str, urls: &[&str]) -> Job {
        let metainfo = Metainfo {
            trackers: Vec::new(),
            web_seeds: urls.iter().copied().map(WebSeed::files).collect(),
            ..self.metainfo.clone()
        };
        Job {
            source: Source::Metainfo(metainfo),
            ..self.job(name)
        }
    }
}

const URL: &str = "http://web.test/pub/";

#[tokio::test(start_paused = true)]
async fn a_web_seed_alone_is_enough_also_for_a_private_torrent() {
    for private in [false, true] {
        let bench = Bench::with(private).await;
        let server = Server::new(&bench, |_, _| None);
        server.at(&bench.world, "web.test");
        let handle = bench.engine("a").download(bench.web_job("out", &[URL]));
        let last = done(&handle).await;
        bench.assert_complete("out");
        assert_eq!(last.downloaded, bench.total());
        assert_eq!(
            server.given.load(Ordering::Relaxed),
            bench.total(),
            "nothing came twice"
        );
        assert_eq!(server.connections.load(Ordering::Relaxed), 1);
        // Runs of pieces, not one after another: five files have content, and a run may begin in the middle.
        let requests = server.requests.lock().unwrap().len();
        assert!(requests <= 12, "{requests}");
        // One circuit, that of nobody else.
        let calls = bench.world.calls.lock().unwrap();
        assert_eq!(calls.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_of_pieces_is_asked_too() {
    let bench = Bench::new().await;
    let server = Server::new(&bench, |_, _| None);
    server.at(&bench.world, "web.test");
    let metainfo = Metainfo {
        trackers: Vec::new(),
        web_seeds: vec![WebSeed {
            kind: WebKind::Pieces,
            url: "http://web.test/seed.php".to_owned(),
        }],
        ..bench.metainfo.clone()
    };
    let job = Job {
        source: Source::Metainfo(metainfo),
        ..bench.job("out")
    };
    done(&bench.engine("a").download(job)).await;
    bench.assert_complete("out");
    assert_eq!(server.given.load(Ordering::Relaxed), bench.total());
}

#[tokio::test(start_paused = true)]
async fn padding_is_asked_of_nobody() {
    for version in [Version::V2, Version::Hybrid] {
        let bench = versions::bench(version).await;
        let server = Server::new(&bench, |_, _| None);
        server.at(&bench.world, "web.test");
        done(&bench.engine("a").download(bench.web_job("out", &[URL]))).await;
        bench.assert_files("out");
        let files: u64 = SIZES.iter().map(|len| *len as u64).sum();
        assert_eq!(server.given.load(Ordering::Relaxed), files);
    }
}

#[tokio::test]
async fn a_torrent_is_made_with_web_seeds() {
    let bench = Bench::new().await;
    for urls in [
        &["http://a.test/"][..],
        &["http://a.test/", "https://b.test/x/"],
    ] {
        let recipe = Recipe {
            web_seeds: urls.iter().copied().map(str::to_owned).collect(),
            ..Recipe::default()
        };
        let source = bench.path("source/things");
        let made = create_with(source, recipe, Arc::default()).await.unwrap();
        let seeds: Vec<WebSeed> = urls.iter().copied().map(WebSeed::files).collect();
        assert_eq!(made.metainfo.web_seeds, seeds);
        let read = Metainfo::parse(&made.file).unwrap();
        assert_eq!(read.web_seeds, seeds);
        assert_eq!(read.encode(), made.file);
        // They are no part of what the infohash is of.
        let plain = create(bench.path("source/things"), Vec::new(), Arc::default()).await;
        assert_eq!(plain.unwrap().metainfo.info.hash, read.info.hash);
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_may_name_web_seeds_and_they_are_asked_once_the_metadata_is_known() {
    let bench = Bench::new().await;
    let server = Server::new(&bench, |_, _| None);
    server.at(&bench.world, "web.test");
    let Source::Magnet(magnet) = bench.magnet_job("out").source else {
        panic!()
    };
    let magnet = Magnet {
        web_seeds: vec![URL.to_owned()],
        ..magnet
    };
    let job = Job {
        source: Source::Magnet(magnet),
        ..bench.job("out")
    };
    let handle = bench.engine("a").download(job);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(server.connections.load(Ordering::Relaxed), 0);
    // It gives the metadata, and nothing else.
    let peer = Script {
        silent: true,
        ..bench.honest()
    };
    bench.world.script("11.0.0.1:7000", peer);
    done(&handle).await;
    bench.assert_complete("out");
    assert_eq!(server.given.load(Ordering::Relaxed), bench.total());
}

#[tokio::test(start_paused = true)]
async fn a_web_seed_that_lies_is_never_asked_again() {
    let bench = Bench::new().await;
    let honest = Server::new(&bench, |_, _| None);
    let mut liar = Server::new(&bench, |_, _| None);
    Arc::get_mut(&mut liar).unwrap().content[300_000] ^= 1;
    liar.at(&bench.world, "liar.test");
    let handle = bench
        .engine("a")
        .download(bench.web_job("out", &["http://liar.test/pub/", URL]));
    // The other is not there yet, so that the liar gives everything it has.
    let waits = Server::new(&bench, |_, _| {
        Some(b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n".to_vec())
    });
    waits.at(&bench.world, "web.test");
    until(&handle, |p| p.downloaded > 0).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let asked = liar.requests.lock().unwrap().len();
    honest.at(&bench.world, "web.test");
    done(&handle).await;
    bench.assert_complete("out");
    assert_eq!(liar.requests.lock().unwrap().len(), asked);
    assert_eq!(liar.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_web_seed_lacks_comes_from_a_peer() {
    let bench = Bench::new().await;
    let gone = |_, head: &str| {
        let lacks = head.starts_with("GET /pub/things/0 ");
        lacks.then(|| b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n".to_vec())
    };
    let server = Server::new(&bench, gone);
    server.at(&bench.world, "web.test");
    let handle = bench.engine("a").download(bench.web_job("out", &[URL]));
    // All that the first file has no part of.
    let without = bench.metainfo.info.piece_count() - 700_000_u32.div_ceil(64 << 10);
    until(&handle, |p| p.pieces_done == without).await;
    tokio::time::sleep(Duration::from_secs(7200)).await;
    let asked = server.requests.lock().unwrap().len();
    assert!(asked < 60, "asked again and again: {asked}");
    let job = Job {
        seed_after: true,
        ..bench.job("other")
    };
    let _seed = bench.seed("11.0.0.1:7000");
    drop(handle);
    let metainfo = Metainfo {
        web_seeds: vec![WebSeed::files(URL)],
        ..bench.metainfo.clone()
    };
    let job = Job {
        source: Source::Metainfo(metainfo),
        seed_after: false,
        ..job
    };
    done(&bench.engine("b").download(job)).await;
    bench.assert_complete("other");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_later_is_asked_later() {
    let bench = Bench::new().await;
    let busy = |number, _: &str| {
        let answer = b"HTTP/1.1 503 Later\r\nRetry-After: 300\r\nContent-Length: 0\r\n\r\n";
        (number < 2).then(|| answer.to_vec())
    };
    let server = Server::new(&bench, busy);
    server.at(&bench.world, "web.test");
    let begun = tokio::time::Instant::now();
    done(&bench.engine("a").download(bench.web_job("out", &[URL]))).await;
    bench.assert_complete("out");
    assert!(begun.elapsed() >= Duration::from_secs(600));
    assert_eq!(server.connections.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_hostile_server_costs_little_and_peers_give_what_it_does_not() {
    // A body that never comes, another range, a redirect to this computer, one in a circle, and compression.
    let answers: [&'static [u8]; 5] = [
        b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-99/*\r\n\r\n",
        b"HTTP/1.1 206 P\r\nContent-Range: bytes 7-8/9\r\n\r\nxx",
        b"HTTP/1.1 302 F\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 F\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nxx",
    ];
    let bench = Bench::new().await;
    let hosts: Vec<String> = (0..answers.len()).map(|n| format!("web{n}.test")).collect();
    let servers = answers.into_iter().zip(&hosts).map(|(answer, host)| {
        let server = Server::new(&bench, move |_, _| Some(answer.to_vec()));
        server.at(&bench.world, host);
        server
    });
    let servers: Vec<Arc<Server>> = servers.collect();
    let urls: Vec<String> = hosts
        .iter()
        .map(|host| format!("http://{host}/pub/"))
        .collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let handle = bench.engine("a").download(bench.web_job("out", &urls));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    for server in servers {
        let requests = server.requests.lock().unwrap().len();
        assert!((1..60).contains(&requests), "{requests}");
    }
    let calls = bench.world.calls.lock().unwrap().clone();
    let address = calls.iter().any(|(addr, _)| addr.is_some());
    assert!(!address, "an address was called");
    drop(handle);
    let _seed = bench.seed("11.0.0.1:7000");
    let with = |job: Job| {
        let Source::Metainfo(metainfo) = job.source else {
            panic!()
        };
        let source = Source::Metainfo(Metainfo {
            trackers: vec![vec![TRACKER.into()]],
            ..metainfo
        });
        Job { source, ..job }
    };
    done(
        &bench
            .engine("b")
            .download(with(bench.web_job("other", &urls))),
    )
    .await;
    bench.assert_complete("other");
}

#[tokio::test(start_paused = true)]
async fn lost_circuits_cost_nothing_but_time() {
    let bench = Bench::new().await;
    let server = Server::new(&bench, |_, _| None);
    server.at(&bench.world, "web.test");
    bench.world.flaky.store(true, Ordering::Relaxed);
    bench.world.calls.lock().unwrap().push((
        None,
        hushswarm_circuits::isolation::Isolation::new("x", b"", 0),
    ));
    let begun = tokio::time::Instant::now();
    done(&bench.engine("a").download(bench.web_job("out", &[URL]))).await;
    bench.assert_complete("out");
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert_eq!(bench.world.calls.lock().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_web_seed_and_a_peer_share_the_work() {
    let bench = Bench::new().await;
    let server = Server::new(&bench, |_, _| None);
    server.at(&bench.world, "web.test");
    let peer = Script {
        delay: Duration::from_millis(100),
        batch: 64 << 10,
        ..bench.honest()
    };
    let given = Arc::clone(&peer.given);
    bench.world.script("11.0.0.1:7000", peer);
    let metainfo = Metainfo {
        web_seeds: vec![WebSeed::files(URL)],
        ..bench.metainfo.clone()
    };
    let job = Job {
        source: Source::Metainfo(metainfo),
        ..bench.job("out")
    };
    done(&bench.engine("a").download(job)).await;
    bench.assert_complete("out");
    assert!(given.load(Ordering::Relaxed) > 0);
    assert!(server.given.load(Ordering::Relaxed) > 0);
}

#[tokio::test(start_paused = true)]
async fn limits_hold_for_web_seeds_and_they_are_asked_again_after_a_verification() {
    let bench = Bench::new().await;
    let server = Server::new(&bench, |_, _| None);
    server.at(&bench.world, "web.test");
    let begun = tokio::time::Instant::now();
    let handle = bench.engine("a").download(bench.web_job("out", &[URL]));
    let limit = 64 << 10;
    handle.set_limits(Limits {
        down: Some(limit),
        up: None,
    });
    until(&handle, |p| p.pieces_done >= 2 && p.pieces_done < 10).await;
    handle.verify();
    done(&handle).await;
    bench.assert_complete("out");
    let least = Duration::from_secs(bench.total() / limit);
    assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
    assert!(server.connections.load(Ordering::Relaxed) >= 2);
}

#[tokio::test(start_paused = true)]
async fn the_view_tells_how_trackers_stand() {
    let bench = Bench::new().await;
    let _seed = bench.seed("11.0.0.1:7000");
    let job = Job {
        seed_after: true,
        ..bench.job("out")
    };
    let handle = bench.engine("a").download(job);
    until(&handle, |p| p.state == State::Seeding).await;
    let view = handle.view().await.unwrap();
    let [tracker] = &view.trackers[..] else {
        panic!("{:?}", view.trackers)
    };
    assert_eq!(tracker.url.expose(), TRACKER);
    assert_eq!(tracker.status.as_deref(), Some("1 peers"));
    assert!(tracker.last.is_some() && tracker.next > tracker.last);
}
