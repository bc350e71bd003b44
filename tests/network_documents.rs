//! Making, signing, trusting and refusing a network's documents (PROTOCOL.md §7), through the commands that people use
//! and through the library.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use hushswarm::cli::network::{NetworkArgs, RelayInitArgs, relay_init, run};
use hushswarm::config::{NetworkFile, id_from_hex, unix_now};
use hushswarm::error::{Error, Exit};
use hushswarm_circuits::keys::{IdentityKey, RelayId, Suite};
use hushswarm_circuits::relay_list::{
    Descriptor, Draft, ExitPolicy, ListError, MAX_LIST_LEN, MAX_RELAYS, RelayInfo, RelayList,
    Roles, Trust,
};
use tempfile::TempDir;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

// The library: every refusal of §7.2.

fn key(number: u8) -> IdentityKey {
    IdentityKey::from_seed([number; 32])
}

fn descriptor(number: u8, expires: u64) -> Descriptor {
    let info = RelayInfo {
        identity: key(number).public(),
        onion: [number; 32],
        link: [number; 32],
        suite: Suite::ChaCha20Poly1305,
        roles: Roles {
            guard: true,
            exit: true,
            list: true,
            dht: true,
            introduce: true,
        },
        bandwidth: 1000,
        nickname: format!("relay-{number}"),
        family: String::new(),
        addresses: vec![format!("11.{number}.0.1:4443").parse().unwrap()],
        link_service: None,
        policy: ExitPolicy::reject_all(),
        published: NOW - DAY,
        expires,
    };
    info.sign(&key(number)).unwrap()
}

fn draft() -> Draft {
    let relays = (1..=3)
        .map(|number| descriptor(number, NOW + 100 * DAY))
        .collect();
    Draft::new("test", NOW, NOW + 10 * DAY, relays).unwrap()
}

fn signed_by(numbers: &[u8]) -> Vec<u8> {
    let mut draft = draft();
    numbers.iter().for_each(|&number| draft.sign(&key(number)));
    draft.encode().unwrap()
}

fn trust(authorities: &[u8], threshold: usize) -> Trust {
    let authorities = authorities
        .iter()
        .map(|&number| key(number).public())
        .collect();
    Trust {
        network: "test".to_owned(),
        authorities,
        threshold,
    }
}

fn verdict(bytes: &[u8], trust: &Trust, now: u64) -> Result<usize, ListError> {
    RelayList::decode_verified(bytes, trust, now).map(|list| list.relays().len())
}

#[test]
fn a_list_is_good_from_its_first_second_to_its_last() {
    let (bytes, trust) = (signed_by(&[100]), trust(&[100], 1));
    let end = NOW + 10 * DAY;
    assert_eq!(
        verdict(&bytes, &trust, NOW - 1),
        Err(ListError::NotYetValid { from: NOW })
    );
    assert_eq!(verdict(&bytes, &trust, NOW), Ok(3));
    assert_eq!(verdict(&bytes, &trust, end - 1), Ok(3));
    assert_eq!(
        verdict(&bytes, &trust, end),
        Err(ListError::Expired { since: end })
    );
    assert_eq!(
        verdict(&bytes, &trust, u64::MAX),
        Err(ListError::Expired { since: end })
    );
    let list = RelayList::decode_verified(&bytes, &trust, NOW).unwrap();
    assert!(list.is_valid(end - 1) && !list.is_valid(end) && !list.is_valid(NOW - 1));
    assert_eq!(&list.bytes()[..], bytes);
}

#[test]
fn a_list_for_another_network_is_refused() {
    let other = Trust {
        network: "test2".to_owned(),
        ..trust(&[100], 1)
    };
    assert_eq!(
        verdict(&signed_by(&[100]), &other, NOW),
        Err(ListError::WrongNetwork)
    );
}

