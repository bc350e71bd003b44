#![allow(clippy::unwrap_used)]

use hushswarm_circuits::relay_list::{DescriptorError, Proto, RelayInfo};
use proptest::prelude::*;

use super::*;
use crate::error::Exit;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "BBBBbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn network(text: &str) -> Result<NetworkFile, String> {
    let text = text.replace("$A", A).replace("$B", B);
    NetworkFile::parse(&text, Path::new("net.toml")).map_err(|error| error.to_string())
}

const GOOD: &str =
    "name = 'test'\nauthorities = [\n  '$A',\n  '$B',\n]\nthreshold = 2\nlist = 'relays.list'\n";

#[test]
fn a_network_file_is_read_and_written_back() {
    let file = network(GOOD).unwrap();
    assert_eq!(
        (file.name.as_str(), file.threshold, file.authorities.len()),
        ("test", 2, 2)
    );
    assert_eq!((file.rules.ipv4_prefix, file.rules.ipv6_prefix), (16, 32));
    assert_eq!(network(&file.to_toml().unwrap()), Ok(file));
    let unusual = network(&format!("{GOOD}ipv4_prefix = 0\nipv6_prefix = 48\n")).unwrap();
    assert_eq!(
        (unusual.rules.ipv4_prefix, unusual.rules.ipv6_prefix),
        (0, 48)
    );
    assert_eq!(network(&unusual.to_toml().unwrap()), Ok(unusual));
}

#[test]
fn wrong_network_files_say_where_and_what() {
    let change = |from: &str, to: &str| network(&GOOD.replace(from, to)).unwrap_err();
    let table = [
        (change("'test'", "'.test'"), "line 1", "letter or digit"),
        (change("'test'", "7"), "line 1", "string"),
        (change("$B", "zz"), "line 4", "64 hexadecimal digits"),
        (change("$B", "$A"), "line 4", "twice"),
        (change("= 2", "= 0"), "line 6", "1 to 2"),
        (change("= 2", "= 3"), "line 6", "1 to 2"),
        (change("= 2", "= -1"), "line 6", "usize"),
        (change("relays.list", ""), "line 7", "list"),
        (
            change("threshold", "treshold"),
            "line 6",
            "unknown field `treshold`",
        ),
        (
            change("list = 'relays.list'", ""),
            "line 1",
            "missing field `list`",
        ),
        (
            change("[\n  '$A',\n  '$B',\n]", "[]"),
            "line 2",
            "1 to 32 authorities",
        ),
        (change("= 2", "= 2\nipv4_prefix = 33"), "line 7", "0 to 32"),
        (
            change("= 2", "= 2\nipv6_prefix = 129"),
            "line 7",
            "0 to 128",
        ),
        (change("= 2", "= = 2"), "line 6", "extra `=`"),
    ];
    for (shown, place, what) in table {
        assert!(
            shown.starts_with(&format!("net.toml, {place}: ")),
            "{place}: {shown}"
        );
        assert!(shown.contains(what), "{what}: {shown}");
        assert_eq!(shown.lines().count(), 1, "{shown}");
    }
}

#[test]
fn a_missing_network_file_or_list_says_what_to_do() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("net.toml");
    let error = NetworkFile::load(&path, 0).unwrap_err();
    assert_eq!(error.exit(), Exit::NoNetwork);
    assert!(error.hint().unwrap().contains("hushswarm network file"));
    std::fs::write(&path, GOOD.replace("$A", A).replace("$B", B)).unwrap();
    let error = NetworkFile::load(&path, 0).unwrap_err();
    assert_eq!(error.exit(), Exit::NoNetwork);
    // The list is looked for beside the network file.
    assert!(
        error
            .to_string()
            .contains(temp.path().join("relays.list").to_str().unwrap())
    );
    std::fs::write(temp.path().join("relays.list"), b"nonsense").unwrap();
    let error = NetworkFile::load(&path, 0).unwrap_err();
    assert_eq!(error.exit(), Exit::NoNetwork);
    let mut shown = Vec::new();
    error.report(&mut shown).unwrap();
    assert!(
        String::from_utf8(shown)
            .unwrap()
            .contains("is refused: the relay list is broken")
    );
}

#[test]
fn large_or_binary_network_files_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("net.toml");
    for content in [vec![b' '; (64 << 10) + 1], vec![0xff; 10]] {
        std::fs::write(&path, content).unwrap();
        assert_eq!(
            NetworkFile::load_file(&path).unwrap_err().exit(),
            Exit::NoNetwork
        );
    }
}

fn relay(text: &str) -> Result<RelayConfig, String> {
    RelayConfig::parse(text, Path::new("relay.toml")).map_err(|error| error.to_string())
}

