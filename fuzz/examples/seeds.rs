//! Writes the seed corpora: `cargo run --example seeds` in `fuzz/`. A target gets good input to start from; the fuzzer
//! finds the bad.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use hushswarm::bencode;
use hushswarm::config::{NetworkFile, ROUTES_EXAMPLE, RelayConfig};
use hushswarm::guests::tracker::{Token, Tracker};
use hushswarm::onion::OnionKey;
use hushswarm::torrent::extension::{self, Exchange, MetadataMessage};
use hushswarm::torrent::gossip::{OnionPeer, Onions};
use hushswarm::torrent::infohash::InfoHash;
use hushswarm::torrent::magnet::Magnet;
use hushswarm::torrent::metainfo::{Builder, PieceHashes, Version};
use hushswarm::torrent::pex::PeerExchange;
use hushswarm::torrent::wire::{BlockRef, Handshake, MessageRef};
use hushswarm_circuits::body::{
    ExtendRequest, ExtendStatus, Extended, OpenKind, OpenRequest, put_record,
};
use hushswarm_circuits::dht as lookups;
use hushswarm_circuits::frame::{Class, FrameType, Header};
use hushswarm_circuits::keys::{IdentityKey, RelayId, Suite};
use hushswarm_circuits::lookup::Answer;
use hushswarm_circuits::path::PathRules;
use hushswarm_circuits::relay_list::{
    Descriptor, Draft, ExitPolicy, LinkService, RelayInfo, Roles,
};
use hushswarm_circuits::rendezvous::{Contact, IntroductionId, Point};
use hushswarm_circuits::target::{HostName, Target};
use hushswarm_fuzz::targets::{HASH, NOW, authority};

#[path = "seeds/krpc.rs"]
mod krpc;
#[path = "seeds/meetings.rs"]
mod meetings;
#[path = "seeds/streams.rs"]
mod streams;
#[path = "seeds/trees.rs"]
mod trees;
#[path = "seeds/visits.rs"]
mod visits;
#[path = "seeds/web.rs"]
mod web;

const DAY: u64 = 86_400;

