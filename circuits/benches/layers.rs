//! What links, onion layers and handshakes cost, per suite and frame class.
//!
//! `cargo bench -p hushswarm-circuits` measures; `cargo test --benches` only runs everything once.
#![allow(clippy::print_stdout, reason = "a bench prints its table")]
#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
#![allow(clippy::unwrap_used, reason = "a bench may stop")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use hushswarm_circuits::frame::{CELL_OFFSET, Class, FrameType, Header, SLOTS_LEN};
use hushswarm_circuits::handshake::{HopInitiator, HopKeys, HopPeer, hop_respond};
use hushswarm_circuits::keys::{DhSecret, Key32, Suite};
use hushswarm_circuits::layers::{BackwardHop, ForwardHop, LayerKeys, MAX_HOPS, OriginLayers};
use hushswarm_circuits::link::{LinkInitiator, LinkKeys, LinkPeer, respond};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Handled per round; a multiple of the blocks of 64 masks and of a ratchet, so that each pays its share.
const BATCH: usize = 512;

/// How long each line is measured.
struct Bench {
    time: Duration,
}

impl Bench {
    /// Best time per item of `run`, which handles what `prepare` made: the best round is the least disturbed one.
    fn measure<T>(&self, mut prepare: impl FnMut() -> T, mut run: impl FnMut(&mut T)) -> Duration {
        let (start, mut best) = (Instant::now(), Duration::MAX);
        loop {
            let mut input = prepare();
            let begin = Instant::now();
            run(&mut input);
            best = best.min(begin.elapsed());
            black_box(input);
            if start.elapsed() >= self.time {
                return best;
            }
        }
    }

    /// Prints the cost of one of `BATCH` items of `len` bytes.
    fn bytes(&self, what: &str, len: usize, batch: Duration) {
        let each = batch.as_secs_f64() * 1e9 / BATCH as f64;
        let rate = len as f64 / each * 8.0;
        println!(
            "{what:<44} {:>8.3} ns/byte {each:>9.0} ns {rate:>8.2} Gbit/s",
            each / len as f64
        );
    }

    fn micros(&self, what: &str, time: Duration) {
        println!("{what:<44} {:>8.1} us", time.as_secs_f64() * 1e6);
    }
}

fn main() {
    let measuring = std::env::args().any(|arg| arg == "--bench");
    let time = if measuring {
        Duration::from_millis(400)
    } else {
        Duration::ZERO
    };
    let bench = Bench { time };
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        for class in [Class::Bulk, Class::Small] {
            links(&bench, suite, class);
            layers(&bench, suite, class);
        }
    }
    handshakes(&bench);
}

fn link(suite: Suite) -> (LinkKeys, LinkKeys) {
    let mut rng = StdRng::seed_from_u64(1);
    let secret = DhSecret::generate(&mut rng);
    let peer = LinkPeer {
        link_key: secret.public(),
        suite,
        digest: [1; 32],
        psk: None,
    };
    let (initiator, message) = LinkInitiator::start(&peer, &mut rng).unwrap();
    let (answer, theirs) = respond(&secret, &peer, &message, &mut rng).unwrap();
    (initiator.finish(&answer).unwrap(), theirs)
}

fn links(bench: &Bench, suite: Suite, class: Class) {
    let header = Header {
        circuit: 1,
        kind: FrameType::Data,
        class,
        credit: 0,
    };
    let len = class.frame_len();
    let fresh = || vec![vec![0; len]; BATCH];

    let (mut a, mut b) = link(suite);
    let sealing = bench.measure(fresh, |frames| {
        for frame in frames {
            a.sealer.seal(header, frame).unwrap();
        }
    });
    bench.bytes(&format!("{suite:?} {class:?} link seal"), len, sealing);

    let (mut a, _) = link(suite);
    let sealed = || {
        let mut frames = fresh();
        for frame in &mut frames {
            a.sealer.seal(header, frame).unwrap();
        }
        frames
    };
    let opening = bench.measure(sealed, |frames| {
        for frame in frames {
            b.opener.open(frame).unwrap();
        }
    });
    bench.bytes(&format!("{suite:?} {class:?} link open"), len, opening);
}

fn layer(suite: Suite, label: u8) -> LayerKeys {
    LayerKeys::new(
        suite,
        Key32::new([label; 32]),
        Key32::new([label ^ 0x80; 32]),
    )
}

fn origin(suite: Suite) -> OriginLayers {
    let mut origin = OriginLayers::new();
    for hop in 0..MAX_HOPS as u8 {
        let keys = HopKeys {
            forward: layer(suite, hop),
            backward: layer(suite, hop ^ 0x40),
            binding: Key32::new([0; 32]),
        };
        origin.push_hop(keys).unwrap();
    }
    origin
}

