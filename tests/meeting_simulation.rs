//! Hidden seeds and their visitors in a simulated network whose relays lie, replay, flood, drop, cross and cut off, each as chance has
//! it: the real code of both sides, in virtual time. A visitor ends with the seed itself, or is told within a
//! bounded time that it does not, and then tries again; what it reads is what the seed said, or nothing.
//!
//! Each network is drawn from a number that is told when something fails.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm
)]

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hushswarm::hidden::{Book, HiddenRoute, Host, HostOptions, Identity, Sealed};
use hushswarm::route::{At, BoxFuture, BoxStream, Datagrams, Meet, Met, Outside, RouteError};
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::keys::RelayId;
use hushswarm_circuits::rendezvous::wire::encode_record;
use hushswarm_circuits::rendezvous::{Contact, Cookie, IntroductionId, Status, SwarmKey};
use hushswarm_circuits::target::Target;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

const NETWORKS: u64 = 300;
const RELAYS: usize = 10;
/// Of each kind, so that an honest one can be found at all.
const LEAST_HONEST: usize = 3;
const VISITORS: usize = 3;
/// How often a visitor calls, which a swarm does as long as it has nobody.
const CALLS: usize = 30;
/// Of so many that could lead to the seed one does: at each the place to meet is good in three cases of ten at the least.
const FAIR_CALLS: usize = 20;
const BETWEEN_CALLS: Duration = Duration::from_secs(20);
/// A call is over by then: three points one after the other, and the time in which two meet.
const CALL_LIMIT: Duration = Duration::from_secs(90);
/// What a swarm waits for a peer that says nothing.
const SILENCE: Duration = Duration::from_secs(60);
/// What is said on each meeting, each way, bytes.
const SAID: usize = 100_000;
const PIPE: usize = 64 * 1024;
/// As routes give up a relay that does not answer.
const UNANSWERED: Duration = Duration::from_secs(25);
const INFOHASH: [u8; 20] = *b"an infohash of twent";

/// What a relay does as an introduction point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Introduces {
    Honestly,
    /// Says that it handed on what it did not.
    Drops,
    /// Says that nobody has the key.
    Denies,
    /// Changes a byte.
    Garbles,
    /// Hands on many times, and what it handed on before.
    Replays,
    /// Says a hundred messages a second, its own and old ones.
    Floods,
    /// Answers no visitor.
    Stalls,
    /// Ends the seed's stream now and then.
    CutsOff,
}

/// What a relay does as a rendezvous point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Meets {
    Honestly,
    /// Lets the seed join, and passes on nothing.
    Swallows,
    /// Says to the seed that nobody waits.
    Denies,
    /// Answers in the seed's place.
    Pretends,
    /// Changes a byte somewhere, of one or the other.
    Garbles,
    /// Says some of it twice.
    Repeats,
    /// Ends it somewhere, as the other side would.
    CutsOff,
    /// Joins those who did not ask for each other.
    Crosses,
    /// Answers nobody.
    Stalls,
    /// Takes nobody.
    Refuses,
}

const INTRODUCES: [Introduces; 7] = [
    Introduces::Drops,
    Introduces::Denies,
    Introduces::Garbles,
    Introduces::Replays,
    Introduces::Floods,
    Introduces::Stalls,
    Introduces::CutsOff,
];
const MEETS: [Meets; 9] = [
    Meets::Swallows,
    Meets::Denies,
    Meets::Pretends,
    Meets::Garbles,
    Meets::Repeats,
    Meets::CutsOff,
    Meets::Crosses,
    Meets::Stalls,
    Meets::Refuses,
];

struct Relay {
    introduces: Introduces,
    meets: Meets,
    points: HashMap<IntroductionId, mpsc::Sender<Vec<u8>>>,
    /// Messages that it saw.
    heard: Vec<Vec<u8>>,
    waiting: HashMap<Cookie, DuplexStream>,
}

