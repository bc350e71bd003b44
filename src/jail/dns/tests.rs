//! Tests of the resolver inside: what it answers, by a parser of its own codec and by real programs elsewhere.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use simple_dns::{OPCODE, Question};
use tokio::sync::Notify;

use super::*;
use crate::jail::names::{CAPACITY, Names};
use crate::net::{BoxFuture, BoxStream, Datagrams};
use crate::route::RouteError;
use hushswarm_circuits::target::Target;

fn question(name: &str, kind: QTYPE) -> Vec<u8> {
    let mut query = Packet::new_query(0x1234);
    query.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).unwrap();
    let class = QCLASS::CLASS(CLASS::IN);
    query
        .questions
        .push(Question::new(name, kind, class, false));
    query.build_bytes_vec().unwrap()
}

fn ask(names: &SharedNames, name: &str, kind: TYPE) -> (RCODE, Vec<String>) {
    match decide(names, "cage", &question(name, kind.into())) {
        Decision::Answer(bytes) => told(&bytes),
        other @ (Decision::Drop | Decision::WhoIs(_)) => panic!("{name}: {other:?}"),
    }
}

/// Code and records of an answer.
fn told(bytes: &[u8]) -> (RCODE, Vec<String>) {
    let packet = Packet::parse(bytes).unwrap();
    assert!(packet.has_flags(PacketFlag::RESPONSE));
    let records = packet.answers.iter().map(|record| {
        assert_eq!(record.ttl, TTL);
        if let RData::A(a) = &record.rdata {
            Ipv4Addr::from(a.address).to_string()
        } else if let RData::AAAA(aaaa) = &record.rdata {
            Ipv6Addr::from(aaaa.address).to_string()
        } else if let RData::PTR(name) = &record.rdata {
            name.to_string()
        } else {
            panic!("{:?}", record.rdata)
        }
    });
    (packet.rcode(), records.collect())
}

fn found(text: &str) -> (RCODE, Vec<String>) {
    (RCODE::NoError, vec![text.to_owned()])
}

fn none(code: RCODE) -> (RCODE, Vec<String>) {
    (code, Vec::new())
}

#[test]
fn names_get_virtual_addresses_and_nothing_else() {
    let names = SharedNames::default();
    assert_eq!(ask(&names, "Tracker.Example", TYPE::A), found("198.18.1.1"));
    assert_eq!(ask(&names, "tracker.example", TYPE::A), found("198.18.1.1"));
    let onion = format!("{}.onion", "a".repeat(56));
    assert_eq!(ask(&names, &onion, TYPE::A), found("198.18.1.2"));
    for kind in [
        TYPE::AAAA,
        TYPE::HTTPS,
        TYPE::SVCB,
        TYPE::TXT,
        TYPE::SRV,
        TYPE::MX,
        TYPE::PTR,
    ] {
        assert_eq!(ask(&names, "tracker.example", kind), none(RCODE::NoError));
    }
    for kind in [QTYPE::AXFR, QTYPE::IXFR, QTYPE::MAILA, QTYPE::MAILB] {
        let Decision::Answer(bytes) = decide(&names, "cage", &question("a.example", kind)) else {
            panic!("no answer");
        };
        assert_eq!(told(&bytes), none(RCODE::NotImplemented));
    }
    let Decision::Answer(any) = decide(&names, "cage", &question("tracker.example", QTYPE::ANY))
    else {
        panic!("no answer");
    };
    assert_eq!(told(&any), found("198.18.1.1"));
}

#[test]
fn names_of_this_machine_stay_on_it_and_names_of_somebodys_network_do_not_exist() {
    let names = SharedNames::default();
    for own in ["localhost", "db.LocalHost", "cage", "CAGE"] {
        assert_eq!(ask(&names, own, TYPE::A), found("127.0.0.1"));
        assert_eq!(ask(&names, own, TYPE::AAAA), found("::1"));
        assert_eq!(ask(&names, own, TYPE::TXT), none(RCODE::NoError));
    }
    for reserved in [
        "printer",
        "nas.local",
        "router.lan",
        "db.prod.internal",
        "x.invalid",
        "router.home.arpa",
        "1.2.in-addr.arpa",
        "wpad.corp",
        "a b.example",
        r"a\.b.example",
        "",
    ] {
        for kind in [TYPE::A, TYPE::AAAA] {
            assert_eq!(
                ask(&names, reserved, kind),
                none(RCODE::NameError),
                "{reserved}"
            );
        }
    }
    // Only whole labels count.
    assert_eq!(ask(&names, "notlocal.xlocal", TYPE::A), found("198.18.1.1"));
}

