//! The commands that look at a network: `verify` and `show`.

use std::sync::Arc;

use hushswarm_circuits::keys::{RelayId, Suite};
use hushswarm_circuits::path::{ExitNeed, PathNeeds, choose};
use hushswarm_circuits::relay_list::{Descriptor, Proto, RelayList, Roles};
use serde_json::json;

use super::{ShowArgs, VerifyArgs};
use crate::cli::table::{Side, cut, date, rate, table, until, until_narrow};
use crate::config::{NetworkFile, id_to_hex, unix_now};
use crate::error::{Error, Kind};
use crate::onion::OnionKey;

/// Widest exit policy in a table: with all else at its usual width a line has 100 columns.
const EXIT_WIDTH: usize = 18;

pub(super) fn verify(args: &VerifyArgs) -> Result<String, Error> {
    let now = unix_now();
    let (file, list) = NetworkFile::load(&args.file, now)?;
    let mut text = format!("the relay list is good\n{}", header(&file, &list, now));
    for hops in [2, 3] {
        text.push_str(&match path_is_possible(&file, &list, hops) {
            Ok(()) => format!("circuits of {hops} hops are possible\n"),
            Err(error) => format!("warning: no circuit of {hops} hops: {error}\n"),
        });
    }
    Ok(text)
}

pub(super) fn show(args: &ShowArgs) -> Result<String, Error> {
    let now = unix_now();
    let (file, list) = NetworkFile::load(&args.file, now)?;
    if args.json {
        return as_json(&file, &list);
    }
    Ok(format!(
        "{}\n{}",
        header(&file, &list, now),
        relay_table(list.relays(), now)
    ))
}

pub(super) fn header(file: &NetworkFile, list: &RelayList, now: u64) -> String {
    let relays = list.relays();
    let count = |role: fn(Roles) -> bool| relays.iter().filter(|relay| role(relay.roles)).count();
    let skipped = match list.skipped() {
        0 => String::new(),
        skipped => format!(" ({skipped} more are over)"),
    };
    let dht = match count(|roles| roles.exit && roles.dht) {
        0 => String::new(),
        some => format!(", {some} of them with DHT lookups"),
    };
    format!(
        "network {}: {} relays{skipped}, {} guards, {} exits{dht}\n\
         valid until {} (for {}), signed by {} of {} authorities, {} needed\n",
        list.network(),
        relays.len(),
        count(|roles| roles.guard),
        count(|roles| roles.exit),
        date(list.valid_until()),
        until(list.valid_until(), now),
        list.signed_by(),
        file.authorities.len(),
        file.threshold,
    )
}

