//! Torrents of version 2 and hybrid ones beside libtorrent, over plain connections of this machine: each takes what the other made and
//! gives.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hushswarm::route::{BoxFuture, BoxStream, Datagrams, Outside, RouteError};
use hushswarm::torrent::engine::{Created, Engine, Job, Options, Source, State, create_as};
use hushswarm::torrent::magnet::Magnet;
use hushswarm::torrent::metainfo::{Info, Version};
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::Target;
use support::clients::{Libtorrent, Torrent, libtorrent_python};
use support::{PATIENCE, write_noise};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

/// More than pieces of one block, and more pieces than one request for hashes takes.
const LARGEST: u64 = 26 << 20;

/// Plain connections, without circuits.
struct Plain;

impl Outside for Plain {
    fn connect<'a>(
        &'a self,
        target: &'a Target,
        _: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        Box::pin(async move {
            let addr = target.socket_addr().ok_or(RouteError::Refused)?;
            let stream = TcpStream::connect(addr).await;
            let stream = stream.map_err(|_| RouteError::ConnectionRefused)?;
            Ok(Box::new(stream) as BoxStream)
        })
    }

    fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        Box::pin(async { Err(RouteError::Refused) })
    }
}

fn engine(state: &Path) -> Engine {
    let mut options = Options::new(state.to_owned());
    options.allow_private = true;
    Engine::new(Arc::new(Plain), options)
}

/// Every file below a folder, by its path.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() {
            let below = files(&path).into_iter();
            out.extend(below.map(|(path, bytes)| (name.join(path), bytes)));
        } else {
            out.insert(name, fs::read(path).unwrap());
        }
    }
    out
}

/// Lengths of many kinds: one piece and its neighbours, one block, none, several pieces.
fn make_content(folder: &Path) {
    let sizes = [
        ("a.bin", LARGEST),
        ("empty", 0),
        ("sub/one", 1),
        ("sub/block", 16384),
        ("sub/deep/piece", 32768),
        ("sub/deep/more", 32769),
        ("z \u{e9}\u{4e2d}.txt", 100_000),
    ];
    for (seed, (path, len)) in (1..).zip(sizes) {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_noise(&path, len, seed);
    }
}

/// The link of a torrent, by all of its names.
fn link(info: &Info, peer: Option<SocketAddr>) -> Magnet {
    Magnet {
        hash: info.hash,
        v2: info.v2.as_ref().map(|v2| v2.hash),
        name: None,
        trackers: Vec::new(),
        peers: peer.map(Target::ip).into_iter().collect(),
        seeds: Vec::new(),
        select: None,
        web_seeds: Vec::new(),
    }
}

/// Ours downloads from libtorrent, by a link: the metadata and in version 2 the hashes of pieces come from it too.
async fn take(python: &Path, dir: &Path, name: &str, made: &Created) {
    let file = dir.join(format!("{name}.torrent"));
    fs::write(&file, &made.file).unwrap();
    let torrent = Torrent {
        file,
        infohash: made.metainfo.info.hash.hex(),
        magnet: String::new(),
    };
    let seed = tokio::task::block_in_place(|| {
        Libtorrent::seed(python, None, &torrent, &made.folder, None)
    });
    let output = dir.join(format!("ours-{name}"));
    let job = Job {
        source: Source::Magnet(link(&made.metainfo.info, Some(seed.addr))),
        output: output.clone(),
        seed_after: false,
        overwrite: false,
        info: None,
    };
    let handle = engine(&dir.join(format!("state-{name}"))).download(job);
    let last = tokio::time::timeout(PATIENCE, handle.finished()).await;
    assert_eq!(last.unwrap().state, State::Done, "{name}");
    assert!(
        files(&output) == files(&made.folder),
        "{name}: the files differ"
    );
}

/// libtorrent downloads from ours, in the same way.
async fn give(python: &Path, dir: &Path, name: &str, made: &Created) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let engine = engine(&dir.join(format!("seed-{name}")));
    let handle = engine.seed(made.metainfo.clone(), made.folder.clone());
    let accepting = async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            handle.accept(Box::new(stream));
        }
    };
    let output = dir.join(format!("theirs-{name}"));
    let (python, into) = (python.to_owned(), output.clone());
    let source = link(&made.metainfo.info, None).to_string();
    let getting = tokio::task::spawn_blocking(move || {
        let mut get = Libtorrent::get(&python, None, &source, &into, &[addr], None);
        get.wait_done();
    });
    tokio::select! {
        () = accepting => {}
        done = getting => done.unwrap(),
    }
    assert!(
        files(&output) == files(&made.folder),
        "{name}: the files differ"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn torrents_of_every_version_go_both_ways_beside_libtorrent() {
    let Some(python) = libtorrent_python() else {
        return;
    };
    let dir = TempDir::new().unwrap();
    let content = dir.path().join("content/things");
    make_content(&content);
    for (name, version) in [("v2", Version::V2), ("hybrid", Version::Hybrid)] {
        let made = create_as(content.clone(), Vec::new(), version, Arc::default());
        let made = made.await.unwrap();
        assert!(made.metainfo.info.piece_len > 16 << 10);
        take(&python, dir.path(), name, &made).await;
        give(&python, dir.path(), name, &made).await;
    }
}
