#![allow(clippy::unwrap_used)]
//! Lookups of one user in virtual time: their order, their number, and what exits and nodes see of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hushswarm_circuits::dht::{Family, Op, Record, Request, Summary};
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::keys::IdentityKey;
use hushswarm_circuits::target::Target;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;
use crate::config::LookupLimits;
use crate::route::{BoxFuture, BoxStream, Datagrams, Outside, RouteError};

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn options() -> Options {
    Options {
        bootstrap: vec![Target::parse("router.test", 6881).unwrap()],
        limits: LookupLimits::default(),
        allow_private: false,
    }
}

/// What an exit of the test does when it is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// Looks up, and finds two peers after half a second.
    Serves,
    /// Trickles, and never ends.
    Hangs,
    /// Says that nobody answered.
    Hears,
    /// Sends what is no record.
    Babbles,
    /// Looks nothing up, and carries datagrams, to which nobody answers.
    Carries,
    /// There is no circuit.
    Missing,
}

struct Seen {
    at: Instant,
    isolation: Isolation,
    infohash: Option<[u8; 20]>,
}

/// Datagrams, when they were sent and to whom.
type Sent = Arc<Mutex<Vec<(Instant, Target, Vec<u8>)>>>;

/// A world of one exit, which records what it is asked.
struct Net {
    exit: Mutex<Exit>,
    seen: Mutex<Vec<Seen>>,
    /// Lookups that the exit works at, and the most at once.
    open: Mutex<(usize, usize)>,
    sent: Sent,
    /// What was put.
    items: Mutex<Vec<hushswarm_circuits::dht::Item>>,
}

impl Net {
    fn new(exit: Exit) -> Arc<Self> {
        Arc::new(Self {
            exit: Mutex::new(exit),
            seen: Mutex::default(),
            open: Mutex::default(),
            sent: Arc::default(),
            items: Mutex::default(),
        })
    }

    fn dht(self: &Arc<Self>, options: Options) -> Dht {
        Dht::new(Arc::new(View(Arc::clone(self))), options)
    }

    /// The infohashes in the order in which the exit was asked.
    fn asked(&self) -> Vec<[u8; 20]> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter_map(|seen| seen.infohash).collect()
    }

    async fn serve(
        self: Arc<Self>,
        mut stream: tokio::io::DuplexStream,
        request: Vec<u8>,
        isolation: Isolation,
    ) {
        let request = Request::decode(&request).unwrap();
        let target = match request.op {
            Op::Peers { target } => target,
            Op::Get { .. } | Op::Put { .. } => return self.serve_items(stream, request.op).await,
        };
        let exit = *self.exit.lock().unwrap();
        if request.family == Family::V4 {
            self.seen.lock().unwrap().push(Seen {
                at: Instant::now(),
                isolation,
                infohash: Some(target),
            });
            let mut open = self.open.lock().unwrap();
            open.0 += 1;
            open.1 = open.1.max(open.0);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut say = Vec::new();
        let end = |answered| {
            let (asked, stored) = (9, 0);
            Record::End(Summary {
                asked,
                answered,
                stored,
            })
        };
        match exit {
            Exit::Serves => {
                // One that is told twice, one that must not be, and one of the other family.
                let peers = ["8.8.8.8:1", "8.8.8.8:1", "10.0.0.1:1", "8.8.4.4:2"];
                let peers = peers.map(|peer| peer.parse().unwrap()).to_vec();
                say.extend(Record::Peers(peers).encode().unwrap());
                say.extend(end(8).encode().unwrap());
            }
            Exit::Hears => say.extend(end(0).encode().unwrap()),
            Exit::Babbles => say.extend([250; 40]),
            Exit::Hangs => {
                let peer = Record::Peers(vec!["8.8.8.8:1".parse().unwrap()]);
                for _ in 0..100_000 {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if stream.write_all(&peer.encode().unwrap()).await.is_err() {
                        break;
                    }
                }
            }
            Exit::Carries | Exit::Missing => {}
        }
        if request.family == Family::V4 {
            self.open.lock().unwrap().0 -= 1;
        }
        let _ = stream.write_all(&say).await;
    }
}

impl Net {
    async fn serve_items(&self, mut stream: tokio::io::DuplexStream, op: Op) {
        let mut say = Vec::new();
        let mut stored = 0;
        match op {
            Op::Put { item, .. } => {
                self.items.lock().unwrap().push(item);
                stored = 8;
            }
            // All that it has: who asked must see to it.
            Op::Get { .. } | Op::Peers { .. } => {
                for item in self.items.lock().unwrap().iter() {
                    say.extend(Record::Item(item.clone()).encode().unwrap());
                }
            }
        }
        let (asked, answered) = (9, 9);
        let end = Record::End(Summary {
            asked,
            answered,
            stored,
        });
        say.extend(end.encode().unwrap());
        stream.write_all(&say).await.unwrap();
    }
}