fn main() -> std::io::Result<()> {
    for (target, seeds) in all() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(target);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds {
            fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}

type Seeds = Vec<(&'static str, Vec<u8>)>;

/// Routes of every kind.
const ROUTES: &str = "default = 'refuse'\nrefuse_ports = [25, '135-139']\n\
    [[rule]]\nhost = ['*.example.org', '8.8.0.0/16', '[2606::]/16', '*']\nport = [80, '1-9']\naction = 'circuit'\nhops = 2\n\
    [[rule]]\nhost = '*.onion'\nproto = 'tcp'\naction = 'tor'\n\
    [[rule]]\nproto = 'udp'\naction = 'refuse'\n";

fn all() -> Vec<(&'static str, Seeds)> {
    let identity = IdentityKey::from_seed([5; 32]);
    let descriptor = relay(&identity);
    let mut draft =
        Draft::new("test", NOW - DAY, NOW + DAY, vec![descriptor.clone()]).expect("a good list");
    draft.sign(&authority());
    let list = draft.encode().expect("a signed list");
    // One count byte, one authority, one signature: what the target adds itself.
    let unsigned = list[..list.len() - 97].to_vec();
    let policy =
        "accept tcp 127.0.0.0/8:1-65535\nreject * [2001:db8::]/32:*\nreject * *:25\npublic";
    vec![
        ("bencode", bencodes()),
        ("descriptor", vec![("relay", descriptor.bytes().to_vec())]),
        ("dht_records", dht_answers()),
        ("dht_request", dht_requests()),
        ("dns_reply", dns_replies()),
        ("encrypted_stream", streams::encrypted()),
        (
            "exit_policy",
            vec![("public", b"public".to_vec()), ("rules", policy.into())],
        ),
        ("extension", extensions()),
        ("feed", meetings::feeds()),
        ("frame_header", headers()),
        ("guest_scrub", visits::visits()),
        ("guest_tracker", guest_requests()),
        ("hash_trees", trees::hash_requests()),
        ("hidden_item", meetings::hidden_items()),
        ("hop_handshake", handshakes()),
        ("http_proxy", http_requests()),
        ("http_tracker", announces()),
        ("introduction", disturbances()),
        ("jail_query", questions()),
        ("krpc_item", krpc::items()),
        ("krpc_lookup", krpc::lookups()),
        ("krpc_message", krpc::messages()),
        ("layers", disturbances()),
        ("leaktest_classify", captured()),
        ("leaktest_dht", krpc()),
        ("leaktest_dns", asked()),
        ("leaktest_peek", vec![("handshakes", said())]),
        ("leaktest_udp_tracker", tracked()),
        ("link_frame", disturbances()),
        ("link_handshake", handshakes()),
        ("lookup_answer", lookups()),
        ("magnet", magnets()),
        ("meeting_records", meetings::meeting_records()),
        ("meeting_request", meetings::meeting_requests()),
        ("meeting_work", meetings::meeting_works()),
        ("metainfo", torrents()),
        ("mux_body", bodies()),
        (
            "network_file",
            vec![("network", network_file().into_bytes())],
        ),
        ("onion_gossip", gossip()),
        ("origin", answers()),
        (
            "peer",
            vec![
                ("fast", [&[3][..], &streams::fast_messages()].concat()),
                ("messages", [&[3][..], &streams::messages()].concat()),
                ("pex", [&[11][..], &streams::messages()].concat()),
            ],
        ),
        ("peer_exchange", exchange()),
        ("relay_config", relay_configs()),
        ("relay_list", vec![("signed", list), ("unsigned", unsigned)]),
        (
            "routes_file",
            vec![("example", ROUTES_EXAMPLE.into()), ("rules", ROUTES.into())],
        ),
        ("scrape", web::scrapes()),
        (
            "sealed_records",
            vec![
                ("changed", [&[8][..], &[0; 3000], &[1]].concat()),
                ("others", [&[1][..], &[0; 2000]].concat()),
                ("right", vec![254]),
            ],
        ),
        ("socks_datagram", socks_datagrams()),
        ("socks_request", socks_requests()),
        ("stream_request", streams::players()),
        ("target", targets()),
        ("tracker_server", requests()),
        ("udp_tracker", vec![("exchange", udp_exchange())]),
        ("web_head", web::heads()),
        (
            "wire",
            vec![
                ("fast", [&[9][..], &streams::fast_messages()].concat()),
                ("messages", [&[15][..], &streams::messages()].concat()),
                ("hashes", trees::hash_messages()),
            ],
        ),
    ]
}

fn relay_configs() -> Seeds {
    let dht = "nickname = 'r'\nlisten = ['127.0.0.1:1']\nexit = true\n[dht]\n\
        bootstrap = ['a.example:6881', '[2001:db8::1]:1']\n[dht.limits]\nlookups = 5\n";
    vec![("dht", dht.into()), ("relay", relay_config().into_bytes())]
}

fn dht_item() -> lookups::Item {
    lookups::Item::Mutable {
        key: [1; 32],
        salt: b"salt".to_vec(),
        seq: 4,
        signature: [2; 64],
        value: b"3:abc".to_vec(),
    }
}

fn dht_requests() -> Seeds {
    let target = [7; 20];
    let salt = b"salt".to_vec();
    let item = lookups::Item::Immutable {
        value: b"3:abc".to_vec(),
    };
    let put = |item, cas| lookups::Op::Put { item, cas };
    let ops = [
        ("peers", lookups::Op::Peers { target }),
        ("get", lookups::Op::Get { target, salt }),
        ("put", put(item, None)),
        ("swap", put(dht_item(), Some(3))),
    ];
    let request = |(name, op)| {
        let family = lookups::Family::V4;
        let bytes = lookups::Request { family, op }.encode();
        (name, bytes.expect("in bounds"))
    };
    ops.into_iter().map(request).collect()
}

fn dht_answers() -> Seeds {
    let peers = ["192.0.2.1:6881", "[2001:db8::1]:6881"];
    let peers = peers.map(|peer| peer.parse().expect("an address"));
    let records = [
        lookups::Record::Peers(peers.to_vec()),
        lookups::Record::Item(dht_item()),
        lookups::Record::End(lookups::Summary::default()),
    ];
    let records = records.iter().map(|record| record.encode());
    let whole: Vec<u8> = records
        .flat_map(|bytes| bytes.expect("in bounds"))
        .collect();
    vec![
        ("small", [&[3][..], &whole].concat()),
        ("whole", [&[255][..], &whole].concat()),
    ]
}

fn dns_replies() -> Seeds {
    // Flags and counts; then the answers, whose owner is the question's name.
    let head = |answers: u8| vec![0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0];
    let record = |kind: u8, data: &[u8]| {
        let len = u8::try_from(data.len()).expect("a short record");
        [&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, len][..], data].concat()
    };
    let name = record(12, b"\x04host\x07example\x00");
    // An alias to itself, then a name.
    let alias = record(5, &[0xc0, 12]);
    vec![
        ("name", [head(1), name.clone()].concat()),
        ("alias", [head(2), alias, name].concat()),
        ("missing", vec![0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0]),
    ]
}

fn questions() -> Seeds {
    let question = |name: &str, kind: u8, edns: bool| {
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).expect("a short label"));
            query.extend_from_slice(label.as_bytes());
        }
        query.extend_from_slice(&[0, 0, kind, 0, 1]);
        if edns {
            query.extend_from_slice(&[0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
        }
        query
    };
    let six = format!("8.{}8.8.8.4.0.6.8.4.1.0.0.2.ip6.arpa", "0.".repeat(19));
    vec![
        ("address", question("tracker.example", 1, true)),
        ("any", question("a.onion", 255, false)),
        ("owner", question("8.8.8.8.in-addr.arpa", 12, false)),
        ("owner6", question(&six, 12, false)),
    ]
}

