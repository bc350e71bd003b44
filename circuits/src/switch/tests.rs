//! What hostile neighbours and unlucky moments do to the tables of links.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods)] // tests choose when time starts

use std::collections::VecDeque;
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::circuit::origin::{HopSpec, Origin};
use crate::frame::{FrameType, Pool};
use crate::handshake::{CREATED_LEN, HopPeer};
use crate::keys::{DhSecret, Suite};
use crate::link::{LinkInitiator, LinkPeer, respond};
use crate::scheduler::CreditBudget;

#[derive(Default)]
struct Inbox {
    creates: Mutex<VecDeque<(u32, Box<[u8; CREATE_LEN]>)>>,
    extends: Mutex<VecDeque<(Arc<HopCircuit>, Vec<u8>)>>,
    closed: Mutex<usize>,
}

impl Handler for Inbox {
    fn create(&self, _link: &Arc<Link>, circuit: u32, message: &[u8; CREATE_LEN]) {
        lock(&self.creates).push_back((circuit, Box::new(*message)));
    }

    fn hop_event(&self, circuit: &Arc<HopCircuit>, event: MuxEvent) {
        if let MuxEvent::Extend(request) = event {
            lock(&self.extends).push_back((Arc::clone(circuit), request.message));
        }
    }

    fn hop_closed(&self, _circuit: &Arc<HopCircuit>) {
        *lock(&self.closed) += 1;
    }
}

impl OriginHandler for Inbox {
    fn event(&self, _event: OriginEvent) {}
}

/// One end of a link, and the relay or client whose it is.
struct End {
    link: Arc<Link>,
    receiver: Receiver,
    transmitter: Transmitter,
    inbox: Arc<Inbox>,
}

impl End {
    /// What waits to leave, sealed.
    fn output(&mut self) -> Vec<u8> {
        let mut batch = Vec::new();
        while self.transmitter.fill(Instant::now(), &mut batch).unwrap() {}
        let bytes = batch.iter().flat_map(|frame| frame.bytes().iter().copied());
        bytes.collect()
    }

    fn take(&mut self, mut bytes: Vec<u8>) -> Result<(), LinkClosed> {
        let done = self.receiver.process(Instant::now(), &mut bytes)?;
        assert_eq!(done, bytes.len());
        Ok(())
    }

    fn create(&self) -> (u32, Box<[u8; CREATE_LEN]>) {
        lock(&self.inbox.creates).pop_front().unwrap()
    }

    /// Circuits that the queue knows.
    fn queued(&self) -> usize {
        self.link.scheduled()
    }
}

struct Rig {
    rng: StdRng,
    onion: DhSecret,
    peer: HopPeer,
}

impl Rig {
    fn new() -> Self {
        let mut rng = StdRng::seed_from_u64(1);
        let onion = DhSecret::generate(&mut rng);
        let peer = HopPeer {
            onion_key: onion.public(),
            suite: Suite::ChaCha20Poly1305,
            digest: [7; 32],
        };
        Self { rng, onion, peer }
    }

    /// Both ends of a link, its initiator first.
    fn link(&mut self, near: &Arc<Inbox>, far: &Arc<Inbox>) -> (End, End) {
        let secret = DhSecret::generate(&mut self.rng);
        let peer = LinkPeer {
            link_key: secret.public(),
            suite: Suite::ChaCha20Poly1305,
            digest: [7; 32],
            psk: None,
        };
        let (initiator, message) = LinkInitiator::start(&peer, &mut self.rng).unwrap();
        let (answer, theirs) = respond(&secret, &peer, &message, &mut self.rng).unwrap();
        let ours = initiator.finish(&answer).unwrap();
        let end = |keys, initiator, inbox: &Arc<Inbox>| {
            let config = LinkConfig {
                handler: Arc::clone(inbox) as Arc<dyn Handler>,
                pool: Pool::new(16),
                budget: CreditBudget::new(0),
                max_circuits: 100,
            };
            let (link, receiver, transmitter) = Link::new(keys, initiator, config, Box::new(|| ()));
            End {
                link,
                receiver,
                transmitter,
                inbox: Arc::clone(inbox),
            }
        };
        (end(ours, true, near), end(theirs, false, far))
    }

    fn origin(&mut self, link: &Arc<Link>, hops: usize) -> Arc<OriginCircuit> {
        let hop = HopSpec {
            id: RelayId([9; 32]),
            peer: self.peer,
        };
        let origin = Origin::new(Instant::now(), vec![hop; hops], &mut self.rng).unwrap();
        let handler = Arc::new(Inbox::default());
        link.open_origin(origin, handler, &mut self.rng).unwrap()
    }

    fn accept(&mut self, end: &End, register: impl FnOnce(&Arc<HopCircuit>)) -> Arc<HopCircuit> {
        let (id, message) = end.create();
        let (onion, peer) = (&self.onion, &self.peer);
        let accepted = end
            .link
            .accept(id, &message, onion, peer, &mut self.rng, register);
        accepted.unwrap()
    }
}

/// A client, a relay, and a next relay: the client's link's ends, then the relays'. The circuit goes over the first link
/// alone so far, and the first relay has been asked to extend it.
fn extending(rig: &mut Rig) -> ([End; 4], Arc<HopCircuit>, Box<[u8; CREATE_LEN]>) {
    let inboxes: [Arc<Inbox>; 3] = Default::default();
    let (mut client, mut relay) = rig.link(&inboxes[0], &inboxes[1]);
    let (onward, next) = rig.link(&inboxes[1], &inboxes[2]);
    rig.origin(&client.link, 2);
    relay.take(client.output()).unwrap();
    rig.accept(&relay, |_| ());
    client.take(relay.output()).unwrap();
    relay.take(client.output()).unwrap();
    let (circuit, message) = lock(&inboxes[1].extends).pop_front().unwrap();
    let message = Box::new(message.as_slice().try_into().unwrap());
    ([client, relay, onward, next], circuit, message)
}

