#![allow(clippy::unwrap_used)]

use std::io;
use std::path::Path;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc};

use super::*;
use crate::config::Routes;

/// What reached the world: the hops of the way, what was asked for, and of what.
type Seen = Arc<Mutex<Vec<(Option<u8>, &'static str, String)>>>;

/// A world that writes down what reaches it and says everything back.
#[derive(Clone)]
struct World {
    seen: Seen,
    answers: Arc<Mutex<Vec<IpAddr>>>,
    /// One permit for each datagram flow that may open.
    flows: Arc<Semaphore>,
    tor: bool,
}

struct Way {
    world: World,
    hops: Option<u8>,
}

impl World {
    fn new() -> Self {
        Self {
            seen: Seen::default(),
            answers: Arc::default(),
            flows: Arc::new(Semaphore::new(100)),
            tor: false,
        }
    }

    fn gate(&self, text: &str) -> Arc<Gate> {
        Gate::new(Arc::new(self.clone()), policy(text))
    }

    fn take(&self) -> Vec<(Option<u8>, &'static str, String)> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

impl Ways for World {
    fn circuits(&self, hops: Option<u8>) -> Arc<dyn Outside> {
        let world = self.clone();
        Arc::new(Way { world, hops })
    }

    fn tor(&self) -> Option<Arc<dyn Outside>> {
        self.tor.then(|| self.circuits(Some(99)))
    }
}

impl Way {
    fn saw(&self, what: &'static str, whom: String) {
        self.world
            .seen
            .lock()
            .unwrap()
            .push((self.hops, what, whom));
    }
}

fn name(target: &Target) -> String {
    use hushswarm_circuits::target::Host;
    match &target.host {
        Host::Ip(ip) => format!("{ip}:{}", target.port),
        Host::Name(name) => format!("{}:{}", name.as_str(), target.port),
    }
}

impl Outside for Way {
    fn connect<'a>(
        &'a self,
        target: &'a Target,
        _: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        self.saw("connect", name(target));
        Box::pin(async {
            let (near, far) = tokio::io::duplex(64);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(far);
                tokio::io::copy(&mut read, &mut write).await
            });
            Ok(Box::new(near) as BoxStream)
        })
    }

    fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        Box::pin(async {
            self.world.flows.acquire().await.unwrap().forget();
            self.saw("flow", String::new());
            let (sender, receiver) = mpsc::channel(1000);
            Ok(Box::new(Flow {
                way: Way {
                    world: self.world.clone(),
                    hops: self.hops,
                },
                sender: Mutex::new(Some(sender)),
                receiver: tokio::sync::Mutex::new(receiver),
            }) as Box<dyn Datagrams>)
        })
    }

    fn resolve<'a>(
        &'a self,
        name: &'a HostName,
        _: Isolation,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, RouteError>> {
        self.saw("resolve", name.as_str().to_owned());
        let answers = self.world.answers.lock().unwrap().clone();
        Box::pin(async { Ok(answers) })
    }

    fn dht<'a>(
        &'a self,
        _: &'a [u8],
        _: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        self.saw("dht", String::new());
        Box::pin(async { Ok(Box::new(tokio::io::duplex(64).0) as BoxStream) })
    }

    fn meet<'a>(
        &'a self,
        _: At,
        _: Meet<'a>,
        _: Isolation,
    ) -> BoxFuture<'a, Result<Met, RouteError>> {
        self.saw("meet", String::new());
        Box::pin(async { Err(RouteError::Busy) })
    }

    fn resolve_ptr(&self, ip: IpAddr, _: Isolation) -> BoxFuture<'_, Result<HostName, RouteError>> {
        self.saw("ptr", ip.to_string());
        Box::pin(async { Ok(HostName::new("host.example").unwrap()) })
    }
}

type Datagram = (Target, Vec<u8>);

/// Says every datagram back, until it is told "end".
struct Flow {
    way: Way,
    sender: Mutex<Option<mpsc::Sender<Datagram>>>,
    receiver: tokio::sync::Mutex<mpsc::Receiver<Datagram>>,
}

impl Datagrams for Flow {
    fn send(&self, to: &Target, payload: &[u8]) -> io::Result<()> {
        let mut sender = self.sender.lock().unwrap();
        if payload == b"end" {
            *sender = None;
        }
        let sender = sender.as_ref().ok_or(io::ErrorKind::ConnectionAborted)?;
        self.way.saw("datagram", name(to));
        sender.try_send((to.clone(), payload.to_vec())).unwrap();
        Ok(())
    }

