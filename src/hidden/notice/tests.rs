//! Seeds and visitors that know nothing of each other but the infohash, and a DHT that keeps items as BEP 44 says, for two hours.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Mutex;

use hushswarm_circuits::dht::{self as wire, Op, Record, Request, Summary};
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::keys::RelayId;
use hushswarm_circuits::rendezvous::{IntroductionId, Point};
use hushswarm_circuits::target::Target;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::*;
use crate::config::LookupLimits;
use crate::dht::Options;
use crate::route::{BoxFuture, BoxStream, Datagrams, Outside, RouteError};

const SWARM: [u8; 20] = *b"an infohash of twent";
const TWO_HOURS: Duration = Duration::from_secs(2 * 3600);

#[derive(Default)]
pub(in crate::hidden) struct State {
    pub(in crate::hidden) items: BTreeMap<[u8; 20], (Instant, wire::Item)>,
    /// Which circuits were used for what.
    circuits: BTreeMap<[u8; 20], BTreeSet<Isolation>>,
    puts: usize,
    pub(in crate::hidden) fails: bool,
    /// Nothing more is stored.
    pub(in crate::hidden) full: bool,
}

/// A DHT behind one exit.
#[derive(Clone, Default)]
pub(in crate::hidden) struct Net(pub(in crate::hidden) Arc<Mutex<State>>);

fn seq(item: &wire::Item) -> u64 {
    match item {
        wire::Item::Mutable { seq, .. } => *seq,
        wire::Item::Immutable { .. } => 0,
    }
}

fn target(item: &wire::Item) -> [u8; 20] {
    Item::from_carried(item).unwrap().target().0
}

impl Net {
    fn answer(&self, request: &[u8], isolation: Isolation) -> Vec<u8> {
        let request = Request::decode(request).unwrap();
        let mut state = self.0.lock().unwrap();
        let (mut say, mut stored) = (Vec::new(), 0);
        state.items.retain(|_, (at, _)| at.elapsed() < TWO_HOURS);
        let asked = match request.op {
            Op::Get { target, .. } => {
                if let Some((_, item)) = state.items.get(&target) {
                    say.extend(Record::Item(item.clone()).encode().unwrap());
                }
                target
            }
            Op::Put { item, cas } => {
                let target = target(&item);
                let old = state.items.get(&target).map(|(_, old)| seq(old));
                let swaps = old.is_none() || cas.is_none_or(|cas| old == Some(cas));
                if !state.full && swaps && old.is_none_or(|old| old <= seq(&item)) {
                    state.items.insert(target, (Instant::now(), item));
                    stored = 8;
                }
                if request.family == wire::Family::V4 {
                    state.puts += 1;
                }
                target
            }
            Op::Peers { .. } => panic!("no peers of a hidden swarm are looked for"),
        };
        state.circuits.entry(asked).or_default().insert(isolation);
        let end = Record::End(Summary {
            asked: 9,
            answered: if state.fails { 0 } else { 9 },
            stored,
        });
        say.extend(end.encode().unwrap());
        say
    }

    pub(in crate::hidden) fn dht(&self) -> Arc<Dht> {
        let options = Options {
            bootstrap: Vec::new(),
            limits: LookupLimits::default(),
            allow_private: false,
        };
        Arc::new(Dht::new(Arc::new(self.clone()), options))
    }

    pub(in crate::hidden) fn puts(&self) -> usize {
        self.0.lock().unwrap().puts
    }
}

impl Outside for Net {
    fn connect<'a>(
        &'a self,
        _: &'a Target,
        _: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        panic!("nobody is connected to")
    }

    fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        Box::pin(async { Err(RouteError::Refused) })
    }

    fn dht<'a>(
        &'a self,
        request: &'a [u8],
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        Box::pin(async move {
            if self.0.lock().unwrap().fails {
                return Err(RouteError::NoCircuit("none".to_owned()));
            }
            let say = self.answer(request, isolation);
            let (near, mut far) = tokio::io::duplex(say.len().max(1));
            far.write_all(&say).await.unwrap();
            Ok(Box::new(near) as BoxStream)
        })
    }
}

/// Virtual time, which begins a quarter of a period after a change.
fn clock() -> Clock {
    let begun = Instant::now();
    let period = Period::at(&SWARM, 1_800_000_000);
    let base = 1_800_000_000 - u64::from(period.since(1_800_000_000)) + 6 * 3600;
    Arc::new(move || base + begun.elapsed().as_secs())
}

fn contact(key: u8, point: u8) -> Contact {
    contact_at(key, &[point])
}

