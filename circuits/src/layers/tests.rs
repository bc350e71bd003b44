//! What can only be seen from inside: counters at their end, keys that are gone, and that no (key, nonce) pair is
//! ever sealed twice by anyone. The behaviour of cells is in `tests/layers.rs`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::frame::{FrameType, Header};
use crate::handshake::{HopInitiator, HopKeys, HopPeer, hop_respond};
use crate::keys::{DhSecret, audit};
use crate::link::{LinkInitiator, LinkKeys, LinkPeer, respond};

const SMALL_CELL: usize = 992;

fn keys(suite: Suite, label: u8) -> LayerKeys {
    LayerKeys::new(
        suite,
        Key32::new([label; 32]),
        Key32::new([label ^ 0x80; 32]),
    )
}

fn hop_keys(suite: Suite, label: u8) -> HopKeys {
    HopKeys {
        forward: keys(suite, label),
        backward: keys(suite, label ^ 0x40),
        binding: Key32::new([label; 32]),
    }
}

fn cell(fill: u8) -> Vec<u8> {
    let mut cell = vec![fill; SMALL_CELL];
    cell[SLOTS_LEN..SLOTS_LEN + MARK_LEN].fill(0);
    cell
}

/// An origin and its hops, after real handshakes.
struct Circuit {
    origin: OriginLayers,
    hops: Vec<(ForwardHop, BackwardHop)>,
}

impl Circuit {
    fn empty() -> Self {
        Self {
            origin: OriginLayers::new(),
            hops: Vec::new(),
        }
    }

    fn extend(&mut self, secret: &DhSecret, suite: Suite, rng: &mut StdRng) {
        let peer = HopPeer {
            onion_key: secret.public(),
            suite,
            digest: [7; 32],
        };
        let (initiator, message) = HopInitiator::start(&peer, rng).unwrap();
        let (answer, theirs) = hop_respond(secret, &peer, &message, rng).unwrap();
        self.origin
            .push_hop(initiator.finish(&answer).unwrap())
            .unwrap();
        self.hops.push((
            ForwardHop::new(theirs.forward),
            BackwardHop::new(theirs.backward),
        ));
    }

    /// Gives how many seals it took.
    fn forward(&mut self, target: usize, rng: &mut StdRng) -> usize {
        let mut cell = cell(target as u8 + 1);
        self.origin.seal(target, &mut cell, rng).unwrap();
        for (at, (hop, _)) in self.hops.iter_mut().enumerate().take(target + 1) {
            assert_eq!(hop.open(&mut cell), Ok(at == target));
        }
        target + 1
    }

    fn backward(&mut self, speaker: usize) -> usize {
        let mut cell = cell(speaker as u8 + 1);
        self.hops[speaker].1.originate(&mut cell).unwrap();
        for (_, hop) in self.hops[..speaker].iter_mut().rev() {
            hop.relay(&mut cell).unwrap();
        }
        assert_eq!(self.origin.open(&mut cell), Ok(speaker));
        speaker + 1
    }
}

fn link(secret: &DhSecret, suite: Suite, psk: Option<Key32>, rng: &mut StdRng) -> [LinkKeys; 2] {
    let peer = LinkPeer {
        link_key: secret.public(),
        suite,
        digest: [8; 32],
        psk,
    };
    let (initiator, message) = LinkInitiator::start(&peer, rng).unwrap();
    let (answer, theirs) = respond(secret, &peer, &message, rng).unwrap();
    [initiator.finish(&answer).unwrap(), theirs]
}

/// Seals per link handshake: the payloads of both messages. Per hop handshake likewise.
const HANDSHAKE_SEALS: usize = 2;

#[derive(Clone, Copy, Debug)]
enum Step {
    Extend,
    Forward(usize),
    Backward(usize),
    Link(usize, usize, bool),
    NewLink(bool),
    NewCircuit,
}

