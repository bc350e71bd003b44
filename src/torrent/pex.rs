//! Peer exchange (BEP 11): the extension message by which peers of the public swarm tell each other of more.
//!
//! It is offered on connections to the public swarm alone: what onion peers tell each other is [`super::gossip`]'s. Ours says of
//! nobody what he can do, and of nobody that he went: both would tell of our connections more than an address does.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::extension::ExtensionError;
use crate::bencode::{self, Value};

/// Name of the message in the `m` dictionary of the extension handshake (BEP 10, 11).
pub const NAME: &str = "ut_pex";

/// Most addresses of one message that are sent, and that are believed (BEP 11).
pub const MAX_ADDED: usize = 50;

/// Encoded length of an IPv4 address and its port, bytes, as trackers write them (BEP 23).
const V4_LEN: usize = 6;

/// The same with IPv6 (BEP 7).
const V6_LEN: usize = 18;

/// The message: whom its sender is connected to. `Debug` says only how many.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PeerExchange {
    /// Addresses, at most [`MAX_ADDED`], each once, none with port 0.
    pub added: Vec<SocketAddr>,
}

impl PeerExchange {
    /// The payload: every key of BEP 11, as the common clients write them. A flag byte of 0 for each address: some clients
    /// don't read a message without.
    pub fn encode(&self) -> Vec<u8> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for addr in &self.added {
            match addr.ip() {
                IpAddr::V4(ip) => {
                    v4.extend_from_slice(&ip.octets());
                    v4.extend_from_slice(&addr.port().to_be_bytes());
                }
                IpAddr::V6(ip) => {
                    v6.extend_from_slice(&ip.octets());
                    v6.extend_from_slice(&addr.port().to_be_bytes());
                }
            }
        }
        let mut out = Vec::with_capacity(v4.len() + v6.len() + self.added.len() + 80);
        bencode::put_dict(&mut out, |dict| {
            bencode::put_bytes(dict.key("added"), &v4);
            bencode::put_bytes(dict.key("added.f"), vec![0; v4.len() / V4_LEN]);
            bencode::put_bytes(dict.key("added6"), &v6);
            bencode::put_bytes(dict.key("added6.f"), vec![0; v6.len() / V6_LEN]);
            bencode::put_bytes(dict.key("dropped"), b"");
            bencode::put_bytes(dict.key("dropped6"), b"");
        });
        out
    }

    /// Reads a payload: the first [`MAX_ADDED`] addresses, without those with port 0. IPv4 in IPv6 counts as IPv4. Flags and
    /// dropped peers are passed over: whether somebody is there is seen when he is called.
    ///
    /// # Errors
    /// Not such a message: close the connection.
    pub fn parse(payload: &[u8]) -> Result<Self, ExtensionError> {
        // Bytes may follow, as after other extension messages.
        let (value, _) = Value::parse_prefix(payload)?;
        let [v4, v6] = value.fields(["added", "added6"])?;
        let v4 = entries::<V4_LEN>(v4, "added")?.iter().map(read_v4);
        let v6 = entries::<V6_LEN>(v6, "added6")?.iter().map(read_v6);
        let mut known = BTreeSet::new();
        let added = v4.chain(v6).take(MAX_ADDED);
        let added = added.filter(|addr| addr.port() != 0 && known.insert(*addr));
        Ok(Self {
            added: added.collect(),
        })
    }
}

impl fmt::Debug for PeerExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerExchange({} peers)", self.added.len())
    }
}

/// An absent entry is an empty one.
fn entries<'a, const N: usize>(
    value: Option<Value<'a>>,
    name: &'static str,
) -> Result<&'a [[u8; N]], ExtensionError> {
    let Some(value) = value else {
        return Ok(&[]);
    };
    let bytes = value.as_bytes().ok_or(ExtensionError::Entry(name))?;
    match bytes.as_chunks::<N>() {
        (entries, []) => Ok(entries),
        (_, _) => Err(ExtensionError::Entry(name)),
    }
}

fn read_v4(&[a, b, c, d, high, low]: &[u8; V4_LEN]) -> SocketAddr {
    let port = u16::from_be_bytes([high, low]);
    SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port)
}

