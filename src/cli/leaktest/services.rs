//! The services of the world: name server, trackers, DHT, seeding peer, web server. Each notes what it learns.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::addresses::{self, BAIT, DHT_NODES, DHT_PORT, DHT_PORT_LIBTORRENT, TRACKER_PORT};
use super::dht::{Contact, Nodes, id_for, is_from};
use super::dns::Question;
use super::outcome::{Learned, Party};
use super::peek::Peek;
use super::udp_tracker::UdpTracker;
use crate::error::Error;
use crate::net::os::{Accepted, LocalListener, LocalUdp, WorldSockets};
use crate::route::BoxStream;
use crate::torrent::engine::Handle;
use crate::torrent::infohash::InfoHash;
use crate::torrent::tracker::server::{MAX_HEAD, Tracker};

/// A request must be there within this time.
const HEAD_TIME: Duration = Duration::from_secs(20);
/// Bytes carried at once.
const CHUNK: usize = 16 << 10;
/// Longest datagram read, bytes.
const DATAGRAM: usize = 2048;
/// How often clients announce.
const INTERVAL: Duration = Duration::from_secs(60);

/// What all services share.
pub(super) struct Shared {
    learned: Mutex<Learned>,
    /// Bytes of content given away.
    served: AtomicU64,
    /// When the next byte may leave, and how many may a second; `None` is as fast as it goes.
    pace: Option<(tokio::sync::Mutex<tokio::time::Instant>, u64)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// `rate` is the content's, bytes a second.
    pub(super) fn new(rate: Option<u64>) -> Arc<Self> {
        let pace = rate.map(|rate| (tokio::sync::Mutex::new(tokio::time::Instant::now()), rate));
        Arc::new(Self {
            learned: Mutex::default(),
            served: AtomicU64::new(0),
            pace,
        })
    }

    /// What was learned so far.
    pub(super) fn learned(&self) -> Learned {
        lock(&self.learned).clone()
    }

    /// Bytes of content given away so far.
    pub(super) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    fn note(&self, party: &str, from: IpAddr, what: impl FnOnce(&mut Party)) {
        let mut learned = lock(&self.learned);
        let party = learned.parties.entry(party.to_owned()).or_default();
        party.came(addresses::name(from));
        what(party);
    }

    fn told_own_address(&self, place: &str) {
        lock(&self.learned).own_address.insert(place.to_owned());
    }

    async fn serve(&self, bytes: usize) {
        self.served.fetch_add(bytes as u64, Ordering::Relaxed);
        let Some((next, rate)) = &self.pace else {
            return;
        };
        let due = {
            let mut next = next.lock().await;
            let due = (*next).max(tokio::time::Instant::now());
            *next = due + Duration::from_secs_f64(bytes as f64 / *rate as f64);
            due
        };
        tokio::time::sleep_until(due).await;
    }
}

/// What is shared, and where it lies.
pub(super) struct Content {
    /// The torrent's infohash.
    pub(super) hash: InfoHash,
    /// The seeding peer.
    pub(super) seed: Arc<Handle>,
    /// The file.
    pub(super) file: PathBuf,
    /// Its name in a URL.
    pub(super) name: String,
}

fn is_own(ip: IpAddr) -> bool {
    addresses::name(ip) == addresses::YOU
}

