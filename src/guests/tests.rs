//! Guests at a way out that counts what is asked of it.
#![allow(clippy::unwrap_used)]

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hushswarm_circuits::keys::RelayId;
use hushswarm_circuits::rendezvous::{IntroductionId, Point};
use hushswarm_circuits::target::Target;

use super::*;
use crate::net::{BoxFuture, Datagrams};
use crate::route::{At, Meet, Met, RouteError};
use crate::torrent::tracker::AnnounceResponse;
use crate::torrent::wire::Handshake;

const HASH: [u8; 20] = [b'h'; 20];

/// Nothing is reached by it.
#[derive(Default)]
struct Counting {
    /// Introductions that were asked for, as visitors do.
    visits: AtomicUsize,
    /// They are never answered.
    hangs: AtomicBool,
    /// Streams to anything else.
    streams: AtomicUsize,
    /// Where datagrams were sent.
    datagrams: Arc<Mutex<Vec<Target>>>,
}

struct Flow(Arc<Mutex<Vec<Target>>>);

impl Datagrams for Flow {
    fn send(&self, to: &Target, _: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().push(to.clone());
        Ok(())
    }

    fn recv(&self) -> BoxFuture<'_, io::Result<(Target, Vec<u8>)>> {
        Box::pin(std::future::pending())
    }
}

impl Outside for Counting {
    fn connect<'a>(
        &'a self,
        _: &'a Target,
        _: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Err(RouteError::Refused) })
    }

    fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        let flow = Flow(Arc::clone(&self.datagrams));
        Box::pin(async { Ok(Box::new(flow) as Box<dyn Datagrams>) })
    }

    fn meet<'a>(
        &'a self,
        at: At,
        _: Meet<'a>,
        _: Isolation,
    ) -> BoxFuture<'a, Result<Met, RouteError>> {
        // Who visits this peer waits anywhere but at its introduction point. Guests that look for introduction points go there too.
        let but = RelayId([1; 32]);
        if at == (At::Any { but: vec![but] }) {
            self.visits.fetch_add(1, Ordering::Relaxed);
            if self.hangs.load(Ordering::Relaxed) {
                return Box::pin(std::future::pending());
            }
        }
        Box::pin(async { Err(RouteError::Refused) })
    }
}

struct Nobody;

impl Doorstep for Nobody {
    fn connect(&self, _: Ipv4Addr, _: u16) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }
}

struct Scene {
    world: Arc<Counting>,
    guests: Arc<Guests>,
    route: Arc<dyn Outside>,
}

impl Scene {
    fn new() -> Self {
        Self::where_clients(true)
    }

    /// Clients are hosted, or not.
    fn where_clients(hosted: bool) -> Self {
        let world = Arc::new(Counting::default());
        let outside: Arc<dyn Outside> = Arc::<Counting>::clone(&world);
        let at = "127.0.0.1:6969".parse().unwrap();
        let guests = Guests::new(Options {
            outside: Arc::clone(&outside),
            hosting: hosted.then(|| Hosting {
                doorstep: Arc::new(Nobody),
                closed: Vec::new(),
                tell: Arc::new(|_| {}),
            }),
            dht: None,
            tracker: Tracker::new(at, tracker::Token::new([7; 16])),
        });
        let route = guests.route(outside);
        Self {
            world,
            guests,
            route,
        }
    }

    /// Announces, by a URL that names these seeds.
    fn announce(&self, hash: [u8; 20], port: u16, seeds: &[Contact], more: &str) -> Vec<IpAddr> {
        let magnet = Magnet {
            hash: InfoHash(hash),
            v2: None,
            name: None,
            trackers: Vec::new(),
            peers: Vec::new(),
            seeds: seeds.to_vec(),
            select: None,
            web_seeds: Vec::new(),
        };
        let url = self.guests.options.tracker.link(&magnet).trackers.remove(0);
        let rest = url.strip_prefix("http://127.0.0.1:6969").unwrap();
        let hash: String = hash.iter().map(|byte| format!("%{byte:02x}")).collect();
        let id = "i".repeat(20);
        let head = format!(
            "GET {rest}&info_hash={hash}&peer_id={id}&port={port}&left=1{more} HTTP/1.1\r\nHost: 127.0.0.1:6969"
        );
        let response = self.guests.handle(head.as_bytes());
        let at = response.windows(4).position(|end| end == b"\r\n\r\n");
        let said = AnnounceResponse::parse(&response[at.unwrap() + 4..]);
        let said = said.map(|said| said.peers).unwrap_or_default();
        said.iter().map(|peer| peer.ip()).collect()
    }