struct View(Arc<Net>);

/// A flow into nothing.
struct Silent(Sent);

impl Datagrams for Silent {
    fn send(&self, to: &Target, payload: &[u8]) -> io::Result<()> {
        let mut sent = self.0.lock().unwrap();
        sent.push((Instant::now(), to.clone(), payload.to_vec()));
        Ok(())
    }

    fn recv(&self) -> BoxFuture<'_, io::Result<(Target, Vec<u8>)>> {
        Box::pin(std::future::pending())
    }
}

impl Outside for View {
    fn connect<'a>(
        &'a self,
        _: &'a Target,
        _: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        panic!("no lookup opens a stream to anybody")
    }

    fn datagrams(
        &self,
        isolation: Isolation,
    ) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        self.0.seen.lock().unwrap().push(Seen {
            at: Instant::now(),
            isolation,
            infohash: None,
        });
        let sent = Arc::clone(&self.0.sent);
        Box::pin(async { Ok(Box::new(Silent(sent)) as Box<dyn Datagrams>) })
    }

    fn dht<'a>(
        &'a self,
        request: &'a [u8],
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        let request = request.to_vec();
        let net = Arc::clone(&self.0);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let exit = *net.exit.lock().unwrap();
            match exit {
                Exit::Carries => return Err(RouteError::Refused),
                Exit::Missing => return Err(RouteError::NoCircuit("no relay answers".into())),
                Exit::Serves | Exit::Hangs | Exit::Hears | Exit::Babbles => {}
            }
            let (near, far) = tokio::io::duplex(4096);
            tokio::spawn(net.serve(far, request, isolation));
            Ok(Box::new(near) as BoxStream)
        })
    }
}

fn infohash(n: u32) -> [u8; 20] {
    let mut hash = [3; 20];
    hash[..4].copy_from_slice(&n.to_be_bytes());
    hash
}

/// All that a lookup brought, and how it ended.
async fn all(mut finding: Finding) -> (Vec<SocketAddr>, Option<Outcome>) {
    let (mut peers, mut outcome) = (Vec::new(), None);
    while let Some(found) = finding.next().await {
        match found {
            Found::Begun | Found::Item(_) => {}
            Found::Peers(more) => peers.extend(more),
            Found::Over(how) => outcome = Some(how),
        }
    }
    (peers, outcome)
}