#[test]
fn a_full_table_is_a_passing_failure() {
    let names = SharedNames::new(Names::with_capacity(1));
    assert_eq!(ask(&names, "a.example", TYPE::A), found("198.18.1.1"));
    assert_eq!(
        ask(&names, "b.example", TYPE::A),
        none(RCODE::ServerFailure)
    );
    const { assert!(CAPACITY > 129_000) };
}

#[test]
fn addresses_are_named_by_what_they_stand_for() {
    let names = SharedNames::default();
    ask(&names, "tracker.example", TYPE::A);
    let ptr = |name: &str| ask(&names, name, TYPE::PTR);
    assert_eq!(ptr("1.1.18.198.in-addr.arpa"), found("tracker.example"));
    assert_eq!(ptr("1.0.0.127.IN-ADDR.arpa"), found("localhost"));
    let six = format!("1.{}ip6.arpa", "0.".repeat(31));
    assert_eq!(ptr(&six), found("localhost"));
    for private in ["2.1.18.198", "1.0.168.192", "1.0.254.10", "251.0.0.224"] {
        let name = format!("{private}.in-addr.arpa");
        assert_eq!(ptr(&name), none(RCODE::NameError));
    }
    for (name, ip) in [
        ("8.8.4.4.in-addr.arpa".to_owned(), "4.4.8.8"),
        (
            format!("8.{}8.8.8.4.0.6.8.4.1.0.0.2.ip6.arpa", "0.".repeat(19)),
            "2001:4860:4888::8",
        ),
    ] {
        let whose = decide(&names, "cage", &question(&name, TYPE::PTR.into()));
        assert_eq!(whose, Decision::WhoIs(ip.parse().unwrap()));
    }
}

#[test]
fn what_is_no_query_is_refused_or_dropped() {
    let names = SharedNames::default();
    let good = question("a.example", TYPE::A.into());
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut query = good.clone();
        change(&mut query);
        match decide(&names, "cage", &query) {
            Decision::Answer(bytes) => {
                assert_eq!(bytes[..2], query[..2]);
                Some(told(&bytes).0)
            }
            Decision::Drop | Decision::WhoIs(_) => None,
        }
    };
    let form = Some(RCODE::FormatError);
    assert_eq!(changed(&|q| q.truncate(11)), None);
    assert_eq!(changed(&|q| q[2] |= 0x80), None);
    assert_eq!(changed(&|q| q.truncate(HEADER)), form);
    assert_eq!(changed(&|q| q[5] = 0), form);
    assert_eq!(changed(&|q| q[5] = 2), form);
    assert_eq!(changed(&|q| q[6] = 0xff), form);
    assert_eq!(changed(&|q| q[10] = 0xff), form);
    assert_eq!(changed(&|q| q.resize(MAX_QUERY + 1, 0)), form);
    assert_eq!(changed(&|q| q[2] |= 5 << 3), Some(RCODE::NotImplemented));
    let chaos = good.len() - 1;
    assert_eq!(changed(&|q| q[chaos] = 3), Some(RCODE::Refused));
    assert_eq!(changed(&|_| {}), Some(RCODE::NoError));
}

#[test]
fn edns_is_answered_and_only_its_first_version_is_known() {
    let names = SharedNames::default();
    for (version, code) in [(0, RCODE::NoError), (1, RCODE::BADVERS)] {
        let mut query = Packet::parse(&question("a.example", TYPE::A.into()))
            .unwrap()
            .into_owned_query();
        *query.opt_mut() = Some(OPT {
            opt_codes: Vec::new(),
            udp_packet_size: 4096,
            version,
        });
        let bytes = query.build_bytes_vec().unwrap();
        let Decision::Answer(answer) = decide(&names, "cage", &bytes) else {
            panic!("no answer");
        };
        let answer = Packet::parse(&answer).unwrap();
        assert_eq!(answer.rcode(), code);
        assert_eq!(answer.opt().unwrap().version, 0);
    }
}

trait IntoOwnedQuery {
    fn into_owned_query(self) -> Packet<'static>;
}

