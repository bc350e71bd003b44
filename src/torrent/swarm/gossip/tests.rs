#![allow(clippy::unwrap_used)]
use super::*;
use hushswarm_circuits::keys::RelayId;
use hushswarm_circuits::rendezvous::{IntroductionId, Point};
use rand::SeedableRng;
use rand::rngs::StdRng;

fn onion(n: u32) -> OnionPeer {
    let mut key = [9; 32];
    key[..4].copy_from_slice(&n.to_be_bytes());
    OnionPeer::new(crate::onion::OnionKey(key), 6881).unwrap()
}

struct Test {
    gossip: Gossip,
    now: Instant,
    rng: StdRng,
}

impl Test {
    fn new() -> Self {
        Self {
            gossip: Gossip::default(),
            now: Instant::now(),
            rng: StdRng::seed_from_u64(1),
        }
    }

    fn open(&mut self, key: u32, dialled: Option<OnionPeer>) {
        let dialled = dialled.map(|onion| Origin::Dialled(Concealed::Onion(onion)));
        self.open_as(key, dialled.unwrap_or(Origin::ToOnion));
    }

    fn open_as(&mut self, key: u32, origin: Origin) {
        self.gossip
            .opened(self.now, PeerKey(key), origin, &mut self.rng);
    }

    fn prove(&mut self, onion: OnionPeer) {
        self.gossip.prove(self.now, Concealed::Onion(onion));
    }

    /// What is sent in the next `seconds`.
    fn sent(&mut self, seconds: u64) -> Vec<(u32, Onions)> {
        let mut out = Vec::new();
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            while let Some((key, onions)) = self.gossip.next(self.now, &mut self.rng) {
                out.push((key.0, onions));
            }
        }
        out
    }

    fn hear(&mut self, key: u32, me: Option<u32>, added: &[u32]) -> Vec<OnionPeer> {
        let onions = Onions {
            me: me.map(onion),
            added: added.iter().copied().map(onion).collect(),
            ..Onions::default()
        };
        let words = self.gossip.heard(PeerKey(key), onions).unwrap();
        let onions = words.into_iter().map(|word| match word {
            Word::Onion(onion) => onion,
            Word::Seed(_) | Word::Own(_) => panic!("no seed was told of"),
        });
        onions.collect()
    }
}

#[test]
fn who_was_dialled_is_named_to_the_others_once_and_within_two_minutes() {
    let mut test = Test::new();
    test.open(1, Some(onion(1)));
    test.open(2, None);
    let sent = test.sent(91);
    let expected = Onions {
        added: vec![onion(1)],
        ..Onions::default()
    };
    assert_eq!(
        sent,
        [(2, expected)],
        "the one that was dialled knows itself"
    );
    assert_eq!(test.sent(600), []);
}

#[test]
fn what_somebody_merely_tells_of_goes_no_further() {
    let mut test = Test::new();
    test.open(1, None);
    test.open(2, None);
    let worth_a_call = test.hear(1, Some(7), &[8, 9]);
    assert_eq!(worth_a_call, [onion(7), onion(8), onion(9)]);
    assert_eq!(test.sent(600), []);
    // Only what answers a call.
    test.prove(onion(7));
    let sent = test.sent(91);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].0, &sent[0].1.added[..]), (2, &[onion(7)][..]));
    assert_eq!(
        test.sent(600),
        [],
        "nobody is told of itself, nor what it told"
    );
}

#[test]
fn our_own_address_is_told_to_those_we_dialled_and_never_called() {
    let mut test = Test::new();
    test.open(1, Some(onion(1)));
    test.open(2, None);
    assert_eq!(test.sent(91).len(), 1);
    // A further service of ours is not told, and not called when others tell of it.
    test.gossip.set_own(vec![onion(5), onion(8)], None);
    let sent = test.sent(60);
    let expected = Onions {
        me: Some(onion(5)),
        ..Onions::default()
    };
    assert_eq!(sent, [(1, expected)]);
    assert_eq!(test.hear(1, None, &[5, 6, 8]), [onion(6)]);
    assert_eq!(test.hear(2, Some(5), &[]), []);
    for n in [5, 8] {
        assert!(test.gossip.is_own(Name::Onion(onion(n).key())));
    }
    assert_eq!(test.sent(600), []);
}

