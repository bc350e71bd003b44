//! The capture sees what it must see: a program inside a namespace leaks on purpose, in every way we look for.
#![allow(clippy::unwrap_used)] // a broken set-up is a failed test

use crate::support;

use std::io::Read;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Stdio;

use support::PATIENCE;
use support::capture::{Capture, Captured};
use support::process::{Process, run};
use support::world::{Host, World, gateway};

/// Sends one of each; `to4` and `to6` are another host, port 9.
const LEAKS: &str = r#"
import socket, sys
to4, to6 = sys.argv[1], sys.argv[2]
def udp(family, to, data, interface=None):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if interface:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex(interface))
    s.sendto(data, to)
try:
    socket.getaddrinfo("leak.example", 80)
except socket.gaierror:
    pass
udp(socket.AF_INET, (to4, 9), b"plain")
udp(socket.AF_INET6, (to6, 9), b"plain six")
udp(socket.AF_INET, (to4, 4444), b"d1:ad2:id20:aaaaaaaaaaaaaaaaaaaae1:q4:ping1:t1:a1:y1:qe")
udp(socket.AF_INET, (to4, 4445), bytes.fromhex("0000041727101980") + bytes(8))
udp(socket.AF_INET, (to4, 4446), bytes([0x41, 0]) + bytes(18))
udp(socket.AF_INET, ("239.192.152.143", 6771), b"BT-SEARCH * HTTP/1.1\r\n")
udp(socket.AF_INET, ("239.255.255.250", 1900), b"M-SEARCH * HTTP/1.1\r\n")
udp(socket.AF_INET6, ("ff02::fb", 5353), b"mdns", "eth0")
udp(socket.AF_INET, ("203.0.113.7", 777), b"far away, over the default route")
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.192.152.143") + bytes(4))
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.sendto(b"broadcast", ("10.77.255.255", 1234))
for family, to in ((socket.AF_INET, to4), (socket.AF_INET6, to6)):
    s = socket.socket(family, socket.SOCK_STREAM)
    try:
        s.connect((to, 9))
    except ConnectionRefusedError:
        pass
"#;

fn leak(client: &Host, other: &Host) {
    let mut python = client.command("python3");
    python.args(["-c", LEAKS, &other.ip4.to_string(), &other.ip6.to_string()]);
    run(python);
}

fn classes(strays: &[&support::capture::Flow]) -> Vec<String> {
    strays
        .iter()
        .map(|flow| format!("{} {} {}", flow.class, flow.dst, flow.dport))
        .collect()
}

fn capture_leaks() -> Option<(Host, Host, Captured)> {
    let mut world = World::build()?;
    let (client, other) = (world.host("client", 2), world.host("other", 11));
    let capture = Capture::start(&client, &[b"far away", b"in no packet"]);
    leak(&client, &other);
    Some((client, other, capture.stop()))
}

#[test]
fn every_kind_of_leak_is_seen_and_named() {
    let Some((_, other, captured)) = capture_leaks() else {
        return;
    };
    let seen = classes(&captured.strays(&[]));
    for expected in [
        format!("dns {} 53", gateway()),
        format!("udp {} 9", other.ip4),
        format!("udp {} 9", other.ip6),
        format!("dht {} 4444", other.ip4),
        format!("udp-tracker {} 4445", other.ip4),
        format!("utp {} 4446", other.ip4),
        "lsd 239.192.152.143 6771".to_owned(),
        "ssdp 239.255.255.250 1900".to_owned(),
        "mdns ff02::fb 5353".to_owned(),
        "udp 203.0.113.7 777".to_owned(),
        "mcast-join 224.0.0.22 0".to_owned(),
        "udp 10.77.255.255 1234".to_owned(),
        format!("tcp {} 9", other.ip4),
        format!("tcp {} 9", other.ip6),
        format!("arp {} 0", other.ip4),
    ] {
        assert!(
            seen.contains(&expected),
            "{expected} is missing in {seen:#?}"
        );
    }
    assert_eq!(
        captured.found(0).len(),
        2,
        "the needle, and the gateway's answer that quotes it"
    );
    assert!(captured.found(1).is_empty());
}

#[test]
fn a_word_that_two_packets_share_is_found() {
    let Some(mut world) = World::build() else {
        return;
    };
    let (client, other) = (world.host("client", 2), world.host("other", 11));
    let capture = Capture::start(&client, &[b"a word cut in two", b"two words"]);
    let listen = "import socket; s = socket.create_server(('', 900)); print('ready', flush=True); c, _ = s.accept(); c.recv(99); c.recv(99)";
    let mut command = other.command("python3");
    command.args(["-c", listen]);
    let mut listener = Process::spawn("listener", command);
    listener.wait_for_line(PATIENCE, |line| line == "ready");
    let send = "import socket, sys, time; s = socket.create_connection((sys.argv[1], 900)); s.send(b'a word cut'); time.sleep(.1); s.send(b' in two')";
    let mut python = client.command("python3");
    python.args(["-c", send, &other.ip4.to_string()]);
    run(python);
    let captured = capture.stop();
    assert_eq!(captured.found(0).len(), 1, "it was cut");
    assert!(captured.found(1).is_empty());
}

