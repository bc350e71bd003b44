//! What every target does with its input: one function per parser or state machine that reads bytes from outside.
//!
//! A target asserts what must hold for any input, beyond not panicking: what decodes encodes to the same bytes, what
//! was changed on the way does not open. `tests/fuzz_corpus.rs` of the package runs them over the committed corpus.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use hushswarm::config::{NetworkFile, RelayConfig};
use hushswarm::hush::SeedKey;
use hushswarm::torrent::extension::{Exchange as Tells, MetadataMessage, PeerExtensions};
use hushswarm::torrent::gossip::{
    Concealed, MAX_ADDED, MAX_SEEDS, MAX_SEEDS_LEN, OnionPeer, Onions,
};
use hushswarm::torrent::infohash::InfoHash;
use hushswarm::torrent::metainfo::{Info, Metainfo};
use hushswarm::torrent::peer::Peer;
use hushswarm::torrent::picker::{Bits, Geometry};
use hushswarm::torrent::wire::{self, Decoder, MessageRef};
use hushswarm_circuits::body::{
    BodyHeader, ExtendRequest, Extended, OpenKind, OpenRequest, OpenStatus, PAYLOAD_OFFSET,
    Records, counted, put_record,
};
use hushswarm_circuits::circuit::mux::{End, MAX_STREAMS, Mux, MuxEvent, Recv};
use hushswarm_circuits::circuit::origin::{HopSpec, Origin, OriginEvent};
use hushswarm_circuits::frame::{
    BODY_OFFSET, CELL_OFFSET, Class, FrameType, HEADER_LEN, Header, Pool, SLOTS_LEN,
};
use hushswarm_circuits::handshake::{CREATE_LEN, HopInitiator, HopKeys, HopPeer, hop_respond};
use hushswarm_circuits::keys::{DhSecret, IdentityKey, Key32, RelayId, Suite};
use hushswarm_circuits::layers::{BackwardHop, ForwardHop, LayerKeys, OriginLayers};
use hushswarm_circuits::link::{HANDSHAKE_LEN, LinkInitiator, LinkPeer, respond, verify_auth};
use hushswarm_circuits::relay_list::{Descriptor, Draft, ExitPolicy, RelayList, Trust};
use hushswarm_circuits::target::Target;
use rand::SeedableRng;
use rand::rngs::StdRng;

#[path = "targets/daemon.rs"]
mod daemon;
#[path = "targets/encryption.rs"]
mod encryption;
#[path = "targets/exchange.rs"]
mod exchange;
#[path = "targets/guests.rs"]
mod guests;
#[path = "targets/krpc.rs"]
pub mod krpc;
#[path = "targets/local.rs"]
mod local;
#[path = "targets/lookups.rs"]
mod lookups;
#[path = "targets/players.rs"]
mod players;
#[path = "targets/proxy.rs"]
mod proxy;
#[path = "targets/trackers.rs"]
mod trackers;
#[path = "targets/trees.rs"]
mod trees;
#[path = "targets/web.rs"]
mod web;

pub use daemon::{rpc_call, rpc_head};
pub use encryption::encrypted_stream;
pub use exchange::peer_exchange;
pub use guests::guest_scrub;
pub use krpc::{bencode, krpc_item, krpc_lookup, krpc_message};
pub use local::{
    client_files, jail_query, leaktest_classify, leaktest_dht, leaktest_dns, leaktest_peek,
    leaktest_udp_tracker, magnet, onion_address, routes_file, tor_file, visitor_key,
};
pub use lookups::meetings::{
    feed, hidden_item, introduction, meeting_records, meeting_request, meeting_work, sealed_records,
};
pub use lookups::{dht_records, dht_request, dns_reply, lookup_answer};
pub use players::stream_request;
pub use proxy::{http_proxy, socks_datagram, socks_request};
pub use trackers::{guest_tracker, http_tracker, tracker_server, udp_tracker};
pub use trees::hash_trees;
pub use web::{scrape, web_head};

/// A target: it panics where its input breaks something.
pub type Run = fn(&[u8]);

