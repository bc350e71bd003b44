//! Relays and lists for tests.

use std::net::SocketAddr;

use crate::keys::{IdentityKey, RelayId, Suite};
use crate::relay_list::{Descriptor, Draft, ExitPolicy, RelayInfo, RelayList, Roles, Trust};

/// The time in tests, seconds since 1970.
pub(crate) const NOW: u64 = 1_800_000_000;
/// A day, seconds.
pub(crate) const DAY: u64 = 86_400;

/// A key that is the same in each run.
pub(crate) fn key(number: u16) -> IdentityKey {
    let mut seed = [7; 32];
    seed[..2].copy_from_slice(&number.to_be_bytes());
    IdentityKey::from_seed(seed)
}

/// A relay with all roles, in a network of its own.
pub(crate) fn relay(number: u16) -> RelayInfo {
    let [high, low] = number.to_be_bytes();
    RelayInfo {
        identity: key(number).public(),
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
        nickname: format!("relay-{number}"),
        family: String::new(),
        addresses: vec![SocketAddr::from(([11 + high, low, 0, 1], 4443))],
        link_service: None,
        policy: ExitPolicy::public(),
        published: NOW - DAY,
        expires: NOW + 100 * DAY,
    }
}

/// A relay's signed descriptor.
pub(crate) fn signed(number: u16, change: impl FnOnce(&mut RelayInfo)) -> Descriptor {
    let mut info = relay(number);
    change(&mut info);
    info.sign(&key(number))
        .expect("the test's relay is in bounds")
}

/// The one authority of the test network.
pub(crate) fn authority() -> IdentityKey {
    IdentityKey::from_seed([0xaa; 32])
}

/// What trusts [`authority`].
pub(crate) fn trust() -> Trust {
    let authorities: Vec<RelayId> = vec![authority().public()];
    Trust {
        network: "test".to_owned(),
        authorities,
        threshold: 1,
    }
}

/// A verified list of these relays.
pub(crate) fn list(relays: Vec<Descriptor>) -> RelayList {
    let mut draft = Draft::new("test", NOW - DAY, NOW + DAY, relays).expect("a good list");
    draft.sign(&authority());
    let bytes = draft.encode().expect("a signed list");
    RelayList::decode_verified(&bytes, &trust(), NOW).expect("a trusted list")
}
