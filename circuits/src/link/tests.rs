//! Links: handshakes that must fail, and frames that must not open.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::frame::{BODY_OFFSET, CELL_OFFSET, Class, FrameType, HEADER_LEN, Header, SMALL_LEN};
use crate::handshake::tests::low_order_keys;
use crate::keys::{DhSecret, IdentityKey, Key32, Suite};

fn relay(suite: Suite, psk: Option<Key32>, rng: &mut StdRng) -> (DhSecret, LinkPeer) {
    let secret = DhSecret::generate(rng);
    let peer = LinkPeer {
        link_key: secret.public(),
        suite,
        digest: [5; 32],
        psk,
    };
    (secret, peer)
}

fn link(suite: Suite, seed: u64) -> [LinkKeys; 2] {
    let mut rng = StdRng::seed_from_u64(seed);
    let (secret, peer) = relay(suite, None, &mut rng);
    let (initiator, message) = LinkInitiator::start(&peer, &mut rng).unwrap();
    let (answer, theirs) = respond(&secret, &peer, &message, &mut rng).unwrap();
    [initiator.finish(&answer).unwrap(), theirs]
}

fn header(class: Class, credit: u16) -> Header {
    Header {
        circuit: 0x0102_0304,
        kind: FrameType::Data,
        class,
        credit,
    }
}

fn sealed(sealer: &mut LinkSealer, class: Class, fill: u8) -> Vec<u8> {
    let mut frame = vec![fill; class.frame_len()];
    sealer
        .seal(header(class, u16::from(fill)), &mut frame)
        .unwrap();
    frame
}

const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

#[test]
fn frames_of_both_lengths_arrive_in_both_directions() {
    for suite in SUITES {
        for psk in [None, Some(Key32::new([9; 32]))] {
            let mut rng = StdRng::seed_from_u64(1);
            let (secret, peer) = relay(suite, psk, &mut rng);
            let (initiator, message) = LinkInitiator::start(&peer, &mut rng).unwrap();
            let (answer, mut b) = respond(&secret, &peer, &message, &mut rng).unwrap();
            let mut a = initiator.finish(&answer).unwrap();
            assert_eq!(a.hash, b.hash);
            for n in 0..200_u8 {
                let class = if n % 3 == 0 {
                    Class::Bulk
                } else {
                    Class::Small
                };
                for (from, to) in [
                    (&mut a.sealer, &mut b.opener),
                    (&mut b.sealer, &mut a.opener),
                ] {
                    let mut frame = sealed(from, class, n);
                    let head = frame.first_chunk().unwrap();
                    assert_eq!(to.peek(head), Ok(header(class, u16::from(n))));
                    assert_eq!(to.open(&mut frame), Ok(header(class, u16::from(n))));
                    assert!(frame[CELL_OFFSET..].iter().all(|&b| b == n));
                }
            }
        }
    }
}

#[test]
fn a_responder_refuses_an_initiator_that_knows_something_else() {
    let mut rng = StdRng::seed_from_u64(2);
    let psk = Some(Key32::new([1; 32]));
    for own_psk in [None, psk.clone()] {
        let (secret, own) = relay(Suite::Aes256Gcm, own_psk.clone(), &mut rng);
        let other_psk = if own_psk.is_some() { None } else { psk.clone() };
        let other_key = DhSecret::generate(&mut rng).public();
        for wrong in [
            LinkPeer {
                digest: [6; 32],
                ..own.clone()
            },
            LinkPeer {
                suite: Suite::ChaCha20Poly1305,
                ..own.clone()
            },
            LinkPeer {
                link_key: other_key,
                ..own.clone()
            },
            LinkPeer {
                psk: other_psk,
                ..own.clone()
            },
            LinkPeer {
                psk: Some(Key32::new([2; 32])),
                ..own.clone()
            },
        ] {
            let (_, message) = LinkInitiator::start(&wrong, &mut rng).unwrap();
            let refused = respond(&secret, &own, &message, &mut rng);
            assert_eq!(refused.err(), Some(HandshakeError::Unreadable));
        }
    }
}

