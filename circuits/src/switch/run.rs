//! Runs: what of one circuit came on a link in one piece.

use super::link::LinkClosed;
use crate::frame::{Class, FrameType};
use crate::link::LinkOpener;

/// Frames of one circuit that are worked in one go: 128 KiB, few enough that a writer soon has something to do.
const MAX_RUN: usize = 32;

/// Successive DATA frames of one circuit, opened one by one. Who takes them locks and wakes once for all.
pub(super) struct Run<'a> {
    opener: &'a mut LinkOpener,
    circuit: u32,
    bytes: &'a mut [u8],
    /// Bytes of the frames so far.
    taken: usize,
    /// Frames that it may still have.
    left: usize,
    /// What their headers granted.
    credit: u32,
    failed: Option<LinkClosed>,
}

impl<'a> Run<'a> {
    /// The frames of `circuit` at the front of `bytes`; the first is whole.
    pub(super) fn new(opener: &'a mut LinkOpener, circuit: u32, bytes: &'a mut [u8]) -> Self {
        Self {
            opener,
            circuit,
            bytes,
            taken: 0,
            left: MAX_RUN,
            credit: 0,
            failed: None,
        }
    }

    /// How many bytes were taken, and what the frames' headers granted.
    ///
    /// # Errors
    /// Close the link.
    pub(super) fn finish(mut self) -> Result<(usize, u32), LinkClosed> {
        if self.taken == 0 {
            // Who did not even look must not be asked for ever.
            self.next();
        }
        self.failed.map_or(Ok((self.taken, self.credit)), Err)
    }

    /// The next frame, open. `None`: the run is over, or the link is to be closed.
    pub(super) fn next(&mut self) -> Option<(Class, &mut [u8])> {
        self.left = self.left.checked_sub(1)?;
        let rest = self.bytes.get_mut(self.taken..)?;
        // What is peeked is not authenticated, but decides only whether the frame is opened now or by the caller.
        let peeked = match self.opener.peek(rest.first_chunk()?) {
            Ok(peeked) => peeked,
            Err(error) => {
                self.failed = Some(error.into());
                self.left = 0;
                return None;
            }
        };
        if peeked.kind != FrameType::Data || peeked.circuit != self.circuit {
            self.left = 0;
            return None;
        }
        let frame = rest.get_mut(..peeked.class.frame_len())?;
        match self.opener.open(frame) {
            Ok(header) => {
                self.taken += frame.len();
                self.credit += u32::from(header.credit);
                Some((header.class, frame))
            }
            Err(error) => {
                self.failed = Some(error.into());
                self.left = 0;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::frame::Header;
    use crate::keys::{DhSecret, Suite};
    use crate::link::{LinkInitiator, LinkPeer, respond};

    /// The opener of a link on which these frames came: small ones, circuit, kind and credit as told.
    fn came(frames: &[(u32, FrameType, u16)]) -> (LinkOpener, Vec<u8>) {
        let mut rng = StdRng::seed_from_u64(1);
        let secret = DhSecret::generate(&mut rng);
        let peer = LinkPeer {
            link_key: secret.public(),
            suite: Suite::Aes256Gcm,
            digest: [5; 32],
            psk: None,
        };
        let (initiator, message) = LinkInitiator::start(&peer, &mut rng).unwrap();
        let (answer, receiver) = respond(&secret, &peer, &message, &mut rng).unwrap();
        let mut sender = initiator.finish(&answer).unwrap();
        let mut bytes = Vec::new();
        for &(circuit, kind, credit) in frames {
            let class = Class::Small;
            let mut frame = vec![7; class.frame_len()];
            let header = Header {
                circuit,
                kind,
                class,
                credit,
            };
            sender.sealer.seal(header, &mut frame).unwrap();
            bytes.extend(frame);
        }
        (receiver.opener, bytes)
    }

    fn take(
        opener: &mut LinkOpener,
        bytes: &mut [u8],
    ) -> (usize, Result<(usize, u32), LinkClosed>) {
        let mut run = Run::new(opener, 1, bytes);
        let mut frames = 0;
        while run.next().is_some() {
            frames += 1;
        }
        (frames, run.finish())
    }

    #[test]
    fn it_ends_before_another_circuit_another_type_and_a_part_of_a_frame() {
        let len = Class::Small.frame_len();
        for last in [(2, FrameType::Data, 9), (1, FrameType::Destroy, 9)] {
            let frames = [(1, FrameType::Data, 3), (1, FrameType::Data, 4), last];
            let (mut opener, mut bytes) = came(&frames);
            let (frames, taken) = take(&mut opener, &mut bytes);
            assert_eq!((frames, taken.unwrap()), (2, (2 * len, 7)));
            assert_eq!(opener.open(&mut bytes[2 * len..]).unwrap().circuit, last.0);
        }
        let (mut opener, mut bytes) = came(&[(1, FrameType::Data, 3); 2]);
        let (frames, taken) = take(&mut opener, &mut bytes[..2 * len - 1]);
        assert_eq!((frames, taken.unwrap()), (1, (len, 3)));
    }

    #[test]
    fn it_is_no_longer_than_it_may_be() {
        let (mut opener, mut bytes) = came(&[(1, FrameType::Data, 0); MAX_RUN + 1]);
        assert_eq!(take(&mut opener, &mut bytes).0, MAX_RUN);
    }

    #[test]
    fn a_forged_frame_closes_the_link_after_those_before_it_were_taken() {
        let (mut opener, mut bytes) = came(&[(1, FrameType::Data, 0); 3]);
        bytes[2 * Class::Small.frame_len() - 1] ^= 1;
        let (frames, taken) = take(&mut opener, &mut bytes);
        assert_eq!(frames, 1);
        assert!(matches!(taken, Err(LinkClosed::Frame(_))));
    }

    #[test]
    fn a_frame_that_nobody_takes_is_dropped() {
        let (mut opener, mut bytes) = came(&[(1, FrameType::Data, 5); 2]);
        let taken = Run::new(&mut opener, 1, &mut bytes).finish();
        assert_eq!(taken.unwrap(), (Class::Small.frame_len(), 5));
    }
}
