#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use proptest::prelude::*;

use super::*;

fn policy(text: &str) -> Policy {
    Policy::new(Routes::parse(text, Path::new("routes.toml")).unwrap())
}

fn target(host: &str, port: u16) -> Target {
    Target::parse(host, port).unwrap()
}

const CIRCUIT: Verdict = Verdict::Circuit { hops: None };

/// Hosts by what the built-in rules say of them, for any protocol and port.
const REFUSED: &[(Reason, &[&str])] = &[
    (
        Reason::PrivateAddress,
        &[
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.8.7",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.7",
            "::1",
            "::ffff:10.1.2.3",
            "::ffff:127.0.0.1",
            "::ffff:192.168.0.1",
            "fc00::1",
            "fd77::1",
            "2001:db8::1",
            "2001:2::1",
            "3fff::1",
        ],
    ),
    (
        Reason::NoAddress,
        &[
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.251",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::ffff:0.0.0.0",
            "::ffff:169.254.1.1",
            "::ffff:224.0.0.1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:0:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::10.1.2.3",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:0:808:808:0:0:80ff:fffe",
            "2002:7f00:1::1",
            "2002:c0a8:101::1",
            "2606:4700::5efe:10.0.0.1",
            "4000::1",
            "fe80::1",
            "fec0::1",
            "ff02::fb",
            "ff0e::1",
        ],
    ),
    (
        Reason::LocalName,
        &[
            "localhost",
            "LocalHost.",
            "a.localhost",
            "localhost.localdomain",
            "printer",
            "nas.local",
            "NAS.LOCAL.",
            "vault.internal",
            "wiki.intranet",
            "db.corp",
            "x.home",
            "x.private",
            "router.lan",
            "nas.home.arpa",
            "home.arpa",
            "fritz.box",
            "wpad",
        ],
    ),
    (
        Reason::NoName,
        &[
            "1.0.0.127.in-addr.arpa",
            "_dns.resolver.arpa",
            "arpa",
            "name.alt",
            "seed.hush.alt",
            "site.i2p",
            "site.bit",
            "www.example.org.relay.exit",
            "a..example.org",
            ".example.org",
            ".",
            "..",
        ],
    ),
    (
        Reason::Disguised,
        &[
            "127.1",
            "10.1",
            "0",
            "2130706433",
            "0x7f.1",
            "0x7f000001",
            "0X7F.0.0.1",
            "0x",
            "0177.0.0.1",
            "127.0.0.01",
            "127.0.0.1.",
            "192.168.1.1.",
            "256.1.1.1",
            "1.2.3.4.5",
            "example.0x1",
            "example.127",
        ],
    ),
];

const WORLD: &[&str] = &[
    "1.1.1.1",
    "9.255.255.255",
    "172.32.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
    "2606:4700::1111",
    "example.org",
    "EXAMPLE.ORG.",
    "a.b.example",
    "no-such-host.invalid",
    "a.test",
    "xn--bcher-kva.example",
    "localhost.example.org",
    "onion.example.org",
    "notonion.example.org",
    "myonion.org",
    "onion.to",
    "local.example",
    "mylocal.net",
    "test.example.org",
    "0x7f.example",
    "127.0.0.1.example.org",
    "1.0x7g",
    "_bittorrent._tcp.example.org",
];

const ONIONS: &[&str] = &[
    "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad.onion",
    "www.duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad.onion",
    "DuckDuckGo.ONION",
    "x.onion.",
    "x.oNiOn..",
    "a..onion",
    ".onion",
    "onion",
    "127.0.0.1.onion",
];

#[test]
fn built_in_rules_refuse_what_is_not_the_world_with_their_reason() {
    for (reason, hosts) in REFUSED {
        for host in *hosts {
            for proto in [Proto::Tcp, Proto::Udp] {
                let (verdict, by) = Policy::default().explain(proto, &target(host, 6881));
                assert_eq!(verdict, Verdict::Refuse(*reason), "{host}");
                assert_eq!(by, Decider::BuiltIn, "{host}");
            }
        }
    }
}