#[test]
fn low_order_keys_are_refused_by_both_ends() {
    let mut rng = StdRng::seed_from_u64(3);
    for psk in [None, Some(Key32::new([1; 32]))] {
        let (secret, peer) = relay(Suite::Aes256Gcm, psk, &mut rng);
        for low in low_order_keys() {
            let started = LinkInitiator::start(
                &LinkPeer {
                    link_key: low,
                    ..peer.clone()
                },
                &mut rng,
            );
            assert_eq!(started.err(), Some(HandshakeError::LowOrder));

            let (initiator, mut message) = LinkInitiator::start(&peer, &mut rng).unwrap();
            let (mut answer, _) = respond(&secret, &peer, &message, &mut rng).unwrap();
            message[..32].copy_from_slice(&low);
            let refused = respond(&secret, &peer, &message, &mut rng);
            assert_eq!(refused.err(), Some(HandshakeError::LowOrder));
            answer[..32].copy_from_slice(&low);
            assert_eq!(
                initiator.finish(&answer).err(),
                Some(HandshakeError::LowOrder)
            );
        }
    }
}

#[test]
fn a_changed_byte_at_any_place_of_a_frame_closes_the_link() {
    for suite in SUITES {
        for at in 0..SMALL_LEN {
            let [mut a, mut b] = link(suite, 4);
            let mut frame = sealed(&mut a.sealer, Class::Small, 7);
            frame[at] ^= 0x10;
            let error = b.opener.open(&mut frame).unwrap_err();
            if at >= HEADER_LEN {
                assert_eq!(error, LinkError::Forged);
            }
            assert_eq!(frame, [0; SMALL_LEN], "nothing of it is delivered");
            let mut next = sealed(&mut a.sealer, Class::Small, 8);
            assert_eq!(b.opener.open(&mut next), Err(LinkError::Ended));
        }
    }
}

#[test]
fn frames_that_were_dropped_reordered_or_replayed_close_the_link() {
    for order in [&[0, 0][..], &[1], &[0, 2], &[0, 1, 0]] {
        let [mut a, mut b] = link(Suite::Aes256Gcm, 5);
        let frames: Vec<_> = (0..3)
            .map(|n| sealed(&mut a.sealer, Class::Small, n))
            .collect();
        let (wrong, right) = order.split_last().unwrap();
        for &at in right {
            b.opener.open(&mut frames[at].clone()).unwrap();
        }
        assert!(
            b.opener.open(&mut frames[*wrong].clone()).is_err(),
            "{order:?}"
        );
    }
}

#[test]
fn a_frame_sent_back_to_its_sender_does_not_open() {
    let [mut a, _] = link(Suite::Aes256Gcm, 6);
    let mut frame = sealed(&mut a.sealer, Class::Small, 1);
    assert!(a.opener.open(&mut frame).is_err());
}

#[test]
fn masked_headers_of_like_frames_differ() {
    let [mut a, _] = link(Suite::ChaCha20Poly1305, 7);
    let heads: std::collections::BTreeSet<_> = (0..130)
        .map(|_| sealed(&mut a.sealer, Class::Small, 1)[..HEADER_LEN].to_vec())
        .collect();
    assert_eq!(heads.len(), 130);
}

#[test]
fn the_key_ratchets_after_65536_frames() {
    let [mut a, mut b] = link(Suite::Aes256Gcm, 8);
    for _ in 0..FRAMES_PER_RATCHET + 2 {
        let mut frame = sealed(&mut a.sealer, Class::Small, 1);
        b.opener.open(&mut frame).unwrap();
    }
    // An end that missed the ratchet, and only that, does not understand what comes after it.
    let [mut a, mut b] = link(Suite::Aes256Gcm, 8);
    for _ in 0..FRAMES_PER_RATCHET {
        sealed(&mut a.sealer, Class::Small, 1);
    }
    b.opener.set_count(FRAMES_PER_RATCHET);
    let mut frame = sealed(&mut a.sealer, Class::Small, 1);
    assert!(b.opener.peek(frame.first_chunk().unwrap()).is_ok());
    assert_eq!(b.opener.open(&mut frame), Err(LinkError::Forged));
}