#[test]
fn a_list_needs_the_threshold_of_different_known_authorities() {
    let trust = |threshold| trust(&[100, 101, 102], threshold);
    let under = |have, need| Err(ListError::UnderSigned { have, need });
    assert_eq!(verdict(&signed_by(&[100]), &trust(2), NOW), under(1, 2));
    assert_eq!(
        verdict(&signed_by(&[100, 200, 201]), &trust(2), NOW),
        under(1, 2)
    );
    assert_eq!(
        verdict(&signed_by(&[200, 201]), &trust(2), NOW),
        under(0, 2)
    );
    assert_eq!(verdict(&signed_by(&[100, 102]), &trust(2), NOW), Ok(3));
    assert_eq!(
        verdict(&signed_by(&[100, 101, 102, 200]), &trust(3), NOW),
        Ok(3)
    );
    assert_eq!(
        verdict(&signed_by(&[200]), &trust(0), NOW),
        under(0, 1),
        "never unsigned"
    );
}

#[test]
fn one_authority_named_twice_is_one() {
    let twice = trust(&[100, 100], 2);
    let under = ListError::UnderSigned { have: 1, need: 2 };
    assert_eq!(verdict(&signed_by(&[100]), &twice, NOW), Err(under));
}

#[test]
fn a_wrong_signature_of_a_known_authority_makes_the_list_forged() {
    let mut bytes = signed_by(&[100, 101]);
    *bytes.last_mut().unwrap() ^= 1;
    let last = [100, 101]
        .into_iter()
        .max_by_key(|&number| key(number).public())
        .unwrap();
    let first = 201 - last;
    assert_eq!(
        verdict(&bytes, &trust(&[100, 101], 1), NOW),
        Err(ListError::Forged)
    );
    assert_eq!(
        verdict(&bytes, &trust(&[last], 1), NOW),
        Err(ListError::Forged)
    );
    // Nobody asked the unknown one.
    assert_eq!(verdict(&bytes, &trust(&[first], 1), NOW), Ok(3));
    assert_eq!(
        Draft::decode(&bytes),
        Err(ListError::Forged),
        "but nobody signs on top of it"
    );
}

#[test]
fn a_list_is_refused_at_every_shorter_length_and_with_a_byte_more() {
    let (bytes, trust) = (signed_by(&[100, 101]), trust(&[100], 1));
    for len in 0..bytes.len() {
        assert!(verdict(&bytes[..len], &trust, NOW).is_err(), "{len} bytes");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(
        verdict(&longer, &trust, NOW),
        Err(ListError::Malformed(_))
    ));
}

#[test]
fn an_oversized_list_is_refused_before_it_is_read() {
    let mut bytes = signed_by(&[100]);
    bytes.resize(MAX_LIST_LEN + 1, 0);
    assert_eq!(
        verdict(&bytes, &trust(&[100], 1), NOW),
        Err(ListError::TooLarge)
    );
}

#[test]
fn another_version_is_named() {
    let mut bytes = signed_by(&[100]);
    bytes[8] = 2;
    assert_eq!(
        verdict(&bytes, &trust(&[100], 1), NOW),
        Err(ListError::Version(2))
    );
}

#[test]
fn relays_that_are_over_are_skipped_and_the_others_stay() {
    let relays = vec![descriptor(1, NOW + DAY), descriptor(2, NOW + 2 * DAY)];
    let mut draft = Draft::new("test", NOW, NOW + 10 * DAY, relays).unwrap();
    draft.sign(&key(100));
    let bytes = draft.encode().unwrap();
    let read = |now| RelayList::decode_verified(&bytes, &trust(&[100], 1), now).unwrap();
    assert_eq!(
        (read(NOW + DAY - 1).relays().len(), read(NOW).skipped()),
        (2, 0)
    );
    let later = read(NOW + DAY);
    assert_eq!((later.relays().len(), later.skipped()), (1, 1));
    assert!(later.get(&key(1).public()).is_none() && later.get(&key(2).public()).is_some());
    assert_eq!(read(NOW + 2 * DAY).relays().len(), 0);
}