#[test]
fn names_and_public_addresses_go_to_circuits() {
    for host in WORLD {
        for proto in [Proto::Tcp, Proto::Udp] {
            let (verdict, by) = Policy::default().explain(proto, &target(host, 6881));
            assert_eq!((verdict, by), (CIRCUIT, Decider::Default), "{host}");
        }
    }
}

#[test]
fn onion_names_go_to_tor_and_never_to_a_circuit() {
    let all = policy("[[rule]]\nhost = '*'\naction = 'circuit'\nhops = 1\n");
    for host in ONIONS {
        for policy in [
            Policy::default(),
            all.clone(),
            all.clone().with_private(true),
        ] {
            let verdict = policy.decide(Proto::Tcp, &target(host, 80));
            assert_eq!(verdict, Verdict::Tor, "{host}");
            let verdict = policy.decide(Proto::Udp, &target(host, 80));
            assert_eq!(verdict, Verdict::Refuse(Reason::TorHasNoUdp), "{host}");
            let Host::Name(name) = target(host, 80).host else {
                panic!("{host} is a name");
            };
            assert_eq!(policy.decide_name(&name), Verdict::Tor, "{host}");
        }
    }
}

#[test]
fn port_zero_is_refused_before_anything_else() {
    for host in ["8.8.8.8", "example.org", "x.onion", "127.0.0.1"] {
        let verdict = Policy::default().decide(Proto::Tcp, &target(host, 0));
        assert_eq!(verdict, Verdict::Refuse(Reason::PortZero));
    }
}

#[test]
fn a_network_of_ones_own_may_be_let_through_but_never_what_leads_nowhere() {
    let own = Policy::default().with_private(true);
    for (reason, hosts) in REFUSED {
        for host in *hosts {
            let verdict = own.decide(Proto::Tcp, &target(host, 80));
            let lifted = [Reason::PrivateAddress, Reason::LocalName].contains(reason);
            let expected = if lifted {
                CIRCUIT
            } else {
                Verdict::Refuse(*reason)
            };
            assert_eq!(verdict, expected, "{host}");
        }
    }
}

#[test]
fn mail_and_file_sharing_are_refused_unless_a_rule_says_otherwise() {
    for port in [25, 135, 137, 139, 445, 465, 587] {
        let (verdict, by) = Policy::default().explain(Proto::Tcp, &target("example.org", port));
        assert_eq!(verdict, Verdict::Refuse(Reason::Port), "{port}");
        assert_eq!(by, Decider::RefusePorts);
    }
    let mail = policy("[[rule]]\nhost = 'mx.example.org'\nport = 25\naction = 'circuit'\n");
    let decide = |host, port| mail.decide(Proto::Tcp, &target(host, port));
    assert_eq!(decide("mx.example.org", 25), CIRCUIT);
    assert_eq!(decide("mx.example.org", 587), Verdict::Refuse(Reason::Port));
    assert_eq!(decide("example.org", 25), Verdict::Refuse(Reason::Port));
    let none = policy("refuse_ports = []\n");
    assert_eq!(none.decide(Proto::Tcp, &target("example.org", 25)), CIRCUIT);
    let other = policy("refuse_ports = ['1-1023']\n");
    let decide = |port| other.decide(Proto::Udp, &target("8.8.8.8", port));
    assert_eq!(decide(1023), Verdict::Refuse(Reason::Port));
    assert_eq!(decide(1024), CIRCUIT);
}