/// Whether a client could build a circuit to some exit, starting at any guard of the list.
fn path_is_possible(file: &NetworkFile, list: &RelayList, hops: usize) -> Result<(), String> {
    let guards = list.relays().iter().filter(|relay| relay.roles.guard);
    let guards: Vec<RelayId> = guards.map(|relay| relay.identity).collect();
    let mut reason = "no relay is an exit that accepts anything".to_owned();
    for exit in list.relays().iter().filter_map(|relay| a_target_of(relay)) {
        let needs = PathNeeds {
            hops,
            exit,
            avoid: Vec::new(),
            not_last: Vec::new(),
            middles: None,
        };
        match choose(list, &guards, &needs, &file.rules, &mut rand::rng()) {
            Ok(_) => return Ok(()),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}

/// A target by name that this relay may accept, if it is an exit.
fn a_target_of(relay: &Descriptor) -> Option<ExitNeed> {
    let rules = if relay.roles.exit {
        relay.policy.rules()
    } else {
        &[]
    };
    [Proto::Tcp, Proto::Udp].into_iter().find_map(|proto| {
        rules
            .iter()
            .map(|rule| rule.first_port)
            .find(|&port| relay.policy.may_allow_port(proto, port))
            .map(|port| ExitNeed::Target {
                proto,
                ip: None,
                port,
            })
    })
}

/// Relays as a table, ascending by nickname.
pub(super) fn relay_table(relays: &[Arc<Descriptor>], now: u64) -> String {
    let mut relays: Vec<_> = relays.iter().collect();
    relays.sort_by(|a, b| (&a.nickname, a.identity).cmp(&(&b.nickname, b.identity)));
    let rows: Vec<_> = relays
        .into_iter()
        .map(|relay| {
            [
                relay.nickname.clone(),
                id_to_hex(&relay.identity).chars().take(8).collect(),
                roles_as_letters(relay.roles),
                suite_name(relay.suite).to_owned(),
                rate(relay.bandwidth),
                addresses(relay),
                cut(&exit_summary(relay), EXIT_WIDTH),
                until_narrow(relay.expires, now),
            ]
        })
        .collect();
    let header = [
        ("RELAY", Side::Left),
        ("ID", Side::Left),
        ("ROLES", Side::Left),
        ("SUITE", Side::Left),
        ("BANDWIDTH", Side::Right),
        ("ADDRESS", Side::Left),
        ("EXIT", Side::Left),
        ("EXPIRES", Side::Right),
    ];
    table(header, &rows)
}

fn addresses(relay: &Descriptor) -> String {
    match relay.addresses.as_slice() {
        [] => String::new(),
        [only] => only.to_string(),
        [first, more @ ..] => format!("{first} +{}", more.len()),
    }
}

fn exit_summary(relay: &Descriptor) -> String {
    if relay.roles.exit {
        relay.policy.summary()
    } else {
        "-".to_owned()
    }
}

fn suite_name(suite: Suite) -> &'static str {
    match suite {
        Suite::Aes256Gcm => "aes",
        Suite::ChaCha20Poly1305 => "chacha",
    }
}

fn role_names(roles: Roles) -> Vec<&'static str> {
    [
        (roles.guard, "guard"),
        (roles.exit, "exit"),
        (roles.list, "list"),
        (roles.dht, "dht"),
        (roles.introduce, "introduce"),
    ]
    .into_iter()
    .filter_map(|(has, name)| has.then_some(name))
    .collect()
}

/// `guard, exit`; every relay can be a middle, so that is what one without roles is.
pub(super) fn roles_in_words(roles: Roles) -> String {
    match role_names(roles).as_slice() {
        [] => "middle".to_owned(),
        names => names.join(", "),
    }
}

fn roles_as_letters(roles: Roles) -> String {
    [
        (roles.guard, 'G'),
        (roles.exit, 'E'),
        (roles.list, 'L'),
        (roles.dht, 'D'),
        (roles.introduce, 'I'),
    ]
    .map(|(has, letter)| if has { letter } else { '-' })
    .iter()
    .collect()
}

fn as_json(file: &NetworkFile, list: &RelayList) -> Result<String, Error> {
    let relays: Vec<_> = list
        .relays()
        .iter()
        .map(|relay| {
            json!({
                "nickname": relay.nickname,
                "identity": id_to_hex(&relay.identity),
                "roles": role_names(relay.roles),
                "suite": suite_name(relay.suite),
                "bandwidth_kib": relay.bandwidth,
                "addresses": relay.addresses,
                "onion": relay.link_service.map(|service| OnionKey(service.key).address()),
                "family": relay.family,
                "policy": relay.policy.to_texts(),
                "published": relay.published,
                "expires": relay.expires,
            })
        })
        .collect();
    let whole = json!({
        "network": list.network(),
        "valid_from": list.valid_from(),
        "valid_until": list.valid_until(),
        "authorities": file.authorities.iter().map(id_to_hex).collect::<Vec<_>>(),
        "threshold": file.threshold,
        "signed_by": list.signed_by(),
        "expired_relays": list.skipped(),
        "relays": relays,
    });
    serde_json::to_string_pretty(&whole)
        .map(|text| text + "\n")
        .map_err(|error| Error::new(Kind::Bug, "can't write JSON").with_source(error))
}
