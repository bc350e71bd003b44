//! A world for tests: peers and a tracker behind in-memory streams, honest and hostile ones, and a record of who was
//! called.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::{Host, Target};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::Handle;
use crate::route::gate::Ways;
use crate::route::special::Place;
use crate::route::{BoxFuture, BoxStream, Datagrams, Outside, RouteError};
use crate::torrent::gossip::OnionPeer;
use crate::torrent::metainfo::Info;
use crate::torrent::peer::{Event, Peer};
use crate::torrent::picker::{Bits, Geometry};
use crate::torrent::swarm::{Command, Visitor};
use crate::torrent::v2::Answer;
use crate::torrent::v2::merkle::{Hash, sha256};
use crate::torrent::v2::request::HashRequest;
use crate::torrent::wire::{BLOCK, piece_header};

/// The tracker of the world.
pub(super) const TRACKER: &str = "http://tracker.test/announce";

type Listener = Box<dyn Fn(BoxStream) + Send + Sync>;

/// What was called: the peer (none for the tracker), and on which circuit.
type Call = (Option<SocketAddr>, Isolation);

type Takes = Box<dyn Fn(&str) -> Option<Duration> + Send + Sync>;

#[derive(Default)]
pub(super) struct World {
    listeners: Mutex<BTreeMap<SocketAddr, Listener>>,
    onions: Mutex<BTreeMap<Target, Listener>>,
    /// Onion services and hidden seeds that were called, there or not.
    pub(super) onion_calls: Mutex<Vec<Target>>,
    pub(super) calls: Mutex<Vec<Call>>,
    /// Heads of announces.
    pub(super) announces: Mutex<Vec<String>>,
    /// No circuit can be built.
    pub(super) down: AtomicBool,
    /// The tracker takes so long over an announce with this head, and none refuses it.
    pub(super) tracker_takes: Mutex<Option<Takes>>,
    /// Every second call loses its circuit.
    pub(super) flaky: AtomicBool,
}

impl World {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Streams to `addr` are handed to an engine's torrent.
    pub(super) fn listen(&self, addr: &str, handle: &Handle) {
        let commands = handle.commands.clone();
        let listener = move |stream| {
            let _ = commands.try_send(Command::Accept(Visitor::by_address(stream)));
        };
        self.listeners
            .lock()
            .unwrap()
            .insert(addr.parse().unwrap(), Box::new(listener));
    }

    /// Streams to this onion service are handed to an engine's torrent, which knows that this is its own.
    pub(super) fn listen_onion(&self, onion: OnionPeer, handle: &Handle) {
        let door = handle.onion_door();
        door.open(vec![onion]);
        self.onion(onion, move |stream| door.accept(stream));
    }

    /// Somebody listens at this onion service.
    pub(super) fn onion(
        &self,
        onion: OnionPeer,
        listener: impl Fn(BoxStream) + Send + Sync + 'static,
    ) {
        self.at(onion.to_target().unwrap(), listener);
    }

    /// Somebody listens at this onion service, hidden seed or name.
    pub(super) fn at(&self, target: Target, listener: impl Fn(BoxStream) + Send + Sync + 'static) {
        let mut onions = self.onions.lock().unwrap();
        onions.insert(target, Box::new(listener));
    }

    /// Nobody does any more.
    pub(super) fn remove_onion(&self, onion: OnionPeer) {
        let target = onion.to_target().unwrap();
        self.onions.lock().unwrap().remove(&target);
    }

    pub(super) fn calls_to_onion(&self, onion: OnionPeer) -> usize {
        let target = onion.to_target().unwrap();
        let calls = self.onion_calls.lock().unwrap();
        calls.iter().filter(|to| **to == target).count()
    }

    /// A scripted peer listens at `addr`.
    pub(super) fn script(&self, addr: &str, script: Script) {
        let script = Arc::new(script);
        self.listen_with(addr, move |stream| {
            tokio::spawn(Arc::clone(&script).run(stream));
        });
    }

    /// Somebody listens at `addr`.
    pub(super) fn listen_with(
        &self,
        addr: &str,
        listener: impl Fn(BoxStream) + Send + Sync + 'static,
    ) {
        let mut listeners = self.listeners.lock().unwrap();
        listeners.insert(addr.parse().unwrap(), Box::new(listener));
    }

