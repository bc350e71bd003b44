//! Peers of the public swarm tell each other of more (BEP 11): who is named, who is believed, and where nothing is told.

use std::net::SocketAddr;

use super::onions::Talker;
use super::*;
use crate::torrent::extension::{self, Exchange, UT_PEX};
use crate::torrent::pex::PeerExchange;

const MINUTE: Duration = Duration::from_secs(60);
const FIRST: &str = "11.0.0.1:7000";
const SECOND: &str = "11.0.0.2:7000";

fn message(addrs: &[&str]) -> PeerExchange {
    PeerExchange {
        added: addrs.iter().map(|addr| addr.parse().unwrap()).collect(),
    }
}

fn says(seconds: u64, addrs: &[&str]) -> (Duration, u8, Vec<u8>) {
    let at = Duration::from_secs(seconds);
    (at, UT_PEX, message(addrs).encode())
}

impl Bench {
    /// A download by a link that names these peers and no tracker, which goes on giving.
    fn pex_job(&self, peers: &[&str]) -> Job {
        let magnet = Magnet {
            hash: self.metainfo.info.hash,
            v2: None,
            name: None,
            trackers: Vec::new(),
            peers: peers
                .iter()
                .map(|peer| Target::ip(peer.parse().unwrap()))
                .collect(),
            seeds: Vec::new(),
            select: None,
            web_seeds: Vec::new(),
        };
        Job {
            source: Source::Magnet(magnet),
            seed_after: true,
            ..self.job("out")
        }
    }

    /// Somebody of the public swarm comes who gives the metadata, and nothing else.
    fn visit_with_metadata_alone(&self, handle: &Handle) {
        let script = Script {
            silent: true,
            ..self.honest()
        };
        let (near, far) = tokio::io::duplex(64 << 10);
        handle.accept(Box::new(far));
        tokio::spawn(Arc::new(script).run_as(Box::new(near), true));
    }

    /// One of the public swarm listens here, and says this.
    fn public(&self, addr: &str, says: Vec<(Duration, u8, Vec<u8>)>) -> Arc<Talker> {
        let talker = self.talker_of(Exchange::Public, says);
        self.world.listen_with(addr, talker.listen());
        talker
    }

    fn called(&self) -> BTreeSet<SocketAddr> {
        let calls = self.world.calls.lock().unwrap();
        calls.iter().filter_map(|(addr, _)| *addr).collect()
    }
}

