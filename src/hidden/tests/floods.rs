//! Floods, and introduction points that ask for work or lie about it, in virtual time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hushswarm_circuits::rendezvous::toll::{FIRST_EFFORT, PERIOD};
use hushswarm_circuits::rendezvous::work::{MAX_EFFORT, NONCE_LEN, PUZZLE_LEN, SALT_LEN};
use hushswarm_circuits::rendezvous::{Contact, Handed, Point, Proof, Puzzle};
use rand::Rng as _;
use tokio::time::{Instant, sleep, timeout};

use super::*;

/// What a relay hands on a second for one key.
const PER_SECOND: f64 = 10.0;
/// Between two introductions of a flood: thirty times as many as are handed on.
const FLOOD_EVERY: Duration = Duration::from_millis(3);

/// What an introduction point does with who should work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    /// Asks for it, and hands on what was worked for.
    Honest,
    /// Hands on what was not worked for, as if it were.
    ChecksNothing,
    /// Hands on somebody's work with another message.
    TakesWork,
    /// Asks for nothing.
    AsksNothing,
    /// Asks for more than anybody does.
    Absurd,
}

struct Held {
    messages: mpsc::Sender<Vec<u8>>,
    puzzle: Puzzle,
    refused: u16,
    room: f64,
    since: Instant,
}

/// The relay of the other tests, with introduction points that ask for work.
#[derive(Clone)]
struct Points {
    relay: Relay,
    held: Arc<Mutex<HashMap<IntroductionId, Held>>>,
    does: Arc<Mutex<HashMap<IntroductionId, Does>>>,
    /// Visitors that were asked to work.
    asked: Arc<AtomicUsize>,
}

impl Points {
    fn new() -> Self {
        Self {
            relay: Relay::default(),
            held: Arc::default(),
            does: Arc::default(),
            asked: Arc::default(),
        }
    }

    fn does(&self, key: &IntroductionId) -> Does {
        let does = self.does.lock().unwrap();
        does.get(key).copied().unwrap_or(Does::Honest)
    }

    fn now(&self, key: &IntroductionId, does: Does) {
        self.does.lock().unwrap().insert(*key, does);
    }

    fn puzzle(&self, key: &IntroductionId) -> Puzzle {
        self.held.lock().unwrap()[key].puzzle
    }

