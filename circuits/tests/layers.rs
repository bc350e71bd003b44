//! Onion layers as PROTOCOL.md §4 has them: against a model that reads the section literally, and against an
//! attacker who changes, drops, repeats and reorders cells at every place.
#![allow(clippy::unwrap_used)]

use hushswarm_circuits::frame::{Class, SLOTS_LEN, TAG_LEN};
use hushswarm_circuits::handshake::HopKeys;
use hushswarm_circuits::keys::{Key32, Suite};
use hushswarm_circuits::layers::{
    BackwardHop, ForwardHop, LayerError, LayerKeys, MARK_LEN, MAX_HOPS, OriginLayers,
};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

const AES: Suite = Suite::Aes256Gcm;
const CHACHA: Suite = Suite::ChaCha20Poly1305;
const CELL: usize = SLOTS_LEN + Class::Small.body_len();

/// A raw key that says whose it is.
fn raw(hop: usize, use_of: &str) -> [u8; 32] {
    blake3::derive_key(
        "hushswarm test layers",
        format!("{use_of} {hop}").as_bytes(),
    )
}

fn keys(hop: usize, suite: Suite, direction: &str) -> LayerKeys {
    let key = |part| Key32::new(raw(hop, &format!("{direction} {part}")));
    LayerKeys::new(suite, key("aead"), key("pad"))
}

/// An origin and its hops.
struct Circuit {
    origin: OriginLayers,
    forward: Vec<ForwardHop>,
    backward: Vec<BackwardHop>,
    rng: StdRng,
}

impl Circuit {
    fn new(suites: &[Suite]) -> Self {
        let mut origin = OriginLayers::new();
        for (hop, &suite) in suites.iter().enumerate() {
            let (forward, backward) = (keys(hop, suite, "forward"), keys(hop, suite, "backward"));
            let binding = Key32::new([0; 32]);
            let keys = HopKeys {
                forward,
                backward,
                binding,
            };
            origin.push_hop(keys).unwrap();
        }
        let each = || suites.iter().copied().enumerate();
        Self {
            origin,
            forward: each()
                .map(|(i, s)| ForwardHop::new(keys(i, s, "forward")))
                .collect(),
            backward: each()
                .map(|(i, s)| BackwardHop::new(keys(i, s, "backward")))
                .collect(),
            rng: StdRng::seed_from_u64(1),
        }
    }

    fn sealed(&mut self, target: usize, plain: &[u8]) -> Vec<u8> {
        let mut cell = plain.to_vec();
        self.origin.seal(target, &mut cell, &mut self.rng).unwrap();
        cell
    }

    /// A cell of `speaker` as 0-based hop `at` sends it on towards the origin.
    fn spoken(&mut self, speaker: usize, at: usize, plain: &[u8]) -> Vec<u8> {
        let mut cell = plain.to_vec();
        self.backward[speaker].originate(&mut cell).unwrap();
        self.relayed(at..speaker, &mut cell);
        cell
    }

    fn relayed(&mut self, hops: std::ops::Range<usize>, cell: &mut [u8]) {
        for hop in self.backward[hops].iter_mut().rev() {
            hop.relay(cell).unwrap();
        }
    }
}

fn plain(class: Class, seed: u64) -> Vec<u8> {
    let mut cell = vec![0; SLOTS_LEN + class.body_len()];
    StdRng::seed_from_u64(seed).fill_bytes(&mut cell[SLOTS_LEN + MARK_LEN..]);
    cell
}

fn body(cell: &[u8]) -> &[u8] {
    &cell[SLOTS_LEN..]
}

/// One direction at one hop, straight from the text: every key and pad is derived anew for every cell.
struct Model {
    suite: Suite,
    aead: [u8; 32],
    pad: [u8; 32],
    count: u64,
}

impl Model {
    fn new(hop: usize, suite: Suite, direction: &str) -> Self {
        let key = |part| raw(hop, &format!("{direction} {part}"));
        Self {
            suite,
            aead: key("aead"),
            pad: key("pad"),
            count: 0,
        }
    }

    fn key(&self, bytes: &[u8; 32]) -> LessSafeKey {
        let algorithm = if self.suite == AES {
            &AES_256_GCM
        } else {
            &CHACHA20_POLY1305
        };
        LessSafeKey::new(UnboundKey::new(algorithm, bytes).unwrap())
    }

    fn ratcheted(&self, key: [u8; 32], context: &str) -> [u8; 32] {
        (0..self.count / 256).fold(key, |key, _| blake3::derive_key(context, &key))
    }

    fn sealing_key(&self) -> LessSafeKey {
        self.key(&self.ratcheted(self.aead, "hushswarm v1 ratchet aead"))
    }

