//! The extension protocol (BEP 10) and the exchange of metadata (BEP 9).
//!
//! Everybody who runs this program sends the same handshake: no version, port or address, and one order of keys. Of a
//! peer's handshake only what we use is read; what it says about our address is not.

use rand::CryptoRng;

use super::metainfo::MAX_TORRENT;
use super::{gossip, pex};
use crate::bencode::{self, BencodeError, Value};

/// Extended message id of the handshake (BEP 10).
pub const HANDSHAKE: u8 = 0;
/// Extended message id under which peers send us `ut_metadata` messages.
pub const UT_METADATA: u8 = 1;
/// Extended message id under which peers send us [`gossip::Onions`], where we offered to take them.
pub const HS_ONIONS: u8 = 2;
/// Extended message id under which peers send us [`pex::PeerExchange`], where we offered to take them.
pub const UT_PEX: u8 = 3;
/// Requests that we let a peer have outstanding: 8 MiB in blocks, so that one circuit with a long round trip is filled. 500 is
/// what libtorrent says.
pub const REQQ: u32 = 500;
/// Length of each metadata piece but the last, bytes (BEP 9).
pub const METADATA_PIECE: usize = 16 << 10;
/// Largest metadata that we fetch from peers, bytes: enough for 800,000 pieces.
pub const MAX_METADATA: u32 = 16 << 20;
/// Largest value of `reqq` believed: more would only fill queues.
const MAX_REQQ: u32 = 2000;

const _: () = assert!(MAX_METADATA as usize <= MAX_TORRENT);

/// The peer broke BEP 9 or 10: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExtensionError {
    /// Not bencode.
    #[error("malformed extension message")]
    Bencode(#[from] BencodeError),
    /// A needed entry is absent or out of range.
    #[error("the entry \"{0}\" of an extension message is missing or malformed")]
    Entry(&'static str),
    /// A metadata piece whose length is not what its number and the total say.
    #[error("a metadata piece has the wrong length")]
    PieceLength,
    /// Bytes after a message that has no data.
    #[error("bytes follow an extension message")]
    Trailing,
}

/// Of whom else two ends of a connection may tell each other. Hidden and public peers are never told of together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exchange {
    /// Of nobody: peers of private torrents are the tracker's to name (BEP 27).
    #[default]
    Nobody,
    /// Of peers of the public swarm (BEP 11): on connections with it.
    Public,
    /// Of onion services and hidden seeds (docs/onion-gossip.md): on connections with such.
    Onions,
}

/// Makes the payload of our handshake. `metadata_size` is the length of the info dictionary where we have it and may
/// give it away.
pub fn handshake(metadata_size: Option<u32>, exchange: Exchange) -> Vec<u8> {
    let mut out = Vec::new();
    bencode::put_dict(&mut out, |dict| {
        bencode::put_dict(dict.key("m"), |m| {
            if exchange == Exchange::Onions {
                bencode::put_int(m.key(gossip::NAME), HS_ONIONS);
            }
            bencode::put_int(m.key("ut_metadata"), UT_METADATA);
            if exchange == Exchange::Public {
                bencode::put_int(m.key(pex::NAME), UT_PEX);
            }
        });
        if let Some(size) = metadata_size {
            bencode::put_int(dict.key("metadata_size"), size);
        }
        bencode::put_int(dict.key("reqq"), REQQ);
    });
    out
}

/// What a peer's handshake says, as far as we care.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerExtensions {
    /// Extended message id under which the peer takes `ut_metadata` messages.
    pub ut_metadata: Option<u8>,
    /// Extended message id under which the peer takes [`gossip::Onions`].
    pub hs_onions: Option<u8>,
    /// Extended message id under which the peer takes [`pex::PeerExchange`].
    pub ut_pex: Option<u8>,
    /// Length of the info dictionary, bytes, 1 to [`MAX_METADATA`]. Its hash decides whether that is true.
    pub metadata_size: Option<u32>,
    /// Requests that the peer lets us have outstanding.
    pub reqq: Option<u32>,
}

