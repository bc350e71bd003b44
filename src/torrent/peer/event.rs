//! What a connection tells its driver, and why it ends.

use crate::torrent::extension::ExtensionError;
use crate::torrent::gossip::Onions;
use crate::torrent::pex::PeerExchange;
use crate::torrent::v2::merkle::Hash;
use crate::torrent::v2::request::HashRequest;
use crate::torrent::wire::{BlockRef, WireError};

/// Why a connection was or is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer broke BEP 3.
    #[error("protocol: {0}")]
    Wire(#[from] WireError),
    /// The peer broke BEP 9 or 10.
    #[error("extension: {0}")]
    Extension(#[from] ExtensionError),
    /// The handshake named another torrent.
    #[error("another torrent")]
    OtherTorrent,
    /// A message with impossible content, named here.
    #[error("bad {0}")]
    Bad(&'static str),
    /// Blocks that nobody asked for.
    #[error("sends what was not asked for")]
    Unasked,
    /// Says more, or more often, than it may; what is named here.
    #[error("floods: {0}")]
    Floods(&'static str),
    /// Took too long; what is named here.
    #[error("timed out: {0}")]
    TimedOut(&'static str),
    /// Does not read what we send.
    #[error("does not read")]
    Stuck,
    /// Neither side needs anything.
    #[error("both are complete")]
    BothComplete,
    /// We dialled it, and that connection stays: this one, by which it says to have come to us too, does not.
    #[error("is connected already")]
    Twice,
    /// The stream ended or broke.
    #[error("the stream ended")]
    StreamEnded,
    /// Sent data that failed its hash.
    #[error("sent wrong data")]
    Lied,
    /// We closed it: shutting down, or making room.
    #[error("closed by us")]
    ByUs,
}

impl CloseReason {
    /// Tells whether the peer misbehaved, so that it should be tried much later, if at all.
    pub fn is_fault(&self) -> bool {
        match self {
            Self::Wire(_)
            | Self::Extension(_)
            | Self::OtherTorrent
            | Self::Bad(_)
            | Self::Unasked
            | Self::Floods(_)
            | Self::Lied => true,
            Self::TimedOut(_)
            | Self::Stuck
            | Self::BothComplete
            | Self::Twice
            | Self::StreamEnded
            | Self::ByUs => false,
        }
    }
}

/// What a connection tells its driver.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A message was handled that concerns nobody else: poll on.
    Nothing,
    /// The handshakes are exchanged.
    Ready,
    /// The peer's bitfield came: [`super::Peer::pieces`], where nothing was before. Comes at most once.
    Pieces,
    /// The peer has one more piece.
    Have(u32),
    /// A block that was asked for, at its place in the receive buffer.
    Block(BlockRef, &'a [u8]),
    /// These requests will not be answered: release them.
    Released(Vec<BlockRef>),
    /// The peer answers requests now.
    Unchoked,
    /// The peer answers requests for more pieces though it chokes: [`super::Peer::askable`].
    Allowed,
    /// The peer's extension handshake came: [`super::Peer::extensions`].
    Extensions,
    /// A piece of the metadata.
    Metadata {
        /// Number of the piece.
        piece: u32,
        /// Bytes of the whole metadata, as the peer says.
        total: u32,
        /// Its bytes.
        data: &'a [u8],
    },
    /// The peer tells of hidden peers. Comes only where that was offered.
    Onions(Onions),
    /// The peer tells of public peers. Comes only where that was offered.
    Peers(PeerExchange),
    /// The peer wants hashes: [`super::Peer::give_hashes`].
    HashesWanted(HashRequest),
    /// Hashes, asked for or not; nothing is proved yet.
    Hashes(HashRequest, &'a [Hash]),
    /// The peer does not give these.
    HashesRefused(HashRequest),
    /// The peer does not give this piece of the metadata.
    MetadataRejected,
    /// The peer wants a piece of the metadata: [`super::Peer::give_metadata`].
    MetadataWanted(u32),
}
