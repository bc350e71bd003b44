//! One guest: a client that is a hidden seed of one swarm. Whoever visits it is led to its port.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hushswarm_circuits::rendezvous::{Contact, Point};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};
use tracing::debug;

use super::Tell;
use super::door::{Doorstep, asked, visitors_address};
use super::scrub;
use crate::hidden::{Host, Notice, Sealed};
use crate::net::BoxStream;
use crate::route::carry::Buffers;
use crate::torrent::infohash::InfoHash;
use crate::torrent::magnet::Magnet;

/// Visitors of one guest at once: as many as a client takes of one swarm, as a rule.
const MAX_VISITORS: usize = 64;
/// A link is told when so many introduction points stand, or what stands after [`PATIENCE`].
const POINTS: usize = 3;
/// Three circuits of three hops take a second or two.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked whether there is something to tell.
const LOOK: Duration = Duration::from_secs(5);

/// What a guest consists of for as long as it stays.
pub(super) struct Stay {
    pub(super) _host: Host,
    pub(super) _notice: Option<Notice>,
    pub(super) hash: InfoHash,
    pub(super) port: u16,
    pub(super) visitors: mpsc::Receiver<Sealed>,
    pub(super) contact: watch::Receiver<Option<Contact>>,
    pub(super) doorstep: Arc<dyn Doorstep>,
    pub(super) tell: Tell,
    pub(super) buffers: Buffers,
    /// Whether visitors are let in now.
    pub(super) open: Arc<AtomicBool>,
}

impl Stay {
    /// Leads visitors in until this is dropped, and they go with it.
    pub(super) async fn run(mut self) {
        let mut inside = JoinSet::new();
        let mut shown = Shown::default();
        let mut clock = interval(LOOK);
        loop {
            tokio::select! {
                visitor = self.visitors.recv() => match visitor {
                    // Dropped, it knows that it can't come in.
                    Some(_) if inside.len() >= MAX_VISITORS || !self.open.load(Ordering::Relaxed) => {}
                    Some(visitor) => {
                        let (doorstep, buffers) = (Arc::clone(&self.doorstep), self.buffers.clone());
                        inside.spawn(lead(Box::new(visitor), self.hash, self.port, doorstep, buffers));
                    }
                    None => return,
                },
                Some(_) = inside.join_next(), if !inside.is_empty() => {}
                Ok(()) = self.contact.changed() => {}
                _ = clock.tick() => {}
            }
            let contact = self.contact.borrow_and_update().clone();
            if let Some(contact) = contact.filter(|contact| shown.is_news(Instant::now(), contact))
            {
                (self.tell)(&Magnet {
                    hash: self.hash,
                    v2: None,
                    name: None,
                    trackers: Vec::new(),
                    peers: Vec::new(),
                    seeds: vec![contact],
                    select: None,
                    web_seeds: Vec::new(),
                });
            }
        }
    }
}

/// What was told of how a guest is reached.
#[derive(Default)]
struct Shown {
    /// Since when it can be reached.
    since: Option<Instant>,
    points: Vec<Point>,
}

impl Shown {
    /// Whether this is to be told: it is the first that was worth it, or none of the points that were told stands any more.
    fn is_news(&mut self, now: Instant, contact: &Contact) -> bool {
        let since = *self.since.get_or_insert(now);
        let relays: BTreeSet<_> = contact.points().iter().map(|point| point.relay).collect();
        let first = self.points.is_empty()
            && (relays.len() >= POINTS || now.saturating_duration_since(since) >= PATIENCE);
        let named = |point: &Point| self.points.contains(point);
        let moved = !self.points.is_empty() && !contact.points().iter().any(named);
        if first || moved {
            self.points = contact.points().to_vec();
        }
        first || moved
    }
}

