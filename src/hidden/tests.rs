//! Visitors and seeds at a relay that may do what it wants: it lies, replays, drops, floods, changes and cuts off.
#![allow(clippy::unwrap_used)]

mod calls;
mod floods;
mod guests;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};

use hushswarm_circuits::keys::{DhSecret, IdentityKey, RelayId};
use hushswarm_circuits::rendezvous::message::MESSAGE_LEN;
use hushswarm_circuits::rendezvous::toll::FIRST_EFFORT;
use hushswarm_circuits::rendezvous::wire::encode_record;
use hushswarm_circuits::rendezvous::{IntroductionId, Meeting, Status, SwarmKey, Visitor};
use hushswarm_circuits::target::Target;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::reception::{FLOOD, Lost};
use super::*;
use crate::route::{At, BoxFuture, BoxStream, Datagrams, Meet, Met, Outside, RouteError};

const PIPE: usize = 64 * 1024;
const RELAY: RelayId = RelayId([1; 32]);
const DIGEST: [u8; 32] = [2; 32];
/// A relay that says nothing.
const STALLS: RelayId = RelayId([3; 32]);

type Change = Box<dyn Fn(usize, &mut Vec<u8>) + Send + Sync>;
type HandOn = Box<dyn Fn(Vec<u8>) -> Vec<Vec<u8>> + Send + Sync>;

/// What the relay does with what passes through it.
struct Ways {
    /// An introduction, into those that reach the seed.
    hand_on: HandOn,
    /// Bytes to the visitor, of which so many have passed before.
    to_visitor: Change,
    /// Bytes to the seed.
    to_seed: Change,
    /// After so many bytes to the visitor it ends the stream, as the seed would.
    cut_off: usize,
    /// It answers in the seed's place.
    pretends: bool,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            hand_on: Box::new(|message| vec![message]),
            to_visitor: Box::new(|_, _| {}),
            to_seed: Box::new(|_, _| {}),
            cut_off: usize::MAX,
            pretends: false,
        }
    }
}

#[derive(Default)]
struct State {
    points: HashMap<IntroductionId, mpsc::Sender<Vec<u8>>>,
    waiting: HashMap<Cookie, DuplexStream>,
    isolations: Vec<Isolation>,
    joins: usize,
    /// Joins at a relay that says nothing.
    stalled: usize,
}

/// One relay that is all of them, and the way to it.
#[derive(Clone, Default)]
struct Relay {
    state: Arc<Mutex<State>>,
    ways: Arc<Ways>,
}

impl Relay {
    fn new(ways: Ways) -> Self {
        Self {
            state: Arc::default(),
            ways: Arc::new(ways),
        }
    }

    /// Sends this to whoever has the key, as an introduction point can.
    fn say(&self, key: &IntroductionId, bytes: Vec<u8>) {
        let state = self.state.lock().unwrap();
        state.points[key].try_send(bytes).unwrap();
    }

