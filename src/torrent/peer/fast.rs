//! The half of a connection that speaks the fast extension (BEP 6): every request is answered, by the block or by a reject.
//!
//! What a peer allows us while it chokes is taken. We allow nobody anything: BEP 6 makes these sets of the other's address, which behind
//! circuits we don't have and should not want, and a random set would be larger for each time that a leech comes again. Suggestions are
//! read and not followed: the rarest piece serves the swarm better, and nobody should steer what we ask of others. We send none, as they
//! would tell what lies in our memory.

use std::time::{Duration, Instant};

use super::{CloseReason, Core, Event, Theirs};
use crate::torrent::metainfo::MAX_PIECES;
use crate::torrent::picker::Bits;
use crate::torrent::wire::{BlockRef, MessageRef};

/// Most pieces remembered that a peer allows: BEP 6 has ten.
const MAX_ALLOWED: usize = 64;

/// Requests outstanding at most while the peer chokes: a piece that is allowed is not a place in its queue.
const ALLOWED_WINDOW: usize = 8;

/// Some clients drop requests at a choke without a word, though BEP 6 has them rejected: what was asked for before and neither comes nor is
/// rejected for so long after a choke is given up. A circuit's round trip may take seconds.
const CHOKE_GRACE: Duration = Duration::from_secs(10);

/// A peer that rejects so many requests in a row, though it does not choke us, is left alone for [`REST`].
const MAX_REFUSALS: u32 = 32;
const REST: Duration = Duration::from_secs(20);

/// What the fast extension adds to a connection.
#[derive(Default)]
pub(super) struct Fast {
    /// Both sides offer it.
    pub(super) on: bool,
    /// Pieces that the peer gives also while it chokes, had or not.
    allowed: Vec<u32>,
    /// Those of them that it has; empty while the number of pieces is unknown.
    usable: Bits,
    /// When the peer choked us last with requests outstanding.
    choked_at: Option<Instant>,
    /// Rejects since the last block, while it did not choke us.
    refusals: u32,
    /// Nothing is asked for until then.
    pub(super) rest_until: Option<Instant>,
}

impl Fast {
    /// When [`Core::handle_fast_timeout`] is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let given_up = self.choked_at.map(|at| at + CHOKE_GRACE);
        [given_up, self.rest_until].into_iter().flatten().min()
    }

    /// A block came.
    pub(super) fn answered(&mut self) {
        self.refusals = 0;
    }
}

impl Core {
    /// What we have, as the first message after the handshakes.
    pub(super) fn send_ours(&mut self) {
        // Without the extension, who has nothing says nothing, and who has all says so bit by bit.
        if self.ours.is_empty() {
            if self.fast.on {
                MessageRef::HaveNone.encode(&mut self.out);
            }
        } else if self.ours.is_full() && self.fast.on {
            MessageRef::HaveAll.encode(&mut self.out);
        } else {
            MessageRef::Bitfield(&self.ours.to_bytes()).encode(&mut self.out);
        }
    }

