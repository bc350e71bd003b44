//! Peers of a hidden swarm, which are onion services or hidden seeds, and the extension message by which they tell each other
//! of more (docs/onion-gossip.md).
//!
//! It is offered on connections through onion services and with hidden seeds alone, so that a peer of the public swarm sees
//! nothing of it.

use std::collections::BTreeSet;
use std::fmt;

use hushswarm_circuits::rendezvous::Contact;
use hushswarm_circuits::target::{Host, Target};

use super::extension::ExtensionError;
use super::infohash::InfoHash;
use crate::bencode::{self, Value};
use crate::hush::SeedKey;
use crate::onion::OnionKey;

/// Name of the message in the `m` dictionary of the extension handshake (BEP 10).
pub const NAME: &str = "hs_onions";

/// Most addresses in one message: a message stays below 2 KiB, and a swarm's few hundred onions need several.
pub const MAX_ADDED: usize = 50;

/// Most contacts of hidden seeds in one message.
pub const MAX_SEEDS: usize = 8;

/// Longest they may be together, bytes: eight of three introduction points, as seeds have them, with room.
pub const MAX_SEEDS_LEN: usize = 2048;

/// The port that a hidden seed has as a host: it has none, but hosts have.
const SEED_PORT: u16 = 1;

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

/// Which peer of a hidden swarm: whatever its port is, or its introduction points are, it is the same one. `Debug` hides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// An onion service.
    Onion(OnionKey),
    /// A hidden seed.
    Seed(SeedKey),
}

/// A peer of a hidden swarm, as it is called. `Debug` hides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Concealed {
    /// An onion service.
    Onion(OnionPeer),
    /// A hidden seed. Where it is introduced, a [`SeedBook`] knows.
    Seed(SeedKey),
}

impl Concealed {
    /// The peer of this name; `None` for everything else, names below such a name included.
    pub fn from_target(target: &Target) -> Option<Self> {
        let Host::Name(name) = &target.host else {
            return None;
        };
        let onion = || OnionPeer::from_target(target).map(Self::Onion);
        SeedKey::of_host(name.as_str())
            .map(Self::Seed)
            .or_else(onion)
    }

    /// Where it is reached, spelled always alike.
    pub fn to_target(&self) -> Option<Target> {
        match self {
            Self::Onion(onion) => onion.to_target(),
            Self::Seed(key) => Target::parse(&key.host(), SEED_PORT).ok(),
        }
    }

    /// Which one it is.
    pub fn name(&self) -> Name {
        match self {
            Self::Onion(onion) => Name::Onion(onion.key()),
            Self::Seed(key) => Name::Seed(*key),
        }
    }
}

/// What a swarm asks of whoever knows where hidden seeds are introduced.
pub trait SeedBook: fmt::Debug + Send + Sync {
    /// Notes what the seed itself says, or the user's link, of where it is introduced: that takes the place of what was known.
    /// Gives the name by which it is called; `None` where the book is full, or the key belongs to another swarm: then it must not be
    /// called for this one.
    fn learn(&self, hash: InfoHash, contact: Contact) -> Option<Target>;

    /// Notes what somebody else says of it: that adds to what was known, and displaces nothing.
    fn hear(&self, hash: InfoHash, contact: Contact) -> Option<Target>;

    /// Where a seed of this swarm is introduced, as it is known now.
    fn contact(&self, hash: InfoHash, key: &SeedKey) -> Option<Contact>;

    /// Forgets a seed of this swarm.
    fn forget(&self, hash: InfoHash, key: &SeedKey);
}

/// The message: who its sender is, and whom else it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Onions {
    /// The sender's own address; only where it opened the connection, for else the receiver dialled it.
    pub me: Option<OnionPeer>,
    /// Others, at most [`MAX_ADDED`], each key once.
    pub added: Vec<OnionPeer>,
    /// How the sender is reached, where it is a hidden seed; never together with `me`, which would tell that both are one.
    pub seed: Option<Contact>,
    /// Other hidden seeds, at most [`MAX_SEEDS`] and [`MAX_SEEDS_LEN`], each key once.
    pub seeds: Vec<Contact>,
}

impl Onions {
    /// The payload. Keys about hidden seeds stand in it only where there are any.
    pub fn encode(&self) -> Vec<u8> {
        let mut added = Vec::with_capacity(self.added.len() * ENTRY_LEN);
        self.added.iter().for_each(|peer| peer.put(&mut added));
        let seeds: Vec<u8> = self.seeds.iter().flat_map(Contact::encode).collect();
        let mut out = Vec::with_capacity(added.len() + seeds.len() + 64);
        bencode::put_dict(&mut out, |dict| {
            bencode::put_bytes(dict.key("added"), &added);
            if let Some(me) = self.me {
                let mut entry = Vec::with_capacity(ENTRY_LEN);
                me.put(&mut entry);
                bencode::put_bytes(dict.key("me"), entry);
            }
            if let Some(seed) = &self.seed {
                bencode::put_bytes(dict.key("seed"), seed.encode());
            }
            if !seeds.is_empty() {
                bencode::put_bytes(dict.key("seeds"), &seeds);
            }
        });
        out
    }

