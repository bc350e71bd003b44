//! Reads a packet socket until it is told to end, and keeps what the packets were, not the packets.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use memchr::memmem::Finder;
use nix::errno::Errno;
use nix::sys::socket::{LinkAddr, recvfrom};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::packet::{ETHERNET, Ends, PLAIN, Packet, parse};
use super::{Direction, Flow};

/// Room for the largest packet: the kernel leaves it to the cable to cut what TCP sends, and here there is none.
const LARGEST: usize = 1 << 18;
/// `sll_pkttype` of what this end of the cable sends, which is what the host receives (linux/if_packet.h).
const OUTGOING: u8 = 4;
/// How often a reader without packets looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// What is queued when it is to end is still read, but nothing may keep us here for ever.
const LAST: Duration = Duration::from_secs(20);

pub struct Reader {
    needles: Vec<Finder<'static>>,
    /// How much of a stream is kept, since a needle may be cut in two: one byte less than the longest.
    kept: usize,
    flows: HashMap<(bool, Ends), Seen>,
    /// In the order in which they came.
    order: Vec<(bool, Ends)>,
}

struct Seen {
    class: &'static str,
    packets: u64,
    bytes: u64,
    first: f64,
    last: f64,
    needles: BTreeSet<usize>,
    /// The end of what the stream carried so far.
    tail: Vec<u8>,
}

impl Reader {
    pub fn new(needles: &[&[u8]]) -> Self {
        let longest = needles.iter().map(|needle| needle.len()).max();
        let finder = |needle: &&[u8]| Finder::new(*needle).into_owned();
        Self {
            needles: needles.iter().map(finder).collect(),
            kept: longest.unwrap_or(0).saturating_sub(1),
            flows: HashMap::new(),
            order: Vec::new(),
        }
    }

    /// Reads until `ends`, and then what is queued. The socket must not block.
    pub fn read(mut self, socket: &OwnedFd, ends: &Arc<AtomicBool>) -> Vec<Flow> {
        let mut room = vec![0; LARGEST];
        let mut last = None;
        loop {
            match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut room) {
                Ok((len, from)) if len >= ETHERNET => {
                    let outgoing = from.unwrap().pkttype() != OUTGOING;
                    self.add(outgoing, &room[..len]);
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if last.is_some() => break,
                Err(Errno::EAGAIN) => {
                    let mut waits = [PollFd::new(socket, PollFlags::IN)];
                    let look = Timespec::try_from(LOOK).unwrap();
                    // An interrupted wait is one that is over.
                    let _ = poll(&mut waits, Some(&look));
                }
                Err(error) => panic!("{:?} can't be read: {error}", socket.as_fd()),
            }
            if last.is_none() && ends.load(Ordering::Acquire) {
                last = Some(Instant::now() + LAST);
            }
            assert!(
                last.is_none_or(|last| Instant::now() < last),
                "the interface is never quiet: stop the traffic before the capture"
            );
        }
        self.flows()
    }

    pub fn add(&mut self, outgoing: bool, frame: &[u8]) {
        let Packet {
            ends,
            class,
            stream,
        } = parse(frame);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = now.as_secs_f64();
        let key = (outgoing, ends);
        if !self.flows.contains_key(&key) {
            self.order.push(key.clone());
        }
        let flow = self.flows.entry(key).or_insert_with(|| Seen {
            class,
            packets: 0,
            bytes: 0,
            first: now,
            last: now,
            needles: BTreeSet::new(),
            tail: Vec::new(),
        });
        // A flow keeps the most telling class that any of its packets had.
        if PLAIN.contains(&flow.class) {
            flow.class = class;
        }
        flow.packets += 1;
        flow.bytes += frame.len() as u64;
        flow.last = now;
        flow.tail
            .extend_from_slice(&stream[..self.kept.min(stream.len())]);
        for (number, needle) in self.needles.iter().enumerate() {
            let found = || {
                let cut = !stream.is_empty() && needle.find(&flow.tail).is_some();
                cut || needle.find(&frame[ETHERNET..]).is_some()
            };
            if !flow.needles.contains(&number) && found() {
                flow.needles.insert(number);
            }
        }
        if stream.len() > self.kept {
            flow.tail.clear();
            flow.tail
                .extend_from_slice(&stream[stream.len() - self.kept..]);
        } else {
            let over = flow.tail.len().saturating_sub(self.kept);
            flow.tail.drain(..over);
        }
    }

    pub fn flows(mut self) -> Vec<Flow> {
        let text = |ip: Option<std::net::IpAddr>| ip.map(|ip| ip.to_string());
        let flow = |key: (bool, Ends)| {
            let seen = self.flows.remove(&key).unwrap();
            let (outgoing, ends) = key;
            Flow {
                dir: if outgoing {
                    Direction::Out
                } else {
                    Direction::In
                },
                class: seen.class.to_owned(),
                proto: ends.proto.into_owned(),
                src: text(ends.src).unwrap_or_default(),
                dst: text(ends.dst).unwrap_or_default(),
                sport: ends.sport,
                dport: ends.dport,
                packets: seen.packets,
                bytes: seen.bytes,
                first: seen.first,
                last: seen.last,
                needles: seen.needles.into_iter().collect(),
                target: text(ends.target),
            }
        };
        self.order.into_iter().map(flow).collect()
    }
}