#[test]
fn a_next_hop_that_answers_twice_leaves_nothing_behind() {
    let mut rig = Rig::new();
    let ([_client, relay, mut onward, mut next], circuit, message) = extending(&mut rig);
    onward
        .link
        .open_onward(&circuit, &message, &mut rig.rng)
        .unwrap();
    next.take(onward.output()).unwrap();
    let id = next.create().0;
    for _ in 0..2 {
        let answer = [0; CREATED_LEN];
        next.link
            .handshake_frame(FrameType::Created, id, &answer)
            .unwrap();
    }
    onward.take(next.output()).unwrap();
    assert!(circuit.is_closed());
    for end in [&relay, &onward] {
        assert_eq!((end.link.circuits(), end.queued()), (0, 0));
    }
    let held = Arc::downgrade(&circuit);
    drop(circuit);
    assert_eq!(held.strong_count(), 0, "the circuit is never freed");
}

#[test]
fn a_circuit_that_ends_with_a_full_queue_still_tells_its_hops() {
    let mut rig = Rig::new();
    let inboxes: [Arc<Inbox>; 2] = Default::default();
    let (mut client, mut relay) = rig.link(&inboxes[0], &inboxes[1]);
    let circuit = rig.origin(&client.link, 1);
    relay.take(client.output()).unwrap();
    rig.accept(&relay, |_| ());
    client.take(relay.output()).unwrap();
    let pool = client.link.pool().clone();
    circuit.with(|origin| {
        for _ in 0..8 {
            let stream = origin
                .mux()
                .open(crate::body::OpenKind::Tcp, Some(target()))
                .unwrap();
            origin.mux().send_bytes(&pool, stream, &[0; 64 * 1024]);
        }
    });
    circuit.close(DestroyReason::Finished);
    relay.take(client.output()).unwrap();
    assert_eq!((relay.link.circuits(), client.link.circuits()), (0, 0));
}

fn target() -> crate::target::Target {
    crate::target::Target::ip("198.51.100.1:80".parse().unwrap())
}

#[test]
fn a_destroy_that_comes_while_the_handshake_ends_is_not_lost() {
    let mut rig = Rig::new();
    let inboxes: [Arc<Inbox>; 2] = Default::default();
    let (mut client, mut relay) = rig.link(&inboxes[0], &inboxes[1]);
    let circuit = rig.origin(&client.link, 1);
    relay.take(client.output()).unwrap();
    circuit.close(DestroyReason::Finished);
    let destroy = client.output();
    let (id, message) = relay.create();
    let (link, receiver) = (Arc::clone(&relay.link), &mut relay.receiver);
    let hop = link
        .accept(id, &message, &rig.onion, &rig.peer, &mut rig.rng, |_| {
            receiver
                .process(Instant::now(), &mut destroy.clone())
                .unwrap();
        })
        .unwrap();
    assert!(hop.is_closed());
    assert_eq!((relay.link.circuits(), relay.queued()), (0, 0));
    assert_eq!(
        *lock(&relay.inbox.closed),
        1,
        "who registered it is not told"
    );
}

#[test]
fn an_id_whose_handshake_just_ends_is_in_use() {
    let mut rig = Rig::new();
    let inboxes: [Arc<Inbox>; 2] = Default::default();
    let (mut client, mut relay) = rig.link(&inboxes[0], &inboxes[1]);
    rig.origin(&client.link, 1);
    relay.take(client.output()).unwrap();
    let (id, message) = relay.create();
    client
        .link
        .handshake_frame(FrameType::Create, id, &message[..])
        .unwrap();
    let (again, link, receiver) = (
        client.output(),
        Arc::clone(&relay.link),
        &mut relay.receiver,
    );
    let mut refused = None;
    link.accept(id, &message, &rig.onion, &rig.peer, &mut rig.rng, |_| {
        refused = receiver.process(Instant::now(), &mut again.clone()).err();
    })
    .unwrap();
    assert!(matches!(refused, Some(LinkClosed::Protocol(_))));
}

#[test]
fn a_circuit_torn_while_it_is_extended_leaves_nothing_behind() {
    let mut rig = Rig::new();
    let ([_client, _relay, onward, _next], _, message) = extending(&mut rig);
    for _ in 0..50 {
        let inboxes: [Arc<Inbox>; 2] = Default::default();
        let (mut client, mut relay) = rig.link(&inboxes[0], &inboxes[1]);
        rig.origin(&client.link, 1);
        relay.take(client.output()).unwrap();
        let circuit = rig.accept(&relay, |_| ());
        // Both are in the middle when the queue is let go; which of them gets it first is chance.
        let queue = onward.link.hold_queue();
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let _ = onward
                    .link
                    .open_onward(&circuit, &message, &mut rand::rng());
            });
            while onward.link.circuits() == 0 {
                std::thread::yield_now();
            }
            threads.spawn(|| circuit.close(DestroyReason::Finished));
            // Whoever has just come to the lock mostly gets it before one that sleeps there.
            while onward.link.circuits() != 0 {
                std::hint::spin_loop();
            }
            drop(queue);
        });
        assert_eq!((onward.link.circuits(), onward.queued()), (0, 0));
    }
}
