//! Ids of 160 bits: of nodes, torrents and items; how near two are; and which an address may have (BEP 42).

use std::fmt;
use std::net::IpAddr;

use rand::Rng;

/// Length of an id, bytes.
pub const ID_LEN: usize = 20;
/// Length of an id, bits.
pub const ID_BITS: usize = ID_LEN * 8;

/// Bits of a node's id that come from its address (BEP 42): the first 21.
const ADDRESS_BITS: [u8; 3] = [0xff, 0xff, 0xf8];
/// What of an IPv4 address goes into the id (BEP 42).
const MASK_V4: [u8; 4] = [0x03, 0x0f, 0x3f, 0xff];
/// What of an IPv6 address goes into the id (BEP 42).
const MASK_V6: [u8; 8] = [0x01, 0x03, 0x07, 0x0f, 0x1f, 0x3f, 0x7f, 0xff];

/// A node's id, an infohash, or an item's target. Hidden in logs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub [u8; ID_LEN]);

impl Id {
    /// Reads 20 bytes and no other number of them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// How far apart two ids are (BEP 5): their exclusive or, as a number.
    pub fn distance(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] ^ other.0[at]))
    }

    /// How many leading bits two ids share, at most [`ID_BITS`].
    pub fn shared_bits(&self, other: &Self) -> usize {
        let distance = self.distance(other);
        let zeros = distance.0.iter().take_while(|byte| **byte == 0).count();
        let partial = distance.0.get(zeros).map_or(0, |byte| byte.leading_zeros());
        zeros * 8 + partial as usize
    }

    /// Draws an id.
    pub fn random(rng: &mut (impl Rng + ?Sized)) -> Self {
        let mut id = [0; ID_LEN];
        rng.fill_bytes(&mut id);
        Self(id)
    }

    /// An id of which the first `true_bits` are this one's and the others are drawn: what a node is asked for that need not
    /// know what is looked for.
    pub fn blinded(&self, true_bits: usize, rng: &mut (impl Rng + ?Sized)) -> Self {
        let drawn = Self::random(rng);
        Self(std::array::from_fn(|at| {
            let bits = true_bits.saturating_sub(at * 8).min(8);
            // The first `bits` of this byte.
            let mask = !(0xff_u32 >> bits) as u8;
            (self.0[at] & mask) | (drawn.0[at] & !mask)
        }))
    }

    /// Whether a node at this address may have this id (BEP 42). Nodes of a private network may have any.
    pub fn is_valid_for(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let wanted = address_bits(ip, self.0[ID_LEN - 1]);
        let fits = (0..3).all(|at| (self.0[at] ^ wanted[at]) & ADDRESS_BITS[at] == 0);
        fits || is_local(ip)
    }

    /// This id, changed so that a node at `ip` may have it (BEP 42): its first 21 bits are computed from the address. Not for a
    /// user's own node: it says where the node is.
    pub fn made_valid_for(&self, ip: IpAddr) -> Self {
        let wanted = address_bits(ip.to_canonical(), self.0[ID_LEN - 1]);
        let mut id = self.0;
        for at in 0..3 {
            id[at] = (wanted[at] & ADDRESS_BITS[at]) | (id[at] & !ADDRESS_BITS[at]);
        }
        Self(id)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[id]")
    }
}

/// The networks whose nodes BEP 42 leaves alone.
fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// First three bytes of the ids that an address gives, for the id's last byte. The lowest three bits mean nothing.
fn address_bits(ip: IpAddr, last: u8) -> [u8; 3] {
    let mut bytes = [0; 8];
    let len = match ip {
        IpAddr::V4(ip) => masked(&mut bytes, &ip.octets(), &MASK_V4),
        IpAddr::V6(ip) => masked(&mut bytes, &ip.octets(), &MASK_V6),
    };
    bytes[0] |= (last & 7) << 5;
    let [a, b, c, _] = crc32c(&bytes[..len]).to_be_bytes();
    [a, b, c]
}

fn masked(out: &mut [u8; 8], octets: &[u8], mask: &[u8]) -> usize {
    for (slot, (octet, mask)) in out.iter_mut().zip(octets.iter().zip(mask)) {
        *slot = octet & mask;
    }
    mask.len()
}