    fn pads(&self) -> Vec<Vec<u8>> {
        let key = self.key(&self.ratcheted(self.pad, "hushswarm v1 ratchet pad"));
        let mut stream = [0; 768];
        let _ = key
            .seal_in_place_separate_tag(nonce(self.count / 16), Aad::empty(), &mut stream)
            .unwrap();
        let start = 48 * (self.count % 16) as usize;
        stream[start..start + 48]
            .chunks(16)
            .map(<[u8]>::to_vec)
            .collect()
    }

    /// §4.1; `None` is a failure.
    fn open(&mut self, cell: &[u8]) -> Option<(bool, Vec<u8>)> {
        let tag: [u8; 16] = cell[..16].try_into().unwrap();
        let aad = Aad::from(&cell[16..48]);
        let mut body = cell[48..].to_vec();
        self.sealing_key()
            .open_in_place_separate_tag(nonce(self.count), aad, tag.into(), &mut body, 0..)
            .ok()?;
        let p = self.pads();
        let out = [
            xor(&cell[16..32], &p[0]),
            xor(&cell[32..48], &p[1]),
            p[2].clone(),
            body,
        ];
        self.count += 1;
        Some((out[3].starts_with(&[0; 8]), out.concat()))
    }

    /// §4.3, the hop's side; the slots of a cell of its own are zero.
    fn relay(&mut self, cell: &[u8]) -> Vec<u8> {
        let mut body = cell[48..].to_vec();
        let tag = self
            .sealing_key()
            .seal_in_place_separate_tag(nonce(self.count), Aad::empty(), &mut body)
            .unwrap();
        let p = self.pads();
        self.count += 1;
        let (s1, s2) = (xor(&cell[..16], &p[0]), xor(&cell[16..32], &p[1]));
        [tag.as_ref().to_vec(), s1, s2, body].concat()
    }
}

fn nonce(count: u64) -> Nonce {
    let bytes = [&[0; 4][..], &count.to_be_bytes()].concat();
    Nonce::assume_unique_for_key(bytes.try_into().unwrap())
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

fn suites() -> impl Strategy<Value = Vec<Suite>> {
    prop::collection::vec(prop_oneof![Just(AES), Just(CHACHA)], 1..=MAX_HOPS)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn cells_read_the_same_at_their_hop_only_and_move_as_the_text_says(
        suites in suites(),
        cells in prop::collection::vec((0..MAX_HOPS, any::<bool>(), any::<bool>(), any::<u64>()), 1..80),
    ) {
        let mut circuit = Circuit::new(&suites);
        let model = |direction| -> Vec<_> {
            suites.iter().enumerate().map(|(i, &s)| Model::new(i, s, direction)).collect()
        };
        let (mut forward, mut backward) = (model("forward"), model("backward"));
        for (hop, is_forward, is_bulk, seed) in cells {
            let hop = hop % suites.len();
            let plain = plain(if is_bulk { Class::Bulk } else { Class::Small }, seed);
            if is_forward {
                let mut cell = circuit.sealed(hop, &plain);
                let hops = forward.iter_mut().zip(&mut circuit.forward);
                for (at, (model, real)) in hops.enumerate().take(hop + 1) {
                    let (recognised, expected) = model.open(&cell).unwrap();
                    prop_assert_eq!(recognised, at == hop);
                    prop_assert_eq!(real.open(&mut cell), Ok(recognised));
                    prop_assert_eq!(&cell, &expected);
                }
                prop_assert_eq!(body(&cell), body(&plain));
            } else {
                let mut cell = plain.clone();
                // Whatever was in the slots before.
                cell[..SLOTS_LEN].fill(seed as u8);
                circuit.backward[hop].originate(&mut cell).unwrap();
                prop_assert_eq!(&cell, &backward[hop].relay(&plain));
                for at in (0..hop).rev() {
                    let expected = backward[at].relay(&cell);
                    circuit.backward[at].relay(&mut cell).unwrap();
                    prop_assert_eq!(&cell, &expected);
                }
                prop_assert_eq!(circuit.origin.open(&mut cell), Ok(hop));
                prop_assert_eq!(body(&cell), body(&plain));
            }
        }
    }

    #[test]
    fn a_changed_byte_in_a_bulk_cell_is_refused(
        suites in suites(),
        (target, at, place) in (0..MAX_HOPS, 0..MAX_HOPS, 0..SLOTS_LEN + Class::Bulk.body_len()),
        bits in 1_u8..,
    ) {
        let target = target % suites.len();
        refuse_forward(&suites, target, at % (target + 1), place, bits, Class::Bulk);
        refuse_backward(&suites, target, at % (target + 1), place, bits, Class::Bulk);
    }

    #[test]
    fn random_bytes_are_never_a_cell(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..5000),
            prop::collection::vec(any::<u8>(), CELL),
        ],
        suites in suites(),
    ) {
        let mut circuit = Circuit::new(&suites);
        prop_assert!(circuit.forward[0].open(&mut bytes.clone()).is_err());
        prop_assert!(circuit.origin.open(&mut bytes.clone()).is_err());
        let is_cell = [Class::Bulk, Class::Small]
            .iter()
            .any(|class| bytes.len() == SLOTS_LEN + class.body_len());
        prop_assert_eq!(circuit.backward[0].relay(&mut bytes.clone()).is_ok(), is_cell);
        prop_assert_eq!(circuit.backward[0].originate(&mut bytes.clone()).is_ok(), is_cell);
        let mut rng = StdRng::seed_from_u64(1);
        prop_assert_eq!(circuit.origin.seal(0, &mut bytes.clone(), &mut rng).is_ok(), is_cell);
    }
}

