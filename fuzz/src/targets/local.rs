//! Targets that read what comes from this computer: programs in the jail, files of rules and of clients, the leak test's world.

use std::net::SocketAddr;
use std::path::Path;

use hushswarm::bencode::Value;
use hushswarm::cli::doctor::{settings::Client, sockets};
use hushswarm::cli::leaktest;
use hushswarm::config::{Routes, TorFile};
use hushswarm::hidden::GuestKey;
use hushswarm::jail::dns::{Decision, decide};
use hushswarm::jail::names::{SharedNames, is_virtual};
use hushswarm::onion::OnionKey;
use hushswarm::route::policy::{Policy, Verdict};
use hushswarm::torrent::magnet::Magnet;
use hushswarm_circuits::keys::DhSecret;
use hushswarm_circuits::relay_list::Proto;
use hushswarm_circuits::target::Target;

use super::HASH;

/// A question that a program in a jail asks, twice: an answer is short, carries the question's number, and is the same
/// again; what is asked outside is no address of the jail's own.
pub fn jail_query(input: &[u8]) {
    let names = SharedNames::default();
    let first = decide(&names, "cage", input);
    match &first {
        Decision::Drop => {}
        Decision::Answer(answer) => {
            assert!(answer.len() <= 512 && answer[..2] == input[..2] && answer[2] & 0x80 != 0);
        }
        Decision::WhoIs(ip) => assert!(!is_virtual(*ip) && !ip.is_loopback()),
    }
    assert_eq!(decide(&names, "cage", input), first);
}

/// Configuration files of BitTorrent clients, and the kernel's tables of sockets, as the doctor reads them.
pub fn client_files(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    for (client, _) in Client::PLACES {
        assert!(!client.check(&text).is_empty());
    }
    for socket in sockets::parse(&text) {
        let _ = (socket.is_open(), socket.leaves());
    }
}

/// A frame of the leak test's capture.
pub fn leaktest_classify(input: &[u8]) {
    let _ = leaktest::classify::packet(input);
}

/// A datagram to a node of the leak test's DHT.
pub fn leaktest_dht(input: &[u8]) {
    use leaktest::dht::{Contact, Nodes, id_for};
    let from = SocketAddr::from(([33, 10, 0, 2], 4000));
    let addr = SocketAddr::from(([22, 101, 0, 1], 6881));
    let id = id_for(addr.ip(), [7; 20]);
    let mut nodes = Nodes::new([1; 32], vec![Contact { id, addr }], HASH, &[addr]);
    if let Some((answer, _)) = nodes.handle(0, from, input) {
        assert!(Value::parse(&answer).is_ok());
    }
}

/// A datagram to the leak test's name server.
pub fn leaktest_dns(input: &[u8]) {
    if let Some(question) = leaktest::dns::Question::parse(input) {
        let answer = question.answer(Some(&[[22, 1, 0, 1].into()]));
        assert_eq!(answer[..2], input[..2]);
    }
}

/// What a peer sends to the leak test's seeding peer.
pub fn leaktest_peek(input: &[u8]) {
    let (mut whole, mut cut) = (
        leaktest::peek::Peek::default(),
        leaktest::peek::Peek::default(),
    );
    whole.read(input);
    for byte in input {
        cut.read(std::slice::from_ref(byte));
    }
    assert!(whole.said() == cut.said());
}

/// A datagram to the leak test's UDP tracker.
pub fn leaktest_udp_tracker(input: &[u8]) {
    let from = SocketAddr::from(([33, 10, 0, 2], 4000));
    let tracker = leaktest::udp_tracker::UdpTracker::new([3; 32], HASH, vec![from]);
    if let Some((answer, _)) = tracker.handle(from, input) {
        assert_eq!(answer[4..8], input[12..16]);
    }
}

/// Routes files. Whatever one says, nothing private and no onion name gets a circuit.
pub fn routes_file(input: &[u8]) {
    const NEVER: &[&str] = &[
        "127.0.0.1",
        "10.0.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "224.0.0.251",
        "0.0.0.0",
        "::1",
        "::ffff:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "fd00::1",
        "fe80::1",
        "ff02::1",
        "localhost",
        "127.1",
        "a.b.onion",
        "A.ONION.",
    ];
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let Ok(routes) = Routes::parse(text, Path::new("routes.toml")) else {
        return;
    };
    let policy = Policy::new(routes);
    for host in NEVER {
        for proto in [Proto::Tcp, Proto::Udp] {
            let target = Target::parse(host, 443).expect("a good host");
            let verdict = policy.decide(proto, &target);
            assert!(!matches!(verdict, Verdict::Circuit { .. }), "{host}");
        }
    }
}

/// Tor files. One that names a network of its own names it whole.
pub fn tor_file(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let Ok(file) = TorFile::parse(text, Path::new("tor.toml")) else {
        return;
    };
    if let Some(network) = &file.network {
        assert!(!network.authorities.is_empty() && !network.fallbacks.is_empty());
    }
}

/// The key of a visitor to a hidden seed, as `--allow` reads it.
pub fn visitor_key(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(key) = text.parse::<GuestKey>() {
        assert!(key.to_string().eq_ignore_ascii_case(text.trim()));
    }
    if let Some(secret) = input.first_chunk::<32>() {
        let key = GuestKey::from(&DhSecret::from_bytes(*secret));
        assert_eq!(key.to_string().parse(), Ok(key));
    }
}

/// The name of an onion service.
pub fn onion_address(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Some(key) = OnionKey::parse(&text) {
        assert_eq!(key.address(), text.to_ascii_lowercase());
    }
    if let Some(key) = input.first_chunk() {
        assert_eq!(
            OnionKey::parse(&OnionKey(*key).address()),
            Some(OnionKey(*key))
        );
    }
}

/// Magnet links (BEP 9).
pub fn magnet(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(magnet) = Magnet::parse(text) {
        assert!(Magnet::parse(&magnet.to_string()).is_ok_and(|again| again == magnet));
    }
}
