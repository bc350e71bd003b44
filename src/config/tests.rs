#![allow(clippy::unwrap_used)]

use hushswarm_circuits::relay_list::{DescriptorError, Proto, RelayInfo};
use hushswarm_circuits::target::Target;
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
fn a_relay_looks_up_in_the_dht_where_its_file_has_a_section_for_it() {
    let base = "nickname = 'r'\nlisten = ['127.0.0.1:1']\nexit = true\n";
    let read = |more: &str| relay(&format!("{base}{more}"));
    assert!(!info(&read("").unwrap(), 0).unwrap().roles.dht);
    let usual = read("[dht]\n").unwrap();
    assert_eq!(usual.dht, Some(RelayDht::default()));
    assert!(usual.roles.dht && info(&usual, 0).unwrap().roles.dht);
    let own = "[dht]\nbootstrap = ['192.0.2.1:1', 'a.example:2', '[2001:db8::1]:3']\n[dht.limits]\nlookups = 7\n";
    let own = read(own).unwrap();
    assert_eq!(relay(&own.to_toml().unwrap()), Ok(own.clone()));
    let dht = own.dht.clone().unwrap();
    assert_eq!((dht.bootstrap.len(), dht.limits.lookups.get()), (3, 7));
    assert!(!format!("{dht:?} {own:?}").contains("example"));
    let not_an_exit = RelayConfig {
        roles: Default::default(),
        ..own
    };
    assert!(!info(&not_an_exit, 0).unwrap().roles.dht);
}

