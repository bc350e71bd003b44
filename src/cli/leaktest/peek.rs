//! What a peer says of itself at the start of the peer wire: its id, and the keys of its extension handshake (BEP 10).
//! Reads along with a connection without taking part in it.

use std::net::IpAddr;

use crate::bencode::Value;

/// Bytes of a connection that are looked at: the handshakes come first, after a bitfield at most.
const MAX_LOOK: usize = 64 << 10;
/// Handshake of the peer wire (BEP 3).
const HANDSHAKE: usize = 68;
const PROTOCOL: &[u8] = b"\x13BitTorrent protocol";
/// Extended messages, and the handshake among them (BEP 10).
const EXTENDED: u8 = 20;
/// Most keys kept of a handshake.
const MAX_KEYS: usize = 32;

/// What a peer said.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Its id.
    pub peer_id: Option<[u8; 20]>,
    /// The keys of its extension handshake, in their order.
    pub keys: Vec<String>,
    /// Program and version (`v`).
    pub version: Option<String>,
    /// Where it says it listens (`p`).
    pub port: Option<u16>,
    /// The addresses that it says it has (`ipv4`, `ipv6`; L08).
    pub own: Vec<IpAddr>,
}

impl std::fmt::Debug for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[what a peer said]")
    }
}

/// Reads along.
#[derive(Default)]
pub struct Peek {
    seen: Vec<u8>,
    said: Said,
    over: bool,
}

impl Peek {
    /// Takes the next bytes from the peer. True when there is something new in [`Peek::said`].
    pub fn read(&mut self, bytes: &[u8]) -> bool {
        if self.over {
            return false;
        }
        let room = MAX_LOOK - self.seen.len();
        self.seen
            .extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        let before = self.said.clone();
        self.over = self.look().is_some() || self.seen.len() == MAX_LOOK;
        if self.over {
            self.seen = Vec::new();
        }
        before != self.said
    }

    /// What it said so far.
    pub fn said(&self) -> &Said {
        &self.said
    }

    /// `Some` when there is no more to learn.
    fn look(&mut self) -> Option<()> {
        let head = &self.seen[..self.seen.len().min(PROTOCOL.len())];
        if !PROTOCOL.starts_with(head) {
            // Encrypted, or not the peer wire.
            return Some(());
        }
        let (handshake, mut rest) = self.seen.split_first_chunk::<HANDSHAKE>()?;
        self.said.peer_id = handshake.last_chunk::<20>().copied();
        while let Some((len, after)) = rest.split_first_chunk::<4>() {
            let len = u32::from_be_bytes(*len) as usize;
            if len > MAX_LOOK {
                return Some(());
            }
            let (message, after) = after.split_at_checked(len)?;
            if let [EXTENDED, 0, payload @ ..] = message {
                extensions(&mut self.said, payload);
                return Some(());
            }
            rest = after;
        }
        None
    }
}

fn extensions(said: &mut Said, payload: &[u8]) {
    let Ok((value, _)) = Value::parse_prefix(payload) else {
        return;
    };
    for (key, value) in value.as_dict().into_iter().flatten().take(MAX_KEYS) {
        let key = String::from_utf8_lossy(key.get(..32).unwrap_or(key)).into_owned();
        match (key.as_str(), value.as_bytes()) {
            ("v", Some(text)) => {
                let text = String::from_utf8_lossy(text);
                said.version = Some(text.chars().filter(|c| !c.is_control()).take(48).collect());
            }
            ("ipv4", Some(octets)) => {
                said.own
                    .extend(<[u8; 4]>::try_from(octets).map(IpAddr::from));
            }
            ("ipv6", Some(octets)) => {
                said.own
                    .extend(<[u8; 16]>::try_from(octets).map(IpAddr::from));
            }
            ("p", None) => said.port = value.as_uint().and_then(|port| u16::try_from(port).ok()),
            _ => {}
        }
        said.keys.push(key);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wire() -> Vec<u8> {
        let mut out = PROTOCOL.to_vec();
        out.extend([0; 28]);
        out.extend(b"-XX0001-abcdefghijkl");
        out.extend([0, 0, 0, 2, 5, 0x80]);
        let extended =
            b"\x14\x00d4:ipv44:\x21\x01\x00\x021:md11:ut_metadatai1ee1:pi6881e1:v7:Foo 1.0e";
        out.extend((extended.len() as u32).to_be_bytes());
        out.extend(extended);
        out
    }

    #[test]
    fn both_handshakes_are_read_however_they_are_cut() {
        for cut in 1..wire().len() {
            let mut peek = Peek::default();
            let news = wire().chunks(cut).filter(|chunk| peek.read(chunk)).count();
            assert!((1..=2).contains(&news));
            let said = peek.said();
            assert_eq!(said.peer_id, Some(*b"-XX0001-abcdefghijkl"));
            assert_eq!(said.keys, ["ipv4", "m", "p", "v"]);
            assert_eq!(
                (said.version.as_deref(), said.port),
                (Some("Foo 1.0"), Some(6881))
            );
            assert_eq!(said.own, [IpAddr::from([33, 1, 0, 2])]);
        }
    }

    #[test]
    fn encrypted_and_endless_connections_are_let_go() {
        let mut peek = Peek::default();
        assert!(!peek.read(&[0x77; 96]) && peek.over);
        let mut peek = Peek::default();
        peek.read(&wire()[..74]);
        // A message that is longer than what is kept.
        peek.read(&[0x7f, 0, 0, 0]);
        assert!(peek.over && peek.seen.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_bounded(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 0..9)) {
            let mut peek = Peek::default();
            peek.read(PROTOCOL);
            for chunk in &chunks {
                peek.read(chunk);
                prop_assert!(peek.seen.len() <= MAX_LOOK);
            }
        }
    }
}
