//! Seeds that let in only some.

use hushswarm_circuits::rendezvous::{Contact, Point};

use super::*;
use crate::hidden::guests;
use crate::hush::SeedKey;
use crate::route::policy::Reason;

fn own(number: u8) -> DhSecret {
    DhSecret::from_bytes([number; 32])
}

/// A seed that lets in only these.
fn host(relay: &Relay, numbers: &[u8]) -> Host {
    let keys = numbers.iter().map(|number| GuestKey::from(&own(*number)));
    let outside = Arc::new(relay.clone());
    let (reception, visitors) = Reception::open_to(outside, Limits::default(), Some(guests(keys)));
    Host {
        reception,
        visitors,
        secret: DhSecret::from_bytes([3; 32]),
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_let_in_is_met_and_a_stranger_costs_no_circuit_and_hears_nothing() {
    let relay = Relay::default();
    let mut host = host(&relay, &[11]);
    let (_standing, seed) = host.stand().await;
    let swarm = swarm();
    let keyless = visit(&relay, &seed, &swarm).await;
    assert_eq!(keyless.err(), Some(VisitError::NotMet));
    let unknown = visit_known(&relay, &seed, &swarm, &own(12)).await;
    assert_eq!(unknown.err(), Some(VisitError::NotMet));
    assert_eq!(relay.state.lock().unwrap().joins, 0, "nothing was sent");
    assert!(host.visitors.try_recv().is_err());
    let counters = host.reception.counters();
    assert_eq!((counters.taken, counters.foreign), (0, 2));

    let key = own(11);
    let known = visit_known(&relay, &seed, &swarm, &key);
    let (visited, came) = tokio::join!(known, host.visitors.recv());
    let (visited, came) = (visited.unwrap(), came.unwrap());
    assert_eq!(host.reception.counters().open, 1);
    let (a, b) = tokio::join!(exchange(visited, b"a"), exchange(came, b"b"));
    assert_eq!((a.unwrap(), b.unwrap()), (b"b".to_vec(), b"a".to_vec()));
    let counters = host.reception.counters();
    assert_eq!((counters.met, counters.open), (1, 0), "it is gone again");
}

#[tokio::test(start_paused = true)]
async fn an_open_seed_has_no_use_for_a_key_that_somebody_shows() {
    let relay = Relay::default();
    let host = Host::new(&relay, Limits::default());
    let (_standing, seed) = host.stand().await;
    let visited = visit_known(&relay, &seed, &swarm(), &own(11)).await;
    assert_eq!(visited.err(), Some(VisitError::NotMet));
    assert_eq!(relay.state.lock().unwrap().joins, 0);
}

#[tokio::test(start_paused = true)]
async fn a_book_leads_to_a_closed_seed_with_its_key_alone() {
    let relay = Relay::default();
    let mut host = host(&relay, &[11]);
    let (_standing, seed) = host.stand().await;
    let point = Point {
        relay: seed.at,
        introduction: seed.introduction,
    };
    let contact = Contact::new(seed.key, vec![point]).unwrap().closed(true);
    let book = Arc::new(Book::default());
    let name = book.learn([5; 20], contact).unwrap();
    let route = HiddenRoute::new(Arc::new(relay.clone()), Arc::clone(&book));
    let isolation = Isolation::new("test", &[], 0);

    let keyless = route.connect(&name, isolation).await.err();
    assert_eq!(keyless, Some(RouteError::Forbidden(Reason::KeyNeeded)));
    assert!(
        relay.state.lock().unwrap().isolations.len() == 1,
        "only the seed's own"
    );

    let key = SeedKey(seed.key);
    book.admit(&key, own(12));
    let unknown = route.connect(&name, isolation).await.err();
    assert_eq!(unknown, Some(RouteError::TimedOut));
    book.admit(&key, own(11));
    let (visited, came) = tokio::join!(route.connect(&name, isolation), host.visitors.recv());
    assert!(visited.is_ok() && came.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_closed_seed_is_reached_soon_though_most_of_its_points_are_gone() {
    let told = Arc::new(Mutex::new(0));
    let count = Arc::clone(&told);
    let relay = Relay::new(Ways {
        // A quiet key's relay says that it handed on, whoever stands there.
        hand_on: Box::new(move |message| {
            let mut told = count.lock().unwrap();
            *told += 1;
            if *told < 3 { Vec::new() } else { vec![message] }
        }),
        ..Ways::default()
    });
    let mut host = host(&relay, &[11]);
    let mut standings = Vec::new();
    for _ in 0..3 {
        standings.push(host.stand().await.0);
    }
    let points = standings.iter().map(|standing| Point {
        relay: standing.relay(),
        introduction: standing.introduction(),
    });
    let contact = Contact::new(host.secret.public(), points.collect()).unwrap();
    let book = Arc::new(Book::default());
    let name = book.learn([5; 20], contact.closed(true)).unwrap();
    book.admit(&SeedKey(host.secret.public()), own(11));
    let route = HiddenRoute::new(Arc::new(relay.clone()), book);
    let isolation = Isolation::new("test", &[], 0);
    let begun = Instant::now();
    let (visited, came) = tokio::join!(route.connect(&name, isolation), host.visitors.recv());
    assert!(visited.is_ok() && came.is_some());
    assert_eq!(*told.lock().unwrap(), 3);
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
}