    /// Opens a stream to this address, and says this.
    async fn open(&self, ip: IpAddr, said: &[u8]) -> Result<BoxStream, RouteError> {
        let target = Target::ip(SocketAddr::new(ip, 6881));
        let mut stream = self.route.connect(&target, isolation()).await?;
        stream.write_all(said).await.unwrap();
        Ok(stream)
    }

    /// The same, and waits for its end.
    async fn say(&self, ip: IpAddr, said: &[u8]) -> Result<(), RouteError> {
        let mut stream = self.open(ip, said).await?;
        let end = stream.read(&mut [0; 1]).await;
        assert_eq!(end.unwrap_or(0), 0, "nobody is there to answer");
        Ok(())
    }

    fn visits(&self) -> usize {
        self.world.visits.load(Ordering::Relaxed)
    }

    /// Waits until so many visits were begun, and for those that should not be.
    async fn settle(&self, visits: usize) {
        while self.visits() < visits {
            tokio::task::yield_now().await;
        }
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(self.visits(), visits);
    }
}

fn isolation() -> Isolation {
    Isolation::new("test", b"", 0)
}

fn contact(key: u8) -> Contact {
    let point = Point {
        relay: RelayId([key; 32]),
        introduction: IntroductionId([key; 32]),
    };
    Contact::new([key; 32], vec![point]).unwrap()
}

fn handshake(hash: [u8; 20]) -> [u8; 68] {
    let handshake = Handshake {
        hash: InfoHash(hash),
        peer_id: [9; 20],
        reserved: [0; 8],
    };
    handshake.encode()
}