impl PeerExtensions {
    /// Reads the payload of a peer's handshake. Values out of range count as absent.
    ///
    /// # Errors
    /// The peer broke BEP 10: close the connection.
    pub fn parse(payload: &[u8]) -> Result<Self, ExtensionError> {
        // Some clients append bytes; BEP 10 does not forbid it.
        let (value, _) = Value::parse_prefix(payload)?;
        let [m, size, reqq] = value.fields(["m", "metadata_size", "reqq"])?;
        let [ut_metadata, hs_onions, ut_pex] = match m.filter(|m| m.as_dict().is_some()) {
            Some(m) => m.fields(["ut_metadata", gossip::NAME, pex::NAME])?,
            None => [None; 3],
        };
        let number = |value: Option<Value<'_>>, max: u32| {
            let value = value
                .and_then(Value::as_uint)
                .and_then(|n| u32::try_from(n).ok());
            value.filter(|n| (1..=max).contains(n))
        };
        let id = |value| number(value, 255).and_then(|id| u8::try_from(id).ok());
        Ok(Self {
            ut_metadata: id(ut_metadata),
            hs_onions: id(hs_onions),
            ut_pex: id(ut_pex),
            metadata_size: number(size, MAX_METADATA),
            reqq: number(reqq, u32::MAX).map(|n| n.min(MAX_REQQ)),
        })
    }
}

/// A `ut_metadata` message (BEP 9).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum MetadataMessage<'a> {
    /// Asks for a piece.
    Request(u32),
    /// Gives a piece.
    Data {
        /// Its number.
        piece: u32,
        /// Length of the whole metadata, bytes.
        total_size: u32,
        /// Its bytes: exactly as many as number and total say.
        data: &'a [u8],
    },
    /// Refuses a piece.
    Reject(u32),
}

impl<'a> MetadataMessage<'a> {
    /// Reads a message; `None` is a type that BEP 9 tells to ignore.
    ///
    /// # Errors
    /// The peer broke BEP 9: close the connection.
    pub fn parse(payload: &'a [u8]) -> Result<Option<Self>, ExtensionError> {
        let (value, data) = Value::parse_prefix(payload)?;
        let [kind, piece, total] = value.fields(["msg_type", "piece", "total_size"])?;
        let number = |value: Option<Value<'_>>, name, max: u32| {
            let value = value
                .and_then(Value::as_uint)
                .and_then(|n| u32::try_from(n).ok());
            value
                .filter(|&n| n <= max)
                .ok_or(ExtensionError::Entry(name))
        };
        let kind = kind
            .and_then(Value::as_int)
            .ok_or(ExtensionError::Entry("msg_type"))?;
        if !(0..=2).contains(&kind) {
            return Ok(None);
        }
        let piece = number(piece, "piece", MAX_METADATA / METADATA_PIECE as u32)?;
        if kind == 1 {
            let total_size = number(total, "total_size", MAX_METADATA)?;
            if data.is_empty() || data.len() != metadata_piece_len(piece, total_size) {
                return Err(ExtensionError::PieceLength);
            }
            return Ok(Some(Self::Data {
                piece,
                total_size,
                data,
            }));
        }
        if !data.is_empty() {
            return Err(ExtensionError::Trailing);
        }
        Ok(Some(if kind == 0 {
            Self::Request(piece)
        } else {
            Self::Reject(piece)
        }))
    }

    /// The payload of the message.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, piece, total, data) = match *self {
            Self::Request(piece) => (0, piece, None, &[][..]),
            Self::Data {
                piece,
                total_size,
                data,
            } => (1, piece, Some(total_size), data),
            Self::Reject(piece) => (2, piece, None, &[][..]),
        };
        let mut out = Vec::with_capacity(data.len() + 64);
        bencode::put_dict(&mut out, |dict| {
            bencode::put_int(dict.key("msg_type"), kind);
            bencode::put_int(dict.key("piece"), piece);
            if let Some(total) = total {
                bencode::put_int(dict.key("total_size"), total);
            }
        });
        out.extend_from_slice(data);
        out
    }
}