/// Fails unless this fails, and for this reason.
fn assert_fails<T>(why: &str, what: impl FnOnce() -> T) {
    let Err(told) = catch_unwind(AssertUnwindSafe(what)) else {
        panic!("it did not fail: {why}");
    };
    let told = told.downcast_ref::<String>().unwrap();
    assert!(told.contains(why), "{told}");
}

#[test]
fn a_capture_that_lost_packets_fails() {
    let Some(mut world) = World::build() else {
        return;
    };
    let (client, other) = (world.host("client", 2), world.host("other", 11));
    // Room for one or two of them.
    let capture = Capture::start_with_room(&client, &[], 4096);
    let flood = "import socket, sys\ns = socket.socket(2, 2)\nfor _ in range(20000):\n    try: s.sendto(bytes(1200), (sys.argv[1], 9))\n    except ConnectionRefusedError: pass";
    let mut python = client.command("python3");
    python.args(["-c", flood, &other.ip4.to_string()]);
    run(python);
    assert_fails("the capture lost packets", || capture.stop());
}

#[test]
fn allowing_one_peer_hides_only_what_goes_to_it() {
    let Some((_, other, captured)) = capture_leaks() else {
        return;
    };
    let strays = captured.strays(&[other.addr(9)]);
    let tcp_and_udp = |proto: &str| {
        strays
            .iter()
            .any(|flow| flow.proto == proto && flow.remote() == Some(other.addr(9)))
    };
    assert!(!tcp_and_udp("tcp") && !tcp_and_udp("udp"));
    assert!(
        strays
            .iter()
            .any(|flow| flow.remote() == Some(other.addr6(9))),
        "IPv6 was not allowed"
    );
    assert!(
        strays.iter().any(|flow| flow.class == "dht"),
        "another port was not allowed"
    );
    assert!(!captured.sent("dns").is_empty());
}

#[test]
fn a_single_question_for_an_address_fails_the_assertion() {
    let Some(mut world) = World::build() else {
        return;
    };
    let (client, other) = (world.host("client", 2), world.host("other", 11));
    let capture = Capture::start(&client, &[]);
    // Nobody has this address, so nothing but ARP leaves.
    let mut python = client.command("python3");
    python.args([
        "-c",
        "import socket; socket.socket(2, 2).sendto(b'x', ('10.77.0.99', 9))",
    ]);
    run(python);
    let captured = capture.stop();
    assert_fails("talked past", || captured.assert_only_to(&[other.addr(9)]));
}

#[test]
fn a_host_that_talks_to_nobody_is_silent() {
    let Some(mut world) = World::build() else {
        return;
    };
    let client = world.host("client", 2);
    let capture = Capture::start(&client, &[]);
    let other = world.host("other", 11);
    let mut python = client.command("python3");
    python.args([
        "-c",
        "import socket; socket.socket(2, 2).bind(('127.0.0.1', 0))",
    ]);
    run(python);
    capture.stop().assert_only_to(&[]);
    assert!(!other.owns(client.ip4.into()));
}

#[test]
fn conversations_with_allowed_peers_pass() {
    let Some(mut world) = World::build() else {
        return;
    };
    let (client, guard) = (world.host("client", 2), world.host("guard", 11));
    let capture = Capture::start(&client, &[]);
    for to in [guard.addr(9), guard.addr6(9)] {
        let connect = "import socket, sys\ntry: socket.create_connection((sys.argv[1], 9))\nexcept ConnectionRefusedError: pass";
        let mut python = client.command("python3");
        python.args(["-c", connect, &to.ip().to_string()]);
        run(python);
    }
    let captured = capture.stop();
    captured.assert_only_to(&[guard.addr(9), guard.addr6(9)]);
    assert_eq!(captured.sent("tcp").len(), 2, "one flow for each family");
    let strangers: [SocketAddr; 1] = [guard.addr(10)];
    assert!(!captured.strays(&strangers).is_empty());
}

#[test]
fn what_runs_in_a_world_ends_with_it() {
    let Some(mut world) = World::build() else {
        return;
    };
    let client = world.host("client", 2);
    let mut command = client.command("sh");
    command.args(["-c", "echo inside; exec sleep 600"]);
    let mut sleep = command.stdout(Stdio::piped()).spawn().unwrap();
    // Before that it may still be on its way in.
    let mut said = [0; 7];
    sleep
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    drop(world);
    assert!(
        !sleep.wait().unwrap().success(),
        "it was killed, not finished"
    );
}
