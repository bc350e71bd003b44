//! Lookups at the exit, from the client's route to a nameserver: real relays, the system's own resolver, and a
//! nameserver of the test that also says nothing, or lies.

use crate::support;
#[path = "../support/relays.rs"]
mod world;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hushswarm::overlay::circuit::{Circuit, StreamFailure};
use hushswarm::overlay::client::Client;
use hushswarm::route::circuits::CircuitRoute;
use hushswarm::route::{Outside, RouteError};
use hushswarm_circuits::body::OpenStatus;
use hushswarm_circuits::lookup::Answer;
use hushswarm_circuits::path::ExitNeed;
use hushswarm_circuits::target::{Host, HostName, Target};
use support::inside::inside;
use world::{Recipe, World, key, pattern, round_trip};

const LONG: Duration = Duration::from_secs(60);
const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 53, 0, 1);
const FILES: &[(&str, &str)] = &[
    (
        "/etc/resolv.conf",
        "nameserver 127.53.0.1\noptions timeout:1 attempts:1\n",
    ),
    (
        "/etc/hosts",
        "127.0.0.1 localhost\n93.184.216.35 hosts.example\n10.1.2.3 printer.example\n",
    ),
    ("/etc/nsswitch.conf", "hosts: files dns\n"),
];

const A: u16 = 1;
const CNAME: u16 = 5;
const PTR: u16 = 12;
const AAAA: u16 = 28;

/// What the nameserver does with a question.
#[derive(Clone)]
enum Say {
    Records(Vec<(u16, Vec<u8>)>),
    Code(u8),
    Nothing,
    /// Lies, as somebody would who sees neither id nor question nor port, and then the truth.
    Forged(Vec<u8>),
}

/// A nameserver that writes down who is asked for.
struct Nameserver {
    asked: Arc<Mutex<Vec<(String, u16)>>>,
    ports: Arc<Mutex<Vec<u16>>>,
}

fn wire_name(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.') {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out
}

fn reply(query: &[u8], code: u8, records: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut out = query[..2].to_vec();
    out.extend_from_slice(&[0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    out.extend_from_slice(&query[12..]);
    for (kind, data) in records {
        out.extend_from_slice(&[0xc0, 12]);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&[0, 1, 0, 0, 0, 77]);
        out.extend_from_slice(&(data.len() as u16).to_be_bytes());
        out.extend_from_slice(data);
    }
    out
}

/// The name and type that a query asks for.
fn question(query: &[u8]) -> (String, u16) {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let len = usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..=at + len].to_vec()).unwrap());
        at += 1 + len;
    }
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    (labels.join(".").to_ascii_lowercase(), kind)
}

impl Nameserver {
    fn start(zone: &[(&str, Say)]) -> Self {
        let zone: BTreeMap<String, Say> = zone
            .iter()
            .map(|(name, say)| ((*name).to_owned(), say.clone()))
            .collect();
        let socket = UdpSocket::bind((RESOLVER, 53)).unwrap();
        let (asked, ports): (Arc<Mutex<Vec<_>>>, Arc<Mutex<Vec<_>>>) = Default::default();
        let (asked_, ports_) = (Arc::clone(&asked), Arc::clone(&ports));
        std::thread::spawn(move || {
            let mut buf = [0; 2048];
            loop {
                let (len, from) = socket.recv_from(&mut buf).unwrap();
                let query = &buf[..len];
                let (name, kind) = question(query);
                asked_.lock().unwrap().push((name.clone(), kind));
                ports_.lock().unwrap().push(from.port());
                let answer = match zone.get(&name).cloned().unwrap_or(Say::Code(3)) {
                    Say::Nothing => continue,
                    Say::Code(code) => reply(query, code, &[]),
                    Say::Records(records) => {
                        let of_kind = |&(k, _): &(u16, _)| k == kind || k == CNAME;
                        let records: Vec<_> = records.into_iter().filter(of_kind).collect();
                        reply(query, 0, &records)
                    }
                    Say::Forged(truth) => {
                        let lie = [(PTR, wire_name("lie.example"))];
                        let lie = reply(query, 0, &lie);
                        // Another server, and another port of this one.
                        for other in [RESOLVER, Ipv4Addr::new(127, 53, 0, 2)] {
                            let other = UdpSocket::bind((other, 0)).unwrap();
                            other.send_to(&lie, from).unwrap();
                        }
                        let (mut id, mut asks) = (lie.clone(), lie.clone());
                        id[1] ^= 1;
                        asks[13] ^= 1;
                        for forged in [&id, &asks, &query.to_vec(), &lie[..9].to_vec()] {
                            socket.send_to(forged, from).unwrap();
                        }
                        reply(query, 0, &[(PTR, truth)])
                    }
                };
                socket.send_to(&answer, from).unwrap();
            }
        });
        Self { asked, ports }
    }

