//! Datagrams in bursts, through relays that run as processes of the real program.
#![allow(clippy::unwrap_used)]

#[path = "support/relays.rs"]
mod world;

use std::time::Duration;

use hushswarm::route::Outside;
use hushswarm::route::circuits::CircuitRoute;
use tokio::time::timeout;
use world::{Recipe, key, pattern, udp_echo};

/// Longer than anything here takes, so that what hangs fails.
const LONG: Duration = Duration::from_secs(60);
/// More than are worked in one go, and more than one cell holds.
const BURST: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_datagrams_comes_back_whole_and_in_order() {
    let world = Recipe::new(3).start();
    let route = CircuitRoute::new(world.client(3));
    let flow = route.datagrams(key("a")).await.unwrap();
    let target = udp_echo("127.0.0.1:0").await;
    // Empty ones too.
    let sent: Vec<Vec<u8>> = (0..BURST)
        .map(|n| pattern(n as u64, (n * 37) % 512))
        .collect();
    for round in 0..3 {
        let mut burst = sent.iter().map(|payload| (&target, payload.as_slice()));
        flow.send_many(&mut burst).unwrap();
        let mut back = Vec::new();
        while back.len() < BURST {
            let before = back.len();
            timeout(LONG, flow.recv_many(&mut back))
                .await
                .unwrap()
                .unwrap();
            assert!(back.len() > before, "round {round}");
        }
        assert!(back.iter().all(|(from, _)| *from == target));
        let back: Vec<Vec<u8>> = back.into_iter().map(|(_, payload)| payload).collect();
        assert_eq!(back, sent);
    }
    // One that no cell holds does not take the others with it.
    let long = vec![1; 5000];
    let mut burst = [long.as_slice(), b"after"].into_iter();
    assert!(
        flow.send_many(&mut burst.by_ref().map(|payload| (&target, payload)))
            .is_err()
    );
    let (_, back) = timeout(LONG, flow.recv()).await.unwrap().unwrap();
    assert_eq!(back, b"after");
}