    /// Reads a payload. Unknown keys are passed over.
    ///
    /// # Errors
    /// Not such a message, more than [`MAX_ADDED`] addresses or [`MAX_SEEDS`] contacts, a key twice (whatever the ports: one
    /// service would stand for 65,535 peers; whatever the introduction points), a port 0, what is no contact, or a sender that is
    /// an onion service and a hidden seed: close the connection.
    pub fn parse(payload: &[u8]) -> Result<Self, ExtensionError> {
        let [added, me, seed, seeds] =
            Value::parse(payload)?.fields(["added", "me", "seed", "seeds"])?;
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
        let seed = match seed {
            None => None,
            Some(seed) => {
                let seed = seed.as_bytes().filter(|_| me.is_none());
                let seed = seed.and_then(|bytes| Contact::parse(bytes).ok());
                let seed = seed.filter(|seed| !seed.is_closed());
                Some(seed.ok_or(ExtensionError::Entry("seed"))?)
            }
        };
        let seeds = match seeds {
            None => Vec::new(),
            Some(seeds) => {
                let seeds = seeds.as_bytes().and_then(read_seeds);
                seeds.ok_or(ExtensionError::Entry("seeds"))?
            }
        };
        Ok(Self {
            me,
            added,
            seed,
            seeds,
        })
    }
}