    fn asked(&self, meet: Meet<'_>) -> Result<BoxStream, RouteError> {
        let mut state = self.state.lock().unwrap();
        let (near, far) = tokio::io::duplex(PIPE);
        match meet {
            Meet::Introduction(key) => {
                let (sender, mut messages) = mpsc::channel::<Vec<u8>>(64);
                let key = IntroductionId(key.public().0);
                state.points.insert(key, sender);
                tokio::spawn(async move {
                    let mut far = far;
                    while let Some(bytes) = messages.recv().await {
                        if far.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                });
            }
            Meet::Introduce(key, message) => {
                assert_eq!(message.len(), MESSAGE_LEN, "all are alike");
                let point = state.points.get(key).ok_or(RouteError::ConnectionRefused)?;
                for message in (self.ways.hand_on)(message.to_vec()) {
                    point.try_send(encode_record(&message).unwrap()).unwrap();
                }
            }
            Meet::Wait(cookie) if self.ways.pretends => {
                let mut far = far;
                let _ = cookie;
                tokio::spawn(async move {
                    far.write_all(&[Status::Done.wire()]).await.unwrap();
                    far.write_all(&[7; 48]).await.unwrap();
                    let _ = far.read_u8().await;
                });
            }
            Meet::Wait(cookie) => {
                state.waiting.insert(*cookie, far);
            }
            Meet::Join(cookie) => {
                state.joins += 1;
                let waiter = state.waiting.remove(cookie);
                let waiter = waiter.ok_or(RouteError::ConnectionRefused)?;
                tokio::spawn(splice(waiter, far, Arc::clone(&self.ways)));
            }
        }
        Ok(Box::new(near))
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    change: &Change,
    until: usize,
) -> io::Result<()> {
    let (mut passed, mut buffer) = (0, vec![0; 10_000]);
    loop {
        let n = from.read(&mut buffer).await?;
        let mut bytes = buffer[..n].to_vec();
        bytes.truncate(until - passed);
        change(passed, &mut bytes);
        to.write_all(&bytes).await?;
        passed += bytes.len();
        if bytes.is_empty() {
            return to.shutdown().await;
        }
    }
}

async fn splice(mut waiter: DuplexStream, joiner: DuplexStream, ways: Arc<Ways>) {
    waiter.write_all(&[Status::Done.wire()]).await.unwrap();
    let (from_waiter, to_waiter) = tokio::io::split(waiter);
    let (from_joiner, to_joiner) = tokio::io::split(joiner);
    // One that fails takes the other with it, as a reset does.
    let _ = tokio::try_join!(
        pump(from_waiter, to_joiner, &ways.to_seed, usize::MAX),
        pump(from_joiner, to_waiter, &ways.to_visitor, ways.cut_off),
    );
}

impl Outside for Relay {
    fn connect<'a>(
        &'a self,
        _: &'a Target,
        _: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        panic!("nothing leaves the network for a meeting");
    }

    fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        panic!("nothing leaves the network for a meeting");
    }

    fn meet<'a>(
        &'a self,
        at: At,
        meet: Meet<'a>,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<Met, RouteError>> {
        if let At::Relay { id: STALLS, .. } = at {
            self.state.lock().unwrap().stalled += 1;
            return Box::pin(std::future::pending());
        }
        if let At::Relay { id, digest } = at {
            assert!(id == RELAY && digest.is_none_or(|digest| digest == DIGEST));
        }
        self.state.lock().unwrap().isolations.push(isolation);
        let asked = self.asked(meet);
        Box::pin(async move {
            Ok(Met {
                stream: asked?,
                relay: RELAY,
                digest: DIGEST,
                work: None,
            })
        })
    }
}

fn swarm() -> SwarmKey {
    SwarmKey::new(&[5; 20]).unwrap()
}

struct Host {
    reception: Reception,
    visitors: mpsc::Receiver<Sealed>,
    secret: DhSecret,
}

/// One that an open seed has: not a quiet one (PROTOCOL.md §8.1).
fn introduction_key() -> IdentityKey {
    let mut keys = std::iter::repeat_with(|| IdentityKey::generate(&mut rand::rng()));
    let fits = |key: &IdentityKey| !IntroductionId(key.public().0).is_quiet();
    keys.find(fits).unwrap()
}

impl Host {
    fn new(relay: &Relay, limits: Limits) -> Self {
        let (reception, visitors) = Reception::open(Arc::new(relay.clone()), limits);
        Self {
            reception,
            visitors,
            secret: DhSecret::from_bytes([3; 32]),
        }
    }

    async fn stand(&self) -> (Standing, Seed) {
        let keys = Keys {
            introduction: introduction_key(),
            secret: self.secret.clone(),
            swarm: swarm(),
        };
        let at = At::Any { but: Vec::new() };
        let standing = self.reception.stand(at, keys).await.unwrap();
        let seed = Seed {
            key: self.secret.public(),
            introduction: standing.introduction(),
            at: standing.relay(),
        };
        (standing, seed)
    }
}

