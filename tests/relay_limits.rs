//! What strangers can do to a relay, and how much memory it holds: hostile bytes over raw TCP, floods, idle circuits, and
//! readers that stop reading. Relays are processes of the real program.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stdout
)]

#[path = "support/relays.rs"]
mod world;

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hushswarm::net::os::OsDialer;
use hushswarm::net::{BoxFuture, Place, RelayDialer, Transport};
use hushswarm::overlay::circuit::Circuit;
use hushswarm::overlay::client::{Client, ClientConfig};
use hushswarm::overlay::stream::CircuitStream;
use hushswarm_circuits::circuit::origin::{HopSpec, Origin};
use hushswarm_circuits::frame::{
    BODY_OFFSET, CELL_OFFSET, Class, FrameType, HEADER_LEN, Header, Pool,
};
use hushswarm_circuits::keys::IdentityKey;
use hushswarm_circuits::link::{HANDSHAKE_LEN, LinkInitiator, LinkOpener, LinkSealer, sign_auth};
use hushswarm_circuits::path::{ExitNeed, GuardSample};
use hushswarm_circuits::relay_list::{Descriptor, Proto};
use hushswarm_circuits::target::Target;
use rand::RngExt;
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use world::{Recipe, World, echo, key, pattern, round_trip, serve, until};

const LONG: Duration = Duration::from_secs(60);
/// What the issue allows a relay with 1,000 idle circuits, KiB.
const IDLE_LIMIT: u64 = 64 * 1024;

/// Connects to a relay as somebody at this address.
async fn connect(world: &World, n: usize, from: IpAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    timeout(LONG, socket.connect(world.relays[n].addr))
        .await
        .unwrap()
        .unwrap()
}

/// Reads until the relay closes; gives how many bytes came.
async fn until_closed(mut from: impl AsyncRead + Unpin) -> usize {
    let (mut buf, mut all) = (vec![0; 65_536], 0);
    let reading = async {
        loop {
            match from.read(&mut buf).await {
                Ok(0) | Err(_) => return all,
                Ok(n) => all += n,
            }
        }
    };
    timeout(LONG, reading)
        .await
        .expect("the relay closes the connection")
}

/// A client that behaves, from an address of its own.
async fn assert_others_are_served(world: &World) {
    let client = world.client(1);
    let target = echo().await;
    let circuit = client
        .circuit(key("good"), Proto::Tcp, Some(&target), &[])
        .await
        .unwrap();
    let stream = circuit.connect(&target, LONG).await.unwrap();
    round_trip(stream, pattern(1, 200_000)).await;
    world.assert_sound();
}

/// A link that is driven by hand and obeys nothing.
struct RawLink {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    sealer: LinkSealer,
    opener: LinkOpener,
    hash: [u8; 32],
}

impl RawLink {
    async fn open(world: &World, n: usize, from: IpAddr) -> Self {
        let mut stream = connect(world, n, from).await;
        let peer = world.descriptors[n].link_peer();
        let (initiator, message) = LinkInitiator::start(&peer, &mut rand::rng()).unwrap();
        stream.write_all(&message).await.unwrap();
        let mut answer = [0; HANDSHAKE_LEN];
        stream.read_exact(&mut answer).await.unwrap();
        let keys = initiator.finish(&answer).unwrap();
        let (reader, writer) = stream.into_split();
        let (sealer, opener, hash) = (keys.sealer, keys.opener, keys.hash);
        Self {
            reader,
            writer,
            sealer,
            opener,
            hash,
        }
    }

