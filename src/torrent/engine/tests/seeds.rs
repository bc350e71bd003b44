//! Hidden seeds are told among the peers of a hidden swarm: who learns of whom, what a liar can do, and what others see of it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::keys::RelayId;
use hushswarm_circuits::rendezvous::contact::MAX_POINTS;
use hushswarm_circuits::rendezvous::{IntroductionId, Point};
use rand::seq::SliceRandom;

use super::onions::{MINUTE, STREAMS, Talker};
use super::*;
use crate::hush::SeedKey;
use crate::route::{BoxFuture, Datagrams, RouteError};
use crate::torrent::extension::{self, Exchange, HS_ONIONS};
use crate::torrent::gossip::{Concealed, Onions};

const SECOND: Duration = Duration::from_secs(1);

/// The seed `n` at these introduction points.
fn contact(n: u8, points: std::ops::Range<u8>) -> Contact {
    let points = points.map(|n| Point {
        relay: RelayId([n; 32]),
        introduction: IntroductionId([n; 32]),
    });
    Contact::new([n; 32], points.collect()).unwrap()
}

fn target(n: u8) -> Target {
    Concealed::Seed(SeedKey([n; 32])).to_target().unwrap()
}

fn told(seeds: &[Contact]) -> Onions {
    Onions {
        seeds: seeds.to_vec(),
        ..Onions::default()
    }
}

fn claim(seed: Contact) -> Onions {
    Onions {
        seed: Some(seed),
        ..Onions::default()
    }
}

/// One program's book, which it keeps as the real one does.
#[derive(Debug, Default)]
struct Book(Mutex<BTreeMap<SeedKey, (InfoHash, Contact)>>);

impl Book {
    fn note(&self, hash: InfoHash, new: Contact, replace: bool) -> Option<Target> {
        let key = SeedKey(new.key);
        let mut seeds = self.0.lock().unwrap();
        let (of, known) = seeds.entry(key).or_insert((hash, new.clone()));
        if *of != hash {
            return None;
        }
        if replace {
            *known = new;
        } else {
            let mut points = known.points().to_vec();
            points.extend(new.points().iter().filter(|p| !known.points().contains(p)));
            points.truncate(MAX_POINTS);
            *known = Contact::new(key.0, points).unwrap();
        }
        Concealed::Seed(key).to_target()
    }
}

impl SeedBook for Book {
    fn learn(&self, hash: InfoHash, contact: Contact) -> Option<Target> {
        self.note(hash, contact, true)
    }

    fn hear(&self, hash: InfoHash, contact: Contact) -> Option<Target> {
        self.note(hash, contact, false)
    }

    fn contact(&self, hash: InfoHash, key: &SeedKey) -> Option<Contact> {
        let seeds = self.0.lock().unwrap();
        let (of, contact) = seeds.get(key)?;
        (*of == hash).then(|| contact.clone())
    }

    fn forget(&self, _: InfoHash, key: &SeedKey) {
        self.0.lock().unwrap().remove(key);
    }
}

/// Where seeds really stand.
type Standing = Arc<Mutex<BTreeMap<SeedKey, Contact>>>;

/// A way out that reaches a seed where one of four points that the book names is right.
struct Meetings {
    view: View,
    book: Arc<Book>,
    standing: Standing,
}

impl Outside for Meetings {
    fn connect<'a>(
        &'a self,
        target: &'a Target,
        isolation: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        Box::pin(async move {
            let stream = self.view.connect(target, isolation).await;
            if let Some(Concealed::Seed(key)) = Concealed::from_target(target) {
                let known = self.book.0.lock().unwrap().get(&key).cloned();
                let mut tried = known.ok_or(RouteError::Unreachable)?.1.points().to_vec();
                tried.shuffle(&mut rand::rng());
                tried.truncate(4);
                let stands = self.standing.lock().unwrap().get(&key).cloned();
                let stands = stands.ok_or(RouteError::ConnectionRefused)?;
                if !tried.iter().any(|point| stands.points().contains(point)) {
                    return Err(RouteError::ConnectionRefused);
                }
            }
            stream
        })
    }

    fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        Box::pin(async { Err(RouteError::Refused) })
    }
}