async fn met(relay: &Relay, host: &mut Host, seed: &Seed) -> (Sealed, Sealed) {
    let swarm = swarm();
    let (visited, came) = tokio::join!(visit(relay, seed, &swarm), host.visitors.recv());
    (visited.unwrap(), came.unwrap())
}

/// Sends all and reads all, each way.
async fn exchange(mut stream: Sealed, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut came = Vec::new();
    let (mut from, mut to) = tokio::io::split(&mut stream);
    let send = async {
        to.write_all(bytes).await?;
        to.shutdown().await
    };
    tokio::try_join!(send, from.read_to_end(&mut came))?;
    Ok(came)
}

fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[seed]).finalize_xof().fill(&mut out);
    out
}

#[tokio::test]
async fn both_ways_arrive_whole_and_no_two_halves_share_a_circuit() {
    let relay = Relay::default();
    let mut host = Host::new(&relay, Limits::default());
    let (_standing, seed) = host.stand().await;
    for n in 0..3 {
        let (visited, came) = met(&relay, &mut host, &seed).await;
        let (up, down) = (noise(n, 300_000), noise(n + 10, 200_000));
        let (to_visitor, to_seed) = tokio::join!(exchange(visited, &up), exchange(came, &down));
        assert!(to_visitor.unwrap() == down && to_seed.unwrap() == up);
    }
    let state = relay.state.lock().unwrap();
    let different: BTreeSet<_> = state.isolations.iter().collect();
    assert_eq!((different.len(), state.isolations.len()), (10, 10));
}

#[tokio::test]
async fn what_passes_through_shows_nothing_of_what_was_said() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let watch = || -> Change {
        let seen = Arc::clone(&seen);
        Box::new(move |_, bytes| seen.lock().unwrap().extend_from_slice(bytes))
    };
    let relay = Relay::new(Ways {
        to_visitor: watch(),
        to_seed: watch(),
        ..Ways::default()
    });
    let mut host = Host::new(&relay, Limits::default());
    let (_standing, seed) = host.stand().await;
    let (visited, came) = met(&relay, &mut host, &seed).await;
    let words = b"\x13BitTorrent protocol, and an infohash";
    let (a, b) = tokio::join!(exchange(visited, words), exchange(came, words));
    assert!(a.unwrap() == words && b.unwrap() == words);
    let seen = seen.lock().unwrap();
    // The answer, and two records each way: what was said, and the last.
    assert_eq!(seen.len(), 48 + 4 * 928);
    assert!(!seen.windows(8).any(|window| window == &words[..8]));
}

#[tokio::test(start_paused = true)]
async fn an_introduction_point_that_replays_meets_nobody_with_it() {
    let relay = Relay::new(Ways {
        hand_on: Box::new(|message| vec![message; 15]),
        ..Ways::default()
    });
    let mut host = Host::new(&relay, Limits::default());
    let (_standing, seed) = host.stand().await;
    let (visited, came) = met(&relay, &mut host, &seed).await;
    let (a, b) = tokio::join!(exchange(visited, b"a"), exchange(came, b"b"));
    assert_eq!((a.unwrap(), b.unwrap()), (b"b".to_vec(), b"a".to_vec()));
    let counters = host.reception.counters();
    assert_eq!((counters.met, counters.foreign), (1, 14));
    assert_eq!(
        relay.state.lock().unwrap().joins,
        1,
        "nothing was built for the others"
    );
}