#[test]
fn one_peer_hears_of_news_once_a_minute_and_of_a_bounded_number_in_all() {
    let mut test = Test::new();
    test.open(0, None);
    let start = test.now;
    let mut times = Vec::new();
    let mut told = Vec::new();
    for n in 1..=400 {
        test.prove(onion(n));
        for (_, onions) in test.sent(2) {
            times.push((test.now - start).as_secs());
            assert!(onions.added.len() <= MAX_ADDED);
            told.extend(onions.added);
        }
    }
    assert!(
        times.windows(2).all(|pair| pair[1] - pair[0] >= 59),
        "{times:?}"
    );
    assert!(!told.is_sorted(), "in no order");
    assert_eq!(told.len(), MAX_TOLD);
    assert_eq!(told.iter().collect::<BTreeSet<_>>().len(), MAX_TOLD);
}

#[test]
fn one_service_is_told_and_heard_of_once_whatever_its_ports() {
    let at = |n: u32, port| OnionPeer::new(onion(n).key(), port).unwrap();
    let mut test = Test::new();
    test.open(1, None);
    test.gossip.set_own(vec![onion(7)], None);
    for port in 1..=MAX_TOLD as u16 {
        let onions = Onions {
            added: vec![at(7, port), at(8, port), at(9, port)],
            ..Onions::default()
        };
        let heard = test.gossip.heard(PeerKey(1), onions).unwrap();
        assert_eq!(heard.len(), if port == 1 { 2 } else { 0 });
    }
    // Proven under many ports, it is named once.
    test.open(2, None);
    for port in 1..=2 * MAX_PROVEN as u16 {
        test.prove(at(5, port));
    }
    assert_eq!(test.gossip.proven(), 1);
    let sent = test.sent(600);
    assert!(sent.iter().all(|(_, onions)| onions.added.len() == 1));
    assert_eq!(sent.len(), 2);
    test.prove(at(5, 6882));
    assert_eq!(test.sent(600), []);
}

#[test]
fn one_peer_can_not_fill_the_table_nor_change_its_name() {
    let mut test = Test::new();
    test.open(1, None);
    let many: Vec<u32> = (0..500).collect();
    let mut worth_a_call = 0;
    for part in many.chunks(MAX_ADDED) {
        worth_a_call += test.hear(1, Some(1000), part).len();
        assert_eq!(test.hear(1, Some(1000), part), [], "known");
    }
    assert_eq!(worth_a_call, MAX_TOLD + 1);
    let other = Onions {
        me: Some(onion(1001)),
        ..Onions::default()
    };
    let error = test.gossip.heard(PeerKey(1), other).unwrap_err();
    assert!(error.is_fault());
}

#[test]
fn whoever_comes_again_and_again_does_not_see_when_each_peer_came() {
    let mut test = Test::new();
    let mut seen = BTreeSet::new();
    let mut changes = Vec::new();
    let start = test.now;
    // Every ten seconds a peer comes, and somebody who looks and is told of all: there are no more than a message holds.
    for n in 0..MAX_ADDED as u32 {
        test.open(2 * n, Some(onion(n)));
        test.open(2 * n + 1, None);
        let before = seen.len();
        for (key, onions) in test.sent(10) {
            if key == 2 * n + 1 {
                seen.extend(onions.added);
            }
        }
        if seen.len() > before {
            changes.push((test.now - start).as_secs());
        }
        test.gossip.closed(test.now, PeerKey(2 * n + 1));
        test.gossip.closed(test.now, PeerKey(2 * n));
    }
    assert!(seen.len() > 35, "{}", seen.len());
    assert!((5..=8).contains(&changes.len()), "{changes:?}");
    let gaps: BTreeSet<u64> = changes.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() > 1, "at random: {gaps:?}");
}