impl IntoOwnedQuery for Packet<'_> {
    fn into_owned_query(self) -> Packet<'static> {
        let mut query = Packet::new_query(self.id());
        *query.opcode_mut() = OPCODE::StandardQuery;
        query.questions = self
            .questions
            .into_iter()
            .map(Question::into_owned)
            .collect();
        query
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered_in_little_room_or_not_at_all(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let names = SharedNames::default();
        if let Decision::Answer(answer) = decide(&names, "cage", &bytes) {
            prop_assert!(answer.len() <= 512 && answer[..2] == bytes[..2]);
        }
    }

    #[test]
    fn any_name_is_answered_in_little_room(labels in prop::collection::vec("[a-zA-Z0-9_-]{1,63}", 0..5), kind in 0..70u16) {
        let names = SharedNames::default();
        let name = labels.join(".");
        prop_assume!(name.len() <= 253);
        let Ok(kind) = QTYPE::try_from(kind) else { return Ok(()) };
        if let Decision::Answer(answer) = decide(&names, "cage", &question(&name, kind)) {
            prop_assert!(answer.len() <= 512);
            let answer = Packet::parse(&answer).unwrap();
            prop_assert_eq!(answer.questions[0].qname.to_string(), name);
        }
    }
}

/// A way out that only looks addresses up, and lets the test hold the answers back.
#[derive(Default)]
struct Lookups {
    asked: AtomicUsize,
    go: Notify,
    hold: bool,
}

impl Outside for Lookups {
    fn connect<'a>(
        &'a self,
        _: &'a Target,
        _: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        Box::pin(async { Err(RouteError::Refused) })
    }

    fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        Box::pin(async { Err(RouteError::Refused) })
    }

    fn resolve_ptr(&self, ip: IpAddr, _: Isolation) -> BoxFuture<'_, Result<HostName, RouteError>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if self.hold {
                self.go.notified().await;
            }
            match ip {
                IpAddr::V4(ip) if ip.octets()[3] == 8 => Ok(HostName::new("dns.example").unwrap()),
                IpAddr::V4(ip) if ip.octets()[3] == 9 => {
                    Ok(HostName::new(&"x".repeat(200)).unwrap())
                }
                IpAddr::V4(_) => Err(RouteError::NameNotFound),
                IpAddr::V6(_) => Err(RouteError::Refused),
            }
        })
    }
}

fn resolver(outside: &Arc<Lookups>) -> Arc<Resolver> {
    let isolation = Isolation::new("jail", b"test", 0);
    let outside = Arc::clone(outside) as Arc<dyn Outside>;
    Resolver::new(
        SharedNames::default(),
        "cage".to_owned(),
        outside,
        isolation,
    )
}

#[tokio::test]
async fn whose_a_public_address_is_is_asked_outside() {
    let outside = Arc::new(Lookups::default());
    let resolver = resolver(&outside);
    for (name, expected) in [
        ("8.8.8.8.in-addr.arpa", found("dns.example")),
        ("7.8.8.8.in-addr.arpa", none(RCODE::NameError)),
        // The answer is no DNS name.
        ("9.8.8.8.in-addr.arpa", none(RCODE::ServerFailure)),
    ] {
        let answer = resolver.answer(&question(name, TYPE::PTR.into())).await;
        assert_eq!(told(&answer.unwrap()), expected);
    }
    assert_eq!(outside.asked.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn lookups_at_once_are_bounded() {
    let outside = Arc::new(Lookups {
        hold: true,
        ..Lookups::default()
    });
    let resolver = resolver(&outside);
    let mut tasks = JoinSet::new();
    for _ in 0..MAX_LOOKUPS {
        let resolver = Arc::clone(&resolver);
        let query = question("8.8.8.8.in-addr.arpa", TYPE::PTR.into());
        tasks.spawn(async move { resolver.answer(&query).await });
    }
    while outside.asked.load(Ordering::Relaxed) < MAX_LOOKUPS {
        tokio::task::yield_now().await;
    }
    let refused = resolver
        .answer(&question("8.8.8.8.in-addr.arpa", TYPE::PTR.into()))
        .await;
    assert_eq!(told(&refused.unwrap()), none(RCODE::ServerFailure));
    outside.go.notify_waiters();
    while let Some(answer) = tasks.join_next().await {
        assert_eq!(told(&answer.unwrap().unwrap()), found("dns.example"));
    }
}

#[tokio::test]
async fn questions_on_a_stream_are_answered_until_one_is_malformed() {
    let resolver = resolver(&Arc::new(Lookups::default()));
    let (mut program, served) = tokio::io::duplex(4096);
    let serving = tokio::spawn(async move { resolver.serve_stream(served).await });
    for name in ["a.example", "b.example"] {
        let query = question(name, TYPE::A.into());
        program.write_u16(query.len() as u16).await.unwrap();
        program.write_all(&query).await.unwrap();
        let mut answer = vec![0; program.read_u16().await.unwrap().into()];
        program.read_exact(&mut answer).await.unwrap();
        assert_eq!(told(&answer).0, RCODE::NoError);
    }
    program.write_u16(0xffff).await.unwrap();
    assert_eq!(program.read(&mut [0; 8]).await.unwrap(), 0);
    serving.await.unwrap();
}