/// Starts all of them; they end with the runtime.
///
/// # Errors
/// An address can't be bound: a mistake of this program, or of the world's set-up.
pub(super) fn start(
    sockets: WorldSockets,
    shared: &Arc<Shared>,
    content: Arc<Content>,
) -> Result<(), Error> {
    let failed = |source| Error::local("can't bind an address of the world").with_source(source);
    for ip in [
        IpAddr::V4(addresses::GATEWAY_V4),
        IpAddr::V6(addresses::GATEWAY_V6),
    ] {
        let socket = sockets.datagrams(SocketAddr::new(ip, 53)).map_err(failed)?;
        tokio::spawn(names(socket, Arc::clone(shared)));
    }
    let hash = content.hash.0;
    let tracker = Arc::new(Mutex::new(Tracker::new(INTERVAL)));
    let peers: Vec<SocketAddr> = addresses::seeder().into_iter().chain([BAIT]).collect();
    for peer in &peers {
        lock(&tracker).handle(
            Instant::now(),
            *peer,
            announce(&content.hash, *peer).as_bytes(),
        );
    }
    let udp = Arc::new(UdpTracker::new(rand::random(), hash, peers.clone()));
    for ip in addresses::tracker() {
        let at = SocketAddr::new(ip, TRACKER_PORT);
        let listener = sockets.listen(at).map_err(failed)?;
        tokio::spawn(http_tracker(
            listener,
            Arc::clone(&tracker),
            Arc::clone(shared),
        ));
        let socket = sockets.datagrams(at).map_err(failed)?;
        tokio::spawn(udp_tracker(socket, Arc::clone(&udp), Arc::clone(shared)));
    }
    for at in addresses::seeder() {
        let listener = sockets.listen(at).map_err(failed)?;
        tokio::spawn(seeder(listener, Arc::clone(&content), Arc::clone(shared)));
    }
    for ip in addresses::mirror() {
        let listener = sockets.listen(SocketAddr::new(ip, 80)).map_err(failed)?;
        tokio::spawn(mirror(listener, Arc::clone(&content), Arc::clone(shared)));
    }
    for family in 0..2 {
        let contacts = (0..DHT_NODES).map(|n| {
            let addr = SocketAddr::new(addresses::node(n)[family], DHT_PORT);
            Contact {
                id: id_for(addr.ip(), rand::random()),
                addr,
            }
        });
        let nodes = Nodes::new(rand::random(), contacts.collect(), hash, &peers);
        let nodes = Arc::new(Mutex::new(nodes));
        for n in 0..DHT_NODES {
            let ip = addresses::node(n)[family];
            for port in [DHT_PORT, DHT_PORT_LIBTORRENT] {
                let socket = sockets
                    .datagrams(SocketAddr::new(ip, port))
                    .map_err(failed)?;
                tokio::spawn(dht(socket, Arc::clone(&nodes), n, Arc::clone(shared)));
            }
        }
    }
    Ok(())
}

/// An announce as if it had come over the network; of a peer that lacks something, since clients that fetch metadata first
/// say that they lack nothing, and seeds are not told of seeds.
fn announce(hash: &InfoHash, peer: SocketAddr) -> String {
    let escape = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("%{b:02x}")).collect() };
    format!(
        "GET /announce?info_hash={}&peer_id={}&port={}&uploaded=0&downloaded=0&left=1 HTTP/1.1\r\n\r\n",
        escape(&hash.0),
        escape(&rand::random::<[u8; 20]>()),
        peer.port()
    )
}