#[test]
fn of_two_connections_between_a_pair_both_see_the_same_one_as_too_many() {
    for (ours, theirs, closed) in [(1, 2, vec![PeerKey(2)]), (2, 1, vec![])] {
        let mut test = Test::new();
        test.gossip.set_own(vec![onion(ours)], None);
        test.open(1, Some(onion(theirs)));
        test.open(2, None);
        test.open(3, None);
        test.hear(3, Some(7), &[]);
        assert_eq!(test.gossip.doubles(), []);
        test.hear(2, Some(theirs), &[]);
        assert_eq!(test.gossip.doubles(), closed);
        test.gossip.closed(test.now, PeerKey(1));
        assert_eq!(test.gossip.doubles(), [], "nobody loses the only one");
    }
}

#[test]
fn who_says_to_be_somebody_does_not_keep_him_named() {
    let mut test = Test::new();
    test.open(1, Some(onion(1)));
    test.open(2, None);
    test.hear(2, Some(1), &[]);
    test.gossip.closed(test.now, PeerKey(1));
    test.sent(61 * 60);
    assert_eq!(test.gossip.proven(), 0);
}

#[test]
fn who_went_is_named_for_a_while() {
    let mut test = Test::new();
    test.open(1, Some(onion(1)));
    assert_eq!(test.sent(3 * 3600), []);
    assert!(test.gossip.proven() == 1, "still connected");
    test.gossip.closed(test.now, PeerKey(1));
    test.sent(59 * 60);
    test.open(2, None);
    assert_eq!(test.sent(5).len(), 1);
    test.sent(4 * 60);
    test.open(3, None);
    assert_eq!(test.sent(60), []);
    assert_eq!(test.gossip.proven(), 0);
}

/// The seed `n` at these introduction points.
fn contact(n: u8, points: std::ops::Range<u8>) -> Contact {
    let points = points.map(|n| Point {
        relay: RelayId([n; 32]),
        introduction: IntroductionId([n; 32]),
    });
    Contact::new([n; 32], points.collect()).unwrap()
}

fn dialled(n: u8) -> Origin {
    Origin::Dialled(Concealed::Seed(SeedKey([n; 32])))
}

impl Test {
    fn hear_seeds(&mut self, key: u32, seed: Option<Contact>, seeds: &[Contact]) -> Vec<Word> {
        let seeds = seeds.to_vec();
        let onions = Onions {
            seed,
            seeds,
            ..Onions::default()
        };
        self.gossip.heard(PeerKey(key), onions).unwrap()
    }
}

#[test]
fn a_hidden_seed_is_named_with_the_points_that_it_says_itself_and_no_others() {
    let mut test = Test::new();
    test.open_as(1, dialled(1));
    test.open_as(2, Origin::ToSeed);
    test.open_as(3, Origin::ToOnion);
    // Others say something of it, and it says nothing: it is not named.
    let wrong = contact(1, 50..58);
    let heard = test.hear_seeds(2, None, std::slice::from_ref(&wrong));
    assert_eq!(heard, [], "it is connected, and knows better");
    assert_eq!(test.sent(200), []);
    let right = contact(1, 1..4);
    assert_eq!(
        test.hear_seeds(1, Some(right.clone()), &[]),
        [Word::Own(right.clone())]
    );
    let told = |key| {
        let seeds = vec![right.clone()];
        let message = Onions {
            seeds,
            ..Onions::default()
        };
        (key, message)
    };
    assert_eq!(test.sent(91), [told(3)], "the other one told of it");
    // Its points change: who comes later hears of the new ones.
    let moved = contact(1, 4..6);
    test.hear_seeds(1, Some(moved.clone()), &[]);
    test.sent(91);
    test.open_as(4, Origin::ToSeed);
    assert_eq!(test.sent(91)[0].1.seeds, [moved]);
}

