//! The world outside the relays: a tracker and a seeding peer that take anybody who connects, and note who did.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use crate::error::{Error, Kind};
use crate::net::os::{Accepted, LocalListener};
use crate::route::{BoxStream, Nowhere};
use crate::torrent::engine::{Engine, Handle, Options, create};
use crate::torrent::infohash::InfoHash;
use crate::torrent::magnet::Magnet;
use crate::torrent::tracker::server::Tracker;

/// The tracker's address.
pub(super) const TRACKER_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 200, 0, 1));
/// The seeding peer's address.
pub(super) const SEEDER_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 201, 0, 1));
/// Name of the content.
const NAME: &str = "demo.bin";
/// Longest request that the tracker reads, bytes.
const MAX_HEAD: usize = 16 * 1024;
/// A request must be there within this time.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Bytes of random content that are made at once.
const BLOCK: usize = 1 << 20;

/// A tracker and a seeding peer.
pub(super) struct World {
    tracker: Arc<Mutex<Tracker>>,
    tracker_addr: SocketAddr,
    /// Ends when dropped.
    _seed: Arc<Handle>,
    hash: InfoHash,
    peers: Arc<Mutex<BTreeSet<IpAddr>>>,
    tasks: [JoinHandle<()>; 2],
    /// The file that is shared.
    pub(super) content: PathBuf,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(ip: IpAddr) -> Result<(LocalListener, SocketAddr), Error> {
    LocalListener::loopback(SocketAddr::new(ip, 0))
        .and_then(|listener| {
            let addr = listener
                .local_addr()?
                .ok_or(std::io::ErrorKind::AddrNotAvailable)?;
            Ok((listener, addr))
        })
        .map_err(|source| Error::local(format!("can't listen on {ip}")).with_source(source))
}

impl World {
    /// Makes random content of `size` bytes below `dir`, and starts to track and to seed it.
    pub(super) async fn start(dir: &Path, size: u64) -> Result<Self, Error> {
        let content = dir.join("seed").join(NAME);
        let path = content.clone();
        tokio::task::spawn_blocking(move || make_content(&path, size))
            .await
            .map_err(|error| Error::new(Kind::Bug, "writing stopped").with_source(error))?
            .map_err(|source| Error::local("can't write the demo's content").with_source(source))?;
        let created = create(content.clone(), Vec::new(), Arc::default())
            .await
            .map_err(|error| Error::local("can't make a torrent").with_source(error))?;
        let hash = created.metainfo.info.hash;
        let engine = Engine::new(Arc::new(Nowhere), Options::new(dir.join("seed-state")));
        let seed = Arc::new(engine.seed(created.metainfo, created.folder));
        let (peer_listener, peer_addr) = listen(SEEDER_IP)?;
        let (tracker_listener, tracker_addr) = listen(TRACKER_IP)?;
        let tracker = Arc::new(Mutex::new(Tracker::new(Duration::from_secs(60))));
        announce_seed(&tracker, hash, peer_addr);
        let peers = Arc::default();
        let tasks = [
            tokio::spawn(take_peers(
                peer_listener,
                Arc::clone(&seed),
                Arc::clone(&peers),
            )),
            tokio::spawn(take_announces(tracker_listener, Arc::clone(&tracker))),
        ];
        Ok(Self {
            tracker,
            tracker_addr,
            _seed: seed,
            hash,
            peers,
            tasks,
            content,
        })
    }

    /// The link that the downloader is given.
    pub(super) fn magnet(&self) -> Magnet {
        Magnet {
            hash: self.hash,
            v2: None,
            name: Some(NAME.to_owned()),
            trackers: vec![format!("http://{}/announce", self.tracker_addr)],
            peers: Vec::new(),
            seeds: Vec::new(),
            select: None,
            web_seeds: Vec::new(),
        }
    }

    /// Who connected to the seeding peer.
    pub(super) fn seeder_saw(&self) -> BTreeSet<IpAddr> {
        lock(&self.peers).clone()
    }

    /// Who connected to the tracker, but for the seeding peer.
    pub(super) fn tracker_saw(&self) -> BTreeSet<IpAddr> {
        let tracker = lock(&self.tracker);
        tracker
            .seen()
            .map(|seen| seen.from.ip())
            .filter(|ip| *ip != SEEDER_IP)
            .collect()
    }

    /// The last announce that the tracker got, with what is random in it left out.
    pub(super) fn told(&self) -> String {
        let tracker = lock(&self.tracker);
        let last = tracker
            .seen()
            .filter(|seen| seen.from.ip() != SEEDER_IP)
            .last();
        let Some(last) = last else {
            return "nothing".to_owned();
        };
        let parts = last
            .query
            .split('&')
            .map(|part| match part.split_once('=') {
                Some((key @ ("info_hash" | "peer_id" | "key"), _)) => format!("{key}=.."),
                _ => part.to_owned(),
            });
        parts.collect::<Vec<_>>().join(" ")
    }

    /// Ends both.
    pub(super) fn stop(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn make_content(path: &Path, size: u64) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut file = std::fs::File::create(path)?;
    let (mut rng, mut left) = (rand::rng(), size);
    let mut block = vec![0; BLOCK];
    while left > 0 {
        rng.fill_bytes(&mut block);
        let len = left.min(BLOCK as u64);
        file.write_all(&block[..len as usize])?;
        left -= len;
    }
    file.sync_all()
}

/// The seeding peer's announce, as if it had come over the network.
fn announce_seed(tracker: &Mutex<Tracker>, hash: InfoHash, addr: SocketAddr) {
    let escape = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("%{b:02x}")).collect() };
    let mut id = [0; 20];
    rand::rng().fill(&mut id);
    let head = format!(
        "GET /announce?info_hash={}&peer_id={}&port={}&uploaded=0&downloaded=0&left=0&compact=1 HTTP/1.1\r\nHost: {TRACKER_IP}\r\n\r\n",
        escape(&hash.0),
        escape(&id),
        addr.port()
    );
    lock(tracker).handle(Instant::now(), addr, head.as_bytes());
}

async fn take_peers(
    listener: LocalListener,
    seed: Arc<Handle>,
    peers: Arc<Mutex<BTreeSet<IpAddr>>>,
) {
    while let Ok(accepted) = listener.accept().await {
        lock(&peers).extend(accepted.from.map(|from| from.ip()));
        seed.accept(accepted.stream);
    }
}

async fn take_announces(listener: LocalListener, tracker: Arc<Mutex<Tracker>>) {
    while let Ok(Accepted {
        mut stream, from, ..
    }) = listener.accept().await
    {
        let Some(from) = from else { continue };
        let tracker = Arc::clone(&tracker);
        tokio::spawn(async move {
            let head = tokio::time::timeout(HEAD_TIME, read_head(&mut stream)).await;
            if let Ok(Some(head)) = head {
                let answer = lock(&tracker).handle(Instant::now(), from, &head);
                // A client that is gone needs no answer.
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            }
        });
    }
}

async fn read_head(stream: &mut BoxStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let n = stream.read(&mut chunk).await.ok().filter(|n| *n > 0)?;
        head.extend_from_slice(&chunk[..n]);
        if head.len() > MAX_HEAD {
            return None;
        }
    }
    Some(head)
}
