//! Publishers and followers, and a DHT that keeps items as BEP 44 says, or shows what it likes.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hushswarm_circuits::dht as wire;
use hushswarm_circuits::keys::{IdentityKey, RelayId};
use hushswarm_circuits::rendezvous::{Contact, FeedKey, IntroductionId, Issue, Point};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::notice::Clock;
use super::super::notice::tests::{Net, passes};
use super::issuing::issue_at;
use super::*;
use crate::dht::Dht;
use crate::krpc::Item;
use crate::state::StateDir;

const FIRST: [u8; 20] = *b"the first's infohash";
const SECOND: [u8; 20] = *b"the second infohash.";
const HOUR: u64 = 60;

struct World {
    net: Net,
    clock: Clock,
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        let begun = Instant::now();
        Self {
            net: Net::default(),
            clock: Arc::new(move || 1_800_000_000 + begun.elapsed().as_secs()),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn state(&self, name: &str) -> StateDir {
        StateDir::open(self.dir.path().join(name)).unwrap()
    }

    fn publisher(&self, state: &str) -> Publisher {
        Publisher::keep(&self.state(state), "news", &mut rand::rng()).unwrap()
    }

    /// Puts a torrent out, as a hidden seed that stands somewhere; the sender moves it.
    fn issues(
        &self,
        publisher: Publisher,
        infohash: [u8; 20],
    ) -> (Issuing, watch::Sender<Option<Contact>>) {
        let (contacts, contact) = watch::channel(Some(contact(1)));
        let (dht, clock) = (self.net.dht(), Arc::clone(&self.clock));
        let name = "a torrent's name".to_owned();
        let issuing = issue_at(dht, publisher, infohash, name, Some(contact), clock);
        (issuing, contacts)
    }

    fn follower(&self, state: &str, feed: &FeedKey) -> Follower {
        self.follower_of(state, Feed::Sealed(feed.clone()), self.net.dht())
    }

    fn follower_of(&self, state: &str, feed: Feed, dht: Arc<Dht>) -> Follower {
        Follower::keep_at(&self.state(state), feed, dht, Arc::clone(&self.clock)).unwrap()
    }

    fn kept(&self) -> Vec<([u8; 20], wire::Item)> {
        let state = self.net.0.lock().unwrap();
        let items = state.items.iter();
        items
            .map(|(target, (_, item))| (*target, item.clone()))
            .collect()
    }

    /// Shows this item to whoever asks for this target, and nothing else.
    fn shows(&self, target: [u8; 20], item: wire::Item) {
        let mut state = self.net.0.lock().unwrap();
        state.items.clear();
        state.items.insert(target, (Instant::now(), item));
    }
}

fn contact(point: u8) -> Contact {
    contact_at(&[point])
}

fn contact_at(points: &[u8]) -> Contact {
    let points = points.iter().map(|point| Point {
        relay: RelayId([*point; 32]),
        introduction: IntroductionId([*point; 32]),
    });
    Contact::new([1; 32], points.collect()).unwrap()
}

/// Waits until no period of the feed ends within so many minutes.
async fn far_from_a_change(world: &World, feed: &FeedKey, minutes: u64) {
    let now = (world.clock)();
    let left = feed.period(now).left(now) / 60;
    if left <= minutes {
        passes(left + 10).await;
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

async fn stands(issuing: &mut Issuing) {
    let reads = [Issued::Stands, Issued::StandsInstead];
    let stands = issuing.status.wait_for(|status| reads.contains(status));
    tokio::time::timeout(Duration::from_secs(600), stands)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_link_leads_to_what_is_newest_and_what_is_kept_names_nothing() {
    let world = World::new();
    let publisher = world.publisher("publisher");
    let feed = publisher.feed();
    let (mut first, _contacts) = world.issues(publisher, FIRST);
    stands(&mut first).await;
    let mut follower = world.follower("reader", &feed);
    let one = follower.look().await.unwrap();
    assert_eq!(
        (one.infohash, one.name.as_str()),
        (FIRST, "a torrent's name")
    );
    assert_eq!(one.contact, Some(contact(1)));
    drop(first);
    // The same program again, with something else.
    let publisher = world.publisher("publisher");
    assert!(publisher.feed() == feed, "the link is another");
    let (mut second, _contacts) = world.issues(publisher, SECOND);
    stands(&mut second).await;
    let two = follower.look().await.unwrap();
    assert_eq!(two.infohash, SECOND);
    assert!(two.number > one.number);
    // Neither the nodes nor the files of the state folders hold a name or an infohash.
    let mut all: Vec<Vec<u8>> = Vec::new();
    for (target, item) in world.kept() {
        all.push(target.to_vec());
        all.push(format!("{item:?}").into_bytes());
        all.push(Item::from_carried(&item).unwrap().value().to_vec());
    }
    for state in ["publisher", "reader"] {
        for file in files(world.state(state).path()) {
            all.push(file.to_str().unwrap().as_bytes().to_vec());
            all.push(std::fs::read(&file).unwrap());
            let mode = std::fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
    assert!(all.len() >= 6);
    let hex = [FIRST, SECOND].map(|hash| data_encoding::HEXLOWER.encode(&hash));
    let secrets = [
        &FIRST[..],
        &SECOND,
        hex[0].as_bytes(),
        hex[1].as_bytes(),
        b"name",
        b"news",
    ];
    for secret in secrets {
        let shows = |bytes: &Vec<u8>| bytes.windows(secret.len()).any(|part| part == secret);
        assert!(!all.iter().any(shows), "{secret:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_there_for_days_and_follows_the_seed_to_other_introduction_points() {
    let world = World::new();
    let publisher = world.publisher("publisher");
    let mut follower = world.follower("reader", &publisher.feed());
    let (issuing, contacts) = world.issues(publisher, FIRST);
    passes(5).await;
    let number = follower.look().await.unwrap().number;
    let mut lengths = std::collections::BTreeSet::new();
    for hour in 0..72 {
        passes(HOUR).await;
        let issue = follower.look().await.unwrap();
        assert_eq!(issue.number, number, "it is no new one after {hour} hours");
        for (_, item) in world.kept() {
            lengths.insert(Item::from_carried(&item).unwrap().value().len());
        }
    }
    assert_eq!(lengths.len(), 1);
    let puts = world.net.puts();
    assert!((70..120).contains(&puts), "{puts} in three days");
    contacts.send_replace(None);
    passes(3 * HOUR).await;
    assert!(matches!(follower.look().await, Err(LookError::Nothing)));
    contacts.send_replace(Some(contact(2)));
    passes(10).await;
    assert_eq!(follower.look().await.unwrap().contact, Some(contact(2)));
    drop(issuing);
    passes(3 * HOUR).await;
    assert!(matches!(follower.look().await, Err(LookError::Nothing)));
}

#[tokio::test(start_paused = true)]
async fn who_lets_one_introduction_point_fall_sees_nothing_written_while_another_stands() {
    let world = World::new();
    let publisher = world.publisher("publisher");
    let feed = publisher.feed();
    far_from_a_change(&world, &feed, 3 * HOUR).await;
    let (mut issuing, contacts) = world.issues(publisher, FIRST);
    contacts.send_replace(Some(contact_at(&[1, 2, 3])));
    stands(&mut issuing).await;
    assert_eq!(world.net.puts(), 1);
    // One after the other falls, and is replaced, or all of them for a moment.
    for now in [
        Some(contact_at(&[2, 3])),
        Some(contact_at(&[2, 3, 4])),
        None,
        Some(contact_at(&[5, 3])),
        Some(contact_at(&[5, 6, 3])),
    ] {
        passes(8).await;
        contacts.send_replace(now);
    }
    passes(4).await;
    assert_eq!(world.net.puts(), 1, "it is written for one point's sake");
    // The regular one names those that stand.
    passes(20).await;
    assert_eq!(world.net.puts(), 2);
    let mut follower = world.follower("reader", &feed);
    let newest = follower.look().await.unwrap();
    assert_eq!(newest.contact, Some(contact_at(&[5, 6, 3])));
    // Readers could reach it nowhere: this does not wait.
    contacts.send_replace(Some(contact_at(&[7, 8])));
    passes(10).await;
    assert_eq!(world.net.puts(), 3);
    let newest = follower.look().await.unwrap();
    assert_eq!(newest.contact, Some(contact_at(&[7, 8])));
}

#[tokio::test(start_paused = true)]
async fn what_was_replaced_is_never_taken_again_by_who_saw_the_newer_one() {
    let world = World::new();
    let publisher = world.publisher("publisher");
    let feed = publisher.feed();
    let (mut first, _contacts) = world.issues(publisher, FIRST);
    stands(&mut first).await;
    let (target, old) = world.kept().remove(0);
    drop(first);
    let (mut second, _contacts) = world.issues(world.publisher("publisher"), SECOND);
    stands(&mut second).await;
    drop(second);
    let mut follower = world.follower("reader", &feed);
    assert_eq!(follower.look().await.unwrap().infohash, SECOND);
    world.shows(target, old.clone());
    assert!(matches!(follower.look().await, Err(LookError::Older)));
    // Nor after a restart.
    let mut again = world.follower("reader", &feed);
    assert!(matches!(again.look().await, Err(LookError::Older)));
    assert!(again.last_seen().is_some());
    // Who has seen neither can't know, but only on that day.
    assert_eq!(
        world
            .follower("other", &feed)
            .look()
            .await
            .unwrap()
            .infohash,
        FIRST
    );
    passes(27 * HOUR).await;
    let now = (world.clock)();
    let place = feed.place(&feed.period(now));
    let today = name(&feed.public.0, &place).unwrap().target().0;
    assert_ne!(today, target);
    for target in [target, today] {
        world.shows(target, old.clone());
        let look = world.follower("third", &feed).look().await;
        assert!(matches!(look, Err(LookError::Nothing)), "{look:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_others_put_in_its_place_is_passed_over_or_told() {
    let world = World::new();
    let signer = IdentityKey::from_seed([7; 32]);
    let feed = FeedKey::new(signer.public(), Key32::new([8; 32]));
    let now = (world.clock)();
    let place = feed.place(&feed.period(now));
    let target = name(&feed.public.0, &place).unwrap().target().0;
    let mut follower = world.follower("reader", &feed);
    let issue = Issue {
        number: now,
        infohash: FIRST,
        name: String::new(),
        contact: None,
    };
    let value = |place: &FeedPlace| {
        let mut value = Vec::new();
        crate::bencode::put_bytes(&mut value, place.seal(&issue, &mut rand::rng()));
        value
    };
    let sign = |signer: &IdentityKey, salt: &[u8], value: &[u8]| {
        Item::sign(signer, salt, 9, value).unwrap().to_carried()
    };
    let good = sign(&signer, place.salt(), &value(&place));
    // Somebody else's signature, a forged one, another salt, no salt at all.
    let other = IdentityKey::from_seed([9; 32]);
    let mut forged = good.clone();
    if let wire::Item::Mutable { signature, .. } = &mut forged {
        signature[3] ^= 1;
    }
    let tomorrow = feed.place(&feed.period(now + 86_400));
    for item in [
        sign(&other, place.salt(), &value(&place)),
        forged,
        sign(&signer, tomorrow.salt(), &value(&tomorrow)),
        sign(&signer, &[], &value(&place)),
    ] {
        world.shows(target, item);
        let look = follower.look().await;
        assert!(
            matches!(look, Err(LookError::Nothing | LookError::Network(_))),
            "{look:?}"
        );
    }
    // The publisher's own, which this link does not open: another secret's, one that is no byte string, too short, or of a later version.
    let secret = FeedKey::new(signer.public(), Key32::new([1; 32]));
    let foreign = value(&secret.place(&secret.period(now)));
    for value in [&foreign[..], b"i7e", b"0:", b"le"] {
        world.shows(target, sign(&signer, place.salt(), value));
        assert!(matches!(follower.look().await, Err(LookError::Unopened)));
    }
    assert!(follower.last_seen().is_none());
    world.shows(target, good);
    assert_eq!(follower.look().await.unwrap(), issue);
}

#[tokio::test(start_paused = true)]
async fn without_a_network_nothing_is_found_and_that_is_told_as_such() {
    let world = World::new();
    let feed = world.publisher("publisher").feed();
    world.net.0.lock().unwrap().fails = true;
    let look = world.follower("reader", &feed).look().await;
    assert!(matches!(look, Err(LookError::Network(_))), "{look:?}");
}

#[tokio::test(start_paused = true)]
async fn a_restart_or_an_old_backup_never_signs_a_number_again_or_goes_back() {
    let world = World::new();
    let feed = world.publisher("publisher").feed();
    let file = files(world.state("publisher").path()).remove(0);
    let backup = std::fs::read(&file).unwrap();
    let mut follower = world.follower("reader", &feed);
    let (mut seqs, mut numbers) = (Vec::new(), Vec::new());
    for (infohash, restore) in [
        (FIRST, false),
        (FIRST, false),
        (SECOND, false),
        (FIRST, true),
    ] {
        if restore {
            std::fs::write(&file, &backup).unwrap();
        }
        let (mut issuing, _contacts) = world.issues(world.publisher("publisher"), infohash);
        stands(&mut issuing).await;
        // The user is told that readers had seen a newer one.
        let instead = *issuing.status.borrow() == Issued::StandsInstead;
        assert_eq!(instead, restore);
        let issue = follower.look().await.unwrap();
        assert_eq!(issue.infohash, infohash);
        numbers.push(issue.number);
        let (_, item) = world.kept().remove(0);
        let wire::Item::Mutable { seq, .. } = item else {
            panic!("it is mutable");
        };
        seqs.push(seq);
    }
    assert!(seqs.is_sorted_by(|a, b| a < b), "{seqs:?}");
    assert_eq!(numbers[0], numbers[1], "nothing new was put out");
    assert!(numbers[1..].is_sorted_by(|a, b| a < b), "{numbers:?}");
}

#[tokio::test(start_paused = true)]
async fn what_nodes_have_forgotten_is_put_out_under_a_number_that_readers_take_after_an_old_backup()
{
    let world = World::new();
    let feed = world.publisher("publisher").feed();
    let file = files(world.state("publisher").path()).remove(0);
    let mut follower = world.follower("reader", &feed);
    let mut seen = Vec::new();
    let mut backup = Vec::new();
    for (infohash, restore) in [(FIRST, false), (SECOND, false), (FIRST, true)] {
        if restore {
            std::fs::write(&file, &backup).unwrap();
        }
        let (mut issuing, _contacts) = world.issues(world.publisher("publisher"), infohash);
        stands(&mut issuing).await;
        let issue = follower.look().await.unwrap();
        assert_eq!(issue.infohash, infohash);
        seen.push(issue.number);
        if backup.is_empty() {
            backup = std::fs::read(&file).unwrap();
        }
        drop(issuing);
        // Nobody can look up any more what was signed after the backup.
        passes(3 * HOUR).await;
    }
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    // For who has it, it stays one version, though its publisher was away and counts on.
    let (mut issuing, _contacts) = world.issues(world.publisher("publisher"), FIRST);
    stands(&mut issuing).await;
    let same = world.follower("reader", &feed).look().await.unwrap();
    assert_eq!(same.number, seen[2]);
    let other = world.follower("other", &feed).look().await.unwrap();
    assert!(other.number > seen[2]);
}

#[tokio::test(start_paused = true)]
async fn a_newer_one_that_stands_under_yesterdays_name_is_found_too() {
    let world = World::new();
    let feed = world.publisher("publisher").feed();
    let file = files(world.state("publisher").path()).remove(0);
    let backup = std::fs::read(&file).unwrap();
    let now = (world.clock)();
    passes((feed.period(now).left(now) / 60).saturating_sub(20)).await;
    let (mut first, _contacts) = world.issues(world.publisher("publisher"), FIRST);
    stands(&mut first).await;
    drop(first);
    passes(30).await;
    std::fs::write(&file, &backup).unwrap();
    let (mut second, _contacts) = world.issues(world.publisher("publisher"), SECOND);
    stands(&mut second).await;
    assert_eq!(*second.status.borrow(), Issued::StandsInstead);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_to_be_seen_at_the_first_attempt_is_told_all_the_same() {
    let world = World::new();
    let feed = world.publisher("publisher").feed();
    let file = files(world.state("publisher").path()).remove(0);
    let backup = std::fs::read(&file).unwrap();
    let (mut first, _contacts) = world.issues(world.publisher("publisher"), FIRST);
    stands(&mut first).await;
    far_from_a_change(&world, &feed, 30).await;
    drop(first);
    std::fs::write(&file, &backup).unwrap();
    // Nobody who is asked has it, and nobody stores anything.
    let hidden = {
        let mut state = world.net.0.lock().unwrap();
        state.full = true;
        std::mem::take(&mut state.items)
    };
    let before = world.net.puts();
    let (mut second, _contacts) = world.issues(world.publisher("publisher"), SECOND);
    while world.net.puts() == before {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    {
        let mut state = world.net.0.lock().unwrap();
        state.full = false;
        state.items = hidden;
    }
    stands(&mut second).await;
    assert_eq!(*second.status.borrow(), Issued::StandsInstead);
}

#[tokio::test(start_paused = true)]
async fn who_is_overtaken_by_a_copy_of_its_keys_stops() {
    let world = World::new();
    let feed = world.publisher("publisher").feed();
    let (one, two) = (world.state("publisher"), world.state("copy"));
    let file = files(one.path()).remove(0);
    let copy = two.path().join(file.file_name().unwrap());
    std::fs::copy(&file, &copy).unwrap();
    let (mut first, _contacts) = world.issues(world.publisher("publisher"), FIRST);
    stands(&mut first).await;
    passes(5).await;
    let (mut second, _more) = world.issues(world.publisher("copy"), SECOND);
    stands(&mut second).await;
    passes(3 * HOUR).await;
    assert_eq!(*first.status.borrow(), Issued::Overtaken);
    assert_eq!(*second.status.borrow(), Issued::StandsInstead);
    let newest = world.follower("reader", &feed).look().await.unwrap();
    assert_eq!(newest.infohash, SECOND);
}

#[tokio::test(start_paused = true)]
async fn two_copies_that_put_out_the_same_do_not_fall_behind_each_other() {
    let world = World::new();
    let feed = world.publisher("publisher").feed();
    let (one, two) = (world.state("publisher"), world.state("copy"));
    let file = files(one.path()).remove(0);
    std::fs::copy(&file, two.path().join(file.file_name().unwrap())).unwrap();
    let (mut first, _contacts) = world.issues(world.publisher("publisher"), FIRST);
    stands(&mut first).await;
    let (mut second, _more) = world.issues(world.publisher("copy"), FIRST);
    stands(&mut second).await;
    let mut follower = world.follower("reader", &feed);
    let number = follower.look().await.unwrap().number;
    for _ in 0..12 {
        passes(HOUR / 2).await;
        assert_eq!(follower.look().await.unwrap().number, number);
    }
    for issuing in [first, second] {
        assert_eq!(*issuing.status.borrow(), Issued::Stands);
    }
}

#[tokio::test(start_paused = true)]
async fn a_torrent_that_is_no_hidden_seeds_is_put_out_without_a_contact_and_renewed() {
    let world = World::new();
    let publisher = world.publisher("publisher");
    let mut follower = world.follower("reader", &publisher.feed());
    let (dht, clock) = (world.net.dht(), Arc::clone(&world.clock));
    let mut issuing = issue_at(dht, publisher, FIRST, String::new(), None, clock);
    stands(&mut issuing).await;
    for _ in 0..30 {
        let issue = follower.look().await.unwrap();
        assert_eq!((issue.infohash, issue.contact), (FIRST, None));
        passes(HOUR).await;
    }
    assert!((20..60).contains(&world.net.puts()), "{}", world.net.puts());
}

#[tokio::test(start_paused = true)]
async fn no_version_turns_public_after_a_hidden_one_unless_the_user_says_so() {
    let world = World::new();
    let publisher = world.publisher("publisher");
    let feed = publisher.feed();
    let public = |hash| {
        let (dht, clock) = (world.net.dht(), Arc::clone(&world.clock));
        let publisher = world.publisher("publisher");
        issue_at(dht, publisher, hash, String::new(), None, clock)
    };
    let (mut hidden, _contacts) = world.issues(publisher, FIRST);
    stands(&mut hidden).await;
    let mut follower = world.follower("reader", &feed);
    let one = follower.look().await.unwrap();
    drop(hidden);
    // The same torrent, then another one.
    for hash in [FIRST, SECOND] {
        let mut issuing = public(hash);
        stands(&mut issuing).await;
        // After a restart too.
        for mut follower in [follower, world.follower("reader", &feed)] {
            let look = follower.look().await;
            assert!(matches!(look, Err(LookError::Unhidden)), "{look:?}");
        }
        follower = world.follower("reader", &feed);
        drop(issuing);
    }
    // Who never saw a hidden one was not told that it would be.
    let other = world.follower("other", &feed).look().await.unwrap();
    assert_eq!((other.infohash, other.contact), (SECOND, None));
    // Among hidden peers alone it is taken, and nothing is forgotten by that.
    let mut still = follower.with_unhidden(Unhidden::StillHidden);
    let two = still.look().await.unwrap();
    assert!(two.number > one.number && two.infohash == SECOND);
    let look = world.follower("reader", &feed).look().await;
    assert!(matches!(look, Err(LookError::Unhidden)), "{look:?}");
    // Asked once, the user is not asked again, until it was hidden again.
    let follower = world.follower("reader", &feed);
    let mut taken = follower.with_unhidden(Unhidden::Taken);
    assert_eq!(taken.look().await.unwrap(), two);
    assert_eq!(world.follower("reader", &feed).look().await.unwrap(), two);
    let (mut hidden, _contacts) = world.issues(world.publisher("publisher"), FIRST);
    stands(&mut hidden).await;
    let mut follower = world.follower("reader", &feed);
    assert!(follower.look().await.unwrap().contact.is_some());
    drop(hidden);
    let mut issuing = public(SECOND);
    stands(&mut issuing).await;
    let look = follower.look().await;
    assert!(matches!(look, Err(LookError::Unhidden)), "{look:?}");
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_written_is_told_once_and_again_only_when_readers_lost_it() {
    let world = World::new();
    let fails = |fails| world.net.0.lock().unwrap().fails = fails;
    fails(true);
    let (mut issuing, _contacts) = world.issues(world.publisher("publisher"), FIRST);
    passes(HOUR).await;
    assert!(issuing.status.has_changed().unwrap());
    assert_eq!(*issuing.status.borrow_and_update(), Issued::Failing);
    fails(false);
    passes(HOUR).await;
    assert_eq!(*issuing.status.borrow_and_update(), Issued::Stands);
    // What stands is still read for a while.
    fails(true);
    passes(45).await;
    assert_eq!(*issuing.status.borrow(), Issued::Stands);
    passes(2 * HOUR).await;
    assert_eq!(*issuing.status.borrow(), Issued::Failing);
    fails(false);
    passes(HOUR).await;
    assert_eq!(*issuing.status.borrow(), Issued::Stands);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_put_out_before_the_seed_stands_somewhere() {
    let world = World::new();
    let (contacts, contact_of) = watch::channel(None);
    let publisher = world.publisher("publisher");
    let (dht, clock) = (world.net.dht(), Arc::clone(&world.clock));
    let mut issuing = issue_at(
        dht,
        publisher,
        FIRST,
        String::new(),
        Some(contact_of),
        clock,
    );
    passes(3 * HOUR).await;
    assert_eq!(world.net.puts(), 0);
    contacts.send_replace(Some(contact(1)));
    stands(&mut issuing).await;
}

#[tokio::test(start_paused = true)]
async fn feeds_of_others_are_read_in_the_clear_and_never_go_back() {
    let world = World::new();
    let signer = IdentityKey::from_seed([7; 32]);
    let feed = Feed::Plain {
        key: signer.public().0,
        salt: b"n".to_vec(),
    };
    let mut follower = world.follower_of("reader", feed, world.net.dht());
    let item = |seq, value: &[u8]| Item::sign(&signer, b"n", seq, value).unwrap();
    let put = |item: Item| {
        world.shows(item.target().0, item.to_carried());
    };
    let ih = |hash: &[u8]| [b"d2:ih20:", hash, b"e"].concat();
    put(item(1, &ih(&FIRST)));
    let one = follower.look().await.unwrap();
    assert_eq!((one.infohash, one.number, one.contact), (FIRST, 1, None));
    put(item(2, &ih(&SECOND)));
    assert_eq!(follower.look().await.unwrap().infohash, SECOND);
    put(item(1, &ih(&FIRST)));
    assert!(matches!(follower.look().await, Err(LookError::Older)));
    put(item(2, &ih(&FIRST)));
    let look = follower.look().await;
    assert!(matches!(look, Err(LookError::Twice)), "{look:?}");
    // The same under a higher number is no other version.
    put(item(3, &ih(&SECOND)));
    assert_eq!(follower.look().await.unwrap().number, 2);
    put(item(2, &ih(&SECOND)));
    assert!(matches!(follower.look().await, Err(LookError::Older)));
    for junk in [&b"de"[..], b"d2:ih3:abce", b"d2:ihi7ee", b"le"] {
        put(item(4, junk));
        assert!(matches!(follower.look().await, Err(LookError::Unopened)));
    }
}

#[test]
fn damaged_files_are_told_and_left_as_they_are() {
    let world = World {
        net: Net::default(),
        clock: Arc::new(|| 7),
        dir: tempfile::tempdir().unwrap(),
    };
    let keep = || Publisher::keep(&world.state("publisher"), "news", &mut rand::rng());
    let mut publisher = keep().unwrap();
    assert_eq!(publisher.number(&FIRST, 100), Some(100));
    assert_eq!(publisher.next_seq(None, 100), Some(100));
    publisher.writing().write().unwrap();
    let file = files(world.state("publisher").path()).remove(0);
    let good = std::fs::read_to_string(&file).unwrap();
    let mut read = keep().unwrap();
    assert!(read.feed() == publisher.feed());
    assert_eq!(read.number(&FIRST, 500), Some(100));
    assert_eq!(read.number(&SECOND, 50), Some(101));
    // Though the clock was put back, and nodes forgot or keep more than was signed here.
    assert_eq!(read.next_seq(None, 5), Some(101));
    assert_eq!(read.next_seq(Some(400), 5), Some(401));
    assert_eq!(read.next_seq(Some(7), 5), Some(402));
    assert_eq!(read.next_seq(Some(i64::MAX), 5), None);
    for bad in [
        String::new(),
        good.replace("v1", "v2"),
        good.replace("secret", "sacred"),
        good[..good.len() - 2].to_owned(),
        format!("{good}more\n"),
        good.lines().take(5).collect::<Vec<_>>().join("\n"),
        good.replace("seq 0", "seq f"),
    ] {
        std::fs::write(&file, &bad).unwrap();
        let error = keep().unwrap_err();
        assert!(error.hint().unwrap().contains("backup"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), bad);
    }
    std::fs::write(&file, &good).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(keep().is_err(), "others may have read it");
    for name in ["", &"n".repeat(256)] {
        assert!(Publisher::keep(&world.state("publisher"), name, &mut rand::rng()).is_err());
    }
    assert_eq!(format!("{publisher:?}"), "[feed's keys]");
}
