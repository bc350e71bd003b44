use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// An Ethernet frame around an IP packet of one protocol.
fn frame(proto: u8, from: IpAddr, to: IpAddr, rest: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 12];
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0]);
            out.extend(from.octets());
            out.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, proto, 64]);
            out.extend(from.octets());
            out.extend(to.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => panic!("two families"),
    }
    out.extend(rest);
    out
}

fn udp(to: &str, payload: &[u8]) -> Class {
    let to = addr(to);
    let from = if to.is_ipv4() {
        addr("33.1.0.2:4000")
    } else {
        addr("[2a77::2]:4000")
    };
    let mut rest = [
        4000_u16.to_be_bytes(),
        to.port().to_be_bytes(),
        [0; 2],
        [0; 2],
    ]
    .concat();
    rest.extend(payload);
    let read = packet(&frame(17, from.ip(), to.ip(), &rest));
    assert_eq!(
        (read.from, read.to, read.to_port),
        (Some(from.ip()), Some(to.ip()), to.port())
    );
    read.class
}

fn tcp(to: &str, payload: &[u8]) -> Class {
    let (from, to) = (addr("33.1.0.2:4000"), addr(to));
    let mut rest = [4000_u16.to_be_bytes(), to.port().to_be_bytes()].concat();
    rest.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0]);
    rest.extend(payload);
    let read = packet(&frame(6, from.ip(), to.ip(), &rest));
    assert_eq!(
        (read.proto, read.from_port, read.to_port),
        (Proto::Tcp, 4000, to.port())
    );
    read.class
}

#[test]
fn datagrams_are_named_by_port_and_content() {
    let ping = b"d1:ad2:id20:aaaaaaaaaaaaaaaaaaaae1:q4:ping1:t1:a1:y1:qe";
    let answer = b"d1:rd2:id20:aaaaaaaaaaaaaaaaaaaae1:t1:a1:y1:re";
    let connect = [&TRACKER_MAGIC[..], &[0; 8]].concat();
    let syn = [&[0x41, 0][..], &[0; 18]].concat();
    let stun = [&[0, 1, 0, 0][..], &STUN_COOKIE, &[0; 12]].concat();
    for (to, payload, class) in [
        ("22.0.0.1:53", &b"x"[..], Class::Dns),
        ("[2a77::1]:53", b"x", Class::Dns),
        ("22.0.0.1:4444", ping, Class::Dht),
        ("[2a77::1]:4444", answer, Class::Dht),
        ("22.0.0.1:4444", &connect, Class::UdpTracker),
        ("22.0.0.1:4444", &connect[..15], Class::Udp),
        ("22.0.0.1:4444", &syn, Class::Utp),
        ("22.0.0.1:4444", &syn[..19], Class::Udp),
        ("239.192.152.143:6771", b"BT-SEARCH", Class::Lsd),
        ("[ff15::efc0:988f]:6771", b"BT-SEARCH", Class::Lsd),
        ("239.255.255.250:1900", b"M-SEARCH", Class::Ssdp),
        ("33.1.0.1:5351", &[0, 1], Class::NatPmp),
        ("[ff02::fb]:5353", b"x", Class::Mdns),
        ("224.0.0.252:5355", b"x", Class::Mdns),
        ("22.0.0.1:19302", b"x", Class::Stun),
        ("22.0.0.1:4444", &stun, Class::Stun),
        ("224.1.2.3:4444", b"x", Class::Multicast),
        ("255.255.255.255:4444", b"x", Class::Multicast),
        ("22.0.0.1:4444", b"x", Class::Udp),
        ("22.0.0.1:4444", b"", Class::Udp),
    ] {
        assert_eq!(udp(to, payload), class, "{to} {payload:?}");
    }
}