    fn recv(&self) -> BoxFuture<'_, io::Result<(Target, Vec<u8>)>> {
        Box::pin(async {
            let next = self.receiver.lock().await.recv().await;
            next.ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
        })
    }
}

fn policy(text: &str) -> Policy {
    Policy::new(Routes::parse(text, Path::new("routes.toml")).unwrap())
}

fn target(host: &str, port: u16) -> Target {
    Target::parse(host, port).unwrap()
}

fn key() -> Isolation {
    Isolation::new("test", b"", 0)
}

fn host(text: &str) -> HostName {
    HostName::new(text).unwrap()
}

const RULES: &str = "[[rule]]\nhost = 'two.example'\naction = 'circuit'\nhops = 2\n\
                     [[rule]]\nhost = ['bad.example', '8.8.8.0/24']\naction = 'refuse'\n\
                     [[rule]]\nport = 6881\nproto = 'udp'\naction = 'circuit'\nhops = 1\n\
                     [[rule]]\nhost = 'tor.example'\naction = 'tor'\n";

#[tokio::test]
async fn streams_take_the_way_that_the_rules_name_and_refused_ones_reach_nobody() {
    let world = World::new();
    let gate = world.gate(RULES);
    for (to, hops) in [("two.example", Some(2)), ("other.example", None)] {
        gate.connect(&target(to, 443), key()).await.unwrap();
        assert_eq!(world.take(), [(hops, "connect", format!("{to}:443"))]);
    }
    for (to, reason) in [
        ("bad.example", Reason::Rule { line: 5 }),
        ("8.8.8.8", Reason::Rule { line: 5 }),
        ("192.168.1.1", Reason::PrivateAddress),
        ("localhost", Reason::LocalName),
        ("x.onion", Reason::NoTor),
        ("tor.example", Reason::NoTor),
    ] {
        let refused = gate.connect(&target(to, 443), key()).await.err();
        assert_eq!(refused, Some(RouteError::Forbidden(reason)), "{to}");
    }
    assert_eq!(world.take(), []);
}

#[tokio::test]
async fn onion_names_go_to_tor_where_there_is_a_way() {
    let mut world = World::new();
    world.tor = true;
    let gate = world.gate("");
    gate.connect(&target("x.onion", 80), key()).await.unwrap();
    assert_eq!(
        world.take(),
        [(Some(99), "connect", "x.onion:80".to_owned())]
    );
}

#[tokio::test]
async fn where_everything_goes_by_tor_no_datagram_flow_is_opened() {
    let world = World::new();
    let gate = world.gate("default = 'tor'\n");
    assert!(!gate.carries_datagrams());
    let refused = gate.datagrams(key()).await.err();
    assert_eq!(refused, Some(RouteError::Forbidden(Reason::TorHasNoUdp)));
    assert_eq!(world.take(), []);
    let some = "default = 'tor'\n[[rule]]\nport = 53\nproto = 'udp'\naction = 'circuit'\n";
    for rules in ["", some] {
        gate.set_policy(policy(rules));
        assert!(gate.carries_datagrams(), "{rules}");
        gate.datagrams(key()).await.unwrap();
    }
    gate.set_policy(policy(
        "default = 'tor'\n[[rule]]\nproto = 'tcp'\nhost = '*'\naction = 'circuit'\n",
    ));
    assert!(!gate.carries_datagrams());
}

