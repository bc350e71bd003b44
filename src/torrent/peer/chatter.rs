//! Messages that tell us nothing or cost nothing to send: a few are usual, a stream of them only wears down our circuit and processor.

use std::time::{Duration, Instant};

use super::{CloseReason, Core};
use crate::torrent::extension;
use crate::torrent::wire::MessageRef;

/// So many may come at once: two clients that end a download together take back hundreds of requests.
const MOST: u32 = 5000;

/// One more each time that passes.
const EVERY: Duration = Duration::from_millis(100);

/// Bytes of a message that count as one more.
const BYTES: usize = 256;

/// What a peer may still say.
pub(super) struct Chatter {
    left: u32,
    at: Instant,
}

impl Chatter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: MOST,
            at: now,
        }
    }

    /// We asked for something: its answer is welcome.
    pub(super) fn expect_one(&mut self) {
        self.left = self.left.saturating_add(1);
    }

    /// Counts a message of `bytes` that is none of those that are counted elsewhere.
    ///
    /// # Errors
    /// Too many came: close the connection.
    fn heard(&mut self, now: Instant, bytes: usize) -> Result<(), CloseReason> {
        let since = now.saturating_duration_since(self.at).as_millis() / EVERY.as_millis();
        if since > 0 {
            self.at = now;
            let more = u32::try_from(since).unwrap_or(MOST);
            self.left = self.left.max(self.left.saturating_add(more).min(MOST));
        }
        let cost = 1 + u32::try_from(bytes / BYTES).unwrap_or(MOST);
        let left = self.left.checked_sub(cost);
        self.left = left.ok_or(CloseReason::Floods("messages without content"))?;
        Ok(())
    }
}

impl Core {
    /// Counts what is neither asked for nor news, nor bounded in another way.
    ///
    /// # Errors
    /// Too much of it came: close the connection.
    pub(super) fn count(
        &mut self,
        now: Instant,
        message: &MessageRef<'_>,
    ) -> Result<(), CloseReason> {
        let bytes = match message {
            MessageRef::Piece { .. } | MessageRef::Request(_) | MessageRef::HashRequest(_) => {
                return Ok(());
            }
            MessageRef::Have(piece) if !self.they_have(*piece) => return Ok(()),
            MessageRef::Bitfield(bytes) => bytes.len(),
            MessageRef::Extended { id, payload } if *id == extension::HANDSHAKE => payload.len(),
            MessageRef::KeepAlive
            | MessageRef::Port(_)
            | MessageRef::Unknown(_)
            | MessageRef::Choke
            | MessageRef::Unchoke
            | MessageRef::Interested
            | MessageRef::NotInterested
            | MessageRef::Have(_)
            | MessageRef::Cancel(_)
            | MessageRef::HaveAll
            | MessageRef::HaveNone
            | MessageRef::Suggest(_)
            | MessageRef::AllowedFast(_)
            | MessageRef::Reject(_)
            | MessageRef::Extended { .. }
            | MessageRef::Hashes(..)
            | MessageRef::HashReject(_) => 0,
        };
        self.chatter.heard(now, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_of_messages_ends_and_a_few_go_on_for_ever() {
        let start = Instant::now();
        let mut chatter = Chatter::new(start);
        for n in 0..20_000 {
            let now = start + n * Duration::from_millis(150);
            assert_eq!(chatter.heard(now, 4), Ok(()));
        }
        let now = start + Duration::from_secs(10_000);
        let many = (0..).take_while(|_| chatter.heard(now, 0).is_ok());
        assert_eq!(many.take(MOST as usize + 1).count(), MOST as usize);
        let mut large = Chatter::new(now);
        let many = (0..).take_while(|_| large.heard(now, 256 << 10).is_ok());
        assert_eq!(many.take(10).count(), 4);
    }
}
