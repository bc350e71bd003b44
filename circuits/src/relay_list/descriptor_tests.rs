#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::super::policy::tests::any_policy;
use super::super::testing::{NOW, key, relay, signed};
use super::*;
use crate::relay_list::Rule;

/// Encodes without the checks of `sign`, to see what `decode` refuses.
fn unchecked(change: impl FnOnce(&mut RelayInfo)) -> Vec<u8> {
    let mut info = relay(1);
    change(&mut info);
    let mut bytes = info.encode();
    let signature = key(1).sign(&[SIGNATURE_CONTEXT, &bytes]);
    bytes.extend_from_slice(&signature);
    bytes
}

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn service() -> LinkService {
    LinkService {
        key: key(9).public().0,
        port: 4443,
    }
}

#[test]
fn a_signed_descriptor_reads_back_and_verifies() {
    let made = signed(1, |info| {
        info.addresses = addresses(&["127.0.0.1:1", "[2a00::1]:65535"]);
        info.link_service = Some(service());
    });
    let read = Descriptor::decode(made.bytes()).unwrap();
    assert!(read == made && read.verify());
    assert_eq!(
        read.digest(),
        *blake3::hash(&made.bytes()[..made.bytes().len() - 64]).as_bytes()
    );
    let (link, hop) = (read.link_peer(), read.hop_peer());
    assert_eq!(
        (link.link_key, link.digest, link.suite),
        (made.link, made.digest(), made.suite)
    );
    assert_eq!(
        (hop.onion_key, hop.digest, hop.suite),
        (made.onion, made.digest(), made.suite)
    );
}

#[test]
fn a_change_of_any_byte_is_seen() {
    let made = signed(1, |info| {
        info.policy = ExitPolicy::reject_all();
        info.link_service = Some(service());
    });
    for at in 0..made.bytes().len() {
        let mut bytes = made.bytes().to_vec();
        bytes[at] ^= 1;
        assert!(
            !Descriptor::decode(&bytes).is_ok_and(|read| read.verify()),
            "byte {at}"
        );
    }
}

#[test]
fn every_shorter_or_longer_form_is_refused() {
    let made = signed(1, |info| info.link_service = Some(service()));
    for len in 0..made.bytes().len() {
        assert!(
            Descriptor::decode(&made.bytes()[..len]).is_err(),
            "{len} bytes"
        );
    }
    for extra in [1, 64, MAX_DESCRIPTOR_LEN] {
        let mut longer = made.bytes().to_vec();
        longer.resize(longer.len() + extra, 0);
        assert_eq!(
            Descriptor::decode(&longer),
            Err(DescriptorError::TrailingBytes)
        );
    }
}

#[test]
fn another_relays_key_does_not_sign() {
    assert_eq!(relay(1).sign(&key(2)), Err(DescriptorError::WrongKey));
}

#[test]
fn a_signature_by_another_key_does_not_verify() {
    let mut bytes = signed(1, |_| {}).bytes().to_vec();
    let at = bytes.len() - 64;
    let forged = key(2).sign(&[SIGNATURE_CONTEXT, &bytes[..at]]);
    bytes[at..].copy_from_slice(&forged);
    assert!(!Descriptor::decode(&bytes).unwrap().verify());
}