struct State {
    relays: Vec<Relay>,
    rng: StdRng,
    /// How often a seed came to meet who waits with this cookie.
    joined: BTreeMap<[u8; 20], usize>,
    /// How often somebody was treated so.
    introduced: BTreeMap<Introduces, usize>,
    met: BTreeMap<Meets, usize>,
}

/// A simulated network. Everybody's way out is the same.
#[derive(Clone)]
struct Net(Arc<Mutex<State>>);

fn id(n: usize) -> RelayId {
    RelayId([n as u8 + 1; 32])
}

fn digest(n: usize) -> [u8; 32] {
    [n as u8 + 101; 32]
}

impl Net {
    fn draw(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        // From a network of good ones to one where nearly all are bad.
        let bad = rng.random_range(0.1..0.9);
        let relays = (0..RELAYS).map(|n| {
            // Which ones are honest does not matter: everybody draws.
            let honest = n < LEAST_HONEST;
            let introduces = match honest || !rng.random_bool(bad) {
                true => Introduces::Honestly,
                false => INTRODUCES[rng.random_range(0..INTRODUCES.len())],
            };
            let honest = n >= RELAYS - LEAST_HONEST;
            let meets = match honest || !rng.random_bool(bad) {
                true => Meets::Honestly,
                false => MEETS[rng.random_range(0..MEETS.len())],
            };
            Relay {
                introduces,
                meets,
                points: HashMap::new(),
                heard: Vec::new(),
                waiting: HashMap::new(),
            }
        });
        let relays = relays.collect();
        Self(Arc::new(Mutex::new(State {
            relays,
            rng,
            joined: BTreeMap::new(),
            introduced: BTreeMap::new(),
            met: BTreeMap::new(),
        })))
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    /// Whether any of these points is at an honest relay.
    fn is_honest(&self, contact: &Contact) -> bool {
        self.with(|state| {
            let mut relays = state.relays.iter().enumerate();
            relays.any(|(n, relay)| {
                let stands = contact.points().iter().any(|point| point.relay == id(n));
                stands && relay.introduces == Introduces::Honestly
            })
        })
    }

    async fn asked(&self, at: At, meet: Meet<'_>) -> Result<Met, RouteError> {
        let (relay, wait) = self.with(|state| {
            let relay = match at {
                At::Relay {
                    id: named,
                    digest: known,
                } => {
                    let relay = (0..RELAYS).find(|n| id(*n) == named);
                    relay.filter(|n| known.is_none_or(|known| known == digest(*n)))
                }
                At::Any { but } => loop {
                    let relay = state.rng.random_range(0..RELAYS);
                    if !but.contains(&id(relay)) {
                        break Some(relay);
                    }
                },
            };
            (relay, state.rng.random_range(50..800))
        });
        let relay = relay.ok_or(RouteError::Refused)?;
        // Circuits are built, and everything takes its way.
        sleep(Duration::from_millis(wait)).await;
        let stream = match meet {
            Meet::Introduction(key) => self.introduction(relay, IntroductionId(key.public().0)),
            Meet::Introduce(key, message) => self.introduce(relay, key, message).await?,
            Meet::Wait(cookie) => self.wait(relay, *cookie).await?,
            Meet::Join(cookie) => self.join(relay, cookie)?,
        };
        Ok(Met {
            stream: Box::new(stream),
            relay: id(relay),
            digest: digest(relay),
            work: None,
        })
    }

    /// A seed stands.
    fn introduction(&self, relay: usize, key: IntroductionId) -> DuplexStream {
        let (near, mut far) = tokio::io::duplex(PIPE);
        let (sender, mut messages) = mpsc::channel::<Vec<u8>>(64);
        let (introduces, life) = self.with(|state| {
            let life = state.rng.random_range(20..200);
            let point = &mut state.relays[relay];
            point.points.insert(key, sender.clone());
            (point.introduces, life)
        });
        tokio::spawn(async move {
            let carry = async {
                while let Some(message) = messages.recv().await {
                    let record = encode_record(&message).unwrap();
                    if far.write_all(&record).await.is_err() {
                        return;
                    }
                }
            };
            if introduces == Introduces::CutsOff {
                // Its end is seen by who reads.
                let _ = timeout(Duration::from_secs(life), carry).await;
            } else {
                carry.await;
            }
        });
        if introduces == Introduces::Floods {
            let net = self.clone();
            tokio::spawn(async move {
                loop {
                    let message = net.with(|state| {
                        let mut noise = vec![0; 512];
                        state.rng.fill_bytes(&mut noise);
                        let heard = &state.relays[relay].heard;
                        let old = heard.get(usize::from(noise[0]) % 4);
                        *state.introduced.entry(introduces).or_default() += 1;
                        old.cloned().unwrap_or(noise)
                    });
                    if sender.send(message).await.is_err() {
                        return;
                    }
                    sleep(Duration::from_millis(10)).await;
                }
            });
        }
        near
    }

    /// A visitor asks to be introduced.
    async fn introduce(
        &self,
        relay: usize,
        key: &IntroductionId,
        message: &[u8],
    ) -> Result<DuplexStream, RouteError> {
        let (introduces, point, say) = self.with(|state| {
            let State {
                relays,
                rng,
                introduced,
                ..
            } = state;
            let relay = &mut relays[relay];
            *introduced.entry(relay.introduces).or_default() += 1;
            let mut say = vec![message.to_vec()];
            match relay.introduces {
                Introduces::Drops => say.clear(),
                Introduces::Garbles => say[0][rng.random_range(0..512)] ^= 1,
                Introduces::Replays => {
                    say = vec![message.to_vec(); 5];
                    say.extend(relay.heard.iter().rev().take(5).cloned());
                }
                Introduces::Honestly
                | Introduces::Denies
                | Introduces::Floods
                | Introduces::Stalls
                | Introduces::CutsOff => {}
            }
            relay.heard.push(message.to_vec());
            (relay.introduces, relay.points.get(key).cloned(), say)
        });
        match introduces {
            Introduces::Stalls => {
                sleep(UNANSWERED).await;
                return Err(RouteError::TimedOut);
            }
            Introduces::Denies => return Err(RouteError::ConnectionRefused),
            _ => {}
        }
        let point = point.ok_or(RouteError::ConnectionRefused)?;
        for message in say {
            // One that reads too slowly, or is gone.
            point
                .try_send(message)
                .map_err(|_| RouteError::ConnectionRefused)?;
        }
        Ok(tokio::io::duplex(1).0)
    }

    async fn wait(&self, relay: usize, cookie: Cookie) -> Result<DuplexStream, RouteError> {
        let (near, mut far) = tokio::io::duplex(PIPE);
        let meets = self.with(|state| {
            let meets = state.relays[relay].meets;
            *state.met.entry(meets).or_default() += 1;
            meets
        });
        match meets {
            Meets::Stalls => {
                sleep(UNANSWERED).await;
                return Err(RouteError::TimedOut);
            }
            Meets::Refuses => return Err(RouteError::Busy),
            Meets::Pretends => {
                let mut answer = [0; 48];
                self.with(|state| state.rng.fill_bytes(&mut answer));
                tokio::spawn(async move {
                    sleep(Duration::from_secs(1)).await;
                    let _ = far.write_all(&[Status::Done.wire()]).await;
                    let _ = far.write_all(&answer).await;
                    let _ = far.read_u8().await;
                });
            }
            _ => {
                self.with(|state| state.relays[relay].waiting.insert(cookie, far));
            }
        }
        Ok(near)
    }

    fn join(&self, relay: usize, cookie: &Cookie) -> Result<DuplexStream, RouteError> {
        let (near, far) = tokio::io::duplex(PIPE);
        let (meets, waiter, ways) = self.with(|state| {
            let State {
                relays,
                rng,
                joined,
                ..
            } = state;
            let relay = &mut relays[relay];
            *joined.entry(cookie.0).or_default() += 1;
            let other = relay.waiting.keys().find(|other| *other != cookie).copied();
            let taken = match (relay.meets, other) {
                (Meets::Crosses, Some(other)) => other,
                _ => *cookie,
            };
            let mut way = || {
                let at = rng.random_range(0..SAID);
                match relay.meets {
                    Meets::Garbles => Way::Garble(at),
                    Meets::Repeats => Way::Repeat(at),
                    Meets::CutsOff => Way::CutOff(at),
                    Meets::Swallows => Way::CutOff(usize::MAX),
                    _ => Way::Pass,
                }
            };
            (relay.meets, relay.waiting.remove(&taken), [way(), way()])
        });
        let mut waiter = waiter.ok_or(RouteError::ConnectionRefused)?;
        match meets {
            Meets::Denies => return Err(RouteError::ConnectionRefused),
            Meets::Swallows => {
                tokio::spawn(async move {
                    let _ = waiter.write_all(&[Status::Done.wire()]).await;
                    // Both are held, and what they say goes nowhere.
                    let mut nowhere = (tokio::io::sink(), tokio::io::sink());
                    let (mut waiter, mut joiner) = (waiter, far);
                    let _ = tokio::join!(
                        tokio::io::copy(&mut waiter, &mut nowhere.0),
                        tokio::io::copy(&mut joiner, &mut nowhere.1)
                    );
                });
            }
            _ => drop(tokio::spawn(splice(waiter, far, ways))),
        }
        Ok(near)
    }
}

/// What becomes of the bytes of one direction.
#[derive(Clone, Copy)]
enum Way {
    Pass,
    Garble(usize),
    Repeat(usize),
    CutOff(usize),
}

async fn splice(mut waiter: DuplexStream, joiner: DuplexStream, ways: [Way; 2]) -> io::Result<()> {
    waiter.write_all(&[Status::Done.wire()]).await?;
    let (from_waiter, to_waiter) = tokio::io::split(waiter);
    let (from_joiner, to_joiner) = tokio::io::split(joiner);
    // One that fails takes the other with it, as a reset does.
    tokio::try_join!(
        pump(from_waiter, to_joiner, ways[0]),
        pump(from_joiner, to_waiter, ways[1])
    )?;
    Ok(())
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: Way,
) -> io::Result<()> {
    let (mut passed, mut buffer) = (0, vec![0; 4000]);
    loop {
        let n = from.read(&mut buffer).await?;
        let bytes = &mut buffer[..n];
        let within = |at: usize| (passed..passed + n).contains(&at);
        match way {
            Way::Garble(at) if within(at) => bytes[at - passed] ^= 0x10,
            Way::Repeat(at) if within(at) => to.write_all(bytes).await?,
            Way::CutOff(at) if within(at) => {
                to.write_all(&bytes[..at - passed]).await?;
                return to.shutdown().await;
            }
            _ => {}
        }
        to.write_all(bytes).await?;
        passed += n;
        if n == 0 {
            return to.shutdown().await;
        }
    }
}

impl Outside for Net {
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
        _: Isolation,
    ) -> BoxFuture<'a, Result<Met, RouteError>> {
        Box::pin(self.asked(at, meet))
    }
}

