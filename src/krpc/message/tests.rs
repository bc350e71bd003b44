use hushswarm_circuits::keys::IdentityKey;
use proptest::prelude::*;

use super::node::{Answer, Asked, refuse};
use super::*;

const OWN: Id = Id(*b"abcdefghij0123456789");
const OTHER: Id = Id(*b"mnopqrstuvwxyz123456");

fn encoded(query: &Query<'_>) -> String {
    String::from_utf8(query.encode(b"aabb", &OWN)).unwrap()
}

#[test]
fn queries_are_those_of_bep_5_from_a_read_only_node() {
    // BEP 5's examples, with `ro` (BEP 43) and a longer transaction id.
    assert_eq!(
        encoded(&Query::Ping),
        "d1:ad2:id20:abcdefghij0123456789e1:q4:ping2:roi1e1:t4:aabb1:y1:qe"
    );
    assert_eq!(
        encoded(&Query::FindNode { target: OTHER }),
        "d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q9:find_node2:roi1e1:t4:aabb1:y1:qe"
    );
    assert_eq!(
        encoded(&Query::GetPeers { info_hash: OTHER }),
        "d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz123456e1:q9:get_peers2:roi1e1:t4:aabb1:y1:qe"
    );
    assert_eq!(
        encoded(&Query::AnnouncePeer {
            info_hash: OTHER,
            port: 6881,
            token: b"aoeusnth"
        }),
        "d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz1234564:porti6881e5:token8:aoeusnthe\
         1:q13:announce_peer2:roi1e1:t4:aabb1:y1:qe"
    );
    let item = Item::immutable(b"i5e").unwrap();
    assert_eq!(
        encoded(&Query::Put {
            token: b"t",
            item: Cow::Owned(item)
        }),
        "d1:ad2:id20:abcdefghij01234567895:token1:t1:vi5ee1:q3:put2:roi1e1:t4:aabb1:y1:qe"
    );
}

#[test]
fn nothing_in_a_query_tells_programs_apart() {
    let item = Item::sign(&IdentityKey::from_seed([1; 32]), b"salt", 3, b"i5e").unwrap();
    for query in [
        Query::Ping,
        Query::FindNode { target: OTHER },
        Query::GetPeers { info_hash: OTHER },
        Query::AnnouncePeer {
            info_hash: OTHER,
            port: 1,
            token: b"t",
        },
        Query::Get { target: OTHER },
        Query::Put {
            token: b"t",
            item: Cow::Owned(item.with_cas(Some(2))),
        },
    ] {
        let bytes = query.encode(b"aabb", &OWN);
        let message = Value::parse(&bytes).unwrap();
        assert!(message.keys_sorted());
        let keys: Vec<_> = message.as_dict().unwrap().map(|(key, _)| key).collect();
        assert_eq!(keys, [&b"a"[..], b"q", b"ro", b"t", b"y"]);
        let [arguments] = message.fields(["a"]).unwrap();
        for (key, _) in arguments.unwrap().as_dict().unwrap() {
            let key = std::str::from_utf8(key).unwrap();
            let known = [
                "cas",
                "id",
                "info_hash",
                "k",
                "port",
                "salt",
                "seq",
                "sig",
                "target",
                "token",
                "v",
            ];
            assert!(known.contains(&key), "{key}");
        }
    }
}

#[test]
fn answers_of_bep_5_are_read() {
    let bytes = b"d1:rd2:id20:abcdefghij01234567895:token8:aoeusnth6:valuesl6:axje.u6:idhtnmee1:t2:aa1:y1:re";
    let (transaction, reply) = Reply::decode(bytes).unwrap();
    assert_eq!(transaction, b"aa");
    let Reply::Response(response) = reply else {
        panic!("an answer");
    };
    assert_eq!((response.id, response.token), (OWN, Some(&b"aoeusnth"[..])));
    let peers: Vec<_> = response.peers(Family::V4).collect();
    let wanted = ["97.120.106.101:11893", "105.100.104.116:28269"];
    assert_eq!(peers, wanted.map(|peer| peer.parse().unwrap()));
    assert_eq!(
        (
            response.peers(Family::V6).count(),
            response.nodes(Family::V4).count()
        ),
        (0, 0)
    );
    assert!(response.item(&ItemName::immutable(b"")).is_none());

    let bytes = b"d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee";
    assert!(matches!(
        Reply::decode(bytes),
        Ok((b"aa", Reply::Error(201)))
    ));
}

#[test]
fn what_is_no_answer_is_none() {
    for bytes in [
        &b""[..],
        b"i1e",
        b"de",
        b"d1:t2:aa1:y1:re",
        b"d1:rde1:t2:aa1:y1:re",
        b"d1:rd2:id19:abcdefghij012345678e1:t2:aa1:y1:re",
        b"d1:rd2:id20:abcdefghij0123456789e1:y1:re",
        b"d1:rd2:id20:abcdefghij0123456789e1:ti5e1:y1:re",
        b"d1:rd2:id20:abcdefghij0123456789e1:t2:aae",
        b"d1:rd2:id20:abcdefghij0123456789e1:t2:aa1:y1:xe",
        b"d1:ele1:t2:aa1:y1:ee",
        b"d1:el4:texte1:t2:aa1:y1:ee",
    ] {
        assert!(Reply::decode(bytes).is_err(), "{}", bytes.escape_ascii());
    }
    let query = Query::Ping.encode(b"aabb", &OWN);
    assert!(matches!(
        Reply::decode(&query),
        Err(MessageError::OtherKind)
    ));
    assert_eq!(transaction_of(&query), None);
    let long = Answer {
        token: Some(&[0; MAX_MESSAGE]),
        ..Answer::default()
    }
    .encode(b"aabb", &OWN);
    assert!(matches!(Reply::decode(&long), Err(MessageError::TooLong)));
}

