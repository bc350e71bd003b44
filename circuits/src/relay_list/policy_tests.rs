#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::relay_list::PolicyTextError;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn policy(rules: &[&str]) -> ExitPolicy {
    ExitPolicy::from_texts(rules).unwrap()
}

/// Every special range by its first, an inner and its last address.
const NOT_PUBLIC: &[&str] = &[
    "0.0.0.0",
    "0.255.255.255",
    "10.0.0.0",
    "10.255.255.255",
    "100.64.0.0",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.0.1",
    "169.254.169.254",
    "172.16.0.0",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.255.255",
    "198.18.0.0",
    "198.19.255.255",
    "198.51.100.9",
    "203.0.113.255",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:2::1",
    "2001:10::1",
    "2001:1ff::1",
    "2001:db8::1",
    "3fff::1",
    "3fff:fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    // IPv4-mapped, compatible, translated, NAT64, 6to4, Teredo and ISATAP forms.
    "::ffff:127.0.0.1",
    "::ffff:10.1.2.3",
    "::ffff:192.168.1.1",
    "::ffff:169.254.169.254",
    "::ffff:0.0.0.0",
    "::127.0.0.1",
    "::10.0.0.1",
    "::8.8.8.8",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.1.2.3",
    "64:ff9b::192.168.1.1",
    "64:ff9b::100.64.0.1",
    "2002:7f00:1::1",
    "2002:a00:1::",
    "2002:c0a8:101::1",
    "2002:e000:1::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:0:808:808:0:0:80ff:fffe",
    "2606:4700::5efe:10.0.0.1",
    "2606:4700::200:5efe:192.168.0.1",
];

const PUBLIC: &[&str] = &[
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
    "2000::1",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
    "2a00:1450::1",
    "3ffe:ffff::1",
    "2606:4700::5efe:8.8.8.8",
];

#[test]
fn the_public_policy_refuses_every_special_range_and_its_embedded_forms() {
    let public = ExitPolicy::public();
    for text in NOT_PUBLIC {
        assert!(!is_global(ip(text)), "{text}");
        assert!(!public.allows(Proto::Tcp, ip(text), 6881), "{text} TCP");
        assert!(!public.allows(Proto::Udp, ip(text), 6881), "{text} UDP");
    }
}

#[test]
fn the_public_policy_accepts_the_neighbours_of_special_ranges() {
    let public = ExitPolicy::public();
    for text in PUBLIC {
        assert!(is_global(ip(text)), "{text}");
        assert!(public.allows(Proto::Tcp, ip(text), 6881), "{text} TCP");
        assert!(public.allows(Proto::Udp, ip(text), 1), "{text} UDP");
    }
}

#[test]
fn the_public_policy_refuses_mail_and_port_zero() {
    let public = ExitPolicy::public();
    for port in [25, 465, 587, 0] {
        for text in [
            "8.8.8.8",
            "2606:4700::1",
            "64:ff9b::8.8.8.8",
            "::ffff:8.8.8.8",
        ] {
            assert!(!public.allows(Proto::Tcp, ip(text), port), "{text}:{port}");
        }
        assert!(!public.may_allow_port(Proto::Tcp, port));
    }
    assert!(public.may_allow_port(Proto::Tcp, 443) && public.may_allow_port(Proto::Udp, 53));
}

#[test]
fn the_first_match_decides_and_no_match_is_a_refusal() {
    let policy = policy(&[
        "reject tcp 8.8.8.0/24:80",
        "accept tcp 8.8.0.0/16:*",
        "reject * *:*",
        "accept * *:*",
    ]);
    assert!(!policy.allows(Proto::Tcp, ip("8.8.8.8"), 80));
    assert!(policy.allows(Proto::Tcp, ip("8.8.8.8"), 81));
    assert!(policy.allows(Proto::Tcp, ip("8.8.9.8"), 80));
    assert!(!policy.allows(Proto::Udp, ip("8.8.9.8"), 80));
    assert!(!policy.allows(Proto::Tcp, ip("9.9.9.9"), 80));
    assert!(!ExitPolicy::reject_all().allows(Proto::Tcp, ip("8.8.8.8"), 80));
}

#[test]
fn mapped_addresses_are_judged_as_ipv4_under_any_policy() {
    let loopback = policy(&["accept tcp 127.0.0.0/8:*"]);
    assert!(loopback.allows(Proto::Tcp, ip("::ffff:127.0.0.1"), 80));
    let all_v6 = policy(&["reject * 0.0.0.0/0:*", "accept * [::]/0:*"]);
    assert!(!all_v6.allows(Proto::Tcp, ip("::ffff:8.8.8.8"), 80));
    assert!(all_v6.allows(Proto::Tcp, ip("2606:4700::1"), 80));
    assert!(
        !all_v6.allows(Proto::Tcp, ip("2002:808:808::1"), 80),
        "6to4 is IPv4 in disguise"
    );
}