fn lookups() -> Seeds {
    let ips = ["192.0.2.1", "2001:db8::1"].map(|ip| (ip.parse().expect("an address"), 60));
    let name = HostName::new("host.example").expect("a good name");
    vec![
        ("addresses", Answer::Addresses(ips.to_vec()).encode()),
        ("name", Answer::Name(name, 60).encode()),
    ]
}

fn relay(identity: &IdentityKey) -> Descriptor {
    let info = RelayInfo {
        identity: identity.public(),
        onion: [1; 32],
        link: [2; 32],
        suite: Suite::Aes256Gcm,
        roles: Roles {
            guard: true,
            exit: true,
            list: true,
            dht: true,
            introduce: true,
        },
        bandwidth: 1000,
        nickname: "relay-1".to_owned(),
        family: "family".to_owned(),
        addresses: vec![SocketAddr::from(([11, 0, 0, 1], 4443))],
        link_service: Some(LinkService {
            key: identity.public().0,
            port: 4443,
        }),
        policy: ExitPolicy::public(),
        published: NOW - DAY,
        expires: NOW + DAY,
    };
    info.sign(identity).expect("a good descriptor")
}

fn network_file() -> String {
    let file = NetworkFile {
        name: "test".to_owned(),
        authorities: vec![authority().public()],
        threshold: 1,
        list: "relays.list".into(),
        rules: PathRules::default(),
    };
    file.to_toml().expect("a good file")
}

fn relay_config() -> String {
    let config = RelayConfig::new(
        "relay-1".to_owned(),
        vec![SocketAddr::from(([11, 0, 0, 1], 4443))],
    );
    config.to_toml().expect("a good configuration")
}

fn headers() -> Seeds {
    let header = |kind, class, circuit| {
        Header {
            circuit,
            kind,
            class,
            credit: 0,
        }
        .encode()
        .to_vec()
    };
    vec![
        ("data", header(FrameType::Data, Class::Bulk, 7)),
        ("ping", header(FrameType::Ping, Class::Small, 0)),
        ("create", header(FrameType::Create, Class::Bulk, 1)),
    ]
}

fn targets() -> Seeds {
    let encoded = |host: &str| {
        let mut out = Vec::new();
        Target::parse(host, 443)
            .expect("a good host")
            .encode(&mut out);
        out
    };
    vec![
        ("v4", encoded("192.0.2.1")),
        ("v6", encoded("2001:db8::1")),
        ("name", encoded("tracker.example")),
        ("text", b"[2001:db8::1]".to_vec()),
    ]
}

fn handshakes() -> Seeds {
    vec![
        ("intact", vec![0, 0, 0]),
        ("answer", vec![1, 0, 1]),
        ("garbage", vec![2, 1, 2, 3]),
    ]
}

fn disturbances() -> Seeds {
    vec![
        ("intact", vec![0x14, 0]),
        ("header", vec![0x14, 1]),
        ("slot", [vec![0x2c], vec![0; 40], vec![1]].concat()),
        ("backward", [vec![0x94], vec![0; 60], vec![1]].concat()),
    ]
}

