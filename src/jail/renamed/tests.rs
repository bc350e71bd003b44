//! Tests of names behind virtual addresses, with a world in memory.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::jail::testing::{Handle, World, addr, isolation, target};
use std::sync::atomic::Ordering;

fn renamed() -> (Arc<World>, Renamed, SharedNames) {
    let (world, names) = (Arc::new(World::default()), SharedNames::default());
    let renamed = Renamed::new(Arc::new(Handle(Arc::clone(&world))), names.clone());
    (world, renamed, names)
}

fn give(names: &SharedNames, name: &str) -> IpAddr {
    names.give(&HostName::new(name).unwrap()).unwrap().into()
}

#[tokio::test]
async fn connections_go_to_the_name_and_to_unknown_virtual_addresses_not_at_all() {
    let (world, renamed, names) = renamed();
    let ip = give(&names, "a.example");
    let to = Target::ip(SocketAddr::new(ip, 80));
    let _stream = renamed.connect(&to, isolation()).await.ok().unwrap();
    for plain in ["192.0.2.1:80", "b.example:81"] {
        renamed
            .connect(&target(plain), isolation())
            .await
            .ok()
            .unwrap();
    }
    let unknown = renamed.connect(&target("198.18.9.9:80"), isolation()).await;
    assert_eq!(unknown.err(), Some(RouteError::Refused));
    let opened: Vec<Target> = world
        .streams
        .lock()
        .unwrap()
        .iter()
        .map(|(to, _)| to.clone())
        .collect();
    let expected = ["a.example:80", "192.0.2.1:80", "b.example:81"];
    assert_eq!(opened, expected.map(target));
    let whose = renamed.resolve_ptr(ip, isolation()).await.unwrap();
    assert_eq!(whose.as_str(), "a.example");
    let nobody = renamed
        .resolve_ptr([198, 18, 9, 9].into(), isolation())
        .await;
    assert_eq!(nobody, Err(RouteError::NameNotFound));
}

#[tokio::test]
async fn answers_of_a_name_come_from_its_virtual_address_and_others_as_they_are() {
    let (world, renamed, names) = renamed();
    let (a, b) = (give(&names, "a.example"), give(&names, "b.example"));
    let real = |text: &str| vec![text.parse::<IpAddr>().unwrap()];
    world.names.lock().unwrap().extend([
        ("a.example".to_owned(), real("192.0.2.1")),
        ("b.example".to_owned(), real("192.0.2.2")),
    ]);
    let flow = renamed.datagrams(isolation()).await.unwrap();
    let virtual_ = |ip| Target::ip(SocketAddr::new(ip, 6969));
    for ip in [a, b] {
        flow.send(&virtual_(ip), b"x").unwrap();
    }
    flow.send(&target("192.0.2.3:6969"), b"x").unwrap();
    flow.send(&target("198.18.9.9:6969"), b"to nobody").unwrap();
    flow.send(&virtual_(a), b"y").unwrap();
    let sent = world.until_sent(4).await;
    let to: Vec<Target> = sent.into_iter().map(|(_, (to, _))| to).collect();
    let expected = [
        "a.example:6969",
        "b.example:6969",
        "192.0.2.3:6969",
        "a.example:6969",
    ];
    assert_eq!(to, expected.map(target));
    world
        .until(|w| (w.looked_up.load(Ordering::SeqCst) == 2).then_some(()))
        .await;
    tokio::task::yield_now().await;
    for (from, seen) in [
        ("192.0.2.2:6969", virtual_(b)),
        ("192.0.2.1:6969", virtual_(a)),
        ("192.0.2.3:6969", target("192.0.2.3:6969")),
        // Another port of the same machine is somebody else.
        ("192.0.2.1:7000", target("192.0.2.1:7000")),
        ("192.0.2.77:6969", target("192.0.2.77:6969")),
    ] {
        world.answer(0, target(from), from.as_bytes()).await;
        let (apparent, payload) = flow.recv().await.unwrap();
        assert_eq!((apparent, &*payload), (seen, from.as_bytes()));
    }
    // A virtual address in an answer is a lie.
    world.answer(0, virtual_(a), b"lie").await;
    world.answer(0, target("192.0.2.1:6969"), b"truth").await;
    assert_eq!(flow.recv().await.unwrap().1, b"truth");
    assert_eq!(world.looked_up.load(Ordering::SeqCst), 2);
}