    pub(super) fn calls_to(&self, addr: &str) -> usize {
        let addr: SocketAddr = addr.parse().unwrap();
        self.calls
            .lock()
            .unwrap()
            .iter()
            .filter(|(to, _)| *to == Some(addr))
            .count()
    }

    fn tracker(self: &Arc<Self>, mut stream: tokio::io::DuplexStream) {
        let peers: Vec<u8> = self
            .listeners
            .lock()
            .unwrap()
            .keys()
            .flat_map(|addr| {
                let SocketAddr::V4(addr) = addr else { panic!() };
                [&addr.ip().octets()[..], &addr.port().to_be_bytes()].concat()
            })
            .collect();
        let world = Arc::clone(self);
        tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else {
                    return;
                };
                head.push(byte);
            }
            let head = String::from_utf8(head).unwrap();
            let takes = match &*world.tracker_takes.lock().unwrap() {
                Some(takes) => takes(&head),
                None => Some(Duration::ZERO),
            };
            world.announces.lock().unwrap().push(head);
            let Some(takes) = takes else {
                let _ = stream.write_all(b"HTTP/1.1 404 No\r\n\r\n").await;
                return;
            };
            tokio::time::sleep(takes).await;
            // It counts, so that nobody asks it for counts apart.
            let head =
                "HTTP/1.1 200 OK\r\n\r\nd8:completei1e10:incompletei0e8:intervali600e5:peers";
            let mut answer = head.as_bytes().to_vec();
            answer.extend_from_slice(format!("{}:", peers.len()).as_bytes());
            answer.extend_from_slice(&peers);
            answer.push(b'e');
            let _ = stream.write_all(&answer).await;
        });
    }
}

/// The world as an engine sees it.
pub(super) struct View(pub(super) Arc<World>);

impl Outside for View {
    fn connect<'a>(
        &'a self,
        target: &'a Target,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        Box::pin(async move {
            // A round trip, so that time passes.
            tokio::time::sleep(Duration::from_millis(50)).await;
            if self.0.down.load(Ordering::Relaxed) {
                return Err(RouteError::NoCircuit("no relay answers".into()));
            }
            let count = {
                let mut calls = self.0.calls.lock().unwrap();
                calls.push((target.socket_addr(), isolation));
                calls.len()
            };
            if self.0.flaky.load(Ordering::Relaxed) && count % 2 == 0 {
                return Err(RouteError::CircuitLost);
            }
            let (near, far) = tokio::io::duplex(64 << 10);
            match &target.host {
                Host::Name(_) if Place::is_concealed(target) => {
                    self.0.onion_calls.lock().unwrap().push(target.clone());
                    let onions = self.0.onions.lock().unwrap();
                    let listener = onions.get(target);
                    listener.ok_or(RouteError::Unreachable)?(Box::new(far));
                }
                Host::Name(_) => match self.0.onions.lock().unwrap().get(target) {
                    Some(listener) => listener(Box::new(far)),
                    None => self.0.tracker(far),
                },
                Host::Ip(_) => {
                    let listeners = self.0.listeners.lock().unwrap();
                    let listener = target.socket_addr().and_then(|addr| listeners.get(&addr));
                    listener.ok_or(RouteError::ConnectionRefused)?(Box::new(far));
                }
            }
            Ok(Box::new(near) as BoxStream)
        })
    }

    fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        Box::pin(async { Err(RouteError::Refused) })
    }
}

impl Ways for View {
    fn circuits(&self, _: Option<u8>) -> Arc<dyn Outside> {
        Arc::new(Self(Arc::clone(&self.0)))
    }
}

/// A peer that has everything and behaves as told.
#[derive(Clone)]
pub(super) struct Script {
    pub(super) info: Info,
    pub(super) content: Vec<u8>,
    /// Blocks of these pieces are wrong.
    pub(super) lies_in: BTreeSet<u32>,
    /// Metadata is wrong.
    pub(super) lies_about_metadata: bool,
    /// Takes requests and never answers.
    pub(super) silent: bool,
    /// Answers who asks for hashes of version 2.
    pub(super) hashes: bool,
    /// Blocks that it and others who share this will still give.
    pub(super) rest: Option<Arc<AtomicU64>>,
    /// Waits before each batch of blocks.
    pub(super) delay: Duration,
    /// Bytes of a batch.
    pub(super) batch: u32,
    /// Bytes of blocks given.
    pub(super) given: Arc<AtomicU64>,
}