#[test]
fn a_seed_that_says_to_be_another_than_it_proved_is_closed_and_believed_nothing() {
    let mut test = Test::new();
    test.open_as(1, dialled(1));
    test.open_as(2, dialled(2));
    test.open_as(3, Origin::ToSeed);
    test.hear_seeds(2, Some(contact(2, 1..3)), &[]);
    let onions = Onions {
        seed: Some(contact(2, 50..53)),
        ..Onions::default()
    };
    let error = test.gossip.heard(PeerKey(1), onions.clone()).unwrap_err();
    assert!(error.is_fault());
    // Whom we did not dial proves nothing by saying it, nor does an onion service.
    test.open_as(4, Origin::ToOnion);
    test.open(5, Some(onion(5)));
    for key in [3, 4, 5] {
        assert_eq!(test.gossip.heard(PeerKey(key), onions.clone()), Ok(vec![]));
    }
    let changed = test.gossip.heard(
        PeerKey(3),
        Onions {
            seed: Some(contact(9, 1..3)),
            ..Onions::default()
        },
    );
    assert!(changed.unwrap_err().is_fault(), "it has one name");
    test.open_as(6, Origin::ToSeed);
    let sent = test.sent(91);
    let to_last = sent.iter().find(|(key, _)| *key == 6).unwrap();
    assert_eq!(to_last.1.seeds, [contact(2, 1..3)]);
}

#[test]
fn our_own_seed_is_told_where_it_is_met_and_never_where_our_onion_service_is_known() {
    let mut test = Test::new();
    test.open_as(1, dialled(1));
    test.open_as(2, Origin::ToSeed);
    test.open_as(3, Origin::ToOnion);
    test.open(4, Some(onion(4)));
    let own = contact(7, 1..3);
    test.gossip.set_own(vec![onion(5)], Some(own.clone()));
    let mut sent = test.sent(5);
    sent.sort_by_key(|(key, _)| *key);
    let seed = |contact: &Contact| Onions {
        seed: Some(contact.clone()),
        ..Onions::default()
    };
    let me = Onions {
        me: Some(onion(5)),
        ..Onions::default()
    };
    assert_eq!(sent, [(1, seed(&own)), (2, seed(&own)), (4, me)]);
    // Its points change, and then it is introduced nowhere: it is still ours, and not called.
    let moved = contact(7, 2..5);
    test.gossip.set_own(vec![onion(5)], Some(moved.clone()));
    let mut sent = test.sent(60);
    sent.retain(|(_, message)| message.seed.is_some());
    sent.sort_by_key(|(key, _)| *key);
    assert_eq!(sent, [(1, seed(&moved)), (2, seed(&moved))]);
    test.gossip.set_own(vec![onion(5)], None);
    assert_eq!(test.hear_seeds(1, None, &[contact(7, 1..3)]), []);
    assert!(test.gossip.is_own(Name::Seed(SeedKey([7; 32]))));
    assert!(test.sent(300).iter().all(|(_, m)| m.seed.is_none()));
}

#[test]
fn one_message_holds_no_more_of_seeds_than_its_reader_takes() {
    let mut test = Test::new();
    for n in 1..=20 {
        test.open_as(u32::from(n), dialled(n));
        let points = if n % 2 == 0 { 1..9 } else { 1..4 };
        test.hear_seeds(u32::from(n), Some(contact(n, points)), &[]);
        test.gossip.closed(test.now, PeerKey(u32::from(n)));
    }
    test.open_as(100, Origin::ToSeed);
    let sent = test.sent(10 * 60);
    for (_, message) in &sent {
        assert_eq!(Onions::parse(&message.encode()).as_ref(), Ok(message));
    }
    let told = sent.iter().flat_map(|(_, message)| &message.seeds);
    let told: BTreeSet<[u8; 32]> = told.map(|seed| seed.key).collect();
    assert_eq!(told.len(), 20, "all, one after another");
}

#[test]
fn of_two_meetings_between_a_pair_of_seeds_both_see_the_same_one_as_too_many() {
    for (ours, theirs, closed) in [(1, 2, vec![PeerKey(2)]), (2, 1, vec![])] {
        let mut test = Test::new();
        // An onion service's key says nothing here.
        test.gossip
            .set_own(vec![onion(0)], Some(contact(ours, 1..3)));
        test.open_as(1, dialled(theirs));
        test.open_as(2, Origin::ToSeed);
        test.open_as(3, Origin::ToSeed);
        test.hear_seeds(3, Some(contact(9, 1..3)), &[]);
        assert_eq!(test.gossip.doubles(), []);
        test.hear_seeds(2, Some(contact(theirs, 1..3)), &[]);
        assert_eq!(test.gossip.doubles(), [], "it must hear of us first");
        test.sent(5);
        assert_eq!(test.gossip.doubles(), closed);
    }
}