fn info(config: &RelayConfig, now: u64) -> Result<RelayInfo, DescriptorError> {
    config.info(RelayId([1; 32]), [2; 32], [3; 32], now)
}

#[test]
fn a_relay_is_closed_unless_told_otherwise() {
    let config = relay("nickname = 'r'\nlisten = ['127.0.0.1:4443']\n").unwrap();
    assert_eq!(
        config,
        RelayConfig::new("r".to_owned(), config.listen.clone())
    );
    assert!(!config.roles.guard && !config.roles.exit && config.roles.list);
    let info = info(&config, 1000).unwrap();
    assert!(info.policy.rejects_everything());
    assert_eq!((info.published, info.expires), (1000, 1000 + 180 * 86_400));
    assert_eq!(info.addresses, config.listen);
}

#[test]
fn a_relays_configuration_is_read_and_written_back() {
    let text = "nickname = 'r'\nlisten = ['0.0.0.0:4443', '[::]:4443']\naddresses = ['198.51.100.1:443']\n\
                guard = true\nexit = true\nserve_list = false\nfamily = 'f'\nbandwidth = 7\ndays = 30\n\
                policy = ['accept tcp 127.0.0.0/8:1-65535', 'public']\n[limits]\nlinks = 5\n";
    let config = relay(text).unwrap();
    assert_eq!(relay(&config.to_toml().unwrap()), Ok(config.clone()));
    assert_eq!(
        (config.limits.links.get(), config.limits.circuits.get()),
        (5, 16_384)
    );
    let descriptor = info(&config, 0).unwrap();
    assert_eq!(descriptor.addresses, config.addresses);
    assert!(
        descriptor
            .policy
            .allows(Proto::Tcp, "127.0.0.1".parse().unwrap(), 80)
    );
    let not_an_exit = RelayConfig {
        roles: Default::default(),
        ..config
    };
    assert!(info(&not_an_exit, 0).unwrap().policy.rejects_everything());
}

#[test]
fn debug_output_shows_no_address() {
    let config = relay("nickname = 'r'\nlisten = ['198.51.100.77:4443']\n").unwrap();
    let shown = format!("{config:?}");
    assert!(shown.contains("\"r\"") && !shown.contains("198.51") && !shown.contains("4443"));
}

#[test]
fn wrong_relay_configurations_say_where_and_what() {
    let base = "nickname = 'r'\nlisten = ['127.0.0.1:1']\n";
    let table = [
        (
            "policy = [\n 'reject * *:25',\n 'accept icmp *:*',\n]\n",
            "line 5",
            "the protocol of a rule",
        ),
        (
            "policy = ['public', 'public', 'public']\n",
            "relay.toml",
            "at most 64 rules",
        ),
        ("[limits]\nlinks = 0\n", "line 4", "nonzero"),
        ("[limits]\nlink = 1\n", "line 4", "unknown field `link`"),
        ("nick = 'r'\n", "line 3", "unknown field `nick`"),
        ("addresses = ['localhost:1']\n", "line 3", "socket address"),
        ("bandwidth = -1\n", "line 3", "u32"),
    ];
    for (more, place, what) in table {
        let shown = relay(&format!("{base}{more}")).unwrap_err();
        assert!(
            shown.contains(place) && shown.contains(what),
            "{place}, {what}: {shown}"
        );
    }
    assert!(
        relay("nickname = 'r'\nlisten = []\n")
            .unwrap_err()
            .contains("line 2")
    );
    for days in [0, 401, u32::MAX] {
        let config = RelayConfig {
            days,
            ..relay(base).unwrap()
        };
        assert!(info(&config, 0).is_err(), "{days} days");
    }
    for days in [1, 400] {
        let config = RelayConfig {
            days,
            ..relay(base).unwrap()
        };
        assert!(info(&config, 0).is_ok(), "{days} days");
    }
}

proptest! {
    #[test]
    fn reading_never_panics(text in "(name|list|nickname|listen|policy|[a-z=\\[\\]'\" \n0-9.:]|\\PC){0,60}") {
        let _ = network(&text);
        let _ = relay(&text);
    }

    #[test]
    fn keys_read_back_from_either_case(bytes: [u8; 32]) {
        let hex = id_to_hex(&RelayId(bytes));
        prop_assert_eq!(id_from_hex(&hex), Some(RelayId(bytes)));
        prop_assert_eq!(id_from_hex(&hex.to_uppercase()), Some(RelayId(bytes)));
        prop_assert_eq!(id_from_hex(&hex[1..]), None);
    }
}
