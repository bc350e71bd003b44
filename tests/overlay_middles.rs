//! Fixed middles over relays that run as processes of the real program (PROTOCOL.md §7.3): whoever chooses where to meet does not
//! choose who is next to the guard.
#![allow(clippy::unwrap_used)]

#[path = "support/relays.rs"]
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hushswarm::overlay::circuit::{Circuit, Meet};
use hushswarm::overlay::client::{BuildError, Client, ClientConfig, Wanted};
use hushswarm::overlay::guards::GuardFile;
use hushswarm::overlay::middles;
use hushswarm::route::circuits::CircuitRoute;
use hushswarm::route::{At, Outside, RouteError};
use hushswarm::state::StateDir;
use hushswarm_circuits::path::{ExitNeed, GuardSample, MIDDLES, PathError};
use hushswarm_circuits::rendezvous::{Cookie, Status};
use world::{Recipe, World, key, until};

/// Longer than anything here takes, so that what hangs fails.
const LONG: Duration = Duration::from_secs(120);

/// Relays that all take meetings; the first two are guards.
fn recipe(relays: usize) -> Recipe {
    Recipe {
        guards: 2,
        exits: relays,
        configure: |_, config| config.roles.introduce = true,
        ..Recipe::new(relays)
    }
}

fn folder(world: &World) -> StateDir {
    StateDir::open(world.dir.path().join("seed")).unwrap()
}

/// A client that keeps what it draws in its folder, and circuits ready.
fn seed(world: &World) -> Client {
    let (guards, store) = GuardFile::open(folder(world), world::NETWORK).unwrap();
    let client = world.client_with(ClientConfig::default(), guards, Some(Box::new(store)));
    client.prebuild();
    client
}

/// The places of the middles that are stored.
fn stored(world: &World) -> BTreeSet<usize> {
    let sample = middles::load(&folder(world), world::NETWORK).unwrap();
    let ids = sample.middles().iter().map(|middle| middle.id);
    ids.map(|id| world.place(&id)).collect()
}

async fn circuit(client: &Client, exit: ExitNeed, owner: &str) -> Arc<Circuit> {
    let wanted = Wanted {
        exit,
        hops: None,
        not_last: &[],
    };
    client.circuit_for(key(owner), wanted).await.unwrap()
}

/// The place of a circuit's second relay.
fn middle(world: &World, circuit: &Circuit) -> usize {
    assert_eq!(circuit.path().len(), 3);
    world.place(&circuit.path()[1].identity)
}

/// A visitor waits at this relay, and the seed comes: the second relays of both.
async fn meet(
    world: &World,
    (seed, visitor): (&Client, &Client),
    at: usize,
    n: u8,
) -> (usize, usize) {
    let (exit, cookie) = (ExitNeed::IntroduceAt(world.relays[at].id), Cookie([n; 20]));
    let waits = circuit(visitor, exit, &format!("visitor at {at}")).await;
    let (_waiting, status) = waits.meet(Meet::Wait(&cookie), LONG).await.unwrap();
    assert_eq!(status, Status::Done);
    let joins = circuit(seed, exit, &format!("meeting {n}")).await;
    let (_joined, status) = joins.meet(Meet::Join(&cookie), LONG).await.unwrap();
    assert_eq!(status, Status::Done);
    (middle(world, &joins), middle(world, &waits))
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_meetings_at_all_relays_and_a_restart_use_four_second_hops() {
    let world = recipe(10).start();
    let visitor = world.client(3);
    let (mut of_seed, mut of_visitor, mut of_points) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut known = BTreeSet::new();
    for run in 0..2_u8 {
        let seed = seed(&world);
        // Circuits with any middle lie ready.
        until("circuits are built ahead", || seed.circuits() >= 2).await;
        for n in run * 20..run * 20 + 20 {
            let at = usize::from(n) % world.relays.len();
            let (ours, theirs) = meet(&world, (&seed, &visitor), at, n).await;
            of_seed.insert(ours);
            of_visitor.insert(theirs);
            let point = circuit(&seed, ExitNeed::Introduce, &format!("point {n}")).await;
            of_points.insert(middle(&world, &point));
        }
        seed.close();
        if run == 0 {
            known = stored(&world);
            assert_eq!(known.len(), MIDDLES);
        }
    }
    println!("seed {of_seed:?}, its introduction points {of_points:?}, visitor {of_visitor:?}");
    assert_eq!(stored(&world), known);
    assert!(of_seed.is_subset(&known) && of_points.is_subset(&known));
    assert!(of_visitor.len() <= MIDDLES);
    let all: BTreeSet<_> = of_seed.union(&of_points).copied().collect();
    assert_eq!(all, known, "all of them are used");
    // Other circuits still have any.
    let other = world.client(3);
    let mut any = BTreeSet::new();
    for _ in 0..200 {
        let circuit = other.fresh_circuit(ExitNeed::Any).await.unwrap();
        any.insert(middle(&world, &circuit));
        circuit.close();
        if any.len() > MIDDLES {
            break;
        }
    }
    assert!(any.len() > MIDDLES, "{any:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_middle_that_is_dead_is_not_replaced_and_the_others_serve() {
    let mut world = recipe(9).start();
    let (seed, visitor) = (seed(&world), world.client(3));
    let at = |world: &World, n: u8| {
        let alive = (2..9).filter(|place| world.relays[*place].process.is_some());
        alive.cycle().nth(usize::from(n)).unwrap()
    };
    meet(&world, (&seed, &visitor), 2, 0).await;
    let known = stored(&world);
    let dead = *known.iter().find(|place| **place >= 2).unwrap();
    world.kill(dead);
    let mut used = BTreeSet::new();
    for n in 1..=24 {
        let place = at(&world, n);
        used.insert(meet(&world, (&seed, &visitor), place, n).await.0);
    }
    assert!(!used.contains(&dead) && used.is_subset(&known), "{used:?}");
    assert_eq!(stored(&world), known, "no failure moves one");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_fewer_than_three_hops_there_is_no_meeting() {
    let world = recipe(4).start();
    for hops in 1..=2 {
        let config = ClientConfig {
            hops,
            ..ClientConfig::default()
        };
        let client = world.client_with(config, GuardSample::default(), None);
        // Not even one that is there already.
        client.prebuild();
        until("circuits are built ahead", || client.circuits() >= 2).await;
        let wanted = Wanted {
            exit: ExitNeed::Introduce,
            hops: None,
            not_last: &[],
        };
        let refused = client.circuit_for(key("a"), wanted).await.err();
        let why = BuildError::NoPath(PathError::NoRoomForMiddle(hops));
        assert_eq!(refused, Some(why.clone()));
        let route = CircuitRoute::new(client.clone());
        let cookie = Cookie([1; 20]);
        let place = At::Any { but: Vec::new() };
        let refused = route.meet(place, Meet::Wait(&cookie), key("b")).await.err();
        assert_eq!(refused, Some(RouteError::NoCircuit(why.to_string())));
        assert!(why.to_string().contains("choose 3 hops"));
    }
    // The same client with three for this alone.
    let route = CircuitRoute::new(world.client(1)).with_hops(Some(3));
    let cookie = Cookie([1; 20]);
    let place = At::Any { but: Vec::new() };
    let met = route.meet(place, Meet::Wait(&cookie), key("b")).await;
    assert!(met.is_ok());
}