#[tokio::test(start_paused = true)]
async fn an_introduction_point_that_ends_and_comes_back_can_say_nothing_again() {
    let said = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&said);
    let relay = Relay::new(Ways {
        hand_on: Box::new(move |message| {
            keep.lock().unwrap().push(message.clone());
            vec![message]
        }),
        ..Ways::default()
    });
    let mut host = Host::new(&relay, Limits::default());
    let stand = || Keys {
        introduction: IdentityKey::from_seed([8; 32]),
        secret: host.secret.clone(),
        swarm: swarm(),
    };
    let (first, second) = (stand(), stand());
    let mut standing = host
        .reception
        .stand(At::Any { but: Vec::new() }, first)
        .await
        .unwrap();
    let introduction = standing.introduction();
    let seed = Seed {
        key: host.secret.public(),
        introduction,
        at: RELAY,
    };
    let _met = met(&relay, &mut host, &seed).await;
    relay.state.lock().unwrap().points.clear();
    assert_eq!(standing.lost().await, Lost::Ended);
    let _again = host
        .reception
        .stand(At::Any { but: Vec::new() }, second)
        .await
        .unwrap();
    let message = said.lock().unwrap()[0].clone();
    relay.say(&introduction, encode_record(&message).unwrap());
    let (_visited, _came) = met(&relay, &mut host, &seed).await;
    let counters = host.reception.counters();
    assert_eq!((counters.met, counters.foreign), (2, 1));
    assert_eq!(relay.state.lock().unwrap().joins, 2);
}