/// All targets by name; `corpus/NAME/` belongs to each.
pub const TARGETS: &[(&str, Run)] = &[
    ("bencode", bencode),
    ("client_files", client_files),
    ("descriptor", descriptor),
    ("dht_records", dht_records),
    ("dht_request", dht_request),
    ("dns_reply", dns_reply),
    ("encrypted_stream", encrypted_stream),
    ("exit_policy", exit_policy),
    ("extension", extension),
    ("feed", feed),
    ("frame_header", frame_header),
    ("guest_scrub", guest_scrub),
    ("guest_tracker", guest_tracker),
    ("hash_trees", hash_trees),
    ("hidden_item", hidden_item),
    ("hop_handshake", hop_handshake),
    ("http_proxy", http_proxy),
    ("http_tracker", http_tracker),
    ("introduction", introduction),
    ("jail_query", jail_query),
    ("krpc_item", krpc_item),
    ("krpc_lookup", krpc_lookup),
    ("krpc_message", krpc_message),
    ("layers", layers),
    ("leaktest_classify", leaktest_classify),
    ("leaktest_dht", leaktest_dht),
    ("leaktest_dns", leaktest_dns),
    ("leaktest_peek", leaktest_peek),
    ("leaktest_udp_tracker", leaktest_udp_tracker),
    ("link_frame", link_frame),
    ("link_handshake", link_handshake),
    ("lookup_answer", lookup_answer),
    ("magnet", magnet),
    ("meeting_records", meeting_records),
    ("meeting_request", meeting_request),
    ("meeting_work", meeting_work),
    ("metainfo", metainfo),
    ("mux_body", mux_body),
    ("network_file", network_file),
    ("onion_address", onion_address),
    ("onion_gossip", onion_gossip),
    ("origin", origin),
    ("peer", peer),
    ("peer_exchange", peer_exchange),
    ("relay_config", relay_config),
    ("relay_list", relay_list),
    ("routes_file", routes_file),
    ("rpc_call", rpc_call),
    ("rpc_head", rpc_head),
    ("scrape", scrape),
    ("sealed_records", sealed_records),
    ("socks_datagram", socks_datagram),
    ("socks_request", socks_request),
    ("stream_request", stream_request),
    ("target", target),
    ("tor_file", tor_file),
    ("tracker_server", tracker_server),
    ("udp_tracker", udp_tracker),
    ("visitor_key", visitor_key),
    ("web_head", web_head),
    ("wire", wire_messages),
];

/// Time at which lists and files are read, seconds since 1970.
pub const NOW: u64 = 1_800_000_000;
/// Infohash that [`peer`] serves.
pub const HASH: [u8; 20] = [0x5a; 20];

/// Randomness that is the same in each run.
pub fn rng() -> StdRng {
    StdRng::seed_from_u64(7)
}

/// The authority that [`relay_list`] trusts.
pub fn authority() -> IdentityKey {
    IdentityKey::from_seed([0xaa; 32])
}

/// Changes `bytes` by exclusive or with the input; says whether anything changed.
fn disturb(bytes: &mut [u8], input: &[u8]) -> bool {
    bytes
        .iter_mut()
        .zip(input)
        .for_each(|(byte, change)| *byte ^= change);
    input.iter().take(bytes.len()).any(|change| *change != 0)
}

/// A peer or tracker somewhere.
fn somebody() -> Target {
    Target::ip(SocketAddr::from(([192, 0, 2, 1], 80)))
}

/// Splits off the first byte.
fn first(input: &[u8]) -> (u8, &[u8]) {
    input
        .split_first()
        .map_or((0, input), |(first, rest)| (*first, rest))
}

/// Frame headers (PROTOCOL.md §2.1).
pub fn frame_header(input: &[u8]) {
    if let Some(bytes) = input.first_chunk::<HEADER_LEN>()
        && let Ok(header) = Header::decode(bytes)
    {
        assert_eq!(header.encode(), *bytes);
    }
}