/// A swarm of hidden seeds.
struct Hush {
    bench: Bench,
    standing: Standing,
}

impl Hush {
    async fn new(private: bool) -> Self {
        Self {
            bench: Bench::with(private).await,
            standing: Standing::default(),
        }
    }

    fn engine(&self, name: &str) -> (Engine, Arc<Book>) {
        let book = Arc::new(Book::default());
        let options = Options {
            gossip: true,
            seeds: Some(Arc::clone(&book) as Arc<dyn SeedBook>),
            ..Options::new(self.bench.path(&format!("state-{name}")))
        };
        let outside = Meetings {
            view: View(Arc::clone(&self.bench.world)),
            book: Arc::clone(&book),
            standing: Arc::clone(&self.standing),
        };
        (Engine::new(Arc::new(outside), options), book)
    }

    /// Somebody stands there.
    fn at(&self, contact: &Contact, listener: impl Fn(BoxStream) + Send + Sync + 'static) {
        let key = SeedKey(contact.key);
        self.standing.lock().unwrap().insert(key, contact.clone());
        self.bench.world.at(target(contact.key[0]), listener);
    }

    fn talker_at(&self, contact: &Contact, says: &[(Duration, Onions)]) -> Arc<Talker> {
        let talker = self.talker(says);
        self.at(contact, talker.listen());
        talker
    }

    /// Nobody stands there any more.
    fn gone(&self, n: u8) {
        self.standing.lock().unwrap().remove(&SeedKey([n; 32]));
    }

    /// A torrent is given there, which knows that this is its own.
    fn stand(&self, contact: &Contact, handle: &Handle) {
        let door = handle.hidden_door();
        door.stand(Some(contact.clone()));
        self.at(contact, move |stream| door.accept(stream));
    }

    fn seed(&self, contact: &Contact) -> Handle {
        let (engine, _) = self.engine(&format!("seed-{}", contact.key[0]));
        let seed = engine.seed(self.bench.without_trackers(), self.bench.path("source"));
        self.stand(contact, &seed);
        seed
    }

    /// A download by a link that names these seeds, which goes on giving.
    fn get(&self, name: &str, seeds: &[Contact]) -> (Handle, Arc<Book>) {
        let magnet = Magnet {
            hash: self.bench.metainfo.info.hash,
            v2: None,
            name: None,
            trackers: Vec::new(),
            peers: Vec::new(),
            seeds: seeds.to_vec(),
            select: None,
            web_seeds: Vec::new(),
        };
        let job = Job {
            source: Source::Magnet(magnet),
            seed_after: true,
            ..self.bench.job(name)
        };
        let (engine, book) = self.engine(name);
        (engine.download(job), book)
    }

    fn talker(&self, says: &[(Duration, Onions)]) -> Arc<Talker> {
        let says = says.iter();
        let says = says.map(|(at, onions)| (*at, HS_ONIONS, onions.encode()));
        self.bench.talker_of(Exchange::Onions, says.collect())
    }