/// What a side says, the same to everybody.
fn said(side: u8) -> Vec<u8> {
    let mut out = vec![0; SAID];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[side]).finalize_xof().fill(&mut out);
    out
}

const SEED: u8 = 1;
const VISITOR: u8 = 2;

/// Says all, and hears all that the other says.
async fn exchange(stream: impl AsyncRead + AsyncWrite, own: u8) -> io::Result<Vec<u8>> {
    let (mut from, mut to) = tokio::io::split(stream);
    let (own, mut came) = (said(own), Vec::new());
    let send = async {
        to.write_all(&own).await?;
        to.shutdown().await
    };
    tokio::try_join!(send, from.read_to_end(&mut came))?;
    Ok(came)
}

/// Serves whoever comes. Who is heard to the end is a visitor.
async fn serve(mut visitors: mpsc::Receiver<Sealed>, seed: u64) {
    while let Some(stream) = visitors.recv().await {
        tokio::spawn(async move {
            if let Ok(Ok(came)) = timeout(SILENCE, exchange(stream, SEED)).await {
                assert!(
                    came == said(VISITOR),
                    "network {seed}: a stranger was heard"
                );
            }
        });
    }
}

/// How a visitor fared.
#[derive(Default)]
struct Fared {
    calls: usize,
    /// Those that could have led there: a point of the seed's was at an honest relay.
    fair: usize,
    reached: bool,
}