fn contact_at(key: u8, points: &[u8]) -> Contact {
    let points = points.iter().map(|point| Point {
        relay: RelayId([*point; 32]),
        introduction: IntroductionId([*point; 32]),
    });
    Contact::new([key; 32], points.collect()).unwrap()
}

pub(in crate::hidden) async fn passes(minutes: u64) {
    sleep(Duration::from_secs(60 * minutes)).await;
}

async fn found(dht: &Arc<Dht>, infohash: [u8; 20], clock: &Clock) -> BTreeSet<Vec<u8>> {
    let mut seeking = seek_at(Arc::clone(dht), infohash, Arc::clone(clock));
    let mut out = BTreeSet::new();
    while let Some(contact) = seeking.next().await {
        assert!(out.insert(contact.encode()), "each comes once");
    }
    out
}

fn all(contacts: &[Contact]) -> BTreeSet<Vec<u8>> {
    contacts.iter().map(Contact::encode).collect()
}

/// A seed that says where it is.
fn says(
    dht: &Arc<Dht>,
    clock: &Clock,
    contact: Option<Contact>,
) -> (watch::Sender<Option<Contact>>, Notice) {
    let (sender, receiver) = watch::channel(contact);
    let notice = publish_at(Arc::clone(dht), SWARM, receiver, Arc::clone(clock));
    (sender, notice)
}