    pub(super) fn handle_have_all(&mut self, first: bool) -> Result<Event<'static>, CloseReason> {
        if !self.fast.on {
            return Ok(Event::Nothing);
        }
        if !first {
            return Err(CloseReason::Bad("have all"));
        }
        match &mut self.theirs {
            Theirs::Early { all, .. } => {
                *all = true;
                Ok(Event::Nothing)
            }
            Theirs::Known(bits) => {
                *bits = Bits::full(bits.len());
                self.refresh_allowed();
                self.check_complete()?;
                Ok(Event::Pieces)
            }
        }
    }

    pub(super) fn handle_have_none(&self, first: bool) -> Result<Event<'static>, CloseReason> {
        if first || !self.fast.on {
            Ok(Event::Nothing)
        } else {
            Err(CloseReason::Bad("have none"))
        }
    }

    pub(super) fn handle_suggestion(&self, piece: u32) -> Result<Event<'static>, CloseReason> {
        self.check_piece(piece)?;
        Ok(Event::Nothing)
    }

    pub(super) fn handle_allowed(&mut self, piece: u32) -> Result<Event<'static>, CloseReason> {
        if !self.fast.on {
            return Ok(Event::Nothing);
        }
        self.check_piece(piece)?;
        let allowed = &mut self.fast.allowed;
        if allowed.len() >= MAX_ALLOWED || allowed.contains(&piece) {
            return Ok(Event::Nothing);
        }
        allowed.push(piece);
        self.refresh_allowed();
        Ok(Event::Allowed)
    }

    /// The number of pieces bounds theirs, also before it is known.
    fn check_piece(&self, piece: u32) -> Result<(), CloseReason> {
        let pieces = self
            .geometry
            .as_ref()
            .map(|geometry| geometry.pieces as usize);
        if (piece as usize) < pieces.unwrap_or(MAX_PIECES) {
            Ok(())
        } else {
            Err(CloseReason::Bad("piece number"))
        }
    }

    /// What the peer allows and has, once either changed.
    pub(super) fn refresh_allowed(&mut self) {
        let Theirs::Known(bits) = &self.theirs else {
            return;
        };
        if self.fast.allowed.is_empty() {
            return;
        }
        if self.fast.usable.len() != bits.len() {
            self.fast.usable = Bits::new(bits.len());
        }
        for &piece in self.fast.allowed.iter().filter(|piece| bits.get(**piece)) {
            self.fast.usable.set(piece);
        }
    }

    /// Pieces that may be asked for now.
    pub(super) fn askable(&self) -> Option<&Bits> {
        match &self.theirs {
            Theirs::Early { .. } => None,
            Theirs::Known(_) if self.chokes_us => {
                Some(&self.fast.usable).filter(|usable| !usable.is_empty())
            }
            Theirs::Known(bits) => Some(bits),
        }
    }

    /// The window while the peer chokes.
    pub(super) fn allowed_window(&self, window: usize) -> usize {
        if self.chokes_us {
            window.min(ALLOWED_WINDOW)
        } else {
            window
        }
    }

    /// A choke does not take requests back here: each is answered or rejected, as a rule.
    pub(super) fn choked(&mut self, now: Instant) {
        if !self.asked.is_empty() {
            self.fast.choked_at = Some(now);
        }
    }

    pub(super) fn handle_reject(
        &mut self,
        now: Instant,
        block: BlockRef,
    ) -> Result<Event<'static>, CloseReason> {
        if !self.fast.on {
            return Ok(Event::Nothing);
        }
        let Some(at) = self.asked.iter().position(|asked| asked.block == block) else {
            // The answer to a request that was taken back.
            self.pardoned = self.pardoned.checked_sub(1).ok_or(CloseReason::Unasked)?;
            return Ok(Event::Nothing);
        };
        self.asked.remove(at);
        if self.asked.is_empty() {
            self.snub_at = None;
        }
        if self.chokes_us {
            // Not allowed after all.
            self.fast.usable.clear(block.index);
            self.fast.allowed.retain(|&piece| piece != block.index);
        } else {
            self.fast.refusals += 1;
            if self.fast.refusals >= MAX_REFUSALS {
                self.fast.refusals = 0;
                self.fast.rest_until = Some(now + REST);
            }
        }
        Ok(Event::Released(vec![block]))
    }

    /// Gives up what was dropped at a choke, and ends a rest.
    pub(super) fn handle_fast_timeout(&mut self, now: Instant) -> Vec<BlockRef> {
        if self.fast.rest_until.is_some_and(|until| until <= now) {
            self.fast.rest_until = None;
        }
        let over = |at: &Instant| *at + CHOKE_GRACE <= now;
        let Some(choked_at) = self.fast.choked_at.filter(over) else {
            return Vec::new();
        };
        self.fast.choked_at = None;
        let mut dropped = Vec::new();
        let usable = &self.fast.usable;
        self.asked.retain(|asked| {
            let stays = asked.sent > choked_at || usable.get(asked.block.index);
            if !stays {
                dropped.push(asked.block);
            }
            stays
        });
        if self.asked.is_empty() {
            self.snub_at = None;
        }
        self.pardon(dropped.len());
        dropped
    }
}