#[tokio::test]
async fn a_meeting_goes_where_streams_to_anybody_go() {
    use hushswarm_circuits::rendezvous::Cookie;
    let world = World::new();
    let gate = world.gate(RULES);
    let cookie = Cookie([1; 20]);
    let meet = || gate.meet(At::Any { but: Vec::new() }, Meet::Wait(&cookie), key());
    let seen = |hops| vec![(hops, "meet", String::new())];
    assert_eq!(meet().await.err(), Some(RouteError::Busy));
    assert_eq!(world.take(), seen(None), "rules for some do not count");
    for (rules, hops) in [
        (
            "[[rule]]\nhost = '*'\naction = 'circuit'\nhops = 2\n",
            Some(2),
        ),
        (
            "[[rule]]\nhost = '*'\nproto = 'udp'\naction = 'refuse'\n",
            None,
        ),
    ] {
        gate.set_policy(policy(rules));
        assert_eq!(meet().await.err(), Some(RouteError::Busy));
        assert_eq!(world.take(), seen(hops), "{rules}");
    }
    for (rules, reason) in [
        ("default = 'refuse'\n", Some(Reason::Default)),
        (
            "[[rule]]\nhost = '*'\naction = 'refuse'\n",
            Some(Reason::Rule { line: 1 }),
        ),
        ("default = 'tor'\n", None),
    ] {
        gate.set_policy(policy(rules));
        let refused = meet().await.err();
        if let Some(reason) = reason {
            assert_eq!(refused, Some(RouteError::Forbidden(reason)), "{rules}");
            assert!(world.take().is_empty(), "nothing is sent");
        } else {
            // It is Tor's to say, and never a circuit's.
            assert!(world.take().iter().all(|(hops, ..)| *hops == Some(99)));
        }
    }
}

#[tokio::test]
async fn a_dht_lookup_goes_where_datagrams_to_anybody_go() {
    let world = World::new();
    let gate = world.gate(RULES);
    let seen = |hops| vec![(hops, "dht", String::new())];
    gate.dht(&[], key()).await.unwrap();
    assert_eq!(world.take(), seen(None), "rules for some do not count");
    for (rules, hops) in [
        (
            "[[rule]]\nhost = '*'\naction = 'circuit'\nhops = 2\n",
            Some(2),
        ),
        (
            "[[rule]]\nhost = '*'\nproto = 'tcp'\naction = 'refuse'\n",
            None,
        ),
        (
            "[[rule]]\nhost = '*'\nport = 53\nproto = 'udp'\naction = 'refuse'\n",
            None,
        ),
    ] {
        gate.set_policy(policy(rules));
        gate.dht(&[], key()).await.unwrap();
        assert_eq!(world.take(), seen(hops), "{rules}");
    }
    for (rules, reason) in [
        ("default = 'tor'\n", Reason::TorHasNoUdp),
        (
            "[[rule]]\nhost = '*'\naction = 'tor'\n",
            Reason::TorHasNoUdp,
        ),
        ("default = 'refuse'\n", Reason::Default),
        (
            "[[rule]]\nhost = '*'\nproto = 'udp'\naction = 'refuse'\n",
            Reason::Rule { line: 1 },
        ),
    ] {
        gate.set_policy(policy(rules));
        let refused = gate.dht(&[], key()).await.err();
        assert_eq!(refused, Some(RouteError::Forbidden(reason)), "{rules}");
    }
    assert_eq!(world.take(), []);
}

#[tokio::test]
async fn new_rules_hold_at_once_and_open_streams_go_on() {
    let world = World::new();
    let gate = world.gate("");
    let to = target("some.example", 80);
    let mut open = gate.connect(&to, key()).await.unwrap();
    let flow = gate.datagrams(key()).await.unwrap();
    flow.send(&to, b"1").unwrap();
    world.take();
    gate.set_policy(policy(
        "[[rule]]\nhost = 'some.example'\naction = 'refuse'\n",
    ));
    assert!(gate.connect(&to, key()).await.is_err());
    flow.send(&to, b"2").unwrap();
    assert_eq!(world.take(), []);
    assert_eq!(gate.refused_datagrams(), 1);
    // What was sent before is still answered, and the open stream still carries.
    assert_eq!(flow.recv().await.unwrap().1, b"1");
    let mut answer = [0; 4];
    open.write_all(b"ping").await.unwrap();
    open.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"ping");
    gate.set_policy(policy(""));
    assert!(gate.connect(&to, key()).await.is_ok());
}