#[test]
fn fields_out_of_bounds_are_neither_signed_nor_read() {
    use DescriptorError as E;
    type Change = Box<dyn Fn(&mut RelayInfo)>;
    let set_addresses = |texts: &'static [&'static str]| -> Change {
        Box::new(move |info| info.addresses = addresses(texts))
    };
    let set_times = |published, expires| -> Change {
        Box::new(move |info| (info.published, info.expires) = (published, expires))
    };
    let set_service = |key, port| -> Change {
        Box::new(move |info| info.link_service = Some(LinkService { key, port }))
    };
    let table: Vec<(Change, E)> = vec![
        (Box::new(|info| info.nickname.clear()), E::Nickname),
        (Box::new(|info| info.nickname = "x".repeat(20)), E::Nickname),
        (
            Box::new(|info| info.nickname = "a b".to_owned()),
            E::Nickname,
        ),
        (
            Box::new(|info| info.nickname = "\u{1b}[31m".to_owned()),
            E::Nickname,
        ),
        (Box::new(|info| info.family = "x".repeat(33)), E::Family),
        (Box::new(|info| info.family = "ä".to_owned()), E::Family),
        (set_addresses(&[]), E::Addresses),
        (
            set_addresses(&[
                "1.1.1.1:1",
                "1.1.1.1:2",
                "1.1.1.1:3",
                "1.1.1.1:4",
                "1.1.1.1:5",
            ]),
            E::Addresses,
        ),
        (set_addresses(&["1.1.1.1:1", "1.1.1.1:1"]), E::Addresses),
        (set_addresses(&["1.1.1.1:0"]), E::Addresses),
        (set_addresses(&["0.0.0.0:1"]), E::Addresses),
        (set_addresses(&["255.255.255.255:1"]), E::Addresses),
        (set_addresses(&["224.0.0.1:1"]), E::Addresses),
        (set_addresses(&["[::]:1"]), E::Addresses),
        (set_addresses(&["[ff02::1]:1"]), E::Addresses),
        (set_addresses(&["[::ffff:1.1.1.1]:1"]), E::Addresses),
        (set_service([1; 32], 0), E::LinkService),
        (set_service(key(9).public().0, 0), E::LinkService),
        // The neutral point, a key of order 4, and no point at all.
        (set_service(NEUTRAL, 1), E::LinkService),
        (set_service([0; 32], 1), E::LinkService),
        (set_service([2; 32], 1), E::LinkService),
        (set_times(NOW, NOW), E::Times),
        (set_times(NOW, NOW - 1), E::Times),
        (set_times(NOW, NOW + MAX_DESCRIPTOR_LIFE + 1), E::Times),
        (set_times(0, u64::MAX), E::Times),
    ];
    for (number, (change, error)) in table.into_iter().enumerate() {
        let mut info = relay(1);
        change(&mut info);
        assert_eq!(info.sign(&key(1)), Err(error), "signing, row {number}");
        assert_eq!(
            Descriptor::decode(&unchecked(change)),
            Err(error),
            "reading, row {number}"
        );
    }
    signed(1, |info| {
        (info.published, info.expires) = (NOW, NOW + MAX_DESCRIPTOR_LIFE)
    });
}

#[test]
fn a_scope_is_not_signed_because_the_wire_has_no_place_for_it() {
    let mut info = relay(1);
    info.addresses = vec!["[fe80::1%3]:1".parse().unwrap()];
    assert_eq!(info.sign(&key(1)), Err(DescriptorError::Addresses));
}

/// The neutral element of the curve.
const NEUTRAL: [u8; 32] = {
    let mut bytes = [0; 32];
    bytes[0] = 1;
    bytes
};

#[test]
fn a_second_onion_service_is_refused() {
    let none = unchecked(|_| {});
    let one = unchecked(|info| info.link_service = Some(service()));
    // They differ first where the services are counted.
    let at = none.iter().zip(&one).position(|(a, b)| a != b).unwrap();
    assert_eq!((none[at], one[at]), (0, 1));
    assert_eq!(
        one[at + 1..at + 35],
        [&service().key[..], &[17, 91]].concat()
    );
    let mut bent = one;
    bent[at] = 2;
    assert_eq!(Descriptor::decode(&bent), Err(DescriptorError::LinkService));
}

/// Offsets of the fixed-length fields of §7.1.
const SUITE_AT: usize = 1 + 96;
const ROLES_AT: usize = SUITE_AT + 1;

#[test]
fn unknown_versions_suites_and_roles_are_refused() {
    let table = [
        (0, 2, DescriptorError::Version(2)),
        (SUITE_AT, 3, DescriptorError::Suite(3)),
        (ROLES_AT, 1, DescriptorError::Roles),
        (ROLES_AT + 1, 32, DescriptorError::Roles),
    ];
    for (at, value, error) in table {
        let mut bytes = unchecked(|_| {});
        bytes[at] = value;
        assert_eq!(Descriptor::decode(&bytes), Err(error));
    }
}

#[test]
fn each_role_has_a_bit_of_its_own() {
    let roles = |bits: u16| {
        let mut bytes = unchecked(|_| {});
        bytes[ROLES_AT..ROLES_AT + 2].copy_from_slice(&bits.to_be_bytes());
        Descriptor::decode(&bytes).unwrap().roles
    };
    let none = Roles::default();
    assert_eq!(roles(0), none);
    assert_eq!(
        roles(1),
        Roles {
            guard: true,
            ..none
        }
    );
    assert_eq!(roles(2), Roles { exit: true, ..none });
    assert_eq!(roles(4), Roles { list: true, ..none });
    assert_eq!(roles(8), Roles { dht: true, ..none });
    assert_eq!(
        roles(16),
        Roles {
            introduce: true,
            ..none
        }
    );
}

