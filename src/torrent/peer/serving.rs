//! The half of a connection that answers requests.

use super::{CloseReason, Core};
use crate::torrent::extension::REQQ;
use crate::torrent::wire::{BlockRef, MAX_BLOCK, MessageRef};

/// Most requests of a peer that wait; those beyond are refused. Twice what our handshake allows.
pub(super) const MAX_UPLOADS: usize = 2 * REQQ as usize;

/// Most requests refused in a row: as many may have crossed a choke, and who asks on asks in vain.
const MAX_REFUSED: usize = 2 * MAX_UPLOADS;

impl Core {
    pub(super) fn set_choking(&mut self, choke: bool) {
        if choke == self.we_choke || !self.greeted {
            return;
        }
        self.we_choke = choke;
        if choke {
            MessageRef::Choke.encode(&mut self.out);
            for block in std::mem::take(&mut self.uploads) {
                self.refuse(block);
            }
        } else {
            self.refused = 0;
            MessageRef::Unchoke.encode(&mut self.out);
        }
    }

    /// Says that a request will not be answered, to those who are told (BEP 6).
    fn refuse(&mut self, block: BlockRef) {
        if self.fast.on {
            MessageRef::Reject(block).encode(&mut self.out);
        }
    }

    pub(super) fn handle_request(&mut self, block: BlockRef) -> Result<(), CloseReason> {
        let bad = CloseReason::Bad("request");
        let geometry = self.geometry.as_ref().ok_or(bad)?;
        if block.len == 0 || block.len > MAX_BLOCK || !geometry.contains(block) {
            return Err(bad);
        }
        let had = self.ours.get(block.index);
        if !had && !self.fast.on {
            return Err(bad);
        }
        if had && !self.we_choke && self.uploads.len() < MAX_UPLOADS {
            self.uploads.push_back(block);
            return Ok(());
        }
        // It crossed our choke, or is one too many.
        self.refused += 1;
        if self.refused > MAX_REFUSED {
            return Err(CloseReason::Floods("requests"));
        }
        self.refuse(block);
        Ok(())
    }

    /// A request is taken back. What is being read for the peer comes all the same.
    pub(super) fn handle_cancel(&mut self, block: BlockRef) {
        let before = self.uploads.len();
        self.uploads.retain(|&waiting| waiting != block);
        for _ in self.uploads.len()..before {
            self.refuse(block);
        }
    }

    /// Takes requests to serve, up to about `bytes`, at least one.
    pub(super) fn take_uploads(&mut self, bytes: u32) -> Vec<BlockRef> {
        let mut blocks = Vec::new();
        let mut sum = 0_u32;
        while sum < bytes {
            let Some(block) = self.uploads.pop_front() else {
                break;
            };
            sum = sum.saturating_add(block.len);
            blocks.push(block);
        }
        if !blocks.is_empty() {
            self.refused = 0;
        }
        blocks
    }
}