fn bodies() -> Seeds {
    let step = |command: u8, stream: u8, payload: &[u8]| {
        // Lengths go in steps of 16, so payloads are padded.
        let blocks = payload.len().div_ceil(16);
        let mut out = vec![
            command,
            stream,
            u8::try_from(blocks).expect("a short payload"),
        ];
        out.extend_from_slice(payload);
        out.resize(3 + blocks * 16, 0);
        out
    };
    let web = Target::parse("192.0.2.1", 80).expect("a good host");
    let open = OpenRequest {
        kind: OpenKind::Tcp,
        target: Some(web.clone()),
    }
    .encode();
    let extend = ExtendRequest {
        identity: [1; 32],
        digest: [2; 32],
        message: vec![3; 64],
    }
    .encode();
    let extended = Extended {
        status: ExtendStatus::Done,
        answer: vec![4; 64],
    }
    .encode();
    let mut record = Vec::new();
    put_record(&mut record, &web, b"datagram").expect("a short datagram");
    let hop: Vec<u8> = (0..12)
        .flat_map(|command| step(command | 0x80, 1, &open))
        .collect();
    let origin: Vec<u8> = (0..12)
        .flat_map(|command| step(command | 0x80, 1, &[0]))
        .collect();
    vec![
        ("hop", [vec![1], hop].concat()),
        ("origin", [vec![0], origin].concat()),
        ("open", [vec![1], open].concat()),
        ("extend", [vec![1], extend].concat()),
        ("extended", [vec![0], extended].concat()),
        ("record", [vec![0], record].concat()),
    ]
}

fn answers() -> Seeds {
    let honest = [0, 0, 0, 0];
    let extended = [2, 7, 0, 3, 0, 0, 0];
    let data = [2, 2, 1, 1, 9];
    vec![
        ("extended", [&honest[..], &extended].concat()),
        ("early", [&data[..], &honest].concat()),
        ("silent", [&honest[..], &[5, 0, 0, 0]].concat()),
        ("destroyed", [&honest[..], &[4, 1, 0, 0], &honest].concat()),
    ]
}

fn bencodes() -> Seeds {
    vec![
        ("nested", b"d1:ad1:bli1ei-2ee4:spam0:eee".to_vec()),
        ("list", b"li0e3:abcle".to_vec()),
        ("negative", b"i-9223372036854775808e".to_vec()),
    ]
}

fn torrents() -> Seeds {
    let files = vec![
        (vec!["a".to_owned()], 40_000),
        (vec!["b".to_owned(), "c".to_owned()], 5),
    ];
    let mut builder = Builder::new("folder".to_owned(), files);
    builder.piece_len = 32768;
    let made = |version, v1: usize| {
        let hashes = PieceHashes {
            v1: vec![[9; 20]; v1],
            v2: vec![[8; 32]; 3],
        };
        let builder = builder.clone().for_version(version);
        builder.finish_with(hashes).expect("a good torrent").1
    };
    let (hybrid, v2) = (made(Version::Hybrid, 3), made(Version::V2, 0));
    let (metainfo, file) = builder.finish(vec![[9; 20]; 2]).expect("a good torrent");
    let evil = b"d4:infod5:filesld6:lengthi1e4:pathl2:..1:xeee4:name1:n12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaaee";
    vec![
        ("folder", file),
        ("info", metainfo.info.bytes.to_vec()),
        ("parent", evil.to_vec()),
        ("hybrid", hybrid),
        ("v2", v2),
    ]
}