/// Targets of streams and datagrams (§5.1).
pub fn target(input: &[u8]) {
    if let Ok((Some(target), rest)) = Target::decode(input) {
        let mut out = Vec::new();
        target.encode(&mut out);
        assert_eq!(out, input[..input.len() - rest.len()]);
        assert_eq!(out.len(), target.encoded_len());
    }
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(target) = Target::parse(text, 1)
    {
        let mut out = Vec::new();
        target.encode(&mut out);
        assert!(matches!(Target::decode(&out), Ok((Some(again), [])) if again == target));
    }
}

fn link_peer(secret: &DhSecret) -> LinkPeer {
    LinkPeer {
        link_key: secret.public(),
        suite: Suite::ChaCha20Poly1305,
        digest: [3; 32],
        psk: None,
    }
}

/// Link handshakes (§2.2): garbage, and real messages changed by the input.
pub fn link_handshake(input: &[u8]) {
    let (which, input) = first(input);
    let mut rng = rng();
    let secret = DhSecret::from_bytes([1; 32]);
    let peer = link_peer(&secret);
    if which & 2 != 0 {
        let mut message = [0; HANDSHAKE_LEN];
        disturb(&mut message, input);
        assert!(respond(&secret, &peer, &message, &mut rng).is_err());
        return;
    }
    let (initiator, mut message) = LinkInitiator::start(&peer, &mut rng).unwrap();
    let changed = which & 1 == 0 && disturb(&mut message, input);
    let answered = respond(&secret, &peer, &message, &mut rng);
    assert_eq!(answered.is_err(), changed);
    if let Ok((mut answer, keys)) = answered {
        let changed = disturb(&mut answer, input);
        let finished = initiator.finish(&answer);
        assert_eq!(finished.is_err(), changed);
        assert!(finished.is_err() || finished.is_ok_and(|ours| ours.hash == keys.hash));
        assert!(verify_auth(input, &keys.hash).is_err());
    }
}

/// Frames of a link (§2.3): real ones changed by the input.
pub fn link_frame(input: &[u8]) {
    let (which, input) = first(input);
    let mut rng = rng();
    let secret = DhSecret::from_bytes([1; 32]);
    let peer = link_peer(&secret);
    let (initiator, message) = LinkInitiator::start(&peer, &mut rng).unwrap();
    let (answer, theirs) = respond(&secret, &peer, &message, &mut rng).unwrap();
    let (mut sealer, mut opener) = (initiator.finish(&answer).unwrap().sealer, theirs.opener);
    let class = if which & 1 == 0 {
        Class::Bulk
    } else {
        Class::Small
    };
    let header = Header {
        circuit: 9,
        kind: FrameType::Data,
        class,
        credit: 3,
    };
    let mut frame = vec![0x11; class.frame_len()];
    for _ in 0..which >> 6 {
        sealer.seal(header, &mut frame).unwrap();
        assert_eq!(opener.open(&mut frame).unwrap(), header);
    }
    sealer.seal(header, &mut frame).unwrap();
    if which & 2 != 0 {
        frame.truncate(input.len());
    }
    let changed = disturb(&mut frame, input) || frame.len() != class.frame_len();
    if let Some(head) = frame.first_chunk::<HEADER_LEN>() {
        let _ = opener.peek(head);
    }
    let opened = opener.open(&mut frame);
    assert_eq!(opened.is_err(), changed);
    if changed {
        assert!(
            frame.iter().all(|byte| *byte == 0),
            "what did not open was left to be read"
        );
        assert!(opener.open(&mut frame).is_err(), "a broken link goes on");
    }
}

/// Hop handshakes (§3.1): garbage, and real messages changed by the input.
pub fn hop_handshake(input: &[u8]) {
    let (which, input) = first(input);
    let mut rng = rng();
    let secret = DhSecret::from_bytes([1; 32]);
    let peer = HopPeer {
        onion_key: secret.public(),
        suite: Suite::ChaCha20Poly1305,
        digest: [4; 32],
    };
    if which & 2 != 0 {
        let mut message = [0; CREATE_LEN];
        disturb(&mut message, input);
        assert!(hop_respond(&secret, &peer, &message, &mut rng).is_err());
        return;
    }
    let (initiator, mut message) = HopInitiator::start(&peer, &mut rng).unwrap();
    let changed = which & 1 == 0 && disturb(&mut message, input);
    let answered = hop_respond(&secret, &peer, &message, &mut rng);
    assert_eq!(answered.is_err(), changed);
    if let Ok((mut answer, _)) = answered {
        let changed = disturb(&mut answer, input);
        assert_eq!(initiator.finish(&answer).is_err(), changed);
    }
}

