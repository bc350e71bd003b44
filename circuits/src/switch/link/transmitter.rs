//! The writing half of a link: what waits is taken in turn, sealed, and handed to the caller to write.

use std::sync::Arc;
use std::time::Instant;

use super::{Entry, Link, LinkClosed, Owner};
use crate::frame::{FrameBuf, Header};
use crate::link::LinkSealer;
use crate::switch::hop::Direction;
use crate::switch::lock;

/// Frames sealed in one go: enough to fill a socket's buffer, few enough that a fresh control frame soon gets its turn.
pub(super) const BATCH: usize = 64;

/// The writing half of a link.
pub struct Transmitter {
    pub(super) link: Arc<Link>,
    pub(super) sealer: LinkSealer,
    pub(super) headers: Vec<Header>,
}

impl Transmitter {
    /// The link.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Adds sealed frames, ready to be written in this order, until `batch` holds 64 or nothing more may leave.
    /// Whether more may be had at once.
    ///
    /// # Errors
    /// The link is closed: close the transport.
    pub fn fill(&mut self, now: Instant, batch: &mut Vec<FrameBuf>) -> Result<bool, LinkClosed> {
        let begin = batch.len();
        let mut left: Vec<(Owner, u32)> = Vec::new();
        let more;
        {
            let mut queue = lock(&self.link.queue);
            if queue.closed {
                return Err(LinkClosed::Closed);
            }
            while batch.len() < BATCH {
                let Some(popped) = queue.scheduler.pop(&self.link.config.pool) else {
                    break;
                };
                if let Some(owner) = popped.owner {
                    let owed = u32::from(popped.frame.owed);
                    match left.last_mut() {
                        Some((last, frames)) if same(last, owner) => *frames += owed,
                        _ => left.push((owner.clone(), owed)),
                    }
                }
                self.headers.push(popped.header);
                batch.push(popped.frame);
            }
            more = batch.len() >= BATCH;
        }
        for (header, frame) in self.headers.drain(..).zip(&mut batch[begin..]) {
            self.sealer.seal(header, frame.bytes_mut())?;
        }
        for (owner, frames) in left {
            match owner {
                Entry::Hop(hop) => hop.left(now, Direction::Origin, frames),
                Entry::Onward(hop) => hop.left(now, Direction::Onward, frames),
                Entry::Origin(origin) => origin.left(),
            }
        }
        Ok(more)
    }
}

fn same(a: &Owner, b: &Owner) -> bool {
    match (a, b) {
        (Entry::Hop(a), Entry::Hop(b)) | (Entry::Onward(a), Entry::Onward(b)) => Arc::ptr_eq(a, b),
        (Entry::Origin(a), Entry::Origin(b)) => Arc::ptr_eq(a, b),
        (Entry::Hop(_) | Entry::Onward(_) | Entry::Origin(_), _) => false,
    }
}
