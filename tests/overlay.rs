//! The overlay client against relays that run as processes of the real program: streams, datagrams, names, policies,
//! isolation, and what happens when relays die.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

#[path = "support/relays.rs"]
mod world;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hushswarm::net::os::OsDialer;
use hushswarm::net::{BoxFuture, Datagrams, Place, RelayDialer, Transport};
use hushswarm::overlay::circuit::{Circuit, StreamFailure};
use hushswarm::overlay::client::{BuildError, Client, ClientConfig, Status};
use hushswarm::overlay::guards::GuardFile;
use hushswarm::route::circuits::CircuitRoute;
use hushswarm::route::{Outside, RouteError};
use hushswarm::state::StateDir;
use hushswarm_circuits::body::OpenStatus;
use hushswarm_circuits::circuit::padding::CircuitPaddingConfig;
use hushswarm_circuits::path::{ExitNeed, GuardSample};
use hushswarm_circuits::relay_list::{Descriptor, Proto, RelayList, Trust};
use hushswarm_circuits::target::{Host, Target};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use world::{Recipe, World, echo, key, listen, pattern, round_trip, serve, udp_echo, until};

/// Longer than anything here takes, so that what hangs fails.
const LONG: Duration = Duration::from_secs(60);

fn named(target: &Target, name: &str) -> Target {
    Target::parse(name, target.port).unwrap()
}