    fn was_asked(&self, name: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|(n, _)| n == name)
    }
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn records(texts: &[&str]) -> Say {
    let record = |ip| match ip {
        IpAddr::V4(ip) => (A, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AAAA, ip.octets().to_vec()),
    };
    Say::Records(ips(texts).into_iter().map(record).collect())
}

fn ptr(name: &str) -> Say {
    Say::Records(vec![(PTR, wire_name(name))])
}

/// Relays whose exit lets out what the public internet is.
fn public() -> World {
    let recipe = Recipe {
        policy: vec!["public"],
        ..Recipe::new(3)
    };
    recipe.start()
}

async fn resolve(route: &CircuitRoute, name: &str) -> Result<Vec<IpAddr>, RouteError> {
    let name = HostName::new(name).unwrap();
    route.resolve(&name, key("a")).await.map(|mut found| {
        found.sort();
        found
    })
}

async fn resolve_ptr(route: &CircuitRoute, ip: &str) -> Result<String, RouteError> {
    let found = route.resolve_ptr(ip.parse().unwrap(), key("a")).await;
    found.map(|name| name.as_str().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_looked_up_at_the_exit() {
    if !inside("lookups::names_are_looked_up_at_the_exit", FILES) {
        return;
    }
    let many: Vec<String> = (1..=25).map(|n| format!("93.184.216.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let nameserver = Nameserver::start(&[
        ("four.example", records(&["93.184.216.34"])),
        ("six.example", records(&["2606:2800:220:1::1"])),
        (
            "both.example",
            records(&["93.184.216.34", "2606:2800:220:1::1"]),
        ),
        ("mixed.example", records(&["10.0.0.1", "93.184.216.34"])),
        ("inner.example", records(&["192.168.1.1", "fd00::1"])),
        ("many.example", records(&many)),
        ("empty.example", records(&[])),
        ("broken.example", Say::Code(2)),
        ("silent.example", Say::Nothing),
    ]);
    let world = public();
    let client = world.client(3);
    let route = CircuitRoute::new(client.clone());
    let (four, six) = ("93.184.216.34", "2606:2800:220:1::1");
    assert_eq!(resolve(&route, "four.example").await, Ok(ips(&[four])));
    assert_eq!(resolve(&route, "six.example").await, Ok(ips(&[six])));
    assert_eq!(resolve(&route, "both.example").await, Ok(ips(&[four, six])));
    let hosts = resolve(&route, "hosts.example").await;
    assert_eq!(hosts, Ok(ips(&["93.184.216.35"])), "from /etc/hosts");
    assert!(!nameserver.was_asked("hosts.example"));
    // What the exit would not reach, it does not tell of.
    assert_eq!(resolve(&route, "mixed.example").await, Ok(ips(&[four])));
    for inner in ["inner.example", "printer.example", "localhost", "10.0.0.1"] {
        let refused = resolve(&route, inner).await;
        assert_eq!(refused, Err(RouteError::Refused), "{inner}");
    }
    let (_exit, exit) = circuit_to(&world, 2).await;
    let named = |name: &str| Host::Name(HostName::new(name).unwrap());
    let told = exit.look_up(&named("mixed.example"), LONG).await;
    assert_eq!(told, Ok(Answer::Addresses(vec![(ips(&[four])[0], 0)])));
    let told = exit.look_up(&named("inner.example"), LONG).await;
    assert_eq!(told, Err(StreamFailure::Status(OpenStatus::Refused)));
    let found = resolve(&route, "many.example").await.unwrap();
    assert_eq!(found.len(), 16, "{found:?}");
    // A name that is missing is told from a resolver that can't tell.
    let missing = Err(RouteError::NameNotFound);
    assert_eq!(resolve(&route, "missing.example").await, missing);
    assert_eq!(resolve(&route, "empty.example").await, missing);
    let failed = Err(RouteError::TimedOut);
    assert_eq!(resolve(&route, "broken.example").await, failed);
    assert_eq!(resolve(&route, "silent.example").await, failed);
    assert_eq!(client.circuits(), 1, "one circuit did all of it");
    let target = Target::parse("silent.example", 80).unwrap();
    let connected = route.connect(&target, key("a")).await;
    assert_eq!(connected.map(drop), Err(RouteError::TimedOut));
    // Nor does a stream go to a private address, by whatever name: that is where a redirect may lead (L49).
    for inner in ["inner.example", "printer.example"] {
        let target = Target::parse(inner, 80).unwrap();
        let connected = route.connect(&target, key("a")).await;
        assert_eq!(connected.map(drop), Err(RouteError::Refused), "{inner}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_that_may_reach_private_addresses_tells_them() {
    if !inside(
        "lookups::an_exit_that_may_reach_private_addresses_tells_them",
        FILES,
    ) {
        return;
    }
    let _nameserver = Nameserver::start(&[("inner.example", records(&["192.168.1.1"]))]);
    let world = Recipe::new(3).start();
    let route = CircuitRoute::new(world.client(3));
    let found = resolve(&route, "inner.example").await;
    assert_eq!(found, Ok(ips(&["192.168.1.1"])));
    assert_eq!(
        resolve(&route, "localhost").await,
        Ok(ips(&["127.0.0.1"])),
        "from /etc/hosts"
    );
    // The same exit does not ask anybody about private addresses.
    let private = resolve_ptr(&route, "192.168.1.1").await;
    assert_eq!(private, Err(RouteError::Refused));
    // And streams go on as before.
    let target = world::echo().await;
    let stream = route.connect(&target, key("a")).await.unwrap();
    round_trip(stream, pattern(1, 10_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_an_address_is_looked_up_at_the_exit() {
    if !inside(
        "lookups::the_name_of_an_address_is_looked_up_at_the_exit",
        FILES,
    ) {
        return;
    }
    let zeros = "0.".repeat(20);
    let six = format!("8.8.8.8.{zeros}0.6.8.4.1.0.0.2.ip6.arpa");
    let nameserver = Nameserver::start(&[
        ("8.8.8.8.in-addr.arpa", ptr("dns.example")),
        (&six, ptr("dns6.example")),
        ("5.5.5.5.in-addr.arpa", Say::Code(2)),
        ("6.6.6.6.in-addr.arpa", Say::Nothing),
        (
            "7.7.7.7.in-addr.arpa",
            Say::Forged(wire_name("truth.example")),
        ),
        ("1.1.1.1.in-addr.arpa", ptr("no host's name.example")),
    ]);
    let world = public();
    let client = world.client(3);
    let route = CircuitRoute::new(client.clone());
    let name = |name: &str| Ok(name.to_owned());
    // Private addresses are not even asked about.
    for private in [
        "127.0.0.1",
        "10.0.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "::1",
        "fd00::1",
        "::ffff:10.0.0.1",
    ] {
        let refused = resolve_ptr(&route, private).await;
        assert_eq!(refused, Err(RouteError::Refused), "{private}");
    }
    assert_eq!(client.circuits(), 0);
    assert_eq!(resolve_ptr(&route, "8.8.8.8").await, name("dns.example"));
    assert_eq!(
        resolve_ptr(&route, "::ffff:8.8.8.8").await,
        name("dns.example")
    );
    assert_eq!(
        resolve_ptr(&route, "2001:4860::8888").await,
        name("dns6.example")
    );
    assert_eq!(
        resolve_ptr(&route, "7.7.7.7").await,
        name("truth.example"),
        "replies that don't fit are passed over"
    );
    let missing = Err(RouteError::NameNotFound);
    assert_eq!(resolve_ptr(&route, "9.9.9.9").await, missing);
    assert_eq!(resolve_ptr(&route, "1.1.1.1").await, missing);
    assert_eq!(
        resolve_ptr(&route, "5.5.5.5").await,
        Err(RouteError::TimedOut)
    );
    assert_eq!(
        resolve_ptr(&route, "6.6.6.6").await,
        Err(RouteError::TimedOut)
    );
    let mut ports = nameserver.ports.lock().unwrap().clone();
    let queries = ports.len();
    ports.sort_unstable();
    ports.dedup();
    assert!(
        ports.len() * 2 > queries,
        "each query has a port of its own"
    );
}

/// A circuit of one relay, whose place in the world is `place`, and the client that it lives as long as.
async fn circuit_to(world: &World, place: usize) -> (Client, Arc<Circuit>) {
    let client = world.client(1);
    loop {
        let circuit = client.fresh_circuit(ExitNeed::Any).await.unwrap();
        if world.place(&circuit.path()[0].identity) == place {
            return (client, circuit);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_refuses_what_a_client_should_not_have_asked() {
    if !inside(
        "lookups::a_relay_refuses_what_a_client_should_not_have_asked",
        FILES,
    ) {
        return;
    }
    let nameserver = Nameserver::start(&[
        ("four.example", records(&["93.184.216.34"])),
        ("8.8.8.8.in-addr.arpa", ptr("dns.example")),
        ("3.2.1.10.in-addr.arpa", ptr("inner.example")),
    ]);
    let recipe = Recipe {
        policy: vec!["accept * *:1-65535"],
        ..Recipe::new(2)
    };
    let world = recipe.start();
    let name = Host::Name(HostName::new("four.example").unwrap());
    let global = Host::Ip("8.8.8.8".parse().unwrap());
    let refused = Err(StreamFailure::Status(OpenStatus::Refused));
    // A relay that is no exit.
    let (_client, middle) = circuit_to(&world, 0).await;
    for host in [&name, &global] {
        assert_eq!(middle.look_up(host, LONG).await, refused);
    }
    assert!(nameserver.asked.lock().unwrap().is_empty());
    // An exit, asked about private addresses.
    let (_exit, exit) = circuit_to(&world, 1).await;
    for ip in ["10.1.2.3", "::ffff:10.1.2.3", "127.0.0.1", "fd00::1"] {
        let host = Host::Ip(ip.parse().unwrap());
        assert_eq!(exit.look_up(&host, LONG).await, refused, "{ip}");
    }
    assert!(nameserver.asked.lock().unwrap().is_empty());
    let found = HostName::new("dns.example").unwrap();
    let answer = exit.look_up(&global, LONG).await;
    assert_eq!(answer, Ok(Answer::Name(found, 77)));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_circuit_cannot_keep_all_lookups_busy() {
    if !inside("lookups::one_circuit_cannot_keep_all_lookups_busy", FILES) {
        return;
    }
    let _nameserver = Nameserver::start(&[
        ("6.6.6.6.in-addr.arpa", Say::Nothing),
        ("8.8.8.8.in-addr.arpa", ptr("dns.example")),
    ]);
    let world = public();
    let (_client, busy) = circuit_to(&world, 2).await;
    let (_other, other) = circuit_to(&world, 2).await;
    let silent = Host::Ip("6.6.6.6".parse().unwrap());
    let answers = (0..20).map(|_| busy.look_up(&silent, LONG));
    let answered = Host::Ip("8.8.8.8".parse().unwrap());
    let (answers, meanwhile) = tokio::join!(
        futures_util::future::join_all(answers),
        other.look_up(&answered, LONG)
    );
    let with = |status| {
        let failure = Err(StreamFailure::Status(status));
        answers.iter().filter(|answer| **answer == failure).count()
    };
    assert_eq!(
        (with(OpenStatus::TimedOut), with(OpenStatus::Limit)),
        (16, 4)
    );
    assert!(meanwhile.is_ok());
    assert!(
        busy.look_up(&answered, LONG).await.is_ok(),
        "places come back"
    );
}
