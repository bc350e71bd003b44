//! Onion addresses, and the extension message by which onion peers tell each other of more (docs/onion-gossip.md).
//!
//! It is offered on connections through onion services alone, so that a peer of the public swarm sees nothing of it.

use std::collections::BTreeSet;
use std::fmt;

use hushswarm_circuits::target::{Host, Target};

use super::extension::ExtensionError;
use crate::bencode::{self, Value};
use crate::onion::OnionKey;

/// Name of the message in the `m` dictionary of the extension handshake (BEP 10).
pub const NAME: &str = "hs_onions";

/// Most addresses in one message: a message stays below 2 KiB, and a swarm's few hundred onions need several.
pub const MAX_ADDED: usize = 50;

/// Encoded length of an address, bytes: the service's Ed25519 key and the port, big-endian.
const ENTRY_LEN: usize = 34;

/// A peer that is an onion service. `Debug` hides it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OnionPeer {
    /// Which its address spells.
    key: OnionKey,
    /// Its port, not 0.
    port: u16,
}

impl OnionPeer {
    /// The peer with this key, where the port can be one.
    pub fn new(key: OnionKey, port: u16) -> Option<Self> {
        (port != 0).then_some(Self { key, port })
    }

    /// The peer at an address of version 3 whose checksum is right; `None` for everything else, names below such an address
    /// included.
    pub fn from_target(target: &Target) -> Option<Self> {
        let Host::Name(name) = &target.host else {
            return None;
        };
        Self::parse(name.as_str(), target.port)
    }

    /// The same by host and port.
    pub fn parse(host: &str, port: u16) -> Option<Self> {
        Self::new(OnionKey::parse(host)?, port)
    }

    /// Which onion service it is: two peers are never told apart by the port alone.
    pub fn key(&self) -> OnionKey {
        self.key
    }

    /// `<56 characters>.onion`, in lower case. For the wire and the user; never for a log.
    pub fn host(&self) -> String {
        self.key.address()
    }

    /// Its port, not 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it is reached.
    pub fn to_target(&self) -> Option<Target> {
        Target::parse(&self.host(), self.port).ok()
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.key.0);
        out.extend_from_slice(&self.port.to_be_bytes());
    }

    fn read(entry: &[u8; ENTRY_LEN]) -> Option<Self> {
        let (key, port) = entry.split_first_chunk::<32>()?;
        Self::new(OnionKey(*key), u16::from_be_bytes(port.try_into().ok()?))
    }
}

impl fmt::Debug for OnionPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[onion]")
    }
}

/// The message: who its sender is, and whom else it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Onions {
    /// The sender's own address; only where it opened the connection, for else the receiver dialled it.
    pub me: Option<OnionPeer>,
    /// Others, at most [`MAX_ADDED`], each key once.
    pub added: Vec<OnionPeer>,
}