#[test]
fn embedded_addresses_must_be_accepted_themselves_under_any_policy() {
    let policy = policy(&["reject * 10.0.0.0/8:*", "accept * *:*"]);
    // Ten dot one dot two dot three, then eight dot eight dot eight dot eight, in each way of wrapping.
    for (inside, outside) in [
        ("::10.1.2.3", "::8.8.8.8"),
        ("::ffff:0:10.1.2.3", "::ffff:0:8.8.8.8"),
        ("64:ff9b::10.1.2.3", "64:ff9b::8.8.8.8"),
        ("2002:a01:203::1", "2002:808:808::1"),
        (
            "2001:0:808:808:0:0:f5fe:fdfc",
            "2001:0:a01:203:0:0:f7f7:f7f7",
        ),
        ("2a00::5efe:10.1.2.3", "2a00::5efe:8.8.8.8"),
        ("2a00::200:5efe:10.1.2.3", "2a00::200:5efe:8.8.8.8"),
    ] {
        assert!(!policy.allows(Proto::Tcp, ip(inside), 80), "{inside}");
        assert!(policy.allows(Proto::Tcp, ip(outside), 80), "{outside}");
    }
}

#[test]
fn ports_for_names_follow_accepts_that_no_full_reject_precedes() {
    let narrow = policy(&["reject * 10.0.0.0/8:*", "accept tcp 127.0.0.0/8:1000-2000"]);
    assert!(narrow.may_allow_port(Proto::Tcp, 1000) && narrow.may_allow_port(Proto::Tcp, 2000));
    assert!(!narrow.may_allow_port(Proto::Tcp, 999) && !narrow.may_allow_port(Proto::Udp, 1000));
    let v4_closed = policy(&["reject * 0.0.0.0/0:*", "accept * 8.0.0.0/8:*"]);
    assert!(!v4_closed.may_allow_port(Proto::Tcp, 80));
    let v6_open = policy(&["reject * 0.0.0.0/0:*", "accept * *:80"]);
    assert!(v6_open.may_allow_port(Proto::Tcp, 80));
}

#[test]
fn some_port_is_enough_for_a_datagram_flow() {
    assert!(ExitPolicy::public().may_allow(Proto::Udp));
    assert!(!ExitPolicy::reject_all().may_allow(Proto::Udp));
    assert!(!policy(&["accept tcp *:*"]).may_allow(Proto::Udp));
    assert!(policy(&["reject * *:1-9", "accept * *:1-10"]).may_allow(Proto::Udp));
    assert!(!policy(&["reject udp *:1-10", "accept * *:1-10"]).may_allow(Proto::Udp));
}

#[test]
fn rules_are_read_as_people_write_them() {
    for text in [
        "accept tcp 127.0.0.0/8:*",
        "reject * *:25",
        "accept udp [2001:db8::]/32:6881-6999",
        "accept * 192.0.2.1:80",
        "reject * [::1]:*",
    ] {
        assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
    }
    assert_eq!(
        "accept tcp 127.0.0.0/8:1-65535"
            .parse::<Rule>()
            .unwrap()
            .to_string(),
        "accept tcp 127.0.0.0/8:*"
    );
    assert_eq!(policy(&["public"]), ExitPolicy::public());
    let mixed = policy(&["accept tcp 127.0.0.0/8:*", "public"]);
    assert_eq!(mixed.to_texts(), ["accept tcp 127.0.0.0/8:*", "public"]);
    assert_eq!(mixed.summary(), "tcp 127.0.0.0/8:* +3");
    assert_eq!(
        ExitPolicy::public().rules().len(),
        24,
        "the number in PolicyTextError::TooMany"
    );
}

