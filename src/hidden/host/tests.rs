//! Seeds in a network that may do what it wants: relays die, refuse, break the protocol and come back; all of it may go.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};

use data_encoding::HEXLOWER;
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::rendezvous::message::MAX_SEEN;
use hushswarm_circuits::rendezvous::wire::encode_record;
use hushswarm_circuits::rendezvous::{Meeting, Visitor};
use hushswarm_circuits::target::Target;
use rand::seq::IteratorRandom as _;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::route::{BoxFuture, BoxStream, Datagrams, Met};
use crate::state::StateDir;

const SWARM: [u8; 20] = *b"an infohash of twent";
/// Virtual time that an attempt takes.
const TAKES: Duration = Duration::from_millis(300);

#[derive(Default)]
struct State {
    relays: u8,
    dead: BTreeSet<u8>,
    refusing: BTreeSet<u8>,
    offline: bool,
    standing: HashMap<IntroductionId, (u8, mpsc::Sender<Vec<u8>>)>,
    isolations: BTreeSet<Isolation>,
    /// Each time a key came to a relay.
    came: Vec<(Instant, u8, IntroductionId)>,
    asked: usize,
    /// When somebody began to ask.
    begun: Vec<Instant>,
    /// When which seed began to take up a point.
    taken_up: Vec<(usize, Instant)>,
}

/// Relays, known by the first byte of their identities.
#[derive(Clone, Default)]
struct Net {
    /// Who asks, where there are several.
    seed: usize,
    state: Arc<Mutex<State>>,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

fn relay(n: u8) -> RelayId {
    RelayId([n; 32])
}

impl Net {
    fn new(relays: u8) -> Self {
        let net = Self::default();
        net.lock().relays = relays;
        net
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Ends the streams of a relay.
    fn cut(&self, n: u8) {
        self.lock().standing.retain(|_, (at, _)| *at != n);
    }

    fn kill(&self, n: u8) {
        self.lock().dead.insert(n);
        self.cut(n);
    }

    fn offline(&self, offline: bool) {
        let mut state = self.lock();
        state.offline = offline;
        if offline {
            state.standing.clear();
        }
    }

    /// What stands, as a contact says it.
    fn standing(&self) -> BTreeSet<Point> {
        let state = self.lock();
        let standing = state.standing.iter().filter(|(_, (_, to))| !to.is_closed());
        let points = standing.map(|(key, (at, _))| Point {
            relay: relay(*at),
            introduction: *key,
        });
        points.collect()
    }

    async fn ask(&self, at: At, meet: Meet<'_>) -> Result<Met, RouteError> {
        {
            let mut state = self.lock();
            state.asked += 1;
            state.begun.push(Instant::now());
            if matches!(meet, Meet::Introduction(_)) {
                state.taken_up.push((self.seed, Instant::now()));
            }
        }
        tokio::time::sleep(TAKES).await;
        let no_circuit = || RouteError::NoCircuit("none".to_owned());
        let mut state = self.lock();
        if state.offline {
            return Err(no_circuit());
        }
        let n = match at {
            At::Relay { id, .. } => id.0[0],
            At::Any { but } => {
                let others = (0..state.relays).filter(|n| !but.contains(&relay(*n)));
                let good = others.filter(|n| !state.dead.contains(n));
                good.choose(&mut rand::rng()).ok_or_else(no_circuit)?
            }
        };
        if state.dead.contains(&n) {
            return Err(no_circuit());
        }
        if n >= state.relays {
            return Err(RouteError::Refused);
        }
        let (near, mut far) = tokio::io::duplex(1024);
        match meet {
            Meet::Introduction(key) => {
                let key = IntroductionId(key.public().0);
                state.came.push((Instant::now(), n, key));
                if state.refusing.contains(&n) {
                    return Err(RouteError::Refused);
                }
                let (sender, mut messages) = mpsc::channel::<Vec<u8>>(1);
                state.standing.insert(key, (n, sender));
                tokio::spawn(async move {
                    let mut byte = [0];
                    loop {
                        tokio::select! {
                            bytes = messages.recv() => match bytes {
                                Some(bytes) => far.write_all(&bytes).await.unwrap(),
                                None => return,
                            },
                            _ = tokio::io::AsyncReadExt::read(&mut far, &mut byte) => return,
                        }
                    }
                });
            }
            Meet::Wait(_) => {}
            Meet::Join(_) | Meet::Introduce(..) => return Err(RouteError::ConnectionRefused),
        }
        Ok(Met {
            stream: Box::new(near),
            relay: relay(n),
            digest: [0; 32],
            work: None,
        })
    }
}

impl Outside for Net {
    fn connect<'a>(
        &'a self,
        _: &'a Target,
        _: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        panic!("nothing leaves the network for a seed");
    }

    fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        panic!("nothing leaves the network for a seed");
    }

    fn meet<'a>(
        &'a self,
        at: At,
        meet: Meet<'a>,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<Met, RouteError>> {
        self.lock().isolations.insert(isolation);
        Box::pin(async move {
            let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(now, Ordering::Relaxed);
            let met = self.ask(at, meet).await;
            self.now.fetch_sub(1, Ordering::Relaxed);
            met
        })
    }
}

fn start(net: &Net, identity: Identity) -> (Host, watch::Receiver<Option<Contact>>) {
    let swarm = SwarmKey::new(&SWARM).unwrap();
    let outside = Arc::new(net.clone());
    let (host, visitors) = Host::start(outside, identity, swarm, HostOptions::default());
    // Nobody comes: what stands is looked at.
    drop(visitors);
    let contact = host.contact();
    (host, contact)
}

/// As many introductions as come.
fn unlimited() -> Limits {
    Limits {
        introductions_per_second: NonZeroU32::MAX,
        introductions_per_second_per_point: NonZeroU32::MAX,
        waiting: 2 * MAX_SEEN,
        ..Limits::default()
    }
}

fn ephemeral() -> Identity {
    Identity::ephemeral(&mut rand::rng())
}

async fn passes(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn points(contact: &watch::Receiver<Option<Contact>>) -> Vec<Point> {
    let contact = contact.borrow();
    contact
        .as_ref()
        .map(|contact| contact.points().to_vec())
        .unwrap_or_default()
}

fn relays(points: &[Point]) -> BTreeSet<u8> {
    points.iter().map(|point| point.relay.0[0]).collect()
}

/// A seed that stands at three relays.
async fn standing(net: &Net) -> (Host, watch::Receiver<Option<Contact>>, Vec<Point>) {
    let (host, mut contact) = start(net, ephemeral());
    let whole = |contact: &Option<Contact>| contact.as_ref().is_some_and(|c| c.points().len() == 3);
    contact.wait_for(whole).await.unwrap();
    let named = points(&contact);
    // Longer than it takes for a relay to be a good one.
    passes(100).await;
    assert_eq!(points(&contact), named);
    (host, contact, named)
}

#[tokio::test(start_paused = true)]
async fn it_stands_at_three_relays_in_circuits_and_with_keys_of_their_own() {
    let net = Net::new(8);
    let (host, contact, named) = standing(&net).await;
    assert_eq!(relays(&named).len(), 3);
    assert_eq!(net.standing(), named.iter().copied().collect());
    assert_eq!(host.status().standing, 3);
    let key = contact.borrow().as_ref().unwrap().key;
    assert!(named.iter().all(|point| point.introduction.0 != key));
    // One for each question.
    let state = net.lock();
    assert_eq!(state.isolations.len(), state.asked);
    // No relay saw a key that another saw, and none was asked in vain.
    assert_eq!(state.came.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn no_two_points_come_at_one_moment_not_even_when_all_broke_at_once() {
    let net = Net::new(8);
    let (_host, contact, named) = standing(&net).await;
    let first = net.lock().came.len();
    named.iter().for_each(|point| net.cut(point.relay.0[0]));
    passes(30).await;
    assert_eq!(points(&contact), named);
    let came = net.lock().came.clone();
    assert_eq!((first, came.len()), (3, 6));
    for two in came.windows(2) {
        assert!(
            two[1].0 - two[0].0 >= APART.start - TAKES,
            "{:?}",
            came.iter().map(|c| c.0).collect::<Vec<_>>()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_point_that_ends_is_taken_up_at_once_at_the_same_relay_and_named_all_the_time() {
    let net = Net::new(8);
    let (host, mut contact, named) = standing(&net).await;
    contact.mark_unchanged();
    net.cut(named[1].relay.0[0]);
    passes(1).await;
    assert_eq!(net.standing(), named.iter().copied().collect());
    passes(3600).await;
    assert!(!contact.has_changed().unwrap(), "nobody was told of it");
    assert_eq!(host.status().standing, 3);
    assert_eq!(net.lock().came.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_point_that_breaks_the_protocol_is_left_for_another_relay() {
    let net = Net::new(4);
    let (_host, contact, named) = standing(&net).await;
    let bad = named[0];
    let say = net.lock().standing[&bad.introduction].1.clone();
    say.send(vec![255; 10]).await.unwrap();
    drop(say);
    passes(1800).await;
    let now = points(&contact);
    assert_eq!(now[..2], named[1..]);
    assert_eq!(
        relays(&now),
        BTreeSet::from([0, 1, 2, 3])
            .difference(&BTreeSet::from([bad.relay.0[0]]))
            .copied()
            .collect()
    );
    // It is not asked again, though others go.
    net.kill(now[2].relay.0[0]);
    passes(2 * 3600).await;
    assert_eq!(points(&contact), named[1..]);
    let asked = net.lock().came.clone();
    let asked = asked.iter().filter(|came| came.1 == bad.relay.0[0]);
    assert_eq!(asked.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_used_up_is_followed_by_another_at_the_same_relay() {
    let net = Net::new(1);
    let swarm = SwarmKey::new(&SWARM).unwrap();
    let options = HostOptions {
        points: 1,
        limits: unlimited(),
    };
    let (host, _visitors) = Host::start(Arc::new(net.clone()), ephemeral(), swarm.clone(), options);
    let mut contact = host.contact();
    contact.wait_for(Option::is_some).await.unwrap();
    let (old, key) = (points(&contact)[0], contact.borrow().as_ref().unwrap().key);
    let say = net.lock().standing[&old.introduction].1.clone();
    let meeting = Meeting {
        relay: relay(0),
        digest: [0; 32],
        cookie: Cookie([1; 20]),
    };
    for _ in 0..=MAX_SEEN {
        let (_, message) =
            Visitor::start(&key, &old.introduction, &swarm, &meeting, &mut rand::rng()).unwrap();
        if say.send(encode_record(&message).unwrap()).await.is_err() {
            break;
        }
    }
    drop(say);
    passes(10).await;
    let now = points(&contact);
    assert_eq!((now.len(), now[0].relay), (1, old.relay));
    assert_ne!(now[0].introduction, old.introduction);
    assert_eq!(net.standing(), now.into_iter().collect());
}

#[tokio::test(start_paused = true)]
async fn many_seeds_that_start_or_come_back_at_one_moment_take_turns() {
    const SEEDS: usize = 200;
    let (net, starts) = (Net::new(40), Starts::default());
    let hosts: Vec<_> = (0..SEEDS)
        .map(|seed| {
            let outside = Arc::new(Net {
                seed,
                ..net.clone()
            });
            let (swarm, options) = (SwarmKey::new(&SWARM).unwrap(), HostOptions::default());
            Host::start_for(outside, ephemeral(), swarm, options, None, &starts)
        })
        .collect();
    for _ in 0..2 {
        passes(120).await;
        for (host, _) in &hosts {
            assert_eq!(host.status().standing, POINTS);
        }
        let begun = std::mem::take(&mut net.lock().begun);
        assert!(begun.len() > SEEDS);
        // A guard grants a client a hundred in a second.
        let second = Duration::from_secs(1);
        let busy = begun.windows(60).filter(|some| some[59] - some[0] < second);
        assert_eq!(busy.count(), 0, "too many at once");
        assert!(net.most.load(Ordering::Relaxed) <= 64);
        // Nor do two points of one seed come at one moment because they waited for their turn.
        let mut last = HashMap::new();
        for (seed, at) in std::mem::take(&mut net.lock().taken_up) {
            let before = last.insert(seed, at);
            assert!(before.is_none_or(|before| at - before >= APART.start));
        }
        assert_eq!(last.len(), SEEDS);
        net.offline(true);
        passes(1).await;
        net.offline(false);
        net.lock().begun.clear();
    }
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_is_gone_is_stood_in_for_and_then_given_up() {
    let net = Net::new(8);
    let (host, contact, named) = standing(&net).await;
    let gone = named[0];
    net.kill(gone.relay.0[0]);
    passes(10).await;
    assert_eq!(points(&contact), named, "it may come back");
    passes(160).await;
    let now = points(&contact);
    assert_eq!(
        (&now[..2], now.len()),
        (&named[1..], 3),
        "another stands in"
    );
    assert_eq!(host.status().standing, 3);
    passes(20 * 60).await;
    let asked = net.lock().asked;
    passes(3600).await;
    assert_eq!(net.lock().asked, asked, "nobody asks for it any more");
    assert_eq!(points(&contact), now);
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_comes_back_in_time_has_its_old_key_and_the_one_that_stood_in_goes_later() {
    let net = Net::new(8);
    let (host, contact, named) = standing(&net).await;
    net.kill(named[0].relay.0[0]);
    passes(150).await;
    net.lock().dead.clear();
    passes(100).await;
    let now = points(&contact);
    assert_eq!((&now[..3], now.len()), (&named[..], 4));
    assert_eq!(host.status().standing, 4);
    passes(15 * 60).await;
    assert_eq!(points(&contact), named);
    assert_eq!(net.standing(), named.into_iter().collect());
}

#[tokio::test(start_paused = true)]
async fn without_a_network_it_waits_and_all_is_as_it_was_when_that_is_back() {
    let net = Net::new(8);
    let (host, contact, named) = standing(&net).await;
    net.offline(true);
    passes(120).await;
    assert_eq!(points(&contact), [], "nobody can come");
    let asked = net.lock().asked;
    passes(3600).await;
    let asked = net.lock().asked - asked;
    assert!((60..600).contains(&asked), "{asked} attempts in an hour");
    net.offline(false);
    passes(15 * 60).await;
    let now = points(&contact);
    assert!(now.starts_with(&named), "the same relays and keys");
    passes(3600).await;
    assert_eq!(points(&contact), named);
    assert_eq!(host.status().standing, 3);
    let most = net.most.load(Ordering::Relaxed);
    assert!(most <= POINTS + SPARE, "{most} at once");
}

#[tokio::test(start_paused = true)]
async fn a_seed_that_starts_without_a_network_stands_when_there_is_one() {
    let net = Net::new(8);
    net.offline(true);
    let (_host, contact) = start(&net, ephemeral());
    passes(3600).await;
    assert!(contact.borrow().is_none());
    assert!(net.lock().asked < 600);
    net.offline(false);
    passes(3600).await;
    assert_eq!(points(&contact).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn relays_that_refuse_are_left_for_others_and_a_small_network_is_not_worn_out() {
    let net = Net::new(6);
    net.lock().refusing.extend([0, 1, 2]);
    let (_host, contact) = start(&net, ephemeral());
    passes(2 * 3600).await;
    assert_eq!(relays(&points(&contact)), BTreeSet::from([3, 4, 5]));
    let net = Net::new(2);
    let (_second, contact) = start(&net, ephemeral());
    passes(3600).await;
    assert_eq!(relays(&points(&contact)), BTreeSet::from([0, 1]));
    let asked = net.lock().asked;
    passes(3600).await;
    let asked = net.lock().asked - asked;
    assert!(asked < 80, "{asked} attempts in an hour for the third");
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_leaves_the_list_is_replaced() {
    let net = Net::new(8);
    let (_host, contact, named) = standing(&net).await;
    // None of these is in the list any more.
    let last = *relays(&named).iter().max().unwrap();
    net.lock().relays = last;
    if last < 3 {
        return;
    }
    net.cut(last);
    passes(1800).await;
    let now = points(&contact);
    assert_eq!(now.len(), 3);
    assert!(relays(&now).iter().all(|n| *n < last));
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_ends_again_and_again_is_given_up() {
    let net = Net::new(8);
    let (_host, contact, named) = standing(&net).await;
    let bad = named[0].relay.0[0];
    let before = net.lock().came.len();
    for _ in 0..1800 {
        net.cut(bad);
        passes(1).await;
    }
    let times = net.lock().came[before..]
        .iter()
        .filter(|came| came.1 == bad)
        .count();
    assert!((5..60).contains(&times), "{times}");
    passes(120).await;
    let now = points(&contact);
    assert!(!relays(&now).contains(&bad) && now.len() == 3);
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_the_same_keys_stand_at_the_same_relays() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path().join("state")).unwrap();
    let keep = || Identity::keep(&state, &SWARM, &mut rand::rng()).unwrap();
    let net = Net::new(8);
    let mut before = None;
    for _ in 0..3 {
        let (host, contact) = start(&net, keep());
        passes(200).await;
        let now = contact.borrow().clone();
        assert_eq!(now.as_ref().unwrap().points().len(), 3);
        assert!(before.is_none_or(|before| before == now));
        before = Some(now);
        drop(host);
        passes(1).await;
        assert_eq!(net.standing(), BTreeSet::new());
    }
    // A relay that was replaced is forgotten, and what stands in for it is kept.
    let before = before.flatten().unwrap();
    net.kill(before.points()[0].relay.0[0]);
    let (host, contact) = start(&net, keep());
    passes(3600).await;
    let now = points(&contact);
    assert_eq!(now[..2], before.points()[1..]);
    drop(host);
    let (_host, contact) = start(&net, keep());
    passes(200).await;
    assert_eq!(points(&contact), now);
}

#[tokio::test(start_paused = true)]
async fn nothing_of_keys_relays_or_the_swarm_is_logged() {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let net = Net::new(8);
    let (_host, contact, named) = standing(&net).await;
    net.kill(named[0].relay.0[0]);
    net.lock().refusing.extend(0..8);
    passes(1200).await;
    net.offline(true);
    passes(600).await;
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        log.contains("is lost") && log.contains("not taken up"),
        "{log}"
    );
    drop(contact);
    let mut secrets = vec![SWARM.to_vec()];
    for point in named {
        secrets.extend([point.relay.0.to_vec(), point.introduction.0.to_vec()]);
    }
    for secret in secrets {
        let hex = HEXLOWER.encode(&secret[..4]);
        assert!(!log.contains(&hex) && !log.contains(&format!("{:?}", &secret[..4])[1..11]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_seed_that_is_dropped_leaves_nothing_running() {
    let net = Net::new(8);
    let alive = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = alive();
    let (host, contact, _) = standing(&net).await;
    assert!(alive() > before);
    drop(host);
    passes(10).await;
    assert_eq!((alive(), net.standing().len()), (before, 0));
    assert!(contact.has_changed().is_err(), "who listens is told");
}

#[tokio::test(start_paused = true)]
async fn two_hundred_seeds_take_bounded_memory_and_tasks() {
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = pages.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4
    };
    let net = Net::new(40);
    let alive = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = resident();
    let hosts: Vec<_> = (0..200).map(|_| start(&net, ephemeral())).collect();
    passes(300).await;
    assert!(hosts.iter().all(|(host, _)| host.status().standing == 3));
    // Three of them are the test's relays'.
    let tasks = alive() / 200;
    let grown = (resident() - before) / 200;
    println!("{tasks} tasks and {grown} KiB a seed");
    assert!(tasks <= 12 && grown < 300, "{tasks} tasks, {grown} KiB");
}
