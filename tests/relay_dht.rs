//! Lookups in the DHT that an exit makes for origins (PROTOCOL.md §5.8), through real circuits: in a DHT of libtorrent's nodes,
//! and against sockets that answer nothing, or too much.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

mod support;
#[path = "support/relays.rs"]
mod world;

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use data_encoding::{HEXLOWER, HEXUPPER};
use hushswarm::config::{RELAY_CONFIG_FILE, RelayConfig, RelayDht, bootstrap};
use hushswarm::krpc;
use hushswarm::net::os::{LinkListener, OsDialer};
use hushswarm::overlay::circuit::StreamFailure;
use hushswarm::overlay::client::{Client, Wanted};
use hushswarm::relay::limits::Limits;
use hushswarm::relay::{Keys, Options, Relay};
use hushswarm::route::circuits::CircuitRoute;
use hushswarm::route::{BoxStream, Outside, RouteError};
use hushswarm::state::{RelayKeys, StateDir};
use hushswarm_circuits::body::OpenStatus;
use hushswarm_circuits::dht::{Family, Item, Op, Reader, Record, Request, Summary};
use hushswarm_circuits::keys::IdentityKey;
use hushswarm_circuits::path::ExitNeed;
use support::clients::libtorrent_python;
use support::dht::{PrivateDht, learned};
use support::process::Process;
use support::{PATIENCE, fixture};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::timeout;
use world::{PROGRAM, Recipe, World, key, until};

const LONG: Duration = Duration::from_secs(60);
const INFOHASH: [u8; 20] = *b"infohash of the test";

/// Loopback addresses that nobody else has, each in a network (/16) of its own.
fn addrs(nets: std::ops::Range<u8>, port: u16) -> Vec<SocketAddr> {
    static CALLS: AtomicU8 = AtomicU8::new(1);
    let process = (std::process::id() % 250) as u8 + 1;
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let addr = |net| SocketAddr::from(([127, net, process, call], port));
    nets.map(addr).collect()
}

/// Relays of which the last ones are exits that offer lookups.
fn recipe(relays: usize, exits: usize) -> Recipe {
    let configure = |_: usize, config: &mut RelayConfig| {
        if config.roles.exit {
            config.dht = Some(RelayDht::default());
        }
    };
    Recipe {
        exits,
        configure,
        ..Recipe::new(relays)
    }
}

/// Changes what a relay does, but not what its descriptor says.
fn change(world: &World, n: usize, change: impl FnOnce(&mut RelayConfig)) {
    let path = world.relays[n].state.join(RELAY_CONFIG_FILE);
    let mut config = RelayConfig::parse(&fs::read_to_string(&path).unwrap(), &path).unwrap();
    change(&mut config);
    fs::write(path, config.to_toml().unwrap()).unwrap();
}

fn begin_from(world: &World, n: usize, nodes: &[SocketAddr]) {
    change(world, n, |config| {
        let nodes = nodes
            .iter()
            .map(|node| bootstrap(&node.to_string()).unwrap());
        config.dht.as_mut().unwrap().bootstrap = nodes.collect();
    });
}

/// A relay of a world, inside this process, where its counters can be read.
fn start_inside(world: &World, n: usize) -> Relay {
    let relay = &world.relays[n];
    let path = relay.state.join(RELAY_CONFIG_FILE);
    let config = RelayConfig::parse(&fs::read_to_string(&path).unwrap(), &path).unwrap();
    let keys = RelayKeys::load(&StateDir::open(&relay.state).unwrap());
    let keys = keys.unwrap().unwrap();
    let options = Options {
        descriptor: world.descriptors[n].clone(),
        keys: Keys {
            identity: Arc::new(keys.identity),
            onion: keys.onion,
            link: keys.link,
        },
        list: Arc::clone(&world.list),
        listeners: vec![LinkListener::bind(relay.addr).unwrap()],
        exit_source: Some(relay.addr.ip()),
        limits: Limits::default(),
        dht: config.dht,
        meetings: config.introductions,
    };
    Relay::start(options, Arc::new(OsDialer::new(Some(relay.addr.ip()))))
}

async fn ask(stream: &mut BoxStream, op: Op) {
    ask_in(stream, Family::V4, op).await;
}

async fn ask_in(stream: &mut BoxStream, family: Family, op: Op) {
    let request = Request { family, op }.encode().unwrap();
    stream.write_all(&request).await.unwrap();
    stream.shutdown().await.unwrap();
}

