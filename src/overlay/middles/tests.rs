#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};

use hushswarm_circuits::keys::{IdentityKey, RelayId, Suite};
use hushswarm_circuits::path::GuardSample;
use hushswarm_circuits::relay_list::{Draft, ExitPolicy, RelayInfo, Roles, Trust};
use proptest::prelude::*;

use super::*;
use crate::config::unix_now;
use crate::overlay::guards::GuardFile;

const MAX_LEN: usize = 8192;
const NAME: &str = "middles-net.toml";

fn sample(count: u8) -> MiddleSample {
    MiddleSample::from_middles((0..count).map(|n| Middle {
        id: RelayId([n; 32]),
        until: 1_800_000_000 + u64::from(n),
        unlisted_since: (n % 2 == 0).then_some(1_700_000_000),
    }))
}

fn state() -> (tempfile::TempDir, StateDir) {
    let temp = tempfile::tempdir().unwrap();
    let dir = StateDir::open(temp.path().join("state")).unwrap();
    (temp, dir)
}

fn reopened(temp: &tempfile::TempDir) -> StateDir {
    StateDir::open(temp.path().join("state")).unwrap()
}

/// A list of relays from now on, for this many seconds.
fn list(count: u8, life: u64) -> Arc<RelayList> {
    let now = unix_now();
    let relays = (1..=count).map(|n| {
        let key = IdentityKey::from_seed([n; 32]);
        let info = RelayInfo {
            identity: key.public(),
            onion: [1; 32],
            link: [2; 32],
            suite: Suite::Aes256Gcm,
            roles: Roles {
                guard: true,
                exit: false,
                list: false,
                dht: false,
                introduce: true,
            },
            bandwidth: 1000,
            nickname: format!("relay-{n}"),
            family: String::new(),
            addresses: vec![([11, n, 0, 1], 4443).into()],
            link_service: None,
            policy: ExitPolicy::reject_all(),
            published: now - 60,
            expires: now + 86_400,
        };
        info.sign(&key).unwrap()
    });
    let authority = IdentityKey::from_seed([0xaa; 32]);
    let mut draft = Draft::new("net", now - 60, now + life, relays.collect()).unwrap();
    draft.sign(&authority);
    let trust = Trust {
        network: "net".to_owned(),
        authorities: vec![authority.public()],
        threshold: 1,
    };
    let bytes = draft.encode().unwrap();
    Arc::new(RelayList::decode_verified(&bytes, &trust, now).unwrap())
}

fn drawing(list: &Arc<RelayList>) -> Drawing {
    Drawing {
        list: Arc::clone(list),
        guards: Vec::new(),
        rules: PathRules::default(),
        now: unix_now(),
    }
}

fn store_in(temp: &tempfile::TempDir) -> Arc<dyn GuardStore> {
    Arc::new(GuardFile::open(reopened(temp), "net").unwrap().1)
}

#[test]
fn middles_come_back_in_order_and_per_network() {
    let (_temp, dir) = state();
    assert_eq!(load(&dir, "one").unwrap(), MiddleSample::default());
    let longest = "n".repeat(64);
    for (network, sample) in [
        ("one", sample(4)),
        (&longest, sample(3)),
        ("none", sample(0)),
    ] {
        store(&dir, network, &sample).unwrap();
        assert_eq!(load(&dir, network).unwrap(), sample);
    }
    assert_eq!(load(&dir, "one").unwrap(), sample(4));
}

proptest! {
    /// TOML has no numbers beyond those of an i64.
    #[test]
    fn any_sample_comes_back_and_any_bytes_are_read_or_refused(
        middles in prop::collection::vec((any::<[u8; 32]>(), any::<u32>(), any::<Option<u32>>()), 0..6),
        place: prop::sample::Index, byte: u8,
    ) {
        let sample = MiddleSample::from_middles(middles.iter().map(|(id, until, since)| Middle {
            id: RelayId(*id),
            until: (*until).into(),
            unlisted_since: since.map(u64::from),
        }));
        let mut text = encode(&sample).unwrap().into_bytes();
        let parsed = parse(&text);
        prop_assert_eq!(parsed.as_ref(), Some(&sample));
        if !text.is_empty() {
            let at = place.index(text.len());
            text[at] = byte;
        }
        prop_assert!(parse(&text).is_none_or(|read| read.middles().len() <= MIDDLES));
    }
}