/// Contacts one after another, each key once.
fn read_seeds(mut bytes: &[u8]) -> Option<Vec<Contact>> {
    if bytes.len() > MAX_SEEDS_LEN {
        return None;
    }
    let mut seeds: Vec<Contact> = Vec::new();
    while !bytes.is_empty() {
        let (seed, rest) = Contact::read(bytes).ok()?;
        let known = seeds.iter().any(|other| other.key == seed.key);
        if seeds.len() == MAX_SEEDS || known || seed.is_closed() {
            return None;
        }
        seeds.push(seed);
        bytes = rest;
    }
    Some(seeds)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hushswarm_circuits::keys::RelayId;
    use hushswarm_circuits::rendezvous::{IntroductionId, Point};
    use proptest::prelude::*;

    /// An address of the Tor Project's, and its key as Python reads it.
    const HOST: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";
    const KEY: &str = "d1b38b83a83b3ed918c5bb69dd444ad56bc8d5835a914de73447474e5f02591b";

    fn peer(byte: u8) -> OnionPeer {
        OnionPeer::new(OnionKey([byte; 32]), 6881).unwrap()
    }

    /// A hidden seed at these introduction points.
    fn contact(key: u8, points: std::ops::Range<u8>) -> Contact {
        let points = points.map(|n| Point {
            relay: RelayId([n; 32]),
            introduction: IntroductionId([n; 32]),
        });
        Contact::new([key; 32], points.collect()).unwrap()
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
            ..Onions::default()
        };
        assert_eq!(message.encode(), bytes);
        assert_eq!(Onions::parse(&bytes), Ok(message));
        assert_eq!(Onions::default().encode(), b"d5:added0:e");
    }

    #[test]
    fn messages_that_break_a_limit_are_refused() {
        let many = |count: u8| Onions {
            added: (0..count).map(peer).collect(),
            ..Onions::default()
        };
        assert!(Onions::parse(&many(50).encode()).is_ok());
        let twice = Onions {
            added: vec![peer(1), peer(2), peer(1)],
            ..Onions::default()
        };
        let ports = Onions {
            added: [1, 2]
                .map(|port| OnionPeer::new(OnionKey([1; 32]), port).unwrap())
                .to_vec(),
            ..Onions::default()
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
    fn nobody_tells_of_a_seed_that_lets_in_only_some() {
        let closed = contact(7, 1..3).closed(true);
        let own = Onions {
            seed: Some(closed.clone()),
            ..Onions::default()
        };
        assert_eq!(
            Onions::parse(&own.encode()),
            Err(ExtensionError::Entry("seed"))
        );
        let others = Onions {
            seeds: vec![contact(8, 1..3), closed],
            ..Onions::default()
        };
        let error = ExtensionError::Entry("seeds");
        assert_eq!(Onions::parse(&others.encode()), Err(error));
    }

    #[test]
    fn hidden_seeds_stand_in_the_message_as_it_is_described() {
        let (seed, others) = (contact(9, 1..3), [contact(7, 1..2), contact(8, 1..9)]);
        let mut bytes = b"d5:added0:4:seed162:".to_vec();
        bytes.extend(seed.encode());
        bytes.extend(b"5:seeds644:");
        others.iter().for_each(|other| bytes.extend(other.encode()));
        bytes.push(b'e');
        let message = Onions {
            seed: Some(seed),
            seeds: others.to_vec(),
            ..Onions::default()
        };
        assert_eq!(message.encode(), bytes);
        assert_eq!(Onions::parse(&bytes), Ok(message));
    }

    #[test]
    fn messages_that_break_a_limit_about_seeds_are_refused() {
        let seeds = |seeds: Vec<Contact>| Onions {
            seeds,
            ..Onions::default()
        };
        let many = |count| (0..count).map(|n| contact(n, 1..4)).collect::<Vec<_>>();
        assert!(Onions::parse(&seeds(many(8)).encode()).is_ok());
        let long: Vec<Contact> = (0..4).map(|n| contact(n, 1..9)).collect();
        let mut cut = b"d5:added0:5:seeds225:".to_vec();
        cut.extend(&many(1)[0].encode()[..225]);
        cut.push(b'e');
        for payload in [
            seeds(many(9)).encode(),
            seeds(long).encode(),
            seeds(vec![contact(1, 1..2), contact(1, 2..3)]).encode(),
            cut,
            b"d5:added0:5:seedsi1ee".to_vec(),
            b"d5:added0:5:seeds1:xe".to_vec(),
        ] {
            let error = ExtensionError::Entry("seeds");
            assert_eq!(Onions::parse(&payload), Err(error));
        }
        let both = Onions {
            me: Some(peer(1)),
            seed: Some(contact(1, 1..2)),
            ..Onions::default()
        };
        for payload in [&both.encode()[..], b"d5:added0:4:seed1:xe"] {
            let error = ExtensionError::Entry("seed");
            assert_eq!(Onions::parse(payload), Err(error));
        }
        let twice = b"d5:added0:5:seeds0:5:seeds0:e";
        assert!(Onions::parse(twice).is_err());
    }

    #[test]
    fn nothing_shows_in_debug_output() {
        let message = Onions {
            me: OnionPeer::parse(HOST, 4242),
            added: vec![peer(7)],
            seed: Some(contact(7, 7..8)),
            seeds: vec![contact(7, 7..8)],
        };
        let name = Concealed::Seed(SeedKey([7; 32]));
        let shown = format!("{message:?} {name:?} {:?}", name.name());
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
        fn every_seed_is_one_host(key: [u8; 32], port in 1..=u16::MAX) {
            let seed = Concealed::Seed(SeedKey(key));
            let target = seed.to_target().unwrap();
            prop_assert_eq!(Concealed::from_target(&target), Some(seed));
            let other = Target::parse(&SeedKey(key).host().to_ascii_uppercase(), port).unwrap();
            prop_assert_eq!(Concealed::from_target(&other), Some(seed));
            let onion = OnionPeer::new(OnionKey(key), port).unwrap();
            let target = onion.to_target().unwrap();
            prop_assert_eq!(Concealed::from_target(&target), Some(Concealed::Onion(onion)));
        }

        #[test]
        fn messages_read_back(
            keys in prop::collection::btree_map(any::<[u8; 32]>(), 1..=u16::MAX, 0..=MAX_ADDED),
            me in prop::option::of((any::<[u8; 32]>(), 1..=u16::MAX)),
            seed in prop::option::of((any::<u8>(), 1..=8_u8)),
            seeds in prop::collection::btree_map(any::<u8>(), 1..=3_u8, 0..=MAX_SEEDS),
        ) {
            let made = |(key, port)| OnionPeer::new(OnionKey(key), port).unwrap();
            let at = |(key, points)| contact(key, 0..points);
            let message = Onions {
                me: me.map(made),
                added: keys.into_iter().map(made).collect(),
                seed: seed.map(at).filter(|_| me.is_none()),
                seeds: seeds.into_iter().map(at).collect(),
            };
            prop_assert_eq!(Onions::parse(&message.encode()), Ok(message));
        }

        #[test]
        fn mutated_messages_never_panic(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
            text in "\\PC{0,70}",
        ) {
            let mut bytes = Onions {
                added: vec![peer(2), peer(3)],
                seed: Some(contact(1, 0..2)),
                seeds: vec![contact(2, 0..3), contact(3, 0..1)],
                ..Onions::default()
            }.encode();
            for (at, byte) in &edits {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            if let Ok(read) = Onions::parse(&bytes) {
                prop_assert_eq!(Onions::parse(&read.encode()), Ok(read));
            }
            let _ = OnionPeer::parse(&text, 1);
        }
    }
}