#[test]
fn drafts_that_nobody_would_take_can_not_be_made() {
    let relay = |number| descriptor(number, NOW + DAY);
    let make = |from, until, relays| Draft::new("test", from, until, relays).map(|_| ());
    assert_eq!(make(NOW, NOW, vec![relay(1)]), Err(ListError::Times));
    assert_eq!(
        make(NOW, NOW + 31 * DAY + 1, vec![relay(1)]),
        Err(ListError::Times)
    );
    assert_eq!(
        make(NOW, NOW + DAY, vec![relay(1), relay(2), relay(1)]),
        Err(ListError::Duplicate)
    );
    assert!(matches!(
        make(NOW, NOW + DAY, vec![]),
        Err(ListError::Malformed(_))
    ));
    for name in ["", ".x", "-x", "a b", "ä", "a/b", &"x".repeat(65)] {
        let made = Draft::new(name, NOW, NOW + DAY, vec![relay(1)]);
        assert_eq!(made.map(|_| ()), Err(ListError::NetworkName), "{name:?}");
    }
    let mut bent = relay(1).bytes().to_vec();
    *bent.last_mut().unwrap() ^= 1;
    let forged = Descriptor::decode(&bent).unwrap();
    assert_eq!(make(NOW, NOW + DAY, vec![forged]), Err(ListError::Forged));
    assert_eq!(
        draft().encode(),
        Err(ListError::UnderSigned { have: 0, need: 1 })
    );
}

#[test]
fn an_older_list_does_not_replace_a_newer_one() {
    let make = |network: &str, from| {
        let mut draft =
            Draft::new(network, from, NOW + DAY, vec![descriptor(1, NOW + DAY)]).unwrap();
        draft.sign(&key(100));
        let trust = Trust {
            network: network.to_owned(),
            ..trust(&[100], 1)
        };
        RelayList::decode_verified(&draft.encode().unwrap(), &trust, NOW).unwrap()
    };
    let (old, new) = (make("test", NOW - 10), make("test", NOW));
    assert!(new.replaces(&old) && new.replaces(&new) && !old.replaces(&new));
    assert!(!make("test2", NOW).replaces(&old));
}

#[test]
fn the_order_of_signing_does_not_matter() {
    assert_eq!(signed_by(&[100, 101, 102]), signed_by(&[102, 100, 101]));
    let mut later = Draft::decode(&signed_by(&[100])).unwrap();
    later.sign(&key(101));
    assert_eq!(later.encode().unwrap(), signed_by(&[101, 100]));
}

// The commands.

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: NetworkArgs,
}

#[derive(Parser)]
struct RelayInit {
    #[command(flatten)]
    args: RelayInitArgs,
}

fn network(words: &[&str]) -> Result<String, Error> {
    let mut out = Vec::new();
    let args = Cli::try_parse_from([&["network"], words].concat())
        .unwrap()
        .args;
    run(args, &mut out).map(|()| String::from_utf8(out).unwrap())
}

fn init(words: &[&str]) -> Result<String, Error> {
    let mut out = Vec::new();
    let args = RelayInit::try_parse_from([&["init"], words].concat())
        .unwrap()
        .args;
    relay_init(args, &mut out).map(|()| String::from_utf8(out).unwrap())
}

struct Desk {
    temp: TempDir,
}