fn read_v6(entry: &[u8; V6_LEN]) -> SocketAddr {
    let mut ip = [0; 16];
    ip.copy_from_slice(&entry[..16]);
    let port = u16::from_be_bytes([entry[16], entry[17]]);
    SocketAddr::new(IpAddr::from(Ipv6Addr::from(ip)).to_canonical(), port)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_message_is_written_byte_for_byte_and_says_nothing_but_addresses() {
        let message = PeerExchange {
            added: addrs(&["1.2.3.4:6881", "[2001:db8::1]:51413", "5.6.7.8:1"]),
        };
        let mut expected = b"d5:added12:\x01\x02\x03\x04\x1a\xe1\x05\x06\x07\x08\0\x01".to_vec();
        expected.extend_from_slice(
            b"7:added.f2:\0\x006:added618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\xc8\xd5",
        );
        expected.extend_from_slice(b"8:added6.f1:\x007:dropped0:8:dropped60:e");
        assert_eq!(message.encode(), expected);
        let read = PeerExchange::parse(&expected).unwrap();
        let sorted = addrs(&["1.2.3.4:6881", "5.6.7.8:1", "[2001:db8::1]:51413"]);
        assert_eq!(read.added, sorted);
        assert_eq!(format!("{read:?}"), "PeerExchange(3 peers)");
    }

    #[test]
    fn what_libtorrent_sends_is_read() {
        // libtorrent 2.1.1, with a seed that takes uTP and one that went.
        let said = b"d5:added6:\x0a\x4d\0\x15\x1a\xe17:added.f1:\x166:added60:8:added6.f0:7:dropped6:\x0a\x4d\0\x16\x1a\xe18:dropped60:e";
        let read = PeerExchange::parse(said).unwrap();
        assert_eq!(read.added, addrs(&["10.77.0.21:6881"]));
    }

    #[test]
    fn what_can_be_no_peer_or_is_too_much_is_passed_over() {
        let mut many = Vec::new();
        for n in 0..200_u8 {
            many.extend_from_slice(&[11, 0, 0, n, 0, 1]);
        }
        let payload = |v4: &[u8], v6: &[u8]| {
            let mut out = Vec::new();
            bencode::put_dict(&mut out, |dict| {
                bencode::put_bytes(dict.key("added"), v4);
                bencode::put_bytes(dict.key("added6"), v6);
            });
            out
        };
        let read = PeerExchange::parse(&payload(&many, &[1; 18])).unwrap();
        assert_eq!(read.added.len(), MAX_ADDED);
        let twice = [&many[..6], &many[..6], &[1, 2, 3, 4, 0, 0]].concat();
        let mut mapped = [0; 18];
        mapped[10..].copy_from_slice(&[0xff, 0xff, 11, 0, 0, 0, 0, 1]);
        let read = PeerExchange::parse(&payload(&twice, &mapped)).unwrap();
        assert_eq!(read.added, addrs(&["11.0.0.0:1"]));
        assert_eq!(PeerExchange::parse(b"de"), Ok(PeerExchange::default()));
        for bad in [&many[..5], &many[..7]] {
            let error = PeerExchange::parse(&payload(bad, b"")).unwrap_err();
            assert_eq!(error, ExtensionError::Entry("added"));
            let error = PeerExchange::parse(&payload(b"", bad)).unwrap_err();
            assert_eq!(error, ExtensionError::Entry("added6"));
        }
        assert!(PeerExchange::parse(b"d5:addedi1ee").is_err());
        assert!(PeerExchange::parse(b"le").is_err());
    }

    proptest! {
        #[test]
        fn every_message_comes_back(peers in prop::collection::btree_set((any::<IpAddr>(), 1..=u16::MAX), 0..=MAX_ADDED)) {
            let addrs = peers.into_iter().map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port));
            let added: BTreeSet<SocketAddr> = addrs.collect();
            let message = PeerExchange { added: added.iter().copied().collect() };
            let read = PeerExchange::parse(&message.encode()).unwrap();
            prop_assert_eq!(read.added.into_iter().collect::<BTreeSet<_>>(), added);
        }

        #[test]
        fn no_bytes_break_the_reader(payload in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(read) = PeerExchange::parse(&payload) {
                prop_assert!(read.added.len() <= MAX_ADDED);
                // IPv4 in IPv6 goes to the others of its kind.
                let again = PeerExchange::parse(&read.encode()).unwrap();
                let set = |read: PeerExchange| read.added.into_iter().collect::<BTreeSet<_>>();
                prop_assert_eq!(set(again), set(read));
            }
        }
    }
}