/// Onion layers (§4): a cell changed by the input, at any hop of a circuit of three, opens nowhere behind it.
pub fn layers(input: &[u8]) {
    let (which, input) = first(input);
    let mut rng = rng();
    let class = if which & 1 == 0 {
        Class::Bulk
    } else {
        Class::Small
    };
    let (to, at) = (usize::from(which >> 1) % 3, usize::from(which >> 3) % 3);
    let mut origin = OriginLayers::new();
    let mut hops = Vec::new();
    for number in 0..3 {
        let keys = |part: u8| {
            let key = |which: u8| Key32::from([16 * number + 4 * part + which; 32]);
            LayerKeys::new(Suite::ChaCha20Poly1305, key(1), key(2))
        };
        let of_hop = HopKeys {
            forward: keys(1),
            backward: keys(2),
            binding: Key32::new([0; 32]),
        };
        origin.push_hop(of_hop).unwrap();
        hops.push((ForwardHop::new(keys(1)), BackwardHop::new(keys(2))));
    }
    let mut cell = vec![0; class.frame_len() - CELL_OFFSET];
    if which & 0x80 == 0 {
        origin.seal(to, &mut cell, &mut rng).unwrap();
        let mut changed = false;
        for (number, (hop, _)) in hops.iter_mut().enumerate().take(to + 1) {
            changed |= number == at && disturb(&mut cell, input);
            let opened = hop.open(&mut cell);
            assert_eq!(opened.is_err(), changed, "hop {number}, disturbed at {at}");
            if changed {
                return;
            }
            assert_eq!(opened.is_ok_and(|here| here), number == to);
        }
    } else {
        hops[to].1.originate(&mut cell).unwrap();
        let mut changed = to == at && disturb(&mut cell, input);
        for (number, (_, hop)) in hops.iter_mut().enumerate().take(to).rev() {
            hop.relay(&mut cell).unwrap();
            changed |= number == at && disturb(&mut cell, input);
        }
        let opened = origin.open(&mut cell);
        assert!(changed || opened.is_ok());
        if let Ok(hop) = opened {
            // A slot that nobody reads any more may have changed: it carries nothing.
            assert_eq!(hop, to);
            assert!(
                cell[SLOTS_LEN..].iter().all(|byte| *byte == 0),
                "another body was delivered"
            );
        }
    }
}

/// Bodies and the stream multiplexer (§5): any sequence of bodies, at either end, between an application's own acts.
pub fn mux_body(input: &[u8]) {
    let (which, mut rest) = first(input);
    body_parts(rest);
    let pool = Pool::new(4);
    let start = Instant::now();
    let mut mux = Mux::new(if which & 1 == 0 {
        End::Origin
    } else {
        End::Hop
    });
    if which & 1 == 0 {
        mux.open(OpenKind::Tcp, Some(somebody())).unwrap();
        mux.open(OpenKind::Datagrams, None).unwrap();
    }
    // Each step: command, stream, payload length / 16, payload.
    while let Some((&[command, stream, len], after)) = rest.split_first_chunk::<3>() {
        let (payload, after) = after
            .split_at_checked(usize::from(len) * 16)
            .unwrap_or((after, &[]));
        rest = after;
        let mut frame = pool.take_zeroed(Class::Bulk);
        let Some(room) = frame.bytes_mut().get_mut(PAYLOAD_OFFSET..) else {
            return;
        };
        let len = room.len().min(payload.len());
        room[..len].copy_from_slice(&payload[..len]);
        let header = &mut frame.bytes_mut()[BODY_OFFSET + 8..PAYLOAD_OFFSET];
        header[0] = command & 0x7f;
        header[2..4].copy_from_slice(&u16::try_from(len).unwrap_or(0).to_be_bytes());
        header[7] = stream;
        if mux.handle(start, frame).is_err() {
            return;
        }
        assert!(mux.streams() <= MAX_STREAMS);
        if command & 0x80 != 0 {
            live(&mut mux, &pool, start);
        }
    }
    live(&mut mux, &pool, start);
}

