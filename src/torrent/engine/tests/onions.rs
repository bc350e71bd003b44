//! Onion peers tell each other of more: who is named, who is not, and what others see of it.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::*;
use crate::bencode;
use crate::torrent::extension::{self, Exchange, HS_ONIONS};
use crate::torrent::gossip::Onions;
use crate::torrent::wire::{Decoder, HANDSHAKE_LEN, Handshake, MessageRef};

pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// Streams to the one onion service of a link. On the first of them we gossip.
pub(super) const STREAMS: usize = 8;

fn onion(n: u32) -> OnionPeer {
    let mut key = [9; 32];
    key[..4].copy_from_slice(&n.to_be_bytes());
    OnionPeer::new(crate::onion::OnionKey(key), 6881).unwrap()
}

impl Bench {
    /// An engine that gossips.
    fn onion_engine(&self, name: &str) -> Engine {
        let options = Options {
            gossip: true,
            encryption: Encryption::Off,
            ..Options::new(self.path(&format!("state-{name}")))
        };
        Engine::new(Arc::new(View(Arc::clone(&self.world))), options)
    }

    /// An open onion seed.
    fn onion_seed(&self, at: OnionPeer) -> Handle {
        let seed = self
            .onion_engine(&at.host())
            .seed(self.without_trackers(), self.path("source"));
        self.world.listen_onion(at, &seed);
        seed
    }

    pub(super) fn without_trackers(&self) -> Metainfo {
        Metainfo {
            trackers: Vec::new(),
            ..self.metainfo.clone()
        }
    }

    /// A download by a link that names these onion services and no tracker, which goes on giving.
    fn onion_job(&self, name: &str, peers: &[OnionPeer]) -> Job {
        let magnet = Magnet {
            hash: self.metainfo.info.hash,
            v2: None,
            name: None,
            trackers: Vec::new(),
            peers: peers.iter().map(|peer| peer.to_target().unwrap()).collect(),
            seeds: Vec::new(),
            select: None,
            web_seeds: Vec::new(),
        };
        Job {
            source: Source::Magnet(magnet),
            seed_after: true,
            ..self.job(name)
        }
    }

    fn onion_get(&self, name: &str, peers: &[OnionPeer]) -> Handle {
        let job = self.onion_job(name, peers);
        self.onion_engine(name).download(job)
    }

    /// Somebody comes who gives the metadata, and nothing else where `silent`.
    pub(super) fn visit_with_metadata(&self, handle: &Handle, silent: bool) {
        let script = Script {
            silent,
            ..self.honest()
        };
        let (near, far) = tokio::io::duplex(64 << 10);
        handle.accept(Box::new(far));
        tokio::spawn(Arc::new(script).run_as(Box::new(near), true));
    }

    /// A peer that says what it is told to say, and remembers what it heard.
    fn talker(&self, offers: bool, says: &[(Duration, Onions)]) -> Arc<Talker> {
        let offers = if offers {
            Exchange::Onions
        } else {
            Exchange::Nobody
        };
        let says = says.iter();
        let says = says.map(|(at, onions)| (*at, HS_ONIONS, onions.encode()));
        self.talker_of(offers, says.collect())
    }

    /// The same, of whatever it tells: extension messages, each with its time and id.
    pub(super) fn talker_of(
        &self,
        offers: Exchange,
        says: Vec<(Duration, u8, Vec<u8>)>,
    ) -> Arc<Talker> {
        Arc::new(Talker {
            hash: self.metainfo.info.hash,
            offers,
            says,
            heard: Mutex::default(),
            ended: AtomicUsize::new(0),
            hang_up: Notify::new(),
        })
    }
}

pub(super) struct Talker {
    hash: InfoHash,
    offers: Exchange,
    says: Vec<(Duration, u8, Vec<u8>)>,
    /// Extension messages: id, payload.
    heard: Mutex<Vec<(u8, Vec<u8>)>>,
    /// Connections that the other side ended.
    pub(super) ended: AtomicUsize,
    /// Ends its connections.
    hang_up: Notify,
}