/// All records of an answer. Fails where the stream is cut off.
async fn answer(stream: &mut BoxStream) -> (Vec<Record>, Summary) {
    let (mut reader, mut records, mut bytes) = (Reader::default(), Vec::new(), [0; 4096]);
    let read = async {
        loop {
            let n = stream.read(&mut bytes).await.unwrap();
            reader.push(&bytes[..n]);
            while let Some(record) = reader.next().unwrap() {
                records.push(record);
            }
            if n == 0 {
                break;
            }
        }
    };
    timeout(2 * LONG, read).await.unwrap();
    assert!(reader.is_ended(), "{records:?}");
    let Some(Record::End(summary)) = records.pop() else {
        panic!("{records:?}");
    };
    (records, summary)
}

/// Asks by a circuit that nobody else has.
async fn look_up(client: &Client, owner: &str, op: Op) -> (Vec<Record>, Summary) {
    let route = CircuitRoute::new(client.clone());
    let mut stream = route.dht(&[], key(owner)).await.unwrap();
    ask(&mut stream, op).await;
    answer(&mut stream).await
}

fn peers(records: &[Record]) -> BTreeSet<SocketAddr> {
    let peers = records.iter().filter_map(|record| match record {
        Record::Peers(peers) => Some(peers.clone()),
        Record::Item(_) | Record::End(_) => None,
    });
    peers.flatten().collect()
}

const PEERS: Op = Op::Peers { target: INFOHASH };

/// Real nodes, enough that most know few of the others.
fn real_nodes() -> Option<(PrivateDht, std::path::PathBuf)> {
    let python = libtorrent_python()?;
    Some((PrivateDht::start_at(&python, addrs(110..134, 6881)), python))
}