#[test]
fn the_first_rule_that_matches_decides() {
    let policy = policy(
        "[[rule]]\nhost = 'www.example.org'\naction = 'circuit'\nhops = 2\n\
         [[rule]]\nhost = ['*.example.org', 'example.net', '8.8.0.0/16', '2606:4700::/32']\naction = 'refuse'\n\
         [[rule]]\nport = ['6881-6889', 51413]\nproto = 'udp'\naction = 'circuit'\nhops = 1\n\
         [[rule]]\nhost = 'tor.example'\naction = 'tor'\n",
    );
    let rule = |line| Verdict::Refuse(Reason::Rule { line });
    let hops = |hops| Verdict::Circuit { hops: Some(hops) };
    let table = [
        (Proto::Tcp, "www.example.org", 80, hops(2)),
        (Proto::Tcp, "WWW.Example.ORG.", 80, hops(2)),
        (Proto::Tcp, "a.www.example.org", 80, rule(5)),
        (Proto::Tcp, "x.example.org", 80, rule(5)),
        (Proto::Tcp, "example.org", 80, CIRCUIT),
        (Proto::Tcp, "badexample.org", 80, CIRCUIT),
        (Proto::Tcp, "example.net", 80, rule(5)),
        (Proto::Udp, "8.8.8.8", 6881, rule(5)),
        (Proto::Udp, "8.9.8.8", 6881, hops(1)),
        (Proto::Udp, "::ffff:8.8.8.8", 6881, rule(5)),
        // What only wraps an address is refused with it.
        (Proto::Udp, "64:ff9b::8.8.8.8", 1, rule(5)),
        (Proto::Udp, "2002:808:808::1", 1, rule(5)),
        (Proto::Tcp, "2606:4700:1::1", 443, rule(5)),
        (Proto::Udp, "1.1.1.1", 6889, hops(1)),
        (Proto::Udp, "1.1.1.1", 51413, hops(1)),
        (Proto::Udp, "1.1.1.1", 6890, CIRCUIT),
        (Proto::Tcp, "1.1.1.1", 6889, CIRCUIT),
        (Proto::Tcp, "tor.example", 443, Verdict::Tor),
        (
            Proto::Udp,
            "tor.example",
            443,
            Verdict::Refuse(Reason::TorHasNoUdp),
        ),
    ];
    for (proto, host, port, verdict) in table {
        let decided = policy.decide(proto, &target(host, port));
        assert_eq!(decided, verdict, "{host}:{port}");
    }
}

#[test]
fn a_default_of_refuse_leaves_only_what_rules_allow() {
    let policy = policy(
        "default = 'refuse'\n[[rule]]\nhost = '*.example.org'\naction = 'circuit'\n\
         [[rule]]\nhost = '*.onion'\naction = 'tor'\n",
    );
    let decide = |host| policy.decide(Proto::Tcp, &target(host, 443));
    assert_eq!(decide("a.example.org"), CIRCUIT);
    assert_eq!(decide("example.com"), Verdict::Refuse(Reason::Default));
    assert_eq!(decide("8.8.8.8"), Verdict::Refuse(Reason::Default));
    assert_eq!(decide("abc.onion"), Verdict::Tor);
    assert_eq!(decide("127.0.0.1"), Verdict::Refuse(Reason::PrivateAddress));
}

#[test]
fn the_users_rules_can_refuse_onion_names_too() {
    let policy = policy("[[rule]]\nhost = 'bad.onion'\naction = 'refuse'\n");
    let decide = |host| policy.decide(Proto::Tcp, &target(host, 443));
    assert_eq!(
        decide("bad.onion"),
        Verdict::Refuse(Reason::Rule { line: 1 })
    );
    assert_eq!(decide("good.onion"), Verdict::Tor);
}

#[test]
fn lookups_follow_the_rules_that_are_about_hosts() {
    let policy = policy(
        "[[rule]]\nhost = 'a.example'\nport = 80\naction = 'refuse'\n\
         [[rule]]\nhost = ['b.example', '8.8.8.0/24']\naction = 'refuse'\n\
         [[rule]]\nhost = 'c.example'\naction = 'circuit'\nhops = 2\n",
    );
    let name = |name| policy.decide_name(&HostName::new(name).unwrap());
    assert_eq!(name("a.example"), CIRCUIT);
    assert_eq!(name("b.example"), Verdict::Refuse(Reason::Rule { line: 5 }));
    assert_eq!(name("c.example"), Verdict::Circuit { hops: Some(2) });
    assert_eq!(name("localhost"), Verdict::Refuse(Reason::LocalName));
    let ip = |ip: &str| policy.decide_address(ip.parse().unwrap());
    assert_eq!(ip("8.8.8.8"), Verdict::Refuse(Reason::Rule { line: 5 }));
    assert_eq!(ip("8.8.4.4"), CIRCUIT);
    assert_eq!(ip("192.168.1.1"), Verdict::Refuse(Reason::PrivateAddress));
    assert_eq!(ip("ff02::1"), Verdict::Refuse(Reason::NoAddress));
}

