use proptest::prelude::*;

use super::*;

const HASH: Id = [9; 20];

fn from() -> SocketAddr {
    "33.1.0.2:4000".parse().unwrap()
}

fn nodes(count: u8) -> Nodes {
    let contacts = (0..count).map(|n| {
        let addr = SocketAddr::new([22, 30 + n, 0, 1].into(), 6881);
        Contact {
            id: id_for(addr.ip(), [n; 20]),
            addr,
        }
    });
    let peers = [
        "22.2.0.1:6881".parse().unwrap(),
        "[2a77::2]:6881".parse().unwrap(),
    ];
    Nodes::new([5; 32], contacts.collect(), HASH, &peers)
}

fn ask(nodes: &mut Nodes, query: &str, args: &str) -> Vec<u8> {
    let text = format!(
        "d1:ad2:id20:aaaaaaaaaaaaaaaaaaaa{args}e1:q{}:{query}1:t2:xy1:v4:LT\x01\x021:y1:qe",
        query.len()
    );
    nodes.handle(0, from(), text.as_bytes()).unwrap().0
}

fn field<'a>(answer: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let [r] = Value::parse(answer).unwrap().fields(["r"]).unwrap();
    let [value] = r.unwrap().fields([key]).unwrap();
    value.map(|value| value.as_bytes().unwrap_or(value.raw()))
}

#[test]
fn ids_of_the_specification_fit_their_addresses() {
    // The examples of BEP 42.
    for (ip, start, last) in [
        ([124, 31, 75, 21], [0x5f, 0xbf, 0xbf], 1),
        ([21, 75, 31, 124], [0x5a, 0x3c, 0xe9], 86),
        ([65, 23, 51, 170], [0xa5, 0xd4, 0x32], 22),
        ([84, 124, 73, 14], [0x1b, 0x03, 0x21], 65),
        ([43, 213, 53, 83], [0xe5, 0x6f, 0x6c], 90),
    ] {
        let mut id = [0; 20];
        id[..3].copy_from_slice(&start);
        id[19] = last;
        assert!(is_from(&id, ip.into()), "{ip:?}");
        id[2] ^= 0x08;
        assert!(!is_from(&id, ip.into()));
        assert!(is_from(&id_for(ip.into(), [7; 20]), ip.into()));
    }
    // Also where BEP 42 lets a node have any id.
    assert!(!is_from(&[0x5a; 20], [10, 0, 0, 1].into()));
    let six = "2a77::2".parse().unwrap();
    assert!(is_from(&id_for(six, [7; 20]), six));
}

#[test]
fn a_search_finds_near_nodes_and_the_peer_of_its_family() {
    let mut nodes = nodes(20);
    let answer = ask(&mut nodes, "find_node", "6:target20:bbbbbbbbbbbbbbbbbbbb");
    assert_eq!(field(&answer, "nodes").unwrap().len(), 8 * 26);
    let answer = ask(
        &mut nodes,
        "get_peers",
        "9:info_hash20:\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t",
    );
    assert_eq!(
        field(&answer, "values").unwrap(),
        b"l6:\x16\x02\x00\x01\x1a\xe1e"
    );
    let token = field(&answer, "token").unwrap();
    assert_eq!(token.len(), 8);
    let other = ask(
        &mut nodes,
        "get_peers",
        "9:info_hash20:bbbbbbbbbbbbbbbbbbbb",
    );
    assert!(field(&other, "values").is_none());
}

#[test]
fn an_announce_needs_the_token_of_its_own_address() {
    let mut nodes = nodes(3);
    let good = nodes.token(from().ip());
    let announce = |token: &[u8]| {
        let mut out = b"d1:ad2:id20:aaaaaaaaaaaaaaaaaaaa9:info_hash20:".to_vec();
        out.extend(HASH);
        out.extend(b"4:porti7000e5:token8:");
        out.extend(token);
        out.extend(b"e1:q13:announce_peer1:t2:xy1:y1:qe");
        out
    };
    let (refused, asked) = nodes.handle(1, from(), &announce(b"01234567")).unwrap();
    assert!(refused.starts_with(b"d1:eli203e"));
    assert_eq!(asked.unwrap().port, Some(7000));
    assert_eq!(nodes.peers.len(), 2);
    let (taken, _) = nodes.handle(1, from(), &announce(&good)).unwrap();
    assert_eq!(field(&taken, "id").unwrap(), nodes.nodes[1].id);
    assert!(nodes.peers.contains(&"33.1.0.2:7000".parse().unwrap()));
}

#[test]
fn what_is_no_query_gets_no_answer() {
    let mut nodes = nodes(2);
    for bytes in [
        &b"d1:rd2:id20:aaaaaaaaaaaaaaaaaaaae1:t1:a1:y1:re"[..],
        b"",
        b"le",
        b"d1:y1:qe",
    ] {
        assert!(nodes.handle(0, from(), bytes).is_none());
    }
    assert!(ask(&mut nodes, "vote", "").starts_with(b"d1:eli204e"));
}

proptest! {
    #[test]
    fn any_bytes_are_answered_or_dropped(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Some((answer, _)) = nodes(2).handle(0, from(), &bytes) {
            prop_assert!(Value::parse(&answer).is_ok());
        }
    }
}