impl std::fmt::Debug for MetadataMessage<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Request(piece) => write!(f, "Request({piece})"),
            Self::Data { piece, data, .. } => write!(f, "Data({piece}, {} bytes)", data.len()),
            Self::Reject(piece) => write!(f, "Reject({piece})"),
        }
    }
}

/// Number of metadata pieces for this total.
pub fn metadata_piece_count(total_size: u32) -> u32 {
    total_size.div_ceil(METADATA_PIECE as u32)
}

/// Length of a metadata piece, bytes; 0 where there is no such piece.
pub fn metadata_piece_len(piece: u32, total_size: u32) -> usize {
    let start = u64::from(piece) * METADATA_PIECE as u64;
    // At most METADATA_PIECE.
    u64::from(total_size)
        .saturating_sub(start)
        .min(METADATA_PIECE as u64) as usize
}

/// Makes a peer id that names no program: 20 random bytes. One for each torrent and session, never stored.
pub fn random_peer_id(rng: &mut (impl CryptoRng + ?Sized)) -> [u8; 20] {
    let mut id = [0; 20];
    rng.fill_bytes(&mut id);
    id
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn our_handshake_is_the_one_everybody_sends() {
        assert_eq!(
            handshake(None, Exchange::Public),
            b"d1:md11:ut_metadatai1e6:ut_pexi3ee4:reqqi500ee"
        );
        assert_eq!(
            handshake(None, Exchange::Nobody),
            b"d1:md11:ut_metadatai1ee4:reqqi500ee"
        );
        assert_eq!(
            handshake(Some(31235), Exchange::Public),
            b"d1:md11:ut_metadatai1e6:ut_pexi3ee13:metadata_sizei31235e4:reqqi500ee"
        );
    }

    #[test]
    fn what_onion_peers_offer_each_other_is_read() {
        let ours = handshake(None, Exchange::Onions);
        assert_eq!(ours, b"d1:md9:hs_onionsi2e11:ut_metadatai1ee4:reqqi500ee");
        let read = PeerExtensions::parse(&ours).unwrap();
        assert_eq!(read.hs_onions, Some(HS_ONIONS));
        let plain = PeerExtensions::parse(&handshake(None, Exchange::Nobody)).unwrap();
        assert_eq!(plain.hs_onions, None);
    }

    #[test]
    fn of_a_peers_handshake_only_what_we_use_is_read() {
        // As libtorrent sends it, our address in "yourip" included.
        let theirs = b"d12:complete_agoi1e1:md11:lt_donthavei7e10:share_modei8e11:upload_onlyi3e\
12:ut_holepunchi4e11:ut_metadatai2e6:ut_pexi1ee13:metadata_sizei132e4:reqqi500e\
11:upload_onlyi1e1:v17:libtorrent/2.0.116:yourip4:\xc0\x00\x02\x01e";
        let read = PeerExtensions::parse(theirs).unwrap();
        let expected = PeerExtensions {
            ut_metadata: Some(2),
            hs_onions: None,
            ut_pex: Some(1),
            metadata_size: Some(132),
            reqq: Some(500),
        };
        assert_eq!(read, expected);
        assert_eq!(PeerExtensions::parse(b"de"), Ok(PeerExtensions::default()));
    }

    #[test]
    fn values_out_of_range_count_as_absent() {
        for payload in [
            &b"d1:md11:ut_metadatai0ee13:metadata_sizei0e4:reqqi0ee"[..],
            b"d1:md11:ut_metadatai256ee13:metadata_sizei16777217e4:reqqi-1ee",
            b"d1:mi1e13:metadata_size1:a4:reqq0:e",
        ] {
            assert_eq!(
                PeerExtensions::parse(payload),
                Ok(PeerExtensions::default())
            );
        }
        let greedy = PeerExtensions::parse(b"d4:reqqi4000000000ee").unwrap();
        assert_eq!(greedy.reqq, Some(MAX_REQQ));
        assert!(PeerExtensions::parse(b"le").is_err());
    }

    #[test]
    fn metadata_messages_have_the_bytes_of_bep_9() {
        for (message, bytes) in [
            (
                MetadataMessage::Request(3),
                &b"d8:msg_typei0e5:piecei3ee"[..],
            ),
            (MetadataMessage::Reject(3), b"d8:msg_typei2e5:piecei3ee"),
            (
                MetadataMessage::Data {
                    piece: 1,
                    total_size: 16386,
                    data: b"xy",
                },
                b"d8:msg_typei1e5:piecei1e10:total_sizei16386eexy",
            ),
        ] {
            assert_eq!(message.encode(), bytes);
            assert_eq!(MetadataMessage::parse(bytes), Ok(Some(message)));
        }
    }

    #[test]
    fn metadata_that_contradicts_itself_is_refused() {
        for (bytes, error) in [
            (
                &b"d8:msg_typei1e5:piecei1e10:total_sizei16386eex"[..],
                ExtensionError::PieceLength,
            ),
            (
                b"d8:msg_typei1e5:piecei2e10:total_sizei16386eex",
                ExtensionError::PieceLength,
            ),
            (
                b"d8:msg_typei1e5:piecei2e10:total_sizei16386ee",
                ExtensionError::PieceLength,
            ),
            (
                b"d8:msg_typei1e5:piecei0ee",
                ExtensionError::Entry("total_size"),
            ),
            (
                b"d8:msg_typei1e5:piecei0e10:total_sizei16777217ee",
                ExtensionError::Entry("total_size"),
            ),
            (
                b"d8:msg_typei0e5:piecei-1ee",
                ExtensionError::Entry("piece"),
            ),
            (
                b"d8:msg_typei0e5:piecei1025ee",
                ExtensionError::Entry("piece"),
            ),
            (b"d5:piecei0ee", ExtensionError::Entry("msg_type")),
            (b"d8:msg_typei0e5:piecei0eex", ExtensionError::Trailing),
        ] {
            assert_eq!(
                MetadataMessage::parse(bytes),
                Err(error),
                "{}",
                bytes.escape_ascii()
            );
        }
        assert_eq!(
            MetadataMessage::parse(b"d8:msg_typei9e5:piecei0ee"),
            Ok(None)
        );
    }

    #[test]
    fn peer_ids_differ() {
        let mut rng = rand::rng();
        assert_ne!(random_peer_id(&mut rng), random_peer_id(&mut rng));
    }

    proptest! {
        #[test]
        fn metadata_pieces_read_back(total in 1..200_000_u32, pick: prop::sample::Index) {
            let piece = pick.index(metadata_piece_count(total) as usize) as u32;
            let data = vec![7; metadata_piece_len(piece, total)];
            let message = MetadataMessage::Data { piece, total_size: total, data: &data };
            let bytes = message.encode();
            prop_assert_eq!(MetadataMessage::parse(&bytes), Ok(Some(message)));
        }

        #[test]
        fn mutated_messages_never_panic(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        ) {
            let metadata = MetadataMessage::Data { piece: 1, total_size: 16386, data: b"xy" }.encode();
            for mut bytes in [handshake(Some(99), Exchange::Public), metadata] {
                for (at, byte) in &edits {
                    let at = at.index(bytes.len());
                    bytes[at] = *byte;
                }
                let _ = PeerExtensions::parse(&bytes);
                let _ = MetadataMessage::parse(&bytes);
            }
        }
    }
}