#[test]
fn connections_are_named_by_content_then_port() {
    for (to, payload, class) in [
        ("22.0.0.1:80", &b""[..], Class::Tcp),
        ("22.0.0.1:80", b"GET / HTTP/1.1", Class::Tcp),
        (
            "22.0.0.1:80",
            b"GET /announce?info_hash=%01 HTTP/1.1",
            Class::HttpTracker,
        ),
        ("22.0.0.1:80", b"\x13BitTorrent protocol", Class::PeerTcp),
        ("22.0.0.1:80", b"BitTorrent protocol", Class::Tcp),
        ("22.0.0.1:53", b"", Class::Dns),
        ("22.0.0.1:853", b"", Class::Dns),
    ] {
        assert_eq!(tcp(to, payload), class, "{to} {payload:?}");
    }
}

#[test]
fn control_messages_and_neighbours_are_told_apart() {
    let (from4, to4): (IpAddr, IpAddr) = ([33, 1, 0, 2].into(), [33, 1, 0, 1].into());
    let (from6, to6): (IpAddr, IpAddr) = ("2a77::2".parse().unwrap(), "2a77::1".parse().unwrap());
    let class = |bytes: &[u8]| packet(bytes).class;
    assert_eq!(class(&frame(1, from4, to4, &[8, 0])), Class::Icmp);
    assert_eq!(class(&frame(2, from4, to4, &[0x22, 0])), Class::McastJoin);
    assert_eq!(class(&frame(58, from6, to6, &[128, 0])), Class::Icmp);
    assert_eq!(class(&frame(58, from6, to6, &[143, 0])), Class::McastJoin);
    let mut solicit = vec![135, 0, 0, 0, 0, 0, 0, 0];
    solicit.extend("2a77::99".parse::<Ipv6Addr>().unwrap().octets());
    let read = packet(&frame(58, from6, to6, &solicit));
    assert_eq!(
        (read.class, read.to),
        (Class::Neighbour, "2a77::99".parse().ok())
    );
    // Listener reports come behind a hop-by-hop header with the router alert (RFC 2710 §3).
    let behind = [58, 0, 5, 2, 0, 0, 1, 0, 143, 0];
    assert_eq!(class(&frame(0, from6, to6, &behind)), Class::McastJoin);
    let mut arp = vec![0; 12];
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend([&[0; 6][..], &[33, 1, 0, 2], &[0; 6], &[33, 1, 0, 9]].concat());
    let read = packet(&arp);
    assert_eq!(
        (read.class, read.to),
        (Class::Neighbour, Some([33, 1, 0, 9].into()))
    );
    assert_eq!(class(&frame(132, from4, to4, &[0; 12])), Class::Other);
}

#[test]
fn later_fragments_belong_to_nobody() {
    let mut bytes = frame(
        17,
        [33, 1, 0, 2].into(),
        [22, 0, 0, 1].into(),
        &[0, 53, 0, 53, 0, 0, 0, 0],
    );
    assert_eq!(packet(&bytes).class, Class::Dns);
    bytes[ETHERNET + 7] = 1;
    assert_eq!(packet(&bytes).class, Class::Other);
    assert!(packet(&bytes).to.is_some());
}

#[test]
fn every_class_stands_in_the_report_once() {
    let mut sorted = CLASSES.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted, CLASSES);
    assert_eq!(
        CLASSES.last(),
        Some(&Class::Other),
        "a new class must be added to CLASSES"
    );
}

proptest! {
    #[test]
    fn any_bytes_are_some_packet(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = packet(&bytes);
    }

    #[test]
    fn any_content_keeps_its_addresses(
        proto in any::<u8>(),
        from in any::<[u8; 16]>(),
        to in any::<[u8; 16]>(),
        rest in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let read = packet(&frame(proto, Ipv6Addr::from(from).into(), Ipv6Addr::from(to).into(), &rest));
        prop_assert_eq!(read.from, Some(Ipv6Addr::from(from).into()));
        if read.class != Class::Neighbour {
            prop_assert_eq!(read.to, Some(Ipv6Addr::from(to).into()));
        }
    }
}