#[test]
fn a_token_that_is_too_long_is_none() {
    for (len, kept) in [(0, true), (MAX_TOKEN, true), (MAX_TOKEN + 1, false)] {
        let bytes = Answer {
            token: Some(&vec![7; len]),
            ..Answer::default()
        }
        .encode(b"aabb", &OWN);
        let (_, Reply::Response(response)) = Reply::decode(&bytes).unwrap() else {
            panic!("an answer");
        };
        assert_eq!(response.token.is_some(), kept, "{len}");
    }
}

#[test]
fn transactions_are_found_without_reading_the_rest() {
    let answer = Answer::default().encode(b"aabb", &OWN);
    assert_eq!(transaction_of(&answer), Some(*b"aabb"));
    assert_eq!(
        transaction_of(&refuse(b"xxyy", 203, "bad token")),
        Some(*b"xxyy")
    );
    assert_eq!(
        transaction_of(&Answer::default().encode(b"aab", &OWN)),
        None
    );
    assert_eq!(transaction_of(b"junk"), None);
}

fn items() -> impl Strategy<Value = Item> {
    let salts = prop::collection::vec(any::<u8>(), 0..=64);
    (
        any::<Option<[u8; 32]>>(),
        salts,
        0..i64::MAX,
        any::<i32>(),
        any::<Option<i64>>(),
    )
        .prop_map(|(seed, salt, seq, value, cas)| {
            let value = format!("i{value}e").into_bytes();
            match seed {
                None => Item::immutable(&value).unwrap(),
                Some(seed) => Item::sign(&IdentityKey::from_seed(seed), &salt, seq, &value)
                    .unwrap()
                    .with_cas(cas),
            }
        })
}

proptest! {
    #[test]
    fn queries_are_read_as_they_are_written(own: [u8; 20], id: [u8; 20], port: u16, transaction: [u8; 4],
        token in prop::collection::vec(any::<u8>(), 0..=MAX_TOKEN), item in items()) {
        let (own, id) = (Id(own), Id(id));
        for query in [
            Query::Ping,
            Query::FindNode { target: id },
            Query::GetPeers { info_hash: id },
            Query::AnnouncePeer { info_hash: id, port, token: &token },
            Query::Get { target: id },
            Query::Put { token: &token, item: Cow::Owned(item) },
        ] {
            let bytes = query.encode(&transaction, &own);
            let asked = Asked::decode(&bytes).unwrap();
            prop_assert!(asked.query == query && asked.read_only);
            prop_assert_eq!((asked.transaction, asked.id), (&transaction[..], own));
        }
    }

    #[test]
    fn answers_are_read_as_they_are_written(own: [u8; 20], nodes in prop::collection::vec((any::<[u8; 20]>(), any::<[u8; 4]>(), any::<u16>()), 0..9),
        peers in prop::collection::vec((any::<[u8; 4]>(), any::<u16>()), 0..100), item in items()) {
        let nodes: Vec<Contact> = nodes.into_iter().map(|(id, ip, port)| Contact { id: Id(id), addr: (ip, port).into() }).collect();
        let peers: Vec<SocketAddr> = peers.into_iter().map(SocketAddr::from).collect();
        let bytes = Answer { nodes: &nodes, peers: &peers, token: Some(b"t"), item: Some(&item) }.encode(b"aabb", &Id(own));
        let (transaction, reply) = Reply::decode(&bytes).unwrap();
        prop_assert_eq!(transaction, b"aabb");
        let Reply::Response(response) = reply else { panic!("an answer") };
        prop_assert_eq!(response.id, Id(own));
        prop_assert_eq!(response.nodes(Family::V4).collect::<Vec<_>>(), nodes);
        prop_assert_eq!(response.peers(Family::V4).collect::<Vec<_>>(), peers);
        prop_assert_eq!(response.item(&item.name()), Some(Ok(item.with_cas(None))));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..200_usize, to: u8) {
        let _ = (Reply::decode(&bytes).is_ok(), Asked::decode(&bytes).is_ok(), transaction_of(&bytes));
        let mut answer = Answer { nodes: &[Contact { id: OWN, addr: ([8, 8, 8, 8], 1).into() }], token: Some(b"t"), ..Answer::default() }
            .encode(b"aabb", &OTHER);
        let len = answer.len();
        answer[at % len] = to;
        if let Ok((_, Reply::Response(response))) = Reply::decode(&answer) {
            let _ = (response.nodes(Family::V4).count(), response.peers(Family::V4).count(), response.item(&ItemName::immutable(b"")));
        }
    }
}