#[test]
fn a_direction_ends_at_its_last_frame() {
    let [mut a, mut b] = link(Suite::Aes256Gcm, 9);
    a.sealer.set_count(MAX_FRAMES - 1);
    b.opener.set_count(MAX_FRAMES - 1);
    let mut frame = sealed(&mut a.sealer, Class::Small, 1);
    b.opener.open(&mut frame).unwrap();
    let mut over = vec![1; SMALL_LEN];
    assert_eq!(
        a.sealer.seal(header(Class::Small, 0), &mut over),
        Err(LinkError::Ended)
    );
    assert_eq!(over, [0; SMALL_LEN], "it can't leave in plain");
    assert_eq!(b.opener.open(&mut over), Err(LinkError::Ended));
}

#[test]
fn a_sealer_refuses_a_buffer_of_another_length_and_stays_in_step() {
    let [mut a, mut b] = link(Suite::Aes256Gcm, 10);
    for len in [0, 15, 16, 31, 32, 1023, 1025, 4096] {
        let refused = a.sealer.seal(header(Class::Small, 0), &mut vec![0; len]);
        assert_eq!(refused, Err(LinkError::Length(len)));
    }
    let mut frame = sealed(&mut a.sealer, Class::Small, 1);
    b.opener.open(&mut frame).unwrap();
}

#[test]
fn auth_names_the_relay_that_signed_this_link_and_no_other() {
    let identity = IdentityKey::from_seed([4; 32]);
    let mut body = [0; SMALL_LEN - BODY_OFFSET];
    body[..AUTH_LEN].copy_from_slice(&sign_auth(&identity, &[1; 32]));
    assert_eq!(verify_auth(&body, &[1; 32]), Ok(identity.public()));
    assert_eq!(verify_auth(&body, &[2; 32]), Err(AuthError::Forged));
    assert_eq!(
        verify_auth(&body[..AUTH_LEN - 1], &[1; 32]),
        Err(AuthError::CutOff)
    );
    body[..32].copy_from_slice(&IdentityKey::from_seed([5; 32]).public().0);
    assert_eq!(verify_auth(&body, &[1; 32]), Err(AuthError::Forged));
}

proptest! {
    #[test]
    fn random_bytes_are_never_a_frame(bytes in prop::collection::vec(any::<u8>(), 0..5000), aes: bool) {
        let [_, mut b] = link(SUITES[usize::from(aes)], 11);
        if let Some(head) = bytes.first_chunk() {
            let _ = b.opener.peek(head);
        }
        let mut frame = bytes;
        prop_assert!(b.opener.open(&mut frame).is_err());
    }

    #[test]
    fn random_bytes_are_never_a_handshake_or_auth(
        bytes in prop::collection::vec(any::<u8>(), HANDSHAKE_LEN),
        len in 0..=HANDSHAKE_LEN,
        seed: u64,
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let (secret, peer) = relay(Suite::Aes256Gcm, None, &mut rng);
        let message = bytes.first_chunk().unwrap();
        prop_assert!(respond(&secret, &peer, message, &mut rng).is_err());
        let (initiator, _) = LinkInitiator::start(&peer, &mut rng).unwrap();
        prop_assert!(initiator.finish(message).is_err());
        prop_assert!(verify_auth(&bytes[..len], &[0; 32]).is_err());
    }

    #[test]
    fn a_changed_byte_anywhere_in_a_handshake_is_refused(
        at in 0..2 * HANDSHAKE_LEN,
        bits in 1_u8..,
        seed: u64,
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let (secret, peer) = relay(Suite::ChaCha20Poly1305, None, &mut rng);
        let (initiator, mut message) = LinkInitiator::start(&peer, &mut rng).unwrap();
        if at < HANDSHAKE_LEN {
            message[at] ^= bits;
            prop_assert!(respond(&secret, &peer, &message, &mut rng).is_err());
        } else {
            let (mut answer, _) = respond(&secret, &peer, &message, &mut rng).unwrap();
            answer[at - HANDSHAKE_LEN] ^= bits;
            prop_assert!(initiator.finish(&answer).is_err());
        }
    }
}
