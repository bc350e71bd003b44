//! What a client makes of its guards when the way to them leads through others, who may themselves be what fails.
#![allow(clippy::unwrap_used)]

#[path = "support/relays.rs"]
mod world;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hushswarm::error::Error;
use hushswarm::net::{BoxFuture, Place, RelayDialer, Transport, Way};
use hushswarm::overlay::client::{BuildError, Client, ClientConfig, GuardStore, Status};
use hushswarm_circuits::path::{GuardSample, MiddleSample};
use hushswarm_circuits::relay_list::{Descriptor, Proto};
use world::{Recipe, key};

/// Reaches nobody, and says why.
struct Fails {
    how: io::ErrorKind,
    way: Way,
    dials: AtomicUsize,
}

impl RelayDialer for Fails {
    fn dial<'a>(&'a self, _: &'a Descriptor, _: Place) -> BoxFuture<'a, io::Result<Transport>> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Err(io::Error::new(self.how, "as the test says")) })
    }

    fn way(&self) -> Way {
        self.way.clone()
    }
}

/// Failures of all guards, as they are stored.
#[derive(Clone, Default)]
struct Stored(Arc<Mutex<u32>>);

impl GuardStore for Stored {
    fn save(&self, sample: &GuardSample) {
        let failures = sample.guards().iter().map(|guard| guard.failures);
        *self.0.lock().unwrap() = failures.sum();
    }

    fn middles(&self, _: &mut dyn FnMut(&mut MiddleSample)) -> Result<MiddleSample, Error> {
        unreachable!("nobody is met here")
    }
}

const THROUGH: Way = Way::Through { waits_for: None };

/// Asks for one circuit: why there is none, how often it was dialed, and how many failures of guards were stored.
async fn build(how: io::ErrorKind, way: Way) -> (BuildError, usize, u32) {
    let world = Recipe::new(4).build();
    let (dialer, stored) = (Arc::new(fails(how, way)), Stored::default());
    let client = client(&world, Arc::clone(&dialer), stored.clone());
    let built = client.circuit(key("a"), Proto::Tcp, None, &[]).await;
    let failed = built.err().unwrap();
    let failures = *stored.0.lock().unwrap();
    (failed, dialer.dials.load(Ordering::SeqCst), failures)
}

fn fails(how: io::ErrorKind, way: Way) -> Fails {
    Fails {
        how,
        way,
        dials: AtomicUsize::new(0),
    }
}

fn client(world: &world::World, dialer: Arc<Fails>, stored: Stored) -> Client {
    let config = ClientConfig {
        prebuilt: 0,
        ..ClientConfig::default()
    };
    let guards = GuardSample::default();
    let store = Box::new(stored);
    Client::new(Arc::clone(&world.list), guards, Some(store), dialer, config)
}

#[tokio::test]
async fn where_there_is_no_way_no_other_guard_is_tried_and_none_is_blamed() {
    let (failed, dials, failures) = build(io::ErrorKind::NetworkDown, THROUGH).await;
    assert_eq!(failed, BuildError::NoWay("as the test says".to_owned()));
    assert_eq!((dials, failures), (1, 0));
}

#[tokio::test]
async fn a_guard_is_blamed_for_what_those_before_it_may_have_done_only_where_there_are_none() {
    for how in [
        io::ErrorKind::TimedOut,
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::NotFound,
        io::ErrorKind::HostUnreachable,
    ] {
        let (failed, dials, failures) = build(how, THROUGH).await;
        // The last one it runs into: no guard is left.
        assert!(!matches!(failed, BuildError::NoWay(_)), "{how}: {failed}");
        assert!(dials > 1, "{how}: another guard may do");
        assert_eq!(failures, 0, "{how}");
        let (_, _, failures) = build(how, Way::Straight).await;
        assert!(failures > 0, "{how}");
    }
    let (_, _, failures) = build(io::ErrorKind::ConnectionRefused, THROUGH).await;
    assert!(failures > 0, "somebody there said no");
}

#[tokio::test]
async fn the_status_says_what_the_way_waits_for_before_anything_was_tried() {
    let world = Recipe::new(3).build();
    let way = Way::Through {
        waits_for: Some("half of it is there".to_owned()),
    };
    let dialer = Arc::new(fails(io::ErrorKind::NetworkDown, way));
    let client = client(&world, Arc::clone(&dialer), Stored::default());
    let mut status = client.status();
    let said = status
        .wait_for(|status| *status != Status::Connecting)
        .await;
    let expected = BuildError::NoWay("half of it is there".to_owned());
    assert_eq!(*said.unwrap(), Status::Unreachable(expected));
    assert_eq!(dialer.dials.load(Ordering::SeqCst), 0);
}