fn steps() -> impl Strategy<Value = Vec<(Step, u16)>> {
    let step = prop_oneof![
        Just(Step::Extend),
        (0..3_usize).prop_map(Step::Forward),
        (0..3_usize).prop_map(Step::Backward),
        (0..4_usize, 0..2_usize, any::<bool>()).prop_map(|(l, end, bulk)| Step::Link(l, end, bulk)),
        any::<bool>().prop_map(Step::NewLink),
        Just(Step::NewCircuit),
    ];
    // Repeated often enough to cross blocks of pads and masks, and ratchets.
    prop::collection::vec((step, prop_oneof![1..3_u16, 1..300_u16]), 1..25)
}

/// All parties use the same static key, as they would at one relay, and share the ledger.
fn run(steps: &[(Step, u16)], suites: [Suite; 3], seed: u64) -> usize {
    let mut rng = StdRng::seed_from_u64(seed);
    let secret = DhSecret::generate(&mut rng);
    let mut circuit = Circuit::empty();
    let mut links = vec![link(&secret, suites[0], None, &mut rng)];
    let mut seals = HANDSHAKE_SEALS;
    for &(step, times) in steps {
        match step {
            Step::NewLink(psk) => {
                let psk = psk.then(|| Key32::new([3; 32]));
                links.push(link(&secret, suites[links.len() % 3], psk, &mut rng));
                seals += HANDSHAKE_SEALS;
            }
            Step::NewCircuit => circuit = Circuit::empty(),
            Step::Extend => {
                let hops = circuit.hops.len();
                if hops < MAX_HOPS {
                    circuit.extend(&secret, suites[hops], &mut rng);
                    seals += HANDSHAKE_SEALS;
                }
            }
            Step::Forward(_) | Step::Backward(_) | Step::Link(..) => {}
        }
        for _ in 0..times {
            seals += match step {
                Step::Forward(hop) if hop < circuit.hops.len() => circuit.forward(hop, &mut rng),
                Step::Backward(hop) if hop < circuit.hops.len() => circuit.backward(hop),
                Step::Link(at, end, bulk) => {
                    let count = links.len();
                    frame(&mut links[at % count], end, bulk)
                }
                Step::Forward(_) | Step::Backward(_) => 0,
                Step::Extend | Step::NewLink(_) | Step::NewCircuit => 0,
            };
        }
    }
    seals
}

fn frame(link: &mut [LinkKeys; 2], from: usize, bulk: bool) -> usize {
    let class = if bulk { Class::Bulk } else { Class::Small };
    let header = Header {
        circuit: 9,
        kind: FrameType::Data,
        class,
        credit: 0,
    };
    let mut frame = vec![1; class.frame_len()];
    link[from].sealer.seal(header, &mut frame).unwrap();
    assert_eq!(link[1 - from].opener.open(&mut frame), Ok(header));
    1
}

fn check(ledger: &audit::Ledger, seals: usize) {
    // The ledger has failed already if a pair came twice; that it saw every seal shows that it was looking.
    assert_eq!(ledger.seals.len(), seals);
    let data: BTreeSet<_> = ledger.seals.keys().map(|(key, _)| key).collect();
    let masks: BTreeSet<_> = ledger.keystreams.keys().map(|(key, _)| key).collect();
    assert!(data.is_disjoint(&masks), "a keystream key also seals");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_key_and_nonce_pair_is_sealed_twice(
        steps in steps(),
        aes in any::<[bool; 3]>(),
        seed: u64,
    ) {
        let suites = aes.map(|aes| if aes { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 });
        let mut seals = 0;
        let ledger = audit::record(|| seals = run(&steps, suites, seed));
        check(&ledger, seals);
    }
}

#[test]
fn no_key_and_nonce_pair_is_sealed_twice_across_every_kind_of_ratchet() {
    let steps = [
        (Step::Extend, 1),
        (Step::Extend, 1),
        (Step::Extend, 1),
        (Step::Forward(2), 700),
        (Step::Backward(2), 700),
        (Step::Forward(0), 300),
        (Step::Backward(1), 300),
        (Step::Link(0, 0, false), u16::MAX),
        (Step::Link(0, 1, false), u16::MAX),
        (Step::Link(0, 0, true), 70),
        (Step::Link(0, 1, true), 70),
    ];
    let mut seals = 0;
    let ledger = audit::record(|| seals = run(&steps, [Suite::Aes256Gcm; 3], 1));
    check(&ledger, seals);
}