#[tokio::test(start_paused = true)]
async fn what_names_the_swarm_meets_the_peer_and_nothing_else_leaves() {
    let scene = Scene::new();
    let peers = scene.announce(HASH, 6881, &[contact(1), contact(2)], "");
    assert_eq!(peers.len(), 2);
    assert_ne!(peers[0], peers[1]);
    // Another torrent, an encrypted handshake, and a web request.
    for said in [&handshake([1; 20])[..], &[0x5a; 96], &[b'G'; 68]] {
        assert_eq!(scene.say(peers[0], said).await, Ok(()));
        assert_eq!(scene.visits(), 0, "it left");
    }
    assert_eq!(scene.say(peers[0], &handshake(HASH)).await, Ok(()));
    assert_eq!(scene.visits(), 1);
    assert_eq!(scene.world.streams.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn one_swarm_leaves_room_for_others_and_who_does_not_wait_makes_room() {
    let scene = Scene::new();
    scene.world.hangs.store(true, Ordering::Relaxed);
    let one = scene.announce(HASH, 6881, &[contact(1)], "")[0];
    let same_point = Contact::new([2; 32], contact(1).points().to_vec()).unwrap();
    let other = scene.announce([2; 20], 6881, &[same_point], "")[0];
    let mut streams = Vec::new();
    for _ in 0..=MAX_CALLS_TO_SWARM {
        streams.push(scene.open(one, &handshake(HASH)).await.unwrap());
    }
    scene.settle(MAX_CALLS_TO_SWARM).await;
    streams.push(scene.open(other, &handshake([2; 20])).await.unwrap());
    scene.settle(MAX_CALLS_TO_SWARM + 1).await;
    drop(streams.remove(0));
    scene.settle(MAX_CALLS_TO_SWARM + 2).await;
    // Those that say nothing wait, too.
    while streams.len() < MAX_WAITING {
        streams.push(scene.open(one, b"").await.unwrap());
    }
    let refused = scene.open(one, b"").await.err();
    assert_eq!(refused, Some(RouteError::Refused));
    drop(streams);
    scene.settle(MAX_CALLS_TO_SWARM + 2).await;
    let room = scene.guests.waiting.available_permits();
    assert_eq!(room, MAX_WAITING);
    let room = scene.guests.calls.available_permits();
    assert_eq!(room, MAX_CALLS);
}

#[tokio::test]
async fn a_virtual_address_that_nobody_has_leads_nowhere() {
    let scene = Scene::new();
    let IpAddr::V6(known) = scene.announce(HASH, 6881, &[contact(1)], "")[0] else {
        panic!("of IPv4");
    };
    for other in 1..128 {
        let unknown = Ipv6Addr::from(u128::from(known) ^ (other << 1));
        let refused = scene.say(unknown.into(), b"").await;
        assert_eq!(refused, Err(RouteError::Refused));
        let whose = scene.route.resolve_ptr(unknown.into(), isolation()).await;
        assert_eq!(whose, Err(RouteError::NameNotFound));
    }
    let flow = scene.route.datagrams(isolation()).await.unwrap();
    for ip in [known, Ipv6Addr::from(u128::from(known) ^ 2)] {
        let to = Target::ip(SocketAddr::new(ip.into(), 6881));
        assert!(flow.send(&to, b"utp").is_ok(), "lost, as datagrams are");
    }
    assert!(scene.world.datagrams.lock().unwrap().is_empty());
    assert_eq!(scene.world.streams.load(Ordering::Relaxed), 0);
    // Any other is none of ours: the gate judges it.
    let gone = scene.say("2001:db8::1".parse().unwrap(), b"").await;
    assert_eq!(gone, Err(RouteError::Refused));
    assert_eq!(scene.world.streams.load(Ordering::Relaxed), 1);
    let to = Target::parse("192.0.2.1", 6881).unwrap();
    flow.send(&to, b"utp").unwrap();
    assert_eq!(*scene.world.datagrams.lock().unwrap(), [to]);
}

#[tokio::test]
async fn who_leaves_or_says_nothing_for_long_is_forgotten_with_what_it_knew() {
    let scene = Scene::new();
    let peer = scene.announce(HASH, 6881, &[contact(1)], "")[0];
    // Another client of the same swarm keeps it.
    assert_eq!(scene.announce(HASH, 6882, &[], ""), [peer]);
    assert!(scene.announce(HASH, 6881, &[], "&event=stopped").is_empty());
    assert!(scene.guests.who(peer).is_some());
    assert!(scene.announce(HASH, 6882, &[], "&event=stopped").is_empty());
    assert_eq!(scene.guests.who(peer), None);
    assert!(
        scene.announce(HASH, 6881, &[], "").is_empty(),
        "a new guest"
    );

    let peer = scene.announce([2; 20], 6881, &[contact(2)], "")[0];
    let now = Instant::now();
    scene.guests.expire(now + INTERVAL * 2);
    assert!(scene.guests.who(peer).is_some());
    scene.guests.expire(now + GONE + Duration::from_secs(1));
    assert_eq!(scene.guests.who(peer), None);
    assert!(scene.guests.state().swarms.is_empty());
}

#[tokio::test]
async fn those_that_strangers_tell_of_leave_room_for_the_links_own_and_for_newer_ones() {
    let scene = Scene::new();
    scene.announce(HASH, 6881, &[contact(1)], "");
    let stranger = |n: usize| {
        let mut key = [0xaa; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        Contact::new(key, contact(1).points().to_vec()).unwrap()
    };
    let knows = |contact: &Contact| {
        let state = scene.guests.state();
        let swarm = &state.swarms[&HASH];
        assert!(swarm.known.len() <= MAX_KNOWN);
        let mut keys = swarm.known.iter().map(|known| known.key.0);
        keys.any(|key| key == contact.key)
    };
    let hear = |contact: &Contact| {
        let mut state = scene.guests.state();
        note(&mut state, &HASH, contact, false);
    };
    for n in 0..MAX_KNOWN {
        hear(&stranger(n));
    }
    assert!(knows(&contact(1)) && !knows(&stranger(0)) && knows(&stranger(MAX_KNOWN - 1)));
    // What a link names is not hearsay any more, and comes in where all is full.
    scene.announce(HASH, 6881, &[contact(2), stranger(1)], "");
    assert!(knows(&contact(2)) && knows(&stranger(1)));
    for n in 0..2 * MAX_KNOWN {
        hear(&stranger(MAX_KNOWN + n));
    }
    assert!(knows(&contact(1)) && knows(&contact(2)) && knows(&stranger(1)));
    assert!(!knows(&stranger(MAX_KNOWN - 1)) && knows(&stranger(3 * MAX_KNOWN - 1)));
}

#[tokio::test]
async fn a_peer_of_two_swarms_is_in_none_of_them_because_of_the_other_and_nobody_is_told_of_himself()
 {
    let scene = Scene::new();
    let one = scene.announce(HASH, 6881, &[contact(1)], "");
    let other = scene.announce([2; 20], 6881, &[contact(1)], "");
    assert_eq!((one.len(), other.len()), (1, 1));
    assert_ne!(one, other);
    let own = scene.guests.state().swarms[&HASH].guests[&6881]
        .stay
        .as_ref()
        .map(|stay| stay.key);
    let own = Contact::new(own.unwrap().0, contact(1).points().to_vec()).unwrap();
    assert_eq!(scene.announce(HASH, 6881, &[own], "").len(), 1);
}

#[tokio::test]
async fn who_comes_again_soon_is_the_same_seed_and_lets_nobody_in_meanwhile() {
    let scene = Scene::new();
    let stay = |guests: &Guests| {
        let state = guests.state();
        let guest = &state.swarms[&HASH].guests[&6881];
        let stay = guest.stay.as_ref().unwrap();
        (stay.key, Arc::clone(&stay.open))
    };
    scene.announce(HASH, 6881, &[], "");
    let (key, open) = stay(&scene.guests);
    for _ in 0..3 {
        assert!(open.load(Ordering::Relaxed));
        scene.announce(HASH, 6881, &[], "&event=stopped");
        assert!(!open.load(Ordering::Relaxed));
        scene.announce(HASH, 6881, &[], "");
        assert_eq!(stay(&scene.guests).0, key);
    }
    // Who visits finds nobody at the port: the next one is not led there before the client asks again.
    let watched = Watched {
        doorstep: Arc::new(Nobody),
        open: Arc::clone(&open),
    };
    let refused = watched.connect(Ipv4Addr::LOCALHOST, 6881).await;
    assert!(refused.is_err() && !open.load(Ordering::Relaxed));
    scene.announce(HASH, 6881, &[], "");
    assert!(open.load(Ordering::Relaxed));
    scene.announce(HASH, 6881, &[], "&event=stopped");
    scene.guests.expire(Instant::now() + GONE);
    assert!(scene.guests.state().swarms.is_empty());
    scene.announce(HASH, 6881, &[], "");
    assert_ne!(stay(&scene.guests).0, key);
}

#[tokio::test(start_paused = true)]
async fn many_torrents_at_once_become_hidden_seeds_one_after_another() {
    let scene = Scene::new();
    let many = BEGINS + 10;
    let hosted = |scene: &Scene| {
        let state = scene.guests.state();
        let guests = state
            .swarms
            .values()
            .flat_map(|swarm| swarm.guests.values());
        guests.filter(|guest| guest.stay.is_some()).count()
    };
    let all = || {
        for n in 0..many {
            scene.announce([u8::try_from(n).unwrap(); 20], 6881, &[], "");
        }
    };
    all();
    all();
    assert_eq!(hosted(&scene), BEGINS as usize);
    tokio::time::advance(BEGIN_EVERY * 3).await;
    all();
    assert_eq!(hosted(&scene), BEGINS as usize + 3);
    tokio::time::advance(BEGIN_EVERY * 30).await;
    all();
    assert_eq!(hosted(&scene), many as usize);
}

#[tokio::test]
async fn who_listens_nowhere_finds_others_and_is_found_by_nobody() {
    let scene = Scene::new();
    assert_eq!(scene.announce(HASH, 1, &[contact(1)], "").len(), 1);
    assert!(scene.guests.state().swarms[&HASH].guests[&1].stay.is_none());
    assert!(scene.announce(HASH, 1, &[], "&event=stopped").is_empty());
    assert!(scene.guests.state().swarms.is_empty());
}

#[tokio::test]
async fn where_nobody_is_hosted_clients_find_others_and_are_found_by_nobody() {
    let scene = Scene::where_clients(false);
    assert_eq!(scene.announce(HASH, 6881, &[contact(1)], "").len(), 1);
    let state = scene.guests.state();
    assert!(state.swarms[&HASH].guests[&6881].stay.is_none());
}

#[tokio::test]
async fn too_many_torrents_are_refused_and_those_that_stand_stay() {
    let scene = Scene::new();
    let hash = |n: usize| {
        let mut hash = [0; 20];
        hash[..8].copy_from_slice(&n.to_be_bytes());
        hash
    };
    for n in 0..MAX_GUESTS {
        scene.announce(hash(n), 6881, &[], "");
    }
    assert!(
        scene
            .announce(hash(MAX_GUESTS), 6881, &[contact(1)], "")
            .is_empty()
    );
    assert_eq!(scene.guests.state().swarms.len(), MAX_GUESTS);
    assert_eq!(scene.announce(hash(0), 6881, &[contact(1)], "").len(), 1);
    // Who has left gives way.
    scene.announce(hash(0), 6881, &[], "&event=stopped");
    let found = scene.announce(hash(MAX_GUESTS), 6881, &[contact(1)], "");
    assert_eq!(found.len(), 1);
    assert_eq!(scene.guests.state().swarms.len(), MAX_GUESTS);
}

#[tokio::test]
async fn a_program_that_sends_everything_by_its_proxy_finds_the_tracker_there() {
    let scene = Scene::new();
    for host in ["127.0.0.1", "localhost", "::1"] {
        let target = Target::parse(host, 6969).unwrap();
        let mut stream = scene.route.connect(&target, isolation()).await.unwrap();
        stream
            .write_all(b"GET /announce HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 403 Forbidden"), "{host}");
    }
    let other = Target::parse("127.0.0.1", 6970).unwrap();
    let refused = scene.route.connect(&other, isolation()).await.err();
    assert_eq!(refused, Some(RouteError::Refused));
}