#[tokio::test(start_paused = true)]
async fn a_visitor_who_knows_the_infohash_alone_finds_the_seed_and_nobody_else_does() {
    let (net, clock) = (Net::default(), clock());
    let (seed, visitor) = (net.dht(), net.dht());
    let (contacts, _notice) = says(&seed, &clock, None);
    passes(10).await;
    assert_eq!(net.puts(), 0, "it stands nowhere yet");
    contacts.send_replace(Some(contact(1, 1)));
    passes(5).await;
    assert_eq!(found(&visitor, SWARM, &clock).await, all(&[contact(1, 1)]));
    assert_eq!(found(&visitor, [9; 20], &clock).await, all(&[]));
    let state = net.0.lock().unwrap();
    // Of both swarms, and each in circuits of its own.
    assert_eq!(state.circuits.len(), 8);
    let circuits = state.circuits.values().map(BTreeSet::len).sum::<usize>();
    let different: BTreeSet<_> = state.circuits.values().flatten().collect();
    assert_eq!(circuits, different.len());
    // Neither infohash nor key is anywhere in what is kept.
    for (target, (_, item)) in &state.items {
        let kept = format!("{target:?} {:?}", Item::from_carried(item).unwrap().value());
        for secret in [&SWARM[..], &[1; 32][..]] {
            let text = format!("{secret:?}");
            assert!(!kept.contains(text.trim_matches(['[', ']'])));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_there_for_days_written_about_once_an_hour_and_gone_soon_after_the_seed() {
    let (net, clock) = (Net::default(), clock());
    let dht = net.dht();
    let (_contacts, notice) = says(&dht, &clock, Some(contact(1, 1)));
    passes(5).await;
    for _ in 0..3 * 24 * 2 {
        passes(30).await;
        assert_eq!(found(&dht, SWARM, &clock).await, all(&[contact(1, 1)]));
    }
    let puts = net.puts();
    assert!((70..110).contains(&puts), "{puts} in three days");
    drop(notice);
    passes(130).await;
    assert_eq!(found(&dht, SWARM, &clock).await, all(&[]));
    assert_eq!(net.puts(), puts);
}

#[tokio::test(start_paused = true)]
async fn a_change_is_told_after_a_while_and_many_changes_are_told_as_one() {
    let (net, clock) = (Net::default(), clock());
    let dht = net.dht();
    let (contacts, _notice) = says(&dht, &clock, Some(contact(1, 1)));
    passes(10).await;
    let before = net.puts();
    for n in 2..12 {
        contacts.send_replace(Some(contact(1, n)));
        sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(net.puts(), before, "not at once");
    passes(3).await;
    assert_eq!(net.puts(), before + 1);
    assert_eq!(found(&dht, SWARM, &clock).await, all(&[contact(1, 11)]));
    for n in 0..60 {
        contacts.send_replace(Some(contact(1, n)));
        passes(1).await;
    }
    let puts = net.puts() - before;
    assert!((5..=13).contains(&puts), "{puts} in an hour of changes");
}

#[tokio::test(start_paused = true)]
async fn who_lets_one_introduction_point_fall_sees_nothing_written_while_another_stands() {
    let (net, clock) = (Net::default(), clock());
    let dht = net.dht();
    let (contacts, _notice) = says(&dht, &clock, Some(contact_at(1, &[1, 2, 3])));
    passes(3).await;
    assert_eq!(net.puts(), 1);
    // One after the other falls, and is replaced, or all of them for a moment.
    for now in [
        Some(contact_at(1, &[2, 3])),
        Some(contact_at(1, &[2, 3, 4])),
        None,
        Some(contact_at(1, &[5, 3])),
        Some(contact_at(1, &[5, 6, 3])),
    ] {
        passes(8).await;
        contacts.send_replace(now);
    }
    passes(1).await;
    assert_eq!(net.puts(), 1, "it is written for one point's sake");
    // The regular one names those that stand.
    passes(20).await;
    assert_eq!(net.puts(), 2);
    let now = all(&[contact_at(1, &[5, 6, 3])]);
    assert_eq!(found(&dht, SWARM, &clock).await, now);
    // Nowhere when it is to be written again: not the moment that it stands, or nodes would learn when that was.
    contacts.send_replace(None);
    passes(70).await;
    contacts.send_replace(Some(contact_at(1, &[5, 6, 3])));
    sleep(Duration::from_secs(SETTLE.start - 1)).await;
    assert_eq!(net.puts(), 2);
    passes(2).await;
    assert_eq!(net.puts(), 3);
}

#[tokio::test(start_paused = true)]
async fn sixteen_seeds_find_room_and_who_leaves_is_forgotten() {
    let (net, clock) = (Net::default(), clock());
    let dht = net.dht();
    let mut seeds = Vec::new();
    for n in 0..16 {
        seeds.push(says(&dht, &clock, Some(contact(n, n))));
        passes(4).await;
    }
    passes(60).await;
    let contacts: Vec<_> = (0..16).map(|n| contact(n, n)).collect();
    let now = found(&dht, SWARM, &clock).await;
    assert_eq!(now, all(&contacts));
    seeds.truncate(8);
    passes(6 * 60).await;
    // What they wrote themselves, others did not keep for them.
    assert_eq!(found(&dht, SWARM, &clock).await, all(&contacts[..8]));
}

#[tokio::test(start_paused = true)]
async fn a_seed_whose_slot_was_overwritten_or_blocked_comes_back() {
    let (net, clock) = (Net::default(), clock());
    let dht = net.dht();
    let (_contacts, _notice) = says(&dht, &clock, Some(contact(1, 1)));
    passes(5).await;
    let period = Period::at(&SWARM, clock());
    for (seq, slots) in [(clock() as i64 + 5000, 0..4), (i64::MAX, 0..3)] {
        for number in slots {
            let slot = Slot::new(&SWARM, &period, number);
            let junk = Item::sign(slot.signer(), &[], seq, b"4:junk").unwrap();
            let (_, outcome) = end(dht.put(junk, 0).unwrap()).await;
            assert!(matches!(outcome, Some(Outcome::Stored(1..))));
        }
        // Blocked slots are found out by failing.
        passes(90).await;
        assert_eq!(found(&dht, SWARM, &clock).await, all(&[contact(1, 1)]));
    }
    // All of them: until the names change, or who blocks them leaves.
    for number in 0..SLOTS {
        let slot = Slot::new(&SWARM, &period, number);
        let junk = Item::sign(slot.signer(), &[], i64::MAX, b"4:junk").unwrap();
        end(dht.put(junk, 0).unwrap()).await;
    }
    let before = net.puts();
    passes(90).await;
    assert_eq!(net.puts(), before, "nobody writes in vain");
    passes(120).await;
    assert_eq!(found(&dht, SWARM, &clock).await, all(&[contact(1, 1)]));
}

#[tokio::test(start_paused = true)]
async fn without_a_network_it_is_tried_again_ever_less_often() {
    let (net, clock) = (Net::default(), clock());
    net.0.lock().unwrap().fails = true;
    let dht = net.dht();
    let (_contacts, _notice) = says(&dht, &clock, Some(contact(1, 1)));
    passes(12 * 60).await;
    let ended = crate::dht::PeerFinder::counters(&*dht).ended;
    assert!((20..300).contains(&ended), "{ended} lookups in half a day");
    net.0.lock().unwrap().fails = false;
    passes(60).await;
    assert_eq!(found(&dht, SWARM, &clock).await, all(&[contact(1, 1)]));
}

#[tokio::test(start_paused = true)]
async fn two_who_write_one_slot_at_one_moment_do_not_lose_each_other_for_long() {
    let (net, clock) = (Net::default(), clock());
    let (a, b) = (net.dht(), net.dht());
    let _one = says(&a, &clock, Some(contact(1, 1)));
    let _two = says(&b, &clock, Some(contact(2, 2)));
    passes(120).await;
    let both = all(&[contact(1, 1), contact(2, 2)]);
    assert_eq!(found(&a, SWARM, &clock).await, both);
}