/// A cell for `target` of which one byte is changed on its way to hop `at`.
fn refuse_forward(
    suites: &[Suite],
    target: usize,
    at: usize,
    place: usize,
    bits: u8,
    class: Class,
) {
    let mut circuit = Circuit::new(suites);
    let mut cell = circuit.sealed(target, &plain(class, 1));
    for hop in &mut circuit.forward[..at] {
        assert_eq!(hop.open(&mut cell), Ok(false));
    }
    cell[place] ^= bits;
    let hop = &mut circuit.forward[at];
    assert_eq!(
        hop.open(&mut cell),
        Err(LayerError::Forged { hop: 0 }),
        "byte {place} at hop {at}"
    );
    assert!(cell.iter().all(|&b| b == 0), "nothing of it is delivered");

    let mut next = circuit.sealed(target, &plain(class, 2));
    for hop in &mut circuit.forward[..at] {
        hop.open(&mut next).unwrap();
    }
    assert_eq!(circuit.forward[at].open(&mut next), Err(LayerError::Ended));
}

/// A cell of `speaker` of which one byte is changed after hop `at` has sent it on.
fn refuse_backward(
    suites: &[Suite],
    speaker: usize,
    at: usize,
    place: usize,
    bits: u8,
    class: Class,
) {
    let mut circuit = Circuit::new(suites);
    let plain = plain(class, 1);
    let mut cell = circuit.spoken(speaker, at, &plain);
    cell[place] ^= bits;
    circuit.relayed(0..at, &mut cell);
    let opened = circuit.origin.open(&mut cell);
    // The slot leaves hop `at` in this place and is shifted by one at every hop that it still passes.
    let slot = place / TAG_LEN;
    let expected = if place >= SLOTS_LEN {
        Err(LayerError::Forged { hop: at })
    } else if slot + at >= MAX_HOPS {
        // Shifted out before it reaches the origin.
        Ok(speaker)
    } else if slot + at <= speaker {
        // The tag of that hop's layer.
        Err(LayerError::Forged { hop: slot + at })
    } else {
        Err(LayerError::BadSlots { hop: speaker })
    };
    assert_eq!(
        opened, expected,
        "byte {place} after hop {at} of a cell of hop {speaker}"
    );
    if opened.is_ok() {
        assert_eq!(body(&cell), body(&plain));
    } else {
        assert!(cell.iter().all(|&b| b == 0), "nothing of it is delivered");
        let mut next = circuit.spoken(speaker, 0, &plain);
        assert_eq!(circuit.origin.open(&mut next), Err(LayerError::Ended));
    }
}

#[test]
fn a_changed_byte_at_any_place_and_hop_is_refused() {
    for suites in [&[AES][..], &[CHACHA, AES], &[AES, CHACHA, AES]] {
        for target in 0..suites.len() {
            for at in 0..=target {
                for place in 0..CELL {
                    refuse_forward(suites, target, at, place, 0x01, Class::Small);
                    refuse_backward(suites, target, at, place, 0x80, Class::Small);
                }
            }
        }
    }
}