#[test]
fn broken_rules_are_refused() {
    let rule: Rule = "accept tcp 10.0.0.0/8:1-2".parse().unwrap();
    let bytes = unchecked(|info| info.policy = ExitPolicy::new(vec![rule]).unwrap());
    // action | protocols | type | address[4] | prefix | first[2] | last[2] before two times and the signature.
    let start = bytes.len() - 64 - 16 - 12;
    let table: &[(usize, u8)] = &[
        (start, 2),
        (start + 1, 0),
        (start + 1, 4),
        (start + 2, 3),
        (start + 7, 33),
        (start + 7, 6), // leaves bits of 10.0.0.0 after the prefix
        (start + 9, 0), // port 0
        (start + 9, 3), // first port after last
        (start - 1, 65),
    ];
    for &(at, value) in table {
        let mut bent = bytes.clone();
        bent[at] = value;
        assert_eq!(
            Descriptor::decode(&bent),
            Err(DescriptorError::Policy),
            "{at} = {value}"
        );
    }
}

#[test]
fn the_largest_descriptor_fits_its_limit() {
    let rule: Rule = "reject * [2a00::1]:1-2".parse().unwrap();
    let made = signed(1, |info| {
        info.nickname = "n".repeat(19);
        info.family = "f".repeat(32);
        info.addresses = addresses(&["[2a00::1]:1", "[2a00::1]:2", "[2a00::1]:3", "[2a00::1]:4"]);
        info.policy = ExitPolicy::new(vec![rule; 64]).unwrap();
        info.link_service = Some(service());
    });
    assert_eq!(made.bytes().len(), 1886);
    assert!(made.bytes().len() <= MAX_DESCRIPTOR_LEN);
}

#[test]
fn debug_output_shows_no_address() {
    let made = signed(1, |info| {
        info.addresses = addresses(&["198.51.100.77:4443"]);
        info.link_service = Some(service());
    });
    let shown = format!("{made:?} {:?} {:?}", made.info(), made.link_service);
    assert!(shown.contains("relay-1") && !shown.contains("198.51") && !shown.contains("4443"));
}

fn any_info() -> impl Strategy<Value = RelayInfo> {
    let address = (any::<u32>(), any::<u16>(), any::<Option<u128>>()).prop_map(|(v4, port, v6)| {
        let ip = match v6 {
            Some(v6) => IpAddr::V6(v6.into()),
            None => IpAddr::V4(Ipv4Addr::from_bits(v4)),
        };
        SocketAddr::new(ip, port)
    });
    (
        any::<([u8; 32], [u8; 32], [bool; 5], u32)>(),
        ("[A-Za-z0-9-]{1,19}", "[A-Za-z0-9._-]{0,32}"),
        prop::collection::vec(address.prop_filter("unusable", is_listening_address), 1..=4),
        (any_policy(), any::<Option<(u16, u16)>>()),
        (0..u64::MAX - MAX_DESCRIPTOR_LIFE, 1..=MAX_DESCRIPTOR_LIFE),
    )
        .prop_map(
            |(fixed, (nickname, family), addresses, (policy, service), (published, life))| {
                let (onion, link, [guard, exit, list, dht, introduce], bandwidth) = fixed;
                RelayInfo {
                    identity: key(1).public(),
                    onion,
                    link,
                    suite: if guard {
                        Suite::Aes256Gcm
                    } else {
                        Suite::ChaCha20Poly1305
                    },
                    roles: Roles {
                        guard,
                        exit,
                        list,
                        dht,
                        introduce,
                    },
                    bandwidth,
                    nickname,
                    family,
                    addresses,
                    link_service: service.map(|(number, port)| LinkService {
                        key: key(number).public().0,
                        port,
                    }),
                    policy,
                    published,
                    expires: published + life,
                }
            },
        )
}

proptest! {
    #[test]
    fn what_was_signed_is_read(info in any_info()) {
        if let Ok(made) = info.clone().sign(&key(1)) {
            let read = Descriptor::decode(made.bytes());
            prop_assert_eq!(read.as_ref().map(|read| read.info() == &info), Ok(true));
            prop_assert!(read.is_ok_and(|read| read.verify() && read == made));
        }
    }

    #[test]
    fn what_is_read_encodes_to_the_same_bytes(info in any_info(), at: prop::sample::Index, value: u8) {
        if let Ok(made) = info.sign(&key(1)) {
            let mut bytes = made.bytes().to_vec();
            bytes[at.index(made.bytes().len())] = value;
            if let Ok(read) = Descriptor::decode(&bytes) {
                let mut again = read.info().encode();
                again.extend_from_slice(&bytes[again.len()..]);
                prop_assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let _ = Descriptor::decode(&bytes);
        let mut versioned = bytes;
        if let Some(first) = versioned.first_mut() {
            *first = VERSION;
            let _ = Descriptor::decode(&versioned);
        }
    }
}