    fn stand(&self, key: IntroductionId) -> DuplexStream {
        let (near, far) = tokio::io::duplex(PIPE);
        let (sender, mut messages) = mpsc::channel::<Vec<u8>>(16);
        let held = Held {
            messages: sender,
            puzzle: Puzzle::NONE,
            refused: 0,
            room: PER_SECOND,
            since: Instant::now(),
        };
        self.held.lock().unwrap().insert(key, held);
        let (mut from, mut to) = tokio::io::split(far);
        tokio::spawn(async move {
            while let Some(bytes) = messages.recv().await {
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        let held = Arc::clone(&self.held);
        tokio::spawn(async move {
            let mut puzzle = [0; PUZZLE_LEN];
            while from.read_exact(&mut puzzle).await.is_ok() {
                let puzzle = Puzzle::decode(&puzzle).unwrap();
                let mut held = held.lock().unwrap();
                let held = held.get_mut(&key).unwrap();
                (held.puzzle, held.refused) = (puzzle, 0);
            }
        });
        near
    }

    fn hand_on(&self, key: &IntroductionId, proof: Proof, message: &[u8]) -> Status {
        let mut held = self.held.lock().unwrap();
        let Some(point) = held.get_mut(key) else {
            return Status::Unknown;
        };
        let passed = point.since.elapsed().as_secs_f64();
        point.room = (point.room + passed * PER_SECOND).min(PER_SECOND);
        point.since = Instant::now();
        let handed = Handed {
            refused: point.refused,
            proof,
            message,
        };
        let record = handed.encode().unwrap();
        if point.room < 1.0 || point.messages.try_send(record).is_err() {
            point.refused = point.refused.saturating_add(1);
            return Status::Limit;
        }
        point.room -= 1.0;
        point.refused = 0;
        Status::Done
    }

    /// Somebody comes: what the stream brings, and what is asked for in it.
    fn introduce(&self, key: &IntroductionId, message: &[u8]) -> Result<Met, RouteError> {
        let (near, mut far) = tokio::io::duplex(PIPE);
        let met = |work| Met {
            stream: Box::new(near),
            relay: RELAY,
            digest: DIGEST,
            work,
        };
        let does = self.does(key);
        let asked = self.held.lock().unwrap().get(key).map(|held| held.puzzle);
        let mut puzzle = asked.ok_or(RouteError::ConnectionRefused)?;
        match does {
            Does::Absurd => puzzle = Puzzle::generate(u32::MAX, &mut rand::rng()),
            Does::ChecksNothing if puzzle.effort() > 0 => {
                let challenge = puzzle.challenge(&[0; SALT_LEN]);
                let mut nonces = (0..=u8::MAX).map(|n| [n; NONCE_LEN]);
                let misfit = nonces.find(|nonce| !challenge.is_met(key, message, nonce));
                let proof = Proof::new(&puzzle, [0; SALT_LEN], misfit.unwrap());
                self.hand_on(key, proof, message);
                return Ok(met(None));
            }
            Does::Honest | Does::ChecksNothing | Does::TakesWork | Does::AsksNothing => {}
        }
        if puzzle.effort() == 0 || does == Does::AsksNothing {
            let done = self.hand_on(key, Proof::NONE, message) == Status::Done;
            return done.then(|| met(None)).ok_or(RouteError::Busy);
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut salt = [0; SALT_LEN];
        rand::rng().fill_bytes(&mut salt);
        let challenge = puzzle.challenge(&salt);
        let (points, key, mut message) = (self.clone(), *key, message.to_vec());
        tokio::spawn(async move {
            let mut nonce = [0; NONCE_LEN];
            let found = timeout(Duration::from_secs(45), far.read_exact(&mut nonce)).await;
            if !matches!(found, Ok(Ok(_))) {
                return;
            }
            assert!(challenge.is_met(&key, &message, &nonce));
            while does == Does::TakesWork && challenge.is_met(&key, &message, &nonce) {
                message[0] = message[0].wrapping_add(1);
            }
            let proof = Proof::new(&puzzle, salt, nonce);
            let status = points.hand_on(&key, proof, &message);
            let _ = far.write_all(&[status.wire()]).await;
        });
        Ok(met(Some(challenge)))
    }

    /// Junk for this key, from somebody who does not work, for as long as the handle is held.
    fn flood(&self, key: IntroductionId) -> tokio::task::JoinSet<()> {
        let points = self.clone();
        let mut flood = tokio::task::JoinSet::new();
        flood.spawn(async move {
            loop {
                let mut junk = [0; MESSAGE_LEN];
                rand::rng().fill_bytes(&mut junk);
                let _ = points.introduce(&key, &junk);
                sleep(FLOOD_EVERY).await;
            }
        });
        flood
    }
}

impl Outside for Points {
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
        match meet {
            Meet::Introduction(key) => {
                let stream = self.stand(IntroductionId(key.public().0));
                Box::pin(async move {
                    Ok(Met {
                        stream: Box::new(stream),
                        relay: RELAY,
                        digest: DIGEST,
                        work: None,
                    })
                })
            }
            Meet::Introduce(key, message) => {
                let met = self.introduce(key, message);
                Box::pin(async move { met })
            }
            Meet::Wait(_) | Meet::Join(_) => self.relay.meet(at, meet, isolation),
        }
    }
}

struct Scene {
    points: Points,
    reception: Reception,
    secret: DhSecret,
}

impl Scene {
    /// A seed that takes whoever comes.
    fn new() -> Self {
        let points = Points::new();
        let (reception, mut visitors) =
            Reception::open(Arc::new(points.clone()), Limits::default());
        tokio::spawn(async move { while visitors.recv().await.is_some() {} });
        Self {
            points,
            reception,
            secret: DhSecret::from_bytes([3; 32]),
        }
    }

    async fn stand(&self, does: Does) -> (Standing, Seed) {
        let introduction = introduction_key();
        let id = IntroductionId(introduction.public().0);
        self.points.now(&id, does);
        let keys = Keys {
            introduction,
            secret: self.secret.clone(),
            swarm: swarm(),
        };
        let at = At::Any { but: Vec::new() };
        let standing = self.reception.stand(at, keys).await.unwrap();
        let seed = Seed {
            key: self.secret.public(),
            introduction: id,
            at: standing.relay(),
        };
        (standing, seed)
    }

    async fn visit(&self, seed: &Seed) -> Result<(), VisitError> {
        visit(&self.points, seed, &swarm()).await.map(drop)
    }

    fn effort(&self) -> u32 {
        self.reception.counters().effort
    }

    /// Has the seed ask for work at a point.
    async fn loaded(&self, seed: &Seed) {
        let flood = self.points.flood(seed.introduction);
        while self.points.puzzle(&seed.introduction).effort() == 0 {
            sleep(Duration::from_millis(100)).await;
        }
        drop(flood);
    }
}

#[tokio::test(start_paused = true)]
async fn who_works_gets_through_a_flood_and_nobody_works_when_it_is_over() {
    let scene = Scene::new();
    let (_standing, seed) = scene.stand(Does::Honest).await;
    assert_eq!(scene.visit(&seed).await, Ok(()));
    let flood = scene.points.flood(seed.introduction);
    sleep(Duration::from_millis(1507)).await;
    let mut through = 0;
    for n in 0..20 {
        through += usize::from(scene.visit(&seed).await.is_ok());
        // Not in step with what is handed on.
        sleep(Duration::from_millis(403 + 7 * n)).await;
    }
    assert!(through < 10, "{through}: nobody is in anybody's way");
    assert_eq!(scene.effort(), 0);
    sleep(2 * PERIOD).await;
    let effort = scene.effort();
    assert!((FIRST_EFFORT..=MAX_EFFORT).contains(&effort), "{effort}");
    assert_eq!(scene.points.puzzle(&seed.introduction).effort(), effort);
    let looked_at = scene.reception.counters().foreign;
    for _ in 0..4 {
        assert_eq!(scene.visit(&seed).await, Ok(()));
        sleep(Duration::from_secs(5)).await;
    }
    let foreign = scene.reception.counters().foreign;
    assert_eq!(foreign, looked_at, "the flood does not reach the seed");
    drop(flood);
    // It falls by one step in five minutes.
    sleep(Duration::from_secs(25 * 60)).await;
    assert_eq!(scene.effort(), 0);
    let asked = scene.points.asked.load(Ordering::Relaxed);
    assert_eq!(scene.visit(&seed).await, Ok(()));
    assert_eq!(scene.points.asked.load(Ordering::Relaxed), asked);
}

#[tokio::test(start_paused = true)]
async fn an_introduction_point_that_lies_about_work_is_left_before_anything_is_opened() {
    for lie in [Does::ChecksNothing, Does::TakesWork] {
        let scene = Scene::new();
        let (mut standing, seed) = scene.stand(Does::Honest).await;
        scene.loaded(&seed).await;
        scene.points.now(&seed.introduction, lie);
        let before = scene.reception.counters();
        let (visited, lost) = tokio::join!(scene.visit(&seed), standing.lost());
        assert_eq!(lost, Lost::Broken);
        assert!(visited.is_err());
        let after = scene.reception.counters();
        assert_eq!(after.taken, before.taken);
        assert_eq!(after.foreign, before.foreign + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_introduction_point_that_asks_for_nothing_has_its_flood_dropped_unread_and_is_left() {
    let scene = Scene::new();
    let (mut standing, seed) = scene.stand(Does::AsksNothing).await;
    let _flood = scene.points.flood(seed.introduction);
    let begun = Instant::now();
    assert_eq!(standing.lost().await, Lost::Broken);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(150), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn who_is_asked_for_absurd_work_goes_to_the_next_point_at_once() {
    let scene = Scene::new();
    let (first, bad) = scene.stand(Does::Absurd).await;
    let begun = Instant::now();
    let refused = scene.visit(&bad).await;
    assert_eq!(refused, Err(VisitError::TooMuchWork));
    let mut standings = vec![first];
    for does in [Does::Absurd, Does::Absurd, Does::Honest] {
        standings.push(scene.stand(does).await.0);
    }
    let named = standings.iter().map(|standing| Point {
        relay: standing.relay(),
        introduction: standing.introduction(),
    });
    let contact = Contact::new(scene.secret.public(), named.collect()).unwrap();
    let book = Arc::new(Book::default());
    let target = book.learn([5; 20], contact).unwrap();
    let route = HiddenRoute::new(Arc::new(scene.points.clone()), book);
    for n in 0..5 {
        let isolation = Isolation::new("swarm", &[n; 20], 0);
        assert!(route.connect(&target, isolation).await.is_ok());
    }
    assert!(begun.elapsed() < Duration::from_secs(1));
}