async fn visitor(
    net: Net,
    seed: u64,
    host: tokio::sync::watch::Receiver<Option<Contact>>,
) -> Fared {
    let book = Arc::new(Book::default());
    let route = HiddenRoute::new(Arc::new(net.clone()), Arc::clone(&book));
    let mut fared = Fared::default();
    while !fared.reached && fared.calls < CALLS {
        fared.calls += 1;
        // It stands where it stands by now.
        let contact = host.borrow().clone();
        if let Some(contact) = contact {
            fared.fair += usize::from(net.is_honest(&contact));
            let target = book.learn(INFOHASH, contact).unwrap();
            let (begun, isolation) = (Instant::now(), Isolation::new("test", b"", 0));
            let called = route.connect(&target, isolation).await;
            let took = begun.elapsed();
            assert!(took < CALL_LIMIT, "network {seed}: a call took {took:?}");
            // Any error is a clear one: it says what to do.
            if let Ok(stream) = called
                && let Ok(Ok(came)) = timeout(SILENCE, exchange(stream, VISITOR)).await
            {
                assert!(
                    came == said(SEED),
                    "network {seed}: somebody else was heard"
                );
                fared.reached = true;
                break;
            }
        }
        sleep(BETWEEN_CALLS).await;
    }
    fared
}

