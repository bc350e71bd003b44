//! Datagrams of a UDP association: `RSV RSV FRAG ATYP ADDR PORT DATA` (RFC 1928 §7), in both directions.

use hushswarm_circuits::target::Target;

use super::reply::put_endpoint;
use super::request::endpoint;

/// The longest header, bytes: one with a name of 255 bytes.
pub const MAX_HEADER: usize = 3 + 1 + 1 + 255 + 2;

/// Takes a datagram of a program apart: where it is to go, and what it carries. `None` for one that has to be dropped:
/// fragments (the RFC lets us), and what is no such datagram.
pub fn decode(datagram: &[u8]) -> Option<(Target, &[u8])> {
    // The RFC reserves the first two bytes as zero; what is in them means nothing.
    let rest = match datagram {
        [_, _, 0, rest @ ..] => rest,
        _ => return None,
    };
    let (target, used) = endpoint(rest).ok()??;
    Some((target, rest.get(used..)?))
}

/// Puts a datagram for a program together; what was in `out` is gone.
pub fn encode(out: &mut Vec<u8>, from: &Target, payload: &[u8]) {
    out.clear();
    out.extend_from_slice(&[0, 0, 0]);
    put_endpoint(out, from);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target() -> impl Strategy<Value = Target> {
        let host = prop_oneof![
            any::<[u8; 4]>().prop_map(|ip| std::net::IpAddr::from(ip).to_string()),
            any::<[u8; 16]>().prop_map(|ip| std::net::IpAddr::from(ip).to_string()),
            "[a-z]{1,63}(\\.[a-z]{1,60}){0,3}",
        ];
        (host, any::<u16>()).prop_map(|(host, port)| Target::parse(&host, port).unwrap())
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(target in target(), payload in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut out = b"old".to_vec();
            encode(&mut out, &target, &payload);
            prop_assert!(out.len() <= MAX_HEADER + payload.len());
            prop_assert_eq!(decode(&out), Some((target, &payload[..])));
        }

        #[test]
        fn any_bytes_are_taken_or_dropped(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Some((target, payload)) = decode(&bytes) {
                let mut again = Vec::new();
                encode(&mut again, &target, payload);
                prop_assert_eq!(decode(&again), Some((target, payload)));
            }
        }
    }

    #[test]
    fn fragments_and_scraps_are_dropped() {
        let whole = [0, 0, 0, 1, 203, 0, 113, 7, 0, 80, b'x'];
        assert!(decode(&whole).is_some());
        for frag in [1, 0x80, 0x81, 0xff] {
            let mut fragment = whole;
            fragment[2] = frag;
            assert_eq!(decode(&fragment), None);
        }
        for cut in 0..10 {
            assert_eq!(decode(&whole[..cut]), None);
        }
        // An empty datagram is one too.
        assert_eq!(decode(&whole[..10]).unwrap().1, b"");
    }
}