#[test]
fn cells_that_were_dropped_reordered_or_replayed_are_refused() {
    for order in [&[0, 0][..], &[1], &[0, 2], &[0, 1, 0]] {
        let (wrong, right) = order.split_last().unwrap();
        for at in 0..MAX_HOPS {
            // Forward: the cells as hop `at` receives them, then in another order.
            let mut circuit = Circuit::new(&[AES, CHACHA, AES]);
            let cells: Vec<_> = (0..3)
                .map(|n| {
                    let mut cell = circuit.sealed(2, &plain(Class::Small, n));
                    for hop in &mut circuit.forward[..at] {
                        hop.open(&mut cell).unwrap();
                    }
                    cell
                })
                .collect();
            for &n in right {
                circuit.forward[at].open(&mut cells[n].clone()).unwrap();
            }
            let refused = circuit.forward[at].open(&mut cells[*wrong].clone());
            assert_eq!(
                refused,
                Err(LayerError::Forged { hop: 0 }),
                "{order:?} before hop {at}"
            );

            // Backward: the cells as hop `at` sends them, then in another order.
            let mut circuit = Circuit::new(&[AES, CHACHA, AES]);
            let cells: Vec<_> = (0..3)
                .map(|n| circuit.spoken(2, at, &plain(Class::Small, n)))
                .collect();
            let mut arrive = |n: usize| {
                let mut cell = cells[n].clone();
                circuit.relayed(0..at, &mut cell);
                circuit.origin.open(&mut cell)
            };
            for &n in right {
                arrive(n).unwrap();
            }
            assert_eq!(
                arrive(*wrong),
                Err(LayerError::Forged { hop: at }),
                "{order:?} after hop {at}"
            );
        }
    }
}

#[test]
fn layers_ratchet_as_the_text_says_with_hops_at_different_counts() {
    let suites = [CHACHA, AES, AES];
    let mut circuit = Circuit::new(&suites);
    let model = |direction| [0, 1, 2].map(|hop| Model::new(hop, suites[hop], direction));
    let (mut forward, mut backward) = (model("forward"), model("backward"));
    for n in 0..1_600_u64 {
        // Hop 0 handles all cells, hop 1 most, hop 2 a third: they ratchet at different cells.
        let hop = (n % 3) as usize;
        let plain = plain(Class::Small, n);
        let mut cell = circuit.sealed(hop, &plain);
        let hops = forward.iter_mut().zip(&mut circuit.forward);
        for (at, (model, real)) in hops.enumerate().take(hop + 1) {
            let (_, expected) = model.open(&cell).unwrap();
            assert_eq!(real.open(&mut cell), Ok(at == hop), "cell {n}");
            assert_eq!(cell, expected);
        }
        assert_eq!(body(&cell), body(&plain));
        let mut cell = circuit.spoken(hop, 0, &plain);
        let relayed = |cell: Vec<u8>, model: &mut Model| model.relay(&cell);
        assert_eq!(
            cell,
            backward[..=hop]
                .iter_mut()
                .rev()
                .fold(plain.clone(), relayed)
        );
        assert_eq!(circuit.origin.open(&mut cell), Ok(hop), "cell {n}");
        assert_eq!(body(&cell), body(&plain));
    }
}

#[test]
fn a_body_without_the_mark_is_for_nobody() {
    for hops in 1..=MAX_HOPS {
        let mut circuit = Circuit::new(&[AES, CHACHA, AES][..hops]);
        let mut unmarked = plain(Class::Small, 1);
        unmarked[SLOTS_LEN] = 1;
        let mut cell = circuit.sealed(hops - 1, &unmarked);
        for hop in &mut circuit.forward {
            assert_eq!(hop.open(&mut cell), Ok(false));
        }
        let mut cell = circuit.spoken(hops - 1, 0, &unmarked);
        assert_eq!(
            circuit.origin.open(&mut cell),
            Err(LayerError::Unrecognised)
        );
        assert!(cell.iter().all(|&b| b == 0));
    }
}

#[test]
fn equal_bodies_for_farther_hops_look_new_to_the_first_one_every_time() {
    let mut circuit = Circuit::new(&[AES, AES, AES]);
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..40 {
        let mut cell = circuit.sealed(1 + n % 2, &plain(Class::Small, 1));
        assert_eq!(circuit.forward[0].open(&mut cell), Ok(false));
        for piece in cell.chunks(TAG_LEN) {
            assert!(seen.insert(piece.to_vec()));
        }
        for hop in &mut circuit.forward[1..2 + n % 2] {
            hop.open(&mut cell).unwrap();
        }
    }
}

#[test]
fn an_origin_refuses_hops_that_it_does_not_have() {
    let mut circuit = Circuit::new(&[AES, AES, AES]);
    let more = HopKeys {
        forward: keys(3, AES, "forward"),
        backward: keys(3, AES, "backward"),
        binding: Key32::new([0; 32]),
    };
    assert_eq!(circuit.origin.push_hop(more), Err(LayerError::NoSuchHop));
    assert_eq!(circuit.origin.hops(), MAX_HOPS);
    let mut rng = StdRng::seed_from_u64(1);
    for hop in [3, usize::MAX] {
        let refused = circuit
            .origin
            .seal(hop, &mut plain(Class::Small, 1), &mut rng);
        assert_eq!(refused, Err(LayerError::NoSuchHop));
    }
    assert_eq!(
        OriginLayers::new().open(&mut plain(Class::Small, 1)),
        Err(LayerError::Unrecognised)
    );
}