#[tokio::test(start_paused = true)]
async fn an_introduction_point_that_changes_or_drops_gets_nobody_met_and_another_point_does() {
    for hand_on in [
        Box::new(|mut message: Vec<u8>| {
            message[200] ^= 1;
            vec![message]
        }) as HandOn,
        Box::new(|_| Vec::new()),
        // As somebody who made one of its own, without the infohash.
        Box::new(|_| vec![vec![9; MESSAGE_LEN], vec![1], vec![0; 2048]]),
    ] {
        let bad = Relay::new(Ways {
            hand_on,
            ..Ways::default()
        });
        let mut host = Host::new(&bad, Limits::default());
        let (_standing, seed) = host.stand().await;
        let visited = visit(&bad, &seed, &swarm()).await;
        assert_eq!(visited.err(), Some(VisitError::NotMet));
        assert_eq!(bad.state.lock().unwrap().joins, 0);
        assert!(host.visitors.try_recv().is_err());
        assert_eq!(host.reception.counters().taken, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn who_knows_the_seed_but_not_the_infohash_is_not_answered() {
    let relay = Relay::default();
    let mut host = Host::new(&relay, Limits::default());
    let (_standing, seed) = host.stand().await;
    let other = SwarmKey::new(&[6; 20]).unwrap();
    let visited = visit(&relay, &seed, &other).await;
    assert_eq!(visited.err(), Some(VisitError::NotMet));
    assert_eq!(relay.state.lock().unwrap().joins, 0);
    assert!(host.visitors.try_recv().is_err());
}

#[tokio::test]
async fn a_rendezvous_point_that_pretends_to_be_the_seed_is_found_out() {
    let relay = Relay::new(Ways {
        pretends: true,
        ..Ways::default()
    });
    let host = Host::new(&relay, Limits::default());
    let (_standing, seed) = host.stand().await;
    let visited = visit(&relay, &seed, &swarm()).await;
    assert_eq!(visited.err(), Some(VisitError::Impostor));
}

#[tokio::test]
async fn a_rendezvous_point_that_changes_a_byte_ends_the_stream_at_both_ends() {
    // In the first record after the answer, in a later one, at their beginnings and in their tags.
    for at in [48, 60, 48 + 927, 48 + 16_000, 48 + 20_000] {
        for visitors in [true, false] {
            let change = move |passed: usize, bytes: &mut Vec<u8>| {
                let at = if visitors { at } else { at - 48 };
                if (passed..passed + bytes.len()).contains(&at) {
                    bytes[at - passed] ^= 1;
                }
            };
            let none: Change = Box::new(|_, _| {});
            let (to_visitor, to_seed): (Change, Change) = if visitors {
                (Box::new(change), none)
            } else {
                (none, Box::new(change))
            };
            let relay = Relay::new(Ways {
                to_visitor,
                to_seed,
                ..Ways::default()
            });
            let mut host = Host::new(&relay, Limits::default());
            let (_standing, seed) = host.stand().await;
            let (visited, came) = met(&relay, &mut host, &seed).await;
            let (mut reads, mut other) = if visitors {
                (visited, came)
            } else {
                (came, visited)
            };
            let bytes = noise(1, 400_000);
            let reading = async {
                let mut right = Vec::new();
                let failed = loop {
                    let mut some = [0; 5000];
                    match reads.read(&mut some).await {
                        Ok(n) => right.extend_from_slice(&some[..n]),
                        Err(error) => break error.kind(),
                    }
                };
                assert!(bytes.starts_with(&right), "{at}: nothing false came");
                assert!(right.len() <= at && bytes.len() > right.len());
                let write = reads.write(b"more").await;
                (failed, write.err().map(|error| error.kind()))
            };
            let writing = async {
                let wrote = other.write_all(&bytes).await;
                let mut some = [0; 10];
                (wrote.is_err(), other.read(&mut some).await.is_err())
            };
            let (read, (wrote, read_back)) = tokio::join!(reading, writing);
            assert_eq!(
                read,
                (io::ErrorKind::InvalidData, Some(io::ErrorKind::BrokenPipe))
            );
            assert!(wrote && read_back, "{at}: the other end is over too");
        }
    }
}

#[tokio::test]
async fn an_end_that_the_seed_did_not_say_is_an_error() {
    let relay = Relay::new(Ways {
        cut_off: 48 + 2 * 16_000,
        ..Ways::default()
    });
    let mut host = Host::new(&relay, Limits::default());
    let (_standing, seed) = host.stand().await;
    let (mut visited, mut came) = met(&relay, &mut host, &seed).await;
    let bytes = noise(1, 100_000);
    let sending = async {
        let _ = came.write_all(&bytes).await;
    };
    let mut read = Vec::new();
    let (_, end) = tokio::join!(sending, visited.read_to_end(&mut read));
    assert_eq!(end.err().unwrap().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(read, bytes[..2 * 15_980]);
}

#[tokio::test(start_paused = true)]
async fn an_introduction_point_that_floods_is_left_and_the_others_go_on() {
    let relay = Relay::default();
    let mut host = Host::new(&relay, Limits::default());
    let (mut flooding, bad) = host.stand().await;
    let (_standing, good) = host.stand().await;
    let flood = encode_record(&[9; MESSAGE_LEN])
        .unwrap()
        .repeat(FLOOD + 100);
    relay.say(&bad.introduction, flood);
    assert_eq!(flooding.lost().await, Lost::Broken);
    let counters = host.reception.counters();
    assert!(
        (1..40).contains(&counters.foreign),
        "{counters:?}: few were looked at"
    );
    assert!(counters.refused > FLOOD && counters.taken == 0);
    let (visited, came) = met(&relay, &mut host, &good).await;
    let (a, b) = tokio::join!(exchange(visited, b"a"), exchange(came, b"b"));
    assert!(a.is_ok() && b.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_introduction_point_that_breaks_the_protocol_or_goes_is_lost() {
    let relay = Relay::default();
    let host = Host::new(&relay, Limits::default());
    let (mut standing, seed) = host.stand().await;
    relay.say(&seed.introduction, vec![255; 10]);
    assert_eq!(standing.lost().await, Lost::Broken);
    let (mut standing, _) = host.stand().await;
    relay.state.lock().unwrap().points.clear();
    assert_eq!(standing.lost().await, Lost::Ended);
}

#[tokio::test(start_paused = true)]
async fn visitors_whom_nobody_takes_are_bounded_and_not_met() {
    let relay = Relay::default();
    let limits = Limits {
        waiting: 3,
        at_once: 2,
        untaken: 1,
        ..Limits::default()
    };
    let mut host = Host::new(&relay, limits);
    let (_standing, seed) = host.stand().await;
    let swarm = swarm();
    let mut visits = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (relay, swarm) = (relay.clone(), swarm.clone());
        visits.spawn(async move { visit(&relay, &seed, &swarm).await.is_ok() });
    }
    let met = visits.join_all().await;
    let met = met.into_iter().filter(|met| *met).count();
    // One whose stream nobody has taken.
    assert_eq!((met, relay.state.lock().unwrap().joins), (1, 1));
    let counters = host.reception.counters();
    assert!(counters.refused >= 12 - 1 - 3 - 1, "{counters:?}");
    assert!(host.visitors.recv().await.is_some());
}

/// Tells a seed of so many who say that they wait at the relay that says nothing.
async fn name_a_relay_that_stalls(relay: &Relay, seed: &Seed, count: u8) {
    for n in 0..count {
        let meeting = Meeting {
            relay: STALLS,
            digest: DIGEST,
            cookie: Cookie([n; 20]),
        };
        let (key, at) = (&seed.key, &seed.introduction);
        let (_, message) = Visitor::start(key, at, &swarm(), &meeting, &mut rand::rng()).unwrap();
        relay.say(at, encode_record(&message).unwrap());
        tokio::task::yield_now().await;
    }
}

/// As many a second as come.
fn unlimited() -> Limits {
    Limits {
        introductions_per_second: NonZeroU32::MAX,
        introductions_per_second_per_point: NonZeroU32::MAX,
        ..Limits::default()
    }
}

#[tokio::test(start_paused = true)]
async fn who_names_a_relay_that_stalls_keeps_nobody_from_the_others() {
    let relay = Relay::default();
    let mut host = Host::new(&relay, unlimited());
    let (_standing, seed) = host.stand().await;
    let begun = Instant::now();
    name_a_relay_that_stalls(&relay, &seed, 30).await;
    for _ in 0..20 {
        met(&relay, &mut host, &seed).await;
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(1));
    assert_eq!(relay.state.lock().unwrap().stalled, 2);
}

#[tokio::test(start_paused = true)]
async fn who_has_waited_for_too_long_is_not_met_and_leaves_room() {
    let relay = Relay::default();
    let mut host = Host::new(&relay, unlimited());
    let (_standing, seed) = host.stand().await;
    name_a_relay_that_stalls(&relay, &seed, 68).await;
    let seconds = std::time::Duration::from_secs;
    tokio::time::sleep(seconds(15)).await;
    let full = host.reception.counters();
    // Two are met at a time, for 20 s each; 64 wait.
    assert_eq!((full.taken, full.refused, full.effort), (66, 2, 0));
    tokio::time::sleep(seconds(30)).await;
    assert_eq!(relay.state.lock().unwrap().stalled, 4);
    assert_eq!(host.reception.counters().refused, 2 + 62);
    met(&relay, &mut host, &seed).await;
    // They were turned away: more came than could be met.
    tokio::time::sleep(seconds(15)).await;
    assert_eq!(host.reception.counters().effort, FIRST_EFFORT);
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_writer() {
    let relay = Relay::default();
    let mut host = Host::new(&relay, Limits::default());
    let (_standing, seed) = host.stand().await;
    let (visited, mut came) = met(&relay, &mut host, &seed).await;
    let mut sent = 0;
    let block = noise(1, 64 * 1024);
    let limit = std::time::Duration::from_millis(300);
    while let Ok(n) = tokio::time::timeout(limit, came.write(&block)).await {
        sent += n.unwrap();
        assert!(sent < 8 * PIPE, "{sent}");
    }
    drop(visited);
}

#[tokio::test]
async fn a_seed_that_stops_standing_is_not_found() {
    let relay = Relay::default();
    let host = Host::new(&relay, Limits::default());
    let (standing, seed) = host.stand().await;
    drop(standing);
    let other = Relay::default();
    let visited = visit(&other, &seed, &swarm()).await;
    let gone = RouteError::ConnectionRefused;
    assert_eq!(visited.err(), Some(VisitError::NotIntroduced(gone)));
}