#[test]
fn wrong_rules_say_what_is_wrong() {
    use PolicyTextError as E;
    let table = [
        ("", E::Shape),
        ("accept", E::Shape),
        ("accept tcp", E::Shape),
        ("accept tcp *", E::Shape),
        ("accept tcp *:1 x", E::Shape),
        ("allow tcp *:1", E::Action),
        ("accept icmp *:1", E::Protocol),
        ("accept tcp 10.0.0.0/33:1", E::Address),
        ("accept tcp ::1:1", E::Address),
        ("accept tcp [::]/129:1", E::Address),
        ("accept tcp host:1", E::Address),
        ("accept tcp 10.0.0.0/+8:1", E::Address),
        ("accept tcp 10.0.0.1/8:1", E::HostBits),
        ("accept tcp *:0", E::Ports),
        ("accept tcp *:2-1", E::Ports),
        ("accept tcp *:65536", E::Ports),
        ("accept tcp *:", E::Ports),
        ("accept tcp *:+1", E::Ports),
    ];
    for (text, error) in table {
        assert_eq!(text.parse::<Rule>(), Err(error), "{text:?}");
    }
    assert_eq!(ExitPolicy::from_texts(&["public"; 3]), Err(E::TooMany));
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let net = prop::option::of((any::<IpAddr>(), 0u8..=128)).prop_map(|net| {
        net.map(|(addr, prefix)| match addr {
            IpAddr::V4(ip) => {
                let prefix = prefix.min(32);
                Net::new(
                    Ipv4Addr::from_bits(ip.to_bits() & mask_v4(prefix)).into(),
                    prefix,
                )
                .unwrap()
            }
            IpAddr::V6(ip) => Net::new(
                Ipv6Addr::from_bits(ip.to_bits() & mask_v6(prefix)).into(),
                prefix,
            )
            .unwrap(),
        })
    });
    let protocols = prop_oneof![
        Just(Protocols::Tcp),
        Just(Protocols::Udp),
        Just(Protocols::Both)
    ];
    let action = prop_oneof![Just(Action::Accept), Just(Action::Reject)];
    (action, protocols, net, 1u16.., 1u16..).prop_map(|(action, protocols, net, a, b)| Rule {
        action,
        protocols,
        net,
        first_port: a.min(b),
        last_port: a.max(b),
    })
}

pub(crate) fn any_policy() -> impl Strategy<Value = ExitPolicy> {
    prop::collection::vec(any_rule(), 0..=MAX_RULES).prop_map(|rules| ExitPolicy { rules })
}

#[test]
fn an_address_that_some_port_accepts_may_be_told() {
    let told = |rules: &[&str], ip: &str| policy(rules).may_allow_ip(ip.parse().unwrap());
    let public = ExitPolicy::public();
    for (ip, is_told) in [
        ("8.8.8.8", true),
        ("2a00::1", true),
        ("10.0.0.1", false),
        ("127.0.0.1", false),
        ("169.254.169.254", false),
        ("::1", false),
        ("fd00::1", false),
        ("::ffff:10.0.0.1", false),
        ("64:ff9b::a00:1", false),
    ] {
        assert_eq!(public.may_allow_ip(ip.parse().unwrap()), is_told, "{ip}");
    }
    assert!(told(&["accept udp 10.0.0.0/8:53"], "10.1.2.3"));
    assert!(!told(&["accept udp 10.0.0.0/8:53"], "11.1.2.3"));
    assert!(told(
        &["reject * *:1-99", "accept tcp *:80-100"],
        "10.0.0.1"
    ));
    assert!(!told(
        &["reject * *:1-100", "accept tcp *:80-100"],
        "10.0.0.1"
    ));
    assert!(!ExitPolicy::reject_all().may_allow_ip("8.8.8.8".parse().unwrap()));
}

proptest! {
    #[test]
    fn an_address_with_a_port_that_is_accepted_may_be_told(
        policy in any_policy(), ip: IpAddr, port in 1u16.., udp: bool,
    ) {
        let proto = if udp { Proto::Udp } else { Proto::Tcp };
        prop_assert!(!policy.allows(proto, ip, port) || policy.may_allow_ip(ip));
    }

    #[test]
    fn a_printed_rule_reads_back_the_same(rule in any_rule()) {
        prop_assert_eq!(rule.to_string().parse(), Ok(rule));
    }

    #[test]
    fn reading_text_never_panics(text in ".{0,60}", tail in "[*0-9/:.\\[\\]-]{0,30}") {
        let _ = text.parse::<Rule>();
        let _ = format!("accept tcp {tail}").parse::<Rule>();
    }

    #[test]
    fn an_encoded_policy_reads_back_the_same(policy in any_policy()) {
        let mut bytes = Vec::new();
        policy.encode(&mut bytes);
        let mut reader = Reader::new(&bytes);
        prop_assert_eq!(ExitPolicy::decode(&mut reader), Some(policy.clone()));
        prop_assert!(reader.rest().is_empty());
        prop_assert_eq!(ExitPolicy::from_texts(&policy.to_texts()), Ok(policy));
    }

    #[test]
    fn a_refused_port_is_refused_for_every_address(
        policy in any_policy(), ip: IpAddr, port: u16,
    ) {
        for proto in [Proto::Tcp, Proto::Udp] {
            if policy.allows(proto, ip, port) {
                prop_assert!(policy.may_allow_port(proto, port));
                prop_assert!(policy.may_allow(proto));
            }
        }
    }

    #[test]
    fn the_public_policy_and_the_helper_agree(ip: IpAddr, port in 600u16..) {
        prop_assert_eq!(ExitPolicy::public().allows(Proto::Tcp, ip, port), is_global(ip));
    }
}