fn layers(bench: &Bench, suite: Suite, class: Class) {
    let len = class.frame_len() - CELL_OFFSET;
    let mut rng = StdRng::seed_from_u64(1);
    let fresh = || vec![vec![0; len]; BATCH];
    let name = |what| format!("{suite:?} {class:?} {what}");
    let last = MAX_HOPS - 1;

    let mut ours = origin(suite);
    let sealing = bench.measure(fresh, |cells| {
        for cell in cells {
            ours.seal(last, cell, &mut rng).unwrap();
        }
    });
    bench.bytes(&name("origin seal, 3 hops"), len - SLOTS_LEN, sealing);

    let (mut ours, mut hop) = (origin(suite), ForwardHop::new(layer(suite, 0)));
    let sealed = || {
        let mut cells = fresh();
        for cell in &mut cells {
            ours.seal(last, cell, &mut rng).unwrap();
        }
        cells
    };
    let opening = bench.measure(sealed, |cells| {
        for cell in cells {
            hop.open(cell).unwrap();
        }
    });
    bench.bytes(&name("forward open"), len - SLOTS_LEN, opening);

    let mut hop = BackwardHop::new(layer(suite, 0x41));
    let relaying = bench.measure(fresh, |cells| {
        for cell in cells {
            hop.relay(cell).unwrap();
        }
    });
    bench.bytes(&name("backward relay"), len - SLOTS_LEN, relaying);

    let mut ours = origin(suite);
    let mut hops = [0, 1, 2].map(|hop| BackwardHop::new(layer(suite, hop ^ 0x40)));
    let spoken = || {
        let mut cells = fresh();
        for cell in &mut cells {
            let [first, middle, last] = &mut hops;
            last.originate(cell).unwrap();
            middle.relay(cell).unwrap();
            first.relay(cell).unwrap();
        }
        cells
    };
    let opening = bench.measure(spoken, |cells| {
        for cell in cells {
            ours.open(cell).unwrap();
        }
    });
    bench.bytes(&name("origin open, 3 hops"), len - SLOTS_LEN, opening);
}

fn handshakes(bench: &Bench) {
    let mut rng = StdRng::seed_from_u64(1);
    let secret = DhSecret::generate(&mut rng);
    let (public, suite, digest) = (secret.public(), Suite::preferred(), [1; 32]);

    let peer = LinkPeer {
        link_key: public,
        suite,
        digest,
        psk: None,
    };
    let mut other = StdRng::seed_from_u64(2);
    let initiating = bench.measure(
        || (),
        |()| {
            black_box(LinkInitiator::start(&peer, &mut rng).unwrap());
        },
    );
    bench.micros("link handshake, initiator starts", initiating);
    let started = || LinkInitiator::start(&peer, &mut rng).unwrap();
    let responding = bench.measure(started, |(_, message)| {
        black_box(respond(&secret, &peer, message, &mut other).unwrap());
    });
    bench.micros("link handshake, responder", responding);
    let answered = || {
        let (initiator, message) = LinkInitiator::start(&peer, &mut rng).unwrap();
        Some((
            initiator,
            respond(&secret, &peer, &message, &mut other).unwrap().0,
        ))
    };
    let finishing = bench.measure(answered, |input| {
        let (initiator, answer) = input.take().unwrap();
        black_box(initiator.finish(&answer).unwrap());
    });
    bench.micros("link handshake, initiator finishes", finishing);

    let peer = HopPeer {
        onion_key: public,
        suite,
        digest,
    };
    let initiating = bench.measure(
        || (),
        |()| {
            black_box(HopInitiator::start(&peer, &mut rng).unwrap());
        },
    );
    bench.micros("hop handshake, origin starts", initiating);
    let started = || HopInitiator::start(&peer, &mut rng).unwrap();
    let responding = bench.measure(started, |(_, message)| {
        black_box(hop_respond(&secret, &peer, message, &mut other).unwrap());
    });
    bench.micros("hop handshake, hop", responding);
    let answered = || {
        let (initiator, message) = HopInitiator::start(&peer, &mut rng).unwrap();
        Some((
            initiator,
            hop_respond(&secret, &peer, &message, &mut other).unwrap().0,
        ))
    };
    let finishing = bench.measure(answered, |input| {
        let (initiator, answer) = input.take().unwrap();
        black_box(initiator.finish(&answer).unwrap());
    });
    bench.micros("hop handshake, origin finishes", finishing);
}
