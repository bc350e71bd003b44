//! The reading half of a link: frames are opened in the caller's buffer and handed to whom they concern.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Entry, Link, LinkClosed};
use crate::body::DestroyReason;
use crate::frame::{
    BODY_OFFSET, CELL_OFFSET, Class, FrameBuf, FrameType, HEADER_LEN, Header, Pool,
};
use crate::handshake::{CREATE_LEN, CREATED_LEN};
use crate::link::{LinkOpener, verify_auth};
use crate::scheduler::SHORT_LEN;
use crate::switch::hop::Direction;
use crate::switch::lock;
use crate::switch::run::Run;

/// PING is answered while fewer control frames than this wait to be sent.
const MAX_WAITING_FOR_PONG: usize = 256;

/// The reading half of a link.
pub struct Receiver {
    pub(super) link: Arc<Link>,
    pub(super) opener: LinkOpener,
    pub(super) hash: [u8; 32],
    pub(super) first: bool,
}

impl Receiver {
    /// The link.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Takes what has come, and works all whole frames at the front of `bytes`, in place. Gives how many bytes those were;
    /// the caller shows the rest again with more behind it.
    ///
    /// # Errors
    /// Close the transport and call [`Link::close`].
    pub fn process(&mut self, now: Instant, bytes: &mut [u8]) -> Result<usize, LinkClosed> {
        let mut at = 0;
        while let Some(masked) = bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk::<HEADER_LEN>())
        {
            let peeked = self.opener.peek(masked)?;
            let Some(frame) = bytes.get_mut(at..at + peeked.class.frame_len()) else {
                break;
            };
            if self.link.is_closed() {
                return Err(LinkClosed::Closed);
            }
            if peeked.kind == FrameType::Data {
                at += self.data(now, peeked.circuit, &mut bytes[at..])?;
            } else {
                let header = self.opener.open(frame)?;
                at += frame.len();
                self.dispatch(now, header, frame)?;
            }
        }
        Ok(at)
    }

    /// Works the DATA frames of one circuit at the front of `bytes`; gives how many bytes those were.
    fn data(&mut self, now: Instant, circuit: u32, bytes: &mut [u8]) -> Result<usize, LinkClosed> {
        self.first = false;
        let entry = lock(&self.link.table).get(&circuit).cloned();
        let mut run = Run::new(&mut self.opener, circuit, bytes);
        match &entry {
            Some(Entry::Hop(hop)) => hop.from_origin_side(now, &mut run),
            Some(Entry::Onward(hop)) => hop.from_onward_side(&mut run),
            Some(Entry::Origin(origin)) => origin.from_hop(now, &mut run),
            None => while run.next().is_some() {},
        }
        let (taken, credit) = run.finish()?;
        if credit != 0 {
            self.credited(circuit, credit, entry.as_ref());
        }
        Ok(taken)
    }

    fn dispatch(
        &mut self,
        now: Instant,
        header: Header,
        frame: &mut [u8],
    ) -> Result<(), LinkClosed> {
        let first = std::mem::replace(&mut self.first, false);
        let Header {
            circuit,
            kind,
            credit,
            ..
        } = header;
        let entry = if circuit == 0 {
            None
        } else {
            lock(&self.link.table).get(&circuit).cloned()
        };
        if credit != 0 && entry.is_some() {
            self.credited(circuit, credit.into(), entry.as_ref());
        }
        match kind {
            FrameType::Create => return self.create(circuit, entry.is_some(), frame),
            FrameType::Created => match entry {
                Some(Entry::Origin(origin)) => {
                    origin.with(|state| state.handle_created(now, &frame[BODY_OFFSET..]));
                }
                Some(Entry::Onward(hop)) => match answer(frame) {
                    Some(answer) => hop.extended(answer),
                    None => hop.torn(Direction::Onward, DestroyReason::Protocol),
                },
                Some(Entry::Hop(_)) => return Err(LinkClosed::Protocol("CREATED from an origin")),
                None => {}
            },
            FrameType::Destroy => {
                let reason = frame[BODY_OFFSET];
                match entry {
                    Some(Entry::Hop(hop)) => hop.destroyed(Direction::Origin, reason),
                    Some(Entry::Onward(hop)) => hop.destroyed(Direction::Onward, reason),
                    Some(Entry::Origin(origin)) => origin.destroyed(now, reason),
                    None => self.destroyed_early(circuit, reason),
                }
            }
            // DATA does not come here.
            FrameType::Data | FrameType::Credit | FrameType::Pad => {}
            FrameType::Auth => {
                if !first || self.link.initiator {
                    return Err(LinkClosed::Protocol("AUTH out of place"));
                }
                let relay = verify_auth(&frame[BODY_OFFSET..], &self.hash)?;
                if self.link.relay.set(relay).is_ok() {
                    self.link.handler().authenticated(&self.link, relay);
                }
            }
            FrameType::Ping => {
                let body = &frame[BODY_OFFSET..BODY_OFFSET + SHORT_LEN];
                let waiting = lock(&self.link.queue).scheduler.control_waiting();
                // What waits is sign of life enough; answers are not piled up for who does not take them.
                if body[0] == 0 && waiting < MAX_WAITING_FOR_PONG {
                    let mut pong = [0; SHORT_LEN];
                    pong.copy_from_slice(body);
                    pong[0] = 1;
                    self.link
                        .short(FrameType::Ping, 0, pong)
                        .map_err(|_| LinkClosed::Flooded)?;
                }
            }
        }
        Ok(())
    }

    fn credited(&self, circuit: u32, credit: u32, entry: Option<&Entry>) {
        let (granted, sendable) = {
            let mut queue = lock(&self.link.queue);
            let granted = queue.scheduler.grant_received(circuit, credit);
            (granted, queue.scheduler.sendable())
        };
        match (granted, entry) {
            (Ok(()), _) => self.link.wake_if(sendable),
            (Err(_), Some(Entry::Hop(hop) | Entry::Onward(hop))) => {
                hop.close(DestroyReason::Protocol);
            }
            (Err(_), Some(Entry::Origin(origin))) => origin.close(DestroyReason::Protocol),
            (Err(_), None) => {}
        }
    }

    /// DESTROY of a circuit that was not in the table when the frame was read.
    fn destroyed_early(&self, circuit: u32, reason: u8) {
        let entry = {
            let table = lock(&self.link.table);
            let entry = table.get(&circuit).cloned();
            if entry.is_none() {
                lock(&self.link.pending).remove(&circuit);
            }
            entry
        };
        // Its handshake has ended since.
        if let Some(Entry::Hop(hop)) = entry {
            hop.destroyed(Direction::Origin, reason);
        }
    }

    fn create(&self, circuit: u32, in_use: bool, frame: &[u8]) -> Result<(), LinkClosed> {
        let link = &self.link;
        if link.initiator {
            return Err(LinkClosed::Protocol("CREATE from a link's responder"));
        }
        {
            // Looked up again: a handshake may have ended, and taken the id out of `pending`, since the frame was read.
            let table = lock(&link.table);
            if in_use || table.contains_key(&circuit) || !lock(&link.pending).insert(circuit) {
                return Err(LinkClosed::Protocol("CREATE with a circuit id in use"));
            }
        }
        if link.circuits() as u64 > link.max_circuits.load(Ordering::Relaxed) {
            link.refuse(circuit, DestroyReason::Limit);
            return Ok(());
        }
        match handshake_body::<CREATE_LEN>(frame) {
            Some(message) => link.handler().create(link, circuit, message),
            None => link.refuse(circuit, DestroyReason::Protocol),
        }
        Ok(())
    }
}

fn answer(frame: &[u8]) -> Option<&[u8; CREATED_LEN]> {
    handshake_body(frame)
}

fn handshake_body<const N: usize>(frame: &[u8]) -> Option<&[u8; N]> {
    let (len, rest) = frame.get(BODY_OFFSET..)?.split_first_chunk::<2>()?;
    if usize::from(u16::from_be_bytes(*len)) != N {
        return None;
    }
    rest.first_chunk()
}

/// Copies the cell of a frame in a read buffer into a pooled one.
pub(in crate::switch) fn copy_cell(pool: &Pool, class: Class, frame: &[u8]) -> FrameBuf {
    let mut copy = pool.take(class);
    copy.cell_mut().copy_from_slice(&frame[CELL_OFFSET..]);
    copy
}