#[tokio::test(start_paused = true)]
async fn relays_that_lie_replay_flood_or_drop_keep_no_visitor_from_the_seed() {
    let (mut calls, mut first, mut all) = (0, 0, 0);
    let (mut introduced, mut met) = (BTreeMap::new(), BTreeMap::new());
    for seed in 0..NETWORKS {
        let net = Net::draw(seed);
        let identity = Identity::ephemeral(&mut rand::rng());
        let swarm = SwarmKey::new(&INFOHASH).unwrap();
        let way: Arc<dyn Outside> = Arc::new(net.clone());
        let (host, visitors) = Host::start(way, identity, swarm, HostOptions::default());
        let serving = tokio::spawn(serve(visitors, seed));
        sleep(Duration::from_secs(60)).await;
        let tasks = (0..VISITORS).map(|_| tokio::spawn(visitor(net.clone(), seed, host.contact())));
        for task in tasks.collect::<Vec<_>>() {
            let fared = task.await.unwrap();
            all += 1;
            calls += fared.calls;
            first += usize::from(fared.calls == 1);
            assert!(
                fared.reached || fared.fair < FAIR_CALLS,
                "network {seed}: not reached in {} calls",
                fared.fair
            );
        }
        assert!(!serving.is_finished(), "network {seed}: the seed has ended");
        net.with(|state| {
            let most = state.joined.values().max().copied().unwrap_or(0);
            assert!(
                most <= 1,
                "network {seed}: a replay cost the seed {most} circuits"
            );
            for (way, times) in &state.introduced {
                *introduced.entry(*way).or_insert(0) += times;
            }
            for (way, times) in &state.met {
                *met.entry(*way).or_insert(0) += times;
            }
        });
        drop(host);
        serving.abort();
    }
    println!("{all} visitors, {first} by their first call, {calls} calls; {introduced:?} {met:?}");
    // It is no simulation of honest relays alone.
    assert_eq!(introduced.len(), INTRODUCES.len() + 1, "{introduced:?}");
    assert_eq!(met.len(), MEETS.len() + 1, "{met:?}");
    assert!(first < all, "nothing was ever in anybody's way");
    // Half of the relays are bad. If a call tried one point alone, half of the first calls would lead there.
    assert!(
        first * 100 > all * 65,
        "{first} of {all} by their first call"
    );
}
