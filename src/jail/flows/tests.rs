//! Tests of the flows, in virtual time.

use tokio::sync::mpsc::Receiver;

use super::*;
use crate::jail::testing::{Handle, Told, World, addr, isolation, target};

type Told3 = (SocketAddr, SocketAddr, Vec<u8>);

fn flows() -> (Arc<World>, Flows, Receiver<Told3>) {
    let world = Arc::new(World::default());
    let (told, replies) = mpsc::channel(64);
    let flows = Flows::new(
        Arc::new(Handle(Arc::clone(&world))),
        isolation(),
        Arc::new(Told(told)),
        Arc::default(),
    );
    (world, flows, replies)
}

#[tokio::test(start_paused = true)]
async fn a_socket_has_one_far_end_whomever_it_speaks_to_and_others_have_their_own() {
    let (world, mut flows, mut replies) = flows();
    let (one, two) = (addr("10.254.0.1:6881"), addr("10.254.0.1:6882"));
    flows.take(one, addr("192.0.2.1:1"), b"a");
    flows.take(one, addr("192.0.2.2:2"), b"b");
    world.until_sent(2).await;
    flows.take(two, addr("[2001:db8::1]:3"), b"c");
    let sent = world.until_sent(3).await;
    let to = |n: usize| (sent[n].0, sent[n].1.0.clone(), sent[n].1.1.clone());
    assert_eq!(to(0), (0, target("192.0.2.1:1"), b"a".to_vec()));
    assert_eq!(to(1), (0, target("192.0.2.2:2"), b"b".to_vec()));
    assert_eq!(to(2), (1, target("[2001:db8::1]:3"), b"c".to_vec()));
    // Also from whom it has not spoken to.
    world.answer(0, target("192.0.2.9:9"), b"hello").await;
    let expected = (addr("192.0.2.9:9"), one, b"hello".to_vec());
    assert_eq!(replies.recv().await, Some(expected));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_be_reached_by_is_dropped_and_counted_before_a_flow_opens() {
    let (world, mut flows, _replies) = flows();
    let nowhere = [
        "239.192.152.143:6771",
        "255.255.255.255:67",
        "224.0.0.251:5353",
        "0.0.0.0:1",
        "127.0.0.1:80",
        "169.254.169.254:80",
        "240.0.0.1:1",
        "192.0.2.1:0",
        "[ff02::1]:1",
        "[fe80::1]:1",
        "[::1]:1",
        "[::]:1",
        "[::ffff:224.0.0.1]:1",
    ];
    for to in nowhere {
        flows.take(addr("10.254.0.1:1"), addr(to), b"x");
    }
    assert_eq!(flows.counts.refused(), nowhere.len() as u64);
    assert!(flows.is_empty() && world.flows.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_idle_flow_ends_and_an_answer_keeps_one_alive() {
    let (world, mut flows, _replies) = flows();
    let from = addr("10.254.0.1:1");
    flows.take(from, addr("192.0.2.1:1"), b"a");
    world.until_sent(1).await;
    tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
    world.answer(0, target("192.0.2.1:1"), b"late").await;
    tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
    flows.take(from, addr("192.0.2.1:1"), b"b");
    assert_eq!(world.until_sent(2).await[1].0, 0);
    tokio::time::sleep(IDLE + Duration::from_secs(1)).await;
    flows.take(from, addr("192.0.2.1:1"), b"c");
    assert_eq!(world.until_sent(3).await[2].0, 1);
    assert_eq!(flows.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flow_whose_circuit_died_opens_again_with_the_next_datagram() {
    let (world, mut flows, mut replies) = flows();
    let from = addr("10.254.0.1:1");
    flows.take(from, addr("192.0.2.1:1"), b"a");
    world.until_sent(1).await;
    world.flows.lock().unwrap()[0] = None;
    tokio::time::sleep(Duration::from_secs(1)).await;
    flows.take(from, addr("192.0.2.1:1"), b"b");
    assert_eq!(world.until_sent(2).await[1].0, 1);
    world.answer(1, target("192.0.2.1:1"), b"again").await;
    assert_eq!(replies.recv().await.unwrap().2, b"again");
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_can_t_open_is_tried_again_and_not_for_every_datagram() {
    let (world, mut flows, _replies) = flows();
    world.closed.store(true, Ordering::SeqCst);
    let from = addr("10.254.0.1:1");
    for _ in 0..10 {
        flows.take(from, addr("192.0.2.1:1"), b"a");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.closed.store(false, Ordering::SeqCst);
    tokio::time::sleep(RETRY).await;
    flows.take(from, addr("192.0.2.1:1"), b"b");
    let sent = world
        .until(|world| {
            let sent = world.sent.lock().unwrap();
            sent.iter().any(|s| s.1.1 == b"b").then(|| sent.len())
        })
        .await;
    // The first one went with the attempt that failed; the others waited.
    assert_eq!((sent, world.flows.lock().unwrap().len()), (10, 1));
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_bounded_in_number_and_bytes() {
    let (world, mut flows, _replies) = flows();
    world.slow.store(true, Ordering::SeqCst);
    let to = addr("192.0.2.1:1");
    let payload = vec![0; MAX_PAYLOAD];
    flows.take(addr("10.254.0.1:1"), to, &vec![0; MAX_PAYLOAD + 1]);
    assert_eq!(flows.counts.lost(), 1);
    for _ in 0..2 * MAX_WAITING {
        flows.take(addr("10.254.0.1:1"), to, &payload);
    }
    assert_eq!(flows.counts.lost(), 1 + MAX_WAITING as u64);
    for port in 2..200 {
        for _ in 0..MAX_WAITING {
            flows.take(SocketAddr::new([10, 254, 0, 1].into(), port), to, &payload);
        }
    }
    let waiting: usize = MAX_WAITING_BYTES - flows.room.available_permits();
    assert!(waiting > MAX_WAITING_BYTES / 2 && waiting <= MAX_WAITING_BYTES);
    world.slow.store(false, Ordering::SeqCst);
    // Until those that wait have opened; then all room is free again.
    while flows.room.available_permits() < MAX_WAITING_BYTES {
        world.go.notify_waiters();
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn flows_are_bounded_and_the_one_idle_for_longest_goes_first() {
    let (world, mut flows, _replies) = flows();
    let from = |n: usize| SocketAddr::new([10, 254, 0, 1].into(), 1000 + n as u16);
    let to = addr("192.0.2.1:1");
    for n in 0..MAX_FLOWS {
        flows.take(from(n), to, b"x");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    flows.take(from(0), to, b"x");
    tokio::time::sleep(Duration::from_millis(10)).await;
    flows.take(from(MAX_FLOWS), to, b"x");
    world.until_sent(MAX_FLOWS + 2).await;
    assert_eq!(flows.len(), MAX_FLOWS);
    assert!(flows.flows.contains_key(&from(0)) && !flows.flows.contains_key(&from(1)));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_flows_ends_them() {
    let (world, mut flows, _replies) = flows();
    flows.take(addr("10.254.0.1:1"), addr("192.0.2.1:1"), b"x");
    world.until_sent(1).await;
    drop(flows);
    let way = world.flows.lock().unwrap()[0].clone().unwrap();
    way.closed().await;
}