/// The application's side of a multiplexer: answers, reads, writes, sends.
fn live(mux: &mut Mux, pool: &Pool, now: Instant) {
    while let Some(event) = mux.poll_event() {
        match event {
            MuxEvent::Open { stream, .. } => mux.answer_open(stream, OpenStatus::Open),
            MuxEvent::Readable { stream } => {
                while let Recv::Data(data) = mux.recv(stream) {
                    mux.consumed(now, stream, data.len());
                }
                while mux.recv_datagram(stream).is_some() {}
            }
            MuxEvent::Writable { stream } => {
                mux.send_bytes(pool, stream, b"answer");
            }
            MuxEvent::Opened { stream, .. } => mux.finish(stream),
            MuxEvent::Extend(_) | MuxEvent::Extended(_) => {}
        }
    }
    while let Some(frame) = mux.poll_cell(pool) {
        assert!(
            BodyHeader::decode(frame.body()).is_ok(),
            "we broke the protocol ourselves"
        );
    }
}

/// The parts of a body, each read from the whole input.
fn body_parts(input: &[u8]) {
    let _ = BodyHeader::decode(input);
    if let Ok(open) = OpenRequest::decode(input) {
        assert_eq!(open.encode(), input);
    }
    if let Ok(extend) = ExtendRequest::decode(input) {
        assert_eq!(extend.encode(), input);
    }
    if let Ok(extended) = Extended::decode(input) {
        assert_eq!(extended.encode(), input);
    }
    let mut out = Vec::new();
    let mut whole = true;
    for record in Records::new(input) {
        match record {
            Ok((target, payload)) => whole &= put_record(&mut out, &target, payload).is_ok(),
            Err(_) => whole = false,
        }
    }
    assert!(!whole || out == input);
}

/// A circuit at its origin (§3.4, §5.5): the first hop answers, or lies, as the input says.
pub fn origin(input: &[u8]) {
    let mut rng = rng();
    let pool = Pool::new(4);
    let mut now = Instant::now();
    let secret = DhSecret::from_bytes([1; 32]);
    let path: Vec<HopSpec> = (0..2)
        .map(|number| HopSpec {
            id: RelayId([number; 32]),
            peer: HopPeer {
                onion_key: secret.public(),
                suite: Suite::ChaCha20Poly1305,
                digest: [number; 32],
            },
        })
        .collect();
    let peer = path[0].peer;
    let mut origin = Origin::new(now, path, &mut rng).unwrap();
    origin.mux().open(OpenKind::Tcp, Some(somebody())).unwrap();
    let (_, create) = origin.poll_transmit(&pool).unwrap();
    let message = counted(create.body())
        .and_then(|(message, _)| message.try_into().ok())
        .unwrap();
    let (answer, keys) = hop_respond(&secret, &peer, message, &mut rng).unwrap();
    let mut hop = BackwardHop::new(keys.backward);
    let mut closed = false;
    // Each step: act, command, stream, payload length, payload.
    let mut rest = input;
    while let Some((&[act, command, stream, len], after)) = rest.split_first_chunk::<4>() {
        let (payload, after) = after
            .split_at_checked(usize::from(len))
            .unwrap_or((after, &[]));
        rest = after;
        match act % 6 {
            0 => {
                let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                origin.handle_created(now, &[&length[..], &answer].concat());
            }
            1 => origin.handle_created(now, payload),
            2 => {
                let mut frame = pool.take_zeroed(Class::Small);
                let body = frame.body_mut();
                body[8] = command;
                body[11] = len;
                body[15] = stream;
                body[16..16 + payload.len()].copy_from_slice(payload);
                hop.originate(frame.cell_mut()).unwrap();
                origin.handle_cell(now, frame);
            }
            3 => {
                let mut frame = pool.take_zeroed(Class::Bulk);
                disturb(frame.bytes_mut(), payload);
                origin.handle_cell(now, frame);
            }
            4 => origin.handle_destroy(now, command),
            _ => {
                now = origin.poll_timeout().unwrap_or(now);
                origin.handle_timeout(now);
            }
        }
        while let Some(event) = origin.poll_event() {
            assert!(!closed, "an event after the last one");
            assert!(
                !matches!(event, OriginEvent::Ready { .. }),
                "the second hop never answered"
            );
            closed = matches!(event, OriginEvent::Closed(_));
        }
        while let Some((kind, _)) = origin.poll_transmit(&pool) {
            assert!(!closed || kind == FrameType::Destroy);
        }
        assert_eq!(closed, origin.is_closed());
    }
}