    fn seal(&mut self, kind: FrameType, circuit: u32, class: Class, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; class.frame_len()];
        frame[BODY_OFFSET..BODY_OFFSET + body.len()].copy_from_slice(body);
        self.seal_frame(kind, circuit, class, frame)
    }

    fn seal_frame(
        &mut self,
        kind: FrameType,
        circuit: u32,
        class: Class,
        mut frame: Vec<u8>,
    ) -> Vec<u8> {
        let header = Header {
            circuit,
            kind,
            class,
            credit: 0,
        };
        self.sealer.seal(header, &mut frame).unwrap();
        frame
    }

    /// Writes until it is done, the relay closes, or it takes nothing more for a while. Whether all was taken.
    async fn push(&mut self, bytes: &[u8]) -> bool {
        let written = timeout(Duration::from_secs(2), self.writer.write_all(bytes)).await;
        matches!(written, Ok(Ok(())))
    }

    /// The next frame from the relay.
    async fn pull(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut head = [0; HEADER_LEN];
        timeout(LONG, self.reader.read_exact(&mut head))
            .await
            .unwrap()
            .ok()?;
        let class = self.opener.peek(&head).unwrap().class;
        let mut frame = vec![0; class.frame_len()];
        frame[..HEADER_LEN].copy_from_slice(&head);
        self.reader
            .read_exact(&mut frame[HEADER_LEN..])
            .await
            .ok()?;
        let header = self.opener.open(&mut frame).unwrap();
        Some((header, frame))
    }

    /// Builds a circuit through these relays; gives its state, with which cells can be sealed.
    async fn circuit(&mut self, world: &World, path: &[usize], id: u32) -> Origin {
        let specs = path
            .iter()
            .map(|n| {
                let relay = &world.descriptors[*n];
                HopSpec {
                    id: relay.identity,
                    peer: relay.hop_peer(),
                }
            })
            .collect();
        let mut origin = Origin::new(Instant::now(), specs, &mut rand::rng()).unwrap();
        let pool = Pool::new(8);
        while !origin.is_ready() {
            while let Some((kind, frame)) = origin.poll_transmit(&pool) {
                let bytes = frame.bytes().to_vec();
                let sealed = self.seal_frame(kind, id, frame.class(), bytes);
                assert!(self.push(&sealed).await);
            }
            let (header, frame) = self.pull().await.expect("the circuit is built");
            match header.kind {
                FrameType::Created => origin.handle_created(Instant::now(), &frame[BODY_OFFSET..]),
                FrameType::Data => {
                    let mut cell = pool.take(header.class);
                    cell.cell_mut().copy_from_slice(&frame[CELL_OFFSET..]);
                    origin.handle_cell(Instant::now(), cell);
                }
                FrameType::Destroy => panic!("destroyed, reason {}", frame[BODY_OFFSET]),
                FrameType::Pad
                | FrameType::Create
                | FrameType::Credit
                | FrameType::Auth
                | FrameType::Ping => {}
            }
            assert!(!origin.is_closed());
        }
        origin
    }

    /// Reads until DESTROY of a circuit comes; gives its reason.
    async fn destroyed(&mut self, id: u32) -> Option<u8> {
        while let Some((header, frame)) = self.pull().await {
            if header.kind == FrameType::Destroy && header.circuit == id {
                return Some(frame[BODY_OFFSET]);
            }
        }
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_and_cut_handshakes_do_nothing() {
    let world = Recipe::new(1).start();
    let from = world.client_ip();
    for len in [0, 1, 31, 1023, 1024, 1025, 100_000] {
        let mut stream = connect(&world, 0, from).await;
        let mut bytes = vec![0; len];
        rand::rng().fill(bytes.as_mut_slice());
        // It may be closed before all is written.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        assert_eq!(until_closed(stream).await, 0, "no answer to {len} bytes");
    }
    // A handshake for another relay's descriptor.
    let mut peer = world.descriptors[0].link_peer();
    peer.digest[0] ^= 1;
    let (_, message) = LinkInitiator::start(&peer, &mut rand::rng()).unwrap();
    let mut stream = connect(&world, 0, from).await;
    stream.write_all(&message).await.unwrap();
    assert_eq!(until_closed(stream).await, 0);
    assert_others_are_served(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_byte_by_byte_is_cut_off() {
    let world = Recipe::new(1).start();
    let (reader, mut writer) = connect(&world, 0, world.client_ip()).await.into_split();
    let dripping = tokio::spawn(async move {
        // Would take more than eight minutes.
        while writer.write_all(&[0]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    let silent = connect(&world, 0, world.client_ip()).await;
    assert_eq!(until_closed(reader).await, 0);
    assert_eq!(until_closed(silent).await, 0);
    dripping.abort();
    assert_others_are_served(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_source_holds_some_connections_and_others_come_in() {
    let world = Recipe::new(1).start();
    let (from, before) = (world.client_ip(), world.process(0).files());
    let mut held = Vec::new();
    for n in 0..1000 {
        held.push(connect(&world, 0, from).await);
        if n % 250 == 249 {
            assert_others_are_served(&world).await;
        }
    }
    let process = world.process(0);
    // 64 places for a source, and a few files for those who were served.
    until("what is too much is closed", || {
        process.files() < before + 64 + 20
    })
    .await;
    // When they are gone, so are their places: the source comes in again.
    drop(held);
    until("all are closed", || process.files() < before + 20).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    RawLink::open(&world, 0, from).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_came_and_went_leave_their_places() {
    let world = Recipe::new(1).start();
    let from = world.client_ip();
    // As many as a source may have at once, slower than it may come.
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(RawLink::open(&world, 0, from).await);
        tokio::time::sleep(Duration::from_millis(55)).await;
    }
    assert_eq!(
        until_closed(connect(&world, 0, from).await).await,
        0,
        "there is no place left"
    );
    drop(held);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut link = RawLink::open(&world, 0, from).await;
    link.circuit(&world, &[0], 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_after_a_good_handshake_ends_the_link() {
    let world = Recipe::new(2).start();
    let from = world.client_ip();
    let mut bytes = vec![0; 1 << 20];
    rand::rng().fill(bytes.as_mut_slice());
    let mut link = RawLink::open(&world, 0, from).await;
    let _ = link.push(&bytes).await;
    until_closed(link.reader).await;
    // A good frame that was changed on its way.
    let mut link = RawLink::open(&world, 0, from).await;
    let mut frame = link.seal(FrameType::Ping, 0, Class::Small, &[0; 9]);
    *frame.last_mut().unwrap() ^= 1;
    assert!(link.push(&frame).await);
    until_closed(link.reader).await;
    // Frames that only the other end, or nobody, may send now.
    let mut link = RawLink::open(&world, 0, from).await;
    let ping = link.seal(FrameType::Ping, 0, Class::Small, &[0; 9]);
    let proof = sign_auth(&IdentityKey::generate(&mut rand::rng()), &link.hash);
    let auth = link.seal(FrameType::Auth, 0, Class::Small, &proof);
    assert!(link.push(&[ping, auth].concat()).await);
    until_closed(link.reader).await;
    let mut link = RawLink::open(&world, 0, from).await;
    link.circuit(&world, &[0], 7).await;
    let created = link.seal(FrameType::Created, 7, Class::Bulk, &[0; 9]);
    assert!(link.push(&created).await);
    until_closed(link.reader).await;
    // The same CREATE twice.
    let mut link = RawLink::open(&world, 0, from).await;
    link.circuit(&world, &[0], 7).await;
    let again = link.seal(FrameType::Create, 7, Class::Bulk, &[0; 100]);
    assert!(link.push(&again).await);
    until_closed(link.reader).await;
    assert_others_are_served(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_no_list_has_gets_the_limits_of_a_client() {
    let world = Recipe::new(1).start();
    let mut link = RawLink::open(&world, 0, world.client_ip()).await;
    let proof = sign_auth(&IdentityKey::generate(&mut rand::rng()), &link.hash);
    let auth = link.seal(FrameType::Auth, 0, Class::Small, &proof);
    assert!(link.push(&auth).await);
    // A client may open 100 a second; of these, far more are refused than taken.
    let mut flood = Vec::new();
    for id in 1..=400 {
        let specs = vec![HopSpec {
            id: world.descriptors[0].identity,
            peer: world.descriptors[0].hop_peer(),
        }];
        let mut origin = Origin::new(Instant::now(), specs, &mut rand::rng()).unwrap();
        let (kind, frame) = origin.poll_transmit(&Pool::new(1)).unwrap();
        flood.push(link.seal_frame(kind, id, Class::Bulk, frame.bytes().to_vec()));
    }
    assert!(link.push(&flood.concat()).await);
    let (mut made, mut refused) = (0, 0);
    while made + refused < 400 {
        let (header, frame) = link.pull().await.unwrap();
        match header.kind {
            FrameType::Created => made += 1,
            FrameType::Destroy => {
                assert_eq!(frame[BODY_OFFSET], 5, "limit reached");
                refused += 1;
            }
            FrameType::Pad
            | FrameType::Create
            | FrameType::Data
            | FrameType::Credit
            | FrameType::Auth
            | FrameType::Ping => {}
        }
    }
    assert!(
        made >= 100 && refused >= 100,
        "{made} made, {refused} refused"
    );
}

/// Floods a relay over several links without reading an answer; gives by how many KiB the relay grew.
async fn flood(world: &World, frame: impl Fn(&mut RawLink, u32) -> Vec<u8>) -> u64 {
    let from = world.client_ip();
    let before = world.process(0).rss();
    let mut links = Vec::new();
    for _ in 0..16 {
        links.push(RawLink::open(world, 0, from).await);
    }
    let mut most = 0;
    for link in &mut links {
        for round in 0..40_u32 {
            let batch: Vec<u8> = (0..500)
                .flat_map(|n| frame(link, 1 + round * 500 + n))
                .collect();
            if !link.push(&batch).await {
                break;
            }
        }
        most = most.max(world.process(0).rss());
    }
    assert_others_are_served(world).await;
    most.max(world.process(0).rss()).saturating_sub(before)
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_without_reading_cost_the_relay_little() {
    let world = Recipe::new(1).start();
    let grown = flood(&world, |link, _| {
        link.seal(FrameType::Ping, 0, Class::Small, &[0; 9])
    })
    .await;
    println!("16 links that flood with PING: {grown} KiB");
    assert!(grown < 32 * 1024, "{grown} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_without_reading_cost_the_relay_little() {
    let world = Recipe::new(1).start();
    let grown = flood(&world, |link, id| {
        let mut body = vec![0; 2 + 1232];
        body[..2].copy_from_slice(&1232_u16.to_be_bytes());
        rand::rng().fill(&mut body[2..]);
        link.seal(FrameType::Create, id, Class::Bulk, &body)
    })
    .await;
    println!("16 links that flood with CREATE: {grown} KiB");
    assert!(grown < 48 * 1024, "{grown} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_does_not_open_ends_its_circuit_and_only_that() {
    let world = Recipe::new(1).start();
    let mut link = RawLink::open(&world, 0, world.client_ip()).await;
    link.circuit(&world, &[0], 7).await;
    link.circuit(&world, &[0], 8).await;
    for _ in 0..2000 {
        let mut frame = vec![0; Class::Bulk.frame_len()];
        rand::rng().fill(&mut frame[CELL_OFFSET..]);
        let sealed = link.seal_frame(FrameType::Data, 7, Class::Bulk, frame);
        assert!(link.push(&sealed).await);
    }
    assert_eq!(link.destroyed(7).await, Some(1), "protocol broken");
    // The link lives, and the other circuit with it.
    let end = link.seal(FrameType::Data, 8, Class::Bulk, &[0; 9]);
    assert!(link.push(&end).await);
    assert_eq!(link.destroyed(8).await, Some(1));
    assert_others_are_served(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_beyond_the_credit_ends_the_circuit_and_the_relay_holds_little() {
    let world = Recipe::new(3).start();
    let mut link = RawLink::open(&world, 0, world.client_ip()).await;
    let mut origin = link.circuit(&world, &[0, 1], 7).await;
    // The second hop takes nothing more away, so that nothing leaves the first.
    world.process(1).signal(Signal::STOP);
    let (before, pool) = (world.process(0).rss(), Pool::new(8));
    let mut sent = 0;
    for _ in 0..20_000 {
        origin.send_drop(1);
        let (kind, frame) = origin.poll_transmit(&pool).unwrap();
        let sealed = link.seal_frame(kind, 7, frame.class(), frame.bytes().to_vec());
        if !link.push(&sealed).await {
            break;
        }
        sent += 1;
    }
    assert!(sent > 1024, "more than any credit");
    assert_eq!(link.destroyed(7).await, Some(1), "protocol broken");
    let grown = world.process(0).rss().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB");
    world.process(1).signal(Signal::CONT);
    assert_others_are_served(&world).await;
}

/// Streams over several circuits, as many on each.
async fn streams(client: &Client, target: &Target, count: usize) -> Vec<CircuitStream> {
    let mut streams = Vec::new();
    for n in 0..count {
        let owner = (n / 20).to_string();
        let circuit = client
            .circuit(key(&owner), Proto::Tcp, Some(target), &[])
            .await
            .unwrap();
        streams.push(circuit.connect(target, LONG).await.unwrap());
    }
    streams
}

/// Waits until no relay reads or writes anything any more, and checks that memory stays as it is then.
async fn assert_stalled_without_growing(world: &World) -> Vec<u64> {
    let count = world.relays.len();
    let moved = || -> Vec<String> {
        let path = |n| format!("/proc/{}/io", world.process(n).id());
        (0..count)
            .map(|n| std::fs::read_to_string(path(n)).unwrap())
            .collect()
    };
    let stalling = async {
        let mut before = moved();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = moved();
            if std::mem::replace(&mut before, now.clone()) == now {
                return;
            }
        }
    };
    timeout(LONG, stalling).await.unwrap();
    let stalled = report(world, "stalled");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let later = report(world, "4 s later");
    for (stalled, later) in stalled.iter().zip(&later) {
        // The allocator takes memory in steps of some MiB; streams that went on would bring hundreds in this time.
        assert!(*later <= stalled + 4096, "{stalled} KiB, then {later} KiB");
    }
    later
}

/// What a relay may keep when all is over, KiB: 8 MiB of buffers, and what the allocator's threads have not given back,
/// which is less than what one burst of these tests takes: 9 to 38 MiB were seen, most of them while other work ran.
const KEPT: u64 = 44 * 1024;

async fn assert_memory_returns(world: &World, before: &[u64]) {
    let begun = Instant::now();
    loop {
        let after: Vec<u64> = (0..before.len()).map(|n| world.process(n).rss()).collect();
        if before
            .iter()
            .zip(&after)
            .all(|(before, after)| *after < before + KEPT)
        {
            break;
        }
        assert!(
            begun.elapsed() < LONG,
            "{before:?} KiB before, {after:?} KiB after"
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    report(
        world,
        &format!("ended, after {} s", begun.elapsed().as_secs()),
    );
}

/// Dials as the system does, but reads nothing while it is shut.
struct Gate {
    inner: OsDialer,
    shut: Arc<AtomicBool>,
}

struct GatedReader {
    inner: Box<dyn AsyncRead + Send + Unpin>,
    shut: Arc<AtomicBool>,
}

impl RelayDialer for Gate {
    fn dial<'a>(
        &'a self,
        relay: &'a Descriptor,
        place: Place,
    ) -> BoxFuture<'a, std::io::Result<Transport>> {
        Box::pin(async move {
            let Transport { reader, writer } = self.inner.dial(relay, place).await?;
            let reader = GatedReader {
                inner: reader,
                shut: Arc::clone(&self.shut),
            };
            Ok(Transport {
                reader: Box::new(reader),
                writer,
            })
        })
    }
}

impl AsyncRead for GatedReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.shut.load(Ordering::Relaxed) {
            // Never woken: it stays shut.
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

fn report(world: &World, what: &str) -> Vec<u64> {
    let all: Vec<u64> = (0..world.relays.len())
        .map(|n| world.process(n).rss())
        .collect();
    let mib: Vec<String> = all
        .iter()
        .map(|kib| format!("{:.1}", *kib as f64 / 1024.0))
        .collect();
    println!("{what}: {} MiB", mib.join(", "));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_circuits_fit_into_64_mib() {
    let world = Recipe::new(3).start();
    report(&world, "fresh relays");
    let mut circuits: Vec<Arc<Circuit>> = Vec::new();
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..10 {
        let client = world.client(3);
        for _ in 0..100 {
            circuits.push(client.fresh_circuit(ExitNeed::Datagrams).await.unwrap());
        }
        clients.push(client);
    }
    assert_eq!(
        circuits
            .iter()
            .filter(|circuit| !circuit.is_closed())
            .count(),
        1000
    );
    for rss in report(&world, "1,000 circuits through each relay") {
        assert!(rss < IDLE_LIMIT, "{rss} KiB");
    }
    // Used once, by a stream each.
    let target = echo().await;
    for circuit in &circuits {
        let stream = circuit.connect(&target, LONG).await.unwrap();
        round_trip(stream, pattern(1, 20_000)).await;
    }
    for rss in report(&world, "the same after a stream in each") {
        assert!(rss < IDLE_LIMIT, "{rss} KiB");
    }
    drop((circuits, clients));
}

/// A target that sends without end.
async fn source() -> Target {
    serve(|mut stream| async move {
        let data = vec![5; 65_536];
        while stream.write_all(&data).await.is_ok() {}
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_stop_reading_do_not_make_relays_grow() {
    let world = Recipe::new(3).start();
    let before = report(&world, "readers stop: fresh relays");
    let client = world.client(3);
    let mut streams = streams(&client, &source().await, 100).await;
    for stream in &mut streams {
        // Reads fast at first, so that its window grows; then never again.
        stream.read_exact(&mut vec![0; 1 << 20]).await.unwrap();
    }
    assert_stalled_without_growing(&world).await;
    drop(streams);
    client.close();
    assert_memory_returns(&world, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_its_link_does_not_make_relays_grow() {
    let world = Recipe::new(3).start();
    let before = report(&world, "a link stops: fresh relays");
    let shut = Arc::new(AtomicBool::new(false));
    let inner = OsDialer::new(Some(world.client_ip()));
    let gate = Arc::new(Gate {
        inner,
        shut: Arc::clone(&shut),
    });
    let config = ClientConfig {
        prebuilt: 0,
        ..ClientConfig::default()
    };
    let client = Client::new(
        Arc::clone(&world.list),
        GuardSample::default(),
        None,
        gate,
        config,
    );
    let mut streams = streams(&client, &source().await, 100).await;
    for stream in &mut streams {
        stream.read_exact(&mut vec![0; 1 << 20]).await.unwrap();
    }
    // All hundred have grown windows and circuits that drained: as many credits as there can be.
    let mut reading = Vec::new();
    for mut stream in streams {
        reading.push(tokio::spawn(async move {
            let mut buf = vec![0; 65_536];
            while stream.read(&mut buf).await.is_ok_and(|n| n > 0) {}
        }));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    shut.store(true, Ordering::Relaxed);
    for rss in assert_stalled_without_growing(&world).await {
        // Five circuits with 1,024 frames in their queues and in the reader's hands, and 64 KiB of each stream.
        assert!(rss < 96 * 1024, "{rss} KiB");
    }
    client.close();
    for task in reading {
        timeout(LONG, task).await.unwrap().unwrap();
    }
    assert_memory_returns(&world, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_stop_reading_do_not_make_relays_grow() {
    let world = Recipe::new(3).start();
    let before = report(&world, "targets stop: fresh relays");
    let client = world.client(3);
    let target = serve(|stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let mut writing = Vec::new();
    for mut stream in streams(&client, &target, 100).await {
        writing.push(tokio::spawn(async move {
            while stream.write_all(&[5; 65_536]).await.is_ok() {}
        }));
    }
    let held = assert_stalled_without_growing(&world).await;
    // A first window of 256 KiB for each stream, at the exit alone.
    assert!(held.iter().all(|rss| *rss < 64 * 1024), "{held:?}");
    client.close();
    for task in writing {
        timeout(LONG, task).await.unwrap().unwrap();
    }
    assert_memory_returns(&world, &before).await;
}