impl Talker {
    pub(super) fn listen(self: &Arc<Self>) -> impl Fn(BoxStream) + Send + Sync + 'static {
        let talker = Arc::clone(self);
        move |stream| {
            tokio::spawn(Arc::clone(&talker).talk(stream));
        }
    }

    /// Comes to the onion service behind this door.
    pub(super) fn visit(self: &Arc<Self>, handle: &Handle) {
        self.visit_at(&handle.onion_door());
    }

    /// Comes to this door.
    pub(super) fn visit_at(self: &Arc<Self>, door: &OnionDoor) {
        let (near, far) = tokio::io::duplex(64 << 10);
        door.accept(Box::new(far));
        tokio::spawn(Arc::clone(self).talk(Box::new(near)));
    }

    /// Comes to an address that the public swarm knows.
    pub(super) fn visit_publicly(self: &Arc<Self>, handle: &Handle) {
        let (near, far) = tokio::io::duplex(64 << 10);
        handle.accept(Box::new(far));
        tokio::spawn(Arc::clone(self).talk(Box::new(near)));
    }

    async fn talk(self: Arc<Self>, mut stream: BoxStream) {
        let mut out = Handshake::new(self.hash, [6; 20]).encode().to_vec();
        let payload = extension::handshake(None, self.offers);
        let id = extension::HANDSHAKE;
        let payload = &payload;
        MessageRef::Extended { id, payload }.encode(&mut out);
        stream.write_all(&out).await.unwrap();
        let mut hello = [0; HANDSHAKE_LEN];
        if stream.read_exact(&mut hello).await.is_err() {
            return;
        }
        let start = tokio::time::Instant::now();
        let mut says = self.says.iter();
        let mut next = says.next();
        let mut decoder = Decoder::new();
        let mut buf = vec![0; 4096];
        loop {
            let due = next.map_or(MINUTE, |(at, ..)| {
                (start + *at).saturating_duration_since(tokio::time::Instant::now())
            });
            tokio::select! {
                () = self.hang_up.notified() => return,
                read = stream.read(&mut buf) => {
                    let len = read.unwrap_or(0);
                    if len == 0 {
                        self.ended.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    decoder.feed(&buf[..len]);
                }
                () = tokio::time::sleep(due) => {
                    let mut out = Vec::new();
                    match next {
                        Some((_, id, payload)) => {
                            MessageRef::Extended { id: *id, payload }.encode(&mut out);
                        }
                        None => MessageRef::KeepAlive.encode(&mut out),
                    }
                    let _ = stream.write_all(&out).await;
                    next = says.next();
                }
            }
            while let Ok(Some(message)) = decoder.next() {
                if let MessageRef::Extended { id, payload } = message {
                    self.heard.lock().unwrap().push((id, payload.to_vec()));
                }
            }
        }
    }

    /// The extension handshakes that came.
    pub(super) fn handshakes(&self) -> Vec<Vec<u8>> {
        self.heard_of(extension::HANDSHAKE)
    }

    /// The extension messages with this id that came.
    pub(super) fn heard_of(&self, id: u8) -> Vec<Vec<u8>> {
        let heard = self.heard.lock().unwrap();
        let messages = heard.iter().filter(|(other, _)| *other == id);
        messages.map(|(_, payload)| payload.clone()).collect()
    }

    /// The messages about onion peers that came.
    pub(super) fn onions(&self) -> Vec<Onions> {
        let heard = self.heard_of(HS_ONIONS).into_iter();
        heard
            .map(|payload| Onions::parse(&payload).unwrap())
            .collect()
    }
}

fn added(range: std::ops::Range<u32>) -> Onions {
    Onions {
        added: range.map(onion).collect(),
        ..Onions::default()
    }
}