async fn names(socket: LocalUdp, shared: Arc<Shared>) {
    let mut buf = [0; DATAGRAM];
    loop {
        let Ok((len, from)) = socket.recv_from(&mut buf).await else {
            continue;
        };
        let Some(question) = Question::parse(&buf[..len]) else {
            continue;
        };
        shared.note("name server", from.ip(), |party| {
            party.said("names", question.name.clone());
        });
        let answer = question.answer(addresses::lookup(&question.name).as_deref());
        let _ = socket.send_to(&answer, from).await;
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

/// The value of a header, in a request's head.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

async fn http_tracker(listener: LocalListener, tracker: Arc<Mutex<Tracker>>, shared: Arc<Shared>) {
    while let Ok(Accepted {
        mut stream, from, ..
    }) = listener.accept().await
    {
        let Some(from) = from else { continue };
        let (tracker, shared) = (Arc::clone(&tracker), Arc::clone(&shared));
        tokio::spawn(async move {
            let head = tokio::time::timeout(HEAD_TIME, read_head(&mut stream)).await;
            // Somebody came, whatever they said.
            let head = head.ok().flatten().unwrap_or_default();
            note_announce(&shared, from.ip(), &String::from_utf8_lossy(&head));
            let answer = lock(&tracker).handle(Instant::now(), from, &head);
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        });
    }
}

fn note_announce(shared: &Shared, from: IpAddr, head: &str) {
    let line = head.lines().next().unwrap_or_default();
    let query = line.split_once('?').map_or("", |(_, query)| query);
    let query = query.split(' ').next().unwrap_or_default();
    let mut told = Vec::new();
    shared.note("HTTP tracker", from, |party| {
        for (key, value) in query.split('&').filter_map(|part| part.split_once('=')) {
            party.said("keys", key);
            match key {
                "port" | "key" => party.said(key, value),
                "peer_id" => party.said("peer id", start_of_id(&percent_decode(value))),
                "info_hash" => {}
                _ if names_own(&percent_decode(value)) => told.push(key),
                _ => {}
            }
        }
        if let Some(agent) = header(head, "user-agent") {
            party.said("program", agent.chars().take(48).collect::<String>());
        }
    });
    for key in told {
        shared.told_own_address(&format!("{key}= to the HTTP tracker"));
    }
}

/// Whether a value is, or is text that holds, the program's own address.
fn names_own(value: &[u8]) -> bool {
    let [v4, v6] = [
        addresses::YOU_V4.octets().to_vec(),
        addresses::YOU_V6.octets().to_vec(),
    ];
    let text = String::from_utf8_lossy(value);
    let texts = [addresses::YOU_V4.to_string(), addresses::YOU_V6.to_string()];
    value == v4 || value == v6 || texts.iter().any(|own| text.contains(own))
}

/// What programs begin their peer id with (`-TR3000-`, `A2-1-36-0-`), and a word for those that tell nothing.
fn start_of_id(id: &[u8]) -> String {
    let letters = id
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'-');
    let start: String = letters.map(|byte| char::from(*byte)).take(10).collect();
    // Random letters hold no two dashes in so few.
    match start.rfind('-') {
        Some(end) if start.matches('-').count() >= 2 => start[..=end].to_owned(),
        _ => "(random)".to_owned(),
    }
}

fn percent_decode(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
            if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                out.push(byte);
                rest = &after[2..];
                continue;
            }
        }
        out.push(byte);
    }
    out
}

async fn udp_tracker(socket: LocalUdp, tracker: Arc<UdpTracker>, shared: Arc<Shared>) {
    let mut buf = [0; DATAGRAM];
    loop {
        let Ok((len, from)) = socket.recv_from(&mut buf).await else {
            continue;
        };
        let Some((answer, announce)) = tracker.handle(from, &buf[..len]) else {
            continue;
        };
        shared.note("UDP tracker", from.ip(), |party| {
            if let Some(announce) = &announce {
                party.said("port", announce.port.to_string());
                party.said("key", format!("{:08x}", announce.key));
                party.said("peer id", start_of_id(&announce.peer_id));
            }
        });
        if announce.is_some_and(|announce| is_own(announce.ip.into())) {
            shared.told_own_address("the IP field to the UDP tracker");
        }
        let _ = socket.send_to(&answer, from).await;
    }
}