#[test]
fn where_looking_up_fails_the_one_that_is_waited_for_is_taken() {
    let now = Instant::now();
    let name = |text: &str| HostName::new(text).unwrap();
    let (a, b) = (addr("198.18.1.1:6969"), addr("198.18.1.2:6969"));
    let mut flow = Disguise::default();
    assert!(flow.named(now, a, &name("a")));
    flow.plain(addr("192.0.2.9:6969"));
    // Spoken to by address: not mistaken for the name.
    assert_eq!(
        flow.apparent(addr("192.0.2.9:6969")),
        addr("192.0.2.9:6969")
    );
    assert_eq!(flow.apparent(addr("192.0.2.1:6969")), a);
    // Known now, also when another is waited for.
    assert!(flow.named(now, b, &name("b")));
    assert_eq!(flow.apparent(addr("192.0.2.1:6969")), a);
    assert_eq!(flow.apparent(addr("192.0.2.2:6969")), b);
    // Two are waited for: nobody can tell whose it is.
    flow.named(now, a, &name("a"));
    flow.named(now, b, &name("b"));
    assert_eq!(
        flow.apparent(addr("192.0.2.3:6969")),
        addr("192.0.2.3:6969")
    );
    assert!(!flow.named(now, a, &name("a")));
    assert!(flow.named(now + LOOK_AGAIN, a, &name("a")));
}

#[test]
fn a_machine_spoken_to_by_name_and_by_address_answers_as_it_was_last_spoken_to() {
    let now = Instant::now();
    let name = HostName::new("a").unwrap();
    let (to, real) = (addr("198.18.1.1:6881"), addr("192.0.2.1:6881"));
    let mut flow = Disguise::default();
    flow.named(now, to, &name);
    flow.learn(to, &name, std::iter::once(real.ip()));
    assert_eq!(flow.apparent(real), to);
    flow.plain(real);
    assert_eq!(flow.apparent(real), real);
    flow.named(now, to, &name);
    assert_eq!(flow.apparent(real), to);
}

proptest! {
    /// Whatever happens, tables stay bounded, agree with each other, and only virtual or real addresses come out.
    #[test]
    fn what_a_flow_remembers_is_bounded_and_consistent(
        steps in prop::collection::vec((0..4u8, any::<u16>(), any::<u8>()), 0..2000)
    ) {
        let mut now = Instant::now();
        let mut flow = Disguise::default();
        let name = |n: u8| HostName::new(&format!("n{n}")).unwrap();
        for (what, a, b) in steps {
            now += Duration::from_millis(500);
            let to = SocketAddr::new(Ipv4Addr::new(198, 18, 1 + (a >> 9) as u8, (a >> 1) as u8).into(), 1 + a % 2);
            let real = SocketAddr::new(Ipv4Addr::new(192, 0, 2, b).into(), 1 + a % 2);
            match what {
                0 => { flow.named(now, to, &name(b % 2)); }
                1 => flow.learn(to, &name(b % 2), (0..20).map(|n| IpAddr::from([192, 0, 2, b.wrapping_add(n)]))),
                2 => flow.plain(SocketAddr::new(Ipv4Addr::new(192, 0, (a % 8) as u8, b).into(), 1 + a % 2)),
                _ => {
                    let seen = flow.apparent(real);
                    prop_assert!(seen == real || flow.named.contains_key(&seen));
                }
            }
            prop_assert!(flow.named.len() <= MAX_NAMED && flow.plain.len() <= MAX_PLAIN);
            prop_assert_eq!(flow.plain.len(), flow.plain_order.len());
            prop_assert!(flow.named.values().all(|peer| peer.addresses.len() <= MAX_ADDRESSES));
            prop_assert!(flow.real.iter().all(|(real, to)| flow.named[to].addresses.contains(real)));
        }
    }
}