#[test]
fn a_relay_introduces_where_its_file_says_so() {
    let base = "nickname = 'r'\nlisten = ['127.0.0.1:1']\n";
    let read = |more: &str| relay(&format!("{base}{more}"));
    let none = read("").unwrap();
    assert!(!info(&none, 0).unwrap().roles.introduce);
    assert!(!none.to_toml().unwrap().contains("introductions"));
    let usual = read("introduce = true\n").unwrap();
    assert!(info(&usual, 0).unwrap().roles.introduce);
    assert_eq!(usual.introductions, MeetingLimits::default());
    assert_eq!(relay(&usual.to_toml().unwrap()), Ok(usual));
    let own = "introduce = true\n[introductions]\nrendezvous_points = 7\nintroductions_per_second_per_key = 1\n";
    let own = read(own).unwrap();
    assert_eq!(own.introductions.rendezvous_points.get(), 7);
    assert_eq!(relay(&own.to_toml().unwrap()), Ok(own));
    for wrong in [
        "[introductions]\nrendezvous_points = 0\n",
        "[introductions]\npoints = 1\n",
        "introduce = 1\n",
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
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
        ("[dht]\n", "line 3", "only an exit looks up"),
        (
            "exit = true\n[dht]\nbootstrap = []\n",
            "relay.toml",
            "from 1 to 16 nodes",
        ),
        (
            "exit = true\n[dht]\nbootstrap = [\n'192.0.2.1:1',\n'here']\n",
            "line 7",
            "\"host:port\"",
        ),
        (
            "exit = true\n[dht.limits]\nlookups = 0\n",
            "line 5",
            "nonzero",
        ),
        ("exit = true\n[dht]\nboot = 1\n", "line 5", "unknown field"),
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

fn routes(text: &str) -> Result<Routes, String> {
    Routes::parse(text, Path::new("routes.toml")).map_err(|error| error.to_string())
}

#[test]
fn wrong_routes_files_say_where_and_what() {
    let rule = |entries: &str| format!("# comment\n[[rule]]\naction = 'circuit'\n{entries}\n");
    let table = [
        ("default = 'direct'", 1, "no way around"),
        ("\ndefault = 7", 2, "expected a string"),
        ("defualt = 'refuse'", 1, "unknown field `defualt`"),
        ("refuse_ports = 70000", 1, "a port is a number"),
        ("refuse_ports = ['25-']", 1, "a port is a number"),
        ("refuse_ports = [0]", 1, "a port is a number"),
        ("refuse_ports = [[1]]", 1, "a port is a number"),
        ("refuse_ports = ['9-8']", 1, "a port is a number"),
        ("refuse_ports = ['+25']", 1, "a port is a number"),
        ("refuse_ports = [2.5]", 1, "a port is a number"),
        ("rule = 'x'", 1, "sequence"),
        ("[[rule]]\nhost = 'a.example'", 1, "missing field `action`"),
        ("[[rule]]\nhots = 'a.example'", 2, "unknown field `hots`"),
        (&rule(""), 2, "needs a host, a port or a proto"),
        (&rule("host = 7"), 4, "host is a text"),
        (&rule("host = []"), 4, "host is a text"),
        (&rule("host = ['a.example', 1]"), 4, "host is a text"),
        (&rule("host = ''"), 4, "a host is a name"),
        (&rule("host = 'a..example'"), 4, "a host is a name"),
        (&rule("host = '.example'"), 4, "a host is a name"),
        (&rule("host = 'a.*.example'"), 4, "a host is a name"),
        (&rule("host = '*example.org'"), 4, "a host is a name"),
        (&rule("host = 'b\u{fc}cher.example'"), 4, "xn--"),
        (
            &rule("host = 'http://a.example'"),
            4,
            "a network is written",
        ),
        (
            &rule("host = '10.1.2.3/8'"),
            4,
            "after the network's prefix",
        ),
        (&rule("host = '10.0.0.0/33'"), 4, "0 to 32"),
        (&rule("host = '::/+1'"), 4, "0 to 128"),
        (&rule("host = 'x.onion'"), 4, "never go through circuits"),
        (
            &rule("host = ['a', '*.ONION.']"),
            4,
            "never go through circuits",
        ),
        (&rule("port = []"), 4, "names no port"),
        (&rule("port = '80,443'"), 4, "a port is a number"),
        (&rule("port = 80\nproto = 'TCP'"), 5, "proto is"),
        (&rule("port = 80\nhops = 0"), 5, "1 to 3"),
        (&rule("port = 80\nhops = 4"), 5, "1 to 3"),
        (&rule("port = 80\nhops = 257"), 5, "1 to 3"),
        (
            "[[rule]]\nport = 1\naction = 'refuse'\nhops = 2",
            4,
            "only circuits",
        ),
        ("[[rule]]\nport = 1\naction = 'bypass'", 3, "no way around"),
        ("[dht]\nbootstrap = []", 2, "\"host:port\""),
        ("[dht]\nbootstrap = ['a.example']", 2, "\"host:port\""),
        ("[dht]\nbootstrap = ['a.example:0']", 2, "\"host:port\""),
        ("[dht]\nbootstrap = 'a.example:1'", 2, "expected a sequence"),
        ("[dht]\nat_once = 0", 2, "nonzero"),
        ("[dht]\nat_once = 257", 2, "at most 256"),
        ("[dht]\nwaiting = 1000001", 2, "at most 1000000"),
        ("[dht]\nrate = 1", 2, "unknown field `rate`"),
    ];
    for (text, line, what) in table {
        let shown = routes(text).unwrap_err();
        let place = format!("routes.toml, line {line}: ");
        assert!(shown.starts_with(&place), "{text}: {shown}");
        assert!(shown.contains(what), "{text}: {shown}");
        assert_eq!(shown.lines().count(), 1, "{shown}");
    }
}

#[test]
fn what_a_routes_file_says_of_the_dht_holds() {
    let usual = routes("").unwrap().dht;
    assert_eq!(usual, LookupConfig::default());
    assert!(!usual.off && usual.bootstrap.is_none());
    let text = "[dht]\nlookups = false\nbootstrap = ['a.example:6881', '[2001:db8::1]:1', '192.0.2.1:65535']\n\
        at_once = 2\nper_minute = 3\nqueries_per_second = 4\nwaiting = 5\n";
    let read = routes(text).unwrap().dht;
    assert!(read.off);
    let limits = &read.limits;
    let numbers = [
        limits.at_once,
        limits.per_minute,
        limits.queries_per_second,
        limits.waiting,
    ];
    assert_eq!(numbers.map(|number| number.get()), [2, 3, 4, 5]);
    let nodes = read.bootstrap.as_ref().unwrap();
    let named = ["a.example", "2001:db8::1", "192.0.2.1"];
    for ((node, name), port) in nodes.iter().zip(named).zip([6881, 1, 65_535]) {
        assert_eq!(*node, Target::parse(name, port).unwrap());
    }
    assert_eq!(nodes.len(), 3);
    assert!(!format!("{read:?}").contains("example"));
}

/// Errors of a file that is read again go to a service's log.
#[test]
fn errors_in_routes_do_not_repeat_hosts() {
    for text in [
        "rule = 'secret.example'",
        "rule = ['secret.example']",
        "[[rule]]\nport = 1\naction = 'secret.example'",
        "[[rule]]\nhost = 'secret..example'\naction = 'refuse'",
        "[[rule]]\nhost = 'secret.example/24'\naction = 'refuse'",
        "[[rule]]\nport = 1\naction = 'circuit'\nhops = 'secret.example'",
        "default = ['secret.example']",
        "[[rule]]\nport = 'secret.example'\naction = 'refuse'",
    ] {
        let shown = routes(text).unwrap_err();
        assert!(!shown.contains("secret"), "{shown}");
    }
}

#[test]
fn hosts_and_ports_are_read_in_every_spelling() {
    let read = |host: &str| {
        let text = format!("[[rule]]\nhost = {host}\naction = 'refuse'\n");
        routes(&text).unwrap().rules.remove(0).hosts
    };
    let net = |ip: &str, prefix| {
        let net = hushswarm_circuits::relay_list::Net::new(ip.parse().unwrap(), prefix);
        HostPattern::Net(net.unwrap())
    };
    let name = |name: &str| HostPattern::Name(name.to_owned());
    assert!(read("'*'") == [HostPattern::Any]);
    assert!(read("'A.Example.'") == [name("a.example")]);
    assert!(read("'*.A.Example.'") == [HostPattern::Below("a.example".to_owned())]);
    assert!(read("['8.8.8.8', '9.0.0.0/8']") == [net("8.8.8.8", 32), net("9.0.0.0", 8)]);
    assert!(read("['2606::/16', '[2606::1]']") == [net("2606::", 16), net("2606::1", 128)]);
    // Targets are judged in their IPv4 form, so rules are kept in it.
    assert!(read("'::ffff:9.0.0.0/104'") == [net("9.0.0.0", 8)]);
    assert!(read("'::/0'") == [net("::", 0)]);
    let text = "refuse_ports = []\n[[rule]]\nport = [80, '443', '1 - 3']\naction = 'refuse'\n";
    let routes = routes(text).unwrap();
    assert_eq!(routes.rules[0].ports, [80..=80, 443..=443, 1..=3]);
    assert!(routes.refuse_ports.is_empty());
    assert_eq!(routes.default, RouteAction::Circuit { hops: None });
}

#[test]
fn routes_files_are_bounded() {
    let rule = "[[rule]]\nport = 1\naction = 'refuse'\n";
    assert!(routes(&rule.repeat(MAX_ROUTE_RULES)).is_ok());
    let error = routes(&rule.repeat(MAX_ROUTE_RULES + 1)).unwrap_err();
    assert!(error.contains("more than 1000 rules"), "{error}");
    let hosts = "'a.example',".repeat(MAX_ROUTE_PATTERNS);
    let error = routes(&format!("[[rule]]\nhost = [{hosts}]\naction = 'refuse'\n")).unwrap_err();
    assert!(error.contains("more than 4000 hosts"), "{error}");
}

#[test]
fn a_routes_file_that_was_named_must_be_there() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("routes.toml");
    let error = Routes::load(Some(&path)).unwrap_err();
    assert_eq!(error.exit(), Exit::Disk);
    std::fs::write(&path, "default = 'refuse'\n").unwrap();
    let (routes, from) = Routes::load(Some(&path)).unwrap();
    assert_eq!((routes.default, from), (RouteAction::Refuse, Some(path)));
}

proptest! {
    #[test]
    fn no_text_makes_the_routes_file_panic(text in "\\PC{0,200}") {
        let _ = routes(&text);
    }

    #[test]
    fn no_entry_makes_the_routes_file_panic(
        entry in prop::sample::select(vec!["host", "port", "proto", "action", "hops"]),
        value in "\\PC{0,20}|'[0-9a-fA-F:./*-]{0,20}'|-?[0-9]{1,20}|\\[('[0-9*./-]{0,9}',|[0-9]{1,6},){0,3}\\]",
    ) {
        let _ = routes(&format!("[[rule]]\naction = 'circuit'\nport = 1\n{entry} = {value}\n"));
        let _ = routes(&format!("refuse_ports = {value}\n"));
    }
}