#[tokio::test]
async fn lookups_are_judged_and_answers_that_lead_into_ones_own_network_are_dropped() {
    let world = World::new();
    let gate = world.gate(RULES);
    let answer = |texts: &[&str]| {
        *world.answers.lock().unwrap() = texts.iter().map(|ip| ip.parse().unwrap()).collect();
    };
    answer(&[
        "8.8.8.8",
        "192.168.1.1",
        "::1",
        "2606:4700::1",
        "169.254.169.254",
    ]);
    let found = gate.resolve(&host("two.example"), key()).await.unwrap();
    let expected: Vec<IpAddr> = ["8.8.8.8", "2606:4700::1"]
        .map(|ip| ip.parse().unwrap())
        .to_vec();
    assert_eq!(found, expected);
    assert_eq!(
        world.take(),
        [(Some(2), "resolve", "two.example".to_owned())]
    );
    answer(&["10.0.0.1"]);
    let nothing = gate.resolve(&host("rebound.example"), key()).await;
    assert_eq!(nothing, Err(RouteError::NameNotFound));
    world.take();
    for (to, reason) in [
        ("x.onion", Reason::NoTor),
        ("nas.local", Reason::LocalName),
        ("bad.example", Reason::Rule { line: 5 }),
    ] {
        let refused = gate.resolve(&host(to), key()).await;
        assert_eq!(refused, Err(RouteError::Forbidden(reason)), "{to}");
    }
    let ptr = gate.resolve_ptr("10.1.1.1".parse().unwrap(), key()).await;
    assert_eq!(ptr, Err(RouteError::Forbidden(Reason::PrivateAddress)));
    assert_eq!(world.take(), []);
    let ptr = gate.resolve_ptr("1.1.1.1".parse().unwrap(), key()).await;
    assert_eq!(ptr, Ok(host("host.example")));
}

#[tokio::test]
async fn datagrams_are_judged_one_by_one() {
    let world = World::new();
    let gate = world.gate(RULES);
    let flow = gate.datagrams(key()).await.unwrap();
    world.take();
    for (to, port) in [
        ("127.0.0.1", 53),
        ("224.0.0.251", 5353),
        ("239.255.255.250", 1900),
        ("192.168.1.1", 5351),
        ("ff02::1", 6771),
        ("8.8.8.8", 53),
        ("x.onion", 53),
        ("tor.example", 53),
        ("1.1.1.1", 0),
    ] {
        flow.send(&target(to, port), b"x").unwrap();
    }
    assert_eq!(world.take(), []);
    assert_eq!(gate.refused_datagrams(), 9);
    flow.send(&target("1.1.1.1", 53), b"x").unwrap();
    assert_eq!(world.take(), [(None, "datagram", "1.1.1.1:53".to_owned())]);
}

#[tokio::test]
async fn datagrams_of_other_lengths_get_lanes_that_open_when_they_are_needed() {
    let world = World::new();
    world.flows.forget_permits(99);
    let gate = world.gate(RULES);
    let flow = gate.datagrams(key()).await.unwrap();
    world.take();
    let dht = target("9.9.9.9", 6881);
    for byte in 0..200_u8 {
        flow.send(&dht, &[byte]).unwrap();
    }
    // Nothing goes out before there is a circuit of that length, and not all of it is kept.
    assert_eq!(world.take(), []);
    world.flows.add_permits(1);
    let mut came = Vec::new();
    for _ in 0..64 {
        let (from, payload) = flow.recv().await.unwrap();
        assert_eq!(from, dht);
        came.push(payload[0]);
    }
    assert_eq!(came, (0..64).collect::<Vec<_>>());
    let seen = world.take();
    assert_eq!(seen.len(), 65);
    assert!(seen.iter().all(|(hops, ..)| *hops == Some(1)), "{seen:?}");
    // Both lanes are heard.
    flow.send(&target("1.1.1.1", 53), b"main").unwrap();
    assert_eq!(flow.recv().await.unwrap().1, b"main");
    flow.send(&dht, b"lane").unwrap();
    assert_eq!(flow.recv().await.unwrap().1, b"lane");
    // A lane that ends is opened again; the flow itself goes on.
    world.take();
    flow.send(&dht, b"end").unwrap();
    world.flows.add_permits(1);
    flow.send(&dht, b"again").unwrap();
    assert_eq!(flow.recv().await.unwrap().1, b"again");
    let flows = world.take().iter().filter(|seen| seen.1 == "flow").count();
    assert_eq!(flows, 1);
    // The end of the first lane is the end of the flow.
    assert!(flow.send(&target("1.1.1.1", 53), b"end").is_err());
    assert!(flow.recv().await.is_err());
}

#[tokio::test]
async fn a_flow_that_is_dropped_opens_no_lane_any_more() {
    let world = World::new();
    world.flows.forget_permits(99);
    let gate = world.gate(RULES);
    let flow = gate.datagrams(key()).await.unwrap();
    flow.send(&target("9.9.9.9", 6881), b"x").unwrap();
    tokio::task::yield_now().await;
    world.take();
    drop(flow);
    world.flows.add_permits(1);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.take(), []);
}
