//! No log line of a relay or a client, at any level, holds an address, a port or a name of anybody: a transfer through
//! three relays that log all they can, and a client whose every event is caught, those of libraries too.
//!
//! One test in a process of its own, for the subscriber is the process's.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

#[path = "support/relays.rs"]
mod world;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hushswarm::overlay::client::ClientConfig;
use hushswarm::route::Outside;
use hushswarm::route::circuits::CircuitRoute;
use hushswarm_circuits::path::GuardSample;
use hushswarm_circuits::relay_list::Proto;
use hushswarm_circuits::target::Target;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use world::{Recipe, World, key, pattern, round_trip, serve, udp_echo, until};

const LONG: Duration = Duration::from_secs(60);

#[derive(Clone, Default)]
struct Caught(Arc<Mutex<Vec<u8>>>);

impl Write for Caught {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Caught {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The forms in which an address could stand in a line.
fn forms(addr: std::net::SocketAddr) -> Vec<String> {
    let mut all = vec![addr.ip().to_string(), addr.to_string()];
    if let std::net::IpAddr::V4(ip) = addr.ip() {
        let [a, b, c, d] = ip.octets();
        all.push(format!("{a}, {b}, {c}, {d}"));
        all.push(format!("{a:02x}{b:02x}{c:02x}{d:02x}"));
        all.push(format!("{a:02X}{b:02X}{c:02X}{d:02X}"));
        all.push(ip.to_bits().to_string());
        all.push(ip.to_ipv6_mapped().to_string());
    }
    all
}

/// Whether a number stands in a line by itself.
fn has_number(line: &str, number: u16) -> bool {
    line.split(|c: char| !c.is_ascii_digit())
        .any(|word| word == number.to_string())
}

/// The line without the time in front, whose digits mean nothing.
fn without_time(line: &str) -> &str {
    line.trim_start()
        .split_once(' ')
        .map_or(line, |(_, rest)| rest)
}

/// Ends relays as a crash would, and keeps their logs.
async fn kill(world: &mut World, relays: &[usize], logs: &mut Vec<String>) {
    for n in relays {
        let process = world.relays[*n].process.take().unwrap();
        process.signal(Signal::KILL);
        logs.push(
            tokio::task::spawn_blocking(|| process.wait())
                .await
                .unwrap()
                .1,
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_log_line_tells_an_address_a_port_or_a_name() {
    let caught = Caught::default();
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(caught.clone())
        .init();
    let recipe = Recipe {
        guards: 2,
        ..Recipe::new(4)
    };
    let mut world = recipe.start();
    let client_ip = world.client_ip();
    let config = ClientConfig {
        prebuilt: 0,
        ..ClientConfig::default()
    };
    let client = world.client_at(client_ip, config.clone(), GuardSample::default(), None);
    let route = CircuitRoute::new(client.clone());

    // Streams by address and by name, of which some fail; datagrams; and relays that die.
    let (peers, mut seen) = tokio::sync::mpsc::channel(16);
    let target = serve(move |mut stream| {
        let peers = peers.clone();
        async move {
            peers.send(stream.peer_addr().unwrap()).await.unwrap();
            let (mut from, mut to) = stream.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        }
    })
    .await;
    round_trip(
        route.connect(&target, key("a")).await.unwrap(),
        pattern(1, 2_000_000),
    )
    .await;
    let by_name = Target::parse("localhost", target.port).unwrap();
    round_trip(
        route.connect(&by_name, key("b")).await.unwrap(),
        pattern(2, 100_000),
    )
    .await;
    let unknown = Target::parse("secret-name.invalid", 4242).unwrap();
    assert!(route.connect(&unknown, key("a")).await.is_err());
    let (listener, closed) = world::listen().await;
    drop(listener);
    assert!(route.connect(&closed, key("a")).await.is_err());
    let datagrams = udp_echo("127.0.0.1:0").await;
    let flow = route.datagrams(key("a")).await.unwrap();
    for to in [
        &datagrams,
        &unknown,
        &Target::parse("localhost", datagrams.port).unwrap(),
    ] {
        flow.send(to, b"hello").unwrap();
    }
    timeout(LONG, flow.recv()).await.unwrap().unwrap();
    let list = client.directory_circuit().await.unwrap();
    let mut stream = list.relay_list(LONG).await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    // Something that is not a link.
    let mut logs = Vec::new();
    let relay = world.relays[0].addr;
    let stranger = tokio::net::TcpStream::connect(relay).await.unwrap();
    let stranger_addr = stranger.local_addr().unwrap();
    let (_, mut writer) = stranger.into_split();
    writer.write_all(&[7; 2000]).await.unwrap();
    until("the stranger is refused", || {
        world.process(0).log().contains("did not become a link")
    })
    .await;
    // A relay that dies while a stream is open; then no middle is left, and at last no guard.
    let mut open = route.connect(&target, key("c")).await.unwrap();
    let circuit = client
        .circuit(key("c"), Proto::Tcp, Some(&target), &[])
        .await
        .unwrap();
    let guard = world.place(&circuit.path()[0].identity);
    kill(&mut world, &[1 - guard, 2], &mut logs).await;
    timeout(LONG, async {
        while open.write_all(&[0; 4096]).await.is_ok() {}
    })
    .await
    .unwrap();
    assert!(route.connect(&target, key("d")).await.is_err());
    kill(&mut world, &[guard], &mut logs).await;
    let other = world.client_at(client_ip, config, GuardSample::default(), None);
    assert!(
        CircuitRoute::new(other.clone())
            .connect(&target, key("a"))
            .await
            .is_err()
    );
    client.close();
    other.close();
    let exit = world.relays[3].process.take().unwrap();
    exit.signal(Signal::TERM);
    until("it stops", || exit.log().contains("stopping")).await;
    logs.push(tokio::task::spawn_blocking(|| exit.wait()).await.unwrap().1);
    let mine = String::from_utf8(caught.0.lock().unwrap().clone()).unwrap();

    // They did log: what is looked for below is looked for in something.
    for event in [
        "circuit built",
        "circuit not built",
        "guard not reached",
        "link closed",
    ] {
        assert!(mine.contains(event), "no {event:?} in:\n{mine}");
    }
    for event in [
        "link closed",
        "next hop not reached",
        "did not become a link",
    ] {
        assert!(
            logs.iter().any(|log| log.contains(event)),
            "no {event:?} in: {logs:?}"
        );
    }
    logs.push(mine);

    let mut secrets: Vec<String> = Vec::new();
    let mut ports = vec![
        target.port,
        closed.port,
        datagrams.port,
        4242,
        stranger_addr.port(),
    ];
    secrets.extend(["localhost", "secret-name", ".invalid"].map(str::to_owned));
    secrets.extend(forms((client_ip, 0).into()));
    for addr in [
        target.socket_addr(),
        closed.socket_addr(),
        datagrams.socket_addr(),
    ] {
        secrets.extend(forms(addr.unwrap()));
    }
    while let Ok(exit) = seen.try_recv() {
        secrets.extend(forms(exit));
        ports.push(exit.port());
    }
    for relay in &world.relays {
        secrets.extend(forms(relay.addr));
        ports.push(relay.addr.port());
    }
    secrets.sort();
    secrets.dedup();
    for line in logs.iter().flat_map(|log| log.lines()) {
        for secret in &secrets {
            assert!(
                !line.contains(secret.as_str()),
                "{secret:?} stands in: {line}"
            );
        }
        for port in &ports {
            assert!(
                !has_number(without_time(line), *port),
                "port {port} stands in: {line}"
            );
        }
    }
}
