//! Calls to seeds by their names.

use hushswarm_circuits::rendezvous::{Contact, Point};

use super::*;
use crate::hush::SeedKey;

/// A hidden seed that stands at so many points, and what calls it.
struct Scene {
    host: Host,
    standings: Vec<Standing>,
    route: HiddenRoute,
    book: Arc<Book>,
}

impl Scene {
    async fn new(relay: &Relay, points: usize) -> Self {
        let host = Host::new(relay, Limits::default());
        let mut standings = Vec::new();
        for _ in 0..points {
            standings.push(host.stand().await.0);
        }
        let book = Arc::new(Book::default());
        let route = HiddenRoute::new(Arc::new(relay.clone()), Arc::clone(&book));
        Self {
            host,
            standings,
            route,
            book,
        }
    }

    fn contact(&self) -> Contact {
        let points = self.standings.iter().map(|standing| Point {
            relay: standing.relay(),
            introduction: standing.introduction(),
        });
        Contact::new(self.host.secret.public(), points.collect()).unwrap()
    }

    async fn call(&self, target: &Target) -> Result<BoxStream, RouteError> {
        let isolation = Isolation::new("swarm", &[1; 20], 0);
        self.route.connect(target, isolation).await
    }
}

#[tokio::test]
async fn a_seed_is_called_by_its_name_and_what_is_said_arrives() {
    let relay = Relay::default();
    let mut scene = Scene::new(&relay, 3).await;
    let target = scene.book.learn([5; 20], scene.contact()).unwrap();
    let mut stream = scene.call(&target).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.flush().await.unwrap();
    let mut came = scene.host.visitors.recv().await.unwrap();
    let mut said = [0; 5];
    came.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello");
}

#[tokio::test(start_paused = true)]
async fn an_introduction_point_that_drops_or_is_gone_costs_no_call() {
    // The first to be asked drops everything, whichever it is.
    let dropped = Arc::new(Mutex::new(0));
    let count = Arc::clone(&dropped);
    let relay = Relay::new(Ways {
        hand_on: Box::new(move |message| {
            let mut dropped = count.lock().unwrap();
            *dropped += 1;
            if *dropped < 3 {
                Vec::new()
            } else {
                vec![message]
            }
        }),
        ..Ways::default()
    });
    let mut scene = Scene::new(&relay, 4).await;
    let target = scene.book.learn([5; 20], scene.contact()).unwrap();
    // One more is no introduction point any more.
    relay
        .state
        .lock()
        .unwrap()
        .points
        .remove(&scene.standings[3].introduction());
    scene.call(&target).await.unwrap();
    assert!(scene.host.visitors.recv().await.is_some());
    assert_eq!(*dropped.lock().unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_an_open_seed_at_a_key_that_no_relay_says_no_to() {
    let relay = Relay::default();
    let scene = Scene::new(&relay, 1).await;
    let mut key = [7; 32];
    key[0] = 0;
    let quiet = Point {
        relay: scene.standings[0].relay(),
        introduction: IntroductionId(key),
    };
    let contact = Contact::new([8; 32], vec![quiet]).unwrap();
    let target = scene.book.learn([5; 20], contact).unwrap();
    let asked = relay.state.lock().unwrap().isolations.len();
    assert_eq!(scene.call(&target).await.err(), Some(RouteError::TimedOut));
    assert_eq!(relay.state.lock().unwrap().isolations.len(), asked);
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_called_says_so_and_nothing_else_is_asked() {
    let relay = Relay::default();
    let scene = Scene::new(&relay, 2).await;
    let unknown = target(&SeedKey([1; 32])).unwrap();
    let asked = relay.state.lock().unwrap().isolations.len();
    assert_eq!(
        scene.call(&unknown).await.err(),
        Some(RouteError::Unreachable)
    );
    assert_eq!(relay.state.lock().unwrap().isolations.len(), asked);

    // Another swarm's key opens nothing.
    let target = scene.book.learn([6; 20], scene.contact()).unwrap();
    assert_eq!(scene.call(&target).await.err(), Some(RouteError::TimedOut));
    assert_eq!(scene.host.reception.counters().foreign, 2);

    // It stands nowhere any more.
    relay.state.lock().unwrap().points.clear();
    assert_eq!(
        scene.call(&target).await.err(),
        Some(RouteError::ConnectionRefused)
    );
}

#[tokio::test]
#[should_panic(expected = "nothing leaves the network for a meeting")]
async fn what_names_no_seed_goes_where_it_went_before() {
    let scene = Scene::new(&Relay::default(), 1).await;
    let _ = scene.call(&Target::parse("a.example", 80).unwrap()).await;
}
