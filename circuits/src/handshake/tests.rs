//! Hop handshakes that must fail, and how.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::layers::{BackwardHop, OriginLayers};

/// Encodings of the points of order 1, 2, 4 and 8 on Curve25519 and its twist, canonical and not: every one makes an
/// all-zero shared secret (RFC 7748, section 7).
pub(crate) fn low_order_keys() -> Vec<[u8; 32]> {
    let mut keys = vec![[0; 32], [0; 32]];
    keys[1][0] = 1;
    for hex in [
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ] {
        let key = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
        keys.push(key.try_into().unwrap());
    }
    // The highest bit is ignored.
    let high = keys.clone().into_iter().map(|mut key| {
        key[31] |= 0x80;
        key
    });
    keys.extend(high);
    keys
}

fn hop(rng: &mut StdRng) -> (DhSecret, HopPeer) {
    let secret = DhSecret::generate(rng);
    let peer = HopPeer {
        onion_key: secret.public(),
        suite: Suite::Aes256Gcm,
        digest: [5; 32],
    };
    (secret, peer)
}

#[test]
fn both_ends_get_the_same_keys() {
    let mut rng = StdRng::seed_from_u64(1);
    let (secret, peer) = hop(&mut rng);
    let (initiator, message) = HopInitiator::start(&peer, &mut rng).unwrap();
    let (answer, theirs) = hop_respond(&secret, &peer, &message, &mut rng).unwrap();
    let mut origin = OriginLayers::new();
    origin.push_hop(initiator.finish(&answer).unwrap()).unwrap();
    let mut cell = [0; 992];
    BackwardHop::new(theirs.backward)
        .originate(&mut cell)
        .unwrap();
    assert_eq!(origin.open(&mut cell), Ok(0));
}

#[test]
fn a_hop_refuses_a_message_for_another_descriptor_suite_or_key() {
    let mut rng = StdRng::seed_from_u64(2);
    let (secret, peer) = hop(&mut rng);
    let other = DhSecret::generate(&mut rng).public();
    for wrong in [
        HopPeer {
            digest: [6; 32],
            ..peer
        },
        HopPeer {
            suite: Suite::ChaCha20Poly1305,
            ..peer
        },
        HopPeer {
            onion_key: other,
            ..peer
        },
    ] {
        let (_, message) = HopInitiator::start(&wrong, &mut rng).unwrap();
        let refused = hop_respond(&secret, &peer, &message, &mut rng);
        assert_eq!(refused.err(), Some(HandshakeError::Unreadable));
    }
}

#[test]
fn an_origin_refuses_the_answer_of_another_handshake() {
    let mut rng = StdRng::seed_from_u64(3);
    let (secret, peer) = hop(&mut rng);
    let (_, first) = HopInitiator::start(&peer, &mut rng).unwrap();
    let (second, _) = HopInitiator::start(&peer, &mut rng).unwrap();
    let (answer, _) = hop_respond(&secret, &peer, &first, &mut rng).unwrap();
    assert_eq!(
        second.finish(&answer).err(),
        Some(HandshakeError::Unreadable)
    );
}

#[test]
fn low_order_keys_are_refused_by_both_ends() {
    let mut rng = StdRng::seed_from_u64(4);
    let (secret, peer) = hop(&mut rng);
    for low in low_order_keys() {
        let started = HopInitiator::start(
            &HopPeer {
                onion_key: low,
                ..peer
            },
            &mut rng,
        );
        assert_eq!(started.err(), Some(HandshakeError::LowOrder));

        let (initiator, mut message) = HopInitiator::start(&peer, &mut rng).unwrap();
        let (mut answer, _) = hop_respond(&secret, &peer, &message, &mut rng).unwrap();
        message[..32].copy_from_slice(&low);
        let refused = hop_respond(&secret, &peer, &message, &mut rng);
        assert_eq!(refused.err(), Some(HandshakeError::LowOrder));
        answer[KEM_CIPHERTEXT_LEN..][..32].copy_from_slice(&low);
        assert_eq!(
            initiator.finish(&answer).err(),
            Some(HandshakeError::LowOrder)
        );
    }
}

#[test]
fn an_encapsulation_key_with_coefficients_out_of_range_is_refused() {
    let mut rng = StdRng::seed_from_u64(5);
    let (secret, peer) = hop(&mut rng);
    let mut state = peer
        .begin(&Role::Initiator(&peer.onion_key), &mut rng)
        .unwrap();
    let mut message = [0; CREATE_LEN];
    noise::write(&mut state, &[0xff; KEM_KEY_LEN], &mut message).unwrap();
    let refused = hop_respond(&secret, &peer, &message, &mut rng);
    assert_eq!(refused.err(), Some(HandshakeError::BadKemKey));
}

#[test]
fn the_ml_kem_secret_is_part_of_the_keys() {
    // A hop that answers with another secret than the one it sent is not understood, though all of X25519 agrees.
    let mut rng = StdRng::seed_from_u64(6);
    let (secret, peer) = hop(&mut rng);
    let (initiator, message) = HopInitiator::start(&peer, &mut rng).unwrap();
    let (mut answer, _) = hop_respond(&secret, &peer, &message, &mut rng).unwrap();
    answer[0] ^= 1;
    assert_eq!(
        initiator.finish(&answer).err(),
        Some(HandshakeError::Unreadable)
    );
}

#[test]
fn the_same_randomness_makes_the_same_messages() {
    let run = || {
        let mut rng = StdRng::seed_from_u64(7);
        let (secret, peer) = hop(&mut rng);
        let (_, message) = HopInitiator::start(&peer, &mut rng).unwrap();
        (
            message,
            hop_respond(&secret, &peer, &message, &mut rng).unwrap().0,
        )
    };
    assert_eq!(run(), run());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_changed_byte_anywhere_is_refused(at in 0..CREATE_LEN + CREATED_LEN, bits in 1_u8.., seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let (secret, peer) = hop(&mut rng);
        let (initiator, mut message) = HopInitiator::start(&peer, &mut rng).unwrap();
        if at < CREATE_LEN {
            message[at] ^= bits;
            prop_assert!(hop_respond(&secret, &peer, &message, &mut rng).is_err());
        } else {
            let (mut answer, _) = hop_respond(&secret, &peer, &message, &mut rng).unwrap();
            answer[at - CREATE_LEN] ^= bits;
            prop_assert!(initiator.finish(&answer).is_err());
        }
    }

    #[test]
    fn random_messages_are_refused(bytes in prop::collection::vec(any::<u8>(), CREATE_LEN), seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let (secret, peer) = hop(&mut rng);
        let message = bytes.first_chunk().unwrap();
        prop_assert!(hop_respond(&secret, &peer, message, &mut rng).is_err());
        let (initiator, _) = HopInitiator::start(&peer, &mut rng).unwrap();
        prop_assert!(initiator.finish(bytes.first_chunk().unwrap()).is_err());
    }
}