/// CRC-32C (Castagnoli), reflected, as in RFC 3720 §B.4. It hides nothing; it spreads.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    /// The table of BEP 42: address, last byte of the id, first three bytes (of the third, the first five bits).
    const KNOWN: [([u8; 4], u8, [u8; 3]); 5] = [
        ([124, 31, 75, 21], 1, [0x5f, 0xbf, 0xbf]),
        ([21, 75, 31, 124], 86, [0x5a, 0x3c, 0xe9]),
        ([65, 23, 51, 170], 22, [0xa5, 0xd4, 0x32]),
        ([84, 124, 73, 14], 65, [0x1b, 0x03, 0x21]),
        ([43, 213, 53, 83], 90, [0xe5, 0x6f, 0x6c]),
    ];

    #[test]
    fn the_ids_of_bep_42_are_valid_for_their_addresses_alone() {
        for (octets, last, [a, b, c]) in KNOWN {
            let ip = IpAddr::from(octets);
            let mut id = Id([7; ID_LEN]);
            id.0[..3].copy_from_slice(&[a, b, c]);
            id.0[ID_LEN - 1] = last;
            assert!(id.is_valid_for(ip));
            assert_eq!(id.made_valid_for(ip), id);
            let elsewhere = IpAddr::from([octets[0], octets[1], octets[2], octets[3] ^ 1]);
            assert!(!id.is_valid_for(elsewhere));
            id.0[2] ^= 0x08;
            assert!(!id.is_valid_for(ip));
            id.0[2] ^= 0x0f;
            assert!(id.is_valid_for(ip), "the last three of 24 bits are free");
        }
    }

    #[test]
    fn nodes_of_a_private_network_may_have_any_id() {
        let id = Id([0x5a; ID_LEN]);
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.9",
            "172.31.0.1",
            "fd00::1",
            "::1",
        ] {
            assert!(id.is_valid_for(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["8.8.8.8", "2606:4700::1", "192.0.2.1"] {
            assert!(!id.is_valid_for(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn its_debug_shows_nothing() {
        assert_eq!(format!("{:?}", Id([0xab; ID_LEN])), "[id]");
    }

    proptest! {
        #[test]
        fn an_id_made_for_an_address_is_valid_for_it(id: [u8; ID_LEN], v4: [u8; 4], v6: [u8; 16], at in 21..ID_BITS - 8) {
            for ip in [IpAddr::from(v4), IpAddr::from(v6)] {
                let made = Id(id).made_valid_for(ip);
                prop_assert!(made.is_valid_for(ip));
                let kept = at / 8;
                prop_assert_eq!(made.0[kept.max(3)], id[kept.max(3)]);
            }
        }

        #[test]
        fn shared_bits_are_those_before_the_first_difference(id: [u8; ID_LEN], at in 0..ID_BITS) {
            let mut other = id;
            other[at / 8] ^= 0x80 >> (at % 8);
            prop_assert_eq!(Id(id).shared_bits(&Id(other)), at);
            prop_assert_eq!(Id(id).shared_bits(&Id(id)), ID_BITS);
            prop_assert_eq!(Id(id).distance(&Id(other)).distance(&Id(id)), Id(other));
        }

        #[test]
        fn a_blinded_id_has_the_true_bits_and_no_more_than_chance_has(id: [u8; ID_LEN], bits in 0..=ID_BITS, seed: u64) {
            let mut rng = StdRng::seed_from_u64(seed);
            let blinded: Vec<Id> = (0..64).map(|_| Id(id).blinded(bits, &mut rng)).collect();
            prop_assert!(blinded.iter().all(|blinded| Id(id).shared_bits(blinded) >= bits));
            if bits < ID_BITS {
                // All 64 would have the next bit right once in 2^64.
                prop_assert!(blinded.iter().any(|blinded| Id(id).shared_bits(blinded) == bits));
            }
            if bits + 64 < ID_BITS {
                prop_assert_ne!(blinded[0], blinded[1], "the rest is fresh each time");
            }
        }
    }

    #[test]
    fn ids_from_ipv6_follow_the_mask_of_bep_42() {
        // The lower half of an address does not matter; a bit that the mask keeps does.
        let id = Id([0x33; ID_LEN]).made_valid_for("2606:4700:1:2:3:4:5:6".parse().unwrap());
        assert!(id.is_valid_for("2606:4700:1:2::".parse().unwrap()));
        assert!(!id.is_valid_for("2606:4700:1:3::".parse().unwrap()));
        assert!(!id.is_valid_for(Ipv4Addr::new(8, 8, 8, 8).into()));
    }
}