/// Relay descriptors (§7.1).
pub fn descriptor(input: &[u8]) {
    if let Ok(descriptor) = Descriptor::decode(input) {
        assert_eq!(descriptor.bytes(), input);
        descriptor.verify();
        let rules = descriptor.info().policy.to_texts();
        assert_eq!(
            ExitPolicy::from_texts(&rules).as_ref(),
            Ok(&descriptor.info().policy)
        );
    }
}

/// Relay lists (§7.2): what our authority signed, and as it comes.
pub fn relay_list(input: &[u8]) {
    let authority = authority();
    let authorities = vec![authority.public()];
    let trust = Trust {
        network: "test".to_owned(),
        authorities,
        threshold: 1,
    };
    let signature = authority.sign(&[b"hushswarm v1 relay list", input]);
    let signed = [input, &[1], &authority.public().0, &signature].concat();
    for bytes in [input, &signed] {
        if let Ok(draft) = Draft::decode(bytes) {
            assert_eq!(draft.encode().as_deref(), Ok(bytes));
        }
        if let Ok(list) = RelayList::decode_verified(bytes, &trust, NOW) {
            assert!(list.signed_by() == 1 && list.is_valid(NOW));
            assert_eq!(bytes, &**list.bytes());
        }
    }
}

/// Exit policies as text.
pub fn exit_policy(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let rules: Vec<&str> = text.lines().collect();
    if let Ok(policy) = ExitPolicy::from_texts(&rules) {
        policy.summary();
        assert_eq!(ExitPolicy::from_texts(&policy.to_texts()), Ok(policy));
    }
}

/// Network files.
pub fn network_file(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(file) = NetworkFile::parse(text, Path::new("network.toml")) {
        file.trust();
        let again = file
            .to_toml()
            .map(|text| NetworkFile::parse(&text, Path::new("x")).is_ok());
        assert!(matches!(again, Ok(true)));
    }
}

/// A relay's configuration.
pub fn relay_config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(config) = RelayConfig::parse(text, Path::new("relay.toml")) {
        let again = config
            .to_toml()
            .map(|text| RelayConfig::parse(&text, Path::new("x")).is_ok());
        assert!(matches!(again, Ok(true)));
    }
}

/// Torrent files and info dictionaries (BEP 3).
pub fn metainfo(input: &[u8]) {
    if let Ok(info) = Info::parse(input) {
        check_info(&info);
    }
    if let Ok(metainfo) = Metainfo::parse(input) {
        check_info(&metainfo.info);
        let again = Metainfo::parse(&metainfo.encode()).unwrap();
        assert_eq!(again.info.bytes, metainfo.info.bytes);
        assert_eq!(again.trackers, metainfo.trackers);
        assert_eq!(again.web_seeds, metainfo.web_seeds);
    }
}

fn check_info(info: &Info) {
    let sizes: u64 = (0..info.piece_count())
        .map(|piece| u64::from(info.piece_size(piece)))
        .sum();
    assert_eq!(sizes, info.total);
    for file in &info.files {
        for part in &file.path {
            let plain =
                !part.is_empty() && part != "." && part != ".." && !part.contains(['/', '\0']);
            assert!(plain, "a path leaves its folder");
        }
    }
}