async fn dht(socket: LocalUdp, nodes: Arc<Mutex<Nodes>>, number: usize, shared: Arc<Shared>) {
    let mut buf = [0; DATAGRAM];
    loop {
        let Ok((len, from)) = socket.recv_from(&mut buf).await else {
            continue;
        };
        let Some((answer, asked)) = lock(&nodes).handle(number, from, &buf[..len]) else {
            continue;
        };
        let mut own_id = false;
        shared.note("DHT nodes", from.ip(), |party| {
            let Some(asked) = &asked else { return };
            party.said("queries", asked.method.clone());
            if let Some(version) = &asked.version {
                let letters = version
                    .iter()
                    .take_while(|byte| byte.is_ascii_alphanumeric());
                party.said(
                    "program",
                    letters.map(|b| char::from(*b)).collect::<String>(),
                );
            }
            if let Some(port) = asked.port {
                party.said("port", port.to_string());
            }
            // Exits have IPv6 addresses of the program's own network here, whose first half is all that an id tells.
            let is_exits = !is_own(from.ip()) && is_from(&asked.id, from.ip());
            own_id = is_from(&asked.id, addresses::YOU_V4.into())
                || (is_from(&asked.id, addresses::YOU_V6.into()) && !is_exits);
            let kind = if own_id {
                "made from its address"
            } else {
                "not from its address"
            };
            party.said("node ids", kind);
        });
        if own_id {
            shared.told_own_address("a node id made from it (BEP 42) to the DHT");
        }
        let _ = socket.send_to(&answer, from).await;
    }
}

async fn seeder(listener: LocalListener, content: Arc<Content>, shared: Arc<Shared>) {
    while let Ok(accepted) = listener.accept().await {
        let Some(from) = accepted.from else { continue };
        shared.note("seeding peer", from.ip(), |_| {});
        let (near, far) = tokio::io::duplex(CHUNK);
        content.seed.accept(Box::new(near));
        tokio::spawn(carry(accepted.stream, far, from.ip(), Arc::clone(&shared)));
    }
}

/// Carries a peer's connection to the engine and back, reads along, and keeps the pace.
async fn carry(
    stream: BoxStream,
    engine: tokio::io::DuplexStream,
    from: IpAddr,
    shared: Arc<Shared>,
) {
    let (mut from_peer, mut to_peer) = tokio::io::split(stream);
    let (mut from_engine, mut to_engine) = tokio::io::split(engine);
    let inwards = async {
        let (mut peek, mut buf) = (Peek::default(), vec![0; CHUNK]);
        while let Ok(n) = from_peer.read(&mut buf).await {
            if n == 0 || to_engine.write_all(&buf[..n]).await.is_err() {
                break;
            }
            if peek.read(&buf[..n]) {
                note_peer(&shared, from, &peek);
            }
        }
        let _ = to_engine.shutdown().await;
    };
    let outwards = async {
        let mut buf = vec![0; CHUNK];
        while let Ok(n) = from_engine.read(&mut buf).await {
            shared.serve(n).await;
            if n == 0 || to_peer.write_all(&buf[..n]).await.is_err() {
                break;
            }
        }
        let _ = to_peer.shutdown().await;
    };
    tokio::join!(inwards, outwards);
}

fn note_peer(shared: &Shared, from: IpAddr, peek: &Peek) {
    let said = peek.said();
    {
        let mut learned = lock(&shared.learned);
        let party = learned
            .parties
            .entry("seeding peer".to_owned())
            .or_default();
        debug_assert!(party.from.contains(&addresses::name(from)));
        if let Some(id) = &said.peer_id {
            party.said("peer id", start_of_id(id));
        }
        for key in &said.keys {
            party.said("handshake keys", key.clone());
        }
        if let Some(version) = &said.version {
            party.said("program", version.clone());
        }
        if let Some(port) = said.port {
            party.said("port", port.to_string());
        }
    }
    if said.own.iter().any(|ip| is_own(*ip)) {
        shared.told_own_address("ipv4/ipv6 of the handshake to the seeding peer");
    }
}