#[test]
fn a_damaged_file_is_an_error_that_is_told_at_once_and_stays() {
    let (temp, dir) = state();
    store(&dir, "net", &sample(2)).unwrap();
    let good = dir.read(NAME, MAX_LEN).unwrap().unwrap();
    let good = String::from_utf8(good).unwrap();
    let five = (0..5).map(|n| good.replace("01010101", &format!("0{n}010101")));
    let bad = [
        "nonsense",
        "[[middle]]",
        "\u{0}",
        &good[..good.len() / 2],
        &format!("{good}{good}"),
        &five.collect::<String>(),
        &good.replace("01010101", "zzzzzzzz"),
        &good.replace("until", "ends"),
        &good.replace("until = 1800000001", "until = -1"),
    ];
    for text in bad {
        dir.write_secret(NAME, text.as_bytes()).unwrap();
        let error = load(&dir, "net").unwrap_err();
        assert!(error.hint().unwrap().contains("mv "), "{text}");
        assert!(GuardFile::open(reopened(&temp), "net").is_err(), "{text}");
        let never = |_: &mut MiddleSample| panic!("nothing is drawn");
        assert!(update(&dir, "net", never).is_err());
        assert_eq!(dir.read(NAME, MAX_LEN).unwrap().unwrap(), text.as_bytes());
    }
}

#[test]
fn two_that_draw_at_once_have_the_same_middles() {
    let (temp, _dir) = state();
    let drawers = AtomicUsize::new(0);
    let drawn: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=4u8)
            .map(|n| {
                let (dir, drawers) = (reopened(&temp), &drawers);
                scope.spawn(move || {
                    let draw = |held: &mut MiddleSample| {
                        if held.middles().is_empty() {
                            drawers.fetch_add(1, Ordering::Relaxed);
                            *held = sample(n);
                        }
                    };
                    update(&dir, "net", draw).unwrap()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(drawers.into_inner(), 1);
    assert!(drawn.iter().all(|one| *one == drawn[0]));
}

#[tokio::test]
async fn another_process_and_the_next_run_use_the_same_ones() {
    let (temp, _dir) = state();
    let list = list(40, 3600);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (middles, store) = (Middles::default(), store_in(&temp));
        let first = middles.usable(drawing(&list), Some(&store)).await.unwrap();
        let again = middles.usable(drawing(&list), Some(&store)).await.unwrap();
        seen.extend([first, again]);
    }
    assert_eq!(seen[0].len(), MIDDLES);
    assert!(seen.iter().all(|one| *one == seen[0]));
    // Without a store each run has its own, which stay in it.
    let middles = Middles::default();
    let first = middles.usable(drawing(&list), None).await.unwrap();
    let again = middles.usable(drawing(&list), None).await.unwrap();
    assert!(first == again && first != seen[0]);
}

#[tokio::test]
async fn an_end_that_another_process_has_seen_brings_no_second_draw() {
    let (temp, dir) = state();
    let (list, store) = (list(40, 3600), store_in(&temp));
    let middles = Middles::default();
    let first = middles.usable(drawing(&list), Some(&store)).await.unwrap();
    // Ours ends now; another process has put its own draw in its place.
    let mut held = middles.0.lock().await;
    let mut known = held.sample.middles().to_vec();
    known[0].until = 1;
    held.sample = MiddleSample::from_middles(known);
    drop(held);
    let other = list.relays().iter().map(|relay| relay.identity);
    let other = other.into_iter().find(|id| !first.contains(id)).unwrap();
    update(&dir, "net", |stored| {
        let mut stored_ones = stored.middles().to_vec();
        stored_ones[0].id = other;
        *stored = MiddleSample::from_middles(stored_ones);
    })
    .unwrap();
    let now = middles.usable(drawing(&list), Some(&store)).await.unwrap();
    assert_eq!(now, [&[other], &first[1..]].concat());
}

#[tokio::test]
async fn a_list_whose_time_is_over_moves_no_middle() {
    let (list, far) = (list(10, 3600), Middles::default());
    let first = far.usable(drawing(&list), None).await.unwrap();
    for now in [0, unix_now() + 7200] {
        let late = Drawing {
            now,
            ..drawing(&list)
        };
        assert_eq!(far.usable(late, None).await.unwrap(), first);
    }
    let none = Drawing {
        now: 0,
        ..drawing(&list)
    };
    let fresh = Middles::default();
    assert!(fresh.usable(none, None).await.unwrap().is_empty());
}

struct Broken;

impl GuardStore for Broken {
    fn save(&self, _: &GuardSample) {}

    fn middles(&self, _: &mut dyn FnMut(&mut MiddleSample)) -> Result<MiddleSample, Error> {
        Err(Error::local("the disk is full"))
    }
}

#[tokio::test]
async fn where_they_cannot_be_kept_none_is_drawn_and_those_that_are_left_serve() {
    let (list, broken) = (list(10, 3600), Arc::new(Broken) as Arc<dyn GuardStore>);
    let middles = Middles::default();
    let none = middles.usable(drawing(&list), Some(&broken)).await;
    assert!(none.is_err());
    let first = middles.usable(drawing(&list), None).await.unwrap();
    let mut held = middles.0.lock().await;
    let mut known = held.sample.middles().to_vec();
    known[0].until = 1;
    held.sample = MiddleSample::from_middles(known);
    drop(held);
    let left = middles.usable(drawing(&list), Some(&broken)).await.unwrap();
    assert_eq!(left, first[1..]);
}