/// Leads a visitor to the client's port, if it asks for this torrent.
async fn lead(
    mut visitor: BoxStream,
    hash: InfoHash,
    port: u16,
    doorstep: Arc<dyn Doorstep>,
    buffers: Buffers,
) {
    let Some(said) = asked(&mut visitor, &hash.0).await else {
        debug!("a visitor asked for something else");
        return;
    };
    match doorstep.connect(visitors_address(), port).await {
        Ok(client) => {
            let carried = scrub::carry(visitor, client, &said, &buffers).await;
            debug!(ok = carried.is_ok(), "visit ended");
        }
        Err(error) => debug!(kind = %error.kind(), "a guest does not listen"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hushswarm_circuits::keys::RelayId;
    use hushswarm_circuits::rendezvous::IntroductionId;

    use std::io;
    use std::net::Ipv4Addr;
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;
    use crate::net::BoxFuture;
    use crate::torrent::wire::{Handshake, MessageRef};

    /// A client that listens at one port.
    #[derive(Default)]
    struct Client(Mutex<Vec<(Ipv4Addr, u16, DuplexStream)>>);

    impl Doorstep for Client {
        fn connect(&self, from: Ipv4Addr, port: u16) -> BoxFuture<'_, io::Result<BoxStream>> {
            let (near, far) = duplex(1024);
            self.0.lock().unwrap().push((from, port, far));
            Box::pin(async { Ok(Box::new(near) as BoxStream) })
        }
    }

    fn handshake(hash: u8) -> Vec<u8> {
        let handshake = Handshake {
            hash: InfoHash([hash; 20]),
            peer_id: [9; 20],
            reserved: [0; 8],
        };
        handshake.encode().to_vec()
    }

    fn extended(id: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        MessageRef::Extended { id, payload }.encode(&mut out);
        out
    }

    /// The next that arrives is this.
    async fn expect(stream: &mut DuplexStream, wanted: &[u8]) {
        let mut arrived = vec![0; wanted.len()];
        stream.read_exact(&mut arrived).await.unwrap();
        assert_eq!(arrived, wanted);
    }

    #[tokio::test]
    async fn a_visitor_is_led_to_the_torrent_that_it_visits_and_to_no_other() {
        let client = Arc::new(Client::default());
        let visit = |said: Vec<u8>| {
            let (mut visitor, near) = duplex(1024);
            let doorstep: Arc<dyn Doorstep> = Arc::<Client>::clone(&client);
            let lead = lead(
                Box::new(near),
                InfoHash([1; 20]),
                6881,
                doorstep,
                Buffers::default(),
            );
            let lead = tokio::spawn(lead);
            async move {
                visitor.write_all(&said).await.unwrap();
                (visitor, lead)
            }
        };
        // Another torrent of the same client, and one that the visitor does not name in the clear.
        for wrong in [handshake(2), vec![0x55; 96]] {
            let (mut visitor, lead) = visit(wrong).await;
            lead.await.unwrap();
            assert_eq!(visitor.read(&mut [0; 1]).await.unwrap_or(0), 0);
            assert!(
                client.0.lock().unwrap().is_empty(),
                "the client heard of it"
            );
        }
        for _ in 0..2 {
            let (mut visitor, lead) = visit(handshake(1)).await;
            while client.0.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            let (from, port, mut far) = client.0.lock().unwrap().pop().unwrap();
            assert!(from.is_loopback() && port == 6881);
            let mut said = vec![0; 68];
            far.read_exact(&mut said).await.unwrap();
            assert_eq!(said, handshake(1));
            // Each says who it is, whom it sees, and whom it knows; the other hears nothing of it, and does hear the rest.
            let dict = b"d4:ipv616:0123456789abcdef1:md11:ut_metadatai2e6:ut_pexi1ee1:pi6881e1:v2:me6:yourip4:\x7f\x41\x02\x03e";
            let kept = b"d1:md11:ut_metadatai2eee";
            let (peers, wanted) = (
                extended(1, b"d5:added6:\x05\x06\x07\x08\x1a\xe1e"),
                extended(2, b"de"),
            );
            let first = extended(0, dict);
            far.write_all(&[handshake(1), first.clone()].concat())
                .await
                .unwrap();
            expect(&mut visitor, &[handshake(1), extended(0, kept)].concat()).await;
            visitor.write_all(&first).await.unwrap();
            expect(&mut far, &extended(0, kept)).await;
            let rest = [peers, wanted.clone()].concat();
            visitor.write_all(&rest).await.unwrap();
            far.write_all(&rest).await.unwrap();
            expect(&mut far, &wanted).await;
            expect(&mut visitor, &wanted).await;
            drop(visitor);
            drop(far);
            lead.await.unwrap();
        }
    }

    #[test]
    fn a_link_is_told_when_it_is_worth_it_and_when_it_leads_nowhere_any_more() {
        let contact = |points: std::ops::Range<u8>| {
            let points = points.map(|n| Point {
                relay: RelayId([n; 32]),
                introduction: IntroductionId([n; 32]),
            });
            Contact::new([9; 32], points.collect()).unwrap()
        };
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut shown = Shown::default();
        assert!(!shown.is_news(at(0), &contact(0..1)));
        assert!(shown.is_news(at(1), &contact(0..3)));
        assert!(!shown.is_news(at(2), &contact(2..5)), "one leads there yet");
        assert!(shown.is_news(at(3), &contact(5..8)));
        assert!(!shown.is_news(at(4), &contact(5..8)));
        let mut few = Shown::default();
        assert!(!few.is_news(at(0), &contact(0..2)));
        assert!(few.is_news(at(20), &contact(0..2)), "a small network");
    }
}