impl Desk {
    fn new() -> Self {
        Self {
            temp: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> String {
        self.temp.path().join(name).to_str().unwrap().to_owned()
    }

    fn authority(&self, name: &str) -> String {
        let said = network(&["new-authority", "--state", &self.path(name)]).unwrap();
        let hex = said
            .split_whitespace()
            .find(|word| id_from_hex(word).is_some());
        hex.unwrap().to_owned()
    }

    /// A relay on loopback; gives the path of its descriptor.
    fn relay(&self, number: u8, more: &[&str]) -> String {
        let (state, nickname) = (
            self.path(&format!("relay-{number}")),
            format!("relay-{number}"),
        );
        let listen = format!("127.0.{number}.1:4443");
        let words = [
            "--state",
            &state,
            "--nickname",
            &nickname,
            "--listen",
            &listen,
        ];
        init(&[&words, more].concat()).unwrap();
        format!("{state}/descriptor")
    }

    /// Three relays, two authorities, a list signed by the first.
    fn network(&self, threshold: &str) -> String {
        let (a, b) = (self.authority("a"), self.authority("b"));
        let local = &["--exit", "--policy", "accept tcp 127.0.0.0/8:*"];
        let relays = [
            self.relay(1, &["--guard"]),
            self.relay(2, &[]),
            self.relay(3, local),
        ];
        let (key, out) = (self.path("a"), self.path("relays.list"));
        let words = [
            "sign",
            "--authority",
            &key,
            "--network",
            "test",
            "--out",
            &out,
        ];
        network(&[&words[..], &relays.each_ref().map(String::as_str)].concat()).unwrap();
        let file = self.path("network.toml");
        network(&[
            "file",
            "--name",
            "test",
            "--authority",
            &a,
            "--authority",
            &b,
            "--threshold",
            threshold,
            "--list",
            "relays.list",
            "--ipv4-prefix",
            "24",
            "--out",
            &file,
        ])
        .unwrap();
        file
    }
}

fn report(error: &Error) -> String {
    let mut out = Vec::new();
    error.report(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_network_is_made_signed_cosigned_and_shown() {
    let desk = Desk::new();
    let file = desk.network("2");
    let refused = network(&["verify", &file]).unwrap_err();
    assert_eq!(refused.exit(), Exit::NoNetwork);
    assert!(report(&refused).contains("signed by 1 of the network's authorities, 2 are needed"));

    let said = network(&[
        "cosign",
        "--authority",
        &desk.path("b"),
        "--network",
        "test",
        &desk.path("relays.list"),
    ])
    .unwrap();
    assert!(said.contains("relay-1") && said.contains("3 relays"));

    let said = network(&["verify", &file]).unwrap();
    assert!(
        said.contains("the relay list is good") && said.contains("signed by 2 of 2"),
        "{said}"
    );
    assert!(said.contains("circuits of 3 hops are possible"), "{said}");
    let shown = network(&["show", &file]).unwrap();
    assert!(shown.lines().all(|line| line.len() <= 100), "{shown}");
    assert!(
        shown.contains("127.0.3.1:4443") && shown.contains("tcp 127.0.0.0/8:*"),
        "{shown}"
    );

    let (read, list) = NetworkFile::load(Path::new(&file), unix_now()).unwrap();
    assert_eq!(
        (
            read.rules.ipv4_prefix,
            list.relays().len(),
            list.signed_by()
        ),
        (24, 3, 2)
    );
    assert!(list.relays().iter().all(|relay| relay.verify()));
}

#[test]
fn json_output_has_what_a_program_needs() {
    let desk = Desk::new();
    let file = desk.network("1");
    let shown = network(&["show", "--json", &file]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(json["network"], "test");
    assert_eq!(
        (&json["threshold"], &json["signed_by"]),
        (&1.into(), &1.into())
    );
    let relays = json["relays"].as_array().unwrap();
    assert_eq!(relays.len(), 3);
    let exit = relays
        .iter()
        .find(|relay| relay["nickname"] == "relay-3")
        .unwrap();
    assert_eq!(exit["roles"], serde_json::json!(["exit", "list"]));
    assert_eq!(
        exit["policy"],
        serde_json::json!(["accept tcp 127.0.0.0/8:*"])
    );
    assert_eq!(exit["addresses"], serde_json::json!(["127.0.3.1:4443"]));
    assert!(id_from_hex(exit["identity"].as_str().unwrap()).is_some());
}

#[test]
fn a_network_without_a_path_says_so_when_verified() {
    let desk = Desk::new();
    let file = desk.network("1");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("ipv4_prefix = 24", "ipv4_prefix = 8")).unwrap();
    let said = network(&["verify", &file]).unwrap();
    assert!(
        said.contains("warning: no circuit of 3 hops: every usable guard"),
        "{said}"
    );
}

#[test]
fn keys_are_for_their_owner_alone_and_never_replaced() {
    use std::os::unix::fs::PermissionsExt as _;
    let desk = Desk::new();
    let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let id = desk.authority("a");
    desk.relay(1, &[]);
    for file in ["a/authority.key", "relay-1/relay.keys"] {
        assert_eq!(mode(&desk.path(file)), 0o600);
    }
    assert_eq!(mode(&desk.path("relay-1")), 0o700);
    let again = network(&["new-authority", "--state", &desk.path("a")]).unwrap_err();
    assert!(report(&again).contains("exists already"));
    let file = desk.path("n.toml");
    network(&[
        "file",
        "--name",
        "n",
        "--authority",
        &id,
        "--threshold",
        "1",
        "--list",
        "l",
        "--out",
        &file,
    ])
    .unwrap();
    assert!(fs::read_to_string(&file).unwrap().contains(&id));
}

#[test]
fn a_relay_is_renewed_with_its_keys_and_what_it_was_told_before() {
    let desk = Desk::new();
    let path = desk.relay(
        1,
        &[
            "--guard",
            "--exit",
            "--bandwidth",
            "2M",
            "--family",
            "f",
            "--days",
            "9",
        ],
    );
    let before = Descriptor::decode(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(before.policy, ExitPolicy::public());
    assert_eq!(
        (before.bandwidth, before.expires - before.published),
        (2048, 9 * DAY)
    );
    let said = init(&["--state", &desk.path("relay-1"), "--nickname", "other"]).unwrap();
    assert!(said.starts_with("renewed relay other"), "{said}");
    let after = Descriptor::decode(&fs::read(&path).unwrap()).unwrap();
    assert!(after.verify() && after.identity == before.identity && after.onion == before.onion);
    assert_eq!((after.roles, &after.policy), (before.roles, &before.policy));
    assert_eq!(after.nickname, "other");
    assert_eq!((after.bandwidth, after.family.as_str()), (2048, "f"));
}

#[test]
fn a_relay_that_can_not_be_described_leaves_nothing() {
    let desk = Desk::new();
    let state = desk.path("r");
    for (words, what) in [
        (&["--listen", "127.0.0.1:1"][..], "--nickname"),
        (&["--nickname", "r"], "--listen"),
        (&["--nickname", "r", "--listen", "0.0.0.0:1"], "--address"),
        (
            &["--nickname", "r r", "--listen", "127.0.0.1:1"],
            "nickname",
        ),
        (
            &[
                "--nickname",
                "r",
                "--listen",
                "127.0.0.1:1",
                "--exit",
                "--policy",
                "accept x *:1",
            ],
            "protocol",
        ),
    ] {
        let error = init(&[&["--state", &state], words].concat()).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        assert!(report(&error).contains(what), "{what}: {}", report(&error));
        for file in ["relay.keys", "descriptor", "relay.toml"] {
            assert!(!Path::new(&state).join(file).exists(), "{file}");
        }
    }
}

#[test]
fn policies_that_reach_inside_are_warned_about() {
    let desk = Desk::new();
    let mut number = 0;
    let mut said = |policy: &[&str]| {
        number += 1;
        let (state, nickname) = (desk.path(&format!("p{number}")), "r");
        let mut words = vec![
            "--state",
            &state,
            "--nickname",
            nickname,
            "--listen",
            "127.0.0.1:1",
            "--exit",
        ];
        policy
            .iter()
            .for_each(|rule| words.extend(["--policy", rule]));
        init(&words).unwrap()
    };
    assert!(said(&["accept tcp 127.0.0.0/8:1000"]).contains("warning: this policy lets strangers"));
    assert!(said(&["accept * *:*"]).contains("warning: this policy lets strangers"));
    assert!(!said(&["public"]).contains("warning"));
    assert!(!said(&[]).contains("warning"));
    assert!(said(&["reject * *:*"]).contains("warning: the relay is an exit, but"));
}

#[test]
fn authorities_do_not_sign_what_they_should_not() {
    let desk = Desk::new();
    let file = desk.network("1");
    let list = desk.path("relays.list");
    let cosign = |network_name: &str, list: &str| {
        network(&[
            "cosign",
            "--authority",
            &desk.path("b"),
            "--network",
            network_name,
            list,
        ])
    };
    let before = fs::read(&list).unwrap();
    assert!(report(&cosign("test2", &list).unwrap_err()).contains("another network"));
    let bent = desk.path("bent.list");
    let mut bytes = before.clone();
    bytes[100] ^= 1;
    fs::write(&bent, bytes).unwrap();
    assert!(cosign("test", &bent).is_err());
    let missing = network(&[
        "cosign",
        "--authority",
        &desk.path("none"),
        "--network",
        "test",
        &list,
    ]);
    assert!(missing.is_err() && !Path::new(&desk.path("none")).exists());
    assert_eq!(fs::read(&list).unwrap(), before);

    // Sign: a descriptor that somebody changed, one twice, and no descriptor at all.
    let sign = |descriptors: &[&str]| {
        let (key, out) = (desk.path("a"), desk.path("other.list"));
        let words = [
            "sign",
            "--authority",
            &key,
            "--network",
            "test",
            "--out",
            &out,
        ];
        network(&[&words[..], descriptors].concat())
    };
    let (one, changed) = (desk.path("relay-1/descriptor"), desk.path("changed"));
    let mut bytes = fs::read(&one).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&changed, bytes).unwrap();
    assert!(report(&sign(&[&one, &changed]).unwrap_err()).contains("its relay did not sign it"));
    assert!(report(&sign(&[&one, &one]).unwrap_err()).contains("twice"));
    assert!(report(&sign(&[&file]).unwrap_err()).contains("can't be read"));
    assert!(!PathBuf::from(desk.path("other.list")).exists());
}

#[test]
fn authorities_do_not_sign_what_has_expired() {
    let desk = Desk::new();
    desk.authority("a");
    let mut info = descriptor(1, NOW + DAY).info().clone();
    (info.published, info.expires) = (1000, 2000);
    let (old, out, list) = (
        desk.path("old"),
        desk.path("out.list"),
        desk.path("old.list"),
    );
    fs::write(&old, info.sign(&key(1)).unwrap().bytes()).unwrap();
    let key_folder = desk.path("a");
    let words = [
        "--authority",
        &key_folder,
        "--network",
        "test",
        "--out",
        &out,
    ];
    let error = network(&[&["sign"], &words[..], &[&old]].concat()).unwrap_err();
    assert!(report(&error).contains("has expired") && report(&error).contains("relay-keys"));

    let mut draft = Draft::new("test", 1000, 2000, vec![descriptor(1, NOW + DAY)]).unwrap();
    draft.sign(&key(100));
    fs::write(&list, draft.encode().unwrap()).unwrap();
    let error = network(&[&["cosign"], &words[..], &[&list]].concat()).unwrap_err();
    assert!(report(&error).contains("has expired"));
    assert!(!Path::new(&out).exists());
}

#[test]
fn network_files_that_could_not_be_read_are_not_written() {
    let desk = Desk::new();
    let (id, out) = (desk.authority("a"), desk.path("n.toml"));
    let make = |name: &str, threshold: &str, prefix: &str| {
        network(&[
            "file",
            "--name",
            name,
            "--authority",
            &id,
            "--threshold",
            threshold,
            "--list",
            "l",
            "--ipv4-prefix",
            prefix,
            "--out",
            &out,
        ])
    };
    for (name, threshold, prefix, what) in [
        ("a b", "1", "16", "the name of a network"),
        ("n", "2", "16", "threshold must be 1 to 1"),
        ("n", "0", "16", "threshold must be 1 to 1"),
        ("n", "1", "33", "ipv4_prefix must be 0 to 32"),
    ] {
        let error = make(name, threshold, prefix).unwrap_err();
        assert!(report(&error).contains(what), "{}", report(&error));
        assert!(!Path::new(&out).exists());
    }
    make("n", "1", "0").unwrap();
    assert_eq!(
        NetworkFile::load_file(Path::new(&out))
            .unwrap()
            .rules
            .ipv4_prefix,
        0
    );
}

#[test]
fn a_list_of_the_most_relays_is_taken_and_one_more_is_refused() {
    let relay = |number: usize| {
        let mut seed = [9; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        let key = IdentityKey::from_seed(seed);
        let mut info = descriptor(1, NOW + DAY).info().clone();
        info.identity = key.public();
        info.policy = ExitPolicy::public();
        info.sign(&key).unwrap()
    };
    let mut relays: Vec<Descriptor> = (0..MAX_RELAYS).map(relay).collect();
    let mut draft = Draft::new("test", NOW, NOW + DAY, relays.clone()).unwrap();
    draft.sign(&key(100));
    let bytes = draft.encode().unwrap();
    assert!(bytes.len() <= MAX_LIST_LEN);
    let list = RelayList::decode_verified(&bytes, &trust(&[100], 1), NOW).unwrap();
    let ids: Vec<RelayId> = list.relays().iter().map(|relay| relay.identity).collect();
    assert!(ids.len() == MAX_RELAYS && ids.is_sorted());
    relays.push(relay(MAX_RELAYS));
    let more = Draft::new("test", NOW, NOW + DAY, relays);
    assert_eq!(more.map(|_| ()), Err(ListError::TooLarge));
}