    fn calls(&self, n: u8) -> usize {
        let calls = self.bench.world.onion_calls.lock().unwrap();
        calls.iter().filter(|to| **to == target(n)).count()
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_told_of_a_seed_completes_from_it_when_the_one_who_told_is_gone() {
    let hush = Hush::new(false).await;
    // Somebody whom all know, and who has nothing.
    let (meeting, _) = hush.get("meeting", &[]);
    hush.stand(&contact(1, 10..13), &meeting);
    let link = [contact(1, 10..13)];
    let (one, _) = hush.get("one", &link);
    hush.stand(&contact(2, 20..23), &one);
    let (two, book) = hush.get("two", &link);
    hush.stand(&contact(3, 30..33), &two);
    for handle in [&meeting, &one, &two] {
        hush.bench.visit_with_metadata(handle, true);
    }
    let known = |handle: &Handle| handle.progress().borrow().known;
    while known(&one) < 2 || known(&two) < 2 {
        tokio::time::sleep(MINUTE).await;
    }
    tokio::time::sleep(MINUTE).await;
    meeting.stop().await;
    hush.gone(1);
    let hash = hush.bench.metainfo.info.hash;
    let heard = book.contact(hash, &SeedKey([2; 32]));
    assert_eq!(heard, Some(contact(2, 20..23)), "as it is");
    // Only the one finds a seed.
    let seed = hush.seed(&contact(4, 40..43));
    drop(one);
    let (one, _) = hush.get("one", &[contact(4, 40..43)]);
    hush.stand(&contact(2, 20..23), &one);
    until(&one, |p| p.state == State::Seeding).await;
    drop(seed);
    hush.gone(4);
    until(&two, |p| p.state == State::Seeding).await;
    hush.bench.assert_complete("two");
}

#[tokio::test(start_paused = true)]
async fn wrong_points_of_a_right_key_displace_none_and_go_no_further() {
    let hush = Hush::new(false).await;
    let (get, _) = hush.get("out", &[]);
    hush.bench.visit_with_metadata(&get, true);
    hush.stand(&contact(7, 70..73), &get);
    let (wrong, right) = (contact(2, 100..108), contact(2, 20..23));
    let liar = hush.talker(&[(Duration::ZERO, told(std::slice::from_ref(&wrong)))]);
    liar.visit_at(&get.hidden_door());
    // As soon as they are told, nothing but wrong points is known.
    tokio::time::sleep(5 * SECOND).await;
    assert!(hush.calls(2) > 0);
    let seed = hush.seed(&right);
    let honest = hush.talker(&[(Duration::ZERO, told(std::slice::from_ref(&right)))]);
    honest.visit_at(&get.hidden_door());
    until(&get, |p| p.state == State::Seeding).await;
    // It is connected: whatever somebody says of it now, or as it, changes nothing.
    let more = hush.talker(&[(SECOND, told(std::slice::from_ref(&wrong)))]);
    let as_it = hush.talker(&[(SECOND, claim(wrong))]);
    for liar in [&more, &as_it] {
        liar.visit_at(&get.hidden_door());
    }
    let late = hush.talker(&[]);
    for _ in 0..10 {
        late.visit_at(&get.hidden_door());
        tokio::time::sleep(MINUTE / 6).await;
    }
    let heard: Vec<Contact> = late.onions().into_iter().flat_map(|o| o.seeds).collect();
    assert!(!heard.is_empty());
    assert!(heard.iter().all(|contact| *contact == right));
    drop(seed);
}

#[tokio::test(start_paused = true)]
async fn a_seed_that_moves_is_known_by_its_own_word_where_it_is_now() {
    let hush = Hush::new(false).await;
    let before = contact(1, 10..13);
    let seed = hush.seed(&before);
    let (get, book) = hush.get("out", std::slice::from_ref(&before));
    until(&get, |p| p.state == State::Seeding).await;
    let after = contact(1, 13..16);
    seed.hidden_door().stand(Some(after.clone()));
    tokio::time::sleep(90 * SECOND).await;
    let hash = hush.bench.metainfo.info.hash;
    assert_eq!(book.contact(hash, &SeedKey([1; 32])), Some(after));
}

#[tokio::test(start_paused = true)]
async fn a_seed_gets_several_streams_one_of_which_gossips_and_our_own_is_never_called() {
    let hush = Hush::new(false).await;
    let says = [
        (Duration::ZERO, claim(contact(1, 10..12))),
        (SECOND, told(&[contact(7, 70..72), contact(8, 80..82)])),
    ];
    let talker = hush.talker_at(&contact(1, 10..13), &says);
    let own = contact(7, 70..73);
    let (get, _) = hush.get("out", &[contact(1, 10..13), own.clone()]);
    hush.stand(&own, &get);
    hush.bench.visit_with_metadata(&get, true);
    tokio::time::sleep(20 * SECOND).await;
    assert_eq!(hush.calls(1), STREAMS);
    let offers = talker.handshakes().into_iter();
    let offers = offers.map(|said| extension::PeerExtensions::parse(&said).unwrap());
    assert_eq!(offers.filter(|offer| offer.hs_onions.is_some()).count(), 1);
    assert_eq!(talker.onions(), [claim(own)]);
    tokio::time::sleep(5 * MINUTE).await;
    assert!(hush.calls(8) > 0, "whom it told of is called");
    assert_eq!(hush.calls(7), 0);
}

#[tokio::test(start_paused = true)]
async fn hearsay_costs_few_calls_and_is_forgotten_with_its_points() {
    let hush = Hush::new(false).await;
    let (get, book) = hush.get("out", &[]);
    hush.bench.visit_with_metadata(&get, true);
    let hash = hush.bench.metainfo.info.hash;
    // One of them is another torrent's seed: it must not see that we want this one too.
    book.learn(InfoHash([0x77; 20]), contact(3, 1..3));
    let lies = [contact(2, 100..103), contact(3, 1..3)];
    let liar = hush.talker(&[(Duration::ZERO, told(&lies))]);
    liar.visit_at(&get.hidden_door());
    tokio::time::sleep(10 * SECOND).await;
    assert!(book.contact(hash, &SeedKey([2; 32])).is_some());
    tokio::time::sleep(60 * MINUTE).await;
    assert_eq!([hush.calls(2), hush.calls(3)], [4, 0]);
    assert_eq!(get.progress().borrow().known, 1, "the liar, who came");
    let seeds = book.0.lock().unwrap();
    let left: Vec<&SeedKey> = seeds.keys().collect();
    assert_eq!(left, [&SeedKey([3; 32])], "that of the other torrent");
}

#[tokio::test(start_paused = true)]
async fn private_torrents_tell_nothing_of_seeds() {
    let hush = Hush::new(true).await;
    let lies = [
        (Duration::ZERO, claim(contact(20, 1..3))),
        (SECOND, told(&[contact(21, 1..3)])),
    ];
    let seed = hush.seed(&contact(1, 10..13));
    let early = hush.talker(&lies);
    early.visit_at(&seed.hidden_door());
    // By a link it is not known at first that it is private.
    let known = hush.talker_at(&contact(2, 20..23), &lies[1..]);
    let (get, book) = hush.get("out", &[contact(2, 20..23)]);
    hush.stand(&contact(3, 30..33), &get);
    tokio::time::sleep(MINUTE).await;
    hush.bench.visit_with_metadata(&get, false);
    until(&get, |p| p.state == State::Seeding).await;
    let visitor = hush.talker(&lies);
    visitor.visit_at(&get.hidden_door());
    tokio::time::sleep(30 * MINUTE).await;
    for talker in [&early, &known, &visitor] {
        assert_eq!(talker.onions(), []);
    }
    assert_eq!([hush.calls(20), hush.calls(21)], [0, 0]);
    let hash = hush.bench.metainfo.info.hash;
    assert_eq!(book.contact(hash, &SeedKey([21; 32])), None);
}

#[tokio::test(start_paused = true)]
async fn peers_of_the_public_swarm_and_of_our_onion_service_see_nothing_of_our_seed() {
    let hush = Hush::new(false).await;
    let lies = [(Duration::ZERO, told(&[contact(21, 1..3)]))];
    let seed = hush.seed(&contact(1, 10..13));
    let public = hush.talker(&lies);
    public.visit_publicly(&seed);
    let onion = hush.talker(&[]);
    onion.visit(&seed);
    let met = hush.talker(&[]);
    met.visit_at(&seed.hidden_door());
    tokio::time::sleep(10 * MINUTE).await;
    let said = public.handshakes();
    assert_eq!(said.len(), 1);
    assert_eq!(
        said[0],
        extension::handshake(seed_size(&said[0]), Exchange::Public)
    );
    assert_eq!(public.onions(), []);
    assert_eq!(onion.onions(), []);
    assert_eq!(met.onions(), [claim(contact(1, 10..13))]);
    assert_eq!(hush.calls(21), 0);
}

/// The length of the metadata that this handshake says, which only who has it can.
fn seed_size(handshake: &[u8]) -> Option<u32> {
    extension::PeerExtensions::parse(handshake)
        .unwrap()
        .metadata_size
}