fn heard(talker: &Talker) -> Vec<PeerExchange> {
    let heard = talker.heard_of(UT_PEX).into_iter();
    heard
        .map(|payload| {
            let message = PeerExchange::parse(&payload).unwrap();
            assert_eq!(message.encode(), payload, "and not a byte more");
            message
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_seed_of_which_only_another_peer_told_gives_everything() {
    let bench = Bench::new().await;
    bench.public(FIRST, vec![says(1, &[SECOND])]);
    bench.world.script(SECOND, bench.honest());
    let get = bench.engine("out").download(bench.pex_job(&[FIRST]));
    tokio::time::sleep(MINUTE).await;
    assert_eq!(
        bench.called(),
        [FIRST.parse().unwrap()].into(),
        "before it is known that the torrent is not private, nobody is believed"
    );
    bench.visit_with_metadata_alone(&get);
    until(&get, |p| p.state == State::Seeding).await;
    bench.assert_complete("out");
}

#[tokio::test(start_paused = true)]
async fn peers_are_told_of_those_we_called_and_of_nobody_else() {
    let bench = Bench::new().await;
    let first = bench.public(FIRST, vec![says(1, &["11.0.0.9:9"])]);
    let second = bench.public(SECOND, Vec::new());
    let visitor = bench.talker_of(Exchange::Public, Vec::new());
    let stranger = bench.talker_of(Exchange::Nobody, Vec::new());
    let get = bench
        .engine("out")
        .download(bench.pex_job(&[FIRST, SECOND]));
    visitor.visit_publicly(&get);
    stranger.visit_publicly(&get);
    tokio::time::sleep(2 * MINUTE).await;
    for talker in [&first, &second, &visitor, &stranger] {
        assert_eq!(heard(talker), [], "the torrent may be private");
    }
    bench.visit_with_metadata_alone(&get);
    // Before the first of them is lost: they say nothing.
    tokio::time::sleep(MINUTE + MINUTE / 3).await;
    assert_eq!(heard(&first), [message(&[SECOND])]);
    assert_eq!(heard(&second), [message(&[FIRST])]);
    let told = heard(&visitor);
    assert_eq!(told.len(), 1);
    let both: BTreeSet<SocketAddr> = message(&[FIRST, SECOND]).added.into_iter().collect();
    assert_eq!(told[0].added.iter().copied().collect::<BTreeSet<_>>(), both);
    assert_eq!(heard(&stranger), [], "who did not offer it");
    let canonical = extension::handshake(None, Exchange::Public);
    for talker in [&first, &second, &visitor] {
        assert_eq!(talker.handshakes(), std::slice::from_ref(&canonical));
    }
}

#[tokio::test(start_paused = true)]
async fn a_teller_can_neither_point_at_private_places_nor_at_many() {
    let bench = Bench::new().await;
    let nowhere = [
        "10.0.0.1:7000",
        "127.0.0.1:7000",
        "192.168.1.1:80",
        "169.254.1.1:7000",
        "224.0.0.1:7000",
        "0.0.0.0:7000",
        "[fd00::1]:7000",
        "[::1]:7000",
        "[::ffff:10.0.0.1]:7000",
    ];
    let victim: Vec<String> = (1..30).map(|port| format!("11.0.0.66:{port}")).collect();
    let victim: Vec<&str> = victim.iter().map(String::as_str).collect();
    let flood = |part: u8| -> Vec<String> {
        let host = |n| format!("11.1.{part}.{n}:7000");
        (0..50).map(host).collect()
    };
    let mut all = vec![says(1, &nowhere), says(61, &victim)];
    for part in 0..100 {
        let flood = flood(part);
        let flood: Vec<&str> = flood.iter().map(String::as_str).collect();
        // One a second, though one a minute is allowed.
        all.push(says(121 + u64::from(part), &flood));
    }
    bench.public(FIRST, all);
    let get = bench.engine("out").download(bench.pex_job(&[FIRST]));
    bench.visit_with_metadata_alone(&get);
    tokio::time::sleep(10 * MINUTE).await;
    let called = bench.called();
    assert!(
        called
            .iter()
            .all(|addr| addr.ip().to_string().starts_with("11."))
    );
    let at_victim = called
        .iter()
        .filter(|addr| addr.ip() == "11.0.0.66".parse::<std::net::IpAddr>().unwrap());
    assert!((1..=4).contains(&at_victim.count()));
    // At 121, 166 and 211 seconds.
    let flooded = called
        .iter()
        .filter(|addr| addr.to_string().starts_with("11.1."));
    assert!((40..=150).contains(&flooded.count()), "{}", called.len());
}

#[tokio::test(start_paused = true)]
async fn hidden_and_public_peers_are_never_told_of_each_other() {
    let bench = Bench::new().await;
    let onion = |n| OnionPeer::new(crate::onion::OnionKey([n; 32]), 6881).unwrap();
    // It offers both on an onion connection, and tells of a public peer.
    let hidden = bench.talker_of(Exchange::Public, vec![says(1, &[SECOND])]);
    bench.world.onion(onion(1), hidden.listen());
    let visitor = bench.talker_of(Exchange::Public, vec![says(1, &[SECOND])]);
    let public = bench.public(FIRST, Vec::new());
    for gossip in [true, false] {
        let name = format!("state-{gossip}");
        let options = Options {
            gossip,
            encryption: Encryption::Off,
            ..Options::new(bench.path(&name))
        };
        let engine = Engine::new(Arc::new(View(Arc::clone(&bench.world))), options);
        let mut job = bench.pex_job(&[FIRST]);
        if let Source::Magnet(magnet) = &mut job.source {
            magnet.peers.push(onion(1).to_target().unwrap());
        }
        let output = bench.path(&name).join("out");
        let get = engine.download(Job { output, ..job });
        bench.world.listen_onion(onion(2), &get);
        visitor.visit(&get);
        bench.visit_with_metadata_alone(&get);
        tokio::time::sleep(5 * MINUTE).await;
        get.stop().await;
    }
    for talker in [&hidden, &visitor] {
        assert_eq!(heard(talker), []);
        for payload in talker.handshakes() {
            assert!(!payload.windows(6).any(|part| part == b"ut_pex"));
        }
    }
    assert_eq!(heard(&public), [], "there is nobody else to tell of");
    assert!(!bench.called().contains(&SECOND.parse().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn private_torrents_stay_with_their_tracker() {
    let bench = Bench::with(true).await;
    let first = bench.public(
        FIRST,
        vec![says(1, &["11.0.0.9:9"]), says(200, &["11.0.0.8:9"])],
    );
    let second = bench.public(SECOND, vec![says(1, &["11.0.0.7:9"])]);
    let get = bench
        .engine("out")
        .download(bench.pex_job(&[FIRST, SECOND]));
    tokio::time::sleep(MINUTE).await;
    bench.visit_with_metadata_alone(&get);
    tokio::time::sleep(2 * MINUTE).await;
    // Now it is known.
    let visitor = bench.talker_of(Exchange::Public, vec![says(1, &["11.0.0.6:9"])]);
    visitor.visit_publicly(&get);
    tokio::time::sleep(10 * MINUTE).await;
    for talker in [&first, &second, &visitor] {
        assert_eq!(heard(talker), []);
    }
    let plain = extension::handshake(None, Exchange::Nobody);
    assert_eq!(visitor.handshakes(), [plain]);
    let called = bench.called();
    let known = [FIRST, SECOND].map(|addr| addr.parse().unwrap());
    assert_eq!(called, known.into());
}