fn magnets() -> Seeds {
    let hex = "5a".repeat(20);
    vec![
        ("plain", format!("magnet:?xt=urn:btih:{hex}").into_bytes()),
        (
            "full",
            format!(
                "magnet:?xt=urn:btih:{hex}&dn=a%20name&tr=udp%3A%2F%2Ft.example%3A80&x.pe=192.0.2.1:6881&so=0,2-4"
            )
            .into_bytes(),
        ),
        ("base32", b"magnet:?xt=urn:btih:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_vec()),
        (
            "v2",
            format!("magnet:?xt=urn:btmh:1220{}&so=3", "5a".repeat(32)).into_bytes(),
        ),
    ]
}

fn gossip() -> Seeds {
    let peer = |byte| OnionPeer::new(OnionKey([byte; 32]), 6881);
    let onions = Onions {
        me: peer(1),
        added: (2..5).filter_map(peer).collect(),
        ..Onions::default()
    };
    let contact = |byte, points: u8| {
        let point = |n| Point {
            relay: RelayId([n; 32]),
            introduction: IntroductionId([n; 32]),
        };
        Contact::new([byte; 32], (0..points).map(point).collect()).ok()
    };
    let seeds = Onions {
        seed: contact(1, 2),
        seeds: (2..5).filter_map(|byte| contact(byte, byte)).collect(),
        ..Onions::default()
    };
    vec![
        ("seeds", seeds.encode()),
        ("onions", onions.encode()),
        ("nobody", Onions::default().encode()),
    ]
}

fn some_peers() -> PeerExchange {
    let peers = ["11.0.0.1:6881", "11.0.0.2:1", "[2a00::1]:51413"];
    PeerExchange {
        added: peers.iter().filter_map(|peer| peer.parse().ok()).collect(),
    }
}

fn exchange() -> Seeds {
    vec![
        ("peers", some_peers().encode()),
        ("nobody", PeerExchange::default().encode()),
        ("old", b"d5:added6:\x0b\0\0\x01\x1a\xe1e".to_vec()),
    ]
}

fn extensions() -> Seeds {
    let mut entries = Vec::new();
    bencode::put_dict(&mut entries, |dict| bencode::put_int(dict.key("piece"), 1));
    vec![
        (
            "handshake",
            extension::handshake(Some(20_000), Exchange::Public),
        ),
        ("onions", extension::handshake(None, Exchange::Onions)),
        ("request", MetadataMessage::Request(1).encode()),
        (
            "data",
            MetadataMessage::Data {
                piece: 0,
                total_size: 4,
                data: b"data",
            }
            .encode(),
        ),
        ("entries", entries),
        (
            "wire",
            Handshake::new(InfoHash(HASH), [2; 20]).encode().to_vec(),
        ),
    ]
}

fn announces() -> Seeds {
    let mut compact = b"d8:completei1e8:intervali1800e5:peers12:".to_vec();
    compact.extend_from_slice(&[192, 0, 2, 1, 26, 225, 198, 51, 100, 2, 26, 225]);
    compact.extend_from_slice(b"6:peers618:");
    compact.extend_from_slice(&[
        0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 26, 225, b'e',
    ]);
    vec![
        ("compact", compact),
        (
            "listed",
            b"d8:intervali60e5:peersld2:ip9:192.0.2.14:porti6881eeee".to_vec(),
        ),
        ("failure", b"d14:failure reason4:gonee".to_vec()),
    ]
}

fn guest_requests() -> Seeds {
    let point = Point {
        relay: RelayId([1; 32]),
        introduction: IntroductionId([2; 32]),
    };
    let tracker = Tracker::new(([127, 0, 0, 1], 6969).into(), Token::new([0; 16]));
    let link = tracker.link(&Magnet {
        hash: InfoHash(HASH),
        v2: None,
        name: None,
        trackers: Vec::new(),
        peers: Vec::new(),
        seeds: vec![Contact::new([3; 32], vec![point]).unwrap()],
        select: None,
        web_seeds: Vec::new(),
    });
    let path = |url: &str| url.replace("http://127.0.0.1:6969", "");
    let (plain, named) = (path(&tracker.url()), path(&link.trackers[0]));
    let query = format!("info_hash={}&peer_id={}", "%5A".repeat(20), "a".repeat(20));
    let head = "HTTP/1.1\r\nHost: 127.0.0.1:6969\r\nUser-Agent: aria2/1.36.0";
    let announce = format!("GET {named}&{query}&port=6881&left=1&numwant=50&compact=0 {head}");
    let scrape = format!("GET {}&{query} {head}", plain.replace("announce", "scrape"));
    let page = format!("GET {plain}&{query}&port=22 {head}\r\nOrigin: null");
    let stopped = announce.replace("compact=0", "compact=1&event=stopped");
    let several = [stopped, scrape.clone(), page].join("\0");
    vec![
        ("announce", announce.into_bytes()),
        ("scrape", scrape.into_bytes()),
        ("several", several.into_bytes()),
    ]
}

fn requests() -> Seeds {
    let announce = format!(
        "GET /announce?info_hash={}&peer_id={}&port=6881&uploaded=0&downloaded=0&left=0&compact=1 HTTP/1.1\r\nHost: t\r\n\r\n",
        "%5A".repeat(20),
        "a".repeat(20)
    );
    vec![
        ("announce", announce.clone().into_bytes()),
        (
            "twice",
            [announce.as_bytes(), b"\0", announce.as_bytes()].concat(),
        ),
    ]
}

fn udp_exchange() -> Vec<u8> {
    let step = |action: u32, payload: &[u8]| {
        let mut out = vec![u8::try_from(8 + payload.len()).expect("a short datagram")];
        out.extend_from_slice(&action.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(payload);
        out
    };
    let mut answer = Vec::new();
    for number in [1800_u32, 1, 1] {
        answer.extend_from_slice(&number.to_be_bytes());
    }
    answer.extend_from_slice(&[192, 0, 2, 1, 26, 225]);
    [step(0, &[7; 8]), step(1, &answer)].concat()
}

fn http_requests() -> Seeds {
    vec![
        (
            "connect",
            b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nProxy-Authorization: Basic YTpi\r\n\r\n".to_vec(),
        ),
        (
            "get",
            b"GET http://a.example:80/p?q#f HTTP/1.1\r\nHost: b\r\nProxy-Connection: keep-alive\r\nConnection: x\r\nX: 1\r\n\r\n".to_vec(),
        ),
        (
            "post",
            b"POST http://[::1]/ HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc".to_vec(),
        ),
        (
            "page",
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1:1080\r\nOrigin: http://evil.example\r\n\r\n".to_vec(),
        ),
    ]
}

fn socks_requests() -> Seeds {
    vec![
        ("methods", vec![5, 2, 0, 2]),
        ("password", b"\x01\x05alice\x06secret".to_vec()),
        ("connect_v4", vec![5, 1, 0, 1, 203, 0, 113, 7, 0, 80]),
        (
            "connect_name",
            b"\x05\x01\x00\x03\x09a.example\x00\x50".to_vec(),
        ),
        (
            "connect_v6",
            [&[5, 1, 0, 4][..], &[0x20; 16], &[0, 80]].concat(),
        ),
        ("associate", vec![5, 3, 0, 1, 0, 0, 0, 0, 0, 0]),
        ("resolve", b"\x05\xf0\x00\x03\x09a.example\x00\x00".to_vec()),
        ("resolve_ptr", vec![5, 0xf1, 0, 1, 203, 0, 113, 7, 0, 0]),
        ("socks4", b"\x04\x01\x00\x50\xcb\x00\x71\x07me\0".to_vec()),
        (
            "socks4a",
            b"\x04\x01\x00\x50\x00\x00\x00\x01\0a.example\0".to_vec(),
        ),
    ]
}

fn socks_datagrams() -> Seeds {
    vec![
        (
            "v4",
            b"\x00\x00\x00\x01\xcb\x00\x71\x07\x1a\xe1d1:ad2:id".to_vec(),
        ),
        ("name", b"\x00\x00\x00\x03\x09a.example\x00\x50x".to_vec()),
        (
            "fragment",
            b"\x00\x00\x01\x01\xcb\x00\x71\x07\x1a\xe1x".to_vec(),
        ),
    ]
}

fn captured() -> Seeds {
    let mut dns = vec![0; 12];
    dns.extend([
        8, 0, 0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0, 33, 10, 0, 2, 33, 10, 0, 1,
    ]);
    dns.extend([15, 160, 0, 53, 0, 9, 0, 0, b'x']);
    let mut join = vec![0; 12];
    join.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 16, 0, 1]);
    join.extend([0x2a; 32]);
    join.extend([58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 0]);
    vec![("dns", dns), ("join", join)]
}