/// The places of a circuit's relays.
fn path(world: &World, circuit: &Circuit) -> Vec<usize> {
    circuit
        .path()
        .iter()
        .map(|relay| world.place(&relay.identity))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_come_back_through_one_two_and_three_hops() {
    let world = Recipe::new(3).start();
    let target = echo().await;
    for hops in 1..=3 {
        let client = world.client(hops);
        let circuit = client
            .circuit(key("a"), Proto::Tcp, Some(&target), &[])
            .await
            .unwrap();
        assert_eq!(circuit.path().len(), hops);
        assert_eq!(
            path(&world, &circuit).last(),
            Some(&2),
            "relay 3 is the only exit"
        );
        let stream = circuit.connect(&target, LONG).await.unwrap();
        round_trip(stream, pattern(hops as u64, 100_000)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_may_end_first_and_the_other_goes_on() {
    let world = Recipe::new(3).start();
    let route = CircuitRoute::new(world.client(3));
    // The target hears the end first, and answers then.
    let target = serve(|mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        all.reverse();
        stream.write_all(&all).await.unwrap();
    })
    .await;
    let mut stream = route.connect(&target, key("a")).await.unwrap();
    stream.write_all(b"abc").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"cba");

    // The target ends first, and still hears what comes then.
    let (told, mut heard) = tokio::sync::mpsc::channel(1);
    let target = serve(move |mut stream| {
        let told = told.clone();
        async move {
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            told.send(all).await.unwrap();
        }
    })
    .await;
    let mut stream = route.connect(&target, key("a")).await.unwrap();
    let mut greeting = Vec::new();
    stream.read_to_end(&mut greeting).await.unwrap();
    assert_eq!(greeting, b"hello");
    stream.write_all(&pattern(1, 300_000)).await.unwrap();
    stream.shutdown().await.unwrap();
    let heard = timeout(LONG, heard.recv()).await.unwrap().unwrap();
    assert!(heard == pattern(1, 300_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_mebibytes_pass_in_both_directions_at_once() {
    let world = Recipe::new(3).start();
    let route = CircuitRoute::new(world.client(3));
    let stream = route.connect(&echo().await, key("a")).await.unwrap();
    round_trip(stream, pattern(8, 8 << 20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_share_a_circuit() {
    let world = Recipe::new(3).start();
    let client = world.client(3);
    let target = echo().await;
    let circuit = client
        .circuit(key("a"), Proto::Tcp, Some(&target), &[])
        .await
        .unwrap();
    let mut tasks = Vec::new();
    // As many as a relay lets one circuit open in a second.
    for n in 0..50 {
        let (circuit, target) = (Arc::clone(&circuit), target.clone());
        tasks.push(tokio::spawn(async move {
            let stream = circuit.connect(&target, LONG).await.unwrap();
            round_trip(stream, pattern(n, 50_000 + n as usize)).await;
        }));
    }
    for task in tasks {
        timeout(LONG, task).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_faster_than_a_circuit_may_moves_on_to_another_one() {
    let world = Recipe::new(3).start();
    let client = world.client(2);
    let route = CircuitRoute::new(client.clone());
    let target = echo().await;
    let mut held = Vec::new();
    for _ in 0..120 {
        held.push(route.connect(&target, key("a")).await.unwrap());
    }
    assert!(client.circuits() > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_resolved_by_the_exit() {
    let world = Recipe::new(3).start();
    let route = CircuitRoute::new(world.client(3));
    let target = named(&echo().await, "localhost");
    assert!(matches!(target.host, Host::Name(_)));
    let stream = route.connect(&target, key("a")).await.unwrap();
    round_trip(stream, b"by name".to_vec()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_of_both_families_come_back_and_too_large_ones_are_dropped() {
    let world = Recipe::new(3).start();
    let route = CircuitRoute::new(world.client(3));
    let flow = route.datagrams(key("a")).await.unwrap();
    let mut targets = vec![udp_echo("127.0.0.1:0").await];
    if std::net::UdpSocket::bind("[::1]:0").is_ok() {
        targets.push(udp_echo("[::1]:0").await);
    }
    for target in &targets {
        assert!(
            flow.send(target, &vec![1; 4000]).is_err(),
            "no cell holds that"
        );
        for bytes in [b"a".to_vec(), pattern(3, 1400)] {
            flow.send(target, &bytes).unwrap();
            let (from, back) = timeout(LONG, flow.recv()).await.unwrap().unwrap();
            assert_eq!((&from, back), (target, bytes));
        }
    }
    // By name, the answer comes from an address.
    flow.send(&named(&targets[0], "localhost"), b"name")
        .unwrap();
    let (from, back) = timeout(LONG, flow.recv()).await.unwrap().unwrap();
    assert_eq!((&from, back.as_slice()), (&targets[0], &b"name"[..]));
    // One that is too large for a cell on the way back is lost; the flow goes on.
    let large = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = Target::ip(large.local_addr().unwrap());
    flow.send(&target, b"hello").unwrap();
    let mut buf = [0; 16];
    let (_, exit) = timeout(LONG, large.recv_from(&mut buf))
        .await
        .unwrap()
        .unwrap();
    large.send_to(&vec![7; 9000], exit).await.unwrap();
    large.send_to(b"small", exit).await.unwrap();
    let (_, back) = timeout(LONG, flow.recv()).await.unwrap().unwrap();
    assert_eq!(back, b"small");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_exit_refuses_loopback_however_it_is_named() {
    let recipe = Recipe {
        policy: vec!["public"],
        ..Recipe::new(3)
    };
    let world = recipe.start();
    let client = world.client(3);
    let route = CircuitRoute::new(client.clone());
    let target = echo().await;
    // The list says so: nothing is even asked.
    let refused = route.connect(&target, key("a")).await.map(drop);
    assert!(
        matches!(refused, Err(RouteError::NoCircuit(_))),
        "{refused:?}"
    );
    // A policy that only the exit can apply, for only it resolves.
    let refused = route
        .connect(&named(&target, "localhost"), key("a"))
        .await
        .map(drop);
    assert_eq!(refused, Err(RouteError::Refused));
    // A client that does not look at the list.
    let need = ExitNeed::Target {
        proto: Proto::Tcp,
        ip: None,
        port: 80,
    };
    let circuit = client.fresh_circuit(need).await.unwrap();
    for addr in [
        format!("127.0.0.1:{}", target.port),
        format!("[::ffff:127.0.0.1]:{}", target.port),
        format!("[64:ff9b::7f00:1]:{}", target.port),
        format!("0.0.0.0:{}", target.port),
        format!("[::1]:{}", target.port),
        format!("169.254.169.254:{}", target.port),
        format!("10.0.0.1:{}", target.port),
    ] {
        let target = Target::ip(addr.parse::<SocketAddr>().unwrap());
        let refused = circuit.connect(&target, LONG).await.map(drop);
        assert_eq!(
            refused,
            Err(StreamFailure::Status(OpenStatus::Refused)),
            "{addr}"
        );
    }
    // Datagrams to such a target are lost.
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let flow = circuit.datagrams(LONG).await.unwrap();
    let target = Target::ip(socket.local_addr().unwrap());
    hushswarm::route::Datagrams::send(&flow, &target, b"secret").unwrap();
    // The refusal of a stream that was asked for later tells that the datagram has been looked at.
    let _ = circuit.connect(&target, LONG).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(socket.try_recv_from(&mut [0; 16]).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_exit_could_not_do_is_told() {
    let world = Recipe::new(3).start();
    let route = CircuitRoute::new(world.client(3));
    let (listener, target) = listen().await;
    drop(listener);
    let connect = async |target: &Target| route.connect(target, key("a")).await.map(drop);
    assert_eq!(connect(&target).await, Err(RouteError::ConnectionRefused));
    let unknown = Target::parse("no-such-host.invalid", 80).unwrap();
    assert_eq!(connect(&unknown).await, Err(RouteError::NameNotFound));
    // One circuit did all of it: a refusal by the target is no fault of the circuit.
    assert_eq!(
        route.connect(&echo().await, key("a")).await.map(drop),
        Ok(())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_do_not_share_circuits_and_equal_keys_do() {
    let world = Recipe::new(3).start();
    let client = world.client(3);
    let target = echo().await;
    let circuit = async |owner: &str| {
        let circuit = client
            .circuit(key(owner), Proto::Tcp, Some(&target), &[])
            .await;
        circuit.unwrap().number()
    };
    let (a, b, again) = tokio::join!(circuit("a"), circuit("b"), circuit("a"));
    assert_eq!(a, again);
    assert_ne!(a, b);
    assert_eq!(circuit("b").await, b);
    assert_eq!(client.circuits(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_that_is_dirty_takes_no_new_streams_but_keeps_its_old_ones() {
    let world = Recipe::new(3).start();
    let config = ClientConfig {
        prebuilt: 0,
        dirty_after: Duration::from_millis(300),
        idle: Duration::from_millis(300),
        ..ClientConfig::default()
    };
    let client = world.client_with(config, GuardSample::default(), None);
    let target = echo().await;
    let take = async || {
        client
            .circuit(key("a"), Proto::Tcp, Some(&target), &[])
            .await
            .unwrap()
    };
    let first = take().await;
    let mut stream = first.connect(&target, LONG).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    let second = take().await;
    assert_ne!(first.number(), second.number());
    stream.write_all(b"still").await.unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.unwrap();
    // Once nobody uses it, it goes.
    let weak = Arc::downgrade(&first);
    drop((stream, first, second));
    until("the idle circuit is closed", || weak.strong_count() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_built_ahead_are_used_and_replaced() {
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
    // Nothing can be built now, so it is that one.
    (0..3).for_each(|n| world.process(n).signal(Signal::STOP));
    let target = echo().await;
    let taken = client.circuit(key("a"), Proto::Tcp, Some(&target), &[]);
    let taken = timeout(Duration::from_secs(5), taken)
        .await
        .unwrap()
        .unwrap();
    (0..3).for_each(|n| world.process(n).signal(Signal::CONT));
    round_trip(
        taken.connect(&target, LONG).await.unwrap(),
        b"ahead".to_vec(),
    )
    .await;
    until("another is built", || client.circuits() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_builds_ahead_is_gone_when_dropped() {
    let world = Recipe::new(3).start();
    let config = ClientConfig {
        prebuilt: 1,
        ..ClientConfig::default()
    };
    let client = world.client_with(config, GuardSample::default(), None);
    client.prebuild();
    until("a circuit is built ahead", || client.circuits() == 1).await;
    let mut status = client.status();
    drop(client);
    // The sender of the status ends with the client.
    timeout(LONG, async { while status.changed().await.is_ok() {} })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_stays_over_restarts() {
    let world = Recipe {
        exits: 2,
        ..Recipe::new(8)
    }
    .start();
    let target = echo().await;
    let mut guards = Vec::new();
    let mut circuits = Vec::new();
    for _ in 0..5 {
        let state = StateDir::open(world.dir.path().join("client")).unwrap();
        let (sample, store) = GuardFile::open(state, world::NETWORK).unwrap();
        let config = ClientConfig {
            prebuilt: 0,
            ..ClientConfig::default()
        };
        let client = world.client_with(config, sample, Some(Box::new(store)));
        for owner in ["a", "b"] {
            let circuit = client
                .circuit(key(owner), Proto::Tcp, Some(&target), &[])
                .await
                .unwrap();
            guards.push(path(&world, &circuit)[0]);
            circuits.push(path(&world, &circuit));
        }
    }
    guards.dedup();
    assert_eq!(guards.len(), 1, "{circuits:?}");
    circuits.sort();
    circuits.dedup();
    assert!(circuits.len() > 1, "the rest of the path does change");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_path_is_taken_when_a_middle_or_an_exit_is_dead() {
    for victim in [1, 2] {
        let mut world = Recipe {
            guards: 1,
            exits: 2,
            ..Recipe::new(5)
        }
        .start();
        let route = CircuitRoute::new(world.client(3));
        let target = echo().await;
        // Links between relays are up already when it dies.
        route.connect(&target, key("first")).await.unwrap();
        // Relay 1 is the guard, 2 and 3 are middles, 4 and 5 exits.
        world.kill(if victim == 1 { 1 } else { 3 });
        let mut streams = Vec::new();
        for n in 0..8 {
            let opened = timeout(LONG, route.connect(&target, key(&n.to_string()))).await;
            streams.push(opened.unwrap().unwrap());
        }
        for stream in streams {
            round_trip(stream, b"alive".to_vec()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_dies_breaks_its_streams_and_nothing_hangs() {
    for position in 0..3 {
        let mut world = Recipe::new(3).start();
        let client = world.client(3);
        // A source that never ends, and a sink.
        let target = serve(|mut stream| async move {
            let data = vec![5; 65_536];
            while stream.write_all(&data).await.is_ok() {}
        })
        .await;
        let circuit = client
            .circuit(key("a"), Proto::Tcp, Some(&target), &[])
            .await
            .unwrap();
        let mut reading = circuit.connect(&target, LONG).await.unwrap();
        let mut idle = circuit.connect(&target, LONG).await.unwrap();
        let flow = circuit.datagrams(LONG).await.unwrap();
        reading.read_exact(&mut [0; 100_000]).await.unwrap();
        let victim = path(&world, &circuit)[position];
        world.kill(victim);
        let mut rest = vec![0; 1 << 20];
        let broken = async { while reading.read(&mut rest).await.is_ok_and(|n| n > 0) {} };
        timeout(LONG, broken).await.unwrap();
        let error = reading.read(&mut rest).await.unwrap_err();
        let broken = [ErrorKind::ConnectionAborted, ErrorKind::ConnectionReset];
        assert!(broken.contains(&error.kind()), "{error:?}");
        timeout(LONG, async {
            while idle.write_all(&[0; 4096]).await.is_ok() {}
        })
        .await
        .unwrap();
        let datagram = hushswarm::route::Datagrams::recv(&flow);
        assert!(timeout(LONG, datagram).await.unwrap().is_err());
        assert!(circuit.is_closed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_relay_is_given_up_and_another_path_taken() {
    let world = Recipe {
        guards: 1,
        exits: 2,
        ..Recipe::new(5)
    }
    .start();
    let client = world.client(3);
    let target = echo().await;
    world.process(1).signal(Signal::STOP);
    world.process(3).signal(Signal::STOP);
    // Each takes 10 to 12 s to be given up; a path without both may take two attempts.
    let circuit = client.circuit(key("a"), Proto::Tcp, Some(&target), &[]);
    let circuit = timeout(LONG, circuit).await.unwrap().unwrap();
    assert_eq!(path(&world, &circuit), [0, 2, 4]);
    round_trip(
        circuit.connect(&target, LONG).await.unwrap(),
        b"hello".to_vec(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_all_relays_dead_it_says_so_and_recovers_when_they_are_back() {
    let mut world = Recipe::new(4).start();
    let client = world.client(3);
    let mut status = client.status();
    assert_eq!(*status.borrow_and_update(), Status::Connecting);
    let target = echo().await;
    let circuit = client
        .circuit(key("a"), Proto::Tcp, Some(&target), &[])
        .await
        .unwrap();
    assert_eq!(*status.borrow_and_update(), Status::Ready);
    (0..4).for_each(|n| world.kill(n));
    until("the circuit is lost", || circuit.is_closed()).await;
    for owner in ["a", "b", "c"] {
        let built = client.circuit(key(owner), Proto::Tcp, Some(&target), &[]);
        // Far below any deadline: nothing is waited for where nobody listens.
        let failed = timeout(Duration::from_secs(8), built)
            .await
            .unwrap()
            .map(drop)
            .unwrap_err();
        let guards_wait = matches!(failed, BuildError::NoPath(_));
        assert!(
            failed == BuildError::GuardUnreachable || guards_wait,
            "{failed:?}"
        );
        assert_eq!(*status.borrow_and_update(), Status::Unreachable(failed));
    }
    (0..4).for_each(|n| world.start(n));
    let back = async {
        loop {
            let built = client
                .circuit(key("a"), Proto::Tcp, Some(&target), &[])
                .await;
            match built {
                Ok(circuit) => return circuit,
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    };
    // Not after the minute, or the hour, for which a failed guard waits.
    let circuit = timeout(Duration::from_secs(20), back).await.unwrap();
    assert_eq!(*status.borrow_and_update(), Status::Ready);
    round_trip(
        circuit.connect(&target, LONG).await.unwrap(),
        b"back".to_vec(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_no_exit_takes_does_not_make_the_overlay_unreachable() {
    let world = Recipe {
        policy: vec!["accept tcp *:80"],
        ..Recipe::new(3)
    }
    .start();
    let config = ClientConfig {
        prebuilt: 1,
        ..ClientConfig::default()
    };
    let client = world.client_with(config, GuardSample::default(), None);
    let target = echo().await;
    let refused = client
        .circuit(key("a"), Proto::Tcp, Some(&target), &[])
        .await
        .map(drop);
    assert!(matches!(refused, Err(BuildError::NoPath(_))), "{refused:?}");
    assert_eq!(*client.status().borrow(), Status::Connecting);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_frees_the_exit_even_after_the_origin_said_it_had_no_more() {
    let world = Recipe::new(3).start();
    let route = CircuitRoute::new(world.client(3));
    // Never says anything, and never ends.
    let target = serve(|stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let mut stream = route.connect(&target, key("a")).await.unwrap();
    let exit = world.process(2);
    let sockets = exit.files();
    stream.write_all(b"bye").await.unwrap();
    stream.shutdown().await.unwrap();
    // The exit has said so to the target.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(exit.files(), sockets);
    drop(stream);
    until("the exit closes the connection", || exit.files() < sockets).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_is_not_reached_through_itself() {
    let world = Recipe::new(3).start();
    let client = world.client(3);
    let (own, other) = (world.relays[2].addr, world.relays[0].addr);
    let circuit = client
        .circuit(key("a"), Proto::Tcp, Some(&Target::ip(own)), &[])
        .await
        .unwrap();
    let refused = circuit.connect(&Target::ip(own), LONG).await.err();
    assert_eq!(refused, Some(StreamFailure::Status(OpenStatus::Refused)));
    let reached = circuit.connect(&Target::ip(other), LONG).await;
    assert!(reached.is_ok(), "its policy lets the other relay through");

    // The exit's port is free for datagrams: what listens there must hear nothing.
    let heard = tokio::net::UdpSocket::bind(own).await.unwrap();
    let flow = circuit.datagrams(LONG).await.unwrap();
    let echo = udp_echo("127.0.0.1:0").await;
    flow.send(&Target::ip(own), b"me").unwrap();
    flow.send(&echo, b"other").unwrap();
    assert_eq!(flow.recv().await.unwrap().1, b"other");
    let mut buf = [0; 16];
    assert!(heard.try_recv_from(&mut buf).is_err());
}

/// Dials as the program does, and counts what leaves.
struct Counting {
    dialer: OsDialer,
    sent: Arc<AtomicUsize>,
}

struct Counted(Box<dyn AsyncWrite + Send + Unpin>, Arc<AtomicUsize>);

impl RelayDialer for Counting {
    fn dial<'a>(
        &'a self,
        relay: &'a Descriptor,
        place: Place,
    ) -> BoxFuture<'a, std::io::Result<Transport>> {
        Box::pin(async move {
            let Transport { reader, writer } = self.dialer.dial(relay, place).await?;
            let writer = Box::new(Counted(writer, Arc::clone(&self.sent)));
            Ok(Transport { reader, writer })
        })
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.0).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = polled {
            self.1.fetch_add(n, Ordering::SeqCst);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_cells_leave_on_a_circuit_that_nobody_uses_unless_padding_is_off() {
    let world = Recipe::new(3).start();
    let client = |padding| {
        let sent = Arc::new(AtomicUsize::new(0));
        let dialer = Arc::new(Counting {
            dialer: OsDialer::new(Some(world.client_ip())),
            sent: Arc::clone(&sent),
        });
        let config = ClientConfig {
            prebuilt: 0,
            padding,
            ..ClientConfig::default()
        };
        let list = Arc::clone(&world.list);
        (
            Client::new(list, GuardSample::default(), None, dialer, config),
            sent,
        )
    };
    const CELLS: usize = 12;
    let (padded, padded_sent) = client(CircuitPaddingConfig {
        early: CELLS as u32..=CELLS as u32,
        young: Duration::ZERO,
        ..CircuitPaddingConfig::default()
    });
    let (plain, plain_sent) = client(CircuitPaddingConfig::off());
    let _plain = plain.fresh_circuit(ExitNeed::Any).await.unwrap();
    let plain_before = plain_sent.load(Ordering::SeqCst);
    let _padded = padded.fresh_circuit(ExitNeed::Any).await.unwrap();
    // A handshake, three handshakes of hops, and padding of 1024 bytes a cell.
    let built = plain_before;
    until("DROP cells leave", || {
        padded_sent.load(Ordering::SeqCst) >= built + CELLS * 1024
    })
    .await;
    // Keep-alives aside, of which there is one in ten seconds at the most.
    let plain_more = plain_sent.load(Ordering::SeqCst) - plain_before;
    assert!(plain_more < CELLS * 1024 / 2, "{plain_more} bytes");
    assert!(!_padded.is_closed() && !_plain.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_expired_list_no_circuit_is_built_until_there_is_a_newer_one() {
    let world = Recipe::new(3).start();
    let now = hushswarm::config::unix_now();
    let trust = Trust {
        network: world::NETWORK.to_owned(),
        authorities: vec![world.authority.public()],
        threshold: 1,
    };
    let old = world::sign(&world.authority, &world.descriptors, now - 90, now - 30);
    let old = RelayList::decode_verified(&old, &trust, now - 60).unwrap();
    let config = ClientConfig {
        prebuilt: 1,
        ..ClientConfig::default()
    };
    let client = world.client_with(config, GuardSample::default(), None);
    client.prebuild();
    until("a circuit is ready", || client.circuits() == 1).await;
    client.set_list(Arc::new(old));

    // Not even what was built ahead is handed out.
    let target = echo().await;
    let built = client
        .circuit(key("a"), Proto::Tcp, Some(&target), &[])
        .await;
    assert_eq!(built.err(), Some(BuildError::ListExpired));
    let fresh = client.fresh_circuit(ExitNeed::Any).await;
    assert_eq!(fresh.err(), Some(BuildError::ListExpired));
    let status = Status::Unreachable(BuildError::ListExpired);
    assert_eq!(*client.status().borrow(), status);
    let route = CircuitRoute::new(client.clone());
    let refused = route.connect(&target, key("b")).await.err();
    assert!(
        matches!(refused, Some(RouteError::NoCircuit(why)) if why.contains("relay list has expired"))
    );

    client.set_list(Arc::clone(&world.list));
    let stream = route.connect(&target, key("b")).await.unwrap();
    round_trip(stream, pattern(1, 1000)).await;
    // An attempt to build ahead that began before may still say that the list has expired.
    until("it says that it is ready", || {
        *client.status().borrow() == Status::Ready
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_closed_builds_nothing() {
    let world = Recipe::new(3).start();
    let client = world.client(3);
    client.fresh_circuit(ExitNeed::Any).await.unwrap();
    client.close();
    let built = client.fresh_circuit(ExitNeed::Any).await;
    assert_eq!(built.err(), Some(BuildError::Closed));
}