/// Waits until an exit knows so many nodes that its walks begin from them.
async fn until_warm(world: &World, n: usize) {
    let warm = || world.process(n).log().contains("the table is filled");
    until("the exit's table is filled", warm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_real_nodes_know_stream_back_and_the_exit_alone_is_seen() {
    let Some((mut dht, python)) = tokio::task::block_in_place(real_nodes) else {
        return;
    };
    let announced = addrs(140..146, 7001);
    let watch = addrs(150..151, 7001);
    let mut command = Command::new(python);
    command
        .arg(fixture("lt_announce.py"))
        .args(["--infohash", &HEXLOWER.encode(&INFOHASH)])
        .args(["--watch", &watch[0].to_string()])
        .args(["--bootstrap", &dht.nodes[0].to_string()])
        .args(announced.iter().map(SocketAddr::to_string));
    let mut peer = Process::spawn("peers", command);
    tokio::task::block_in_place(|| peer.wait_for_event(2 * PATIENCE, "ready"));

    let mut world = recipe(4, 1).build();
    begin_from(&world, 3, &dht.nodes[..3]);
    (0..4).for_each(|n| world.start(n));
    until_warm(&world, 3).await;
    let client = world.client(3);
    let (records, end) = look_up(&client, "a", PEERS).await;
    assert_eq!(peers(&records), announced.iter().copied().collect());
    assert!(
        end.asked > 8 && end.answered > 8 && end.stored == 0,
        "{end:?}"
    );

    // Another exit, that tells of nobody on this machine.
    let careful = Recipe {
        policy: vec!["accept udp 127.0.0.0/8:1-65535", "public"],
        ..recipe(1, 1)
    };
    let mut careful = careful.build();
    begin_from(&careful, 0, &dht.nodes[..3]);
    careful.start(0);
    let (records, end) = look_up(&careful.client(1), "a", PEERS).await;
    assert_eq!(peers(&records), BTreeSet::new());
    assert!(end.answered > 8, "{end:?}");

    let records = tokio::task::block_in_place(|| dht.records());
    let ours = world.relays[3].addr.ip();
    let known = |ip: IpAddr| {
        let others = announced.iter().chain(&watch).chain(&dht.nodes);
        let others: BTreeSet<IpAddr> = others.map(SocketAddr::ip).collect();
        others.contains(&ip) || ip == ours || ip == careful.relays[0].addr.ip()
    };
    for record in &records {
        assert!(known(record.from.ip()), "a stranger was seen: {record:?}");
    }
    let told = learned(&records, &HEXLOWER.encode(&INFOHASH), |ip| ip == ours);
    assert!((1..=16).contains(&told.told.len()), "{}", told.told.len());
    assert!(told.asked.len() >= told.told.len());
    // At its most talkative, the exit's log names nobody and nothing.
    let log = world.process(3).log();
    let names = announced
        .iter()
        .chain(&dht.nodes)
        .map(|addr| addr.ip().to_string());
    let hashes = [HEXLOWER.encode(&INFOHASH), HEXUPPER.encode(&INFOHASH)];
    for name in names
        .chain(hashes)
        .chain([String::from_utf8(INFOHASH.into()).unwrap()])
    {
        assert!(!log.contains(&name), "the exit's log names {name}");
    }
    let from_us = records.iter().filter(|record| record.from.ip() == ours);
    for said in from_us
        .map(|record| &record.said)
        .filter(|said| said.kind == "q")
    {
        assert!(said.ro && said.v.is_empty(), "{said:?}");
        assert!(said.query != "announce_peer", "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_one_origin_puts_is_got_by_another() {
    let Some((dht, _)) = tokio::task::block_in_place(real_nodes) else {
        return;
    };
    let mut world = recipe(4, 1).build();
    begin_from(&world, 3, &dht.nodes[..3]);
    (0..4).for_each(|n| world.start(n));
    until_warm(&world, 3).await;
    let (one, other) = (world.client(3), world.client(3));
    let put = |item: &Item, cas| Op::Put {
        item: item.clone(),
        cas,
    };
    let get = |target: krpc::Id, salt: &[u8]| Op::Get {
        target: target.0,
        salt: salt.to_vec(),
    };

    let value = b"15:an item's value".to_vec();
    let target = krpc::ItemName::immutable(&value).target();
    let immutable = Item::Immutable { value };
    let (_, end) = look_up(&one, "put", put(&immutable, None)).await;
    assert!(end.stored >= 4, "{end:?}");
    let (records, _) = look_up(&other, "get", get(target, b"")).await;
    assert_eq!(records, [Record::Item(immutable)]);

    let owner = IdentityKey::generate(&mut rand::rng());
    let signed = |seq: i64, value: &[u8]| {
        let item = krpc::Item::sign(&owner, b"salt", seq, value).unwrap();
        let by = item.signed().unwrap();
        Item::Mutable {
            key: by.key,
            salt: by.salt.clone(),
            seq: by.seq.try_into().unwrap(),
            signature: by.signature,
            value: value.to_vec(),
        }
    };
    let name = krpc::ItemName::mutable(&owner.public().0, b"salt").unwrap();
    let (first, second) = (signed(1, b"3:one"), signed(2, b"3:two"));
    let (_, end) = look_up(&one, "first", put(&first, None)).await;
    assert!(end.stored >= 4, "{end:?}");
    let (records, _) = look_up(&other, "got", get(name.target(), b"salt")).await;
    assert_eq!(records, [Record::Item(first)]);
    // Swapped against another than there is: nobody takes it. Against the right one, they do.
    let (_, end) = look_up(&one, "wrong", put(&second, Some(7))).await;
    assert_eq!(end.stored, 0, "{end:?}");
    let (_, end) = look_up(&one, "right", put(&second, Some(1))).await;
    assert!(end.stored >= 4, "{end:?}");
    let (records, _) = look_up(&other, "again", get(name.target(), b"salt")).await;
    assert_eq!(records.last(), Some(&Record::Item(second)));

    // One that its key did not sign is refused before anybody is asked.
    let Item::Mutable {
        key: k,
        salt,
        seq,
        value,
        ..
    } = signed(3, b"3:bad")
    else {
        panic!();
    };
    let forged = Item::Mutable {
        key: k,
        salt,
        seq,
        value,
        signature: [7; 64],
    };
    let route = CircuitRoute::new(one);
    let mut stream = route.dht(&[], key("forged")).await.unwrap();
    ask(&mut stream, put(&forged, None)).await;
    let read = timeout(LONG, stream.read(&mut [0; 16])).await.unwrap();
    assert!(read.is_err(), "{read:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_that_refuses_is_left_for_another_and_without_any_the_origin_is_told() {
    // Both exits say that they look up; one does not.
    let mut world = recipe(4, 2).build();
    let nowhere = addrs(110..111, 6881);
    begin_from(&world, 3, &nowhere);
    change(&world, 2, |config| config.dht = None);
    (0..4).for_each(|n| world.start(n));
    assert!(world.process(2).log().contains("disagree on lookups"));
    let client = world.client(3);
    let route = CircuitRoute::new(client.clone());
    // With several keys both exits are drawn, and each lookup opens in the end.
    for n in 0..8 {
        route.dht(&[], key(&format!("owner {n}"))).await.unwrap();
    }
    // Once the other is gone, the refusal is what the origin hears.
    world.kill(3);
    let client = world.client(3);
    let wanted = Wanted {
        exit: ExitNeed::Dht,
        hops: None,
        not_last: &[world.relays[3].id],
    };
    let circuit = client.circuit_for(key("b"), wanted).await.unwrap();
    let refused = StreamFailure::Status(OpenStatus::Refused);
    assert_eq!(circuit.dht(&[], LONG).await.err(), Some(refused));
    let route = CircuitRoute::new(client);
    assert_eq!(
        route.dht(&[], key("b")).await.err(),
        Some(RouteError::Refused)
    );

    // In a network where nobody offers it, no circuit is built for it.
    let plain = Recipe::new(3).build();
    let route = CircuitRoute::new(plain.client(3));
    assert_eq!(
        route.dht(&[], key("c")).await.err(),
        Some(RouteError::Refused)
    );
}

/// One exit inside this process, whose lookups begin from a socket of the test's, and a client one hop away.
async fn silent_dht(limits: fn(&mut RelayDht)) -> (World, Relay, Client, UdpSocket) {
    let socket = UdpSocket::bind(addrs(110..111, 0)[0]).await.unwrap();
    let world = recipe(1, 1).build();
    begin_from(&world, 0, &[socket.local_addr().unwrap()]);
    change(&world, 0, |config| limits(config.dht.as_mut().unwrap()));
    let relay = start_inside(&world, 0);
    let client = world.client(1);
    // The upkeep's first query says that the names are resolved.
    let mut bytes = [0; 2048];
    timeout(LONG, socket.recv_from(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    (world, relay, client, socket)
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_refuse_clearly_and_are_counted() {
    let (_world, relay, client, _socket) = silent_dht(|dht| {
        dht.limits.lookups_per_circuit = 1.try_into().unwrap();
        dht.limits.lookups = 2.try_into().unwrap();
    })
    .await;
    let wanted = Wanted {
        exit: ExitNeed::Dht,
        hops: None,
        not_last: &[],
    };
    let circuit = client.circuit_for(key("a"), wanted).await.unwrap();
    let first = circuit.dht(&[], LONG).await.unwrap();
    let full = Some(StreamFailure::Status(OpenStatus::Limit));
    assert_eq!(
        circuit.dht(&[], LONG).await.err(),
        full,
        "one for each circuit"
    );
    let route = CircuitRoute::new(client.clone());
    assert_eq!(route.dht(&[], key("a")).await.err(), Some(RouteError::Busy));
    let second = route.dht(&[], key("b")).await.unwrap();
    assert_eq!(
        route.dht(&[], key("c")).await.err(),
        Some(RouteError::Busy),
        "two in all"
    );
    let counted = relay.counters().dht;
    assert_eq!((counted.lookups, counted.begun, counted.refused), (2, 2, 3));
    drop(first);
    until("a place is free", || relay.counters().dht.lookups == 1).await;
    drop(second);
    until("both are", || relay.counters().dht.lookups == 0).await;
    route.dht(&[], key("c")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_over_a_limit_leave_later_and_are_counted() {
    // A node that knows eight others, and these, which say nothing.
    let (_world, relay, client, socket) = silent_dht(|dht| {
        dht.limits.queries_per_second = 2.try_into().unwrap();
    })
    .await;
    let mut others = Vec::new();
    for addr in addrs(111..119, 0) {
        others.push(UdpSocket::bind(addr).await.unwrap());
    }
    let known: Vec<u8> = (1..)
        .zip(&others)
        .flat_map(|(n, other)| contact(n, other))
        .collect();
    let answering = tokio::spawn(async move {
        loop {
            let (query, from) = heard(&socket).await;
            let answer = said(transaction(&query), &known);
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    let route = CircuitRoute::new(client);
    let mut stream = route.dht(&[], key("a")).await.unwrap();
    ask(&mut stream, PEERS).await;
    for other in &others {
        heard(other).await;
    }
    let counted = relay.counters().dht;
    assert!(counted.put_off > 0 && counted.queries >= 9, "{counted:?}");
    answering.abort();
}

/// The next datagram, and who sent it.
async fn heard(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 2048];
    let heard = timeout(LONG, socket.recv_from(&mut bytes)).await;
    let (n, from) = heard.unwrap().unwrap();
    bytes.truncate(n);
    (bytes, from)
}

/// The transaction id of a query.
fn transaction(query: &[u8]) -> &[u8] {
    let mut parts = query.windows(5);
    let at = parts.rposition(|part| part == b"1:t4:").unwrap();
    &query[at + 5..at + 9]
}

/// A node of IPv4 as others tell of it.
fn contact(id: u8, socket: &UdpSocket) -> Vec<u8> {
    let SocketAddr::V4(addr) = socket.local_addr().unwrap() else {
        panic!();
    };
    let port = addr.port().to_be_bytes();
    [&[id; 20][..], &addr.ip().octets(), &port].concat()
}

/// What a node says that knows these.
fn said(transaction: &[u8], nodes: &[u8]) -> Vec<u8> {
    let head = format!("d1:rd2:id20:iiiiiiiiiiiiiiiiiiii5:nodes{}:", nodes.len());
    [head.as_bytes(), nodes, b"e1:t4:", transaction, b"1:y1:re"].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_early_ends_its_lookup_and_a_closed_circuit_all_of_them() {
    let (_world, relay, client, socket) = silent_dht(|_| {}).await;
    let other = UdpSocket::bind(addrs(111..112, 0)[0]).await.unwrap();
    let route = CircuitRoute::new(client.clone());
    let running = || relay.counters().dht.lookups;
    let mut first = route.dht(&[], key("a")).await.unwrap();
    ask(&mut first, PEERS).await;
    heard(&socket).await;
    let mut second = route.dht(&[], key("a")).await.unwrap();
    ask(&mut second, PEERS).await;
    let (query, exit) = heard(&socket).await;
    assert_eq!(running(), 2);
    drop(first);
    until("the first has ended", || running() == 1).await;
    // It did not end by itself for want of answers: the second, which began later, still waits for its own.
    let answer = said(transaction(&query), &contact(1, &other));
    socket.send_to(&answer, exit).await.unwrap();
    heard(&other).await;
    assert_eq!(running(), 1);
    client.close();
    until("all have ended", || running() == 0).await;
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_none_resets_its_stream_and_an_endless_one_is_not_gathered() {
    let (_world, relay, client, _socket) = silent_dht(|_| {}).await;
    let route = CircuitRoute::new(client);
    for (n, request) in [vec![], vec![9; 22], vec![1; 200_000]].iter().enumerate() {
        let mut stream = route.dht(&[], key(&n.to_string())).await.unwrap();
        // The relay may end it while we still write.
        let _ = stream.write_all(request).await;
        let _ = stream.shutdown().await;
        let read = timeout(LONG, stream.read(&mut [0; 16])).await.unwrap();
        assert!(read.is_err(), "{} bytes: {read:?}", request.len());
    }
    until("none runs", || relay.counters().dht.lookups == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_count_only_from_who_was_asked_and_a_flood_of_others_does_no_harm() {
    let (_world, relay, client, socket) = silent_dht(|_| {}).await;
    let route = CircuitRoute::new(client);
    let mut stream = route.dht(&[], key("a")).await.unwrap();
    ask(&mut stream, PEERS).await;
    let mut bytes = [0; 2048];
    let (n, exit) = timeout(LONG, socket.recv_from(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    // The answer of a node that knows nobody.
    let good = said(transaction(&bytes[..n]), b"");
    let stranger = UdpSocket::bind(addrs(111..112, 0)[0]).await.unwrap();
    stranger.send_to(&good, exit).await.unwrap();
    socket.send_to(&said(b"none", b""), exit).await.unwrap();
    socket.send_to(&bytes[..n], exit).await.unwrap();
    for n in 0..20_000u32 {
        // Loopback drops what the relay's socket can't hold.
        let _ = stranger
            .send_to(&[&n.to_be_bytes()[..], &[b'd'; 1000]].concat(), exit)
            .await;
    }
    assert_eq!(relay.counters().dht.answered, 0);
    // After the flood, or beside it, the right one is taken.
    let right = || async {
        socket.send_to(&good, exit).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        relay.counters().dht.answered
    };
    let begun = Instant::now();
    while right().await == 0 {
        assert!(begun.elapsed() < LONG, "the right answer is not taken");
    }
    assert_eq!(relay.counters().dht.answered, 1, "and once");
    let (records, end) = answer(&mut stream).await;
    assert_eq!((records, end.answered), (Vec::new(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_two_families_are_two_networks_and_each_is_walked_alone() {
    let Ok(v6) = UdpSocket::bind("[::1]:0").await else {
        return support::skip("this machine has no IPv6");
    };
    let v4 = UdpSocket::bind(addrs(110..111, 0)[0]).await.unwrap();
    let world = recipe(1, 1).build();
    let both = [&v4, &v6].map(|socket| socket.local_addr().unwrap());
    begin_from(&world, 0, &both);
    let relay = start_inside(&world, 0);
    let mut bytes = [0; 2048];
    for socket in [&v4, &v6] {
        // The upkeep's own.
        let (_, from) = timeout(LONG, socket.recv_from(&mut bytes))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(from.is_ipv6(), socket.local_addr().unwrap().is_ipv6());
    }
    let route = CircuitRoute::new(world.client(1));
    let mut stream = route.dht(&[], key("a")).await.unwrap();
    ask_in(&mut stream, Family::V6, PEERS).await;
    timeout(LONG, v6.recv_from(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    assert!(v4.try_recv_from(&mut bytes).is_err());
    assert_eq!(relay.counters().dht.lookups, 1);
    drop(stream);

    // Where nobody is known to begin from in a family, the answer is at its end at once.
    let world = recipe(1, 1).build();
    begin_from(&world, 0, &both[..1]);
    let _relay = start_inside(&world, 0);
    let route = CircuitRoute::new(world.client(1));
    let mut stream = route.dht(&[], key("a")).await.unwrap();
    ask_in(&mut stream, Family::V6, PEERS).await;
    assert_eq!(answer(&mut stream).await, (Vec::new(), Summary::default()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_where_the_policy_lets_no_datagram_go() {
    let socket = UdpSocket::bind(addrs(110..111, 0)[0]).await.unwrap();
    let world = Recipe {
        policy: vec!["public"],
        ..recipe(1, 1)
    };
    let world = world.build();
    begin_from(&world, 0, &[socket.local_addr().unwrap()]);
    let relay = start_inside(&world, 0);
    let (records, end) = look_up(&world.client(1), "a", PEERS).await;
    assert_eq!((records, end), (Vec::new(), Summary::default()));
    assert_eq!(relay.counters().dht.queries, 0);
    let mut bytes = [0; 16];
    assert!(socket.try_recv_from(&mut bytes).is_err());
}

#[test]
fn an_exit_that_looks_up_says_so_wherever_it_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let network = |words: &[&str]| {
        let out = Command::new(PROGRAM)
            .arg("network")
            .args(words)
            .output()
            .unwrap();
        let said = [out.stdout, out.stderr].concat();
        (out.status.success(), String::from_utf8(said).unwrap())
    };
    let state = path("relay");
    let init = |words: &[&str]| network(&[&["relay-keys", "--state", &state][..], words].concat());
    let new = ["--nickname", "r", "--listen", "127.0.0.1:4443"];
    let (made, said) = init(&[&new[..], &["--dht"]].concat());
    assert!(!made && said.contains("--exit"), "{said}");
    let (made, said) = init(&[&new[..], &["--exit", "--dht"]].concat());
    assert!(
        made && said.contains("exit, list, dht") && said.contains("looks up for others"),
        "{said}"
    );
    let file = Path::new(&state).join(RELAY_CONFIG_FILE);
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("[dht]") && text.contains("router.bittorrent.com:6881"),
        "{text}"
    );
    // What the operator chose stays when the descriptor is renewed.
    fs::write(&file, text.replace("lookups = 256", "lookups = 3")).unwrap();
    let (_, said) = init(&["--exit", "--dht"]);
    assert!(said.contains("dht"), "{said}");
    assert!(fs::read_to_string(&file).unwrap().contains("lookups = 3"));

    let (key, list, shown, descriptor) =
        (path("a"), path("l"), path("n"), path("relay/descriptor"));
    let (_, said) = network(&["new-authority", "--state", &key]);
    let id = said
        .split_whitespace()
        .find(|word| word.len() == 64)
        .unwrap();
    let (signed, said) = network(&[
        "sign",
        "--authority",
        &key,
        "--network",
        "test",
        "--out",
        &list,
        &descriptor,
    ]);
    assert!(signed && said.contains("-ELD"), "{said}");
    let words = [
        "file",
        "--name",
        "test",
        "--authority",
        id,
        "--threshold",
        "1",
        "--list",
        "l",
        "--out",
        &shown,
    ];
    assert!(network(&words).0);
    let (_, said) = network(&["show", &shown]);
    assert!(
        said.contains("1 exits, 1 of them with DHT lookups") && said.contains("-ELD"),
        "{said}"
    );

    let (_, said) = init(&["--exit", "--policy", "accept tcp 8.0.0.0/8:80"]);
    assert!(said.contains("warning: the relay offers lookups"), "{said}");
}
