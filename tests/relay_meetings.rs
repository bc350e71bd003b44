//! Introduction and rendezvous over relays that run as processes of the real program (PROTOCOL.md §8).
#![allow(clippy::unwrap_used)]

#[path = "support/relays.rs"]
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use hushswarm::config::RelayConfig;
use hushswarm::hidden::{
    self, HostOptions, Identity, Keys, Limits, Reception, Sealed, Seed, Standing, VisitError, visit,
};
use hushswarm::overlay::circuit::{Circuit, Meet, StreamFailure};
use hushswarm::overlay::client::{Client, Wanted};
use hushswarm::overlay::stream::CircuitStream;
use hushswarm::route::circuits::CircuitRoute;
use hushswarm::route::{At, Outside, RouteError};
use hushswarm::state::StateDir;
use hushswarm_circuits::body::{OpenKind, OpenStatus};
use hushswarm_circuits::keys::{DhSecret, IdentityKey, Key32, RelayId};
use hushswarm_circuits::path::ExitNeed;
use hushswarm_circuits::rendezvous::wire::{MessageReader, encode_record};
use hushswarm_circuits::rendezvous::work::CHALLENGE_LEN;
use hushswarm_circuits::rendezvous::{
    Challenge, Contact, Cookie, Establish, IntroductionId, Nonce, Proof, Puzzle, Solver, Status,
    SwarmKey,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use world::{Recipe, World, key, pattern, until};

/// Longer than anything here takes, so that what hangs fails.
const LONG: Duration = Duration::from_secs(120);
const INFOHASH: [u8; 20] = *b"an infohash of twent";
const MIB: usize = 1 << 20;

/// Relays that all take introductions and meetings.
fn recipe(relays: usize) -> Recipe {
    let mut recipe = Recipe::new(relays);
    recipe.configure = introduces;
    recipe
}

fn introduces(_: usize, config: &mut RelayConfig) {
    config.roles.introduce = true;
}

fn swarm() -> SwarmKey {
    SwarmKey::new(&INFOHASH).unwrap()
}

/// An introduction key of an open seed: not a quiet one, for which relays say nothing (PROTOCOL.md §8.1).
fn loud_key() -> IdentityKey {
    let mut keys = std::iter::repeat_with(|| IdentityKey::generate(&mut rand::rng()));
    let fits = |key: &IdentityKey| !IntroductionId(key.public().0).is_quiet();
    keys.find(fits).unwrap()
}

/// A hidden seed.
struct Host {
    reception: Reception,
    visitors: mpsc::Receiver<Sealed>,
    secret: DhSecret,
}

impl Host {
    fn new(world: &World) -> Self {
        let route = CircuitRoute::new(world.client(3));
        let (reception, visitors) = Reception::open(Arc::new(route), Limits::default());
        Self {
            reception,
            visitors,
            secret: DhSecret::generate(&mut rand::rng()),
        }
    }

    async fn stand(&self, at: At) -> (Standing, Seed) {
        let keys = Keys {
            introduction: loud_key(),
            secret: self.secret.clone(),
            swarm: swarm(),
        };
        let standing = timeout(LONG, self.reception.stand(at, keys))
            .await
            .unwrap()
            .unwrap();
        let seed = Seed {
            key: self.secret.public(),
            introduction: standing.introduction(),
            at: standing.relay(),
        };
        (standing, seed)
    }

    async fn next(&mut self) -> Sealed {
        timeout(LONG, self.visitors.recv()).await.unwrap().unwrap()
    }
}

const ANYWHERE: At = At::Any { but: Vec::new() };

/// Sends bytes and reads what the other side sends, both to the end.
async fn exchange(stream: Sealed, bytes: &[u8]) -> Vec<u8> {
    let (mut from, mut to) = tokio::io::split(stream);
    let mut came = Vec::new();
    let send = async {
        to.write_all(bytes).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let receive = async { from.read_to_end(&mut came).await.unwrap() };
    tokio::join!(send, receive);
    came
}

/// Another client's circuit to this relay.
async fn circuit_to(client: &Client, id: RelayId, owner: &str) -> Arc<Circuit> {
    let wanted = Wanted {
        exit: ExitNeed::IntroduceAt(id),
        hops: None,
        not_last: &[],
    };
    client.circuit_for(key(owner), wanted).await.unwrap()
}

async fn ask(circuit: &Arc<Circuit>, meet: Meet<'_>) -> (CircuitStream, Status) {
    circuit.meet(meet, LONG).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_and_a_seed_with_three_hops_each_exchange_64_mib_both_ways() {
    let world = recipe(6).start();
    let mut host = Host::new(&world);
    let (_standing, seed) = host.stand(ANYWHERE).await;
    let visitor = CircuitRoute::new(world.client(3));
    let swarm = swarm();
    let begun = Instant::now();
    let (visited, came) = tokio::join!(visit(&visitor, &seed, &swarm), host.next());
    println!("met after {} ms", begun.elapsed().as_millis());
    let (up, down) = (pattern(1, 64 * MIB), pattern(2, 64 * MIB));
    let begun = Instant::now();
    let exchanged = async { tokio::join!(exchange(visited.unwrap(), &up), exchange(came, &down)) };
    let (to_visitor, to_seed) = timeout(LONG, exchanged).await.unwrap();
    println!(
        "{} MB/s each way",
        64 * MIB as u128 / begun.elapsed().as_micros()
    );
    assert!(to_seed == up && to_visitor == down);
    let counters = host.reception.counters();
    assert_eq!((counters.taken, counters.met, counters.foreign), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_relay_logs_a_key_an_infohash_or_an_address() {
    let world = recipe(5).start();
    let mut host = Host::new(&world);
    let (_standing, seed) = host.stand(ANYWHERE).await;
    let visitor = CircuitRoute::new(world.client(3));
    let swarm = swarm();
    let (visited, came) = tokio::join!(visit(&visitor, &seed, &swarm), host.next());
    let words = b"something that nobody else is to read";
    let (back, there) = tokio::join!(exchange(visited.unwrap(), words), exchange(came, words));
    assert_eq!((&back[..], &there[..]), (&words[..], &words[..]));
    let mut log_of_all = String::new();
    for n in 0..world.relays.len() {
        let log = world.process(n).log();
        log_of_all.push_str(&log);
        for secret in [&seed.introduction.0[..], &seed.key, &INFOHASH] {
            let hex = HEXLOWER.encode(secret);
            let listed = format!("{secret:?}");
            let listed = listed.trim_matches(['[', ']']);
            let part = &hex[..16];
            assert!(!log.contains(part) && !log.contains(listed), "{part}");
            assert!(!log.contains(&*String::from_utf8_lossy(secret)));
        }
        assert!(!log.contains("127."), "an address in the log of relay {n}");
    }
    for line in ["introduction point", "introduction ", "rendezvous "] {
        assert!(log_of_all.contains(line), "they log at all: {log_of_all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn points_are_at_other_operators_where_there_are_others() {
    const ONE_OPERATOR: [usize; 3] = [3, 4, 5];
    let world = Recipe {
        configure: |n, config| {
            config.roles.introduce = true;
            if ONE_OPERATOR.contains(&n) {
                config.family = "one".to_owned();
            }
        },
        ..recipe(7)
    }
    .start();
    let route = CircuitRoute::new(world.client(3));
    let found = async |but: &[usize], n| {
        let but = but.iter().map(|n| world.relays[*n].id).collect();
        let cookie = Cookie([n; 20]);
        let met = route.meet(At::Any { but }, Meet::Wait(&cookie), key("a"));
        world.place(&met.await.unwrap().relay)
    };
    for n in 0..12 {
        let place = found(&[3], n).await;
        assert!(!ONE_OPERATOR.contains(&place), "{place}");
    }
    // Where nobody else is left, one of the same operator will do, but none that was named.
    let place = found(&[0, 1, 2, 3, 6], 100).await;
    assert!([4, 5].contains(&place), "{place}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_introduction_point_serves_when_one_is_killed() {
    let mut world = recipe(6).start();
    let mut host = Host::new(&world);
    let (mut first, lost) = host.stand(ANYWHERE).await;
    let other = At::Any {
        but: vec![first.relay()],
    };
    let (_second, seed) = host.stand(other).await;
    world.kill(world.place(&lost.at));
    timeout(LONG, first.lost()).await.unwrap();
    let visitor = CircuitRoute::new(world.client(3));
    let swarm = swarm();
    let failed = visit(&visitor, &lost, &swarm).await;
    assert!(
        matches!(
            failed,
            Err(VisitError::NotIntroduced(_) | VisitError::NoPlace(_))
        ),
        "{failed:?}"
    );
    // The seed comes once to each call, and perhaps through the relay that is gone: whoever calls does so again.
    let visiting = async {
        loop {
            if let Ok(stream) = visit(&visitor, &seed, &swarm).await {
                return stream;
            }
        }
    };
    let (visited, came) = tokio::join!(visiting, host.next());
    let (back, there) = tokio::join!(exchange(visited, b"a"), exchange(came, b"b"));
    assert_eq!((&back[..], &there[..]), (&b"b"[..], &b"a"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_without_the_role_takes_nothing_and_none_is_found_where_nobody_has_it() {
    let world = Recipe::new(3).start();
    let client = world.client(3);
    let route = CircuitRoute::new(client.clone());
    let cookie = Cookie([1; 20]);
    let asked = route.meet(ANYWHERE, Meet::Wait(&cookie), key("a")).await;
    assert_eq!(asked.err(), Some(RouteError::Refused));
    // Asked by somebody who does not look at the list.
    let circuit = client.fresh_circuit(ExitNeed::Any).await.unwrap();
    let introduction = loud_key();
    let id = IntroductionId([1; 32]);
    for meet in [
        Meet::Introduction(&introduction),
        Meet::Introduce(&id, b"message"),
        Meet::Wait(&cookie),
        Meet::Join(&cookie),
    ] {
        let refused = circuit.meet(meet, LONG).await.err();
        assert_eq!(refused, Some(StreamFailure::Status(OpenStatus::Refused)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_and_keys_that_nobody_has_are_unknown_and_a_cookie_joins_once() {
    let world = recipe(3).start();
    let (a, b) = (world.client(3), world.client(3));
    let at = world.relays[1].id;
    let (a, b) = (circuit_to(&a, at, "a").await, circuit_to(&b, at, "b").await);
    let cookie = Cookie([7; 20]);
    assert_eq!(ask(&b, Meet::Join(&cookie)).await.1, Status::Unknown);
    let nobody = Meet::Introduce(&IntroductionId([3; 32]), b"message");
    assert_eq!(ask(&b, nobody).await.1, Status::Unknown);
    let (mut waiting, status) = ask(&a, Meet::Wait(&cookie)).await;
    assert_eq!(status, Status::Done);
    assert_eq!(ask(&b, Meet::Wait(&cookie)).await.1, Status::Refused);
    // Sent before anybody has joined: it is kept.
    waiting.write_all(b"early").await.unwrap();
    let (mut joined, status) = ask(&b, Meet::Join(&cookie)).await;
    assert_eq!(status, Status::Done);
    assert_eq!(waiting.read_u8().await.unwrap(), Status::Done.wire());
    assert_eq!(ask(&b, Meet::Join(&cookie)).await.1, Status::Unknown);
    let mut early = [0; 5];
    joined.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early");
    // One direction ends, and the other goes on.
    waiting.shutdown().await.unwrap();
    assert_eq!(joined.read(&mut early).await.unwrap(), 0);
    joined.write_all(b"later").await.unwrap();
    waiting.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"later");
    joined.shutdown().await.unwrap();
    assert_eq!(waiting.read(&mut early).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_and_a_lost_circuit_reach_the_other_end() {
    let world = recipe(3).start();
    let (first, second) = (world.client(3), world.client(3));
    let at = world.relays[1].id;
    for (n, by_circuit) in [(1, false), (2, true), (3, false), (4, true)] {
        let (owner, cookie) = (format!("{n}"), Cookie([n; 20]));
        let a = circuit_to(&first, at, &owner).await;
        let b = circuit_to(&second, at, &owner).await;
        let (mut waiting, _) = ask(&a, Meet::Wait(&cookie)).await;
        let (mut joined, _) = ask(&b, Meet::Join(&cookie)).await;
        assert_eq!(waiting.read_u8().await.unwrap(), 0);
        waiting.write_all(b"a").await.unwrap();
        assert_eq!(joined.read_u8().await.unwrap(), b'a');
        let (gone, circuit, mut left) = if n > 2 {
            (waiting, a, joined)
        } else {
            (joined, b, waiting)
        };
        if by_circuit {
            circuit.close();
        } else {
            drop(gone);
        }
        let read = timeout(LONG, left.read_u8()).await.unwrap();
        assert!(read.is_err(), "{n}");
        let error = read.err().unwrap().kind();
        assert_eq!(error, std::io::ErrorKind::ConnectionReset, "{n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_introduction_point_is_its_keys_holders_and_moves_with_it() {
    let world = recipe(3).start();
    let (a, b) = (world.client(3), world.client(3));
    let at = world.relays[1].id;
    let (a, b) = (circuit_to(&a, at, "a").await, circuit_to(&b, at, "b").await);
    let seed = loud_key();
    let id = IntroductionId(seed.public().0);
    let (mut first, status) = ask(&a, Meet::Introduction(&seed)).await;
    assert_eq!(status, Status::Done);
    assert_eq!(ask(&b, Meet::Introduce(&id, b"one")).await.1, Status::Done);
    let mut record = encode_record(b"...").unwrap();
    first.read_exact(&mut record).await.unwrap();
    assert_eq!(record, encode_record(b"one").unwrap());
    let (mut second, status) = ask(&b, Meet::Introduction(&seed)).await;
    assert_eq!(status, Status::Done);
    assert_eq!(first.read(&mut record).await.unwrap(), 0, "it was moved");
    assert_eq!(ask(&b, Meet::Introduce(&id, b"two")).await.1, Status::Done);
    second.read_exact(&mut record).await.unwrap();
    assert_eq!(record, encode_record(b"two").unwrap());
    drop(second);
    let mut gone = Status::Done;
    for _ in 0..100 {
        gone = ask(&a, Meet::Introduce(&id, b"three")).await.1;
        if gone == Status::Unknown {
            break;
        }
        // The reset may still be on its way, and the rate is five a second.
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(gone, Status::Unknown);
}

/// Comes to this key until work is asked for: that may be on its way.
async fn asked(circuit: &Arc<Circuit>, id: &IntroductionId) -> (CircuitStream, Challenge) {
    let asking = async {
        loop {
            let (mut stream, status) = ask(circuit, Meet::Introduce(id, b"message")).await;
            if status == Status::Work {
                let mut challenge = [0; CHALLENGE_LEN];
                stream.read_exact(&mut challenge).await.unwrap();
                return (stream, Challenge::decode(&challenge).unwrap());
            }
            sleep(Duration::from_millis(300)).await;
        }
    };
    timeout(LONG, asking).await.unwrap()
}

fn solve(challenge: &Challenge, id: &IntroductionId) -> Nonce {
    let mut solver = Solver::new(challenge, id, b"message", &mut rand::rng());
    solver.attempt(1 << 16).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_seed_asks_for_work_a_relay_hands_on_only_what_was_worked_for() {
    let world = recipe(3).start();
    let (a, b) = (world.client(3), world.client(3));
    let at = world.relays[1].id;
    let a = circuit_to(&a, at, "a").await;
    let (good, bad) = (circuit_to(&b, at, "b").await, circuit_to(&b, at, "c").await);
    let seed = loud_key();
    let id = IntroductionId(seed.public().0);
    let (mut stands, status) = ask(&a, Meet::Introduction(&seed)).await;
    assert_eq!(status, Status::Done);
    let puzzle = Puzzle::generate(64, &mut rand::rng());
    stands.write_all(&puzzle.encode()).await.unwrap();
    let (mut stream, challenge) = asked(&good, &id).await;
    assert_eq!(challenge.effort(), 64);
    let found = solve(&challenge, &id);
    stream.write_all(&found).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), Status::Done.wire());
    // What was found for one stream, in another; and one that fits nowhere.
    let (mut stream, other) = asked(&bad, &id).await;
    assert_ne!(other, challenge, "each is asked for something else");
    let mut nonces = std::iter::once(found).chain((0..=u8::MAX).map(|n| [n; 16]));
    let misfit = nonces.find(|nonce| !other.is_met(&id, b"message", nonce));
    stream.write_all(&misfit.unwrap()).await.unwrap();
    assert!(timeout(LONG, stream.read_u8()).await.unwrap().is_err());
    until("the circuit is destroyed", || bad.is_closed()).await;
    // The next that comes to the seed is the next that was worked for.
    let (mut stream, challenge) = asked(&good, &id).await;
    let last = solve(&challenge, &id);
    stream.write_all(&last).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), Status::Done.wire());
    let (mut reader, mut buffer, mut proofs) = (MessageReader::default(), [0; 4096], Vec::new());
    let reading = async {
        while proofs.len() < 2 {
            let n = stands.read(&mut buffer).await.unwrap();
            reader.push(&buffer[..n]);
            while let Some(handed) = reader.next().unwrap() {
                assert_eq!(handed.message, b"message");
                // What came before the relay had the puzzle.
                if handed.proof != Proof::NONE {
                    assert!(handed.proof.holds(&puzzle, &id, b"message"));
                    proofs.push(handed.proof.encode());
                }
            }
        }
    };
    timeout(LONG, reading).await.unwrap();
    assert!(proofs[0].ends_with(&found) && proofs[1].ends_with(&last));
    // No more work.
    stands.write_all(&Puzzle::NONE.encode()).await.unwrap();
    let asking = async {
        while ask(&good, Meet::Introduce(&id, b"message")).await.1 != Status::Done {
            sleep(Duration::from_millis(300)).await;
        }
    };
    timeout(LONG, asking).await.unwrap();
    // A quiet key asks for nothing.
    let mut keys = std::iter::repeat_with(|| IdentityKey::generate(&mut rand::rng()));
    let quiet = keys.find(|key| IntroductionId(key.public().0).is_quiet());
    let (mut stands, status) = ask(&a, Meet::Introduction(&quiet.unwrap())).await;
    assert_eq!(status, Status::Done);
    stands.write_all(&puzzle.encode()).await.unwrap();
    assert!(timeout(LONG, stands.read_u8()).await.unwrap().is_err());
    world.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_signed_for_another_circuit_is_refused_and_one_that_is_broken_resets() {
    let world = recipe(3).start();
    let (a, b) = (world.client(3), world.client(3));
    let at = world.relays[1].id;
    let (a, b) = (circuit_to(&a, at, "a").await, circuit_to(&b, at, "b").await);
    let seed = loud_key();
    // As somebody has it who was the introduction point in another circuit.
    let stolen = Establish::sign(&seed, &Key32::new([1; 32])).encode();
    let asked = a.ask(OpenKind::IntroductionPoint, &stolen, LONG).await;
    assert_eq!(asked.unwrap().1, Status::Refused);
    let id = IntroductionId(seed.public().0);
    assert_eq!(
        ask(&b, Meet::Introduce(&id, b"message")).await.1,
        Status::Unknown
    );
    // No length, and more than there may be.
    for length in [[0, 0], [8, 1]] {
        let broken = [&id.0[..], &length, &[1; 3000]].concat();
        let asked = a.ask(OpenKind::Introduce, &broken, LONG).await;
        assert_eq!(asked.err(), Some(StreamFailure::CircuitLost));
        assert!(!a.is_closed(), "the stream alone is reset");
    }
    world.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_are_refused_and_others_are_served() {
    let mut recipe = Recipe::new(3);
    recipe.configure = |_, config| {
        introduces(0, config);
        let limit = |number| std::num::NonZeroU32::new(number).unwrap();
        config.introductions.introduction_points_per_circuit = limit(2);
        config.introductions.rendezvous_points_per_circuit = limit(3);
        config.introductions.introductions_per_second_per_circuit = limit(2);
    };
    let world = recipe.start();
    let (a, b) = (world.client(3), world.client(3));
    let at = world.relays[1].id;
    let (a, b) = (circuit_to(&a, at, "a").await, circuit_to(&b, at, "b").await);
    let (mut held, mut refused) = (Vec::new(), 0);
    for n in 0..6_u8 {
        let seed = loud_key();
        for meet in [Meet::Introduction(&seed), Meet::Wait(&Cookie([n; 20]))] {
            match a.meet(meet, LONG).await {
                Ok((stream, status)) => {
                    assert_eq!(status, Status::Done);
                    held.push(stream);
                }
                Err(failure) => {
                    assert_eq!(failure, StreamFailure::Status(OpenStatus::Limit));
                    refused += 1;
                }
            }
        }
    }
    assert_eq!((held.len(), refused), (5, 7));
    let seed = loud_key();
    let (_standing, status) = ask(&b, Meet::Introduction(&seed)).await;
    assert_eq!(status, Status::Done, "another circuit has its own share");
    let id = IntroductionId(seed.public().0);
    let mut over = 0;
    for _ in 0..20 {
        let asked = a.meet(Meet::Introduce(&id, b"message"), LONG).await;
        over += usize::from(asked.err() == Some(StreamFailure::Status(OpenStatus::Limit)));
    }
    assert!(over > 5, "{over}");
    world.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_stop_bound_what_a_rendezvous_point_holds() {
    let mut recipe = recipe(3);
    recipe.configure = |_, config| {
        introduces(0, config);
        let limit = std::num::NonZeroU32::new(u32::from(HELD)).unwrap();
        config.introductions.rendezvous_points_per_circuit = limit;
    };
    let world = recipe.start();
    let (a, b) = (world.client(3), world.client(3));
    let at = world.relays[1].id;
    let (a, b) = (circuit_to(&a, at, "a").await, circuit_to(&b, at, "b").await);
    let before = world.process(1).rss();
    let mut held = fill(&a, &b).await;
    let grown = world.process(1).rss().saturating_sub(before);
    println!("grown by {grown} KiB");
    assert!(
        grown < 32 * 1024,
        "{grown} KiB for eight streams that nobody reads"
    );
    // And they go on where they were: all that was taken comes.
    let (waiting, _, sent) = &mut held[3];
    let mut some = vec![0; *sent];
    timeout(LONG, waiting.read_exact(&mut some))
        .await
        .unwrap()
        .unwrap();
    assert!(some.iter().all(|byte| *byte == 3));
    drop(held);
    // What they held is given back: as many others take the same place, time and again.
    for _ in 0..4 {
        drop(fill(&a, &b).await);
    }
    let again = world.process(1).rss().saturating_sub(before);
    println!("grown by {again} KiB after five times as many");
    assert!(again < 2 * grown.max(4 * 1024), "{grown}, then {again} KiB");
}

/// Streams through one rendezvous point that are held at once.
const HELD: u8 = 8;

/// Meetings whose visitor never reads, with what the seed could say until nothing was taken any more.
async fn fill(a: &Arc<Circuit>, b: &Arc<Circuit>) -> Vec<(CircuitStream, CircuitStream, usize)> {
    let mut held = Vec::new();
    for n in 0..HELD {
        let cookie = Cookie([n; 20]);
        // Those that were there before may not be gone yet.
        let asking = async {
            loop {
                if let Ok((waiting, Status::Done)) = a.meet(Meet::Wait(&cookie), LONG).await {
                    return waiting;
                }
                sleep(Duration::from_millis(200)).await;
            }
        };
        let mut waiting = timeout(LONG, asking).await.unwrap();
        let (mut joined, _) = ask(b, Meet::Join(&cookie)).await;
        assert_eq!(waiting.read_u8().await.unwrap(), 0);
        let block = vec![n; 256 * 1024];
        let mut sent = 0;
        let filling = async {
            loop {
                match timeout(Duration::from_millis(500), joined.write(&block)).await {
                    Ok(wrote) => sent += wrote.unwrap(),
                    // Not only slow: more than one window is full.
                    Err(_) if sent > 300 * 1024 => break,
                    Err(_) => {}
                }
                // Two windows, the queues of three programs, and what is on the way.
                assert!(sent < 4 * MIB, "{sent} bytes went to nobody");
            }
        };
        timeout(LONG, filling).await.unwrap();
        held.push((waiting, joined, sent));
    }
    held
}

/// Waits until a seed names so many points, and these stand.
async fn named(contact: &mut watch::Receiver<Option<Contact>>, points: usize) -> Contact {
    let whole = |contact: &Option<Contact>| {
        let named = contact.as_ref().map_or(0, |contact| contact.points().len());
        named == points
    };
    let named = timeout(LONG, contact.wait_for(whole)).await.unwrap();
    named.unwrap().clone().unwrap()
}

/// Visits a seed at each of its points.
async fn visit_all(visitor: &CircuitRoute, contact: &Contact, came: &mut mpsc::Receiver<Sealed>) {
    let swarm = swarm();
    for point in contact.points() {
        let seed = Seed {
            key: contact.key,
            introduction: point.introduction,
            at: point.relay,
        };
        let next = async { timeout(LONG, came.recv()).await.unwrap().unwrap() };
        let (visited, came) = tokio::join!(visit(visitor, &seed, &swarm), next);
        let (back, there) = tokio::join!(exchange(visited.unwrap(), b"a"), exchange(came, b"b"));
        assert_eq!((&back[..], &there[..]), (&b"b"[..], &b"a"[..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_introduction_relay_is_killed_takes_another_and_visitors_come() {
    let mut world = recipe(8).start();
    let outside = Arc::new(CircuitRoute::new(world.client(3)));
    let identity = Identity::ephemeral(&mut rand::rng());
    let key = identity.key();
    let options = HostOptions::default();
    let (host, mut came) = hidden::Host::start(outside, identity, swarm(), options);
    let mut contact = host.contact();
    let first = named(&mut contact, 3).await;
    assert_eq!(first.key, key.0);
    let visitor = CircuitRoute::new(world.client(3));
    visit_all(&visitor, &first, &mut came).await;
    let gone = first.points()[0].relay;
    world.kill(world.place(&gone));
    let without = |contact: &Option<Contact>| {
        let points = contact.as_ref().map_or(&[][..], Contact::points);
        points.len() == 3 && points.iter().all(|point| point.relay != gone)
    };
    // It is waited for first, and circuits through it are found out to be dead.
    timeout(3 * LONG, contact.wait_for(without))
        .await
        .unwrap()
        .unwrap();
    let second = contact.borrow().clone().unwrap();
    let kept = second
        .points()
        .iter()
        .filter(|point| first.points().contains(point));
    assert_eq!(kept.count(), 2);
    visit_all(&visitor, &second, &mut came).await;
    assert_eq!(host.status().standing, 3);
    assert_eq!(host.status().counters.met, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_starts_again_is_found_where_it_was() {
    let world = recipe(6).start();
    let state = StateDir::open(world.dir.path().join("seed")).unwrap();
    let visitor = CircuitRoute::new(world.client(3));
    let mut before = None;
    for _ in 0..2 {
        let outside = Arc::new(CircuitRoute::new(world.client(3)));
        let identity = Identity::keep(&state, &INFOHASH, &mut rand::rng()).unwrap();
        let options = HostOptions::default();
        let (host, mut came) = hidden::Host::start(outside, identity, swarm(), options);
        let mut contact = host.contact();
        let mut now = named(&mut contact, 3).await;
        until("all stand", || host.status().standing == 3).await;
        now = contact.borrow().clone().unwrap_or(now);
        // As somebody calls it who has an old link.
        let told = before.get_or_insert_with(|| now.clone());
        assert_eq!(*told, now);
        visit_all(&visitor, told, &mut came).await;
    }
}