async fn mirror(listener: LocalListener, content: Arc<Content>, shared: Arc<Shared>) {
    while let Ok(Accepted {
        mut stream, from, ..
    }) = listener.accept().await
    {
        let Some(from) = from else { continue };
        let (content, shared) = (Arc::clone(&content), Arc::clone(&shared));
        tokio::spawn(async move {
            shared.note("web server", from.ip(), |_| {});
            if let Ok(Some(head)) = tokio::time::timeout(HEAD_TIME, read_head(&mut stream)).await {
                let head = String::from_utf8_lossy(&head).into_owned();
                shared.note("web server", from.ip(), |party| {
                    if let Some(agent) = header(&head, "user-agent") {
                        party.said("program", agent.chars().take(48).collect::<String>());
                    }
                });
                // A client that is gone needs no answer.
                let _ = give_file(&mut stream, &head, &content, &shared).await;
                let _ = stream.shutdown().await;
            }
        });
    }
}

/// The part of a file that a `Range` header asks for (RFC 9110 §14): start and length.
fn range(header: Option<&str>, len: u64) -> Option<(u64, u64)> {
    let (from, to) = header?.strip_prefix("bytes=")?.split_once('-')?;
    let start = from.parse::<u64>().ok().filter(|start| *start < len)?;
    let end = to.parse::<u64>().map_or(len - 1, |end| end.min(len - 1));
    (start <= end).then(|| (start, end - start + 1))
}

async fn give_file(
    stream: &mut BoxStream,
    head: &str,
    content: &Content,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let (method, path) = (words.next(), words.next().unwrap_or_default());
    if path.trim_start_matches('/') != content.name || !matches!(method, Some("GET" | "HEAD")) {
        let none = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return stream.write_all(none.as_bytes()).await;
    }
    let mut file = tokio::fs::File::open(&content.file).await?;
    let len = file.metadata().await?.len();
    let part = range(header(head, "range"), len);
    let (start, mut left) = part.unwrap_or((0, len));
    let status = match part {
        Some(_) => format!(
            "206 Partial Content\r\nContent-Range: bytes {start}-{}/{len}",
            start + left - 1
        ),
        None => "200 OK".to_owned(),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {left}\r\nAccept-Ranges: bytes\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    if method == Some("HEAD") {
        return Ok(());
    }
    file.seek(std::io::SeekFrom::Start(start)).await?;
    let mut buf = vec![0; CHUNK];
    while left > 0 {
        let want = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        let n = file.read(&mut buf[..want]).await?;
        if n == 0 {
            break;
        }
        shared.serve(n).await;
        stream.write_all(&buf[..n]).await?;
        left -= n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announce_gives_away_keys_program_and_own_address() {
        let shared = Shared::new(None);
        note_announce(
            &shared,
            addresses::YOU_V4.into(),
            "GET /announce?info_hash=%01&peer_id=-TR3000-%00&port=5&ipv6=2a77%3A33%3A%3A2 HTTP/1.1\r\nUser-Agent: Foo\r\n\r\n",
        );
        let learned = shared.learned();
        let party = &learned.parties["HTTP tracker"];
        assert!(party.from.contains("you"));
        assert!(party.said["peer id"].contains("-TR3000-"));
        assert!(party.said["keys"].contains("ipv6") && party.said["program"].contains("Foo"));
        assert_eq!(learned.own_address.len(), 1);
    }

    #[test]
    fn ranges_are_cut_to_the_file() {
        for (text, part) in [
            ("bytes=0-9", Some((0, 10))),
            ("bytes=90-", Some((90, 10))),
            ("bytes=90-1000", Some((90, 10))),
            ("bytes=100-", None),
            ("bytes=9-8", None),
            ("bytes=-5", None),
            ("lines=1-2", None),
        ] {
            assert_eq!(range(Some(text), 100), part, "{text}");
        }
    }

    #[test]
    fn ids_show_the_program_or_nothing() {
        assert_eq!(start_of_id(b"-qB4520-abcdefghijkl"), "-qB4520-");
        assert_eq!(start_of_id(b"A2-1-36-0-\x7a\xcc..abcdef"), "A2-1-36-0-");
        assert_eq!(start_of_id(&[7; 20]), "(random)");
        assert_eq!(percent_decode("%2dqB%zz%4"), b"-qB%zz%4");
    }
}
