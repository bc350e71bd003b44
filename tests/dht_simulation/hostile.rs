//! Nodes that lie, each in its own way.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use hushswarm::krpc::message::Query;
use hushswarm::krpc::message::node::{Answer, Asked};
use hushswarm::krpc::{Contact, Id};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::network::public_ip;

/// What a hostile node does with a query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trick {
    /// Answers under an id that is not its own.
    WrongId,
    /// Names peers and nodes that are private addresses, or one network's, by hundreds.
    Poison,
    /// Names nodes ever nearer to what it was asked for. They exist, answer, and do the same: one per address of 2^20.
    Endless,
    /// Names nodes nearer to what it was asked for, with ids that fit their addresses (BEP 42). Nobody is there.
    Ghosts,
    /// Gives a token of a thousand bytes.
    LongToken,
    /// Answers under another transaction id.
    OtherTransaction,
    /// Sends back what it got.
    Echo,
    /// Knows nobody and nothing.
    Empty,
}

impl Trick {
    pub(crate) const ALL: [Self; 8] = [
        Self::WrongId,
        Self::Poison,
        Self::Endless,
        Self::Ghosts,
        Self::LongToken,
        Self::OtherTransaction,
        Self::Echo,
        Self::Empty,
    ];
}

/// Ghosts that are known: enough to have some near any target.
const GHOSTS: usize = 200_000;

/// What hostile nodes share: they work together.
pub(crate) struct Hostile {
    /// Ids under which addresses of theirs were named.
    named: HashMap<SocketAddr, Id>,
    /// Contacts that fit their addresses, by id.
    ghosts: Vec<Contact>,
    rng: StdRng,
}

impl Hostile {
    pub(crate) fn new(rng: &mut StdRng) -> Self {
        let mut rng = StdRng::seed_from_u64(rng.random());
        let mut ghosts: Vec<Contact> = (0..GHOSTS)
            .map(|_| {
                let ip = public_ip(&mut rng);
                let id = Id::random(&mut rng).made_valid_for(ip);
                Contact {
                    id,
                    addr: SocketAddr::new(ip, 6881),
                }
            })
            .collect();
        ghosts.sort_unstable_by_key(|ghost| ghost.id);
        Self {
            named: HashMap::new(),
            ghosts,
            rng,
        }
    }

    /// Whether an address is one of those that the endless answer at: 44.0.0.0/12, 2^20 of them in 4096 networks.
    pub(crate) fn owns(ip: IpAddr) -> bool {
        matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 44 && ip.octets()[1] < 16)
    }

    /// Changes what an honest node would say.
    pub(crate) fn play(
        &mut self,
        trick: Trick,
        own: &Id,
        asked: &Asked<'_>,
        query: &[u8],
        honest: Vec<u8>,
    ) -> Vec<u8> {
        let target = wanted(asked, own);
        match trick {
            Trick::WrongId => {
                Answer::default().encode(asked.transaction, &Id::random(&mut self.rng))
            }
            Trick::Poison => self.poison(own, asked, &target),
            Trick::Endless => self.nearer(own, asked, &target),
            Trick::Ghosts => {
                let at = self.ghosts.partition_point(|ghost| ghost.id < target);
                let from = at.saturating_sub(4);
                let nodes = &self.ghosts[from..self.ghosts.len().min(from + 8)];
                Answer {
                    nodes,
                    token: Some(b"t"),
                    ..Answer::default()
                }
                .encode(asked.transaction, own)
            }
            Trick::LongToken => Answer {
                token: Some(&[7; 1000]),
                ..Answer::default()
            }
            .encode(asked.transaction, own),
            Trick::OtherTransaction => {
                let other: [u8; 4] = self.rng.random();
                Answer {
                    token: Some(b"t"),
                    ..Answer::default()
                }
                .encode(&other, own)
            }
            Trick::Echo => query.to_vec(),
            Trick::Empty => {
                drop(honest);
                Answer::default().encode(asked.transaction, own)
            }
        }
    }

    fn poison(&mut self, own: &Id, asked: &Asked<'_>, target: &Id) -> Vec<u8> {
        let private = [
            [10, 0, 0, 1],
            [127, 0, 0, 1],
            [192, 168, 1, 1],
            [169, 254, 7, 7],
            [224, 0, 0, 1],
        ];
        let nodes: Vec<Contact> = private
            .iter()
            .map(|ip| Contact {
                id: target.blinded(100, &mut self.rng),
                addr: (*ip, 80).into(),
            })
            .collect();
        // One network's addresses, and some with port zero: as many as fit into an answer, or more.
        let count = if self.rng.random() { 190 } else { 4000 };
        let peers: Vec<SocketAddr> = (0..count)
            .map(|n| match n % 8 {
                0 => (private[n / 8 % private.len()], 22).into(),
                1 => ([8, 8, 4, 4], 0).into(),
                _ => ([45, 66, 77, n as u8], 6881).into(),
            })
            .collect();
        Answer {
            nodes: &nodes,
            peers: &peers,
            token: Some(b"t"),
            item: None,
        }
        .encode(asked.transaction, own)
    }

    /// Eight accomplices as near to what was asked for as is wished.
    fn nearer(&mut self, own: &Id, asked: &Asked<'_>, target: &Id) -> Vec<u8> {
        let nodes: Vec<Contact> = (0..8)
            .map(|_| {
                let ip = [
                    44,
                    self.rng.random_range(0..16),
                    self.rng.random(),
                    self.rng.random(),
                ];
                let contact = Contact {
                    id: target.blinded(150, &mut self.rng),
                    addr: (ip, 6881).into(),
                };
                self.named.insert(contact.addr, contact.id);
                contact
            })
            .collect();
        Answer {
            nodes: &nodes,
            token: Some(b"t"),
            ..Answer::default()
        }
        .encode(asked.transaction, own)
    }

    /// An accomplice is asked.
    pub(crate) fn lead_on(&mut self, addr: SocketAddr, asked: &Asked<'_>) -> Vec<u8> {
        let own = self.named.get(&addr).copied().unwrap_or(asked.id);
        let target = wanted(asked, &own);
        self.nearer(&own, asked, &target)
    }
}

/// What was asked for.
fn wanted(asked: &Asked<'_>, own: &Id) -> Id {
    match &asked.query {
        Query::FindNode { target } | Query::Get { target } => *target,
        Query::GetPeers { info_hash } | Query::AnnouncePeer { info_hash, .. } => *info_hash,
        Query::Ping | Query::Put { .. } => *own,
    }
}