impl Script {
    pub(super) fn honest(info: &Info, content: &[u8]) -> Self {
        Self {
            info: info.clone(),
            content: content.to_vec(),
            lies_in: BTreeSet::new(),
            lies_about_metadata: false,
            silent: false,
            hashes: false,
            rest: None,
            delay: Duration::ZERO,
            batch: 256 << 10,
            given: Arc::default(),
        }
    }

    pub(super) async fn run(self: Arc<Self>, stream: BoxStream) {
        self.run_as(stream, false).await;
    }

    /// The same for a peer that comes to another, where `outgoing`.
    pub(super) async fn run_as(self: Arc<Self>, mut stream: BoxStream, outgoing: bool) {
        let now = || Instant::now().into_std();
        let geometry = Geometry::of(&self.info);
        let size = self.info.bytes.len() as u32;
        let rng = StdRng::seed_from_u64(3);
        let mut peer = Peer::new(now(), self.info.hash, [5; 20], outgoing, rng);
        peer.set_torrent(geometry.clone(), Bits::full(geometry.pieces), Some(size))
            .unwrap();
        loop {
            let mut out = Vec::new();
            peer.transmit(now(), &mut out);
            let mut blocks = if self.silent {
                Vec::new()
            } else {
                peer.take_uploads(self.batch)
            };
            blocks.retain(|_| self.may_give());
            if !blocks.is_empty() {
                tokio::time::sleep(self.delay).await;
            }
            for block in blocks {
                out.extend_from_slice(&piece_header(block.index, block.begin, block.len));
                self.given
                    .fetch_add(u64::from(block.len), Ordering::Relaxed);
                let start = (block.index * self.info.piece_len + block.begin) as usize;
                let at = out.len();
                out.extend_from_slice(&self.content[start..start + block.len as usize]);
                if self.lies_in.contains(&block.index) {
                    out[at] ^= 1;
                }
            }
            if stream.write_all(&out).await.is_err() {
                return;
            }
            if peer.has_uploads() && !self.silent {
                continue;
            }
            let Ok(len) = stream.read(peer.space()).await else {
                return;
            };
            if len == 0 {
                return;
            }
            peer.filled(now(), len);
            loop {
                let wanted = match peer.poll(now()) {
                    Ok(Some(Event::MetadataWanted(piece))) => piece,
                    Ok(Some(Event::Ready)) => {
                        peer.set_choking(false);
                        continue;
                    }
                    Ok(Some(Event::HashesWanted(request))) if self.hashes => {
                        let hashes = self.hashes_for(&request);
                        peer.give_hashes(request, hashes.as_deref()).unwrap();
                        continue;
                    }
                    Ok(Some(_)) => continue,
                    Ok(None) => break,
                    Err(_) => return,
                };
                let mut metadata = self.info.bytes.to_vec();
                if self.lies_about_metadata {
                    metadata[20] ^= 1;
                }
                peer.give_metadata(wanted, Some(&metadata));
            }
        }
    }

    fn may_give(&self) -> bool {
        let (one, order) = (|rest: u64| rest.checked_sub(1), Ordering::Relaxed);
        let rest = self.rest.as_ref();
        rest.is_none_or(|rest| rest.fetch_update(order, order, one).is_ok())
    }

    fn hashes_for(&self, request: &HashRequest) -> Option<Vec<Hash>> {
        let v2 = self.info.v2.as_ref().unwrap();
        match v2.answer(request) {
            Answer::Hashes(hashes) => Some(hashes),
            Answer::NeedsPiece(piece) => {
                let start = (piece * self.info.piece_len) as usize;
                let len = Geometry::of(&self.info).len_of(piece) as usize;
                let blocks = self.content[start..start + len].chunks(BLOCK as usize);
                v2.answer_with(request, blocks.map(sha256).collect())
            }
            Answer::Reject => None,
        }
    }
}