fn krpc() -> Seeds {
    let start = b"d1:ad2:id20:aaaaaaaaaaaaaaaaaaaa";
    vec![
        ("ping", [&start[..], b"e1:q4:ping1:t1:a1:y1:qe"].concat()),
        (
            "get_peers",
            [
                &start[..],
                b"9:info_hash20:bbbbbbbbbbbbbbbbbbbbe1:q9:get_peers1:t1:a1:v4:LT\x01\x021:y1:qe",
            ]
            .concat(),
        ),
    ]
}

fn asked() -> Seeds {
    let question = b"\x07\x09\x01\0\0\x01\0\0\0\0\0\0\x07tracker\x07example\x03net\0\0\x01\0\x01";
    vec![("a", question.to_vec())]
}

fn said() -> Vec<u8> {
    let extended = b"\x14\x00d4:ipv44:\x21\x0a\x00\x021:md11:ut_metadatai1ee1:pi6881e1:v7:Foo 1.0e";
    let head = [
        &b"\x13BitTorrent protocol"[..],
        &[0; 28],
        b"-XX0001-abcdefghijkl",
    ]
    .concat();
    [&head[..], &[0, 0, 0, extended.len() as u8], extended].concat()
}

fn tracked() -> Seeds {
    let connect = [
        &0x0417_2710_1980_u64.to_be_bytes()[..],
        &[0, 0, 0, 0, 9, 9, 9, 9],
    ]
    .concat();
    let announce = [&[0; 8][..], &[0, 0, 0, 1, 9, 9, 9, 9], &[0; 82]].concat();
    vec![("connect", connect), ("announce", announce)]
}