#[test]
#[should_panic(expected = "sealed twice")]
fn the_ledger_notices_a_key_that_two_parties_seal_with() {
    audit::record(|| {
        BackwardHop::new(keys(Suite::Aes256Gcm, 1))
            .originate(&mut cell(0))
            .unwrap();
        BackwardHop::new(keys(Suite::Aes256Gcm, 1))
            .originate(&mut cell(0))
            .unwrap();
    });
}

#[test]
fn a_direction_ends_at_its_last_cell() {
    let suite = Suite::ChaCha20Poly1305;
    let mut rng = StdRng::seed_from_u64(2);
    let (mut forward, mut backward) = (
        ForwardHop::new(keys(suite, 1)),
        BackwardHop::new(keys(suite, 0x41)),
    );
    let mut origin = OriginLayers::new();
    origin.push_hop(hop_keys(suite, 1)).unwrap();
    for layer in [
        &mut *forward.0,
        &mut *backward.0,
        &mut origin.forward[0],
        &mut origin.backward[0],
    ] {
        layer.counter.set(MAX_CELLS - 1);
    }
    let mut last = cell(1);
    origin.seal(0, &mut last, &mut rng).unwrap();
    assert_eq!(forward.open(&mut last), Ok(true));
    backward.originate(&mut last).unwrap();
    assert_eq!(origin.open(&mut last), Ok(0));

    let mut over = cell(1);
    assert_eq!(origin.seal(0, &mut over, &mut rng), Err(LayerError::Ended));
    assert_eq!(over, [0; SMALL_CELL], "it can't leave in plain");
    for seal in [BackwardHop::relay, BackwardHop::originate] {
        let mut over = cell(1);
        assert_eq!(seal(&mut backward, &mut over), Err(LayerError::Ended));
        assert_eq!(over, [0; SMALL_CELL], "it can't leave in plain");
    }
    assert_eq!(forward.open(&mut over), Err(LayerError::Ended));
    assert_eq!(origin.open(&mut over), Err(LayerError::Ended));
}

#[test]
fn an_origin_seals_no_layer_when_one_of_them_has_ended() {
    let suite = Suite::Aes256Gcm;
    let mut origin = OriginLayers::new();
    for label in 1..=3 {
        origin.push_hop(hop_keys(suite, label)).unwrap();
    }
    origin.forward[0].counter.end();
    let mut rng = StdRng::seed_from_u64(3);
    let ledger = audit::record(|| {
        assert_eq!(
            origin.seal(2, &mut cell(1), &mut rng),
            Err(LayerError::Ended)
        );
    });
    assert!(ledger.seals.is_empty());
    assert_eq!(origin.forward[2].counter.get(), Some(0));
}

#[test]
fn a_ratchet_forgets_the_key_before_it_as_soon_as_its_last_cell_is_handled() {
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        let mut rng = StdRng::seed_from_u64(4);
        let mut origin = OriginLayers::new();
        origin.push_hop(hop_keys(suite, 1)).unwrap();
        let mut hop = ForwardHop::new(keys(suite, 1));
        let mut last = Vec::new();
        for _ in 0..CELLS_PER_RATCHET {
            last = cell(1);
            origin.seal(0, &mut last, &mut rng).unwrap();
            assert_eq!(hop.open(&mut last.clone()), Ok(true));
        }
        // Neither end can open the cell that it has just handled.
        let (slots, body) = split(&mut last).unwrap();
        let [tag, ..] = read(slots);
        for layer in [&hop.0, &origin.forward[0]] {
            let key = &layer.key.aead;
            let opened = key.open(
                CELLS_PER_RATCHET - 1,
                &slots[TAG_LEN..],
                &tag,
                &mut body.to_vec(),
            );
            assert!(opened.is_err());
        }
        // With the key of before, it does open: the check above is about the key.
        let old = RatchetKey::new(suite, Key32::new([1; 32]));
        old.aead
            .open(CELLS_PER_RATCHET - 1, &slots[TAG_LEN..], &tag, body)
            .unwrap();
    }
}

#[test]
fn directions_can_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<(
        ForwardHop,
        BackwardHop,
        OriginLayers,
        LinkKeys,
        LinkInitiator,
        HopInitiator,
    )>();
}
