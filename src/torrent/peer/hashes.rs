//! The half of a connection that speaks of versions: under which name it goes, and hashes of trees (BEP 52).

use super::{CloseReason, Core, MAX_OUTPUT, Peer};
use crate::torrent::infohash::InfoHash;
use crate::torrent::picker::Geometry;
use crate::torrent::v2::merkle::Hash;
use crate::torrent::v2::request::HashRequest;
use crate::torrent::wire::{BLOCK, Handshake, MessageRef, UPGRADE_BIT};

/// How often a peer may fetch the trees of a torrent, choked or not.
const HASHES_TIMES: u64 = 3;

/// What it may fetch of one that has few, bytes.
const LEAST_HASHES: u64 = 64 << 10;

/// Most requests refused in a row. Somebody who has no hashes yet refuses us eight a minute ([`crate::torrent::v2::fetch`]): who asks as we
/// do may go on for a day.
const MAX_REFUSED: u32 = 12_000;

/// Bytes of hashes that a peer may fetch of a torrent that is cut like this.
pub(super) fn share_of(geometry: &Geometry) -> u64 {
    // As many hashes again lie above those of the blocks.
    let trees = geometry.total.div_ceil(u64::from(BLOCK)).saturating_mul(64);
    trees.saturating_mul(HASHES_TIMES).max(LEAST_HASHES)
}

impl Peer {
    /// Says by which name the torrent goes among peers of version 2, before the handshakes. A connection that begins under the first
    /// name of a hybrid torrent goes on under this one where both sides can.
    pub fn also_named(&mut self, v2: InfoHash) {
        let core = &mut self.core;
        core.v2_name = Some(v2);
        if core.outgoing && !core.greeted {
            // Nothing was sent yet.
            core.out.clear();
            core.greet();
        }
    }

    /// The name under which both ends know the torrent; `None` before the handshakes. Under that of version 2 they may ask each other
    /// for hashes.
    pub fn name(&self) -> Option<InfoHash> {
        self.core.greeted.then_some(self.core.hash)
    }

    /// Asks for hashes.
    pub fn ask_hashes(&mut self, request: HashRequest) {
        self.core.chatter.expect_one();
        MessageRef::HashRequest(request).encode(&mut self.core.out);
    }

    /// Whether this may be answered at all: neither too much waits for the peer already, nor has it had its share.
    pub fn may_have_hashes(&self, request: &HashRequest) -> bool {
        let core = &self.core;
        core.out.len() < MAX_OUTPUT / 2 && request.answer_len() <= core.hashes_left
    }

    /// Takes what an answer costs besides its own bytes from the peer's share; `false` where it had that.
    pub fn charge_hashes(&mut self, bytes: u64) -> bool {
        let left = self.core.hashes_left.checked_sub(bytes);
        self.core.hashes_left = left.unwrap_or(self.core.hashes_left);
        left.is_some()
    }

    /// Answers [`super::Event::HashesWanted`]: with the hashes, or with a refusal, also where too much waits for the peer already, or it
    /// had its share.
    ///
    /// # Errors
    /// Too many were refused: close the connection.
    pub fn give_hashes(
        &mut self,
        request: HashRequest,
        hashes: Option<&[Hash]>,
    ) -> Result<(), CloseReason> {
        let core = &mut self.core;
        let given = hashes.map(<[Hash]>::as_flattened);
        let left = given.and_then(|bytes| core.hashes_left.checked_sub(bytes.len() as u64));
        match given.zip(left) {
            Some((bytes, left)) if core.out.len() < MAX_OUTPUT / 2 => {
                core.hashes_left = left;
                core.hashes_refused = 0;
                MessageRef::Hashes(request, bytes).encode(&mut core.out);
            }
            Some(_) | None => {
                core.hashes_refused += 1;
                if core.hashes_refused > MAX_REFUSED {
                    return Err(CloseReason::Floods("hash requests"));
                }
                MessageRef::HashReject(request).encode(&mut core.out);
            }
        }
        Ok(())
    }
}

impl Core {
    pub(super) fn greet(&mut self) {
        let mut handshake = Handshake::new(self.hash, self.id);
        if self.outgoing && self.offers_upgrade() {
            handshake.reserved[7] |= UPGRADE_BIT;
        }
        self.out.extend_from_slice(&handshake.encode());
    }

    /// Whether there is another name to go on under.
    fn offers_upgrade(&self) -> bool {
        self.v2_name.is_some_and(|name| name != self.hash)
    }

    /// Settles on a name. Who was called decides, within what the caller takes.
    pub(super) fn settle_name(&mut self, theirs: &Handshake) -> Result<(), CloseReason> {
        if theirs.hash != self.hash && self.v2_name != Some(theirs.hash) {
            return Err(CloseReason::OtherTorrent);
        }
        let upgraded = match self.v2_name {
            Some(name) if !self.outgoing && theirs.takes_upgrade() => name,
            Some(_) | None => theirs.hash,
        };
        self.hash = upgraded;
        Ok(())
    }
}