#[test]
fn no_debug_output_names_a_rule() {
    let policy = policy("[[rule]]\nhost = 'secret.example'\nport = 4242\naction = 'refuse'\n");
    let shown = format!("{policy:?}");
    assert!(
        !shown.contains("secret") && !shown.contains("4242"),
        "{shown}"
    );
}

#[test]
fn the_example_file_does_what_happens_without_one() {
    assert_eq!(policy(crate::config::ROUTES_EXAMPLE), Policy::default());
    // The rules in its comments are right too.
    let uncommented: String = crate::config::ROUTES_EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest)
                if rest.starts_with("[[") || rest.contains(" = ") && !rest.contains("  ") =>
            {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    assert_eq!(policy(&uncommented).rules(), 3, "{uncommented}");
}

/// Ranges written out here, apart from the tables that the policy uses.
fn is_never_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_unspecified()
                || ip.is_documentation()
                || (Ipv4Addr::new(100, 64, 0, 0)..=Ipv4Addr::new(100, 127, 255, 255)).contains(&ip)
                || (Ipv4Addr::new(198, 18, 0, 0)..=Ipv4Addr::new(198, 19, 255, 255)).contains(&ip)
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
                || ip.segments()[..2] == [0x2001, 0xdb8]
        }
    }
}

fn v4() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        any::<u32>().prop_map(Ipv4Addr::from),
        (
            prop::sample::select(vec![
                [10, 0],
                [127, 0],
                [172, 16],
                [192, 168],
                [169, 254],
                [224, 0],
                [100, 64],
                [198, 18],
                [0, 0]
            ]),
            any::<[u8; 2]>()
        )
            .prop_map(|([a, b], [c, d])| Ipv4Addr::new(a, b, c, d)),
    ]
}

fn special_v4() -> impl Strategy<Value = Ipv4Addr> {
    v4().prop_filter("special", |ip| is_never_public((*ip).into()))
}