#[tokio::test(start_paused = true)]
async fn the_exits_service_finds_peers_each_once_and_none_that_is_private() {
    let net = Net::new(Exit::Serves);
    let dht = net.dht(options());
    let (peers, outcome) = all(dht.find(infohash(1), 0).unwrap()).await;
    let wanted: Vec<SocketAddr> = vec!["8.8.8.8:1".parse().unwrap(), "8.8.4.4:2".parse().unwrap()];
    assert_eq!((peers, outcome), (wanted, Some(Outcome::Peers(2))));
    assert_eq!(net.asked(), [infohash(1)]);
    let counters = dht.counters();
    assert_eq!(
        (counters.ended, counters.found, counters.queries),
        (1, 2, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_at_once_are_all_looked_up_in_order_within_the_limits() {
    const MANY: u32 = 10_000;
    let net = Net::new(Exit::Serves);
    let limits = LookupLimits::default();
    let dht = net.dht(options());
    let (done, mut over) = mpsc::channel(1);
    for n in 0..MANY {
        let finding = dht.find(infohash(n), 0).unwrap();
        let done = done.clone();
        tokio::spawn(async move {
            let (peers, outcome) = all(finding).await;
            assert_eq!((peers.len(), outcome), (2, Some(Outcome::Peers(2))));
            done.send(()).await.unwrap();
        });
    }
    drop(done);
    assert_eq!(dht.counters().waiting, MANY as usize);
    // What one that waits takes in the queue, beside its end of a channel.
    const { assert!(queue::WAITING_SIZE <= 128) };
    let mut count = 0;
    while over.recv().await.is_some() {
        count += 1;
    }
    assert_eq!(count, MANY);
    // One begins after another, as they came.
    assert_eq!(net.asked(), (0..MANY).map(infohash).collect::<Vec<_>>());
    assert!(net.open.lock().unwrap().1 <= limits.at_once.get() as usize);
    let seen = net.seen.lock().unwrap();
    let per_minute = limits.per_minute.get() as usize;
    for window in seen.windows(per_minute + 8) {
        assert!(window.last().unwrap().at - window[0].at > Duration::from_secs(55));
    }
    // Each on a circuit that no other infohash has.
    let mut circuits = BTreeSet::new();
    for seen in seen.iter() {
        let own = Isolation::new("dht", &seen.infohash.unwrap(), 0);
        assert_eq!(seen.isolation, own);
        circuits.insert(seen.infohash.unwrap());
    }
    assert_eq!(circuits.len(), MANY as usize);
    let counters = dht.counters();
    assert_eq!((counters.waiting, counters.running), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_and_who_gave_up_leaves_room() {
    let net = Net::new(Exit::Serves);
    let mut options = options();
    options.limits.waiting = number(20);
    let dht = net.dht(options);
    let mut findings: Vec<_> = (0..20).map(|n| dht.find(infohash(n), 0).unwrap()).collect();
    assert_eq!(findings[19].ahead, 19);
    assert_eq!(dht.find(infohash(20), 0).unwrap_err(), Full(20));
    assert_eq!(dht.counters().full, 1);
    // Nobody asks for those any more, and nobody is asked for them.
    findings.truncate(5);
    let last = dht.find(infohash(21), 0).unwrap();
    assert_eq!(last.ahead, 5);
    all(last).await;
    for finding in findings {
        all(finding).await;
    }
    assert_eq!(net.asked().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn the_rate_holds_over_time_and_lookups_do_not_begin_in_step() {
    let net = Net::new(Exit::Serves);
    let dht = net.dht(options());
    let findings: Vec<_> = (0..300)
        .map(|n| dht.find(infohash(n), 0).unwrap())
        .collect();
    let waits = findings
        .into_iter()
        .map(|finding| tokio::spawn(all(finding)));
    for wait in waits.collect::<Vec<_>>() {
        wait.await.unwrap();
    }
    let seen = net.seen.lock().unwrap();
    let gaps: Vec<Duration> = seen.windows(2).map(|two| two[1].at - two[0].at).collect();
    let different: BTreeSet<u128> = gaps.iter().map(|gap| gap.as_millis() / 50).collect();
    assert!(different.len() > 10, "{different:?}");
    let took = seen.last().unwrap().at - seen[0].at;
    // Sixty a minute at most, and not much less.
    assert!((290..700).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_exit_does_wrong_is_told_and_ends_the_lookup() {
    for (exit, wanted) in [
        (Exit::Hears, Outcome::Silence),
        (Exit::Babbles, Outcome::CircuitLost),
        // Those who offer it are gone; datagrams are tried.
        (Exit::Missing, Outcome::Silence),
        (Exit::Carries, Outcome::Silence),
        // What came before counts.
        (Exit::Hangs, Outcome::Peers(1)),
    ] {
        let net = Net::new(exit);
        let dht = net.dht(options());
        let begun = Instant::now();
        let (_, outcome) = all(dht.find(infohash(1), 0).unwrap()).await;
        assert_eq!(outcome, Some(wanted));
        assert!(begun.elapsed() < Duration::from_secs(200));
    }
    let mut nowhere = options();
    nowhere.bootstrap.clear();
    let dht = Net::new(Exit::Carries).dht(nowhere);
    let (_, outcome) = all(dht.find(infohash(1), 0).unwrap()).await;
    assert_eq!(outcome, Some(Outcome::NoBootstrap));
}

#[tokio::test(start_paused = true)]
async fn while_lookups_fail_fewer_are_begun_and_soon_as_many_again() {
    let net = Net::new(Exit::Hears);
    let dht = net.dht(options());
    let findings: Vec<_> = (0..400)
        .map(|n| dht.find(infohash(n), 0).unwrap())
        .collect();
    let waits = findings
        .into_iter()
        .map(|finding| tokio::spawn(all(finding)));
    let waits: Vec<_> = waits.collect();
    let ten = Duration::from_secs(600);
    tokio::time::sleep(ten).await;
    let failing = net.asked().len();
    assert!((5..60).contains(&failing), "{failing}");
    *net.exit.lock().unwrap() = Exit::Serves;
    tokio::time::sleep(ten).await;
    assert!(net.asked().len() > failing + 200, "{}", net.asked().len());
    drop(waits);
}

#[tokio::test(start_paused = true)]
async fn a_lookup_that_nobody_waits_for_ends() {
    let net = Net::new(Exit::Hangs);
    let dht = net.dht(options());
    let mut finding = dht.find(infohash(1), 0).unwrap();
    assert_eq!(finding.next().await, Some(Found::Begun));
    assert!(matches!(finding.next().await, Some(Found::Peers(_))));
    assert_eq!(dht.counters().running, 1);
    drop(finding);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let counters = dht.counters();
    assert_eq!((counters.running, counters.ended), (0, 1));
    // And all of them, when the finder goes.
    let finding = dht.find(infohash(2), 0).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    drop(dht);
    let (_, outcome) = all(finding).await;
    assert_eq!(outcome, None);
}

#[tokio::test(start_paused = true)]
async fn queries_of_all_lookups_together_keep_to_the_limits() {
    let net = Net::new(Exit::Carries);
    let mut options = options();
    options.limits.queries_per_second = number(5);
    options.bootstrap = (1..=16_u8)
        .map(|n| Target::ip(SocketAddr::from(([8, 8, n, 1], 6881))))
        .collect();
    let dht = net.dht(options);
    let findings: Vec<_> = (0..8).map(|n| dht.find(infohash(n), 0).unwrap()).collect();
    let waits = findings
        .into_iter()
        .map(|finding| tokio::spawn(all(finding)));
    for wait in waits.collect::<Vec<_>>() {
        wait.await.unwrap();
    }
    let sent = net.sent.lock().unwrap();
    assert!(sent.len() > 16, "{}", sent.len());
    for window in sent.windows(12) {
        let took = window[11].0 - window[0].0;
        assert!(took >= Duration::from_secs(1), "{took:?}");
    }
    let mut by_node: BTreeMap<String, Vec<Instant>> = BTreeMap::new();
    for (at, to, bytes) in sent.iter() {
        let to = to.socket_addr().unwrap().to_string();
        by_node.entry(to).or_default().push(*at);
        // Nodes to begin at never learn what is looked for.
        for n in 0..8 {
            let hash = infohash(n);
            assert!(!bytes.windows(20).any(|part| part == hash));
        }
    }
    assert_eq!(dht.counters().queries, sent.len() as u64);
    for times in by_node.values() {
        for window in times.windows(6) {
            assert!(window[5] - window[0] >= Duration::from_secs(1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_one_that_found_nobody_another_exit_is_asked_another_way() {
    let net = Net::new(Exit::Hears);
    let dht = net.dht(options());
    for attempt in 0..3 {
        let (_, outcome) = all(dht.find(infohash(1), attempt).unwrap()).await;
        assert_eq!(outcome, Some(Outcome::Silence));
    }
    let seen = net.seen.lock().unwrap();
    let asked: Vec<bool> = seen.iter().map(|seen| seen.infohash.is_some()).collect();
    assert_eq!(asked, [true, false, true], "service, datagrams, service");
    for (seen, attempt) in seen.iter().zip(0..) {
        assert_eq!(seen.isolation, Isolation::new("dht", &infohash(1), attempt));
    }
}

/// All items that a lookup brought, and how it ended.
async fn items(mut finding: Finding) -> (Vec<Item>, Option<Outcome>) {
    let (mut items, mut outcome) = (Vec::new(), None);
    while let Some(found) = finding.next().await {
        match found {
            Found::Begun | Found::Peers(_) => {}
            Found::Item(item) => items.push(item),
            Found::Over(how) => outcome = Some(how),
        }
    }
    (items, outcome)
}

#[tokio::test(start_paused = true)]
async fn an_item_that_is_put_is_got_by_its_name_and_no_other_and_none_that_is_older() {
    let net = Net::new(Exit::Serves);
    let dht = net.dht(options());
    let key = IdentityKey::from_seed([7; 32]);
    let sign = |salt: &[u8], seq, value: &[u8]| Item::sign(&key, salt, seq, value).unwrap();
    let versions = [1, 3, 2].map(|seq| sign(b"a", seq, format!("i{seq}e").as_bytes()));
    let other = sign(b"b", 9, b"i9e");
    let plain = Item::immutable(b"4:what").unwrap();
    for item in versions.iter().chain([&other, &plain]) {
        let (none, outcome) = items(dht.put(item.clone(), 0).unwrap()).await;
        // By both families.
        assert_eq!((none, outcome), (vec![], Some(Outcome::Stored(16))));
    }
    let (got, outcome) = items(dht.get(other.name(), 0).unwrap()).await;
    assert_eq!((got, outcome), (vec![other], Some(Outcome::Items(1))));
    let (got, _) = items(dht.get(versions[0].name(), 0).unwrap()).await;
    assert_eq!(got, versions[..2]);
    let (got, _) = items(dht.get(plain.name(), 0).unwrap()).await;
    assert_eq!(got, [plain]);
    // An exit that makes one up is not believed, nor what it says beside it.
    let forged = match versions[0].to_carried() {
        hushswarm_circuits::dht::Item::Mutable {
            key,
            salt,
            signature,
            value,
            ..
        } => hushswarm_circuits::dht::Item::Mutable {
            key,
            salt,
            seq: 100,
            signature,
            value,
        },
        immutable @ hushswarm_circuits::dht::Item::Immutable { .. } => immutable,
    };
    *net.items.lock().unwrap() = vec![forged];
    let (got, outcome) = items(dht.get(versions[0].name(), 0).unwrap()).await;
    assert_eq!((got, outcome), (vec![], Some(Outcome::CircuitLost)));
}
