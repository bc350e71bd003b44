//! How many relays a request's circuit has, against relays that run as processes of the real program.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

#[path = "support/relays.rs"]
mod world;

use hushswarm::overlay::client::{ClientConfig, Status, Wanted};
use hushswarm::route::circuits::CircuitRoute;
use hushswarm::route::{Outside, RouteError};
use hushswarm_circuits::path::{ExitNeed, GuardSample};
use hushswarm_circuits::relay_list::Proto;
use world::{Recipe, echo, key, pattern, round_trip, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_gets_the_hops_it_asks_for_and_shares_no_circuit_of_another_length() {
    let world = Recipe::new(3).start();
    let config = ClientConfig {
        prebuilt: 1,
        ..ClientConfig::default()
    };
    let client = world.client_with(config, GuardSample::default(), None);
    client.prebuild();
    let status = client.status();
    until("a circuit is built ahead", || {
        *status.borrow() == Status::Ready
    })
    .await;
    let target = echo().await;
    let taken = async |hops: Option<u8>| {
        let wanted = Wanted {
            exit: ExitNeed::for_target(Proto::Tcp, &target),
            hops,
            not_last: &[],
        };
        let circuit = client.circuit_for(key("a"), wanted).await.unwrap();
        (circuit.path().len(), circuit.number())
    };
    let (one, two, three) = (
        taken(Some(1)).await,
        taken(Some(2)).await,
        taken(None).await,
    );
    assert_eq!((one.0, two.0, three.0), (1, 2, 3));
    // Each is found again, whichever was built last.
    assert_eq!(taken(Some(1)).await, one);
    assert_eq!(taken(Some(2)).await, two);
    assert_eq!((taken(Some(3)).await, taken(None).await), (three, three));
    // Bytes pass in them, and no number but 1 to 3 is taken for another.
    let route = CircuitRoute::new(client.clone());
    for hops in [Some(1), Some(2), Some(3), None] {
        let stream = route.with_hops(hops).connect(&target, key("a")).await;
        round_trip(stream.unwrap(), pattern(1, 5000)).await;
    }
    for hops in [0, 4] {
        let none = route.with_hops(Some(hops)).connect(&target, key("a")).await;
        assert!(matches!(none, Err(RouteError::NoCircuit(_))));
    }
    assert_eq!(
        *status.borrow(),
        Status::Ready,
        "a wrong request says nothing about the network"
    );
}