/// Peer wire messages (BEP 3, 6, 52), fed in pieces.
pub fn wire_messages(input: &[u8]) {
    let (size, input) = first(input);
    let mut decoder = Decoder::new();
    let mut out = Vec::new();
    for part in input.chunks(usize::from(size) + 1) {
        decoder.feed(part);
        loop {
            match decoder.next() {
                // Its payload is gone, so what follows can't be compared.
                Ok(Some(MessageRef::Unknown(_))) => return,
                Ok(Some(message)) => message.encode(&mut out),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    assert_eq!(
        out.len() + decoder.buffered(),
        input.len(),
        "bytes were lost or invented"
    );
    assert!(
        input.starts_with(&out),
        "what decodes encodes to the same bytes"
    );
}

/// Extension messages (BEP 9, 10).
pub fn extension(input: &[u8]) {
    let _ = PeerExtensions::parse(input);
    if let Ok(Some(message)) = MetadataMessage::parse(input) {
        assert_eq!(MetadataMessage::parse(&message.encode()), Ok(Some(message)));
    }
    if let Some(bytes) = input.first_chunk::<{ wire::HANDSHAKE_LEN }>() {
        let _ = wire::Handshake::decode(bytes);
    }
}

/// What peers of hidden swarms tell each other (docs/onion-gossip.md).
pub fn onion_gossip(input: &[u8]) {
    if let Ok(onions) = Onions::parse(input) {
        assert!(onions.added.len() <= MAX_ADDED);
        assert!(onions.me.is_none() || onions.seed.is_none());
        let contacts: Vec<Vec<u8>> = onions.seeds.iter().map(|seed| seed.encode()).collect();
        assert!(contacts.len() <= MAX_SEEDS && contacts.concat().len() <= MAX_SEEDS_LEN);
        for contact in onions.seeds.iter().chain(&onions.seed) {
            let seed = Concealed::Seed(SeedKey(contact.key));
            let target = seed.to_target();
            assert_eq!(
                target.and_then(|at| Concealed::from_target(&at)),
                Some(seed)
            );
        }
        assert_eq!(Onions::parse(&onions.encode()), Ok(onions.clone()));
        let shown = format!("{onions:?}");
        for peer in &onions.added {
            let target = peer.to_target();
            assert_eq!(
                target.and_then(|at| OnionPeer::from_target(&at)),
                Some(*peer)
            );
            assert!(!shown.contains(&peer.host()));
        }
    }
}

/// A whole connection (BEP 3, 6, 9, 10, 11): after a good handshake, anything.
pub fn peer(input: &[u8]) {
    let (which, input) = first(input);
    let now = Instant::now();
    let mut peer = Peer::new(now, InfoHash(HASH), [1; 20], which & 1 == 0, rng());
    match which & 12 {
        0 => {}
        4 => peer.offer(Tells::Onions),
        _ => peer.offer(Tells::Public),
    }
    let mut hello = wire::Handshake::new(InfoHash(HASH), [2; 20]);
    if which & 16 != 0 {
        hello.reserved[7] &= !wire::FAST_BIT;
    }
    peer.feed(now, &hello.encode());
    if which & 2 != 0 {
        let geometry = Geometry {
            piece_len: 32768,
            total: 100_000,
            pieces: 4,
            short: None,
        };
        if peer
            .set_torrent(geometry.clone(), Bits::full(4), Some(20_000))
            .is_err()
        {
            return;
        }
        peer.set_interested(true);
        peer.request(now, &[geometry.block(0, 0), geometry.block(3, 0)]);
    }
    let mut out = Vec::new();
    for part in input.chunks(usize::from(which >> 2) * 16 + 1) {
        peer.feed(now, part);
        loop {
            match peer.poll(now) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        out.clear();
        peer.transmit(now, &mut out);
        peer.take_uploads(65536);
        let asked = peer.askable().and_then(|have| have.ones().next());
        if let Some(index) = asked.filter(|_| peer.wants() > 0) {
            let (begin, len) = (16384, 16384);
            peer.request(now, &[wire::BlockRef { index, begin, len }]);
        }
        peer.set_choking(out.len() % 2 == 0);
    }
    for _ in 0..3 {
        let due = peer.poll_timeout();
        let _ = peer.handle_timeout(due);
    }
}