fn me(n: u32) -> Onions {
    Onions {
        me: Some(onion(n)),
        ..Onions::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_swarm_outlives_the_seed_that_everybody_was_told_of() {
    let bench = Bench::new().await;
    let seed = bench.onion_seed(onion(1));
    let first = bench.onion_get("first", &[onion(1)]);
    bench.world.listen_onion(onion(2), &first);
    until(&first, |p| p.state == State::Seeding).await;
    // Another one comes, which has nothing yet: the seed's disk is too slow.
    tokio::time::sleep(2 * MINUTE).await;
    let talker = bench.talker(true, &[]);
    talker.visit(&seed);
    tokio::time::sleep(MINUTE).await;
    assert_eq!(talker.onions(), [added(2..3)], "the seed names the first");
    seed.stop().await;
    bench.world.remove_onion(onion(1));

    // Who knew only the seed, and heard of the first from it.
    let told = bench.talker(true, &[(Duration::from_secs(1), added(2..3))]);
    bench.world.onion(onion(1), told.listen());
    let second = bench.onion_get("second", &[onion(1)]);
    bench.visit_with_metadata(&second, true);
    bench.world.listen_onion(onion(3), &second);
    until(&second, |p| p.state == State::Seeding).await;
    bench.assert_complete("second");
    // The two find each other's address good to tell, and tell it.
    tokio::time::sleep(2 * MINUTE).await;
    let late = bench.talker(true, &[]);
    late.visit(&first);
    tokio::time::sleep(MINUTE).await;
    let heard: BTreeSet<OnionPeer> = late.onions().into_iter().flat_map(|o| o.added).collect();
    assert!(heard.contains(&onion(3)), "{}", heard.len());
}

#[tokio::test(start_paused = true)]
async fn downloaders_give_to_each_other_what_only_one_of_them_can_get() {
    let bench = Bench::new().await;
    // Somebody whom all know, and who has nothing.
    let meeting = bench.onion_get("meeting", &[]);
    bench.world.listen_onion(onion(1), &meeting);
    let one = bench.onion_get("one", &[onion(1)]);
    bench.world.listen_onion(onion(2), &one);
    let two = bench.onion_get("two", &[onion(1)]);
    bench.world.listen_onion(onion(3), &two);
    for handle in [&meeting, &one, &two] {
        bench.visit_with_metadata(handle, true);
    }
    // The meeting point sees whether they are there, and names them; they call each other.
    while [&one, &two]
        .iter()
        .any(|handle| handle.progress().borrow().known < 2)
    {
        tokio::time::sleep(MINUTE).await;
    }
    tokio::time::sleep(MINUTE).await;
    meeting.stop().await;
    bench.world.remove_onion(onion(1));
    // Only the first hears of a seed.
    let seed = bench.onion_seed(onion(4));
    drop(one);
    let one = bench.onion_get("one", &[onion(4)]);
    bench.world.listen_onion(onion(2), &one);
    until(&one, |p| p.state == State::Seeding).await;
    drop(seed);
    bench.world.remove_onion(onion(4));
    until(&two, |p| p.state == State::Seeding).await;
    bench.assert_complete("two");
    // The snapshot is of the last second.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let uploaded = one.progress().borrow().uploaded;
    assert!(uploaded >= bench.total(), "{uploaded} of {}", bench.total());
}

#[tokio::test(start_paused = true)]
async fn who_came_to_us_is_dialled_once_to_see_whether_it_is_where_it_says() {
    let bench = Bench::new().await;
    let seed = bench.onion_seed(onion(1));
    let honest = bench.talker(true, &[(Duration::ZERO, me(2))]);
    bench.world.onion(onion(2), honest.listen());
    let liar = bench.talker(true, &[(Duration::ZERO, me(3))]);
    let other = bench.talker(true, &[]);
    for talker in [&honest, &liar, &other] {
        talker.visit(&seed);
    }
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(bench.world.calls_to_onion(onion(2)), 1);
    assert_eq!(
        honest.ended.load(Ordering::Relaxed),
        1,
        "one connection does"
    );
    assert_eq!(
        other.onions(),
        [added(2..3)],
        "whom nobody met is not named"
    );
    assert_eq!(liar.onions(), [added(2..3)]);
    assert_eq!(honest.onions(), [me(1)]);
    assert!(bench.world.calls_to_onion(onion(3)) <= 5, "it is forgotten");
}

#[tokio::test(start_paused = true)]
async fn who_says_to_be_another_takes_nothing_from_that_one() {
    let bench = Bench::new().await;
    // The seed has the greater key, or the lesser.
    for (own, honest) in [(5, 4), (5, 6)] {
        let seed = bench.onion_seed(onion(own));
        let real = bench.talker(true, &[]);
        bench.world.onion(onion(honest), real.listen());
        let liar = bench.talker(true, &[(Duration::ZERO, me(honest))]);
        liar.visit(&seed);
        let before = bench.world.calls_to_onion(onion(honest));
        tokio::time::sleep(10 * MINUTE).await;
        assert_eq!(real.ended.load(Ordering::Relaxed), 0, "it stays connected");
        assert_eq!(real.onions(), [me(own)], "and is told who called");
        assert_eq!(bench.world.calls_to_onion(onion(honest)), before + 1);
        // It goes: though the liar stays, it is called when it is there again.
        bench.world.remove_onion(onion(honest));
        real.hang_up.notify_waiters();
        tokio::time::sleep(10 * MINUTE).await;
        bench.world.onion(onion(honest), real.listen());
        tokio::time::sleep(20 * MINUTE).await;
        assert_eq!(real.onions(), [me(own), me(own)]);
        seed.stop().await;
        let _ = std::fs::remove_dir_all(bench.path(&format!("state-{}", onion(own).host())));
    }
}

#[tokio::test(start_paused = true)]
async fn two_that_call_each_other_keep_exactly_one_connection() {
    let bench = Bench::new().await;
    let one = bench.onion_get("one", &[onion(2)]);
    let two = bench.onion_get("two", &[onion(1)]);
    bench.world.listen_onion(onion(1), &one);
    bench.world.listen_onion(onion(2), &two);
    for handle in [&one, &two] {
        bench.visit_with_metadata(handle, true);
    }
    tokio::time::sleep(150 * MINUTE).await;
    let calls = || [1, 2].map(|n| bench.world.calls_to_onion(onion(n)));
    let before = calls();
    tokio::time::sleep(60 * MINUTE).await;
    let after = calls();
    assert_eq!(before[1], after[1], "the lesser key's own connection stays");
    assert!(after[0] - before[0] <= 3, "the other one backs off");
    let connected = |handle: &Handle| handle.progress().borrow().connected;
    // All that each opened, but the first of one of them.
    assert_eq!([connected(&one), connected(&two)], [2 * STREAMS - 1; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_liar_costs_a_bounded_number_of_calls_and_hinders_nobody() {
    let bench = Bench::new().await;
    let says: Vec<(Duration, Onions)> = (0..20)
        .map(|n| (n * MINUTE, added(100 + 50 * n..150 + 50 * n)))
        .collect();
    let liar = bench.talker(true, &says);
    bench.world.onion(onion(1), liar.listen());
    let get = bench.onion_get("out", &[onion(1)]);
    bench.visit_with_metadata(&get, true);
    bench.world.listen_onion(onion(7), &get);
    tokio::time::sleep(25 * MINUTE).await;
    assert!(get.progress().borrow().known <= 201);
    tokio::time::sleep(3 * 60 * MINUTE).await;
    {
        let calls = bench.world.onion_calls.lock().unwrap();
        let named: BTreeSet<&Target> = calls.iter().collect();
        assert!((51..=201).contains(&named.len()), "{}", named.len());
        let lies = calls
            .iter()
            .filter(|to| **to != onion(1).to_target().unwrap());
        assert!(lies.count() <= 200 * 4);
    }
    assert_eq!(get.progress().borrow().known, 1, "lies are forgotten");
    assert_eq!(liar.onions(), [me(7)], "and not passed on");
    let seed = bench.onion_seed(onion(2));
    let honest = bench.talker(true, &[(Duration::ZERO, added(2..3))]);
    honest.visit(&get);
    until(&get, |p| p.state == State::Seeding).await;
    drop(seed);
}

#[tokio::test(start_paused = true)]
async fn liars_together_do_not_keep_out_whom_an_honest_peer_names() {
    let bench = Bench::new().await;
    // What they name answers, and has something else.
    let mut decoy = Arc::into_inner(bench.talker(true, &[])).unwrap();
    decoy.hash = InfoHash([0x77; 20]);
    let decoy = Arc::new(decoy);
    for n in 1000..9000 {
        bench.world.onion(onion(n), decoy.listen());
    }
    let get = bench.onion_get("out", &[]);
    bench.visit_with_metadata(&get, true);
    bench.world.listen_onion(onion(7), &get);
    let liars: Vec<_> = (0..20)
        .map(|liar| {
            let says: Vec<(Duration, Onions)> = (0..4)
                .map(|n| {
                    let first = 1000 + 200 * liar + 50 * n;
                    (n * MINUTE, added(first..first + 50))
                })
                .collect();
            bench.talker(true, &says)
        })
        .collect();
    for liar in &liars {
        liar.visit(&get);
    }
    tokio::time::sleep(5 * MINUTE).await;
    let seed = bench.onion_seed(onion(2));
    let honest = bench.talker(true, &[(Duration::ZERO, added(2..3))]);
    let more: Vec<(Duration, Onions)> = (0..4)
        .map(|n| (n * MINUTE, added(6000 + 50 * n..6050 + 50 * n)))
        .collect();
    let more = bench.talker(true, &more);
    more.visit(&get);
    honest.visit(&get);
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(get.progress().borrow().state, State::Seeding);
    drop(seed);
}

#[tokio::test(start_paused = true)]
async fn who_floods_or_breaks_the_rules_is_closed_and_left_alone() {
    let second = Duration::from_secs(1);
    let flood: Vec<(Duration, Onions)> = (0..5).map(|n| (n * second, added(0..0))).collect();
    let two_names = vec![(second, me(8)), (2 * second, me(9))];
    let too_many = vec![(second, added(0..51))];
    for (says, dialled) in [(flood, true), (two_names, false), (too_many, true)] {
        let bench = Bench::new().await;
        let talker = bench.talker(true, &says);
        bench.world.onion(onion(1), talker.listen());
        let get = if dialled {
            bench.onion_get("out", &[onion(1)])
        } else {
            let get = bench.onion_get("out", &[]);
            talker.visit(&get);
            get
        };
        tokio::time::sleep(10 * MINUTE).await;
        assert_eq!(talker.ended.load(Ordering::Relaxed), 1);
        let calls = bench.world.calls_to_onion(onion(1));
        let streams = if dialled { STREAMS } else { 0 };
        assert_eq!(calls, streams, "a fault: much later, if at all");
        drop(get);
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_service_and_who_does_not_gossip_are_not_named() {
    let bench = Bench::new().await;
    // As a service that lets in only some: it gossips not.
    let closed = bench
        .engine("closed")
        .seed(bench.without_trackers(), bench.path("source"));
    bench.world.listen_onion(onion(1), &closed);
    let get = bench.onion_get("out", &[onion(1)]);
    bench.world.listen_onion(onion(2), &get);
    until(&get, |p| p.state == State::Seeding).await;
    let silent = bench.talker(false, &[(Duration::ZERO, me(5))]);
    bench.world.onion(onion(5), silent.listen());
    silent.visit(&get);
    let curious = bench.talker(true, &[]);
    curious.visit(&get);
    let knocking = bench.talker(true, &[(Duration::ZERO, added(6..7))]);
    knocking.visit(&closed);
    tokio::time::sleep(30 * MINUTE).await;
    assert_eq!(curious.onions(), []);
    assert_eq!(knocking.onions(), []);
    assert_eq!(silent.onions(), []);
    for n in [5, 6] {
        assert_eq!(bench.world.calls_to_onion(onion(n)), 0);
    }
    let offer = bencode_name();
    for payload in knocking.handshakes() {
        assert!(!payload.windows(offer.len()).any(|part| part == offer));
    }
}

fn bencode_name() -> Vec<u8> {
    let mut name = Vec::new();
    bencode::put_bytes(&mut name, crate::torrent::gossip::NAME);
    name
}

#[tokio::test(start_paused = true)]
async fn private_torrents_stay_silent() {
    let bench = Bench::with(true).await;
    assert!(bench.metainfo.info.private);
    let says = [(Duration::ZERO, added(20..30))];
    let seed = bench.onion_seed(onion(1));
    let early = bench.talker(true, &says);
    early.visit(&seed);
    // By a link it is not known at first that it is private.
    let known = bench.talker(true, &says);
    bench.world.onion(onion(2), known.listen());
    let job = Job {
        seed_after: true,
        ..bench.onion_job("out", &[onion(2)])
    };
    let get = bench.onion_engine("out").download(job);
    bench.world.listen_onion(onion(3), &get);
    tokio::time::sleep(MINUTE).await;
    let offer = extension::handshake(None, Exchange::Onions);
    let offers = known.handshakes();
    assert_eq!(offers.iter().filter(|said| **said == offer).count(), 1);
    assert_eq!(offers.len(), STREAMS);
    assert_eq!(known.onions(), []);
    bench.visit_with_metadata(&get, false);
    until(&get, |p| p.state == State::Seeding).await;
    let visitor = bench.talker(true, &says);
    visitor.visit(&get);
    tokio::time::sleep(30 * MINUTE).await;
    for talker in [&early, &known, &visitor] {
        assert_eq!(talker.onions(), []);
    }
    let plain = extension::handshake(None, Exchange::Nobody);
    for talker in [&early, &visitor] {
        assert_eq!(talker.handshakes(), std::slice::from_ref(&plain));
    }
    for n in 20..30 {
        assert_eq!(bench.world.calls_to_onion(onion(n)), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn peers_of_the_public_swarm_see_no_difference() {
    let bench = Bench::new().await;
    let talker = bench.talker(true, &[(Duration::ZERO, added(20..30))]);
    bench.world.listen_with("11.0.0.1:7000", talker.listen());
    let visitor = bench.talker(true, &[(Duration::ZERO, me(21))]);
    let job = Job {
        seed_after: true,
        ..bench.magnet_job("out")
    };
    let get = bench.onion_engine("out").download(job);
    bench.world.listen_onion(onion(1), &get);
    visitor.visit_publicly(&get);
    tokio::time::sleep(5 * MINUTE).await;
    for talker in [&talker, &visitor] {
        let heard = talker.heard.lock().unwrap();
        let plain = (
            extension::HANDSHAKE,
            extension::handshake(None, Exchange::Public),
        );
        assert_eq!(*heard, [plain]);
    }
    assert!(bench.world.onion_calls.lock().unwrap().is_empty());
}