impl Onions {
    /// The payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut added = Vec::with_capacity(self.added.len() * ENTRY_LEN);
        self.added.iter().for_each(|peer| peer.put(&mut added));
        let mut out = Vec::with_capacity(added.len() + 64);
        bencode::put_dict(&mut out, |dict| {
            bencode::put_bytes(dict.key("added"), &added);
            if let Some(me) = self.me {
                let mut entry = Vec::with_capacity(ENTRY_LEN);
                me.put(&mut entry);
                bencode::put_bytes(dict.key("me"), entry);
            }
        });
        out
    }

    /// Reads a payload. Unknown keys are passed over.
    ///
    /// # Errors
    /// Not such a message, more than [`MAX_ADDED`] addresses, a key twice (whatever the ports: one service would stand for
    /// 65,535 peers), or a port 0: close the connection.
    pub fn parse(payload: &[u8]) -> Result<Self, ExtensionError> {
        let [added, me] = Value::parse(payload)?.fields(["added", "me"])?;
        let added = added
            .and_then(Value::as_bytes)
            .ok_or(ExtensionError::Entry("added"))?;
        let (entries, rest) = added.as_chunks::<ENTRY_LEN>();
        if !rest.is_empty() || entries.len() > MAX_ADDED {
            return Err(ExtensionError::Entry("added"));
        }
        let added: Option<Vec<OnionPeer>> = entries.iter().map(OnionPeer::read).collect();
        let added = added.ok_or(ExtensionError::Entry("added"))?;
        let keys: BTreeSet<OnionKey> = added.iter().map(OnionPeer::key).collect();
        if keys.len() != added.len() {
            return Err(ExtensionError::Entry("added"));
        }
        let me = match me {
            None => None,
            Some(me) => {
                let entry = me.as_bytes().and_then(|entry| entry.try_into().ok());
                let me = entry.and_then(OnionPeer::read);
                Some(me.ok_or(ExtensionError::Entry("me"))?)
            }
        };
        Ok(Self { me, added })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// An address of the Tor Project's, and its key as Python reads it.
    const HOST: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";
    const KEY: &str = "d1b38b83a83b3ed918c5bb69dd444ad56bc8d5835a914de73447474e5f02591b";

    fn peer(byte: u8) -> OnionPeer {
        OnionPeer::new(OnionKey([byte; 32]), 6881).unwrap()
    }

    #[test]
    fn an_address_of_the_real_network_reads_and_is_written_the_same() {
        let peer = OnionPeer::parse(HOST, 80).unwrap();
        assert_eq!(data_encoding::HEXLOWER.encode(&peer.key.0), KEY);
        assert_eq!(peer.host(), HOST);
        assert_eq!(OnionPeer::parse(&HOST.to_ascii_uppercase(), 80), Some(peer));
        let target = peer.to_target().unwrap();
        assert_eq!(OnionPeer::from_target(&target), Some(peer));
    }

    #[test]
    fn what_is_no_address_of_a_service_is_refused() {
        let other = |at: usize| {
            let mut host = HOST.to_owned();
            let new = if &HOST[at..=at] == "a" { "b" } else { "a" };
            host.replace_range(at..=at, new);
            host
        };
        for host in [
            "",
            "onion",
            "www.example.com",
            "expyuzz4wqqyqhjn.onion",
            &HOST[..56],
            &HOST[1..],
            &format!("a{HOST}"),
            &format!("www.{HOST}"),
            &format!("{HOST}."),
            // Another key, another checksum, another version.
            &other(0),
            &other(30),
            &other(53),
            &other(55),
            &HOST.replace('w', "1"),
            &format!("{}é", &HOST[..55]),
        ] {
            assert_eq!(OnionPeer::parse(host, 80), None, "{host}");
        }
        assert_eq!(OnionPeer::parse(HOST, 0), None);
        let ip = Target::ip("192.0.2.1:80".parse().unwrap());
        assert_eq!(OnionPeer::from_target(&ip), None);
    }

    #[test]
    fn the_message_has_the_bytes_of_its_description() {
        let mut bytes = b"d5:added34:".to_vec();
        bytes.extend([7; 32]);
        bytes.extend([0x1a, 0xe1]);
        bytes.extend(b"2:me34:");
        bytes.extend([8; 32]);
        bytes.extend([0x1a, 0xe1]);
        bytes.push(b'e');
        let message = Onions {
            me: Some(peer(8)),
            added: vec![peer(7)],
        };
        assert_eq!(message.encode(), bytes);
        assert_eq!(Onions::parse(&bytes), Ok(message));
        assert_eq!(Onions::default().encode(), b"d5:added0:e");
    }

    #[test]
    fn messages_that_break_a_limit_are_refused() {
        let many = |count: u8| Onions {
            me: None,
            added: (0..count).map(peer).collect(),
        };
        assert!(Onions::parse(&many(50).encode()).is_ok());
        let twice = Onions {
            me: None,
            added: vec![peer(1), peer(2), peer(1)],
        };
        let ports = Onions {
            me: None,
            added: [1, 2]
                .map(|port| OnionPeer::new(OnionKey([1; 32]), port).unwrap())
                .to_vec(),
        };
        let mut port_0 = many(1).encode();
        let port = port_0.len() - 3;
        port_0[port..port + 2].fill(0);
        for payload in [
            &many(51).encode(),
            &twice.encode(),
            &ports.encode(),
            &port_0,
        ] {
            let error = ExtensionError::Entry("added");
            assert_eq!(Onions::parse(payload), Err(error));
        }
        for payload in [&b"de"[..], b"d5:addedi1ee", b"d5:added1:xe"] {
            let error = ExtensionError::Entry("added");
            assert_eq!(Onions::parse(payload), Err(error));
        }
        let error = ExtensionError::Entry("me");
        assert_eq!(Onions::parse(b"d5:added0:2:me1:xe"), Err(error));
        for payload in [&b""[..], b"le", b"d5:added0:ex", b"d5:added0:5:added0:e"] {
            assert!(Onions::parse(payload).is_err());
        }
        assert!(
            Onions::parse(b"d5:added0:4:more1:xe").is_ok(),
            "room for more"
        );
    }

    #[test]
    fn nothing_shows_in_debug_output() {
        let message = Onions {
            me: OnionPeer::parse(HOST, 4242),
            added: vec![peer(7)],
        };
        let shown = format!("{message:?}");
        assert!(!shown.contains("2gzy") && !shown.contains("4242") && !shown.contains("7, 7"));
    }

    proptest! {
        #[test]
        fn every_key_and_port_comes_back(key: [u8; 32], port in 1..=u16::MAX) {
            let peer = OnionPeer::new(OnionKey(key), port).unwrap();
            prop_assert_eq!(OnionPeer::parse(&peer.host(), port), Some(peer));
            prop_assert_eq!(peer.to_target().and_then(|target| OnionPeer::from_target(&target)), Some(peer));
        }

        #[test]
        fn one_changed_character_is_found(key: [u8; 32], at in 0..56_usize, new in "[a-z2-7]") {
            let mut host = OnionPeer::new(OnionKey(key), 1).unwrap().host();
            let same = host[at..=at] == new;
            host.replace_range(at..=at, &new);
            // Two bytes of checksum: by chance once in 65536, so only that it never reads as the same key.
            let read = OnionPeer::parse(&host, 1);
            prop_assert_eq!(read.is_some_and(|read| read.key.0 == key), same);
        }

        #[test]
        fn messages_read_back(
            keys in prop::collection::btree_map(any::<[u8; 32]>(), 1..=u16::MAX, 0..=MAX_ADDED),
            me in prop::option::of((any::<[u8; 32]>(), 1..=u16::MAX)),
        ) {
            let made = |(key, port)| OnionPeer::new(OnionKey(key), port).unwrap();
            let message = Onions { me: me.map(made), added: keys.into_iter().map(made).collect() };
            prop_assert_eq!(Onions::parse(&message.encode()), Ok(message));
        }

        #[test]
        fn mutated_messages_never_panic(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
            text in "\\PC{0,70}",
        ) {
            let mut bytes = Onions { me: Some(peer(1)), added: vec![peer(2), peer(3)] }.encode();
            for (at, byte) in &edits {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            let _ = Onions::parse(&bytes);
            let _ = OnionPeer::parse(&text, 1);
        }
    }
}