/// An address that is not public, in any of the forms in which IPv6 can carry it.
fn not_public() -> impl Strategy<Value = IpAddr> {
    let [high, low] = [0, 1];
    let halves = |ip: Ipv4Addr| {
        let [a, b, c, d] = ip.octets();
        [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
    };
    let form = move |(ip, form): (Ipv4Addr, u8)| {
        let half = halves(ip);
        let (h, l) = (half[high], half[low]);
        let v6 = match form {
            0 => return IpAddr::V4(ip),
            1 => Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, h, l),
            2 => Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, h, l),
            3 => Ipv6Addr::new(0x2002, h, l, 0, 0, 0, 0, 1),
            4 => Ipv6Addr::new(0x2001, 0, 0x4136, 0xe378, 0, 0, !h, !l),
            _ => Ipv6Addr::new(0, 0, 0, 0, 0, 0, h, l),
        };
        IpAddr::V6(v6)
    };
    prop_oneof![
        (special_v4(), 0..6_u8).prop_map(form),
        (
            prop::sample::select(vec![0xfc00_u16, 0xfd00, 0xfe80, 0xff02, 0xff0e]),
            any::<[u16; 7]>()
        )
            .prop_map(|(first, [b, c, d, e, f, g, h])| IpAddr::V6(Ipv6Addr::new(
                first, b, c, d, e, f, g, h
            ))),
        Just(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        Just(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    ]
}

fn onion() -> impl Strategy<Value = String> {
    ("[a-zA-Z0-9._-]{0,60}", "[oO][nN][iI][oO][nN]", "\\.{0,3}")
        .prop_map(|(before, onion, after)| format!("{before}.{onion}{after}"))
}

fn routes() -> impl Strategy<Value = Routes> {
    let action = || {
        prop_oneof![
            Just(RouteAction::Refuse),
            Just(RouteAction::Tor),
            prop::option::of(1..=3_u8).prop_map(|hops| RouteAction::Circuit { hops }),
        ]
    };
    let net = |(ip, prefix): (u32, u8)| {
        let mask = u32::MAX.checked_shl(u32::from(32 - prefix)).unwrap_or(0);
        let net =
            hushswarm_circuits::relay_list::Net::new(Ipv4Addr::from(ip & mask).into(), prefix);
        HostPattern::Net(net.unwrap())
    };
    let host = prop_oneof![
        Just(HostPattern::Any),
        "[a-z0-9.-]{1,20}".prop_map(HostPattern::Name),
        prop::sample::select(vec!["onion", "local", "org", "localhost", "1"])
            .prop_map(|zone| HostPattern::Below(zone.to_owned())),
        (any::<u32>(), 0..=32_u8).prop_map(net),
    ];
    let ports = (any::<u16>(), any::<u16>()).prop_map(|(a, b)| a.min(b)..=a.max(b));
    let protocols = prop::sample::select(vec![Protocols::Tcp, Protocols::Udp, Protocols::Both]);
    let rule = (
        prop::collection::vec(host, 1..4),
        prop::collection::vec(ports.clone(), 0..3),
        protocols,
        action(),
    );
    let rule = rule.prop_map(|(hosts, ports, protocols, action)| RouteRule {
        line: 1,
        hosts,
        ports,
        protocols,
        action,
    });
    (
        prop::collection::vec(rule, 0..6),
        prop::collection::vec(ports, 0..3),
        action(),
    )
        .prop_map(|(rules, refuse_ports, default)| Routes {
            first_link: crate::config::FirstLink::default(),
            rules,
            refuse_ports,
            default,
            dht: crate::config::LookupConfig::default(),
        })
}

fn proto() -> impl Strategy<Value = Proto> {
    prop::sample::select(vec![Proto::Tcp, Proto::Udp])
}

proptest! {
    #[test]
    fn whatever_rules_say_no_address_that_is_not_public_gets_a_circuit(
        routes in routes(), ip in not_public(), port: u16, proto in proto(),
    ) {
        let policy = Policy::new(routes);
        let target = Target { host: Host::Ip(ip), port };
        prop_assert!(matches!(policy.decide(proto, &target), Verdict::Refuse(_)), "{ip}");
        prop_assert!(matches!(policy.decide_address(ip), Verdict::Refuse(_)), "{ip}");
        prop_assert!(!policy.may_be_answer(ip), "{ip}");
    }

    #[test]
    fn whatever_rules_say_no_onion_name_gets_a_circuit(
        routes in routes(), name in onion(), port: u16, proto in proto(), allow_private: bool,
    ) {
        let policy = Policy::new(routes).with_private(allow_private);
        let name = HostName::new(&name).unwrap();
        let target = Target { host: Host::Name(name.clone()), port };
        let circuit = |verdict| matches!(verdict, Verdict::Circuit { .. });
        prop_assert!(!circuit(policy.decide(proto, &target)));
        prop_assert!(!circuit(policy.decide_name(&name)));
    }

    #[test]
    fn not_even_a_network_of_ones_own_gets_multicast_link_local_or_unspecified(
        routes in routes(), ip in not_public(), port: u16, proto in proto(),
    ) {
        let policy = Policy::new(routes).with_private(true);
        let never = match ip.to_canonical() {
            IpAddr::V4(ip) => ip.is_multicast() || ip.is_link_local() || ip.is_unspecified() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_multicast() || ip.is_unicast_link_local() || ip.is_unspecified(),
        };
        let target = Target { host: Host::Ip(ip), port };
        let verdict = policy.decide(proto, &target);
        prop_assert!(!never || matches!(verdict, Verdict::Refuse(_)), "{ip}");
    }

    /// Every spelling that the system's resolver takes for an address that is not public.
    #[test]
    fn odd_spellings_of_addresses_are_refused(ip in special_v4(), form in 0..6_u8, routes in routes()) {
        let [a, b, c, d] = ip.octets();
        let number = u32::from(ip);
        let text = match form {
            0 => number.to_string(),
            1 => format!("{number:#x}"),
            2 => format!("{a}.{}", number & 0xff_ffff),
            3 => format!("{a}.{b}.{}", number & 0xffff),
            4 => format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
            _ => format!("{a:#x}.{b}.0{c:o}.{d:#X}"),
        };
        let policy = Policy::new(routes);
        let name = HostName::new(&text).unwrap();
        let target = Target { host: Host::Name(name), port: 80 };
        prop_assert!(matches!(policy.decide(Proto::Tcp, &target), Verdict::Refuse(_)), "{text}");
    }
}
